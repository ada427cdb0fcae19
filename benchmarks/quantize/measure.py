# SPDX-License-Identifier: Apache-2.0
"""One contender on one model: quantize in its own process, run what it wrote in onnxruntime, score the outputs.

The quantized file runs with every graph optimization off, so that each QuantizeLinear and DequantizeLinear is computed
as the ONNX standard says and nothing is fused: the figures are of the quantization, not of one processor's kernels.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import scores
from .cases import Case, Scores
from .contenders import ENVIRONMENTS, ROOT, Contender

__all__ = ["PRINTING", "Prepared", "Result", "float_kept", "folder_of", "in_both", "measure", "prepare"]

#: pycocotools prints, and what silences it swaps the process's own stdout.
PRINTING = threading.Lock()
PEERS = Path(__file__).resolve().parent / "peers"
#: The float model's figures, in a case's folder.
FLOAT = "float.json"
Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Prepared:
    """A case with everything made: files under ``folder``, held-out items and the float model's outputs on them;
    ``digest`` is of the calibration and held-out items."""

    case: Case
    packages: Path
    folder: Path
    model: Path
    input: str
    digest: str
    held_out: Array
    reference: list[Sequence[npt.NDArray[np.float32]]]
    scores: Scores


@dataclass
class Result:
    """What came of one contender on one model.

    Fields:
        scores: the case's figures; empty when it failed.
        outputs: by output name, its :class:`scores.Nearness`.
        wall, cpu: seconds of the quantizing process; megabytes: its peak resident memory.
        quantize_nodes: QuantizeLinear and DequantizeLinear nodes in its file.
        failure: why there are no figures.
        reused: measured by an earlier run.
    """

    case: str
    contender: dict[str, Any]
    version: str
    scores: Scores = field(default_factory=dict)
    outputs: dict[str, dict[str, float]] = field(default_factory=dict)
    wall: float = 0.0
    cpu: float = 0.0
    megabytes: float = 0.0
    quantize_nodes: int = 0
    failure: str = ""
    reused: bool = False

    @property
    def sqnr(self) -> float:
        """Of the worst output, in dB."""
        return min((o["sqnr"] for o in self.outputs.values()), default=float("-inf"))

    @property
    def cosine(self) -> float:
        """Of the worst output."""
        return min((o["cosine"] for o in self.outputs.values()), default=0.0)


def session(model: Path, optimized: bool) -> Any:
    """An onnxruntime session of one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def folder_of(case: Case, work: Path, limit: int | None) -> Path:
    """Where a case's files are; those of another number of items are others."""
    return work / "cases" / (case.name if limit is None else f"{case.name}-{limit}")


def float_kept(folder: Path) -> tuple[str, Scores]:
    """The digest and the float model's figures, as :func:`prepare` last wrote them.

    Raises:
        FileNotFoundError: it never did.
    """
    kept = json.loads((folder / FLOAT).read_text())
    return kept["digest"], kept["scores"]


def prepare(case: Case, packages: Path, work: Path, limit: int | None) -> Prepared:
    """Build the model and its inputs under ``work``, and run the float model on the held-out items."""
    folder = folder_of(case, work, limit)
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "float.onnx"
    if not model.exists():
        partial = folder / "partial.onnx"
        case.build(packages, partial)
        partial.rename(model)
    calibration, held_out = case.calibration(packages)[:limit], case.held_out(packages)[:limit]
    if shared := in_both(calibration, held_out):
        raise RuntimeError(f"{case.name}: held-out items {shared} are calibration items, too")
    np.save(folder / "calibration.npy", calibration)
    digest = hashlib.sha256(calibration.tobytes() + held_out.tobytes()).hexdigest()[:12]
    run = session(model, optimized=False)
    name = run.get_inputs()[0].name
    reference = [run.run(None, {name: item[None]}) for item in held_out]
    scored = case.score(packages, reference, reference)
    (folder / FLOAT).write_text(json.dumps({"digest": digest, "scores": scored}))
    return Prepared(case, packages, folder, model, name, digest, held_out, reference, scored)


def in_both(calibration: Array, held_out: Array) -> list[int]:
    """The held-out items, by index, that equal a calibration item in every byte."""
    seen = {item.tobytes() for item in calibration}
    return [index for index, item in enumerate(held_out) if item.tobytes() in seen]


def measure(prepared: Prepared, contender: Contender, version: str, timeout: float) -> Result:
    """Quantize, run, score. A failure is a result too."""
    result = Result(prepared.case.name, contender.to_json(), version)
    with tempfile.TemporaryDirectory(dir=prepared.folder) as folder:
        out = Path(folder) / "quantized.onnx"
        job = Path(folder) / "job.json"
        job.write_text(
            json.dumps(
                {
                    "model": str(prepared.model),
                    "calibration": str(prepared.folder / "calibration.npy"),
                    "input": prepared.input,
                    "width": contender.width,
                    "settings": contender.settings,
                    "out": str(out),
                }
            )
        )
        command = [
            str(ENVIRONMENTS[contender.environment].python),
            str(PEERS / f"with_{contender.script}.py"),
            str(job),
        ]
        result.failure = _run(command, Path(folder), timeout, result)
        if not result.failure and not out.exists():
            result.failure = "it wrote no file"
        if not result.failure:
            try:
                _score(prepared, out, result)
            except Exception as error:  # onnxruntime raises classes of its own for a file that it does not run
                said = re.sub(r"\S*/(?=\w+\.onnx)", "", str(error).strip().splitlines()[-1])  # without its folder
                result.failure = f"onnxruntime does not run it: {said[:160]}"
    return result


def _run(command: list[str], folder: Path, timeout: float, result: Result) -> str:
    """Run a peer's script; add its seconds and memory; why it failed, or ""."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(folder),
    }
    start = time.perf_counter()
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, cwd=folder, env=environment)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.perf_counter() - start > timeout:
                process.kill()
                os.wait4(process.pid, 0)
                return f"stopped after {timeout:.0f} s"
            time.sleep(0.05)
    process.returncode = os.waitstatus_to_exitcode(status)
    result.wall = time.perf_counter() - start
    result.cpu = usage.ru_utime + usage.ru_stime
    result.megabytes = usage.ru_maxrss / 1024
    if process.returncode:
        lines = (folder / "stderr").read_text(errors="replace").strip().splitlines()
        return f"exit {process.returncode}: {lines[-1][:160] if lines else 'no message'}"
    return ""


def _score(prepared: Prepared, out: Path, result: Result) -> None:
    import onnx

    nodes = onnx.load(out).graph.node
    result.quantize_nodes = sum(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in nodes)
    run = session(out, optimized=False)
    name = run.get_inputs()[0].name
    found = [run.run(None, {name: item[None]}) for item in prepared.held_out]
    with PRINTING:
        result.scores = prepared.case.score(prepared.packages, found, prepared.reference)
    for index, value in enumerate(run.get_outputs()):
        near = scores.nearness([r[index] for r in prepared.reference], [f[index] for f in found])
        result.outputs[value.name] = asdict(near)
