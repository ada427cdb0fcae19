# SPDX-License-Identifier: Apache-2.0
"""Vocabulary ops as ONNX nodes: the workbench, and the element-by-element, linear, pooling and reducing kinds.

One function a kind writes the nodes of an op. It works for every opset from 7 on that can express the kind; where the
opset is too old it raises :class:`NeedsOpset`. Operators and the opsets that changed them are those of the ONNX
specification (docs/Changelog.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod
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
        """One node with one result; its name. ``shape`` and ``dtype`` of a new value default to those of the first operand."""
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
        self.nodes.append(Node(proto, self._origin))

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
        shape = tuple(
            1 if i in axes else n for i, n in enumerate(self.shape(name)) if keepdim or i not in axes
        )
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


# -- element by element ----------------------------------------------------------------------------

#: Kinds that are one operator: its name and the opset that it needs.
_DIRECT: dict[str, tuple[str, int]] = {
    "relu": ("Relu", 7), "sigmoid": ("Sigmoid", 7), "tanh": ("Tanh", 7), "exp": ("Exp", 7), "log": ("Log", 7),
    "sqrt": ("Sqrt", 7), "abs": ("Abs", 7), "neg": ("Neg", 7), "reciprocal": ("Reciprocal", 7), "sign": ("Sign", 9),
    "floor": ("Floor", 7), "ceil": ("Ceil", 7), "round": ("Round", 11), "sin": ("Sin", 7), "cos": ("Cos", 7),
    "tan": ("Tan", 7), "asin": ("Asin", 7), "acos": ("Acos", 7), "atan": ("Atan", 7), "sinh": ("Sinh", 9),
    "cosh": ("Cosh", 9), "asinh": ("Asinh", 9), "acosh": ("Acosh", 9), "atanh": ("Atanh", 9), "erf": ("Erf", 9),
    "isnan": ("IsNaN", 9), "isinf": ("IsInf", 10), "bitwise_not": ("BitwiseNot", 18), "softsign": ("Softsign", 7),
    "identity": ("Identity", 7), "selu": ("Selu", 7), "matmul": ("MatMul", 7),
    "gather_nd": ("GatherND", 11), "size": ("Size", 7),
}  # fmt: skip


def _direct(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    name, version = _DIRECT[op.kind]
    if op.kind == "bitwise_not" and L.dtype(ins[0]) == "bool":
        name, version = "Not", 7
    L.need(version)
    attrs = {"batch_dims": op.attrs["batch_dims"] or None} if op.kind == "gather_nd" else {}
    L.emit(name, ins, outs[0], **attrs)


for _kind in _DIRECT:
    LOWER[_kind] = _direct


@lowers("logical_not")
def _logical_not(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.emit("Not", [L.cast(ins[0], "bool")], outs[0])


@lowers("silu")
def _silu(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.emit("Mul", [ins[0], L.emit("Sigmoid", ins)], outs[0])


def clip(L: Lowering, x: str, low: float | None, high: float | None, out: str | None = None) -> str:
    """Clip to constants; an end that is None stays open."""
    if L.opset < 11:
        if L.dtype(x) not in ("float32", "float16", "float64"):
            L.need(12)
        return L.emit("Clip", [x], out, min=_float(low), max=_float(high))
    if L.dtype(x) not in ("float32", "float16", "float64"):
        L.need(12)
    ends = [None if end is None else L.scalar(end, x) for end in (low, high)]
    return L.emit("Clip", [x, *ends], out)


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


@lowers("clamp")
def _clamp(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    low, high = op.attrs.get("min"), op.attrs.get("max")
    low = None if low is not None and math.isinf(low) and low < 0 else low
    high = None if high is not None and math.isinf(high) and high > 0 else high
    clip(L, ins[0], low, high, outs[0])


@lowers("relu6")
def _relu6(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    clip(L, ins[0], 0, 6, outs[0])


@lowers("hardswish")
def _hardswish(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x = ins[0]
    if L.opset >= 14:
        L.emit("HardSwish", [x], outs[0])
        return
    gate = clip(L, L.emit("Add", [x, L.scalar(3, x)]), 0, 6)
    L.emit("Mul", [x, L.emit("Div", [gate, L.scalar(6, x)])], outs[0])


@lowers("mish")
def _mish(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    if L.opset >= 18:
        L.emit("Mish", ins, outs[0])
    else:
        L.emit("Mul", [ins[0], L.emit("Tanh", [L.emit("Softplus", ins)])], outs[0])


@lowers("logsigmoid")
def _logsigmoid(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.emit("Neg", [L.emit("Softplus", [L.emit("Neg", ins)])], outs[0])


@lowers("expm1")
def _expm1(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    # exp(x) - 1 = 2 sinh(x / 2) exp(x / 2), which keeps its digits where x is small
    L.need(9)
    x = ins[0]
    half = L.emit("Mul", [x, L.scalar(0.5, x)])
    product = L.emit("Mul", [L.emit("Sinh", [half]), L.emit("Exp", [half])])
    L.emit("Mul", [product, L.scalar(2, x)], outs[0])


@lowers("log1p")
def _log1p(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    # log(1 + x) = 2 atanh(x / (2 + x)), which keeps its digits where x is small
    L.need(9)
    x = ins[0]
    ratio = L.emit("Div", [x, L.emit("Add", [x, L.scalar(2, x)])])
    near = L.emit("Mul", [L.emit("Atanh", [ratio]), L.scalar(2, x)])
    far = L.emit("Log", [L.emit("Add", [x, L.scalar(1, x)])])
    small = L.emit("Less", [L.emit("Abs", [x]), L.scalar(0.5, x)], dtype="bool")
    L.emit("Where", [small, near, far], outs[0])


@lowers("log2", "log10")
def _log_base(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    base = 1 / math.log(2 if op.kind == "log2" else 10)
    L.emit("Mul", [L.emit("Log", ins), L.scalar(base, ins[0])], outs[0])


@lowers("rsqrt")
def _rsqrt(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.emit("Reciprocal", [L.emit("Sqrt", ins)], outs[0])


@lowers("trunc")
def _trunc(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    if L.dtype(ins[0]) in ("float32", "float16", "float64", "bfloat16"):
        L.need(9)
        L.emit("Mul", [L.emit("Sign", ins), L.emit("Floor", [L.emit("Abs", ins)])], outs[0])
    else:
        L.emit("Identity", ins, outs[0])


@lowers("square")
def _square(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.emit("Mul", [ins[0], ins[0]], outs[0])


@lowers("leaky_relu")
def _leaky_relu(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.emit("LeakyRelu", ins, outs[0], alpha=float(op.attrs["negative_slope"]))


@lowers("elu", "celu")
def _elu(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    if op.kind == "celu":
        L.need(12)
    L.emit("Elu" if op.kind == "elu" else "Celu", ins, outs[0], alpha=float(op.attrs["alpha"]))


@lowers("prelu")
def _prelu(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, slope = ins
    if L.shape(slope) not in ((), (1,)) and L.rank(x) > 2:
        data = L.data(1)
        if data is not None:
            slope = L.const(data.reshape(-1, *(1,) * (L.rank(x) - 2)))
        else:
            slope = L.unsqueeze(slope, range(1, L.rank(x) - 1))
    L.emit("PRelu", [x, slope], outs[0])


@lowers("hardsigmoid")
def _hardsigmoid(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.emit("HardSigmoid", ins, outs[0], alpha=float(op.attrs["alpha"]), beta=float(op.attrs["beta"]))


@lowers("gelu")
def _gelu(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, tanh = ins[0], op.attrs.get("approximate", "none") == "tanh"
    if L.opset >= 20:
        L.emit("Gelu", [x], outs[0], approximate="tanh" if tanh else "none")
        return
    if tanh:
        # 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), Hendrycks and Gimpel 2016
        cube = L.emit("Mul", [L.emit("Mul", [x, x]), x])
        inner = L.emit("Add", [x, L.emit("Mul", [cube, L.scalar(0.044715, x)])])
        gate = L.emit("Tanh", [L.emit("Mul", [inner, L.scalar(math.sqrt(2 / math.pi), x)])])
    else:
        L.need(9)
        gate = L.emit("Erf", [L.emit("Mul", [x, L.scalar(math.sqrt(0.5), x)])])
    sum_ = L.emit("Add", [gate, L.scalar(1, x)])
    L.emit("Mul", [L.emit("Mul", [x, L.scalar(0.5, x)]), sum_], outs[0])


@lowers("softplus")
def _softplus(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, beta, threshold = ins[0], float(op.attrs.get("beta", 1)), float(op.attrs.get("threshold", 20))
    scaled = x if beta == 1 else L.emit("Mul", [x, L.scalar(beta, x)])
    # From 20 on the two branches agree in float32.
    open_ended = threshold >= 20 and L.dtype(x) != "float64" or math.isinf(threshold)
    if beta == 1 and open_ended:
        L.emit("Softplus", [x], outs[0])
        return
    soft = L.emit("Softplus", [scaled])
    if open_ended:
        L.emit("Div", [soft, L.scalar(beta, x)], outs[0])
        return
    L.need(9)
    soft = soft if beta == 1 else L.emit("Div", [soft, L.scalar(beta, x)])
    above = L.emit("Greater", [scaled, L.scalar(threshold, x)], dtype="bool")
    L.emit("Where", [above, x, soft], outs[0])


@lowers("threshold")
def _threshold(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x = ins[0]
    L.need(9)
    if op.attrs["value"] == 0 and L.opset >= 10 and L.dtype(x) in ("float32", "float16", "float64"):
        L.emit("ThresholdedRelu", [x], outs[0], alpha=float(op.attrs["threshold"]))
        return
    above = L.emit("Greater", [x, L.scalar(op.attrs["threshold"], x)], dtype="bool")
    L.emit("Where", [above, x, L.scalar(op.attrs["value"], x)], outs[0])


@lowers("cast")
def _cast(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.emit("Cast", ins, outs[0], to=CODES[op.attrs["dtype"]])


def _matched(L: Lowering, ins: Sequence[str], dtype: str) -> list[str]:
    return [L.cast(name, dtype) for name in ins]


_ARITHMETIC = {"add": "Add", "sub": "Sub", "mul": "Mul", "pow": "Pow"}


@lowers(*_ARITHMETIC)
def _arithmetic(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    dtype = L.dtype(outs[0])
    if dtype == "bool":  # torch adds and multiplies truth values
        L.emit({"add": "Or", "mul": "And"}.get(op.kind, "Xor"), _matched(L, ins, "bool"), outs[0])
        return
    if op.kind == "pow" and dtype not in ("float32", "float16", "float64"):
        L.need(12)
    L.emit(_ARITHMETIC[op.kind], _matched(L, ins, dtype), outs[0])


@lowers("div", "trunc_divide")
def _div(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.emit("Div", _matched(L, ins, L.dtype(outs[0])), outs[0])


@lowers("maximum", "minimum")
def _extreme(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    dtype = L.dtype(outs[0])
    L.need(8 if dtype in ("float32", "float16", "float64") else 12)
    L.emit("Max" if op.kind == "maximum" else "Min", _matched(L, ins, dtype), outs[0])


@lowers("remainder", "fmod", "floor_divide")
def _modulo(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.need(10)
    dtype = L.dtype(outs[0])
    x, y = _matched(L, ins, dtype)
    shape = L.broadcast(x, y)
    floating = dtype in ("float32", "float16", "float64", "bfloat16")
    if op.kind == "fmod":
        L.emit("Mod", [x, y], outs[0], fmod=1)
        return
    if op.kind == "remainder" and not floating:
        L.emit("Mod", [x, y], outs[0])
        return
    if op.kind == "floor_divide" and floating:
        L.emit("Floor", [L.emit("Div", [x, y], shape=shape)], outs[0])
        return
    if floating:
        L.need(11)  # Equal of floats
    # The C remainder has the sign of x; Python's has that of y.
    rest = L.emit("Mod", [x, y], shape=shape, fmod=1)
    zero = L.scalar(0, x)
    signs = L.emit(
        "Xor",
        [L.emit("Less", [rest, zero], shape=shape, dtype="bool"), L.emit("Less", [y, zero], dtype="bool")],
        shape=shape, dtype="bool",
    )  # fmt: skip
    some = L.emit("Not", [L.emit("Equal", [rest, zero], shape=shape, dtype="bool")])
    wrong = L.emit("And", [signs, some])
    if op.kind == "remainder":
        L.emit("Where", [wrong, L.emit("Add", [rest, y], shape=shape), rest], outs[0])
    else:
        quotient = L.emit("Div", [x, y], shape=shape)
        L.emit("Where", [wrong, L.emit("Sub", [quotient, L.scalar(1, x)]), quotient], outs[0])


@lowers("atan2")
def _atan2(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.need(9)
    y, x = _matched(L, ins, L.dtype(outs[0]))
    shape = L.broadcast(x, y)
    zero = L.scalar(0, x)
    angle = L.emit("Atan", [L.emit("Div", [y, x], shape=shape)])
    # y / x is not a number only where both are zero; atan2(0, 0) is 0.
    angle = L.emit("Where", [L.emit("IsNaN", [angle], dtype="bool"), zero, angle], shape=shape, dtype=L.dtype(x))
    turn = L.emit(
        "Where", [L.emit("Less", [y, zero], dtype="bool"), L.scalar(-math.pi, x), L.scalar(math.pi, x)],
        shape=L.shape(y), dtype=L.dtype(x),
    )  # fmt: skip
    left = L.emit("Less", [x, zero], dtype="bool")
    L.emit("Where", [left, L.emit("Add", [angle, turn], shape=shape), angle], outs[0])


_COMPARE = {"eq": "Equal", "ne": "Equal", "lt": "Less", "gt": "Greater", "le": "Less", "ge": "Greater"}


@lowers(*_COMPARE)
def _compare(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    dtypes = [L.dtype(name) for name in ins]
    common = dtypes[0]
    if dtypes[0] != dtypes[1]:
        floats = [d for d in dtypes if "float" in d]
        common = floats[0] if len(floats) == 1 else str(np.result_type(*map(np_dtype, dtypes)))
    if common == "bool" and op.kind not in ("eq", "ne"):
        common = "int32"
    floating = common in ("float32", "float16", "float64")
    if op.kind in ("eq", "ne") and floating and L.opset < 11:
        L.need(11)
    if op.kind in ("lt", "gt", "le", "ge") and not floating:
        L.need(9)
    x, y = _matched(L, ins, common)
    shape = L.broadcast(x, y)
    base = _COMPARE[op.kind]
    if op.kind == "ne":
        L.emit("Not", [L.emit("Equal", [x, y], shape=shape, dtype="bool")], outs[0])
    elif op.kind in ("le", "ge"):
        if L.opset >= 12:
            L.emit(f"{base}OrEqual", [x, y], outs[0])
        else:
            L.need(11 if floating else 9)
            strict = L.emit(base, [x, y], shape=shape, dtype="bool")
            L.emit("Or", [strict, L.emit("Equal", [x, y], shape=shape, dtype="bool")], outs[0])
    else:
        L.emit(base, [x, y], outs[0])


@lowers("logical_and", "logical_or", "logical_xor")
def _logical(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.emit(op.kind[8:].capitalize(), _matched(L, ins, "bool"), outs[0])


@lowers("bitwise_and", "bitwise_or", "bitwise_xor")
def _bitwise(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    dtype = L.dtype(outs[0])
    name = op.kind[8:].capitalize()
    if dtype != "bool":
        L.need(18)
        name = f"Bitwise{name}"
    L.emit(name, _matched(L, ins, dtype), outs[0])


@lowers("where")
def _where(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.need(9)
    L.emit("Where", [L.cast(ins[0], "bool"), *_matched(L, ins[1:], L.dtype(outs[0]))], outs[0])


@lowers("masked_fill")
def _masked_fill(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.need(9)
    L.emit("Where", [L.cast(ins[1], "bool"), L.scalar(op.attrs["value"], ins[0]), ins[0]], outs[0])


# -- linear algebra, convolutions, pools -------------------------------------------------------------


@lowers("linear")
def _linear(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, weight, bias = (*ins, None)[:3]
    if L.rank(x) == 2 and (bias is None or L.opset >= 7) and (bias is not None or L.opset >= 11):
        L.emit("Gemm", [x, weight, bias], outs[0], transB=1)
        return
    data = L.data(1)
    turned = L.const(np.ascontiguousarray(data.T)) if data is not None else L.transpose(weight, (1, 0))
    if bias is None:
        L.emit("MatMul", [x, turned], outs[0])
    else:
        product = L.emit("MatMul", [x, turned], shape=(*L.shape(x)[:-1], L.shape(weight)[0]))
        L.emit("Add", [product, bias], outs[0])


@lowers("gemm")
def _gemm(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    if len(ins) < 3 or ins[2] is None:
        L.need(11)
    attrs = op.attrs
    L.emit(
        "Gemm", ins, outs[0], alpha=float(attrs.get("alpha", 1)), beta=float(attrs.get("beta", 1)),
        transA=int(attrs.get("trans_a", False)), transB=int(attrs.get("trans_b", False)),
    )  # fmt: skip


@lowers("einsum")
def _einsum(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.need(12)
    L.emit("Einsum", ins, outs[0], equation=op.attrs["equation"])


def _flat(pairs: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return (*(int(p[0]) for p in pairs), *(int(p[1]) for p in pairs))


def _ints(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(v) for v in values)


@lowers("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    a = op.attrs
    attrs: dict[str, Any] = {
        "kernel_shape": L.shape(ins[1])[2:], "strides": _ints(a["stride"]), "pads": _flat(a["padding"]),
        "dilations": _ints(a["dilation"]), "group": int(a["groups"]),
    }  # fmt: skip
    name = "Conv"
    if op.kind.startswith("conv_t"):
        name = "ConvTranspose"
        if any(a.get("output_padding", ())):
            attrs["output_padding"] = _ints(a["output_padding"])
    L.emit(name, ins, outs[0], **attrs)


@lowers("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices")
def _max_pool(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    a = op.attrs
    dilation = _ints(a.get("dilation", (1,) * len(a["kernel"])))
    attrs: dict[str, Any] = {
        "kernel_shape": _ints(a["kernel"]), "strides": _ints(a["stride"]), "pads": _flat(a["padding"]),
    }  # fmt: skip
    if a.get("ceil_mode") or any(d != 1 for d in dilation):
        L.need(10)
        attrs.update(ceil_mode=int(bool(a.get("ceil_mode"))), dilations=dilation)
    if len(outs) == 1:
        L.emit("MaxPool", ins, outs[0], **attrs)
        return
    # ONNX counts indices through the whole tensor, torch through one plane.
    L.need(10)
    whole = L.temp(L.types[outs[1]][0], "int64", "indices")
    L.emit_many("MaxPool", ins, [outs[0], whole], **attrs)
    plane = prod(L.shape(ins[0])[-2:])
    L.emit("Mod", [whole, L.const(plane, "int64")], outs[1])


@lowers("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    a = op.attrs
    divisor = a.get("divisor_override")
    ceil = bool(a.get("ceil_mode"))
    if ceil:
        L.need(10)
        if divisor:
            raise NoOnnxForm("an average pool with both ceil_mode and divisor_override")
    attrs: dict[str, Any] = {
        "kernel_shape": _ints(a["kernel"]), "strides": _ints(a["stride"]), "pads": _flat(a["padding"]),
        "count_include_pad": int(bool(a.get("count_include_pad") or divisor)), "ceil_mode": 1 if ceil else None,
    }  # fmt: skip
    if divisor:
        mean = L.emit("AveragePool", ins, shape=L.shape(outs[0]), **attrs)
        L.emit("Mul", [mean, L.scalar(prod(a["kernel"]) / divisor, ins[0])], outs[0])
    else:
        L.emit("AveragePool", ins, outs[0], **attrs)


@lowers("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d")
def _adaptive(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, size = ins[0], _ints(op.attrs["output_size"])
    mean = "avg" in op.kind
    extents = L.shape(x)[-len(size) :]
    lead = None
    if L.rank(x) == len(size) + 1:  # torch takes unbatched input as well
        lead = outs[0]
        x = L.unsqueeze(x, (0,))
        outs = [L.temp((1, *L.shape(outs[0])), L.dtype(outs[0]))]
    if all(n == 1 for n in size):
        L.emit("GlobalAveragePool" if mean else "GlobalMaxPool", [x], outs[0])
    elif all(e % n == 0 for e, n in zip(extents, size, strict=True)):
        kernel = tuple(e // n for e, n in zip(extents, size, strict=True))
        L.emit("AveragePool" if mean else "MaxPool", [x], outs[0], kernel_shape=kernel, strides=kernel)
    elif mean and len(size) <= 2:
        # Windows of unequal size: one averaging matrix an axis. Window i is [floor(i e / n), ceil((i + 1) e / n)).
        turned = x
        for i, (extent, n) in enumerate(zip(extents, size, strict=True)):
            matrix = np.zeros((n, extent))
            for row in range(n):
                first, last = row * extent // n, -(-(row + 1) * extent // n)
                matrix[row, first:last] = 1 / (last - first)
            end = outs[0] if i == len(size) - 1 else None
            shape = L.shape(turned)
            if len(size) == 2 and i == 0:
                operands = [L.const(matrix, L.dtype(x)), turned]
                shape = (*shape[:-2], n, shape[-1])
            else:
                operands = [turned, L.const(matrix.T, L.dtype(x))]
                shape = (*shape[:-1], n)
            turned = L.emit("MatMul", operands, end, shape, L.dtype(x))
    else:
        raise NoOnnxForm(f"adaptive pooling of {extents} to {size}: windows of unequal size")
    if lead is not None:
        L.squeeze(outs[0], (0,), lead)


# -- normalization, reductions ---------------------------------------------------------------------


@lowers("batch_norm")
def _batch_norm(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, weight, bias, mean, var = ins
    channels, dtype = L.shape(mean), L.dtype(mean)
    weight = weight or L.const(np.ones(channels), dtype)
    bias = bias or L.const(np.zeros(channels), dtype)
    L.emit("BatchNormalization", [x, weight, bias, mean, var], outs[0], epsilon=float(op.attrs["eps"]))


@lowers("instance_norm")
def _instance_norm(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, weight, bias = (*ins, None, None)[:3]
    channels = L.shape(x)[1:2]
    weight = weight or L.const(np.ones(channels), L.dtype(x))
    bias = bias or L.const(np.zeros(channels), L.dtype(x))
    L.emit("InstanceNormalization", [x, weight, bias], outs[0], epsilon=float(op.attrs["eps"]))


@lowers("layer_norm")
def _layer_norm(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, weight, bias = (*ins, None, None)[:3]
    axes = tuple(op.attrs["axes"])
    eps = float(op.attrs["eps"])
    trailing = axes == tuple(range(axes[0], L.rank(x)))
    if L.opset >= 17 and trailing:
        weight = weight or L.const(np.ones([L.shape(x)[a] for a in axes]), L.dtype(x))
        L.emit("LayerNormalization", [x, weight, bias], outs[0], axis=axes[0], epsilon=eps)
        return
    centred = L.emit("Sub", [x, L.reduce("ReduceMean", x, axes, True)], shape=L.shape(x))
    var = L.reduce("ReduceMean", L.emit("Mul", [centred, centred]), axes, True)
    deviation = L.emit("Sqrt", [L.emit("Add", [var, L.scalar(eps, x)])])
    _scaled(L, "Div", [centred, deviation], weight, bias, outs[0])


def _scaled(L: Lowering, name: str, ins: list[Any], weight: str | None, bias: str | None, out: str) -> None:
    """A node, then times weight, then plus bias; the last of them gives ``out``."""
    steps = [(name, ins)] + [("Mul", [weight])] * (weight is not None) + [("Add", [bias])] * (bias is not None)
    last = None
    for i, (op_type, operands) in enumerate(steps):
        operands = operands if last is None else [last, *operands]
        last = L.emit(op_type, operands, out if i == len(steps) - 1 else None, L.shape(out))


@lowers("rms_norm")
def _rms_norm(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, weight = (*ins, None)[:2]
    axes = tuple(op.attrs["axes"])
    eps = op.attrs.get("eps")
    eps = float(np.finfo(np_dtype(L.dtype(x))).eps) if eps is None else float(eps)  # torch's default
    if L.opset >= 23 and axes == tuple(range(axes[0], L.rank(x))):
        weight = weight or L.const(np.ones([L.shape(x)[a] for a in axes]), L.dtype(x))
        L.emit("RMSNormalization", [x, weight], outs[0], axis=axes[0], epsilon=eps)
        return
    mean = L.reduce("ReduceMean", L.emit("Mul", [x, x]), axes, True)
    root = L.emit("Sqrt", [L.emit("Add", [mean, L.scalar(eps, x)])])
    _scaled(L, "Div", [x, root], weight, None, outs[0])


@lowers("group_norm")
def _group_norm(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, weight, bias = (*ins, None, None)[:3]
    shape, groups = L.shape(x), int(op.attrs["groups"])
    eps = float(op.attrs["eps"])
    dtype = L.dtype(x)
    if L.opset >= 21:
        weight = weight or L.const(np.ones(shape[1]), dtype)
        bias = bias or L.const(np.zeros(shape[1]), dtype)
        L.emit("GroupNormalization", [x, weight, bias], outs[0], epsilon=eps, num_groups=groups)
        return
    # One "channel" a group: InstanceNormalization of (N, groups, everything else).
    rows = L.reshape(x, (shape[0], groups, prod(shape[1:]) // groups))
    unit = [L.const(np.ones(groups), dtype), L.const(np.zeros(groups), dtype)]
    normed = L.emit("InstanceNormalization", [rows, *unit], epsilon=eps)
    column = tuple(range(1, len(shape) - 1))
    weight, bias = (p and (L.unsqueeze(p, column) if column else p) for p in (weight, bias))
    _scaled(L, "Reshape", [normed, L.ints(shape)], weight, bias, outs[0])


@lowers("lp_normalize")
def _lp_normalize(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, a = ins[0], op.attrs
    length = _norm_of(L, x, float(a["p"]), (a["axis"],), True)
    L.emit("Div", [x, clip(L, length, float(a["eps"]), None)], outs[0])


@lowers("local_response_norm")
def _lrn(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    a = op.attrs
    if a["size"] % 2 == 0:
        raise NoOnnxForm("an even window lies one channel lower in torch than in LRN")
    attrs = {"alpha": float(a["alpha"]), "beta": float(a["beta"]), "bias": float(a["k"]), "size": int(a["size"])}
    L.emit("LRN", ins, outs[0], **attrs)


@lowers("softmax", "log_softmax")
def _softmax(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    name = "Softmax" if op.kind == "softmax" else "LogSoftmax"
    axis, rank = op.attrs["axis"], L.rank(ins[0])
    if L.opset >= 13 or axis == rank - 1:
        L.emit(name, ins, outs[0], axis=axis)
        return
    # Before opset 13 it runs over all axes from `axis` on: move the axis to the end.
    dims = [*range(axis), *range(axis + 1, rank), axis]
    turned = L.transpose(ins[0], dims)
    L.transpose(L.emit(name, [turned], axis=rank - 1), [dims.index(i) for i in range(rank)], outs[0])


_REDUCE = {
    "sum": "ReduceSum", "mean": "ReduceMean", "prod": "ReduceProd", "amax": "ReduceMax", "amin": "ReduceMin",
    "logsumexp": "ReduceLogSumExp",
}  # fmt: skip


def _all_axes(L: Lowering, op: Op, x: str) -> tuple[int, ...]:
    axes = op.attrs.get("axes")
    return tuple(axes) if axes is not None else tuple(range(L.rank(x)))


@lowers(*_REDUCE)
def _reduction(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x = ins[0]
    axes, dtype = _all_axes(L, op, x), L.dtype(outs[0])
    x = L.cast(x, dtype)
    L.reduce(_REDUCE[op.kind], x, axes, bool(op.attrs.get("keepdim")), outs[0])


@lowers("all", "any")
def _truth(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    truth = L.cast(L.cast(ins[0], "bool"), "int32")
    kind = "ReduceMin" if op.kind == "all" else "ReduceMax"
    found = L.reduce(kind, truth, _all_axes(L, op, ins[0]), bool(op.attrs.get("keepdim")))
    L.emit("Cast", [found], outs[0], to=CODES["bool"])


@lowers("var", "std")
def _var(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, axes = ins[0], _all_axes(L, op, ins[0])
    count = prod(L.shape(x)[a] for a in axes) - op.attrs.get("correction", 1)
    centred = L.emit("Sub", [x, L.reduce("ReduceMean", x, axes, True)], shape=L.shape(x))
    total = L.reduce("ReduceSum", L.emit("Mul", [centred, centred]), axes, bool(op.attrs.get("keepdim")))
    divisor = L.scalar(max(count, 0), x)
    if op.kind == "var":
        L.emit("Div", [total, divisor], outs[0])
    else:
        L.emit("Sqrt", [L.emit("Div", [total, divisor])], outs[0])


def _norm_of(L: Lowering, x: str, p: float, axes: Sequence[int], keepdim: bool, out: str | None = None) -> str:
    if p in (1, 2):
        return L.reduce("ReduceL1" if p == 1 else "ReduceL2", x, axes, keepdim, out)
    size = L.emit("Abs", [x])
    if math.isinf(p):
        return L.reduce("ReduceMax" if p > 0 else "ReduceMin", size, axes, keepdim, out)
    if p == 0:
        some = L.emit("Cast", [L.emit("Cast", [x], dtype="bool", to=CODES["bool"])], dtype=L.dtype(x), to=CODES[L.dtype(x)])
        return L.reduce("ReduceSum", some, axes, keepdim, out)
    total = L.reduce("ReduceSum", L.emit("Pow", [size, L.scalar(p, x)]), axes, keepdim)
    return L.emit("Pow", [total, L.scalar(1 / p, x)], out)


@lowers("norm")
def _norm(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    _norm_of(L, ins[0], float(op.attrs["p"]), _all_axes(L, op, ins[0]), bool(op.attrs.get("keepdim")), outs[0])


@lowers("argmax", "argmin")
def _arg(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    name = "ArgMax" if op.kind == "argmax" else "ArgMin"
    axis, keep = op.attrs.get("axis"), int(bool(op.attrs.get("keepdim")))
    if axis is not None:
        L.emit(name, ins, outs[0], axis=axis, keepdims=keep)
        return
    flat = L.reshape(ins[0], (prod(L.shape(ins[0])),))
    found = L.emit(name, [flat], shape=(1,), dtype="int64", axis=0, keepdims=1)
    L.reshape(found, L.shape(outs[0]), outs[0])


@lowers("max_dim", "min_dim")
def _extreme_dim(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    big = op.kind == "max_dim"
    axis, keep = op.attrs["axis"], bool(op.attrs.get("keepdim"))
    L.reduce("ReduceMax" if big else "ReduceMin", ins[0], (axis,), keep, outs[0])
    L.emit("ArgMax" if big else "ArgMin", ins, outs[1], axis=axis, keepdims=int(keep))


@lowers("topk", "sort")
def _topk(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    a, x = op.attrs, ins[0]
    axis = a["axis"]
    k = int(a["k"]) if op.kind == "topk" else L.shape(x)[axis]
    largest = bool(a.get("largest", True)) if op.kind == "topk" else bool(a.get("descending"))
    if L.opset < 11 and not largest:
        L.need(11)
    if L.opset < 10:
        L.emit_many("TopK", [x], outs, axis=axis, k=k)
    elif L.opset < 11:
        L.emit_many("TopK", [x, L.ints((k,))], outs, axis=axis)
    else:
        flags = {"largest": int(largest), "sorted": int(bool(a.get("sorted", True)))}
        L.emit_many("TopK", [x, L.ints((k,))], outs, axis=axis, **flags)


@lowers("cumsum")
def _cumsum(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.need(11)
    L.emit("CumSum", [L.cast(ins[0], L.dtype(outs[0])), L.const(op.attrs["axis"], "int64")], outs[0])
