# SPDX-License-Identifier: Apache-2.0
"""Slice assignment: any box, any step, any source."""

from typing import Any

import numpy as np
import pytest
from harness import Const, apply, build, check, noise, refuse, with_specials
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import run


@st.composite
def boxes(draw: Any, strided: bool) -> dict[str, Any]:
    """A tensor, a box in it, and a source that broadcasts to the box."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    axes = tuple(draw(st.permutations(range(len(shape))))[: draw(st.integers(1, len(shape)))])
    starts, ends, steps, box = [], [], [], list(shape)
    for axis in axes:
        n = shape[axis]
        step = draw(st.sampled_from([1, 2, 3, 5, -1, -2, -3])) if strided else 1
        a, b = sorted((draw(st.integers(0, n)), draw(st.integers(0, n))))
        start, end = (a, b) if step > 0 else (max(b - 1, 0), a - 1)
        starts.append(start)
        ends.append(end)
        steps.append(step)
        box[axis] = len(range(start, end, step))
    source = [n if draw(st.booleans()) else 1 for n in box][draw(st.integers(0, len(box))) :]
    if any(n == 0 for n in box):
        source = []
    attrs = {"axes": axes, "starts": tuple(starts), "ends": tuple(ends), "steps": tuple(steps)}
    dtype = draw(st.sampled_from(["float32", "float64", "int64", "bool", "float16"]))
    seed = draw(st.integers(0, 999))
    x = noise(*shape, seed=seed, dtype=dtype)
    src = noise(*source, seed=seed + 1, dtype=draw(st.sampled_from([dtype, "float32"])) if "float" in dtype else dtype)
    if dtype == "float32":
        x, src = with_specials(x, seed), src if src.dtype != dtype else with_specials(src, seed)
    return {"x": x, "src": Const(src) if draw(st.booleans()) else src, "attrs": attrs}


@settings(max_examples=120)
@given(boxes(strided=False))
def test_contiguous(case: dict[str, Any]) -> None:
    fragment = check("slice_assign_to_cat", "slice_assign", [case["x"], case["src"]], **case["attrs"])
    assert {op.kind for op in fragment.ops} <= {"slice", "cat", "expand", "cast"}


@settings(max_examples=150)
@given(boxes(strided=True))
def test_strided(case: dict[str, Any]) -> None:
    inputs = [case["x"], case["src"]]
    if all(
        s == 1 or len(range(a, b, s)) <= 1
        for a, b, s in zip(*(case["attrs"][k] for k in ("starts", "ends", "steps")), strict=True)
    ):
        return
    fragment = check("slice_assign_strided_to_cat", "slice_assign", inputs, **case["attrs"])
    assert all(op.attrs["steps"] == (1,) for op in fragment.ops if op.kind == "slice")


def test_an_axis_reversed_whole_is_not_read() -> None:
    box = {"axes": (2, 0), "starts": (1, 0), "ends": (-1, 1), "steps": (-1, 1)}
    fragment = check("slice_assign_strided_to_cat", "slice_assign", [noise(2, 1, 2), noise(1, 1, 2)], **box)
    assert [op.kind for op in fragment.ops] == ["flip", "slice", "cat"]


def test_the_decode_of_yolox() -> None:
    """outputs[..., :2] = v, then outputs[..., 2:4] = w: one cat each, no copy of the rest."""
    x = noise(1, 40, 85)
    first = {"axes": (2,), "starts": (0,), "ends": (2,), "steps": (1,)}
    fragment = check("slice_assign_to_cat", "slice_assign", [x, noise(1, 40, 2)], **first)
    assert [op.kind for op in fragment.ops] == ["slice", "cat"]
    second = {"axes": (2,), "starts": (2,), "ends": (4,), "steps": (1,)}
    fragment = check("slice_assign_to_cat", "slice_assign", [x, noise(1, 40, 2)], **second)
    assert [op.kind for op in fragment.ops] == ["slice", "slice", "cat"]


def test_chained_assignments() -> None:
    x, u, v = noise(2, 8), noise(2, 3), noise(2, 4)
    one, feeds = build("slice_assign", [x, u], {"axes": (1,), "starts": (0,), "ends": (3,), "steps": (1,)}, "a")
    two, more = build(
        "slice_assign", [one.outputs[0], v], {"axes": (1,), "starts": (1,), "ends": (8,), "steps": (2,)}, "b"
    )
    middle = run(apply("slice_assign_to_cat", one), feeds)[0]
    (got,) = run(apply("slice_assign_strided_to_cat", two), {**more, "a0": middle})
    want = x.copy()
    want[:, :3] = u
    want[:, 1::2] = v
    np.testing.assert_array_equal(got, want)


def test_the_whole_and_the_empty_box() -> None:
    x, whole = noise(2, 3), {"axes": (0, 1), "starts": (0, 0), "ends": (2, 3), "steps": (1, 1)}
    assert [op.kind for op in check("slice_assign_to_cat", "slice_assign", [x, noise()], **whole).ops] == ["expand"]
    empty = {"axes": (1,), "starts": (2,), "ends": (2,), "steps": (1,)}
    assert check("slice_assign_to_cat", "slice_assign", [x, noise()], **empty).results[0].name == "y_x0"


def test_each_rule_leaves_the_other_its_cases() -> None:
    x = noise(2, 8)
    step = {"axes": (1,), "starts": (0,), "ends": (8,), "steps": (2,)}
    plain = {"axes": (1,), "starts": (0,), "ends": (4,), "steps": (1,)}
    refuse("slice_assign_to_cat", "slice_assign", [x, noise()], r"steps \(2,\) are not all 1", **step)
    refuse("slice_assign_strided_to_cat", "slice_assign", [x, noise()], "every step is 1", **plain)


@pytest.mark.parametrize("rule", ["select_assign_to_cat", "select_assign_to_slice_assign"])
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_select_assign(rule: str, shape: list[int], data: Any) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    index = data.draw(st.integers(0, shape[axis] - 1))
    rest = [n for d, n in enumerate(shape) if d != axis]
    source = rest[data.draw(st.integers(0, len(rest))) :]
    src = noise(*source, seed=1)
    x = with_specials(noise(*shape))
    check(rule, "select_assign", [x, Const(src) if data.draw(st.booleans()) else src], axis=axis, index=index)
