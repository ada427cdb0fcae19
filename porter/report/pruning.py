# SPDX-License-Identifier: Apache-2.0
"""A pruned model, for people: channels of every layer, what each stage cost and kept, findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from porter.report.text import print_findings

if TYPE_CHECKING:
    from porter.compress.prune import Pruned

__all__ = ["print_pruned", "print_stages"]


def print_pruned(out: Console, made: Pruned) -> None:
    """Print the result of :func:`porter.prune`."""
    options = made.options
    out.print(
        f"{escape(made.model)}, pruned for {made.target}: percent {options['percent']:g}, "
        f"layer_keep {options['layer_keep']:g}, scheme {options['scheme']}, multiples of {options['multiple']}"
    )
    out.print(f"threshold {made.threshold:.4g} (below {made.limit:.4g} no layer is emptied)")
    out.print()
    _print_layers(out, made)
    for block in made.blocks:
        out.print(f"removed block: {', '.join(map(escape, block.paths))} (mean gamma {block.mean_gamma:.4g})")
    if made.masked:
        kept, total = sum(m.kept for m in made.masked), sum(m.total for m in made.masked)
        out.print(
            f"mask {made.options['mask']}: {len(made.masked)} layers, density {kept / total:.3f}; the zeros are still "
            "stored and computed"
        )
    elif options["mask"]:
        out.print(f"mask {options['mask']}: it fits no layer")
    out.print()
    print_stages(out, made)
    out.print()
    out.print(
        f"proof: {made.structure:.1g} of an output column's range from the original with the removed channels' gamma "
        f"and beta at 0, {made.folding:.1g} with gamma alone at 0"
    )
    if made.findings:
        out.print()
        print_findings(out, made.findings)
    verdict = "[green]can be ported[/]" if made.ok else "[red]cannot be ported: `porter check` says why[/]"
    out.print(f"for {made.target} it {verdict}")


def _print_layers(out: Console, made: Pruned) -> None:
    table = Table(
        Column("layer"), Column("total", justify="right"), Column("remaining", justify="right"),
        Column("mean gamma", justify="right"), Column("largest", justify="right"), box=None, pad_edge=False,
    )  # fmt: skip
    for layer in made.layers:
        table.add_row(
            escape(layer.path), str(layer.total), str(layer.remaining), f"{layer.mean_gamma:.4f}",
            f"{layer.max_gamma:.4f}",
        )  # fmt: skip
    total, left = sum(layer.total for layer in made.layers), sum(layer.remaining for layer in made.layers)
    share = f"{(total - left) / total:.1%} removed"
    table.add_row("all", str(total), str(left), share, "", style="bold")
    out.print(table)


def print_stages(out: Console, made: Pruned) -> None:
    """Parameters, MACs, metric and latency, a column for each stage."""
    stages = made.stages
    first = stages[0]
    table = Table(Column(""), *(Column(stage.name, justify="right") for stage in stages), box=None, pad_edge=False)
    table.add_row("parameters", *(_count(stage.parameters, first.parameters) for stage in stages))
    table.add_row("MACs", *(_count(stage.macs, first.macs) for stage in stages))
    if first.metric is not None:
        table.add_row("metric", *(f"{stage.metric:.4f}" if stage.metric is not None else "" for stage in stages))
    if first.latency is not None:
        table.add_row("ms", *(f"{stage.latency.milliseconds:.2f}" if stage.latency else "" for stage in stages))
    if first.estimate is not None:
        table.add_row("estimated ms", *(f"{stage.estimate:.4f}" if stage.estimate else "" for stage in stages))
    out.print(table)
    if first.estimate is not None:
        out.print(f"estimate: the roofline of {escape(made.rates or '')}")
    if first.latency is not None:
        out.print(f"ms: measured in float32 on this machine ({escape(first.latency.machine)}), whatever the target")


def _count(value: int, first: int) -> str:
    change = f" ({value / first - 1:+.1%})" if value != first else ""
    return f"{value:,}{change}"
