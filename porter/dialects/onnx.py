# SPDX-License-Identifier: Apache-2.0
"""The ONNX dialect: a model file as a :class:`~porter.graph.Graph`.

It works on the protobufs themselves. A node that nothing touches stays the node that was loaded, byte for byte; weights
that lie in data files are never read unless something asks for their values. Reading is in
:mod:`porter.dialects.onnx_read`, meaning in :mod:`~porter.dialects.onnx_lift`, writing nodes in
:mod:`~porter.dialects.onnx_lower`, running in :mod:`~porter.dialects.onnx_run`.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from onnx import ModelProto, TensorProto, defs

import porter.dialects.onnx_lift_index
import porter.dialects.onnx_lift_layers
import porter.dialects.onnx_lower_index
import porter.dialects.onnx_lower_layers
import porter.dialects.onnx_lower_math
import porter.dialects.onnx_lower_recurrent
from porter.dialects import onnx_origin
from porter.dialects.onnx_evaluate import evaluate, part_session
from porter.dialects.onnx_fold import Constants
from porter.dialects.onnx_lift import SAME, At, lift
from porter.dialects.onnx_lower import Lowering, NeedsOpset, NoOnnxForm, error_for
from porter.dialects.onnx_proto import (
    Node,
    Type,
    constant_array,
    make_tensor,
    no_collection,
    tensor_array,
)
from porter.dialects.onnx_read import InputSpecs, Model, read_model, type_proto
from porter.dialects.onnx_run import Session
from porter.dialects.onnx_save import as_proto, read_ledger, write
from porter.dialects.onnx_sessions import Sessions
from porter.dialects.onnx_splice import Splice, identity
from porter.dialects.onnx_stream import bindable, stream
from porter.errors import PorterError
from porter.feeds import check_inputs
from porter.findings import Finding
from porter.graph import Graph
from porter.ops import Array, Op, Value
from porter.rewrite import Fragment

__all__ = ["OnnxGraph"]

#: IR version of models that porter makes: the first with metadata_props of nodes.
_IR_VERSION = 10
#: The first opset in which QuantizeLinear and DequantizeLinear have an axis.
_PER_CHANNEL = 13
#: Intermediate results of evaluate() may be this many times larger than its results.
_SLACK = 4
#: Bytes of an operand that is computed from constants for one op alone.
_FOLDED = 1 << 26
#: Kinds of which some or all are one node that ONNX has for another kind as well, as which it is lifted.
_SHARED_FORMS = frozenset({
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d", "bitwise_and",
    "bitwise_not", "bitwise_or", "bitwise_xor", "chunk", "embedding", "fill", "flatten", "flip", "gemm", "linear",
    "masked_fill", "relu6", "sort", "square", "take",
})  # fmt: skip

assert porter.dialects.onnx_lower_index and porter.dialects.onnx_lower_recurrent  # their import fills the table


class OnnxGraph(Graph):
    """An ONNX model with static shapes."""

    dialect: ClassVar[str] = "onnx"

    def __init__(self, model: Model, source: str) -> None:
        self._model = model
        self.source = source
        self._values: dict[str, Value] = {}
        self._producer: dict[str, Node] = {out: node for node in model.nodes for out in node.outs if out}
        self._constants = Constants(self._read, model.types, self._producer, model.opset)
        self._lifted: dict[int, Op] = {}
        self._ops: list[Op] | None = None
        self._sessions = self._no_sessions()
        self._applied: dict[tuple[Any, ...], Session] = {}
        self.inputs = [self._value(name) for name in model.inputs]
        self.outputs = [self._value(name) for name in model.outputs]

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] | ModelProto,
        inputs: InputSpecs | None = None,
        source: str | None = None,
        batch: int | None = None,
    ) -> OnnxGraph:
        """Load a model file, or take a ModelProto (which is shared, and must not be changed afterwards).

        Args:
            model: a path, or a ModelProto whose weights are inside of it.
            inputs: shape and dtype (None: the model's own) by input name or position; needed for dynamic axes.
            source: the name for messages; default: the file's.
            batch: the extent of the first axis of every input that leaves it open.

        Raises:
            PorterError: PT501 no such file, PT502 damaged, PT503 not a model, PT506 an input that does not fit, PT507
                a dynamic input without a shape, PT513 external data outside of the model's folder, PT514 sizes that the
                data does not have.
        """
        if source is None:
            source = "ModelProto" if isinstance(model, ModelProto) else Path(model).name
        with no_collection():
            return cls(read_model(model, inputs, source, batch), source)

    @property
    def opset(self) -> int:
        """The version of the standard operators that the model uses."""
        return self._model.opset

    def at_opset(self, opset: int) -> tuple[OnnxGraph | None, list[Finding]]:
        """See :meth:`Graph.at_opset` and :mod:`porter.dialects.onnx_opset`."""
        from porter.dialects.onnx_opset import convert

        return convert(self, opset)

    def unfit_at(self, opset: int) -> list[Finding]:
        """See :meth:`Graph.unfit_at`."""
        from porter.dialects.onnx_opset import unfit

        return unfit(self, opset)

    # -- lifting -----------------------------------------------------------------------------------

    def ops(self) -> list[Op]:
        """Every op in topological order; Constant nodes are values, not ops."""
        if self._ops is None:
            with no_collection():
                self._ops = self._lift_all()
        return self._ops

    def _lift_all(self) -> list[Op]:
        lifted, found = self._lifted, []
        for node in self._model.nodes:
            if node.op == "Constant" and not node.domain:
                continue
            op = lifted.get(id(node))
            if op is None or op.node is not node:
                op = lifted[id(node)] = self._lift(node)
            found.append(op)
        return found

    def _lift(self, node: Node) -> Op:
        value, known = self._value, self._values
        origin = node.origin
        if origin is None:
            origin = node.origin = onnx_origin.read(node.proto)
        outs = tuple([value(name) for name in node.outs if name])
        if not node.domain and node.op in SAME:
            operands = tuple([known.get(n) or value(n) if n else None for n in node.ins])
            return Op(SAME[node.op], operands, outs, {}, node.name, origin, node)
        ins = [value(n) if n else None for n in node.ins]
        try:
            kind, found, attrs = lift(At(node, ins, outs, self._model.opset, self._constants))
        # A node that breaks its operator's own rules (a missing attribute, operands that do not fit) keeps its name.
        except (KeyError, IndexError, ValueError, TypeError, AssertionError, AttributeError, ArithmeticError):
            kind, found, attrs = f"{node.domain or 'onnx'}:{node.op}", ins, {}
        operands = (*found, *(value(name) for name in node.caps))
        return Op(kind, operands, outs, attrs, node.name, origin, node)

    def _value(self, name: str) -> Value:
        found = self._values.get(name)
        if found is None:
            tensor = self._model.tensors.get(name)
            if tensor is not None:
                data: Callable[[], Array] | None = partial(tensor_array, tensor, self._model.folder)
            else:
                node = self._producer.get(name)
                data = None
                if node is not None and node.op == "Constant" and not node.domain:
                    data = partial(_constant, node, self._model.folder)
            shape, dtype = self._model.types.get(name, (None, None))
            found = self._values[name] = Value(name, shape, dtype, data)
        return found

    def _read(self, name: str) -> Array | None:
        value = self._value(name)
        return value.numpy() if value.is_const else None

    def producers(self) -> dict[str, Op]:
        """The op that computes each value, by the value's name."""
        return {out.name: op for op in self.ops() for out in op.outputs}

    def uses(self) -> dict[str, int]:
        """How many times each value is read: by nodes (operands that the vocabulary makes attributes count too), by
        their sub-graphs, and as a graph output."""
        nodes = self._model.nodes
        read = itertools.chain.from_iterable
        count = Counter(itertools.chain(read(n.ins for n in nodes), read(n.caps for n in nodes), self._model.outputs))
        count.pop("", None)
        return count

    # -- rewriting ---------------------------------------------------------------------------------

    def expresses(self, op: Op) -> bool:
        """See :meth:`Graph.expresses`: whether it is one node at the model's opset."""
        types = {v.name: (v.shape, v.dtype) for v in (*op.operands, *op.outputs)}
        names = itertools.count()
        lowering = Lowering(self.opset, types, lambda hint: f"{hint}_{next(names)}", lambda _name, _data: None)
        try:
            lowering.lower(op, [v.name if v else None for v in op.inputs], [v.name for v in op.outputs])
        except (NeedsOpset, NoOnnxForm):
            return False
        return len(lowering.nodes) == 1

    def held(self, op: Op) -> Sequence[Op]:
        """See :meth:`Graph.held`: its nodes at the model's opset, lifted."""
        if op.kind not in _SHARED_FORMS and self.expresses(op):
            return (op,)
        inputs = {v.name: v for v in op.operands if not v.is_const}
        try:
            return OnnxGraph._bridged([op], list(inputs.values()), op.outputs, self.source, self.opset).ops()
        except (NeedsOpset, PorterError):  # replace() says so, if it comes to that
            return (op,)

    def reads(self, op: Op) -> Sequence[str]:
        """See :meth:`Graph.reads`."""
        return [name for name in (*op.node.ins, *op.node.caps) if name]

    def replace(self, replacements: Iterable[tuple[Op, Fragment]]) -> None:
        """See :meth:`Graph.replace`. One pass over the nodes, whatever the number of replacements.

        Raises:
            PorterError: PT351 when ONNX has no form for a kind, PT352 when the model's opset is too old for it. The
                graph is then as it was.
            ValueError: when an op is not of this graph, or a fragment reads a value that nothing gives.
        """
        todo: dict[int, tuple[Op, Fragment]] = {}
        for op, fragment in replacements:
            node = self._producer.get(op.outputs[0].name)
            if node is None:
                raise ValueError(f"{op.outputs[0].name} is not computed by this graph")
            todo[id(node)] = (op, fragment)
        if not todo:
            return
        with no_collection():
            self._replace(todo)

    def _replace(self, todo: Mapping[int, tuple[Op, Fragment]]) -> None:
        model = self._model
        splice = Splice(self)
        nodes: list[Node] = []
        for node in model.nodes:
            pair = todo.get(id(node))
            if pair is None:
                nodes.append(splice.rewired(node))
            else:
                try:
                    nodes.extend(splice.fragment(*pair))
                except (NeedsOpset, NoOnnxForm) as problem:
                    raise error_for(problem, pair[0], self.source, model.opset) from problem
        tensors = {**model.tensors, **splice.tensors}
        nodes, tensors = _live(nodes, tensors, model.outputs)
        self._take(nodes, tensors, splice.lowering.types, splice.changed, splice.lowering.microsoft)

    def _take(
        self, nodes: list[Node], tensors: dict[str, TensorProto], types: dict[str, Type], changed: set[str], ms: bool
    ) -> None:
        """Make these the graph's nodes; values in ``changed`` are not what they were."""
        model = self._model
        shell = model.shell
        if ms and not any(entry.domain == "com.microsoft" for entry in shell.opset_import):
            shell = ModelProto()
            shell.CopyFrom(model.shell)
            shell.opset_import.add(domain="com.microsoft", version=1)
        self._model = Model(
            shell, nodes, tensors, types, model.inputs, model.outputs, model.opset, model.folder, model.value_infos,
            model.sparse,
        )  # fmt: skip
        self._producer = {out: node for node in nodes for out in node.outs if out}
        for name in changed:
            self._values.pop(name, None)
        self._constants = Constants(self._read, types, self._producer, model.opset)
        kept: dict[int, Op] = {}
        for node in nodes:
            op = self._lifted.get(id(node))
            if op is not None and op.node is node and changed.isdisjoint(node.ins) and changed.isdisjoint(node.outs):
                kept[id(node)] = op
        self._lifted = kept
        self._ops = None
        self._sessions = self._no_sessions()
        self._applied = {}
        self.inputs = [self._value(name) for name in model.inputs]
        self.outputs = [self._value(name) for name in model.outputs]

    @classmethod
    def from_graph(cls, graph: Graph, opset: int = 17) -> OnnxGraph:
        """The same model in ONNX: every op of ``graph`` is lowered, constants keep their names.

        The opset is raised where a kind needs a newer one.

        Raises:
            PorterError: PT351 when ONNX has no form for a kind.
        """
        if isinstance(graph, OnnxGraph):
            return graph.copy()
        return cls.from_ops(graph.ops(), graph.inputs, graph.outputs, graph.source, opset)

    @classmethod
    def from_ops(
        cls, ops: Sequence[Op], inputs: Sequence[Value], outputs: Sequence[Value], source: str, opset: int = 17
    ) -> OnnxGraph:
        """Ops of any graph in ONNX, from some values to others: see :meth:`from_graph`."""
        newest = min(defs.onnx_opset_version(), 24)
        while True:
            try:
                return cls._bridged(ops, inputs, outputs, source, opset)
            except NeedsOpset as problem:
                if problem.version <= opset or problem.version > newest:
                    raise PorterError(
                        "PT352", f"{problem.kind} needs opset {problem.version}; porter writes up to {newest}", source
                    ) from problem
                opset = problem.version

    @classmethod
    def _bridged(
        cls, ops: Sequence[Op], ins: Sequence[Value], outs: Sequence[Value], source: str, opset: int
    ) -> OnnxGraph:
        shell = ModelProto(ir_version=_IR_VERSION, producer_name="porter")
        shell.opset_import.add(domain="", version=opset)
        shell.graph.name = (source or "porter").encode("utf-8", "replace").decode()  # file names can be any bytes
        inputs = [v.name for v in ins]
        model = Model(shell, [], {}, {}, inputs, [], opset)
        for value in ins:
            shell.graph.input.add(name=value.name, type=type_proto((value.shape, value.dtype)))
            model.types[value.name] = (value.shape, value.dtype)
        result = cls(model, source)
        splice = Splice(result)
        splice.reserve(v.name for op in ops for v in (*op.outputs, *op.operands))
        splice.reserve(v.name for v in outs)
        nodes: list[Node] = []
        for op in ops:
            try:
                nodes.extend(splice.bridge(op))
            except NoOnnxForm as problem:
                raise error_for(problem, op, source, opset) from problem
        made = {out for node in nodes for out in node.outs}
        outputs: list[str] = []
        for value in outs:
            name = value.name
            if name not in made or name in outputs:  # an input, a constant, or the same value twice
                source = splice.constant(value) if value.is_const else name
                name = splice.fresh(f"{name}_out")
                nodes.append(Node(identity(source, name)))
                splice.lowering.types[name] = (value.shape, value.dtype)
            outputs.append(name)
            shell.graph.output.add(name=name, type=type_proto((value.shape, value.dtype)))
        model.outputs = outputs
        nodes, tensors = _live(nodes, splice.tensors, outputs)
        result._take(nodes, tensors, splice.lowering.types, splice.changed, splice.lowering.microsoft)
        return result

    # -- running -----------------------------------------------------------------------------------

    def evaluate(self, values: Sequence[Value], limit: int) -> dict[str, Array]:
        """See :meth:`Graph.evaluate`: the sub-graph of these values runs in onnxruntime.

        A value is left out when it depends on an input's data, is larger than ``limit`` bytes, or needs an intermediate
        several times as large.
        """
        return evaluate(self._model, self._producer, self._value, [v.name for v in values], limit, limit * _SLACK)

    def run(
        self, inputs: Sequence[Array] | Mapping[str, Array], taps: Sequence[str] = (), *, fast: bool = False
    ) -> list[Array]:
        """See :meth:`Graph.run`. Threads: environment variables PORTER_THREADS, else OMP_NUM_THREADS, else one a core.

        Raises:
            PorterError: PT506 for an input that does not fit or a tap that is not there, PT353 when onnxruntime fails.
        """
        feeds = check_inputs(inputs, self.inputs, self.source)
        names = [*self._model.outputs, *taps]
        ready: dict[str, Array] = {}
        for name in taps:
            value = self._value(name)
            if value.is_const:
                ready[name] = value.numpy()
            elif name in feeds:
                ready[name] = feeds[name]
            elif name not in self._producer:
                raise PorterError("PT506", f"the model has no value {name!r}", self.source)
        computed = [name for name in dict.fromkeys(names) if name not in ready]
        ready.update(zip(computed, self._sessions.run(feeds, computed, fast), strict=True))
        return [ready[name] for name in names]

    def streams(
        self, taps: Sequence[str], count: int, sample: Sequence[Array]
    ) -> list[Callable[[Sequence[Array]], Iterator[Mapping[str, Array]]]] | None:
        """See :meth:`Graph.streams`; they run at the same time, with one thread each."""
        known = {value.name: value for op in self.ops() for value in op.outputs}
        wanted = [known[name] for name in dict.fromkeys(taps) if name in known]
        if not wanted or len(wanted) < len(set(taps)) or not bindable(wanted):
            return None
        made = self._sessions.pieces(wanted, known, check_inputs(sample, self.inputs, self.source))
        if made is None:
            return None

        def checked(run: Callable[[Mapping[str, Array]], Iterator[Mapping[str, Array]]], item: Sequence[Array]) -> Any:
            return run(check_inputs(item, self.inputs, self.source))

        return [partial(checked, stream(made, self.source)) for _ in range(count)]

    def apply(self, op: Op, operands: Sequence[Array | None]) -> list[Array]:
        """See :meth:`Graph.apply`: the op's own node in onnxruntime.

        Raises:
            PorterError: PT353 when onnxruntime does not take the node with such operands.
            ValueError: when the op is not of this graph, or reads a value that is neither given nor a constant.
        """
        node = op.node
        if not isinstance(node, Node) or self._producer.get(op.outputs[0].name) is not node:
            raise ValueError(f"{op.name} is no op of this graph")
        feeds: dict[str, Array] = {}
        for value, array in zip(op.inputs, operands, strict=True):
            if value is not None and array is not None and not self._value(value.name).is_const:
                feeds[value.name] = np.asarray(array, order="C")
        key = (id(node), *((name, array.shape, array.dtype) for name, array in feeds.items()))
        names = [name for name in node.outs if name]
        session = self._applied.get(key)
        if session is None:
            fixed = {name: self._fixed(name, op) for name in (*node.ins, *node.caps) if name and name not in feeds}
            session = part_session(self._model, [node], fixed, feeds, names, f"{op.kind} {op.name} of {self.source}")
            self._applied[key] = session
        return session.run(feeds, names)

    def _fixed(self, name: str, op: Op) -> Array:
        """The data of an operand that does not depend on the model's inputs."""
        value = self._value(name)
        if value.is_const:
            return value.numpy()
        data = self._constants.get(name)
        if data is None:
            data = self.evaluate([value], _FOLDED).get(name)
        if data is None:
            raise ValueError(f"{name}, which {op.name} reads, is neither given nor a constant")
        return data

    def _no_sessions(self) -> Sessions:
        return Sessions(self._model, self.source)

    # -- copying and saving ------------------------------------------------------------------------

    def quantizable(self) -> OnnxGraph:
        """See :meth:`Graph.quantizable`: below opset 13, which has QuantizeLinear per tensor only, every op is lowered
        again for that opset.

        Raises:
            PorterError: PT351 when an op has no form there.
        """
        if self._model.opset >= _PER_CHANNEL:
            return self.copy()
        return OnnxGraph._bridged(self.ops(), self.inputs, self.outputs, self.source, _PER_CHANNEL)

    def with_outputs(self, names: Sequence[str]) -> OnnxGraph:
        """See :meth:`Graph.with_outputs`."""
        missing = [name for name in names if name not in self._producer]
        if missing or len(set(names)) < len(names):
            raise ValueError(f"not computed by an op of {self.source}, or named twice: {missing or names}")
        return self._between(list(self._model.inputs), list(names))

    def part(self, inputs: Sequence[str], outputs: Sequence[str]) -> OnnxGraph:
        """See :meth:`Graph.part`. Nodes stay as they are, byte for byte."""
        made = {*self._producer, *self._model.inputs}
        missing = [name for name in inputs if name not in made] + [n for n in outputs if n not in self._producer]
        if missing or len(set(outputs)) < len(outputs) or not {*inputs}.isdisjoint(outputs):
            raise ValueError(f"not values of {self.source}, or named twice: {missing or [*inputs, *outputs]}")
        found = self._between(list(inputs), list(outputs))
        known = {*inputs, *found._producer, *found._model.tensors, *found._model.sparse}
        lacking = [n for node in found._model.nodes for n in (*node.ins, *node.caps) if n and n not in known]
        if lacking:
            raise ValueError(f"{', '.join(dict.fromkeys(lacking))} is needed, and not among the inputs")
        return found

    def _between(self, inputs: list[str], outputs: list[str]) -> OnnxGraph:
        twin = self.copy()
        shell = ModelProto()
        shell.CopyFrom(twin._model.shell)
        declared = {info.name: info for info in twin._model.shell.graph.output}
        for names, infos in ((inputs, shell.graph.input), (outputs, shell.graph.output)):
            if names is inputs and names == twin._model.inputs:
                continue  # as they were declared, with what they say beside shape and dtype
            del infos[:]
            for name in names:
                value = twin._value(name)
                if value.shape is None and name in declared:  # its symbols are more than nothing
                    infos.add().CopyFrom(declared[name])
                else:
                    infos.add(name=name, type=type_proto((value.shape, value.dtype)))
        model = dataclasses.replace(twin._model, shell=shell, inputs=inputs, outputs=outputs)
        twin._model = model
        given = {*inputs}
        nodes, tensors = _live([n for n in model.nodes if given.isdisjoint(n.outs)], model.tensors, outputs)
        twin._take(nodes, tensors, model.types, set(), False)
        return twin

    def copy(self) -> OnnxGraph:
        """An independent graph. Nodes and weights are shared: a change makes new ones."""
        model = self._model
        twin = OnnxGraph.__new__(OnnxGraph)
        twin.source = self.source
        twin._model = Model(
            model.shell, list(model.nodes), dict(model.tensors), dict(model.types), model.inputs, model.outputs,
            model.opset, model.folder, model.value_infos, model.sparse,
        )  # fmt: skip
        twin._values = dict(self._values)
        twin._producer = dict(self._producer)
        twin._constants = Constants(twin._read, twin._model.types, twin._producer, model.opset)
        twin._lifted = dict(self._lifted)
        twin._ops = None
        twin._sessions = twin._no_sessions()
        twin._applied = {}
        twin.inputs, twin.outputs = list(self.inputs), list(self.outputs)
        return twin

    def with_constants(self, data: Mapping[str, Array]) -> OnnxGraph:
        """See :meth:`Graph.with_constants`. A Constant node becomes an initializer."""
        seen: dict[str, list[Value]] = {}
        for op in self.ops():
            for value in op.operands:
                if value.name in data and value.is_const:
                    seen.setdefault(value.name, []).append(value)
        twin = self.copy()
        model = twin._model
        for name, array in data.items():
            shown = seen.get(name)
            if shown is None:
                raise ValueError(f"{self.source} has no constant {name!r}")
            if any((v.shape, v.dtype) != (array.shape, str(array.dtype)) for v in shown):
                raise ValueError(f"{shown[0]!r} cannot hold {array.dtype}{list(array.shape)}")
            turned = [v is not self._value(name) for v in shown]  # lifting a Gemm without transB turns its weight
            if any(turned) and not all(turned):
                raise ValueError(f"{name} is read both as it is and transposed")
            own = np.ascontiguousarray(array.T if turned[0] else array)
            if own.shape != self._value(name).shape:
                raise ValueError(f"{name} is read in another shape than it is stored in")
            model.tensors[name] = make_tensor(name, own)
            twin._values.pop(name, None)
        model.nodes[:] = [n for n in model.nodes if not (n.op == "Constant" and not n.domain and n.outs[0] in data)]
        twin._producer = {out: node for node in model.nodes for out in node.outs if out}
        twin._constants = Constants(twin._read, model.types, twin._producer, model.opset)
        twin._lifted = {}
        return twin

    def to_proto(self) -> ModelProto:
        """The model with the origin of each node; weights in data files stay there (see :attr:`folder`)."""
        proto = as_proto(self._model, origins=True)
        self._declare(proto)
        return proto

    def _declare(self, proto: ModelProto) -> None:
        """Say of the inputs and outputs of what is written more than their shapes in this graph."""

    @property
    def folder(self) -> Path | None:
        """The folder that external data is relative to."""
        return self._model.folder

    def save(self, path: Path, ledger: Mapping[str, Any] | None = None) -> None:
        """Write the model, with the origin of each node (metadata key ``porter.origin``) and the ledger.

        Weights that lie in data files stay external: each file is shared or copied beside ``path``, named after it.
        Weights of more than 1.8 GB in memory are written to such a file as well.

        Raises:
            OSError: when a file cannot be written.
        """
        write(self._model, Path(path), ledger, self._declare)

    @property
    def ledger(self) -> dict[str, Any] | None:
        """The ledger that an earlier run of porter left in the model."""
        return read_ledger(self._model.shell)


def _constant(node: Node, folder: Path | None) -> Array:
    found = constant_array(node, folder)
    if found is None:
        raise PorterError("PT502", f"the constant {node.outs[0]!r} has a form that porter does not read (sparse, text)")
    return found


def _live(
    nodes: list[Node], tensors: dict[str, TensorProto], outputs: Iterable[str]
) -> tuple[list[Node], dict[str, TensorProto]]:
    """Only the nodes and initializers that the outputs depend on."""
    needed = set(outputs)
    kept: list[Node] = []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outs):
            kept.append(node)
            needed.update(node.ins)
            needed.update(node.caps)
    kept.reverse()
    return kept, {name: tensor for name, tensor in tensors.items() if name in needed}
