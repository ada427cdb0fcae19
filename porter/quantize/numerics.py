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
    "along",
    "asymmetric_of",
    "dequantize",
    "fake_quantize",
    "position_of",
    "qrange",
    "quantize",
    "requantize",
    "round_ratio",
    "round_to",
    "step_of",
    "stored_scale",
]

Dtype = Literal["int8", "int16", "uint8", "uint16"]
#: half_even: IEEE, numpy, ONNX, torch; half_away: C's round(); half_up: floor(x + 0.5).
Rounding = Literal["half_even", "half_away", "half_up"]
#: absmax: step absmax / qmax (torch_mlu's files); negative: step absmax / -qmin (Horizon's threshold / 128);
#: power_of_two: step 2**position only.
ScaleRule = Literal["absmax", "negative", "power_of_two"]

#: Bits of each quantized dtype.
BITS: dict[Dtype, int] = {"int8": 8, "int16": 16, "uint8": 8, "uint16": 16}
#: A float64 times this, less itself in the right order, keeps 42 of its 53 bits (Veltkamp's splitting).
_SPLIT = 2.0**11 + 1


def qrange(dtype: Dtype) -> tuple[int, int]:
    """(qmin, qmax): (-128, 127) of int8, (0, 255) of uint8, and so for 16 bits."""
    if dtype.startswith("u"):
        return 0, (1 << BITS[dtype]) - 1
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
    """The step of symmetric quantization of [-absmax, absmax] to a signed dtype: float32, shaped as ``absmax``.

    An absmax of 0 gives 1.0. A step that float32 cannot hold as a normal number (absmax under about 4e-34)
    also gives
    1.0: everything there rounds to zero either way.
    """
    values = np.asarray(absmax, np.float64)
    if rule == "power_of_two":
        steps = np.vectorize(lambda a: 2.0 ** position_of(float(a), dtype), otypes=[np.float64])(values)
    elif rule == "negative":
        steps = values / -qrange(dtype)[0]
    else:
        steps = values / qrange(dtype)[1]
    small = (values <= 0) | (steps < np.finfo(np.float32).tiny)
    return cast(NDArray[np.float32], np.where(small, 1.0, steps).astype(np.float32))


def asymmetric_of(minimum: float, maximum: float, dtype: Dtype) -> tuple[np.float32, int]:
    """(step, zero point) of a range that is first widened to hold 0: step ``(max - min) / (qmax - qmin)``, zero point
    ``round(qmin - min / step)``, clamped to the dtype.

    A real 0 is a whole number of steps from every quantized value, so that padding with it is exact. An empty range, or
    one whose step float32 cannot hold as a normal number, gives the step 1.0. (The formula is that of ONNX's
    DynamicQuantizeLinear.)
    """
    low, high = qrange(dtype)
    bottom, top = min(float(minimum), 0.0), max(float(maximum), 0.0)
    step = np.float32((top - bottom) / (high - low))
    if step < np.finfo(np.float32).tiny:
        step = np.float32(1.0)
    zero = int(np.rint(low - bottom / float(step)))
    return step, min(max(zero, low), high)


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


def round_ratio(ratio: Array, rounding: Rounding) -> Array:
    """Float64 quotients of exact integers and scales, rounded to whole numbers.

    Only their 42 leading bits count: where scales meet in exact halves (a mean of four, steps in the ratio 3:2), the
    roundings of float64 arithmetic would otherwise decide which way a half goes.
    """
    wide = ratio * _SPLIT
    return round_to(wide - (wide - ratio), rounding)


def requantize(
    real: Array,
    scale: Array | float,
    dtype: Dtype,
    *,
    zero_point: Array | int = 0,
    axis: int | None = None,
    rounding: Rounding = "half_even",
) -> Array:
    """``clamp(round(real / scale) + zero_point, qmin, qmax)`` of exact float64 values, as an array of ``dtype``.

    Args:
        real: float64: an integer accumulator times its step.
        scale: one step, or one for each index along ``axis``.
    """
    ratio = np.asarray(real, np.float64) / along(np.asarray(scale, np.float64), axis, np.ndim(real))
    low, high = qrange(dtype)
    whole = round_ratio(ratio, rounding) + along(zero_point, axis, np.ndim(real)).astype(np.float64)
    return cast(Array, np.clip(whole, low, high).astype(dtype))


def along(parameter: Array | float, axis: int | None, rank: int) -> Array:
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
    step = along(np.asarray(scale, np.float32), axis, x.ndim)
    scaled = round_to(np.asarray(x, np.float32) / step, rounding) + along(zero_point, axis, x.ndim).astype(np.float32)
    low, high = qrange(dtype)
    return cast(Array, np.clip(scaled, low, high).astype(dtype))


def dequantize(q: Array, scale: Array | float, *, zero_point: Array | int = 0, axis: int | None = None) -> Array:
    """``(q - zero_point) * scale`` in float32."""
    zero = along(zero_point, axis, q.ndim).astype(np.float32)
    return cast(Array, (q.astype(np.float32) - zero) * along(np.asarray(scale, np.float32), axis, q.ndim))


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
