# SPDX-License-Identifier: Apache-2.0
"""What the outputs of a model are worth: each task's own metric, and how near they are to the float model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

__all__ = [
    "Boxes",
    "Nearness",
    "agreement",
    "detection_f1",
    "distances",
    "greedy_text",
    "mask_iou",
    "nearness",
    "picodet",
    "reading",
]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Nearness:
    """Of one output over all held-out items: SQNR in dB (10 log10 of the float signal's energy over the error's),
    cosine, and the SQNR of its worst column (an index of its last axis, or of axis 1 for a map), which a whole-tensor
    figure hides where columns differ in size."""

    sqnr: float
    cosine: float
    worst_column: float


def nearness(reference: Sequence[Array], other: Sequence[Array]) -> Nearness:
    """Compare one output over all items; arrays have shape (1, ...). A column that is constant 0 in float is not
    scored."""
    a = np.stack([r.astype(np.float64) for r in reference])
    b = np.stack([o.astype(np.float64) for o in other])
    if not np.isfinite(b).all():
        return Nearness(float("-inf"), 0.0, float("-inf"))
    axis = a.ndim - 1 if a.ndim != 5 else 2
    others = tuple(i for i in range(a.ndim) if i != axis)
    signal, noise = (a * a).sum(others), ((a - b) ** 2).sum(others)
    alive = signal > 0
    columns = np.full(len(signal), np.inf)
    columns[alive] = _db(signal[alive], noise[alive])
    cosine = float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-30))
    return Nearness(float(_db(signal.sum(), noise.sum())), cosine, float(columns.min()))


def _db(signal: npt.ArrayLike, noise: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """At most 200 dB, so that two equal tensors have a figure."""
    ratio = np.asarray(signal, np.float64) / np.maximum(np.asarray(noise, np.float64), 1e-30)
    return np.minimum(10 * np.log10(np.maximum(ratio, 1e-30)), 200.0)


def agreement(reference: Sequence[int], other: Sequence[int]) -> float:
    """The share of equal entries."""
    return float(np.mean([a == b for a, b in zip(reference, other, strict=True)]))


def greedy_text(probabilities: Array, characters: Sequence[str]) -> str:
    """What a CTC recognizer reads: (1, steps, classes); the best class a step, repeats joined, class 0 (blank) left
    out."""
    best = [index for index, _ in groupby(probabilities[0].argmax(-1).tolist())]
    return "".join(characters[i] for i in best if i)


def distances(truth: str, read: str) -> int:
    """The edit distance of two texts."""
    row = list(range(len(read) + 1))
    for i, a in enumerate(truth, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(read, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


def reading(truth: Sequence[str], texts: Sequence[str], floats: Sequence[str]) -> dict[str, float]:
    """What a recognizer of lines gets right. Spaces at the ends of a line do not count, but in the last figure: they
    are margin, not text, and the recognizer's float model itself reads one before a quarter of the lines."""
    bare, read, same = ([text.strip() for text in lines] for lines in (truth, texts, floats))
    wrong = sum(distances(t, r) for t, r in zip(bare, read, strict=True))
    return {
        "lines exact": float(np.mean([t == r for t, r in zip(bare, read, strict=True)])),
        "characters right": 1 - wrong / sum(map(len, bare)),
        "same text as float": float(np.mean([t == r for t, r in zip(same, read, strict=True)])),
        "exact with end spaces": float(np.mean([t == r for t, r in zip(truth, texts, strict=True)])),
    }


def mask_iou(reference: Sequence[Array], other: Sequence[Array], threshold: float) -> float:
    """Intersection over union of the pixels above ``threshold``, over all items together."""
    both = either = 0
    for a, b in zip(reference, other, strict=True):
        both += int(((a > threshold) & (b > threshold)).sum())
        either += int(((a > threshold) | (b > threshold)).sum())
    return both / max(either, 1)


@dataclass(frozen=True)
class Boxes:
    """Detections of one image: boxes (n, 4) x0 y0 x1 y1 in pixels, scores and labels (n,), best first."""

    boxes: Array
    scores: Array
    labels: npt.NDArray[np.int64]


def picodet(outputs: Sequence[Array], shape: tuple[int, int], confidence: float = 0.5, overlap: float = 0.5) -> Boxes:
    """Detections from PicoDet's eight outputs: scores (1, cells, classes) of strides 8, 16, 32 and 64, then the
    distributions (1, cells, 4 x 8) of the distances to the four sides, in strides (Li et al., "Generalized Focal Loss",
    2020)."""
    from examples.yolox_mlu270.evaluate import nms

    every: list[tuple[Array, Array, npt.NDArray[np.int64]]] = []
    for scores, sides, stride in zip(outputs[:4], outputs[4:], (8, 16, 32, 64), strict=True):
        rows, columns = -(-shape[0] // stride), -(-shape[1] // stride)
        x, y = np.meshgrid((np.arange(columns) + 0.5) * stride, (np.arange(rows) + 0.5) * stride)
        center = np.stack((x.ravel(), y.ravel(), x.ravel(), y.ravel()), 1)
        logits = sides[0].reshape(-1, 4, 8).astype(np.float64)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        distance = (weights / weights.sum(-1, keepdims=True)) @ np.arange(8) * stride
        best = scores[0].argmax(1)
        score = scores[0].max(1)
        wanted = score > confidence
        boxes = center + distance * np.array([-1, -1, 1, 1])
        every.append((boxes[wanted].astype(np.float32), score[wanted], best[wanted]))
    boxes, score, best = (np.concatenate(parts) for parts in zip(*every, strict=True))
    keep: list[int] = []
    for label in np.unique(best):
        members = np.flatnonzero(best == label)
        keep += members[nms(boxes[members], score[members], overlap)].tolist()
    keep.sort(key=lambda i: -score[i])
    return Boxes(boxes[keep], score[keep], best[keep])


def detection_f1(reference: Sequence[Boxes], other: Sequence[Boxes], overlap: float = 0.5) -> float:
    """F1 of detections against the float model's: the same class and an IoU of ``overlap``, each matched once."""
    matched = total = 0
    for a, b in zip(reference, other, strict=True):
        total += len(a.boxes) + len(b.boxes)
        free = set(range(len(a.boxes)))
        for box, label in zip(b.boxes, b.labels, strict=True):
            near = [(_iou(a.boxes[i], box), i) for i in free if a.labels[i] == label]
            best = max(near, default=(0.0, -1))
            if best[0] >= overlap:
                matched += 1
                free.discard(best[1])
    return 2 * matched / max(total, 1)


def _iou(a: Array, b: Array) -> float:
    size = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    both = float(size.prod())
    return both / max(float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - both, 1e-9)
