# SPDX-License-Identifier: Apache-2.0
"""esp-ppq (Apache-2.0) for the ESP32-P4: quantizes to int8 with exponents, writes .espdl, runs in its own executor.

It does not say what the library on the device can run.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

TITLE = "esp-ppq"
LICENCE = "Apache-2.0"
PYTHONS = ("3.11", "3.12")
PACKAGES = (("esp-ppq==1.3.12", "torch==2.13.0", "onnxruntime==1.32.0"),)
VERSIONS = ("esp-ppq",)
ARTIFACTS = (".espdl",)
#: ESP-DL, the library on the device, has limits that esp-ppq does not check.
PROVES = False
NUMERICS = "int8"
TARGETS = {"esp32p4": {"target": "esp32p4"}}


def load(which: Any) -> dict[str, Any]:
    """Import what every job needs."""
    importlib.import_module("torch").set_num_threads(1)
    importlib.import_module("esp_ppq.api")
    importlib.import_module("esp_ppq.executor")
    return {}


def run(job: dict[str, Any], stage: Any) -> dict[str, Any]:
    """Quantize and export one model, and run the quantized graph."""
    np, torch, api = (importlib.import_module(name) for name in ("numpy", "torch", "esp_ppq.api"))
    feeds = np.load(job["feeds"])
    samples = [{name: torch.from_numpy(feeds[f"{name}:{i}"]) for name in job["inputs"]} for i in range(job["samples"])]
    artifact = Path(job["model"]).with_suffix(".espdl")
    stage("quantize+export")
    _write_defaults(job["model"])
    graph = api.espdl_quantize_onnx(
        onnx_import_file=job["model"],
        espdl_export_file=str(artifact),
        calib_dataloader=samples,
        calib_steps=len(samples),
        input_shape=[job["shapes"][name] for name in job["inputs"]],
        inputs=samples[0],
        target=job["options"]["target"],
        num_of_bits=8,
        collate_fn=lambda sample: sample,
        device="cpu",
        error_report=False,
        skip_export=False,
        export_test_values=False,
        verbose=0,
    )
    stage("simulate")
    executor = importlib.import_module("esp_ppq.executor").TorchExecutor(graph=graph, device="cpu")
    outputs = dict(zip(graph.outputs, executor(inputs=samples[0]), strict=True))
    np.savez(job["results"], **{f"{i}:0": outputs[name].detach().numpy() for i, name in enumerate(job["outputs"])})
    return {"artifact": str(artifact)}


def _write_defaults(path: str) -> None:
    """Write out the keepdims of reductions: esp-ppq 1.3.12 stops where the file leaves it to ONNX's default."""
    onnx = importlib.import_module("onnx")
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type.startswith("Reduce") and all(attribute.name != "keepdims" for attribute in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("keepdims", 1))
    onnx.save(model, path)
