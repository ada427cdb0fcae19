# SPDX-License-Identifier: Apache-2.0
"""Where a toolchain lives: a virtual environment of its own, made from pinned packages of the package index."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from porter.errors import PorterError

__all__ = ["NAMES", "adapter", "folder", "for_target", "install", "interpreter", "missing", "ready", "versions"]

#: The adapters: each module of this package, by the name that users give.
NAMES = {
    "vela": "vela",
    "ncnn": "ncnn",
    "nncase": "nncase",
    "tpu-mlir": "tpu_mlir",
    "esp": "esp",
    "rknn": "rknn",
}

_VERSIONS = """
import json, sys
from importlib.metadata import version
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""

#: How a user accepts the licence of a toolchain that is not free software.
_FLAG = " --accept-proprietary-licence"

Say = Callable[[str], None]


def adapter(name: str) -> ModuleType:
    """The adapter of a toolchain: its constants, read without importing the toolchain.

    Raises:
        PorterError: PT780 when there is none of that name.
    """
    if name not in NAMES:
        raise PorterError("PT780", f"there is no toolchain {name!r}", fix=f"Known: {', '.join(NAMES)}.")
    return import_module(f"porter.toolchains.{NAMES[name]}")


def for_target(target: str) -> str | None:
    """The toolchain that compiles for the target of that name, or None."""
    return next((name for name in NAMES if target in adapter(name).TARGETS), None)


def folder(name: str) -> Path:
    """The environment's folder: ``NAME`` under ``$PORTER_TOOLCHAINS``, or under ``.venv-toolchains`` here."""
    return Path(os.environ.get("PORTER_TOOLCHAINS") or ".venv-toolchains").absolute() / name


def ready(name: str) -> bool:
    """Whether the environment was made, with the packages that this version of porter pins."""
    mark = folder(name) / "porter.json"
    if not mark.exists():
        return False
    try:
        return bool(json.loads(mark.read_text(encoding="utf-8")).get("packages") == _pins(name))
    except ValueError:
        return False


def missing(name: str) -> PorterError:
    """What to say where a toolchain is needed that is not installed."""
    made = adapter(name)
    command = f"porter targets install {name}{_FLAG if hasattr(made, 'PROPRIETARY') else ''}"
    return PorterError(
        "PT781",
        f"the toolchain {made.TITLE} ({made.LICENCE}) is not installed",
        where=str(folder(name)),
        fix=f"Run `{command}`; it makes an environment of its own with "
        f"{', '.join(made.PACKAGES[0])} for Python {' or '.join(made.PYTHONS)}.",
    )


def interpreter(name: str) -> Path:
    """The environment's Python.

    Raises:
        PorterError: PT781 when the environment is not there; it says how to make it.
    """
    if not ready(name):
        raise missing(name)
    return folder(name) / "bin" / "python"


@cache
def versions(name: str) -> dict[str, str]:
    """The installed version of each of the toolchain's own packages.

    Raises:
        PorterError: PT781 when the environment is not there.
    """
    interpreter(name)
    found: dict[str, str] = json.loads((folder(name) / "porter.json").read_text(encoding="utf-8"))["versions"]
    return found


def install(name: str, say: Say = lambda _text: None, *, accept_licence: bool = False) -> Path:
    """Make the environment, unless it is there; returns its folder. A half-made one is removed.

    Args:
        name: of the toolchain.
        say: told of each step.
        accept_licence: the user accepts the licence of a toolchain that is not free software, by installing it.

    Raises:
        PorterError: PT780 no such toolchain; PT782 no Python that it runs on, or the package index does not give it;
            PT785 its licence is proprietary, and ``accept_licence`` is not given.
    """
    made = adapter(name)
    place = folder(name)
    if ready(name):
        return place
    if hasattr(made, "PROPRIETARY") and not accept_licence:
        raise PorterError(
            "PT785",
            f"{made.TITLE} is not free software ({made.LICENCE}), and installing it accepts its licence",
            where=made.PROPRIETARY,
            fix=f"Read the licence; if you accept it, run `porter targets install {name}{_FLAG}`.",
        )
    python = find_python(made.PYTHONS)
    if python is None:
        raise PorterError(
            "PT782",
            f"{made.TITLE} needs Python {' or '.join(made.PYTHONS)}, and none was found on PATH or in pyenv",
            fix=f"Install it (`pyenv install {made.PYTHONS[0]}`), then run this again.",
        )
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        say(f"making {place}")
        _run([python, "-m", "venv", str(place)], made.TITLE)
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for packages in made.PACKAGES:
            say(f"installing {' '.join(packages)}")
            _run([*pip, *packages], made.TITLE)
        for pattern in getattr(made, "REMOVED", ()):
            for path in place.glob(pattern):
                path.unlink()
        printed = _run([str(place / "bin" / "python"), "-I", "-c", _VERSIONS, *made.VERSIONS], made.TITLE)
        mark = {"packages": _pins(name), "versions": json.loads(printed)}
        (place / "porter.json").write_text(json.dumps(mark, indent=1) + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return place


def find_python(wanted: tuple[str, ...]) -> str | None:
    """An interpreter of one of the versions ("3.10"): on PATH, then pyenv's newest of it."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in wanted:
        candidates = [shutil.which(f"python{version}")]
        candidates += sorted(map(str, root.glob(f"{version}.*/bin/python{version}")), reverse=True)
        for candidate in filter(None, candidates):
            asked = "import sys; print('%d.%d' % sys.version_info[:2])"
            told = subprocess.run([candidate, "-c", asked], capture_output=True, text=True, check=False)
            if told.stdout.strip() == version:
                return candidate
    return None


def _pins(name: str) -> list[list[str]]:
    return [list(packages) for packages in adapter(name).PACKAGES]


def _run(command: list[Any], title: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise PorterError(
            "PT782",
            f"the environment of {title} cannot be made: {' '.join(last[-2:])[:400]}",
            where=" ".join(map(str, command))[:300],
            fix="Check the network and the disk, then run this again.",
        )
    return done.stdout
