# SPDX-License-Identifier: Apache-2.0
"""Activations that an exporter wrote as formulas, put together again: SiLU, hard sigmoid, hard swish, GELU, Mish."""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

import numpy as np

from porter.ops import Op, Value
from porter.rewrite import Builder, NoPattern, NotApplicable, rewrite

from ._match import constant_of, made_by, near, pattern, polynomial, product, whole
from ._tools import need, need_float


def _gated(b: Builder, op: Op, ops: list[Op], what: str) -> tuple[float, list[tuple[Value, Value]]]:
    """The constant factor of a product of two values, and the pairs (value, gate) that they may be."""
    found = product(b, op, ops)
    pattern(len(found.values) == 2 and not found.below, f"a product that could be {what}")
    x, y = found.values
    need_float(x, y)
    return found.factor, [(x, y), (y, x)]


def _fits(x: Value, op: Op) -> None:
    need(x.shape == op.outputs[0].shape, f"{x.name} is broadcast")


@rewrite(
    removes=("mul", "div"),
    yields="silu",
    claim="exact",
    error="6 ulp",
    fuses=("sigmoid", "mul", "exp", "neg", "add", "div"),
)
def sigmoid_mul_to_silu(b: Builder, op: Op) -> Any:
    """x * sigmoid(x), or x / (1 + exp(-x)), becomes silu(x).

    Formula: silu(x) = x * sigmoid(x), the definition (torch.nn.SiLU).
    Example: ``y = mul(x, sigmoid(x))`` -> ``y = silu(x)``.
    Bound: 6 ulp in float32: torch divides x by 1 + exp(-x), and kernels of exp differ. NaN stays NaN.
    Does not apply: when the sigmoid is of another value than the one that it multiplies, or the product has
    another factor.
    """
    ops: list[Op] = []
    if op.kind == "div":
        below = made_by(b, op.operands[1], "add", ops)
        pattern(below is not None, "a quotient that could be SiLU")
        assert below is not None
        ends = [v for v in below.operands if constant_of(v) == 1]
        power = next((v for v in below.operands if constant_of(v) is None), None)
        made = made_by(b, power, "exp", ops) if ends and power is not None else None
        minus = made_by(b, made.operands[0], "neg mul", ops) if made is not None else None
        pattern(minus is not None, "a quotient that could be SiLU")
        assert minus is not None
        x = op.operands[0]
        found = polynomial(b, minus.outputs[0], x, ops)
        need(found is not None and list(found) == [0, -1], "the exponential is of another value")
    else:
        factor, pairs = _gated(b, op, ops, "SiLU")
        gates = ((x, made_by(b, gate, "sigmoid", ops)) for x, gate in pairs)
        x, gate = next(((x, gate) for x, gate in gates if gate is not None), (op.operands[0], None))
        pattern(gate is not None, "a product with a sigmoid")
        assert gate is not None
        need(gate.operands[0].name == x.name, "the sigmoid is of another value than the one it multiplies")
        need(factor == 1, f"the product has the factor {factor:.6g} as well")
    need_float(x)
    _fits(x, op)
    return whole(b, b.silu(x), ops)


def _clipped(b: Builder, value: Value, ops: list[Op]) -> tuple[Value, float, float] | None:
    """What is limited, and to which two numbers: by a clamp, a relu6, or a minimum of a maximum."""
    made = made_by(b, value, "clamp relu6 minimum maximum", ops)
    if made is None:
        return None
    if made.kind == "relu6":
        return made.operands[0], 0.0, 6.0
    if made.kind == "clamp":
        low, high = made.attrs["min"], made.attrs["max"]
        return None if low is None or high is None else (made.operands[0], float(low), float(high))
    first = _limit(made)
    inner = made_by(b, first[0], "minimum maximum relu", ops) if first is not None else None
    if first is None or inner is None or inner.kind == made.kind:
        return None
    second = (inner.operands[0], 0.0) if inner.kind == "relu" else _limit(inner)
    if second is None or (inner.kind == "relu" and made.kind != "minimum"):
        return None
    low, high = (second[1], first[1]) if made.kind == "minimum" else (first[1], second[1])
    return second[0], low, high


def _limit(op: Op) -> tuple[Value, float] | None:
    """The value and the number of a minimum or maximum with a constant."""
    for value, other in (op.operands, op.operands[::-1]):
        number = constant_of(other)
        if number is not None:
            return value, number
    return None


def _source(b: Builder, value: Value) -> Value:
    """What a chain of sums, multiples and quotients by constants begins with."""
    op = b.producer(value)
    for _ in range(4):
        if op is None or op.kind not in ("add", "sub", "mul", "div", "neg"):
            break
        rest = [v for v in op.operands if constant_of(v) is None]
        if len(rest) != 1 or (op.kind == "div" and rest[0] is not op.operands[0]):
            break
        value = rest[0]
        op = b.producer(value)
    return value


def _hard_gate(
    b: Builder, value: Value, factor: float, ops: list[Op], x: Value | None = None
) -> tuple[Value, float, float] | None:
    """(x, alpha, beta) where ``factor`` times the value is clamp(alpha x + beta, 0, 1)."""
    made = made_by(b, value, "hardsigmoid", ops)
    if made is not None:
        fits = factor == 1 and (x is None or made.operands[0].name == x.name)
        return (made.operands[0], made.attrs["alpha"], made.attrs["beta"]) if fits else None
    found = _clipped(b, value, ops)
    if found is None or abs(found[1]) > 0 or not near(found[2] * factor, 1):
        return None
    inside = found[0]
    x = x if x is not None else _source(b, inside)
    line = polynomial(b, inside, x, ops)
    if line is None or len(line) != 2:
        return None
    return x, float(line[1] * factor), float(line[0] * factor)


def _torch_constants(alpha: float, beta: float) -> tuple[float, float]:
    """1/6 and 1/2 exactly, where float32 made something else of them."""
    return (1 / 6, 0.5) if abs(alpha - 1 / 6) < 1e-7 and abs(beta - 0.5) < 1e-6 else (alpha, beta)


@rewrite(
    removes=("clamp", "mul", "div", "minimum", "maximum"),
    yields="hardsigmoid",
    claim="bounded",
    error="3e-07 absolute",
    fuses=("clamp", "relu6", "minimum", "maximum", "relu", "add", "sub", "mul", "div", "neg"),
)
def clamp_to_hardsigmoid(b: Builder, op: Op) -> Any:
    """clamp(alpha * x + beta, 0, 1), in any of the forms that exporters write, becomes hardsigmoid(x).

    Formula: hardsigmoid(x) = clamp(alpha x + beta, 0, 1) (ONNX HardSigmoid); relu6(x + 3) / 6 is the one with
    alpha 1/6 and beta 1/2 (torch.nn.Hardsigmoid).
    Example: ``y = div(clamp(add(x, 3), 0, 6), 6)`` -> ``y = hardsigmoid(x, alpha=1/6, beta=1/2)``.
    Bound: 3e-07 absolute in float32 while |alpha x| stays below 2; beyond, both sides are 0 or 1.
    Does not apply: when the limits times the factor are not 0 and 1, or what is limited is not a line.
    """
    ops: list[Op] = []
    value, factor = op.outputs[0], 1.0
    if op.kind in ("mul", "div"):
        found = product(b, op, ops)
        pattern(len(found.values) == 1 and not found.below, "a multiple of one value")
        value, factor = found.values[0], found.factor
        pattern(made_by(b, value, "clamp relu6 minimum maximum", []), "a multiple of a limited value")
    else:
        pattern(_around(b, op), "a line between two limits")
    gate = _hard_gate(b, value, factor, ops)
    need(gate is not None, "its limits are not 0 and 1, or what it limits is not a line")
    assert gate is not None
    x, alpha, beta = gate
    need_float(x)
    _fits(x, op)
    need((alpha, beta) != (1, 0), "it only limits")
    need(abs(beta) <= 1, f"beta is {beta:.6g}, and cancels digits")
    alpha, beta = _torch_constants(alpha, beta)
    return whole(b, b.hardsigmoid(x, alpha=alpha, beta=beta), [o for o in ops if o is not op])


def _around(b: Builder, op: Op) -> bool:
    found = _clipped(b, op.outputs[0], [])
    return found is not None and (found[1], found[2]) == (0.0, 1.0)


@rewrite(
    removes=("mul", "div"),
    yields="hardswish",
    claim="bounded",
    error="3e-07 absolute 4e-07 relative",
    fuses=("hardsigmoid", "clamp", "relu6", "minimum", "maximum", "relu", "add", "sub", "mul", "div", "neg"),
)
def clamp_mul_to_hardswish(b: Builder, op: Op) -> Any:
    """x * clamp(x + 3, 0, 6) / 6, in any of the forms that exporters write, becomes hardswish(x).

    Formula: hardswish(x) = x * relu6(x + 3) / 6 (torch.nn.Hardswish; ONNX HardSwish).
    Example: ``y = div(mul(x, clamp(add(x, 3), 0, 6)), 6)`` -> ``y = hardswish(x)``; ``y = mul(x,
    hardsigmoid(x, 1/6, 1/2))`` likewise.
    Bound: 3e-07 absolute plus 4e-07 relative in float32: near x = -3 the sum cancels.
    Does not apply: when the gate is of another value or has other constants.
    """
    ops: list[Op] = []
    factor, pairs = _gated(b, op, ops, "hard swish")
    kinds = "hardsigmoid clamp relu6 minimum maximum"
    for x, gate in pairs:
        if made_by(b, gate, kinds, []) is None:
            continue
        mine: list[Op] = []
        found = _hard_gate(b, gate, factor, mine, x)
        if found is None:
            continue
        need(
            abs(found[1] - 1 / 6) < 1e-6 and near(found[2], 0.5),
            f"the gate has alpha {found[1]:.6g} and beta {found[2]:.6g}, not 1/6 and 1/2",
        )
        _fits(x, op)
        return whole(b, b.hardswish(x), [*ops, *mine])
    pattern(any(made_by(b, gate, kinds, []) for _, gate in pairs), "a product with a hard sigmoid")
    raise NotApplicable("the hard sigmoid is of another value than the one it multiplies, or its limits are others")


def _bent(b: Builder, gate: Value, kind: str, ops: list[Op]) -> tuple[float, float, Op] | None:
    """(a, c, op) where the gate is a + c * op, with an op of ``kind``."""
    a = c = 0.0
    todo = [(gate, 1.0)]
    found: Op | None = None
    for _ in range(8):
        if not todo:
            break
        value, times = todo.pop()
        number = constant_of(value)
        if number is not None:
            a += times * number
            continue
        made = b.producer(value)
        if made is None or (found is not None and made.kind == kind):
            return None
        ops.append(made)
        if made.kind == kind:
            found, c = made, times
        elif made.kind in ("add", "sub"):
            sign = -1.0 if made.kind == "sub" else 1.0
            todo += [(made.operands[1], times * sign), (made.operands[0], times)]
        elif made.kind == "neg":
            todo.append((made.operands[0], -times))
        elif made.kind in ("mul", "div"):
            rest = product(b, made, ops)
            if len(rest.values) != 1 or rest.below:
                return None
            todo.append((rest.values[0], times * rest.factor))
        else:
            return None
    return (a, c, found) if found is not None and not todo else None


#: sqrt(2 / pi) and 0.044715 times it: the polynomial inside of the tanh form.
_TANH = (0.0, sqrt(2 / pi), 0.0, 0.044715 * sqrt(2 / pi))


@rewrite(
    removes=("mul", "div"),
    yields="gelu",
    claim="bounded",
    error="1e-06 absolute 5e-07 relative",
    fuses=("erf", "tanh", "add", "mul", "div", "pow", "sub", "square", "neg"),
)
def erf_or_tanh_to_gelu(b: Builder, op: Op) -> Any:
    """x / 2 * (1 + erf(x / sqrt(2))), or the form with tanh, becomes gelu(x).

    Formula: gelu(x) = x / 2 * (1 + erf(x / sqrt(2))), and x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715
    x^3))) with approximate='tanh' (Hendrycks and Gimpel, arXiv:1606.08415; torch.nn.GELU). The product may be
    written in any order and the polynomial in any form.
    Example: ``y = mul(mul(x, add(erf(div(x, 1.41421)), 1)), 0.5)`` -> ``y = gelu(x, approximate='none')``.
    Bound: 1e-06 absolute plus 5e-07 relative in float32 where the constants are those of the formula.
    Does not apply: when the error function is of another value, or the constants are others.
    """
    ops: list[Op] = []
    factor, pairs = _gated(b, op, ops, "GELU")
    reason = ""
    for x, gate in pairs:
        for kind in ("erf", "tanh"):
            mine: list[Op] = []
            found = _bent(b, gate, kind, mine)
            if found is None:
                continue
            a, c, bend = found
            inside = polynomial(b, bend.operands[0], x, mine)
            want = np.array([0.0, sqrt(0.5)] if kind == "erf" else _TANH)
            if inside is None or len(inside) != len(want):
                reason = f"the {kind} is of another value than the one it multiplies"
            elif not (near(a * factor, 0.5) and near(c * factor, 0.5)):
                reason = f"it is x * ({a * factor:.6g} + {c * factor:.6g} {kind}(...)), and both should be 0.5"
            elif not all(near(p, q) for p, q in zip(inside, want, strict=True)):
                reason = f"the coefficients inside of {kind} are {', '.join(f'{n:.6g}' for n in inside)}"
            else:
                _fits(x, op)
                out = b.gelu(x, approximate="none" if kind == "erf" else "tanh")
                return whole(b, out, [*ops, *mine])
    pattern(reason, "a product with 1 + erf or 1 + tanh")
    raise NotApplicable(reason)


@rewrite(
    removes="mul",
    yields="mish",
    claim="exact",
    error="8 ulp",
    fuses=("tanh", "softplus"),
)
def tanh_softplus_to_mish(b: Builder, op: Op) -> Any:
    """x * tanh(softplus(x)) becomes mish(x).

    Formula: mish(x) = x * tanh(softplus(x)) (Misra, arXiv:1908.08681; torch.nn.Mish).
    Example: ``y = mul(x, tanh(softplus(x)))`` -> ``y = mish(x)``.
    Bound: 8 ulp in float32: kernels differ in the last digits.
    Does not apply: when the softplus is of another value or has another beta.
    """
    ops: list[Op] = []
    factor, pairs = _gated(b, op, ops, "Mish")
    for x, gate in pairs:
        bend = made_by(b, gate, "tanh", ops)
        soft = made_by(b, bend.operands[0], "softplus", ops) if bend is not None else None
        if soft is not None:
            need(soft.operands[0].name == x.name, "the softplus is of another value than the one it multiplies")
            need(soft.attrs["beta"] == 1, f"the softplus has beta {soft.attrs['beta']}")
            need(factor == 1, f"the product has the factor {factor:.6g} as well")
            _fits(x, op)
            return whole(b, b.mish(x), ops)
    raise NoPattern("it is not a product with tanh(softplus(x))")
