# SPDX-License-Identifier: Apache-2.0
"""What the formats share: ops that need the same, findings at the same place, and one line that sums a gate up."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from porter.findings import Finding, OpReport, Report, Severity

if TYPE_CHECKING:
    from porter.baseline import Gate, Judged, State
    from porter.places import Places

__all__ = ["Located", "distinct_reasons", "grouped", "kinds", "left_over", "located", "places", "runs", "tally"]

_ORDER = ("unsupported", "unknown", "host", "rewrite", "fold")
_WORST_FIRST: tuple[Severity, ...] = ("error", "warning", "note")


def grouped(ops: Sequence[OpReport]) -> list[list[OpReport]]:
    """The ops that are not native: those of one kind, verdict and rewrite together, all constants together.

    The worst verdict comes first, within it the largest group.
    """
    groups: dict[tuple[object, ...], list[OpReport]] = {}
    for op in ops:
        if op.verdict == "fold":
            groups.setdefault((op.verdict,), []).append(op)
        elif op.verdict != "native":
            groups.setdefault((op.verdict, op.kind, op.rewrites), []).append(op)
    return sorted(groups.values(), key=lambda g: (_ORDER.index(g[0].verdict), -len(g)))


def left_over(report: Report) -> str:
    """What no rewrite mends: ``2 ops``, ``5 ops (2 on the host)``, or ``2 ops and 1 finding about the whole model``."""
    ops = sum(op.verdict not in ("native", "fold", "rewrite") for op in report.ops)
    host = report.summary.get("host", 0)
    whole = sum(finding.severity == "error" and not finding.kind for finding in report.findings)
    aside = f" ({host} on the host)" if host else ""
    parts = [f"{ops} op{'s' * (ops != 1)}{aside}"] if ops or not whole else []
    parts += [f"{whole} finding{'s' * (whole != 1)} about the whole model"] if whole else []
    return " and ".join(parts)


def runs(report: Report) -> str:
    """How the device runs a model that is legal: ``runs every op as it is``, or with ops on its own host, and what
    passes between both."""
    host = report.summary.get("host", 0)
    if not host:
        return "runs every op as it is"
    outlook = report.outlook
    passed = f", {outlook.crossings} crossings" if outlook is not None else ""
    return f"runs it, with {host} op{'s' * (host != 1)} on its own host{passed}"


def kinds(group: Sequence[OpReport]) -> str:
    """``mul x6, eq``: the kinds of ops with their counts, the most frequent first."""
    counted = Counter(op.kind for op in group).most_common()
    return ", ".join(f"{kind} x{n}" if n > 1 else kind for kind, n in counted)


def distinct_reasons(group: Sequence[OpReport]) -> list[str]:
    """One reason of each sort: the same limit of many ops differs only in their names and numbers."""
    seen: dict[str, str] = {}
    for op in group:
        names = {v.name for v in (*op.op.operands, *op.op.outputs)} - {op.kind} if op.op else set()
        for reason in op.reasons:
            sort = reason
            for name in names:
                sort = sort.replace(name, "")
            seen.setdefault(re.sub(r"\d+", "", sort), reason)
    return list(seen.values())


def places(group: Sequence[OpReport]) -> list[str]:
    """Where the ops of a group come from, each place once."""
    return [place for place in dict.fromkeys(str(op.origin) for op in group) if place]


@dataclass(frozen=True, slots=True)
class Located:
    """Findings that say the same at the same place: one annotation, one result.

    ``path`` is relative to the root, with forward slashes, and None where the source line is unknown or elsewhere.
    """

    items: tuple[Judged, ...]
    path: str | None
    line: int | None

    @property
    def first(self) -> Finding:
        return self.items[0].finding

    @property
    def state(self) -> State:
        return self.items[0].state

    @property
    def title(self) -> str:
        """``slice_assign x2 is unsupported``, or the code where the finding is about no op."""
        first = self.items[0]
        if first.op is None:
            return first.finding.code
        folds = first.op.verdict == "fold"
        ops = [item.op for item in self.items if item.op]
        what = kinds(ops) if folds else first.op.kind + (f" x{len(ops)}" if len(ops) > 1 else "")
        how = {
            "fold": "computed ahead of time",
            "rewrite": f"rewritten by {', then '.join(first.op.rewrites)}",
            "host": "runs on the host",
            "unknown": "not known to run",
        }
        return f"{what}: {how.get(first.op.verdict, first.op.verdict)}"

    @property
    def modules(self) -> list[str]:
        """The module paths of the ops, each once."""
        return list(dict.fromkeys(item.finding.origin.module for item in self.items if item.finding.origin.module))


def located(gate: Gate, paths: Places) -> list[Located]:
    """The findings of a gate, those that say the same at the same place together; the worst first.

    Where no source line is known the place is the module path; constants are told apart by place only.
    """
    groups: dict[tuple[object, ...], list[Judged]] = {}
    where: dict[tuple[object, ...], tuple[str | None, int | None]] = {}
    for item in gate.judged:
        f, op = item.finding, item.op
        path = paths.find(f.origin)
        line = f.origin.line if path and f.origin.line and f.origin.line > 0 else None
        place = (path, line) if path else (f.origin.file, f.origin.line, f.origin.module)
        if op is not None and op.verdict == "fold":
            says: tuple[object, ...] = ("fold",)
        else:
            says = (f.kind, op and (op.verdict, op.rewrites), re.sub(r"\d+", "", f.message))
        key = (item.state, f.severity, f.code, *says, *place)
        groups.setdefault(key, []).append(item)
        where[key] = (path, line)
    made = [Located(tuple(items), *where[key]) for key, items in groups.items()]
    return sorted(made, key=_badness)


def _badness(one: Located) -> tuple[int, int]:
    op = one.items[0].op
    return _WORST_FIRST.index(one.first.severity), _ORDER.index(op.verdict) if op and op.verdict in _ORDER else -1


def tally(gate: Gate) -> str:
    """``2 new findings, 12 known, 1 gone (baseline known.json)``; without a baseline ``2 findings, 12 accepted``, and
    ``1 note`` of what is accepted and nothing has to be done about."""
    new = gate.count("new")
    notes = sum(item.state == "accepted" and item.finding.severity == "note" for item in gate.judged)
    accepted = gate.count("accepted") - notes
    word = "finding" if gate.baseline is None else "new finding"
    text = f"{new or 'no'} {word}{'s' * (new != 1)}"
    if accepted:
        text += f", {accepted} accepted (porter rewrite takes care of them)"
    if notes:
        text += f", {notes} note{'s' * (notes != 1)}"
    if gate.baseline is not None:
        text += f", {gate.count('known')} known, {len(gate.gone)} gone (baseline {gate.baseline.path})"
        if gate.gone and not new:
            text += "; write it anew with --write-baseline, so that they stay gone"
    return text
