# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers with several layers or directions, one layer and one direction at a time."""

from __future__ import annotations

from typing import Any

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import cut, join, need, shape_of, view

_KINDS = ("lstm", "gru", "rnn")
_BOUND = "4 ulp of the sum of magnitudes"


def _states(op: Op) -> int:
    return 2 if op.kind == "lstm" else 1


def _directions(op: Op) -> int:
    return 2 if op.attrs["direction"] == "bidirectional" else 1


@rewrite(removes=_KINDS, yields=("slice", "cat", *_KINDS), claim="exact", error=_BOUND)
def recurrent_to_single_layers(b: Builder, op: Op) -> Any:
    """A recurrent layer of several layers becomes one op for each.

    Formula: each layer reads the output of the one before; the states are stacked by layer.
    Example: ``y, h = gru(x, weights, h0 of 2x1x8, layers=2)`` -> ``z, h1 = gru(x, weights of layer 0, slice(h0, 0:1));
    y, h2 = gru(z, weights of layer 1, slice(h0, 1:2)); h = cat(h1, h2)``.
    Bound: 4 ulp in float32 of the sum of magnitudes (a kernel may add in another order).
    Does not apply: to one layer (ONNX has no other).
    """
    a, d, count = op.attrs, _directions(op), _states(op)
    need(a["layers"] > 1, "there is one layer")
    x, weights, states = op.inputs[0], op.inputs[1:-count], op.operands[-count:]
    each = len(weights) // a["layers"]
    ends: list[list[Value]] = [[] for _ in states]
    for layer in range(a["layers"]):
        own = [cut(b, s, 0, layer * d, (layer + 1) * d) for s in states]
        x, *last = b.op(op.kind, (x, *weights[layer * each : (layer + 1) * each], *own), **{**a, "layers": 1})
        for kept, end in zip(ends, last, strict=True):
            kept.append(end)
    assert x is not None
    return [x, *(join(b, kept, 0) for kept in ends)]


@rewrite(removes=_KINDS, yields=("slice", "cat", "flip", "reshape", *_KINDS), claim="exact", error=_BOUND)
def recurrent_to_forward(b: Builder, op: Op) -> Any:
    """A recurrent layer that runs backward, or both ways, becomes forward layers on the reversed sequence.

    Formula: the backward direction is the forward one of the sequence reversed in time, reversed back.
    Example: ``y, h = gru(x of 5x1x8, both ways, hidden=4)`` -> ``f, hf = gru(x, weights 0); r, hr = gru(flip(x, 0),
    weights 1); y = cat(f, flip(r, 0), axis=2); h = cat(hf, hr, axis=0)``.
    Bound: 4 ulp in float32 of the sum of magnitudes (a kernel may add in another order).
    Does not apply: to a forward layer, to several layers (recurrent_to_single_layers), to a batch that comes first
    (recurrent_to_time_first), or to lengths of ONNX.
    """
    a, onnx = op.attrs, op.attrs["layout"] == "onnx"
    need(a["direction"] != "forward", "it runs forward")
    need(a["layers"] == 1, f"there are {a['layers']} layers")
    need(a["layout"] != "batch_first" and not a.get("time_axis"), "the batch comes first")
    x, d, count = op.operands[0], _directions(op), _states(op)
    need(not onnx or len(op.inputs) < 5 or op.inputs[4] is None, "the sequences have lengths")
    parts = []
    for k in range(d):
        back = k == 1 or a["direction"] == "reverse"
        if onnx:
            own = [v and cut(b, v, 0, k, k + 1) for v in op.inputs[1:]]
        else:
            weights = op.inputs[1:-count]
            each = len(weights) // d
            states = [cut(b, s, 0, k, k + 1) for s in op.operands[-count:]]
            own = [*weights[k * each : (k + 1) * each], *states]
        seen = b.flip(x, axes=(0,)) if back else x
        found = list(b.op(op.kind, (seen, *own), **{**a, "direction": "forward"}))
        if back and (not onnx or 0 in a["outputs"]):
            found[0] = b.flip(found[0], axes=(0,))
        parts.append(found)
    wanted = a["outputs"] if onnx else range(len(op.outputs))
    # Of (T, N, D H) in torch and (T, D, N, H) in ONNX the directions lie on axis 2 and 1; of a state on axis 0.
    axes = [(1 if onnx else 2) if i == 0 else 0 for i in wanted]
    return [
        view(b, join(b, [found[i] for found in parts], axis), shape_of(out))
        for i, (out, axis) in enumerate(zip(op.outputs, axes, strict=True))
    ]
