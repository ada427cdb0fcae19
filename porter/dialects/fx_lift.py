# SPDX-License-Identifier: Apache-2.0
"""From ATen calls to the vocabulary: one lifter for each operator overload.

A lifter reads the arguments of one call and says kind, operands and attributes. An argument that it does not read
must have its default: otherwise the call means something else, and keeps its own name as its kind.
The meaning of each operator is that of ``torch/_refs`` and ``aten/src/ATen/native/native_functions.yaml``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from porter.ops import Array, Op, Origin, Value

__all__ = [
    "BINARY",
    "COMPARE",
    "LOGICAL",
    "NO_EFFECT",
    "RANDOM",
    "SHAPE_ONLY",
    "TABLE",
    "UNARY",
    "UNARY_FLOAT",
    "bind",
    "dtype_name",
    "lift",
    "scalar_array",
    "to_numpy",
    "words",
]

Lifted = tuple[str, tuple[Value | None, ...], dict[str, Any]]
Lifter = Callable[["Args"], Lifted]


class Unknown(Exception):
    """This call has no meaning in the vocabulary; it keeps its own name."""


# ---------------------------------------------------------------------------------------------- numbers


def words(text: str) -> list[str]:
    """The names in a string of names."""
    return text.split()


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float32`` -> ``"float32"``: torch's names are numpy's."""
    return str(dtype).removeprefix("torch.")


def to_numpy(tensor: torch.Tensor) -> Array:
    """The tensor's data as numpy, without a copy where it lies in memory in row-major order."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def scalar_array(number: float, dtype: str) -> Array:
    """A number as an array of shape () and the given dtype."""
    if dtype == "bfloat16":
        import ml_dtypes

        return np.asarray(number, ml_dtypes.bfloat16)
    return np.asarray(number, dtype)


# ---------------------------------------------------------------------------------------------- arguments

#: Arguments that say where or how to compute, never what.
NO_EFFECT = frozenset(
    words(
        "memory_format layout device pin_memory non_blocking implicit cudnn_enabled cudnn_enable momentum benchmark "
        "deterministic allow_tf32 requires_grad sparse_grad padding_idx scale_grad_by_freq sparse half_to_float path "
        "stable copy unsafe"
    )
)


@functools.cache
def _schema(target: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((a.name, a.default_value if a.has_default_value() else None) for a in target._schema.arguments)


def bind(target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, with the defaults of the operator's schema filled in."""
    given = dict(zip((name for name, _ in _schema(target)), args, strict=False)) | kwargs
    return {name: given.get(name, default) for name, default in _schema(target)}


class Args:
    """The arguments of one call; remembers which of them the lifter has read."""

    __slots__ = ("_given", "_read", "_value", "node", "out")

    def __init__(self, node: fx.Node, value: Callable[[fx.Node], Value], out: tuple[Value, ...]) -> None:
        self.node = node
        self.out = out
        self._value = value
        self._given = bind(node.target, node.args, node.kwargs)
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def get(self, name: str, default: Any = None) -> Any:
        """A plain argument, or ``default`` where the overload has no such argument."""
        return self[name] if name in self._given else default

    def read(self, *names: str) -> None:
        """Say that these arguments change nothing beyond what the attributes say already."""
        self._read.update(names)

    def __getitem__(self, name: str) -> Any:
        """A plain argument: a number, a string, a list of numbers. Raises :class:`Unknown` where it is computed."""
        self._read.add(name)
        raw = self._given[name]
        for item in raw if isinstance(raw, (list, tuple)) else (raw,):
            if isinstance(item, (fx.Node, torch.SymInt, torch.SymFloat, torch.SymBool)):
                raise Unknown
        return raw

    def tensor(self, name: str) -> Value:
        """A tensor argument."""
        value = self.optional(name)
        if value is None:
            raise Unknown
        return value

    def optional(self, name: str) -> Value | None:
        """A tensor argument that may be absent."""
        self._read.add(name)
        raw = self._given[name]
        if raw is None:
            return None
        if not isinstance(raw, fx.Node):
            raise Unknown
        return self._value(raw)

    def tensors(self, name: str) -> tuple[Value, ...]:
        """An argument that is a list of tensors."""
        self._read.add(name)
        raw = self._given[name]
        if not all(isinstance(item, fx.Node) for item in raw):
            raise Unknown
        return tuple(self._value(item) for item in raw)

    def operand(self, name: str, dtype: str | None) -> Value:
        """A tensor, or a number as a constant of shape () and of ``dtype``."""
        if isinstance(self._given[name], fx.Node):
            return self.tensor(name)
        number = self[name]
        if not isinstance(number, (bool, int, float)) or dtype is None:
            raise Unknown
        if isinstance(number, float) and dtype.startswith(("int", "uint", "bool")):
            raise Unknown
        return Value.constant(f"{self.node.name}.{name}", scalar_array(number, dtype))

    def sizes(self, name: str, n: int, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """A list of ``n`` ints, given in full or as one number for all; ``default`` where it is empty."""
        raw = self[name]
        if raw is None or (isinstance(raw, (list, tuple)) and not raw):
            if default is None:
                raise Unknown
            raw = default
        raw = [raw] if isinstance(raw, int) else list(raw)
        return tuple(raw * n if len(raw) == 1 else raw)

    @property
    def ignored(self) -> bool:
        """Whether an argument that nobody has read says something."""
        defaults = dict(_schema(self.node.target))
        return any(
            name not in self._read and name not in NO_EFFECT and given != defaults[name]
            for name, given in self._given.items()
        )


def _shape(value: Value) -> tuple[int, ...]:
    if value.shape is None:
        raise Unknown
    return value.shape


def _axis(axis: int, rank: int) -> int:
    return axis % rank if rank else 0


def _axes(axes: int | Iterable[int] | None, rank: int) -> tuple[int, ...]:
    """Non-negative axes; all of them for None and for an empty list."""
    if isinstance(axes, int):
        axes = (axes,)
    return tuple(sorted(_axis(a, rank) for a in axes or ())) or tuple(range(rank))


def _pairs(padding: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple((p, p) for p in padding)


# ---------------------------------------------------------------------------------------------- tables

TABLE: dict[str, Lifter] = {}


def _full_name(target: str) -> str:
    return target if target.count(".") > 1 else f"aten.{target}"


def lifter(*targets: str) -> Callable[[Lifter], Lifter]:
    """Register a lifter for overloads: ``"add.Tensor"`` of aten, or ``"torchvision.nms.default"``."""

    def register(function: Lifter) -> Lifter:
        for target in targets:
            TABLE[_full_name(target)] = function
        return function

    return register


#: Unary operators whose result on integers is a float.
UNARY_FLOAT = {
    f"aten.{name}.default": kind
    for name, kind in {
        **{
            k: k
            for k in words(
                "sigmoid tanh exp expm1 log log1p log2 log10 sqrt rsqrt reciprocal sin cos tan asin acos atan "
                "sinh cosh asinh acosh atanh erf"
            )
        },
        "special_expit": "sigmoid",
        "special_erf": "erf",
        "special_expm1": "expm1",
        "special_log1p": "log1p",
    }.items()
}
UNARY = UNARY_FLOAT | {
    f"aten.{name}.default": kind
    for name, kind in {
        **{
            k: k
            for k in words(
                "relu relu6 silu hardswish mish selu abs neg sign floor ceil round trunc square isnan isinf "
                "logical_not bitwise_not"
            )
        },
        "log_sigmoid": "logsigmoid",
        "sgn": "sign",
        "fix": "trunc",
        **dict.fromkeys(
            words("clone alias detach lift_fresh_copy lift_fresh contiguous alias_copy detach_copy"), "identity"
        ),
    }.items()
}
BINARY = {
    "aten.add.Tensor": "add",
    "aten.add.Scalar": "add",
    "aten.sub.Tensor": "sub",
    "aten.sub.Scalar": "sub",
    "aten.mul.Tensor": "mul",
    "aten.mul.Scalar": "mul",
    "aten.div.Tensor": "div",
    "aten.div.Scalar": "div",
    "aten.true_divide.Tensor": "div",
    "aten.pow.Tensor_Tensor": "pow",
    "aten.pow.Tensor_Scalar": "pow",
    "aten.pow.Scalar": "pow",
    "aten.maximum.default": "maximum",
    "aten.minimum.default": "minimum",
    "aten.max.other": "maximum",
    "aten.min.other": "minimum",
    "aten.atan2.default": "atan2",
    "aten.remainder.Tensor": "remainder",
    "aten.remainder.Scalar": "remainder",
    "aten.remainder.Scalar_Tensor": "remainder",
    "aten.fmod.Tensor": "fmod",
    "aten.fmod.Scalar": "fmod",
    "aten.floor_divide.default": "floor_divide",
    "aten.floor_divide.Scalar": "floor_divide",
    **{f"aten.bitwise_{k}.{o}": f"bitwise_{k}" for k in ("and", "or", "xor") for o in ("Tensor", "Scalar")},
}
COMPARE = {f"aten.{k}.{o}": k for k in ("eq", "ne", "lt", "le", "gt", "ge") for o in ("Tensor", "Scalar")}
LOGICAL = {f"aten.logical_{k}.default": f"logical_{k}" for k in ("and", "or", "xor")}
#: Operators that read only the shape of their tensor arguments.
SHAPE_ONLY = frozenset(
    f"aten.{n}"
    for n in words(
        "zeros_like.default ones_like.default full_like.default new_zeros.default new_ones.default "
        "new_full.default fill.Scalar zero.default"
    )
)
RANDOM = frozenset(
    f"aten.{n}"
    for n in words(
        "rand.default randn.default randint.default randint.low rand_like.default randn_like.default "
        "randint_like.default randint_like.low_dtype bernoulli.default bernoulli.p normal.Tensor_float "
        "normal_functional.default "
        "randperm.default uniform.default native_dropout.default multinomial.default exponential.default"
    )
)


def _simple(kind: str) -> Lifter:
    return lambda a: (kind, (a.tensor("self" if "self" in a else "input"),), {})


def _binary(kind: str) -> Lifter:
    def lift_binary(a: Args) -> Lifted:
        first, second = ("self", "exponent") if kind == "pow" else ("self", "other")
        tensors = [a._given[n] for n in (first, second) if isinstance(a._given[n], fx.Node)]
        dtype = a._value(tensors[0]).dtype if tensors else None
        return kind, (a.operand(first, dtype), a.operand(second, dtype)), {}

    return lift_binary


TABLE.update({target: _simple(kind) for target, kind in UNARY.items()})
TABLE.update({target: _binary(kind) for target, kind in (BINARY | COMPARE | LOGICAL).items()})


@lifter("sub.Tensor", "sub.Scalar", "add.Tensor", "add.Scalar")
def _add(a: Args) -> Lifted:
    if a["alpha"] != 1:
        raise Unknown
    return _binary("sub" if "sub" in str(a.node.target) else "add")(a)


@lifter("rsub.Scalar", "rsub.Tensor")
def _rsub(a: Args) -> Lifted:
    x = a.tensor("self")
    if a["alpha"] != 1:
        raise Unknown
    return "sub", (a.operand("other", x.dtype), x), {}


@lifter("div.Tensor_mode", "div.Scalar_mode")
def _div_mode(a: Args) -> Lifted:
    x = a.tensor("self")
    mode = a["rounding_mode"]
    if mode == "trunc" and not str(x.dtype).startswith(("int", "uint")):
        raise Unknown
    kind = {None: "div", "floor": "floor_divide", "trunc": "trunc_divide"}[mode]
    return kind, (x, a.operand("other", x.dtype)), {}


@lifter("dropout.default", "feature_dropout.default", "alpha_dropout.default", "feature_alpha_dropout.default")
def _dropout(a: Args) -> Lifted:
    if a["train"] and a["p"]:
        raise Unknown
    a.read("p", "train")
    return "identity", (a.tensor("input"),), {}


@lifter("_to_copy.default", "to.dtype", "to.dtype_layout", "to.device", "to.other")
def _cast(a: Args) -> Lifted:
    x = a.tensor("self")
    a.read("dtype", "other")
    if x.dtype == a.out[0].dtype:
        return "identity", (x,), {}
    return "cast", (x,), {"dtype": a.out[0].dtype}


@lifter("leaky_relu.default")
def _leaky_relu(a: Args) -> Lifted:
    return "leaky_relu", (a.tensor("self"),), {"negative_slope": float(a["negative_slope"])}


@lifter("rrelu.default")
def _rrelu(a: Args) -> Lifted:
    return "leaky_relu", (a.tensor("self"),), {"negative_slope": (float(a["lower"]) + float(a["upper"])) / 2}


@lifter("prelu.default")
def _prelu(a: Args) -> Lifted:
    return "prelu", (a.tensor("self"), a.tensor("weight")), {}


@lifter("elu.default")
def _elu(a: Args) -> Lifted:
    return "elu", (a.tensor("self"),), {"alpha": float(a["alpha"])}


@lifter("celu.default")
def _celu(a: Args) -> Lifted:
    return "celu", (a.tensor("self"),), {"alpha": float(a["alpha"])}


@lifter("hardsigmoid.default")
def _hardsigmoid(a: Args) -> Lifted:
    return "hardsigmoid", (a.tensor("self"),), {"alpha": 1 / 6, "beta": 0.5}


@lifter("gelu.default")
def _gelu(a: Args) -> Lifted:
    return "gelu", (a.tensor("self"),), {"approximate": a["approximate"]}


@lifter("softplus.default")
def _softplus(a: Args) -> Lifted:
    return "softplus", (a.tensor("self"),), {"beta": float(a["beta"]), "threshold": float(a["threshold"])}


@lifter("threshold.default")
def _threshold(a: Args) -> Lifted:
    return "threshold", (a.tensor("self"),), {"threshold": float(a["threshold"]), "value": float(a["value"])}


@lifter("clamp.default", "clamp_min.default", "clamp_max.default", "clip.default", "hardtanh.default")
def _clamp(a: Args) -> Lifted:
    x = a.tensor("self")
    low, high = ("min_val", "max_val") if "min_val" in a else ("min", "max")
    limits = [a.get(n) for n in (low, high)]
    if str(x.dtype).startswith(("int", "uint")):
        return "clamp", (x,), {"min": limits[0], "max": limits[1]}
    as_float = [None if v is None else float(v) for v in limits]
    return "clamp", (x,), {"min": as_float[0], "max": as_float[1]}


@lifter("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where(a: Args) -> Lifted:
    dtype = a.out[0].dtype
    return "where", (a.tensor("condition"), a.operand("self", dtype), a.operand("other", dtype)), {}


@lifter("masked_fill.Scalar")
def _masked_fill(a: Args) -> Lifted:
    return "masked_fill", (a.tensor("self"), a.tensor("mask")), {"value": a["value"]}


# ------------------------------------------------------------------------------------------- linear algebra


@lifter("linear.default")
def _linear(a: Args) -> Lifted:
    return "linear", (a.tensor("input"), a.tensor("weight"), a.optional("bias")), {}


@lifter("addmm.default")
def _addmm(a: Args) -> Lifted:
    attrs = {"alpha": float(a["alpha"]), "beta": float(a["beta"]), "trans_a": False, "trans_b": False}
    return "gemm", (a.tensor("mat1"), a.tensor("mat2"), a.tensor("self")), attrs


@lifter("mm.default", "bmm.default", "matmul.default", "dot.default", "mv.default")
def _matmul(a: Args) -> Lifted:
    second = next(n for n in ("mat2", "other", "tensor", "vec") if n in a)
    return "matmul", (a.tensor("self"), a.tensor(second)), {}


@lifter("einsum.default")
def _einsum(a: Args) -> Lifted:
    return "einsum", a.tensors("tensors"), {"equation": a["equation"].replace(" ", "")}


# ------------------------------------------------------------------------------------------- windows


def _conv(kind: str, a: Args, x: Value, w: Value, padding: Sequence[Any], extra: dict[str, Any]) -> Lifted:
    n = len(_shape(w)) - 2
    if len(_shape(x)) != n + 2:
        raise Unknown
    attrs = {
        "stride": a.sizes("stride", n),
        "padding": tuple(padding),
        "dilation": a.sizes("dilation", n),
        "groups": a["groups"],
        **extra,
    }
    return f"{kind}{n}d", (x, w, a.optional("bias")), attrs


@lifter(*(f"conv{n}d.{o}" for n in (1, 2, 3) for o in ("default", "padding")))
def _conv_nd(a: Args) -> Lifted:
    x, w = a.tensor("input"), a.tensor("weight")
    n = len(_shape(w)) - 2
    if a["padding"] == "same":
        totals = [d * (k - 1) for d, k in zip(a.sizes("dilation", n), _shape(w)[2:], strict=True)]
        padding: tuple[tuple[int, int], ...] = tuple((t // 2, t - t // 2) for t in totals)
    else:
        padding = ((0, 0),) * n if a["padding"] == "valid" else _pairs(a.sizes("padding", n))
    return _conv("conv", a, x, w, padding, {})


@lifter("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input")
def _conv_transpose(a: Args) -> Lifted:
    x, w = a.tensor("input"), a.tensor("weight")
    n = len(_shape(w)) - 2
    extra = {"output_padding": a.sizes("output_padding", n)}
    return _conv("conv_transpose", a, x, w, _pairs(a.sizes("padding", n)), extra)


@lifter("convolution.default", "_convolution.default")
def _convolution(a: Args) -> Lifted:
    x, w = a.tensor("input"), a.tensor("weight")
    n = len(_shape(w)) - 2
    extra = {"output_padding": a.sizes("output_padding", n)} if a["transposed"] else {}
    a.read("output_padding")
    return _conv("conv_transpose" if a["transposed"] else "conv", a, x, w, _pairs(a.sizes("padding", n)), extra)


def _batched(x: Value, n: int) -> None:
    if len(_shape(x)) != n + 2:
        raise Unknown


@lifter(*(f"max_pool{n}d.default" for n in (1, 2, 3)), "max_pool2d_with_indices.default")
def _max_pool(a: Args) -> Lifted:
    x, name = a.tensor("self"), str(a.node.target)
    n = int(name[len("aten.max_pool")])
    _batched(x, n)
    kernel = a.sizes("kernel_size", n)
    attrs = {
        "kernel": kernel,
        "stride": a.sizes("stride", n, kernel),
        "padding": _pairs(a.sizes("padding", n)),
        "dilation": a.sizes("dilation", n),
        "ceil_mode": bool(a["ceil_mode"]),
    }
    return f"max_pool{n}d" + ("_with_indices" if "indices" in name else ""), (x,), attrs


@lifter(*(f"avg_pool{n}d.default" for n in (1, 2, 3)))
def _avg_pool(a: Args) -> Lifted:
    x = a.tensor("self")
    n = int(str(a.node.target)[len("aten.avg_pool")])
    _batched(x, n)
    kernel = a.sizes("kernel_size", n)
    attrs = {
        "kernel": kernel,
        "stride": a.sizes("stride", n, kernel),
        "padding": _pairs(a.sizes("padding", n)),
        "ceil_mode": bool(a["ceil_mode"]),
        "count_include_pad": bool(a["count_include_pad"]),
        "divisor_override": a.get("divisor_override"),
    }
    return f"avg_pool{n}d", (x,), attrs


@lifter(
    "adaptive_avg_pool1d.default",
    "adaptive_avg_pool2d.default",
    "_adaptive_avg_pool2d.default",
    "adaptive_avg_pool3d.default",
    "_adaptive_avg_pool3d.default",
    "adaptive_max_pool2d.default",
)
def _adaptive_pool(a: Args) -> Lifted:
    x = a.tensor("self")
    kind = str(a.node.target).removeprefix("aten.").removesuffix(".default").lstrip("_")
    n = int(kind[-2])
    _batched(x, n)
    if "max" in kind and any(user.args[1] != 0 for user in a.node.users):
        raise Unknown
    return kind, (x,), {"output_size": a.sizes("output_size", n)}


@lifter("max_unpool2d.default")
def _max_unpool(a: Args) -> Lifted:
    return "max_unpool2d", (a.tensor("self"), a.tensor("indices")), {"output_size": tuple(a["output_size"])}


@lifter("im2col.default")
def _unfold(a: Args) -> Lifted:
    attrs = {
        n: a.sizes(s, 2)
        for n, s in (("kernel", "kernel_size"), ("stride", "stride"), ("padding", "padding"), ("dilation", "dilation"))
    }
    return "unfold", (a.tensor("self"),), attrs


@lifter("col2im.default")
def _fold(a: Args) -> Lifted:
    attrs = {
        n: a.sizes(s, 2)
        for n, s in (
            ("output_size", "output_size"),
            ("kernel", "kernel_size"),
            ("stride", "stride"),
            ("padding", "padding"),
            ("dilation", "dilation"),
        )
    }
    return "fold", (a.tensor("self"),), attrs


# ------------------------------------------------------------------------------------------- normalization


@lifter("batch_norm.default")
def _batch_norm(a: Args) -> Lifted:
    if a["training"]:
        raise Unknown
    operands = (
        a.tensor("input"),
        a.optional("weight"),
        a.optional("bias"),
        a.tensor("running_mean"),
        a.tensor("running_var"),
    )
    return "batch_norm", operands, {"eps": float(a["eps"])}


@lifter("instance_norm.default")
def _instance_norm(a: Args) -> Lifted:
    x, weight, bias = a.tensor("input"), a.optional("weight"), a.optional("bias")
    mean, var = a.optional("running_mean"), a.optional("running_var")
    if not a["use_input_stats"]:
        return "batch_norm", (x, weight, bias, mean, var), {"eps": float(a["eps"])}
    if mean is not None:
        raise Unknown
    return "instance_norm", (x, weight, bias), {"eps": float(a["eps"])}


def _trailing(a: Args, x: Value) -> tuple[int, ...]:
    rank = len(_shape(x))
    return tuple(range(rank - len(a["normalized_shape"]), rank))


@lifter("layer_norm.default")
def _layer_norm(a: Args) -> Lifted:
    x = a.tensor("input")
    return (
        "layer_norm",
        (x, a.optional("weight"), a.optional("bias")),
        {"axes": _trailing(a, x), "eps": float(a["eps"])},
    )


@lifter("rms_norm.default")
def _rms_norm(a: Args) -> Lifted:
    x = a.tensor("input")
    eps = a["eps"]
    if eps is None:
        eps = torch.finfo(getattr(torch, str(x.dtype))).eps
    return "rms_norm", (x, a.optional("weight")), {"axes": _trailing(a, x), "eps": float(eps)}


@lifter("group_norm.default")
def _group_norm(a: Args) -> Lifted:
    operands = (a.tensor("input"), a.optional("weight"), a.optional("bias"))
    return "group_norm", operands, {"groups": a["num_groups"], "eps": float(a["eps"])}


@lifter("softmax.int", "_softmax.default", "log_softmax.int", "_log_softmax.default")
def _softmax(a: Args) -> Lifted:
    x = a.tensor("self")
    return "log_softmax" if "log" in str(a.node.target) else "softmax", (x,), {"axis": _axis(a["dim"], len(_shape(x)))}


# ------------------------------------------------------------------------------------------- reductions

_REDUCE = {
    "sum": ("default", "dim_IntList"),
    "mean": ("default", "dim"),
    "prod": ("default", "dim_int"),
    "amax": ("default",),
    "amin": ("default",),
    "logsumexp": ("default",),
    "all": ("default", "dim", "dims"),
    "any": ("default", "dim", "dims"),
}


def _reduction(kind: str) -> Lifter:
    def lift_reduction(a: Args) -> Lifted:
        x = a.tensor("self")
        dims = a.get("dim")
        return kind, (x,), {"axes": _axes(dims, len(_shape(x))), "keepdim": bool(a.get("keepdim"))}

    return lift_reduction


for _kind, _overloads in _REDUCE.items():
    TABLE.update({f"aten.{_kind}.{o}": _reduction(_kind) for o in _overloads})
TABLE["aten.max.default"] = _reduction("amax")
TABLE["aten.min.default"] = _reduction("amin")


@lifter(*(f"{k}.{o}" for k in ("var", "std") for o in ("default", "dim", "correction")))
def _var(a: Args) -> Lifted:
    x = a.tensor("self")
    if "correction" in a:
        correction = 1 if a["correction"] is None else a["correction"]
    else:
        correction = int(a["unbiased"])
    if correction != int(correction):
        raise Unknown
    attrs = {
        "axes": _axes(a.get("dim"), len(_shape(x))),
        "keepdim": bool(a.get("keepdim")),
        "correction": int(correction),
    }
    return str(a.node.target).split(".")[1], (x,), attrs


@lifter("linalg_vector_norm.default", "norm.Scalar", "norm.ScalarOpt_dim")
def _norm(a: Args) -> Lifted:
    x = a.tensor("self")
    p = a["ord" if "ord" in a else "p"]
    attrs = {
        "p": 2.0 if p is None else float(p),
        "axes": _axes(a.get("dim"), len(_shape(x))),
        "keepdim": bool(a.get("keepdim")),
    }
    return "norm", (x,), attrs


@lifter("argmax.default", "argmin.default")
def _arg(a: Args) -> Lifted:
    x = a.tensor("self")
    axis = None if a["dim"] is None else _axis(a["dim"], len(_shape(x)))
    return str(a.node.target).split(".")[1], (x,), {"axis": axis, "keepdim": bool(a["keepdim"])}


@lifter("max.dim", "min.dim")
def _extreme(a: Args) -> Lifted:
    x = a.tensor("self")
    kind = f"{str(a.node.target).split('.')[1]}_dim"
    return kind, (x,), {"axis": _axis(a["dim"], len(_shape(x))), "keepdim": bool(a["keepdim"])}


@lifter("topk.default")
def _topk(a: Args) -> Lifted:
    x = a.tensor("self")
    attrs = {
        "k": a["k"],
        "axis": _axis(a["dim"], len(_shape(x))),
        "largest": bool(a["largest"]),
        "sorted": bool(a["sorted"]),
    }
    return "topk", (x,), attrs


@lifter("sort.default", "sort.stable")
def _sort(a: Args) -> Lifted:
    x = a.tensor("self")
    return "sort", (x,), {"axis": _axis(a["dim"], len(_shape(x))), "descending": bool(a["descending"])}


@lifter("cumsum.default")
def _cumsum(a: Args) -> Lifted:
    x = a.tensor("self")
    return "cumsum", (x,), {"axis": _axis(a["dim"], len(_shape(x)))}


# ------------------------------------------------------------------------------------------- shapes


@lifter(
    "view.default",
    "_unsafe_view.default",
    "reshape.default",
    "view_copy.default",
    "flatten.using_ints",
    "unflatten.int",
    "_reshape_alias.default",
    "_reshape_copy.default",
)
def _reshape(a: Args) -> Lifted:
    x = a.tensor("self")
    a.read("size", "sizes", "shape", "stride", "start_dim", "end_dim", "dim")
    return "reshape", (x,), {"shape": _shape(a.out[0])}


@lifter("squeeze.default", "squeeze.dim", "squeeze.dims")
def _squeeze(a: Args) -> Lifted:
    x = a.tensor("self")
    shape = _shape(x)
    axes = _axes(a["dim"], len(shape)) if "dim" in a and a["dim"] != [] else tuple(range(len(shape)))
    return "squeeze", (x,), {"axes": tuple(i for i in axes if shape and shape[i] == 1)}


@lifter("unsqueeze.default")
def _unsqueeze(a: Args) -> Lifted:
    x = a.tensor("self")
    return "unsqueeze", (x,), {"axes": (_axis(a["dim"], len(_shape(x)) + 1),)}


@lifter("permute.default", "permute_copy.default")
def _permute(a: Args) -> Lifted:
    x = a.tensor("self")
    return "permute", (x,), {"dims": tuple(_axis(d, len(_shape(x))) for d in a["dims"])}


@lifter("transpose.int", "t.default", "numpy_T.default", "mT.default", "swapaxes.default")
def _transpose(a: Args) -> Lifted:
    x = a.tensor("self")
    dims = list(range(len(_shape(x))))
    name = str(a.node.target)
    if "numpy_T" in name or (name == "aten.t.default" and len(dims) == 2):
        dims.reverse()
    elif name != "aten.t.default":
        names = ("dim0", "dim1") if "dim0" in a else ("axis0", "axis1")
        i, j = (-2, -1) if "mT" in name else (_axis(a[n], len(dims)) for n in names)
        if dims:
            dims[i], dims[j] = dims[j], dims[i]
    return "permute", (x,), {"dims": tuple(dims)}


@lifter("movedim.int", "movedim.intlist")
def _movedim(a: Args) -> Lifted:
    x = a.tensor("self")
    rank = len(_shape(x))
    source, target = (
        [_axis(d, rank) for d in ([v] if isinstance(v, int) else v)] for v in (a["source"], a["destination"])
    )
    dims = [d for d in range(rank) if d not in source]
    for to, of in sorted(zip(target, source, strict=True)):
        dims.insert(to, of)
    return "permute", (x,), {"dims": tuple(dims)}


@lifter("expand.default", "expand_as.default", "broadcast_to.default", "expand_copy.default")
def _expand(a: Args) -> Lifted:
    a.read("size", "other")
    return "expand", (a.tensor("self"),), {"shape": _shape(a.out[0])}


@lifter("repeat.default", "tile.default")
def _repeat(a: Args) -> Lifted:
    x = a.tensor("self")
    repeats = tuple(a["repeats" if "repeats" in a else "dims"])
    return "repeat", (x,), {"repeats": (1,) * (len(_shape(x)) - len(repeats)) + repeats}


def _box(a: Args, extent: int, axis: int) -> dict[str, Any]:
    start, end = (a[n] for n in ("start", "end"))
    start = 0 if start is None else start + extent if start < 0 else start
    end = extent if end is None else end + extent if end < 0 else end
    start = min(max(start, 0), extent)
    return {"axes": (axis,), "starts": (start,), "ends": (min(max(end, start), extent),), "steps": (a["step"],)}


@lifter("slice.Tensor", "slice_copy.Tensor")
def _slice(a: Args) -> Lifted:
    x = a.tensor("self")
    axis = _axis(a["dim"], len(_shape(x)))
    return "slice", (x,), _box(a, _shape(x)[axis], axis)


@lifter("slice_scatter.default")
def _slice_assign(a: Args) -> Lifted:
    x = a.tensor("self")
    axis = _axis(a["dim"], len(_shape(x)))
    return "slice_assign", (x, a.tensor("src")), _box(a, _shape(x)[axis], axis)


@lifter("select.int", "select_copy.int")
def _select(a: Args) -> Lifted:
    x = a.tensor("self")
    axis = _axis(a["dim"], len(_shape(x)))
    return "select", (x,), {"axis": axis, "index": a["index"] % _shape(x)[axis]}


@lifter("select_scatter.default")
def _select_assign(a: Args) -> Lifted:
    x = a.tensor("self")
    axis = _axis(a["dim"], len(_shape(x)))
    return "select_assign", (x, a.tensor("src")), {"axis": axis, "index": a["index"] % _shape(x)[axis]}


@lifter("cat.default", "concat.default")
def _cat(a: Args) -> Lifted:
    return "cat", a.tensors("tensors"), {"axis": _axis(a["dim"], len(_shape(a.out[0])))}


@lifter("stack.default")
def _stack(a: Args) -> Lifted:
    return "stack", a.tensors("tensors"), {"axis": _axis(a["dim"], len(_shape(a.out[0])))}


@lifter(
    "split.Tensor",
    "split.sizes",
    "split_with_sizes.default",
    "unsafe_split.Tensor",
    "unsafe_split_with_sizes.default",
    "split_with_sizes_copy.default",
    "split_copy.Tensor",
    "tensor_split.sections",
)
def _split(a: Args) -> Lifted:
    x = a.tensor("self")
    axis = _axis(a["dim"], len(_shape(x)))
    a.read("split_size", "split_sizes", "sections")
    return "split", (x,), {"sizes": tuple(_shape(v)[axis] for v in a.out), "axis": axis}


@lifter("chunk.default", "unsafe_chunk.default")
def _chunk(a: Args) -> Lifted:
    x = a.tensor("self")
    return "chunk", (x,), {"chunks": a["chunks"], "axis": _axis(a["dim"], len(_shape(x)))}


@lifter("unbind.int", "unbind_copy.int")
def _unbind(a: Args) -> Lifted:
    x = a.tensor("self")
    return "unbind", (x,), {"axis": _axis(a["dim"], len(_shape(x)))}


@lifter(
    "pad.default",
    "constant_pad_nd.default",
    *(f"{m}_pad{n}d.default" for m in ("reflection", "replication") for n in (1, 2, 3)),
)
def _pad(a: Args) -> Lifted:
    x = a.tensor("self")
    name = str(a.node.target)
    rank = len(_shape(x))
    flat = a["pad" if "pad" in a else "padding"]
    pairs = [(0, 0)] * rank
    for i in range(len(flat) // 2):
        pairs[rank - 1 - i] = (flat[2 * i], flat[2 * i + 1])
    mode = "reflect" if "reflection" in name else "replicate" if "replication" in name else "constant"
    if "mode" in a:
        mode = a["mode"]
    value = a.get("value")
    return "pad", (x,), {"padding": tuple(pairs), "mode": mode, "value": float(value or 0.0)}


@lifter("flip.default")
def _flip(a: Args) -> Lifted:
    x = a.tensor("self")
    return "flip", (x,), {"axes": tuple(sorted(_axis(d, len(_shape(x))) for d in a["dims"]))}


@lifter("roll.default")
def _roll(a: Args) -> Lifted:
    x = a.tensor("self")
    if not a["dims"]:
        raise Unknown
    return "roll", (x,), {"shifts": tuple(a["shifts"]), "axes": tuple(_axis(d, len(_shape(x))) for d in a["dims"])}


@lifter("tril.default", "triu.default")
def _triangle(a: Args) -> Lifted:
    return str(a.node.target).split(".")[1], (a.tensor("self"),), {"diagonal": a["diagonal"]}


# ------------------------------------------------------------------------------------------- indexing


@lifter("gather.default")
def _gather(a: Args) -> Lifted:
    x = a.tensor("self")
    return "gather", (x, a.tensor("index")), {"axis": _axis(a["dim"], len(_shape(x)))}


@lifter("index_select.default")
def _index_select(a: Args) -> Lifted:
    x = a.tensor("self")
    return "index_select", (x, a.tensor("index")), {"axis": _axis(a["dim"], len(_shape(x)))}


@lifter("embedding.default")
def _embedding(a: Args) -> Lifted:
    return "embedding", (a.tensor("weight"), a.tensor("indices")), {}


def _indices(a: Args) -> tuple[tuple[int, ...], tuple[Value, ...]]:
    a.read("indices")
    raw = a._given["indices"]
    pairs = [(i, a._value(n)) for i, n in enumerate(raw) if n is not None]
    if not pairs or any(v.dtype in ("bool", "uint8", None) for _, v in pairs):
        raise Unknown
    return tuple(i for i, _ in pairs), tuple(v for _, v in pairs)


@lifter("index.Tensor")
def _index(a: Args) -> Lifted:
    x = a.tensor("self")
    axes, indices = _indices(a)
    if len(axes) == 1:
        return "take", (x, *indices), {"axis": axes[0]}
    return "index", (x, *indices), {"axes": axes}


@lifter("index_put.default")
def _index_put(a: Args) -> Lifted:
    axes, indices = _indices(a)
    return (
        "index_put",
        (a.tensor("self"), a.tensor("values"), *indices),
        {"axes": axes, "accumulate": bool(a["accumulate"])},
    )


@lifter("scatter.src", "scatter.reduce", "scatter_add.default", "scatter_reduce.two")
def _scatter(a: Args) -> Lifted:
    x = a.tensor("self")
    name = str(a.node.target)
    reduction = "add" if "scatter_add" in name else "none"
    if "reduce" in a:
        known = {"add": "add", "multiply": "mul", "sum": "add", "prod": "mul", "amax": "max", "amin": "min"}
        if a["reduce"] not in known:
            raise Unknown
        reduction = known[a["reduce"]]
    operands = (x, a.tensor("index"), a.tensor("src"))
    return "scatter", operands, {"axis": _axis(a["dim"], len(_shape(x))), "reduction": reduction}


@lifter("masked_select.default")
def _masked_select(a: Args) -> Lifted:
    return "masked_select", (a.tensor("self"), a.tensor("mask")), {}


@lifter("nonzero.default")
def _nonzero(a: Args) -> Lifted:
    return "nonzero", (a.tensor("self"),), {}


@lifter("one_hot.default")
def _one_hot(a: Args) -> Lifted:
    a.read("num_classes")
    return "one_hot", (a.tensor("self"),), {"depth": _shape(a.out[0])[-1]}


# ------------------------------------------------------------------------------------------- images

_UPSAMPLE = {
    **{f"upsample_nearest{n}d": ("nearest", n) for n in (1, 2, 3)},
    **{f"_upsample_nearest_exact{n}d": ("nearest_exact", n) for n in (1, 2, 3)},
    "upsample_linear1d": ("linear", 1),
    "upsample_bilinear2d": ("linear", 2),
    "upsample_trilinear3d": ("linear", 3),
    "upsample_bicubic2d": ("cubic", 2),
    "_upsample_bilinear2d_aa": ("linear", 2),
    "_upsample_bicubic2d_aa": ("cubic", 2),
}


@lifter(*(f"{name}.{o}" for name in _UPSAMPLE for o in ("default", "vec")))
def _resize(a: Args) -> Lifted:
    """Source: torch/nn/functional.py (interpolate) and aten/src/ATen/native/UpSample.h (the coordinates)."""
    x = a.tensor("self" if "self" in a else "input")
    name = str(a.node.target).split(".")[1]
    mode, n = _UPSAMPLE[name]
    a.read("output_size")
    if "scale_factors" in a:
        scales: Any = a["scale_factors"]
    else:
        given = [a.get(s) for s in (("scales",) if n == 1 else ("scales_d", "scales_h", "scales_w")[-n:])]
        scales = None if None in given else given
    aligned = bool(a.get("align_corners"))
    attrs = {
        "mode": "nearest" if mode == "nearest_exact" else mode,
        "coordinates": "asymmetric" if mode == "nearest" else "align_corners" if aligned else "half_pixel",
        "sizes": _shape(a.out[0])[2:],
        "scales": None if scales is None or aligned else tuple(float(s) for s in scales),
        "nearest_mode": "round_prefer_ceil" if mode == "nearest_exact" else "floor",
        "cubic_coeff": -0.5 if name.endswith("cubic2d_aa") else -0.75,
        "antialias": name.endswith("_aa"),
    }
    return "resize", (x,), attrs


@lifter("pixel_shuffle.default", "pixel_unshuffle.default")
def _pixel_shuffle(a: Args) -> Lifted:
    name = str(a.node.target).split(".")[1]
    factor = a["upscale_factor" if name == "pixel_shuffle" else "downscale_factor"]
    return name, (a.tensor("self"),), {"factor": factor, "mode": "CRD"}


@lifter("channel_shuffle.default", "native_channel_shuffle.default")
def _channel_shuffle(a: Args) -> Lifted:
    return "channel_shuffle", (a.tensor("self"),), {"groups": a["groups"]}


GRID_MODES = ("bilinear", "nearest", "bicubic")
GRID_PADDING = ("zeros", "border", "reflection")


@lifter("grid_sampler.default", "grid_sampler_2d.default", "grid_sampler_3d.default")
def _grid_sample(a: Args) -> Lifted:
    attrs = {
        "mode": GRID_MODES[a["interpolation_mode"]],
        "padding_mode": GRID_PADDING[a["padding_mode"]],
        "align_corners": bool(a["align_corners"]),
    }
    return "grid_sample", (a.tensor("input"), a.tensor("grid")), attrs


@lifter("affine_grid_generator.default")
def _affine_grid(a: Args) -> Lifted:
    return "affine_grid", (a.tensor("theta"),), {"size": tuple(a["size"]), "align_corners": bool(a["align_corners"])}


@lifter("torchvision.nms.default")
def _nms(a: Args) -> Lifted:
    return "nms", (a.tensor("dets"), a.tensor("scores")), {"iou_threshold": float(a["iou_threshold"])}


# ------------------------------------------------------------------------------------------- creation


@lifter("arange.default", "arange.start", "arange.start_step")
def _arange(a: Args) -> Lifted:
    a.read("dtype")
    attrs = {"start": a.get("start", 0), "end": a["end"], "step": a.get("step", 1), "dtype": a.out[0].dtype}
    return "arange", (), attrs


@lifter("linspace.default")
def _linspace(a: Args) -> Lifted:
    a.read("dtype")
    return (
        "linspace",
        (),
        {"start": float(a["start"]), "end": float(a["end"]), "steps": a["steps"], "dtype": a.out[0].dtype},
    )


@lifter(
    "full.default",
    "zeros.default",
    "ones.default",
    "new_zeros.default",
    "new_ones.default",
    "new_full.default",
    "scalar_tensor.default",
)
def _full(a: Args) -> Lifted:
    a.read("dtype", "self", "size")
    name = str(a.node.target)
    value = a["fill_value"] if "fill_value" in a else a["s"] if "s" in a else int("ones" in name)
    return "full", (), {"shape": _shape(a.out[0]), "value": value, "dtype": a.out[0].dtype}


@lifter("zeros_like.default", "ones_like.default", "full_like.default", "fill.Scalar", "zero.default")
def _fill(a: Args) -> Lifted:
    a.read("dtype")
    value = a["fill_value"] if "fill_value" in a else a["value"] if "value" in a else int("ones" in str(a.node.target))
    return "fill", (a.tensor("self"),), {"value": value, "dtype": a.out[0].dtype}


@lifter("eye.default", "eye.m")
def _eye(a: Args) -> Lifted:
    a.read("dtype")
    return "eye", (), {"rows": a["n"], "cols": a.get("m", a["n"]), "diagonal": 0, "dtype": a.out[0].dtype}


@lifter("meshgrid.indexing", "meshgrid.default")
def _meshgrid(a: Args) -> Lifted:
    return "meshgrid", a.tensors("tensors"), {"indexing": a.get("indexing", "ij")}


def _random(a: Args) -> Lifted:
    a.read(*a._given)
    return "random", (), {"shape": _shape(a.out[0]), "dtype": a.out[0].dtype}


TABLE.update(dict.fromkeys(RANDOM, _random))


# ------------------------------------------------------------------------------------------- layers of a kind


@lifter("scaled_dot_product_attention.default")
def _attention(a: Args) -> Lifted:
    operands = (a.tensor("query"), a.tensor("key"), a.tensor("value"), a.optional("attn_mask"))
    scale = a["scale"]
    return "attention", operands, {"scale": None if scale is None else float(scale), "causal": bool(a["is_causal"])}


@lifter("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")
def _recurrent(a: Args) -> Lifted:
    """Operands: x, the weights in torch's order (w_ih, w_hh, b_ih, b_hh by layer and direction), the initial state."""
    if a["train"] and a["dropout"]:
        raise Unknown
    a.read("dropout", "train")
    kind, _, activation = str(a.node.target).split(".")[1].partition("_")
    weights = a.tensors("params")
    states = a.tensors("hx") if kind == "lstm" else (a.tensor("hx"),)
    attrs = {
        "hidden": _shape(weights[1])[-1],
        "direction": "bidirectional" if a["bidirectional"] else "forward",
        "layers": a["num_layers"],
        "layout": "batch_first" if a["batch_first"] else "time_first",
        "biases": bool(a["has_biases"]),
    }
    if activation:
        attrs["activation"] = activation
    return kind, (a.tensor("input"), *weights, *states), attrs


# ------------------------------------------------------------------------------------------- the whole node

_CONTROL = {"cond": "if", "while_loop": "loop", "scan": "scan"}


def _own_name(target: Any) -> str:
    if isinstance(target, torch._ops.HigherOrderOperator):
        name = str(target)
        return _CONTROL.get(name, f"higher_order.{name}")
    return str(target) if isinstance(target, torch._ops.OpOverload) else f"python:{getattr(target, '__name__', target)}"


def lift(node: fx.Node, value: Callable[[fx.Node], Value], outputs: tuple[Value, ...], origin: Origin) -> Op:
    """The op of one call. ``value`` gives the Value of a node; ``outputs`` are the Values of the results."""
    lifter_ = TABLE.get(str(node.target)) if isinstance(node.target, torch._ops.OpOverload) else None
    if lifter_ is not None:
        args = Args(node, value, outputs)
        try:
            kind, inputs, attrs = lifter_(args)
            if not args.ignored:
                n = 1 if kind == "adaptive_max_pool2d" else len(outputs)
                return Op(kind, inputs, outputs[:n], attrs, node.name, origin, node)
        except Unknown:
            pass
    inputs = tuple(value(n) for n in node.all_input_nodes if "val" in n.meta or n.op != "get_attr")
    plain = {}
    if isinstance(node.target, torch._ops.OpOverload):
        given = bind(node.target, node.args, node.kwargs)
        plain = {k: v for k, v in given.items() if isinstance(v, (bool, int, float, str))}
    return Op(_own_name(node.target), inputs, outputs, plain, node.name, origin, node)
