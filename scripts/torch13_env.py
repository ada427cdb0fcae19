# SPDX-License-Identifier: Apache-2.0
"""Make the old environment that bundles are tested in: Python 3.7 with torch 1.3.1, in .venv-torch13.

Prints the path of its interpreter. Nothing is done when it is there already. Python 3.7 is looked for in
PORTER_PYTHON37, on PATH, and in pyenv. The wheel of torch has 700 MB.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-torch13"
PACKAGES = ("torch==1.3.1", "numpy<1.22")


def ready() -> Path | None:
    """The interpreter of a finished environment, or None."""
    python = VENV / "bin" / "python"
    if not python.exists():
        return None
    asked = subprocess.run(
        [python, "-c", "import torch, numpy; print(torch.__version__)"], capture_output=True, text=True, check=False
    )
    return python if asked.stdout.strip() == "1.3.1" else None


def find_python37() -> Path | None:
    """A Python 3.7: PORTER_PYTHON37, then PATH, then pyenv's newest."""
    candidates = [os.environ.get("PORTER_PYTHON37"), shutil.which("python3.7")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += sorted(map(str, pyenv.glob("3.7.*/bin/python3.7")), reverse=True)
    for candidate in candidates:
        if candidate and shutil.which(candidate):
            version = subprocess.run(
                [candidate, "-c", "import sys; print(sys.version_info[:2] == (3, 7))"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if version.stdout.strip() == "True":
                return Path(candidate)
    return None


def make() -> Path:
    """The interpreter of the environment, made if need be. Raises ``RuntimeError`` with the reason otherwise."""
    python = ready()
    if python is not None:
        return python
    base = find_python37()
    if base is None:
        raise RuntimeError(
            "no Python 3.7 was found in PORTER_PYTHON37, on PATH or in pyenv; "
            "`pyenv install 3.7` gives one, or set PORTER_PYTHON37 to its path"
        )
    if VENV.exists():
        shutil.rmtree(VENV)
    for command in (
        [base, "-m", "venv", VENV],
        [VENV / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stderr.strip()[-2000:]}")
    python = ready()
    if python is None:
        raise RuntimeError(f"{VENV} was made, but torch 1.3.1 cannot be imported there")
    return python


if __name__ == "__main__":
    try:
        print(make())
    except RuntimeError as error:
        sys.exit(f"the environment with torch 1.3.1 cannot be made: {error}")
