# SPDX-License-Identifier: Apache-2.0
"""Flip and roll."""

from __future__ import annotations

from typing import Any

import numpy as np

from porter.ops import Op
from porter.rewrite import Builder, rewrite

from ._tools import axes_slice, cut, join, need, shape_of

_MOST_PIECES = 64


@rewrite(removes="flip", yields="slice", claim="exact")
def flip_to_slice(b: Builder, op: Op) -> Any:
    """flip becomes a slice with step -1.

    Formula: x[::-1] along each axis.
    Example: ``y = flip(x, axes=(3,))`` with 8 columns -> ``y = slice(x, axes=(3,), starts=(7,), ends=(-1,),
    steps=(-1,))``.
    Bound: bit-equal.
    Does not apply: when the shape is unknown.
    """
    x = op.operands[0]
    for axis in op.attrs["axes"]:
        n = shape_of(x)[axis]
        if n > 1:
            x = b.slice(x, **axes_slice(axis, n - 1, -1, -1))
    return x


@rewrite(removes="flip", yields=("slice", "cat"), claim="exact")
def flip_to_cat(b: Builder, op: Op) -> Any:
    """flip of a short axis becomes its elements, joined backwards.

    Formula: flip(x)[i] = x[n - 1 - i].
    Example: ``y = flip(x, axes=(1,))`` with 3 channels -> ``y = cat(slice(x, 2:3), slice(x, 1:2), slice(x,
    0:1), axis=1)``.
    Bound: bit-equal.
    Does not apply: to an axis of more than 64 elements.
    """
    x = op.operands[0]
    for axis in op.attrs["axes"]:
        n = shape_of(x)[axis]
        need(n <= _MOST_PIECES, f"axis {axis} has {n} elements, more than {_MOST_PIECES}")
        if n > 1:
            x = join(b, [cut(b, x, axis, i, i + 1) for i in reversed(range(n))], axis)
    return x


@rewrite(removes="flip", yields="take", claim="exact")
def flip_to_take(b: Builder, op: Op) -> Any:
    """flip becomes take with the index n - 1, ..., 1, 0.

    Formula: flip(x)[i] = x[n - 1 - i].
    Example: ``y = flip(x, axes=(3,))`` -> ``y = take(x, [7, 6, ..., 0], axis=3)``.
    Bound: bit-equal.
    Does not apply: when the shape is unknown.
    """
    x = op.operands[0]
    for axis in op.attrs["axes"]:
        x = b.take(x, b.const(np.arange(shape_of(x)[axis], dtype=np.int64)[::-1].copy()), axis=axis)
    return x


@rewrite(removes="roll", yields=("slice", "cat"), claim="exact")
def roll_to_cat(b: Builder, op: Op) -> Any:
    """roll becomes the two parts of each axis in the other order.

    Formula: roll(x, s)[i] = x[(i - s) mod n].
    Example: ``y = roll(x, shifts=(1,), axes=(2,))`` with 8 rows -> ``y = cat(slice(x, 7:8), slice(x, 0:7),
    axis=2)``.
    Bound: bit-equal.
    Does not apply: when the shape is unknown.
    """
    x = op.operands[0]
    for shift, axis in zip(op.attrs["shifts"], op.attrs["axes"], strict=True):
        n = shape_of(x)[axis]
        at = (-shift) % n if n else 0
        if at:
            x = join(b, [cut(b, x, axis, at, n), cut(b, x, axis, 0, at)], axis)
    return x
