# SPDX-License-Identifier: Apache-2.0
"""AMD Quark on ONNX. Settings: ``config`` (the name of one of its own), ``equalize`` (cross-layer equalization first)."""

from __future__ import annotations

from typing import Any

import onnx
from job import Job, main
from onnxruntime.quantization import CalibrationDataReader
from quark import onnx as quark
from quark.onnx.quantization.config.spec import Int16Spec, QLayerConfig


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
    name = job.settings.get("config", {"int8": "A8W8_QCONFIG"}.get(job.width, "A16W8_QCONFIG"))
    config = getattr(quark, name)
    if job.width == "int16":
        config.global_config = QLayerConfig(activation=Int16Spec(), weight=Int16Spec())
    if job.settings.get("equalize"):
        config.algo_config = [quark.CLEConfig(), *config.algo_config]
    quark.ModelQuantizer(config).quantize_model(onnx.load(job.model), job.out, Reader(job))


if __name__ == "__main__":
    main(quantize)
