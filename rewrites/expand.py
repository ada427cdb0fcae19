# SPDX-License-Identifier: Apache-2.0
"""Expand, repeat and meshgrid: copies of a tensor along axes."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import MOST_ELEMENTS, join, need, shape_of, spread, view

_MOST_COPIES = 64


def _padded(b: Builder, x: Value, rank: int) -> Value:
    shape = shape_of(x)
    return view(b, x, (*(1,) * (rank - len(shape)), *shape))


@rewrite(removes="expand", yields=("reshape", "repeat"), claim="exact")
def expand_to_repeat(b: Builder, op: Op) -> Any:
    """expand becomes repeat of the axes that grow.

    Formula: broadcasting an axis of extent 1 to n is n copies of it.
    Example: ``y = expand(x, shape=(4, 80, 80))`` with x of 4x1x80 -> ``y = repeat(x, repeats=(1, 80, 1))``.
    Bound: bit-equal.
    Does not apply: when the shape is unknown or empty.
    """
    shape = tuple(op.attrs["shape"])
    need(0 not in shape, "the result is empty")
    x = _padded(b, op.operands[0], len(shape))
    repeats = tuple(n // m for n, m in zip(shape, shape_of(x), strict=True))
    return b.repeat(x, repeats=repeats) if prod(repeats) > 1 else x


@rewrite(removes="expand", yields=("reshape", "cat"), claim="exact")
def expand_to_cat(b: Builder, op: Op) -> Any:
    """expand becomes a concatenation of copies along each axis that grows.

    Formula: broadcasting an axis of extent 1 to n is n copies of it.
    Example: ``y = expand(x, shape=(4, 2, 80))`` with x of 4x1x80 -> ``y = cat(x, x, axis=1)``.
    Bound: bit-equal.
    Does not apply: when an axis needs more than 64 copies, or the shape is unknown or empty.
    """
    shape = tuple(op.attrs["shape"])
    need(0 not in shape, "the result is empty")
    x = _padded(b, op.operands[0], len(shape))
    for axis, n in enumerate(shape):
        if shape_of(x)[axis] != n:
            need(n <= _MOST_COPIES, f"axis {axis} needs {n} copies, more than {_MOST_COPIES}")
            x = join(b, [x] * n, axis)
    return x


@rewrite(removes="expand", yields="mul", claim="exact")
def expand_to_mul(b: Builder, op: Op) -> Any:
    """expand becomes a product with a constant of ones, which broadcasts.

    Formula: x * 1 = x for every value, infinities and NaN included.
    Example: ``y = expand(x, shape=(4, 80, 80))`` with x of 4x1x80 -> ``y = mul(x, ones(4, 80, 80))``.
    Bound: bit-equal.
    Does not apply: to bool, and when the constant would have more than 2^24 elements.
    """
    x = op.operands[0]
    shape = tuple(op.attrs["shape"])
    need(x.dtype is not None and x.dtype != "bool", f"{x.name} is {x.dtype}")
    need(prod(shape) <= MOST_ELEMENTS, f"a constant of {prod(shape)} ones is more than {MOST_ELEMENTS}")
    return b.mul(x, b.const(np.ones(shape), x.dtype))


@rewrite(removes="repeat", yields=("reshape", "cat"), claim="exact")
def repeat_to_cat(b: Builder, op: Op) -> Any:
    """repeat becomes a concatenation of copies along each repeated axis.

    Formula: torch.Tensor.repeat (numpy.tile) puts copies side by side.
    Example: ``y = repeat(x, repeats=(1, 2))`` -> ``y = cat(x, x, axis=1)``.
    Bound: bit-equal.
    Does not apply: when an axis needs more than 64 copies or none, or the shape is unknown.
    """
    repeats = op.attrs["repeats"]
    x = _padded(b, op.operands[0], len(repeats))
    for axis, n in enumerate(repeats):
        need(1 <= n <= _MOST_COPIES, f"axis {axis} needs {n} copies, not 1 to {_MOST_COPIES}")
        x = join(b, [x] * n, axis)
    return x


@rewrite(removes="repeat", yields=("reshape", "expand"), claim="exact")
def repeat_to_expand(b: Builder, op: Op) -> Any:
    """repeat becomes an expand of a new axis before each repeated one, and a reshape.

    Formula: an axis (n) tiled r times is the axes (r, n), of which the first is broadcast, joined.
    Example: ``y = repeat(x, repeats=(1, 3))`` with x of 2x4 -> ``y = reshape(expand(reshape(x, (2, 1, 4)),
    (2, 3, 4)), (2, 12))``.
    Bound: bit-equal.
    Does not apply: when the shape is unknown.
    """
    repeats = op.attrs["repeats"]
    x = _padded(b, op.operands[0], len(repeats))
    shape = shape_of(x)
    seen: list[int] = []
    wide: list[int] = []
    for n, r in zip(shape, repeats, strict=True):
        seen += [1, n] if r != 1 and n != 1 else [n]
        wide += [r, n] if r != 1 and n != 1 else [n * r]
    return view(b, spread(b, view(b, x, seen), wide), shape_of(op.outputs[0]))


@rewrite(removes="meshgrid", yields=("reshape", "expand"), claim="exact")
def meshgrid_to_expand(b: Builder, op: Op) -> Any:
    """meshgrid becomes a reshape and an expand of each input.

    Formula: output i holds input i along its own axis, broadcast along the others; indexing xy swaps the
    first two axes.
    Example: ``yv, xv = meshgrid(y, x, indexing='ij')`` -> ``yv = expand(reshape(y, (80, 1)), (80, 80))`` and
    alike.
    Bound: bit-equal.
    Does not apply: when a shape is unknown.
    """
    shape = shape_of(op.outputs[0])
    outs = []
    for i, x in enumerate(op.operands):
        axis = 1 - i if op.attrs["indexing"] == "xy" and i < 2 <= len(shape) else i
        flat = view(b, x, tuple(n if d == axis else 1 for d, n in enumerate(shape)))
        outs.append(spread(b, flat, shape))
    return outs
