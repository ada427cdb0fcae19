# SPDX-License-Identifier: Apache-2.0
"""RetinaNet: classes and box offsets of nine anchors at each cell of a pyramid, as raw outputs.

Source: Lin et al., arXiv:1708.02002 (section 4: the pyramid of strides 8 to 128, the heads without norms, the prior of
the classes). What a device computes ends with the last convolutions; sigmoid, decoding, threshold and NMS are host
work (examples/detection/filters.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from examples.detection.layers import init_last, init_plain, prior_bias

from .vargnet import VarGNetV2

STRIDES = (8, 16, 32, 64, 128)
ANCHORS = 9
#: The names of the outputs, in order.
OUTPUTS = tuple(f"{part}_{stride}" for part in ("cls", "bbox") for stride in STRIDES)


class RetinaNetFpn(nn.Module):
    """A feature pyramid of strides 8 to 128 from a backbone's features of 8, 16 and 32.

    Args:
        channels: of the backbone's feature of each stride.
        outputs: channels of every level.
    """

    def __init__(self, channels: Mapping[int, int], outputs: int = 256) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(channels[stride], outputs, 1) for stride in STRIDES[:3])
        self.smooths = nn.ModuleList(nn.Conv2d(outputs, outputs, 3, padding=1) for _ in STRIDES[:3])
        self.p6 = nn.Conv2d(channels[32], outputs, 3, 2, 1)
        self.p7 = nn.Conv2d(outputs, outputs, 3, 2, 1)
        init_plain(self, relu=False)

    def forward(self, c3: Tensor, c4: Tensor, c5: Tensor) -> tuple[Tensor, ...]:
        """(N, channels[s], H / s, W / s) for s of 8, 16, 32 to (N, outputs, H / s, W / s) for the five STRIDES."""
        m5 = self.laterals[2](c5)
        m4 = self.laterals[1](c4) + F.interpolate(m5, scale_factor=2.0, mode="nearest")
        m3 = self.laterals[0](c3) + F.interpolate(m4, scale_factor=2.0, mode="nearest")
        p6 = self.p6(c5)
        p7 = self.p7(F.relu(p6))
        return self.smooths[0](m3), self.smooths[1](m4), self.smooths[2](m5), p6, p7


def _stack(channels: int, stacked: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(stacked):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


class RetinaNetHead(nn.Module):
    """Two stacks of 3x3 convolutions and ReLU over each level, shared by all levels, and two last convolutions.

    Args:
        classes: how many.
        channels: of the levels and of the stacks.
        stacked: convolutions in a stack.
        anchors: at each cell.
    """

    def __init__(self, classes: int, channels: int = 256, stacked: int = 4, anchors: int = ANCHORS) -> None:
        super().__init__()
        self.cls_convs = _stack(channels, stacked)
        self.reg_convs = _stack(channels, stacked)
        self.cls = nn.Conv2d(channels, anchors * classes, 3, padding=1)
        self.bbox = nn.Conv2d(channels, anchors * 4, 3, padding=1)
        for stack in (self.cls_convs, self.reg_convs):
            init_plain(stack, relu=True)
        for last in (self.cls, self.bbox):
            init_last(last)
        nn.init.constant_(self.cls.bias, prior_bias())

    def forward(self, levels: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(N, channels, H_l, W_l) of five levels to 10 tensors in the order of OUTPUTS: (N, anchors * classes, H_l,
        W_l) class logits, class fastest, and (N, anchors * 4, H_l, W_l) dx, dy, dw, dh."""
        return (
            *(self.cls(self.cls_convs(x)) for x in levels),
            *(self.bbox(self.reg_convs(x)) for x in levels),
        )


class RetinaNet(nn.Module):
    """The detector, raw outputs only: the same module is trained and deployed.

    Args:
        classes: how many.
        alpha: factor on the channels of VarGNetV2.
        channels: of the pyramid and the head.
        stacked: convolutions in each stack of the head.
    """

    def __init__(self, classes: int = 80, *, alpha: float = 1.0, channels: int = 256, stacked: int = 4) -> None:
        super().__init__()
        self.backbone = VarGNetV2(alpha)
        self.neck = RetinaNetFpn(self.backbone.channels, channels)
        self.head = RetinaNetHead(classes, channels, stacked)

    def forward(self, img: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) float32 centred YUV over 128, H and W multiples of 128, to the head's 10 tensors."""
        _, _, c3, c4, c5 = self.backbone(img)
        outputs: tuple[Tensor, ...] = self.head(self.neck(c3, c4, c5))
        return outputs
