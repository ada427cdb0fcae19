# SPDX-License-Identifier: Apache-2.0
"""expand, repeat and meshgrid."""

from typing import Any

import pytest
from harness import Const, check, noise, refuse, with_specials
from hypothesis import given
from hypothesis import strategies as st


@st.composite
def expansions(draw: Any) -> tuple[Any, tuple[int, ...]]:
    out = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    shape = [n if draw(st.booleans()) else 1 for n in out][draw(st.integers(0, len(out))) :]
    return with_specials(noise(*shape)), tuple(out)


@pytest.mark.parametrize("rule", ["expand_to_repeat", "expand_to_cat", "expand_to_mul"])
@given(expansions())
def test_expand(rule: str, case: tuple[Any, tuple[int, ...]]) -> None:
    check(rule, "expand", [case[0]], shape=case[1])


def test_expand_refuses() -> None:
    refuse("expand_to_cat", "expand", [noise(1)], "65 copies", shape=(65,))
    refuse("expand_to_cat", "expand", [noise(1)], "empty", shape=(0,))
    refuse("expand_to_repeat", "expand", [noise(1)], "empty", shape=(0,))
    refuse("expand_to_mul", "expand", [noise(1, dtype="bool")], "bool", shape=(3,))
    refuse("expand_to_mul", "expand", [noise(1, 1)], "10000000000 ones", shape=(100_000, 100_000))


@pytest.mark.parametrize("rule", ["repeat_to_cat", "repeat_to_expand"])
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.lists(st.integers(1, 3), min_size=3, max_size=4))
def test_repeat(rule: str, shape: list[int], repeats: list[int]) -> None:
    check(rule, "repeat", [noise(*shape, dtype="int64")], repeats=tuple(repeats))


def test_repeat_refuses() -> None:
    refuse("repeat_to_cat", "repeat", [noise(1)], "needs 100 copies", repeats=(100,))
    refuse("repeat_to_cat", "repeat", [noise(1)], "needs 0 copies", repeats=(0,))


@pytest.mark.parametrize("indexing", ["ij", "xy"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_meshgrid(indexing: str, count: int) -> None:
    lines = [noise(n + 2, seed=n) for n in range(count)]
    if indexing == "xy" and count == 1:
        return
    check("meshgrid_to_expand", "meshgrid", lines, indexing=indexing)
    check("meshgrid_to_expand", "meshgrid", [Const(lines[0]), *lines[1:]], indexing=indexing)
