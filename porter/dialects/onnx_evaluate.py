# SPDX-License-Identifier: Apache-2.0
"""Constant sub-graphs of an ONNX model, computed by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np
from onnx import ModelProto, ValueInfoProto

from porter.dialects.onnx_proto import BITS, CODES, Node, make_tensor, np_dtype
from porter.dialects.onnx_read import Model, type_proto
from porter.dialects.onnx_run import LARGE, Session
from porter.errors import PorterError
from porter.ops import Array, Value

__all__ = ["evaluate", "part_session"]

#: Never the same twice.
_RANDOM = frozenset({
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial",
})  # fmt: skip


def evaluate(
    model: Model,
    producers: Mapping[str, Node],
    value_of: Callable[[str], Value],
    names: Sequence[str],
    limit: int,
    widest: int,
) -> dict[str, Array]:
    """The values among ``names`` that follow from constants and static shapes.

    Left out: what depends on an input, what is larger than ``limit`` bytes, what needs an intermediate of more than
    ``widest`` bytes, and what onnxruntime cannot compute.
    """
    cut = _Cut(model, producers, value_of, widest)
    ready: dict[str, Array] = {}
    wanted: list[str] = []
    for name in dict.fromkeys(names):
        if _size(model, name) > limit or not cut.add(name):
            continue
        if name in cut.constants:
            ready[name] = np.array(cut.constants[name])
        else:
            wanted.append(name)
    if wanted:
        ready.update(_run(model, cut, wanted))
    return {name: ready[name] for name in names if name in ready and ready[name].nbytes <= limit}


def _size(model: Model, name: str) -> int:
    shape, dtype = model.types.get(name, (None, None))
    return prod(shape) * BITS.get(CODES.get(dtype or "", 0), 64) // 8 if shape is not None else 0


class _Cut:
    """The nodes that some values depend on, down to constants and shapes."""

    def __init__(
        self, model: Model, producers: Mapping[str, Node], value_of: Callable[[str], Value], widest: int
    ) -> None:
        self._model, self._producers, self._value_of, self._widest = model, producers, value_of, widest
        self._good: dict[str, bool] = {}
        self.constants: dict[str, Array] = {}
        self.nodes: list[Node] = []
        self._seen: set[int] = set()

    def add(self, name: str) -> bool:
        """Whether ``name`` can be computed; its nodes are then among :attr:`nodes`, in order."""
        stack = [name]
        while stack:
            top = stack[-1]
            if top in self._good:
                stack.pop()
                continue
            waiting = self._step(top)
            stack.extend(waiting)
            if not waiting:
                stack.pop()
        return self._good[name]

    def _step(self, name: str) -> list[str]:
        value = self._value_of(name)
        if value.is_const:
            try:
                self.constants[name] = value.numpy()
                self._good[name] = True
            except PorterError:
                self._good[name] = False
            return []
        node = self._producers.get(name)
        if node is None or node.op in _RANDOM or _size(self._model, name) > self._widest:
            self._good[name] = False
            return []
        shape = self._model.types.get(node.ins[0], (None, None))[0] if node.ins else None
        if not node.domain and node.op in ("Shape", "Size", "EyeLike") and shape is not None:
            if node.op != "EyeLike":
                start, end = node.attrs.get("start", 0), node.attrs.get("end", len(shape))
                found = prod(shape) if node.op == "Size" else shape[start:end]
                self.constants[name] = np.asarray(found, np.int64)
                self._good[name] = True
                return []
            # The operand's data is not read: zeros stand for it.
            dtype = value.dtype or "float32"
            eye = np.eye(shape[0], shape[1], node.attrs.get("k", 0))
            self.constants[name] = eye.astype(np_dtype(dtype))
            self._good[name] = True
            return []
        operands = [n for n in (*node.ins, *node.caps) if n]
        if any(self._good.get(n) is False for n in operands):
            self._good[name] = False
            return []
        waiting = [n for n in operands if n not in self._good]
        if waiting:
            return waiting
        self._good.update(dict.fromkeys(filter(None, node.outs), True))
        if id(node) not in self._seen:
            self._seen.add(id(node))
            self.nodes.append(node)
        return []


def _run(model: Model, cut: _Cut, names: Sequence[str]) -> dict[str, Array]:
    try:
        return _session_run(model, cut.nodes, cut.constants, names)
    except PorterError:
        if len(names) == 1:
            return {}
    # One of them fails: find out which, and keep the others.
    half = len(names) // 2
    found: dict[str, Array] = {}
    for part in (names[:half], names[half:]):
        found.update(_run(model, _only(cut, part), part))
    return found


def _only(cut: _Cut, names: Sequence[str]) -> _Cut:
    """The part of a cut that some of its values need."""
    smaller = _Cut.__new__(_Cut)
    needed = set(names)
    nodes = []
    for node in reversed(cut.nodes):
        if not needed.isdisjoint(node.outs):
            nodes.append(node)
            needed.update((*node.ins, *node.caps))
    smaller.nodes = nodes[::-1]
    smaller.constants = {name: data for name, data in cut.constants.items() if name in needed}
    return smaller


def _session_run(
    model: Model, nodes: Sequence[Node], constants: Mapping[str, Array], names: Sequence[str]
) -> dict[str, Array]:
    session = part_session(model, nodes, constants, {}, names, "a constant sub-graph")
    return dict(zip(names, session.run({}, names), strict=True))


def part_session(
    model: Model,
    nodes: Sequence[Node],
    constants: Mapping[str, Array],
    inputs: Mapping[str, Array],
    names: Sequence[str],
    source: str,
) -> Session:
    """A session of some nodes of a model.

    Args:
        constants: what the nodes read and what does not change from run to run; others are left out.
        inputs: an example of each value that is fed.
        names: the values to compute.
        source: the name for messages.

    Raises:
        PorterError: PT353 when onnxruntime does not take the nodes.
    """
    proto = ModelProto(ir_version=model.shell.ir_version)
    proto.opset_import.extend(model.shell.opset_import)
    graph = proto.graph
    graph.name = "part"
    needed = {n for node in nodes for n in (*node.ins, *node.caps)}
    fed: dict[str, Array] = {}
    for name, data in constants.items():
        if name not in needed:
            continue
        if data.nbytes > LARGE:
            graph.input.add(name=name, type=type_proto((data.shape, str(data.dtype))))
            fed[name] = np.asarray(data, order="C")
        else:
            graph.initializer.append(make_tensor(name, data))
    for name, data in inputs.items():
        graph.input.add(name=name, type=type_proto((data.shape, str(data.dtype))))
    graph.node.extend([node.proto for node in nodes])
    for name in names:
        graph.output.append(ValueInfoProto(name=name))
    return Session(proto, None, fed, source, arena=False)
