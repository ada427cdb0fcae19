# SPDX-License-Identifier: Apache-2.0
"""Vocabulary ops as ONNX nodes: shapes, indexing, resampling, generators, quantization.

Importing this module adds its kinds to the table of :mod:`porter.dialects.onnx_lower`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from porter.dialects.onnx_lower import Lowering, NoOnnxForm, lowers
from porter.dialects.onnx_proto import make_tensor, np_dtype
from porter.ops import Op

#: An assignment along one axis whose ScatterND index would be larger than this is done with the axis in front.
_INDEX_ELEMENTS = 1 << 16


# -- shapes ----------------------------------------------------------------------------------------


@lowers("reshape")
def _reshape(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.reshape(ins[0], op.attrs["shape"], outs[0])


@lowers("flatten")
def _flatten(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    shape = L.shape(ins[0])
    start, end = op.attrs["start"], op.attrs["end"]
    if start == 1 and end == len(shape) - 1 and len(shape) >= 2:
        L.emit("Flatten", ins, outs[0], axis=1)
    else:
        L.reshape(ins[0], (*shape[:start], prod(shape[start : end + 1]), *shape[end + 1 :]), outs[0])


@lowers("squeeze", "unsqueeze")
def _squeeze(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    axes = tuple(op.attrs["axes"])
    if not axes:
        L.emit("Identity", ins, outs[0])
    elif op.kind == "squeeze":
        L.squeeze(ins[0], axes, outs[0])
    else:
        L.unsqueeze(ins[0], axes, outs[0])


@lowers("permute")
def _permute(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.emit("Transpose", ins, outs[0], perm=tuple(op.attrs["dims"]))


@lowers("expand")
def _expand(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.expand(ins[0], op.attrs["shape"], outs[0])


@lowers("repeat")
def _repeat(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, repeats = ins[0], tuple(op.attrs["repeats"])
    shape = L.shape(x)
    if len(repeats) > len(shape):
        x = L.reshape(x, (1,) * (len(repeats) - len(shape)) + shape)
    L.emit("Tile", [x, L.ints(repeats)], outs[0])


@lowers("slice")
def _slice(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    a = op.attrs
    if not a["axes"]:
        L.emit("Identity", ins, outs[0])
    else:
        L.slice(ins[0], a["axes"], a["starts"], a["ends"], a["steps"], outs[0])


@lowers("select")
def _select(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.emit("Gather", [ins[0], L.const(op.attrs["index"], "int64")], outs[0], axis=op.attrs["axis"])


@lowers("cat")
def _cat(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    dtype = L.dtype(outs[0])
    L.emit("Concat", [L.cast(name, dtype) for name in ins], outs[0], axis=op.attrs["axis"])


@lowers("stack")
def _stack(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    dtype, axis = L.dtype(outs[0]), op.attrs["axis"]
    L.emit("Concat", [L.unsqueeze(L.cast(name, dtype), (axis,)) for name in ins], outs[0], axis=axis)


@lowers("split", "chunk")
def _split(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    axis = op.attrs["axis"]
    sizes = [L.shape(out)[axis] for out in outs]
    L.split(ins[0], sizes, axis, outs)


@lowers("unbind")
def _unbind(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    axis = op.attrs["axis"]
    for piece, out in zip(L.split(ins[0], (1,) * len(outs), axis), outs, strict=True):
        L.squeeze(piece, (axis,), out)


@lowers("pad")
def _pad(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, mode = ins[0], op.attrs["mode"]
    pairs = [(int(a), int(b)) for a, b in op.attrs["padding"]]
    pairs = [(0, 0)] * (L.rank(x) - len(pairs)) + pairs
    if mode == "circular" and L.opset < 19:
        _wrap(L, x, pairs, outs[0])
        return
    name = {"replicate": "edge", "circular": "wrap"}.get(mode, mode)
    flat = (*(a for a, _ in pairs), *(b for _, b in pairs))
    value = op.attrs.get("value") or 0
    if L.opset < 11:
        attrs: dict[str, Any] = {"value": float(value)} if mode == "constant" else {}
        L.emit("Pad", [x], outs[0], mode=name, pads=flat, **attrs)
    else:
        fill = L.scalar(value, x) if mode == "constant" and value else None
        L.emit("Pad", [x, L.ints(flat), fill], outs[0], mode=name)


def _wrap(L: Lowering, x: str, pairs: Sequence[tuple[int, int]], out: str) -> None:
    padded = [(axis, pair) for axis, pair in enumerate(pairs) if pair != (0, 0)]
    for i, (axis, (before, after)) in enumerate(padded):
        shape = L.shape(x)
        extent = shape[axis]
        if before < 0 or after < 0:
            raise NoOnnxForm("circular padding by a negative amount")
        pieces = [L.slice(x, (axis,), (extent - before,), (extent,))] if before else []
        pieces.append(x)
        pieces += [L.slice(x, (axis,), (0,), (after,))] if after else []
        end = out if i == len(padded) - 1 else None
        grown = (*shape[:axis], extent + before + after, *shape[axis + 1 :])
        x = L.emit("Concat", pieces, end, grown, axis=axis)
    if not padded:
        L.emit("Identity", [x], out)


@lowers("flip")
def _flip(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    axes = tuple(op.attrs["axes"])
    shape = L.shape(ins[0])
    L.slice(ins[0], axes, [shape[a] - 1 for a in axes], [-1] * len(axes), [-1] * len(axes), outs[0])


@lowers("roll")
def _roll(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, axes, shifts = ins[0], tuple(op.attrs["axes"]), tuple(op.attrs["shifts"])
    shape = L.shape(x)
    back = None
    if not axes:  # torch rolls the flattened tensor
        back, axes = shape, (0,)
        x = L.reshape(x, (prod(shape),))
    for axis, shift in zip(axes, shifts, strict=True):
        extent = L.shape(x)[axis]
        cut = -shift % extent if extent else 0
        if cut:
            ends = L.slice(x, (axis,), (cut,), (extent,)), L.slice(x, (axis,), (0,), (cut,))
            x = L.emit("Concat", ends, shape=L.shape(x), axis=axis)
    if back is not None:
        L.reshape(x, back, outs[0])
    else:
        L.emit("Identity", [x], outs[0])


@lowers("tril", "triu")
def _trilu(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, diagonal = ins[0], int(op.attrs.get("diagonal", 0))
    if L.opset >= 14:
        L.emit("Trilu", [x, L.const(diagonal, "int64")], outs[0], upper=int(op.kind == "triu"))
        return
    L.need(9)
    rows, cols = L.shape(x)[-2:]
    keep = np.tri(rows, cols, diagonal if op.kind == "tril" else diagonal - 1, bool)
    L.emit("Where", [L.const(keep if op.kind == "tril" else ~keep), x, L.scalar(0, x)], outs[0])


@lowers("shape")
def _shape(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    start, end = op.attrs.get("start"), op.attrs.get("end")
    if start is None and end is None:
        L.emit("Shape", ins, outs[0])
        return
    if L.opset >= 15:
        L.emit("Shape", ins, outs[0], start=start or 0, end=end)
        return
    rank = L.rank(ins[0])
    first, last, _ = slice(start, end).indices(rank)
    L.slice(L.emit("Shape", ins, shape=(rank,), dtype="int64"), (0,), (first,), (max(first, last),), (1,), outs[0])


# -- indexing --------------------------------------------------------------------------------------


def _box(L: Lowering, x: str, axes: Sequence[int], index: Sequence[range], src: str, out: str) -> None:
    """ScatterND of ``src`` (of the shape of the box) into the box that ``index`` spans along ``axes``."""
    L.need(11)
    shape = L.shape(x)
    at = dict(zip(axes, index, strict=True))
    depth = max(axes) + 1
    grids = [at.get(axis, range(shape[axis])) for axis in range(depth)]
    if len(axes) == 1 and axes[0] and prod(map(len, grids)) * depth > _INDEX_ELEMENTS:
        axis = axes[0]
        dims = (axis, *(i for i in range(len(shape)) if i != axis))
        rows = L.const(np.asarray(at[axis], np.int64).reshape(-1, 1))
        front = L.emit("ScatterND", [L.transpose(x, dims), rows, L.transpose(src, dims)])
        L.transpose(front, [dims.index(i) for i in range(len(shape))], out)
        return
    mesh = np.stack(np.meshgrid(*(np.asarray(g, np.int64) for g in grids), indexing="ij"), axis=-1)
    L.emit("ScatterND", [x, L.const(mesh), src], out)


@lowers("slice_assign")
def _slice_assign(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, src = ins
    a = op.attrs
    index = [range(s, e, t) for s, e, t in zip(a["starts"], a["ends"], a["steps"], strict=True)]
    box = list(L.shape(x))
    for axis, line in zip(a["axes"], index, strict=True):
        box[axis] = len(line)
    if prod(box) == 0:
        L.emit("Identity", [x], outs[0])
        return
    src = L.cast(src, L.dtype(x))
    if L.shape(src) != tuple(box):
        src = L.expand(src, box)
    _box(L, x, a["axes"], index, src, outs[0])


@lowers("select_assign")
def _select_assign(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, src = ins
    axis, index = op.attrs["axis"], op.attrs["index"]
    rest = [n for i, n in enumerate(L.shape(x)) if i != axis]
    src = L.cast(src, L.dtype(x))
    if L.shape(src) != tuple(rest):
        src = L.expand(src, rest)
    shape = L.shape(x)
    if axis and prod(shape[: axis + 1]) > _INDEX_ELEMENTS:
        _box(L, x, (axis,), [range(index, index + 1)], L.unsqueeze(src, (axis,)), outs[0])
        return
    L.need(11)
    mesh = np.meshgrid(*(np.arange(n) for n in shape[:axis]), indexing="ij")
    where = np.stack([*mesh, np.full(shape[:axis], index)], axis=-1)
    L.emit("ScatterND", [x, L.const(where, "int64"), src], outs[0])


@lowers("gather")
def _gather(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    # torch's index may be smaller than x along the other axes; ONNX's may not.
    L.need(11)
    x, index = ins
    axis, sizes = op.attrs["axis"], L.shape(index)
    crop = [i for i, n in enumerate(L.shape(x)) if i != axis and n != sizes[i]]
    if crop:
        x = L.slice(x, crop, [0] * len(crop), [sizes[i] for i in crop])
    L.emit("GatherElements", [x, index], outs[0], axis=axis)


@lowers("index_select", "take")
def _take(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.emit("Gather", ins, outs[0], axis=op.attrs["axis"])


@lowers("embedding")
def _embedding(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.emit("Gather", ins, outs[0], axis=0)


def _indices(L: Lowering, x: str, axes: Sequence[int], indices: Sequence[str]) -> tuple[str, tuple[int, ...]]:
    """Index tensors of advanced indexing as one GatherND index (B..., len(axes)), and the broadcast shape B.

    Negative entries are kept: GatherND and ScatterND take them.
    """
    if any(L.dtype(i) == "bool" for i in indices):
        raise NoOnnxForm("indexing by a mask, whose result has a shape that depends on data")
    shape = L.broadcast(*indices)
    columns = []
    for name in indices:
        name = L.cast(name, "int64")
        name = name if L.shape(name) == shape else L.expand(name, shape)
        columns.append(L.unsqueeze(name, (len(shape),)))
    if len(columns) == 1:
        return columns[0], shape
    return L.emit("Concat", columns, shape=(*shape, len(axes)), axis=len(shape)), shape


@lowers("index")
def _index(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, *indices = ins
    axes = tuple(op.attrs["axes"])
    if len(axes) == 1 and L.dtype(indices[0]) != "bool":
        L.emit("Gather", [x, L.cast(indices[0], "int64")], outs[0], axis=axes[0])
        return
    L.need(11)
    rank = L.rank(x)
    index, shape = _indices(L, x, axes, indices)
    rest = [i for i in range(rank) if i not in axes]
    front = x if axes == tuple(range(len(axes))) else L.transpose(x, (*axes, *rest))
    result = (*shape, *(L.shape(x)[i] for i in rest))
    # numpy's rule: axes that are next to each other leave their place to the index, others put it in front.
    together = axes == tuple(range(axes[0], axes[0] + len(axes)))
    lead = axes[0] if together else 0
    if not lead:
        L.emit("GatherND", [front, index], outs[0])
        return
    found = L.emit("GatherND", [front, index], shape=result)
    b = len(shape)
    L.transpose(found, (*range(b, b + lead), *range(b), *range(b + lead, len(result))), outs[0])


@lowers("index_put")
def _index_put(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, values, *indices = ins
    axes = tuple(op.attrs["axes"])
    accumulate = bool(op.attrs.get("accumulate"))
    L.need(16 if accumulate else 11)
    if len(indices) == 1 and L.dtype(indices[0]) == "bool" and prod(L.shape(values)) == 1 and not accumulate:
        mask = indices[0]
        after = L.rank(x) - axes[0] - L.rank(mask)
        if after:
            mask = L.unsqueeze(mask, range(L.rank(mask), L.rank(mask) + after))
        L.emit("Where", [mask, L.reshape(L.cast(values, L.dtype(x)), ()), x], outs[0])
        return
    rank = L.rank(x)
    index, shape = _indices(L, x, axes, indices)
    rest = [i for i in range(rank) if i not in axes]
    lead = axes[0] if axes == tuple(range(axes[0], axes[0] + len(axes))) else 0
    extents = L.shape(x)
    # The values broadcast to the shape that x[indices] has.
    target = [*(extents[i] for i in rest[:lead]), *shape, *(extents[i] for i in rest[lead:])]
    values = L.cast(values, L.dtype(x))
    values = values if L.shape(values) == tuple(target) else L.expand(values, target)
    if lead:
        b = len(shape)
        values = L.transpose(values, (*range(lead, lead + b), *range(lead), *range(lead + b, len(target))))
    attrs: dict[str, Any] = {"reduction": "add"} if accumulate else {}
    dims = (*axes, *rest)
    if dims == tuple(range(rank)):
        L.emit("ScatterND", [x, index, values], outs[0], **attrs)
        return
    put = L.emit("ScatterND", [L.transpose(x, dims), index, values], **attrs)
    L.transpose(put, [dims.index(i) for i in range(rank)], outs[0])


@lowers("scatter_nd", "scatter")
def _scatter(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, index, src = ins
    reduction = op.attrs.get("reduction", "none")
    L.need({"none": 11, "add": 16, "mul": 16}.get(reduction, 18))
    attrs: dict[str, Any] = {} if reduction == "none" else {"reduction": reduction}
    if op.kind == "scatter":
        attrs["axis"] = op.attrs["axis"]
        if L.shape(src) == () and L.shape(index) != ():
            src = L.expand(src, L.shape(index))
        elif L.shape(src) != L.shape(index):
            axes = range(L.rank(src))
            src = L.slice(src, axes, [0] * len(axes), L.shape(index))
    L.emit("ScatterND" if op.kind == "scatter_nd" else "ScatterElements", [x, index, src], outs[0], **attrs)


@lowers("masked_select")
def _masked_select(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.need(9)
    x, mask = ins
    shape = L.broadcast(x, mask)
    flat = [
        L.reshape(name if L.shape(name) == shape else L.expand(name, shape), (prod(shape),))
        for name in (x, L.cast(mask, "bool"))
    ]
    L.emit("Compress", flat, outs[0], axis=0)


@lowers("nonzero")
def _nonzero(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.need(9)
    if op.attrs.get("layout") == "onnx":
        L.emit("NonZero", ins, outs[0])
        return
    rows = L.temp(None, "int64", "NonZero")
    L.emit_many("NonZero", ins, [rows])
    L.emit("Transpose", [rows], outs[0], perm=(1, 0))


@lowers("one_hot")
def _one_hot(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.need(9)
    L.emit("OneHot", [ins[0], L.const(op.attrs["depth"], "int64"), L.ints((0, 1))], outs[0], axis=-1)


@lowers("nms")
def _nms(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.need(10)
    a = op.attrs
    threshold = L.const(a["iou_threshold"], "float32")
    if a.get("layout") == "onnx":
        score = None if a.get("score_threshold") is None else L.const(a["score_threshold"], "float32")
        most = L.const(a["max_boxes"], "int64")
        attrs: dict[str, Any] = {"center_point_box": a.get("center_point_box") or None}
        L.emit("NonMaxSuppression", [*ins, most, threshold, score], outs[0], **attrs)
        return
    boxes, scores = L.unsqueeze(ins[0], (0,)), L.unsqueeze(ins[1], (0, 1))
    every = L.const(L.shape(ins[0])[0], "int64")
    found = L.temp(None, "int64", "hits")
    L.emit_many("NonMaxSuppression", [boxes, scores, every, threshold], [found])
    L.emit("Gather", [found, L.const(2, "int64")], outs[0], axis=1)


# -- resampling, space and depth ---------------------------------------------------------------------


@lowers("resize")
def _resize(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, a = ins[0], op.attrs
    shape = L.shape(x)
    sizes = tuple(int(n) for n in a["sizes"])
    mode, coordinates = a["mode"], a["coordinates"]
    scales = a.get("scales")
    # A scale may be left to the sizes axis by axis (None), as torch leaves it.
    if scales is not None and any(s is None for s in scales):
        scales = None
    # Runtimes compute floor(extent * scale) for the size; where that is not the size, give the size.
    if scales is not None and any(
        math.floor(np.float32(n) * np.float32(s)) != m for n, s, m in zip(shape[2:], scales, sizes, strict=True)
    ):
        scales = None
    if L.opset < 11:
        if coordinates != "asymmetric" or mode == "cubic" or (mode == "nearest" and a.get("nearest_mode") != "floor"):
            L.need(11)
        exact = scales or tuple(m / n for m, n in zip(sizes, shape[2:], strict=True))
        if any(math.floor(np.float32(n) * np.float32(s)) != m for n, s, m in zip(shape[2:], exact, sizes, strict=True)):
            L.need(11)
        if min(exact) < 1:
            # Upsample only grows, and where a nearest Resize-10 shrinks, onnxruntime rounds up.
            L.need(11 if mode == "nearest" else 10)
        every = (1.0, 1.0, *map(float, exact))
        if L.opset < 9:
            L.emit("Upsample", [x], outs[0], mode=mode, scales=every)
        else:
            name = "Upsample" if L.opset < 10 else "Resize"
            L.emit(name, [x, L.const(every, "float32")], outs[0], mode=mode)
        return
    attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if mode == "nearest":
        attrs["nearest_mode"] = a.get("nearest_mode", "floor")
    if mode == "cubic":
        attrs["cubic_coeff_a"] = float(a.get("cubic_coeff", -0.75))
    if a.get("antialias"):
        L.need(18)
        # torch leaves out what lies beyond the edge, and so weighs the rest more; ONNX repeats the edge by default.
        attrs.update(antialias=1, exclude_outside=1)
    roi = L.const((), "float32") if L.opset < 13 else None  # optional since opset 13
    if scales is not None:
        L.emit("Resize", [x, roi, L.const((1.0, 1.0, *scales), "float32")], outs[0], **attrs)
    else:
        empty = L.const((), "float32") if L.opset < 13 else None
        L.emit("Resize", [x, roi, empty, L.ints((*shape[:2], *sizes))], outs[0], **attrs)


@lowers("pixel_shuffle", "pixel_unshuffle")
def _pixel(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, r, mode = ins[0], int(op.attrs["factor"]), op.attrs.get("mode", "CRD")
    shape = L.shape(x)
    down = op.kind == "pixel_unshuffle"
    if len(shape) == 4:
        if down and mode == "DCR":
            L.emit("SpaceToDepth", [x], outs[0], blocksize=r)
            return
        if not down and (L.opset >= 11 or mode == "DCR"):
            L.emit("DepthToSpace", [x], outs[0], blocksize=r, mode=mode if L.opset >= 11 else None)
            return
    *lead, c, h, w = shape
    n = len(lead)
    first = tuple(range(n))
    if down:
        split = L.reshape(x, (*lead, c, h // r, r, w // r, r))
        order = (n, n + 2, n + 4) if mode == "CRD" else (n + 2, n + 4, n)
        turned = L.transpose(split, (*first, *order, n + 1, n + 3))
    else:
        blocks = (c // (r * r), r, r) if mode == "CRD" else (r, r, c // (r * r))
        split = L.reshape(x, (*lead, *blocks, h, w))
        d, i, j = (n, n + 1, n + 2) if mode == "CRD" else (n + 2, n, n + 1)
        turned = L.transpose(split, (*first, d, n + 3, i, n + 4, j))
    L.reshape(turned, L.shape(outs[0]), outs[0])


@lowers("channel_shuffle")
def _channel_shuffle(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    n, c, *rest = L.shape(ins[0])
    groups = int(op.attrs["groups"])
    split = L.reshape(ins[0], (n, groups, c // groups, *rest))
    turned = L.transpose(split, (0, 2, 1, *range(3, 3 + len(rest))))
    L.reshape(turned, (n, c, *rest), outs[0])


@lowers("affine_grid")
def _affine_grid(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.need(20)
    a = op.attrs
    L.emit("AffineGrid", [ins[0], L.ints(a["size"])], outs[0], align_corners=int(a["align_corners"]))


@lowers("grid_sample")
def _grid_sample(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    a = op.attrs
    L.need(16 if L.rank(ins[0]) == 4 else 20)
    mode = a["mode"]
    if L.opset >= 20:
        mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    L.emit("GridSample", ins, outs[0], mode=mode, padding_mode=a["padding_mode"], align_corners=int(a["align_corners"]))


@lowers("unfold")
def _unfold(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, a = ins[0], op.attrs
    L.need(11)
    n, c, h, w = L.shape(x)
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = a["kernel"], a["stride"], a["padding"], a["dilation"]
    if ph or pw:
        x = L.emit(
            "Pad", [x, L.ints((0, 0, ph, pw, 0, 0, ph, pw))], shape=(n, c, h + 2 * ph, w + 2 * pw), mode="constant"
        )
    rows = (h + 2 * ph - dh * (kh - 1) - 1) // sh + 1
    cols = (w + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    take_rows = np.arange(kh)[:, None] * dh + np.arange(rows) * sh
    take_cols = np.arange(kw)[:, None] * dw + np.arange(cols) * sw
    x = L.emit("Gather", [x, L.const(take_rows, "int64")], shape=(n, c, kh, rows, w + 2 * pw), axis=2)
    x = L.emit("Gather", [x, L.const(take_cols, "int64")], shape=(n, c, kh, rows, kw, cols), axis=4)
    L.reshape(L.transpose(x, (0, 1, 2, 4, 3, 5)), (n, c * kh * kw, rows * cols), outs[0])


@lowers("fold")
def _fold(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.need(18)
    a = op.attrs
    padding = tuple(int(p) for p in a["padding"])
    L.emit(
        "Col2Im", [ins[0], L.ints(a["output_size"]), L.ints(a["kernel"])], outs[0], pads=(*padding, *padding),
        strides=tuple(a["stride"]), dilations=tuple(a["dilation"]),
    )  # fmt: skip


@lowers("max_unpool2d")
def _max_unpool(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.need(11)
    x, index = ins
    shape, whole = L.shape(x), L.shape(outs[0])
    lead, plane = shape[:-2], prod(whole[-2:])
    empty = L.emit("ConstantOfShape", [L.ints((*lead, plane))], shape=(*lead, plane), dtype=L.dtype(x),
                   value=make_tensor("", np.zeros(1, np_dtype(L.dtype(x)))))  # fmt: skip
    rows = [L.reshape(name, (*lead, prod(shape[-2:]))) for name in (index, x)]
    put = L.emit("ScatterElements", [empty, *rows], axis=len(lead))
    L.reshape(put, whole, outs[0])


@lowers("roi_align")
def _roi_align(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    a = op.attrs
    L.need(10)
    attrs: dict[str, Any] = {
        "output_height": int(a["output_size"][0]), "output_width": int(a["output_size"][1]),
        "mode": a.get("mode", "avg"),
        "spatial_scale": float(a["scale"]), "sampling_ratio": max(int(a["sampling_ratio"]), 0),
    }  # fmt: skip
    if L.opset >= 16:
        attrs["coordinate_transformation_mode"] = "half_pixel" if a["aligned"] else "output_half_pixel"
    elif a["aligned"]:
        L.need(16)
    L.emit("RoiAlign", ins, outs[0], **attrs)


# -- generators ------------------------------------------------------------------------------------


@lowers("arange")
def _arange(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    a = op.attrs
    dtype = a["dtype"]
    if L.opset >= 11 and dtype in ("float32", "float64", "int16", "int32", "int64"):
        L.emit("Range", [L.const(a[key], dtype) for key in ("start", "end", "step")], outs[0])
    else:
        data = np.arange(a["start"], a["end"], a["step"]).astype(np_dtype(dtype))
        L.emit("Identity", [L.const(data)], outs[0])


@lowers("linspace")
def _linspace(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    a = op.attrs
    L.emit("Identity", [L.const(np.linspace(a["start"], a["end"], a["steps"]), a["dtype"])], outs[0])


def _filled(L: Lowering, shape: Sequence[int], value: float, dtype: str, out: str) -> None:
    data = np.asarray([value]).astype(np_dtype(dtype))
    if L.opset >= 9:
        L.emit("ConstantOfShape", [L.ints(shape)], out, value=make_tensor("", data))
    else:
        L.emit("Expand" if L.opset == 8 else "Tile", [L.reshape(L.const(data), (1,) * len(shape)), L.ints(shape)], out)


@lowers("full")
def _full(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    _filled(L, op.attrs["shape"], op.attrs["value"], op.attrs["dtype"], outs[0])


@lowers("fill")
def _fill(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    _filled(L, L.shape(ins[0]), op.attrs["value"], op.attrs["dtype"], outs[0])


@lowers("eye")
def _eye(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    a = op.attrs
    data = np.eye(a["rows"], a["cols"], a.get("diagonal", 0)).astype(np_dtype(a["dtype"]))
    L.emit("Identity", [L.const(data)], outs[0])


@lowers("meshgrid")
def _meshgrid(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    count = len(ins)
    place = list(range(count))
    if op.attrs.get("indexing", "ij") == "xy" and count >= 2:
        place[0], place[1] = 1, 0
    sizes = [0] * count
    for i, name in enumerate(ins):
        sizes[place[i]] = prod(L.shape(name))
    for i, (name, out) in enumerate(zip(ins, outs, strict=True)):
        row = L.reshape(name, [sizes[j] if j == place[i] else 1 for j in range(count)])
        L.expand(row, sizes, out)


# -- attention, quantization -------------------------------------------------------


@lowers("attention")
def _attention(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    query, key, value, mask = (*ins, None)[:4]
    shape, other = L.shape(query), L.shape(key)
    rank = len(shape)
    dtype = L.dtype(query)
    scale = op.attrs.get("scale")
    heads = {L.shape(name)[:2] for name in ins[:3]}
    if L.opset >= 23 and rank == 4 and len(heads) == 1 and (mask is None or L.dtype(mask) in ("bool", dtype)):
        given = None if scale is None else float(scale)
        L.emit("Attention", [query, key, value, mask], outs[0], scale=given, is_causal=int(op.attrs["causal"]) or None)
        return
    scale = 1 / math.sqrt(shape[-1]) if scale is None else float(scale)
    turned = L.transpose(key, (*range(rank - 2), rank - 1, rank - 2))
    table = (*shape[:-1], other[-2])
    score = L.emit("MatMul", [L.emit("Mul", [query, L.scalar(scale, query)]), turned], shape=table)
    low = L.scalar(-math.inf, query)
    hides = mask is not None and L.dtype(mask) == "bool"
    if op.attrs.get("causal"):
        L.need(9)
        past = L.const(np.tri(shape[-2], other[-2], dtype=bool))
        if hides:
            mask = L.emit("And", [mask, past], shape=L.broadcast(mask, past))
        else:
            score = L.emit("Where", [past, score, low], shape=table, dtype=dtype)
    if hides:
        L.need(9)
        score = L.emit("Where", [mask, score, low], shape=table, dtype=dtype)
    elif mask is not None:
        score = L.emit("Add", [score, L.cast(mask, dtype)], shape=table)
    weights = L.emit("Softmax", [score], axis=rank - 1)
    if hides:  # of a row that is hidden whole, which is 0 in Attention and in torch
        weights = L.emit("Where", [mask, weights, L.scalar(0, query)], shape=table, dtype=dtype)
    L.emit("MatMul", [weights, value], outs[0])


_WIDE = ("int16", "uint16", "int4", "uint4")


@lowers("quantize", "dequantize")
def _quantize(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, scale, zero = (*ins, None)[:3]
    axis = op.attrs.get("axis")
    dtype = op.attrs["dtype"] if op.kind == "quantize" else L.dtype(x)
    L.need(10 if axis is None else 13)
    domain = ""
    if dtype in _WIDE and L.opset < 21:
        # onnxruntime's own operators take 16 bits at any opset
        if dtype not in ("int16", "uint16"):
            L.need(21)
        domain = "com.microsoft"
    if op.kind == "quantize" and zero is None and dtype != "uint8":
        zero = L.const(np.zeros(L.shape(scale)), dtype)
    name = "QuantizeLinear" if op.kind == "quantize" else "DequantizeLinear"
    L.emit(name, [x, scale, zero], outs[0], domain=domain, axis=axis)


@lowers("random", "if", "loop", "scan")
def _not_here(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    raise NoOnnxForm(f"{op.kind} is only kept where it stands, never written anew")
