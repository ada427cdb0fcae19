# SPDX-License-Identifier: Apache-2.0
"""porter's integer simulation beside onnxruntime, on the trained models of the benchmark.

    python -m benchmarks.quantize.simulation [--models a,b] [--items 2]

Each model is quantized by onnxruntime's own quantizer (uint8, int8 and int16 activations) and by porter (int8, int16,
W8A16, and int8 with the numerics of the MLU270), and run both ways. Printed for each:

* ``off by 1``, ``more``: how many quantized values differ from onnxruntime's by one step, and by more, when everything
  before them has onnxruntime's integers (every graph optimization off: the operators as the standard has them);
* ``int = fake``: whether the integer and the fake-quantized run agree in every bit of every quantized value and output;
* ``outputs``: the largest difference of a float output in a free run, as a share of its range; beside it the same
  between onnxruntime with and without its own optimizations, where one step leads to others just so;
* ``s``: seconds of one run in integers, one thread.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import porter
from porter.graph import Graph
from porter.ops import Op
from porter.quantize.scheme import Scheme
from porter.quantize.simulate import Simulator
from porter.target import Target

from .cases import CASES, Case
from .contenders import ROOT
from .measure import session
from .packages import fetch

Array = npt.NDArray[Any]
#: Items to calibrate on: the counts hardly depend on the ranges.
CALIBRATION = 8
OURS = (("onnxruntime", "int8"), ("onnxruntime", "int16"), ("onnxruntime", "w8a16"), ("mlu270", "int8"))
THEIRS = ("QUInt8", "QInt8", "QInt16")


class _Reader:
    def __init__(self, name: str, items: Array) -> None:
        self._items = iter([{name: item[None]} for item in items])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._items, None)


class _Forced(Simulator):
    """Counts how far each quantization is from a reference, and goes on with the reference."""

    reference: dict[str, Array]
    counts: tuple[int, ...] = (0, 0, 0)

    def _quantize(self, op: Op, operands: Sequence[Any]) -> Array:
        want = self.reference[op.outputs[0].name]
        away = np.abs(super()._quantize(op, operands).astype(np.int64) - want)
        seen = away.size, (away == 1).sum(), (away > 1).sum()
        self.counts = tuple(a + int(b) for a, b in zip(self.counts, seen, strict=True))
        return want


def _theirs(model: Path, calibration: Array, folder: Path) -> Iterator[tuple[str, Graph, None]]:
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = folder / "prepared.onnx"
    quant_pre_process(model, prepared)
    name = session(model, optimized=False).get_inputs()[0].name
    for activations in THEIRS:
        out = folder / f"{activations}.onnx"
        quantize_static(
            prepared, out, _Reader(name, calibration), per_channel=True, weight_type=QuantType.QInt8,
            activation_type=getattr(QuantType, activations),
        )  # fmt: skip
        yield f"onnxruntime {activations}", porter.load(out), None


def _ours(model: Path, calibration: Array) -> Iterator[tuple[str, Graph, Scheme]]:
    for name, dtype in OURS:
        target = Target.load(name)
        data = [[item[None]] for item in calibration]
        made = porter.quantize(model, target, data, dtype=dtype, force=True, compare=0)
        yield f"porter {name} {dtype}", made.graph, Scheme.of(target)


def _shares(found: Sequence[Array], wanted: Sequence[Array]) -> float:
    return max(float(np.abs(a - b).max() / (np.ptp(b) or 1)) for a, b in zip(found, wanted, strict=True))


def _row(label: str, graph: Graph, scheme: Scheme | None, items: Array, folder: Path) -> str:
    names = [op.outputs[0].name for op in graph.ops() if op.kind == "quantize"]
    forced = _Forced(graph, scheme)
    integer, fake = (Simulator(graph, scheme, mode, names) for mode in ("int", "fake"))
    file = folder / "graph.onnx"
    graph.save(file)
    optimized = session(file, optimized=True)
    same, share, theirs, seconds = True, 0.0, 0.0, []
    for item in items:
        found = graph.run([item[None]], names)
        plain = found[: len(graph.outputs)]
        forced.reference = dict(zip(names, found[len(graph.outputs) :], strict=True))
        forced.run([item[None]])
        a = integer.run([item[None]])
        b = fake.run([item[None]])
        pairs = zip([*a.outputs, *a.taps.values()], [*b.outputs, *b.taps.values()], strict=True)
        same &= all(np.array_equal(x, y) for x, y in pairs)
        share = max(share, _shares(a.outputs, plain))
        theirs = max(theirs, _shares(optimized.run(None, {graph.inputs[0].name: item[None]}), plain))
        start = time.perf_counter()
        integer.run([item[None]])
        seconds.append(time.perf_counter() - start)
    count, one, more = forced.counts
    agree = "yes" if same else "NO"
    return f"  {label:26s} {count:11d} {one:9d} {more:6d} {agree:>10s} {share:9.2g} {theirs:9.2g} {min(seconds):7.2f}"


def measure(case: Case, packages: Path, work: Path, count: int) -> None:
    """Print the rows of one model."""
    model = work / "cases" / case.name / "float.onnx"
    if not model.exists():
        model.parent.mkdir(parents=True, exist_ok=True)
        case.build(packages, model)
    calibration, items = case.calibration(packages)[:CALIBRATION], case.held_out(packages)[:count]
    print(f"{case.title}\n  {'':26s} {'values':>11s} {'off by 1':>9s} {'more':>6s} {'int = fake':>10s} {'outputs':>9s}"
          f" {'theirs':>9s} {'s':>7s}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for makers in (_theirs(model, calibration, Path(folder)), _ours(model, calibration)):
            try:
                for label, graph, scheme in makers:
                    print(_row(label, graph, scheme, items, Path(folder)), flush=True)
            except Exception as error:  # a quantizer that fails on a model is a row too; the other one still runs
                print(f"  failed: {type(error).__name__}: {str(error).strip().splitlines()[0][:100]}", flush=True)


def main() -> None:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(names), help=f"of {','.join(names)}")
    parser.add_argument("--items", type=int, default=2, help="held-out items of each model")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench-quantize")
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # onnxruntime's quantizer advises what is done already
    packages = fetch(args.work)
    for case in CASES:
        if case.name in args.models.split(","):
            measure(case, packages, args.work, args.items)


if __name__ == "__main__":
    main()
