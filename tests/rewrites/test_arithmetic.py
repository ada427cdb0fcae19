# SPDX-License-Identifier: Apache-2.0
"""Subtraction, division, powers, remainders, extremes."""

from typing import Any

import numpy as np
import pytest
from harness import Const, apply, build, check, line, noise, refuse, with_specials
from hypothesis import given
from hypothesis import strategies as st
from reference import run

X = line()
Y = np.roll(line(-7, 7), 1234)
FINITE_X = line(-30, 30, special=[0.0, -0.0, 1e-20, 1e20])
FINITE_Y = np.roll(line(-7, 7, special=[1.0, 3.0, 1e-3, 1e5]), 1234)


def test_sub() -> None:
    check("sub_to_add", "sub", [X, Y])
    check("sub_to_add", "sub", [X, Const(0.1, "float32")])
    check("sub_to_add", "sub", [Const(1.0, "float32"), X])
    check("sub_to_add", "sub", [noise(9, dtype="int64"), Const(3, "int64")])
    refuse("sub_to_add", "sub", [noise(9, dtype="uint8"), noise(9, dtype="uint8")], "uint8")


@given(st.lists(st.integers(-90, 90), min_size=1, max_size=1))
def test_div_by_power_of_two(exponents: list[int]) -> None:
    check(
        "div_by_power_of_two",
        "div",
        [line(-9, 9, special=[0.0, -0.0, np.inf, np.nan]), Const(2.0 ** exponents[0] * -1, "float32")],
    )


def test_div_by_powers_of_two() -> None:
    check("div_by_power_of_two", "div", [noise(2, 3), Const([0.5, 8, -2], "float32")])
    for divisor in (3.0, 0.0, float("inf"), 0.3):
        refuse("div_by_power_of_two", "div", [X, Const(divisor, "float32")], "not a power of two")
    refuse("div_by_power_of_two", "div", [X, Y], "computed")
    refuse("div_by_power_of_two", "div", [noise(3, dtype="int32"), Const(2, "int32")], "floating")


@given(st.floats(2**-10, 2**17, width=32), st.booleans())
def test_div_by_constant(divisor: float, negative: bool) -> None:
    x = line(special=[0.0, -0.0, np.inf, -np.inf, np.nan])
    check("div_by_constant_to_mul", "div", [x, Const(-divisor if negative else divisor, "float32")])


def test_div_by_constant_refuses() -> None:
    rule = "div_by_constant_to_mul"
    refuse(rule, "div", [X, Const(0.0, "float32")], "0 or not finite")
    refuse(rule, "div", [X, Const(np.nan, "float32")], "not finite")
    refuse(rule, "div", [X, Const(3e38, "float32")], "not a normal number")
    refuse(rule, "div", [X, Y], "computed")
    refuse(rule, "div", [noise(3, dtype="int32"), Const(3, "int32")], "floating")


def test_div_to_reciprocal() -> None:
    check("div_to_reciprocal", "div", [FINITE_X, FINITE_Y])
    refuse("div_to_reciprocal", "div", [noise(3, dtype="int32"), noise(3, dtype="int32")], "floating")


@pytest.mark.parametrize("n", range(1, 9))
def test_powers(n: int) -> None:
    x = line(-30, 30, special=[0.0, -0.0, np.nan] + [np.inf, -np.inf] * (n < 3))
    check("pow_to_mul", "pow", [x, Const(n, "float32")])
    check("pow_to_mul", "pow", [noise(9, dtype="int64"), Const(n, "int64")])
    check("pow_to_sqrt_or_reciprocal", "pow", [line(0.01, 9, special=[0.0, -3.0, 1e3]), Const(-n, "float32")])


def test_roots() -> None:
    x = line(0, 50, special=[0.0, np.inf, np.nan, -1.0, 1e-30])
    check("pow_to_sqrt_or_reciprocal", "pow", [x, Const(0.5, "float32")])
    check("pow_to_sqrt_or_reciprocal", "pow", [x, Const([-0.5], "float32")])


def test_powers_refuse() -> None:
    for rule in ("pow_to_mul", "pow_to_sqrt_or_reciprocal"):
        refuse(rule, "pow", [X, Const(1.7, "float32")], "exponent 1.7")
        refuse(rule, "pow", [X, Y], "not one constant number")
    refuse("pow_to_mul", "pow", [X, Const(9.0, "float32")], "exponent 9.0")
    refuse("pow_to_mul", "pow", [noise(3), Const([[2.0]], "float32")], "more axes")
    refuse("pow_to_sqrt_or_reciprocal", "pow", [X, Const(2.0, "float32")], "exponent 2.0")
    refuse("pow_to_sqrt_or_reciprocal", "pow", [noise(3, dtype="int64"), Const(2, "int64")], "floating")


@given(st.floats(2**-7, 128, width=32).filter(lambda base: base != 1))
def test_power_of_a_constant(base: float) -> None:
    y = line(-8, 8, special=[0.0, np.nan])
    check("pow_of_constant_to_exp", "pow", [Const(base, "float32"), y], of=np.abs(y * np.log(base)) + 1)


def test_power_of_a_constant_refuses() -> None:
    refuse("pow_of_constant_to_exp", "pow", [Const(-2.0, "float32"), Y], "base -2.0")
    refuse("pow_of_constant_to_exp", "pow", [Const(1.0, "float32"), Y], "NaN too")
    refuse("pow_of_constant_to_exp", "pow", [X, Y], "not one constant")
    refuse("pow_of_constant_to_exp", "pow", [Const([[2.0]], "float32"), noise(3)], "more axes")


def _off_grid(x: Any, y: Any) -> Any:
    """Where x / y is not within a few ulp of an integer: there the rules promise more."""
    with np.errstate(all="ignore"):
        q = x.astype(np.float64) / np.where(y == 0, np.nan, y)
        apart = np.abs(q - np.round(q)) > 1e-5 * np.maximum(np.abs(q), 1)
        return apart & (np.abs(q) < 1e4)


def test_floor_divide() -> None:
    keep = _off_grid(FINITE_X, FINITE_Y)
    x, y = FINITE_X[keep], FINITE_Y[keep]
    op, feeds = build("floor_divide", [x, y], {})
    np.testing.assert_array_equal(run(apply("floor_divide_to_floor", op), feeds)[0], np.floor(x.astype(np.float64) / y))
    grid, tenth = (np.arange(-500, 500) * 0.1).astype(np.float32), np.full(1000, 0.1, np.float32)
    op, feeds = build("floor_divide", [grid, tenth], {})
    off = np.abs(run(apply("floor_divide_to_floor", op), feeds)[0] - np.floor_divide(grid, tenth))
    assert off.max() == 1, "the page warns of a difference of 1 on the grid"
    refuse("floor_divide_to_floor", "floor_divide", [noise(3, dtype="int32")] * 2, "floating")


@pytest.mark.parametrize("kind", ["remainder", "fmod"])
def test_remainder(kind: str) -> None:
    keep = _off_grid(FINITE_X, FINITE_Y)
    x, y = FINITE_X[keep], FINITE_Y[keep]
    check("remainder_to_floor", kind, [x, Const(y)], of=x)
    refuse("remainder_to_floor", kind, [x, y], "computed")
    refuse("remainder_to_floor", kind, [x, Const(np.inf, "float32")], "not finite")
    refuse("remainder_to_floor", kind, [noise(3, dtype="int32")] * 2, "floating")


@pytest.mark.parametrize("kind", ["maximum", "minimum"])
def test_extremes(kind: str) -> None:
    check("extreme_of_constant_to_clamp", kind, [X, Const(0.25, "float32")])
    check("extreme_of_constant_to_clamp", kind, [Const([0.25], "float32"), X])
    check("extreme_to_negated", kind, [X, Y])
    check("extreme_to_negated", kind, [noise(2, 1, 3), noise(4, 1)])
    # A constant is negated here: what the limits of a device say of a constant must hold for the result too.
    assert len(check("extreme_to_negated", kind, [X, Const(0.25, "float32")]).ops) == 3
    scale = np.maximum(np.abs(FINITE_X), np.abs(FINITE_Y))
    check("extreme_to_relu", kind, [FINITE_X, FINITE_Y], of=scale)
    check("extreme_to_where", kind, [np.nan_to_num(X), np.nan_to_num(Y)])
    check("extreme_to_where", kind, [noise(9, dtype="int32"), noise(9, seed=1, dtype="int32")])


@pytest.mark.parametrize("kind", ["maximum", "minimum"])
def test_extremes_refuse(kind: str) -> None:
    refuse("extreme_of_constant_to_clamp", kind, [X, Y], "not one constant")
    refuse("extreme_of_constant_to_clamp", kind, [X, Const(np.nan, "float32")], "NaN")
    refuse("extreme_of_constant_to_clamp", kind, [noise(3), Const([[1.0]], "float32")], "more axes")
    ints = [noise(3, dtype="int32")] * 2
    refuse("extreme_to_negated", kind, ints, "floating")
    refuse("extreme_to_relu", kind, ints, "floating")


def test_specials_reach_the_rules() -> None:
    assert np.isnan(X).any() and np.isinf(with_specials(noise(9))).any()


def test_a_float64_constant_keeps_its_digits() -> None:
    """The negative of an array of rank 0 is a number of numpy, and one of those is a Python float too."""
    made = check("sub_to_add", "sub", [np.array([1.0, 2.0]), Const(np.array(1 / 3))])
    assert [v.dtype for v in made.ops[0].operands] == ["float64", "float64"]


def test_a_reciprocal_that_the_dtype_cannot_hold() -> None:
    tiny = Const(np.array(2.0**-24, np.float16))
    refuse("div_by_power_of_two", "div", [np.ones(3, np.float16), tiny], "no number of float16")


def test_a_limit_that_a_float_does_not_count() -> None:
    far = Const(np.array(2**53 + 1))
    refuse("extreme_of_constant_to_clamp", "maximum", [np.array([0, 2**60]), far], "more than a float counts")
