# SPDX-License-Identifier: Apache-2.0
"""Leaky relu, prelu and softsign."""

from __future__ import annotations

from math import prod
from typing import Any

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import need, need_float, per_channel, scalar, shape_of, view


@rewrite(removes="leaky_relu", yields=("mul", "maximum", "minimum"), claim="exact", error="2 ulp")
def leaky_relu_to_maximum(b: Builder, op: Op) -> Any:
    """leaky_relu(x) becomes maximum(x, slope * x), or minimum for a slope above 1.

    Formula: for 0 < slope <= 1, slope * x > x exactly where x < 0.
    Example: ``y = leaky_relu(x, negative_slope=0.1)`` -> ``y = maximum(x, mul(x, 0.1))``.
    Bound: bit-equal in float32, infinities and NaN included; 2 ulp in half precision, where torch multiplies in
    float32.
    Does not apply: to a slope of 0 or below.
    """
    x, slope = op.operands[0], float(op.attrs["negative_slope"])
    need(slope > 0, f"the slope {slope} is not positive")
    return (b.maximum if slope <= 1 else b.minimum)(x, b.mul(x, slope))


@rewrite(removes="leaky_relu", yields=("relu", "mul", "sub"), claim="exact", error="2 ulp")
def leaky_relu_to_relu(b: Builder, op: Op) -> Any:
    """leaky_relu(x) becomes relu(x) - slope * relu(-x).

    Formula: x = relu(x) - relu(-x); one of the two terms is 0, so that no sum rounds.
    Example: ``y = leaky_relu(x, negative_slope=0.1)`` -> ``y = sub(relu(x), mul(relu(mul(x, -1)), 0.1))``.
    Bound: the same values in float32, infinities and NaN included; 2 ulp in half precision, where torch multiplies in
    float32. The sign of a zero may differ.
    Does not apply: never.
    """
    x, slope = op.operands[0], float(op.attrs["negative_slope"])
    return b.sub(b.relu(x), b.mul(b.relu(b.mul(x, -1.0)), slope))


def _slopes(b: Builder, x: Value, weight: Value) -> Value:
    if prod(shape_of(weight)) == 1:
        return view(b, weight, ())
    return per_channel(b, weight, len(shape_of(x)))


@rewrite(removes="prelu", yields=("relu", "mul", "sub", "reshape"), claim="exact")
def prelu_to_relu(b: Builder, op: Op) -> Any:
    """prelu(x, w) becomes relu(x) - w * relu(-x), with w shaped to broadcast over the channels.

    Formula: x = relu(x) - relu(-x); one of the two terms is 0, so that no sum rounds.
    Example: ``y = prelu(x, w)`` -> ``y = sub(relu(x), mul(relu(mul(x, -1)), reshape(w, (1, C, 1, 1))))``.
    Bound: the same values for finite x; the sign of a zero may differ, and where w is 0 an x of -inf gives
    NaN (0 * inf), as torch's own prelu does.
    Does not apply: never.
    """
    x, weight = op.operands
    need_float(x)
    return b.sub(b.relu(x), b.mul(b.relu(b.mul(x, -1.0)), _slopes(b, x, weight)))


@rewrite(removes="prelu", yields=("mul", "maximum", "reshape"), claim="exact")
def prelu_to_maximum(b: Builder, op: Op) -> Any:
    """prelu(x, w) with every slope above 0 and at most 1 becomes maximum(x, w * x).

    Formula: for 0 < w < 1, w * x > x exactly where x < 0; for w = 1 both are x.
    Example: ``y = prelu(x, w)`` -> ``y = maximum(x, mul(x, reshape(w, (1, C, 1, 1))))``.
    Bound: the same values, infinities and NaN included; the sign of a zero may differ.
    Does not apply: when a slope is outside (0, 1], or the slopes are computed when the model runs.
    """
    x, weight = op.operands
    need_float(x)
    need(weight.is_const, "the slopes are computed when the model runs")
    slopes = weight.numpy()
    need(((slopes > 0) & (slopes <= 1)).all(), "a slope is not above 0 and at most 1")
    return b.maximum(x, b.mul(x, _slopes(b, x, weight)))


@rewrite(removes="prelu", yields="leaky_relu", claim="exact")
def prelu_to_leaky_relu(b: Builder, op: Op) -> Any:
    """prelu(x, w) with one constant slope becomes leaky_relu(x, w).

    Formula: both are x if x > 0 else w * x.
    Example: ``y = prelu(x, [0.25])`` -> ``y = leaky_relu(x, negative_slope=0.25)``.
    Bound: bit-equal.
    Does not apply: when the slopes differ between channels, or are computed when the model runs.
    """
    x, weight = op.operands
    return b.leaky_relu(x, negative_slope=scalar(weight, "slope"))


@rewrite(removes="softsign", yields=("abs", "add", "div"), claim="exact", error="2 ulp")
def softsign_to_div(b: Builder, op: Op) -> Any:
    """softsign(x) becomes x / (1 + |x|).

    Formula: softsign(x) = x / (1 + |x|), the definition (torch.nn.Softsign).
    Example: ``y = softsign(x)`` -> ``y = div(x, add(abs(x), 1))``.
    Bound: 2 ulp: torch divides as well and is bit-equal, onnxruntime's Softsign multiplies by the reciprocal. An
    infinite x gives NaN on both sides.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    return b.div(x, b.add(b.abs(x), 1.0))
