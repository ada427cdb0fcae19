# SPDX-License-Identifier: Apache-2.0
"""Small tensors that are kept for some samples: counted late, they are counted all the same."""

from threading import Lock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_extremes import side_by_side

from porter.quantize.extremes import Look
from porter.quantize.gather import Gather
from porter.quantize.observers import make_observer


def shown(arrays_of_samples, names, order=None):
    """Observers that saw samples through a look and a gather, and how many values were kept at a time."""
    observers = {name: make_observer("mse") for name in names}
    look, gather = Look(list(arrays_of_samples[0])), Gather(observers, {name: Lock() for name in names})
    kept = set()
    for arrays in arrays_of_samples:
        placed = side_by_side({name: arrays[name] for name in (order or arrays)})
        row = look.row()
        look.see(placed, row)
        taken = gather.take(look.shelf, row) if look.shelf is not None else ()
        kept.add(len(taken))
        for name in names:
            if name not in taken:
                observers[name].fill(placed[name], *look.of(name, row))
    gather.flush()
    gather.flush()  # nothing is left to be shown twice
    return observers, kept


def same(observers, arrays_of_samples):
    for name, observer in observers.items():
        alone = make_observer("mse")
        for arrays in arrays_of_samples:
            alone.fill(arrays[name], float(arrays[name].min()), float(arrays[name].max()))
        want, got = alone.histogram.state(), observer.histogram.state()
        for key, array in want.items():
            np.testing.assert_array_equal(got[key], array, err_msg=f"{name} {key}")


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 300), min_size=2, max_size=5), st.integers(1, 40), st.integers(0, 99))
def test_all_elements_are_counted_once(sizes, samples, seed):
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(-14, 14, samples)  # octaves that come and go
    items = [
        {f"v{i}": (rng.normal(size=size) * scale).astype(np.float32) for i, size in enumerate(sizes)}
        for scale in scales
    ]
    observers, kept = shown(items, list(items[0])[1:])  # the first is not observed
    assert kept == {len(sizes)}
    same(observers, items)


def test_a_shelf_with_a_large_array_is_not_kept():
    items = [{"a": np.ones(10, np.float32), "b": np.ones(131073, np.float32)} for _ in range(2)]
    observers, kept = shown(items, ["a", "b"])
    assert kept == {0}
    same(observers, items)


@pytest.mark.parametrize("first", [1, 3])
def test_another_shelf_has_its_own_place(first):
    """Values in another order, or of other sizes, on another run of the same sample."""
    rng = np.random.default_rng(0)
    observers = {name: make_observer("mse") for name in "abc"}
    gather, want = Gather(observers, {name: Lock() for name in observers}), []
    for index in range(6):
        sizes = {"a": 5, "b": 7} if index % 4 < first else {"b": 4, "a": 9, "c": 2}
        arrays = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
        look = Look(list(arrays))
        row = look.row()
        look.see(side_by_side(arrays), row)
        assert gather.take(look.shelf, row) == arrays.keys()
        want.append(arrays)
    gather.flush()
    for name in "abc":
        same({name: observers[name]}, [arrays for arrays in want if name in arrays])
