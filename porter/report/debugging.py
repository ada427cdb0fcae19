# SPDX-License-Identifier: Apache-2.0
"""Where two models part, for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from porter.debug import Parting, Place

__all__ = ["print_parting"]

#: Rows before and after the first tensor that parts.
_AROUND = 4


def print_parting(out: Console, parting: Parting, verbose: bool = False) -> None:
    """Print the tensors around the first one that parts (all with ``verbose``), then the verdict."""
    first, places = parting.first, parting.places
    out.print(f"[bold]{escape(parting.other)}[/] against [bold]{escape(parting.reference)}[/]: "
              f"{len(places)} tensors, {parting.inputs} input{'s' * (parting.inputs != 1)}")  # fmt: skip
    at = places.index(first) if first is not None else len(places) - 1
    shown = places if verbose else places[max(0, at - _AROUND) : at + _AROUND + 1]
    table = Table("tensor", "op", "SQNR dB", "cosine", "max abs", "at", box=None, pad_edge=False)
    for place in shown:
        style = "red" if place is first else ("yellow" if parting.parts(place) else "")
        how = f" ({place.how})" if place.how else ""
        table.add_row(
            escape(place.name + how), place.kind, _db(place), f"{place.error.cosine:.6f}", f"{place.error.max_abs:.3g}",
            escape(str(place.origin)), style=style,
        )  # fmt: skip
    out.print(table)
    if not verbose and len(shown) < len(places):
        out.print(f"{len(places) - len(shown)} more tensors (--verbose)")
    for name, why in parting.skipped.items():
        out.print(f"not compared: {escape(name)}: {escape(why)}", style="dim")
    if parting.alone:
        out.print(f"{parting.alone} tensors of {escape(parting.reference)} have no partner", style="dim")
    out.print()
    if first is None:
        out.print(f"[green]They do not part: every tensor has an SQNR of {parting.min_sqnr:g} dB or more.[/]")
    else:
        out.print(f"[red]They part at {escape(first.name)}[/]{_named(first)}: {_db(first)} dB, "
                  f"under {parting.min_sqnr:g}.")  # fmt: skip
    steepest = parting.steepest
    if steepest is not None and steepest is not first:
        out.print(f"The steepest fall is at {escape(steepest.name)}{_named(steepest)}: "
                  f"{_step(steepest.before)} to {_db(steepest)} dB.")  # fmt: skip


def _named(place: Place) -> str:
    where = str(place.origin)
    return f" ({escape(', '.join(filter(None, (place.kind, where))))})" if place.kind or where else ""


def _step(sqnr: float) -> str:
    return "equal" if sqnr == math.inf else f"{sqnr:.1f}"


def _db(place: Place) -> str:
    if place.error.mismatched:
        return f"{place.error.mismatched} not finite"
    return _step(place.error.sqnr)
