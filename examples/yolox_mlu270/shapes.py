# SPDX-License-Identifier: Apache-2.0
"""A small detection set that needs no download: five kinds of shape drawn over photographs.

Every image is a function of (seed, split, index), so a split is the same on every machine with the same Pillow and
numpy. The photographs are those that the scikit-image wheel carries; the validation photographs are not seen in
training. Without scikit-image, generated textures take their place (another set, with other numbers:
:attr:`Shapes.backgrounds` says which).

    python -m examples.yolox_mlu270.shapes calib OUT/   writes OUT/000000.png ... and OUT/annotations.json (COCO)
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

CLASSES = ("circle", "square", "triangle", "star", "ring")
SIZE = 128
LENGTHS = {"train": 40_000, "calib": 128, "val": 300}
TRAIN_PHOTOS = (
    "astronaut.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png", "camera.png", "coins.png",
    "brick.png", "grass.png", "ihc.png",
)  # fmt: skip
VAL_PHOTOS = ("chelsea.png", "rocket.jpg", "gravel.png", "clock_motion.png")
SUPERSAMPLING = 4
PREPROCESS = Path(__file__).parent / "preprocess.toml"


@dataclass(frozen=True)
class Sample:
    """One image with its objects.

    image (SIZE, SIZE, 3) uint8 RGB; boxes (n, 4) float32 ``x0, y0, x1, y1`` in pixels; labels (n,) int64, indices of
    CLASSES.
    """

    image: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


class Shapes:
    """One split, as a sequence of :class:`Sample`.

    Args:
        split: ``train``, ``calib`` or ``val``.
        seed: another seed is another set of images over the same photographs.

    Raises:
        KeyError: there is no such split.
    """

    def __init__(self, split: str, seed: int = 0) -> None:
        self.split = split
        self.seed = seed
        self._length = LENGTHS[split]
        self._photos = _photos(VAL_PHOTOS if split == "val" else TRAIN_PHOTOS)
        self.backgrounds = "photos" if self._photos else "textures"

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._length:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, list(LENGTHS).index(self.split), index])
        image = self._background(rng)
        boxes: list[tuple[int, int, int, int]] = []
        labels: list[int] = []
        for _ in range(rng.integers(1, 7)):
            label = int(rng.integers(len(CLASSES)))
            mask = _mask(CLASSES[label], rng)
            place = _place(mask.shape, boxes, rng)
            if place is None:
                continue
            _paint(image, mask, place, rng)
            boxes.append((place[0], place[1], place[0] + mask.shape[1], place[1] + mask.shape[0]))
            labels.append(label)
        return Sample(image, np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(labels, np.int64))

    def _background(self, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Photographs are few: outside of validation, a fifth are textures, and all vary in scale and colour."""
        if self.split == "val":
            return _crop(self._photos[rng.integers(len(self._photos))], rng) if self._photos else _texture(rng)
        if not self._photos or rng.random() < 0.2:
            return _recolor(_texture(rng), rng)
        photo = self._photos[rng.integers(len(self._photos))]
        return _recolor(_crop(photo, rng, least=SIZE // 4), rng)

    def coco(self, limit: int | None = None) -> dict[str, Any]:
        """The annotations of the first ``limit`` images as a COCO dictionary; every kind of id starts at 1."""
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for i in range(self._length if limit is None else min(limit, self._length)):
            sample = self[i]
            images.append({"id": i + 1, "file_name": f"{i:06d}.png", "width": SIZE, "height": SIZE})
            for (x0, y0, x1, y1), label in zip(sample.boxes.tolist(), sample.labels.tolist(), strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i + 1,
                        "category_id": label + 1,
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": (x1 - x0) * (y1 - y0),
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
        return {
            "info": {"backgrounds": self.backgrounds},
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }


@functools.cache
def _photos(names: tuple[str, ...]) -> tuple[npt.NDArray[np.uint8], ...]:
    """Photographs of the scikit-image wheel, RGB, short side at most 320 pixels; empty without scikit-image."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        return ()
    folder = Path(spec.origin).parent / "data"
    photos = []
    for name in names:
        if not (folder / name).exists():
            return ()
        with Image.open(folder / name) as opened:
            photo = opened.convert("RGB")
        scale = min(1.0, 320 / min(photo.size))
        photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BOX)
        photos.append(np.asarray(photo))
    return tuple(photos)


def _crop(photo: npt.NDArray[np.uint8], rng: np.random.Generator, least: int = SIZE * 3 // 4) -> npt.NDArray[np.uint8]:
    """A random square of the photograph of ``least`` pixels or more, flipped half of the time, resized to SIZE."""
    height, width, _ = photo.shape
    side = int(rng.integers(least, min(height, width) + 1))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    crop = photo[top : top + side, left : left + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    resized = Image.fromarray(np.ascontiguousarray(crop)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.array(resized)


def _texture(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Coloured noise of one to three scales: the first is a smooth gradient."""
    scales = (3, 8, 24)[: rng.integers(1, 4)]
    total = np.zeros((SIZE, SIZE, 3))
    for cells in scales:
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float64)
    return (total / len(scales)).astype(np.uint8)


def _recolor(image: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Channels in another order, each with its own contrast and brightness."""
    mixed = image[..., rng.permutation(3)] * rng.uniform(0.3, 1.3, 3) + rng.uniform(-40, 40, 3)
    return np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)


def _outline(kind: str, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """The polygon of a shape, (n, 2), around the origin, within radius 1, turned at random."""
    if kind in ("circle", "ring"):
        radius, angle = np.ones(48), np.arange(48) * (2 * math.pi / 48)
    elif kind == "star":
        radius, angle = np.tile([1.0, 0.42], 5), np.arange(10) * (2 * math.pi / 10)
    else:
        corners = 3 if kind == "triangle" else 4
        radius, angle = np.ones(corners), np.arange(corners) * (2 * math.pi / corners)
    points = np.stack((radius * np.cos(angle), radius * np.sin(angle)), 1)
    points[:, 0] *= rng.uniform(0.75, 1.0)
    turn = rng.uniform(0, 2 * math.pi)
    return points @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])


def _mask(kind: str, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Coverage 0..1 of one shape, cut to the rows and columns that it covers at least half a pixel of."""
    radius = math.exp(rng.uniform(math.log(7), math.log(30)))
    side = 2 * math.ceil(radius) + 2
    canvas = Image.new("L", (side * SUPERSAMPLING, side * SUPERSAMPLING))
    points = _outline(kind, rng) * radius
    draw = ImageDraw.Draw(canvas)
    center = side * SUPERSAMPLING / 2
    draw.polygon([(float(x), float(y)) for x, y in points * SUPERSAMPLING + center], fill=255)
    if kind == "ring":
        hole = points * (SUPERSAMPLING * rng.uniform(0.45, 0.7)) + center
        draw.polygon([(float(x), float(y)) for x, y in hole], fill=0)
    mask = np.asarray(canvas.reduce(SUPERSAMPLING), np.float64) / 255
    rows, columns = np.flatnonzero((mask >= 0.5).any(1)), np.flatnonzero((mask >= 0.5).any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _place(
    shape: tuple[int, ...], boxes: list[tuple[int, int, int, int]], rng: np.random.Generator
) -> tuple[int, int] | None:
    """A left, top at which the shape hides at most a fifth of any other one; None when ten tries found none."""
    height, width = shape
    for _ in range(10):
        left, top = int(rng.integers(SIZE - width + 1)), int(rng.integers(SIZE - height + 1))
        for x0, y0, x1, y1 in boxes:
            across = max(0, min(x1, left + width) - max(x0, left))
            down = max(0, min(y1, top + height) - max(y0, top))
            if across * down > 0.2 * min((x1 - x0) * (y1 - y0), width * height):
                break
        else:
            return left, top
    return None


def _paint(
    image: npt.NDArray[np.uint8], mask: npt.NDArray[np.float64], place: tuple[int, int], rng: np.random.Generator
) -> None:
    """Blend a random colour, unlike the mean colour under it, into the image."""
    left, top = place
    under = image[top : top + mask.shape[0], left : left + mask.shape[1]]
    color = rng.uniform(0, 255, 3)
    mean = under.mean((0, 1))
    if np.abs(color - mean).sum() < 120:
        color = np.where(mean < 128, 255.0, 0.0)
    alpha = mask[..., None] * rng.uniform(0.7, 1.0)
    shade = color * np.linspace(rng.uniform(0.7, 1.0), 1.0, mask.shape[1])[None, :, None]
    under[...] = np.rint(under * (1 - alpha) + shade * alpha)


def write(split: str, folder: Path, limit: int | None = None) -> int:
    """Write the first ``limit`` images of a split as PNG, annotations.json and preprocess.toml; returns how many."""
    data = Shapes(split)
    coco = data.coco(limit)
    folder.mkdir(parents=True, exist_ok=True)
    for entry in coco["images"]:
        Image.fromarray(data[entry["id"] - 1].image).save(folder / entry["file_name"])
    (folder / "annotations.json").write_text(json.dumps(coco))
    shutil.copyfile(PREPROCESS, folder / PREPROCESS.name)
    return len(coco["images"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a split of the shapes set as PNG files with COCO annotations.")
    parser.add_argument("split", choices=sorted(LENGTHS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    print(f"{write(args.split, args.folder, args.limit)} images in {args.folder}")


if __name__ == "__main__":
    main()
