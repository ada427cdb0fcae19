# SPDX-License-Identifier: Apache-2.0
"""The Focus layer (strided slices, cat, convolution) as one convolution of a larger stride."""

from __future__ import annotations

from typing import Any

import numpy as np

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import data, need, shape_of


def _offsets(b: Builder, piece: Value) -> tuple[Value, tuple[int, int], tuple[int, int], list[Op]]:
    """The image that a piece was sliced from, the first row and column, the steps, and the slices on the way."""
    start, step = [0, 0], [1, 1]
    passed: list[Op] = []
    value = piece
    while (source := b.producer(value)) is not None and source.kind == "slice":
        a = source.attrs
        for axis, first, end, stride in zip(a["axes"], a["starts"], a["ends"], a["steps"], strict=True):
            extent = shape_of(source.operands[0])[axis]
            if (first, end, stride) == (0, extent, 1):
                continue
            need(axis in (2, 3), "a slice cuts channels")
            need(stride > 0, "a slice runs backwards")
            # Slices nest from the outside in: what is known so far indexes the result of this one.
            start[axis - 2] = first + stride * start[axis - 2]
            step[axis - 2] *= stride
        passed.append(source)
        value = source.operands[0]
    return value, (start[0], start[1]), (step[0], step[1]), passed


@rewrite(removes="conv2d", yields="conv2d", claim="exact", error="1e-05 of the largest |y|", optional=True)
def focus_to_conv(b: Builder, op: Op) -> Any:
    """Four strided slices, cat and a convolution (Focus, space to depth) become one convolution with stride
    2.

    Formula: channel block k of the cat is x[:, :, r_k::s, c_k::s]; tap (i, j) of the convolution there is tap
    (s i + r_k, s j + c_k) of a kernel s times as large on x, with stride and padding s times as large. Any
    order of the blocks and any step s work; blocks that are missing leave zeros in the kernel. Source: YOLOv5
    issue 4825 (Focus is a 6x6 convolution).
    Example: ``y = conv2d(cat(x[..., ::2, ::2], x[..., 1::2, ::2], ...), w of 32x12x3x3, padding 1)`` -> ``y =
    conv2d(x, w' of 32x3x6x6, stride=(2, 2), padding 2)``.
    Bound: 1e-05 of the largest |y| in float32: the same products in another order.
    Does not apply: when the input is not a cat along the channels of strided slices of one image with equal
    steps, to groups or a dilation, or weights computed at run time. Optional: name it with ``--apply``; where
    slices with a step are illegal, slice_step_to_reshape makes the layer legal without it.
    """
    joined = b.producer(op.operands[0])
    need(joined is not None and joined.kind == "cat", "the input is not a cat")
    assert joined is not None
    need(joined.attrs["axis"] == 1, "the cat is not along the channels")
    a = op.attrs
    need(a["groups"] == 1 and set(a["dilation"]) == {1}, "there are groups or a dilation")
    weight = data(op.inputs[1], "weight")
    found = [_offsets(b, piece) for piece in joined.operands]
    image, _, step, _ = found[0]
    need(max(step) > 1, "the slices have no step")
    need(all(f[0] is image or f[0].name == image.name for f in found), "the slices are of different images")
    need(all(f[2] == step for f in found), "the slices differ in step")
    need(all(s[0] < step[0] and s[1] < step[1] for _, s, _, _ in found), "a slice begins after the first step")
    n, c, h, w = shape_of(image)
    rows, cols = shape_of(op.operands[0])[2:]
    need((rows * step[0], cols * step[1]) == (h, w), f"the step {step} does not divide the image {(h, w)}")
    need(all(shape_of(p) == (n, c, rows, cols) for p in joined.operands), "a slice is cut short")
    kh, kw = weight.shape[2:]
    large = np.zeros((weight.shape[0], c, kh * step[0], kw * step[1]), weight.dtype)
    for k, (_, (r, col), _, _) in enumerate(found):
        # Two blocks of one phase add up, as the convolution of the cat does.
        large[:, :, r :: step[0], col :: step[1]] += weight[:, k * c : (k + 1) * c]
    b.merge_origin(joined, *(o for f in found for o in f[3]))
    padding = tuple((p * s, q * s) for (p, q), s in zip(a["padding"], step, strict=True))
    return b.conv2d(
        image,
        b.const(large),
        op.inputs[2],
        stride=tuple(t * s for t, s in zip(a["stride"], step, strict=True)),
        padding=padding,
        dilation=(1, 1),
        groups=1,
    )
