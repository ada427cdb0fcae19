# SPDX-License-Identifier: Apache-2.0
"""A graph run op by op on a few samples at once, so that a pass can change a layer before what follows it runs.

That is what the passes that go through the layers in order need: each sees the inputs that all layers before it,
already corrected, really give. One walk costs one run of the model for each sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from porter.graph import Graph
from porter.ops import Array, Op
from porter.quantize.layers import Weighted
from porter.quantize.scheme import PRODUCTS

__all__ = ["Pair", "Walk", "fitting"]


class Walk:
    """Runs ``graph`` on ``items`` step by step; a value is dropped when nothing reads it any more.

    Args:
        items: one list of arrays a sample, in the order of the graph's inputs.
        keep: names of values that stay until :meth:`value` takes them.
    """

    def __init__(self, graph: Graph, items: Sequence[Sequence[Array]], keep: Sequence[str] = ()) -> None:
        self._graph = graph
        self._ops = iter(graph.ops())
        self._next: Op | None = next(self._ops, None)
        self._left = {value.name: 0 for op in graph.ops() for value in op.outputs}
        for op in graph.ops():
            for value in op.operands:
                self._left[value.name] = self._left.get(value.name, 0) + 1
        for name in keep:
            self._left[name] += 1
        self._constants: dict[str, Array] = {}
        self._samples: list[dict[str, Array]] = [
            {value.name: array for value, array in zip(graph.inputs, item, strict=True)} for item in items
        ]

    def until(self, name: str) -> None:
        """Run everything before the op that gives the value ``name``, which comes next then.

        Raises ``KeyError`` when no op that is still to come gives it.
        """
        while self._next is not None:
            if any(out.name == name for out in self._next.outputs):
                return
            self.step()
        raise KeyError(name)

    def value(self, name: str) -> list[Array]:
        """A value that was to be kept, one array a sample; the graph runs as far as needed. It is given once."""
        while name not in self._constants and name not in self._samples[0]:
            self.step()
        found = self._read(name)
        self._release(name)
        return found

    def operand(self, index: int) -> list[Array]:
        """What the op that comes next reads as its operand ``index``, one array a sample."""
        value = self._next.inputs[index] if self._next is not None else None
        if value is None:
            raise IndexError(index)
        return [value.numpy()] * len(self._samples) if value.is_const else self._read(value.name)

    def step(self, instead: Mapping[int, Array] | None = None) -> list[Array]:
        """Run the op that comes next, with other arrays ``instead`` of some operands.

        What depends on constants only is computed once.

        Returns:
            its first result for each sample; what is written into these arrays is what later ops read.
        """
        op = self._next
        if op is None:
            raise KeyError("the end of the graph was reached")
        self._next = next(self._ops, None)
        given = instead or {}
        fixed = bool(op.inputs) and all(v.is_const or v.name in self._constants for v in op.operands)
        places = [self._constants] if fixed else self._samples
        for place in places:
            arrays: list[Array | None] = []
            for index, value in enumerate(op.inputs):
                if value is None:
                    arrays.append(None)
                elif index in given:
                    arrays.append(given[index])
                elif value.is_const:
                    arrays.append(value.numpy())
                else:
                    arrays.append(place[value.name] if value.name in place else self._constants[value.name])
            computed = self._graph.apply(op, arrays)
            place.update((out.name, array) for out, array in zip(op.outputs, computed, strict=True))
        results = [place[op.outputs[0].name] for place in places]
        for value in op.operands:
            self._release(value.name)
        for out in op.outputs:
            if not self._left[out.name]:
                self._forget(out.name)
        return results * len(self._samples) if fixed else results

    def _read(self, name: str) -> list[Array]:
        if name in self._constants:
            return [self._constants[name]] * len(self._samples)
        return [sample[name] for sample in self._samples]

    def _release(self, name: str) -> None:
        if name in self._left:
            self._left[name] -= 1
            if self._left[name] <= 0:
                self._forget(name)

    def _forget(self, name: str) -> None:
        for place in (self._constants, *self._samples):
            place.pop(name, None)


class Pair:
    """The float model and its simulation on the same samples, both at one layer: the simulation right before it.

    Iterate with :meth:`through`; a pass must :meth:`step` over the layer, or it runs as it is.
    """

    def __init__(self, plain: Walk, walk: Walk, layer: Weighted) -> None:
        self._plain, self._walk, self._layer = plain, walk, layer

    @classmethod
    def through(
        cls, graph: Graph, simulated: Graph, items: Sequence[Sequence[Array]], layers: Sequence[Weighted]
    ) -> Iterator[tuple[Weighted, Pair]]:
        """Stop at each of some layers (called once each), in the order in which the simulation runs them."""
        places = _products(simulated, layers)
        names = {place: layer for layer, place in zip(layers, places, strict=True)}
        plain = Walk(graph, items, [layer.output.name for layer in layers])
        walk = Walk(simulated, items)
        for op in simulated.ops():
            layer = names.get(op.outputs[0].name)
            if layer is not None:
                walk.until(op.outputs[0].name)
                yield layer, cls(plain, walk, layer)

    def operand(self, index: int) -> list[Array]:
        """What the simulated layer reads: 0 its input, 1 its weight; one array a sample."""
        return self._walk.operand(index)

    def reference(self) -> list[Array]:
        """The layer's output in the float model, one array a sample. It is given once."""
        return self._plain.value(self._layer.output.name)

    def step(self, instead: Mapping[int, Array] | None = None) -> list[Array]:
        """Run the simulated layer; see :meth:`Walk.step`."""
        return self._walk.step(instead)


def _products(simulated: Graph, layers: Sequence[Weighted]) -> list[str]:
    """The name of what each layer's op gives in the simulation: the layer's output, or what is requantized to it."""
    producers = simulated.producers()
    names = []
    for layer in layers:
        op = producers[layer.output.name]
        while op.kind not in PRODUCTS:  # a linear layer of which the weight is computed is a gemm
            op = producers[op.operands[0].name]
        names.append(op.outputs[0].name)
    return names


def fitting(graph: Graph, limit: int) -> int:
    """How many samples a walk may hold at once so that its values take at most ``limit`` bytes; at least 1."""
    last: dict[str, int] = {}
    ops = graph.ops()
    for index, op in enumerate(ops):
        for value in (*op.operands, *op.outputs):
            last[value.name] = index
    live = peak = sum(_nbytes(value.shape) for value in graph.inputs)
    for index, op in enumerate(ops):
        live += sum(_nbytes(value.shape) for value in op.outputs)
        peak = max(peak, live)
        ended = {v.name: v for v in (*op.operands, *op.outputs) if last[v.name] == index and not v.is_const}
        live -= sum(_nbytes(value.shape) for value in ended.values())
    return max(1, limit // max(peak, 1))


def _nbytes(shape: Sequence[int] | None) -> int:
    return 4 * math.prod(shape or (1,))
