# SPDX-License-Identifier: Apache-2.0
"""Whether the sums of integer products fit the device's accumulator.

The worst case of an output channel is ``sum(|w_q|) * max(|x_q|) + |bias_q|``. Most layers are far from it; how far the
sums really go is seen in the float results of the samples, divided by the step of the sum.
"""

from __future__ import annotations

import re
from typing import cast

import numpy as np
from numpy.typing import NDArray

from porter.findings import Finding, Severity
from porter.ops import Array, Op, Value
from porter.quantize.encodings import Encoding, Encodings
from porter.quantize.numerics import qrange
from porter.quantize.plan import Plan, Site
from porter.quantize.scheme import input_steps, weight_axis

__all__ = ["Sums", "worst_sums"]

Floats = NDArray[np.float64]


def worst_sums(op: Op, weight: Array, of_weight: Encoding, of_input: Encoding) -> Floats:
    """The largest sum of products that each output channel of a product can have, (channels,).

    ``weight`` is the float weight; a transposed convolution in groups has its channels in the order of its output.
    """
    integers = of_weight.quantize(weight, "half_even").astype(np.float64)
    size = np.abs(integers - _along(of_weight, weight.ndim))
    axis = weight_axis(op)
    if axis is None and op.kind.startswith("conv_transpose"):
        groups = op.attrs["groups"]
        grouped = size.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        per_channel = grouped.sum((1, 3)).reshape(-1)
    else:
        per_channel = size.sum(tuple(i for i in range(weight.ndim) if i != axis)).reshape(-1)
    low, high = qrange(of_input.dtype)
    zeros = np.asarray(of_input.zero_point)
    most = np.maximum(high - zeros, zeros - low)
    return cast(Floats, per_channel * (most if of_input.axis is None else np.repeat(most, len(size) // most.size)))


def _along(encoding: Encoding, rank: int) -> Array:
    zeros = encoding.zeros.astype(np.float64)
    return zeros if encoding.axis is None else zeros.reshape([-1 if i == encoding.axis else 1 for i in range(rank)])


class Sums:
    """Watches the sums of every quantized product of a plan over the compared samples."""

    def __init__(self, plan: Plan, encodings: Encodings) -> None:
        self._plan = plan
        self._limit = _limit(plan.scheme.table.accumulator)
        self._worst: dict[str, float] = {}
        self._reached: dict[str, float] = {}
        self._ops: dict[str, Op] = {}
        self._steps: dict[str, Array] = {}
        if self._limit is None:
            return
        for path, calls in plan.layers.items():
            op = calls[0].op
            if not calls[0].quantized or path not in encodings.weights:
                continue
            weight, read = encodings.weights[path], encodings.input_of(path)
            worst = worst_sums(op, calls[0].weight.numpy(), weight, read)
            step = input_steps(op, read) * np.asarray(weight.scale)
            if encodings.bias == "int32" and _bias(op) is not None:
                sizes = np.abs(cast(Value, _bias(op)).numpy().astype(np.float64)).reshape(-1)
                worst = worst + sizes / step
            if worst.max() > self._limit:
                self._worst[path], self._ops[path], self._steps[path] = float(worst.max()), op, step

    def add(self, site: Site, output: Array) -> None:
        """See the float result of one call of a layer."""
        if site.path not in self._worst:
            return
        axis = 1 if "conv" in site.op.kind else output.ndim - 1
        bias = _bias(site.op)
        sums = np.abs(np.moveaxis(output, axis, -1).astype(np.float64) - (0.0 if bias is None else bias.numpy()))
        top = float((sums.reshape(-1, sums.shape[-1]).max(0) / self._steps[site.path]).max())
        self._reached[site.path] = max(top, self._reached.get(site.path, 0.0))

    def findings(self) -> list[Finding]:
        """One finding (PT422) where sums could be, or are, too large for the accumulator."""
        if not self._worst or self._limit is None:
            return []
        table = self._plan.scheme.table
        over = {path: top for path, top in self._reached.items() if top > self._limit}
        sure = self._plan.scheme.certain("accumulator")
        severity: Severity = "warning" if over and sure else "note"
        path = max(over or self._worst, key=(over or self._worst).__getitem__)
        what = f"the sums of {len(self._worst)} layers can exceed an {table.accumulator} accumulator"
        if over:
            what += (
                f", and those of {len(over)} do on the samples: {path} reaches {over[path] / self._limit:.3g} times it"
            )
        else:
            what += (
                f" ({path} by {self._worst[path] / self._limit:.3g} times in the worst case); on the samples none does"
            )
        if not sure:
            what += f". How wide the accumulator of {self._plan.scheme.target} is, is not known for certain"
        op = self._ops[path]
        fix = "Use 8-bit weights for these layers (w8a16), where the target has them." if over and sure else ""
        return [Finding("PT422", severity, what, op.origin, fix, op.name, op.kind)]


def _bias(op: Op) -> Value | None:
    bias = op.inputs[2] if len(op.inputs) > 2 else None
    return bias if bias is not None and bias.is_const else None


def _limit(accumulator: str) -> float | None:
    """The largest number of an integer accumulator; None for a float one."""
    match = re.fullmatch(r"int(\d+)", accumulator)
    return None if match is None else float(2 ** (int(match[1]) - 1) - 1)
