# SPDX-License-Identifier: Apache-2.0
"""The last step of an ONNX bundle: the vendor's own compiler, as a script that goes along, and a run of it.

``build.py`` needs nothing of porter's: it runs in the compiler's environment, in the bundle's folder, on ``model.onnx``
and on the inputs that ``calibration.txt`` lists (a line a sample, a .npy file an input).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from porter.errors import PorterError
from porter.target import Target

if TYPE_CHECKING:
    from porter.emit.bundle import Job

__all__ = ["COMPILERS", "build", "can_build", "write"]

#: The compiler of each runtime: its name in :mod:`porter.toolchains`, and what it writes.
COMPILERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "rknn": ("rknn", ("model.rknn",)),
    "tpu-mlir": ("tpu-mlir", ("model.bmodel",)),
    "vela": ("vela", ("model_vela.tflite",)),
    "ncnn": ("ncnn", ("model.ncnn.param", "model.ncnn.bin")),
    "nncase": ("nncase", ("model.kmodel",)),
    "esp-dl": ("esp", ("model.espdl",)),
}
_CODES = {"float32": "f32", "float16": "f16", "int64": "i64", "int32": "i32", "bool": "i1", "uint8": "u8"}
#: A compiler may take this long (seconds).
_LIMIT = 1800


def write(job: Job, folder: Path) -> dict[str, Any]:
    """Add ``build.py``, ``calibration.txt`` and its arrays to an ONNX bundle; returns what the manifest says of them.

    Nothing is added for a runtime without a compiler that porter knows (onnxruntime): {} then.
    """
    framework = job.target.runtime.framework
    if framework not in COMPILERS:
        return {}
    lines = []
    calibration = folder / "calibration"
    calibration.mkdir()
    for number, sample in enumerate(job.samples):
        names = [f"calibration/{number:03}_{i}.npy" for i in range(len(sample))]
        for name, array in zip(names, sample, strict=True):
            np.save(folder / name, array)
        lines.append(" ".join(names))
    (folder / "calibration.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (folder / "build.py").write_text(_script(job), encoding="utf-8")
    return {"build": {"script": "build.py", "calibration": "calibration.txt", "samples": len(lines),
                      "toolchain": COMPILERS[framework][0], "makes": list(COMPILERS[framework][1])}}  # fmt: skip


def _script(job: Job) -> str:
    artifact = job.target.artifact
    inputs = job.graph.inputs
    shapes = [list(value.shape or ()) for value in inputs]
    values = {
        "CORE": artifact.core_version if artifact is not None else "",
        "INPUTS": repr([value.name for value in inputs]),
        "SHAPES": str(shapes).replace(" ", ""),
        "TYPED": ",".join(
            str(shape).replace(" ", "") + _CODES.get(value.dtype or "", "f32")
            for shape, value in zip(shapes, inputs, strict=True)
        ),
        "QUANTIZE": "True",
    }
    name = f"build_{job.target.runtime.framework}.py.in"
    text = resources.files("porter.emit").joinpath("templates", name).read_text(encoding="utf-8")
    return re.sub("@([A-Z]+)@", lambda found: values[found[1]], text)


def can_build(target: Target) -> Path:
    """The Python that runs ``build.py``.

    Raises:
        PorterError: PT784 for a target without a compiler; PT781 when the compiler is not installed.
    """
    from porter.toolchains import environment

    framework = target.runtime.framework
    if framework not in COMPILERS:
        raise PorterError(
            "PT784", f"there is no compiler to run for {target.name}", "--build", f"porter runs {', '.join(COMPILERS)}."
        )
    return environment.interpreter(COMPILERS[framework][0])


def build(target: Target, folder: Path) -> list[str]:
    """Run ``build.py`` on a copy of the bundle's folder, and bring back the files that the compiler is run for.

    What else compilers leave behind stays in the copy. Returns the names of the files.

    Raises:
        PorterError: PT781 as :func:`can_build`; PT784 when the compiler fails, takes too long, or writes nothing.
    """
    python = can_build(target)
    makes = COMPILERS[target.runtime.framework][1]
    with tempfile.TemporaryDirectory(prefix="porter-build-") as place:
        work = Path(place) / "bundle"
        shutil.copytree(folder, work)
        try:
            done = subprocess.run([str(python), "build.py"], cwd=work, capture_output=True, text=True, check=False,
                                  timeout=_LIMIT, stdin=subprocess.DEVNULL)  # fmt: skip
        except subprocess.TimeoutExpired:
            raise PorterError("PT784", f"the compiler gave no answer within {_LIMIT} s", str(python)) from None
        lacking = [name for name in makes if not (work / name).exists()]
        if done.returncode or lacking:
            raise PorterError(
                "PT784",
                f"the compiler of {target.name} fails: {_last(done.stderr or done.stdout, done.returncode)}",
                str(python),
                "Emit without --build and run `python build.py` in the bundle for all that it prints; "
                f"`porter check --target {target.name}` says what the model has that the target may not take.",
            )
        for name in makes:
            shutil.copyfile(work / name, folder / name)
    return list(makes)


def _last(printed: str, status: int) -> str:
    lines: Sequence[str] = [line.strip() for line in printed.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"it ended with status {status} and printed nothing"
