# SPDX-License-Identifier: Apache-2.0
"""Programs of torch expressions: shapes by torch itself, on tensors without data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .maker import Maker, Production, Unfit
from .program import Program, Step, Var

__all__ = ["TORCH", "TorchMaker"]

#: The productions, with their weights.
TORCH: list[tuple[float, Production]] = []


class TorchMaker(Maker):
    """Grows a program of torch expressions."""

    def call(self, code: str, *inputs: Var, scale: float | None = None, init: str = "") -> Var:
        """One expression of one result; ``{0}`` is the first input, ``{m}`` the submodule that ``init`` makes."""
        return self.step(code, inputs, 1, scale, {}, init)[0]

    def calls(self, code: str, *inputs: Var, n: int, scale: float | None = None) -> list[Var]:
        """One expression of ``n`` results."""
        return self.step("*" + code, inputs, n, scale, {})

    def module(self, made: str, x: Var, scale: float | None = None, code: str = "{m}({0})") -> Var:
        """A submodule; now and then the same one as before, on another value."""
        known = [step.init for step in self.steps if step.init.partition("#")[0] == made]
        mark = known[-1] if known and self.chance(0.3) else f"{made}#{len(self.steps)}"
        return self.call(code, x, scale=scale, init=mark)

    def infer(self, step: Step, count: int) -> list[tuple[tuple[int, ...], str]]:
        known = {v.name: v for v in [*self.inputs, *(out for s in self.steps for out in s.outputs)]}
        tensors = []
        for name in step.inputs:
            found: Any = self.constants.get(name) or known[name]
            tensors.append(torch.empty(found.shape, dtype=getattr(torch, found.dtype), device="meta"))
        names = {f"t{i}": t for i, t in enumerate(tensors)}
        scope: dict[str, Any] = {"torch": torch, "F": F, "nn": nn, **names}
        code = step.op.lstrip("*").format(*names, m="module")
        try:
            with torch.device("meta"), torch.no_grad():
                if step.init:
                    scope["module"] = eval(step.init.partition("#")[0], scope).eval()
                results = eval(code, scope)
        except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as wrong:
            raise Unfit from wrong
        if isinstance(results, torch.Tensor):
            results = (results,)
        if len(results) != count:
            raise Unfit
        return [(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in results]

    def program(self, outputs: Sequence[Var]) -> Program:
        return Program(
            "torch", 0, tuple(self.inputs), dict(self.constants), tuple(self.steps), tuple(v.name for v in outputs)
        )

    def tame(self, x: Var, most: float) -> Var:
        if x.scale <= most:
            return x
        squashed = self.call("torch.tanh({0})", x, scale=1.0)
        return squashed if most >= 1 else self.call(f"{{0}} * {most}", squashed, scale=most)

    def positive(self, x: Var, least: float) -> Var:
        return self.call(f"{{0}}.abs() + {least}", x, scale=x.scale + least)
