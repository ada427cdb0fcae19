# SPDX-License-Identifier: Apache-2.0
"""Post-training static quantization: calibrate a float graph, simulate the quantized one, say how good it is.

The engine knows no framework. What depends on the device comes from the target's ``[quantization]`` through a
:class:`~porter.quantize.scheme.Scheme`. Each step is a module: plan (what is an integer), calibrate (ranges), encode
(encodings), insert (the graph with integers), compare (the report).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from porter.data import Data, Preprocess, open_data
from porter.errors import PorterError
from porter.findings import Finding
from porter.graph import Graph
from porter.ops import Array
from porter.quantize.adopt import adopt, check_device
from porter.quantize.aimet import Tensors
from porter.quantize.calibrate import calibrate
from porter.quantize.compare import compare as compare_graphs
from porter.quantize.compare import judge_outputs, notes
from porter.quantize.conflicts import conflicts, joins, wide_pins
from porter.quantize.encode import encode
from porter.quantize.encodings import Encodings
from porter.quantize.first_conv import FirstConvolution, first_convolution
from porter.quantize.improve import PASSES, improve
from porter.quantize.insert import insert
from porter.quantize.layers import corrected
from porter.quantize.mixed import Budget, Metric, Mixed, mixed_precision
from porter.quantize.numerics import BITS, ScaleRule
from porter.quantize.observers import make_observer
from porter.quantize.outputs import HostPart, Outputs, divide
from porter.quantize.plan import FLOAT, plan
from porter.quantize.report import QuantizationReport
from porter.quantize.scheme import Scheme
from porter.quantize.taps import Progress, Steps
from porter.target import Target

__all__ = ["AUTO", "FirstConvolution", "Quantized", "insert", "quantize"]

#: The dtype with which each layer gets a width of its own.
AUTO = "auto"
#: Samples on which the host's part of a divided model is proved.
_PROOF = 2


@dataclass(slots=True)
class Quantized:
    """What :func:`quantize` made.

    ``graph`` is the simulation: the same model, same dialect, with quantize/dequantize ops; ``original`` the float
    model, with the weights that passes gave it; ``report`` holds the findings. ``preprocess`` is the spec
    of the calibration images, where there was one; ``mixed`` how the width of each layer was chosen, with ``"auto"``.
    """

    graph: Graph
    original: Graph
    target: Target
    encodings: Encodings
    report: QuantizationReport
    first_conv: FirstConvolution | None = None
    preprocess: Preprocess | None = None
    host: HostPart | None = None
    mixed: Mixed | None = None

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
            if self.host is not None:
                self.host.graph.save(folder / "host.onnx")
        return path


def quantize(
    graph: Graph,
    target: Target,
    dtype: str | None = None,
    data: Data | Iterable[Any] = (),
    *,
    observer: str | None = None,
    scale_rule: ScaleRule | None = None,
    per_channel: bool | None = None,
    first_conv: bool = False,
    pins: Mapping[str, str] | None = None,
    skip: Sequence[str] = (),
    outputs: Outputs = "joined",
    encodings: Encodings | Tensors | None = None,
    equalize: bool | None = None,
    adaround: bool | None = None,
    bias_correction: bool | None = None,
    min_sqnr: float | None = None,
    max_drop: float | None = None,
    metric: Metric | None = None,
    compare: int = 4,
    column_axes: Mapping[str, int] | None = None,
    state: Path | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Calibrate a float graph that is legal for the target, and simulate it quantized.

    Args:
        graph: float32, static shapes; it is not changed.
        target: its ``[quantization]`` says which ops are quantized, and how.
        dtype: a width that the target has (``"int16"``, ``"int8"``, ``"w8a16"``), or ``"auto"``: the cheapest width of
            each layer with which the model meets ``min_sqnr``, or ``max_drop`` with ``metric``. Default:
            :attr:`porter.quantize.scheme.Scheme.default`.
        data: samples (:func:`porter.data.open_data`).
        observer: of activations, with its settings: ``min_max``, ``percentile(99.9)``; see
            :func:`porter.quantize.observers.make_observer`; default: as the target says. Weights take their extremes.
        scale_rule: in place of the target's own: ``absmax`` (step absmax / qmax), ``negative`` (absmax / -qmin) or
            ``power_of_two`` (step 2**position).
        per_channel: one weight scale an output channel, or one a weight; default: as the target says.
        first_conv: the device normalizes pixels in its first convolution; the data must say how (a
            preprocessing spec).
        pins: for a layer path, op name, value name or pattern (``head.*``), another width, or ``"float"``.
        skip: paths or patterns of layers that stay in float: pins to ``"float"``.
        outputs: what to do where an output joins tensors of very different size: nothing; ``"separate"``, the tensors
            become outputs; ``"cut"``, the device's part ends before the decoding; ``"int16"``, they get 16 bits.
        encodings: found elsewhere (:func:`porter.quantize.adopt.read_encodings`), in place of what calibration finds:
            porter's own of this model, or an AIMET file's, of which what is missing is calibrated.
        equalize, adaround, bias_correction: change weights and biases so that quantization costs less; what makes the
            model worse on calibration samples is taken back (:func:`porter.quantize.improve.improve`). Default: as the
            target says for one width with 8-bit weights, and none where encodings are given.
        min_sqnr, max_drop, metric: what ``"auto"`` must reach (:class:`porter.quantize.mixed.Budget`).
        compare: samples on which the report compares float and quantized.
        column_axes: for an output's name, the axis whose indices are scored apart; default
            :func:`porter.quantize.report.column_axis`.
        state: a file that keeps the calibration if it is interrupted, so that the same call goes on from there; it is
            removed in the end.
        progress: called with (done, total) runs.

    Raises:
        PorterError: PT401 to PT404 the data; PT407 NaN or infinity inside the model; PT408 the observer;
            PT414 a pin that matches nothing; PT415 nothing to quantize; PT416 what the target does
            not do; PT418 first_conv; PT420 a pin that cannot be obeyed; PT423 outputs; PT413 or PT482 encodings of
            another model or device; PT461 or PT462 mixed precision; PT453 passes together with encodings.
    """
    scheme = Scheme.of(target, scale_rule=scale_rule, per_channel=per_channel)
    dtype = dtype or scheme.default
    findings: list[Finding] = []
    pinned = {**dict.fromkeys(skip, FLOAT), **(pins or {})}
    observer = observer or scheme.table.observer
    make_observer(observer)  # a wrong name is an error before the data are read
    opened = data if isinstance(data, Data) else open_data(data, graph.inputs)
    host, reference = None, graph
    if outputs in ("separate", "cut"):
        graph, host = divide(graph, target, scheme, outputs, opened.take(_PROOF))
        reference = graph
    asked = {"equalize": equalize, "adaround": adaround, "bias_correction": bias_correction}
    own = [] if dtype == AUTO or encodings is not None else _passes(scheme, dtype)
    passes = [name for name in PASSES if (name in own if asked[name] is None else asked[name])]
    budget = _budget(dtype, passes, encodings is not None, (min_sqnr, max_drop, metric))
    if isinstance(encodings, Encodings):  # before the samples take their time
        check_device(encodings, scheme, dtype)
        encodings.check(graph)
        graph = corrected(graph, encodings)
    mixed, width = None, dtype
    if budget is not None:
        mixed = mixed_precision(graph, target, scheme, opened, observer, budget, pins=pinned, progress=progress)
        findings += mixed.findings
        width, pinned = mixed.base, {**mixed.pins, **pinned}
    planned = plan(graph, scheme, width=width, pins=pinned, findings=findings)
    if not planned.observed:
        kinds = ", ".join(dict.fromkeys(site.op.kind for calls in planned.layers.values() for site in calls))
        raise PorterError(
            "PT415", f"{graph.source} has nothing to quantize: {kinds or 'every op'} stays in float, among floats"
        )
    base = scheme.width(width).activation
    weighted = [site for calls in planned.layers.values() for site in calls]
    first = first_convolution(graph, weighted, scheme, opened.preprocess) if first_conv else None
    joined = joins(graph, planned)
    steps = Steps(progress)
    steps.total = min(compare, len(opened))
    calibration = calibrate(
        graph,
        planned.observed,
        opened,
        observer,
        channels=planned.channels,
        watch=[part.name for join in joined for part in join.parts],
        labels={site.input.name: site.path for site in reversed(weighted) if site.quantized},
        steps=steps,
        state=state,
    )
    right = calibration.scale is not None and calibration.scale.right
    findings += [found for found in opened.findings if not (right and found in opened.raw)]
    if isinstance(encodings, Encodings):
        found = encodings
    else:
        adopted = adopt(encodings, graph, planned, findings) if encodings is not None else None
        found = encode(graph, planned, calibration, len(opened), findings, adopted)
        if outputs == "int16":
            lost = conflicts(joined, calibration, found, base, target.name)
            pinned = {**wide_pins(planned, lost, scheme.wide().name), **pinned}
            planned = plan(graph, scheme, width=width, pins=pinned)
            found = encode(graph, planned, calibration, len(opened), [], adopted)
    if passes:

        def calibrated(other: Graph) -> Encodings:
            plans = plan(other, scheme, width=width, pins=pinned)
            seen = calibrate(other, plans.observed, opened, observer, channels=plans.channels)
            return encode(other, plans, seen, len(opened), [])

        improved = improve(graph, found, opened, passes, calibrated=calibrated, insert=insert, progress=progress)
        graph, reference, found = improved.graph, improved.reference, improved.encodings
        planned = plan(graph, scheme, width=width, pins=pinned)
        wanted = any(asked.values())  # of what the target asks for, the user need not know more than what came of it
        findings += [f if wanted else replace(f, severity="note", fix="") for f in improved.findings]
    if mixed is not None:
        found.dtype = AUTO
    simulated = insert(graph, found)
    observed = next(iter(calibration.observers.values()))
    report = QuantizationReport(target.name, graph.source, dtype, str(observed), len(opened), 0)
    report.findings = findings
    findings += calibration.findings()
    findings += [conflict.finding for conflict in conflicts(joined, calibration, found, base, target.name)]
    compare_graphs(
        report, reference, simulated, planned, found, opened.take(compare) if compare else [], column_axes or {}, steps
    )
    findings += judge_outputs(report)
    notes(report, graph, planned)
    report.notes += [str(step) for step in improved.steps] if passes else []
    report.notes += [str(host)] if host is not None else []
    if state is not None:
        state.unlink(missing_ok=True)
    return Quantized(simulated, graph, target, found, report, first, opened.preprocess, host, mixed)


def _passes(scheme: Scheme, dtype: str) -> Sequence[str]:
    """The passes that the target asks for. With 16-bit weights there is nothing to win."""
    return scheme.table.passes if BITS[scheme.width(dtype).weight] == 8 else ()


def _budget(
    dtype: str, passes: Sequence[str], given: bool, wanted: tuple[float | None, float | None, Metric | None]
) -> Budget | None:
    """What mixed precision must reach; None for one width. Raises PT453 or PT461 where options exclude each other."""
    if given and (passes or dtype == AUTO):
        raise PorterError(
            "PT453", f"encodings made elsewhere are used as they are; {', '.join(passes) or AUTO} would change them",
            fix="Leave one of the two out.",
        )  # fmt: skip
    if dtype != AUTO and wanted == (None, None, None):
        return None
    budget = Budget(*wanted)
    if dtype != AUTO:
        raise PorterError("PT461", f"the budget ({budget}) is for {AUTO}, not {dtype}", fix=f"Take --dtype {AUTO}.")
    return budget
