# SPDX-License-Identifier: Apache-2.0
"""How a rewrite is written: one function that builds the replacement of one op.

    @rewrite(removes="silu", yields=("sigmoid", "mul"), claim="exact")
    def silu_to_sigmoid_mul(b, op):
        '''silu(x) becomes x * sigmoid(x). ...the manual page...'''
        x = op.inputs[0]
        return b.mul(x, b.sigmoid(x))

The function gets a :class:`Builder` and the op, and returns one :class:`~porter.ops.Value` for each output
of the op (a single value for a single output). It never touches a graph: the builder records a :class:`Fragment`
in porter's vocabulary, the planner checks that every op of it is legal, and the dialect of the graph lowers
it. A rule that does not apply raises :class:`NotApplicable` with the reason, which the report shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np

from porter.infer import infer
from porter.ops import Op, Origin, Value, numpy_dtype

__all__ = ["CLAIMS", "Builder", "Claim", "Fragment", "NoPattern", "NotApplicable", "Rule", "Surroundings", "rewrite"]

Claim = Literal["exact", "bounded", "approximate", "retrain"]

#: What each claim promises, strongest first.
CLAIMS: dict[Claim, str] = {
    "exact": "the same values: bit-equal, or within the few units in the last place that the rule states",
    "bounded": "the same mathematics in another order: float rounding only, within the bound that the rule states",
    "approximate": "another function, close to the first; the rule states how close",
    "retrain": "another function; the model must be fine-tuned afterwards",
}


class NotApplicable(Exception):
    """Raised by a rule to say why it does not apply to this op."""


class NoPattern(NotApplicable):
    """Raised by a rule that fuses where nothing around the op looks like its pattern: no reason worth telling."""


class Surroundings(Protocol):
    """What a rule may ask about the graph around its op."""

    def producer(self, value: Value) -> Op | None:
        """The op that computes ``value``; None for inputs and constants."""

    def uses(self, value: Value) -> int:
        """How many times ``value`` is read, graph outputs included."""

    def expresses(self, op: Op) -> bool:
        """Whether the graph can hold ``op`` as one operation (see :meth:`porter.graph.Graph.expresses`)."""


@dataclass(slots=True)
class Fragment:
    """What a rule built: ops in order, and the value that stands for each output of the op replaced.

    A result may be the output of one of the ops, a constant, or a value that the graph already has. ``merged`` are the
    ops upstream whose work the fragment does as well.
    """

    ops: list[Op]
    results: tuple[Value, ...]
    merged: tuple[Op, ...] = ()


class Builder:
    """Records ops of the vocabulary, with shapes and dtypes inferred.

    Every kind is a method: ``b.add(x, y)``, ``b.slice(x, axes=(1,), starts=(0,), ends=(2,), steps=(1,))``; a kind with
    several outputs returns a tuple. Python numbers given as operands become scalar constants of the dtype of the other
    operand. Names of Python keywords take an underscore (``b.if_``).
    """

    def __init__(self, around: Surroundings, origin: Origin, prefix: str, rule: str) -> None:
        self._around = around
        self._origin = origin.after(rule)
        self._prefix = prefix
        self.ops: list[Op] = []
        self.merged: list[Op] = []
        self._made = 0

    def producer(self, value: Value) -> Op | None:
        """The op that computes ``value``: of this fragment, or of the graph around it."""
        for op in self.ops:
            if any(out is value for out in op.outputs):
                return op
        return self._around.producer(value)

    def uses(self, value: Value) -> int:
        """How many times the graph reads ``value``, graph outputs included."""
        return self._around.uses(value)

    def expresses(self, value: Value) -> bool:
        """Whether the graph can hold the op that computes ``value`` as one operation of its own."""
        op = self.producer(value)
        return op is None or self._around.expresses(op)

    def merge_origin(self, *ops: Op, lead: bool = False) -> None:
        """Say that the ops built so far and from now on also replace ``ops`` (a rule that looks upstream).

        With ``lead`` they are the first of ``ops``, changed: its line and its module are theirs.
        """
        self.merged += ops
        rule, others = self._origin.rules[-1], [op.origin for op in ops]
        first, *rest = [*others, self._origin] if lead else [self._origin, *others]
        self._origin = first.after(rule, *rest)
        for built in self.ops:
            built.origin = self._origin

    def const(self, data: Any, dtype: str | None = None) -> Value:
        """A constant: an array, or a Python number with its dtype (default: float32 or int64)."""
        if dtype is None and isinstance(data, float) and not isinstance(data, np.generic):  # np.float64 is a float
            dtype = "float32"
        array = np.asarray(data, dtype=numpy_dtype(dtype) if dtype else None)
        return Value.constant(f"{self._prefix}_c{self._count()}", array)

    def op(self, kind: str, inputs: Sequence[Value | float | None], **attrs: Any) -> tuple[Value, ...]:
        """One op of ``kind``; all its outputs. Raises ``ValueError`` where the operands do not fit."""
        operands = tuple(v if v is None or isinstance(v, Value) else self._number(v, inputs) for v in inputs)
        specs = infer(kind, operands, attrs) if attrs else _plain(kind, tuple(map(_signature, operands)))
        name = f"{self._prefix}_{self._count()}"
        if len(specs) == 1:
            outs: tuple[Value, ...] = (Value(name, *specs[0]),)
        else:
            outs = tuple(Value(f"{name}_{i}", *spec) for i, spec in enumerate(specs))
        self.ops.append(Op(kind, operands, outs, attrs, outs[0].name, self._origin))
        return outs

    def _number(self, number: float, beside: Sequence[Value | float | None]) -> Value:
        dtype = next((v.dtype for v in beside if isinstance(v, Value) and v.dtype), "float32")
        try:
            return self.const(number, dtype)
        except OverflowError:  # -1 as an unsigned integer
            raise NotApplicable(f"{number:g} is no number of {dtype}") from None

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        if kind.startswith("_"):
            raise AttributeError(kind)
        name = kind.rstrip("_")

        def build(*inputs: Value | float | None, **attrs: Any) -> Any:
            outs = self.op(name, inputs, **attrs)
            return outs[0] if len(outs) == 1 else outs

        return build

    def _count(self) -> int:
        self._made += 1
        return self._made - 1


Signature = tuple[tuple[int, ...] | None, str | None] | None


def _signature(value: Value | None) -> Signature:
    return (value.shape, value.dtype) if value is not None else None


@lru_cache(maxsize=4096)
def _plain(kind: str, operands: tuple[Signature, ...]) -> list[tuple[tuple[int, ...] | None, str | None]]:
    """:func:`infer` of a kind without attributes: the same few shapes come back in every layer of a network."""
    return infer(kind, tuple(v and Value("", *v) for v in operands), {})


Result = Value | Sequence[Value]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rewrite rule. ``doc`` is its manual page; ``error`` states the bound that its claim promises.

    ``fuses``: the kinds upstream that the rule takes in together with the op. Such a rule is tried on an op that is
    legal as well, where one of these kinds above it is not.
    """

    name: str
    removes: tuple[str, ...]
    yields: tuple[str, ...]
    claim: Claim
    error: str
    doc: str
    build: Callable[[Builder, Op], Result]
    optional: bool = False
    fuses: tuple[str, ...] = ()

    def apply(self, around: Surroundings, op: Op, prefix: str) -> Fragment:
        """Build the replacement of ``op``. Raises :class:`NotApplicable` with the rule's reason."""
        if op.kind not in self.removes:
            raise NotApplicable(f"{self.name} replaces {' or '.join(self.removes)}, not {op.kind}")
        if any(value.dtype is not None and value.dtype.startswith("complex") for value in (*op.operands, *op.outputs)):
            raise NotApplicable("its numbers are complex, and rules are written for real ones")
        b = Builder(around, op.origin, prefix, self.name)
        built = self.build(b, op)
        results = (built,) if isinstance(built, Value) else tuple(built)
        if len(results) != len(op.outputs):
            raise TypeError(f"{self.name} built {len(results)} results for the {len(op.outputs)} outputs of {op.kind}")
        for old, new in zip(op.outputs, results, strict=True):
            if new.shape is None and old.shape is not None and old.dtype == new.dtype:
                raise NotApplicable(f"the shape of {old.name} cannot be told from the operands: one is not known")
            if (old.shape, old.dtype) != (new.shape, new.dtype) and old.shape is not None:
                raise TypeError(f"{self.name} built {new!r} where {op.kind} gives {old!r}")
        for out in b.ops:
            if out.kind not in self.yields:
                raise TypeError(f"{self.name} built {out.kind}, which it does not declare in yields")
        return Fragment(b.ops, results, tuple(b.merged))


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def rewrite(
    *,
    removes: str | Sequence[str],
    yields: str | Sequence[str] = (),
    claim: Claim,
    error: str = "",
    optional: bool = False,
    fuses: str | Sequence[str] = (),
) -> Callable[[Callable[[Builder, Op], Result]], Rule]:
    """Declare a rule.

    Args:
        removes: the kind or kinds that the rule replaces.
        yields: every kind that the replacement may contain.
        claim: what the rule promises (see :data:`CLAIMS`).
        error: the bound, in words a user can check, such as "2 ulp in float32"; empty for bit-equal.
        optional: never chosen for legality alone; only when the user names it (``--apply``).
        fuses: kinds upstream of the op that the rule takes in (see :class:`Rule`); it says which ops with
            ``b.merge_origin``.
    """

    def declare(build: Callable[[Builder, Op], Result]) -> Rule:
        doc = (build.__doc__ or "").strip()
        if not doc:
            raise TypeError(f"rewrite {build.__name__} has no docstring; it is its manual page")
        return Rule(build.__name__, _names(removes), _names(yields), claim, error, doc, build, optional, _names(fuses))

    return declare
