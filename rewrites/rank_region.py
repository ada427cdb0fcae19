# SPDX-License-Identifier: Apache-2.0
"""Whole regions of tensors with five and more axes (pixel shuffles, windows, heads of attention) on at most four axes.

A reshape to six axes, a permute, an activation and a reshape back cannot be made legal one by one: each has a neighbour
with six axes. These rules begin where a region ends, at an op that leads from more than four axes to at most four, and
write everything above it anew, up to values of at most four axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from porter.ops import Op, Value, moved_axis
from porter.rewrite import Builder, NotApplicable, rewrite

from ._match import pattern
from ._rank import around_axis, elementwise, permuted, reduction, runs
from ._tools import axes_slice, join, need, shape_of, spread, view
from .rank import ELEMENTWISE

#: More ops than this are no pattern but half a network; each end of a region writes all of it.
_MOST = 32
_VIEWS = ("reshape", "flatten", "squeeze", "unsqueeze", "identity")
_PARTS = ("slice", "select", "split", "chunk", "unbind")
_MOVES = (*_VIEWS, *_PARTS, "permute", "expand", "cat", "stack", *ELEMENTWISE, "softmax", "log_softmax")
_SUMS = ("sum", "mean", "prod", "amax", "amin", "logsumexp", "all", "any")
_ENDS = ("reshape", "flatten", "squeeze", "select", "unbind")
_YIELDS = ("reshape", "permute", "slice", "cat", "expand", "softmax", "log_softmax", *ELEMENTWISE)


class _Region:
    """The ops above one end, written anew. Values stand for their elements in row-major order, in any shape."""

    def __init__(self, b: Builder, kinds: Sequence[str]) -> None:
        self._b, self._kinds = b, frozenset(kinds)
        self.ops: list[Op] = []
        self._done: dict[str, Value] = {}

    def elements(self, value: Value) -> Value:
        """A value of at most four axes with the elements of ``value``."""
        if len(shape_of(value)) <= 4:
            return value
        if value.is_const:
            return self._b.const(value.numpy().reshape(-1))
        found = self._done.get(value.name)
        if found is None:
            op = self._taken(value)
            found = self._done[value.name] = self._of(op, value)
        return found

    def _taken(self, value: Value) -> Op:
        op = self._b.producer(value)
        if op is None:
            raise NotApplicable(f"{value.name}, an input of the model, has {len(shape_of(value))} axes")
        need(op.kind in self._kinds, f"{op.kind} of {len(shape_of(value))} axes lies above it")
        need(0 not in shape_of(value), f"{value.name} is empty")
        self._take(op)
        return op

    def _take(self, op: Op) -> None:
        if not any(op is taken for taken in self.ops):
            self.ops.append(op)
        need(len(self.ops) <= _MOST, f"the region has more than {_MOST} ops")

    def _of(self, op: Op, value: Value) -> Value:
        if op.kind in _VIEWS:
            return self.elements(op.operands[0])
        if op.kind in _PARTS:
            return self.part(op, next(i for i, out in enumerate(op.outputs) if out.name == value.name))
        if op.kind == "permute":
            x = op.operands[0]
            return permuted(self._b, self.elements(x), shape_of(x), tuple(op.attrs["dims"]))
        if op.kind == "expand":
            return self._expanded(op)
        if op.kind in ("cat", "stack"):
            return self._joined(op)
        if op.kind in ("softmax", "log_softmax"):
            x = op.operands[0]
            before, extent, after = around_axis(shape_of(x), op.attrs["axis"])
            shape = (before, extent) if after == 1 else (before, extent, after)
            return self._b.op(op.kind, (view(self._b, self.elements(x), shape),), axis=1)[0]
        if op.kind == "matmul":
            return self._product(op)
        if op.kind in _SUMS:
            return self.reduced(op)
        return elementwise(self._b, op, [self.elements(v) for v in op.operands])

    # -- parts -------------------------------------------------------------------------------------

    def part(self, op: Op, i: int) -> Value:
        """Result ``i`` of an op that cuts along axes."""
        a, x = op.attrs, op.operands[0]
        shape = shape_of(x)
        if op.kind == "select":
            return self._cut(x, a["axis"], range(a["index"], a["index"] + 1))
        if op.kind == "slice":
            boxes = zip(a["axes"], a["starts"], a["ends"], a["steps"], strict=True)
            wanted = [(axis, range(*box)) for axis, *box in boxes]
            wanted = [(axis, r) for axis, r in wanted if r != range(shape[axis])]
            need(len(wanted) <= 1, "a slice cuts several axes at once")
            need(all(r.step > 0 for _, r in wanted), "a slice runs backwards")
            return self._cut(x, *wanted[0]) if wanted else self.elements(x)
        axis = a["axis"]
        sizes = [shape_of(out)[axis] if op.kind != "unbind" else 1 for out in op.outputs]
        return self._cut(x, axis, range(sum(sizes[:i]), sum(sizes[: i + 1])))

    def _cut(self, x: Value, axis: int, wanted: range) -> Value:
        """x[wanted] along an axis; cut before a permute, so that less is moved."""
        shape = shape_of(x)
        op = self._b.producer(x) if len(shape) > 4 and not x.is_const else None
        if op is not None and op.kind == "permute":
            self._take(op)
            dims, inner = tuple(op.attrs["dims"]), op.operands[0]
            less = self._cut(inner, dims[axis], wanted)
            extents = list(shape_of(inner))
            extents[dims[axis]] = len(wanted)
            return permuted(self._b, less, tuple(extents), dims)
        if op is not None and op.kind in _VIEWS:
            at = moved_axis(op, axis)
            if at is not None and len(shape_of(op.operands[0])) > 4:
                self._take(op)
                return self._cut(op.operands[0], at, wanted)
        before, extent, after = around_axis(shape, axis)
        rows = view(self._b, self.elements(x), (before, extent, after))
        if rows.is_const:
            return self._b.const(np.ascontiguousarray(rows.numpy()[:, wanted.start : wanted.stop : wanted.step]))
        out: Value = self._b.slice(rows, **axes_slice(1, wanted.start, min(wanted.stop, extent), wanted.step))
        return out

    # -- several operands ----------------------------------------------------------------------------

    def _expanded(self, op: Op) -> Value:
        x, shape = op.operands[0], shape_of(op.outputs[0])
        small = (1,) * (len(shape) - len(shape_of(x))) + shape_of(x)
        together = runs([n == m for n, m in zip(small, shape, strict=True)])
        need(len(together) <= 4, f"expand leaves {len(together)} axes")
        flat = view(self._b, self.elements(x), [prod(small[d] for d in run) for run in together])
        return spread(self._b, flat, [prod(shape[d] for d in run) for run in together])

    def _joined(self, op: Op) -> Value:
        axis = op.attrs["axis"]
        before, _, after = around_axis(shape_of(op.outputs[0]), axis)
        sizes = [1 if op.kind == "stack" else shape_of(v)[axis] for v in op.operands]
        parts = [
            view(self._b, self.elements(v), (before, size, after)) for v, size in zip(op.operands, sizes, strict=True)
        ]
        return join(self._b, parts, 1)

    def _product(self, op: Op) -> Value:
        x, y = op.operands
        need(shape_of(x)[:-2] == shape_of(y)[:-2], "a product of matrices broadcasts its batches")
        batch = prod(shape_of(x)[:-2])
        flat = [view(self._b, self.elements(v), (batch, *shape_of(v)[-2:])) for v in (x, y)]
        out: Value = self._b.matmul(*flat)
        return out

    def reduced(self, op: Op) -> Value:
        """The elements of a reduction."""
        return reduction(self._b, op, self.elements(op.operands[0]))


def _rewritten(b: Builder, op: Op, kinds: Sequence[str]) -> Any:
    """What stands for the outputs of the op at the end of a region."""
    shapes = [shape_of(out) for out in op.outputs]
    rank = len(shape_of(op.operands[0]))
    pattern(rank > 4 and max(map(len, shapes)) <= 4, "the end of tensors with more than 4 axes")
    region = _Region(b, kinds)
    found = []
    for i, (out, shape) in enumerate(zip(op.outputs, shapes, strict=True)):
        if op.kind in _PARTS:
            elements = region.part(op, i)
        elif op.kind in _SUMS:
            elements = region.reduced(op)
        else:
            elements = region.elements(op.operands[0])
        found.append(b.const(np.zeros(shape), out.dtype) if 0 in shape else view(b, elements, shape))
    b.merge_origin(*region.ops)
    return found


@rewrite(removes=_ENDS, yields=_YIELDS, claim="exact", fuses=_MOVES)
def region_to_rank4(b: Builder, op: Op) -> Any:
    """Reshapes, permutes, parts and element by element ops on five or more axes become the same on at most four, as
    a whole.

    Formula: neighbouring axes that stay neighbours count as one; a permutation of more blocks than four is a
    product of swaps of two adjacent ones; a part is cut out before it is moved.
    Example: ``y = reshape(permute(reshape(x of 1x56x56x96, (1, 8, 7, 8, 7, 96)), (0, 1, 3, 2, 4, 5)), (64, 7,
    7, 96))`` (the windows of a Swin transformer) -> ``y = reshape(permute(reshape(x, (8, 7, 8, 672)), (0, 2,
    1, 3)), (64, 7, 7, 96))``.
    Bound: bit-equal.
    Does not apply: where a region reaches an input of the model with more than four axes, has an op of another
    kind in it, or more than 32 ops.
    """
    return _rewritten(b, op, _MOVES)


@rewrite(
    removes=(*_ENDS, *_SUMS),
    yields=(*_YIELDS, "matmul", *_SUMS),
    claim="bounded",
    error="4e-06 of the sum of magnitudes",
    fuses=(*_MOVES, "matmul", *_SUMS),
)
def region_with_sums_to_rank4(b: Builder, op: Op) -> Any:
    """The same as region_to_rank4 with reductions and products of batches of matrices in the region, or a reduction
    at its end.

    Formula: neighbouring axes that are reduced count as one, and so do those that are not; the batches of
    matrices are one axis.
    Example: ``y = sum(reshape(x of 2x64x8x8, (2, 4, 16, 8, 8)), axes=(1,))`` -> ``y = reshape(sum(reshape(x,
    (2, 4, 1024)), axes=(1,)), (2, 16, 8, 8))``.
    Bound: 4e-06 of the sum of magnitudes in float32 (a kernel may add in another order).
    Does not apply: as region_to_rank4; to products that broadcast their batches; to sums of integers.
    """
    return _rewritten(b, op, (*_MOVES, "matmul", *_SUMS))
