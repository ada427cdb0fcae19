# SPDX-License-Identifier: Apache-2.0
"""Random programs of views and in-place writes: the captured graph computes what eager torch computes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from porter.dialects import fx_capture
from porter.dialects.fx import FxGraph

torch.set_num_threads(1)

Step = tuple[str, int, int, Any]


def view_of(t: torch.Tensor, choice: int) -> torch.Tensor:
    """One of the views of a tensor."""
    last = t.shape[-1]
    views: list[Callable[[], torch.Tensor]] = [
        lambda: t[..., : max(1, last // 2)],
        lambda: t[..., ::2],
        lambda: t[0] if t.dim() > 1 else t,
        lambda: t.select(-1, last - 1) if t.dim() > 1 else t,
        lambda: t.transpose(0, -1),
        lambda: t.flatten(),
        lambda: t.unsqueeze(0),
        lambda: t.squeeze(),
        lambda: t.split(max(1, (last + 1) // 2), -1)[-1],
        lambda: t.unbind(0)[-1] if t.dim() > 1 else t,
        lambda: t.chunk(2, 0)[0],
        lambda: t.reshape(-1, 1),
        lambda: t.permute(*reversed(range(t.dim()))),
        lambda: t.detach(),
        lambda: t.contiguous(),
        lambda: t.to(torch.float32),
        lambda: t.clone(),
        lambda: t.narrow(0, t.shape[0] - 1, 1),
    ]
    return views[choice % len(views)]()


def write_to(t: torch.Tensor, other: torch.Tensor, choice: int) -> None:
    writes: list[Callable[[], Any]] = [
        lambda: t.add_(1.5),
        lambda: t.mul_(-0.5),
        lambda: t.relu_(),
        lambda: t.zero_(),
        lambda: t.fill_(2.0),
        lambda: t.copy_(other.mean()),
        lambda: t.copy_(other.flatten()[: t.shape[-1]].clone()) if other.numel() >= t.shape[-1] else t.neg_(),
        lambda: t.masked_fill_(t > 0, 0.25),
        lambda: t.clamp_(-1, 1),
        lambda: t.sigmoid_(),
        lambda: t.sub_(other.sum(), alpha=2),
    ]
    writes[choice % len(writes)]()


class Program(nn.Module):
    """Steps on a growing list of tensors; every one of them is returned at the end."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        held = [x * 1]
        for what, i, j, choice in self.steps:
            t, other = held[i % len(held)], held[j % len(held)]
            if what == "view":
                held.append(view_of(t, choice))
            elif what == "write":
                write_to(t, other, choice)
            else:
                held.append(t * 0.5 + other.mean())
        return held


def program(seed: int) -> Program:
    pick = random.Random(seed)
    kinds = ["view", "view", "write", "write", "compute"]
    return Program(
        [(pick.choice(kinds), pick.randrange(99), pick.randrange(99), pick.randrange(999)) for _ in range(12)]
    )


@pytest.mark.parametrize("seed", range(40))
def test_random_programs(seed: int) -> None:
    module = program(seed)
    x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(seed))
    graph = FxGraph.capture(module, [x])
    with torch.no_grad():
        expected = module(x.clone())
    for e, g in zip(expected, graph.run([x.numpy()]), strict=True):
        np.testing.assert_allclose(g, e.numpy(), rtol=1e-5, atol=1e-6)
    assert all(op.origin.line for op in graph.ops())
    assert not any(str(op.node.target).endswith("_.Tensor") for op in graph.ops())


def test_torchs_own_functionalization_is_not_needed_for_these(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fallback loses lines; count how often these programs need it."""
    used = []
    original = torch.export.ExportedProgram.run_decompositions
    monkeypatch.setattr(
        torch.export.ExportedProgram, "run_decompositions", lambda self, *a: used.append(1) or original(self, *a)
    )
    for seed in range(10):
        FxGraph.capture(program(seed), [torch.zeros(3, 4, 6)])
    assert used == []


def test_views_that_cannot_be_written_back_fall_back_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Diagonal(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            y.diagonal().fill_(1.0)
            return y

    raised = []
    original = fx_capture._Fallback
    monkeypatch.setattr(fx_capture, "_Fallback", type("Seen", (original,), {"__init__": lambda self: raised.append(1)}))
    x = torch.randn(4, 4)
    graph = FxGraph.capture(Diagonal(), [x])
    assert raised
    np.testing.assert_array_equal(graph.run([x.numpy()])[0], Diagonal()(x).numpy())
