# SPDX-License-Identifier: Apache-2.0
"""What rules that recognize a formula need: the factors of a product, a polynomial of one value, and who computed what.

Every function gets the list of the ops that belong to the pattern so far, and adds those that it looked through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from porter.ops import Array, Op, Value
from porter.rewrite import Builder, NoPattern, NotApplicable

__all__ = ["Product", "constant_of", "made_by", "near", "pattern", "polynomial", "product", "same", "whole"]

#: Ops that one side of a formula may consist of: more are some other formula.
_DEEPEST = 12


def pattern(holds: Any, what: str) -> None:
    """Raise :class:`NoPattern` unless ``holds``: the op has nothing to do with the rule."""
    if not holds:
        raise NoPattern(f"it is not {what}")


def near(x: float, y: float) -> bool:
    """Whether two coefficients of a formula are the same number but for float32's rounding of what they are made of."""
    return abs(x - y) <= 1e-6 * max(abs(x), abs(y)) + 1e-9


def constant_of(value: Value) -> float | None:
    """The number that a constant holds in its only element; None for anything else."""
    if not value.is_const or value.shape is None or any(n != 1 for n in value.shape):
        return None
    return float(value.numpy().reshape(()))


def made_by(b: Builder, value: Value, kinds: str, ops: list[Op]) -> Op | None:
    """The op of one of ``kinds`` that computes ``value`` (identities aside), which then belongs to the pattern."""
    passed = []
    op = b.producer(value)
    while op is not None and op.kind == "identity":
        passed.append(op)
        op = b.producer(op.operands[0])
    if op is None or op.kind not in kinds.split():
        return None
    ops += (*passed, op)
    return op


def same(b: Builder, x: Value, y: Value, depth: int = 3) -> bool:
    """Whether two values are one, or are computed alike from the same values."""
    if x is y or (x.name == y.name and not x.is_const):
        return True
    if x.is_const or y.is_const:
        return x.is_const and y.is_const and x.shape == y.shape and bool(np.array_equal(x.numpy(), y.numpy()))
    one, two = b.producer(x), b.producer(y)
    if one is None or two is None or depth == 0 or one.kind != two.kind or dict(one.attrs) != dict(two.attrs):
        return False
    pairs = zip(one.operands, two.operands, strict=False)
    return len(one.operands) == len(two.operands) and all(same(b, p, q, depth - 1) for p, q in pairs)


@dataclass
class Product:
    """``factor`` times the values, over the values of ``below``."""

    factor: float
    values: list[Value]
    below: list[Value]


def product(b: Builder, op: Op, ops: list[Op], depth: int = _DEEPEST) -> Product:
    """The factors of what a product, a quotient, a negation or a multiple computes, through products and quotients
    that nothing else reads."""
    x = op.operands
    if op.kind == "neg":
        sides = [(x[0], False)]
        found = Product(-1.0, [], [])
    else:
        sides = [(x[0], False), (x[1], op.kind == "div")]
        found = Product(1.0, [], [])
    for value, under in sides:
        number = constant_of(value)
        inner = b.producer(value)
        if number is not None:
            found.factor *= 1 / number if under and number else number
        elif inner is not None and inner.kind in ("mul", "div", "neg") and depth > 0 and b.uses(value) == 1:
            ops.append(inner)
            more = product(b, inner, ops, depth - 1)
            found.factor = found.factor / more.factor if under else found.factor * more.factor
            found.values += more.below if under else more.values
            found.below += more.values if under else more.below
        else:
            (found.below if under else found.values).append(value)
    return found


def polynomial(b: Builder, value: Value, x: Value, ops: list[Op], depth: int = _DEEPEST) -> Array | None:
    """The coefficients (of 1, x, x^2, ...) of ``value`` as a polynomial in ``x`` of at most the third degree; None
    where it is something else."""
    if value is x or value.name == x.name:
        return np.array([0.0, 1.0])
    number = constant_of(value)
    if number is not None:
        return np.array([number])
    op = b.producer(value)
    if op is None or depth == 0:
        return None
    kind = op.kind
    if kind not in ("add", "sub", "mul", "div", "neg", "square", "pow", "identity"):
        return None
    first = polynomial(b, op.operands[0], x, ops, depth - 1)
    if first is None:
        return None
    ops.append(op)
    if kind == "identity":
        return first
    if kind == "neg":
        return -first
    if kind == "square":
        return _times(first, first)
    if kind == "pow":
        power = constant_of(op.operands[1])
        if power not in (1.0, 2.0, 3.0):
            return None
        result: Array | None = first
        for _ in range(int(power) - 1):
            result = _times(result, first)
        return result
    second = polynomial(b, op.operands[1], x, ops, depth - 1)
    if second is None:
        return None
    if kind == "mul":
        return _times(first, second)
    if kind == "div":
        return first / second[0] if len(second) == 1 and second[0] else None
    both = np.zeros(max(len(first), len(second)))
    both[: len(first)] = first
    both[: len(second)] += second if kind == "add" else -second
    return both


def _times(x: Array | None, y: Array | None) -> Array | None:
    if x is None or y is None:
        return None
    out = np.convolve(x, y)
    return out if len(out) <= 4 else None


def whole(b: Builder, out: Value, ops: list[Op]) -> Value:
    """``out``, which stands for ``ops`` upstream, if the dialect can hold it as one operation.

    Raises :class:`NotApplicable` where it would be taken apart again at once.
    """
    made = b.producer(out)
    if made is not None and not b.expresses(out):
        raise NotApplicable(
            f"there is no {made.kind} in the model's own operators (ONNX has some in newer opsets only)"
        )
    b.merge_origin(*{id(op): op for op in ops}.values())
    return out
