# SPDX-License-Identifier: Apache-2.0
"""What the host does with a detector's raw outputs: filter each stride, decode what is left, suppress overlaps.

Nothing but numpy is imported, so that this file can go to the device as it is, beside the model (:meth:`Filter.emit`):

    python postprocess.py outputs.npz        the detections of one image, from a file with the model's outputs by name

A cell is filtered on its *raw* logits, before any sigmoid: sigmoid(x) >= 0.05 is x >= -2.944, so the exponentials are
computed, and integers become floats, for the few cells that pass. The filter is horizon.nn.functional.filter and its
use by FCOSMultiStrideFilter and RetinanetMultiStrideFilter as D-Robotics' rdk_doc describes them
(expert/api_reference.md): all inputs of a stride share N, H and W, and a cell stays if the largest channel of the first
one reaches the threshold.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

#: The largest exponent of a box's width that counts: an object of 1000 / 16 anchors (Detectron's BBOX_XFORM_CLIP).
MAX_LOG_RATIO = math.log(1000 / 16)


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best first.

    boxes (n, 4) float32 ``x0, y0, x1, y1`` in pixels; scores (n,) float32 in 0..1; labels (n,) int64.
    """

    boxes: Floats
    scores: Floats
    labels: Indices

    def rows(self) -> Floats:
        """(n, 6) float32: ``x0, y0, x1, y1, score, label``."""
        return np.column_stack((self.boxes, self.scores, self.labels)).astype(np.float32)


@dataclass(frozen=True)
class Filtered:
    """The M cells of one image and one stride that pass a filter, in row-major order.

    values (M,): the largest channel of the first input, before dequantization; channels (M,): which one; cells (M, 2):
    row and column; data: (M, C) float64 of every input, dequantized.
    """

    values: Array
    channels: Indices
    cells: Indices
    data: tuple[Doubles, ...]


def filter_cells(
    inputs: Sequence[Array], threshold: float, scales: Sequence[float] | None = None
) -> tuple[Filtered, ...]:
    """The cells whose largest channel of the first input is at least ``threshold``, image by image.

    Args:
        inputs: (N, C_i, H, W) each, of the same N, H and W; float, or integers with ``scales``.
        threshold: in the units of the dequantized first input.
        scales: of each input: a value is ``integer * scale``. None: they are floats.

    Raises:
        ValueError: the inputs do not share N, H and W, or there are not as many scales as inputs.
    """
    if len({(x.shape[0], *x.shape[2:]) for x in inputs}) != 1:
        raise ValueError(f"inputs of one stride must share N, H and W: {[x.shape for x in inputs]}")
    factors = [1.0] * len(inputs) if scales is None else list(scales)
    if len(factors) != len(inputs):
        raise ValueError(f"{len(inputs)} inputs and {len(factors)} scales")
    images = []
    for n in range(len(inputs[0])):
        first = inputs[0][n]
        channels = first.argmax(0)
        values = np.take_along_axis(first, channels[None], 0)[0]
        cells = np.argwhere(values.astype(np.float64) * factors[0] >= threshold)
        rows, columns = cells.T
        data = tuple(x[n][:, rows, columns].T.astype(np.float64) * f for x, f in zip(inputs, factors, strict=True))
        images.append(Filtered(values[rows, columns], channels[rows, columns].astype(np.int64), cells, data))
    return tuple(images)


def sigmoid(x: Doubles) -> Doubles:
    """1 / (1 + exp(-x)), without overflow."""
    small = np.exp(-np.abs(x))
    y: Doubles = np.where(x >= 0, 1.0, small) / (1.0 + small)
    return y


def nms(boxes: Array, scores: Array, threshold: float) -> list[int]:
    """Greedy non-maximum suppression.

    Args:
        boxes: (n, 4) ``x0, y0, x1, y1``.
        scores: (n,).
        threshold: a box whose IoU with a better one is above it is dropped.

    Returns:
        indices of the boxes that stay, best first.
    """
    order = np.argsort(-scores, kind="stable")
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    keep = []
    while order.size:
        first, rest = int(order[0]), order[1:]
        keep.append(first)
        low = np.maximum(boxes[first, :2], boxes[rest, :2])
        high = np.minimum(boxes[first, 2:], boxes[rest, 2:])
        inter = np.prod(np.maximum(high - low, 0), axis=1)
        iou = inter / np.maximum(areas[first] + areas[rest] - inter, 1e-9)
        order = rest[iou <= threshold]
    return keep


def best_of_each_class(
    boxes: Doubles, scores: Doubles, labels: Indices, iou_threshold: float, shape: tuple[int, int], most: int
) -> Detections:
    """Boxes cut to the image, NMS within each class, the ``most`` best ones.

    Args:
        boxes: (n, 4) ``x0, y0, x1, y1`` in pixels.
        scores: (n,), and labels (n,).
        labels: see scores.
        iou_threshold: see :func:`nms`.
        shape: (height, width) of the image in pixels.
        most: how many detections there may be.
    """
    boxes = np.clip(boxes, 0, np.array([shape[1], shape[0]] * 2, np.float64))
    keep: list[int] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        keep += members[nms(boxes[members], scores[members], iou_threshold)].tolist()
    keep.sort(key=lambda i: -scores[i])
    keep = keep[:most]
    return Detections(boxes[keep].astype(np.float32), scores[keep].astype(np.float32), labels[keep])


class Output(Protocol):
    """An output of the deploy model: its name, and what its integers stand for where it is not ``dequantized``."""

    @property
    def name(self) -> str: ...
    @property
    def scale(self) -> float: ...
    @property
    def zero_point(self) -> int: ...
    @property
    def dequantized(self) -> bool: ...


class Filter:
    """The host's part of a detector: a dataclass of its settings, which can be written beside a model."""

    def __call__(self, outputs: Sequence[Array], scales: Sequence[float] | None = None) -> list[Detections]:
        """The detections of each image, from the model's outputs: integers with their scales, or real numbers."""
        raise NotImplementedError

    def first(self, outputs: Sequence[Array]) -> Floats:
        """The :meth:`Detections.rows` of the first image, from real numbers."""
        return self(outputs)[0].rows()

    def emit(self, folder: Path, outputs: Sequence[Output], class_names: Sequence[str]) -> None:
        """Write this file and ``postprocess.json``, the settings, into the folder of a deploy model with these outputs.

        Raises:
            ValueError: an output has a zero point.
        """
        if any(output.zero_point for output in outputs if not output.dequantized):
            raise ValueError("the filter takes integers times scales, and expects zero points of 0")
        described = {
            "filter": type(self).__name__,
            "settings": dataclasses.asdict(self),  # type: ignore[call-overload]
            "outputs": [output.name for output in outputs],
            "scales": [1.0 if output.dequantized else float(output.scale) for output in outputs],
            "classes": list(class_names),
        }
        (folder / "postprocess.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        (folder / "postprocess.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")


@dataclass(frozen=True)
class FcosMultiStrideFilter(Filter):
    """Detections of FCOS from its outputs: classes of every stride, then distances, then centerness.

    Each cell that passes the filter is one detection of its best class, with the score sqrt(sigmoid(class) *
    sigmoid(centerness)); distances below 0 count as 0.

    strides: of the levels, in pixels; threshold: on class logits; score_threshold: on scores; iou_threshold: of NMS;
    max_shape: (height, width) in pixels, to which boxes are cut; candidates: cells of a stride that go on, best first;
    most: detections of an image.
    """

    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    threshold: float = -2.944
    score_threshold: float = 0.05
    iou_threshold: float = 0.6
    max_shape: tuple[int, int] = (512, 512)
    candidates: int = 1000
    most: int = 100

    def __call__(self, outputs: Sequence[Array], scales: Sequence[float] | None = None) -> list[Detections]:
        """Of each image.

        Args:
            outputs: (N, classes, H_s, W_s), (N, 4, H_s, W_s) and (N, 1, H_s, W_s), each for every stride s.
            scales: see :func:`filter_cells`; of every output.
        """
        per_stride = _by_stride(outputs, scales, len(self.strides), self.threshold)
        found = []
        for n in range(len(outputs[0])):
            parts = [self._decode(cells[n], stride) for cells, stride in zip(per_stride, self.strides, strict=True)]
            boxes, scores, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
            found.append(best_of_each_class(boxes, scores, labels, self.iou_threshold, self.max_shape, self.most))
        return found

    def _decode(self, cells: Filtered, stride: int) -> tuple[Doubles, Doubles, Indices]:
        logits, distances, centerness = cells.data
        best = logits[np.arange(len(logits)), cells.channels]
        scores = np.sqrt(sigmoid(best) * sigmoid(centerness[:, 0]))
        chosen = _best(scores, self.score_threshold, self.candidates)
        centers = (cells.cells[chosen, ::-1] + 0.5) * stride
        sides = np.maximum(distances[chosen], 0) * stride
        boxes = np.concatenate((centers - sides[:, :2], centers + sides[:, 2:]), 1)
        return boxes, scores[chosen], cells.channels[chosen]


@dataclass(frozen=True)
class Anchors:
    """The anchors of each cell: every ratio (height / width) with every scale, the scale fastest, around its centre.

    strides and base_sizes: of each level, in pixels; scales: factors on the base size; ratios; rounded: whether the
    corners are whole pixels from the centre.
    """

    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    base_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    scales: tuple[float, ...] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rounded: bool = True

    @property
    def count(self) -> int:
        """Anchors a cell."""
        return len(self.scales) * len(self.ratios)

    def shapes(self, level: int) -> Doubles:
        """(count, 4) float64: ``x0, y0, x1, y1`` of a level's anchors around a centre at 0."""
        size = self.base_sizes[level]
        sides = [(size * s / math.sqrt(r), size * s * math.sqrt(r)) for r in self.ratios for s in self.scales]
        half = np.array(sides, np.float64) / 2
        corners = np.concatenate((-half, half), 1)
        return np.rint(corners) if self.rounded else corners

    def boxes(self, level: int, cells: Indices, kinds: Indices) -> Doubles:
        """(n, 4) float64 ``x0, y0, x1, y1`` in pixels: the anchors ``kinds`` (n,) of ``cells`` (n, 2) row, column."""
        centers = (cells[:, ::-1] + 0.5) * self.strides[level]
        return np.tile(centers, 2) + self.shapes(level)[kinds]

    def grid(self, level: int, height: int, width: int) -> Doubles:
        """(height * width * count, 4) float64: all anchors of a level, the anchor fastest, then the column."""
        cells = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).reshape(-1, 2)
        return self.boxes(level, np.repeat(cells, self.count, 0), np.tile(np.arange(self.count), len(cells)))


def apply_offsets(anchors: Doubles, offsets: Doubles) -> Doubles:
    """Boxes from anchors: (n, 4) and dx, dy, dw, dh (n, 4) to (n, 4); arXiv:1311.2524, appendix C."""
    sizes = anchors[:, 2:] - anchors[:, :2]
    centers = anchors[:, :2] + sizes / 2 + offsets[:, :2] * sizes
    half = sizes * np.exp(np.minimum(offsets[:, 2:], MAX_LOG_RATIO)) / 2
    return np.concatenate((centers - half, centers + half), 1)


@dataclass(frozen=True)
class RetinaNetMultiStrideFilter(Filter):
    """Detections of RetinaNet from its outputs: classes of every stride, then box offsets.

    A cell passes the filter when any class of any of its anchors does; of the cells that pass, each class of each
    anchor with a high enough score is a candidate.

    anchors: as in training; threshold: on class logits; score_threshold: on scores; iou_threshold: of NMS; max_shape:
    (height, width) in pixels, to which boxes are cut; candidates: of a stride that go on, best first; most: detections
    of an image.
    """

    anchors: Anchors = Anchors()
    threshold: float = -2.944
    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    max_shape: tuple[int, int] = (1024, 1024)
    candidates: int = 1000
    most: int = 300

    def __call__(self, outputs: Sequence[Array], scales: Sequence[float] | None = None) -> list[Detections]:
        """Of each image.

        Args:
            outputs: (N, count * classes, H_s, W_s) and (N, count * 4, H_s, W_s), each for every stride s.
            scales: see :func:`filter_cells`; of every output.
        """
        per_stride = _by_stride(outputs, scales, len(self.anchors.strides), self.threshold)
        found = []
        for n in range(len(outputs[0])):
            parts = [self._decode(cells[n], level) for level, cells in enumerate(per_stride)]
            boxes, scores, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
            found.append(best_of_each_class(boxes, scores, labels, self.iou_threshold, self.max_shape, self.most))
        return found

    def _decode(self, cells: Filtered, level: int) -> tuple[Doubles, Doubles, Indices]:
        logits, offsets = cells.data
        classes = logits.shape[1] // self.anchors.count
        scores = sigmoid(logits).reshape(-1)  # cell, anchor, class
        chosen = _best(scores, self.score_threshold, self.candidates)
        at, rest = np.divmod(chosen, self.anchors.count * classes)
        kinds, labels = np.divmod(rest, classes)
        anchors = self.anchors.boxes(level, cells.cells[at], kinds)
        boxes = apply_offsets(anchors, offsets.reshape(-1, self.anchors.count, 4)[at, kinds])
        return boxes, scores[chosen], labels


def _by_stride(
    outputs: Sequence[Array], scales: Sequence[float] | None, strides: int, threshold: float
) -> list[tuple[Filtered, ...]]:
    """The filter for each stride; outputs are in groups of one a stride."""
    if len(outputs) % strides or not outputs:
        raise ValueError(f"{len(outputs)} outputs of {strides} strides")
    factors = None if scales is None else [scales[i::strides] for i in range(strides)]
    return [filter_cells(outputs[i::strides], threshold, factors[i] if factors else None) for i in range(strides)]


def _best(scores: Doubles, threshold: float, most: int) -> Indices:
    """Indices of the ``most`` best scores of at least ``threshold``, in descending order of the score."""
    chosen = np.flatnonzero(scores >= threshold)
    order = np.argsort(-scores[chosen], kind="stable")[:most]
    best: Indices = chosen[order].astype(np.int64)
    return best


_KINDS: dict[str, type[Filter]] = {kind.__name__: kind for kind in (FcosMultiStrideFilter, RetinaNetMultiStrideFilter)}


def load(path: Path) -> tuple[Filter, list[str], list[str], list[float]]:
    """The settings, names of outputs, classes and scales that :meth:`Filter.emit` wrote."""
    described = json.loads(path.read_text(encoding="utf-8"))
    settings = {key: tuple(v) if isinstance(v, list) else v for key, v in described["settings"].items()}
    if "anchors" in settings:
        settings["anchors"] = Anchors(
            **{key: tuple(v) if isinstance(v, list) else v for key, v in settings["anchors"].items()}
        )
    kind = _KINDS[described["filter"]]
    return kind(**settings), described["outputs"], described["classes"], described["scales"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Detections of one image from a model's raw outputs.")
    parser.add_argument("outputs", type=Path, help="an .npz with the outputs by name, N = 1")
    parser.add_argument("--settings", type=Path, default=Path(__file__).parent / "postprocess.json")
    args = parser.parse_args()
    settings, names, classes, scales = load(args.settings)
    with np.load(args.outputs) as file:
        found = settings([file[name] for name in names], scales)[0]
    for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True):
        name = classes[label] if label < len(classes) else label
        print(json.dumps({"class": name, "score": round(score, 4), "box": [round(v, 2) for v in box]}))


if __name__ == "__main__":
    main()
