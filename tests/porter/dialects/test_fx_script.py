# SPDX-License-Identifier: Apache-2.0
"""TorchScript files: traced and scripted modules become the graphs that they are."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from porter.dialects.fx import FxGraph
from porter.errors import PorterError
from porter.ops import kind_known

torch.set_num_threads(1)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.fuse = nn.Conv2d(16, 8, 1)
        self.register_buffer("scale", torch.tensor([2.0]))

    def decode(self, y: torch.Tensor) -> torch.Tensor:
        y[..., :2] = y[..., :2] * self.scale + 1
        return y

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [block(image) for block in self.blocks]
        y = self.fuse(torch.cat(parts, 1))
        y = F.interpolate(y, scale_factor=2.0)
        a, b = torch.split(y, 4, dim=1)
        flat = (a * 2 + b).flatten(2).permute(0, 2, 1)
        h, w = y.shape[-2:]
        grid = torch.arange(h * w // 4).to(flat.dtype)
        return self.decode(flat.clone()), grid.view(1, -1) / 3


class Decided(nn.Module):
    """Branches and loops that shapes decide."""

    def forward(self, x: torch.Tensor, gain: float = 2.0) -> torch.Tensor:
        if x.dim() == 4:
            x = x.flatten(1)
        out: list[torch.Tensor] = []
        for i in range(x.shape[1] // 32):
            out.append(x[:, i : i + 4] * (i + 1))
        if len(out) > 2:
            return torch.stack(out, 1) * gain
        return x


class Undecided(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            return x + 1
        return x - 1


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (1, 3, 8, 8), generator=torch.Generator().manual_seed(3))


def saved(script: Any, tmp_path: Path) -> Path:
    script.save(tmp_path / "model.pt")
    return tmp_path / "model.pt"


def same(graph: FxGraph, module: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        expected = module(x.clone())
    expected = expected if isinstance(expected, tuple) else (expected,)
    for e, g in zip(expected, graph.run([x.numpy()]), strict=True):
        np.testing.assert_allclose(g, e.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("how", ["trace", "script"])
def test_a_detector(how: str, tmp_path: Path) -> None:
    module = Net().eval()
    script = torch.jit.trace(module, image()) if how == "trace" else torch.jit.script(module)
    graph = FxGraph.from_torchscript(saved(script, tmp_path), [("images", (1, 3, 8, 8), None)])
    same(graph, module, image())
    kinds = [op.kind for op in graph.ops()]
    assert all(map(kind_known, kinds))
    assert {"conv2d", "batch_norm", "silu", "cat", "resize", "split", "slice_assign", "arange"} <= set(kinds)
    assert [v.name for v in graph.inputs] == ["images"]
    convs = [op for op in graph.ops() if op.kind == "conv2d"]
    assert [op.inputs[1].name for op in convs] == ["blocks.0.conv.weight", "blocks.1.conv.weight", "fuse.weight"]
    assert [op.origin.module for op in convs] == ["blocks.0.conv", "blocks.1.conv", "fuse"]
    assign = next(op for op in graph.ops() if op.kind == "slice_assign")
    _, start = inspect.getsourcelines(Net.decode)
    assert (assign.origin.file, assign.origin.line) == (__file__, start + 1)
    assert all(op.origin.file for op in graph.ops())
    parameters = dict(graph.module().named_parameters())
    assert "blocks.0.conv.weight" in parameters and "scale" in dict(graph.module().named_buffers())


def test_a_trace_for_another_size_than_it_was_made_with(tmp_path: Path) -> None:
    module = Net().eval()
    path = saved(torch.jit.trace(module, image()), tmp_path)
    graph = FxGraph.from_torchscript(path, [(None, (1, 3, 12, 16), None)])
    expected = torch.jit.load(str(path))(image(1, 3, 12, 16))
    for e, g in zip(expected, graph.run([image(1, 3, 12, 16).numpy()]), strict=True):
        np.testing.assert_allclose(g, e.detach().numpy(), rtol=1e-6, atol=1e-6)


def test_branches_and_loops_that_shapes_decide(tmp_path: Path) -> None:
    graph = FxGraph.from_torchscript(saved(torch.jit.script(Decided()), tmp_path), [("x", (1, 2, 8, 8), None)])
    same(graph, Decided(), image(1, 2, 8, 8))
    assert [op.kind for op in graph.ops()].count("slice") == 4


def test_what_data_decides_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PorterError) as error:
        FxGraph.from_torchscript(saved(torch.jit.script(Undecided()), tmp_path), [("x", (2, 2), None)])
    assert error.value.code == "PT310"
    assert f"{__file__}:{inspect.getsourcelines(Undecided.forward)[1] + 1}" in (error.value.where or "")


def test_wrong_inputs_and_files(tmp_path: Path) -> None:
    path = saved(torch.jit.trace(Net().eval(), image()), tmp_path)
    (tmp_path / "short.pt").write_bytes(path.read_bytes()[:2000])
    cases = [
        (tmp_path / "none.pt", [("x", (1,), None)], "PT501"),
        (tmp_path / "short.pt", [("x", (1,), None)], "PT502"),
        (path, [], "PT507"),
        (path, [("x", (1, 4, 8, 8), None)], "PT506"),
        (path, [("a", (1,), None), ("b", (1,), None)], "PT506"),
    ]
    for file, inputs, code in cases:
        with pytest.raises(PorterError) as error:
            FxGraph.from_torchscript(file, inputs)
        assert error.value.code == code
