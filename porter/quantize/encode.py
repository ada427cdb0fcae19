# SPDX-License-Identifier: Apache-2.0
"""From a plan and the ranges that calibration found to :class:`~porter.quantize.encodings.Encodings`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from porter.errors import PorterError
from porter.findings import Finding
from porter.graph import Graph
from porter.ops import Array
from porter.quantize.adopt import Adopted
from porter.quantize.calibrate import Calibration
from porter.quantize.encodings import Encoding, Encodings, Layer, weight_digest
from porter.quantize.numerics import Dtype
from porter.quantize.plan import Group, Plan, Site
from porter.quantize.scheme import Scheme, extremes, input_steps

__all__ = ["encode"]

#: A bias of step input step * weight step is kept this far inside int32, so that adding it to a sum does not overflow.
_BIAS_LIMIT = float(2**30)


def encode(
    graph: Graph,
    plan: Plan,
    calibration: Calibration,
    samples: int,
    findings: list[Finding],
    adopted: Adopted | None = None,
) -> Encodings:
    """All encodings of a plan: from the calibration, or from ``adopted`` where that says something.

    Raises:
        PorterError: PT401 when nothing was observed; PT407 when a weight is not finite.
    """
    scheme, table = plan.scheme, plan.scheme.table
    made = Encodings(
        scheme.target, graph.source, plan.width, scheme.rounding, samples, flow=table.flow, bias=table.bias
    )
    for group in plan.groups:
        encoding = _activation(group, group.dtype, scheme, calibration, adopted)
        made.activations.update(dict.fromkeys(group.values, encoding))
    groups = plan.group_of()
    for path, calls in plan.layers.items():
        first = calls[0]
        weight = first.weight.numpy()
        if not np.isfinite(weight).all():
            raise PorterError(
                "PT407", f"the weight of layer {path} holds NaN or infinity", where=str(first.op.origin),
                fix="Check the checkpoint.",
            )  # fmt: skip
        stored = scheme.flow == "operands"
        made.layers[path] = Layer(
            kind=first.op.kind,
            inputs=tuple(site.input.name for site in calls),
            outputs=tuple(site.output.name for site in calls),
            quantized=first.quantized,
            stored=stored,
            shape=tuple(weight.shape),
            digest=weight_digest(weight),
            width=first.width.name,
        )
        if not (stored or first.quantized):
            continue
        group = groups[first.input.name]
        if group.dtype != first.width.activation:
            made.operands[path] = _operand(plan, calibration, path, first, adopted)
        given = adopted.weight(first, first.width.weight) if adopted is not None else None
        made.weights[path] = given or _weight(made, plan, path, first, weight)
        sizes = (("input", " in every sample", made.input_of(path).absmax), ("weight", "", made.weights[path].absmax))
        for what, where, size in sizes:
            if max(size) == 0:
                findings.append(
                    Finding("PT411", "note", f"the {what} of {path} is zero{where}; its scale is 1.0",
                            first.op.origin, op=first.op.name, kind=first.op.kind)
                )  # fmt: skip
    return made


def _activation(
    group: Group, dtype: Dtype, scheme: Scheme, calibration: Calibration, adopted: Adopted | None
) -> Encoding:
    given = adopted.activation(group, dtype) if adopted is not None else None
    return given or calibration.encoding(group.name, dtype, scheme)


def _operand(plan: Plan, calibration: Calibration, path: str, site: Site, adopted: Adopted | None) -> Encoding:
    """The encoding of a layer's input in its own dtype, where the tensor has another; the widest of its calls."""
    groups, dtype = plan.group_of(), site.width.activation
    first, *others = (
        _activation(groups[call.input.name], dtype, plan.scheme, calibration, adopted) for call in plan.layers[path]
    )
    for other in others:
        first = first.widened(other)
    return first


def _weight(made: Encodings, plan: Plan, path: str, site: Site, weight: Array) -> Encoding:
    scheme = plan.scheme
    axis = scheme.weight_axis(site.op)
    low, high = extremes(weight, axis)
    encoding = scheme.encoding(low, high, site.width.weight, "min_max", axis=axis, weight=True)
    bias = site.op.inputs[2] if len(site.op.inputs) > 2 else None
    if made.bias != "int32" or bias is None or not bias.is_const:
        return encoding
    return _roomy(encoding, bias.numpy(), input_steps(site.op, made.input_of(path)))


def _roomy(encoding: Encoding, bias: Array, steps: Array) -> Encoding:
    """The encoding with steps large enough for the bias to be an int32 of step ``steps`` * weight step.

    A channel of tiny weights would have a step so small that its bias does not fit.
    """
    scale = np.asarray(encoding.scale, np.float64)
    least = np.abs(bias.astype(np.float64)).reshape(-1) / (_BIAS_LIMIT * steps)
    if least.size != scale.size:
        least = least.max(keepdims=True)
    if not (least > scale).any():
        return encoding
    wider = np.maximum(scale, least).astype(np.float32)
    return replace(encoding, scale=tuple(map(float, wider)), observer=f"{encoding.observer}, widened for the bias")
