# SPDX-License-Identifier: Apache-2.0
"""A quantized graph, run as its device runs it: in true integers, or in real numbers that round at the same places.

The graph has ``quantize`` and ``dequantize`` ops (:func:`porter.quantize.insert.insert` puts them in; so does any QDQ
ONNX). What lies between a dequantization and the next quantization is computed exactly (:mod:`porter.quantize.exact`):
products of integers are summed without rounding, scaled once, and requantized once. Everything else is float32, by the
framework's own kernels.

* Mode ``"int"`` is the device: functions of one 8-bit tensor are tables of 256 entries, and sums that its accumulator
  does not hold are counted.
* Mode ``"fake"`` is the fake-quantized model: no table, and no limit of an accumulator. Scales are factored out of its
  sums, so that these are exact as well, and the two modes agree bit for bit until an integer limit is reached.

In the flow "operands" the result of a product is a float32, and everything after it is float; in the flow "tensors"
(and in a QDQ ONNX) what is fused in front of a quantization stays wide up to it. Where a rule of the device is not
certain, :attr:`SimResult.uncertain` says so if the run depends on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np

from porter.errors import PorterError
from porter.feeds import check_inputs
from porter.graph import Graph
from porter.ops import Array, Op, Value
from porter.quantize import numerics
from porter.quantize.exact import EXACT, TABLES, Context, Exact, Operand, Real, Whole, exact, real
from porter.quantize.numerics import BITS, Dtype, Rounding, along
from porter.quantize.scheme import PRODUCTS, Scheme

__all__ = ["Mode", "SimResult", "Simulator", "simulate"]

Mode = Literal["int", "fake"]


@dataclass(frozen=True, slots=True)
class SimResult:
    """One run.

    Fields:
        outputs: the graph's outputs in order, in their own dtypes.
        taps: the named values; a quantized one as its integers, every other as float32.
        uncertain: for each rule that the run depends on and that is not certain of the target ("rounding",
            "accumulator", "tables"), a sentence.
        overflows: for the name of an op, how many of its sums the accumulator does not hold (they are kept exact).
        integer, floating: how many ops of each kind were computed exactly, and in float.
    """

    outputs: list[Array]
    taps: dict[str, Array]
    uncertain: dict[str, str]
    overflows: dict[str, int]
    integer: Counter[str]
    floating: Counter[str]


def simulate(
    graph: Graph,
    scheme: Scheme | None,
    inputs: Sequence[Array] | Mapping[str, Array],
    mode: Mode = "int",
    taps: Sequence[str] = (),
) -> SimResult:
    """One run of a graph with quantize and dequantize ops; :class:`Simulator` keeps what several runs share."""
    return Simulator(graph, scheme, mode, taps).run(inputs)


@dataclass(slots=True)
class _Facts:
    """What one run found out."""

    uncertain: dict[str, str] = field(default_factory=dict)
    overflows: dict[str, int] = field(default_factory=dict)
    integer: Counter[str] = field(default_factory=Counter)
    floating: Counter[str] = field(default_factory=Counter)
    rounded: int = 0
    halves: int = 0


class Simulator:
    """Runs one graph, on one input after another.

    Args:
        graph: with quantize and dequantize ops.
        scheme: of the target; None for a QDQ ONNX model by its own rules (tensors flow, halves to even, int32
            accumulators).
        mode: "int" or "fake"; see the module.
        taps: names of values to give back.

    Raises:
        PorterError: PT506 when there is no value of a tap's name.
    """

    def __init__(
        self, graph: Graph, scheme: Scheme | None = None, mode: Mode = "int", taps: Sequence[str] = ()
    ) -> None:
        self._graph, self._scheme, self._mode = graph, scheme, mode
        self._rounding: Rounding = "half_even" if scheme is None else scheme.rounding
        self._operands_only = scheme is not None and scheme.flow == "operands"
        self._ops = graph.ops()
        known = {v.name for v in graph.inputs} | {out.name for op in self._ops for out in op.outputs}
        for name in taps:
            if name not in known:
                raise PorterError("PT506", f"the model has no value {name!r}", graph.source)
        self._taps = tuple(dict.fromkeys(taps))
        self._wide = _wide_ops(graph, self._ops, self._operands_only)
        self._fixed = self._fixed_values()
        self._freed = self._last_uses()
        self._facts = _Facts()
        self._context = Context(graph.apply, self._accumulated)

    def _fixed_values(self) -> dict[str, Operand]:
        """Dequantized constants: weights and biases, the same in every run."""
        fixed: dict[str, Operand] = {}
        for op in self._ops:
            if op.kind == "dequantize" and all(v.is_const for v in op.operands):
                operands = [None if v is None else v.numpy() for v in op.inputs]
                if _integers(operands[0]):
                    fixed[op.outputs[0].name] = _dequantize(op, operands)
        return fixed

    def _last_uses(self) -> list[list[str]]:
        """For each op, the values that nothing reads after it."""
        kept = {v.name for v in self._graph.outputs}
        last: dict[str, int] = {}
        for index, op in enumerate(self._ops):
            last.update(dict.fromkeys((v.name for v in (*op.outputs, *op.operands)), index))
        freed: list[list[str]] = [[] for _ in self._ops]
        for name, index in last.items():
            if name not in kept:
                freed[index].append(name)
        return freed

    def run(self, inputs: Sequence[Array] | Mapping[str, Array]) -> SimResult:
        """One run.

        Raises:
            PorterError: PT506 when an input does not fit, PT353 when the framework fails on an op in float.
        """
        facts = self._facts = _Facts()
        env: dict[str, Operand] = dict(check_inputs(inputs, self._graph.inputs, self._graph.source))
        taps: dict[str, Array] = {name: _plain(env[name]) for name in self._taps if name in env}
        wanted = set(self._taps)
        for op, freed in zip(self._ops, self._freed, strict=True):
            if op.outputs[0].name in self._fixed:
                results: Sequence[Operand] = [self._fixed[op.outputs[0].name]]
            else:
                results = self._compute(op, [self._operand(v, env) for v in op.inputs])
            for out, result in zip(op.outputs, results, strict=True):
                env[out.name] = result
                if out.name in wanted:
                    taps[out.name] = _plain(result)
            for name in freed:
                env.pop(name, None)
        outputs = [_plain(self._operand(v, env)).astype(v.dtype or "float32", copy=False) for v in self._graph.outputs]
        self._say_rounding()
        taps = {name: taps[name] for name in self._taps}
        return SimResult(outputs, taps, facts.uncertain, facts.overflows, facts.integer, facts.floating)

    @staticmethod
    def _operand(value: Value | None, env: Mapping[str, Operand]) -> Operand:
        if value is None:
            return None
        return value.numpy() if value.is_const else env[value.name]

    # -- one op ----------------------------------------------------------------------------------------

    def _compute(self, op: Op, operands: list[Operand]) -> Sequence[Operand]:
        if op.kind == "quantize" and op.attrs["dtype"] in BITS:
            return [self._quantize(op, operands)]
        if op.kind == "dequantize" and _integers(operands[0]):
            return [_dequantize(op, operands)]
        if op.outputs[0].name in self._wide and any(isinstance(x, Whole | Real) for x in operands):
            found = self._exact(op, operands)
            if found is not None:
                self._facts.integer[op.kind] += 1
                return found
        table = self._lookup(op, operands)
        if table is not None:
            self._facts.integer[op.kind] += 1
            return [table]
        self._facts.floating[op.kind] += 1
        return self._graph.apply(op, [None if x is None else _plain(x) for x in operands])

    def _exact(self, op: Op, operands: Sequence[Operand]) -> Sequence[Operand] | None:
        """The exact results, where every operand is a dequantized tensor, a wide intermediate, or a constant."""
        for value, x in zip(op.inputs, operands, strict=True):
            if value is not None and not value.is_const and not isinstance(x, Whole | Real):
                return None
        found = exact(op, operands, self._context)
        if found is not None and self._operands_only:
            return [_plain(x) for x in found]
        return found

    def _lookup(self, op: Op, operands: Sequence[Operand]) -> Array | None:
        """A function of one dequantized 8-bit tensor, by its table: the function of each of the 256 numbers."""
        x = operands[0] if operands else None
        if self._mode != "int" or op.kind not in TABLES or not isinstance(x, Whole) or x.levels is None:
            return None
        low, high = x.levels
        if self._scheme is not None and high - low > 255 and op.kind in self._scheme.table.table_ops:
            self._facts.uncertain["tables"] = (
                f"how {self._scheme.target} looks up a function of 16-bit numbers is not known; it is computed exactly"
            )
        if x.axis is not None or high - low > 255:
            return None
        entries = _plain(Whole(np.arange(low, high + 1, dtype=np.float32), x.step))
        table = self._graph.apply(op, [entries, *(None if y is None else _plain(y) for y in operands[1:])])[0]
        found: Array = table[x.data.astype(np.int64) - low]
        return found

    def _quantize(self, op: Op, operands: Sequence[Operand]) -> Array:
        x, scale, zero = (*operands, None)[:3]
        dtype = cast(Dtype, op.attrs["dtype"])
        axis = op.attrs["axis"]
        step = np.asarray(_plain(scale), np.float32)
        point: Array | int = 0 if zero is None else np.asarray(_plain(zero), np.int64)
        if axis is None:
            step, point = step.reshape(()), np.asarray(point).reshape(())
        if isinstance(x, Whole) and x.axis is None and axis is None and x.step == np.float64(step):
            low, high = numerics.qrange(dtype)
            moved: Array = np.clip(x.data + np.asarray(point, x.data.dtype), low, high).astype(dtype)
            return moved
        how: dict[str, Any] = {"zero_point": point, "axis": axis, "rounding": self._rounding}
        exactly = isinstance(x, Whole | Real)
        data = real(x) if exactly else _plain(x)
        if self._scheme is not None and not self._scheme.certain("rounding"):
            ratio = data / along(step.astype(data.dtype), axis, data.ndim)
            self._facts.rounded += ratio.size
            self._facts.halves += int(np.count_nonzero(ratio - np.floor(ratio) == 0.5))
        round_off = numerics.requantize if exactly else numerics.quantize
        return round_off(data, step, dtype, **how)

    # -- what is not certain ---------------------------------------------------------------------------

    def _accumulated(self, op: Op, total: Array) -> None:
        """Look at sums of products before they are scaled."""
        name = "int32" if self._scheme is None else self._scheme.table.accumulator
        if self._mode != "int" or not name.startswith("int") or total.dtype == np.float32:
            return  # float32 sums are under 2**24
        limit = 2 ** (int(name.removeprefix("int")) - 1)
        beyond = int(np.count_nonzero((total >= limit) | (total < -limit)))
        if not beyond:
            return
        self._facts.overflows[op.name] = self._facts.overflows.get(op.name, 0) + beyond
        sure = self._scheme is None or self._scheme.certain("accumulator")
        who = "the device" if self._scheme is None else self._scheme.target
        self._facts.uncertain["accumulator"] = (
            f"sums do not fit the {name} accumulator of {who}{'' if sure else ' (its width is not certain either)'}; "
            "whether it wraps or saturates is not known, and they are kept exact"
        )

    def _say_rounding(self) -> None:
        facts, scheme = self._facts, self._scheme
        if scheme is not None and facts.halves:
            facts.uncertain["rounding"] = (
                f"how {scheme.target} rounds a half is {scheme.table.fact('rounding').certainty}: "
                f"{facts.halves} of {facts.rounded} values that were quantized lie at a half and went "
                f"{self._rounding.replace('_', ' ')}"
            )


def _wide_ops(graph: Graph, ops: Sequence[Op], operands_only: bool) -> set[str]:
    """The first results of the ops that are computed exactly, if their operands allow it.

    Products are, and in the flow of tensors whatever else has an exact form and is read by nothing but quantizations
    and ops of this set: its result is never a float on the device.
    """
    if operands_only:
        return {op.outputs[0].name for op in ops if op.kind in PRODUCTS}
    readers: dict[str, list[Op]] = {}
    for op in ops:
        for value in op.operands:
            readers.setdefault(value.name, []).append(op)
    outputs = {v.name for v in graph.outputs}
    wide: set[str] = set()
    for op in reversed(ops):
        if op.kind not in EXACT:
            continue
        inside = all(
            out.name not in outputs
            and all(reader.kind == "quantize" or reader.outputs[0].name in wide for reader in readers.get(out.name, ()))
            for out in op.outputs
        )
        if inside or op.kind in PRODUCTS:
            wide.add(op.outputs[0].name)
    return wide


def _integers(x: Operand) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind in "iu"


def _dequantize(op: Op, operands: Sequence[Operand]) -> Exact:
    """Integers as whole numbers around their zero point."""
    q, scale, zero = (None if x is None else _plain(x) for x in (*operands, None)[:3])
    assert q is not None
    assert scale is not None
    axis = op.attrs["axis"]
    name = str(q.dtype)
    data = q.astype(np.float32 if q.dtype.itemsize <= 2 else np.float64)
    if zero is not None and zero.any():
        data = data - along(zero.astype(data.dtype), axis, q.ndim)
    step = np.asarray(scale, np.float64)
    levels = None
    if axis is None:
        step = step.reshape(())
        if name in BITS:
            low, high = numerics.qrange(name)
            point = 0 if zero is None else int(zero.reshape(()))
            levels = low - point, high - point
    return Whole(data, step, axis, levels)


def _plain(x: Operand) -> Array:
    """An operand as the framework takes it: exact values as float32."""
    if isinstance(x, Whole | Real):
        return real(x).astype(np.float32)
    return np.asarray(x)
