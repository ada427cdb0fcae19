# SPDX-License-Identifier: Apache-2.0
"""rknn-toolkit2 (proprietary) for Rockchip's NPUs: builds a .rknn of w8a8 and runs it in its simulator.

Its licence, the RKNN SDK License, allows the development and the test of applications for Rockchip's products: porter
asks it about those alone, installs it only for a user who accepts it, and reads nothing but what it prints of a model.
The report of its layers says which run on the NPU and which on the CPU. Its simulator is the quantized graph, not the
chip: its numbers are the same for every chip, only the placement differs.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import sys
from pathlib import Path
from typing import Any

TITLE = "rknn-toolkit2"
LICENCE = "RKNN SDK License, proprietary"
#: Where the text is that its user agrees to by downloading it.
PROPRIETARY = "https://github.com/airockchip/rknn-toolkit2/blob/master/LICENSE"
PYTHONS = ("3.10",)
#: torch 1.12.1 is the last on the package index that brings no library of a graphics card; the toolkit imports it.
PACKAGES = (
    ("numpy==1.26.4", "protobuf==4.25.4", "psutil", "ruamel.yaml", "scipy", "tqdm", "setuptools<81", "fast-histogram",
     "opencv-python-headless==4.10.0.84", "onnx==1.16.1", "onnxruntime==1.20.1", "torch==1.12.1"),
    ("--no-deps", "rknn-toolkit2==2.5.0"),
)  # fmt: skip
VERSIONS = ("rknn-toolkit2",)
ARTIFACTS = (".rknn",)
LEAD = TRAIL = (4,)
NUMERICS = "int8"
TARGETS = {name: {"platform": name} for name in ("rk3588", "rk3566", "rv1106")}

#: A row of the table of layers: number, operator, dtype, and where it runs.
_LAYER = re.compile(r"RKNN: \[[\d:.]+\] \d+ +(\w+) +\w+ +(CPU|NPU) .* (\S+) *$", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_ENDS = frozenset({"InputOperator", "OutputOperator"})


def load(which: Any) -> dict[str, Any]:
    """Import what every job needs."""
    importlib.import_module("rknn.api")
    return {}


def run(job: dict[str, Any], stage: Any) -> dict[str, Any]:
    """Load, quantize and build one model, and run it in the simulator."""
    np = importlib.import_module("numpy")
    feeds = np.load(job["feeds"])
    lines = []
    for i in range(job["samples"]):
        names = [f"{i}_{j}.npy" for j in range(len(job["inputs"]))]
        for file, name in zip(names, job["inputs"], strict=True):
            np.save(file, feeds[f"{name}:{i}"])
        lines.append(" ".join(names) + "\n")
    Path("dataset.txt").write_text("".join(lines), encoding="utf-8")
    rknn = importlib.import_module("rknn.api").RKNN(verbose=True)
    rknn.config(target_platform=job["options"]["platform"])
    stage("load")
    _check(rknn.load_onnx(model=job["model"]), "does not load the model")
    stage("build")
    _check(rknn.build(do_quantization=True, dataset="dataset.txt"), "does not build the model")
    artifact = Path("model.rknn").resolve()
    _check(rknn.export_rknn(str(artifact)), "does not write the model")
    layers = _LAYER.findall(_log())
    placed = {
        where: [f"{kind} {name}" for kind, on, name in layers if on == where and kind not in _ENDS]
        for where in ("CPU", "NPU")
    }
    stage("simulate")
    _check(rknn.init_runtime(), "does not start its simulator")
    arrays = [feeds[f"{name}:0"] for name in job["inputs"]]
    outputs = rknn.inference(inputs=arrays, data_format=["nchw"] * len(arrays))
    np.savez(job["results"], **{f"{i}:0": outputs[i] for i in range(len(job["outputs"]))})
    reasons = [f"{kind.partition(' ')[0]}: a CPU layer in the report of the compiler" for kind in placed["CPU"]]
    return {"artifact": str(artifact), "cpu": placed["CPU"], "npu": placed["NPU"], "reasons": reasons}


def _check(status: int, problem: str) -> None:
    """The toolkit tells a failure by a status, and why in its log: the last line that is an error."""
    if status:
        told = [line for line in _COLOUR.sub("", _log()).splitlines() if re.match(r"E\b|\w*Error", line)]
        raise RuntimeError(told[-1] if told else f"the toolkit {problem}")


def _log() -> str:
    """What the toolkit printed so far; its native part keeps its lines in the C library until they are asked for."""
    sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)
    return Path("log.txt").read_text(encoding="utf-8", errors="replace")
