# SPDX-License-Identifier: Apache-2.0
"""aimet_onnx. Settings: ``quant_scheme``; ``equalize`` (cross-layer equalization first)."""

from __future__ import annotations

import onnx
from aimet_onnx import QuantizationSimModel
from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
from aimet_onnx.cross_layer_equalization import equalize_model
from job import Job, main

TYPES = {"int8": ("int8", "int8"), "int16": ("int16", "int16"), "w8a16": ("int8", "int16")}


def quantize(job: Job) -> None:
    model = onnx.load(job.model)
    if job.settings.get("equalize"):
        equalize_model(model)
    else:
        fold_all_batch_norms_to_weight(model)
    weights, activations = TYPES[job.width]
    sim = QuantizationSimModel(
        model, param_type=weights, activation_type=activations,
        quant_scheme=job.settings.get("quant_scheme", "min_max"),
    )  # fmt: skip
    sim.compute_encodings(job.feeds())
    onnx.save(sim.to_onnx_qdq(), job.out)


if __name__ == "__main__":
    main(quantize)
