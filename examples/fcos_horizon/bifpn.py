# SPDX-License-Identifier: Apache-2.0
"""BiFPN: a feature pyramid that is refined from the top down and back up, several times.

Source: Tan, Pang and Le, arXiv:1911.09070, figure 2(d) and section 3, in the layout of google/automl's efficientdet
(``bifpn_sum``: plain sums, no weights): eight fusion nodes a layer, each a ReLU, a separable convolution and a batch
norm; nearest upsampling, 3x3 max pooling downwards; in the first layer each use of a backbone feature has a 1x1
projection of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from examples.detection.layers import ConvNorm, init_backbone

STRIDES = (8, 16, 32, 64, 128)


def _up(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _down(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2, 1)


class Fuse(nn.Module):
    """The sum of what arrives at a node, then ReLU, 3x3 depthwise and 1x1 convolution, and batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = ConvNorm(channels, channels, bias=True, relu=False)

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        total = first
        for other in others:
            total = total + other
        y: Tensor = self.pointwise(self.depthwise(F.relu(total)))
        return y


class BiFpnLayer(nn.Module):
    """One pass down and up: five levels (fine to coarse) to five.

    ``again`` are the same levels 4 and 5 as the upward pass sees them, which the first layer projects on its own.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.top_down = nn.ModuleList(Fuse(channels) for _ in range(4))
        self.bottom_up = nn.ModuleList(Fuse(channels) for _ in range(4))

    def forward(self, levels: tuple[Tensor, ...], again: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        p3, p4, p5, p6, p7 = levels
        down6 = self.top_down[0](p6, _up(p7))
        down5 = self.top_down[1](p5, _up(down6))
        down4 = self.top_down[2](p4, _up(down5))
        out3 = self.top_down[3](p3, _up(down4))
        out4 = self.bottom_up[0](again[0], down4, _down(out3))
        out5 = self.bottom_up[1](again[1], down5, _down(out4))
        out6 = self.bottom_up[2](p6, down6, _down(out5))
        out7 = self.bottom_up[3](p7, _down(out6))
        return out3, out4, out5, out6, out7


class BiFpn(nn.Module):
    """Features of strides 8 to 128 from a backbone's of 8, 16 and 32.

    Args:
        channels: of the backbone's feature of each stride.
        outputs: channels of every level.
        stack: layers.
    """

    def __init__(self, channels: Mapping[int, int], outputs: int = 64, stack: int = 3) -> None:
        super().__init__()
        self.project3 = ConvNorm(channels[8], outputs, bias=True, relu=False)
        self.project4 = nn.ModuleList(ConvNorm(channels[16], outputs, bias=True, relu=False) for _ in range(2))
        self.project5 = nn.ModuleList(ConvNorm(channels[32], outputs, bias=True, relu=False) for _ in range(2))
        self.project6 = ConvNorm(channels[32], outputs, bias=True, relu=False)
        self.layers = nn.ModuleList(BiFpnLayer(outputs) for _ in range(stack))
        init_backbone(self)

    def forward(self, c3: Tensor, c4: Tensor, c5: Tensor) -> tuple[Tensor, ...]:
        """(N, channels[s], H / s, W / s) for s of 8, 16, 32 to (N, outputs, H / s, W / s) for the five STRIDES."""
        p6 = _down(self.project6(c5))
        levels = (self.project3(c3), self.project4[0](c4), self.project5[0](c5), p6, _down(p6))
        again = (self.project4[1](c4), self.project5[1](c5))
        for layer in self.layers:
            levels = layer(levels, again)
            again = levels[1], levels[2]
        return levels
