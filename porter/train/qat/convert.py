# SPDX-License-Identifier: Apache-2.0
"""From a float module to the network that is trained with the integers of its target."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from porter.data import random_inputs
from porter.dialects.fx import FxGraph, value_name
from porter.errors import PorterError
from porter.findings import Finding
from porter.graph import Graph
from porter.legalize import legalize
from porter.ops import Op, Value
from porter.paths import PARAMETERS
from porter.quantize.constants import with_constant_operands
from porter.quantize.encodings import layer_paths
from porter.quantize.numerics import BITS, Dtype
from porter.quantize.observers import make_observer
from porter.quantize.plan import Plan, plan
from porter.quantize.scheme import PRODUCTS, Scheme
from porter.rewrite import Fragment
from porter.target import Target
from porter.train.qat.batch_norm import Norm, Unit
from porter.train.qat.network import QatNetwork
from porter.train.qat.outputs import OutputRule, output_rules, with_outputs
from porter.train.qat.prepared import Initial, Prepared, Shared
from porter.train.qat.program import Source
from porter.train.qat.proof import require_same
from porter.verify import Evidence, verify

__all__ = ["convert"]

Mode = Literal["fuse_bn", "with_bn"]
_FOLD = "fold_batch_norm"
#: Random inputs on which the legal graph is proved, beside the example.
_PROOF = 2


def convert(
    module: nn.Module,
    example: Tensor | Sequence[Tensor],
    target: Target,
    *,
    mode: Mode = "fuse_bn",
    scales: Literal["learned", "fixed"] = "learned",
    outputs: OutputRule | Mapping[str, Any] | None = None,
    output_names: Sequence[str] | None = None,
    width: str = "int8",
    pins: Mapping[str, str] | None = None,
    observer: str = "min_max",
    source: str = "module",
    progress: Callable[[str], None] | None = None,
) -> QatNetwork:
    """Make a QAT network of any module that ``torch.export`` can capture.

    The module is captured in evaluation mode with one sample, made legal for the target by rewrites (proved here, by
    running both), and planned as :func:`porter.quantize.plan.plan` plans it. The module is left as it is; the network
    has tensors of its own, by the module's names. Dropout is not in it, as in every captured model.

    Args:
        example: a batch of the input, or of each input; float32 [N, ...]. Only shapes and the first sample are used.
        target: its ``[quantization]`` says what is an integer.
        mode: "fuse_bn": batch norms are absorbed by the layers before them now. "with_bn": they stay, train on, and are
            absorbed by :func:`~porter.train.qat.to_integers`; the weights are quantized as they will be then.
        scales: of activations: parameters that train, or constants. Those of 16 bits are constants in any case: there
            are steps to spare, and one clipped value would move the scale by more than its own size.
        outputs: see :func:`~porter.train.qat.outputs.output_rules`.
        output_names: of the outputs, in order; default: the names of the captured values.
        width: of everything that is not pinned ("int8", "w8a16", ...), as the target has it.
        pins: other widths, or "float", by layer, op or value; see :func:`porter.quantize.plan.plan`.
        observer: of activations in calibration; see :func:`porter.quantize.observers.make_observer`.
        source: what messages call the module.
        progress: called with a short text at each step.

    Raises:
        PorterError: PT310 or PT506 when it cannot be captured; PT320 when it is not legal for the target and no rewrite
            makes it so; PT408 the observer; PT414 to PT420 the plan and the pins; PT731 output rules or names; PT733
            when the legal graph does not compute what the module computes, or a choice is none of those above.
    """
    for name, value, known in (("mode", mode, ("fuse_bn", "with_bn")), ("scales", scales, ("learned", "fixed"))):
        if value not in known:
            raise PorterError("PT733", f"{name} is {value!r}", fix=f"Choose one of {', '.join(known)}.")
    make_observer(observer)
    say = progress or (lambda _text: None)
    scheme = Scheme.of(target)
    if scheme.table.weight_scheme != "symmetric":
        raise PorterError("PT733", f"the weights of {target.name} have zero points, which QAT does not train")
    frozen = copy.deepcopy(module).cpu()
    examples = [example] if isinstance(example, Tensor) else list(example)
    preparer = _Preparer(frozen, target, scheme, mode, outputs, output_names, width, pins or {}, source, say)
    prepared = preparer([x.detach().cpu()[:1] for x in examples])
    say("proving the rewrites")
    evidence = _prove(preparer.captured, prepared.graph, [x.detach().cpu()[:1] for x in examples])
    shared = Shared(target, scheme, prepared, preparer, evidence, observer, mode)
    return QatNetwork(shared, _initial(frozen, prepared), scales == "learned")


def _prove(captured: FxGraph, legal: FxGraph, examples: Sequence[Tensor]) -> Evidence:
    items = [[x.numpy() for x in examples], *random_inputs(captured.inputs, _PROOF, 0)]
    evidence = verify(captured, legal, items)
    require_same("the rewritten model", evidence, captured.source, "PT733")
    return evidence


@dataclass(slots=True)
class _Preparer:
    """Captures one module for batches of one size after another, each time in the same way."""

    module: nn.Module
    target: Target
    scheme: Scheme
    mode: Mode
    outputs: OutputRule | Mapping[str, Any] | None
    output_names: Sequence[str] | None
    width: str
    pins: Mapping[str, str]
    source: str
    say: Callable[[str], None]
    captured: FxGraph = field(init=False)

    def __call__(self, examples: Sequence[Tensor]) -> Prepared:
        self.say("capturing")
        captured = FxGraph.capture(self.module, list(examples), self.source)
        _name_outputs(captured, self.output_names)
        table = self.scheme.table
        captured = cast(FxGraph, with_constant_operands(captured, {*table.quantized_ops, "batch_norm"}))
        self.captured = captured
        self.say("rewriting")
        legal, ledger, _, after = legalize(captured, self.target, (), (_FOLD,))
        findings: list[Finding] = []
        if examples[0].ndim == 0 or examples[0].shape[0] == 1:
            self._require_legal(after)
            findings += [found for found in after.findings if found.severity != "error"]
        graph = _shared_constants(cast(FxGraph, legal))
        trains = _name_constants(graph, self.module)
        rules = output_rules(self.outputs, [value.name for value in graph.outputs])
        planned, leaves = self.plan(graph, rules, findings)
        folded = _folded(captured, graph)
        units = _units(captured, graph, folded, self.module) if self.mode == "with_bn" else {}
        norms = {
            op.outputs[0].name: _norm(op, self.module)
            for op in graph.ops() if op.kind == "batch_norm" and all(v.is_const for v in op.operands[1:])
        }  # fmt: skip
        sources = _sources(graph, self.module, units, trains)
        findings += _absorbed(captured, graph, folded, units if self.mode == "with_bn" else None, self.module)
        return Prepared(
            graph,
            planned,
            rules,
            leaves,
            sources,
            units,
            norms,
            frozenset(trains.values()) & trains.keys(),
            ledger,
            findings,
        )

    def plan(
        self, graph: Graph, rules: Mapping[str, OutputRule], findings: list[Finding]
    ) -> tuple[Plan, dict[str, Dtype | None]]:
        """The plan of a graph, its outputs among it; also of the same graph with other weights."""
        pins = {**_output_pins(graph, self.scheme, rules), **self.pins}
        planned = plan(graph, self.scheme, width=self.width, pins=pins, findings=findings)
        # One scale a tensor, also where the device could have one for each channel: it is what trains.
        planned.groups = [replace(group, axis=None) for group in planned.groups]
        return with_outputs(planned, graph, rules, findings)

    def _require_legal(self, after: Any) -> None:
        # What the target's file does not know is a finding: the device's own tools will say.
        runs = ("native", "unknown", *(("host",) if self.target.runtime.fallback == "host" else ()))
        against = list(dict.fromkeys(op.kind for op in after.ops if op.verdict not in runs))
        against += [f"{one.message} ({one.code})" for one in after.findings if one.severity == "error" and not one.kind]
        if against:
            raise PorterError(
                "PT320", f"{self.source} is not legal for {self.target.name}: {', '.join(against[:8])}",
                fix="Run `porter check` on the model: it says what to change, line by line.",
            )  # fmt: skip


def _name_outputs(graph: FxGraph, names: Sequence[str] | None) -> None:
    """Give the outputs their names."""
    if names is None:
        return
    results = [node for node in next(reversed(graph.graph.nodes)).args[0] if node is not None]
    taken = {v.name for op in graph.ops() for v in (*op.outputs, *op.operands)} | {v.name for v in graph.inputs}
    said = None
    if len(names) != len(results):
        said = f"output_names has {len(names)} names, and {graph.source} has {len(results)} outputs"
    elif len(set(names)) < len(names) or len(set(results)) < len(results):
        said = "two outputs have one name, or are one tensor"
    elif any(node.op != "call_function" for node in results):
        said = "an output is an input or a constant, and keeps its name"
    else:
        clash = [n for n, v in zip(names, graph.outputs, strict=True) if n in taken and n != v.name]
        said = f"{clash[0]} is the name of another tensor" if clash else None
    if said is not None:
        raise PorterError("PT731", said, where="output_names", fix="Give one new name for each output, in order.")
    for node, name in zip(results, names, strict=True):
        node.meta["porter_value"] = name
    graph.replace([])


def _output_pins(graph: Graph, scheme: Scheme, rules: Mapping[str, OutputRule]) -> dict[str, str]:
    """A wider form for the ops that make outputs of 16 bits, where they are no products and have one."""
    wide = next((w for w in scheme.widths.values() if BITS[w.activation] == 16), None)
    producers = graph.producers()
    found = {}
    for value in graph.outputs:
        op = producers.get(value.name)
        if wide is None or op is None or rules[value.name].dtype != wide.activation or scheme.flow != "tensors":
            continue
        if op.kind not in PRODUCTS and op.kind in scheme.table.quantized_ops and scheme.fits(op.kind, wide):
            found[value.name] = wide.name
    return found


def _shared_constants(graph: FxGraph) -> FxGraph:
    """The same graph, in which equal constants that rewrites made of one module are one.

    A head that is called for each stride has its batch norm folded once for each call; it is one layer all the same.
    """
    known: dict[tuple[Any, ...], Value] = {}
    replacements = []
    for op in graph.ops():
        inputs = list(op.inputs)
        for index, value in enumerate(op.inputs):
            if value is None or not value.is_const or not op.origin.rules or op.kind not in PARAMETERS:
                continue
            data = value.numpy()
            key = (op.kind, index, op.origin.module, data.dtype.str, data.shape, data.tobytes())
            inputs[index] = known.setdefault(key, value)
        if any(a is not b for a, b in zip(inputs, op.inputs, strict=True)):
            outs = tuple(Value(f"{out.name}_shared", out.shape, out.dtype) for out in op.outputs)
            replacements.append((op, Fragment([Op(op.kind, tuple(inputs), outs, op.attrs, op.name, op.origin)], outs)))
    if replacements:
        graph.replace(replacements)
    return graph


# -- batch norms and the names of parameters -----------------------------------------------------------------------


def _folded(captured: Graph, graph: Graph) -> dict[str, tuple[Op, Op]]:
    """For the output of each batch norm that was folded: the layer before it, and itself, as they were captured."""
    producers, now = captured.producers(), graph.producers()
    found = {}
    for op in captured.ops():
        layer = producers.get(op.operands[0].name) if op.kind == "batch_norm" else None
        made = now.get(op.outputs[0].name)
        if layer is not None and made is not None and _FOLD in made.origin.rules:
            found[op.outputs[0].name] = layer, op
    return found


def _units(captured: Graph, graph: Graph, folded: Mapping[str, tuple[Op, Op]], module: nn.Module) -> dict[str, Unit]:
    """The layers whose batch norm can go on training: the legal layer is the folded one itself."""
    now = graph.producers()
    state = _state_names(module)
    units = {}
    for name, (layer, norm) in folded.items():
        made = now[name]
        weight, bias = layer.inputs[1], layer.inputs[2] if len(layer.inputs) > 2 else None
        if weight is None or (made.kind, made.inputs[1] and made.inputs[1].shape) != (layer.kind, weight.shape):
            continue
        needed = [v.name for v in (weight, bias, *norm.inputs[1:]) if v is not None]
        if all(needed_name in state for needed_name in needed):
            units[name] = Unit(
                layer.kind,
                layer.attrs.get("groups", 1),
                weight.name,
                None if bias is None else bias.name,
                _norm(norm, module),
            )
    return units


def _norm(op: Op, module: nn.Module) -> Norm:
    weight, bias, mean, var = (None if value is None else value.name for value in op.inputs[1:5])
    path = cast(str, mean).rpartition(".")[0]
    tracked = f"{path}.num_batches_tracked"
    momentum: float | None = 0.1
    if tracked in dict(module.named_buffers()):
        momentum = cast(Any, module.get_submodule(path)).momentum
    else:
        tracked = ""
    return Norm(weight, bias, cast(str, mean), cast(str, var), tracked or None, float(op.attrs["eps"]), momentum)


def _state_names(module: nn.Module) -> set[str]:
    return {name for name, _ in (*module.named_parameters(), *module.named_buffers())}


def _name_constants(graph: FxGraph, module: nn.Module) -> dict[str, str]:
    """Give the tensors of each layer the layer's names ("head.cls.0.weight"), by which every file that is written from
    the graph knows the layer again.

    Two layers of one weight (a module that is called twice, of which a rewrite changed one call) get a constant each.
    Returns, for each constant that was not of the module by that name, the name under which it trains.
    """
    state, paths = _state_names(module), layer_paths(graph)
    nodes = {value_name(node): node for node in graph.graph.nodes if node.op == "get_attr"}
    outputs = {value.name for value in graph.outputs}
    trains: dict[str, str] = {}
    now: dict[str, str] = {}  # the new name of a constant, by the old one
    for op in graph.ops():
        path = paths.get(op.outputs[0].name)
        if path is not None and op.kind not in PARAMETERS:  # a matrix product goes by its own name
            made = [v.name for v in op.inputs[1:] if v is not None and v.is_const and v.name not in state]
            trains.update(zip(made, made, strict=True))
            if op.outputs[0].name not in outputs:
                op.node.meta.pop("porter_value", None)  # its tensor goes by that name, too, as in every file
        for index, key in PARAMETERS.get(op.kind, ()) if path is not None else ():
            value = op.inputs[index] if index < len(op.inputs) else None
            name = f"{path}.{key}"
            if value is None or value.dtype != "float32" or now.get(value.name, value.name) == name:
                continue
            old = nodes[value.name]
            if value.name in state or value.name in now:  # another layer has it
                if old not in op.node.all_input_nodes:
                    continue
                with graph.graph.inserting_before(old):
                    new = graph.graph.get_attr(name)
                new.meta = dict(old.meta)
                op.node.replace_input_with(old, new)
                graph.attributes[name] = graph.attributes[str(old.target)]
                first = now.get(value.name, value.name)
                trains[name] = trains.get(first, first)
            else:
                graph.attributes[name] = graph.attributes.pop(str(old.target))
                old.target = name
                old.meta.pop("porter_value", None)
                now[value.name] = trains[name] = name
    graph.replace([])
    return trains


def _sources(
    graph: Graph, module: nn.Module, units: Mapping[str, Unit], trains: Mapping[str, str]
) -> dict[str, Source]:
    """Where the constants of the legal graph come from: names of the network's state, or themselves.

    Tensors of the module keep their names. What a rewrite made of a layer's tensors trains under the layer's path; what
    else it made stays as it is.
    """
    state = _state_names(module)
    found: dict[str, Source] = {}
    for op in graph.ops():
        for value in op.operands if op.outputs[0].name not in units else op.operands[:1]:
            if not value.is_const or value.name in found:
                continue
            name = trains.get(value.name) or (value.name if value.name in state else None)
            found[value.name] = torch.from_numpy(value.numpy().copy()) if name is None else name
    return found


def _absorbed(
    captured: Graph,
    graph: Graph,
    folded: Mapping[str, tuple[Op, Op]],
    units: Mapping[str, Unit] | None,
    module: nn.Module,
) -> list[Finding]:
    """Findings about parameters that do not train as they did."""
    parameters = dict(module.named_parameters())
    used = {v.name for op in captured.ops() for v in op.operands if v.name in parameters}
    left = {v.name for op in graph.ops() for v in op.operands}
    absorbed = {v.name for pair in folded.values() for op in pair for v in op.operands}
    lost = sorted(used - left - absorbed)
    findings = []
    if lost:
        findings.append(
            Finding("PT741", "note", f"{len(lost)} parameters were computed into constants by rewrites; they train in "
                    f"their new form where they are weights of a layer, and not otherwise ({', '.join(lost[:3])})")
        )  # fmt: skip
    early = [name for name in folded if units is not None and name not in units]
    if early:
        op = folded[early[0]][1]
        findings.append(
            Finding("PT742", "note", f"{len(early)} batch norms were absorbed before training although they were to "
                    f"stay ({op.origin.module or early[0]} first): a rewrite changed the layer before them", op.origin)
        )  # fmt: skip
    return findings


def _initial(module: nn.Module, prepared: Prepared) -> dict[str, Initial]:
    """The tensors of the network by name."""
    parameters, buffers, saved = dict(module.named_parameters()), dict(module.named_buffers()), module.state_dict()
    constants = {v.name: v for op in prepared.graph.ops() for v in op.operands if v.is_const}
    names = dict.fromkeys(source for source in prepared.sources.values() if isinstance(source, str))
    for norm in (*(unit.norm for unit in prepared.units.values()), *prepared.norms.values()):
        wanted = (norm.weight, norm.bias, norm.mean, norm.var, norm.tracked)
        names.update(dict.fromkeys(name for name in wanted if name is not None))
    for unit in prepared.units.values():
        names.update(dict.fromkeys(name for name in (unit.weight, unit.bias) if name is not None))
    raw = {name for unit in prepared.units.values() for name in (unit.weight, unit.bias)}
    found = {}
    for name in names:
        if name in prepared.made and name not in raw:
            found[name] = Initial(torch.from_numpy(constants[name].numpy().copy()), True, True, True)
        elif name in parameters:
            found[name] = Initial(parameters[name].detach().clone(), True, parameters[name].requires_grad, True)
        else:
            found[name] = Initial(buffers[name].detach().clone(), False, False, name in saved)
    return found
