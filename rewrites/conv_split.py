# SPDX-License-Identifier: Apache-2.0
"""Convolutions that are too large for a device: kernels, strides, multipliers, depth and transposition taken apart."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import numpy as np

from porter.ops import Op, Value
from porter.rewrite import Builder, Rule, rewrite

from ._tools import cut, data, dims_of, need, need_small, shape_of, spread, turned, view

_CONVS = ("conv1d", "conv2d", "conv3d")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_MOST_BLOCKS = 64


def _pad(b: Builder, x: Value, padding: list[tuple[int, int]]) -> Value:
    """``x`` with its spatial axes padded by zeros, or cropped where a number is negative."""
    if not any(n for pair in padding for n in pair):
        return x
    out: Value = b.pad(x, padding=((0, 0), (0, 0), *padding), mode="constant", value=0.0)
    return out


def _plain(n: int) -> dict[str, Any]:
    return {"stride": (1,) * n, "padding": ((0, 0),) * n, "dilation": (1,) * n}


def _is_block(op: Op) -> bool:
    """Whether the convolution is a part of a sum already: then nothing that could have been done before it is tried."""
    return any(name.startswith(("conv_kernel_to_sum", "conv_dilation_to_sum")) for name in op.origin.rules)


def _sum_of_blocks(b: Builder, op: Op, size: int) -> Value:
    """The sum of convolutions with the blocks of at most ``size`` taps along each axis."""
    x, _, bias = op.inputs
    assert x is not None
    n, weight = dims_of(op), data(op.inputs[1], "weight")
    kernel, a, out = weight.shape[2:], op.attrs, shape_of(op.outputs[0])[2:]
    need(not _is_block(op), "it is a part of a larger kernel already")
    blocks = list(product(*(range(0, k, size) for k in kernel)))
    need(len(blocks) <= _MOST_BLOCKS, f"{len(blocks)} blocks of {size} are more than {_MOST_BLOCKS}")
    wide, total = _pad(b, x, [tuple(pair) for pair in a["padding"]]), None
    for start in blocks:
        part = weight[(slice(None), slice(None), *(slice(s, s + size) for s in start))]
        moved = wide
        for d in range(n):
            first = start[d] * a["dilation"][d]
            span = (out[d] - 1) * a["stride"][d] + (part.shape[2 + d] - 1) * a["dilation"][d] + 1
            moved = cut(b, moved, 2 + d, first, first + span)
        dilation = tuple(d if k > 1 else 1 for d, k in zip(a["dilation"], part.shape[2:], strict=True))
        attrs = {**a, "padding": ((0, 0),) * n, "dilation": dilation}
        taps = b.const(np.ascontiguousarray(part))
        made = b.op(op.kind, (moved, taps, bias if total is None else None), **attrs)[0]
        total = made if total is None else b.add(total, made)
    assert total is not None
    return total


@rewrite(
    removes=_CONVS, yields=("pad", "slice", "add", *_CONVS), claim="bounded", error="4e-06 of the sum of magnitudes"
)
def conv_dilation_to_sum(b: Builder, op: Op) -> Any:
    """A dilated convolution becomes a sum of convolutions of kernel 1, one for each tap.

    Formula: y = sum over the taps t of w_t x moved by t d. Unlike a dense kernel with zeros, it multiplies no more.
    Example: ``y = conv2d(x, w of 8x4x3x3, dilation=(12, 12), padding 12)`` -> ``p = pad(x, 12 on each side); y =
    add(conv2d(slice(p), w[:, :, 0:1, 0:1]), conv2d(slice(p), w[:, :, 0:1, 1:2]), ...)``, nine of them.
    Bound: 4e-06 in float32 of the sum of magnitudes (sums are added in another order).
    Does not apply: without a dilation, to more than 64 taps, a part of a larger kernel, or weights computed at run
    time.
    """
    dilated = any(d > 1 and k > 1 for d, k in zip(op.attrs["dilation"], shape_of(op.operands[1])[2:], strict=True))
    need(dilated, "there is no dilation")
    return _sum_of_blocks(b, op, 1)


_SUM_PAGE = """A convolution with a kernel above {size} becomes a sum of convolutions with kernels of at most {size}.

    Formula: the taps are divided into blocks; each block is a convolution of the input moved by its offset.
    Example: ``y = conv2d(x, w of {large}x{large})`` -> ``p = pad(x); y = add(conv2d(slice(p), w[..., :{size}, :{size}])
    , conv2d(slice(p), w[..., :{size}, {size}:]), ...)``.
    Bound: 4e-06 in float32 of the sum of magnitudes (sums are added in another order).
    Does not apply: to kernels of at most {size}, more than 64 blocks, a part of a larger kernel, or weights computed at
    run time.
    """


def _kernel_to_sum_of(size: int) -> Rule:
    """The rule whose blocks are of ``size``: a rule does not know the target, and the planner takes the largest blocks
    that are legal, for they are the fewest."""

    def build(b: Builder, op: Op) -> Any:
        kernel = shape_of(op.operands[1])[2:]
        need(max(kernel) > size, f"the kernel {'x'.join(map(str, kernel))} is not above {size}")
        return _sum_of_blocks(b, op, size)

    build.__name__ = f"conv_kernel_to_sum_of_{size}"
    build.__doc__ = _SUM_PAGE.format(size=size, large=2 * size)
    declare = rewrite(
        removes=_CONVS, yields=("pad", "slice", "add", *_CONVS), claim="bounded", error="4e-06 of the sum of magnitudes"
    )
    return declare(build)


conv_kernel_to_sum_of_31 = _kernel_to_sum_of(31)
conv_kernel_to_sum_of_7 = _kernel_to_sum_of(7)
conv_kernel_to_sum_of_3 = _kernel_to_sum_of(3)


@rewrite(
    removes="conv2d",
    yields=("pad", "pixel_unshuffle", "conv2d"),
    claim="bounded",
    error="4 ulp of the sum of magnitudes",
)
def conv_stride_to_pixel_unshuffle(b: Builder, op: Op) -> Any:
    """A convolution with a stride becomes one of stride 1 after a pixel unshuffle.

    Formula: with stride s, output o reads x[s o + s q + r] w[s q + r]; phase r of x is a channel of the unshuffled
    image, and a kernel of k becomes one of ceil(k / s). The patches of a vision transformer (k = s) become a 1x1
    convolution.
    Example: ``y = conv2d(x of 1x3x224x224, w of 192x3x16x16, stride=(16, 16))`` -> ``y = conv2d(pixel_unshuffle(x,
    factor=16), w' of 192x768x1x1)``.
    Bound: 4 ulp in float32 of the sum of magnitudes, for a finite x where the stride does not divide the kernel.
    Does not apply: to stride 1, strides that differ, a dilation, a part of a larger kernel, or weights computed at run
    time, or of more than 16777216 elements with the zeros.
    """
    x, _, bias = op.inputs
    assert x is not None
    a, old, size = op.attrs, data(op.inputs[1], "weight"), shape_of(op.outputs[0])[2:]
    need(not _is_block(op), "it is a part of a larger kernel")
    s = a["stride"][0]
    need(tuple(a["stride"]) == (s, s) and s > 1, f"the stride is {tuple(a['stride'])}")
    need(set(a["dilation"]) == {1}, f"the dilation is {tuple(a['dilation'])}")
    kernel = [-(-k // s) for k in old.shape[2:]]
    extents = [(o - 1 + k) * s for o, k in zip(size, kernel, strict=True)]
    before = [int(p) for p, _ in a["padding"]]
    padding = [(p, e - p - n) for p, e, n in zip(before, extents, shape_of(x)[2:], strict=True)]
    more = [(0, k * s - had) for k, had in zip(kernel, old.shape[2:], strict=True)]
    need_small(prod(old.shape[:2]) * prod(kernel) * s * s, "a weight")
    filled = np.pad(old, ((0, 0), (0, 0), *more))
    deep = filled.reshape(*old.shape[:2], kernel[0], s, kernel[1], s).transpose(0, 1, 3, 5, 2, 4)
    taps = b.const(np.ascontiguousarray(deep.reshape(old.shape[0], old.shape[1] * s * s, *kernel)))
    image = b.pixel_unshuffle(_pad(b, x, padding), factor=s, mode="CRD")
    return b.conv2d(image, taps, bias, **_plain(2), groups=a["groups"])


# Bounded, not exact, so that the price decides between this rule and conv_stride_to_pixel_unshuffle.
@rewrite(removes=_CONVS, yields=("slice", *_CONVS), claim="bounded", error="4 ulp of the sum of magnitudes")
def conv_stride_to_slice(b: Builder, op: Op) -> Any:
    """A convolution with a stride becomes one of stride 1, of which every so many results are kept.

    Formula: y = conv(x, w, stride 1)[::s] along each axis.
    Example: ``y = conv2d(x, w, stride=(2, 1))`` -> ``y = slice(conv2d(x, w, stride=(1, 1)), axes=(2,), steps=(2,))``.
    Bound: 4 ulp in float32 of the sum of magnitudes. Costs as many times the multiplications as the strides say.
    Does not apply: to stride 1, or a part of a larger kernel.
    """
    stride, out = op.attrs["stride"], shape_of(op.outputs[0])
    axes = [d for d, s in enumerate(stride) if s > 1]
    need(axes, "the stride is 1")
    need(not _is_block(op), "it is a part of a larger kernel")
    full = b.op(op.kind, op.inputs, **{**op.attrs, "stride": (1,) * len(stride)})[0]
    ends = tuple((out[2 + d] - 1) * stride[d] + 1 for d in axes)
    return b.slice(
        full,
        axes=tuple(2 + d for d in axes),
        starts=(0,) * len(axes),
        ends=ends,
        steps=tuple(stride[d] for d in axes),
    )


@rewrite(
    removes=_CONVS,
    yields=("reshape", "expand", *_CONVS),
    claim="exact",
    error="4 ulp of the sum of magnitudes",
)
def conv_multiplier_to_depthwise(b: Builder, op: Op) -> Any:
    """A depthwise convolution that gives m channels for each becomes one that gives one, of channels repeated m times.

    Formula: output channels c m to c m + m - 1 read input channel c.
    Example: ``y = conv2d(x of 1x8x9x9, w of 16x1x3x3, groups=8)`` -> ``y = conv2d(reshape(expand(reshape(x, (1, 8, 1,
    81)), (1, 8, 2, 81)), (1, 16, 9, 9)), w, groups=16)``.
    Bound: 4 ulp in float32 of the sum of magnitudes (a kernel may add in another order).
    Does not apply: where groups and input channels differ, or the outputs are as many as the inputs.
    """
    x, weight, bias = op.inputs
    assert x is not None and weight is not None
    n, c, *size = shape_of(x)
    m = shape_of(weight)[0] // c
    need(op.attrs["groups"] == c, f"{op.attrs['groups']} groups of {c} channels are not depthwise")
    need(m > 1, "there is one channel for each")
    many = spread(b, view(b, x, (n, c, 1, prod(size))), (n, c, m, prod(size)))
    return b.op(op.kind, (view(b, many, (n, c * m, *size)), weight, bias), **{**op.attrs, "groups": c * m})[0]


@rewrite(
    removes="conv3d",
    yields=("reshape", "pad", "permute", "slice", "conv2d", "add"),
    claim="bounded",
    error="4e-06 of the sum of magnitudes",
)
def conv3d_to_conv2d_sum(b: Builder, op: Op) -> Any:
    """conv3d becomes a sum of conv2d, one for each tap along the depth, with the depth as part of the batch.

    Formula: y[d] = sum over t of conv2d(x[s d + t], w[:, :, t]); the images of all depths are one batch.
    Example: ``y = conv3d(x of 1x4x8x9x9, w of 6x4x3x3x3)`` -> ``f = permute(reshape(x, (1, 4, 8, 81)), (0, 2, 1, 3));
    s = add(conv2d(reshape(slice(f, 0:6), (6, 4, 9, 9)), w0), conv2d(reshape(slice(f, 1:7), ...), w1), ...)``, and back.
    Bound: 4e-06 in float32 of the sum of magnitudes (sums are added in another order).
    Does not apply: to more than 64 taps along the depth.
    """
    x, weight, bias = op.inputs
    assert x is not None and weight is not None
    a, (n, c, d, h, w) = op.attrs, shape_of(x)
    co, taps = shape_of(weight)[0], shape_of(weight)[2]
    need(taps <= _MOST_BLOCKS, f"{taps} taps along the depth are more than {_MOST_BLOCKS}")
    _, _, out_d, *size = shape_of(op.outputs[0])
    frames = turned(b, view(b, x, (n, c, d, h * w)), (0, 2, 1, 3))
    if any(a["padding"][0]):
        frames = b.pad(frames, padding=((0, 0), tuple(a["padding"][0]), (0, 0), (0, 0)), mode="constant", value=0.0)
    attrs = {k: tuple(a[k])[1:] for k in ("stride", "padding", "dilation")}
    stride, total = a["stride"][0], None
    for t in range(taps):
        first = t * a["dilation"][0]
        end = first + (out_d - 1) * stride + 1
        if stride == 1:
            part = cut(b, frames, 1, first, end)
        else:
            part = b.slice(frames, axes=(1,), starts=(first,), ends=(end,), steps=(stride,))
        image = view(b, part, (n * out_d, c, h, w))
        plane = cut(b, weight, 2, t, t + 1)
        kernel = view(b, plane, (*shape_of(weight)[:2], *shape_of(weight)[3:]))
        made = b.conv2d(image, kernel, bias if total is None else None, **attrs, groups=a["groups"])
        total = made if total is None else b.add(total, made)
    assert total is not None
    back = turned(b, view(b, total, (n, out_d, co, prod(size))), (0, 2, 1, 3))
    return view(b, back, shape_of(op.outputs[0]))


def _with_zeros_between(b: Builder, x: Value, axis: int, stride: int) -> Value:
    """``stride - 1`` zeros between the elements of an axis, on tensors of 4 axes."""
    shape = shape_of(x)
    n = shape[axis]
    if stride == 1 or n == 1:
        return x
    before, after = prod(shape[1:axis]), prod(shape[axis + 1 :])
    column = view(b, x, (shape[0], before * n, 1, after))
    wide = b.pad(column, padding=((0, 0), (0, 0), (0, stride - 1), (0, 0)), mode="constant", value=0.0)
    line = cut(b, view(b, wide, (shape[0], before, n * stride, after)), 2, 0, (n - 1) * stride + 1)
    return view(b, line, (*shape[:axis], (n - 1) * stride + 1, *shape[axis + 1 :]))


@rewrite(
    removes=_TRANSPOSED,
    yields=("reshape", "pad", "slice", *_CONVS),
    claim="bounded",
    error="4 ulp of the sum of magnitudes",
)
def conv_transpose_to_conv(b: Builder, op: Op) -> Any:
    """A transposed convolution becomes a convolution of the input with zeros between its elements.

    Formula: y = conv(x with s - 1 zeros between elements, w reversed), padded by d (k - 1) - p.
    Example: ``y = conv_transpose2d(x of 1x8x5x5, w of 8x4x3x3, stride=(2, 2), padding 1)`` -> ``y = conv2d(x' of
    1x8x9x9, w' of 4x8x3x3, padding=((1, 1), (1, 1)))``.
    Bound: 4 ulp in float32 of the sum of magnitudes, for a finite x. Costs as many times the multiplications as the
    strides say; conv_transpose_to_phases does not.
    Does not apply: to weights computed at run time.
    """
    x, _, bias = op.inputs
    assert x is not None
    a, old, n = op.attrs, data(op.inputs[1], "weight"), dims_of(op)
    groups, kernel = a["groups"], old.shape[2:]
    flipped = old[(slice(None), slice(None), *[slice(None, None, -1)] * n)]
    apart = flipped.reshape(groups, old.shape[0] // groups, old.shape[1], *kernel)
    taps = apart.swapaxes(1, 2).reshape(groups * old.shape[1], old.shape[0] // groups, *kernel)
    for d in range(n):
        x = _with_zeros_between(b, x, 2 + d, a["stride"][d])
    reach = [d * (k - 1) for d, k in zip(a["dilation"], kernel, strict=True)]
    padding = [
        (e - int(p), e - int(q) + int(more))
        for e, (p, q), more in zip(reach, a["padding"], a["output_padding"], strict=True)
    ]
    if any(p < 0 for pair in padding for p in pair):
        x, padding = _pad(b, x, padding), [(0, 0)] * n
    attrs = {"stride": (1,) * n, "padding": tuple(padding), "dilation": tuple(a["dilation"]), "groups": groups}
    return b.op(f"conv{n}d", (x, b.const(np.ascontiguousarray(taps)), bias), **attrs)[0]


@rewrite(
    removes="conv_transpose2d",
    yields=("conv2d", "pixel_shuffle", "slice"),
    claim="bounded",
    error="4 ulp of the sum of magnitudes",
)
def conv_transpose_to_phases(b: Builder, op: Op) -> Any:
    """A transposed convolution with a stride becomes a convolution for each phase of the result, and a pixel shuffle.

    Formula: y[s q + r] = sum over j of x[q - j] w[s j + r]: phase r is a convolution of x with every s-th tap, a kernel
    of ceil(k / s); the phases are the channels that pixel_shuffle spreads.
    Example: ``y = conv_transpose2d(x of 1x8x5x5, w of 8x4x4x4, stride=(2, 2), padding 1)`` -> ``y =
    slice(pixel_shuffle(conv2d(x, w' of 16x8x2x2, padding 1), factor=2), 1:11)``.
    Bound: 4 ulp in float32 of the sum of magnitudes, for a finite x where the stride does not divide the kernel.
    Does not apply: to stride 1, strides that differ, a dilation, or weights computed at run time, or of more than
    16777216 elements with the zeros.
    """
    x, _, bias = op.inputs
    assert x is not None
    a, old, groups = op.attrs, data(op.inputs[1], "weight"), op.attrs["groups"]
    s = a["stride"][0]
    need(tuple(a["stride"]) == (s, s) and s > 1, f"the stride is {tuple(a['stride'])}")
    need(set(a["dilation"]) == {1}, f"the dilation is {tuple(a['dilation'])}")
    kernel = [-(-(k + int(m)) // s) for k, m in zip(old.shape[2:], a["output_padding"], strict=True)]
    more = [(0, k * s - had) for k, had in zip(kernel, old.shape[2:], strict=True)]
    need_small(prod(old.shape[:2]) * prod(kernel) * s * s, "a weight")
    filled = np.pad(old, ((0, 0), (0, 0), *more))
    inputs, outputs = old.shape[0] // groups, old.shape[1]
    deep = filled.reshape(groups, inputs, outputs, kernel[0], s, kernel[1], s)[:, :, :, ::-1, :, ::-1]
    taps = deep.transpose(0, 2, 4, 6, 1, 3, 5).reshape(groups * outputs * s * s, inputs, *kernel)
    each = None if bias is None else b.const(np.repeat(data(bias, "bias"), s * s))
    attrs = {**_plain(2), "padding": tuple((k - 1, k - 1) for k in kernel), "groups": groups}
    out = b.pixel_shuffle(b.conv2d(x, b.const(np.ascontiguousarray(taps)), each, **attrs), factor=s, mode="CRD")
    for d, ((first, _), size) in enumerate(zip(a["padding"], shape_of(op.outputs[0])[2:], strict=True)):
        out = cut(b, out, 2 + d, int(first), int(first) + size)
    return out
