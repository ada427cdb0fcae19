# SPDX-License-Identifier: Apache-2.0
"""What a model costs: multiply-accumulates, parameters and bytes of every op, and the time that follows from them.

Two kinds of latency, never mixed up: an *estimate* is the roofline of each op (Williams, Waterman and Patterson,
"Roofline", CACM 52(4), 2009: the larger of its arithmetic at the peak rate and its traffic at the memory bandwidth),
summed over the ops in order; a *measurement* is onnxruntime on this machine. An estimate knows nothing of fusion,
caches or scheduling, so it is a bound and an order, not a promise; :func:`rank_correlation` says how well it orders.

One multiply-accumulate (MAC) is two operations of a vendor's TOPS. A batch norm right behind the convolution that only
it reads costs nothing, since every runtime folds it; ops that only rename elements (reshape) cost nothing either.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from porter.errors import PorterError
from porter.graph import Graph
from porter.ops import Array, Op, Value, numpy_dtype
from porter.target import Target

__all__ = [
    "Cost", "Count", "Estimate", "Measured", "Rates", "compare", "count", "count_op", "estimate", "host_rates",
    "measure", "peak_activation_bytes", "rank_correlation", "tensor_bytes",
]  # fmt: skip

#: Seconds that a timing takes at least.
_LEAST = 0.5
#: Ops that give their input's elements another shape or name: no arithmetic, no traffic.
_FREE = frozenset({"identity", "reshape", "flatten", "squeeze", "unsqueeze", "shape", "size"})
#: Ops whose arithmetic is not counted here: a recurrent layer's depends on the dialect's form of it.
_UNCOUNTED = frozenset({"lstm", "gru", "rnn", "if", "loop", "scan"})
#: The operands that are learned, by their place. A batch norm's statistics are not.
_LEARNED: dict[str, tuple[int, ...]] = {
    **{f"{kind}{rank}d": (1, 2) for kind in ("conv", "conv_transpose") for rank in (1, 2, 3)},
    **dict.fromkeys(("linear", "batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm"), (1, 2)),
    "prelu": (1,),
    "embedding": (0,),
    "gemm": (1, 2),
    "matmul": (0, 1),
}


# -- counting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Count:
    """What one op computes and moves.

    ``macs``: multiply-accumulates; ``params``: learned elements (a tensor that several ops read is counted at the
    first); ``weights``: elements of all its constant operands; ``weight_bytes`` and ``activation_bytes``: constants
    read, and other operands read and results written, in the tensors' own dtypes. ``free``: it costs no time.
    """

    op: Op
    macs: int
    params: int
    weights: int
    weight_bytes: int
    activation_bytes: int
    free: bool

    @property
    def path(self) -> str:
        """Where the op comes from: its module, or its own name."""
        return self.op.origin.module or self.op.name or self.op.outputs[0].name


def count(graph: Graph) -> list[Count]:
    """Every op of a graph in order, counted. Values whose shape depends on data count as nothing."""
    folded = _folded_norms(graph)
    seen: set[str] = set()
    counts = []
    for op in graph.ops():
        name = op.outputs[0].name
        free = op.kind in _FREE or name in folded or all(v.is_const for v in op.operands)
        learned = 0
        for place in _LEARNED.get(op.kind, ()):
            value = op.inputs[place] if place < len(op.inputs) else None
            if value is not None and value.is_const and value.name not in seen:
                seen.add(value.name)
                learned += _elements(value)
        counts.append(count_op(op, learned, free))
    return counts


def count_op(op: Op, params: int = 0, free: bool | None = None) -> Count:
    """One op by itself; ``free`` where the caller knows better than its kind."""
    if free is None:
        free = op.kind in _FREE or all(v.is_const for v in op.operands)
    constants = [v for v in op.operands if v.is_const]
    return Count(
        op,
        _macs(op),
        params,
        sum(map(_elements, constants)),
        0 if free else sum(map(tensor_bytes, constants)),
        0 if free else sum(tensor_bytes(v) for v in (*op.operands, *op.outputs) if not v.is_const),
        free,
    )


def _folded_norms(graph: Graph) -> set[str]:
    """The first outputs of the batch norms that a runtime folds into the convolution before them."""
    producers, uses = graph.producers(), graph.uses()
    found = set()
    for op in graph.ops():
        source = producers.get(op.inputs[0].name) if op.kind == "batch_norm" and op.inputs[0] is not None else None
        if source is not None and source.kind.startswith("conv") and uses[source.outputs[0].name] == 1:
            weight = source.inputs[1]
            if weight is not None and weight.is_const:
                found.add(op.outputs[0].name)
    return found


def _macs(op: Op) -> int:
    out = _elements(op.outputs[0])
    shapes = [v.shape if v is not None else None for v in op.inputs]
    kind = op.kind
    if kind in ("conv1d", "conv2d", "conv3d"):
        return out * prod(shapes[1][1:]) if shapes[1] else 0
    if kind.startswith("conv_transpose"):
        return prod(shapes[0]) * prod(shapes[1][1:]) if shapes[0] and shapes[1] else 0
    if kind == "linear":
        return out * shapes[1][1] if shapes[1] else 0
    if kind == "gemm":
        return out * shapes[0][0 if op.attrs["trans_a"] else 1] if shapes[0] else 0
    if kind == "matmul":
        return out * shapes[0][-1] if shapes[0] else 0
    if kind == "attention" and shapes[0] and shapes[1] and shapes[2]:
        return prod(shapes[0][:-1]) * shapes[1][-2] * (shapes[0][-1] + shapes[2][-1])
    if kind == "einsum" and len(shapes) > 1 and all(s is not None for s in shapes):
        return _einsum(str(op.attrs["equation"]), [s for s in shapes if s is not None])
    return 0


def _einsum(equation: str, shapes: Sequence[tuple[int, ...]]) -> int:
    """One MAC for each combination of the labels (the direct evaluation); an ellipsis is not counted."""
    if "..." in equation:
        return 0
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    extents: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        extents.update(zip(term, shape, strict=True))
    return prod(extents.values())


def _elements(value: Value) -> int:
    return prod(value.shape) if value.shape is not None else 0


def tensor_bytes(value: Value) -> int:
    """The size of a tensor in its own dtype; 0 where its shape depends on data."""
    if value.dtype is None:
        return 4 * _elements(value)
    try:
        return _elements(value) * numpy_dtype(value.dtype).itemsize
    except TypeError:  # a type of no fixed size, such as ONNX's strings
        return 8 * _elements(value)


def peak_activation_bytes(graph: Graph) -> int:
    """The most bytes that inputs and intermediate values take at once, when ops run in their order and each value is
    kept until its last reader. Ops that only rename share their input's memory."""
    root: dict[str, Value] = {v.name: v for v in graph.inputs}
    last: dict[str, int] = {}
    ops = graph.ops()
    for i, op in enumerate(ops):
        source = root.get(op.inputs[0].name) if op.kind in _FREE and op.inputs and op.inputs[0] is not None else None
        root.update((out.name, source or out) for out in op.outputs)
        for value in op.operands:
            if value.name in root:
                last[root[value.name].name] = i
    for value in graph.outputs:
        if value.name in root:
            last[root[value.name].name] = len(ops)
    live = {v.name: tensor_bytes(v) for v in graph.inputs}
    peak = sum(live.values())
    for i, op in enumerate(ops):
        for out in op.outputs:
            if root[out.name] is out and not all(v.is_const for v in op.operands):
                live[out.name] = tensor_bytes(out)
        peak = max(peak, sum(live.values()))
        for name in [name for name in live if last.get(name, i) <= i]:
            del live[name]
    return peak


# -- estimating ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rates:
    """What a roofline needs of a device.

    ``macs``: multiply-accumulates a second at ``dtype``; ``bandwidth``: bytes a second (0: not known, the estimate is
    then compute only); ``overhead``: seconds for each op that is not free. ``quantizes`` says whose weights are held in
    ``dtype``; ``notes`` what was assumed.
    """

    name: str
    dtype: str
    macs: float
    bandwidth: float
    overhead: float = 0.0
    quantizes: Callable[[Op], bool] | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of_target(cls, target: Target, dtype: str) -> Rates:
        """The rates that a target's file gives, measured ones before nominal ones.

        Raises:
            PorterError: PT622 when the file gives none for ``dtype``.
        """
        performance = target.performance
        notes = []
        rates = {**performance.tops, **performance.measured_tops}
        tops = rates.get(dtype)
        if tops is None and dtype == "int16" and "int8" in rates:
            tops = rates["int8"] / 2
            notes.append(f"{target.name}'s file has no rate for int16: half of int8's is assumed")
        if not tops:
            have = ", ".join(rates) or "none"
            raise PorterError(
                "PT622", f"{target.name}'s file gives no rate for {dtype} (it has: {have}), so there is no estimate",
                f"{target.path}: [performance]",
                "Choose another --dtype, measure instead (--latency-from measured), or put the rate into a target file "
                "of your own that extends this one.",
            )  # fmt: skip
        if not performance.bandwidth_gbs:
            notes.append(f"{target.name}'s file has no memory bandwidth: the estimate is of arithmetic only")
        quantizes = target.quantization.quantizes if target.quantization is not None else None
        return cls(
            f"{target.name} at {dtype}", dtype, tops * 1e12 / 2, performance.bandwidth_gbs * 1e9, 0.0, quantizes,
            tuple(notes),
        )  # fmt: skip

    def seconds(self, counted: Count) -> tuple[float, str]:
        """The time of one op, and what bounds it: "compute", "memory" or "" where it costs nothing."""
        if counted.free:
            return 0.0, ""
        compute = counted.macs / self.macs
        moved = counted.activation_bytes + self.weight_bytes(counted)
        memory = moved / self.bandwidth if self.bandwidth else 0.0
        return max(compute, memory) + self.overhead, "compute" if compute > memory else "memory"

    def weight_bytes(self, counted: Count) -> int:
        """The bytes of the constants that an op reads, at the dtype that the device holds them in."""
        if self.quantizes is not None and self.dtype.startswith("int") and self.quantizes(counted.op):
            return counted.weights * numpy_dtype(self.dtype).itemsize
        return counted.weight_bytes


@dataclass(frozen=True, slots=True)
class Cost:
    """One line of an estimate: an op with its share of everything."""

    path: str
    kind: str
    macs: int
    params: int
    weight_bytes: int
    activation_bytes: int
    seconds: float
    bound: str

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A model's cost op by op, and in total.

    ``weight_bytes`` is the size of the weights on the device; ``peak_bytes`` is :func:`peak_activation_bytes`;
    ``memory_bytes`` both together. ``uncounted``: kinds whose arithmetic is missing.
    """

    model: str
    rates: Rates
    costs: tuple[Cost, ...]
    peak_bytes: int
    uncounted: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        return sum(cost.macs for cost in self.costs)

    @property
    def params(self) -> int:
        return sum(cost.params for cost in self.costs)

    @property
    def weight_bytes(self) -> int:
        return sum(cost.weight_bytes for cost in self.costs)

    @property
    def memory_bytes(self) -> int:
        return self.weight_bytes + self.peak_bytes

    @property
    def milliseconds(self) -> float:
        return 1e3 * sum(cost.seconds for cost in self.costs)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "rates": self.rates.name,
            "notes": list(self.rates.notes),
            "milliseconds": self.milliseconds,
            "macs": self.macs,
            "params": self.params,
            "weight_bytes": self.weight_bytes,
            "peak_activation_bytes": self.peak_bytes,
            "uncounted": list(self.uncounted),
            "ops": [cost.to_json() for cost in self.costs],
        }


def estimate(graph: Graph, rates: Rates) -> Estimate:
    """The roofline of a graph at the rates of a device, batch as the graph has it."""
    costs = []
    for counted in count(graph):
        seconds, bound = rates.seconds(counted)
        costs.append(
            Cost(counted.path, counted.op.kind, counted.macs, counted.params,
                 0 if counted.free else rates.weight_bytes(counted), counted.activation_bytes, seconds, bound)
        )  # fmt: skip
    uncounted = tuple(sorted({cost.kind for cost in costs} & _UNCOUNTED))
    return Estimate(graph.source, rates, tuple(costs), peak_activation_bytes(graph), uncounted)


# -- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measured:
    """The latency of one input, in milliseconds, on ``machine``.

    ``milliseconds`` is the fastest of ``runs``, which is what the machine can do; the slower ones tell more of whatever
    else was running (the advice of Python's timeit). ``median`` and ``high``, the ninth decile, say how much that was.
    """

    milliseconds: float
    median: float
    high: float
    runs: int
    machine: str

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def measure(graph: Graph, *, threads: int = 1, runs: int = 30, budget: float = 5.0, seed: int = 0) -> Measured:
    """Run a graph by onnxruntime on this machine's processor, its own optimizations on, and time it.

    Args:
        graph: any dialect; torch graphs are lowered to ONNX.
        threads: of onnxruntime, within one op.
        runs: how many are timed at least, after three that are not, and for no less than half a second, since another
            process at work for a moment must not decide.
        budget: seconds; when they are spent the timing stops, after at least five runs.
        seed: of the random inputs.

    Raises:
        PorterError: PT351 or PT353 when the graph has no ONNX form, or onnxruntime does not run it.
    """
    from porter.data import random_inputs
    from porter.dialects.onnx import OnnxGraph

    model = graph if isinstance(graph, OnnxGraph) else OnnxGraph.from_graph(graph)
    feeds = {v.name: a for v, a in zip(model.inputs, random_inputs(model.inputs, 1, seed)[0], strict=True)}
    with tempfile.TemporaryDirectory(prefix="porter-latency-") as folder:
        path = Path(folder) / "model.onnx"
        model.save(path)
        seconds = _time(str(path), feeds, threads, runs, budget, graph.source)
    deciles = statistics.quantiles(seconds, n=10)
    return Measured(
        1e3 * min(seconds), 1e3 * statistics.median(seconds), 1e3 * deciles[-1], len(seconds), machine(threads)
    )


def machine(threads: int) -> str:
    """This processor, onnxruntime's version and the number of threads, for a report."""
    import onnxruntime

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = (line.partition(":") for line in info.read_text(encoding="utf-8", errors="replace").splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    return f"{name}, onnxruntime {onnxruntime.__version__}, {threads} thread{'s' if threads > 1 else ''}"


def _time(
    model: str | bytes, feeds: Mapping[str, Array], threads: int, runs: int, budget: float, source: str
) -> list[float]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(3):
            session.run(None, dict(feeds))
        seconds: list[float] = []
        begin = time.perf_counter()
        while len(seconds) < 5 or (
            (spent := time.perf_counter() - begin) < budget and (len(seconds) < runs or spent < _LEAST)
        ):
            start = time.perf_counter()
            session.run(None, dict(feeds))
            seconds.append(time.perf_counter() - start)
    except Exception as error:  # onnxruntime has a class of its own for each status, below Exception
        first = str(error).strip().splitlines()[0]
        raise PorterError("PT353", f"onnxruntime does not run {source}: {first}") from error
    return seconds


def host_rates(threads: int = 1) -> Rates:
    """This machine's own rates under onnxruntime in float32, measured in about a second: the arithmetic of a
    convolution (64 channels, 3 x 3), the traffic of an addition too large for a cache, the overhead of a small op."""
    x = np.zeros((1, 64, 56, 56), np.float32)
    w = np.zeros((64, 64, 3, 3), np.float32)
    conv = _fastest("Conv", (x,), (w,), threads, pads=[1, 1, 1, 1])
    big = np.zeros(8 << 20, np.float32)
    add = _fastest("Add", (big, big), (), threads)
    chain = 200
    small = _fastest("Neg", (np.zeros((1, 16), np.float32),), (), threads, repeat=chain)
    return Rates(
        f"this host ({machine(threads)})", "float32", 64 * 64 * 9 * 56 * 56 / conv, 3 * big.nbytes / add, small / chain
    )


def _fastest(
    kind: str, inputs: Sequence[Array], constants: Sequence[Array], threads: int, repeat: int = 1, **attributes: Any
) -> float:
    """Seconds of the fastest run of a model of one op, ``repeat`` times one behind the other."""
    from onnx import TensorProto, helper, numpy_helper

    names = [f"x{i}" for i in range(len(inputs))]
    weights = [numpy_helper.from_array(a, f"w{i}") for i, a in enumerate(constants)]
    nodes = []
    source = [*names, *(w.name for w in weights)]
    for i in range(repeat):
        nodes.append(helper.make_node(kind, source, [f"y{i}"], **attributes))
        source = [f"y{i}"]
    graph = helper.make_graph(
        nodes, kind,
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in zip(names, inputs, strict=True)],
        [helper.make_tensor_value_info(source[0], TensorProto.FLOAT, None)],
        weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    feeds = dict(zip(names, inputs, strict=True))
    return min(_time(model.SerializeToString(), feeds, threads, 20, 0.4, kind))


# -- comparing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Compared:
    """Models with both latencies, and how alike the two order them (None for fewer than three models)."""

    rows: tuple[tuple[Estimate, Measured], ...]

    @property
    def correlation(self) -> float | None:
        return rank_correlation([e.milliseconds for e, _ in self.rows], [m.milliseconds for _, m in self.rows])

    def to_json(self) -> dict[str, Any]:
        return {
            "models": [{**e.to_json(), "measured": m.to_json()} for e, m in self.rows],
            "rank_correlation": self.correlation,
        }


def compare(graphs: Mapping[str, Graph], rates: Rates, threads: int = 1) -> Compared:
    """Estimate every graph at ``rates`` and measure it on this machine; the keys are what the rows call them."""
    return Compared(
        tuple(
            (replace(estimate(graph, rates), model=name), measure(graph, threads=threads))
            for name, graph in graphs.items()
        )
    )


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rho of two equally long sequences, ties given their mean rank: 1 the same order, -1 the reverse.

    None when there are fewer than three values, or one of the sequences has a single value throughout.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values against {len(second)}")
    a, b = _ranks(first), _ranks(second)
    if len(a) < 3 or not a.std() or not b.std():
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: Sequence[float]) -> Array:
    array = np.asarray(values, np.float64)
    lower = (array[None] < array[:, None]).sum(1)
    equal = (array[None] == array[:, None]).sum(1)
    ranks: Array = lower + (equal + 1) / 2
    return ranks
