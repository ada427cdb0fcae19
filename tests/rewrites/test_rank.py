# SPDX-License-Identifier: Apache-2.0
"""Ops on five and more axes."""

from typing import Any

import numpy as np
import pytest
import reference
from harness import build, check, noise, refuse, with_specials
from hypothesis import given
from hypothesis import strategies as st

from porter.rewrite import NotApplicable


@given(
    st.lists(st.integers(1, 3), min_size=5, max_size=7), st.sampled_from(["sigmoid", "relu", "abs", "isnan", "sign"])
)
def test_unary(shape: list[int], kind: str) -> None:
    x = with_specials(noise(*shape))
    op, _ = build(kind, [x], {})
    fragment = check("elementwise_to_rank4", kind, [x], want=reference.run_op(op, [x]))
    assert all(out.rank is not None and out.rank <= 4 for op in fragment.ops[:-1] for out in op.outputs)


@given(st.lists(st.integers(1, 3), min_size=5, max_size=6), st.integers(0, 63), st.integers(0, 63))
def test_binary(shape: list[int], left: int, right: int) -> None:
    xs = [n if left >> d & 1 else 1 for d, n in enumerate(shape)]
    ys = [n if right >> d & 1 else 1 for d, n in enumerate(shape)]
    try:
        fragment = check("elementwise_to_rank4", "add", [noise(*xs), noise(*ys, seed=1)])
    except NotApplicable as reason:
        assert "broadcasting leaves" in str(reason)
    else:
        assert all(out.rank is not None and out.rank <= 4 for op in fragment.ops[:-1] for out in op.outputs)


def test_scalars_and_conditions() -> None:
    x = noise(1, 3, 4, 4, 5)
    check("elementwise_to_rank4", "mul", [x, np.asarray(2, np.float32)])
    check("elementwise_to_rank4", "where", [x > 0, x, noise(5)])
    check("elementwise_to_rank4", "clamp", [x], min=-0.5, max=0.5)
    check("elementwise_to_rank4", "cast", [x], dtype="bool")


def test_vectors() -> None:
    x = with_specials(noise(9))
    for kind in ("abs", "isnan"):
        assert all(op.operands[0].rank == 2 for op in check("elementwise_vector_to_matrix", kind, [x]).ops[1:])
    check("elementwise_vector_to_matrix", "add", [x, noise(1)])
    check("elementwise_vector_to_matrix", "mul", [x, noise()])
    check("elementwise_vector_to_matrix", "mul", [noise(), noise(seed=1)])
    check("elementwise_vector_to_matrix", "clamp", [x], min=-1.0, max=None)
    refuse("elementwise_vector_to_matrix", "abs", [noise(2, 3)], "2 axes are not fewer")


def test_elementwise_refuses() -> None:
    refuse("elementwise_to_rank4", "relu", [noise(2, 3, 4, 5)], "4 axes are not more")
    alternating = [noise(2, 1, 2, 1, 2), noise(1, 2, 1, 2, 1)]
    refuse("elementwise_to_rank4", "add", alternating, "broadcasting leaves 5")


@given(st.lists(st.integers(1, 3), min_size=5, max_size=6), st.data())
def test_one_axis(shape: list[int], data: Any) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    x, other = noise(*shape), noise(*shape, seed=1)
    fragment = check("one_axis_op_to_rank4", "cat", [x, other], axis=axis)
    assert all(out.rank is not None and out.rank <= 4 for op in fragment.ops[:-1] for out in op.outputs)
    n = shape[axis]
    check("one_axis_op_to_rank4", "slice", [x], axes=(axis,), starts=(n - 1,), ends=(-1,), steps=(-1,))


def test_softmax() -> None:
    ones = np.zeros((1, 2, 2, 2, 2), np.float32)
    check("one_axis_op_to_rank4", "softmax", [ones], axis=2)
    refuse("one_axis_op_to_rank4", "softmax", [noise(2, 2)], "not more than 4", axis=1)
    two: dict[str, Any] = {"axes": (0, 1), "starts": (0, 0), "ends": (1, 1), "steps": (1, 1)}
    refuse("one_axis_op_to_rank4", "slice", [noise(1, 1, 2, 2, 2)], "2 axes are sliced", **two)


@pytest.mark.parametrize("kind", ["sum", "mean", "amax", "any"])
@given(st.sampled_from([(4,), (0,), (2, 3), (0, 4), (1, 2, 3, 4)]), st.booleans())
def test_reductions(kind: str, axes: tuple[int, ...], keepdim: bool) -> None:
    x = noise(2, 3, 2, 3, 4)
    scale = np.abs(x).sum(axes, keepdims=keepdim)
    check("reduction_to_rank4", kind, [x > 1 if kind == "any" else x], of=scale, axes=axes, keepdim=keepdim)


def test_reductions_refuse() -> None:
    refuse("reduction_to_rank4", "sum", [noise(2, 2)], "not more than 4", axes=(0,), keepdim=False)
    refuse("reduction_to_rank4", "sum", [noise(*(2,) * 5)], "leave 5", axes=(1, 3), keepdim=False)
    refuse(
        "reduction_to_rank4", "sum", [noise(*(2,) * 5, dtype="int32")], "changes the dtype", axes=(1,), keepdim=False
    )
