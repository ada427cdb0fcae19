# SPDX-License-Identifier: Apache-2.0
"""A legal graph, as far as the rules go, divided into segments: each a graph of its own, proved to be the model in a
row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from porter.errors import PorterError
from porter.findings import Finding, Report
from porter.graph import Graph
from porter.latency import tensor_bytes
from porter.legalize import check, nearest_opset
from porter.ops import Array, Op, Value
from porter.partition.cost import Costs
from porter.partition.cut import Cut, ops_between
from porter.partition.run_pipeline import Pipeline, Runner
from porter.partition.segments import Crossing, Device, Island, Link, Task, crossings, divide
from porter.target import Target
from porter.verify import Evidence, TensorError

__all__ = [
    "Placed", "Segment", "Split", "host_crossings", "placement", "plan", "prove", "prove_parts", "split",
]  # fmt: skip

SCHEMA_VERSION = "1.0"
#: Nothing comes home over it.
_FREE = Link(0.0, float("inf"))


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the model that one side runs.

    ``graph`` computes it, in the model's own dialect or in ONNX; ``ops`` are the model's. ``numpy`` is its numpy source
    with the constants that it loads (host segments only), or ``no_numpy`` says why it has none.
    """

    name: str
    device: Device
    graph: Graph
    ops: tuple[Op, ...]
    macs: int
    seconds: float
    numpy: tuple[str, Mapping[str, Array]] | None = None
    no_numpy: str = ""


@dataclass(frozen=True, slots=True)
class Split:
    """The segments in the order in which they run, what passes between them, and the islands given to the host."""

    segments: tuple[Segment, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    crossings: tuple[Crossing, ...]
    islands: tuple[Island, ...]
    costs: Costs
    notes: tuple[Finding, ...] = ()
    dtypes: Mapping[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """What crosses between accelerator and host for one input."""
        return sum(crossing.bytes for crossing in self.crossings)

    def manifest(self, target: str, model: str) -> dict[str, Any]:
        """``pipeline.json`` without the files of the segments."""
        return {
            "schema_version": SCHEMA_VERSION,
            "target": target,
            "model": model,
            "inputs": [self._value(v) for v in self.inputs],
            "outputs": [self._value(v) for v in self.outputs],
            "segments": [
                {
                    "name": segment.name,
                    "device": segment.device,
                    "files": {},
                    "inputs": [self._value(v) for v in segment.graph.inputs],
                    "outputs": [self._value(v) for v in segment.graph.outputs],
                    "ops": len(segment.ops),
                    "macs": segment.macs,
                    **({"no_numpy": segment.no_numpy} if segment.no_numpy else {}),
                }
                for segment in self.segments
            ],
            "crossings": [
                {"value": c.value, "segment": self.segments[c.segment].name, "direction": "out" if c.out else "in",
                 "bytes": c.bytes}
                for c in self.crossings
            ],
            "bytes": self.bytes,
        }  # fmt: skip

    def _value(self, value: Value) -> dict[str, Any]:
        shape = list(value.shape) if value.shape is not None else None
        return {"name": value.name, "shape": shape, "dtype": value.dtype or self.dtypes.get(value.name)}

    def pipeline(self, numpy: bool = False) -> Pipeline:
        """The segments as they are in memory, joined by the glue that is written with them.

        Args:
            numpy: host segments that have a numpy form run as that.
        """
        return Pipeline(self.manifest("", ""), self.runners(numpy))

    def runners(self, numpy: bool = False) -> dict[str, Runner]:
        """What runs each segment on this machine, by its name."""
        return {
            segment.name: _numpy_runner(segment) if numpy and segment.numpy else partial(_graph_runner, segment.graph)
            for segment in self.segments
        }


def _graph_runner(graph: Graph, _segment: Mapping[str, Any], feeds: Mapping[str, Array]) -> dict[str, Array]:
    names = [value.name for value in graph.outputs]
    return dict(zip(names, graph.run(list(feeds.values())), strict=True))


def _numpy_runner(segment: Segment) -> Runner:
    from porter.emit.numpy_code import load

    assert segment.numpy is not None
    run = load(*segment.numpy)
    names = [value.name for value in segment.graph.outputs]
    return lambda _segment, feeds: dict(zip(names, run(*feeds.values()), strict=True))


@dataclass(slots=True)
class _Tasks:
    """The ops of a graph that depend on its inputs and lead to its outputs, as tasks."""

    ops: list[Op] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)


def _tasks(graph: Graph, place: Callable[[Op], Device], gain: Callable[[Op], float]) -> _Tasks:
    found = _Tasks()
    live = ops_between(graph, (v.name for v in graph.inputs), (v.name for v in graph.outputs), forms=True)
    varying = {v.name for v in graph.inputs}
    for op in live:
        reads = tuple(name for name in dict.fromkeys(graph.reads(op)) if name in varying)
        if not reads and op.kind != "random":
            continue  # a constant: each segment that needs it computes it
        device = place(op)
        varying.update(v.name for v in op.outputs)
        found.ops.append(op)
        found.tasks.append(
            Task(reads, tuple(v.name for v in op.outputs), device, gain(op) if device == "accelerator" else 0.0)
        )
        found.sizes.update((v.name, tensor_bytes(v)) for v in op.outputs)
    return found


def _placed(report: Report, late: Iterable[str]) -> Callable[[Op], Device]:
    """Where each op runs by its verdict; what a target's toolchain itself puts on its host is its own affair."""
    behind = set(late)
    illegal = {
        one.op.outputs[0].name
        for one in report.ops
        if one.op is not None and one.verdict != "native" and not report.runs_on_host(one)
    }

    def place(op: Op) -> Device:
        name = op.outputs[0].name
        return "host" if name in illegal or name in behind else "accelerator"

    return place


def host_crossings(graph: Graph, report: Report) -> tuple[int, int, int]:
    """What passes between accelerator and host where the target's toolchain itself divides the model: the number of
    crossings, their bytes, and the ops on the host."""
    host = {
        one.op.outputs[0].name for one in report.ops if one.op is not None and report.runs_on_host(one)
    }  # fmt: skip
    found = _tasks(graph, lambda op: "host" if op.outputs[0].name in host else "accelerator", lambda _op: 1.0)
    levels, _ = divide(found.tasks, {}, _FREE)
    passed = crossings(found.tasks, levels, found.sizes)
    return len(passed), sum(c.bytes for c in passed), sum(task.device == "host" for task in found.tasks)


@dataclass(frozen=True, slots=True)
class Placed:
    """Where an op runs on a target whose toolchain divides the model: ``on`` the target (by name), the ``CPU``, or
    nowhere (``-``); ``subgraph`` counts the parts of the accelerator from 0 (None: not on it)."""

    node: str
    on: str
    subgraph: int | None
    type: str


def placement(report: Report) -> list[Placed]:
    """Where each op of a checked model runs (those that depend on constants only aside), in their order.

    Ops that a rewrite makes legal count as the accelerator's. Subgraphs are as few as the order of the ops allows.
    """
    rows = [one for one in report.ops if one.verdict != "fold" and one.op is not None]
    ours = [one.verdict in ("native", "rewrite") for one in rows]
    tasks = [
        Task(
            tuple(v.name for v in one.op.operands if not v.is_const), tuple(v.name for v in one.op.outputs),
            "accelerator" if mine else "host", 1.0 if mine else 0.0,
        )
        for one, mine in zip(rows, ours, strict=True)
        if one.op is not None
    ]  # fmt: skip
    segments, _ = divide(tasks, {}, _FREE)
    parts = [places for device, places in segments if device == "accelerator"]
    number = {i: part for part, places in enumerate(parts) for i in places}
    elsewhere = ["CPU" if report.runs_on_host(one) else "-" for one in rows]
    return [
        Placed(one.name, report.target if mine else elsewhere[i], number.get(i), one.kind)
        for i, (one, mine) in enumerate(zip(rows, ours, strict=True))
    ]


def plan(graph: Graph, target: Target, report: Report, cut: Cut | None = None) -> tuple[int, int, int, int]:
    """What :func:`split` would make, without making it: segments of the accelerator, crossings, bytes, host ops."""
    costs = Costs.of_target(target)
    found = _tasks(graph, _placed(report, cut.late if cut is not None else ()), costs.gain)
    segments, _ = divide(found.tasks, found.sizes, costs.link)
    passed = crossings(found.tasks, segments, found.sizes)
    host = sum(len(places) for device, places in segments if device == "host")
    many = sum(device == "accelerator" for device, _ in segments)
    return many, len(passed), sum(c.bytes for c in passed), host


def split(graph: Graph, target: Target, report: Report, cut: Cut | None = None, costs: Costs | None = None) -> Split:
    """Divide a graph.

    Args:
        graph: after its rewrites.
        target: the device.
        report: of ``graph`` on ``target``: what is not native there runs on the host.
        cut: what lies behind it runs on the host as well.
        costs: in place of the target's.

    Raises:
        PorterError: PT752 when the accelerator would have nothing to do, or an output depends on no input.
    """
    costs = costs or Costs.of_target(target)
    found = _tasks(graph, _placed(report, cut.late if cut is not None else ()), costs.gain)
    computed = {name for task in found.tasks for name in task.makes} | {v.name for v in graph.inputs}
    constant = [v.name for v in graph.outputs if v.name not in computed]
    if constant:
        raise PorterError("PT752", f"the output {constant[0]} of {graph.source} depends on no input",
                          fix="Leave it out of the model's outputs.")  # fmt: skip
    places, islands = divide(found.tasks, found.sizes, costs.link)
    if all(device == "host" for device, _ in places):
        raise PorterError("PT752", f"{target.name} runs no op of {graph.source}: there is nothing to divide",
                          fix="`porter check` says of each op why not.")  # fmt: skip
    values = {v.name: v for v in (*graph.inputs, *(v for op in found.ops for v in op.outputs))}
    readers: dict[str, set[int]] = {v.name: {-1} for v in graph.outputs}
    for number, (_, at) in enumerate(places):
        for name in (name for i in at for name in found.tasks[i].reads):
            readers.setdefault(name, set()).add(number)
    made = []
    for number, (device, at) in enumerate(places):
        ops = [found.ops[i] for i in at]
        own = {v.name for op in ops for v in op.outputs}
        inputs = dict.fromkeys(name for i in at for name in found.tasks[i].reads if name not in own)
        outputs = [v.name for op in ops for v in op.outputs if readers.get(v.name, set()) - {number}]
        name = f"segment_{number}_{device}"
        made.append(_segment(graph, name, device, ops, [values[n] for n in inputs], [values[n] for n in outputs],
                             costs, target))  # fmt: skip
    segments = tuple(segment for segment, _ in made)
    notes = [note for _, notes in made for note in notes]
    notes += [_told(found, island) for island in islands]
    return Split(segments, tuple(graph.inputs), tuple(graph.outputs),
                 tuple(crossings(found.tasks, places, found.sizes)), tuple(islands), costs, tuple(notes))  # fmt: skip


def _told(found: _Tasks, island: Island) -> Finding:
    ops = [found.ops[i] for i in island.tasks]
    kinds = ", ".join(dict.fromkeys(op.kind for op in ops[:12]))
    many = f"{len(ops)} op{'s' * (len(ops) != 1)}"
    return Finding(
        "PT754", "note",
        f"{many} that the accelerator runs stay on the host ({kinds}): it would save {island.gain * 1e6:.3g} us, and "
        f"the way there and back ({island.bytes} bytes) costs {island.cost * 1e6:.3g} us",
        ops[0].origin,
    )  # fmt: skip


def _segment(
    graph: Graph,
    name: str,
    device: Device,
    ops: Sequence[Op],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    costs: Costs,
    target: Target,
) -> tuple[Segment, list[Finding]]:
    part, notes = _part(graph, name, inputs, outputs)
    price = costs.prices.ops(ops)
    if device == "accelerator":
        wanted = nearest_opset(part, target)  # the whole may have had no form there, for what the host runs now
        if wanted is not None:
            part = part.at_opset(wanted)[0] or part
        left = check(part, target)
        if not left.ok:
            notes += [
                Finding(f.code, "error", f"{name}: {f.message}", f.origin, f.fix) for f in left.findings
                if f.severity != "note"
            ]  # fmt: skip
        return Segment(name, device, part, tuple(ops), price.macs, price.seconds), notes
    from porter.emit.numpy_code import Inexpressible, write

    try:
        ends = [v.name for v in inputs], [v.name for v in outputs]
        source = write(graph, *ends, f"The host's part of {graph.source}: {name}.")
        return Segment(name, device, part, tuple(ops), price.macs, 0.0, source), notes
    except Inexpressible as why:
        return Segment(name, device, part, tuple(ops), price.macs, 0.0, None, str(why)), notes


def _part(graph: Graph, name: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> tuple[Graph, list[Finding]]:
    """The segment's graph: nodes of an ONNX model as they are; ops of a torch model in ONNX where they all have a form
    there, else as a program of torch."""
    ins, outs = [v.name for v in inputs], [v.name for v in outputs]
    if graph.dialect == "onnx":
        return graph.part(ins, outs), []
    from porter.dialects.onnx import OnnxGraph

    try:
        needed = ops_between(graph, ins, outs)
        return OnnxGraph.from_ops(needed, inputs, outputs, f"{graph.source}, {name}"), []
    except PorterError as why:
        note = Finding("PT755", "note", f"{name} is written as a program of torch (.pt2): {why.message}",
                       fix="torch is needed where it runs.")  # fmt: skip
        return graph.part(ins, outs), [note]


def prove(
    whole: Graph, made: Split, inputs: Iterable[Sequence[Array]], tolerance: float, *, numpy: bool = False
) -> Evidence:
    """The pipeline beside the model, output by output.

    Args:
        whole: the original.
        inputs: one list of arrays for each run.
        tolerance: as a share of each output's range.
        numpy: run host segments as numpy code where they have that form.
    """
    pipeline = made.pipeline(numpy)
    evidence = Evidence([TensorError(v.name) for v in whole.outputs], tolerance=tolerance)
    names = [v.name for v in made.outputs]
    for item in inputs:
        evidence.inputs += 1
        got = pipeline.run(dict(zip((v.name for v in whole.inputs), item, strict=True)))
        for error, name, want in zip(evidence.outputs, names, whole.run(item), strict=True):
            _add(error, want, got[name])
    return evidence


def prove_parts(
    whole: Graph, made: Split, inputs: Iterable[Sequence[Array]], tolerance: float, *, numpy: bool = False
) -> Evidence | None:
    """Each segment by itself: given the original's own tensors, it makes the original's own tensors.

    What selects by thresholds and ranks can turn a rounding into another selection, so that equal parts in a row need
    not give equal outputs. The arguments are those of :func:`prove`.

    Returns:
        The comparison of every tensor that a segment gives; None where one of them is not in the original.
    """
    known = {v.name for op in whole.ops() for v in op.outputs} | {v.name for v in whole.inputs}
    ends = {v.name: v for segment in made.segments for v in (*segment.graph.inputs, *segment.graph.outputs)}
    if not known.issuperset(ends):
        return None
    evidence = Evidence([], tolerance=tolerance)
    errors: dict[str, TensorError] = {}
    runners = made.runners(numpy)
    for item in inputs:
        evidence.inputs += 1
        values = dict(zip((v.name for v in whole.inputs), item, strict=True))
        taps = [name for name in ends if name not in values]
        values.update(zip(taps, whole.run(item, taps)[len(whole.outputs) :], strict=True))
        for segment in made.segments:
            got = runners[segment.name]({}, {v.name: values[v.name] for v in segment.graph.inputs})
            for name, array in got.items():
                _add(errors.setdefault(name, TensorError(name)), values[name], array)
    evidence.outputs.extend(errors.values())
    return evidence


def _add(error: TensorError, want: Array, got: Array) -> None:
    try:
        error.add(want, got)
    except ValueError:  # another number of detections
        error.equal = False
        error.mismatched += max(want.size, np.asarray(got).size, 1)
