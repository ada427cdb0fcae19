# SPDX-License-Identifier: Apache-2.0
"""Padding by concatenation, and cropping by slices."""

from __future__ import annotations

from typing import Any

import numpy as np

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import cut, join, need, shape_of, some

_MOST_PIECES = 64


def _crop(b: Builder, op: Op) -> tuple[Value, list[tuple[int, int]]]:
    """The input cut where the padding is negative, and the padding that is left."""
    x = op.operands[0]
    left = []
    for axis, (begin, end) in enumerate(op.attrs["padding"]):
        x = cut(b, x, axis, max(0, -begin), shape_of(x)[axis] - max(0, -end))
        left.append((max(0, begin), max(0, end)))
    return x, left


@rewrite(removes="pad", yields=("slice", "pad"), claim="exact")
def pad_negative_to_slice(b: Builder, op: Op) -> Any:
    """Negative padding becomes a slice; what is left of the padding stays.

    Formula: padding of -n drops n elements.
    Example: ``y = pad(x, ((0, 0), (-1, 2)))`` -> ``y = pad(slice(x, axis 1, 1:n), ((0, 0), (0, 2)))``.
    Bound: bit-equal.
    Does not apply: when no padding is negative, or the shape is unknown.
    """
    need(any(n < 0 for pair in op.attrs["padding"] for n in pair), "no padding is negative")
    x, left = _crop(b, op)
    if not any(n for pair in left for n in pair):
        return x
    return b.pad(x, padding=tuple(left), mode=op.attrs["mode"], value=op.attrs["value"])


@rewrite(removes="pad", yields=("slice", "cat"), claim="exact")
def pad_constant_to_cat(b: Builder, op: Op) -> Any:
    """Constant padding becomes a concatenation with constants.

    Formula: along each axis, a block of the value before and after.
    Example: ``y = pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)), mode='constant', value=0)`` -> ``y = cat(zeros, x,
    zeros, axis=2)``.
    Bound: bit-equal.
    Does not apply: to other modes, or an unknown shape.
    """
    need(op.attrs["mode"] == "constant", f"the mode is {op.attrs['mode']}")
    x, left = _crop(b, op)
    for axis, pair in enumerate(left):
        shape = shape_of(x)
        blocks = [
            b.const(np.full((*shape[:axis], n, *shape[axis + 1 :]), op.attrs["value"]), x.dtype) for n in pair if n
        ]
        if pair[0]:
            x = join(b, [blocks[0], x, *blocks[1:]], axis)
        elif pair[1]:
            x = join(b, [x, *blocks], axis)
    return x


@rewrite(removes="pad", yields=("slice", "cat"), claim="exact")
def pad_edges_to_cat(b: Builder, op: Op) -> Any:
    """Reflecting, replicating or circular padding becomes slices of the input, joined.

    Formula: index i of the padded axis is element |i| mirrored without the edge (reflect), the nearest
    element (replicate), or i mod n (circular).
    Example: ``y = pad(x, ((0, 0), (0, 0), (2, 0), (0, 0)), mode='reflect')`` -> ``y = cat(slice(x, axis 2,
    2:3), slice(x, axis 2, 1:2), x, axis=2)``.
    Bound: bit-equal.
    Does not apply: to mode constant (pad_constant_to_cat), to more than 64 pieces in one axis, or an unknown
    shape.
    """
    mode = op.attrs["mode"]
    need(mode in ("reflect", "replicate", "circular"), f"the mode is {mode}")
    x, left = _crop(b, op)
    for axis, (begin, end) in enumerate(left):
        n = shape_of(x)[axis]
        need(n or not begin + end, f"axis {axis} is empty")
        if mode == "circular":
            x = join(b, [*some(b, x, axis, n - begin, n), x, *some(b, x, axis, 0, end)], axis)
            continue
        need(begin + end < _MOST_PIECES, f"axis {axis} needs {begin + end} pieces, more than {_MOST_PIECES}")
        if mode == "reflect":
            before, after = range(begin, 0, -1), range(n - 2, n - 2 - end, -1)
        else:
            before, after = [0] * begin, [n - 1] * end  # type: ignore[assignment]
        if begin or end:
            pieces = [[cut(b, x, axis, i, i + 1) for i in part] for part in (before, after)]
            x = join(b, [*pieces[0], x, *pieces[1]], axis)
    return x
