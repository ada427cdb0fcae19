# SPDX-License-Identifier: Apache-2.0
"""Regions of many axes on at most four: shuffles, windows, heads, random chains; and why a region stays."""

from math import prod
from typing import Any

import numpy as np
from formula import Formula
from harness import noise
from hypothesis import given
from hypothesis import strategies as st

from porter.rewrite import Fragment, NotApplicable

EXACT, SUMS = "region_to_rank4", "region_with_sums_to_rank4"


def _flat(fragment: Fragment) -> list[str]:
    """The kinds; no value has more than four axes."""
    assert all(len(v.shape or ()) <= 4 for op in fragment.ops for v in (*op.operands, *op.outputs))
    return [op.kind for op in fragment.ops]


def _grouped(draw: Any, extents: list[int]) -> tuple[int, ...]:
    """The extents with neighbours merged to at most four."""
    cuts = sorted(draw(st.sets(st.integers(1, len(extents) - 1), max_size=3)))
    return tuple(prod(extents[i:j]) for i, j in zip([0, *cuts], [*cuts, len(extents)], strict=True))


@st.composite
def chains(draw: Any) -> tuple[list[int], list[list[int]], tuple[int, ...], tuple[int, ...], list[int]]:
    extents = draw(st.lists(st.integers(1, 4), min_size=5, max_size=7))
    orders = [list(draw(st.permutations(range(len(extents))))) for _ in range(draw(st.integers(1, 2)))]
    final = extents
    for order in orders:
        final = [final[d] for d in order]
    acts = draw(st.lists(st.integers(0, 2), min_size=len(orders), max_size=len(orders)))
    return extents, orders, _grouped(draw, extents), _grouped(draw, final), acts


@given(chains())
def test_random_chains(chain: Any) -> None:
    extents, orders, before, after, acts = chain
    f = Formula()
    x = f.input(noise(*before))
    y = f("reshape", x, shape=tuple(extents))
    for order, act in zip(orders, acts, strict=True):
        y = f("permute", y, dims=tuple(order))
        if act == 1:
            y = f("relu", y)
        if act == 2:
            y = f("mul", y, noise(*[n if i % 2 else 1 for i, n in enumerate(y.shape)], seed=3)[:1])
    y = f("reshape", y, shape=after)
    try:
        _flat(f.fuse(EXACT, y))
    except NotApplicable as problem:
        assert "broadcasting leaves" in str(problem)


def test_pixel_shuffle_and_windows() -> None:
    f = Formula()
    x = f.input(noise(2, 12, 4, 6))
    shuffled = f("permute", f("reshape", x, shape=(2, 3, 2, 2, 4, 6)), dims=(0, 1, 4, 2, 5, 3))
    kinds = _flat(f.fuse(EXACT, f("reshape", shuffled, shape=(2, 3, 8, 12))))
    assert kinds.count("permute") <= 3
    windows = f("permute", f("reshape", x, shape=(2, 3, 4, 2, 2, 6)), dims=(0, 1, 3, 2, 4, 5))
    assert _flat(f.fuse(EXACT, f("reshape", windows, shape=(12, 4, 2, 6)))) == ["reshape", "permute", "reshape"]


def test_heads_are_cut_before_they_are_moved() -> None:
    """The query, key and value of timm's attention: three permutes of a third each, not of the whole."""
    f = Formula()
    x = f.input(noise(2, 5, 24))
    whole = f("permute", f("reshape", x, shape=(2, 5, 3, 2, 4)), dims=(2, 0, 3, 1, 4))
    for i in range(3):
        fragment = f.fuse(EXACT, f("select", whole, axis=0, index=i))
        assert _flat(fragment) == ["reshape", "slice", "reshape", "permute"]
        assert prod(fragment.ops[-1].outputs[0].shape or ()) == 2 * 5 * 8
    _flat(f.fuse(EXACT, f("unbind", whole, axis=0)[0]))
    pieces = f("split", whole, sizes=(1, 2), axis=0)
    _flat(f.fuse(EXACT, f("reshape", pieces[1], shape=(8, 5, 4))))
    lower = f("slice", whole, axes=(3,), starts=(1,), ends=(5,), steps=(2,))
    _flat(f.fuse(EXACT, f("reshape", lower, shape=(6, 2, 2, 4))))


def test_masks_joins_and_repeats() -> None:
    f = Formula()
    x = f.input(noise(8, 3, 4, 4))
    windows = f("reshape", x, shape=(2, 4, 3, 4, 4))
    mask = noise(1, 4, 1, 4, 4, seed=4)
    _flat(f.fuse(EXACT, f("reshape", f("add", windows, mask), shape=(8, 3, 4, 4))))
    for axis in (2, 4):
        assert "softmax" in _flat(f.fuse(SUMS, f("reshape", f("softmax", windows, axis=axis), shape=(8, 48)), 1.0))
    both = f("cat", windows, f("relu", windows), axis=2)
    _flat(f.fuse(EXACT, f("reshape", both, shape=(8, 6, 16))))
    piled = f("stack", x, f("neg", x), axis=1)
    _flat(f.fuse(EXACT, f("reshape", piled, shape=(16, 3, 16))))
    heads = f("expand", f("unsqueeze", x, axes=(2,)), shape=(8, 3, 2, 4, 4))
    assert _flat(f.fuse(EXACT, f("reshape", heads, shape=(8, 6, 4, 4)))) == ["reshape", "expand", "reshape"]


def test_sums_and_products() -> None:
    f = Formula()
    x = f.input(noise(2, 64, 2, 3))
    groups = f("reshape", x, shape=(2, 4, 16, 2, 3))
    of = 64 * 4.0
    assert _flat(f.fuse(SUMS, f("sum", groups, axes=(1,), keepdim=False), of)) == ["reshape", "sum", "reshape"]
    _flat(f.fuse(SUMS, f("reshape", f("mean", groups, axes=(2, 3, 4), keepdim=True), shape=(2, 4)), of))
    q = f("reshape", x, shape=(2, 4, 4, 4, 6))
    k = f("permute", q, dims=(0, 1, 2, 4, 3))
    _flat(f.fuse(SUMS, f("reshape", f("matmul", q, k), shape=(8, 4, 4, 4)), of))


def test_refusals_say_why() -> None:
    f = Formula()
    x = f.input(noise(2, 3, 2, 2, 2))
    f.refuse(EXACT, f("reshape", x, shape=(6, 8)), "an input of the model, has 5 axes")
    y = f("reshape", f.input(noise(6, 8)), shape=(2, 3, 2, 2, 2))
    f.refuse(EXACT, f("reshape", f("cumsum", y, axis=1), shape=(6, 8)), "cumsum of 5 axes lies above it")
    f.refuse(EXACT, f("reshape", f("flip", y, axes=(0,)), shape=(6, 8)), "flip of 5 axes lies above it")
    f.refuse(EXACT, f("reshape", f("mean", y, axes=(2,), keepdim=True), shape=(6, 4)), "mean of 5 axes lies above it")
    cut = f("slice", y, axes=(0, 1), starts=(1, 1), ends=(2, 3), steps=(1, 1))
    f.refuse(EXACT, f("reshape", cut, shape=(2, 8)), "several axes at once")
    back = f("slice", y, axes=(0,), starts=(1,), ends=(-1,), steps=(-1,))
    f.refuse(EXACT, f("reshape", back, shape=(6, 8)), "runs backwards")
    one = f("matmul", y, f("reshape", f.input(noise(1, 3, 2, 4)), shape=(1, 3, 2, 2, 2)))
    f.refuse(SUMS, f("reshape", one, shape=(6, 8)), "broadcasts its batches")
    long = y
    for _ in range(33):
        long = f("relu", long)
    f.refuse(EXACT, f("reshape", long, shape=(6, 8)), "more than 32 ops")
    f.ignore(EXACT, f("reshape", f.input(noise(2, 3)), shape=(3, 2)))
    f.ignore(SUMS, f("sum", f.input(noise(2, 3)), axes=(0,), keepdim=False))
    far = np.zeros((2, 3, 2, 2, 2), np.float32)
    wide = f("add", y, far[:, :1, :, :1, :1])
    f.fuse(EXACT, f("reshape", wide, shape=(6, 8)))
