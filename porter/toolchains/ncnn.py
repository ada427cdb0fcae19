# SPDX-License-Identifier: Apache-2.0
"""pnnx and ncnn (BSD-3-Clause): pnnx makes .param and .bin of an ONNX file, ncnn loads them and runs on this CPU.

What pnnx cannot lower it leaves as a layer that ncnn does not know; the file then does not load. ncnn has no batch
axis. pnnx names torch as a dependency for its Python functions, which are not used here; the program stands alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

TITLE = "pnnx and ncnn"
LICENCE = "BSD-3-Clause"
PYTHONS = ("3.11", "3.12")
PACKAGES = (("numpy==2.4.6",), ("--no-deps", "ncnn==1.0.20261020", "pnnx==20261020"))
VERSIONS = ("pnnx", "ncnn")
ARTIFACTS = (".ncnn.param", ".ncnn.bin")
#: Ranks of inputs behind a convolution: an op alone does not tell pnnx which axis is the batch.
LEAD = (3, 4, 5)
NUMERICS = "float"
TARGETS: dict[str, dict[str, Any]] = {"ncnn": {}}


def load(which: Any) -> dict[str, Any]:
    """Import what every job needs."""
    importlib.import_module("ncnn")
    return {}


def run(job: dict[str, Any], stage: Any) -> dict[str, Any]:
    """Convert one model without half precision, load it, and run it."""
    np, ncnn = importlib.import_module("numpy"), importlib.import_module("ncnn")
    feeds = np.load(job["feeds"])
    stage("pnnx")
    code = {"float32": "f32", "float16": "f16", "int64": "i64", "int32": "i32", "bool": "i1", "uint8": "u8"}
    shapes = ",".join(
        str(job["shapes"][name]).replace(" ", "") + code[str(feeds[f"{name}:0"].dtype)] for name in job["inputs"]
    )
    found = importlib.util.find_spec("pnnx")  # importing it would import torch
    assert found is not None and found.origin is not None
    program = Path(found.origin).parent / "pnnx"
    done = subprocess.run(
        [str(program), job["model"], f"inputshape={shapes}", "fp16=0"], capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr)
    param = Path(job["model"]).with_suffix(".ncnn.param")
    if done.returncode or not param.exists():
        raise RuntimeError(f"pnnx ended with status {done.returncode}")
    stage("load")
    unknown = sorted({line.split()[0] for line in param.read_text().splitlines()[2:] if "." in line.split()[0]})
    if unknown:
        raise RuntimeError(f"ncnn has no layer {', '.join(unknown)}")
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param(str(param)) or net.load_model(str(param.with_suffix(".bin"))):
        raise RuntimeError("ncnn does not load what pnnx made")
    stage("simulate")
    extractor = net.create_extractor()
    for i, name in enumerate(job["inputs"]):
        array = feeds[f"{name}:0"]
        array = array[0] if array.ndim > 1 and array.shape[0] == 1 else array
        array = np.ascontiguousarray(array.astype("float32") if array.dtype.kind == "f" else array.astype("int32"))
        if extractor.input(f"in{i}", ncnn.Mat(array).clone()):
            raise RuntimeError(f"ncnn has no input in{i}")
    results = {}
    for i in range(len(job["outputs"])):
        status, got = extractor.extract(f"out{i}")
        if status:
            raise RuntimeError(f"ncnn computes no out{i} (status {status})")
        results[f"{i}:0"] = np.array(got)
    sys.stdout.flush()
    np.savez(job["results"], **results)
    return {"artifact": str(param)}
