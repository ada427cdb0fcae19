# SPDX-License-Identifier: Apache-2.0
"""The table of how ops are written in PyTorch, and what the functions in it share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from porter.ops import Array, Op, Value

if TYPE_CHECKING:
    from porter.emit.codegen import Writer

__all__ = [
    "EXPRESSIONS", "INTEGERS", "Computed", "Expression", "Inexpressible", "collapse", "ints", "number", "pads",
    "parens", "real", "shape_of", "torch_dtype", "writes", "x_of",
]  # fmt: skip

INTEGERS = frozenset({"uint8", "int8", "int16", "int32", "int64", "bool"})
#: The dtypes that tensors of torch 1.3 can have and that its kernels compute with.
_TORCH_DTYPES = INTEGERS | {"float16", "float32", "float64"}


class Inexpressible(Exception):
    """Raised by an expression to say why the op cannot be written in the torch that both versions share."""


def torch_dtype(name: str) -> str:
    """``torch.float32`` for ``"float32"``. Raises :class:`Inexpressible` for what torch 1.3 does not compute with."""
    if name not in _TORCH_DTYPES:
        raise Inexpressible(f"torch 1.3 does not compute with {name}")
    return f"torch.{name}"


def number(data: Array, dtype: str | None = None) -> str:
    """One element as a Python number: the shortest text that gives the very same value back in its dtype."""
    item = np.asarray(data).reshape(-1)[0]
    if dtype is not None and dtype != str(item.dtype):
        item = item.astype(dtype)
    if item.dtype.kind == "b":
        return str(bool(item))
    if item.dtype.kind in "iu":
        return str(int(item))
    return real(float(item), str(item.dtype))


def real(value: float, dtype: str = "float64") -> str:
    """A float as Python source: the shortest decimal that rounds to it in ``dtype``."""
    if math.isnan(value) or math.isinf(value):
        return f'float("{value}")'
    short = str(np.dtype(dtype).type(value)) if dtype in ("float16", "float32", "float64") else repr(value)
    return repr(float(short))


@dataclass(frozen=True, slots=True)
class Computed:
    """The op depends on shapes and attributes only: its outputs are these constants."""

    data: tuple[Array, ...]


Expression = Callable[["Writer", Op], "str | Computed"]

#: For each kind, how it is written. What is not here cannot be expressed.
EXPRESSIONS: dict[str, Expression] = {}


def writes(kinds: str) -> Callable[[Expression], Expression]:
    """Put a function into the table for every kind in a string of names."""

    def register(function: Expression) -> Expression:
        for kind in kinds.split():
            EXPRESSIONS[kind] = function
        return function

    return register


def shape_of(value: Value | None) -> tuple[int, ...]:
    """The shape. Raises :class:`Inexpressible` when it is not known."""
    if value is None or value.shape is None:
        raise Inexpressible("the shape of one of its tensors is not known")
    return value.shape


def collapse(sizes: Iterable[int]) -> str:
    """``3`` for (3, 3), else the tuple."""
    values = tuple(int(s) for s in sizes)
    return str(values[0]) if values and len(set(values)) == 1 else repr(values)


def ints(values: Iterable[int]) -> str:
    """The numbers as a tuple in Python."""
    return repr(tuple(int(v) for v in values))


def x_of(w: Writer, op: Op) -> str:
    """The first operand in the dtype of the result (a float function of integers computes in float)."""
    return w.tensor(op.inputs[0], op.outputs[0].dtype)


def parens(text: str) -> str:
    """The text, in parentheses where it begins with a sign."""
    return f"({text})" if text.startswith("-") else text


def pads(pairs: Sequence[tuple[int, int]]) -> str:
    """The ``pad`` argument of ``F.pad``: the last axis first."""
    return ints(n for pair in reversed(list(pairs)) for n in pair)
