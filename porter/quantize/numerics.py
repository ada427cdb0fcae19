# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of quantization, in numpy and nothing else.

A *scale* is the step between two neighbouring quantized values: ``real = (q - zero_point) * scale``. Cambricon's
files store the inverse, ``qmax / absmax`` (:func:`stored_scale`). A number quantizes to
``clamp(round(x / scale) + zero_point, qmin, qmax)``.

Sources: Cambricon Catch, torch_mlu/core/quantized/observer.py (scale = qmax / absmax, absmax = max(max, -min),
absmax 0 gives 1.0) and docs/user_guide, quantization section (y = sum(qx * qw) / (sx * sw) + bias with stored
scales); torch_mlu/csrc/aten/util/cnnl_util.cpp, get_pos_from_scale_data (position = floor(log2(absmax)) -
(bits - 2)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from porter.ops import Array

__all__ = [
    "BITS",
    "Dtype",
    "Rounding",
    "ScaleRule",
    "absmax_of",
    "conv2d_float",
    "conv2d_integer",
    "dequantize",
    "fake_quantize",
    "linear_integer",
    "position_of",
    "qrange",
    "quantize",
    "round_to",
    "step_of",
    "stored_scale",
]

Dtype = Literal["int8", "int16"]
#: half_even: IEEE, numpy, ONNX, torch; half_away: C's round(); half_up: floor(x + 0.5).
Rounding = Literal["half_even", "half_away", "half_up"]
#: absmax: step absmax / qmax (torch_mlu's files); power_of_two: step 2**position only.
ScaleRule = Literal["absmax", "power_of_two"]

#: Bits of each quantized dtype.
BITS: dict[Dtype, int] = {"int8": 8, "int16": 16}

#: Largest number of int16 products that a float64 sum holds exactly: 2**53 / 2**30.
_EXACT_TERMS = {"int8": 2**39, "int16": 2**23}


def qrange(dtype: Dtype) -> tuple[int, int]:
    """(qmin, qmax) of a signed dtype: (-128, 127) or (-32768, 32767)."""
    half = 1 << (BITS[dtype] - 1)
    return -half, half - 1


def absmax_of(minimum: Array | float, maximum: Array | float) -> NDArray[np.float64]:
    """``max(maximum, -minimum)``, element by element; never negative."""
    lo, hi = np.asarray(minimum, np.float64), np.asarray(maximum, np.float64)
    return cast(NDArray[np.float64], np.maximum(np.maximum(hi, -lo), 0.0))


def position_of(absmax: float, dtype: Dtype) -> int:
    """The exponent of Cambricon's power-of-two step: ``floor(log2(absmax)) - (bits - 2)``; 0 for an absmax of
    0.
    """
    if absmax <= 0:
        return 0
    _, exponent = math.frexp(absmax)  # absmax = m * 2**exponent with m in [0.5, 1): exact where log2 rounds
    return exponent - 1 - (BITS[dtype] - 2)


def step_of(absmax: Array | float, dtype: Dtype, rule: ScaleRule = "absmax") -> NDArray[np.float32]:
    """The step of symmetric quantization of [-absmax, absmax]: float32, shaped as ``absmax``.

    An absmax of 0 gives 1.0. A step that float32 cannot hold as a normal number (absmax under about 4e-34)
    also gives
    1.0: everything there rounds to zero either way.
    """
    values = np.asarray(absmax, np.float64)
    if rule == "power_of_two":
        steps = np.vectorize(lambda a: 2.0 ** position_of(float(a), dtype), otypes=[np.float64])(values)
    else:
        steps = values / qrange(dtype)[1]
    small = (values <= 0) | (steps < np.finfo(np.float32).tiny)
    return cast(NDArray[np.float32], np.where(small, 1.0, steps).astype(np.float32))


def stored_scale(absmax: Array | float, dtype: Dtype) -> NDArray[np.float32]:
    """What a torch_mlu state dict stores: ``qmax / absmax`` in float32; 1.0 where absmax is 0 (or its inverse
    overflows).
    """
    values = np.asarray(absmax, np.float64)
    safe = values >= qrange(dtype)[1] * float(np.finfo(np.float32).tiny)
    return cast(
        NDArray[np.float32],
        np.where(safe, qrange(dtype)[1] / np.where(safe, values, 1.0), 1.0).astype(np.float32),
    )


def round_to(x: Array, rounding: Rounding) -> Array:
    """``x`` rounded to whole numbers, in its own dtype."""
    if rounding == "half_even":
        return np.rint(x)
    if rounding == "half_up":
        whole = np.floor(x)
        return whole + (x - whole >= 0.5)
    whole = np.trunc(x)
    return cast(Array, whole + np.copysign(np.abs(x - whole) >= 0.5, x))


def _along(parameter: Array | float, axis: int | None, rank: int) -> Array:
    """A per-channel parameter reshaped to broadcast along ``axis`` of a tensor of ``rank`` axes."""
    array = np.asarray(parameter)
    if axis is None:
        return array.reshape(())
    return array.reshape([-1 if i == axis else 1 for i in range(rank)])


def quantize(
    x: Array,
    scale: Array | float,
    dtype: Dtype,
    *,
    zero_point: Array | int = 0,
    axis: int | None = None,
    rounding: Rounding = "half_even",
) -> Array:
    """``clamp(round(x / scale) + zero_point, qmin, qmax)`` as an array of ``dtype``.

    Args:
        x: any floating array; computed in float32, as ONNX QuantizeLinear and the device compute it.
        scale: one step, or one for each index along ``axis``.
    """
    step = _along(np.asarray(scale, np.float32), axis, x.ndim)
    scaled = round_to(np.asarray(x, np.float32) / step, rounding) + _along(zero_point, axis, x.ndim).astype(np.float32)
    low, high = qrange(dtype)
    return cast(Array, np.clip(scaled, low, high).astype(dtype))


def dequantize(q: Array, scale: Array | float, *, zero_point: Array | int = 0, axis: int | None = None) -> Array:
    """``(q - zero_point) * scale`` in float32."""
    zero = _along(zero_point, axis, q.ndim).astype(np.float32)
    return cast(Array, (q.astype(np.float32) - zero) * _along(np.asarray(scale, np.float32), axis, q.ndim))


def fake_quantize(
    x: Array,
    scale: Array | float,
    dtype: Dtype,
    *,
    zero_point: Array | int = 0,
    axis: int | None = None,
    rounding: Rounding = "half_even",
) -> Array:
    """``dequantize(quantize(x))``: the float32 values that the quantized tensor can hold."""
    q = quantize(x, scale, dtype, zero_point=zero_point, axis=axis, rounding=rounding)
    return dequantize(q, scale, zero_point=zero_point, axis=axis)


Pairs = Sequence[tuple[int, int]]


def _conv2d(
    x: Array, weight: Array, stride: Sequence[int], padding: Pairs, dilation: Sequence[int], groups: int
) -> Array:
    """Cross-correlation in the dtype of ``x`` and ``weight``, one matrix product a group and image; no bias."""
    co, ci, kh, kw = weight.shape
    padded = np.pad(x, [(0, 0), (0, 0), *padding])
    ho = (padded.shape[2] - (kh - 1) * dilation[0] - 1) // stride[0] + 1
    wo = (padded.shape[3] - (kw - 1) * dilation[1] - 1) // stride[1] + 1
    out = np.empty((len(x), co, ho, wo), np.result_type(x, weight))
    columns = np.empty((ci, kh, kw, ho, wo), x.dtype)
    per = co // groups
    for image in range(len(x)):
        for g in range(groups):
            channels = padded[image, g * ci : (g + 1) * ci]
            for u in range(kh):
                rows = slice(u * dilation[0], u * dilation[0] + (ho - 1) * stride[0] + 1, stride[0])
                for v in range(kw):
                    across = slice(v * dilation[1], v * dilation[1] + (wo - 1) * stride[1] + 1, stride[1])
                    columns[:, u, v] = channels[:, rows, across]
            kernel = weight[g * per : (g + 1) * per].reshape(per, -1)
            product = kernel @ columns.reshape(ci * kh * kw, ho * wo)
            out[image, g * per : (g + 1) * per] = product.reshape(per, ho, wo)
    return out


def conv2d_float(
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: Sequence[int] = (1, 1),
    padding: Pairs = ((0, 0), (0, 0)),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Array:
    """conv2d in the operands' own float dtype: x (N, Ci, H, W), weight (Co, Ci/groups, kh, kw), bias (Co,) or
    None.
    """
    y = _conv2d(x, weight, stride, padding, dilation, groups)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def _rescale(total: Array, x_scale: Array | float, w_scale: Array | float, bias: Array | None, axis: int) -> Array:
    step = np.asarray(x_scale, np.float64) * np.asarray(w_scale, np.float64)
    y = total * _along(step, axis if step.ndim else None, total.ndim)
    if bias is not None:
        y = y + _along(bias.astype(np.float64), axis, total.ndim)
    return y.astype(np.float32)


def _exact(qx: Array, qw: Array) -> type[np.float64] | type[np.int64]:
    """The accumulator: float64 (fast, BLAS) while every partial sum is exact in it, int64 beyond."""
    terms = int(np.prod(qw.shape[1:]))
    wide = "int16" if "int16" in (str(qx.dtype), str(qw.dtype)) else "int8"
    return np.float64 if terms <= _EXACT_TERMS[wide] else np.int64


def conv2d_integer(
    qx: Array,
    qw: Array,
    bias: Array | None,
    x_scale: float,
    w_scale: Array | float,
    *,
    stride: Sequence[int] = (1, 1),
    padding: Pairs = ((0, 0), (0, 0)),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Array:
    """Symmetric quantized conv2d with exact integer accumulation: ``sum(qx * qw) * x_scale * w_scale +
    bias``, float32.

    Args:
        qx: (N, Ci, H, W) int8 or int16.
        qw: (Co, Ci/groups, kh, kw) int8 or int16.
        bias: (Co,) float, added after the sum is scaled back (Cambricon adds it in the output's float type),
            or None.
        x_scale: the input's step.
        w_scale: the weight's step, one or (Co,).
    """
    wide = _exact(qx, qw)
    total = _conv2d(qx.astype(wide), qw.astype(wide), stride, padding, dilation, groups)
    return _rescale(total, x_scale, w_scale, bias, 1)


def linear_integer(qx: Array, qw: Array, bias: Array | None, x_scale: float, w_scale: Array | float) -> Array:
    """Symmetric quantized linear, exact accumulation: qx (..., in), qw (out, in), w_scale one or (out,);
    float32 (..., out).
    """
    wide = _exact(qx, qw)
    total = qx.astype(wide) @ qw.astype(wide).T
    return _rescale(total, x_scale, w_scale, bias, total.ndim - 1)
