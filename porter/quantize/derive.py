# SPDX-License-Identifier: Apache-2.0
"""Extremes that need no look at a tensor: of a function that never falls, they are its values at the input's extremes.

Fetching a tensor costs more than computing it, and keeps the runtime from fusing what makes it with what reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from porter.graph import Graph
from porter.ops import Array, Op

__all__ = ["RISING", "Derived", "derived"]


def _sigmoid(op: Op, x: Array) -> Array:
    wide = x.astype(np.float64)
    return np.asarray(np.exp(-np.logaddexp(0.0, -wide)))  # does not overflow


def _clamp(op: Op, x: Array) -> Array:
    low, high = op.attrs["min"], op.attrs["max"]
    return np.clip(x, -np.inf if low is None else low, np.inf if high is None else high)


#: Kinds of one operand that never fall, and what they compute.
RISING: Mapping[str, Callable[[Op, Array], Array]] = {
    "relu": lambda op, x: np.maximum(x, 0),
    "relu6": lambda op, x: np.clip(x, 0, 6),
    "clamp": _clamp,
    "sigmoid": _sigmoid,
    "tanh": lambda op, x: np.tanh(x.astype(np.float64)),
}


@dataclass(frozen=True, slots=True)
class Derived:
    """A value, the op that makes it, and the value of whose extremes its own come."""

    name: str
    op: Op
    source: str

    def of(self, source: Array) -> Array:
        """The extremes, float32 to a rounding of the runtime's own, where ``source`` holds those of the source."""
        return np.asarray(RISING[self.op.kind](self.op, source), np.float32)


def derived(graph: Graph, wanted: Iterable[str], seen: Iterable[str]) -> list[Derived]:
    """Those of the ``wanted`` values that follow from others of ``seen``, in an order in which each comes after its
    source.
    """
    chosen, known = set(wanted), set(seen)
    return [
        Derived(op.outputs[0].name, op, op.operands[0].name)
        for op in graph.ops()
        if op.kind in RISING
        and op.outputs[0].name in chosen
        and op.operands[0].name in known
        and not op.operands[0].is_const
        and op.operands[0].dtype == "float32"
    ]
