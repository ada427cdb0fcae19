# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/judges.md, from the rows that were measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from .measure import Row

__all__ = ["false_natives", "one", "page"]

PORTER = ("accelerator", "cpu", "refused", "unknown")
COMPILER = ("accelerator", "cpu", "refused", "wrong")
TITLES = {
    "accelerator": "accelerator",
    "cpu": "host CPU",
    "refused": "refused",
    "unknown": "not known",
    "wrong": "wrong numbers",
}


def false_natives(rows: Iterable[Row]) -> list[Row]:
    """Rows that porter puts on the accelerator, and the compiler refuses or leaves to the CPU."""
    return [row for row in rows if row.porter == "accelerator" and row.compiler in ("refused", "cpu")]


def _share(rows: Sequence[Row]) -> str:
    judged = [row for row in rows if not row.documented]
    return f"{sum(row.agrees for row in judged) / len(judged):.1%} of {len(judged)}" if judged else "-"


def one(name: str, versions: Mapping[str, str], rows: Sequence[Row]) -> str:
    """One line of a target."""
    said = ", ".join(f"{package} {version}" for package, version in versions.items())
    return (
        f"{name} ({said}): agreement {_share(rows)}, {len(false_natives(rows))} native that the compiler does not take"
    )


def page(judged: Mapping[str, tuple[Mapping[str, str], Sequence[Row]]]) -> str:
    """Everything: a summary, then for each target its confusion table, its disagreements and its whole models."""
    lines = [
        "| target | toolchain | all | ops | held-out ops | whole models | native, and refused or left to the CPU "
        "| native, and wrong numbers | refused by the manual alone |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (versions, rows) in judged.items():
        groups = [[row for row in rows if row.group == group] for group in ("op", "held out", "model")]
        said = ", ".join(f"{package} {version}" for package, version in versions.items())
        wrong = sum((row.porter, row.compiler) == ("accelerator", "wrong") for row in rows)
        counts = len(false_natives(rows)), wrong, sum(row.documented for row in rows)
        shares = map(_share, [rows, *groups])
        lines.append(f"| {name} | {said} | {' | '.join(shares)} | {' | '.join(map(str, counts))} |")
    lines += ["", *_after(judged)]
    for name, (_, rows) in judged.items():
        lines += ["", f"## {name}", "", *_confusion(rows), "", *_disagreements(rows), "", *_models(rows)]
        lines += _not_mended(rows)
    return "\n".join(lines)


def _confusion(rows: Sequence[Row]) -> list[str]:
    count = Counter((row.porter, row.compiler) for row in rows)
    lines = [
        "| porter says | " + " | ".join(f"compiler: {TITLES[c]}" for c in COMPILER) + " |",
        "|---" * (len(COMPILER) + 1) + "|",
    ]
    lines += [f"| {TITLES[p]} | " + " | ".join(str(count[p, c]) for c in COMPILER) + " |" for p in PORTER]
    return lines


def _cell(text: str, width: int = 160) -> str:
    text = " ".join(text.replace("|", "/").split())
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _disagreements(rows: Sequence[Row]) -> list[str]:
    apart = [row for row in rows if not row.agrees]
    if not apart:
        return ["No disagreement."]
    lines = [
        "| disagreement | porter | compiler | why porter says so | what the compiler says |",
        "|---|---|---|---|---|",
    ]
    for row in apart:
        lines.append(
            f"| {_cell(row.name)} | {TITLES[row.porter]} | {TITLES[row.compiler]} | "
            f"{_cell('; '.join(row.reasons) or 'every op is native')} | {_cell(row.said or 'it runs')} |"
        )
    return lines


def _models(rows: Sequence[Row]) -> list[str]:
    lines = ["| model | porter | compiler | cosine | worst column | dead columns | after porter rewrite | cosine "
             "| with --partition: segments that compile | their share of the work |",
             "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        if row.group == "model":
            after = TITLES.get(row.after, row.after) or "-"
            if row.approximate:
                after += " (with --allow approximate)"
            if row.after == "not legal":
                after = f"not legal ({_cell(row.after_said, 80)})"
            parts = f"{row.segments_run} of {row.segments}" if row.segments or row.segment_said else "-"
            if row.segment_said:
                parts += f" ({_cell(row.segment_said, 80)})"
            share = "-" if row.share is None else f"{row.share:.1%}"
            lines.append(
                f"| {row.name} | {TITLES[row.porter]} | {TITLES[row.compiler]} | {_number(row.cosine)} | "
                f"{_number(row.column)} | {row.dead} | {after} | {_number(row.after_cosine)} | {parts} | {share} |"
            )
    return lines


def _not_mended(rows: Sequence[Row]) -> list[str]:
    """The models of one op that do not come to the accelerator after a rewrite either, by what happens to them."""
    left = [row for row in rows if row.group != "model" and row.after not in ("", "accelerator")]
    if not left:
        return []
    kinds: dict[str, Counter[str]] = {}
    for row in left:
        what = TITLES.get(row.after, "no rule makes it legal")
        if row.after == "refused":
            what += f": {row.after_said}"
        kinds.setdefault(what, Counter())[row.name.partition(" ")[0]] += 1
    lines = ["", "| after porter rewrite | models of one op | of the kinds |", "|---|---|---|"]
    for what, found in kinds.items():
        named = ", ".join(f"{kind} {number}" for kind, number in sorted(found.items()))
        lines.append(f"| {_cell(what)} | {found.total()} | {named} |")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _after(judged: Mapping[str, tuple[Mapping[str, str], Sequence[Row]]]) -> list[str]:
    lines = ["What the compiler refuses, computes wrongly or sends to its CPU as it comes, after `porter rewrite` (and",
             "how many more with `--allow approximate`):", "",
             "| target | models of one op | then on the accelerator | whole models | then on the accelerator "
             "| others with accelerator segments | all of which compile |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, (_, rows) in judged.items():
        cells = []
        for whole in (False, True):
            left = [row for row in rows if row.compiler != "accelerator" and (row.group == "model") == whole]
            mended = [row.approximate for row in left if row.after == "accelerator"]
            asked = any(row.after for row in left) or not left
            more = f" + {sum(mended)}" if any(mended) else ""
            cells += [str(len(left)), f"{len(mended) - sum(mended)}{more}" if asked else "not asked"]
        parted = [row for row in rows if row.segments]
        cells += [str(len(parted)), str(sum(row.segments_run == row.segments for row in parted))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines
