# SPDX-License-Identifier: Apache-2.0
"""What porter tells a user: findings, the verdict of each op, and the report that holds both.

One type for every diagnostic; the emitters in :mod:`porter.report` only print it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from porter.ops import Op, Origin

__all__ = [
    "SCHEMA_VERSION", "VERDICTS", "Candidate", "Finding", "OpReport", "Outlook", "Report", "Severity", "Verdict",
]  # fmt: skip

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


#: What became of a candidate of the planner: it was taken; another has a stronger claim, or costs less; its claim was
#: not permitted; it does not apply, or what it yields is not legal either.
Outcome = Literal["chosen", "weaker", "dearer", "not permitted", "refused"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to make an op legal that the planner considered: the rules in order, the weakest claim among them, what
    became of it and why, and (where it could be built) the kinds that it makes and their price by the target's rates.
    """

    rules: tuple[str, ...]
    claim: str
    outcome: Outcome
    why: str
    yields: tuple[str, ...] = ()
    macs: int = 0
    bytes: int = 0
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "rules": list(self.rules),
            "claim": self.claim,
            "outcome": self.outcome,
            "why": self.why,
            "yields": list(self.yields),
            "macs": self.macs,
            "bytes": self.bytes,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class OpReport:
    """The verdict of one op, with every reason and the rewrites (in the order they would be applied) that fix it.

    ``candidates`` are those that the planner considered, where it was asked to explain.
    """

    kind: str
    name: str
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()
    origin: Origin = field(default_factory=Origin)
    op: Op | None = None
    candidates: tuple[Candidate, ...] = ()

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {
            "kind": self.kind,
            "name": self.name,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "rewrites": list(self.rewrites),
            "origin": origin_json(self.origin),
        }
        if self.candidates:
            data["plan"] = [candidate.to_json() for candidate in self.candidates]
        return data


@dataclass(frozen=True, slots=True)
class Outlook:
    """Whether a model can become legal, and how: as it is, by rewriting, by partition as well, or not at all; or that
    the target's file does not know.

    ``crossings`` and ``bytes`` are what passes between accelerator and host for one input (model inputs and outputs
    aside), ``host`` how many ops the host computes; with ``answer`` "as is" or "rewrite" the target's own toolchain
    puts them there.
    """

    answer: Literal["as is", "rewrite", "partition", "no", "unknown"]
    host: int = 0
    crossings: int = 0
    bytes: int = 0
    why: str = ""

    def __str__(self) -> str:
        if self.answer == "no":
            return f"cannot become legal: {self.why}"
        if self.answer == "unknown":
            return f"may or may not become legal: {self.why}"
        how = "legal as is" if self.answer == "as is" else f"legal after {self.answer}"
        if not self.host:
            return how
        many = f"{self.crossings} crossing{'s' * (self.crossings != 1)}"
        ops = f"{self.host} op{'s' * (self.host != 1)} on the host"
        return f"{how}: {many} ({self.bytes / 1e6:.3g} MB), {ops}"

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Report:
    """A model judged against a target.

    ``ok``: every op is native and the target takes the model as a whole, so it runs as it is. ``portable``: ``porter
    rewrite`` makes it so with the claims that were allowed (every op is native, fold or rewrite, or ``outlook``, which
    tried it, says so). With ``own_host`` the
    target's toolchain itself puts ops on its host, and these count as legal in both. ``outlook`` sums it up, where it
    was asked for. ``converts``: the ONNX opset that ``porter rewrite`` converts the model to, where the target does not
    read the one that it has.
    """

    target: str
    model: str
    ops: tuple[OpReport, ...]
    findings: tuple[Finding, ...]
    own_host: bool = False
    outlook: Outlook | None = None
    converts: int | None = None

    @property
    def ok(self) -> bool:
        taken = self.taken and self.converts is None
        return taken and all(op.verdict == "native" or self.runs_on_host(op) for op in self.ops)

    @property
    def portable(self) -> bool:
        if self.outlook is not None and self.outlook.answer == "rewrite":
            return True
        return self.taken and all(
            op.verdict in ("native", "fold", "rewrite") or self.runs_on_host(op) for op in self.ops
        )

    def runs_on_host(self, op: OpReport) -> bool:
        """Whether the target's own toolchain runs this op on the host."""
        return self.own_host and op.verdict == "host"

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
            "outlook": self.outlook.to_json() if self.outlook is not None else None,
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
