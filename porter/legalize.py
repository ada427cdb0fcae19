# SPDX-License-Identifier: Apache-2.0
"""Legalization: which ops of a graph a target runs, and the rewrites that make the rest legal.

``check`` plans and changes nothing; ``rewrite`` applies the plan, plans again, and stops when nothing is left to do.
Both use the same planner, so that what ``check`` promises is what ``rewrite`` does. (The shape of it - legal ops,
patterns, and a driver that accepts a pattern only when what it yields is legal - is MLIR's dialect conversion.)
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from porter.errors import PorterError
from porter.findings import Finding, OpReport, Report, Severity, Verdict, origin_json
from porter.graph import OPSETS, Graph
from porter.infer import DATA_DEPENDENT
from porter.ops import Op, Origin
from porter.planner import Planned, Planner, claim_rank
from porter.registry import find_rule
from porter.rewrite import Claim, Fragment
from porter.target import Target

__all__ = ["DEFAULT_ALLOW", "FOLD", "Ledger", "LedgerEntry", "check", "legalize"]

#: Claims that need no consent.
DEFAULT_ALLOW: tuple[Claim, ...] = ("exact", "bounded")
#: The name under which the ledger books constants that were computed ahead of time.
FOLD = "fold_constants"

#: Rounds of plan and apply. Folding can open the way to rewrites and these to further folding; three were enough for
#: every model tried. Two rules that undo each other end here, with a finding.
_MAX_ROUNDS = 8
#: Rules that refused an op are named in its finding; more than these help nobody.
_REFUSALS = 3


# -- reports ---------------------------------------------------------------------------------------


def _report(graph: Graph, target: Target, planned: Sequence[Planned]) -> Report:
    ops = tuple(
        OpReport(
            p.op.kind, p.op.name or p.op.outputs[0].name, p.verdict, p.reasons,
            tuple(r.name for r in p.rules) or ((FOLD,) if p.verdict == "fold" else ()), p.op.origin, p.op,
            p.candidates,
        )
        for p in planned
    )  # fmt: skip
    own_host = target.runtime.fallback == "host"
    findings = tuple(_finding(p, own_host) for p in planned if p.verdict != "native")
    against, converts = _of_model(graph, target)
    return Report(target.name, graph.source, ops, (*findings, *against), own_host, converts=converts)


_MODEL_FIXES = {
    "PT205": "export the model with an opset that the target takes",
    "PT206": "split the model, or join outputs",
    "PT207": "export the model with another input shape",
}


def _of_model(graph: Graph, target: Target) -> tuple[list[Finding], int | None]:
    """What the target has against the model as a whole, and the opset that a rewrite converts it to for that."""
    found, converts = [], None
    for reason in target.judge_model(graph.inputs, graph.outputs, graph.opset):
        severity: Severity = "warning" if reason.certainty == "unknown" else "error"
        fix = _MODEL_FIXES[reason.code]
        wanted = nearest_opset(graph, target) if reason.code == "PT205" else None
        if wanted is not None:
            unfit = graph.unfit_at(wanted)
            if unfit:
                fix += f"; it cannot be converted: {unfit[0].message}"
            else:
                fix = f"porter rewrite converts it to opset {wanted}"
                converts = wanted if severity == "error" else None
                severity = "warning"
        found.append(Finding(reason.code, severity, str(reason), Origin(), fix))
    return found, converts


def nearest_opset(graph: Graph, target: Target) -> int | None:
    """The opset to convert the model to before the target takes it; None where it does already, or is not ONNX, or
    porter writes no opset that the target takes."""
    allowed, opset = target.runtime.opset, graph.opset
    if opset is None or not allowed or allowed[0] <= opset <= allowed[-1]:
        return None
    nearest = allowed[0] if opset < allowed[0] else allowed[-1]
    return nearest if OPSETS[0] <= nearest <= OPSETS[1] else None


_SEVERITY: dict[Verdict, Severity] = {
    "fold": "warning", "rewrite": "warning", "host": "warning", "unknown": "warning", "unsupported": "error",
}  # fmt: skip


def _finding(p: Planned, own_host: bool) -> Finding:
    if p.verdict == "rewrite":
        fix = "porter rewrite applies " + ", then ".join(f"{r.name} ({r.claim})" for r in p.rules)
    elif p.verdict == "fold":
        fix = "porter rewrite computes it ahead of time"
    elif p.refused:
        fix = "; ".join(p.refused[:_REFUSALS])
    elif p.op.kind.removeprefix("dynamic_") in DATA_DEPENDENT:
        fix = (
            "how many results it has depends on data, which no rewrite changes: `porter rewrite --cut auto` (or "
            "--partition) leaves it, with the decoding around it, to the host"
        )
    else:
        fix = "no rewrite removes it: change the model, or write a rule for it (README, Your own rule)"
    message = "; ".join(_bare(p.reasons)) or f"{p.op.kind}: {p.verdict}"
    if p.verdict == "fold" and not p.codes:
        message = f"{p.op.kind} belongs to a constant that is computed on the device each time"
    code = p.codes[0] if p.codes else "PT110"
    severity: Severity = "note" if own_host and p.verdict == "host" else _SEVERITY[p.verdict]
    return Finding(code, severity, message, p.op.origin, fix, p.op.name, p.op.kind)


def _bare(reasons: Sequence[str]) -> list[str]:
    """Reasons without their code, which the finding carries in a field of its own."""
    return [text.partition(": ")[2] for text in reasons]


def check(graph: Graph, target: Target, allow: Collection[Claim] = DEFAULT_ALLOW, *, explain: bool = False) -> Report:
    """The verdict of every op of ``graph`` on ``target``. Changes nothing. With ``explain`` every op that is not legal
    has the candidates that the planner considered."""
    return _report(graph, target, Planner(graph, target, _claims(allow), explain=explain).plan())


def _claims(allow: Collection[str]) -> frozenset[Claim]:
    known = get_args(Claim)
    for claim in allow:
        if claim not in known:
            near = difflib.get_close_matches(claim, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"
            raise PorterError("PT519", f"there is no claim {claim!r}", where="--allow", fix=hint)
    return frozenset((*DEFAULT_ALLOW, *allow))  # type: ignore[arg-type]


# -- rewriting -------------------------------------------------------------------------------------


@dataclass(slots=True)
class LedgerEntry:
    """One replacement: which op, by which rules, what they claim, and the error measured after it.

    ``measured`` is filled by the proof: the value that the op computed, in the original and in the rewritten model,
    compared over all inputs (None where the value is gone from the rewritten model or the proof was not asked for).
    """

    kind: str
    value: str
    rules: tuple[str, ...]
    claim: Claim
    bound: str
    yields: tuple[str, ...]
    origin: Origin
    measured: Any = None

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "value": self.value,
            "rules": list(self.rules),
            "claim": self.claim,
            "bound": self.bound,
            "yields": list(self.yields),
            "origin": origin_json(self.origin),
            "measured": self.measured.to_json() if self.measured is not None else None,
        }


@dataclass(slots=True)
class Ledger:
    """Everything that was done to a model, in order; how it was proved; for how many of the ops of the result the
    origin is known (``traced`` of ``ops``); and from which ONNX opset to which it was converted, if it was."""

    target: str
    model: str
    entries: list[LedgerEntry] = field(default_factory=list)
    opset: tuple[int, int] | None = None
    proof: str = "not verified"
    ops: int = 0
    traced: int = 0

    @property
    def claim(self) -> Claim:
        """The weakest claim of all entries."""
        return max((e.claim for e in self.entries), key=claim_rank, default="exact")

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "model": self.model,
            "claim": self.claim,
            "proof": self.proof,
            "ops": self.ops,
            "traced": self.traced,
            "opset": list(self.opset) if self.opset else None,
            "entries": [entry.to_json() for entry in self.entries],
        }


def legalize(
    graph: Graph,
    target: Target,
    allow: Collection[Claim] = DEFAULT_ALLOW,
    apply: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
    *,
    explain: bool = False,
    opset: int | None = None,
) -> tuple[Graph, Ledger, Report, Report]:
    """Make ``graph`` legal for ``target``, as far as the rules go.

    An ONNX model whose opset the target does not take is converted to the nearest one that it takes: up before
    anything else, so that rules may use what is new, down at the end.

    Args:
        graph: the model; it is not changed.
        target: the device.
        allow: claims that may be used beside exact and bounded.
        apply: optional rules to apply first wherever they fit.
        progress: called with a short text at each step.
        explain: the report before says of every op that is not legal which candidates were considered.
        opset: the ONNX opset that the result shall have, whatever the target takes.

    Returns:
        The new graph, the ledger of what was done, the report before, and the report after.

    Raises:
        PorterError: PT392 for a rule that does not exist, PT519 for such a claim, or for an opset that the model cannot
            have because it is not ONNX, or porter does not write it.
    """
    allow = _claims(allow)
    say = progress or (lambda _text: None)
    optional = [find_rule(name, "--apply") for name in apply]
    work = graph.copy()
    ledger = Ledger(target.name, graph.source)
    before: Report | None = None
    unfit: list[Finding] = []
    wanted = nearest_opset(graph, target) if opset is None else opset
    if wanted is not None and (graph.opset is None or wanted > graph.opset):
        before = check(work, target, allow, explain=explain)
        work, unfit = _converted(work, wanted, ledger, say)
        wanted = None
    if optional:
        before = before or check(work, target, allow, explain=explain)
        for rule in optional:
            say(rule.name)
            _apply(work, Planner(work, target, allow, round_=0).optional(rule), ledger)
    tried: set[tuple[str, str, str]] = set()
    given = {v.name for op in work.ops() for v in op.outputs}
    for round_ in range(1, _MAX_ROUNDS + 1):
        say(f"planning, round {round_}")
        planner = Planner(work, target, allow, round_, tried, explain and before is None, given)
        planned = planner.plan()
        before = before or _report(graph, target, planned)
        folds = planner.folds(planned)
        if folds:
            say(f"folding {len(folds)} constant ops")
            _book_folds(work, folds, ledger)
            work.replace(folds)
            continue
        rewrites = [p for p in planned if p.fragment is not None]
        tried |= {(p.op.outputs[0].name, p.op.kind, p.rules[0].name) for p in rewrites}
        if not _apply(work, rewrites, ledger):
            if wanted is None:
                break
            work, unfit = _converted(work, wanted, ledger, say)
            wanted = None
    else:
        planned = Planner(work, target, allow, _MAX_ROUNDS + 1, tried, given=given).plan()
    assert before is not None
    ledger.ops = len(planned)
    ledger.traced = sum(p.op.origin.known for p in planned)
    after = _report(work, target, planned)
    if any(p.fragment is not None for p in planned):
        after = replace(after, findings=(*after.findings, _no_end(ledger)))
    if unfit and opset is not None:  # else the finding about the model's opset (PT205) says why
        after = replace(after, findings=(*after.findings, *unfit))
    return work, ledger, before, after


def _converted(work: Graph, opset: int, ledger: Ledger, say: Callable[[str], None]) -> tuple[Graph, list[Finding]]:
    """The graph at another opset and the ledger saying so; the graph as it is, and why, where that cannot be."""
    if opset == work.opset:
        return work, []
    say(f"converting to opset {opset}")
    made, unfit = work.at_opset(opset)
    if made is None:
        return work, unfit
    assert work.opset is not None
    ledger.opset = (work.opset, opset)
    return made, []


def _no_end(ledger: Ledger) -> Finding:
    last = ", then ".join(ledger.entries[-1].rules) if ledger.entries else "none"
    return Finding(
        "PT750", "warning", f"after {_MAX_ROUNDS} rounds there was still something to rewrite (last by {last}): rules "
        "undo each other", fix="Report the model, or the rule if it is of a plug-in.",
    )  # fmt: skip


def _apply(work: Graph, planned: Sequence[Planned], ledger: Ledger) -> bool:
    replacements = []
    for p in planned:
        assert p.fragment is not None
        replacements.append((p.op, p.fragment))
        claim = max((r.claim for r in p.rules), key=claim_rank)
        bound = "; ".join(dict.fromkeys(r.error for r in p.rules if r.error))
        yields = tuple(dict.fromkeys(op.kind for op in p.fragment.ops))
        names = tuple(r.name for r in p.rules)
        ledger.entries.append(LedgerEntry(p.op.kind, p.op.outputs[0].name, names, claim, bound, yields, p.op.origin))
    if replacements:
        work.replace(replacements)
    return bool(replacements)


def _book_folds(work: Graph, folds: Sequence[tuple[Op, Fragment]], ledger: Ledger) -> None:
    """Book the constants that stay: those that an op outside of the folded ones, or an output, reads."""
    folded = {id(op) for op, _ in folds}
    read = {v.name for op in work.ops() if id(op) not in folded for v in op.operands}
    read |= {v.name for v in work.outputs}
    for op, _ in folds:
        ledger.entries.extend(
            LedgerEntry(op.kind, out.name, (FOLD,), "exact", "", (), op.origin)
            for out in op.outputs
            if out.name in read
        )
