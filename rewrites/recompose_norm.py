# SPDX-License-Identifier: Apache-2.0
"""Normalizations that an exporter wrote as means and roots, put together again: layer_norm and rms_norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from porter.ops import Op, Value
from porter.rewrite import Builder, NotApplicable, rewrite

from ._match import constant_of, made_by, pattern, same, whole
from ._tools import need, need_float, shape_of

_ROUNDING = "2e-05 absolute 2e-05 relative"


@dataclass
class _Normed:
    """x divided by a root of a mean of squares: over the trailing axes, of ``centred`` values or of x itself."""

    x: Value
    axes: tuple[int, ...]
    eps: float
    centred: bool


def _over_root(b: Builder, op: Op, ops: list[Op]) -> tuple[Value, Value] | None:
    """(d, s) where the op computes d / sqrt(s)."""
    x, y = op.operands
    if op.kind == "div":
        root = made_by(b, y, "sqrt", ops)
        if root is not None:
            return x, root.operands[0]
        power = made_by(b, y, "pow", ops)
        return (x, power.operands[0]) if power is not None and constant_of(power.operands[1]) == 0.5 else None
    for d, scale in ((x, y), (y, x)):
        made = made_by(b, scale, "rsqrt reciprocal pow div", ops)
        if made is None:
            continue
        if made.kind == "rsqrt" or (made.kind == "pow" and constant_of(made.operands[1]) == -0.5):
            return d, made.operands[0]
        below = None
        if made.kind == "reciprocal":
            below = made.operands[0]
        elif made.kind == "div" and constant_of(made.operands[0]) == 1:
            below = made.operands[1]
        root = made_by(b, below, "sqrt", ops) if below is not None else None
        if root is not None:
            return d, root.operands[0]
    return None


def _squared(b: Builder, value: Value, ops: list[Op]) -> Value | None:
    made = made_by(b, value, "mul square pow", ops)
    if made is None:
        return None
    if made.kind == "pow":
        return made.operands[0] if constant_of(made.operands[1]) == 2 else None
    return made.operands[0] if made.kind == "square" or same(b, made.operands[0], made.operands[1]) else None


def _centre(b: Builder, d: Value, axes: tuple[int, ...], ops: list[Op]) -> Value | None:
    """x where d is x - mean(x)."""
    made = made_by(b, d, "sub", ops)
    mean = made_by(b, made.operands[1], "mean", ops) if made is not None else None
    if made is None or mean is None:
        return None
    x = made.operands[0]
    fits = mean.attrs["keepdim"] and _axes(mean) == axes and same(b, mean.operands[0], x)
    return x if fits else None


def _axes(op: Op) -> tuple[int, ...]:
    return tuple(sorted(op.attrs["axes"]))


def _normed(b: Builder, op: Op, ops: list[Op]) -> _Normed:
    """What the op normalizes. Raises where it does not, with the reason where it nearly does."""
    pattern(len(op.operands) == 2, "a normalization")
    found = _over_root(b, op, ops)
    pattern(found is not None, "a quotient by a root")
    assert found is not None
    d, inside = found
    total = made_by(b, inside, "add", ops)
    pattern(total is not None, "a quotient by the root of a sum")
    assert total is not None
    eps, power = None, None
    for value, other in (total.operands, total.operands[::-1]):
        if constant_of(other) is not None:
            eps, power = constant_of(other), value
    pattern(eps is not None and power is not None, "a quotient by the root of something plus epsilon")
    assert eps is not None
    assert power is not None
    need_float(d)
    need(eps >= 0, f"epsilon is {eps}")
    mean = made_by(b, power, "mean var", ops)
    pattern(mean is not None, "a normalization: what lies under the root is no mean")
    assert mean is not None
    need(mean.attrs["keepdim"], "the mean of the squares drops its axes")
    axes = _axes(mean)
    rank = len(shape_of(d))
    need(axes == tuple(range(rank - len(axes), rank)), f"the mean is over the axes {axes}, not over the last ones")
    need(op.outputs[0].shape == d.shape, "what is normalized is broadcast")
    if mean.kind == "var":
        need(mean.attrs["correction"] == 0, "the variance is divided by n - 1")
        x = _centre(b, d, axes, ops)
        fits = x is not None and (same(b, mean.operands[0], x) or same(b, mean.operands[0], d))
        need(fits, "the variance is of another value than the one that is centred")
        assert x is not None
        return _Normed(x, axes, eps, True)
    base = _squared(b, mean.operands[0], ops)
    need(base is not None and same(b, base, d), "the squares are of another value than the one that is divided")
    x = _centre(b, d, axes, ops)
    return _Normed(d, axes, eps, False) if x is None else _Normed(x, axes, eps, True)


def _parameter(value: Value, normed: _Normed) -> Value | None:
    """The value where it is a constant that fits the normalized axes."""
    shape, x = value.shape, normed.x.shape
    if not value.is_const or shape is None or x is None:
        return None
    tail = x[len(x) - len(normed.axes) :]
    return value if shape == tail else None


def _scaled(b: Builder, op: Op, ops: list[Op]) -> tuple[_Normed, Value | None]:
    """What the op normalizes, and the weight that it multiplies by afterwards, if it does."""
    if op.kind == "mul":
        for value, weight in (op.operands, op.operands[::-1]):
            inner = b.producer(value)
            if not weight.is_const or constant_of(weight) is not None or inner is None:
                continue
            if inner.kind in ("mul", "div"):
                mine = [inner]
                normed = _normed(b, inner, mine)
                found = _parameter(weight, normed)
                need(found is not None, f"the weight {weight.shape} does not have the shape of the normalized axes")
                ops += mine
                return normed, found
    return _normed(b, op, ops), None


@rewrite(
    removes=("add", "mul", "div"),
    yields="layer_norm",
    claim="bounded",
    error=_ROUNDING,
    fuses=("mean", "var", "sub", "mul", "square", "pow", "add", "sqrt", "rsqrt", "reciprocal", "div"),
)
def mean_to_layer_norm(b: Builder, op: Op) -> Any:
    """(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias becomes layer_norm.

    Formula: Ba et al., arXiv:1607.06450, over the trailing axes. The variance may be a mean of squares or
    torch.var without correction; the quotient a division by a root or a product with a reciprocal root; weight
    and bias may be absent.
    Example: ``d = sub(x, mean(x)); y = add(mul(div(d, sqrt(add(mean(pow(d, 2)), 1e-5))), w), c)`` -> ``y =
    layer_norm(x, w, c)``.
    Bound: 2e-05 absolute plus 2e-05 relative in float32 (times |weight|) where the mean is not large beside
    the deviation.
    Does not apply: when the means are over other axes than the last ones, or a parameter is computed at run
    time or has another shape than these axes.
    """
    ops: list[Op] = []
    if op.kind != "add":
        normed, weight = _scaled(b, op, ops)
        bias = None
    else:
        normed, weight, bias = _with_bias(b, op, ops)
    need(normed.centred, "nothing is centred: it is an rms_norm")
    return whole(b, b.layer_norm(normed.x, weight, bias, axes=normed.axes, eps=normed.eps), ops)


def _with_bias(b: Builder, op: Op, ops: list[Op]) -> tuple[_Normed, Value | None, Value]:
    for value, bias in (op.operands, op.operands[::-1]):
        inner = b.producer(value)
        if bias.is_const and constant_of(bias) is None and inner is not None and inner.kind in ("mul", "div"):
            mine = [inner]
            normed, weight = _scaled(b, inner, mine)
            found = _parameter(bias, normed)
            if found is None:
                raise NotApplicable(f"the bias {bias.shape} does not have the shape of the normalized axes")
            ops += mine
            return normed, weight, found
    pattern(False, "a sum of a normalized value and a constant")
    raise AssertionError


@rewrite(
    removes=("mul", "div"),
    yields="rms_norm",
    claim="bounded",
    error=_ROUNDING,
    fuses=("mean", "mul", "square", "pow", "add", "sqrt", "rsqrt", "reciprocal", "div"),
)
def mean_to_rms_norm(b: Builder, op: Op) -> Any:
    """x / sqrt(mean(x^2) + eps) * weight becomes rms_norm.

    Formula: Zhang and Sennrich, arXiv:1910.07467, over the trailing axes (torch.nn.RMSNorm).
    Example: ``y = mul(w, mul(x, rsqrt(add(mean(pow(x, 2)), 1e-6))))`` -> ``y = rms_norm(x, w)``.
    Bound: 2e-05 absolute plus 2e-05 relative in float32 (times |weight|).
    Does not apply: when the mean is over other axes than the last ones, or the weight is computed at run time
    or has another shape than these axes; a value that is centred first is a layer_norm.
    """
    ops: list[Op] = []
    normed, weight = _scaled(b, op, ops)
    need(not normed.centred, "the value is centred: it is a layer_norm")
    return whole(b, b.rms_norm(normed.x, weight, axes=normed.axes, eps=normed.eps), ops)
