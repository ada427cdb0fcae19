# SPDX-License-Identifier: Apache-2.0
"""The results as markdown: who is ahead, model by model, and everything that was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .cases import Case, Scores
from .measure import Result

__all__ = ["LEVEL", "full", "installed", "markdown", "summary"]

OURS = "porter"
#: Two figures of a task metric (0..1) this near are level: one held-out item is 0.005 to 0.01 of most metrics.
LEVEL = 0.01
_WIDTHS = {
    "int8": "int8 weights and activations",
    "int16": "int16 weights and activations",
    "w8a16": "int8 weights, int16 activations",
}

Floats = Mapping[str, Scores]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; the first column is text, the others are aligned to the right."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _first(scores: Scores) -> float:
    return next(iter(scores.values()))


def _peer(result: Result) -> str:
    return str(result.contender["peer"])


def _kept(result: Result, floats: Floats) -> float:
    """The task metric, at most the float model's: what is above it is luck."""
    return min(_first(result.scores), _first(floats[result.case]))


def _best(results: Iterable[Result], floats: Floats) -> Result | None:
    """The highest task metric (capped), then the highest SQNR; None when all failed."""
    done = [r for r in results if r.scores]
    return max(done, key=lambda r: (round(_kept(r, floats), 4), r.sqnr), default=None)


def _verdict(ours: Result | None, other: Result | None, floats: Floats) -> str:
    if ours is None:
        return "**failed**"
    if other is None:
        return "alone"
    apart = _kept(ours, floats) - _kept(other, floats)
    # A hair's breadth for sums of floats that print alike.
    return "level" if abs(apart) <= LEVEL + 1e-9 else "ahead" if apart > 0 else "**behind**"


def _cell(results: Sequence[Result], floats: Floats) -> str:
    """The best row's figures; of no row at all, a dash."""
    best = _best(results, floats)
    if best is None:
        return "failed" if results else "–"
    return f"{_first(best.scores):.3f} ({best.sqnr:.1f} dB)"


def summary(cases: Sequence[Case], floats: Floats, results: Sequence[Result], width: str) -> str:
    """One row a model: float, porter: default and best, each peer: best, how porter stands to the best of them; a dash
    for what was not measured."""
    mine = [r for r in results if r.contender["width"] == width]
    peers = list(dict.fromkeys(_peer(r) for r in mine if not _peer(r).startswith(OURS)))
    rows = []
    for case in cases:
        found = [r for r in mine if r.case == case.name]
        ours = [r for r in found if _peer(r) == OURS]
        plain = [r for r in ours if r.contender["kind"] == "default"]
        others = [[r for r in found if _peer(r) == peer] for peer in peers]
        best = _best((r for rows in others for r in rows), floats)
        rows.append([
            f"{case.title}: {case.metric}", f"{_first(floats[case.name]):.3f}",
            *(_cell(rows_of, floats) for rows_of in (plain, ours, *others)),
            *(_verdict(_best(of, floats), best, floats) if of else "–" for of in (plain, ours)),
        ])  # fmt: skip
    head = ["model: metric", "float", "porter, default", "porter, best", *peers, "its default is", "its best is"]
    return table(head, rows)


def counts(cases: Sequence[Case], floats: Floats, results: Sequence[Result], width: str) -> str:
    """In how many models porter, by its default and by its best row, is ahead of, level with and behind each row of the
    peers."""
    mine = [r for r in results if r.contender["width"] == width]
    ours = {case.name: [r for r in mine if r.case == case.name and _peer(r) == OURS and r.scores] for case in cases}
    rows = []
    for peer, kind, label in dict.fromkeys((_peer(r), r.contender["kind"], r.contender["label"]) for r in mine):
        if peer.startswith(OURS):
            continue
        found = [r for r in mine if (_peer(r), r.contender["label"]) == (peer, label) and ours[r.case]]
        cells = []
        for kinds in (("default",), ("default", "best")):
            said = [
                _verdict(_best((o for o in ours[r.case] if o.contender["kind"] in kinds), floats), r, floats).strip("*")
                for r in found
                if r.scores
            ]
            cells.append(" / ".join(str(said.count(word)) for word in ("ahead", "level", "behind")))
        rows.append([f"{peer}, {kind}: {label}", *cells, str(sum(not r.scores for r in found))])
    return table(["against", "porter's default is ahead / level / behind", "its best", "it failed"], rows)


def full(case: Case, float_scores: Scores, results: Sequence[Result]) -> str:
    """Every contender on one model."""
    found = [r for r in results if r.case == case.name]
    names = list(float_scores)
    head = ["contender", "width", *names, "SQNR, dB", "worst column, dB", "cosine", "s", "CPU s", "MB"]
    rows = [["float", "float32", *(f"{float_scores[name]:.3f}" for name in names), "", "", "", "", "", ""]]
    for r in found:
        who = f"{_peer(r)}, {r.contender['kind']}: {r.contender['label']}"
        if not r.scores:
            rows.append([who, r.contender["width"], f"failed: {r.failure}", *[""] * (len(head) - 3)])
            continue
        worst = min(o["worst_column"] for o in r.outputs.values())
        rows.append([
            who, r.contender["width"], *(f"{r.scores[name]:.3f}" for name in names), f"{r.sqnr:.1f}",
            f"{worst:.1f}", f"{r.cosine:.5f}", f"{r.wall:.0f}", f"{r.cpu:.0f}", f"{r.megabytes:.0f}",
        ])  # fmt: skip
    return table(head, rows)


def installed(versions: Mapping[str, tuple[str, str]]) -> str:
    """The contenders' versions, or why they are not there."""
    return table(
        ["contender", "version"],
        [[name, version or f"not installed: {why}"] for name, (version, why) in versions.items()],
    )


def markdown(
    cases: Sequence[Case], floats: Floats, results: Sequence[Result], versions: Mapping[str, tuple[str, str]]
) -> str:
    """Everything, from the verdicts to the last figure."""
    parts = [installed(versions)]
    for width, words in _WIDTHS.items():
        if any(r.contender["width"] == width for r in results):
            parts += [
                f"### {width}: {words}",
                summary(cases, floats, results, width),
                counts(cases, floats, results, width),
            ]
    parts.append("### Every figure")
    for case in cases:
        parts += [f"#### {case.title}", full(case, floats[case.name], results)]
    return "\n\n".join(parts)
