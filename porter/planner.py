# SPDX-License-Identifier: Apache-2.0
"""The planner: a verdict for each op of a graph and, where it can be had, the legal replacement that costs least.

Of the rules that make an op legal the planner takes the one with the strongest claim; among equals the one whose ops
take the least time by the target's own rates (:mod:`porter.prices`), then the fewest ops, then the shortest chain of
rules. Whether a rule applies is asked once an op, so that a plan is linear in the size of the graph; and not even that
for ops that differ in names only (see :mod:`porter.replaying`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from porter.findings import Candidate, Outcome, Verdict
from porter.fusing import Fusible, Replacement, fuse
from porter.graph import Graph
from porter.latency import tensor_bytes
from porter.ops import Op, Value
from porter.prices import Price, Prices
from porter.registry import rules, rules_for
from porter.replaying import Replay, signature
from porter.rewrite import CLAIMS, Claim, Fragment, NoPattern, NotApplicable, Rule
from porter.target import Judgement, Target

__all__ = ["Planned", "Planner", "claim_rank"]

#: A rewrite may yield ops that need rewriting themselves; deeper chains than this are a cycle in disguise.
_MAX_DEPTH = 6
#: The most bytes a precomputed constant may take: a grid is kilobytes, a broadcast to the batch can be gigabytes.
_FOLD_LIMIT = 256 * 2**20

_SHAPE_ONLY = frozenset({"shape", "size", "fill"})
_NEVER_CONSTANT = frozenset({"random", "if", "loop", "scan"})


@dataclass(slots=True)
class Planned:
    """What is to become of one op."""

    op: Op
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    fragment: Fragment | None = None
    refused: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()


class _View:
    """The surroundings of an op: the graph, and the fragments being built around it."""

    __slots__ = ("_graph", "_outer", "_producers", "_uses")

    def __init__(
        self, graph: Graph, producers: dict[str, Op], uses: dict[str, int], outer: _View | None = None
    ) -> None:
        self._graph, self._producers, self._uses, self._outer = graph, producers, uses, outer

    def producer(self, value: Value) -> Op | None:
        found = self._producers.get(value.name)
        return self._outer.producer(value) if found is None and self._outer else found

    def uses(self, value: Value) -> int:
        return self._uses.get(value.name, 0) + (self._outer.uses(value) if self._outer else 0)

    def expresses(self, op: Op) -> bool:
        return self._graph.expresses(op)

    def seeing(self, ops: Sequence[Op]) -> _View:
        """The same with these ops in the place of those that compute the same values."""
        return _View(self._graph, {out.name: op for op in ops for out in op.outputs}, self._uses, self._outer)

    def inside(self, fragment: Fragment) -> _View:
        producers = {out.name: op for op in fragment.ops for out in op.outputs}
        uses: dict[str, int] = {}
        for op in fragment.ops:
            for value in op.operands:
                uses[value.name] = uses.get(value.name, 0) + 1
        for value in fragment.results:
            uses[value.name] = uses.get(value.name, 0) + 1
        return _View(self._graph, producers, uses, self)


class _Watch(_View):
    """The surroundings of one op, which remember whether a rule looked at them."""

    __slots__ = ("asked",)

    def __init__(self, view: _View) -> None:
        super().__init__(view._graph, {}, {}, view)
        self.asked = False

    def producer(self, value: Value) -> Op | None:
        self.asked = True
        return super().producer(value)

    def uses(self, value: Value) -> int:
        self.asked = True
        return super().uses(value)


class _Offer:
    """A way to make an op legal: the rules in order, what they build, and what that costs."""

    __slots__ = ("_price", "_prices", "chain", "fragment", "rank")

    def __init__(self, chain: tuple[Rule, ...], fragment: Fragment, prices: Prices) -> None:
        self.chain, self.fragment = chain, fragment
        #: Of the weakest claim among the rules.
        self.rank = max(claim_rank(rule.claim) for rule in chain)
        self._prices = prices
        self._price: Price | None = None

    @property
    def price(self) -> Price:
        """Asked for where there is another offer to compare with; mostly there is none."""
        if self._price is None:
            self._price = self._prices.ops(self.fragment.ops)
        return self._price

    @property
    def rating(self) -> tuple[int, float, int, int]:
        return self.rank, self.price.seconds, len(self.fragment.ops), len(self.chain)


class _Considered:
    """The rules that were asked about one op: the best offer, and why each of the others was not taken."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices
        self.best: _Offer | None = None
        self._offers: list[_Offer] = []
        self._consent: list[Rule] = []
        self._refused: list[tuple[Rule, str, str]] = []

    def needs_consent(self, rule: Rule) -> None:
        self._consent.append(rule)

    def refuse(self, rule: Rule, text: str, why: str = "") -> None:
        self._refused.append((rule, text, why or text))

    def offer(self, chain: tuple[Rule, ...], fragment: Fragment) -> None:
        made = _Offer(chain, fragment, self._prices)
        self._offers.append(made)
        best = self.best
        if best is None or made.rank < best.rank or (made.rank == best.rank and made.rating < best.rating):
            self.best = made

    @property
    def refused(self) -> tuple[str, ...]:
        """For the fix of a finding: what consent would do first, then why rules do not apply."""
        consent = (f"{rule.name} is {rule.claim}; permit it with --allow {rule.claim}" for rule in self._consent)
        return (*consent, *(text for _, text, _ in self._refused))

    def told(self) -> tuple[Candidate, ...]:
        """Every candidate: the chosen one, those that lost from the nearest on, those that cannot be had."""
        ranked = sorted(self._offers, key=lambda offer: offer.rating)
        found = [self._lost(offer) for offer in ranked]
        found += [
            Candidate((rule.name,), rule.claim, "not permitted", f"it needs --allow {rule.claim}")
            for rule in self._consent
        ]
        found += [Candidate((rule.name,), rule.claim, "refused", why) for rule, _, why in self._refused]
        return tuple(found)

    def _lost(self, offer: _Offer) -> Candidate:
        best = self.best
        assert best is not None
        claim = max((rule.claim for rule in offer.chain), key=claim_rank)
        kinds = tuple(op.kind for op in offer.fragment.ops)
        price = offer.price
        outcome: Outcome
        if offer is best:
            outcome, why = "chosen", self._why(best)
        elif offer.rank > best.rank:
            strongest = max((rule.claim for rule in best.chain), key=claim_rank)
            outcome, why = "weaker", f"{claim}, where {best.chain[0].name} is {strongest}"
        elif price.seconds > best.price.seconds:
            outcome, why = "dearer", f"{price.microseconds} where {best.chain[0].name} takes {best.price.microseconds}"
        elif len(kinds) > len(best.fragment.ops):
            outcome, why = "dearer", f"{len(kinds)} ops where {best.chain[0].name} makes {len(best.fragment.ops)}"
        elif len(offer.chain) > len(best.chain):
            outcome, why = "dearer", "a longer chain of rules for the same"
        else:
            outcome, why = "dearer", f"no better than {best.chain[0].name}, which is more particular"
        return Candidate(tuple(r.name for r in offer.chain), claim, outcome, why, kinds, price.macs, price.bytes,
                         price.seconds)  # fmt: skip

    def _why(self, best: _Offer) -> str:
        rivals = [offer for offer in self._offers if offer is not best]
        if not rivals:
            return "the only one that makes it legal"
        if all(offer.rank > best.rank for offer in rivals):
            return "the strongest claim"
        same = [offer for offer in rivals if offer.rank == best.rank]
        if all(offer.price.seconds > best.price.seconds for offer in same):
            return "the least time among the strongest claims"
        return "the fewest ops, then rules, among the strongest claims that take the least time"


class Planner:
    """One pass over a graph: a verdict for each op and, where it can be had, the legal replacement."""

    def __init__(
        self,
        graph: Graph,
        target: Target,
        allow: Collection[Claim],
        round_: int = 0,
        tried: Collection[tuple[str, str, str]] = (),
        explain: bool = False,
        given: Collection[str] | None = None,
    ) -> None:
        """``tried`` are the rules that were applied, with the value and the kind that they removed; ``given`` the names
        of the values that the model came with (None: all that it has)."""
        self._graph, self._target, self._allow, self._round = graph, target, frozenset(allow), round_
        self._tried, self._explain, self._given = tried, explain, given
        self._prices = Prices.of_target(target)
        self._judged: dict[Hashable, Judgement] = {}
        self._held: dict[Any, tuple[Op, ...]] = {}
        self._folded: dict[str, Value] = {}
        self._replays: dict[Hashable, tuple[Planned, Replay]] = {}
        #: The values that rules were applied to.
        self._touched = {value for value, _, _ in tried}

    def plan(self) -> list[Planned]:
        ops = self._graph.ops()
        keys = [signature(op) for op in ops]
        judged = [self._judge(op, key) for op, key in zip(ops, keys, strict=True)]
        fold = self._fold(ops, judged)
        visible = [self._with_constants(op, self._folded) for op in ops] if self._folded else ops
        view = _View(self._graph, {out.name: op for op in visible for out in op.outputs}, self._graph.uses())
        planned = []
        for op, seen, said, key in zip(ops, visible, judged, keys, strict=True):
            if op.outputs[0].name in fold:
                why = fold[op.outputs[0].name]
                texts, codes = (_texts(said), _codes(said)) if said.reasons else ((why,) if why else (), ())
                planned.append(Planned(op, "fold", texts, codes))
                continue
            now = said if seen is op else self._judge(seen)
            if now.verdict == "native":
                planned.append(Planned(op, "native"))
            elif seen is op and key is not None and not op.origin.rules and op.outputs[0].name not in self._touched:
                planned.append(self._plan_alike(op, key, now, view))
            else:
                plan = self._plan_op(seen, now, view, 0, frozenset())
                plan.op = op
                planned.append(plan)
        self._fuse(visible, planned, view)
        return planned

    def _plan_alike(self, op: Op, key: Hashable, judged: Judgement, view: _View) -> Planned:
        """The plan of an op that no rule touched yet: that of an earlier one with this signature, if rules looked at
        nothing else."""
        known = self._replays.get(key)
        if known is not None:
            first, replay = known
            made = replay.fragment(op, self._prefix(op))
            return Planned(op, "rewrite", first.reasons, first.codes, first.rules, made)
        watch = _Watch(view)
        plan = self._plan_op(op, judged, watch, 0, frozenset())
        if plan.fragment is not None and not watch.asked and not self._explain:
            recipe = Replay.of(op, plan.fragment, self._prefix(op))
            if recipe is not None:
                self._replays[key] = plan, recipe
        return plan

    def _fuse(self, visible: Sequence[Op], planned: Sequence[Planned], view: _View) -> None:
        """Let rules that fuse take in the illegal ops above legal ones (see :mod:`porter.fusing`)."""
        if all(p.verdict in ("native", "fold") for p in planned):
            return
        numbers = _numbers(visible)
        if numbers:
            visible = [self._with_constants(op, numbers) for op in visible]
            view = view.seeing(visible)

        def attempt(rule: Rule, op: Op) -> Replacement:
            if (op.outputs[0].name, op.kind, rule.name) in self._tried:
                raise NotApplicable("it was applied, and left the op as it was")
            fragment = rule.apply(view, op, self._prefix(op))
            used, legal = self._legal(fragment, view, 0, frozenset((rule.name,)))
            return Replacement((rule, *used), legal)

        ops = [
            Fusible(op, p.verdict not in ("native", "fold"), _weakest(p.rules), p.fragment, p.verdict == "fold")
            for op, p in zip(visible, planned, strict=True)
        ]
        fused = fuse(ops, [v.name for v in self._graph.outputs], self._fusing(), attempt)
        for i, made in fused.replacements.items():
            planned[i].rules, planned[i].fragment = made
        for i, root in fused.superfluous.items():
            planned[i].verdict, planned[i].rules, planned[i].fragment = "rewrite", planned[root].rules, None
        for i, said in fused.refused.items():
            mine = (f"{rule.name} does not apply: {why}" for rule, why in said)
            planned[i].refused = (*mine, *planned[i].refused)

    def _fusing(self) -> list[Rule]:
        """The rules that fuse, may be used, and yield something that the target has."""
        found = [
            rule
            for rule in rules().values()
            if rule.fuses
            and not rule.optional
            and rule.claim in self._allow
            and self._target.ops.keys() & {*rule.yields}
        ]
        return sorted(found, key=lambda rule: claim_rank(rule.claim))

    def optional(self, rule: Rule) -> list[Planned]:
        """Every op on which a rule that the user asked for applies, legal or not."""
        view = _View(self._graph, self._graph.producers(), self._graph.uses())
        planned = []
        for op in self._graph.ops():
            if op.kind in rule.removes:
                try:
                    fragment = rule.apply(view, op, self._prefix(op))
                except NotApplicable:
                    continue
                if rule.fuses and any(self._judge(made).verdict != "native" for made in fragment.ops):
                    continue  # another rule would take it apart again
                planned.append(Planned(op, "rewrite", rules=(rule,), fragment=fragment))
        return planned

    def folds(self, planned: Sequence[Planned]) -> list[tuple[Op, Fragment]]:
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
        only with a constant there (the bias of a convolution that an exporter put behind an Identity). The identity of
        a constant goes too: torch exports weights that are alike once, and toolchains want the others as constants.
        Constants that the device may as well compute stay as they are.
        """
        constant: dict[str, Op] = {}
        for op in ops:
            if op.kind not in _SHAPE_ONLY and not _follows_from(constant, op):
                continue
            if op.kind not in _NEVER_CONSTANT and op.outputs[0].name not in failed and all(map(_fits, op.outputs)):
                constant.update((out.name, op) for out in op.outputs)
        if not constant:
            return {}
        fold: dict[str, str] = {}
        promised = {out.name: self._promised(out) for op in constant.values() for out in op.outputs}
        # An output of the model that is constant is the identity of one, before folding and after.
        given = {value.name for value in self._graph.outputs}
        for op, said in zip(ops, judged, strict=True):
            read = [constant[v.name] for v in op.operands if v.name in constant]
            if op.outputs[0].name in constant:
                alias = op.kind == "identity" and op.operands[0].is_const and op.outputs[0].name not in given
                if said.verdict != "native" or alias or any(source.outputs[0].name in fold for source in read):
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

    def _judge(self, op: Op, key: Hashable | None = None) -> Judgement:
        """The target's judgement; asked once for all ops that differ in names only (``key``: their signature)."""
        key = key or signature(op)
        if key is None:
            return self._target.judge(op)
        found = self._judged.get(key)
        if found is None:
            found = self._judged[key] = self._target.judge(op)
        return found

    def _prefix(self, op: Op) -> str:
        return f"{op.outputs[0].name}_r{self._round}"

    def _progress(self, op: Op, made: Fragment) -> None:
        """Refuse what the dialect would write as an op of the kind that is to go: ONNX has no ``ne``, so that an ``eq``
        replaced by it would be there again; and what it would write as one of a kind that the target lacks: a
        ``square``, which is a Mul."""
        for one in made.ops:
            held = self._held_as(one)
            other = len(held) == 1 and held[0].kind != one.kind
            if any(
                (low.kind == op.kind or other) and low is not one and self._judge(low).verdict != "native"
                for low in held
            ):
                kinds = " and ".join(dict.fromkeys(low.kind for low in held))
                raise NotApplicable(f"it yields {one.kind}, which is written as {kinds} in {self._graph.dialect}")

    def _held_as(self, op: Op) -> tuple[Op, ...]:
        """What the graph would have for ``op`` (see :meth:`porter.graph.Graph.held`); asked once for all alike."""
        operands = tuple(v and (v.shape, v.dtype, v.is_const) for v in op.inputs)
        key = op.kind, tuple(op.attrs.items()), operands
        try:
            held = self._held.get(key)
        except TypeError:  # an unhashable attribute
            return (op,)
        if held is None:
            held = self._held[key] = tuple(self._graph.held(op))
            if held == (op,):
                self._held[key] = ()  # it stands for every op like it, each of which is itself
        return held or (op,)

    def _came_back(self, op: Op, rule: Rule) -> bool:
        """Whether ``rule`` made this op already: what it builds has, in the graph's dialect, the form of what it
        removes (a slice with a negative step is a flip of torch; ONNX writes ``ne`` as an Equal and a Not)."""
        new = op.kind not in rule.yields or (self._given is not None and op.outputs[0].name not in self._given)
        return (new and op.origin.rules[-1:] == (rule.name,)) or (op.outputs[0].name, op.kind, rule.name) in self._tried

    def _plan_op(self, op: Op, judged: Judgement, view: _View, depth: int, trail: frozenset[str]) -> Planned:
        reasons, codes = _texts(judged), _codes(judged)
        considered = _Considered(self._prices)
        explain = self._explain and depth == 0
        for rule in rules_for(op.kind):
            if rule.optional or rule.name in trail:
                continue
            rank = claim_rank(rule.claim)
            if considered.best is not None and rank > considered.best.rank and not explain:
                break  # rules come strongest claim first
            if rule.claim not in self._allow:
                considered.needs_consent(rule)
                continue
            if self._came_back(op, rule):
                why = f"{rule.name} was applied, and the {self._graph.dialect} form of it is {op.kind} again"
                considered.refuse(rule, why)
                continue
            try:
                fragment = rule.apply(view, op, self._prefix(op))
                used, legal = self._legal(fragment, view, depth, trail | {rule.name})
                self._progress(op, legal)
            except NoPattern:
                continue
            except NotApplicable as why:
                considered.refuse(rule, f"{rule.name} does not apply: {why}", str(why))
                continue
            considered.offer((rule, *used), legal)
        candidates = considered.told() if explain else ()
        best = considered.best
        if best is not None:
            return Planned(op, "rewrite", reasons, codes, best.chain, best.fragment, candidates=candidates)
        return Planned(op, judged.verdict, reasons, codes, refused=considered.refused, candidates=candidates)

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
        return tuple(used.values()), Fragment(ops, results, fragment.merged)


def _follows_from(constant: Collection[str], op: Op) -> bool:
    """Whether every operand is a constant or one of these."""
    return not any(v is not None and not v.is_const and v.name not in constant for v in op.inputs)


def _numbers(ops: Sequence[Op]) -> dict[str, Value]:
    """Constants of one element that an exporter put behind an Identity: the coefficients of formulas."""
    found: dict[str, Value] = {}
    for op in ops:
        if op.kind == "identity":
            source, out = found.get(op.operands[0].name, op.operands[0]), op.outputs[0]
            if source.is_const and source.shape is not None and math.prod(source.shape) == 1:
                found[out.name] = Value(out.name, out.shape, out.dtype, source.numpy)
    return found


def _weakest(rules: Sequence[Rule]) -> Claim | None:
    if not rules:
        return None
    weakest: Claim = max((rule.claim for rule in rules), key=claim_rank)
    return weakest


def _texts(judged: Judgement) -> tuple[str, ...]:
    return tuple(f"{reason.code}: {reason}" for reason in judged.reasons)


def _codes(judged: Judgement) -> tuple[str, ...]:
    return tuple(reason.code for reason in judged.reasons)


def _fits(value: Value) -> bool:
    if value.shape is None or value.dtype is None:
        return False
    return tensor_bytes(value) <= _FOLD_LIMIT


_RANKS: dict[Claim, int] = {claim: rank for rank, claim in enumerate(CLAIMS)}


def claim_rank(claim: Claim) -> int:
    """0 for the strongest claim (see :data:`porter.rewrite.CLAIMS`)."""
    return _RANKS[claim]
