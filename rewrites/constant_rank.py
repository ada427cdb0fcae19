# SPDX-License-Identifier: Apache-2.0
"""Constant operands with all the axes of the result."""

from __future__ import annotations

from typing import Any

from porter.ops import KINDS, Op
from porter.rewrite import Builder, rewrite

from ._tools import need, shape_of, view

_BINARY = tuple(kind for kind, d in KINDS.items() if d.inputs == "x y" and d.doc.startswith("element by element"))


@rewrite(removes=_BINARY, yields=_BINARY, claim="exact")
def constant_to_full_rank(b: Builder, op: Op) -> Any:
    """A constant operand of an element by element op gets all axes of the result, with extents of 1 in front.

    Formula: broadcasting adds axes of extent 1 in front (numpy). A compiler that lays images out channels last may not
    do so for a constant that lacks axes.
    Example: ``y = mul(x of 1x8x12x20, c of 12x20)`` -> ``y = mul(x, c of 1x1x12x20)``.
    Bound: bit-equal.
    Does not apply: when no operand is a constant of more than one element with fewer axes than the result.
    """
    rank = len(shape_of(op.outputs[0]))

    def lacks(value: Any) -> bool:
        shape = shape_of(value)
        return value.is_const and len(shape) < rank and any(n != 1 for n in shape)

    need(any(lacks(value) for value in op.operands), "no constant operand has fewer axes than the result")
    operands = [
        view(b, value, (1,) * (rank - len(shape_of(value))) + shape_of(value)) if lacks(value) else value
        for value in op.operands
    ]
    return b.op(op.kind, operands, **op.attrs)[0]
