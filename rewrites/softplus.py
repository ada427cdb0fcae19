# SPDX-License-Identifier: Apache-2.0
"""Softplus, logsigmoid and mish: log(1 + exp(x)) without overflow."""

from __future__ import annotations

from math import exp
from typing import Any

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import need, need_float


def _tail(b: Builder, y: Value, kind: str) -> Any:
    """log(1 + exp(-|y|))."""
    small = b.exp(b.neg(b.abs(y)))
    return b.log1p(small) if kind == "log1p" else b.log(b.add(small, 1.0))


def _stable(b: Builder, op: Op, kind: str) -> Any:
    x, beta, threshold = op.operands[0], float(op.attrs["beta"]), float(op.attrs["threshold"])
    need_float(x)
    need(beta > 0, f"beta {beta} is not positive")
    need(
        threshold >= 15,
        f"above the threshold {threshold} softplus is x, and log(1 + exp(-{threshold})) is not nothing",
    )
    y = x if beta == 1 else b.mul(x, beta)
    out = b.add(b.relu(y), _tail(b, y, kind))
    return out if beta == 1 else b.mul(out, 1 / beta)


@rewrite(
    removes="softplus",
    yields=("relu", "abs", "neg", "exp", "log1p", "add", "mul"),
    claim="bounded",
    error="1e-06 relative 4e-07 absolute",
)
def softplus_to_log1p(b: Builder, op: Op) -> Any:
    """softplus(x) becomes relu(x) + log1p(exp(-|x|)).

    Formula: log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)); with beta, of beta * x and divided by beta.
    Example: ``y = softplus(x, beta=1)`` -> ``y = add(relu(x), log1p(exp(neg(abs(x)))))``.
    Bound: 1e-06 relative plus 4e-07 absolute / beta in float32; above the threshold torch gives x, which
    differs by at most exp(-threshold) / beta (2.1e-9 for the default 20). No overflow for any x.
    Does not apply: with a threshold below 15, where that difference shows, or a beta that is not positive.
    """
    return _stable(b, op, "log1p")


@rewrite(
    removes="softplus",
    yields=("relu", "abs", "neg", "exp", "log", "add", "mul"),
    claim="bounded",
    error="1e-06 relative 4e-07 absolute",
)
def softplus_to_log(b: Builder, op: Op) -> Any:
    """softplus(x) becomes relu(x) + log(1 + exp(-|x|)), for devices without log1p.

    Formula: log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)); with beta, of beta * x and divided by beta.
    Example: ``y = softplus(x, beta=1)`` -> ``y = add(relu(x), log(add(exp(neg(abs(x))), 1)))``.
    Bound: 1e-06 relative plus 4e-07 absolute / beta in float32: the sum 1 + exp(-|x|) rounds, so that results
    below 1e-7 are 0. No overflow for any x.
    Does not apply: with a threshold below 15, where the switch to x shows, or a beta that is not positive.
    """
    return _stable(b, op, "log")


@rewrite(
    removes="logsigmoid",
    yields=("relu", "abs", "neg", "exp", "log", "add"),
    claim="bounded",
    error="1e-06 relative 4e-07 absolute",
)
def logsigmoid_to_log(b: Builder, op: Op) -> Any:
    """logsigmoid(x) becomes -(relu(-x) + log(1 + exp(-|x|))).

    Formula: log(sigmoid(x)) = min(x, 0) - log(1 + exp(-|x|)), and min(x, 0) = -relu(-x).
    Example: ``y = logsigmoid(x)`` -> ``y = neg(add(relu(neg(x)), log(add(exp(neg(abs(x))), 1))))``.
    Bound: 1e-06 relative plus 4e-07 absolute in float32: 1 + exp(-|x|) rounds.
    Does not apply: never.
    """
    x = op.operands[0]
    return b.neg(b.add(b.relu(b.neg(x)), _tail(b, x, "log")))


@rewrite(removes="logsigmoid", yields=("neg", "softplus"), claim="bounded", error="1e-06 relative 4e-07 absolute")
def logsigmoid_to_softplus(b: Builder, op: Op) -> Any:
    """logsigmoid(x) becomes -softplus(-x).

    Formula: log(1 / (1 + exp(-x))) = -log(1 + exp(-x)).
    Example: ``y = logsigmoid(x)`` -> ``y = neg(softplus(neg(x), beta=1, threshold=20))``.
    Bound: 1e-06 relative plus 4e-07 absolute in float32; softplus above its threshold 20 drops exp(-20) =
    2.1e-9.
    Does not apply: never.
    """
    return b.neg(b.softplus(b.neg(op.operands[0]), beta=1.0, threshold=20.0))


@rewrite(removes="mish", yields=("softplus", "tanh", "mul"), claim="exact", error="8 ulp")
def mish_to_softplus(b: Builder, op: Op) -> Any:
    """mish(x) becomes x * tanh(softplus(x)).

    Formula: mish(x) = x * tanh(softplus(x)), the definition (Misra, arXiv:1908.08681).
    Example: ``y = mish(x)`` -> ``y = mul(x, tanh(softplus(x, beta=1, threshold=20)))``.
    Bound: 8 ulp in float32 where softplus is accurate to 1 ulp (a device's may not be).
    Does not apply: never.
    """
    x = op.operands[0]
    return b.mul(x, b.tanh(b.softplus(x, beta=1.0, threshold=20.0)))


@rewrite(removes="mish", yields=("minimum", "exp", "mul", "add", "div"), claim="bounded", error="2e-06 relative")
def mish_to_exp(b: Builder, op: Op) -> Any:
    """mish(x) becomes x * n / (n + 2) with n = e * (e + 2), e = exp(min(x, 20)).

    Formula: tanh(log(1 + e)) = ((1 + e)^2 - 1) / ((1 + e)^2 + 1) = n / (n + 2), with no cancellation.
    Example: ``y = mish(x)`` -> ``e = exp(minimum(x, 20)); n = mul(e, add(e, 2)); y = mul(x, div(n, add(n,
    2)))``.
    Bound: 2e-06 relative in float32; beyond x = 20 the quotient is 1, as tanh(20) is.
    Does not apply: to float16, where n overflows.
    """
    x = op.operands[0]
    need(x.dtype in ("float32", "float64"), f"exp(20)^2 = {exp(40):.1e} overflows {x.dtype}")
    e = b.exp(b.minimum(x, 20.0))
    n = b.mul(e, b.add(e, 2.0))
    return b.mul(x, b.div(n, b.add(n, 2.0)))
