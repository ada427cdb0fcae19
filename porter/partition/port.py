# SPDX-License-Identifier: Apache-2.0
"""A divided model, ready for the device: each segment of the accelerator is quantized and has a bundle of its own.

What a segment reads is what the segments before it make of the samples, in float: its calibration data and its golden
inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from porter.data import Data, open_data
from porter.errors import PorterError
from porter.ops import Array
from porter.partition.make import Partitioned, partition
from porter.partition.split import Split
from porter.target import Target

if TYPE_CHECKING:
    from porter.emit.bundle import Bundle
    from porter.quantize.engine import Quantized

__all__ = ["PortedParts", "Upstream", "port_parts"]

_NOTHING_TO_QUANTIZE = "PT415"


@dataclass(frozen=True, slots=True)
class PortedParts:
    """What :func:`port_parts` made: the division, and for each segment of the accelerator, by its name, what was
    quantized and the bundle. Without bundles nothing was written: ``partitioned`` says why."""

    partitioned: Partitioned
    quantized: Mapping[str, tuple[Quantized, ...]]
    bundles: Mapping[str, Bundle]

    @property
    def ok(self) -> bool:
        """The bundles are there, and no quantized segment has an error among its findings."""
        return bool(self.bundles) and all(made.ok for several in self.quantized.values() for made in several)


class Upstream:
    """The inputs of one segment, sample by sample and as often as they are asked for; nothing is kept in between."""

    def __init__(self, split: Split, number: int, data: Data) -> None:
        """``number`` is the segment's place in ``split``; ``data`` has the inputs of the whole model."""
        self._split, self._number, self._data = split, number, data

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[list[Array]]:
        segments = self._split.segments
        runners = self._split.runners()
        entries = self._split.manifest("", "")["segments"]
        for item in self._data:
            values: dict[str, Array] = dict(zip((v.name for v in self._split.inputs), item, strict=True))
            for segment, entry in zip(segments[: self._number], entries, strict=False):
                feeds = {value.name: values[value.name] for value in segment.graph.inputs}
                values.update(runners[segment.name](entry, feeds))
            yield [values[value.name] for value in segments[self._number].graph.inputs]


def port_parts(
    model: Any,
    target: Target | str | Path,
    calibration: Any,
    out: str | Path,
    inputs: Any = None,
    *,
    cut: str | Sequence[str] = "auto",
    dtypes: Sequence[str] = (),
    preprocess: Any = None,
    allow: Collection[str] = (),
    apply: Sequence[str] = (),
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
    **loading: Any,
) -> PortedParts:
    """Rewrite, divide, prove, quantize and emit in one go.

    The folder is that of :meth:`porter.partition.Partitioned.save`, and has a bundle (:func:`porter.emit`) in a folder
    of the name of each segment of the accelerator. A segment without an op that the device quantizes stays in float.

    Args:
        model, target, inputs, allow, apply, loading: as for :func:`porter.rewrite`.
        calibration: as for :func:`porter.quantize`; None for float weights only.
        cut: as for :func:`porter.partition.partition`.
        dtypes, preprocess, overwrite, progress: as for :func:`porter.port`.

    Raises:
        PorterError: as for the single steps.
    """
    from porter.api import _quantizable
    from porter.emit.bundle import emit
    from porter.files import atomic_dir, check_output
    from porter.loading import load
    from porter.quantize.engine import quantize
    from porter.quantize.scheme import Scheme

    say = progress or (lambda _text: None)
    check_output(Path(out), overwrite, folder=True)
    chosen = target if isinstance(target, Target) else Target.load(target)
    widths: list[str] = []
    if calibration is not None:
        scheme = Scheme.of(chosen)
        widths = [scheme.width(name).name for name in dtypes or (scheme.default,)]
    graph = load(model, inputs, **loading)
    data = open_data(calibration, graph.inputs, preprocess) if calibration is not None else None
    made = partition(graph, chosen, cut=cut, allow=allow, apply=apply, data=data.take(2) if data is not None else None,
                     samples=2, progress=say)  # fmt: skip
    if not made.ok:
        return PortedParts(made, {}, {})
    whole = data if data is not None else _random(made.split)
    quantized: dict[str, tuple[Quantized, ...]] = {}
    bundles: dict[str, Bundle] = {}
    with atomic_dir(Path(out), overwrite) as folder:
        made.write(folder)
        for number, segment in enumerate(made.split.segments):
            if segment.device == "host":
                continue
            feeds = open_data(Upstream(made.split, number, whole), segment.graph.inputs)
            prepared = _quantizable(segment.graph, chosen) if widths else segment.graph
            several = []
            for width in widths:
                count = partial(_say_sample, say, f"{segment.name}, {width}")
                try:
                    several.append(quantize(prepared, chosen, width, feeds, progress=count))
                except PorterError as error:
                    if error.code != _NOTHING_TO_QUANTIZE:
                        raise
            quantized[segment.name] = tuple(several)
            say(f"writing the bundle of {segment.name}")
            bundle = emit(prepared, chosen, folder / segment.name, inputs=feeds, quantized=several,
                          ledger=made.rewritten.ledger, evidence=made.evidence)  # fmt: skip
            bundles[segment.name] = replace(bundle, path=Path(out) / segment.name)
    return PortedParts(made, quantized, bundles)


def _random(split: Split) -> Data:
    from porter.data import random_inputs

    return open_data(random_inputs(split.inputs, 2), split.inputs)


def _say_sample(say: Callable[[str], None], what: str, done: int, total: int) -> None:
    say(f"{what}: sample {done} of {total}")
