# SPDX-License-Identifier: Apache-2.0
"""Pixel shuffle, pixel unshuffle and channel shuffle."""

from __future__ import annotations

from typing import Any

import numpy as np

from porter.ops import Op
from porter.rewrite import Builder, rewrite

from ._tools import need, need_float, need_small, shape_of, turned, view


@rewrite(removes="channel_shuffle", yields=("reshape", "permute"), claim="exact")
def channel_shuffle_to_permute(b: Builder, op: Op) -> Any:
    """channel_shuffle becomes reshape, permute, reshape, on four axes.

    Formula: channels (groups, C / groups) are transposed (Zhang et al., arXiv:1707.01083); the spatial axes
    count as one.
    Example: ``y = channel_shuffle(x, groups=2)`` with x of 1x8x4x4 -> ``y = reshape(permute(reshape(x, (1, 2,
    4, 16)), (0, 2, 1, 3)), (1, 8, 4, 4))``.
    Bound: bit-equal.
    Does not apply: when the shape is unknown.
    """
    x, groups = op.operands[0], op.attrs["groups"]
    shape = shape_of(x)
    split = view(b, x, (shape[0], groups, shape[1] // groups, int(np.prod(shape[2:]))))
    return view(b, turned(b, split, (0, 2, 1, 3)), shape)


@rewrite(removes="pixel_shuffle", yields=("reshape", "permute"), claim="exact")
def pixel_shuffle_to_permute(b: Builder, op: Op) -> Any:
    """pixel_shuffle becomes reshape, permute, reshape.

    Formula: y[n, c, h r + i, w r + j] = x[n, c r^2 + i r + j, h, w] (mode CRD, torch.nn.PixelShuffle) or x[n,
    (i r + j) C + c, h, w] (mode DCR, ONNX DepthToSpace).
    Example: ``y = pixel_shuffle(x, factor=2)`` with x of 1x12x4x4 -> a permute of (1, 3, 2, 2, 4, 4) to
    1x3x8x8.
    Bound: bit-equal.
    Does not apply: when the shape is unknown.
    """
    x, r = op.operands[0], op.attrs["factor"]
    *lead, c, h, w = shape_of(x)
    k = len(lead)
    base = tuple(range(k))
    if op.attrs["mode"] == "CRD":
        split = view(b, x, (*lead, c // (r * r), r, r, h, w))
        dims = (*base, k, k + 3, k + 1, k + 4, k + 2)
    else:
        split = view(b, x, (*lead, r, r, c // (r * r), h, w))
        dims = (*base, k + 2, k + 3, k, k + 4, k + 1)
    return view(b, turned(b, split, dims), shape_of(op.outputs[0]))


@rewrite(removes="pixel_unshuffle", yields=("reshape", "permute"), claim="exact")
def pixel_unshuffle_to_permute(b: Builder, op: Op) -> Any:
    """pixel_unshuffle becomes reshape, permute, reshape.

    Formula: y[n, c r^2 + i r + j, h, w] = x[n, c, h r + i, w r + j] (mode CRD, torch.nn.PixelUnshuffle) or
    y[n, (i r + j) C + c, h, w] (mode DCR, ONNX SpaceToDepth).
    Example: ``y = pixel_unshuffle(x, factor=2)`` with x of 1x3x8x8 -> a permute of (1, 3, 4, 2, 4, 2) to
    1x12x4x4.
    Bound: bit-equal.
    Does not apply: when the shape is unknown.
    """
    x, r = op.operands[0], op.attrs["factor"]
    *lead, c, h, w = shape_of(x)
    k = len(lead)
    base = tuple(range(k))
    split = view(b, x, (*lead, c, h // r, r, w // r, r))
    if op.attrs["mode"] == "CRD":
        dims = (*base, k, k + 2, k + 4, k + 1, k + 3)
    else:
        dims = (*base, k + 2, k + 4, k, k + 1, k + 3)
    return view(b, turned(b, split, dims), shape_of(op.outputs[0]))


def _phase(mode: str, c: int, i: int, j: int, r: int, channels: int) -> int:
    """The channel, on the deep side, of phase (i, j) of channel c of the shallow side."""
    return c * r * r + i * r + j if mode == "CRD" else (i * r + j) * channels + c


@rewrite(removes="pixel_unshuffle", yields="conv2d", claim="bounded", error="bit-equal for finite operands")
def pixel_unshuffle_to_conv(b: Builder, op: Op) -> Any:
    """pixel_unshuffle becomes a convolution of stride r with a constant kernel of 0 and 1.

    Formula: each output channel picks one phase (i, j) of one input channel.
    Example: ``y = pixel_unshuffle(x, factor=2)`` with 3 channels -> ``y = conv2d(x, w of 12x3x2x2, stride=(2,
    2))``.
    Bound: bit-equal for a finite x in float32 arithmetic (sums of one value and zeros); an infinity or NaN
    spreads to the other phases, and reduced-precision kernels round the input.
    Does not apply: to integers, a tensor without a batch axis, or a weight of more than 16777216 elements.
    """
    x, r, mode = op.operands[0], op.attrs["factor"], op.attrs["mode"]
    need_float(x)
    need(len(shape_of(x)) == 4, f"{x.name} is not (N, C, H, W)")
    c = shape_of(x)[1]
    need_small((c * r * r) ** 2, "a weight")
    weight = np.zeros((c * r * r, c, r, r))
    for k in range(c):
        for i in range(r):
            for j in range(r):
                weight[_phase(mode, k, i, j, r, c), k, i, j] = 1
    return b.conv2d(
        x, b.const(weight, x.dtype), None, stride=(r, r), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1
    )


@rewrite(removes="pixel_shuffle", yields="conv_transpose2d", claim="bounded", error="bit-equal for finite operands")
def pixel_shuffle_to_conv_transpose(b: Builder, op: Op) -> Any:
    """pixel_shuffle becomes a transposed convolution of stride r with a constant kernel of 0 and 1.

    Formula: each input channel is put at one phase (i, j) of one output channel.
    Example: ``y = pixel_shuffle(x, factor=2)`` with 12 channels -> ``y = conv_transpose2d(x, w of 12x3x2x2,
    stride=(2, 2))``.
    Bound: bit-equal for a finite x in float32 arithmetic; an infinity or NaN spreads to the other phases, and
    reduced-precision kernels round the input.
    Does not apply: to integers, a tensor without a batch axis, or a weight of more than 16777216 elements.
    """
    x, r, mode = op.operands[0], op.attrs["factor"], op.attrs["mode"]
    need_float(x)
    need(len(shape_of(x)) == 4, f"{x.name} is not (N, C, H, W)")
    deep = shape_of(x)[1]
    c = deep // (r * r)
    need_small(deep**2, "a weight")
    weight = np.zeros((deep, c, r, r))
    for k in range(c):
        for i in range(r):
            for j in range(r):
                weight[_phase(mode, k, i, j, r, c), k, i, j] = 1
    return b.conv_transpose2d(
        x,
        b.const(weight, x.dtype),
        None,
        stride=(r, r),
        padding=((0, 0), (0, 0)),
        dilation=(1, 1),
        groups=1,
        output_padding=(0, 0),
    )
