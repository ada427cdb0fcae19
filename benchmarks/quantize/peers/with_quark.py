# SPDX-License-Identifier: Apache-2.0
"""AMD Quark on ONNX: its A8W8 and A16W8 configurations. Settings: ``per_channel`` (weights), ``equalize`` (cross-layer
equalization first)."""

from __future__ import annotations

from typing import Any

import onnx
from job import Job, main
from onnxruntime.quantization import CalibrationDataReader
from quark import onnx as quark
from quark.onnx.quantization.config.spec import Int8Spec, Int16Spec, QLayerConfig, QuantGranularity


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """The calibration items, as often as Quark winds back."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.rewind()

    def get_next(self) -> dict[str, Any] | None:
        item = next(self._items, None)
        return None if item is None else {self._job.input: item}

    def rewind(self) -> None:
        self._items = self._job.items()

    reset_iter = rewind


def quantize(job: Job) -> None:
    config = quark.A8W8_QCONFIG if job.width == "int8" else quark.A16W8_QCONFIG
    granularity = QuantGranularity.Channel if job.settings.get("per_channel") else QuantGranularity.Tensor
    weight = Int16Spec if job.width == "int16" else Int8Spec
    config.global_config = QLayerConfig(
        activation=config.global_config.activation, weight=weight(quant_granularity=granularity)
    )
    if job.settings.get("equalize"):
        config.algo_config.append(quark.CLEConfig())
    quark.ModelQuantizer(config).quantize_model(onnx.load(job.model), job.out, Reader(job))


if __name__ == "__main__":
    main(quantize)
