# SPDX-License-Identifier: Apache-2.0
"""Ops by hand for the tests of targets: what is not said is an ordinary case."""

from __future__ import annotations

from typing import Any

import numpy as np

from porter.infer import infer
from porter.ops import KINDS, Op, Value

Shape = tuple[int, ...]
IMAGE: Shape = (1, 64, 20, 20)


def value(name: str, shape: Shape, dtype: str = "float32", const: bool = False) -> Value:
    return Value(name, shape, dtype, (lambda: np.ones(shape, dtype)) if const else None)


def const(*shape: int, dtype: str = "float32") -> Value:
    return value("c", shape, dtype, const=True)


def make(kind: str, *operands: Value | Shape | None, dtype: str = "float32", **attrs: Any) -> Op:
    """An op with inferred results; a bare shape is an operand computed at run time, of ``dtype``."""
    if "dtype:" in KINDS[kind].attrs:
        attrs["dtype"], dtype = dtype, "float32"
    inputs = tuple(value(f"i{i}", o, dtype) if isinstance(o, tuple) else o for i, o in enumerate(operands))
    results = infer(kind, inputs, attrs)
    return Op(kind, inputs, tuple(Value(f"o{i}", s, d) for i, (s, d) in enumerate(results)), attrs)


def conv(
    x: Shape = IMAGE,
    out: int = 32,
    k: Any = 1,
    pad: Any = 0,
    stride: int = 1,
    dilation: Any = 1,
    groups: int = 1,
    dtype: str = "float32",
) -> Op:
    spatial = len(x) - 2
    kernel = k if isinstance(k, tuple) else (k,) * spatial
    weight = value("w", (out, x[1] // groups, *kernel), dtype, const=True)
    return make(
        f"conv{spatial}d", x, weight, None, stride=(stride,) * spatial,
        padding=pad if isinstance(pad, tuple) else ((pad, pad),) * spatial,
        dilation=dilation if isinstance(dilation, tuple) else (dilation,) * spatial, groups=groups, dtype=dtype,
    )  # fmt: skip


def deconv(
    x: Shape = IMAGE,
    out: int = 32,
    k: Any = 4,
    stride: Any = 2,
    pad: Any = 1,
    dilation: int = 1,
    groups: int = 1,
    output_padding: int = 0,
) -> Op:
    spatial = len(x) - 2
    kernel = k if isinstance(k, tuple) else (k,) * spatial
    weight = value("w", (x[1], out // groups, *kernel), const=True)
    strides = stride if isinstance(stride, tuple) else (stride,) * spatial
    return make(
        f"conv_transpose{spatial}d", x, weight, None, stride=strides,
        padding=pad if isinstance(pad, tuple) else ((pad, pad),) * spatial, dilation=(dilation,) * spatial,
        groups=groups, output_padding=(output_padding,) * spatial,
    )  # fmt: skip


def pool(kind: str, x: Shape = IMAGE, k: Any = 3, stride: int = 2, pad: int = 1, dilation: int = 1) -> Op:
    spatial = len(x) - 2
    kernel = k if isinstance(k, tuple) else (k,) * spatial
    attrs: dict[str, Any] = {
        "kernel": kernel, "stride": (stride,) * spatial, "padding": ((pad, pad),) * spatial, "ceil_mode": False,
    }  # fmt: skip
    if kind.startswith("max"):
        attrs["dilation"] = (dilation,) * spatial
    else:
        attrs |= {"count_include_pad": False, "divisor_override": None}
    return make(kind, x, **attrs)


def linear(rows: int = 1, inside: int = 64, out: int = 32) -> Op:
    return make("linear", (rows, inside), const(out, inside), None)


def unary(kind: str, x: Shape = IMAGE, dtype: str = "float32", **attrs: Any) -> Op:
    return Op(kind, (value("x", x, dtype),), (value("y", x, dtype),), attrs)


def binary(kind: str, x: Shape | Value = IMAGE, y: Shape | Value = IMAGE, dtype: str = "float32") -> Op:
    return make(kind, x, y, dtype=dtype)


def reduced(kind: str, axes: Shape, x: Shape = IMAGE, keepdim: bool = True, dtype: str = "float32") -> Op:
    return make(kind, x, axes=axes, keepdim=keepdim, dtype=dtype)


def resize(
    mode: str = "nearest", size: Shape = (40, 40), x: Shape = IMAGE, coordinates: str = "asymmetric", **more: Any
) -> Op:
    attrs = {
        "mode": mode, "coordinates": coordinates, "sizes": size, "scales": None, "nearest_mode": "floor",
        "cubic_coeff": -0.75, "antialias": False,
    }  # fmt: skip
    return make("resize", x, **(attrs | more))


def padded(padding: Any, mode: str = "constant", x: Shape = IMAGE) -> Op:
    return make("pad", x, padding=padding, mode=mode, value=0.0)


def argmax(x: Shape, axis: int = 1, kind: str = "argmax") -> Op:
    return make(kind, x, axis=axis, keepdim=True)


def softmax(x: Shape = IMAGE, axis: int = 1) -> Op:
    return make("softmax", x, axis=axis)


def topk(sorted_: bool = True, x: Shape = (1, 100)) -> Op:
    return make("topk", x, k=5, axis=1, largest=True, sorted=sorted_)


def cat(*shapes: Shape, axis: int = 1) -> Op:
    return make("cat", *shapes, axis=axis)


def split(axis: int, sizes: Shape, x: Shape = IMAGE) -> Op:
    return make("split", x, sizes=sizes, axis=axis)


def shuffle(kind: str = "pixel_shuffle", factor: int = 2, x: Shape = IMAGE) -> Op:
    return make(kind, x, factor=factor, mode="CRD")


def grid_sample(h: int = 20, w: int = 20, mode: str = "bilinear", padding_mode: str = "zeros", n: int = 1) -> Op:
    return make(
        "grid_sample", (n, 64, h, w), (n, 8, 8, 2), mode=mode, padding_mode=padding_mode, align_corners=False
    )  # fmt: skip


def lstm(batch: int) -> Op:
    shapes = [value("y", (10, 1, batch, 8))]
    weights = (const(1, 32, 16), const(1, 32, 8))
    attrs = {"hidden": 8, "direction": "forward", "layers": 1, "layout": "onnx", "time_axis": 0, "outputs": (0,)}
    return Op("lstm", (value("x", (10, batch, 16)), *weights), tuple(shapes), attrs)
