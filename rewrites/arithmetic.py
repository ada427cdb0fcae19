# SPDX-License-Identifier: Apache-2.0
"""Subtraction, division, powers, remainders, minimum and maximum."""

from __future__ import annotations

from math import frexp, isfinite, log
from typing import Any

import numpy as np

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._finite import need_finite
from ._tools import data, need, need_float, scalar


@rewrite(removes="sub", yields=("add", "mul"), claim="exact")
def sub_to_add(b: Builder, op: Op) -> Any:
    """x - y becomes x + (-y).

    Formula: IEEE 754 subtraction is addition of the negated operand; a constant y is negated at once.
    Example: ``z = sub(x, 0.5)`` -> ``z = add(x, -0.5)``; ``z = sub(x, y)`` -> ``z = add(x, mul(y, -1))``.
    Bound: bit-equal.
    Does not apply: to unsigned integers.
    """
    x, y = op.operands
    need(y.dtype is None or not y.dtype.startswith("uint"), f"{y.name} is {y.dtype}")
    return b.add(x, b.const(-y.numpy()) if y.is_const else b.mul(y, -1))


@rewrite(removes="div", yields="mul", claim="exact")
def div_by_power_of_two(b: Builder, op: Op) -> Any:
    """x / c becomes x * (1 / c) where every element of c is a power of two.

    Formula: 1 / 2^k is exact, and so is the product.
    Example: ``y = div(x, 8)`` -> ``y = mul(x, 0.125)``.
    Bound: bit-equal (but where the result is subnormal on a device that flushes).
    Does not apply: to other divisors, those whose reciprocal the dtype cannot hold, divisors computed at run time, or
    integers.
    """
    x, y = op.operands
    need_float(x, y)
    need(y.is_const, "the divisor is computed when the model runs")
    c = y.numpy()
    parts = [frexp(float(v)) for v in np.unique(c).tolist()]
    need(all(abs(m) == 0.5 and -100 < e < 100 for m, e in parts), "the divisor is not a power of two")
    with np.errstate(over="ignore"):
        factor = np.asarray(1 / c, c.dtype)
    need((np.isfinite(factor) & (factor != 0)).all(), f"its reciprocal is no number of {y.dtype}")
    return b.mul(x, b.const(factor))


@rewrite(removes="div", yields="mul", claim="exact", error="2 ulp")
def div_by_constant_to_mul(b: Builder, op: Op) -> Any:
    """x / c becomes x * (1 / c) with the reciprocal computed now.

    Formula: the definition of the reciprocal.
    Example: ``y = div(x, 3)`` -> ``y = mul(x, 0.33333334)``.
    Bound: 2 ulp: the reciprocal and the product both round. Bit-equal for powers of two.
    Does not apply: to a divisor that is 0, not finite, or so large or small that its reciprocal is not
    normal; to one computed at run time; or to integers.
    """
    x, y = op.operands
    need_float(x, y)
    need(y.is_const, "the divisor is computed when the model runs")
    c = y.numpy().astype(np.float64)
    need(c.size and np.isfinite(c).all() and (c != 0).all(), "the divisor is 0 or not finite")
    tiny = float(np.finfo(str(y.dtype)).tiny)
    need((np.abs(1 / c) >= tiny).all() and (np.abs(c) >= tiny).all(), "the reciprocal is not a normal number")
    return b.mul(x, b.const(1 / c, y.dtype))


@rewrite(removes="div", yields=("reciprocal", "mul"), claim="bounded", error="2 ulp")
def div_to_reciprocal(b: Builder, op: Op) -> Any:
    """x / y becomes x * reciprocal(y).

    Formula: the definition of the reciprocal.
    Example: ``z = div(x, y)`` -> ``z = mul(x, reciprocal(y))``.
    Bound: 2 ulp where reciprocal rounds correctly and 1 / y is a normal number; x / y with |y| above 8e37
    loses more, and inf / inf and 0 / 0 stay NaN.
    Does not apply: to integers.
    """
    x, y = op.operands
    need_float(x, y)
    return b.mul(x, b.reciprocal(y))


@rewrite(removes="pow", yields="mul", claim="exact", error="4 ulp")
def pow_to_mul(b: Builder, op: Op) -> Any:
    """x ** n with a constant whole n of 1 to 8 becomes products.

    Formula: x^2 = x * x, x^3 = x * x * x, x^5 = x * (x^2)^2, ... by repeated squaring.
    Example: ``y = pow(x, 2)`` -> ``y = mul(x, x)``.
    Bound: bit-equal for 1 and 2, else 4 ulp (a rounding for each product).
    Does not apply: to other exponents, or an exponent computed at run time.
    """
    x, exponent = _power(op)
    need(exponent.is_integer() and 1 <= exponent <= 8, f"the exponent {exponent} is not a whole number of 1 to 8")
    return _product(b, x, int(exponent))


@rewrite(removes="pow", yields=("mul", "sqrt", "rsqrt", "reciprocal"), claim="bounded", error="5 ulp")
def pow_to_sqrt_or_reciprocal(b: Builder, op: Op) -> Any:
    """x ** c with a constant c of 0.5, -0.5 or a whole -1 to -8 becomes sqrt, rsqrt or the reciprocal of
    products.

    Formula: x^0.5 = sqrt(x); x^-0.5 = rsqrt(x) = 1 / sqrt(x); x^-n = 1 / x^n.
    Example: ``y = pow(x, -0.5)`` -> ``y = rsqrt(x)``.
    Bound: 5 ulp for finite x where x^n is a normal number. sqrt and rsqrt of -inf are NaN where pow gives inf
    and 0, and rsqrt(-0.0) is -inf where pow gives inf.
    Does not apply: to other exponents, an exponent computed at run time, or integers.
    """
    x, exponent = _power(op)
    need_float(x)
    if abs(exponent) == 0.5:
        return b.sqrt(x) if exponent > 0 else b.rsqrt(x)
    need(exponent.is_integer() and -8 <= exponent <= -1, f"the exponent {exponent} is not 0.5, -0.5 or -1 to -8")
    return b.reciprocal(_product(b, x, int(-exponent)))


def _power(op: Op) -> tuple[Value, float]:
    x, y = op.operands
    exponent = scalar(y, "exponent")
    need(
        (x.shape, x.dtype) == (op.outputs[0].shape, op.outputs[0].dtype), "the exponent has more axes or another dtype"
    )
    return x, exponent


def _product(b: Builder, x: Value, n: int) -> Value:
    out, square = None, x
    while n:
        if n & 1:
            out = square if out is None else b.mul(out, square)
        n >>= 1
        if n:
            square = b.mul(square, square)
    assert out is not None
    return out


@rewrite(removes="pow", yields=("exp", "mul"), claim="bounded", error="1e-06 relative times |y log(base)| + 1")
def pow_of_constant_to_exp(b: Builder, op: Op) -> Any:
    """c ** y with a constant base c becomes exp(y * log(c)).

    Formula: c^y = exp(y log c) for c > 0.
    Example: ``z = pow(2, y)`` -> ``z = exp(mul(y, 0.6931472))``.
    Bound: 1e-06 relative times |y log(base)| + 1 in float32: the product's rounding is multiplied by the
    exponential.
    Does not apply: to a base of 0 or below, not finite, or computed at run time; to a base of 1, whose power is
    1 even where the exponent is NaN.
    """
    x, y = op.operands
    base = scalar(x, "base")
    need_float(y)
    need(base != 1, "the base 1 gives 1 for every exponent, NaN too")
    need(base > 0 and isfinite(base), f"the base {base} is not positive and finite")
    need(
        y.shape == op.outputs[0].shape and y.dtype == op.outputs[0].dtype,
        "the base has more axes than the exponent",
    )
    return b.exp(b.mul(y, log(base)))


@rewrite(
    removes="floor_divide",
    yields=("div", "floor"),
    claim="bounded",
    error="1 where x / y rounds to an integer, else bit-equal",
)
def floor_divide_to_floor(b: Builder, op: Op) -> Any:
    """x // y becomes floor(x / y).

    Formula: the definition.
    Example: ``z = floor_divide(x, y)`` -> ``z = floor(div(x, y))``.
    Bound: bit-equal, but 1 where x / y is within an ulp of an integer and rounds up to it (torch corrects
    that case), and inf or NaN where y is 0.
    Does not apply: to integers.
    """
    x, y = op.operands
    need_float(x, y)
    return b.floor(b.div(x, y))


@rewrite(
    removes=("remainder", "fmod"),
    yields=("div", "floor", "trunc", "mul", "sub"),
    claim="bounded",
    error="4 ulp of |x|, but |y| where x / y rounds to an integer",
)
def remainder_to_floor(b: Builder, op: Op) -> Any:
    """remainder(x, y) becomes x - floor(x / y) * y, and fmod x - trunc(x / y) * y.

    Formula: the definitions (torch.remainder has the sign of y, torch.fmod that of x).
    Example: ``z = remainder(x, y)`` -> ``z = sub(x, mul(floor(div(x, y)), y))``.
    Bound: 4 ulp of |x|, but |y| where x / y is within an ulp of an integer: the quotient then rounds to the
    next one.
    Does not apply: to integers, or where y is not constant, since 0 * y is NaN for an infinite one.
    """
    x, y = op.operands
    need_float(x, y)
    need(np.isfinite(data(y, "divisor")).all(), "the divisor is not finite")
    quotient = b.div(x, y)
    return b.sub(x, b.mul(b.floor(quotient) if op.kind == "remainder" else b.trunc(quotient), y))


@rewrite(removes=("maximum", "minimum"), yields="clamp", claim="exact")
def extreme_of_constant_to_clamp(b: Builder, op: Op) -> Any:
    """maximum(x, c) becomes clamp(x, min=c), and minimum(x, c) clamp(x, max=c).

    Formula: the definition of clamp.
    Example: ``y = maximum(x, 0.1)`` -> ``y = clamp(x, min=0.1, max=None)``.
    Bound: the same values, NaN in x included; the sign of a zero may differ.
    Does not apply: when neither operand is one constant number (not NaN, and an integer below 2^53), or the other is
    smaller than the result.
    """
    x, y = op.operands
    if x.is_const and not y.is_const:
        x, y = y, x
    limit = scalar(y, "limit")
    need(limit == limit, "the limit is NaN")
    need("float" in str(y.dtype) or abs(limit) < 2**53, f"the limit {limit:g} is more than a float counts")
    out = op.outputs[0]
    need(
        (x.shape, x.dtype) == (out.shape, out.dtype),
        "the limit has more axes or another dtype than the value",
    )
    return b.clamp(x, min=limit, max=None) if op.kind == "maximum" else b.clamp(x, min=None, max=limit)


@rewrite(removes=("maximum", "minimum"), yields=("mul", "maximum", "minimum"), claim="exact")
def extreme_to_negated(b: Builder, op: Op) -> Any:
    """maximum(x, y) becomes -minimum(-x, -y), and minimum(x, y) becomes -maximum(-x, -y).

    Formula: negation reverses the order.
    Example: ``z = maximum(x, y)`` -> ``z = mul(minimum(mul(x, -1), mul(y, -1)), -1)``.
    Bound: the same values, infinities and NaN included; the sign of a zero may differ.
    Does not apply: to integers, whose least value has no negative.
    """
    x, y = op.operands
    need_float(x, y)
    other = "minimum" if op.kind == "maximum" else "maximum"
    turned = [b.const(-v.numpy()) if v.is_const else b.mul(v, -1) for v in (x, y)]
    return b.mul(b.op(other, turned)[0], -1)


@rewrite(
    removes=("maximum", "minimum"),
    yields=("sub", "relu", "add"),
    claim="bounded",
    error="2 ulp of the larger of |x| and |y|",
)
def extreme_to_relu(b: Builder, op: Op) -> Any:
    """maximum(x, y) becomes x + relu(y - x), and minimum(x, y) becomes x - relu(x - y).

    Formula: y = x + (y - x), and the difference counts only where it is positive.
    Example: ``z = maximum(x, y)`` -> ``z = add(x, relu(sub(y, x)))``.
    Bound: 2 ulp of the larger of |x| and |y|: the difference and the sum round. Two infinities of one sign
    give NaN.
    Does not apply: to integers, or where x or y is computed from infinities, or directly by what has no finite
    result everywhere (a quotient, a logarithm, a root).
    """
    x, y = op.operands
    need_float(x, y)
    need_finite(b, x)
    need_finite(b, y)
    if op.kind == "maximum":
        return b.add(x, b.relu(b.sub(y, x)))
    return b.sub(x, b.relu(b.sub(x, y)))


@rewrite(
    removes=("maximum", "minimum"),
    yields=("ge", "le", "where"),
    claim="bounded",
    error="bit-equal for operands that are not NaN",
)
def extreme_to_where(b: Builder, op: Op) -> Any:
    """maximum(x, y) becomes where(x >= y, x, y), and minimum where(x <= y, x, y).

    Formula: the definition.
    Example: ``z = maximum(x, y)`` -> ``z = where(ge(x, y), x, y)``.
    Bound: bit-equal for operands that are not NaN; a NaN in x alone gives y, where torch gives NaN.
    Does not apply: never.
    """
    x, y = op.operands
    return b.where(b.ge(x, y) if op.kind == "maximum" else b.le(x, y), x, y)
