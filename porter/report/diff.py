# SPDX-License-Identifier: Apache-2.0
"""The difference of two reports, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from porter.report.groups import distinct_reasons, places

if TYPE_CHECKING:
    from porter.diff import Change, Changed, Diff

__all__ = ["print_diff"]

_STYLE: dict[Change, str] = {"new": "red", "worse": "red", "better": "green", "gone": "green"}
_PLACES = 3


def print_diff(out: Console, made: Diff, verbose: bool = False) -> None:
    """Print both sides with their counts, then each sort of change, the worst first."""
    for name, file, report in zip(("before", "after "), made.files, (made.before, made.after), strict=True):
        counts = ", ".join(f"{verdict} {n}" for verdict, n in report.summary.items())
        ops = f"{len(report.ops)} op{'' if len(report.ops) == 1 else 's'}"
        out.print(f"{name} [bold]{escape(report.model)}[/] on [bold]{escape(report.target)}[/]: {ops}"
                  f" ({counts})" + (f" [dim]{escape(file)}[/]" if file else ""))  # fmt: skip
    groups: dict[tuple[object, ...], list[Changed]] = {}
    for one in made.changes:
        sides = (one.before and one.before.verdict, one.after and one.after.verdict)
        groups.setdefault((one.change, one.op.kind, *sides), []).append(one)
    for group in groups.values():
        _print_group(out, group, verbose)
    out.print()
    counted = ", ".join(f"{n} {change}" for change, n in made.summary.items())
    said = counted or "no op changed its verdict"
    out.print(f"[{'red' if made.worse else 'green'}]{'worse' if made.worse else 'not worse'}[/]: {said}")


def _print_group(out: Console, group: list[Changed], verbose: bool) -> None:
    first = group[0]
    times = f" x{len(group)}" if len(group) > 1 else ""
    sides = " -> ".join(side.verdict for side in (first.before, first.after) if side)
    out.print(f"\n  [{_STYLE[first.change]}]{first.change}[/] [bold]{escape(first.op.kind)}[/]{times}  {sides}")
    ops = [one.op for one in group]
    if first.after is not None:
        for reason in distinct_reasons(ops):
            out.print(f"    {escape(reason)}", style="dim")
    named = places(ops)
    for text in named if verbose else named[:_PLACES]:
        out.print(f"    {escape(text)}")
    if not verbose and len(named) > _PLACES:
        out.print(f"    and {len(named) - _PLACES} more places (--verbose)")
