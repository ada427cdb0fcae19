# SPDX-License-Identifier: Apache-2.0
"""Einstein sums."""

import string
from typing import Any

import numpy as np
import pytest
from harness import check, noise, refuse
from hypothesis import given, settings
from hypothesis import strategies as st

RULE = "einsum_to_matmul"


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("ij,jk", [(2, 3), (3, 4)]),
        ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("bij,bjk->bki", [(2, 3, 4), (2, 4, 5)]),
        ("bchw,bkc->bkhw", [(2, 3, 4, 5), (2, 6, 3)]),
        ("i,j->ij", [(3,), (4,)]),
        ("i,i->", [(3,), (3,)]),
        ("ijk,j->i", [(2, 3, 4), (3,)]),
        ("ij->ji", [(2, 3)]),
        ("ijk->ik", [(2, 3, 4)]),
        ("...i,ij->...j", [(2, 4, 3), (3, 4)]),
        ("...ij,...jk", [(2, 3, 4), (5, 2, 4, 3)]),
        ("b...d,b...d->b...", [(2, 3, 4, 5), (2, 3, 4, 5)]),
        ("i,j,k->kji", [(2,), (3,), (4,)]),
        ("ij,jk,kl,lm->im", [(2, 3), (3, 4), (4, 5), (5, 2)]),
        ("bi,bj,bk->b", [(2, 3), (2, 4), (2, 5)]),
        ("ii->i", [(3, 3)]),
        ("ii", [(3, 3)]),
        ("iij,jk->ik", [(3, 3, 2), (2, 4)]),
        ("iii->i", [(3, 3, 3)]),
        ("ij,jk->ik", [(2, 3), (1, 4)]),
        ("bij,bjk->bik", [(1, 2, 3), (4, 3, 2)]),
        ("ij,jk->ik", [(2, 0), (0, 4)]),
        ("ii->i", [(1, 1)]),
        ("ij,ij->ij", [(1, 3), (1, 3)]),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    parts = [noise(*s, seed=i) for i, s in enumerate(shapes)]
    check(RULE, "einsum", parts, of=_magnitude(equation, parts), equation=equation)


def _magnitude(equation: str, parts: list[Any]) -> Any:
    import torch

    return torch.einsum(equation, *[torch.from_numpy(np.asarray(np.abs(p))) for p in parts]).numpy() + 1


@st.composite
def sums(draw: Any) -> tuple[str, list[tuple[int, ...]]]:
    """Up to four operands of up to three of five indices, some of them broadcast from 1 in torch's way."""
    letters = string.ascii_letters[:5]
    extent = {c: draw(st.integers(1, 3)) for c in letters}
    terms = draw(st.lists(st.text(letters, max_size=3), min_size=1, max_size=4))
    used = sorted({c for term in terms for c in term})
    result = "".join(draw(st.permutations(used))[: draw(st.integers(0, len(used)))])
    shapes = [
        tuple(1 if term.count(c) == 1 and draw(st.booleans()) and draw(st.booleans()) else extent[c] for c in term)
        for term in terms
    ]
    return f"{','.join(terms)}->{result}", shapes


@settings(max_examples=150)
@given(sums())
def test_any_sum(case: tuple[str, list[tuple[int, ...]]]) -> None:
    equation, shapes = case
    parts = [noise(*s, seed=i) for i, s in enumerate(shapes)]
    check(RULE, "einsum", parts, of=_magnitude(equation, parts), equation=equation)


@pytest.mark.parametrize(
    ("equation", "shapes", "reason"),
    [
        ("i->ii", [(3,)], "twice in the result"),
        ("ij,jk->ik", [(2, 3), (2, 4)], "the extents 3 and 2 of j do not fit"),
        ("ij,jk->ik", [(2, 3)], "2 terms are not 1 operands"),
    ],
)
def test_refuses(equation: str, shapes: list[tuple[int, ...]], reason: str, monkeypatch: Any) -> None:
    """Torch refuses them as well; a file may hold them."""
    monkeypatch.setattr("harness.infer", lambda *_: [((1,), "float32")])
    refuse(RULE, "einsum", [noise(*s) for s in shapes], reason, equation=equation)
