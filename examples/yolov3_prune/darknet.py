# SPDX-License-Identifier: Apache-2.0
"""Networks in Darknet's own files, in plain PyTorch: ``.cfg`` text to a module, ``.weights`` read and written.

Sources: the file formats are those of Darknet (pjreddie/darknet, src/parser.c: ``parse_network_cfg``,
``load_weights_upto``, ``load_convolutional_weights``); the boxes those of Redmon and Farhadi, "YOLOv3: An Incremental
Improvement", arXiv:1804.02767, section 2.1. ``relu6`` is an activation of the MobileNetV2 cfg files.

The module returns ``(N, anchors, 5 + classes)``: in training mode the raw map, otherwise decoded rows ``cx, cy, w, h``
in pixels of the input, objectness, class scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Value = str | int | float
HEADER = (0, 2, 0)  # major, minor and revision of the weights that are written: ``seen`` is 64 bits wide from 0.2 on


@dataclass(frozen=True)
class Section:
    """One ``[kind]`` of a .cfg file with its ``key=value`` lines, as text."""

    kind: str
    options: Mapping[str, str]
    line: int = 0

    def integer(self, key: str, default: int | None = None) -> int:
        return int(self._get(key, default))

    def integers(self, key: str) -> list[int]:
        return [int(part) for part in self._get(key, None).split(",")]

    def text(self, key: str, default: str) -> str:
        return self._get(key, default)

    def pairs(self, key: str) -> list[tuple[float, float]]:
        flat = [float(part) for part in self._get(key, None).split(",")]
        return list(zip(flat[::2], flat[1::2], strict=True))

    def _get(self, key: str, default: Value | None) -> str:
        if key in self.options:
            return self.options[key]
        if default is None:
            raise ValueError(f"line {self.line}: [{self.kind}] needs {key}")
        return str(default)


def parse_cfg(text: str) -> list[Section]:
    """The sections of a .cfg file in order; the first is ``[net]``. ``#`` and ``;`` start comments.

    Raises:
        ValueError: a line is neither a section nor ``key=value``, or the first section is not ``[net]``.
    """
    found: list[tuple[str, dict[str, str], int]] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("#")[0].split(";")[0].strip()
        if line.startswith("[") and line.endswith("]"):
            found.append((line[1:-1].strip(), {}, number))
        elif line:
            key, equals, value = line.partition("=")
            if not equals or not found:
                raise ValueError(f"line {number}: {raw.strip()!r} is neither [section] nor key=value")
            found[-1][1][key.strip()] = value.strip()
    if not found or found[0][0] not in ("net", "network"):
        raise ValueError("a .cfg file starts with [net]")
    return [Section(*entry) for entry in found]


def format_cfg(sections: Sequence[tuple[str, Mapping[str, Value]]]) -> str:
    """The text of a .cfg file: what :func:`parse_cfg` reads."""
    parts = []
    for kind, options in sections:
        parts.append("\n".join([f"[{kind}]", *(f"{key}={value}" for key, value in options.items()), ""]))
    return "\n".join(parts)


ACTIVATIONS: dict[str, type[nn.Module] | None] = {
    "linear": None, "leaky": nn.LeakyReLU, "relu": nn.ReLU, "relu6": nn.ReLU6, "logistic": nn.Sigmoid,
}  # fmt: skip


class Convolutional(nn.Module):
    """``[convolutional]``: convolution, batch norm where the file says so, activation."""

    def __init__(self, c_in: int, section: Section) -> None:
        super().__init__()
        filters, size = section.integer("filters"), section.integer("size", 1)
        padding = size // 2 if section.integer("pad", 0) else section.integer("padding", 0)
        normalized = bool(section.integer("batch_normalize", 0))
        stride, groups = section.integer("stride", 1), section.integer("groups", 1)
        self.conv = nn.Conv2d(c_in, filters, size, stride, padding, groups=groups, bias=not normalized)
        self.bn = nn.BatchNorm2d(filters, momentum=0.03) if normalized else None
        name = section.text("activation", "logistic")
        if name not in ACTIVATIONS:
            raise ValueError(f"line {section.line}: activation {name!r} is not one of {', '.join(ACTIVATIONS)}")
        kind = ACTIVATIONS[name]
        self.act = nn.LeakyReLU(0.1) if kind is nn.LeakyReLU else kind() if kind else None

    @property
    def removed(self) -> bool:
        """Whether pruning put something else in the place of the convolution."""
        return not isinstance(self.conv, nn.Conv2d)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        return self.act(x) if self.act is not None else x


class MaxPool(nn.Module):
    """``[maxpool]``: Darknet pads ``size - 1`` in all, so a side becomes ``side / stride`` (a multiple of the stride).

    An even size with stride 1 is padded on the far side only: torch pads both, and the first row and column go.
    """

    def __init__(self, size: int, stride: int) -> None:
        super().__init__()
        self.lopsided = stride == 1 and size % 2 == 0
        self.pool = nn.MaxPool2d(size, stride, padding=size // 2 if stride == 1 else (size - 1) // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        return x[..., 1:, 1:] if self.lopsided else x


@dataclass(frozen=True)
class Scale:
    """One ``[yolo]`` layer: its anchors in pixels, and the size of its grid."""

    anchors: tuple[tuple[float, float], ...]
    height: int
    width: int


class Darknet(nn.Module):
    """The network of a .cfg text, for the input size that its ``[net]`` gives.

    Raises:
        ValueError: the text is not a network of the kinds above; the message has the line.
    """

    grid: Tensor
    anchors: Tensor
    strides: Tensor

    def __init__(self, cfg: str) -> None:
        super().__init__()
        net, *sections = self.sections = parse_cfg(cfg)
        self.size = (net.integer("height"), net.integer("width"))
        self.classes = 0
        self.layers = nn.ModuleList()
        self.sources: list[tuple[int, ...]] = []  # which outputs a layer reads: -1 is the image
        self.heads: list[int] = []
        scales: list[Scale] = []
        shapes: list[tuple[int, int, int]] = []  # channels, height, width of every output
        previous = (net.integer("channels", 3), *self.size)
        for index, section in enumerate(sections):
            layer, sources, shape = _build(section, index, previous, shapes)
            self.layers.append(layer)
            self.sources.append(sources)
            if section.kind == "yolo":
                self.classes = section.integer("classes")
                self.heads.append(index)
                scales.append(_scale(section, shape))
            shapes.append(shape)
            previous = shape
        if not scales:
            raise ValueError("the network has no [yolo] layer")
        for name, value in zip(("grid", "anchors", "strides"), _decode_tables(scales, self.size), strict=True):
            self.register_buffer(name, value, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        outputs: dict[int, Tensor] = {-1: x}
        for index, (layer, sources) in enumerate(zip(self.layers, self.sources, strict=True)):
            outputs[index] = layer(*(outputs[source] for source in sources))
        raw = torch.cat([self._rows(outputs[index]) for index in self.heads], 1)
        if self.training:
            return raw
        xy = (raw[..., :2].sigmoid() + self.grid) * self.strides
        wh = raw[..., 2:4].exp() * self.anchors
        return torch.cat((xy, wh, raw[..., 4:].sigmoid()), -1)

    def _rows(self, x: Tensor) -> Tensor:
        """(N, anchors * (5 + classes), H, W) to (N, anchors * H * W, 5 + classes)."""
        columns = 5 + self.classes
        n, cells = x.shape[0], x.shape[2] * x.shape[3]
        rows = x.reshape(n, -1, columns, cells).permute(0, 1, 3, 2)
        return rows.reshape(n, -1, columns)

    def convolutions(self) -> Iterator[Convolutional]:
        """The convolutional layers that are there, in the order of the file, which is that of a .weights file."""
        return (layer for layer in self.layers if isinstance(layer, Convolutional) and not layer.removed)


class Concat(nn.Module):
    """``[route]``: its sources, one after the other along the channels."""

    def forward(self, *x: Tensor) -> Tensor:
        return torch.cat(x, 1) if len(x) > 1 else x[0]


class Add(nn.Module):
    """``[shortcut]``."""

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return x + skip


def cfg_of(model: Darknet) -> str:
    """The .cfg text of a network as it is now: with the channels that pruning left, without the blocks it removed.

    References between layers are written as absolute indices.
    """
    net, *sections = model.sections
    written: list[tuple[str, Mapping[str, Value]]] = [(net.kind, net.options)]
    place: dict[int, int] = {}  # old index of a layer to the new index of the one that gives its output
    for index, (section, layer) in enumerate(zip(sections, model.layers, strict=True)):
        options: dict[str, Value] = dict(section.options)
        sources = [place.get(source) for source in model.sources[index]]
        if isinstance(layer, Convolutional):
            if layer.removed:
                continue
            options["filters"] = layer.conv.out_channels
            if layer.conv.groups > 1:
                options["groups"] = layer.conv.groups
        elif section.kind == "route":
            options["layers"] = ", ".join(map(str, sources))
        elif section.kind == "shortcut":
            if sources[0] is None:  # its branch is gone: the sum is what it started from
                place[index] = place[model.sources[index][1]]
                continue
            options["from"] = sources[1] if sources[1] is not None else options["from"]
        place[index] = len(written) - 1
        written.append((section.kind, options))
    return format_cfg(written)


Shape = tuple[int, int, int]


def _build(
    section: Section, index: int, previous: Shape, shapes: Sequence[Shape]
) -> tuple[nn.Module, tuple[int, ...], Shape]:
    """The layer of one section, the outputs that it reads, and the shape of its own."""
    channels, height, width = previous
    here = (index - 1,)
    if section.kind == "convolutional":
        layer = Convolutional(channels, section)
        conv = layer.conv
        kernel, stride, padding = int(conv.kernel_size[0]), int(conv.stride[0]), int(conv.padding[0])
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
        return layer, here, (conv.out_channels, height, width)
    if section.kind == "maxpool":
        stride = section.integer("stride", 1)
        pool = MaxPool(section.integer("size", stride), stride)
        return pool, here, (channels, height // stride, width // stride)
    if section.kind == "upsample":
        factor = section.integer("stride", 2)
        return nn.Upsample(scale_factor=factor, mode="nearest"), here, (channels, height * factor, width * factor)
    if section.kind == "route":
        sources = tuple(_absolute(i, index, section) for i in section.integers("layers"))
        total = sum(shapes[i][0] for i in sources)
        return Concat(), sources, (total, *shapes[sources[0]][1:])
    if section.kind == "shortcut":
        source = _absolute(section.integer("from"), index, section)
        if shapes[source] != previous:
            raise ValueError(f"line {section.line}: a shortcut of {shapes[source]} to {previous}")
        return Add(), (index - 1, source), previous
    if section.kind == "yolo":
        return nn.Identity(), here, previous
    raise ValueError(f"line {section.line}: [{section.kind}] is not a layer of these networks")


def _absolute(reference: int, index: int, section: Section) -> int:
    absolute = reference + index if reference < 0 else reference
    if not 0 <= absolute < index:
        raise ValueError(f"line {section.line}: layer {reference} does not come before layer {index}")
    return absolute


def _scale(section: Section, shape: Shape) -> Scale:
    anchors = section.pairs("anchors")
    chosen = tuple(anchors[i] for i in section.integers("mask"))
    expected = len(chosen) * (5 + section.integer("classes"))
    if shape[0] != expected:
        raise ValueError(f"line {section.line}: [yolo] needs {expected} channels before it, not {shape[0]}")
    return Scale(chosen, shape[1], shape[2])


def _decode_tables(scales: Sequence[Scale], size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Cell (1, A, 2), anchor (1, A, 2) and stride (1, A, 1) of every row, float32."""
    grids, anchors, strides = [], [], []
    for scale in scales:
        y, x = torch.meshgrid(torch.arange(scale.height), torch.arange(scale.width), indexing="ij")
        cells = torch.stack((x, y), -1).reshape(-1, 2).float()
        for anchor in scale.anchors:
            grids.append(cells)
            anchors.append(torch.tensor(anchor).expand_as(cells))
            strides.append(torch.full((len(cells), 1), size[0] / scale.height))
    return torch.cat(grids)[None], torch.cat(anchors)[None], torch.cat(strides)[None]


def load_weights(model: Darknet, path: Path) -> int:
    """Read a .weights file into the module; returns how many images the file says were seen in training.

    Raises:
        ValueError: the file has fewer or more values than the network.
    """
    data = path.read_bytes()
    major, minor, _revision = (int(v) for v in np.frombuffer(data, "<i4", 3))
    wide = major * 10 + minor >= 2
    seen = int(np.frombuffer(data, "<i8" if wide else "<i4", 1, 12)[0])
    values = np.frombuffer(data, "<f4", offset=20 if wide else 16)
    wanted = sum(tensor.numel() for tensor in _stored(model))
    if values.size != wanted:
        raise ValueError(f"{path} holds {values.size} values; the network has {wanted}")
    start = 0
    with torch.no_grad():
        for tensor in _stored(model):
            part = values[start : start + tensor.numel()].astype(np.float32)
            tensor.copy_(torch.from_numpy(part).reshape(tensor.shape))
            start += tensor.numel()
    return seen


def save_weights(model: Darknet, path: Path, seen: int = 0) -> None:
    """Write the module's values as a .weights file (version 0.2.0, little endian float32)."""
    parts: list[npt.NDArray[np.generic]] = [np.asarray(HEADER, "<i4"), np.asarray([seen], "<i8")]
    parts += [tensor.detach().cpu().contiguous().numpy().astype("<f4") for tensor in _stored(model)]
    path.write_bytes(b"".join(part.tobytes() for part in parts))


def _stored(model: Darknet) -> Iterator[Tensor]:
    """The tensors of a .weights file in its order: beta, gamma, mean, variance (or bias), then the kernel."""
    for layer in model.convolutions():
        if layer.bn is not None:
            assert layer.bn.running_mean is not None and layer.bn.running_var is not None
            yield from (layer.bn.bias, layer.bn.weight, layer.bn.running_mean, layer.bn.running_var)
        else:
            assert layer.conv.bias is not None
            yield layer.conv.bias
        yield layer.conv.weight
