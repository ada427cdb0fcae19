# SPDX-License-Identifier: Apache-2.0
"""How each kind of op is written in the PyTorch that 1.3 and current versions share.

Every function takes the writer, which knows the names of operands, and an op; it returns the expression of the result
(or of the tuple of results). What torch 1.3 lacks (measured on torch 1.3.1): ``F.silu``, ``F.hardswish``, ``F.mish``,
``torch.maximum``, ``amax``, ``floor_divide``, ``logical_and``, ``meshgrid(indexing=)``, negative slice steps; and an
integer divided by an integer with ``/`` truncates there. Every expression stays inside what both have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from porter.infer import promote
from porter.ops import Array, Op, Value

if TYPE_CHECKING:
    from porter.emit.codegen import Writer

__all__ = ["EXPRESSIONS", "Computed", "Expression", "Inexpressible", "number", "real", "torch_dtype"]

_INTEGERS = frozenset({"uint8", "int8", "int16", "int32", "int64", "bool"})
#: The dtypes that tensors of torch 1.3 can have and that its kernels compute with.
_TORCH_DTYPES = _INTEGERS | {"float16", "float32", "float64"}


class Inexpressible(Exception):
    """Raised by an expression to say why the op cannot be written in the torch that both versions share."""


def torch_dtype(name: str) -> str:
    """``torch.float32`` for ``"float32"``. Raises :class:`Inexpressible` for what torch 1.3 does not compute with."""
    if name not in _TORCH_DTYPES:
        raise Inexpressible(f"torch 1.3 does not compute with {name}")
    return f"torch.{name}"


def number(data: Array, dtype: str | None = None) -> str:
    """One element as a Python number: the shortest text that gives the very same value back in its dtype."""
    item = np.asarray(data).reshape(-1)[0]
    if dtype is not None and dtype != str(item.dtype):
        item = item.astype(dtype)
    if item.dtype.kind == "b":
        return str(bool(item))
    if item.dtype.kind in "iu":
        return str(int(item))
    return real(float(item), str(item.dtype))


def real(value: float, dtype: str = "float64") -> str:
    """A float as Python source: the shortest decimal that rounds to it in ``dtype``."""
    if math.isnan(value) or math.isinf(value):
        return f'float("{value}")'
    short = str(np.dtype(dtype).type(value)) if dtype in ("float16", "float32", "float64") else repr(value)
    return repr(float(short))


@dataclass(frozen=True, slots=True)
class Computed:
    """The op depends on shapes and attributes only: its outputs are these constants."""

    data: tuple[Array, ...]


Expression = Callable[["Writer", Op], "str | Computed"]

#: For each kind, how it is written. What is not here cannot be expressed.
EXPRESSIONS: dict[str, Expression] = {}


def _writes(kinds: str) -> Callable[[Expression], Expression]:
    def register(function: Expression) -> Expression:
        for kind in kinds.split():
            EXPRESSIONS[kind] = function
        return function

    return register


def _shape(value: Value | None) -> tuple[int, ...]:
    if value is None or value.shape is None:
        raise Inexpressible("the shape of one of its tensors is not known")
    return value.shape


def _collapse(sizes: Iterable[int]) -> str:
    """``3`` for (3, 3), else the tuple."""
    values = tuple(int(s) for s in sizes)
    return str(values[0]) if values and len(set(values)) == 1 else repr(values)


def _ints(values: Iterable[int]) -> str:
    return repr(tuple(int(v) for v in values))


def _x(w: Writer, op: Op) -> str:
    """The first operand in the dtype of the result (a float function of integers computes in float)."""
    return w.tensor(op.inputs[0], op.outputs[0].dtype)


def _parens(text: str) -> str:
    return f"({text})" if text.startswith("-") else text


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


@_writes(" ".join(_UNARY))
def _unary(w: Writer, op: Op) -> str:
    x = _x(w, op)
    if op.outputs[0].dtype in _INTEGERS:
        if op.kind in _ROUNDINGS:
            return x
        if op.kind in ("relu", "relu6"):
            return f"torch.clamp({x}, min=0{', max=6' if op.kind == 'relu6' else ''})"
    return _UNARY[op.kind].format(x=x)


@_writes("isnan")
def _isnan(w: Writer, op: Op) -> str:
    x = w.tensor(op.inputs[0])
    return f"{x} != {x}"


@_writes("isinf")
def _isinf(w: Writer, op: Op) -> str:
    return f'torch.abs({w.tensor(op.inputs[0])}) == float("inf")'


@_writes("logical_not")
def _logical_not(w: Writer, op: Op) -> str:
    x = op.operands[0]
    return f"~{w.tensor(x)}" if x.dtype == "bool" else f"{w.tensor(x)} == 0"


@_writes("bitwise_not")
def _bitwise_not(w: Writer, op: Op) -> str:
    return f"~{w.tensor(op.inputs[0])}"


_ONE_ATTRIBUTE = {
    "leaky_relu": "F.leaky_relu({x}, {negative_slope})", "elu": "F.elu({x}, {alpha})", "celu": "F.celu({x}, {alpha})",
    "hardsigmoid": "torch.clamp({alpha} * {x} + {beta}, 0.0, 1.0)", "softplus": "F.softplus({x}, {beta}, {threshold})",
    "threshold": "F.threshold({x}, {threshold}, {value})",
}  # fmt: skip


@_writes(" ".join(_ONE_ATTRIBUTE))
def _attributed(w: Writer, op: Op) -> str:
    numbers = {name: real(float(value)) for name, value in op.attrs.items()}
    return _ONE_ATTRIBUTE[op.kind].format(x=_x(w, op), **numbers)


@_writes("gelu")
def _gelu(w: Writer, op: Op) -> str:
    x = _x(w, op)
    if op.attrs.get("approximate", "none") == "none":
        return f"F.gelu({x})"
    scale = real(math.sqrt(2.0 / math.pi))
    return f"0.5 * {x} * (1.0 + torch.tanh({scale} * ({x} + 0.044715 * {x} * {x} * {x})))"


@_writes("prelu")
def _prelu(w: Writer, op: Op) -> str:
    x = w.tensor(op.inputs[0])
    weight = op.inputs[1]
    if not w.is_module(op) or weight is None:
        return f"F.prelu({x}, {w.tensor(weight)})"
    data = weight.numpy().reshape(-1)
    return f"{w.module(op, f'nn.PReLU({data.size})', {'weight': data})}({x})"


@_writes("clamp")
def _clamp(w: Writer, op: Op) -> str:
    integer = op.outputs[0].dtype in _INTEGERS
    bounds = []
    for name in ("min", "max"):
        bound = op.attrs.get(name)
        if bound is not None:
            bounds.append(f"{name}={int(bound) if integer else real(float(bound))}")
    x = _x(w, op)
    return f"torch.clamp({', '.join((x, *bounds))})" if bounds else x


@_writes("cast")
def _cast(w: Writer, op: Op) -> str:
    x, dtype = op.operands[0], str(op.attrs["dtype"])
    if dtype == "bool" and x.dtype != "bool":
        return f"{w.tensor(x)} != 0"
    text = torch_dtype(dtype)
    return f"{w.tensor(x)}.to({text})" if x.dtype != dtype else w.tensor(x)


_BINARY = {"add": "{x} + {y}", "sub": "{x} - {y}", "mul": "{x} * {y}"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


@_writes("add sub mul")
def _arithmetic(w: Writer, op: Op) -> str:
    dtype = op.outputs[0].dtype
    x, y = w.operand(op, 0, dtype), w.operand(op, 1, dtype)
    if dtype == "bool" and op.kind != "sub":
        return f"{x} {'|' if op.kind == 'add' else '&'} {y}"
    return _BINARY[op.kind].format(x=x, y=_parens(y))


@_writes("div")
def _div(w: Writer, op: Op) -> str:
    if op.outputs[0].dtype in _INTEGERS:  # torch 1.3 truncates here, current torch does not: never write it as /
        return _integer_quotient(w, op, "trunc")
    dtype = op.outputs[0].dtype
    return f"{w.operand(op, 0, dtype)} / {_parens(w.operand(op, 1, dtype))}"


@_writes("floor_divide trunc_divide")
def _quotient(w: Writer, op: Op) -> str:
    rounding = "floor" if op.kind == "floor_divide" else "trunc"
    if op.outputs[0].dtype in _INTEGERS:
        return _integer_quotient(w, op, rounding)
    dtype = op.outputs[0].dtype
    return f"torch.{rounding}({w.operand(op, 0, dtype)} / {_parens(w.operand(op, 1, dtype))})"


def _integer_quotient(w: Writer, op: Op, rounding: str) -> str:
    # Through float64, exact for |x| < 2**53: the versions of torch disagree about // and / of integers.
    x, y = w.operand(op, 0, "float64"), _parens(w.operand(op, 1, "float64"))
    return f"torch.{rounding}({x} / {y}).to({torch_dtype(op.outputs[0].dtype or 'int64')})"


@_writes("remainder fmod")
def _remainder(w: Writer, op: Op) -> str:
    dtype = op.outputs[0].dtype
    return f"torch.{op.kind}({w.tensor(op.inputs[0], dtype)}, {w.operand(op, 1, dtype)})"


@_writes("pow")
def _pow(w: Writer, op: Op) -> str:
    dtype = op.outputs[0].dtype
    return f"torch.pow({w.operand(op, 0, dtype)}, {w.operand(op, 1, dtype)})"


@_writes("atan2")
def _atan2(w: Writer, op: Op) -> str:
    dtype = op.outputs[0].dtype
    return f"torch.atan2({w.tensor(op.inputs[0], dtype)}, {w.tensor(op.inputs[1], dtype)})"


@_writes("maximum minimum")
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


@_writes(" ".join(_COMPARE))
def _compare(w: Writer, op: Op) -> str:
    x, y = op.operands
    dtype = promote(x.dtype, y.dtype, x.rank == 0, y.rank == 0)
    return f"{w.operand(op, 0, dtype)} {_COMPARE[op.kind]} {_parens(w.operand(op, 1, dtype))}"


@_writes("logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor")
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


@_writes("where")
def _where(w: Writer, op: Op) -> str:
    dtype = op.outputs[0].dtype  # torch 1.3 wants both branches as tensors of one dtype
    x, y = (w.tensor(v, dtype) for v in op.inputs[1:3])
    return f"torch.where({_condition(w, op.inputs[0])}, {x}, {y})"


@_writes("masked_fill")
def _masked_fill(w: Writer, op: Op) -> str:
    value = op.attrs["value"]
    text = str(int(value)) if op.outputs[0].dtype in _INTEGERS else real(float(value))
    return f"{w.tensor(op.inputs[0])}.masked_fill({_condition(w, op.inputs[1])}, {text})"


# -- layers with weights ----------------------------------------------------------------------------------------


@_writes("linear")
def _linear(w: Writer, op: Op) -> str:
    x, weight, bias = (*op.inputs, None)[:3]
    if not w.is_module(op) or weight is None:
        return f"F.linear({w.tensor(x)}, {w.tensor(weight)}, {w.tensor(bias)})"
    out_features, in_features = _shape(weight)
    text = f"nn.Linear({in_features}, {out_features}{'' if bias is not None else ', bias=False'})"
    tensors = {"weight": weight.numpy(), "bias": None if bias is None else bias.numpy().reshape(-1)}
    return f"{w.module(op, text, tensors)}({w.tensor(x)})"


@_writes("gemm")
def _gemm(w: Writer, op: Op) -> str:
    a, b, c = (*op.inputs, None)[:3]
    left = w.tensor(a) + (".t()" if op.attrs.get("trans_a") else "")
    right = w.tensor(b) + (".t()" if op.attrs.get("trans_b") else "")
    text = f"torch.matmul({left}, {right})"
    alpha, beta = float(op.attrs.get("alpha", 1.0)), float(op.attrs.get("beta", 1.0))
    if alpha != 1.0:
        text = f"{real(alpha)} * {text}"
    if c is not None:
        text += f" + {w.tensor(c)}" if beta == 1.0 else f" + {real(beta)} * {w.tensor(c)}"
    return text


@_writes("matmul")
def _matmul(w: Writer, op: Op) -> str:
    dtype = op.outputs[0].dtype
    return f"torch.matmul({w.tensor(op.inputs[0], dtype)}, {w.tensor(op.inputs[1], dtype)})"


@_writes("einsum")
def _einsum(w: Writer, op: Op) -> str:
    return f'torch.einsum("{op.attrs["equation"]}", [{", ".join(w.tensor(v) for v in op.operands)}])'


def _pads(pairs: Sequence[tuple[int, int]]) -> str:
    """The ``pad`` argument of ``F.pad``: the last axis first."""
    return _ints(n for pair in reversed(list(pairs)) for n in pair)


def _explicit(op: Op) -> bool:
    """Whether the padding needs an op of its own: one-sided, negative, or (in a pool) over half of the window."""
    pairs = [(int(a), int(b)) for a, b in op.attrs["padding"]]
    windows = op.attrs.get("kernel", ())
    return any(a != b or a < 0 for a, b in pairs) or any(2 * a > k for (a, _), k in zip(pairs, windows, strict=False))


def _symmetric(w: Writer, op: Op, fill: str | None = None) -> tuple[str, tuple[int, ...]]:
    """The input and the symmetric padding of a window op; a one-sided padding is put in front as ``F.pad``."""
    pairs = [(int(a), int(b)) for a, b in op.attrs["padding"]]
    x = w.tensor(op.inputs[0])
    if not _explicit(op):
        return x, tuple(a for a, _ in pairs)
    value = "" if fill is None else f', mode="constant", value={fill}'
    return f"F.pad({x}, {_pads(pairs)}{value})", (0,) * len(pairs)


@_writes("conv1d conv2d conv3d")
def _conv(w: Writer, op: Op) -> str:
    weight, bias = (*op.inputs, None)[1:3]
    x, padding = _symmetric(w, op)
    shape, a = _shape(weight), op.attrs
    groups = int(a["groups"])
    if not w.is_module(op) or weight is None:
        sizes = f"{_ints(a['stride'])}, {_ints(padding)}, {_ints(a['dilation'])}, {groups}"
        return f"F.{op.kind}({x}, {w.tensor(weight)}, {w.tensor(bias)}, {sizes})"
    text = f"nn.{_class_name(op)}({shape[1] * groups}, {shape[0]}, {_collapse(shape[2:])}"
    text += _optional(stride=(a["stride"], 1), padding=(padding, 0), dilation=(a["dilation"], 1))
    text += ("" if groups == 1 else f", groups={groups}") + ("" if bias is not None else ", bias=False") + ")"
    tensors = {"weight": weight.numpy(), "bias": None if bias is None else bias.numpy()}
    return f"{w.module(op, text, tensors)}({x})"


def _class_name(op: Op) -> str:
    base = "ConvTranspose" if op.kind.startswith("conv_transpose") else "Conv"
    return f"{base}{op.kind[-2]}d"


def _optional(**sizes: tuple[Iterable[int], int]) -> str:
    """Keyword arguments for those sizes that are not the default everywhere."""
    texts = []
    for name, (given, default) in sizes.items():
        values = tuple(int(v) for v in given)
        if any(v != default for v in values):
            texts.append(f", {name}={_collapse(values)}")
    return "".join(texts)


@_writes("conv_transpose1d conv_transpose2d conv_transpose3d")
def _conv_transpose(w: Writer, op: Op) -> str:
    weight, bias = (*op.inputs, None)[1:3]
    shape, a = _shape(weight), op.attrs
    groups = int(a["groups"])
    pairs = [(int(begin), int(end)) for begin, end in a["padding"]]
    if any(n < 0 for pair in pairs for n in pair):
        raise Inexpressible("a padding is negative")
    padding = [min(pair) for pair in pairs]
    x = w.tensor(op.inputs[0])
    if not w.is_module(op) or weight is None:
        sizes = (
            f"{_ints(a['stride'])}, {_ints(padding)}, {_ints(a['output_padding'])}, {groups}, {_ints(a['dilation'])}"
        )
        text = f"F.{op.kind}({x}, {w.tensor(weight)}, {w.tensor(bias)}, {sizes})"
    else:
        made = f"nn.{_class_name(op)}({shape[0]}, {shape[1] * groups}, {_collapse(shape[2:])}"
        made += _optional(
            stride=(a["stride"], 1), padding=(padding, 0), output_padding=(a["output_padding"], 0),
            dilation=(a["dilation"], 1),
        )  # fmt: skip
        made += ("" if groups == 1 else f", groups={groups}") + ("" if bias is not None else ", bias=False") + ")"
        tensors = {"weight": weight.numpy(), "bias": None if bias is None else bias.numpy()}
        text = f"{w.module(op, made, tensors)}({x})"
    if all(begin == end for begin, end in pairs):
        return text
    # A one-sided padding of a transposed convolution cuts one side of its result.
    out = _shape(op.outputs[0])[2:]
    cut = [f"{b - p}:{b - p + n}" if b != e else ":" for (b, e), p, n in zip(pairs, padding, out, strict=True)]
    return f"{text}[:, :, {', '.join(cut)}]"


@_writes("batch_norm")
def _batch_norm(w: Writer, op: Op) -> str:
    x, weight, bias, mean, var = op.inputs
    eps = real(float(op.attrs["eps"]))
    if not w.is_module(op) or mean is None or var is None:
        stats = f"{w.tensor(mean)}, {w.tensor(var)}, {w.tensor(weight)}, {w.tensor(bias)}"
        return f"F.batch_norm({w.tensor(x)}, {stats}, False, 0.0, {eps})"
    channels, rank = _shape(mean)[0], len(_shape(x))
    affine = weight is not None or bias is not None
    text = f"nn.BatchNorm{max(rank - 2, 1)}d({channels}, eps={eps}{'' if affine else ', affine=False'})"
    tensors: dict[str, Array | None] = {}
    if affine:
        tensors["weight"] = np.ones(channels, np.float32) if weight is None else weight.numpy()
        tensors["bias"] = np.zeros(channels, np.float32) if bias is None else bias.numpy()
    tensors["running_mean"], tensors["running_var"] = mean.numpy(), var.numpy()
    tensors["num_batches_tracked"] = np.zeros((), np.int64)
    return f"{w.module(op, text, tensors)}({w.tensor(x)})"


def _affine(op: Op, shape: tuple[int, ...]) -> dict[str, Array | None]:
    """Weight and bias of a normalization for a module, the missing one filled in."""
    weight, bias = (*op.inputs, None)[1:3]
    return {
        "weight": np.ones(shape, np.float32) if weight is None else weight.numpy().reshape(shape),
        "bias": np.zeros(shape, np.float32) if bias is None else bias.numpy().reshape(shape),
    }


@_writes("instance_norm")
def _instance_norm(w: Writer, op: Op) -> str:
    x, weight, bias = (*op.inputs, None)[:3]
    eps, channels = real(float(op.attrs["eps"])), _shape(x)[1]
    if not w.is_module(op):
        return f"F.instance_norm({w.tensor(x)}, weight={w.tensor(weight)}, bias={w.tensor(bias)}, eps={eps})"
    text = f"nn.InstanceNorm{len(_shape(x)) - 2}d({channels}, eps={eps}, affine=True)"
    return f"{w.module(op, text, _affine(op, (channels,)))}({w.tensor(x)})"


@_writes("layer_norm")
def _layer_norm(w: Writer, op: Op) -> str:
    x, weight, bias = (*op.inputs, None)[:3]
    eps = real(float(op.attrs["eps"]))
    shape = tuple(_shape(x)[axis] for axis in op.attrs["axes"])
    if not w.is_module(op):
        return f"F.layer_norm({w.tensor(x)}, {_ints(shape)}, {w.tensor(weight)}, {w.tensor(bias)}, {eps})"
    text = f"nn.LayerNorm({_ints(shape)}, eps={eps})"
    return f"{w.module(op, text, _affine(op, shape))}({w.tensor(x)})"


@_writes("group_norm")
def _group_norm(w: Writer, op: Op) -> str:
    x, weight, bias = (*op.inputs, None)[:3]
    eps, groups, channels = real(float(op.attrs["eps"])), int(op.attrs["groups"]), _shape(x)[1]
    if not w.is_module(op):
        return f"F.group_norm({w.tensor(x)}, {groups}, {w.tensor(weight)}, {w.tensor(bias)}, {eps})"
    text = f"nn.GroupNorm({groups}, {channels}, eps={eps})"
    return f"{w.module(op, text, _affine(op, (channels,)))}({w.tensor(x)})"


@_writes("rms_norm")
def _rms_norm(w: Writer, op: Op) -> str:
    x, weight = w.tensor(op.inputs[0]), (*op.inputs, None)[1]
    mean = f"torch.mean({x} * {x}, dim={_ints(op.attrs['axes'])}, keepdim=True)"
    text = f"{x} * torch.rsqrt({mean} + {real(float(op.attrs['eps']))})"
    return text if weight is None else f"{text} * {w.tensor(weight)}"


@_writes("embedding")
def _embedding(w: Writer, op: Op) -> str:
    weight, index = op.operands
    text = w.tensor(index, "int64")  # torch 1.3 looks up by int64 only
    if not w.is_module(op):
        return f"F.embedding({text}, {w.tensor(weight)})"
    rows, width = _shape(weight)
    return f"{w.module(op, f'nn.Embedding({rows}, {width})', {'weight': weight.numpy()})}({text})"


@_writes("lp_normalize")
def _lp_normalize(w: Writer, op: Op) -> str:
    a = op.attrs
    return f"F.normalize({_x(w, op)}, p={real(float(a['p']))}, dim={a['axis']}, eps={real(float(a['eps']))})"


@_writes("local_response_norm")
def _lrn(w: Writer, op: Op) -> str:
    a = op.attrs
    numbers = ", ".join(real(float(a[name])) for name in ("alpha", "beta", "k"))
    return f"F.local_response_norm({_x(w, op)}, {int(a['size'])}, {numbers})"


# -- pools ------------------------------------------------------------------------------------------------------


@_writes("max_pool1d max_pool2d max_pool3d max_pool2d_with_indices")
def _max_pool(w: Writer, op: Op) -> str:
    x, padding = _symmetric(w, op, 'float("-inf")')
    a = op.attrs
    if op.kind == "max_pool2d_with_indices" and _explicit(op):
        raise Inexpressible("its one-sided padding would shift the indices")
    name = op.kind.removesuffix("_with_indices")
    text = f"F.{name}({x}, {_collapse(a['kernel'])}, stride={_collapse(a['stride'])}"
    text += _optional(padding=(padding, 0), dilation=(a["dilation"], 1))
    text += ", ceil_mode=True" if a["ceil_mode"] else ""
    return text + (", return_indices=True)" if op.kind.endswith("indices") else ")")


@_writes("avg_pool1d avg_pool2d avg_pool3d")
def _avg_pool(w: Writer, op: Op) -> str:
    a = op.attrs
    x, padding = _symmetric(w, op)
    if _explicit(op) and not a["count_include_pad"] and a.get("divisor_override") is None:
        raise Inexpressible("its padding is one-sided (or over half of the window) and does not count in the mean")
    text = f"F.{op.kind}({x}, {_collapse(a['kernel'])}, stride={_collapse(a['stride'])}"
    text += _optional(padding=(padding, 0))
    text += ", ceil_mode=True" if a["ceil_mode"] else ""
    text += "" if a["count_include_pad"] else ", count_include_pad=False"
    divisor = a.get("divisor_override")
    if divisor is not None:
        if op.kind == "avg_pool1d":
            raise Inexpressible("avg_pool1d has no divisor_override")
        text += f", divisor_override={int(divisor)}"
    return text + ")"


@_writes("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d adaptive_avg_pool3d")
def _adaptive(w: Writer, op: Op) -> str:
    return f"F.{op.kind}({w.tensor(op.inputs[0])}, {_collapse(op.attrs['output_size'])})"


@_writes("max_unpool2d")
def _max_unpool(w: Writer, op: Op) -> str:
    size = tuple(op.attrs["output_size"])[-2:]
    window = tuple(max(1, round(o / i)) for o, i in zip(size, _shape(op.inputs[0])[-2:], strict=True))
    x, index = w.tensor(op.inputs[0]), w.tensor(op.inputs[1], "int64")
    return f"F.max_unpool2d({x}, {index}, {_ints(window)}, stride={_ints(window)}, output_size={_ints(size)})"


# -- reductions -------------------------------------------------------------------------------------------------


@_writes("softmax log_softmax")
def _softmax(w: Writer, op: Op) -> str:
    return f"F.{op.kind}({_x(w, op)}, dim={int(op.attrs['axis'])})"


def _widened(op: Op, text: str) -> str:
    """Sums of integers are int64 in torch; bring them back where the graph says otherwise."""
    out, x = op.outputs[0].dtype, op.operands[0].dtype
    return f"{text}.to({torch_dtype(out or 'int64')})" if x in _INTEGERS and out != "int64" else text


def _axes(op: Op) -> tuple[int, ...]:
    return tuple(int(a) for a in op.attrs["axes"]) or tuple(range(len(_shape(op.inputs[0]))))


def _dims(op: Op) -> str:
    axes = _axes(op)
    text = str(axes[0]) if len(axes) == 1 else repr(axes)
    return f"dim={text}{', keepdim=True' if op.attrs['keepdim'] else ''}"


@_writes("sum mean")
def _sum(w: Writer, op: Op) -> str:
    if not _axes(op):
        return _x(w, op)
    if op.kind == "mean":
        return f"torch.mean({_x(w, op)}, {_dims(op)})"
    return _widened(op, f"torch.sum({w.tensor(op.inputs[0])}, {_dims(op)})")


@_writes("prod amax amin all any")
def _one_by_one(w: Writer, op: Op) -> str:
    """torch 1.3 reduces these over one axis at a time."""
    x = w.tensor(op.inputs[0])
    if op.kind in ("all", "any") and op.operands[0].dtype != "bool":
        x = f"({x} != 0)"
    keep = ", keepdim=True" if op.attrs["keepdim"] else ""
    for axis in sorted(_axes(op), reverse=True):  # from the last one, so that the others keep their number
        if op.kind in ("amax", "amin"):
            x = f"torch.{op.kind[1:]}({x}, dim={axis}{keep})[0]"
        elif op.kind == "prod":
            x = f"torch.prod({x}, dim={axis}{keep})"
        else:
            x = f"{x}.{op.kind}(dim={axis}{keep})"
    return _widened(op, x) if op.kind == "prod" else x


@_writes("logsumexp")
def _logsumexp(w: Writer, op: Op) -> str:
    return f"torch.logsumexp({_x(w, op)}, {_dims(op)})"


@_writes("var std")
def _var(w: Writer, op: Op) -> str:
    correction = int(op.attrs.get("correction", 1))
    if correction not in (0, 1):
        raise Inexpressible(f"a correction of {correction} is neither the biased nor the unbiased variance")
    return f"torch.{op.kind}({_x(w, op)}, {_dims(op)}, unbiased={correction == 1})"


@_writes("norm")
def _norm(w: Writer, op: Op) -> str:
    return f"torch.norm({_x(w, op)}, p={real(float(op.attrs['p']))}, {_dims(op)})"


@_writes("argmax argmin")
def _argmax(w: Writer, op: Op) -> str:
    axis = op.attrs.get("axis")
    keep = ", keepdim=True" if op.attrs.get("keepdim") else ""
    x = w.tensor(op.inputs[0])
    if axis is None:
        text = f"torch.{op.kind}({x})"
        if keep:
            text += f".reshape({_ints((1,) * len(_shape(op.inputs[0])))})"
    else:
        text = f"torch.{op.kind}({x}, dim={int(axis)}{keep})"
    out = op.outputs[0].dtype
    return text if out in (None, "int64") else f"{text}.to({torch_dtype(out)})"


@_writes("max_dim min_dim")
def _max_dim(w: Writer, op: Op) -> str:
    keep = ", keepdim=True" if op.attrs["keepdim"] else ""
    return f"torch.{op.kind[:3]}({w.tensor(op.inputs[0])}, dim={int(op.attrs['axis'])}{keep})"


@_writes("topk")
def _topk(w: Writer, op: Op) -> str:
    a = op.attrs
    x = w.tensor(op.inputs[0])
    return f"torch.topk({x}, {int(a['k'])}, {int(a['axis'])}, {bool(a['largest'])}, {bool(a['sorted'])})"


@_writes("sort")
def _sort(w: Writer, op: Op) -> str:
    return f"torch.sort({w.tensor(op.inputs[0])}, {int(op.attrs['axis'])}, {bool(op.attrs['descending'])})"


@_writes("cumsum")
def _cumsum(w: Writer, op: Op) -> str:
    return _widened(op, f"torch.cumsum({w.tensor(op.inputs[0])}, {int(op.attrs['axis'])})")


# -- shapes -----------------------------------------------------------------------------------------------------


@_writes("reshape squeeze unsqueeze flatten")
def _reshape(w: Writer, op: Op) -> str:
    x, a = w.tensor(op.inputs[0]), op.attrs
    if op.kind == "flatten" and op.operands[0].rank:
        return f"torch.flatten({x}, {int(a['start'])}, {int(a['end'])})"
    if op.kind in ("squeeze", "unsqueeze") and len(a["axes"]) == 1:
        return f"{x}.{op.kind}({int(a['axes'][0])})"
    return f"{x}.reshape({_ints(_shape(op.outputs[0]))})"


@_writes("permute")
def _permute(w: Writer, op: Op) -> str:
    return f"{w.tensor(op.inputs[0])}.permute({_ints(op.attrs['dims'])})"


@_writes("expand")
def _expand(w: Writer, op: Op) -> str:
    return f"{w.tensor(op.inputs[0])}.expand({_ints(_shape(op.outputs[0]))})"


@_writes("repeat")
def _repeat(w: Writer, op: Op) -> str:
    return f"{w.tensor(op.inputs[0])}.repeat({_ints(op.attrs['repeats'])})"


def _box(op: Op) -> tuple[str, tuple[int, ...]]:
    """The index of a slice, and the axes that must be flipped after it: torch has no negative steps."""
    a, shape = op.attrs, _shape(op.inputs[0])
    texts = [":"] * len(shape)
    flipped = []
    for axis, start, end, step in zip(a["axes"], a["starts"], a["ends"], a["steps"], strict=True):
        start, end, step, extent = int(start), int(end), int(step), shape[axis]
        if step < 0:
            count = len(range(start, end, step))
            start, end, step = (start + (count - 1) * step, start + 1, -step) if count else (0, 0, -step)
            flipped.append(int(axis))
        first = str(start) if start else ""
        last = str(end) if end < extent or not extent else ""
        texts[axis] = f"{first}:{last}" + (f":{step}" if step != 1 else "")
    while len(texts) > 1 and texts[-1] == ":":
        texts.pop()
    return f"[{', '.join(texts)}]", tuple(flipped)


@_writes("slice")
def _slice(w: Writer, op: Op) -> str:
    box, flipped = _box(op)
    text = w.tensor(op.inputs[0]) + (box if box != "[:]" else "")
    return f"torch.flip({text}, {_ints(flipped)})" if flipped else text


@_writes("select")
def _select(w: Writer, op: Op) -> str:
    return f"{w.tensor(op.inputs[0])}[{':, ' * int(op.attrs['axis'])}{int(op.attrs['index'])}]"


def _assigned(w: Writer, op: Op, index: str, source: str) -> str:
    name = w.temporary("filled")
    w.line(f"{name} = {w.tensor(op.inputs[0])}.clone()")
    w.line(f"{name}{index} = {source}")
    return name


@_writes("slice_assign")
def _slice_assign(w: Writer, op: Op) -> str:
    box, flipped = _box(op)
    source = w.operand(op, 1, op.outputs[0].dtype)
    if flipped:
        extents = list(_shape(op.inputs[0]))
        a = op.attrs
        for axis, start, end, step in zip(a["axes"], a["starts"], a["ends"], a["steps"], strict=True):
            extents[axis] = len(range(int(start), int(end), int(step)))
        source = f"torch.flip({w.tensor(op.inputs[1])}.expand({_ints(extents)}), {_ints(flipped)})"
    return _assigned(w, op, box, source)


@_writes("select_assign")
def _select_assign(w: Writer, op: Op) -> str:
    index = f"[{':, ' * int(op.attrs['axis'])}{int(op.attrs['index'])}]"
    return _assigned(w, op, index, w.operand(op, 1, op.outputs[0].dtype))


@_writes("cat stack")
def _cat(w: Writer, op: Op) -> str:
    dtype = op.outputs[0].dtype
    return f"torch.{op.kind}([{', '.join(w.tensor(v, dtype) for v in op.operands)}], {int(op.attrs['axis'])})"


@_writes("split")
def _split(w: Writer, op: Op) -> str:
    sizes = [int(s) for s in op.attrs["sizes"]]
    return f"torch.split({w.tensor(op.inputs[0])}, {sizes!r}, {int(op.attrs['axis'])})"


@_writes("chunk")
def _chunk(w: Writer, op: Op) -> str:
    return f"torch.chunk({w.tensor(op.inputs[0])}, {int(op.attrs['chunks'])}, {int(op.attrs['axis'])})"


@_writes("unbind")
def _unbind(w: Writer, op: Op) -> str:
    return f"torch.unbind({w.tensor(op.inputs[0])}, {int(op.attrs['axis'])})"


@_writes("pad")
def _pad(w: Writer, op: Op) -> str:
    pairs = [(int(a), int(b)) for a, b in op.attrs["padding"]]
    mode, x = str(op.attrs.get("mode", "constant")), w.tensor(op.inputs[0])
    touched = [axis for axis, pair in enumerate(pairs) if pair != (0, 0)]
    if not touched:
        return x
    if mode == "constant":
        value = op.attrs.get("value", 0.0)
        text = str(int(value)) if op.outputs[0].dtype in _INTEGERS else real(float(value))
        return f'F.pad({x}, {_pads(pairs[touched[0] :])}, mode="constant", value={text})'
    if any(n < 0 for pair in pairs for n in pair):
        raise Inexpressible(f"{mode} padding cannot be negative")
    if mode == "circular":
        for axis in touched:
            before, after = pairs[axis]
            skip, extent = ":, " * axis, _shape(op.inputs[0])[axis]
            name = w.temporary("padded")
            parts = [f"{x}[{skip}{extent - before}:]"] if before else []
            parts += [x, *([f"{x}[{skip}:{after}]"] if after else [])]
            w.line(f"{name} = torch.cat([{', '.join(parts)}], {axis})")
            x = name
        return x
    spatial = len(pairs) - 2
    limit = 2 if mode == "reflect" else 3
    if touched[0] < 2 or not 1 <= spatial <= limit:
        raise Inexpressible(f"torch 1.3 has {mode} padding for the last {limit} axes after the first two only")
    return f'F.pad({x}, {_pads(pairs[2:])}, mode="{mode}")'


@_writes("flip")
def _flip(w: Writer, op: Op) -> str:
    return f"torch.flip({w.tensor(op.inputs[0])}, {_ints(op.attrs['axes'])})"


@_writes("roll")
def _roll(w: Writer, op: Op) -> str:
    return f"torch.roll({w.tensor(op.inputs[0])}, {_ints(op.attrs['shifts'])}, {_ints(op.attrs['axes'])})"


@_writes("tril triu")
def _triangle(w: Writer, op: Op) -> str:
    return f"torch.{op.kind}({w.tensor(op.inputs[0])}, {int(op.attrs['diagonal'])})"


@_writes("pixel_shuffle")
def _pixel_shuffle(w: Writer, op: Op) -> str:
    x, factor = w.tensor(op.inputs[0]), int(op.attrs["factor"])
    if op.attrs.get("mode", "CRD") == "CRD":
        return f"F.pixel_shuffle({x}, {factor})"
    n, c, height, width = _shape(op.inputs[0])
    inner = (n, factor, factor, c // factor**2, height, width)
    return f"{x}.reshape({_ints(inner)}).permute((0, 3, 4, 1, 5, 2)).reshape({_ints(_shape(op.outputs[0]))})"


@_writes("pixel_unshuffle")
def _pixel_unshuffle(w: Writer, op: Op) -> str:
    x, factor = w.tensor(op.inputs[0]), int(op.attrs["factor"])
    n, c, height, width = _shape(op.inputs[0])
    inner = (n, c, height // factor, factor, width // factor, factor)
    order = "(0, 1, 3, 5, 2, 4)" if op.attrs.get("mode", "CRD") == "CRD" else "(0, 3, 5, 1, 2, 4)"
    return f"{x}.reshape({_ints(inner)}).permute({order}).reshape({_ints(_shape(op.outputs[0]))})"


@_writes("channel_shuffle")
def _channel_shuffle(w: Writer, op: Op) -> str:
    shape, groups = _shape(op.inputs[0]), int(op.attrs["groups"])
    inner = (shape[0], groups, shape[1] // groups, *shape[2:])
    return f"{w.tensor(op.inputs[0])}.reshape({_ints(inner)}).transpose(1, 2).reshape({_ints(shape)})"


# -- indexing ---------------------------------------------------------------------------------------------------


def _index(w: Writer, value: Value | None, extent: int | None = None) -> str:
    """An integer index as the int64 tensor that torch wants, counted from the end where it is negative."""
    if value is not None and value.is_const:
        data = value.numpy().astype(np.int64)
        if extent is not None and data.size and data.min() < 0:
            return w.constant(f"{value.name}_wrapped{extent}", np.where(data < 0, data + extent, data))
        return w.constant(value.name, value.numpy(), "int64")
    return w.tensor(value, "int64")


@_writes("gather")
def _gather(w: Writer, op: Op) -> str:
    axis = int(op.attrs["axis"])
    return f"torch.gather({w.tensor(op.inputs[0])}, {axis}, {_index(w, op.inputs[1], _shape(op.inputs[0])[axis])})"


@_writes("index_select")
def _index_select(w: Writer, op: Op) -> str:
    axis = int(op.attrs["axis"])
    index = _index(w, op.inputs[1], _shape(op.inputs[0])[axis])
    return f"torch.index_select({w.tensor(op.inputs[0])}, {axis}, {index})"


@_writes("take")
def _take(w: Writer, op: Op) -> str:
    axis, index = int(op.attrs["axis"]), op.operands[1]
    extent = _shape(op.inputs[0])[axis]
    x = w.tensor(op.inputs[0])
    if index.is_const and not index.shape:
        return f"{x}[{':, ' * axis}{int(index.numpy()) % extent}]"
    text = _index(w, index, extent)
    if not index.is_const:  # it may count from the end
        text = f"torch.remainder({text}, {extent})"
    if index.rank == 1:
        return f"torch.index_select({x}, {axis}, {text})"
    return f"torch.index_select({x}, {axis}, {text}.reshape(-1)).reshape({_ints(_shape(op.outputs[0]))})"


def _advanced(w: Writer, op: Op, indices: Sequence[Value | None]) -> str:
    """``[:, i, j]`` for advanced indexing along the axes of the op."""
    if any(v is None or v.dtype == "bool" for v in indices):
        raise Inexpressible("it indexes with a mask, so the shape of its result depends on data")
    axes = [int(a) for a in op.attrs["axes"]]
    texts = [":"] * (max(axes) + 1)
    for axis, value in zip(axes, indices, strict=True):
        texts[axis] = _index(w, value)
    return f"[{', '.join(texts)}]"


@_writes("index")
def _advanced_index(w: Writer, op: Op) -> str:
    return f"{w.tensor(op.inputs[0])}{_advanced(w, op, op.inputs[1:])}"


@_writes("index_put")
def _index_put(w: Writer, op: Op) -> str:
    index = _advanced(w, op, op.inputs[2:])
    values = w.tensor(op.inputs[1], op.outputs[0].dtype)
    if not op.attrs.get("accumulate"):
        return _assigned(w, op, index, values)
    if sorted(op.attrs["axes"]) != list(range(len(op.attrs["axes"]))):
        raise Inexpressible("it adds at indices that do not start at the first axis")
    return f"torch.index_put({w.tensor(op.inputs[0])}, ({index[1:-1]},), {values}, True)"


def _nd_index(w: Writer, index: Value) -> str:
    """The index of GatherND and ScatterND: one column of the last axis for each axis of the data."""
    columns = _shape(index)[-1]
    if index.is_const:
        data = index.numpy()
        texts = [w.constant(f"{index.name}_{k}", np.ascontiguousarray(data[..., k]), "int64") for k in range(columns)]
    else:
        texts = [f"{w.tensor(index, 'int64')}[..., {k}]" for k in range(columns)]
    return f"[{', '.join(texts)}]"


@_writes("gather_nd")
def _gather_nd(w: Writer, op: Op) -> str:
    if op.attrs.get("batch_dims"):
        raise Inexpressible("gather_nd with batch axes has no expression")
    return f"{w.tensor(op.inputs[0])}{_nd_index(w, op.operands[1])}"


@_writes("scatter_nd")
def _scatter_nd(w: Writer, op: Op) -> str:
    reduction, index = str(op.attrs.get("reduction", "none")), _nd_index(w, op.operands[1])
    source = w.tensor(op.inputs[2], op.outputs[0].dtype)
    if reduction == "none":
        return _assigned(w, op, index, source)
    if reduction == "add":
        return f"torch.index_put({w.tensor(op.inputs[0])}, ({index[1:-1]},), {source}, True)"
    raise Inexpressible(f"torch 1.3 cannot combine scattered values by {reduction}")


@_writes("scatter")
def _scatter(w: Writer, op: Op) -> str:
    reduction, axis = str(op.attrs.get("reduction", "none")), int(op.attrs["axis"])
    if reduction not in ("none", "add"):
        raise Inexpressible(f"torch 1.3 cannot combine scattered values by {reduction}")
    index = _index(w, op.inputs[1], _shape(op.inputs[0])[axis])
    name = "scatter" if reduction == "none" else "scatter_add"
    return f"torch.{name}({w.tensor(op.inputs[0])}, {axis}, {index}, {w.tensor(op.inputs[2], op.outputs[0].dtype)})"


@_writes("one_hot")
def _one_hot(w: Writer, op: Op) -> str:
    return f"F.one_hot({w.tensor(op.inputs[0], 'int64')}, {int(op.attrs['depth'])})"


# -- resampling -------------------------------------------------------------------------------------------------


def _source_positions(out: int, extent: int, scale: float, coordinates: str) -> Array:
    """Where each output sample lies in the input, by ONNX Resize's coordinates; ``scale`` is out / extent."""
    at = np.arange(out, dtype=np.float64)
    whole = abs(scale * extent - out) < 1e-6 * out  # then divide integers: no sample falls just below a whole position
    if coordinates == "asymmetric":
        return at * extent / out if whole else at / scale
    if coordinates == "align_corners":
        return at * (extent - 1) / (out - 1) if out > 1 else np.zeros(out)
    if coordinates == "pytorch_half_pixel" and out == 1:
        return np.zeros(out)
    if coordinates in ("half_pixel", "pytorch_half_pixel"):
        return ((2 * at + 1) * extent / out - 1) / 2 if whole else (at + 0.5) / scale - 0.5
    raise Inexpressible(f"the coordinates {coordinates} are not known")


def _nearest(positions: Array, extent: int, mode: str) -> Array:
    rounded = {
        "floor": np.floor(positions), "ceil": np.ceil(positions),
        "round_prefer_floor": np.ceil(positions - 0.5), "round_prefer_ceil": np.floor(positions + 0.5),
    }  # fmt: skip
    if mode not in rounded:
        raise Inexpressible(f"the rounding {mode} is not known")
    return np.clip(rounded[mode], 0, extent - 1).astype(np.int64)


@_writes("resize")
def _resize(w: Writer, op: Op) -> str:
    a, x = op.attrs, w.tensor(op.inputs[0])
    extents, sizes = _shape(op.inputs[0])[2:], tuple(int(s) for s in a["sizes"])
    mode, coordinates = str(a["mode"]), str(a["coordinates"])
    scales = tuple(a.get("scales") or (o / i for o, i in zip(sizes, extents, strict=True)))
    if a.get("antialias"):
        raise Inexpressible("torch 1.3 has no antialiased resize")
    if mode == "nearest":
        exact = True
        wanted = []
        for out, extent, scale in zip(sizes, extents, scales, strict=True):
            index = _nearest(
                _source_positions(out, extent, scale, coordinates), extent, str(a.get("nearest_mode", "floor"))
            )
            wanted.append(index)
            exact = exact and np.array_equal(index, np.arange(out) * extent // out)
        if exact and 1 <= len(sizes) <= 3:
            return f'F.interpolate({x}, size={_ints(sizes)}, mode="nearest")'
        for axis, (index, extent) in enumerate(zip(wanted, extents, strict=True), 2):
            if not np.array_equal(index, np.arange(extent)):
                x = f"torch.index_select({x}, {axis}, {w.constant(f'{op.outputs[0].name}_rows{axis}', index)})"
        return x
    names = {("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear", ("cubic", 2): "bicubic"}
    name = names.get((mode, len(sizes)))
    if name is None:
        raise Inexpressible(f"torch has no {mode} resize of {len(sizes)} axes")
    aligned = coordinates == "align_corners"
    for out, extent, scale in zip(sizes, extents, scales, strict=True):
        ours = _source_positions(out, extent, scale, coordinates)
        torchs = _source_positions(out, extent, out / extent, "align_corners" if aligned else "half_pixel")
        if not np.allclose(ours, torchs, rtol=0, atol=1e-6 * extent):
            raise Inexpressible(f"torch does not place its samples as {coordinates} with scale {scale:g} does")
    if mode == "cubic" and float(a.get("cubic_coeff", -0.75)) != -0.75:
        raise Inexpressible("torch's cubic coefficient is -0.75")
    return f'F.interpolate({x}, size={_ints(sizes)}, mode="{name}", align_corners={aligned})'


@_writes("affine_grid")
def _affine_grid(w: Writer, op: Op) -> str:
    a = op.attrs
    return f"F.affine_grid({w.tensor(op.inputs[0])}, {_ints(a['size'])}, align_corners={bool(a['align_corners'])})"


@_writes("grid_sample")
def _grid_sample(w: Writer, op: Op) -> str:
    a = op.attrs
    modes = f'mode="{a["mode"]}", padding_mode="{a["padding_mode"]}", align_corners={bool(a["align_corners"])}'
    if a["mode"] not in ("bilinear", "nearest"):
        raise Inexpressible(f"torch 1.3 has no {a['mode']} grid_sample")
    return f"F.grid_sample({w.tensor(op.inputs[0])}, {w.tensor(op.inputs[1])}, {modes})"


@_writes("unfold")
def _unfold(w: Writer, op: Op) -> str:
    a = op.attrs
    sizes = ", ".join(_ints(a[name]) for name in ("kernel", "dilation", "padding", "stride"))
    return f"F.unfold({w.tensor(op.inputs[0])}, {sizes})"


@_writes("fold")
def _fold(w: Writer, op: Op) -> str:
    a = op.attrs
    sizes = ", ".join(_ints(a[name]) for name in ("output_size", "kernel", "dilation", "padding", "stride"))
    return f"F.fold({w.tensor(op.inputs[0])}, {sizes})"


# -- constants by shape -----------------------------------------------------------------------------------------


@_writes("arange")
def _arange(w: Writer, op: Op) -> Computed:
    a = op.attrs
    count = max(0, math.ceil((a["end"] - a["start"]) / a["step"]))
    return Computed(((np.arange(count) * a["step"] + a["start"]).astype(a["dtype"]),))


@_writes("linspace")
def _linspace(w: Writer, op: Op) -> Computed:
    a = op.attrs
    return Computed((np.linspace(a["start"], a["end"], int(a["steps"])).astype(a["dtype"]),))


@_writes("full fill")
def _full(w: Writer, op: Op) -> Computed:
    return Computed((np.full(_shape(op.outputs[0]), op.attrs["value"], op.attrs["dtype"]),))


@_writes("eye")
def _eye(w: Writer, op: Op) -> Computed:
    a = op.attrs
    return Computed((np.eye(int(a["rows"]), int(a["cols"]), int(a.get("diagonal", 0)), dtype=a["dtype"]),))


@_writes("shape")
def _shape_of(w: Writer, op: Op) -> Computed:
    return Computed((np.array(_shape(op.inputs[0])[op.attrs.get("start") : op.attrs.get("end")], np.int64),))


@_writes("size")
def _size_of(w: Writer, op: Op) -> Computed:
    return Computed((np.array(math.prod(_shape(op.inputs[0])), np.int64),))


@_writes("meshgrid")
def _meshgrid(w: Writer, op: Op) -> str:
    shape = _shape(op.outputs[0])  # the indexing argument came after 1.3
    texts = []
    for i, value in enumerate(op.operands):
        axis = 1 - i if op.attrs.get("indexing", "ij") == "xy" and i < 2 and len(op.operands) > 1 else i
        column = [1] * len(shape)
        column[axis] = -1
        texts.append(f"{w.tensor(value)}.reshape({_ints(column)}).expand({_ints(shape)})")
    return ", ".join(texts)


# -- composites -------------------------------------------------------------------------------------------------


@_writes("attention")
def _attention(w: Writer, op: Op) -> str:
    query, key, value, mask = (*op.inputs, None)[:4]
    scale = op.attrs.get("scale")
    factor = 1.0 / math.sqrt(_shape(query)[-1]) if scale is None else float(scale)
    scores = w.temporary("scores")
    w.line(f"{scores} = torch.matmul({w.tensor(query)}, {w.tensor(key)}.transpose(-2, -1)) * {real(factor)}")
    if op.attrs.get("causal"):
        rows, columns = _shape(query)[-2], _shape(key)[-2]
        later = np.triu(np.ones((rows, columns), np.bool_), 1)
        buffer = w.constant(f"{op.outputs[0].name}_later", later)
        w.line(f'{scores} = {scores}.masked_fill({buffer}, float("-inf"))')
    if mask is not None and mask.dtype == "bool":
        w.line(f'{scores} = {scores}.masked_fill(~{w.tensor(mask)}, float("-inf"))')
    elif mask is not None:
        w.line(f"{scores} = {scores} + {w.tensor(mask)}")
    return f"torch.matmul(F.softmax({scores}, dim=-1), {w.tensor(value)})"


def _per_axis(w: Writer, op: Op, value: Value | None, dtype: str) -> str:
    """Scale or zero point so that it broadcasts along the op's axis."""
    if value is None:
        return "0"
    if not value.is_const:
        raise Inexpressible("its scale or zero point is computed at run time")
    data = value.numpy().astype(dtype)
    if data.size == 1:
        return number(data)
    shape = [1] * len(_shape(op.inputs[0]))
    shape[int(op.attrs["axis"])] = -1
    return w.constant(f"{value.name}_{dtype}_axis{op.attrs['axis']}", data.reshape(shape))


@_writes("quantize")
def _quantize(w: Writer, op: Op) -> str:
    dtype = str(op.attrs["dtype"])
    text = torch_dtype(dtype)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    scale, zero = (_per_axis(w, op, v, "float32") for v in (*op.inputs, None)[1:3])
    x = w.tensor(op.inputs[0])
    shifted = f"torch.round({x} / {scale})" + ("" if zero in ("0", "0.0") else f" + {_parens(zero)}")
    return f"torch.clamp({shifted}, {low}, {high}).to({text})"


@_writes("dequantize")
def _dequantize(w: Writer, op: Op) -> str:
    scale, zero = (_per_axis(w, op, v, "float32") for v in (*op.inputs, None)[1:3])
    x = w.tensor(op.inputs[0], "float32")
    return f"{x} * {scale}" if zero in ("0", "0.0") else f"({x} - {_parens(zero)}) * {scale}"
