# SPDX-License-Identifier: Apache-2.0
"""Layers with constant weights, as the passes that change weights see them: read, and put back changed.

A pass never touches a graph. It takes the arrays of some layers, and :func:`with_layers` makes the graph in which they
are other ones; value names stay, so that encodings still fit (:func:`carried` renews what they know of the weights).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from porter.errors import PorterError
from porter.graph import Graph
from porter.ops import Array, Op, Value
from porter.quantize.encodings import Encodings, layer_paths, weight_digest
from porter.rewrite import Fragment

__all__ = ["Weighted", "carried", "corrected", "weighted_layers", "with_layers"]

_CONVOLUTIONS = frozenset(f"conv{n}d" for n in (1, 2, 3))
_TRANSPOSED = frozenset(f"conv_transpose{n}d" for n in (1, 2, 3))
#: Kinds with a weight that multiplies, and maybe a bias.
KINDS = frozenset({"linear"}) | _CONVOLUTIONS | _TRANSPOSED

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Weighted:
    """One convolution or linear layer whose weight (and bias, where it has one) is a float32 constant.

    ``ops`` are its calls, one for a module that is called once; ``path`` is its path.
    """

    path: str
    ops: tuple[Op, ...]

    @property
    def op(self) -> Op:
        return self.ops[0]

    @property
    def kind(self) -> str:
        return self.op.kind

    @property
    def groups(self) -> int:
        return int(self.op.attrs.get("groups", 1))

    @property
    def weight(self) -> Value:
        value = self.op.inputs[1]
        assert value is not None
        return value

    @property
    def bias(self) -> Value | None:
        return self.op.inputs[2] if len(self.op.inputs) > 2 else None

    @property
    def input(self) -> Value:
        value = self.op.inputs[0]
        assert value is not None
        return value

    @property
    def output(self) -> Value:
        return self.op.outputs[0]

    @property
    def channels_out(self) -> int:
        shape = self.weight.shape or ()
        return shape[1] * self.groups if self.kind in _TRANSPOSED else shape[0]

    @property
    def channels_in(self) -> int:
        shape = self.weight.shape or ()
        return shape[0] if self.kind in _TRANSPOSED else shape[1] * self.groups

    @property
    def channel_axis(self) -> int:
        """The axis of the output that counts its channels."""
        return len(self.output.shape or ()) - 1 if self.kind == "linear" else 1

    def on_output(self, channels: Array) -> Array:
        """One number for each output channel, shaped to be added to the layer's output."""
        rank = len(self.output.shape or ())
        return channels.reshape([-1 if axis == self.channel_axis else 1 for axis in range(rank)])

    def per_output(self, channels: Floats) -> Floats:
        """One number for each output channel, shaped to multiply the weight."""
        rank = len(self.weight.shape or ())
        if self.kind not in _TRANSPOSED:
            return channels.reshape(-1, *(1,) * (rank - 1))
        # (Ci, Co / groups, ...): output channel g * (Co / groups) + j is column j in the rows of group g.
        rows = np.repeat(channels.reshape(self.groups, -1), self.channels_in // self.groups, axis=0)
        return rows.reshape(*rows.shape, *(1,) * (rank - 2))

    def per_input(self, channels: Floats) -> Floats:
        """One number for each input channel, shaped to multiply the weight."""
        rank = len(self.weight.shape or ())
        if self.kind in _TRANSPOSED:
            return channels.reshape(-1, *(1,) * (rank - 1))
        # (Co, Ci / groups, ...): input channel g * (Ci / groups) + j is column j in the rows of group g.
        rows = np.repeat(channels.reshape(self.groups, -1), self.channels_out // self.groups, axis=0)
        return rows.reshape(*rows.shape, *(1,) * (rank - 2))

    def output_ranges(self, weight: Floats) -> Floats:
        """The largest |weight| that makes each output channel, (channels_out,)."""
        size = np.abs(weight)
        if self.kind not in _TRANSPOSED:
            return np.asarray(size.reshape(len(size), -1).max(1))
        grouped = size.reshape(self.groups, self.channels_in // self.groups, size.shape[1], -1)
        return np.asarray(grouped.max((1, 3)).reshape(-1))

    def input_ranges(self, weight: Floats) -> Floats:
        """The largest |weight| that reads each input channel, (channels_in,)."""
        size = np.abs(weight)
        if self.kind in _TRANSPOSED:
            return np.asarray(size.reshape(len(size), -1).max(1))
        grouped = size.reshape(self.groups, self.channels_out // self.groups, size.shape[1], -1)
        return np.asarray(grouped.max((1, 3)).reshape(-1))


def weighted_layers(graph: Graph) -> dict[str, Weighted]:
    """Every layer whose weights may be changed, by module path, in topological order.

    Left out: weights that are not float32, and weights that ops of another path read too (tied weights).
    """
    paths = layer_paths(graph)
    readers: Counter[str] = Counter()
    calls: dict[str, list[Op]] = {}
    for op in graph.ops():
        readers.update(value.name for value in op.operands if value.is_const)
        path = paths.get(op.outputs[0].name)
        if path is not None and op.kind in KINDS:
            calls.setdefault(path, []).append(op)
    found = {}
    for path, ops in calls.items():
        layer = Weighted(path, tuple(ops))
        if layer.weight.dtype == "float32" and readers[layer.weight.name] == len(ops):
            found[path] = layer
    return found


def with_layers(graph: Graph, weights: Mapping[str, Array], biases: Mapping[str, Array]) -> Graph:
    """A copy of ``graph`` in which the layers at some module paths have other weights, and other biases.

    Args:
        weights: float32, of the shape that the layer has.
        biases: float32 (channels_out,); a layer without a bias gets one.
    """
    layers = weighted_layers(graph)
    readers = Counter(value.name for op in graph.ops() for value in op.operands if value.is_const)
    data = {layers[path].weight.name: np.asarray(array, np.float32) for path, array in weights.items()}
    fresh: dict[str, Value] = {}
    for path, array in biases.items():
        layer = layers[path]
        bias, new = layer.bias, np.asarray(array, np.float32)
        if bias is not None and readers[bias.name] == len(layer.ops):
            data[bias.name] = new
        else:  # no bias yet, or one that other layers read too
            value = Value.constant(f"{layer.output.name}_bias", new)
            fresh.update((op.outputs[0].name, value) for op in layer.ops)
    changed = graph.with_constants(data)
    changed.replace((op, _biased(op, fresh[op.outputs[0].name])) for op in changed.ops() if op.outputs[0].name in fresh)
    return changed


def _biased(op: Op, bias: Value) -> Fragment:
    out = Value(f"{op.outputs[0].name}_biased", op.outputs[0].shape, op.outputs[0].dtype)
    origin = op.origin.after("bias_correction")
    return Fragment([Op(op.kind, (op.inputs[0], op.inputs[1], bias), (out,), op.attrs, op.name, origin)], (out,))


def corrected(graph: Graph, encodings: Encodings) -> Graph:
    """The graph with the biases that the encodings have for it; itself where it has them already.

    Raises:
        PorterError: PT413 when a bias does not fit its layer.
    """
    layers = weighted_layers(graph) if encodings.biases else {}
    biases = {}
    for path, numbers in encodings.biases.items():
        layer, bias = layers.get(path), np.asarray(numbers, np.float32)
        if layer is None or bias.size != layer.channels_out:
            raise PorterError(
                "PT413", f"these encodings are not of {graph.source}: {bias.size} biases do not fit {path}",
                where=f"made for {encodings.model}", fix="Use the model that the encodings were made for.",
            )  # fmt: skip
        if layer.bias is None or not np.array_equal(layer.bias.numpy(), bias):
            biases[path] = bias
    return with_layers(graph, {}, biases) if biases else graph


def carried(encodings: Encodings, before: Graph, after: Graph) -> Encodings:
    """The encodings of ``before`` for ``after``, which has the same values and other weights: same scales, new digests.

    A layer whose path changed (one that got its first bias, and whose weight has no name of its own) is found by its
    output.
    """
    old, new = layer_paths(before), layer_paths(after)
    moved = {path: new[name] for name, path in old.items() if name in new}
    weights = weighted_layers(after)
    layers = {}
    for path, layer in encodings.layers.items():
        place = moved.get(path, path)
        digest = weight_digest(weights[place].weight.numpy()) if place in weights else layer.digest
        layers[place] = replace(layer, digest=digest)
    return replace(
        encodings, layers=layers, weights={moved.get(p, p): e for p, e in encodings.weights.items()},
    )  # fmt: skip
