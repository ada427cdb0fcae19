# SPDX-License-Identifier: Apache-2.0
"""hardswish and hardsigmoid."""

import numpy as np
import pytest
from harness import check, line, refuse

X = line(-10, 10, 20001, special=[3.0, -3.0, np.nextafter(np.float32(-3), np.float32(0)), 0.0, np.nan, 1e30])
TORCH = {"alpha": 1 / 6, "beta": 0.5}


@pytest.mark.parametrize("rule", ["hardswish_to_relu6", "hardswish_to_hardsigmoid"])
def test_hardswish(rule: str) -> None:
    check(rule, "hardswish", [X])


@pytest.mark.parametrize("rule", ["hardsigmoid_to_clamp", "hardsigmoid_to_relu6"])
def test_hardsigmoid(rule: str) -> None:
    check(rule, "hardsigmoid", [X], **TORCH)


def test_hardsigmoid_of_onnx() -> None:
    check("hardsigmoid_to_clamp", "hardsigmoid", [X], alpha=0.2, beta=0.5)
    refuse("hardsigmoid_to_relu6", "hardsigmoid", [X], "alpha 0.2 and beta 0.5", alpha=0.2, beta=0.5)
