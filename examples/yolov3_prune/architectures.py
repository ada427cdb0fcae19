# SPDX-License-Identifier: Apache-2.0
"""The .cfg texts of YOLOv3, YOLOv3-SPP, YOLOv3-tiny and YOLOv3 on MobileNetV2, written from the architectures.

    python -m examples.yolov3_prune.architectures yolov3-spp > yolov3-spp.cfg
    python -m examples.yolov3_prune.architectures yolov3-mobilenetv2 --classes 5 --width 0.5 --size 128

Sources: Redmon and Farhadi, arXiv:1804.02767, table 1 and section 2.3 (Darknet-53 and the three scales); Huang et al.,
arXiv:1903.08589, section 3 (SPP: max pools of 5, 9 and 13); Sandler et al., arXiv:1801.04381, table 2 (MobileNetV2).
The MobileNetV2 detector expands each block by 4.5 and puts a separable convolution before each head.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

from .darknet import Value, format_cfg

#: Anchors in pixels for COCO at 416 and up: arXiv:1804.02767, section 2.3.
COCO_ANCHORS = (
    (10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326),
)  # fmt: skip
#: YOLOv3-tiny has two scales, and anchors of its own (pjreddie/darknet, cfg/yolov3-tiny.cfg).
TINY_ANCHORS = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))
#: Anchors for the shapes set at 128 pixels, whose objects are 11 to 62 pixels long.
SHAPES_ANCHORS = (
    (13, 13), (17, 17), (22, 22), (27, 27), (32, 32), (38, 38), (45, 45), (52, 52), (60, 60),
)  # fmt: skip

#: Of a MobileNetV2 block's hidden channels; the first block has none.
EXPANSION = 4.5


class _Writer:
    """Sections in the order of the file. Widths are scaled; a head's are not."""

    def __init__(self, size: int, classes: int, anchors: Sequence[tuple[int, int]], width: float) -> None:
        self.sections: list[tuple[str, Mapping[str, Value]]] = [("net", {"width": size, "height": size, "channels": 3})]
        self.classes = classes
        self.anchors = anchors
        self.width = width
        self.activation = "leaky"

    @property
    def last(self) -> int:
        """The index of the layer written last."""
        return len(self.sections) - 2

    def scaled(self, filters: float) -> int:
        return max(8, round(filters * self.width / 8) * 8)

    def conv(self, filters: int, size: int, stride: int = 1, groups: int = 1, activation: str | None = None) -> int:
        options: dict[str, Value] = {
            "batch_normalize": 1, "filters": filters, "size": size, "stride": stride, "pad": 1,
        }  # fmt: skip
        if groups > 1:
            options["groups"] = groups
        return self.add("convolutional", **options, activation=activation or self.activation)

    def add(self, kind: str, **options: Value) -> int:
        self.sections.append((kind, options))
        return self.last

    def shortcut(self, distance: int) -> None:
        self.add("shortcut", **{"from": -distance}, activation="linear")

    def head(self, mask: Sequence[int]) -> None:
        filters = len(mask) * (5 + self.classes)
        self.add("convolutional", filters=filters, size=1, stride=1, pad=1, activation="linear")
        self.add(
            "yolo", mask=",".join(map(str, mask)), anchors=", ".join(f"{w},{h}" for w, h in self.anchors),
            classes=self.classes, num=len(self.anchors),
        )  # fmt: skip

    def text(self) -> str:
        return format_cfg(self.sections)


def _darknet53(w: _Writer) -> tuple[int, int]:
    """Darknet-53 without its classifier; the layers of strides 8 and 16."""
    w.conv(w.scaled(32), 3)
    taps = []
    for filters, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        w.conv(w.scaled(filters), 3, stride=2)
        for _ in range(blocks):
            w.conv(w.scaled(filters / 2), 1)
            w.conv(w.scaled(filters), 3)
            w.shortcut(3)
        taps.append(w.last)
    return taps[2], taps[3]


def yolov3(size: int, classes: int, anchors: Sequence[tuple[int, int]], width: float, spp: bool = False) -> str:
    w = _Writer(size, classes, anchors, width)
    stride8, stride16 = _darknet53(w)
    for scale, (filters, lateral) in enumerate(((512, None), (256, stride16), (128, stride8))):
        if lateral is not None:
            w.add("route", layers=-4)
            w.conv(w.scaled(filters), 1)
            w.add("upsample", stride=2)
            w.add("route", layers=f"-1, {lateral}")
        w.conv(w.scaled(filters), 1)
        w.conv(w.scaled(2 * filters), 3)
        w.conv(w.scaled(filters), 1)
        if spp and lateral is None:
            _pyramid(w)
            w.conv(w.scaled(filters), 1)
        w.conv(w.scaled(2 * filters), 3)
        w.conv(w.scaled(filters), 1)
        w.conv(w.scaled(2 * filters), 3)
        w.head(range(6 - 3 * scale, 9 - 3 * scale))
    return w.text()


def _pyramid(w: _Writer) -> None:
    """Spatial pyramid pooling: max pools of 5, 9 and 13 beside the input itself."""
    w.add("maxpool", stride=1, size=5)
    w.add("route", layers=-2)
    w.add("maxpool", stride=1, size=9)
    w.add("route", layers=-4)
    w.add("maxpool", stride=1, size=13)
    w.add("route", layers="-1,-3,-5,-6")


def yolov3_spp(size: int, classes: int, anchors: Sequence[tuple[int, int]], width: float) -> str:
    return yolov3(size, classes, anchors, width, spp=True)


def yolov3_tiny(size: int, classes: int, anchors: Sequence[tuple[int, int]], width: float) -> str:
    w = _Writer(size, classes, anchors, width)
    for filters in (16, 32, 64, 128, 256):
        lateral = w.conv(w.scaled(filters), 3)
        w.add("maxpool", size=2, stride=2)
    w.conv(w.scaled(512), 3)
    w.add("maxpool", size=2, stride=1)
    w.conv(w.scaled(1024), 3)
    w.conv(w.scaled(256), 1)
    w.conv(w.scaled(512), 3)
    count = len(anchors) // 2
    w.head(range(count, 2 * count))
    w.add("route", layers=-4)
    w.conv(w.scaled(128), 1)
    w.add("upsample", stride=2)
    w.add("route", layers=f"-1, {lateral}")
    w.conv(w.scaled(256), 3)
    w.head(range(count))
    return w.text()


def yolov3_mobilenetv2(size: int, classes: int, anchors: Sequence[tuple[int, int]], width: float) -> str:
    w = _Writer(size, classes, anchors, width)
    w.activation = "relu6"
    w.conv(w.scaled(32), 3, stride=2)
    before = w.scaled(32)
    taps = {}
    for filters, blocks, stride in (
        (16, 1, 1),
        (24, 2, 2),
        (32, 3, 2),
        (64, 4, 2),
        (96, 3, 1),
        (160, 3, 2),
        (320, 1, 1),
    ):
        for block in range(blocks):
            step = stride if block == 0 else 1
            hidden = before if filters == 16 else int(EXPANSION * before)
            expanded = w.conv(hidden, 1)
            if step == 2:
                taps[filters] = expanded  # the last map of the stride that ends here: what a lateral connection takes
            w.conv(hidden, 3, stride=step, groups=hidden)
            w.conv(w.scaled(filters), 1, activation="linear")
            if block:
                w.shortcut(4)
            before = w.scaled(filters)
    for scale, lateral in enumerate((None, taps[160], taps[64])):
        if lateral is not None:
            w.add("route", layers=-4)
            w.conv(w.scaled(128), 1)
            w.add("upsample", stride=2)
            w.add("route", layers=f"-1, {lateral}")
        w.conv(w.scaled(128), 1)
        w.conv(w.scaled(128), 3, groups=w.scaled(128))
        w.conv(w.scaled(256), 1)
        w.head(range(6 - 3 * scale, 9 - 3 * scale))
    return w.text()


Architecture = Callable[[int, int, Sequence[tuple[int, int]], float], str]
ARCHITECTURES: dict[str, Architecture] = {
    "yolov3": yolov3,
    "yolov3-spp": yolov3_spp,
    "yolov3-tiny": yolov3_tiny,
    "yolov3-mobilenetv2": yolov3_mobilenetv2,
}


def cfg_text(
    name: str,
    size: int = 416,
    classes: int = 80,
    width: float = 1.0,
    anchors: Sequence[tuple[int, int]] | None = None,
) -> str:
    """The .cfg text of an architecture.

    Args:
        name: one of ARCHITECTURES.
        size: side of the square input in pixels, a multiple of 32.
        classes: how many.
        width: factor on the channels, rounded to multiples of 8.
        anchors: width and height in pixels, nine of them (six for yolov3-tiny); those of COCO by default.
    """
    if anchors is None:
        anchors = TINY_ANCHORS if name == "yolov3-tiny" else COCO_ANCHORS
    return ARCHITECTURES[name](size, classes, anchors, width)


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the .cfg text of an architecture.")
    parser.add_argument("name", choices=sorted(ARCHITECTURES))
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--shapes", action="store_true", help="the shapes set: its anchors, 5 classes, 128 pixels")
    args = parser.parse_args()
    if args.shapes:
        print(shapes_cfg(args.name, args.width), end="")
    else:
        print(cfg_text(args.name, args.size, args.classes, args.width), end="")


def shapes_cfg(name: str, width: float) -> str:
    """An architecture for the shapes set: five classes, 128 pixels, anchors of its objects' sizes."""
    anchors = SHAPES_ANCHORS[1::2][:4] + SHAPES_ANCHORS[-2:] if name == "yolov3-tiny" else SHAPES_ANCHORS
    return cfg_text(name, 128, 5, width, anchors)


if __name__ == "__main__":
    main()
