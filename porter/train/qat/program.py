# SPDX-License-Identifier: Apache-2.0
"""The captured graph as a list of steps that torch differentiates, fake quantization among them.

Where integers are is not decided here: the steps follow the very graph that :func:`porter.quantize.insert.insert`
makes, in which each quantization has a scale of its own that says whose it is (:class:`Marks`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor, fx

from porter.dialects.fx import FxGraph, value_name
from porter.dialects.fx_quantize import Chain, find_quantization
from porter.graph import Graph
from porter.ops import Op, Value
from porter.quantize.adopt import Adopted
from porter.quantize.calibrate import Calibration
from porter.quantize.encode import encode
from porter.quantize.encodings import Encoding, Encodings, layer_paths
from porter.quantize.insert import insert
from porter.quantize.numerics import Dtype
from porter.quantize.plan import Group, Plan, Site
from porter.quantize.scheme import PRODUCTS
from porter.train.qat.batch_norm import Norm, Unit, normalize, normalized

__all__ = ["Key", "Layer", "Program", "Runtime", "Source", "compile_program"]

_aten = torch.ops.aten
#: A quantizer: the name of its group, and the dtype.
Key = tuple[str, Dtype]
#: Where a constant comes from: a name in the network's state, or the tensor itself.
Source = str | Tensor


@dataclass(frozen=True, slots=True)
class Layer:
    """A quantized layer with a weight.

    Fields:
        weight, bias: of the layer; None with ``unit``, from which the folded ones are computed.
        axis: of the weight's scales; None for one.
        inputs: the quantizers of its calls' inputs; the widest is the layer's.
        int32_bias: whether the bias is an integer, too.
        quantized: False for a layer that the device computes in float, and whose batch norm trains.
        int32_bias: whether the bias is an integer, too.
        quantized: False for a layer that the device computes in float, and whose batch norm trains.
    """

    path: str
    weight: Source | None
    bias: Source | None
    unit: Unit | None
    axis: int | None
    dtype: Dtype
    inputs: tuple[Key, ...] = ()
    int32_bias: bool = False
    quantized: bool = True


class Runtime(Protocol):
    """What steps ask of the network that runs them."""

    def state(self, name: str) -> Tensor:
        """A parameter or buffer."""

    def constant(self, source: Source) -> Tensor:
        """A constant, where the inputs are."""

    def fake(self, key: Key, x: Tensor) -> Tensor:
        """The tensor through a quantizer (as it is while the network does not quantize)."""

    def fake_input(self, path: str, x: Tensor) -> Tensor:
        """The tensor through the widest quantizer of a layer's inputs."""

    def operands(self, path: str) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a quantized layer, as its integers hold them."""

    @property
    def live(self) -> bool:
        """Whether batch norms normalize by the batch."""

    @property
    def sync(self) -> bool:
        """Whether by the batches of all processes."""


@dataclass(frozen=True, slots=True)
class _Ref:
    slot: int


Env = list[Any]


class _Step(Protocol):
    out: int

    def run(self, env: Env, network: Runtime) -> None: ...
    def reads(self) -> list[int]: ...


@dataclass(slots=True)
class _Call:
    """One ATen call."""

    out: int
    target: Any
    args: list[Any]
    kwargs: dict[str, Any]

    def run(self, env: Env, network: Runtime) -> None:
        env[self.out] = self.target(*self.bound(env), **{k: _bound(v, env) for k, v in self.kwargs.items()})

    def bound(self, env: Env) -> list[Any]:
        return [env[a.slot] if type(a) is _Ref else _bound(a, env) for a in self.args]

    def reads(self) -> list[int]:
        return [ref.slot for ref in _refs([*self.args, *self.kwargs.values()])]


@dataclass(slots=True)
class _Load:
    """A constant that is quantized by nobody."""

    out: int
    source: Source

    def run(self, env: Env, network: Runtime) -> None:
        env[self.out] = network.constant(self.source)

    def reads(self) -> list[int]:
        return []


@dataclass(slots=True)
class _Fake:
    """A tensor through a quantizer."""

    out: int
    x: int
    key: Key

    def run(self, env: Env, network: Runtime) -> None:
        env[self.out] = network.fake(self.key, env[self.x])

    def reads(self) -> list[int]:
        return [self.x]


@dataclass(slots=True)
class _FakeInput:
    """The input of a layer that is called several times, through the one quantizer of the layer."""

    out: int
    x: int
    path: str

    def run(self, env: Env, network: Runtime) -> None:
        env[self.out] = network.fake_input(self.path, env[self.x])

    def reads(self) -> list[int]:
        return [self.x]


@dataclass(slots=True)
class _Operand:
    """The weight (``index`` 1) or the bias (2) of a quantized layer."""

    out: int
    path: str
    index: int

    def run(self, env: Env, network: Runtime) -> None:
        env[self.out] = network.operands(self.path)[self.index - 1]

    def reads(self) -> list[int]:
        return []


@dataclass(slots=True)
class _UnitCall(_Call):
    """A layer with its batch norm: folded, or in training normalized by the batch."""

    unit: Unit = field(kw_only=True)

    def run(self, env: Env, network: Runtime) -> None:
        args = self.bound(env)
        if network.live:
            args[2] = None
            y = self.target(*args, **self.kwargs)
            env[self.out] = normalized(self.unit, network.state, y, network.sync)
        else:
            env[self.out] = self.target(*args, **self.kwargs)


@dataclass(slots=True)
class _NormCall(_Call):
    """A batch norm that stays one."""

    norm: Norm = field(kw_only=True)

    def run(self, env: Env, network: Runtime) -> None:
        if network.live:
            x = env[cast(_Ref, self.args[0]).slot]
            env[self.out] = normalize(self.norm, network.state, x, network.sync)
        else:
            env[self.out] = self.target(*self.bound(env), **self.kwargs)


def _bound(value: Any, env: Env) -> Any:
    if type(value) is _Ref:
        return env[value.slot]
    if isinstance(value, (list, tuple)):
        return [_bound(item, env) for item in value]
    return value


def _refs(value: Any) -> list[_Ref]:
    if isinstance(value, _Ref):
        return [value]
    if isinstance(value, (list, tuple)):
        return [ref for item in value for ref in _refs(item)]
    return []


@dataclass(slots=True)
class Program:
    """The steps of one batch size (or of all).

    Fields:
        inputs: the slot of each input.
        outputs: the slot of each output.
        values: for the name of a value, the slot that has it before it is quantized.
        labels: for a slot, what computes it, in words for a message.
    """

    steps: list[_Step]
    inputs: list[int]
    outputs: list[int]
    slots: int
    values: dict[str, int]
    labels: dict[int, str]
    freed: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        last: dict[int, int] = {}
        for index, step in enumerate(self.steps):
            last.update(dict.fromkeys((*step.reads(), step.out), index))
        kept = set(self.outputs)
        self.freed = [[] for _ in self.steps]
        for slot, index in last.items():
            if slot not in kept:
                self.freed[index].append(slot)

    def __deepcopy__(self, memo: Any) -> Program:
        return self  # nothing in it changes

    def run(
        self, network: Runtime, inputs: Sequence[Tensor], look: Callable[[int, Any], None] | None = None
    ) -> tuple[Tensor, ...]:
        """The outputs. ``look`` is shown each slot as it is filled."""
        env: Env = [None] * self.slots
        for slot, x in zip(self.inputs, inputs, strict=True):
            env[slot] = x
            if look is not None:
                look(slot, x)
        for step, freed in zip(self.steps, self.freed, strict=True):
            step.run(env, network)
            if look is not None:
                look(step.out, env[step.out])
            for slot in freed:
                env[slot] = None
        return tuple(env[slot] for slot in self.outputs)


class Marks:
    """Encodings that only mark: each quantizer and each weight has a scale that nothing else has."""

    def __init__(self, plan: Plan) -> None:
        self._scheme = plan.scheme
        self.keys: dict[float, Key] = {}
        self.paths: dict[float, str] = {}
        self.layers: dict[float, str] = {}
        self._known: dict[Key, float] = {}

    def _fresh(self) -> float:
        return 1.0 + (len(self.keys) + len(self.paths) + len(self.layers) + 1) * 2.0**-20

    def layer(self, path: str, dtype: Dtype) -> Encoding:
        """Of a layer that reads all its inputs with one scale, that of the widest."""
        scale = self._fresh()
        self.layers[scale] = path
        return Encoding(dtype, (scale,), (-scale,), (scale,), "mark")

    def activation(self, group: Group, dtype: Dtype) -> Encoding:
        key = (group.name, dtype)
        scale = self._known.get(key)
        if scale is None:
            scale = self._known[key] = self._fresh()
            self.keys[scale] = key
        return Encoding(dtype, (scale,), (-scale,), (scale,), "mark")

    def weight(self, site: Site, dtype: Dtype) -> Encoding:
        scale = self._fresh()
        self.paths[scale] = site.path
        axis = self._scheme.weight_axis(site.op)
        count = 1 if axis is None else (site.weight.shape or ())[axis]
        return Encoding(dtype, (scale,) * count, (-scale,) * count, (scale,) * count, "mark", axis, True, (0,) * count)


@dataclass(slots=True)
class Compiled:
    """A program, the quantized layers by path, the quantizers in order, and those of them whose scale does
    something."""

    program: Program
    layers: dict[str, Layer]
    keys: list[Key]
    used: set[Key]


def compile_program(
    graph: FxGraph,
    plan: Plan,
    sources: Mapping[str, Source],
    units: Mapping[str, Unit],
    norms: Mapping[str, Norm],
) -> Compiled:
    """The steps of a legal graph.

    Args:
        plan: of this very graph.
        sources: of its constants, by value name.
        units: for the name of a layer's output, what was folded into it.
        norms: for the name of a batch norm's output, the batch norm.
    """
    marks = Marks(plan)
    encodings = encode(graph, plan, Calibration({}), 0, [], cast(Adopted, marks))
    own = {path for path in plan.layers if plan.scheme.flow == "operands" or path in encodings.operands}
    for path in own:
        site, *others = plan.layers[path]
        if site.quantized and any(other.input.name != site.input.name for other in others):
            encodings.operands[path] = marks.layer(path, site.width.activation)
    compiler = _Compiler(graph, cast(FxGraph, insert(graph, encodings)), plan, marks, sources, units, norms)
    program = compiler.compile()
    layers = _layers(plan, encodings, sources, units, own)
    for path, name in compiler.floats.items():
        unit = units[name]
        layers.setdefault(path, Layer(path, None, None, unit, None, "int8", quantized=False))
    used = {step.key for step in program.steps if isinstance(step, _Fake)}
    used |= {key for step in program.steps if isinstance(step, _FakeInput) for key in layers[step.path].inputs}
    return Compiled(program, layers, list(marks.keys.values()), used)


def _layers(
    plan: Plan,
    encodings: Encodings,
    sources: Mapping[str, Source],
    units: Mapping[str, Unit],
    own: Set[str],
) -> dict[str, Layer]:
    """The quantized layers; those in ``own`` read their inputs in a dtype, or with a scale, of their own."""
    layers: dict[str, Layer] = {}
    groups = plan.group_of()
    for path, calls in plan.layers.items():
        site = calls[0]
        if not site.quantized:
            continue
        dtype = site.width.activation
        inputs: list[Key] = [
            (group.name, dtype if path in own else group.dtype) for group in (groups[c.input.name] for c in calls)
        ]
        unit = units.get(site.output.name)
        bias = site.op.inputs[2] if len(site.op.inputs) > 2 else None
        layers[path] = Layer(
            path,
            None if unit is not None else _source(site.weight, sources),
            None if unit is not None or bias is None else _source(bias, sources),
            unit,
            plan.scheme.weight_axis(site.op),
            site.width.weight,
            tuple(dict.fromkeys(inputs)),
            encodings.bias == "int32",
        )
    return layers


def _source(value: Value, sources: Mapping[str, Source]) -> Source:
    found = sources.get(value.name)
    return torch.from_numpy(value.numpy().copy()) if found is None else found


class _Compiler:
    def __init__(
        self,
        graph: Graph,
        inserted: FxGraph,
        plan: Plan,
        marks: Marks,
        sources: Mapping[str, Source],
        units: Mapping[str, Unit],
        norms: Mapping[str, Norm],
    ) -> None:
        self._inserted, self._marks, self._sources, self._units, self._norms = inserted, marks, sources, units, norms
        self._originals = {op.outputs[0].name: op for op in graph.ops()}
        self._known = {out.name for op in graph.ops() for out in op.outputs} | {v.name for v in graph.inputs}
        self._moved = {
            (name, (group.name, group.dtype))
            for group in plan.groups for name in group.values if name not in group.sources
        }  # fmt: skip
        self._producers = inserted.producers()
        #: For the path of a layer that stays in float although a batch norm was folded into it, its output.
        self.floats: dict[str, str] = {}
        paths = layer_paths(graph)
        #: For a constant of a layer with a batch norm: the layer, the index of the operand, and the layer's output.
        self._folded: dict[str, tuple[str, int, str]] = {}
        for name in units:
            for index, value in enumerate(self._originals[name].inputs):
                if index in (1, 2) and value is not None:
                    self._folded[value.name] = paths[name], index, name
        self._steps: list[_Step] = []
        self._slot: dict[fx.Node, int] = {}
        self._count = 0
        self._values: dict[str, int] = {}
        self._labels: dict[int, str] = {}
        self._op_of: dict[Any, Op] = {}
        self._reader: dict[str, tuple[Op, int]] = {}
        for op in inserted.ops():
            self._op_of[op.node] = op
            if op.kind not in ("quantize", "dequantize"):
                for index, value in enumerate(op.inputs):
                    if value is not None:
                        self._reader.setdefault(value.name, (op, index))

    def compile(self) -> Program:
        graph = self._inserted.graph
        found = find_quantization(graph)
        entering: dict[fx.Node, fx.Node] = {}
        inputs: list[int] = []
        outputs: list[int] = []
        for node in graph.nodes:
            if node.op == "placeholder":
                inputs.append(self._new(node))
            elif node.op == "output":
                outputs = [self._read(n) for n in node.args[0] if isinstance(n, fx.Node)]
            elif node.op != "call_function" or node in found.inside:
                continue
            elif node not in found.calls:
                self._call(node)
            elif found.calls[node].kind == "quantize":
                entering[node] = found.calls[node].operands[0]
            else:
                self._dequantize(node, found.calls[node], entering)
        return Program(self._steps, inputs, outputs, self._count, self._values, self._labels)

    def _name(self, node: fx.Node) -> str:
        """The name that the value has in the graph before the insertion."""
        name = value_name(node)
        return name if name in self._known else name.removesuffix("_quantized")

    def _new(self, node: fx.Node) -> int:
        slot = self._slot[node] = self._count
        self._count += 1
        name = self._name(node)
        if name in self._known:
            self._values.setdefault(name, slot)
        origin = node.meta.get("porter_origin")
        where = origin is not None and (origin.file is not None or origin.module is not None)
        self._labels[slot] = f"{name} ({origin})" if where else name
        return slot

    def _read(self, node: fx.Node) -> int:
        """The slot of a value; a constant is loaded now."""
        if node not in self._slot:
            slot = self._new(node)
            folded = self._folded.get(value_name(node))
            source = self._sources.get(value_name(node))
            if folded is not None:
                path, index, output = folded
                self.floats[path] = output
                self._steps.append(_Operand(slot, path, index))
            else:
                held = cast(Tensor, self._inserted.attributes[str(node.target)])
                self._steps.append(_Load(slot, held if source is None else source))
        return self._slot[node]

    def _call(self, node: fx.Node) -> None:
        ref: Any = lambda n: _Ref(self._read(n))  # noqa: E731
        args = list(fx.map_arg(tuple(_any_batch(node)), ref))
        kwargs = dict(fx.map_arg(dict(node.kwargs), ref))
        slot = self._new(node)
        name = self._name(node)
        unit, norm = self._units.get(name), self._norms.get(name)
        if unit is not None and node in self._op_of:
            self._steps.append(_UnitCall(slot, node.target, [*args, None][: max(len(args), 3)], kwargs, unit=unit))
        elif norm is not None and node.target is _aten.batch_norm.default:
            self._steps.append(_NormCall(slot, node.target, args, kwargs, norm=norm))
        else:
            self._steps.append(_Call(slot, node.target, args, kwargs))

    def _dequantize(self, node: fx.Node, chain: Chain, entering: Mapping[fx.Node, fx.Node]) -> None:
        integers, scale_node = chain.operands[:2]
        mark = self._scale(scale_node)
        if integers in entering:
            x = entering[integers]
            source = self._read(x)
            if mark in self._marks.layers:
                self._steps.append(_FakeInput(self._new(node), source, self._marks.layers[mark]))
            elif (self._name(x), self._marks.keys[mark]) in self._moved:  # it holds what was quantized before
                self._slot[node] = source
            else:
                self._steps.append(_Fake(self._new(node), source, self._marks.keys[mark]))
            return
        op, index = self._reader[value_name(node)]
        original = self._originals[self._stem(op)]
        path = self._path(op) if index in (1, 2) else None
        if path is not None and original.kind in PRODUCTS:
            self._steps.append(_Operand(self._new(node), path, index))
            return
        value = cast(Value, original.inputs[index])
        slot = self._constant(value)
        self._steps.append(_Fake(self._new(node), slot, self._marks.keys[mark]))

    def _stem(self, op: Op) -> str:
        name = op.outputs[0].name
        return name if name in self._known else name.removesuffix("_quantized")

    def _path(self, op: Op) -> str | None:
        """The layer of an op whose weight is quantized."""
        weight = op.inputs[1]
        producer = self._producers.get(weight.name) if weight is not None else None
        if producer is None or producer.kind != "dequantize" or producer.inputs[1] is None:
            return None
        return self._marks.paths.get(float(producer.inputs[1].numpy().reshape(-1)[0]))

    def _constant(self, value: Value) -> int:
        """A slot that loads a constant of the original graph, before it is quantized."""
        slot = self._values.get(value.name)
        if slot is None:
            slot = self._count
            self._count += 1
            self._values[value.name] = slot
            self._labels[slot] = value.name
            self._steps.append(_Load(slot, _source(value, self._sources)))
        return slot

    def _scale(self, node: fx.Node | None) -> float:
        held = self._inserted.attributes[str(cast(fx.Node, node).target)]
        return float(held.reshape(-1)[0])


_SHAPED = (_aten.reshape.default, _aten.view.default, _aten.expand.default, _aten._unsafe_view.default)


def _any_batch(node: fx.Node) -> Sequence[Any]:
    """The arguments of a call; one that names N = 1 as the first of new sizes leaves it open."""
    args = list(node.args)
    if node.target in _SHAPED and isinstance(args[1], (list, tuple)) and args[1]:
        source, sizes = cast(fx.Node, args[0]).meta["val"], list(args[1])
        if source.ndim and source.shape[0] == 1 == sizes[0] and -1 not in sizes:
            args[1] = [-1, *sizes[1:]]
    return args
