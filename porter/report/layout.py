# SPDX-License-Identifier: Apache-2.0
"""Where the ops of a graph are drawn: layers from top to bottom, an op below everything it reads. Linear in the graph.

(Longest-path layers and a median-like order, the first two steps of Sugiyama's method for drawing directed graphs; the
crossings that more passes would remove are not worth their time at 30,000 ops.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from porter.findings import OpReport

__all__ = ["Layout", "lay_out"]


@dataclass(frozen=True, slots=True)
class Layout:
    """``x`` (in widths of a node, the middle is 0) and ``layer`` (0 is the top) of each op, and the edges between
    ops as pairs of indices."""

    x: list[float]
    layer: list[int]
    edges: list[tuple[int, int]]


def lay_out(ops: Sequence[OpReport]) -> Layout:
    """Place every op. Ops of a report that was read from a file have no edges and stand one below the other."""
    edges = _edges(ops)
    reads: list[list[int]] = [[] for _ in ops]
    feeds: list[list[int]] = [[] for _ in ops]
    for source, reader in edges:
        reads[reader].append(source)
        feeds[source].append(reader)
    if not edges:
        return Layout([0.0] * len(ops), list(range(len(ops))), edges)
    layer = _layers(reads, feeds)
    return Layout(_columns(layer, reads), layer, edges)


def _edges(ops: Sequence[OpReport]) -> list[tuple[int, int]]:
    made = {out.name: index for index, op in enumerate(ops) if op.op for out in op.op.outputs}
    pairs = (
        (made[value.name], index)
        for index, op in enumerate(ops) if op.op
        for value in op.op.operands if value.name in made
    )  # fmt: skip
    # Ops are in an order in which they can run; an edge that points back would be a fault of the graph.
    return list(dict.fromkeys((source, reader) for source, reader in pairs if source < reader))


def _layers(reads: Sequence[Sequence[int]], feeds: Sequence[Sequence[int]]) -> list[int]:
    layer = [0] * len(reads)
    for index, sources in enumerate(reads):
        if sources:
            layer[index] = 1 + max(layer[source] for source in sources)
    # What hangs on no other op (constants, shapes) moves down to just above its first reader.
    for index in range(len(reads) - 1, -1, -1):
        if feeds[index]:
            lowest = min(layer[reader] for reader in feeds[index]) - 1
            if lowest > layer[index] and len(feeds[index]) == 1 and len(reads[index]) <= 1:
                layer[index] = lowest
    return layer


def _columns(layer: Sequence[int], reads: Sequence[Sequence[int]]) -> list[float]:
    rows: dict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(layer):
        rows[row].append(index)
    x = [0.0] * len(layer)
    for row in sorted(rows):
        wanted = {
            index: sum(x[source] for source in reads[index]) / len(reads[index]) if reads[index] else 0.0
            for index in rows[row]
        }
        place = float("-inf")
        row_ops = sorted(rows[row], key=wanted.__getitem__)
        for index in row_ops:
            place = max(wanted[index], place + 1)
            x[index] = place
        # Making room pushed the row to the right: it goes back by the mean of that.
        shift = sum(x[index] - wanted[index] for index in row_ops) / len(row_ops)
        for index in row_ops:
            x[index] -= shift
    return x
