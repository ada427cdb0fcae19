# SPDX-License-Identifier: Apache-2.0
"""Named values of a graph on one sample after another, and the count of runs for a progress bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from porter.graph import Graph
from porter.ops import Array, Value

__all__ = ["TAPS_BYTES", "Progress", "Steps", "Taps"]

#: Called with (done, total) runs.
Progress = Callable[[int, int], None]

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
    """Runs a graph on samples and hands out named values, in as many runs a sample as ``taps_bytes`` asks for.

    Args:
        fast: as for :meth:`porter.graph.Graph.run`; then what a run gives is good until the run after the
            next, and values are as :meth:`porter.graph.Graph.stream` gives them.
    """

    def __init__(
        self, graph: Graph, values: Iterable[Value], taps_bytes: int = TAPS_BYTES, *, fast: bool = False
    ) -> None:
        self._graph, self._fast = graph, fast
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
        # With more than one run a sample, arrays that are kept for the next one would be those of all runs.
        self._stream = graph.stream(self._batches[0]) if fast and len(self._batches) == 1 else None

    def __len__(self) -> int:
        """Runs for one sample."""
        return len(self._batches)

    def __call__(self, item: Sequence[Array]) -> Iterator[tuple[list[Array], dict[str, Array]]]:
        """(outputs, values) of each run; see :meth:`fetch`."""
        for index in range(len(self)):
            yield self.fetch(item, index)

    def fetch(self, item: Sequence[Array], index: int) -> tuple[list[Array], dict[str, Array]]:
        """(outputs, values) of one of the runs. The first also has the graph inputs and constants among the taps."""
        extra: dict[str, Array] = {}
        if index == 0:
            fed = {value.name: array for value, array in zip(self._graph.inputs, item, strict=True)}
            extra = {name: fed[name] for name in self._inputs}
            extra.update({name: value.numpy() for name, value in self._constants.items()})
        batch = self._batches[index]
        results = self._stream(item) if self._stream else self._graph.run(item, batch, fast=self._fast)
        split = len(results) - len(batch)
        return results[:split], {**extra, **dict(zip(batch, results[split:], strict=True))}
