# SPDX-License-Identifier: Apache-2.0
"""From the vocabulary to ATen calls: one lowering for each kind.

A lowering gets an :class:`Emitter`, the op, and the nodes of its operands, and returns the node of each output. Where
one ATen operator means exactly the kind, that operator is called, so that lifting it again gives the same op.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from math import prod
from operator import getitem
from typing import Any

import torch
from torch import fx

from porter.dialects.fx_args import dtype_name
from porter.dialects.fx_lift import UNARY
from porter.dialects.fx_lift_layers import GRID_MODES, GRID_PADDING
from porter.ops import Op, Value

__all__ = ["LOWERINGS", "Emitter", "lower", "operator"]

Nodes = tuple[fx.Node, ...]
Lowering = Callable[["Emitter", Op, tuple[Any, ...]], fx.Node | Nodes]


@functools.cache
def operator(name: str) -> Any:
    """``"add.Tensor"`` -> ``torch.ops.aten.add.Tensor``; the overload ``default`` may be left out."""
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


class Emitter:
    """Adds calls to a graph at its insertion point, with the fake value of each computed at once.

    ``meta`` is copied to each new node; ``prefix`` begins its name.
    """

    def __init__(self, graph: fx.Graph, mode: Any) -> None:
        self.graph = graph
        self.mode = mode
        self.meta: Mapping[str, Any] = {}
        self.prefix = ""

    def val(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The fake result of a call: shapes and dtypes, no data."""
        fake = lambda n: n.meta["val"]  # noqa: E731
        with self.mode, torch.no_grad():
            return target(*fx.map_arg(args, fake), **fx.map_arg(kwargs, fake))

    def call(self, name: str | Any, *args: Any, val: Any = None, **kwargs: Any) -> fx.Node:
        """One call; ``name`` is an aten operator (``"add.Tensor"``) or the operator itself."""
        target = operator(name) if isinstance(name, str) else name
        short = getattr(target, "__name__", str(target)).partition(".")[0].strip("_")
        node = self.graph.call_function(target, args, kwargs)
        node._rename(f"{self.prefix}__{short}" if self.prefix else short)
        node.meta.update(self.meta)
        node.meta["val"] = self.val(target, args, kwargs) if val is None else val
        return node

    def item(self, node: fx.Node, index: int) -> fx.Node:
        """One result of a call with several."""
        return self.call(getitem, node, index, val=node.meta["val"][index])

    def items(self, node: fx.Node) -> Nodes:
        """Every result of a call with several."""
        return tuple(self.item(node, i) for i in range(len(node.meta["val"])))

    def cast(self, node: fx.Node, dtype: torch.dtype) -> fx.Node:
        """The node in another dtype; itself where it has that dtype already."""
        return node if node.meta["val"].dtype == dtype else self.call("_to_copy", node, dtype=dtype)


LOWERINGS: dict[str, Lowering] = {}


def lowering(*kinds: str) -> Callable[[Lowering], Lowering]:
    """Register the lowering of kinds."""

    def register(function: Lowering) -> Lowering:
        LOWERINGS.update(dict.fromkeys(kinds, function))
        return function

    return register


def lower(emitter: Emitter, op: Op, args: Sequence[fx.Node | None]) -> Nodes:
    """The nodes of the outputs of ``op``. Raises ``NotImplementedError`` where torch has no such operation."""
    made = LOWERINGS.get(op.kind)
    if made is None:
        raise NotImplementedError(f"the FX dialect cannot build {op.kind}")
    nodes = made(emitter, op, tuple(args))
    return nodes if isinstance(nodes, tuple) else (nodes,)


# ------------------------------------------------------------------------------------------- elementwise


def _plain(target: str) -> Lowering:
    return lambda e, op, x: e.call(target, *x)


for _target, _kind in UNARY.items():
    if not _target.startswith("aten.special_") and _kind != "identity":
        LOWERINGS.setdefault(_kind, _plain(_target.removeprefix("aten.")))
LOWERINGS["identity"] = lambda e, op, x: e.call("clone", x[0], memory_format=torch.contiguous_format)


def number(value: Value | None, other: Value | None) -> float | None:
    """The number that a constant operand of shape () may be written as without a change of dtype, or None."""
    if value is None or other is None or not value.is_const or value.shape != () or value.dtype != other.dtype:
        return None
    if value.dtype == "bool" or other.shape == ():
        return None
    return value.numpy().item()  # type: ignore[no-any-return]


def _binary(name: str, overload: str = "Tensor", scalar: str | None = None) -> Lowering:
    """``scalar`` is the overload for a number as the second operand; by default the tensor one takes it too."""

    def build(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
        literal = number(op.inputs[1], op.inputs[0])
        if literal is not None and scalar != "":
            return e.call(f"{name}.{scalar or overload}", x[0], literal)
        return e.call(f"{name}.{overload}", *x)

    return build


for _name in ("add", "sub", "mul", "div"):
    LOWERINGS[_name] = _binary(_name)
for _name in ("eq", "ne", "lt", "le", "gt", "ge", "remainder", "fmod", "bitwise_and", "bitwise_or", "bitwise_xor"):
    LOWERINGS[_name] = _binary(_name, scalar="Scalar")
for _name in ("maximum", "minimum", "atan2", "logical_and", "logical_or", "logical_xor", "floor_divide"):
    LOWERINGS[_name] = _binary(_name, "default", "")
LOWERINGS["pow"] = _binary("pow", "Tensor_Tensor", "Tensor_Scalar")


@lowering("trunc_divide")
def _trunc_divide(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("div.Tensor_mode", *x, rounding_mode="trunc")


@lowering("softsign")
def _softsign(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("div.Tensor", x[0], e.call("add.Tensor", e.call("abs", x[0]), 1))


@lowering("cast")
def _cast(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("_to_copy", x[0], dtype=_dtype(op.attrs["dtype"]))


def _dtype(name: str) -> torch.dtype:
    return getattr(torch, name)  # type: ignore[no-any-return]


@lowering("leaky_relu")
def _leaky_relu(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("leaky_relu", x[0], op.attrs["negative_slope"])


@lowering("prelu")
def _prelu(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    weight = x[1]
    if weight.meta["val"].dim() != 1:
        weight = e.call("reshape", weight, [-1])
    return e.call("prelu", x[0], weight)


@lowering("elu", "celu")
def _elu(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call(op.kind, x[0], op.attrs["alpha"])


@lowering("hardsigmoid")
def _hardsigmoid(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    alpha, beta = op.attrs["alpha"], op.attrs["beta"]
    if (alpha, beta) == (1 / 6, 0.5):
        return e.call("hardsigmoid", x[0])
    return e.call("clamp", e.call("add.Tensor", e.call("mul.Tensor", x[0], alpha), beta), 0, 1)


@lowering("gelu")
def _gelu(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("gelu", x[0], approximate=op.attrs["approximate"])


@lowering("softplus")
def _softplus(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("softplus", x[0], op.attrs["beta"], op.attrs["threshold"])


@lowering("threshold")
def _threshold(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("threshold", x[0], op.attrs["threshold"], op.attrs["value"])


@lowering("clamp")
def _clamp(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("clamp", x[0], op.attrs["min"], op.attrs["max"])


@lowering("where")
def _where(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("where.self", *x)


@lowering("masked_fill")
def _masked_fill(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("masked_fill.Scalar", *x, op.attrs["value"])


# ------------------------------------------------------------------------------------------- linear algebra


@lowering("linear")
def _linear(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("linear", *x)


@lowering("gemm")
def _gemm(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    a, b, c = x
    a = e.call("t", a) if op.attrs["trans_a"] else a
    b = e.call("t", b) if op.attrs["trans_b"] else b
    if c is not None:
        return e.call("addmm", c, a, b, beta=op.attrs["beta"], alpha=op.attrs["alpha"])
    product = e.call("mm", a, b)
    return product if op.attrs["alpha"] == 1 else e.call("mul.Tensor", product, op.attrs["alpha"])


@lowering("matmul")
def _matmul(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    ranks = tuple(n.meta["val"].dim() for n in x)
    same_batch = x[0].meta["val"].shape[:-2] == x[1].meta["val"].shape[:-2]
    name = "mm" if ranks == (2, 2) else "bmm" if ranks == (3, 3) and same_batch else "matmul"
    return e.call(name, *x)


@lowering("einsum")
def _einsum(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("einsum", op.attrs["equation"], list(x))


# ------------------------------------------------------------------------------------------- windows


def _symmetric(padding: Sequence[tuple[int, int]]) -> list[int] | None:
    return [b for b, _ in padding] if all(b == e for b, e in padding) else None


def _flat_padding(padding: Sequence[tuple[int, int]]) -> list[int]:
    """Pairs from the first axis to the last, as torch wants them: from the last axis to the first."""
    return [n for pair in reversed(tuple(padding)) for n in pair]


def _constant_pad(e: Emitter, x: fx.Node, padding: Sequence[tuple[int, int]], value: float) -> fx.Node:
    return e.call("constant_pad_nd", x, _flat_padding(padding), value)


@lowering("conv1d", "conv2d", "conv3d")
def _conv(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    data, weight, bias = x
    a = op.attrs
    padding = _symmetric(a["padding"])
    totals = [d * (k - 1) for d, k in zip(a["dilation"], weight.meta["val"].shape[2:], strict=True)]
    if padding is None and set(a["stride"]) == {1} and a["padding"] == tuple((t // 2, t - t // 2) for t in totals):
        return e.call(
            f"{op.kind}.padding", data, weight, bias, list(a["stride"]), "same", list(a["dilation"]), a["groups"]
        )
    if padding is None:
        data = _constant_pad(e, data, a["padding"], 0.0)
        padding = [0] * len(a["padding"])
    return e.call(op.kind, data, weight, bias, list(a["stride"]), padding, list(a["dilation"]), a["groups"])


@lowering("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    a = op.attrs
    name = op.kind if op.kind == "conv_transpose1d" else f"{op.kind}.input"
    symmetric = _symmetric(a["padding"])
    node = e.call(
        name,
        *x,
        list(a["stride"]),
        symmetric or [0] * len(a["padding"]),
        list(a["output_padding"]),
        a["groups"],
        list(a["dilation"]),
    )
    if symmetric is None:
        for axis, (begin, end) in enumerate(a["padding"], 2):
            extent = node.meta["val"].shape[axis]
            node = e.call("slice.Tensor", node, axis, begin, extent - end)
    return node


@lowering("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices")
def _max_pool(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node | Nodes:
    a, data = op.attrs, x[0]
    padding = _symmetric(a["padding"])
    if padding is None:
        if op.kind.endswith("indices"):
            raise NotImplementedError("max_pool2d_with_indices with padding that differs at the two ends of an axis")
        data = _constant_pad(e, data, a["padding"], float("-inf"))
        padding = [0] * len(a["padding"])
    args = (data, list(a["kernel"]), list(a["stride"]), padding, list(a["dilation"]), a["ceil_mode"])
    node = e.call(op.kind, *args)
    return e.items(node) if op.kind.endswith("indices") else node


@lowering("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    a = op.attrs
    more = [] if op.kind == "avg_pool1d" else [a["divisor_override"]]

    def pool(data: fx.Node, padding: list[int], count_pad: bool) -> fx.Node:
        return e.call(op.kind, data, list(a["kernel"]), list(a["stride"]), padding, a["ceil_mode"], count_pad, *more)

    padding = _symmetric(a["padding"])
    if padding is not None:
        return pool(x[0], padding, a["count_include_pad"])
    none = [0] * len(a["padding"])
    mean = pool(_constant_pad(e, x[0], a["padding"], 0.0), none, True)
    if a["count_include_pad"] or a["divisor_override"]:
        return mean
    ones = e.call("ones_like", x[0])
    return e.call("div.Tensor", mean, pool(_constant_pad(e, ones, a["padding"], 0.0), none, True))


@lowering("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
def _adaptive(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call(op.kind, x[0], list(op.attrs["output_size"]))


@lowering("adaptive_max_pool2d")
def _adaptive_max(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.item(e.call("adaptive_max_pool2d", x[0], list(op.attrs["output_size"])), 0)


@lowering("max_unpool2d")
def _max_unpool(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("max_unpool2d", *x, list(op.attrs["output_size"])[-2:])


@lowering("unfold")
def _unfold(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("im2col", x[0], *(list(op.attrs[n]) for n in ("kernel", "dilation", "padding", "stride")))


@lowering("fold")
def _fold(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call(
        "col2im", x[0], *(list(op.attrs[n]) for n in ("output_size", "kernel", "dilation", "padding", "stride"))
    )


# ------------------------------------------------------------------------------------------- normalization


@lowering("batch_norm")
def _batch_norm(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("batch_norm", *x, False, 0.1, op.attrs["eps"], False)


@lowering("instance_norm")
def _instance_norm(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("instance_norm", *x, None, None, True, 0.1, op.attrs["eps"], False)


@lowering("layer_norm", "rms_norm")
def _layer_norm(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    shape = [x[0].meta["val"].shape[a] for a in op.attrs["axes"]]
    return e.call(op.kind, x[0], shape, *x[1:], op.attrs["eps"])


@lowering("group_norm")
def _group_norm(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("group_norm", x[0], op.attrs["groups"], *x[1:], op.attrs["eps"])


@lowering("lp_normalize")
def _lp_normalize(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    length = e.call("linalg_vector_norm", x[0], op.attrs["p"], [op.attrs["axis"]], True)
    return e.call("div.Tensor", x[0], e.call("clamp_min", length, op.attrs["eps"]))


@lowering("softmax", "log_softmax")
def _softmax(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call(f"{op.kind}.int", x[0], op.attrs["axis"])


# ------------------------------------------------------------------------------------------- reductions


@lowering("sum", "mean")
def _sum(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call(
        "sum.dim_IntList" if op.kind == "sum" else "mean.dim", x[0], list(op.attrs["axes"]), op.attrs["keepdim"]
    )


@lowering("prod")
def _prod(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    node: fx.Node = x[0]
    if not op.attrs["keepdim"] and len(op.attrs["axes"]) == node.meta["val"].dim():
        return e.call("prod", node)
    for axis in sorted(op.attrs["axes"], reverse=True):
        node = e.call("prod.dim_int", node, axis, op.attrs["keepdim"])
    return node


@lowering("amax", "amin", "logsumexp")
def _amax(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call(op.kind, x[0], list(op.attrs["axes"]), op.attrs["keepdim"])


@lowering("all", "any")
def _all(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call(f"{op.kind}.dims", x[0], list(op.attrs["axes"]), op.attrs["keepdim"])


@lowering("var", "std")
def _var(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call(
        f"{op.kind}.correction",
        x[0],
        list(op.attrs["axes"]),
        correction=op.attrs["correction"],
        keepdim=op.attrs["keepdim"],
    )


@lowering("norm")
def _norm(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("linalg_vector_norm", x[0], op.attrs["p"], list(op.attrs["axes"]), op.attrs["keepdim"])


@lowering("argmax", "argmin")
def _arg(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call(op.kind, x[0], op.attrs["axis"], op.attrs["keepdim"])


@lowering("max_dim", "min_dim")
def _extreme(e: Emitter, op: Op, x: tuple[Any, ...]) -> Nodes:
    return e.items(e.call(f"{op.kind[:3]}.dim", x[0], op.attrs["axis"], op.attrs["keepdim"]))


@lowering("topk")
def _topk(e: Emitter, op: Op, x: tuple[Any, ...]) -> Nodes:
    a = op.attrs
    return e.items(e.call("topk", x[0], a["k"], a["axis"], a["largest"], a["sorted"]))


@lowering("sort")
def _sort(e: Emitter, op: Op, x: tuple[Any, ...]) -> Nodes:
    a = op.attrs
    return e.items(e.call("sort.stable", x[0], stable=True, dim=a["axis"], descending=a["descending"]))


@lowering("cumsum")
def _cumsum(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("cumsum", x[0], op.attrs["axis"])


# ------------------------------------------------------------------------------------------- shapes


@lowering("reshape", "flatten")
def _reshape(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    if op.kind == "reshape":
        return e.call("reshape", x[0], list(op.attrs["shape"]))
    shape = list(x[0].meta["val"].shape)
    start, end = op.attrs["start"], op.attrs["end"]
    return e.call("reshape", x[0], [*shape[:start], prod(shape[start : end + 1]), *shape[end + 1 :]])


@lowering("squeeze")
def _squeeze(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("squeeze.dims", x[0], list(op.attrs["axes"]))


@lowering("unsqueeze")
def _unsqueeze(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    node: fx.Node = x[0]
    for axis in sorted(op.attrs["axes"]):
        node = e.call("unsqueeze", node, axis)
    return node


@lowering("permute")
def _permute(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("permute", x[0], list(op.attrs["dims"]))


@lowering("expand")
def _expand(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("expand", x[0], list(op.attrs["shape"]))


@lowering("repeat")
def _repeat(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("repeat", x[0], list(op.attrs["repeats"]))


def _each_axis(op: Op) -> list[tuple[int, int, int, int]]:
    a = op.attrs
    return list(zip(a["axes"], a["starts"], a["ends"], a["steps"], strict=True))


@lowering("slice")
def _slice(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    node: fx.Node = x[0]
    for axis, start, end, step in _each_axis(op):
        if step > 0:
            node = e.call("slice.Tensor", node, axis, start, end, step)
            continue
        # aten.slice steps forward only: flip the axis, where element i is the element extent - 1 - i of before
        last = node.meta["val"].shape[axis] - 1
        node = e.call("slice.Tensor", e.call("flip", node, [axis]), axis, last - start, last - end, -step)
    return node


@lowering("select")
def _select(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("select.int", x[0], op.attrs["axis"], op.attrs["index"])


@lowering("slice_assign")
def _slice_assign(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    """A box over several axes: cut the box of the outer axes, assign in it, and put it back."""
    axes = _each_axis(op)
    if any(step < 0 for *_, step in axes):
        raise NotImplementedError("slice_assign with a negative step")
    boxes = [x[0]]
    for axis, start, end, step in axes[:-1]:
        boxes.append(e.call("slice.Tensor", boxes[-1], axis, start, end, step))
    src = x[1]
    axis, start, end, step = axes[-1]
    box = list(boxes[-1].meta["val"].shape)
    box[axis] = len(range(start, end, step))
    if list(src.meta["val"].shape) != box:
        src = e.call("expand", src, box)
    src = e.cast(src, x[0].meta["val"].dtype)
    for into, (axis, start, end, step) in zip(reversed(boxes), reversed(axes), strict=True):
        src = e.call("slice_scatter", into, src, axis, start, end, step)
    return src


@lowering("select_assign")
def _select_assign(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    shape = list(x[0].meta["val"].shape)
    del shape[op.attrs["axis"]]
    src = x[1] if list(x[1].meta["val"].shape) == shape else e.call("expand", x[1], shape)
    src = e.cast(src, x[0].meta["val"].dtype)
    return e.call("select_scatter", x[0], src, op.attrs["axis"], op.attrs["index"])


@lowering("cat", "stack")
def _cat(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call(op.kind, list(x), op.attrs["axis"])


@lowering("split")
def _split(e: Emitter, op: Op, x: tuple[Any, ...]) -> Nodes:
    return e.items(e.call("split_with_sizes", x[0], list(op.attrs["sizes"]), op.attrs["axis"]))


@lowering("chunk")
def _chunk(e: Emitter, op: Op, x: tuple[Any, ...]) -> Nodes:
    return e.items(e.call("chunk", x[0], op.attrs["chunks"], op.attrs["axis"]))


@lowering("unbind")
def _unbind(e: Emitter, op: Op, x: tuple[Any, ...]) -> Nodes:
    return e.items(e.call("unbind.int", x[0], op.attrs["axis"]))


@lowering("pad")
def _pad(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    padding = list(op.attrs["padding"])
    while padding and padding[0] == (0, 0):
        del padding[0]
    if op.attrs["mode"] == "constant":
        return _constant_pad(e, x[0], padding, op.attrs["value"])
    # torch pads the last axes of a tensor of one or two axes more, and three at most, in these modes.
    shape = [int(n) for n in x[0].meta["val"].shape]
    count = max(len(padding), 1)
    fits = next((n for n in range(count, 4) if len(shape) - n in (1, 2)), None)
    if fits is not None:
        return e.call("pad", x[0], _flat_padding([*[(0, 0)] * (fits - len(padding)), *padding]), op.attrs["mode"])
    inner = e.call("reshape", x[0], [1, -1, *shape[len(shape) - count :]])
    padded = e.call("pad", inner, _flat_padding(padding), op.attrs["mode"])
    return e.call("reshape", padded, list(op.outputs[0].shape or ()))


@lowering("flip")
def _flip(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("flip", x[0], list(op.attrs["axes"]))


@lowering("roll")
def _roll(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("roll", x[0], list(op.attrs["shifts"]), list(op.attrs["axes"]))


@lowering("tril", "triu")
def _triangle(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call(op.kind, x[0], op.attrs["diagonal"])


# ------------------------------------------------------------------------------------------- indexing


@lowering("gather", "index_select")
def _gather(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call(op.kind, x[0], op.attrs["axis"], x[1])


@lowering("take")
def _take(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("index.Tensor", x[0], [*[None] * op.attrs["axis"], x[1]])


@lowering("embedding")
def _embedding(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("embedding", *x)


def _index_list(axes: Sequence[int], indices: Sequence[Any]) -> list[Any]:
    out: list[Any] = [None] * (max(axes) + 1)
    for axis, index in zip(axes, indices, strict=True):
        out[axis] = index
    return out


@lowering("index")
def _index(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("index.Tensor", x[0], _index_list(op.attrs["axes"], x[1:]))


@lowering("index_put")
def _index_put(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("index_put", x[0], _index_list(op.attrs["axes"], x[2:]), x[1], op.attrs["accumulate"])


@lowering("scatter")
def _scatter(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    reduction = op.attrs["reduction"]
    if reduction == "none":
        return e.call("scatter.src", x[0], op.attrs["axis"], *x[1:])
    if reduction == "add":
        return e.call("scatter_add", x[0], op.attrs["axis"], *x[1:])
    name = {"mul": "prod", "max": "amax", "min": "amin"}[reduction]
    return e.call("scatter_reduce.two", x[0], op.attrs["axis"], *x[1:], name)


@lowering("masked_select", "nonzero")
def _masked_select(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call(op.kind, *x)


@lowering("one_hot")
def _one_hot(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("one_hot", x[0], op.attrs["depth"])


# ------------------------------------------------------------------------------------------- images


@lowering("resize")
def _resize(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    a = op.attrs
    sizes = list(a["sizes"])
    n = len(sizes)
    scales = [None] * n if a["scales"] is None else list(a["scales"])
    key = (a["mode"], a["coordinates"])
    if key == ("nearest", "asymmetric") and a["nearest_mode"] == "floor":
        return e.call(f"upsample_nearest{n}d", x[0], sizes, *scales)
    if key == ("nearest", "half_pixel") and a["nearest_mode"] == "round_prefer_ceil":
        return e.call(f"_upsample_nearest_exact{n}d", x[0], sizes, *scales)
    names = {
        ("linear", 1): "upsample_linear1d",
        ("linear", 2): "upsample_bilinear2d",
        ("linear", 3): "upsample_trilinear3d",
        ("cubic", 2): "upsample_bicubic2d",
    }
    name = names.get((a["mode"], n))
    aligned = a["coordinates"] == "align_corners"
    # pytorch_half_pixel differs from half_pixel only where an axis becomes one element
    half = a["coordinates"] == "half_pixel" or (a["coordinates"] == "pytorch_half_pixel" and 1 not in sizes)
    coefficient = -0.5 if a["antialias"] else -0.75
    if name is None or not (aligned or half) or (a["mode"] == "cubic" and a["cubic_coeff"] != coefficient):
        raise NotImplementedError(f"torch has no resize with {dict(a)}")
    return e.call(f"_{name}_aa" if a["antialias"] else name, x[0], sizes, aligned, *scales)


def _shuffled(e: Emitter, x: fx.Node, split: list[int], dims: list[int], shape: list[int]) -> fx.Node:
    return e.call("reshape", e.call("permute", e.call("reshape", x, split), dims), shape)


@lowering("pixel_shuffle")
def _pixel_shuffle(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    r = op.attrs["factor"]
    if op.attrs["mode"] == "CRD":
        return e.call("pixel_shuffle", x[0], r)
    *batch, c, h, w = x[0].meta["val"].shape
    n = prod(batch)
    return _shuffled(e, x[0], [n, r, r, c // r**2, h, w], [0, 3, 4, 1, 5, 2], [*batch, c // r**2, h * r, w * r])


@lowering("pixel_unshuffle")
def _pixel_unshuffle(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    r = op.attrs["factor"]
    if op.attrs["mode"] == "CRD":
        return e.call("pixel_unshuffle", x[0], r)
    *batch, c, h, w = x[0].meta["val"].shape
    n = prod(batch)
    return _shuffled(e, x[0], [n, c, h // r, r, w // r, r], [0, 3, 5, 1, 2, 4], [*batch, c * r**2, h // r, w // r])


@lowering("channel_shuffle")
def _channel_shuffle(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("channel_shuffle", x[0], op.attrs["groups"])


@lowering("affine_grid")
def _affine_grid(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("affine_grid_generator", x[0], list(op.attrs["size"]), op.attrs["align_corners"])


@lowering("grid_sample")
def _grid_sample(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    a = op.attrs
    return e.call(
        "grid_sampler", *x, GRID_MODES.index(a["mode"]), GRID_PADDING.index(a["padding_mode"]), a["align_corners"]
    )


# ------------------------------------------------------------------------------------------- creation


@lowering("arange")
def _arange(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    a = op.attrs
    return e.call("arange.start_step", a["start"], a["end"], a["step"], dtype=_dtype(a["dtype"]))


@lowering("linspace")
def _linspace(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    a = op.attrs
    return e.call("linspace", a["start"], a["end"], a["steps"], dtype=_dtype(a["dtype"]))


@lowering("full")
def _full(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("full", list(op.attrs["shape"]), op.attrs["value"], dtype=_dtype(op.attrs["dtype"]))


@lowering("fill")
def _fill(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("full_like", x[0], op.attrs["value"], dtype=_dtype(op.attrs["dtype"]))


@lowering("eye")
def _eye(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    a = op.attrs
    if a["diagonal"]:
        rows = e.call("unsqueeze", e.call("arange.start", a["diagonal"], a["rows"] + a["diagonal"]), 1)
        return e.call("_to_copy", e.call("eq.Tensor", rows, e.call("arange", a["cols"])), dtype=_dtype(a["dtype"]))
    return e.call("eye.m", a["rows"], a["cols"], dtype=_dtype(a["dtype"]))


@lowering("meshgrid")
def _meshgrid(e: Emitter, op: Op, x: tuple[Any, ...]) -> Nodes:
    return e.items(e.call("meshgrid.indexing", list(x), indexing=op.attrs["indexing"]))


@lowering("shape")
def _shape(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    """Shapes are static: one number for each axis, stacked."""
    extents = [e.call("scalar_tensor", int(n), dtype=torch.int64) for n in x[0].meta["val"].shape]
    return e.call("stack", extents) if extents else e.call("full", [0], 0, dtype=torch.int64)


# ------------------------------------------------------------------------------------------- layers of a kind


@lowering("attention")
def _attention(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    return e.call("scaled_dot_product_attention", *x, 0.0, op.attrs["causal"], scale=op.attrs["scale"])


@lowering("lstm", "gru", "rnn")
def _recurrent(e: Emitter, op: Op, x: tuple[Any, ...]) -> Nodes:
    a = op.attrs
    states = x[-2:] if op.kind == "lstm" else x[-1:]
    weights = list(x[1 : -len(states)])
    hx: Any = list(states) if op.kind == "lstm" else states[0]
    both, first = a["direction"] == "bidirectional", a["layout"] == "batch_first"
    biases = len(weights) == 4 * a["layers"] * (1 + both)
    name = f"rnn_{a['activation']}" if op.kind == "rnn" else op.kind
    return e.items(e.call(f"{name}.input", x[0], hx, weights, biases, a["layers"], 0.0, False, both, first))


def _along(e: Emitter, x: fx.Node, parameter: fx.Node, axis: int | None) -> fx.Node:
    """A per-channel parameter with its channels on ``axis`` of ``x``."""
    if axis is None or parameter.meta["val"].dim() == 0:
        return parameter
    shape = [1] * x.meta["val"].dim()
    shape[axis] = parameter.meta["val"].numel()
    return e.call("reshape", parameter, shape)


@lowering("quantize")
def _quantize(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    data, scale, zero = x
    limits = torch.iinfo(_dtype(op.attrs["dtype"]))
    steps = e.call("round", e.call("div.Tensor", data, _along(e, data, scale, op.attrs["axis"])))
    if zero is not None:
        zero = e.cast(_along(e, data, zero, op.attrs["axis"]), data.meta["val"].dtype)
        steps = e.call("add.Tensor", steps, zero)
    return e.call("_to_copy", e.call("clamp", steps, limits.min, limits.max), dtype=_dtype(op.attrs["dtype"]))


@lowering("dequantize")
def _dequantize(e: Emitter, op: Op, x: tuple[Any, ...]) -> fx.Node:
    data, scale, zero = x
    steps = e.cast(data, torch.float32)
    if zero is not None:
        steps = e.call("sub.Tensor", steps, e.cast(_along(e, data, zero, op.attrs["axis"]), torch.float32))
    return e.call("mul.Tensor", steps, _along(e, data, scale, op.attrs["axis"]))


def describe(node: fx.Node) -> str:
    """``name: float32[1, 3, 8, 8]``, for messages."""
    val = node.meta["val"]
    return f"{node.name}: {dtype_name(val.dtype)}{list(val.shape)}"
