# SPDX-License-Identifier: Apache-2.0
"""Fusing: a rule that takes in ops upstream removes them although it is applied to an op that is legal itself.

The device has no erf, but it has gelu: of ``x / 2 * (1 + erf(x / sqrt(2)))`` only the erf is illegal, and what replaces
it stands for the whole formula, in the place of the last product. So legal ops below an illegal one are offered to the
rules that fuse it; an offer is taken where it makes at least one illegal op superfluous and is no weaker than what else
would become of that op. What does not run anyway is never fused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from porter.ops import Op
from porter.rewrite import CLAIMS, Claim, Fragment, NoPattern, NotApplicable, Rule

__all__ = ["Fused", "Fusible", "Replacement", "fuse"]

#: How many ops downstream of an illegal one are asked for the reason why no rule fused it.
_READERS = 64
#: Offers that turn out to remove nothing are withdrawn, which can make others pointless: this often.
_WITHDRAWALS = 4
_RANK = {claim: i for i, claim in enumerate(CLAIMS)}


@dataclass(frozen=True, slots=True)
class Fusible:
    """An op as the planner sees it.

    ``illegal`` where it has to go, with the weakest claim of the rewrite that it has already (None: there is none).
    ``instead`` is that rewrite's fragment; ``gone`` that the op becomes a constant.
    """

    op: Op
    illegal: bool = False
    claim: Claim | None = None
    instead: Fragment | None = None
    gone: bool = False


class Replacement(NamedTuple):
    """What replaces an op, and by which rules."""

    rules: tuple[Rule, ...]
    fragment: Fragment


@dataclass(frozen=True, slots=True)
class Fused:
    """What :func:`fuse` chose. All keys are places in the list of ops.

    ``replacements`` of legal ops; ``superfluous``: for each illegal op that nothing reads any more, the place of the op
    whose replacement does its work; ``refused``: for illegal ops that stay, why rules did not fuse them.
    """

    replacements: dict[int, Replacement] = field(default_factory=dict)
    superfluous: dict[int, int] = field(default_factory=dict)
    refused: dict[int, list[tuple[Rule, str]]] = field(default_factory=dict)


Attempt = Callable[[Rule, Op], Replacement]


def fuse(ops: Sequence[Fusible], outputs: Collection[str], rules: Sequence[Rule], attempt: Attempt) -> Fused:
    """Choose the ops to replace by fusions. Linear in the number of ops.

    Args:
        ops: all of a graph, in topological order.
        outputs: names of the graph's outputs.
        rules: those that fuse, the strongest claim first.
        attempt: applies a rule to an op; the fragment is legal, and its ``merged`` are the ops upstream that it stands
            for. Raises NotApplicable.
    """
    illegal = {one.op.kind for one in ops if one.illegal}
    roots = {one.op.kind for one in ops if not one.illegal}
    wanted = [rule for rule in rules if illegal.intersection(rule.fuses)]
    merging = any(one.instead is not None and one.instead.merged for one in ops)
    if not (merging or any(roots.intersection(rule.removes) for rule in wanted)):
        return Fused()
    places = {out.name: i for i, one in enumerate(ops) for out in one.op.outputs}
    found, refused = _offers(ops, outputs, places, wanted, attempt)
    for _ in range(_WITHDRAWALS if found else 0):
        dead = _dead(ops, outputs, found)
        useless = [i for i, offer in found.items() if dead.isdisjoint(_illegal(ops, places, offer.fragment))]
        for i in useless:
            rule = found.pop(i).rules[0]
            refused.setdefault(i, []).append((rule, NotApplicable("a part of the formula is read elsewhere too")))
        if not useless:
            break
    dead = _dead(ops, outputs, found) if found or merging else set()
    superfluous: dict[int, int] = {}
    for i, one in enumerate(ops):
        fragment = found[i].fragment if i in found else one.instead
        if fragment is not None and i not in dead:
            superfluous.update((j, i) for j in _illegal(ops, places, fragment) if j in dead)
    left = [i for i, one in enumerate(ops) if one.illegal and one.claim is None and i not in superfluous]
    return Fused(found, superfluous, dict(_told(ops, left, places, wanted, refused)))


def _illegal(ops: Sequence[Fusible], places: Mapping[str, int], fragment: Fragment) -> list[int]:
    """The places of the illegal ops that a fragment does the work of."""
    at = dict.fromkeys(places[op.outputs[0].name] for op in fragment.merged if op.outputs[0].name in places)
    return [i for i in at if ops[i].illegal]


def _reads(fragment: Fragment) -> Iterator[str]:
    for op in fragment.ops:
        yield from (value.name for value in op.operands)
    yield from (value.name for value in fragment.results)


_Refusals = dict[int, list[tuple[Rule, NotApplicable]]]


def _offers(
    ops: Sequence[Fusible], outputs: Collection[str], places: Mapping[str, int], rules: Sequence[Rule], attempt: Attempt
) -> tuple[dict[int, Replacement], _Refusals]:
    """From the outputs up, so that the largest pattern comes first and what it takes in is asked no more."""
    by_kind: dict[str, list[Rule]] = {}
    for rule in rules:
        for kind in rule.removes:
            by_kind.setdefault(kind, []).append(rule)
    needed = set(outputs)
    found: dict[int, Replacement] = {}
    refused: _Refusals = {}
    taken: set[int] = set()
    for i in range(len(ops) - 1, -1, -1):
        one = ops[i]
        if needed.isdisjoint(out.name for out in one.op.outputs):
            continue
        fragment = one.instead
        if not one.illegal and not one.gone and i not in taken:
            for rule in by_kind.get(one.op.kind, ()):
                try:
                    offer = attempt(rule, one.op)
                except NotApplicable as why:
                    refused.setdefault(i, []).append((rule, why))
                    continue
                if _worth(ops, _illegal(ops, places, offer.fragment), offer):
                    found[i], fragment = offer, offer.fragment
                    break
        if fragment is not None:
            taken.update(places[op.outputs[0].name] for op in fragment.merged if op.outputs[0].name in places)
        needed.update(_needs(one, fragment))
    return found, refused


def _worth(ops: Sequence[Fusible], removed: Sequence[int], offer: Replacement) -> bool:
    """Whether the offer removes an op that has no rewrite of its own, or only one with a claim that is not stronger."""
    rank = max(_RANK[rule.claim] for rule in offer.rules)
    claims = [ops[i].claim for i in removed]
    return any(claim is None or rank <= _RANK[claim] for claim in claims)


def _needs(one: Fusible, fragment: Fragment | None) -> Iterator[str]:
    if fragment is not None:
        yield from _reads(fragment)
    elif not one.gone:
        yield from (value.name for value in one.op.operands)


def _dead(ops: Sequence[Fusible], outputs: Collection[str], found: Mapping[int, Replacement]) -> set[int]:
    """The places of ops that nothing reads any more."""
    needed = set(outputs)
    dead = set()
    for i in range(len(ops) - 1, -1, -1):
        one = ops[i]
        if needed.isdisjoint(out.name for out in one.op.outputs):
            dead.add(i)
        else:
            needed.update(_needs(one, found[i].fragment if i in found else one.instead))
    return dead


def _told(
    ops: Sequence[Fusible],
    left: Sequence[int],
    places: Mapping[str, int],
    rules: Sequence[Rule],
    refused: _Refusals,
) -> Iterator[tuple[int, list[tuple[Rule, str]]]]:
    """For each illegal op that is left: what the rules said at the ops that depend on it."""
    if not left or not refused:
        return
    readers: dict[int, list[int]] = {}
    for i, one in enumerate(ops):
        for value in one.op.operands:
            if value.name in places:
                readers.setdefault(places[value.name], []).append(i)
    for i in left:
        mine = [rule for rule in rules if ops[i].op.kind in rule.fuses]
        said: dict[str, tuple[Rule, str]] = {}
        waiting, seen = [i], {i}
        while mine and waiting and len(seen) < _READERS:
            at = waiting.pop(0)
            for rule, why in refused.get(at, ()):
                if rule in mine and not isinstance(why, NoPattern):
                    said[rule.name] = (rule, str(why))  # the farthest, of the largest formula
            new = [j for j in readers.get(at, ()) if j not in seen]
            waiting += new
            seen.update(new)
        if said:
            yield i, list(said.values())
