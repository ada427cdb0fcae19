# SPDX-License-Identifier: Apache-2.0
"""Reports for people: what does not run, why, where in their code, and what fixes it."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from porter.findings import Finding, OpReport, Report, Verdict
from porter.report.groups import distinct_reasons, grouped, kinds, left_over, places, runs, tally

if TYPE_CHECKING:
    from porter.baseline import Gate
    from porter.emit.bundle import Bundle
    from porter.legalize import Ledger, LedgerEntry
    from porter.report.formats import Context
    from porter.verify import Evidence

__all__ = [
    "console", "failed_to_text", "print_bundle", "print_evidence", "print_findings", "print_gate", "print_ledger",
    "print_report", "to_text",
]  # fmt: skip

_STYLE: dict[Verdict, str] = {
    "native": "green", "fold": "cyan", "rewrite": "cyan", "host": "yellow", "unsupported": "red", "unknown": "yellow",
}  # fmt: skip
#: How many places of one group are named before "and N more".
_PLACES = 3
_LONGEST = 240
#: How many ops on the CPU are listed.
_ROWS = 20


def console(stderr: bool = False) -> Console:
    """A console that does not fold lines at 80 columns when its output goes to a file."""
    out = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not out.is_terminal:
        out.width = 160
    return out


def print_report(out: Console, report: Report, target_title: str, verbose: bool = False) -> None:
    """Print a report: the count of each verdict, then each kind of op that needs something."""
    _print_head(out, report, target_title)
    _print_groups(out, report.ops, report.findings, verbose)
    _print_placement(out, report, verbose)
    out.print()
    out.print(_verdict(report))


def _print_placement(out: Console, report: Report, verbose: bool) -> None:
    """The ops that the target's own toolchain puts on its CPU (``verbose``: where each op is), in the columns of
    Horizon's hb_mapper checker."""
    if not report.own_host or not (verbose or any(report.runs_on_host(op) for op in report.ops)):
        return
    from porter.partition.split import placement

    rows = [row for row in placement(report) if verbose or row.subgraph is None]
    shown = rows if verbose else rows[:_ROWS]
    table = Table("Node", "ON", "Subgraph", "Type", box=None, pad_edge=False)
    for row in shown:
        part = "--" if row.subgraph is None else f"id({row.subgraph})"
        table.add_row(escape(row.node), row.on, part, row.type)
    out.print()
    out.print(table)
    if len(rows) > len(shown):
        out.print(f"and {len(rows) - len(shown)} more on the CPU (--verbose)")


def _verdict(report: Report) -> str:
    """What becomes of the model, in one line."""
    outlook = report.outlook
    sure = f": {outlook}" if outlook is not None else ""
    if report.ok:
        return f"[green]{report.target} {runs(report)}{sure}.[/]"
    if report.portable:
        return f"Not as it is; [green]`porter rewrite --target {report.target}` makes it legal{sure}.[/]"
    left = f"[red]{left_over(report)} would be left after `porter rewrite`.[/]"
    if outlook is None:
        return left
    if outlook.answer == "partition":
        return f"{left}\n[yellow]With `porter rewrite --partition`: {outlook}.[/]"
    return f"{left}\n[{'yellow' if outlook.answer == 'unknown' else 'red'}]It {escape(str(outlook))}.[/]"


def print_gate(out: Console, gate: Gate, target_title: str, verbose: bool = False) -> None:
    """Print what of a report counts, then how many findings are accepted, known or gone."""
    _print_head(out, gate.report, target_title)
    new = [item for item in gate.judged if item.state == "new"]
    _print_groups(out, [item.op for item in new if item.op], [item.finding for item in new], verbose)
    out.print()
    out.print(f"[{'green' if gate.ok else 'red'}]{escape(tally(gate))}[/]")


def to_text(gate: Gate, context: Context) -> str:
    """With a baseline :func:`print_gate`, else :func:`print_report`; with colours where ``context`` says so."""
    out = _text_console(context.color)
    if gate.baseline is None:
        print_report(out, gate.report, context.title, context.verbose)
    else:
        print_gate(out, gate, context.title, context.verbose)
    return _printed(out)


def failed_to_text(gate: Gate, target_title: str) -> str:
    """What of a report counts, as :func:`print_gate` prints it, for the message of an exception."""
    out = _text_console(color=False)
    print_gate(out, gate, target_title)
    return _printed(out)


def _text_console(color: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=color, highlight=False, soft_wrap=True, width=160)


def _printed(out: Console) -> str:
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue().rstrip("\n")


def _print_head(out: Console, report: Report, target_title: str) -> None:
    out.print(f"[bold]{escape(report.model)}[/] on [bold]{report.target}[/] ({escape(target_title)}): "
              f"{len(report.ops)} op{'' if len(report.ops) == 1 else 's'}")  # fmt: skip
    if report.ops:
        counts = "   ".join(f"[{_STYLE[v]}]{v} {n}[/]" for v, n in report.summary.items())
        out.print(f"  {counts}")


def _print_groups(out: Console, ops: Sequence[OpReport], findings: Sequence[Finding], verbose: bool) -> None:
    # The verdict of an op is printed with its group; other findings may name the same op, or one that is native.
    verdicts = Counter((op.name, op.kind) for op in ops if op.verdict != "native")
    fixes: dict[tuple[str, str], str] = {}
    extra = []
    for f in findings:
        if verdicts[f.op, f.kind] > 0:
            verdicts[f.op, f.kind] -= 1
            fixes.setdefault((f.op, f.kind), f.fix)
        else:
            extra.append(f)
    for group in grouped(ops):
        first = group[0]
        if first.verdict == "fold":
            _print_folds(out, group, verbose)
        else:
            _print_group(out, group, fixes.get((first.name, first.kind), ""), verbose)
    if extra:
        out.print()
        print_findings(out, extra)


def _print_folds(out: Console, group: Sequence[OpReport], verbose: bool) -> None:
    out.print(f"\n  [bold]constants[/] x{len(group)}  [{_STYLE['fold']}]fold[/]: {escape(kinds(group))}")
    if verbose:
        for reason in distinct_reasons(group):
            out.print(f"    {escape(reason)}", style="dim")
    _print_places(out, group, verbose)


def _print_group(out: Console, group: Sequence[OpReport], fix: str, verbose: bool) -> None:
    first = group[0]
    times = f" x{len(group)}" if len(group) > 1 else ""
    how = f" by {', then '.join(first.rewrites)}" if first.verdict == "rewrite" else ""
    out.print(f"\n  [bold]{escape(first.kind)}[/]{times}  [{_STYLE[first.verdict]}]{first.verdict}[/]{how}")
    for reason in distinct_reasons(group):
        out.print(f"    {escape(reason)}", style="dim")
    if fix and first.verdict in ("unsupported", "unknown", "host"):
        out.print(f"    fix: {escape(fix if verbose else _shortened(fix))}")
    _print_places(out, group, verbose)


def _shortened(fix: str) -> str:
    """Why no rule applies can take a screen: the reasons that fit, or the words that do."""
    if len(fix) <= _LONGEST:
        return fix
    shown = fix[:_LONGEST]
    return f"{shown.rpartition('; ')[0] or shown.rpartition(' ')[0]} ... (--verbose)"


def _print_places(out: Console, group: Sequence[OpReport], verbose: bool) -> None:
    named = places(group)
    for text in named if verbose else named[:_PLACES]:
        out.print(f"    {escape(text)}")
    if not verbose and len(named) > _PLACES:
        out.print(f"    and {len(named) - _PLACES} more places (--verbose)")


def print_findings(out: Console, findings: Iterable[Finding]) -> None:
    """Print findings one after another."""
    style = {"error": "red", "warning": "yellow", "note": "cyan"}
    for f in findings:
        where = str(f.origin)
        out.print(f"  [{style[f.severity]}]{f.code} {f.severity}[/] {escape(f.message)}"
                  + (f" [dim]({escape(where)})[/]" if where else ""))  # fmt: skip
        if f.fix:
            out.print(f"    fix: {escape(f.fix)}")


def print_ledger(out: Console, ledger: Ledger) -> None:
    """Print what was done, a line for each rule: how often, its claim, the worst error measured after it."""
    place = Column("first at", overflow="fold")  # a cut path helps nobody
    table = Table("rewrite", "ops", "claim", "largest error after it", place, box=None, pad_edge=False)
    groups: dict[tuple[str, ...], list[LedgerEntry]] = {}
    for entry in ledger.entries:
        groups.setdefault((*entry.rules, entry.kind), []).append(entry)
    for entries in groups.values():
        first = entries[0]
        table.add_row(
            f"{first.kind}: {', then '.join(first.rules)}",
            str(len(entries)),
            first.claim,
            _measured(entries),
            escape(str(first.origin)),
        )
    if groups:
        out.print(table)
    elif not ledger.opset:
        out.print("nothing to do")
    if ledger.opset:
        out.print("converted from ONNX opset {} to {}".format(*ledger.opset))
    out.print(f"the origin of {ledger.traced} of {ledger.ops} ops is known")


def _measured(entries: Sequence[LedgerEntry]) -> str:
    seen = [e.measured for e in entries if e.measured is not None]
    if not seen:
        return "not measured"
    worst = max(seen, key=lambda m: m.max_abs)
    return "equal" if all(m.equal for m in seen) else f"{worst.max_abs:.1e} ({worst.relative:.1e} of its range)"


def print_evidence(out: Console, evidence: Evidence) -> None:
    """Print the comparison of the outputs, one line for each."""
    table = Table("output", "max abs", "of its range", "SQNR dB", "cosine", box=None, pad_edge=False)
    for e in evidence.outputs:
        sqnr = "equal" if math.isinf(e.sqnr) else f"{e.sqnr:.1f}"
        table.add_row(escape(e.name), f"{e.max_abs:.2e}", f"{e.relative:.1e}", sqnr, f"{e.cosine:.7f}")
    out.print(table)
    verdict = "[green]equal within[/]" if evidence.ok else "[red]NOT within[/]"
    out.print(f"{verdict} {evidence.tolerance:g} of each output's range, on {evidence.inputs} inputs")


def print_bundle(out: Console, bundle: Bundle) -> None:
    """Print what a bundle holds and where to read on."""
    out.print(f"[bold]{escape(str(bundle.path))}[/] ({bundle.kind})")
    for name, entry in bundle.manifest["files"].items():
        out.print(f"  {escape(name):24}{entry['bytes'] / 1e6:10.2f} MB", highlight=False)
    if "README.md" in bundle.manifest["files"]:
        out.print(f"what to do on the device: {escape(str(bundle.path / 'README.md'))}")
