# SPDX-License-Identifier: Apache-2.0
"""SiLU (swish)."""

from __future__ import annotations

from typing import Any

from porter.ops import Op
from porter.rewrite import Builder, rewrite


@rewrite(removes="silu", yields=("sigmoid", "mul"), claim="exact", error="4 ulp")
def silu_to_sigmoid_mul(b: Builder, op: Op) -> Any:
    """silu(x) becomes x * sigmoid(x).

    Formula: silu(x) = x * sigmoid(x), the definition (Elfwing et al., arXiv:1702.03118; torch.nn.SiLU).
    Example: ``y = silu(x)`` -> ``s = sigmoid(x); y = mul(x, s)``.
    Bound: 4 ulp, because torch divides x by 1 + exp(-x) instead; in half precision for x above -9, for below it
    sigmoid(x) is no normal number. NaN stays NaN, and silu(-inf) is NaN on both sides.
    Does not apply: never; every silu can be written so.
    """
    x = op.operands[0]
    return b.mul(x, b.sigmoid(x))


@rewrite(removes="silu", yields="hardswish", claim="retrain", error="0.15 absolute")
def silu_to_hardswish(b: Builder, op: Op) -> Any:
    """silu(x) becomes hardswish(x), another function: fine-tune the model afterwards.

    Formula: hardswish(x) = x * relu6(x + 3) / 6 (Howard et al., "Searching for MobileNetV3", section 5.2).
    Example: ``y = silu(x)`` -> ``y = hardswish(x)``.
    Bound: |silu(x) - hardswish(x)| <= 0.15 absolute for every x, reached near |x| = 3; the errors of many
    layers add up.
    Does not apply: never. Needs ``--allow retrain``.
    """
    return b.hardswish(op.operands[0])


@rewrite(removes="silu", yields="relu", claim="retrain", error="0.28 absolute")
def silu_to_relu(b: Builder, op: Op) -> Any:
    """silu(x) becomes relu(x), another function: fine-tune the model afterwards.

    Formula: relu(x) = max(x, 0).
    Example: ``y = silu(x)`` -> ``y = relu(x)``.
    Bound: |silu(x) - relu(x)| <= 0.28 absolute for every x (the minimum of silu is -0.2785, at x = -1.2785,
    and the difference is symmetric).
    Does not apply: never. Needs ``--allow retrain``.
    """
    return b.relu(op.operands[0])
