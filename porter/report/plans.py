# SPDX-License-Identifier: Apache-2.0
"""Why the planner chose what it chose, for people: ``--explain-plan``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from porter.findings import Candidate, OpReport, Report

__all__ = ["print_plans"]

_STYLE = {"chosen": "green", "weaker": "dim", "dearer": "dim", "not permitted": "yellow", "refused": "dim"}
#: A reason can hold the reasons of everything below it.
_LONGEST = 200


def print_plans(out: Console, report: Report, verbose: bool = False) -> None:
    """Print for each op that is not legal the candidates that were considered; ops with the same story once."""
    stories: dict[tuple[object, ...], list[OpReport]] = {}
    for op in report.ops:
        if op.verdict not in ("native", "fold"):
            told = tuple((c.rules, c.outcome) for c in op.candidates)
            stories.setdefault((op.kind, op.verdict, told), []).append(op)
    out.print(f"[bold]plan[/] for {escape(report.model)} on {report.target}: candidates, the strongest claim and the "
              "least cost first")  # fmt: skip
    if not stories:
        out.print("  every op is legal or a constant: there was nothing to plan")
    for ops in stories.values():
        _print_story(out, ops, verbose)


def _print_story(out: Console, ops: Sequence[OpReport], verbose: bool) -> None:
    first = ops[0]
    times = f" x{len(ops)}" if len(ops) > 1 else ""
    where = str(first.origin)
    out.print(f"\n  [bold]{escape(first.kind)}[/]{times} {escape(first.name)}"
              + (f" [dim]({escape(where)})[/]" if where else ""))  # fmt: skip
    if not first.candidates:
        out.print("    no rule removes it by itself" + (" (a fusion does)" if first.rewrites else ""))
    for candidate in first.candidates:
        why = candidate.why if verbose or len(candidate.why) <= _LONGEST else f"{candidate.why[:_LONGEST]} ..."
        style = _STYLE[candidate.outcome]
        out.print(f"    [{style}]{candidate.outcome:>13}[/]  {escape(', then '.join(candidate.rules))} "
                  f"({candidate.claim}){_cost(candidate)}: {escape(why)}")  # fmt: skip


def _cost(candidate: Candidate) -> str:
    if candidate.seconds is None:
        return ""
    made = ", ".join(candidate.yields[:6]) + (" ..." if len(candidate.yields) > 6 else "")
    macs = f"{candidate.macs / 1e6:.4g} MMAC, " if candidate.macs else ""
    moved = f"{candidate.bytes / 1e3:.4g} kB, {candidate.seconds * 1e6:.3g} us"
    return f" {{{len(candidate.yields)} ops: {made}; {macs}{moved}}}"
