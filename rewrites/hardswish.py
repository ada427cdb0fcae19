# SPDX-License-Identifier: Apache-2.0
"""Hardswish and hardsigmoid."""

from __future__ import annotations

from typing import Any

from porter.ops import Op
from porter.rewrite import Builder, rewrite

from ._tools import need, need_float


@rewrite(removes="hardswish", yields=("add", "relu6", "mul", "div"), claim="exact", error="2 ulp")
def hardswish_to_relu6(b: Builder, op: Op) -> Any:
    """hardswish(x) becomes x * relu6(x + 3) / 6.

    Formula: hardswish(x) = x * relu6(x + 3) / 6 (torch.nn.Hardswish). In half precision it is divided first, for 6 x
    may be more than 65504.
    Example: ``y = hardswish(x)`` -> ``y = div(mul(x, relu6(add(x, 3))), 6)``.
    Bound: 2 ulp (in float32 the same operations in the same order as torch's).
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    if x.dtype == "float16":
        return b.mul(x, b.div(b.relu6(b.add(x, 3.0)), 6.0))
    return b.div(b.mul(x, b.relu6(b.add(x, 3.0))), 6.0)


@rewrite(removes="hardswish", yields=("hardsigmoid", "mul"), claim="bounded", error="3e-07 absolute 4e-07 relative")
def hardswish_to_hardsigmoid(b: Builder, op: Op) -> Any:
    """hardswish(x) becomes x * hardsigmoid(x).

    Formula: hardswish(x) = x * clamp(x / 6 + 1/2, 0, 1) (ONNX HardSwish).
    Example: ``y = hardswish(x)`` -> ``y = mul(x, hardsigmoid(x, alpha=1/6, beta=1/2))``.
    Bound: 3e-07 absolute plus 4e-07 relative in float32: near x = -3 the sum x/6 + 1/2 cancels.
    Does not apply: never.
    """
    x = op.operands[0]
    return b.mul(x, b.hardsigmoid(x, alpha=1 / 6, beta=0.5))


@rewrite(removes="hardsigmoid", yields=("mul", "add", "clamp"), claim="bounded", error="2e-07 absolute")
def hardsigmoid_to_clamp(b: Builder, op: Op) -> Any:
    """hardsigmoid(x) becomes clamp(alpha * x + beta, 0, 1).

    Formula: clamp(alpha * x + beta, 0, 1), the definition (ONNX HardSigmoid; torch's is alpha 1/6, beta 1/2).
    Example: ``y = hardsigmoid(x)`` -> ``y = clamp(add(mul(x, alpha), beta), 0, 1)``.
    Bound: 2e-07 absolute in float32: torch divides relu6(x + 3) by 6 instead.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    return b.clamp(b.add(b.mul(x, op.attrs["alpha"]), op.attrs["beta"]), min=0.0, max=1.0)


@rewrite(removes="hardsigmoid", yields=("add", "relu6", "div"), claim="exact", error="2 ulp")
def hardsigmoid_to_relu6(b: Builder, op: Op) -> Any:
    """hardsigmoid(x) with torch's constants becomes relu6(x + 3) / 6.

    Formula: hardsigmoid(x) = relu6(x + 3) / 6 (torch.nn.Hardsigmoid).
    Example: ``y = hardsigmoid(x)`` -> ``y = div(relu6(add(x, 3)), 6)``.
    Bound: 2 ulp in float32 against torch.
    Does not apply: when alpha is not 1/6 or beta is not 1/2 (ONNX's default is 0.2 and 0.5).
    """
    alpha, beta = op.attrs["alpha"], op.attrs["beta"]
    need(abs(alpha - 1 / 6) < 1e-6 and beta == 0.5, f"alpha {alpha} and beta {beta} are not 1/6 and 1/2")
    return b.div(b.relu6(b.add(op.operands[0], 3.0)), 6.0)
