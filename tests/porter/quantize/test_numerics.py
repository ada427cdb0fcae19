# SPDX-License-Identifier: Apache-2.0
"""The arithmetic, against integers and fractions computed the slow way."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from porter.quantize import numerics as nm

DTYPES = st.sampled_from(["int8", "int16"])
FLOATS = st.floats(-1e4, 1e4, width=32)


def slow_conv2d(qx, qw, stride, padding, dilation, groups):
    """Python integers only: nothing can overflow or round."""
    n, _, h, w = qx.shape
    co, ci, kh, kw = qw.shape
    (pt, pb), (pl, pr) = padding
    ho = (h + pt + pb - (kh - 1) * dilation[0] - 1) // stride[0] + 1
    wo = (w + pl + pr - (kw - 1) * dilation[1] - 1) // stride[1] + 1
    out = np.empty((n, co, ho, wo), object)
    for b, o, i, j in np.ndindex(out.shape):
        total = 0
        first = o // (co // groups) * ci
        for c, u, v in np.ndindex(ci, kh, kw):
            y, x = i * stride[0] - pt + u * dilation[0], j * stride[1] - pl + v * dilation[1]
            if 0 <= y < h and 0 <= x < w:
                total += int(qx[b, first + c, y, x]) * int(qw[o, c, u, v])
        out[b, o, i, j] = total
    return out


@settings(max_examples=60, deadline=None)
@given(st.data(), DTYPES)
def test_integer_conv_is_exact(data, dtype):
    groups = data.draw(st.sampled_from([1, 2, 3]))
    ci, co = groups * data.draw(st.integers(1, 2)), groups * data.draw(st.integers(1, 2))
    kh, kw = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    stride = (data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2)))
    dilation = (data.draw(st.integers(1, 2)), 1)
    padding = ((data.draw(st.integers(0, 2)), 1), (0, data.draw(st.integers(0, 2))))
    low, high = nm.qrange(dtype)
    element = st.integers(low, high)
    h, w = kh * 2 + 1, kw + 2
    qx = data.draw(hnp.arrays(dtype, (2, ci, h, w), elements=element))
    qw = data.draw(hnp.arrays(dtype, (co, ci // groups, kh, kw), elements=element))
    bias = np.arange(co, dtype=np.float32)
    got = nm.conv2d_integer(qx, qw, bias, 0.5, 0.25, stride=stride, padding=padding, dilation=dilation, groups=groups)
    want = slow_conv2d(qx, qw, stride, padding, dilation, groups) / 8 + bias.astype(float).reshape(1, -1, 1, 1)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want.astype(np.float64).astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(st.data(), DTYPES)
def test_integer_linear_is_exact_with_either_accumulator(data, dtype):
    low, high = nm.qrange(dtype)
    element = st.integers(low, high)
    qx = data.draw(hnp.arrays(dtype, (2, 3, 7), elements=element))
    qw = data.draw(hnp.arrays(dtype, (4, 7), elements=element))
    want = np.array(
        [[[sum(int(a) * int(b) for a, b in zip(x, w, strict=True)) for w in qw] for x in row] for row in qx], float
    )
    with pytest.MonkeyPatch.context() as patch:
        for terms in (7, 6):
            patch.setattr(nm, "_EXACT_TERMS", {"int8": terms, "int16": terms})
            assert nm._exact(qx, qw) is (np.float64 if terms == 7 else np.int64)
            np.testing.assert_array_equal(nm.linear_integer(qx, qw, None, 1.0, 1.0), want.astype(np.float32))


def test_float64_accumulates_only_what_it_holds_exactly():
    # The largest product is 2**14 or 2**30, and float64 holds every integer up to 2**53.
    for dtype, bits in (("int8", 14), ("int16", 30)):
        assert nm._EXACT_TERMS[dtype] * 2**bits == 2**53


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
    x = rng.integers(-128, 128, (1, 3, 5, 5)).astype(np.int8)
    y = nm.conv2d_integer(x, q, None, 0.5, steps)
    for channel in range(4):
        one = nm.conv2d_integer(x, q[channel : channel + 1], None, 0.5, float(steps[channel]))
        np.testing.assert_array_equal(y[:, channel : channel + 1], one)


def test_values_outside_the_range_saturate():
    x = np.array([-1e9, -200, 200, 1e9], np.float32)
    assert nm.quantize(x, 1.0, "int8").tolist() == [-128, -128, 127, 127]
    assert nm.quantize(x, 1.0, "int16").tolist() == [-32768, -200, 200, 32767]


def test_fake_float_conv_equals_the_integer_one_within_float_rounding():
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(1, 8, 9, 9)).astype(np.float32), rng.normal(size=(6, 4, 3, 3)).astype(np.float32)
    b = rng.normal(size=6).astype(np.float32)
    how = {"stride": (2, 1), "padding": ((1, 0), (1, 1)), "dilation": (1, 2), "groups": 2}
    for dtype in ("int8", "int16"):
        sx, sw = nm.step_of(np.abs(x).max(), dtype), nm.step_of(np.abs(w).max(), dtype)
        fake = nm.conv2d_float(nm.fake_quantize(x, sx, dtype), nm.fake_quantize(w, sw, dtype), b, **how)
        qx, qw = nm.quantize(x, sx, dtype), nm.quantize(w, sw, dtype)
        exact = nm.conv2d_integer(qx, qw, b, float(sx), float(sw), **how)
        np.testing.assert_allclose(fake, exact, rtol=0, atol=2e-6 * np.abs(exact).max())
