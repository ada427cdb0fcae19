# SPDX-License-Identifier: Apache-2.0
"""Comparisons, logic and casts of truth values."""

import numpy as np
import pytest
from harness import Const, check, noise, refuse

GRID = np.array([-np.inf, -1.5, -0.0, 0.0, 1.0, np.inf, np.nan], np.float32)
X, Y = GRID[:, None], GRID[None, :]


@pytest.mark.parametrize("kind", ["ge", "le", "gt", "lt"])
def test_order(kind: str) -> None:
    check("compare_swapped", kind, [X, Y])
    check("compare_swapped", kind, [X, Const(0.0, "float32")])
    check("compare_to_not", kind, [X[:-1], Y[:, :-1]])
    if kind in ("ge", "le"):
        check("compare_to_or", kind, [X, Y])


@pytest.mark.parametrize("kind", ["eq", "ne"])
def test_equality(kind: str) -> None:
    check("equality_to_not", kind, [X, Y])


@pytest.mark.parametrize("kind", ["logical_and", "logical_or", "logical_xor"])
def test_logic(kind: str) -> None:
    check("logical_to_arithmetic", kind, [X, Y])
    x, y = noise(20, dtype="bool"), noise(20, seed=1, dtype="bool")
    check("logical_to_arithmetic", kind, [x, y])
    check("logical_to_arithmetic", kind, [x, Const(y)])
    bits = kind.replace("logical", "bitwise")
    check("bitwise_to_logical", bits, [x, y])
    refuse("bitwise_to_logical", bits, [noise(3, dtype="int32")] * 2, "not bool")


def test_not() -> None:
    check("logical_to_arithmetic", "logical_not", [noise(20, dtype="bool")])
    check("logical_to_arithmetic", "logical_not", [GRID])
    check("bitwise_to_logical", "bitwise_not", [noise(20, dtype="bool")])


def test_casts() -> None:
    check("cast_bool", "cast", [GRID], dtype="bool")
    for dtype in ("float32", "int64", "float16"):
        check("cast_bool", "cast", [noise(20, dtype="bool")], dtype=dtype)
    refuse("cast_bool", "cast", [GRID], "from float32 to int32", dtype="int32")
    assert check("remove_cast", "cast", [GRID], dtype="float32").ops == []
    refuse("remove_cast", "cast", [GRID], "from float32 to float64", dtype="float64")
