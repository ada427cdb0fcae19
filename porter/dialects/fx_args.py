# SPDX-License-Identifier: Apache-2.0
"""The arguments of one ATen call, as a lifter reads them, and the table of lifters.

A lifter says kind, operands and attributes of a call. An argument that it does not read must have its default:
otherwise the call means something else, and keeps its own name as its kind.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from porter.ops import Array, Value

__all__ = [
    "NO_EFFECT", "TABLE", "Args", "Lifted", "Lifter", "Unknown", "axes_of", "axis_of", "bind", "dtype_name", "lifter",
    "pairs_of", "scalar_array", "shape_of", "to_numpy", "words",
]  # fmt: skip

Lifted = tuple[str, tuple[Value | None, ...], dict[str, Any]]
Lifter = Callable[["Args"], Lifted]


class Unknown(Exception):
    """This call has no meaning in the vocabulary; it keeps its own name."""


# ---------------------------------------------------------------------------------------------- numbers


def words(text: str) -> list[str]:
    """The names in a string of names."""
    return text.split()


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float32`` -> ``"float32"``: torch's names are numpy's."""
    return str(dtype).removeprefix("torch.")


def to_numpy(tensor: torch.Tensor) -> Array:
    """The tensor's data as numpy, without a copy where it lies in memory in row-major order."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def scalar_array(number: float, dtype: str) -> Array:
    """A number as an array of shape () and the given dtype."""
    if dtype == "bfloat16":
        import ml_dtypes

        return np.asarray(number, ml_dtypes.bfloat16)
    return np.asarray(number, dtype)


# ---------------------------------------------------------------------------------------------- arguments

#: Arguments that say where or how to compute, never what.
NO_EFFECT = frozenset(
    words(
        "memory_format layout device pin_memory non_blocking implicit cudnn_enabled cudnn_enable momentum benchmark "
        "deterministic allow_tf32 requires_grad sparse_grad padding_idx scale_grad_by_freq sparse half_to_float path "
        "stable copy unsafe"
    )
)


@functools.cache
def _schema(target: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((a.name, a.default_value if a.has_default_value() else None) for a in target._schema.arguments)


def bind(target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, with the defaults of the operator's schema filled in."""
    given = dict(zip((name for name, _ in _schema(target)), args, strict=False)) | kwargs
    return {name: given.get(name, default) for name, default in _schema(target)}


class Args:
    """The arguments of one call; remembers which of them the lifter has read."""

    __slots__ = ("_given", "_read", "_value", "node", "out")

    def __init__(self, node: fx.Node, value: Callable[[fx.Node], Value], out: tuple[Value, ...]) -> None:
        self.node = node
        self.out = out
        self._value = value
        self._given = bind(node.target, node.args, node.kwargs)
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def get(self, name: str, default: Any = None) -> Any:
        """A plain argument, or ``default`` where the overload has no such argument."""
        return self[name] if name in self._given else default

    def read(self, *names: str) -> None:
        """Say that these arguments change nothing beyond what the attributes say already."""
        self._read.update(names)

    def __getitem__(self, name: str) -> Any:
        """A plain argument: a number, a string, a list of numbers. Raises :class:`Unknown` where it is computed."""
        self._read.add(name)
        raw = self._given[name]
        for item in raw if isinstance(raw, (list, tuple)) else (raw,):
            if isinstance(item, (fx.Node, torch.SymInt, torch.SymFloat, torch.SymBool)):
                raise Unknown
        return raw

    def tensor(self, name: str) -> Value:
        """A tensor argument."""
        value = self.optional(name)
        if value is None:
            raise Unknown
        return value

    def optional(self, name: str) -> Value | None:
        """A tensor argument that may be absent."""
        self._read.add(name)
        raw = self._given[name]
        if raw is None:
            return None
        if not isinstance(raw, fx.Node):
            raise Unknown
        return self._value(raw)

    def tensors(self, name: str) -> tuple[Value, ...]:
        """An argument that is a list of tensors."""
        self._read.add(name)
        raw = self._given[name]
        if not all(isinstance(item, fx.Node) for item in raw):
            raise Unknown
        return tuple(self._value(item) for item in raw)

    def operand(self, name: str, dtype: str | None) -> Value:
        """A tensor, or a number as a constant of shape () and of ``dtype``."""
        if isinstance(self._given[name], fx.Node):
            return self.tensor(name)
        number = self[name]
        if not isinstance(number, (bool, int, float)) or dtype is None:
            raise Unknown
        if isinstance(number, float) and dtype.startswith(("int", "uint", "bool")):
            raise Unknown
        return Value.constant(f"{self.node.name}.{name}", scalar_array(number, dtype))

    def sizes(self, name: str, n: int, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """A list of ``n`` ints, given in full or as one number for all; ``default`` where it is empty."""
        raw = self[name]
        if raw is None or (isinstance(raw, (list, tuple)) and not raw):
            if default is None:
                raise Unknown
            raw = default
        raw = [raw] if isinstance(raw, int) else list(raw)
        return tuple(raw * n if len(raw) == 1 else raw)

    @property
    def ignored(self) -> bool:
        """Whether an argument that nobody has read says something."""
        defaults = dict(_schema(self.node.target))
        return any(
            name not in self._read and name not in NO_EFFECT and given != defaults[name]
            for name, given in self._given.items()
        )


def shape_of(value: Value) -> tuple[int, ...]:
    if value.shape is None:
        raise Unknown
    return value.shape


def axis_of(axis: int, rank: int) -> int:
    return axis % rank if rank else 0


def axes_of(axes: int | Iterable[int] | None, rank: int) -> tuple[int, ...]:
    """Non-negative axes; all of them for None and for an empty list."""
    if isinstance(axes, int):
        axes = (axes,)
    return tuple(sorted(axis_of(a, rank) for a in axes or ())) or tuple(range(rank))


def pairs_of(padding: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple((p, p) for p in padding)


# ---------------------------------------------------------------------------------------------- tables

TABLE: dict[str, Lifter] = {}


def _full_name(target: str) -> str:
    return target if target.count(".") > 1 else f"aten.{target}"


def lifter(*targets: str) -> Callable[[Lifter], Lifter]:
    """Register a lifter for overloads: ``"add.Tensor"`` of aten, or ``"torchvision.nms.default"``."""

    def register(function: Lifter) -> Lifter:
        for target in targets:
            TABLE[_full_name(target)] = function
        return function

    return register
