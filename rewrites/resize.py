# SPDX-License-Identifier: Apache-2.0
"""Resampling through copies, constant indices, constant matrices or a transposed convolution."""

from __future__ import annotations

from typing import Any

import numpy as np

from porter.ops import Array, Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import need, need_float, shape_of, spread, view


def _source(op: Op, axis: int) -> Array:
    """The source coordinate of each output position of a spatial axis (ONNX Resize, coordinate transformation)."""
    n, m = shape_of(op.operands[0])[axis + 2], op.attrs["sizes"][axis]
    scales = op.attrs["scales"]
    scale = float(scales[axis]) if scales is not None else m / n
    at = np.arange(m, dtype=np.float64)
    mode = op.attrs["coordinates"]
    if mode == "asymmetric":
        return at / scale
    if mode == "align_corners":
        return at * ((n - 1) / (m - 1)) if m > 1 else at * 0.0
    need(mode in ("half_pixel", "pytorch_half_pixel"), f"the coordinates are {mode}")
    return (at + 0.5) / scale - 0.5 if m > 1 or mode == "half_pixel" else at * 0.0


def _nearest(op: Op, axis: int) -> Array:
    """The source index of each output position of a nearest resize."""
    need(op.attrs["mode"] == "nearest", f"the mode is {op.attrs['mode']}")
    at, n = _source(op, axis), shape_of(op.operands[0])[axis + 2]
    rounding = op.attrs["nearest_mode"]
    if rounding == "floor":
        index = np.floor(at)
    elif rounding == "ceil":
        index = np.ceil(at)
    elif rounding == "round_prefer_floor":
        index = np.ceil(at - 0.5)
    else:
        need(rounding == "round_prefer_ceil", f"the rounding is {rounding}")
        index = np.floor(at + 0.5)
    return np.clip(index, 0, n - 1).astype(np.int64)


def _factors(op: Op) -> list[int]:
    """The whole factor of each spatial axis of a nearest resize that repeats every element."""
    out = []
    for axis, m in enumerate(op.attrs["sizes"]):
        n = shape_of(op.operands[0])[axis + 2]
        need(m % n == 0, f"{n} to {m} is not a whole factor")
        need(
            (_nearest(op, axis) == np.arange(m) // (m // n)).all(),
            f"the rounding of axis {axis + 2} shifts the copies",
        )
        out.append(m // n)
    return out


@rewrite(removes="resize", yields=("reshape", "expand"), claim="exact")
def resize_nearest_to_expand(b: Builder, op: Op) -> Any:
    """Nearest resizing by a whole factor becomes reshape, expand, reshape along each axis.

    Formula: every element is repeated r times: (…, n, …) -> (…, n, 1, …) -> (…, n, r, …) -> (…, n r, …). The
    axes before and after count as one, so that no tensor has more than 4 axes.
    Example: ``y = resize(x, nearest, sizes=(80, 80))`` with x of 1x256x40x40 -> ``reshape(expand(reshape(x,
    (1, 10240, 40, 1)), (1, 10240, 40, 2)), (1, 256, 40, 80))`` and the same for the rows.
    Bound: bit-equal.
    Does not apply: to other modes, factors that are not whole, or a rounding that shifts the copies.
    """
    x = op.operands[0]
    for axis, r in enumerate(_factors(op)):
        if r == 1:
            continue
        shape = shape_of(x)
        d = axis + 2
        before, after = int(np.prod(shape[1:d])), int(np.prod(shape[d + 1 :]))
        seen = (shape[0], before * shape[d], 1, after)
        wide = spread(b, view(b, x, seen), (shape[0], before * shape[d], r, after))
        x = view(b, wide, (*shape[:d], shape[d] * r, *shape[d + 1 :]))
    return x


@rewrite(removes="resize", yields="conv_transpose2d", claim="bounded", error="bit-equal for finite operands")
def resize_nearest_to_conv_transpose(b: Builder, op: Op) -> Any:
    """Nearest resizing of an image by whole factors becomes a depthwise transposed convolution of ones.

    Formula: with kernel = stride = r and weight 1, each element fills its r x r block.
    Example: ``y = resize(x, nearest, sizes=(80, 80))`` with x of 1x256x40x40 -> ``y = conv_transpose2d(x,
    ones(256, 1, 2, 2), stride=(2, 2), groups=256)``.
    Bound: bit-equal for a finite x in float32 arithmetic; reduced-precision kernels round the input.
    Does not apply: to other modes, factors that are not whole, a rounding that shifts the copies, or one or
    three axes.
    """
    x = op.operands[0]
    need_float(x)
    need(len(shape_of(x)) == 4, f"{x.name} is not (N, C, H, W)")
    factors, c = tuple(_factors(op)), shape_of(x)[1]
    return b.conv_transpose2d(
        x,
        b.const(np.ones((c, 1, *factors)), x.dtype),
        None,
        stride=factors,
        padding=((0, 0), (0, 0)),
        dilation=(1, 1),
        groups=c,
        output_padding=(0, 0),
    )


@rewrite(removes="resize", yields="take", claim="exact")
def resize_nearest_to_take(b: Builder, op: Op) -> Any:
    """Nearest resizing becomes take with a constant index along each axis.

    Formula: output i is the element at round(coordinate(i)) (ONNX Resize; torch's nearest is asymmetric and
    floor).
    Example: ``y = resize(x, nearest, sizes=(13, 13))`` with x of 1x8x10x10 -> ``y = take(take(x, i, axis=2),
    i, axis=3)``.
    Bound: bit-equal.
    Does not apply: to other modes or roundings.
    """
    x = op.operands[0]
    for axis, m in enumerate(op.attrs["sizes"]):
        index = _nearest(op, axis)
        if m != shape_of(op.operands[0])[axis + 2] or (index != np.arange(m)).any():
            x = b.take(x, b.const(index), axis=axis + 2)
    return x


def _linear(op: Op, axis: int) -> Array:
    """The (m, n) matrix of linear interpolation along a spatial axis."""
    n = shape_of(op.operands[0])[axis + 2]
    at = np.clip(_source(op, axis), 0, n - 1)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, n - 1)
    matrix = np.zeros((len(at), n))
    rows = np.arange(len(at))
    np.add.at(matrix, (rows, low), 1 - (at - low))
    np.add.at(matrix, (rows, high), at - low)
    return matrix


def _by_matrices(b: Builder, op: Op, matrices: list[Array]) -> Value:
    """A matrix product along each spatial axis that changes, on tensors of at most 4 axes."""
    x = op.operands[0]
    n, c, *size = shape_of(x)
    need(len(size) in (1, 2, 3), f"{len(size)} spatial axes are not 1 to 3")
    plain = [a.shape[0] == a.shape[1] and bool((a == np.eye(len(a))).all()) for a in matrices]
    if len(size) == 3:
        if not plain[0]:
            x = b.matmul(b.const(matrices[0], x.dtype), view(b, x, (n, c, size[0], size[1] * size[2])))
        x = view(b, x, (n, c * len(matrices[0]), *size[1:]))
    if len(size) > 1 and not plain[-2]:
        x = b.matmul(b.const(matrices[-2], x.dtype), x)
    if not plain[-1]:
        x = b.matmul(x, b.const(np.ascontiguousarray(matrices[-1].T), x.dtype))
    return view(b, x, shape_of(op.outputs[0]))


@rewrite(
    removes="resize",
    yields=("matmul", "reshape"),
    claim="bounded",
    error="1e-05 of the largest |x|",
)
def resize_linear_to_matmul(b: Builder, op: Op) -> Any:
    """Linear resizing becomes a product with a constant matrix along each axis.

    Formula: interpolation is linear and separable: y = A_h x A_w^T, two non-zero weights in each row of A.
    Example: ``y = resize(x, linear, sizes=(64, 64))`` with x of 1x8x32x32 -> ``y = matmul(matmul(A_h of
    64x32, x), A_w of 32x64)``.
    Bound: 1e-05 of the largest |x| in float32 (coordinates are rounded, by torch too). A device that
    quantizes matmul loses more.
    Does not apply: to other modes, antialias (resize_antialias_to_matmul), or integers.
    """
    need_float(op.operands[0])
    need(op.attrs["mode"] == "linear", f"the mode is {op.attrs['mode']}")
    need(not op.attrs["antialias"], "antialias widens the kernel")
    return _by_matrices(b, op, [_linear(op, axis) for axis in range(len(op.attrs["sizes"]))])


def _kernel(mode: str, a: float, at: Array) -> Array:
    """The weight of an element at distance ``at``: the triangle, or the cubic convolution of parameter ``a``.

    Source: R. Keys, "Cubic Convolution Interpolation for Digital Image Processing", IEEE ASSP 29(6), 1981.
    """
    x = np.abs(at)
    if mode == "linear":
        return np.asarray(np.maximum(0.0, 1 - x))
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _cubic(op: Op, axis: int) -> Array:
    """The (m, n) matrix of cubic interpolation along a spatial axis; what lies beyond the edge is the edge."""
    n, at = shape_of(op.operands[0])[axis + 2], _source(op, axis)
    matrix = np.zeros((len(at), n))
    for tap in range(-1, 3):
        index = np.floor(at) + tap
        weight = _kernel("cubic", op.attrs["cubic_coeff"], at - index)
        np.add.at(matrix, (np.arange(len(at)), np.clip(index, 0, n - 1).astype(np.int64)), weight)
    return matrix


@rewrite(
    removes="resize",
    yields=("matmul", "reshape"),
    claim="bounded",
    error="1e-06 of the largest |x| times the larger extent",
)
def resize_cubic_to_matmul(b: Builder, op: Op) -> Any:
    """Cubic resizing becomes a product with a constant matrix along each axis.

    Formula: cubic convolution is separable: y = A_h x A_w^T, four non-zero weights in each row of A; what lies
    beyond the edge is the edge, whose weights are added up.
    Example: ``y = resize(x, cubic, sizes=(64, 64))`` with x of 1x8x32x32 -> ``y = matmul(matmul(A_h of 64x32,
    x), A_w of 32x64)``.
    Bound: 1e-06 of the largest |x| times the larger extent, in float32 (coordinates are rounded, by torch too).
    Does not apply: to other modes, antialias (resize_antialias_to_matmul), or integers.
    """
    need_float(op.operands[0])
    need(op.attrs["mode"] == "cubic", f"the mode is {op.attrs['mode']}")
    need(not op.attrs["antialias"], "antialias widens the kernel")
    return _by_matrices(b, op, [_cubic(op, axis) for axis in range(len(op.attrs["sizes"]))])


def _antialiased(op: Op, axis: int) -> Array:
    """The (m, n) matrix of a resize whose kernel is as wide as the step; weights beyond the edge are left out."""
    n, m, scales = shape_of(op.operands[0])[axis + 2], op.attrs["sizes"][axis], op.attrs["scales"]
    step = 1 / float(scales[axis]) if scales is not None else n / m
    center = (np.arange(m)[:, None] + 0.5) * step
    weights = _kernel(op.attrs["mode"], op.attrs["cubic_coeff"], (np.arange(n) + 0.5 - center) / max(step, 1.0))
    return np.asarray(weights / weights.sum(1, keepdims=True))


@rewrite(
    removes="resize",
    yields=("matmul", "reshape"),
    claim="bounded",
    error="1e-06 of the largest |x| times the larger extent",
)
def resize_antialias_to_matmul(b: Builder, op: Op) -> Any:
    """Linear or cubic resizing with antialias becomes a product with a constant matrix along each axis.

    Formula: y = A_h x A_w^T; row i of A is the kernel around (i + 0.5) step, as wide as the step where that is above
    1, without what lies beyond the edge, divided by its sum (torch.nn.functional.interpolate, ONNX Resize).
    Example: ``y = resize(x, linear, antialias, sizes=(16, 16))`` with x of 1x8x32x32 -> ``y = matmul(matmul(A_h
    of 16x32, x), A_w of 32x16)``.
    Bound: 1e-06 of the largest |x| times the larger extent, in float32 (weights are rounded, by torch too).
    Does not apply: without antialias, to coordinates other than half_pixel, or to integers.
    """
    need_float(op.operands[0])
    need(op.attrs["antialias"], "there is no antialias")
    need(op.attrs["mode"] in ("linear", "cubic"), f"the mode is {op.attrs['mode']}")
    need("half_pixel" in op.attrs["coordinates"], f"the coordinates are {op.attrs['coordinates']}")
    return _by_matrices(b, op, [_antialiased(op, axis) for axis in range(len(op.attrs["sizes"]))])


@rewrite(
    removes="resize",
    yields=("matmul", "reshape"),
    claim="bounded",
    error="bit-equal for finite operands",
)
def resize_nearest_to_matmul(b: Builder, op: Op) -> Any:
    """Nearest resizing becomes a product with a constant matrix of 0 and 1 along each axis.

    Formula: row i of A has its 1 at the source of position i; y = A_h x A_w^T.
    Example: ``y = resize(x, nearest, sizes=(13, 13))`` with x of 1x8x10x10 -> ``y = matmul(matmul(A_h of 13x10,
    x), A_w of 10x13)``.
    Bound: bit-equal for a finite x in float32 arithmetic; the sign of a zero may differ.
    Does not apply: to other modes or roundings, or integers.
    """
    x = op.operands[0]
    need_float(x)
    size = shape_of(x)[2:]
    return _by_matrices(b, op, [np.eye(n)[_nearest(op, axis)] for axis, n in enumerate(size)])
