# SPDX-License-Identifier: Apache-2.0
"""Encodings that were found elsewhere, put in the place of calibration.

porter's own file says everything and is taken as it is. An AIMET file names tensors only: each group of the plan and
each weight takes what the file says of it, in the target's own dtype; what the file does not say is calibrated.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace

import numpy as np

from porter.errors import PorterError
from porter.files import input_file
from porter.findings import Finding
from porter.graph import Graph
from porter.quantize.aimet import Tensors, is_aimet, read_aimet, weight_names
from porter.quantize.encodings import Encoding, Encodings
from porter.quantize.numerics import BITS, Dtype, qrange
from porter.quantize.plan import Group, Plan, Site
from porter.quantize.scheme import Scheme, weight_axis

__all__ = ["Adopted", "adopt", "check_device", "read_encodings"]


def read_encodings(path: str | os.PathLike[str]) -> Encodings | Tensors:
    """Read a JSON file of encodings: porter's own, or AIMET's of any version.

    Raises:
        PorterError: PT501 no such file; PT412 or PT481 when it is not valid.
    """
    try:
        data = json.loads(input_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PorterError("PT412", f"the encodings cannot be read: {error}", where=str(path)) from error
    return read_aimet(data, str(path)) if is_aimet(data) else Encodings.from_json(data, str(path))


def check_device(encodings: Encodings, scheme: Scheme, dtype: str) -> None:
    """See that a target can compute with porter's own encodings of, perhaps, another target.

    Args:
        dtype: the width that was asked for.

    Raises:
        PorterError: PT413 where they are of another width, of another kind of integer network, or hold integers or zero
            points that the target does not have.
    """

    def refuse(what: str, fix: str = "Calibrate for this target.") -> PorterError:
        made = f"made for {encodings.target}"
        return PorterError("PT413", f"these encodings are not for {scheme.target}: {what}", where=made, fix=fix)

    if encodings.dtype not in (dtype, "auto"):
        raise refuse(f"they are {encodings.dtype}, and {dtype} was asked for", f"Take --dtype {encodings.dtype}.")
    if encodings.flow != scheme.flow:
        whole = "every tensor between quantized ops" if encodings.flow == "tensors" else "only the operands of products"
        raise refuse(f"they make {whole} integers")
    widths = scheme.widths.values()
    for what, weight, found in (
        ("weight", True, encodings.weights), ("tensor", False, encodings.activations),
        ("input of", False, encodings.operands),
    ):  # fmt: skip
        dtypes = {width.weight if weight else width.activation for width in widths}
        for name, encoding in found.items():
            if encoding.dtype not in dtypes:
                raise refuse(f"the {what} {name} is {encoding.dtype}")
            if not weight and encoding.axis is not None and not scheme.table.depthwise_input_per_channel:
                raise refuse(f"the {what} {name} has a scale for each channel")
            if any(encoding.zero_point) and scheme.symmetric(encoding.dtype, weight):
                raise refuse(f"the {what} {name} has the zero point {next(filter(None, encoding.zero_point))}")


@dataclass(frozen=True, slots=True)
class Adopted:
    """What a file says of the tensors of one model: activations by value name, weights by the path of their layer."""

    scheme: Scheme
    activations: dict[str, Encoding]
    weights: dict[str, Encoding]

    def activation(self, group: Group, dtype: Dtype) -> Encoding | None:
        """The encoding of a group in ``dtype``; None where the file says nothing of any of its values.

        A file may name several values of a group, whose scales the target makes one: the widest counts.
        """
        found = [self.activations[name] for name in group.values if name in self.activations]
        if not found:
            return None
        widest = max(found, key=lambda encoding: max(encoding.absmax))
        return _as(widest, dtype, self.scheme, weight=False)

    def weight(self, site: Site, dtype: Dtype) -> Encoding | None:
        """The encoding of a weight in ``dtype``; None where the file says nothing of it.

        Raises:
            PorterError: PT482 when its scales do not fit the weight.
        """
        found = self.weights.get(site.path)
        if found is None:
            return None
        shape, axis = site.weight.shape or (), weight_axis(site.op)
        if len(found.scale) == 1:
            found = replace(found, axis=None)
        elif axis is None or shape[axis] != len(found.scale):
            raise PorterError(
                "PT482", f"the file has {len(found.scale)} scales for the weight of {site.path}, of shape {shape}",
                fix="Use the file of this very model.",
            )  # fmt: skip
        elif self.scheme.weight_axis(site.op) is None:  # the target has one scale for all
            low, high = min(found.minimum), max(found.maximum)
            return self.scheme.encoding(low, high, dtype, found.observer, weight=True)
        else:
            found = replace(found, axis=axis)
        return _as(found, dtype, self.scheme, weight=True)

    def missing(self, plan: Plan) -> list[Group]:
        """The groups of which the file says nothing."""
        return [group for group in plan.groups if not any(name in self.activations for name in group.values)]


def adopt(tensors: Tensors, graph: Graph, plan: Plan, findings: list[Finding]) -> Adopted:
    """What ``tensors`` says of ``graph``.

    Raises:
        PorterError: PT482 when it names no tensor of the model.
    """
    names = weight_names(graph)
    values = {value.name for value in graph.inputs} | {out.name for op in graph.ops() for out in op.outputs}
    weights = {path: tensors.parameters[name] for path, name in names.items() if name in tensors.parameters}
    activations = {name: found for name, found in tensors.activations.items() if name in values and found.axis is None}
    if not activations and not weights:
        known = ", ".join([*tensors.activations, *tensors.parameters][:4])
        raise PorterError(
            "PT482", f"the encodings name no tensor of {graph.source}; they name {known or 'none'}",
            fix="Use the file of this very model. Names must be those of the tensors in it.",
        )  # fmt: skip
    made = Adopted(plan.scheme, activations, weights)
    missing = made.missing(plan)
    said = []
    if missing:
        first = missing[0].name
        said.append(
            f"{len(missing)} of {len(plan.groups)} tensors are not in the file and were calibrated ({first} first)"
        )
    if tensors.left_out:
        dtypes = ", ".join(sorted(set(tensors.left_out.values())))
        said.append(f"{len(tensors.left_out)} were left out, as they are {dtypes}")
    if said:
        findings.append(Finding("PT483", "note", "of the encodings given, " + "; ".join(said)))
    return made


def _as(found: Encoding, dtype: Dtype, scheme: Scheme, *, weight: bool) -> Encoding:
    """The encoding in the target's dtype: the same steps where its integers can have them, else the same range."""
    symmetric = scheme.symmetric(dtype, weight)
    shift = qrange(dtype)[0] - qrange(found.dtype)[0]
    zeros = tuple(zero + shift for zero in found.zero_point)
    if BITS[found.dtype] == BITS[dtype] and not (symmetric and any(zeros)):
        return replace(found, dtype=dtype, zero_point=zeros, symmetric=symmetric)
    low, high = np.asarray(found.minimum), np.asarray(found.maximum)
    return scheme.encoding(low, high, dtype, found.observer, axis=found.axis, weight=weight)
