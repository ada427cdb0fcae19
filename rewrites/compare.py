# SPDX-License-Identifier: Apache-2.0
"""Comparisons and logic."""

from __future__ import annotations

from typing import Any

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import need

_SWAPPED = {"ge": "le", "le": "ge", "gt": "lt", "lt": "gt"}
_OPPOSITE = {"ge": "lt", "lt": "ge", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}


@rewrite(removes=tuple(_SWAPPED), yields=tuple(_SWAPPED), claim="exact")
def compare_swapped(b: Builder, op: Op) -> Any:
    """x >= y becomes y <= x, and alike for <=, > and <.

    Formula: the definition.
    Example: ``z = ge(x, y)`` -> ``z = le(y, x)``.
    Bound: bit-equal, NaN included.
    Does not apply: never.
    """
    x, y = op.operands
    return b.op(_SWAPPED[op.kind], (y, x))


@rewrite(removes=("eq", "ne"), yields=("eq", "ne", "logical_not"), claim="exact")
def equality_to_not(b: Builder, op: Op) -> Any:
    """x == y becomes not (x != y), and x != y not (x == y).

    Formula: one is the negation of the other, for NaN too.
    Example: ``z = ne(x, y)`` -> ``z = logical_not(eq(x, y))``.
    Bound: bit-equal, NaN included.
    Does not apply: never.
    """
    return b.logical_not(b.op(_OPPOSITE[op.kind], op.operands)[0])


@rewrite(removes=("ge", "le"), yields=("gt", "lt", "eq", "logical_or"), claim="exact")
def compare_to_or(b: Builder, op: Op) -> Any:
    """x >= y becomes (x > y) or (x == y), and x <= y becomes (x < y) or (x == y).

    Formula: the definition.
    Example: ``z = ge(x, y)`` -> ``z = logical_or(gt(x, y), eq(x, y))``.
    Bound: bit-equal, NaN included.
    Does not apply: never.
    """
    strict = b.op("gt" if op.kind == "ge" else "lt", op.operands)[0]
    return b.logical_or(strict, b.eq(*op.operands))


@rewrite(
    removes=("ge", "le", "gt", "lt"),
    yields=("ge", "le", "gt", "lt", "logical_not"),
    claim="bounded",
    error="bit-equal for operands that are not NaN",
)
def compare_to_not(b: Builder, op: Op) -> Any:
    """x >= y becomes not (x < y), and alike for the others.

    Formula: the order is total but for NaN.
    Example: ``z = ge(x, y)`` -> ``z = logical_not(lt(x, y))``.
    Bound: bit-equal for operands that are not NaN; with a NaN the result is true where it was false.
    Does not apply: never.
    """
    return b.logical_not(b.op(_OPPOSITE[op.kind], op.operands)[0])


def _bits(b: Builder, v: Value, dtype: str) -> Value:
    """A truth value as 0 or 1 of ``dtype``."""
    if v.is_const:
        return b.const(v.numpy().astype(bool).astype(dtype))
    if v.dtype != "bool":
        v = b.ne(v, 0)
    out: Value = b.cast(v, dtype=dtype)
    return out


@rewrite(
    removes=("logical_and", "logical_or", "logical_xor", "logical_not"),
    yields=("ne", "cast", "mul", "add", "gt", "eq"),
    claim="exact",
)
def logical_to_arithmetic(b: Builder, op: Op) -> Any:
    """Logic becomes arithmetic on 0 and 1 in float32.

    Formula: x and y = x * y > 0; x or y = x + y > 0; x xor y = (x != y); not x = (x == 0).
    Example: ``z = logical_and(x, y)`` -> ``z = gt(mul(cast(x, float32), cast(y, float32)), 0)``.
    Bound: bit-equal.
    Does not apply: never.
    """
    bits = [_bits(b, v, "float32") for v in op.operands]
    if op.kind == "logical_not":
        return b.eq(bits[0], 0.0)
    if op.kind == "logical_xor":
        return b.ne(*bits)
    return b.gt((b.mul if op.kind == "logical_and" else b.add)(*bits), 0.0)


@rewrite(
    removes=("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not"),
    yields=("logical_and", "logical_or", "logical_xor", "logical_not"),
    claim="exact",
)
def bitwise_to_logical(b: Builder, op: Op) -> Any:
    """Bitwise operations on bool become the logical ones.

    Formula: a bool is one bit.
    Example: ``z = bitwise_and(x, y)`` -> ``z = logical_and(x, y)``.
    Bound: bit-equal.
    Does not apply: to integers.
    """
    for v in op.operands:
        need(v.dtype == "bool", f"{v.name} is {v.dtype}, not bool")
    return b.op(op.kind.replace("bitwise", "logical"), op.operands)


@rewrite(removes="cast", yields=("ne", "where"), claim="exact")
def cast_bool(b: Builder, op: Op) -> Any:
    """A cast to bool becomes x != 0, and a cast from bool becomes where(x, 1, 0).

    Formula: the definitions.
    Example: ``y = cast(x, bool)`` -> ``y = ne(x, 0)``; ``y = cast(mask, float32)`` -> ``y = where(mask, 1,
    0)``.
    Bound: bit-equal.
    Does not apply: to casts between numbers.
    """
    x, dtype = op.operands[0], op.attrs["dtype"]
    need((x.dtype == "bool") != (dtype == "bool"), f"the cast is from {x.dtype} to {dtype}")
    return b.ne(x, 0) if dtype == "bool" else b.where(x, b.const(1, dtype), b.const(0, dtype))


_COMPARED = {"gt": (0, 1), "le": (0, 1), "lt": (1, 0), "ge": (1, 0)}


def _truth(b: Builder, value: Value, dtype: str) -> Value:
    """A truth value that comparisons make, as 0 or 1, computed from what they compare."""
    if value.is_const:
        return b.const(value.numpy().astype(dtype))
    made = b.producer(value)
    need(made is not None, f"{value.name} is an input, not the result of a comparison")
    assert made is not None
    one = b.const(1, dtype)
    out: Value
    if made.kind in ("logical_not", "logical_and", "logical_or", "logical_xor"):
        need(all(v.dtype == "bool" for v in made.operands), f"{made.kind} of numbers is not a comparison")
        parts = [_truth(b, v, dtype) for v in made.operands]
        if made.kind == "logical_not":
            out = b.sub(one, parts[0])
        elif made.kind == "logical_and":
            out = b.mul(*parts)
        elif made.kind == "logical_or":
            out = b.sign(b.add(*parts))
        else:
            out = b.abs(b.sub(*parts))
    else:
        need(made.kind in (*_COMPARED, "eq", "ne"), f"{value.name} is the result of {made.kind}, not of a comparison")
        need(all(v.dtype == dtype for v in made.operands), f"what is compared is not {dtype}")
        if made.kind in _COMPARED:
            i, j = _COMPARED[made.kind]
            out = b.sign(b.relu(b.sub(made.operands[i], made.operands[j])))
        else:
            out = b.sign(b.abs(b.sub(*made.operands)))
        if made.kind in ("le", "ge", "eq"):
            out = b.sub(one, out)
    b.merge_origin(made)
    return out


@rewrite(
    removes="cast",
    yields=("sub", "relu", "sign", "abs", "mul", "add"),
    claim="bounded",
    error="bit-equal for finite operands",
)
def cast_of_comparison_to_sign(b: Builder, op: Op) -> Any:
    """A comparison cast to a number becomes the sign of a difference; no truth value is left.

    Formula: (x > y) is sign(relu(x - y)), (x != y) is sign(|x - y|), the others are one minus these; and is
    the product, or the sign of the sum, xor the size of the difference, not is one minus.
    Example: ``m = cast(gt(x, 0.5), float32)`` -> ``m = sign(relu(sub(x, 0.5)))``.
    Bound: bit-equal for finite operands (the difference of two floats is 0 only when they are equal, but on a
    device that flushes subnormal numbers); two infinities of one sign, or a NaN, give another result.
    Does not apply: to a truth value that is an input or comes from anything but comparisons and logic, or
    when the numbers compared have another dtype than the result.
    """
    x, dtype = op.operands[0], op.attrs["dtype"]
    need(x.dtype == "bool" and "float" in dtype, f"the cast is from {x.dtype} to {dtype}")
    out = _truth(b, x, dtype)
    need(out.shape == x.shape, "a constant is compared")
    return out


@rewrite(removes="cast", claim="exact")
def remove_cast(b: Builder, op: Op) -> Any:
    """A cast to the dtype that the value has already is removed.

    Formula: the definition.
    Example: ``y = cast(x, float32)`` with x of float32 -> x itself.
    Bound: bit-equal.
    Does not apply: when the dtype changes.
    """
    x = op.operands[0]
    need(x.dtype == op.attrs["dtype"], f"the cast is from {x.dtype} to {op.attrs['dtype']}")
    return x
