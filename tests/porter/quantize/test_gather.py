# SPDX-License-Identifier: Apache-2.0
"""Tensors that are kept for some samples: counted late, they are counted all the same."""

from threading import Lock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_extremes import side_by_side

from porter.quantize import gather as module
from porter.quantize.extremes import Look
from porter.quantize.gather import Gather
from porter.quantize.observers import make_observer


def shown(items, names):
    """Observers that saw samples, in the same memory each, through a look and a gather; and the names that it kept."""
    observers = {name: make_observer("mse") for name in names}
    gather = Gather(observers, {name: Lock() for name in names})
    placed = side_by_side(items[0])
    look = Look(placed, {name: place for place, name in enumerate(placed)})
    kept = gather.keep(look.shelf) if look.shelf is not None else ()
    for arrays in items:
        for name, array in arrays.items():
            placed[name][...] = array
        row = np.full((2, len(placed)), np.nan)
        look.see(row)
        if look.shelf is not None:
            gather.take(look.shelf, row)
    gather.flush()
    gather.flush()  # nothing is left to be shown twice
    return observers, set(kept)


def same(observers, items):
    for name, observer in observers.items():
        alone = make_observer("mse")
        for arrays in items:
            array = arrays[name]
            alone.fill(array, float(array.min()), float(array.max()))
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
    assert kept == items[0].keys()
    same(observers, items)


@pytest.mark.parametrize("shape", [(1, 32, 60, 50), (200_000,), (3, 70_000)])
def test_of_large_arrays_the_same_share_is_counted(shape):
    rng = np.random.default_rng(0)
    items = [
        {"a": rng.normal(size=10).astype(np.float32), "b": rng.normal(size=shape).astype(np.float32)} for _ in range(6)
    ]
    observers, kept = shown(items, ["a", "b"])
    assert kept == {"a", "b"}
    assert observers["b"].histogram.total < 6 * 1.01 * items[0]["b"].size
    same(observers, items)


def test_what_does_not_fit_into_memory_is_not_kept(monkeypatch):
    monkeypatch.setattr(module, "_BYTES", 100)
    items = [{"a": np.ones(10, np.float32), "b": np.ones(20, np.float32)}]
    observers, kept = shown(items, ["a", "b"])
    assert not kept
    assert {observer.histogram.total for observer in observers.values()} == {0}
