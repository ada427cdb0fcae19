# SPDX-License-Identifier: Apache-2.0
"""The page of all rewrites, and what it says: that a rule works on torch models and on ONNX models alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import porter
from porter.dialects.onnx import OnnxGraph
from porter.registry import rules
from porter.report.rule_pages import TOPICS, page, rules_of
from porter.target import Target

DOCS = Path(__file__).parents[2] / "docs" / "rules.md"
#: What a small accelerator has. Each example is ported to one that lacks the kinds of its topic.
BASIC = (
    "add sub mul div exp log sqrt relu maximum minimum clamp sigmoid tanh floor abs sign neg square reciprocal conv1d "
    "conv2d matmul linear softmax sum mean amax amin reshape permute slice cat pad max_pool2d avg_pool2d gather take "
    "where gt eq expand cast pow softplus erf logical_not leaky_relu split pixel_shuffle hardsigmoid topk"
)
T = torch.linspace(-2, 2, 192).reshape(1, 4, 6, 8)


def own(module: nn.Module) -> nn.Module:
    """Weights that are not what they are at the start."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.0, 0.4)
    return module


class Steps(nn.Module):
    """What a recurrent layer makes of a sequence."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = own(layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[0])[0]


def _put(x: Tensor) -> Tensor:
    y = x * 1
    y[:, 1:3, ::2] = 7
    return y


GRID = torch.stack(torch.meshgrid(torch.linspace(-1, 1, 4), torch.linspace(-0.9, 1, 5), indexing="ij"), -1)[None]
EXAMPLES: dict[str, list[Callable[..., Any]]] = {
    "layer norm": [own(nn.LayerNorm(8))],
    "group norm, instance norm": [own(nn.GroupNorm(2, 4)), own(nn.InstanceNorm2d(4, affine=True))],
    "RMS norm": [own(nn.RMSNorm(8))],
    "L2 norm": [lambda x: F.normalize(x, dim=1), lambda x: torch.linalg.vector_norm(x, dim=3)],
    "batch norm, local response norm": [own(nn.BatchNorm2d(4))],
    "GELU, erf": [F.gelu, lambda x: F.gelu(x, approximate="tanh")],
    "ELU, CELU, SELU": [F.elu, lambda x: F.celu(x, 1.3), F.selu],
    "Mish": [F.mish],
    "Softplus, log-sigmoid": [F.softplus, F.logsigmoid],
    "PReLU, leaky ReLU": [own(nn.PReLU(4)), F.leaky_relu],
    "hard swish, hard sigmoid": [F.hardswish, F.hardsigmoid],
    "SiLU": [F.silu],
    "other activations": [F.relu6, lambda x: F.threshold(x, 0.5, 0.1)],
    "softmax, log-softmax, logsumexp": [lambda x: F.softmax(x, 1), lambda x: F.log_softmax(x, 3),
                                        lambda x: torch.logsumexp(x, 2)],
    "einsum": [lambda x: torch.einsum("bchw,bdhw->bcd", x, x * 2)],
    "attention": [lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1, is_causal=True)],
    "gather and index by constants": [lambda x: x[:, [2, 0]],
                                      lambda x: x.index_select(2, torch.tensor([5, 0]))],
    "assignment to slices and indices": [_put],
    "argmax, argmin, max with indices": [lambda x: x.argmax(1)],
    "topk, sort": [lambda x: x.topk(3, 1)[0], lambda x: x.sort(1)[0]],
    "cumulative sum": [lambda x: x.cumsum(2)],
    "where, masks, triangles": [lambda x: torch.where(x > 0.3, x, 1 - x),
                                lambda x: x.tril()],
    "comparisons and logic": [lambda x: (x >= 0.2) * 1.0],
    "padding (constant, reflecting, replicating, circular, negative)": [
        lambda x: F.pad(x, (1, 2, 0, 1)), lambda x: F.pad(x, (2, 1, 1, 1), "reflect"),
        lambda x: F.pad(x, (2, 0, 1, 1), "replicate"), lambda x: F.pad(x, (-1, 2))],
    "roll, flip": [lambda x: x.roll((1, 2), (1, 3)), lambda x: x.flip((2, 3))],
    "pixel shuffle and unshuffle, space to depth, channel shuffle": [
        lambda x: F.pixel_shuffle(x, 2), lambda x: F.pixel_unshuffle(x, 2), lambda x: F.channel_shuffle(x * 1, 2)],
    "resize (nearest, linear, cubic; align_corners, half_pixel; antialias)": [
        lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
        lambda x: F.interpolate(x, size=(9, 5), mode="bilinear", align_corners=True),
        lambda x: F.interpolate(x, size=(12, 16), mode="bilinear", align_corners=False),
        lambda x: F.interpolate(x, size=(9, 12), mode="bicubic", align_corners=False)],
    "grid sample, affine grid": [
        lambda x: F.grid_sample(x, GRID.to(x.dtype), align_corners=False),
        lambda x: F.grid_sample(x, torch.tanh(x[:, :2].permute(0, 2, 3, 1)), mode="bicubic", align_corners=True)],
    "max pooling (large kernels, ceil mode, indices)": [lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True)],
    "average pooling": [lambda x: F.avg_pool2d(x, 3, 2, 1), lambda x: F.avg_pool1d(x[:, :, 0], 2)],
    "adaptive and global pooling": [lambda x: F.adaptive_avg_pool2d(x, 1), lambda x: F.adaptive_max_pool2d(x, (2, 4))],
    "convolution (large, dilated, strided, asymmetric, grouped, depthwise, 1-D, 3-D, many channels)": [
        own(nn.Conv2d(4, 3, 1)), own(nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 3, 1)))],
    "transposed convolution": [own(nn.ConvTranspose2d(4, 3, 2, 2)), own(nn.ConvTranspose2d(4, 3, 3, 2, 1))],
    "unfold (im2col)": [lambda x: F.unfold(x, 3, padding=1)],
    "linear, gemm, matmul to and from a 1x1 convolution": [own(nn.Linear(8, 3))],
    "reshape, flatten, squeeze, unsqueeze": [lambda x: (x * 2)[:, :, :, None]],
    "permute": [lambda x: (x * 2)[:, :1].permute(0, 2, 3, 1)],
    "slice, select, split, chunk, unbind": [lambda x: torch.cat(x.chunk(3, 2)[::-1], 2), lambda x: x.unbind(1)[2] * 2],
    "concatenate, stack": [lambda x: torch.stack((x, x * 2), 2).sum(2)],
    "expand, repeat, meshgrid": [lambda x: x.repeat(1, 2, 1, 3), lambda x: x[:, :1].expand(1, 5, 6, 8)],
    "reductions": [lambda x: x.var((2, 3)), lambda x: x.prod(1), lambda x: x.std(3)],
    "arithmetic": [lambda x: x / (x * x + 1), lambda x: torch.remainder(x, 0.75), lambda x: x**3, torch.rsqrt],
    "other functions": [torch.expm1, torch.round, torch.sinh, lambda x: torch.log1p(x.abs())],
    "casts": [lambda x: (x > 0).to(torch.float32)],
    "LSTM, GRU, RNN": [Steps(nn.LSTM(8, 3)), Steps(nn.GRU(8, 3, bidirectional=True)), Steps(nn.RNN(8, 3))],
}  # fmt: skip
#: Kinds that the rules of a topic need: the example is about another of its kinds.
KEPT = {
    "other activations": "relu",
    "comparisons and logic": "gt eq logical_or",
    "linear, gemm, matmul to and from a 1x1 convolution": "matmul",
    "reshape, flatten, squeeze, unsqueeze": "reshape",
    "slice, select, split, chunk, unbind": "slice",
    "concatenate, stack": "cat",
    "reductions": "sum mean amax",
    "arithmetic": "sub maximum minimum abs neg sign sqrt reciprocal",
    "GELU, erf": "erf",
}


class Call(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


CASES = [
    pytest.param(title, function, id=f"{title.split(' (')[0]}-{i}")
    for title, functions in EXAMPLES.items()
    for i, function in enumerate(functions)
]


@pytest.mark.parametrize(("title", "function"), CASES)
def test_both_dialects(title: str, function: Callable[..., Any], tmp_path: Path) -> None:
    (topic,) = (topic for topic in TOPICS if topic.title == title)
    kept = {*KEPT.get(title, "").split()}
    lacking = {*topic.kinds} - kept
    path = tmp_path / "small.toml"
    head = (
        '[target]\nname = "small"\nclosed = true\n[runtime]\nframework = "toy"\ndtypes = ["float32", "int64", "bool"]\n'
    )
    path.write_text(head + "".join(f"[ops.{kind}]\n" for kind in sorted({*BASIC.split()} - lacking | kept)))
    target = Target.load(path)
    module = function if isinstance(function, nn.Module) else Call(function)
    of_torch = porter.load(module.eval(), {"x": tuple(T.shape)})
    of_onnx = OnnxGraph.from_graph(of_torch, 20)
    mine = {rule.name for part in rules_of(topic) for rule in part}
    for graph in (of_torch, of_onnx):
        held = {op.kind for op in graph.ops()} & lacking
        made = porter.rewrite(graph, target, samples=1)
        assert made.ok, [str(finding) for finding in made.report.findings]
        assert made.evidence is not None and made.evidence.ok and made.evidence.worst.relative < 1e-4
        used = {name for entry in made.ledger.entries for name in entry.rules}
        # ONNX has no operator of its own for some kinds (SiLU, roll, var); the model is then written without them.
        assert used & mine or (graph is of_onnx and not held), f"{graph.dialect}: {sorted(used)}"
        assert not {op.kind for op in made.graph.ops()} & lacking


def test_every_topic_has_an_example() -> None:
    assert EXAMPLES.keys() == {topic.title for topic in TOPICS if topic.kinds}


def test_every_rule_is_of_a_topic() -> None:
    told = {rule.name for topic in TOPICS for part in rules_of(topic) for rule in part}
    own_ = {rule.name for rule in rules().values() if rule.build.__module__.startswith("porter.rewrites.")}
    assert own_ <= told
    for topic in TOPICS:
        assert topic.otherwise or any(rules_of(topic)), topic.title
        assert {*topic.names} <= rules().keys()


def test_the_page_in_docs_is_of_these_rules() -> None:
    assert DOCS.read_text(encoding="utf-8") == page(), "run `make pages`"
