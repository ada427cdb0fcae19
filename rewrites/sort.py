# SPDX-License-Identifier: Apache-2.0
"""Sorting, the largest k, and the place of an extreme, by what a device without them has."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import cast, cut, join, need, need_float, need_small, or_zeros, shape_of, spread, view

_MOST_SORTED = 1024
_MOST_STEPS = 16


class _Network:
    """Batcher's odd-even merge sort along axis 1 of (outer, n, inner), n a power of two.

    Source: K. E. Batcher, "Sorting Networks and their Applications", AFIPS 1968. ``places`` are the indices that travel
    along: equal values are then ordered by them, and the sort is stable.
    """

    def __init__(self, b: Builder, values: Value, places: Value | None, descending: bool) -> None:
        self.b, self.values, self.places, self.descending = b, values, places, descending

    def sort(self, last_values: bool) -> None:
        """Sort; ``last_values`` is whether the sorted values are read, or the places alone."""
        n = shape_of(self.values)[1]
        run = 1
        while run < n:
            reach = run
            while reach:
                self._stage(run, reach, last_values or not (reach == 1 and 2 * run == n))
                reach //= 2
            run *= 2

    def _stage(self, run: int, reach: int, values: bool) -> None:
        """Of each two runs, compare the elements that are ``reach`` apart: all at first, then all but the ends."""
        b, skip = self.b, 0 if reach == run else reach
        low, high = self._pairs(self.values, run, reach, skip)
        if self.places is None:
            kinds = ("maximum", "minimum") if self.descending else ("minimum", "maximum")
            self.values = self._back(self.values, [b.op(kind, (low, high))[0] for kind in kinds], run, skip)
            return
        at, other = self._pairs(self.places, run, reach, skip)
        behind = b.lt(low, high) if self.descending else b.gt(low, high)
        swap = b.logical_or(behind, b.logical_and(b.eq(low, high), b.gt(at, other)))
        if values:
            pair = [b.where(swap, high, low), b.where(swap, low, high)]
            self.values = self._back(self.values, pair, run, skip)
        self.places = self._back(self.places, [b.where(swap, other, at), b.where(swap, at, other)], run, skip)

    def _pairs(self, value: Value, run: int, reach: int, skip: int) -> tuple[Value, Value]:
        """The elements to compare: (blocks, reach, inner) twice."""
        b = self.b
        outer, n, inner = shape_of(value)
        count = outer * n // (2 * run)
        middle = cut(b, view(b, value, (count, 2 * run, inner)), 1, skip, 2 * run - skip)
        blocks = view(b, middle, (count * (run - skip) // reach, 2 * reach, inner))
        return cut(b, blocks, 1, 0, reach), cut(b, blocks, 1, reach, 2 * reach)

    def _back(self, before: Value, pair: list[Value], run: int, skip: int) -> Value:
        b, shape = self.b, shape_of(before)
        count = shape[0] * shape[1] // (2 * run)
        middle = view(b, join(b, pair, 1), (count, 2 * (run - skip), shape[2]))
        if skip:
            whole = view(b, before, (count, 2 * run, shape[2]))
            ends = cut(b, whole, 1, 0, skip), cut(b, whole, 1, 2 * run - skip, 2 * run)
            middle = join(b, [ends[0], middle, ends[1]], 1)
        return view(b, middle, shape)


@rewrite(
    removes="sort",
    yields=(
        "reshape", "amax", "amin", "expand", "cat", "slice", "minimum", "maximum", "lt", "gt", "eq",
        "logical_and", "logical_or", "where", "cast",
    ),
    claim="bounded",
    error="bit-equal for operands that are not NaN",
)  # fmt: skip
def sort_to_network(b: Builder, op: Op) -> Any:
    """sort of a short axis becomes a network of minimum and maximum, or of comparisons where indices are read.

    Formula: odd-even merge sort: runs of 1, 2, 4, ... are merged by comparing elements that are as far apart as the run
    is long, then half as far, ...; log2(n) (log2(n) + 1) / 2 stages, each on the whole tensor. With indices, (value,
    index) pairs are compared, which makes the sort stable. An axis that is no power of two is filled up with its
    largest value (smallest, if descending), whose indices are higher than all.
    Example: ``v, i = sort(x of 1x4, axis=1)``, i unread -> ``a, c = slice(0:1), slice(1:2)`` of ``reshape(x, (2, 2,
    1))``; ``cat(minimum(a, c), maximum(a, c))``; the same with slices of 2; then with the two in the middle.
    Bound: bit-equal for operands that are not NaN; the sign of a zero may differ where the indices are not read.
    Does not apply: to more than 1024 elements, to bool, or to more than 16777216 indices.
    """
    x, (values, places) = op.operands[0], op.outputs
    need(x.dtype != "bool", f"{x.name} is bool")
    axis, descending, shape = op.attrs["axis"], op.attrs["descending"], shape_of(x)
    n, outer, inner = shape[axis], prod(shape[:axis]), prod(shape[axis + 1 :])
    need(n <= _MOST_SORTED, f"axis {axis} has {n} elements, more than {_MOST_SORTED}")
    need(prod(shape), "the tensor is empty")
    if n == 1:
        return x, b.const(np.zeros(shape, np.int64))
    wide = 1 << (n - 1).bit_length()
    flat = view(b, x, (outer, n, inner))
    if wide > n:
        worst = b.op("amin" if descending else "amax", (flat,), axes=(1,), keepdim=True)[0]
        flat = join(b, [flat, spread(b, worst, (outer, wide - n, inner))], 1)
    index = None
    if b.uses(places):
        need_small(outer * wide * inner, "an index")
        line = np.arange(wide).reshape(1, wide, 1)
        dtype = x.dtype if x.dtype is not None and "float" in x.dtype else "float32"
        index = b.const(np.ascontiguousarray(np.broadcast_to(line, (outer, wide, inner))), dtype)
    network = _Network(b, flat, index, descending)
    network.sort(bool(b.uses(values)))

    def found(value: Value | None) -> Value:
        assert value is not None
        return view(b, cut(b, value, 1, 0, n), shape)

    return (
        or_zeros(b, values, lambda: found(network.values)),
        or_zeros(b, places, lambda: cast(b, found(network.places), "int64")),
    )


@rewrite(removes="sort", yields="topk", claim="exact")
def sort_to_topk(b: Builder, op: Op) -> Any:
    """sort becomes topk of all elements.

    Formula: the largest n of n elements in order are the elements in descending order (largest off: ascending).
    Example: ``v, i = sort(x of 1x9, axis=1)`` -> ``v, i = topk(x, k=9, axis=1, largest=False)``.
    Bound: values bit-equal; of equal elements topk may name another index first.
    Does not apply: when the shape is unknown.
    """
    x, a = op.operands[0], op.attrs
    return b.topk(x, k=shape_of(x)[a["axis"]], axis=a["axis"], largest=a["descending"], sorted=True)


@rewrite(removes="topk", yields=("sort", "slice"), claim="exact")
def topk_to_sort(b: Builder, op: Op) -> Any:
    """topk becomes the first k of a sort.

    Formula: the largest k are the first k in descending order (largest off: ascending).
    Example: ``v, i = topk(x, k=5, axis=1)`` -> ``w, j = sort(x, axis=1, descending=True); v = slice(w, 0:5); i =
    slice(j, 0:5)``.
    Bound: values bit-equal; of equal elements the first in x comes first, where another kernel may choose.
    Does not apply: to a k of 1 (topk_to_max_dim).
    """
    a = op.attrs
    need(a["k"] > 1, "k is 1")
    found = b.sort(op.operands[0], axis=a["axis"], descending=a["largest"])
    return [
        or_zeros(b, out, lambda value=value: cut(b, value, a["axis"], 0, a["k"]))  # type: ignore[misc]
        for out, value in zip(op.outputs, found, strict=True)
    ]


@rewrite(
    removes="topk",
    yields=("max_dim", "min_dim", "amax", "amin", "abs", "add", "sub", "eq", "where", "cat"),
    claim="bounded",
    error="bit-equal for finite operands",
)
def topk_to_extremes(b: Builder, op: Op) -> Any:
    """topk of a small k becomes max_dim k times, each time without the elements found before.

    Formula: the element found is overwritten by a number below all: amin - (amax - amin) - |amax| - 1, which leaves the
    range of a quantized tensor within a few times its own (largest off: the mirror image).
    Example: ``v, i = topk(x of 1x100, k=2, axis=1)`` -> ``v0, i0 = max_dim(x, axis=1, keepdim=True); v1, i1 =
    max_dim(where(eq(i0, arange), low, x), axis=1, keepdim=True); v = cat(v0, v1); i = cat(i0, i1)``.
    Bound: bit-equal for finite operands below a fifth of the largest number; of equal elements the first in x comes
    first, where another kernel may choose.
    Does not apply: to a k of 1 (topk_to_max_dim) or above 16, or to integers.
    """
    x, a = op.operands[0], op.attrs
    need_float(x)
    k, axis, largest = a["k"], a["axis"], a["largest"]
    need(1 < k <= _MOST_STEPS, f"k is {k}, not 2 to {_MOST_STEPS}")
    shape = shape_of(x)
    line = [1] * len(shape)
    line[axis] = shape[axis]
    places = b.const(np.arange(shape[axis]).reshape(line))
    top, bottom = (b.op(kind, (x,), axes=(axis,), keepdim=True)[0] for kind in ("amax", "amin"))
    reach = b.add(b.sub(top, bottom), b.add(b.abs(top if largest else bottom), 1.0))
    taken = b.sub(bottom, reach) if largest else b.add(top, reach)
    values, indices = [], []
    for step in range(k):
        value, index = b.op("max_dim" if largest else "min_dim", (x,), axis=axis, keepdim=True)
        values.append(value)
        indices.append(index)
        if step + 1 < k:
            x = b.where(b.eq(index, places), taken, x)
    made = (values, indices)
    return [
        or_zeros(b, out, lambda parts=parts: join(b, parts, axis))  # type: ignore[misc]
        for out, parts in zip(op.outputs, made, strict=True)
    ]


@rewrite(
    removes=("argmax", "argmin"),
    yields=("reshape", "amax", "amin", "eq", "cast", "mul", "sub"),
    claim="bounded",
    error="bit-equal for operands that are not NaN",
)
def arg_to_comparison(b: Builder, op: Op) -> Any:
    """argmax becomes a comparison with the maximum and a maximum of numbered places (and argmin alike).

    Formula: i = n - max over j of (n - j) [x_j = max x]: the first place of the maximum has the largest n - j.
    Example: ``i = argmax(x of 1x9, axis=1)`` -> ``m = cast(eq(x, amax(x)), float32); i = cast(sub(9, amax(mul(m, [9, 8,
    ..., 1]))), int64)``.
    Bound: bit-equal for operands that are not NaN.
    Does not apply: to more than 16777216 elements (2048 in float16), which the numbers do not count; or to bool.
    """
    x, axis, keepdim = op.operands[0], op.attrs["axis"], op.attrs["keepdim"]
    need(x.dtype != "bool", f"{x.name} is bool")
    if axis is None:
        x, axis = view(b, x, (prod(shape_of(x)),)), 0
    shape = shape_of(x)
    n = shape[axis]
    counts = x.dtype if x.dtype in ("float16", "float32", "float64") else "float32"
    need(n <= (2048 if counts == "float16" else 2**24), f"{n} elements are more than {counts} counts")
    line = [1] * len(shape)
    line[axis] = n
    extreme = b.op("amax" if op.kind == "argmax" else "amin", (x,), axes=(axis,), keepdim=True)[0]
    hit = b.cast(b.eq(x, extreme), dtype=counts)
    best = b.amax(b.mul(hit, b.const(np.arange(n, 0, -1).reshape(line), counts)), axes=(axis,), keepdim=keepdim)
    return view(b, b.cast(b.sub(float(n), best), dtype="int64"), shape_of(op.outputs[0]))
