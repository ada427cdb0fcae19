# SPDX-License-Identifier: Apache-2.0
"""How an image file becomes a model's input. Written once, it makes calibration and the device preprocess alike."""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from porter.errors import PorterError
from porter.files import input_file
from porter.ops import Array

__all__ = ["Preprocess", "rgb_to_yuv"]

_Resize = Literal["stretch", "letterbox", "crop"]
_Anchor = Literal["top-left", "center"]
_Channels = Literal["RGB", "BGR", "GRAY", "YUV444", "YUV444_128"]
_Layout = Literal["NCHW", "NHWC"]
_Interpolation = Literal["nearest", "bilinear", "bicubic", "area"]


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image file becomes the model's input: ``(pixel * scale - mean) / std``, pixels 0..255.

    Fields, which are also the keys of the TOML file:
        resize: ``stretch`` to the size; ``letterbox``: keep the aspect ratio and fill with ``pad``; ``crop``:
            cover the size and cut what sticks out.
        size: (height, width); default: the model's input.
        pad: pixel value of the letterbox border.
        anchor: where a letterboxed image sits: ``center`` or ``top-left`` (YOLOX).
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``area``, as Pillow computes them (bilinear
            and bicubic widen their window when they shrink; OpenCV's do not).
        channels: ``RGB``, ``BGR``, ``GRAY``, or luma and two color differences at full resolution, in whole numbers:
            ``YUV444`` in 0..255 with grey at (y, 128, 128); ``YUV444_128`` the same less 128, in -128..127.
        layout: ``NCHW`` or ``NHWC``.
        scale, mean, std: numbers; mean and std one, or one a channel, in the order of ``channels``, after
            ``scale``.
    """

    resize: _Resize = "stretch"
    size: tuple[int, int] | None = None
    pad: float = 0.0
    anchor: _Anchor = "center"
    interpolation: _Interpolation = "bilinear"
    channels: _Channels = "RGB"
    layout: _Layout = "NCHW"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Preprocess:
        """Read the TOML file.

        Raises:
            PorterError: PT501 for a missing file; PT405 for one that is not TOML, or a wrong key or value.
        """
        try:
            spec = tomllib.loads(input_file(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise PorterError("PT405", f"the preprocessing spec cannot be read: {error}", where=str(path)) from error
        return cls.from_mapping(spec, where=str(path))

    @classmethod
    def from_mapping(cls, spec: Mapping[str, Any], where: str | None = None) -> Preprocess:
        """Check every key and value. Raises :class:`PorterError` PT405 that names the key."""
        known = {f.name for f in fields(cls)}
        choices: dict[str, tuple[str, ...]] = {
            "resize": get_args(_Resize),
            "anchor": get_args(_Anchor),
            "channels": get_args(_Channels),
            "layout": get_args(_Layout),
            "interpolation": get_args(_Interpolation),
        }

        def wrong(key: str, need: str) -> PorterError:
            return PorterError("PT405", f"{key} = {spec[key]!r}: {need}", where=where)

        values: dict[str, Any] = {}
        for key, value in spec.items():
            if key not in known:
                raise PorterError(
                    "PT405",
                    f"there is no key {key!r}",
                    where=where,
                    fix=f"The keys are {', '.join(sorted(known))}.",
                )
            if key in choices:
                if value not in choices[key]:
                    raise wrong(key, f"it must be one of {', '.join(choices[key])}")
                values[key] = value
            elif key == "size":
                if not (_numbers(value, 2) and all(isinstance(v, int) and v > 0 for v in value)):
                    raise wrong(key, "it must be [height, width], two positive integers")
                values[key] = tuple(value)
            elif key in ("mean", "std"):
                numbers = value if isinstance(value, list | tuple) else [value]
                if not (_numbers(numbers, 1) or _numbers(numbers, 3)) or (key == "std" and 0 in numbers):
                    raise wrong(key, "it must be one number, or one for each of three channels, and no std is 0")
                values[key] = tuple(float(v) for v in numbers)
            else:
                if not _numbers([value], 1):
                    raise wrong(key, "it must be a finite number")
                values[key] = float(value)
        made = cls(**values)
        if made.channels == "GRAY" and max(len(made.mean), len(made.std)) > 1:
            raise PorterError("PT405", "channels is GRAY, but mean or std has three values", where=where)
        return made

    def to_json(self) -> dict[str, Any]:
        """The spec as a mapping that :meth:`from_mapping` reads; ``size`` is left out when it is the
        model's.
        """
        data = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}

    def to_toml(self) -> str:
        """The spec as the text of a TOML file that :meth:`load` reads."""
        lines = ["# How an image becomes the input of the model: (pixel * scale - mean) / std"]
        for key, value in self.to_json().items():
            lines.append(f"{key} = {json.dumps(value)}")
        return "\n".join(lines) + "\n"

    def image(self, path: Path, size: tuple[int, int]) -> Array:
        """Read one image, and make it ``size``: float32 (C, height, width) or (height, width, C).

        Raises:
            PorterError: PT404 when the file is no image that Pillow decodes, or Pillow is missing.
        """
        try:
            from PIL import Image, ImageOps
        except ImportError as error:
            raise PorterError(
                "PT404", "reading images needs Pillow", fix="Install it: pip install 'porter-ml[images]'."
            ) from error
        try:
            with Image.open(path) as file:
                picture = ImageOps.exif_transpose(file).convert("L" if self.channels == "GRAY" else "RGB")
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise PorterError("PT404", f"not an image that can be decoded: {error}", where=str(path)) from error
        filters = {
            "nearest": Image.Resampling.NEAREST,
            "bilinear": Image.Resampling.BILINEAR,
            "bicubic": Image.Resampling.BICUBIC,
            "area": Image.Resampling.BOX,
        }
        pixels = np.asarray(
            picture.resize(self._scaled(picture.height, picture.width, size)[::-1], filters[self.interpolation]),
            np.float32,
        )
        pixels = self._fit(np.atleast_3d(pixels), size)
        if self.channels == "BGR":
            pixels = pixels[:, :, ::-1]
        elif self.channels.startswith("YUV444"):
            pixels = rgb_to_yuv(pixels) - (128 if self.channels == "YUV444_128" else 0)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        pixels = (pixels * np.float32(self.scale) - mean) / std
        return np.ascontiguousarray(pixels.transpose(2, 0, 1) if self.layout == "NCHW" else pixels)

    def _scaled(self, height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the picture before it is padded or cut."""
        if self.resize == "stretch":
            return size
        choose = min if self.resize == "letterbox" else max
        ratio = choose(size[0] / height, size[1] / width)
        if self.resize == "letterbox":  # YOLOX's preproc truncates
            return max(1, int(height * ratio)), max(1, int(width * ratio))
        return max(size[0], round(height * ratio)), max(size[1], round(width * ratio))

    def _fit(self, pixels: Array, size: tuple[int, int]) -> Array:
        """Pad or cut (h, w, C) to ``size``."""
        height, width, channels = pixels.shape
        if self.resize == "crop":
            top, left = (height - size[0]) // 2, (width - size[1]) // 2
            return pixels[top : top + size[0], left : left + size[1]]
        if (height, width) == size:
            return pixels
        board = np.full((*size, channels), self.pad, np.float32)
        top, left = ((size[0] - height) // 2, (size[1] - width) // 2) if self.anchor == "center" else (0, 0)
        board[top : top + height, left : left + width] = pixels
        return board


#: Rows: Y, U (blue difference), V (red difference); columns: R, G, B. BT.601 at full swing, as JFIF 1.02 prints it.
_YUV = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]],
    np.float32,
)


def rgb_to_yuv(rgb: Array) -> Array:
    """(H, W, 3) RGB in 0..255 as Y, U, V in 0..255, rounded: BT.601, full swing, U and V of grey at 128."""
    return np.clip(np.rint(rgb @ _YUV.T + np.array([0, 128, 128], np.float32)), 0, 255)


def _numbers(values: object, count: int) -> bool:
    """Whether ``values`` is a list of ``count`` finite numbers."""
    return (
        isinstance(values, list | tuple)
        and len(values) == count
        and all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    )
