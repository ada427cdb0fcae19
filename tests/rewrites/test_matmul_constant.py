# SPDX-License-Identifier: Apache-2.0
"""Products with one constant matrix."""

from typing import Any

import numpy as np
import pytest
from harness import Const, check, noise, refuse
from hypothesis import given
from hypothesis import strategies as st

RULE = "matmul_of_constant_to_linear"


@given(st.lists(st.integers(1, 3), max_size=2), st.tuples(*[st.integers(1, 5)] * 3), st.integers(0, 3), st.booleans())
def test_either_side(batch: list[int], size: tuple[int, int, int], ones: int, left: bool) -> None:
    m, k, n = size
    x, w = noise(*batch, m, k), noise(*batch, k, n, seed=1)
    if left:
        x = noise(*(1,) * ones, m, k)
    else:
        w = noise(*(1,) * (ones + 1), k, n, seed=1)
    scale = np.abs(x) @ np.abs(w)
    operands = [Const(x, "float32"), w] if left else [x, Const(w, "float32")]
    ops = check(RULE, "matmul", operands, of=scale).ops
    assert {op.kind for op in ops} <= {"permute", "linear", "reshape"} and any(op.kind == "linear" for op in ops)


@pytest.mark.parametrize(
    ("operands", "reason"),
    [
        ([noise(2, 3), noise(3, 4)], "neither or both"),
        ([Const(noise(2, 3), "float32"), Const(noise(3, 4), "float32")], "neither or both"),
        ([noise(2, 3), Const(noise(3, 4), "float32")], "matmul_to_linear"),
        ([noise(2, 5, 3), Const(noise(2, 3, 4), "float32")], "2. matrices"),
        ([Const(noise(3), "float32"), noise(3, 4)], "vector"),
        ([Const(noise(2, 3), "float32"), noise(3)], "vector"),
    ],
)
def test_refuses(operands: list[Any], reason: str) -> None:
    refuse(RULE, "matmul", operands, reason)
