# SPDX-License-Identifier: Apache-2.0
"""Einstein sums as matrix products."""

from __future__ import annotations

from math import prod
from typing import Any

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import need, shape_of, turned, view


@rewrite(
    removes="einsum",
    yields=("permute", "reshape", "slice", "matmul", "sum"),
    claim="bounded",
    error="4e-06 of the sum of magnitudes",
)
def einsum_to_matmul(b: Builder, op: Op) -> Any:
    """einsum becomes sums, permutes, reshapes and a matmul for each operand after the first.

    Formula: an index in both operands and the result is a batch axis, one in both alone is contracted, one in
    a single operand alone is summed there; the others are the rows of the left and the columns of the right
    matrix. Three or more operands are contracted from left to right; of an index twice in a term every n + 1st element
    of both axes as one is the diagonal; an axis of extent 1 that is broadcast is left out.
    Example: ``y = einsum('bhid,bhjd->bhij', q, k)`` -> ``y = reshape(matmul(reshape(q, (bh, i, d)),
    reshape(permute(k), (bh, d, j))))``.
    Bound: 4e-06 of the sum of magnitudes in float32 (another order of addition).
    Does not apply: to an index twice in the result, or where a shape is unknown.
    """
    terms, result = _terms(op)
    need(len(set(result)) == len(result), "an index comes twice in the result")
    extent: dict[str, int] = {}
    for term, v in zip(terms, op.operands, strict=True):
        for letter, n in zip(term, shape_of(v), strict=True):
            had = extent.get(letter, 1)
            need(1 in (had, n) or had == n, f"the extents {had} and {n} of {letter} do not fit")
            extent[letter] = max(had, n) if 0 not in (had, n) else 0
    parts = [_without_ones(b, *_diagonal(b, v, term), extent) for term, v in zip(terms, op.operands, strict=True)]
    x, xt = parts[0]
    x, xt = _summed(b, x, xt, result + "".join(term for _, term in parts[1:]))
    for i, (y, yt) in enumerate(parts[1:], 1):
        later = result + "".join(term for _, term in parts[i + 1 :])
        y, yt = _summed(b, y, yt, later + xt)
        x, xt = _summed(b, x, xt, later + yt)
        x, xt = _contracted(b, (x, xt), (y, yt), later, extent)
    x, xt = _summed(b, x, xt, result)
    return turned(b, x, [xt.index(c) for c in result])


def _terms(op: Op) -> tuple[list[str], str]:
    """The indices of each operand and of the result, an ellipsis as letters that the equation does not use."""
    equation = op.attrs["equation"].replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    need(len(terms) == len(op.operands), f"{len(terms)} terms are not {len(op.operands)} operands")
    free = [chr(c) for c in range(ord("A"), ord("z") + 1) if chr(c).isalpha() and chr(c) not in equation]
    ranks = [
        len(shape_of(v)) - len(t.replace("...", "")) if "..." in t else 0
        for t, v in zip(terms, op.operands, strict=True)
    ]
    most = max(ranks)
    need(min(ranks) >= 0 and most <= len(free), "the ellipsis stands for no number of axes")
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        result = "..." * ("..." in left) + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    spelled = ["".join(free[most - rank : most]) for rank in ranks]
    terms = [term.replace("...", dots) for term, dots in zip(terms, spelled, strict=True)]
    return terms, result.replace("...", "".join(free[:most]))


def _diagonal(b: Builder, x: Value, term: str) -> tuple[Value, str]:
    """The diagonal of axes with one index."""
    while (twice := next((c for c in term if term.count(c) > 1), None)) is not None:
        i = term.index(twice)
        j = term.index(twice, i + 1)
        rest = [k for k in range(len(term)) if k not in (i, j)]
        shape = shape_of(x)
        n = shape[i]
        need(shape[j] == n, f"the extents {n} and {shape[j]} of {twice} do not fit")
        flat = view(b, turned(b, x, (*rest, i, j)), (*(shape[k] for k in rest), n * n))
        at = len(rest)
        x = flat if n < 2 else b.slice(flat, axes=(at,), starts=(0,), ends=(n * n,), steps=(n + 1,))
        term = "".join(term[k] for k in rest) + twice
    return x, term


def _without_ones(b: Builder, x: Value, term: str, extent: dict[str, int]) -> tuple[Value, str]:
    """Without the axes that are broadcast."""
    kept = [k for k, (c, n) in enumerate(zip(term, shape_of(x), strict=True)) if n == extent[c]]
    return view(b, x, [shape_of(x)[k] for k in kept]), "".join(term[k] for k in kept)


def _summed(b: Builder, x: Value, term: str, others: str) -> tuple[Value, str]:
    """Summed over the indices that nothing else has."""
    alone = tuple(k for k, c in enumerate(term) if c not in others)
    if alone:
        x = b.sum(x, axes=alone, keepdim=False)
    return x, "".join(c for c in term if c in others)


def _contracted(
    b: Builder, left: tuple[Value, str], right: tuple[Value, str], later: str, extent: dict[str, int]
) -> tuple[Value, str]:
    """The product of two operands, summed over what they share and nothing later reads."""
    (x, xt), (y, yt) = left, right
    batch = [c for c in xt if c in yt and c in later]
    inner = [c for c in xt if c in yt and c not in later]
    rows = [c for c in xt if c not in yt]
    cols = [c for c in yt if c not in xt]
    size = {
        name: prod(extent[c] for c in names) for name, names in zip("brkc", (batch, rows, inner, cols), strict=True)
    }
    x = view(b, turned(b, x, [xt.index(c) for c in (*batch, *rows, *inner)]), (size["b"], size["r"], size["k"]))
    y = view(b, turned(b, y, [yt.index(c) for c in (*batch, *inner, *cols)]), (size["b"], size["k"], size["c"]))
    order = [*batch, *rows, *cols]
    return view(b, b.matmul(x, y), tuple(extent[c] for c in order)), "".join(order)
