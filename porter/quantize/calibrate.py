# SPDX-License-Identifier: Apache-2.0
"""Calibration: stream data through the float graph, and let observers see the values that need an encoding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from porter.data import Data
from porter.errors import PorterError
from porter.findings import Finding
from porter.graph import Graph
from porter.ops import Array, Op, Value
from porter.quantize.encodings import Encoding
from porter.quantize.numerics import Dtype
from porter.quantize.observers import NotFiniteError, Observer, make_observer
from porter.quantize.scheme import Scheme
from porter.quantize.taps import TAPS_BYTES, Steps, Taps

__all__ = ["Calibration", "calibrate"]

#: The activations of a first batch norm differ from its training statistics by more than this only on wrong
#: inputs.
_UNLIKE_TRAINING = 20.0
#: One sample this many times larger than the typical one leaves the others a few of 127 steps.
_OUTLIER = 10.0


@dataclass(slots=True)
class Calibration:
    """What :func:`calibrate` saw.

    Fields:
        observers: by group name.
        seen: the true (minimum, maximum) of every value observed or watched.
        sizes: how large each observed value is from sample to sample.
        readers: for an observed value, the layer that reads it, as messages call it.
        norm: the first batch norm with statistics of its training; ``norm_ratio`` the deviation of what entered it, as
            a multiple of the one in training.
    """

    observers: dict[str, Observer]
    seen: dict[str, tuple[float, float]] = field(default_factory=dict)
    sizes: dict[str, _Size] = field(default_factory=dict)
    readers: Mapping[str, Op] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    norm: Op | None = None
    norm_ratio: float | None = None

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
        """The encoding of a group in ``dtype``. Raises PT401 when nothing was observed."""
        low, high = self.range_of(group, dtype, scheme)
        return scheme.encoding(low, high, dtype, self.observers[group].describe(dtype, scheme))

    def findings(self) -> list[Finding]:
        """What is odd about the data: not like in training, or a few samples far larger than the rest."""
        return [*_unlike_training(self), *_outliers(self)]


def calibrate(
    graph: Graph,
    groups: Mapping[str, Sequence[str]],
    data: Data,
    observer: str,
    *,
    watch: Iterable[str] = (),
    labels: Mapping[str, str] | None = None,
    steps: Steps | None = None,
    taps_bytes: int = TAPS_BYTES,
) -> Calibration:
    """Observe values of a graph on every sample of ``data``.

    Args:
        groups: for the name of a group, the names of the values that its observer sees.
        observer: with its settings; see :func:`porter.quantize.observers.make_observer`.
        watch: values of which only the extremes are wanted.
        labels: for a value's name, the path of the layer that reads it, for messages.
        steps: counts runs; the number of samples is added to its total.

    Raises:
        PorterError: PT407 where a value is not finite, which names the layer and the first op that makes one.
    """
    values = {v.name: v for op in graph.ops() for v in (*op.operands, *op.outputs)}
    values |= {v.name: v for v in graph.inputs}
    norm = next((op for op in graph.ops() if _trained_norm(op)), None)
    group_of = {name: group for group, names in groups.items() for name in names}
    made = Calibration({group: make_observer(observer) for group in groups}, labels=labels or {}, norm=norm)
    made.readers = {v.name: op for op in reversed(graph.ops()) for v in op.operands if v.name in group_of}
    made.sizes = {name: _Size() for name in group_of}
    watched = set(watch)
    wanted = [values[name] for name in (*group_of, *sorted(watched - set(group_of)))]
    if norm is not None:
        wanted.append(cast(Value, norm.inputs[0]))
    taps = Taps(graph, wanted, taps_bytes)
    count = steps or Steps()
    count.total += len(data)
    spread = _Spread()
    for item in data:
        for _, arrays in taps(item):
            for name, array in arrays.items():
                if name in group_of:
                    try:
                        extent = made.observers[group_of[name]].observe(array)
                    except NotFiniteError as error:
                        raise _blame(graph, made, name, item, str(error)) from error
                    made.sizes[name].add(max(extent[1], -extent[0]))
                    _widen(made.seen, name, extent)
                elif name in watched and np.isfinite(array).all():
                    _widen(made.seen, name, (float(array.min()), float(array.max())))
                if norm is not None and name == cast(Value, norm.inputs[0]).name:
                    spread.add(array)
        count()
    if norm is not None:
        made.norm_ratio = spread.ratio(norm)
    return made


def _widen(seen: dict[str, tuple[float, float]], name: str, extent: tuple[float, float]) -> None:
    low, high = seen.get(name, extent)
    seen[name] = (min(low, extent[0]), max(high, extent[1]))


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


@dataclass(slots=True)
class _Size:
    """How large one value is from sample to sample: the typical (geometric mean) and the largest absmax."""

    count: int = 0
    logs: float = 0.0
    top: float = 0.0
    top_at: int = 0

    def add(self, absmax: float) -> None:
        self.logs += math.log(max(absmax, 1e-30))
        if absmax > self.top:
            self.top, self.top_at = absmax, self.count
        self.count += 1

    @property
    def ratio(self) -> float:
        """The largest sample as a multiple of the typical one."""
        return self.top / math.exp(self.logs / self.count) if self.count and self.top > 0 else 1.0


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


def _trained_norm(op: Op) -> bool:
    if op.kind != "batch_norm" or len(op.inputs) < 5:
        return False
    return all(value is not None and value.is_const for value in op.inputs[3:5])


class _Spread:
    """Mean square deviation of each channel (axis 1), streaming."""

    def __init__(self) -> None:
        self._count, self._sum, self._square = 0, np.zeros(()), np.zeros(())

    def add(self, x: Array) -> None:
        axes = tuple(i for i in range(x.ndim) if i != 1)
        wide = x.astype(np.float64)
        self._count += x.size // x.shape[1]
        self._sum = self._sum + wide.sum(axes)
        self._square = self._square + (wide * wide).sum(axes)

    def ratio(self, norm: Op) -> float | None:
        """The median over channels of the deviation seen, as a multiple of the one in training."""
        trained = cast(Value, norm.inputs[4]).numpy().astype(np.float64)
        mean = self._sum / self._count
        seen = np.sqrt(np.maximum(self._square / self._count - mean**2, 0))
        alive = trained > 1e-12
        return float(np.median(seen[alive] / np.sqrt(trained[alive]))) if alive.any() else None


def _unlike_training(calibration: Calibration) -> list[Finding]:
    ratio, norm = calibration.norm_ratio, calibration.norm
    if norm is None or ratio is None or 1 / _UNLIKE_TRAINING < ratio < _UNLIKE_TRAINING:
        return []
    much = f"{ratio:.3g} times as wide as" if ratio > 1 else f"narrower by {1 / max(ratio, 1e-30):.3g} than"
    return [
        Finding(
            "PT406", "warning",
            f"what enters the first batch norm is {much} in training: are the samples 0..255 and the model's "
            "inputs 0..1, or the other way round?",
            norm.origin, "Compare the preprocessing with the training code.", norm.name, norm.kind,
        )
    ]  # fmt: skip
