# SPDX-License-Identifier: Apache-2.0
"""Range conflicts: tensors of very different size that end up under one scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from porter.findings import Finding, Severity
from porter.graph import Graph
from porter.ops import Op, Value
from porter.quantize.calibrate import Calibration
from porter.quantize.encodings import Encodings
from porter.quantize.numerics import Dtype, qrange
from porter.quantize.plan import Plan, Site

__all__ = ["Join", "conflicts", "joins"]

#: Kinds that move values without changing any: what joins behind them shares the scale of what comes out.
_MOVES = frozenset({"reshape", "flatten", "permute", "squeeze", "unsqueeze", "identity", "expand", "repeat", "pad"})
#: With fewer steps than this for its whole range, a joined tensor has lost what it says.
_LEVELS = 8


@dataclass(slots=True)
class Join:
    """A concatenation whose parts end up under one scale: in the input of ``site``, or (None) in output
    ``value``.
    """

    value: Value
    cat: Op
    parts: list[Value]
    site: Site | None


def joins(graph: Graph, plan: Plan) -> list[Join]:
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
    ends: list[tuple[Value, Site | None]] = [(site.input, site) for site in plan.sites if site.quantized]
    ends += [(value, None) for value in graph.outputs]
    for value, site in ends:
        cat = behind(value)
        if cat is not None:
            leaves = [part for part in parts(cat) if (part.dtype or "").startswith("float")]
            found.append(Join(value, cat, leaves, site))
    return found


def conflicts(
    found: list[Join], calibration: Calibration, encodings: Encodings, dtype: Dtype, target: str
) -> list[Finding]:
    """Findings where joined tensors are left with a handful of steps under the common scale; one for each join."""
    findings, told = [], set()
    for join in found:
        extents = [calibration.seen.get(part.name) for part in join.parts]
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
            message = f"output {join.value.name} stays in float on {target}, so nothing is lost there; {who}"
            fix = ""
        severity: Severity = "note" if join.site is None else "warning"
        findings.append(Finding("PT409", severity, message, join.cat.origin, fix, next(iter(small)), join.cat.kind))
    return findings


def _fate(steps: float) -> str:
    return "rounds to zero" if steps < 0.5 else f"{steps:.2g} steps"
