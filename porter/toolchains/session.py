# SPDX-License-Identifier: Apache-2.0
"""Asking a compiler: does it take a model, where does it put the ops, and does what it made compute the same."""

from __future__ import annotations

import json
import math
import os
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from porter.errors import PorterError
from porter.ops import Array
from porter.quantize.report import Columns, column_axis
from porter.toolchains import environment

__all__ = ["Answer", "Placement", "Session", "score"]

#: On the accelerator as a whole; in part on the CPU; not compiled; compiled, and computes something else.
Placement = Literal["accelerator", "cpu", "refused", "wrong"]

#: The cosine below which an output is another one, by the compiler's numerics; of integer results the share that must
#: agree (an int8 input has ties that a float one has not).
_COSINE = {"int8": 0.99, "float": 0.999}
_AGREE = 0.9
#: A model has this long to be compiled and simulated, and the environment to start (both in seconds).
_LIMIT, _START = 120.0, 180.0
#: Samples to calibrate on are given by the caller; outputs are compared on the first of them.
_CASES = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What a compiler said of one model.

    ``stage`` is the last step that was begun, ``message`` why it went no further. ``cpu`` and ``npu`` are the operators
    that it placed, where it tells; ``reasons`` why not on the accelerator. ``cosine`` is that of the worst output with
    the float model's, ``column`` of its worst column, ``dead`` the columns that are constant although the float model's
    vary. ``artifact`` is what was compiled (kept only where the caller gave a folder).
    """

    placement: Placement
    stage: str = ""
    message: str = ""
    cpu: tuple[str, ...] = ()
    npu: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    cosine: float | None = None
    column: float | None = None
    dead: int = 0
    seconds: float = 0.0
    log: tuple[str, ...] = ()
    artifact: Path | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "placement": self.placement,
            "stage": self.stage,
            "message": self.message,
            "cpu": list(self.cpu),
            "npu": len(self.npu),
            "reasons": list(self.reasons),
            "cosine": _finite(self.cosine),
            "column": _finite(self.column),
            "dead": self.dead,
            "seconds": round(self.seconds, 2),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Answer:
        """What :meth:`to_json` wrote (the names of the accelerator's operators are not kept, only their number)."""
        kept = {key: data[key] for key in ("placement", "stage", "message", "cosine", "column", "dead", "seconds")}
        return cls(**kept, cpu=tuple(data["cpu"]), npu=("",) * data["npu"], reasons=tuple(data["reasons"]))


def _finite(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else round(number, 6)


class Session:
    """A running toolchain; use it as a context manager.

    Args:
        name: of the toolchain.
        target: the target's name, which picks the compiler's options.
        limit: the most seconds that one model may take.

    Raises:
        PorterError: PT780, PT781; PT783 when the environment does not start.
    """

    def __init__(self, name: str, target: str, limit: float = _LIMIT) -> None:
        self.name, self.limit = name, limit
        self.adapter = environment.adapter(name)
        if target not in self.adapter.TARGETS:
            known = ", ".join(self.adapter.TARGETS)
            raise PorterError(
                "PT780", f"{self.adapter.TITLE} does not compile for {target}", fix=f"It does for {known}."
            )
        self.options = dict(self.adapter.TARGETS[target])
        python = environment.interpreter(name)
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by close)
        self._process = self._start(python)

    def _start(self, python: Path) -> subprocess.Popen[str]:
        # One thread each: the session may be one of several, and forked processes must not inherit a pool.
        quiet = {f"{pool}_NUM_THREADS": "1" for pool in ("OMP", "OPENBLAS", "MKL")}
        place = environment.folder(self.name)
        libraries = [str(path) for pattern in getattr(self.adapter, "LIBRARIES", ()) for path in place.glob(pattern)]
        if libraries:
            quiet["LD_LIBRARY_PATH"] = os.pathsep.join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(":")
        process = subprocess.Popen(
            [str(python), "-I", str(Path(__file__).with_name("worker.py")), str(self.adapter.__file__)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env={**os.environ, **quiet},
        )  # fmt: skip
        ready = self._line(process, _START)
        if ready is None or not ready.get("ready"):
            process.kill()
            process.wait()
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines()[-1:]
            raise PorterError(
                "PT783",
                f"{self.adapter.TITLE} does not start: {last[0] if last else 'no answer'}",
                where=str(environment.folder(self.name)),
                fix=f"Remove that folder and run `porter targets install {self.name}` again.",
            )
        return process

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the toolchain's process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.terminate()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def ask(
        self,
        model: Path,
        samples: Sequence[Mapping[str, Array]],
        reference: Mapping[str, Array],
        *,
        simplify: bool = False,
        keep: Path | None = None,
    ) -> Answer:
        """Compile an ONNX file and compare what it computes with onnxruntime.

        Args:
            model: the file.
            samples: inputs by name; all are calibrated on, the first is compared.
            reference: the float model's outputs for the first sample, by name, in the model's order.
            simplify: let the toolchain fold constants first, where it can (what its users do with an exported model).
            keep: a folder for the compiled artifact.
        """
        folder = Path(tempfile.mkdtemp(prefix="porter-"))
        try:
            feeds = {f"{name}:{i}": array for i, sample in enumerate(samples) for name, array in sample.items()}
            np.savez(folder / "feeds.npz", **feeds)  # type: ignore[arg-type]
            shutil.copyfile(model, folder / "model.onnx")
            job = {
                "model": str(folder / "model.onnx"), "feeds": str(folder / "feeds.npz"), "folder": str(folder),
                "results": str(folder / "results.npz"), "inputs": list(samples[0]), "outputs": list(reference),
                "shapes": {name: list(array.shape) for name, array in samples[0].items()}, "samples": len(samples),
                "cases": _CASES, "options": self.options, "simplify": simplify, "timeout": self.limit,
            }  # fmt: skip
            return self._read(self._send(job), folder, reference, keep)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _send(self, job: dict[str, Any]) -> dict[str, Any]:
        if self._process.poll() is not None:
            self._process = self._start(environment.interpreter(self.name))
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return {"accepted": False, "message": "the toolchain's process ended"}
        # The worker enforces the limit; a worker that is itself stuck is ended here.
        answer = self._line(self._process, self.limit + 30)
        if answer is None:
            self._process.kill()
            self._process.wait()
            return {"accepted": False, "message": "the toolchain's process ended or gave no answer"}
        return answer

    @staticmethod
    def _line(process: subprocess.Popen[str], limit: float) -> dict[str, Any] | None:
        """The next line that the worker writes, or None when there is none within the limit."""
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            until = time.monotonic() + limit
            while (left := until - time.monotonic()) > 0:
                if selector.select(left):
                    line = process.stdout.readline()
                    found: dict[str, Any] | None = json.loads(line) if line.strip() else None
                    return found
        return None

    def _read(self, said: dict[str, Any], folder: Path, reference: Mapping[str, Array], keep: Path | None) -> Answer:
        common: dict[str, Any] = {
            "stage": said.get("stage", ""), "seconds": float(said.get("seconds", 0.0)),
            "reasons": tuple(said.get("reasons", ())), "log": tuple(said.get("log", ())),
            "cpu": tuple(said.get("cpu", ())), "npu": tuple(said.get("npu", ())),
        }  # fmt: skip
        if not said["accepted"]:
            # What compiles and then cannot be run is as bad as what computes something else.
            place: Placement = "wrong" if common["stage"] == "simulate" else "refused"
            return Answer(place, message=_first_line(said.get("message", "")), **common)
        artifact = None
        if keep is not None and said.get("artifact"):
            artifact = keep / Path(said["artifact"]).name
            shutil.copyfile(said["artifact"], artifact)
        results = np.load(folder / "results.npz")
        outputs = [results[f"{i}:0"] for i in range(len(reference))]
        cosine, column, dead, problem = score(list(reference.values()), outputs, self.adapter.NUMERICS)
        common |= {"cosine": cosine, "column": column, "dead": dead, "artifact": artifact}
        if problem:
            return Answer("wrong", message=problem, **common)
        return Answer("cpu" if common["cpu"] else "accelerator", **common)


def _first_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[0][:300] if lines else ""


def score(reference: Sequence[Array], outputs: Sequence[Array], numerics: str) -> tuple[float, float, int, str]:
    """How near a compiled model's outputs are.

    Returns the worst output's cosine, the worst column's, how many columns are dead, and what is wrong ("" if
    nothing): another size, a cosine under that of the numerics, integers of which more than a tenth differ. An output
    may have its channels last, or lack axes of extent 1.
    """
    worst, column, dead, problem = 1.0, 1.0, 0, ""
    for number, (wanted, got) in enumerate(zip(reference, outputs, strict=True)):
        if wanted.size != got.size:
            return 0.0, 0.0, 0, f"output {number} has shape {got.shape}, not {wanted.shape}"
        best = max((_compare(wanted, candidate) for candidate in _layouts(got, wanted.shape)), key=lambda one: one[0])
        floor = _COSINE[numerics] if wanted.dtype.kind == "f" else _AGREE
        if not best[0] >= floor and not problem:
            problem = f"output {number} has cosine {best[0]:.4f}" if wanted.dtype.kind == "f" else (
                f"output {number} agrees in {best[0]:.0%} of its elements")  # fmt: skip
        grown = _norm(got) / _norm(wanted) if wanted.dtype.kind == "f" and _norm(wanted) else 1.0
        if not 0.8 <= grown <= 1.25 and not problem:
            problem = f"output {number} is {grown:.3g} times as large"
        worst, column, dead = min(worst, best[0]), min(column, best[1]), dead + best[2]
    return worst, column, dead, problem


def _layouts(got: Array, shape: tuple[int, ...]) -> list[Array]:
    found = []
    if len(shape) > 2 and got.shape == (shape[0], *shape[2:], shape[1]):
        found.append(np.moveaxis(got, -1, 1))
    if got.shape == shape or not found:
        found.append(got.reshape(shape))
    return found


def _norm(array: Array) -> float:
    values = array[np.isfinite(array)].astype(np.float64)
    return math.sqrt(float(values @ values))


def _compare(wanted: Array, got: Array) -> tuple[float, float, int]:
    if wanted.dtype.kind != "f":
        same = float(np.mean(wanted.astype(np.int64) == np.round(got).astype(np.int64))) if wanted.size else 1.0
        return same, same, 0
    columns = Columns(column_axis(wanted.shape) if wanted.ndim else 0)
    columns.add(np.atleast_1d(wanted), np.atleast_1d(got))
    a, b = wanted.ravel().astype(np.float64), got.ravel().astype(np.float64)
    finite = np.isfinite(a)
    a, b = a[finite], b[finite]
    if not np.isfinite(b).all():
        return 0.0, 0.0, 0
    size = math.sqrt(float(a @ a) * float(b @ b))
    cosine = float(a @ b) / size if size else float(bool(np.allclose(a, b, atol=1e-6)))
    return cosine, float(columns.cosine.min()), int(columns.dead.sum())
