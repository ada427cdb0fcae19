# SPDX-License-Identifier: Apache-2.0
"""Sums of products and of windows over arrays of whole numbers, exact; and the same sums over floats.

The whole numbers of quantized tensors (``q - zero_point``) come as float32 or float64 arrays, because BLAS multiplies
those an order of magnitude faster than numpy multiplies integers. Each kernel finds a bound of its partial sums first
and computes in float32 while that is under 2**24, in float64 under 2**53, and in int64 beyond: every sum is exact
whatever the order in which BLAS adds. (IEEE 754: all whole numbers up to 2**24 and 2**53 are float32 and float64
values.)

Shapes are those of :mod:`porter.ops`: x is (N, Ci, ...), a convolution's weight (Co, Ci/groups, k...), a transposed
one's (Ci, Co/groups, k...).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from porter.ops import Array

__all__ = [
    "Pairs", "adaptive_matrix", "conv2d_float", "convolve", "convolve_transposed", "linear_matrix", "multiply",
    "separable", "window_matrix",
]  # fmt: skip

Pairs = Sequence[tuple[int, int]]
#: The most bytes of unfolded input (im2col) at a time.
_COLUMNS = 32 * 2**20


def _working(bound: float) -> type[np.floating[Any]] | type[np.int64]:
    """The dtype whose sums up to ``bound`` are exact."""
    if bound < 2**24:
        return np.float32
    return np.float64 if bound < 2**53 else np.int64


def _largest(x: Array) -> float:
    return max(float(x.max(initial=0)), -float(x.min(initial=0)))


def _weight_sums(weight: Array, axes: tuple[int, ...]) -> float:
    """The largest sum of absolute weights of one output."""
    return float(np.abs(weight, dtype=np.float64).sum(axes).max(initial=0.0))


def convolve(
    x: Array, weight: Array, stride: Sequence[int], padding: Pairs, dilation: Sequence[int], groups: int
) -> Array:
    """Exact cross-correlation of whole numbers over one to three spatial axes, padded with 0; (N, Co, ...)."""
    dtype = _working(_largest(x) * _weight_sums(weight, tuple(range(1, weight.ndim))))
    return _convolve(x.astype(dtype, copy=False), weight.astype(dtype, copy=False), stride, padding, dilation, groups)


def _convolve(
    x: Array, weight: Array, stride: Sequence[int], padding: Pairs, dilation: Sequence[int], groups: int
) -> Array:
    co, ci = weight.shape[:2]
    kernel = tuple(int(k) for k in weight.shape[2:])
    padded = np.pad(x, [(0, 0), (0, 0), *padding]) if any(map(any, padding)) else x
    size = [
        (extent - (k - 1) * d - 1) // s + 1
        for extent, k, s, d in zip(padded.shape[2:], kernel, stride, dilation, strict=True)
    ]
    taps = list(np.ndindex(*kernel))

    def windows(tap: tuple[int, ...], first: int, last: int) -> tuple[slice, ...]:
        """What tap sees for rows first..last of the result (rows: the first spatial axis)."""
        bounds = [(first, last), *((0, n) for n in size[1:])]
        return tuple(
            slice(t * d + a * s, t * d + (b - 1) * s + 1, s)
            for t, d, s, (a, b) in zip(tap, dilation, stride, bounds, strict=True)
        )

    out = np.zeros((len(x), co, *size), np.result_type(x, weight))
    if out.size == 0:
        return out
    if ci == 1 and groups > 1:
        split = out.reshape(len(x), groups, co // groups, *size)
        for tap in taps:
            factors = weight[:, 0, *tap].reshape(groups, co // groups, *(1,) * len(size))
            split += padded[:, :, *windows(tap, 0, size[0])][:, :, np.newaxis] * factors
        return out
    matrix = weight.reshape(groups, co // groups, ci * len(taps))
    row = groups * ci * len(taps) * prod(size[1:]) * x.dtype.itemsize
    rows = max(1, min(size[0], _COLUMNS // max(row, 1)))
    for image in range(len(x)):
        for first in range(0, size[0], rows):
            last = min(first + rows, size[0])
            area = (last - first) * prod(size[1:])
            columns = np.empty((groups * ci, len(taps), area), x.dtype)
            for index, tap in enumerate(taps):
                columns[:, index] = padded[image][:, *windows(tap, first, last)].reshape(groups * ci, area)
            product = matrix @ columns.reshape(groups, ci * len(taps), area)
            out[image, :, first:last] = product.reshape(co, last - first, *size[1:])
    return out


def convolve_transposed(
    x: Array,
    weight: Array,
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    groups: int,
    output_padding: Sequence[int],
) -> Array:
    """Exact transposed convolution of whole numbers over one to three spatial axes; (N, Co, ...).

    ``padding`` is cut from the result, ``output_padding`` added at its end (with 0 beyond the reach of the kernel).
    """
    ci, per, *kernel = weight.shape
    grouped = weight.reshape(groups, ci // groups, *weight.shape[1:])
    bound = _largest(x) * _weight_sums(grouped, (1, *range(3, grouped.ndim)))
    dtype = _working(bound)
    x, weight = x.astype(dtype, copy=False), weight.astype(dtype, copy=False)
    size = x.shape[2:]
    full = [
        (n - 1) * s + d * (k - 1) + 1 + extra
        for n, s, d, k, extra in zip(size, stride, dilation, kernel, output_padding, strict=True)
    ]
    out = np.zeros((len(x), groups * per, *full), dtype)
    sources = x.reshape(len(x), groups, ci // groups, -1)
    for tap in np.ndindex(*kernel):
        matrix = weight[..., *tap].reshape(groups, ci // groups, per).swapaxes(1, 2)
        places = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in zip(tap, dilation, size, stride, strict=True)
        )
        out[:, :, *places] += (matrix @ sources).reshape(len(x), groups * per, *size)
    kept = tuple(slice(begin, n - end) for n, (begin, end) in zip(full, padding, strict=True))
    return out[:, :, *kept]


def multiply(x: Array, y: Array) -> Array:
    """Exact ``x @ y`` of whole numbers, with numpy's rules for shapes."""
    dtype = _working(_largest(x) * _weight_sums(y, (max(y.ndim - 2, 0),)))
    product: Array = x.astype(dtype, copy=False) @ y.astype(dtype, copy=False)
    return product


# -- sums over windows -------------------------------------------------------------------------------------------
# Pools, adaptive pools and linear resizing weigh every spatial axis apart: one matrix an axis, (results, extent).


def separable(x: Array, matrices: Sequence[Array]) -> NDArray[np.float64]:
    """``x`` (N, C, ...) with each spatial axis multiplied by its matrix, in float64.

    Exact for whole numbers and matrices of 0 and 1.
    """
    y = np.asarray(x, np.float64)
    for axis, matrix in enumerate(matrices, 2):
        y = np.moveaxis(np.moveaxis(y, axis, -1) @ matrix.T, -1, axis)
    return y


def window_matrix(
    extent: int, size: int, kernel: int, stride: int, padding: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The windows of a pool along one axis: a (size, extent) matrix of 0 and 1, and how many places of the padded axis
    each window covers (one that ``ceil_mode`` added may reach beyond it)."""
    starts = np.arange(size) * stride - padding[0]
    ends = np.minimum(starts + kernel, extent + padding[1])
    place = np.arange(extent)
    inside = (place >= starts[:, None]) & (place < ends[:, None])
    return inside.astype(np.float64), ends - starts


def adaptive_matrix(extent: int, size: int) -> NDArray[np.float64]:
    """The windows of an adaptive pool along one axis, floor(i * extent / size) to ceil((i + 1) * extent / size):
    (size, extent) of 0 and 1. (torch, aten/src/ATen/native/AdaptivePooling.h)"""
    index, place = np.arange(size)[:, None], np.arange(extent)
    return ((place >= index * extent // size) & (place < -(-(index + 1) * extent // size))).astype(np.float64)


def linear_matrix(extent: int, size: int, coordinates: str, scale: float | None) -> NDArray[np.float64]:
    """Linear interpolation along one axis: (size, extent), each row the weights of two neighbours.

    ``coordinates`` is as for :data:`porter.ops.KINDS` ``resize``; ``scale`` is size / extent unless given.
    (ONNX Operators.md, Resize)
    """
    ratio = size / extent if scale is None else scale
    index = np.arange(size, dtype=np.float64)
    if coordinates == "align_corners":
        place = index * (extent - 1) / (size - 1) if size > 1 else index
    elif coordinates == "asymmetric":
        place = index / ratio
    elif coordinates == "half_pixel" or size > 1:
        place = (index + 0.5) / ratio - 0.5
    else:  # pytorch_half_pixel of a single result
        place = index
    place = np.clip(place, 0, extent - 1)
    left = np.minimum(np.floor(place).astype(np.int64), max(extent - 2, 0))
    share = place - left
    matrix = np.zeros((size, extent))
    rows = np.arange(size)
    matrix[rows, left] = 1 - share
    matrix[rows, np.minimum(left + 1, extent - 1)] += share
    return matrix


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
    """conv2d in the operands' own float dtype: x (N, Ci, H, W), weight (Co, Ci/groups, kh, kw), bias (Co,) or None."""
    y = _convolve(x, weight, stride, padding, dilation, groups)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)
