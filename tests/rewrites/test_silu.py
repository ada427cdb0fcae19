# SPDX-License-Identifier: Apache-2.0
"""silu, and the other functions that may stand for it."""

import pytest
from harness import check, line, noise


def test_silu_to_sigmoid_mul() -> None:
    check("silu_to_sigmoid_mul", "silu", [line(-80, 80)])
    check("silu_to_sigmoid_mul", "silu", [noise(2, 3, 4, 5, dtype="float64", scale=9)])


@pytest.mark.parametrize("rule", ["silu_to_hardswish", "silu_to_relu"])
def test_retrain_rules_state_their_distance(rule: str) -> None:
    check(rule, "silu", [line(-80, 80, special=[0.0, 3.0, -3.0, -1.2785])])
