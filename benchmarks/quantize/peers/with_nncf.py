# SPDX-License-Identifier: Apache-2.0
"""nncf.quantize on ONNX. Settings: ``preset`` and ``fast_bias_correction`` as it takes them."""

from __future__ import annotations

from typing import Any

import nncf
import onnx
from job import Job, main


def quantize(job: Job) -> None:
    options: dict[str, Any] = dict(job.settings)
    if "preset" in options:
        options["preset"] = nncf.QuantizationPreset[options["preset"]]
    made = nncf.quantize(onnx.load(job.model), nncf.Dataset(job.feeds()), **options)
    onnx.save(made, job.out)


if __name__ == "__main__":
    main(quantize)
