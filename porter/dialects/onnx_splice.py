# SPDX-License-Identifier: Apache-2.0
"""Putting fragments into an ONNX graph: names, constants and rewiring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import TYPE_CHECKING

from onnx import NodeProto, TensorProto

from porter.dialects.onnx_lower import Lowering
from porter.dialects.onnx_proto import Node, make_tensor, renamed
from porter.ops import Array, Op, Value
from porter.rewrite import Fragment

if TYPE_CHECKING:
    from porter.dialects.onnx import OnnxGraph

__all__ = ["Splice", "identity"]

#: Equal constants of up to this many elements are one initializer.
_POOLED = 16


class Splice:
    """One pass of replacements in a graph."""

    def __init__(self, graph: OnnxGraph) -> None:
        model = graph._model
        self._graph = graph
        self._outputs = set(model.outputs)
        self._taken = {*model.types, *graph._producer, *model.tensors, *model.inputs}
        self._counters: dict[str, int] = {}
        self._instead: dict[str, str] = {}
        self._by_value: dict[int, tuple[Value, str]] = {}
        #: A graph is being built from nothing: constants keep their names.
        self._bridging = not model.nodes
        self._by_name: dict[str, Value] = {}
        self.tensors: dict[str, TensorProto] = {}
        #: Values that are another than before the pass: their type, data or producer.
        self.changed: set[str] = set()
        self.lowering = Lowering(model.opset, dict(model.types), self.fresh, self._add)

    def fresh(self, hint: str) -> str:
        """A name that nothing has."""
        name = hint
        while name in self._taken:
            n = self._counters[hint] = self._counters.get(hint, 0) + 1
            name = f"{hint}_{n}"
        self._taken.add(name)
        return name

    def reserve(self, names: Iterable[str]) -> None:
        """Keep names from being given to something else."""
        self._taken.update(names)

    def _add(self, name: str, data: Array) -> None:
        self.tensors[name] = make_tensor(name, data)

    def rewired(self, node: Node) -> Node:
        """The node, reading what stands for the values that were replaced by others."""
        names = self._instead
        if names and any(n in names for n in (*node.ins, *node.caps)):
            self.changed.update(filter(None, node.outs))
            return renamed(node, names)
        return node

    def constant(self, value: Value, name: str | None = None) -> str:
        """The name of a constant: the graph's own, or of a new initializer (called ``name`` if given)."""
        graph = self._graph
        known = graph._values.get(value.name)
        if known is value and (value.name in graph._model.tensors or value.name in graph._producer):
            return value.name
        found = self._by_value.get(id(value))
        if found is not None:
            return found[1]
        if name is None:
            name = self._name_of(value)
        self._by_value[id(value)] = (value, name)
        if name not in self.tensors:
            self._add(name, value.numpy())
            self.lowering.types[name] = (value.shape, value.dtype)
        return name

    def _name_of(self, value: Value) -> str:
        """The name for a constant that is new to the graph; that of an equal one when there is one."""
        if self._bridging:
            other = self._by_name.setdefault(value.name, value)
            if other is value or _equal(other, value):
                return value.name
        elif value.shape is not None and prod(value.shape) <= _POOLED:
            return self.lowering.const(value.numpy())
        return self.fresh(value.name)

    def _operand(self, value: Value | None, local: Mapping[str, str]) -> str | None:
        if value is None:
            return None
        name = local.get(value.name)
        if name is not None:
            return name
        name = value.name
        graph = self._graph
        if name in graph._producer or name in graph._model.inputs or name in graph._model.sparse:
            node = graph._producer.get(name)
            if not value.is_const or node is None or node.op != "Constant":
                return self._instead.get(name, name)
        if value.is_const:
            return self.constant(value)
        raise ValueError(f"{name} is not a value of this graph")

    def fragment(self, op: Op, fragment: Fragment) -> list[Node]:
        """The nodes that stand for ``op``."""
        olds = [out.name for out in op.outputs]
        made = {out.name for inner in fragment.ops for out in inner.outputs}
        local: dict[str, str] = {}
        identities: list[tuple[Value, str]] = []
        for old, new in zip(olds, fragment.results, strict=True):
            if new.name in made and new.name not in local:
                local[new.name] = old
                self.changed.add(old)
            elif new.name not in made and new.is_const and self._is_new(new) and old not in self._outputs:
                self.constant(new, old)
                self.changed.add(old)
            else:
                identities.append((new, old))
        lowering = self.lowering
        lowering.nodes = []
        for inner in fragment.ops:
            ins = [self._operand(value, local) for value in inner.inputs]
            outs = []
            for value in inner.outputs:
                name = local.get(value.name)
                if name is None:
                    name = local[value.name] = self.fresh(value.name)
                    lowering.types[name] = (value.shape, value.dtype)
                    self.changed.add(name)
                outs.append(name)
            lowering.lower(inner, ins, outs)
        for new, old in identities:
            name = self._operand(new, local)
            assert name is not None
            if old in self._outputs:
                lowering.nodes.append(Node(identity(name, old), op.origin))
            else:
                self._instead[old] = name
            self.changed.add(old)
        return lowering.nodes

    def _is_new(self, value: Value) -> bool:
        known = self._graph._values.get(value.name)
        return known is not value and id(value) not in self._by_value

    def bridge(self, op: Op) -> list[Node]:
        """The nodes of an op of another graph, under its own names."""
        lowering = self.lowering
        lowering.nodes = []
        ins: list[str | None] = []
        for value in op.inputs:
            if value is None:
                ins.append(None)
            elif value.is_const:
                ins.append(self.constant(value))
            else:
                ins.append(value.name)
        for value in op.outputs:
            lowering.types[value.name] = (value.shape, value.dtype)
        lowering.lower(op, ins, [value.name for value in op.outputs])
        return lowering.nodes


def _equal(a: Value, b: Value) -> bool:
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    x, y = a.numpy(), b.numpy()
    return x is y or x.tobytes() == y.tobytes()


def identity(source: str, target: str) -> NodeProto:
    """A node that gives ``source`` another name."""
    return NodeProto(op_type="Identity", input=[source], output=[target], name=target)
