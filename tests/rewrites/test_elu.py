# SPDX-License-Identifier: Apache-2.0
"""elu, celu and selu."""

import numpy as np
import pytest
from harness import check, line, refuse
from hypothesis import given
from hypothesis import strategies as st

X = line(-60, 60, special=[0.0, -0.0, np.inf, -np.inf, np.nan, 1e-4, -1e-4])


@given(st.floats(0.125, 8, width=32))
def test_elu_and_celu(alpha: float) -> None:
    check("elu_to_exp", "elu", [X], alpha=alpha, of=alpha)
    check("elu_to_exp", "elu", [X], alpha=-alpha, of=alpha)


@pytest.mark.parametrize("alpha", [1.0, 0.5, 2.0])
def test_celu(alpha: float) -> None:
    check("celu_to_exp", "celu", [X], alpha=alpha, of=alpha)
    check("celu_selu_to_elu", "celu", [X], alpha=alpha)


@pytest.mark.parametrize("rule", ["celu_to_exp", "celu_selu_to_elu"])
def test_celu_refuses(rule: str) -> None:
    refuse(rule, "celu", [X], "alpha -1.0 is not positive", alpha=-1.0)


@pytest.mark.parametrize("rule", ["selu_to_exp", "celu_selu_to_elu"])
def test_selu(rule: str) -> None:
    check(rule, "selu", [X])
