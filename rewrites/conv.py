# SPDX-License-Identifier: Apache-2.0
"""Convolutions with attributes that a device lacks: padding, dilation, groups, one axis."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from porter.ops import Array, Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import cut, data, dims_of, join, need, need_small, shape_of, view

_CONVS = ("conv1d", "conv2d", "conv3d")
_MOST_GROUPS = 64


def _pad(b: Builder, x: Value, padding: list[tuple[int, int]]) -> Value:
    if not any(n for pair in padding for n in pair):
        return x
    out: Value = b.pad(x, padding=((0, 0), (0, 0), *padding), mode="constant", value=0.0)
    return out


@rewrite(removes=_CONVS, yields=("pad", *_CONVS), claim="exact", error="4 ulp of the sum of magnitudes")
def conv_padding_to_pad(b: Builder, op: Op) -> Any:
    """The padding of a convolution becomes a pad of zeros before it.

    Formula: a convolution pads with zeros.
    Example: ``y = conv2d(x, w, padding=((1, 1), (1, 1)), dilation=(2, 2))`` -> ``y = conv2d(pad(x, ((0, 0),
    (0, 0), (1, 1), (1, 1))), w, padding 0)``. Some devices want padding 0 with a dilation.
    Bound: 4 ulp in float32 of the sum of magnitudes (a kernel may add in another order); the products are the
    same.
    Does not apply: when there is no padding.
    """
    _, weight, bias = op.inputs
    padding = [(int(p), int(q)) for p, q in op.attrs["padding"]]
    need(any(n for pair in padding for n in pair), "there is no padding")
    attrs = {**op.attrs, "padding": ((0, 0),) * len(padding)}
    return b.op(op.kind, (_pad(b, op.operands[0], padding), weight, bias), **attrs)


@rewrite(removes=_CONVS, yields=("pad", *_CONVS), claim="exact", error="4 ulp of the sum of magnitudes")
def conv_asymmetric_padding_to_pad(b: Builder, op: Op) -> Any:
    """Padding that differs at the two ends becomes symmetric padding and a pad of the difference.

    Formula: a convolution pads with zeros.
    Example: ``y = conv2d(x, w, padding=((0, 1), (0, 1)))`` ->
    ``y = conv2d(pad(x, ((0, 0), (0, 0), (0, 1), (0, 1))), w, padding=((0, 0), (0, 0)))``.
    Bound: 4 ulp in float32 of the sum of magnitudes; the products are the same.
    Does not apply: when the padding is symmetric.
    """
    _, weight, bias = op.inputs
    padding = [(int(p), int(q)) for p, q in op.attrs["padding"]]
    need(any(p != q for p, q in padding), "the padding is symmetric")
    common = [min(pair) for pair in padding]
    more = [(p - n, q - n) for (p, q), n in zip(padding, common, strict=True)]
    attrs = {**op.attrs, "padding": tuple((n, n) for n in common)}
    return b.op(op.kind, (_pad(b, op.operands[0], more), weight, bias), **attrs)


@rewrite(removes=_CONVS, yields=_CONVS, claim="bounded", error="4 ulp of the sum of magnitudes")
def conv_dilation_to_dense(b: Builder, op: Op) -> Any:
    """A dilated convolution becomes one with a larger kernel that has zeros between the taps.

    Formula: dilation d spaces the taps of the kernel d apart; the elements between count 0.
    Example: ``y = conv2d(x, w of 3x3, dilation=(2, 2))`` -> ``y = conv2d(x, w' of 5x5, dilation=(1, 1))``.
    Bound: 4 ulp in float32 of the sum of magnitudes, for finite x (0 * inf is NaN). Costs (d k)^2 / k^2 times
    the multiplications.
    Does not apply: when no dilation is above 1, to weights computed at run time, or of more than 16777216 elements
    with the zeros.
    """
    x, weight, bias = op.inputs
    dilation = op.attrs["dilation"]
    need(any(d > 1 for d in dilation), "there is no dilation")
    old = data(weight, "weight")
    shape = (*old.shape[:2], *(d * (k - 1) + 1 for d, k in zip(dilation, old.shape[2:], strict=True)))
    need_small(prod(shape), "a weight")
    dense = np.zeros(shape, old.dtype)
    dense[(slice(None), slice(None), *(slice(None, None, d) for d in dilation))] = old
    return b.op(op.kind, (x, b.const(dense), bias), **{**op.attrs, "dilation": (1,) * len(dilation)})


def _group_parts(b: Builder, value: Value | None, groups: int) -> list[Value | None]:
    if value is None:
        return [None] * groups
    n = shape_of(value)[0] // groups
    return [cut(b, value, 0, g * n, (g + 1) * n) for g in range(groups)]


@rewrite(
    removes=(*_CONVS, "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    yields=("slice", "cat", *_CONVS, "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    claim="exact",
    error="4 ulp of the sum of magnitudes",
)
def conv_groups_to_convs(b: Builder, op: Op) -> Any:
    """A grouped convolution becomes one convolution for each group, joined.

    Formula: group g reads its share of the input channels and gives its share of the output channels.
    Example: ``y = conv2d(x, w, groups=2)`` -> ``y = cat(conv2d(slice(x, 0:c), w0), conv2d(slice(x, c:2c),
    w1), axis=1)``.
    Bound: 4 ulp in float32 of the sum of magnitudes (a kernel may add in another order).
    Does not apply: to one group or more than 64.
    """
    x, groups = op.operands[0], op.attrs["groups"]
    need(groups > 1, "there is one group")
    need(groups <= _MOST_GROUPS, f"{groups} groups are more than {_MOST_GROUPS}")
    n = shape_of(x)[1] // groups
    weights = _group_parts(b, op.inputs[1], groups)
    biases = _group_parts(b, op.inputs[2], groups)
    attrs = {**op.attrs, "groups": 1}
    outs = [b.op(op.kind, (cut(b, x, 1, g * n, (g + 1) * n), weights[g], biases[g]), **attrs)[0] for g in range(groups)]
    return join(b, outs, 1)


def _block_diagonal(old: Array, groups: int) -> Array:
    out_each, in_each = old.shape[0] // groups, old.shape[1]
    dense = np.zeros((old.shape[0], in_each * groups, *old.shape[2:]), old.dtype)
    for g in range(groups):
        rows = slice(g * out_each, (g + 1) * out_each)
        dense[rows, g * in_each : (g + 1) * in_each] = old[rows]
    return dense


@rewrite(removes=_CONVS, yields=_CONVS, claim="bounded", error="4 ulp of the sum of magnitudes")
def conv_groups_to_dense(b: Builder, op: Op) -> Any:
    """A grouped (or depthwise) convolution becomes one with all channels and zeros between the groups.

    Formula: the weights of each group are a block of the diagonal; the others are 0.
    Example: ``y = conv2d(x, w of 64x1x3x3, groups=64)`` -> ``y = conv2d(x, w' of 64x64x3x3, groups=1)``.
    Bound: 4 ulp in float32 of the sum of magnitudes, for finite x (0 * inf is NaN). Costs as many times the
    weights and multiplications as there are groups.
    Does not apply: to one group, to weights computed at run time, or of more than 16777216 elements with the zeros.
    """
    x, weight, bias = op.inputs
    groups = op.attrs["groups"]
    need(groups > 1, "there is one group")
    old = data(weight, "weight")
    need_small(old.size * groups, "a weight")
    dense = b.const(_block_diagonal(old, groups))
    return b.op(op.kind, (x, dense, bias), **{**op.attrs, "groups": 1})


@rewrite(
    removes=("conv1d", "conv_transpose1d"),
    yields=("reshape", "conv2d", "conv_transpose2d"),
    claim="exact",
    error="4 ulp of the sum of magnitudes",
)
def conv1d_to_conv2d(b: Builder, op: Op) -> Any:
    """conv1d becomes conv2d of height 1.

    Formula: a sequence is an image of one row.
    Example: ``y = conv1d(x, w of 8x4x3)`` -> ``y = reshape(conv2d(reshape(x, (N, 4, 1, L)), w of 8x4x1x3),
    (N, 8, L'))``.
    Bound: 4 ulp in float32 of the sum of magnitudes (another kernel may add in another order).
    Does not apply: when the shape is unknown.
    """
    x, weight = op.operands[0], op.operands[1]
    fill = {"stride": 1, "dilation": 1, "padding": (0, 0), "output_padding": 0}
    attrs = {k: (fill[k], *v) if k in fill else v for k, v in op.attrs.items()}
    shape, taps = shape_of(x), shape_of(weight)
    image = view(b, x, (*shape[:2], 1, shape[2]))
    kernel = view(b, weight, (*taps[:2], 1, taps[2]))
    out = b.op(op.kind.replace("1d", "2d"), (image, kernel, op.inputs[2]), **attrs)[0]
    return view(b, out, shape_of(op.outputs[0]))


@rewrite(
    removes=_CONVS,
    yields=("reshape", "permute", "matmul", "add"),
    claim="exact",
    error="4 ulp of the sum of magnitudes",
)
def conv_1x1_to_matmul(b: Builder, op: Op) -> Any:
    """A convolution of kernel 1, stride 1 and no padding becomes a matrix product over the channels.

    Formula: y[n, :, p] = W x[n, :, p] + bias at every position p.
    Example: ``y = conv2d(x, w of 8x4x1x1)`` -> ``y = reshape(matmul(reshape(w, (8, 4)), reshape(x, (N, 4,
    HW))), (N, 8, H, W))``.
    Bound: 4 ulp in float32 of the sum of magnitudes (another kernel may add in another order).
    Does not apply: to a larger kernel, a stride, padding or groups.
    """
    x, weight = op.operands[0], op.operands[1]
    a, shape, taps = op.attrs, shape_of(op.operands[0]), shape_of(op.operands[1])
    need(prod(taps[2:]) == 1, f"the kernel is {'x'.join(map(str, taps[2:]))}")
    need(
        set(a["stride"]) == {1} and a["groups"] == 1,
        f"the stride is {a['stride']} and there are {a['groups']} groups",
    )
    need(not any(n for pair in a["padding"] for n in pair), "there is padding")
    out = b.matmul(view(b, weight, taps[:2]), view(b, x, (*shape[:2], prod(shape[2:]))))
    bias = op.inputs[2]
    if bias is not None:
        out = b.add(out, view(b, bias, (taps[0], 1)))
    return view(b, out, shape_of(op.outputs[0]))


@rewrite(
    removes="conv_transpose2d",
    yields=("conv2d", "pixel_shuffle"),
    claim="exact",
    error="4 ulp of the sum of magnitudes",
)
def conv_transpose_to_pixel_shuffle(b: Builder, op: Op) -> Any:
    """A transposed convolution whose kernel is its stride becomes a 1x1 convolution and a pixel shuffle.

    Formula: with kernel = stride = r the windows do not overlap: output phase (i, j) is a 1x1 convolution by
    w[:, :, i, j].
    Example: ``y = conv_transpose2d(x, w of 8x4x2x2, stride=(2, 2))`` -> ``y = pixel_shuffle(conv2d(x, w' of
    16x8x1x1), factor=2)``.
    Bound: 4 ulp in float32 of the sum of magnitudes (another kernel may add in another order).
    Does not apply: when kernel and stride differ, to padding, output_padding, dilation or groups, or to
    weights computed at run time.
    """
    x, _, bias = op.inputs
    a, old = op.attrs, data(op.inputs[1], "weight")
    r = old.shape[2]
    need(old.shape[2:] == (r, r) and tuple(a["stride"]) == (r, r), "kernel and stride differ")
    need(set(a["dilation"]) == {1} or r == 1, f"the dilation is {tuple(a['dilation'])}")
    need(a["groups"] == 1, f"there are {a['groups']} groups")
    need(not any(n for pair in a["padding"] for n in pair) and not any(a["output_padding"]), "there is padding")
    # (in, out, r, r) -> (out, r, r, in): the channel order of pixel_shuffle in mode CRD.
    kernel = old.transpose(1, 2, 3, 0).reshape(-1, old.shape[0], 1, 1)
    spread = None if bias is None else b.const(np.repeat(data(bias, "bias"), r * r))
    deep = b.conv2d(
        x, b.const(np.ascontiguousarray(kernel)), spread,
        stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1,
    )  # fmt: skip
    return b.pixel_shuffle(deep, factor=r, mode="CRD")


@rewrite(removes="unfold", yields=("conv2d", "reshape"), claim="bounded", error="bit-equal for finite operands")
def unfold_to_conv(b: Builder, op: Op) -> Any:
    """unfold (im2col) becomes a convolution with a constant kernel of 0 and 1.

    Formula: row (c, i, j) of the columns is channel c under tap (i, j) of every window.
    Example: ``y = unfold(x, kernel=(3, 3), ...)`` with 4 channels -> ``y = reshape(conv2d(x, w of 36x4x3x3),
    (N, 36, L))``.
    Bound: bit-equal for a finite x in float32 arithmetic; an infinity or NaN spreads inside its window.
    Does not apply: to a weight of more than 16777216 elements.
    """
    x, a = op.operands[0], op.attrs
    c, (kh, kw) = shape_of(x)[1], a["kernel"]
    need_small((c * kh * kw) ** 2, "a weight")
    weight = np.zeros((c, kh, kw, c, kh, kw))
    for k, i, j in np.ndindex(c, kh, kw):
        weight[k, i, j, k, i, j] = 1
    out = b.conv2d(
        x, b.const(weight.reshape(c * kh * kw, c, kh, kw), x.dtype), None,
        stride=tuple(a["stride"]), padding=tuple((p, p) for p in a["padding"]), dilation=tuple(a["dilation"]), groups=1,
    )  # fmt: skip
    return view(b, out, shape_of(op.outputs[0]))


@rewrite(removes="conv3d", yields=("reshape", "conv2d"), claim="exact", error="4 ulp of the sum of magnitudes")
def conv3d_flat_to_conv2d(b: Builder, op: Op) -> Any:
    """conv3d of kernel 1 along height and width, or of an input of depth 1, becomes conv2d.

    Formula: an input of depth 1 without depth padding is an image; a kernel (k, 1, 1) sees height and width
    as one axis.
    Example: ``y = conv3d(x of N x C x 1 x H x W, w of O x C x 1 x 3 x 3)`` -> ``y = reshape(conv2d(x, w),
    ...)``.
    Bound: 4 ulp in float32 of the sum of magnitudes (another kernel may add in another order).
    Does not apply: to kernels that are larger than 1 along the depth and along another axis.
    """
    x, weight = op.operands[0], op.operands[1]
    a, shape, taps = op.attrs, shape_of(op.operands[0]), shape_of(op.operands[1])
    need(dims_of(op) == 3, "this is not conv3d")
    if shape[2] == 1 and taps[2] == 1 and tuple(a["padding"][0]) == (0, 0):
        image, kernel, spatial = (*shape[:2], *shape[3:]), (*taps[:2], *taps[3:]), slice(1, 3)
        attrs = {**a, **{k: tuple(a[k])[spatial] for k in ("stride", "padding", "dilation")}}
    else:
        plain = taps[3:] == (1, 1) and tuple(a["stride"][1:]) == (1, 1)
        need(plain and not any(n for pair in a["padding"][1:] for n in pair), "the kernel is three-dimensional")
        image, kernel = (*shape[:3], shape[3] * shape[4]), (*taps[:3], 1)
        attrs = {
            **a,
            **{k: (a[k][0], one) for k, one in (("stride", 1), ("padding", (0, 0)), ("dilation", 1))},
        }
    out = b.op("conv2d", (view(b, x, image), view(b, weight, kernel), op.inputs[2]), **attrs)[0]
    return view(b, out, shape_of(op.outputs[0]))
