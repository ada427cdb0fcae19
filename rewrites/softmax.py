# SPDX-License-Identifier: Apache-2.0
"""Softmax, log_softmax and logsumexp, each with its largest element taken out first."""

from __future__ import annotations

from typing import Any

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import need, shape_of, turned, view


def _filled(x: Value) -> Value:
    """``x``, where it has elements: of none there is no largest."""
    need(0 not in shape_of(x), "there are no elements")
    return x


@rewrite(removes="softmax", yields=("amax", "sub", "exp", "sum", "div"), claim="bounded", error="2e-06 relative")
def softmax_to_exp(b: Builder, op: Op) -> Any:
    """softmax(x) becomes exp(x - max) / sum(exp(x - max)).

    Formula: softmax is unchanged by a shift of x; the shift by the maximum keeps exp from overflowing.
    Example: ``y = softmax(x, axis=1)`` -> ``e = exp(sub(x, amax(x, 1))); y = div(e, sum(e, 1))``.
    Bound: 2e-06 relative in float32: the sum is added in another order. A row with +inf, or all -inf, is NaN
    on both sides.
    Does not apply: to a tensor without elements.
    """
    x, axes = _filled(op.operands[0]), (op.attrs["axis"],)
    e = b.exp(b.sub(x, b.amax(x, axes=axes, keepdim=True)))
    return b.div(e, b.sum(e, axes=axes, keepdim=True))


@rewrite(
    removes="log_softmax",
    yields=("amax", "sub", "exp", "sum", "log"),
    claim="bounded",
    error="2e-06 relative 1e-06 absolute",
)
def log_softmax_to_log(b: Builder, op: Op) -> Any:
    """log_softmax(x) becomes (x - max) - log(sum(exp(x - max))).

    Formula: log(exp(x_i) / sum_j exp(x_j)) with the maximum taken out of both.
    Example: ``y = log_softmax(x, axis=1)`` -> ``d = sub(x, amax(x, 1)); y = sub(d, log(sum(exp(d), 1)))``.
    Bound: 2e-06 relative plus 1e-06 absolute in float32: the sum is added in another order.
    Does not apply: to a tensor without elements.
    """
    x, axes = _filled(op.operands[0]), (op.attrs["axis"],)
    d = b.sub(x, b.amax(x, axes=axes, keepdim=True))
    return b.sub(d, b.log(b.sum(b.exp(d), axes=axes, keepdim=True)))


@rewrite(
    removes="log_softmax",
    yields=("softmax", "log"),
    claim="approximate",
    error="2e-06 absolute where softmax(x) > 1e-30; -inf below",
)
def log_softmax_to_softmax(b: Builder, op: Op) -> Any:
    """log_softmax(x) becomes log(softmax(x)), for devices that cannot reduce.

    Formula: the definition, without the care for small probabilities.
    Example: ``y = log_softmax(x, axis=1)`` -> ``y = log(softmax(x, axis=1))``.
    Bound: 2e-06 absolute in float32 where the probability is above 1e-30; a probability that underflows (x
    more than 87 below the maximum) gives -inf. Needs ``--allow approximate``.
    Does not apply: never.
    """
    return b.log(b.softmax(op.operands[0], axis=op.attrs["axis"]))


@rewrite(
    removes="logsumexp",
    yields=("amax", "sub", "exp", "sum", "log", "add", "reshape"),
    claim="bounded",
    error="2e-06 relative 1e-06 absolute",
)
def logsumexp_to_log(b: Builder, op: Op) -> Any:
    """logsumexp(x) becomes max + log(sum(exp(x - max))).

    Formula: log(sum(exp(x))) with the maximum taken out.
    Example: ``y = logsumexp(x, (1,))`` -> ``m = amax(x, 1); y = add(m, log(sum(exp(sub(x, m)), 1)))``.
    Bound: 2e-06 relative plus 1e-06 absolute in float32 for finite x; where the maximum is infinite the
    result is NaN and torch's is that infinity.
    Does not apply: to a tensor without elements.
    """
    x, axes = _filled(op.operands[0]), op.attrs["axes"]
    m = b.amax(x, axes=axes, keepdim=True)
    out = b.add(m, b.log(b.sum(b.exp(b.sub(x, m)), axes=axes, keepdim=True)))
    return out if op.attrs["keepdim"] else view(b, out, shape_of(op.outputs[0]))


@rewrite(
    removes=("softmax", "log_softmax"),
    yields=("softmax", "log_softmax", "permute"),
    claim="exact",
    error="4 ulp",
)
def softmax_to_last_axis(b: Builder, op: Op) -> Any:
    """softmax over an inner axis becomes permute, softmax over the last axis, permute back.

    Formula: the axes of softmax are independent but for one.
    Example: ``y = softmax(x, axis=1)`` -> ``y = permute(softmax(permute(x, (0, 2, 3, 1)), axis=3), (0, 3, 1,
    2))``.
    Bound: 4 ulp in float32: kernels add the row in another order along another axis.
    Does not apply: when the axis is the last already.
    """
    x, axis = op.operands[0], op.attrs["axis"]
    rank = len(shape_of(x))
    need(axis != rank - 1, "the axis is the last already")
    dims = [d for d in range(rank) if d != axis] + [axis]
    back = [dims.index(d) for d in range(rank)]
    return turned(b, b.op(op.kind, (turned(b, x, dims),), axis=rank - 1)[0], back)
