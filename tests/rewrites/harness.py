# SPDX-License-Identifier: Apache-2.0
"""How the tests apply a rule: build the op, apply, interpret the fragment with numpy, compare with torch.

The bound of the comparison is read from the rule's own ``error`` text, so that a rule cannot promise what it does
not keep: ``N ulp``, ``A absolute``, ``R relative`` (added up), or ``X of ...`` with what the test passes as ``of``. An
empty text means equal values; the sign of a zero counts unless the rule's page says that it may differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import oracle
import pytest
import reference

from porter.infer import infer
from porter.ops import KINDS, Array, Op, Origin, Value
from porter.registry import rules
from porter.rewrite import Fragment, NotApplicable, Rule


class Const:
    """An operand that is a constant of the graph."""

    def __init__(self, data: Any, dtype: str | None = None) -> None:
        self.data = np.asarray(data, dtype)


class Around:
    """A stand-in for the graph around one op."""

    def __init__(self, ops: Sequence[Op] = (), uses: Mapping[str, int] | None = None, lacks: str = "") -> None:
        self._made = {out.name: op for op in ops for out in op.outputs}
        self._uses = uses or {}
        self._lacks = lacks

    def producer(self, value: Value) -> Op | None:
        return self._made.get(value.name)

    def uses(self, value: Value) -> int:
        return self._uses.get(value.name, 1)

    def expresses(self, op: Op) -> bool:
        return op.kind not in self._lacks.split()


_ORIGIN = Origin(file="model.py", line=7, module="net.head", source=("node",))


def build(kind: str, inputs: Sequence[Any], attrs: Mapping[str, Any], name: str = "y") -> tuple[Op, dict[str, Array]]:
    """The op, and the arrays that its run-time operands hold. An input is an array, a Const, a Value or None."""
    values: list[Value | None] = []
    feeds: dict[str, Array] = {}
    for i, x in enumerate(inputs):
        if x is None or isinstance(x, Value):
            values.append(x)
        elif isinstance(x, Const):
            values.append(Value.constant(f"{name}_w{i}", x.data))
        else:
            values.append(Value(f"{name}_x{i}", x.shape, str(x.dtype)))
            feeds[f"{name}_x{i}"] = x
    specs = infer(kind, values, attrs)
    outs = tuple(Value(f"{name}{i}", shape, dtype) for i, (shape, dtype) in enumerate(specs))
    return Op(kind, tuple(values), outs, attrs, f"{name}_op", _ORIGIN), feeds


def apply(rule: str, op: Op, around: Around | None = None) -> Fragment:
    """The fragment, with what every fragment must hold checked."""
    found = rules()[rule]
    fragment = found.apply(around or Around(), op, "new")
    again = found.apply(around or Around(), op, "new")
    assert [repr(o) for o in fragment.ops] == [repr(o) for o in again.ops], "the rule is not deterministic"
    names = [out.name for o in fragment.ops for out in o.outputs]
    assert len(names) == len(set(names))
    read = {v.name for o in fragment.ops for v in o.operands} | {v.name for v in fragment.results}
    for built in fragment.ops:
        assert read & {out.name for out in built.outputs}, f"nothing reads {built!r}"
        assert built.kind in KINDS
        assert built.origin.rules[-1] == rule and built.origin.file == "model.py" and built.origin.line == 7
    return fragment


def check(
    rule: str,
    kind: str,
    inputs: Sequence[Any],
    *,
    of: Any = None,
    uses: Mapping[str, int] | None = None,
    skip: Sequence[int] = (),
    want: Sequence[Array] | None = None,
    **attrs: Any,
) -> Fragment:
    """Apply ``rule`` to one op and compare its fragment with torch within the rule's own bound."""
    op, feeds = build(kind, inputs, attrs)
    arrays = [x.data if isinstance(x, Const) else x for x in inputs]
    expected = oracle.compute(kind, arrays, attrs) if want is None else list(want)
    fragment = apply(rule, op, Around(uses=uses))
    got = reference.run(fragment, feeds)
    for i, (g, w, out) in enumerate(zip(got, expected, op.outputs, strict=True)):
        if i in skip:
            continue
        assert (w.shape, str(w.dtype)) == (out.shape, out.dtype), f"infer says {out!r}, torch {w.shape} {w.dtype}"
        compare(rules()[rule], g, w, of)
    return fragment


def compare(rule: Rule, got: Array, want: Array, of: Any = None) -> None:
    """Assert that ``got`` is ``want`` within the bound that the rule states."""
    assert got.shape == want.shape and got.dtype == want.dtype
    if want.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    error = rule.error
    if not error or error.startswith("bit-equal"):
        np.testing.assert_array_equal(got, want)
        page = rule.doc.partition("Bound:")[2]
        if "sign of a zero" not in page:
            zero = want == 0
            np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]), "the sign of a zero")
        return
    # A bound is stated for float32 unless it is in ulp.
    grain = float(np.finfo(want.dtype).eps / np.finfo(np.float32).eps)
    exact = ~np.isfinite(want)
    np.testing.assert_array_equal(got[exact], want[exact])
    result = np.abs(want.astype(np.float64))
    allowed = np.full(want.shape, float(np.finfo(want.dtype).tiny))
    found = False
    for number, unit in re.findall(r"([\d.e-]+) (ulp|absolute|relative)?", error):
        scaled = f"{number} {unit}".strip() + " of" in error or f"{number} of" in error
        if scaled or "times" in error or "|alpha|" in error:
            assert of is not None, f"the bound {error!r} needs to be told of what"
        by = np.abs(np.asarray(1.0 if of is None else of, np.float64))
        if unit == "ulp":
            base = np.maximum(by if scaled else result, np.finfo(want.dtype).tiny)
            allowed = allowed + float(number) * np.spacing(base.astype(want.dtype)).astype(np.float64)
        elif scaled:
            allowed = allowed + float(number) * grain * by
        elif unit == "relative":
            allowed = allowed + float(number) * grain * result * (by if "times" in error else 1)
        elif unit == "absolute":
            allowed = allowed + float(number) * (grain if rule.claim == "bounded" else 1) * (
                by if "|alpha|" in error else 1
            )
        else:
            continue
        found = True
    assert found, f"the bound {error!r} has no number"
    excess = np.abs(got[~exact].astype(np.float64) - want[~exact]) - np.broadcast_to(allowed, want.shape)[~exact]
    assert not ((excess > 0) | np.isnan(excess)).any(), (
        f"{rule.name} promises {error!r}; off by {np.nanmax(excess) + 0:.3g} more than allowed"
    )


def refuse(rule: str, kind: str, inputs: Sequence[Any], reason: str, *, uses: Any = None, **attrs: Any) -> None:
    """Assert that ``rule`` does not apply, and says why."""
    op, _ = build(kind, inputs, attrs)
    with pytest.raises(NotApplicable, match=reason):
        rules()[rule].apply(Around(uses=uses), op, "new")


SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-38, -1e-38, 1e-45], np.float32)


def line(
    low: float = -30.0, high: float = 30.0, n: int = 4001, special: Any = SPECIAL, dtype: str = "float32"
) -> Array:
    """Evenly spaced values and special ones."""
    with np.errstate(over="ignore"):
        return np.concatenate([np.linspace(low, high, n), np.asarray(special)]).astype(dtype)


def noise(*shape: int, seed: int = 0, dtype: str = "float32", scale: float = 1.0) -> Array:
    """Reproducible values: normal for floats, small integers, or fair bits."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    if "int" in dtype:
        return np.asarray(rng.integers(0 if dtype[0] == "u" else -9, 10, shape), dtype)
    return np.asarray(rng.standard_normal(shape) * scale, dtype)


def with_specials(x: Array, seed: int = 0) -> Array:
    """A copy of ``x`` with infinities, NaN and a negative zero put at random places."""
    out = x.copy()
    flat = out.reshape(-1)
    if flat.size:
        rng = np.random.default_rng(seed)
        for value in (np.inf, -np.inf, np.nan, -0.0):
            flat[rng.integers(flat.size)] = value
    return out


Check = Callable[..., Fragment]
