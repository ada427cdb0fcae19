# SPDX-License-Identifier: Apache-2.0
"""softplus, logsigmoid and mish."""

import numpy as np
import pytest
from harness import check, line, noise, refuse
from hypothesis import given
from hypothesis import strategies as st

X = line(
    -120, 120, 8001, special=[0.0, -0.0, np.inf, -np.inf, np.nan, 20.0, np.nextafter(np.float32(20), np.float32(30))]
)


@pytest.mark.parametrize("rule", ["softplus_to_log1p", "softplus_to_log"])
@given(beta=st.floats(1.0, 8, width=32), threshold=st.floats(15, 60, width=32))
def test_softplus(rule: str, beta: float, threshold: float) -> None:
    check(rule, "softplus", [X], beta=1.0, threshold=20.0)
    check(rule, "softplus", [X], beta=beta, threshold=threshold)


@pytest.mark.parametrize("rule", ["softplus_to_log1p", "softplus_to_log"])
def test_softplus_refuses(rule: str) -> None:
    refuse(rule, "softplus", [X], "threshold 2.0", beta=1.0, threshold=2.0)
    refuse(rule, "softplus", [X], "not positive", beta=-1.0, threshold=20.0)


@pytest.mark.parametrize("rule", ["logsigmoid_to_log", "logsigmoid_to_softplus"])
def test_logsigmoid(rule: str) -> None:
    check(rule, "logsigmoid", [X])


@pytest.mark.parametrize("rule", ["mish_to_softplus", "mish_to_exp"])
def test_mish(rule: str) -> None:
    check(rule, "mish", [line(-80, 80, special=[0.0, -0.0, np.inf, -np.inf, np.nan, 20.0])])


def test_mish_to_exp_refuses_float16() -> None:
    refuse("mish_to_exp", "mish", [noise(3, dtype="float16")], "overflows float16")
