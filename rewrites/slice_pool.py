# SPDX-License-Identifier: Apache-2.0
"""Slices of an image with a step, as pools of one element."""

from __future__ import annotations

from typing import Any

from porter.ops import Op
from porter.rewrite import Builder, rewrite

from ._tools import cut, need, need_float, shape_of


@rewrite(removes="slice", yields=("slice", "max_pool2d"), claim="exact")
def slice_to_strided_pool(b: Builder, op: Op) -> Any:
    """A slice with a step of the rows or columns of an image becomes a max pool of one element with that stride.

    Formula: the maximum of one element is the element.
    Example: ``y = slice(x, axis 3, 0:20:2)`` -> ``y = max_pool2d(x, kernel=(1, 1), stride=(1, 2))``; a start other than
    0 is cut off before.
    Bound: bit-equal.
    Does not apply: to integers, a tensor that is not (N, C, H, W), a step of 1 or below, or a step along n or c.
    """
    x = op.operands[0]
    need_float(x)
    need(len(shape_of(x)) == 4, f"{x.name} is not (N, C, H, W)")
    stride = {2: 1, 3: 1}
    for axis, start, end, step in zip(*(op.attrs[name] for name in ("axes", "starts", "ends", "steps")), strict=True):
        need(step > 0, "a slice runs backwards")
        need(step == 1 or axis in stride, f"a step of {step} is along axis {axis}")
        stride[axis] = step
        x = cut(b, x, axis, start, end)
    need(max(stride[2], stride[3]) > 1, "no step is greater than 1")
    return b.max_pool2d(
        x, kernel=(1, 1), stride=(stride[2], stride[3]), padding=((0, 0), (0, 0)), dilation=(1, 1), ceil_mode=False
    )
