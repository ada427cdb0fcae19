# SPDX-License-Identifier: Apache-2.0
"""What ONNX's linear, convolution, pooling, normalizing, reducing, attention and quantizing nodes mean.

Importing this module adds its operators to the table of :mod:`porter.dialects.onnx_lift`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from porter.dialects.onnx_lift import FLOATS, At, Lifted, derived, lifts
from porter.dialects.onnx_proto import DTYPES

# -- linear algebra, convolutions, pools -------------------------------------------------------------


@lifts("Gemm")
def _gemm(at: At) -> Lifted | None:
    a, b, c = at.x, at.ins[1], at.get(2)
    alpha, beta = at.attr("alpha", 1.0), at.attr("beta", 1.0)
    trans_a, trans_b = bool(at.attr("transA", 0)), bool(at.attr("transB", 0))
    if b is None:
        return None
    plain = alpha == 1.0 and not trans_a and b.is_const and b.rank == 2
    bias = c is None or (beta == 1.0 and c.is_const and at.out.shape is not None and c.shape == at.out.shape[1:])
    if plain and bias and b.shape is not None:
        weight = b if trans_b else derived(b, b.shape[::-1], lambda w: w.T)
        return "linear", (a, weight, c), {}
    return "gemm", (a, b, c), {"alpha": alpha, "beta": beta, "trans_a": trans_a, "trans_b": trans_b}


@lifts("Einsum")
def _einsum(at: At) -> Lifted:
    return "einsum", at.ins, {"equation": at.attrs["equation"]}


Pairs = tuple[tuple[int, int], ...]


def pairs_of(flat: Sequence[int]) -> Pairs:
    half = len(flat) // 2
    return tuple(zip(flat[:half], flat[half:], strict=True))


def _padding(at: At, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Pairs | None:
    """``pads`` or ``auto_pad`` as explicit pairs; None where the input's size is needed and not known."""
    mode = at.attr("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return pairs_of(at.attr("pads", (0,) * (2 * len(kernel))))
    if mode == "VALID":
        return ((0, 0),) * len(kernel)
    if at.shape is None or mode not in ("SAME_UPPER", "SAME_LOWER"):
        return None
    pairs = []
    for extent, k, s, d in zip(at.shape[2:], kernel, stride, dilation, strict=True):
        total = max((-(-extent // s) - 1) * s + (k - 1) * d + 1 - extent, 0)
        small, large = total // 2, total - total // 2
        pairs.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return tuple(pairs)


@lifts("Conv")
def _conv(at: At) -> Lifted | None:
    weight = at.ins[1]
    if weight is None or weight.shape is None or not 3 <= len(weight.shape) <= 5:
        return None
    n = len(weight.shape) - 2
    stride, dilation = at.attr("strides", (1,) * n), at.attr("dilations", (1,) * n)
    padding = _padding(at, weight.shape[2:], stride, dilation)
    if padding is None:
        return None
    attrs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": at.attr("group", 1)}
    return f"conv{n}d", (at.x, weight, at.get(2)), attrs


@lifts("ConvTranspose")
def _conv_transpose(at: At) -> Lifted | None:
    weight = at.ins[1]
    if weight is None or weight.shape is None or not 3 <= len(weight.shape) <= 5:
        return None
    n = len(weight.shape) - 2
    stride, dilation = at.attr("strides", (1,) * n), at.attr("dilations", (1,) * n)
    more = at.attr("output_padding", (0,) * n)
    mode, size = at.attr("auto_pad", "NOTSET"), at.attr("output_shape")
    if size is None and mode in ("NOTSET", "VALID"):
        padding: Pairs = pairs_of(at.attr("pads", (0,) * 2 * n)) if mode == "NOTSET" else ((0, 0),) * n
    elif at.shape is None:
        return None
    else:
        extents = at.shape[2:]
        if size is None:  # SAME: the output is the input times the stride
            size = tuple(e * s for e, s in zip(extents, stride, strict=True))
        pairs = []
        for i, want in enumerate(size[-n:]):
            total = stride[i] * (extents[i] - 1) + more[i] + (weight.shape[2 + i] - 1) * dilation[i] + 1 - want
            if total < 0:
                return None
            small, large = total // 2, total - total // 2
            pairs.append((small, large) if mode == "SAME_UPPER" else (large, small))
        padding = tuple(pairs)
    attrs = {
        "stride": stride, "padding": padding, "dilation": dilation, "groups": at.attr("group", 1),
        "output_padding": more,
    }  # fmt: skip
    return f"conv_transpose{n}d", (at.x, weight, at.get(2)), attrs


def _pool(at: At) -> tuple[int, dict[str, Any]] | None:
    kernel = at.attrs["kernel_shape"]
    n = len(kernel)
    stride, dilation = at.attr("strides", (1,) * n), at.attr("dilations", (1,) * n)
    padding = _padding(at, kernel, stride, dilation)
    if padding is None or not 1 <= n <= 3 or at.shape is None:
        return None
    ceil = bool(at.attr("ceil_mode", 0)) and at.attr("auto_pad", "NOTSET") == "NOTSET"
    if at.out.shape is not None:
        # Old and new runtimes differ in whether a last window may start in the padding: torch's may not.
        for extent, got, k, s, d, pads in zip(
            at.shape[2:], at.out.shape[2:], kernel, stride, dilation, padding, strict=True
        ):
            room = extent + sum(pads) - (k - 1) * d - 1
            count = (-(-room // s) if ceil else room // s) + 1
            if ceil and (count - 1) * s >= extent + pads[0]:
                count -= 1
            if count != got:
                return None
    return n, {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil}


@lifts("MaxPool")
def _max_pool(at: At) -> Lifted | None:
    found = _pool(at)
    if found is None or at.attr("storage_order", 0):
        return None
    n, attrs = found
    if at.only_first_output():
        return f"max_pool{n}d", at.ins, attrs
    # ONNX counts an index through the whole tensor, torch through one plane: the same for one plane.
    one = at.shape is not None and prod(at.shape[:2]) == 1
    return ("max_pool2d_with_indices", at.ins, attrs) if n == 2 and one else None


@lifts("AveragePool")
def _average_pool(at: At) -> Lifted | None:
    found = _pool(at)
    if found is None or any(d != 1 for d in found[1].pop("dilation")):
        return None
    n, attrs = found
    attrs.update(count_include_pad=bool(at.attr("count_include_pad", 0)), divisor_override=None)
    return f"avg_pool{n}d", at.ins, attrs


@lifts("GlobalAveragePool")
def _global_average(at: At) -> Lifted | None:
    n = (at.x.rank or 0) - 2
    return (f"adaptive_avg_pool{n}d", at.ins, {"output_size": (1,) * n}) if 1 <= n <= 3 else None


@lifts("GlobalMaxPool")
def _global_max(at: At) -> Lifted | None:
    if at.x.rank == 4:
        return "adaptive_max_pool2d", at.ins, {"output_size": (1, 1)}
    axes = tuple(range(2, at.x.rank or 0))
    return ("amax", at.ins, {"axes": axes, "keepdim": True}) if axes else None


# -- normalization ---------------------------------------------------------------------------------


@lifts("BatchNormalization")
def _batch_norm(at: At) -> Lifted | None:
    old = at.version < 7 and not at.attr("is_test", 0)
    if old or at.attr("training_mode", 0) or not at.attr("spatial", 1) or not at.only_first_output():
        return None
    return "batch_norm", at.ins, {"eps": at.attr("epsilon", 1e-5)}


@lifts("InstanceNormalization")
def _instance_norm(at: At) -> Lifted:
    return "instance_norm", at.ins, {"eps": at.attr("epsilon", 1e-5)}


def _trailing(at: At) -> tuple[int, ...] | None:
    axis = at.axis(at.attr("axis", -1))
    return None if axis is None or at.x.rank is None else tuple(range(axis, at.x.rank))


@lifts("LayerNormalization")
def _layer_norm(at: At) -> Lifted | None:
    axes = _trailing(at)
    if axes is None or not at.only_first_output():
        return None
    return "layer_norm", (at.x, at.get(1), at.get(2)), {"axes": axes, "eps": at.attr("epsilon", 1e-5)}


@lifts("RMSNormalization", "SimplifiedLayerNormalization")
@lifts("SimplifiedLayerNormalization", domain="com.microsoft")
def _rms_norm(at: At) -> Lifted | None:
    axes = _trailing(at)
    if axes is None or not at.only_first_output():
        return None
    return "rms_norm", (at.x, at.get(1)), {"axes": axes, "eps": at.attr("epsilon", 1e-5)}


@lifts("GroupNormalization")
def _group_norm(at: At) -> Lifted | None:
    groups = at.attrs["num_groups"]
    weights = [at.get(1), at.get(2)]
    if at.version < 21:  # one scale a group; since 21 one a channel
        if at.shape is None or any(w is None or not w.is_const for w in weights):
            return None
        each = at.shape[1] // groups
        weights = [w and derived(w, (groups * each,), lambda a, k=each: np.repeat(a, k)) for w in weights]  # type: ignore[misc]
    return "group_norm", (at.x, *weights), {"groups": groups, "eps": at.attr("epsilon", 1e-5)}


@lifts("LpNormalization")
def _lp_normalize(at: At) -> Lifted | None:
    axis = at.axis(at.attr("axis", -1))
    # A vector of zeros stays zero; the smallest normal float32 does that and changes nothing else.
    eps = float(np.finfo(np.float32).tiny)
    return None if axis is None else ("lp_normalize", at.ins, {"p": float(at.attr("p", 2)), "axis": axis, "eps": eps})


@lifts("LRN")
def _lrn(at: At) -> Lifted | None:
    size = at.attrs["size"]
    if size % 2 == 0:  # an even window lies on the other side in torch
        return None
    attrs = {"size": size, "alpha": at.attr("alpha", 1e-4), "beta": at.attr("beta", 0.75), "k": at.attr("bias", 1.0)}
    return "local_response_norm", at.ins, attrs


@lifts("Softmax", "LogSoftmax")
def _softmax(at: At) -> Lifted | None:
    kind = "softmax" if at.node.op == "Softmax" else "log_softmax"
    axis = at.axis(at.attr("axis", -1 if at.version >= 13 else 1))
    if axis is None:
        return None
    # Before opset 13 it runs over all axes from `axis` on, as one.
    if at.version < 13 and (at.shape is None or prod(at.shape[axis + 1 :]) != 1):
        return None
    return kind, at.ins, {"axis": axis}


# -- reductions ------------------------------------------------------------------------------------

_REDUCTIONS = {
    "ReduceSum": "sum", "ReduceMean": "mean", "ReduceProd": "prod", "ReduceMax": "amax", "ReduceMin": "amin",
    "ReduceLogSumExp": "logsumexp", "ReduceL1": "norm", "ReduceL2": "norm",
}  # fmt: skip


@lifts(*_REDUCTIONS)
def _reduce(at: At) -> Lifted | None:
    op = at.node.op
    kind = _REDUCTIONS[op]
    axes = at.axes_of(1, 13 if op == "ReduceSum" else 18)
    keepdim = bool(at.attr("keepdims", 1))
    if axes == "dynamic":
        extra = {"p": 1.0 if op == "ReduceL1" else 2.0} if kind == "norm" else {}
        return f"dynamic_{kind}", (at.x, at.get(1)), {"keepdim": keepdim, **extra}
    if not axes:
        if at.attr("noop_with_empty_axes", 0):
            return ("identity", at.ins[:1], {}) if kind != "norm" and op != "ReduceLogSumExp" else None
        if at.x.rank is None:
            return None
        axes = tuple(range(at.x.rank))
    attrs: dict[str, Any] = {"axes": axes, "keepdim": keepdim}
    if at.x.dtype == "bool":
        kind = {"amax": "any", "amin": "all"}.get(kind, "")
        return (kind, at.ins[:1], attrs) if kind else None
    if at.x.dtype not in FLOATS and kind in ("mean", "norm", "logsumexp"):
        return None
    if kind == "norm":
        attrs = {"p": 1.0 if op == "ReduceL1" else 2.0, **attrs}
    return kind, at.ins[:1], attrs


@lifts("ArgMax", "ArgMin")
def _arg(at: At) -> Lifted | None:
    axis = at.axis(at.attr("axis", 0))
    if axis is None or at.attr("select_last_index", 0):
        return None
    return at.node.op.lower(), at.ins, {"axis": axis, "keepdim": bool(at.attr("keepdims", 1))}


@lifts("TopK")
def _topk(at: At) -> Lifted | None:
    axis = at.axis(at.attr("axis", -1))
    if axis is None or len(at.outs) != 2:
        return None
    attrs = {"axis": axis, "largest": bool(at.attr("largest", 1)), "sorted": bool(at.attr("sorted", 1))}
    k = at.attr("k") if at.version < 10 else at.number(1)
    if k is None:
        return "dynamic_topk", at.ins, attrs
    return "topk", at.ins[:1], {"k": int(k), **attrs}


@lifts("CumSum")
def _cumsum(at: At) -> Lifted | None:
    if at.attr("exclusive", 0) or at.attr("reverse", 0):
        return None
    given = at.number(1)
    if given is None:
        return "dynamic_cumsum", at.ins, {}
    axis = at.axis(int(given))
    return None if axis is None else ("cumsum", at.ins[:1], {"axis": axis})


# -- sequences, attention, quantization, control flow -----------------------------------------------


_ACTIVATIONS = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}


@lifts("LSTM", "GRU", "RNN")
def _recurrent(at: At) -> Lifted | None:
    odd = ("activation_alpha", "activation_beta", "clip")
    if any(name in at.attrs for name in odd) or at.attr("input_forget", 0):
        return None
    direction, usual = at.attr("direction", "forward"), _ACTIVATIONS[at.node.op]
    given = tuple(str(name).lower() for name in at.attr("activations", ())) or usual
    each = {given[i : i + len(usual)] for i in range(0, len(given), len(usual))}
    if each != {usual} and (at.node.op, each) != ("RNN", {("relu",)}):
        return None
    attrs = {
        "hidden": at.attrs["hidden_size"], "direction": direction, "layers": 1, "layout": "onnx",
        "time_axis": at.attr("layout", 0), "outputs": tuple(i for i, name in enumerate(at.node.outs) if name),
    }  # fmt: skip
    if at.node.op == "GRU":
        attrs["linear_before_reset"] = bool(at.attr("linear_before_reset", 0))
    if at.node.op == "RNN":
        attrs["activation"] = given[0]
    return at.node.op.lower(), at.ins, attrs


@lifts("Attention")
def _attention(at: At) -> Lifted | None:
    plain = at.only_first_output() and at.attrs.keys() <= {"scale", "is_causal"}
    if not plain or any(at.has(i) for i in range(4, len(at.node.ins))) or at.x.rank != 4:
        return None
    key = at.ins[1]
    if key is None or key.shape is None or at.shape is None or key.shape[1] != at.shape[1]:
        return None  # fewer key heads than query heads
    attrs = {"scale": at.attr("scale"), "causal": bool(at.attr("is_causal", 0))}
    return "attention", (*at.ins[:3], at.get(3)), attrs


@lifts("QuantizeLinear", "DequantizeLinear")
@lifts("QuantizeLinear", "DequantizeLinear", domain="com.microsoft")
def _quantize(at: At) -> Lifted | None:
    scale = at.ins[1]
    if scale is None or scale.rank is None or scale.rank > 1 or at.attr("block_size", 0):
        return None
    axis = at.axis(at.attr("axis", 1)) if scale.rank == 1 and prod(scale.shape or ()) > 1 else None
    if scale.rank == 1 and prod(scale.shape or ()) > 1 and axis is None:
        return None
    operands = (at.x, scale, at.get(2))
    if at.node.op == "DequantizeLinear":
        return "dequantize", operands, {"axis": axis}
    zero = at.get(2)
    dtype = zero.dtype if zero is not None else DTYPES.get(at.attr("output_dtype", 0), "uint8")
    if dtype is None or dtype.startswith("float"):
        return None
    return "quantize", operands, {"axis": axis, "dtype": dtype}


@lifts("If", "Loop", "Scan")
def _control(at: At) -> Lifted:
    return at.node.op.lower(), at.ins, {}
