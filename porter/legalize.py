# SPDX-License-Identifier: Apache-2.0
"""Legalization: which ops of a graph a target runs, and the rewrites that make the rest legal.

``check`` plans and changes nothing; ``rewrite`` applies the plan, plans again, and stops when nothing is left to do.
Both use the same planner, so that what ``check`` promises is what ``rewrite`` does. (The shape of it - legal ops,
patterns, and a driver that accepts a pattern only when what it yields is legal - is MLIR's dialect conversion.)
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from porter.errors import PorterError
from porter.findings import Finding, OpReport, Report, Severity, Verdict, origin_json
from porter.graph import Graph
from porter.ops import Op, Origin, Value, numpy_dtype
from porter.registry import find_rule, rules_for
from porter.rewrite import CLAIMS, Claim, Fragment, NotApplicable, Rule
from porter.target import Judgement, Target

__all__ = ["DEFAULT_ALLOW", "FOLD", "Ledger", "LedgerEntry", "check", "legalize"]

#: Claims that need no consent.
DEFAULT_ALLOW: tuple[Claim, ...] = ("exact", "bounded")
#: The name under which the ledger books constants that were computed ahead of time.
FOLD = "fold_constants"

#: A rewrite may yield ops that need rewriting themselves; deeper chains than this are a cycle in disguise.
_MAX_DEPTH = 6
#: Rounds of plan and apply. Folding can open the way to rewrites and these to further folding; three were enough for
#: every model tried, and more than this many means that two rules undo each other.
_MAX_ROUNDS = 8
#: The most bytes a precomputed constant may take: a grid is kilobytes, a broadcast to the batch can be gigabytes.
_FOLD_LIMIT = 256 * 2**20

#: Rules that refused an op are named in its finding; more than these help nobody.
_REFUSALS = 3

_SHAPE_ONLY = frozenset({"shape", "size", "fill"})
_NEVER_CONSTANT = frozenset({"random", "if", "loop", "scan"})


@dataclass(slots=True)
class _Planned:
    """What is to become of one op."""

    op: Op
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    fragment: Fragment | None = None
    refused: tuple[str, ...] = ()


class _View:
    """The surroundings of an op: the graph, and the fragments being built around it."""

    __slots__ = ("_outer", "_producers", "_uses")

    def __init__(self, producers: dict[str, Op], uses: dict[str, int], outer: _View | None = None) -> None:
        self._producers, self._uses, self._outer = producers, uses, outer

    def producer(self, value: Value) -> Op | None:
        found = self._producers.get(value.name)
        return self._outer.producer(value) if found is None and self._outer else found

    def uses(self, value: Value) -> int:
        return self._uses.get(value.name, 0) + (self._outer.uses(value) if self._outer else 0)

    def inside(self, fragment: Fragment) -> _View:
        producers = {out.name: op for op in fragment.ops for out in op.outputs}
        uses: dict[str, int] = {}
        for op in fragment.ops:
            for value in op.operands:
                uses[value.name] = uses.get(value.name, 0) + 1
        for value in fragment.results:
            uses[value.name] = uses.get(value.name, 0) + 1
        return _View(producers, uses, self)


class _Planner:
    """One pass over a graph: a verdict for each op and, where it can be had, the legal replacement."""

    def __init__(
        self,
        graph: Graph,
        target: Target,
        allow: Collection[Claim],
        round_: int = 0,
        tried: Collection[tuple[str, str, str]] = (),
    ) -> None:
        self._graph, self._target, self._allow, self._round = graph, target, frozenset(allow), round_
        self._tried = tried
        self._judged: dict[Any, Judgement] = {}
        self._folded: dict[str, Value] = {}

    def plan(self) -> list[_Planned]:
        ops = self._graph.ops()
        judged = [self._judge(op) for op in ops]
        fold = self._fold(ops, judged)
        visible = [self._with_constants(op, self._folded) for op in ops]
        view = _View({out.name: op for op in visible for out in op.outputs}, self._graph.uses())
        planned = []
        for op, seen, said in zip(ops, visible, judged, strict=True):
            if op.outputs[0].name in fold:
                why = fold[op.outputs[0].name]
                texts, codes = (_texts(said), _codes(said)) if said.reasons else ((why,) if why else (), ())
                planned.append(_Planned(op, "fold", texts, codes))
                continue
            now = said if seen is op else self._judge(seen)
            if now.verdict == "native":
                planned.append(_Planned(op, "native"))
            else:
                plan = self._plan_op(seen, now, view, 0, frozenset())
                plan.op = op
                planned.append(plan)
        return planned

    def optional(self, rule: Rule) -> list[_Planned]:
        """Every op on which a rule that the user asked for applies, legal or not."""
        view = _View(self._graph.producers(), self._graph.uses())
        planned = []
        for op in self._graph.ops():
            if op.kind in rule.removes:
                try:
                    fragment = rule.apply(view, op, self._prefix(op))
                except NotApplicable:
                    continue
                planned.append(_Planned(op, "rewrite", rules=(rule,), fragment=fragment))
        return planned

    def folds(self, planned: Sequence[_Planned]) -> list[tuple[Op, Fragment]]:
        """The replacements of the ops to fold: the constants that they compute."""
        return [
            (p.op, Fragment([], tuple(self._constant(out.name) for out in p.op.outputs)))
            for p in planned
            if p.verdict == "fold"
        ]

    def _constant(self, name: str) -> Value:
        return Value.constant(f"{name}_const", self._folded[name].numpy())

    # -- constants ---------------------------------------------------------------------------------

    def _fold(self, ops: Sequence[Op], judged: Sequence[Judgement]) -> dict[str, str]:
        """Choose the ops to precompute, and compute them; what the framework cannot compute is not a constant."""
        failed: set[str] = set()
        while True:
            fold = self._foldable(ops, judged, failed)
            chosen = [op for op in ops if op.outputs[0].name in fold]
            wanted = [out for op in chosen for out in op.outputs]
            data = self._graph.evaluate(wanted, _FOLD_LIMIT) if wanted else {}
            lacking = {op.outputs[0].name for op in chosen if any(out.name not in data for out in op.outputs)}
            if not lacking:
                self._folded = {out.name: Value(out.name, out.shape, out.dtype, data[out.name]) for out in wanted}
                return fold
            failed |= lacking

    def _foldable(self, ops: Sequence[Op], judged: Sequence[Judgement], failed: Collection[str]) -> dict[str, str]:
        """The ops to precompute, by the name of their first output, with the reason where it is a reader's.

        A constant sub-graph is precomputed where one of its ops is not legal, or where an op that reads it is legal
        only with a constant there (the bias of a convolution that an exporter put behind an Identity). Constants that
        the device may as well compute stay as they are.
        """
        constant: dict[str, Op] = {}
        for op in ops:
            known = (
                op.kind not in _NEVER_CONSTANT
                and op.outputs[0].name not in failed
                and (op.kind in _SHAPE_ONLY or all(v.is_const or v.name in constant for v in op.operands))
            )
            if known and all(_fits(out) for out in op.outputs):
                constant.update((out.name, op) for out in op.outputs)
        if not constant:
            return {}
        fold: dict[str, str] = {}
        promised = {out.name: self._promised(out) for op in constant.values() for out in op.outputs}
        for op, said in zip(ops, judged, strict=True):
            read = [constant[v.name] for v in op.operands if v.name in constant]
            if op.outputs[0].name in constant:
                if said.verdict != "native" or any(source.outputs[0].name in fold for source in read):
                    fold.setdefault(op.outputs[0].name, "")
            elif read and said.verdict != "native":
                try:
                    seen = self._judge(self._with_constants(op, promised))
                except KeyError:  # a limit asked for the value of a constant that cannot be computed
                    continue
                if len(seen.reasons) < len(said.reasons):
                    why = f"{op.kind} needs it as a constant"
                    fold.update((source.outputs[0].name, fold.get(source.outputs[0].name) or why) for source in read)
        return self._with_feeders(ops, constant, fold)

    def _with_feeders(self, ops: Sequence[Op], constant: Mapping[str, Op], fold: dict[str, str]) -> dict[str, str]:
        """Add what only feeds a precomputed constant: it disappears with it."""
        readers: dict[str, list[str]] = {}
        for op in ops:
            for value in op.operands:
                readers.setdefault(value.name, []).append(op.outputs[0].name)
        kept = {value.name for value in self._graph.outputs}
        for op in reversed(ops):
            name = op.outputs[0].name
            if name in constant and name not in fold and not kept & {out.name for out in op.outputs}:
                uses = [reader for out in op.outputs for reader in readers.get(out.name, ())]
                if uses and all(reader in fold for reader in uses):
                    fold[name] = ""
        return fold

    def _promised(self, out: Value) -> Value:
        """The value as the constant that it may become. Its data is computed only if a limit asks for it."""
        return Value(out.name, out.shape, out.dtype, lambda: self._graph.evaluate([out], _FOLD_LIMIT)[out.name])

    @staticmethod
    def _with_constants(op: Op, constants: Mapping[str, Value]) -> Op:
        if not constants or not any(v.name in constants for v in op.operands):
            return op
        return replace(op, inputs=tuple(v and constants.get(v.name, v) for v in op.inputs))

    # -- legality ----------------------------------------------------------------------------------

    def _judge(self, op: Op) -> Judgement:
        # Judging reads shapes, dtypes and attributes; values only of constants. Long chains repeat the same op.
        key: list[Any] = [op.kind, *op.attrs.items()]
        for value in op.inputs:
            if value is None:
                key.append(None)
            elif value.is_const:
                return self._target.judge(op)
            else:
                key += (value.shape, value.dtype)
        for value in op.outputs:
            key += (value.shape, value.dtype)
        try:
            found = self._judged.get(tuple(key))
        except TypeError:  # an unhashable attribute
            return self._target.judge(op)
        if found is None:
            found = self._judged[tuple(key)] = self._target.judge(op)
        return found

    def _prefix(self, op: Op) -> str:
        return f"{op.outputs[0].name}_r{self._round}"

    def _plan_op(self, op: Op, judged: Judgement, view: _View, depth: int, trail: frozenset[str]) -> _Planned:
        reasons, codes = _texts(judged), _codes(judged)
        consent: list[str] = []
        refused: list[str] = []
        best: tuple[int, int, int, tuple[Rule, ...], Fragment] | None = None
        for rule in rules_for(op.kind):
            if rule.optional or rule.name in trail:
                continue
            rank = _rank(rule.claim)
            if best is not None and (rank > best[0] or (best[0], best[2]) == (0, 1)):
                break  # rules come strongest claim first, the most particular first; nothing beats one exact step
            if rule.claim not in self._allow:
                consent.append(f"{rule.name} is {rule.claim}; permit it with --allow {rule.claim}")
                continue
            if (op.outputs[0].name, op.kind, rule.name) in self._tried:
                refused.append(f"{rule.name} was applied, and the {self._graph.dialect} form of it is {op.kind} again")
                continue
            try:
                fragment = rule.apply(view, op, self._prefix(op))
                used, legal = self._legal(fragment, view, depth, trail | {rule.name})
            except NotApplicable as why:
                refused.append(f"{rule.name} does not apply: {why}")
                continue
            chain = (rule, *used)
            weakest = max(_rank(r.claim) for r in chain)
            rating = (weakest, len(legal.ops), len(chain))
            if best is None or rating < best[:3]:
                best = (*rating, chain, legal)
        if best is not None:
            return _Planned(op, "rewrite", reasons, codes, best[3], best[4])
        return _Planned(op, judged.verdict, reasons, codes, refused=(*consent, *refused))

    def _legal(
        self, fragment: Fragment, view: _View, depth: int, trail: frozenset[str]
    ) -> tuple[tuple[Rule, ...], Fragment]:
        """The fragment with every op of it legal, nested rewrites put in; raises NotApplicable where that fails."""
        used: dict[str, Rule] = {}
        ops: list[Op] = []
        now: dict[str, Value] = {}
        inner: _View | None = None
        for op in fragment.ops:
            if now:
                op.inputs = tuple(v and now.get(v.name, v) for v in op.inputs)
            judged = self._judge(op)
            if judged.verdict == "native" or (op.operands and all(v.is_const for v in op.operands)):
                ops.append(op)  # an op on constants alone is folded in the next round
                continue
            if depth + 1 >= _MAX_DEPTH:
                raise NotApplicable(f"it would need more than {_MAX_DEPTH} rewrites one inside the other")
            inner = inner or view.inside(fragment)
            plan = self._plan_op(op, judged, inner, depth + 1, trail)
            if plan.fragment is None:
                why = plan.reasons[0] if plan.reasons else plan.verdict
                raise NotApplicable(f"it yields {op.kind}, which is not legal here either ({why})")
            used.update((r.name, r) for r in plan.rules)
            ops.extend(plan.fragment.ops)
            now.update((old.name, new) for old, new in zip(op.outputs, plan.fragment.results, strict=True))
        if not now:
            return (), fragment
        results = tuple(now.get(v.name, v) for v in fragment.results)
        return tuple(used.values()), Fragment(ops, results)


def _texts(judged: Judgement) -> tuple[str, ...]:
    return tuple(f"{reason.code}: {reason}" for reason in judged.reasons)


def _codes(judged: Judgement) -> tuple[str, ...]:
    return tuple(reason.code for reason in judged.reasons)


def _fits(value: Value) -> bool:
    if value.shape is None or value.dtype is None:
        return False
    count = 1
    for extent in value.shape:
        count *= extent
    return count * _itemsize(value.dtype) <= _FOLD_LIMIT


def _itemsize(dtype: str) -> int:
    try:
        return numpy_dtype(dtype).itemsize
    except TypeError:  # a type of no fixed size, such as ONNX's strings
        return 8


_RANKS: dict[Claim, int] = {claim: rank for rank, claim in enumerate(CLAIMS)}


def _rank(claim: Claim) -> int:
    return _RANKS[claim]


# -- reports ---------------------------------------------------------------------------------------


def _report(graph: Graph, target: Target, planned: Sequence[_Planned]) -> Report:
    ops = tuple(
        OpReport(
            p.op.kind, p.op.name or p.op.outputs[0].name, p.verdict, p.reasons,
            tuple(r.name for r in p.rules) or ((FOLD,) if p.verdict == "fold" else ()), p.op.origin, p.op,
        )
        for p in planned
    )  # fmt: skip
    findings = tuple(f for p in planned if p.verdict != "native" for f in _findings(p))
    return Report(target.name, graph.source, ops, (*findings, *_of_model(graph, target)))


_MODEL_FIXES = {
    "PT205": "export the model with an opset that the target takes",
    "PT206": "split the model, or join outputs",
    "PT207": "export the model with another input shape",
}


def _of_model(graph: Graph, target: Target) -> Iterator[Finding]:
    """What the target has against the model as a whole."""
    for reason in target.judge_model(graph.inputs, graph.outputs, graph.opset):
        severity: Severity = "warning" if reason.certainty == "unknown" else "error"
        yield Finding(reason.code, severity, str(reason), Origin(), _MODEL_FIXES[reason.code])


_SEVERITY: dict[Verdict, Severity] = {
    "fold": "warning", "rewrite": "warning", "host": "warning", "unknown": "warning", "unsupported": "error",
}  # fmt: skip


def _findings(p: _Planned) -> list[Finding]:
    if p.verdict == "rewrite":
        fix = "porter rewrite applies " + ", then ".join(f"{r.name} ({r.claim})" for r in p.rules)
    elif p.verdict == "fold":
        fix = "porter rewrite computes it ahead of time"
    elif p.refused:
        fix = "; ".join(p.refused[:_REFUSALS])
    else:
        fix = "no rewrite removes it: change the model, or write a rule for it (README, Your own rule)"
    message = "; ".join(_bare(p.reasons)) or f"{p.op.kind}: {p.verdict}"
    if p.verdict == "fold" and not p.codes:
        message = f"{p.op.kind} belongs to a constant that is computed on the device each time"
    code = p.codes[0] if p.codes else "PT110"
    return [Finding(code, _SEVERITY[p.verdict], message, p.op.origin, fix, p.op.name, p.op.kind)]


def _bare(reasons: Sequence[str]) -> list[str]:
    """Reasons without their code, which the finding carries in a field of its own."""
    return [text.partition(": ")[2] for text in reasons]


def check(graph: Graph, target: Target, allow: Collection[Claim] = DEFAULT_ALLOW) -> Report:
    """The verdict of every op of ``graph`` on ``target``. Changes nothing."""
    return _report(graph, target, _Planner(graph, target, _claims(allow)).plan())


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
    """Everything that was done to a model, in order; how it was proved; and for how many of the ops of the result the
    origin is known (``traced`` of ``ops``)."""

    target: str
    model: str
    entries: list[LedgerEntry] = field(default_factory=list)
    proof: str = "not verified"
    ops: int = 0
    traced: int = 0

    @property
    def claim(self) -> Claim:
        """The weakest claim of all entries."""
        return max((e.claim for e in self.entries), key=_rank, default="exact")

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "model": self.model,
            "claim": self.claim,
            "proof": self.proof,
            "ops": self.ops,
            "traced": self.traced,
            "entries": [entry.to_json() for entry in self.entries],
        }


def legalize(
    graph: Graph,
    target: Target,
    allow: Collection[Claim] = DEFAULT_ALLOW,
    apply: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> tuple[Graph, Ledger, Report, Report]:
    """Make ``graph`` legal for ``target``, as far as the rules go.

    Args:
        graph: the model; it is not changed.
        target: the device.
        allow: claims that may be used beside exact and bounded.
        apply: optional rules to apply first wherever they fit.
        progress: called with a short text at each step.

    Returns:
        The new graph, the ledger of what was done, the report before, and the report after.

    Raises:
        PorterError: PT392 for a rule that does not exist, PT519 for such a claim.
    """
    allow = _claims(allow)
    say = progress or (lambda _text: None)
    optional = [find_rule(name, "--apply") for name in apply]
    work = graph.copy()
    ledger = Ledger(target.name, graph.source)
    before: Report | None = None
    if optional:
        before = check(work, target, allow)
        for rule in optional:
            say(rule.name)
            _apply(work, _Planner(work, target, allow, round_=0).optional(rule), ledger)
    tried: set[tuple[str, str, str]] = set()
    for round_ in range(1, _MAX_ROUNDS + 1):
        say(f"planning, round {round_}")
        planner = _Planner(work, target, allow, round_, tried)
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
            ledger.ops = len(planned)
            ledger.traced = sum(p.op.origin.known for p in planned)
            return work, ledger, before, _report(work, target, planned)
    raise RuntimeError(f"no end after {_MAX_ROUNDS} rounds: rules undo each other ({ledger.entries[-1].rules})")


def _apply(work: Graph, planned: Sequence[_Planned], ledger: Ledger) -> bool:
    replacements = []
    for p in planned:
        assert p.fragment is not None
        replacements.append((p.op, p.fragment))
        claim = max((r.claim for r in p.rules), key=_rank)
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
