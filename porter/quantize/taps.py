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
    """Runs a graph on one sample after another and hands out named values; one sample in memory at a time."""

    def __init__(self, graph: Graph, values: Iterable[Value], taps_bytes: int = TAPS_BYTES) -> None:
        self._graph = graph
        inputs = {value.name for value in graph.inputs}
        unique = {value.name: value for value in values}
        self._inputs = [name for name in unique if name in inputs]
        self._constants = {name: value for name, value in unique.items() if value.is_const}
        self._groups: list[list[str]] = [[]]
        size = 0
        for name, value in unique.items():
            if name in inputs or value.is_const:
                continue
            nbytes = 4 * math.prod(value.shape or (1,))
            if self._groups[-1] and size + nbytes > taps_bytes:
                self._groups.append([])
                size = 0
            self._groups[-1].append(name)
            size += nbytes

    def __call__(self, item: Sequence[Array]) -> Iterator[tuple[list[Array], dict[str, Array]]]:
        """(outputs, values) for each group of taps. The first group also has the graph inputs and constants
        among the taps.
        """
        fed = {value.name: array for value, array in zip(self._graph.inputs, item, strict=True)}
        extra = {name: fed[name] for name in self._inputs}
        extra.update({name: value.numpy() for name, value in self._constants.items()})
        for group in self._groups:
            results = self._graph.run(item, group)
            split = len(results) - len(group)
            yield results[:split], {**extra, **dict(zip(group, results[split:], strict=True))}
            extra = {}
