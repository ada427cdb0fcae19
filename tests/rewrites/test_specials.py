# SPDX-License-Identifier: Apache-2.0
"""Rules that claim to be exact, on the numbers where that is hard: infinities, NaN, signed zeros, the largest and the
smallest of each dtype, integers at their ends. Torch says what is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
import reference
from harness import Around, Const, build, compare

from porter.ops import KINDS
from porter.registry import rules
from porter.rewrite import NotApplicable, Rule

SPECIAL: dict[str, list[float]] = {
    "float32": [0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 1e-38, 1e-45, 0.5, 1.5, -2.5, 3, -3, 6,
                88.8, -88.8, 104, 1e10, 7.9999],
    "float16": [0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 65504, -65504, 6e-8, 6e-5, 0.5, 1.5, -2.5, 3, -3, 6, 11.1,
                -8, 20, 300, 12000],
    "float64": [0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 1e308, -1e308, 1e-308, 5e-324, 0.5, 1.5, -2.5, 3, -3, 710],
    "int32": [0, 1, -1, 2**31 - 1, -(2**31), 5, -5, 2**24 + 1],
    "int64": [0, 1, -1, 2**63 - 1, -(2**63), 5, -5, 2**31, 2**53 + 1],
    "uint8": [0, 1, 255, 128, 127, 5],
    "int8": [0, 1, -1, 127, -128, 5],
    "bool": [False, True],
}  # fmt: skip
ATTRIBUTES: dict[str, list[dict[str, Any]]] = {
    "leaky_relu": [{"negative_slope": s} for s in (0.01, 0.0, 1.5, -0.2, 1.0)],
    "hardsigmoid": [{"alpha": 1 / 6, "beta": 0.5}],
    "threshold": [{"threshold": 0.0, "value": 0.0}, {"threshold": 0.5, "value": -1.0}],
    "clamp": [{"min": 0.0, "max": 6.0}, {"min": None, "max": 1.0}, {"min": 0.0, "max": None},
              {"min": 2.0, "max": -2.0}],
    "cast": [{"dtype": dtype} for dtype in ("float32", "float16", "int32", "bool")],
}  # fmt: skip
UNARY = {kind for kind, said in KINDS.items() if said.inputs == "x" and not said.attrs}
BINARY = {kind for kind, said in KINDS.items() if said.inputs == "x y" and not said.attrs} - {"matmul"}
FLOAT_ONLY = {"leaky_relu", "hardsigmoid", "threshold", "clamp"}
#: Rules for so many kinds reshape, and compute nothing; those that fuse need more than one op.
EXACT = [rule for rule in rules().values() if rule.claim == "exact" and len(rule.removes) <= 20 and not rule.fuses]
CASES = [
    pytest.param(rule, kind, id=f"{rule.name}-{kind}")
    for rule in EXACT
    for kind in rule.removes
    if kind in UNARY | BINARY | ATTRIBUTES.keys()
]


def tried(rule: Rule, kind: str, inputs: list[Any], attrs: dict[str, Any]) -> bool:
    """Whether the rule applies to such operands; if so, it gave what torch gives."""
    arrays = [x.data if isinstance(x, Const) else x for x in inputs]
    try:
        op, feeds = build(kind, inputs, attrs)
        want = oracle.compute(kind, arrays, attrs)
    except (ValueError, TypeError, RuntimeError):
        return False  # torch has no such op of this dtype
    if any(out.dtype != str(w.dtype) for out, w in zip(op.outputs, want, strict=True)):
        return False
    try:
        fragment = rule.apply(Around(), op, "new")
    except NotApplicable:
        return False
    for got, wanted in zip(reference.run(fragment, feeds), want, strict=True):
        compare(
            rule, got, wanted, np.max(np.abs(np.nan_to_num(np.stack(np.broadcast_arrays(*arrays)).astype(float))), 0)
        )
    return True


@pytest.mark.parametrize(("rule", "kind"), CASES)
@pytest.mark.filterwarnings("ignore")
def test_special_numbers(rule: Rule, kind: str) -> None:
    applied = False
    for dtype, numbers in SPECIAL.items():
        if kind in FLOAT_ONLY and "float" not in dtype:
            continue
        x = np.array(numbers, dtype)
        for attrs in ATTRIBUTES.get(kind, [{}]):
            if kind not in BINARY:
                applied |= tried(rule, kind, [x], attrs)
                continue
            grid = [part.ravel().copy() for part in np.meshgrid(x, x)]
            applied |= tried(rule, kind, grid, attrs)
            for number in numbers:
                one = Const(np.array(number, dtype))
                applied |= tried(rule, kind, [x, one], attrs)
                applied |= tried(rule, kind, [one, x], attrs)
    assert applied, "the rule was not tried"
