# SPDX-License-Identifier: Apache-2.0
"""The arithmetic, against integers and fractions computed the slow way."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from porter.quantize import numerics as nm

DTYPES = st.sampled_from(["int8", "int16"])
FLOATS = st.floats(-1e4, 1e4, width=32)


@given(DTYPES, hnp.arrays(np.float32, st.integers(1, 20), elements=FLOATS), st.sampled_from(["absmax", "power_of_two"]))
def test_quantize_against_fractions(dtype, x, rule):
    step = float(nm.step_of(float(np.abs(x).max()), dtype, rule))
    low, high = nm.qrange(dtype)
    want = []
    for value in x:
        ratio = Fraction(float(np.float32(value) / np.float32(step)))
        want.append(min(max(round(ratio), low), high))  # Python rounds half to even
    got = nm.quantize(x, step, dtype)
    assert got.dtype == dtype
    assert got.tolist() == want


@given(DTYPES, hnp.arrays(np.float32, st.integers(1, 50), elements=FLOATS))
def test_fake_quantization_moves_by_at_most_half_a_step(dtype, x):
    step = float(nm.step_of(float(np.abs(x).max()), dtype))
    error = np.abs(nm.fake_quantize(x, step, dtype).astype(np.float64) - x)
    assert error.max() <= step * (0.5 + 1e-2)  # float32 division at 32767 steps resolves 2**-9 of a step


def test_roundings_differ_at_halves_only():
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 1.25, -1.75, 0.49999997], np.float32)
    assert nm.round_to(x, "half_even").tolist() == [-2, -2, 0, 0, 2, 2, 1, -2, 0]
    assert nm.round_to(x, "half_away").tolist() == [-3, -2, -1, 1, 2, 3, 1, -2, 0]
    assert nm.round_to(x, "half_up").tolist() == [-2, -1, 0, 1, 2, 3, 1, -2, 0]


def test_scale_formulas():
    assert nm.step_of(12.7, "int8") == np.float32(0.1)
    assert nm.stored_scale(12.7, "int8") == np.float32(10.0)
    assert nm.stored_scale(2.0, "int16") == np.float32(16383.5)
    assert nm.absmax_of(-3.0, 2.0) == 3.0
    assert nm.absmax_of(1.0, 2.0) == 2.0
    assert nm.absmax_of(-2.0, -1.0) == 2.0
    assert nm.stored_scale(0.0, "int8") == 1.0
    assert nm.step_of(0.0, "int16") == 1.0


@given(DTYPES, st.floats(1e-30, 1e30))
def test_step_is_the_inverse_of_the_stored_scale(dtype, absmax):
    product = float(nm.step_of(absmax, dtype)) * float(nm.stored_scale(absmax, dtype))
    assert product == pytest.approx(1, rel=2e-7)


@given(st.floats(0, 1e-36))
def test_tiny_ranges_give_finite_positive_scales(absmax):
    for dtype in ("int8", "int16"):
        for value in (nm.step_of(absmax, dtype), nm.stored_scale(absmax, dtype)):
            assert np.isfinite(value)
            assert value > 0


@pytest.mark.parametrize(
    ("absmax", "dtype", "position"),
    [(1.0, "int8", -6), (1.99, "int8", -6), (2.0, "int8", -5), (127.0, "int8", 0), (128.0, "int8", 1),
     (0.5, "int8", -7), (1.0, "int16", -14), (32767.0, "int16", 0), (0.0, "int8", 0)],
)  # fmt: skip
def test_positions(absmax, dtype, position):
    assert nm.position_of(absmax, dtype) == position
    if absmax:
        assert nm.step_of(absmax, dtype, "power_of_two") == 2.0**position


def test_per_channel_equals_channel_by_channel():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(4, 3, 3, 3)).astype(np.float32) * np.array([0.1, 1, 10, 0], np.float32).reshape(-1, 1, 1, 1)
    steps = nm.step_of(np.abs(w).max((1, 2, 3)), "int8")
    q = nm.quantize(w, steps, "int8", axis=0)
    for channel in range(4):
        np.testing.assert_array_equal(q[channel], nm.quantize(w[channel], steps[channel], "int8"))
    assert not q[3].any()


def test_values_outside_the_range_saturate():
    x = np.array([-1e9, -200, 200, 1e9], np.float32)
    assert nm.quantize(x, 1.0, "int8").tolist() == [-128, -128, 127, 127]
    assert nm.quantize(x, 1.0, "int16").tolist() == [-32768, -200, 200, 32767]
