# SPDX-License-Identifier: Apache-2.0
"""Comparisons, logic and casts of truth values."""

import numpy as np
import oracle
import pytest
from harness import Around, Const, apply, build, check, noise, refuse
from reference import run

from porter.registry import rules
from porter.rewrite import NotApplicable

GRID = np.array([-np.inf, -1.5, -0.0, 0.0, 1.0, np.inf, np.nan], np.float32)
X, Y = GRID[:, None], GRID[None, :]


@pytest.mark.parametrize("kind", ["ge", "le", "gt", "lt"])
def test_order(kind: str) -> None:
    check("compare_swapped", kind, [X, Y])
    check("compare_swapped", kind, [X, Const(0.0, "float32")])
    check("compare_to_not", kind, [X[:-1], Y[:, :-1]])
    if kind in ("ge", "le"):
        check("compare_to_or", kind, [X, Y])


@pytest.mark.parametrize("kind", ["eq", "ne"])
def test_equality(kind: str) -> None:
    check("equality_to_not", kind, [X, Y])


@pytest.mark.parametrize("kind", ["logical_and", "logical_or", "logical_xor"])
def test_logic(kind: str) -> None:
    check("logical_to_arithmetic", kind, [X, Y])
    x, y = noise(20, dtype="bool"), noise(20, seed=1, dtype="bool")
    check("logical_to_arithmetic", kind, [x, y])
    check("logical_to_arithmetic", kind, [x, Const(y)])
    bits = kind.replace("logical", "bitwise")
    check("bitwise_to_logical", bits, [x, y])
    refuse("bitwise_to_logical", bits, [noise(3, dtype="int32")] * 2, "not bool")


def test_not() -> None:
    check("logical_to_arithmetic", "logical_not", [noise(20, dtype="bool")])
    check("logical_to_arithmetic", "logical_not", [GRID])
    check("bitwise_to_logical", "bitwise_not", [noise(20, dtype="bool")])


@pytest.mark.parametrize("kind", ["ge", "le", "gt", "lt", "eq", "ne"])
def test_cast_of_comparison(kind: str) -> None:
    grid = np.array([-1.5, -0.0, 0.0, 1e-45, 1.0, 1.0000001, 3e38], np.float32)
    made, feeds = build(kind, [grid[:, None], grid[None, :]], {}, "a")
    cast, _ = build("cast", [made.outputs[0]], {"dtype": "float32"}, "b")
    fragment = apply("cast_of_comparison_to_sign", cast, Around([made]))
    (want,) = oracle.compute(kind, [grid[:, None], grid[None, :]], {})
    np.testing.assert_array_equal(run(fragment, feeds)[0], want.astype(np.float32))
    assert all(out.dtype != "bool" for op in fragment.ops for out in op.outputs)


@pytest.mark.parametrize("kind", ["logical_and", "logical_or", "logical_xor"])
def test_cast_of_logic(kind: str) -> None:
    x, y, limit = noise(40), noise(40, seed=1), Const(0.1, "float32")
    one, feeds = build("gt", [x, limit], {}, "a")
    two, more = build("le", [y, limit], {}, "b")
    both, _ = build(kind, [one.outputs[0], two.outputs[0]], {}, "c")
    never, _ = build("logical_not", [both.outputs[0]], {}, "d")
    cast, _ = build("cast", [never.outputs[0]], {"dtype": "float32"}, "e")
    fragment = apply("cast_of_comparison_to_sign", cast, Around([one, two, both, never]))
    want = ~oracle.compute(kind, [x > limit.data, y <= limit.data], {})[0]
    np.testing.assert_array_equal(run(fragment, {**feeds, **more})[0], want.astype(np.float32))


def test_cast_of_comparison_refuses() -> None:
    rule = "cast_of_comparison_to_sign"
    refuse(rule, "cast", [noise(3, dtype="bool")], "an input", dtype="float32")
    refuse(rule, "cast", [noise(3)], "from float32", dtype="float64")
    nan, _ = build("isnan", [noise(3)], {}, "a")
    ints, _ = build("gt", [noise(3, dtype="int32"), noise(3, dtype="int32")], {}, "b")
    for made, reason in ((nan, "result of isnan"), (ints, "not float32")):
        cast, _ = build("cast", [made.outputs[0]], {"dtype": "float32"}, "c")
        with pytest.raises(NotApplicable, match=reason):
            rules()[rule].apply(Around([made]), cast, "new")


def test_casts() -> None:
    check("cast_bool", "cast", [GRID], dtype="bool")
    for dtype in ("float32", "int64", "float16"):
        check("cast_bool", "cast", [noise(20, dtype="bool")], dtype=dtype)
    refuse("cast_bool", "cast", [GRID], "from float32 to int32", dtype="int32")
    assert check("remove_cast", "cast", [GRID], dtype="float32").ops == []
    refuse("remove_cast", "cast", [GRID], "from float32 to float64", dtype="float64")
