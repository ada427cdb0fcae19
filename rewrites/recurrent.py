# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers, written out: one matrix product for all inputs, then the gates of each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import cut, join, need, need_float, or_zeros, shape_of, turned, view

_MOST_STEPS = 512
#: The gates in the order used here (LSTM: input, forget, output, candidate; GRU: reset, update, candidate), by
#: their place in the weights of each framework. Source: torch.nn.LSTM, torch.nn.GRU; ONNX LSTM, GRU.
_ORDERS = {
    ("lstm", "torch"): (0, 1, 3, 2),
    ("lstm", "onnx"): (0, 2, 1, 3),
    ("gru", "torch"): (0, 1, 2),
    ("gru", "onnx"): (1, 0, 2),
    ("rnn", "torch"): (0,),
    ("rnn", "onnx"): (0,),
}


@dataclass(frozen=True, slots=True)
class _Cell:
    """One direction of one layer; gates in the order used here; an absent bias or state counts as 0."""

    of_input: Value  # (gates H, I)
    of_state: Value  # (gates H, H)
    input_bias: Value | None  # (gates H,)
    state_bias: Value | None
    h: Value | None  # (N, H)
    c: Value | None
    backward: bool
    projection: Value | None = None  # (P, H): the state is the projection of o * tanh(c')
    peepholes: tuple[Value, ...] = ()  # (1, H) each, what the input, forget and output gates see of c


@dataclass(frozen=True, slots=True)
class _Network:
    """The layers of an op, the first one first, each with one cell for each direction, and its input as rows of time
    and batch."""

    rows: Value  # (T N, I)
    steps: int
    batch: int
    layers: list[list[_Cell]]
    #: (N,): of sequences that end before the tensor does. Then the state stays, and the output is zero.
    lengths: Value | None = None


def _blocks(b: Builder, value: Value, order: tuple[int, ...]) -> Value:
    """The gates of a weight or bias, reordered."""
    if order == tuple(range(len(order))):
        return value
    h = shape_of(value)[0] // len(order)
    return join(b, [cut(b, value, 0, k * h, (k + 1) * h) for k in order], 0)


def _state(b: Builder, value: Value | None, axis: int, index: int) -> Value | None:
    """State ``index`` of the stack along ``axis`` as (N, H), or None where it is zeros."""
    if value is None:
        return None
    source = b.producer(value)
    if source is not None and source.kind in ("full", "fill") and source.attrs["value"] == 0:
        return None
    if value.is_const and not np.any(value.numpy()):
        return None
    shape = shape_of(value)
    return view(b, cut(b, value, axis, index, index + 1), [n for i, n in enumerate(shape) if i != axis])


def _rows(b: Builder, x: Value, batch_first: bool) -> Value:
    """(T, N, I), or (N, T, I), as (T N, I)."""
    shape = shape_of(x)
    if batch_first and 1 not in shape[:2]:
        x = turned(b, x, (1, 0, 2))
    return view(b, x, (shape[0] * shape[1], shape[2]))


def _of_torch(b: Builder, op: Op) -> _Network:
    a, x = op.attrs, op.operands[0]
    states = op.operands[-2:] if op.kind == "lstm" else op.operands[-1:]
    weights = op.operands[1 : -len(states)]
    directions = 2 if a["direction"] == "bidirectional" else 1
    each = len(weights) // (a["layers"] * directions)
    projected = each % 2 == 1
    order = _ORDERS[op.kind, "torch"]
    layers: list[list[_Cell]] = []
    for at in range(a["layers"] * directions):
        given = weights[at * each : (at + 1) * each]
        own = [_blocks(b, w, order) for w in given[: each - projected]]
        biases = own[2:] if a["biases"] else (None, None)
        h = _state(b, states[0], 0, at)
        c = _state(b, states[1], 0, at) if op.kind == "lstm" else None
        if at % directions == 0:
            layers.append([])
        last = given[-1] if projected else None
        layers[-1].append(_Cell(own[0], own[1], biases[0], biases[1], h, c, at % directions == 1, last))
    first = a["layout"] == "batch_first"
    batch, steps = shape_of(x)[:2] if first else shape_of(x)[1::-1]
    return _Network(_rows(b, x, first), steps, batch, layers)


def _of_onnx(b: Builder, op: Op) -> _Network:
    a = op.attrs
    x, w, r, bias, lengths, h, c, peepholes = (*op.inputs, *(None,) * 8)[:8]
    assert x is not None and w is not None and r is not None
    first = bool(a["time_axis"])
    batch, steps = shape_of(x)[:2] if first else shape_of(x)[1::-1]
    if lengths is not None and lengths.is_const:
        given = lengths.numpy()
        need(((given > 0) & (given <= steps)).all(), f"the lengths {given.tolist()} are not 1 to {steps}")
        lengths = None if (given == steps).all() else lengths
    order, n = _ORDERS[op.kind, "onnx"], shape_of(w)[1]
    cells = []
    for d in range(2 if a["direction"] == "bidirectional" else 1):
        own = [
            _blocks(b, view(b, cut(b, m, 0, d, d + 1), shape_of(m)[1:]), order)  # of one direction
            for m in (w, r)
        ]
        biases: list[Value | None] = [None, None]
        if bias is not None:
            both = view(b, cut(b, bias, 0, d, d + 1), (2 * n,))
            biases = [_blocks(b, cut(b, both, 0, k * n, (k + 1) * n), order) for k in range(2)]
        axis = int(first)
        backward = d == 1 or a["direction"] == "reverse"
        start = _state(b, h, axis, d), _state(b, c, axis, d)
        seen: tuple[Value, ...] = ()
        if peepholes is not None:  # of the input, output and forget gates
            h_of = shape_of(peepholes)[1] // 3
            one = view(b, cut(b, peepholes, 0, d, d + 1), (1, 3 * h_of))
            seen = tuple(cut(b, one, 1, k * h_of, (k + 1) * h_of) for k in (0, 2, 1))
        cells.append(
            _Cell(own[0], own[1], biases[0], biases[1], start[0], start[1], backward, peepholes=seen)
        )  # fmt: skip
    return _Network(_rows(b, x, first), steps, batch, [cells], lengths)


def _plus(b: Builder, x: Value | None, y: Value | None) -> Value | None:
    if x is None or y is None:
        return x if y is None else y
    if x.is_const and y.is_const:
        return b.const(x.numpy() + y.numpy())
    out: Value = b.add(x, y)
    return out


def _sum(b: Builder, x: Value, y: Value | None) -> Value:
    out: Value = x if y is None else b.add(x, y)
    return out


class _Lstm:
    """c' = f * c + i * g and h' = o * tanh(c'), with i, f, o = sigmoid and g = tanh of W x + R h + biases; with
    peepholes i and f see c as well, and o sees c'."""

    def __init__(self, b: Builder, cell: _Cell) -> None:
        self.b, self.cell = b, cell
        self.bias = _plus(b, cell.input_bias, cell.state_bias)

    def step(self, seen: Value, h: Value | None, c: Value | None) -> tuple[Value, Value | None]:
        b, n = self.b, shape_of(seen)[1] // 4
        gates = seen if h is None else b.add(seen, b.linear(h, self.cell.of_state, None))
        if self.cell.peepholes:
            return self._seeing(gates, c, n)
        opened = b.sigmoid(cut(b, gates, 1, 0, 3 * n))
        new = b.mul(cut(b, opened, 1, 0, n), b.tanh(cut(b, gates, 1, 3 * n, 4 * n)))
        if c is not None:
            new = b.add(b.mul(cut(b, opened, 1, n, 2 * n), c), new)
        state = b.mul(cut(b, opened, 1, 2 * n, 3 * n), b.tanh(new))
        return state if self.cell.projection is None else b.linear(state, self.cell.projection, None), new

    def _seeing(self, gates: Value, c: Value | None, n: int) -> tuple[Value, Value]:
        """A step with peepholes."""
        b = self.b
        into, forget, out = (cut(b, gates, 1, k * n, (k + 1) * n) for k in range(3))
        of_in, of_forget, of_out = self.cell.peepholes
        if c is not None:
            into, forget = b.add(into, b.mul(c, of_in)), b.add(forget, b.mul(c, of_forget))
        new = b.mul(b.sigmoid(into), b.tanh(cut(b, gates, 1, 3 * n, 4 * n)))
        if c is not None:
            new = b.add(b.mul(b.sigmoid(forget), c), new)
        return b.mul(b.sigmoid(b.add(out, b.mul(new, of_out))), b.tanh(new)), new


class _Gru:
    """h' = n + z * (h - n), with r, z = sigmoid of W x + R h + biases and n = tanh of W x + r * (R h + bias), or of
    W x + R (r * h) + bias where the reset comes before the product (ONNX linear_before_reset = 0)."""

    def __init__(self, b: Builder, cell: _Cell, reset_after: bool) -> None:
        self.b, self.cell, self.after = b, cell, reset_after
        n = shape_of(cell.of_state)[1]
        self.late: Value | None = None
        self.state_bias: Value | None = None
        self.bias = _plus(b, cell.input_bias, cell.state_bias)
        if reset_after and cell.state_bias is not None:
            zero = b.const(np.zeros(n), cell.state_bias.dtype)
            early = join(b, [cut(b, cell.state_bias, 0, 0, 2 * n), zero], 0)
            self.bias = _plus(b, cell.input_bias, early)
            self.late = cut(b, cell.state_bias, 0, 2 * n, 3 * n)
            self.state_bias = join(b, [b.const(np.zeros(2 * n), zero.dtype), self.late], 0)
        if not reset_after:
            self.of_gates = cut(b, cell.of_state, 0, 0, 2 * n)
            self.of_new = cut(b, cell.of_state, 0, 2 * n, 3 * n)

    def step(self, seen: Value, h: Value | None, c: Value | None) -> tuple[Value, Value | None]:
        b, n = self.b, shape_of(seen)[1] // 3
        early, late = cut(b, seen, 1, 0, 2 * n), cut(b, seen, 1, 2 * n, 3 * n)
        if h is not None and self.after:
            state = b.linear(h, self.cell.of_state, self.state_bias)
            gates = b.sigmoid(b.add(early, cut(b, state, 1, 0, 2 * n)))
            kept: Value | None = cut(b, state, 1, 2 * n, 3 * n)
        else:
            gates = b.sigmoid(early if h is None else b.add(early, b.linear(h, self.of_gates, None)))
            kept = None if self.late is None else view(b, self.late, (1, n))
        update = cut(b, gates, 1, n, 2 * n)
        if kept is not None:
            late = b.add(late, b.mul(cut(b, gates, 1, 0, n), kept))
        elif h is not None:
            late = b.add(late, b.linear(b.mul(cut(b, gates, 1, 0, n), h), self.of_new, None))
        new = b.tanh(late)
        if h is None:
            return b.sub(new, b.mul(update, new)), None
        return b.add(b.mul(update, b.sub(h, new)), new), None


class _Rnn:
    """h' = tanh (or relu) of W x + R h + biases."""

    def __init__(self, b: Builder, cell: _Cell, activation: str) -> None:
        self.b, self.cell, self.activation = b, cell, activation
        self.bias = _plus(b, cell.input_bias, cell.state_bias)

    def step(self, seen: Value, h: Value | None, c: Value | None) -> tuple[Value, Value | None]:
        state = None if h is None else self.b.linear(h, self.cell.of_state, None)
        return self.b.op(self.activation, (_sum(self.b, seen, state),))[0], None


def _direction(b: Builder, op: Op, cell: _Cell, net: _Network, rows: Value) -> tuple[list[Value], Value, Value | None]:
    """The output (N, H) of every step, in the order of time, and the last h and c."""
    if op.kind == "lstm":
        one: Any = _Lstm(b, cell)
    elif op.kind == "gru":
        one = _Gru(b, cell, op.attrs["layout"] != "onnx" or op.attrs["linear_before_reset"])
    else:
        one = _Rnn(b, cell, op.attrs["activation"])
    seen = b.linear(rows, cell.of_input, one.bias)
    h, c, n = cell.h, cell.c, net.batch
    out: list[Value] = []
    for t in range(net.steps - 1, -1, -1) if cell.backward else range(net.steps):
        there = _there(b, net, t)
        if there is not None and there.is_const and not there.numpy().any():
            out.append(b.const(np.zeros((n, op.attrs["hidden"])), rows.dtype))
            continue
        new, state = one.step(cut(b, seen, 0, t * n, (t + 1) * n), h, c)
        if there is None:
            h, c, given = new, state, new
        else:
            given = b.where(there, new, 0.0)
            h = given if h is None else b.where(there, new, h)
            if state is not None:
                c = b.where(there, state, 0.0 if c is None else c)
        out.append(given)
    assert h is not None
    return out[::-1] if cell.backward else out, h, c


def _there(b: Builder, net: _Network, t: int) -> Value | None:
    """Which sequences have a step ``t``, (N, 1); None where all have."""
    if net.lengths is None:
        return None
    if not net.lengths.is_const:
        out: Value = b.gt(view(b, net.lengths, (net.batch, 1)), b.const(t, net.lengths.dtype))
        return out
    there = net.lengths.numpy().reshape(-1, 1) > t
    return None if there.all() else b.const(there)


def _sequence(b: Builder, op: Op, net: _Network, states: list[list[Value]]) -> Value:
    """The output of every step, from the states of each direction."""
    t, n, h = net.steps, net.batch, op.attrs["hidden"]
    parts, d = [join(b, each, 0) for each in states], len(states)
    if op.attrs["layout"] == "onnx" and not op.attrs["time_axis"]:
        return view(b, join(b, [view(b, part, (t, n * h)) for part in parts], 1), (t, d, n, h))
    rows = view(b, join(b, parts, 1), (t, n, d * h))
    if op.attrs["layout"] != "time_first" and 1 not in (t, n):
        rows = turned(b, rows, (1, 0, 2))
    return view(b, rows, shape_of(op.outputs[0]))


def _stack(b: Builder, op: Op, states: list[Value]) -> Value:
    """The last states (N, H) of all cells: (cells, N, H), or (N, cells, H) where ONNX has the batch first."""
    n, h = shape_of(states[0])
    if op.attrs["layout"] == "onnx" and op.attrs["time_axis"]:
        return view(b, join(b, states, 1), (n, len(states), h))
    return view(b, join(b, states, 0), (len(states), n, h))


@rewrite(
    removes=("lstm", "gru", "rnn"),
    yields=(
        "linear", "add", "sub", "mul", "sigmoid", "tanh", "relu", "slice", "cat", "reshape", "permute", "where", "gt",
    ),
    claim="bounded",
    error="2e-06 of the number of steps times the largest sum of magnitudes in a gate",
)  # fmt: skip
def recurrent_to_steps(b: Builder, op: Op) -> Any:
    """An LSTM, GRU or RNN over a sequence of known length is written out: its layers, directions and steps.

    Formula: the products with the input are one linear for all steps; each step adds the product with the last
    state and applies the gates. LSTM: c' = f c + i g, h' = o tanh(c'), projected where torch has proj_size. GRU:
    h' = n + z (h - n) with n = tanh(W x + r (R h + b)), or with n = tanh(W x + R (r h) + b) where ONNX says
    linear_before_reset = 0. RNN: h' = tanh(W x + R h + b), or relu of it. With peepholes i and f of an LSTM see c,
    and o sees c'. A sequence that is shorter than the tensor keeps its last state, and gives zeros after its end.
    Example: ``y, h, c = lstm(x of 2x1x8, hidden=4)`` -> ``s = linear(reshape(x, (2, 8)), W, b)``; of step 0
    ``slice(s, 0:1)``; ``sigmoid`` of three gates and ``tanh`` of one; ``c = mul(i, g)``; ``h = mul(o, tanh(c))``;
    of step 1 ``add(slice(s, 1:2), linear(h, R))`` and so on; ``y = reshape(cat(h0, h1), (2, 1, 4))``.
    Bound: 2e-06 in float32 of the number of steps times the largest sum of magnitudes in a gate, for a recurrence
    that does not amplify (the largest singular value of R is at most 1). A zero initial state costs nothing.
    Does not apply: to more than 512 steps in all (length x layers x directions), an empty sequence, or a length of 0
    or beyond the tensor.
    """
    x, a = op.operands[0], op.attrs
    need_float(x)
    net = (_of_onnx if a["layout"] == "onnx" else _of_torch)(b, op)
    count = net.steps * sum(len(layer) for layer in net.layers)
    need(count > 0 and net.batch > 0, "the sequence is empty")
    need(count <= _MOST_STEPS, f"{count} steps (length x layers x directions) are more than {_MOST_STEPS}")
    rows, last, last_c = net.rows, [], []
    for layer in net.layers:
        states = []
        for cell in layer:
            every, h, c = _direction(b, op, cell, net, rows)
            states.append(every)
            last.append(h)
            if c is not None:
                last_c.append(c)
        if layer is not net.layers[-1]:
            rows = join(b, [join(b, every, 0) for every in states], 1)
    wanted = a["outputs"] if a["layout"] == "onnx" else range(len(op.outputs))
    made = (
        lambda: _sequence(b, op, net, states),
        lambda: _stack(b, op, last),
        lambda: _stack(b, op, last_c),
    )
    return [or_zeros(b, out, made[i]) for i, out in zip(wanted, op.outputs, strict=True)]


@rewrite(
    removes=("lstm", "gru", "rnn"),
    yields=("permute", "reshape", "lstm", "gru", "rnn"),
    claim="exact",
    error="4 ulp of the sum of magnitudes",
)
def recurrent_to_time_first(b: Builder, op: Op) -> Any:
    """A recurrent layer whose batch comes first becomes one whose time comes first, between permutations.

    Formula: the definition of batch_first (torch) and of layout 1 (ONNX, whose states have the batch first as well).
    Example: ``y, h = gru(x of 1x50x8, batch first)`` -> ``z, h = gru(permute(x, (1, 0, 2)), time first); y = permute(z,
    (1, 0, 2))``; with a batch of 1 both are a reshape.
    Bound: 4 ulp in float32 of the sum of magnitudes (a kernel may add in another order).
    Does not apply: where the time comes first already.
    """
    a = op.attrs
    onnx = a["layout"] == "onnx"
    need(bool(a["time_axis"]) if onnx else a["layout"] == "batch_first", "the time comes first already")
    inputs = list(op.inputs)
    for i in (0, 5, 6) if onnx else (0,):
        value = inputs[i] if i < len(inputs) else None
        if value is not None:
            inputs[i] = _swapped(b, value, (1, 0, 2))
    attrs = {**a, "time_axis": 0} if onnx else {**a, "layout": "time_first"}
    found = b.op(op.kind, inputs, **attrs)
    if not onnx:
        return [_swapped(b, found[0], (1, 0, 2)), *found[1:]]
    turns = {4: (2, 0, 1, 3), 3: (1, 0, 2)}  # of the sequence of states, and of a state
    return [_swapped(b, value, turns[len(shape_of(value))]) for value in found]


def _swapped(b: Builder, value: Value, dims: tuple[int, ...]) -> Value:
    """The permuted value; a reshape where only axes of extent 1 change their place."""
    shape = shape_of(value)
    if [d for d in dims if shape[d] > 1] == sorted(d for d in dims if shape[d] > 1):
        return view(b, value, [shape[d] for d in dims])
    return turned(b, value, dims)
