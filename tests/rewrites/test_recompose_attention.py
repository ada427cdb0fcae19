# SPDX-License-Identifier: Apache-2.0
"""Attention from matrix products and a softmax."""

from typing import Any

import numpy as np
from formula import Formula
from harness import noise
from hypothesis import given
from hypothesis import strategies as st

RULE = "softmax_matmul_to_attention"


def _parts(f: Formula, batch: tuple[int, ...], rows: int, cols: int, width: int, out: int) -> tuple[Any, Any, Any]:
    return (
        f.input(noise(*batch, rows, width)),
        f.input(noise(*batch, cols, width, seed=1)),
        f.input(noise(*batch, cols, out, seed=2)),
    )


def _swap(f: Formula, k: Any) -> Any:
    rank = len(k.shape)
    return f("permute", k, dims=(*range(rank - 2), rank - 1, rank - 2))


@given(
    st.sampled_from([(2,), (2, 3)]),
    *(st.integers(1, 5),) * 4,
    st.sampled_from(["scores", "div", "q", "both", "none"]),
    st.sampled_from(["none", "add", "where"]),
    st.booleans(),
)
def test_forms(
    batch: tuple[int, ...], rows: int, cols: int, width: int, out: int, scale: str, mask: str, turned: bool
) -> None:
    f = Formula()
    q, k, v = _parts(f, batch, rows, cols, width, out)
    keys = _swap(f, k) if turned else f.input(noise(*batch, width, cols, seed=1))
    if scale in ("q", "both"):
        q = f("mul", q, 0.5)
    if scale == "both":
        keys = f("mul", keys, 0.25)
    scores = f("matmul", q, keys)
    if scale == "scores":
        scores = f("mul", scores, 0.35)
    if scale == "div":
        scores = f("div", scores, 2.0)
    if mask == "add":
        scores = f("add", scores, noise(rows, cols, seed=5))
    if mask == "where":
        seen = noise(rows, cols, seed=6, dtype="bool")
        seen[:, 0] = True
        scores = f("where", seen, scores, np.float32(-np.inf))
    y = f("matmul", f("softmax", scores, axis=len(batch) + 1), v)
    made = f.fuse(RULE, y, np.abs(noise(*batch, cols, out, seed=2)).max()).ops
    assert [op.kind for op in made] == (["attention"] if turned else ["permute", "attention"])


def test_refusals_say_why() -> None:
    f = Formula()
    q, k, v = _parts(f, (2,), 3, 3, 4, 4)
    scores = f("matmul", q, _swap(f, k))
    y = f("matmul", f("softmax", scores, axis=2), v)
    f.refuse(RULE, y, "no attention in the model's own operators", lacks="attention")
    f.refuse(RULE, f("matmul", f("softmax", scores, axis=1), v), "not over the keys")
    f.refuse(RULE, f("matmul", f("softmax", f("relu", scores), axis=2), v), "no product of queries and keys")
    one = f.input(noise(1, 3, 4))
    f.refuse(RULE, f("matmul", f("softmax", scores, axis=2), one), "a batch axis of the queries, keys or values")
    table = f.input(noise(3, 4))
    f.refuse(RULE, f("matmul", f("softmax", scores, axis=2), table), "differ in rank")
    f.ignore(RULE, scores)
    f.ignore(RULE, f("matmul", f("softmax", table, axis=1), f.input(noise(4, 2))))
