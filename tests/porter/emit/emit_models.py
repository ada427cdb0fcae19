# SPDX-License-Identifier: Apache-2.0
"""A small detector that the MLU270 runs as it is, and its bundle."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import porter
from porter.emit.bundle import Bundle, emit
from porter.graph import Graph
from porter.ops import Array
from porter.target import Target

SHAPE = (1, 12, 16, 16)


class Detector(nn.Module):
    """Twelve input channels (as behind a Focus layer), batch norm, depthwise and plain convolution, a linear layer.

    Outputs: rows of two coordinates of hundreds and four scores in 0..1; a vector of five.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.head = nn.ModuleList([nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)])
        self.fc = nn.Linear(8, 5)
        self.register_buffer("grid", torch.arange(245.0).reshape(1, 245, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        x = F.relu(self.depthwise(x * torch.sigmoid(x)))
        maps = [self.head[0](x).flatten(2), self.head[1](F.max_pool2d(x, 2, 2)).flatten(2)]
        rows = torch.cat(maps, 2).permute(0, 2, 1)
        rows = torch.cat([rows[..., :2] * 100 + self.grid, torch.sigmoid(3 * rows[..., 2:])], -1)
        return rows, self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


@cache
def detector() -> Detector:
    torch.manual_seed(3)
    net = Detector().eval()
    with torch.no_grad():
        net.stem[1].running_mean.uniform_(-0.2, 0.2)
        net.stem[1].running_var.uniform_(0.5, 1.5)
    return net


def samples(count: int) -> list[list[Array]]:
    rng = np.random.default_rng(5)
    return [[rng.normal(size=SHAPE).astype(np.float32)] for _ in range(count)]


@cache
def graph() -> Graph:
    return porter.load(detector(), {"x": SHAPE})


@cache
def quantized(*dtypes: str, **options: Any) -> tuple[Any, ...]:
    return tuple(porter.quantize(graph(), "mlu270", samples(4), dtype=d, **options) for d in dtypes)


def bundle(out: Path, *dtypes: str, **options: Any) -> Bundle:
    made = quantized(*dtypes, **options)
    return emit(graph(), Target.load("mlu270"), out, inputs=samples(2), quantized=made)
