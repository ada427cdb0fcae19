# SPDX-License-Identifier: Apache-2.0
"""where, masked_fill, tril and triu."""

from typing import Any

import numpy as np
import pytest
from harness import Around, Const, apply, build, check, noise, refuse, with_specials
from hypothesis import given
from hypothesis import strategies as st
from reference import run

from porter.registry import rules
from porter.rewrite import NotApplicable


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.integers(0, 2), st.integers(0, 99))
def test_where_constant(bits: list[bool], axis: int, seed: int) -> None:
    shape = [2, 3, 2]
    shape[axis] = len(bits)
    mask = np.reshape(bits, [len(bits) if d == axis else 1 for d in range(3)])
    x, y = with_specials(noise(*shape, seed=seed)), with_specials(noise(*shape, seed=seed + 1), 5)
    check("where_constant_to_cat", "where", [Const(mask), x, y])
    check("where_constant_to_cat", "where", [Const(mask), Const(0.0, "float32"), y])


def test_where_constant_refuses() -> None:
    x = noise(2, 2)
    refuse("where_constant_to_cat", "where", [Const(np.eye(2, dtype=bool)), x, x], "varies along the axes")
    refuse("where_constant_to_cat", "where", [noise(2, 2, dtype="bool"), x, x], "computed")
    refuse("where_constant_to_cat", "where", [Const(np.arange(99) % 2 == 0), noise(99), noise(99)], "more than 32")


@given(st.integers(0, 99), st.booleans())
def test_where_to_arithmetic(seed: int, constant: bool) -> None:
    mask = noise(2, 1, 4, seed=seed, dtype="bool")
    inputs: list[Any] = [Const(mask) if constant else mask, noise(2, 3, 4, seed=seed), noise(3, 1, seed=seed + 1)]
    check("where_to_arithmetic", "where", inputs)


def test_where_to_arithmetic_is_not_for_infinities() -> None:
    """The page says that a hidden infinity makes NaN; it does, and constants that are not finite are refused."""
    op, feeds = build("where", [np.array([True]), np.array([1.0], "float32"), np.array([np.inf], "float32")], {})
    assert np.isnan(run(apply("where_to_arithmetic", op), feeds)[0]).all()
    refuse("where_to_arithmetic", "where", [noise(3, dtype="bool"), noise(3), Const(-np.inf, "float32")], "not finite")
    refuse("where_to_arithmetic", "where", [noise(3, dtype="bool")] + [noise(3, dtype="int32")] * 2, "floating")


def test_a_mask_that_may_hide_infinities_stays() -> None:
    """where(c, 0, softmax(x + where(d, 0, -inf))) of a row that is masked whole, and where(c, 0, log(x))."""
    mask, zero = noise(2, 3, dtype="bool"), Const(0.0, "float32")
    add, _ = build("add", [noise(2, 3), Const([0.0, -np.inf, 0.0], "float32")], {}, "a")
    softmax, _ = build("softmax", [add.outputs[0]], {"axis": 1}, "s")
    log, _ = build("log", [noise(2, 3)], {}, "l")
    half, _ = build("div", [noise(2, 3), Const(2.0, "float32")], {}, "h")
    quotient, _ = build("div", [noise(2, 3), noise(2, 3)], {}, "q")
    product, _ = build("matmul", [softmax.outputs[0], noise(3, 3)], {}, "p")
    around = Around([add, softmax, log, half, quotient, product])
    for hidden, why in ((softmax, "not finite"), (log, "comes from log"), (quotient, "comes from div")):
        where, _ = build("where", [mask, zero, hidden.outputs[0]], {})
        filled, _ = build("masked_fill", [hidden.outputs[0], mask], {"value": 0.0})
        for op in (where, filled):
            with pytest.raises(NotApplicable, match=why):
                rules()[f"{op.kind}_to_arithmetic"].apply(around, op, "new")
    for plain in (half, product):
        op, _ = build("where", [mask, zero, plain.outputs[0]], {})
        assert apply("where_to_arithmetic", op, around).ops


def test_where_to_masked_fill() -> None:
    mask = noise(2, 3, dtype="bool")
    check("where_to_masked_fill", "where", [mask, Const(-np.inf, "float32"), with_specials(noise(2, 3))])
    refuse("where_to_masked_fill", "where", [mask, noise(2, 3), noise(2, 3)], "not one constant number")
    refuse("where_to_masked_fill", "where", [mask, Const(0.0, "float32"), noise(3)], "broadcast")


@pytest.mark.parametrize("value", [0.0, -100.0, float("-inf")])
def test_masked_fill(value: float) -> None:
    mask, x = noise(1, 4, dtype="bool"), noise(3, 4)
    check("masked_fill_to_where", "masked_fill", [with_specials(x), mask], value=value)
    check("masked_fill_to_arithmetic", "masked_fill", [x, Const(mask)], value=value)
    if np.isfinite(value):
        check("masked_fill_to_arithmetic", "masked_fill", [x, mask], value=value)
    else:
        refuse("masked_fill_to_arithmetic", "masked_fill", [x, mask], "mask of 0 is NaN", value=value)


def test_masked_fill_of_integers() -> None:
    x, mask = noise(5, dtype="int32"), noise(5, dtype="bool")
    check("masked_fill_to_where", "masked_fill", [x, mask], value=3)
    refuse("masked_fill_to_arithmetic", "masked_fill", [x, mask], "floating", value=3)


@pytest.mark.parametrize("kind", ["tril", "triu"])
@pytest.mark.parametrize("diagonal", [-2, 0, 1])
def test_triangles(kind: str, diagonal: int) -> None:
    check("triangle_to_where", kind, [with_specials(noise(2, 4, 5))], diagonal=diagonal)
    check("triangle_to_mul", kind, [noise(2, 4, 5)], diagonal=diagonal)
    refuse("triangle_to_mul", kind, [noise(2, 2, dtype="bool")], "bool", diagonal=diagonal)
    wide = np.broadcast_to(np.float32(0), (5000, 5000))
    for rule in ("triangle_to_where", "triangle_to_mul"):
        refuse(rule, kind, [wide], "a mask of 25000000 elements is more than 16777216", diagonal=diagonal)
