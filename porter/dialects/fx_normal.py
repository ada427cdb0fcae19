# SPDX-License-Identifier: Apache-2.0
"""One function for each form of an ATen call that has a plainer one: :mod:`porter.dialects.fx_capture` applies them.

A function gets the run (a ``Flatten``), the node and its arguments by name; it returns what stands for the result, or
None where the call stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import getitem
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from porter.dialects.fx_export import origin_of
from porter.dialects.fx_lift import UNARY
from porter.dialects.fx_lower import operator

if TYPE_CHECKING:
    from porter.dialects.fx_capture import Flatten

__all__ = ["ALIASES", "NORMALIZERS", "normalizes", "val_of"]

#: Operators that give their argument back.
ALIASES = frozenset(t for t, kind in UNARY.items() if kind == "identity")
Normalizer = Callable[["Flatten", Any, dict[str, Any]], Any]
NORMALIZERS: dict[str, Normalizer] = {}


def normalizes(*targets: str) -> Callable[[Normalizer], Normalizer]:
    """Register a function for overloads of aten."""

    def register(function: Normalizer) -> Normalizer:
        NORMALIZERS.update({f"aten.{t}": function for t in targets})
        return function

    return register


def val_of(node: Any, what: str) -> Any:
    """An attribute (``"dtype"``, ``"shape"``) of the fake tensor that a node gives; None where it gives none."""
    return getattr(node.meta.get("val"), what, None)


def _held(self: Flatten, node: Any) -> torch.Tensor | None:
    """The data of a tensor that the model holds, or None."""
    if isinstance(node, fx.Node) and node.op == "get_attr":
        held = self.attributes[str(node.target)]
        return held if isinstance(held, torch.Tensor) else None
    return None


@normalizes(*(t.removeprefix("aten.") for t in ALIASES))
def _alias(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    """Nothing is written in place, so a copy is the value itself, unless it changes how it lies in memory."""
    x = a["self"]
    if node.name in self.origins:  # porter wrote the file: what is left has a reason
        return None
    if node.target not in (operator("clone"), operator("contiguous")):
        return x
    made = self.again(node, a)
    return x if made.meta["val"].stride() == x.meta["val"].stride() else made


@normalizes("empty.memory_format", "new_empty.default", "empty_like.default")
def _empty(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    """Memory that nobody has written may hold zeros."""
    shape = a["size"] if "size" in a else a["self"].meta["val"].shape
    return self.emit.call("full", list(shape), 0, dtype=val_of(node, "dtype"))


@normalizes("dropout.default", "feature_dropout.default")
def _dropout(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    return None if a["train"] else a["input"]


@normalizes("_to_copy.default", "to.dtype", "to.dtype_layout", "to.other")
def _to_copy(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    dtype = val_of(node, "dtype")
    x = a["self"]
    return x if x.meta["val"].dtype == dtype else self.emit.call("_to_copy", x, dtype=dtype)


@normalizes(
    "view.default",
    "_unsafe_view.default",
    "_reshape_alias.default",
    "view_copy.default",
    "reshape.default",
    "view_as.default",
    "reshape_as.default",
    "flatten.using_ints",
    "unflatten.int",
)
def _view(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    """reshape: a view where it can be one (the strides may have changed)."""
    sizes = a.get("size", a.get("shape"))
    if self.static:
        shape = node.meta["val"].shape
    else:
        made = self.again(node, a) if sizes is None else self.emit.call("reshape", a["self"], list(sizes))
        shape = made.meta["val"].shape
    return a["self"] if shape == a["self"].meta["val"].shape else self.emit.call("reshape", a["self"], list(shape))


@normalizes("type_as.default")
def _type_as(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    return self.emit.cast(a["self"], a["other"].meta["val"].dtype)


@normalizes("narrow.default")
def _narrow(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    return self.emit.call("slice.Tensor", a["self"], a["dim"], a["start"], a["start"] + a["length"])


@normalizes("__and__.Tensor", "__or__.Tensor", "__xor__.Tensor")
def _bitwise(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    self.cast_all(a, ("self", "other"), val_of(node, "dtype"))
    return self.emit.call(f"bitwise_{str(node.target).split('.')[1].strip('_')}.Tensor", a["self"], a["other"])


@normalizes("slice.Tensor")
def _slice(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    if a["step"] != 1:
        return None
    made = self.again(node, a)
    return a["self"] if made.meta["val"].shape == a["self"].meta["val"].shape else made


@normalizes("slice_scatter.default")
def _slice_scatter(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    """Written over everywhere, nothing is left of what was there. The line is the assignment's (see _written)."""
    self.emit.meta = _written(self, node, a)
    whole = a["src"].meta["val"].shape == a["self"].meta["val"].shape and a["step"] == 1
    return a["src"] if whole else self.again(node, a)


@normalizes("select_scatter.default")
def _select_scatter(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    self.emit.meta = _written(self, node, a)
    return self.again(node, a)


def _written(self: Flatten, node: Any, a: dict[str, Any]) -> Mapping[str, Any]:
    """The metadata of the assignment that a scatter belongs to.

    Functionalization makes the scatter when the written tensor is next read, and may give it that later line; the
    ``copy`` or ``fill`` inside has the line of the assignment itself.
    """
    if node.name in self.origins:
        return self.emit.meta
    src = node.args[1]
    while isinstance(src, fx.Node) and "scatter" in str(src.target):
        src = src.args[1]
    if not isinstance(src, fx.Node) or not str(src.target).startswith(("aten.copy.", "aten.fill.", "aten.zero.")):
        return self.emit.meta
    origin = origin_of(src.meta, node.name)
    kept = {k: src.meta[k] for k in ("stack_trace", "nn_module_stack") if src.meta.get(k)}
    return {"porter_origin": origin, **kept} if origin.file else self.emit.meta


@normalizes("copy.default")
def _copy(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    like = a["self"].meta["val"]
    src = self.emit.cast(a["src"], like.dtype)
    return src if src.meta["val"].shape == like.shape else self.emit.call("expand", src, list(like.shape))


@normalizes("fill.Tensor")
def _fill(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    held = _held(self, a["value"])
    if held is not None:
        return self.emit.call("full_like", a["self"], held.item())
    like = a["self"].meta["val"]
    return self.emit.call("expand", self.emit.cast(a["value"], like.dtype), list(like.shape))


@normalizes("add.Tensor", "sub.Tensor", "add.Scalar", "sub.Scalar")
def _alpha(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    if a["alpha"] == 1 or not isinstance(a["other"], fx.Node):
        return None if a["alpha"] == 1 else self.emit.call(node.target, a["self"], a["other"] * a["alpha"])
    dtype = val_of(node, "dtype")
    self.cast_all(a, ("self", "other"), dtype)
    return self.emit.call(node.target, a["self"], self.emit.call("mul.Tensor", a["other"], a["alpha"]))


@normalizes("rsub.Scalar", "rsub.Tensor")
def _rsub(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    self.cast_all(a, ("self", "other"), val_of(node, "dtype"))
    x = a["self"] if a["alpha"] == 1 else self.emit.call("mul.Tensor", a["self"], a["alpha"])
    if isinstance(a["other"], fx.Node):
        return self.emit.call("sub.Tensor", a["other"], x)
    return self.emit.call("rsub.Scalar", x, a["other"])


@normalizes("addcmul.default", "addcdiv.default")
def _addcmul(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    self.cast_all(a, ("self", "tensor1", "tensor2"), val_of(node, "dtype"))
    product = self.emit.call("mul.Tensor" if "mul" in str(node.target) else "div.Tensor", a["tensor1"], a["tensor2"])
    if a["value"] != 1:
        product = self.emit.call("mul.Tensor", product, a["value"])
    return self.emit.call("add.Tensor", a["self"], product)


@normalizes("baddbmm.default")
def _baddbmm(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    if a["beta"] != 1 or a["alpha"] != 1:
        return None
    return self.emit.call("add.Tensor", a["self"], self.emit.call("bmm", a["batch1"], a["batch2"]))


@normalizes("div.Tensor_mode")
def _div_mode(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    dtype = val_of(node, "dtype")
    self.cast_all(a, ("self", "other"), dtype)
    if a["rounding_mode"] is None:
        return self.emit.call("div.Tensor", a["self"], a["other"])
    if a["rounding_mode"] == "trunc" and dtype.is_floating_point:
        return self.emit.call("trunc", self.emit.call("div.Tensor", a["self"], a["other"]))
    return self.emit.call("div.Tensor_mode", a["self"], a["other"], rounding_mode=a["rounding_mode"])


@normalizes("masked_fill.Tensor")
def _masked_fill(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    held = _held(self, a["value"])
    if held is not None:
        return self.emit.call("masked_fill.Scalar", a["self"], a["mask"], held.item())
    return self.emit.call("where.self", a["mask"], self.emit.cast(a["value"], val_of(node, "dtype")), a["self"])


@normalizes("index_put.default")
def _index_put(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    """``x[mask] = number`` writes where the mask is true: masked_fill, or where for a number computed at run time."""
    indices, x, value = a["indices"], a["self"], a["values"]
    mask = indices[0] if len(indices) == 1 else None
    if mask is None or mask.meta["val"].dtype is not torch.bool or a["accumulate"] or value.meta["val"].numel() != 1:
        return None
    for _ in range(x.meta["val"].dim() - mask.meta["val"].dim()):
        mask = self.emit.call("unsqueeze", mask, -1)
    held = _held(self, value)
    if held is not None:
        return self.emit.call("masked_fill.Scalar", x, mask, held.item())
    return self.emit.call("where.self", mask, self.emit.cast(value, val_of(node, "dtype")), x)


@normalizes("scatter.value")
def _scatter_value(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    shape = list(a["index"].meta["val"].shape)
    src = self.emit.call("full", shape, a["value"], dtype=val_of(node, "dtype"))
    return self.emit.call("scatter.src", a["self"], a["dim"], a["index"], src)


@normalizes("clamp.Tensor", "clamp_min.Tensor", "clamp_max.Tensor")
def _clamp(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    dtype = val_of(node, "dtype")
    x = self.emit.cast(a["self"], dtype)
    if a.get("min") is not None:
        x = self.emit.call("maximum", x, self.emit.cast(a["min"], dtype))
    if a.get("max") is not None:
        x = self.emit.call("minimum", x, self.emit.cast(a["max"], dtype))
    return x


@normalizes("_native_batch_norm_legit_no_training.default", "native_batch_norm.default", "cudnn_batch_norm.default")
def _batch_norm(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    """The statistics of the batch, its other results, are empty in evaluation."""
    if a.get("training") or _reads(node, {1, 2, 3}):
        return None
    args = (a.get("input", a.get("self")), a["weight"], a["bias"], a["running_mean"], a["running_var"])
    return self.emit.call("batch_norm", *args, False, a["momentum"], a["eps"], False), None, None


@normalizes("native_layer_norm.default")
def _native_layer_norm(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    if _reads(node, {1, 2}):
        return None
    return self.emit.call("layer_norm", a["input"], a["normalized_shape"], a["weight"], a["bias"], a["eps"]), None, None


@normalizes("native_group_norm.default")
def _native_group_norm(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    if _reads(node, {1, 2}):
        return None
    return self.emit.call("group_norm", a["input"], a["group"], a["weight"], a["bias"], a["eps"]), None, None


@normalizes("max_pool2d_with_indices.default")
def _max_pool(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    if _reads(node, {1}):
        return None
    args = (a["kernel_size"], a["stride"], a["padding"], a["dilation"], a["ceil_mode"])
    return _with_batch(self, a["self"], 4, lambda x: self.emit.call("max_pool2d", x, *args)), None


@normalizes("max.dim", "min.dim")
def _extreme(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    """The value alone is amax, the index alone is argmax (both take the first extreme on the CPU)."""
    name = str(node.target).split(".")[1]
    args = (a["self"], a["dim"], a["keepdim"])
    if not _reads(node, {1}):
        return self.emit.call(f"a{name}", args[0], [args[1]], args[2]), None
    return None if _reads(node, {0}) else (None, self.emit.call(f"arg{name}", *args))


@normalizes("argsort.default", "argsort.stable")
def _argsort(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    order = self.emit.call("sort.stable", a["self"], stable=True, dim=a["dim"], descending=a["descending"])
    return self.emit.item(order, 1)


@normalizes(*(f"{n}_mean.{o}" for n in ("var", "std") for o in ("correction", "dim", "default")))
def _var_mean(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    name = str(node.target).split(".")[1].removesuffix("_mean")
    dims = a.get("dim") or list(range(a["self"].meta["val"].dim()))
    keepdim = a.get("keepdim", False)
    correction = a["correction"] if "correction" in a else int(a["unbiased"])
    spread = self.emit.call(f"{name}.correction", a["self"], dims, correction=correction, keepdim=keepdim)
    return spread, self.emit.call("mean.dim", a["self"], dims, keepdim)


@normalizes("glu.default")
def _glu(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    x, dim = a["self"], a["dim"]
    half = x.meta["val"].shape[dim] // 2
    gate = self.emit.call("sigmoid", self.emit.call("slice.Tensor", x, dim, half, 2 * half))
    return self.emit.call("mul.Tensor", self.emit.call("slice.Tensor", x, dim, 0, half), gate)


@normalizes("lstm_cell.default", "gru_cell.default", "rnn_tanh_cell.default", "rnn_relu_cell.default")
def _recurrent_cell(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    """A cell is a layer over one step."""
    call, name = self.emit.call, str(node.target).split(".")[1].removesuffix("_cell")
    of_torch = (a["w_ih"], a["w_hh"], a.get("b_ih"), a.get("b_hh"))
    weights = [weight for weight in of_torch if weight is not None]
    states = a["hx"] if name == "lstm" else [a["hx"]]
    hx = [call("unsqueeze", state, 0) for state in states]
    rest = (weights, len(weights) == 4, 1, 0.0, False, False, False)
    made = call(f"{name}.input", call("unsqueeze", a["input"], 0), hx if name == "lstm" else hx[0], *rest)
    last = [call("squeeze.dim", self.emit.item(made, 1 + i), 0) for i in range(len(states))]
    return tuple(last) if name == "lstm" else last[0]


def _reads(node: fx.Node, indices: set[int]) -> bool:
    """Whether any of these results of a call is read."""
    return any(user.target is not getitem or (user.args[1] in indices and user.users) for user in node.users)


def _with_batch(self: Flatten, x: fx.Node, rank: int, build: Callable[[fx.Node], fx.Node]) -> fx.Node:
    """``build`` on (N, C, ...): an image without a batch axis gets one, and loses it afterwards."""
    if x.meta["val"].dim() == rank:
        return build(x)
    return self.emit.call("squeeze.dim", build(self.emit.call("unsqueeze", x, 0)), 0)


_WINDOWED = {
    f"aten.{k}{n}d.{o}": n + 2
    for k, o in (
        ("conv", "default"),
        ("conv", "padding"),
        ("max_pool", "default"),
        ("avg_pool", "default"),
        ("adaptive_avg_pool", "default"),
        ("conv_transpose", "input"),
        ("conv_transpose", "default"),
    )
    for n in (1, 2, 3)
}


@normalizes(*(t.removeprefix("aten.") for t in _WINDOWED))
def _windowed(self: Flatten, node: Any, a: dict[str, Any]) -> Any:
    first = next(iter(a))
    if a[first].meta["val"].dim() == _WINDOWED[str(node.target)]:
        return None
    return _with_batch(self, a[first], _WINDOWED[str(node.target)], lambda x: self.again(node, a | {first: x}))
