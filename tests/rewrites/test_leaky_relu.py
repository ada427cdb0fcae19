# SPDX-License-Identifier: Apache-2.0
"""leaky_relu, prelu and softsign."""

import numpy as np
import pytest
from harness import Const, check, line, noise, refuse, with_specials
from hypothesis import given
from hypothesis import strategies as st


@given(st.floats(0.0078125, 3, width=32))
def test_leaky_relu(slope: float) -> None:
    check("leaky_relu_to_maximum", "leaky_relu", [line()], negative_slope=slope)
    check("leaky_relu_to_relu", "leaky_relu", [line()], negative_slope=slope)


def test_leaky_relu_of_other_slopes() -> None:
    check("leaky_relu_to_relu", "leaky_relu", [line()], negative_slope=-0.5)
    check("leaky_relu_to_relu", "leaky_relu", [line()], negative_slope=0.0)  # 0 * -inf is NaN
    refuse("leaky_relu_to_maximum", "leaky_relu", [line()], "slope -0.5 is not positive", negative_slope=-0.5)
    refuse("leaky_relu_to_maximum", "leaky_relu", [line()], "not positive", negative_slope=0.0)


SHAPES = st.sampled_from([(2, 3), (2, 3, 4), (1, 3, 4, 5), (2, 3, 1, 2, 3)])


@given(SHAPES, st.booleans(), st.integers(0, 99))
def test_prelu(shape: tuple[int, ...], single: bool, seed: int) -> None:
    x = noise(*shape, seed=seed, scale=4)
    slopes = np.abs(noise(1 if single else 3, seed=seed)) * 0.3 + 0.01
    check("prelu_to_relu", "prelu", [with_specials(x, seed), slopes])
    check("prelu_to_relu", "prelu", [x, Const(-slopes)])
    check("prelu_to_maximum", "prelu", [with_specials(x, seed), Const(np.minimum(slopes, 1))])


def test_prelu_to_leaky_relu() -> None:
    check("prelu_to_leaky_relu", "prelu", [with_specials(noise(2, 3, 4)), Const([0.25], "float32")])


@pytest.mark.parametrize(
    ("rule", "slopes", "reason"),
    [
        ("prelu_to_maximum", Const([0.1, 2, 0.3], "float32"), "not above 0 and at most 1"),
        ("prelu_to_maximum", noise(3), "computed when the model runs"),
        ("prelu_to_leaky_relu", Const([0.1, 0.2, 0.3], "float32"), "not one constant number"),
        ("prelu_to_leaky_relu", noise(1), "not one constant number"),
    ],
)
def test_prelu_refuses(rule: str, slopes: object, reason: str) -> None:
    refuse(rule, "prelu", [noise(2, 3, 4), slopes], reason)


def test_softsign() -> None:
    check("softsign_to_div", "softsign", [line()])
    refuse("softsign_to_div", "softsign", [noise(3, dtype="int32")], "not floating point")
