# SPDX-License-Identifier: Apache-2.0
"""A report as a gate: what of it counts, given what is accepted and what is known already.

A baseline is a file of the findings that a team lives with. A finding is recognized by its code, the kind of its op
and its place - the module path, else the text of the source line, else the node's name without numbers - so that it
is still known after lines have moved. Equal findings are counted: one more than the baseline has is new. So is one
that got worse (a rewrite used to fix it, and now none does).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from porter.errors import PorterError
from porter.files import atomic_file, input_file
from porter.findings import VERDICTS, Finding, OpReport, Report
from porter.matching import pair
from porter.places import Places

__all__ = [
    "BASELINE_VERSION", "Baseline", "Entry", "Gate", "Judged", "State", "fingerprint", "judge", "rank",
    "read_baseline", "read_json", "with_ops", "write_baseline",
]  # fmt: skip

#: Version of the baseline file; it changes when a field changes its meaning or goes away.
BASELINE_VERSION = "1.0"

#: What a finding means for the gate. Only "new" ones fail it.
State = Literal["new", "known", "accepted"]

_SEVERITIES = ("", "note", "warning", "error")
_FIXED: frozenset[str] = frozenset({"native", "fold", "rewrite"})
#: More findings than this in a baseline are a mistake or an attack; the largest models have some ten thousand ops.
_MAX_ENTRIES = 1_000_000


def rank(verdict: str, severity: str = "") -> tuple[int, int]:
    """How bad a verdict is: severity first, then the order of :data:`porter.findings.VERDICTS`."""
    order = list(VERDICTS)
    return _SEVERITIES.index(severity), order.index(verdict) if verdict in VERDICTS else -1


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One finding as a baseline remembers it; every field is a word that a reviewer can read."""

    code: str
    kind: str
    place: str
    text: str
    verdict: str
    severity: str

    @property
    def identity(self) -> tuple[str, str, str]:
        return self.code, self.kind, self.place

    @property
    def rank(self) -> tuple[int, int]:
        return rank(self.verdict, self.severity)


@dataclass(frozen=True, slots=True)
class Baseline:
    """The findings that are known, of one model (its name is only for readers) on one target."""

    target: str
    model: str
    entries: tuple[Entry, ...]
    path: str = ""

    def to_json(self) -> dict[str, Any]:
        counted = sorted(Counter(self.entries).items())
        return {
            "schema_version": BASELINE_VERSION,
            "target": self.target,
            "model": self.model,
            "known": [{**asdict(entry), "count": count} for entry, count in counted],
        }


@dataclass(frozen=True, slots=True)
class Judged:
    """A finding, the op that it is about (None for one about the whole model), and whether it fails the gate."""

    finding: Finding
    op: OpReport | None
    state: State


@dataclass(frozen=True, slots=True)
class Gate:
    """A report with a state for every finding, in the report's order.

    ``baseline`` is None when there was none; ``gone`` are its entries that the report no longer has.
    """

    report: Report
    judged: tuple[Judged, ...]
    baseline: Baseline | None = None
    gone: tuple[Entry, ...] = ()

    @property
    def new(self) -> tuple[Judged, ...]:
        return tuple(item for item in self.judged if item.state == "new")

    @property
    def ok(self) -> bool:
        """Nothing new that is not accepted."""
        return not any(item.state == "new" for item in self.judged)

    def count(self, state: State) -> int:
        return sum(item.state == state for item in self.judged)


def judge(
    report: Report,
    *,
    portable: bool = False,
    baseline: Baseline | None = None,
    places: Places | None = None,
) -> Gate:
    """Decide which findings of a report count.

    Args:
        report: of ``porter.check``.
        portable: accept what ``porter rewrite`` makes legal (verdicts fold and rewrite).
        baseline: accept what it knows.
        places: where source lines are looked up (default: the current folder).

    Raises:
        PorterError: PT532 when the baseline is of another target.
    """
    owned = with_ops(report)
    states: list[State] = ["accepted" if _accepted(f, op, portable) else "new" for f, op in owned]
    gone: tuple[Entry, ...] = ()
    if baseline is not None:
        if baseline.target != report.target:
            raise PorterError(
                "PT532",
                f"the baseline is of the target {baseline.target}, and the check is for {report.target}",
                where=baseline.path or None,
                fix="Keep one baseline for each target; --write-baseline makes one.",
            )
        known, gone = _compare(baseline.entries, _entries(owned, places or Places()))
        states = ["known" if state == "new" and index in known else state for index, state in enumerate(states)]
    judged = tuple(Judged(f, op, state) for (f, op), state in zip(owned, states, strict=True))
    return Gate(report, judged, baseline, gone)


def with_ops(report: Report) -> list[tuple[Finding, OpReport | None]]:
    """Each finding with its op. Names of ONNX nodes need not be unique: equal ones are taken in their order."""
    ops: dict[tuple[str, str], deque[OpReport]] = defaultdict(deque)
    for op in report.ops:
        if op.verdict != "native":
            ops[op.name, op.kind].append(op)
    found = ((f, ops.get((f.op, f.kind))) for f in report.findings)
    return [(f, queue.popleft() if queue else None) for f, queue in found]


def _accepted(finding: Finding, op: OpReport | None, portable: bool) -> bool:
    if op is None:
        return finding.severity != "error"
    if finding.severity == "note":  # the target's own toolchain puts the op on its host
        return True
    return portable and op.verdict in _FIXED


def _entries(owned: Iterable[tuple[Finding, OpReport | None]], places: Places) -> list[Entry]:
    return [
        Entry(f.code, f.kind, *_place(f, places), op.verdict if op else "", f.severity) for f, op in owned
    ]  # fmt: skip


def _place(finding: Finding, places: Places) -> tuple[str, str]:
    """What stays of a finding's place when lines move, and the text of its source line."""
    origin = finding.origin
    text = places.text(origin)
    if origin.module:
        return origin.module, text
    if origin.file:
        name = re.split(r"[\\/]", origin.file)[-1]
        return f"{name}: {text or origin.function or '?'}", text
    return re.sub(r"\d+", "#", origin.source[0] if origin.source else finding.op), text


def fingerprint(finding: Finding, places: Places) -> str:
    """16 hexadecimal digits that stay the same when lines move: of the code, the kind of the op and its place."""
    identity = "\0".join((finding.code, finding.kind, _place(finding, places)[0]))
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _compare(known: Sequence[Entry], now: Sequence[Entry]) -> tuple[set[int], tuple[Entry, ...]]:
    """Indices of the findings that the baseline knows, and its entries that are gone."""
    # Worst first, so that of several equal ones the baseline's worst excuses the worst of today.
    order = sorted(range(len(now)), key=lambda index: now[index].rank, reverse=True)
    before = sorted(known, key=lambda entry: entry.rank, reverse=True)
    pairs, left, _ = pair(
        before,
        [now[index] for index in order],
        (astuple, lambda e: (e.identity, e.rank), lambda e: (e.identity, e.text), lambda e: e.identity),
    )
    excused = {order[new] for old, new in pairs if now[order[new]].rank <= before[old].rank}
    return excused, tuple(sorted(before[index] for index in left))


# -- the file --------------------------------------------------------------------------------------


def write_baseline(
    report: Report, path: str | os.PathLike[str], *, places: Places | None = None, overwrite: bool = False
) -> Baseline:
    """Write the findings of a report as the baseline; the same report gives the same bytes.

    Raises:
        PorterError: PT510 to PT512 when it cannot be written.
    """
    entries = _entries(with_ops(report), places or Places())
    made = Baseline(report.target, report.model, tuple(entries), os.fspath(path))
    text = json.dumps(made.to_json(), indent=1, ensure_ascii=False) + "\n"
    with atomic_file(path, overwrite) as temporary:
        # What is no UTF-8 (in a file's name) becomes an escape, which JSON reads back.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return made


def read_baseline(path: str | os.PathLike[str]) -> Baseline:
    """Read a baseline.

    Raises:
        PorterError: PT501 when there is no such file; PT531 when it is not a baseline that this version reads.
    """
    data = read_json(path, "PT531", "a baseline", "Make one with porter check --write-baseline FILE.")
    try:
        if str(data["schema_version"]).split(".")[0] != BASELINE_VERSION.split(".")[0]:
            raise ValueError(f"schema_version {data['schema_version']!r} is not {BASELINE_VERSION}")
        entries: list[Entry] = []
        for item in data["known"]:
            fields = [item[name] for name in Entry.__dataclass_fields__]
            if not all(isinstance(value, str) for value in fields) or type(item["count"]) is not int:
                raise ValueError(f"an entry has a field of the wrong type: {str(item)[:120]}")
            if fields[5] not in _SEVERITIES or not 0 < item["count"] <= _MAX_ENTRIES - len(entries):
                raise ValueError(f"an entry has a value out of range: {str(item)[:120]}")
            entries += [Entry(*fields)] * item["count"]
        return Baseline(str(data["target"]), str(data["model"]), tuple(entries), os.fspath(path))
    except (KeyError, TypeError, ValueError) as error:
        problem = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise PorterError(
            "PT531", f"{path} is not a baseline: {problem}", fix="Make one with porter check --write-baseline FILE."
        ) from error


def read_json(path: str | os.PathLike[str], code: str, what: str, fix: str) -> dict[str, Any]:
    """The object of a JSON file; ``code`` is raised when there is none in it."""
    file = input_file(path)
    try:
        data = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: JSON, UTF-8, a number of too many digits
        raise PorterError(code, f"{path} is not {what}: {error}", fix=fix) from error
    if not isinstance(data, dict):
        raise PorterError(code, f"{path} is not {what}: it holds no JSON object", fix=fix)
    return data
