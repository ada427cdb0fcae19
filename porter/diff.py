# SPDX-License-Identifier: Apache-2.0
"""The difference of two reports: two versions of a model, two targets, or two releases of porter.

Ops are paired by kind, name and module path; what is left by kind and place, which is the module path, or else the name
without numbers (exporters number nodes anew). What has no partner then is new or gone.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, get_args

from porter.baseline import rank, read_json
from porter.errors import PorterError
from porter.findings import VERDICTS, Finding, OpReport, Report, Severity, Verdict
from porter.matching import pair
from porter.ops import Origin

__all__ = ["DIFF_VERSION", "Change", "Changed", "Diff", "diff", "read_report"]

#: Version of the JSON form; it changes when a field changes its meaning or goes away.
DIFF_VERSION = "1.0"

#: "new" and "gone" are ops with no partner in the other report that are not native there.
Change = Literal["new", "worse", "better", "gone"]


@dataclass(frozen=True, slots=True)
class Changed:
    """One op whose verdict is not what it was. ``before`` or ``after`` is None where there is no such op."""

    change: Change
    before: OpReport | None
    after: OpReport | None

    @property
    def op(self) -> OpReport:
        """The op as it is now, or as it was when it is gone."""
        op = self.after or self.before
        assert op is not None
        return op

    def to_json(self) -> dict[str, Any]:
        return {
            "change": self.change,
            "kind": self.op.kind,
            "name": self.op.name,
            "where": str(self.op.origin),
            "before": self.before.verdict if self.before else None,
            "after": self.after.verdict if self.after else None,
            "reasons": list(self.op.reasons),
        }


@dataclass(frozen=True, slots=True)
class Diff:
    """What became of each op between two reports; the worst change comes first."""

    before: Report
    after: Report
    changes: tuple[Changed, ...]
    files: tuple[str, str] = ("", "")

    @property
    def worse(self) -> bool:
        """An op needs something that it did not need, or needs something worse."""
        return any(one.change in ("new", "worse") for one in self.changes)

    @property
    def summary(self) -> dict[Change, int]:
        """How many changes of each sort there are; those that do not occur are left out."""
        count = Counter(one.change for one in self.changes)
        return {change: count[change] for change in get_args(Change) if count[change]}

    def to_json(self) -> dict[str, Any]:
        sides = {
            name: {
                "file": file, "target": report.target, "model": report.model, "ops": len(report.ops),
                "summary": dict(report.summary),
            }
            for name, file, report in zip(("before", "after"), self.files, (self.before, self.after), strict=True)
        }  # fmt: skip
        changes = [one.to_json() for one in self.changes]
        return {"schema_version": DIFF_VERSION, **sides, "worse": self.worse, "changes": changes}


def diff(before: Report | str | os.PathLike[str], after: Report | str | os.PathLike[str]) -> Diff:
    """Compare two reports, or two files of ``porter check --format json``.

    Raises:
        PorterError: PT501 when a file is not there; PT533 when it is not such a report.
    """
    old = before if isinstance(before, Report) else read_report(before)
    new = after if isinstance(after, Report) else read_report(after)
    pairs, gone, added = pair(
        old.ops,
        new.ops,
        (
            lambda op: (op.kind, op.name, op.origin.module, op.verdict),
            lambda op: (op.kind, op.name, op.origin.module),
            lambda op: (op.kind, _place(op), op.verdict),
            lambda op: (op.kind, _place(op)),
        ),
    )
    changes = [
        Changed("worse" if _rank(new.ops[j]) > _rank(old.ops[i]) else "better", old.ops[i], new.ops[j])
        for i, j in pairs
        if new.ops[j].verdict != old.ops[i].verdict
    ]
    changes += [Changed("new", None, new.ops[j]) for j in added if new.ops[j].verdict != "native"]
    changes += [Changed("gone", old.ops[i], None) for i in gone if old.ops[i].verdict != "native"]
    order = get_args(Change)
    changes.sort(key=lambda one: (order.index(one.change), *(-part for part in _rank(one.op))))
    files = tuple("" if isinstance(side, Report) else os.fspath(side) for side in (before, after))
    return Diff(old, new, tuple(changes), (files[0], files[1]))


def _place(op: OpReport) -> str:
    return op.origin.module or re.sub(r"\d+", "#", op.name)


def _rank(op: OpReport) -> tuple[int, int]:
    return rank(op.verdict, "error" if op.verdict == "unsupported" else "warning")


# -- reading ---------------------------------------------------------------------------------------


def read_report(path: str | os.PathLike[str]) -> Report:
    """Read a report that ``porter check --format json`` wrote; its ops have no ``op`` behind them.

    Raises:
        PorterError: PT501 when there is no such file; PT533 when it is not such a report.
    """
    fix = "Make it with porter check --output FILE.json."
    data = read_json(path, "PT533", "a JSON report of porter check", fix)
    try:
        if str(data["schema_version"]).split(".")[0] != "1":
            raise ValueError(f"schema_version {data['schema_version']!r} is not 1")
        ops = tuple(_op(item) for item in data["ops"])
        findings = tuple(_finding(item) for item in data["findings"])
        return Report(_text(data["target"]), _text(data["model"]), ops, findings)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise PorterError("PT533", f"{path} is not a JSON report of porter check: {problem}", fix=fix) from error


def _op(item: dict[str, Any]) -> OpReport:
    verdict: Verdict = next((known for known in VERDICTS if known == item["verdict"]), "unknown")
    if verdict != item["verdict"]:
        raise ValueError(f"there is no verdict {item['verdict']!r}")
    return OpReport(
        _text(item["kind"]), _text(item["name"]), verdict, _texts(item["reasons"]), _texts(item["rewrites"]),
        _origin(item["origin"]),
    )  # fmt: skip


def _finding(item: dict[str, Any]) -> Finding:
    severity: Severity | None = next((known for known in get_args(Severity) if known == item["severity"]), None)
    if severity is None:
        raise ValueError(f"there is no severity {item['severity']!r}")
    code, message, fix, op, kind = (_text(item[name]) for name in ("code", "message", "fix", "op", "kind"))
    return Finding(code, severity, message, _origin(item["origin"]), fix, op, kind)


def _origin(item: dict[str, Any]) -> Origin:
    file, function, module = (item[name] and _text(item[name]) for name in ("file", "function", "module"))
    line = item["line"]
    if line is not None and type(line) is not int:
        raise ValueError(f"a line is a number, not {line!r}")
    return Origin(file, line, function, module, _texts(item["source"]), _texts(item["rules"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a text is needed, not {str(value)[:60]!r}")
    return value


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise ValueError(f"a list is needed, not {str(values)[:60]!r}")
    return tuple(_text(value) for value in values)
