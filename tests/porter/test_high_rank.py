# SPDX-License-Identifier: Apache-2.0
"""Blocks of vision transformers and shuffles on a device with at most four axes, from torch and from ONNX."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from porter.dialects.fx import FxGraph
from porter.dialects.onnx import OnnxGraph
from porter.legalize import check, legalize
from porter.target import Target
from porter.verify import verify

HEAD = '[target]\nname = "toy"\nclosed = true\n[runtime]\nframework = "toy"\nmax_rank = 4\ndtypes = ["float32"]\n'
KINDS = "reshape permute slice cat add sub mul div matmul softmax linear expand relu"


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy.toml"
    path.write_text(HEAD + "".join(f"[ops.{kind}]\n" for kind in KINDS.split()))
    return Target.load(path)


def windows(x, w):
    b, h, wide, c = x.shape
    return x.view(b, h // w, w, wide // w, w, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, w, w, c)


def unwindows(x, w, h, wide):
    b = x.shape[0] // (h * wide // w // w)
    return x.view(b, h // w, wide // w, w, w, -1).permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, wide, -1)


class Swin(nn.Module):
    """One block of window attention with a shift mask: tensors of six and of five axes."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        mask = torch.zeros(4, 4, 4)
        mask[1:, :, 2:] = -100.0
        self.register_buffer("mask", mask)

    def forward(self, x):
        b, h, w, c = x.shape
        x = windows(x, 2).view(-1, 4, c)
        q, k, v = self.qkv(x).reshape(-1, 4, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        a = (q * 0.5) @ k.transpose(-2, -1)
        a = a.view(b, 4, 2, 4, 4) + self.mask.unsqueeze(1).unsqueeze(0)
        a = a.view(-1, 2, 4, 4).softmax(-1)
        x = self.proj((a @ v).transpose(1, 2).reshape(-1, 4, c))
        return unwindows(x.view(-1, 2, 2, c), 2, h, w)


class Shuffles(nn.Module):
    def forward(self, x):
        b, c, h, w = x.shape
        y = x.view(b, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, c // 4, h * 2, w * 2)
        z = y.view(b, c // 4, h, 2, w, 2).permute(0, 3, 5, 1, 2, 4).reshape(b, c, h, w)
        return torch.relu(z.view(b, 2, c // 2, h, w).transpose(1, 2)).reshape(b, c, h, w)


class Grouped(nn.Module):
    """Keys that several query heads share, repeated through a fifth axis."""

    def forward(self, q, k):
        b, heads, n, d = k.shape
        more = k[:, :, None].expand(b, heads, 2, n, d).reshape(b, heads * 2, n, d)
        return torch.softmax(q @ more.transpose(-1, -2), -1) @ more


BLOCKS = {
    "swin": (Swin, [(2, 4, 4, 8)]),
    "shuffles": (Shuffles, [(2, 8, 3, 5)]),
    "grouped": (Grouped, [(1, 4, 3, 5), (1, 2, 6, 5)]),
}


@functools.cache
def captured(block):
    module, shapes = BLOCKS[block]
    return FxGraph.capture(module().eval(), [(None, shape, None) for shape in shapes])


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("dialect", ["fx", "onnx"])
def test_blocks(block, dialect, toy):
    graph, shapes = captured(block), BLOCKS[block][1]
    if dialect == "onnx":
        graph = OnnxGraph.from_graph(graph)
    assert max(len(v.shape) for op in graph.ops() for v in op.outputs) > 4
    promised = check(graph, toy)
    new, ledger, _, after = legalize(graph, toy)
    assert promised.portable and after.ok, after.findings
    assert max(len(v.shape) for op in new.ops() for v in op.outputs) <= 4
    inputs = [[np.random.default_rng(s).standard_normal(shape, np.float32) for shape in shapes] for s in range(2)]
    evidence = verify(graph, new, inputs, [e.value for e in ledger.entries])
    assert evidence.ok, evidence.worst
    assert ledger.claim in ("exact", "bounded")
