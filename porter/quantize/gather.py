# SPDX-License-Identifier: Apache-2.0
"""Many small tensors side by side in memory, kept for some samples until histograms count their elements.

To call what counts a small tensor takes longer than to count it. So the tensors of a sample are copied at once (of each
element the half that histograms look at), and each is counted for many samples at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from porter.quantize.extremes import Shelf
from porter.quantize.histogram import MANY, upper_halves
from porter.quantize.observers import Observer

__all__ = ["Gather"]

#: Bytes that are kept, and samples; more of these save nothing.
_BYTES, _SAMPLES = 1 << 25, 16


class Gather:
    """Keeps the arrays of a shelf, where of none only a sample would be counted, for observers that count.

    Args:
        observers: by the name of a value.
    """

    def __init__(self, observers: Mapping[str, Observer]) -> None:
        self._observers = observers
        self._shelf: Shelf | None = None
        self._rows: NDArray[np.uint16] = np.empty((0, 0), np.uint16)
        self._low: NDArray[np.float64] = np.empty(0)
        self._high: NDArray[np.float64] = np.empty(0)
        self._count = 0

    def take(self, shelf: Shelf, low: NDArray[np.float64], high: NDArray[np.float64]) -> Collection[str]:
        """Keep what lies on a shelf, of which ``low`` and ``high`` are the extremes; the names of what will be counted:
        none where the shelf, or something on it, is too large."""
        size = shelf.memory.size
        if not self._observers or shelf.largest > MANY or 2 * size > _BYTES:
            return ()
        if self._shelf is None or not shelf.alike(self._shelf):
            self.flush()
            self._shelf, self._rows = shelf, np.empty((min(_SAMPLES, _BYTES // (2 * size)), size), np.uint16)
        if not self._count:
            self._low, self._high = low, high
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
        self._rows[self._count] = upper_halves(shelf.memory)
        self._count += 1
        if self._count == len(self._rows):
            self.flush()
        return shelf.arrays.keys()

    def flush(self) -> None:
        """Show the observers what is kept."""
        if self._shelf is None or not self._count:
            return
        ends = self._shelf.ends.tolist()
        for name, (start, stop), low, high in zip(self._shelf.arrays, ends, self._low, self._high, strict=True):
            if name in self._observers:
                self._observers[name].fill_halves(self._rows[: self._count, start:stop], float(low), float(high))
        self._count = 0
