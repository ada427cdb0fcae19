# SPDX-License-Identifier: Apache-2.0
"""nncf.quantize on ONNX. Settings: ``preset`` and ``fast_bias_correction`` as it takes them; ``per_tensor`` gives the
inputs of depthwise convolutions one scale, as those of all others have, instead of one a channel."""

from __future__ import annotations

from typing import Any

import nncf
import onnx
from job import Job, main
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters


def quantize(job: Job) -> None:
    options: dict[str, Any] = dict(job.settings)
    if options.pop("per_tensor", False):
        options["advanced_parameters"] = AdvancedQuantizationParameters(
            activations_quantization_params=QuantizationParameters(per_channel=False)
        )
    if "preset" in options:
        options["preset"] = nncf.QuantizationPreset[options["preset"]]
    made = nncf.quantize(onnx.load(job.model), nncf.Dataset(job.feeds()), **options)
    onnx.save(made, job.out)


if __name__ == "__main__":
    main(quantize)
