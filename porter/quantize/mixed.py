# SPDX-License-Identifier: Apache-2.0
"""Mixed precision: the cheapest width of each layer with which the model is still good enough.

1. Each layer alone gets a cheaper width while all others have the most exact one; how much worse the outputs become is
   its *sensitivity*. Errors of layers are small and hardly correlated, so that they nearly add up.
2. From all layers at the cheapest width, the layer is widened next that takes away most error for what it costs more
   (multiply-accumulates at the target's rates), until none is left: one path from the cheapest to the most exact.
3. The first assignment on the path that meets the budget is found by bisection, each time on the whole simulated model:
   the estimate only orders, it decides nothing. What turns out not to be needed is taken back at the end.

Every step takes a bounded number of runs; see :class:`Mixed`. The numbers along the way are the trade-off curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from porter.data import Data
from porter.errors import PorterError
from porter.findings import Finding
from porter.graph import Graph
from porter.latency import count
from porter.ops import Array
from porter.quantize.calibrate import Calibration, calibrate
from porter.quantize.encode import encode
from porter.quantize.flow import data_operands
from porter.quantize.insert import insert
from porter.quantize.numerics import BITS
from porter.quantize.observers import make_observer
from porter.quantize.plan import FLOAT, Plan, plan
from porter.quantize.report import Columns, column_axis
from porter.quantize.scheme import Scheme
from porter.quantize.taps import Progress, Steps
from porter.target import Target
from porter.usercode import call_by_name, run_user_code

__all__ = [
    "Budget",
    "Metric",
    "Mixed",
    "Point",
    "Predict",
    "Space",
    "Unit",
    "metric_by_name",
    "mixed_precision",
    "quality",
]

#: The model as a metric calls it: one item (arrays in the order of the inputs) to the outputs.
Predict = Callable[[Sequence[Array]], list[Array]]
#: A metric of the whole model, higher is better.
Metric = Callable[[Predict], float]

#: Layers are grouped where there are more than this: neighbours get one width.
UNITS = 128
#: Samples on which sensitivities, and qualities in dB, are measured.
SAMPLES = 4
#: Layers that are tried again at a cheaper width in the end.
_TRIES = 8
#: A quality that stands for equal outputs (dB).
_EQUAL = 200.0


@dataclass(frozen=True, slots=True)
class Budget:
    """What the quantized model must reach: at least ``min_sqnr`` dB (:func:`quality`), or a ``metric`` that is at most
    ``max_drop`` under the float model's."""

    min_sqnr: float | None = None
    max_drop: float | None = None
    metric: Metric | None = None

    def __post_init__(self) -> None:
        if (self.min_sqnr is None) == (self.max_drop is None) or (self.max_drop is None) != (self.metric is None):
            raise PorterError(
                "PT461", "mixed precision needs one budget: a smallest SQNR, or a largest drop and its metric",
                fix="Give --min-sqnr DB, or --max-drop DROP with --metric module:function.",
            )  # fmt: skip
        number = self.min_sqnr if self.min_sqnr is not None else self.max_drop
        if number is None or not math.isfinite(number) or (self.max_drop is not None and self.max_drop < 0):
            raise PorterError("PT461", f"the budget is {number}; it must be a finite number, and a drop not negative")

    def __str__(self) -> str:
        return f"SQNR at least {self.min_sqnr:g} dB" if self.metric is None else f"drop at most {self.max_drop:g}"


def metric_by_name(name: str) -> Metric:
    """The metric that ``module:function`` or ``file.py:function`` names, as :data:`Metric`.

    Raises:
        PorterError: PT515 when there is none of that name. Calling it raises PT520 when the function fails, and PT461
            when what it returns is no finite number.
    """
    function = call_by_name(name, "--metric")

    def judge(predict: Predict) -> float:
        value = run_user_code(lambda: function(predict), f"metric {name}")
        if not isinstance(value, int | float | np.number) or not math.isfinite(value):
            raise PorterError("PT461", f"{name} returned {value!r}, not a finite number", "--metric")
        return float(value)

    return judge


@dataclass(frozen=True, slots=True)
class Unit:
    """Layers that get one width together: a layer with what is computed between it and the next one, or neighbours.

    ``pins`` name its ops as :func:`porter.quantize.plan.plan` takes them, ``layers`` are its paths.
    """

    pins: tuple[str, ...]
    layers: tuple[str, ...]
    macs: int


@dataclass(frozen=True, slots=True)
class Point:
    """One assignment that was tried: the widths by unit, its cost (1: everything at the cheapest width), its quality in
    dB, the metric where there is one, and whether it meets the budget."""

    widths: tuple[str, ...]
    cost: float
    sqnr: float
    metric: float | None
    meets: bool


@dataclass(slots=True)
class Mixed:
    """What :func:`mixed_precision` found.

    Fields:
        widths: the candidates, cheapest first, with the cost of a multiply-accumulate relative to the cheapest.
        units: in topological order.
        sensitivity: for each unit, by width, the relative error (noise over signal) that it adds to the outputs beyond
            what the next stage's most exact width does.
        points: every assignment tried; ``chosen`` is the cheapest of those that meet the budget.
        float_metric: of the float model, where there is a metric.
        runs: of the model for sensitivities; each point takes SAMPLES more, and one call of the metric.
    """

    widths: dict[str, float]
    budget: Budget
    units: list[Unit]
    sensitivity: list[dict[str, float]] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    chosen: Point | None = None
    float_metric: float | None = None
    runs: int = 0
    notes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def base(self) -> str:
        """The width of everything that :attr:`pins` does not name."""
        return next(iter(self.widths))

    @property
    def pins(self) -> dict[str, str]:
        """The chosen widths that differ from :attr:`base`, by pin."""
        if self.chosen is None:
            return {}
        return _pins(self.units, self.chosen.widths, self.base)

    @property
    def layers(self) -> dict[str, int]:
        """How many layers have each width."""
        counts = dict.fromkeys(self.widths, 0)
        for unit, width in zip(self.units, self.chosen.widths if self.chosen else (), strict=True):
            counts[width] = counts.get(width, 0) + len(unit.layers)
        return counts

    @property
    def curve(self) -> list[Point]:
        """The assignments tried, cheapest first, without those that a cheaper and better one beats."""
        best: list[Point] = []
        for point in sorted(self.points, key=lambda p: (p.cost, -_value(p))):
            if not best or _value(point) > _value(best[-1]):
                best.append(point)
        return best

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": "1.0",
            "budget": {"min_sqnr": self.budget.min_sqnr, "max_drop": self.budget.max_drop},
            "float_metric": self.float_metric,
            "relative_cost": self.widths,
            "runs": self.runs,
            "notes": self.notes,
            "layers": [
                {
                    "layers": list(unit.layers), "macs": unit.macs,
                    "width": self.chosen.widths[index] if self.chosen else None,
                    "relative_error": self.sensitivity[index] if self.sensitivity else {},
                }
                for index, unit in enumerate(self.units)
            ],
            "points": [
                {
                    "cost": point.cost, "sqnr_db": point.sqnr, "metric": point.metric, "meets": point.meets,
                    "chosen": point is self.chosen,
                    "layers": {
                        width: sum(len(u.layers) for u, w in zip(self.units, point.widths, strict=True) if w == width)
                        for width in self.widths
                    },
                }
                for point in sorted(self.points, key=lambda p: p.cost)
            ],
        }  # fmt: skip


def _value(point: Point) -> float:
    return point.sqnr if point.metric is None else point.metric


def _pins(units: Sequence[Unit], widths: Sequence[str], base: str) -> dict[str, str]:
    return {pin: width for unit, width in zip(units, widths, strict=True) if width != base for pin in unit.pins}


def _columns(graph: Graph) -> dict[int, Columns]:
    return {
        index: Columns(column_axis(value.shape))
        for index, value in enumerate(graph.outputs)
        if (value.dtype or "").startswith("float") and value.shape
    }


def _noise(columns: Mapping[int, Columns]) -> float:
    """The largest relative error of an output: noise over signal, the mean over its columns that are not zero."""
    worst = 0.0
    for column in columns.values():
        alive = np.abs(column.reference_range).max(1) > 0
        if alive.any():
            worst = max(worst, float(np.mean(np.minimum(10 ** (-column.sqnr[alive] / 10), 1e6))))
    return worst


def quality(noise: float) -> float:
    """A relative error in dB; 200 for none."""
    return min(-10 * math.log10(noise), _EQUAL) if noise > 0 else _EQUAL


class Space:
    """The assignments of widths to the layers of one model: builds, measures and remembers them.

    Args:
        data: calibrates, and its first samples are those on which errors are measured.
        pins: the user's; layers that they name keep what they say.
        target: its rates decide what a width costs.
    """

    def __init__(
        self,
        graph: Graph,
        target: Target,
        scheme: Scheme,
        data: Data,
        observer: str,
        budget: Budget,
        pins: Mapping[str, str],
        steps: Steps,
    ) -> None:
        self._graph, self._scheme, self._data, self._observer, self._pins = graph, scheme, data, observer, pins
        self._steps = steps
        costs, notes = _costs(target, scheme)
        self.made = Mixed(costs, budget, [], notes=notes)
        #: The widths among which the search chooses now, cheapest first.
        self.levels = [name for name in costs if name != FLOAT]
        self.made.units = _units(graph, scheme, self.levels, pins)
        if not self.made.units:
            raise PorterError(
                "PT462", "the pins leave no layer whose width could be chosen",
                fix="Take a pin away, or name one dtype.",
            )  # fmt: skip
        self._ranges = _Ranges(graph, data, observer, steps, plan(graph, scheme, width=self.levels[0], findings=[]))
        self._items = data.take(SAMPLES)
        self._reference = [graph.run(item) for item in self._items]
        if budget.metric is not None:
            self.made.float_metric = float(budget.metric(graph.run))
        self._tried: dict[tuple[str, ...], Point] = {}

    def simulated(self, widths: Sequence[str]) -> Graph:
        """The model with these widths, one for each unit."""
        base = self.made.base
        pins = {**self._pins, **_pins(self.made.units, widths, base)}
        planned = plan(self._graph, self._scheme, width=base, pins=pins, findings=[])
        if not any(site.quantized for site in planned.sites):
            return self._graph
        calibration = self._ranges.of(planned)
        return insert(self._graph, encode(self._graph, planned, calibration, len(self._data), []))

    def noise(self, simulated: Graph) -> float:
        """The relative error of the outputs on the first samples."""
        columns = _columns(self._graph)
        for item, reference in zip(self._items, self._reference, strict=True):
            got = simulated.run(item)
            for index, column in columns.items():
                column.add(reference[index], got[index])
        return _noise(columns)

    def cost(self, widths: Sequence[str]) -> float:
        """Relative to everything at the cheapest width."""
        units = self.made.units
        total = sum(max(unit.macs, 1) for unit in units)
        return sum(max(u.macs, 1) * self.made.widths[w] for u, w in zip(units, widths, strict=True)) / total

    def point(self, widths: Sequence[str]) -> Point:
        """Try one assignment on the whole simulated model (once: a second time it is remembered)."""
        key = tuple(widths)
        if key not in self._tried:
            budget, simulated = self.made.budget, self.simulated(key)
            sqnr, metric = quality(self.noise(simulated)), None
            if budget.metric is not None and budget.max_drop is not None and self.made.float_metric is not None:
                metric = float(budget.metric(simulated.run))
                meets = metric >= self.made.float_metric - budget.max_drop
            else:
                meets = sqnr >= (budget.min_sqnr or 0.0)
            self._tried[key] = Point(key, self.cost(key), sqnr, metric, meets)
            self.made.points.append(self._tried[key])
            self._steps()
        return self._tried[key]

    def sensitivities(self) -> None:
        """What each unit adds at each level but the last, everything else at the last.

        Float is another matter: each unit is measured alone in float, everything else at the level before it, and what
        goes away is counted; islands in a float model would not show what they do in a quantized one.
        """
        names, units = self.levels, self.made.units
        floating = names[-1] == FLOAT
        others = names[-2] if floating else names[-1]
        uniform = [others] * len(units)
        floor = self.noise(self.simulated(uniform))
        self.made.sensitivity = self.made.sensitivity or [{} for _ in units]
        self._steps.total += len(units) * (len(names) - 1)
        for index, found in enumerate(self.made.sensitivity):
            for width in names[-1:] if floating else names[:-1]:
                alone = self.noise(self.simulated([*uniform[:index], width, *uniform[index + 1 :]]))
                found[others if floating else width] = max(floor - alone if floating else alone - floor, 0.0)
                self._steps()
        self.made.runs += (1 + len(units) * (len(names) - 1)) * len(self._items)

    def path(self) -> list[tuple[str, ...]]:
        """From everything at the cheapest level to everything at the last, the most gain for its cost first."""
        names, units = self.levels, self.made.units
        rates = [self.made.widths[name] for name in names]
        error = [[found.get(name, 0.0) for name in names[:-1]] + [0.0] for found in self.made.sensitivity]
        level = [0] * len(units)
        steps = [tuple(names[0] for _ in units)]

        def worth(move: tuple[int, int]) -> float:
            unit, to = move
            extra = max(units[unit].macs, 1) * (rates[to] - rates[level[unit]])
            return (error[unit][level[unit]] - error[unit][to]) / extra

        while any(at < len(names) - 1 for at in level):
            moves = [(unit, to) for unit, at in enumerate(level) for to in range(at + 1, len(names))]
            unit, to = max(moves, key=worth)
            level[unit] = to
            steps.append(tuple(names[at] for at in level))
        return steps

    def first_that_meets(self, steps: Sequence[tuple[str, ...]]) -> Point:
        """By bisection, an assignment of a path that meets the budget while the one before it does not.

        The last must meet it.
        """
        low, high = -1, len(steps) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.point(steps[middle]).meets:
                high = middle
            else:
                low = middle
        return self.point(steps[high])

    def trimmed(self, start: Point) -> Point:
        """Layers put back to the cheapest level, as long as the budget is met: those first that save most for their
        error."""
        cheap, rates, best = self.levels[0], self.made.widths, start
        wide = [index for index, width in enumerate(start.widths) if width != cheap]

        def price(index: int) -> float:
            saved = max(self.made.units[index].macs, 1) * (rates[start.widths[index]] - rates[cheap])
            return self.made.sensitivity[index].get(cheap, 0.0) / saved

        for index in sorted(wide, key=price)[:_TRIES]:
            trial = self.point([*best.widths[:index], cheap, *best.widths[index + 1 :]])
            if trial.meets:
                best = trial
        return best


def mixed_precision(
    graph: Graph,
    target: Target,
    scheme: Scheme,
    data: Data,
    observer: str,
    budget: Budget,
    *,
    pins: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Mixed:
    """Choose the width of each layer; see the module.

    Args:
        data: calibration samples.
        observer: of activations.
        budget: what the whole model must reach.
        pins: layers whose width is given.
        progress: called with (done, total) of what is left to do, as far as it is known.

    Returns:
        what was found. Where even the most exact widths miss the budget, they are chosen and finding PT460 says so.

    Raises:
        PorterError: PT461 a budget that is none; PT462 nothing to choose; PT520 the metric fails; and what
            :func:`porter.quantize.plan.plan` and the calibration raise.
    """
    space = Space(graph, target, scheme, data, observer, budget, pins or {}, Steps(progress))
    made = space.made
    while True:
        cheapest, exact = (space.point([name] * len(made.units)) for name in (space.levels[0], space.levels[-1]))
        if cheapest.meets:
            made.chosen = cheapest
        elif exact.meets:
            space.sensitivities()
            made.chosen = space.trimmed(space.first_that_meets(space.path()))
        elif FLOAT in made.widths and FLOAT not in space.levels:
            space.levels = [space.levels[-1], FLOAT]
            continue
        else:
            made.chosen = exact
            got = f"{exact.sqnr:.1f} dB" if exact.metric is None else f"{exact.metric:.4f} of {made.float_metric:.4f}"
            made.findings.append(
                Finding("PT460", "error", f"the budget ({budget}) is not met by any assignment: with every layer at "
                        f"{space.levels[-1]} the model reaches {got}", fix="Choose a budget that can be met.")
            )  # fmt: skip
        return made


class _Ranges:
    """What every value that a plan of the model may quantize was seen to hold: observed once, each by itself."""

    def __init__(self, graph: Graph, data: Data, observer: str, steps: Steps, planned: Plan) -> None:
        names = {name for sources in planned.observed.values() for name in sources} | set(planned.fused)
        for site in planned.sites:
            names.update(value.name for value in (*data_operands(site.op), site.output, site.result))
        self._observer = observer
        groups = {name: (name,) for name in sorted(names)}
        self._seen = calibrate(graph, groups, data, observer, channels=planned.channels, steps=steps)

    def of(self, planned: Plan) -> Calibration:
        """The calibration of a plan's groups."""
        observers = {}
        for group, sources in planned.observed.items():
            observers[group] = self._seen.observers[sources[0]]
            if len(sources) > 1:
                observers[group] = make_observer(self._observer)
                for name in sources:
                    observers[group].merge(self._seen.observers[name])
        channels = {group: self._seen.channels[group] for group in planned.channels if group in self._seen.channels}
        return Calibration(observers, channels)


def _costs(target: Target, scheme: Scheme) -> tuple[dict[str, float], list[str]]:
    """The widths to choose from, cheapest first, with the cost of a multiply-accumulate relative to the cheapest.

    Of widths that cost the same only the most exact is left.
    """
    rates = {**target.performance.tops, **target.performance.measured_tops}
    notes: list[str] = []
    bits = {name: max(BITS[w.weight], BITS[w.activation]) for name, w in scheme.widths.items()}
    total = {name: BITS[w.weight] + BITS[w.activation] for name, w in scheme.widths.items()}
    if scheme.flow == "tensors" and scheme.mixes_floats:
        bits[FLOAT], total[FLOAT] = 32, 64
    costs: dict[str, float] = {}
    for name in bits:
        key = "float32" if name == FLOAT else name if name in rates else f"int{bits[name]}"
        if rates.get("int8") and rates.get(key):
            costs[name] = rates["int8"] / rates[key]
        else:
            costs[name] = bits[name] / 8
            if bits[name] > 8:
                notes.append(f"{target.name}'s file has no rate for {name}: 1/{bits[name] // 8} of int8's is assumed")
    kept: dict[str, float] = {}
    for name in sorted(costs, key=lambda n: (costs[n], -total[n])):
        if not any(costs[other] == costs[name] for other in kept):
            kept[name] = costs[name]
    least = min(kept.values())
    return {name: cost / least for name, cost in kept.items()}, notes


def _units(graph: Graph, scheme: Scheme, widths: Sequence[str], pins: Mapping[str, str]) -> list[Unit]:
    """The layers whose width is free, each with the ops that are quantized between it and the next."""
    first, last = (plan(graph, scheme, width=width, pins=pins, findings=[]) for width in (widths[0], widths[-1]))
    others = {site.output.name: site.width for site in last.sites}
    free = {
        site.output.name
        for site in first.sites
        if site.quantized and (len(widths) == 1 or others.get(site.output.name) != site.width)
    }
    macs = {c.op.outputs[0].name: c.macs for c in count(graph)}
    sites = {site.output.name: site for site in first.sites}
    owner: dict[str, str] = {}
    members: dict[str, list[str]] = {}
    work: dict[str, int] = {}
    for op in graph.ops():
        name = op.outputs[0].name
        site = sites.get(name)
        found = next((owner[v.name] for v in op.operands if v.name in owner), None)
        if site is not None and name in free:
            if site.weighted:
                found = site.path
                members.setdefault(found, []).append(site.path)
                work[found] = work.get(found, 0) + macs[name]
            elif found is not None:
                members[found].append(name)
        if found is not None:
            owner.update((out.name, found) for out in op.outputs)
    layers = list(members)
    share = -(-len(layers) // UNITS)
    return [
        Unit(
            tuple(dict.fromkeys(pin for path in layers[i : i + share] for pin in members[path])),
            tuple(layers[i : i + share]),
            sum(work[path] for path in layers[i : i + share]),
        )
        for i in range(0, len(layers), max(share, 1))
    ]
