# SPDX-License-Identifier: Apache-2.0
"""The command line: arguments in, text out, an exit code. Every command calls one function of the API.

A module of this package holds one command or a few of a kind, and registers them with
:data:`~porter.cli.app.app`; none imports anything heavy before its command runs. Exit codes: 0 the answer is yes, 1
findings are left, 2 the command or a file is wrong.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from importlib import import_module
from types import FrameType

from porter.cli.app import Interrupted, app
from porter.errors import PorterError

__all__ = ["app", "main", "run"]

#: The modules with commands, in the order of ``porter --help``; importing one registers its commands.
for _module in ("check", "port", "diff", "quantize", "run", "prune", "debug", "scale", "train", "targets", "lists"):
    import_module(f"porter.cli.{_module}")

#: Packages that only some jobs need, and the extra of this distribution that brings each.
_EXTRAS = {"torch": "torch", "PIL": "images", "optuna": "scale", "matplotlib": "plots", "safetensors": "train"}


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise Interrupted


def main() -> None:
    """The ``porter`` command."""
    # A graph of 60,000 nodes is a million objects that live to the end; looking among them for garbage is a third of
    # the time.
    gc.set_threshold(5_000_000, 20, 20)
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        try:
            app()
        except ModuleNotFoundError as missing:
            if missing.name not in _EXTRAS:
                raise
            what = f"this needs {missing.name}, which is not installed"
            fix = f"Install it: pip install 'porter-ml[{_EXTRAS[missing.name]}]'"
            raise PorterError("PT521", what, fix=fix) from None
        except MemoryError as full:  # numpy's and Python's own; numpy's says how much
            what = f"there was not enough memory; nothing was written{f': {full}' if str(full) else ''}"
            fix = "Give smaller input shapes (--input, --batch), or run it where there is more."
            raise PorterError("PT800", what, fix=fix) from None
    except PorterError as error:
        print(error, file=sys.stderr)
        print(f"  more: porter explain {error.code}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        print(f"PT516: interrupted; {stop.kept}", file=sys.stderr)
        sys.exit(2)


def run() -> None:
    """The installed command: :func:`main`, ended without taking the graph apart.

    At exit Python frees one by one the objects that the operating system frees at a stroke; for a graph of 60,000 nodes
    that is a quarter of the run. Nothing waits for it: outputs are renamed into place, and no porter code uses atexit.
    """
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = 1
    os._exit(code if isinstance(code, int) else 1 if code else 0)
