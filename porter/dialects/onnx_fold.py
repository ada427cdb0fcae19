# SPDX-License-Identifier: Apache-2.0
"""Small constants computed at load time: the shapes, axes, indices and grids that exporters build from Shape nodes.

Only what decides shapes and attributes is computed here, with numpy and within a bound; whole constant sub-graphs are
the planner's business (``OnnxGraph.evaluate``, by onnxruntime). Each function follows the operator's own page in the
ONNX specification; an operator or case that is not here is simply not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from porter.dialects.onnx_proto import DTYPES, Node, Type, np_dtype, tensor_array
from porter.ops import Array

__all__ = ["Constants"]

_Args = Sequence[Any]
_Fold = Callable[[Node, int, _Args], Any]
#: The most elements of an intermediate result.
LIMIT = 1 << 24


class _TooLarge(Exception):
    pass


def _bounded(shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(int(n) for n in shape)
    if prod(shape) > LIMIT or any(n < 0 for n in shape):
        raise _TooLarge
    return shape


def _axes(node: Node, args: _Args, at: int = 1) -> tuple[int, ...] | None:
    """Axes from the second operand (new opsets) or the attribute (old ones)."""
    if len(args) > at and args[at] is not None:
        return tuple(int(a) for a in np.ravel(args[at]))
    return node.attrs.get("axes")


def _div(x: Array, y: Array) -> Array:
    if x.dtype.kind in "iu":  # ONNX integer division truncates toward zero
        return np.asarray(np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y)), x.dtype)
    return np.asarray(x / y)


def _gather(node: Node, version: int, args: _Args) -> Array:
    data, index = args
    axis = node.attrs.get("axis", 0)
    return np.asarray(np.take(data, np.where(index < 0, index + data.shape[axis], index), axis=axis))


def _slice(node: Node, version: int, args: _Args) -> Array:
    data = args[0]
    if version < 10:
        starts, ends, axes, steps = node.attrs["starts"], node.attrs["ends"], node.attrs.get("axes"), None
    else:
        starts, ends, axes, steps = (*args[1:], None, None)[:4]
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    where = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        a, b, s = slice_bounds(int(start), int(end), int(step), data.shape[int(axis)])
        where[int(axis)] = slice(a, None if b < 0 else b, s)
    return np.asarray(data[tuple(where)])


def slice_bounds(start: int, end: int, step: int, extent: int) -> tuple[int, int, int]:
    """Start and end of an ONNX Slice, clamped: 0 <= start <= end <= extent; for a negative step the end may be -1.

    Source: ONNX specification, Slice-13 ("effective" starts and ends).
    """
    if start < 0:
        start += extent
    if end < 0:
        end += extent
    if step > 0:
        start = min(max(start, 0), extent)
        return start, max(min(max(end, 0), extent), start), step
    start = min(max(start, 0), extent - 1) if extent else 0
    end = min(max(end, -1), extent - 1)
    return start, min(end, start), step


def _squeeze(node: Node, version: int, args: _Args) -> Array:
    axes = _axes(node, args)
    return np.asarray(np.squeeze(args[0], axes))


def _unsqueeze(node: Node, version: int, args: _Args) -> Array:
    axes = _axes(node, args)
    return np.asarray(np.expand_dims(args[0], axes or ()))


def _reshape(node: Node, version: int, args: _Args) -> Array:
    data, shape = args
    zero = node.attrs.get("allowzero", 0)
    return np.asarray(data).reshape([data.shape[i] if n == 0 and not zero else int(n) for i, n in enumerate(shape)])


def _expand(node: Node, version: int, args: _Args) -> Array:
    data, shape = args
    full = _bounded(np.broadcast_shapes(data.shape, tuple(int(n) for n in shape)))
    return np.broadcast_to(data, full)


def _constant_of_shape(node: Node, version: int, args: _Args) -> Array:
    value = node.attrs.get("value")
    fill = np.zeros(1, np.float32) if value is None else tensor_array(value, None)
    return np.full(_bounded(args[0]), fill.reshape(()), fill.dtype)


def _range(node: Node, version: int, args: _Args) -> Array:
    start, end, step = (a.reshape(()) for a in args)
    count = max(int(np.ceil((end - start) / step)), 0)
    _bounded((count,))
    return np.asarray(start + np.arange(count) * step, start.dtype)


def _tile(node: Node, version: int, args: _Args) -> Array:
    data, repeats = args
    _bounded([n * int(r) for n, r in zip(data.shape, repeats, strict=True)])
    return np.tile(data, [int(r) for r in repeats])


def _split(node: Node, version: int, args: _Args) -> list[Array]:
    axis = node.attrs.get("axis", 0)
    extent = args[0].shape[axis]
    sizes = args[1] if len(args) > 1 else node.attrs.get("split")
    if sizes is None:
        each = -(-extent // len(node.outs))
        sizes = [min(each, extent - i * each) for i in range(len(node.outs))]
    return np.split(args[0], np.cumsum(sizes)[:-1], axis)


def _reduce(function: Any) -> _Fold:
    def fold(node: Node, version: int, args: _Args) -> Array:
        axes = _axes(node, args)
        if not axes and node.attrs.get("noop_with_empty_axes", 0):
            return np.asarray(args[0])
        axis = tuple(axes) if axes else None
        keep = bool(node.attrs.get("keepdims", 1))
        return np.asarray(function(args[0], axis=axis, keepdims=keep)).astype(args[0].dtype)

    return fold


def _scatter_nd(node: Node, version: int, args: _Args) -> Array:
    data, index, updates = args
    if node.attrs.get("reduction", "none") != "none":
        raise _TooLarge
    out = np.array(data)
    out[tuple(np.moveaxis(index, -1, 0))] = updates
    return out


def _clip(node: Node, version: int, args: _Args) -> Array:
    low, high = (*args[1:], None, None)[:2] if version >= 11 else (node.attrs.get("min"), node.attrs.get("max"))
    out = args[0]
    out = out if low is None else np.maximum(out, np.asarray(low, out.dtype))
    return np.asarray(out if high is None else np.minimum(out, np.asarray(high, out.dtype)))


def _nonzero(node: Node, version: int, args: _Args) -> Array:
    return np.asarray(np.nonzero(np.atleast_1d(args[0])), np.int64)


def _mod(node: Node, version: int, args: _Args) -> Array:
    return np.asarray(np.fmod(*args) if node.attrs.get("fmod", 0) else np.mod(*args))


def _cast(node: Node, version: int, args: _Args) -> Array:
    dtype = DTYPES[node.attrs["to"]]
    if dtype == "string":
        raise _TooLarge
    return np.asarray(args[0].astype(np_dtype(dtype)))


def _flatten(node: Node, version: int, args: _Args) -> Array:
    axis = node.attrs.get("axis", 1) % (args[0].ndim + 1)
    return np.asarray(args[0].reshape(prod(args[0].shape[:axis]), -1))


def _chain(function: Any) -> _Fold:
    """An element-by-element operator on one or more operands."""

    def fold(node: Node, version: int, args: _Args) -> Array:
        out = args[0]
        for other in args[1:]:
            out = function(out, other)
        return np.asarray(out, args[0].dtype)

    return fold


def _each(function: Any) -> _Fold:
    return lambda node, version, args: np.asarray(function(*args))


def _unary(function: Any) -> _Fold:
    return lambda node, version, args: np.asarray(function(args[0])).astype(args[0].dtype)


def _concat(node: Node, version: int, args: _Args) -> Array:
    return np.concatenate(list(args), axis=node.attrs.get("axis", 1))


def _transpose(node: Node, version: int, args: _Args) -> Array:
    return np.asarray(np.transpose(args[0], node.attrs.get("perm")))


def _eye_like(node: Node, version: int, args: _Args) -> Array:
    dtype = DTYPES[node.attrs["dtype"]] if "dtype" in node.attrs else str(args[0].dtype)
    rows, cols = args[0].shape
    return np.eye(rows, cols, node.attrs.get("k", 0)).astype(np_dtype(dtype))


_FOLDS: dict[str, _Fold] = {
    "Abs": _unary(np.abs), "Add": _chain(np.add), "And": _each(np.logical_and), "Cast": _cast, "Ceil": _unary(np.ceil),
    "Clip": _clip, "Concat": _concat, "ConstantOfShape": _constant_of_shape, "Div": _each(_div), "EyeLike": _eye_like,
    "Equal": _each(np.equal), "Expand": _expand, "Flatten": _flatten, "Floor": _unary(np.floor), "Gather": _gather,
    "Greater": _each(np.greater), "GreaterOrEqual": _each(np.greater_equal), "Identity": _each(np.asarray),
    "Less": _each(np.less), "LessOrEqual": _each(np.less_equal), "Max": _chain(np.maximum), "Min": _chain(np.minimum),
    "Mod": _mod, "Mul": _chain(np.multiply), "Neg": _unary(np.negative), "NonZero": _nonzero,
    "Not": _each(np.logical_not), "Or": _each(np.logical_or), "Range": _range, "Reciprocal": _unary(np.reciprocal),
    "ReduceMax": _reduce(np.max), "ReduceMin": _reduce(np.min), "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum), "Reshape": _reshape, "Round": _unary(np.round), "ScatterND": _scatter_nd,
    "Slice": _slice, "Split": _split, "Sqrt": _unary(np.sqrt), "Squeeze": _squeeze, "Sub": _chain(np.subtract),
    "Tile": _tile, "Transpose": _transpose, "Unsqueeze": _unsqueeze, "Where": _each(np.where),
    "Xor": _each(np.logical_xor),
}  # fmt: skip


class Constants:
    """What is known before the model runs, by value name.

    Args:
        read: the data of an initializer or Constant node; None when the name is not one.
        types: shape and dtype of values; may grow while this object is in use, in topological order.
        producers: the node that computes each value.
        opset: the version of the default domain.
    """

    def __init__(
        self,
        read: Callable[[str], Array | None],
        types: Mapping[str, Type],
        producers: Mapping[str, Node],
        opset: int,
    ) -> None:
        self._read, self._types, self._producers, self._opset = read, types, producers, opset
        self._known: dict[str, Array | None] = {}

    def get(self, name: str, limit: int = 1 << 16) -> Array | None:
        """The value, when it follows from constants and static shapes and has at most ``limit`` elements."""
        if name in self._known:
            found = self._known[name]
            return found if found is not None and found.size <= limit else None
        shape = self._types.get(name, (None, None))[0]
        if shape is not None and prod(shape) > limit:
            return None
        stack = [name]
        while stack:
            top = stack[-1]
            if top in self._known:
                stack.pop()
                continue
            waiting = self._step(top)
            if waiting:
                stack.extend(waiting)
            else:
                stack.pop()
        found = self._known[name]
        return found if found is not None and found.size <= limit else None

    def forget(self, names: Sequence[str]) -> None:
        """Drop what is remembered of values that have changed."""
        for name in names:
            self._known.pop(name, None)

    def _step(self, name: str) -> list[str]:
        """Compute ``name`` when its operands are known; otherwise the operands to compute first."""
        node = self._producers.get(name)
        shape = self._types.get(name, (None, None))[0]
        if shape is not None and prod(shape) > LIMIT:
            self._known[name] = None
            return []
        if node is None or node.op == "Constant":
            self._known[name] = self._read(name)
            return []
        operand = self._types.get(node.ins[0], (None, None))[0] if node.ins else None
        if node.domain == "" and node.op in ("Shape", "Size"):
            if operand is None:
                self._known[name] = None
            elif node.op == "Size":
                self._known[name] = np.asarray(prod(operand), np.int64)
            else:
                extents = operand[node.attrs.get("start", 0) : node.attrs.get("end", len(operand))]
                self._known[name] = np.asarray(extents, np.int64)
            return []
        function = _FOLDS.get(node.op) if node.domain == "" else None
        args: list[Array | None] = []
        waiting: list[str] = []
        for operand_name in node.ins if function else ():
            if not operand_name:
                args.append(None)
            elif operand_name not in self._known:
                waiting.append(operand_name)
            elif self._known[operand_name] is None:
                function = None
                break
            else:
                args.append(self._known[operand_name])
        if function is None:
            self._known[name] = None
            return []
        if waiting:
            return waiting
        try:
            with np.errstate(all="ignore"):
                result = function(node, self._opset, args)
        # Values that the operator does not take: the runtime will say so, this is only a look ahead.
        except (_TooLarge, ValueError, TypeError, IndexError, KeyError, AttributeError, ArithmeticError):
            self._known.update(dict.fromkeys(node.outs))
            return []
        results = result if isinstance(result, list) else [result]
        for out, array in zip(node.outs, results, strict=False):
            self._known[out] = np.asarray(array)
        self._known.setdefault(name, None)
        return []
