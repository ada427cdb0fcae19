# SPDX-License-Identifier: Apache-2.0
"""Named values of a graph on one sample after another, and the count of runs for a progress bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from threading import Lock

from porter.graph import Graph
from porter.ops import Array, Value

__all__ = ["TAPS_BYTES", "Progress", "Steps", "Stream", "Taps"]

#: Called with (done, total) runs.
Progress = Callable[[int, int], None]

#: Gives values of a sample by name, some at a time.
Stream = Callable[[Sequence[Array]], Iterator[Mapping[str, Array]]]

#: Bytes of tapped values that one run of a model may return; more are fetched in several runs of the same sample.
TAPS_BYTES = 2**30


class Steps:
    """Counts runs for a progress callback."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress, self._done, self.total = progress, 0, 0

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, max(self.total, self._done))


class Taps:
    """Runs a graph on samples and hands out named values, in as many runs a sample as ``taps_bytes`` asks for."""

    def __init__(self, graph: Graph, values: Iterable[Value], taps_bytes: int = TAPS_BYTES) -> None:
        self._graph = graph
        inputs = {value.name for value in graph.inputs}
        unique = {value.name: value for value in values}
        self._inputs = [name for name in unique if name in inputs]
        self._constants = {name: value for name, value in unique.items() if value.is_const}
        self._batches: list[list[str]] = [[]]
        size = 0
        for name, value in unique.items():
            if name in inputs or value.is_const:
                continue
            nbytes = 4 * math.prod(value.shape or (1,))
            if self._batches[-1] and size + nbytes > taps_bytes:
                self._batches.append([])
                size = 0
            self._batches[-1].append(name)
            size += nbytes

    def __len__(self) -> int:
        """Runs for one sample."""
        return len(self._batches)

    def __call__(self, item: Sequence[Array], *, fast: bool = False) -> Iterator[tuple[list[Array], dict[str, Array]]]:
        """(outputs, values) of each run. The first also has the graph inputs and constants among the values."""
        for index, batch in enumerate(self._batches):
            results = self._graph.run(item, batch, fast=fast)
            split = len(results) - len(batch)
            extra = {} if index else self._extra(item)
            yield results[:split], {**extra, **dict(zip(batch, results[split:], strict=True))}

    def _extra(self, item: Sequence[Array]) -> dict[str, Array]:
        fed = {value.name: array for value, array in zip(self._graph.inputs, item, strict=True)}
        constants = {name: value.numpy() for name, value in self._constants.items()}
        return {name: fed[name] for name in self._inputs} | constants

    def side_by_side(self, count: int, sample: Sequence[Array]) -> list[Stream]:
        """Functions for as many threads, or two where a graph is run in turns, which give the values of a sample, some
        at a time: as :meth:`porter.graph.Graph.streams` says."""
        streams = self._graph.streams([name for batch in self._batches for name in batch], count, sample)
        if streams is None:
            return [partial(self._in_turn, Lock())] * min(count, 2)
        return [partial(self._streamed, stream) for stream in streams]

    def _streamed(self, stream: Stream, item: Sequence[Array]) -> Iterator[Mapping[str, Array]]:
        extra = self._extra(item)
        if extra:
            yield extra
        yield from stream(item)

    def _in_turn(self, turn: Lock, item: Sequence[Array]) -> Iterator[Mapping[str, Array]]:
        runs = self(item, fast=True)
        while True:
            with turn:
                values = next(runs, None)
            if values is None:
                return
            yield values[1]
