# SPDX-License-Identifier: Apache-2.0
"""The language of limits: what it computes, what it refuses, and that unknown values never pass for known ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from porter.limits import FUNCTIONS, UNKNOWN, Expression, ExpressionError, parse
from porter.op_facts import fact_names, facts
from porter.ops import KINDS, Op, Value

NAMES = ("a", "b", "c", "shape", "mode", "flag", "none")


def holds(text: str, **values: Any) -> bool | None:
    return parse(text, NAMES).holds(lambda name: values.get(name, UNKNOWN))[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <= b", True),
        ("a < b < c", True),
        ("a < b < a", False),
        ("a * b + 1 == 7 and c - a == 2", True),
        ("c // a % 2 == 0", True),
        ("not a == 2", False),
        ("-a < 0", True),
        ("ceil_div(c, 3) == 2", True),
        ("min(a, b, c) == 2 and max(shape) == 5", True),
        ("abs(a - c) == 2 and len(shape) == 3 and prod(shape) == 30", True),
        ("shape[0] == 2 and shape[-1] == 5 and prod(shape[1:]) == 15", True),
        ("mode in ('nearest', 'linear')", True),
        ("mode not in ('nearest', 'linear')", False),
        ("(a, mode) in ((2, 'nearest'), (3, 'linear'))", True),
        ("flag", False),
        ("none == None and a != None", True),
        ("flag or a == 2 or shape[9] == 0", True),
        ("a * 1.5 == 3.0", True),
    ],
)
def test_values(text: str, expected: bool) -> None:
    assert holds(text, a=2, b=3, c=4, shape=(2, 3, 5), mode="nearest", flag=False, none=None) is expected


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a ** 2 == 4", "operator"),
        ("a / b < 1", "operator"),
        ("a.b == 1", "language of limits"),
        ("(lambda: 1)() == 1", "no function"),
        ("[x for x in shape] == 1", "language of limits"),
        ("all(s > 0 for s in shape)", "no function"),
        ("__import__('os').system('x') == 0", "no function"),
        ("eval('1') == 1", "no function"),
        ("a if flag else b", "language of limits"),
        ("f'{a}' == 'x'", "language of limits"),
        ("(a := 3) == 3", "language of limits"),
        ("a is None", "'is'"),
        ("~a == 1", "language of limits"),
        ("b'x' == mode", "not a number, a string"),
        ("shape[a] == 1", "index must be"),
        ("shape['x'] == 1", "index must be"),
        ("shape[::0] == shape", "step"),
        ("ceil_div(a) == 1", "takes 2 arguments"),
        ("len(shape, shape) == 1", "takes 1 argument"),
        ("min() == 1", "takes one or more"),
        ("max(*shape) == 1", "language of limits"),
        ("a <= ", "not an expression"),
        ("a = 1", "not an expression"),
        ("", "not an expression"),
        ("a + b", "hold or not hold"),
        ("3", "hold or not hold"),
        ("a\x00 == 1", "not an expression"),
        ("(" * 400 + "a" + ")" * 400 + " == 1", "not an expression"),
        ("a == 1 " + "or a == 1 " * 200, "longer than"),
    ],
)
def test_refused(text: str, word: str) -> None:
    with pytest.raises(ExpressionError, match=word):
        parse(text, NAMES)


def test_deep_nesting_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(ExpressionError):
        parse("not " * 240 + "(" * 20 + "-" * 900, NAMES)


@pytest.mark.parametrize(
    ("text", "fix"), [("modes == 'x'", "'mode'"), ("maximum(a) == 1", "max"), ("zzz == 1", "a, b, c, flag, mode")]
)
def test_nearest_name(text: str, fix: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text, NAMES)
    assert caught.value.fix is not None and fix in caught.value.fix


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("none < 3", "None is not a number"),
        ("a // (b - 3) == 0", "divides by zero"),
        ("ceil_div(a, b - 3) == 0", "division by zero"),
        ("shape[3] == 1", "has no element 3"),
        ("mode < 3", "'nearest' is not a number"),
        ("mode * 1000000000 == 'x'", "'nearest' is not a number"),
        ("a in mode", "is not a tuple"),
        ("a and flag", "neither true nor false"),
        ("not a", "neither true nor false"),
        ("a", "neither true nor false"),
        ("min(shape[3:]) == 1", "nothing"),
        ("a == 9 or c", "neither"),
    ],
)
def test_no_value_is_unknown_with_the_reason(text: str, problem: str) -> None:
    values = {"a": 2, "b": 3, "c": 4, "shape": (2, 3, 5), "mode": "nearest", "flag": True, "none": None}
    result, why = parse(text, NAMES).holds(lambda name: values[name])
    assert result is None and problem in why


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a == 1", None),
        ("a == 1 or b == 3", True),
        ("a == 1 and b == 4", False),
        ("a == 1 and b == 3", None),
        ("not a == 1", None),
        ("max(a, b) == 3", None),
        ("b < 2 < a", False),
        ("2 < b < a", None),
        ("(a, b) in ((1, 3), (2, 3))", None),
        ("-a < 0", None),
        ("shape[0] == 1", None),
    ],
)
def test_unknown_is_not_passed(text: str, expected: bool | None) -> None:
    assert holds(text, b=3) is expected


def test_unknown_names_are_named() -> None:
    assert parse("a + c <= b", NAMES).holds(lambda name: 3 if name == "b" else UNKNOWN)[1] == "a and c are not known"


def test_filled_puts_the_values_beside_the_names() -> None:
    values = {"a": 7, "b": UNKNOWN, "c": 0.5, "shape": (1, 2), "mode": "é", "none": None}
    text = "max(a, b) <= c and 'é' == mode and shape[0] == none"
    assert parse(text, NAMES).filled(values.__getitem__) == (
        "max(a 7, b ?) <= c 0.5 and 'é' == mode 'é' and shape (1, 2)[0] == none None"
    )


def test_lines_are_joined() -> None:
    assert parse("a <= b\n    and b <= c", NAMES).text == "a <= b and b <= c"


numbers = st.recursive(
    st.sampled_from(["a", "b", "c", "0", "1", "2", "7"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
        inner.map(lambda t: f"abs({t})"),
    ),
    max_leaves=6,
)
comparisons = st.tuples(numbers, st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), numbers).map(" ".join)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda t: f"(not {t})"),
    ),
    max_leaves=4,
)
values = st.fixed_dictionaries(dict.fromkeys("abc", st.integers(-5, 5)))


@given(conditions, values)
def test_agrees_with_python(text: str, at: dict[str, int]) -> None:
    if len(text) <= 1000:
        assert holds(text, **at) is eval(text, {"min": min, "max": max, "abs": abs}, dict(at))


@given(conditions, values, st.sampled_from("abc"))
def test_what_holds_without_a_name_holds_for_every_value_of_it(text: str, at: dict[str, int], hidden: str) -> None:
    if len(text) > 1000:
        return
    known = holds(text, **{name: value for name, value in at.items() if name != hidden})
    if known is not None:
        assert holds(text, **at) is known


# -- facts -------------------------------------------------------------------------------------------------------


def value(name: str, *shape: int, dtype: str = "float32", const: bool = False) -> Value:
    return Value(name, shape, dtype, np.ones(shape, dtype) if const else None)


def conv(**changes: Any) -> Op:
    attrs = {"stride": (2, 1), "padding": ((1, 2), (3, 4)), "dilation": (1, 2), "groups": 1, **changes}
    x, w = value("x", 1, 8, 20, 30), value("w", 16, 8 // attrs["groups"], 3, 5, const=True)
    return Op("conv2d", (x, w, None), (value("y", 1, 16, 10, 25),), attrs)


def test_convolution() -> None:
    known = facts(conv())
    expected = {
        "in_n": 1, "in_c": 8, "in_h": 20, "in_w": 30, "in_d": 1, "out_c": 16, "out_h": 10, "in_channels": 8,
        "out_channels": 16, "kernel": (3, 5), "kernel_h": 3, "kernel_w": 5, "kernel_d": 1, "stride_h": 2, "stride_w": 1,
        "dilation_w": 2, "pad_top": 1, "pad_bottom": 2, "pad_left": 3, "pad_right": 4, "pad_front": 0, "groups": 1,
        "depthwise": False, "weight_const": True, "x_const": False, "bias_present": False, "rank": 4,
        "dtype": "float32", "elements": 4800, "input_count": 2, "bias_shape": UNKNOWN,
    }  # fmt: skip
    assert {name: known[name] for name in expected} == expected
    assert facts(conv(groups=8))["depthwise"] is True and facts(conv(groups=2))["depthwise"] is False


def test_transposed_convolution_counts_its_channels() -> None:
    x, w = value("x", 1, 8, 4, 4), value("w", 8, 3, 2, 2, const=True)
    op = Op("conv_transpose2d", (x, w), (value("y", 1, 6, 8, 8),), {"groups": 2})
    assert (facts(op)["in_channels"], facts(op)["out_channels"]) == (8, 6)


@pytest.mark.parametrize(
    ("shape", "extents"),
    [
        ((), (1, 1, 1, 1, 1)),
        ((7,), (7, 1, 1, 1, 1)),
        ((7, 8), (7, 8, 1, 1, 1)),
        ((7, 8, 9), (7, 8, 1, 1, 9)),
        ((7, 8, 9, 10), (7, 8, 1, 9, 10)),
        ((7, 8, 9, 10, 11), (7, 8, 9, 10, 11)),
    ],
)
def test_extents_are_read_channels_first(shape: tuple[int, ...], extents: tuple[int, ...]) -> None:
    known = facts(Op("relu", (value("x", *shape),), (value("y", *shape),)))
    assert tuple(known[f"in_{role}"] for role in "ncdhw") == extents


def test_second_operand() -> None:
    x, e = value("x", 1, 4), Value.constant("e", np.array(2.5, "float32"))
    known = facts(Op("pow", (x, e), (x,)))
    assert (known["in1_value"], known["in1_elements"], known["in1_const"], known["broadcast"]) == (2.5, 1, True, True)
    known = facts(Op("pow", (x, x), (x,)))
    assert (known["in1_value"], known["broadcast"], known["in1_c"]) == (UNKNOWN, False, 4)


def test_axes_and_scales() -> None:
    x, y = value("x", 2, 3, 4, 5), value("y", 2, 3, 8, 6)
    assert facts(Op("softmax", (x,), (x,), {"axis": 3}))["axis_extent"] == 5
    assert facts(Op("argmax", (x,), (x,), {"axis": None}))["axis_extent"] == 120
    assert facts(Op("sum", (x,), (x,), {"axes": (1, 3)}))["axes_extents"] == (3, 5)
    resize = facts(Op("resize", (x,), (y,), {}))
    assert (resize["scale_h"], resize["scale_w"]) == (2, 1.2)
    pad = facts(Op("pad", (x,), (x,), {"padding": ((0, 1), (2, 3), (0, 0), (-1, 0))}))
    assert (pad["pad_begin"], pad["pad_end"]) == ((0, 2, 0, -1), (1, 3, 0, 0))


@pytest.mark.parametrize("kind", [*KINDS, "dynamic_slice", "aten.foo.default", "onnx:Foo"])
def test_every_fact_of_every_kind_is_unknown_rather_than_an_error(kind: str) -> None:
    bare = Op(kind, (), ())
    shapeless = Op(kind, (Value("x"), Value("w"), None), (Value("y"),))
    for op in (bare, shapeless):
        known = facts(op)
        assert set(known) == set(fact_names(kind))
        assert known["in_h"] is UNKNOWN and known["dtype"] is UNKNOWN
    for name in fact_names(kind):
        assert name.isidentifier() and isinstance(parse(f"{name} == 1", fact_names(kind)), Expression)


def test_a_fact_and_a_function_may_share_a_name() -> None:
    assert "min" in FUNCTIONS
    clamp = Op("clamp", (value("x", 1, 2),), (value("y", 1, 2),), {"min": -1.0, "max": None})
    result = parse("min(min, 0) == -1 and max == None", fact_names("clamp"))
    assert result.holds(lambda name: facts(clamp)[name])[0] is True


# -- broadcasting ------------------------------------------------------------------------------------------------


def pair(kind: str, x: tuple[int, ...], y: tuple[int, ...], out: tuple[int, ...] | None = None) -> dict[str, Any]:
    result = np.broadcast_shapes(x, y) if out is None else out
    op = Op(kind, (Value("x", x, "float32"), Value("y", y, "float32")), (Value("o", result, "float32"),))
    return facts(op)


@pytest.mark.parametrize(
    ("x", "y", "axes", "others", "merged", "plain"),
    [
        ((2, 3, 4), (2, 3, 4), (), (), 1, 1),
        ((2, 3, 4), (4,), (), (0, 1), 2, 3),
        ((2, 3, 1), (2, 1, 5), (2,), (1,), 3, 3),
        ((1, 3, 1), (1, 3, 1), (), (), 1, 1),
        ((1, 1, 1), (1, 1, 1), (), (), 0, 1),
        ((7,), (1,), (), (0,), 1, 1),
        # N H W D 1 with N 1 W D C: W and D merge; N H W D 1 with N 1 1 D C: by the first rule H and W merge
        ((2, 3, 4, 5, 1), (2, 1, 4, 5, 6), (4,), (1,), 4, 4),
        ((2, 3, 4, 5, 1), (2, 1, 1, 5, 6), (4,), (1, 2), 4, 5),
        ((2, 3, 1, 5, 6), (2, 3, 1, 5, 6), (), (), 1, 1),
        ((2, 1, 2, 1, 2, 1), (1, 2, 1, 2, 1, 2), (1, 3, 5), (0, 2, 4), 6, 6),
    ],
)
def test_broadcasting(
    x: tuple[int, ...],
    y: tuple[int, ...],
    axes: tuple[int, ...],
    others: tuple[int, ...],
    merged: int,
    plain: int,
) -> None:
    known = pair("add", x, y)
    assert (known["broadcast_axes"], known["in1_broadcast_axes"]) == (axes, others)
    assert (known["merged_rank"], known["plain_merged_rank"]) == (merged, plain)


def test_broadcasting_of_a_product_is_that_of_its_leading_axes() -> None:
    known = pair("matmul", (3, 1, 5, 6), (1, 4, 6, 7), (3, 4, 5, 7))
    assert (known["broadcast_axes"], known["in1_broadcast_axes"]) == ((1,), (0,))
    known = pair("matmul", (5, 6), (6, 7), (5, 7))
    assert (known["broadcast_axes"], known["merged_rank"]) == ((), 0)


extents = st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=6)


@given(extents, st.data())
def test_broadcast_axes_are_those_along_which_an_operand_is_repeated(shape: list[int], data: st.DataObject) -> None:
    x, y = (tuple(data.draw(st.sampled_from([1, n])) for n in shape) for _ in range(2))
    known = pair("add", x, y)
    result = np.broadcast_shapes(x, y)
    assert known["merged_rank"] <= known["plain_merged_rank"] <= len(result)
    assert set(known["broadcast_axes"]).isdisjoint(known["in1_broadcast_axes"])
    for own, name in ((x, "broadcast_axes"), (y, "in1_broadcast_axes")):
        assert tuple(1 if i in known[name] else n for i, n in enumerate(result)) == own


def test_changed_axes() -> None:
    def changed(x: tuple[int, ...], out: tuple[int, ...]) -> Any:
        return facts(Op("expand", (Value("x", x, "float32"),), (Value("o", out, "float32"),), {"shape": out}))[
            "changed_axes"
        ]

    assert changed((1, 3, 1), (1, 3, 4)) == (2,)
    assert changed((3, 1), (2, 3, 4)) == (0, 2)
    assert changed((2, 3), (2, 3)) == ()
