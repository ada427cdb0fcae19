# SPDX-License-Identifier: Apache-2.0
"""How good a quantized model is: per layer, per output, and per column of each output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from porter.findings import Finding, origin_json
from porter.ops import Array, Origin
from porter.quantize.distribution import Distribution
from porter.verify import TensorError

__all__ = ["Columns", "LayerReport", "OutputReport", "QuantizationReport", "column_axis"]

#: A column this many dB under its output, and under _LOW_DB itself, is hidden by the others.
_HIDDEN_DB, _LOW_DB = 20.0, 10.0
#: Below this a column is mostly noise: nearly dead, where the output around it still looks well.
_LOST_DB, _WELL_DB = 3.0, 10.0
#: A float column that moves by less than this share of its own size is constant but for rounding.
_MOVES = 1e-6


def column_axis(shape: Sequence[int]) -> int:
    """The axis along which an output is scored apart, when the user does not say.

    Four axes: axis 1, the channels of a feature map. Three axes: the shorter of the last two, for (N, boxes, columns)
    and (N, columns, boxes) alike. Otherwise the last axis.
    """
    if len(shape) == 4:
        return 1
    if len(shape) == 3:
        return 1 if shape[1] < shape[2] else 2
    return len(shape) - 1


class Columns:
    """The error of each column of one output (index along ``axis``), over all samples; fixed memory.

    After :meth:`add`: ``sqnr`` (dB), ``cosine``, ``max_abs`` and ``dead``, each one number a column.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.count = 0
        self._sums: Array | None = None
        self._extremes: Array | None = None

    def add(self, reference: Array, got: Array) -> None:
        """Take in one pair of tensors of equal shape; values that are not finite in either are left out."""
        r, q = (np.moveaxis(np.asarray(t, np.float64), self.axis, 0) for t in (reference, got))
        r, q = r.reshape(r.shape[0], -1), q.reshape(q.shape[0], -1)
        valid = np.isfinite(r) & np.isfinite(q)
        if not valid.all():
            r, q = np.where(valid, r, 0.0), np.where(valid, q, 0.0)
        sums = np.stack([(r * r).sum(1), ((q - r) ** 2).sum(1), (r * q).sum(1), (q * q).sum(1)])
        extremes = np.stack([-r.min(1), r.max(1), -q.min(1), q.max(1), np.abs(q - r).max(1)])
        self.count += r.shape[1]
        self._sums = sums if self._sums is None else self._sums + sums
        self._extremes = extremes if self._extremes is None else np.maximum(self._extremes, extremes)

    def __len__(self) -> int:
        return 0 if self._sums is None else self._sums.shape[1]

    def _need(self) -> tuple[Array, Array]:
        if self._sums is None or self._extremes is None:
            raise ValueError("no tensor was added")
        return self._sums, self._extremes

    @property
    def sqnr(self) -> Array:
        signal, noise = self._need()[0][:2]
        with np.errstate(divide="ignore"):
            decibel = 10 * np.log10(np.where(noise > 0, signal, 1.0) / np.where(noise > 0, noise, 1.0))
        return np.where(noise > 0, decibel, np.inf)

    @property
    def cosine(self) -> Array:
        signal, _, dot, other = self._need()[0]
        both = (signal > 0) & (other > 0)
        cosine: Array = np.where(both, dot / np.sqrt(np.where(both, signal * other, 1.0)), signal == other)
        return cosine

    @property
    def max_abs(self) -> Array:
        return cast(Array, self._need()[1][4])

    @property
    def reference_range(self) -> Array:
        """(columns, 2): the smallest and largest value of the float model."""
        negative_low, high = self._need()[1][:2]
        return np.stack([-negative_low, high], 1)

    @property
    def dead(self) -> Array:
        """Whether the quantized column is constant although the float one varies."""
        low, high, q_low, q_high, _ = self._need()[1]
        size = np.maximum(np.maximum(high, low), 1e-30)
        return cast(Array, (high + low > _MOVES * size) & (q_high + q_low == 0))


@dataclass(slots=True)
class LayerReport:
    """One quantized layer.

    ``single``: the error of its output when it alone is quantized and gets the float model's input (None where porter
    has no reference for the kind, or the layer stays in float). ``accumulated``: the error of its output in the whole
    quantized model, everything before it included. ``width``: the name of the width it is quantized to.
    ``weight_ranges``: what the weight's scale, or each channel's, can represent. ``inputs`` and ``weights``: how the
    values lie, the inputs over the samples that were compared.
    """

    path: str
    kind: str
    origin: Origin
    quantized: bool
    input_range: tuple[float, float]
    input_scale: float
    weight_scale: tuple[float, float]
    single: TensorError | None = None
    accumulated: TensorError | None = None
    width: str = ""
    weight_ranges: tuple[tuple[float, float], ...] = ()
    inputs: Distribution | None = None
    weights: Distribution | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "kind": self.kind,
            "origin": origin_json(self.origin),
            "quantized": self.quantized,
            "input_range": list(self.input_range),
            "input_scale": self.input_scale,
            "weight_scale": list(self.weight_scale),
            "width": self.width,
            "weight_ranges": [list(pair) for pair in self.weight_ranges],
            "input_values": None if self.inputs is None else self.inputs.to_json(),
            "weight_values": None if self.weights is None else self.weights.to_json(),
            "single": None if self.single is None else self.single.to_json(),
            "accumulated": None if self.accumulated is None else self.accumulated.to_json(),
        }


@dataclass(slots=True)
class OutputReport:
    """One output of the model: the error of the whole tensor, and of its columns apart."""

    name: str
    error: TensorError
    columns: Columns

    @property
    def hidden(self) -> list[int]:
        """Columns that are neither dead nor lost but far worse than the whole tensor."""
        low = self.columns.sqnr < min(_LOW_DB, self.error.sqnr - _HIDDEN_DB)
        return [int(i) for i in np.flatnonzero(low & ~self.columns.dead) if i not in self.lost]

    @property
    def lost(self) -> list[int]:
        """Columns that still vary but are mostly noise, in an output that as a whole looks well: scores of which only
        0 and 1 are left."""
        if self.error.sqnr < _WELL_DB:
            return []
        return [int(i) for i in np.flatnonzero((self.columns.sqnr < _LOST_DB) & ~self.columns.dead)]

    @property
    def dead(self) -> list[int]:
        return [int(i) for i in np.flatnonzero(self.columns.dead)]

    def to_json(self) -> dict[str, Any]:
        columns = self.columns
        return {
            **self.error.to_json(),
            "axis": columns.axis,
            "dead": self.dead,
            "lost": self.lost,
            "columns": [
                {
                    "index": index,
                    "sqnr_db": None if math.isinf(sqnr) else round(float(sqnr), 2),
                    "cosine": float(cosine),
                    "max_abs": float(worst),
                    "range": [float(low), float(high)],
                }
                for index, (sqnr, cosine, worst, (low, high)) in enumerate(
                    zip(columns.sqnr, columns.cosine, columns.max_abs, columns.reference_range, strict=True)
                )
            ],
        }


@dataclass(slots=True)
class QuantizationReport:
    """The whole report. ``samples``: items calibrated on; ``compared``: items on which float and quantized
    were compared.

    ``float_kinds`` counts the ops that stay in floating point, by kind. ``notes`` are sentences about what
    the numbers do and do not cover.
    """

    target: str
    model: str
    dtype: str
    observer: str
    samples: int
    compared: int
    layers: list[LayerReport] = field(default_factory=list)
    outputs: list[OutputReport] = field(default_factory=list)
    float_kinds: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """No finding is an error: no output column is dead."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": "1.0",
            "target": self.target,
            "model": self.model,
            "dtype": self.dtype,
            "observer": self.observer,
            "samples": self.samples,
            "compared": self.compared,
            "ok": self.ok,
            "outputs": [output.to_json() for output in self.outputs],
            "layers": [layer.to_json() for layer in self.layers],
            "float_kinds": self.float_kinds,
            "notes": self.notes,
            "findings": [finding.to_json() for finding in self.findings],
        }

    def text(self, worst: int = 10) -> str:
        """For a terminal: every output with its worst columns, the ``worst`` layers, notes and findings."""
        lines = [
            f"{self.dtype} on {self.target}, {self.observer} over {self.samples} samples, compared on {self.compared}"
        ]
        for output in self.outputs:
            error, columns = output.error, output.columns
            lines.append(
                f"output {output.name}: SQNR {_db(error.sqnr)}, cosine {error.cosine:.6f}, max {error.max_abs:.3g}; "
                f"worst of {len(columns)} columns (axis {columns.axis}): {_worst(columns)}"
            )
        ranked = sorted(
            (layer for layer in self.layers if layer.accumulated is not None),
            key=lambda layer: layer.single.sqnr if layer.single is not None else math.inf,
        )[:worst]
        if ranked:
            width = max(len(layer.path) for layer in ranked)
            lines.append(f"{'layer':{width}}  alone dB  whole dB  cosine    max       origin")
        for layer in ranked:
            whole = cast(TensorError, layer.accumulated)
            alone = "-" if layer.single is None else _db(layer.single.sqnr, "")
            lines.append(
                f"{layer.path:{width}}  {alone:>8}  {_db(whole.sqnr, ''):>8}  {whole.cosine:.6f}  "
                f"{whole.max_abs:<8.3g}  {layer.origin}"
            )
        return "\n".join([*lines, *self.notes])


def _db(sqnr: float, unit: str = " dB") -> str:
    return f"{sqnr:.1f}{unit}" if math.isfinite(sqnr) else ("equal" if sqnr > 0 else "none")


def _worst(columns: Columns, count: int = 3) -> str:
    order = np.argsort(columns.sqnr)[:count]
    return ", ".join(f"{i} {_db(float(columns.sqnr[i]))}{' DEAD' if columns.dead[i] else ''}" for i in order)
