# SPDX-License-Identifier: Apache-2.0
"""Permutations of many axes, and those that move nothing."""

from __future__ import annotations

from typing import Any

from porter.ops import Op
from porter.rewrite import Builder, rewrite

from ._rank import permuted
from ._tools import need, shape_of, view


@rewrite(removes="permute", yields="reshape", claim="exact")
def permute_to_reshape(b: Builder, op: Op) -> Any:
    """A permute that only moves axes of extent 1 becomes a reshape.

    Formula: an axis of extent 1 does not matter to the row-major order.
    Example: ``y = permute(x, (0, 2, 3, 1))`` with x of 1x1x80x80 -> ``y = reshape(x, shape=(1, 80, 80, 1))``.
    Bound: bit-equal.
    Does not apply: when two axes longer than 1 change places, or the shape is unknown.
    """
    shape = shape_of(op.operands[0])
    kept = [d for d in op.attrs["dims"] if shape[d] != 1]
    need(kept == sorted(kept) or 0 in shape, "axes longer than 1 change places")
    return view(b, op.operands[0], shape_of(op.outputs[0]))


@rewrite(removes="permute", yields=("reshape", "permute"), claim="exact")
def permute_to_rank4(b: Builder, op: Op) -> Any:
    """A permute of five or more axes becomes reshapes and permutes of at most four.

    Formula: axes that stay neighbours in the same order act as one, and axes of extent 1 as none; when more
    than four are left, the permutation is a product of swaps of two adjacent blocks, (A, B, C, D) -> (A, C,
    B, D), each of rank 4.
    Example: ``y = permute(x, (0, 1, 3, 4, 2))`` with x of 1x3x85x80x80 (a YOLO head) -> ``y =
    reshape(permute(reshape(x, (3, 85, 6400)), (0, 2, 1)), (1, 3, 80, 80, 85))``.
    Bound: bit-equal.
    Does not apply: to four axes or fewer, or an unknown shape.
    """
    x = op.operands[0]
    shape = shape_of(x)
    need(len(shape) > 4, f"{len(shape)} axes are not more than 4")
    need(0 not in shape, "the tensor is empty")
    return view(b, permuted(b, x, shape, tuple(op.attrs["dims"])), shape_of(op.outputs[0]))
