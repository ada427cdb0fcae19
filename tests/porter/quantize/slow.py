# SPDX-License-Identifier: Apache-2.0
"""Slow, obviously right references: nested loops over Python's integers and fractions, which neither overflow nor
round."""

from fractions import Fraction
from math import ceil, floor

import numpy as np


def convolve(x, w, stride, padding, dilation, groups):
    """Cross-correlation of object arrays; the shapes of porter.ops."""
    n, _, *size = x.shape
    co, ci, *kernel = w.shape
    out_size = [
        (e + sum(p) - (k - 1) * d - 1) // s + 1
        for e, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    out = np.zeros((n, co, *out_size), object)
    for b, o, *at in np.ndindex(out.shape):
        first = o // (co // groups) * ci
        for c, *tap in np.ndindex(ci, *kernel):
            place = [i * s - p[0] + t * d for i, s, p, t, d in zip(at, stride, padding, tap, dilation, strict=True)]
            if all(0 <= i < e for i, e in zip(place, size, strict=True)):
                out[(b, o, *at)] += x[(b, first + c, *place)] * w[(o, c, *tap)]
    return out


def convolve_transposed(x, w, stride, padding, dilation, groups, output_padding):
    """Transposed convolution of object arrays."""
    n, channels, *size = x.shape
    ci, per, *kernel = w.shape
    full = [
        (e - 1) * s - sum(p) + d * (k - 1) + 1 + extra
        for e, k, s, p, d, extra in zip(size, kernel, stride, padding, dilation, output_padding, strict=True)
    ]
    out = np.zeros((n, groups * per, *full), object)
    for b, c, *at in np.ndindex(n, channels, *size):
        group = c // (ci // groups)
        for o, *tap in np.ndindex(per, *kernel):
            place = [i * s - p[0] + t * d for i, s, p, t, d in zip(at, stride, padding, tap, dilation, strict=True)]
            if all(0 <= i < e for i, e in zip(place, full, strict=True)):
                out[(b, group * per + o, *place)] += x[(b, c, *at)] * w[(c, o, *tap)]
    return out


def pool(x, kernel, stride, padding, reduce):
    """``reduce`` of the values under each window of a 2-D pool; what lies in the padding is left out."""
    (top, bottom), (left, right) = padding
    n, c, h, w = x.shape
    out = np.zeros(
        (n, c, (h + top + bottom - kernel[0]) // stride[0] + 1, (w + left + right - kernel[1]) // stride[1] + 1), object
    )
    for b, ch, i, j in np.ndindex(out.shape):
        rows = [r for r in range(i * stride[0] - top, i * stride[0] - top + kernel[0]) if 0 <= r < h]
        columns = [r for r in range(j * stride[1] - left, j * stride[1] - left + kernel[1]) if 0 <= r < w]
        out[b, ch, i, j] = reduce([x[b, ch, r, s] for r in rows for s in columns])
    return out


def bilinear(x, factor):
    """Resize of (N, C, H, W) by a whole factor, half_pixel, edges held."""
    n, c, h, w = x.shape
    out = np.zeros((n, c, h * factor, w * factor), object)
    for b, ch, i, j in np.ndindex(out.shape):
        y, z = (
            min(max((Fraction(2 * at + 1, 2 * factor)) - Fraction(1, 2), Fraction(0)), Fraction(extent - 1))
            for at, extent in ((i, h), (j, w))
        )
        total = Fraction(0)
        for r in {floor(y), ceil(y)}:
            for s in {floor(z), ceil(z)}:
                total += (1 - abs(y - r)) * (1 - abs(z - s)) * x[b, ch, r, s]
        out[b, ch, i, j] = total
    return out


def rounded(ratio, rounding):
    """A fraction as a whole number."""
    if rounding == "half_even":
        return round(ratio)  # Fraction rounds half to even
    if rounding == "half_up":
        return floor(ratio + Fraction(1, 2))
    return floor(ratio + Fraction(1, 2)) if ratio >= 0 else ceil(ratio - Fraction(1, 2))


def real(q, step, zero):
    """Integers as fractions; ``step`` and ``zero`` broadcast."""
    step, zero = np.broadcast_to(step, q.shape), np.broadcast_to(zero, q.shape)
    out = np.zeros(q.shape, object)
    for at in np.ndindex(q.shape):
        out[at] = (int(q[at]) - int(zero[at])) * Fraction(float(step[at]))
    return out


def near_half(ratio):
    """Whether a fraction is so near to a half, but not at it, that float64 cannot tell."""
    away = abs(ratio - floor(ratio) - Fraction(1, 2))
    return away != 0 and away < Fraction(1, 2**38) * max(abs(ratio), 1)
