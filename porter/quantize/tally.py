# SPDX-License-Identifier: Apache-2.0
"""What values were over all samples: their extremes, and how large they are from sample to sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from porter.ops import Array
from porter.quantize.extremes import Block

__all__ = ["Tally"]

Floats = NDArray[np.float64]


class Tally:
    """Running numbers of values, (values,) each.

    Fields:
        names: of the values.
        low, high: the extremes, float64; infinity and -infinity where nothing was seen.
        count: how many samples have the value, int64.
        top: the largest absmax of a sample, float64.
        top_at: the number of that sample among those that have the value, int64.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = list(names)
        size = len(self.names)
        self.low, self.high = np.full(size, np.inf), np.full(size, -np.inf)
        self.count, self.top_at = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self.top, self._logs = np.zeros(size), np.zeros(size)

    def add(self, block: Block) -> None:
        """See the extremes of the values in further samples."""
        has = ~np.isnan(block.low)
        absmax = np.where(has, np.maximum(block.high, -block.low), 0.0)
        self.low = np.minimum(self.low, np.where(has, block.low, np.inf).min(1, initial=np.inf))
        self.high = np.maximum(self.high, np.where(has, block.high, -np.inf).max(1, initial=-np.inf))
        logs = np.where(has, np.log(np.maximum(absmax, 1e-30)), 0.0)
        # One after the other, as a sum in pairs would depend on how many there are.
        self._logs = np.cumsum(np.concatenate([self._logs[:, None], logs], 1), 1)[:, -1]
        if absmax.size:
            at = absmax.argmax(1)
            number = np.take_along_axis(np.cumsum(has, 1), at[:, None], 1)[:, 0] - 1
            largest = absmax.max(1)
            self.top_at = np.where(largest > self.top, self.count + number, self.top_at)
            self.top = np.maximum(self.top, largest)
        self.count = self.count + has.sum(1)

    @property
    def seen(self) -> dict[str, tuple[float, float]]:
        """The extremes of the values that were seen."""
        pairs = zip(self.names, self.low.tolist(), self.high.tolist(), strict=True)
        return {name: (low, high) for name, low, high in pairs if low <= high}

    @property
    def ratios(self) -> Floats:
        """The largest sample as a multiple of the typical one (the geometric mean of absmax); 1 where none is."""
        typical = np.exp(self._logs / np.maximum(self.count, 1))
        return np.where((self.count > 0) & (self.top > 0), self.top / typical, 1.0)

    def state(self) -> dict[str, Array]:
        """Plain arrays that :meth:`restore` makes an equal object of, for the same values."""
        floats = np.stack([self.low, self.high, self.top, self._logs])
        return {"tally": floats, "tally_counts": np.stack([self.count, self.top_at])}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Become the object whose :meth:`state` this is."""
        self.low, self.high, self.top, self._logs = arrays["tally"]
        self.count, self.top_at = arrays["tally_counts"]
