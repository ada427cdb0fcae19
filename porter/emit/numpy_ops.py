# SPDX-License-Identifier: Apache-2.0
"""What plain numpy lacks for the host's part of a model. The functions that a generated module uses are copied into it
as they stand here, so each needs nothing but numpy, the standard library and others of this file.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = [
    "avg_pool", "broadcast_to", "conv", "erf", "gather_nd", "grid_sample", "max_pool", "nms", "nms_onnx", "ordered",
    "pad_negative", "reshape", "resize", "roi_align", "scatter_nd", "sigmoid", "slice_dynamic", "softmax", "softplus",
    "unsqueeze",
]  # fmt: skip


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


def softplus(x: Any, beta: float, threshold: float) -> Any:
    """log(1 + exp(beta x)) / beta; x itself where beta x is above the threshold."""
    y = x * beta
    return np.where(y > threshold, x, (np.maximum(y, 0) + np.log1p(np.exp(-np.abs(y)))) / beta).astype(x.dtype)


def erf(x: Any) -> Any:
    """The error function."""
    return np.vectorize(math.erf, otypes=[np.float64])(x.astype(np.float64)).reshape(x.shape).astype(x.dtype)


def softmax(x: Any, axis: int) -> Any:
    """exp(x) / sum(exp(x)) along an axis."""
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def ordered(x: Any, axis: int, descending: bool) -> Any:
    """The indices that sort x along an axis; of equal elements the first comes first, either way."""
    if not descending:
        return np.argsort(x, axis=axis, kind="stable")
    back = np.argsort(np.flip(x, axis), axis=axis, kind="stable")
    return x.shape[axis] - 1 - np.flip(back, axis)


def nms(boxes: Any, scores: Any, iou_threshold: float) -> Any:
    """torchvision.ops.nms: the indices of the boxes (N, 4) as x1, y1, x2, y2 that are kept, best first."""
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1) * (y2 - y1)
    order = ordered(scores, 0, True)
    kept = []
    while order.size:
        i, rest = order[0], order[1:]
        kept.append(i)
        w = np.maximum(np.minimum(x2[i], x2[rest]) - np.maximum(x1[i], x1[rest]), 0)
        h = np.maximum(np.minimum(y2[i], y2[rest]) - np.maximum(y1[i], y1[rest]), 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = w * h / (areas[i] + areas[rest] - w * h)
        order = rest[~(iou > iou_threshold)]
    return np.array(kept, np.int64)


def nms_onnx(
    boxes: Any, scores: Any, max_boxes: int, iou_threshold: float, score_threshold: float | None, center: int
) -> Any:
    """ONNX NonMaxSuppression: rows of (batch, class, box) of the boxes (N, M, 4) kept for each class of scores
    (N, C, M), best first. Boxes are y1, x1, y2, x2 with corners in any order, or with ``center`` x, y, width, height.
    """
    limit = np.float32(iou_threshold)
    rows = []
    for batch in range(boxes.shape[0]):
        a, b, c, d = boxes[batch].T
        if center:
            low = np.stack([a - c / 2, b - d / 2])
            high = np.stack([a + c / 2, b + d / 2])
        else:
            low = np.stack([np.minimum(b, d), np.minimum(a, c)])
            high = np.stack([np.maximum(b, d), np.maximum(a, c)])
        areas = (high[0] - low[0]) * (high[1] - low[1])
        for kind in range(scores.shape[1]):
            score = scores[batch, kind]
            order = ordered(score, 0, True)
            if score_threshold is not None:
                order = order[score[order] > np.float32(score_threshold)]
            count = 0
            while order.size and count < max_boxes:
                i, rest = order[0], order[1:]
                rows.append((batch, kind, i))
                count += 1
                w = np.minimum(high[0, i], high[0, rest]) - np.maximum(low[0, i], low[0, rest])
                h = np.minimum(high[1, i], high[1, rest]) - np.maximum(low[1, i], low[1, rest])
                shared = w * h
                union = areas[i] + areas[rest] - shared
                real = (w > 0) & (h > 0) & (shared > 0) & (areas[i] > 0) & (areas[rest] > 0) & (union > 0)
                iou = np.zeros_like(shared)
                np.divide(shared, union, out=iou, where=real)
                order = rest[~(iou > limit)]
    return np.array(rows, np.int64).reshape(-1, 3)


def roi_align(x: Any, rois: Any, batch: Any, size: Any, scale: float, sampling: int, mode: str, aligned: bool) -> Any:
    """ROI align: (K, C, *size) of the regions (K, 4) as x1, y1, x2, y2 of the images x (N, C, H, W)."""
    out = np.zeros((len(rois), x.shape[1], *size), x.dtype)
    height, width = x.shape[2:]
    shift = 0.5 if aligned else 0.0
    for k, (x1, y1, x2, y2) in enumerate(rois.astype(np.float64) * scale - shift):
        w, h = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1.0), max(y2 - y1, 1.0))
        counts = [sampling or math.ceil(extent / cells) for extent, cells in zip((h, w), size)]  # noqa: B905
        axes = []
        for low, extent, cells, count, most in zip((y1, x1), (h, w), size, counts, (height, width)):  # noqa: B905
            at = low + (np.arange(cells * count) + 0.5) * extent / (cells * count) if count else np.zeros(0)
            inside = (at >= -1.0) & (at <= most)
            at = np.clip(at, 0, most - 1)
            first = np.minimum(np.floor(at).astype(int), most - 1)
            axes.append((first, np.minimum(first + 1, most - 1), at - first, inside))
        (top, bottom, v, rows), (left, right, u, columns) = axes
        image = x[int(batch[k])].astype(np.float64)
        v, u = v[:, None], u[None, :]
        taps = np.stack([
            image[:, top][:, :, left] * (1 - v) * (1 - u), image[:, top][:, :, right] * (1 - v) * u,
            image[:, bottom][:, :, left] * v * (1 - u), image[:, bottom][:, :, right] * v * u,
        ])  # fmt: skip
        found = (taps.max(0) if mode == "max" else taps.sum(0)) * (rows[:, None] & columns[None, :])
        cells_of = found.reshape(x.shape[1], size[0], counts[0], size[1], counts[1])
        if min(counts):
            out[k] = cells_of.max((2, 4)) if mode == "max" else cells_of.mean((2, 4))
    return out


def grid_sample(x: Any, grid: Any, mode: str, padding: str, align: bool) -> Any:
    """The images x (N, C, H, W) at the positions (N, H', W', 2) of a grid, x and y in -1 to 1: (N, C, H', W')."""
    taps = []
    for axis, size in ((1, x.shape[2]), (0, x.shape[3])):
        at = (grid[..., axis] + 1) / 2 * (size - 1) if align else ((grid[..., axis] + 1) * size - 1) / 2
        if mode != "bicubic":
            at = _padded_position(at, size, padding, align)
        if mode == "nearest":
            taps.append([(np.rint(at), 1.0)])
            continue
        low = np.floor(at)
        t = at - low
        if mode == "bilinear":
            taps.append([(low, 1 - t), (low + 1, t)])
            continue
        cubic = []
        for step in (-1, 0, 1, 2):
            d = np.abs(t - step)
            weight = np.where(d <= 1, (1.25 * d - 2.25) * d * d + 1, ((-0.75 * d + 3.75) * d - 6) * d + 3)
            cubic.append((_padded_position(low + step, size, padding, align), weight))
        taps.append(cubic)
    total = np.zeros((*grid.shape[:3], x.shape[1]))
    image = np.arange(len(x))[:, None, None]
    for row, v in taps[0]:
        for column, u in taps[1]:
            inside = (row >= 0) & (row < x.shape[2]) & (column >= 0) & (column < x.shape[3])
            i = np.clip(row, 0, x.shape[2] - 1).astype(int)
            j = np.clip(column, 0, x.shape[3] - 1).astype(int)
            total = total + x[image, :, i, j] * (v * u * inside)[..., None]
    return np.moveaxis(total, -1, 1).astype(x.dtype)


def _padded_position(at: Any, size: int, padding: str, align: bool) -> Any:
    if padding == "zeros":
        return at
    if padding == "reflection":
        low, span = (0.0, size - 1) if align else (-0.5, size)
        at = np.abs(at - low)
        turns = np.floor(at / span) if span else at * 0
        at = np.where(turns % 2 == 0, at - turns * span, (turns + 1) * span - at) + low if span else at * 0
    return np.clip(at, 0, size - 1)


def resize(x: Any, sizes: Any, scales: Any, mode: str, coordinates: str, rounding: str, cubic: float) -> Any:
    """Resampling of the axes after the first two, one after another."""
    for i, size in enumerate(sizes):
        axis, extent = i + 2, x.shape[i + 2]
        scale = scales[i] if scales is not None else size / extent
        at = np.arange(size, dtype=np.float64)
        if coordinates == "align_corners":
            at = at * (extent - 1) / (size - 1) if size > 1 else at * 0
        elif coordinates == "asymmetric":
            at = at / scale
        elif coordinates == "pytorch_half_pixel" and size == 1:
            at = at * 0
        else:
            at = (at + 0.5) / scale - 0.5
        if mode == "nearest":
            whole = {
                "floor": np.floor(at), "ceil": np.ceil(at), "round_prefer_floor": np.ceil(at - 0.5),
                "round_prefer_ceil": np.floor(at + 0.5),
            }[rounding]  # fmt: skip
            x = np.take(x, np.clip(whole, 0, extent - 1).astype(int), axis)
            continue
        if mode == "linear":
            at = np.clip(at, 0, extent - 1)
        first = np.floor(at).astype(int)
        t = at - first
        if mode == "linear":
            weights = {0: 1 - t, 1: t}
        else:
            weights = {}
            for step in (-1, 0, 1, 2):
                d = np.abs(t - step)
                near = ((cubic + 2) * d - (cubic + 3)) * d * d + 1
                weights[step] = np.where(d <= 1, near, ((cubic * d - 5 * cubic) * d + 8 * cubic) * d - 4 * cubic)
        shape = [1] * x.ndim
        shape[axis] = size
        total = 0
        for step, weight in weights.items():
            taken = np.take(x, np.clip(first + step, 0, extent - 1), axis)
            total = total + taken * weight.reshape(shape)
        x = total
    return x


def conv(x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    """Cross-correlation over the axes after the first two."""
    n = weight.ndim - 2
    axes = tuple(range(2, 2 + n))
    x = np.pad(x, ((0, 0), (0, 0), *padding))
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:])]  # noqa: B905
    windows = np.lib.stride_tricks.sliding_window_view(x, spans, axis=axes)
    steps = [slice(None), slice(None), *(slice(None, None, s) for s in stride)]
    windows = windows[tuple(steps + [slice(None, None, d) for d in dilation])]
    ins, outs = x.shape[1] // groups, weight.shape[0] // groups
    parts = [
        np.tensordot(
            windows[:, g * ins : (g + 1) * ins], weight[g * outs : (g + 1) * outs],
            ((1, *(a + n for a in axes)), (1, *axes)),
        )
        for g in range(groups)
    ]  # fmt: skip
    out = np.moveaxis(np.concatenate(parts, -1), -1, 1)
    return out if bias is None else out + bias.reshape(1, -1, *([1] * n))


def _windows(x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, fill: Any) -> Any:
    n = len(kernel)
    lead = x.ndim - n
    x = np.pad(x, ((0, 0),) * lead + tuple(padding), constant_values=fill)
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]  # noqa: B905
    windows = np.lib.stride_tricks.sliding_window_view(x, spans, axis=tuple(range(lead, x.ndim)))
    steps = (*([slice(None)] * lead), *(slice(None, None, s) for s in stride))
    return windows[steps + tuple(slice(None, None, d) for d in dilation)]


def max_pool(x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    """The largest element of each window."""
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    return _windows(x, kernel, stride, padding, dilation, lowest).max(tuple(range(-len(kernel), 0)))


def avg_pool(x: Any, kernel: Any, stride: Any, padding: Any, whole: bool) -> Any:
    """The mean of each window; with ``whole`` the padding counts."""
    ones, over = (1,) * len(kernel), tuple(range(-len(kernel), 0))
    total = _windows(x, kernel, stride, padding, ones, 0).sum(over)
    inside = _windows(np.ones_like(x), kernel, stride, padding, ones, 1 if whole else 0).sum(over)
    return total / inside


def reshape(x: Any, shape: Any) -> Any:
    """ONNX Reshape: 0 stands for the extent that the axis has."""
    return x.reshape([x.shape[i] if n == 0 else int(n) for i, n in enumerate(shape)])


def broadcast_to(x: Any, shape: Any) -> Any:
    """ONNX Expand: the larger of both extents."""
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(int(n) for n in shape)))


def unsqueeze(x: Any, axes: Any) -> Any:
    """Axes of extent 1 at these places of the result."""
    return np.expand_dims(x, tuple(int(a) for a in np.atleast_1d(axes)))


def slice_dynamic(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    """ONNX Slice."""
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    at = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps):  # noqa: B905
        extent = x.shape[int(axis)]
        start, end, step = int(start), int(end), int(step)
        stop: int | None = end
        if step < 0 and end < -extent:
            stop = None
        at[int(axis)] = slice(start, stop, step)
    return x[tuple(at)]


def pad_negative(x: Any, padding: Any, **mode: Any) -> Any:
    """np.pad in which a negative number crops."""
    at = tuple(slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(x.shape, padding))  # noqa: B905
    return np.pad(x[at], [(max(a, 0), max(b, 0)) for a, b in padding], **mode)


def gather_nd(x: Any, index: Any) -> Any:
    """ONNX GatherND without batch axes."""
    return x[tuple(np.moveaxis(index, -1, 0))]


def scatter_nd(x: Any, index: Any, src: Any) -> Any:
    """ONNX ScatterND that replaces."""
    out = x.copy()
    out[tuple(np.moveaxis(index, -1, 0))] = src
    return out
