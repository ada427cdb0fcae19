# SPDX-License-Identifier: Apache-2.0
"""A run in integers or in float, for people: which ops ran how, the outputs, and what is not certain."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from porter.report.text import print_findings

if TYPE_CHECKING:
    from porter.quantize.running import Ran

__all__ = ["print_ran"]


def print_ran(out: Console, ran: Ran) -> None:
    """Print the result of :func:`porter.run`."""
    device = f" on [bold]{escape(ran.target)}[/]" if ran.target else ""
    out.print(f"[bold]{escape(ran.model)}[/] as {ran.form}{device}, {ran.samples} run{'s' * (ran.samples != 1)}")
    for count, how in ((ran.integer, "exactly, in integers"), (ran.floating, "in float")):
        if count:
            out.print(f"  {sum(count.values())} ops {how}: {escape(_kinds(count))}")
    table = Table("output", "shape", "dtype", "min", "mean", "max", box=None, header_style="dim")
    for column in table.columns[3:]:
        column.justify = "right"
    for name, array in ran.outputs.items():
        numbers = [f"{float(f):.6g}" for f in (array.min(), array.mean(), array.max())] if array.size else ["-"] * 3
        table.add_row(escape(name), "x".join(map(str, array.shape)) or "scalar", str(array.dtype), *numbers)
    out.print(table)
    if ran.findings:
        out.print()
        print_findings(out, ran.findings)


def _kinds(count: Counter[str]) -> str:
    return ", ".join(f"{kind} x{n}" if n > 1 else kind for kind, n in count.most_common())
