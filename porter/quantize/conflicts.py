# SPDX-License-Identifier: Apache-2.0
"""Range conflicts: tensors of very different size that end up under one scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from porter.findings import Finding, Severity
from porter.graph import Graph
from porter.ops import Op, Value
from porter.quantize.calibrate import Calibration
from porter.quantize.encodings import Encoding, Encodings
from porter.quantize.numerics import BITS, Dtype
from porter.quantize.plan import Group, Plan, Site
from porter.quantize.scheme import PRODUCTS

__all__ = ["LEVELS", "MOVES", "Conflict", "Join", "before_products", "conflicts", "joined_parts", "joins", "wide_pins"]

#: Kinds that move values without changing any: what joins behind them shares the scale of what comes out.
MOVES = frozenset({"reshape", "flatten", "permute", "squeeze", "unsqueeze", "identity", "expand", "repeat", "pad"})
#: With fewer steps than this for its whole range, a joined tensor has lost what it says.
LEVELS = 8


@dataclass(slots=True)
class Join:
    """Concatenated tensors, ``parts``, that end up under one scale: in the input of ``site``, in the integer tensor
    ``value``, or (``integer`` False) in an output that stays in float. ``cat`` is the last concatenation of them.
    ``inner``: products behind it read what it joins, so that it is no part of the decoding of outputs.
    """

    value: Value
    cat: Op
    parts: list[Value]
    site: Site | None
    integer: bool
    inner: bool


@dataclass(slots=True)
class Conflict:
    """A join that loses some of its parts, and the finding that says so."""

    join: Join
    finding: Finding


def joined_parts(producers: Mapping[str, Op], value: Value) -> tuple[Op, list[Value]] | None:
    """The concatenation behind ``value``, with nothing but moves in between, and all float tensors that it joins."""
    cat = _behind(producers, value)
    if cat is None:
        return None
    return cat, [part for part in _leaves(producers, cat) if (part.dtype or "").startswith("float")]


def _behind(producers: Mapping[str, Op], value: Value) -> Op | None:
    op = producers.get(value.name)
    while op is not None and op.kind in MOVES:
        op = producers.get(op.operands[0].name)
    return op if op is not None and op.kind in ("cat", "stack") else None


def _leaves(producers: Mapping[str, Op], cat: Op) -> Iterator[Value]:
    for value in cat.operands:
        inner = _behind(producers, value)
        if inner is None:
            yield value
        else:
            yield from _leaves(producers, inner)


def joins(graph: Graph, plan: Plan) -> list[Join]:
    """Every concatenation whose result is an integer tensor, or a model output; one for all that share an encoding."""
    producers = graph.producers()
    ends: list[tuple[Value, Site | None, bool]] = []
    if plan.scheme.flow == "operands":
        ends += [(site.input, site, True) for site in plan.sites if site.quantized]
    else:
        ends += [
            (op.outputs[0], None, True)
            for op in graph.ops()
            if op.kind in ("cat", "stack") and op.outputs[0].name in plan.integers
        ]
    ends += [(value, None, False) for value in graph.outputs if value.name not in plan.integers]
    found = []
    needed = before_products(graph)
    for value, site, integer in ends:
        parts = joined_parts(producers, value)
        if parts is not None:
            found.append(Join(value, *parts, site, integer, value.name in needed))
    return found if plan.scheme.flow == "operands" else _merged(found, producers, plan)


def _merged(found: Sequence[Join], producers: Mapping[str, Op], plan: Plan) -> list[Join]:
    """One join for each group of values with one encoding. Its parts are where the group's values come from: what is
    joined twice (a decoder slices it, and joins it again) is one part.
    """
    groups = plan.group_of()
    merged: dict[str, Join] = {}
    rest = []
    for join in found:
        group = groups.get(join.value.name) if join.integer else None
        if group is None:
            rest.append(join)
            continue
        before = merged.get(group.name)
        parts = {} if before is None else {part.name: part for part in before.parts}
        parts |= {part.name: part for value in join.parts for part in _sources(producers, value, group)}
        inner = join.inner and (before is None or before.inner)
        merged[group.name] = replace(join, parts=list(parts.values()), inner=inner)
    return [*merged.values(), *rest]


def _sources(producers: Mapping[str, Op], value: Value, group: Group) -> Iterator[Value]:
    """The values of a group that ``value`` is moved from; itself, where it is none of the group (a concatenation that
    requantizes)."""
    waiting, known = [value], {value.name}
    while waiting:
        value = waiting.pop()
        op = producers.get(value.name)
        if op is None or value.name in group.sources or value.name not in group.values:
            yield value
            continue
        new = [v for v in op.operands if v.name in group.values and v.name not in known]
        known.update(v.name for v in new)
        waiting += reversed(new)


def before_products(graph: Graph) -> set[str]:
    """The names of the values that a product needs, directly or not."""
    needed: set[str] = set()
    for op in reversed(graph.ops()):
        if op.kind in PRODUCTS or any(out.name in needed for out in op.outputs):
            needed.update(value.name for value in op.operands)
    return needed


def conflicts(
    found: Sequence[Join], calibration: Calibration, encodings: Encodings, dtype: Dtype, target: str
) -> list[Conflict]:
    """Joins whose parts are left with a handful of steps under the common scale; each once."""
    lost: list[Conflict] = []
    told: set[tuple[str, bool]] = set()
    seen = calibration.seen
    for join in found:
        extents = [seen.get(part.name) for part in join.parts]
        sizes = [0.0 if pair is None else max(pair[1], -pair[0]) for pair in extents]
        if join.site is not None:
            shared = encodings.input_of(join.site.path)
        elif join.integer:
            shared = encodings.activations[join.value.name]
        else:
            shared = Encoding.from_range(0.0, max(sizes, default=0.0), dtype, "min_max")
        step = shared.scale[0]
        small = {
            part.name: f"{part.name} (up to {size:.4g}: {_fate(size / step)})"
            for part, size in zip(join.parts, sizes, strict=True)
            if 0 < size < LEVELS * step
        }
        key = join.cat.name, join.integer
        if not small or key in told:
            continue
        told.add(key)
        who = (
            f"one {shared.dtype} scale of {step:.3g}, for tensors up to {max(sizes):.4g}, is too coarse for "
            f"{_some(list(small.values()))}"
        )
        if join.integer:
            message = f"{join.site.path if join.site is not None else join.value.name}: {who}"
            ways = [] if join.inner else ["Quantize before they are joined (--outputs separate or cut)."]
            if BITS[shared.dtype] < 16:
                ways.append("Give it 16 bits (--outputs int16).")
            fix = " Or: ".join(ways)
        else:
            message = f"output {join.value.name} stays in float on {target}, so nothing is lost there; {who}"
            fix = ""
        severity: Severity = "warning" if join.integer else "note"
        finding = Finding("PT409", severity, message, join.cat.origin, fix, next(iter(small)), join.cat.kind)
        lost.append(Conflict(join, finding))
    return lost


def wide_pins(plan: Plan, found: Sequence[Conflict], width: str) -> dict[str, str]:
    """Pins that give the joined tensors of conflicts the width ``width``: the layers that read or make them."""
    pins: dict[str, str] = {}
    groups = plan.group_of()
    for conflict in found:
        join = conflict.join
        if not join.integer:
            continue
        if join.site is not None:
            pins[join.site.path] = width
            continue
        group = groups.get(join.value.name)
        names = set(group.values) if group is not None else {join.value.name}
        for site in plan.sites:
            reads = {value.name for value in site.op.operands}
            fits = plan.scheme.fits(site.op.kind, plan.scheme.width(width))
            if site.quantized and fits and (reads & names or site.result.name in names):
                pins[site.output.name] = width
    return pins


def _some(texts: Sequence[str], most: int = 6) -> str:
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def _fate(steps: float) -> str:
    return "rounds to zero" if steps < 0.5 else f"{steps:.2g} steps"
