# SPDX-License-Identifier: Apache-2.0
"""The measures of evidence, against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from porter.verify import TensorError, compare

FINITE = st.floats(-1e6, 1e6, width=32)


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3), elements=FINITE))
def test_a_tensor_equals_itself(x):
    error = compare("x", x, x.copy())
    assert error.equal and error.max_abs == 0 and error.sqnr == math.inf and error.within(0.0)
    assert error.cosine == pytest.approx(1.0)


@given(hnp.arrays(np.float64, st.integers(1, 40), elements=FINITE), st.integers(0, 2**32 - 1), FINITE)
def test_measures_follow_their_definitions(a, seed, size):
    b = a + size * np.random.default_rng(seed).standard_normal(a.size)
    error = compare("x", a, b)
    d = a - b
    assert error.max_abs == pytest.approx(np.abs(d).max())
    assert error.range == pytest.approx(a.max() - a.min())
    if (d @ d) > 0 and (a @ a) > 0:
        assert error.sqnr == pytest.approx(10 * math.log10((a @ a) / (d @ d)), abs=1e-6)


@given(hnp.arrays(np.float64, st.integers(2, 60), elements=FINITE), st.integers(1, 59))
def test_many_parts_give_what_the_whole_gives(a, cut):
    b = np.roll(a, 1)
    whole, parts = compare("x", a, b), TensorError("x")
    parts.add(a[:cut], b[:cut])
    parts.add(a[cut:], b[cut:])
    assert (parts.max_abs, parts.low, parts.high) == (whole.max_abs, whole.low, whole.high)
    assert parts.noise == pytest.approx(whole.noise, rel=1e-9, abs=1e-9)


def test_nan_and_infinity_must_stand_in_the_same_places():
    a = np.array([1.0, np.nan, np.inf, -np.inf], np.float32)
    assert compare("x", a, a.copy()).equal
    moved = np.array([1.0, np.inf, np.inf, -np.inf], np.float32)
    assert compare("x", a, moved).mismatched == 1
    assert not compare("x", a, moved).within(1e9)
    assert compare("x", np.array([1.0]), np.array([np.nan])).mismatched == 1


def test_a_constant_reference_is_judged_by_its_absolute_error():
    error = compare("x", np.full(3, 5.0), np.full(3, 5.5))
    assert error.range == 0 and error.relative == 0.5


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2,\), expected \(3,\)"):
        compare("x", np.zeros(3), np.zeros(2))


def test_integers_and_bools_compare_too():
    assert compare("x", np.array([True, False]), np.array([True, False])).equal
    assert compare("x", np.array([1, 2]), np.array([1, 4])).max_abs == 2


def test_half_precision_may_differ_by_its_own_rounding():
    a = np.linspace(0, 1, 9, dtype=np.float16)
    assert compare("x", a, np.nextafter(a, np.float16(2))).within(0.0)
    assert not compare("x", a, a + np.float16(0.02)).within(1e-4)
    assert not compare("x", a.astype(np.float32), a + np.float32(0.001)).within(1e-4)


def test_rounding_is_no_error_where_all_values_are_almost_the_same():
    a = np.full(3, 0.025, np.float32)
    a[1] = np.nextafter(a[1], np.float32(1))
    assert compare("x", a, a[::-1].copy() + np.float32(4e-9)).within(1e-4)
    assert not compare("x", a, a + np.float32(4e-8)).within(1e-4)
    assert not compare("x", a, a + np.float32(4e-9)).within(0.0)
    whole = np.array([10**8, 10**8 + 1], np.int64)
    assert not compare("x", whole, whole + 1).within(1e-4)
