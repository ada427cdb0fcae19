# SPDX-License-Identifier: Apache-2.0
"""The old environment: a real torch 1.3.1 on Python 3.7, made on first use (scripts/torch13_env.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch13_tools import HERE, ROOT, Runner

sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests" / "porter" / "emit")]


@pytest.fixture(scope="session")
def python37() -> Path:
    """The interpreter with torch 1.3.1; skips, with the reason, where it cannot be had."""
    import torch13_env

    try:
        return torch13_env.make()
    except RuntimeError as error:
        pytest.skip(f"no environment with torch 1.3.1: {error}")


@pytest.fixture(scope="session")
def old(python37: Path) -> Runner:
    """Runs ``old(arg, ..., double=False, cwd=None)`` in the old interpreter; ``double`` gives it a torch_mlu."""

    def run(*args: object, double: bool = False, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        if double:
            env["PYTHONPATH"] = str(HERE / "double")
        command = [str(python37), *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd, timeout=280, check=False)

    return run
