# SPDX-License-Identifier: Apache-2.0
"""COCO metrics for anything that predicts: a torch module, an ONNX session, a quantized simulation.

A predictor is a callable: float32 images (N, 3, H, W) to decoded rows (N, anchors, 5 + classes), each
``cx, cy, w, h, objectness, class scores...`` with boxes in pixels of the input. No torch is imported here unless a
torch model is asked for.

    python -m examples.yolox_mlu270.evaluate                    the committed weights, every validation image
    python -m examples.yolox_mlu270.evaluate --onnx MODEL.onnx  an ONNX file, by onnxruntime
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from examples.detection.postprocess import Detections, nms

from .shapes import CLASSES, SIZE, Shapes

Floats = npt.NDArray[np.float32]
Predict = Callable[[Floats], Floats]

WEIGHTS = Path(__file__).parent / "weights" / "yolox_nano_shapes.pt"
PAD_VALUE = 114
PALETTE = ((230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (240, 50, 230))


def preprocess(image: npt.NDArray[np.uint8], size: int = SIZE) -> tuple[Floats, float]:
    """One RGB image as the network wants it; ``preprocess.toml`` says the same to porter.

    Args:
        image: (H, W, 3) uint8 RGB.
        size: side of the square input in pixels.

    Returns:
        (3, size, size) float32, BGR in 0..255, the image scaled to fit the top left corner, the rest filled with 114;
        and the scale (divide a predicted box by it).
    """
    height, width, _ = image.shape
    scale = min(size / height, size / width)
    new_width, new_height = int(width * scale), int(height * scale)
    if (new_height, new_width) != (height, width):
        image = np.asarray(Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR))
    canvas = np.full((size, size, 3), PAD_VALUE, np.float32)
    canvas[:new_height, :new_width] = image
    return np.ascontiguousarray(canvas[..., ::-1].transpose(2, 0, 1)), scale


def load_inputs(split: str, limit: int | None = None) -> Floats:
    """The first ``limit`` images of a split, preprocessed: (N, 3, SIZE, SIZE) float32."""
    data = Shapes(split)
    count = len(data) if limit is None else min(limit, len(data))
    return np.stack([preprocess(data[i].image)[0] for i in range(count)])


def calibration_images() -> Iterator[Floats]:
    """The calibration set, one (1, 3, SIZE, SIZE) float32 image at a time."""
    for image in load_inputs("calib"):
        yield image[None]


def postprocess(rows: Floats, confidence: float = 0.01, nms_iou: float = 0.65) -> Detections:
    """Detections of one image from decoded rows (anchors, 5 + classes): the best class a row, NMS within a class.

    Args:
        rows: see above.
        confidence: the least objectness times class score. 0.01 for COCO metrics, about 0.3 for pictures.
        nms_iou: see :func:`examples.detection.postprocess.nms`.
    """
    labels = rows[:, 5:].argmax(1).astype(np.int64)
    scores = rows[:, 4] * rows[np.arange(len(rows)), 5 + labels]
    wanted = scores >= confidence
    rows, scores, labels = rows[wanted], scores[wanted], labels[wanted]
    boxes: Floats = np.concatenate(
        (rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2), 1, dtype=np.float32
    )
    keep: list[int] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        keep += members[nms(boxes[members], scores[members], nms_iou)].tolist()
    keep.sort(key=lambda i: -scores[i])
    return Detections(boxes[keep], scores[keep].astype(np.float32), labels[keep])


def evaluate(predict: Predict, split: str = "val", limit: int | None = None, batch: int = 1) -> dict[str, float]:
    """COCO metrics of a predictor.

    Args:
        predict: see the module docstring.
        split: of :class:`Shapes`.
        limit: only the first so many images.
        batch: images a call; the last call may have fewer.

    Returns:
        ``mAP`` (IoU 0.50 to 0.95), ``AP50``, ``AP75``, ``AR100``, and ``AP_<class>`` for each class; all in 0..1.
    """
    inputs = load_inputs(split, limit)
    rows = np.concatenate([predict(inputs[i : i + batch]) for i in range(0, len(inputs), batch)])
    return metrics([postprocess(r) for r in rows], Shapes(split).coco(limit))


def mean_average_precision(predict: Callable[[list[Floats]], list[Floats]]) -> float:
    """mAP on the validation images, as ``porter quantize --dtype auto --max-drop 0.005`` calls it with ``--metric
    examples.yolox_mlu270.evaluate:mean_average_precision``: ``predict`` takes the model's inputs and gives its outputs.
    """
    return evaluate(lambda images: predict([images])[0])["mAP"]


def metrics(found: list[Detections], annotations: dict[str, Any]) -> dict[str, float]:
    """COCO metrics of one :class:`Detections` an image, against a COCO dictionary whose image ids count from 1."""
    results = [
        {
            "image_id": i + 1,
            "category_id": int(label) + 1,
            "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
            "score": float(score),
        }
        for i, d in enumerate(found)
        for (x0, y0, x1, y1), score, label in zip(d.boxes, d.scores, d.labels, strict=True)
    ]
    names = [c["name"] for c in annotations["categories"]]
    if not results:  # pycocotools cannot index an empty result list
        return dict.fromkeys(["mAP", "AP50", "AP75", "AR100", *(f"AP_{n}" for n in names)], 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = COCO()
        truth.dataset = annotations
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"]  # (IoU, recall, class, area, detections)
    out = {key: float(evaluation.stats[i]) for key, i in (("mAP", 0), ("AP50", 1), ("AP75", 2), ("AR100", 8))}
    for k, name in enumerate(names):
        values = precision[:, :, k, 0, -1]
        out[f"AP_{name}"] = float(values[values >= 0].mean()) if (values >= 0).any() else 0.0
    return out


def draw(image: npt.NDArray[np.uint8], detections: Detections, scale: int = 4, caption: str = "") -> Image.Image:
    """The image, enlarged, with a box, a class and a score for each detection.

    Args:
        image: (H, W, 3) uint8 RGB.
        detections: boxes in pixels of ``image``.
        scale: enlargement, so that small images can carry text.
        caption: printed in the top left corner.
    """
    picture = Image.fromarray(image).resize((image.shape[1] * scale, image.shape[0] * scale), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for box, score, label in zip(detections.boxes, detections.scores, detections.labels, strict=True):
        color = PALETTE[int(label) % len(PALETTE)]
        x0, y0, x1, y1 = (float(v) * scale for v in box)
        pen.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=color, width=3)
        _label(pen, (x0 + 3, y0 + 2), f"{CLASSES[int(label)]} {score:.2f}", color)
    if caption:
        _label(pen, (4, picture.height - 18), caption, (0, 0, 0))
    return picture


def side_by_side(pictures: list[Image.Image], columns: int) -> Image.Image:
    """Pictures of one size as a grid, row by row."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), (255, 255, 255))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * width, i // columns * height))
    return sheet


def _label(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, color: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = pen.textbbox(at, text)
    pen.rectangle((x0 - 2, y0 - 1, x1 + 2, y1 + 1), fill=color)
    pen.text(at, text, fill=(255, 255, 255))


def torch_predictor(model: Any) -> Predict:
    """A predictor from a torch module in evaluation mode."""
    import torch

    def predict(images: Floats) -> Floats:
        with torch.no_grad():
            return np.asarray(model(torch.from_numpy(images)).numpy(), np.float32)

    return predict


def onnx_predictor(path: str | Path) -> Predict:
    """A predictor from an ONNX file with one input, by onnxruntime; a fixed batch size is fed image by image."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0]
    fixed = isinstance(feed.shape[0], int)

    def predict(images: Floats) -> Floats:
        step = feed.shape[0] if fixed else len(images)
        parts = [session.run(None, {feed.name: images[i : i + step]})[0] for i in range(0, len(images), step)]
        return np.asarray(np.concatenate(parts), np.float32)

    return predict


def trained_model(decode: str = "modern") -> Any:
    """YOLOX-nano with the committed weights, in evaluation mode; ``decode`` as in yolox.py."""
    import torch

    from .yolox import yolox_nano

    model = yolox_nano(len(CLASSES), decode)  # type: ignore[arg-type]
    model.load_state_dict(torch.load(WEIGHTS, weights_only=True)["model"], strict=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="COCO metrics on the shapes set.")
    parser.add_argument("--onnx", type=Path, help="an ONNX file instead of the committed weights")
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    predict = onnx_predictor(args.onnx) if args.onnx else torch_predictor(trained_model())
    print(json.dumps({k: round(v, 4) for k, v in evaluate(predict, args.split, args.limit).items()}, indent=2))


if __name__ == "__main__":
    main()
