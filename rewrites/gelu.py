# SPDX-License-Identifier: Apache-2.0
"""GELU, with the error function, with tanh, and with sigmoid."""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import need


def _tanh_form(b: Builder, x: Value) -> Any:
    inner = b.mul(b.add(x, b.mul(b.mul(b.mul(x, x), x), 0.044715)), sqrt(2 / pi))
    return b.mul(b.mul(x, 0.5), b.add(b.tanh(inner), 1.0))


@rewrite(removes="gelu", yields=("mul", "erf", "add"), claim="bounded", error="1e-06 absolute 5e-07 relative")
def gelu_to_erf(b: Builder, op: Op) -> Any:
    """gelu(x) becomes x / 2 * (1 + erf(x / sqrt(2))).

    Formula: gelu(x) = x * Phi(x), Phi(x) = (1 + erf(x / sqrt(2))) / 2 (Hendrycks and Gimpel,
    arXiv:1606.08415).
    Example: ``y = gelu(x)`` -> ``y = mul(mul(x, 0.5), add(erf(mul(x, 0.70710678)), 1))``.
    Bound: 1e-06 absolute plus 5e-07 relative in float32; 1 + erf cancels for negative x. Not for
    infinities, of which torch's own CPU kernel makes NaN.
    Does not apply: to approximate='tanh'.
    """
    need(op.attrs["approximate"] == "none", "this gelu is the tanh form")
    x = op.operands[0]
    return b.mul(b.mul(x, 0.5), b.add(b.erf(b.mul(x, sqrt(0.5))), 1.0))


@rewrite(removes="gelu", yields=("mul", "add", "tanh"), claim="bounded", error="1e-06 absolute 5e-07 relative")
def gelu_tanh_to_tanh(b: Builder, op: Op) -> Any:
    """gelu(x, approximate='tanh') becomes its own formula.

    Formula: x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) (torch.nn.GELU).
    Example: ``y = gelu(x, approximate='tanh')`` -> ``mul(mul(x, .5), add(tanh(mul(add(x, ...), 0.79788)),
    1))``.
    Bound: 1e-06 absolute plus 5e-07 relative in float32; 1 + tanh cancels for negative x.
    Does not apply: to approximate='none' (gelu_none_to_tanh is the approximate rule for that).
    """
    need(op.attrs["approximate"] == "tanh", "this gelu is the exact form")
    return _tanh_form(b, op.operands[0])


@rewrite(removes="gelu", yields=("mul", "add", "tanh"), claim="approximate", error="5e-04 absolute")
def gelu_none_to_tanh(b: Builder, op: Op) -> Any:
    """gelu(x) becomes the tanh form, for devices without erf.

    Formula: x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) (Hendrycks and Gimpel, arXiv:1606.08415,
    section 2).
    Example: ``y = gelu(x)`` -> ``mul(mul(x, .5), add(tanh(mul(add(x, ...), 0.79788)), 1))``.
    Bound: 5e-04 absolute for every x, reached near |x| = 2.7. Needs ``--allow approximate``.
    Does not apply: to approximate='tanh', where gelu_tanh_to_tanh is the same formula without a loss.
    """
    need(op.attrs["approximate"] == "none", "this gelu is the tanh form already")
    return _tanh_form(b, op.operands[0])


@rewrite(removes="gelu", yields=("mul", "sigmoid"), claim="retrain", error="0.021 absolute")
def gelu_to_sigmoid(b: Builder, op: Op) -> Any:
    """gelu(x) becomes x * sigmoid(1.702 x): fine-tune the model afterwards.

    Formula: gelu(x) is about x * sigmoid(1.702 x) (Hendrycks and Gimpel, arXiv:1606.08415, section 2).
    Example: ``y = gelu(x)`` -> ``y = mul(x, sigmoid(mul(x, 1.702)))``.
    Bound: 0.021 absolute for every x. Needs ``--allow retrain``.
    Does not apply: never.
    """
    x = op.operands[0]
    return b.mul(x, b.sigmoid(b.mul(x, 1.702)))
