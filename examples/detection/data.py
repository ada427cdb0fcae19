# SPDX-License-Identifier: Apache-2.0
"""Detection data in COCO's format as batches for training: images of a source, transforms, collation.

A source is a sequence of images with boxes, and can give its annotations as a COCO dictionary: :class:`CocoFolder`
reads such a set from disk by pycocotools, ``examples.yolox_mlu270.shapes.Shapes`` draws one. Random choices come from
torch's generator, so they repeat with its seed, in every worker.

What the network sees is what Horizon's image pyramid gives: full-resolution YUV around zero, -128..127, over 128
(``to_yuv`` and ``mean = std = 128`` in the vendor's configurations); :func:`preprocess` is the same for one picture.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from porter.preprocess import rgb_to_yuv

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


class Labelled(Protocol):
    """An image (H, W, 3) uint8 RGB with boxes (n, 4) float32 ``x0, y0, x1, y1`` in pixels, and labels (n,) int64."""

    @property
    def image(self) -> Pixels: ...
    @property
    def boxes(self) -> Floats: ...
    @property
    def labels(self) -> Indices: ...


class Source(Protocol):
    """See the module docstring. Ids in ``coco()`` count from 1: of images by their index, of categories by label."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Labelled: ...
    def coco(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Sample:
    """An image on its way to the network. ``scale``: pixels of it for one pixel of the original."""

    image: Pixels
    boxes: Floats
    labels: Indices
    scale: float = 1.0


Transform = Callable[[Sample, np.random.Generator], Sample]


class CocoFolder:
    """A folder of images with a COCO annotation file.

    Crowds are not trained on, and are kept in :meth:`coco`, where the metric ignores what falls into them.

    Args:
        images: the folder.
        annotations: the ``instances_*.json``.
    """

    def __init__(self, images: str | Path, annotations: str | Path) -> None:
        from pycocotools.coco import COCO

        self.folder = Path(images)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            self._coco = COCO(str(annotations))
        self._images = self._coco.loadImgs(sorted(self._coco.getImgIds()))
        self._label = {category: i for i, category in enumerate(sorted(self._coco.getCatIds()))}

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the categories, by label."""
        return tuple(c["name"] for c in self._coco.loadCats(list(self._label)))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        entry = self._images[index]
        with Image.open(self.folder / entry["file_name"]) as file:
            image = np.asarray(file.convert("RGB"))
        found = [a for a in self._annotations(entry["id"]) if not a.get("iscrowd")]
        boxes = np.array([a["bbox"] for a in found], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([self._label[a["category_id"]] for a in found], np.int64)
        full = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return Sample(image, boxes[full], labels[full])

    def _annotations(self, image: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._coco.loadAnns(self._coco.getAnnIds(imgIds=[image]))
        return found

    def coco(self) -> dict[str, Any]:
        """The annotations, ids counted anew: images by their index, categories by label."""
        annotations = [
            {**a, "image_id": i + 1, "category_id": self._label[a["category_id"]] + 1}
            for i, entry in enumerate(self._images)
            for a in self._annotations(entry["id"])
        ]
        return {
            "images": [{**entry, "id": i + 1} for i, entry in enumerate(self._images)],
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(self.classes)],
        }


class Remembered:
    """A source that keeps the images it has given: for a small set whose images are dear to make."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._kept: dict[int, Labelled] = {}
        self.coco = functools.cache(source.coco)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Labelled:
        if index not in self._kept:
            self._kept[index] = self._source[index]
        return self._kept[index]


# -- transforms ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resize:
    """To fit ``size`` (height, width), the aspect ratio kept; times a factor drawn from ``ratio_range``, if given."""

    size: tuple[int, int]
    ratio_range: tuple[float, float] | None = None

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width, _ = sample.image.shape
        factor = min(self.size[0] / height, self.size[1] / width)
        if self.ratio_range is not None:
            factor *= float(rng.uniform(*self.ratio_range))
        new = max(1, int(height * factor)), max(1, int(width * factor))
        if new == (height, width):
            return sample
        image = Image.fromarray(sample.image).resize(new[::-1], Image.Resampling.BILINEAR)
        ratios = np.array([new[1] / width, new[0] / height] * 2, np.float32)
        return replace(sample, image=np.asarray(image), boxes=sample.boxes * ratios, scale=sample.scale * factor)


@dataclass(frozen=True)
class RandomCrop:
    """A part of at most ``size`` (height, width); objects whose centre is outside of it are dropped, others cut."""

    size: tuple[int, int]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width, _ = sample.image.shape
        h, w = min(height, self.size[0]), min(width, self.size[1])
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        boxes = sample.boxes - np.array([left, top] * 2, np.float32)
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centers >= 0) & (centers < (w, h))).all(1)
        boxes = np.clip(boxes, 0, np.array([w, h] * 2, np.float32))[inside]
        image = np.ascontiguousarray(sample.image[top : top + h, left : left + w])
        return replace(sample, image=image, boxes=boxes, labels=sample.labels[inside])


@dataclass(frozen=True)
class Pad:
    """Black at the right and at the bottom, up to ``size`` (height, width). Larger images are an error."""

    size: tuple[int, int]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width, _ = sample.image.shape
        if height > self.size[0] or width > self.size[1]:
            raise ValueError(f"an image of {height}x{width} does not fit {self.size[0]}x{self.size[1]}")
        image = np.zeros((*self.size, 3), np.uint8)
        image[:height, :width] = sample.image
        return replace(sample, image=image)


@dataclass(frozen=True)
class RandomFlip:
    """Left to right, with probability ``px``."""

    px: float = 0.5

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.px:
            return sample
        width = sample.image.shape[1]
        boxes = sample.boxes.copy()
        boxes[:, [0, 2]] = width - sample.boxes[:, [2, 0]]
        return replace(sample, image=np.ascontiguousarray(sample.image[:, ::-1]), boxes=boxes)


@dataclass(frozen=True)
class AugmentHsv:
    """Hue shifted by up to ``hgain`` turns, saturation and value times up to 1 +- their gains."""

    hgain: float = 0.015
    sgain: float = 0.7
    vgain: float = 0.4

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        gains = rng.uniform(-1, 1, 3) * (self.hgain, self.sgain, self.vgain)
        hsv = np.asarray(Image.fromarray(sample.image).convert("HSV"), np.float64)
        hue = (hsv[..., 0] + gains[0] * 256) % 256
        rest = np.clip(hsv[..., 1:] * (1 + gains[1:]), 0, 255)
        changed = np.concatenate((hue[..., None], rest), -1).astype(np.uint8)
        size = (changed.shape[1], changed.shape[0])
        return replace(sample, image=np.asarray(Image.frombytes("HSV", size, changed.tobytes()).convert("RGB")))


def to_input(image: Pixels) -> Floats:
    """(H, W, 3) uint8 RGB to (3, H, W) float32: Y, U, V in whole 128ths, -1..127/128."""
    yuv = (rgb_to_yuv(image.astype(np.float32)) - 128) / 128
    return np.ascontiguousarray(yuv.transpose(2, 0, 1), np.float32)


def preprocess(picture: Image.Image, size: tuple[int, int]) -> Floats:
    """One picture as the network wants it: fit into ``size`` (height, width), top left, (3, H, W) float32."""
    sample = Sample(np.asarray(picture.convert("RGB")), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    rng = np.random.default_rng(0)  # neither step draws from it
    return to_input(Pad(size)(Resize(size)(sample, rng), rng).image)


# -- batches ---------------------------------------------------------------------------------------------------------


class Detection(Dataset[dict[str, Any]]):
    """A source with transforms, as a torch data set.

    An item is ``img`` (3, H, W) float32, ``boxes`` (n, 4) float32 in pixels of it, ``labels`` (n,) int64, ``index`` of
    the image in the source, and ``scale``: pixels of ``img`` for one of the original.

    Args:
        source: of images.
        transforms: one after another; the last must give all images the same size.
        limit: only the first so many images.
    """

    def __init__(self, source: Source, transforms: Sequence[Transform] = (), limit: int | None = None) -> None:
        self.source = source
        self.transforms = tuple(transforms)
        self._length = len(source) if limit is None else min(limit, len(source))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self._length:
            raise IndexError(index)
        found = self.source[index]
        sample = Sample(found.image, found.boxes, found.labels)
        if self.transforms:
            rng = np.random.default_rng(int(torch.randint(2**62, ())))
            for transform in self.transforms:
                sample = transform(sample, rng)
        return {
            "img": torch.from_numpy(to_input(sample.image)),
            "boxes": torch.from_numpy(np.ascontiguousarray(sample.boxes, np.float32)),
            "labels": torch.from_numpy(np.ascontiguousarray(sample.labels, np.int64)),
            "index": index,
            "scale": sample.scale,
        }


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Items of :class:`Detection` as a batch; objects padded to the largest number G of them, at least one.

    Returns:
        ``img`` (N, 3, H, W) float32; ``boxes`` (N, G, 4) float32; ``labels`` (N, G) int64; ``valid`` (N, G) bool, False
        where padded; ``index`` (N,) int64; ``scale`` (N,) float64.
    """
    most = max(1, *(len(item["labels"]) for item in items))
    boxes = torch.zeros(len(items), most, 4)
    labels = torch.zeros(len(items), most, dtype=torch.int64)
    valid = torch.zeros(len(items), most, dtype=torch.bool)
    for i, item in enumerate(items):
        count = len(item["labels"])
        boxes[i, :count], labels[i, :count], valid[i, :count] = item["boxes"], item["labels"], True
    return {
        "img": torch.stack([item["img"] for item in items]),
        "boxes": boxes,
        "labels": labels,
        "valid": valid,
        "index": torch.tensor([item["index"] for item in items]),
        "scale": torch.tensor([item["scale"] for item in items], dtype=torch.float64),
    }
