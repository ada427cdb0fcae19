# SPDX-License-Identifier: Apache-2.0
"""Slices and selections."""

from typing import Any

import pytest
from harness import check, noise, refuse, with_specials
from hypothesis import given, settings
from hypothesis import strategies as st


@st.composite
def slices(draw: Any, steps: list[int]) -> tuple[Any, dict[str, Any]]:
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    axes = tuple(draw(st.permutations(range(len(shape))))[: draw(st.integers(1, len(shape)))])
    found: list[tuple[int, int, int]] = []
    for axis in axes:
        n, step = shape[axis], draw(st.sampled_from(steps))
        a = draw(st.integers(0, n - 1))
        b = draw(st.integers(a + 1, n))
        found.append((a, b, step) if step > 0 else (b - 1, a - 1, step))
    starts, ends, strides = zip(*found, strict=True)
    return with_specials(noise(*shape)), {"axes": axes, "starts": starts, "ends": ends, "steps": strides}


@settings(max_examples=60)
@given(slices([1, 2, 3, -1, -2]))
def test_one_axis_at_a_time(case: tuple[Any, dict[str, Any]]) -> None:
    x, attrs = case
    if len(attrs["axes"]) > 1:
        fragment = check("slice_one_axis_at_a_time", "slice", [x], **attrs)
        assert all(len(op.attrs["axes"]) == 1 for op in fragment.ops)
    else:
        refuse("slice_one_axis_at_a_time", "slice", [x], "one axis", **attrs)


@settings(max_examples=150)
@given(slices([1, 2, 3, 4, 7, -2, -3]))
def test_step_to_reshape(case: tuple[Any, dict[str, Any]]) -> None:
    x, attrs = case
    if all(abs(s) == 1 for s in attrs["steps"]):
        refuse("slice_step_to_reshape", "slice", [x], "no axis has a step", **attrs)
        return
    fragment = check("slice_step_to_reshape", "slice", [x], **attrs)
    assert all(op.attrs["steps"] == (1,) for op in fragment.ops if op.kind == "slice")
    assert all(out.rank is not None and out.rank <= 4 for op in fragment.ops for out in op.outputs)


def test_focus_slices_need_no_copy_of_the_image() -> None:
    x = noise(1, 3, 8, 8)
    attrs = {"axes": (2, 3), "starts": (1, 0), "ends": (8, 8), "steps": (2, 2)}
    fragment = check("slice_step_to_reshape", "slice", [x], **attrs)
    assert [op.kind for op in fragment.ops] == ["reshape", "slice", "reshape", "slice", "reshape"]


@settings(max_examples=60)
@given(slices([1, 2, -1, -2, -3]))
def test_negative_to_flip(case: tuple[Any, dict[str, Any]]) -> None:
    x, attrs = case
    if min(attrs["steps"]) < 0:
        fragment = check("slice_negative_to_flip", "slice", [x], **attrs)
        assert all(s > 0 for op in fragment.ops if op.kind == "slice" for s in op.attrs["steps"])
    else:
        refuse("slice_negative_to_flip", "slice", [x], "no step is negative", **attrs)


@settings(max_examples=60)
@given(slices([1]))
def test_to_split(case: tuple[Any, dict[str, Any]]) -> None:
    check("slice_to_split", "slice", [case[0]], **case[1])


def test_to_split_refuses() -> None:
    x, one = noise(8), {"axes": (0,), "starts": (0,), "ends": (8,)}
    refuse("slice_to_split", "slice", [x], "the step is 2", steps=(2,), **one)
    refuse("slice_to_split", "slice", [x], "empty", axes=(0,), starts=(3,), ends=(3,), steps=(1,))


@settings(max_examples=60)
@given(slices([1, 2, 3, -1, -2]))
def test_to_take(case: tuple[Any, dict[str, Any]]) -> None:
    check("slice_to_take", "slice", [case[0]], **case[1])


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data())
def test_select(dtype: str, shape: list[int], data: Any) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    check("select_to_slice", "select", [noise(*shape, dtype=dtype)], axis=axis, index=shape[axis] - 1)
