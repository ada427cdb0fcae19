# SPDX-License-Identifier: Apache-2.0
"""clamp, relu, relu6 and threshold."""

import numpy as np
import pytest
from harness import check, line, noise, refuse
from hypothesis import given
from hypothesis import strategies as st

LIMIT = st.one_of(st.none(), st.floats(-5, 5, width=32))


@pytest.mark.parametrize("rule", ["relu6_to_clamp", "relu6_to_relu"])
def test_relu6(rule: str) -> None:
    check(rule, "relu6", [line()])


def test_relu6_of_integers() -> None:
    check("relu6_to_clamp", "relu6", [noise(9, dtype="int32")])
    refuse("relu6_to_relu", "relu6", [noise(9, dtype="int32")], "not floating point")


@pytest.mark.parametrize("rule", ["relu_to_clamp", "relu_to_maximum"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_relu(rule: str, dtype: str) -> None:
    check(rule, "relu", [line() if dtype == "float32" else noise(5, 7, dtype=dtype)])


def test_clamp_to_relu() -> None:
    check("clamp_to_relu", "clamp", [line()], min=0.0, max=None)
    check("clamp_to_relu", "clamp", [line()], min=0.0, max=6.0)
    refuse("clamp_to_relu", "clamp", [line()], "limits 0.0 and 1.0", min=0.0, max=1.0)


@given(LIMIT, LIMIT)
def test_clamp_to_minimum_maximum(low: float | None, high: float | None) -> None:
    if low is not None or high is not None:
        check("clamp_to_minimum_maximum", "clamp", [line()], min=low, max=high)


def test_clamp_of_integers() -> None:
    x = noise(50, dtype="int32")
    check("clamp_to_minimum_maximum", "clamp", [x], min=-3, max=4)
    refuse("clamp_to_minimum_maximum", "clamp", [x], "0.5 is not an integer", min=0.5, max=None)


@given(LIMIT, LIMIT)
def test_clamp_to_shifted_relu(low: float | None, high: float | None) -> None:
    x = line(special=[0.0, np.nan, 1e30, -1e30])
    if (low is None and high is None) or (low is not None and high is not None and low > high):
        return
    scale = np.fmax(np.abs(x), max(abs(v) for v in (low, high) if v is not None))
    check("clamp_to_shifted_relu", "clamp", [x], of=scale, min=low, max=high)


def test_clamp_to_shifted_relu_refuses() -> None:
    refuse("clamp_to_shifted_relu", "clamp", [line()], "above the upper", min=2.0, max=1.0)
    refuse("clamp_to_shifted_relu", "clamp", [line()], "not finite", min=None, max=float("inf"))
    refuse("clamp_to_shifted_relu", "clamp", [noise(3, dtype="int64")], "not floating", min=0, max=1)


@given(st.floats(-2, 2, width=32), st.floats(-9, 9, width=32))
def test_threshold_to_where(threshold: float, value: float) -> None:
    check("threshold_to_where", "threshold", [line()], threshold=threshold, value=value)


def test_threshold_to_relu() -> None:
    check("threshold_to_relu", "threshold", [line()], threshold=0.0, value=0.0)
    refuse("threshold_to_relu", "threshold", [line()], "not both 0", threshold=0.0, value=1.0)
