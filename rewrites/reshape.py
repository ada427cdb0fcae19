# SPDX-License-Identifier: Apache-2.0
"""Flatten, squeeze, unsqueeze and chains of reshapes; identity."""

from __future__ import annotations

from typing import Any

from porter.ops import Op
from porter.rewrite import Builder, rewrite

from ._tools import need, shape_of, view

_VIEWS = ("reshape", "flatten", "squeeze", "unsqueeze")


@rewrite(removes=("flatten", "squeeze", "unsqueeze"), yields="reshape", claim="exact")
def view_to_reshape(b: Builder, op: Op) -> Any:
    """flatten, squeeze and unsqueeze become a reshape to the shape that they give.

    Formula: none of them changes the row-major order of the elements.
    Example: ``y = flatten(x, start=2, end=3)`` with x of 1x85x80x80 -> ``y = reshape(x, shape=(1, 85,
    6400))``.
    Bound: bit-equal.
    Does not apply: when the shape is unknown.
    """
    return view(b, op.operands[0], shape_of(op.outputs[0]))


@rewrite(removes="reshape", yields="flatten", claim="exact")
def reshape_to_flatten(b: Builder, op: Op) -> Any:
    """A reshape that joins neighbouring axes becomes flatten.

    Formula: flatten(start, end) joins the axes start..end.
    Example: ``y = reshape(x, shape=(1, 512))`` with x of 1x512x1x1 -> ``y = flatten(x, start=1, end=3)``.
    Bound: bit-equal.
    Does not apply: to a reshape that does anything else.
    """
    old, new = shape_of(op.operands[0]), op.attrs["shape"]
    drop = len(old) - len(new)
    need(drop > 0 and new, "the reshape does not join axes")
    start = next((i for i, n in enumerate(new) if old[i] != n), len(new) - 1)
    need(
        old[start + drop + 1 :] == tuple(new[start + 1 :]),
        "the reshape does more than join neighbouring axes",
    )
    return b.flatten(op.operands[0], start=start, end=start + drop)


@rewrite(removes=_VIEWS, yields="reshape", claim="exact", optional=True)
def merge_reshapes(b: Builder, op: Op) -> Any:
    """A reshape of a reshape becomes one reshape.

    Formula: reshapes keep the row-major order, so only the last shape matters.
    Example: ``y = reshape(reshape(x, a), b)`` -> ``y = reshape(x, b)``; ``y = x`` when that is its shape
    already.
    Bound: bit-equal.
    Does not apply: when the input is not the result of a reshape, flatten, squeeze or unsqueeze. Optional:
    name it with ``--apply``.
    """
    x = op.operands[0]
    before = b.producer(x)
    need(before is not None and before.kind in _VIEWS, "the input is not the result of a reshape")
    shape = shape_of(op.outputs[0])
    while (source := b.producer(x)) is not None and source.kind in _VIEWS:
        b.merge_origin(source)
        x = source.operands[0]
    return view(b, x, shape)


@rewrite(removes="identity", claim="exact")
def remove_identity(b: Builder, op: Op) -> Any:
    """identity(x) becomes x.

    Formula: the definition.
    Example: ``y = identity(x)`` -> x itself.
    Bound: bit-equal.
    Does not apply: never.
    """
    return op.operands[0]
