# SPDX-License-Identifier: Apache-2.0
"""ONNX protobufs in the small: dtypes, attributes, tensors, and a record of each node that is cheap to ask.

Source of the numbers and layouts: the ONNX specification, onnx/onnx.proto (``TensorProto.DataType``,
``AttributeProto.AttributeType``, ``TensorProto.external_data``).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from porter.ops import Array, Origin, numpy_dtype

#: TensorProto.DataType to the dtype names that porter uses.
DTYPES: dict[int, str] = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
    17: "float8_e4m3fn", 18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz", 21: "uint4", 22: "int4",
    23: "float4_e2m1fn", 24: "float8_e8m0fnu", 25: "uint2", 26: "int2",
}  # fmt: skip
CODES: dict[str, int] = {name: code for code, name in DTYPES.items()}
#: Bits of one element; strings have no fixed size.
BITS: dict[int, int] = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2, 27: 6, 28: 6,
}  # fmt: skip
#: dtypes that numpy itself has; the others need ml_dtypes, through onnx.numpy_helper.
_PLAIN = {DTYPES[code]: np.dtype(DTYPES[code]) for code in (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15)}

#: Shape (None when unknown) and dtype (None when unknown) of a value.
Type = tuple[tuple[int, ...] | None, str | None]


def np_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a dtype name, ONNX's strings included. Raises ``TypeError`` for an unknown name."""
    return np.dtype(object) if name == "string" else numpy_dtype(name)


def attribute(a: AttributeProto) -> Any:
    """The value of an attribute: numbers, strings, tuples of them, or the protobuf for tensors, graphs and types.

    A float attribute is stored in 32 bits; the answer is the shortest decimal that gives the same 32 bits back (1e-05
    and not 9.99999974737875e-06).
    """
    kind = a.type
    if kind == 2:
        return a.i
    if kind == 7:
        return tuple(a.ints)
    if kind == 1:
        return float(str(np.float32(a.f)))
    if kind == 3:
        return a.s.decode("utf-8", "replace")
    if kind == 4:
        return a.t
    if kind == 5:
        return a.g
    if kind == 6:
        return tuple(float(str(np.float32(f))) for f in a.floats)
    if kind == 8:
        return tuple(s.decode("utf-8", "replace") for s in a.strings)
    if kind == 10:
        return tuple(a.graphs)
    if kind == 0:  # files of 2017 have no type; exactly one field is set
        for field, code in (("i", 2), ("f", 1), ("s", 3), ("t", 4), ("g", 5)):
            if a.HasField(field):
                return attribute(_typed(a, code))
        for field, code in (("ints", 7), ("floats", 6), ("strings", 8), ("graphs", 10)):
            if len(getattr(a, field)):
                return attribute(_typed(a, code))
        return ()
    return onnx.helper.get_attribute_value(a)


def _typed(a: AttributeProto, code: int) -> AttributeProto:
    copy = AttributeProto()
    copy.CopyFrom(a)
    copy.type = code  # type: ignore[assignment]
    return copy


@contextmanager
def no_collection() -> Iterator[None]:
    """Without the cyclic garbage collector, which walks a hundred thousand new long-lived objects again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Node:
    """A node of the graph. Never changed once it is in a graph; a change makes a new one."""

    __slots__ = ("_attrs", "caps", "domain", "ins", "op", "origin", "ours", "outs", "proto")

    def __init__(self, proto: NodeProto, origin: Origin | None = None) -> None:
        self.proto = proto
        self.op: str = proto.op_type
        domain = proto.domain
        self.domain: str = "" if domain == "ai.onnx" else domain
        self.ins: tuple[str, ...] = tuple(proto.input)
        self.outs: tuple[str, ...] = tuple(proto.output)
        #: Outer values that its sub-graphs read.
        self.caps: tuple[str, ...] = ()
        #: Set for nodes that porter made; otherwise read from the protobuf when first asked.
        self.origin = origin
        #: Whether porter wrote it, in this process.
        self.ours = False
        self._attrs: dict[str, Any] | None = None
        for a in proto.attribute:
            if a.type == 5 or a.type == 10:
                graphs = (a.g,) if a.type == 5 else a.graphs
                names = [name for graph in graphs for name in captured(graph)]
                self.caps = tuple(dict.fromkeys((*self.caps, *names)))

    @classmethod
    def made(cls, proto: NodeProto, ins: Sequence[str], outs: Sequence[str], origin: Origin) -> Node:
        """A node that porter makes, without sub-graphs: nothing is read back from the protobuf but its operator."""
        node = cls.__new__(cls)
        node.proto, node.op, node.domain = proto, proto.op_type, proto.domain
        node.ins, node.outs, node.caps = tuple(ins), tuple(outs), ()
        node.origin, node.ours, node._attrs = origin, True, None
        return node

    @property
    def attrs(self) -> dict[str, Any]:
        """The decoded attributes, by name."""
        if self._attrs is None:
            self._attrs = {a.name: attribute(a) for a in self.proto.attribute}
        return self._attrs

    @property
    def name(self) -> str:
        """The node's own name or, without one, the name of its first output."""
        return self.proto.name or next(filter(None, self.outs), self.op)


def _locals(graph: GraphProto) -> set[str]:
    names = {v.name for v in graph.input}
    names.update(t.name for t in graph.initializer)
    names.update(t.values.name for t in graph.sparse_initializer)
    for node in graph.node:
        names.update(node.output)
    return names


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs among a node's attributes."""
    for a in node.attribute:
        if a.type == 5:
            yield a.g
        elif a.type == 10:
            yield from a.graphs


def captured(graph: GraphProto) -> list[str]:
    """Names that a sub-graph reads and does not define."""
    inside = _locals(graph)
    found: dict[str, None] = {}
    for node in graph.node:
        found.update(dict.fromkeys(n for n in node.input if n and n not in inside))
        for inner in subgraphs(node):
            found.update(dict.fromkeys(n for n in captured(inner) if n not in inside))
    found.update(dict.fromkeys(v.name for v in graph.output if v.name and v.name not in inside))
    return list(found)


def renamed(node: Node, names: Mapping[str, str]) -> Node:
    """The node with some of the values that it reads renamed, in its sub-graphs too."""
    proto = NodeProto()
    proto.CopyFrom(node.proto)
    for i, name in enumerate(node.ins):
        if name in names:
            proto.input[i] = names[name]
    if any(name in names for name in node.caps):
        for graph in subgraphs(proto):
            _rename(graph, names)
    return Node(proto, node.origin)


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    inside = _locals(graph)
    outer = {old: new for old, new in names.items() if old not in inside}
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in outer:
                node.input[i] = outer[name]
        for inner in subgraphs(node):
            _rename(inner, outer)
    for value in graph.output:
        if value.name in outer:
            # A sub-graph's output is matched by position, and must be computed inside of it.
            identity = graph.node.add()
            identity.op_type = "Identity"
            identity.input.append(outer[value.name])
            identity.output.append(value.name)


# -- tensors ---------------------------------------------------------------------------------------


def nbytes(dims: Sequence[int], code: int) -> int:
    """Bytes of the raw data of a tensor."""
    return (prod(dims) * BITS.get(code, 8) + 7) // 8


def external(tensor: TensorProto) -> dict[str, str]:
    """The entries of ``external_data``; empty when the data is inside of the tensor."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return {}
    return {entry.key: entry.value for entry in tensor.external_data}


def tensor_array(tensor: TensorProto, folder: Path | None) -> Array:
    """The data of a tensor. External data is mapped from its file, not read."""
    name = DTYPES.get(tensor.data_type, "")
    dims = tuple(tensor.dims)
    outside = external(tensor)
    if outside:
        if folder is None:
            raise ValueError(f"{tensor.name} keeps its data in a file, and the folder is not known")
        path = folder / outside["location"]
        offset = int(outside.get("offset", 0))
        if prod(dims) == 0:
            return np.zeros(dims, np_dtype(name))
        if name in _PLAIN:
            return np.memmap(path, _PLAIN[name], "r", offset, dims)
        raw = np.memmap(path, np.uint8, "r", offset, (nbytes(dims, tensor.data_type),))
        inside = TensorProto(dims=dims, data_type=tensor.data_type, raw_data=raw.tobytes())
        return np.asarray(onnx.numpy_helper.to_array(inside))
    if name in _PLAIN and tensor.HasField("raw_data"):
        return np.frombuffer(tensor.raw_data, _PLAIN[name].newbyteorder("<")).reshape(dims)
    return np.asarray(onnx.numpy_helper.to_array(tensor))


def make_tensor(name: str, data: Array) -> TensorProto:
    """A tensor that holds ``data``."""
    data = np.asarray(data)
    dtype = str(data.dtype)
    if dtype in _PLAIN:
        tensor = TensorProto(name=name, data_type=CODES[dtype], dims=data.shape)
        tensor.raw_data = np.ascontiguousarray(data, _PLAIN[dtype].newbyteorder("<")).tobytes()
        return tensor
    return onnx.numpy_helper.from_array(data, name)


def constant_array(node: Node, folder: Path | None) -> Array | None:
    """The value of a Constant node; None for the forms that porter leaves alone (sparse tensors, strings)."""
    for key, value in node.attrs.items():
        if key == "value" and isinstance(value, TensorProto):
            return tensor_array(value, folder)
        if key in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        if key in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
    return None


def constant_type(node: Node) -> Type:
    """Shape and dtype of a Constant node, without decoding its data."""
    for a in node.proto.attribute:
        if a.name == "value":
            return tuple(a.t.dims), DTYPES.get(a.t.data_type)
        if a.name == "value_float":
            return (), "float32"
        if a.name == "value_int":
            return (), "int64"
        if a.name == "value_floats":
            return (len(a.floats),), "float32"
        if a.name == "value_ints":
            return (len(a.ints),), "int64"
        if a.name == "value_string":
            return (), "string"
        if a.name == "value_strings":
            return (len(a.strings),), "string"
        if a.name == "sparse_value":
            return tuple(a.sparse_tensor.dims), DTYPES.get(a.sparse_tensor.values.data_type)
    return None, None
