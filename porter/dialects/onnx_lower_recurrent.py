# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers as ONNX nodes: ONNX's own form as it is, torch's with one node for each layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from porter.dialects.onnx_lower import Lowering, NoOnnxForm, lowers
from porter.ops import Array, Op

__all__: list[str] = []

#: The gates of ONNX (LSTM: input, output, forget, cell; GRU: update, reset, hidden) by their place in torch's weights
#: (LSTM: input, forget, cell, output; GRU: reset, update, new). Source: ONNX LSTM and GRU; torch.nn.LSTM, torch.nn.GRU.
_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}


@lowers("lstm", "gru", "rnn")
def _recurrent(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.need(7)
    if op.attrs["layout"] != "onnx":
        _of_torch(L, op, ins, outs)
        return
    a = op.attrs
    names = iter(outs)
    results = [next(names) if i in a["outputs"] else "" for i in range(max(a["outputs"]) + 1)]
    reset = int(a["linear_before_reset"]) if a.get("linear_before_reset") else None
    _node(L, op, ins, results, layout=a["time_axis"] or None, linear_before_reset=reset)


def _node(L: Lowering, op: Op, ins: list[Any], outs: list[str], **attrs: Any) -> None:
    a = op.attrs
    activations = ["Relu"] * _directions(op) if a.get("activation") == "relu" else None
    L.emit_many(
        op.kind.upper(), ins, outs, hidden_size=int(a["hidden"]), direction=a["direction"], activations=activations,
        **attrs,
    )  # fmt: skip


def _directions(op: Op) -> int:
    return 2 if op.attrs["direction"] == "bidirectional" else 1


def _weight(L: Lowering, op: Op, i: int) -> Array:
    """Operand ``i`` of torch, its gates in the order of ONNX."""
    data = L.data(i)
    if data is None:
        raise NoOnnxForm("the weights of a recurrent layer are computed when the model runs")
    order = _GATES[op.kind]
    return np.concatenate([np.split(data, len(order))[k] for k in order])


def _of_torch(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    """One node for each layer; linear_before_reset is torch's GRU."""
    a, d, x = op.attrs, _directions(op), ins[0]
    states = ins[-2:] if op.kind == "lstm" else ins[-1:]
    weights = len(ins) - 1 - len(states)
    each = weights // (a["layers"] * d)
    if each % 2:
        raise NoOnnxForm("ONNX has no LSTM with projected states (proj_size)")
    if a["layout"] == "batch_first":
        x = L.transpose(x, (1, 0, 2))
    steps, batch, _ = L.shape(x)
    hidden, dtype = int(a["hidden"]), L.dtype(x)
    parts = [L.split(s, [d] * a["layers"], 0) if a["layers"] > 1 else [s] for s in states]
    last: list[list[str]] = [[] for _ in states]
    for layer in range(a["layers"]):
        first = 1 + layer * d * each
        own = [[_weight(L, op, first + k * each + i) for k in range(d)] for i in range(each)]
        operands = [x, L.const(np.stack(own[0])), L.const(np.stack(own[1]))]
        biases = [np.concatenate(pair) for pair in zip(own[2], own[3], strict=True)] if each == 4 else []
        operands += [L.const(np.stack(biases)) if biases else "", "", *(part[layer] for part in parts)]
        y = L.temp((steps, d, batch, hidden), dtype)
        ends = [L.temp((d, batch, hidden), dtype) for _ in states]
        _node(L, op, operands, [y, *ends], linear_before_reset=1 if op.kind == "gru" else None)
        for kept, end in zip(last, ends, strict=True):
            kept.append(end)
        turned = L.transpose(y, (0, 2, 1, 3)) if d > 1 else y
        final = layer + 1 == a["layers"] and a["layout"] != "batch_first"
        x = L.reshape(turned, (steps, batch, d * hidden), outs[0] if final else None)
    if a["layout"] == "batch_first":
        L.transpose(x, (1, 0, 2), outs[0])
    for out, ends in zip(outs[1:], last, strict=True):
        L.emit("Concat", ends, out, axis=0)
