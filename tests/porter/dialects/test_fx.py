# SPDX-License-Identifier: Apache-2.0
"""FX dialect: capture equals eager, kinds are right, lowering what was lifted changes nothing, origins survive."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from porter.dialects.fx import EXTRA, FxGraph
from porter.dialects.fx_lower import LOWERINGS
from porter.errors import PorterError
from porter.ops import KINDS, Op, Origin, Value, kind_known
from porter.rewrite import Fragment

torch.set_num_threads(1)


class Fn(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


class Net(nn.Module):
    """A module between two functions."""

    def __init__(self, inner: nn.Module, after: Callable[..., Any] = lambda y: y) -> None:
        super().__init__()
        self.inner = inner
        self.after = after

    def forward(self, x: torch.Tensor) -> Any:
        return self.after(self.inner(x))


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (1, 4, 6, 8), generator=torch.Generator().manual_seed(7))


def tensors(result: Any) -> list[torch.Tensor]:
    return [t.detach() for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]


def same(graph: FxGraph, module: nn.Module, x: torch.Tensor, atol: float = 0.0) -> None:
    with torch.no_grad():
        expected = tensors(module.eval()(x.clone()))
    got = graph.run([x.numpy()])
    assert len(got) == len(expected)
    for e, g, v in zip(expected, got, graph.outputs, strict=True):
        assert (str(g.dtype), g.shape) == (str(e.numpy().dtype), tuple(e.shape)) == (v.dtype, v.shape)
        np.testing.assert_allclose(g, e.numpy(), rtol=0, atol=atol)


def kinds(graph: FxGraph) -> list[str]:
    return [op.kind for op in graph.ops()]


def again(op: Op) -> Fragment:
    """A fragment that is the very same op."""
    outs = tuple(Value(f"{v.name}_again", v.shape, v.dtype) for v in op.outputs)
    return Fragment([Op(op.kind, op.inputs, outs, op.attrs, op.name, op.origin.after("again"))], outs)


# name -> (module or function, input, kinds that must appear, tolerance of capture)
Case = tuple[Any, torch.Tensor, str, float]
ZOO: dict[str, Case] = {}


def case(name: str, module: Any, want: str, x: torch.Tensor | None = None, atol: float = 0.0) -> None:
    assert name not in ZOO
    ZOO[name] = (module if isinstance(module, nn.Module) else Fn(module), image() if x is None else x, want, atol)


for _name in ["relu", "relu6", "silu", "hardswish", "mish", "selu", "softsign", "logsigmoid"]:
    case(_name, getattr(F, _name), "abs" if _name == "softsign" else _name)
for _name in [
    "exp",
    "expm1",
    "sin",
    "cos",
    "tan",
    "atan",
    "sinh",
    "cosh",
    "asinh",
    "erf",
    "square",
    "neg",
    "abs",
    "sign",
    "floor",
    "ceil",
    "round",
    "trunc",
    "tanh",
    "sigmoid",
]:
    case(_name, getattr(torch, _name), _name)
for _name in ["log", "log1p", "log2", "log10", "sqrt", "rsqrt", "reciprocal", "acosh"]:
    case(_name, lambda x, f=_name: getattr(torch, f)(x.abs() + 1), _name)
for _name in ["asin", "acos", "atanh"]:
    case(_name, lambda x, f=_name: getattr(torch, f)(x.sigmoid()), _name)
case("isnan", lambda x: (torch.isnan(x), torch.isinf(x), torch.logical_not(x > 0)), "isnan isinf logical_not")
case("int_sigmoid", lambda x: x.to(torch.int64).sigmoid(), "cast sigmoid")
case("leaky_relu", lambda x: F.leaky_relu(x, 0.2), "leaky_relu")
case("rrelu", F.rrelu, "leaky_relu")
case("prelu", Net(nn.PReLU(4)), "prelu")
case("elu", lambda x: F.elu(x, 0.5), "elu")
case("celu", lambda x: F.celu(x, 0.5), "celu")
case("hardsigmoid", F.hardsigmoid, "hardsigmoid")
case("gelu", lambda x: F.gelu(x) + F.gelu(x, approximate="tanh"), "gelu")
case("softplus", lambda x: F.softplus(x, 2, 10), "softplus")
case("threshold", lambda x: F.threshold(x, 0.1, 20), "threshold")
case("hardtanh", lambda x: F.hardtanh(x, -0.5, 0.5), "clamp")
case("clamp", lambda x: x.clamp(min=0.1).clamp(-1, 1).clamp_max(0.5), "clamp")
case("clamp_tensor", lambda x: torch.clamp(x, x.mean(), x.amax()), "maximum minimum")
case("glu", lambda x: F.glu(x, 1), "sigmoid mul slice", atol=1e-6)
case(
    "scalars", lambda x: (x + 1) * 2 - 3 / (x * x + 1) + (1 - x) - 2 ** x.sigmoid() + x**2, "add mul sub reciprocal pow"
)
case("alpha", lambda x: torch.add(x, x, alpha=3) - torch.rsub(x, 2, alpha=0.5), "add mul sub", atol=1e-6)
case("mixed_dtypes", lambda x: x * torch.arange(8) + torch.arange(8) / 3 + (x > 0), "cast mul div add")
case(
    "divisions",
    lambda x: (
        x // 0.3,
        x % 0.3,
        torch.fmod(x, 0.3),
        torch.div(x, 0.3, rounding_mode="trunc"),
        torch.div((x * 9).int(), 2, rounding_mode="trunc"),
        (x * 9).int() // 2,
    ),
    "floor_divide remainder fmod div trunc trunc_divide",
)
case(
    "bits", lambda x: ((x > 0) & (x < 1)) | ~(x > 0.5) ^ (x > 2), "bitwise_and bitwise_or bitwise_not bitwise_xor gt lt"
)
case(
    "logical",
    lambda x: torch.logical_and(x, x > 1) | torch.logical_or(x > 0, x < 1).logical_xor(x > 2),
    "cast logical_and logical_or logical_xor",
)
case("compare", lambda x: (x == 0, x != 0, x <= 0.5, x >= x.mean(), x.int() > 0.5), "eq ne le ge gt")
case(
    "minmax", lambda x: torch.maximum(x, -x) + torch.minimum(x, x * 2) + torch.atan2(x, x + 1), "maximum minimum atan2"
)
case("where", lambda x: torch.where(x > 0, x, 0.0) + torch.where(x > 0, torch.zeros_like(x), x), "where fill")
case("masked_fill", lambda x: x.masked_fill(x > 0, 2.0).masked_fill(x > 1, x.mean()), "masked_fill where")
case("linear", Net(nn.Linear(8, 3)), "linear")
case(
    "matmul",
    lambda x: (x @ x.transpose(2, 3), torch.bmm(x[0], x[0].mT), x[0, 0] @ x[0, 0].T, x[0, 0] @ x[0, 0, 0]),
    "matmul permute",
)
case("addmm", lambda x: torch.addmm(x[0, 0, 0], x[0, 0].T, x[0, 1], beta=0.5, alpha=2), "gemm")
case("einsum", lambda x: torch.einsum("bchw, bdhw -> bcd", x, x), "einsum")
case(
    "addcmul", lambda x: torch.addcmul(x, x, x, value=0.5) + torch.addcdiv(x, x, x.abs() + 1), "mul add div", atol=1e-6
)
case("conv1d", Net(nn.Conv1d(4, 6, 3, 2, 1, groups=2)), "conv1d", image(1, 4, 9))
case("conv2d", Net(nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), bias=False)), "conv2d")
case("conv2d_same", Net(nn.Conv2d(4, 6, (4, 3), padding="same")), "conv2d")
case("conv2d_unbatched", Net(nn.Conv2d(4, 6, 3, padding="valid")), "unsqueeze conv2d squeeze", image(4, 6, 8))
case("conv3d", Net(nn.Conv3d(2, 3, 2)), "conv3d", image(1, 2, 3, 4, 5))
case("conv_transpose1d", Net(nn.ConvTranspose1d(4, 6, 3, 2, 1, 1)), "conv_transpose1d", image(1, 4, 5))
case("conv_transpose2d", Net(nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2, dilation=2)), "conv_transpose2d")
case(
    "max_pool",
    lambda x: (F.max_pool2d(x, 3, 2, 1), F.max_pool2d(x, (2, 3), ceil_mode=True), F.max_pool1d(x[0], 2)),
    "max_pool2d max_pool1d",
)
case("max_pool_dilated", lambda x: F.max_pool2d(x, 2, 1, dilation=2), "max_pool2d")
case(
    "max_pool_indices",
    lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "max_pool2d_with_indices max_unpool2d",
)
case(
    "avg_pool",
    lambda x: (
        F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        F.avg_pool2d(x, 2, divisor_override=3),
        F.avg_pool1d(x[0], 2),
    ),
    "avg_pool2d avg_pool1d",
)
case(
    "adaptive",
    lambda x: (
        F.adaptive_avg_pool2d(x, (1, 1)),
        F.adaptive_avg_pool2d(x, (3, 5)),
        F.adaptive_max_pool2d(x, 2),
        F.adaptive_avg_pool1d(x[0], 3),
    ),
    "adaptive_avg_pool2d adaptive_max_pool2d adaptive_avg_pool1d",
)
case("unfold", lambda x: F.fold(F.unfold(x, 2, stride=2), (6, 8), 2, stride=2), "unfold fold")
case("batch_norm", Net(nn.BatchNorm2d(4)), "batch_norm")
case("batch_norm_plain", Net(nn.BatchNorm2d(4, affine=False)), "batch_norm")
case("instance_norm", Net(nn.InstanceNorm2d(4, affine=True)), "instance_norm")
case("instance_norm_tracked", Net(nn.InstanceNorm2d(4, track_running_stats=True)), "batch_norm")
case("layer_norm", Net(nn.LayerNorm((6, 8))), "layer_norm")
case("group_norm", Net(nn.GroupNorm(2, 4)), "group_norm")
case("rms_norm", Net(nn.RMSNorm(8)), "rms_norm")
case("softmax", lambda x: F.softmax(x, 1) + F.log_softmax(x, -1), "softmax log_softmax")
case("normalize", lambda x: F.normalize(x, dim=1), "norm clamp div")
case(
    "sums",
    lambda x: (
        x.sum(),
        x.sum((1, -1)),
        x.mean(2, keepdim=True),
        x.mean(),
        x.prod(3),
        x.amax((0, 1)),
        x.amin(1),
        (x > 0).sum(1),
    ),
    "sum mean prod amax amin cast",
)
case(
    "reductions",
    lambda x: (
        x.logsumexp(1),
        (x > 0).all(1),
        (x > 9).any(),
        x.var(1),
        x.std((1, 2), correction=0),
        x.norm(),
        x.norm(1, dim=2),
        x.max(),
        torch.var_mean(x, 1),
    ),
    "logsumexp all any var std norm amax mean",
    atol=1e-6,
)
case("arg", lambda x: (x.argmax(), x.argmax(1, keepdim=True), x.argmin(-1)), "argmax argmin")
case("max_dim", lambda x: (*x.max(1), *x.min(2, keepdim=True)), "max_dim min_dim")
case("max_parts", lambda x: (x.max(1).values, x.min(1).indices), "amax argmin")
case("topk", lambda x: (*x.topk(3, 1), *x.sort(2, descending=True), x.argsort(1), x.cumsum(1)), "topk sort cumsum")
case(
    "views",
    lambda x: (
        x.view(2, -1),
        x.reshape(4, 48),
        x.flatten(1, 2),
        x.unflatten(1, (2, 2)),
        x.squeeze(),
        x.unsqueeze(1),
        x[None],
    ),
    "reshape squeeze unsqueeze",
)
case("axes", lambda x: (x.permute(0, 2, 3, 1), x.transpose(1, 2), x[0, 0].t(), torch.movedim(x, 1, 3), x.mT), "permute")
case("contiguous_view", lambda x: x.permute(0, 2, 3, 1).contiguous().view(1, -1, 4), "permute identity reshape")
case(
    "expand",
    lambda x: (x[:, :1].expand(1, 4, 6, 8), x.repeat(2, 1, 1, 1), x[:, :1].expand_as(x), x.tile(2)),
    "expand repeat",
)
case(
    "slices", lambda x: (x[..., ::2], x[:, 1:3, -4:], x[:, -1], x.narrow(1, 1, 2), x[:, :, 1::3, 2:100]), "slice select"
)
case("cat", lambda x: torch.cat([x, x.int(), x > 0], 1), "cat cast")
case("stack", lambda x: torch.stack([x, x], -1), "stack")
case("splits", lambda x: (*x.split(3, 1), *x.split((1, 3), 1), *x.chunk(3, 2), *x.unbind(1)), "split unbind")
case(
    "pads",
    lambda x: (
        F.pad(x, (1, 2), value=1.5),
        F.pad(x, (1, 2, 0, 1), mode="reflect"),
        F.pad(x, (1, 1, 2, 2), mode="replicate"),
        F.pad(x, (-1, 1)),
    ),
    "pad",
)
case("flips", lambda x: (x.flip(1, -1), x.roll(1, 2), x.tril(1), x.triu()), "flip roll tril triu")
case(
    "gathers",
    lambda x: (
        x.gather(1, x.argsort(1)),
        x.index_select(2, torch.tensor([2, 0])),
        x[:, torch.tensor([1, 1])],
        x[:, torch.tensor([0, 1]), torch.tensor([2, 3])],
    ),
    "gather index_select take index",
)
case("embedding", Net(Fn(lambda x: x.abs().int()), nn.Embedding(9, 3)), "embedding")
case("index_put", lambda x: x.index_put((torch.tensor([0]), torch.tensor([2])), x[0, 1]), "index_put")
case(
    "scatter",
    lambda x: (x.scatter(1, x.argsort(1), x), x.scatter(1, x.argsort(1), 2.0), x.scatter_add(1, x.argmax(1, True), x)),
    "scatter",
)
case("one_hot", lambda x: F.one_hot((x > 0).long(), 3), "cast")
case(
    "nearest",
    lambda x: (
        F.interpolate(x, scale_factor=2),
        F.interpolate(x, size=(5, 7)),
        F.interpolate(x, scale_factor=1.7, mode="nearest-exact"),
    ),
    "resize",
)
case(
    "bilinear",
    lambda x: (
        F.interpolate(x, scale_factor=1.7, mode="bilinear"),
        F.interpolate(x, (9, 5), mode="bilinear", align_corners=True),
        F.interpolate(x, (3, 4), mode="bilinear", antialias=True),
    ),
    "resize",
)
case(
    "bicubic",
    lambda x: (F.interpolate(x, scale_factor=(2, 1.5), mode="bicubic"), F.interpolate(x[0], 11, mode="linear")),
    "resize",
)
case(
    "shuffles",
    lambda x: (F.pixel_shuffle(x, 2), F.pixel_unshuffle(x, 2), F.channel_shuffle(x, 2)),
    "pixel_shuffle pixel_unshuffle channel_shuffle",
)
case("affine_grid", lambda x: F.affine_grid(x[:, :2, 0, :3], (1, 3, 4, 5), align_corners=True), "affine_grid")
case("grid_sample", lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=False), "grid_sample")
case(
    "creation",
    lambda x: (
        torch.arange(3),
        torch.arange(1, 9, 2.5),
        torch.zeros(2, 3),
        torch.full((2,), 7),
        x.new_ones(3),
        torch.linspace(0, 1, 5),
        torch.eye(3),
        torch.eye(2, 3),
        torch.zeros_like(x),
        torch.full_like(x, 2, dtype=torch.int32),
        x + torch.tensor(2.0),
    ),
    "arange full linspace eye fill",
)
case(
    "empty",
    lambda x: torch.empty(2, 3).fill_(4) + x.new_empty(3).zero_() + torch.empty_like(x).fill_(1).sum(),
    "full fill add",
)
case(
    "meshgrid",
    lambda x: (
        *torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij"),
        *torch.meshgrid(torch.arange(2), torch.arange(3), indexing="xy"),
    ),
    "meshgrid",
)
case(
    "attention",
    lambda x: (
        F.scaled_dot_product_attention(x, x, x),
        F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3),
    ),
    "attention",
)
case("lstm", Net(nn.LSTM(8, 5, batch_first=True, bidirectional=True)), "lstm", image(1, 6, 8))
case("gru", Net(nn.GRU(8, 5, num_layers=2, bias=False)), "gru", image(6, 2, 8))
case("rnn", Net(nn.RNN(8, 5, nonlinearity="relu")), "rnn", image(6, 2, 8))
case("lstm_cell", Net(nn.LSTMCell(8, 5)), "lstm", image(2, 8), atol=1e-6)
case("gru_cell", Net(nn.GRUCell(8, 5, bias=False)), "gru", image(2, 8), atol=1e-6)
case("rnn_cell", Net(nn.RNNCell(8, 5)), "rnn", image(2, 8), atol=1e-6)
case(
    "mha",
    Net(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
    "linear attention layer_norm",
    image(1, 6, 8),
    atol=1e-5,
)  # eager has one fused kernel for it
case("dropout", Net(nn.Sequential(nn.Dropout(), nn.ReLU(inplace=True), nn.Dropout2d())), "relu")
case("half", lambda x: (x.half() * 2 + x.double()).bfloat16().float(), "cast mul add")


# -- in-place writes


def write_slice(x: torch.Tensor) -> torch.Tensor:
    x = x * 1
    x[..., :2] = x[..., :2] * 2 + 1
    return x


def write_chain(x: torch.Tensor) -> Any:
    y = x.clone()
    y[:, 0] = 3.0
    y[:, :, ::2, 1] = y[:, :, ::2, 0]
    y[:, 1:3, 2:5, 1::3] *= 2
    return y, x + y


def write_through_views(x: torch.Tensor) -> Any:
    y = x + 0
    v = y.view(4, 48).transpose(0, 1)
    w = y[:, 1]
    v[3] = 7.0
    w += 1
    a, b = y.split(2, 1)
    a.zero_()
    c = y.unbind(1)[3]
    c.mul_(b[:, 0])
    return y, v, w, a, b, c


def write_masks(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[y > 0] = 0.5
    y[x[..., 0] > 0] = y.mean()
    return y


def write_broadcast(x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros(1, 4, 6, 8)
    y[...] = x[:, :1]
    y[:, 1] = torch.arange(8)
    y[0, 2].fill_(2).add_(x[0, 0])
    return y


def write_after_read(x: torch.Tensor) -> Any:
    y = x * 2
    z = y[:, :2]
    before = z + 1
    y.relu_()
    return before, z, y


for _write in (write_slice, write_chain, write_through_views, write_masks, write_broadcast, write_after_read):
    case(
        _write.__name__,
        _write,
        "masked_fill"
        if _write is write_masks
        else "relu"
        if _write is write_after_read
        else "select_assign"
        if _write is not write_slice
        else "slice_assign",
    )


def decode(x: torch.Tensor) -> torch.Tensor:
    """A YOLO decode with grids, strides and assignments to slices."""
    outputs = x.flatten(2).permute(0, 2, 1)
    yv, xv = torch.meshgrid([torch.arange(6), torch.arange(8)], indexing="ij")
    grid = torch.stack((xv, yv), 2).view(1, -1, 2)
    strides = torch.full((*grid.shape[:2], 1), 8)
    outputs = outputs.clone()
    outputs[..., :2] = (outputs[..., :2] + grid.type(outputs.dtype)) * strides
    outputs[..., 2:4] = torch.exp(outputs[..., 2:4]) * strides
    return outputs


case("decode", decode, "arange meshgrid stack full cast slice_assign exp")


@pytest.fixture(scope="module")
def graphs() -> dict[str, FxGraph]:
    return {}


def captured(graphs: dict[str, FxGraph], name: str) -> FxGraph:
    if name not in graphs:
        torch.manual_seed(0)
        module, x, _, _ = ZOO[name]
        graphs[name] = FxGraph.capture(module, [x])
    return graphs[name]


@pytest.mark.parametrize("name", ZOO)
def test_capture_equals_eager(graphs: dict[str, FxGraph], name: str) -> None:
    module, x, want, atol = ZOO[name]
    graph = captured(graphs, name)
    same(graph, module, x, atol)
    assert set(want.split()) <= set(kinds(graph))
    assert [op for op in graph.ops() if not kind_known(op.kind)] == []
    for op in graph.ops():
        kind = KINDS[op.kind]
        names = kind.inputs.split()
        assert len(op.inputs) == len(names) or names[-1].endswith("*"), op
        assert kind.outputs is None or len(op.outputs) == kind.outputs, op
        declared = {a.partition(":")[0] for a in kind.attrs.split()}
        assert op.kind in ("lstm", "gru", "rnn") or set(op.attrs) == declared, op


@pytest.mark.parametrize("name", ZOO)
def test_lowering_what_was_lifted_changes_nothing(graphs: dict[str, FxGraph], name: str) -> None:
    _, x, _, _ = ZOO[name]
    before = captured(graphs, name)
    graph = before.copy()
    ops = graph.ops()
    graph.replace([(op, again(op)) for op in ops])
    for a, b in zip(before.run([x.numpy()]), graph.run([x.numpy()]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [v.name for v in graph.outputs] == [v.name for v in before.outputs]
    assert Counter(kinds(graph)) == Counter(op.kind for op in before.ops())
    assert all(op.origin.rules == ("again",) and op.origin.file == __file__ for op in graph.ops())
    seen = graph.producers()
    for op in before.ops():
        new = seen[next(v.name for v in op.outputs if "_unused_" not in v.name)]
        assert (new.kind, dict(new.attrs), [v.shape for v in new.outputs]) == (
            op.kind,
            dict(op.attrs),
            [v.shape for v in op.outputs],
        )


def test_every_lowering_is_exercised(graphs: dict[str, FxGraph]) -> None:
    lifted = {op.kind for name in ZOO for op in captured(graphs, name).ops()}
    built_by_hand = {
        "softsign",
        "flatten",
        "lp_normalize",
        "shape",
        "quantize",
        "dequantize",
        "one_hot",
        "chunk",
        "masked_select",
        "nonzero",
        "conv_transpose3d",
        "max_pool3d",
        "avg_pool3d",
        "adaptive_avg_pool3d",
        "identity",
    }
    assert set(LOWERINGS) - lifted - built_by_hand == set()


# -- lowerings that no captured call gives


def one_op(kind: str, x: torch.Tensor, expected: Callable[..., torch.Tensor], *more: Any, **attrs: Any) -> None:
    """A graph whose only op is ``kind``, against torch."""
    want = expected(x)

    class Holder(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (
                torch.zeros(want.shape, dtype=want.dtype)
                if x is None
                else (x.sum() * 0).to(want.dtype).expand(want.shape)
            )

    graph = FxGraph.capture(Holder(), [("x", tuple(x.shape), str(x.dtype).removeprefix("torch."))])
    last = graph.producers()[graph.outputs[0].name]
    constants = [Value.constant(f"c{i}", np.asarray(m)) if m is not None else None for i, m in enumerate(more)]
    operands = (graph.inputs[0], *constants) if KINDS[kind].inputs else ()
    out = Value("made", tuple(want.shape), str(want.dtype).removeprefix("torch."))
    graph.replace([(last, Fragment([Op(kind, operands, (out,), attrs)], (out,)))])
    np.testing.assert_array_equal(graph.run([x.numpy()])[0], want.numpy())


def test_lowerings_built_by_hand() -> None:
    x = image()
    one_op("softsign", x, F.softsign)
    one_op("flatten", x, lambda x: x.flatten(1, 2), start=1, end=2)
    one_op("lp_normalize", x, lambda x: F.normalize(x, dim=1), p=2.0, axis=1, eps=1e-12)
    one_op("shape", x, lambda x: torch.tensor(x.shape))
    one_op("one_hot", torch.tensor([0, 2]), lambda x: F.one_hot(x, 4), depth=4)
    one_op("slice", x, lambda x: x.flip(3)[..., 1:7:2], axes=(3,), starts=(6,), ends=(0,), steps=(-2,))
    one_op("slice", x, lambda x: x.flip(3), axes=(3,), starts=(7,), ends=(-1,), steps=(-1,))
    one_op(
        "slice_assign",
        x,
        lambda x: torch.cat(
            [torch.cat([x[:, :1], torch.cat([x[:, 1:3, :2], torch.ones(1, 2, 2, 8), x[:, 1:3, 4:]], 2), x[:, 3:]], 1)]
        ),
        np.float32(1),
        axes=(1, 2),
        starts=(1, 2),
        ends=(3, 4),
        steps=(1, 1),
    )
    one_op(
        "pixel_shuffle",
        x,
        lambda x: x.view(1, 2, 2, 1, 6, 8).permute(0, 3, 4, 1, 5, 2).reshape(1, 1, 12, 16),
        factor=2,
        mode="DCR",
    )
    one_op(
        "pixel_unshuffle",
        x,
        lambda x: x.view(1, 4, 3, 2, 4, 2).permute(0, 3, 5, 1, 2, 4).reshape(1, 16, 3, 4),
        factor=2,
        mode="DCR",
    )
    one_op("hardsigmoid", x, lambda x: (x * 0.2 + 0.5).clamp(0, 1), alpha=0.2, beta=0.5)
    one_op(
        "eye",
        x,
        lambda x: torch.from_numpy(np.eye(3, 4, 2, dtype=np.float32)),
        rows=3,
        cols=4,
        diagonal=2,
        dtype="float32",
    )


def test_lowerings_with_padding_that_torch_lacks() -> None:
    x, w = image(), image(4, 4, 3, 3).numpy()
    conv = {"stride": (1, 1), "padding": ((0, 1), (2, 0)), "dilation": (1, 1), "groups": 1}
    one_op("conv2d", x, lambda x: F.conv2d(F.pad(x, (2, 0, 0, 1)), torch.from_numpy(w)), w, None, **conv)
    full = F.conv_transpose2d(x, torch.from_numpy(w))
    one_op("conv_transpose2d", x, lambda x: full[:, :, :-1, 2:], w, None, output_padding=(0, 0), **conv)
    pool = {"kernel": (2, 2), "stride": (2, 2), "padding": ((1, 0), (0, 1)), "ceil_mode": False}
    one_op("max_pool2d", x, lambda x: F.max_pool2d(F.pad(x, (0, 1, 1, 0), value=-np.inf), 2), dilation=(1, 1), **pool)
    one_op(
        "avg_pool2d",
        x,
        lambda x: F.avg_pool2d(F.pad(x, (0, 1, 1, 0)), 2),
        count_include_pad=True,
        divisor_override=None,
        **pool,
    )
    ones = F.avg_pool2d(F.pad(torch.ones_like(x), (0, 1, 1, 0)), 2)
    one_op(
        "avg_pool2d",
        x,
        lambda x: F.avg_pool2d(F.pad(x, (0, 1, 1, 0)), 2) / ones,
        count_include_pad=False,
        divisor_override=None,
        **pool,
    )


def test_quantize_and_dequantize() -> None:
    x = image()
    scale, zero = np.float32([0.1, 0.2, 0.05, 0.3]), np.int8([0, 1, -3, 5])
    want = torch.quantize_per_channel(x, torch.from_numpy(scale), torch.from_numpy(zero).long(), 1, torch.qint8)
    one_op("quantize", x, lambda x: want.int_repr(), scale, zero, axis=1, dtype="int8")
    one_op("dequantize", want.int_repr(), lambda q: want.dequantize(), scale, zero, axis=1)


# -- what a node does not say it must not mean


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: torch.round(x, decimals=2), "aten.round.decimals"),
        (lambda x: x.scatter_reduce(1, x.argsort(1), x, "mean"), "aten.scatter_reduce.two"),
        (lambda x: torch.roll(x, 3), "aten.roll.default"),
        (lambda x: x.unfold(3, 2, 2), "aten.unfold.default"),
        (lambda x: torch.special.erfinv(x.sigmoid()), "aten.special_erfinv.default"),
        (lambda x: torch.cummax(x, 1).values, "aten.cummax.default"),
        (
            lambda x: F.scaled_dot_product_attention(x, x[:, :2], x[:, :2], enable_gqa=True),
            "aten.scaled_dot_product_attention.default",
        ),
    ],
)
def test_other_meanings_keep_their_own_name(function: Callable[..., Any], kind: str) -> None:
    graph = FxGraph.capture(Fn(function), [image()])
    assert kind in kinds(graph)
    same(graph, Fn(function), image())


def test_random_is_random() -> None:
    graph = FxGraph.capture(Fn(lambda x: x + torch.rand(8) + torch.randn_like(x)), [image()])
    assert kinds(graph).count("random") == 2
    random = [op.outputs[0] for op in graph.ops() if op.kind == "random"]
    assert graph.evaluate(random, 1 << 20) == {}


# -- names, sharing, signature


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(inplace=True))
        self.unused = nn.Linear(2, 2)

    def forward(self, image: torch.Tensor, scale: torch.Tensor | None = None) -> dict[str, Any]:
        y = self.stem(image)
        return {"y": y, "parts": [y[:, :2], image], "nothing": None}


def test_names_parameters_and_structure() -> None:
    module = Small().train()
    graph = FxGraph.capture(module, [("images", (1, 3, 8, 8), None)], source="small")
    assert module.training and module.stem[1].training
    assert [(v.name, v.shape, v.dtype) for v in graph.inputs] == [("images", (1, 3, 8, 8), "float32")]
    conv = graph.ops()[0]
    assert conv.inputs[1].name == "stem.0.weight" and conv.inputs[1].is_const
    assert conv.inputs[1].numpy().ctypes.data == module.stem[0].weight.data_ptr()
    assert not any(path.startswith("unused") for path in graph.attributes)
    x = image(1, 3, 8, 8)
    out = graph.run({"images": x.numpy()})
    assert len(out) == 3 and (out[2] == x.numpy()).all()
    out[2][:] = 0
    assert x.abs().sum() > 0
    result = graph.module()(x)
    assert list(result) == ["y", "parts", "nothing"] and result["nothing"] is None
    assert torch.equal(result["y"], module.eval()(x)["y"])
    assert dict(graph.module().named_parameters())["stem.0.weight"].data_ptr() == module.stem[0].weight.data_ptr()


def test_taps_and_copies() -> None:
    graph = FxGraph.capture(Small(), [("images", (1, 3, 8, 8), None)])
    x = image(1, 3, 8, 8).numpy()
    conv = graph.ops()[0].outputs[0].name
    *_, tap, weight = graph.run([x], taps=[conv, "stem.0.weight"])
    assert tap.shape == (1, 4, 6, 6) and weight.shape == (4, 3, 3, 3)
    before = graph.run([x])[0]
    clone = graph.copy()
    silu = next(op for op in clone.ops() if op.kind == "silu")
    middle, out = Value("s", silu.outputs[0].shape, "float32"), Value("o", silu.outputs[0].shape, "float32")
    origin = silu.origin.after("silu_to_mul")
    clone.replace(
        [
            (
                silu,
                Fragment(
                    [
                        Op("sigmoid", silu.inputs, (middle,), {}, "s", origin),
                        Op("mul", (silu.inputs[0], middle), (out,), {}, "o", origin),
                    ],
                    (out,),
                ),
            )
        ]
    )
    np.testing.assert_allclose(clone.run([x])[0], before, rtol=1e-6, atol=1e-7)
    assert "silu" in kinds(graph) and "silu" not in kinds(clone)
    mul = clone.producers()[silu.outputs[0].name]
    assert (
        mul.kind == "mul" and mul.origin.rules == ("silu_to_mul",) and mul.origin.module == "stem.2" and mul.origin.line
    )
    np.testing.assert_array_equal(graph.run([x])[0], before)


def test_replace_by_constants_values_and_duplicates() -> None:
    graph = FxGraph.capture(Fn(decode), [image()])
    x = image().numpy()
    before = graph.run([x])[0]
    wanted = [
        v
        for op in graph.ops()
        for v in op.outputs
        if op.kind in ("arange", "meshgrid", "stack", "reshape", "cast", "full")
    ]
    data = graph.evaluate(wanted, 1 << 20)
    assert {"stack", "full"} <= {op.kind for op in graph.ops() if op.outputs[0].name in data}
    folds = [
        (op, Fragment([], tuple(Value.constant(v.name, data[v.name]) for v in op.outputs)))
        for op in graph.ops()
        if all(v.name in data for v in op.outputs)
    ]
    graph.replace(folds)
    assert not {"arange", "meshgrid", "full", "stack", "cast"} & set(kinds(graph))
    np.testing.assert_array_equal(graph.run([x])[0], before)
    assert all("." not in path for path in graph.attributes)
    constants = [v for op in graph.ops() for v in op.operands if v.is_const]
    assert {v.name for v in constants} == {"to", "mul__to_copy", "mul_1__to_copy"}
    assert {n.meta["porter_origin"].rules for n in graph.graph.nodes if n.op == "get_attr"} == {("fold",)}


def test_an_output_replaced_by_an_input_keeps_its_name() -> None:
    graph = FxGraph.capture(Fn(lambda x: (x * 1, x + 0)), [image()])
    names = [v.name for v in graph.outputs]
    graph.replace([(op, Fragment([], (graph.inputs[0],))) for op in graph.ops()])
    assert [v.name for v in graph.outputs] == names and kinds(graph) == ["identity", "identity"]
    assert all((out == image().numpy()).all() for out in graph.run([image().numpy()]))


def test_a_fragment_of_another_shape_is_refused() -> None:
    graph = FxGraph.capture(Fn(lambda x: x.sum(1)), [image()])
    with pytest.raises(TypeError, match="the fragment gives x"):
        graph.replace([(graph.ops()[0], Fragment([], (graph.inputs[0],)))])


def test_evaluate_is_bounded_and_reads_no_input() -> None:
    graph = FxGraph.capture(Fn(lambda x: (torch.zeros_like(x) + 1, torch.arange(10**9).sum() + x, x * 2)), [image()])
    values = [v for op in graph.ops() for v in op.outputs]
    data = graph.evaluate(values, 1 << 20)
    by_kind = {op.kind: op.outputs[0].name for op in graph.ops()}
    assert data[by_kind["fill"]].shape == (1, 4, 6, 8)
    assert by_kind["arange"] not in data and by_kind["sum"] not in data and by_kind["mul"] not in data
    assert any((array == 1).all() for array in data.values())


# -- origins


def line_of(function: Callable[..., Any], text: str) -> int:
    lines, start = inspect.getsourcelines(function)
    return start + next(i for i, line in enumerate(lines) if text in line)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pred = nn.Conv2d(4, 4, 1)

    def decode_outputs(self, y: torch.Tensor) -> torch.Tensor:
        y[..., :2] = y[..., :2] * 2
        z = y[:, 1]
        z[..., 0] = 1.0
        return y

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode_outputs(self.pred(x)).relu()


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([Head(), Head()])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [head(x) for head in self.heads]


def test_origin_is_the_line_of_the_assignment() -> None:
    graph = FxGraph.capture(Detector(), [image()])
    assigns = [op for op in graph.ops() if op.kind == "slice_assign"]
    first = line_of(Head.decode_outputs, "y[..., :2] =")
    assert {(op.origin.file, op.origin.line, op.origin.function) for op in assigns} == {
        (__file__, first, "decode_outputs")
    }
    assert [op.origin.module for op in assigns] == ["heads.0", "heads.1"]
    second = [op for op in graph.ops() if op.kind == "select_assign"]
    assert {op.origin.line for op in second} == {line_of(Head.decode_outputs, "z[..., 0] =")}
    convs = [op.origin.module for op in graph.ops() if op.kind == "conv2d"]
    assert convs == ["heads.0.pred", "heads.1.pred"]
    relu = next(op for op in graph.ops() if op.kind == "relu")
    assert relu.origin.line == line_of(Head.forward, ".relu()")


def test_a_model_of_torch_modules_alone_has_origins() -> None:
    graph = FxGraph.capture(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), [image()])
    assert [op.origin.module for op in graph.ops()] == ["0", "1"]
    assert all(op.origin.file for op in graph.ops())


# -- files


@pytest.mark.parametrize("name", ["decode", "write_chain", "lstm", "splits", "creation", "conv2d_same", "half", "mha"])
def test_save_and_load(graphs: dict[str, FxGraph], name: str, tmp_path: Path) -> None:
    _, x, _, _ = ZOO[name]
    graph = captured(graphs, name).copy()
    ops = graph.ops()
    graph.replace([(op, again(op)) for op in ops[::2]])
    path = tmp_path / "model.pt2"
    graph.save(path, {"rules": ["again"]})
    loaded = FxGraph.load(path)
    assert loaded.ledger == {"rules": ["again"]}
    assert [repr(op) for op in loaded.ops()] == [repr(op) for op in graph.ops()]
    assert [op.origin for op in loaded.ops()] == [op.origin for op in graph.ops()]
    for a, b in zip(graph.run([x.numpy()]), loaded.run([x.numpy()]), strict=True):
        np.testing.assert_array_equal(a, b)
    with torch.no_grad():
        plain = tensors(torch.export.load(path).module()(x))
    for a, b in zip(graph.run([x.numpy()]), plain, strict=True):
        np.testing.assert_array_equal(a, b.numpy())


def test_every_node_of_a_saved_program_names_its_source(tmp_path: Path) -> None:
    graph = FxGraph.capture(Detector(), [("images", (1, 4, 6, 8), None)])
    graph.replace([(op, again(op)) for op in graph.ops() if op.kind in ("slice_assign", "relu")])
    graph.save(tmp_path / "model.pt2")
    extra = {EXTRA: ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    origins = json.loads(extra[EXTRA])["origins"]
    for node in program.graph.nodes:
        record = origins[node.name]
        if node.op == "call_function":
            assert record["line"] and record["file"] == __file__, node
            if node.target is not getitem and "slice_scatter" in str(node.target):
                assert record["rules"] == ["again"]
        else:
            assert record["source"]


def test_saved_programs_run_without_porter(tmp_path: Path) -> None:
    graph = FxGraph.capture(Small(), [("images", (1, 3, 8, 8), None)])
    graph.save(tmp_path / "m.pt2")
    code = (
        "import sys, torch; m = torch.export.load(sys.argv[1]).module(); y = m(torch.ones(1, 3, 8, 8));"
        "assert sorted(y) == ['nothing', 'parts', 'y']; assert 'porter' not in sys.modules; print(float(y['y'].sum()))"
    )
    made = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.pt2")], capture_output=True, text=True, cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr
    assert float(made.stdout) == pytest.approx(float(graph.run([np.ones((1, 3, 8, 8), np.float32)])[0].sum()), rel=1e-5)


def test_dynamic_sizes_are_fixed_by_inputs(tmp_path: Path) -> None:
    class Dynamic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x).relu_()
            grid = torch.arange(y.shape[2] * y.shape[3]).to(y.dtype).view(1, -1)
            return y.flatten(2) + grid + y.shape[3] // 2

    module = Dynamic().eval()
    h, w = torch.export.Dim("h"), torch.export.Dim("w")
    program = torch.export.export(module, (image(),), dynamic_shapes={"x": {2: h, 3: w}})
    torch.export.save(program, tmp_path / "dynamic.pt2")
    with pytest.raises(PorterError) as error:
        FxGraph.load(tmp_path / "dynamic.pt2")
    assert error.value.code == "PT507" and "x" in str(error.value)
    graph = FxGraph.load(tmp_path / "dynamic.pt2", [("x", (1, 4, 10, 6), None)])
    same(graph, module, image(1, 4, 10, 6))
    assert all(kind_known(k) for k in kinds(graph))
    with pytest.raises(PorterError) as error:
        FxGraph.load(tmp_path / "dynamic.pt2", [("x", (1, 5, 10, 6), None)])
    assert error.value.code == "PT506"


def test_core_aten_programs_have_the_same_kinds(tmp_path: Path) -> None:
    module = Small().eval()
    program = torch.export.export(module, (image(1, 3, 8, 8),)).run_decompositions()
    torch.export.save(program, tmp_path / "core.pt2")
    graph = FxGraph.load(tmp_path / "core.pt2")
    assert {"conv2d", "batch_norm", "sigmoid", "mul"} <= set(kinds(graph))
    with torch.no_grad():
        np.testing.assert_allclose(
            graph.run([image(1, 3, 8, 8).numpy()])[0], module(image(1, 3, 8, 8))["y"].numpy(), atol=1e-6
        )


# -- hostile and broken files


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """A copy of a .pt2 with members changed."""
    reader = torch._C.PyTorchFileReader(str(source))
    writer = torch._C.PyTorchFileWriter(str(target))
    for record in reader.get_all_records():
        if record not in ("version", ".data/serialization_id", "byteorder", ".format_version", ".storage_alignment"):
            data = change(record, reader.get_record(record))
            writer.write_record(record, data, len(data))
    writer.write_end_of_file()
    return target


class Evil:
    def __reduce__(self) -> Any:
        return (open, ("evil-was-here", "w"))


def hostile_target(record: str, data: bytes) -> bytes:
    return data.replace(b"torch.ops.aten.relu.default", b"torch.os.system") if record.startswith("models/") else data


def hostile_inputs(record: str, data: bytes) -> bytes:
    if not record.startswith("data/sample_inputs/"):
        return data
    import io

    buffer = io.BytesIO()
    torch.save(Evil(), buffer)
    return buffer.getvalue()


def hostile_size(record: str, data: bytes) -> bytes:
    if not record.startswith("models/"):
        return data
    return data.replace(b'{"as_int":1}', b'{"as_expr":{"expr_str":"open(chr(101))","hint":{"as_int":1}}}').replace(
        b'{"as_int": 1}', b'{"as_expr": {"expr_str": "open(chr(101))", "hint": {"as_int": 1}}}'
    )


def hostile_weights(record: str, data: bytes) -> bytes:
    return data.replace(b'"use_pickle": false', b'"use_pickle": true').replace(
        b'"use_pickle":false', b'"use_pickle":true'
    )


@pytest.mark.parametrize("change", [hostile_target, hostile_inputs, hostile_size, hostile_weights])
def test_files_that_would_run_code_are_refused(
    change: Callable[[str, bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program = torch.export.export(Net(nn.Conv2d(4, 4, 1), torch.relu), (image(),))
    torch.export.save(program, tmp_path / "good.pt2")
    FxGraph.load(tmp_path / "good.pt2")
    bad = rewritten(tmp_path / "good.pt2", tmp_path / "bad.pt2", change)
    with pytest.raises(PorterError) as error:
        FxGraph.load(bad)
    assert error.value.code == "PT504"
    assert not Path("evil-was-here").exists()


def test_broken_files_have_their_codes(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Fn(torch.relu), (image(),)), tmp_path / "good.pt2")
    data = (tmp_path / "good.pt2").read_bytes()
    (tmp_path / "short.pt2").write_bytes(data[: len(data) // 2])
    torch.save({"weight": image()}, tmp_path / "weights.pt2")
    codes = {}
    for name in ("missing", "short", "weights"):
        with pytest.raises(PorterError) as error:
            FxGraph.load(tmp_path / f"{name}.pt2")
        codes[name] = error.value.code
    assert codes == {"missing": "PT501", "short": "PT502", "weights": "PT503"}


# -- what cannot be captured


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x + 1
        return x - 1


class Counter_(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x + self.count


def test_data_dependent_control_flow_names_the_line() -> None:
    with pytest.raises(PorterError) as error:
        FxGraph.capture(Branch(), [image()])
    assert error.value.code == "PT310"
    assert f"{__file__}:{line_of(Branch.forward, 'if x.sum()')}" in (error.value.where or "")
    assert "torch.where" in (error.value.fix or "")


class Cond(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))


class Dynamic(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return x.nonzero(), x[x > 0], x * torch.ones(()).item()


@pytest.mark.parametrize(("module", "kind"), [(Cond(), "if"), (Dynamic(), "nonzero")])
def test_what_data_decides_is_kept_and_named(module: nn.Module, kind: str, tmp_path: Path) -> None:
    graph = FxGraph.capture(module, [("x", (1, 4, 6, 8), None)])
    assert kind in kinds(graph)
    graph.save(tmp_path / "m.pt2")
    for g in (graph, graph.copy(), FxGraph.load(tmp_path / "m.pt2")):
        for e, out in zip(tensors(module(image())), g.run({"x": image().numpy()}), strict=True):
            np.testing.assert_array_equal(out, e.numpy())


def test_state_that_changes_is_refused() -> None:
    with pytest.raises(PorterError) as error:
        FxGraph.capture(Counter_(), [image()])
    assert error.value.code == "PT310" and "count" in error.value.message


def test_wrong_inputs_name_the_line() -> None:
    with pytest.raises(PorterError) as error:
        FxGraph.capture(Detector(), [("images", (1, 3, 8, 8), None)])
    assert error.value.code == "PT506"
    assert f"{__file__}:{line_of(Head.forward, 'self.pred(x)')}" in (error.value.where or "")


class Two(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor, *, gain: float = 2.0) -> torch.Tensor:
        return left - right * gain


def test_inputs_go_where_their_names_say() -> None:
    graph = FxGraph.capture(Two(), [("right", (2,), None), ("other", (2,), None)])
    assert [v.name for v in graph.inputs] == ["other", "right"]
    a, b = np.float32([1, 2]), np.float32([3, 4])
    np.testing.assert_array_equal(graph.run({"right": b, "other": a})[0], a - 2 * b)
    with pytest.raises(PorterError) as error:
        FxGraph.capture(Two(), [("left", (2,), None)])
    assert error.value.code == "PT506" and "right" in error.value.message
    with pytest.raises(PorterError) as error:
        FxGraph.capture(Two(), [(None, (2,), None)] * 3)
    assert error.value.code == "PT506"


@pytest.mark.parametrize(
    "feed", [[], {"y": image().numpy()}, [image(1, 4, 6, 9).numpy()], [image().numpy().astype(np.float64)]]
)
def test_wrong_feeds(feed: Any) -> None:
    with pytest.raises(PorterError) as error:
        FxGraph.capture(Fn(torch.relu), [("x", (1, 4, 6, 8), None)]).run(feed)
    assert error.value.code == "PT506"


def test_bfloat16_weights_are_readable() -> None:
    graph = FxGraph.capture(Net(nn.Linear(8, 4)).bfloat16(), [("x", (1, 8), "bfloat16")])
    weight = graph.ops()[0].inputs[1]
    assert weight.dtype == "bfloat16" and str(weight.numpy().dtype) == "bfloat16"
    graph.run([weight.numpy()[:1]])


def test_origin_known_even_without_a_line() -> None:
    assert Origin(source=("x",)).known
