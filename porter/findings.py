# SPDX-License-Identifier: Apache-2.0
"""What porter tells a user: findings, the verdict of each op, and the report that holds both.

One type for every diagnostic; the emitters in :mod:`porter.report` only print it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from porter.ops import Op, Origin

__all__ = ["SCHEMA_VERSION", "VERDICTS", "Finding", "OpReport", "Report", "Severity", "Verdict"]

#: Version of the JSON report; it changes when a field changes its meaning or goes away.
SCHEMA_VERSION = "1.0"

Verdict = Literal["native", "fold", "rewrite", "host", "unsupported", "unknown"]
Severity = Literal["error", "warning", "note"]

#: The verdicts, from best to worst, and what each means.
VERDICTS: dict[Verdict, str] = {
    "native": "the device runs it",
    "fold": "depends on constants and shapes only; porter computes it ahead of time",
    "rewrite": "the device does not run it, and a rewrite makes it legal",
    "host": "runs on the host's processor, outside the device's program",
    "unsupported": "the device does not run it, and no rewrite that is allowed applies",
    "unknown": "the target's description does not say",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One diagnostic. ``code`` is stable and has a page (``porter explain CODE``)."""

    code: str
    severity: Severity
    message: str
    origin: Origin = field(default_factory=Origin)
    fix: str = ""
    op: str = ""
    kind: str = ""

    def __str__(self) -> str:
        place = f" [{self.origin}]" if self.origin.known else ""
        fix = f"\n  fix: {self.fix}" if self.fix else ""
        return f"{self.code} {self.severity}: {self.message}{place}{fix}"

    def to_json(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "kind": self.kind,
            "op": self.op,
            "fix": self.fix,
            "origin": origin_json(self.origin),
        }


@dataclass(frozen=True, slots=True)
class OpReport:
    """The verdict of one op, with every reason and the rewrites (in the order they would be applied) that fix it."""

    kind: str
    name: str
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()
    origin: Origin = field(default_factory=Origin)
    op: Op | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "rewrites": list(self.rewrites),
            "origin": origin_json(self.origin),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """A model judged against a target.

    ``ok``: every op is native and the target takes the model as a whole, so it runs as it is. ``portable``: ``porter
    rewrite`` makes it so with the claims that were allowed (every op is native, fold or rewrite).
    """

    target: str
    model: str
    ops: tuple[OpReport, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return self.taken and all(op.verdict == "native" for op in self.ops)

    @property
    def portable(self) -> bool:
        return self.taken and all(op.verdict in ("native", "fold", "rewrite") for op in self.ops)

    @property
    def taken(self) -> bool:
        """Whether no error is left that belongs to no op: the target takes the model as a whole."""
        return not any(finding.severity == "error" and not finding.kind for finding in self.findings)

    @property
    def summary(self) -> dict[Verdict, int]:
        """How many ops have each verdict; verdicts that do not occur are left out."""
        count = Counter(op.verdict for op in self.ops)
        return {verdict: count[verdict] for verdict in VERDICTS if count[verdict]}

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "target": self.target,
            "model": self.model,
            "ok": self.ok,
            "portable": self.portable,
            "summary": dict(self.summary),
            "ops": [op.to_json() for op in self.ops],
            "findings": [finding.to_json() for finding in self.findings],
        }


def origin_json(origin: Origin) -> dict[str, Any]:
    """An origin as the report and the ledger write it."""
    return {
        "file": origin.file,
        "line": origin.line,
        "function": origin.function,
        "module": origin.module,
        "source": list(origin.source),
        "rules": list(origin.rules),
    }
