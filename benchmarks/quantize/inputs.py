# SPDX-License-Identifier: Apache-2.0
"""What the models are calibrated and tested on: crops of photographs, rendered text and pages, files.

Everything is a function of a seed and of files that packages ship. Calibration and held-out items never share a
photograph, a line of text or a file.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

__all__ = [
    "CALIBRATION_PHOTOS",
    "HELD_OUT_PHOTOS",
    "Line",
    "crops",
    "file_features",
    "files",
    "imagenet",
    "lines",
    "pages",
    "photos",
]

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

#: Of scikit-image, scikit-learn and imgaug.
CALIBRATION_PHOTOS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
    "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "rocket.jpg",
    "china.jpg", "flower.jpg", "quokka.jpg",
)  # fmt: skip
#: Backgrounds of held-out pages.
HELD_OUT_PHOTOS = ("imagenet_00_243.jpg", "imagenet_03_990.jpg", "imagenet_05_853.jpg", "imagenet_12_741.jpg")
#: Kinds that a file's suffix stands for, as magika names them; files of other suffixes are not used.
SUFFIXES = {
    ".py": ("python",), ".pyi": ("python",), ".json": ("json",), ".md": ("markdown",), ".rst": ("rst",),
    ".toml": ("toml",), ".yaml": ("yaml",), ".yml": ("yaml",), ".html": ("html",), ".css": ("css",),
    ".js": ("javascript",), ".c": ("c", "cpp"), ".h": ("c", "cpp"), ".cpp": ("cpp", "c"), ".hpp": ("cpp", "c"),
    ".cu": ("cpp", "c"), ".cuh": ("cpp", "c"), ".so": ("elf",), ".png": ("png",), ".jpg": ("jpeg",), ".gif": ("gif",),
    ".npz": ("npz", "zip"), ".npy": ("npy",), ".csv": ("csv",), ".ttf": ("ttf",), ".otf": ("otf",),
    ".pyc": ("pythonbytecode",), ".onnx": ("onnx",), ".xml": ("xml",), ".sh": ("shell",), ".cmake": ("cmake",),
    ".svg": ("svg",), ".gz": ("gzip",), ".whl": ("zip",), ".txt": ("txt",), ".ini": ("ini",), ".cfg": ("ini",),
    ".tif": ("tiff",), ".rtf": ("rtf",), ".pxd": ("python",), ".proto": ("proto",), ".f90": ("fortran",),
    ".bat": ("batch",), ".ps1": ("powershell",),
}  # fmt: skip


@cache
def photos(packages: Path, names: tuple[str, ...]) -> tuple[Pixels, ...]:
    """The photographs of these names, (H, W, 3) RGB, wherever they are shipped."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise RuntimeError("scikit-image is not installed: pip install -e '.[example]'")
    places = (
        Path(spec.origin).parent / "data",
        packages / "scikit-learn/sklearn/datasets/images",
        packages / "imgaug/imgaug",
        packages / "foolbox/foolbox/data",
    )
    made = []
    for name in names:
        path = next(place / name for place in places if (place / name).exists())
        with Image.open(path) as opened:
            made.append(np.asarray(opened.convert("RGB")))
    return tuple(made)


def crops(packages: Path, count: int, size: int) -> Iterator[Pixels]:
    """``count`` random square crops of the calibration photographs, (size, size, 3), half of them mirrored."""
    rng = np.random.default_rng(1)
    pool = photos(packages, CALIBRATION_PHOTOS)
    for i in range(count):
        photo = pool[i % len(pool)]
        height, width, _ = photo.shape
        side = int(rng.integers(min(height, width) // 2, min(height, width) + 1))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        crop = photo[top : top + side, left : left + side, :]
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        yield np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC))


def imagenet(packages: Path, size: int = 224, short: int = 256) -> Iterator[tuple[Pixels, int]]:
    """Five crops (corners and centre, every second one mirrored) of each of foolbox's 20 ImageNet pictures, with the
    class."""
    for path in sorted((packages / "foolbox/foolbox/data").glob("imagenet_*.jpg")):
        label = int(path.stem.rsplit("_", 1)[1])
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        scale = short / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        down, right = image.height - size, image.width - size
        for i, (top, left) in enumerate(((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2))):
            crop = np.asarray(image.crop((left, top, left + size, top + size)))
            yield crop[:, ::-1] if i % 2 else crop, label


@dataclass(frozen=True)
class Line:
    """A rendered line: pixels (H, W, 3) and what it says."""

    pixels: Pixels
    text: str


@cache
def _words() -> tuple[str, ...]:
    """The words of the project's licence, a text that does not change."""
    text = (Path(__file__).resolve().parents[2] / "LICENSE").read_text(encoding="utf-8")
    return tuple(sorted(set(re.findall(r"[A-Za-z]{2,}", text))))


def _fonts(packages: Path, held_out: bool) -> list[Path]:
    """Source Serif for calibration, Caladea (and a few of Source Serif's weights that calibration lacks) held out."""
    serif = packages / "font-source-serif-pro/font_source_serif_pro/files"
    caladea = packages / "font-caladea/font_caladea/files"
    if held_out:
        return [*sorted(caladea.glob("*.ttf")), serif / "SourceSerifPro-Light.ttf"]
    return [serif / f"SourceSerifPro-{weight}.ttf" for weight in ("Regular", "Bold", "It", "Semibold", "Black")]


def _text(rng: np.random.Generator, longest: int) -> str:
    """Words, and a number now and then, together at most ``longest`` characters."""
    made: list[str] = []
    while True:
        word = str(rng.choice(_words())) if rng.random() < 0.75 else str(rng.integers(0, 10_000))
        if len(" ".join([*made, word])) > longest:
            return " ".join(made) or word[:longest]
        made.append(word)


def lines(
    packages: Path, count: int, held_out: bool, height: int = 48, width: int = 320, longest: int = 22
) -> Iterator[Line]:
    """Rendered lines as a text detector would cut them out: dark on light or light on dark, some noise, some blur."""
    rng = np.random.default_rng(3 if held_out else 2)
    fonts = _fonts(packages, held_out)
    for _ in range(count):
        text = _text(rng, longest)
        size = int(rng.integers(24, 37))
        font = ImageFont.truetype(str(fonts[rng.integers(len(fonts))]), size)
        paper, ink = rng.uniform(170, 255, 3), rng.uniform(0, 90, 3)
        if rng.random() < 0.3:
            paper, ink = ink, paper
        image = Image.new("RGB", (width, height), tuple(int(v) for v in paper))
        ImageDraw.Draw(image).text((6, height // 2), text, font=font, fill=tuple(int(v) for v in ink), anchor="lm")
        # What the line does not fill is left away, as a detector's box would.
        wide = min(width, int(font.getlength(text)) + 12)
        noisy = np.asarray(image.crop((0, 0, wide, height)), np.float64) + rng.normal(
            0, rng.uniform(0, 10), (height, wide, 3)
        )
        yield Line(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), text)


def pages(packages: Path, count: int, held_out: bool, height: int, width: int) -> Iterator[Pixels]:
    """Document pages: a title, paragraphs in one or two columns, photographs with captions, ruled tables."""
    rng = np.random.default_rng(5 if held_out else 4)
    fonts = [str(f) for f in _fonts(packages, held_out)]
    pool = photos(packages, HELD_OUT_PHOTOS if held_out else CALIBRATION_PHOTOS[:8])
    for _ in range(count):
        paper = int(rng.integers(225, 256))
        page = Image.new("RGB", (width, height), (paper, paper, paper))
        pen = ImageDraw.Draw(page)
        path = fonts[rng.integers(len(fonts))]
        margin = width // 14
        y = margin
        title = ImageFont.truetype(path, width // 18)
        pen.text((width // 2, y), _text(rng, 26), font=title, fill=(10, 10, 10), anchor="ma")
        y += width // 8
        columns = int(rng.integers(1, 3))
        wide = (width - margin * (columns + 1)) // columns
        for column in range(columns):
            _column(page, rng, path, pool, margin + column * (wide + margin), y, wide, height - margin)
        noisy = np.asarray(page, np.float64) + rng.normal(0, rng.uniform(0, 6), (height, width, 3))
        yield np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _column(
    page: Image.Image,
    rng: np.random.Generator,
    path: str,
    pool: tuple[Pixels, ...],
    x: int,
    y: int,
    wide: int,
    bottom: int,
) -> None:
    pen = ImageDraw.Draw(page)
    size = max(9, page.width // 50)
    font, head = ImageFont.truetype(path, size), ImageFont.truetype(path, size * 3 // 2)
    while y < bottom - size * 6:
        kind = rng.choice(["text", "text", "text", "figure", "table", "head"])
        if kind == "head":
            pen.text((x, y), _text(rng, 24), font=head, fill=(0, 0, 0))
            y += size * 3
        elif kind == "figure":
            photo = Image.fromarray(pool[rng.integers(len(pool))])
            high = min(int(wide * photo.height / photo.width), bottom - y - size * 4)
            if high < size * 4:
                break
            page.paste(photo.resize((wide, high), Image.Resampling.BILINEAR), (x, y))
            pen.text((x + wide // 2, y + high + size // 2), f"Figure {rng.integers(1, 9)}: {_text(rng, 24)}", font=font,
                     fill=(20, 20, 20), anchor="ma")  # fmt: skip
            y += high + size * 3
        elif kind == "table":
            rows, cells = int(rng.integers(3, 7)), int(rng.integers(2, 5))
            high = rows * size * 2
            if y + high > bottom:
                break
            for r in range(rows + 1):
                pen.line((x, y + r * size * 2, x + wide, y + r * size * 2), fill=(0, 0, 0))
            for c in range(cells):
                for r in range(rows):
                    at = (x + c * wide // cells + 4, y + r * size * 2 + size // 3)
                    pen.text(at, _text(rng, 8), font=font, fill=(0, 0, 0))
            y += high + size * 2
        else:
            for _ in range(int(rng.integers(3, 9))):
                if y > bottom - size * 2:
                    return
                pen.text((x, y), _text(rng, max(8, int(wide / size * 1.9))), font=font, fill=(15, 15, 15))
                y += size * 3 // 2
            y += size


def files(packages: Path) -> tuple[list[tuple[Path, tuple[str, ...]]], list[tuple[Path, tuple[str, ...]]]]:
    """Files with the kinds that their suffix allows, for calibration and held out: at most 2 and 5 of a suffix.

    They come from the packages above and from those that Python has installed; no package gives to both halves.
    """
    spec = importlib.util.find_spec("numpy")
    assert spec is not None and spec.origin is not None
    site = Path(spec.origin).parents[1]
    by_suffix: dict[tuple[str, bool], list[Path]] = {}
    for root in (packages, site):
        for package in sorted(p for p in root.iterdir() if p.is_dir()):
            held_out = sum(package.name.encode()) % 3 != 0
            for path in sorted(package.rglob("*")):
                key = (path.suffix, held_out)
                if path.suffix in SUFFIXES and path.is_file() and path.stat().st_size > 256:
                    by_suffix.setdefault(key, []).append(path)
    rng = np.random.default_rng(6)
    made: dict[bool, list[tuple[Path, tuple[str, ...]]]] = {False: [], True: []}
    for (suffix, held_out), found in sorted(by_suffix.items()):
        chosen = rng.permutation(len(found))[: 5 if held_out else 2]
        made[held_out] += [(found[i], SUFFIXES[suffix]) for i in sorted(chosen)]
    return made[False], made[True]


def file_features(path: Path) -> npt.NDArray[np.int32]:
    """(2048,) int32, as magika's model wants a file: its first and last 1024 bytes without surrounding white space,
    256 where there are fewer (magika.py, _extract_features_from_seekable, and config.min.json of standard_v3_3)."""
    content = path.read_bytes()
    first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    made = np.full(2048, 256, np.int32)
    made[: len(first)] = np.frombuffer(first, np.uint8)
    if last:
        made[-len(last) :] = np.frombuffer(last, np.uint8)
    return made
