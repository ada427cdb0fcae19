# SPDX-License-Identifier: Apache-2.0
"""Lifters of ATen's layers: products, windows, norms, resampling, attention and recurrences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from porter.dialects.fx_args import Args, Lifted, Unknown, axis_of, lifter, pairs_of, shape_of
from porter.ops import Value

__all__ = ["GRID_MODES", "GRID_PADDING"]

# ------------------------------------------------------------------------------------------- linear algebra


@lifter("linear.default")
def _linear(a: Args) -> Lifted:
    return "linear", (a.tensor("input"), a.tensor("weight"), a.optional("bias")), {}


@lifter("addmm.default")
def _addmm(a: Args) -> Lifted:
    attrs = {"alpha": float(a["alpha"]), "beta": float(a["beta"]), "trans_a": False, "trans_b": False}
    return "gemm", (a.tensor("mat1"), a.tensor("mat2"), a.tensor("self")), attrs


@lifter("mm.default", "bmm.default", "matmul.default", "dot.default", "mv.default")
def _matmul(a: Args) -> Lifted:
    second = next(n for n in ("mat2", "other", "tensor", "vec") if n in a)
    return "matmul", (a.tensor("self"), a.tensor(second)), {}


@lifter("einsum.default")
def _einsum(a: Args) -> Lifted:
    return "einsum", a.tensors("tensors"), {"equation": a["equation"].replace(" ", "")}


# ------------------------------------------------------------------------------------------- windows


def _conv(kind: str, a: Args, x: Value, w: Value, padding: Sequence[Any], extra: dict[str, Any]) -> Lifted:
    n = len(shape_of(w)) - 2
    if len(shape_of(x)) != n + 2:
        raise Unknown
    attrs = {
        "stride": a.sizes("stride", n),
        "padding": tuple(padding),
        "dilation": a.sizes("dilation", n),
        "groups": a["groups"],
        **extra,
    }
    return f"{kind}{n}d", (x, w, a.optional("bias")), attrs


@lifter(*(f"conv{n}d.{o}" for n in (1, 2, 3) for o in ("default", "padding")))
def _conv_nd(a: Args) -> Lifted:
    x, w = a.tensor("input"), a.tensor("weight")
    n = len(shape_of(w)) - 2
    if a["padding"] == "same":
        totals = [d * (k - 1) for d, k in zip(a.sizes("dilation", n), shape_of(w)[2:], strict=True)]
        padding: tuple[tuple[int, int], ...] = tuple((t // 2, t - t // 2) for t in totals)
    else:
        padding = ((0, 0),) * n if a["padding"] == "valid" else pairs_of(a.sizes("padding", n))
    return _conv("conv", a, x, w, padding, {})


@lifter("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input")
def _conv_transpose(a: Args) -> Lifted:
    x, w = a.tensor("input"), a.tensor("weight")
    n = len(shape_of(w)) - 2
    extra = {"output_padding": a.sizes("output_padding", n)}
    return _conv("conv_transpose", a, x, w, pairs_of(a.sizes("padding", n)), extra)


@lifter("convolution.default", "_convolution.default")
def _convolution(a: Args) -> Lifted:
    x, w = a.tensor("input"), a.tensor("weight")
    n = len(shape_of(w)) - 2
    extra = {"output_padding": a.sizes("output_padding", n)} if a["transposed"] else {}
    a.read("output_padding")
    return _conv("conv_transpose" if a["transposed"] else "conv", a, x, w, pairs_of(a.sizes("padding", n)), extra)


def _batched(x: Value, n: int) -> None:
    if len(shape_of(x)) != n + 2:
        raise Unknown


@lifter(*(f"max_pool{n}d.default" for n in (1, 2, 3)), "max_pool2d_with_indices.default")
def _max_pool(a: Args) -> Lifted:
    x, name = a.tensor("self"), str(a.node.target)
    n = int(name[len("aten.max_pool")])
    _batched(x, n)
    kernel = a.sizes("kernel_size", n)
    attrs = {
        "kernel": kernel,
        "stride": a.sizes("stride", n, kernel),
        "padding": pairs_of(a.sizes("padding", n)),
        "dilation": a.sizes("dilation", n),
        "ceil_mode": bool(a["ceil_mode"]),
    }
    return f"max_pool{n}d" + ("_with_indices" if "indices" in name else ""), (x,), attrs


@lifter(*(f"avg_pool{n}d.default" for n in (1, 2, 3)))
def _avg_pool(a: Args) -> Lifted:
    x = a.tensor("self")
    n = int(str(a.node.target)[len("aten.avg_pool")])
    _batched(x, n)
    kernel = a.sizes("kernel_size", n)
    attrs = {
        "kernel": kernel,
        "stride": a.sizes("stride", n, kernel),
        "padding": pairs_of(a.sizes("padding", n)),
        "ceil_mode": bool(a["ceil_mode"]),
        "count_include_pad": bool(a["count_include_pad"]),
        "divisor_override": a.get("divisor_override"),
    }
    return f"avg_pool{n}d", (x,), attrs


@lifter(
    "adaptive_avg_pool1d.default",
    "adaptive_avg_pool2d.default",
    "_adaptive_avg_pool2d.default",
    "adaptive_avg_pool3d.default",
    "_adaptive_avg_pool3d.default",
    "adaptive_max_pool2d.default",
)
def _adaptive_pool(a: Args) -> Lifted:
    x = a.tensor("self")
    kind = str(a.node.target).removeprefix("aten.").removesuffix(".default").lstrip("_")
    n = int(kind[-2])
    _batched(x, n)
    if "max" in kind and any(user.args[1] != 0 for user in a.node.users):
        raise Unknown
    return kind, (x,), {"output_size": a.sizes("output_size", n)}


@lifter("max_unpool2d.default")
def _max_unpool(a: Args) -> Lifted:
    return "max_unpool2d", (a.tensor("self"), a.tensor("indices")), {"output_size": tuple(a["output_size"])}


@lifter("im2col.default")
def _unfold(a: Args) -> Lifted:
    attrs = {
        n: a.sizes(s, 2)
        for n, s in (("kernel", "kernel_size"), ("stride", "stride"), ("padding", "padding"), ("dilation", "dilation"))
    }
    return "unfold", (a.tensor("self"),), attrs


@lifter("col2im.default")
def _fold(a: Args) -> Lifted:
    attrs = {
        n: a.sizes(s, 2)
        for n, s in (
            ("output_size", "output_size"),
            ("kernel", "kernel_size"),
            ("stride", "stride"),
            ("padding", "padding"),
            ("dilation", "dilation"),
        )
    }
    return "fold", (a.tensor("self"),), attrs


# ------------------------------------------------------------------------------------------- normalization


@lifter("batch_norm.default")
def _batch_norm(a: Args) -> Lifted:
    if a["training"]:
        raise Unknown
    operands = (
        a.tensor("input"),
        a.optional("weight"),
        a.optional("bias"),
        a.tensor("running_mean"),
        a.tensor("running_var"),
    )
    return "batch_norm", operands, {"eps": float(a["eps"])}


@lifter("instance_norm.default")
def _instance_norm(a: Args) -> Lifted:
    x, weight, bias = a.tensor("input"), a.optional("weight"), a.optional("bias")
    mean, var = a.optional("running_mean"), a.optional("running_var")
    if not a["use_input_stats"]:
        return "batch_norm", (x, weight, bias, mean, var), {"eps": float(a["eps"])}
    if mean is not None:
        raise Unknown
    return "instance_norm", (x, weight, bias), {"eps": float(a["eps"])}


def _trailing(a: Args, x: Value) -> tuple[int, ...]:
    rank = len(shape_of(x))
    return tuple(range(rank - len(a["normalized_shape"]), rank))


@lifter("layer_norm.default")
def _layer_norm(a: Args) -> Lifted:
    x = a.tensor("input")
    return (
        "layer_norm",
        (x, a.optional("weight"), a.optional("bias")),
        {"axes": _trailing(a, x), "eps": float(a["eps"])},
    )


@lifter("rms_norm.default")
def _rms_norm(a: Args) -> Lifted:
    x = a.tensor("input")
    eps = a["eps"]
    if eps is None:
        eps = torch.finfo(getattr(torch, str(x.dtype))).eps
    return "rms_norm", (x, a.optional("weight")), {"axes": _trailing(a, x), "eps": float(eps)}


@lifter("group_norm.default")
def _group_norm(a: Args) -> Lifted:
    operands = (a.tensor("input"), a.optional("weight"), a.optional("bias"))
    return "group_norm", operands, {"groups": a["num_groups"], "eps": float(a["eps"])}


@lifter("softmax.int", "_softmax.default", "log_softmax.int", "_log_softmax.default")
def _softmax(a: Args) -> Lifted:
    x = a.tensor("self")
    return (
        "log_softmax" if "log" in str(a.node.target) else "softmax",
        (x,),
        {"axis": axis_of(a["dim"], len(shape_of(x)))},
    )


# ------------------------------------------------------------------------------------------- images

_UPSAMPLE = {
    **{f"upsample_nearest{n}d": ("nearest", n) for n in (1, 2, 3)},
    **{f"_upsample_nearest_exact{n}d": ("nearest_exact", n) for n in (1, 2, 3)},
    "upsample_linear1d": ("linear", 1),
    "upsample_bilinear2d": ("linear", 2),
    "upsample_trilinear3d": ("linear", 3),
    "upsample_bicubic2d": ("cubic", 2),
    "_upsample_bilinear2d_aa": ("linear", 2),
    "_upsample_bicubic2d_aa": ("cubic", 2),
}


@lifter(*(f"{name}.{o}" for name in _UPSAMPLE for o in ("default", "vec")))
def _resize(a: Args) -> Lifted:
    """Source: torch/nn/functional.py (interpolate) and aten/src/ATen/native/UpSample.h (the coordinates)."""
    x = a.tensor("self" if "self" in a else "input")
    name = str(a.node.target).split(".")[1]
    mode, n = _UPSAMPLE[name]
    a.read("output_size")
    if "scale_factors" in a:
        scales: Any = a["scale_factors"]
    else:
        given = [a.get(s) for s in (("scales",) if n == 1 else ("scales_d", "scales_h", "scales_w")[-n:])]
        scales = None if None in given else given
    aligned = bool(a.get("align_corners"))
    attrs = {
        "mode": "nearest" if mode == "nearest_exact" else mode,
        "coordinates": "asymmetric" if mode == "nearest" else "align_corners" if aligned else "half_pixel",
        "sizes": shape_of(a.out[0])[2:],
        "scales": None if scales is None or aligned else tuple(float(s) for s in scales),
        "nearest_mode": "round_prefer_ceil" if mode == "nearest_exact" else "floor",
        "cubic_coeff": -0.5 if name.endswith("cubic2d_aa") else -0.75,
        "antialias": name.endswith("_aa"),
    }
    return "resize", (x,), attrs


@lifter("pixel_shuffle.default", "pixel_unshuffle.default")
def _pixel_shuffle(a: Args) -> Lifted:
    name = str(a.node.target).split(".")[1]
    factor = a["upscale_factor" if name == "pixel_shuffle" else "downscale_factor"]
    return name, (a.tensor("self"),), {"factor": factor, "mode": "CRD"}


@lifter("channel_shuffle.default", "native_channel_shuffle.default")
def _channel_shuffle(a: Args) -> Lifted:
    return "channel_shuffle", (a.tensor("self"),), {"groups": a["groups"]}


GRID_MODES = ("bilinear", "nearest", "bicubic")
GRID_PADDING = ("zeros", "border", "reflection")


@lifter("grid_sampler.default", "grid_sampler_2d.default", "grid_sampler_3d.default")
def _grid_sample(a: Args) -> Lifted:
    attrs = {
        "mode": GRID_MODES[a["interpolation_mode"]],
        "padding_mode": GRID_PADDING[a["padding_mode"]],
        "align_corners": bool(a["align_corners"]),
    }
    return "grid_sample", (a.tensor("input"), a.tensor("grid")), attrs


@lifter("affine_grid_generator.default")
def _affine_grid(a: Args) -> Lifted:
    return "affine_grid", (a.tensor("theta"),), {"size": tuple(a["size"]), "align_corners": bool(a["align_corners"])}


@lifter("torchvision.nms.default")
def _nms(a: Args) -> Lifted:
    return "nms", (a.tensor("dets"), a.tensor("scores")), {"iou_threshold": float(a["iou_threshold"])}


# ------------------------------------------------------------------------------------------- layers of a kind


@lifter("scaled_dot_product_attention.default")
def _attention(a: Args) -> Lifted:
    operands = (a.tensor("query"), a.tensor("key"), a.tensor("value"), a.optional("attn_mask"))
    scale = a["scale"]
    return "attention", operands, {"scale": None if scale is None else float(scale), "causal": bool(a["is_causal"])}


@lifter("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")
def _recurrent(a: Args) -> Lifted:
    """Operands: x, the weights in torch's order (w_ih, w_hh, b_ih, b_hh by layer and direction), the initial state."""
    if a["train"] and a["dropout"]:
        raise Unknown
    a.read("dropout", "train")
    kind, _, activation = str(a.node.target).split(".")[1].partition("_")
    weights = a.tensors("params")
    states = a.tensors("hx") if kind == "lstm" else (a.tensor("hx"),)
    attrs = {
        "hidden": shape_of(weights[1])[-1],
        "direction": "bidirectional" if a["bidirectional"] else "forward",
        "layers": a["num_layers"],
        "layout": "batch_first" if a["batch_first"] else "time_first",
        "biases": bool(a["has_biases"]),
    }
    if activation:
        attrs["activation"] = activation
    return kind, (a.tensor("input"), *weights, *states), attrs
