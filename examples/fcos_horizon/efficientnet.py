# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-B0 as a backbone for integers: ReLU instead of swish, no squeeze-and-excitation, no classifier.

Sources: Tan and Le, arXiv:1905.11946, table 1 (B0); the inverted bottleneck: Sandler et al., arXiv:1801.04381.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from examples.detection.layers import ConvNorm, init_backbone

#: Of each stage: expansion, kernel, channels, repeats, stride of the first block (arXiv:1905.11946, table 1).
B0 = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)
STEM = 32
#: The stages whose outputs are the features of strides 2, 4, 8, 16 and 32: the last ones of their resolution.
TAPS = {2: 0, 4: 1, 8: 2, 16: 4, 32: 6}


def scaled(channels: int, width: float) -> int:
    """Channels times ``width``, to the nearest multiple of 8, at least 8."""
    return max(8, int(channels * width / 8 + 0.5) * 8)


class InvertedBottleneck(nn.Module):
    """Expand by a 1x1 convolution, filter each channel, project without activation; plus the input if it fits."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = ConvNorm(inputs, hidden) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvNorm(hidden, outputs, relu=False)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class EfficientNet(nn.Module):
    """The features of strides 2, 4, 8, 16 and 32 of an image.

    Args:
        width: factor on B0's channels.
        depth: factor on its repeats, rounded up.

    Attributes:
        channels: of the feature of each stride.
    """

    def __init__(self, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        inputs = scaled(STEM, width)
        self.stem = ConvNorm(3, inputs, 3, 2)
        stages = []
        for expansion, kernel, outputs, repeats, stride in B0:
            outputs = scaled(outputs, width)
            blocks = [InvertedBottleneck(inputs, outputs, kernel, stride, expansion)]
            blocks += [
                InvertedBottleneck(outputs, outputs, kernel, 1, expansion)
                for _ in range(math.ceil(repeats * depth) - 1)
            ]
            stages.append(nn.Sequential(*blocks))
            inputs = outputs
        self.stages = nn.ModuleList(stages)
        self.channels = {stride: scaled(B0[tap][2], width) for stride, tap in TAPS.items()}
        init_backbone(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) float32 to (N, channels[s], H / s, W / s) for each stride s; H and W multiples of 32."""
        x = self.stem(x)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return tuple(outputs[tap] for tap in TAPS.values())
