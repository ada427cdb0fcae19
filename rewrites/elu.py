# SPDX-License-Identifier: Apache-2.0
"""ELU, CELU and SELU: a line above zero, an exponential below."""

from __future__ import annotations

from typing import Any

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import need

_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805


def _below(b: Builder, x: Value, alpha: float, inner: float) -> Any:
    """alpha * (exp(inner * min(x, 0)) - 1), with min(x, 0) = -relu(-x)."""
    low = b.mul(b.relu(b.mul(x, -1.0)), -inner)
    return b.mul(b.sub(b.exp(low), 1.0), alpha)


@rewrite(
    removes="elu",
    yields=("relu", "mul", "exp", "sub", "add"),
    claim="bounded",
    error="2e-07 absolute * |alpha|",
)
def elu_to_exp(b: Builder, op: Op) -> Any:
    """elu(x) becomes relu(x) + alpha * (exp(-relu(-x)) - 1).

    Formula: elu(x) = max(x, 0) + alpha * (exp(min(x, 0)) - 1) (Clevert et al., arXiv:1511.07289).
    Example: ``y = elu(x, alpha=1)`` -> ``y = add(relu(x), mul(sub(exp(mul(relu(mul(x, -1)), -1)), 1),
    alpha))``.
    Bound: 2e-07 absolute * |alpha| in float32: torch uses expm1, and exp(x) - 1 cancels near 0. Exact for x
    >= 0.
    Does not apply: never.
    """
    x = op.operands[0]
    return b.add(b.relu(x), _below(b, x, float(op.attrs["alpha"]), 1.0))


@rewrite(
    removes="celu",
    yields=("relu", "mul", "exp", "sub", "add"),
    claim="bounded",
    error="2e-07 absolute * |alpha|",
)
def celu_to_exp(b: Builder, op: Op) -> Any:
    """celu(x) becomes relu(x) + alpha * (exp(-relu(-x) / alpha) - 1).

    Formula: celu(x) = max(x, 0) + min(0, alpha * (exp(x / alpha) - 1)) (Barron, arXiv:1704.07483).
    Example: ``y = celu(x, alpha=2)`` -> ``y = add(relu(x), mul(sub(exp(mul(relu(mul(x, -1)), -0.5)), 1),
    2))``.
    Bound: 2e-07 absolute * |alpha| in float32, plus the rounding of x / alpha. Exact for x >= 0.
    Does not apply: when alpha is not positive.
    """
    x, alpha = op.operands[0], float(op.attrs["alpha"])
    need(alpha > 0, f"alpha {alpha} is not positive")
    return b.add(b.relu(x), _below(b, x, alpha, 1 / alpha))


@rewrite(
    removes="selu",
    yields=("relu", "mul", "exp", "sub", "add"),
    claim="bounded",
    error="5e-07 absolute 2e-07 relative",
)
def selu_to_exp(b: Builder, op: Op) -> Any:
    """selu(x) becomes scale * relu(x) + scale * alpha * (exp(-relu(-x)) - 1).

    Formula: selu(x) = 1.0507009873554805 * elu(x, alpha=1.6732632423543772) (Klambauer et al.,
    arXiv:1706.02515).
    Example: ``y = selu(x)`` -> ``y = add(mul(relu(x), 1.0507), mul(sub(exp(mul(relu(mul(x, -1)), -1)), 1),
    1.7581))``.
    Bound: 5e-07 absolute plus 2e-07 relative in float32: exp(x) - 1 cancels near 0.
    Does not apply: never.
    """
    x = op.operands[0]
    return b.add(b.mul(b.relu(x), _SELU_SCALE), _below(b, x, _SELU_SCALE * _SELU_ALPHA, 1.0))


@rewrite(removes=("celu", "selu"), yields=("elu", "mul"), claim="bounded", error="5e-07 absolute 5e-07 relative")
def celu_selu_to_elu(b: Builder, op: Op) -> Any:
    """selu(x) becomes 1.0507 * elu(x, 1.6733); celu(x, alpha) becomes alpha * elu(x / alpha, 1).

    Formula: the definition of selu; celu(x) = alpha * elu(x / alpha, 1) for alpha > 0.
    Example: ``y = selu(x)`` -> ``y = mul(elu(x, alpha=1.67326), 1.0507)``.
    Bound: 5e-07 absolute plus 5e-07 relative in float32 (a product and, for celu, a quotient more).
    Does not apply: to a celu whose alpha is not positive.
    """
    x = op.operands[0]
    if op.kind == "selu":
        return b.mul(b.elu(x, alpha=_SELU_ALPHA), _SELU_SCALE)
    alpha = float(op.attrs["alpha"])
    need(alpha > 0, f"alpha {alpha} is not positive")
    if alpha == 1:
        return b.elu(x, alpha=1.0)
    return b.mul(b.elu(b.mul(x, 1 / alpha), alpha=1.0), alpha)
