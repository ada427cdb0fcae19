# SPDX-License-Identifier: Apache-2.0
"""Bias correction: what quantization adds to a layer's output on average goes into its bias, with the other sign.

Rounding errors of weights and inputs do not cancel out: the mean of a channel shifts, and every later layer sees the
shift. The mean error of each output channel is measured on samples, layer by layer, with all layers before it already
corrected, and subtracted from the bias (Nagel et al. 2019, arXiv:1906.04721, section 4.2 and appendix D, empirical
bias correction).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from porter.graph import Graph
from porter.ops import Array
from porter.quantize.encodings import Encodings
from porter.quantize.layers import weighted_layers, with_layers
from porter.quantize.taps import Progress
from porter.quantize.walk import Pair

__all__ = ["BiasCorrected", "bias_correct"]


@dataclass(frozen=True, slots=True)
class BiasCorrected:
    """The graph with other biases, and by how much each layer's channels shifted, (channels,) float32."""

    graph: Graph
    shifts: dict[str, Array]


def bias_correct(
    graph: Graph,
    simulated: Graph,
    encodings: Encodings,
    items: Sequence[Sequence[Array]],
    *,
    reference: Graph | None = None,
    progress: Progress | None = None,
) -> BiasCorrected:
    """Correct the bias of every quantized layer; one that has none gets one.

    Args:
        graph: the float model whose biases are corrected; it is not changed.
        simulated: ``graph`` with quantize and dequantize ops (:func:`porter.quantize.insert.insert`).
        items: samples; all are held at once (:func:`porter.quantize.walk.fitting` says how many fit).
        reference: the float model whose outputs are the right ones, where the weights of ``graph`` are changed
            already; default ``graph``.
        progress: called with (layers done, layers).

    A module that is called several times has one bias for all calls, and keeps it.
    """
    right = weighted_layers(reference or graph)
    chosen = [
        layer
        for path, layer in right.items()
        if len(layer.ops) == 1 and path in encodings.layers and encodings.layers[path].quantized
    ]
    layers = weighted_layers(graph)
    biases, shifts = {}, {}
    for done, (layer, pair) in enumerate(Pair.through(reference or graph, simulated, items, chosen)):
        wanted, got = pair.reference(), pair.step()
        axes = tuple(axis for axis in range(wanted[0].ndim) if axis != layer.channel_axis)
        shift = np.mean([(g.astype(np.float64) - w).mean(axes) for w, g in zip(wanted, got, strict=True)], axis=0)
        shifts[layer.path] = shift.astype(np.float32)
        for array in got:
            array -= layer.on_output(shifts[layer.path])
        bias = layers[layer.path].bias
        biases[layer.path] = (0.0 if bias is None else bias.numpy()) - shifts[layer.path]
        if progress is not None:
            progress(done + 1, len(chosen))
    return BiasCorrected(with_layers(graph, {}, biases), shifts)
