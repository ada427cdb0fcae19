# SPDX-License-Identifier: Apache-2.0
"""What equalization, AdaRound, bias correction and mixed precision are worth, on trained models.

    python -m benchmarks.quantize.ranges [--models a,b] [--quick] [--part passes|mixed]

The passes: int8 with one scale a tensor by the MLU270's numerics (batch norms folded), each pass alone and all
together, scored on held-out items that no pass saw. Mixed precision: YOLOX-nano with a budget of 0.005 mAP, beside the
naive order (layers from the input on until the budget is met). Models and items are those of the whole benchmark.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import porter
from porter.data import open_data
from porter.graph import Graph
from porter.ops import Array
from porter.quantize.improve import PASSES, fidelity
from porter.quantize.mixed import Budget, Mixed, Point, Space, mixed_precision
from porter.quantize.scheme import Scheme
from porter.quantize.taps import Steps

from .cases import CASES, Case
from .contenders import ROOT
from .measure import prepare
from .packages import fetch

TARGET = "mlu270"
MODELS = ("yolox_nano", "ppocr_cls", "ppocr_rec", "mobilenet_v2")
#: Items of --quick.
QUICK = 12
DROP = 0.005
#: Held-out items on which the distance from the float model is measured in dB.
_MEASURED = 32


def outputs(graph: Graph, items: Sequence[Sequence[Array]]) -> list[list[Array]]:
    """The graph's outputs for each item."""
    return [graph.run(item) for item in items]


def passes(case: Case, packages: Path, work: Path, limit: int | None) -> list[str]:
    """The rows of one model: float, int8, int8 with each pass, and with all."""
    prepared = prepare(case, packages, work, limit)
    graph = porter.load(prepared.model)
    calibration = [[item[None]] for item in np.load(prepared.folder / "calibration.npy")]
    held_out = [[item[None]] for item in prepared.held_out]
    metric, value = next(iter(prepared.scores.items()))
    rows = [f"| {case.title} | float | {metric} {value:.4f} | | | |"]
    for asked in ((), *((name,) for name in PASSES), PASSES):
        start = time.perf_counter()
        made = porter.quantize(
            graph, TARGET, calibration, dtype="int8", force=True, compare=0, **dict.fromkeys(asked, True)
        )  # fmt: skip
        seconds = time.perf_counter() - start
        score = case.score(packages, outputs(made.graph, held_out), prepared.reference)[metric]
        distance = fidelity(graph, made.graph, held_out[:_MEASURED])
        steps = [note for note in made.report.notes if note.partition(":")[0] in PASSES]
        label = "int8" if not asked else "+ all" if asked == PASSES else f"+ {asked[0]}"
        what = "; ".join(steps)
        rows.append(f"| | {label} | {score:.4f} | {distance:.2f} dB | {seconds:.0f} s | {what} |")
        print(rows[-1], flush=True)
    return rows


def mixed(case: Case, packages: Path, work: Path, limit: int | None) -> list[str]:
    """The rows of the search and of the naive order, with a budget on the case's own metric."""
    prepared = prepare(case, packages, work, limit)
    graph, target = porter.load(prepared.model), porter.Target.load(TARGET)
    scheme = Scheme.of(target)
    held_out = [[item[None]] for item in prepared.held_out]
    data = open_data([[item[None]] for item in np.load(prepared.folder / "calibration.npy")], graph.inputs)
    name = next(iter(prepared.scores))

    def metric(predict: Callable[[Sequence[Array]], list[Array]]) -> float:
        return float(case.score(packages, [predict(item) for item in held_out], prepared.reference)[name])

    budget = Budget(max_drop=DROP, metric=metric)
    start = time.perf_counter()
    found = mixed_precision(graph, target, scheme, data, "min_max", budget)
    searched = time.perf_counter() - start
    print(_curve(found, name), flush=True)
    start = time.perf_counter()
    space = Space(graph, target, scheme, data, "min_max", budget, {}, Steps())
    units, (low, high) = len(space.made.units), space.levels
    naive = space.first_that_meets([(high,) * n + (low,) * (units - n) for n in range(units + 1)])
    plain = time.perf_counter() - start
    ends = {widths: point for point in found.points for widths in {point.widths} if len(set(widths)) == 1}
    assert found.chosen is not None
    return [
        f"| {case.title}: {name} | float | {found.float_metric:.4f} | | | |",
        *(_row(f"all {width}", ends.get((width,) * units), found, 0.0) for width in (low, high)),
        _row(f"--dtype auto --max-drop {DROP}", found.chosen, found, searched),
        _row("naive: from the input on until it is met", naive, found, plain),
    ]


def _row(label: str, point: Point | None, made: Mixed, seconds: float) -> str:
    if point is None:
        return f"| | {label} | not tried | | | |"
    wide = sum(len(unit.layers) for unit, width in zip(made.units, point.widths, strict=True) if width != made.base)
    took = f"{seconds:.0f} s" if seconds else ""
    return f"| | {label} | {point.metric:.4f} | {wide} | {point.cost:.3f} | {took} |"


def _curve(made: Mixed, metric: str) -> str:
    lines = [
        f"trade-off ({len(made.points)} assignments, {made.runs} runs for sensitivities): cost, {metric}, dB, int16"
    ]
    for point in sorted(made.points, key=lambda p: p.cost):
        wide = sum(width != made.base for width in point.widths)
        chosen = "  chosen" if point is made.chosen else ""
        lines.append(f"  {point.cost:.3f}  {point.metric:.4f}  {point.sqnr:6.2f}  {wide:3}{chosen}")
    return "\n".join(lines)


def main() -> None:
    named: Mapping[str, Case] = {case.name: case for case in CASES}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help=f"of {','.join(named)}")
    parser.add_argument("--part", choices=("passes", "mixed"), help="only this one")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} items of each, to see that everything runs")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench-quantize")
    args: Any = parser.parse_args()
    packages, limit = fetch(args.work), QUICK if args.quick else None
    work = args.work / "ranges"  # apart from the whole benchmark, which may run with fewer items
    tables: list[str] = []
    if args.part != "mixed":
        tables += ["", "| model | int8, one scale a tensor | held out | from float | quantizing | passes |",
                   "|---|---|---|---|---|---|"]  # fmt: skip
        for name in args.models.split(","):
            tables += passes(named[name], packages, work, limit)
    if args.part != "passes":
        tables += ["", "| model | widths | held out | int16 layers | cost | search |", "|---|---|---|---|---|---|"]
        tables += mixed(named["yolox_nano"], packages, work, limit)
    print("\n".join(tables))


if __name__ == "__main__":
    main()
