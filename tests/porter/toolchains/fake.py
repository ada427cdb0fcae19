# SPDX-License-Identifier: Apache-2.0
"""A compiler for tests: runs what it is given in ONNX Runtime, and has habits that real ones have.

Sigmoid goes to the CPU; Tanh computes zeros; Sin crashes; Cos hangs; a kernel over 7 is refused, and so is Erf.
"""

from __future__ import annotations

import importlib
import os
import time
from typing import Any

TITLE = "the fake compiler"
LICENCE = "none"
PYTHONS = ("3.11",)
PACKAGES = (("fake==1.0",),)
VERSIONS = ("fake",)
ARTIFACTS = (".fake",)
NUMERICS = "float"
TARGETS = {"fake": {"answer": 42}}


def load(which: Any) -> dict[str, Any]:
    for name in ("onnx", "onnxruntime", "numpy"):
        importlib.import_module(name)
    return {}


def run(job: dict[str, Any], stage: Any) -> dict[str, Any]:
    np, onnx, runtime = (importlib.import_module(name) for name in ("numpy", "onnx", "onnxruntime"))
    print("the fake compiler begins")
    stage("compile")
    graph = onnx.load(job["model"]).graph
    kinds = {node.op_type for node in graph.node}
    for node in graph.node:
        kernel = next((list(a.ints) for a in node.attribute if a.name == "kernel_shape"), [])
        if max(kernel, default=0) > 7:
            raise ValueError("kernels are at most 7\nand more text")
    if "Erf" in kinds:
        raise NotImplementedError("no Erf")
    if "Sin" in kinds:
        os.abort()
    if "Cos" in kinds:
        time.sleep(60)
    stage("simulate")
    feeds = np.load(job["feeds"])
    session = runtime.InferenceSession(job["model"], providers=["CPUExecutionProvider"])
    outputs = session.run(None, {name: feeds[f"{name}:0"] for name in job["inputs"]})
    if "Tanh" in kinds:
        outputs = [output * 0 for output in outputs]
    np.savez(job["results"], **{f"{i}:0": output for i, output in enumerate(outputs)})
    artifact = os.path.abspath("model.fake")  # noqa: PTH100 (the worker's folder)
    with open(artifact, "w") as file:  # noqa: PTH123
        file.write(str(job["options"]["answer"]))
    placed = {"cpu": ["Sigmoid y"], "reasons": ["Sigmoid: floats"]} if "Sigmoid" in kinds else {"npu": ["all"]}
    return {**placed, "artifact": artifact}
