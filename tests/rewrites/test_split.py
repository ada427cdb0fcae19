# SPDX-License-Identifier: Apache-2.0
"""split, chunk, unbind and stack."""

from typing import Any

import pytest
from harness import Const, check, noise
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.integers(0, 2))
def test_split(sizes: list[int], axis: int) -> None:
    shape = [2, 3, 2]
    shape[axis] = sum(sizes)
    check("split_to_slices", "split", [noise(*shape)], sizes=tuple(sizes), axis=axis)


@pytest.mark.parametrize("rule", ["split_to_slices", "chunk_to_split"])
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 2))
def test_chunk(rule: str, extent: int, chunks: int, axis: int) -> None:
    shape = [2, 3, 2]
    shape[axis] = extent
    check(rule, "chunk", [noise(*shape)], chunks=chunks, axis=axis)


@pytest.mark.parametrize("rule", ["unbind_to_slices", "unbind_to_selects"])
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_unbind(rule: str, shape: list[int], data: Any) -> None:
    check(rule, "unbind", [noise(*shape)], axis=data.draw(st.integers(0, len(shape) - 1)))


@given(st.lists(st.integers(1, 4), min_size=0, max_size=4), st.integers(1, 4), st.data())
def test_stack(shape: list[int], count: int, data: Any) -> None:
    axis = data.draw(st.integers(0, len(shape)))
    parts = [noise(*shape, seed=i) for i in range(count)]
    check("stack_to_cat", "stack", parts, axis=axis)
    check("stack_to_cat", "stack", [Const(parts[0]), *parts[1:]], axis=axis)
