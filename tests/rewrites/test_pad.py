# SPDX-License-Identifier: Apache-2.0
"""Padding and cropping."""

from typing import Any

import pytest
from harness import check, noise, refuse, with_specials
from hypothesis import given
from hypothesis import strategies as st

PAIRS = st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), min_size=3, max_size=3)


@given(PAIRS, st.sampled_from([0.0, -1.5, float("-inf")]))
def test_constant(pairs: list[tuple[int, int]], value: float) -> None:
    attrs: Any = {"padding": tuple(pairs), "mode": "constant", "value": value}
    x = with_specials(noise(2, 3, 4))
    check("pad_constant_to_cat", "pad", [x], **attrs)
    if min(min(p) for p in pairs) < 0:
        check("pad_negative_to_slice", "pad", [x], **attrs)
    else:
        refuse("pad_negative_to_slice", "pad", [x], "no padding is negative", **attrs)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=2))
def test_edges(mode: str, pairs: list[tuple[int, int]]) -> None:
    check("pad_edges_to_cat", "pad", [noise(1, 2, 4, 5)], padding=((0, 0), (0, 0), *pairs), mode=mode, value=0.0)


def test_edges_refuse() -> None:
    attrs: Any = {"padding": ((1, 1),), "value": 0.0}
    refuse("pad_edges_to_cat", "pad", [noise(4)], "mode is constant", mode="constant", **attrs)
    refuse("pad_constant_to_cat", "pad", [noise(4)], "mode is reflect", mode="reflect", **attrs)
    refuse("pad_edges_to_cat", "pad", [noise(99)], "more than 64", padding=((70, 0),), mode="replicate", value=0.0)
