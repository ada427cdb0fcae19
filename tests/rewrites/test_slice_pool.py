# SPDX-License-Identifier: Apache-2.0
"""Strided slices of images by pools."""

from typing import Any

import pytest
from harness import check, noise, refuse, with_specials
from hypothesis import given
from hypothesis import strategies as st

RULE = "slice_to_strided_pool"


@given(st.tuples(*[st.integers(1, 9)] * 2), st.tuples(*[st.integers(0, 8)] * 2), st.tuples(*[st.integers(1, 4)] * 2))
def test_every_start_and_step(size: tuple[int, int], starts: tuple[int, int], steps: tuple[int, int]) -> None:
    x = with_specials(noise(2, 3, *size))
    starts = tuple(min(a, n - 1) for a, n in zip(starts, size, strict=True))
    attrs: dict[str, Any] = {"axes": (2, 3), "starts": starts, "ends": size, "steps": steps}
    if steps == (1, 1):
        refuse(RULE, "slice", [x], "no step is greater", **attrs)
        return
    *cuts, pool = check(RULE, "slice", [x], **attrs).ops
    assert {op.kind for op in cuts} <= {"slice"} and pool.attrs["stride"] == steps


def test_focus() -> None:
    x = noise(1, 3, 8, 6)
    attrs = {"axes": (1, 3), "starts": (1, 0), "ends": (3, 6), "steps": (1, 2)}
    assert [op.kind for op in check(RULE, "slice", [x], **attrs).ops] == ["slice", "max_pool2d"]


@pytest.mark.parametrize(
    ("shape", "dtype", "axis", "step", "reason"),
    [
        ((1, 4, 4), "float32", 2, 2, "not .N, C, H, W."),
        ((1, 4, 4, 4), "int32", 2, 2, "floating"),
        ((1, 4, 4, 4), "float32", 1, 2, "along axis 1"),
        ((1, 4, 4, 4), "float32", 3, -1, "backwards"),
    ],
)
def test_refuses(shape: tuple[int, ...], dtype: str, axis: int, step: int, reason: str) -> None:
    start, end = (3, -1) if step < 0 else (0, 4)
    attrs = {"axes": (axis,), "starts": (start,), "ends": (end,), "steps": (step,)}
    refuse(RULE, "slice", [noise(*shape, dtype=dtype)], reason, **attrs)
