# SPDX-License-Identifier: Apache-2.0
"""Post-training static quantization: calibrate a float graph, simulate the quantized one, say how good it is.

The engine knows no framework. It runs a :class:`~porter.graph.Graph` on samples, watches the values that
enter the ops which the target computes in integers, and puts ``quantize`` and ``dequantize`` ops around them.
Everything that depends on the device (which ops, which formula, which axis) comes from the target's
``[quantization]``.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import numpy as np

from porter.data import Data, Preprocess, open_data
from porter.errors import PorterError
from porter.findings import Finding, Severity
from porter.graph import Graph
from porter.ops import Array, Op, Origin, Value
from porter.paths import module_paths
from porter.quantize.encodings import Encoding, Encodings, Layer, weight_digest
from porter.quantize.numerics import BITS, Dtype, Rounding, ScaleRule, conv2d_float, qrange
from porter.quantize.observers import MinMax, NotFiniteError, Observer, make_observer
from porter.quantize.report import Columns, LayerReport, OutputReport, QuantizationReport, column_axis
from porter.rewrite import Fragment
from porter.target import Quantization, Target
from porter.verify import TensorError

__all__ = ["FirstConvolution", "Quantized", "insert", "quantize"]

Progress = Callable[[int, int], None]

#: Bytes of tapped values that one run of a model may return; more are fetched in several runs of the same
#: sample.
_TAP_BYTES = 2**30
#: Kinds that move values without changing any: what joins behind them shares the scale of what comes out.
_MOVES = frozenset({"reshape", "flatten", "permute", "squeeze", "unsqueeze", "identity", "expand", "repeat", "pad"})
#: With fewer steps than this for its whole range, a joined tensor has lost what it says.
_LEVELS = 8
#: The activations of a first batch norm differ from its training statistics by more than this only on wrong
#: inputs.
_UNLIKE_TRAINING = 20.0
#: One sample this many times larger than the typical one leaves the others a few of 127 steps.
_OUTLIER = 10.0
#: A layer with an SQNR under this has an error of more than 30 % of its output, all by itself.
_WEAK_DB = 10.0


@dataclass(frozen=True, slots=True)
class FirstConvolution:
    """A first convolution that normalizes raw 0..255 pixels itself: its path, and mean and std in pixel
    units, (C,).
    """

    path: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(slots=True)
class Quantized:
    """What :func:`quantize` made.

    ``graph`` is the simulation: the same model, same dialect, with quantize/dequantize ops; ``original`` the float
    model; ``report`` holds the findings. ``preprocess`` is the spec of the calibration images, where there was one.
    """

    graph: Graph
    original: Graph
    target: Target
    encodings: Encodings
    report: QuantizationReport
    first_conv: FirstConvolution | None = None
    preprocess: Preprocess | None = None

    @property
    def findings(self) -> list[Finding]:
        return self.report.findings

    @property
    def ok(self) -> bool:
        """No finding is an error."""
        return self.report.ok

    def state_dict(self, float_state: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """The device's state dict; see :func:`porter.quantize.writers.cambricon_state_dict`."""
        from porter.quantize.writers import cambricon_state_dict

        return cambricon_state_dict(self, float_state)

    def save(self, out: str | Path, *, overwrite: bool = False) -> Path:
        """Make the folder ``out`` with everything in it; see :func:`porter.quantize.writers.write_all`.

        Raises:
            PorterError: PT510 to PT512 when it cannot be written; nothing is left behind then.
        """
        from porter.files import atomic_dir
        from porter.quantize.writers import write_all

        path = Path(out)
        with atomic_dir(path, overwrite) as folder:
            write_all(self, folder)
        return path


@dataclass(slots=True)
class _Site:
    """One op with quantized operands."""

    op: Op
    path: str
    quantized: bool

    @property
    def input(self) -> Value:
        return cast(Value, self.op.inputs[0])

    @property
    def weight(self) -> Value:
        return cast(Value, self.op.inputs[1])

    @property
    def output(self) -> Value:
        return self.op.outputs[0]


@dataclass(slots=True)
class _Join:
    """A concatenation whose parts end up under one scale: in the input of ``site``, or (None) in output
    ``value``.
    """

    value: Value
    cat: Op
    parts: list[Value]
    site: _Site | None


def quantize(
    graph: Graph,
    target: Target,
    dtype: str = "int16",
    data: Data | Iterable[Any] = (),
    *,
    observer: str = "min_max",
    scale_rule: ScaleRule = "absmax",
    per_channel: bool = False,
    first_conv: bool = False,
    skip: Sequence[str] = (),
    compare: int = 4,
    column_axes: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Calibrate a float graph that is legal for the target, and simulate it quantized.

    Args:
        graph: float32, static shapes; it is not changed.
        target: its ``[quantization]`` says which ops are quantized, and how.
        dtype: ``"int16"`` or ``"int8"``, of inputs and weights alike.
        data: samples (:func:`porter.data.open_data`).
        observer: of activations, with its settings: ``min_max``, ``percentile(99.9)``; see
            :func:`porter.quantize.observers.make_observer`. Weights take their extremes.
        scale_rule: ``absmax`` (step absmax / qmax), or ``power_of_two`` (step 2**position, Cambricon's
            position-only form).
        per_channel: one weight scale an output channel.
        first_conv: the device normalizes pixels in its first convolution; the data must say how (a
            preprocessing spec).
        skip: module paths or patterns (``head.*``) of layers that stay in float.
        compare: samples on which the report compares float and quantized.
        column_axes: for an output's name, the axis whose indices are scored apart; default
            :func:`porter.quantize.report.column_axis`.
        progress: called with (done, total) runs.

    Raises:
        PorterError: PT401 to PT404 the data; PT407 NaN or infinity inside the model; PT408 the observer;
            PT414 a skip pattern that matches nothing; PT415 nothing to quantize; PT416 what the target does
            not do; PT418 first_conv.
    """
    how = _scheme(target, dtype, per_channel)
    chosen = cast(Dtype, dtype)
    findings: list[Finding] = []
    sites = _sites(graph, target, how, skip, findings)
    make_observer(observer)  # a wrong name is an error before the data are read
    opened = data if isinstance(data, Data) else open_data(data, graph.inputs)
    first = _first_conv(graph, sites, how, chosen, opened.preprocess) if first_conv else None
    steps = _Steps(progress)
    calibration = _Calibration(graph, sites, observer)
    calibration.run(opened, steps, min(compare, len(opened)))
    findings += opened.findings
    encodings = Encodings(target.name, graph.source, chosen, how.rounding_of, len(opened))
    _encode(encodings, how, sites, calibration, scale_rule, per_channel, findings)
    simulated = insert(graph, encodings)
    report = QuantizationReport(
        target.name, graph.source, dtype, str(next(iter(calibration.observers.values()))), len(opened), 0
    )
    report.findings = findings
    findings += _unlike_training(calibration)
    findings += _outliers(calibration)
    findings += _conflicts(calibration, encodings, chosen, target)
    _compare(
        report, graph, simulated, sites, encodings, opened.take(compare) if compare else [], column_axes or {}, steps
    )
    findings += _judge_outputs(report)
    _notes(report, graph, target, how)
    return Quantized(simulated, graph, target, encodings, report, first, opened.preprocess)


# -- the target's scheme -----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Scheme:
    """What the engine needs of the target's ``[quantization]``, checked."""

    table: Quantization
    rounding_of: Rounding
    axis: int | None


def _scheme(target: Target, dtype: str, per_channel: bool) -> _Scheme:
    table = target.quantization
    if table is None:
        raise PorterError("PT416", f"{target.name} has no quantization", fix="Choose another target.")
    if dtype not in table.qmax or dtype not in BITS:
        known = ", ".join(name for name in table.qmax if name in BITS)
        raise PorterError("PT416", f"{target.name} does not quantize to {dtype}", fix=f"Choose one of {known}.")
    low, high = qrange(dtype)
    if not table.symmetric or (table.qmin.get(dtype), table.qmax[dtype]) != (low, high):
        raise PorterError(
            "PT416", f"{target.name} wants {table.scheme} {dtype} in {table.qmin.get(dtype)}..{table.qmax[dtype]}; "
            f"porter quantizes symmetrically to {low}..{high}",
        )  # fmt: skip
    if per_channel and table.per_channel_axis is None:
        raise PorterError("PT416", f"{target.name} has no per-channel weights", fix="Leave per_channel off.")
    return _Scheme(table, cast(Rounding, table.rounding), table.per_channel_axis if per_channel else None)


def _sites(graph: Graph, target: Target, how: _Scheme, skip: Sequence[str], findings: list[Finding]) -> list[_Site]:
    """The ops to be quantized, in topological order."""
    paths = module_paths(graph)
    sites, unused = [], set(skip)
    for op in graph.ops():
        if op.kind not in how.table.quantized_ops:
            continue
        path = paths.get(op.outputs[0].name)
        if path is None:
            findings.append(
                Finding("PT419", "warning", f"the weight of {op.kind} {op.name} is computed at run time",
                        op.origin, "Fold it to a constant first (porter rewrite).", op.name, op.kind)
            )  # fmt: skip
            continue
        matched = {pattern for pattern in skip if fnmatchcase(path, pattern) or pattern == op.name}
        unused -= matched
        if matched:
            findings.append(
                Finding("PT419", "warning", f"{path} was skipped; {target.name} runs {op.kind} only quantized",
                        op.origin, "Do not skip it.", op.name, op.kind)
            )  # fmt: skip
        sites.append(_Site(op, path, not matched and how.table.quantizes(op)))
    if unused:
        pattern = sorted(unused)[0]
        near = difflib.get_close_matches(pattern, [site.path for site in sites], n=1, cutoff=0.0)
        raise PorterError("PT414", f"no layer matches {pattern!r}", fix=f"Did you mean {near[0]}?" if near else None)
    if not sites:
        kinds = ", ".join(how.table.quantized_ops)
        raise PorterError("PT415", f"{graph.source} has no {kinds} with constant weights: nothing to quantize")
    for site in sites:
        if site.input.dtype != "float32" or site.weight.dtype != "float32":
            raise PorterError(
                "PT416", f"{site.path} computes in {site.input.dtype}, not float32", where=str(site.op.origin),
                fix="Quantize the float32 model; the device may still run the rest in float16.",
            )  # fmt: skip
    return sites


def _first_conv(
    graph: Graph, sites: list[_Site], how: _Scheme, dtype: Dtype, preprocess: Preprocess | None
) -> FirstConvolution:
    """The first convolution's normalization in pixel units: (p * scale - mean) / std = (p - mean / scale) /
    (std / scale).
    """
    limits = how.table.first_conv
    site = next((s for s in sites if s.op.kind == "conv2d"), None)
    reasons = []
    if limits is None:
        raise PorterError("PT416", "the target has no first convolution that normalizes", fix="Leave first_conv off.")
    if preprocess is None:
        reasons.append("the data have no preprocessing spec, which would give mean and standard deviation")
    if dtype != "int8":
        reasons.append(f"its weights are {dtype}, and it takes int8 only")
    if site is None or site.input.name not in {value.name for value in graph.inputs}:
        reasons.append("no convolution reads the model's input directly")
    else:
        channels, outputs = (site.input.shape or (0, 0))[1], (site.weight.shape or (0,))[0]
        width = (site.output.shape or (0,))[-1]
        if channels not in limits.in_channels:
            reasons.append(f"it has {channels} input channels, not one of {limits.in_channels}")
        if outputs > limits.max_out_channels:
            reasons.append(f"it has {outputs} output channels, more than {limits.max_out_channels}")
        if width < limits.min_out_width:
            reasons.append(f"its output is {width} wide, under {limits.min_out_width}")
        if not limits.dilation and any(d != 1 for d in site.op.attrs["dilation"]):
            reasons.append("it is dilated")
    if reasons or site is None or preprocess is None:
        where = None if site is None else f"{site.path} {site.op.origin}"
        raise PorterError(
            "PT418", "the first convolution cannot take raw pixels: " + "; ".join(reasons), where=where,
            fix="Leave first_conv off.",
        )  # fmt: skip
    channels = (site.input.shape or (0, 0))[1]
    mean = np.broadcast_to(np.asarray(preprocess.mean), (channels,)) / preprocess.scale
    std = np.broadcast_to(np.asarray(preprocess.std), (channels,)) / preprocess.scale
    return FirstConvolution(site.path, tuple(map(float, mean)), tuple(map(float, std)))


# ------------------------------------------------------------------------------------------------------
# calibration
class _Steps:
    """Counts runs for the progress callback."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._done, self.total = progress, 0, 0

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, max(self.total, self._done))


class _Taps:
    """Runs a graph on one sample after another and hands out named values; one sample in memory at a time."""

    def __init__(self, graph: Graph, values: Iterable[Value]) -> None:
        self._graph = graph
        inputs = {value.name for value in graph.inputs}
        unique = {value.name: value for value in values}
        self._inputs = [name for name in unique if name in inputs]
        self._constants = {name: value for name, value in unique.items() if value.is_const}
        self._groups: list[list[str]] = [[]]
        size = 0
        for name, value in unique.items():
            if name in inputs or value.is_const:
                continue
            nbytes = 4 * math.prod(value.shape or (1,))
            if self._groups[-1] and size + nbytes > _TAP_BYTES:
                self._groups.append([])
                size = 0
            self._groups[-1].append(name)
            size += nbytes

    def __call__(self, item: Sequence[Array]) -> Iterator[tuple[list[Array], dict[str, Array]]]:
        """(outputs, values) for each group of taps. The first group also has the graph inputs and constants
        among the taps.
        """
        fed = {value.name: array for value, array in zip(self._graph.inputs, item, strict=True)}
        extra = {name: fed[name] for name in self._inputs}
        extra.update({name: value.numpy() for name, value in self._constants.items()})
        for group in self._groups:
            results = self._graph.run(item, group)
            split = len(results) - len(group)
            yield results[:split], {**extra, **dict(zip(group, results[split:], strict=True))}
            extra = {}


@dataclass(slots=True)
class _Calibration:
    """Streams the data through the float graph and observes."""

    graph: Graph
    sites: list[_Site]
    observer: str
    observers: dict[str, Observer] = field(init=False)
    joins: list[_Join] = field(init=False)
    parts: dict[str, MinMax] = field(init=False)
    sizes: dict[str, _Size] = field(init=False)
    norm: Op | None = field(init=False)
    norm_ratio: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        names = dict.fromkeys(site.input.name for site in self.sites)
        self.observers = {name: make_observer(self.observer) for name in names}
        self.sizes = {name: _Size() for name in names}
        self.joins = _joins(self.graph, self.sites)
        self.parts = {part.name: MinMax() for join in self.joins for part in join.parts}
        self.norm = next((op for op in self.graph.ops() if _trained_norm(op)), None)

    def run(self, data: Data, steps: _Steps, compared: int) -> None:
        values = [site.input for site in self.sites] + [part for join in self.joins for part in join.parts]
        if self.norm is not None:
            values.append(cast(Value, self.norm.inputs[0]))
        taps = _Taps(self.graph, values)
        passes = next(iter(self.observers.values())).passes
        steps.total = passes * len(data) + compared
        spread = _Spread()
        for number in range(passes):
            if number:
                for observer in self.observers.values():
                    observer.next_pass()
            for item in data:
                for _, values_of in taps(item):
                    self._observe(values_of, item, spread if number == 0 else None)
                steps()
        if self.norm is not None:
            self.norm_ratio = spread.ratio(self.norm)

    def _observe(self, values: dict[str, Array], item: Sequence[Array], spread: _Spread | None) -> None:
        for name, array in values.items():
            if name in self.observers:
                try:
                    low, high = self.observers[name].observe(array)
                except NotFiniteError as error:
                    raise self._blame(name, item, str(error)) from error
                if spread is not None:
                    self.sizes[name].add(max(high, -low))
            if name in self.parts and spread is not None and np.isfinite(array).all():
                self.parts[name].observe(array)
            if self.norm is not None and spread is not None and name == cast(Value, self.norm.inputs[0]).name:
                spread.add(array)

    def _blame(self, name: str, item: Sequence[Array], what: str) -> PorterError:
        """Name the layer that reads the value, and the first op of the model that makes something not
        finite.
        """
        reader = next(site for site in self.sites if site.input.name == name)
        floats = [out for op in self.graph.ops() for out in op.outputs if (out.dtype or "").startswith("float")]
        producers = self.graph.producers()
        first: Op | None = None
        for _, values in _Taps(self.graph, floats)(item):
            bad = next((n for n, array in values.items() if not np.isfinite(array).all()), None)
            if bad is not None:
                first = producers[bad]
                break
        source = f"; the first to make one is {first.kind} {first.name}" if first is not None else ""
        origin = first.origin if first is not None else reader.op.origin
        return PorterError(
            "PT407",
            f"the input of layer {reader.path} ({name}): {what}{source}",
            where=str(origin),
            fix="Run the float model on this sample, and check its weights.",
        )


@dataclass(slots=True)
class _Size:
    """How large one value is from sample to sample: the typical (geometric mean) and the largest absmax."""

    count: int = 0
    logs: float = 0.0
    top: float = 0.0
    top_at: int = 0

    def add(self, absmax: float) -> None:
        self.logs += math.log(max(absmax, 1e-30))
        if absmax > self.top:
            self.top, self.top_at = absmax, self.count
        self.count += 1

    @property
    def ratio(self) -> float:
        """The largest sample as a multiple of the typical one."""
        return self.top / math.exp(self.logs / self.count) if self.count and self.top > 0 else 1.0


def _outliers(calibration: _Calibration) -> list[Finding]:
    """A finding where one sample decides the scale of layers in which all others are far smaller."""
    found = []
    for site in calibration.sites:
        if site.quantized and calibration.sizes[site.input.name].ratio > _OUTLIER:
            found.append(site)
    if not found:
        return []
    worst = max(found, key=lambda site: calibration.sizes[site.input.name].ratio)
    size = calibration.sizes[worst.input.name]
    return [
        Finding(
            "PT406", "warning",
            f"in {len(found)} layers a few samples are far larger than typical and decide the scale; the worst: "
            f"sample {size.top_at} reaches {size.top:.4g} in the input of {worst.path}, {size.ratio:.3g} times typical",
            worst.op.origin,
            "Look at that sample. If it belongs, choose an observer that outweighs it, such as min_max(use_avg).",
            worst.op.name, worst.op.kind,
        )
    ]  # fmt: skip


def _trained_norm(op: Op) -> bool:
    if op.kind != "batch_norm" or len(op.inputs) < 5:
        return False
    return all(value is not None and value.is_const for value in op.inputs[3:5])


class _Spread:
    """Mean square deviation of each channel (axis 1), streaming."""

    def __init__(self) -> None:
        self._count, self._sum, self._square = 0, np.zeros(()), np.zeros(())

    def add(self, x: Array) -> None:
        axes = tuple(i for i in range(x.ndim) if i != 1)
        wide = x.astype(np.float64)
        self._count += x.size // x.shape[1]
        self._sum = self._sum + wide.sum(axes)
        self._square = self._square + (wide * wide).sum(axes)

    def ratio(self, norm: Op) -> float | None:
        """The median over channels of the deviation seen, as a multiple of the one in training."""
        trained = cast(Value, norm.inputs[4]).numpy().astype(np.float64)
        mean = self._sum / self._count
        seen = np.sqrt(np.maximum(self._square / self._count - mean**2, 0))
        alive = trained > 1e-12
        return float(np.median(seen[alive] / np.sqrt(trained[alive]))) if alive.any() else None


def _unlike_training(calibration: _Calibration) -> list[Finding]:
    ratio, norm = calibration.norm_ratio, calibration.norm
    if norm is None or ratio is None or 1 / _UNLIKE_TRAINING < ratio < _UNLIKE_TRAINING:
        return []
    much = f"{ratio:.3g} times as wide as" if ratio > 1 else f"narrower by {1 / max(ratio, 1e-30):.3g} than"
    return [
        Finding(
            "PT406", "warning",
            f"what enters the first batch norm is {much} in training: are the samples 0..255 and the model's "
            "inputs 0..1, or the other way round?",
            norm.origin, "Compare the preprocessing with the training code.", norm.name, norm.kind,
        )
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------- range
# conflicts
def _joins(graph: Graph, sites: list[_Site]) -> list[_Join]:
    """Every concatenation that reaches a quantized input or an output with nothing but moves in between."""
    producers = graph.producers()

    def behind(value: Value) -> Op | None:
        op = producers.get(value.name)
        while op is not None and op.kind in _MOVES:
            op = producers.get(op.operands[0].name)
        return op if op is not None and op.kind in ("cat", "stack") else None

    def parts(op: Op) -> Iterator[Value]:
        for value in op.operands:
            inner = behind(value)
            if inner is None:
                yield value
            else:
                yield from parts(inner)

    found = []
    ends: list[tuple[Value, _Site | None]] = [(site.input, site) for site in sites if site.quantized]
    ends += [(value, None) for value in graph.outputs]
    for value, site in ends:
        cat = behind(value)
        if cat is not None:
            leaves = [part for part in parts(cat) if (part.dtype or "").startswith("float")]
            found.append(_Join(value, cat, leaves, site))
    return found


def _fate(steps: float) -> str:
    return "rounds to zero" if steps < 0.5 else f"{steps:.2g} steps"


def _conflicts(calibration: _Calibration, encodings: Encodings, dtype: Dtype, target: Target) -> list[Finding]:
    """Findings where joined tensors are left with a handful of steps under the common scale; one for each join."""
    findings, told = [], set()
    for join in calibration.joins:
        extents = [calibration.parts[part.name].seen for part in join.parts]
        sizes = [0.0 if seen is None else max(seen[1], -seen[0]) for seen in extents]
        step = encodings.input_of(join.site.path).scale[0] if join.site else max(sizes, default=0.0) / qrange(dtype)[1]
        small = {
            part.name: f"{part.name} (up to {size:.4g}: {_fate(size / step)})"
            for part, size in zip(join.parts, sizes, strict=True)
            if 0 < size < _LEVELS * step
        }
        key = join.cat.name, join.site is None
        if not small or key in told:
            continue
        told.add(key)
        who = (
            f"one {dtype} scale of {step:.3g}, for tensors up to {max(sizes):.4g}, is too coarse for "
            f"{', '.join(small.values())}"
        )
        if join.site is not None:
            message, fix = f"{join.site.path}: {who}", "Use int16, or quantize before they are joined."
        else:
            message = f"output {join.value.name} stays in float on {target.name}, so nothing is lost there; {who}"
            fix = ""
        severity: Severity = "note" if join.site is None else "warning"
        findings.append(Finding("PT409", severity, message, join.cat.origin, fix, next(iter(small)), join.cat.kind))
    return findings


# --------------------------------------------------------------------------------------------------------
# encodings
def _encode(
    encodings: Encodings,
    how: _Scheme,
    sites: list[_Site],
    calibration: _Calibration,
    rule: ScaleRule,
    per_channel: bool,
    findings: list[Finding],
) -> None:
    """Fill the encodings from the observers and the weights."""
    for name, observer in calibration.observers.items():
        found = observer.range
        if found is None:
            raise PorterError("PT401", "no sample was observed", fix="Give at least one sample.")
        encodings.activations[name] = Encoding.from_range(*found, encodings.dtype, str(observer), rule)
    grouped: dict[str, list[_Site]] = {}
    for site in sites:
        grouped.setdefault(site.path, []).append(site)
    for path, calls in grouped.items():
        op, weight = calls[0].op, calls[0].weight.numpy()
        if not np.isfinite(weight).all():
            raise PorterError(
                "PT407", f"the weight of layer {path} holds NaN or infinity", where=str(op.origin),
                fix="Check the checkpoint.",
            )  # fmt: skip
        axis = how.axis if op.kind not in how.table.per_tensor_ops else None
        axes = tuple(i for i in range(weight.ndim) if i != axis)
        encodings.weights[path] = Encoding.from_range(
            weight.min(axes), weight.max(axes), encodings.dtype, "min_max", rule, axis
        )
        encodings.layers[path] = Layer(
            kind=op.kind,
            inputs=tuple(site.input.name for site in calls),
            outputs=tuple(site.output.name for site in calls),
            quantized=calls[0].quantized,
            stored=True,
            shape=tuple(weight.shape),
            digest=weight_digest(weight),
        )
        for what, size in (("input", encodings.input_of(path).absmax), ("weight", encodings.weights[path].absmax)):
            if max(size) == 0:
                findings.append(
                    Finding("PT411", "note", f"the {what} of {path} is zero in every sample; its scale is 1.0",
                            op.origin, op=op.name, kind=op.kind)
                )  # fmt: skip


# -------------------------------------------------------------------------------------------------------
# simulation
def insert(graph: Graph, encodings: Encodings) -> Graph:
    """A copy of ``graph`` in which the input and the weight of every quantized layer pass through integers.

    The weight becomes an integer constant and a ``dequantize``; the input a ``quantize`` and a
    ``dequantize``; the bias stays in float, as the device adds it. The rounding of weights is the encodings';
    a ``quantize`` op rounds half to even.

    Raises:
        PorterError: PT413 when the encodings belong to another model.
    """
    encodings.check(graph)
    copy = graph.copy()
    shared: dict[tuple[str, float], str] = {}
    for again in (False, True):  # ops that read the same value under the same scale share its quantize
        paths = module_paths(graph)
        values = {out.name: out for op in copy.ops() for out in op.outputs}
        replacements = []
        for op in copy.ops():
            path = paths.get(op.outputs[0].name)
            layer = encodings.layers.get(path) if path is not None else None
            if path is None or layer is None or not layer.quantized or "quantize" in op.origin.rules:
                continue
            key = cast(Value, op.inputs[0]).name, encodings.input_of(path).scale[0]
            if again:
                replacements.append((op, _simulated(op, path, encodings, values[shared[key]])))
            elif key not in shared:
                fragment = _simulated(op, path, encodings, None)
                shared[key] = fragment.ops[1].outputs[0].name
                replacements.append((op, fragment))
        copy.replace(replacements)
    return copy


def _simulated(op: Op, path: str, encodings: Encodings, real: Value | None) -> Fragment:
    """``op`` on quantized operands. ``real`` is its dequantized input, where the graph has it already."""
    x, weight = cast(Value, op.inputs[0]), cast(Value, op.inputs[1])
    name, origin = op.outputs[0].name, op.origin.after("quantize")
    of_input, of_weight = encodings.input_of(path), encodings.weights[path]
    ops: list[Op] = []

    def add(
        kind: str, inputs: tuple[Value | None, ...], suffix: str, shape: Any, dtype: str, attrs: dict[str, Any]
    ) -> Value:
        out = Value(f"{name}_{suffix}", shape, dtype)
        ops.append(Op(kind, inputs, (out,), attrs, out.name, origin))
        return out

    if real is None:
        scale = Value.constant(f"{name}_input_scale", of_input.step)
        attrs = {"axis": None, "dtype": of_input.dtype}
        q = add("quantize", (x, scale, None), "input_q", x.shape, of_input.dtype, attrs)
        real = add("dequantize", (q, scale, None), "input_dq", x.shape, "float32", {"axis": None})
    scale = Value.constant(f"{name}_weight_scale", of_weight.step)
    integers = Value.constant(f"{name}_weight_q", of_weight.quantize(weight.numpy(), encodings.rounding))
    axis = {"axis": of_weight.axis}
    kernel = add("dequantize", (integers, scale, None), "weight_dq", weight.shape, "float32", axis)
    out = Value(f"{name}_quantized", op.outputs[0].shape, op.outputs[0].dtype)
    ops.append(Op(op.kind, (real, kernel, *op.inputs[2:]), (out,), op.attrs, op.name, origin))
    return Fragment(ops, (out,))


# -----------------------------------------------------------------------------------------------------------
# report
def _compare(
    report: QuantizationReport,
    graph: Graph,
    simulated: Graph,
    sites: list[_Site],
    encodings: Encodings,
    items: Sequence[Sequence[Array]],
    column_axes: Mapping[str, int],
    steps: _Steps,
) -> None:
    """Run both graphs on the items and fill in the layers and outputs of the report."""
    report.compared = len(items)
    fake = {
        site.path: encodings.weights[site.path].fake(site.weight.numpy(), encodings.rounding)
        for site in sites
        if site.quantized and items
    }
    rows: dict[str, LayerReport] = {}
    for site in sites:
        of_input, of_weight = encodings.input_of(site.path), encodings.weights[site.path]
        rows[site.path] = rows.get(site.path) or LayerReport(
            site.path, site.op.kind, site.op.origin, site.quantized, (of_input.minimum[0], of_input.maximum[0]),
            of_input.scale[0], (min(of_weight.scale), max(of_weight.scale)),
            TensorError(site.path) if site.quantized and site.op.kind in ("conv2d", "linear") else None,
            TensorError(site.path) if items else None,
        )  # fmt: skip
    report.layers = list(rows.values())
    for value in graph.outputs:
        if (value.dtype or "").startswith("float") and value.shape:
            axis = column_axes.get(value.name, column_axis(value.shape))
            if not -len(value.shape) <= axis < len(value.shape):
                raise PorterError("PT416", f"output {value.name} {value.shape} has no axis {axis}")
            report.outputs.append(OutputReport(value.name, TensorError(value.name), Columns(axis % len(value.shape))))
    places = {value.name: index for index, value in enumerate(graph.outputs)}
    inputs, outputs = [site.input for site in sites], [site.output for site in sites]
    before, after = _Taps(graph, [*outputs, *inputs]), _Taps(simulated, outputs)
    for item in items:
        reference: dict[str, Array] = {}
        float_outputs: list[Array] = []
        for part in before(item):
            float_outputs = part[0]
            reference.update(part[1])
        first = True
        for got_outputs, values in after(item):
            for output in report.outputs if first else ():
                pair = float_outputs[places[output.name]], got_outputs[places[output.name]]
                output.error.add(*pair)
                output.columns.add(*pair)
            first = False
            for site in sites:
                row = rows[site.path]
                if site.output.name in values and row.accumulated is not None:
                    row.accumulated.add(reference[site.output.name], values[site.output.name])
        for site in sites:
            row = rows[site.path]
            if row.single is not None:
                x = encodings.input_of(site.path).fake(reference[site.input.name], encodings.rounding)
                row.single.add(reference[site.output.name], _apply(site.op, x, fake[site.path]))
        steps()


def _apply(op: Op, x: Array, weight: Array) -> Array:
    """conv2d or linear on given operands; the bias is the op's own."""
    bias = op.inputs[2].numpy() if len(op.inputs) > 2 and op.inputs[2] is not None else None
    if op.kind == "linear":
        y = x @ weight.T
        return y if bias is None else y + bias
    return conv2d_float(
        x, weight, bias, stride=op.attrs["stride"], padding=op.attrs["padding"], dilation=op.attrs["dilation"],
        groups=op.attrs["groups"],
    )  # fmt: skip


def _judge_outputs(report: QuantizationReport) -> list[Finding]:
    """Findings about dead and hidden columns, and layers that lose much on their own."""
    findings = []
    for output in report.outputs if report.compared else ():
        if output.dead:
            findings.append(
                Finding(
                    "PT410", "error",
                    f"output {output.name}: column {_some(output.dead)} of axis {output.columns.axis} is constant "
                    "after quantization and varies in the float model (the cosine of the whole output is "
                    f"{output.error.cosine:.6f})",
                    Origin(), "Use int16, or quantize before the columns are joined (see PT409).", output.name,
                )
            )  # fmt: skip
        if output.hidden:
            worst = min(float(output.columns.sqnr[i]) for i in output.hidden)
            findings.append(
                Finding(
                    "PT417", "warning",
                    f"output {output.name}: column {_some(output.hidden)} of axis {output.columns.axis} has an SQNR of "
                    f"{worst:.1f} dB, which the {output.error.sqnr:.1f} dB of the whole output hides",
                    Origin(), "Use int16, or another observer.", output.name,
                )
            )  # fmt: skip
    weak = sorted(
        (layer.single.sqnr, index)
        for index, layer in enumerate(report.layers)
        if layer.single is not None and layer.single.signal > 0 and layer.single.sqnr < _WEAK_DB
    )
    if weak:
        weakest = report.layers[weak[0][1]]
        names = ", ".join(f"{report.layers[index].path} {sqnr:.1f} dB" for sqnr, index in weak[:4])
        findings.append(
            Finding(
                "PT417", "warning", f"{len(weak)} of {len(report.layers)} layers have an SQNR under {_WEAK_DB:g} dB on "
                f"their own; the worst: {names}", weakest.origin,
                "Use int16, per-channel weights, or an observer that leaves out outliers (percentile).",
                weakest.path, weakest.kind,
            )
        )  # fmt: skip
    return findings


def _some(indices: Sequence[int], most: int = 8) -> str:
    more = f" and {len(indices) - most} more" if len(indices) > most else ""
    return ", ".join(map(str, indices[:most])) + more


def _notes(report: QuantizationReport, graph: Graph, target: Target, how: _Scheme) -> None:
    """Say what is in float, and what about the device is not known."""
    quantized = {layer.path for layer in report.layers if layer.quantized}
    paths = module_paths(graph)
    report.float_kinds = dict(
        Counter(op.kind for op in graph.ops() if paths.get(op.outputs[0].name) not in quantized).most_common()
    )
    kinds = ", ".join(sorted({layer.kind for layer in report.layers if layer.quantized}))
    report.notes.append(
        f"{len(quantized)} layers ({kinds}) are quantized; everything else, the decoding of outputs included, stays in "
        f"float on {target.name}."
    )
    stored = [layer.path for layer in report.layers if not layer.quantized]
    if stored:
        report.notes.append(
            f"Scales are stored for {', '.join(stored[:4])}"
            f"{f' and {len(stored) - 4} more' if stored[4:] else ''} as well, which the device computes in float."
        )
    rounding = how.table.fact("rounding")
    if rounding.certainty != "certain":
        report.notes.append(
            f"How {target.name} rounds a half is {rounding.certainty}; the simulation rounds half to even, "
            f"weights {how.rounding_of.replace('_', ' ')}."
        )
