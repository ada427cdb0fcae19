# SPDX-License-Identifier: Apache-2.0
"""The extremes of many values of one sample after another, kept in rows that observers are shown many at a time.

A network of hundreds of small tensors runs in a millisecond or two. Bookkeeping in Python for each of them would take
longer than that, so it is done for all at once, or for many samples at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from porter.ops import Array
from porter.quantize.derive import Derived
from porter.quantize.observers import NotFiniteError, extent

__all__ = ["Block", "Extremes", "Shelf"]

#: Samples in a block.
_ROWS = 64
#: Elements of which a processor's cache holds twice as many for sure.
_PIECE = 1 << 16
#: Sets of arrays that are remembered: as many as a stream has.
_SHELVES = 2


class Block(NamedTuple):
    """The smallest and the largest element of values, (values, samples); NaN where a sample has none."""

    names: list[str]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class Extremes:
    """A block of rows, one a sample: the smallest and the largest element of every value; NaN where it was not seen.

    Args:
        names: of values that are looked at.
        easy: further values, whose extremes follow from others.
        lax: those of the names that may hold NaN or infinity, and then are not seen.

    Fields:
        shelf: of what was looked at last, what lies side by side in memory.
    """

    def __init__(self, names: Sequence[str], easy: Sequence[Derived] = (), lax: Sequence[str] = ()) -> None:
        self.names = [*names, *(each.name for each in easy)]
        self._place = {name: place for place, name in enumerate(self.names)}
        self._levels = _levels(easy, self._place)
        self._lax = frozenset(lax)
        self._rows: NDArray[np.float64] = np.full((_ROWS, 2, len(self.names)), np.nan)
        self._count = 0
        self._shelves: list[Shelf] = []
        self.shelf: Shelf | None = None

    def look(self, arrays: Mapping[str, Array]) -> None:
        """See some of the values of a sample. Raises NotFiniteError with (what, the value's name)."""
        low, high = self._rows[self._count]
        shelf = self.shelf = self._on_shelf(arrays)
        if shelf is not None:
            low[shelf.places], high[shelf.places] = shelf.extremes()
        seen = {name: self._place[name] for name in arrays if name in self._place}
        for name in seen if shelf is None else seen.keys() - shelf.arrays.keys():
            low[seen[name]], high[seen[name]] = arrays[name].min(), arrays[name].max()
        places = list(seen.values())
        if not np.isfinite(low[places] + high[places]).all():
            for name in seen:
                self._check(name, arrays[name])

    def _on_shelf(self, arrays: Mapping[str, Array]) -> Shelf | None:
        """Those that lie side by side in memory, as the same arrays did before."""
        found = next((shelf for shelf in self._shelves if shelf.holds(arrays)), None)
        if found is None:
            found = Shelf.of({name: array for name, array in arrays.items() if name in self._place}, self._place)
            if found is not None:
                self._shelves = [*self._shelves[1 - _SHELVES :], found]
        return found

    def _check(self, name: str, array: Array) -> None:
        try:
            extent(array)
        except NotFiniteError as error:
            if name not in self._lax:
                raise NotFiniteError(str(error), name) from error
            self._rows[self._count, :, self._place[name]] = np.nan

    def of(self, name: str) -> tuple[float, float]:
        """The extremes of a value in the sample that is looked at."""
        low, high = self._rows[self._count, :, self._place[name]]
        return float(low), float(high)

    def on(self, shelf: Shelf) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The extremes of the values on a shelf in the sample that is looked at."""
        low, high = self._rows[self._count]
        return low[shelf.places], high[shelf.places]

    def end(self) -> bool:
        """The sample is complete; whether the block is full now, and must be taken."""
        self._count += 1
        return self._count == _ROWS

    def take(self) -> Block:
        """All complete samples. None is left."""
        rows = self._rows[: self._count]
        for function, places, sources in self._levels:
            rows[:, :, places] = function.of(rows[:, :, sources].astype(np.float32))
        taken = Block(self.names, rows[:, 0].T.copy(), rows[:, 1].T.copy())
        self._count = 0
        self._rows[...] = np.nan
        return taken


@dataclass(frozen=True, slots=True)
class Shelf:
    """Arrays side by side in one memory, of which one call of numpy finds all extremes: with hundreds of small ones,
    that takes half the time.

    Fields:
        arrays: by name.
        places: of their values in a row.
        memory: float32, from the first to the end of the last.
        ends: where each begins and ends in it, (arrays, 2).
        largest: the elements of the largest.
        pieces: the arrays in pieces that fit into a processor's cache together: the memory from the first to the end of
            the last of some, and where each begins and ends in it, but for the last end.
        first: the number of each array's first piece.
    """

    arrays: dict[str, Array]
    places: NDArray[np.intp]
    memory: Array
    ends: NDArray[np.intp]
    largest: int
    pieces: list[tuple[Array, NDArray[np.intp]]]
    first: NDArray[np.intp]

    def extremes(self) -> tuple[Array, Array]:
        """The smallest and the largest element of each array."""
        low, high = [], []
        for memory, bounds in self.pieces:  # the second look finds in the cache what the first one fetched
            low.append(np.minimum.reduceat(memory, bounds)[::2])
            high.append(np.maximum.reduceat(memory, bounds)[::2])
        return (
            np.minimum.reduceat(np.concatenate(low), self.first),
            np.maximum.reduceat(np.concatenate(high), self.first),
        )

    def alike(self, other: Shelf) -> bool:
        """Whether the other has the same values at the same places of another memory."""
        return self is other or (
            self.arrays.keys() == other.arrays.keys()
            and np.array_equal(self.places, other.places)
            and np.array_equal(self.ends, other.ends)
        )

    def holds(self, arrays: Mapping[str, Array]) -> bool:
        return all(arrays.get(name) is array for name, array in self.arrays.items())

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
            max(arrays[name].size for name in names),
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
