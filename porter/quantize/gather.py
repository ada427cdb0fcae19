# SPDX-License-Identifier: Apache-2.0
"""Tensors side by side in memory, kept for some samples until histograms count their elements.

To call what counts a small tensor takes longer than to count it. So what is counted of the tensors is copied (of each
element the half that histograms look at), and each is counted for some samples at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from porter.quantize.extremes import Row, Shelf
from porter.quantize.histogram import UPPER, counted, in_memory_order
from porter.quantize.observers import Observer

__all__ = ["Gather"]

#: Samples that are kept at most: more of them save nothing.
_SAMPLES = 4
#: Bytes that are kept at most.
_BYTES = 1 << 26


class Gather:
    """Keeps the arrays of shelves for observers that count.

    Args:
        observers: by the name of a value.
        locks: by the same names, to be held while an observer is shown something.
    """

    def __init__(self, observers: Mapping[str, Observer], locks: Mapping[str, Lock]) -> None:
        self._observers, self._locks = observers, locks
        self._kept: dict[int, _Kept] = {}
        self._free = _BYTES

    def keep(self, shelf: Shelf) -> Collection[str]:
        """From now on, keep what is counted of a shelf; the names of the values: none where there is not enough
        memory."""
        kept = _Kept(shelf, self._observers)
        if not 0 < kept.nbytes <= self._free:
            return ()
        self._kept[id(shelf)] = kept
        self._free -= kept.nbytes
        return shelf.arrays.keys()

    def take(self, shelf: Shelf, row: Row, times: int) -> None:
        """Keep what is on a shelf now, in a sample of that row, to be counted so many times."""
        kept = self._kept.get(id(shelf))
        if kept is None:
            return
        if kept.times != times:
            self._show(kept)
            kept.times = times
        low, high = row[:, shelf.places]
        kept.low, kept.high = np.minimum(kept.low, low), np.maximum(kept.high, high)
        # One call for all, though copies of every array would be as fast: threads wait for each other at every call.
        np.take(kept.halves, kept.chosen, out=kept.rows[kept.count], mode="clip")
        kept.count += 1
        if kept.count == len(kept.rows):
            self._show(kept)

    def flush(self) -> None:
        """Show the observers what is kept."""
        for kept in self._kept.values():
            self._show(kept)

    def _show(self, kept: _Kept) -> None:
        ends = zip(kept.shelf.arrays, kept.low.tolist(), kept.high.tolist(), strict=True)
        for name, low, high in ends if kept.count else ():
            if name in kept.counted:
                place, weight = kept.counted[name]
                with self._locks[name]:
                    self._observers[name].fill_halves(kept.rows[: kept.count, place], weight * kept.times, low, high)
        kept.clear()


class _Kept:
    """What is kept of one shelf.

    Fields:
        halves: of all of its memory; every second is an upper one.
        chosen: the places in it of what is counted.
        counted: for a value, its part of a row, and how many times each element counts.
        rows: what was kept, one a sample.
        times: how many times the samples in them count.
        nbytes: of everything.
    """

    def __init__(self, shelf: Shelf, observers: Mapping[str, Observer]) -> None:
        self.shelf = shelf
        self.times = 1
        self.halves = shelf.memory.view(np.uint16)
        self.counted: dict[str, tuple[slice, int]] = {}
        chosen: list[NDArray[np.int64]] = []
        size = 0
        for name in shelf.arrays:
            if name in observers:
                part, weight = counted(shelf.places_of(name))
                self.counted[name] = slice(size, size + part.size), weight
                chosen.append(in_memory_order(part).reshape(-1))
                size += part.size
        self.chosen = 2 * np.concatenate([*chosen, np.zeros(0, np.int64)]) + UPPER
        self.rows = np.empty((_SAMPLES, size), np.uint16)
        self.nbytes = self.rows.nbytes + self.chosen.nbytes if size else 0
        self.clear()

    def clear(self) -> None:
        """Forget what is kept."""
        self.count = 0
        self.low, self.high = np.full(len(self.shelf.arrays), np.inf), np.full(len(self.shelf.arrays), -np.inf)
