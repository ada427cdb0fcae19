# SPDX-License-Identifier: Apache-2.0
"""Slice assignment, of any box, step and source, without writing into a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import cast, cut, join, need, shape_of, some, spread, view

#: One axis of a box: axis, first index, number of elements, step (never 0).
Range = tuple[int, int, int, int]


def box_of(op: Op, shape: Sequence[int]) -> list[Range]:
    """The axes of a ``slice_assign`` that its box does not cover whole, in the order of the axes."""
    a = op.attrs
    box = []
    for axis, start, end, step in sorted(zip(a["axes"], a["starts"], a["ends"], a["steps"], strict=True)):
        count = len(range(start, end, step))
        if (start, count, step) != (0, shape[axis], 1):
            box.append((axis, start, count, step if count > 1 else 1))
    return box


def _flipped(b: Builder, src: Value, axis: int) -> Value:
    if src.is_const:
        return b.const(np.ascontiguousarray(np.flip(src.numpy(), axis)))
    out: Value = b.flip(src, axes=(axis,))
    return out


def assign(b: Builder, x: Value, src: Value, box: Sequence[Range]) -> Value:
    """A copy of ``x`` with the box set to ``src``, which has the shape of the box (and is not empty)."""
    forward = []
    for axis, start, count, step in box:
        if step < 0:
            start, step, src = start + (count - 1) * step, -step, _flipped(b, src, axis)
        if (start, count, step) != (0, shape_of(x)[axis], 1):  # an axis reversed whole is covered whole
            forward.append((axis, start, count, step))
    return _assign(b, x, src, forward)


def _assign(b: Builder, x: Value, src: Value, box: Sequence[Range]) -> Value:
    """:func:`assign` for steps above 0."""
    if not box:
        return src
    (axis, start, count, step), rest = box[0], box[1:]
    extent = shape_of(x)[axis]
    before = some(b, x, axis, 0, start)
    if step == 1:
        inside = _assign(b, cut(b, x, axis, start, start + count), src, rest) if rest else src
        return join(b, [*before, inside, *some(b, x, axis, start + count, extent)], axis)
    # All strides but the last have their step - 1 untouched elements after them: one reshape gives each stride a row.
    last = start + (count - 1) * step
    head, tail = x.shape[:axis], x.shape[axis + 1 :]  # type: ignore[index]
    rows = view(b, cut(b, x, axis, start, last), (*head, count - 1, step, *tail))
    if rest:
        first = view(b, cut(b, rows, axis + 1, 0, 1), (*head, count - 1, *tail))
        slab = join(b, [first, cut(b, x, axis, last, last + 1)], axis)
        src = _assign(b, slab, src, rest)
    new = view(b, cut(b, src, axis, 0, count - 1), (*head, count - 1, 1, *tail))
    rows = join(b, [new, cut(b, rows, axis + 1, 1, step)], axis + 1)
    body = view(b, rows, (*head, (count - 1) * step, *tail))
    end = [cut(b, src, axis, count - 1, count), *some(b, x, axis, last + 1, extent)]
    return join(b, [*before, body, *end], axis)


def assign_source(b: Builder, op: Op, box_shape: Sequence[int]) -> Value:
    """The source of an assignment, in the dtype of the target and the shape of the box."""
    x, src = op.operands
    return spread(b, cast(b, src, x.dtype), box_shape)


def _box_shape(op: Op, shape: Sequence[int]) -> list[int]:
    out, a = list(shape), op.attrs
    for axis, start, end, step in zip(a["axes"], a["starts"], a["ends"], a["steps"], strict=True):
        out[axis] = len(range(start, end, step))
    return out


def _assigned(b: Builder, op: Op, shape: Sequence[int], box: Sequence[Range]) -> Value:
    box_shape = _box_shape(op, shape)
    x = op.operands[0]
    return x if 0 in box_shape else assign(b, x, assign_source(b, op, box_shape), box)


@rewrite(removes="slice_assign", yields=("slice", "cat", "expand", "cast"), claim="exact")
def slice_assign_to_cat(b: Builder, op: Op) -> Any:
    """x[..., a:b] = src becomes cat(x[..., :a], src, x[..., b:]).

    Formula: a copy of x with one box replaced is what lies before the box, the box, and what lies after it,
    along each axis that the box does not cover whole (the pieces of several axes nest).
    Example: ``y = slice_assign(x, src, axes=(2,), starts=(0,), ends=(2,), steps=(1,))`` with x of 1x8400x85
    -> ``y = cat(src, slice(x, axes=(2,), starts=(2,), ends=(85,), steps=(1,)), axis=2)``.
    Bound: bit-equal: no element is computed. A scalar or broadcast source is expanded; chains of assignments
    work, each op on the result of the one before.
    Does not apply: to a step other than 1 (slice_assign_strided_to_cat does that), or an unknown shape.
    """
    shape = shape_of(op.operands[0])
    box = box_of(op, shape)
    need(all(step == 1 for *_, step in box), f"the steps {tuple(op.attrs['steps'])} are not all 1")
    return _assigned(b, op, shape, box)


@rewrite(removes="slice_assign", yields=("slice", "cat", "expand", "cast", "reshape", "flip"), claim="exact")
def slice_assign_strided_to_cat(b: Builder, op: Op) -> Any:
    """x[..., a:b:s] = src becomes an interleave: reshape to rows of s, cat, reshape back.

    Formula: from the first assigned element on, each stride of s elements is one assigned and s - 1 kept; a
    reshape to (strides, s) puts the assigned ones in column 0. The last stride, which may be cut short, is
    put on by itself. A negative step assigns the flipped source with the positive step.
    Example: ``y = slice_assign(x, src, axes=(1,), starts=(0,), ends=(6,), steps=(2,))`` with x of 1x6 -> ``r
    = reshape(slice(x, 0:4), (1, 2, 2)); c = cat(reshape(slice(src, 0:2), (1, 2, 1)), slice(r, axis 2, 1:2),
    axis=2);`` ``y = cat(reshape(c, (1, 4)), slice(src, 2:3), slice(x, 5:6), axis=1)``. No slice has a step.
    Bound: bit-equal: no element is computed.
    Does not apply: when every step is 1 (slice_assign_to_cat does that), or the shape is unknown.
    """
    shape = shape_of(op.operands[0])
    box = box_of(op, shape)
    need(any(step != 1 for *_, step in box), "every step is 1")
    return _assigned(b, op, shape, box)


@rewrite(removes="select_assign", yields=("slice", "cat", "expand", "cast", "reshape"), claim="exact")
def select_assign_to_cat(b: Builder, op: Op) -> Any:
    """x[..., i] = src becomes cat(x[..., :i], src, x[..., i + 1:]).

    Formula: a copy of x with one index replaced is what lies before it, the source, and what lies after it.
    Example: ``y = select_assign(x, src, axis=1, index=0)`` -> ``y = cat(reshape(src), slice(x, axis 1, 1:),
    axis=1)``.
    Bound: bit-equal: no element is computed.
    Does not apply: when the shape is unknown.
    """
    x, axis, index = op.operands[0], op.attrs["axis"], op.attrs["index"]
    shape = shape_of(x)
    src = assign_source(b, op, (*shape[:axis], *shape[axis + 1 :]))
    src = view(b, src, (*shape[:axis], 1, *shape[axis + 1 :]))
    return assign(b, x, src, [(axis, index, 1, 1)] if shape[axis] > 1 else [])


@rewrite(removes="select_assign", yields=("slice_assign", "reshape", "expand"), claim="exact")
def select_assign_to_slice_assign(b: Builder, op: Op) -> Any:
    """x[..., i] = src becomes x[..., i:i + 1] = src.

    Formula: a selected index is a slice of one.
    Example: ``y = select_assign(x, src, axis=1, index=0)`` -> ``y = slice_assign(x, reshape(src), axis 1,
    0:1)``.
    Bound: bit-equal: no element is computed.
    Does not apply: when the shape is unknown.
    """
    x, src = op.operands
    axis, index = op.attrs["axis"], op.attrs["index"]
    shape = shape_of(x)
    src = spread(b, src, (*shape[:axis], *shape[axis + 1 :]))
    src = view(b, src, (*shape[:axis], 1, *shape[axis + 1 :]))
    return b.slice_assign(x, src, axes=(axis,), starts=(index,), ends=(index + 1,), steps=(1,))
