# SPDX-License-Identifier: Apache-2.0
"""Calibration: stream data through the float graph, and let observers see the values that need an encoding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from porter.data import Data
from porter.errors import PorterError
from porter.findings import Finding
from porter.graph import Graph
from porter.ops import Array, Op
from porter.quantize.channels import FEW, MARGIN, Channels
from porter.quantize.derive import Derived, derived
from porter.quantize.encodings import Encoding
from porter.quantize.extremes import Block, Rows
from porter.quantize.input_scale import InputScale
from porter.quantize.lane import Lane, Seen, Shared, every, lanes, locks
from porter.quantize.numerics import Dtype
from porter.quantize.observers import Observer, by_extremes, observer_maker
from porter.quantize.resume import Resume, deferred_signals, fingerprint, obey
from porter.quantize.scheme import Scheme
from porter.quantize.tally import Tally
from porter.quantize.taps import TAPS_BYTES, Steps, Taps
from porter.threads import InOrder

__all__ = ["Calibration", "calibrate"]

#: One sample this many times larger than the typical one leaves the others a few of 127 steps.
_OUTLIER = 10.0


@dataclass(slots=True)
class Calibration:
    """What :func:`calibrate` saw.

    Fields:
        observers: by group name.
        channels: by group name, the extremes of each channel, where those were asked for.
        tally: what every value observed or watched was over all samples.
        readers: for an observed value, the op that reads it.
        labels: for a value's name, the path of the layer that reads it.
        scale: of the samples, by what the first layer makes of them; None where that tells nothing.
        groups: the names of the values of each group that is being observed.
        notes: about a calibration that was taken up again.
    """

    observers: dict[str, Observer]
    channels: dict[str, Channels] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    readers: Mapping[str, Op] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    scale: InputScale | None = None
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: list[Finding] = field(default_factory=list)

    @property
    def seen(self) -> dict[str, tuple[float, float]]:
        """The true (minimum, maximum) of every value observed or watched."""
        return self.tally.seen

    def see(self, block: Block) -> None:
        """Show the observers the extremes of some samples."""
        self.tally.add(block)
        places = {name: place for place, name in enumerate(block.names)}
        for group, members in self.groups.items():
            at = [places[name] for name in members]
            low, high = block.low[at[0]], block.high[at[0]]
            if len(at) > 1:
                low, high = np.fmin.reduce(block.low[at]), np.fmax.reduce(block.high[at])
            if np.isnan(low).any():  # of samples that do not have it
                low, high = low[~np.isnan(low)], high[~np.isnan(high)]
            self.observers[group].see(low, high)

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
        arrays = {
            f"observer{index}_{key}": array
            for index, observer in enumerate(self.observers.values())
            for key, array in observer.state().items()
        }
        for index, channels in enumerate(self.channels.values()):
            arrays |= {f"channels{index}_{key}": array for key, array in channels.state().items()}
        return arrays | self.tally.state() | (self.scale.state() if self.scale is not None else {})

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Become, with the same groups and observer, the calibration whose :meth:`state` this is."""
        for index, observer in enumerate(self.observers.values()):
            start = f"observer{index}_"
            observer.restore({key.removeprefix(start): a for key, a in arrays.items() if key.startswith(start)})
        for index, channels in enumerate(self.channels.values()):
            start = f"channels{index}_"
            channels.restore({key.removeprefix(start): a for key, a in arrays.items() if key.startswith(start)})
        self.tally.restore(arrays)
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

    A few samples are run at once, each in a thread: so many are in memory, whatever their number.

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
    rows = Rows([*tapped, *only], easy)
    made.tally = Tally(rows.names)
    alone = {groups[group][0]: each for group, each in made.channels.items()}
    shared = Shared(
        names=[*tapped, *only],
        lax=only,
        once=[name for name in group_of if values[name].is_const],
        counted={n: made.observers[group] for n, group in group_of.items() if not by_extremes(made.observers[group])},
        every=every(len(data)),
        channels=alone,
        ranks={name: len(values[name].shape or ()) for name in alone},
        first=None if scale is None else scale.value,
        locks=locks(groups),
    )
    count = steps or Steps()
    count.total += len(data)
    kept = None
    if state is not None:
        settings = {"groups": groups, "channels": channels or {}, "watch": only, "observer": observer}
        kept = Resume(state, fingerprint(graph, settings, data))
    followers = [(made.observers[group_of[one.name]], made.observers[group_of[one.source]], one) for one in easy]
    watcher = _Watcher(graph, made, rows, followers, count, kept)
    with deferred_signals(kept is not None) as signalled:
        done, items = (0, iter(data)) if kept is None else kept.take_up(made, data, count)
        first = next(items, None)
        if first is not None:  # a calibration that is taken up again may have seen all
            side_by_side = lanes(Taps(graph, wanted, taps_bytes), shared, first)
            watcher.watch(side_by_side, chain([first], items), done, signalled)
    if signalled:
        obey(signalled[0])
    return made


@dataclass(frozen=True, slots=True)
class _Watcher:
    """Sees samples in order.

    Fields:
        rows: extremes that the observers have not been shown yet.
        followers: observers, those of the values of which theirs are a function, and the function.
        count: of runs.
        kept: the file in which what was seen is kept.
    """

    graph: Graph
    made: Calibration
    rows: Rows
    followers: Sequence[tuple[Observer, Observer, Derived]]
    count: Steps
    kept: Resume | None

    def watch(
        self, side_by_side: Sequence[Lane], items: Iterable[list[Array]], done: int, signalled: Sequence[int]
    ) -> None:
        """See the samples, of which ``done`` were seen before, until they end or a signal comes."""
        with InOrder(side_by_side) as work:
            for index, item in enumerate(items, done):
                self._take(work.feed((index, item)))
                if self.kept is not None and (signalled or self.kept.due):
                    self._finish(work, side_by_side)
                    self.kept.save(index + 1, self.made)
                if signalled:
                    break
            self._finish(work, side_by_side)

    def _take(self, seen: Iterable[tuple[tuple[int, Sequence[Array]], Seen]]) -> None:
        made = self.made
        for (_, item), one in seen:
            if one.problem is not None:
                what, name = one.problem.args
                raise _blame(self.graph, made, name, item, what) from one.problem
            self.rows.add(one.row)
            if made.scale is not None and one.first is not None:
                made.scale.add(one.first)
            if self.kept is not None:
                self.kept.digest(item)
            self.count()
        if self.rows.full:
            made.see(self.rows.take())

    def _finish(self, work: InOrder[tuple[int, Sequence[Array]], Seen], side_by_side: Sequence[Lane]) -> None:
        """Show the observers everything that was seen so far."""
        self._take(work.drain())
        for lane in side_by_side:
            lane.flush()
        self.made.see(self.rows.take())
        for observer, source, function in self.followers:
            observer.follow(source, function.of)


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
        readers={v.name: op for op in reversed(graph.ops()) for v in op.operands if v.name in names},
        labels=labels,
        scale=InputScale.of(graph),
    )


def _derived(graph: Graph, made: Calibration, groups: Mapping[str, Sequence[str]]) -> list[Derived]:
    """The values that need not be looked at: what their observer wants follows from other values. Where it wants more
    than extremes, those must have an observer of their own."""
    alone = {names[0]: group for group, names in groups.items() if len(names) == 1}
    wanted = [name for name, group in alone.items() if group not in made.channels]
    if all(by_extremes(observer) for observer in made.observers.values()):
        return derived(graph, wanted, [name for names in groups.values() for name in names])
    return derived(graph, wanted, alone)


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


def _single(calibration: Calibration) -> list[Finding]:
    """A finding where one sample alone decides every range."""
    if calibration.tally.count.max(initial=0) != 1:
        return []
    message = "every range comes from one sample; what others reach beyond it is clipped"
    return [Finding("PT431", "warning", message, fix="Calibrate on 10 to 100 samples of the kind the model will see.")]


def _outliers(calibration: Calibration) -> list[Finding]:
    """A finding where one sample decides the scale of values that are far smaller in all others."""
    tally = calibration.tally
    ratios = {
        name: (ratio, place)
        for place, (name, ratio) in enumerate(zip(tally.names, tally.ratios.tolist(), strict=True))
        if ratio > _OUTLIER and name in calibration.labels and name in calibration.readers
    }
    if not ratios:
        return []
    worst = max(ratios, key=lambda name: ratios[name][0])
    ratio, place = ratios[worst]
    reader = calibration.readers[worst]
    return [
        Finding(
            "PT406", "warning",
            f"in {len(ratios)} layers a few samples are far larger than typical and decide the scale; the worst: "
            f"sample {tally.top_at[place]} reaches {tally.top[place]:.4g} in the input of {calibration.labels[worst]}, "
            f"{ratio:.3g} times typical",
            reader.origin,
            "Look at that sample. If it belongs, choose an observer that outweighs it, such as min_max(use_avg).",
            reader.name, reader.kind,
        )
    ]  # fmt: skip
