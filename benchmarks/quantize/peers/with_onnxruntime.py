# SPDX-License-Identifier: Apache-2.0
"""onnxruntime.quantization.quantize_static. Settings: its options, by the names of its enumerations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from job import Job, main
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

TYPES = {
    "int8": {},
    "int16": {"activation_type": QuantType.QInt16, "weight_type": QuantType.QInt16},
    "w8a16": {"activation_type": QuantType.QInt16, "weight_type": QuantType.QInt8},
}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """The calibration items, one at a time."""

    def __init__(self, job: Job) -> None:
        self._name, self._items = job.input, job.items()

    def get_next(self) -> dict[str, Any] | None:
        item = next(self._items, None)
        return None if item is None else {self._name: item}


def quantize(job: Job) -> None:
    prepared = str(Path(job.out).with_suffix(".prepared.onnx"))
    quant_pre_process(job.model, prepared)
    options: dict[str, Any] = {**TYPES[job.width], **job.settings}
    if "calibrate_method" in options:
        options["calibrate_method"] = CalibrationMethod[options["calibrate_method"]]
    for key in ("activation_type", "weight_type"):
        if isinstance(options.get(key), str):
            options[key] = QuantType[options[key]]
    quantize_static(prepared, job.out, Reader(job), **options)


if __name__ == "__main__":
    main(quantize)
