# SPDX-License-Identifier: Apache-2.0
"""Tensors side by side in memory, kept for some samples until histograms count their elements.

To call what counts a small tensor takes longer than to count it. So what is counted of the tensors is copied (of each
element the half that histograms look at), and each is counted for some samples at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from threading import Lock

import numpy as np

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

    def take(self, shelf: Shelf, row: Row) -> None:
        """Keep what is on a shelf now, in a sample of that row."""
        kept = self._kept.get(id(shelf))
        if kept is None:
            return
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
                    self._observers[name].fill_halves(kept.rows[: kept.count, place], weight, low, high)
        kept.clear()


class _Kept:
    """What is kept of one shelf.

    Fields:
        halves: of all of its memory; every second is an upper one.
        chosen: the places in it of what is counted.
        counted: for a value, its part of a row, and how many times each element counts.
        rows: what was kept, one a sample.
        nbytes: of everything.
    """

    def __init__(self, shelf: Shelf, observers: Mapping[str, Observer]) -> None:
        self.shelf = shelf
        self.halves = shelf.memory.view(np.uint16)
        self.counted: dict[str, tuple[slice, int]] = {}
        size = 0
        for name, array in shelf.arrays.items():
            if name in observers:
                part, weight = counted(array)
                self.counted[name] = slice(size, size + part.size), weight
                size += part.size
        self.chosen = np.empty(size, np.int64)
        for (name, (place, weight)), (start, stop) in zip(self.counted.items(), self._ends(), strict=True):
            if weight == 1:  # in whatever order
                self.chosen[place] = np.arange(2 * start + UPPER, 2 * stop + UPPER, 2)
            else:
                part, _ = counted(shelf.places_of(name))
                self.chosen[place] = 2 * in_memory_order(part).reshape(-1) + UPPER
        self.rows = np.empty((_SAMPLES, size), np.uint16)
        self.nbytes = self.rows.nbytes + self.chosen.nbytes if size else 0
        self.clear()

    def _ends(self) -> Iterator[list[int]]:
        """Where the memory of each value begins and ends."""
        for name, ends in zip(self.shelf.arrays, self.shelf.ends.tolist(), strict=True):
            if name in self.counted:
                yield ends

    def clear(self) -> None:
        """Forget what is kept."""
        self.count = 0
        self.low, self.high = np.full(len(self.shelf.arrays), np.inf), np.full(len(self.shelf.arrays), -np.inf)
