# SPDX-License-Identifier: Apache-2.0
"""The optional passes that change weights so that quantization costs less, and the judgement of each.

Cross-layer equalization, AdaRound and bias correction run in this order. After each, the quantized model is compared
with the float one on samples that the pass did not see, where there are enough; a pass that made it worse is taken
back, and a finding (PT451) says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from porter.data import Data
from porter.findings import Finding
from porter.graph import Graph
from porter.ops import Array, numpy_dtype
from porter.quantize.adaround import adaround
from porter.quantize.bias_correction import bias_correct
from porter.quantize.encodings import Encodings
from porter.quantize.equalize import equalize
from porter.quantize.layers import carried, weighted_layers
from porter.quantize.report import Columns, column_axis
from porter.quantize.taps import Progress
from porter.quantize.walk import fitting
from porter.verify import verify

__all__ = ["PASSES", "Improved", "Step", "fidelity", "improve"]

#: The passes by the name that users write, in the order in which they run.
PASSES = ("equalize", "adaround", "bias_correction")
#: Bytes of values that a pass may hold, for the float model and for the simulation.
_HELD = 2**29
#: Samples that a pass learns from, and samples that judge it, at most; and bytes that all of them may take.
_SEEN, _JUDGES = 64, 64
_ITEMS = 2**28
#: A pass that loses less than this is neutral, and stays (dB).
_NEUTRAL = 0.05
#: A column that is equal counts as this good (dB), so that one of many cannot outweigh the others.
_CAP = 100.0


@dataclass(frozen=True, slots=True)
class Step:
    """One pass: the fidelity (:func:`fidelity`, dB) of the quantized model before and after it, whether it stays (None
    where it found nothing to do), and what it did in a few words."""

    name: str
    before: float
    after: float
    kept: bool | None
    what: str

    def __str__(self) -> str:
        if self.kept is None:
            return f"{self.name}: nothing to do ({self.what})"
        outcome = "kept" if self.kept else "taken back"
        return f"{self.name}: {self.before:.2f} dB to {self.after:.2f} dB, {outcome} ({self.what})"


@dataclass(slots=True)
class Improved:
    """What :func:`improve` made.

    Fields:
        graph: the float model with the weights and biases that are quantized.
        reference: the float model that it is compared with: the original, or its equalized form, whose outputs are the
            same and whose inner values are those of ``graph``.
        encodings: of ``graph``.
        steps: one for each pass.
    """

    graph: Graph
    reference: Graph
    encodings: Encodings
    steps: list[Step] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def fidelity(reference: Graph, simulated: Graph, items: Sequence[Sequence[Array]]) -> float:
    """How close a quantized model is to the float one, in dB: the mean SQNR of the columns of all float outputs.

    Columns (:func:`porter.quantize.report.column_axis`) count alike, whatever their size, so that boxes in hundreds of
    pixels do not hide scores; columns that are zero in the float model do not count. An equal column counts 100 dB.
    """
    places = [
        (index, Columns(column_axis(value.shape)))
        for index, value in enumerate(reference.outputs)
        if (value.dtype or "").startswith("float") and value.shape
    ]
    for item in items:
        wanted, got = reference.run(item), simulated.run(item)
        for index, columns in places:
            columns.add(wanted[index], got[index])
    found: list[float] = []
    for _, columns in places:
        alive = np.abs(columns.reference_range).max(1) > 0
        found += [float(x) for x in np.clip(columns.sqnr[alive], -_CAP, _CAP)]
    return math.fsum(found) / len(found) if found else _CAP


def improve(
    graph: Graph,
    encodings: Encodings,
    data: Data,
    passes: Sequence[str],
    *,
    calibrated: Callable[[Graph], Encodings],
    insert: Callable[[Graph, Encodings], Graph],
    progress: Progress | None = None,
) -> Improved:
    """Run the passes that were asked for, and keep those that help.

    Args:
        graph: the float model.
        encodings: of ``graph``.
        data: the calibration samples. A third of them judges (64 at most), others are learned from (64 at most); with
            fewer than two samples the one does both.
        passes: of :data:`PASSES`.
        calibrated: finds the encodings of another graph on the same data; for equalization, which changes ranges.
        insert: the simulation of a graph under its encodings.
        progress: called with (layers done, layers) of each pass.
    """
    judges, seen = _split(data, fitting(graph, _HELD))
    made = Improved(graph, graph, encodings)
    simulated = insert(graph, encodings)
    score = fidelity(graph, simulated, judges)
    for name in PASSES:
        if name not in passes:
            continue
        if name == "equalize":
            candidate, what = _equalized(made, calibrated, judges)
        elif name == "adaround":
            candidate, what = _adarounded(made, simulated, seen, progress)
        else:
            candidate, what = _corrected(made, simulated, seen, progress)
        if candidate is None:
            made.steps.append(Step(name, score, score, None, what))
            continue
        trial = insert(candidate.graph, candidate.encodings)
        after = fidelity(graph, trial, judges)
        kept = after >= score - _NEUTRAL
        made.steps.append(Step(name, score, after, kept, what))
        if kept:
            made.graph, made.reference, made.encodings = candidate.graph, candidate.reference, candidate.encodings
            simulated, score = trial, after
        else:
            made.findings.append(
                Finding(
                    "PT451", "warning", f"{name} was taken back: with it the quantized model is {score - after:.2f} dB "
                    f"further from the float one on {len(judges)} calibration samples ({after:.2f} dB, not "
                    f"{score:.2f} dB)", fix=f"Leave {name} off, or give more samples.",
                )
            )  # fmt: skip
    return made


def _split(data: Data, most: int) -> tuple[list[list[Array]], list[list[Array]]]:
    """Samples that judge, and samples to learn from: apart where there are two or more."""
    size = sum(math.prod(value.shape or ()) * numpy_dtype(value.dtype or "float32").itemsize for value in data.inputs)
    items = data.take(max(2, min(_SEEN + _JUDGES, _ITEMS // max(size, 1))))
    judges = items[: max(1, len(items) // 3)]
    return judges, items[len(judges) :][: min(most, _SEEN)] or judges


def _equalized(
    made: Improved, calibrated: Callable[[Graph], Encodings], judges: Sequence[Sequence[Array]]
) -> tuple[Improved | None, str]:
    found = equalize(made.graph)
    made.findings += found.findings
    if not found.pairs:
        return None, "no pair of layers allows it"
    evidence = verify(made.graph, found.graph, judges[:2])
    if not evidence.ok:
        made.findings.append(
            Finding(
                "PT452", "warning", "equalization was refused: the equalized model differs from the original by "
                f"{evidence.worst.relative:.2g} of the range of output {evidence.worst.name}, more than float rounding",
                fix="Leave equalize off.",
            )
        )  # fmt: skip
        return None, "the model was not the same any more"
    return Improved(found.graph, found.graph, calibrated(found.graph)), f"{len(found.pairs)} pairs of layers"


def _adarounded(
    made: Improved, simulated: Graph, items: Sequence[Sequence[Array]], progress: Progress | None
) -> tuple[Improved | None, str]:
    found = adaround(made.graph, simulated, made.encodings, items, progress=progress)
    if not found.layers:
        return None, "no layer allows it"
    gains = sorted(layer.gain for layer in found.layers.values())
    left = f", {len(found.left)} layers left as they were" if found.left else ""
    what = (
        f"{len(found.layers)} layers, {np.mean([r.flipped for r in found.layers.values()]):.0%} of the weights rounded "
        f"the other way, median error of a layer down by {gains[len(gains) // 2]:.0%}{left}"
    )
    return Improved(found.graph, made.reference, carried(made.encodings, made.graph, found.graph)), what


def _corrected(
    made: Improved, simulated: Graph, items: Sequence[Sequence[Array]], progress: Progress | None
) -> tuple[Improved | None, str]:
    found = bias_correct(
        made.graph, simulated, made.encodings, items, reference=made.reference, progress=progress
    )  # fmt: skip
    if not found.shifts:
        return None, "no layer allows it"
    encodings = carried(made.encodings, made.graph, found.graph)
    shifted = {layer.output.name for path, layer in weighted_layers(made.graph).items() if path in found.shifts}
    encodings.biases = {
        path: tuple(map(float, layer.bias.numpy()))
        for path, layer in weighted_layers(found.graph).items()
        if layer.output.name in shifted and layer.bias is not None
    }
    return Improved(found.graph, made.reference, encodings), f"{len(found.shifts)} layers"
