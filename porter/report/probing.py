# SPDX-License-Identifier: Apache-2.0
"""What a probe of a compiler found, for people: each kind of op, and where the target file was wrong."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from porter.probe import Measured, Probed

__all__ = ["print_probed"]

_PLACES = {"host": "on the host", "none": "does not run"}


def print_probed(out: Console, made: Probed) -> None:
    """A line for each kind, then the limits that the compiler contradicts and the cases that no limit explains."""
    versions = ", ".join(f"{package} {version}" for package, version in made.versions.items())
    out.print(f"[bold]{made.toolchain}[/] ({escape(versions)}) for {escape(made.target)}")
    table = Table("op", "verdict", "asked", "ran", "limits", box=None, pad_edge=False)
    for kind in made.kinds:
        table.add_row(kind.kind, _verdict(kind), str(kind.asked), str(kind.accepted), escape(_limits(kind)))
    out.print(table)
    for kind in made.kinds:
        for text in kind.contradicted:
            out.print(f"{kind.kind}: the compiler has no such limit: {text}", markup=False)
        for text in kind.unexplained:
            out.print(f"{kind.kind}: the file says otherwise than the compiler of {text}", markup=False)
    out.print(f"wrote {made.path}", markup=False)


def _verdict(kind: Measured) -> str:
    return _PLACES.get(kind.entry.get("device", ""), "runs" if kind.accepted == kind.asked else "runs within limits")


def _limits(kind: Measured) -> str:
    return "; ".join(limit["expr"] for limit in kind.entry.get("limits", ()) if limit.get("certainty") != "unknown")
