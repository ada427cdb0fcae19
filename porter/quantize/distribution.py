# SPDX-License-Identifier: Apache-2.0
"""How the values of one tensor are spread, kept small enough for a report. numpy only."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from porter.ops import Array

__all__ = ["Distribution"]

#: Bars of a report's histogram.
BINS = 96


class Distribution:
    """A histogram of ``bins`` equal bins over [low, high], streaming.

    What lies outside of it is counted in ``below`` and ``above``, so that nothing is lost silently; ``clipped`` counts
    what lies outside ``chosen``, the values that round to an integer in range; ``zeros`` exact zeros, which rectified
    tensors are full of.
    """

    def __init__(self, low: float, high: float, chosen: tuple[float, float], bins: int = BINS) -> None:
        if not low < high:  # a constant tensor: one bar in the middle
            pad = abs(low) or 1.0
            low, high = low - pad, low + pad
        self.low, self.high = float(low), float(high)
        self.counts: NDArray[np.int64] = np.zeros(bins, np.int64)
        self.chosen = chosen
        self.below = self.above = self.zeros = self.clipped = 0

    def add(self, x: Array) -> None:
        """Count every element of ``x`` (finite, any shape)."""
        flat = np.asarray(x, np.float64).ravel()
        self.below += int((flat < self.low).sum())
        self.above += int((flat > self.high).sum())
        self.zeros += int((flat == 0).sum())
        self.clipped += int(((flat < self.chosen[0]) | (flat > self.chosen[1])).sum())
        counts, _ = np.histogram(flat, len(self.counts), (self.low, self.high))
        self.counts += cast(NDArray[np.int64], counts)

    @property
    def total(self) -> int:
        return int(self.counts.sum()) + self.below + self.above

    def to_json(self) -> dict[str, Any]:
        return {
            "low": self.low,
            "high": self.high,
            "counts": self.counts.tolist(),
            "below": self.below,
            "above": self.above,
            "zeros": self.zeros,
            "clipped": self.clipped,
            "chosen": list(self.chosen),
        }
