# SPDX-License-Identifier: Apache-2.0
"""Cross-layer equalization: the channels between two layers get ranges of one size, and the model stays the same.

If ``f(s * x) = s * f(x)`` for every ``s > 0`` (ReLU, leaky ReLU, pooling, moves), then dividing output channel i of one
layer by ``s[i]`` and multiplying what reads it in the next by ``s[i]`` changes nothing but the weights. With
``s[i] = sqrt(r1[i] / r2[i])``, r1 and r2 the channel's largest weight in either layer, both have the range
``sqrt(r1[i] * r2[i])`` there, which is best for one scale a tensor (Nagel et al. 2019, arXiv:1906.04721, section 4.1
and appendix A).

The bias is divided too. A channel of tiny weights would then have a huge one, and stretch the range of the
activations (section 4.1.3 of the paper absorbs it where batch norm statistics tell how); here ``s[i]`` is not let under
``|bias[i]| / max |bias|``, so that no bias becomes larger than the largest was.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import cast

import numpy as np

from porter.findings import Finding
from porter.graph import Graph
from porter.ops import Op, Value
from porter.quantize.layers import Floats, Weighted, weighted_layers, with_layers

__all__ = ["Equalized", "Pair", "equalize"]

#: f(s * x) = s * f(x) for s > 0, channel by channel, with axis 1 the channels before and after.
_HOMOGENEOUS = frozenset({
    "relu", "leaky_relu", "prelu", "identity",  # of prelu, the slope of each channel stays what it is
    *(f"{pool}{n}d" for pool in ("max_pool", "avg_pool") for n in (1, 2, 3)),
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d",
})  # fmt: skip
#: Kinds that only give the channels another place: fine where each channel's elements stay together.
_RESHAPES = frozenset({"reshape", "flatten", "squeeze"})
#: Sweeps over all pairs; a chain of n layers needs a few, and each halves what is left.
_SWEEPS = 50
#: Sweeps end when no scale moves by more than this.
_SETTLED = 1e-4


@dataclass(frozen=True, slots=True)
class Pair:
    """Two layers with nothing but homogeneous ops between them.

    ``through`` are the kinds in between; ``copies`` is how many inputs of ``second`` one channel of ``first`` became
    (more than one where a feature map was flattened for a linear layer).
    """

    first: Weighted
    second: Weighted
    through: tuple[str, ...]
    copies: int


@dataclass(slots=True)
class Equalized:
    """The graph with other weights, the pairs that were equalized, and one finding (PT450) for those that were not."""

    graph: Graph
    pairs: list[Pair]
    findings: list[Finding]


def equalize(graph: Graph) -> Equalized:
    """Equalize every pair of layers that allows it; ``graph`` is not changed.

    What lies between two layers must be positively homogeneous, read once, and no output of the model. Layers that
    share their weights with others are left alone. Batch norms have to be folded first.
    A graph without pairs comes back as it was.
    """
    layers = weighted_layers(graph)
    pairs, obstacles = _pairs(graph, layers)
    findings = _blocked(layers, pairs, obstacles)
    if not pairs:
        return Equalized(graph, [], findings)
    touched = {layer.path: layer for pair in pairs for layer in (pair.first, pair.second)}
    weights = {path: layer.weight.numpy().astype(np.float64) for path, layer in touched.items()}
    biases = {path: layer.bias.numpy().astype(np.float64) for path, layer in touched.items() if layer.bias is not None}
    for _ in range(_SWEEPS):
        if max(_balance(pair, weights, biases) for pair in pairs) < _SETTLED:
            break
    return Equalized(with_layers(graph, weights, biases), pairs, findings)


def _balance(pair: Pair, weights: dict[str, Floats], biases: dict[str, Floats]) -> float:
    """Equalize one pair; returns how far its scales are from 1, as the largest |log s|."""
    first, second = pair.first, pair.second
    r1 = first.output_ranges(weights[first.path])
    r2 = second.input_ranges(weights[second.path]).reshape(-1, pair.copies).max(1)
    alive = (r1 > 0) & (r2 > 0)
    s = np.where(alive, np.sqrt(np.where(alive, r1, 1.0) / np.where(alive, r2, 1.0)), 1.0)
    bias = biases.get(first.path)
    if bias is not None and np.abs(bias).max() > 0:
        s = np.where(alive, np.maximum(s, np.minimum(np.abs(bias) / np.abs(bias).max(), 1.0)), 1.0)
    weights[first.path] = weights[first.path] / first.per_output(s)
    weights[second.path] = weights[second.path] * second.per_input(np.repeat(s, pair.copies))
    if bias is not None:
        biases[first.path] = bias / s
    return float(np.abs(np.log(s)).max())


def _pairs(graph: Graph, layers: dict[str, Weighted]) -> tuple[list[Pair], dict[str, str]]:
    """The pairs, and for each layer that begins none what stands in its way."""
    once = {layer.output.name: layer for layer in layers.values() if len(layer.ops) == 1}
    uses = graph.uses()
    readers: dict[str, Op] = {}
    for op in graph.ops():
        readers.update((value.name, op) for value in op.operands)
    ends = {value.name for value in graph.outputs}
    pairs: list[Pair] = []
    obstacles: dict[str, str] = {}
    for layer in once.values():
        found = _follow(layer, once, uses, readers, ends)
        if isinstance(found, Pair):
            pairs.append(found)
        else:
            obstacles[layer.path] = found
    return pairs, obstacles


def _follow(
    layer: Weighted, once: dict[str, Weighted], uses: dict[str, int], readers: dict[str, Op], ends: set[str]
) -> Pair | str:
    """The pair that begins with ``layer``, or why there is none."""
    if layer.kind == "linear" and len(layer.output.shape or ()) != 2:
        return "a linear layer of another rank than 2"
    value, copies = layer.output, 1
    through: list[str] = []
    while True:
        if value.name in ends:
            return "an output of the model"
        if uses.get(value.name, 0) != 1:
            return "a value that is read more than once"
        op = readers.get(value.name)
        if op is None:
            return "a value that nothing reads"
        after = once.get(op.outputs[0].name)
        if after is not None:
            if after.input.name != value.name or after.channels_in != layer.channels_out * copies:
                return op.kind
            if after.kind == "linear" and len(value.shape or ()) != 2:
                return "a linear layer of another rank than 2"
            return Pair(layer, after, tuple(through), copies)
        more = _passes(op, value, layer.channels_out * copies)
        if more is None:
            return op.kind
        copies *= more
        through.append(op.kind)
        value = op.outputs[0]


def _passes(op: Op, value: Value, channels: int) -> int | None:
    """How many places along axis 1 each channel has after ``op``; None where scaling does not pass through it."""
    if op.inputs[0] is None or op.inputs[0].name != value.name:
        return None
    if op.kind in _HOMOGENEOUS:
        return 1
    if op.kind == "mean":
        before = value.shape or ()
        axes = cast(tuple[int, ...], op.attrs["axes"])
        return 1 if len(before) > 2 and all(axis > 1 for axis in axes) else None
    if op.kind == "pad":
        pairs = cast(tuple[tuple[int, int], ...], op.attrs["padding"])
        still = all(tuple(pair) == (0, 0) for pair in pairs[:2])
        zero = op.attrs.get("mode", "constant") != "constant" or float(op.attrs.get("value", 0.0)) == 0.0
        return 1 if still and zero else None
    if op.kind in _RESHAPES:
        before, after = value.shape or (), op.outputs[0].shape or ()
        if len(after) == 2 and len(before) > 2 and before[0] == after[0] and before[1] == channels:
            return after[1] // before[1]
    return None


def _blocked(layers: dict[str, Weighted], pairs: list[Pair], obstacles: dict[str, str]) -> list[Finding]:
    """One finding for the layers after which nothing was equalized."""
    if not obstacles:
        return []
    counts = Counter(obstacles.values()).most_common()
    reasons = ", ".join(f"{reason} ({count})" for reason, count in counts[:6])
    path = next(iter(obstacles))
    norms = any(reason == "batch_norm" for reason, _ in counts)
    return [
        Finding(
            "PT450", "note",
            f"{len(pairs)} pairs of layers were equalized; after {len(obstacles)} of {len(layers)} layers comes "
            f"something that does not scale with its input, or that more than one layer reads: {reasons}",
            layers[path].op.origin,
            "Fold the batch norms first: porter rewrite --apply fold_batch_norm." if norms else "",
            path, layers[path].kind,
        )
    ]  # fmt: skip
