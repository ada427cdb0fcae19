# SPDX-License-Identifier: Apache-2.0
"""``quantize`` and ``dequantize`` in a graph of ATen calls.

ATen has no call that quantizes with every zero point, dtype and axis, so each of the two kinds is written as a short
chain (:mod:`porter.dialects.fx_lower`)::

    quantize    to(clamp(round(x / scale) [+ zero], qmin, qmax), int)
    dequantize  (to(q, float32) [- to(zero, float32)]) * scale

Here such a chain is one op again, also in a program that was saved and loaded. A chain counts where the scale and the
zero point are constants, nothing else reads what is between its calls, and the limits are those of the dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from porter.dialects.fx_args import dtype_name

__all__ = ["Chain", "Found", "find_quantization"]

_aten = torch.ops.aten
_SHAPING = (_aten.reshape.default, _aten.view.default, _aten._to_copy.default)
_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32)


@dataclass(frozen=True, slots=True)
class Chain:
    """One chain as an op: its kind, the nodes of its operands, and its attributes."""

    kind: str
    operands: tuple[fx.Node, fx.Node, fx.Node | None]
    attrs: dict[str, Any]


@dataclass(slots=True)
class Found:
    """The chains of a graph by their last node, and the nodes inside of them."""

    calls: dict[fx.Node, Chain] = field(default_factory=dict)
    inside: set[fx.Node] = field(default_factory=set)


def find_quantization(graph: fx.Graph) -> Found:
    """Every quantize and dequantize of the graph."""
    found = Found()
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        match = _quantize(node) if node.target is _aten._to_copy.default else None
        if node.target is _aten.mul.Tensor:
            match = _dequantize(node)
        if match is not None:
            found.calls[node], inside = match
            found.inside.update(inside)
    return found


_Match = tuple[Chain, list[fx.Node]]


def _quantize(node: fx.Node) -> _Match | None:
    dtype = node.kwargs.get("dtype")
    clamp = _only(node.args[0], _aten.clamp.default)
    if dtype not in _INTEGERS or clamp is None:
        return None
    limits = torch.iinfo(dtype)  # type: ignore[arg-type]
    if tuple(clamp.args[1:]) != (limits.min, limits.max):
        return None
    inside, zero = [clamp], None
    steps = clamp.args[0]
    added = _only(steps, _aten.add.Tensor)
    if added is not None and len(added.args) == 2:
        zero, steps = _parameter(added.args[1], inside), added.args[0]
        inside.append(added)
        if zero is None:
            return None
    rounded = _only(steps, _aten.round.default)
    divided = rounded and _only(rounded.args[0], _aten.div.Tensor)
    if rounded is None or divided is None:
        return None
    scale = _parameter(divided.args[1], inside)
    x = divided.args[0]
    if scale is None or not isinstance(x, fx.Node):
        return None
    attrs = {"axis": _axis(divided.args[1]), "dtype": dtype_name(dtype)}  # type: ignore[arg-type]
    return Chain("quantize", (x, scale, zero), attrs), [*inside, rounded, divided]


def _dequantize(node: fx.Node) -> _Match | None:
    inside: list[fx.Node] = []
    zero = None
    scale = _parameter(node.args[1], inside)
    cast = node.args[0]
    less = _only(cast, _aten.sub.Tensor)
    if less is not None and len(less.args) == 2:
        zero, cast = _parameter(less.args[1], inside), less.args[0]
        inside.append(less)
        if zero is None:
            return None
    to = _only(cast, _aten._to_copy.default)
    if scale is None or to is None or to.kwargs.get("dtype") is not torch.float32:
        return None
    q = to.args[0]
    if not isinstance(q, fx.Node) or _dtype(q) not in _INTEGERS:
        return None
    return Chain("dequantize", (q, scale, zero), {"axis": _axis(node.args[1])}), [*inside, to]


def _only(node: Any, target: Any) -> fx.Node | None:
    """The node, when it is a call of ``target`` that one other node reads."""
    if isinstance(node, fx.Node) and node.target is target and len(node.users) == 1:
        return node
    return None


def _parameter(node: Any, inside: list[fx.Node]) -> fx.Node | None:
    """The constant behind a scale or zero point that was shaped and cast to fit; ``inside`` gets what lies between."""
    while isinstance(node, fx.Node):
        if node.op == "get_attr":
            return node
        if (
            node.target not in (_aten.reshape.default, _aten.view.default, _aten._to_copy.default)
            or len(node.users) != 1
        ):
            return None
        inside.append(node)
        node = node.args[0]
    return None


def _axis(node: Any) -> int | None:
    """The axis that a shaped scale runs along; None for one scale."""
    shape: Sequence[int] = node.meta["val"].shape
    return next((axis for axis, extent in enumerate(shape) if extent != 1), None)


def _dtype(node: fx.Node) -> Any:
    val = node.meta.get("val")
    return val.dtype if isinstance(val, torch.Tensor) else None
