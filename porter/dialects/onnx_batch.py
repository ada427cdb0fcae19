# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph whose batch stays open, from the same model rewritten at two batches.

A graph has static shapes, so a rewrite is made at one batch. Made at two, what differs is what depends on the batch:
the shape of a Reshape, in which it becomes 0 (the extent of the operand) or -1; the target of an Expand; a constant
that was repeated for each image. Arithmetic on shapes that such a Reshape read is gone with it. Whatever else differs
is told (PT354), and nothing is guessed: the result is proved at other batches than these two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from porter.dialects.onnx import OnnxGraph, _live
from porter.dialects.onnx_proto import Node, external, make_tensor
from porter.errors import PorterError
from porter.ops import Array

__all__ = ["OpenGraph", "join_batches"]

#: Operators whose operands are broadcast: a constant whose rows are all the same needs one row only.
_BROADCAST = frozenset({
    "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mod", "Where", "And", "Or", "Xor", "Equal", "Less", "LessOrEqual",
    "Greater", "GreaterOrEqual",
})  # fmt: skip
_TOLD = 3
#: Elements of a shape: more is something else.
_SHAPE = 64


class OpenGraph(OnnxGraph):
    """A graph that was made at one batch, and is written with the first axis open."""

    dim: str
    #: By the name of an input or output: which of its axes are the batch, and which depend on it otherwise.
    axes: dict[str, tuple[frozenset[int], frozenset[int]]]
    #: The values whose shape, or constant, is written so that it holds for any batch.
    opened: list[str]

    def _declare(self, proto: ModelProto) -> None:
        for value in (*proto.graph.input, *proto.graph.output):
            same, other = self.axes.get(value.name, (frozenset(), frozenset()))
            for axis in same | other:
                extent = value.type.tensor_type.shape.dim[axis]
                extent.Clear()
                if axis in same:
                    extent.dim_param = self.dim


def join_batches(one: OnnxGraph, two: OnnxGraph, dim: str) -> OpenGraph:
    """The graph that is ``one`` at the batch of ``one`` and ``two`` at that of ``two``.

    Args:
        one, two: a model rewritten at two batches, both above 1.
        dim: the name of the open axis.

    Raises:
        PorterError: PT354 where the two differ in more than can be told apart by the batch.
    """
    return _Join(one, two, dim).made()


class _Join:
    def __init__(self, one: OnnxGraph, two: OnnxGraph, dim: str) -> None:
        self.one, self.two, self.dim = one, two, dim
        self.nodes, self.tensors = list(one._model.nodes), dict(one._model.tensors)
        self.types = dict(one._model.types)
        self.refused: list[str] = []
        #: The name of the batch as a 1-D tensor, once something needs it.
        self.batch = ""
        self.ahead: list[Node] = []
        self.opened: list[str] = []

    def made(self) -> OpenGraph:
        ones, twos = self.one._model.nodes, self.two._model.nodes
        if [(n.op, n.domain, n.outs) for n in ones] != [(n.op, n.domain, n.outs) for n in twos]:
            raise _refusal(self.one.source, "rewriting it takes other steps at another batch")
        ops = [{id(op.node): op for op in graph.ops()} for graph in (self.one, self.two)]
        for i, (a, b) in enumerate(zip(ones, twos, strict=True)):
            if a.op == "Constant" and not a.domain:
                continue
            if a.proto.attribute != b.proto.attribute and _plain(a) != _plain(b):
                self._refuse(a, "has attributes that depend on it")
                continue
            shapes = [op.attrs.get("shape") if op.kind == "reshape" else None for op in (ops[0][id(a)], ops[1][id(b)])]
            if a.op == "Reshape" and shapes[0] is not None and shapes[1] is not None:
                self._reshape(i, a, shapes[0], shapes[1])
                continue
            if a.op == "Expand" and not self._is_constant(a.ins[1]):
                extents = self.one._constants.get(a.ins[1], _SHAPE), self.two._constants.get(b.ins[1], _SHAPE)
                if extents[0] is not None and extents[1] is not None:
                    self._differs(i, 1, a, extents[0], extents[1])
                    continue
            self._constants(i, a, b)
        if self.refused:
            rest = len(self.refused) - _TOLD
            more = f"; and {rest} more" if rest > 0 else ""
            raise _refusal(self.one.source, "; ".join(self.refused[:_TOLD]) + more)
        return self._graph()

    def _refuse(self, node: Node, why: str) -> None:
        where = f" ({node.origin})" if node.origin is not None and node.origin.file else ""
        self.refused.append(f"{node.op} {node.name}{where} {why}")

    # -- what depends on the batch -----------------------------------------------------------------

    def _reshape(self, i: int, node: Node, one: Sequence[int], two: Sequence[int]) -> None:
        if tuple(one) == tuple(two) and self._is_constant(node.ins[1]):
            return
        given = [graph._value(node.ins[0]).shape or () for graph in (self.one, self.two)]
        shape = [0 if m != n and _there(given, k, (m, n)) else m for k, (m, n) in enumerate(zip(one, two, strict=True))]
        open_ = [k for k, (m, n) in enumerate(zip(one, two, strict=True)) if m != n and shape[k]]
        if 0 in one or len(open_) > 1:
            self._refuse(node, "gives a shape in which several extents depend on it")
            return
        if open_:
            shape[open_[0]] = -1
        self._read(i, 1, np.asarray(shape, np.int64))

    def _constants(self, i: int, a: Node, b: Node) -> None:
        if len(a.ins) != len(b.ins):
            self._refuse(a, "reads other values at another batch")
            return
        for k, (m, n) in enumerate(zip(a.ins, b.ins, strict=True)):
            held = self._is_constant(m), n in self.two._model.tensors or _is_constant_node(self.two, n)
            if held == (False, False) and m == n:
                continue
            if not all(held):
                self._refuse(a, "reads other values at another batch")
                return
            if not self._same(m, n):
                self._differs(i, k, a, self.one._value(m).numpy(), self.two._value(n).numpy())

    def _differs(self, i: int, k: int, node: Node, one: Array, two: Array) -> None:
        """Constant operand ``k`` of a node, at the two batches."""
        shapes = [graph._value(node.outs[0]).shape for graph in (self.one, self.two)]
        rows = one.ndim == two.ndim > 0 and one.shape[1:] == two.shape[1:] and len(one) and (one == one[:1]).all()
        repeated = rows and one.shape != two.shape and np.array_equal(one[:1], two[:1]) and (two == two[:1]).all()
        if node.op == "Expand" and k == 1 and one.shape == two.shape:
            self._expand(i, node, one, two)
        elif node.op == "Slice" and k == 2 and self._ends(node, one, two):
            self._read(i, k, np.where(one == two, one, np.iinfo(one.dtype).max))
        elif repeated and node.op in _BROADCAST and shapes[0] is not None and len(shapes[0]) == one.ndim:
            self._read(i, k, one[:1])
        elif repeated and (len(one), len(two)) == self._extents():
            self._read_name(i, k, self._expanded(one[:1], i))
        else:
            self._refuse(node, f"reads a constant that depends on it (operand {k + 1})")

    def _expand(self, i: int, node: Node, one: Array, two: Array) -> None:
        """An Expand to one shape and the other: 1 where the operand has the extent already, or the batch."""
        given = [graph._value(node.ins[0]).shape or () for graph in (self.one, self.two)]
        shift = len(given[0]) - len(one)
        shape = [
            1 if m != n and _there(given, axis + shift, (m, n)) else m
            for axis, (m, n) in enumerate(zip(one, two, strict=True))
        ]
        open_ = [axis for axis, (m, n) in enumerate(zip(one, two, strict=True)) if m != n and shape[axis] != 1]
        if not open_:
            self._read(i, 1, np.asarray(shape, np.int64))
        elif open_ == [0] and (one[0], two[0]) == self._extents():
            self._read_name(i, 1, self._shape(np.asarray(shape[1:], np.int64), i))
        else:
            self._refuse(node, "repeats a value a number of times that depends on it")

    def _ends(self, node: Node, one: Array, two: Array) -> bool:
        """Whether the ends that differ are the ends of the axes."""
        if one.shape != two.shape or len(node.ins) < 4 or not self._is_constant(node.ins[3]):
            return False
        axes = self.one._value(node.ins[3]).numpy()
        given = [graph._value(node.ins[0]).shape or () for graph in (self.one, self.two)]
        return all(m == n or _there(given, int(axis), (m, n)) for axis, m, n in zip(axes, one, two, strict=True))

    # -- building ----------------------------------------------------------------------------------

    def _extents(self) -> tuple[int, int]:
        """The two batches."""
        pairs = zip(self.one.inputs, self.two.inputs, strict=True)
        return next((a.shape[0], b.shape[0]) for a, b in pairs if a.shape and b.shape and a.shape[0] != b.shape[0])

    def _fresh(self, hint: str) -> str:
        name, n = hint, 0
        while name in self.types or name in self.tensors:
            n += 1
            name = f"{hint}_{n}"
        return name

    def _constant(self, hint: str, data: Array) -> str:
        name = self._fresh(hint)
        self.tensors[name] = make_tensor(name, data)
        self.types[name] = (data.shape, str(data.dtype))
        return name

    def _node(self, op: str, ins: Sequence[str], hint: str, shape: tuple[int, ...], dtype: str, like: Node) -> str:
        name = self._fresh(hint)
        proto = NodeProto(op_type=op, input=ins, output=[name], name=name)
        if op == "Concat":
            proto.attribute.add(name="axis", type=2, i=0)
        self.ahead.append(Node(proto, like.origin))
        self.types[name] = (shape, dtype)
        return name

    def _shape(self, rest: Array, i: int) -> str:
        """The batch and then ``rest``, as a shape that is computed when the model runs."""
        like = self.nodes[i]
        if not self.batch:
            pairs = zip(self.one.inputs, self.two.inputs, strict=True)
            source = next(a for a, b in pairs if a.shape and b.shape and a.shape[0] != b.shape[0])
            whole = self._node("Shape", [source.name], "batch_shape", (source.rank or 1,), "int64", like)
            zero = self._constant("batch_axis", np.zeros(1, np.int64))
            self.batch = self._node("Gather", [whole, zero], "batch", (1,), "int64", like)
        parts = [self.batch, self._constant("batch_rest", rest)]
        return self._node("Concat", parts, "batch_and_rest", (1 + len(rest),), "int64", like)

    def _expanded(self, row: Array, i: int) -> str:
        shape = self._shape(np.asarray(row.shape[1:], np.int64), i)
        source = self._constant("row", row)
        full = (self._extents()[0], *row.shape[1:])
        return self._node("Expand", [source, shape], "rows", full, str(row.dtype), self.nodes[i])

    def _read(self, i: int, k: int, data: Array) -> None:
        self._read_name(i, k, self._constant(f"{self.nodes[i].outs[0]}_open", data))

    def _read_name(self, i: int, k: int, name: str) -> None:
        node = self.nodes[i]
        proto = NodeProto()
        proto.CopyFrom(node.proto)
        self.opened.append(node.outs[0])
        proto.input[k] = name
        if node.op == "Reshape":
            kept = [a for a in proto.attribute if a.name != "allowzero"]
            del proto.attribute[:]
            proto.attribute.extend(kept)
        self.nodes[i] = Node(proto, node.origin)

    def _graph(self) -> OpenGraph:
        model = self.one._model
        nodes, tensors = _live([*self.ahead, *self.nodes], self.tensors, model.outputs)
        twin = self.one.copy()
        made = OpenGraph.__new__(OpenGraph)
        made.__dict__.update(twin.__dict__)
        made._values = {}
        made._lifted = {}
        made._take(nodes, tensors, self.types, set(), False)
        made._model.value_infos = False  # they would fix the batch again
        batches, made.dim, made.axes, made.opened = self._extents(), self.dim, {}, self.opened
        pairs = zip((*self.one.inputs, *self.one.outputs), (*self.two.inputs, *self.two.outputs), strict=True)
        for a, b in pairs:
            extents = list(enumerate(zip(a.shape or (), b.shape or (), strict=True)))
            same = frozenset(axis for axis, pair in extents if pair == batches)
            made.axes[a.name] = same, frozenset(axis for axis, (m, n) in extents if m != n) - same
        return made

    # -- comparing ---------------------------------------------------------------------------------

    def _is_constant(self, name: str) -> bool:
        return name in self.one._model.tensors or _is_constant_node(self.one, name)

    def _same(self, m: str, n: str) -> bool:
        a, b = self.one._model.tensors.get(m), self.two._model.tensors.get(n)
        if a is not None and b is not None and _stored_alike(a, b):
            return True
        x, y = self.one._value(m).numpy(), self.two._value(n).numpy()
        return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


def _stored_alike(a: TensorProto, b: TensorProto) -> bool:
    """Whether two tensors are the same without looking at data in files."""
    if external(a) or external(b):
        return external(a) == external(b) and a.dims == b.dims and a.data_type == b.data_type
    return a is b


def _is_constant_node(graph: OnnxGraph, name: str) -> bool:
    node = graph._producer.get(name)
    return node is not None and node.op == "Constant" and not node.domain


def _plain(node: Node) -> dict[str, Any]:
    return {a.name: a.SerializeToString() for a in node.proto.attribute}


def _there(given: Sequence[tuple[int, ...]], axis: int, extents: tuple[int, int]) -> bool:
    """Whether the operand has these extents on that axis, at the two batches."""
    return all(0 <= axis < len(shape) and shape[axis] == n for shape, n in zip(given, extents, strict=True))


def _refusal(source: str, why: str) -> PorterError:
    return PorterError(
        "PT354",
        f"the batch cannot stay open: {why}",
        source,
        "Fix it with --batch N, once for each batch that is used.",
    )
