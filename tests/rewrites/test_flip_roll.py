# SPDX-License-Identifier: Apache-2.0
"""flip and roll."""

from typing import Any

import pytest
import torch
from harness import check, noise, refuse, with_specials
from hypothesis import given
from hypothesis import strategies as st

import porter


@pytest.mark.parametrize("rule", ["flip_to_slice", "flip_to_cat", "flip_to_take"])
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_flip(rule: str, shape: list[int], data: Any) -> None:
    axes = tuple(d for d in range(len(shape)) if data.draw(st.booleans()))
    check(rule, "flip", [with_specials(noise(*shape))], axes=axes)


def test_flip_to_cat_refuses() -> None:
    refuse("flip_to_cat", "flip", [noise(65)], "65 elements", axes=(0,))


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 2)), min_size=1, max_size=4))
def test_roll(moves: list[tuple[int, int]]) -> None:
    shifts, axes = zip(*moves, strict=True)
    check("roll_to_cat", "roll", [noise(2, 5, 3)], shifts=shifts, axes=axes)


class Mirrored(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x.flip(1)) * 2


def test_a_flip_that_comes_back_is_not_rewritten_for_ever() -> None:
    """torch has no negative step: what flip_to_slice builds is read back as a flip, and another rule has its turn."""
    made = porter.rewrite(Mirrored(), "onnxruntime", {"x": (1, 9, 3)})
    assert made.ok and made.evidence is not None and made.evidence.ok
    assert [entry.rules for entry in made.ledger.entries] == [("flip_to_slice",), ("flip_to_take",)]
