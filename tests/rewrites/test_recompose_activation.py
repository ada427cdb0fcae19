# SPDX-License-Identifier: Apache-2.0
"""Formulas of activations, in the forms that exporters write, put together again."""

from math import pi, sqrt
from typing import Any

import numpy as np
import pytest
from formula import Formula
from harness import line, noise
from hypothesis import given
from hypothesis import strategies as st

X = line(-12, 12, special=[0.0, -0.0, 3.0, -3.0])


def _scaled(f: Formula, x: Any, number: float, form: int) -> Any:
    """x * number in one of four forms."""
    if form == 0:
        return f("mul", x, number)
    if form == 1:
        return f("mul", np.full((1,), number, np.float32), x)
    return f("div", x, 1 / number)


def _shifted(f: Formula, x: Any, number: float, form: int) -> Any:
    return (f("add", x, number), f("add", number, x), f("sub", x, -number))[form % 3]


def _times(f: Formula, x: Any, y: Any, form: int) -> Any:
    return f("mul", x, y) if form % 2 else f("mul", y, x)


def test_silu() -> None:
    f = Formula()
    x = f.input(line(-80, 80))
    for result in (f("mul", x, f("sigmoid", x)), f("mul", f("sigmoid", x), x)):
        assert [op.kind for op in f.fuse("sigmoid_mul_to_silu", result).ops] == ["silu"]
    y = f("add", f("exp", f("neg", x)), 1.0)
    assert f.fuse("sigmoid_mul_to_silu", f("div", x, y)).results[0].shape == x.shape
    minus = f("mul", x, -1.0)
    f.fuse("sigmoid_mul_to_silu", f("div", x, f("add", 1.0, f("exp", minus))))


def test_silu_is_refused_with_a_reason() -> None:
    f = Formula()
    x, z = f.input(noise(3, 4)), f.input(noise(3, 4, seed=1))
    y = f("mul", x, f("sigmoid", x))
    f.refuse("sigmoid_mul_to_silu", y, "no silu in the model's own operators", lacks="silu")
    f.refuse("sigmoid_mul_to_silu", f("mul", z, f("sigmoid", x)), "of another value")
    f.refuse("sigmoid_mul_to_silu", f("mul", f("mul", x, f("sigmoid", x)), 2.0), "the factor 2 as well")
    f.refuse("sigmoid_mul_to_silu", f("div", x, f("add", 1.0, f("exp", f("neg", z)))), "of another value")
    f.ignore("sigmoid_mul_to_silu", f("mul", x, z))
    f.ignore("sigmoid_mul_to_silu", f("div", x, f("add", 2.0, f("exp", f("neg", x)))))


LIMITS = ["clamp", "relu6", "min(max)", "max(min)", "min(relu)"]


def _limited(f: Formula, x: Any, high: float, form: str) -> Any:
    if form == "clamp" or (form == "relu6" and high != 6):
        return f("clamp", x, min=0.0, max=high)
    if form == "relu6":
        return f("relu6", x)
    if form == "min(max)":
        return f("minimum", f("maximum", x, 0.0), high)
    if form == "max(min)":
        return f("maximum", f("minimum", high, x), 0.0)
    return f("minimum", f("relu", x), high)


@given(st.sampled_from(LIMITS), st.integers(0, 2), st.integers(0, 2), st.integers(0, 3))
def test_hardsigmoid_and_hardswish(limit: str, shift: int, scale: int, order: int) -> None:
    f = Formula()
    x = f.input(X)
    gate = _scaled(f, _limited(f, _shifted(f, x, 3.0, shift), 6.0, limit), 1 / 6, scale)
    made = f.fuse("clamp_to_hardsigmoid", gate).ops[0]
    assert made.kind == "hardsigmoid" and made.attrs == {"alpha": 1 / 6, "beta": 0.5}
    assert f.fuse("clamp_mul_to_hardswish", _times(f, x, gate, order)).ops[0].kind == "hardswish"
    g = Formula()
    x = g.input(X)
    product = _times(g, x, _limited(g, _shifted(g, x, 3.0, shift), 6.0, limit), order)
    assert g.fuse("clamp_mul_to_hardswish", _scaled(g, product, 1 / 6, scale)).ops[0].kind == "hardswish"


@given(st.floats(0.05, 0.9), st.floats(-0.9, 0.9), st.sampled_from(LIMITS))
def test_hardsigmoid_of_any_line(alpha: float, beta: float, limit: str) -> None:
    alpha, beta = float(np.float32(alpha)), float(np.float32(beta))
    f = Formula()
    x = f.input(line(-2 / alpha, 2 / alpha, special=[0.0]))
    result = _limited(f, f("add", f("mul", x, alpha), beta), 1.0, limit)
    made = f.fuse("clamp_to_hardsigmoid", result).ops[0]
    assert made.attrs["alpha"] == pytest.approx(alpha) and made.attrs["beta"] == pytest.approx(beta)


def test_hardsigmoid_of_the_vocabulary_is_a_gate_too() -> None:
    f = Formula()
    x = f.input(X)
    gate = f("hardsigmoid", x, alpha=1 / 6, beta=0.5)
    assert f.fuse("clamp_mul_to_hardswish", f("mul", x, gate)).ops[0].kind == "hardswish"
    other = f("hardsigmoid", x, alpha=0.2, beta=0.5)
    f.refuse("clamp_mul_to_hardswish", f("mul", x, other), "alpha 0.2 and beta 0.5, not 1/6 and 1/2")


def test_hard_forms_are_refused_with_a_reason() -> None:
    f = Formula()
    x, z = f.input(noise(3, 4)), f.input(noise(3, 4, seed=1))
    gate = f("clamp", f("add", x, 3.0), min=0.0, max=6.0)
    f.refuse("clamp_to_hardsigmoid", f("mul", gate, 0.5), "limits are not 0 and 1")
    f.refuse("clamp_to_hardsigmoid", f("clamp", x, min=0.0, max=1.0), "only limits")
    f.refuse("clamp_to_hardsigmoid", f("clamp", f("add", x, 7.0), min=0.0, max=1.0), "cancels digits")
    f.refuse("clamp_mul_to_hardswish", f("div", f("mul", z, gate), 6.0), "of another value")
    f.ignore("clamp_to_hardsigmoid", f("clamp", x, min=-1.0, max=1.0))
    f.ignore("clamp_mul_to_hardswish", f("mul", x, z))
    y = f("div", f("mul", x, gate), 6.0)
    f.refuse("clamp_mul_to_hardswish", y, "no hardswish in the model's own operators", lacks="hardswish")


def _erf_gate(f: Formula, x: Any, scale: int, shift: int) -> Any:
    return _shifted(f, f("erf", _scaled(f, x, sqrt(0.5), scale)), 1.0, shift)


def _tanh_gate(f: Formula, x: Any, scale: int, shift: int, cube: int) -> Any:
    third = (
        lambda: f("mul", f("mul", x, x), x),
        lambda: f("pow", x, 3.0),
        lambda: f("mul", f("square", x), x),
    )[cube % 3]
    if cube < 3:
        inner = f("add", x, f("mul", third(), 0.044715))
    else:
        inner = f("mul", x, f("add", f("mul", f("mul", x, x), 0.044715), 1.0))
    return _shifted(f, f("tanh", _scaled(f, inner, sqrt(2 / pi), scale)), 1.0, shift)


@given(st.booleans(), *(st.integers(0, 2),) * 3, st.integers(0, 5), st.integers(0, 3))
def test_gelu(erf: bool, scale: int, shift: int, half: int, cube: int, order: int) -> None:
    f = Formula()
    x = f.input(line(-6, 6, special=[0.0]))
    gate = _erf_gate(f, x, scale, shift) if erf else _tanh_gate(f, x, scale, shift, cube)
    if order == 0:
        result = f("mul", _scaled(f, x, 0.5, half), gate)
    elif order == 1:
        result = f("mul", x, _scaled(f, gate, 0.5, half))
    elif order == 2:
        result = _scaled(f, f("mul", gate, x), 0.5, half)
    else:
        result = f("mul", x, f("add", _scaled(f, f("sub", gate, 1.0), 0.5, half), 0.5))
    made = f.fuse("erf_or_tanh_to_gelu", result).ops
    assert [(op.kind, op.attrs["approximate"]) for op in made] == [("gelu", "none" if erf else "tanh")]


def test_gelu_is_refused_with_a_reason() -> None:
    f = Formula()
    x, z = f.input(noise(3, 4)), f.input(noise(3, 4, seed=1))
    gate = _erf_gate(f, x, 0, 0)
    f.refuse("erf_or_tanh_to_gelu", f("mul", gate, f("mul", z, 0.5)), "of another value")
    f.refuse("erf_or_tanh_to_gelu", f("mul", gate, x), "both should be 0.5")
    wide = f("add", f("erf", f("mul", x, 0.75)), 1.0)
    f.refuse("erf_or_tanh_to_gelu", f("mul", wide, f("mul", x, 0.5)), "coefficients inside of erf are 0, 0.75")
    rough = f("mul", f("add", x, f("mul", f("pow", x, 3.0), 0.0447)), 0.7979)
    bend = f("mul", f("mul", x, 0.5), f("add", f("tanh", rough), 1.0))
    f.refuse("erf_or_tanh_to_gelu", bend, "coefficients inside of tanh")
    y = f("mul", f("mul", x, 0.5), gate)
    f.refuse("erf_or_tanh_to_gelu", y, "no gelu in the model's own operators", lacks="gelu")
    f.ignore("erf_or_tanh_to_gelu", f("mul", x, z))


def test_mish() -> None:
    f = Formula()
    x, z = f.input(line(-30, 30, special=[0.0])), f.input(line(-30, 30, special=[0.0]))
    soft = f("softplus", x, beta=1.0, threshold=20.0)
    assert f.fuse("tanh_softplus_to_mish", f("mul", x, f("tanh", soft))).ops[0].kind == "mish"
    f.refuse("tanh_softplus_to_mish", f("mul", z, f("tanh", soft)), "of another value")
    twice = f("softplus", x, beta=2.0, threshold=20.0)
    f.refuse("tanh_softplus_to_mish", f("mul", x, f("tanh", twice)), "beta 2")
    f.refuse("tanh_softplus_to_mish", f("mul", f("mul", x, 3.0), f("tanh", soft)), "the factor 3 as well")
    f.ignore("tanh_softplus_to_mish", f("mul", x, f("tanh", x)))


def test_a_product_of_more_is_left_to_its_inner_part() -> None:
    f = Formula()
    x = f.input(noise(3, 4))
    inner = f("mul", x, f("sigmoid", x))
    f.ignore("sigmoid_mul_to_silu", f("mul", inner, f.input(noise(3, 4, seed=2))))
    f.fuse("sigmoid_mul_to_silu", inner)
