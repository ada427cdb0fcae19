# SPDX-License-Identifier: Apache-2.0
"""Ten one-stage detectors in the styles that people bring, small, with their decoding inside the network.

They are written from the papers' block diagrams (see :mod:`benchmarks.coverage.blocks`; YOLOv3 is arXiv:1804.02767) and
are none of the published networks: widths and depths are smaller. Each takes images (N, 3, H, W) and gives boxes
(centre x, y, width, height or corners, in pixels), an objectness where its family has one, and scores of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from .blocks import (
    CIB,
    CSP,
    ELAN,
    GELAN,
    PSA,
    SPPCSP,
    SPPF,
    AvgDown,
    C2f,
    C3k2,
    Focus,
    RepConv,
    conv,
    downsample,
    separable,
)

__all__ = ["DETECTORS"]

CLASSES = 6
STRIDES = (8, 16, 32)
#: Width and height of the three anchors of each level, in pixels.
ANCHORS = (((10, 13), (16, 30), (33, 23)), ((30, 61), (62, 45), (59, 119)), ((116, 90), (156, 198), (373, 326)))
#: Bins of a side's distance in the heads that predict distributions.
BINS = 16

Maps = Sequence[torch.Tensor]


def _middles(count: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(count, dtype=like.dtype) + 0.5


def centres(maps: Maps, strides: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The middle of every cell (2, A) in cells, and the stride (1, A) of its level."""
    points, sizes = [], []
    for level, stride in zip(maps, strides, strict=True):
        high, wide = level.shape[2:]
        ys, xs = torch.meshgrid(_middles(high, level), _middles(wide, level), indexing="ij")
        points.append(torch.stack((xs, ys)).view(2, -1))
        sizes.append(torch.full((1, int(high) * int(wide)), float(stride)))
    return torch.cat(points, 1), torch.cat(sizes, 1)


# -- heads -----------------------------------------------------------------------------------------


class AnchorHead(nn.Module):
    """Three anchors a cell; ``squared``: sizes by (2 sigmoid)^2 as since YOLOv5, else by exp as in YOLOv3."""

    def __init__(self, widths: Sequence[int], strides: Sequence[int], squared: bool) -> None:
        super().__init__()
        self.strides, self.squared = strides, squared
        self.last = nn.ModuleList(nn.Conv2d(width, 3 * (5 + CLASSES), 1) for width in widths)
        chosen = [ANCHORS[STRIDES.index(stride)] for stride in strides]
        self.register_buffer("anchors", torch.tensor(chosen, dtype=torch.float32).view(len(strides), 1, 3, 1, 1, 2))

    def forward(self, maps: Maps) -> torch.Tensor:
        found = []
        anchors: torch.Tensor = self.anchors  # type: ignore[assignment]
        for number, (level, last, stride) in enumerate(zip(maps, self.last, self.strides, strict=True)):
            x = last(level)
            count, _, high, wide = x.shape
            x = x.view(count, 3, 5 + CLASSES, high, wide).permute(0, 1, 3, 4, 2).contiguous()
            ys, xs = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
            grid = torch.stack((xs, ys), 2).view(1, 1, high, wide, 2).to(x.dtype)
            if self.squared:
                x = x.sigmoid()
                middle, size, rest = x.split((2, 2, 1 + CLASSES), 4)
                middle = (middle * 2 + (grid - 0.5)) * stride
                size = (size * 2) ** 2 * anchors[number]
                x = torch.cat((middle, size, rest), 4)
            else:
                middle = (x[..., 0:2].sigmoid() + grid) * stride
                size = torch.exp(x[..., 2:4]) * anchors[number]
                x = torch.cat((middle, size, x[..., 4:].sigmoid()), -1)
            found.append(x.view(count, -1, 5 + CLASSES))
        return torch.cat(found, 1)


class DistributionHead(nn.Module):
    """Boxes as distributions over the distances to four sides, apart from classes; no anchors, no objectness.

    ``light``: the classes' branch by separable convolutions.
    """

    def __init__(self, widths: Sequence[int], strides: Sequence[int], light: bool = False) -> None:
        super().__init__()
        self.strides = strides
        inner = max(16, widths[0] // 2)
        self.boxes = nn.ModuleList(
            nn.Sequential(conv(width, inner, 3), conv(inner, inner, 3), nn.Conv2d(inner, 4 * BINS, 1))
            for width in widths
        )
        step = separable if light else lambda ins, outs: conv(ins, outs, 3)
        self.scores = nn.ModuleList(
            nn.Sequential(step(width, inner), step(inner, inner), nn.Conv2d(inner, CLASSES, 1)) for width in widths
        )
        self.integral = nn.Conv2d(BINS, 1, 1, bias=False)
        self.integral.weight.data[:] = torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1)

    def raw(self, maps: Maps) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes (N, 4, A) in pixels, centre and size, and scores (N, classes, A)."""
        joined = [
            torch.cat([boxes(level), scores(level)], 1).flatten(2)
            for level, boxes, scores in zip(maps, self.boxes, self.scores, strict=True)
        ]
        boxes, scores = torch.cat(joined, 2).split((4 * BINS, CLASSES), 1)
        count, _, cells = boxes.shape
        sides = self.integral(boxes.view(count, 4, BINS, cells).transpose(2, 1).softmax(1)).view(count, 4, cells)
        points, strides = centres(maps, self.strides)
        before, behind = sides.chunk(2, 1)
        low, high = points.unsqueeze(0) - before, points.unsqueeze(0) + behind
        return torch.cat(((low + high) / 2, high - low), 1) * strides, scores.sigmoid()

    def forward(self, maps: Maps) -> torch.Tensor:
        return torch.cat(self.raw(maps), 1)


class SelectingHead(DistributionHead):
    """The head that needs no suppression (YOLOv10): the best cells, then the best pairs of cell and class."""

    BEST = 20

    def forward(self, maps: Maps) -> torch.Tensor:
        boxes, scores = self.raw(maps)
        boxes, scores = boxes.transpose(1, 2), scores.transpose(1, 2)
        places = scores.amax(2).topk(self.BEST, 1).indices.unsqueeze(-1)
        boxes = torch.gather(boxes, 1, places.repeat(1, 1, 4))
        scores = torch.gather(scores, 1, places.repeat(1, 1, CLASSES))
        best, flat = scores.flatten(1).topk(self.BEST, 1)
        classes = flat % CLASSES
        boxes = boxes.gather(1, (flat // CLASSES).unsqueeze(-1).repeat(1, 1, 4))
        return torch.cat([boxes, best.unsqueeze(-1), classes.unsqueeze(-1).to(boxes.dtype)], -1)


class DecoupledHead(nn.Module):
    """Class, box and objectness branches. ``corners``: boxes by the distances to their sides (YOLOv6), else by an
    offset and exp of a size, written into the joined tensor in place (YOLOX)."""

    def __init__(self, widths: Sequence[int], strides: Sequence[int], corners: bool) -> None:
        super().__init__()
        self.strides, self.corners = strides, corners
        act = nn.ReLU if corners else nn.SiLU
        inner = widths[0]
        self.stems = nn.ModuleList(conv(width, inner, act=act) for width in widths)
        self.scores = nn.ModuleList(
            nn.Sequential(conv(inner, inner, 3, act=act), nn.Conv2d(inner, CLASSES, 1)) for _ in widths
        )
        self.boxes = nn.ModuleList(conv(inner, inner, 3, act=act) for _ in widths)
        self.sides = nn.ModuleList(nn.Conv2d(inner, 4, 1) for _ in widths)
        self.objects = nn.ModuleList(nn.Conv2d(inner, 1, 1) for _ in widths)

    def forward(self, maps: Maps) -> torch.Tensor:
        joined, shapes = [], []
        for number, level in enumerate(maps):
            x = self.stems[number](level)
            scores, boxes = self.scores[number](x), self.boxes[number](x)
            parts = [self.sides[number](boxes), self.objects[number](boxes).sigmoid(), scores.sigmoid()]
            joined.append(torch.cat(parts, 1))
            shapes.append(joined[-1].shape[-2:])
        out = torch.cat([level.flatten(start_dim=2) for level in joined], 2).permute(0, 2, 1)
        if self.corners:
            points, strides = centres(maps, self.strides)
            points, strides = points.t().unsqueeze(0), strides.t().unsqueeze(0)
            sides, rest = out[..., :4], out[..., 4:]
            low, high = points - F.relu(sides[..., :2]), points + F.relu(sides[..., 2:])
            return torch.cat((torch.cat((low, high), -1) * strides, rest), -1)
        grids, steps = [], []
        for (high_, wide), stride in zip(shapes, self.strides, strict=True):
            ys, xs = torch.meshgrid(torch.arange(high_), torch.arange(wide), indexing="ij")
            grids.append(torch.stack((xs, ys), 2).view(1, -1, 2))
            steps.append(torch.full((1, int(high_) * int(wide), 1), stride))
        grid, step = torch.cat(grids, 1).to(out.dtype), torch.cat(steps, 1).to(out.dtype)
        out[..., :2] = (out[..., :2] + grid) * step
        out[..., 2:4] = torch.exp(out[..., 2:4]) * step
        return out


# -- bodies ----------------------------------------------------------------------------------------


class Pyramid(nn.Module):
    """A stem, four stages that each halve the image (:meth:`down`, :meth:`stage`), a block at the end, and a path
    aggregation network (arXiv:1803.01534) over the last three: top-down by :meth:`up`, then bottom-up."""

    WIDTHS = (16, 32, 48, 64)

    def __init__(self, head: Callable[[Sequence[int], Sequence[int]], nn.Module]) -> None:
        super().__init__()
        first, *widths = self.WIDTHS
        self.stem = self.make_stem(first)
        self.before = nn.Sequential(self.down(first, first), self.stage(first, first, True))
        ins = [first, *widths[:-1]]
        self.stages = nn.ModuleList(
            nn.Sequential(self.down(i, o), self.stage(o, o, True)) for i, o in zip(ins, widths, strict=True)
        )
        self.end = self.last(widths[-1])
        a, b, c = widths
        self.up_c, self.up_b = self.up(c, b), self.up(b, a)
        self.top_b, self.top_a = self.stage(2 * b, b, False), self.stage(2 * a, a, False)
        self.down_a, self.down_b = self.down(a, a), self.down(b, b)
        self.low_b, self.low_c = self.stage(a + b, b, False), self.stage(b + c, c, False)
        self.head = head((a, b, c), STRIDES)

    def make_stem(self, width: int) -> nn.Module:
        return conv(3, width, 3, 2)

    def down(self, ins: int, outs: int) -> nn.Module:
        return conv(ins, outs, 3, 2)

    def stage(self, ins: int, outs: int, add: bool) -> nn.Module:
        raise NotImplementedError

    def last(self, width: int) -> nn.Module:
        return SPPF(width, width)

    def up(self, ins: int, outs: int) -> nn.Module:
        return nn.Sequential(conv(ins, outs), nn.Upsample(scale_factor=2, mode="nearest"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(self.stem(x))
        a = self.stages[0](x)
        b = self.stages[1](a)
        c = self.end(self.stages[2](b))
        b = self.top_b(torch.cat([self.up_c(c), b], 1))
        a = self.top_a(torch.cat([self.up_b(b), a], 1))
        b = self.low_b(torch.cat([self.down_a(a), b], 1))
        c = self.low_c(torch.cat([self.down_b(b), c], 1))
        out: torch.Tensor = self.head((a, b, c))
        return out


class V5(Pyramid):
    def __init__(self) -> None:
        super().__init__(lambda widths, strides: AnchorHead(widths, strides, squared=True))

    def make_stem(self, width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, width, 6, 2, 2, bias=False), nn.BatchNorm2d(width), nn.SiLU())

    def stage(self, ins: int, outs: int, add: bool) -> nn.Module:
        return CSP(ins, outs, add=add)


class V6(Pyramid):
    """Rep blocks, ReLU, upsampling by transposed convolution."""

    def __init__(self) -> None:
        super().__init__(lambda widths, strides: DecoupledHead(widths, strides, corners=True))

    def make_stem(self, width: int) -> nn.Module:
        return conv(3, width, 3, 2, act=nn.ReLU)

    def down(self, ins: int, outs: int) -> nn.Module:
        return conv(ins, outs, 3, 2, act=nn.ReLU)

    def stage(self, ins: int, outs: int, add: bool) -> nn.Module:
        return nn.Sequential(RepConv(ins, outs), RepConv(outs, outs))

    def last(self, width: int) -> nn.Module:
        return SPPF(width, width, act=nn.ReLU)

    def up(self, ins: int, outs: int) -> nn.Module:
        return nn.Sequential(conv(ins, outs, act=nn.ReLU), nn.ConvTranspose2d(outs, outs, 2, 2))


def leaky() -> nn.Module:
    return nn.LeakyReLU(0.1)


class V7(Pyramid):
    """Layer aggregation, leaky ReLU, a head that adds and multiplies implicit knowledge."""

    def __init__(self) -> None:
        super().__init__(Implicit)

    def make_stem(self, width: int) -> nn.Module:
        return conv(3, width, 3, 2, act=leaky)

    def down(self, ins: int, outs: int) -> nn.Module:
        return nn.Sequential(nn.MaxPool2d(2), conv(ins, outs, act=leaky))

    def stage(self, ins: int, outs: int, add: bool) -> nn.Module:
        return ELAN(ins, outs, act=leaky)

    def last(self, width: int) -> nn.Module:
        return SPPCSP(width, width, leaky)

    def up(self, ins: int, outs: int) -> nn.Module:
        return nn.Sequential(conv(ins, outs, act=leaky), nn.Upsample(scale_factor=2))


class Implicit(nn.Module):
    """YOLOR's implicit knowledge (arXiv:2105.04206) around the anchors' head: a vector added, and one multiplied."""

    def __init__(self, widths: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.head = AnchorHead(widths, strides, squared=True)
        self.added = nn.ParameterList(nn.Parameter(torch.randn(1, width, 1, 1) * 0.02) for width in widths)
        self.times = nn.ParameterList(nn.Parameter(1 + torch.randn(1, width, 1, 1) * 0.02) for width in widths)

    def forward(self, maps: Maps) -> torch.Tensor:
        changed = [(level + add) * by for level, add, by in zip(maps, self.added, self.times, strict=True)]
        out: torch.Tensor = self.head(changed)
        return out


class V8(Pyramid):
    def __init__(self) -> None:
        super().__init__(DistributionHead)

    def stage(self, ins: int, outs: int, add: bool) -> nn.Module:
        return C2f(ins, outs, add=add)

    def up(self, ins: int, outs: int) -> nn.Module:
        return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), conv(ins, outs))


class V9(Pyramid):
    def __init__(self) -> None:
        super().__init__(DistributionHead)

    def down(self, ins: int, outs: int) -> nn.Module:
        return AvgDown(ins, outs)

    def stage(self, ins: int, outs: int, add: bool) -> nn.Module:
        return GELAN(ins, outs)

    def last(self, width: int) -> nn.Module:
        return SPPF(width, width)


class V10(Pyramid):
    def __init__(self) -> None:
        super().__init__(lambda widths, strides: SelectingHead(widths, strides, light=True))

    def down(self, ins: int, outs: int) -> nn.Module:
        return downsample(ins, outs)

    def stage(self, ins: int, outs: int, add: bool) -> nn.Module:
        return nn.Sequential(C2f(ins, outs, add=add), CIB(outs))

    def last(self, width: int) -> nn.Module:
        return nn.Sequential(SPPF(width, width), PSA(width))


class V11(Pyramid):
    def __init__(self) -> None:
        super().__init__(lambda widths, strides: DistributionHead(widths, strides, light=True))

    def stage(self, ins: int, outs: int, add: bool) -> nn.Module:
        return C3k2(ins, outs, add=add)

    def last(self, width: int) -> nn.Module:
        return nn.Sequential(SPPF(width, width), PSA(width))


class X(Pyramid):
    """Focus, cross stage partial blocks, a decoupled head."""

    def __init__(self) -> None:
        super().__init__(lambda widths, strides: DecoupledHead(widths, strides, corners=False))

    def make_stem(self, width: int) -> nn.Module:
        return Focus(3, width)

    def stage(self, ins: int, outs: int, add: bool) -> nn.Module:
        return CSP(ins, outs, add=add)


class V3Tiny(nn.Module):
    """Convolutions and max pools, the last of them of stride 1 behind a one-sided padding; two levels."""

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 16, 32, 48, 64)
        layers = [conv(3, widths[0], 3, act=leaky)]
        for ins, outs in pairwise(widths):
            layers += [nn.MaxPool2d(2), conv(ins, outs, 3, act=leaky)]
        self.body = nn.Sequential(*layers)
        self.deep = nn.Sequential(
            nn.MaxPool2d(2), conv(64, 96, 3, act=leaky), nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1),
            conv(96, 64, act=leaky),
        )  # fmt: skip
        self.large, self.side = conv(64, 96, 3, act=leaky), conv(64, 32, act=leaky)
        self.small = conv(32 + 64, 64, 3, act=leaky)
        self.head = AnchorHead((64, 96), (16, 32), squared=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        deep = self.deep(x)
        near = torch.cat([F.interpolate(self.side(deep), scale_factor=2.0, mode="nearest"), x], 1)
        out: torch.Tensor = self.head((self.small(near), self.large(deep)))
        return out


class V4Tiny(nn.Module):
    """Cross stage blocks that split channels, Mish, one pyramid level up and spatial pyramid pooling."""

    class Stage(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            half = width // 2
            self.first, self.mix = conv(width, width, 3, act=nn.Mish), conv(width, width, act=nn.Mish)
            self.one, self.two = conv(half, half, 3, act=nn.Mish), conv(half, half, 3, act=nn.Mish)
            self.pool = nn.MaxPool2d(2, 2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.first(x)
            one = self.one(x.chunk(2, 1)[1])
            mixed = self.mix(torch.cat([self.two(one), one], 1))
            return self.pool(torch.cat([x, mixed], 1)), mixed

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, 3, 2, act=nn.Mish), conv(16, 16, 3, 2, act=nn.Mish))
        self.a, self.b, self.c = self.Stage(16), self.Stage(32), self.Stage(64)
        self.last = conv(128, 64, 3, act=nn.Mish)
        self.large, self.side = conv(64, 96, 3, act=nn.Mish), conv(64, 32, act=nn.Mish)
        self.small = conv(32 + 64, 64, 3, act=nn.Mish)
        self.head = AnchorHead((64, 96), (16, 32), squared=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, _ = self.a(self.stem(x))
        x, _ = self.b(x)
        x, mixed = self.c(x)
        x = self.last(x)
        near = torch.cat([F.interpolate(self.side(x), scale_factor=2.0, mode="nearest"), mixed], 1)
        out: torch.Tensor = self.head((self.small(near), self.large(x)))
        return out


DETECTORS: dict[str, Callable[[], nn.Module]] = {
    "yolov3_tiny_style": V3Tiny,
    "yolov4_tiny_style": V4Tiny,
    "yolov5_style": V5,
    "yolov6_style": V6,
    "yolov7_style": V7,
    "yolov8_style": V8,
    "yolov9_style": V9,
    "yolov10_style": V10,
    "yolo11_style": V11,
    "yolox_style": X,
}
