# SPDX-License-Identifier: Apache-2.0
"""Kernels of whole numbers, against nested loops over Python's integers, which neither overflow nor round."""

import itertools
from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
import slow
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from porter.quantize import kernels
from porter.quantize import numerics as nm

#: Ranges of (q - zero_point): int8, uint8 around any zero point, int16 around any, and beyond float64's whole numbers.
RANGES = st.sampled_from([(-128, 127), (-255, 255), (-65535, 65535), (-(2**27), 2**27)])


def wholes(data, shape, limits):
    dtype = np.float32 if limits[1] < 2**24 else np.float64
    return data.draw(hnp.arrays(np.int64, shape, elements=st.integers(*limits))).astype(dtype)


def window(data, axes):
    """Kernel, stride, padding and dilation of a number of axes."""
    draw = lambda low, high: tuple(data.draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    return draw(1, 3), draw(1, 3), tuple(zip(draw(0, 2), draw(0, 2), strict=True)), draw(1, 2)


def integers(array):
    return np.vectorize(int, otypes=[object])(array)


def same(got, want):
    assert got.shape == want.shape
    assert [int(v) for v in got.ravel()] == [int(v) for v in want.ravel()]


@settings(max_examples=80, deadline=None)
@given(st.data(), RANGES, st.integers(1, 3), st.sampled_from([(1, 2, 3), (2, 2, 2), (3, 1, 1), (2, 1, 2)]))
def test_convolution(data, limits, axes, form):
    kernel, stride, padding, dilation = window(data, axes)
    groups, per_in, per_out = form
    size = tuple((k - 1) * d + data.draw(st.integers(1, 3)) for k, d in zip(kernel, dilation, strict=True))
    x = wholes(data, (data.draw(st.integers(1, 2)), groups * per_in, *size), limits)
    w = wholes(data, (groups * per_out, per_in, *kernel), limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_COLUMNS", data.draw(st.sampled_from([1, 1000, 2**25])))  # one row at a time, some, all
        got = kernels.convolve(x, w, stride, padding, dilation, groups)
    same(got, slow.convolve(integers(x), integers(w), stride, padding, dilation, groups))


@settings(max_examples=60, deadline=None)
@given(st.data(), RANGES, st.integers(1, 2), st.sampled_from([1, 2]))
def test_transposed_convolution(data, limits, axes, groups):
    kernel, stride, _, dilation = window(data, axes)
    extra = tuple(data.draw(st.integers(0, s - 1)) for s in stride)
    reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    padding = tuple((data.draw(st.integers(0, r // 2)), data.draw(st.integers(0, r // 2))) for r in reach)
    x = wholes(data, (1, groups * 2, *(data.draw(st.integers(1, 3)) for _ in range(axes))), limits)
    w = wholes(data, (groups * 2, 2, *kernel), limits)
    got = kernels.convolve_transposed(x, w, stride, padding, dilation, groups, extra)
    same(got, slow.convolve_transposed(integers(x), integers(w), stride, padding, dilation, groups, extra))


@settings(max_examples=40, deadline=None)
@given(
    st.data(), RANGES, st.sampled_from([((2, 3), (3, 4)), ((2, 2, 3), (2, 3, 1)), ((1, 3), (3,)), ((2, 1, 4), (4, 2))])
)
def test_product(data, limits, shapes):
    x, y = (wholes(data, shape, limits) for shape in shapes)
    same(kernels.multiply(x, y), np.asarray(integers(x) @ integers(y)))


def test_the_narrowest_dtype_that_is_exact_is_chosen():
    for bound, dtype in [(2**24 - 1, np.float32), (2**24, np.float64), (2**53 - 1, np.float64), (2**53, np.int64)]:
        assert kernels._working(bound) is dtype
    x = np.full((1, 1, 1, 1), -128, np.int8)  # whose absolute value int8 does not hold
    assert kernels.convolve(x, x, (1, 1), ((0, 0), (0, 0)), (1, 1), 1).item() == 16384


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2), st.booleans())
def test_windows_of_a_pool(extent, kernel, stride, begin, end, ceil_mode):
    reach = extent + begin + end - kernel
    if reach < 0:
        return
    size = (-(-reach // stride) if ceil_mode else reach // stride) + 1
    if (size - 1) * stride >= extent + begin:
        size -= 1  # a window that begins in the padding at the end is left out
    matrix, counts = kernels.window_matrix(extent, size, kernel, stride, (begin, end))
    for i in range(size):
        places = [p for p in range(i * stride - begin, i * stride - begin + kernel) if p < extent + end]
        assert counts[i] == len(places)
        assert np.flatnonzero(matrix[i]).tolist() == [p for p in places if 0 <= p < extent]


@given(st.integers(1, 12), st.integers(1, 12))
def test_windows_of_an_adaptive_pool(extent, size):
    matrix = kernels.adaptive_matrix(extent, size)
    for i in range(size):
        first, last = floor(Fraction(i * extent, size)), ceil(Fraction((i + 1) * extent, size))
        assert np.flatnonzero(matrix[i]).tolist() == list(range(first, last))


@pytest.mark.parametrize("coordinates", ["asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"])
def test_linear_interpolation(coordinates):
    for extent, size in itertools.product(range(1, 6), range(1, 9)):
        ratio = Fraction(size, extent)
        matrix = kernels.linear_matrix(extent, size, coordinates, None)
        for i in range(size):
            place = {
                "asymmetric": Fraction(i) / ratio,
                "half_pixel": (i + Fraction(1, 2)) / ratio - Fraction(1, 2),
                "align_corners": Fraction(i * (extent - 1), size - 1) if size > 1 else Fraction(0),
                "pytorch_half_pixel": (i + Fraction(1, 2)) / ratio - Fraction(1, 2) if size > 1 else Fraction(0),
            }[coordinates]
            place = min(max(place, Fraction(0)), Fraction(extent - 1))
            want = [float(max(1 - abs(place - p), 0)) for p in range(extent)]
            np.testing.assert_allclose(matrix[i], want, atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(-(2**31), 2**31 - 1),
    st.floats(2.0**-20, 2.0**4, width=32),
    st.floats(2.0**-12, 2.0**8, width=32),
    st.sampled_from(["int8", "uint8", "int16"]),
    st.sampled_from(["half_even", "half_away", "half_up"]),
    st.integers(-3, 130),
)
def test_requantization_against_fractions(total, step, scale, dtype, rounding, zero):
    ratio = Fraction(total) * Fraction(step) / Fraction(scale)
    if slow.near_half(ratio):
        return  # a half but for a rounding of float64: counts as the half, see round_ratio
    low, high = nm.qrange(dtype)
    want = min(max(slow.rounded(ratio, rounding) + zero, low), high)
    got = nm.requantize(np.array([total * np.float64(step)]), scale, dtype, zero_point=zero, rounding=rounding)
    assert got.dtype == dtype
    assert got.item() == want


@pytest.mark.parametrize("shift", range(1, 12))
@pytest.mark.parametrize("rounding", ["half_even", "half_away", "half_up"])
def test_power_of_two_requantization_is_a_shift(shift, rounding):
    total = np.arange(-700, 700)
    got = nm.requantize(total * 2.0**-5, 2.0 ** (shift - 5), "int16", rounding=rounding)
    quotient, rest = total >> shift, total & ((1 << shift) - 1)
    half = 1 << (shift - 1)
    if rounding == "half_up":
        up = rest >= half
    elif rounding == "half_even":
        up = (rest > half) | ((rest == half) & (quotient & 1 == 1))
    else:
        up = (rest > half) | ((rest == half) & (total >= 0))
    np.testing.assert_array_equal(got, quotient + up)


def test_halves_that_float64_misses_are_halves():
    # 49 * (1/98) is 0.49999999999999994 in float64.
    step = 1 / 98
    assert 49 * step < 0.5
    assert nm.requantize(np.array([49 * step]), 1.0, "int8", rounding="half_up").item() == 1


@pytest.mark.parametrize(
    ("low", "high", "dtype", "step", "zero"),
    [(-1.0, 1.55, "uint8", 0.01, 100), (0.0, 2.55, "uint8", 0.01, 0), (0.5, 2.55, "int8", 0.01, -128),
     (-2.55, -1.0, "int8", 0.01, 127), (0.0, 0.0, "uint8", 1.0, 0)],
)  # fmt: skip
def test_asymmetric_parameters(low, high, dtype, step, zero):
    found = nm.asymmetric_of(low, high, dtype)
    assert found == (np.float32(step), zero)
    assert nm.quantize(np.zeros(1, np.float32), found[0], dtype, zero_point=zero).item() == zero
