# SPDX-License-Identifier: Apache-2.0
"""Vocabulary ops as ONNX nodes: linear algebra, convolutions, pools, normalization, reductions.

Importing this module adds its kinds to the table of :mod:`porter.dialects.onnx_lower`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from porter.dialects.onnx_lower import Lowering, NoOnnxForm, lowers
from porter.dialects.onnx_lower_math import clip
from porter.dialects.onnx_proto import CODES, np_dtype
from porter.ops import Op

# -- linear algebra, convolutions, pools -------------------------------------------------------------


@lowers("linear")
def _linear(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, weight, bias = (*ins, None)[:3]
    if L.rank(x) == 2 and (bias is None or L.opset >= 7) and (bias is not None or L.opset >= 11):
        L.emit("Gemm", [x, weight, bias], outs[0], transB=1)
        return
    data = L.data(1)
    turned = L.const(np.ascontiguousarray(data.T)) if data is not None else L.transpose(weight, (1, 0))
    if bias is None:
        L.emit("MatMul", [x, turned], outs[0])
    else:
        product = L.emit("MatMul", [x, turned], shape=(*L.shape(x)[:-1], L.shape(weight)[0]))
        L.emit("Add", [product, bias], outs[0])


@lowers("gemm")
def _gemm(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    if len(ins) < 3 or ins[2] is None:
        L.need(11)
    attrs = op.attrs
    L.emit(
        "Gemm", ins, outs[0], alpha=float(attrs.get("alpha", 1)), beta=float(attrs.get("beta", 1)),
        transA=int(attrs.get("trans_a", False)), transB=int(attrs.get("trans_b", False)),
    )  # fmt: skip


@lowers("einsum")
def _einsum(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.need(12)
    L.emit("Einsum", ins, outs[0], equation=op.attrs["equation"])


def _flat(pairs: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return (*(int(p[0]) for p in pairs), *(int(p[1]) for p in pairs))


def _ints(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(v) for v in values)


@lowers("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    a = op.attrs
    attrs: dict[str, Any] = {
        "kernel_shape": L.shape(ins[1])[2:], "strides": _ints(a["stride"]), "pads": _flat(a["padding"]),
        "dilations": _ints(a["dilation"]), "group": int(a["groups"]),
    }  # fmt: skip
    name = "Conv"
    if op.kind.startswith("conv_t"):
        name = "ConvTranspose"
        if any(a.get("output_padding", ())):
            attrs["output_padding"] = _ints(a["output_padding"])
    L.emit(name, ins, outs[0], **attrs)


@lowers("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices")
def _max_pool(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    a = op.attrs
    dilation = _ints(a.get("dilation", (1,) * len(a["kernel"])))
    attrs: dict[str, Any] = {
        "kernel_shape": _ints(a["kernel"]), "strides": _ints(a["stride"]), "pads": _flat(a["padding"]),
    }  # fmt: skip
    if a.get("ceil_mode") or any(d != 1 for d in dilation):
        L.need(10)
        attrs.update(ceil_mode=int(bool(a.get("ceil_mode"))), dilations=dilation)
    if len(outs) == 1:
        L.emit("MaxPool", ins, outs[0], **attrs)
        return
    # ONNX counts indices through the whole tensor, torch through one plane.
    L.need(10)
    whole = L.temp(L.types[outs[1]][0], "int64", "indices")
    L.emit_many("MaxPool", ins, [outs[0], whole], **attrs)
    plane = prod(L.shape(ins[0])[-2:])
    L.emit("Mod", [whole, L.const(plane, "int64")], outs[1])


@lowers("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    a = op.attrs
    divisor = a.get("divisor_override")
    ceil = bool(a.get("ceil_mode"))
    if ceil:
        L.need(10)
        if divisor:
            raise NoOnnxForm("an average pool with both ceil_mode and divisor_override")
    attrs: dict[str, Any] = {
        "kernel_shape": _ints(a["kernel"]), "strides": _ints(a["stride"]), "pads": _flat(a["padding"]),
        "count_include_pad": int(bool(a.get("count_include_pad") or divisor)), "ceil_mode": 1 if ceil else None,
    }  # fmt: skip
    if divisor:
        mean = L.emit("AveragePool", ins, shape=L.shape(outs[0]), **attrs)
        L.emit("Mul", [mean, L.scalar(prod(a["kernel"]) / divisor, ins[0])], outs[0])
    else:
        L.emit("AveragePool", ins, outs[0], **attrs)


@lowers("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d")
def _adaptive(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, size = ins[0], _ints(op.attrs["output_size"])
    mean = "avg" in op.kind
    extents = L.shape(x)[-len(size) :]
    lead = None
    if L.rank(x) == len(size) + 1:  # torch takes unbatched input as well
        lead = outs[0]
        x = L.unsqueeze(x, (0,))
        outs = [L.temp((1, *L.shape(outs[0])), L.dtype(outs[0]))]
    if all(n == 1 for n in size):
        L.emit("GlobalAveragePool" if mean else "GlobalMaxPool", [x], outs[0])
    elif all(e % n == 0 for e, n in zip(extents, size, strict=True)):
        kernel = tuple(e // n for e, n in zip(extents, size, strict=True))
        L.emit("AveragePool" if mean else "MaxPool", [x], outs[0], kernel_shape=kernel, strides=kernel)
    elif mean and len(size) <= 2:
        # Windows of unequal size: one averaging matrix an axis. Window i is [floor(i e / n), ceil((i + 1) e / n)).
        turned = x
        for i, (extent, n) in enumerate(zip(extents, size, strict=True)):
            matrix = np.zeros((n, extent))
            for row in range(n):
                first, last = row * extent // n, -(-(row + 1) * extent // n)
                matrix[row, first:last] = 1 / (last - first)
            end = outs[0] if i == len(size) - 1 else None
            shape = L.shape(turned)
            if len(size) == 2 and i == 0:
                operands = [L.const(matrix, L.dtype(x)), turned]
                shape = (*shape[:-2], n, shape[-1])
            else:
                operands = [turned, L.const(matrix.T, L.dtype(x))]
                shape = (*shape[:-1], n)
            turned = L.emit("MatMul", operands, end, shape, L.dtype(x))
    else:
        raise NoOnnxForm(f"adaptive pooling of {extents} to {size}: windows of unequal size")
    if lead is not None:
        L.squeeze(outs[0], (0,), lead)


# -- normalization, reductions ---------------------------------------------------------------------


@lowers("batch_norm")
def _batch_norm(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, weight, bias, mean, var = ins
    channels, dtype = L.shape(mean), L.dtype(mean)
    weight = weight or L.const(np.ones(channels), dtype)
    bias = bias or L.const(np.zeros(channels), dtype)
    L.emit("BatchNormalization", [x, weight, bias, mean, var], outs[0], epsilon=float(op.attrs["eps"]))


@lowers("instance_norm")
def _instance_norm(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, weight, bias = (*ins, None, None)[:3]
    channels = L.shape(x)[1:2]
    weight = weight or L.const(np.ones(channels), L.dtype(x))
    bias = bias or L.const(np.zeros(channels), L.dtype(x))
    L.emit("InstanceNormalization", [x, weight, bias], outs[0], epsilon=float(op.attrs["eps"]))


@lowers("layer_norm")
def _layer_norm(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, weight, bias = (*ins, None, None)[:3]
    axes = tuple(op.attrs["axes"])
    eps = float(op.attrs["eps"])
    trailing = axes == tuple(range(axes[0], L.rank(x)))
    if L.opset >= 17 and trailing:
        weight = weight or L.const(np.ones([L.shape(x)[a] for a in axes]), L.dtype(x))
        L.emit("LayerNormalization", [x, weight, bias], outs[0], axis=axes[0], epsilon=eps)
        return
    centred = L.emit("Sub", [x, L.reduce("ReduceMean", x, axes, True)], shape=L.shape(x))
    var = L.reduce("ReduceMean", L.emit("Mul", [centred, centred]), axes, True)
    deviation = L.emit("Sqrt", [L.emit("Add", [var, L.scalar(eps, x)])])
    _scaled(L, "Div", [centred, deviation], weight, bias, outs[0])


def _scaled(L: Lowering, name: str, ins: list[Any], weight: str | None, bias: str | None, out: str) -> None:
    """A node, then times weight, then plus bias; the last of them gives ``out``."""
    steps = [(name, ins)] + [("Mul", [weight])] * (weight is not None) + [("Add", [bias])] * (bias is not None)
    last = None
    for i, (op_type, operands) in enumerate(steps):
        operands = operands if last is None else [last, *operands]
        last = L.emit(op_type, operands, out if i == len(steps) - 1 else None, L.shape(out))


@lowers("rms_norm")
def _rms_norm(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, weight = (*ins, None)[:2]
    axes = tuple(op.attrs["axes"])
    eps = op.attrs.get("eps")
    eps = float(np.finfo(np_dtype(L.dtype(x))).eps) if eps is None else float(eps)  # torch's default
    if L.opset >= 23 and axes == tuple(range(axes[0], L.rank(x))):
        weight = weight or L.const(np.ones([L.shape(x)[a] for a in axes]), L.dtype(x))
        L.emit("RMSNormalization", [x, weight], outs[0], axis=axes[0], epsilon=eps)
        return
    mean = L.reduce("ReduceMean", L.emit("Mul", [x, x]), axes, True)
    root = L.emit("Sqrt", [L.emit("Add", [mean, L.scalar(eps, x)])])
    _scaled(L, "Div", [x, root], weight, None, outs[0])


@lowers("group_norm")
def _group_norm(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, weight, bias = (*ins, None, None)[:3]
    shape, groups = L.shape(x), int(op.attrs["groups"])
    eps = float(op.attrs["eps"])
    dtype = L.dtype(x)
    if L.opset >= 21:
        weight = weight or L.const(np.ones(shape[1]), dtype)
        bias = bias or L.const(np.zeros(shape[1]), dtype)
        L.emit("GroupNormalization", [x, weight, bias], outs[0], epsilon=eps, num_groups=groups)
        return
    # One "channel" a group: InstanceNormalization of (N, groups, everything else).
    rows = L.reshape(x, (shape[0], groups, prod(shape[1:]) // groups))
    unit = [L.const(np.ones(groups), dtype), L.const(np.zeros(groups), dtype)]
    normed = L.emit("InstanceNormalization", [rows, *unit], epsilon=eps)
    column = tuple(range(1, len(shape) - 1))
    weight, bias = (p and (L.unsqueeze(p, column) if column else p) for p in (weight, bias))
    _scaled(L, "Reshape", [normed, L.ints(shape)], weight, bias, outs[0])


@lowers("lp_normalize")
def _lp_normalize(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, a = ins[0], op.attrs
    length = _norm_of(L, x, float(a["p"]), (a["axis"],), True)
    L.emit("Div", [x, clip(L, length, float(a["eps"]), None)], outs[0])


@lowers("local_response_norm")
def _lrn(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    a = op.attrs
    if a["size"] % 2 == 0:
        raise NoOnnxForm("an even window lies one channel lower in torch than in LRN")
    numbers: dict[str, Any] = {"alpha": float(a["alpha"]), "beta": float(a["beta"]), "bias": float(a["k"])}
    L.emit("LRN", ins, outs[0], size=int(a["size"]), **numbers)


@lowers("softmax", "log_softmax")
def _softmax(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    name = "Softmax" if op.kind == "softmax" else "LogSoftmax"
    axis, rank = op.attrs["axis"], L.rank(ins[0])
    if L.opset >= 13 or axis == rank - 1:
        L.emit(name, ins, outs[0], axis=axis)
        return
    # Before opset 13 it runs over all axes from `axis` on: move the axis to the end.
    dims = [*range(axis), *range(axis + 1, rank), axis]
    turned = L.transpose(ins[0], dims)
    L.transpose(L.emit(name, [turned], axis=rank - 1), [dims.index(i) for i in range(rank)], outs[0])


_REDUCE = {
    "sum": "ReduceSum", "mean": "ReduceMean", "prod": "ReduceProd", "amax": "ReduceMax", "amin": "ReduceMin",
    "logsumexp": "ReduceLogSumExp",
}  # fmt: skip


def _all_axes(L: Lowering, op: Op, x: str) -> tuple[int, ...]:
    axes = op.attrs.get("axes")
    return tuple(axes) if axes is not None else tuple(range(L.rank(x)))


@lowers(*_REDUCE)
def _reduction(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x = ins[0]
    axes, dtype = _all_axes(L, op, x), L.dtype(outs[0])
    x = L.cast(x, dtype)
    L.reduce(_REDUCE[op.kind], x, axes, bool(op.attrs.get("keepdim")), outs[0])


@lowers("all", "any")
def _truth(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    truth = L.cast(L.cast(ins[0], "bool"), "int32")
    kind = "ReduceMin" if op.kind == "all" else "ReduceMax"
    found = L.reduce(kind, truth, _all_axes(L, op, ins[0]), bool(op.attrs.get("keepdim")))
    L.emit("Cast", [found], outs[0], to=CODES["bool"])


@lowers("var", "std")
def _var(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    x, axes = ins[0], _all_axes(L, op, ins[0])
    count = prod(L.shape(x)[a] for a in axes) - op.attrs.get("correction", 1)
    centred = L.emit("Sub", [x, L.reduce("ReduceMean", x, axes, True)], shape=L.shape(x))
    total = L.reduce("ReduceSum", L.emit("Mul", [centred, centred]), axes, bool(op.attrs.get("keepdim")))
    divisor = L.scalar(max(count, 0), x)
    if op.kind == "var":
        L.emit("Div", [total, divisor], outs[0])
    else:
        L.emit("Sqrt", [L.emit("Div", [total, divisor])], outs[0])


def _norm_of(L: Lowering, x: str, p: float, axes: Sequence[int], keepdim: bool, out: str | None = None) -> str:
    if p in (1, 2):
        return L.reduce("ReduceL1" if p == 1 else "ReduceL2", x, axes, keepdim, out)
    size = L.emit("Abs", [x])
    if math.isinf(p):
        return L.reduce("ReduceMax" if p > 0 else "ReduceMin", size, axes, keepdim, out)
    if p == 0:
        some = L.cast(L.cast(x, "bool"), L.dtype(x))
        return L.reduce("ReduceSum", some, axes, keepdim, out)
    total = L.reduce("ReduceSum", L.emit("Pow", [size, L.scalar(p, x)]), axes, keepdim)
    return L.emit("Pow", [total, L.scalar(1 / p, x)], out)


@lowers("norm")
def _norm(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    _norm_of(L, ins[0], float(op.attrs["p"]), _all_axes(L, op, ins[0]), bool(op.attrs.get("keepdim")), outs[0])


@lowers("argmax", "argmin")
def _arg(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    name = "ArgMax" if op.kind == "argmax" else "ArgMin"
    axis, keep = op.attrs.get("axis"), int(bool(op.attrs.get("keepdim")))
    if axis is not None:
        L.emit(name, ins, outs[0], axis=axis, keepdims=keep)
        return
    flat = L.reshape(ins[0], (prod(L.shape(ins[0])),))
    found = L.emit(name, [flat], shape=(1,), dtype="int64", axis=0, keepdims=1)
    L.reshape(found, L.shape(outs[0]), outs[0])


@lowers("max_dim", "min_dim")
def _extreme_dim(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    big = op.kind == "max_dim"
    axis, keep = op.attrs["axis"], bool(op.attrs.get("keepdim"))
    L.reduce("ReduceMax" if big else "ReduceMin", ins[0], (axis,), keep, outs[0])
    L.emit("ArgMax" if big else "ArgMin", ins, outs[1], axis=axis, keepdims=int(keep))


@lowers("topk", "sort")
def _topk(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    a, x = op.attrs, ins[0]
    axis = a["axis"]
    k = int(a["k"]) if op.kind == "topk" else L.shape(x)[axis]
    largest = bool(a.get("largest", True)) if op.kind == "topk" else bool(a.get("descending"))
    if L.opset < 11 and not largest:
        L.need(11)
    if L.opset < 10:
        L.emit_many("TopK", [x], outs, axis=axis, k=k)
    elif L.opset < 11:
        L.emit_many("TopK", [x, L.ints((k,))], outs, axis=axis)
    else:
        flags: dict[str, Any] = {"largest": int(largest), "sorted": int(bool(a.get("sorted", True)))}
        L.emit_many("TopK", [x, L.ints((k,))], outs, axis=axis, **flags)


@lowers("cumsum")
def _cumsum(L: Lowering, op: Op, ins: list[Any], outs: list[str]) -> None:
    L.need(11)
    L.emit("CumSum", [L.cast(ins[0], L.dtype(outs[0])), L.const(op.attrs["axis"], "int64")], outs[0])
