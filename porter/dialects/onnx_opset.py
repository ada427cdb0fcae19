# SPDX-License-Identifier: Apache-2.0
"""A model at another version of the standard operators (opset), up or down.

A node whose operator is the same in both opsets stays the node that it was. Any other is written anew from what it
means in the vocabulary, which knows every opset from 7 to 24; where the wanted opset has no operator for it, exact and
bounded rewrite rules are asked for other ops that it has. A node that the vocabulary has no word for stays where the
two operators differ in the types that they take at most. What then is left is told, and the model is not converted:
an operator that was not understood is never passed off as another version of itself.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from onnx import ModelProto, NodeProto, defs, helper

from porter.dialects.onnx_lower import LOWER, Lowering, NeedsOpset, NoOnnxForm
from porter.dialects.onnx_proto import CODES, Node, Type, make_tensor, subgraphs
from porter.errors import PorterError
from porter.findings import Finding
from porter.graph import OPSETS
from porter.ops import Op, Origin, Value
from porter.registry import rules_for
from porter.rewrite import Fragment, NotApplicable

if TYPE_CHECKING:
    from porter.dialects.onnx import OnnxGraph

__all__ = ["convert", "unfit"]

_OLDEST, _NEWEST = OPSETS
#: Operators that mean something else, or decide something else by default, since one of their versions, although names
#: and attributes do not show it (the changelog of the ONNX operators).
_MEANING_CHANGED = frozenset({
    "Attention", "AveragePool", "BatchNormalization", "Dropout", "GridSample", "GroupNormalization", "Hardmax",
    "LogSoftmax", "LpPool", "MaxPool", "Mod", "NonMaxSuppression", "Resize", "RoiAlign", "Scan", "Softmax", "Upsample",
})  # fmt: skip
#: Kinds that are only kept where they stand, never written anew.
_KEPT = frozenset({"if", "loop", "scan", "random"})
#: A rule may yield ops that the opset lacks as well.
_DEPTH = 3


def convert(graph: OnnxGraph, opset: int) -> tuple[OnnxGraph | None, list[Finding]]:
    """The same model at ``opset``: a new graph, or None and a finding (PT352) for each node that has no form there.

    Raises:
        PorterError: PT519 for an opset that porter does not write.
    """
    if not _OLDEST <= opset <= _NEWEST:
        raise PorterError(
            "PT519", f"porter writes the ONNX opsets {_OLDEST} to {_NEWEST}", "--opset", f"{opset} is not one of them."
        )
    if opset == graph.opset:
        return graph.copy(), []
    return _Conversion(graph, opset).run()


def unfit(graph: OnnxGraph, opset: int) -> list[Finding]:
    """What :func:`convert` would find, at less cost: nothing where the model can be converted."""
    return [] if opset == graph.opset else _Conversion(graph, opset, dry=True).run()[1]


class _Unfit(Exception):
    """The node has no form at the wanted opset; the message says why."""


class _Conversion:
    def __init__(self, graph: OnnxGraph, opset: int, dry: bool = False) -> None:
        from porter.dialects.onnx import OnnxGraph
        from porter.dialects.onnx_splice import Splice

        model = graph._model
        self._dry = dry
        self._tried: dict[Any, str] = {}
        self._from, self._to = graph.opset, opset
        self._ops = {id(op.node): op for op in graph.ops()}
        self._uses = graph.uses()
        self._producers = graph.producers()
        shell = ModelProto()
        shell.CopyFrom(model.shell)
        for entry in shell.opset_import:
            if entry.domain in ("", "ai.onnx"):
                entry.version = opset
        if opset < self._from:  # old readers refuse a newer IR version than they know
            known = [(e.domain, e.version) for e in shell.opset_import if e.domain in ("", "ai.onnx", "ai.onnx.ml")]
            oldest = helper.find_min_ir_version_for([helper.make_opsetid(*pair) for pair in known])
            shell.ir_version = min(shell.ir_version, max(oldest, 4))
        copied = dataclasses.replace(
            model, shell=shell, nodes=list(model.nodes), tensors=dict(model.tensors), types=dict(model.types),
            opset=opset,
        )  # fmt: skip
        self._twin = OnnxGraph(copied, graph.source)
        self._twin._values.update(graph._values)
        self._splice = Splice(self._twin)

    def run(self) -> tuple[OnnxGraph | None, list[Finding]]:
        from porter.dialects.onnx import _live

        model = self._twin._model
        nodes: list[Node] = []
        findings: list[Finding] = []
        for node in model.nodes:
            try:
                nodes += self._node(node)
            except _Unfit as why:
                findings.append(self._finding(node, str(why)))
        if findings or self._dry:
            return None, findings
        splice = self._splice
        nodes = [splice.rewired(node) for node in nodes]
        live, tensors = _live(nodes, {**model.tensors, **splice.tensors}, model.outputs)
        self._twin._take(live, tensors, splice.lowering.types, splice.changed, splice.lowering.microsoft)
        return self._twin, []

    def _finding(self, node: Node, why: str) -> Finding:
        op = self._ops.get(id(node))
        origin = op.origin if op is not None else Origin(source=(node.name,))
        name = op.name if op is not None else node.name
        age = "an older" if self._to < self._from else "a newer"
        return Finding(
            "PT352", "error", f"{node.op} cannot be converted from opset {self._from} to {self._to}: {why}", origin,
            f"Keep an opset nearer to {self._from}, or export the model with {age} one.", name,
        )  # fmt: skip

    def _node(self, node: Node) -> list[Node]:
        if node.domain not in ("", "ai.onnx"):
            return [node]
        if node.op == "Constant":
            return self._constant(node)
        if self._unchanged(node.proto):
            return [node]
        op = self._ops[id(node)]
        try:
            if op.kind not in LOWER or op.kind in _KEPT:
                raise _Unfit(self._no_word(node))
            fragment = self._expressed(op, f"{op.outputs[0].name}_o", 0, frozenset())
        except _Unfit:
            if self._types_only(node, self._splice.lowering.types):
                return [node]
            raise
        return [] if self._dry else self._splice.fragment(op, fragment)

    def _constant(self, node: Node) -> list[Node]:
        """A Constant with anything but a tensor becomes an initializer: other forms are newer."""
        if {a.name for a in node.proto.attribute} == {"value"}:
            return [node]
        value = self._twin._value(node.outs[0])
        if not value.is_const:
            raise _Unfit("its value is sparse or a text")
        self._splice.tensors[value.name] = make_tensor(value.name, value.numpy())
        self._splice.changed.add(value.name)
        return []

    # -- what stays as it is -------------------------------------------------------------------------------

    def _unchanged(self, proto: NodeProto) -> bool:
        """Whether the operator, and those of its sub-graphs, are the same in both opsets."""
        if proto.domain not in ("", "ai.onnx"):
            return True
        old, new = _schema(proto.op_type, self._from), _schema(proto.op_type, self._to)
        if old is None or new is None or old.since_version != new.since_version:
            return False
        return all(self._unchanged(inner) for graph in subgraphs(proto) for inner in graph.node)

    def _types_only(self, node: Node, types: Mapping[str, Type]) -> bool:
        """Whether the two versions of the operator take the same operands and mean the same by these attributes."""
        proto = node.proto
        old, new = _schema(node.op, self._from), _schema(node.op, self._to)
        if old is None or new is None or node.op in _MEANING_CHANGED:
            return False
        given = {a.name for a in proto.attribute}
        if not given <= new.attributes.keys() or not _same_places(old.inputs, new.inputs, len(node.ins)):
            return False
        for name in old.attributes.keys() & new.attributes.keys() - given:
            if old.attributes[name].default_value != new.attributes[name].default_value:
                return False
        inner = (n for graph in subgraphs(proto) for n in graph.node)
        return all(self._unchanged(n) for n in inner) and not _misfits(node, new, types)

    def _no_word(self, node: Node) -> str:
        new = _schema(node.op, self._to)
        if new is None:
            since = _schema(node.op, _NEWEST)
            return (
                f"the operator is new in opset {_first(node.op)}" if since is not None else "there is no such operator"
            )
        if any(True for _ in subgraphs(node.proto)):
            return "an operator in its sub-graphs is another one there"
        return "the operator changed in between, and porter does not know what it means here"

    # -- what is written anew ------------------------------------------------------------------------------

    def _expressed(self, op: Op, prefix: str, depth: int, trail: frozenset[str]) -> Fragment:
        """The op as ops that the wanted opset has: itself, or what rules make of it."""
        try:
            self._try(op)
        except _Unfit as why:
            first = why
        else:
            return Fragment([op], op.outputs)
        if depth < _DEPTH:
            for rule in rules_for(op.kind):
                if rule.optional or rule.fuses or rule.claim not in ("exact", "bounded") or rule.name in trail:
                    continue
                try:
                    made = rule.apply(self, op, f"{prefix}{depth}")
                    return self._all(made, prefix, depth + 1, trail | {rule.name})
                except (NotApplicable, _Unfit):
                    continue
        raise first

    def _all(self, made: Fragment, prefix: str, depth: int, trail: frozenset[str]) -> Fragment:
        ops: list[Op] = []
        now: dict[str, Value] = {}
        for i, op in enumerate(made.ops):
            op.inputs = tuple(v and now.get(v.name, v) for v in op.inputs)
            part = self._expressed(op, f"{prefix}{i}_", depth, trail)
            ops += part.ops
            now.update((old.name, new) for old, new in zip(op.outputs, part.results, strict=True))
        return Fragment(ops, tuple(now.get(v.name, v) for v in made.results))

    def _try(self, op: Op) -> None:
        """Lower the op and look at what comes out. Raises :class:`_Unfit`."""
        # What lowering looks at; layers of a network repeat it. The data of constants may matter too.
        key = None
        if not any(v.is_const for v in op.operands):
            sides = (op.inputs, op.outputs)
            key = (op.kind, repr(op.attrs), *(tuple(v and (v.shape, v.dtype) for v in side) for side in sides))
        why = self._tried.get(key) if key is not None else None
        if why is None:
            why = self._misfit(op)
            if key is not None:
                self._tried[key] = why
        if why:
            raise _Unfit(why)

    def _misfit(self, op: Op) -> str:
        """Why the nodes of the op do not fit the wanted opset; "" where they do."""
        types: dict[str, Type] = {v.name: (v.shape, v.dtype) for v in (*op.operands, *op.outputs)}
        names = itertools.count()

        def fresh(hint: str) -> str:
            return f"{hint}\0{next(names)}"

        lowering = Lowering(self._to, types, fresh, lambda _name, _data: None)
        try:
            lowering.lower(op, [v.name if v else None for v in op.inputs], [v.name for v in op.outputs])
        except NeedsOpset as problem:
            return f"{op.kind} needs opset {problem.version}"
        except NoOnnxForm as problem:
            return str(problem)
        for node in lowering.nodes:
            if node.domain:
                continue
            schema = _schema(node.op, self._to)
            if schema is None:
                return f"{node.op} needs opset {_first(node.op)}"
            wrong = _misfits(node, schema, types)
            if wrong:
                return f"{node.op} does not take {wrong} there"
        return ""

    # -- the surroundings that rules ask about (porter.rewrite.Surroundings) --------------------------------

    def producer(self, value: Value) -> Op | None:
        return self._producers.get(value.name)

    def uses(self, value: Value) -> int:
        return self._uses.get(value.name, 0)

    def expresses(self, op: Op) -> bool:
        return False


@cache
def _schema(name: str, opset: int) -> Any:
    """The operator as of an opset; None where there is none, or it was withdrawn."""
    try:
        found = defs.get_schema(name, opset, "")
    except defs.SchemaError:
        return None
    return None if found.deprecated else found


@cache
def _first(name: str) -> int:
    return min(s.since_version for s in defs.get_all_schemas_with_history() if s.name == name and not s.domain)


def _same_places(old: Sequence[Any], new: Sequence[Any], count: int) -> bool:
    """Whether the first ``count`` operands are called alike in both versions."""
    names = [[formal.name for formal in formals][:count] for formals in (old, new)]
    return names[0] == names[1] and (len(new) >= count or (bool(new) and new[-1].option.name == "Variadic"))


def _misfits(node: Node, schema: Any, types: Mapping[str, Type]) -> str:
    """The dtype of an operand or result that the operator does not take; "" where all fit."""
    for formals, names in ((schema.inputs, node.ins), (schema.outputs, node.outs)):
        for formal, name in zip(_formals(formals, len(names)), names, strict=False):
            dtype = types.get(name, (None, None))[1]
            if name and dtype in CODES and f"tensor({_onnx_name(dtype)})" not in formal.types:
                return dtype
    return ""


def _formals(formals: Sequence[Any], count: int) -> Iterable[Any]:
    more = itertools.repeat(formals[-1]) if formals and formals[-1].option.name == "Variadic" else ()
    return itertools.islice(itertools.chain(formals, more), count)


def _onnx_name(dtype: str) -> str:
    """``float32`` is ``float`` in ONNX's type strings, ``float8_e4m3fn`` is ``float8e4m3fn``."""
    plain = {"float32": "float", "float64": "double", "float4_e2m1fn": "float4e2m1"}
    return plain.get(dtype) or dtype.replace("_", "")
