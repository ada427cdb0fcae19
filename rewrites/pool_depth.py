# SPDX-License-Identifier: Apache-2.0
"""Pools of volumes on devices that pool images: along the depth first, then along height and width."""

from __future__ import annotations

from math import prod
from typing import Any

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import need, need_float, shape_of, view


def _two_pools(b: Builder, op: Op) -> Value:
    """Depth is the first axis of an image whose second is height and width; then each frame is an image."""
    x, a = op.operands[0], op.attrs
    axes = [key for key in ("kernel", "stride", "padding", "dilation") if key in a]
    none: dict[str, Any] = {"kernel": 1, "stride": 1, "padding": (0, 0), "dilation": 1}
    kind = op.kind.replace("3d", "2d")
    n, c, d, h, w = shape_of(x)
    depth = shape_of(op.outputs[0])[2]
    if any(a[key][0] != none[key] for key in axes):
        along = {**a, **{key: (a[key][0], none[key]) for key in axes}}
        x = b.op(kind, (view(b, x, (n, c, d, h * w)),), **along)[0]
    if any(tuple(a[key][1:]) != (none[key],) * 2 for key in axes):
        across = {**a, **{key: tuple(a[key][1:]) for key in axes}}
        x = b.op(kind, (view(b, x, (n, c * depth, h, w)),), **across)[0]
    return view(b, x, shape_of(op.outputs[0]))


@rewrite(removes="max_pool3d", yields=("reshape", "max_pool2d"), claim="exact")
def max_pool3d_to_pool2d(b: Builder, op: Op) -> Any:
    """A maximum over the windows of a volume becomes one along the depth, and one over height and width.

    Formula: max over (i, j, k) of x = max over (j, k) of max over i of x.
    Example: ``y = max_pool3d(x of 1x4x8x6x6, kernel=(2, 3, 3))`` -> ``p = max_pool2d(reshape(x, (1, 4, 8, 36)),
    kernel=(2, 1)); y = reshape(max_pool2d(reshape(p, (1, 16, 6, 6)), kernel=(3, 3)), ...)``.
    Bound: bit-equal; the sign of a zero may differ where both are in a window.
    Does not apply: to a tensor without elements.
    """
    need(prod(shape_of(op.operands[0])) > 0, "there are no elements")
    return _two_pools(b, op)


@rewrite(removes="avg_pool3d", yields=("reshape", "avg_pool2d"), claim="bounded", error="1e-06 of the largest |x|")
def avg_pool3d_to_pool2d(b: Builder, op: Op) -> Any:
    """An average over the windows of a volume becomes one along the depth, and one over height and width.

    Formula: the mean of k l m elements is the mean over l m of means over k; so is the number of elements that padding
    leaves, and of those that ceil_mode adds.
    Example: ``y = avg_pool3d(x of 1x4x8x6x6, kernel=(2, 3, 3))`` -> ``p = avg_pool2d(reshape(x, (1, 4, 8, 36)),
    kernel=(2, 1)); y = reshape(avg_pool2d(reshape(p, (1, 16, 6, 6)), kernel=(3, 3)), ...)``.
    Bound: 1e-06 of the largest |x| in float32 (sums are added in another order).
    Does not apply: to a divisor of its own, integers, or a tensor without elements.
    """
    need_float(op.operands[0])
    need(prod(shape_of(op.operands[0])) > 0, "there are no elements")
    need(op.attrs["divisor_override"] is None, "the divisor is not the size of the window")
    return _two_pools(b, op)
