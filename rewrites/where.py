# SPDX-License-Identifier: Apache-2.0
"""Selection by a mask: where and masked_fill."""

from __future__ import annotations

from itertools import pairwise
from math import isinf, isnan
from typing import Any

import numpy as np

from porter.ops import Op
from porter.rewrite import Builder, rewrite

from ._finite import need_finite
from ._tools import cast, cut, data, join, need, need_float, need_small, scalar, shape_of, spread


@rewrite(removes="where", yields=("slice", "cat", "expand", "cast"), claim="exact")
def where_constant_to_cat(b: Builder, op: Op) -> Any:
    """where with a constant mask that changes along one axis only becomes slices, joined.

    Formula: the mask is runs of true and false along one axis; each run is a slice of x or of y.
    Example: ``z = where([[True, True, False]], x, y)`` -> ``z = cat(slice(x, axis 1, 0:2), slice(y, axis 1,
    2:3), axis=1)``.
    Bound: bit-equal, infinities and NaN included.
    Does not apply: when the mask is computed at run time, varies along several axes, or has more than 32
    runs.
    """
    condition, x, y = op.operands
    shape, dtype = shape_of(op.outputs[0]), op.outputs[0].dtype
    mask = np.broadcast_to(data(condition, "mask"), shape)
    need(mask.size, "the result is empty")
    axes = [d for d in range(mask.ndim) if (mask != np.take(mask, [0], d)).any()]
    need(len(axes) <= 1, f"the mask varies along the axes {tuple(axes)}")
    x, y = spread(b, cast(b, x, dtype), shape), spread(b, cast(b, y, dtype), shape)
    if not axes:
        return x if mask.flat[0] else y
    axis = axes[0]
    line = np.moveaxis(mask, axis, 0).reshape(mask.shape[axis], -1)[:, 0]
    edges = [0, *(np.flatnonzero(np.diff(line)) + 1).tolist(), len(line)]
    need(len(edges) <= 33, f"the mask has {len(edges) - 1} runs, more than 32")
    return join(b, [cut(b, x if line[i] else y, axis, i, j) for i, j in pairwise(edges)], axis)


@rewrite(
    removes="where",
    yields=("cast", "mul", "sub", "add"),
    claim="bounded",
    error="bit-equal for finite operands",
)
def where_to_arithmetic(b: Builder, op: Op) -> Any:
    """where(c, x, y) becomes x * c + y * (1 - c), with the mask as 0 and 1.

    Formula: one of the two products is 0 and the other is the value itself.
    Example: ``z = where(c, x, y)`` -> ``m = cast(c, float32); z = add(mul(x, m), mul(y, sub(1, m)))``.
    Bound: bit-equal for finite operands but for the sign of a zero. NOT for others: a NaN or an infinity in
    the branch that the mask discards makes the result NaN (0 * inf); do not use it to hide a division by
    zero.
    Does not apply: to integers, where x or y is a constant that is not finite, or is computed from one, or
    directly by what has no finite result everywhere (a quotient, a logarithm, a root).
    """
    condition, x, y = op.operands
    need_float(x, y)
    need_finite(b, x)
    need_finite(b, y)
    dtype = op.outputs[0].dtype
    m = cast(b, condition, dtype)
    rest = b.const(1 - m.numpy()) if m.is_const else b.sub(b.const(1.0, dtype), m)
    return b.add(b.mul(x, m), b.mul(y, rest))


@rewrite(removes="where", yields="masked_fill", claim="exact")
def where_to_masked_fill(b: Builder, op: Op) -> Any:
    """where(c, number, y) becomes masked_fill(y, c, number).

    Formula: the definition of masked_fill.
    Example: ``z = where(c, 0.0, y)`` -> ``z = masked_fill(y, c, value=0.0)``.
    Bound: bit-equal.
    Does not apply: when the first value is not one constant number, or y is smaller than the result.
    """
    condition, x, y = op.operands
    value = scalar(x, "first value")
    need(
        shape_of(y) == shape_of(op.outputs[0]) and y.dtype == op.outputs[0].dtype,
        "the second value is broadcast",
    )
    return b.masked_fill(y, condition, value=value)


@rewrite(removes="masked_fill", yields="where", claim="exact")
def masked_fill_to_where(b: Builder, op: Op) -> Any:
    """masked_fill(x, mask, v) becomes where(mask, v, x).

    Formula: the definition.
    Example: ``y = masked_fill(x, mask, value=-inf)`` -> ``y = where(mask, -inf, x)``.
    Bound: bit-equal.
    Does not apply: never.
    """
    x, mask = op.operands
    return b.where(mask, b.const(op.attrs["value"], x.dtype), x)


@rewrite(
    removes="masked_fill",
    yields=("cast", "mul", "sub", "add"),
    claim="bounded",
    error="bit-equal for finite operands",
)
def masked_fill_to_arithmetic(b: Builder, op: Op) -> Any:
    """masked_fill(x, mask, v) becomes x * (1 - mask) + v * mask.

    Formula: one of the two terms is 0 and the other is the value itself; a constant mask gives constant
    factors.
    Example: ``y = masked_fill(x, mask, value=-100)`` -> ``m = cast(mask, float32); y = add(mul(x, sub(1, m)),
    mul(m, -100))``.
    Bound: bit-equal for a finite x and v but for the sign of a zero. NOT for others: an infinity or NaN in x
    under the mask makes the result NaN.
    Does not apply: to integers, to an x computed from infinities or directly by what has no finite result
    everywhere, or to an infinite or NaN v under a mask computed at run time (v * 0 is NaN); a constant mask
    may have an infinite v.
    """
    x, mask = op.operands
    value = float(op.attrs["value"])
    need_float(x)
    need_finite(b, x)
    if mask.is_const:
        hidden = mask.numpy().astype(bool)
        keep = b.const((~hidden).astype(x.dtype or "float32"))
        return b.add(b.mul(x, keep), b.const(np.where(hidden, value, 0.0), x.dtype))
    need(
        not isinf(value) and not isnan(value),
        f"the value {value} times a mask of 0 is NaN; use a large finite number",
    )
    m = b.cast(mask, dtype=x.dtype)
    kept = b.mul(x, b.sub(b.const(1.0, x.dtype), m))
    return kept if value == 0 else b.add(kept, b.mul(m, value))


@rewrite(removes=("tril", "triu"), yields="where", claim="exact")
def triangle_to_where(b: Builder, op: Op) -> Any:
    """tril and triu become where with a constant mask.

    Formula: tril keeps column - row <= diagonal, triu column - row >= diagonal; the rest is 0.
    Example: ``y = tril(x, diagonal=0)`` -> ``y = where(mask, x, 0)``.
    Bound: bit-equal, infinities and NaN included.
    Does not apply: when the shape is unknown, or to a mask of more than 16777216 elements.
    """
    x = op.operands[0]
    mask = _triangle(op)
    return b.where(b.const(mask), x, b.const(0, x.dtype))


@rewrite(removes=("tril", "triu"), yields="mul", claim="bounded", error="bit-equal for finite operands")
def triangle_to_mul(b: Builder, op: Op) -> Any:
    """tril and triu become a product with a constant mask of 0 and 1.

    Formula: tril keeps column - row <= diagonal, triu column - row >= diagonal; the rest is 0.
    Example: ``y = tril(x, diagonal=0)`` -> ``y = mul(x, mask)``.
    Bound: bit-equal for a finite x but for the sign of a zero; an infinity or NaN outside the triangle gives
    NaN.
    Does not apply: to bool, when the shape is unknown, or to a mask of more than 16777216 elements.
    """
    x = op.operands[0]
    need(x.dtype is not None and x.dtype != "bool", f"{x.name} is {x.dtype}")
    return b.mul(x, b.const(_triangle(op), x.dtype))


def _triangle(op: Op) -> Any:
    rows, cols = shape_of(op.operands[0])[-2:]
    need_small(rows * cols, "a mask")
    k = op.attrs["diagonal"]
    return np.tri(rows, cols, k, dtype=bool) if op.kind == "tril" else ~np.tri(rows, cols, k - 1, dtype=bool)
