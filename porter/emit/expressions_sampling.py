# SPDX-License-Identifier: Apache-2.0
"""How resampling, constants by shape and composites are written in PyTorch: see :mod:`porter.emit.expressions`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from porter.emit.expression_table import (
    Computed,
    Inexpressible,
    ints,
    number,
    parens,
    real,
    shape_of,
    torch_dtype,
    writes,
)
from porter.ops import Array, Op, Value

if TYPE_CHECKING:
    from porter.emit.codegen import Writer

# -- resampling -------------------------------------------------------------------------------------------------


def _source_positions(out: int, extent: int, scale: float, coordinates: str) -> Array:
    """Where each output sample lies in the input, by ONNX Resize's coordinates; ``scale`` is out / extent."""
    at = np.arange(out, dtype=np.float64)
    whole = abs(scale * extent - out) < 1e-6 * out  # then divide integers: no sample falls just below a whole position
    if coordinates == "asymmetric":
        return at * extent / out if whole else at / scale
    if coordinates == "align_corners":
        return at * (extent - 1) / (out - 1) if out > 1 else np.zeros(out)
    if coordinates == "pytorch_half_pixel" and out == 1:
        return np.zeros(out)
    if coordinates in ("half_pixel", "pytorch_half_pixel"):
        return ((2 * at + 1) * extent / out - 1) / 2 if whole else (at + 0.5) / scale - 0.5
    raise Inexpressible(f"the coordinates {coordinates} are not known")


def _nearest(positions: Array, extent: int, mode: str) -> Array:
    rounded = {
        "floor": np.floor(positions), "ceil": np.ceil(positions),
        "round_prefer_floor": np.ceil(positions - 0.5), "round_prefer_ceil": np.floor(positions + 0.5),
    }  # fmt: skip
    if mode not in rounded:
        raise Inexpressible(f"the rounding {mode} is not known")
    return np.clip(rounded[mode], 0, extent - 1).astype(np.int64)


@writes("resize")
def _resize(w: Writer, op: Op) -> str:
    a, x = op.attrs, w.tensor(op.inputs[0])
    extents, sizes = shape_of(op.inputs[0])[2:], tuple(int(s) for s in a["sizes"])
    mode, coordinates = str(a["mode"]), str(a["coordinates"])
    scales = tuple(a.get("scales") or (o / i for o, i in zip(sizes, extents, strict=True)))
    if a.get("antialias"):
        raise Inexpressible("torch 1.3 has no antialiased resize")
    if mode == "nearest":
        exact = True
        wanted = []
        for out, extent, scale in zip(sizes, extents, scales, strict=True):
            index = _nearest(
                _source_positions(out, extent, scale, coordinates), extent, str(a.get("nearest_mode", "floor"))
            )
            wanted.append(index)
            exact = exact and np.array_equal(index, np.arange(out) * extent // out)
        if exact and 1 <= len(sizes) <= 3:
            return f'F.interpolate({x}, size={ints(sizes)}, mode="nearest")'
        for axis, (index, extent) in enumerate(zip(wanted, extents, strict=True), 2):
            if not np.array_equal(index, np.arange(extent)):
                x = f"torch.index_select({x}, {axis}, {w.constant(f'{op.outputs[0].name}_rows{axis}', index)})"
        return x
    names = {("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear", ("cubic", 2): "bicubic"}
    name = names.get((mode, len(sizes)))
    if name is None:
        raise Inexpressible(f"torch has no {mode} resize of {len(sizes)} axes")
    aligned = coordinates == "align_corners"
    for out, extent, scale in zip(sizes, extents, scales, strict=True):
        ours = _source_positions(out, extent, scale, coordinates)
        torchs = _source_positions(out, extent, out / extent, "align_corners" if aligned else "half_pixel")
        if not np.allclose(ours, torchs, rtol=0, atol=1e-6 * extent):
            raise Inexpressible(f"torch does not place its samples as {coordinates} with scale {scale:g} does")
    if mode == "cubic" and float(a.get("cubic_coeff", -0.75)) != -0.75:
        raise Inexpressible("torch's cubic coefficient is -0.75")
    return f'F.interpolate({x}, size={ints(sizes)}, mode="{name}", align_corners={aligned})'


@writes("affine_grid")
def _affine_grid(w: Writer, op: Op) -> str:
    a = op.attrs
    return f"F.affine_grid({w.tensor(op.inputs[0])}, {ints(a['size'])}, align_corners={bool(a['align_corners'])})"


@writes("grid_sample")
def _grid_sample(w: Writer, op: Op) -> str:
    a = op.attrs
    modes = f'mode="{a["mode"]}", padding_mode="{a["padding_mode"]}", align_corners={bool(a["align_corners"])}'
    if a["mode"] not in ("bilinear", "nearest"):
        raise Inexpressible(f"torch 1.3 has no {a['mode']} grid_sample")
    return f"F.grid_sample({w.tensor(op.inputs[0])}, {w.tensor(op.inputs[1])}, {modes})"


@writes("unfold")
def _unfold(w: Writer, op: Op) -> str:
    a = op.attrs
    sizes = ", ".join(ints(a[name]) for name in ("kernel", "dilation", "padding", "stride"))
    return f"F.unfold({w.tensor(op.inputs[0])}, {sizes})"


@writes("fold")
def _fold(w: Writer, op: Op) -> str:
    a = op.attrs
    sizes = ", ".join(ints(a[name]) for name in ("output_size", "kernel", "dilation", "padding", "stride"))
    return f"F.fold({w.tensor(op.inputs[0])}, {sizes})"


# -- constants by shape -----------------------------------------------------------------------------------------


@writes("arange")
def _arange(w: Writer, op: Op) -> Computed:
    a = op.attrs
    count = max(0, math.ceil((a["end"] - a["start"]) / a["step"]))
    return Computed(((np.arange(count) * a["step"] + a["start"]).astype(a["dtype"]),))


@writes("linspace")
def _linspace(w: Writer, op: Op) -> Computed:
    a = op.attrs
    return Computed((np.linspace(a["start"], a["end"], int(a["steps"])).astype(a["dtype"]),))


@writes("full fill")
def _full(w: Writer, op: Op) -> Computed:
    return Computed((np.full(shape_of(op.outputs[0]), op.attrs["value"], op.attrs["dtype"]),))


@writes("eye")
def _eye(w: Writer, op: Op) -> Computed:
    a = op.attrs
    return Computed((np.eye(int(a["rows"]), int(a["cols"]), int(a.get("diagonal", 0)), dtype=a["dtype"]),))


@writes("shape")
def _shape_of(w: Writer, op: Op) -> Computed:
    return Computed((np.array(shape_of(op.inputs[0])[op.attrs.get("start") : op.attrs.get("end")], np.int64),))


@writes("size")
def _size_of(w: Writer, op: Op) -> Computed:
    return Computed((np.array(math.prod(shape_of(op.inputs[0])), np.int64),))


@writes("meshgrid")
def _meshgrid(w: Writer, op: Op) -> str:
    shape = shape_of(op.outputs[0])  # the indexing argument came after 1.3
    texts = []
    for i, value in enumerate(op.operands):
        axis = 1 - i if op.attrs.get("indexing", "ij") == "xy" and i < 2 and len(op.operands) > 1 else i
        column = [1] * len(shape)
        column[axis] = -1
        texts.append(f"{w.tensor(value)}.reshape({ints(column)}).expand({ints(shape)})")
    return ", ".join(texts)


# -- composites -------------------------------------------------------------------------------------------------


@writes("attention")
def _attention(w: Writer, op: Op) -> str:
    query, key, value, mask = (*op.inputs, None)[:4]
    scale = op.attrs.get("scale")
    factor = 1.0 / math.sqrt(shape_of(query)[-1]) if scale is None else float(scale)
    scores = w.temporary("scores")
    w.line(f"{scores} = torch.matmul({w.tensor(query)}, {w.tensor(key)}.transpose(-2, -1)) * {real(factor)}")
    if op.attrs.get("causal"):
        rows, columns = shape_of(query)[-2], shape_of(key)[-2]
        later = np.triu(np.ones((rows, columns), np.bool_), 1)
        buffer = w.constant(f"{op.outputs[0].name}_later", later)
        w.line(f'{scores} = {scores}.masked_fill({buffer}, float("-inf"))')
    if mask is not None and mask.dtype == "bool":
        w.line(f'{scores} = {scores}.masked_fill(~{w.tensor(mask)}, float("-inf"))')
    elif mask is not None:
        w.line(f"{scores} = {scores} + {w.tensor(mask)}")
    return f"torch.matmul(F.softmax({scores}, dim=-1), {w.tensor(value)})"


def _per_axis(w: Writer, op: Op, value: Value | None, dtype: str) -> str:
    """Scale or zero point so that it broadcasts along the op's axis."""
    if value is None:
        return "0"
    if not value.is_const:
        raise Inexpressible("its scale or zero point is computed at run time")
    data = value.numpy().astype(dtype)
    if data.size == 1:
        return number(data)
    shape = [1] * len(shape_of(op.inputs[0]))
    shape[int(op.attrs["axis"])] = -1
    return w.constant(f"{value.name}_{dtype}_axis{op.attrs['axis']}", data.reshape(shape))


@writes("quantize")
def _quantize(w: Writer, op: Op) -> str:
    dtype = str(op.attrs["dtype"])
    text = torch_dtype(dtype)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    scale, zero = (_per_axis(w, op, v, "float32") for v in (*op.inputs, None)[1:3])
    x = w.tensor(op.inputs[0])
    shifted = f"torch.round({x} / {scale})" + ("" if zero in ("0", "0.0") else f" + {parens(zero)}")
    return f"torch.clamp({shifted}, {low}, {high}).to({text})"


@writes("dequantize")
def _dequantize(w: Writer, op: Op) -> str:
    scale, zero = (_per_axis(w, op, v, "float32") for v in (*op.inputs, None)[1:3])
    x = w.tensor(op.inputs[0], "float32")
    return f"{x} * {scale}" if zero in ("0", "0.0") else f"({x} - {parens(zero)}) * {scale}"
