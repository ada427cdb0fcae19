# SPDX-License-Identifier: Apache-2.0
"""What several rules need: preconditions with a reason, and structural ops that vanish where they do nothing.

The structural helpers compute constants at once, so that a rule that slices or reshapes a weight leaves no op behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from porter.ops import Array, Op, Value
from porter.rewrite import Builder, NotApplicable

__all__ = [
    "MOST_ELEMENTS",
    "axes_slice",
    "cast",
    "cut",
    "data",
    "dims_of",
    "join",
    "need",
    "need_float",
    "need_small",
    "or_zeros",
    "per_channel",
    "scalar",
    "shape_of",
    "some",
    "spread",
    "turned",
    "view",
]


#: The most elements of a constant that a rule makes much larger than what it replaces: 64 MB in float32.
MOST_ELEMENTS = 2**24


def need(holds: Any, reason: str) -> None:
    """Raise :class:`NotApplicable` with ``reason`` unless ``holds``."""
    if not holds:
        raise NotApplicable(reason)


def shape_of(value: Value) -> tuple[int, ...]:
    """The shape. Raises :class:`NotApplicable` when it depends on data."""
    if value.shape is None:
        raise NotApplicable(f"the shape of {value.name} depends on data")
    return value.shape


def need_float(*values: Value) -> None:
    """Raise :class:`NotApplicable` unless every value is floating point."""
    for value in values:
        if value.dtype is None or "float" not in value.dtype:
            raise NotApplicable(f"{value.name} is {value.dtype}, not floating point")


def need_small(count: int, what: str) -> None:
    """Raise :class:`NotApplicable` where a constant of ``count`` elements is above :data:`MOST_ELEMENTS`."""
    if count > MOST_ELEMENTS:
        raise NotApplicable(f"{what} of {count} elements is more than {MOST_ELEMENTS}")


def data(value: Value | None, what: str) -> Array:
    """The data of a constant operand. Raises :class:`NotApplicable` when it is computed at run time."""
    if value is None:
        raise NotApplicable(f"the {what} is absent")
    if not value.is_const:
        raise NotApplicable(f"the {what} is computed when the model runs")
    return value.numpy()


def scalar(value: Value, what: str) -> float:
    """The number in a constant of one element. Raises :class:`NotApplicable` when it is not one."""
    if not value.is_const or value.shape is None or prod(value.shape) != 1:
        raise NotApplicable(f"the {what} is not one constant number")
    return float(value.numpy().reshape(()))


def view(b: Builder, x: Value, shape: Sequence[int]) -> Value:
    """``x`` reshaped."""
    shape = tuple(shape)
    if x.shape == shape:
        return x
    if x.is_const:
        return b.const(x.numpy().reshape(shape))
    out: Value = b.reshape(x, shape=shape)
    return out


def turned(b: Builder, x: Value, dims: Sequence[int]) -> Value:
    """``x`` with its axes reordered."""
    dims = tuple(dims)
    if dims == tuple(range(len(dims))):
        return x
    if x.is_const:
        return b.const(np.ascontiguousarray(x.numpy().transpose(dims)))
    out: Value = b.permute(x, dims=dims)
    return out


def spread(b: Builder, x: Value, shape: Sequence[int]) -> Value:
    """``x`` broadcast to ``shape``."""
    shape = tuple(shape)
    if x.shape == shape:
        return x
    if x.is_const:
        return b.const(np.ascontiguousarray(np.broadcast_to(x.numpy(), shape)))
    out: Value = b.expand(x, shape=shape)
    return out


def cast(b: Builder, x: Value, dtype: str | None) -> Value:
    """``x`` converted to ``dtype``."""
    if x.dtype == dtype:
        return x
    if dtype is None:
        raise NotApplicable(f"the dtype that {x.name} should have is unknown")
    if x.is_const:
        return b.const(x.numpy().astype(dtype))
    out: Value = b.cast(x, dtype=dtype)
    return out


def cut(b: Builder, x: Value, axis: int, start: int, end: int) -> Value:
    """``x[start:end]`` along ``axis``."""
    if (start, end) == (0, shape_of(x)[axis]):
        return x
    if x.is_const:
        return b.const(x.numpy()[(slice(None),) * axis + (slice(start, end),)])
    out: Value = b.slice(x, axes=(axis,), starts=(start,), ends=(end,), steps=(1,))
    return out


def some(b: Builder, x: Value, axis: int, start: int, end: int) -> list[Value]:
    """``[x[start:end]]`` along ``axis``, or nothing where that is empty."""
    return [cut(b, x, axis, start, end)] if start < end else []


def axes_slice(axis: int, start: int, end: int, step: int = 1) -> dict[str, tuple[int, ...]]:
    """The attributes of a ``slice`` of one axis."""
    return {"axes": (axis,), "starts": (start,), "ends": (end,), "steps": (step,)}


def join(b: Builder, parts: Sequence[Value], axis: int) -> Value:
    """The concatenation of the parts (one part is itself)."""
    if len(parts) == 1:
        return parts[0]
    if all(p.is_const for p in parts):
        return b.const(np.concatenate([p.numpy() for p in parts], axis))
    out: Value = b.cat(*parts, axis=axis)
    return out


def or_zeros(b: Builder, out: Value, build: Callable[[], Value]) -> Value:
    """What ``build`` gives, or zeros where nobody reads ``out``."""
    if b.uses(out):
        return build()
    return Value(out.name, out.shape, out.dtype, lambda: np.zeros(shape_of(out), out.dtype))


def per_channel(b: Builder, x: Value, rank: int) -> Value:
    """A (C,) value shaped to broadcast over axis 1 of a tensor of ``rank``."""
    return view(b, x, (1, -1 if x.shape is None else prod(x.shape), *(1,) * (rank - 2)))


def dims_of(op: Op) -> int:
    """The number of spatial axes of a convolution or pool kind (``conv2d`` has 2)."""
    return next(int(c) for c in op.kind if c.isdigit())
