# SPDX-License-Identifier: Apache-2.0
"""The formats of a report: one table, one function each, from a gate to text.

An emitter takes a :class:`~porter.baseline.Gate` and a :class:`Context` and returns the whole text. It decides nothing:
what counts was decided by :func:`porter.baseline.judge`. Emitters are imported when they are used.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import PurePath
from typing import TYPE_CHECKING

from porter.errors import PorterError
from porter.places import Places

if TYPE_CHECKING:
    from porter.baseline import Gate

__all__ = ["FORMATS", "Context", "Format", "format_of", "render"]


@dataclass(frozen=True, slots=True)
class Context:
    """What an emitter knows beside the report.

    Fields:
        title: the device's name for people.
        model: the path of the model's file, or None when it was made in memory or by a factory.
        places: finds source files below the folder that paths are relative to.
        verbose: name every place, not the first few (text only).
        color: for a terminal (text only).
    """

    title: str
    model: str | os.PathLike[str] | None = None
    places: Places = field(default_factory=Places)
    verbose: bool = False
    color: bool = False


@dataclass(frozen=True, slots=True)
class Format:
    """An emitter (``module:function``), the suffix of its files, whether reports of several models may follow each
    other, and one line about it."""

    function: str
    suffix: str
    joins: bool
    doc: str


#: Every format, in the order in which the command line names them.
FORMATS: dict[str, Format] = {
    "text": Format("porter.report.text:to_text", ".txt", True, "for people at a terminal"),
    "json": Format("porter.report.json:gate_to_json", ".json", False, "for programs; report.schema.json describes it"),
    "sarif": Format("porter.report.sarif:to_sarif", ".sarif", False, "SARIF 2.1.0, for code scanning and editors"),
    "github": Format("porter.report.github:to_github", ".github", True, "annotations of a GitHub workflow"),
    "junit": Format("porter.report.junit:to_junit", ".xml", False, "JUnit XML, a test case for each op"),
    "markdown": Format("porter.report.markdown:to_markdown", ".md", True, "a table for a pull request's comment"),
    "html": Format("porter.report.html:to_html", ".html", False, "one page with the graph, coloured by verdict"),
}


def render(name: str, gate: Gate, context: Context) -> str:
    """A gate in the format ``name`` (a key of :data:`FORMATS`), without a newline at the end.

    A file's name may hold bytes that are no UTF-8; a report shows them as question marks.
    """
    module, _, function = FORMATS[name].function.partition(":")
    emit: Callable[[Gate, Context], str] = getattr(import_module(module), function)
    return emit(gate, context).encode("utf-8", "replace").decode("utf-8")


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that the suffix of a file names.

    Raises:
        PorterError: PT530 when no format has that suffix.
    """
    suffix = PurePath(path).suffix.lower()
    for name, format_ in FORMATS.items():
        if format_.suffix == suffix:
            return name
    known = ", ".join(f"{format_.suffix} ({name})" for name, format_ in FORMATS.items())
    raise PorterError("PT530", f"the name {os.fspath(path)!r} does not say the format of the report", where="--output",
                      fix=f"End it in one of {known}.")  # fmt: skip
