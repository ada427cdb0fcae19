# SPDX-License-Identifier: Apache-2.0
"""Indexing by constants."""

from typing import Any

import numpy as np
import pytest
from harness import Around, Const, check, noise, refuse, with_specials
from hypothesis import given, settings
from hypothesis import strategies as st

from porter.ops import Op, Value
from porter.registry import rules
from porter.rewrite import NotApplicable

INDEX = st.lists(st.integers(-5, 4), min_size=1, max_size=7)


def ints(data: Any) -> Const:
    return Const(data, "int64")


@settings(max_examples=60)
@given(INDEX, st.integers(0, 2))
def test_take(index: list[int], axis: int) -> None:
    shape = [2, 3, 2]
    shape[axis] = 5
    x = with_specials(noise(*shape))
    check("take_to_slices", "take", [x, ints(index)], axis=axis)
    check("take_to_slices", "index_select", [x, ints(np.mod(index, 5))], axis=axis)
    check("take_to_embedding_or_gather", "take", [x, ints(index)], axis=axis)
    check("index_to_take", "index", [x, ints(index)], axes=(axis,))
    check("index_to_take", "index_select", [x, np.mod(index, 5)], axis=axis)


def test_take_by_a_scalar_or_a_matrix() -> None:
    check("take_to_slices", "take", [noise(4, 5), ints(2)], axis=1)
    check("take_to_slices", "take", [noise(4, 5), ints([[0, 1], [3, 4]])], axis=1)


def test_take_of_a_range_is_one_slice() -> None:
    fragment = check("take_to_slices", "take", [noise(9), ints([6, 4, 2])], axis=0)
    assert [(op.kind, op.attrs["steps"]) for op in fragment.ops] == [("slice", (-2,))]


def test_embedding() -> None:
    table = noise(6, 3)
    check("take_to_slices", "embedding", [table, ints([[0, 1], [5, 5]])])
    check("index_to_take", "embedding", [table, np.array([[0, 1], [5, 5]])])
    check("take_to_embedding_or_gather", "take", [table, np.array([[0, 1], [5, 5]])], axis=0)


def test_take_refuses() -> None:
    x = noise(200)
    refuse("take_to_slices", "take", [x, np.array([1])], "computed when the model runs", axis=0)
    refuse("take_to_slices", "take", [x, ints(np.arange(200) ** 2 % 199)], "more than 64", axis=0)
    refuse("take_to_slices", "take", [x, ints([])], "empty", axis=0)
    refuse("take_to_slices", "take", [x, ints([200])], "outside", axis=0)
    refuse("take_to_embedding_or_gather", "take", [noise(2, 3), ints([[0]])], "not 1-D", axis=1)


@given(INDEX, st.integers(0, 1))
def test_gather(index: list[int], axis: int) -> None:
    line = np.mod(index, 5)
    full = np.broadcast_to(line[:, None] if axis == 0 else line, (len(line), 3) if axis == 0 else (3, len(line)))
    x = noise(5, 5)
    check("gather_to_slices", "gather", [x, ints(full)], axis=axis)


def test_gather_refuses() -> None:
    refuse("gather_to_slices", "gather", [noise(3, 3), ints([[0, 1], [1, 0]])], "varies along another", axis=0)


@given(st.integers(0, 99))
def test_index_of_several_axes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    i, j = rng.integers(-4, 4, (3, 1)), rng.integers(-5, 5, (2,))
    check("index_axes_to_take", "index", [noise(2, 4, 5), ints(i), ints(j)], axes=(1, 2))
    check("index_axes_to_take", "index", [noise(4, 5, 3), ints(i), ints(j)], axes=(0, 1))


def test_index_refuses() -> None:
    x = noise(4, 5, 6)
    refuse("index_axes_to_take", "index", [x, ints([0]), ints([0])], "not adjacent", axes=(0, 2))
    refuse("index_axes_to_take", "index", [x, ints([0])], "one axis", axes=(0,))
    refuse("index_axes_to_take", "index", [x, ints([0]), np.array([0])], "computed", axes=(0, 1))
    refuse("index_to_take", "index", [x, ints([0]), ints([0])], "several axes", axes=(0, 1))
    refuse("index_to_take", "index", [x, noise(4, dtype="bool")], "mask", axes=(0,))


PUT: Any = {"accumulate": False}


@pytest.mark.parametrize("index", [[0, 1, 2], [4, 2, 0], [-1], [1, 4], [True, False, False, True, False]])
def test_index_put(index: list[int]) -> None:
    at = Const(np.asarray(index))
    count = int(np.sum(index)) if at.data.dtype == bool else len(index)
    for values in (noise(2, count, seed=1), noise(), Const(noise(1, seed=2))):
        check("index_put_to_cat", "index_put", [noise(2, 5), values, at], axes=(1,), **PUT)
        check("index_put_to_slice_assign", "index_put", [noise(2, 5), values, at], axes=(1,), **PUT)


@given(st.permutations(range(9)), st.integers(1, 9))
def test_index_put_anywhere(order: list[int], count: int) -> None:
    check(
        "index_put_to_cat", "index_put", [noise(9, 2), noise(count, 2, seed=1), ints(order[:count])], axes=(0,), **PUT
    )


def test_index_put_of_a_grid() -> None:
    i, j = ints([[1], [2]]), ints([0, 2, 4])
    check("index_put_to_slice_assign", "index_put", [noise(4, 5, 2), noise(2, 3, 2, seed=1), i, j], axes=(0, 1), **PUT)


def test_index_put_refuses() -> None:
    x, v = noise(4, 5), noise()
    rule, other = "index_put_to_slice_assign", "index_put_to_cat"
    refuse(rule, "index_put", [x, v, ints([0, 1, 3])], "evenly spaced", axes=(0,), **PUT)
    refuse(rule, "index_put", [x, v, np.array([0])], "computed", axes=(0,), **PUT)
    refuse(rule, "index_put", [x, v, ints([0, 1]), ints([0, 1])], "not a grid", axes=(0, 1), **PUT)
    refuse(rule, "index_put", [noise(2, 2, 2), v, ints([0]), ints([0])], "not adjacent", axes=(0, 2), **PUT)
    for name in (rule, other):
        refuse(name, "index_put", [x, v, ints([0])], "added", axes=(0,), accumulate=True)
    refuse(other, "index_put", [x, v, ints([1, 1])], "put twice", axes=(0,), **PUT)
    refuse(other, "index_put", [x, v, ints([0, 1]), ints([0, 1])], "several axes", axes=(0, 1), **PUT)


def _rows(*lines: Any) -> Const:
    return ints(np.stack(np.meshgrid(*lines, indexing="ij"), -1))


def test_scatter_nd() -> None:
    x = noise(3, 4, 5)
    whole = _rows(range(3), range(4), [0, 1])
    check("scatter_nd_to_slice_assign", "scatter_nd", [x, whole, noise(3, 4, 2, seed=1)], reduction="none")
    rows = _rows([0, 2])
    check("scatter_nd_to_slice_assign", "scatter_nd", [x, rows, noise(2, 4, 5, seed=1)], reduction="none")
    strided = _rows([0, 2], [3, 1])
    check("scatter_nd_to_slice_assign", "scatter_nd", [x, strided, noise(2, 2, 5, seed=1)], reduction="none")


def test_scatter_nd_refuses() -> None:
    x = noise(3, 4)
    rule, src = "scatter_nd_to_slice_assign", noise(2)
    refuse(rule, "scatter_nd", [x, ints([[0, 0], [1, 1]]), src], "not a grid", reduction="none")
    refuse(rule, "scatter_nd", [x, ints([[0], [1]]), noise(2, 4)], "reduction add", reduction="add")
    refuse(rule, "scatter_nd", [x, np.array([[0], [1]]), noise(2, 4)], "computed", reduction="none")


def test_scatter() -> None:
    x, rule = noise(4, 6), "scatter_to_slice_assign"
    at = np.broadcast_to(np.array([1, 3, 5]), (4, 3))
    check(rule, "scatter", [x, ints(at), noise(4, 3, seed=1)], axis=1, reduction="none")
    check(rule, "scatter", [x, ints(at[:2]), noise(4, 3, seed=1)], axis=1, reduction="none")
    check(rule, "scatter", [x, ints(at), noise()], axis=1, reduction="none")
    refuse(rule, "scatter", [x, ints([[0, 1], [1, 0]]), noise(4, 3)], "varies", axis=1, reduction="none")
    refuse(rule, "scatter", [x, ints(at), noise(4, 3)], "reduction add", axis=1, reduction="add")


def test_one_hot() -> None:
    check("one_hot_to_eq", "one_hot", [np.array([[0, 2], [1, 1]])], depth=4)


def test_a_shape_that_only_the_result_knows() -> None:
    """A model's file can declare the shape of a result whose operand has none: no rule can build that shape."""
    op = Op("index_select", (Value("x", None, "float32"), Value.constant("i", np.array([0]))),
            (Value("y", (1,), "float32"),), {"axis": 0})  # fmt: skip
    with pytest.raises(NotApplicable, match="the shape of y cannot be told"):
        rules()["index_to_take"].apply(Around(), op, "new")
