# SPDX-License-Identifier: Apache-2.0
"""FCOS: class, distances and centerness of each cell of a pyramid, as raw outputs.

Sources: Tian et al., arXiv:1904.01355 (FCOS; the fourth version has centerness on the regression branch and distances
in strides). What a device computes ends with the last convolutions: the sigmoid of classes, the ReLU and the stride of
distances, the threshold and the NMS are host work (examples/detection/filters.py), as in the FCOS samples of
D-Robotics/rdk_model_zoo, branch rdk_x5, samples/vision/fcos.
"""

from __future__ import annotations

from torch import Tensor, nn

from examples.detection.layers import init_last, init_plain, norm_over_levels, prior_bias

from .bifpn import STRIDES, BiFpn
from .efficientnet import EfficientNet

#: The names of the outputs, in order: classes of all strides, then distances, then centerness.
OUTPUTS = tuple(f"{part}_{stride}" for part in ("cls", "bbox", "centerness") for stride in STRIDES)
#: The distance to each side, in strides, that an untrained head predicts: about an object of four cells.
_FIRST_DISTANCE = 2.0


class SharedConv(nn.Module):
    """A 3x3 convolution and its norm, the same for all levels, then ReLU.

    Args:
        channels: in and out.
        separable: depthwise, norm, 1x1; otherwise plain.
    """

    def __init__(self, channels: int, separable: bool) -> None:
        super().__init__()
        groups = channels if separable else 1
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
        self.norm = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1) if separable else None
        self.pointwise_norm = nn.BatchNorm2d(channels) if separable else None
        self.relu = nn.ReLU()

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        levels = norm_over_levels(self.norm, [self.conv(x) for x in levels])
        if self.pointwise is not None and self.pointwise_norm is not None:
            levels = norm_over_levels(self.pointwise_norm, [self.pointwise(x) for x in levels])
        return [self.relu(x) for x in levels]


class FcosHead(nn.Module):
    """Two stacks of convolutions over each level, shared by all levels, and three last convolutions.

    Args:
        classes: how many.
        channels: of the levels and of the stacks.
        stacked: convolutions in a stack.
        separable: whether those are depthwise separable.
    """

    def __init__(self, classes: int, channels: int = 64, stacked: int = 4, separable: bool = True) -> None:
        super().__init__()
        self.cls_convs = nn.Sequential(*(SharedConv(channels, separable) for _ in range(stacked)))
        self.reg_convs = nn.Sequential(*(SharedConv(channels, separable) for _ in range(stacked)))
        self.cls = nn.Conv2d(channels, classes, 3, padding=1)
        self.bbox = nn.Conv2d(channels, 4, 3, padding=1)
        self.centerness = nn.Conv2d(channels, 1, 3, padding=1)
        for stack in (self.cls_convs, self.reg_convs):
            init_plain(stack, relu=True)
        for last in (self.cls, self.bbox, self.centerness):
            init_last(last)
        nn.init.constant_(self.cls.bias, prior_bias())
        nn.init.constant_(self.bbox.bias, _FIRST_DISTANCE)

    def forward(self, levels: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(N, channels, H_l, W_l) of five levels to 15 tensors in the order of OUTPUTS: (N, classes, H_l, W_l) class
        logits, (N, 4, H_l, W_l) left, top, right, bottom in strides before the ReLU, (N, 1, H_l, W_l) logits."""
        cls, reg = self.cls_convs(list(levels)), self.reg_convs(list(levels))
        return (
            *(self.cls(x) for x in cls),
            *(self.bbox(x) for x in reg),
            *(self.centerness(x) for x in reg),
        )


class Fcos(nn.Module):
    """The detector, raw outputs only: the same module is trained and deployed.

    Args:
        classes: how many.
        width: factor on the channels of EfficientNet-B0.
        depth: factor on its repeats.
        channels: of the BiFPN and the head.
        stack: layers of the BiFPN.
        stacked: convolutions in each stack of the head.
        separable: whether those are depthwise separable.
    """

    def __init__(
        self,
        classes: int = 80,
        *,
        width: float = 1.0,
        depth: float = 1.0,
        channels: int = 64,
        stack: int = 3,
        stacked: int = 4,
        separable: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = EfficientNet(width, depth)
        self.neck = BiFpn(self.backbone.channels, channels, stack)
        self.head = FcosHead(classes, channels, stacked, separable)

    def forward(self, img: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) float32 centred YUV over 128, H and W multiples of 128, to the head's 15 tensors."""
        _, _, c3, c4, c5 = self.backbone(img)
        outputs: tuple[Tensor, ...] = self.head(self.neck(c3, c4, c5))
        return outputs
