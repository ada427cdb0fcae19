# SPDX-License-Identifier: Apache-2.0
"""A scaling search for people: the table of candidates, what was chosen and why, and the picture of the front."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from porter.report.text import print_findings

if TYPE_CHECKING:
    from porter.compress.scale import Scaled
    from porter.latency import Compared

__all__ = ["print_compared", "print_scaled"]

_STYLE = {"met": "green", "missed": "yellow", "illegal": "red", "out of time": "yellow"}


def print_scaled(out: Console, scaled: Scaled) -> None:
    """Print the requirement, every candidate, the choice, and how the estimate orders what was measured."""
    from porter.compress.scale_candidate import reasons

    plan = scaled.plan
    if scaled.findings:
        print_findings(out, scaled.findings)
        out.print()
    out.print(f"[bold]{escape(scaled.target.title)}[/]: {escape('; '.join(map(str, plan.requirements)))}")
    table = Table(
        "factor", "width", "depth", *(Column(name, justify="right") for name in (
            "MMACs", "params", "size MB", "memory MB", "estimate ms", "measured ms", "accuracy", "trained s")), "",
        box=None, pad_edge=False,
    )  # fmt: skip
    front = {c.factor for c in scaled.front}
    for c in scaled.candidates:
        mark = "[bold]chosen[/]" if c == scaled.chosen else "nearest" if c == scaled.nearest else ""
        table.add_row(
            f"{c.factor:g}", f"{c.width:.4g}", _number(c.depth, ".4g"),
            _number(None if c.macs is None else c.macs / 1e6, ",.1f"), _number(c.params, ",d"),
            _number(c.model_size, ".3f"), _number(c.memory_size, ".3f"), _number(c.estimate_ms, ".4g"),
            _number(c.measured_ms, ".4g"), _number(c.accuracy, ".4f"), _number(c.training_s, ".0f"),
            f"[{_STYLE[c.state]}]{c.state}[/]{' *' if c.factor in front else ''} {mark}".rstrip(),
        )  # fmt: skip
    out.print(table)
    for reason in reasons(scaled.candidates):
        out.print(escape(reason))
    if front:
        out.print(f"* on the Pareto front of latency and {'accuracy' if plan.train else 'multiply-accumulates'}")
    _print_sources(out, scaled)
    _print_choice(out, scaled)


def _print_sources(out: Console, scaled: Scaled) -> None:
    which = "the estimate" if scaled.plan.latency_from == "estimate" else "the measurement"
    out.print(f"the latency of the requirement is {which}")
    for what, sources in (
        ("estimate: the roofline of each op, summed, for", {c.estimated_at for c in scaled.candidates}),
        ("measured: the fastest run of the rewritten model in float32 on", {c.measured_on for c in scaled.candidates}),
    ):
        for source in sorted(sources - {""}):
            out.print(f"  {what} {escape(source)}")
    if scaled.correlation is not None:
        out.print(f"  rank correlation of the two (Spearman): {scaled.correlation:.3f}")


def _print_choice(out: Console, scaled: Scaled) -> None:
    chosen, made, counted = scaled.chosen, scaled.rewritten, scaled.counted
    if chosen is None or made is None or counted is None:
        return
    why = (
        "the most accurate that meets the requirements" if chosen.accuracy is not None
        else "the largest that meets the requirements; its weights are random, for nothing was trained"
    )  # fmt: skip
    if all(r.quantity == "accuracy" for r in scaled.plan.requirements):
        why = "the fastest that is accurate enough"
    out.print(f"\nchosen: factor [bold]{chosen.factor:g}[/], {why}")
    out.print(f"  counted in the graph: {counted.macs:,} MACs, {counted.params:,} parameters; "
              f"in the module rebuilt from the written code: {counted.rebuilt_macs:,} and {counted.rebuilt_params:,}"
              f"{' (equal)' if counted.agree else ' (NOT equal)'}")  # fmt: skip
    if made.evidence is not None:
        equal = "equal" if made.evidence.ok else "NOT equal"
        out.print(f"  rewritten for {scaled.target.name}: every op is {'legal' if made.report.ok else 'NOT legal'}, "
                  f"{equal} within {made.evidence.tolerance:g} of each output's range")  # fmt: skip


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def print_compared(out: Console, compared: Compared) -> None:
    """Print the models with both latencies, and how alike the two order them."""
    right = [Column(name, justify="right") for name in (
        "MMACs", "params", "weights MB", "activations MB", "estimate ms", "measured ms", "median", "90 %")]  # fmt: skip
    table = Table("model", *right, box=None, pad_edge=False)
    for made, measured in compared.rows:
        table.add_row(
            escape(made.model), f"{made.macs / 1e6:,.1f}", f"{made.params:,}", f"{made.weight_bytes / 1e6:.3f}",
            f"{made.peak_bytes / 1e6:.3f}", f"{made.milliseconds:.4g}", f"{measured.milliseconds:.4g}",
            f"{measured.median:.4g}", f"{measured.high:.4g}",
        )  # fmt: skip
    out.print(table)
    rates = compared.rows[0][0].rates
    out.print(f"estimate: the roofline of each op, summed, for {escape('; '.join((rates.name, *rates.notes)))}")
    out.print(f"measured: the fastest run in float32 on {escape(compared.rows[0][1].machine)}")
    if compared.correlation is not None:
        out.print(f"rank correlation of the two (Spearman): {compared.correlation:.3f}")
