# SPDX-License-Identifier: Apache-2.0
"""``porter predict`` and ``porter validate``: the metric of a stage, and whether what was emitted is the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from porter.findings import Finding
from porter.loading import load
from porter.ops import Array
from porter.quantize.scheme import Scheme
from porter.quantize.simulate import Simulator
from porter.target import Target
from porter.train.build import build
from porter.train.config import Config, Converter, Stage, load_config
from porter.train.distributed import processes
from porter.train.evaluate import Validation
from porter.train.events import Events
from porter.train.qat import IntNetwork
from porter.train.stages import check_stage, emitted_onnx, open_integers

__all__ = ["Difference", "Prediction", "Predictions", "Validated", "predict", "stage_network", "validate"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The metric of one stage's best checkpoint over the validation data."""

    stage: Stage
    task_name: str
    metrics: Mapping[str, float]
    monitor: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "task_name": self.task_name,
            "metrics": dict(self.metrics),
            "monitor": self.monitor,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class Predictions:
    """A row for each stage, in the order in which they were asked for."""

    rows: tuple[Prediction, ...]

    def to_json(self) -> dict[str, Any]:
        return {"stages": [row.to_json() for row in self.rows]}


def predict(config: Config | str | Path, stages: Sequence[str], *, events: Events | None = None) -> Predictions:
    """The metric of stages, each by its best checkpoint; int_infer by porter's integer simulation of the device.

    Args:
        config: a configuration, or its file.
        stages: names of stages.
        events: whom to tell how it goes.

    Raises:
        PorterError: PT519 for a stage that there is not; PT702 without a metric or data; PT703 when a stage has not
            been run; PT706 when int_infer is older than what it was made of; PT708 and PT520 for the metric.
    """
    chosen = config if isinstance(config, Config) else load_config(config)
    kinds = [check_stage(stage) for stage in stages]
    made = []
    with processes(chosen.device) as group:
        heard = (events or Events()) if group.first else Events()
        for kind in kinds:
            begin = time.monotonic()
            network = stage_network(chosen, kind)
            if isinstance(network, nn.Module):
                network.to(group.device)
            validation = Validation(chosen, kind, group, predict=True)
            metrics = validation.run(network, heard)
            seconds = time.monotonic() - begin
            made.append(Prediction(kind, chosen.task_name, metrics, validation.monitor or "", seconds))
    return Predictions(tuple(made))


def stage_network(config: Config, stage: Stage) -> Callable[[Tensor], Any]:
    """What a stage computes: images float[N, C, H, W] to a tuple of real outputs.

    Raises:
        PorterError: PT703 and PT704 for the checkpoint; PT706 as above.
    """
    wanted_by = f"porter predict --stage {stage}"
    own = config.predictor(stage).converters
    if stage == "int_infer" and own is None:
        return _reals(open_integers(config, wanted_by))
    loads = Converter(type="LoadCheckpoint", stage=stage)
    usual: dict[str, tuple[Converter, ...]] = {
        "float": (loads,),
        "calibration": (Converter(type="Float2Calibration"), loads),
        "qat": (Converter(type="Float2QAT"), loads),
    }
    network = build(config, stage, usual[stage] if own is None else own).network
    return _reals(network) if isinstance(network, IntNetwork) else network


def _reals(network: IntNetwork) -> Callable[[Tensor], tuple[Tensor, ...]]:
    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(one).to(images.device) for one in network.real(network(images.cpu().numpy())))

    return run


@dataclass(frozen=True, slots=True)
class Difference:
    """An output that is not the same: in how many images, how many elements, and by how much at most."""

    output: str
    images: int
    elements: int
    largest: float

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Validated:
    """What :func:`validate` found.

    images, elements: how many were compared. different: the outputs that are not the same bit for bit. metrics: of the
    emitted model, where the configuration has a metric.
    """

    task_name: str
    target: str
    emitted: Path
    images: int
    elements: int
    different: tuple[Difference, ...]
    metrics: Mapping[str, float] | None
    monitor: str | None
    seconds: float
    findings: tuple[Finding, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Every element of every output of every image is the same."""
        return not self.different and self.images > 0

    def to_json(self) -> dict[str, Any]:
        return {
            "task_name": self.task_name,
            "target": self.target,
            "emitted": str(self.emitted),
            "images": self.images,
            "elements": self.elements,
            "ok": self.ok,
            "different": [one.to_json() for one in self.different],
            "metrics": None if self.metrics is None else dict(self.metrics),
            "monitor": self.monitor,
            "seconds": self.seconds,
            "findings": [finding.to_json() for finding in self.findings],
        }


def validate(config: Config | str | Path, *, events: Events | None = None) -> Validated:
    """Run the emitted quantized ONNX, in integers, over the validation data, and compare with the network of integers.

    The two go different ways: the network is torch's captured graph with its encodings; the file is read as any QDQ
    ONNX, and its scales are those in it. Both are computed by :mod:`porter.quantize.simulate` with the
    rules of the target.

    Args:
        config: a configuration, or its file.
        events: whom to tell how it goes.

    Raises:
        PorterError: PT702 without validation data; PT703 when int_infer has not been run, or has not written a
            quantized ONNX; PT706 when it is older than what it was made of; PT708 and PT520 for the metric.
    """
    chosen = config if isinstance(config, Config) else load_config(config)
    begin = time.monotonic()
    network = open_integers(chosen, "porter validate")
    path = emitted_onnx(chosen)
    emitted = Simulator(load(path), Scheme.of(Target.load(chosen.target)), "int")
    names = [output.name for output in network.outputs]
    counts: dict[str, list[float]] = {}
    images = elements = 0

    def run(batch: Tensor) -> tuple[Tensor, ...]:
        nonlocal images, elements
        columns = []
        for image in batch.cpu().numpy():
            ours, theirs = network(image[None]), emitted.run([image[None]]).outputs
            images += 1
            for name, own, other in zip(names, ours, theirs, strict=True):
                elements += own.size
                _compare(name, own, other, counts)
            columns.append(network.real(theirs))
        return tuple(torch.from_numpy(np.concatenate(column)) for column in zip(*columns, strict=True))

    with processes("cpu") as group:
        validation = Validation(chosen, "int_infer", group, predict=True)
        metrics = validation.run(run, events or Events())
    different = tuple(Difference(name, int(n), int(m), largest) for name, (n, m, largest) in counts.items())
    findings = [*network.findings]
    if network.overflows:
        text = ", ".join(f"{count} of {name}" for name, count in network.overflows.most_common(5))
        findings.append(Finding("PT441", "warning", f"sums do not fit the accumulator: {text}"))
    return Validated(
        chosen.task_name, chosen.target, path, images, elements, different, metrics, validation.monitor,
        time.monotonic() - begin, tuple(findings),
    )  # fmt: skip


def _compare(name: str, own: Array, other: Array, counts: dict[str, list[float]]) -> None:
    """Count what differs: in the bits of the elements, the dtype or the shape."""
    if own.dtype == other.dtype and own.shape == other.shape and own.tobytes() == other.tobytes():
        return
    if own.shape == other.shape:
        unequal = own != other
        gap = np.abs(own.astype(np.float64) - other.astype(np.float64))
        count, largest = max(int(unequal.sum()), int(own.dtype != other.dtype) * own.size), float(gap.max())
    else:
        count, largest = own.size, float("inf")
    entry = counts.setdefault(name, [0, 0, 0.0])
    entry[:] = entry[0] + 1, entry[1] + count, max(entry[2], largest)
