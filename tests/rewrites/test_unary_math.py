# SPDX-License-Identifier: Apache-2.0
"""Elementary functions."""

import numpy as np
import pytest
from harness import SPECIAL, check, line, noise, refuse

POSITIVE = line(1e-3, 50, special=[0.0, np.inf, np.nan, 1e-30, 1e30])
UNIT = line(-0.5, 40, special=[0.0, np.inf, np.nan, 1e-8])
INTS = noise(30, dtype="int32")


@pytest.mark.parametrize(
    ("rule", "kind", "x"),
    [
        ("square_to_mul", "square", line()),
        ("square_to_mul", "square", INTS),
        ("rsqrt_to_reciprocal", "rsqrt", line()),
        ("rsqrt_to_pow", "rsqrt", POSITIVE),
        ("sqrt_to_pow", "sqrt", POSITIVE),
        ("reciprocal_to_div", "reciprocal", line()),
        ("neg_to_mul", "neg", line()),
        ("neg_to_mul", "neg", INTS),
        ("neg_to_sub", "neg", line()),
        ("neg_to_sub", "neg", INTS),
        ("abs_to_maximum", "abs", line()),
        ("abs_to_maximum", "abs", INTS),
        ("abs_to_relu", "abs", line()),
        ("sign_to_comparisons", "sign", line()),
        ("sign_to_comparisons", "sign", INTS),
        ("expm1_to_exp", "expm1", line(-40, 60, special=[0.0, np.inf, -np.inf, np.nan, 1e-8])),
        ("log1p_to_log", "log1p", UNIT),
        ("tan_to_sin_cos", "tan", line(-9, 9, special=[0.0, np.inf, np.nan])),
        ("tanh_to_sigmoid", "tanh", line(-30, 30, special=[0.0, np.inf, -np.inf, np.nan])),
        ("sigmoid_to_tanh", "sigmoid", line(-120, 120)),
        ("sigmoid_to_exp", "sigmoid", line(-120, 120)),
        ("log2_log10_to_log", "log2", POSITIVE),
        ("log2_log10_to_log", "log10", POSITIVE),
        ("erf_to_exp", "erf", line(-6, 6, special=[0.0, np.inf, -np.inf, np.nan])),
        ("isnan_to_ne", "isnan", line()),
        ("isinf_to_eq", "isinf", line()),
        ("ceil_to_floor", "ceil", line()),
        ("trunc_to_floor", "trunc", line()),
        ("round_to_floor", "round", line(-20, 20, special=[0.0, -0.0, 1e30, 0.49999997, 8388607.5, 4194303.5])),
        ("round_to_floor", "round", np.arange(-50, 50, dtype=np.float32) / 4),
        ("sinh_cosh_to_exp", "sinh", line(-80, 80, special=[0.0, np.inf, -np.inf, np.nan])),
        ("sinh_cosh_to_exp", "cosh", line(-80, 80, special=[0.0, np.inf, -np.inf, np.nan])),
    ],
)
def test_rule(rule: str, kind: str, x: np.ndarray) -> None:
    check(rule, kind, [x])


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        ("rsqrt_to_reciprocal", "rsqrt"),
        ("rsqrt_to_pow", "rsqrt"),
        ("sqrt_to_pow", "sqrt"),
        ("reciprocal_to_div", "reciprocal"),
        ("abs_to_relu", "abs"),
        ("expm1_to_exp", "expm1"),
        ("log1p_to_log", "log1p"),
        ("tan_to_sin_cos", "tan"),
        ("tanh_to_sigmoid", "tanh"),
        ("sigmoid_to_tanh", "sigmoid"),
        ("sigmoid_to_exp", "sigmoid"),
        ("log2_log10_to_log", "log2"),
        ("erf_to_exp", "erf"),
        ("isinf_to_eq", "isinf"),
        ("round_to_floor", "round"),
        ("sinh_cosh_to_exp", "sinh"),
    ],
)
def test_integers_are_refused(rule: str, kind: str) -> None:
    refuse(rule, kind, [INTS], "not floating point")


def test_special_values_are_special() -> None:
    assert np.isnan(SPECIAL).any() and np.isinf(SPECIAL).any() and (np.signbit(SPECIAL) & (SPECIAL == 0)).any()


def test_complex_numbers_are_refused() -> None:
    """|z| is no maximum of z and -z; no rule is asked."""
    refuse("abs_to_maximum", "abs", [noise(4).astype(np.complex64)], "complex")


def test_unsigned_integers_and_bools_are_refused() -> None:
    """-1 is no uint8; the rule says so, and does not fail."""
    for rule, kind in (("neg_to_mul", "neg"), ("abs_to_maximum", "abs")):
        refuse(rule, kind, [np.array([0, 255], np.uint8)], "-1 is no number of uint8")
    for rule, kind in (("square_to_mul", "square"), ("sign_to_comparisons", "sign")):
        refuse(rule, kind, [np.array([False, True])], "is bool")
