# SPDX-License-Identifier: Apache-2.0
"""Pools whose windows run over the edge: averages with a last window in part, dilated maxima with padding."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import axes_slice, dims_of, need, need_float, shape_of

_MAX = ("max_pool1d", "max_pool2d", "max_pool3d")
_AVG = ("avg_pool1d", "avg_pool2d", "avg_pool3d")
#: The largest kernel that becomes one op a tap along each axis.
_TAPS = 16


@rewrite(
    removes=_AVG,
    yields=("pad", *_AVG, "mul"),
    claim="bounded",
    error="2e-06 of the largest |x|",
)
def avg_pool_ceil_to_padded(b: Builder, op: Op) -> Any:
    """An average pool whose ceil_mode adds a window becomes one of whole windows over zeros, and a constant factor.

    Formula: sum / d = (sum / k) * (k / d), with k the size of the kernel and d the divisor of each window: the elements
    of the input and, where it counts, of the padding, but never of what ceil_mode adds.
    Example: ``y = avg_pool2d(x of 12x20, kernel 3, stride 2, padding 1, ceil_mode=True)`` -> ``y =
    mul(avg_pool2d(pad(x, 1 in front and 2 behind), kernel 3, stride 2), factors of 7x11)``.
    Bound: 2e-06 in float32 of the largest |x| in the window, times k / d (two roundings more).
    Does not apply: when ceil_mode adds no window, or to integers.
    """
    a, x, n = op.attrs, op.operands[0], dims_of(op)
    need_float(x)
    need(a["ceil_mode"], "ceil_mode is not set")
    lead = len(shape_of(x)) - n
    counts, padding, adds = np.ones(shape_of(op.outputs[0])[lead:]), [(0, 0)] * lead, False
    for i in range(n):
        size, out = shape_of(x)[lead + i], shape_of(op.outputs[0])[lead + i]
        kernel, stride, (front, back) = a["kernel"][i], a["stride"][i], a["padding"][i]
        end = max((out - 1) * stride + kernel - size - front, 0)
        adds |= end > back
        padding.append((front, end))
        starts = np.arange(out) * stride - front
        low, high = (-front, size + back) if a["count_include_pad"] else (0, size)
        covered = np.minimum(starts + kernel, high) - np.maximum(starts, low)
        counts = counts * covered.reshape([-1 if d == i else 1 for d in range(n)])
    need(adds, "ceil_mode adds no window")
    divisor = counts if a["divisor_override"] is None else np.asarray(a["divisor_override"])
    if any(pair != (0, 0) for pair in padding):
        x = b.pad(x, padding=tuple(padding), mode="constant", value=0.0)
    plain = {**a, "padding": ((0, 0),) * n, "count_include_pad": True, "divisor_override": None, "ceil_mode": False}
    return b.mul(b.op(op.kind, (x,), **plain)[0], b.const(prod(a["kernel"]) / divisor, x.dtype))


@rewrite(removes=_MAX, yields=("slice", "take", "maximum"), claim="exact")
def max_pool_padding_to_taps(b: Builder, op: Op) -> Any:
    """A dilated max pool with padding becomes the maximum of its taps, each taken from the input.

    Formula: the maximum over the taps is separable, and a tap that falls on the padding counts as another of its window
    that does not: what is there twice changes no maximum.
    Example: ``y = max_pool2d(x, kernel 3, dilation 2, padding 1)`` -> along each axis the maximum of three takes, with
    indices such as [1, 0, 1, 2, ...] for the first.
    Bound: bit-equal, infinities and NaN included.
    Does not apply: without padding (max_pool_to_maximum), without a dilation (max_pool_padding_to_replicate), to
    kernels above 16, or where a window has no element.
    """
    a, x, n = op.attrs, op.operands[0], dims_of(op)
    need(any(p for pair in a["padding"] for p in pair), "there is no padding")
    need(max(a["dilation"]) > 1, "there is no dilation")
    need(max(a["kernel"]) <= _TAPS, f"kernel {tuple(a['kernel'])} is above {_TAPS}")
    lead = len(shape_of(x)) - n
    for i in range(n):
        axis = lead + i
        size, out, step = shape_of(x)[axis], shape_of(op.outputs[0])[axis], a["dilation"][i]
        starts = np.arange(out) * a["stride"][i] - a["padding"][i][0]
        taps = starts[:, None] + np.arange(a["kernel"][i]) * step
        inside = (taps >= 0) & (taps < size)
        need(bool(inside.any(1).all()), "a window has no element")
        first, last = inside.argmax(1), a["kernel"][i] - 1 - inside[:, ::-1].argmax(1)
        chosen = np.clip(np.arange(a["kernel"][i]), first[:, None], last[:, None])
        parts = [_picked(b, x, axis, column) for column in np.take_along_axis(taps, chosen, 1).T]
        x = parts[0]
        for part in parts[1:]:
            x = b.maximum(x, part)
    return x


def _picked(b: Builder, x: Value, axis: int, index: np.ndarray[Any, Any]) -> Value:
    """The elements of those indices along an axis: a slice where they are evenly spaced."""
    steps = np.unique(np.diff(index))
    if len(index) > 1 and len(steps) == 1 and steps[0] > 0:
        found: Value = b.slice(x, **axes_slice(axis, int(index[0]), int(index[-1]) + 1, int(steps[0])))
    else:
        found = b.take(x, b.const(index.astype(np.int64)), axis=axis)
    return found
