# SPDX-License-Identifier: Apache-2.0
"""A failing case made small: fewer outputs, steps and operands, smaller inputs, a target that lacks less.

Greedy delta debugging: a change stays where the case still fails in the same way.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from .case import How, Outcome
from .maker import Maker, Unfit
from .onnx_maker import OnnxMaker
from .program import Program, Step, Var

__all__ = ["minimize", "signature"]

Ask = Callable[[Program, str, How, int], Outcome]
#: The most cases that are tried.
TRIES = 400


def signature(outcome: Outcome) -> tuple[str, str]:
    """How a case fails, without names and numbers of values."""
    return outcome.status, re.sub(r"[vxc]\d+\w*|[-+.\de]*\d[-+.\de]*|'[^']*'", "", outcome.detail)[:60]


def minimize(program: Program, target: str, how: How, feed: int, ask: Ask) -> tuple[Program, str, How]:
    """The smallest program, target and way found that fail as these do."""
    wanted = signature(ask(program, target, how, feed))
    tries = 0

    def fails(candidate: Program, on: str, way: How) -> bool:
        nonlocal tries
        tries += 1
        return tries <= TRIES and signature(ask(candidate, on, way, feed)) == wanted

    if how != "rewrite" and fails(program, target, "rewrite"):
        how = "rewrite"
    for less in (_smaller, _shrunk):
        found: Program | None = program
        while found is not None:
            program = found
            found = next((candidate for candidate in less(program) if fails(candidate, target, how)), None)
    for simpler in _simpler(target):
        if fails(program, simpler(target), how):
            target = simpler(target)
    return program, target, how


def _smaller(program: Program) -> Iterator[Program]:
    """Programs with one thing less, the largest cuts first."""
    if len(program.outputs) > 1:
        for name in program.outputs:
            yield replace(program, outputs=(name,)).pruned()
        for name in program.outputs:
            yield replace(program, outputs=tuple(n for n in program.outputs if n != name)).pruned()
    values = program.values()
    for i in reversed(range(len(program.steps))):
        step = program.steps[i]
        rest = (*program.steps[:i], *program.steps[i + 1 :])
        # An input of what the step was given, where that has the same form, or a new input of the model.
        if len(step.outputs) == 1:
            out = step.outputs[0]
            for name in step.inputs:
                known = values.get(name)
                if known is not None and (known.shape, known.dtype) == (out.shape, out.dtype):
                    yield _renamed(replace(program, steps=rest), out.name, name).pruned()
        fed = tuple(Var(out.name, out.shape, out.dtype, min(out.scale, 8.0)) for out in step.outputs)
        if not {out.name for out in step.outputs} & {*program.outputs}:
            yield replace(program, steps=rest, inputs=(*program.inputs, *fed)).pruned()
        else:
            # Its operands instead of itself.
            before = tuple(name for name in step.inputs if name in values and name not in _fed(program))
            outputs = tuple(n for n in program.outputs if n not in {out.name for out in step.outputs})
            if before or outputs:
                yield replace(program, steps=rest, outputs=tuple(dict.fromkeys((*outputs, *before)))).pruned()


def _fed(program: Program) -> set[str]:
    """Names of the model's inputs."""
    return {v.name for v in program.inputs}


def _renamed(program: Program, old: str, new: str) -> Program:
    steps = tuple(replace(s, inputs=tuple(new if n == old else n for n in s.inputs)) for s in program.steps)
    made = program.values()
    computed = {out.name for s in steps for out in s.outputs}
    outputs = tuple(dict.fromkeys(new if n == old else n for n in program.outputs))
    # A model gives what it computes: an input alone is no output.
    return replace(program, steps=steps, outputs=tuple(n for n in outputs if n in computed and n in made))


def _shrunk(program: Program) -> Iterator[Program]:
    """Programs whose inputs are smaller along one axis."""
    for i, given in enumerate(program.inputs):
        for axis in range(given.rank):
            for n in (1, 2, given.shape[axis] // 2):
                if not 0 < n < given.shape[axis]:
                    continue
                shape = (*given.shape[:axis], n, *given.shape[axis + 1 :])
                inputs = (*program.inputs[:i], replace(given, shape=shape), *program.inputs[i + 1 :])
                made = _retyped(replace(program, inputs=inputs))
                if made is not None:
                    yield made


def _retyped(program: Program) -> Program | None:
    """The program with the shapes that follow from its inputs; None where a step does not take them."""
    make: Maker
    if program.dialect == "onnx":
        make = OnnxMaker(random.Random(0), program.opset)
    else:
        from .torch_maker import TorchMaker

        make = TorchMaker(random.Random(0), 0)
    make.inputs, make.constants = list(program.inputs), dict(program.constants)
    for step in program.steps:
        try:
            specs = make.infer(step, len(step.outputs))
        except Unfit:
            return None
        outs = tuple(replace(v, shape=s, dtype=d) for v, (s, d) in zip(step.outputs, specs, strict=True))
        make.steps.append(Step(step.op, step.inputs, outs, step.attrs, step.init))
    return replace(program, steps=tuple(make.steps))


def _simpler(target: str) -> Iterator[Callable[[str], str]]:
    """Changes to a restricted target, each of which lets it run more."""
    if not target.startswith("without:"):
        return
    missing, _, limits = target.removeprefix("without:").partition(";")
    kinds = [k for k in missing.split(",") if k]
    size = max(1, len(kinds) // 2)
    while kinds and size:
        for i in range(0, len(kinds), size):
            yield _without({*kinds[i : i + size]}, set())
        size //= 2
    for limit in filter(None, limits.split(",")):
        yield _without(set(), {limit})


def _without(kinds: set[str], limits: set[str]) -> Callable[[str], str]:
    def change(target: str) -> str:
        missing, _, kept = target.removeprefix("without:").partition(";")
        return (
            "without:" + ",".join(k for k in missing.split(",") if k not in kinds)
            + ";" + ",".join(k for k in kept.split(",") if k not in limits)
        )  # fmt: skip

    return change
