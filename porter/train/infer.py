# SPDX-License-Identifier: Apache-2.0
"""``porter infer``: what a stage of a detector finds in one image, drawn on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from porter.errors import PorterError
from porter.files import atomic_file, input_file
from porter.ops import Array
from porter.train.config import Config, Stage, load_config
from porter.train.evaluate import as_tuple
from porter.train.predict import stage_network
from porter.train.stages import check_stage
from porter.usercode import run_user_code

__all__ = ["Detection", "Inferred", "infer"]

#: Colours that can be told apart on most images (Okabe and Ito's palette for the colour blind).
_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


@dataclass(frozen=True, slots=True)
class Detection:
    """One box in pixels of the image (left, top, right, bottom), its score and its class."""

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str

    def to_json(self) -> dict[str, Any]:
        return {"box": list(self.box), "score": self.score, "class": self.label, "name": self.name}


@dataclass(frozen=True, slots=True)
class Inferred:
    """What :func:`infer` found, best first; ``drawn`` is where the picture is, or None."""

    stage: Stage
    image: Path
    detections: tuple[Detection, ...]
    drawn: Path | None

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "image": str(self.image),
            "detections": [one.to_json() for one in self.detections],
            "drawn": None if self.drawn is None else str(self.drawn),
        }


def infer(
    config: Config | str | Path,
    image: str | Path,
    out: str | Path | None = None,
    *,
    stage: str = "int_infer",
    min_score: float = 0.3,
    overwrite: bool = False,
) -> Inferred:
    """Run a stage's network on one image, and draw what it detects.

    Args:
        config: a configuration, or its file; with ``preprocess`` and ``post_process``.
        image: a file that Pillow reads.
        out: the picture to write (.png, .jpg); None: none.
        stage: whose network.
        min_score: detections below it are left out.
        overwrite: replace ``out``.

    Raises:
        PorterError: PT702 when the configuration lacks a function; PT703 to PT706 for the checkpoint; PT711 when a
            function returns something else than it must; PT501 and PT502 for the image; PT510 to PT512 for ``out``;
            PT520 when the user's own code fails.
    """
    from PIL import Image, UnidentifiedImageError

    chosen, kind = (config if isinstance(config, Config) else load_config(config)), check_stage(stage)
    preprocess = chosen.need("preprocess", "porter infer")
    post_process = chosen.need("post_process", "porter infer")
    file = input_file(image)
    try:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise PorterError("PT502", f"{file} is no image that can be read: {error}", str(file)) from error
    where = f"{chosen.path}: preprocess"
    img, scale = _prepared(run_user_code(lambda: preprocess(picture), where), picture.size, where)
    network = stage_network(chosen, kind)
    if isinstance(network, nn.Module):
        network.eval()
    with torch.no_grad():
        outputs = as_tuple(network(img), f"{chosen.path}: model")
    arrays = [one.detach().numpy() for one in outputs]
    where = f"{chosen.path}: post_process"
    rows = _rows(run_user_code(lambda: post_process(arrays), where), where)
    found = _detections(rows[rows[:, 4] >= min_score], scale, picture.size, chosen.class_names)
    drawn = None
    if out is not None:
        drawn = Path(out)
        with atomic_file(drawn, overwrite, [file]) as temporary:
            try:
                _draw(picture, found).save(temporary)
            except ValueError as error:
                raise PorterError("PT519", f"no picture can be written as {drawn.name}: {error}", "--output",
                                  "Name a .png or a .jpg.") from error  # fmt: skip
    return Inferred(kind, file, found, drawn)


def _prepared(made: Any, size: tuple[int, int], where: str) -> tuple[Tensor, tuple[float, float]]:
    """The input float[1, C, H, W], and how many of its pixels one of the image is, in x and y."""
    scale: Any = None
    if isinstance(made, tuple) and len(made) == 2:
        made, scale = made
    try:
        img = torch.as_tensor(made)
        scales = None if scale is None else np.broadcast_to(np.asarray(scale, np.float64), (2,))
    except (TypeError, ValueError, RuntimeError) as error:
        raise PorterError("PT711", f"preprocess returned a {type(made).__name__}", where) from error
    img = img[None] if img.ndim == 3 else img
    if img.ndim != 4 or img.shape[0] != 1 or not img.is_floating_point():
        raise PorterError("PT711", f"preprocess returned {img.dtype} of shape {list(img.shape)}; it must be floats of "
                          "shape [3, H, W] or [1, 3, H, W]", where)  # fmt: skip
    if scales is None:
        fit = min(img.shape[3] / size[0], img.shape[2] / size[1])
        return img.float(), (fit, fit)
    return img.float(), (float(scales[0]), float(scales[1]))


def _rows(found: Any, where: str) -> Array:
    rows = np.asarray(found, np.float64) if not isinstance(found, np.ndarray) else found.astype(np.float64)
    if rows.size == 0:
        return np.zeros((0, 6))
    if rows.ndim != 2 or rows.shape[1] != 6:
        raise PorterError("PT711", f"post_process returned an array of shape {list(rows.shape)}; it must be [n, 6]: "
                          "x1, y1, x2, y2, score, class", where)  # fmt: skip
    return rows


def _detections(
    rows: Array, scale: tuple[float, float], size: tuple[int, int], names: tuple[str, ...]
) -> tuple[Detection, ...]:
    found = []
    for x1, y1, x2, y2, score, label in rows[np.argsort(-rows[:, 4], kind="stable")].tolist():
        box = (
            min(max(x1 / scale[0], 0.0), size[0]), min(max(y1 / scale[1], 0.0), size[1]),
            min(max(x2 / scale[0], 0.0), size[0]), min(max(y2 / scale[1], 0.0), size[1]),
        )  # fmt: skip
        index = int(label)
        found.append(Detection(box, score, index, names[index] if 0 <= index < len(names) else str(index)))
    return tuple(found)


def _draw(picture: Any, found: tuple[Detection, ...]) -> Any:
    from PIL import ImageDraw

    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    width = max(1, round(max(picture.size) / 300))
    # The best one last, so that nothing covers it.
    for one in reversed(found):
        colour = _COLOURS[one.label % len(_COLOURS)]
        left, top, right, bottom = one.box
        if right <= left or bottom <= top:
            continue
        pen.rectangle((left, top, right, bottom), outline=colour, width=width)
        text = f"{one.name} {one.score:.2f}"
        area = pen.textbbox((left, top), text)
        below = top if area[3] - area[1] > top else top - (area[3] - area[1]) - 2
        pen.rectangle((left, below, left + area[2] - area[0] + 2, below + area[3] - area[1] + 4), fill=colour)
        pen.text((left + 1, below), text, fill="black")
    return drawn
