# SPDX-License-Identifier: Apache-2.0
"""Constants of few axes."""

import pytest
from harness import Const, check, noise, refuse, with_specials
from hypothesis import given
from hypothesis import strategies as st


@given(
    st.lists(st.integers(1, 3), min_size=2, max_size=5),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from(["add", "sub", "mul", "div", "maximum"]),
)
def test_constants_get_every_axis(shape: list[int], fewer: int, first: bool, kind: str) -> None:
    x, c = with_specials(noise(*shape)), noise(*shape[min(fewer, len(shape) - 1) :], seed=1)
    if c.size == 1:
        refuse("constant_to_full_rank", kind, [x, Const(c, "float32")], "no constant operand")
        return
    operands = [Const(c, "float32"), x] if first else [x, Const(c, "float32")]
    (op,) = check("constant_to_full_rank", kind, operands).ops
    assert [value.rank for value in op.operands] == [len(shape)] * 2


@pytest.mark.parametrize("c", [noise(4, 5), Const(noise(1, 1, 4, 5), "float32"), Const(0.5, "float32")])
def test_no_constant_lacks_axes(c: object) -> None:
    refuse("constant_to_full_rank", "add", [noise(1, 3, 4, 5), c], "no constant operand")
