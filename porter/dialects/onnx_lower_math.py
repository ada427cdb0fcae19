# SPDX-License-Identifier: Apache-2.0
"""Vocabulary ops as ONNX nodes: element by element.

Importing this module adds its kinds to the table of :mod:`porter.dialects.onnx_lower`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from porter.dialects.onnx_lower import LOWER, Lowering, lowers
from porter.dialects.onnx_proto import CODES, np_dtype
from porter.ops import Op

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
    attrs: dict[str, Any] = {"batch_dims": op.attrs["batch_dims"] or None} if op.kind == "gather_nd" else {}
    L.need(12 if attrs.get("batch_dims") else version)
    L.emit(name, ins, outs[0], **attrs)


for _kind in _DIRECT:
    LOWER[_kind] = _direct


@lowers("logical_not")
def _logical_not(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.emit("Not", [L.cast(ins[0], "bool")], outs[0])


@lowers("silu")
def _silu(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    if L.opset >= 24:
        L.emit("Swish", ins, outs[0])
        return
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
    open_ended = (threshold >= 20 and L.dtype(x) != "float64") or math.isinf(threshold)
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
