# SPDX-License-Identifier: Apache-2.0
"""Training in stages, for people: epochs, the table of stages, the validation of what was emitted, the cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from porter.report.text import print_findings

if TYPE_CHECKING:
    from porter.train.events import Epoch, StageResult
    from porter.train.infer import Inferred
    from porter.train.predict import Predictions, Validated
    from porter.train.profile import Profile

__all__ = [
    "print_epoch", "print_inferred", "print_predictions", "print_profile", "print_stage", "print_validated",
]  # fmt: skip

#: Figures of a metric that a line of text shows; JSON has all.
_FIGURES = 6


def _figures(values: Mapping[str, float], first: str | None = None) -> str:
    names = sorted(values, key=lambda name: name != first)
    more = f" and {len(names) - _FIGURES} more" if len(names) > _FIGURES else ""
    return ", ".join(f"{escape(name)} {values[name]:.4g}" for name in names[:_FIGURES]) + more


def print_epoch(out: Console, epoch: Epoch, of: int, monitor: str | None = None) -> None:
    """One line of one epoch."""
    total = sum(epoch.losses.values())
    parts = f" ({_figures(epoch.losses)})" if len(epoch.losses) > 1 else ""
    text = f"epoch {epoch.number + 1:>{len(str(of))}} of {of}: loss {total:.4f}{parts}, rate {epoch.learning_rate:.3g}"
    if epoch.metrics is not None:
        text += f"; {_figures(epoch.metrics, monitor)}"
    best = "  [green]best[/]" if epoch.best else ""
    out.print(f"{text}  {epoch.seconds:.1f} s{best}")


def print_stage(out: Console, made: StageResult) -> None:
    """What a stage has made, after its epochs."""
    if made.findings:
        print_findings(out, made.findings)
    best = next((epoch for epoch in reversed(made.epochs) if epoch.best), None)
    at = f", epoch {best.number + 1} of {len(made.epochs)}" if best is not None else ""
    if made.metrics is not None:
        out.print(f"{escape(made.task_name)}, {made.stage}{at}: {_figures(made.metrics, made.monitor)}")
    elif best is not None:
        out.print(f"{escape(made.task_name)}, {made.stage}{at}: loss {sum(best.losses.values()):.4f}")
    for path in made.written:
        out.print(f"wrote {escape(str(path))}")


def print_predictions(out: Console, made: Predictions) -> None:
    """A row for each stage."""
    first = made.rows[0]
    names = sorted(first.metrics, key=lambda name: name != first.monitor)[:_FIGURES]
    table = Table(
        Column("stage"), *(Column(escape(name), justify="right") for name in names), Column("s", justify="right"),
        box=None, pad_edge=False,
    )  # fmt: skip
    for one in made.rows:
        shown = (f"{one.metrics[name]:.4f}" if name in one.metrics else "" for name in names)
        table.add_row(one.stage, *shown, f"{one.seconds:.1f}")
    out.print(escape(first.task_name))
    out.print(table)


def print_validated(out: Console, made: Validated) -> None:
    """Whether what was emitted computes what the network of integers computes."""
    out.print(
        f"{escape(made.task_name)}: {made.images} images, {made.elements:,} elements, the network of integers against "
        f"{escape(str(made.emitted))}"
    )
    if made.findings:
        print_findings(out, made.findings)
    for one in made.different:
        out.print(
            f"  {escape(one.output)}: {one.elements:,} elements differ in {one.images} images, by up to {one.largest:g}"
        )
    if made.metrics is not None:
        out.print(f"metric of what was emitted: {_figures(made.metrics, made.monitor)}")
    out.print("[green]the same bit for bit[/]" if made.ok else "[red]PT710: not the same; `porter explain PT710`[/]")


def print_inferred(out: Console, made: Inferred) -> None:
    """The detections in one image."""
    count = len(made.detections)
    out.print(f"{escape(str(made.image))}, {made.stage}: {count} detection{'' if count == 1 else 's'}")
    for one in made.detections:
        box = " ".join(f"{value:.1f}" for value in one.box)
        out.print(f"  {escape(one.name)} {one.score:.3f}  {box}")
    if made.drawn is not None:
        out.print(f"wrote {escape(str(made.drawn))}")


def print_profile(out: Console, made: Profile, *, every: bool = False) -> None:
    """The cost by op (the dearest ones, or every one), in total, and beside published figures."""
    cost = made.estimate
    shape = "x".join(map(str, made.input_shape))
    out.print(f"{escape(made.task_name)}, input {shape}, {escape(cost.rates.name)}")
    rows = [one for one in cost.costs if one.seconds > 0 or one.macs or one.params]
    left = 0
    if not every and len(rows) > 25:
        dear = sorted(rows, key=lambda one: -one.seconds)[:20]
        left, rows = len(rows) - len(dear), [one for one in rows if any(one is other for other in dear)]
    table = Table(
        Column("layer"), Column("op"), Column("parameters", justify="right"), Column("MMAC", justify="right"),
        Column("activations KB", justify="right"), Column("us", justify="right"), Column("bound by"), box=None,
        pad_edge=False,
    )  # fmt: skip
    for one in rows:
        table.add_row(
            escape(one.path), one.kind, f"{one.params:,}", f"{one.macs / 1e6:.3f}", f"{one.activation_bytes / 1e3:.1f}",
            f"{1e6 * one.seconds:.2f}", one.bound,
        )  # fmt: skip
    out.print(table)
    if left:
        out.print(f"and {left} cheaper ones (--all)")
    out.print()
    _print_totals(out, made)
    out.print(
        f"estimate: the roofline of each op, summed, for {escape('; '.join((cost.rates.name, *cost.rates.notes)))}"
    )


def _print_totals(out: Console, made: Profile) -> None:
    cost, published = made.estimate, made.published
    columns = [Column(""), Column("porter", justify="right")]
    if published is not None:
        columns.append(Column("published", justify="right"))
    table = Table(*columns, box=None, pad_edge=False)

    def row(name: str, show: Callable[[float], str], own: float, other: float | None = None) -> None:
        theirs = "-" if other is None else show(other)
        table.add_row(name, show(own), *(() if published is None else (theirs,)))

    row("parameters", lambda x: f"{x / 1e6:.3f} M", cost.params, published.parameters if published else None)
    row("multiply-accumulates", lambda x: f"{x / 1e9:.3f} G", cost.macs, published.macs if published else None)
    row("weights on the device", lambda x: f"{x / 1e6:.3f} MB", cost.weight_bytes)
    row("peak of activations (float32)", lambda x: f"{x / 1e6:.3f} MB", cost.peak_bytes)
    row("latency", lambda x: f"{x:.4g} ms", cost.milliseconds, published.milliseconds if published else None)
    out.print(table)
    if published is not None:
        out.print(f"published by: {escape(published.source)}")
    if cost.uncounted:
        out.print(f"not counted: {', '.join(cost.uncounted)}")
