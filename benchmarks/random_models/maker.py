# SPDX-License-Identifier: Apache-2.0
"""What the grammars grow programs with: a pool of values to read from, constants, and shapes inferred at each step."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from .program import Const, Program, Step, Var

__all__ = ["Maker", "Production", "Unfit", "grow", "production"]


class Unfit(Exception):
    """A production finds nothing that it can read."""


Production = Callable[[Any], Any]

#: The most elements of a value: a model runs in milliseconds.
MOST = 9000


class Maker(ABC):
    """Grows one program. ``rng`` alone decides: no clock, no hash order, no numbers that were computed."""

    def __init__(self, rng: random.Random, opset: int) -> None:
        self.rng = rng
        self.opset = opset
        self.inputs: list[Var] = []
        self.constants: dict[str, Const] = {}
        self.steps: list[Step] = []
        self.pool: list[Var] = []
        self.fresh: list[Var] = []
        self._names = 0

    # -- names, values ---------------------------------------------------------------------------

    def name(self, prefix: str = "v") -> str:
        self._names += 1
        return f"{prefix}{self._names}"

    def input(self, shape: Sequence[int], dtype: str = "float32", scale: float = 2.0) -> Var:
        made = Var(self.name("x"), tuple(shape), dtype, scale)
        self.inputs.append(made)
        self.pool.append(made)
        return made

    def const(self, shape: Sequence[int], dtype: str = "float32", low: float = -1.0, high: float = 1.0) -> Var:
        name = self.name("c")
        self.constants[name] = Const(tuple(shape), dtype, self.rng.randrange(1 << 30), low, high)
        return Var(name, tuple(shape), dtype, max(abs(low), abs(high)))

    def values(self, values: Any, dtype: str = "int64", shape: Sequence[int] | None = None) -> Var:
        """A constant of these values; a scalar for a number."""
        flat = tuple(values) if isinstance(values, Sequence) else (values,)
        extent = tuple(shape) if shape is not None else (len(flat),) if isinstance(values, Sequence) else ()
        name = self.name("c")
        self.constants[name] = Const(extent, dtype, values=flat)
        scale = max((abs(float(v)) for v in flat), default=0.0)
        return Var(name, extent, dtype, scale)

    def weight(self, *shape: int, fan: int, dtype: str = "float32") -> Var:
        """A weight that keeps the size of what it is multiplied with, and sometimes one that was used before."""
        bound = (3.0 / max(fan, 1)) ** 0.5
        same = [
            name
            for name, const in self.constants.items()
            if const.shape == shape and const.dtype == dtype and const.high == bound
        ]
        if same and self.rng.random() < 0.4:
            return Var(same[-1], shape, dtype, bound)
        return self.const(shape, dtype, -bound, bound)

    # -- picking -----------------------------------------------------------------------------------

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def pick(self, fits: Callable[[Var], bool], recent: float = 0.6) -> Var:
        """A value of the pool that fits; with ``recent`` probability one of the last few, so that chains grow."""
        found = [v for v in self.pool if fits(v)]
        if not found:
            raise Unfit
        return self.rng.choice(found[-3:] if self.rng.random() < recent else found)

    def real(self, *ranks: int, least: int = 1, dtype: str = "") -> Var:
        """A float value of one of these ranks (any where none is named), and a new input where there is none."""
        try:
            return self.pick(
                lambda v: (
                    v.floats
                    and (not ranks or v.rank in ranks)
                    and (not dtype or v.dtype == dtype)
                    and min(v.shape, default=1) >= least
                )
            )
        except Unfit:
            if len(self.inputs) >= 5 or not ranks:
                raise
            extents = (1, 2, 3, 5, 6, 7, 8)
            shape = [self.rng.choice([n for n in extents if n >= least]) for _ in range(self.rng.choice(ranks))]
            return self.input(shape, dtype or "float32")

    def image(self, rank: int = 4, channels: Sequence[int] = (1, 2, 3, 4, 6, 8), least: int = 4) -> Var:
        """A float value (N, C, ...) whose spatial axes are ``least`` or more."""
        try:
            return self.pick(lambda v: v.floats and v.rank == rank and min(v.shape[2:]) >= least and v.shape[1] <= 48)
        except Unfit:
            if len(self.inputs) >= 5:
                raise
            extents = [n for n in (4, 5, 7, 8, 9, 11, 12) if n >= least]
            spatial = [self.rng.choice(extents) for _ in range(rank - 2)]
            return self.input([self.rng.choice((1, 1, 2)), self.rng.choice(channels), *spatial])

    def axis(self, rank: int) -> int:
        """An axis of a value of this rank, negative in two of five cases."""
        axis = self.rng.randrange(rank)
        return axis - rank if self.chance(0.4) else axis

    def some_axes(self, rank: int, most: int = 3) -> list[int]:
        axes = sorted(self.rng.sample(range(rank), self.rng.randint(1, min(rank, most))))
        return [a - rank for a in axes] if self.chance(0.3) else axes

    def broadcast(self, shape: Sequence[int]) -> tuple[int, ...]:
        """A shape that broadcasts to this one: axes dropped in front, some others of extent 1."""
        keep = self.rng.randrange(len(shape) + 1) if self.chance(0.5) else 0
        return tuple(1 if self.chance(0.3) else n for n in shape[keep:])

    def divisor(self, number: int) -> int:
        return self.rng.choice([d for d in range(1, number + 1) if number % d == 0])

    # -- growing -----------------------------------------------------------------------------------

    @abstractmethod
    def infer(self, step: Step, count: int) -> list[tuple[tuple[int, ...], str]]:
        """Shapes and dtypes of the results. Raises ``Unfit`` where the step is not valid."""

    def step(
        self, op: str, inputs: Sequence[Var | None], count: int, scale: float | None, attrs: Any, init: str = ""
    ) -> list[Var]:
        """One more step; its results. ``scale``: of the results, where it is not that of the largest input."""
        bare = Step(op, tuple("" if v is None else v.name for v in inputs), (), attrs, init)
        specs = self.infer(bare, count)
        if any(0 in shape or _size(shape) > MOST or len(shape) > 6 for shape, _ in specs):
            raise Unfit
        size = scale if scale is not None else max((v.scale for v in inputs if v is not None), default=1.0)
        outs = [Var(self.name(), shape, dtype, size if dtype != "bool" else 1.0) for shape, dtype in specs]
        self.steps.append(replace(bare, outputs=tuple(outs)))
        self.fresh += outs
        return outs

    @abstractmethod
    def program(self, outputs: Sequence[Var]) -> Program: ...


def _size(shape: Sequence[int]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def production(table: list[tuple[float, Production]], weight: float = 1.0) -> Callable[[Production], Production]:
    """Add a production to a grammar's table."""

    def add(function: Production) -> Production:
        table.append((weight, function))
        return function

    return add


def grow(make: Maker, table: Sequence[tuple[float, Production]], count: int) -> Program:
    """Let ``count`` productions, drawn by their weights, each add to the pool; what nobody reads becomes an output.

    A production that does not fit leaves nothing behind. At most six values are given.
    """
    # Swarm testing (Groce et al., ISSTA 2012): a model that has little of most things has much of some.
    weights = [weight * make.rng.choice((0.2, 1.0, 1.0, 4.0)) for weight, _ in table]
    done = 0
    for _ in range(40 * count):
        if done >= count:
            break
        function = make.rng.choices(table, weights)[0][1]
        mark = len(make.inputs), len(make.steps), len(make.pool), len(make.constants)
        make.fresh = []
        try:
            function(make)
        except Unfit:
            _undo(make, mark)
            continue
        done += 1
        # Intermediate values of a production are read again now and then, which keeps a rule from taking them in.
        make.pool += [v for i, v in enumerate(make.fresh) if i + 1 == len(make.fresh) or make.chance(0.15)]
    read = {name for step in make.steps for name in step.inputs}
    ends = [out for step in make.steps for out in step.outputs if out.name not in read]
    kept = ends if len(ends) <= 5 else make.rng.sample(ends, 5)
    inner = [v for v in make.pool if v.name in read and v not in make.inputs]
    if inner and make.chance(0.3):
        kept.append(make.rng.choice(inner))
    return make.program(kept).pruned()


def _undo(make: Maker, mark: tuple[int, int, int, int]) -> None:
    inputs, steps, pool, constants = mark
    del make.inputs[inputs:], make.steps[steps:], make.pool[pool:]
    for name in list(make.constants)[constants:]:
        del make.constants[name]
