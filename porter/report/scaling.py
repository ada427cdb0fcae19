# SPDX-License-Identifier: Apache-2.0
"""A scaling search for people: the table of candidates, what was chosen and why, and the picture of the front."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from porter.report.text import print_findings

if TYPE_CHECKING:
    from porter.compress.scale import Scaled
    from porter.compress.scale_candidate import Candidate
    from porter.latency import Compared

__all__ = ["draw_pareto", "print_compared", "print_scaled"]

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


def draw_pareto(scaled: Scaled, *paths: Path) -> None:
    """Draw latency against accuracy (against multiply-accumulates where nothing was trained), once for each path; the
    suffix is the format. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plan = scaled.plan
    trained = plan.train is not None
    shown = [c for c in scaled.candidates if c.latency_ms is not None and (c.accuracy is not None or not trained)]

    def at(c: Candidate) -> tuple[float, float]:
        return c.latency_ms or 0.0, c.accuracy if c.accuracy is not None else (c.macs or 0) / 1e6

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    front = scaled.front
    axes.plot(*_columns(map(at, front)), color="0.6", zorder=1, label="Pareto front")
    for state, color in (("met", "tab:green"), ("missed", "tab:orange")):
        points = [at(c) for c in shown if c.state == state]
        if points:
            axes.scatter(*_columns(points), color=color, zorder=2, label=state)
    # What missed a requirement before it was trained has a latency and no accuracy: it stands on the axis.
    untrained = [c for c in scaled.candidates if c.latency_ms is not None and c not in shown]
    if untrained:
        axes.scatter([c.latency_ms or 0.0 for c in untrained], [0.0] * len(untrained), marker="x", color="tab:orange",
                     transform=axes.get_xaxis_transform(), clip_on=False, label="missed, not trained")  # fmt: skip
    for c in untrained:
        axes.update_datalim([(c.latency_ms or 0.0, at(shown[0])[1] if shown else 0.0)])
        axes.annotate(f"{c.factor:g}", (c.latency_ms or 0.0, 0.0), xycoords=axes.get_xaxis_transform(),
                      textcoords="offset points", xytext=(5, 5), fontsize=8)  # fmt: skip
    if scaled.chosen is not None:
        x, y = _columns([at(scaled.chosen)])
        axes.scatter(x, y, s=160, facecolors="none", edgecolors="black", zorder=3, label="chosen")
    for c in shown:
        axes.annotate(f"{c.factor:g}", at(c), textcoords="offset points", xytext=(5, 5),
                      fontsize=8)  # fmt: skip
    axes.autoscale_view()
    for requirement in plan.requirements:
        if requirement.quantity == "latency":
            axes.axvline(requirement.limit, color="tab:red", linestyle="--", linewidth=1, label="required latency")
        elif requirement.quantity == "accuracy":
            axes.axhline(requirement.limit, color="tab:red", linestyle=":", linewidth=1, label="required accuracy")
    kind = "estimated for" if plan.latency_from == "estimate" else "measured here, for"
    axes.set_xlabel(f"latency in ms ({kind} {scaled.target.name})")
    axes.set_ylabel("accuracy" if trained else "MMACs")
    axes.set_title("candidates by scaling factor")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    for path in paths:
        figure.savefig(path, dpi=150)


def _columns(points: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    pairs = list(points)
    return [x for x, _ in pairs], [y for _, y in pairs]
