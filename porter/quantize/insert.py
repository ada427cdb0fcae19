# SPDX-License-Identifier: Apache-2.0
"""The simulation graph: ``quantize`` and ``dequantize`` ops put where the device has integers.

This graph is the one interchange: the integer simulation, the QDQ writer and the reports all read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from porter.graph import Graph
from porter.ops import Array, Op, Value
from porter.quantize.encodings import Encoding, Encodings, layer_paths
from porter.quantize.layers import corrected
from porter.quantize.numerics import round_to
from porter.quantize.scheme import input_steps
from porter.rewrite import Fragment

__all__ = ["insert"]

#: The rule name in the origin of every op that :func:`insert` makes or moves.
RULE = "quantize"


def insert(graph: Graph, encodings: Encodings) -> Graph:
    """A copy of ``graph`` in which everything that is an integer on the device passes through integers.

    Flow "operands": the input and the weight of every quantized layer. Flow "tensors": every value that has an encoding
    (a constant becomes integers and a ``dequantize``, a computed one gets a ``quantize`` and a ``dequantize``), and the
    weights of quantized layers. Biases are float, or int32 where the encodings say so. The rounding of constants is the
    encodings'; a ``quantize`` op rounds half to even. Biases that the encodings have of their own come first.

    Raises:
        PorterError: PT413 when the encodings belong to another model.
    """
    encodings.check(graph)
    graph = corrected(graph, encodings)
    inserter = _Inserter(encodings, layer_paths(graph), {value.name for value in graph.inputs})
    copy = graph.quantizable()
    while True:  # a pass reads what an earlier one made: values that several ops read are quantized once
        replacements = inserter.replacements(copy.ops())
        if not replacements:
            return copy
        copy.replace(replacements)


@dataclass(frozen=True, slots=True)
class _Need:
    """A value that one op reads as integers, quantized in front of the op: the value, and the encoding."""

    name: str
    encoding: Encoding


@dataclass(slots=True)
class _Inserter:
    """``made`` has the name of the dequantized value of each need that an earlier pass met."""

    encodings: Encodings
    paths: Mapping[str, str]
    inputs: set[str]
    made: dict[_Need, str] = field(default_factory=dict)

    @property
    def tensors(self) -> bool:
        return self.encodings.flow == "tensors"

    def replacements(self, ops: list[Op]) -> list[tuple[Op, Fragment]]:
        """The fragments of one pass: of every op whose needs are met, or are nobody else's in this pass."""
        values = {out.name: out for op in ops for out in op.outputs}
        claimed: set[_Need] = set()
        found: list[tuple[Op, Fragment]] = []
        for op in ops:
            if RULE in op.origin.rules:
                continue
            needs = {index: need for index, value in enumerate(op.inputs) if (need := self._need(op, index, value))}
            own = [need for need in needs.values() if need not in self.made]
            if not needs and not self._touches(op):
                continue
            if claimed.intersection(own):
                continue
            claimed.update(own)
            ready = {need: values[name] for need, name in self.made.items() if name in values}
            found.append((op, self._fragment(op, needs, ready)))
        self.made.update(self._fresh(claimed, found))
        return found

    def _fresh(self, claimed: set[_Need], found: list[tuple[Op, Fragment]]) -> dict[_Need, str]:
        names = {op.name: op.outputs[0].name for _, fragment in found for op in fragment.ops if op.kind == "dequantize"}
        return {need: names[_real_name(need)] for need in claimed}

    def _layer(self, op: Op) -> str | None:
        """The path of a quantized layer."""
        path = self.paths.get(op.outputs[0].name)
        layer = self.encodings.layers.get(path) if path is not None else None
        return path if layer is not None and layer.quantized else None

    def _need(self, op: Op, index: int, value: Value | None) -> _Need | None:
        """What operand ``index`` must become in front of the op, if it must."""
        if value is None or value.is_const:
            return None
        path = self._layer(op) if index == 0 else None
        if path is not None and (not self.tensors or path in self.encodings.operands):
            return _Need(value.name, self.encodings.input_of(path))
        if self.tensors and value.name in self.inputs and value.name in self.encodings.activations:
            return _Need(value.name, self.encodings.activations[value.name])
        return None

    def _touches(self, op: Op) -> bool:
        """Whether constants or results of the op become integers."""
        if self._layer(op) is not None:
            return True
        if not self.tensors:
            return False
        known = self.encodings.activations
        return any(v.name in known for v in op.outputs) or any(v.is_const and v.name in known for v in op.operands)

    def _fragment(self, op: Op, needs: Mapping[int, _Need], ready: Mapping[_Need, Value]) -> Fragment:
        build = _Build(op, self.encodings)
        path = self._layer(op)
        operands: list[Value | None] = []
        made: dict[_Need, Value] = {}
        for index, value in enumerate(op.inputs):
            need = needs.get(index)
            if need is not None:
                real = ready.get(need) or made.get(need)
                if real is None:
                    real = made[need] = build.quantized(cast(Value, value), need.encoding, _real_name(need))
                operands.append(real)
            elif path is not None and index == 1:
                operands.append(build.constant(cast(Value, value), self.encodings.weights[path], "weight"))
            elif path is not None and index == 2 and value is not None and self.encodings.bias == "int32":
                operands.append(build.bias(value, op, path))
            elif self.tensors and value is not None and value.is_const and value.name in self.encodings.activations:
                operands.append(build.constant(value, self.encodings.activations[value.name], f"operand{index}"))
            else:
                operands.append(value)
        outs = tuple(Value(f"{out.name}_quantized", out.shape, out.dtype) for out in op.outputs)
        build.ops.append(Op(op.kind, tuple(operands), outs, op.attrs, op.name, build.origin))
        results = []
        for out, real in zip(op.outputs, outs, strict=True):
            encoding = self.encodings.activations.get(out.name) if self.tensors else None
            results.append(real if encoding is None else build.quantized(real, encoding, f"{out.name}_result"))
        return Fragment(build.ops, tuple(results))


def _real_name(need: _Need) -> str:
    """The stem of the names of a value quantized in front of its readers: one for each encoding."""
    return f"{need.name}_{need.encoding.dtype}_{need.encoding.scale[0]:.9g}"


class _Build:
    """Makes the ops around one op."""

    def __init__(self, op: Op, encodings: Encodings) -> None:
        self.origin = op.origin.after(RULE)
        self.ops: list[Op] = []
        self._name = op.outputs[0].name
        self._encodings = encodings

    def quantized(self, value: Value, encoding: Encoding, stem: str) -> Value:
        """``value`` through integers and back."""
        scale, zero = self._parameters(encoding, stem)
        attrs = {"axis": encoding.axis, "dtype": encoding.dtype}
        q = self._op("quantize", (value, scale, zero), f"{stem}_q", value.shape, encoding.dtype, attrs, f"{stem}_q")
        return self._real(q, scale, zero, encoding.axis, stem, value.shape)

    def constant(self, value: Value, encoding: Encoding, what: str) -> Value:
        """A constant as integers, and back."""
        stem = f"{self._name}_{what}"
        scale, zero = self._parameters(encoding, stem)
        integers = encoding.quantize(value.numpy(), self._encodings.rounding)
        q = Value.constant(f"{stem}_q", integers)
        return self._real(q, scale, zero, encoding.axis, stem, value.shape)

    def bias(self, value: Value, op: Op, path: str) -> Value:
        """A bias as int32 of step input step * weight step, and back."""
        stem, weight = f"{self._name}_bias", self._encodings.weights[path]
        step = np.asarray(input_steps(op, self._encodings.input_of(path)) * np.asarray(weight.scale), np.float32)
        bias = value.numpy()
        axis = bias.ndim - 1 if step.size > 1 or weight.axis is not None else None
        whole = round_to(bias.astype(np.float64) / step.astype(np.float64), self._encodings.rounding)
        limits = np.iinfo(np.int32)
        q = Value.constant(f"{stem}_q", np.clip(whole, limits.min, limits.max).astype(np.int32))
        scale = Value.constant(f"{stem}_scale", step if axis is not None else step.reshape(()))
        return self._real(q, scale, None, axis, stem, value.shape)

    def _parameters(self, encoding: Encoding, stem: str) -> tuple[Value, Value | None]:
        scale = Value.constant(f"{stem}_scale", encoding.step)
        zero: Array | None = None if encoding.symmetric else encoding.zeros
        return scale, None if zero is None else Value.constant(f"{stem}_zero", zero)

    def _real(
        self, q: Value, scale: Value, zero: Value | None, axis: int | None, stem: str, shape: tuple[int, ...] | None
    ) -> Value:
        return self._op("dequantize", (q, scale, zero), f"{stem}_dq", shape, "float32", {"axis": axis}, stem)

    def _op(
        self, kind: str, inputs: tuple[Value | None, ...], name: str, shape: Any, dtype: str, attrs: dict[str, Any],
        op_name: str,
    ) -> Value:  # fmt: skip
        out = Value(name, shape, dtype)
        self.ops.append(Op(kind, inputs, (out,), attrs, op_name, self.origin))
        return out
