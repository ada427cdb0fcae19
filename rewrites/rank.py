# SPDX-License-Identifier: Apache-2.0
"""Ops on five or more axes as ops on at most four, with reshapes around them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from porter.ops import KINDS, Op
from porter.rewrite import Builder, rewrite

from ._rank import elementwise, reduction
from ._tools import need, shape_of, view

_UNARY = tuple(k for k, d in KINDS.items() if d.inputs == "x" and d.doc.startswith("element by element, as torch"))
_UNARY_ATTRS = ("leaky_relu", "elu", "celu", "hardsigmoid", "gelu", "softplus", "threshold", "clamp", "cast")
_BINARY = tuple(k for k, d in KINDS.items() if d.inputs == "x y" and d.doc.startswith("element by element"))
#: Every kind that works element by element.
ELEMENTWISE = (*_UNARY, *_UNARY_ATTRS, *_BINARY, "where")


@rewrite(removes=ELEMENTWISE, yields=("reshape", *ELEMENTWISE), claim="exact")
def elementwise_to_rank4(b: Builder, op: Op) -> Any:
    """An element by element op on five or more axes becomes the same op on at most four.

    Formula: neighbouring axes in which the same operands broadcast (or none does) count as one.
    Example: ``y = sigmoid(x of 1x3x85x80x80)`` -> ``y = reshape(sigmoid(reshape(x, (1632000,))), (1, 3, 85,
    80, 80))``: the first axis is kept apart where there is room, so (1, 1632000).
    Bound: bit-equal.
    Does not apply: to four axes or fewer, or where broadcasting leaves more than four.
    """
    out = shape_of(op.outputs[0])
    rank = len(out)
    need(rank > 4, f"{rank} axes are not more than 4")
    return view(b, elementwise(b, op, op.operands), out)


@rewrite(removes=ELEMENTWISE, yields=("reshape", *ELEMENTWISE), claim="exact")
def elementwise_vector_to_matrix(b: Builder, op: Op) -> Any:
    """An element by element op on a vector (or a scalar) becomes the same op on a matrix of one row.

    Formula: an axis of extent 1 in front does not matter to the row-major order. Some devices want two axes
    or more.
    Example: ``y = exp(x of 85)`` -> ``y = reshape(exp(reshape(x, (1, 85))), (85,))``.
    Bound: bit-equal.
    Does not apply: to two axes or more.
    """
    out = shape_of(op.outputs[0])
    need(len(out) < 2, f"{len(out)} axes are not fewer than 2")
    rows = [v if not shape_of(v) and out else view(b, v, (1, *(shape_of(v) or (1,)))) for v in op.operands]
    return view(b, b.op(op.kind, rows, **op.attrs)[0], out)


@rewrite(
    removes=("cat", "slice", "softmax", "log_softmax"),
    yields=("reshape", "cat", "slice", "softmax", "log_softmax"),
    claim="exact",
)
def one_axis_op_to_rank4(b: Builder, op: Op) -> Any:
    """cat, softmax, or a slice of one axis, of five or more axes becomes the same op on four: first, before,
    axis, after.

    Formula: the axes before the one that counts are one, and so are those after it.
    Example: ``y = cat(a of 1x3x80x80x4, c of 1x3x80x80x81, axis=4)`` -> ``y = reshape(cat(reshape(a, (1,
    19200, 4)), ...), ...)``.
    Bound: bit-equal.
    Does not apply: to four axes or fewer, or a slice of several axes (slice_one_axis_at_a_time splits it).
    """
    rank = len(shape_of(op.operands[0]))
    need(rank > 4, f"{rank} axes are not more than 4")
    axes = op.attrs["axes"] if op.kind == "slice" else (op.attrs["axis"],)
    need(len(axes) == 1, f"{len(axes)} axes are sliced")
    axis = axes[0]

    def seen(shape: Sequence[int]) -> tuple[int, ...]:
        before = (shape[0], prod(shape[1:axis])) if axis > 1 else tuple(shape[:axis])
        after = (prod(shape[axis + 1 :]),) if axis + 1 < rank else ()
        return (*before, shape[axis], *after)

    at = min(axis, 2)
    attrs = {**op.attrs, **({"axes": (at,)} if op.kind == "slice" else {"axis": at})}
    parts = [view(b, v, seen(shape_of(v))) for v in op.operands]
    return view(b, b.op(op.kind, parts, **attrs)[0], shape_of(op.outputs[0]))


@rewrite(
    removes=("sum", "mean", "prod", "amax", "amin", "logsumexp", "all", "any"),
    yields=("reshape", "sum", "mean", "prod", "amax", "amin", "logsumexp", "all", "any"),
    claim="bounded",
    error="4e-06 of the sum of magnitudes",
)
def reduction_to_rank4(b: Builder, op: Op) -> Any:
    """A reduction of five or more axes becomes one of at most four.

    Formula: neighbouring axes that are reduced count as one, and so do neighbours that are not.
    Example: ``y = mean(x of 1x3x80x80x85, axes=(4,))`` -> ``y = reshape(mean(reshape(x, (1, 19200, 85)),
    axes=(2,)), ...)``.
    Bound: 4e-06 of the sum of magnitudes in float32 (a kernel may add in another order); bit-equal for the
    extremes.
    Does not apply: to four axes or fewer, where more than four are left, or to sums of integers.
    """
    x = op.operands[0]
    rank = len(shape_of(x))
    need(rank > 4, f"{rank} axes are not more than 4")
    return view(b, reduction(b, op, x), shape_of(op.outputs[0]))
