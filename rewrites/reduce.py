# SPDX-License-Identifier: Apache-2.0
"""Reductions: several axes, spatial axes, variances, norms, extremes with indices."""

from __future__ import annotations

from math import inf, prod
from typing import Any

import numpy as np

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import cut, need, need_float, or_zeros, shape_of, turned, view


def _count(op: Op) -> int:
    shape = shape_of(op.operands[0])
    return prod(shape[a] for a in op.attrs["axes"])


def _one_at_a_time(b: Builder, op: Op) -> Value:
    x = op.operands[0]
    axes = op.attrs["axes"]
    need(len(axes) > 1, f"{len(axes)} axes are reduced")
    for axis in sorted(axes, reverse=True):
        x = b.op(op.kind, (x,), axes=(axis,), keepdim=op.attrs["keepdim"])[0]
    return x


@rewrite(removes=("amax", "amin", "all", "any"), yields=("amax", "amin", "all", "any"), claim="exact")
def extreme_one_axis_at_a_time(b: Builder, op: Op) -> Any:
    """amax, amin, all or any over several axes becomes one reduction per axis.

    Formula: the extreme of extremes is the extreme.
    Example: ``y = amax(x, axes=(2, 3))`` -> ``y = amax(amax(x, axes=(3,)), axes=(2,))``.
    Bound: bit-equal, NaN included.
    Does not apply: to one axis.
    """
    return _one_at_a_time(b, op)


@rewrite(
    removes=("sum", "mean", "prod"),
    yields=("sum", "mean", "prod"),
    claim="bounded",
    error="4e-06 of the mean magnitude times the count",
)
def sum_one_axis_at_a_time(b: Builder, op: Op) -> Any:
    """sum, mean or prod over several axes becomes one reduction per axis.

    Formula: the sum of sums is the sum; the mean of means of equal counts is the mean.
    Example: ``y = mean(x, axes=(2, 3))`` -> ``y = mean(mean(x, axes=(3,)), axes=(2,))``.
    Bound: 4e-06 in float32 of the sum of magnitudes (of the mean of magnitudes for mean): another order of
    addition.
    Does not apply: to one axis, or integers.
    """
    need_float(op.operands[0])
    return _one_at_a_time(b, op)


@rewrite(
    removes=("sum", "mean", "prod", "amax", "amin", "logsumexp"),
    yields=("reshape", "sum", "mean", "prod", "amax", "amin", "logsumexp"),
    claim="bounded",
    error="4e-06 of the sum of magnitudes",
)
def reduce_adjacent_axes_as_one(b: Builder, op: Op) -> Any:
    """A reduction over adjacent axes becomes a reshape that joins them and a reduction over one.

    Formula: adjacent axes are one axis of the row-major order.
    Example: ``y = mean(x, axes=(2, 3))`` with x of 1x8x4x4 -> ``y = mean(reshape(x, (1, 8, 16)),
    axes=(2,))``.
    Bound: 4e-06 of the sum of magnitudes in float32 (a kernel may add in another order); bit-equal for amax
    and amin.
    Does not apply: to one axis, axes that are apart, or integers.
    """
    x, axes = op.operands[0], sorted(op.attrs["axes"])
    need_float(x)
    need(len(axes) > 1, f"{len(axes)} axes are reduced")
    need(axes == list(range(axes[0], axes[0] + len(axes))), f"the axes {tuple(axes)} are not adjacent")
    shape = shape_of(x)
    flat = view(b, x, (*shape[: axes[0]], _count(op), *shape[axes[-1] + 1 :]))
    out = b.op(op.kind, (flat,), axes=(axes[0],), keepdim=False)[0]
    return view(b, out, shape_of(op.outputs[0]))


@rewrite(
    removes=("sum", "mean", "prod", "amax", "amin", "all", "any", "logsumexp", "var", "std", "norm"),
    yields=(
        "reshape",
        "sum",
        "mean",
        "prod",
        "amax",
        "amin",
        "all",
        "any",
        "logsumexp",
        "var",
        "std",
        "norm",
    ),
    claim="exact",
)
def reduce_keepdim_by_reshape(b: Builder, op: Op) -> Any:
    """A reduction that drops its axes becomes one that keeps them, and a reshape.

    Formula: an axis of extent 1 does not matter to the row-major order.
    Example: ``y = mean(x, axes=(2,), keepdim=False)`` -> ``y = reshape(mean(x, axes=(2,), keepdim=True),
    ...)``.
    Bound: bit-equal.
    Does not apply: when the axes are kept already.
    """
    need(not op.attrs["keepdim"], "the axes are kept already")
    out = b.op(op.kind, (op.operands[0],), **{**op.attrs, "keepdim": True})[0]
    return view(b, out, shape_of(op.outputs[0]))


@rewrite(removes="mean", yields=("sum", "mul"), claim="bounded", error="4e-06 of the mean of magnitudes")
def mean_to_sum(b: Builder, op: Op) -> Any:
    """mean(x) becomes sum(x) * (1 / n).

    Formula: the definition.
    Example: ``y = mean(x, axes=(1,))`` with 8 channels -> ``y = mul(sum(x, axes=(1,)), 0.125)``.
    Bound: 4e-06 of the mean of magnitudes in float32. A float16 sum may overflow where the mean does not.
    Does not apply: to an empty axis, or integers.
    """
    x = op.operands[0]
    need_float(x)
    need(_count(op), "the reduced axes are empty")
    return b.mul(b.sum(x, **op.attrs), 1 / _count(op))


@rewrite(removes="sum", yields=("mean", "mul"), claim="bounded", error="4e-06 of the sum of magnitudes")
def sum_to_mean(b: Builder, op: Op) -> Any:
    """sum(x) becomes mean(x) * n.

    Formula: the definition of the mean.
    Example: ``y = sum(x, axes=(1,))`` with 8 channels -> ``y = mul(mean(x, axes=(1,)), 8)``.
    Bound: 4e-06 of the sum of magnitudes in float32.
    Does not apply: to an empty axis, or integers.
    """
    x = op.operands[0]
    need_float(x)
    need(_count(op), "the reduced axes are empty")
    return b.mul(b.mean(x, **op.attrs), float(_count(op)))


@rewrite(
    removes=("sum", "mean"),
    yields=("reshape", "matmul"),
    claim="bounded",
    error="4e-06 of the sum of magnitudes",
)
def sum_to_matmul(b: Builder, op: Op) -> Any:
    """sum or mean over the last axis becomes a product with a constant column of ones (or of 1 / n).

    Formula: sum_j x[i, j] = (x @ ones)[i].
    Example: ``y = sum(x, axes=(2,), keepdim=True)`` with x of 1x4x16 -> ``y = matmul(x, ones(16, 1))``.
    Bound: 4e-06 of the sum of magnitudes in float32. A device that quantizes matmul loses more.
    Does not apply: to other axes, or integers.
    """
    x, axes = op.operands[0], op.attrs["axes"]
    need_float(x)
    shape = shape_of(x)
    need(len(shape) > 1 and tuple(axes) == (len(shape) - 1,), f"the axes {tuple(axes)} are not the last alone")
    n = shape[-1]
    need(n, "the reduced axis is empty")
    weight = 1.0 if op.kind == "sum" else 1 / n
    return view(b, b.matmul(x, b.const(np.full((n, 1), weight), x.dtype)), shape_of(op.outputs[0]))


@rewrite(
    removes=("mean", "amax"),
    yields=("adaptive_avg_pool2d", "adaptive_max_pool2d", "reshape"),
    claim="bounded",
    error="4e-06 of the mean of magnitudes",
)
def spatial_reduction_to_pool(b: Builder, op: Op) -> Any:
    """mean or amax over height and width becomes a global pool.

    Formula: a pool of output size (1, 1) has one window.
    Example: ``y = mean(x, axes=(2, 3), keepdim=True)`` -> ``y = adaptive_avg_pool2d(x, output_size=(1, 1))``.
    Bound: 4e-06 of the mean of magnitudes in float32 (another order of addition); bit-equal for amax.
    Does not apply: to other axes than the last two of four.
    """
    x, axes = op.operands[0], sorted(op.attrs["axes"])
    need_float(x)
    need(len(shape_of(x)) == 4 and axes == [2, 3], f"the axes {tuple(axes)} are not the last two of four")
    kind = "adaptive_avg_pool2d" if op.kind == "mean" else "adaptive_max_pool2d"
    return view(b, b.op(kind, (x,), output_size=(1, 1))[0], shape_of(op.outputs[0]))


_STEPS = {"sum": "add", "prod": "mul", "amax": "maximum", "amin": "minimum"}


@rewrite(
    removes=tuple(_STEPS),
    yields=("slice", "reshape", *_STEPS.values()),
    claim="bounded",
    error="4e-06 of the sum of magnitudes",
)
def reduce_short_axis_to_steps(b: Builder, op: Op) -> Any:
    """A reduction over one short axis becomes a chain of additions, products, maxima or minima of its slices.

    Formula: sum(x) = x[0] + x[1] + ..., and alike for the others.
    Example: ``y = prod(x, axes=(1,), keepdim=True)`` with 3 channels -> ``y = mul(mul(slice(x, 0:1), slice(x,
    1:2)), slice(x, 2:3))``.
    Bound: 4e-06 of the sum of magnitudes in float32 for sum and prod (of the product of magnitudes);
    bit-equal for amax and amin.
    Does not apply: to several axes, to more than 16 elements or none, or to sums of small integers (they
    change dtype).
    """
    x, axes = op.operands[0], op.attrs["axes"]
    need(len(axes) == 1, f"{len(axes)} axes are reduced")
    need(op.outputs[0].dtype == x.dtype, f"{op.kind} of {x.dtype} changes the dtype")
    n = shape_of(x)[axes[0]]
    need(1 <= n <= 16, f"axis {axes[0]} has {n} elements, not 1 to 16")
    out = cut(b, x, axes[0], 0, 1)
    for i in range(1, n):
        out = b.op(_STEPS[op.kind], (out, cut(b, x, axes[0], i, i + 1)))[0]
    return view(b, out, shape_of(op.outputs[0]))


@rewrite(removes=("amax", "amin"), yields=("max_dim", "min_dim"), claim="exact")
def extreme_to_max_dim(b: Builder, op: Op) -> Any:
    """amax or amin over one axis becomes the values of max_dim or min_dim.

    Formula: the definition.
    Example: ``y = amax(x, axes=(1,))`` -> ``y, _ = max_dim(x, axis=1)``.
    Bound: bit-equal, NaN included.
    Does not apply: to several axes (extreme_one_axis_at_a_time splits them).
    """
    axes = op.attrs["axes"]
    need(len(axes) == 1, f"{len(axes)} axes are reduced")
    kind = "max_dim" if op.kind == "amax" else "min_dim"
    return b.op(kind, op.inputs, axis=axes[0], keepdim=op.attrs["keepdim"])[0]


@rewrite(removes=("amax", "amin"), yields=("topk", "reshape"), claim="exact")
def extreme_to_topk(b: Builder, op: Op) -> Any:
    """amax or amin over one axis becomes the values of a topk with k = 1.

    Formula: the definition. ONNX has no maximum with indices other than TopK.
    Example: ``y = amax(x, axes=(1,))`` -> ``y, _ = topk(x, k=1, axis=1, largest=True)``.
    Bound: bit-equal for numbers and infinities; where NaN sorts is the kernel's affair (torch's is greatest).
    Does not apply: to several axes (extreme_one_axis_at_a_time splits them).
    """
    x, axes = op.operands[0], op.attrs["axes"]
    need(len(axes) == 1, f"{len(axes)} axes are reduced")
    values, _ = b.topk(x, k=1, axis=axes[0], largest=op.kind == "amax", sorted=True)
    return view(b, values, shape_of(op.outputs[0]))


@rewrite(removes=("amin", "amax"), yields=("mul", "amax", "amin"), claim="exact")
def extreme_to_negated_extreme(b: Builder, op: Op) -> Any:
    """amin(x) becomes -amax(-x), and amax(x) becomes -amin(-x).

    Formula: negation reverses the order.
    Example: ``y = amin(x, axes=(1,))`` -> ``y = mul(amax(mul(x, -1), axes=(1,)), -1)``.
    Bound: the same values, NaN included; the sign of a zero may differ.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    other = "amax" if op.kind == "amin" else "amin"
    return b.mul(b.op(other, (b.mul(x, -1),), **op.attrs)[0], -1)


@rewrite(removes=("max_dim", "min_dim"), yields=("amax", "amin", "argmax", "argmin"), claim="exact")
def max_dim_to_parts(b: Builder, op: Op) -> Any:
    """max_dim becomes amax for its values and argmax for its indices (and min_dim alike).

    Formula: the definition. A part that nobody reads is dropped with the dead ops.
    Example: ``v, i = max_dim(x, axis=1)`` -> ``v = amax(x, axes=(1,)); i = argmax(x, axis=1)``.
    Bound: bit-equal (the first of equal extremes has the index, as torch says for argmax; max_dim on some
    devices differs).
    Does not apply: never.
    """
    x, a = op.operands[0], op.attrs
    extreme, arg = ("amax", "argmax") if op.kind == "max_dim" else ("amin", "argmin")
    value, index = op.outputs
    values = or_zeros(b, value, lambda: b.op(extreme, (x,), axes=(a["axis"],), keepdim=a["keepdim"])[0])
    return values, or_zeros(b, index, lambda: b.op(arg, (x,), axis=a["axis"], keepdim=a["keepdim"])[0])


@rewrite(removes=("argmax", "argmin"), yields=("reshape", "max_dim", "min_dim"), claim="exact")
def arg_to_max_dim(b: Builder, op: Op) -> Any:
    """argmax becomes the indices of max_dim (and argmin those of min_dim).

    Formula: the definition; axis None flattens first.
    Example: ``i = argmax(x, axis=1, keepdim=False)`` -> ``_, i = max_dim(x, axis=1, keepdim=False)``.
    Bound: bit-equal where both give the first of equal extremes.
    Does not apply: when the shape is unknown.
    """
    x, axis = op.operands[0], op.attrs["axis"]
    if axis is None:
        x, axis = view(b, x, (prod(shape_of(x)),)), 0
    kind = "max_dim" if op.kind == "argmax" else "min_dim"
    index = b.op(kind, (x,), axis=axis, keepdim=op.attrs["keepdim"] and op.attrs["axis"] is not None)[1]
    return view(b, index, shape_of(op.outputs[0]))


@rewrite(removes="argmin", yields=("mul", "argmax"), claim="exact")
def argmin_to_argmax(b: Builder, op: Op) -> Any:
    """argmin(x) becomes argmax(-x).

    Formula: negation reverses the order and keeps ties in place.
    Example: ``i = argmin(x, axis=1)`` -> ``i = argmax(mul(x, -1), axis=1)``.
    Bound: bit-equal, NaN included.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    return b.argmax(b.mul(x, -1), **op.attrs)


@rewrite(removes=("max_dim", "min_dim"), yields=("topk", "reshape"), claim="exact")
def max_dim_to_topk(b: Builder, op: Op) -> Any:
    """max_dim becomes topk with k = 1 (and min_dim with largest off).

    Formula: the largest element is the first of the top 1.
    Example: ``v, i = max_dim(x, axis=1)`` -> ``v, i = topk(x, k=1, axis=1)`` and a reshape that drops the
    axis.
    Bound: values bit-equal; of equal extremes topk may name another index.
    Does not apply: when the shape is unknown.
    """
    x, axis = op.operands[0], op.attrs["axis"]
    top = b.op("topk", (x,), k=1, axis=axis, largest=op.kind == "max_dim", sorted=True)
    return [view(b, v, shape_of(op.outputs[0])) for v in top]


@rewrite(removes="topk", yields=("max_dim", "min_dim"), claim="exact")
def topk_to_max_dim(b: Builder, op: Op) -> Any:
    """topk with k = 1 becomes max_dim (or min_dim where largest is off).

    Formula: the top 1 is the extreme.
    Example: ``v, i = topk(x, k=1, axis=1)`` -> ``v, i = max_dim(x, axis=1, keepdim=True)``.
    Bound: values bit-equal; of equal extremes topk may name another index.
    Does not apply: to a larger k.
    """
    need(op.attrs["k"] == 1, f"k is {op.attrs['k']}")
    kind = "max_dim" if op.attrs["largest"] else "min_dim"
    return b.op(kind, op.inputs, axis=op.attrs["axis"], keepdim=True)


@rewrite(
    removes=("var", "std"),
    yields=("mean", "sub", "mul", "sqrt", "reshape"),
    claim="bounded",
    error="4e-06 relative",
)
def var_to_mean(b: Builder, op: Op) -> Any:
    """var(x) becomes mean((x - mean(x))^2) * n / (n - correction), and std its square root.

    Formula: the definition, in two passes.
    Example: ``y = var(x, axes=(1,), correction=1)`` -> ``d = sub(x, mean(x)); y = mul(mean(mul(d, d)), n / (n
    - 1))``.
    Bound: 4e-06 relative in float32, plus 4e-07 of mean(x)^2 where the mean is large beside the deviation.
    Does not apply: when n - correction is not positive, or to integers.
    """
    x, a = op.operands[0], op.attrs
    need_float(x)
    n = _count(op)
    need(n - a["correction"] > 0, f"{n} elements with correction {a['correction']} have no variance")
    d = b.sub(x, b.mean(x, axes=a["axes"], keepdim=True))
    out = b.mean(b.mul(d, d), axes=a["axes"], keepdim=True)
    if a["correction"]:
        out = b.mul(out, n / (n - a["correction"]))
    if op.kind == "std":
        out = b.sqrt(out)
    return out if a["keepdim"] else view(b, out, shape_of(op.outputs[0]))


@rewrite(removes="std", yields=("var", "sqrt"), claim="exact", error="4 ulp")
def std_to_var(b: Builder, op: Op) -> Any:
    """std(x) becomes sqrt(var(x)).

    Formula: the definition.
    Example: ``y = std(x, axes=(1,))`` -> ``y = sqrt(var(x, axes=(1,)))``.
    Bound: 4 ulp in float32.
    Does not apply: never.
    """
    return b.sqrt(b.var(op.operands[0], **op.attrs))


def _norm(b: Builder, x: Value, p: float, axes: tuple[int, ...], keepdim: bool) -> Any:
    need(p in (1, 2, inf), f"the {p}-norm is not the 1-, 2- or infinity-norm")
    if p == 2:
        return b.sqrt(b.sum(b.mul(x, x), axes=axes, keepdim=keepdim))
    return b.op("sum" if p == 1 else "amax", (b.abs(x),), axes=axes, keepdim=keepdim)[0]


@rewrite(removes="norm", yields=("mul", "sum", "sqrt", "abs", "amax"), claim="bounded", error="4e-06 relative")
def norm_to_sum(b: Builder, op: Op) -> Any:
    """norm(x, p) becomes sqrt(sum(x^2)) for p = 2, sum(|x|) for p = 1, and amax(|x|) for p = inf.

    Formula: the definitions.
    Example: ``y = norm(x, p=2, axes=(1,))`` -> ``y = sqrt(sum(mul(x, x), axes=(1,)))``.
    Bound: 4e-06 relative in float32; squares overflow for |x| above 1.8e19 (255 in float16).
    Does not apply: to another p, or integers.
    """
    x, a = op.operands[0], op.attrs
    need_float(x)
    return _norm(b, x, float(a["p"]), a["axes"], a["keepdim"])


@rewrite(
    removes="lp_normalize",
    yields=("mul", "sum", "sqrt", "abs", "amax", "maximum", "div"),
    claim="bounded",
    error="4e-06 relative",
)
def lp_normalize_to_div(b: Builder, op: Op) -> Any:
    """lp_normalize(x) becomes x / maximum(norm_p(x), eps).

    Formula: the definition (torch.nn.functional.normalize).
    Example: ``y = lp_normalize(x, p=2, axis=1)`` -> ``y = div(x, maximum(sqrt(sum(mul(x, x), axes=(1,))),
    1e-12))``.
    Bound: 4e-06 relative in float32; squares overflow for |x| above 1.8e19 (255 in float16).
    Does not apply: to p other than 1, 2 and infinity, or integers.
    """
    x, a = op.operands[0], op.attrs
    need_float(x)
    length = _norm(b, x, float(a["p"]), (a["axis"],), True)
    return b.div(x, b.maximum(length, float(a["eps"])) if a["eps"] else length)


@rewrite(removes=("all", "any"), yields=("cast", "amin", "amax", "gt"), claim="exact")
def all_any_to_extreme(b: Builder, op: Op) -> Any:
    """all(x) becomes amin(x as 0 and 1) > 0, and any(x) amax(x as 0 and 1) > 0.

    Formula: all are true where the least is, and some where the greatest is.
    Example: ``y = all(x, axes=(1,))`` -> ``y = gt(amin(cast(x, float32), axes=(1,)), 0)``.
    Bound: bit-equal.
    Does not apply: to numbers (only to bool), or over an empty axis.
    """
    x = op.operands[0]
    need(x.dtype == "bool", f"{x.name} is {x.dtype}, not bool")
    need(_count(op), "the reduced axes are empty")
    kind = "amin" if op.kind == "all" else "amax"
    return b.gt(b.op(kind, (b.cast(x, dtype="float32"),), **op.attrs)[0], 0.0)


@rewrite(removes="cumsum", yields=("permute", "matmul"), claim="bounded", error="4e-06 of the sum of magnitudes")
def cumsum_to_matmul(b: Builder, op: Op) -> Any:
    """cumsum over one axis becomes a product with a constant triangular matrix of ones.

    Formula: y[j] = sum over i <= j of x[i] = (x @ U)[j], with U[i, j] = 1 for i <= j.
    Example: ``y = cumsum(x, axis=2)`` with x of 1x4x16 -> ``y = matmul(x, U of 16x16)``; another axis is
    permuted last.
    Bound: 4e-06 of the sum of magnitudes in float32. n^2 multiplications.
    Does not apply: to more than 4096 elements, one axis alone, or integers.
    """
    x, axis = op.operands[0], op.attrs["axis"]
    need_float(x)
    shape = shape_of(x)
    n, rank = shape[axis], len(shape)
    need(rank > 1, "the tensor has one axis")
    need(n <= 4096, f"axis {axis} has {n} elements, more than 4096")
    dims = [d for d in range(rank) if d != axis] + [axis]
    out = b.matmul(turned(b, x, dims), b.const(np.triu(np.ones((n, n))), x.dtype))
    return turned(b, out, [dims.index(d) for d in range(rank)])
