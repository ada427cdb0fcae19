# SPDX-License-Identifier: Apache-2.0
"""Pictures of sparse training and of pruning, by matplotlib, which is imported here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from porter.files import atomic_file

if TYPE_CHECKING:
    from porter.compress.prune import Pruned
    from porter.compress.sparsity import GammaHistory

__all__ = ["plot_channels", "plot_gammas"]

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
