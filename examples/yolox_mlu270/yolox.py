# SPDX-License-Identifier: Apache-2.0
"""YOLOX in plain PyTorch: nano, tiny, s, m, l and x.

Written for this project from the architecture (Ge et al., "YOLOX: Exceeding YOLO Series in 2021", arXiv:2107.08430).
Parameter names and shapes are those of Megvii-BaseDetection/YOLOX (Apache-2.0), so its published checkpoints load with
``strict=True``.

The head decodes in one of three ways:

``modern``  what upstream does today: grids and strides made in the forward pass, joined with ``torch.cat``.
``legacy``  what the first releases of YOLOX did: the same grids, then two in-place slice assignments.
``none``    no decode: the raw map, for a deployment that decodes on the host.

All three give ``(N, anchors, 5 + num_classes)``; a row is ``cx, cy, w, h, objectness, class scores...``.

The file imports nothing but torch, so that a factory can also be named by path: ``yolox.py:yolox_nano``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Decode = Literal["modern", "legacy", "none"]
Rounding = Literal["upstream", "consistent"]
STRIDES = (8, 16, 32)

# depth and width multipliers, and whether 3x3 convolutions are depthwise separable (upstream: exps/default/)
SIZES: dict[str, tuple[float, float, bool]] = {
    "nano": (0.33, 0.25, True),
    "tiny": (0.33, 0.375, False),
    "s": (0.33, 0.50, False),
    "m": (0.67, 0.75, False),
    "l": (1.00, 1.00, False),
    "x": (1.33, 1.25, False),
}


def scaled_channels(channels: int, width: float, rounding: Rounding) -> int:
    """How many channels a layer of ``channels`` (a multiple of 64) has at a width multiplier.

    ``upstream`` cuts the product itself, each layer on its own. The backbone multiplies the cut width of its first
    layer, so where 64 * width is not whole the neck expects other channels than the backbone gives. ``consistent``
    multiplies ceil(64 * width) everywhere, which fits at any width and is the same where 64 * width is whole.
    """
    if rounding == "upstream":
        return int(channels * width)
    return math.ceil(64 * width - 1e-9) * (channels // 64)  # 64 * 0.14 * 5 is 44.800000000000004 to a computer


class BaseConv(nn.Module):
    """Convolution without bias, batch norm, SiLU; the spatial size is divided by ``stride``."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class DWConv(nn.Module):
    """Depthwise separable convolution: a k x k :class:`BaseConv` per channel, then a 1 x 1 one across channels."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.dconv = BaseConv(c_in, c_in, kernel, stride, groups=c_in)
        self.pconv = BaseConv(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pconv(self.dconv(x))


ConvFactory = Callable[..., nn.Module]


class Focus(nn.Module):
    """Space to depth by two (even and odd rows and columns become channels), then a convolution."""

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = BaseConv(4 * c_in, c_out, kernel)

    def forward(self, x: Tensor) -> Tensor:
        # (row, column) parity in the order that the published weights expect: 00, 10, 01, 11
        return self.conv(torch.cat((x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), dim=1))


class Bottleneck(nn.Module):
    """1 x 1 then 3 x 3 convolution, with an optional shortcut."""

    def __init__(self, channels: int, shortcut: bool, conv: ConvFactory) -> None:
        super().__init__()
        self.conv1 = BaseConv(channels, channels, 1)
        self.conv2 = conv(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.conv1(x))
        return y + x if self.shortcut else y


class CSPLayer(nn.Module):
    """Cross-stage partial layer: half of the channels go through ``n`` bottlenecks, half go around them."""

    def __init__(self, c_in: int, c_out: int, n: int, shortcut: bool, conv: ConvFactory) -> None:
        super().__init__()
        hidden = c_out // 2
        self.conv1 = BaseConv(c_in, hidden, 1)
        self.conv2 = BaseConv(c_in, hidden, 1)
        self.conv3 = BaseConv(2 * hidden, c_out, 1)
        self.m = nn.Sequential(*(Bottleneck(hidden, shortcut, conv) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(torch.cat((self.m(self.conv1(x)), self.conv2(x)), dim=1))


class SPPBottleneck(nn.Module):
    """Spatial pyramid pooling: the input beside its 5, 9 and 13 wide maxima."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        hidden = c_in // 2
        self.conv1 = BaseConv(c_in, hidden, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(k, stride=1, padding=k // 2) for k in (5, 9, 13))
        self.conv2 = BaseConv(4 * hidden, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv2(torch.cat([x] + [pool(x) for pool in self.m], dim=1))


class CSPDarknet(nn.Module):
    """The backbone. Returns the maps of strides 8, 16 and 32."""

    def __init__(self, depth: float, width: float, conv: ConvFactory, rounding: Rounding) -> None:
        super().__init__()
        c = scaled_channels(64, width, rounding)
        n = max(round(3 * depth), 1)
        self.stem = Focus(3, c, 3)
        self.dark2 = nn.Sequential(conv(c, 2 * c, 3, 2), CSPLayer(2 * c, 2 * c, n, True, conv))
        self.dark3 = nn.Sequential(conv(2 * c, 4 * c, 3, 2), CSPLayer(4 * c, 4 * c, 3 * n, True, conv))
        self.dark4 = nn.Sequential(conv(4 * c, 8 * c, 3, 2), CSPLayer(8 * c, 8 * c, 3 * n, True, conv))
        self.dark5 = nn.Sequential(
            conv(8 * c, 16 * c, 3, 2),
            SPPBottleneck(16 * c, 16 * c),
            CSPLayer(16 * c, 16 * c, n, False, conv),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c3: Tensor = self.dark3(self.dark2(self.stem(x)))
        c4: Tensor = self.dark4(c3)
        return c3, c4, self.dark5(c4)


class YOLOPAFPN(nn.Module):
    """Backbone and path aggregation: a top-down pass, then a bottom-up one, over the three maps."""

    def __init__(self, depth: float, width: float, conv: ConvFactory, rounding: Rounding) -> None:
        super().__init__()
        c3, c4, c5 = (scaled_channels(c, width, rounding) for c in (256, 512, 1024))
        n = round(3 * depth)
        self.backbone = CSPDarknet(depth, width, conv, rounding)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral_conv0 = BaseConv(c5, c4, 1)
        self.C3_p4 = CSPLayer(2 * c4, c4, n, False, conv)
        self.reduce_conv1 = BaseConv(c4, c3, 1)
        self.C3_p3 = CSPLayer(2 * c3, c3, n, False, conv)
        self.bu_conv2 = conv(c3, c3, 3, 2)
        self.C3_n3 = CSPLayer(2 * c3, c4, n, False, conv)
        self.bu_conv1 = conv(c4, c4, 3, 2)
        self.C3_n4 = CSPLayer(2 * c4, c5, n, False, conv)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c3, c4, c5 = self.backbone(x)
        top5 = self.lateral_conv0(c5)
        top4 = self.reduce_conv1(self.C3_p4(torch.cat((self.upsample(top5), c4), dim=1)))
        p3 = self.C3_p3(torch.cat((self.upsample(top4), c3), dim=1))
        p4 = self.C3_n3(torch.cat((self.bu_conv2(p3), top4), dim=1))
        p5 = self.C3_n4(torch.cat((self.bu_conv1(p4), top5), dim=1))
        return p3, p4, p5


class YOLOXHead(nn.Module):
    """The decoupled, anchor-free head: one prediction a cell, boxes apart from classes.

    Args:
        num_classes: number of classes.
        width: the width multiplier.
        conv: factory of a 3 x 3 convolution.
        decode: see the module docstring. It is ignored in training mode, which always returns raw logits.
        rounding: see :func:`scaled_channels`.
    """

    def __init__(self, num_classes: int, width: float, conv: ConvFactory, decode: Decode, rounding: Rounding) -> None:
        super().__init__()
        c = scaled_channels(256, width, rounding)
        self.num_classes = num_classes
        self.decode = decode
        self.cls_convs = nn.ModuleList(nn.Sequential(conv(c, c, 3), conv(c, c, 3)) for _ in STRIDES)
        self.reg_convs = nn.ModuleList(nn.Sequential(conv(c, c, 3), conv(c, c, 3)) for _ in STRIDES)
        self.cls_preds = nn.ModuleList(nn.Conv2d(c, num_classes, 1) for _ in STRIDES)
        self.reg_preds = nn.ModuleList(nn.Conv2d(c, 4, 1) for _ in STRIDES)
        self.obj_preds = nn.ModuleList(nn.Conv2d(c, 1, 1) for _ in STRIDES)
        inputs = (scaled_channels(c_in, width, rounding) for c_in in (256, 512, 1024))
        self.stems = nn.ModuleList(BaseConv(c_in, c, 1) for c_in in inputs)
        # scores start at 0.01: most cells are background (the prior of RetinaNet, arXiv:1708.02002 section 4.1)
        for pred in (*self.cls_preds, *self.obj_preds):
            nn.init.constant_(pred.get_parameter("bias"), -math.log(99.0))

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        maps = []
        for k, x in enumerate(features):
            x = self.stems[k](x)
            cls = self.cls_preds[k](self.cls_convs[k](x))
            reg_feature = self.reg_convs[k](x)
            reg = self.reg_preds[k](reg_feature)
            obj = self.obj_preds[k](reg_feature)
            if not self.training:
                obj, cls = obj.sigmoid(), cls.sigmoid()
            maps.append(torch.cat((reg, obj, cls), dim=1))
        sizes = [m.shape[-2:] for m in maps]
        raw = torch.cat([m.flatten(start_dim=2) for m in maps], dim=2).permute(0, 2, 1)
        if self.training or self.decode == "none":
            return raw
        grids, strides = grids_and_strides([(int(h), int(w)) for h, w in sizes], raw.dtype)
        if self.decode == "legacy":
            return decode_legacy(raw, grids, strides)
        return decode_modern(raw, grids, strides)


def grids_and_strides(sizes: list[tuple[int, int]], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The cell of every prediction and its stride.

    Args:
        sizes: (rows, columns) of each map, in the order of :data:`STRIDES`.
        dtype: of the results.

    Returns:
        grids (1, anchors, 2), each row ``x, y`` in cells, and strides (1, anchors, 1) in pixels.
    """
    grids, strides = [], []
    for (rows, columns), stride in zip(sizes, STRIDES, strict=True):
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        grid = torch.stack((x, y), 2).view(1, -1, 2)
        grids.append(grid)
        strides.append(torch.full((1, grid.shape[1], 1), stride))
    return torch.cat(grids, dim=1).to(dtype), torch.cat(strides, dim=1).to(dtype)


def decode_modern(raw: Tensor, grids: Tensor, strides: Tensor) -> Tensor:
    """Boxes in pixels from ``raw`` (N, anchors, 5 + num_classes), joined with ``torch.cat``."""
    xy = (raw[..., 0:2] + grids) * strides
    wh = torch.exp(raw[..., 2:4]) * strides
    return torch.cat((xy, wh, raw[..., 4:]), dim=-1)


def decode_legacy(raw: Tensor, grids: Tensor, strides: Tensor) -> Tensor:
    """The same as :func:`decode_modern`, written into ``raw`` by slice assignment."""
    raw[..., :2] = (raw[..., :2] + grids) * strides
    raw[..., 2:4] = torch.exp(raw[..., 2:4]) * strides
    return raw


class YOLOX(nn.Module):
    """YOLOX of one size.

    Args:
        size: a key of :data:`SIZES`, or what stands there: depth and width multipliers, and whether 3 x 3 convolutions
            are depthwise separable.
        num_classes: number of classes.
        decode: see the module docstring.
        rounding: of channels at a width, see :func:`scaled_channels`; no matter for the sizes of :data:`SIZES`.

    Input: (N, 3, H, W) float32, H and W multiples of 32, BGR in 0..255 (no mean, no scale: upstream since 0.1.1).
    Output: (N, anchors, 5 + num_classes); in training mode the scores are logits and the boxes are raw.

    Raises:
        KeyError: the size is not one of :data:`SIZES`.
        ValueError: the decode is not one of ``modern``, ``legacy``, ``none``.
    """

    def __init__(
        self,
        size: str | tuple[float, float, bool],
        num_classes: int = 80,
        decode: Decode = "modern",
        rounding: Rounding = "upstream",
    ) -> None:
        super().__init__()
        if decode not in ("modern", "legacy", "none"):
            raise ValueError(f"decode is {decode!r}: use 'modern', 'legacy' or 'none'")
        depth, width, depthwise = SIZES[size] if isinstance(size, str) else size
        conv: ConvFactory = DWConv if depthwise else BaseConv
        self.backbone = YOLOPAFPN(depth, width, conv, rounding)
        self.head = YOLOXHead(num_classes, width, conv, decode, rounding)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def yolox_scaled(
    width: float = 1.0,
    depth: float = 1.0,
    num_classes: int = 80,
    depthwise: bool = False,
    decode: Decode = "modern",
    rounding: Rounding = "consistent",
) -> YOLOX:
    """YOLOX of any width and depth, in evaluation mode, with random weights."""
    return YOLOX((depth, width, depthwise), num_classes, decode, rounding).eval()


def yolox_nano(num_classes: int = 80, decode: Decode = "modern") -> YOLOX:
    """YOLOX-nano in evaluation mode, with random weights."""
    return YOLOX("nano", num_classes, decode).eval()


def yolox_tiny(num_classes: int = 80, decode: Decode = "modern") -> YOLOX:
    """YOLOX-tiny in evaluation mode, with random weights."""
    return YOLOX("tiny", num_classes, decode).eval()


def yolox_s(num_classes: int = 80, decode: Decode = "modern") -> YOLOX:
    """YOLOX-s in evaluation mode, with random weights."""
    return YOLOX("s", num_classes, decode).eval()


def yolox_m(num_classes: int = 80, decode: Decode = "modern") -> YOLOX:
    """YOLOX-m in evaluation mode, with random weights."""
    return YOLOX("m", num_classes, decode).eval()


def yolox_l(num_classes: int = 80, decode: Decode = "modern") -> YOLOX:
    """YOLOX-l in evaluation mode, with random weights."""
    return YOLOX("l", num_classes, decode).eval()


def yolox_x(num_classes: int = 80, decode: Decode = "modern") -> YOLOX:
    """YOLOX-x in evaluation mode, with random weights."""
    return YOLOX("x", num_classes, decode).eval()


def yolox_nano_shapes() -> YOLOX:
    """YOLOX-nano for the five classes of shapes.py: the factory of ``weights/yolox_nano_shapes.pt``."""
    return yolox_nano(num_classes=5)


def yolox_nano_shapes_legacy() -> YOLOX:
    """:func:`yolox_nano_shapes` with the slice-assignment decode; it takes the same weights."""
    return yolox_nano(num_classes=5, decode="legacy")
