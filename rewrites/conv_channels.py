# SPDX-License-Identifier: Apache-2.0
"""Convolutions with more channels than a device takes: a sum over parts of the input, a concatenation of results."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from porter.ops import Op, Value
from porter.rewrite import Builder, Rule, rewrite

from ._tools import cut, join, need, shape_of

_CONVS = ("conv1d", "conv2d", "conv3d")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_KINDS = (*_CONVS, *_TRANSPOSED)
_INPUTS, _OUTPUTS = "conv_inputs_to_sum_of_", "conv_outputs_to_cat_of_"
_MOST_PARTS = 64


def _made_by(op: Op, *names: str) -> bool:
    return any(rule.startswith(names) for rule in op.origin.rules)


def _bounds(count: int, size: int) -> list[tuple[int, int]]:
    """Consecutive parts of at most ``size``, none smaller than it must be: 4097 by 4096 is 2049 and 2048."""
    parts = -(-count // size)
    need(parts <= _MOST_PARTS, f"{parts} parts of {size} channels are more than {_MOST_PARTS}")
    edges = [-(-count * i // parts) for i in range(parts + 1)]
    return list(pairwise(edges))


# A rule does not know the target, and the planner takes the largest parts that are legal, for they are the fewest.


def _inputs(size: int) -> Rule:
    def build(b: Builder, op: Op) -> Any:
        x, weight, bias = op.inputs
        assert x is not None and weight is not None
        channels = shape_of(x)[1]
        need(op.attrs["groups"] == 1, f"there are {op.attrs['groups']} groups")
        need(channels > size, f"{channels} input channels are not above {size}")
        need(not _made_by(op, _INPUTS), "it is a part of such a sum already")
        axis, total = int(op.kind in _CONVS), None
        for start, end in _bounds(channels, size):
            operands = (cut(b, x, 1, start, end), cut(b, weight, axis, start, end), bias if total is None else None)
            made = b.op(op.kind, operands, **op.attrs)[0]
            total = made if total is None else b.add(total, made)
        assert total is not None
        return total

    build.__name__ = f"{_INPUTS}{size}"
    build.__doc__ = f"""A convolution of more than {size} input channels becomes a sum of smaller ones.

    Formula: y = sum over the parts p of the channels of conv(x[:, p], w[:, p]); the first one has the bias.
    Example: ``y = conv2d(x of 1x{2 * size}x7x7, w of 8x{2 * size}x3x3)`` -> ``y = add(conv2d(slice(x, 0:{size}), w[:,
    :{size}]), conv2d(slice(x, {size}:{2 * size}), w[:, {size}:]))``.
    Bound: 4e-06 in float32 of the sum of magnitudes (sums are added in another order).
    Does not apply: to at most {size} input channels, groups, more than 64 parts, or a part of such a sum.
    """
    declare = rewrite(
        removes=_KINDS, yields=("slice", "add", *_KINDS), claim="bounded", error="4e-06 of the sum of magnitudes"
    )
    return declare(build)


def _outputs(size: int) -> Rule:
    def build(b: Builder, op: Op) -> Any:
        x, weight, bias = op.inputs
        assert x is not None and weight is not None
        given, channels, groups = shape_of(x)[1], shape_of(op.outputs[0])[1], op.attrs["groups"]
        most = channels if groups == 1 else max(channels, given)
        need(most > size, f"{most} channels are not above {size}")
        need(not _made_by(op, _INPUTS, _OUTPUTS), "it is a part already")
        each, of = channels // groups, given // groups
        need(groups == 1 or max(each, of) <= size, f"a group of {max(each, of)} channels is above {size}")
        if groups == 1:
            parts = [(x, span, 1) for span in _bounds(channels, size)]
        else:
            spans = _bounds(groups, size // max(each, of))
            parts = [(cut(b, x, 1, p * of, q * of), (p * each, q * each), q - p) for p, q in spans]
        made: list[Value] = []
        for source, (start, end), count in parts:
            if op.kind in _CONVS:
                taps = cut(b, weight, 0, start, end)
            elif groups == 1:
                taps = cut(b, weight, 1, start, end)
            else:  # (Ci, Co / groups, ...)
                taps = cut(b, weight, 0, start // each * of, end // each * of)
            own: Value | None = None if bias is None else cut(b, bias, 0, start, end)
            made.append(b.op(op.kind, (source, taps, own), **{**op.attrs, "groups": count})[0])
        return join(b, made, 1)

    build.__name__ = f"{_OUTPUTS}{size}"
    build.__doc__ = f"""A convolution that gives more than {size} channels becomes smaller ones, joined.

    Formula: output channel o depends on w[o] alone; of a grouped convolution whole groups stay together.
    Example: ``y = conv2d(x, w of {2 * size}x8x3x3)`` -> ``y = cat(conv2d(x, w[:{size}]), conv2d(x, w[{size}:]),
    axis=1)``; with groups each part reads its own slice of x.
    Bound: 4 ulp in float32 of the sum of magnitudes (another kernel may add in another order).
    Does not apply: to at most {size} channels, groups that are larger, more than 64 parts, or a part already.
    """
    declare = rewrite(
        removes=_KINDS, yields=("slice", "cat", *_KINDS), claim="exact", error="4 ulp of the sum of magnitudes"
    )
    return declare(build)


conv_outputs_to_cat_of_8192 = _outputs(8192)
conv_inputs_to_sum_of_8192 = _inputs(8192)
conv_outputs_to_cat_of_4096 = _outputs(4096)
conv_inputs_to_sum_of_4096 = _inputs(4096)
conv_outputs_to_cat_of_2048 = _outputs(2048)
conv_inputs_to_sum_of_2048 = _inputs(2048)
conv_outputs_to_cat_of_1024 = _outputs(1024)
conv_inputs_to_sum_of_1024 = _inputs(1024)
conv_outputs_to_cat_of_512 = _outputs(512)
conv_inputs_to_sum_of_512 = _inputs(512)
