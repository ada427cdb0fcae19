# SPDX-License-Identifier: Apache-2.0
"""ONNX nodes in porter's vocabulary.

One function an operator (or a family of them) says what a node means: a kind, operands and normalized attributes.
It answers None for a combination that the vocabulary has no exact word for; the node then keeps its own name
(``onnx:Foo``, ``com.microsoft:Foo``). Semantics and defaults follow the operator pages of the ONNX specification,
opsets 7 to 24; the comments name the differences between opsets that matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from porter.dialects.onnx_fold import Constants
from porter.dialects.onnx_proto import DTYPES, Node
from porter.ops import Array, Value

__all__ = ["At", "Lifted", "lift"]

#: Kind, operands, attributes.
Lifted = tuple[str, Sequence[Value | None], dict[str, Any]]
_Lift = Callable[["At"], Lifted | None]
_TABLE: dict[tuple[str, str], _Lift] = {}
FLOATS = ("float32", "float16", "float64", "bfloat16")


class At:
    """One node with its operands: what the functions of this module look at."""

    __slots__ = ("_constants", "attrs", "ins", "node", "outs", "version")

    def __init__(
        self, node: Node, ins: list[Value | None], outs: tuple[Value, ...], version: int, constants: Constants
    ) -> None:
        self.node, self.ins, self.outs, self.version, self._constants = node, ins, outs, version, constants
        self.attrs = node.attrs

    def attr(self, name: str, default: Any = None) -> Any:
        return self.attrs.get(name, default)

    def get(self, i: int) -> Value | None:
        """Operand ``i``, or None when it is left out."""
        return self.ins[i] if i < len(self.ins) else None

    @property
    def x(self) -> Value:
        found = self.ins[0]
        assert found is not None
        return found

    @property
    def shape(self) -> tuple[int, ...] | None:
        return self.x.shape

    @property
    def out(self) -> Value:
        return self.outs[0]

    def const(self, i: int, limit: int = 1 << 16) -> Array | None:
        """The data of operand ``i`` when it is known before the model runs."""
        name = self.node.ins[i] if i < len(self.node.ins) else ""
        return self._constants.get(name, limit) if name else None

    def ints(self, i: int) -> tuple[int, ...] | None:
        """A constant operand as a tuple of ints."""
        data = self.const(i)
        return None if data is None else tuple(int(n) for n in np.ravel(data))

    def number(self, i: int) -> float | int | bool | None:
        """A constant operand of one element as a Python number."""
        data = self.const(i)
        return data.reshape(()).item() if data is not None and data.size == 1 else None

    def has(self, i: int) -> bool:
        return i < len(self.node.ins) and bool(self.node.ins[i])

    def only_first_output(self) -> bool:
        return not any(self.node.outs[1:])

    def axis(self, value: int) -> int | None:
        """A non-negative axis of ``x``."""
        rank = self.x.rank
        return value if value >= 0 else value + rank if rank is not None else None

    def axes_of(self, at: int, since: int) -> tuple[int, ...] | str | None:
        """Axes from the attribute (before opset ``since``) or operand ``at``: a sorted non-negative tuple, None when
        they are left out, or the word "dynamic" when they are computed or the rank is not known."""
        axes: tuple[int, ...] | None
        if self.version >= since:
            if not self.has(at):
                return None
            axes = self.ints(at)
            if axes is None:
                return "dynamic"
        else:
            axes = self.attr("axes")
            if axes is None:
                return None
        if any(a < 0 for a in axes) and self.x.rank is None:
            return "dynamic"
        return tuple(sorted(a if a >= 0 else a + (self.x.rank or 0) for a in axes))


def lifts(*names: str, domain: str = "") -> Callable[[_Lift], _Lift]:
    def put(function: _Lift) -> _Lift:
        for name in names:
            _TABLE[(domain, name)] = function
        return function

    return put


def derived(value: Value, shape: tuple[int, ...], change: Callable[[Array], Array]) -> Value:
    """A constant computed from a constant, under the same name (a PRelu slope (C, 1, 1) as (C,))."""
    return Value(value.name, shape, value.dtype, lambda: change(value.numpy()))


# -- element by element ----------------------------------------------------------------------------

#: Operators whose meaning is the kind's, with the operands in the same order and no attributes.
SAME: dict[str, str] = {
    "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Abs": "abs",
    "Reciprocal": "reciprocal", "Neg": "neg", "Sign": "sign", "Floor": "floor", "Ceil": "ceil", "Round": "round",
    "Sin": "sin", "Cos": "cos", "Tan": "tan", "Asin": "asin", "Acos": "acos", "Atan": "atan", "Sinh": "sinh",
    "Cosh": "cosh", "Asinh": "asinh", "Acosh": "acosh", "Atanh": "atanh", "Erf": "erf", "IsNaN": "isnan",
    "Not": "logical_not", "BitwiseNot": "bitwise_not", "Softsign": "softsign", "HardSwish": "hardswish", "Mish": "mish",
    "Identity": "identity", "Where": "where", "MatMul": "matmul", "Size": "size",
    "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or", "BitwiseXor": "bitwise_xor",
}  # fmt: skip
#: Binary operators that had a ``broadcast`` attribute before opset 7.
_BINARY: dict[str, str] = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "And": "logical_and", "Or": "logical_or", "Xor": "logical_xor",
    "Equal": "eq", "Less": "lt", "Greater": "gt", "LessOrEqual": "le", "GreaterOrEqual": "ge",
}  # fmt: skip


@lifts(*_BINARY)
def _binary(at: At) -> Lifted | None:
    return None if at.attrs else (_BINARY[at.node.op], at.ins, {})


@lifts("Div")
def _div(at: At) -> Lifted | None:
    if at.attrs or at.x.dtype is None:
        return None
    # Integer division truncates toward zero.
    return ("div" if at.x.dtype in FLOATS else "trunc_divide"), at.ins, {}


@lifts("Pow")
def _pow(at: At) -> Lifted | None:
    base, exponent = at.x.dtype, at.ins[1].dtype if at.ins[1] else None
    # The result has the dtype of the base, where torch would promote.
    return ("pow", at.ins, {}) if not at.attrs and base and (base == exponent or base in FLOATS) else None


@lifts("Mod")
def _mod(at: At) -> Lifted:
    return ("fmod" if at.attr("fmod", 0) else "remainder"), at.ins, {}


@lifts("Max", "Min", "Sum", "Mean")
def _variadic(at: At) -> Lifted | None:
    if len(at.ins) == 1:
        return "identity", at.ins, {}
    kind = {"Max": "maximum", "Min": "minimum", "Sum": "add"}.get(at.node.op)
    return (kind, at.ins, {}) if kind and len(at.ins) == 2 else None


@lifts("IsInf")
def _isinf(at: At) -> Lifted | None:
    both = at.attr("detect_negative", 1) and at.attr("detect_positive", 1)
    return ("isinf", at.ins, {}) if both else None


@lifts("LeakyRelu")
def _leaky(at: At) -> Lifted:
    return "leaky_relu", at.ins, {"negative_slope": at.attr("alpha", 0.01)}


@lifts("Elu")
def _elu(at: At) -> Lifted:
    return "elu", at.ins, {"alpha": at.attr("alpha", 1.0)}


@lifts("Celu")
def _celu(at: At) -> Lifted:
    return "celu", at.ins, {"alpha": at.attr("alpha", 1.0)}


@lifts("Selu")
def _selu(at: At) -> Lifted | None:
    # torch.nn.SELU's constants, which are the operator's defaults since opset 6
    alpha, gamma = at.attr("alpha", 1.6732632), at.attr("gamma", 1.0507010)
    usual = math.isclose(alpha, 1.6732632, rel_tol=1e-6) and math.isclose(gamma, 1.0507010, rel_tol=1e-6)
    return ("selu", at.ins, {}) if usual else None


@lifts("HardSigmoid")
def _hardsigmoid(at: At) -> Lifted:
    return "hardsigmoid", at.ins, {"alpha": at.attr("alpha", 0.2), "beta": at.attr("beta", 0.5)}


@lifts("Softplus")
def _softplus(at: At) -> Lifted:
    # Above 20, log(1 + exp(x)) - x is 2e-9: less than half a unit in the last place of float32.
    threshold = math.inf if at.x.dtype == "float64" else 20.0
    return "softplus", at.ins, {"beta": 1.0, "threshold": threshold}


@lifts("ThresholdedRelu")
def _thresholded(at: At) -> Lifted:
    return "threshold", at.ins, {"threshold": at.attr("alpha", 1.0), "value": 0.0}


@lifts("Swish")
def _swish(at: At) -> Lifted | None:
    return ("silu", at.ins, {}) if at.attr("alpha", 1.0) == 1.0 else None


@lifts("QuickGelu", domain="com.microsoft")
def _quick_gelu(at: At) -> Lifted | None:
    # x * sigmoid(alpha * x); onnxruntime's default alpha is 1.702
    return ("silu", at.ins, {}) if at.attr("alpha", 1.702) == 1.0 else None


@lifts("Gelu")
def _gelu(at: At) -> Lifted:
    return "gelu", at.ins, {"approximate": at.attr("approximate", "none")}


@lifts("Gelu", domain="com.microsoft")
def _gelu_ms(at: At) -> Lifted:
    return "gelu", at.ins, {"approximate": "none"}


@lifts("FastGelu", domain="com.microsoft")
def _fast_gelu(at: At) -> Lifted | None:
    return ("gelu", at.ins[:1], {"approximate": "tanh"}) if not at.has(1) else None


@lifts("PRelu")
def _prelu(at: At) -> Lifted | None:
    slope = at.ins[1]
    if slope is None or slope.shape is None or at.x.rank is None:
        return None
    if prod(slope.shape) == 1:
        width = 1
    else:
        # The slope broadcasts to x: right-aligned, its only axis must fall on axis 1.
        aligned = (1,) * (at.x.rank - len(slope.shape)) + slope.shape
        if at.x.rank < 2 or prod(aligned) != aligned[1]:
            return None
        width = aligned[1]
    if slope.shape == (width,):
        return "prelu", at.ins, {}
    if not slope.is_const:
        # torch exports slopes that are alike once, and reads the others through an Identity.
        data = at.const(1)
        if data is None:
            return None
        slope = Value.constant(f"{slope.name}_flat", data)
    return "prelu", (at.x, derived(slope, (width,), lambda a: a.reshape(-1))), {}


@lifts("Clip")
def _clip(at: At) -> Lifted:
    if at.version < 11:
        low, high = at.attr("min"), at.attr("max")
        # The defaults are the ends of float32.
        low = None if low is None or low <= -3.4e38 else low
        high = None if high is None or high >= 3.4e38 else high
        return "clamp", at.ins, {"min": low, "max": high}
    ends = [at.number(i) if at.has(i) else None for i in (1, 2)]
    if any(at.has(i) and ends[i - 1] is None for i in (1, 2)):
        return "dynamic_clamp", (at.x, at.get(1), at.get(2)), {}
    return "clamp", at.ins[:1], {"min": short(ends[0], at), "max": short(ends[1], at)}


def short(number: float | int | bool | None, at: At) -> float | int | None:
    """A float32 as the shortest decimal that means it."""
    if isinstance(number, float) and at.x.dtype == "float32":
        return float(str(np.float32(number)))
    return number


def _plain_cast(at: At) -> bool:
    """Whether values beyond the range of an 8-bit float become its largest, and scales are rounded up: the defaults of
    "saturate" (since opset 19) and "round_mode" (since 24), which no other format has."""
    return at.attr("saturate", 1) == 1 and at.attr("round_mode", "up") in ("up", b"up")


@lifts("Cast")
def _cast(at: At) -> Lifted | None:
    dtype = DTYPES.get(at.attrs["to"])
    if dtype in (None, "string") or at.x.dtype == "string" or not _plain_cast(at):
        return None
    return ("identity" if dtype == at.x.dtype else "cast"), at.ins, {} if dtype == at.x.dtype else {"dtype": dtype}


@lifts("CastLike")
def _cast_like(at: At) -> Lifted | None:
    like = at.ins[1]
    dtype = like.dtype if like else None
    if dtype in (None, "string") or at.x.dtype == "string" or not _plain_cast(at):
        return None
    return ("identity" if dtype == at.x.dtype else "cast"), at.ins[:1], {} if dtype == at.x.dtype else {"dtype": dtype}


@lifts("Dropout")
def _dropout(at: At) -> Lifted | None:
    if not at.only_first_output() or (at.has(2) and at.number(2) is not False):
        return None
    return "identity", at.ins[:1], {}


def lift(at: At) -> Lifted:
    """The meaning of a node; its own name where the vocabulary has none."""
    node = at.node
    function = _TABLE.get((node.domain, node.op))
    found = function(at) if function is not None else None
    if found is not None:
        return found
    if not node.domain and node.op in SAME:
        return SAME[node.op], at.ins, {}
    return f"{node.domain or 'onnx'}:{node.op}", at.ins, own_attributes(node)


def own_attributes(node: Node) -> dict[str, Any]:
    """The node's own attributes as far as they are numbers, strings or tuples of them."""
    return {name: value for name, value in node.attrs.items() if isinstance(value, (int, float, str, tuple))}
