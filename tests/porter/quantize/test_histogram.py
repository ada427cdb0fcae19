# SPDX-License-Identifier: Apache-2.0
"""The histogram against the values themselves."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from porter.quantize.histogram import Histogram

FLOATS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
STREAM = st.lists(st.lists(FLOATS, min_size=1, max_size=60), min_size=1, max_size=6)


def counted(arrays):
    histogram = Histogram()
    for array in arrays:
        x = np.asarray(array, np.float32)
        histogram.add(x, float(x.min()), float(x.max()))
    return histogram


def same(a, b):
    left, right = a.state(), b.state()
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


def rounded_error(x, step, top):
    """Directly: the sum of squared errors of rounding |x| to multiples of ``step`` up to ``top``."""
    q = np.minimum(np.rint(x / step) * step, top)
    return float(((x - q) ** 2).sum())


def test_bins_are_an_upper_half_of_a_float():
    positive, negative = counted([[1.0, 1.0, 1.9921875, -3.0, 0.0]]).sides()
    # The bins of 1 and 1.9921875 are 1/128 wide; the last is cut to the largest value.
    np.testing.assert_array_equal(positive.low, [1.0, 1.9921875])
    np.testing.assert_array_equal(positive.high, [1.0078125, 1.9921875])
    np.testing.assert_array_equal(positive.number, [2, 1])
    np.testing.assert_array_equal(negative.low, [3.0])
    np.testing.assert_array_equal(negative.high, [3.0])


@settings(deadline=None, max_examples=30)
@given(STREAM, STREAM)
def test_merging_is_counting_one_after_the_other_in_any_order(first, second):
    both = counted(first + second)
    a, b = counted(first), counted(second)
    a.merge(b)
    same(a, both)
    c = counted(second)
    c.merge(counted(first))
    same(c, both)
    assert both.total == sum(map(len, first + second))
    again = Histogram()
    again.restore(both.state())
    same(again, both)


@settings(deadline=None, max_examples=30)
@given(STREAM)
@example([[2.0**19, 2.0**-20.5]])
def test_every_value_lies_in_an_occupied_bin(stream):
    x = np.concatenate([np.asarray(part, np.float32) for part in stream]).astype(np.float64)
    histogram = counted(stream)
    least = np.abs(x).max() * 2.0**-39
    for side, values in zip(histogram.sides(), (x[x > 0], -x[x < 0]), strict=True):
        assert side.number.sum() <= values.size
        for value in values[values > least]:
            assert np.any((side.low <= value) & (value <= side.high))
    assert sum(side.number.sum() for side in histogram.sides()) + histogram.zeros == x.size


def test_large_and_small_arrays_are_counted_alike():
    x = np.random.default_rng(0).normal(size=49_000).astype(np.float32)
    x[::7] = 0
    whole, parts = counted([x]), counted(np.array_split(x, 100))
    same(whole, parts)
    assert whole.zeros == (x == 0).sum()


def test_a_very_large_array_is_sampled_and_weighs_what_it_should():
    x = np.random.default_rng(0).normal(size=2_000_000).astype(np.float32)
    x[::2] = 0
    histogram = counted([x, [1e3]])
    assert abs(histogram.total - len(x) - 1) < 41
    assert histogram.zeros / histogram.total == pytest.approx(0.5, abs=0.002)
    assert histogram.quantile(0.9) == pytest.approx(np.quantile(np.abs(x), 0.9), rel=0.02)
    assert histogram.quantile(1) == 1e3


def test_an_outlier_leaves_small_values_their_resolution():
    values = np.linspace(0.5, 1, 10_000).astype(np.float32)
    histogram = counted([values, [1e6]])
    assert histogram.quantile(0.5) == pytest.approx(0.75, rel=1 / 128)


@settings(deadline=None, max_examples=30)
@given(STREAM, st.floats(0.5, 1))
def test_quantiles(stream, fraction):
    x = np.concatenate([np.asarray(part, np.float32) for part in stream]).astype(np.float64)
    histogram = counted(stream)
    bound = histogram.quantile(fraction)
    size = np.sort(np.abs(x))
    exact = size[max(int(np.ceil(fraction * len(x) - 1e-6)) - 1, 0)]
    assert exact * (1 - 1e-9) <= bound + size[-1] * 2.0**-40 and bound <= exact * (1 + 1 / 128) + size[-1] * 2.0**-40
    low, high = histogram.interval(fraction)
    inside = (x >= low - size[-1] * 2.0**-40) & (x <= high + size[-1] * 2.0**-40)
    assert inside.sum() >= fraction * len(x) - 1e-6
    assert x.min() <= low <= high <= x.max() or low == high == 0 or x.min() > 0 or x.max() < 0


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=40), st.integers(1, 9), st.integers(2, 60))
def test_the_error_of_values_that_fill_their_bins_alone_is_exact(values, divisor, levels):
    # Whole numbers up to 255 have bins of their own: with every bin cut to its one value, nothing is spread.
    step = 1 / divisor
    for value in values:
        side = counted([[float(value)]]).sides()[0]
        assert side.error(step, levels * step) == pytest.approx(
            rounded_error(np.array([float(value)]), step, levels * step), abs=1e-9
        )


@pytest.mark.parametrize("step", [3.0, 0.1, 0.01, 0.0001])
@pytest.mark.parametrize("top", [127, 40])
def test_the_error_of_a_smooth_distribution(step, top):
    x = np.abs(np.random.default_rng(1).normal(size=400_000)).astype(np.float32).astype(np.float64)
    side = counted(np.array_split(x, 10)).sides()[0]
    assert side.error(step, top * step) == pytest.approx(rounded_error(x, step, top * step), rel=0.01)


def test_linear_bins():
    x = np.random.default_rng(2).exponential(size=100_000).astype(np.float32)
    counts = counted([x, [0.0, 0.0]]).linear(256)
    assert counts.sum() == pytest.approx(len(x))  # zeros are left out
    exact, _ = np.histogram(x, 256, (0, x.max()))
    # Cumulative counts agree to what can lie in one bin of the other kind.
    assert np.abs(np.cumsum(counts) - np.cumsum(exact)).max() <= exact.max()
    np.testing.assert_allclose(counted([[4.0], [-4.0]]).linear(4), [0, 0, 0, 2])
    np.testing.assert_allclose(counted([[3.0, 1.0, 1.0]]).linear(3)[2], 1)


@pytest.mark.parametrize("shape", [(1, 32, 40, 30), (1, 48, 70, 60)])
def test_in_which_order_elements_lie_changes_nothing(shape):
    """Arrays that are sampled, too: the same elements are taken."""
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert (x.size > 131072) == (shape[1] == 48)
    n, c, h, w = shape
    memory = np.ascontiguousarray(x.reshape(n, c // 16, 16, h, w).transpose(0, 1, 3, 4, 2))
    gaps = np.zeros((n, c, h, 2 * w), np.float32)
    gaps[..., ::2] = x
    for other in (memory.transpose(0, 1, 4, 2, 3), np.asfortranarray(x), gaps[..., ::2]):
        assert not other.flags.c_contiguous
        np.testing.assert_array_equal(other.reshape(shape), x)
        same(counted([other]), counted([x]))
