# SPDX-License-Identifier: Apache-2.0
"""Inverse trigonometric and hyperbolic functions, and products along axes, by what more devices have."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Any

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import cut, need, need_float, shape_of, view

#: Coefficients of Abramowitz and Stegun, Handbook of Mathematical Functions, from the highest power down.
_ARCSIN = (
    -0.0012624911, 0.0066700901, -0.0170881256, 0.0308918810, -0.0501743046, 0.0889789874, -0.2145988016, 1.5707963050,
)  # 4.4.46  # fmt: skip
_ARCTAN = (
    0.0028662257, -0.0161657367, 0.0429096138, -0.0752896400, 0.1065626393, -0.1420889944, 0.1999355085, -0.3333314528,
    1.0,
)  # 4.4.49  # fmt: skip
#: The longest axis that is multiplied up.
_LONGEST = 64


def _horner(b: Builder, x: Value, coefficients: Sequence[float]) -> Value:
    """The polynomial of ``x``."""
    y: Value = b.add(b.mul(x, coefficients[0]), coefficients[1])
    for number in coefficients[2:]:
        y = b.add(b.mul(y, x), number)
    return y


@rewrite(
    removes="asinh",
    yields=("abs", "mul", "add", "sqrt", "log", "sign"),
    claim="bounded",
    error="3e-07 absolute 3e-07 relative",
)
def asinh_to_log(b: Builder, op: Op) -> Any:
    """asinh(x) becomes sign(x) log(|x| + sqrt(x^2 + 1)).

    Formula: the definition, odd in x.
    Example: ``y = asinh(x)`` -> ``y = mul(sign(x), log(add(abs(x), sqrt(add(mul(x, x), 1)))))``.
    Bound: 3e-07 absolute plus 3e-07 relative in float32 for |x| below 1e18, beyond which the square overflows.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    return b.mul(b.sign(x), b.log(b.add(b.abs(x), b.sqrt(b.add(b.mul(x, x), 1.0)))))


@rewrite(
    removes="acosh",
    yields=("sub", "add", "mul", "sqrt", "log"),
    claim="bounded",
    error="3e-07 absolute 3e-07 relative",
)
def acosh_to_log(b: Builder, op: Op) -> Any:
    """acosh(x) becomes log(x + sqrt((x - 1) (x + 1))).

    Formula: the definition; the product does not cancel near x = 1 as x^2 - 1 does.
    Example: ``y = acosh(x)`` -> ``y = log(add(x, sqrt(mul(sub(x, 1), add(x, 1)))))``.
    Bound: 3e-07 absolute plus 3e-07 relative in float32 from 1 to 1e18, beyond which the square overflows. Below 1 the
    result is not defined.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    return b.log(b.add(x, b.sqrt(b.mul(b.sub(x, 1.0), b.add(x, 1.0)))))


@rewrite(
    removes="atanh", yields=("add", "sub", "div", "log", "mul"), claim="bounded", error="2e-07 absolute 3e-07 relative"
)
def atanh_to_log(b: Builder, op: Op) -> Any:
    """atanh(x) becomes log((1 + x) / (1 - x)) / 2.

    Formula: the definition.
    Example: ``y = atanh(x)`` -> ``y = mul(log(div(add(x, 1), sub(1, x))), 0.5)``.
    Bound: 2e-07 absolute plus 3e-07 relative in float32; towards x = -1 the rounding of 1 + x grows as 6e-08 / (1 + x).
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    return b.mul(b.log(b.div(b.add(x, 1.0), b.sub(b.const(1.0, x.dtype), x))), 0.5)


@rewrite(
    removes="asin", yields=("abs", "mul", "add", "sub", "sqrt", "sign"), claim="approximate", error="5e-07 absolute"
)
def asin_to_sqrt(b: Builder, op: Op) -> Any:
    """asin(x) becomes sign(x) (pi / 2 - sqrt(1 - |x|) p(|x|)), with a polynomial p.

    Formula: Abramowitz and Stegun 4.4.46, whose error is at most 2e-08.
    Example: ``y = asin(x)`` -> 21 ops, of which one is sqrt.
    Bound: 5e-07 absolute in float32. Beyond -1 and 1 the result is not defined. Needs ``--allow approximate``.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    size = b.abs(x)
    rest = b.mul(b.sqrt(b.sub(b.const(1.0, x.dtype), size)), _horner(b, size, _ARCSIN))
    return b.mul(b.sign(x), b.sub(b.const(pi / 2, x.dtype), rest))


@rewrite(removes="acos", yields=("asin", "sub"), claim="bounded", error="3e-07 absolute")
def acos_to_asin(b: Builder, op: Op) -> Any:
    """acos(x) becomes pi / 2 - asin(x).

    Formula: the two angles of a right triangle.
    Example: ``y = acos(x)`` -> ``y = sub(pi / 2, asin(x))``.
    Bound: 3e-07 absolute in float32; near x = 1 the difference cancels, so that the relative error of a small result is
    large.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    return b.sub(b.const(pi / 2, x.dtype), b.asin(x))


@rewrite(
    removes="atan",
    yields=("abs", "minimum", "maximum", "div", "mul", "add", "sub", "sign"),
    claim="approximate",
    error="4e-07 absolute",
)
def atan_to_polynomial(b: Builder, op: Op) -> Any:
    """atan(x) becomes a polynomial p of the smaller of |x| and 1 / |x|; pi / 2 - p where |x| is above 1.

    Formula: Abramowitz and Stegun 4.4.49, whose error is at most 2e-08, and atan(x) = pi / 2 - atan(1 / x). Which of
    the two holds is a factor: u = (sign(|x| - 1) + 1) / 2 is 0 below 1 and 1 above.
    Example: ``y = atan(x)`` -> 31 ops, of which one is div.
    Bound: 4e-07 absolute in float32, infinities included. Needs ``--allow approximate``.
    Does not apply: to integers.
    """
    x = op.operands[0]
    need_float(x)
    size = b.abs(x)
    z = b.div(b.minimum(size, 1.0), b.maximum(size, 1.0))
    angle = b.mul(_horner(b, b.mul(z, z), _ARCTAN), z)
    above = b.add(b.mul(b.sign(b.sub(size, 1.0)), 0.5), 0.5)
    turned = b.sub(b.const(pi / 2, x.dtype), b.mul(angle, 2.0))
    return b.mul(b.sign(x), b.add(angle, b.mul(above, turned)))


@rewrite(removes="prod", yields=("slice", "mul", "reshape"), claim="bounded", error="8e-06 relative")
def prod_to_products(b: Builder, op: Op) -> Any:
    """A product along axes becomes products of the two halves of each axis, again and again.

    Formula: a product does not depend on the order, but for rounding.
    Example: ``y = prod(x of 1x4, axes=(1,))`` -> ``y = mul(slice 0:1, slice 1:2)`` of ``mul(slice 0:2, slice 2:4)``.
    Bound: 8e-06 relative in float32 where no partial product overflows or is denormal.
    Does not apply: to axes of more than 64 elements or none, to integers, or to an unknown shape.
    """
    x = op.operands[0]
    need_float(x)
    shape = shape_of(x)
    for axis in op.attrs["axes"]:
        need(0 < shape[axis] <= _LONGEST, f"axis {axis} has {shape[axis]} elements, not 1 to {_LONGEST}")
    for axis in op.attrs["axes"]:
        odd = None
        while (length := shape_of(x)[axis]) > 1:
            if length % 2:
                last = cut(b, x, axis, length - 1, length)
                odd = last if odd is None else b.mul(odd, last)
            half = length // 2
            x = b.mul(cut(b, x, axis, 0, half), cut(b, x, axis, half, 2 * half))
        x = x if odd is None else b.mul(x, odd)
    return view(b, x, shape_of(op.outputs[0]))
