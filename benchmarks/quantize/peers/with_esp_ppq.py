# SPDX-License-Identifier: Apache-2.0
"""esp-ppq, the maintained fork of PPQ, for the ONNXRUNTIME platform (int8 only; its int16 platforms are power-of-two
and export no ONNX). Settings: ``calib_algorithm``, ``equalization``, ``bias_correct``."""

from __future__ import annotations

import esp_ppq.api.interface
import torch
from esp_ppq import QuantizationSettingFactory, TargetPlatform
from esp_ppq.api import export_ppq_graph, quantize_onnx_model
from job import Job, main

# It would export the Swish that it fuses into opset 17, which has none.
esp_ppq.api.interface.FORMATTER_FUSE_SWISH = False


def quantize(job: Job) -> None:
    setting = QuantizationSettingFactory.default_setting()
    if "calib_algorithm" in job.settings:
        setting.quantize_activation_setting.calib_algorithm = job.settings["calib_algorithm"]
    setting.equalization = job.settings.get("equalization", False)
    setting.bias_correct = job.settings.get("bias_correct", False)
    items = [torch.from_numpy(item) for item in job.items()]
    graph = quantize_onnx_model(
        job.model, items, len(items), list(items[0].shape), TargetPlatform.ONNXRUNTIME,
        input_dtype=items[0].dtype, setting=setting, device="cpu",
    )  # fmt: skip
    export_ppq_graph(graph, TargetPlatform.ONNXRUNTIME, job.out)


if __name__ == "__main__":
    main(quantize)
