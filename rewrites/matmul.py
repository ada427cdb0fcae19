# SPDX-License-Identifier: Apache-2.0
"""Matrix products: linear, gemm, matmul, einsum and attention."""

from __future__ import annotations

from math import prod, sqrt
from typing import Any

import numpy as np

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import data, need, need_float, need_small, shape_of, turned, view

_ORDER = "4e-06 of the sum of magnitudes"


@rewrite(removes="linear", yields=("reshape", "linear"), claim="bounded", error=_ORDER)
def linear_to_rank2(b: Builder, op: Op) -> Any:
    """linear over more than two axes becomes linear over rows, with reshapes around it.

    Formula: all axes but the last are rows.
    Example: ``y = linear(x of 1x49x768, w)`` -> ``y = reshape(linear(reshape(x, (49, 768)), w), (1, 49,
    n))``.
    Bound: 4e-06 of the sum of magnitudes in float32 (a kernel may add in another order).
    Does not apply: to two axes.
    """
    x = op.operands[0]
    shape = shape_of(x)
    need(len(shape) != 2, "the input has two axes already")
    rows = view(b, x, (prod(shape[:-1]), shape[-1]))
    return view(b, b.linear(rows, *op.inputs[1:]), shape_of(op.outputs[0]))


@rewrite(removes="linear", yields=("reshape", "conv2d"), claim="bounded", error=_ORDER)
def linear_to_conv(b: Builder, op: Op) -> Any:
    """linear over a (N, C) tensor becomes a 1x1 convolution of an image of one pixel; more rows become its
    height.

    Formula: a 1x1 convolution is the same product at each position. Rows (N, L, C) are seen as N L images.
    Example: ``y = linear(x of 1x512, w of 10x512)`` -> ``y = reshape(conv2d(reshape(x, (1, 512, 1, 1)), w of
    10x512x1x1), (1, 10))``.
    Bound: 4e-06 of the sum of magnitudes in float32 (another kernel may add in another order).
    Does not apply: to a vector, or when the shape is unknown.
    """
    x, weight = op.operands[0], op.operands[1]
    shape, (out, width) = shape_of(x), shape_of(weight)
    need(len(shape) > 1, "the input is a vector")
    image = view(b, x, (prod(shape[:-1]), width, 1, 1))
    y = b.conv2d(
        image, view(b, weight, (out, width, 1, 1)), op.inputs[2],
        stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1,
    )  # fmt: skip
    return view(b, y, shape_of(op.outputs[0]))


@rewrite(removes="linear", yields=("permute", "matmul", "add"), claim="bounded", error=_ORDER)
def linear_to_matmul(b: Builder, op: Op) -> Any:
    """linear(x) becomes x @ weight.T + bias.

    Formula: the definition; a constant weight is transposed now.
    Example: ``y = linear(x, w of 10x512, bias)`` -> ``y = add(matmul(x, w' of 512x10), bias)``.
    Bound: 4e-06 of the sum of magnitudes in float32 (a kernel may add in another order).
    Does not apply: when the weight's shape is unknown.
    """
    x, weight = op.operands[0], op.operands[1]
    out = b.matmul(x, turned(b, weight, (1, 0)))
    return out if op.inputs[2] is None else b.add(out, op.inputs[2])


@rewrite(removes="matmul", yields="linear", claim="bounded", error=_ORDER)
def matmul_to_linear(b: Builder, op: Op) -> Any:
    """matmul with a constant matrix on the right becomes linear without bias.

    Formula: linear(x) = x @ weight.T; the constant is transposed now.
    Example: ``y = matmul(x, w of 512x10)`` -> ``y = linear(x, w' of 10x512)``.
    Bound: 4e-06 of the sum of magnitudes in float32 (a kernel may add in another order).
    Does not apply: when the right operand is computed at run time or is not rank 2.
    """
    x, weight = op.operands
    need(weight.is_const, "the right operand is computed when the model runs")
    need(len(shape_of(weight)) == 2, f"the right operand has {len(shape_of(weight))} axes, not 2")
    need(x.dtype == weight.dtype, "the operands differ in dtype")
    return b.linear(x, turned(b, weight, (1, 0)), None)


@rewrite(removes="matmul", yields=("reshape", "expand", "matmul"), claim="bounded", error=_ORDER)
def matmul_to_rank3(b: Builder, op: Op) -> Any:
    """matmul over several batch axes becomes matmul over one (bmm), with reshapes around it.

    Formula: the batch axes, broadcast, count as one.
    Example: ``y = matmul(q of 1x8x49x32, k of 1x8x32x49)`` -> ``y = reshape(matmul(reshape(q, (8, 49, 32)),
    ...), (1, 8, 49, 49))``.
    Bound: 4e-06 of the sum of magnitudes in float32 (a kernel may add in another order).
    Does not apply: when both operands have at most three axes and the same batch, or one is a vector.
    """
    x, y = op.operands
    xs, ys, out = shape_of(x), shape_of(y), shape_of(op.outputs[0])
    need(len(xs) > 1 and len(ys) > 1, "an operand is a vector")
    need(len(out) > 3 or xs[:-2] != ys[:-2], "there is one batch axis already")
    batch = out[:-2]
    parts = []
    for v, shape in ((x, xs), (y, ys)):
        wide = v if shape[:-2] == batch else b.expand(v, shape=(*batch, *shape[-2:]))
        parts.append(view(b, wide, (prod(batch), *shape[-2:])))
    return view(b, b.matmul(*parts), out)


@rewrite(removes="matmul", yields=("reshape", "matmul"), claim="bounded", error=_ORDER)
def matmul_of_vector(b: Builder, op: Op) -> Any:
    """matmul with a vector becomes matmul with a matrix of one row or column.

    Formula: numpy's matmul puts an axis of 1 before a left vector and after a right one, and drops it again.
    Example: ``y = matmul(x of 4x8, v of 8)`` -> ``y = reshape(matmul(x, reshape(v, (8, 1))), (4,))``.
    Bound: 4e-06 of the sum of magnitudes in float32 (a kernel may add in another order).
    Does not apply: when neither operand is a vector.
    """
    x, y = op.operands
    xs, ys = shape_of(x), shape_of(y)
    need(len(xs) == 1 or len(ys) == 1, "neither operand is a vector")
    left = view(b, x, (1, *xs)) if len(xs) == 1 else x
    right = view(b, y, (*ys, 1)) if len(ys) == 1 else y
    return view(b, b.matmul(left, right), shape_of(op.outputs[0]))


@rewrite(removes="matmul", yields=("reshape", "permute", "mul", "sum"), claim="bounded", error=_ORDER)
def matmul_to_mul_sum(b: Builder, op: Op) -> Any:
    """A small matmul of two computed matrices becomes a broadcast product and a sum.

    Formula: (x @ y)[i, j] = sum_k x[i, k] y[k, j].
    Example: ``z = matmul(x of 4x3, y of 3x4)`` -> ``z = sum(mul(reshape(x, (4, 1, 3)), reshape(permute(y),
    (1, 4, 3))), axes=(2,))``.
    Bound: 4e-06 of the sum of magnitudes in float32.
    Does not apply: to vectors, integers, a constant operand (matmul_to_linear), or more than 2^16 products.
    """
    x, y = op.operands
    need_float(x, y)
    xs, ys, out = shape_of(x), shape_of(y), shape_of(op.outputs[0])
    need(len(xs) > 1 and len(ys) > 1, "an operand is a vector")
    need(not (x.is_const or y.is_const), "an operand is constant: this is a linear layer")
    need(prod(out) * xs[-1] <= 2**16, f"{prod(out) * xs[-1]} products are more than 2^16")
    left = view(b, x, (*xs[:-1], 1, xs[-1]))
    right = turned(b, y, (*range(len(ys) - 2), len(ys) - 1, len(ys) - 2))
    right = view(b, right, (*ys[:-2], 1, ys[-1], ys[-2]))
    return b.sum(b.mul(left, right), axes=(len(out),), keepdim=False)


@rewrite(removes="gemm", yields=("permute", "matmul", "mul", "add"), claim="bounded", error=_ORDER)
def gemm_to_matmul(b: Builder, op: Op) -> Any:
    """gemm becomes alpha * (a' @ b') + beta * c.

    Formula: the definition (ONNX Gemm); factors of 1 are left out, and constants are scaled and transposed
    now.
    Example: ``y = gemm(a, b, c, trans_b=True)`` -> ``y = add(matmul(a, permute(b)), c)``.
    Bound: 4e-06 of the sum of magnitudes in float32 (a kernel may add in another order).
    Does not apply: never.
    """
    x, y = op.operands[0], op.operands[1]
    a = op.attrs
    x = turned(b, x, (1, 0)) if a["trans_a"] else x
    y = turned(b, y, (1, 0)) if a["trans_b"] else y
    out = b.matmul(x, y)
    if a["alpha"] != 1:
        out = b.mul(out, a["alpha"])
    c = op.inputs[2]
    if c is None or a["beta"] == 0:
        return out
    return b.add(out, c if a["beta"] == 1 else b.mul(c, a["beta"]))


@rewrite(removes="gemm", yields=("permute", "linear"), claim="bounded", error=_ORDER)
def gemm_to_linear(b: Builder, op: Op) -> Any:
    """gemm with a constant matrix and bias becomes linear, with alpha and beta multiplied in.

    Formula: alpha * a @ b' + beta * c = linear(a, (alpha b')^T, beta c).
    Example: ``y = gemm(a, b, c, trans_b=True)`` -> ``y = linear(a, b, c)``.
    Bound: 4e-06 of the sum of magnitudes in float32 (a kernel may add in another order; alpha and beta round
    the constants).
    Does not apply: when the matrix or bias is computed at run time, or the bias is not one value for each
    column.
    """
    x, weight = op.operands[0], op.operands[1]
    a = op.attrs
    need(weight.is_const, "the right matrix is computed when the model runs")
    kernel = weight.numpy() if a["trans_b"] else weight.numpy().T
    if a["alpha"] != 1 or not a["trans_b"]:
        weight = b.const(np.ascontiguousarray(kernel * np.asarray(a["alpha"], kernel.dtype)))
    bias = op.inputs[2]
    if bias is not None:
        wide = np.broadcast_to(data(bias, "bias"), shape_of(op.outputs[0]))
        need((wide == wide[:1]).all(), "the bias differs between rows")
        if a["beta"] != 1 or bias.shape != (wide.shape[1],):
            bias = b.const(np.ascontiguousarray(wide[0] * np.asarray(a["beta"], wide.dtype)))
    return b.linear(turned(b, x, (1, 0)) if a["trans_a"] else x, weight, bias)


@rewrite(
    removes="attention",
    yields=("permute", "matmul", "mul", "add", "where", "softmax", "gt"),
    claim="bounded",
    error="1e-05 of the largest |value|",
)
def attention_to_matmul(b: Builder, op: Op) -> Any:
    """attention(q, k, v) becomes softmax(scale q @ k.T + mask) @ v.

    Formula: Vaswani et al., arXiv:1706.03762, equation 1 (torch.nn.functional.scaled_dot_product_attention):
    scale is 1 / sqrt(width) unless given; a bool mask hides where it is false, a float mask is added, and hides where
    it is -inf; causal hides the future.
    Example: ``y = attention(q, k, v)`` -> ``y = matmul(softmax(matmul(mul(q, 0.125), permute(k)), axis=3), v)``.
    Bound: 1e-05 of the largest |value| in float32. A row that is hidden whole is 0, as in torch and ONNX.
    Does not apply: when a shape is unknown, or to a causal mask of more than 16777216 elements.
    """
    mask = op.inputs[3]
    added = []
    if mask is not None and mask.dtype != "bool":
        added.append(b.const(mask.numpy() != -np.inf) if mask.is_const else b.gt(mask, -np.inf))
    return _attention(b, op, added)


@rewrite(
    removes="attention",
    yields=("permute", "matmul", "mul", "add", "where", "softmax"),
    claim="approximate",
    error="1e-05 of the largest |value|",
)
def attention_to_matmul_unguarded(b: Builder, op: Op) -> Any:
    """attention(q, k, v) with a float mask of run time becomes softmax(scale q @ k.T + mask) @ v.

    Formula: that of attention_to_matmul, for devices that cannot compare.
    Example: ``y = attention(q, k, v, mask)`` -> ``y = matmul(softmax(add(matmul(mul(q, 0.125), permute(k)), mask),
    axis=3), v)``.
    Bound: 1e-05 of the largest |value| in float32; but NaN for a row that the mask hides whole with -inf, which is 0 in
    torch and ONNX. Needs --allow approximate.
    Does not apply: without a mask, to a bool mask, or a constant one (attention_to_matmul).
    """
    mask = op.inputs[3]
    need(mask is not None and mask.dtype != "bool" and not mask.is_const, "there is no float mask of run time")
    return _attention(b, op, [])


def _attention(b: Builder, op: Op, added: list[Value]) -> Value:
    """``added`` is true where a float mask does not hide."""
    q, k, v = op.operands[:3]
    rank, width = len(shape_of(k)), shape_of(q)[-1]
    need_float(q, k, v)
    scale = 1 / sqrt(width) if op.attrs["scale"] is None else op.attrs["scale"]
    # The queries and not the scores: there are fewer of them, and a product of half precision ends at 65504.
    scores = b.matmul(b.mul(q, scale), turned(b, k, (*range(rank - 2), rank - 1, rank - 2)))
    mask, shown = op.inputs[3], []
    if mask is not None and mask.dtype == "bool":
        shown.append(mask)
    elif mask is not None:
        scores = b.add(scores, mask)
    if op.attrs["causal"]:
        rows, cols = shape_of(scores)[-2:]
        need_small(rows * cols, "a mask")
        shown.append(b.const(np.tri(rows, cols, dtype=bool)))
    for seen in shown:
        scores = b.where(seen, scores, b.const(-np.inf, q.dtype))
    weights = b.softmax(scores, axis=len(shape_of(scores)) - 1)
    if _may_hide_a_row([*shown, *added]):
        for seen in (*shown, *added):
            weights = b.where(seen, weights, b.const(0.0, q.dtype))
    out: Value = b.matmul(weights, v)
    return out


def _may_hide_a_row(shown: list[Value]) -> bool:
    """Whether the masks, which show what is true in all, may leave a row nothing to see."""
    if not all(mask.is_const for mask in shown):
        return True
    every = np.ones((), bool)
    for mask in shown:
        every = every & mask.numpy()
    return bool(shown) and not every.any(-1).all()
