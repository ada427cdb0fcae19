# SPDX-License-Identifier: Apache-2.0
"""Attention that was written as two matrix products and a softmax, put together again."""

from __future__ import annotations

from typing import Any

import numpy as np

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._match import constant_of, made_by, pattern, whole
from ._tools import need, need_float, shape_of, turned


def _unscaled(b: Builder, value: Value, ops: list[Op]) -> tuple[Value, float]:
    """The value without its constant factors, and their product."""
    factor = 1.0
    while (made := b.producer(value)) is not None and made.kind in ("mul", "div") and b.uses(value) == 1:
        x, y = made.operands
        if constant_of(y) is not None:
            number, rest = constant_of(y), x
        elif made.kind == "mul":
            number, rest = constant_of(x), y
        else:
            break
        if not number or rest.shape != value.shape:
            break
        factor = factor / number if made.kind == "div" else factor * number
        ops.append(made)
        value = rest
    return value, factor


def _masked(b: Builder, scores: Value, ops: list[Op]) -> tuple[Value, Value | None]:
    """The scores before a mask, and the mask: added, or false where the scores are minus infinity."""
    made = b.producer(scores)
    if made is None or made.kind not in ("add", "where"):
        return scores, None
    if made.kind == "add":
        for value, mask in (made.operands, made.operands[::-1]):
            inner = b.producer(value)
            if inner is not None and inner.kind in ("matmul", "mul", "div") and value.shape == scores.shape:
                ops.append(made)
                return value, mask
        return scores, None
    if made.kind == "where":
        condition, value, low = made.operands
        if constant_of(low) == -np.inf and value.shape == scores.shape:
            ops.append(made)
            return value, condition
    return scores, None


def _transposed(b: Builder, value: Value, ops: list[Op]) -> Value:
    """The value with its last two axes exchanged: what was transposed before, or a permute more."""
    rank = len(shape_of(value))
    swapped = (*range(rank - 2), rank - 1, rank - 2)
    made = b.producer(value)
    if made is not None and made.kind == "permute" and tuple(made.attrs["dims"]) == swapped:
        ops.append(made)
        return made.operands[0]
    return turned(b, value, swapped)


@rewrite(
    removes="matmul",
    yields=("attention", "permute"),
    claim="bounded",
    error="1e-05 of the largest |value|",
    fuses=("softmax", "matmul", "mul", "div", "add", "where", "permute"),
)
def softmax_matmul_to_attention(b: Builder, op: Op) -> Any:
    """softmax(q @ k.T * scale + mask) @ v becomes attention(q, k, v, mask).

    Formula: Vaswani et al., arXiv:1706.03762, equation 1 (torch.nn.functional.scaled_dot_product_attention).
    The factor may stand at the scores, at q or at k; a mask is added, or hides where it is false.
    Example: ``y = matmul(softmax(mul(matmul(q, permute(k, (0, 1, 3, 2))), 0.125), axis=3), v)`` -> ``y =
    attention(q, k, v, scale=0.125)``.
    Bound: 1e-05 of the largest |value| in float32. A row that is hidden whole may be NaN or zero.
    Does not apply: when the softmax is not over the keys, or a batch axis of q, k or v is broadcast.
    """
    ops: list[Op] = []
    soft = made_by(b, op.operands[0], "softmax", ops)
    pattern(soft is not None, "a product with a softmax")
    assert soft is not None
    value = op.operands[1]
    rank = len(shape_of(soft.operands[0]))
    pattern(rank in (3, 4), "a product of batches of matrices")
    need(soft.attrs["axis"] == rank - 1, "the softmax is not over the keys")
    scores, after = _unscaled(b, soft.operands[0], ops)
    mask = None
    if after == 1:
        scores, mask = _masked(b, scores, ops)
        scores, after = _unscaled(b, scores, ops)
    product = made_by(b, scores, "matmul", ops)
    need(product is not None, "what the softmax is of is no product of queries and keys")
    assert product is not None
    query, first = _unscaled(b, product.operands[0], ops)
    flipped, second = _unscaled(b, product.operands[1], ops)
    need_float(query, flipped, value)
    need(len(shape_of(query)) == len(shape_of(flipped)) == len(shape_of(value)) == rank, "queries, keys and values "
         "differ in rank")  # fmt: skip
    batches = {shape_of(v)[:-2] for v in (query, flipped, value)}
    need(len(batches) == 1, "a batch axis of the queries, keys or values is broadcast")
    if mask is not None:
        need(mask.dtype in ("bool", query.dtype), f"the mask is {mask.dtype}")
    key = _transposed(b, flipped, ops)
    out = b.attention(query, key, value, mask, scale=first * second * after, causal=False)
    return whole(b, out, ops)
