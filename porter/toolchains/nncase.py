# SPDX-License-Identifier: Apache-2.0
"""nncase 1.9 (Apache-2.0) for the Kendryte K210: compiles to a .kmodel of uint8 and runs it in its simulator.

It wants shapes known and constants folded, and does not say what the KPU computes and what the CPU beside it.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

TITLE = "nncase"
LICENCE = "Apache-2.0"
PYTHONS = ("3.10",)
PACKAGES = (("nncase==1.9.0.20230322", "numpy==1.26.4", "onnx==1.14.1", "protobuf==3.20.3", "onnxsim==0.4.36"),)
VERSIONS = ("nncase",)
ARTIFACTS = (".kmodel",)
NUMERICS = "int8"
TARGETS = {"k210": {"target": "k210"}}


def load(which: Any) -> dict[str, Any]:
    """Import what every job needs."""
    importlib.import_module("nncase")
    importlib.import_module("onnx")
    return {}


def run(job: dict[str, Any], stage: Any) -> dict[str, Any]:
    """Import, quantize and compile one model, and run it in the simulator."""
    np, nncase, onnx = (importlib.import_module(name) for name in ("numpy", "nncase", "onnx"))
    feeds = np.load(job["feeds"])
    path = Path(job["model"])
    if job["simplify"]:
        stage("onnxsim")  # in a process of its own: with nncase in the same one it aborts
        subprocess.run([sys.executable, "-m", "onnxsim", str(path), str(path)], check=True)
    stage("import")
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(path)), path)
    options = nncase.CompileOptions()
    options.target = job["options"]["target"]
    options.dump_dir = "dump"
    compiler = nncase.Compiler(options)
    compiler.import_onnx(path.read_bytes(), nncase.ImportOptions())
    stage("quantize")
    calibration = nncase.PTQTensorOptions()
    calibration.samples_count = job["samples"]
    arrays = [
        np.ascontiguousarray(feeds[f"{name}:{i}"], dtype=np.float32)
        for i in range(job["samples"])
        for name in job["inputs"]
    ]
    calibration.set_tensor_data(b"".join(array.tobytes() for array in arrays))
    compiler.use_ptq(calibration)
    stage("compile")
    compiler.compile()
    artifact = path.with_suffix(".kmodel")
    artifact.write_bytes(compiler.gencode_tobytes())
    stage("simulate")
    simulator = nncase.Simulator()
    simulator.load_model(artifact.read_bytes())
    for i, name in enumerate(job["inputs"]):
        array = feeds[f"{name}:0"]
        tensor = nncase.RuntimeTensor.from_numpy(array.astype(np.float32) if array.dtype.kind == "f" else array)
        simulator.set_input_tensor(i, tensor)
    simulator.run()
    np.savez(
        job["results"], **{f"{i}:0": simulator.get_output_tensor(i).to_numpy() for i in range(len(job["outputs"]))}
    )
    return {"artifact": str(artifact)}
