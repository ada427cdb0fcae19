# SPDX-License-Identifier: Apache-2.0
"""VarGNetV2 as a backbone: group convolutions whose groups have a fixed number of channels.

Sources: Zhang et al., arXiv:1907.05653 (VarGNet: variable groups, the merge of two branches where a stage begins);
Yan et al., arXiv:1910.04985 (VarGFaceNet, by the same authors, which has the blocks and the number of units in each
stage). Without a classifier, squeeze-and-excitation or PReLU, with biases in the convolutions.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from examples.detection.layers import ConvNorm, init_backbone

#: Channels in a group.
GROUP = 8
#: Channels and units of the stages of strides 4, 8, 16 and 32.
STAGES = ((32, 1), (64, 3), (128, 7), (256, 4))
STEM = 32


class SeparableConv(nn.Sequential):
    """A 3x3 convolution in groups of GROUP channels that widens by ``factor``, and a 1x1 without activation."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, factor: int = 2) -> None:
        hidden = inputs * factor
        super().__init__(
            ConvNorm(inputs, hidden, 3, stride, groups=inputs // GROUP, bias=True),
            ConvNorm(hidden, outputs, bias=True, relu=False),
        )


class Unit(nn.Module):
    """Two separable convolutions and their input: the normal unit."""

    def __init__(self, channels: int, factor: int = 2) -> None:
        super().__init__()
        self.first = SeparableConv(channels, channels, 1, factor)
        self.second = SeparableConv(channels, channels, 1, factor)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class DownUnit(nn.Module):
    """The first unit of a stage: halves the resolution.

    Args:
        inputs: channels.
        outputs: channels.
        factor: see :class:`SeparableConv`.
        merge: two parallel convolutions in front, summed, instead of one.
    """

    def __init__(self, inputs: int, outputs: int, factor: int = 2, merge: bool = True) -> None:
        super().__init__()
        self.shortcut = SeparableConv(inputs, outputs, 2, factor)
        self.branch = SeparableConv(inputs, outputs, 2, factor)
        self.other = SeparableConv(inputs, outputs, 2, factor) if merge else None
        self.last = SeparableConv(outputs, outputs, 1, factor)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        if self.other is not None:
            y = y + self.other(x)
        return F.relu(self.shortcut(x) + self.last(F.relu(y)))


class VarGNetV2(nn.Module):
    """The features of strides 2, 4, 8, 16 and 32 of an image.

    Args:
        alpha: factor on all channels; each must stay a multiple of GROUP.

    Attributes:
        channels: of the feature of each stride.

    Raises:
        ValueError: ``alpha`` gives channels that are not whole groups.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        widths = [int(width * alpha) for width in (STEM, *(width for width, _ in STAGES))]
        if any(width % GROUP or not width for width in widths):
            raise ValueError(f"alpha {alpha:g} gives channels {widths}, which are not all multiples of {GROUP}")
        self.stem = ConvNorm(3, widths[0], 3, 2, bias=True, relu=False)
        stages = []
        for i, (_, units) in enumerate(STAGES):
            # the first stage of all keeps its width and has one branch
            factor, merge = (1, False) if i == 0 else (2, True)
            blocks: list[nn.Module] = [DownUnit(widths[i], widths[i + 1], factor, merge)]
            blocks += [Unit(widths[i + 1], factor) for _ in range(units - 1)]
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.channels = dict(zip((2, 4, 8, 16, 32), widths, strict=True))
        init_backbone(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) float32 to (N, channels[s], H / s, W / s) for each stride s; H and W multiples of 32."""
        features = [self.stem(x)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return tuple(features)
