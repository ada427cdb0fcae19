# SPDX-License-Identifier: Apache-2.0
"""Ranges of single channels: of the inputs of depthwise convolutions, where a device can have a scale for each.

A depthwise convolution multiplies every channel with weights of its own and adds no two of them, so that a scale for
each channel costs its integers nothing. It costs something elsewhere (onnxruntime has no integer kernel for it), so a
channel gets a scale of its own only where one scale for all leaves the channels too few steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from porter.ops import Array

__all__ = ["FEW", "MARGIN", "Channels"]

Floats = NDArray[np.float64]
#: With fewer steps in its own range than a quarter of the 256, the typical channel is badly off with one scale for all.
FEW = 64.0
#: How far a channel may reach beyond what it was seen to: on a few samples single channels are seen less than all.
MARGIN = 1.25


#: Elements of a tensor that is compared to what was seen before as a whole, which for small ones takes half the time.
_SMALL = 1 << 16
#: Elements that a core's cache holds.
_CACHED = 1 << 17


class Channels:
    """The extremes of every index along one axis.

    Fields:
        axis: which is left over.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self._low: Floats = np.zeros(0)
        self._high: Floats = np.zeros(0)
        self._watched: list[_Watched] = []

    @staticmethod
    def whole(size: int) -> bool:
        """Whether the extremes of a tensor of so many elements come with those of its channels."""
        return size > _SMALL

    def watch(self, x: Array, rank: int) -> Callable[[], tuple[float, float] | None]:
        """What sees the elements of ``x`` as they are when it is called: one sample of a value that has ``rank`` axes;
        in an array of one more, ``axis`` is two, as :meth:`porter.graph.Graph.streams` says.

        It gives the (minimum, maximum) of all, where that is :meth:`whole`.
        """
        watched = _Watched(x, self.axis, x.ndim > rank)
        self._watched.append(watched)
        return watched.see

    def observe(self, x: Array, rank: int) -> tuple[float, float] | None:
        """See one sample, as what :meth:`watch` gives does."""
        watched = _Watched(x, self.axis, x.ndim > rank)
        whole = watched.see()
        self._take(watched)
        return whole

    def _widen(self, low: Array, high: Array) -> None:
        if not self._low.size:
            self._low, self._high = low.astype(np.float64), high.astype(np.float64)
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)

    def _settle(self) -> None:
        for watched in self._watched:
            self._take(watched)

    def _take(self, watched: _Watched) -> None:
        if watched.low is not None and watched.high is not None:
            self._widen(watched.ends(watched.low, np.minimum), watched.ends(watched.high, np.maximum))

    @property
    def low(self) -> Floats:
        """The smallest of everything observed, (channels,); empty before the first sample."""
        self._settle()
        return self._low

    @property
    def high(self) -> Floats:
        """The largest of everything observed, (channels,); empty before the first sample."""
        self._settle()
        return self._high

    def merge(self, other: Channels) -> None:
        """See everything that ``other``, of the same axis, has seen."""
        self._settle()
        if other.low.size:
            self._widen(other.low, other.high)

    def steps(self, step: float) -> float:
        """How many steps of this size the median channel's range has; channels that are always 0 do not count."""
        width = np.maximum(self.high, 0) - np.minimum(self.low, 0)
        alive = width[width > 0]
        return float(np.median(alive)) / step if alive.size else np.inf

    def state(self) -> dict[str, Array]:
        """Plain arrays that :meth:`restore` makes an equal object of."""
        return {"extremes": np.stack([self.low, self.high])}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Become the object, of the same axis, whose :meth:`state` this is."""
        self._watched = []
        self._low, self._high = state["extremes"]


class _Watched:
    """The extremes of an array that holds one sample after another, not yet reduced to those of its channels.

    Args:
        x, axis, blocked: as for :func:`_rows`.
    """

    def __init__(self, x: Array, axis: int, blocked: bool) -> None:
        self._source = x, axis, blocked
        rows, self._width = _rows(*self._source)
        self._rows = rows if np.may_share_memory(rows, x) else None
        self.low: Array | None = None
        self.high: Array | None = None
        self._whole = Channels.whole(x.size)
        count, _, length = rows.shape
        self._ends = np.empty((2, count, length if self._whole else 0), x.dtype)
        step = max(_CACHED * count // x.size, 1)
        self._parts = [
            (slice(start, start + step), *self._ends[:, start : start + step]) for start in range(0, count, step)
        ]

    def see(self) -> tuple[float, float] | None:
        rows = _rows(*self._source)[0] if self._rows is None else self._rows
        low = high = rows
        if self._whole:
            for part, least, most in self._parts:  # the second look finds in the cache what the first one fetched
                np.minimum.reduce(rows[part], 1, out=least)
                np.maximum.reduce(rows[part], 1, out=most)
            low, high = self._ends
        if self.low is None or self.high is None:
            self.low, self.high = low.copy("K"), high.copy("K")
        else:
            np.minimum(self.low, low, out=self.low)
            np.maximum(self.high, high, out=self.high)
        return (float(low.min()), float(high.max())) if self._whole else None

    def ends(self, seen: Array, function: np.ufunc) -> Array:
        """Of each channel."""
        if not self._whole:
            seen = function.reduce(seen, 1)
        return np.asarray(function.reduce(seen.reshape(len(seen), -1, self._width), 1).reshape(-1))


def _rows(x: Array, axis: int, blocked: bool) -> tuple[Array, int]:
    """An array as (channels / width, rows, length of a row), where every so manieth (width) element of a row is of the
    same channel; and the width. A view, where its axes can be merged. Channels are along an axis, or along it and the
    next one, which then lies innermost in memory."""
    if not blocked:
        return np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1, 1), 1
    others = [other for other in range(x.ndim) if other not in (axis, axis + 1)]
    memory = x.transpose([axis, *others, axis + 1])
    count, length, width = memory.shape[0], memory.shape[-2], memory.shape[-1]
    return memory.reshape(count, -1, length * width), width
