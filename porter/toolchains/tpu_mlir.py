# SPDX-License-Identifier: Apache-2.0
"""tpu-mlir (BSD-2-Clause) for the Sophgo BM1684X: transforms, compiles to a .bmodel of F16, runs it in the simulator.

Half precision needs no calibration. The wheel brings a C library of glibc 2.35 that stands in the way of a newer
system's own: it is removed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

TITLE = "tpu-mlir"
LICENCE = "BSD-2-Clause"
PYTHONS = ("3.10",)
PACKAGES = (
    ("tpu-mlir[onnx]==1.30.2", "setuptools<81", "numpy==1.24.3", "protobuf==3.20.3", "psutil", "torch==1.12.1"),
)
VERSIONS = ("tpu_mlir",)
REMOVED = tuple(
    f"lib/python*/site-packages/tpu_mlir/lib/third_party/{name}"
    for name in ("libc.so.6", "libm.so.6", "libpthread.so.0")
)
#: Folders of shared libraries that must be known when the process starts.
LIBRARIES = tuple(f"lib/python*/site-packages/tpu_mlir/lib{part}" for part in ("", "/capi", "/third_party"))
ARTIFACTS = (".bmodel",)
NUMERICS = "float"
TARGETS = {"bm1684x": {"processor": "bm1684x"}}


def load(which: Any) -> dict[str, Any]:
    """Import what every job needs; each step then runs in a process forked from here."""
    for name in ("transform", "deploy", "runner"):
        importlib.import_module(f"tpu_mlir.python.tools.model_{name}")
    return {}


def run(job: dict[str, Any], stage: Any) -> dict[str, Any]:
    """Transform and compile one model, and run it in the simulator."""
    np = importlib.import_module("numpy")
    feeds = np.load(job["feeds"])
    np.savez("in.npz", **{name: feeds[f"{name}:0"] for name in job["inputs"]})
    shapes = str([job["shapes"][name] for name in job["inputs"]]).replace(" ", "")
    stage("transform")
    _call(
        "model_transform",
        "--model_name",
        "m",
        "--model_def",
        job["model"],
        "--input_shapes",
        shapes,
        "--mlir",
        "m.mlir",
    )
    stage("compile")
    _call("model_deploy", "--mlir", "m.mlir", "--quantize", "F16", "--processor", job["options"]["processor"],
          "--model", "m.bmodel")  # fmt: skip
    stage("simulate")
    _call("model_runner", "--input", "in.npz", "--model", "m.bmodel", "--output", "out.npz")
    given = np.load("out.npz")
    np.savez(job["results"], **{f"{i}:0": _output(given, name) for i, name in enumerate(job["outputs"])})
    return {"artifact": str(Path("m.bmodel").resolve())}


def _output(given: Any, name: str) -> Any:
    """The output of that name; tpu-mlir appends the kind of the op that computes it ("y_Conv")."""
    found = [key for key in given.files if key == name or key.startswith(f"{name}_")]
    if len(found) != 1 and len(given.files) != 1:
        raise RuntimeError(f"no output {name} among {', '.join(given.files)}")
    return given[found[0] if len(found) == 1 else given.files[0]]


def _call(program: str, *arguments: str) -> None:
    """Run a tool of the wheel as the main program of a forked process."""
    log = Path("log.txt")
    before = log.stat().st_size
    child = os.fork()
    if not child:
        tool = Path(os.environ["TPUC_ROOT"]) / "python" / "tools" / f"{program}.py"
        sys.argv = [str(tool), *arguments]
        code = 1
        try:
            runpy.run_path(str(tool), run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        lines = log.read_bytes()[before:].decode("utf-8", "replace").splitlines()
        told = [line for line in lines if "rror" in line or "ot support" in line]
        raise RuntimeError(told[-1].strip() if told else f"{program} ended with status {status}")
