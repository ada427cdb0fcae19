# SPDX-License-Identifier: Apache-2.0
"""The facts of an op that a limit of a target can name: extents, dtypes, attributes, windows, broadcasting.

See :func:`fact_names` for what there is of each kind of op, and :mod:`porter.limits` for the language that uses them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from porter.limits import UNKNOWN, Fact
from porter.ops import KINDS, Op, Value

__all__ = ["fact_names", "facts"]

_Get = Callable[[Op], Fact]
_Pick = Callable[[Op], Value | None]


def facts(op: Op) -> dict[str, Fact]:
    """Every fact of ``op`` that a limit on its kind can name (see :func:`fact_names`), with its value."""
    return {name: get(op) for name, get in fact_names(op.kind).items()}


@cache
def fact_names(kind: str) -> Mapping[str, _Get]:
    """The facts of a kind, each with the function that reads it from an op.

    Every kind has ``dtype rank elements in_shape in_n in_c in_d in_h in_w`` of its first operand (channels first: axis
    0 is n, axis 1 is c, then d, h, w from the last axis back; an axis that is not there counts as 1), the same of the
    first output (``out_dtype out_rank out_elements out_shape out_n ...``), and ``input_count output_count``. By kind:

    * its attributes, by their names (``axis axes steps groups mode ...``), except an attribute ``dtype``, which is
      ``out_dtype``;
    * its operands, ``X_shape X_rank X_dtype X_const X_present`` for an operand named X (``weight_const``);
    * a second operand: ``in1_shape in1_rank in1_dtype in1_const in1_elements in1_n in1_c in1_d in1_h in1_w``,
      ``in1_value`` (of a constant of one element), and ``broadcast``: whether any two operands differ in shape;
      ``broadcast_axes`` and ``in1_broadcast_axes``: the axes of the result along which the first (second) operand is
      repeated (of a ``matmul``: those of the result without its last two); ``merged_rank``: the rank of the op when
      axes of extent 1 are dropped and neighbouring axes become one that are broadcast alike; ``plain_merged_rank``: the
      same with only neighbours merged that no operand is broadcast along;
    * convolutions and pools: ``kernel kernel_d kernel_h kernel_w stride_h dilation_h ... pad_front pad_back pad_top
      pad_bottom pad_left pad_right``; convolutions and linear: ``in_channels out_channels``; convolutions:
      ``depthwise`` (one group a channel, and more than one);
    * ``expand`` and ``repeat``: ``changed_axes``, the axes of the result with another extent than the operand's;
    * ``axis``: ``axis_extent``; ``axes``: ``axes_extents``; ``pad``: ``pad_begin pad_end``; ``resize``:
      ``scale_d scale_h scale_w``.
    """
    names: dict[str, _Get] = {}
    _tensor_facts(names, "in_", "", _operand(0))
    _tensor_facts(names, "out_", "out_", _output)
    names["input_count"] = lambda op: len(op.operands)
    names["output_count"] = lambda op: len(op.outputs)
    base = kind.removeprefix("dynamic_")
    spec = KINDS.get(base)
    if spec is None:
        return names
    operands = spec.inputs.split()
    attrs = [part.partition(":")[0] for part in spec.attrs.split() if part[0].isalpha()]
    for attr in attrs:
        if attr != "dtype":
            names[attr] = _attr(attr)
    for i, operand in enumerate(operands):
        if not operand.endswith("*"):
            _operand_facts(names, operand.rstrip("?"), _operand(i))
    if len(operands) > 1 and not operands[1].endswith("*"):
        _tensor_facts(names, "in1_", "in1_", _operand(1))
        names["in1_const"] = lambda op: (v := _operand(1)(op)) is not None and v.is_const
        names["in1_value"] = _value_of_second
        names["broadcast"] = _broadcast
        names["broadcast_axes"] = lambda op: _broadcast_axes(op, 0)
        names["in1_broadcast_axes"] = lambda op: _broadcast_axes(op, 1)
        names["merged_rank"] = _merged_rank
        names["plain_merged_rank"] = _plain_merged_rank
    if base in ("expand", "repeat"):
        names["changed_axes"] = _changed_axes
    if "axis" in attrs:
        names["axis_extent"] = _axis_extent
    if "axes" in attrs:
        names["axes_extents"] = _axes_extents
    if base == "pad":
        names["pad_begin"] = lambda op: _pads(op, 0)
        names["pad_end"] = lambda op: _pads(op, 1)
    if base == "resize":
        names.update({f"scale_{role}": _scale(role) for role in "dhw"})
    if base == "linear":
        names["in_channels"] = lambda op: _at(_shape(_operand(0)(op)), -1)
        names["out_channels"] = lambda op: _at(_shape(_operand(1)(op)), 0)
    if base.startswith("conv"):
        names["in_channels"] = lambda op: _at(_shape(_operand(0)(op)), 1)
        names["out_channels"] = _out_channels
        names["depthwise"] = _depthwise
        names["kernel"] = lambda op: UNKNOWN if (s := _shape(_operand(1)(op))) is UNKNOWN else s[2:]
    if base.startswith(("conv", "max_pool", "avg_pool")):
        _window_facts(names)
    return names


def _operand(i: int) -> _Pick:
    return lambda op: op.inputs[i] if i < len(op.inputs) else None


def _output(op: Op) -> Value | None:
    return op.outputs[0] if op.outputs else None


def _shape(value: Value | None) -> Any:
    return UNKNOWN if value is None or value.shape is None else value.shape


def _dtype(value: Value | None) -> Fact:
    return UNKNOWN if value is None or value.dtype is None else value.dtype


def _count(shape: Any, compute: Callable[[tuple[int, ...]], int]) -> Fact:
    return UNKNOWN if shape is UNKNOWN else compute(shape)


def _at(items: Any, index: int) -> Fact:
    return UNKNOWN if items is UNKNOWN or not -len(items) <= index < len(items) else items[index]


def _extent(shape: Any, role: str) -> Fact:
    if shape is UNKNOWN:
        return UNKNOWN
    rank = len(shape)
    axis = {"n": 0, "c": 1, "w": max(rank - 1, 2), "h": max(rank - 2, 2), "d": max(rank - 3, 2)}[role]
    least = {"n": 1, "c": 2, "w": 3, "h": 4, "d": 5}[role]
    return shape[axis] if rank >= least else 1


def _tensor_facts(names: dict[str, _Get], prefix: str, scalar: str, pick: _Pick) -> None:
    """Facts of one tensor: ``prefix`` before its extents, ``scalar`` before rank, dtype and elements."""
    names[f"{prefix}shape"] = lambda op: _shape(pick(op))
    names[f"{scalar}dtype"] = lambda op: _dtype(pick(op))
    names[f"{scalar}rank"] = lambda op: _count(_shape(pick(op)), len)
    names[f"{scalar}elements"] = lambda op: _count(_shape(pick(op)), math.prod)
    for role in "ncdhw":
        names[f"{prefix}{role}"] = _role(pick, role)


def _role(pick: _Pick, role: str) -> _Get:
    return lambda op: _extent(_shape(pick(op)), role)


def _operand_facts(names: dict[str, _Get], name: str, pick: _Pick) -> None:
    names[f"{name}_shape"] = lambda op: _shape(pick(op))
    names[f"{name}_rank"] = lambda op: _count(_shape(pick(op)), len)
    names[f"{name}_dtype"] = lambda op: _dtype(pick(op))
    names[f"{name}_const"] = lambda op: (value := pick(op)) is not None and value.is_const
    names[f"{name}_present"] = lambda op: pick(op) is not None


def _attr(name: str) -> _Get:
    return lambda op: _frozen(op.attrs.get(name, UNKNOWN))


def _frozen(value: Any) -> Fact:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _value_of_second(op: Op) -> Fact:
    value = _operand(1)(op)
    if value is None or not value.is_const or math.prod(value.shape or (1,)) != 1:
        return UNKNOWN
    return value.numpy().reshape(-1)[0].item()


def _broadcast(op: Op) -> Fact:
    shapes = {_shape(value) for value in op.operands}
    return UNKNOWN if UNKNOWN in shapes else len(shapes) > 1


def _aligned(op: Op) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The shapes of the first two operands that broadcast against each other, of one rank."""
    shapes = [_shape(_operand(i)(op)) for i in range(2)]
    if UNKNOWN in shapes:
        return None
    if op.kind == "matmul":
        shapes = [shape[:-2] for shape in shapes]
    rank = max(map(len, shapes))
    first, second = ((1,) * (rank - len(shape)) + tuple(shape) for shape in shapes)
    return first, second


def _broadcast_axes(op: Op, which: int) -> Fact:
    shapes = _aligned(op)
    if shapes is None:
        return UNKNOWN
    return tuple(i for i, (own, other) in enumerate(zip(shapes[which], shapes[1 - which], strict=True)) if own < other)


def _patterns(op: Op) -> list[int] | None:
    """For each axis of the result: 0 where no operand is broadcast, 1 and 2 where the first (second) is, -1 for extent
    1."""
    shapes = _aligned(op)
    if shapes is None:
        return None
    return [-1 if a == b == 1 else 0 if a == b else 1 if a < b else 2 for a, b in zip(*shapes, strict=True)]


def _merged_rank(op: Op) -> Fact:
    patterns = _patterns(op)
    if patterns is None:
        return UNKNOWN
    kept = [pattern for pattern in patterns if pattern >= 0]
    return sum(i == 0 or kept[i - 1] != pattern for i, pattern in enumerate(kept))


def _plain_merged_rank(op: Op) -> Fact:
    patterns = _patterns(op)
    if patterns is None:
        return UNKNOWN
    plain = [pattern <= 0 for pattern in patterns]
    return sum(not (i and own and plain[i - 1]) for i, own in enumerate(plain))


def _changed_axes(op: Op) -> Fact:
    source, result = _shape(_operand(0)(op)), _shape(_output(op))
    if UNKNOWN in (source, result):
        return UNKNOWN
    source = (1,) * (len(result) - len(source)) + tuple(source)
    return tuple(i for i, (own, other) in enumerate(zip(source, result, strict=True)) if own != other)


def _axis_extent(op: Op) -> Fact:
    axis = op.attrs.get("axis")
    shape = _shape(_operand(0)(op))
    if axis is None and shape is not UNKNOWN:
        return math.prod(shape)
    return UNKNOWN if axis is None else _at(shape, axis)


def _axes_extents(op: Op) -> Fact:
    axes = op.attrs.get("axes")
    extents = () if axes is None else tuple(_at(_shape(_operand(0)(op)), axis) for axis in axes)
    return UNKNOWN if axes is None or UNKNOWN in extents else extents


def _pads(op: Op, side: int) -> Fact:
    pairs = op.attrs.get("padding")
    return UNKNOWN if pairs is None else tuple(pair[side] for pair in pairs)


def _scale(role: str) -> _Get:
    def get(op: Op) -> Fact:
        source = _extent(_shape(_operand(0)(op)), role)
        result = _extent(_shape(_output(op)), role)
        if UNKNOWN in (source, result) or not source:
            return UNKNOWN
        return result / source if result % source else result // source

    return get


def _out_channels(op: Op) -> Fact:
    shape = _shape(_operand(1)(op))
    if not op.kind.removeprefix("dynamic_").startswith("conv_transpose"):
        return _at(shape, 0)
    per_group, groups = _at(shape, 1), op.attrs.get("groups")
    return UNKNOWN if per_group is UNKNOWN or groups is None else per_group * groups


def _depthwise(op: Op) -> Fact:
    groups = op.attrs.get("groups")
    channels = _at(_shape(_operand(0)(op)), 1)
    if groups == 1:
        return False
    return UNKNOWN if groups is None or channels is UNKNOWN else groups == channels


def _window_facts(names: dict[str, _Get]) -> None:
    kernel = names["kernel"]
    for back, role in enumerate("whd", 1):
        names[f"kernel_{role}"] = _from_end(kernel, back, 1)
        for attr in ("stride", "dilation"):
            if attr in names:
                names[f"{attr}_{role}"] = _from_end(names[attr], back, 1)
    sides = ("left", "right"), ("top", "bottom"), ("front", "back")
    for back, pair in enumerate(sides, 1):
        for side, name in enumerate(pair):
            names[f"pad_{name}"] = _pad_side(names["padding"], back, side)


def _from_end(get: _Get, back: int, missing: int) -> _Get:
    def value(op: Op) -> Fact:
        items = get(op)
        if items is UNKNOWN or not isinstance(items, tuple):
            return UNKNOWN
        return items[-back] if back <= len(items) else missing

    return value


def _pad_side(get: _Get, back: int, side: int) -> _Get:
    def value(op: Op) -> Fact:
        pairs = get(op)
        if pairs is UNKNOWN or not isinstance(pairs, tuple):
            return UNKNOWN
        return pairs[-back][side] if back <= len(pairs) else 0

    return value
