# SPDX-License-Identifier: Apache-2.0
"""Rows of extremes: in one memory or not, in however many blocks, they are those of the arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porter.quantize.extremes import Extremes
from porter.quantize.observers import NotFiniteError


def side_by_side(arrays):
    """Copies of arrays in one memory, with gaps that hold NaN."""
    memory = np.full(sum(a.nbytes for a in arrays.values()) + 64 * (len(arrays) + 1), 0xFF, np.uint8)
    at, made = -memory.ctypes.data % 64, {}
    for name, array in arrays.items():
        made[name] = memory[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
        made[name][...] = array
        at += -(-array.nbytes // 64) * 64
    return made


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 70), st.booleans(), st.integers(0, 99))
def test_extremes_are_those_of_the_arrays(sizes, samples, together, seed):
    rng = np.random.default_rng(seed)
    rows = Extremes([f"v{i}" for i in range(len(sizes))])
    blocks, want = [], []
    for _ in range(samples):
        arrays = {f"v{i}": rng.normal(size=size).astype(np.float32) for i, size in enumerate(sizes)}
        want.append([(a.min(), a.max()) for a in arrays.values()])
        rows.look(side_by_side(arrays) if together else arrays)
        assert rows.of("v0") == want[-1][0]
        if rows.end():
            blocks.append(rows.take())
    blocks.append(rows.take())
    assert rows.take().low.shape == (len(sizes), 0)
    low, high = (np.concatenate(parts, 1).T for parts in ([b.low for b in blocks], [b.high for b in blocks]))
    np.testing.assert_array_equal(np.stack([low, high], -1), want)


@pytest.mark.parametrize("sizes", [(1, 65536, 65537, 3), (200000, 7), (5, 400001), (70000, 70000, 70000)])
def test_large_arrays_are_looked_at_in_pieces(sizes):
    rng = np.random.default_rng(0)
    arrays = {f"v{i}": rng.normal(size=size).astype(np.float32) for i, size in enumerate(sizes)}
    rows = Extremes(list(arrays))
    for at in (0, -1):  # an extreme in the first place, and in the last
        for index, array in enumerate(arrays.values()):
            array[at], array[array.size // 2] = 100 + index, -100 - index
        rows.look(side_by_side(arrays))
        assert rows.shelf is not None and rows.shelf.arrays.keys() == arrays.keys()
        assert [rows.of(name) for name in arrays] == [(a.min(), a.max()) for a in arrays.values()]


@pytest.mark.parametrize("together", [False, True])
def test_the_same_memory_is_looked_at_again(together):
    """The arrays of a stream are the same objects with other numbers in them."""
    arrays = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(5, np.float32), "c": np.zeros(4, np.int64)}
    arrays = side_by_side(arrays) if together else arrays
    rows = Extremes(["a", "b", "c"])
    for number in range(5):
        for name, array in arrays.items():
            array[...] = number
            array.flat[0] = -number if name == "a" else number
        rows.look({**arrays, "unknown": np.zeros(3)})
        assert [rows.of(name) for name in "abc"] == [(-number, number), (number, number), (number, number)]
        rows.end()
    taken = rows.take()
    np.testing.assert_array_equal(taken.low, [[0, -1, -2, -3, -4], range(5), range(5)])


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named_and_a_lax_value_is_not_seen(bad, together):
    arrays = {"a": np.ones(4, np.float32), "b": np.array([1, bad, 2], np.float32), "c": np.ones(1, np.float32)}
    arrays = side_by_side(arrays) if together else arrays
    with pytest.raises(NotFiniteError) as error:
        Extremes(["a", "b", "c"]).look(arrays)
    assert error.value.args == ("1 of 3 values are not finite", "b")
    rows = Extremes(["a", "b", "c"], lax=["b"])
    rows.look(arrays)
    rows.end()
    np.testing.assert_array_equal(rows.take().high, [[1], [np.nan], [1]])


def test_a_value_that_some_samples_lack():
    rows = Extremes(["a", "b"])
    rows.look({"a": np.array([1.0, 2.0]), "b": np.array([3.0])})
    rows.end()
    rows.look({"a": np.array([5.0])})
    rows.end()
    taken = rows.take()
    np.testing.assert_array_equal(taken.low, [[1, 5], [3, np.nan]])
    np.testing.assert_array_equal(taken.high, [[2, 5], [3, np.nan]])
