# SPDX-License-Identifier: Apache-2.0
"""What torch computes for each kind that a rule removes: the authority of the tests in this folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

DTYPES = {
    "float16": torch.float16, "float32": torch.float32, "float64": torch.float64, "int32": torch.int32,
    "int64": torch.int64, "bool": torch.bool, "uint8": torch.uint8, "int8": torch.int8,
}  # fmt: skip
_TABLE: dict[str, Callable[..., Any]] = {}


def _kind(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            _TABLE[name] = function
        return function

    return add


def compute(kind: str, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> list[Any]:
    """The outputs of ``kind`` as numpy arrays, by torch."""
    tensors = [None if x is None else torch.from_numpy(x.copy()) for x in inputs]
    with torch.no_grad():
        found = _TABLE[kind](*tensors, **attrs)
    outs = found if isinstance(found, (tuple, list)) else [found]
    return [o.contiguous().numpy() for o in outs]


_FUNCTIONAL = "relu relu6 silu hardswish mish selu softsign logsigmoid"
_PLAIN = (
    "sigmoid tanh exp expm1 log log1p log2 log10 sqrt rsqrt reciprocal abs neg sign floor ceil round trunc sin cos tan "
    "asin acos atan sinh cosh asinh acosh atanh erf square isnan isinf logical_not bitwise_not sub mul pow maximum "
    "minimum atan2 remainder fmod floor_divide eq ne lt le gt ge logical_and logical_or logical_xor bitwise_and "
    "bitwise_or bitwise_xor where matmul add"
)
_TABLE.update({name: getattr(F, name) for name in _FUNCTIONAL.split()})
_TABLE.update({name: getattr(torch, name) for name in _PLAIN.split()})
_TABLE["identity"] = lambda x: x
_TABLE["div"] = torch.true_divide
_TABLE["trunc_divide"] = lambda x, y: torch.div(x, y, rounding_mode="trunc")
_TABLE["leaky_relu"] = lambda x, negative_slope: F.leaky_relu(x, negative_slope)
_TABLE["prelu"] = F.prelu
_TABLE["elu"] = lambda x, alpha: F.elu(x, alpha)
_TABLE["celu"] = lambda x, alpha: F.celu(x, alpha)
_TABLE["gelu"] = lambda x, approximate: F.gelu(x, approximate=approximate)
_TABLE["softplus"] = lambda x, beta, threshold: F.softplus(x, beta, threshold)
_TABLE["threshold"] = lambda x, threshold, value: F.threshold(x, threshold, value)
_TABLE["clamp"] = lambda x, min, max: torch.clamp(x, min, max)
_TABLE["cast"] = lambda x, dtype: x.to(DTYPES[dtype])
_TABLE["masked_fill"] = lambda x, mask, value: x.masked_fill(mask, value)
_TABLE["linear"] = F.linear
_TABLE["einsum"] = lambda *xs, equation: torch.einsum(equation, *xs)
_TABLE["softmax"] = lambda x, axis: torch.softmax(x, axis)
_TABLE["log_softmax"] = lambda x, axis: torch.log_softmax(x, axis)
_TABLE["cumsum"] = lambda x, axis: torch.cumsum(x, axis)


@_kind("hardsigmoid")
def _hardsigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0, 1)


@_kind("gemm")
def _gemm(a: Tensor, b: Tensor, c: Tensor | None, alpha: float, beta: float, trans_a: bool, trans_b: bool) -> Tensor:
    out = alpha * ((a.T if trans_a else a) @ (b.T if trans_b else b))
    return out if c is None else out + beta * c


def _padded(x: Tensor, padding: Any, value: float = 0.0) -> Tensor:
    return F.pad(x, [n for pair in reversed(padding) for n in pair], value=value)


@_kind("conv1d", "conv2d", "conv3d")
def _conv(x: Tensor, w: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    function = (F.conv1d, F.conv2d, F.conv3d)[w.ndim - 3]
    return function(_padded(x, padding), w, bias, stride, 0, dilation, groups)


@_kind("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(
    x: Tensor, w: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int, output_padding: Any
) -> Tensor:
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[w.ndim - 3]
    return function(x, w, bias, stride, [p for p, _ in padding], output_padding, groups, dilation)


@_kind("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices")
def _max_pool(x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Tensor:
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1]
    if any(p != q for p, q in padding):
        raise NotImplementedError("torch has no asymmetric pool")
    return function(x, kernel, stride, [p for p, _ in padding], dilation, ceil_mode)


@_kind("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(
    x: Tensor, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool, divisor_override: Any
) -> Tensor:
    pads = [p for p, _ in padding]
    if len(kernel) == 1:
        return F.avg_pool1d(x, kernel, stride, pads, ceil_mode, count_include_pad)
    function = (F.avg_pool2d, F.avg_pool3d)[len(kernel) - 2]
    return function(x, kernel, stride, pads, ceil_mode, count_include_pad, divisor_override)


_TABLE["adaptive_avg_pool1d"] = lambda x, output_size: F.adaptive_avg_pool1d(x, output_size)
_TABLE["adaptive_avg_pool2d"] = lambda x, output_size: F.adaptive_avg_pool2d(x, output_size)
_TABLE["adaptive_avg_pool3d"] = lambda x, output_size: F.adaptive_avg_pool3d(x, output_size)
_TABLE["adaptive_max_pool2d"] = lambda x, output_size: F.adaptive_max_pool2d(x, output_size)
_TABLE["batch_norm"] = lambda x, w, bias, mean, var, eps: F.batch_norm(x, mean, var, w, bias, False, 0.0, eps)
_TABLE["instance_norm"] = lambda x, w, bias, eps: F.instance_norm(x, None, None, w, bias, True, 0.0, eps)
_TABLE["group_norm"] = lambda x, w, bias, groups, eps: F.group_norm(x, groups, w, bias, eps)
_TABLE["layer_norm"] = lambda x, w, bias, axes, eps: F.layer_norm(x, x.shape[axes[0] :], w, bias, eps)
_TABLE["rms_norm"] = lambda x, w, axes, eps: F.rms_norm(x, x.shape[axes[0] :], w, eps)
_TABLE["lp_normalize"] = lambda x, p, axis, eps: F.normalize(x, p, axis, eps)
_TABLE["local_response_norm"] = lambda x, size, alpha, beta, k: F.local_response_norm(x, size, alpha, beta, k)


def _reduced(function: Callable[..., Tensor], x: Tensor, axes: Any, keepdim: bool) -> Tensor:
    return function(x, tuple(axes), keepdim)


for name in ("sum", "mean", "amax", "amin", "logsumexp"):
    _TABLE[name] = partial(_reduced, getattr(torch, name))


def _in_turn(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduce(x: Tensor, axes: Any, keepdim: bool) -> Tensor:
        for axis in sorted(axes, reverse=True):
            x = function(x, axis, keepdim)
        return x

    return reduce


_TABLE["prod"] = _in_turn(torch.prod)
_TABLE["all"] = _in_turn(torch.all)
_TABLE["any"] = _in_turn(torch.any)
_TABLE["var"] = lambda x, axes, keepdim, correction: torch.var(x, tuple(axes), correction=correction, keepdim=keepdim)
_TABLE["std"] = lambda x, axes, keepdim, correction: torch.std(x, tuple(axes), correction=correction, keepdim=keepdim)
_TABLE["norm"] = lambda x, p, axes, keepdim: torch.linalg.vector_norm(x, p, tuple(axes), keepdim)
_TABLE["argmax"] = lambda x, axis, keepdim: torch.argmax(x, axis, keepdim)
_TABLE["argmin"] = lambda x, axis, keepdim: torch.argmin(x, axis, keepdim)
_TABLE["max_dim"] = lambda x, axis, keepdim: torch.max(x, axis, keepdim)
_TABLE["min_dim"] = lambda x, axis, keepdim: torch.min(x, axis, keepdim)
_TABLE["topk"] = lambda x, k, axis, largest, sorted: torch.topk(x, k, axis, largest, sorted)
_TABLE["sort"] = lambda x, axis, descending: torch.sort(x, stable=True, dim=axis, descending=descending)
_TABLE["reshape"] = lambda x, shape: x.reshape(shape)
_TABLE["flatten"] = lambda x, start, end: x.flatten(start, end)
_TABLE["squeeze"] = lambda x, axes: x.squeeze(tuple(axes))
_TABLE["permute"] = lambda x, dims: x.permute(dims)
_TABLE["expand"] = lambda x, shape: x.expand(shape)
_TABLE["repeat"] = lambda x, repeats: x.repeat(repeats)
_TABLE["select"] = lambda x, axis, index: x.select(axis, index)
_TABLE["cat"] = lambda *xs, axis: torch.cat(xs, axis)
_TABLE["stack"] = lambda *xs, axis: torch.stack(xs, axis)
_TABLE["split"] = lambda x, sizes, axis: torch.split(x, list(sizes), axis)
_TABLE["chunk"] = lambda x, chunks, axis: torch.chunk(x, chunks, axis)
_TABLE["unbind"] = lambda x, axis: torch.unbind(x, axis)
_TABLE["meshgrid"] = lambda *xs, indexing: torch.meshgrid(*xs, indexing=indexing)
_TABLE["gather"] = lambda x, index, axis: torch.gather(x, axis, index)
_TABLE["index_select"] = lambda x, index, axis: torch.index_select(x, axis, index)
_TABLE["embedding"] = lambda w, index: F.embedding(index, w)
_TABLE["one_hot"] = lambda x, depth: F.one_hot(x, depth)
_TABLE["flip"] = lambda x, axes: x.flip(axes)
_TABLE["roll"] = lambda x, shifts, axes: x.roll(shifts, axes)
_TABLE["tril"] = lambda x, diagonal: x.tril(diagonal)
_TABLE["triu"] = lambda x, diagonal: x.triu(diagonal)
_TABLE["channel_shuffle"] = lambda x, groups: F.channel_shuffle(x, groups)


@_kind("unsqueeze")
def _unsqueeze(x: Tensor, axes: Any) -> Tensor:
    for axis in sorted(axes):
        x = x.unsqueeze(axis)
    return x


def _boxed(x: Tensor, axes: Any, starts: Any, ends: Any, steps: Any, put: Tensor | None) -> Tensor:
    """torch has no negative step: index with lists, which are the definition of a slice."""
    index = [list(range(n)) for n in x.shape]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = list(range(start, end, step))
    if not all(index):
        return x.clone() if put is not None else x.new_empty([len(i) for i in index])
    grid = torch.meshgrid(*[torch.tensor(i) for i in index], indexing="ij")
    if put is None:
        return x[grid]
    out = x.clone()
    out[grid] = put.to(x.dtype).expand([len(i) for i in index])
    return out


_TABLE["slice"] = lambda x, axes, starts, ends, steps: _boxed(x, axes, starts, ends, steps, None)
_TABLE["slice_assign"] = lambda x, src, axes, starts, ends, steps: _boxed(x, axes, starts, ends, steps, src)


@_kind("select_assign")
def _select_assign(x: Tensor, src: Tensor, axis: int, index: int) -> Tensor:
    out = x.clone()
    out.select(axis, index).copy_(src)
    return out


@_kind("take")
def _take(x: Tensor, index: Tensor, axis: int) -> Tensor:
    flat = torch.where(index < 0, index + x.shape[axis], index).reshape(-1)
    return torch.index_select(x, axis, flat).reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _at(x: Tensor, indices: Sequence[Tensor], axes: Any) -> tuple[Any, ...]:
    at: list[Any] = [slice(None)] * x.ndim
    for axis, index in zip(axes, indices, strict=True):
        at[axis] = index
    return tuple(at)


_TABLE["index"] = lambda x, *indices, axes: x[_at(x, indices, axes)]


@_kind("index_put")
def _index_put(x: Tensor, values: Tensor, *indices: Tensor, axes: Any, accumulate: bool) -> Tensor:
    out = x.clone()
    at = _at(x, indices, axes)
    out[at] = out[at] + values if accumulate else values.to(x.dtype)
    return out


@_kind("scatter_nd")
def _scatter_nd(x: Tensor, index: Tensor, src: Tensor, reduction: str) -> Tensor:
    out = x.clone()
    out[tuple(index.reshape(-1, index.shape[-1]).T)] = src.reshape(-1, *x.shape[index.shape[-1] :])
    return out


@_kind("scatter")
def _scatter(x: Tensor, index: Tensor, src: Tensor, axis: int, reduction: str) -> Tensor:
    return torch.scatter(x, axis, index, src if src.ndim else src.expand(index.shape))


@_kind("pad")
def _pad(x: Tensor, padding: Any, mode: str, value: float) -> Tensor:
    if mode == "constant":
        return _padded(x, padding, value)
    # torch pads at most three trailing axes in these modes.
    assert all(pair == (0, 0) for pair in padding[:2])
    return F.pad(x, [n for pair in reversed(padding[2:]) for n in pair], mode)


@_kind("resize")
def _resize(
    x: Tensor, mode: str, coordinates: str, sizes: Any, nearest_mode: str, antialias: bool, cubic_coeff: float, **_: Any
) -> Tensor:
    if mode == "nearest":
        if (coordinates, nearest_mode) == ("asymmetric", "floor"):
            return F.interpolate(x, sizes, mode="nearest")
        assert (coordinates, nearest_mode) == ("half_pixel", "round_prefer_ceil")
        return F.interpolate(x, sizes, mode="nearest-exact")
    assert mode == "linear" or cubic_coeff == (-0.5 if antialias else -0.75)
    name = {"linear": ("linear", "bilinear", "trilinear")[x.ndim - 3], "cubic": "bicubic"}[mode]
    return F.interpolate(x, sizes, mode=name, align_corners=coordinates == "align_corners", antialias=antialias)


_TABLE["grid_sample"] = lambda x, grid, mode, padding_mode, align_corners: F.grid_sample(
    x, grid, mode, padding_mode, align_corners
)
_TABLE["affine_grid"] = lambda theta, size, align_corners: F.affine_grid(theta, size, align_corners)


def _dcr(x: Tensor, r: int, inverse: bool) -> Tensor:
    n, c, h, w = x.shape
    if inverse:
        return x.view(n, c, h // r, r, w // r, r).permute(0, 3, 5, 1, 2, 4).reshape(n, c * r * r, h // r, w // r)
    return x.view(n, r, r, c // (r * r), h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // (r * r), h * r, w * r)


_TABLE["pixel_shuffle"] = lambda x, factor, mode: (
    F.pixel_shuffle(x, factor) if mode == "CRD" else _dcr(x, factor, False)
)
_TABLE["pixel_unshuffle"] = lambda x, factor, mode: (
    F.pixel_unshuffle(x, factor) if mode == "CRD" else _dcr(x, factor, True)
)
_TABLE["unfold"] = lambda x, kernel, stride, padding, dilation: F.unfold(x, kernel, dilation, padding, stride)


@_kind("attention")
def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, mask, 0.0, causal, scale=scale)
