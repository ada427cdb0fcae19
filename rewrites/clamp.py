# SPDX-License-Identifier: Apache-2.0
"""Clamp, relu6, relu, threshold: limits of a value."""

from __future__ import annotations

from typing import Any

import numpy as np

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import need, need_float


def _bound(op: Op, name: str, x: Value) -> float | None:
    limit: float | None = op.attrs[name]
    if limit is not None and "int" in (x.dtype or ""):
        need(float(limit).is_integer(), f"{name} {limit} is not an integer and {x.name} is {x.dtype}")
        info = np.iinfo(str(x.dtype))
        limit = min(max(int(limit), int(info.min)), int(info.max))
    return limit


@rewrite(removes="relu6", yields="clamp", claim="exact")
def relu6_to_clamp(b: Builder, op: Op) -> Any:
    """relu6(x) becomes clamp(x, 0, 6).

    Formula: relu6(x) = min(max(x, 0), 6), the definition (torch.nn.ReLU6).
    Example: ``y = relu6(x)`` -> ``y = clamp(x, min=0, max=6)``.
    Bound: the same values, NaN included; the sign of a zero may differ.
    Does not apply: never.
    """
    return b.clamp(op.operands[0], min=0.0, max=6.0)


@rewrite(removes="relu6", yields=("relu", "sub"), claim="bounded", error="1e-06 absolute")
def relu6_to_relu(b: Builder, op: Op) -> Any:
    """relu6(x) becomes 6 - relu(6 - relu(x)), for devices whose only limit is relu.

    Formula: min(y, 6) = 6 - relu(6 - y), with y = relu(x).
    Example: ``y = relu6(x)`` -> ``y = sub(6, relu(sub(6, relu(x))))``.
    Bound: 1e-06 absolute in float32 (two subtractions from 6, each within half an ulp of 6). Infinities give
    0 and 6.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    six = b.const(6.0, x.dtype)
    return b.sub(six, b.relu(b.sub(six, b.relu(x))))


@rewrite(removes="relu", yields="clamp", claim="exact")
def relu_to_clamp(b: Builder, op: Op) -> Any:
    """relu(x) becomes clamp(x, min=0).

    Formula: relu(x) = max(x, 0), the definition.
    Example: ``y = relu(x)`` -> ``y = clamp(x, min=0, max=None)``.
    Bound: the same values, NaN included; the sign of a zero may differ.
    Does not apply: never.
    """
    return b.clamp(op.operands[0], min=0.0, max=None)


@rewrite(removes="relu", yields="maximum", claim="exact")
def relu_to_maximum(b: Builder, op: Op) -> Any:
    """relu(x) becomes maximum(x, 0).

    Formula: relu(x) = max(x, 0), the definition.
    Example: ``y = relu(x)`` -> ``y = maximum(x, 0)``.
    Bound: the same values, NaN included; the sign of a zero may differ.
    Does not apply: never.
    """
    return b.maximum(op.operands[0], 0.0)


@rewrite(removes="clamp", yields=("relu", "relu6"), claim="exact")
def clamp_to_relu(b: Builder, op: Op) -> Any:
    """clamp(x, min=0) becomes relu(x), and clamp(x, 0, 6) becomes relu6(x).

    Formula: the definitions of relu and relu6.
    Example: ``y = clamp(x, min=0, max=None)`` -> ``y = relu(x)``; ``y = clamp(x, min=0, max=6)`` -> ``y =
    relu6(x)``.
    Bound: the same values, NaN included; the sign of a zero may differ.
    Does not apply: with other limits.
    """
    low, high = op.attrs["min"], op.attrs["max"]
    need(low == 0 and high in (None, 6), f"the limits {low} and {high} are neither 0, none nor 0, 6")
    return b.relu(op.operands[0]) if high is None else b.relu6(op.operands[0])


@rewrite(removes="clamp", yields=("minimum", "maximum"), claim="exact")
def clamp_to_minimum_maximum(b: Builder, op: Op) -> Any:
    """clamp(x, a, b) becomes minimum(maximum(x, a), b).

    Formula: torch.clamp is min(max(x, a), b), also when a > b (then b).
    Example: ``y = clamp(x, min=-1, max=1)`` -> ``y = minimum(maximum(x, -1), 1)``.
    Bound: the same values, NaN included; the sign of a zero may differ.
    Does not apply: to integers limited by a fraction.
    """
    y = x = op.operands[0]
    low, high = _bound(op, "min", x), _bound(op, "max", x)
    if low is not None:
        y = b.maximum(y, low)
    if high is not None:
        y = b.minimum(y, high)
    return y


@rewrite(
    removes="clamp",
    yields=("relu", "add", "sub"),
    claim="bounded",
    error="2 ulp of the larger of |x| and |limit|",
)
def clamp_to_shifted_relu(b: Builder, op: Op) -> Any:
    """clamp(x, a, b) becomes b - relu(b - (a + relu(x - a))).

    Formula: max(x, a) = a + relu(x - a) and min(y, b) = b - relu(b - y).
    Example: ``y = clamp(x, min=-1, max=None)`` -> ``y = add(relu(sub(x, -1)), -1)``.
    Bound: 2 ulp of the larger of |x| and |limit| in float32: the shift rounds.
    Does not apply: to integers, to infinite limits, or when a > b.
    """
    y = x = op.operands[0]
    need_float(x)
    low, high = op.attrs["min"], op.attrs["max"]
    need(all(v is None or np.isfinite(v) for v in (low, high)), f"a limit of {low}, {high} is not finite")
    need(low is None or high is None or low <= high, f"the lower limit {low} is above the upper limit {high}")
    if low is not None:
        y = b.add(b.relu(b.sub(y, low)), low)
    if high is not None:
        top = b.const(float(high), x.dtype)
        y = b.sub(top, b.relu(b.sub(top, y)))
    return y


@rewrite(removes="threshold", yields=("le", "where"), claim="exact")
def threshold_to_where(b: Builder, op: Op) -> Any:
    """threshold(x, t, v) becomes where(x <= t, v, x).

    Formula: torch.nn.functional.threshold gives v where x <= t, and x elsewhere (so NaN stays NaN).
    Example: ``y = threshold(x, threshold=0.1, value=20)`` -> ``y = where(le(x, 0.1), 20, x)``.
    Bound: bit-equal.
    Does not apply: never.
    """
    x = op.operands[0]
    return b.where(b.le(x, op.attrs["threshold"]), b.const(op.attrs["value"], x.dtype), x)


@rewrite(removes="threshold", yields="relu", claim="exact")
def threshold_to_relu(b: Builder, op: Op) -> Any:
    """threshold(x, 0, 0) becomes relu(x).

    Formula: relu(x) = x if x > 0 else 0, the definition.
    Example: ``y = threshold(x, threshold=0, value=0)`` -> ``y = relu(x)``.
    Bound: the same values, NaN included; the sign of a zero may differ.
    Does not apply: with another threshold or value.
    """
    need(op.attrs["threshold"] == 0 and op.attrs["value"] == 0, "threshold and value are not both 0")
    return b.relu(op.operands[0])
