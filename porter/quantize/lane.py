# SPDX-License-Identifier: Apache-2.0
"""What one thread of a calibration does with a sample: it runs the model, and looks at the values that come out while
they are in the cache of the core that made them.

What depends on the order of samples (extremes, of which averages may be wanted) is given back, for whoever puts the
samples in order; what does not (counts, extremes of channels) is shown to observers that the threads share.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock

import numpy as np

from porter.graph import Standing
from porter.ops import Array, Value
from porter.quantize.channels import Channels
from porter.quantize.extremes import Look, Row
from porter.quantize.gather import Gather
from porter.quantize.input_scale import LOOK
from porter.quantize.observers import NotFiniteError, Observer, extent
from porter.quantize.taps import Stream, Taps
from porter.threads import cores, threads

__all__ = ["Lane", "Seen", "Shared", "every", "lanes", "locks"]

#: The elements of so many samples are counted at most, evenly spread over all: where these are hundreds, the others
#: would tell little, and counting takes longer than computing. (Extremes are those of all samples.)
_COUNTED = 50
#: So many rows of a map show its channels' deviation.
_MAP_ROWS = 16
#: With more threads, Python's own work for each sample would be what they wait for.
_MOST = 16


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one sample what must be taken in order.

    Fields:
        row: the extremes of all values.
        first: of what the first layer makes of it, where that is looked at, some rows.
        problem: a value that is not finite; the rest was not looked at.
    """

    row: Row
    first: Array | None = None
    problem: NotFiniteError | None = None


@dataclass(frozen=True, slots=True)
class Shared:
    """What all threads of a calibration look at, and show it to.

    Fields:
        names: of the values of which extremes are wanted, in the order of a row.
        lax: those of them that need not be finite.
        once: those that are the same in every sample, seen in the first.
        counted: observers that want the elements of a value, by its name.
        every: they see those of every so manieth sample.
        channels: what sees single channels, by the value's name.
        ranks: the number of axes of these values.
        first: the value that is given back of the first samples.
        locks: by name, to be held while something of it is shown.
    """

    names: Sequence[str]
    lax: Sequence[str]
    once: Collection[str]
    counted: Mapping[str, Observer]
    every: int
    channels: Mapping[str, Channels]
    ranks: Mapping[str, int]
    first: Value | None
    locks: Mapping[str, Lock]


def lanes(taps: Taps, shared: Shared, sample: Sequence[Array]) -> list[Lane]:
    """As many as there are cores for.

    Args:
        sample: inputs that runs can be tried with.
    """
    among = max(threads() or cores(), 2)  # with one thread for an operator, there is another one to look at values
    return [Lane(stream, shared) for stream in taps.side_by_side(min(_MOST, cores(), among), sample)]


@dataclass(frozen=True, slots=True)
class _Part:
    """What is done with some arrays; it is kept where they are the same ones in every sample."""

    arrays: Mapping[str, Array]
    look: Look
    channels: Sequence[tuple[Callable[[], tuple[float, float] | None], int]]
    alone: Sequence[tuple[Observer, Lock, Array, int]]


class Lane:
    """Sees samples, one at a time."""

    def __init__(self, stream: Stream, shared: Shared) -> None:
        self._stream, self._shared = stream, shared
        self._place = {name: place for place, name in enumerate(shared.names)}
        self._lax = [self._place[name] for name in shared.lax]
        self._once = [self._place[name] for name in shared.once if name in self._place]
        self._gather = Gather(shared.counted, shared.locks)
        self._channels = {name: Channels(each.axis) for name, each in shared.channels.items()}
        self._parts: dict[str, _Part] = {}

    def __call__(self, sample: tuple[int, Sequence[Array]]) -> Seen:
        """See a sample of that number. Raises PorterError as the model's run does."""
        index, item = sample
        row = np.full((2, len(self._place)), np.nan)
        first = None
        wanted = self._shared.first if index < LOOK and _varied(item) else None
        for arrays in self._stream(item):
            self._see(self._part(arrays, index), row, index % self._shared.every == 0)
            if wanted is not None and wanted.name in arrays:
                first = _some_rows(arrays[wanted.name], wanted.shape or ())
        strange = ~np.isfinite(row[0] + row[1])
        row[:, strange] = np.nan
        strange[self._lax] = False
        if index:
            strange[self._once] = False
        return Seen(row, first, self._problem(item) if strange.any() else None)

    def _part(self, arrays: Mapping[str, Array], index: int) -> _Part:
        key = next(iter(arrays), "")
        kept = self._parts.get(key)
        if kept is not None and kept.arrays is arrays:
            return kept
        shared = self._shared
        given, stays = arrays, isinstance(arrays, Standing)
        if index and not stays:
            arrays = {name: array for name, array in arrays.items() if name not in shared.once}
        known = {name for name in self._channels.keys() & arrays.keys() if Channels.whole(arrays[name].size)}
        look = Look(arrays, self._place, known)
        channels = [
            (self._seeing(name, arrays[name], stays), self._place[name])
            for name in self._channels.keys() & arrays.keys()
        ]
        gathered = self._gather.keep(look.shelf) if stays and look.shelf is not None else ()
        alone = [
            (observer, shared.locks[name], arrays[name], self._place[name])
            for name, observer in shared.counted.items()
            if name in arrays and name not in gathered
        ]
        part = _Part(given, look, channels, alone)
        if stays:
            self._parts[key] = part
        return part

    def _seeing(self, name: str, array: Array, stays: bool) -> Callable[[], tuple[float, float] | None]:
        channels, rank = self._channels[name], self._shared.ranks[name]
        return channels.watch(array, rank) if stays else partial(channels.observe, array, rank)

    def _see(self, part: _Part, row: Row, counted: bool) -> None:
        for see, place in part.channels:
            ends = see()
            if ends is not None:
                row[:, place] = ends
        part.look.see(row)
        if not counted:
            return
        if part.look.shelf is not None:
            self._gather.take(part.look.shelf, row)
        for observer, lock, array, place in part.alone:
            low, high = row[:, place].tolist()
            if np.isfinite(low + high):
                with lock:
                    observer.fill(array, low, high)

    def _problem(self, item: Sequence[Array]) -> NotFiniteError:
        """With (what, the value's name), of the first value that is not finite."""
        for arrays in self._stream(item):
            for name, array in arrays.items():
                if name in self._place and name not in self._shared.lax:
                    try:
                        extent(array)
                    except NotFiniteError as error:
                        return NotFiniteError(str(error), name)
        raise AssertionError("no value is strange when the sample is run again")

    def flush(self) -> None:
        """Show the observers what waits to be shown with more of its kind. No other lane may be doing so."""
        self._gather.flush()
        for name, each in self._channels.items():
            self._shared.channels[name].merge(each)


def every(samples: int) -> int:
    """Of so many samples, the elements of every so manieth are counted."""
    return max(-(-samples // _COUNTED), 1)


def _some_rows(array: Array, shape: tuple[int, ...]) -> Array:
    """A copy of a value of that shape, (N, channels, ...): of high maps only some rows, evenly spread."""
    if len(shape) < 4:
        return array.reshape(shape).copy()
    some = array[..., :: max(shape[-2] // _MAP_ROWS, 1), :]
    return some.reshape(*shape[:-2], *some.shape[-2:]).copy()


def _varied(item: Sequence[Array]) -> bool:
    """Whether a sample shows anything of the scale of samples."""
    return all(array.min() != array.max() for array in item if array.dtype.kind == "f" and array.size > 1)


def locks(groups: Mapping[str, Sequence[str]]) -> dict[str, Lock]:
    """One for each group, by the names of its values."""
    return {name: lock for names in groups.values() for lock in [Lock()] for name in names}
