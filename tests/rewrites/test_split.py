# SPDX-License-Identifier: Apache-2.0
"""split, chunk, unbind and stack."""

from typing import Any

import pytest
from harness import Const, check, noise, refuse
from hypothesis import given
from hypothesis import strategies as st
from onnx import parser

import porter


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.integers(0, 2))
def test_split(sizes: list[int], axis: int) -> None:
    shape = [2, 3, 2]
    shape[axis] = sum(sizes)
    check("split_to_slices", "split", [noise(*shape)], sizes=tuple(sizes), axis=axis)


@pytest.mark.parametrize("rule", ["split_to_slices", "chunk_to_split"])
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 2))
def test_chunk(rule: str, extent: int, chunks: int, axis: int) -> None:
    shape = [2, 3, 2]
    shape[axis] = extent
    check(rule, "chunk", [noise(*shape)], chunks=chunks, axis=axis)


@pytest.mark.parametrize("rule", ["unbind_to_slices", "unbind_to_selects"])
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_unbind(rule: str, shape: list[int], data: Any) -> None:
    check(rule, "unbind", [noise(*shape)], axis=data.draw(st.integers(0, len(shape) - 1)))


@given(st.lists(st.integers(1, 4), min_size=0, max_size=4), st.integers(1, 4), st.data())
def test_stack(shape: list[int], count: int, data: Any) -> None:
    axis = data.draw(st.integers(0, len(shape)))
    parts = [noise(*shape, seed=i) for i in range(count)]
    check("stack_to_cat", "stack", parts, axis=axis)
    check("stack_to_cat", "stack", [Const(parts[0]), *parts[1:]], axis=axis)


@given(
    st.lists(st.integers(1, 3), min_size=2, max_size=5), st.lists(st.integers(0, 3), min_size=1, max_size=3), st.data()
)
def test_cat_to_channel_axis(shape: list[int], sizes: list[int], data: Any) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    parts = [noise(*shape[:axis], n, *shape[axis + 1 :], seed=i) for i, n in enumerate(sizes)]
    if axis == 1:
        refuse("cat_to_channel_axis", "cat", parts, "along axis 1 already", axis=axis)
        return
    made = check("cat_to_channel_axis", "cat", parts, axis=axis)
    assert [op.attrs["axis"] for op in made.ops if op.kind == "cat"] == [1]
    mixed = check("cat_to_channel_axis", "cat", [Const(parts[0]), *parts[1:]], axis=axis)
    assert sum(op.kind == "permute" for op in mixed.ops) == len(parts), "a constant is turned now"


def test_a_vector_has_no_channel_axis() -> None:
    refuse("cat_to_channel_axis", "cat", [noise(2), noise(3)], "a vector has no axis 1", axis=0)


def test_a_device_that_does_not_join_along_the_batch() -> None:
    proto = parser.parse_model("""<ir_version: 8, opset_import: ["" : 11]>
    g (float[1, 4, 8, 8] x, float[1, 4, 8, 8] y) => (float[2, 4, 8, 8] z) { z = Concat <axis = 0> (x, y) }""")
    made = porter.rewrite(proto, "j5")
    assert made.ok and made.evidence is not None and made.evidence.ok
    assert made.ledger.entries[0].rules[0] == "cat_to_channel_axis"


def test_unbind_of_nothing() -> None:
    assert not check("unbind_to_slices", "unbind", [noise(0, 3)], axis=0).results
