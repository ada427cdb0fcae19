# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/coverage.md, from the rows that were measured."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from .catalogue import MODELS
from .measure import PROMISED, Row

__all__ = ["page"]

STATES = ("as is", "rewritten", "partitioned", "unknown", "no", "failed")
#: Kinds of ops that are named for each target before "and N more".
_KINDS = 12


def cell(row: Row) -> str:
    host = f" h{row.host}" if row.host and row.state != "partitioned" else ""
    match row.state:
        case "as is":
            return f"={host}"
        case "rewritten":
            return f"R{host}"
        case "partitioned":
            return f"P {row.segments}/{row.crossings}" + ("*" if row.parts else "")
        case "no":
            return "-"
        case "unknown":
            return "?"
    return "**failed**"


def page(rows: Sequence[Row], sizes: Mapping[str, int], missing: Mapping[str, str]) -> str:
    """Everything: models by targets, the counts, what failed and why, and what no rule made legal.

    Args:
        rows: one for each model and target.
        sizes: nodes of each model's file.
        missing: models that could not be exported, with the reason.
    """
    targets = list(dict.fromkeys(row.target for row in rows))
    found = {(row.model, row.target): row for row in rows}
    lines = _counts(rows, targets)
    lines += [
        "", "`=` legal as is, `R` after rewrite, `hN` with N ops on the CPU by the target's own toolchain, `P s/c` "
        "partitioned into s segments with c crossings (`*`: equal segment by segment, since a selection turned on a "
        "rounding), `?` the target's file does not know, `-` cannot become legal.",
        "", f"| model | nodes | {' | '.join(targets)} |", f"|---|---|{'---|' * len(targets)}",
    ]  # fmt: skip
    for entry in MODELS:
        cells = [cell(found[entry.name, t]) if (entry.name, t) in found else "" for t in targets]
        if any(cells):
            lines.append(f"| {entry.name} | {sizes.get(entry.name, '')} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_failures(rows, missing), "", *_left(rows, targets)])


def _counts(rows: Sequence[Row], targets: Sequence[str]) -> list[str]:
    lines = [
        f"| target | {' | '.join(STATES)} | check had said so | largest difference |",
        "|---" * (len(STATES) + 3) + "|",
    ]
    for target in [*targets, "all"]:
        mine = [row for row in rows if target in (row.target, "all")]
        counts = Counter(row.state for row in mine)
        numbers = " | ".join(str(counts[state]) for state in STATES)
        foretold = sum(_foretold(row) for row in mine)
        compared = [d for row in mine if not row.parts for d in (row.proof, row.fresh) if d is not None]
        worst = max(compared, default=0.0)
        lines.append(f"| {target} | {numbers} | {foretold} of {len(mine)} | {worst:.1e} |")
    return lines


def _foretold(row: Row) -> bool:
    return PROMISED.get(row.said) == row.state


def _failures(rows: Sequence[Row], missing: Mapping[str, str]) -> list[str]:
    causes: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.cause:
            causes[row.cause].append(f"{row.model} on {row.target}")
    lines = [f"- {name} could not be exported: {why}" for name, why in missing.items()]
    lines += [f"- {cause}: {', '.join(where)}" for cause, where in sorted(causes.items())]
    return ["What failed, and why:" if lines else "Nothing failed.", "", *lines] if lines else ["Nothing failed."]


def _left(rows: Sequence[Row], targets: Sequence[str]) -> list[str]:
    lines = [
        "What no rule made legal, by kind of op: the number of models it stops on the target.", "",
        "| target | kinds |", "|---|---|",
    ]  # fmt: skip
    for target in targets:
        kinds: Counter[str] = Counter()
        for row in rows:
            if row.target == target:
                kinds.update({reason.partition(": ")[0] for reason in row.left})
        ranked = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
        named = [f"{kind} {count}" for kind, count in ranked[:_KINDS]]
        more = len(kinds) - len(named)
        lines.append(f"| {target} | {', '.join(named) or 'nothing'}{f' and {more} more' if more > 0 else ''} |")
    return lines
