# SPDX-License-Identifier: Apache-2.0
"""int64 arithmetic in int32 and in float32: equal, or refused because a number might not fit."""

from typing import Any

import numpy as np
from formula import Formula
from harness import noise
from hypothesis import given
from hypothesis import strategies as st

from porter.rewrite import NotApplicable

INT, FLOAT = "int64_arithmetic_to_int32", "integer_arithmetic_to_float"
BINARY = ["add", "sub", "mul", "minimum", "maximum"]
DIVIDED = ["floor_divide", "trunc_divide", "remainder", "fmod"]


def _leaf(f: Formula, form: int, seed: int) -> Any:
    """Whole numbers of a known range, in int64, of shape (3, 4)."""
    if form == 0:
        return f("argmax", f.input(noise(3, 4, 9, seed=seed)), axis=2, keepdim=False)
    if form == 1:
        return f("cast", f.input(np.random.default_rng(seed).integers(0, 256, (3, 4)).astype(np.uint8)), dtype="int64")
    if form == 2:
        return f("cast", f.input(noise(3, 4, seed=seed, dtype="bool")), dtype="int64")
    if form == 3:
        return f("topk", f.input(noise(3, 7, seed=seed)), k=4, axis=1, largest=True, sorted=True)[1]
    wide = f("clamp", f.input(noise(3, 4, seed=seed, scale=40)), min=-20.5, max=33.0)
    return f("cast", wide, dtype="int64")


@given(st.data())
def test_random_arithmetic(data: Any) -> None:
    f = Formula()
    values = [_leaf(f, data.draw(st.integers(0, 4)), seed) for seed in range(2)]
    for i in range(data.draw(st.integers(1, 6))):
        kind = data.draw(st.sampled_from([*BINARY, *DIVIDED, "neg", "abs", "clamp", "where", "permute", "relu"]))
        x, y = (data.draw(st.sampled_from(values)) for _ in range(2))
        if kind in BINARY:
            other = data.draw(st.sampled_from([y, 7, -3, np.arange(4) - 2]))
            values.append(f(kind, x, other))
        elif kind in DIVIDED:
            values.append(f(kind, x, data.draw(st.sampled_from([1, 3, -4, 17, np.array([2, -5, 1, 6])]))))
        elif kind == "clamp":
            values.append(f("clamp", x, min=-5, max=data.draw(st.sampled_from([None, 30]))))
        elif kind == "where":
            values.append(f("where", noise(3, 4, seed=i, dtype="bool"), x, y))
        elif kind == "permute":
            values.append(f("permute", f("permute", x, dims=(1, 0)), dims=(1, 0)))
        else:
            values.append(f(kind, x))
    last = f("add", values[-1], 0)
    ends = [f("cast", last, dtype="float32"), f("lt", last, values[0]), f("cast", last, dtype="bool")]
    end = data.draw(st.sampled_from(ends))
    for rule, dtype in ((INT, "int32"), (FLOAT, "float32")):
        try:
            fragment = f.fuse(rule, end)
        except NotApplicable as why:
            # products of products outgrow both, and divisors on both sides of 0 are not looked at one by one
            assert any(text in str(why) for text in ("can reach", "can be", "in floats", "may be 0")), why
            continue
        arithmetic = {out.dtype for op in fragment.ops for out in op.outputs}
        assert "int64" not in arithmetic and dtype in arithmetic


@given(st.integers(-(2**24) + 1, 2**24 - 1), st.integers(1, 2**24 - 1), st.booleans())
def test_quotients_are_exact_up_to_the_limit(x: int, y: int, negative: bool) -> None:
    """floor(x / y) in float32, for numbers as large as it holds."""
    y = -y if negative else y
    for near in (x, x // y * y, x // y * y - 1, x // y * y + 1):
        if abs(near) < 2**24:
            q = np.floor(np.float32(near) / np.float32(y))
            assert q == near // y, (near, y)


def test_positions_into_a_table() -> None:
    f = Formula()
    scores = f.input(noise(5, 8))
    index = f("add", f("mul", f("argmax", scores, axis=1, keepdim=False), 2), 1)
    table = f.input(noise(18, 3, seed=2))
    for end in (f("take", table, index, axis=0), f("embedding", table, index), f("index_select", table, index, axis=0)):
        made = f.fuse(INT, end).ops
        assert [op.kind for op in made][:3] == ["cast", "mul", "add"]
        assert made[-1].operands[1].dtype == "int32"
        made = f.fuse(FLOAT, end).ops
        assert [(op.kind, op.outputs[0].dtype) for op in made][-2:] == [
            ("cast", "int64"),
            (end_kind(f, end), "float32"),
        ]


def end_kind(f: Formula, value: Any) -> str:
    return next(op.kind for op in f.ops if op.outputs[0] is value)


def test_truncation_by_a_cast_and_back() -> None:
    f = Formula()
    x = f.input(np.array([2.7, -2.7, 0.0, 3e9, -1e15, 16777217.0], np.float32))
    back = f("cast", f("reshape", f("cast", x, dtype="int64"), shape=(2, 3)), dtype="float32")
    assert [op.kind for op in f.fuse(FLOAT, back).ops] == ["trunc", "reshape"]
    f.refuse(INT, back, "nothing is known about the range of in0")
    more = f("cast", f("add", f("cast", x, dtype="int64"), 1), dtype="float32")
    f.refuse(FLOAT, more, "nothing is known about the range")


def test_refusals_say_why() -> None:
    f = Formula()
    wide = f.input(np.arange(4, dtype=np.int64))
    f.refuse(INT, f("cast", f("add", wide, 1), dtype="float32"), "nothing is known about the range of in0")
    small = f("cast", f.input(np.arange(4, dtype=np.uint8)), dtype="int64")
    large = f("mul", small, 2**24)
    f.refuse(INT, f("cast", large, dtype="float32"), "mul can reach 4278190080")
    f.refuse(FLOAT, f("cast", f("mul", small, 2**17), dtype="float32"), "mul can reach 33423360")
    f.refuse(FLOAT, f("cast", f("add", small, 2**25), dtype="float32"), "can be 33554432, beyond 16777216")
    by = f("floor_divide", f("add", small, 5), f("add", small, 1))
    assert by.dtype == "int64"
    f.refuse(INT, f("cast", f("remainder", f("add", small, 5), f("sub", small, 9)), dtype="float32"), "may be 0")
    f.refuse(INT, f("cast", f("add", small, 5), dtype="uint8"), "5 to 260 do not fit uint8")
    narrow = f.input(np.arange(4, dtype=np.uint8))
    f.refuse(FLOAT, f("cast", f("add", narrow, narrow), dtype="float32"), "can leave the range of uint8, and wraps")
    f.refuse(INT, f("cast", f("cumsum", small, axis=0), dtype="float32"), "nothing is known about the range of t")
    for rule in (INT, FLOAT):
        f.ignore(rule, f("cast", f("argmax", f.input(noise(3, 4)), axis=1, keepdim=False), dtype="float32"))
        f.ignore(rule, f("cast", f.input(noise(4)), dtype="int32"))
        f.ignore(rule, f("lt", f.input(noise(4)), f.input(noise(4, seed=1))))
    f.ignore(INT, f("cast", f("add", f.input(np.arange(3, dtype=np.int32)), 1), dtype="float32"))
