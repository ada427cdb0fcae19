# SPDX-License-Identifier: Apache-2.0
"""How each kind of op is written in the PyTorch that 1.3 and current versions share.

Every function takes the writer, which knows the names of operands, and an op; it returns the expression of the result
(or of the tuple of results). What torch 1.3 lacks (measured on torch 1.3.1): ``F.silu``, ``F.hardswish``, ``F.mish``,
``torch.maximum``, ``amax``, ``floor_divide``, ``logical_and``, ``meshgrid(indexing=)``, negative slice steps; and an
integer divided by an integer with ``/`` truncates there. Every expression stays inside what both have.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

# These three fill the table too.
import porter.emit.expressions_layers
import porter.emit.expressions_layout
import porter.emit.expressions_sampling  # noqa: F401
from porter.emit.expression_table import (
    EXPRESSIONS,
    INTEGERS,
    Computed,
    Expression,
    Inexpressible,
    number,
    parens,
    real,
    torch_dtype,
    writes,
    x_of,
)
from porter.infer import promote
from porter.ops import Op, Value

if TYPE_CHECKING:
    from porter.emit.codegen import Writer

__all__ = ["EXPRESSIONS", "Computed", "Expression", "Inexpressible", "number", "real", "torch_dtype"]

# -- elementwise ------------------------------------------------------------------------------------------------

_UNARY = {
    "relu": "F.relu({x})", "relu6": "F.relu6({x})", "sigmoid": "torch.sigmoid({x})", "tanh": "torch.tanh({x})",
    "silu": "{x} * torch.sigmoid({x})", "hardswish": "{x} * F.relu6({x} + 3.0) / 6.0",
    "mish": "{x} * torch.tanh(F.softplus({x}))", "selu": "F.selu({x})", "softsign": "F.softsign({x})",
    "logsigmoid": "F.logsigmoid({x})", "exp": "torch.exp({x})", "expm1": "torch.expm1({x})", "log": "torch.log({x})",
    "log1p": "torch.log1p({x})", "log2": "torch.log2({x})", "log10": "torch.log10({x})", "sqrt": "torch.sqrt({x})",
    "rsqrt": "torch.rsqrt({x})", "reciprocal": "torch.reciprocal({x})", "abs": "torch.abs({x})", "neg": "-{x}",
    "sign": "torch.sign({x})", "floor": "torch.floor({x})", "ceil": "torch.ceil({x})", "round": "torch.round({x})",
    "trunc": "torch.trunc({x})", "sin": "torch.sin({x})", "cos": "torch.cos({x})", "tan": "torch.tan({x})",
    "asin": "torch.asin({x})", "acos": "torch.acos({x})", "atan": "torch.atan({x})", "sinh": "torch.sinh({x})",
    "cosh": "torch.cosh({x})", "erf": "torch.erf({x})", "square": "{x} * {x}",
    # torch 1.3 has no inverse hyperbolic functions; log1p keeps asinh and atanh accurate near 0.
    "asinh": "torch.sign({x}) * torch.log1p(torch.abs({x}) + {x} * {x} / (torch.sqrt({x} * {x} + 1.0) + 1.0))",
    "acosh": "torch.log({x} + torch.sqrt({x} * {x} - 1.0))",
    "atanh": "0.5 * (torch.log1p({x}) - torch.log1p(-{x}))",
}  # fmt: skip
_ROUNDINGS = frozenset({"floor", "ceil", "round", "trunc"})


@writes(" ".join(_UNARY))
def _unary(w: Writer, op: Op) -> str:
    x = x_of(w, op)
    if op.outputs[0].dtype in INTEGERS:
        if op.kind in _ROUNDINGS:
            return x
        if op.kind in ("relu", "relu6"):
            return f"torch.clamp({x}, min=0{', max=6' if op.kind == 'relu6' else ''})"
    return _UNARY[op.kind].format(x=x)


@writes("isnan")
def _isnan(w: Writer, op: Op) -> str:
    x = w.tensor(op.inputs[0])
    return f"{x} != {x}"


@writes("isinf")
def _isinf(w: Writer, op: Op) -> str:
    return f'torch.abs({w.tensor(op.inputs[0])}) == float("inf")'


@writes("logical_not")
def _logical_not(w: Writer, op: Op) -> str:
    x = op.operands[0]
    return f"~{w.tensor(x)}" if x.dtype == "bool" else f"{w.tensor(x)} == 0"


@writes("bitwise_not")
def _bitwise_not(w: Writer, op: Op) -> str:
    return f"~{w.tensor(op.inputs[0])}"


_ONE_ATTRIBUTE = {
    "leaky_relu": "F.leaky_relu({x}, {negative_slope})", "elu": "F.elu({x}, {alpha})", "celu": "F.celu({x}, {alpha})",
    "hardsigmoid": "torch.clamp({alpha} * {x} + {beta}, 0.0, 1.0)", "softplus": "F.softplus({x}, {beta}, {threshold})",
    "threshold": "F.threshold({x}, {threshold}, {value})",
}  # fmt: skip


@writes(" ".join(_ONE_ATTRIBUTE))
def _attributed(w: Writer, op: Op) -> str:
    numbers = {name: real(float(value)) for name, value in op.attrs.items()}
    return _ONE_ATTRIBUTE[op.kind].format(x=x_of(w, op), **numbers)


@writes("gelu")
def _gelu(w: Writer, op: Op) -> str:
    x = x_of(w, op)
    if op.attrs.get("approximate", "none") == "none":
        return f"F.gelu({x})"
    scale = real(math.sqrt(2.0 / math.pi))
    return f"0.5 * {x} * (1.0 + torch.tanh({scale} * ({x} + 0.044715 * {x} * {x} * {x})))"


@writes("prelu")
def _prelu(w: Writer, op: Op) -> str:
    x = w.tensor(op.inputs[0])
    weight = op.inputs[1]
    if not w.is_module(op) or weight is None:
        return f"F.prelu({x}, {w.tensor(weight)})"
    data = weight.numpy().reshape(-1)
    return f"{w.module(op, f'nn.PReLU({data.size})', {'weight': data})}({x})"


@writes("clamp")
def _clamp(w: Writer, op: Op) -> str:
    integer = op.outputs[0].dtype in INTEGERS
    bounds = []
    for name in ("min", "max"):
        bound = op.attrs.get(name)
        if bound is not None:
            bounds.append(f"{name}={int(bound) if integer else real(float(bound))}")
    x = x_of(w, op)
    return f"torch.clamp({', '.join((x, *bounds))})" if bounds else x


@writes("cast")
def _cast(w: Writer, op: Op) -> str:
    x, dtype = op.operands[0], str(op.attrs["dtype"])
    if dtype == "bool" and x.dtype != "bool":
        return f"{w.tensor(x)} != 0"
    text = torch_dtype(dtype)
    return f"{w.tensor(x)}.to({text})" if x.dtype != dtype else w.tensor(x)


_BINARY = {"add": "{x} + {y}", "sub": "{x} - {y}", "mul": "{x} * {y}"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


@writes("add sub mul")
def _arithmetic(w: Writer, op: Op) -> str:
    dtype = op.outputs[0].dtype
    x, y = w.operand(op, 0, dtype), w.operand(op, 1, dtype)
    if dtype == "bool" and op.kind != "sub":
        return f"{x} {'|' if op.kind == 'add' else '&'} {y}"
    return _BINARY[op.kind].format(x=x, y=parens(y))


@writes("div")
def _div(w: Writer, op: Op) -> str:
    if op.outputs[0].dtype in INTEGERS:  # torch 1.3 truncates here, current torch does not: never write it as /
        return _integer_quotient(w, op, "trunc")
    dtype = op.outputs[0].dtype
    return f"{w.operand(op, 0, dtype)} / {parens(w.operand(op, 1, dtype))}"


@writes("floor_divide trunc_divide")
def _quotient(w: Writer, op: Op) -> str:
    rounding = "floor" if op.kind == "floor_divide" else "trunc"
    if op.outputs[0].dtype in INTEGERS:
        return _integer_quotient(w, op, rounding)
    dtype = op.outputs[0].dtype
    return f"torch.{rounding}({w.operand(op, 0, dtype)} / {parens(w.operand(op, 1, dtype))})"


def _integer_quotient(w: Writer, op: Op, rounding: str) -> str:
    # Through float64, exact for |x| < 2**53: the versions of torch disagree about // and / of integers.
    x, y = w.operand(op, 0, "float64"), parens(w.operand(op, 1, "float64"))
    return f"torch.{rounding}({x} / {y}).to({torch_dtype(op.outputs[0].dtype or 'int64')})"


@writes("remainder fmod")
def _remainder(w: Writer, op: Op) -> str:
    dtype = op.outputs[0].dtype
    return f"torch.{op.kind}({w.tensor(op.inputs[0], dtype)}, {w.operand(op, 1, dtype)})"


@writes("pow")
def _pow(w: Writer, op: Op) -> str:
    dtype = op.outputs[0].dtype
    return f"torch.pow({w.operand(op, 0, dtype)}, {w.operand(op, 1, dtype)})"


@writes("atan2")
def _atan2(w: Writer, op: Op) -> str:
    dtype = op.outputs[0].dtype
    return f"torch.atan2({w.tensor(op.inputs[0], dtype)}, {w.tensor(op.inputs[1], dtype)})"


@writes("maximum minimum")
def _extreme(w: Writer, op: Op) -> str:
    dtype = op.outputs[0].dtype
    function, bound = ("max", "min") if op.kind == "maximum" else ("min", "max")
    x, y = op.inputs
    if y is None or x is None:
        raise Inexpressible("an operand is missing")
    for tensor, index in ((x, 1), (y, 0)):
        text = w.operand(op, index, dtype)
        if not tensor.is_const and not text.startswith(("self", "getattr")) and _is_literal(text):
            return f"torch.clamp({w.tensor(tensor, dtype)}, {bound}={text})"
    return f"torch.{function}({w.tensor(x, dtype)}, {w.tensor(y, dtype)})"


def _is_literal(text: str) -> bool:
    return text.lstrip("-")[:1].isdigit() or text.startswith('float("')


@writes(" ".join(_COMPARE))
def _compare(w: Writer, op: Op) -> str:
    x, y = op.operands
    dtype = promote(x.dtype, y.dtype, x.rank == 0, y.rank == 0)
    return f"{w.operand(op, 0, dtype)} {_COMPARE[op.kind]} {parens(w.operand(op, 1, dtype))}"


@writes("logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor")
def _logic(w: Writer, op: Op) -> str:
    sign = {"and": "&", "or": "|", "xor": "^"}[op.kind.rpartition("_")[2]]
    dtype = "bool" if op.kind.startswith("logical") else op.outputs[0].dtype
    texts = []
    for value in op.operands:
        if dtype == "bool" and value.dtype != "bool" and not value.is_const:
            texts.append(f"({w.tensor(value)} != 0)")
        else:
            texts.append(w.tensor(value, dtype))
    return f" {sign} ".join(texts)


def _condition(w: Writer, value: Value | None) -> str:
    if value is not None and value.dtype != "bool" and not value.is_const:
        return f"({w.tensor(value)} != 0)"
    return w.tensor(value, "bool")


@writes("where")
def _where(w: Writer, op: Op) -> str:
    dtype = op.outputs[0].dtype  # torch 1.3 wants both branches as tensors of one dtype
    x, y = (w.tensor(v, dtype) for v in op.inputs[1:3])
    return f"torch.where({_condition(w, op.inputs[0])}, {x}, {y})"


@writes("masked_fill")
def _masked_fill(w: Writer, op: Op) -> str:
    value = op.attrs["value"]
    text = str(int(value)) if op.outputs[0].dtype in INTEGERS else real(float(value))
    return f"{w.tensor(op.inputs[0])}.masked_fill({_condition(w, op.inputs[1])}, {text})"
