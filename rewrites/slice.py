# SPDX-License-Identifier: Apache-2.0
"""Slices: with a step, of several axes, backwards, and selections of one index."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from porter.ops import Op, Value, moved_axis
from porter.rewrite import Builder, rewrite

from ._tools import axes_slice, cut, join, need, shape_of, turned, view


def _axes(op: Op, shape: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """(axis, start, end, step) of the axes that the slice changes."""
    a = op.attrs
    return [
        (axis, start, end, step)
        for axis, start, end, step in zip(a["axes"], a["starts"], a["ends"], a["steps"], strict=True)
        if (start, end, step) != (0, shape[axis], 1)
    ]


@rewrite(removes="select", yields=("slice", "reshape"), claim="exact")
def select_to_slice(b: Builder, op: Op) -> Any:
    """x[..., i, ...] becomes a slice of one and a reshape that drops the axis.

    Formula: a selected index is a slice of extent 1 without its axis.
    Example: ``y = select(x, axis=1, index=3)`` -> ``y = reshape(slice(x, axis 1, 3:4), shape without axis
    1)``.
    Bound: bit-equal.
    Does not apply: when the shape is unknown.
    """
    x, axis, index = op.operands[0], op.attrs["axis"], op.attrs["index"]
    shape = shape_of(x)
    return view(b, cut(b, x, axis, index, index + 1), (*shape[:axis], *shape[axis + 1 :]))


@rewrite(removes="slice", yields="slice", claim="exact")
def slice_one_axis_at_a_time(b: Builder, op: Op) -> Any:
    """A slice of several axes becomes one slice per axis.

    Formula: slices of different axes commute.
    Example: ``y = slice(x, axes=(2, 3), ...)`` -> ``y = slice(slice(x, axes=(2,), ...), axes=(3,), ...)``.
    Bound: bit-equal.
    Does not apply: to a slice of one axis, or an unknown shape.
    """
    x = op.operands[0]
    axes = _axes(op, shape_of(x))
    need(len(op.attrs["axes"]) > 1, "one axis is sliced")
    for axis in axes:
        x = b.slice(x, **axes_slice(*axis))
    return x


def _every(b: Builder, x: Value, axis: int, start: int, count: int, step: int) -> Value:
    """x[start::step] along an axis, ``count`` elements, without a step: rows of ``step`` elements, of which
    one is kept.

    The axis and all inner ones become (rows, step * inner), so that no tensor has more than 4 axes.
    """
    shape = shape_of(x)
    if count < 2:
        return cut(b, x, axis, start, start + count)
    inner = prod(shape[axis + 1 :])
    outer = (shape[0], prod(shape[1:axis])) if axis > 0 else (1,)
    lead = start % step
    first = start - lead
    whole = min(count, (shape[axis] - first) // step)
    if whole < count - 1 or whole < 1:
        lead, first, whole = 0, start, count - 1
    rows = view(b, cut(b, x, axis, first, first + whole * step), (*outer, whole, step * inner))
    kept = cut(b, rows, len(outer) + 1, lead * inner, (lead + 1) * inner)
    out = view(b, kept, (*shape[:axis], whole, *shape[axis + 1 :]))
    if whole == count:
        return out
    last = start + whole * step
    return join(b, [out, cut(b, x, axis, last, last + 1)], axis)


@rewrite(removes="slice", yields=("reshape", "slice", "cat", "flip"), claim="exact")
def slice_step_to_reshape(b: Builder, op: Op) -> Any:
    """x[a:b:s] becomes reshape to rows of s, a slice of one column, and a reshape back.

    Formula: in rows of s elements, the elements a, a + s, a + 2 s, ... are one column. The axis and the axes
    inside it are seen as (rows, s * inner), so that no tensor has more than 4 axes; a last row that is cut
    short is put on by itself.
    Example: ``y = slice(x, axes=(3,), starts=(1,), ends=(640,), steps=(2,))`` with x of 1x3x640x640 -> ``y =
    reshape(slice(reshape(x, (1, 1920, 320, 2)), axis 3, 1:2), (1, 3, 640, 320))``. The four slices of a Focus
    layer become legal so; focus_to_conv is the faster form where it applies.
    Bound: bit-equal. A negative step is a positive one, flipped.
    Does not apply: when every step is 1, or the shape is unknown.
    """
    x = op.operands[0]
    axes = _axes(op, shape_of(x))
    need(any(abs(step) > 1 for *_, step in axes), "no axis has a step")
    backwards = []
    for axis, start, end, step in axes:
        count = len(range(start, end, step))
        if step < 0:
            start, step = start + (count - 1) * step, -step
            backwards.append(axis)
        x = cut(b, x, axis, start, start + count) if step == 1 else _every(b, x, axis, start, count, step)
    return b.flip(x, axes=tuple(backwards)) if backwards else x


@rewrite(removes="slice", yields=("slice", "flip"), claim="exact")
def slice_negative_to_flip(b: Builder, op: Op) -> Any:
    """x[b:a:-s] becomes flip(x[a':b':s]).

    Formula: the same elements in the opposite order.
    Example: ``y = slice(x, axes=(2,), starts=(7,), ends=(-1,), steps=(-1,))`` -> ``y = flip(x, axes=(2,))``.
    Bound: bit-equal.
    Does not apply: when no step is negative, or the shape is unknown.
    """
    x = op.operands[0]
    axes = _axes(op, shape_of(x))
    backwards = tuple(axis for axis, *_, step in axes if step < 0)
    need(backwards, "no step is negative")
    forward = []
    for axis, start, end, step in axes:
        if step < 0:
            count = len(range(start, end, step))
            start, end, step = start + (count - 1) * step, start + 1, -step
        if (start, end, step) != (0, shape_of(x)[axis], 1):
            forward.append((axis, start, end, step))
    if forward:
        names = ("axes", "starts", "ends", "steps")
        x = b.slice(x, **dict(zip(names, zip(*forward, strict=True), strict=True)))
    return b.flip(x, axes=backwards)


@rewrite(removes="slice", yields="split", claim="exact")
def slice_to_split(b: Builder, op: Op) -> Any:
    """x[a:b] becomes the middle piece of split(x, (a, b - a, rest)).

    Formula: a slice is one of the consecutive pieces of its axis.
    Example: ``y = slice(x, axis 1, 2:4)`` with 8 channels -> ``_, y, _ = split(x, sizes=(2, 2, 4), axis=1)``.
    Bound: bit-equal.
    Does not apply: to a step other than 1, an empty slice, or an unknown shape.
    """
    x = op.operands[0]
    for axis, start, end, step in _axes(op, shape_of(x)):
        need(step == 1, f"the step is {step}")
        need(end > start, "the slice is empty")
        sizes = (start, end - start, shape_of(x)[axis] - end)
        pieces = b.op("split", (x,), sizes=tuple(n for n in sizes if n), axis=axis)
        x = pieces[1 if start else 0]
    return x


@rewrite(removes="slice", yields="take", claim="exact")
def slice_to_take(b: Builder, op: Op) -> Any:
    """x[a:b:s] becomes take(x, [a, a + s, ...]) with a constant index.

    Formula: a slice gathers the indices of its range.
    Example: ``y = slice(x, axis 2, 0:640:2)`` -> ``y = take(x, [0, 2, ..., 638], axis=2)``.
    Bound: bit-equal.
    Does not apply: when the shape is unknown.
    """
    x = op.operands[0]
    for axis, start, end, step in _axes(op, shape_of(x)):
        x = b.take(x, b.const(np.arange(start, end, step, dtype=np.int64)), axis=axis)
    return x


class _Upstream:
    """Builds the slice of a value from slices of what it is made of, each piece once."""

    #: No network moves its tensors about as often; a file made to exhaust the stack does.
    _DEEPEST = 64

    def __init__(self, b: Builder) -> None:
        self._b = b
        self._built: dict[tuple[str, int, int, int], Value] = {}
        #: Whether some operand of a cat was left out.
        self.left_out = False

    def cut(self, x: Value, axis: int, start: int, end: int, depth: int = 0) -> Value:
        """``x[start:end]`` along ``axis``."""
        need(depth < self._DEEPEST, "the cat is too far away")
        key = (x.name, axis, start, end)
        if key not in self._built:
            self._built[key] = self._cut(x, axis, start, end, depth + 1)
        return self._built[key]

    def _cut(self, x: Value, axis: int, start: int, end: int, depth: int) -> Value:
        b, op = self._b, self._b.producer(x)
        if op is None or (start, end) == (0, shape_of(x)[axis]):
            return cut(b, x, axis, start, end)
        if op.kind == "cat":
            return self._cut_cat(op, axis, start, end, depth)
        before = moved_axis(op, axis)
        if before is None:
            return cut(b, x, axis, start, end)
        inner = self.cut(op.operands[0], before, start, end, depth)
        if op.kind == "permute":
            return turned(b, inner, op.attrs["dims"])
        shape = shape_of(x)
        return view(b, inner, (*shape[:axis], end - start, *shape[axis + 1 :]))

    def _cut_cat(self, op: Op, axis: int, start: int, end: int, depth: int) -> Value:
        if op.attrs["axis"] != axis:
            parts = [self.cut(part, axis, start, end, depth) for part in op.operands]
            return join(self._b, parts, op.attrs["axis"])
        parts, at = [], 0
        for part in op.operands:
            size = shape_of(part)[axis]
            low, high = max(start - at, 0), min(end - at, size)
            if low < high:
                parts.append(self.cut(part, axis, low, high, depth))
            self.left_out |= low >= high
            at += size
        return join(self._b, parts, axis)


@rewrite(removes="slice", yields=("slice", "cat", "reshape", "permute"), claim="exact", optional=True)
def slice_before_cat(b: Builder, op: Op) -> Any:
    """A slice of concatenated tensors is taken from the tensors that it needs, before they are concatenated.

    Formula: cat((x, y))[a:b] is x[a:b] while b is within x, and so on; a slice and a reshape, permute or cat of
    other axes commute.
    Example: ``y = slice(permute(cat(boxes, scores, axis=1)), axis 2, 0:2)`` -> ``y = permute(slice(boxes, axis 1,
    0:2))``. A detector that joins boxes and scores only to take them apart again need not join them, so that they do
    not share a scale when they are quantized: use ``--apply slice_before_cat``, or ``porter quantize --outputs
    separate``, which applies it.
    Bound: bit-equal.
    Does not apply: when no concatenated tensor is left out, to several axes or a step other than 1, or to unknown
    shapes.
    """
    x = op.operands[0]
    axes = _axes(op, shape_of(x))
    need(len(axes) == 1, "not exactly one axis is sliced")
    ((axis, start, end, step),) = axes
    need(step == 1 and start < end, "the slice has a step, or is empty")
    upstream = _Upstream(b)
    out = upstream.cut(x, axis, start, end)
    need(upstream.left_out, "no concatenated tensor is left out")
    return out
