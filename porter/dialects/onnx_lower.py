# SPDX-License-Identifier: Apache-2.0
"""Vocabulary ops as ONNX nodes: the workbench that every kind is written with.

One function a kind writes the nodes of an op. It works for every opset from 7 on that can express the kind; where the
opset is too old it raises :class:`NeedsOpset`. Operators and the opsets that changed them are those of the ONNX
specification (docs/Changelog.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper

from porter.dialects.onnx_proto import CODES, Node, Type, np_dtype
from porter.errors import PorterError
from porter.ops import Array, Op, Origin, Value

__all__ = ["LOWER", "Lowering", "NeedsOpset", "NoOnnxForm", "lowers"]


class NeedsOpset(Exception):
    """The op needs a newer version of the standard operators."""

    def __init__(self, version: int, kind: str) -> None:
        super().__init__(version, kind)
        self.version, self.kind = version, kind


class NoOnnxForm(Exception):
    """ONNX cannot express the op (as porter writes it); the message says why."""


class Lowering:
    """Writes nodes. Values are names here; ``types`` knows the shape and dtype of each.

    Args:
        opset: the version of the default domain.
        types: types of the graph's values; those of new values are added.
        fresh: gives a name that is not in use, made from a hint.
        add_constant: adds an initializer with this very name.
    """

    def __init__(
        self,
        opset: int,
        types: dict[str, Type],
        fresh: Callable[[str], str],
        add_constant: Callable[[str, Array], None],
    ) -> None:
        self.opset, self.types = opset, types
        self._fresh, self._add_constant = fresh, add_constant
        self._pool: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.nodes: list[Node] = []
        self.microsoft = False
        self._kind = ""
        self._hint = ""
        self._origin = Origin()
        self.values: tuple[Value | None, ...] = ()

    def lower(self, op: Op, ins: Sequence[str | None], outs: Sequence[str]) -> None:
        """Append the nodes of ``op``, whose operands and results are called ``ins`` and ``outs``."""
        function = LOWER.get(op.kind)
        if function is None:
            raise NoOnnxForm(f"porter has no ONNX form for {op.kind}")
        self._kind, self._hint, self._origin, self.values = op.kind, outs[0], op.origin, op.inputs
        function(self, op, list(ins), list(outs))

    # -- for the functions of each kind ------------------------------------------------------------

    def need(self, version: int) -> None:
        if self.opset < version:
            raise NeedsOpset(version, self._kind)

    def shape(self, name: str | None) -> tuple[int, ...]:
        """The static shape of a value. Raises ``NoOnnxForm`` when it is not known."""
        found = self.types.get(name or "", (None, None))[0]
        if found is None:
            raise NoOnnxForm(f"the shape of {name} is not known")
        return found

    def rank(self, name: str | None) -> int:
        return len(self.shape(name))

    def dtype(self, name: str | None) -> str:
        found = self.types.get(name or "", (None, None))[1]
        if found is None:
            raise NoOnnxForm(f"the dtype of {name} is not known")
        return found

    def data(self, i: int) -> Array | None:
        """The data of operand ``i`` of the op when it is a constant."""
        value = self.values[i] if i < len(self.values) else None
        return value.numpy() if value is not None and value.is_const else None

    def emit(
        self,
        op_type: str,
        ins: Sequence[str | None],
        out: str | None = None,
        shape: tuple[int, ...] | None = None,
        dtype: str | None = None,
        domain: str = "",
        **attrs: Any,
    ) -> str:
        """One node with one result; its name.

        ``shape`` and ``dtype`` of a new value default to those of the first operand.
        """
        if out is None:
            out = self._fresh(f"{self._hint}_{op_type}")
            like = self.types.get(ins[0] or "", (None, None)) if ins else (None, None)
            self.types[out] = (like[0] if shape is None else shape, dtype or like[1])
        self.emit_many(op_type, ins, [out], domain, **attrs)
        return out

    def emit_many(
        self, op_type: str, ins: Sequence[str | None], outs: Sequence[str], domain: str = "", **attrs: Any
    ) -> None:
        """One node with several results, whose types are known already."""
        names = [name or "" for name in ins]
        while names and not names[-1]:
            names.pop()
        proto = NodeProto(op_type=op_type, input=names, output=outs, name=outs[0])
        if domain:
            proto.domain = domain
            self.microsoft = True
        for key, value in attrs.items():
            if value is not None:
                proto.attribute.append(_attribute(key, value))
        self.nodes.append(Node.made(proto, names, outs, self._origin))

    def temp(self, shape: tuple[int, ...] | None, dtype: str | None, what: str = "t") -> str:
        """A name for a new value."""
        name = self._fresh(f"{self._hint}_{what}")
        self.types[name] = (shape, dtype)
        return name

    def const(self, data: Any, dtype: str | None = None) -> str:
        """An initializer; equal ones are shared."""
        array = np.asarray(data, np_dtype(dtype) if dtype else None)
        key = (str(array.dtype), array.shape, array.tobytes())
        name = self._pool.get(key)
        if name is None:
            name = self._pool[key] = self._fresh(f"{self._hint}_c")
            self.types[name] = (array.shape, str(array.dtype))
            self._add_constant(name, array)
        return name

    def ints(self, data: Sequence[int]) -> str:
        """A 1-D int64 initializer."""
        return self.const(np.asarray(data, np.int64).reshape(-1))

    def scalar(self, value: float, like: str | None) -> str:
        """A scalar of the dtype of ``like``."""
        return self.const(value, self.dtype(like))

    def cast(self, name: str, dtype: str) -> str:
        """``name`` in ``dtype``: itself when it is that already."""
        if self.dtype(name) == dtype:
            return name
        return self.emit("Cast", [name], dtype=dtype, to=CODES[dtype])

    def reshape(self, name: str, shape: Sequence[int], out: str | None = None) -> str:
        """Reshape to a static shape."""
        shape = tuple(shape)
        if 0 in shape:
            self.need(14)
            return self.emit("Reshape", [name, self.ints(shape)], out, shape, allowzero=1)
        return self.emit("Reshape", [name, self.ints(shape)], out, shape)

    def squeeze(self, name: str, axes: Sequence[int], out: str | None = None) -> str:
        shape = tuple(n for i, n in enumerate(self.shape(name)) if i not in axes)
        if self.opset >= 13:
            return self.emit("Squeeze", [name, self.ints(axes)], out, shape)
        return self.emit("Squeeze", [name], out, shape, axes=tuple(axes))

    def unsqueeze(self, name: str, axes: Sequence[int], out: str | None = None) -> str:
        known = self.types.get(name, (None, None))[0]
        shape = None
        if known is not None:
            extents = list(known)
            for axis in sorted(axes):
                extents.insert(axis, 1)
            shape = tuple(extents)
        if self.opset >= 13:
            return self.emit("Unsqueeze", [name, self.ints(axes)], out, shape)
        return self.emit("Unsqueeze", [name], out, shape, axes=tuple(axes))

    def transpose(self, name: str, dims: Sequence[int], out: str | None = None) -> str:
        shape = tuple(self.shape(name)[d] for d in dims)
        return self.emit("Transpose", [name], out, shape, perm=tuple(dims))

    def expand(self, name: str, shape: Sequence[int], out: str | None = None) -> str:
        self.need(8)
        return self.emit("Expand", [name, self.ints(shape)], out, tuple(shape))

    def slice(
        self,
        name: str,
        axes: Sequence[int],
        starts: Sequence[int],
        ends: Sequence[int],
        steps: Sequence[int] | None = None,
        out: str | None = None,
    ) -> str:
        """Slice with the vocabulary's clamped bounds (a negative step may end at -1, "through element 0")."""
        steps = steps or (1,) * len(axes)
        extents = self.shape(name)
        shape = list(extents)
        for a, start, end, step in zip(axes, starts, ends, steps, strict=True):
            shape[a] = max(-(-(end - start) // step), 0)
        # For ONNX -1 is the last element; anything under -extent is before the first.
        ends = [-(1 << 31) if end < 0 else end for end in ends]
        if self.opset < 10:
            if any(step != 1 for step in steps):
                self.need(10)
            return self.emit(
                "Slice", [name], out, tuple(shape), axes=tuple(axes), starts=tuple(starts), ends=tuple(ends)
            )
        operands = [name, self.ints(starts), self.ints(ends), self.ints(axes)]
        if any(step != 1 for step in steps):
            operands.append(self.ints(steps))
        return self.emit("Slice", operands, out, tuple(shape))

    def reduce(
        self, kind: str, name: str, axes: Sequence[int], keepdim: bool, out: str | None = None, dtype: str | None = None
    ) -> str:
        """A Reduce* node; axes are an attribute before opset 18 (13 for ReduceSum)."""
        shape = tuple(1 if i in axes else n for i, n in enumerate(self.shape(name)) if keepdim or i not in axes)
        if not axes:
            return self.emit("Identity", [name], out)
        if self.opset >= (13 if kind == "ReduceSum" else 18):
            return self.emit(kind, [name, self.ints(axes)], out, shape, dtype, keepdims=int(keepdim))
        return self.emit(kind, [name], out, shape, dtype, axes=tuple(axes), keepdims=int(keepdim))

    def split(self, name: str, sizes: Sequence[int], axis: int, outs: Sequence[str] | None = None) -> list[str]:
        """Split into pieces of the given sizes."""
        if outs is None:
            whole = self.shape(name)
            outs = [self.temp((*whole[:axis], n, *whole[axis + 1 :]), self.dtype(name), "piece") for n in sizes]
        if self.opset >= 13:
            self.emit_many("Split", [name, self.ints(sizes)], outs, axis=axis)
        else:
            self.emit_many("Split", [name], outs, axis=axis, split=tuple(sizes))
        return list(outs)

    def broadcast(self, *names: str) -> tuple[int, ...]:
        """The shape that values broadcast to."""
        return tuple(np.broadcast_shapes(*(self.shape(name) for name in names)))


def _attribute(name: str, value: Any) -> AttributeProto:
    if type(value) is int or isinstance(value, bool):
        return AttributeProto(name=name, type=AttributeProto.INT, i=int(value))
    if type(value) is tuple and value and all(type(v) is int for v in value):
        return AttributeProto(name=name, type=AttributeProto.INTS, ints=value)
    if isinstance(value, TensorProto):
        return AttributeProto(name=name, type=AttributeProto.TENSOR, t=value)
    if value == ():
        return AttributeProto(name=name, type=AttributeProto.INTS)
    return helper.make_attribute(name, value)


Lower = Callable[[Lowering, Op, list[Any], list[str]], None]
#: The function that writes each kind.
LOWER: dict[str, Lower] = {}


def lowers(*kinds: str) -> Callable[[Lower], Lower]:
    def put(function: Lower) -> Lower:
        for kind in kinds:
            LOWER[kind] = function
        return function

    return put


def error_for(problem: NeedsOpset | NoOnnxForm, op: Op, source: str, opset: int) -> PorterError:
    """The error that a user sees."""
    where = f"{source}: {op.origin}"
    if isinstance(problem, NeedsOpset):
        return PorterError(
            "PT352", f"{op.kind} needs opset {problem.version}, and the model has opset {opset}", where,
            f"Export the model with opset {problem.version} or newer.",
        )  # fmt: skip
    return PorterError("PT351", f"{op.kind} cannot be written as ONNX: {problem}", where)
