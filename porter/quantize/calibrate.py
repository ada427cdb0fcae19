# SPDX-License-Identifier: Apache-2.0
"""Calibration: stream data through the float graph, and let observers see the values that need an encoding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass, field
from pathlib import Path
from threading import Event

import numpy as np
from numpy.typing import NDArray

from porter.data import Data
from porter.errors import PorterError
from porter.findings import Finding
from porter.graph import Graph
from porter.ops import Array, Op
from porter.quantize.channels import FEW, MARGIN, Channels
from porter.quantize.derive import Derived, derived
from porter.quantize.encodings import Encoding
from porter.quantize.extremes import Extremes
from porter.quantize.gather import Gather
from porter.quantize.input_scale import LOOK, InputScale
from porter.quantize.numerics import Dtype
from porter.quantize.observers import NotFiniteError, Observer, by_extremes, observer_maker
from porter.quantize.resume import Resume, deferred_signals, fingerprint, obey
from porter.quantize.scheme import Scheme
from porter.quantize.taps import TAPS_BYTES, Steps, Taps

__all__ = ["Calibration", "calibrate"]

#: Seconds to wait for an idle thread to begin a run, at most.
_BEGIN = 0.01
#: One sample this many times larger than the typical one leaves the others a few of 127 steps.
_OUTLIER = 10.0


@dataclass(slots=True)
class Calibration:
    """What :func:`calibrate` saw.

    Fields:
        observers: by group name.
        channels: by group name, the extremes of each channel, where those were asked for.
        seen: the true (minimum, maximum) of every value observed or watched.
        sizes: how large each observed value is from sample to sample.
        readers: for an observed value, the op that reads it.
        labels: for a value's name, the path of the layer that reads it.
        scale: of the samples, by what the first layer makes of them; None where that tells nothing.
        groups: the names of the values of each group that is being observed.
        notes: about a calibration that was taken up again.
        rows: extremes that are not in the observers, sizes and ``seen`` yet; see :meth:`flush`.
        gather: elements that are not in the observers yet.
    """

    observers: dict[str, Observer]
    channels: dict[str, Channels] = field(default_factory=dict)
    seen: dict[str, tuple[float, float]] = field(default_factory=dict)
    sizes: dict[str, _Size] = field(default_factory=dict)
    readers: Mapping[str, Op] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    scale: InputScale | None = None
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: list[Finding] = field(default_factory=list)
    rows: Extremes = field(default_factory=lambda: Extremes(()))
    gather: Gather = field(default_factory=lambda: Gather({}))

    def flush(self) -> None:
        """Show the observers what waits in :attr:`rows` and :attr:`gather`."""
        self.gather.flush()
        block = self.rows.take()
        if not block.low.size:
            return
        ends = dict(zip(block.names, zip(block.low, block.high, strict=True), strict=True))
        for group, members in self.groups.items():
            low, high = ends[members[0]]
            for name in members[1:]:
                low, high = np.fmin(low, ends[name][0]), np.fmax(high, ends[name][1])
            self.observers[group].see(
                [pair for pair in zip(low.tolist(), high.tolist(), strict=True) if pair[0] <= pair[1]]
            )
        extremes = zip(np.fmin.reduce(block.low, 1).tolist(), np.fmax.reduce(block.high, 1).tolist(), strict=True)
        for name, absmax, (least, most) in zip(block.names, np.maximum(block.high, -block.low), extremes, strict=True):
            if least <= most:
                before = self.seen.get(name, (least, most))
                self.seen[name] = min(before[0], least), max(before[1], most)
            if name in self.sizes:
                self.sizes[name].add(absmax)

    def range_of(self, group: str, dtype: Dtype, scheme: Scheme) -> tuple[float, float]:
        """The (minimum, maximum) that the encoding of a group must represent.

        Raises:
            PorterError: PT401 when nothing was observed.
        """
        found = self.observers[group].range_for(dtype, scheme)
        if found is None:
            raise PorterError("PT401", "no sample was observed", fix="Give at least one sample.")
        return found

    def encoding(self, group: str, dtype: Dtype, scheme: Scheme) -> Encoding:
        """The encoding of a group in ``dtype``; with a scale for each channel where :attr:`channels` has the group and
        one scale leaves them too few steps, of the channel's extremes with a margin, within the range of all. Raises
        PT401 when nothing was observed.
        """
        low, high = self.range_of(group, dtype, scheme)
        found = scheme.encoding(low, high, dtype, self.observers[group].describe(dtype, scheme))
        channels = self.channels.get(group)
        if channels is None or channels.steps(found.scale[0]) >= FEW:
            return found
        lows, highs = (np.clip(MARGIN * ends, low, high) for ends in (channels.low, channels.high))
        return scheme.encoding(lows, highs, dtype, f"{found.observer} by channel", axis=channels.axis)

    def findings(self) -> list[Finding]:
        """What is odd about the data: a single sample, not like in training, a few samples far larger than the rest."""
        return [*self.notes, *_single(self), *(self.scale.findings() if self.scale else ()), *_outliers(self)]

    def state(self) -> dict[str, Array]:
        """Everything that samples change, as plain arrays for :meth:`restore`."""
        self.flush()
        arrays = {
            f"observer{index}_{key}": array
            for index, observer in enumerate(self.observers.values())
            for key, array in observer.state().items()
        }
        for index, channels in enumerate(self.channels.values()):
            arrays |= {f"channels{index}_{key}": array for key, array in channels.state().items()}
        arrays["seen_names"] = np.array(list(self.seen), np.str_)
        arrays["seen"] = np.array(list(self.seen.values()), np.float64)
        arrays["sizes"] = np.array([astuple(size) for size in self.sizes.values()], np.float64)
        return arrays | (self.scale.state() if self.scale is not None else {})

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Become, with the same groups and observer, the calibration whose :meth:`state` this is."""
        for index, observer in enumerate(self.observers.values()):
            start = f"observer{index}_"
            observer.restore({key.removeprefix(start): a for key, a in arrays.items() if key.startswith(start)})
        for index, channels in enumerate(self.channels.values()):
            start = f"channels{index}_"
            channels.restore({key.removeprefix(start): a for key, a in arrays.items() if key.startswith(start)})
        self.seen = {
            str(name): (float(low), float(high))
            for name, (low, high) in zip(arrays["seen_names"], arrays["seen"], strict=True)
        }
        for name, (count, logs, top, top_at) in zip(self.sizes, arrays["sizes"], strict=True):
            self.sizes[name] = _Size(int(count), float(logs), float(top), int(top_at))
        if self.scale is not None:
            self.scale.restore(arrays)


def calibrate(
    graph: Graph,
    groups: Mapping[str, Sequence[str]],
    data: Data,
    observer: str,
    *,
    channels: Mapping[str, int] | None = None,
    watch: Iterable[str] = (),
    labels: Mapping[str, str] | None = None,
    steps: Steps | None = None,
    taps_bytes: int = TAPS_BYTES // 2,
    state: Path | None = None,
) -> Calibration:
    """Observe values of a graph on every sample of ``data``.

    While one sample is observed, the model already runs on the next: two are in memory, whatever their number.

    Args:
        groups: for the name of a group, the names of the values that share its observer.
        observer: with its settings; see :func:`porter.quantize.observers.make_observer`.
        channels: for the name of a group of one value, the axis of which each index may get a scale of its own.
        watch: values of which only the extremes are wanted.
        labels: for a value's name, the path of the layer that reads it, for messages.
        steps: counts runs; the number of samples is added to its total.
        taps_bytes: of tapped values that one run may return.
        state: a file in which what was seen is kept, every few seconds and when an interrupt ends the run. A later
            call with the same model, data and observer goes on from there, with the same result as without the
            interrupt. The file stays; whoever has no more use for it removes it.

    Raises:
        PorterError: PT407 where a value is not finite, which names the layer and the first op that makes one;
            PT510 to PT512 when ``state`` cannot be written.
    """
    made = _prepared(graph, groups, observer, channels or {}, labels or {})
    group_of = {name: group for group, names in groups.items() for name in names}
    only = sorted(set(watch) - set(group_of))
    values = {v.name: v for op in graph.ops() for v in (*op.operands, *op.outputs)}
    values |= {v.name: v for v in graph.inputs}
    scale = made.scale
    easy = _derived(graph, made, groups)
    given = {item.name for item in easy}
    tapped = [name for name in group_of if name not in given]
    wanted = [values[name] for name in (*tapped, *only)] + ([] if scale is None else [scale.value])
    taps = Taps(graph, wanted, taps_bytes, fast=True)
    once = {name for name in group_of if values[name].is_const}
    count = steps or Steps()
    count.total += len(data)
    kept = None
    if state is not None:
        settings = {"groups": groups, "channels": channels or {}, "watch": only, "observer": observer}
        kept = Resume(state, fingerprint(graph, settings, data))
    rows = made.rows = Extremes([*tapped, *only], easy, only)
    valued = {name: made.observers[group] for name, group in group_of.items() if not by_extremes(made.observers[group])}
    made.gather = Gather(valued)
    alone = {groups[group][0]: each for group, each in made.channels.items()}
    with deferred_signals(kept is not None) as signalled:
        done, items = (0, iter(data)) if kept is None else kept.take_up(made, data, count)
        for index, last, item, arrays in _ahead(taps, items, done):
            for name in once if index else ():
                arrays.pop(name, None)
            try:
                rows.look(arrays)
            except NotFiniteError as error:
                raise _blame(graph, made, str(error.args[1]), item, str(error.args[0])) from error
            gathered = made.gather.take(rows.shelf, *rows.on(rows.shelf)) if rows.shelf is not None else ()
            for name, array in arrays.items():
                if name in valued and name not in gathered:
                    valued[name].fill(array, *rows.of(name))
                if name in alone:
                    alone[name].observe(array, len(values[name].shape or ()))
            if scale is not None and scale.value.name in arrays and index < LOOK and _varied(item):
                scale.add(np.ascontiguousarray(arrays[scale.value.name].reshape(scale.value.shape)))
            if not last:
                continue
            count()
            if rows.end():
                made.flush()
            if kept is not None:
                kept.saw(index + 1, made, item, now=bool(signalled))
            if signalled:
                break
    made.flush()
    made.rows, made.gather = Extremes(()), Gather({})  # they hold the memory of a stream
    if signalled:
        obey(signalled[0])
    return made


def _prepared(
    graph: Graph,
    groups: Mapping[str, Sequence[str]],
    observer: str,
    channels: Mapping[str, int],
    labels: Mapping[str, str],
) -> Calibration:
    names = {name for members in groups.values() for name in members}
    make = observer_maker(observer)
    return Calibration(
        groups=groups,
        observers={group: make() for group in groups},
        channels={group: Channels(axis) for group, axis in channels.items()},
        sizes={name: _Size() for members in groups.values() for name in members},
        readers={v.name: op for op in reversed(graph.ops()) for v in op.operands if v.name in names},
        labels=labels,
        scale=InputScale.of(graph),
    )


def _ahead(
    taps: Taps, items: Iterator[list[Array]], start: int
) -> Iterator[tuple[int, bool, list[Array], dict[str, Array]]]:
    """(index of the sample, whether it is complete now, the sample, values) of every run; the run after it is already
    under way in another thread, which the kernels of both frameworks let run beside this one.
    """
    begun = Event()

    def fetch(item: list[Array], run: int) -> dict[str, Array]:
        begun.set()
        return taps.fetch(item, run)[1]

    with ThreadPoolExecutor(1) as pool:
        waiting: tuple[int, bool, list[Array], Future[dict[str, Array]]] | None = None
        try:
            for index, item in enumerate(items, start):
                for run in range(len(taps)):
                    idle = waiting is None or waiting[3].done()
                    begun.clear()
                    future = pool.submit(fetch, item, run)
                    if idle:  # who observes many small tensors holds the interpreter's lock nearly all the time
                        begun.wait(_BEGIN)
                    if waiting is not None:
                        yield *waiting[:3], waiting[3].result()
                    waiting = index, run + 1 == len(taps), item, future
            if waiting is not None:
                yield *waiting[:3], waiting[3].result()
        finally:
            pool.shutdown(cancel_futures=True)


def _derived(graph: Graph, made: Calibration, groups: Mapping[str, Sequence[str]]) -> list[Derived]:
    """The values whose extremes, all that their observer wants, follow from those of others."""
    alone = [
        names[0]
        for group, names in groups.items()
        if len(names) == 1 and group not in made.channels and by_extremes(made.observers[group])
    ]
    return derived(graph, alone, [name for names in groups.values() for name in names])


def _blame(graph: Graph, made: Calibration, name: str, item: Sequence[Array], what: str) -> PorterError:
    """Name the layer that reads the value, and the first op of the model that makes something not finite."""
    reader = made.readers.get(name)
    floats = [out for op in graph.ops() for out in op.outputs if (out.dtype or "").startswith("float")]
    producers = graph.producers()
    first: Op | None = None
    for _, values in Taps(graph, floats)(item):
        bad = next((n for n, array in values.items() if not np.isfinite(array).all()), None)
        if bad is not None:
            first = producers[bad]
            break
    source = f"; the first to make one is {first.kind} {first.name}" if first is not None else ""
    origin = first.origin if first is not None else reader.origin if reader is not None else None
    label = made.labels.get(name) or (reader.name if reader is not None else "")
    return PorterError(
        "PT407",
        f"{f'the input of layer {label} ({name})' if label else f'the value {name}'}: {what}{source}",
        where=str(origin) if origin is not None else None,
        fix="Run the float model on this sample, and check its weights.",
    )


def _varied(item: Sequence[Array]) -> bool:
    """Whether a sample shows anything of the scale of samples."""
    return all(array.min() != array.max() for array in item if array.dtype.kind == "f" and array.size > 1)


@dataclass(slots=True)
class _Size:
    """How large one value is from sample to sample: the typical (geometric mean) and the largest absmax."""

    count: int = 0
    logs: float = 0.0
    top: float = 0.0
    top_at: int = 0

    def add(self, absmax: NDArray[np.float64]) -> None:
        """See the absmax of each of some samples; NaN where a sample has none."""
        absmax = absmax[~np.isnan(absmax)]
        if not absmax.size:
            return
        # One after the other, as a sum in pairs would depend on how many there are.
        self.logs = float(np.cumsum(np.concatenate([[self.logs], np.log(np.maximum(absmax, 1e-30))]))[-1])
        at = int(absmax.argmax())
        if absmax[at] > self.top:
            self.top, self.top_at = float(absmax[at]), self.count + at
        self.count += absmax.size

    @property
    def ratio(self) -> float:
        """The largest sample as a multiple of the typical one."""
        return self.top / math.exp(self.logs / self.count) if self.count and self.top > 0 else 1.0


def _single(calibration: Calibration) -> list[Finding]:
    """A finding where one sample alone decides every range."""
    if max((size.count for size in calibration.sizes.values()), default=0) != 1:
        return []
    message = "every range comes from one sample; what others reach beyond it is clipped"
    return [Finding("PT431", "warning", message, fix="Calibrate on 10 to 100 samples of the kind the model will see.")]


def _outliers(calibration: Calibration) -> list[Finding]:
    """A finding where one sample decides the scale of values that are far smaller in all others."""
    found = [name for name, size in calibration.sizes.items() if size.ratio > _OUTLIER and name in calibration.labels]
    if not found:
        return []
    worst = max(found, key=lambda name: calibration.sizes[name].ratio)
    size, reader = calibration.sizes[worst], calibration.readers[worst]
    return [
        Finding(
            "PT406", "warning",
            f"in {len(found)} layers a few samples are far larger than typical and decide the scale; the worst: "
            f"sample {size.top_at} reaches {size.top:.4g} in the input of {calibration.labels[worst]}, "
            f"{size.ratio:.3g} times typical",
            reader.origin,
            "Look at that sample. If it belongs, choose an observer that outweighs it, such as min_max(use_avg).",
            reader.name, reader.kind,
        )
    ]  # fmt: skip
