# SPDX-License-Identifier: Apache-2.0
"""Formulas of several ops for the tests of rules that fuse: built op by op, computed by torch, replaced by the rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import oracle
import pytest
import reference
from harness import Around, apply, build, compare

from porter.ops import Array, Op, Value
from porter.registry import rules
from porter.rewrite import Fragment, NoPattern, NotApplicable


class Formula:
    """``f = Formula(); x = f.input(array); y = f("mul", x, f("sigmoid", x))``: numbers and arrays are constants."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.feeds: dict[str, Array] = {}
        self._data: dict[str, Array] = {}
        self._uses: dict[str, int] = {}

    def input(self, data: Array) -> Value:
        value = Value(f"in{len(self.feeds)}", data.shape, str(data.dtype))
        self.feeds[value.name] = self._data[value.name] = data
        return value

    def __call__(self, kind: str, *operands: Any, **attrs: Any) -> Any:
        like = next((v.dtype for v in operands if isinstance(v, Value)), "float32")
        values: list[Value | None] = []
        for i, x in enumerate(operands):
            if x is None or isinstance(x, Value):
                values.append(x)
            else:
                data = np.asarray(x, like if isinstance(x, (int, float)) else None)
                values.append(Value.constant(f"c{len(self.ops)}_{i}", data))
        op, _ = build(kind, values, attrs, f"t{len(self.ops)}_")
        found = oracle.compute(kind, [None if v is None else self._read(v) for v in values], attrs)
        for out, data in zip(op.outputs, found, strict=True):
            assert (out.shape, out.dtype) == (data.shape, str(data.dtype)), f"{op!r}: torch gives {data.dtype}"
            self._data[out.name] = data
        for v in op.operands:
            self._uses[v.name] = self._uses.get(v.name, 0) + 1
        self.ops.append(op)
        return op.outputs[0] if len(op.outputs) == 1 else op.outputs

    def _read(self, value: Value) -> Array:
        return value.numpy() if value.is_const else self._data[value.name]

    def _op(self, result: Value) -> Op:
        return next(op for op in self.ops if op.outputs[0] is result)

    def _around(self, result: Value, lacks: str, more: Mapping[str, int]) -> Around:
        uses = {**self._uses, result.name: 1}
        for name, count in more.items():
            uses[name] = uses.get(name, 0) + count
        return Around(self.ops, uses, lacks)

    def fuse(self, rule: str, result: Value, of: Any = None, uses: Mapping[str, int] | None = None) -> Fragment:
        """Apply the rule to the op that computes ``result``: within its bound of what torch computes."""
        fragment = apply(rule, self._op(result), self._around(result, "", uses or {}))
        compare(rules()[rule], reference.run(fragment, self._data)[0], self._data[result.name], of)
        return fragment

    def refuse(self, rule: str, result: Value, reason: str, lacks: str = "") -> None:
        """The rule says why it does not apply, which is a reason that a report shows."""
        with pytest.raises(NotApplicable, match=reason) as caught:
            rules()[rule].apply(self._around(result, lacks, {}), self._op(result), "new")
        assert not isinstance(caught.value, NoPattern), "such a reason is not told"

    def ignore(self, rule: str, result: Value) -> None:
        """The rule sees nothing of its pattern here."""
        with pytest.raises(NoPattern):
            rules()[rule].apply(self._around(result, "", {}), self._op(result), "new")
