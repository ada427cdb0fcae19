# SPDX-License-Identifier: Apache-2.0
"""MLU270: every op of the vocabulary has its verdict, every limit is tried on both sides, every claim has a source."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops import IMAGE, Shape, const, make, value

from porter.op_facts import facts
from porter.ops import KINDS, Op, Value
from porter.target import Target

MLU270, MLU220 = Target.load("mlu270"), Target.load("mlu220")


def conv(
    x: Shape = IMAGE,
    out: int = 32,
    k: int = 3,
    pad: Any = 1,
    dilation: int = 1,
    groups: int = 1,
    dtype: str = "float32",
) -> Op:
    pads = pad if isinstance(pad, tuple) else ((pad, pad),) * (len(x) - 2)
    spatial = len(x) - 2
    weight = value("w", (out, x[1] // groups, *(k,) * spatial), dtype, const=True)
    return make(
        f"conv{spatial}d", x, weight, None,
        stride=(1,) * spatial, padding=pads, dilation=(dilation,) * spatial, groups=groups, dtype=dtype,
    )  # fmt: skip


def deconv(x: Shape = IMAGE, groups: int = 1) -> Op:
    spatial = len(x) - 2
    return make(
        f"conv_transpose{spatial}d", x, const(x[1], 32 // groups, *(2,) * spatial), None, stride=(2,) * spatial,
        padding=((0, 0),) * spatial, dilation=(1,) * spatial, groups=groups, output_padding=(0,) * spatial,
    )  # fmt: skip


def pool(kind: str, x: Shape = IMAGE, k: int = 3, pad: Any = 1, **more: Any) -> Op:
    spatial = len(x) - 2
    pads = pad if isinstance(pad, tuple) else ((pad, pad),) * spatial
    attrs: dict[str, Any] = {"kernel": (k,) * spatial, "stride": (2,) * spatial, "padding": pads, "ceil_mode": False}
    if kind.startswith("max"):
        attrs["dilation"] = (1,) * spatial
    else:
        attrs |= {"count_include_pad": True, "divisor_override": None}
    return make(kind, x, **(attrs | more))


def resize(mode: str, size: int = 40, coordinates: str = "asymmetric", nearest: str = "floor", **more: Any) -> Op:
    attrs = {
        "mode": mode, "coordinates": coordinates, "sizes": (size, size), "scales": None, "nearest_mode": nearest,
        "cubic_coeff": -0.75, "antialias": False,
    }  # fmt: skip
    return make("resize", IMAGE, **(attrs | more))


def slice_(step: int = 2, **more: Any) -> Op:
    return make("slice", IMAGE, axes=(2,), starts=(0,), ends=(20,), steps=(step,), **more)


def pad(padding: Any = ((0, 0), (0, 0), (1, 1), (1, 0)), mode: str = "constant", x: Shape = IMAGE) -> Op:
    return make("pad", x, padding=padding, mode=mode, value=0.0)


def scatter(x: Shape = (1, 8, 9, 1), axis: int = 2, index: str = "int32", reduction: str = "none") -> Op:
    return make("scatter", x, value("i", x, index), x, axis=axis, reduction=reduction)


def embedding(rows: int = 100, width: int = 64, index: Shape = (1, 16), dtype: str = "int32") -> Op:
    return make("embedding", const(rows, width), value("i", index, dtype))


def topk(k: int, x: Shape = (1, 1000), dtype: str = "float32") -> Op:
    return make("topk", x, k=k, axis=1, largest=True, sorted=True, dtype=dtype)


def sum_(kind: str = "sum", axes: Shape = (2,), x: Shape = IMAGE, dtype: str = "float32") -> Op:
    return make(kind, x, axes=axes, keepdim=True, dtype=dtype)


def batch_norm(channels: int = 64) -> Op:
    c = const(channels)
    return make("batch_norm", (1, channels, 4, 4), c, c, c, c, eps=1e-5)


def cast(source: str, to: str, x: Shape = IMAGE) -> Op:
    return make("cast", value("x", x, source), dtype=to)


N, L, U, X, H = "native", "native likely", "unknown", "unsupported", "host"

#: kernel or limit -> [(op, expected verdict)]. Native means certain; "native likely" that the file says so.
VERDICTS: dict[str, list[tuple[Op, str]]] = {
    "generic_conv (3639)": [
        (conv(), N),
        (conv(dtype="float16"), N),
        (conv(k=20, pad=0), N),
        (conv(k=21, pad=1), X),
        (conv(groups=4), N),
        (conv(x=(1, 3, 1, 1)), X),
        (conv(x=(1, 64, 3, 3)), N),
        (conv(pad=((0, 1), (0, 1))), X),
        (conv(pad=((1, 1), (0, 1))), X),
        (conv(dilation=2, pad=0), N),
        (conv(dilation=2, pad=2), U),
        (
            make(
                "conv2d", IMAGE, (8, 64, 1, 1), None, stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1
            ),
            X,
        ),
        (
            make(
                "conv2d",
                IMAGE,
                const(8, 64, 1, 1),
                (8,),
                stride=(1, 1),
                padding=((0, 0), (0, 0)),
                dilation=(1, 1),
                groups=1,
            ),
            X,
        ),
    ],
    "conv_depthwise2d (5031)": [
        (conv(out=64, groups=64), N),
        (conv(out=128, groups=64), X),
        (conv(x=(1, 512, 20, 20), out=512, groups=512, k=9), N),
        (conv(x=(1, 512, 20, 20), out=512, groups=512, k=11, pad=5), X),
        (conv(x=(1, 512, 20, 20), out=512, groups=512, k=11, pad=5, dtype="float16"), N),
        (conv(x=(1, 512, 20, 20), out=512, groups=512, k=15, pad=7, dtype="float16"), X),
        (conv(x=(1, 32, 40, 40), out=32, groups=32, k=17, pad=8), N),
        (conv(x=(1, 32, 40, 40), out=32, groups=32, k=19, pad=9), X),
    ],
    "conv3d, conv1d": [
        (conv(x=(1, 4, 8, 8, 8)), L),
        (conv(x=(1, 4, 8, 8, 8), pad=((0, 1),) * 3), X),
        (conv(x=(1, 4, 8)), U),
    ],
    "convtranspose (2917, 4623)": [
        (deconv(), L),
        (deconv(groups=2), U),
        (deconv(x=(1, 32, 4, 4), groups=32), L),
        (deconv((1, 4, 4, 4, 4)), L),
        (deconv((1, 4, 8)), U),
    ],
    "linear = Mlp (9887)": [
        (make("linear", (1, 64), const(10, 64), const(10)), N),
        (make("linear", (1, 7, 64), const(10, 64), None), U),
        (make("linear", (1, 64), (10, 64), None), X),
        (make("gemm", (1, 64), const(64, 10), None, alpha=1.0, beta=1.0, trans_a=False, trans_b=False), X),
    ],
    "mm, bmm": [
        (make("matmul", (3, 4), (4, 5)), L),
        (make("matmul", (2, 3, 4), (2, 4, 5)), L),
        (make("matmul", (2, 3, 4), (4, 5)), U),
        (make("matmul", (1, 2, 3, 4), (1, 2, 4, 5)), U),
        (make("einsum", (3, 4), (4, 5), equation="ij,jk->ik"), X),
    ],
    "pool (7909)": [
        (pool("max_pool2d"), N),
        (pool("max_pool2d", ceil_mode=True), N),
        (pool("max_pool2d", k=13, pad=6), N),
        (pool("max_pool2d", pad=((0, 1), (0, 1))), X),
        (pool("max_pool2d", k=2, pad=2), X),
        (pool("avg_pool2d"), N),
        (pool("avg_pool2d", divisor_override=3), N),
        (pool("max_pool2d_with_indices"), L),
        (pool("max_pool1d", (1, 4, 8)), L),
        (pool("avg_pool1d", (1, 4, 8)), L),
        (pool("max_pool3d", (1, 4, 8, 8, 8)), L),
        (pool("avg_pool3d", (1, 4, 8, 8, 8)), L),
        (pool("max_pool1d", (1, 4, 8), k=2, pad=2), X),
        (pool("max_pool3d", (1, 4, 8, 8, 8), pad=((0, 1),) * 3), X),
    ],
    "adaptive pools": [
        (make("adaptive_avg_pool2d", IMAGE, output_size=(1, 1)), N),
        (make("adaptive_avg_pool2d", IMAGE, output_size=(5, 4)), N),
        (make("adaptive_avg_pool2d", IMAGE, output_size=(6, 6)), X),
        (make("adaptive_max_pool2d", IMAGE, output_size=(1, 1)), N),
        (make("adaptive_avg_pool1d", (1, 4, 8), output_size=(2,)), L),
        (make("adaptive_avg_pool1d", (1, 4, 8), output_size=(3,)), X),
        (make("adaptive_avg_pool3d", (1, 4, 8, 8, 8), output_size=(1, 2, 4)), L),
        (make("adaptive_avg_pool3d", (1, 4, 8, 8, 8), output_size=(1, 2, 3)), X),
        (make("max_unpool2d", IMAGE, value("i", IMAGE, "int64"), output_size=(40, 40)), L),
    ],
    "batch norm (14151, 14263)": [
        (batch_norm(), N),
        (batch_norm(41999), N),
        (batch_norm(42000), U),
        (make("batch_norm", IMAGE, const(64), const(64), (64,), const(64), eps=1e-5), X),
    ],
    "other norms": [
        (make("instance_norm", IMAGE, None, None, eps=1e-5), L),
        (make("layer_norm", (1, 9, 8), const(8), const(8), axes=(2,), eps=1e-5), L),
        (make("group_norm", IMAGE, None, None, groups=4, eps=1e-5), X),
        (make("rms_norm", (1, 9, 8), None, axes=(2,), eps=1e-5), X),
        (make("lp_normalize", IMAGE, p=2.0, axis=1, eps=1e-12), X),
        (make("local_response_norm", IMAGE, size=5, alpha=1e-4, beta=0.75, k=1.0), U),
    ],
    "softmax (25104), log-softmax (30467)": [
        (make("softmax", IMAGE, axis=1), N),
        (make("log_softmax", (1, 1023), axis=1), N),
        (make("log_softmax", (1, 1024), axis=1), X),
    ],
    "active (8724) and friends": [
        *(
            (make(kind, IMAGE), N)
            for kind in [
                "relu",
                "relu6",
                "sigmoid",
                "tanh",
                "exp",
                "sqrt",
                "rsqrt",
                "reciprocal",
                "sign",
                "abs",
                "floor",
            ]
        ),
        *((make(kind, IMAGE), L) for kind in ["log", "sin", "cos"]),
        (make("prelu", IMAGE, const(64)), N),
        (make("prelu", IMAGE, (64,)), X),
        (make("leaky_relu", IMAGE, negative_slope=0.1), N),
        (make("elu", IMAGE, alpha=1.0), L),
        (make("clamp", IMAGE, min=0.0, max=None), N),
        (make("softplus", IMAGE, beta=1.0, threshold=20.0), L),
        (make("softplus", IMAGE, beta=2.0, threshold=20.0), X),
        (make("threshold", IMAGE, threshold=0.5, value=0.0), L),
        (make("threshold", IMAGE, threshold=0.5, value=1.0), X),
        (make("erf", IMAGE, dtype="float16"), N),
        (make("erf", IMAGE), U),
    ],
    "activations to compose": [
        *((make(kind, IMAGE), X) for kind in ["silu", "hardswish", "mish", "selu", "softsign", "logsigmoid"]),
        (make("hardsigmoid", IMAGE, alpha=1 / 6, beta=0.5), X),
        (make("gelu", IMAGE, approximate="none"), X),
        (make("celu", IMAGE, alpha=1.0), X),
    ],
    "pow (25732)": [
        (make("pow", IMAGE, Value.constant("e", np.array(2.0, "float32"))), N),
        (make("pow", IMAGE, IMAGE), X),
        (make("pow", IMAGE, Value.constant("e", np.array(65504.0, "float32"))), X),
        (make("pow", IMAGE, const(1, 64, 1, 1)), X),
    ],
    "cast (27237)": [
        *(
            (cast(a, b), N)
            for a, b in [("float32", "float16"), ("uint8", "float32"), ("float16", "int8"), ("int16", "float16")]
        ),
        (cast("int8", "uint8"), X),
        (cast("int8", "int16"), X),
        (cast("float32", "int32"), X),
        (cast("float32", "int64"), X),
        (cast("bool", "float32"), X),
        (cast("float32", "float16", (1, 62999)), N),
        (cast("float32", "float16", (1, 63000)), X),
    ],
    "add, sub, mul (10667, 13362, 13679; cycle 18810)": [
        *((make(kind, IMAGE, const()), N) for kind in ("add", "sub", "mul")),
        (make("add", IMAGE, IMAGE), N),
        (make("mul", (1, 8400, 2), const(1, 8400, 1)), N),
        (make("add", IMAGE, IMAGE, dtype="int32"), X),
        (make("add", (1, 32768), const()), N),
        (make("add", (1, 32769), const()), X),
        (make("add", (1, 32769), (1, 32769)), N),
        (make("add", (1, 65536), (1, 1), dtype="float16"), N),
        (make("add", (1, 65537), (1, 1), dtype="float16"), X),
        (make("add", IMAGE, IMAGE, dtype="int64"), X),
        (make("add", IMAGE, IMAGE, dtype="float64"), X),
        (make("add", (7,), (7,)), U),
    ],
    "div (11918, 11751)": [
        (make("div", IMAGE, const()), L),
        (make("div", IMAGE, IMAGE), L),
        (make("div", IMAGE, const(1, 64, 1, 1)), X),
    ],
    "compare and choose (19623)": [
        *((make(kind, IMAGE, const()), N) for kind in ["eq", "ne", "lt", "le", "gt", "maximum", "minimum"]),
        (make("ge", IMAGE, const()), X),
        (make("gt", (1, 131072), const()), N),
        (make("gt", (1, 131073), const()), X),
        *(
            (make(kind, value("a", IMAGE, "bool"), value("b", IMAGE, "bool")), U)
            for kind in ("logical_and", "logical_or", "bitwise_and")
        ),
        (make("logical_xor", value("a", IMAGE, "bool"), value("b", IMAGE, "bool")), X),
        (make("logical_not", value("a", IMAGE, "bool")), X),
        (make("where", value("a", IMAGE, "bool"), IMAGE, IMAGE), X),
        (make("masked_fill", IMAGE, value("m", IMAGE, "bool"), value=0.0), X),
    ],
    "sum, mean, std (32211, 32652)": [
        (sum_(), N),
        (sum_("mean"), N),
        (sum_(axes=(2, 3)), X),
        (sum_("mean", (2, 3)), X),
        (sum_(x=(1, 9999), axes=(1,), dtype="float16"), N),
        (sum_(x=(1, 10000), axes=(1,), dtype="float16"), X),
        (sum_(x=(1, 10000), axes=(1,)), N),
        (make("std", IMAGE, axes=(2,), keepdim=True, correction=1), L),
        (make("std", IMAGE, axes=(2,), keepdim=True, correction=2), X),
        (sum_("prod"), X),
        (sum_("amax"), X),
        (sum_("all"), X),
    ],
    "max (14523), topk (29881)": [
        (make("max_dim", IMAGE, axis=1, keepdim=False), L),
        (make("max_dim", (1, 65505), axis=1, keepdim=True), X),
        (make("max_dim", (1, 65505), axis=1, keepdim=True, dtype="float16"), L),
        (make("max_dim", (1, 131009), axis=1, keepdim=True, dtype="float16"), X),
        (topk(100, dtype="float16"), L),
        (topk(100), L),
        (topk(1000), L),
        (topk(2, (1, 600000)), X),
        (topk(2, (1, 300000)), L),
        (topk(2, (1, 300000), "float16"), X),
        (make("min_dim", IMAGE, axis=1, keepdim=False), X),
        (make("argmax", IMAGE, axis=1, keepdim=False), X),
    ],
    "reshape (28894)": [
        (make("reshape", IMAGE, shape=(1, 64, 400)), N),
        (make("flatten", IMAGE, start=2, end=3), N),
        (make("reshape", IMAGE, shape=(1, 64, 400), dtype="int32"), N),
        (make("reshape", IMAGE, shape=(1, 64, 400), dtype="int64"), X),
        (make("unsqueeze", IMAGE, axes=(2,)), L),
        (make("squeeze", (1, 3, 1, 4), axes=(2,)), L),
        (make("reshape", IMAGE, shape=(1, 2, 32, 4, 5, 20)), U),
        (make("reshape", IMAGE, shape=(25600,)), U),
    ],
    "transpose (9400)": [
        (make("permute", IMAGE, dims=(0, 2, 3, 1)), N),
        (make("permute", (1, 3, 85, 20, 20), dims=(0, 1, 3, 4, 2)), N),
        (make("permute", IMAGE, dims=(0, 2, 3, 1), dtype="int32"), X),
        (make("permute", (1,) * 6, dims=tuple(range(6))), U),
    ],
    "slice (30756)": [
        (slice_(), N),
        (slice_(dtype="int16"), X),
        (make("select", IMAGE, axis=1, index=0), L),
        (make("slice", IMAGE, axes=(2,), starts=(19,), ends=(-1,), steps=(-1,)), X),
        (make("slice_assign", IMAGE, const(), axes=(2,), starts=(0,), ends=(5,), steps=(1,)), X),
        (make("select_assign", IMAGE, const(), axis=1, index=0), X),
    ],
    "concat (16382), split (16825), broadcast (12112)": [
        (make("cat", IMAGE, IMAGE, axis=1), N),
        (make("stack", (1, 3), (1, 3), axis=1), L),
        (make("cat", IMAGE, IMAGE, axis=1, dtype="int64"), X),
        (make("split", IMAGE, sizes=(32, 32), axis=1), N),
        (make("split", IMAGE, sizes=(24, 40), axis=1), X),
        (make("chunk", IMAGE, chunks=4, axis=1), L),
        (make("chunk", IMAGE, chunks=3, axis=1), X),
        (make("unbind", IMAGE, axis=1), U),
        (make("expand", (1, 64, 1, 1), shape=IMAGE), L),
        (make("repeat", IMAGE, repeats=(1, 2, 1, 1)), U),
    ],
    "addpad (5366)": [
        (pad(), N),
        (pad(mode="reflect"), X),
        (pad(((0, 0), (0, 0), (-1, 0), (0, 0))), X),
        (pad(((0, 0), (1, 0), (0, 0), (0, 0))), U),
        (pad(((1, 1), (1, 1)), x=(3, 4)), U),
        (pad(x=(1, 1, 65535, 1)), N),
        (pad(x=(1, 1, 65536, 1)), X),
    ],
    "nearestneighbor (24048), interp (15599)": [
        (resize("nearest"), N),
        (resize("nearest", 60), U),
        (resize("nearest", coordinates="half_pixel"), X),
        (resize("nearest", nearest="ceil"), X),
        (resize("linear", 50, "align_corners"), N),
        (resize("linear", 40, "half_pixel"), U),
        (make("resize", (1, 3, 4, 4, 4), **{**resize("nearest").attrs, "sizes": (8, 8, 8)}), X),
        (resize("cubic", 40, "half_pixel"), X),
        (resize("linear", 40, "align_corners", antialias=True), X),
    ],
    "scatter (45018), embedding (34563)": [
        (scatter(), L),
        (scatter(index="int64"), U),
        (scatter(x=(2, 8, 9, 1)), X),
        (scatter(axis=3), X),
        (scatter(reduction="add"), X),
        (embedding(), L),
        (embedding(dtype="int64"), U),
        (embedding(width=63000), X),
        (embedding(index=(1, 62936)), L),
        (make("embedding", (100, 64), value("i", (1, 16), "int32")), X),
        (Op("embedding", (const(64), value("i", (1, 16), "int32")), (value("y", (1, 16)),)), X),
    ],
    "tril": [(make("tril", (1, 4, 4), diagonal=0), L), (make("triu", (1, 4, 4), diagonal=0), X)],
    "made inside the model": [
        (make("arange", start=0, end=5, step=1, dtype="float32"), X),
        (make("full", shape=(2, 3), value=0.0, dtype="float32"), X),
        (make("fill", IMAGE, value=0.0, dtype="float32"), X),
        (make("meshgrid", const(3), const(4), indexing="ij"), X),
        (make("linspace", start=0.0, end=1.0, steps=5, dtype="float32"), X),
        (make("eye", rows=2, cols=2, diagonal=0, dtype="float32"), X),
    ],
    "on the host, or not static": [
        (Op("masked_select", (value("x", IMAGE), value("m", IMAGE, "bool")), (value("y", (3, 4)),)), H),
        (Op("aten.equal.default", (value("x", IMAGE),), (value("y", (1, 1), "bool"),)), H),
        (Op("nonzero", (value("x", IMAGE),), (Value("y", None, "int64"),)), X),
        (Op("dynamic_slice", (value("x", IMAGE), value("i", (1, 1), "int64")), (value("y", IMAGE),)), X),
        (Op("aten.foo.default", (value("x", IMAGE),), (value("y", IMAGE),)), U),
    ],
    "the vendor's own": [
        (
            Op(
                "torch_mlu.yolov5_detection_output.default",
                (value("x", IMAGE),) * 3,
                (value("y", (1, 1, 1, 7232), "float16"),),
            ),
            N,
        ),
        (
            Op(
                "torch_mlu.yolov5_detection_output.default",
                (value("x", IMAGE),) * 8,
                (value("y", (1, 1, 1, 7232), "float16"),),
            ),
            X,
        ),
        (Op("torch_mlu.mish.default", (value("x", IMAGE),), (value("y", IMAGE),)), N),
        (Op("identity", (value("x", (5,), "int64"),), (value("y", (5,), "int64"),)), N),
    ],
}
CASES = [(name, i, op, verdict) for name, ops in VERDICTS.items() for i, (op, verdict) in enumerate(ops)]


@pytest.mark.parametrize(("op", "expected"), [c[2:] for c in CASES], ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_verdict(op: Op, expected: str) -> None:
    judgement = MLU270.judge(op)
    why = [f"{reason.code} {reason}" for reason in judgement.reasons]
    assert judgement.verdict == expected.split()[0], why
    if judgement.verdict == "native":
        assert not why
        assert judgement.support is None or (judgement.support.certainty == "likely") == expected.endswith("likely")
    else:
        assert why


#: Kinds that CATCH declares no kernel for, or none that plain PyTorch 1.3 reaches.
NO_KERNEL = [
    "amax",
    "amin",
    "argmax",
    "argmin",
    "any",
    "asin",
    "asinh",
    "acos",
    "acosh",
    "atan",
    "atanh",
    "atan2",
    "attention",
    "bitwise_not",
    "bitwise_xor",
    "ceil",
    "cosh",
    "cumsum",
    "dequantize",
    "eye",
    "expm1",
    "floor_divide",
    "flip",
    "fmod",
    "fold",
    "gather",
    "gather_nd",
    "affine_grid",
    "grid_sample",
    "index",
    "index_put",
    "index_select",
    "isinf",
    "isnan",
    "linspace",
    "log10",
    "log1p",
    "log2",
    "logsumexp",
    "neg",
    "nms",
    "nonzero",
    "norm",
    "one_hot",
    "pixel_shuffle",
    "pixel_unshuffle",
    "quantize",
    "random",
    "remainder",
    "rnn",
    "roi_align",
    "roll",
    "round",
    "scatter_nd",
    "shape",
    "sinh",
    "sort",
    "square",
    "take",
    "tan",
    "trunc",
    "trunc_divide",
    "unfold",
    "var",
    "channel_shuffle",
    "if",
    "loop",
    "scan",
]


@pytest.mark.parametrize("kind", NO_KERNEL)
def test_no_kernel(kind: str) -> None:
    support = MLU270.ops[kind]
    assert support.device == "none" and support.note
    judgement = MLU270.judge(Op(kind, (value("x", IMAGE),), (value("y", IMAGE),)))
    assert judgement.verdict == "unsupported" and judgement.reasons[0].code == "PT101"


def test_every_kind_of_the_vocabulary_is_named_and_tried() -> None:
    assert [kind for kind in KINDS if kind not in MLU270.ops and kind != "identity"] == []
    tried = {op.kind for _, _, op, _ in CASES} | set(NO_KERNEL)
    assert set(MLU270.ops) - tried <= {
        "lstm", "gru", "bitwise_or", "size", "torch_mlu.conv2d.default", "torch_mlu.linear.default",
        "torch_mlu.yolov3_detection_output.default", "torch_mlu.yolov4_detection_output.default",
        "torch_mlu.normalize.default", "aten._local_scalar_dense.default", "aten.item.default",
    }  # fmt: skip


def test_every_limit_is_tried_on_both_sides() -> None:
    seen: dict[str, set[bool | None]] = {}
    for _, _, op, _ in CASES:
        known = facts(op)
        for limit in MLU270.ops[op.kind].limits if op.kind in MLU270.ops else ():
            if limit.when is None or limit.when.holds(known.__getitem__)[0]:
                seen.setdefault(limit.expr.text, set()).add(limit.expr.holds(known.__getitem__)[0])
    # Ops that share a limit share its text: trying it on one of them is enough.
    for support in MLU270.ops.values():
        for limit in support.limits:
            assert seen.get(limit.expr.text, set()) >= {True, False}, f"{support.kind}: {limit.expr.text}"


def test_every_claim_is_cited() -> None:
    cited = {source.cite for source in MLU270.sources.values()}

    def check(text: str) -> None:
        for part in text.split("; "):
            assert part in cited or re.sub(r":\d+$", "", part) in cited, part

    for support in MLU270.ops.values():
        check(support.source)
        for limit in support.limits:
            check(limit.source)
            assert limit.why
    for section in (MLU270.runtime, MLU270.quantization, MLU270.tolerance, MLU270.performance, MLU270.artifact):
        assert section is not None
        for about in section.about.values():
            check(about.source)


def test_what_is_not_known_is_not_claimed() -> None:
    quantization = MLU270.quantization
    assert quantization is not None
    for key in ("rounding", "accumulator"):
        assert quantization.fact(key).certainty == "unknown"
    assert MLU270.runtime.fact("max_rank").certainty == "unknown"


def test_numerics() -> None:
    q = MLU270.quantization
    assert q is not None and q.symmetric
    assert (q.qmax, q.scale, q.per_channel_axis) == ({"int8": 127, "int16": 32767}, "qmax/absmax", 0)
    assert {k: q.modes[k] for k in ("int8", "int16", "int8_per_channel", "int16_per_channel")} == {
        "int8": 1, "int16": 2, "int8_per_channel": 3, "int16_per_channel": 4,
    }  # fmt: skip
    assert q.quantizes(conv()) and q.quantizes(make("linear", (1, 64), const(10, 64), None))
    assert not q.quantizes(conv(out=64, groups=64)), "a depthwise convolution computes in float"
    assert not q.quantizes(make("matmul", (3, 4), (4, 5))) and not q.quantizes(make("relu", IMAGE))
    assert q.first_conv is not None and q.first_conv.in_channels == (1, 3, 4)
    assert MLU270.tolerance.of("conv2d") == 0.02
    assert MLU270.artifact is not None
    assert (MLU270.artifact.kind, MLU270.artifact.cores) == ("cambricon-torch13", (1, 4, 16))


@given(
    c=st.integers(1, 600), size=st.integers(1, 40), k=st.integers(1, 41), dtype=st.sampled_from(["float16", "float32"])
)
def test_depthwise_limit_is_the_formula_of_the_header(c: int, size: int, k: int, dtype: str) -> None:
    attrs = {"stride": (1, 1), "padding": ((k, k),) * 2, "dilation": (1, 1), "groups": c}
    inputs = value("x", (1, c, size, size), dtype), Value("w", (c, 1, k, k), dtype, lambda: np.zeros(0)), None
    verdict = MLU270.judge(Op("conv2d", inputs, (value("y", (1, c, size, size), dtype),), attrs)).verdict
    blocks = 4 if c > 256 else -(-c // 64)
    fits = c == 1 or k * k * blocks <= (676 if dtype == "float16" else 324)
    assert verdict == ("native" if fits and k <= size else "unsupported")


@pytest.mark.parametrize("kind", ["relu", "add", "cat", "reshape", "sum"])
@pytest.mark.parametrize("dtype", ["int64", "float64"])
def test_there_are_no_64_bit_tensors(kind: str, dtype: str) -> None:
    attrs = {"cat": {"axis": 1}, "reshape": {"shape": (1, 25600)}, "sum": {"axes": (2,), "keepdim": True}}.get(kind, {})
    operands = (IMAGE, IMAGE) if kind in ("add", "cat") else (IMAGE,)
    judgement = MLU270.judge(make(kind, *operands, dtype=dtype, **attrs))
    assert judgement.verdict == "unsupported"
    reasons = [reason for reason in judgement.reasons if reason.code == "PT103"]
    assert len(reasons) == len(operands) + 1 and f"no {dtype} tensors" in reasons[0].text
    assert reasons[0].certainty == "certain"


def test_the_reason_says_value_cause_and_source() -> None:
    (reason,) = (r for r in MLU270.judge(conv(x=(1, 3, 4, 20), k=7, pad=3)).reasons)
    assert str(reason) == (
        "kernel_h 7 <= in_h 4 does not hold: the kernel is taller than the input [CNML 7.2.0 cnml.h:3639, certain]"
    )


def test_mlu220_differs_where_it_must_and_claims_no_more_than_likely() -> None:
    assert MLU220.artifact is not None and MLU220.artifact.core_version == "MLU220"
    assert max(MLU220.artifact.cores) == 4 and MLU220.artifact.kind == "cambricon-torch13"
    assert (MLU220.performance.wram_kib_per_core, MLU220.performance.tops) == (512, {})
    assert {op.certainty for op in MLU220.ops.values()} == {"likely", "unknown"}
    assert set(MLU220.ops) == set(MLU270.ops)
    for _, _, op, expected in CASES:
        assert MLU220.judge(op).verdict == expected.split()[0]


def test_onnxruntime_runs_standard_onnx() -> None:
    ort = Target.load("onnxruntime")
    for op in (
        conv(),
        make("where", value("a", IMAGE, "bool"), IMAGE, IMAGE),
        make("add", IMAGE, IMAGE, dtype="int64"),
    ):
        assert ort.judge(op).verdict == "native"
    assert ort.judge(make("adaptive_avg_pool2d", IMAGE, output_size=(2, 2))).verdict == "unsupported"
    assert ort.judge(make("lp_normalize", IMAGE, p=2.0, axis=1, eps=1e-12)).verdict == "native"
    fold = Op("fold", (value("x", (1, 36, 4)),), (value("y", (1, 4, 4, 4)),))
    assert ort.judge(fold).verdict == "unknown"
