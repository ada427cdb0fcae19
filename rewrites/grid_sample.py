# SPDX-License-Identifier: Apache-2.0
"""Sampling at a grid: constant grids as matrices or indices, run-time grids as gathers; affine grids as a product."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from porter.ops import Array, Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import axes_slice, data, need, need_float, need_small, shape_of, spread, turned, view

#: Nearer to the middle of two elements than this, kernels may choose either.
_HALF = 1e-4


def _position(grid: Array, n: int, align: bool) -> Array:
    """Where -1..1 lies on an axis of n elements (torch.nn.functional.grid_sample)."""
    return np.asarray((grid + 1) * (n - 1) / 2 if align else ((grid + 1) * n - 1) / 2)


def _reflected(at: Array, n: int, align: bool) -> Array:
    """Positions reflected at the middle of the outer elements (align), or at their outer edges."""
    low, span = (0.0, n - 1.0) if align else (-0.5, float(n))
    if span == 0:
        return np.zeros_like(at)
    folded = np.mod(np.abs(at - low), 2 * span)
    return np.asarray(low + span - np.abs(folded - span))


def _inside(at: Array, n: int, padding: str, align: bool) -> Array:
    if padding == "reflection":
        at = _reflected(at, n, align)
    return at if padding == "zeros" else np.clip(at, 0, n - 1)


def _axis_taps(grid: Array, n: int, op: Op) -> list[tuple[Array, Array]]:
    """The elements of one axis that a sample reads, each with its weight."""
    a = op.attrs
    at = _position(grid, n, a["align_corners"])
    taps: list[tuple[Array, Array]]
    if a["mode"] == "bicubic":
        first = np.floor(at)
        taps = [(first + t, _cubic(at - first - t)) for t in range(-1, 3)]
        taps = [(_inside(index, n, a["padding_mode"], a["align_corners"]), weight) for index, weight in taps]
    else:
        at = _inside(at, n, a["padding_mode"], a["align_corners"])
        if a["mode"] == "nearest":
            near = np.abs(np.mod(at, 1) - 0.5) < _HALF
            need(not near.any(), "a sample lies halfway between two elements, where kernels may take either")
            taps = [(np.round(at), np.ones_like(at))]
        else:
            need(a["mode"] == "bilinear", f"the mode is {a['mode']}")
            low = np.floor(at)
            taps = [(low, 1 - (at - low)), (low + 1, at - low)]
    seen = [(np.clip(i, 0, n - 1), np.where((i >= 0) & (i <= n - 1), weight, 0.0)) for i, weight in taps]
    return [(index.astype(np.int64), weight) for index, weight in seen]


def _cubic(at: Array) -> Array:
    """The cubic convolution of parameter -3/4 at a distance of up to 2."""
    x = np.abs(at)
    return np.where(x <= 1, (1.25 * x - 2.25) * x * x + 1, -0.75 * (((x - 5) * x + 8) * x - 4))


def _taps(op: Op) -> list[tuple[Array, Array]]:
    """For each tap the flat index into the spatial axes and the weight, both (N or 1, samples)."""
    grid = data(op.operands[1], "grid").astype(np.float64)
    need(np.isfinite(grid).all(), "the grid has infinities or NaN")
    size = shape_of(op.operands[0])[2:]
    if len(grid) > 1 and (grid == grid[:1]).all():
        grid = grid[:1]
    flat = grid.reshape(len(grid), -1, len(size))
    # The last coordinate of the grid counts along the first spatial axis.
    each = [_axis_taps(flat[..., len(size) - 1 - d], n, op) for d, n in enumerate(size)]
    out = []
    for chosen in product(*each):
        index, weight = np.zeros(flat.shape[:2], np.int64), np.ones(flat.shape[:2])
        for (i, w), n in zip(chosen, size, strict=True):
            index, weight = index * n + i, weight * w
        if weight.any():
            out.append((index, weight))
    return out or [(np.zeros(flat.shape[:2], np.int64), np.zeros(flat.shape[:2]))]


@rewrite(
    removes="grid_sample",
    yields=("take", "gather", "reshape", "mul", "add"),
    claim="bounded",
    error="1e-06 of the largest |x| times the larger extent",
)
def grid_sample_constant_to_take(b: Builder, op: Op) -> Any:
    """Sampling at a constant grid becomes a weighted sum of elements taken by constant indices.

    Formula: bilinear interpolation reads 2 elements of each axis, bicubic 4, nearest 1; y = sum over the taps t of
    x[index_t] * weight_t, with weight 0 beyond the edge (zeros), or the index of the edge or of the reflected element.
    Example: ``y = grid_sample(x of 1x8x16x16, grid)`` -> ``f = reshape(x, (1, 8, 256)); y = reshape(add(mul(take(f,
    i0, axis=2), w0), mul(take(f, i1, axis=2), w1), ...))``.
    Bound: 1e-06 of the largest |x| times the larger extent, in float32, for a grid within -3 to 3 (coordinates are
    rounded, by torch too).
    Does not apply: to a grid that is computed at run time (grid_sample_to_gather), or has infinities or NaN; to
    nearest where a sample lies halfway between two elements.
    """
    x = op.operands[0]
    need_float(x)
    n, c, *size = shape_of(x)
    flat, out = view(b, x, (n, c, prod(size))), None
    for index, weight in _taps(op):
        if len(index) == 1:
            part = b.take(flat, b.const(index[0]), axis=2)
        else:
            every = np.broadcast_to(index[:, None], (n, c, index.shape[1]))
            part = b.gather(flat, b.const(np.ascontiguousarray(every)), axis=2)
        if (weight != 1).any():
            part = b.mul(part, b.const(weight[:, None], x.dtype))
        out = part if out is None else b.add(out, part)
    return view(b, out, shape_of(op.outputs[0])) if out is not None else None


@rewrite(
    removes="grid_sample",
    yields=("matmul", "reshape"),
    claim="bounded",
    error="1e-06 of the largest |x| times the larger extent",
)
def grid_sample_constant_to_matmul(b: Builder, op: Op) -> Any:
    """Sampling at a constant grid becomes a product with a constant matrix.

    Formula: y = x A over the flat spatial axes; column p of A has the weights of the elements that sample p reads.
    Example: ``y = grid_sample(x of 1x8x16x16, grid of 1x4x4x2)`` -> ``y = reshape(matmul(reshape(x, (1, 8, 256)),
    A of 256x16), (1, 8, 4, 4))``.
    Bound: 1e-06 of the largest |x| times the larger extent, in float32, for a finite x and a grid within -3 to 3.
    Does not apply: to a grid that is computed at run time (grid_sample_to_gather), or has infinities or NaN; to
    nearest where a sample lies halfway between two elements; to a matrix of more than 16777216 elements.
    """
    x, grid = op.operands
    need_float(x)
    n, c, *size = shape_of(x)
    count = prod(size) * prod(shape_of(grid)[1:-1])
    need_small(count, "a matrix")
    taps = _taps(op)
    batch, samples = taps[0][0].shape
    need_small(batch * count, "a matrix for each image")
    matrix = np.zeros((batch, prod(size), samples))
    image, column = np.meshgrid(np.arange(batch), np.arange(samples), indexing="ij")
    for index, weight in taps:
        np.add.at(matrix, (image, index, column), weight)
    flat = view(b, x, (n, c, prod(size)))
    return view(b, b.matmul(flat, b.const(matrix if batch > 1 else matrix[0], x.dtype)), shape_of(op.outputs[0]))


class _Runtime:
    """Coordinates and flat indices of a grid that is computed when the model runs."""

    def __init__(self, b: Builder, op: Op) -> None:
        self.b, self.a = b, op.attrs
        x, grid = op.operands
        need_float(x, grid)
        need(x.dtype in ("float32", "float64"), f"{x.dtype} cannot hold the coordinates")
        need(x.dtype == grid.dtype, f"the grid is {grid.dtype}, and the image {x.dtype}")
        self.n, self.c, *self.size = shape_of(x)
        axes = len(self.size)
        # A border of zeros around the image stands for everything beyond it.
        self.border = int(op.attrs["padding_mode"] == "zeros")
        self.wide = [extent + 2 * self.border for extent in self.size]
        need(prod(self.wide) <= 2**24, f"{prod(self.wide)} positions are more than float32 counts")
        if self.border:
            x = b.pad(x, padding=((0, 0), (0, 0), *((1, 1),) * axes), mode="constant", value=0.0)
        self.flat = view(b, x, (self.n, self.c, prod(self.wide)))
        self.samples = prod(shape_of(grid)[1:-1])
        self.grid = grid

    def position(self, axis: int) -> Value:
        """Where the samples lie along a spatial axis (0 is the first), (N, 1, samples)."""
        b, n, axes = self.b, self.size[axis], len(self.size)
        # The last coordinate of the grid counts along the first spatial axis.
        part = b.slice(self.grid, **axes_slice(axes + 1, axes - 1 - axis, axes - axis))
        at = b.add(view(b, part, (self.n, 1, self.samples)), 1.0)
        out: Value = b.mul(at, (n - 1) / 2) if self.a["align_corners"] else b.add(b.mul(at, n / 2), -0.5)
        return out

    def inside(self, at: Value, axis: int) -> Value:
        """Positions reflected where that is asked for, and clamped to the image or its border."""
        n = self.size[axis]
        if self.a["padding_mode"] == "reflection":
            at = self._reflected(at, n, self.a["align_corners"])
        out: Value = self.b.clamp(at, min=float(-self.border), max=float(n - 1 + self.border))
        return out

    def _reflected(self, at: Value, n: int, align: bool) -> Value:
        b = self.b
        low, span = (0.0, n - 1.0) if align else (-0.5, float(n))
        if span == 0:
            return at  # clamped to the one element
        far = b.abs(b.add(at, -low)) if low else b.abs(at)
        turns = b.mul(b.floor(b.mul(far, 1 / (2 * span))), 2 * span)
        back = b.abs(b.add(b.sub(far, turns), -span))
        out: Value = b.add(b.mul(back, -1.0), low + span)
        return out

    def take(self, at: Sequence[Value]) -> Value:
        """The elements at whole positions, one for each axis, (N, C, samples)."""
        b, flat = self.b, at[0]
        for position, extent in zip(at[1:], self.wide[1:], strict=True):
            flat = b.add(b.mul(flat, float(extent)), position)
        if self.border:  # the first element lies one step along each axis behind that of the border
            flat = b.add(flat, float(sum(prod(self.wide[axis + 1 :]) for axis in range(len(self.wide)))))
        index = spread(b, b.cast(flat, dtype="int64"), (self.n, self.c, self.samples))
        out: Value = b.gather(self.flat, index, axis=2)
        return out

    def blend(self, taps: Sequence[Sequence[tuple[Value, Value]]], at: tuple[Value, ...] = ()) -> Value:
        """The sum of the elements at all combinations of the taps (position and weight) of each axis."""
        if len(at) == len(taps):
            return self.take(at)
        b = self.b
        total: Value | None = None
        for position, weight in taps[len(at)]:
            part = b.mul(self.blend(taps, (*at, position)), weight)
            total = part if total is None else b.add(total, part)
        assert total is not None
        return total


_RUNTIME = ("pad", "reshape", "slice", "add", "sub", "mul", "abs", "floor", "clamp", "cast", "expand", "gather")


@rewrite(
    removes="grid_sample",
    yields=_RUNTIME,
    claim="bounded",
    error="1e-06 of the largest |x| times the larger extent",
)
def grid_sample_to_gather(b: Builder, op: Op) -> Any:
    """Linear sampling of an image or a volume at a grid of run time becomes gathers and their weights.

    Formula: with r = floor(row) and c = floor(column), y = (x[r, c] (1 - u) + x[r, c + 1] u) (1 - v) + (x[r + 1, c]
    (1 - u) + x[r + 1, c + 1] u) v; a volume has 8 such elements. Zeros beyond the edge are a border of zeros to which
    positions are clamped; reflection is span - | |p - low| mod 2 span - span |.
    Example: ``y = grid_sample(x of 1x8x16x16, grid)`` -> ``p = pad(x, 1 on each side); i = cast(add(mul(r, 18), c),
    int64); y = mul(gather(reshape(p, (1, 8, 324)), expand(i), axis=2), ...) + ...``.
    Bound: 1e-06 of the largest |x| times the larger extent, in float32, for a grid within -3 to 3. What infinities and
    NaN in the grid give is the kernel's affair.
    Does not apply: to other modes, float16, or more than 2^24 positions.
    """
    need(op.attrs["mode"] == "bilinear", f"the mode is {op.attrs['mode']}")
    run = _Runtime(b, op)
    taps = []
    for axis, n in enumerate(run.size):
        at = run.inside(run.position(axis), axis)
        low = b.floor(at)
        high = b.clamp(b.add(low, 1.0), min=None, max=float(n - 1 + run.border))
        share = b.sub(at, low)
        taps.append([(low, b.add(b.mul(share, -1.0), 1.0)), (high, share)])
    return view(b, run.blend(taps), shape_of(op.outputs[0]))


@rewrite(
    removes="grid_sample",
    yields=_RUNTIME,
    claim="bounded",
    error="4e-06 of the largest |x| times the larger extent",
)
def grid_sample_cubic_to_gather(b: Builder, op: Op) -> Any:
    """Bicubic sampling of an image at a grid of run time becomes sixteen gathers and their weights.

    Formula: cubic convolution (Keys 1981) with the parameter -3/4: at f = p - floor(p) the four elements of an axis
    from floor(p) - 1 on have the weights -3/4 f (1 - f)^2, 5/4 f^3 - 9/4 f^2 + 1, the same of 1 - f, and -3/4 (1 - f)
    f^2. Each element beyond the edge is zero, that of the edge, or the reflected one.
    Example: ``y = grid_sample(x of 1x8x16x16, grid, bicubic)`` -> ``y = mul(add(mul(gather(p, i00), u0), mul(gather(p,
    i01), u1), ...), v0) + ...``, four rows of four.
    Bound: 4e-06 of the largest |x| times the larger extent, in float32, for a grid within -3 to 3.
    Does not apply: to other modes, volumes, float16, or more than 2^24 positions.
    """
    need(op.attrs["mode"] == "bicubic", f"the mode is {op.attrs['mode']}")
    run = _Runtime(b, op)
    need(len(run.size) == 2, f"{len(run.size)} spatial axes are not 2")
    taps = []
    for axis in range(2):
        at = run.position(axis)
        first = b.floor(at)
        near = b.sub(at, first)
        far = b.add(b.mul(near, -1.0), 1.0)
        near2, far2 = b.mul(near, near), b.mul(far, far)
        weights = (
            b.mul(b.mul(near, far2), -0.75),
            b.add(b.mul(near2, b.add(b.mul(near, 1.25), -2.25)), 1.0),
            b.add(b.mul(far2, b.add(b.mul(far, 1.25), -2.25)), 1.0),
            b.mul(b.mul(far, near2), -0.75),
        )
        places = [first if t == 0 else b.add(first, float(t)) for t in range(-1, 3)]
        taps.append([(run.inside(place, axis), weight) for place, weight in zip(places, weights, strict=True)])
    return view(b, run.blend(taps), shape_of(op.outputs[0]))


@rewrite(
    removes="grid_sample",
    yields=(*_RUNTIME, "round"),
    claim="bounded",
    error="bit-equal but where a coordinate lies within rounding of the middle of two elements",
)
def grid_sample_nearest_to_gather(b: Builder, op: Op) -> Any:
    """Nearest sampling of an image or a volume at a grid of run time becomes one gather.

    Formula: y = x[round(row), round(column)]. Zeros beyond the edge are a border of zeros to which positions are
    clamped.
    Example: ``y = grid_sample(x of 1x8x16x16, grid, nearest)`` -> ``i = cast(add(mul(round(r), 18), round(c)), int64);
    y = gather(reshape(pad(x), (1, 8, 324)), expand(i), axis=2)``.
    Bound: bit-equal, but where a coordinate lies within rounding of the middle of two elements, which is either of the
    two.
    Does not apply: to other modes, float16, or more than 2^24 positions.
    """
    need(op.attrs["mode"] == "nearest", f"the mode is {op.attrs['mode']}")
    run = _Runtime(b, op)
    at = [b.round(run.inside(run.position(axis), axis)) for axis in range(len(run.size))]
    return view(b, run.take(at), shape_of(op.outputs[0]))


@rewrite(
    removes="affine_grid",
    yields=("permute", "matmul", "reshape"),
    claim="exact",
    error="8 ulp of the sum of magnitudes",
)
def affine_grid_to_matmul(b: Builder, op: Op) -> Any:
    """affine_grid becomes a product of the constant base grid with theta.

    Formula: grid[n, p] = theta[n] (x_p, y_p, 1), with x and y evenly spaced over -1..1 (align_corners), or over the
    middles of as many pieces of it (torch.nn.functional.affine_grid).
    Example: ``g = affine_grid(theta of 1x2x3, size=(1, 8, 4, 4))`` -> ``g = reshape(matmul(base of 16x3,
    permute(theta, (0, 2, 1))), (1, 4, 4, 2))``.
    Bound: 8 ulp in float32 of the sum of magnitudes (the base grid is rounded, by torch too).
    Does not apply: to integers.
    """
    theta, size = op.operands[0], op.attrs["size"][2:]
    need_float(theta)
    lines = []
    for n in size:
        line = np.linspace(-1, 1, n) if n > 1 else np.zeros(1)
        lines.append(line if op.attrs["align_corners"] else line * ((n - 1) / n))
    points = np.stack([g.ravel() for g in np.meshgrid(*lines, indexing="ij")][::-1], 1)
    base = np.concatenate([points, np.ones((len(points), 1))], 1)
    out = b.matmul(b.const(base, theta.dtype), turned(b, theta, (0, 2, 1)))
    return view(b, out, shape_of(op.outputs[0]))
