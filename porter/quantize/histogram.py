# SPDX-License-Identifier: Apache-2.0
"""A streaming histogram of signed values, and what quantization would cost the values in it. numpy only.

Bins are logarithmic: 128 to the octave, for each sign. A value's bin is the upper half of its float32 (sign, exponent
and the 7 leading bits of the mantissa), so counting needs no arithmetic, no limit that is known before, and no
rebinning when a larger value comes: an outlier costs the small values none of their resolution.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from porter.ops import Array

__all__ = ["UPPER", "Histogram", "Side", "counted", "in_memory_order", "upper_halves"]

_PER_OCTAVE = 128
#: Octaves below the largest value that are told apart; what is smaller counts as 0. An int16 range a millionth of the
#: extremes still has its last step resolved: 15 bits of the dtype and 20 of the outlier.
_OCTAVES = 40
_BINS = _PER_OCTAVE * _OCTAVES
#: Which of the two halves of a float32 in memory is the upper one.
UPPER = 1 if sys.byteorder == "little" else 0
_HALVES = np.dtype([(half, np.uint16) for half in (("lower", "upper") if UPPER else ("upper", "lower"))])
_NEGATIVE = 0x8000
#: Elements counted at a time: their int64 copy (512 kB) stays in the cache.
_CHUNK = 1 << 16
#: Of large arrays every so manieth place is counted, as so many. (Rows of usual shapes are no multiple of these.)
_STRIDES = (41, 23, 11, 7, 5, 3)
#: So many elements of an array are counted at least.
_LEAST = 1 << 14
#: Of maps of height and width, a place for all channels; so many places remain at least, for one of such a stride.
_PLACES = 4
#: Arrays with fewer elements are gathered first: the 64 thousand counters of a bincount cost as much as they do.
_GATHER = 1 << 16


class Side(NamedTuple):
    """The occupied bins of one sign, by magnitude: ``number[i]`` values in [``low[i]``, ``high[i]``], float64.

    The first and last bin are cut to the extremes that were really seen.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    number: NDArray[np.float64]

    def merged(self, per_octave: int) -> Side:
        """The same in fewer bins: ``per_octave`` (under 128) of even ratio to an octave."""
        if self.number.size == 0:
            return self
        place = np.floor(np.log2(self.low) * per_octave)
        starts = np.flatnonzero(np.diff(place, prepend=-np.inf))
        ends = np.append(starts[1:], self.low.size) - 1
        return Side(self.low[starts], self.high[ends], np.add.reduceat(self.number, starts))

    def error(self, step: float, top: float) -> float:
        """The sum of squared errors when the values are rounded to multiples of ``step`` and cut at ``top``.

        Values are taken as spread evenly over their bin; over an even spread the integral of ``(x - round(x))**2``
        has a closed form, so the result is exact however many steps a bin spans, or bins a step.
        """
        if self.number.size == 0:
            return 0.0
        width = self.high - self.low
        point = width == 0
        middle = np.minimum(np.rint(self.low / step) * step, top)
        spread = (_integral(self.high, step, top) - _integral(self.low, step, top)) / np.where(point, 1.0, width)
        return float(self.number @ np.where(point, (self.low - middle) ** 2, np.maximum(spread, 0.0)))


def _integral(x: NDArray[np.float64], step: float, top: float) -> NDArray[np.float64]:
    """The integral over 0..x of the squared error of rounding to multiples of ``step`` and cutting at ``top``, a
    multiple of it."""
    units = np.minimum(x, top) / step
    whole = np.rint(units)
    part, beyond = units - whole, np.maximum(x - top, 0.0)
    inside = step**3 * (whole / 12 + part * part * part / 3)  # numpy's own power of arrays is far slower
    return np.asarray(inside + beyond * beyond * beyond / 3)


class _Scratch(threading.local):
    """Memory of each thread: to get it from the system for each call takes longer than counting."""

    def __init__(self) -> None:
        self.place, self.sign = np.empty(_CHUNK, np.uint16), np.empty(_CHUNK, np.uint16)
        self.mask, self.wide = np.empty(_CHUNK, np.int16), np.empty(_CHUNK, np.int64)


_SCRATCH = _Scratch()


class Histogram:
    """Counts of signed values. State does not grow with the stream, and :meth:`merge` is exact: in which order arrays
    come, and in how many histograms, changes nothing. Of arrays of more than 49,152 elements a share is counted: see
    :func:`counted`.
    """

    def __init__(self) -> None:
        self._floor = 0  # biased exponent of the first octave; 0: only zeros so far
        self._counts: NDArray[np.int64] = np.zeros((2, _BINS), np.int64)
        self._zeros = 0
        self._low, self._high = np.inf, -np.inf
        self._gathered: NDArray[np.uint16] | None = None
        self._waiting, self._weight = 0, 1

    @property
    def total(self) -> int:
        """The number of values."""
        return int(self._counts.sum()) + self._zeros + self._waiting * self._weight

    @property
    def zeros(self) -> int:
        """How many are 0, or more than 2**39 times (11 decimal orders) smaller than the largest."""
        self._flush()
        return self._zeros

    def add(self, x: Array, low: float, high: float) -> None:
        """Count the elements of ``x``: finite, of any shape, the smallest ``low`` and the largest ``high``."""
        part, weight = counted(np.asarray(x, np.float32))
        self.add_halves(upper_halves(part), weight, low, high)

    def add_halves(self, halves: NDArray[np.uint16], weight: int, low: float, high: float) -> None:
        """Count elements of which these are the :func:`upper_halves`, each ``weight`` times."""
        self._widen(low, high)
        if halves.size >= _GATHER:
            for some in _chunks(halves):
                self._count(some, weight)
            return
        if self._gathered is None:
            self._gathered = np.empty(_GATHER, np.uint16)
        end = self._waiting + halves.size
        if end > _GATHER or weight != self._weight:
            self._flush()
            end, self._weight = halves.size, weight
        np.copyto(self._gathered[self._waiting : end].reshape(halves.shape), halves)
        self._waiting = end

    def merge(self, other: Histogram) -> None:
        """Count everything that ``other`` has counted."""
        other._flush()
        self._flush()
        if other.total == 0:
            return
        self._widen(other._low, other._high)
        self._zeros += other._zeros
        if other._floor:
            shift = (self._floor - other._floor) * _PER_OCTAVE
            kept = other._counts[:, shift:]
            self._counts[:, : kept.shape[1]] += kept
            self._zeros += int(other._counts[:, :shift].sum())

    def mapped(self, function: Callable[[Array], Array]) -> Histogram:
        """The histogram of what a function that never falls makes of the values: float32 to float32, applied to each
        element. What it makes of a bin is counted where the middle of the bin falls."""
        self._flush()
        made = Histogram()
        if not self.total:
            return made
        low, high = function(np.array([self._low, self._high], np.float32)).tolist()
        sides = self.sides()
        positive, negative = ((side.low + side.high) / 2 for side in sides)
        middles = np.concatenate([[0.0], positive, -negative]).astype(np.float32)
        numbers = np.concatenate([[self._zeros], *(side.number for side in sides)])
        values = np.clip(function(middles), low, high).astype(np.float32)
        made._widen(low, high)
        if made._floor == 0:
            made._zeros = int(numbers.sum())
            return made
        codes = upper_halves(values).astype(np.int64)
        places = np.maximum((codes & (_NEGATIVE - 1)) - made._floor * _PER_OCTAVE + 1, 0) + (codes >> 15) * (1 + _BINS)
        made._add(np.bincount(places, numbers, 2 * (1 + _BINS)).astype(np.int64), 1)
        return made

    def _widen(self, low: float, high: float) -> None:
        self._low, self._high = min(self._low, low), max(self._high, high)
        top = np.float32(max(abs(low), abs(high)))
        octave = int(top.view(np.uint32)) >> 23
        floor = max(octave - _OCTAVES + 1, 1)
        if octave == 0 or floor <= self._floor:  # zeros (and numbers too small for float32's normal range)
            return
        if self._floor:
            shift = (floor - self._floor) * _PER_OCTAVE
            self._zeros += int(self._counts[:, :shift].sum())
            moved = np.zeros_like(self._counts)
            moved[:, : max(_BINS - shift, 0)] = self._counts[:, shift:]
            self._counts = moved
        self._floor = floor

    def _count(self, codes: NDArray[np.uint16], weight: int) -> None:
        """Count elements of which these are the upper halves: at most a chunk."""
        if self._floor == 0:
            self._zeros += codes.size * weight
            return
        # Fewer counters than 65,536: each thread gets those from the system anew, which takes longer than counting.
        memory = _SCRATCH
        place, sign, mask, wide = (part[: codes.size] for part in (memory.place, memory.sign, memory.mask, memory.wide))
        np.copyto(place.reshape(codes.shape), codes)
        np.right_shift(place, 15, out=sign)
        np.multiply(sign, 1 + _BINS, out=sign)
        np.bitwise_and(place, _NEGATIVE - 1, out=place)
        np.subtract(place, self._floor * _PER_OCTAVE - 1, out=place)
        signed = place.view(np.int16)
        np.invert(np.right_shift(signed, 15, out=mask), out=mask)
        np.bitwise_and(signed, mask, out=signed)  # max(signed, 0), which numpy has no fast form of
        np.add(place, sign, out=place)
        np.copyto(wide, place)
        self._add(np.bincount(wide, minlength=2 * (1 + _BINS)), weight)

    def _add(self, counts: NDArray[np.int64], weight: int) -> None:
        """Add counts of both signs: of what is too small for a bin, then of each bin."""
        both = counts[: 2 * (1 + _BINS)].reshape(2, 1 + _BINS)
        if weight != 1:
            both *= weight
        self._zeros += int(both[:, 0].sum())
        self._counts += both[:, 1:]

    def _flush(self) -> None:
        if self._waiting and self._gathered is not None:
            codes, self._waiting = self._gathered[: self._waiting], 0
            self._count(codes, self._weight)

    # -- what the counts say -----------------------------------------------------------------------

    def sides(self) -> tuple[Side, Side]:
        """The positive values, and the negative ones by magnitude. Zeros are in neither."""
        self._flush()
        low, high = self._low, self._high
        return self._side(0, max(low, 0.0), max(high, 0.0)), self._side(1, max(-high, 0.0), max(-low, 0.0))

    def _side(self, side: int, least: float, most: float) -> Side:
        used = np.flatnonzero(self._counts[side])
        if used.size == 0:
            empty = np.zeros(0)
            return Side(empty, empty, empty)
        edges = (self._floor * _PER_OCTAVE + np.stack([used, used + 1])).astype(np.uint32) << 16
        low, high = np.clip(edges.view(np.float32).astype(np.float64), least, most)
        return Side(low, high, self._counts[side, used].astype(np.float64))

    def quantile(self, fraction: float) -> float:
        """The smallest bound below which at least ``fraction`` of all |x| lie, to the upper edge of a bin (1/128 of
        the value) and never beyond the extremes."""
        ends, counts = _by_size(self.sides(), self.zeros)
        return float(ends[_reach(counts, fraction)])

    def interval(self, fraction: float) -> tuple[float, float]:
        """(minimum, maximum) between which at least ``fraction`` of all values lie, half of the rest on either side;
        precision as of :meth:`quantile`."""
        positive, negative = self.sides()
        tail = (1 - fraction) / 2
        ends = np.concatenate([negative.high[::-1] * -1, [0.0], positive.high])
        starts = np.concatenate([negative.low[::-1] * -1, [0.0], positive.low])
        counts = np.concatenate([negative.number[::-1], [self.zeros], positive.number])
        high = float(np.maximum(ends, starts)[_reach(counts, 1 - tail)])
        low = float(np.minimum(ends, starts)[::-1][_reach(counts[::-1], 1 - tail)])
        return low, high

    def linear(self, bins: int) -> NDArray[np.float64]:
        """Counts of non-zero |x| in ``bins`` equal bins over 0..absmax; a bin of this histogram that spans several is
        spread evenly."""
        positive, negative = self.sides()
        top = max(self._high, -self._low)
        edges = np.linspace(0.0, top, bins + 1)
        counts = np.zeros(bins)
        for side in (positive, negative):
            if side.number.size == 0:
                continue
            point = side.low == side.high
            places = np.minimum((side.low[point] / top * bins).astype(np.int64), bins - 1)
            np.add.at(counts, places, side.number[point])
            low, high, count = side.low[~point], side.high[~point], side.number[~point]
            if count.size:
                corners = np.stack([low, high], 1).reshape(-1)
                below = np.cumsum(np.stack([np.zeros_like(count), count], 1).reshape(-1))
                counts += np.diff(np.interp(edges, corners, below))
        return counts

    # -- saving ------------------------------------------------------------------------------------

    def state(self) -> dict[str, Array]:
        """Arrays from which :meth:`restore` makes an equal histogram."""
        self._flush()
        used = np.flatnonzero(self._counts)
        return {
            "histogram_bins": used.astype(np.int32),
            "histogram_counts": self._counts.reshape(-1)[used],
            "histogram_zeros": np.array([self._floor, self._zeros], np.int64),
            "histogram_extremes": np.array([self._low, self._high], np.float64),
        }

    def restore(self, state: Mapping[str, Array]) -> None:
        """Become what :meth:`state` was called on. Raises KeyError or ValueError when ``state`` is something else."""
        counts = np.zeros(2 * _BINS, np.int64)
        counts[state["histogram_bins"]] = state["histogram_counts"]
        self._counts = counts.reshape(2, _BINS)
        self._floor, self._zeros = (int(v) for v in state["histogram_zeros"])
        self._low, self._high = (float(v) for v in state["histogram_extremes"])
        self._waiting = 0


def counted(x: Array) -> tuple[Array, int]:
    """The elements of an array that are counted, as a view where they lie densely in memory, and how many times each.

    At least 16,384 of an array are. The choice follows from the shape alone; in an array whose channels lie in
    blocks, with an axis as two, the same elements are chosen. Of four axes and more, the last two are height and width.
    """
    places = prod(x.shape[-2:]) if x.ndim > 3 else x.size
    stride = next((s for s in _STRIDES if x.size >= s * _LEAST and places >= s * _PLACES), 1)
    if stride == 1:
        return x, 1
    return x.reshape(*x.shape[:-2], -1)[..., ::stride] if x.ndim > 3 else x.reshape(-1)[::stride], stride


def upper_halves(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Of each element the half that says its bin: a view, with the axes in the order of memory."""
    return in_memory_order(x).view(_HALVES)["upper"]


def in_memory_order(x: Array) -> Array:
    """A view with the axes in the order of memory."""
    return x.transpose(sorted(range(x.ndim), key=lambda axis: -x.strides[axis]))


def _chunks(codes: NDArray[np.uint16]) -> Iterator[NDArray[np.uint16]]:
    """Views of at most a chunk."""
    if codes.size <= _CHUNK:
        yield codes
        return
    each = codes.size // len(codes)
    if each > _CHUNK:
        for part in codes:
            yield from _chunks(part)
        return
    step = _CHUNK // each
    for start in range(0, len(codes), step):
        yield codes[start : start + step]


def _by_size(sides: tuple[Side, Side], zeros: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Upper bounds of |x| in rising order, and how many values each bin holds."""
    ends = np.concatenate([[0.0], *(side.high for side in sides)])
    counts = np.concatenate([[float(zeros)], *(side.number for side in sides)])
    order = np.argsort(ends, kind="stable")
    return ends[order], counts[order]


def _reach(counts: NDArray[np.float64], fraction: float) -> int:
    """The first index up to which at least ``fraction`` of all counts lie."""
    total = np.cumsum(counts)
    # A count that float64 rounding puts just under the wanted one is the wanted one.
    return min(int(np.searchsorted(total, fraction * total[-1] * (1 - 1e-12), side="left")), counts.size - 1)
