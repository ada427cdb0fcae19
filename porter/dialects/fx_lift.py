# SPDX-License-Identifier: Apache-2.0
"""From ATen calls to the vocabulary: one lifter for each operator overload.

Here are the elementwise operators and the whole of a node; layers are in :mod:`porter.dialects.fx_lift_layers`, what
reduces, reshapes and indexes in :mod:`porter.dialects.fx_lift_index`, and how arguments are read in
:mod:`porter.dialects.fx_args`. The meaning of each operator is that of ``torch/_refs`` and
``aten/src/ATen/native/native_functions.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

# These two fill the table.
import porter.dialects.fx_lift_index
import porter.dialects.fx_lift_layers  # noqa: F401
from porter.dialects.fx_args import TABLE, Args, Lifted, Lifter, Unknown, bind, lifter, shape_of, words
from porter.ops import Op, Origin, Value

__all__ = ["BINARY", "COMPARE", "LOGICAL", "RANDOM", "SHAPE_ONLY", "UNARY", "UNARY_FLOAT", "lift"]

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


# ------------------------------------------------------------------------------------------- random numbers


def _random(a: Args) -> Lifted:
    a.read(*a._given)
    return "random", (), {"shape": shape_of(a.out[0]), "dtype": a.out[0].dtype}


TABLE.update(dict.fromkeys(RANDOM, _random))


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
