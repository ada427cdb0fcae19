# SPDX-License-Identifier: Apache-2.0
"""Runs inside a toolchain's own environment: reads jobs as JSON lines, answers each as one JSON line.

``python -I worker.py ADAPTER.py``. The adapter is loaded once; every job runs in a process forked from this one, with a
time limit, so that a compiler that crashes or hangs costs one answer and no start-up is paid twice. This file and the
adapters run under Python 3.10 and newer and import nothing of porter's: porter is not installed here.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

#: The last lines of what a compiler printed, kept for the reader of a refusal.
_TAIL = 12


class Stage:
    """Where a job is: an adapter calls it with the name of each stage before that begins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self("start")

    def __call__(self, name: str) -> None:
        self._path.write_text(name, encoding="utf-8")


def adapter(path: str) -> ModuleType:
    """The module at ``path``, under a name that hides no package of the environment."""
    spec = importlib.util.spec_from_file_location("porter_adapter", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def in_child(module: ModuleType, job: dict[str, Any], folder: Path) -> None:
    """Run the job and leave ``answer.json`` in ``folder``; never returns."""
    os.setsid()
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    try:
        answer = {"accepted": True, **module.run(job, Stage(folder / "stage.txt"))}
    except BaseException as error:
        traceback.print_exc()
        answer = {"accepted": False, "message": f"{type(error).__name__}: {error}".strip()}
    temporary = folder / "answer.tmp"
    temporary.write_text(json.dumps(answer), encoding="utf-8")
    temporary.rename(folder / "answer.json")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def wait(child: int, limit: float) -> int | None:
    """The child's status as ``waitpid`` gives it, or None when it ran past the limit and was ended."""
    until = time.monotonic() + limit
    pause = 0.002
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if time.monotonic() > until:
            end(child)
            os.waitpid(child, 0)
            return None
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def end(group: int) -> None:
    """End the process group of a job: a compiler may have started processes of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def answer(module: ModuleType, job: dict[str, Any]) -> dict[str, Any]:
    """Run one job in a process of its own."""
    folder = Path(job["folder"])
    began = time.monotonic()
    child = os.fork()
    if not child:
        in_child(module, job, folder)
    status = wait(child, float(job["timeout"]))
    end(child)
    stage = folder / "stage.txt"
    found: dict[str, Any] = {"accepted": False}
    if (folder / "answer.json").exists():
        found = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    elif status is None:
        found["message"] = f"no answer within {job['timeout']:g} s"
    elif os.WIFSIGNALED(status):
        found["message"] = f"the compiler crashed: {signal.Signals(os.WTERMSIG(status)).name}"
    else:
        found["message"] = f"the compiler ended itself with status {os.waitstatus_to_exitcode(status)}"
    found["stage"] = stage.read_text(encoding="utf-8") if stage.exists() else "start"
    found["seconds"] = round(time.monotonic() - began, 3)
    if not found["accepted"]:
        lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        found["log"] = [line[:300] for line in lines if line.strip()][-_TAIL:]
    return found


def serve(module: ModuleType, jobs: TextIO, answers: TextIO) -> None:
    """Answer every line of ``jobs``."""
    for line in jobs:
        job = json.loads(line)
        answers.write(json.dumps(answer(module, job)) + "\n")
        answers.flush()


def main() -> None:
    # Answers have a stream of their own: whatever a compiler prints goes to its log.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    module = adapter(sys.argv[1])
    # Console scripts of the environment (onnx2tf calls onnxsim) are found beside its interpreter.
    os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", "")
    ready = {"ready": True, **module.load(shutil.which)}
    gc.collect()
    gc.freeze()  # a collection in a forked process would walk, and copy, all that was loaded
    answers.write(json.dumps(ready) + "\n")
    answers.flush()
    serve(module, sys.stdin, answers)


if __name__ == "__main__":
    main()
