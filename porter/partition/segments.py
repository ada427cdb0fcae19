# SPDX-License-Identifier: Apache-2.0
"""A graph of tasks, each for the accelerator or the host, divided into segments that run one after another.

The *level* of a task is the largest number of changes of device on any path to it. All tasks of a level run on one
device, and a task only reads what lower levels, its own, or the model's inputs make: levels are convex segments, and
no order has fewer of them. Then islands come home: connected tasks of the accelerator in one level that save less time
than their crossings cost are given to the host, and the levels are made again. Every round is linear in the number of
tasks, and rounds are few and bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Crossing", "Device", "Island", "Link", "Task", "crossings", "divide"]

Device = Literal["accelerator", "host"]

#: Each round gives at least one island to the host. Chains of thousands of small islands go in the first one.
_ROUNDS = 16


@dataclass(frozen=True, slots=True)
class Task:
    """One op: the values that it reads and makes (constants aside), where it has to run, and the seconds that the
    accelerator saves where it may run on either."""

    reads: tuple[str, ...]
    makes: tuple[str, ...]
    device: Device
    gain: float = 0.0


@dataclass(frozen=True, slots=True)
class Link:
    """What passing control to the accelerator and back costs, in seconds, and bytes a second of what is passed."""

    latency: float
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Island:
    """Tasks that the accelerator could run and the host does: their places, what the accelerator would save, and what
    its crossings would cost (seconds); ``bytes`` are those that would cross."""

    tasks: tuple[int, ...]
    gain: float
    cost: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Crossing:
    """A value that passes between the accelerator and the host: ``out`` of the accelerator's segment, or into it."""

    value: str
    segment: int
    out: bool
    bytes: int


def divide(
    tasks: Sequence[Task], sizes: Mapping[str, int], link: Link
) -> tuple[list[tuple[Device, list[int]]], list[Island]]:
    """Segments in the order in which they run, each with the places of its tasks; and the islands given to the host.

    The part of the accelerator that saves most stays there in any case: it is what the device is there for.

    Args:
        tasks: in topological order.
        sizes: the bytes of each value; what is not there counts as nothing.
        link: between accelerator and host.
    """
    devices: list[Device] = [task.device for task in tasks]
    given: list[Island] = []
    for _ in range(_ROUNDS):
        levels = _levels(tasks, devices)
        poor = _poor_islands(tasks, devices, levels, sizes, link)
        if not poor:
            break
        given += poor
        for island in poor:
            for i in island.tasks:
                devices[i] = "host"
    levels = _levels(tasks, devices)
    segments: dict[int, list[int]] = {}
    for i, level in enumerate(levels):
        segments.setdefault(level, []).append(i)
    return [(devices[places[0]], places) for _, places in sorted(segments.items())], given


def _levels(tasks: Sequence[Task], devices: Sequence[Device]) -> list[int]:
    """The level of each task; of the two devices to begin with, the one that needs fewer levels."""
    made = [_levels_from(first, tasks, devices) for first in ("accelerator", "host")]
    return min(made, key=lambda levels: len(set(levels)))


def _levels_from(first: str, tasks: Sequence[Task], devices: Sequence[Device]) -> list[int]:
    at: dict[str, int] = {}
    levels = []
    for task, device in zip(tasks, devices, strict=True):
        level = max((at[name] for name in task.reads if name in at), default=0)
        if (level % 2 == 0) != (device == first):
            level += 1
        levels.append(level)
        at.update((name, level) for name in task.makes)
    return levels


def _poor_islands(
    tasks: Sequence[Task], devices: Sequence[Device], levels: Sequence[int], sizes: Mapping[str, int], link: Link
) -> list[Island]:
    """The islands of the accelerator that do not pay their crossings, each level's trip to the device included."""
    root = _components(tasks, devices, levels)
    members: dict[int, list[int]] = {}
    for i, r in enumerate(root):
        if devices[i] == "accelerator":
            members.setdefault(r, []).append(i)
    crossing = _island_bytes(tasks, root, sizes)
    by_level: dict[int, list[Island]] = {}
    for r, places in members.items():
        gain = sum(tasks[i].gain for i in places)
        moved = crossing.get(r, 0)
        island = Island(tuple(places), gain, moved / link.bandwidth, moved)
        by_level.setdefault(levels[r], []).append(island)
    worth = {
        level: sum(max(one.gain - one.cost, 0.0) for one in islands) - link.latency
        for level, islands in by_level.items()
    }
    if not worth:
        return []
    main = max(worth, key=lambda level: (worth[level], -level))
    poor: list[Island] = []
    for level, islands in by_level.items():
        best = max(islands, key=lambda one: one.gain - one.cost)
        for one in islands:
            if level == main and one is best:
                continue
            if level != main and worth[level] <= 0:
                poor.append(Island(one.tasks, one.gain, one.cost + link.latency, one.bytes))
            elif one.gain < one.cost:
                poor.append(one)
    return poor


def _components(tasks: Sequence[Task], devices: Sequence[Device], levels: Sequence[int]) -> list[int]:
    """For each task the first task of its connected part of the same level."""
    parent = list(range(len(tasks)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    maker = {name: i for i, task in enumerate(tasks) for name in task.makes}
    for i, task in enumerate(tasks):
        for name in task.reads:
            j = maker.get(name)
            if j is not None and levels[i] == levels[j] and devices[i] == devices[j]:
                a, b = find(i), find(j)
                parent[max(a, b)] = min(a, b)
    return [find(i) for i in range(len(tasks))]


def _island_bytes(tasks: Sequence[Task], root: Sequence[int], sizes: Mapping[str, int]) -> dict[int, int]:
    """For each island the bytes that pass into it and out of it, each value once for each of both."""
    maker = {name: i for i, task in enumerate(tasks) for name in task.makes}
    passed: dict[int, int] = {}
    seen: set[tuple[int, str]] = set()
    for i, task in enumerate(tasks):
        for name in task.reads:
            j = maker.get(name)
            if j is None or root[i] == root[j]:
                continue
            for r in (root[i], root[j]):
                if (r, name) not in seen:
                    seen.add((r, name))
                    passed[r] = passed.get(r, 0) + sizes.get(name, 0)
    return passed


def crossings(
    tasks: Sequence[Task], segments: Sequence[tuple[Device, Iterable[int]]], sizes: Mapping[str, int]
) -> list[Crossing]:
    """Every value that a segment of the accelerator gives to another segment or takes from one, once for each.

    The model's own inputs and outputs are not counted: they cross without a partition as well.
    """
    owner = {i: number for number, (_, places) in enumerate(segments) for i in places}
    maker = {name: owner[i] for i, task in enumerate(tasks) if i in owner for name in task.makes}
    found: dict[tuple[str, int, bool], Crossing] = {}
    for i, task in enumerate(tasks):
        for name in task.reads:
            source, reader = maker.get(name), owner.get(i)
            if source is None or reader is None or source == reader:
                continue
            for number, out in ((source, True), (reader, False)):
                if segments[number][0] == "accelerator":
                    found.setdefault((name, number, out), Crossing(name, number, out, sizes.get(name, 0)))
    return sorted(found.values(), key=lambda c: (c.segment, c.out, c.value))
