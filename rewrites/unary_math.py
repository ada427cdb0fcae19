# SPDX-License-Identifier: Apache-2.0
"""Elementary functions through other elementary functions."""

from __future__ import annotations

from math import log
from typing import Any

from porter.ops import Op
from porter.rewrite import Builder, rewrite

from ._tools import need, need_float


@rewrite(removes="square", yields="mul", claim="exact")
def square_to_mul(b: Builder, op: Op) -> Any:
    """square(x) becomes x * x.

    Formula: the definition.
    Example: ``y = square(x)`` -> ``y = mul(x, x)``.
    Bound: bit-equal.
    Does not apply: to bool.
    """
    need(op.operands[0].dtype != "bool", f"{op.operands[0].name} is bool")
    return b.mul(op.operands[0], op.operands[0])


@rewrite(removes="rsqrt", yields=("sqrt", "reciprocal"), claim="exact", error="2 ulp")
def rsqrt_to_reciprocal(b: Builder, op: Op) -> Any:
    """rsqrt(x) becomes reciprocal(sqrt(x)).

    Formula: the definition.
    Example: ``y = rsqrt(x)`` -> ``y = reciprocal(sqrt(x))``.
    Bound: 2 ulp (two roundings). rsqrt(0) is inf and rsqrt(-1) is NaN on both sides.
    Does not apply: to integers.
    """
    need_float(op.operands[0])
    return b.reciprocal(b.sqrt(op.operands[0]))


@rewrite(removes="rsqrt", yields="pow", claim="bounded", error="4 ulp")
def rsqrt_to_pow(b: Builder, op: Op) -> Any:
    """rsqrt(x) becomes x ** -0.5.

    Formula: the definition.
    Example: ``y = rsqrt(x)`` -> ``y = pow(x, -0.5)``.
    Bound: 4 ulp in float32 for x > 0; pow(-inf, -0.5) is 0 where rsqrt is NaN, and pow(-0.0, -0.5) is +inf.
    Does not apply: to integers.
    """
    need_float(op.operands[0])
    return b.pow(op.operands[0], -0.5)


@rewrite(removes="sqrt", yields="pow", claim="bounded", error="4 ulp")
def sqrt_to_pow(b: Builder, op: Op) -> Any:
    """sqrt(x) becomes x ** 0.5.

    Formula: the definition.
    Example: ``y = sqrt(x)`` -> ``y = pow(x, 0.5)``.
    Bound: 4 ulp in float32 for x >= 0; pow(-inf, 0.5) is inf where sqrt is NaN.
    Does not apply: to integers.
    """
    need_float(op.operands[0])
    return b.pow(op.operands[0], 0.5)


@rewrite(removes="reciprocal", yields="div", claim="exact")
def reciprocal_to_div(b: Builder, op: Op) -> Any:
    """reciprocal(x) becomes 1 / x.

    Formula: the definition.
    Example: ``y = reciprocal(x)`` -> ``y = div(1, x)``.
    Bound: bit-equal.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    return b.div(b.const(1.0, x.dtype), x)


@rewrite(removes="neg", yields="mul", claim="exact")
def neg_to_mul(b: Builder, op: Op) -> Any:
    """-x becomes x * -1.

    Formula: multiplication by -1 flips the sign and rounds nothing.
    Example: ``y = neg(x)`` -> ``y = mul(x, -1)``.
    Bound: bit-equal, zeros and infinities included.
    Does not apply: never.
    """
    return b.mul(op.operands[0], -1)


@rewrite(removes="neg", yields="sub", claim="exact")
def neg_to_sub(b: Builder, op: Op) -> Any:
    """-x becomes 0 - x.

    Formula: subtraction from 0 rounds nothing.
    Example: ``y = neg(x)`` -> ``y = sub(0, x)``.
    Bound: the same values; -(+0) becomes +0 (the sign of a zero differs).
    Does not apply: never.
    """
    x = op.operands[0]
    return b.sub(b.const(0, x.dtype), x)


@rewrite(removes="abs", yields=("mul", "maximum"), claim="exact")
def abs_to_maximum(b: Builder, op: Op) -> Any:
    """|x| becomes maximum(x, -x).

    Formula: the definition.
    Example: ``y = abs(x)`` -> ``y = maximum(x, mul(x, -1))``.
    Bound: the same values, infinities and NaN included; the sign of a zero may differ.
    Does not apply: never.
    """
    x = op.operands[0]
    return b.maximum(x, b.mul(x, -1))


@rewrite(removes="abs", yields=("mul", "relu", "add"), claim="exact")
def abs_to_relu(b: Builder, op: Op) -> Any:
    """|x| becomes relu(x) + relu(-x).

    Formula: one of the two terms is 0, so that the sum does not round.
    Example: ``y = abs(x)`` -> ``y = add(relu(x), relu(mul(x, -1)))``.
    Bound: the same values, infinities and NaN included; the sign of a zero may differ.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    return b.add(b.relu(x), b.relu(b.mul(x, -1)))


@rewrite(removes="sign", yields=("gt", "lt", "cast", "sub"), claim="exact")
def sign_to_comparisons(b: Builder, op: Op) -> Any:
    """sign(x) becomes (x > 0) - (x < 0).

    Formula: the definition (torch.sign; NaN gives 0).
    Example: ``y = sign(x)`` -> ``y = sub(cast(gt(x, 0)), cast(lt(x, 0)))``.
    Bound: the same values; the sign of a zero may differ.
    Does not apply: to bool.
    """
    x = op.operands[0]
    need(x.dtype != "bool", f"{x.name} is bool")
    return b.sub(b.cast(b.gt(x, 0), dtype=x.dtype), b.cast(b.lt(x, 0), dtype=x.dtype))


@rewrite(removes="expm1", yields=("exp", "sub"), claim="bounded", error="2e-07 absolute 2e-07 relative")
def expm1_to_exp(b: Builder, op: Op) -> Any:
    """expm1(x) becomes exp(x) - 1.

    Formula: the definition.
    Example: ``y = expm1(x)`` -> ``y = sub(exp(x), 1)``.
    Bound: 2e-07 absolute plus 2e-07 relative in float32; near x = 0 the difference cancels, so that the
    relative error of a small result is large.
    Does not apply: to integers.
    """
    need_float(op.operands[0])
    return b.sub(b.exp(op.operands[0]), 1.0)


@rewrite(removes="log1p", yields=("add", "log"), claim="bounded", error="2e-07 absolute 2e-07 relative")
def log1p_to_log(b: Builder, op: Op) -> Any:
    """log1p(x) becomes log(1 + x).

    Formula: the definition.
    Example: ``y = log1p(x)`` -> ``y = log(add(x, 1))``.
    Bound: 2e-07 absolute plus 2e-07 relative in float32 for x >= -0.5; the sum rounds, and towards x = -1
    that rounding grows as 6e-08 / (1 + x).
    Does not apply: to integers.
    """
    need_float(op.operands[0])
    return b.log(b.add(op.operands[0], 1.0))


@rewrite(removes="tan", yields=("sin", "cos", "div"), claim="exact", error="6 ulp")
def tan_to_sin_cos(b: Builder, op: Op) -> Any:
    """tan(x) becomes sin(x) / cos(x).

    Formula: the definition.
    Example: ``y = tan(x)`` -> ``y = div(sin(x), cos(x))``.
    Bound: 6 ulp where sin and cos are accurate to 1 ulp.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    return b.div(b.sin(x), b.cos(x))


@rewrite(removes="tanh", yields=("mul", "sigmoid", "sub"), claim="bounded", error="3e-07 absolute")
def tanh_to_sigmoid(b: Builder, op: Op) -> Any:
    """tanh(x) becomes 2 * sigmoid(2 x) - 1.

    Formula: tanh(x) = 2 / (1 + exp(-2 x)) - 1.
    Example: ``y = tanh(x)`` -> ``y = sub(mul(sigmoid(mul(x, 2)), 2), 1)``.
    Bound: 3e-07 absolute in float32; near x = 0 the difference cancels.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    return b.sub(b.mul(b.sigmoid(b.mul(x, 2.0)), 2.0), 1.0)


@rewrite(removes="sigmoid", yields=("mul", "tanh", "add"), claim="bounded", error="2e-07 absolute")
def sigmoid_to_tanh(b: Builder, op: Op) -> Any:
    """sigmoid(x) becomes 0.5 * tanh(0.5 x) + 0.5.

    Formula: sigmoid(x) = (1 + tanh(x / 2)) / 2.
    Example: ``y = sigmoid(x)`` -> ``y = add(mul(tanh(mul(x, 0.5)), 0.5), 0.5)``.
    Bound: 2e-07 absolute in float32; for x below -17 the result is 0 where sigmoid is exp(x).
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    return b.add(b.mul(b.tanh(b.mul(x, 0.5)), 0.5), 0.5)


@rewrite(removes="sigmoid", yields=("mul", "exp", "add", "reciprocal"), claim="exact", error="4 ulp")
def sigmoid_to_exp(b: Builder, op: Op) -> Any:
    """sigmoid(x) becomes 1 / (1 + exp(-x)).

    Formula: the definition.
    Example: ``y = sigmoid(x)`` -> ``y = reciprocal(add(exp(mul(x, -1)), 1))``.
    Bound: 4 ulp; for x below -88 exp overflows to inf in float32 and the result is 0, as torch's.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    return b.reciprocal(b.add(b.exp(b.mul(x, -1.0)), 1.0))


@rewrite(removes=("log2", "log10"), yields=("log", "mul"), claim="exact", error="3 ulp")
def log2_log10_to_log(b: Builder, op: Op) -> Any:
    """log2(x) becomes log(x) / ln 2, and log10(x) becomes log(x) / ln 10.

    Formula: the change of base.
    Example: ``y = log2(x)`` -> ``y = mul(log(x), 1.4426950)``.
    Bound: 3 ulp: the constant and the product round.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    return b.mul(b.log(x), 1 / log(2.0 if op.kind == "log2" else 10.0))


@rewrite(
    removes="erf",
    yields=("abs", "mul", "add", "reciprocal", "exp", "sign", "sub"),
    claim="approximate",
    error="1e-06 absolute",
)
def erf_to_exp(b: Builder, op: Op) -> Any:
    """erf(x) becomes a polynomial in 1 / (1 + p |x|) times exp(-x^2).

    Formula: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: erf(x) is about 1 - (a1 t + a2
    t^2 + a3 t^3 + a4 t^4 + a5 t^5) exp(-x^2) with t = 1 / (1 + 0.3275911 x), for x >= 0; erf is odd.
    Example: ``y = erf(x)`` -> ``y = mul(sign(x), sub(1, mul(polynomial, exp(mul(mul(x, x), -1)))))``.
    Bound: 1e-06 absolute in float32 (1.5e-7 of the formula, the rest rounding). Needs
    ``--allow approximate``.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    t = b.reciprocal(b.add(b.mul(b.abs(x), 0.3275911), 1.0))
    p = b.mul(t, 1.061405429)
    for a in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        p = b.mul(b.add(p, a), t)
    tail = b.mul(p, b.exp(b.mul(b.mul(x, x), -1.0)))
    return b.mul(b.sign(x), b.sub(b.const(1.0, x.dtype), tail))


@rewrite(removes="isnan", yields="ne", claim="exact")
def isnan_to_ne(b: Builder, op: Op) -> Any:
    """isnan(x) becomes x != x.

    Formula: NaN alone differs from itself (IEEE 754, 5.11).
    Example: ``y = isnan(x)`` -> ``y = ne(x, x)``.
    Bound: bit-equal (on a device that compares as IEEE 754 says).
    Does not apply: never.
    """
    return b.ne(op.operands[0], op.operands[0])


@rewrite(removes="isinf", yields=("abs", "eq"), claim="exact")
def isinf_to_eq(b: Builder, op: Op) -> Any:
    """isinf(x) becomes |x| == inf.

    Formula: the definition.
    Example: ``y = isinf(x)`` -> ``y = eq(abs(x), inf)``.
    Bound: bit-equal.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    return b.eq(b.abs(x), float("inf"))


@rewrite(removes="ceil", yields=("mul", "floor"), claim="exact")
def ceil_to_floor(b: Builder, op: Op) -> Any:
    """ceil(x) becomes -floor(-x).

    Formula: ceil(x) = -floor(-x).
    Example: ``y = ceil(x)`` -> ``y = mul(floor(mul(x, -1)), -1)``.
    Bound: the same values; the sign of a zero may differ.
    Does not apply: never.
    """
    return b.mul(b.floor(b.mul(op.operands[0], -1)), -1)


@rewrite(
    removes="round",
    yields=("floor", "sub", "relu", "abs", "sign", "mul", "add"),
    claim="bounded",
    error="bit-equal for finite operands",
)
def round_to_floor(b: Builder, op: Op) -> Any:
    """round(x), half to even, becomes floor(x), plus 1 where the fraction says so.

    Formula: with f = floor(x) and d = x - f - 1/2, add 1 where d > 0, and where d = 0 and f is odd;
    sign(relu(d)) and 1 - sign(|d|) are those conditions as numbers, and f - 2 floor(f / 2) is 1 for an odd f.
    Example: ``y = round(x)`` -> ``f = floor(x); d = sub(sub(x, f), 0.5)``; ``y = add(add(f, sign(relu(d))),
    mul(sub(1, sign(abs(d))), sub(f, mul(floor(mul(f, 0.5)), 2))))``.
    Bound: bit-equal for finite operands but for the sign of a zero; round(inf) is NaN instead of inf.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    f = b.floor(x)
    d = b.sub(b.sub(x, f), 0.5)
    odd = b.sub(f, b.mul(b.floor(b.mul(f, 0.5)), 2.0))
    tie = b.sub(b.const(1.0, x.dtype), b.sign(b.abs(d)))
    return b.add(b.add(f, b.sign(b.relu(d))), b.mul(tie, odd))


@rewrite(removes="trunc", yields=("abs", "floor", "sign", "mul"), claim="exact")
def trunc_to_floor(b: Builder, op: Op) -> Any:
    """trunc(x) becomes sign(x) * floor(|x|).

    Formula: rounding toward zero, by the sign and the size apart.
    Example: ``y = trunc(x)`` -> ``y = mul(sign(x), floor(abs(x)))``.
    Bound: the same values, infinities included; the sign of a zero may differ.
    Does not apply: never.
    """
    x = op.operands[0]
    return b.mul(b.sign(x), b.floor(b.abs(x)))


@rewrite(
    removes=("sinh", "cosh"),
    yields=("exp", "mul", "add", "sub"),
    claim="bounded",
    error="2e-07 absolute 6e-07 relative",
)
def sinh_cosh_to_exp(b: Builder, op: Op) -> Any:
    """sinh(x) becomes exp(x) / 2 - exp(-x) / 2, and cosh(x) becomes their sum.

    Formula: the definitions.
    Example: ``y = cosh(x)`` -> ``y = add(mul(exp(x), 0.5), mul(exp(mul(x, -1)), 0.5))``.
    Bound: 2e-07 absolute plus 6e-07 relative in float32 for |x| < 88, beyond which exp overflows 0.7 earlier
    than sinh.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    up, down = b.mul(b.exp(x), 0.5), b.mul(b.exp(b.mul(x, -1.0)), 0.5)
    return b.sub(up, down) if op.kind == "sinh" else b.add(up, down)
