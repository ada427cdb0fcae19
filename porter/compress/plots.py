# SPDX-License-Identifier: Apache-2.0
"""Pictures of sparse training, pruning and scaling, by matplotlib, which is imported here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from porter.files import atomic_file

if TYPE_CHECKING:
    from porter.compress.prune import Pruned
    from porter.compress.scale import Scaled
    from porter.compress.scale_candidate import Candidate
    from porter.compress.sparsity import GammaHistory

__all__ = ["plot_channels", "plot_gammas", "plot_pareto"]

_SHOWN = 24  # histograms in one picture at most: more hide each other


@contextmanager
def _figure(path: Path, width: float, height: float, overwrite: bool) -> Iterator[Any]:
    """A figure without a display that is written to ``path`` at the end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with atomic_file(path, overwrite) as temporary:
        figure.savefig(temporary, dpi=120)


def plot_gammas(history: GammaHistory, path: str | Path, *, overwrite: bool = False) -> Path:
    """The histograms of |gamma|, one row an epoch, first at the back; and the percentiles over the epochs."""
    from matplotlib import colormaps

    picture = Path(path)
    edges = history.edges
    centers = (edges[1:] + edges[:-1]) / 2
    shown = np.unique(np.linspace(0, len(history.epochs) - 1, min(_SHOWN, len(history.epochs))).astype(int))
    highest = max(max(history.counts[i]) for i in shown)
    with _figure(picture, 10, 5, overwrite) as figure:
        ridge, lines = figure.subplots(1, 2)
        for row, i in enumerate(shown[::-1]):
            # The newest lies in front, at the bottom.
            base = row * 0.25
            heights = np.asarray(history.counts[i]) / highest + base
            color = colormaps["viridis"](row / max(1, len(shown) - 1))
            ridge.fill_between(centers, base, heights, color=color, alpha=0.85, zorder=-row, linewidth=0)
            ridge.plot(centers, heights, color="white", linewidth=0.6, zorder=-row)
        labels = shown[::-1][:: max(1, len(shown) // 6)]
        ridge.set_yticks([list(shown[::-1]).index(i) * 0.25 for i in labels], [str(history.epochs[i]) for i in labels])
        ridge.set(xlabel="|gamma|", ylabel="epoch", title=f"Gammas of batch norm, strength {history.strength:g}")
        quantiles = np.asarray(history.quantiles)
        for column, percent in ((1, "10 %"), (3, "30 %"), (5, "50 %"), (7, "70 %"), (9, "90 %")):
            lines.plot(history.epochs, quantiles[:, column], label=percent)
        lines.set(xlabel="epoch", ylabel="|gamma|", title="Percentiles", ylim=(0, None))
        lines.legend()
    return picture


def plot_channels(made: Pruned, path: str | Path, *, overwrite: bool = False) -> Path:
    """Channels of every layer before and after; parameters, MACs, metric and latency of every stage."""
    picture = Path(path)
    layers = made.layers
    with _figure(picture, 10, max(4.0, 0.16 * len(layers) + 1), overwrite) as figure:
        bars, stages = figure.subplots(1, 2, width_ratios=(3, 2))
        places = np.arange(len(layers))
        bars.barh(places, [layer.total for layer in layers], color="lightgray", label="before")
        bars.barh(places, [layer.remaining for layer in layers], color="tab:blue", label="after")
        bars.set_yticks(places, [layer.path for layer in layers], fontsize=6)
        bars.set(xlabel="channels", ylim=(len(layers), -1))
        bars.set_title(f"{made.model}: threshold {made.threshold:.4g}", loc="right")
        bars.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
        names = [stage.name for stage in made.stages]
        measures: list[tuple[str, list[float | None]]] = [
            ("parameters", [stage.parameters for stage in made.stages]),
            ("MACs", [stage.macs for stage in made.stages]),
            ("metric", [stage.metric for stage in made.stages]),
            ("measured ms", [stage.latency.milliseconds if stage.latency else None for stage in made.stages]),
            ("estimated ms", [stage.estimate for stage in made.stages]),
        ]
        for label, values in measures:
            known = [value for value in values if value is not None]
            if len(known) == len(names) and known[0]:
                stages.plot(names, [value / known[0] for value in known], marker="o", label=label)
        stages.set(title="share of the first", ylim=(0, None))
        stages.tick_params(axis="x", rotation=30)
        stages.legend()
    return picture


def plot_pareto(scaled: Scaled, *paths: Path) -> None:
    """Draw latency against accuracy (against multiply-accumulates where nothing was trained), once for each path; the
    suffix is the format."""
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
