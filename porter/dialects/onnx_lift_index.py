# SPDX-License-Identifier: Apache-2.0
"""What ONNX's nodes that move data mean: shapes, indexing, resampling, generators.

Importing this module adds its operators to the table of :mod:`porter.dialects.onnx_lift`.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from porter.dialects.onnx_fold import slice_bounds
from porter.dialects.onnx_lift import FLOATS, At, Lifted, derived, lifts, short
from porter.dialects.onnx_lift_layers import pairs_of
from porter.dialects.onnx_proto import tensor_array
from porter.ops import Array

#: The most elements of an index tensor that is looked into.
INDEX_LIMIT = 1 << 24

# -- shapes ----------------------------------------------------------------------------------------


@lifts("Reshape")
def _reshape(at: At) -> Lifted | None:
    if at.out.shape is not None:
        return "reshape", at.ins[:1], {"shape": at.out.shape}
    return "dynamic_reshape", at.ins, {}


@lifts("Flatten")
def _flatten(at: At) -> Lifted | None:
    if at.shape is None or at.out.shape is None:
        return None
    if at.axis(at.attr("axis", 1)) == 1 and len(at.shape) >= 2:
        return "flatten", at.ins, {"start": 1, "end": len(at.shape) - 1}
    return "reshape", at.ins, {"shape": at.out.shape}


@lifts("Squeeze")
def _squeeze(at: At) -> Lifted | None:
    axes = at.axes_of(1, 13)
    if axes is None:
        if at.shape is None:
            return None
        axes = tuple(i for i, n in enumerate(at.shape) if n == 1)
    return ("dynamic_squeeze", at.ins, {}) if axes == "dynamic" else ("squeeze", at.ins[:1], {"axes": axes})


@lifts("Unsqueeze")
def _unsqueeze(at: At) -> Lifted | None:
    given = at.ints(1) if at.version >= 13 else at.attr("axes")
    if given is None:
        return "dynamic_unsqueeze", at.ins, {}
    if any(a < 0 for a in given) and at.x.rank is None:
        return None
    rank = (at.x.rank or 0) + len(given)
    return "unsqueeze", at.ins[:1], {"axes": tuple(sorted(a if a >= 0 else a + rank for a in given))}


@lifts("Transpose")
def _transpose(at: At) -> Lifted | None:
    dims = at.attr("perm")
    if dims is None:
        if at.x.rank is None:
            return None
        dims = tuple(reversed(range(at.x.rank)))
    return "permute", at.ins, {"dims": dims}


@lifts("Expand")
def _expand(at: At) -> Lifted:
    if at.out.shape is not None:
        return "expand", at.ins[:1], {"shape": at.out.shape}
    return "dynamic_expand", at.ins, {}


@lifts("Tile")
def _tile(at: At) -> Lifted:
    repeats = at.ints(1)
    return ("dynamic_repeat", at.ins, {}) if repeats is None else ("repeat", at.ins[:1], {"repeats": repeats})


@lifts("Concat")
def _concat(at: At) -> Lifted | None:
    axis = at.axis(at.attr("axis", 1))
    return None if axis is None else ("cat", at.ins, {"axis": axis})


@lifts("Split")
def _split(at: At) -> Lifted | None:
    axis = at.axis(at.attr("axis", 0))
    if axis is None or not all(at.node.outs):
        return None
    shapes = [out.shape for out in at.outs]
    if any(shape is None for shape in shapes):
        return "dynamic_split", at.ins, {"axis": axis}
    return "split", at.ins[:1], {"sizes": tuple(shape[axis] for shape in shapes if shape is not None), "axis": axis}


@lifts("Slice")
def _slice(at: At) -> Lifted:
    if at.version < 10:
        starts, ends, axes, steps = at.attrs["starts"], at.attrs["ends"], at.attr("axes"), None
    else:
        starts, ends = at.ints(1), at.ints(2)
        axes, steps = (at.ints(i) if at.has(i) else None for i in (3, 4))
        missing = (at.has(3) and axes is None) or (at.has(4) and steps is None)
        if starts is None or ends is None or missing or at.shape is None:
            return "dynamic_slice", [*at.ins, *[None] * (5 - len(at.ins))], {}
    if at.shape is None:
        return "dynamic_slice", at.ins, {"starts": starts, "ends": ends, "axes": axes}
    rank = len(at.shape)
    axes = tuple(a % rank for a in axes) if axes is not None else tuple(range(len(starts)))
    steps = steps or (1,) * len(starts)
    bounds = [
        (axis, *slice_bounds(start, end, step, at.shape[axis]))
        for axis, start, end, step in sorted(zip(axes, starts, ends, steps, strict=True))
    ]
    columns = [tuple(column) for column in zip(*bounds, strict=True)] if bounds else [(), (), (), ()]
    return "slice", at.ins[:1], dict(zip(("axes", "starts", "ends", "steps"), columns, strict=True))


@lifts("Pad")
def _pad(at: At) -> Lifted | None:
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    mode = modes.get(at.attr("mode", "constant"))
    if mode is None or at.x.rank is None:
        return None
    value: Any = 0.0
    if at.version < 11:
        flat = at.attr("pads", at.attr("paddings"))
        value = at.attr("value", 0.0)
    else:
        flat = at.ints(1)
        if at.has(2):
            value = at.number(2)
            if value is None or flat is None:
                flat = None
    axes = at.ints(3) if at.has(3) else tuple(range(at.x.rank))
    if flat is None or axes is None:
        return "dynamic_pad", (at.x, at.get(1), at.get(2), at.get(3)), {"mode": mode}
    pairs = [(0, 0)] * at.x.rank
    for axis, pair in zip(axes, pairs_of(flat), strict=True):
        pairs[axis % at.x.rank] = pair
    return "pad", at.ins[:1], {"padding": tuple(pairs), "mode": mode, "value": short(value, at)}


@lifts("DepthToSpace", "SpaceToDepth")
def _depth_space(at: At) -> Lifted:
    kind = "pixel_shuffle" if at.node.op == "DepthToSpace" else "pixel_unshuffle"
    return kind, at.ins, {"factor": at.attrs["blocksize"], "mode": at.attr("mode", "DCR")}


@lifts("Trilu")
def _trilu(at: At) -> Lifted:
    kind = "triu" if at.attr("upper", 1) else "tril"
    diagonal = at.number(1) if at.has(1) else 0
    return (f"dynamic_{kind}", at.ins, {}) if diagonal is None else (kind, at.ins[:1], {"diagonal": int(diagonal)})


@lifts("Shape")
def _shape(at: At) -> Lifted:
    rank = at.x.rank
    start, end = at.attr("start", 0), at.attr("end")
    if rank is None or (start, end) == (0, None):
        return "shape", at.ins, {} if (start, end) == (0, None) else {"start": start, "end": end}
    first, last, _ = slice_bounds(start, rank if end is None else end, 1, rank)
    return "shape", at.ins, {} if (first, last) == (0, rank) else {"start": first, "end": last}


# -- indexing --------------------------------------------------------------------------------------


@lifts("Gather")
def _gather(at: At) -> Lifted | None:
    axis, index = at.axis(at.attr("axis", 0)), at.ins[1]
    if axis is None or index is None:
        return None
    if index.rank is None:
        return "take", at.ins, {"axis": axis}
    extent = at.shape[axis] if at.shape is not None else None
    if index.rank == 0:
        i = at.number(1)
        if i is not None and extent is not None:
            return "select", at.ins[:1], {"axis": axis, "index": int(i) + (extent if i < 0 else 0)}
        return "take", at.ins, {"axis": axis}
    if index.is_const and extent is not None:
        data = at.const(1)
        if data is not None and (data < 0).any():  # torch's index_select takes no negative index
            index = derived(index, index.shape or (), lambda a, n=extent: np.where(a < 0, a + n, a))  # type: ignore[misc]
    if index.rank == 1:
        return "index_select", (at.x, index), {"axis": axis}
    if at.x.is_const and at.x.rank == 2 and axis == 0 and at.x.dtype in FLOATS and not index.is_const:
        return "embedding", (at.x, index), {}
    return "take", (at.x, index), {"axis": axis}


@lifts("GatherElements")
def _gather_elements(at: At) -> Lifted | None:
    axis = at.axis(at.attr("axis", 0))
    return None if axis is None else ("gather", at.ins, {"axis": axis})


@lifts("GatherND")
def _gather_nd(at: At) -> Lifted:
    return "gather_nd", at.ins, {"batch_dims": at.attr("batch_dims", 0)}


@lifts("ScatterElements", "Scatter")
def _scatter(at: At) -> Lifted | None:
    axis = at.axis(at.attr("axis", 0))
    return None if axis is None else ("scatter", at.ins, {"axis": axis, "reduction": at.attr("reduction", "none")})


@lifts("ScatterND")
def _scatter_nd(at: At) -> Lifted:
    reduction = at.attr("reduction", "none")
    if reduction == "none" and at.shape is not None and at.ins[2] is not None:
        index = at.const(1, INDEX_LIMIT)
        found = assigned_box(index, at.shape) if index is not None else None
        if found is not None:
            return found[0], (at.x, at.ins[2]), found[1]
    return "scatter_nd", at.ins, {"reduction": reduction}


def assigned_box(index: Array, shape: tuple[int, ...]) -> tuple[str, dict[str, Any]] | None:
    """What a ScatterND with this index assigns to, when that is a strided box in row-major order.

    ``index`` is (g0, ..., gm-1, depth): entry k of its last axis must run with one constant step along axis k of
    the grid, and be the same along the others. That is ``slice_assign``. When one of the ``depth`` axes is a single
    index that the grid has no axis for, and all the others are whole, it is ``select_assign``.
    """
    depth = index.shape[-1] if index.ndim else 0
    grid = index.shape[:-1]
    if not 0 < depth <= len(shape) or prod(grid) == 0 or len(grid) not in (depth, depth - 1):
        return None
    index = np.where(index < 0, index + np.asarray(shape[:depth], index.dtype), index)
    first = index[(0,) * len(grid)]
    if len(grid) == depth - 1:
        for single in range(depth):
            others = [j for j in range(depth) if j != single]
            column, i = index[..., single], int(first[single])
            if 0 <= i < shape[single] and (column == i).all() and _box(index, first, others, shape) == _WHOLE:
                return "select_assign", {"axis": single, "index": i}
        return None
    attrs = _box(index, first, list(range(depth)), shape)
    if attrs is None:
        return None
    if not attrs["axes"]:
        attrs = {"axes": (0,), "starts": (0,), "ends": (shape[0],), "steps": (1,)}
    return "slice_assign", attrs


_WHOLE: dict[str, Any] = {"axes": (), "starts": (), "ends": (), "steps": ()}


def _box(index: Array, first: Array, axes: list[int], shape: tuple[int, ...]) -> dict[str, Any] | None:
    """The box whose grid axis ``g`` is axis ``axes[g]``, leaving out axes that it covers; None when it is none."""
    grid = index.shape[:-1]
    rows: list[tuple[int, int, int, int]] = []
    for g, axis in enumerate(axes):
        column = index[..., axis]
        start, count = int(first[axis]), grid[g]
        step = 1
        if count > 1:
            step = int(np.take(column, 1, axis=g).flat[0]) - start
        last = start + step * (count - 1)
        if step == 0 or not (0 <= start < shape[axis] and 0 <= last < shape[axis]):
            return None
        line = (start + step * np.arange(count)).reshape([-1 if j == g else 1 for j in range(len(grid))])
        if not np.array_equal(column, np.broadcast_to(line, grid)):
            return None
        if (start, step, count) != (0, 1, shape[axis]):
            end = last + 1 if step > 0 else last - 1
            rows.append((axis, start, end, step))
    columns = [tuple(c) for c in zip(*rows, strict=True)] if rows else [(), (), (), ()]
    return dict(zip(("axes", "starts", "ends", "steps"), columns, strict=True))


@lifts("OneHot")
def _one_hot(at: At) -> Lifted | None:
    depth, values = at.number(1), at.const(2)
    usual = values is not None and values.dtype == np.int64 and values.tolist() == [0, 1] and at.attr("axis", -1) == -1
    return ("one_hot", at.ins[:1], {"depth": int(depth)}) if usual and depth is not None else None


@lifts("NonZero")
def _nonzero(at: At) -> Lifted:
    return "nonzero", at.ins, {"layout": "onnx"}


@lifts("NonMaxSuppression")
def _nms(at: At) -> Lifted | None:
    boxes, threshold = at.number(2) if at.has(2) else 0, at.number(3) if at.has(3) else 0.0
    if boxes is None or threshold is None or (at.has(4) and at.number(4) is None):
        return "dynamic_nms", at.ins, {"layout": "onnx", "center_point_box": at.attr("center_point_box", 0)}
    attrs: dict[str, Any] = {"iou_threshold": threshold, "layout": "onnx", "max_boxes": int(boxes)}
    attrs.update(score_threshold=at.number(4), center_point_box=at.attr("center_point_box", 0))
    return "nms", at.ins[:2], attrs


# -- resampling ------------------------------------------------------------------------------------


@lifts("Upsample", "Resize")
def _resize(at: At) -> Lifted | None:
    if at.shape is None or at.out.shape is None or len(at.shape) < 3 or at.shape[:2] != at.out.shape[:2]:
        return None
    modern = at.node.op == "Resize" and at.version >= 11
    mode = at.attr("mode", "nearest")
    if mode not in ("nearest", "linear", "cubic") or at.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    antialias, exclude = bool(at.attr("antialias", 0)), bool(at.attr("exclude_outside", 0))
    # torch leaves out what lies beyond the edge when it antialiases, and repeats the edge when it does not.
    if antialias != exclude and (antialias or mode == "cubic"):
        return None
    # Upsample and Resize-10 are asymmetric; nearest rounds down.
    coordinates = at.attr("coordinate_transformation_mode", "half_pixel") if modern else "asymmetric"
    nearest = at.attr("nearest_mode", "round_prefer_floor") if modern else "floor"
    if coordinates not in ("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"):
        return None
    if not modern and mode == "nearest" and any(a > b for a, b in zip(at.shape, at.out.shape, strict=True)):
        return None  # onnxruntime rounds up here, the specification down
    scales: tuple[float, ...] | None
    if at.version < 9:
        scales = at.attr("scales")
    else:
        data = at.const(2 if modern else 1)
        scales = None if data is None or not data.size else tuple(float(str(np.float32(s))) for s in data)
        if scales is None and at.has(2 if modern else 1) and not at.has(3):
            return None
    rank = len(at.shape)
    if scales is not None:
        axes = at.attr("axes", tuple(range(rank)))
        every = [1.0] * rank
        for axis, scale in zip(axes, scales, strict=True):
            every[axis] = scale
        if every[:2] != [1.0, 1.0]:
            return None
        scales = tuple(every[2:])
    attrs = {
        "mode": mode, "coordinates": coordinates, "sizes": at.out.shape[2:], "scales": scales,
        "nearest_mode": nearest if mode == "nearest" else "floor", "cubic_coeff": at.attr("cubic_coeff_a", -0.75),
        "antialias": antialias,
    }  # fmt: skip
    return "resize", at.ins[:1], attrs


@lifts("AffineGrid")
def _affine_grid(at: At) -> Lifted | None:
    size = at.ints(1)
    attrs = {"size": size, "align_corners": bool(at.attr("align_corners", 0))}
    return None if size is None else ("affine_grid", at.ins[:1], attrs)


@lifts("GridSample")
def _grid_sample(at: At) -> Lifted | None:
    modes = {"linear": "bilinear", "cubic": "bicubic"}  # renamed in opset 20
    mode = at.attr("mode", "linear" if at.version >= 20 else "bilinear")
    attrs = {
        "mode": modes.get(mode, mode), "padding_mode": at.attr("padding_mode", "zeros"),
        "align_corners": bool(at.attr("align_corners", 0)),
    }  # fmt: skip
    return "grid_sample", at.ins, attrs


@lifts("RoiAlign")
def _roi_align(at: At) -> Lifted:
    default = "half_pixel" if at.version >= 16 else "output_half_pixel"
    attrs = {
        "output_size": (at.attr("output_height", 1), at.attr("output_width", 1)),
        "scale": at.attr("spatial_scale", 1.0),
        "sampling_ratio": at.attr("sampling_ratio", 0), "mode": at.attr("mode", "avg"),
        "aligned": at.attr("coordinate_transformation_mode", default) == "half_pixel",
    }  # fmt: skip
    return "roi_align", at.ins, attrs


@lifts("Col2Im")
def _col2im(at: At) -> Lifted | None:
    size, kernel = at.ints(1), at.ints(2)
    if size is None or kernel is None or len(size) != 2:
        return None
    pads = pairs_of(at.attr("pads", (0, 0, 0, 0)))
    if any(a != b for a, b in pads):
        return None
    attrs = {
        "output_size": size, "kernel": kernel, "stride": at.attr("strides", (1, 1)),
        "padding": tuple(a for a, _ in pads),
        "dilation": at.attr("dilations", (1, 1)),
    }  # fmt: skip
    return "fold", at.ins[:1], attrs


# -- generators ------------------------------------------------------------------------------------


@lifts("Range")
def _range(at: At) -> Lifted:
    numbers = [at.number(i) for i in range(3)]
    if any(n is None for n in numbers) or at.out.dtype is None:
        return "dynamic_arange", at.ins, {"dtype": at.out.dtype}
    return "arange", (), {"start": numbers[0], "end": numbers[1], "step": numbers[2], "dtype": at.out.dtype}


@lifts("ConstantOfShape")
def _constant_of_shape(at: At) -> Lifted:
    tensor = at.attr("value")
    data = np.zeros(1, np.float32) if tensor is None else tensor_array(tensor, None)
    value, dtype = data.reshape(()).item(), str(data.dtype)
    if at.out.shape is None:
        return "dynamic_full", at.ins, {"value": value, "dtype": dtype}
    return "full", (), {"shape": at.out.shape, "value": value, "dtype": dtype}


@lifts("EyeLike")
def _eye_like(at: At) -> Lifted | None:
    if at.shape is None or at.out.dtype is None:
        return None
    rows, cols = at.shape
    return "eye", (), {"rows": rows, "cols": cols, "diagonal": at.attr("k", 0), "dtype": at.out.dtype}


@lifts("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")
def _random(at: At) -> Lifted:
    return "random", at.ins, {"shape": at.out.shape, "dtype": at.out.dtype}
