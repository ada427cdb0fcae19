# SPDX-License-Identifier: Apache-2.0
"""Permutations of many axes."""

from typing import Any

import pytest
from harness import check, noise, refuse
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=150)
@given(st.lists(st.integers(1, 3), min_size=5, max_size=7), st.data())
def test_to_rank4(shape: list[int], data: Any) -> None:
    dims = tuple(data.draw(st.permutations(range(len(shape)))))
    fragment = check("permute_to_rank4", "permute", [noise(*shape)], dims=dims)
    assert all(len(op.attrs["dims"]) <= 4 for op in fragment.ops if op.kind == "permute")
    inner = fragment.ops[:-1]
    assert all(out.rank is not None and out.rank <= 4 for op in inner for out in op.outputs)


def test_the_head_of_yolo_is_one_permute() -> None:
    fragment = check("permute_to_rank4", "permute", [noise(1, 3, 85, 4, 5)], dims=(0, 1, 3, 4, 2))
    assert [op.kind for op in fragment.ops] == ["reshape", "permute", "reshape"]
    assert fragment.ops[1].inputs[0] is not None
    assert fragment.ops[1].inputs[0].shape == (3, 85, 20)


def test_to_rank4_refuses() -> None:
    refuse("permute_to_rank4", "permute", [noise(1, 2, 3, 4)], "not more than 4", dims=(0, 2, 1, 3))
    refuse("permute_to_rank4", "permute", [noise(0, 1, 2, 3, 4)], "empty", dims=(1, 0, 2, 3, 4))


@pytest.mark.parametrize(
    ("shape", "dims"), [((1, 1, 3, 4), (0, 2, 3, 1)), ((1, 3, 1, 4), (2, 1, 0, 3)), ((2, 3), (0, 1)), ((1, 1), (1, 0))]
)
def test_to_reshape(shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
    check("permute_to_reshape", "permute", [noise(*shape)], dims=dims)


def test_to_reshape_refuses() -> None:
    refuse("permute_to_reshape", "permute", [noise(1, 2, 3)], "change places", dims=(0, 2, 1))
