# SPDX-License-Identifier: Apache-2.0
"""Ops for a compiler to judge: one function a family, whose parameters are what may be varied.

Each returns the op that is asked about first, then what it needs around it. Extents differ along every axis, so that an
output whose axes were reordered shows itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from porter.infer import infer
from porter.ops import Op, Value

__all__ = [
    "IMAGE",
    "RANKS",
    "arg",
    "assign",
    "binary",
    "cast",
    "cat",
    "conv",
    "deconv",
    "einsum",
    "embedding",
    "gather",
    "gemm",
    "grid",
    "index",
    "linear",
    "logical",
    "matmul",
    "nms",
    "norm",
    "pad",
    "pool",
    "prelu",
    "reduce",
    "resize",
    "sliced",
    "topk",
    "trailing",
    "unary",
    "where",
]

Params = Mapping[str, Any]
Shape = tuple[int, ...]
IMAGE: Shape = (1, 8, 12, 20)
RANKS: dict[int, Shape] = {2: (6, 20), 3: (1, 8, 20), 4: IMAGE, 5: (1, 8, 6, 10, 4)}


def tensor(shape: Shape, name: str = "x", dtype: str = "float32") -> Value:
    return Value(name, shape, dtype)


def constant(data: Any, name: str = "c") -> Value:
    return Value.constant(name, np.asarray(data))


def _weights(shape: Shape, name: str = "w") -> Value:
    rng = np.random.default_rng(len(name) + sum(shape))
    return constant((rng.standard_normal(shape) / max(1.0, float(np.prod(shape[1:])) ** 0.5)).astype(np.float32), name)


def made(kind: str, inputs: tuple[Value | None, ...], attrs: Params, out: str = "y") -> Op:
    results = infer(kind, inputs, attrs)
    outs = tuple(Value(out if not i else f"{out}{i}", shape, dtype) for i, (shape, dtype) in enumerate(results))
    return Op(kind, inputs, outs, dict(attrs), out)


def _as_float(op: Op) -> list[Op]:
    """The op, and a cast where its result is a bool: few compilers let one out of a model."""
    if op.outputs[0].dtype == "bool":
        return [op, made("cast", (op.outputs[0],), {"dtype": "float32"}, "z")]
    return [op]


def unary(kind: str, x: Shape = IMAGE, **attrs: Any) -> list[Op]:
    return _as_float(made(kind, (tensor(x),), attrs))


def cast(kind: str, dtype: str, of_bool: bool = False) -> list[Op]:
    if not of_bool:
        return [made(kind, (tensor(IMAGE),), {"dtype": dtype})]
    condition = made("gt", (tensor(IMAGE), constant(np.float32(0.1), "t")), {}, "g")
    return [made(kind, condition.outputs, {"dtype": dtype}), condition]


def prelu(kind: str, x: Shape = IMAGE, weights: int = 8) -> list[Op]:
    return [made(kind, (tensor(x), constant(np.linspace(0.05, 0.3, weights, dtype=np.float32), "w")), {})]


def binary(
    kind: str, x: Shape = IMAGE, y: Shape | None = None, constants: Shape | None = None, first: bool = False
) -> list[Op]:
    other: Value = tensor(x if y is None else y, "b")
    if constants is not None:
        other = constant(np.linspace(0.5, 1.5, int(np.prod(constants)), dtype=np.float32).reshape(constants), "c")
    operands = (other, tensor(x)) if first else (tensor(x), other)
    return _as_float(made(kind, operands, {}))


def logical(kind: str, x: Shape = IMAGE) -> list[Op]:
    sides = [
        made("gt", (tensor(x, name), constant(np.float32(0.1), f"t{name}")), {}, f"g{name}") for name in ("x", "b")
    ]
    both = kind != "logical_not"
    op = made(kind, tuple(side.outputs[0] for side in sides[: 1 + both]), {})
    return [op, *sides[: 1 + both], made("cast", (op.outputs[0],), {"dtype": "float32"}, "z")]


def where(kind: str, x: Shape = IMAGE) -> list[Op]:
    condition = made("gt", (tensor(x, "q"), constant(np.float32(0.1), "t")), {}, "g")
    return [made(kind, (condition.outputs[0], tensor(x), tensor(x, "b")), {}), condition]


def _pairs(pad: Any, spatial: int) -> Any:
    return ((pad, pad),) * spatial if isinstance(pad, int) else pad


def _each(value: Any, spatial: int) -> Shape:
    return (value,) * spatial if isinstance(value, int) else tuple(value)


def conv(
    kind: str,
    x: Shape = IMAGE,
    out: int = 16,
    k: Any = 3,
    pad: Any = 1,
    stride: Any = 1,
    dilation: Any = 1,
    groups: int = 1,
    bias: bool = True,
) -> list[Op]:
    spatial = len(x) - 2
    weight = _weights((out, x[1] // groups, *_each(k, spatial)))
    attrs = {"stride": _each(stride, spatial), "padding": _pairs(pad, spatial), "dilation": _each(dilation, spatial)}
    biased = constant(np.linspace(-0.5, 0.5, out, dtype=np.float32), "bias") if bias else None
    return [made(kind, (tensor(x), weight, biased), {**attrs, "groups": groups})]


def deconv(
    kind: str,
    x: Shape = IMAGE,
    out: int = 16,
    k: Any = 4,
    pad: Any = 1,
    stride: Any = 2,
    dilation: Any = 1,
    groups: int = 1,
    output_padding: Any = 0,
) -> list[Op]:
    spatial = len(x) - 2
    weight = _weights((x[1], out // groups, *_each(k, spatial)))
    attrs = {
        "stride": _each(stride, spatial),
        "padding": _pairs(pad, spatial),
        "dilation": _each(dilation, spatial),
        "groups": groups,
        "output_padding": _each(output_padding, spatial),
    }
    return [made(kind, (tensor(x), weight, None), attrs)]


def pool(
    kind: str,
    x: Shape = IMAGE,
    k: Any = 3,
    stride: Any = 2,
    pad: Any = 1,
    dilation: Any = 1,
    ceil: bool = False,
    counted: bool = False,
) -> list[Op]:
    spatial = len(x) - 2
    attrs: dict[str, Any] = {
        "kernel": _each(k, spatial),
        "stride": _each(stride, spatial),
        "padding": _pairs(pad, spatial),
        "ceil_mode": ceil,
    }
    if kind.startswith("max"):
        attrs["dilation"] = _each(dilation, spatial)
    else:
        attrs |= {"count_include_pad": counted, "divisor_override": None}
    return [made(kind, (tensor(x),), attrs)]


def norm(kind: str, x: Shape = IMAGE, **attrs: Any) -> list[Op]:
    channels = x[1]
    scale, shift = np.linspace(0.8, 1.2, channels, dtype=np.float32), np.linspace(-0.1, 0.1, channels, dtype=np.float32)
    operands: tuple[Value, ...] = (tensor(x), constant(scale, "w"), constant(shift, "b"))
    if kind == "batch_norm":
        operands += (constant(shift, "m"), constant(np.abs(scale), "v"))
    return [made(kind, operands, {"eps": 1e-5, **attrs})]


def trailing(kind: str, x: Shape = (1, 12, 20), axes: Shape = (2,)) -> list[Op]:
    shape = tuple(x[a] for a in axes)
    count = int(np.prod(shape))
    weight = constant(np.linspace(0.8, 1.2, count, dtype=np.float32).reshape(shape), "w")
    bias = constant(np.linspace(-0.1, 0.1, count, dtype=np.float32).reshape(shape), "b")
    return [
        made(
            kind, (tensor(x), weight) if kind == "rms_norm" else (tensor(x), weight, bias), {"axes": axes, "eps": 1e-5}
        )
    ]


def linear(kind: str, x: Shape = (4, 20), out: int = 12, bias: bool = True) -> list[Op]:
    biased = constant(np.linspace(-0.5, 0.5, out, dtype=np.float32), "bias") if bias else None
    return [made(kind, (tensor(x), _weights((out, x[-1])), biased), {})]


def matmul(
    kind: str, x: Shape = (1, 12, 20), y: Shape = (1, 20, 6), constants: bool = False, first: bool = False
) -> list[Op]:
    left = _weights(x, "a") if first else tensor(x)
    return [made(kind, (left, _weights(y, "b") if constants else tensor(y, "b")), {})]


def gemm(kind: str, alpha: float = 1.0, beta: float = 1.0, trans_a: bool = False) -> list[Op]:
    x = (20, 4) if trans_a else (4, 20)
    attrs = {"alpha": alpha, "beta": beta, "trans_a": trans_a, "trans_b": False}
    return [made(kind, (tensor(x), _weights((20, 12), "b"), _weights((12,), "c")), attrs)]


def einsum(kind: str, equation: str = "bij,bjk->bik", x: Shape = (1, 12, 20), y: Shape = (1, 20, 6)) -> list[Op]:
    return [made(kind, (tensor(x), tensor(y, "b")), {"equation": equation})]


def reduce(kind: str, x: Shape = IMAGE, axes: Shape = (2, 3), keepdim: bool = True, **attrs: Any) -> list[Op]:
    return _as_float(made(kind, (tensor(x),), {"axes": axes, "keepdim": keepdim, **attrs}))


def cat(kind: str, x: Shape = IMAGE, axis: int = 1, count: int = 2) -> list[Op]:
    return [made(kind, tuple(tensor(x, f"x{i}") for i in range(count)), {"axis": axis})]


def stacked(kind: str, x: Shape = RANKS[3], axis: int = 1) -> list[Op]:
    """Stacks what layers compute: a compiler may take two inputs of a model, seen in another shape, for one tensor."""
    layers = [made("relu", (tensor(x, f"x{i}"),), {}, f"h{i}") for i in range(2)]
    return [made(kind, tuple(layer.outputs[0] for layer in layers), {"axis": axis}), *layers]


def sliced(kind: str, x: Shape = IMAGE, axis: int = 1, start: int = 0, step: int = 1, length: int = 4) -> list[Op]:
    end = start + length * step
    return [made(kind, (tensor(x),), {"axes": (axis,), "starts": (start,), "ends": (end,), "steps": (step,)})]


def assign(kind: str, x: Shape = IMAGE, axis: int = 1) -> list[Op]:
    if kind == "select_assign":
        source = tuple(n for i, n in enumerate(x) if i != axis)
        return [made(kind, (tensor(x), tensor(source, "s")), {"axis": axis, "index": 2})]
    source = tuple(4 if i == axis else n for i, n in enumerate(x))
    attrs = {"axes": (axis,), "starts": (2,), "ends": (6,), "steps": (1,)}
    return [made(kind, (tensor(x), tensor(source, "s")), attrs)]


def index(kind: str, x: Shape = IMAGE, axis: int = 1, index: tuple[int, ...] = (3, 1, 0, 2)) -> list[Op]:
    return [made(kind, (tensor(x), constant(np.asarray(index, np.int64), "i")), {"axis": axis})]


def gather(kind: str, x: Shape = IMAGE, axis: int = 1) -> list[Op]:
    return [made(kind, (tensor(x), constant(np.random.default_rng(3).integers(0, 4, x), "i")), {"axis": axis})]


def embedding(kind: str, rows: int = 10) -> list[Op]:
    return [made(kind, (_weights((rows, 16), "w"), tensor((1, 6), "i", "int64")), {})]


def pad(
    kind: str, x: Shape = IMAGE, axis: int = 3, begin: int = 1, end: int = 2, mode: str = "constant", value: float = 0.0
) -> list[Op]:
    padding = tuple((begin, end) if a == axis else (0, 0) for a in range(len(x)))
    return [made(kind, (tensor(x),), {"padding": padding, "mode": mode, "value": value})]


def resize(
    kind: str,
    x: Shape = IMAGE,
    factor: Any = (2, 2),
    mode: str = "nearest",
    coordinates: str = "asymmetric",
    nearest_mode: str = "floor",
    antialias: bool = False,
) -> list[Op]:
    factors = _each(factor, len(x) - 2)
    sizes = tuple(int(n * f) for n, f in zip(x[2:], factors, strict=True))
    attrs = {
        "mode": mode,
        "coordinates": coordinates,
        "sizes": sizes,
        "scales": tuple(map(float, factors)),
        "nearest_mode": nearest_mode,
        "cubic_coeff": -0.75,
        "antialias": antialias,
    }
    return [made(kind, (tensor(x),), attrs)]


def grid(kind: str, mode: str = "bilinear", padding_mode: str = "zeros", align: bool = False) -> list[Op]:
    attrs = {"mode": mode, "padding_mode": padding_mode, "align_corners": align}
    return [made(kind, (tensor(IMAGE), tensor((1, 6, 10, 2), "g")), attrs)]


def arg(kind: str, x: Shape = IMAGE, axis: int = 1, keepdim: bool = True) -> list[Op]:
    return [made(kind, (tensor(x),), {"axis": axis, "keepdim": keepdim})]


def topk(kind: str, axis: int = 1, k: int = 3) -> list[Op]:
    return [made(kind, (tensor((1, 20)),), {"k": k, "axis": axis, "largest": True, "sorted": True})]


def nms(kind: str) -> list[Op]:
    boxes = tensor((6, 4), "boxes")
    return [made(kind, (boxes, tensor((6,), "scores")), {"iou_threshold": 0.5})]
