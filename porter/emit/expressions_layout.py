# SPDX-License-Identifier: Apache-2.0
"""How shapes and indexing are written in PyTorch: see :mod:`porter.emit.expressions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from porter.emit.expression_table import INTEGERS, Inexpressible, ints, pads, real, shape_of, writes
from porter.ops import Op, Value

if TYPE_CHECKING:
    from porter.emit.codegen import Writer

# -- shapes -----------------------------------------------------------------------------------------------------


@writes("reshape squeeze unsqueeze flatten")
def _reshape(w: Writer, op: Op) -> str:
    x, a = w.tensor(op.inputs[0]), op.attrs
    if op.kind == "flatten" and op.operands[0].rank:
        return f"torch.flatten({x}, {int(a['start'])}, {int(a['end'])})"
    if op.kind in ("squeeze", "unsqueeze") and len(a["axes"]) == 1:
        return f"{x}.{op.kind}({int(a['axes'][0])})"
    return f"{x}.reshape({ints(shape_of(op.outputs[0]))})"


@writes("permute")
def _permute(w: Writer, op: Op) -> str:
    return f"{w.tensor(op.inputs[0])}.permute({ints(op.attrs['dims'])})"


@writes("expand")
def _expand(w: Writer, op: Op) -> str:
    return f"{w.tensor(op.inputs[0])}.expand({ints(shape_of(op.outputs[0]))})"


@writes("repeat")
def _repeat(w: Writer, op: Op) -> str:
    return f"{w.tensor(op.inputs[0])}.repeat({ints(op.attrs['repeats'])})"


def _box(op: Op) -> tuple[str, tuple[int, ...]]:
    """The index of a slice, and the axes that must be flipped after it: torch has no negative steps."""
    a, shape = op.attrs, shape_of(op.inputs[0])
    texts = [":"] * len(shape)
    flipped = []
    for axis, start, end, step in zip(a["axes"], a["starts"], a["ends"], a["steps"], strict=True):
        start, end, step, extent = int(start), int(end), int(step), shape[axis]
        if step < 0:
            count = len(range(start, end, step))
            start, end, step = (start + (count - 1) * step, start + 1, -step) if count else (0, 0, -step)
            flipped.append(int(axis))
        first = str(start) if start else ""
        last = str(end) if end < extent or not extent else ""
        texts[axis] = f"{first}:{last}" + (f":{step}" if step != 1 else "")
    while len(texts) > 1 and texts[-1] == ":":
        texts.pop()
    return f"[{', '.join(texts)}]", tuple(flipped)


@writes("slice")
def _slice(w: Writer, op: Op) -> str:
    box, flipped = _box(op)
    text = w.tensor(op.inputs[0]) + (box if box != "[:]" else "")
    return f"torch.flip({text}, {ints(flipped)})" if flipped else text


@writes("select")
def _select(w: Writer, op: Op) -> str:
    return f"{w.tensor(op.inputs[0])}[{':, ' * int(op.attrs['axis'])}{int(op.attrs['index'])}]"


def _assigned(w: Writer, op: Op, index: str, source: str) -> str:
    name = w.temporary("filled")
    w.line(f"{name} = {w.tensor(op.inputs[0])}.clone()")
    w.line(f"{name}{index} = {source}")
    return name


@writes("slice_assign")
def _slice_assign(w: Writer, op: Op) -> str:
    box, flipped = _box(op)
    source = w.operand(op, 1, op.outputs[0].dtype)
    if flipped:
        extents = list(shape_of(op.inputs[0]))
        a = op.attrs
        for axis, start, end, step in zip(a["axes"], a["starts"], a["ends"], a["steps"], strict=True):
            extents[axis] = len(range(int(start), int(end), int(step)))
        source = f"torch.flip({w.tensor(op.inputs[1])}.expand({ints(extents)}), {ints(flipped)})"
    return _assigned(w, op, box, source)


@writes("select_assign")
def _select_assign(w: Writer, op: Op) -> str:
    index = f"[{':, ' * int(op.attrs['axis'])}{int(op.attrs['index'])}]"
    return _assigned(w, op, index, w.operand(op, 1, op.outputs[0].dtype))


@writes("cat stack")
def _cat(w: Writer, op: Op) -> str:
    dtype = op.outputs[0].dtype
    return f"torch.{op.kind}([{', '.join(w.tensor(v, dtype) for v in op.operands)}], {int(op.attrs['axis'])})"


@writes("split")
def _split(w: Writer, op: Op) -> str:
    sizes = [int(s) for s in op.attrs["sizes"]]
    return f"torch.split({w.tensor(op.inputs[0])}, {sizes!r}, {int(op.attrs['axis'])})"


@writes("chunk")
def _chunk(w: Writer, op: Op) -> str:
    return f"torch.chunk({w.tensor(op.inputs[0])}, {int(op.attrs['chunks'])}, {int(op.attrs['axis'])})"


@writes("unbind")
def _unbind(w: Writer, op: Op) -> str:
    return f"torch.unbind({w.tensor(op.inputs[0])}, {int(op.attrs['axis'])})"


@writes("pad")
def _pad(w: Writer, op: Op) -> str:
    pairs = [(int(a), int(b)) for a, b in op.attrs["padding"]]
    mode, x = str(op.attrs.get("mode", "constant")), w.tensor(op.inputs[0])
    touched = [axis for axis, pair in enumerate(pairs) if pair != (0, 0)]
    if not touched:
        return x
    if mode == "constant":
        value = op.attrs.get("value", 0.0)
        text = str(int(value)) if op.outputs[0].dtype in INTEGERS else real(float(value))
        return f'F.pad({x}, {pads(pairs[touched[0] :])}, mode="constant", value={text})'
    if any(n < 0 for pair in pairs for n in pair):
        raise Inexpressible(f"{mode} padding cannot be negative")
    if mode == "circular":
        for axis in touched:
            before, after = pairs[axis]
            skip, extent = ":, " * axis, shape_of(op.inputs[0])[axis]
            name = w.temporary("padded")
            parts = [f"{x}[{skip}{extent - before}:]"] if before else []
            parts += [x, *([f"{x}[{skip}:{after}]"] if after else [])]
            w.line(f"{name} = torch.cat([{', '.join(parts)}], {axis})")
            x = name
        return x
    spatial = len(pairs) - 2
    limit = 2 if mode == "reflect" else 3
    if touched[0] < 2 or not 1 <= spatial <= limit:
        raise Inexpressible(f"torch 1.3 has {mode} padding for the last {limit} axes after the first two only")
    return f'F.pad({x}, {pads(pairs[2:])}, mode="{mode}")'


@writes("flip")
def _flip(w: Writer, op: Op) -> str:
    return f"torch.flip({w.tensor(op.inputs[0])}, {ints(op.attrs['axes'])})"


@writes("roll")
def _roll(w: Writer, op: Op) -> str:
    return f"torch.roll({w.tensor(op.inputs[0])}, {ints(op.attrs['shifts'])}, {ints(op.attrs['axes'])})"


@writes("tril triu")
def _triangle(w: Writer, op: Op) -> str:
    return f"torch.{op.kind}({w.tensor(op.inputs[0])}, {int(op.attrs['diagonal'])})"


@writes("pixel_shuffle")
def _pixel_shuffle(w: Writer, op: Op) -> str:
    x, factor = w.tensor(op.inputs[0]), int(op.attrs["factor"])
    if op.attrs.get("mode", "CRD") == "CRD":
        return f"F.pixel_shuffle({x}, {factor})"
    n, c, height, width = shape_of(op.inputs[0])
    inner = (n, factor, factor, c // factor**2, height, width)
    return f"{x}.reshape({ints(inner)}).permute((0, 3, 4, 1, 5, 2)).reshape({ints(shape_of(op.outputs[0]))})"


@writes("pixel_unshuffle")
def _pixel_unshuffle(w: Writer, op: Op) -> str:
    x, factor = w.tensor(op.inputs[0]), int(op.attrs["factor"])
    n, c, height, width = shape_of(op.inputs[0])
    inner = (n, c, height // factor, factor, width // factor, factor)
    order = "(0, 1, 3, 5, 2, 4)" if op.attrs.get("mode", "CRD") == "CRD" else "(0, 3, 5, 1, 2, 4)"
    return f"{x}.reshape({ints(inner)}).permute({order}).reshape({ints(shape_of(op.outputs[0]))})"


@writes("channel_shuffle")
def _channel_shuffle(w: Writer, op: Op) -> str:
    shape, groups = shape_of(op.inputs[0]), int(op.attrs["groups"])
    inner = (shape[0], groups, shape[1] // groups, *shape[2:])
    return f"{w.tensor(op.inputs[0])}.reshape({ints(inner)}).transpose(1, 2).reshape({ints(shape)})"


# -- indexing ---------------------------------------------------------------------------------------------------


def _index(w: Writer, value: Value | None, extent: int | None = None) -> str:
    """An integer index as the int64 tensor that torch wants, counted from the end where it is negative."""
    if value is not None and value.is_const:
        data = value.numpy().astype(np.int64)
        if extent is not None and data.size and data.min() < 0:
            return w.constant(f"{value.name}_wrapped{extent}", np.where(data < 0, data + extent, data))
        return w.constant(value.name, value.numpy(), "int64")
    return w.tensor(value, "int64")


@writes("gather")
def _gather(w: Writer, op: Op) -> str:
    axis = int(op.attrs["axis"])
    return f"torch.gather({w.tensor(op.inputs[0])}, {axis}, {_index(w, op.inputs[1], shape_of(op.inputs[0])[axis])})"


@writes("index_select")
def _index_select(w: Writer, op: Op) -> str:
    axis = int(op.attrs["axis"])
    index = _index(w, op.inputs[1], shape_of(op.inputs[0])[axis])
    return f"torch.index_select({w.tensor(op.inputs[0])}, {axis}, {index})"


@writes("take")
def _take(w: Writer, op: Op) -> str:
    axis, index = int(op.attrs["axis"]), op.operands[1]
    extent = shape_of(op.inputs[0])[axis]
    x = w.tensor(op.inputs[0])
    if index.is_const and not index.shape:
        return f"{x}[{':, ' * axis}{int(index.numpy()) % extent}]"
    text = _index(w, index, extent)
    if not index.is_const:  # it may count from the end
        text = f"torch.remainder({text}, {extent})"
    if index.rank == 1:
        return f"torch.index_select({x}, {axis}, {text})"
    return f"torch.index_select({x}, {axis}, {text}.reshape(-1)).reshape({ints(shape_of(op.outputs[0]))})"


def _advanced(w: Writer, op: Op, indices: Sequence[Value | None]) -> str:
    """``[:, i, j]`` for advanced indexing along the axes of the op."""
    if any(v is None or v.dtype == "bool" for v in indices):
        raise Inexpressible("it indexes with a mask, so the shape of its result depends on data")
    axes = [int(a) for a in op.attrs["axes"]]
    texts = [":"] * (max(axes) + 1)
    for axis, value in zip(axes, indices, strict=True):
        texts[axis] = _index(w, value)
    return f"[{', '.join(texts)}]"


@writes("index")
def _advanced_index(w: Writer, op: Op) -> str:
    return f"{w.tensor(op.inputs[0])}{_advanced(w, op, op.inputs[1:])}"


@writes("index_put")
def _index_put(w: Writer, op: Op) -> str:
    index = _advanced(w, op, op.inputs[2:])
    values = w.tensor(op.inputs[1], op.outputs[0].dtype)
    if not op.attrs.get("accumulate"):
        return _assigned(w, op, index, values)
    if sorted(op.attrs["axes"]) != list(range(len(op.attrs["axes"]))):
        raise Inexpressible("it adds at indices that do not start at the first axis")
    return f"torch.index_put({w.tensor(op.inputs[0])}, ({index[1:-1]},), {values}, True)"


def _nd_index(w: Writer, index: Value) -> str:
    """The index of GatherND and ScatterND: one column of the last axis for each axis of the data."""
    columns = shape_of(index)[-1]
    if index.is_const:
        data = index.numpy()
        texts = [w.constant(f"{index.name}_{k}", np.ascontiguousarray(data[..., k]), "int64") for k in range(columns)]
    else:
        texts = [f"{w.tensor(index, 'int64')}[..., {k}]" for k in range(columns)]
    return f"[{', '.join(texts)}]"


@writes("gather_nd")
def _gather_nd(w: Writer, op: Op) -> str:
    if op.attrs.get("batch_dims"):
        raise Inexpressible("gather_nd with batch axes has no expression")
    return f"{w.tensor(op.inputs[0])}{_nd_index(w, op.operands[1])}"


@writes("scatter_nd")
def _scatter_nd(w: Writer, op: Op) -> str:
    reduction, index = str(op.attrs.get("reduction", "none")), _nd_index(w, op.operands[1])
    source = w.tensor(op.inputs[2], op.outputs[0].dtype)
    if reduction == "none":
        return _assigned(w, op, index, source)
    if reduction == "add":
        return f"torch.index_put({w.tensor(op.inputs[0])}, ({index[1:-1]},), {source}, True)"
    raise Inexpressible(f"torch 1.3 cannot combine scattered values by {reduction}")


@writes("scatter")
def _scatter(w: Writer, op: Op) -> str:
    reduction, axis = str(op.attrs.get("reduction", "none")), int(op.attrs["axis"])
    if reduction not in ("none", "add"):
        raise Inexpressible(f"torch 1.3 cannot combine scattered values by {reduction}")
    index = _index(w, op.inputs[1], shape_of(op.inputs[0])[axis])
    name = "scatter" if reduction == "none" else "scatter_add"
    return f"torch.{name}({w.tensor(op.inputs[0])}, {axis}, {index}, {w.tensor(op.inputs[2], op.outputs[0].dtype)})"


@writes("one_hot")
def _one_hot(w: Writer, op: Op) -> str:
    return f"F.one_hot({w.tensor(op.inputs[0], 'int64')}, {int(op.attrs['depth'])})"
