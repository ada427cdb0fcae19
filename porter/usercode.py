# SPDX-License-Identifier: Apache-2.0
"""Code that the user names: found by ``module:function``, run so that its failures are told from porter's own."""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from porter.errors import PorterError

__all__ = ["call_by_name", "run_user_code"]


def call_by_name(name: str, option: str, code: str = "PT515") -> Callable[..., Any]:
    """The function that ``package.module:function`` or ``file.py:function`` names (the current folder is importable).

    Raises PorterError ``code`` when there is no such thing, PT520 when importing it fails in the user's own code.
    """
    where, colon, attribute = name.rpartition(":")
    if not colon or not where or not attribute:
        raise PorterError(
            code, f"{name!r} is not module:function", option,
            "Write package.module:function or path/to/file.py:function.",
        )  # fmt: skip
    module = _import(where, option, code)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1)
            raise PorterError(code, f"{where} has no {part!r}", option, f"Did you mean {near[0]}?" if near else None)
        found = getattr(found, part)
    if not callable(found):
        raise PorterError(code, f"{name} is a {type(found).__name__}, not a function", option)
    return found  # type: ignore[no-any-return]


def _import(where: str, option: str, code: str) -> ModuleType:
    if where.endswith(".py"):
        path = Path(where)
        if not path.is_file():
            raise PorterError(code, f"there is no file {where}", option)
        # Its own folder must be importable, as it is for `python file.py`; a package keeps its dotted name.
        parts, folder = [path.stem], path.resolve().parent
        while (folder / "__init__.py").is_file():
            parts.insert(0, folder.name)
            folder = folder.parent
        sys.path.insert(0, str(folder))
        name = ".".join(parts)
    else:
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        name = where
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name and (name == missing.name or name.startswith(missing.name + ".")):
            raise PorterError(
                code, f"there is no module {where}", option,
                "Run where it can be imported (the current folder and PYTHONPATH are searched), or name the .py file.",
            ) from None  # fmt: skip
        raise PorterError(
            "PT520", f"importing {where} failed: {missing}", option, f"Install {missing.name} in this environment."
        ) from missing
    except Exception as failure:
        raise _users_failure(failure, option) from failure


def run_user_code(call: Callable[[], Any], where: str) -> Any:
    """What ``call`` returns. Raises PorterError PT520, with the user's own file and line, when it fails."""
    try:
        return call()
    except PorterError:
        raise
    except Exception as failure:
        raise _users_failure(failure, where) from failure


def _users_failure(failure: Exception, where: str) -> PorterError:
    frames = traceback.extract_tb(failure.__traceback__)
    last = next((f for f in reversed(frames) if "importlib" not in f.filename), frames[-1])
    return PorterError(
        "PT520", f"{type(failure).__name__}: {failure}", f"{where}, at {last.filename}:{last.lineno} in {last.name}",
        "This is raised by the model's own code; put it right there.",
    )  # fmt: skip
