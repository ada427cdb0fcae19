# SPDX-License-Identifier: Apache-2.0
"""Rows of extremes: in one memory or not, in however many blocks, they are those of the arrays."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porter.quantize import extremes
from porter.quantize.extremes import Look, Rows


def side_by_side(arrays):
    """Copies of arrays in one memory, with gaps that hold NaN."""
    memory = np.full(sum(a.nbytes for a in arrays.values()) + 64 * (len(arrays) + 1), 0xFF, np.uint8)
    at, made = -memory.ctypes.data % 64, {}
    for name, array in arrays.items():
        made[name] = memory[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
        made[name][...] = array
        at += -(-array.nbytes // 64) * 64
    return made


def seen(arrays, names=None):
    """The row of a sample."""
    names = list(arrays) if names is None else names
    row = np.full((2, len(names)), np.nan)
    Look(arrays, {name: place for place, name in enumerate(names)}).see(row)
    return row


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 70), st.booleans(), st.integers(0, 99))
def test_extremes_are_those_of_the_arrays(sizes, samples, together, seed):
    rng = np.random.default_rng(seed)
    names = [f"v{i}" for i in range(len(sizes))]
    rows = Rows(names)
    blocks, want = [], []
    for _ in range(samples):
        arrays = {f"v{i}": rng.normal(size=size).astype(np.float32) for i, size in enumerate(sizes)}
        want.append([(a.min(), a.max()) for a in arrays.values()])
        row = seen(side_by_side(arrays) if together else arrays)
        np.testing.assert_array_equal(row.T, want[-1])
        rows.add(row)
        with mock.patch.object(extremes, "_ROWS", 8):
            if rows.full:
                blocks.append(rows.take())
    assert len(blocks) == samples // 8
    blocks.append(rows.take())
    assert rows.take().low.shape == (len(sizes), 0)
    low, high = (np.concatenate(parts, 1).T for parts in ([b.low for b in blocks], [b.high for b in blocks]))
    np.testing.assert_array_equal(np.stack([low, high], -1), want)


@pytest.mark.parametrize("sizes", [(1, 65536, 65537, 3), (200000, 7), (5, 400001), (70000, 70000, 70000)])
def test_large_arrays_are_looked_at_in_pieces(sizes):
    rng = np.random.default_rng(0)
    arrays = {f"v{i}": rng.normal(size=size).astype(np.float32) for i, size in enumerate(sizes)}
    arrays = side_by_side(arrays)
    look = Look(arrays, {name: place for place, name in enumerate(arrays)})
    assert look.shelf is not None and look.shelf.arrays.keys() == arrays.keys()
    for at in (0, -1):  # an extreme in the first place, and in the last
        for index, array in enumerate(arrays.values()):
            array[at], array[array.size // 2] = 100 + index, -100 - index
        row = np.full((2, len(arrays)), np.nan)
        look.see(row)
        assert [*zip(*row.tolist(), strict=True)] == [(a.min(), a.max()) for a in arrays.values()]


@pytest.mark.parametrize("together", [False, True])
def test_the_same_memory_is_looked_at_again(together):
    """The arrays of a stream are the same objects with other numbers in them."""
    arrays = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(5, np.float32), "c": np.zeros(4, np.int64)}
    arrays = side_by_side(arrays) if together else arrays
    look, rows = Look({**arrays, "unknown": np.zeros(3)}, {"a": 0, "b": 1, "c": 2}), Rows(["a", "b", "c"])
    for number in range(5):
        for name, array in arrays.items():
            array[...] = number
            array.flat[0] = -number if name == "a" else number
        row = np.full((2, 3), np.nan)
        look.see(row)
        assert row.T.tolist() == [[-number, number], [number, number], [number, number]]
        rows.add(row)
    taken = rows.take()
    np.testing.assert_array_equal(taken.low, [[0, -1, -2, -3, -4], range(5), range(5)])


def test_what_is_known_is_not_looked_at():
    arrays = side_by_side({name: np.full(5, number, np.float32) for number, name in enumerate("abcd")})
    row = np.full((2, 4), 7.0)
    Look(arrays, {name: place for place, name in enumerate("abcd")}, known={"b"}).see(row)
    assert row.tolist() == [[0, 7, 2, 3], [0, 7, 2, 3]]


def test_a_value_that_some_samples_lack():
    rows = Rows(["a", "b"])
    for arrays in ({"a": np.array([1.0, 2.0]), "b": np.array([3.0])}, {"a": np.array([5.0])}):
        rows.add(seen(arrays, ["a", "b"]))
    taken = rows.take()
    np.testing.assert_array_equal(taken.low, [[1, 5], [3, np.nan]])
    np.testing.assert_array_equal(taken.high, [[2, 5], [3, np.nan]])
