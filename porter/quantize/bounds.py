# SPDX-License-Identifier: Apache-2.0
"""What the structure of a model says about ranges, before any data: a sigmoid ends at 1, a grid of anchors at 640.

A bound is *sure* (every input keeps it: a sigmoid, a constant, what is made of them) or *likely*: a value that is not
known (the result of a convolution) is taken as nothing beside a constant that is added to it, and as about 1 where it
is multiplied by one. That is enough to see boxes in pixels beside scores.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from porter.errors import PorterError
from porter.findings import Finding
from porter.graph import Graph
from porter.ops import Array, Op, Value, moved_axis
from porter.quantize.conflicts import LEVELS, joined_parts, joins
from porter.quantize.numerics import BITS, qrange
from porter.quantize.plan import plan
from porter.quantize.scheme import Scheme
from porter.target import Target

__all__ = ["Bound", "bounds", "foreseen"]


@dataclass(frozen=True, slots=True)
class Bound:
    """low <= value <= high for every input when ``sure``; else about that."""

    low: float
    high: float
    sure: bool

    @property
    def size(self) -> float:
        return max(self.high, -self.low)


_UNIT = Bound(0.0, 1.0, True)
_KNOWN: dict[str, Bound] = {
    "sigmoid": _UNIT,
    "hardsigmoid": _UNIT,
    "softmax": _UNIT,
    "relu6": Bound(0.0, 6.0, True),
    "tanh": Bound(-1.0, 1.0, True),
    "erf": Bound(-1.0, 1.0, True),
    "sin": Bound(-1.0, 1.0, True),
    "cos": Bound(-1.0, 1.0, True),
}
#: Kinds whose results are elements of their first operand.
_MOVED = frozenset({
    "identity", "reshape", "flatten", "permute", "squeeze", "unsqueeze", "expand", "repeat", "select", "split", "chunk",
    "unbind", "take", "gather", "index_select", "max_pool1d", "max_pool2d", "max_pool3d", "pixel_shuffle",
    "pixel_unshuffle", "flip", "roll", "amax", "amin",
})  # fmt: skip
#: The fewest steps that an 8-bit scale has above zero.
_STEPS = 127
#: Constants larger than this many elements are not read: a bound is not worth the memory.
_ELEMENTS = 2**24
#: Bounds of each element are kept for so many elements; beyond, one bound is for all.
_EACH = 2**18


def bounds(graph: Graph) -> dict[str, Bound]:
    """The bounds of all values that have one, by name."""
    found: dict[str, _Box] = {}

    def of(value: Value | None) -> _Box | None:
        if value is None:
            return None
        if value.name not in found and value.is_const and math.prod(value.shape or (1,)) <= _ELEMENTS:
            constant = _constant(value)
            if constant is not None:
                found[value.name] = constant
        return found.get(value.name)

    producers = graph.producers()
    for op in graph.ops():
        box = _slice(producers, op, of) if op.kind == "slice" else _result(op, of)
        if box is not None and np.isfinite(box.low).all() and np.isfinite(box.high).all():
            found.update((out.name, box) for out in op.outputs)
    return {name: box.bound for name, box in found.items()}


class _Box(NamedTuple):
    """Bounds of each element, float64 arrays that broadcast to the value's shape (without axes: one for all).

    A grid of anchors and their strides are constants of many elements; the product of their largest is none that any
    anchor reaches.
    """

    low: Array
    high: Array
    sure: bool

    @property
    def bound(self) -> Bound:
        return Bound(float(self.low.min()), float(self.high.max()), self.sure)

    @property
    def whole(self) -> _Box:
        """One for all elements, which may be moved."""
        return _Box(self.low.min(), self.high.max(), self.sure)


def _box(low: float, high: float, sure: bool) -> _Box:
    return _Box(np.asarray(low, np.float64), np.asarray(high, np.float64), sure)


def _constant(value: Value) -> _Box | None:
    if not (value.dtype or "").startswith(("float", "int")):
        return None
    array = value.numpy()
    if not array.size or not np.isfinite(array).all():
        return None
    array = array.astype(np.float64) if array.size <= _EACH else array
    box = _Box(array, array, True)
    return box if array.size <= _EACH else _box(float(array.min()), float(array.max()), True)


def _result(op: Op, of: Callable[[Value | None], _Box | None]) -> _Box | None:
    kind = op.kind
    if kind in _KNOWN:
        known = _KNOWN[kind]
        return _box(known.low, known.high, known.sure)
    first = of(op.inputs[0]) if op.inputs else None
    if kind in _MOVED:
        return first if first is None or kind == "identity" else first.whole
    if kind == "clamp" and op.attrs["min"] is not None and op.attrs["max"] is not None:
        return _box(float(op.attrs["min"]), float(op.attrs["max"]), True)
    if kind in ("cat", "stack"):
        return _union([of(value) for value in op.operands])
    if kind == "exp":
        return _box(0.0, 1.0, False) if first is None else _exp(first)
    if kind in ("add", "sub", "mul", "div"):
        return _arithmetic(kind, first, of(op.inputs[1]))
    return None


def _union(parts: Sequence[_Box | None]) -> _Box | None:
    known = [part.bound for part in parts if part is not None]
    if not known:
        return None
    sure = len(known) == len(parts) and all(part.sure for part in known)
    return _box(min(part.low for part in known), max(part.high for part in known), sure)


def _slice(producers: Mapping[str, Op], op: Op, of: Callable[[Value | None], _Box | None]) -> _Box | None:
    """Of the tensors that the slice holds elements of: one of boxes and scores joined may hold scores alone."""
    a, x = op.attrs, op.operands[0]
    if len(a["axes"]) != 1 or a["steps"] != (1,):
        return _union([of(x)])
    return _union([of(value) for value in _sliced(producers, x, a["axes"][0], a["starts"][0], a["ends"][0])])


def _sliced(producers: Mapping[str, Op], x: Value, axis: int, start: int, end: int) -> list[Value]:
    """The values whose elements x[start:end] along ``axis`` are, through moves and concatenations."""
    found: dict[str, Value] = {}
    waiting, done = [(x, axis, start, end)], set()
    while waiting:
        value, axis, start, end = waiting.pop()
        if (value.name, axis, start, end) in done:
            continue
        done.add((value.name, axis, start, end))
        op = producers.get(value.name)
        if op is not None and op.kind == "cat" and all(part.shape is not None for part in op.operands):
            at = 0
            for part in op.operands:
                if op.attrs["axis"] != axis:
                    waiting.append((part, axis, start, end))
                    continue
                size = (part.shape or ())[axis]
                low, high = max(start - at, 0), min(end - at, size)
                if low < high:
                    waiting.append((part, axis, low, high))
                at += size
            continue
        before = moved_axis(op, axis) if op is not None else None
        if op is None or before is None:
            found[value.name] = value
        else:
            waiting.append((op.operands[0], before, start, end))
    return list(found.values())


def _exp(x: _Box) -> _Box | None:
    return _Box(np.exp(x.low), np.exp(x.high), x.sure) if x.high.max() < 80 else None


def _arithmetic(kind: str, x: _Box | None, y: _Box | None) -> _Box | None:
    if x is None and y is None:
        return None
    about = 0.0 if kind in ("add", "sub") else 1.0
    sure = x is not None and y is not None and x.sure and y.sure
    x = x or _box(-about, about, False)
    y = y or _box(-about, about, False)
    try:
        each = math.prod(np.broadcast_shapes(x.low.shape, x.high.shape, y.low.shape, y.high.shape))
    except ValueError:  # a broken model: shape inference says so
        return None
    if each > _EACH:
        x, y = x.whole, y.whole
    if kind == "div" and ((y.low <= 0) & (y.high >= 0)).any():
        return None
    if kind == "add":
        return _Box(x.low + y.low, x.high + y.high, sure)
    if kind == "sub":
        return _Box(x.low - y.high, x.high - y.low, sure)
    corners = [a * b if kind == "mul" else a / b for a in (x.low, x.high) for b in (y.low, y.high)]
    return _Box(functools.reduce(np.minimum, corners), functools.reduce(np.maximum, corners), sure)


def foreseen(graph: Graph, target: Target) -> list[Finding]:
    """Findings (PT409) about tensors that would share one 8-bit scale, and of which one is surely too small for it.

    Nothing is said where the target does not quantize, has no 8-bit width, or joins nothing in integers.
    """
    if target.quantization is None:
        return []
    cats = [op for op in graph.ops() if op.kind in ("cat", "stack")]
    known = bounds(graph) if cats else {}
    producers = graph.producers() if cats else {}
    # To plan is the dear part; few models join anything like this.
    if not any(_small(known, joined_parts(producers, op.outputs[0]), _STEPS) for op in cats):
        return []
    try:
        scheme = Scheme.of(target)
        width = next((w for w in scheme.widths.values() if BITS[w.activation] == 8), None)
        if width is None:
            return []
        planned = plan(graph, scheme, width=width.name)
    except PorterError:  # nothing to quantize; porter quantize says so
        return []
    findings, told = [], set()
    low, high = qrange(width.activation)
    for join in joins(graph, planned):
        lost = _small(known, (join.cat, join.parts), high - low if low == 0 else high)
        if lost is None or not join.integer or join.cat.name in told:
            continue
        told.add(join.cat.name)
        largest, small, step = lost
        who = ", ".join(f"{name} (at most {known[name].size:.4g})" for name in small)
        about = "up to" if known[largest].sure else "about"
        findings.append(
            Finding(
                "PT409", "warning",
                f"at {width.name}, {join.value.name} has one scale for {largest} ({about} {known[largest].size:.4g}) "
                f"and {who}: a step of about {step:.3g} leaves too little of the small ones",
                join.cat.origin,
                "Quantize with --outputs separate, cut or int16, or join them on the host.",
                join.cat.name, join.cat.kind,
            )
        )  # fmt: skip
    return findings


def _small(
    known: Mapping[str, Bound], joined: tuple[Op, list[Value]] | None, steps: int
) -> tuple[str, list[str], float] | None:
    """(the largest part of a concatenation, the parts that are surely small beside it, the step) or None."""
    parts = [part.name for part in (joined[1] if joined is not None else ()) if part.name in known]
    largest = max(parts, key=lambda name: known[name].size, default=None)
    if largest is None:
        return None
    step = known[largest].size / steps
    small = [name for name in parts if known[name].sure and 0 < known[name].size < LEVELS * step]
    return (largest, small, step) if small else None
