# SPDX-License-Identifier: Apache-2.0
"""A graph written by hand, for tests of what is made from graphs: its values come from the test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from porter.graph import Graph
from porter.infer import infer
from porter.ops import KINDS, Array, Op, Origin, Value
from porter.rewrite import Fragment


class HandGraph(Graph):
    """Ops in the order in which :meth:`add` was called. It cannot run: tests bring the values they expect."""

    dialect = "hand"

    def __init__(self, **inputs: Array) -> None:
        self.inputs = [Value(name, data.shape, str(data.dtype)) for name, data in inputs.items()]
        self.outputs: list[Value] = []
        self.source = "handmade"
        self._ops: list[Op] = []

    def add(
        self, kind: str, *inputs: Value | Array | float | None, origin: Origin | None = None, **attrs: Any
    ) -> tuple[Value, ...]:
        """One op; arrays and numbers become constants called c0, c1, ...; optional operands may be left out."""
        operands = tuple(v if v is None or isinstance(v, Value) else self.const(v) for v in inputs)
        declared = KINDS[kind].inputs.split()
        if not any(name.endswith("*") for name in declared):
            operands += (None,) * (len(declared) - len(operands))
        n = len(self._ops)
        specs = infer(kind, operands, attrs)
        outs = tuple(Value(f"v{n}_{i}", shape, dtype) for i, (shape, dtype) in enumerate(specs))
        self._ops.append(Op(kind, operands, outs, attrs, f"{kind}_{n}", origin or Origin()))
        self.outputs = list(outs)
        return outs

    def const(self, data: Any, name: str | None = None) -> Value:
        self._constants = getattr(self, "_constants", -1) + 1
        array = np.asarray(data, np.float32) if isinstance(data, float) else np.asarray(data)
        return Value.constant(name or f"c{self._constants}", array)

    def ops(self) -> list[Op]:
        return list(self._ops)

    def replace(self, replacements: Iterable[tuple[Op, Fragment]]) -> None:
        raise NotImplementedError

    def evaluate(self, values: Sequence[Value], limit: int) -> dict[str, Array]:
        raise NotImplementedError

    def run(
        self, inputs: Sequence[Array] | Mapping[str, Array], taps: Sequence[str] = (), *, fast: bool = False
    ) -> list[Array]:
        raise NotImplementedError

    def apply(self, op: Op, operands: Sequence[Array | None]) -> list[Array]:
        raise NotImplementedError

    def copy(self) -> Graph:
        raise NotImplementedError

    def with_outputs(self, names: Sequence[str]) -> Graph:
        raise NotImplementedError

    def part(self, inputs: Sequence[str], outputs: Sequence[str]) -> Graph:
        raise NotImplementedError

    def with_constants(self, data: Mapping[str, Array]) -> Graph:
        raise NotImplementedError

    def save(self, path: Path, ledger: Mapping[str, Any] | None = None) -> None:
        raise NotImplementedError
