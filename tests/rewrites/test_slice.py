# SPDX-License-Identifier: Apache-2.0
"""Slices and selections."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from harness import Around, apply, build, check, noise, refuse, with_specials
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import run

from porter.ops import Op, Value
from porter.rewrite import NotApplicable


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


def _joined(seed: int, channels: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[list[Op], dict[str, Any], Any]:
    """A detector's raw output: for each size, tensors of some channels joined; flattened, joined, (N, all, channels).

    The ops, the arrays of the inputs, and the result.
    """
    ops: list[Op] = []
    feeds: dict[str, Any] = {}
    levels, whole = [], []
    for i, size in enumerate(sizes):
        arrays = [noise(2, c, size, size, seed=seed + 10 * i + j) for j, c in enumerate(channels)]
        values = [Value(f"x{i}_{j}", a.shape, "float32") for j, a in enumerate(arrays)]
        feeds |= {v.name: a for v, a in zip(values, arrays, strict=True)}
        cat, _ = build("cat", values, {"axis": 1}, f"cat{i}")
        flat, _ = build("reshape", [cat.outputs[0]], {"shape": (2, sum(channels), size * size)}, f"flat{i}")
        ops += [cat, flat]
        levels.append(flat.outputs[0])
        whole.append(np.concatenate(arrays, 1).reshape(2, sum(channels), -1))
    cat, _ = build("cat", levels, {"axis": 2}, "cat")
    turn, _ = build("permute", [cat.outputs[0]], {"dims": (0, 2, 1)}, "turn")
    return [*ops, cat, turn], feeds, np.concatenate(whole, 2).transpose(0, 2, 1)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4), st.lists(st.integers(1, 3), min_size=1, max_size=3), st.data()
)
def test_slice_before_cat(channels: list[int], sizes: list[int], data: st.DataObject) -> None:
    ops, feeds, whole = _joined(data.draw(st.integers(0, 99)), tuple(channels), tuple(sizes))
    start = data.draw(st.integers(0, sum(channels) - 1))
    end = data.draw(st.integers(start + 1, sum(channels)))
    attrs = {"axes": (2,), "starts": (start,), "ends": (end,), "steps": (1,)}
    op, _ = build("slice", [ops[-1].outputs[0]], attrs)
    edges = np.cumsum([0, *channels])
    needed = [i for i, (low, high) in enumerate(pairwise(edges)) if low < end and high > start]
    if len(needed) == len(channels):
        with pytest.raises(NotApplicable, match=r"left out|one axis"):
            apply("slice_before_cat", op, Around(ops))
        return
    fragment = apply("slice_before_cat", op, Around(ops))
    np.testing.assert_array_equal(run(fragment, feeds)[0], whole[:, :, start:end])
    read = {v.name for built in fragment.ops for v in built.operands} & feeds.keys()
    assert read == {f"x{i}_{j}" for i in range(len(sizes)) for j in needed}


def test_slice_before_cat_refusals() -> None:
    ops, _, _ = _joined(0, (2, 3), (2, 1))
    for attrs, reason in (
        ({"axes": (1, 2), "starts": (0, 0), "ends": (2, 2), "steps": (1, 1)}, "one axis"),
        ({"axes": (2,), "starts": (0,), "ends": (2,), "steps": (2,)}, "step"),
        ({"axes": (0,), "starts": (0,), "ends": (1,), "steps": (1,)}, "left out"),
    ):
        op, _ = build("slice", [ops[-1].outputs[0]], attrs)
        with pytest.raises(NotApplicable, match=reason):
            apply("slice_before_cat", op, Around(ops))
    # A reshape that mixes the axis with another one ends the way; a chain without end is given up.
    mixed, _ = build("reshape", [ops[0].outputs[0]], {"shape": (2, 10, 2)}, "mixed")
    op, _ = build("slice", [mixed.outputs[0]], {"axes": (1,), "starts": (0,), "ends": (2,), "steps": (1,)})
    with pytest.raises(NotApplicable, match="left out"):
        apply("slice_before_cat", op, Around([*ops, mixed]))
    chain = [ops[0]]
    for i in range(100):
        chain.append(build("identity", [chain[-1].outputs[0]], {}, f"i{i}")[0])
    op, _ = build("slice", [chain[-1].outputs[0]], {"axes": (1,), "starts": (0,), "ends": (2,), "steps": (1,)})
    with pytest.raises(NotApplicable, match="too far"):
        apply("slice_before_cat", op, Around(chain))
