# SPDX-License-Identifier: Apache-2.0
"""The blocks of one-stage detectors, written from the diagrams and tables of their papers.

YOLOv4 (arXiv:2004.10934), CSPNet (1911.11929), RepVGG (2101.03697), YOLOX (2107.08430), YOLOv6 (2209.02976), YOLOv7
(2207.02696), YOLOv9 (2402.13616), YOLOv10 (2405.14458), generalized focal loss (2006.04388). Tensors are (N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

__all__ = [
    "CIB",
    "CSP",
    "ELAN",
    "GELAN",
    "PSA",
    "SPP",
    "SPPCSP",
    "SPPF",
    "AvgDown",
    "Bottleneck",
    "C2f",
    "C3k2",
    "Focus",
    "RepConv",
    "conv",
    "downsample",
    "repeated",
    "separable",
]  # fmt: skip

Activation = Callable[[], nn.Module]


def conv(
    ins: int, outs: int, k: int = 1, stride: int = 1, *, groups: int = 1, act: Activation | None = nn.SiLU
) -> nn.Sequential:
    """Convolution without bias, batch norm, activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(ins, outs, k, stride, k // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outs, eps=1e-3),
    ]
    return nn.Sequential(*layers, *([act()] if act is not None else []))


def repeated(block: Callable[[], nn.Module], count: int) -> nn.Sequential:
    return nn.Sequential(*[block() for _ in range(count)])


def separable(ins: int, outs: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 3x3, then 1x1."""
    return nn.Sequential(conv(ins, ins, 3, stride, groups=ins), conv(ins, outs))


class Focus(nn.Module):
    """Four interleaved images side by side as channels, then a convolution."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.conv = conv(4 * ins, outs, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corners = x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]
        out: torch.Tensor = self.conv(torch.cat(corners, 1))
        return out


class Bottleneck(nn.Module):
    """Two convolutions and, where the widths agree, the input added."""

    def __init__(
        self, ins: int, outs: int, *, add: bool = True, k: tuple[int, int] = (1, 3), act: Activation = nn.SiLU
    ) -> None:
        super().__init__()
        self.one, self.two = conv(ins, outs, k[0], act=act), conv(outs, outs, k[1], act=act)
        self.add = add and ins == outs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.two(self.one(x))
        return x + y if self.add else y


class CSP(nn.Module):
    """Cross stage partial block with three convolutions: one half goes through bottlenecks, one beside them."""

    def __init__(
        self, ins: int, outs: int, count: int = 1, *, add: bool = True, k: tuple[int, int] = (1, 3),
        act: Activation = nn.SiLU,
    ) -> None:  # fmt: skip
        super().__init__()
        half = outs // 2
        self.inner, self.beside = conv(ins, half, act=act), conv(ins, half, act=act)
        self.blocks = repeated(lambda: Bottleneck(half, half, add=add, k=k, act=act), count)
        self.out = conv(2 * half, outs, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(torch.cat([self.blocks(self.inner(x)), self.beside(x)], 1))
        return out


class C2f(nn.Module):
    """One convolution, split in two; every bottleneck's result is kept, and all are joined."""

    def __init__(self, ins: int, outs: int, count: int = 1, *, add: bool = True) -> None:
        super().__init__()
        half = outs // 2
        self.first = conv(ins, 2 * half)
        self.blocks = nn.ModuleList(self.block(half, add) for _ in range(count))
        self.out = conv((2 + count) * half, outs)

    def block(self, width: int, add: bool) -> nn.Module:
        return Bottleneck(width, width, add=add, k=(3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        out: torch.Tensor = self.out(torch.cat(parts, 1))
        return out


class C3k2(C2f):
    """C2f whose inner blocks are cross stage partial blocks."""

    def block(self, width: int, add: bool) -> nn.Module:
        return CSP(width, width, 2, add=add, k=(3, 3))


class CIB(nn.Module):
    """Compact inverted block: depthwise, pointwise, depthwise, pointwise, depthwise, and the input added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 2 * width
        self.layers = nn.Sequential(
            conv(width, width, 3, groups=width), conv(width, wide), conv(wide, wide, 7, groups=wide),
            conv(wide, width), conv(width, width, 3, groups=width),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.layers(x)
        return out


class SPP(nn.Module):
    """Max pools of several sizes side by side."""

    def __init__(self, ins: int, outs: int, sizes: tuple[int, ...] = (5, 9, 13), act: Activation = nn.SiLU) -> None:
        super().__init__()
        self.first, self.out = conv(ins, ins // 2, act=act), conv(ins // 2 * (len(sizes) + 1), outs, act=act)
        self.pools = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        out: torch.Tensor = self.out(torch.cat([x, *(pool(x) for pool in self.pools)], 1))
        return out


class SPPF(nn.Module):
    """The same results from one 5x5 max pool in a row; SPPELAN, where the width does not change."""

    def __init__(self, ins: int, outs: int, act: Activation = nn.SiLU) -> None:
        super().__init__()
        self.first, self.out = conv(ins, ins // 2, act=act), conv(ins // 2 * 4, outs, act=act)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        out: torch.Tensor = self.out(torch.cat(parts, 1))
        return out


class SPPCSP(nn.Module):
    """Spatial pyramid pooling inside a cross stage partial block."""

    def __init__(self, ins: int, outs: int, act: Activation) -> None:
        super().__init__()
        self.inner = nn.Sequential(conv(ins, outs, act=act), conv(outs, outs, 3, act=act))
        self.spp, self.beside = SPP(outs, outs, act=act), conv(ins, outs, act=act)
        self.after, self.out = conv(outs, outs, 3, act=act), conv(2 * outs, outs, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.after(self.spp(self.inner(x)))
        out: torch.Tensor = self.out(torch.cat([inner, self.beside(x)], 1))
        return out


class ELAN(nn.Module):
    """Efficient layer aggregation: two branches, and the stages of a chain of 3x3 convolutions, joined."""

    def __init__(self, ins: int, outs: int, act: Activation = nn.SiLU, count: int = 2) -> None:
        super().__init__()
        half = outs // 2
        self.beside, self.first = conv(ins, half, act=act), conv(ins, half, act=act)
        self.chain = nn.ModuleList(conv(half, half, 3, act=act) for _ in range(count))
        self.out = conv((2 + count) * half, outs, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.beside(x), self.first(x)]
        for layer in self.chain:
            parts.append(layer(parts[-1]))
        out: torch.Tensor = self.out(torch.cat(parts, 1))
        return out


class RepConv(nn.Module):
    """A 3x3, a 1x1 and an identity branch with batch norms, which :meth:`fuse` joins into one 3x3 convolution."""

    def __init__(self, ins: int, outs: int, act: Activation = nn.ReLU) -> None:
        super().__init__()
        self.large, self.small = conv(ins, outs, 3, act=None), conv(ins, outs, act=None)
        self.same = nn.BatchNorm2d(ins, eps=1e-3) if ins == outs else None
        self.act = act()
        self.joined: nn.Conv2d | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.joined is not None:
            y = self.joined(x)
        else:
            y = self.large(x) + self.small(x)
            if self.same is not None:
                y = y + self.same(x)
        out: torch.Tensor = self.act(y)
        return out

    @torch.no_grad()
    def fuse(self) -> None:
        """W = sum over branches of gamma / sigma * w, b = sum of beta - mean * gamma / sigma (RepVGG, section 3.3)."""
        first: Any = self.large[0]
        outs, ins = first.out_channels, first.in_channels
        joined = nn.Conv2d(ins, outs, 3, padding=1)
        joined.weight.zero_()
        assert joined.bias is not None
        joined.bias.zero_()
        eye = torch.zeros(outs, ins, 3, 3)
        if self.same is not None:
            eye[range(outs), range(outs), 1, 1] = 1
        small: Any = self.small[0]
        branches = [(first.weight, self.large[1]), (F.pad(small.weight, (1, 1, 1, 1)), self.small[1])]
        branches += [(eye, self.same)] if self.same is not None else []
        for weight, norm in branches:
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            joined.weight += weight * scale[:, None, None, None]
            joined.bias += norm.bias - norm.running_mean * scale
        self.joined = joined


class RepCSP(nn.Module):
    """A cross stage partial block whose bottleneck begins with a :class:`RepConv`."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        half = outs // 2
        self.inner, self.beside, self.out = conv(ins, half), conv(ins, half), conv(2 * half, outs)
        self.block = nn.Sequential(RepConv(half, half, nn.SiLU), conv(half, half, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, beside = self.inner(x), self.beside(x)
        out: torch.Tensor = self.out(torch.cat([x + self.block(x), beside], 1))
        return out


class GELAN(nn.Module):
    """Generalized layer aggregation: ELAN with cross stage partial blocks in the place of convolutions."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        half = outs // 2
        self.first = conv(ins, 2 * half)
        self.two = nn.Sequential(RepCSP(half, half), conv(half, half, 3))
        self.three = nn.Sequential(RepCSP(half, half), conv(half, half, 3))
        self.out = conv(4 * half, outs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = self.first(x).chunk(2, 1)
        three = self.two(two)
        out: torch.Tensor = self.out(torch.cat([one, two, three, self.three(three)], 1))
        return out


class AvgDown(nn.Module):
    """Halves the image: averaged 2x2, then one half of the channels by a convolution, one by a max pool."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.one, self.two = conv(ins // 2, outs // 2, 3, 2), conv(ins // 2, outs // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = F.avg_pool2d(x, 2, 1, 0, False, True).chunk(2, 1)
        return torch.cat([self.one(one), self.two(F.max_pool2d(two, 3, 2, 1))], 1)


def downsample(ins: int, outs: int) -> nn.Sequential:
    """Channels by a 1x1, the image by a depthwise 3x3 of stride 2, apart from each other (YOLOv10)."""
    return nn.Sequential(conv(ins, outs), conv(outs, outs, 3, 2, groups=outs, act=None))


class Attention(nn.Module):
    """Self attention between places, with a depthwise convolution of the values as position."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.each = heads, width // heads
        self.key = self.each // 2
        self.qkv = conv(width, width + 2 * self.key * heads, act=None)
        self.place, self.out = conv(width, width, 3, groups=width, act=None), conv(width, width, act=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, width, high, wide = x.shape
        qkv = self.qkv(x).view(count, self.heads, 2 * self.key + self.each, high * wide)
        q, k, v = qkv.split([self.key, self.key, self.each], 2)
        weights = ((q.transpose(-2, -1) @ k) * self.key**-0.5).softmax(-1)
        mixed = (v @ weights.transpose(-2, -1)).view(count, width, high, wide)
        out: torch.Tensor = self.out(mixed + self.place(v.reshape(count, width, high, wide)))
        return out


class PSA(nn.Module):
    """Partial self attention: one half of the channels through attention and a feed-forward, each added."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        half = width // 2
        self.first, self.out = conv(width, 2 * half), conv(2 * half, width)
        self.attention = Attention(half, heads)
        self.forward_ = nn.Sequential(conv(half, 2 * half), conv(2 * half, half, act=None))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = self.first(x).chunk(2, 1)
        two = two + self.attention(two)
        two = two + self.forward_(two)
        out: torch.Tensor = self.out(torch.cat([one, two], 1))
        return out
