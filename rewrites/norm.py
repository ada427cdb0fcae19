# SPDX-License-Identifier: Apache-2.0
"""Normalizations: batch, layer, group, instance, root mean square, local response."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from porter.ops import Array, Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import cast, data, need, need_float, per_channel, shape_of, view

_ROUNDING = "2e-05 absolute 2e-05 relative"


def scale_and_shift(op: Op) -> tuple[Array, Array]:
    """The factor and the offset of each channel that a batch_norm with constant statistics is, in float64."""
    _, weight, bias, mean, var = op.inputs
    deviation = np.sqrt(data(var, "variance").astype(np.float64) + op.attrs["eps"])
    factor = (1.0 if weight is None else data(weight, "weight").astype(np.float64)) / deviation
    offset = 0.0 if bias is None else data(bias, "bias").astype(np.float64)
    return factor, offset - data(mean, "mean").astype(np.float64) * factor


@rewrite(removes="batch_norm", yields=("mul", "add"), claim="bounded", error="2e-06 of |x factor| + |offset|")
def batch_norm_to_mul_add(b: Builder, op: Op) -> Any:
    """batch_norm with constant statistics becomes x * factor + offset.

    Formula: factor = weight / sqrt(var + eps), offset = bias - mean * factor, computed now in float64 (Ioffe
    and Szegedy, arXiv:1502.03167).
    Example: ``y = batch_norm(x, w, bias, mean, var)`` with x of 1x64x80x80 -> ``y = add(mul(x, factor of
    1x64x1x1), offset)``.
    Bound: 2e-06 of |x factor| + |offset| in float32.
    Does not apply: when a parameter is computed at run time.
    """
    x = op.operands[0]
    need_float(x)
    factor, offset = scale_and_shift(op)
    rank = len(shape_of(x))
    scaled = b.mul(x, per_channel(b, b.const(factor, x.dtype), rank))
    return b.add(scaled, per_channel(b, b.const(offset, x.dtype), rank))


@rewrite(removes="batch_norm", yields="conv2d", claim="bounded", error="2e-06 of |x factor| + |offset|")
def batch_norm_to_conv(b: Builder, op: Op) -> Any:
    """batch_norm of an image becomes a depthwise 1x1 convolution.

    Formula: factor and offset of each channel are a 1x1 kernel and a bias.
    Example: ``y = batch_norm(x of 1x64x80x80, ...)`` -> ``y = conv2d(x, factor of 64x1x1x1, offset,
    groups=64)``.
    Bound: 2e-06 of |x factor| + |offset| in float32.
    Does not apply: when a parameter is computed at run time, or x is not (N, C, H, W).
    """
    x = op.operands[0]
    need_float(x)
    need(len(shape_of(x)) == 4, f"{x.name} is not (N, C, H, W)")
    factor, offset = scale_and_shift(op)
    weight, bias = b.const(factor.reshape(-1, 1, 1, 1), x.dtype), b.const(offset, x.dtype)
    return b.conv2d(x, weight, bias, stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=shape_of(x)[1])


@rewrite(removes="batch_norm", yields=("reshape", "batch_norm"), claim="exact")
def batch_norm_to_rank4(b: Builder, op: Op) -> Any:
    """batch_norm of another rank becomes one of an image, between reshapes.

    Formula: (N, C) is (N, C, 1, 1), (N, C, L) is (N, C, L, 1), (N, C, D, H, W) is (N, C, D * H, W): the
    channels stay where they are.
    Example: ``y = batch_norm(x of 16x128, ...)`` -> ``y = reshape(batch_norm(reshape(x, 16x128x1x1), ...),
    16x128)``.
    Bound: bit-equal.
    Does not apply: when x has four axes already, or one of unknown length.
    """
    x, *parameters = op.inputs
    assert x is not None
    shape = shape_of(x)
    need(len(shape) != 4, f"{x.name} has four axes already")
    places = (*shape[2:], 1, 1)[:2] if len(shape) < 4 else (prod(shape[2:-1]), shape[-1])
    image = view(b, x, (*shape[:2], *places))
    return view(b, b.batch_norm(image, *parameters, eps=op.attrs["eps"]), shape)


def _wide(b: Builder, x: Value) -> Value:
    """``x`` in a dtype whose squares and whose eps are numbers: of float16 squares end at 255, and eps may be 0."""
    return cast(b, x, "float32") if x.dtype == "float16" else x


def _centred(b: Builder, x: Value, axes: Sequence[int], eps: float) -> Value:
    """(x - mean) / sqrt(var + eps) over axes."""
    wide = _wide(b, x)
    d = b.sub(wide, b.mean(wide, axes=tuple(axes), keepdim=True))
    var = b.mean(b.mul(d, d), axes=tuple(axes), keepdim=True)
    return cast(b, b.div(d, b.sqrt(b.add(var, eps))), x.dtype)


def _affine(b: Builder, y: Value, weight: Value | None, bias: Value | None) -> Any:
    if weight is not None:
        y = b.mul(y, weight)
    return y if bias is None else b.add(y, bias)


@rewrite(
    removes="layer_norm",
    yields=("mean", "sub", "mul", "add", "sqrt", "div", "cast"),
    claim="bounded",
    error=_ROUNDING,
)
def layer_norm_to_mean(b: Builder, op: Op) -> Any:
    """layer_norm becomes (x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias.

    Formula: Ba et al., arXiv:1607.06450, over the trailing axes.
    Example: ``y = layer_norm(x, w, bias, axes=(2,))`` -> ``d = sub(x, mean(x)); y = add(mul(div(d,
    sqrt(add(mean(mul(d, d)), eps))), w), bias)``.
    Bound: 2e-05 absolute plus 2e-05 relative in float32 (times |weight|) where the mean is not large beside
    the deviation. Half precision is computed in float32.
    Does not apply: to integers.
    """
    _, weight, bias = op.inputs
    need_float(op.operands[0])
    return _affine(b, _centred(b, op.operands[0], op.attrs["axes"], op.attrs["eps"]), weight, bias)


@rewrite(
    removes=("group_norm", "instance_norm"),
    yields=("reshape", "mean", "sub", "mul", "add", "sqrt", "div", "cast"),
    claim="bounded",
    error=_ROUNDING,
)
def group_norm_to_mean(b: Builder, op: Op) -> Any:
    """group_norm (and instance_norm, one channel to a group) becomes means over each group.

    Formula: Wu and He, arXiv:1803.08494: each group of channels of each image is centred and scaled, then
    weight and bias of each channel.
    Example: ``y = group_norm(x of 1x8x4x4, groups=2)`` -> layer normalization of reshape(x, (1, 2, 64)),
    reshaped back.
    Bound: 2e-05 absolute plus 2e-05 relative in float32 (times |weight|) where the mean is not large beside
    the deviation. Half precision is computed in float32.
    Does not apply: when the shape is unknown, or to integers.
    """
    x, weight, bias = op.operands[0], op.inputs[1], op.inputs[2]
    need_float(x)
    shape = shape_of(x)
    groups = shape[1] if op.kind == "instance_norm" else op.attrs["groups"]
    rows = view(b, x, (shape[0], groups, prod(shape[1:]) // groups))
    y = view(b, _centred(b, rows, (2,), op.attrs["eps"]), shape)
    params = [None if p is None else per_channel(b, p, len(shape)) for p in (weight, bias)]
    return _affine(b, y, *params)


@rewrite(removes="instance_norm", yields="group_norm", claim="bounded", error=_ROUNDING)
def instance_norm_to_group_norm(b: Builder, op: Op) -> Any:
    """instance_norm becomes group_norm with one channel to a group.

    Formula: the definitions.
    Example: ``y = instance_norm(x of 1x8x4x4)`` -> ``y = group_norm(x, groups=8)``.
    Bound: 2e-05 absolute plus 2e-05 relative in float32 (another kernel) where the mean is not large beside the
    deviation.
    Does not apply: when the shape is unknown.
    """
    channels = shape_of(op.operands[0])[1]
    return b.group_norm(*op.inputs, groups=channels, eps=op.attrs["eps"])


@rewrite(removes="group_norm", yields=("reshape", "instance_norm", "mul", "add"), claim="bounded", error=_ROUNDING)
def group_norm_to_instance_norm(b: Builder, op: Op) -> Any:
    """group_norm becomes instance_norm of a tensor whose channels are the groups, then weight and bias.

    Formula: a group, seen as one channel, is normalized over all its elements.
    Example: ``y = group_norm(x of 1x8x4x4, groups=2)`` -> ``y = reshape(instance_norm(reshape(x, (1, 2, 16,
    4))), x.shape)``.
    Bound: 2e-05 absolute plus 2e-05 relative in float32 (times |weight|) where the mean is not large beside
    the deviation.
    Does not apply: when the shape is unknown.
    """
    x, weight, bias = op.operands[0], op.inputs[1], op.inputs[2]
    shape, groups = shape_of(x), op.attrs["groups"]
    need(len(shape) > 2, "there is no spatial axis")
    rows = view(b, x, (shape[0], groups, shape[1] // groups * shape[2], *shape[3:]))
    y = view(b, b.instance_norm(rows, None, None, eps=op.attrs["eps"]), shape)
    params = [None if p is None else per_channel(b, p, len(shape)) for p in (weight, bias)]
    return _affine(b, y, *params)


@rewrite(removes="rms_norm", yields=("mul", "mean", "add", "sqrt", "div", "cast"), claim="bounded", error=_ROUNDING)
def rms_norm_to_mean(b: Builder, op: Op) -> Any:
    """rms_norm becomes x / sqrt(mean(x^2) + eps) * weight.

    Formula: Zhang and Sennrich, arXiv:1910.07467, over the trailing axes.
    Example: ``y = rms_norm(x, w, axes=(2,))`` -> ``y = mul(div(x, sqrt(add(mean(mul(x, x)), eps))), w)``.
    Bound: 2e-05 absolute plus 2e-05 relative in float32 (times |weight|). Half precision is computed in float32.
    Does not apply: to integers.
    """
    x, weight = op.operands[0], op.inputs[1]
    need_float(x)
    wide = _wide(b, x)
    var = b.mean(b.mul(wide, wide), axes=op.attrs["axes"], keepdim=True)
    return _affine(b, cast(b, b.div(wide, b.sqrt(b.add(var, op.attrs["eps"]))), x.dtype), weight, None)


@rewrite(
    removes="local_response_norm",
    yields=("mul", "pad", "slice", "add", "pow", "div"),
    claim="bounded",
    error=_ROUNDING,
)
def local_response_norm_to_sum(b: Builder, op: Op) -> Any:
    """local_response_norm becomes a sum of shifted squares, a power and a quotient.

    Formula: x_c / (k + alpha / size * sum of x^2 over channels c - size / 2 .. c + (size - 1) / 2)^beta
    (torch.nn.LocalResponseNorm; Krizhevsky et al. 2012, section 3.3).
    Example: ``y = local_response_norm(x, size=2)`` -> ``s = pad(mul(x, x), channels (1, 0)); y = div(x,
    pow(add(mul(add(slices), alpha / 2), k), beta))``.
    Bound: 2e-05 absolute plus 2e-05 relative in float32.
    Does not apply: to a size above 16.
    """
    x, a = op.operands[0], op.attrs
    need_float(x)
    size, shape = a["size"], shape_of(x)
    need(size <= 16, f"size {size} is above 16")
    lead = size // 2
    padding = tuple((lead, size - 1 - lead) if d == 1 else (0, 0) for d in range(len(shape)))
    squares = b.pad(b.mul(x, x), padding=padding, mode="constant", value=0.0)
    total = None
    for i in range(size):
        part = b.slice(squares, axes=(1,), starts=(i,), ends=(i + shape[1],), steps=(1,))
        total = part if total is None else b.add(total, part)
    return b.div(x, b.pow(b.add(b.mul(total, a["alpha"] / size), a["k"]), a["beta"]))
