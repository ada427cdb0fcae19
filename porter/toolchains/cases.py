# SPDX-License-Identifier: Apache-2.0
"""Models of one op for a compiler to judge: an ordinary one of each kind, and what varies about it.

Extents differ along every axis, so that an output whose axes were reordered shows itself. Values that a function is not
defined for (the logarithm of a negative number) are not fed to it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from porter.limits import parse
from porter.op_facts import fact_names
from porter.ops import Array, Op, Value

__all__ = ["Case", "Choice", "Range", "Spec", "base_case", "cases", "combinations", "led", "random_feeds"]

Params = Mapping[str, Any]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """A number that is varied: the fact that a limit on it names, and the parameters that give it each value."""

    fact: str
    values: tuple[int, ...]
    give: Callable[[int], Params]


@dataclass(frozen=True, slots=True)
class Choice:
    """A property that an op has or has not: the condition that says so, and the parameters that give it."""

    condition: str
    params: Params


@dataclass(frozen=True, slots=True)
class Spec:
    """How ops of a kind are made, and what is varied.

    ``domain`` bounds the values fed to the op; ``whole`` rounds them, so that some are equal whatever the precision.
    """

    kind: str
    build: Callable[..., list[Op]]
    params: Params = field(default_factory=dict)
    varied: tuple[Range | Choice, ...] = ()
    domain: tuple[float, float] = (-2.0, 2.0)
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One model: the op that is asked about, all ops in the order of computation, and what is particular (``label``).

    What else there is only makes a bool of floats before the op, or floats of its result.
    """

    kind: str
    label: str
    op: Op
    ops: tuple[Op, ...]
    domain: tuple[float, float]
    varied: Range | Choice | None = None
    value: int | None = None
    whole: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind} [{self.label}]"

    @property
    def inputs(self) -> list[Value]:
        """The values that the model takes: what no op of it computes and no constant is."""
        made = {out.name for op in self.ops for out in op.outputs}
        values = (value for op in self.ops for value in op.operands)
        return list({v.name: v for v in values if not v.is_const and v.name not in made}.values())

    @property
    def outputs(self) -> list[Value]:
        read = {value.name for op in self.ops for value in op.operands}
        return [out for op in self.ops for out in op.outputs if out.name not in read]


def base_case(spec: Spec) -> Case:
    """The ordinary op of a kind."""
    return _case(spec, "plain", {})


def cases(spec: Spec) -> Iterator[Case]:
    """The ordinary op of a kind, then one for each value and property that is varied."""
    plain = base_case(spec)
    yield plain
    for varied in spec.varied:
        if isinstance(varied, Choice):
            yield _case(spec, varied.condition, varied.params, varied)
        else:
            for value in varied.values:
                yield at(spec, varied, value)


def at(spec: Spec, varied: Range, value: int) -> Case:
    """The case in which the number that ``varied`` names is ``value``."""
    return _case(spec, f"{varied.fact} == {value}", varied.give(value), varied, value)


def combinations(spec: Spec, count: int, seed: int) -> Iterator[Case]:
    """Up to ``count`` cases in which two things are varied at once; the same for the same seed."""
    pairs = list(itertools.combinations(spec.varied, 2))
    rng = random.Random(f"{seed}:{spec.kind}")
    seen: set[tuple[str, ...]] = set()
    for _ in range(count * 4):
        if not pairs or len(seen) == count:
            return
        label, params = [], dict[str, Any]()
        for varied in rng.choice(pairs):
            if isinstance(varied, Choice):
                new, text = varied.params, varied.condition
            else:
                value = rng.choice(varied.values)
                new, text = varied.give(value), f"{varied.fact} >= {value}"
            if set(new) & set(params):
                break
            params.update(new)
            label.append(text)
        else:
            made = None if tuple(label) in seen else _possible(spec, " and ".join(label), params)
            if made is not None:
                seen.add(tuple(label))
                yield made


def _possible(spec: Spec, label: str, params: Params) -> Case | None:
    """The case, or None when there is no such op (a kernel larger than its input)."""
    try:
        made = _case(spec, label, params)
    except (ValueError, IndexError, TypeError):
        return None
    if not all(v.shape is not None and min(v.shape, default=1) > 0 for v in made.outputs):
        return None
    names = fact_names(spec.kind)
    holds = parse(label, names).holds(lambda name: names[name](made.op))[0]
    return made if holds else None  # two properties can exclude each other


def _case(
    spec: Spec, label: str, params: Params, varied: Range | Choice | None = None, value: int | None = None
) -> Case:
    ops = spec.build(spec.kind, **{**spec.params, **params})
    return Case(spec.kind, label, ops[0], _ordered(ops), spec.domain, varied, value, spec.whole)


def _ordered(ops: list[Op]) -> tuple[Op, ...]:
    """The ops so that each comes after those that compute its operands."""
    made = {out.name: op for op in ops for out in op.outputs}
    found: dict[str, Op] = {}

    def visit(op: Op) -> None:
        for value in op.operands:
            if value.name in made:
                visit(made[value.name])
        found.setdefault(op.outputs[0].name, op)

    for op in ops:
        visit(op)
    return tuple(found.values())


def led(case: Case, before: Collection[int], after: Collection[int] = ()) -> Case:
    """The case between 1x1 convolutions that change nothing: before each input, and after each output, of those ranks
    (3 to 5).

    A compiler tells the batch axis, or the layout, from the layers around an op: of an op alone it may take another.
    """
    front = [
        _one(_like(value, f"{value.name}_in"), value, f"{value.name}_lead")
        for value in case.inputs
        if value.dtype == "float32" and value.rank in before
    ]
    back = [
        _one(value, _like(value, f"{value.name}_out"), f"{value.name}_trail")
        for value in case.outputs
        if value.dtype == "float32" and value.rank in after
    ]
    return replace(case, ops=(*front, *case.ops, *back))


def _like(value: Value, name: str) -> Value:
    """Another value of the same type."""
    return Value(name, value.shape, value.dtype)


def _one(x: Value, y: Value, name: str) -> Op:
    """The convolution by an identity matrix from one value to another."""
    shape = x.shape or ()
    spatial = len(shape) - 2
    weight = np.eye(shape[1], dtype=np.float32).reshape(shape[1], shape[1], *(1,) * spatial)
    attrs = {"stride": (1,) * spatial, "padding": ((0, 0),) * spatial, "dilation": (1,) * spatial, "groups": 1}
    return Op(f"conv{spatial}d", (x, Value.constant(f"{name}_w", weight), None), (y,), attrs, name)


def random_feeds(case: Case, seed: int) -> dict[str, Array]:
    """Inputs for the case, uniform in its domain (integers: indices that are small enough for any axis here)."""
    rng = np.random.default_rng(seed)
    low, high = case.domain
    feeds: dict[str, Array] = {}
    for value in case.inputs:
        shape = value.shape or ()
        if value.dtype == "float32":
            values = rng.uniform(low, high, shape)
            feeds[value.name] = (np.round(values) if case.whole else values).astype(np.float32)
        elif value.dtype == "bool":
            feeds[value.name] = rng.random(shape) < 0.5
        else:
            feeds[value.name] = rng.integers(0, 4, shape).astype(value.dtype)
    return feeds
