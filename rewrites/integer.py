# SPDX-License-Identifier: Apache-2.0
"""Integer arithmetic of 64 bits in 32 bits, or in float32, where its numbers are known to fit.

A device without int64 cannot run one op of such arithmetic: every neighbour is int64 too. These rules begin where
numbers leave it - a cast, a comparison, an index - and compute everything above anew, with the range of each number
known from what it begins with: a constant, an argmax, a narrow integer, a bool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from porter.ops import Op, Value
from porter.rewrite import Builder, NotApplicable, rewrite

from ._match import pattern
from ._tools import cast, data, need, shape_of

#: More ops than this are no index computation but a network of integers.
_MOST = 64
_INT32 = 2**31 - 1
#: float32 holds every whole number up to here.
_FLOAT32 = 2**24
_VIEWS = ("identity", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "slice", "select", "expand", "repeat",
          "flip", "roll", "split", "chunk", "unbind", "amax", "amin")  # fmt: skip
_SHARED = ("add", "sub", "mul", "neg", "abs", "minimum", "maximum", "clamp", "relu", "where", "cat", "stack", "cast")
_DIVIDED = ("floor_divide", "trunc_divide", "remainder", "fmod")
_ARITHMETIC = (*_SHARED, *_DIVIDED, *_VIEWS)
_COMPARED = ("eq", "ne", "lt", "le", "gt", "ge")
_LOOKED_UP = ("take", "index_select", "embedding")
#: The positions of the results that are indices, by kind.
_INDICES = {"argmax": 0, "argmin": 0, "max_dim": 1, "min_dim": 1, "topk": 1, "sort": 1}
_RANGES = {
    "bool": (0, 1), "int8": (-128, 127), "uint8": (0, 255), "int16": (-(2**15), 2**15 - 1), "uint16": (0, 2**16 - 1),
    "int32": (-(2**31), 2**31 - 1),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Number:
    """A value in the new dtype, and the lowest and highest that it can be (None: nothing is known)."""

    value: Value
    low: int | None
    high: int | None


class _Narrow:
    """Integers computed anew in ``dtype``, which holds every whole number up to ``limit``."""

    def __init__(self, b: Builder, dtype: str, limit: int) -> None:
        self._b, self._dtype, self._limit = b, dtype, limit
        self._float = "float" in dtype
        self.ops: list[Op] = []
        self._done: dict[str, _Number] = {}

    def of(self, value: Value) -> _Number:
        found = self._done.get(value.name)
        if found is None or value.is_const:
            found = self._done[value.name] = self._made(value)
        return found

    def bounded(self, value: Value, what: str) -> tuple[Value, int, int]:
        """The number, whose range must be known."""
        found = self.of(value)
        if found.low is None or found.high is None:
            raise NotApplicable(f"nothing is known about the range of {value.name}, which {what} reads")
        return found.value, found.low, found.high

    def _made(self, value: Value) -> _Number:
        if value.is_const:
            array = data(value, "constant")
            low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
            return self._checked(self._b.const(array.astype(self._dtype)), low, high, f"the constant {value.name}")
        op = self._b.producer(value)
        if op is not None and op.kind in _INDICES and op.outputs[_INDICES[op.kind]].name == value.name:
            extent = self._extent(op)
            return self._checked(cast(self._b, value, self._dtype), 0, max(extent - 1, 0), op.kind)
        if op is None or op.kind not in _ARITHMETIC:
            ends = _RANGES.get(value.dtype or "")
            if ends is None or ends[1] > self._limit:
                raise NotApplicable(f"nothing is known about the range of {value.name}")
            return _Number(cast(self._b, value, self._dtype), *ends)
        self.ops.append(op)
        need(len(self.ops) <= _MOST, f"it is computed by more than {_MOST} ops")
        made = self._cast(op) if op.kind == "cast" else self._moved(op, value) or self._computed(op)
        if value.dtype in _RANGES and made.low is not None and made.high is not None:
            least, most = _RANGES[value.dtype]
            need(least <= made.low and made.high <= most, f"{op.kind} can leave the range of {value.dtype}, and wraps")
        return made

    def _moved(self, op: Op, value: Value) -> _Number | None:
        if op.kind not in _VIEWS:
            return None
        first = self.of(op.operands[0])
        outs = self._b.op(op.kind, (first.value,), **op.attrs)
        return _Number(outs[[out.name for out in op.outputs].index(value.name)], first.low, first.high)

    @staticmethod
    def _extent(op: Op) -> int:
        axis = op.attrs["axis"]
        shape = shape_of(op.operands[0])
        return prod(shape) if axis is None else shape[axis]

    def _checked(self, value: Value, low: int, high: int, what: str) -> _Number:
        need(max(-low, high) <= self._limit, f"{what} can be {high if high > -low else low}, beyond {self._limit}")
        return _Number(value, low, high)

    def _cast(self, op: Op) -> _Number:
        x = op.operands[0]
        dtype = x.dtype or ""
        if dtype in _RANGES and dtype != "int32":
            return _Number(cast(self._b, x, self._dtype), *_RANGES[dtype])
        if dtype.startswith(("int", "uint")):
            return self.of(x)
        limits = self._b.producer(x)
        if limits is not None and limits.kind == "clamp" and None not in (limits.attrs["min"], limits.attrs["max"]):
            low, high = int(np.trunc(limits.attrs["min"])), int(np.trunc(limits.attrs["max"]))
            whole = self._b.trunc(cast(self._b, x, "float32")) if self._float else cast(self._b, x, self._dtype)
            return self._checked(whole, low, high, f"the limit of {x.name}")
        need(dtype == self._dtype, f"nothing is known about the range of {x.name}")
        # A float beyond 2^24 is whole, and truncating it changes nothing; arithmetic on it is refused.
        return _Number(self._b.trunc(x), None, None)

    def _computed(self, op: Op) -> _Number:
        b, a, kind = self._b, op.attrs, op.kind
        if kind == "where":
            condition, x, y = op.operands
            return self._union(op, [x, y], lambda values: b.where(condition, *values))
        if kind in ("cat", "stack"):
            return self._union(op, op.operands, lambda values: b.op(kind, values, **a)[0])
        x, low, high = self.bounded(op.operands[0], kind)
        if kind == "neg":
            return self._checked(b.neg(x), -high, -low, kind)
        if kind == "abs":
            return self._checked(b.abs(x), max(low, -high, 0), max(-low, high), kind)
        if kind == "relu":
            return _Number(b.relu(x), max(low, 0), max(high, 0))
        if kind == "clamp":
            return self._clamped(x, low, high, a["min"], a["max"])
        y, below, above = self.bounded(op.operands[1], kind)
        if kind in _DIVIDED:
            return self._divided(kind, (x, low, high), (y, below, above))
        corners = {
            "add": [low + below, high + above],
            "sub": [low - above, high - below],
            "mul": [p * q for p in (low, high) for q in (below, above)],
            "minimum": [min(low, below), min(high, above)],
            "maximum": [max(low, below), max(high, above)],
        }[kind]
        need(max(-min(corners), max(corners)) <= self._limit, f"{kind} can reach {max(corners, key=abs)}")
        return _Number(b.op(kind, (x, y))[0], min(corners), max(corners))

    def _clamped(self, x: Value, low: int, high: int, least: float | None, most: float | None) -> _Number:
        number = float if self._float else int
        if least is not None and least > low:
            x = self._b.maximum(x, self._b.const(number(least), self._dtype))
            low, high = int(least), max(high, int(least))
        if most is not None and most < high:
            x = self._b.minimum(x, self._b.const(number(most), self._dtype))
            low, high = min(low, int(most)), int(most)
        return self._checked(x, low, high, "clamp")

    def _union(self, op: Op, operands: Any, build: Callable[[list[Value]], Value]) -> _Number:
        parts = [self.bounded(v, op.kind) for v in operands]
        return _Number(build([v for v, _, _ in parts]), min(p[1] for p in parts), max(p[2] for p in parts))

    def _divided(self, kind: str, x: tuple[Value, int, int], y: tuple[Value, int, int]) -> _Number:
        b, (p, low, high), (q, below, above) = self._b, x, y
        need(below > 0 or above < 0, f"the divisor of {kind} may be 0")
        largest, most = max(-low, high), max(-below, above)
        if kind in ("floor_divide", "trunc_divide"):
            down = b.floor if kind == "floor_divide" else b.trunc
            out = down(b.div(p, q)) if self._float else b.op(kind, (p, q))[0]
            ends = [_quotient(kind, n, d) for n in (low, high) for d in {below, above, *_nearest(below, above)}]
            return self._checked(out, min(ends), max(ends), kind)
        if not self._float:
            out = b.op(kind, (p, q))[0]
        else:
            need(largest + most <= self._limit, f"{kind} in floats can reach {largest + most}")
            down = b.floor if kind == "remainder" else b.trunc
            out = b.sub(p, b.mul(down(b.div(p, q)), q))
        if kind == "remainder":  # it has the sign of the divisor
            return _Number(out, 0 if below > 0 else below + 1, 0 if above < 0 else above - 1)
        size = min(largest, most - 1)
        return _Number(out, -size if low < 0 else 0, size if high > 0 else 0)


def _nearest(below: int, above: int) -> set[int]:
    """The divisors next to zero, which give the largest quotients."""
    return {below if below > 0 else above}


def _quotient(kind: str, n: int, d: int) -> int:
    exact = n // d
    return exact if kind == "floor_divide" or n % d == 0 or exact >= 0 else exact + 1


def _integer(value: Value) -> bool:
    return (value.dtype or "").startswith(("int", "uint"))


def _ended(b: Builder, op: Op, dtype: str, limit: int) -> Any:
    """What stands for the op where numbers leave integer arithmetic."""
    narrow = _Narrow(b, dtype, limit)
    if op.kind == "cast":
        x = op.operands[0]
        pattern(_integer(x) and op.attrs["dtype"] != x.dtype, "a cast of an integer")
        found = narrow.of(x)
        wanted = op.attrs["dtype"]
        if found.low is None:  # only truncated: any float will do
            need(wanted == dtype, f"nothing is known about the range of {x.name}")
        elif wanted in _RANGES and wanted != "bool":
            fits = _RANGES[wanted][0] <= found.low and (found.high or 0) <= _RANGES[wanted][1]
            need(fits, f"{found.low} to {found.high} do not fit {wanted}, and how they wrap is another matter")
        pattern(narrow.ops, "a cast of integer arithmetic")
        out = b.ne(found.value, 0) if wanted == "bool" else cast(b, found.value, wanted)
    elif op.kind in _COMPARED:
        pattern(all(_integer(v) for v in op.operands), "a comparison of integers")
        values = [narrow.bounded(v, op.kind)[0] for v in op.operands]
        out = b.op(op.kind, values)[0]
    else:
        index = op.operands[1]
        pattern(_integer(index), "a look-up by an integer")
        found_value = narrow.bounded(index, op.kind)[0]
        if narrow.ops and "float" in dtype:
            found_value = cast(b, found_value, index.dtype)
        out = b.op(op.kind, (op.operands[0], found_value), **op.attrs)[0]
    pattern(narrow.ops, "the end of integer arithmetic")
    need(out.shape == op.outputs[0].shape, "it is broadcast")
    b.merge_origin(*narrow.ops)
    return out


@rewrite(
    removes=("cast", *_COMPARED, *_LOOKED_UP),
    yields=(*_ARITHMETIC, *_COMPARED, *_LOOKED_UP, "trunc"),
    claim="exact",
    fuses=_ARITHMETIC,
)
def int64_arithmetic_to_int32(b: Builder, op: Op) -> Any:
    """Arithmetic on int64 becomes the same on int32, up to where it is compared, cast, or used as an index.

    Formula: sums, products, quotients and their like of whole numbers are the same in 32 bits while every one
    of them lies between -2^31 + 1 and 2^31 - 1. Ranges follow from constants, from how many elements an argmax,
    topk or sort chooses among, and from narrower dtypes.
    Example: ``y = take(table, add(argmax(x), 1))`` with an argmax over 80 elements -> ``y = take(table,
    add(cast(argmax(x), int32), 1))``.
    Bound: bit-equal.
    Does not apply: where the range of a number is not known (an input of the model, a cast float), a number can
    reach 2^31, a divisor may be 0, or a sum over an axis is in the way.
    """
    reads = op.operands[0] if op.kind in ("cast", *_COMPARED) else op.operands[1]
    pattern(reads.dtype == "int64", "the end of arithmetic on int64")
    return _ended(b, op, "int32", _INT32)


@rewrite(
    removes=("cast", *_COMPARED, *_LOOKED_UP),
    yields=(*_SHARED, *_VIEWS, *_COMPARED, *_LOOKED_UP, "trunc", "floor", "div"),
    claim="exact",
    fuses=_ARITHMETIC,
)
def integer_arithmetic_to_float(b: Builder, op: Op) -> Any:
    """Arithmetic on integers becomes the same in float32, up to where it is compared, cast, or used as an index.

    Formula: float32 holds every whole number up to 2^24, and sums and products of such numbers are exact while
    they stay below; x // y is floor(x / y), whose rounded quotient does not reach the next whole number while
    |x| < 2^24. A float that is cast to an integer and back is trunc(x).
    Example: ``y = cast(mul(add(argmax(x), 1), 4), float32)`` -> ``y = mul(add(cast(argmax(x), float32), 1),
    4)``.
    Bound: bit-equal; the sign of a zero may differ.
    Does not apply: where the range of a number is not known (an input of the model), a number can exceed 2^24,
    a divisor may be 0, or a sum over an axis is in the way.
    """
    return _ended(b, op, "float32", _FLOAT32)
