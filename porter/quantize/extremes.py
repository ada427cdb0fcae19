# SPDX-License-Identifier: Apache-2.0
"""The extremes of many values of one sample after another, kept in rows that observers are shown many at a time.

A network of hundreds of small tensors runs in a millisecond or two. Bookkeeping in Python for each of them would take
longer than that, so it is done for all at once, or for many samples at once.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from porter.ops import Array
from porter.quantize.derive import Derived

__all__ = ["Block", "Look", "Row", "Rows", "Shelf"]

#: Samples after which observers are shown what was seen.
_ROWS = 512
#: Elements of which a processor's cache holds twice as many for sure.
_PIECE = 1 << 17


#: A row: the smallest and the largest element of every value of one sample, (2, values); NaN where it was not seen.
Row = NDArray[np.float64]


class Look:
    """How the extremes of some arrays are found. It is made once for arrays that are the same objects, with other
    numbers, in every sample, as those of a stream are.

    Args:
        arrays: by name.
        place: where each value is in a row; others are not looked at.
        known: those whose extremes come from elsewhere.

    Fields:
        shelf: those that lie side by side in memory.
    """

    def __init__(self, arrays: Mapping[str, Array], place: Mapping[str, int], known: Container[str] = ()) -> None:
        mine = {name: array for name, array in arrays.items() if name in place and name not in known}
        self.shelf = Shelf.of(mine, place)
        on_shelf = self.shelf.arrays if self.shelf is not None else {}
        self._others = [(place[name], array) for name, array in mine.items() if name not in on_shelf]

    def see(self, row: Row) -> None:
        """Write the extremes, as they are now, into a row."""
        if self.shelf is not None:
            row[:, self.shelf.places] = self.shelf.extremes()
        for place, array in self._others:
            row[:, place] = array.min(), array.max()


class Block(NamedTuple):
    """The smallest and the largest element of values, (values, samples); NaN where a sample has none."""

    names: list[str]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class Rows:
    """The rows of some samples.

    Args:
        names: of the values of a row.
        easy: further values, whose extremes follow from others.
    """

    def __init__(self, names: Sequence[str], easy: Sequence[Derived] = ()) -> None:
        self.names = [*names, *(each.name for each in easy)]
        self._levels = _levels(easy, {name: place for place, name in enumerate(self.names)})
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        """The next sample's."""
        self._rows.append(row)

    @property
    def full(self) -> bool:
        """Whether it is time to take them."""
        return len(self._rows) >= _ROWS

    def take(self) -> Block:
        """All rows. None is left."""
        known = self._rows[0].shape[1] if self._rows else 0
        rows = np.full((len(self._rows), 2, len(self.names)), np.nan)
        for whole, row in zip(rows, self._rows, strict=True):
            whole[:, :known] = row
        for function, places, sources in self._levels:
            rows[:, :, places] = function.of(rows[:, :, sources].astype(np.float32))
        self._rows = []
        return Block(self.names, rows[:, 0].T, rows[:, 1].T)


@dataclass(frozen=True, slots=True)
class Shelf:
    """Arrays side by side in one memory, of which one call of numpy finds all extremes: with hundreds of small ones,
    that takes half the time.

    Fields:
        arrays: by name.
        places: of their values in a row.
        memory: float32, from the first to the end of the last.
        ends: where each begins and ends in it, (arrays, 2).
        pieces: the arrays in pieces that fit into a processor's cache together: the memory from the first to the end of
            the last of some, and where each begins and ends in it, but for the last end.
        first: the number of each array's first piece.
    """

    arrays: dict[str, Array]
    places: NDArray[np.intp]
    memory: Array
    ends: NDArray[np.intp]
    pieces: list[tuple[Array, NDArray[np.intp]]]
    first: NDArray[np.intp]

    def extremes(self) -> tuple[Array, Array]:
        """The smallest and the largest element of each array."""
        if len(self.pieces) == 1 and len(self.first) == len(self.pieces[0][1]) // 2 + 1:
            ((memory, bounds),) = self.pieces
            return np.minimum.reduceat(memory, bounds)[::2], np.maximum.reduceat(memory, bounds)[::2]
        low, high = [], []
        for memory, bounds in self.pieces:  # the second look finds in the cache what the first one fetched
            low.append(np.minimum.reduceat(memory, bounds)[::2])
            high.append(np.maximum.reduceat(memory, bounds)[::2])
        return (
            np.minimum.reduceat(np.concatenate(low), self.first),
            np.maximum.reduceat(np.concatenate(high), self.first),
        )

    def places_of(self, name: str) -> NDArray[np.int64]:
        """Where in the memory each element of an array is: an array of its shape, whose memory is in the same order."""
        array = self.arrays[name]
        start = (array.__array_interface__["data"][0] - self.memory.__array_interface__["data"][0]) // 4
        places = np.arange(start, start + array.size)
        return as_strided(places, array.shape, [2 * stride for stride in array.strides])

    @staticmethod
    def of(arrays: Mapping[str, Array], place: Mapping[str, int]) -> Shelf | None:
        """The dense ones of float32 that are parts of the same bytes as the first of them; None for fewer than two."""
        parts = {n: a for n, a in arrays.items() if isinstance(a.base, np.ndarray) and a.base.dtype == np.uint8}
        base = next((array.base for array in parts.values()), None)
        if base is None or not base.flags.c_contiguous:
            return None
        start = base.__array_interface__["data"][0]
        found: list[tuple[int, int, str]] = []
        for name, array in parts.items():
            at = array.__array_interface__["data"][0] - start
            dense = np.may_share_memory(array.ravel(order="K"), array)
            if array.base is base and array.dtype == np.float32 and dense:
                found.append((at, at + array.nbytes, name))
        found.sort()
        apart = all(before[1] <= after[0] for before, after in pairwise(found))
        first = found[0][0] if found else 0
        if len(found) < 2 or not apart or any((at - first) % 4 for at, _, _ in found):
            return None
        memory = base.reshape(-1)[first : found[-1][1]].view(np.float32)
        names = [name for _, _, name in found]
        ends = np.array([(at - first, stop - first) for at, stop, _ in found], np.intp) // 4
        cuts = [range(begin, end, _PIECE) for begin, end in ends.tolist()]
        pieces = [(at, min(at + _PIECE, cut.stop)) for cut in cuts for at in cut]
        return Shelf(
            {name: arrays[name] for name in names},
            np.array([place[name] for name in names], np.intp),
            memory,
            ends,
            [_run(memory, run) for run in _runs(pieces)],
            np.cumsum([0, *(len(cut) for cut in cuts[:-1])]),
        )


def _runs(pieces: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Pieces that follow each other, as many at a time as the cache holds."""
    run: list[tuple[int, int]] = []
    for piece in pieces:
        if run and piece[1] - run[0][0] > 2 * _PIECE:
            yield run
            run = []
        run.append(piece)
    yield run


def _run(memory: Array, pieces: Sequence[tuple[int, int]]) -> tuple[Array, NDArray[np.intp]]:
    start, stop = pieces[0][0], pieces[-1][1]
    return memory[start:stop], np.array([end - start for piece in pieces for end in piece][:-1], np.intp)


def _levels(easy: Sequence[Derived], place: Mapping[str, int]) -> list[tuple[Derived, list[int], list[int]]]:
    """Derived values in steps, each of one function (shown by the first of its values), in which none needs another of
    its step: (first, places of the values, places of their sources)."""
    depth: dict[str, int] = {}
    steps: dict[tuple[int, str, str], tuple[Derived, list[int], list[int]]] = {}
    for each in easy:
        depth[each.name] = level = depth.get(each.source, 0) + 1
        key = level, each.op.kind, repr(sorted(each.op.attrs.items()))
        step = steps.setdefault(key, (each, [], []))
        step[1].append(place[each.name])
        step[2].append(place[each.source])
    return [steps[key] for key in sorted(steps)]
