# SPDX-License-Identifier: Apache-2.0
"""Evidence that two graphs compute the same: per output and per tapped tensor, over several inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from porter.errors import PorterError
from porter.graph import Graph
from porter.ops import Array, Value

__all__ = ["Evidence", "TensorError", "batches", "compare", "verify"]

#: The largest difference a rewritten model may show, as a share of the output's range.
DEFAULT_TOLERANCE = 1e-4
#: Bytes of tapped tensors held at a time, for each of the two models.
_TAP_BYTES = 256 * 2**20


@dataclass(slots=True)
class TensorError:
    """How far one tensor is from its reference, over all inputs seen.

    ``max_abs``: largest absolute difference. ``range``: the reference's largest minus smallest value. ``relative``:
    ``max_abs / range`` (``max_abs`` where the range is 0). ``sqnr``: signal to noise in dB,
    10 log10(sum r^2 / sum d^2), inf when equal. ``cosine``: of the flattened tensors. ``equal``: bit for bit (NaN
    equals NaN). ``mismatched``: how many elements are NaN or infinite in one and not the same in the other.
    """

    name: str
    max_abs: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    equal: bool = True
    mismatched: int = 0
    count: int = 0
    signal: float = 0.0
    noise: float = 0.0
    dot: float = 0.0
    other: float = 0.0
    step: float = 0.0
    rounding: float = 0.0

    @property
    def range(self) -> float:
        return self.high - self.low if self.high >= self.low else 0.0

    @property
    def relative(self) -> float:
        return self.max_abs / self.range if self.range > 0 else self.max_abs

    @property
    def sqnr(self) -> float:
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 else -math.inf

    @property
    def cosine(self) -> float:
        if self.signal == 0 or self.other == 0:
            return 1.0 if self.signal == self.other else 0.0
        return self.dot / math.sqrt(self.signal * self.other)

    def within(self, tolerance: float) -> bool:
        """Whether the difference is at most ``tolerance`` of the range, and NaN and inf stand in the same places.

        Half-precision tensors may always differ by four of their own rounding steps, which are coarser than most
        tolerances (eps is 9.8e-4 for float16). A float32 tensor whose values are almost all the same has a range that
        is itself a matter of rounding: where there is a tolerance at all, four steps of its largest value are allowed.
        """
        if self.mismatched:
            return False
        rounding = 4 * self.rounding * max(abs(self.low), abs(self.high)) if tolerance and self.rounding else 0.0
        return self.relative <= max(tolerance, 4 * self.step) or self.max_abs <= rounding

    def add(self, reference: Array, got: Array) -> None:
        """Take in one pair of tensors. Raises ``ValueError`` when the shapes differ."""
        if reference.shape != got.shape:
            raise ValueError(f"{self.name}: shape {got.shape}, expected {reference.shape}")
        self.count += reference.size
        if reference.dtype.itemsize == 2 and reference.dtype.kind not in "iu":
            self.step = 2.0**-10 if reference.dtype == np.float16 else 2.0**-7  # else bfloat16
        elif reference.dtype == np.float32:
            self.rounding = 2.0**-23
        if reference.dtype == got.dtype and np.array_equal(reference, got, equal_nan=reference.dtype.kind in "fc"):
            a = b = np.asarray(reference, np.float64).ravel()
        else:
            self.equal = False
            a, b = (np.asarray(t, np.float64).ravel() for t in (reference, got))
        finite = np.isfinite(a) & np.isfinite(b)
        if not finite.all():
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            self.mismatched += int((~finite & ~same).sum())
            a, b = a[finite], b[finite]
        if not a.size:
            return
        self.low, self.high = min(self.low, float(a.min())), max(self.high, float(a.max()))
        self.signal += float(a @ a)
        self.other += float(b @ b)
        self.dot += float(a @ b)
        if a is not b:
            d = a - b
            self.noise += float(d @ d)
            self.max_abs = max(self.max_abs, float(np.abs(d).max()))

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "equal": self.equal,
            "max_abs": self.max_abs,
            "relative": self.relative,
            "sqnr_db": None if math.isinf(self.sqnr) else round(self.sqnr, 2),
            "cosine": self.cosine,
            "mismatched": self.mismatched,
            "range": [self.low, self.high] if self.count and self.high >= self.low else None,
        }


def compare(name: str, reference: Array, got: Array) -> TensorError:
    """The error of one tensor against its reference; shapes must agree (``ValueError``)."""
    error = TensorError(name)
    error.add(np.asarray(reference), np.asarray(got))
    return error


@dataclass(slots=True)
class Evidence:
    """The comparison of two graphs. ``ok``: every output is within ``tolerance`` of its range."""

    outputs: list[TensorError]
    taps: dict[str, TensorError] = field(default_factory=dict)
    inputs: int = 0
    tolerance: float = DEFAULT_TOLERANCE

    @property
    def ok(self) -> bool:
        return all(error.within(self.tolerance) for error in self.outputs)

    @property
    def worst(self) -> TensorError:
        """The output with the largest difference relative to its range."""
        return max(self.outputs, key=lambda e: (e.mismatched, e.relative))

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "inputs": self.inputs,
            "tolerance": self.tolerance,
            "outputs": [error.to_json() for error in self.outputs],
            "taps": [error.to_json() for error in self.taps.values()],
        }


def verify(
    before: Graph,
    after: Graph,
    inputs: Iterable[Sequence[Array]],
    taps: Sequence[str] = (),
    tolerance: float = DEFAULT_TOLERANCE,
    progress: Callable[[str], None] | None = None,
) -> Evidence:
    """Run both graphs on every input and compare all outputs, and the named values that both have.

    Args:
        before: the reference.
        after: the graph under test; the same inputs and outputs in the same order.
        inputs: one list of arrays per run, in the order of the inputs.
        taps: names of values to compare as well; those that either graph lacks are left out.
        tolerance: largest difference allowed, as a share of each output's range.
        progress: called with a short text before each run.

    Raises:
        PorterError: PT331 when the outputs differ in number or shape, PT506 when an input does not fit.
    """
    say = progress or (lambda _text: None)
    shared = {v.name: v for op in before.ops() for v in op.outputs}
    mine = {v.name for op in after.ops() for v in op.outputs}
    frozen = {v.name: v for op in after.ops() for v in op.operands if v.is_const and v.name in shared}
    wanted = [shared[name] for name in dict.fromkeys(taps) if name in shared and (name in mine or name in frozen)]
    outputs = [TensorError(value.name) for value in before.outputs]
    evidence = Evidence(outputs, {v.name: TensorError(v.name) for v in wanted}, tolerance=tolerance)
    if len(before.outputs) != len(after.outputs):
        raise PorterError(
            "PT331", f"the models have {len(before.outputs)} and {len(after.outputs)} outputs; they cannot be compared"
        )
    for sample in inputs:
        evidence.inputs += 1
        say(f"comparing on input {evidence.inputs}")
        for part, names in enumerate(batches(wanted)):
            reference = before.run(sample, names)
            computed = after.run(sample, [name for name in names if name in mine])
            later = iter(computed[len(outputs) :])
            # What became a constant is not computed any more; its data stands in for the tap.
            got = computed[: len(outputs)] + [next(later) if n in mine else frozen[n].numpy() for n in names]
            skip = len(outputs) if part else 0  # the outputs come with every batch and count once
            errors = ([] if part else outputs) + [evidence.taps[name] for name in names]
            for error, a, b in zip(errors, reference[skip:], got[skip:], strict=True):
                _add(error, a, b)
    return evidence


def _add(error: TensorError, a: Array, b: Array) -> None:
    try:
        error.add(a, b)
    except ValueError as problem:
        raise PorterError("PT331", f"the models cannot be compared: {problem}") from None


def batches(values: Sequence[Value]) -> Iterator[list[str]]:
    """Names in groups whose tensors fit in the memory set aside for taps; at least one group, maybe empty."""
    group: list[str] = []
    size = 0
    for value in values:
        nbytes = 8 * math.prod(value.shape or (1,))
        if group and size + nbytes > _TAP_BYTES:
            yield group
            group, size = [], 0
        group.append(value.name)
        size += nbytes
    yield group
