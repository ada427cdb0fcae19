# SPDX-License-Identifier: Apache-2.0
"""Networks for the tests of pruning: a random one from a list of steps, and small ones that show one thing each."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

STEPS = (
    "conv", "residual", "bottleneck", "inverted", "grouped", "depthwise", "multiplier", "concat", "dense", "chunk",
    "split", "slice", "gate", "pool", "upsample", "preact", "shared", "prelu", "transposed",
)  # fmt: skip
#: Activations that keep 0 at 0: with them a silent channel is 0 everywhere.
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Identity)


def unit(c_in: int, c_out: int, kernel: int, rng: random.Random, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, a random activation."""
    bias = rng.random() < 0.3
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), rng.choice(ACTIVATIONS)())


class Step(nn.Module):
    """One step of a random network: ``kind`` is one of STEPS; ``out`` is the number of channels it gives."""

    def __init__(self, kind: str, c: int, rng: random.Random) -> None:
        super().__init__()
        self.kind = kind
        self.out = c
        if kind in ("conv", "pool", "upsample"):
            self.out = rng.choice((4, 8, 12))
            self.a = unit(c, self.out, rng.choice((1, 3)), rng)
        elif kind in ("residual", "bottleneck"):
            hidden = c if kind == "residual" else 4
            self.a, self.b = unit(c, hidden, 1, rng), unit(hidden, c, 3, rng)
        elif kind == "inverted":
            self.a, self.b = unit(c, 2 * c, 1, rng), unit(2 * c, 2 * c, 3, rng, groups=2 * c)
            self.c = unit(2 * c, c, 1, rng)
        elif kind == "grouped":
            self.a, self.b = unit(c, 8, 1, rng), unit(8, 8, 3, rng, groups=rng.choice((2, 4)))
            self.out = 8
        elif kind == "depthwise":
            self.a, self.b = unit(c, c, 3, rng, groups=c), unit(c, c, 1, rng)
        elif kind == "multiplier":
            self.a, self.b = unit(c, 2 * c, 3, rng, groups=c), unit(2 * c, c, 1, rng)
        elif kind in ("concat", "dense"):
            self.a, self.b = unit(c, 4, 1, rng), unit(c, 8, 3, rng)
            self.out = 12 + (c if kind == "dense" else 0)
        elif kind in ("chunk", "split", "slice"):
            self.a, self.b = unit(c, 8, 1, rng), unit(4, 4, 3, rng)
            self.out = 8 if kind != "slice" else 4
        elif kind == "gate":
            self.a, self.b, self.c = unit(c, c, 1, rng), nn.Conv2d(c, 4, 1), nn.Conv2d(4, c, 1)
        elif kind == "preact":
            self.a, self.norm, self.b = unit(c, c, 1, rng), nn.BatchNorm2d(c), nn.Conv2d(c, c, 1)
        elif kind == "shared":
            self.a, self.b = unit(c, c, 1, rng), unit(c, c, 3, rng)
        elif kind == "prelu":
            self.a, self.b = unit(c, 8, 1, rng), nn.PReLU(8)
            self.out = 8
        elif kind == "transposed":
            self.a = unit(c, 8, 1, rng)
            self.b = nn.Sequential(nn.ConvTranspose2d(8, 6, 2, stride=2), nn.BatchNorm2d(6), nn.ReLU())
            self.out = 6

    def forward(self, x: Tensor) -> Tensor:
        kind = self.kind
        if kind == "conv":
            return self.a(x)
        if kind == "pool":
            return nn.functional.max_pool2d(self.a(x), 3, 1, 1)
        if kind == "upsample":
            return nn.functional.avg_pool2d(nn.functional.interpolate(self.a(x), scale_factor=2.0), 2)
        if kind in ("residual", "bottleneck"):
            return x + self.b(self.a(x))
        if kind == "inverted":
            return x + self.c(self.b(self.a(x)))
        if kind in ("grouped", "depthwise", "multiplier"):
            return self.b(self.a(x))
        if kind == "concat":
            return torch.cat((self.a(x), self.b(x)), 1)
        if kind == "dense":
            return torch.cat((x, self.a(x), self.b(x)), 1)
        if kind == "chunk":
            p, q = self.a(x).chunk(2, 1)
            return torch.cat((self.b(q), p), 1)
        if kind == "split":
            p, q = self.a(x).split([4, 4], 1)
            return torch.cat((self.b(q), p), 1)
        if kind == "slice":
            y = self.a(x)
            return self.b(y[:, :4]) + y[:, 4:]
        if kind == "gate":
            y = self.a(x)
            weight = self.c(torch.relu(self.b(y.mean((2, 3), keepdim=True))))
            return y * torch.sigmoid(weight)
        if kind == "preact":
            y = self.a(x)
            return y + self.b(torch.relu(self.norm(y)))
        if kind == "shared":
            return self.a(self.b(self.a(x)))
        if kind == "prelu":
            return self.b(self.a(x))
        return nn.functional.max_pool2d(self.b(self.a(x)), 2)


class RandomNet(nn.Module):
    """A stem, random steps, and either a classifier or a detection head; the input is 1x3x8x8."""

    def __init__(self, steps: Sequence[str], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        rng = random.Random(seed)
        self.stem = unit(3, 8, 3, rng)
        self.body = nn.ModuleList()
        c = 8
        for kind in steps:
            self.body.append(Step(kind, c, rng))
            c = self.body[-1].out
        self.detects = rng.random() < 0.5
        self.head = nn.Conv2d(c, 12, 1) if self.detects else nn.Linear(c * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for step in self.body:
            x = step(x)
        if self.detects:
            y = self.head(x)
            return y.view(y.shape[0], 3, 4, -1).permute(0, 1, 3, 2)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))


def set_norms(model: nn.Module, seed: int, zeros: float, beta_of_zeros: bool) -> None:
    """Random statistics and betas; gamma is 1, and 0 in a random share ``zeros`` of the channels of each layer (never
    all), where beta is 0 as well unless ``beta_of_zeros``."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                count = module.num_features
                module.running_mean.copy_(torch.randn(count, generator=generator))
                module.running_var.copy_(torch.rand(count, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(count, generator=generator))
                gone = torch.rand(count, generator=generator) < zeros
                gone[int(torch.randint(count, (1,), generator=generator))] = False
                module.weight.fill_(1).masked_fill_(gone, 0)
                if not beta_of_zeros:
                    module.bias.masked_fill_(gone, 0)
