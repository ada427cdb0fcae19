# SPDX-License-Identifier: Apache-2.0
"""Products with one constant matrix, whichever side it is on and however many axes of extent 1 it has in front."""

from __future__ import annotations

from typing import Any

from porter.ops import Op
from porter.rewrite import Builder, rewrite

from ._tools import need, shape_of, turned, view


@rewrite(
    removes="matmul",
    yields=("permute", "linear", "reshape"),
    claim="bounded",
    error="4e-06 of the sum of magnitudes",
)
def matmul_of_constant_to_linear(b: Builder, op: Op) -> Any:
    """matmul with a constant matrix on the left, or with more axes of extent 1 in front of it, becomes linear.

    Formula: x @ w = linear(x) with the weight w.T, and w @ x = (linear(x.T)).T with the weight w, over the last two
    axes.
    Example: ``y = matmul(w of 48x12, x of 1x8x12x20)`` -> ``y = permute(linear(permute(x, (0, 1, 3, 2)), w), (0, 1, 3,
    2))``.
    Bound: 4e-06 of the sum of magnitudes in float32 (a kernel may add in another order).
    Does not apply: when neither operand is a constant of one matrix, both are, or one is a vector.
    """
    x, y = op.operands
    need(x.is_const != y.is_const, "neither or both of the operands are constant")
    weight, data = (x, y) if x.is_const else (y, x)
    *lead, rows, columns = shape_of(weight) if len(shape_of(weight)) > 1 else (0, 0)
    rank = len(shape_of(data))
    need(rows > 0 and rank > 1, "an operand is a vector")
    need(all(n == 1 for n in lead), f"the constant has {lead} matrices, not one")
    need(x.is_const or bool(lead), "the constant is a matrix on the right (matmul_to_linear)")
    need(x.dtype == y.dtype, "the operands differ in dtype")
    matrix = view(b, weight, (rows, columns))
    if x.is_const:
        swapped = (*range(rank - 2), rank - 1, rank - 2)
        out = turned(b, b.linear(turned(b, data, swapped), matrix, None), swapped)
    else:
        out = b.linear(data, turned(b, matrix, (1, 0)), None)
    return view(b, out, shape_of(op.outputs[0]))
