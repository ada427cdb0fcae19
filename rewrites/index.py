# SPDX-License-Identifier: Apache-2.0
"""Indexing by constants: take, index_select, index, gather, index_put, scatter, scatter_nd, embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from porter.ops import Array, Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import axes_slice, cast, cut, data, join, need, shape_of, some, spread, view

_MOST_PIECES = 64


def _integers(index: Array, extent: int, what: str) -> Array:
    """Constant indices as non-negative int64; a 1-D mask becomes the positions that it selects."""
    if index.dtype == bool:
        need(index.ndim == 1, f"the {what} is a mask of {index.ndim} axes")
        return np.flatnonzero(index)
    index = index.astype(np.int64)
    need(
        ((index >= -extent) & (index < extent)).all(),
        f"the {what} is outside the {extent} elements of its axis",
    )
    return np.where(index < 0, index + extent, index)


def _runs(index: Array) -> list[tuple[int, int, int]]:
    """The runs (first, count, step) that make up a 1-D index, each as long as possible."""
    runs: list[tuple[int, int, int]] = []
    i = 0
    while i < len(index):
        step = int(index[i + 1] - index[i]) if i + 1 < len(index) else 1
        j = i + 1
        while step != 0 and j < len(index) and index[j] - index[j - 1] == step:
            j += 1
        if j - i == 2 and abs(step) != 1:
            j, step = i + 1, 1
        runs.append((int(index[i]), j - i, step if j - i > 1 else 1))
        i = j
    return runs


def _pick(b: Builder, x: Value, axis: int, index: Array) -> Value:
    """``x`` at a 1-D constant index along an axis: slices, joined."""
    need(len(index), "the index is empty")
    runs = _runs(index)
    need(len(runs) <= _MOST_PIECES, f"the index needs {len(runs)} slices, more than {_MOST_PIECES}")
    parts = []
    for first, count, step in runs:
        if step == 1:
            parts.append(cut(b, x, axis, first, first + count))
        else:
            end = first + (count - 1) * step + (1 if step > 0 else -1)
            parts.append(b.slice(x, **axes_slice(axis, first, end, step)))
    return join(b, parts, axis)


@rewrite(removes=("take", "index_select", "embedding"), yields=("slice", "cat", "reshape"), claim="exact")
def take_to_slices(b: Builder, op: Op) -> Any:
    """take, index_select or embedding with a constant index becomes slices, joined.

    Formula: an index is runs of equal steps; each run is a slice.
    Example: ``y = take(x, [0, 1, 2, 7], axis=1)`` -> ``y = cat(slice(x, axis 1, 0:3), slice(x, axis 1, 7:8),
    axis=1)``.
    Bound: bit-equal. A scalar index drops the axis with a reshape.
    Does not apply: when the index is computed at run time, is empty, or needs more than 64 slices.
    """
    x, index = op.operands
    axis = 0 if op.kind == "embedding" else op.attrs["axis"]
    flat = _integers(data(index, "index"), shape_of(x)[axis], "index").reshape(-1)
    return view(b, _pick(b, x, axis, flat), shape_of(op.outputs[0]))


@rewrite(removes="gather", yields=("slice", "cat"), claim="exact")
def gather_to_slices(b: Builder, op: Op) -> Any:
    """gather whose constant index is the same for every position of the other axes becomes slices, joined.

    Formula: torch.gather(x, axis, index)[i, j, k] = x[i, index[i, j, k], k] (axis 1); if index depends on j
    alone, whole slabs are taken, cut to the extents of the index.
    Example: ``y = gather(x, index, axis=1)`` with index[i, j] = j + 2 -> ``y = slice(x, axis 1, 2:n)``.
    Bound: bit-equal.
    Does not apply: when the index differs along another axis, is computed at run time, or needs more than 64
    slices.
    """
    x, index = op.operands
    axis, shape = op.attrs["axis"], shape_of(x)
    positions = _integers(data(index, "index"), shape[axis], "index")
    need(positions.size, "the index is empty")
    line = _along(positions, axis)
    for d, n in enumerate(positions.shape):
        if d != axis:
            x = cut(b, x, d, 0, n)
    return _pick(b, x, axis, line)


def _along(index: Array, axis: int) -> Array:
    """The 1-D index of an array that varies along one axis only."""
    line = np.moveaxis(index, axis, 0).reshape(index.shape[axis], -1)
    need((line == line[:, :1]).all(), f"the index varies along another axis than {axis}")
    return line[:, 0]


@rewrite(removes=("index_select", "index", "embedding"), yields="take", claim="exact")
def index_to_take(b: Builder, op: Op) -> Any:
    """index_select, embedding, and index of one axis become take.

    Formula: numpy.take replaces the axis by the axes of the index.
    Example: ``y = index(x, i, axes=(1,))`` -> ``y = take(x, i, axis=1)``.
    Bound: bit-equal.
    Does not apply: to index of several axes (index_axes_to_take does constant ones) or by a mask.
    """
    x, index = op.operands[0], op.operands[1]
    if op.kind == "index":
        need(len(op.attrs["axes"]) == 1, "several axes are indexed")
        axis = op.attrs["axes"][0]
    else:
        axis = op.attrs.get("axis", 0)
    need(index.dtype != "bool", "the index is a mask")
    if op.kind == "index_select":
        index = view(b, index, (shape_of(op.outputs[0])[axis],))
    return b.take(x, index, axis=axis)


@rewrite(removes="index", yields=("take", "reshape"), claim="exact")
def index_axes_to_take(b: Builder, op: Op) -> Any:
    """index of adjacent axes by constants becomes a reshape that joins the axes, and one take.

    Formula: the flat position of (i, j) in axes of extents (m, n) is i * n + j.
    Example: ``y = index(x, i, j, axes=(2, 3))`` with x of 1x3x8x8 -> ``y = take(reshape(x, (1, 3, 64)), i * 8
    + j, axis=2)``.
    Bound: bit-equal.
    Does not apply: to one axis, to axes that are apart or out of order, or to an index computed at run time.
    """
    x, axes = op.operands[0], tuple(op.attrs["axes"])
    shape = shape_of(x)
    need(len(axes) > 1, "one axis is indexed")
    need(axes == tuple(range(axes[0], axes[0] + len(axes))), f"the axes {axes} are not adjacent")
    extents = [shape[a] for a in axes]
    found = [_integers(data(v, "index"), n, "index") for v, n in zip(op.operands[1:], extents, strict=True)]
    flat = np.ravel_multi_index(tuple(np.broadcast_arrays(*found)), tuple(extents))
    joined = view(b, x, (*shape[: axes[0]], int(np.prod(extents)), *shape[axes[-1] + 1 :]))
    return b.take(joined, b.const(np.asarray(flat, np.int64)), axis=axes[0])


def _progression(line: Array) -> tuple[int, int, int]:
    """(first, count, step) of an arithmetic progression without repeats."""
    steps = np.diff(line)
    step = int(steps[0]) if len(steps) else 1
    need(len(line) and step != 0 and (steps == step).all(), "the index is not evenly spaced")
    return int(line[0]), len(line), step


def _box(b: Builder, x: Value, src: Value, lines: Sequence[tuple[int, Array]], box_shape: Sequence[int]) -> Any:
    """slice_assign of the box whose indices along each axis are given."""
    axes, starts, ends, steps = [], [], [], []
    for axis, line in lines:
        first, count, step = _progression(line)
        axes.append(axis)
        starts.append(first)
        end = first + (count - 1) * step + (1 if step > 0 else -1)
        ends.append(end)
        steps.append(step)
    src = spread(b, cast(b, src, x.dtype), box_shape)
    return b.slice_assign(x, src, axes=tuple(axes), starts=tuple(starts), ends=tuple(ends), steps=tuple(steps))


def _grid(index: Sequence[Array]) -> list[Array]:
    """The 1-D indices whose outer product a tuple of broadcast indices is, one per axis, in order."""
    if len(index) == 1 and index[0].ndim == 1:
        return [index[0]]
    arrays = np.broadcast_arrays(*index)
    need(arrays[0].ndim == len(index) and arrays[0].size, "the indices are not a grid of one axis each")
    return [_along(a, k) for k, a in enumerate(arrays)]


@rewrite(removes="index_put", yields=("slice_assign", "expand", "cast"), claim="exact")
def index_put_to_slice_assign(b: Builder, op: Op) -> Any:
    """x[index] = values, for constant indices that are evenly spaced ranges, becomes slice_assign of their
    box.

    Formula: the outer product of arithmetic progressions is a (strided) box.
    Example: ``y = index_put(x, v, [0, 1, 2], axes=(1,))`` -> ``y = slice_assign(x, v, axis 1, 0:3)``.
    Bound: bit-equal.
    Does not apply: when an index is computed at run time or not evenly spaced, to axes that are apart or out
    of order, or to accumulate.
    """
    x, values = op.operands[0], op.operands[1]
    axes, shape = tuple(op.attrs["axes"]), shape_of(op.operands[0])
    need(not op.attrs["accumulate"], "the values are added, not put")
    need(axes == tuple(range(axes[0], axes[0] + len(axes))), f"the axes {axes} are not adjacent")
    found = [_integers(data(v, "index"), shape[a], "index") for v, a in zip(op.operands[2:], axes, strict=True)]
    lines = _grid(found)
    box = list(shape)
    for axis, line in zip(axes, lines, strict=True):
        box[axis] = len(line)
    return _box(b, x, values, list(zip(axes, lines, strict=True)), box)


@rewrite(removes="index_put", yields=("slice", "cat", "expand", "cast"), claim="exact")
def index_put_to_cat(b: Builder, op: Op) -> Any:
    """x[index] = values, for one axis and a constant 1-D index without repeats, becomes slices, joined.

    Formula: along the axis, runs of kept elements of x and runs of new elements of values take turns.
    Example: ``y = index_put(x, v, [0, 3], axes=(1,))`` with 5 columns -> ``y = cat(slice(v, 0:1), slice(x,
    1:3), slice(v, 1:2), slice(x, 4:5), axis=1)``.
    Bound: bit-equal.
    Does not apply: when the index is computed at run time, repeats, needs more than 64 pieces, or indexes
    several axes.
    """
    x, values = op.operands[0], op.operands[1]
    shape, axes = shape_of(x), op.attrs["axes"]
    need(not op.attrs["accumulate"], "the values are added, not put")
    need(len(axes) == 1, "several axes are indexed")
    axis = axes[0]
    index = _integers(data(op.operands[2], "index"), shape[axis], "index")
    need(index.ndim == 1 and len(index), "the index is not 1-D, or is empty")
    need(len(set(index.tolist())) == len(index), "an index is put twice")
    src = spread(b, cast(b, values, x.dtype), (*shape[:axis], len(index), *shape[axis + 1 :]))
    order = np.argsort(index)
    blocks = np.split(index[order], np.flatnonzero(np.diff(index[order]) != 1) + 1)
    need(
        len(blocks) <= _MOST_PIECES // 2,
        f"the index has {len(blocks)} separate blocks, more than {_MOST_PIECES // 2}",
    )
    src = _pick(b, src, axis, order)
    parts, at, used = [], 0, 0
    for block in blocks:
        first, count = int(block[0]), len(block)
        parts += [*some(b, x, axis, at, first), cut(b, src, axis, used, used + count)]
        at, used = first + count, used + count
    return join(b, [*parts, *some(b, x, axis, at, shape[axis])], axis)


@rewrite(removes="scatter_nd", yields=("slice_assign", "cast"), claim="exact")
def scatter_nd_to_slice_assign(b: Builder, op: Op) -> Any:
    """ScatterND whose constant indices are a box becomes slice_assign.

    Formula: row (i, j, ...) of the index names x[i, j, ...]; the outer product of arithmetic progressions is
    a box.
    Example: torch's ONNX export of ``x[..., :2] = v`` -> ``y = slice_assign(x, v, axis 2, 0:2)``.
    Bound: bit-equal.
    Does not apply: when the index is computed at run time or is not a box, or to a reduction.
    """
    x, index, src = op.operands
    need(op.attrs["reduction"] in ("none", ""), f"the reduction {op.attrs['reduction']} is not none")
    rows, shape = data(index, "index"), shape_of(x)
    depth = rows.shape[-1]
    need(
        rows.size and rows.ndim == depth + 1,
        f"the index of shape {rows.shape} is not a grid over {depth} axes",
    )
    lines = [_along(_integers(rows[..., k], shape[k], "index"), k) for k in range(depth)]
    return _box(b, x, src, list(enumerate(lines)), [*(len(line) for line in lines), *shape[depth:]])


@rewrite(removes="scatter", yields=("slice_assign", "expand", "slice", "cast"), claim="exact")
def scatter_to_slice_assign(b: Builder, op: Op) -> Any:
    """scatter whose constant index is an evenly spaced range along its axis becomes slice_assign.

    Formula: torch.scatter puts src[i, j, k] at x[i, index[i, j, k], k] (axis 1); if index depends on j alone,
    slabs are put.
    Example: ``y = scatter(x, index, src, axis=1)`` with index[i, j] = j + 2 -> ``y = slice_assign(x, src,
    axis 1, 2:2 + n)``.
    Bound: bit-equal.
    Does not apply: when the index is computed at run time, varies along another axis, or to a reduction.
    """
    x, index, src = op.operands
    axis, shape = op.attrs["axis"], shape_of(x)
    need(op.attrs["reduction"] in ("none", ""), f"the reduction {op.attrs['reduction']} is not none")
    positions = _integers(data(index, "index"), shape[axis], "index")
    need(positions.size, "the index is empty")
    lines = [(d, np.arange(n)) for d, n in enumerate(positions.shape) if d != axis and n != shape[d]]
    lines = sorted([*lines, (axis, _along(positions, axis))], key=lambda line: line[0])
    if shape_of(src):
        for d, n in enumerate(positions.shape):
            src = cut(b, src, d, 0, n)
    return _box(b, x, src, lines, positions.shape)


@rewrite(removes="take", yields=("embedding", "gather", "reshape", "expand"), claim="exact")
def take_to_embedding_or_gather(b: Builder, op: Op) -> Any:
    """take of the rows of a table becomes embedding; any other take by a 1-D index becomes gather.

    Formula: embedding is take along axis 0 of a rank-2 table; gather wants the index expanded to the result's
    shape.
    Example: ``y = take(table, i, axis=0)`` -> ``y = embedding(table, i)``.
    Bound: bit-equal. A negative index, which take allows, must not occur in an index computed at run time.
    Does not apply: to an index of two or more axes on anything but a table.
    """
    x, index = op.operands
    axis, shape = op.attrs["axis"], shape_of(x)
    need(index.dtype in ("int64", "int32"), f"the index is {index.dtype}")
    if index.is_const:
        index = b.const(_integers(index.numpy(), shape[axis], "index").astype(index.dtype))
    if len(shape) == 2 and axis == 0:
        return b.embedding(x, index)
    need(len(shape_of(index)) == 1, "the index is not 1-D")
    out = shape_of(op.outputs[0])
    index = view(b, index, tuple(n if d == axis else 1 for d, n in enumerate(out)))
    return b.gather(x, spread(b, index, out), axis=axis)


@rewrite(removes="one_hot", yields=("reshape", "eq", "cast"), claim="exact")
def one_hot_to_eq(b: Builder, op: Op) -> Any:
    """one_hot(x) becomes (x[..., None] == [0, 1, ..., depth - 1]).

    Formula: element k of the code is 1 where x = k.
    Example: ``y = one_hot(x, depth=3)`` -> ``y = cast(eq(reshape(x, (..., 1)), [0, 1, 2]), int64)``.
    Bound: bit-equal.
    Does not apply: when the shape is unknown.
    """
    x = op.operands[0]
    classes = b.const(np.arange(op.attrs["depth"]), x.dtype)
    return b.cast(b.eq(view(b, x, (*shape_of(x), 1)), classes), dtype="int64")
