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

from porter.dialects.onnx_fold import Constants, slice_bounds
from porter.dialects.onnx_proto import DTYPES, Node, tensor_array
from porter.ops import Array, Value

__all__ = ["At", "Lifted", "lift"]

#: Kind, operands, attributes.
Lifted = tuple[str, Sequence[Value | None], dict[str, Any]]
_Lift = Callable[["At"], Lifted | None]
_TABLE: dict[tuple[str, str], _Lift] = {}
_FLOATS = ("float32", "float16", "float64", "bfloat16")
#: The most elements of an index tensor that is looked into (the grid of an assignment to half of a 4K image is 100 M).
_INDEX_LIMIT = 1 << 24


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


def _derived(value: Value, shape: tuple[int, ...], change: Callable[[Array], Array]) -> Value:
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
    return ("div" if at.x.dtype in _FLOATS else "trunc_divide"), at.ins, {}


@lifts("Pow")
def _pow(at: At) -> Lifted | None:
    base, exponent = at.x.dtype, at.ins[1].dtype if at.ins[1] else None
    # The result has the dtype of the base, where torch would promote.
    return ("pow", at.ins, {}) if not at.attrs and base and (base == exponent or base in _FLOATS) else None


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
        return None
    return "prelu", (at.x, _derived(slope, (width,), lambda a: a.reshape(-1))), {}


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
    return "clamp", at.ins[:1], {"min": _short(ends[0], at), "max": _short(ends[1], at)}


def _short(number: float | int | bool | None, at: At) -> float | int | None:
    """A float32 as the shortest decimal that means it."""
    if isinstance(number, float) and at.x.dtype == "float32":
        return float(str(np.float32(number)))
    return number


@lifts("Cast")
def _cast(at: At) -> Lifted | None:
    dtype = DTYPES.get(at.attrs["to"])
    if dtype in (None, "string") or at.x.dtype == "string":
        return None
    return ("identity" if dtype == at.x.dtype else "cast"), at.ins, {} if dtype == at.x.dtype else {"dtype": dtype}


@lifts("CastLike")
def _cast_like(at: At) -> Lifted | None:
    like = at.ins[1]
    dtype = like.dtype if like else None
    if dtype in (None, "string") or at.x.dtype == "string":
        return None
    return ("identity" if dtype == at.x.dtype else "cast"), at.ins[:1], {} if dtype == at.x.dtype else {"dtype": dtype}


@lifts("Dropout")
def _dropout(at: At) -> Lifted | None:
    if not at.only_first_output() or (at.has(2) and at.number(2) is not False):
        return None
    return "identity", at.ins[:1], {}


# -- linear algebra, convolutions, pools -------------------------------------------------------------


@lifts("Gemm")
def _gemm(at: At) -> Lifted | None:
    a, b, c = at.x, at.ins[1], at.get(2)
    alpha, beta = at.attr("alpha", 1.0), at.attr("beta", 1.0)
    trans_a, trans_b = bool(at.attr("transA", 0)), bool(at.attr("transB", 0))
    if b is None:
        return None
    plain = alpha == 1.0 and not trans_a and b.is_const and b.rank == 2
    bias = c is None or (beta == 1.0 and c.is_const and at.out.shape is not None and c.shape == at.out.shape[1:])
    if plain and bias and b.shape is not None:
        weight = b if trans_b else _derived(b, b.shape[::-1], lambda w: w.T)
        return "linear", (a, weight, c), {}
    return "gemm", (a, b, c), {"alpha": alpha, "beta": beta, "trans_a": trans_a, "trans_b": trans_b}


@lifts("Einsum")
def _einsum(at: At) -> Lifted:
    return "einsum", at.ins, {"equation": at.attrs["equation"]}


Pairs = tuple[tuple[int, int], ...]


def _pairs(flat: Sequence[int]) -> Pairs:
    half = len(flat) // 2
    return tuple(zip(flat[:half], flat[half:], strict=True))


def _padding(at: At, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Pairs | None:
    """``pads`` or ``auto_pad`` as explicit pairs; None where the input's size is needed and not known."""
    mode = at.attr("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return _pairs(at.attr("pads", (0,) * (2 * len(kernel))))
    if mode == "VALID":
        return ((0, 0),) * len(kernel)
    if at.shape is None or mode not in ("SAME_UPPER", "SAME_LOWER"):
        return None
    pairs = []
    for extent, k, s, d in zip(at.shape[2:], kernel, stride, dilation, strict=True):
        total = max((-(-extent // s) - 1) * s + (k - 1) * d + 1 - extent, 0)
        small, large = total // 2, total - total // 2
        pairs.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return tuple(pairs)


@lifts("Conv")
def _conv(at: At) -> Lifted | None:
    weight = at.ins[1]
    if weight is None or weight.shape is None or not 3 <= len(weight.shape) <= 5:
        return None
    n = len(weight.shape) - 2
    stride, dilation = at.attr("strides", (1,) * n), at.attr("dilations", (1,) * n)
    padding = _padding(at, weight.shape[2:], stride, dilation)
    if padding is None:
        return None
    attrs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": at.attr("group", 1)}
    return f"conv{n}d", (at.x, weight, at.get(2)), attrs


@lifts("ConvTranspose")
def _conv_transpose(at: At) -> Lifted | None:
    weight = at.ins[1]
    if weight is None or weight.shape is None or not 3 <= len(weight.shape) <= 5:
        return None
    n = len(weight.shape) - 2
    stride, dilation = at.attr("strides", (1,) * n), at.attr("dilations", (1,) * n)
    more = at.attr("output_padding", (0,) * n)
    mode, size = at.attr("auto_pad", "NOTSET"), at.attr("output_shape")
    if size is None and mode in ("NOTSET", "VALID"):
        padding: Pairs = _pairs(at.attr("pads", (0,) * 2 * n)) if mode == "NOTSET" else ((0, 0),) * n
    elif at.shape is None:
        return None
    else:
        extents = at.shape[2:]
        if size is None:  # SAME: the output is the input times the stride
            size = tuple(e * s for e, s in zip(extents, stride, strict=True))
        pairs = []
        for i, want in enumerate(size[-n:]):
            total = stride[i] * (extents[i] - 1) + more[i] + (weight.shape[2 + i] - 1) * dilation[i] + 1 - want
            if total < 0:
                return None
            small, large = total // 2, total - total // 2
            pairs.append((small, large) if mode == "SAME_UPPER" else (large, small))
        padding = tuple(pairs)
    attrs = {
        "stride": stride, "padding": padding, "dilation": dilation, "groups": at.attr("group", 1),
        "output_padding": more,
    }  # fmt: skip
    return f"conv_transpose{n}d", (at.x, weight, at.get(2)), attrs


def _pool(at: At) -> tuple[int, dict[str, Any]] | None:
    kernel = at.attrs["kernel_shape"]
    n = len(kernel)
    stride, dilation = at.attr("strides", (1,) * n), at.attr("dilations", (1,) * n)
    padding = _padding(at, kernel, stride, dilation)
    if padding is None or not 1 <= n <= 3 or at.shape is None:
        return None
    ceil = bool(at.attr("ceil_mode", 0)) and at.attr("auto_pad", "NOTSET") == "NOTSET"
    if at.out.shape is not None:
        # Old and new runtimes differ in whether a last window may start in the padding: torch's may not.
        for extent, got, k, s, d, pads in zip(
            at.shape[2:], at.out.shape[2:], kernel, stride, dilation, padding, strict=True
        ):
            room = extent + sum(pads) - (k - 1) * d - 1
            count = (-(-room // s) if ceil else room // s) + 1
            if ceil and (count - 1) * s >= extent + pads[0]:
                count -= 1
            if count != got:
                return None
    return n, {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil}


@lifts("MaxPool")
def _max_pool(at: At) -> Lifted | None:
    found = _pool(at)
    if found is None or at.attr("storage_order", 0):
        return None
    n, attrs = found
    if at.only_first_output():
        return f"max_pool{n}d", at.ins, attrs
    # ONNX counts an index through the whole tensor, torch through one plane: the same for one plane.
    one = at.shape is not None and prod(at.shape[:2]) == 1
    return ("max_pool2d_with_indices", at.ins, attrs) if n == 2 and one else None


@lifts("AveragePool")
def _average_pool(at: At) -> Lifted | None:
    found = _pool(at)
    if found is None or any(d != 1 for d in found[1].pop("dilation")):
        return None
    n, attrs = found
    attrs.update(count_include_pad=bool(at.attr("count_include_pad", 0)), divisor_override=None)
    return f"avg_pool{n}d", at.ins, attrs


@lifts("GlobalAveragePool")
def _global_average(at: At) -> Lifted | None:
    n = (at.x.rank or 0) - 2
    return (f"adaptive_avg_pool{n}d", at.ins, {"output_size": (1,) * n}) if 1 <= n <= 3 else None


@lifts("GlobalMaxPool")
def _global_max(at: At) -> Lifted | None:
    return ("adaptive_max_pool2d", at.ins, {"output_size": (1, 1)}) if at.x.rank == 4 else None


# -- normalization ---------------------------------------------------------------------------------


@lifts("BatchNormalization")
def _batch_norm(at: At) -> Lifted | None:
    training = at.attr("training_mode", 0) or not at.attr("spatial", 1) or (at.version < 7 and not at.attr("is_test", 0))
    if training or not at.only_first_output():
        return None
    return "batch_norm", at.ins, {"eps": at.attr("epsilon", 1e-5)}


@lifts("InstanceNormalization")
def _instance_norm(at: At) -> Lifted:
    return "instance_norm", at.ins, {"eps": at.attr("epsilon", 1e-5)}


def _trailing(at: At) -> tuple[int, ...] | None:
    axis = at.axis(at.attr("axis", -1))
    return None if axis is None or at.x.rank is None else tuple(range(axis, at.x.rank))


@lifts("LayerNormalization")
def _layer_norm(at: At) -> Lifted | None:
    axes = _trailing(at)
    if axes is None or not at.only_first_output():
        return None
    return "layer_norm", (at.x, at.get(1), at.get(2)), {"axes": axes, "eps": at.attr("epsilon", 1e-5)}


@lifts("RMSNormalization", "SimplifiedLayerNormalization")
@lifts("SimplifiedLayerNormalization", domain="com.microsoft")
def _rms_norm(at: At) -> Lifted | None:
    axes = _trailing(at)
    if axes is None or not at.only_first_output():
        return None
    return "rms_norm", (at.x, at.get(1)), {"axes": axes, "eps": at.attr("epsilon", 1e-5)}


@lifts("GroupNormalization")
def _group_norm(at: At) -> Lifted | None:
    groups = at.attrs["num_groups"]
    weights = [at.get(1), at.get(2)]
    if at.version < 21:  # one scale a group; since 21 one a channel
        if at.shape is None or any(w is None or not w.is_const for w in weights):
            return None
        each = at.shape[1] // groups
        weights = [w and _derived(w, (groups * each,), lambda a, k=each: np.repeat(a, k)) for w in weights]  # type: ignore[misc]
    return "group_norm", (at.x, *weights), {"groups": groups, "eps": at.attr("epsilon", 1e-5)}


@lifts("LpNormalization")
def _lp_normalize(at: At) -> Lifted | None:
    axis = at.axis(at.attr("axis", -1))
    # A vector of zeros stays zero; the smallest normal float32 does that and changes nothing else.
    eps = float(np.finfo(np.float32).tiny)
    return None if axis is None else ("lp_normalize", at.ins, {"p": float(at.attr("p", 2)), "axis": axis, "eps": eps})


@lifts("LRN")
def _lrn(at: At) -> Lifted | None:
    size = at.attrs["size"]
    if size % 2 == 0:  # an even window lies on the other side in torch
        return None
    attrs = {"size": size, "alpha": at.attr("alpha", 1e-4), "beta": at.attr("beta", 0.75), "k": at.attr("bias", 1.0)}
    return "local_response_norm", at.ins, attrs


@lifts("Softmax", "LogSoftmax")
def _softmax(at: At) -> Lifted | None:
    kind = "softmax" if at.node.op == "Softmax" else "log_softmax"
    axis = at.axis(at.attr("axis", -1 if at.version >= 13 else 1))
    if axis is None:
        return None
    # Before opset 13 it runs over all axes from `axis` on, as one.
    if at.version < 13 and (at.shape is None or prod(at.shape[axis + 1 :]) != 1):
        return None
    return kind, at.ins, {"axis": axis}


# -- reductions ------------------------------------------------------------------------------------

_REDUCTIONS = {
    "ReduceSum": "sum", "ReduceMean": "mean", "ReduceProd": "prod", "ReduceMax": "amax", "ReduceMin": "amin",
    "ReduceLogSumExp": "logsumexp", "ReduceL1": "norm", "ReduceL2": "norm",
}  # fmt: skip


@lifts(*_REDUCTIONS)
def _reduce(at: At) -> Lifted | None:
    op = at.node.op
    kind = _REDUCTIONS[op]
    axes = at.axes_of(1, 13 if op == "ReduceSum" else 18)
    keepdim = bool(at.attr("keepdims", 1))
    if axes == "dynamic":
        extra = {"p": 1.0 if op == "ReduceL1" else 2.0} if kind == "norm" else {}
        return f"dynamic_{kind}", (at.x, at.get(1)), {"keepdim": keepdim, **extra}
    if not axes:
        if at.attr("noop_with_empty_axes", 0):
            return ("identity", at.ins[:1], {}) if kind != "norm" and op != "ReduceLogSumExp" else None
        if at.x.rank is None:
            return None
        axes = tuple(range(at.x.rank))
    attrs: dict[str, Any] = {"axes": axes, "keepdim": keepdim}
    if at.x.dtype == "bool":
        kind = {"amax": "any", "amin": "all"}.get(kind, "")
        return (kind, at.ins[:1], attrs) if kind else None
    if at.x.dtype not in _FLOATS and kind in ("mean", "norm", "logsumexp"):
        return None
    if kind == "norm":
        attrs = {"p": 1.0 if op == "ReduceL1" else 2.0, **attrs}
    return kind, at.ins[:1], attrs


@lifts("ArgMax", "ArgMin")
def _arg(at: At) -> Lifted | None:
    axis = at.axis(at.attr("axis", 0))
    if axis is None or at.attr("select_last_index", 0):
        return None
    return at.node.op.lower(), at.ins, {"axis": axis, "keepdim": bool(at.attr("keepdims", 1))}


@lifts("TopK")
def _topk(at: At) -> Lifted | None:
    axis = at.axis(at.attr("axis", -1))
    if axis is None or len(at.outs) != 2:
        return None
    attrs = {"axis": axis, "largest": bool(at.attr("largest", 1)), "sorted": bool(at.attr("sorted", 1))}
    k = at.attr("k") if at.version < 10 else at.number(1)
    if k is None:
        return "dynamic_topk", at.ins, attrs
    return "topk", at.ins[:1], {"k": int(k), **attrs}


@lifts("CumSum")
def _cumsum(at: At) -> Lifted | None:
    if at.attr("exclusive", 0) or at.attr("reverse", 0):
        return None
    given = at.number(1)
    if given is None:
        return "dynamic_cumsum", at.ins, {}
    axis = at.axis(int(given))
    return None if axis is None else ("cumsum", at.ins[:1], {"axis": axis})


# -- shapes ----------------------------------------------------------------------------------------


@lifts("Reshape")
def _reshape(at: At) -> Lifted | None:
    if at.out.shape is not None:
        return "reshape", at.ins[:1], {"shape": at.out.shape}
    return "dynamic_reshape", at.ins, {}


@lifts("Flatten")
def _flatten(at: At) -> Lifted | None:
    if at.shape is None or at.out.shape is None:
        return None
    if at.axis(at.attr("axis", 1)) == 1 and len(at.shape) >= 2:
        return "flatten", at.ins, {"start": 1, "end": len(at.shape) - 1}
    return "reshape", at.ins, {"shape": at.out.shape}


@lifts("Squeeze")
def _squeeze(at: At) -> Lifted | None:
    axes = at.axes_of(1, 13)
    if axes is None:
        if at.shape is None:
            return None
        axes = tuple(i for i, n in enumerate(at.shape) if n == 1)
    return ("dynamic_squeeze", at.ins, {}) if axes == "dynamic" else ("squeeze", at.ins[:1], {"axes": axes})


@lifts("Unsqueeze")
def _unsqueeze(at: At) -> Lifted | None:
    given = at.ints(1) if at.version >= 13 else at.attr("axes")
    if given is None:
        return "dynamic_unsqueeze", at.ins, {}
    if any(a < 0 for a in given) and at.x.rank is None:
        return None
    rank = (at.x.rank or 0) + len(given)
    return "unsqueeze", at.ins[:1], {"axes": tuple(sorted(a if a >= 0 else a + rank for a in given))}


@lifts("Transpose")
def _transpose(at: At) -> Lifted | None:
    dims = at.attr("perm")
    if dims is None:
        if at.x.rank is None:
            return None
        dims = tuple(reversed(range(at.x.rank)))
    return "permute", at.ins, {"dims": dims}


@lifts("Expand")
def _expand(at: At) -> Lifted:
    if at.out.shape is not None:
        return "expand", at.ins[:1], {"shape": at.out.shape}
    return "dynamic_expand", at.ins, {}


@lifts("Tile")
def _tile(at: At) -> Lifted:
    repeats = at.ints(1)
    return ("dynamic_repeat", at.ins, {}) if repeats is None else ("repeat", at.ins[:1], {"repeats": repeats})


@lifts("Concat")
def _concat(at: At) -> Lifted | None:
    axis = at.axis(at.attr("axis", 1))
    return None if axis is None else ("cat", at.ins, {"axis": axis})


@lifts("Split")
def _split(at: At) -> Lifted | None:
    axis = at.axis(at.attr("axis", 0))
    if axis is None or not all(at.node.outs):
        return None
    shapes = [out.shape for out in at.outs]
    if any(shape is None for shape in shapes):
        return "dynamic_split", at.ins, {"axis": axis}
    return "split", at.ins[:1], {"sizes": tuple(shape[axis] for shape in shapes if shape is not None), "axis": axis}


@lifts("Slice")
def _slice(at: At) -> Lifted:
    if at.version < 10:
        starts, ends, axes, steps = at.attrs["starts"], at.attrs["ends"], at.attr("axes"), None
    else:
        starts, ends = at.ints(1), at.ints(2)
        axes, steps = (at.ints(i) if at.has(i) else None for i in (3, 4))
        missing = (at.has(3) and axes is None) or (at.has(4) and steps is None)
        if starts is None or ends is None or missing or at.shape is None:
            return "dynamic_slice", [*at.ins, *[None] * (5 - len(at.ins))], {}
    if at.shape is None:
        return "dynamic_slice", at.ins, {"starts": starts, "ends": ends, "axes": axes}
    rank = len(at.shape)
    axes = tuple(a % rank for a in axes) if axes is not None else tuple(range(len(starts)))
    steps = steps or (1,) * len(starts)
    bounds = [
        (axis, *slice_bounds(start, end, step, at.shape[axis]))
        for axis, start, end, step in sorted(zip(axes, starts, ends, steps, strict=True))
    ]
    columns = [tuple(column) for column in zip(*bounds, strict=True)] if bounds else [(), (), (), ()]
    return "slice", at.ins[:1], dict(zip(("axes", "starts", "ends", "steps"), columns, strict=True))


@lifts("Pad")
def _pad(at: At) -> Lifted | None:
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    mode = modes.get(at.attr("mode", "constant"))
    if mode is None or at.x.rank is None:
        return None
    value: Any = 0.0
    if at.version < 11:
        flat = at.attr("pads", at.attr("paddings"))
        value = at.attr("value", 0.0)
    else:
        flat = at.ints(1)
        if at.has(2):
            value = at.number(2)
            if value is None or flat is None:
                flat = None
    axes = at.ints(3) if at.has(3) else tuple(range(at.x.rank))
    if flat is None or axes is None:
        return "dynamic_pad", (at.x, at.get(1), at.get(2), at.get(3)), {"mode": mode}
    pairs = [(0, 0)] * at.x.rank
    for axis, pair in zip(axes, _pairs(flat), strict=True):
        pairs[axis % at.x.rank] = pair
    return "pad", at.ins[:1], {"padding": tuple(pairs), "mode": mode, "value": _short(value, at)}


@lifts("DepthToSpace", "SpaceToDepth")
def _depth_space(at: At) -> Lifted:
    kind = "pixel_shuffle" if at.node.op == "DepthToSpace" else "pixel_unshuffle"
    return kind, at.ins, {"factor": at.attrs["blocksize"], "mode": at.attr("mode", "DCR")}


@lifts("Trilu")
def _trilu(at: At) -> Lifted:
    kind = "triu" if at.attr("upper", 1) else "tril"
    diagonal = at.number(1) if at.has(1) else 0
    return (f"dynamic_{kind}", at.ins, {}) if diagonal is None else (kind, at.ins[:1], {"diagonal": int(diagonal)})


@lifts("Shape")
def _shape(at: At) -> Lifted:
    rank = at.x.rank
    start, end = at.attr("start", 0), at.attr("end")
    if rank is None or (start, end) == (0, None):
        return "shape", at.ins, {} if (start, end) == (0, None) else {"start": start, "end": end}
    first, last, _ = slice_bounds(start, rank if end is None else end, 1, rank)
    return "shape", at.ins, {} if (first, last) == (0, rank) else {"start": first, "end": last}


# -- indexing --------------------------------------------------------------------------------------


@lifts("Gather")
def _gather(at: At) -> Lifted | None:
    axis, index = at.axis(at.attr("axis", 0)), at.ins[1]
    if axis is None or index is None or index.rank is None:
        return None
    extent = at.shape[axis] if at.shape is not None else None
    if index.rank == 0:
        i = at.number(1)
        if i is not None and extent is not None:
            return "select", at.ins[:1], {"axis": axis, "index": int(i) + (extent if i < 0 else 0)}
        return "take", at.ins, {"axis": axis}
    if index.is_const and extent is not None:
        data = at.const(1)
        if data is not None and (data < 0).any():  # torch's index_select takes no negative index
            index = _derived(index, index.shape or (), lambda a, n=extent: np.where(a < 0, a + n, a))  # type: ignore[misc]
    if index.rank == 1:
        return "index_select", (at.x, index), {"axis": axis}
    if at.x.is_const and at.x.rank == 2 and axis == 0 and at.x.dtype in _FLOATS and not index.is_const:
        return "embedding", (at.x, index), {}
    return "take", (at.x, index), {"axis": axis}


@lifts("GatherElements")
def _gather_elements(at: At) -> Lifted | None:
    axis = at.axis(at.attr("axis", 0))
    return None if axis is None else ("gather", at.ins, {"axis": axis})


@lifts("GatherND")
def _gather_nd(at: At) -> Lifted:
    return "gather_nd", at.ins, {"batch_dims": at.attr("batch_dims", 0)}


@lifts("ScatterElements", "Scatter")
def _scatter(at: At) -> Lifted | None:
    axis = at.axis(at.attr("axis", 0))
    return None if axis is None else ("scatter", at.ins, {"axis": axis, "reduction": at.attr("reduction", "none")})


@lifts("ScatterND")
def _scatter_nd(at: At) -> Lifted:
    reduction = at.attr("reduction", "none")
    if reduction == "none" and at.shape is not None and at.ins[2] is not None:
        index = at.const(1, _INDEX_LIMIT)
        found = assigned_box(index, at.shape) if index is not None else None
        if found is not None:
            return found[0], (at.x, at.ins[2]), found[1]
    return "scatter_nd", at.ins, {"reduction": reduction}


def assigned_box(index: Array, shape: tuple[int, ...]) -> tuple[str, dict[str, Any]] | None:
    """What a ScatterND with this index assigns to, when that is a strided box in row-major order.

    ``index`` is (g0, ..., gm-1, depth): entry k of its last axis must run with one constant step along axis k of
    the grid, and be the same along the others. That is ``slice_assign``. When one of the ``depth`` axes is a single
    index that the grid has no axis for, and all the others are whole, it is ``select_assign``.
    """
    depth = index.shape[-1] if index.ndim else 0
    grid = index.shape[:-1]
    if not 0 < depth <= len(shape) or prod(grid) == 0 or len(grid) not in (depth, depth - 1):
        return None
    index = np.where(index < 0, index + np.asarray(shape[:depth], index.dtype), index)
    first = index[(0,) * len(grid)]
    if len(grid) == depth - 1:
        for single in range(depth):
            others = [j for j in range(depth) if j != single]
            column, i = index[..., single], int(first[single])
            if 0 <= i < shape[single] and (column == i).all() and _box(index, first, others, shape) == _WHOLE:
                return "select_assign", {"axis": single, "index": i}
        return None
    attrs = _box(index, first, list(range(depth)), shape)
    if attrs is None:
        return None
    if not attrs["axes"]:
        attrs = {"axes": (0,), "starts": (0,), "ends": (shape[0],), "steps": (1,)}
    return "slice_assign", attrs


_WHOLE: dict[str, Any] = {"axes": (), "starts": (), "ends": (), "steps": ()}


def _box(index: Array, first: Array, axes: list[int], shape: tuple[int, ...]) -> dict[str, Any] | None:
    """The box whose grid axis ``g`` is axis ``axes[g]``, leaving out axes that it covers; None when it is none."""
    grid = index.shape[:-1]
    rows: list[tuple[int, int, int, int]] = []
    for g, axis in enumerate(axes):
        column = index[..., axis]
        start, count = int(first[axis]), grid[g]
        step = 1
        if count > 1:
            step = int(np.take(column, 1, axis=g).flat[0]) - start
        last = start + step * (count - 1)
        if step == 0 or not (0 <= start < shape[axis] and 0 <= last < shape[axis]):
            return None
        line = (start + step * np.arange(count)).reshape([-1 if j == g else 1 for j in range(len(grid))])
        if not np.array_equal(column, np.broadcast_to(line, grid)):
            return None
        if (start, step, count) != (0, 1, shape[axis]):
            end = last + 1 if step > 0 else last - 1
            rows.append((axis, start, end, step))
    columns = [tuple(c) for c in zip(*rows, strict=True)] if rows else [(), (), (), ()]
    return dict(zip(("axes", "starts", "ends", "steps"), columns, strict=True))


@lifts("OneHot")
def _one_hot(at: At) -> Lifted | None:
    depth, values = at.number(1), at.const(2)
    usual = values is not None and values.dtype == np.int64 and values.tolist() == [0, 1] and at.attr("axis", -1) == -1
    return ("one_hot", at.ins[:1], {"depth": int(depth)}) if usual and depth is not None else None


@lifts("NonZero")
def _nonzero(at: At) -> Lifted:
    return "nonzero", at.ins, {"layout": "onnx"}


@lifts("NonMaxSuppression")
def _nms(at: At) -> Lifted | None:
    boxes, threshold = at.number(2) if at.has(2) else 0, at.number(3) if at.has(3) else 0.0
    if boxes is None or threshold is None or (at.has(4) and at.number(4) is None):
        return None
    attrs = {"iou_threshold": threshold, "layout": "onnx", "max_boxes": int(boxes)}
    attrs.update(score_threshold=at.number(4), center_point_box=at.attr("center_point_box", 0))
    return "nms", at.ins[:2], attrs


# -- resampling ------------------------------------------------------------------------------------


@lifts("Upsample", "Resize")
def _resize(at: At) -> Lifted | None:
    if at.shape is None or at.out.shape is None or len(at.shape) < 3 or at.shape[:2] != at.out.shape[:2]:
        return None
    modern = at.node.op == "Resize" and at.version >= 11
    mode = at.attr("mode", "nearest")
    if mode not in ("nearest", "linear", "cubic") or at.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    antialias, exclude = bool(at.attr("antialias", 0)), bool(at.attr("exclude_outside", 0))
    # torch leaves out what lies beyond the edge when it antialiases, and repeats the edge when it does not.
    if antialias != exclude and (antialias or mode == "cubic"):
        return None
    # Upsample and Resize-10 are asymmetric; nearest rounds down.
    coordinates = at.attr("coordinate_transformation_mode", "half_pixel") if modern else "asymmetric"
    nearest = at.attr("nearest_mode", "round_prefer_floor") if modern else "floor"
    if coordinates not in ("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"):
        return None
    if not modern and mode == "nearest" and any(a > b for a, b in zip(at.shape, at.out.shape, strict=True)):
        return None  # onnxruntime rounds up here, the specification down
    scales: tuple[float, ...] | None
    if at.version < 9:
        scales = at.attr("scales")
    else:
        data = at.const(2 if modern else 1)
        scales = None if data is None or not data.size else tuple(float(str(np.float32(s))) for s in data)
        if scales is None and at.has(2 if modern else 1) and not at.has(3):
            return None
    rank = len(at.shape)
    if scales is not None:
        axes = at.attr("axes", tuple(range(rank)))
        every = [1.0] * rank
        for axis, scale in zip(axes, scales, strict=True):
            every[axis] = scale
        if every[:2] != [1.0, 1.0]:
            return None
        scales = tuple(every[2:])
    attrs = {
        "mode": mode, "coordinates": coordinates, "sizes": at.out.shape[2:], "scales": scales,
        "nearest_mode": nearest if mode == "nearest" else "floor", "cubic_coeff": at.attr("cubic_coeff_a", -0.75),
        "antialias": antialias,
    }  # fmt: skip
    return "resize", at.ins[:1], attrs


@lifts("GridSample")
def _grid_sample(at: At) -> Lifted | None:
    modes = {"linear": "bilinear", "cubic": "bicubic"}  # renamed in opset 20
    mode = at.attr("mode", "linear" if at.version >= 20 else "bilinear")
    attrs = {
        "mode": modes.get(mode, mode), "padding_mode": at.attr("padding_mode", "zeros"),
        "align_corners": bool(at.attr("align_corners", 0)),
    }  # fmt: skip
    return "grid_sample", at.ins, attrs


@lifts("RoiAlign")
def _roi_align(at: At) -> Lifted:
    default = "half_pixel" if at.version >= 16 else "output_half_pixel"
    attrs = {
        "output_size": (at.attr("output_height", 1), at.attr("output_width", 1)), "scale": at.attr("spatial_scale", 1.0),
        "sampling_ratio": at.attr("sampling_ratio", 0), "mode": at.attr("mode", "avg"),
        "aligned": at.attr("coordinate_transformation_mode", default) == "half_pixel",
    }  # fmt: skip
    return "roi_align", at.ins, attrs


@lifts("Col2Im")
def _col2im(at: At) -> Lifted | None:
    size, kernel = at.ints(1), at.ints(2)
    if size is None or kernel is None or len(size) != 2:
        return None
    pads = _pairs(at.attr("pads", (0, 0, 0, 0)))
    if any(a != b for a, b in pads):
        return None
    attrs = {
        "output_size": size, "kernel": kernel, "stride": at.attr("strides", (1, 1)), "padding": tuple(a for a, _ in pads),
        "dilation": at.attr("dilations", (1, 1)),
    }  # fmt: skip
    return "fold", at.ins[:1], attrs


# -- generators ------------------------------------------------------------------------------------


@lifts("Range")
def _range(at: At) -> Lifted:
    numbers = [at.number(i) for i in range(3)]
    if any(n is None for n in numbers) or at.out.dtype is None:
        return "dynamic_arange", at.ins, {"dtype": at.out.dtype}
    return "arange", (), {"start": numbers[0], "end": numbers[1], "step": numbers[2], "dtype": at.out.dtype}


@lifts("ConstantOfShape")
def _constant_of_shape(at: At) -> Lifted:
    tensor = at.attr("value")
    data = np.zeros(1, np.float32) if tensor is None else tensor_array(tensor, None)
    value, dtype = data.reshape(()).item(), str(data.dtype)
    if at.out.shape is None:
        return "dynamic_full", at.ins, {"value": value, "dtype": dtype}
    return "full", (), {"shape": at.out.shape, "value": value, "dtype": dtype}


@lifts("EyeLike")
def _eye_like(at: At) -> Lifted | None:
    if at.shape is None or at.out.dtype is None:
        return None
    rows, cols = at.shape
    return "eye", (), {"rows": rows, "cols": cols, "diagonal": at.attr("k", 0), "dtype": at.out.dtype}


@lifts("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")
def _random(at: At) -> Lifted:
    return "random", at.ins, {"shape": at.out.shape, "dtype": at.out.dtype}


# -- sequences, attention, quantization, control flow -----------------------------------------------


@lifts("LSTM", "GRU", "RNN")
def _recurrent(at: At) -> Lifted | None:
    odd = ("activations", "activation_alpha", "activation_beta", "clip")
    if any(name in at.attrs for name in odd) or at.attr("input_forget", 0):
        return None
    attrs = {
        "hidden": at.attrs["hidden_size"], "direction": at.attr("direction", "forward"), "layers": 1, "layout": "onnx",
        "time_axis": at.attr("layout", 0), "outputs": tuple(i for i, name in enumerate(at.node.outs) if name),
    }  # fmt: skip
    if at.node.op == "GRU":
        attrs["linear_before_reset"] = bool(at.attr("linear_before_reset", 0))
    return at.node.op.lower(), at.ins, attrs


@lifts("Attention")
def _attention(at: At) -> Lifted | None:
    odd = ("q_num_heads", "kv_num_heads", "softcap", "qk_matmul_output_mode", "softmax_precision")
    plain = at.only_first_output() and not any(name in at.attrs for name in odd)
    if not plain or any(at.has(i) for i in range(4, 7)) or at.x.rank != 4:
        return None
    key = at.ins[1]
    if key is None or key.shape is None or at.shape is None or key.shape[1] != at.shape[1]:
        return None  # fewer key heads than query heads
    attrs = {"scale": at.attr("scale"), "causal": bool(at.attr("is_causal", 0))}
    return "attention", (*at.ins[:3], at.get(3)), attrs


@lifts("QuantizeLinear", "DequantizeLinear")
@lifts("QuantizeLinear", "DequantizeLinear", domain="com.microsoft")
def _quantize(at: At) -> Lifted | None:
    scale = at.ins[1]
    if scale is None or scale.rank is None or scale.rank > 1 or at.attr("block_size", 0):
        return None
    axis = at.axis(at.attr("axis", 1)) if scale.rank == 1 and prod(scale.shape or ()) > 1 else None
    if scale.rank == 1 and prod(scale.shape or ()) > 1 and axis is None:
        return None
    operands = (at.x, scale, at.get(2))
    if at.node.op == "DequantizeLinear":
        return "dequantize", operands, {"axis": axis}
    zero = at.get(2)
    dtype = zero.dtype if zero is not None else DTYPES.get(at.attr("output_dtype", 0), "uint8")
    if dtype is None or dtype.startswith("float"):
        return None
    return "quantize", operands, {"axis": axis, "dtype": dtype}


@lifts("If", "Loop", "Scan")
def _control(at: At) -> Lifted:
    return at.node.op.lower(), at.ins, {}


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
