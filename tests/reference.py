# SPDX-License-Identifier: Apache-2.0
"""A numpy interpreter of fragments, independent of torch, onnx and every dialect.

It covers the kinds that the rewrite rules yield. Elementary functions are computed in the dtype of the operands,
sums of products (convolution, matmul) in float64 and rounded once: a test measures the rule, not the interpreter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from porter.ops import Array, Op, Value
from porter.rewrite import Fragment

Attrs = Mapping[str, Any]
_TABLE: dict[str, Callable[..., Any]] = {}


def _kind(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            _TABLE[name] = function
        return function

    return add


def kinds() -> set[str]:
    """The kinds that the interpreter knows."""
    return set(_TABLE)


def run_op(op: Op, inputs: Sequence[Array | None]) -> list[Array]:
    """The outputs of one op, in the dtypes that the op declares."""
    with np.errstate(all="ignore"):
        found = _TABLE[op.kind](*inputs, **op.attrs)
    outs = found if isinstance(found, (list, tuple)) else [found]
    return [np.asarray(o).astype(v.dtype, copy=False) for o, v in zip(outs, op.outputs, strict=True)]


def run(fragment: Fragment, feeds: Mapping[str, Array]) -> list[Array]:
    """The results of a fragment. Every shape and dtype that the fragment declares is checked on the way."""
    env = dict(feeds)

    def get(value: Value | None) -> Array | None:
        if value is None:
            return None
        return env[value.name] if value.name in env else value.numpy()

    for op in fragment.ops:
        for out, data in zip(op.outputs, run_op(op, [get(v) for v in op.inputs]), strict=True):
            assert data.shape == out.shape, f"{op!r}: the interpreter gives {data.shape}"
            assert str(data.dtype) == out.dtype, f"{op!r}: the interpreter gives {data.dtype}"
            assert out.name not in env, f"{out.name} is computed twice"
            env[out.name] = data
    results = []
    for value in fragment.results:
        data = get(value)
        assert data is not None
        results.append(data)
    return results


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _like(x: Array, value: Any) -> Array:
    return np.asarray(value).astype(x.dtype)


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[np.float64])(x.astype(np.float64)).reshape(x.shape).astype(x.dtype)


def _sigmoid(x: Array) -> Array:
    return _like(x, 1) / (_like(x, 1) + np.exp(-x))


def _softplus(x: Array, beta: float, threshold: float) -> Array:
    y = x * _like(x, beta)
    soft = np.where(y > 0, y, 0).astype(x.dtype) + np.log1p(np.exp(-np.abs(y)))
    return np.where(y > threshold, x, soft / _like(x, beta))


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, _like(x, alpha) * np.expm1(x))


def _gelu(x: Array, approximate: str) -> Array:
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + _erf(x * _like(x, math.sqrt(0.5))))


def _relu(x: Array) -> Array:
    return np.maximum(x, _like(x, 0))


_UNARY: dict[str, Callable[[Array], Array]] = {
    "relu": _relu,
    "relu6": lambda x: np.minimum(_relu(x), _like(x, 6)),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "hardswish": lambda x: x * np.minimum(_relu(x + 3), 6) / 6,
    "mish": lambda x: x * np.tanh(_softplus(x, 1.0, 20.0)),
    "selu": lambda x: _like(x, _SELU_SCALE) * _elu(x, _SELU_ALPHA),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "logsigmoid": lambda x: -_softplus(-x, 1.0, 1e9),
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "log2": np.log2,
    "log10": np.log10,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: _like(x, 1) / np.sqrt(x),
    "reciprocal": lambda x: _like(x, 1) / x,
    "abs": np.abs,
    "neg": np.negative,
    "sign": lambda x: (x > 0).astype(x.dtype) - (x < 0).astype(x.dtype),
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
    "trunc": np.trunc,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "erf": _erf,
    "square": np.square,
    "isnan": np.isnan,
    "isinf": np.isinf,
    "logical_not": np.logical_not,
    "bitwise_not": np.bitwise_not,
    "identity": lambda x: x,
}
_TABLE.update(_UNARY)
_TABLE.update(
    {
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "div": np.true_divide,
        "pow": np.power,
        "maximum": np.maximum,
        "minimum": np.minimum,
        "atan2": np.arctan2,
        "remainder": np.remainder,
        "fmod": np.fmod,
        "floor_divide": np.floor_divide,
        "eq": np.equal,
        "ne": np.not_equal,
        "lt": np.less,
        "le": np.less_equal,
        "gt": np.greater,
        "ge": np.greater_equal,
        "logical_and": np.logical_and,
        "logical_or": np.logical_or,
        "logical_xor": np.logical_xor,
        "bitwise_and": np.bitwise_and,
        "bitwise_or": np.bitwise_or,
        "bitwise_xor": np.bitwise_xor,
        "where": np.where,
        "softplus": _softplus,
        "elu": _elu,
        "gelu": _gelu,
    }
)


@_kind("celu")
def _celu(x: Array, alpha: float) -> Array:
    return np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha))


@_kind("leaky_relu")
def _leaky_relu(x: Array, negative_slope: float) -> Array:
    return np.where(x > 0, x, _like(x, negative_slope) * x)


@_kind("hardsigmoid")
def _hardsigmoid(x: Array, alpha: float, beta: float) -> Array:
    return np.clip(_like(x, alpha) * x + _like(x, beta), 0, 1)


@_kind("threshold")
def _threshold(x: Array, threshold: float, value: float) -> Array:
    return np.where(x <= _like(x, threshold), _like(x, value), x)


@_kind("clamp")
def _clamp(x: Array, min: float | None, max: float | None) -> Array:
    x = x if min is None else np.maximum(x, _like(x, min))
    return x if max is None else np.minimum(x, _like(x, max))


@_kind("cast")
def _cast(x: Array, dtype: str) -> Array:
    return x.astype(dtype)


@_kind("masked_fill")
def _masked_fill(x: Array, mask: Array, value: float) -> Array:
    return np.where(mask, _like(x, value), x)


@_kind("linear")
def _linear(x: Array, weight: Array, bias: Array | None) -> Array:
    out = np.matmul(x.astype(np.float64), weight.T.astype(np.float64))
    return out if bias is None else out + bias


@_kind("matmul")
def _matmul(x: Array, y: Array) -> Array:
    return np.matmul(x.astype(np.float64), y.astype(np.float64))


@_kind("conv1d", "conv2d", "conv3d")
def _conv(x: Array, weight: Array, bias: Array | None, stride: Any, padding: Any, dilation: Any, groups: int) -> Array:
    n = weight.ndim - 2
    taps = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    wide = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *padding))
    windows = sliding_window_view(wide, taps, axis=tuple(range(2, 2 + n)))
    at = (slice(None), slice(None), *(slice(None, None, s) for s in stride), *(slice(None, None, d) for d in dilation))
    windows = windows[at]
    outs = []
    cin, cout = x.shape[1] // groups, weight.shape[0] // groups
    for g in range(groups):
        part = windows[:, g * cin : (g + 1) * cin]
        kernel = weight[g * cout : (g + 1) * cout].astype(np.float64)
        over = (1, *range(2 + n, 2 + 2 * n))
        outs.append(np.moveaxis(np.tensordot(part, kernel, (over, (1, *range(2, 2 + n)))), -1, 1))
    out = np.concatenate(outs, 1)
    return out if bias is None else out + bias.reshape(1, -1, *(1,) * n)


@_kind("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    output_padding: Any,
) -> Array:
    n = weight.ndim - 2
    cin, cout = x.shape[1] // groups, weight.shape[1]
    taps = weight.shape[2:]
    size = [
        (e - 1) * s + d * (k - 1) + 1 + o
        for e, s, d, k, o in zip(x.shape[2:], stride, dilation, taps, output_padding, strict=True)
    ]
    out = np.zeros((x.shape[0], cout * groups, *size))
    for g in range(groups):
        part = x[:, g * cin : (g + 1) * cin].astype(np.float64)
        kernel = weight[g * cin : (g + 1) * cin].astype(np.float64)
        for tap in np.ndindex(*taps):
            put = np.moveaxis(np.tensordot(part, kernel[(..., *tap)], ((1,), (0,))), -1, 1)
            at = tuple(
                slice(t * d, t * d + (e - 1) * s + 1, s)
                for t, d, e, s in zip(tap, dilation, x.shape[2:], stride, strict=True)
            )
            out[(slice(None), slice(g * cout, (g + 1) * cout), *at)] += put
    crop = tuple(slice(p, e - q) for (p, q), e in zip(padding, size, strict=True))
    out = out[(slice(None), slice(None), *crop)]
    return out if bias is None else out + bias.reshape(1, -1, *(1,) * n)


def _windows(x: Array, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, fill: float) -> Array:
    """Every window, the taps in the last axes; ``fill`` outside the input."""
    n = len(kernel)
    counts, pads = [], []
    for e, k, s, (p, q), d in zip(x.shape[-n:], kernel, stride, padding, dilation, strict=True):
        span = e + p + q - d * (k - 1) - 1
        count = span // s + 1
        if ceil_mode and span % s and count * s < e + p:
            count += 1
        counts.append(count)
        pads.append((p, max(q, (count - 1) * s + d * (k - 1) + 1 - e - p)))
    wide = np.pad(x, (*((0, 0),) * (x.ndim - n), *pads), constant_values=fill)
    taps = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    windows = sliding_window_view(wide, taps, axis=tuple(range(x.ndim - n, x.ndim)))
    lead = (slice(None),) * (x.ndim - n)
    return windows[
        (
            *lead,
            *(slice(0, c * s, s) for c, s in zip(counts, stride, strict=True)),
            *(slice(None, None, d) for d in dilation),
        )
    ]


@_kind("max_pool1d", "max_pool2d", "max_pool3d")
def _max_pool(x: Array, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Array:
    windows = _windows(x, kernel, stride, padding, dilation, ceil_mode, -np.inf)
    return windows.max(tuple(range(-len(kernel), 0)))


@_kind("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(
    x: Array,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Array:
    ones = (1,) * len(kernel)
    over = tuple(range(-len(kernel), 0))
    total = _windows(x.astype(np.float64), kernel, stride, padding, ones, ceil_mode, 0.0).sum(over)
    if divisor_override is not None:
        return total / divisor_override
    inside = np.ones(x.shape)
    if count_include_pad:
        n = len(kernel)
        inside = np.pad(inside, (*((0, 0),) * (x.ndim - n), *padding), constant_values=1)
        counts = _windows(inside, kernel, stride, ((0, 0),) * n, ones, ceil_mode, 0.0).sum(over)
        counts = counts[tuple(slice(0, e) for e in total.shape)]
    else:
        counts = _windows(inside, kernel, stride, padding, ones, ceil_mode, 0.0).sum(over)
    return total / counts


def _adaptive(x: Array, output_size: Any, reduce: Callable[..., Array]) -> Array:
    n = len(output_size)
    out = np.empty((*x.shape[:-n], *output_size), x.dtype)
    for at in np.ndindex(*output_size):
        window = tuple(
            slice(i * e // m, -(-(i + 1) * e // m)) for i, e, m in zip(at, x.shape[-n:], output_size, strict=True)
        )
        out[(..., *at)] = reduce(x[(..., *window)], axis=tuple(range(-n, 0)))
    return out


@_kind("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
def _adaptive_avg(x: Array, output_size: Any) -> Array:
    return _adaptive(x, output_size, np.mean)


@_kind("adaptive_max_pool2d")
def _adaptive_max(x: Array, output_size: Any) -> Array:
    return _adaptive(x, output_size, np.max)


def _group_norm_plain(x: Array, groups: int, eps: float) -> Array:
    rows = x.reshape(x.shape[0], groups, -1).astype(np.float64)
    d = rows - rows.mean(2, keepdims=True)
    return (d / np.sqrt((d * d).mean(2, keepdims=True) + eps)).reshape(x.shape)


def _channelwise(y: Array, weight: Array | None, bias: Array | None) -> Array:
    shape = (1, -1, *(1,) * (y.ndim - 2))
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


@_kind("group_norm")
def _group_norm(x: Array, weight: Array | None, bias: Array | None, groups: int, eps: float) -> Array:
    return _channelwise(_group_norm_plain(x, groups, eps), weight, bias)


@_kind("instance_norm")
def _instance_norm(x: Array, weight: Array | None, bias: Array | None, eps: float) -> Array:
    return _channelwise(_group_norm_plain(x, x.shape[1], eps), weight, bias)


@_kind("batch_norm")
def _batch_norm(x: Array, weight: Array | None, bias: Array | None, mean: Array, var: Array, eps: float) -> Array:
    def channels(data: Array | None, default: float) -> Array:
        given = np.full(x.shape[1], default) if data is None else data.astype(np.float64)
        return given.reshape(-1, *(1,) * (x.ndim - 2))

    scaled = (x - channels(mean, 0)) / np.sqrt(channels(var, 1) + eps) * channels(weight, 1) + channels(bias, 0)
    return np.asarray(scaled.astype(x.dtype))


@_kind("layer_norm")
def _layer_norm(x: Array, weight: Array | None, bias: Array | None, axes: Any, eps: float) -> Array:
    wide = x.astype(np.float64)
    d = wide - wide.mean(tuple(axes), keepdims=True)
    y = d / np.sqrt(np.square(d).mean(tuple(axes), keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@_kind("rms_norm")
def _rms_norm(x: Array, weight: Array | None, axes: Any, eps: float) -> Array:
    wide = x.astype(np.float64)
    y = wide / np.sqrt(np.square(wide).mean(tuple(axes), keepdims=True) + eps)
    return y if weight is None else y * weight


@_kind("attention")
def _attention(q: Array, k: Array, v: Array, mask: Array | None, scale: float | None, causal: bool) -> Array:
    scores = np.matmul(q.astype(np.float64), k.astype(np.float64).swapaxes(-1, -2))
    scores = scores * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    return np.matmul(_softmax(scores, scores.ndim - 1), v.astype(np.float64))


@_kind("softmax")
def _softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@_kind("log_softmax")
def _log_softmax(x: Array, axis: int) -> Array:
    d = x - x.max(axis, keepdims=True)
    return d - np.log(np.exp(d).sum(axis, keepdims=True))


def _reducer(function: Callable[..., Any]) -> Callable[..., Array]:
    return lambda x, axes, keepdim: function(x, axis=tuple(axes), keepdims=keepdim)


_TABLE.update(
    {
        "sum": _reducer(np.sum),
        "mean": _reducer(np.mean),
        "prod": _reducer(np.prod),
        "amax": _reducer(np.max),
        "amin": _reducer(np.min),
        "all": _reducer(np.all),
        "any": _reducer(np.any),
    }
)


@_kind("logsumexp")
def _logsumexp(x: Array, axes: Any, keepdim: bool) -> Array:
    m = x.max(tuple(axes), keepdims=True)
    out = m + np.log(np.exp(x - m).sum(tuple(axes), keepdims=True))
    return out if keepdim else out.squeeze(tuple(axes))


@_kind("var")
def _var(x: Array, axes: Any, keepdim: bool, correction: int) -> Array:
    return np.var(x.astype(np.float64), axis=tuple(axes), keepdims=keepdim, ddof=correction)


@_kind("std")
def _std(x: Array, axes: Any, keepdim: bool, correction: int) -> Array:
    return np.sqrt(_var(x, axes, keepdim, correction))


@_kind("norm")
def _norm(x: Array, p: float, axes: Any, keepdim: bool) -> Array:
    power = np.abs(x.astype(np.float64)) ** p if np.isfinite(p) else np.abs(x)
    if not np.isfinite(p):
        return power.max(tuple(axes), keepdims=keepdim)
    return power.sum(tuple(axes), keepdims=keepdim) ** (1 / p)


def _first(x: Array, axis: int, keepdim: bool, largest: bool) -> Array:
    index = (np.argmax if largest else np.argmin)(x, axis=axis)
    return np.expand_dims(index, axis) if keepdim else index


@_kind("argmax")
def _argmax(x: Array, axis: int | None, keepdim: bool) -> Array:
    if axis is None:
        return np.argmax(x).reshape((1,) * x.ndim if keepdim else ())
    return _first(x, axis, keepdim, True)


@_kind("argmin")
def _argmin(x: Array, axis: int | None, keepdim: bool) -> Array:
    if axis is None:
        return np.argmin(x).reshape((1,) * x.ndim if keepdim else ())
    return _first(x, axis, keepdim, False)


@_kind("max_dim")
def _max_dim(x: Array, axis: int, keepdim: bool) -> list[Array]:
    return [x.max(axis, keepdims=keepdim), _first(x, axis, keepdim, True)]


@_kind("min_dim")
def _min_dim(x: Array, axis: int, keepdim: bool) -> list[Array]:
    return [x.min(axis, keepdims=keepdim), _first(x, axis, keepdim, False)]


@_kind("topk")
def _topk(x: Array, k: int, axis: int, largest: bool, sorted: bool) -> list[Array]:
    order = np.argsort(-x if largest else x, axis=axis, kind="stable")
    index = np.take(order, range(k), axis)
    return [np.take_along_axis(x, index, axis), index]


@_kind("sort")
def _sort(x: Array, axis: int, descending: bool) -> list[Array]:
    return _topk(x, x.shape[axis], axis, descending, True)


@_kind("reshape")
def _reshape(x: Array, shape: Any) -> Array:
    return x.reshape(shape)


@_kind("flatten")
def _flatten(x: Array, start: int, end: int) -> Array:
    return x.reshape(*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])


@_kind("permute")
def _permute(x: Array, dims: Any) -> Array:
    return x.transpose(dims)


@_kind("expand")
def _expand(x: Array, shape: Any) -> Array:
    return np.broadcast_to(x, shape)


@_kind("repeat")
def _repeat(x: Array, repeats: Any) -> Array:
    return np.tile(x, repeats)


def _box(x: Array, axes: Any, starts: Any, ends: Any, steps: Any) -> tuple[slice, ...]:
    at = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        at[axis] = slice(start, None if step < 0 and end < 0 else end, step)
    return tuple(at)


@_kind("slice")
def _slice(x: Array, axes: Any, starts: Any, ends: Any, steps: Any) -> Array:
    return x[_box(x, axes, starts, ends, steps)]


@_kind("slice_assign")
def _slice_assign(x: Array, src: Array, axes: Any, starts: Any, ends: Any, steps: Any) -> Array:
    out = x.copy()
    out[_box(x, axes, starts, ends, steps)] = src
    return out


@_kind("select")
def _select(x: Array, axis: int, index: int) -> Array:
    return np.take(x, index, axis)


@_kind("cat")
def _cat(*xs: Array, axis: int) -> Array:
    return np.concatenate(xs, axis)


@_kind("split")
def _split(x: Array, sizes: Any, axis: int) -> list[Array]:
    return np.split(x, list(accumulate(sizes))[:-1], axis)


@_kind("pad")
def _pad(x: Array, padding: Any, mode: str, value: float) -> Array:
    crop = tuple(slice(max(0, -p), e - max(0, -q)) for (p, q), e in zip(padding, x.shape, strict=True))
    grow = [(max(0, p), max(0, q)) for p, q in padding]
    if mode == "constant":
        return np.pad(x[crop], grow, constant_values=value)
    return np.pad(x[crop], grow, mode={"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])  # type: ignore[call-overload]


@_kind("gather")
def _gather(x: Array, index: Array, axis: int) -> Array:
    cut = tuple(slice(None) if d == axis else slice(n) for d, n in enumerate(index.shape))
    return np.take_along_axis(x[cut], index, axis)


@_kind("take")
def _take(x: Array, index: Array, axis: int) -> Array:
    return np.take(x, index, axis)


@_kind("index_select")
def _index_select(x: Array, index: Array, axis: int) -> Array:
    return np.take(x, index, axis)


@_kind("trunc_divide")
def _trunc_divide(x: Array, y: Array) -> Array:
    return (np.abs(x) // np.abs(y)) * (np.sign(x) * np.sign(y))


@_kind("squeeze")
def _squeeze(x: Array, axes: Any) -> Array:
    return np.squeeze(x, tuple(axes))


@_kind("unsqueeze")
def _unsqueeze(x: Array, axes: Any) -> Array:
    return np.expand_dims(x, tuple(axes))


@_kind("stack")
def _stack(*xs: Array, axis: int) -> Array:
    return np.stack(xs, axis)


@_kind("unbind")
def _unbind(x: Array, axis: int) -> list[Array]:
    return list(np.moveaxis(x, axis, 0))


@_kind("chunk")
def _chunk(x: Array, chunks: int, axis: int) -> list[Array]:
    each = -(-x.shape[axis] // chunks)
    return np.split(x, range(each, x.shape[axis], each), axis)


@_kind("roll")
def _roll(x: Array, shifts: Any, axes: Any) -> Array:
    return np.roll(x, tuple(shifts), tuple(axes))


@_kind("embedding")
def _embedding(weight: Array, index: Array) -> Array:
    return weight[index]


@_kind("flip")
def _flip(x: Array, axes: Any) -> Array:
    return np.flip(x, axes)


@_kind("pixel_unshuffle")
def _pixel_unshuffle(x: Array, factor: int, mode: str) -> Array:
    n, c, h, w = x.shape
    r = factor
    deep = x.reshape(n, c, h // r, r, w // r, r)
    order = (0, 1, 3, 5, 2, 4) if mode == "CRD" else (0, 3, 5, 1, 2, 4)
    return deep.transpose(order).reshape(n, c * r * r, h // r, w // r)


@_kind("pixel_shuffle")
def _pixel_shuffle(x: Array, factor: int, mode: str) -> Array:
    *lead, c, h, w = x.shape
    r, k, base = factor, len(lead), tuple(range(len(lead)))
    if mode == "CRD":
        deep = x.reshape(*lead, c // (r * r), r, r, h, w).transpose(*base, k, k + 3, k + 1, k + 4, k + 2)
    else:
        deep = x.reshape(*lead, r, r, c // (r * r), h, w).transpose(*base, k + 2, k + 3, k, k + 4, k + 1)
    return deep.reshape(*lead, c // (r * r), h * r, w * r)


def _sigmoid64(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _step(kind: str, attrs: Attrs, x: Array, h: Array, c: Array, cell: Sequence[Array]) -> tuple[Array, Array]:
    """One step with torch's weights (LSTM: i, f, g, o; GRU: r, z, n), as torch.nn.LSTM, GRU and RNN define it."""
    w, r, bw, br = cell
    parts = len(r) // len(r[0])
    seen, kept = np.split(x @ w.T + bw, parts, -1), np.split(h @ r.T + br, parts, -1)
    if kind == "lstm":
        i, f, g, o = (a + b for a, b in zip(seen, kept, strict=True))
        c = _sigmoid64(f) * c + _sigmoid64(i) * np.tanh(g)
        return _sigmoid64(o) * np.tanh(c), c
    if kind == "gru":
        reset, update = (_sigmoid64(seen[k] + kept[k]) for k in range(2))
        n = len(r[0])
        after = attrs.get("linear_before_reset", attrs["layout"] != "onnx")
        late = reset * kept[2] if after else (reset * h) @ r[2 * n :].T + br[2 * n :]
        new = np.tanh(seen[2] + late)
        return (1 - update) * new + update * h, c
    total = seen[0] + kept[0]
    return (np.maximum(total, 0) if attrs["activation"] == "relu" else np.tanh(total)), c


def _line(kind: str, attrs: Attrs, x: Array, h: Array, c: Array, cell: Sequence[Array], back: bool) -> list[Array]:
    """The states of one direction over (T, N, I), and the last h and c."""
    out = np.zeros((*x.shape[:2], h.shape[-1]))
    for t in range(len(x))[:: -1 if back else 1]:
        h, c = _step(kind, attrs, x[t], h, c, cell)
        out[t] = h
    return [out, h, c]


def _recurrent(kind: str, *inputs: Array | None, **attrs: Any) -> list[Array]:
    """Layers without projections, in torch's form and in ONNX's."""
    given = [None if v is None else v.astype(np.float64) for v in inputs]
    x, onnx, d = given[0], attrs["layout"] == "onnx", 2 if attrs["direction"] == "bidirectional" else 1
    assert x is not None
    first = attrs["time_axis"] if onnx else attrs["layout"] == "batch_first"
    x = x.swapaxes(0, 1) if first else x
    size = (d * attrs["layers"], x.shape[1], attrs["hidden"])
    cells: list[list[Array]] = []
    if onnx:
        w, r, bias, _, h, c = (*given[1:], *(None,) * 7)[:6]
        order = {"lstm": (0, 2, 3, 1), "gru": (1, 0, 2), "rnn": (0,)}[kind]
        assert w is not None and r is not None
        both = np.zeros((d, 2 * w.shape[1])) if bias is None else bias
        for k in range(d):
            four = (w[k], r[k], *np.split(both[k], 2))
            cells.append([np.concatenate([np.split(v, len(order))[j] for j in order]) for v in four])
        states = [np.zeros(size) if v is None else v.swapaxes(0, 1) if first else v for v in (h, c)]
    else:
        count = 2 if kind == "lstm" else 1
        weights, each = given[1:-count], 4 if attrs["biases"] else 2
        for k in range(size[0]):
            own = [v for v in weights[k * each : (k + 1) * each] if v is not None]
            cells.append([*own, *[np.zeros(len(own[0]))] * (4 - each)])
        states = [*(v for v in given[-count:] if v is not None), np.zeros(size)][:2]
    last: list[list[Array]] = [[], []]
    for layer in range(attrs["layers"]):
        parts = []
        for k in range(d):
            at = layer * d + k
            back = k == 1 or attrs["direction"] == "reverse"
            out, h_end, c_end = _line(kind, attrs, x, states[0][at], states[1][at], cells[at], back)
            parts.append(out)
            last[0].append(h_end)
            last[1].append(c_end)
        x = np.concatenate(parts, -1)
    ends = [np.stack(each) for each in last]
    if not onnx:
        return [x.swapaxes(0, 1) if first else x, *ends[: 2 if kind == "lstm" else 1]]
    y = np.stack(np.split(x, d, -1), 1)
    every = [y.transpose(2, 0, 1, 3), *(e.swapaxes(0, 1) for e in ends)] if first else [y, *ends]
    return [every[i] for i in attrs["outputs"]]


for _name in ("lstm", "gru", "rnn"):
    _TABLE[_name] = partial(_recurrent, _name)
