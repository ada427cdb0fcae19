# SPDX-License-Identifier: Apache-2.0
"""Split, chunk, unbind, stack, cat: several pieces at once."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import cut, join, need, shape_of, turned, view


def _pieces(b: Builder, op: Op) -> list[Value]:
    x, axis = op.operands[0], op.attrs["axis"]
    sizes = [1] * shape_of(x)[axis] if op.kind == "unbind" else [shape_of(out)[axis] for out in op.outputs]
    ends = list(accumulate(sizes))
    return [cut(b, x, axis, end - n, end) for n, end in zip(sizes, ends, strict=True)]


@rewrite(removes=("split", "chunk"), yields="slice", claim="exact")
def split_to_slices(b: Builder, op: Op) -> Any:
    """split and chunk become one slice for each piece.

    Formula: piece i of split covers the elements after the sizes before it; chunk(n) gives ceil(extent / n)
    each.
    Example: ``a, c = chunk(x, chunks=2, axis=1)`` with 8 channels -> ``a = slice(x, axis 1, 0:4); c =
    slice(x, axis 1, 4:8)``.
    Bound: bit-equal.
    Does not apply: when the shape is unknown.
    """
    return _pieces(b, op)


@rewrite(removes="chunk", yields="split", claim="exact")
def chunk_to_split(b: Builder, op: Op) -> Any:
    """chunk becomes split with the sizes written out.

    Formula: chunk(n) gives ceil(extent / n) each, the last may be smaller (torch.chunk).
    Example: ``a, c = chunk(x, chunks=2, axis=1)`` with 7 channels -> ``a, c = split(x, sizes=(4, 3),
    axis=1)``.
    Bound: bit-equal.
    Does not apply: when the shape is unknown.
    """
    axis = op.attrs["axis"]
    return b.op("split", op.inputs, sizes=tuple(shape_of(out)[axis] for out in op.outputs), axis=axis)


@rewrite(removes="unbind", yields=("slice", "reshape"), claim="exact")
def unbind_to_slices(b: Builder, op: Op) -> Any:
    """unbind becomes one slice and reshape for each index.

    Formula: piece i is x[..., i, ...].
    Example: ``a, c = unbind(x, axis=0)`` -> ``a = reshape(slice(x, axis 0, 0:1)); c = reshape(slice(x, axis
    0, 1:2))``.
    Bound: bit-equal.
    Does not apply: when the shape is unknown.
    """
    return [view(b, piece, shape_of(out)) for piece, out in zip(_pieces(b, op), op.outputs, strict=True)]


@rewrite(removes="unbind", yields="select", claim="exact")
def unbind_to_selects(b: Builder, op: Op) -> Any:
    """unbind becomes one select for each index.

    Formula: piece i is x[..., i, ...].
    Example: ``a, c = unbind(x, axis=0)`` -> ``a = select(x, axis=0, index=0); c = select(x, axis=0,
    index=1)``.
    Bound: bit-equal.
    Does not apply: never.
    """
    return [b.select(op.operands[0], axis=op.attrs["axis"], index=i) for i in range(len(op.outputs))]


@rewrite(removes="stack", yields=("reshape", "cat"), claim="exact")
def stack_to_cat(b: Builder, op: Op) -> Any:
    """stack becomes a concatenation of its inputs with the new axis put in.

    Formula: stack is cat along a new axis of extent 1.
    Example: ``y = stack(a, c, axis=2)`` with a of 80x80 -> ``y = cat(reshape(a, (80, 80, 1)), reshape(c, (80,
    80, 1)), axis=2)``.
    Bound: bit-equal.
    Does not apply: when the shape is unknown.
    """
    axis = op.attrs["axis"]
    parts = []
    for x in op.operands:
        shape = shape_of(x)
        parts.append(view(b, x, (*shape[:axis], 1, *shape[axis:])))
    return join(b, parts, axis)


@rewrite(removes="cat", yields=("permute", "cat"), claim="exact")
def cat_to_channel_axis(b: Builder, op: Op) -> Any:
    """cat along another axis becomes a cat along axis 1 between permutes.

    Formula: the axes of a concatenation are alike; the axis and axis 1 change places.
    Example: ``y = cat(x of 1x4x8x8, z of 1x4x8x8, axis=0)`` -> ``y = permute(cat(permute(x, (1, 0, 2, 3)), permute(z,
    (1, 0, 2, 3)), axis=1), (1, 0, 2, 3))``.
    Bound: bit-equal.
    Does not apply: along axis 1, to vectors, or when a shape is unknown.
    """
    axis, rank = op.attrs["axis"], len(shape_of(op.outputs[0]))
    need(axis != 1, "it is along axis 1 already")
    need(rank > 1, "a vector has no axis 1")
    dims = list(range(rank))
    dims[1], dims[axis] = dims[axis], dims[1]
    return turned(b, b.cat(*(turned(b, x, dims) for x in op.operands), axis=1), dims)
