# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: B008, E501, SIM905 (a table: one row a case)
"""One small graph for every kind that can be written as PyTorch, with the values that current torch gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from emit_handmade import HandGraph

from porter.ops import Array

# fmt: off
RNG = np.random.default_rng(7)


def rand(*shape: int, low: float = -2.0, high: float = 2.0) -> Array:
    return RNG.uniform(low, high, shape).astype(np.float32)


@dataclass
class Case:
    name: str
    graph: HandGraph
    inputs: list[Array]
    expected: list[Array]


CASES: list[Case] = []
X = rand(1, 4, 6, 6)
Y = rand(1, 4, 6, 6)
POSITIVE = rand(1, 4, 6, 6, low=0.1, high=0.9)
FLAT = rand(3, 5)
INTS = RNG.integers(-7, 8, (3, 5)).astype(np.int64)
NONZERO = np.where(INTS == 0, 3, INTS[::-1])
NONZERO = np.where(NONZERO == 0, 2, NONZERO)
MASK = RNG.random((1, 4, 6, 6)) > 0.5


def case(
    kind: str,
    reference: Callable[..., Any],
    *operands: Any,
    name: str = "",
    tensors: tuple[int, ...] = (0,),
    **attrs: Any,
) -> None:
    """A graph of one op. ``tensors`` says which operands are the model's inputs; the others are constants."""
    feeds = {f"x{i}": np.asarray(operands[i]) for i in tensors}
    graph = HandGraph(**feeds)
    by_index = dict(zip(tensors, graph.inputs, strict=True))
    graph.add(kind, *(by_index.get(i, operand) for i, operand in enumerate(operands)), **attrs)
    arrays = [
        o if o is None else torch.from_numpy(np.asarray(o, np.float32 if isinstance(o, float) else None))
        for o in operands
    ]
    with torch.no_grad():
        got = reference(*arrays)
    outs = list(got) if isinstance(got, list | tuple) else [got]
    CASES.append(Case(name or kind, graph, list(feeds.values()), [o.numpy() for o in outs]))


def copied(x: torch.Tensor, write: Callable[[torch.Tensor], None]) -> torch.Tensor:
    y = x.clone()
    write(y)
    return y


def assign(index: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    return lambda x, src: copied(x, lambda y: y.__setitem__(index, src))


for _kind in (
    "relu relu6 sigmoid tanh silu hardswish mish selu softsign logsigmoid exp expm1 abs neg sign floor ceil round trunc sin "
    "cos tan atan sinh cosh asinh erf square"
).split():
    _functions = {
        "relu6": F.relu6, "silu": F.silu, "hardswish": F.hardswish, "mish": F.mish, "selu": F.selu, "softsign": F.softsign,
        "logsigmoid": F.logsigmoid,
    }  # fmt: skip
    case(_kind, _functions.get(_kind) or getattr(torch, _kind), X)
for _kind in "log log1p log2 log10 sqrt rsqrt reciprocal asin acos atanh".split():
    case(_kind, getattr(torch, _kind), POSITIVE)
case("acosh", torch.acosh, POSITIVE + 1)
case("round", torch.round, np.array([[0.5, 1.5, 2.5, -0.5, -1.5]], np.float32), name="round_half_even")
case("floor", lambda x: x, INTS, name="floor_int")
case("sqrt", lambda x: torch.sqrt(x.float()), np.abs(INTS), name="sqrt_int")
SPECIAL = np.array([[1.0, np.inf, -np.inf, np.nan]], np.float32)
case("isnan", torch.isnan, SPECIAL)
case("isinf", torch.isinf, SPECIAL)
case("logical_not", torch.logical_not, MASK)
case("logical_not", torch.logical_not, INTS, name="logical_not_int")
case("bitwise_not", torch.bitwise_not, INTS)
case("leaky_relu", lambda x: F.leaky_relu(x, 0.1), X, negative_slope=0.1)
case("elu", lambda x: F.elu(x, 1.5), X, alpha=1.5)
case("celu", lambda x: F.celu(x, 1.5), X, alpha=1.5)
case("hardsigmoid", F.hardsigmoid, X * 2, alpha=1 / 6, beta=0.5)
case("softplus", lambda x: F.softplus(x, 2.0, 3.0), X, beta=2.0, threshold=3.0)
case("threshold", lambda x: F.threshold(x, 0.5, -1.0), X, threshold=0.5, value=-1.0)
case("gelu", F.gelu, X, approximate="none")
case("gelu", lambda x: F.gelu(x, approximate="tanh"), X, name="gelu_tanh", approximate="tanh")
case("prelu", F.prelu, X, rand(4))
case("prelu", F.prelu, X, rand(1), name="prelu_one")
case("clamp", lambda x: x.clamp(-1, 0.5), X, min=-1.0, max=0.5)
case("clamp", lambda x: x.clamp(min=0), INTS, name="clamp_int", min=0.0, max=None)
case("cast", lambda x: x.to(torch.int32), X * 3, dtype="int32")
case("cast", lambda x: x != 0, INTS, name="cast_bool", dtype="bool")

for _kind, _f in (("add", torch.add), ("sub", torch.sub), ("mul", torch.mul), ("div", torch.div), ("pow", torch.pow)):
    case(_kind, _f, POSITIVE, Y, tensors=(0, 1))
    case(_kind, _f, POSITIVE, rand(4, 1, 1), name=f"{_kind}_broadcast")
    case(_kind, _f, POSITIVE, -0.75, name=f"{_kind}_scalar")
    case(_kind, lambda x, y, f=_f: f(x, y), 2.5, POSITIVE, name=f"{_kind}_scalar_left", tensors=(1,))
case("add", lambda x, y: x + y, INTS, 1.5, name="add_int_float_scalar")
case("mul", lambda x, y: x * y, FLAT, INTS, name="mul_float_int", tensors=(0, 1))
case("add", lambda x, y: x + y, rand(5), rand(2, 1, 1), name="add_scalar_raises_rank")
case("add", lambda x, y: x + y, rand(5), np.ones((1, 1, 1), np.float32), name="add_one_element_raises_rank")
case("div", lambda x, y: x / y, INTS, NONZERO, name="div_ints_is_true_division", tensors=(0, 1))
for _kind, _mode in (("floor_divide", "floor"), ("trunc_divide", "trunc")):
    case(_kind, lambda x, y, m=_mode: torch.div(x, y, rounding_mode=m), INTS, NONZERO, tensors=(0, 1))
case(
    "floor_divide", lambda x, y: torch.div(x, y, rounding_mode="floor"), X, Y, name="floor_divide_float", tensors=(0, 1)
)
case("remainder", torch.remainder, X, Y, tensors=(0, 1))
case("remainder", torch.remainder, INTS, NONZERO, name="remainder_int", tensors=(0, 1))
case("fmod", torch.fmod, X, Y, tensors=(0, 1))
case("atan2", torch.atan2, X, Y, tensors=(0, 1))
for _kind in ("maximum", "minimum"):
    case(_kind, getattr(torch, _kind), X, Y, tensors=(0, 1))
    case(_kind, getattr(torch, _kind), X, 0.25, name=f"{_kind}_scalar")
    case(_kind, getattr(torch, _kind), -0.25, X, name=f"{_kind}_scalar_left", tensors=(1,))
    case(_kind, getattr(torch, _kind), X, rand(4, 1, 1), name=f"{_kind}_broadcast")
for _kind in "eq ne lt le gt ge".split():
    case(_kind, getattr(torch, _kind), INTS, INTS[:, ::-1].copy(), tensors=(0, 1))
    case(_kind, getattr(torch, _kind), INTS, 0.5, name=f"{_kind}_int_float")
for _kind in "logical_and logical_or logical_xor".split():
    case(_kind, getattr(torch, _kind), MASK, MASK[:, ::-1].copy(), tensors=(0, 1))
    case(_kind, getattr(torch, _kind), INTS, INTS[:, ::-1].copy(), name=f"{_kind}_int", tensors=(0, 1))
for _kind in "bitwise_and bitwise_or bitwise_xor".split():
    case(_kind, getattr(torch, _kind), INTS, INTS[:, ::-1].copy(), tensors=(0, 1))
case("where", torch.where, MASK, X, Y, tensors=(0, 1, 2))
case("where", torch.where, MASK, X, 0.0, name="where_scalar", tensors=(0, 1))
case("masked_fill", lambda x, m: x.masked_fill(m, -1.5), X, MASK, tensors=(0, 1), value=-1.5)

case("linear", F.linear, FLAT, rand(7, 5), rand(7))
case("linear", F.linear, rand(2, 3, 5), rand(7, 5), None, name="linear_rank3_no_bias")
case("linear", F.linear, FLAT, rand(7, 5), name="linear_dynamic_weight", tensors=(0, 1))
case(
    "gemm",
    lambda a, b, c: 0.5 * a.t() @ b.t() + 2 * c,
    rand(5, 3),
    rand(4, 5),
    rand(4),
    alpha=0.5,
    beta=2.0,
    trans_a=True,
    trans_b=True,
)
case("matmul", torch.matmul, rand(2, 3, 5), rand(5, 4))
case("einsum", lambda x, y: torch.einsum("bchw,bcxw->bhx", x, y), X, Y, tensors=(0, 1), equation="bchw,bcxw->bhx")
SQUARE = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
case("conv2d", lambda x, w, b: F.conv2d(x, w, b, padding=1), X, rand(3, 4, 3, 3), rand(3), **SQUARE)
case("conv2d", lambda x, w, b: F.conv2d(x, w, b, (2, 1), (0, 2), (1, 2), 2), X, rand(6, 2, 3, 3), None, name="conv2d_everything",
     stride=(2, 1), padding=((0, 0), (2, 2)), dilation=(1, 2), groups=2)  # fmt: skip
case("conv2d", lambda x, w: F.conv2d(F.pad(x, (0, 1, 1, 2)), w), X, rand(3, 4, 3, 3), name="conv2d_one_sided",
     **{**SQUARE, "padding": ((1, 2), (0, 1))})  # fmt: skip
case(
    "conv2d",
    lambda x, w: F.conv2d(x, w, padding=1),
    X,
    rand(3, 4, 3, 3),
    name="conv2d_dynamic_weight",
    tensors=(0, 1),
    **SQUARE,
)
case("conv1d", lambda x, w, b: F.conv1d(x, w, b, 2, 1), rand(1, 4, 9), rand(3, 4, 3), rand(3), stride=(2,), padding=((1, 1),),
     dilation=(1,), groups=1)  # fmt: skip
case("conv3d", lambda x, w, b: F.conv3d(x, w, b), rand(1, 2, 4, 4, 4), rand(3, 2, 3, 3, 3), rand(3), stride=(1, 1, 1),
     padding=((0, 0),) * 3, dilation=(1, 1, 1), groups=1)  # fmt: skip
case("conv_transpose2d", lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1, 2), X, rand(4, 3, 3, 3), rand(6), stride=(2, 2),
     padding=((1, 1), (1, 1)), dilation=(1, 1), groups=2, output_padding=(1, 1))  # fmt: skip
case("conv_transpose2d", lambda x, w: F.conv_transpose2d(x, w, stride=2)[:, :, 1:, :-1], X, rand(4, 3, 3, 3),
     name="conv_transpose2d_one_sided", stride=(2, 2), padding=((1, 0), (0, 1)), dilation=(1, 1), groups=1,
     output_padding=(0, 0))  # fmt: skip
case("conv_transpose1d", lambda x, w: F.conv_transpose1d(x, w, stride=2), rand(1, 4, 5), rand(4, 3, 3), stride=(2,), padding=((0, 0),),
     dilation=(1,), groups=1, output_padding=(0,))  # fmt: skip
VARIANCE = rand(4, low=0.5, high=2.0)
case(
    "batch_norm",
    lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b, eps=1e-3),
    X,
    rand(4),
    rand(4),
    rand(4),
    VARIANCE,
    eps=1e-3,
)
case("batch_norm", lambda x, w, b, m, v: F.batch_norm(x, m, v, None, None, eps=1e-5), X, None, None, rand(4), VARIANCE,
     name="batch_norm_no_affine", eps=1e-5)  # fmt: skip
case("batch_norm", lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b, eps=1e-3), rand(3, 4), rand(4), rand(4), rand(4), VARIANCE,
     name="batch_norm_rank2", eps=1e-3)  # fmt: skip
case("instance_norm", lambda x, w, b: F.instance_norm(x, weight=w, bias=b, eps=1e-5), X, rand(4), rand(4), eps=1e-5)
case("instance_norm", lambda x: F.instance_norm(x, eps=1e-5), X, name="instance_norm_plain", eps=1e-5)
case(
    "layer_norm", lambda x, w, b: F.layer_norm(x, (6, 6), w, b, 1e-5), X, rand(6, 6), rand(6, 6), axes=(2, 3), eps=1e-5
)
case("layer_norm", lambda x: F.layer_norm(x, (6,), None, None, 1e-5), X, name="layer_norm_plain", axes=(3,), eps=1e-5)
case("group_norm", lambda x, w, b: F.group_norm(x, 2, w, b, 1e-5), X, rand(4), rand(4), groups=2, eps=1e-5)
case("rms_norm", lambda x, w: x * torch.rsqrt((x * x).mean(-1, True) + 1e-6) * w, X, rand(6), axes=(3,), eps=1e-6)
case("lp_normalize", lambda x: F.normalize(x, 2.0, 1, 1e-12), X, p=2.0, axis=1, eps=1e-12)
case(
    "local_response_norm",
    lambda x: F.local_response_norm(x, 3, 1e-2, 0.75, 1.0),
    X,
    size=3,
    alpha=1e-2,
    beta=0.75,
    k=1.0,
)
case("embedding", lambda w, i: F.embedding(i, w), rand(9, 4), np.array([[1, 8], [0, 3]]), tensors=(1,))
case(
    "embedding",
    lambda w, i: F.embedding(i, w),
    rand(9, 4),
    np.array([[1, 8]], np.int32),
    name="embedding_int32",
    tensors=(1,),
)

POOL = {"kernel": (3, 3), "stride": (2, 2), "padding": ((1, 1), (1, 1)), "ceil_mode": True}
case("max_pool2d", lambda x: F.max_pool2d(x, 3, 2, 1, 1, True), X, dilation=(1, 1), **POOL)
case("max_pool2d", lambda x: F.max_pool2d(F.pad(x, (0, 1, 1, 0), value=-9.0), 2, 2), X, name="max_pool2d_one_sided",
     kernel=(2, 2), stride=(2, 2), padding=((1, 0), (0, 1)), dilation=(1, 1), ceil_mode=False)  # fmt: skip
case("max_pool1d", lambda x: F.max_pool1d(x, 2, 2), rand(1, 4, 8), kernel=(2,), stride=(2,), padding=((0, 0),), dilation=(1,),
     ceil_mode=False)  # fmt: skip
case("max_pool2d_with_indices", lambda x: F.max_pool2d(x, 2, 2, return_indices=True), X, kernel=(2, 2), stride=(2, 2),
     padding=((0, 0), (0, 0)), dilation=(1, 1), ceil_mode=False)  # fmt: skip
case(
    "avg_pool2d",
    lambda x: F.avg_pool2d(x, 3, 2, 1, True, False),
    X,
    count_include_pad=False,
    divisor_override=None,
    **POOL,
)
case("avg_pool2d", lambda x: F.avg_pool2d(F.pad(x, (0, 1, 1, 0)), 2, 2), X, name="avg_pool2d_one_sided", kernel=(2, 2), stride=(2, 2),
     padding=((1, 0), (0, 1)), ceil_mode=False, count_include_pad=True, divisor_override=None)  # fmt: skip
case("avg_pool2d", lambda x: F.avg_pool2d(x, 2, 2, divisor_override=3), X, name="avg_pool2d_divisor", kernel=(2, 2), stride=(2, 2),
     padding=((0, 0), (0, 0)), ceil_mode=False, count_include_pad=True, divisor_override=3)  # fmt: skip
case("adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, (2, 3)), X, output_size=(2, 3))
case("adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x, 1), X, output_size=(1, 1))
_values, _indices = F.max_pool2d(torch.from_numpy(X), 2, 2, return_indices=True)
case(
    "max_unpool2d",
    lambda x, i: F.max_unpool2d(x, i, 2),
    _values.numpy(),
    _indices.numpy(),
    tensors=(0, 1),
    output_size=(6, 6),
)

case("softmax", lambda x: F.softmax(x, 1), X, axis=1)
case("log_softmax", lambda x: F.log_softmax(x, 3), X, axis=3)
for _kind in "sum mean amax amin logsumexp".split():
    case(_kind, lambda x, f=getattr(torch, _kind): f(x, dim=(1, 3), keepdim=True), X, axes=(1, 3), keepdim=True)
    case(
        _kind,
        lambda x, f=getattr(torch, _kind): f(x, dim=(1, 3)),
        X,
        name=f"{_kind}_dropped",
        axes=(1, 3),
        keepdim=False,
    )
case("sum", lambda x: x.sum(1), INTS, name="sum_int", axes=(1,), keepdim=False)
case("prod", lambda x: x.prod(3).prod(1), POSITIVE, axes=(1, 3), keepdim=False)
case("all", lambda x: x.all(3).all(1), MASK, axes=(1, 3), keepdim=False)
case("any", lambda x: x.any(1, keepdim=True), INTS, axes=(1,), keepdim=True)
case("var", lambda x: x.var((2, 3), correction=0, keepdim=True), X, axes=(2, 3), keepdim=True, correction=0)
case("std", lambda x: x.std((2, 3), correction=1), X, axes=(2, 3), keepdim=False, correction=1)
case("norm", lambda x: torch.norm(x, 2.0, (1, 2), True), X, p=2.0, axes=(1, 2), keepdim=True)
case("argmax", lambda x: x.argmax(1, True), X, axis=1, keepdim=True)
case("argmin", lambda x: x.argmin(), FLAT, axis=None, keepdim=False)
case("max_dim", lambda x: tuple(x.max(1)), X, axis=1, keepdim=False)
case("min_dim", lambda x: tuple(x.min(2, True)), X, axis=2, keepdim=True)
case("topk", lambda x: tuple(x.topk(2, 1)), FLAT, k=2, axis=1, largest=True, sorted=True)
case("sort", lambda x: tuple(x.sort(1, True)), FLAT, axis=1, descending=True)
case("cumsum", lambda x: x.cumsum(2), X, axis=2)

case("reshape", lambda x: x.reshape(1, 2, 72), X, shape=(1, 2, 72))
case("flatten", lambda x: x.flatten(1, 2), X, start=1, end=2)
case("squeeze", lambda x: x.squeeze(0), X, axes=(0,))
case("squeeze", lambda x: x.reshape(3, 2), rand(1, 3, 1, 2), name="squeeze_two", axes=(0, 2))
case("unsqueeze", lambda x: x.reshape(1, 3, 1, 5), FLAT, axes=(0, 2))
case("permute", lambda x: x.permute(0, 2, 3, 1), X, dims=(0, 2, 3, 1))
case("expand", lambda x: x.expand(2, 3, 5), FLAT, shape=(2, 3, 5))
case("repeat", lambda x: x.repeat(2, 1, 3), FLAT, repeats=(2, 1, 3))
case("slice", lambda x: x[:, 1:3, ::2, 1:5], X, axes=(1, 2, 3), starts=(1, 0, 1), ends=(3, 6, 5), steps=(1, 2, 1))
case("slice", lambda x: x.flip(3)[..., ::2], X, name="slice_backwards", axes=(3,), starts=(5,), ends=(-1,), steps=(-2,))
case(
    "slice",
    lambda x: x[:, :, 1:5].flip(2)[:, :, ::3],
    X,
    name="slice_backwards_part",
    axes=(2,),
    starts=(4,),
    ends=(0,),
    steps=(-3,),
)
case("select", lambda x: x[:, :, 3], X, axis=2, index=3)
BOX = {"axes": (1, 3), "starts": (1, 0), "ends": (3, 6), "steps": (1, 2)}
case(
    "slice_assign",
    assign((slice(None), slice(1, 3), slice(None), slice(0, 6, 2))),
    X,
    rand(1, 2, 6, 3),
    tensors=(0, 1),
    **BOX,
)
case(
    "slice_assign",
    assign((slice(None), slice(1, 3), slice(None), slice(0, 6, 2))),
    X,
    0.5,
    name="slice_assign_scalar",
    **BOX,
)
case("slice_assign", lambda x, s: copied(x, lambda y: y.__setitem__((0, 0, 0), s.flip(0))), X, rand(6), name="slice_assign_backwards",
     tensors=(0, 1), axes=(0, 1, 2, 3), starts=(0, 0, 0, 5), ends=(1, 1, 1, -1), steps=(1, 1, 1, -1))  # fmt: skip
case("select_assign", assign((slice(None), 2)), X, rand(1, 6, 6), tensors=(0, 1), axis=1, index=2)
case("cat", lambda *xs: torch.cat(xs, 1), X, Y, rand(1, 2, 6, 6), tensors=(0, 1), axis=1)
case("stack", lambda *xs: torch.stack(xs, 2), X, Y, tensors=(0, 1), axis=2)
case("split", lambda x: x.split([1, 3], 1), X, sizes=(1, 3), axis=1)
case("chunk", lambda x: x.chunk(4, 2), X, chunks=4, axis=2)
case("unbind", lambda x: x.unbind(1), X, axis=1)
case("unbind", lambda x: x.unbind(0), X, name="unbind_one", axis=0)
case(
    "pad",
    lambda x: F.pad(x, (-1, 2, 0, 0, 1, 0), value=0.5),
    X,
    padding=((0, 0), (1, 0), (0, 0), (-1, 2)),
    mode="constant",
    value=0.5,
)
case("pad", lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"), X, name="pad_reflect", padding=((0, 0), (0, 0), (2, 1), (1, 2)),
     mode="reflect", value=0.0)  # fmt: skip
case("pad", lambda x: F.pad(x, (1, 2, 2, 1), mode="replicate"), X, name="pad_replicate", padding=((0, 0), (0, 0), (2, 1), (1, 2)),
     mode="replicate", value=0.0)  # fmt: skip
case("pad", lambda x: F.pad(x, (1, 2, 2, 0), mode="circular"), X, name="pad_circular", padding=((0, 0), (0, 0), (2, 0), (1, 2)),
     mode="circular", value=0.0)  # fmt: skip
case("flip", lambda x: x.flip(1, 3), X, axes=(1, 3))
case("roll", lambda x: x.roll((1, -2), (1, 3)), X, shifts=(1, -2), axes=(1, 3))
case("tril", lambda x: x.tril(1), X, diagonal=1)
case("triu", lambda x: x.triu(0), X, diagonal=0)
case("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), X, factor=2, mode="CRD")
case("pixel_shuffle", lambda x: x.reshape(1, 2, 2, 1, 6, 6).permute(0, 3, 4, 1, 5, 2).reshape(1, 1, 12, 12), X,
     name="pixel_shuffle_dcr", factor=2, mode="DCR")  # fmt: skip
case("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), X, factor=2, mode="CRD")
case("pixel_unshuffle", lambda x: torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1), X, name="pixel_unshuffle_dcr",
     factor=2, mode="DCR")  # fmt: skip
case("channel_shuffle", lambda x: F.channel_shuffle(x, 2), X, groups=2)

INDEX = RNG.integers(0, 4, (1, 2, 6, 6))
case("gather", lambda x, i: x.gather(1, i), X, INDEX, tensors=(0, 1), axis=1)
case("gather", lambda x, i: x.gather(1, i), X, INDEX, name="gather_constant", axis=1)
case("index_select", lambda x, i: x.index_select(2, i), X, np.array([5, 0, 0]), axis=2)
case("take", lambda x, i: x[:, :, [5, 0]], X, np.array([-1, 0]), axis=2)
case("take", lambda x, i: x[:, :, 5], X, np.array(-1), name="take_scalar", axis=2)
case(
    "take",
    lambda x, i: x[:, [[3, 0], [1, 2]]],
    X,
    np.array([[-1, 0], [1, 2]]),
    name="take_rank2_run_time",
    tensors=(0, 1),
    axis=1,
)
case("index", lambda x, i, j: x[:, i, :, j], X, np.array([0, 3]), np.array([[5], [1]]), axes=(1, 3))
case("index_put", lambda x, v, i: copied(x, lambda y: y.__setitem__((slice(None), i), v)), X, rand(1, 2, 6, 6), np.array([3, 0]),
     tensors=(0, 1), axes=(1,), accumulate=False)  # fmt: skip
case("index_put", lambda x, v, i: torch.index_put(x, (i,), v, True), FLAT, rand(3, 5), np.array([2, 2, 0]), name="index_put_accumulate",
     tensors=(0, 1), axes=(0,), accumulate=True)  # fmt: skip
case("gather_nd", lambda x, i: x[i[:, 0], i[:, 1]], FLAT, np.array([[0, 1], [2, 4]]), batch_dims=0)
case("scatter_nd", lambda x, i, s: copied(x, lambda y: y.__setitem__((i[:, 0], i[:, 1]), s)), FLAT, np.array([[0, 1], [2, 4]]), rand(2),
     tensors=(0, 2), reduction="none")  # fmt: skip
case(
    "scatter",
    lambda x, i, s: x.scatter(1, i, s),
    X,
    INDEX[:, :1],
    rand(1, 1, 6, 6),
    tensors=(0, 2),
    axis=1,
    reduction="none",
)
case("scatter", lambda x, i, s: x.scatter_add(1, i, s), X, INDEX[:, :1], rand(1, 1, 6, 6), name="scatter_add", tensors=(0, 2), axis=1,
     reduction="add")  # fmt: skip
case("one_hot", lambda x: F.one_hot(x, 4), np.array([[0, 3, 1]]), depth=4)

RESIZE: dict[str, Any] = {"scales": None, "nearest_mode": "floor", "cubic_coeff": -0.75, "antialias": False}
for _size in ((12, 12), (9, 4), (7, 5), (3, 3)):
    case("resize", lambda x, s=_size: F.interpolate(x, size=s, mode="nearest"), X, name=f"resize_nearest_{_size[0]}x{_size[1]}",
         mode="nearest", coordinates="asymmetric", sizes=_size, **RESIZE)  # fmt: skip
case("resize", lambda x: F.interpolate(x, size=(9, 4), mode="nearest-exact"), X, name="resize_nearest_half_pixel", mode="nearest",
     coordinates="half_pixel", sizes=(9, 4), **{**RESIZE, "nearest_mode": "round_prefer_ceil"})  # fmt: skip
case("resize", lambda x: F.interpolate(x, size=(9, 4), mode="bilinear"), X, name="resize_linear", mode="linear",
     coordinates="half_pixel", sizes=(9, 4), **RESIZE)  # fmt: skip
case("resize", lambda x: F.interpolate(x, size=(9, 4), mode="bilinear", align_corners=True), X, name="resize_linear_aligned",
     mode="linear", coordinates="align_corners", sizes=(9, 4), **RESIZE)  # fmt: skip
case("resize", lambda x: F.interpolate(x, size=(9, 4), mode="bicubic"), X, name="resize_cubic", mode="cubic",
     coordinates="half_pixel", sizes=(9, 4), **RESIZE)  # fmt: skip
case("grid_sample", lambda x, g: F.grid_sample(x, g, "bilinear", "border", False), X, rand(1, 3, 3, 2), tensors=(0, 1), mode="bilinear",
     padding_mode="border", align_corners=False)  # fmt: skip
case("affine_grid", lambda t: F.affine_grid(t, (2, 3, 4, 5), False), rand(2, 2, 3), size=(2, 3, 4, 5),
     align_corners=False)  # fmt: skip
WINDOW = {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
case("unfold", lambda x: F.unfold(x, 3, 1, 1, 1), X, **WINDOW)
case("fold", lambda x: F.fold(x, (6, 6), 3, 1, 1, 1), rand(1, 36, 36), output_size=(6, 6), **WINDOW)
case("meshgrid", lambda x, y: torch.meshgrid(x, y, indexing="ij"), rand(3), rand(4), tensors=(0, 1), indexing="ij")
case(
    "meshgrid",
    lambda x, y: torch.meshgrid(x, y, indexing="xy"),
    rand(3),
    rand(4),
    name="meshgrid_xy",
    tensors=(0, 1),
    indexing="xy",
)
case("fill", lambda x: torch.full_like(x, 2.5), X, value=2.5, dtype="float32")
case("shape", lambda x: torch.tensor(x.shape[1:3]), X, start=1, end=3)
case("attention", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), rand(1, 2, 5, 4), rand(1, 2, 5, 4),
     rand(1, 2, 5, 4), tensors=(0, 1, 2), scale=None, causal=True)  # fmt: skip
case("attention", lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m), rand(1, 2, 5, 4), rand(1, 2, 5, 4), rand(1, 2, 5, 4),
     np.tril(np.ones((5, 5), bool)), name="attention_mask", tensors=(0, 1, 2), scale=None, causal=False)  # fmt: skip
case("quantize", lambda x, s, z: (torch.round(x / s) + z).clamp(-128, 127).to(torch.int8), X, np.float32(0.02), np.int8(3), axis=None,
     dtype="int8")  # fmt: skip
case(
    "dequantize",
    lambda x, s, _: x.float() * s.reshape(4, 1, 1),
    RNG.integers(-99, 99, (1, 4, 6, 6)).astype(np.int16),
    VARIANCE,
    None,
    axis=1,
)
for _kind, _attrs in (
    ("arange", {"start": 1, "end": 9, "step": 3, "dtype": "float32"}), ("eye", {"rows": 3, "cols": 4, "diagonal": 1, "dtype": "float32"}),
    ("linspace", {"start": 0.0, "end": 1.0, "steps": 5, "dtype": "float32"}),
    ("full", {"shape": (2, 3), "value": 4, "dtype": "int64"}),
):  # fmt: skip
    _graph = HandGraph(x0=FLAT)
    _graph.add(_kind, **_attrs)
    _expected = {
        "arange": np.array([1, 4, 7], np.float32), "eye": np.eye(3, 4, 1, dtype=np.float32),
        "linspace": np.linspace(0, 1, 5, dtype=np.float32), "full": np.full((2, 3), 4),
    }[_kind]  # fmt: skip
    CASES.append(Case(_kind, _graph, [FLAT], [_expected]))
