# SPDX-License-Identifier: Apache-2.0
"""Parameters that a model computes from constants, made constants: exporters wrap weights in Identity, Transpose or a
normalization of their own, and only a constant can be quantized ahead of time."""

from __future__ import annotations

from collections.abc import Collection

from porter.graph import Graph
from porter.ops import Op, Value
from porter.rewrite import Fragment

__all__ = ["with_constant_operands"]

#: The most bytes that one constant may take.
_LIMIT = 2**31
#: A quantized weight stays what it is.
_KEPT = frozenset({"quantize", "dequantize"})


def with_constant_operands(graph: Graph, kinds: Collection[str]) -> Graph:
    """A copy in which every operand of an op of ``kinds`` that depends on constants only is a constant.

    The graph itself where there is none.
    """
    constant: dict[str, Op] = {}
    wanted: dict[str, Value] = {}
    for op in graph.ops():
        for value in op.operands:
            if op.kind in kinds and value.name in constant:
                wanted[value.name] = value
        known = op.operands and all(value.is_const or value.name in constant for value in op.operands)
        if known and op.kind not in _KEPT and len(op.outputs) == 1:
            constant[op.outputs[0].name] = op
    if not wanted:
        return graph
    data = graph.evaluate(list(wanted.values()), _LIMIT)
    copy = graph.copy()
    mine = copy.producers()
    copy.replace(
        (mine[name], Fragment([], (Value.constant(f"{name}_const", array),)))
        for name, array in data.items() if name in mine
    )  # fmt: skip
    return copy
