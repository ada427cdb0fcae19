# SPDX-License-Identifier: Apache-2.0
"""Ranges of single channels: of the inputs of depthwise convolutions, where a device can have a scale for each.

A depthwise convolution multiplies every channel with weights of its own and adds no two of them, so that a scale for
each channel costs its integers nothing. It costs something elsewhere (onnxruntime has no integer kernel for it), so a
channel gets a scale of its own only where one scale for all leaves the channels too few steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from porter.ops import Array

__all__ = ["FEW", "MARGIN", "Channels"]

Floats = NDArray[np.float64]
#: With fewer steps in its own range than a quarter of the 256, the typical channel is badly off with one scale for all.
FEW = 64.0
#: How far a channel may reach beyond what it was seen to: on a few samples single channels are seen less than all.
MARGIN = 1.25


class Channels:
    """The extremes of every index along one axis.

    Fields:
        axis: which is left over.
        low, high: the extremes of everything observed, (channels,) float64; empty before the first sample.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.count = 0
        self.low: Floats = np.zeros(0)
        self.high: Floats = np.zeros(0)

    def observe(self, x: Array, rank: int) -> None:
        """See one sample of a value that has ``rank`` axes; in an array of one more, ``axis`` is two, as
        :meth:`porter.graph.Graph.stream` says."""
        low, high = _extremes(x, self.axis, x.ndim > rank)
        if not self.count:
            self.low, self.high = low.astype(np.float64), high.astype(np.float64)
        else:
            self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.count += 1

    def steps(self, step: float) -> float:
        """How many steps of this size the median channel's range has; channels that are always 0 do not count."""
        width = np.maximum(self.high, 0) - np.minimum(self.low, 0)
        alive = width[width > 0]
        return float(np.median(alive)) / step if alive.size else np.inf

    def state(self) -> dict[str, Array]:
        """Plain arrays that :meth:`restore` makes an equal object of."""
        return {"count": np.array(self.count, np.int64), "extremes": np.stack([self.low, self.high])}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Become the object, of the same axis, whose :meth:`state` this is."""
        self.count = int(state["count"])
        self.low, self.high = state["extremes"]


def _extremes(x: Array, axis: int, blocked: bool) -> tuple[Array, Array]:
    """The smallest and the largest element of each index along an axis, or along it and the next one together."""
    if not blocked:
        rows = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
        return rows.min(1), rows.max(1)
    # The second half of the axis lies innermost in memory: first along the axis before it, whose steps are long.
    others = [other for other in range(x.ndim) if other not in (axis, axis + 1)]
    memory = x.transpose([axis, *others, axis + 1])
    count, width, size = memory.shape[0], memory.shape[-2], memory.shape[-1]
    long = memory.reshape(count, -1, width * size)
    low, high = (ends.reshape(count, width, size) for ends in (long.min(1), long.max(1)))
    return low.min(1).reshape(-1), high.max(1).reshape(-1)
