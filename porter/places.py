# SPDX-License-Identifier: Apache-2.0
"""Where an op's source line is in the folder that porter runs in.

A model file records the paths of the machine that exported it, and it may be hostile. So a recorded path counts only
when it, or its last parts, name a regular file below the root; nothing outside of the root is opened or named.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from porter.ops import Origin

__all__ = ["Places"]

#: A tail of fewer parts than this (``utils.py``) would match by chance.
_MIN_PARTS = 2
#: A source file lies no deeper than this below the root; a hostile path of thousands of parts costs no more.
_MAX_PARTS = 24
_MAX_LENGTH = 4096
#: Larger files are not source that somebody wrote.
_MAX_BYTES = 4 << 20


class Places:
    """Finds source files and lines below ``root`` (default: the current folder). Remembers what it found."""

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = Path(os.path.realpath(root or Path.cwd()))
        self._found: dict[str, str | None] = {}
        self._lines: dict[str, list[str]] = {}

    def relative(self, path: str | os.PathLike[str]) -> str | None:
        """A path as seen from the root, with forward slashes; None when it is not a file below it."""
        try:
            real = Path(os.path.realpath(self.root / path))
            if real.is_relative_to(self.root) and real.is_file():
                return real.relative_to(self.root).as_posix()
        except (OSError, ValueError):  # ValueError: a NUL byte in the path
            pass
        return None

    def find(self, origin: Origin) -> str | None:
        """The file of an origin as seen from the root, or None.

        A path from another machine is found by its longest tail that exists here: a model exported from
        ``/home/a/proj/net/head.py`` is shown at ``net/head.py`` in a checkout that has it.
        """
        if not origin.file:
            return None
        if origin.file not in self._found:
            self._found[origin.file] = self._search(origin.file)
        return self._found[origin.file]

    def _search(self, recorded: str) -> str | None:
        if len(recorded) > _MAX_LENGTH:
            return None
        if (here := self.relative(recorded)) is not None:
            return here
        kind = PureWindowsPath if "\\" in recorded else PurePosixPath
        path = kind(recorded)
        parts = path.parts[1:] if path.anchor else path.parts
        if ".." in parts:
            return None
        tails = (parts[start:] for start in range(max(0, len(parts) - _MAX_PARTS), len(parts) - _MIN_PARTS + 1))
        return next((here for tail in tails if (here := self.relative(Path(*tail))) is not None), None)

    def text(self, origin: Origin) -> str:
        """The source line of an origin with runs of white space made one space; "" where it cannot be had."""
        here = self.find(origin)
        if here is None or not origin.line or origin.line < 1:
            return ""
        if here not in self._lines:
            self._lines[here] = self._read(here)
        lines = self._lines[here]
        return " ".join(lines[origin.line - 1].split()) if origin.line <= len(lines) else ""

    def _read(self, here: str) -> list[str]:
        path = self.root / here
        try:
            if path.stat().st_size > _MAX_BYTES:
                return []
            return path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
