# SPDX-License-Identifier: Apache-2.0
"""Small networks for QAT: one with everything that has a rule of its own, and random ones."""

from __future__ import annotations

import functools
import os
import random

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from porter.target import Target
from porter.train.qat import convert


@functools.cache
def target(name: str) -> Target:
    return Target.load(name)


class Pyramid(nn.Module):
    """A stem, a residual, two levels and a head that both share, layer and batch norm alike; 16 x 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depth = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))
        self.head = nn.Conv2d(8, 8, 1)
        self.head_norm = nn.BatchNorm2d(8)
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, img: torch.Tensor) -> list[torch.Tensor]:
        x = torch.relu(self.norm(self.stem(img)))
        x = x + self.depth(x)
        pooled = nn.functional.max_pool2d(x, 2)
        x = x + nn.functional.interpolate(pooled, scale_factor=2, mode="nearest")
        return [self.out(torch.relu(self.head_norm(self.head(level)))) for level in (x, pooled)]


class Named(nn.Module):
    """N stands in a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        x = self.conv(img)
        beside = torch.ones(x.shape[0], 4, 16, 16) * 0.5
        return self.last(torch.cat([x, beside], 1)).view(x.shape[0], 4, -1)


def lively(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with batch norms as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.copy_(torch.randn(norm.num_features, generator=generator) * 0.3)
            norm.running_var.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
            norm.weight.data.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
            norm.bias.data.copy_(torch.randn(norm.num_features, generator=generator) * 0.3)
    return module.eval()


def seeded(make, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return lively(make(), seed)


def batch(size: int = 3, seed: int = 0, side: int = 16) -> torch.Tensor:
    return torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(seed))


def pyramid(name: str = "x5", calibrated: bool = True, **options):
    """A converted Pyramid, in evaluation mode, calibrated on three batches."""
    names = options.pop("output_names", ("fine", "coarse"))
    network = convert(seeded(Pyramid), batch(), target(name), output_names=names, **options).eval()
    return calibrate(network) if calibrated else network


def calibrate(network, side: int = 16):
    network.observe()
    with torch.no_grad():
        for seed in range(3):
            network(batch(2, seed, side))
    return network.freeze_ranges()


class Random(nn.Module):
    """Convolutions (plain, depthwise, with and without batch norm and relu), additions, concatenations, pooling and
    upsampling, as a seed has it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.layers = nn.ModuleList()
        self.steps: list[tuple] = []
        values = [(3, 16)]
        for _ in range(self.rng.randint(4, 8)):
            values.append(self._step(values))
        read = {index for step in self.steps for index in step[1]}
        self.ends = [index for index in range(1, len(values)) if index not in read]

    def _conv(self, channels: int, out: int, groups: int) -> int:
        rng = self.rng
        kernel = rng.choice((1, 3))
        layers = [nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups, bias=rng.random() < 0.5)]
        layers += [nn.BatchNorm2d(out)] if rng.random() < 0.7 else []
        layers += [nn.ReLU()] if rng.random() < 0.7 else []
        self.layers.append(nn.Sequential(*layers))
        return len(self.layers) - 1

    def _step(self, values: list[tuple[int, int]]) -> tuple[int, int]:
        rng = self.rng
        index = rng.randrange(max(0, len(values) - 3), len(values))
        channels, side = values[index]
        alike = [i for i, value in enumerate(values) if value == (channels, side) and i != index]
        flat = [i for i, value in enumerate(values) if value[1] == side and i != index]
        kind = rng.choice(("conv", "conv", "depthwise", "add", "cat", "up", "pool"))
        if len(values) == 1 or (kind == "add" and not alike) or (kind == "cat" and not flat):
            kind = "conv"
        kind = "conv" if (kind == "up" and side >= 16) or (kind == "pool" and side <= 4) else kind
        if kind == "conv":
            out = rng.choice((4, 8))
            self.steps.append(("layer", (index,), self._conv(channels, out, 1)))
            return out, side
        if kind == "depthwise":
            self.steps.append(("layer", (index,), self._conv(channels, channels, channels)))
            return channels, side
        if kind == "add":
            self.steps.append(("add", (index, rng.choice(alike)), None))
            return channels, side
        if kind == "cat":
            other = rng.choice(flat)
            self.steps.append(("cat", (index, other), None))
            return channels + values[other][0], side
        self.steps.append((kind, (index,), None))
        return channels, side * 2 if kind == "up" else side // 2

    def forward(self, img: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = [img]
        for kind, reads, layer in self.steps:
            x = [values[index] for index in reads]
            if kind == "layer":
                values.append(self.layers[layer](x[0]))
            elif kind == "add":
                values.append(x[0] + x[1])
            elif kind == "cat":
                values.append(torch.cat(x, 1))
            elif kind == "pool":
                values.append(nn.functional.max_pool2d(x[0], 2))
            else:
                values.append(nn.functional.interpolate(x[0], scale_factor=2, mode="nearest"))
        return tuple(values[index] for index in self.ends)


def half_of_a_batch(state):
    """What one of two processes makes of its half: gradients, running statistics, scales."""
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo")
    network = pyramid(calibrated=False, mode="with_bn")
    network.load_state_dict(state)
    network.observe()
    with torch.no_grad():
        network(batch(4, 5)[2 * rank : 2 * rank + 2])
    network.freeze_ranges().train().sync_batch_norm()
    wrapped = DistributedDataParallel(network)
    (sum(out.square().mean() for out in wrapped(batch(4, 5)[2 * rank : 2 * rank + 2]))).backward()
    found = {name: parameter.grad.numpy() for name, parameter in network.named_parameters()}
    statistics = {name: b.numpy() for name, b in network.named_buffers() if "running" in name}
    torch.distributed.destroy_process_group()
    return found, statistics, {name: q.numpy() for name, q in network.state_dict().items() if name.endswith("scale")}
