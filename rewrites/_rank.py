# SPDX-License-Identifier: Apache-2.0
"""Tensors of many axes seen as tensors of at most four: neighbouring axes that are treated alike count as one."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import prod

from porter.ops import Op, Value
from porter.rewrite import Builder

from ._tools import need, shape_of, turned, view

__all__ = ["around_axis", "elementwise", "merged", "permuted", "reduction", "runs"]


def runs(patterns: Sequence[Hashable]) -> list[list[int]]:
    """Neighbouring axes of one pattern (in which the same operands broadcast, say), together."""
    found: list[list[int]] = []
    for axis, pattern in enumerate(patterns):
        if found and patterns[found[-1][-1]] == pattern:
            found[-1].append(axis)
        else:
            found.append([axis])
    return found


def around_axis(shape: Sequence[int], axis: int) -> tuple[int, int, int]:
    """The shape as (everything before the axis, the axis, everything after it)."""
    return prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])


def merged(shape: tuple[int, ...], dims: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """The same permutation without axes of extent 1 and with axes that stay neighbours joined: shape, dims."""
    dims = tuple(d for d in dims if shape[d] != 1)
    found: list[list[int]] = []
    for d in dims:
        between = found and all(shape[m] == 1 for m in range(found[-1][-1] + 1, d)) and found[-1][-1] < d
        if between:
            found[-1].append(d)
        else:
            found.append([d])
    order = sorted(range(len(found)), key=lambda i: found[i][0])
    return [prod(shape[d] for d in found[i]) for i in order], [order.index(i) for i in range(len(found))]


def permuted(b: Builder, x: Value, shape: tuple[int, ...], dims: tuple[int, ...]) -> Value:
    """The elements of ``x``, which are those of a tensor of ``shape`` in row-major order, permuted by ``dims``.

    The result holds them in the order of the permuted tensor, in some shape of at most four axes. Where more than four
    blocks move, the permutation is a product of swaps of two adjacent blocks, (A, B, C, D) -> (A, C, B, D).
    """
    extents, order = merged(shape, dims)
    if len(order) <= 1:
        return x
    if len(order) <= 4:
        return turned(b, view(b, x, extents), order)
    now = list(range(len(order)))
    for place, wanted in enumerate(order):
        at = now.index(wanted)
        if at == place:
            continue
        sizes = [extents[i] for i in now]
        blocks = (prod(sizes[:place]), prod(sizes[place:at]), sizes[at], prod(sizes[at + 1 :]))
        x = turned(b, view(b, x, blocks), (0, 2, 1, 3))
        now.insert(place, now.pop(at))
    return x


def elementwise(b: Builder, op: Op, values: Sequence[Value]) -> Value:
    """The elements of an element by element op on at most four axes: neighbouring axes in which the same operands
    broadcast (or none does) count as one. ``values`` hold the elements of the operands, in any shape."""
    out = shape_of(op.outputs[0])
    rank = len(out)
    padded = [(1,) * (rank - len(shape_of(v))) + shape_of(v) for v in op.operands]
    patterns = [tuple(s[d] == out[d] for s in padded) for d in range(rank)]
    # An axis of extent 1 broadcasts in no operand: it goes with either neighbour.
    joined = runs([p if out[d] != 1 else patterns[d - 1] if d else p for d, p in enumerate(patterns)])
    if len(joined) < 4 and len(joined[0]) > 1:
        joined[:1] = [joined[0][:1], joined[0][1:]]
    need(len(joined) <= 4, f"broadcasting leaves {len(joined)} axes")
    operands = [
        view(b, v, tuple(prod(s[d] for d in run) for run in joined)) if shape_of(given) else v
        for v, given, s in zip(values, op.operands, padded, strict=True)
    ]
    return b.op(op.kind, operands, **op.attrs)[0]


def reduction(b: Builder, op: Op, x: Value) -> Value:
    """The elements of a reduction on at most four axes: neighbouring axes that are reduced count as one, and so do
    neighbours that are not. ``x`` holds the elements of the operand, in any shape."""
    given, axes = op.operands[0], op.attrs["axes"]
    shape = shape_of(given)
    need(op.outputs[0].dtype in (given.dtype, "bool"), f"{op.kind} of {given.dtype} changes the dtype")
    joined = runs([(d in axes,) for d in range(len(shape))])
    need(len(joined) <= 4, f"the reduced axes leave {len(joined)} axes")
    flat = view(b, x, tuple(prod(shape[d] for d in run) for run in joined))
    at = tuple(i for i, run in enumerate(joined) if run[0] in axes)
    return b.op(op.kind, (flat,), axes=at, keepdim=False)[0]
