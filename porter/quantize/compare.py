# SPDX-License-Identifier: Apache-2.0
"""Float against quantized: both graphs run on a few samples, and the report and its findings come of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from porter.errors import PorterError
from porter.findings import Finding
from porter.graph import Graph
from porter.ops import Array, Op, Origin
from porter.quantize.accumulator import Sums
from porter.quantize.distribution import Distribution
from porter.quantize.encodings import Encoding, Encodings
from porter.quantize.kernels import conv2d_float
from porter.quantize.numerics import qrange
from porter.quantize.plan import Plan
from porter.quantize.report import Columns, LayerReport, OutputReport, QuantizationReport, column_axis
from porter.quantize.taps import Steps, Taps
from porter.verify import TensorError

__all__ = ["compare", "judge_outputs", "notes"]

#: A layer with an SQNR under this has an error of more than 30 % of its output, all by itself.
_WEAK_DB = 10.0
#: What helps a column that shares its scale with larger ones.
_APART = "Use 16 bits where the target has them, or quantize before the columns are joined (see PT409)."


def compare(
    report: QuantizationReport,
    graph: Graph,
    simulated: Graph,
    plan: Plan,
    encodings: Encodings,
    items: Sequence[Sequence[Array]],
    column_axes: Mapping[str, int],
    steps: Steps,
) -> None:
    """Run both graphs on the items and fill in the layers and outputs of the report."""
    report.compared = len(items)
    sums = Sums(plan, encodings)
    sites = [site for calls in plan.layers.values() for site in calls if site.path in encodings.weights]
    fake = {
        site.path: encodings.weights[site.path].fake(site.weight.numpy(), encodings.rounding)
        for site in sites
        if site.quantized and items
    }
    rows: dict[str, LayerReport] = {}
    for site in sites:
        of_input, of_weight = encodings.input_of(site.path), encodings.weights[site.path]
        rows[site.path] = rows.get(site.path) or LayerReport(
            site.path, site.op.kind, site.op.origin, site.quantized, (min(of_input.minimum), max(of_input.maximum)),
            max(of_input.scale), (min(of_weight.scale), max(of_weight.scale)),
            TensorError(site.path) if site.quantized and site.op.kind in ("conv2d", "linear") else None,
            TensorError(site.path) if items else None, site.width.name, _represented(of_weight),
            _around(of_input) if items else None, _spread(site.weight.numpy()),
        )  # fmt: skip
    report.layers = list(rows.values())
    for value in graph.outputs if items else ():
        if (value.dtype or "").startswith("float") and value.shape:
            axis = column_axes.get(value.name, column_axis(value.shape))
            if not -len(value.shape) <= axis < len(value.shape):
                raise PorterError("PT416", f"output {value.name} {value.shape} has no axis {axis}")
            report.outputs.append(OutputReport(value.name, TensorError(value.name), Columns(axis % len(value.shape))))
    places = {value.name: index for index, value in enumerate(graph.outputs)}
    inputs, outputs = [site.input for site in sites], [site.output for site in sites]
    before, after = Taps(graph, [*outputs, *inputs]), Taps(simulated, outputs)
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
            sums.add(site, reference[site.output.name])
            if row.inputs is not None:
                row.inputs.add(reference[site.input.name])
            if row.single is not None:
                x = encodings.input_of(site.path).fake(reference[site.input.name], encodings.rounding)
                row.single.add(reference[site.output.name], _apply(site.op, x, fake[site.path]))
        steps()
    report.findings += sums.findings()


def _represented(encoding: Encoding) -> tuple[tuple[float, float], ...]:
    """The real values of the smallest and the largest integer: one pair, or one for each index along the axis."""
    low, high = qrange(encoding.dtype)
    pairs = zip(encoding.scale, encoding.zero_point, strict=True)
    return tuple(((low - zero) * scale, (high - zero) * scale) for scale, zero in pairs)


def _around(encoding: Encoding) -> Distribution:
    """A histogram of what the encoding represents and a little more on both sides, so that clipped values show."""
    pairs, half = _represented(encoding), max(encoding.scale) / 2
    low, high = min(low for low, _ in pairs), max(high for _, high in pairs)
    margin = (high - low) / 8
    return Distribution(low - margin, high + margin, (low - half, high + half))


def _spread(weight: Array) -> Distribution:
    low, high = float(weight.min()), float(weight.max())
    spread = Distribution(low, high, (low, high))
    spread.add(weight)
    return spread


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


def judge_outputs(report: QuantizationReport) -> list[Finding]:
    """Findings about dead, lost and hidden columns, and layers that lose much on their own."""
    findings = []
    for output in report.outputs if report.compared else ():
        if output.dead:
            findings.append(
                Finding(
                    "PT410", "error",
                    f"output {output.name}: column {_some(output.dead)} of axis {output.columns.axis} is constant "
                    "after quantization and varies in the float model (the cosine of the whole output is "
                    f"{output.error.cosine:.6f})",
                    Origin(), _APART, output.name,
                )
            )  # fmt: skip
        if output.lost:
            worst = min(float(output.columns.sqnr[i]) for i in output.lost)
            findings.append(
                Finding(
                    "PT410", "error",
                    f"output {output.name}: column {_some(output.lost)} of axis {output.columns.axis} is mostly "
                    f"noise after quantization (SQNR {worst:.1f} dB), which the {output.error.sqnr:.1f} dB of the "
                    "whole output hides",
                    Origin(), _APART, output.name,
                )
            )  # fmt: skip
        if output.hidden:
            worst = min(float(output.columns.sqnr[i]) for i in output.hidden)
            findings.append(
                Finding(
                    "PT417", "warning",
                    f"output {output.name}: column {_some(output.hidden)} of axis {output.columns.axis} has an SQNR of "
                    f"{worst:.1f} dB, which the {output.error.sqnr:.1f} dB of the whole output hides",
                    Origin(), "Use 16 bits where the target has them, or another observer.", output.name,
                )
            )  # fmt: skip
    poor = [output for output in report.outputs if report.compared and output.error.sqnr < _WEAK_DB]
    poor = [output for output in poor if output.error.signal > 0 and not output.dead]
    if poor:
        names = ", ".join(f"{output.name} {output.error.sqnr:.1f} dB" for output in poor[:4])
        findings.append(
            Finding(
                "PT417", "warning", f"{len(poor)} of {len(report.outputs)} outputs have an SQNR under {_WEAK_DB:g} dB "
                f"as a whole: {names}", Origin(), "Use int16, --bias-correction where it is off, --dtype auto with "
                "--min-sqnr, or another observer.", poor[0].name,
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
                "Use int16, per-channel weights, bias correction where it is off, or an observer that leaves out "
                "outliers (percentile).", weakest.path, weakest.kind,
            )
        )  # fmt: skip
    return findings


def _some(indices: Sequence[int], most: int = 8) -> str:
    more = f" and {len(indices) - most} more" if len(indices) > most else ""
    return ", ".join(map(str, indices[:most])) + more


def notes(report: QuantizationReport, graph: Graph, plan: Plan) -> None:
    """Say what is in float, and what about the device is not known."""
    scheme = plan.scheme
    report.float_kinds = dict(
        Counter(op.kind for op in graph.ops() if op.outputs[0].name not in plan.integers).most_common()
    )
    quantized = [layer for layer in report.layers if layer.quantized]
    kinds = ", ".join(sorted({layer.kind for layer in quantized}))
    if scheme.flow == "operands":
        rest = f"everything else, the decoding of outputs included, stays in float on {scheme.target}"
    else:
        passed = len(plan.integers) - len(quantized)
        left = ", ".join(f"{count} {kind}" for kind, count in report.float_kinds.items())
        rest = f"so are {passed} ops between them, and in float are {left or 'none'}"
    report.notes.append(f"{len(quantized)} layers ({kinds}) are quantized; {rest}.")
    stored = [layer.path for layer in report.layers if not layer.quantized]
    if stored:
        report.notes.append(
            f"Scales are stored for {', '.join(stored[:4])}"
            f"{f' and {len(stored) - 4} more' if stored[4:] else ''} as well, which the device computes in float."
        )
    rounding = scheme.table.fact("rounding")
    if rounding.certainty != "certain":
        report.notes.append(
            f"How {scheme.target} rounds a half is {rounding.certainty}; the simulation rounds half to even, "
            f"weights {scheme.rounding.replace('_', ' ')}."
        )
