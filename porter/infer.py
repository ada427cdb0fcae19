# SPDX-License-Identifier: Apache-2.0
"""Shapes and dtypes of what an op gives, from its operands and attributes alone.

:func:`infer` follows torch where torch and ONNX differ: a scalar operand of the same or a lower category does
not promote, sums of integers are int64, integer true division gives float32.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from porter.ops import KINDS, Value

__all__ = ["DATA_DEPENDENT", "Spec", "broadcast_shapes", "infer", "promote"]

Shape = tuple[int, ...]
#: Shape and dtype of one output; None where unknown.
Spec = tuple[Shape | None, str | None]
Attrs = Mapping[str, Any]

_FLOATS = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
_SIGNED = {"int4": 0, "int8": 1, "int16": 2, "int32": 4, "int64": 8}
_UNSIGNED = {"uint4": 0, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8}


def _category(dtype: str) -> int:
    if dtype == "bool":
        return 0
    if dtype in _SIGNED or dtype in _UNSIGNED:
        return 1
    return 2 if dtype in _FLOATS or dtype.startswith("float") else 3


def promote(x: str | None, y: str | None, x_scalar: bool = False, y_scalar: bool = False) -> str | None:
    """The dtype of ``x + y``, by torch's rules; None when either is unknown.

    A scalar (rank 0) of a category (bool, integer, float, complex) not above the other's takes the other's
    dtype. Source: torch.result_type, "Type promotion" in the documentation of torch.Tensor attributes.
    """
    if x == y:
        return x
    if x is None or y is None:
        return None
    cx, cy = _category(x), _category(y)
    if x_scalar != y_scalar:
        if x_scalar and cx <= cy:
            return y
        if y_scalar and cy <= cx:
            return x
    if cx != cy:
        return x if cx > cy else y
    if cx == 2:
        sx, sy = _FLOATS.get(x, 1), _FLOATS.get(y, 1)
        return "float32" if sx == sy else (x if sx > sy else y)
    if cx == 1:
        if (x in _SIGNED) == (y in _SIGNED):
            size = _SIGNED if x in _SIGNED else _UNSIGNED
            return x if size[x] > size[y] else y
        signed, unsigned = (x, y) if x in _SIGNED else (y, x)
        need = max(_SIGNED[signed], 2 * _UNSIGNED[unsigned])
        return next((name for name, size in _SIGNED.items() if size == need), "float32")
    return "complex128"


def broadcast_shapes(*shapes: Shape) -> Shape:
    """The numpy broadcast of shapes. Raises ``ValueError`` when they do not broadcast."""
    first = shapes[0]
    if all(s == first for s in shapes):
        return first
    rank = max(len(s) for s in shapes)
    out = [1] * rank
    for shape in shapes:
        at = rank - len(shape)
        for i, n in enumerate(shape, at):
            if n != 1 and out[i] != n:
                if out[i] != 1:
                    raise ValueError("shapes " + " and ".join(map(str, shapes)) + " do not broadcast")
                out[i] = n
    return tuple(out)


# --- shapes: each function gets the shapes of the operands (None where an optional one is absent) ---


def _same(s: Sequence[Any], a: Attrs) -> list[Shape]:
    return [s[0]]


def _broadcast(s: Sequence[Any], a: Attrs) -> list[Shape]:
    return [s[0] if s[0] == s[1] else broadcast_shapes(*s)]


def _prelu(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, w = s
    if prod(w) != 1 and (len(x) < 2 or prod(w) != x[1]):
        raise ValueError(f"weight {w} is neither one value nor one for each channel of {x}")
    return [x]


def _masked_fill(s: Sequence[Any], a: Attrs) -> list[Shape]:
    if broadcast_shapes(*s) != s[0]:
        raise ValueError(f"mask {s[1]} does not broadcast to {s[0]}")
    return [s[0]]


def _linear(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, w, bias = s
    if len(w) != 2 or not x or x[-1] != w[1]:
        raise ValueError(f"input {x} does not fit weight {w}")
    if bias is not None and bias != (w[0],):
        raise ValueError(f"bias {bias} does not fit weight {w}")
    return [(*x[:-1], w[0])]


def _gemm(s: Sequence[Any], attrs: Attrs) -> list[Shape]:
    a, b, c = s
    if len(a) != 2 or len(b) != 2:
        raise ValueError(f"operands {a} and {b} must have rank 2")
    (m, k), (k2, n) = (a[::-1] if attrs["trans_a"] else a), (b[::-1] if attrs["trans_b"] else b)
    if k != k2:
        raise ValueError(f"inner extents {k} and {k2} differ")
    if c is not None and broadcast_shapes((m, n), c) != (m, n):
        raise ValueError(f"c {c} does not broadcast to {(m, n)}")
    return [(m, n)]


def _matmul(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, y = s
    if not x or not y:
        raise ValueError("operands must have rank 1 or more")
    left, right = ((1, *x) if len(x) == 1 else x), ((*y, 1) if len(y) == 1 else y)
    if left[-1] != right[-2]:
        raise ValueError(f"shapes {x} and {y} do not multiply")
    batch = broadcast_shapes(left[:-2], right[:-2])
    return [batch + (() if len(x) == 1 else (left[-2],)) + (() if len(y) == 1 else (right[-1],))]


def _einsum(s: Sequence[Any], a: Attrs) -> list[Shape]:
    equation = a["equation"].replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(s):
        raise ValueError(f"equation {equation!r} has {len(terms)} terms for {len(s)} operands")
    extent: dict[str, int] = {}
    dots: Shape = ()
    for term, shape in zip(terms, s, strict=True):
        head, ellipsis, tail = term.partition("...")
        if (len(shape) < len(head + tail)) if ellipsis else (len(shape) != len(head)):
            raise ValueError(f"term {term!r} does not fit shape {shape}")
        if ellipsis:
            dots = broadcast_shapes(dots, shape[len(head) : len(shape) - len(tail)])
        ends = (*zip(head, shape, strict=False), *zip(tail, shape[len(shape) - len(tail) :], strict=True))
        for letter, n in ends:
            if extent.setdefault(letter, n) != n:
                if extent[letter] != 1 and n != 1:
                    raise ValueError(f"index {letter!r} is both {extent[letter]} and {n}")
                extent[letter] = max(extent[letter], n)
    if not arrow:
        letters = left.replace(",", "").replace("...", "")
        once = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
        right = ("..." if "..." in left else "") + once
    head, ellipsis, tail = right.partition("...")
    if unknown := set(head + tail) - extent.keys():
        raise ValueError(f"equation {equation!r}: {', '.join(sorted(unknown))} is in no term")
    return [(*(extent[c] for c in head), *(dots if ellipsis else ()), *(extent[c] for c in tail))]


def _conv(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, w, bias = s
    groups = a["groups"]
    if len(x) != len(w):
        raise ValueError(f"input {x} and weight {w} differ in rank")
    if x[1] != w[1] * groups or w[0] % groups:
        raise ValueError(f"input {x} does not fit weight {w} with {groups} groups")
    if bias is not None and bias != (w[0],):
        raise ValueError(f"bias {bias} does not fit weight {w}")
    out = [
        (n + p[0] + p[1] - d * (k - 1) - 1) // st + 1
        for n, k, st, p, d in zip(x[2:], w[2:], a["stride"], a["padding"], a["dilation"], strict=True)
    ]
    if min(out, default=1) < 1:
        raise ValueError(f"the kernel of weight {w} is larger than the padded input {x}")
    return [(x[0], w[0], *out)]


def _conv_transpose(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, w, bias = s
    if len(x) != len(w) or x[1] != w[0] or w[0] % a["groups"]:
        raise ValueError(f"input {x} does not fit weight {w} with {a['groups']} groups")
    channels = w[1] * a["groups"]
    if bias is not None and bias != (channels,):
        raise ValueError(f"bias {bias} does not fit weight {w}")
    out = [
        (n - 1) * st - p[0] - p[1] + d * (k - 1) + more + 1
        for n, k, st, p, d, more in zip(
            x[2:], w[2:], a["stride"], a["padding"], a["dilation"], a["output_padding"], strict=True
        )
    ]
    if min(out, default=1) < 1:
        raise ValueError(f"padding {a['padding']} leaves nothing of input {x}")
    return [(x[0], channels, *out)]


def _pool(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, kernel = s[0], a["kernel"]
    spatial = len(kernel)
    if len(x) not in (spatial + 1, spatial + 2):
        raise ValueError(f"input {x} does not fit a kernel {kernel}")
    dilation = a.get("dilation") or (1,) * spatial
    out = []
    for n, k, st, p, d in zip(x[-spatial:], kernel, a["stride"], a["padding"], dilation, strict=True):
        span = n + p[0] + p[1] - d * (k - 1) - 1
        m = span // st + 1
        if a["ceil_mode"] and span % st and m * st < n + p[0]:
            m += 1
        if m < 1:
            raise ValueError(f"kernel {kernel} is larger than the padded input {x}")
        out.append(m)
    return [(*x[:-spatial], *out)]


def _pool_with_indices(s: Sequence[Any], a: Attrs) -> list[Shape]:
    return _pool(s, a) * 2


def _adaptive(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, size = s[0], tuple(a["output_size"])
    if len(x) not in (len(size) + 1, len(size) + 2):
        raise ValueError(f"input {x} does not fit output size {size}")
    return [x[: -len(size)] + size]


def _max_unpool(s: Sequence[Any], a: Attrs) -> list[Shape]:
    if s[0] != s[1]:
        raise ValueError(f"indices {s[1]} are not shaped as {s[0]}")
    return [s[0][:-2] + tuple(a["output_size"])]


def _channel_norm(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x = s[0]
    if len(x) < 2:
        raise ValueError(f"input {x} has no channel axis")
    if any(p is not None and p != (x[1],) for p in s[1:]):
        raise ValueError(f"parameters are not one for each of the {x[1]} channels")
    return [x]


def _group_norm(s: Sequence[Any], a: Attrs) -> list[Shape]:
    if len(s[0]) < 2 or s[0][1] % a["groups"]:
        raise ValueError(f"{a['groups']} groups do not divide the channels of {s[0]}")
    return _channel_norm(s, a)


def _trailing_norm(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, axes = s[0], tuple(a["axes"])
    if axes != tuple(range(len(x) - len(axes), len(x))) or not axes:
        raise ValueError(f"axes {axes} are not the trailing axes of {x}")
    tail = x[len(x) - len(axes) :]
    for p in s[1:]:
        if p is not None and broadcast_shapes(tail, p) != tail:
            raise ValueError(f"parameter {p} does not fit the axes {tail}")
    return [x]


def _axis(s: Sequence[Any], a: Attrs) -> list[Shape]:
    _check_axis(s[0], a["axis"])
    return [s[0]]


def _check_axis(x: Shape, axis: int) -> None:
    if not 0 <= axis < len(x):
        raise ValueError(f"axis {axis} is not one of the {len(x)} axes of {x}")


def _check_axes(x: Shape, axes: Sequence[int]) -> None:
    for axis in axes:
        if not 0 <= axis < len(x):
            raise ValueError(f"axis {axis} is not one of the {len(x)} axes of {x}")
    if len(set(axes)) != len(axes):
        raise ValueError(f"axes {tuple(axes)} name an axis twice")


def _reduced(x: Shape, axes: Sequence[int], keepdim: bool) -> Shape:
    if keepdim:
        return tuple(1 if i in axes else n for i, n in enumerate(x))
    return tuple(n for i, n in enumerate(x) if i not in axes)


def _reduce(s: Sequence[Any], a: Attrs) -> list[Shape]:
    _check_axes(s[0], a["axes"])
    return [_reduced(s[0], a["axes"], a["keepdim"])]


def _arg(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, axis = s[0], a["axis"]
    if axis is None:
        return [(1,) * len(x) if a["keepdim"] else ()]
    _check_axis(x, axis)
    return [_reduced(x, (axis,), a["keepdim"])]


def _arg_pair(s: Sequence[Any], a: Attrs) -> list[Shape]:
    return _arg(s, a) * 2


def _topk(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, axis, k = s[0], a["axis"], a["k"]
    _check_axis(x, axis)
    if k > x[axis]:
        raise ValueError(f"k {k} is more than the {x[axis]} elements of axis {axis}")
    return [(*x[:axis], k, *x[axis + 1 :])] * 2


def _sort(s: Sequence[Any], a: Attrs) -> list[Shape]:
    return _axis(s, a) * 2


def _reshape(s: Sequence[Any], a: Attrs) -> list[Shape]:
    shape = tuple(a["shape"])
    if prod(shape) != prod(s[0]) or any(n < 0 for n in shape):
        raise ValueError(f"{s[0]} does not have the elements of {shape}")
    return [shape]


def _flatten(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, start, end = s[0], a["start"], a["end"]
    if not x:
        return [(1,)]
    if not 0 <= start <= end < len(x):
        raise ValueError(f"axes {start} to {end} are not axes of {x}")
    return [(*x[:start], prod(x[start : end + 1]), *x[end + 1 :])]


def _squeeze(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, axes = s[0], a["axes"]
    _check_axes(x, axes)
    if any(x[i] != 1 for i in axes):
        raise ValueError(f"axes {tuple(axes)} of {x} are not all of extent 1")
    return [_reduced(x, axes, False)]


def _unsqueeze(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, axes = s[0], a["axes"]
    rank = len(x) + len(axes)
    _check_axes((1,) * rank, axes)
    rest = iter(x)
    return [tuple(1 if i in axes else next(rest) for i in range(rank))]


def _permute(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, dims = s[0], a["dims"]
    if sorted(dims) != list(range(len(x))):
        raise ValueError(f"dims {tuple(dims)} do not reorder the {len(x)} axes of {x}")
    return [tuple(x[d] for d in dims)]


def _expand(s: Sequence[Any], a: Attrs) -> list[Shape]:
    shape = tuple(a["shape"])
    if broadcast_shapes(s[0], shape) != shape:
        raise ValueError(f"{s[0]} does not broadcast to {shape}")
    return [shape]


def _repeat(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, repeats = s[0], a["repeats"]
    if len(repeats) < len(x):
        raise ValueError(f"repeats {tuple(repeats)} are fewer than the axes of {x}")
    x = (1,) * (len(repeats) - len(x)) + x
    return [tuple(n * r for n, r in zip(x, repeats, strict=True))]


def _box(x: Shape, a: Attrs) -> Shape:
    axes, starts, ends, steps = a["axes"], a["starts"], a["ends"], a["steps"]
    if not len(axes) == len(starts) == len(ends) == len(steps):
        raise ValueError("axes, starts, ends and steps differ in length")
    _check_axes(x, axes)
    out = list(x)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        n = x[axis]
        clamped = 0 <= start <= end <= n if step > 0 else -1 <= end <= n and -1 <= start < max(n, 1)
        if step == 0 or not clamped:
            raise ValueError(f"slice {start}:{end}:{step} is not clamped to the extent {n} of axis {axis}")
        out[axis] = len(range(start, end, step))
    return tuple(out)


def _slice(s: Sequence[Any], a: Attrs) -> list[Shape]:
    return [_box(s[0], a)]


def _slice_assign(s: Sequence[Any], a: Attrs) -> list[Shape]:
    box = _box(s[0], a)
    if broadcast_shapes(s[1], box) != box:
        raise ValueError(f"source {s[1]} does not broadcast to the box {box}")
    return [s[0]]


def _selected(x: Shape, a: Attrs) -> Shape:
    axis = a["axis"]
    _check_axis(x, axis)
    if not 0 <= a["index"] < x[axis]:
        raise ValueError(f"index {a['index']} is outside axis {axis} of {x}")
    return (*x[:axis], *x[axis + 1 :])


def _select(s: Sequence[Any], a: Attrs) -> list[Shape]:
    return [_selected(s[0], a)]


def _select_assign(s: Sequence[Any], a: Attrs) -> list[Shape]:
    box = _selected(s[0], a)
    if broadcast_shapes(s[1], box) != box:
        raise ValueError(f"source {s[1]} does not broadcast to {box}")
    return [s[0]]


def _cat(s: Sequence[Any], a: Attrs) -> list[Shape]:
    axis, first = a["axis"], s[0]
    _check_axis(first, axis)
    before, after = first[:axis], first[axis + 1 :]
    total = 0
    for x in s:
        if len(x) != len(first) or x[:axis] != before or x[axis + 1 :] != after:
            raise ValueError(f"{x} and {first} differ outside axis {axis}")
        total += x[axis]
    return [(*before, total, *after)]


def _stack(s: Sequence[Any], a: Attrs) -> list[Shape]:
    axis, first = a["axis"], s[0]
    if not 0 <= axis <= len(first):
        raise ValueError(f"axis {axis} is not an axis of the stack of {first}")
    if any(x != first for x in s):
        raise ValueError("shapes differ: " + ", ".join(map(str, s)))
    return [(*first[:axis], len(s), *first[axis:])]


def _pieces(x: Shape, axis: int, sizes: Sequence[int]) -> list[Shape]:
    return [(*x[:axis], n, *x[axis + 1 :]) for n in sizes]


def _split(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, axis, sizes = s[0], a["axis"], a["sizes"]
    _check_axis(x, axis)
    if sum(sizes) != x[axis]:
        raise ValueError(f"sizes {tuple(sizes)} do not add up to the extent {x[axis]} of axis {axis}")
    return _pieces(x, axis, sizes)


def _chunk(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, axis = s[0], a["axis"]
    _check_axis(x, axis)
    n = x[axis]
    each = max(-(-n // a["chunks"]), 1)
    count = max(-(-n // each), 1)
    return _pieces(x, axis, [each] * (count - 1) + [n - each * (count - 1)])


def _unbind(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, axis = s[0], a["axis"]
    _check_axis(x, axis)
    return [(*x[:axis], *x[axis + 1 :])] * x[axis]


def _pad(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, padding, mode = s[0], a["padding"], a["mode"]
    if len(padding) != len(x):
        raise ValueError(f"padding {tuple(padding)} does not have one pair for each axis of {x}")
    limit = {"reflect": -1, "circular": 0}.get(mode)
    for n, pair in zip(x, padding, strict=True):
        if n + min(pair[0], 0) + min(pair[1], 0) < 0 or n + pair[0] + pair[1] < 0:
            raise ValueError(f"padding {tuple(padding)} crops more than {x} has")
        if limit is not None and max(pair) > n + limit:
            raise ValueError(f"{mode} padding {tuple(padding)} is larger than {x} allows")
    return [tuple(n + p[0] + p[1] for n, p in zip(x, padding, strict=True))]


def _gather(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, index = s
    _check_axis(x, a["axis"])
    if len(x) != len(index) or any(index[d] > x[d] for d in range(len(x)) if d != a["axis"]):
        raise ValueError(f"index {index} does not fit {x}")
    return [index]


def _index_select(s: Sequence[Any], a: Attrs) -> list[Shape]:
    if len(s[1]) > 1:
        raise ValueError(f"index {s[1]} is not 1-D")
    return [_taken(s[0], s[1] or (1,), a["axis"])]


def _taken(x: Shape, index: Shape, axis: int) -> Shape:
    _check_axis(x, axis)
    return (*x[:axis], *index, *x[axis + 1 :])


def _take(s: Sequence[Any], a: Attrs) -> list[Shape]:
    return [_taken(s[0], s[1], a["axis"])]


def _embedding(s: Sequence[Any], a: Attrs) -> list[Shape]:
    if len(s[0]) != 2:
        raise ValueError(f"the table {s[0]} does not have rank 2")
    return [(*s[1], s[0][1])]


def _indexed(x: Shape, indices: Sequence[Shape], axes: Sequence[int]) -> Shape:
    _check_axes(x, axes)
    if len(indices) != len(axes):
        raise ValueError(f"{len(indices)} index tensors for the axes {tuple(axes)}")
    where = broadcast_shapes(*indices)
    order = sorted(axes)
    kept = [n for i, n in enumerate(x) if i not in axes]
    at = order[0] if order[-1] - order[0] == len(order) - 1 else 0
    return (*kept[:at], *where, *kept[at:])


def _index(s: Sequence[Any], a: Attrs) -> list[Shape]:
    return [_indexed(s[0], s[1:], a["axes"])]


def _index_put(s: Sequence[Any], a: Attrs) -> list[Shape]:
    box = _indexed(s[0], s[2:], a["axes"])
    if broadcast_shapes(s[1], box) != box:
        raise ValueError(f"values {s[1]} do not broadcast to {box}")
    return [s[0]]


def _gather_nd(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, index = s
    batch = a["batch_dims"]
    if not index or index[:batch] != x[:batch] or index[-1] + batch > len(x):
        raise ValueError(f"index {index} does not fit {x}")
    return [index[:-1] + x[batch + index[-1] :]]


def _scatter_nd(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, index, src = s
    if not index or index[-1] > len(x) or src != index[:-1] + x[index[-1] :]:
        raise ValueError(f"index {index} and source {src} do not fit {x}")
    return [x]


def _scatter(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, index, src = s
    _check_axis(x, a["axis"])
    if len(index) != len(x) or (src != () and any(i > n for i, n in zip(index, src, strict=True))):
        raise ValueError(f"index {index} and source {src} do not fit {x}")
    return [x]


def _one_hot(s: Sequence[Any], a: Attrs) -> list[Shape]:
    return [(*s[0], a["depth"])]


def _same_axes(s: Sequence[Any], a: Attrs) -> list[Shape]:
    for axis in a["axes"]:
        _check_axis(s[0], axis)
    return [s[0]]


def _matrix(s: Sequence[Any], a: Attrs) -> list[Shape]:
    if len(s[0]) < 2:
        raise ValueError(f"{s[0]} is not a matrix")
    return [s[0]]


def _resize(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, sizes = s[0], tuple(a["sizes"])
    if len(sizes) != len(x) - 2 or min(sizes, default=1) < 1:
        raise ValueError(f"sizes {sizes} do not fit the spatial axes of {x}")
    return [x[:2] + sizes]


def _pixel_shuffle(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, r = s[0], a["factor"]
    if len(x) < 3 or x[-3] % (r * r):
        raise ValueError(f"the channels of {x} are not a multiple of {r * r}")
    return [(*x[:-3], x[-3] // (r * r), x[-2] * r, x[-1] * r)]


def _pixel_unshuffle(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, r = s[0], a["factor"]
    if len(x) < 3 or x[-1] % r or x[-2] % r:
        raise ValueError(f"height and width of {x} are not multiples of {r}")
    return [(*x[:-3], x[-3] * r * r, x[-2] // r, x[-1] // r)]


def _channel_shuffle(s: Sequence[Any], a: Attrs) -> list[Shape]:
    if len(s[0]) < 2 or s[0][1] % a["groups"]:
        raise ValueError(f"{a['groups']} groups do not divide the channels of {s[0]}")
    return [s[0]]


def _grid_sample(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, grid = s
    if len(x) != len(grid) or grid[-1] != len(x) - 2 or x[0] != grid[0]:
        raise ValueError(f"grid {grid} does not fit {x}")
    return [x[:2] + grid[1:-1]]


def _affine_grid(s: Sequence[Any], a: Attrs) -> list[Shape]:
    theta, (n, _, *spatial) = s[0], a["size"]
    if theta != (n, len(spatial), len(spatial) + 1):
        raise ValueError(f"theta {theta} does not fit the size {tuple(a['size'])}")
    return [(n, *spatial, len(spatial))]


def _recurrent(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, hidden = s[0], a["hidden"]
    if len(x) != 3:
        raise ValueError(f"{x} is not a batch of sequences")
    d = 2 if a["direction"] == "bidirectional" else 1
    first = bool(a["time_axis"]) if a["layout"] == "onnx" else a["layout"] == "batch_first"
    n, t = x[:2] if first else x[1::-1]
    if a["layout"] == "onnx":
        y, state = ((n, t, d, hidden), (n, d, hidden)) if first else ((t, d, n, hidden), (d, n, hidden))
        return [(y, state, state)[i] for i in a["outputs"]]
    return [(n, t, d * hidden) if first else (t, n, d * hidden), (d * a["layers"], n, hidden)]


def _lstm(s: Sequence[Any], a: Attrs) -> list[Shape]:
    """Torch's last state of the cells is as wide as the first one; a projection leaves the other state narrower."""
    outs = _recurrent(s, a)
    return outs if a["layout"] == "onnx" else [*outs, s[-1]]


def _windows(size: Sequence[int], a: Attrs) -> int:
    return prod(
        (n + 2 * p - d * (k - 1) - 1) // st + 1
        for n, k, st, p, d in zip(size, a["kernel"], a["stride"], a["padding"], a["dilation"], strict=True)
    )


def _unfold(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x = s[0]
    if len(x) != 4:
        raise ValueError(f"{x} is not (N, C, H, W)")
    return [(x[0], x[1] * prod(a["kernel"]), _windows(x[2:], a))]


def _fold(s: Sequence[Any], a: Attrs) -> list[Shape]:
    x, size, window = s[0], tuple(a["output_size"]), prod(a["kernel"])
    if len(x) != 3 or x[1] % window or x[2] != _windows(size, a):
        raise ValueError(f"{x} does not fold to {size}")
    return [(x[0], x[1] // window, *size)]


def _roi_align(s: Sequence[Any], a: Attrs) -> list[Shape]:
    return [(s[1][0], s[0][1], *a["output_size"])]


def _arange(s: Sequence[Any], a: Attrs) -> list[Shape]:
    step = a["step"]
    if step == 0:
        raise ValueError("step is 0")
    return [(max(0, -int((a["start"] - a["end"]) // step)),)]


def _linspace(s: Sequence[Any], a: Attrs) -> list[Shape]:
    return [(a["steps"],)]


def _given(s: Sequence[Any], a: Attrs) -> list[Shape]:
    return [tuple(a["shape"])]


def _eye(s: Sequence[Any], a: Attrs) -> list[Shape]:
    return [(a["rows"], a["cols"])]


def _meshgrid(s: Sequence[Any], a: Attrs) -> list[Shape]:
    if any(len(x) > 1 for x in s):
        raise ValueError("inputs are not 1-D")
    shape = [prod(x) for x in s]
    if a["indexing"] == "xy" and len(shape) > 1:
        shape[:2] = shape[1::-1]
    return [tuple(shape)] * len(s)


def _shape(s: Sequence[Any], a: Attrs) -> list[Shape]:
    return [(len(s[0][a.get("start") : a.get("end")]),)]


def _size(s: Sequence[Any], a: Attrs) -> list[Shape]:
    return [()]


def _attention(s: Sequence[Any], a: Attrs) -> list[Shape]:
    q, k, v = s[:3]
    if min(len(q), len(k), len(v)) < 2 or q[-1] != k[-1] or k[-2] != v[-2]:
        raise ValueError(f"query {q}, key {k} and value {v} do not fit")
    scores = (*broadcast_shapes(q[:-2], k[:-2], v[:-2]), q[-2], k[-2])
    if s[3] is not None and broadcast_shapes(scores, s[3]) != scores:
        raise ValueError(f"mask {s[3]} does not broadcast to {scores}")
    return [(*scores[:-1], v[-1])]


# --- dtypes: one for each output ---


def _d_same(v: Sequence[Any], a: Attrs) -> list[str | None]:
    return [v[0].dtype]


def _d_pair(v: Sequence[Any], a: Attrs) -> list[str | None]:
    return [v[0].dtype, "int64"]


def _d_recurrent(v: Sequence[Any], a: Attrs) -> list[str | None]:
    return [v[0].dtype] * (len(a["outputs"]) if a["layout"] == "onnx" else 2)


def _d_lstm(v: Sequence[Any], a: Attrs) -> list[str | None]:
    return [v[0].dtype] * (len(a["outputs"]) if a["layout"] == "onnx" else 3)


def _d_float(v: Sequence[Any], a: Attrs) -> list[str | None]:
    d = v[0].dtype
    return ["float32"] if d is not None and _category(d) < 2 else [d]


def _d_bool(v: Sequence[Any], a: Attrs) -> list[str | None]:
    return ["bool"]


def _d_int64(v: Sequence[Any], a: Attrs) -> list[str | None]:
    return ["int64"]


def _d_attr(v: Sequence[Any], a: Attrs) -> list[str | None]:
    return [a["dtype"]]


def _d_promote(v: Sequence[Any], a: Attrs) -> list[str | None]:
    x, y = v
    if x.dtype == y.dtype:
        return [x.dtype]
    return [promote(x.dtype, y.dtype, x.shape == (), y.shape == ())]


def _d_div(v: Sequence[Any], a: Attrs) -> list[str | None]:
    d = _d_promote(v, a)[0]
    return ["float32"] if d is not None and _category(d) < 2 else [d]


def _d_where(v: Sequence[Any], a: Attrs) -> list[str | None]:
    return _d_promote(v[1:], a)


def _d_all(v: Sequence[Any], a: Attrs) -> list[str | None]:
    out, shape = v[0].dtype, v[0].shape
    for x in v[1:]:
        if x is not None and x.dtype != out:
            out = promote(out, x.dtype, shape == (), x.shape == ())
    return [out]


def _d_sum(v: Sequence[Any], a: Attrs) -> list[str | None]:
    d = v[0].dtype
    return ["int64"] if d is not None and _category(d) < 2 else [d]


def _d_second(v: Sequence[Any], a: Attrs) -> list[str | None]:
    return [v[1].dtype]


def _d_float32(v: Sequence[Any], a: Attrs) -> list[str | None]:
    return ["float32"]


def _d_each(v: Sequence[Any], a: Attrs) -> list[str | None]:
    return [x.dtype for x in v]


ShapeFn = Callable[[Sequence[Any], Attrs], list[Shape]]
DtypeFn = Callable[[Sequence[Any], Attrs], list[str | None]]


@dataclass(frozen=True, slots=True)
class _Entry:
    shapes: ShapeFn
    dtypes: DtypeFn
    operands: int
    required: tuple[int, ...]
    variadic: bool
    attrs: frozenset[str]
    optional: frozenset[str]


def _table() -> dict[str, _Entry]:
    table: dict[str, _Entry] = {}

    def add(kinds: str, shapes: ShapeFn, dtypes: DtypeFn = _d_same) -> None:
        for kind in kinds.split():
            declared = KINDS[kind]
            names = declared.inputs.split()
            named = re.findall(r"(\w+):(\S+)", declared.attrs)
            table[kind] = _Entry(
                shapes,
                dtypes,
                len(names),
                tuple(i for i, name in enumerate(names) if not name.endswith("?")),
                declared.inputs.endswith("*"),
                frozenset(name for name, kind in named if not kind.endswith("?")),
                frozenset(name for name, kind in named if kind.endswith("?")),
            )

    add("relu relu6 hardswish silu mish selu softsign logsigmoid abs neg sign square", _same)
    add("floor ceil round trunc", _same)
    add("sigmoid tanh exp expm1 log log1p log2 log10 sqrt rsqrt reciprocal", _same, _d_float)
    add("sin cos tan asin acos atan sinh cosh", _same, _d_float)
    add("asinh acosh atanh erf hardsigmoid elu celu gelu softplus leaky_relu", _same, _d_float)
    add("bitwise_not identity threshold clamp", _same)
    add("isnan isinf logical_not", _same, _d_bool)
    add("cast fill", _same, _d_attr)
    add("prelu", _prelu)
    add("add sub mul pow maximum minimum remainder fmod floor_divide trunc_divide", _broadcast, _d_promote)
    add("bitwise_and bitwise_or bitwise_xor", _broadcast, _d_promote)
    add("div atan2", _broadcast, _d_div)
    add("eq ne lt le gt ge logical_and logical_or logical_xor", _broadcast, _d_bool)
    add("where", lambda s, a: [broadcast_shapes(*s)], _d_where)
    add("masked_fill", _masked_fill)
    add("linear", _linear, _d_all)
    add("gemm", _gemm, _d_all)
    add("matmul", _matmul, _d_all)
    add("einsum", _einsum, _d_all)
    add("conv1d conv2d conv3d", _conv, _d_all)
    add("conv_transpose1d conv_transpose2d conv_transpose3d", _conv_transpose, _d_all)
    add("max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d", _pool)
    add("max_pool2d_with_indices", _pool_with_indices, _d_pair)
    add("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d adaptive_avg_pool3d", _adaptive)
    add("max_unpool2d", _max_unpool)
    add("batch_norm instance_norm", _channel_norm)
    add("layer_norm rms_norm", _trailing_norm)
    add("group_norm", _group_norm)
    add("lp_normalize softmax log_softmax", _axis, _d_float)
    add("local_response_norm", _same)
    add("sum prod", _reduce, _d_sum)
    add("mean logsumexp var std norm", _reduce, _d_float)
    add("amax amin", _reduce)
    add("all any", _reduce, _d_bool)
    add("argmax argmin", _arg, _d_int64)
    add("max_dim min_dim", _arg_pair, _d_pair)
    add("topk", _topk, _d_pair)
    add("sort", _sort, _d_pair)
    add("cumsum", _axis, _d_sum)
    add("reshape", _reshape)
    add("flatten", _flatten)
    add("squeeze", _squeeze)
    add("unsqueeze", _unsqueeze)
    add("permute", _permute)
    add("expand", _expand)
    add("repeat", _repeat)
    add("slice", _slice)
    add("select", _select)
    add("slice_assign", _slice_assign)
    add("select_assign", _select_assign)
    add("cat", _cat, _d_all)
    add("stack", _stack, _d_all)
    add("split", _split)
    add("chunk", _chunk)
    add("unbind", _unbind)
    add("pad", _pad)
    add("gather", _gather)
    add("index_select", _index_select)
    add("take", _take)
    add("embedding", _embedding)
    add("index", _index)
    add("index_put", _index_put)
    add("gather_nd", _gather_nd)
    add("scatter_nd", _scatter_nd)
    add("scatter", _scatter)
    add("one_hot", _one_hot, _d_int64)
    add("flip roll", _same_axes)
    add("tril triu", _matrix)
    add("resize", _resize)
    add("pixel_shuffle", _pixel_shuffle)
    add("pixel_unshuffle", _pixel_unshuffle)
    add("channel_shuffle", _channel_shuffle)
    add("affine_grid", _affine_grid)
    add("grid_sample", _grid_sample)
    add("unfold", _unfold)
    add("fold", _fold)
    add("roi_align", _roi_align)
    add("arange", _arange, _d_attr)
    add("linspace", _linspace, _d_attr)
    add("full random", _given, _d_attr)
    add("eye", _eye, _d_attr)
    add("meshgrid", _meshgrid, _d_each)
    add("shape", _shape, _d_int64)
    add("size", _size, _d_int64)
    add("gru rnn", _recurrent, _d_recurrent)
    add("lstm", _lstm, _d_lstm)
    add("attention", _attention)
    add("quantize", _same, _d_attr)
    add("dequantize", _same, _d_float32)
    return table


def _selected_count(mask: Value) -> int | None:
    """How many elements a 1-D mask selects, when it is a constant."""
    if mask.rank != 1:
        raise ValueError(f"index: a mask of {mask.rank} axes; one index tensor for each axis is wanted")
    return int(mask.numpy().sum()) if mask.is_const else None


_TABLE = _table()
#: Kinds whose result shape is data, by the dtype of their output.
DATA_DEPENDENT: dict[str, DtypeFn] = {"masked_select": _d_same, "nonzero": _d_int64, "nms": _d_int64}


def infer(kind: str, inputs: Sequence[Value | None], attrs: Attrs) -> list[Spec]:
    """Shape and dtype of each output of an op.

    An unknown operand shape gives an unknown shape (None); kinds whose shape is data (``nonzero``) always do.

    Raises:
        ValueError: the operands or attributes do not fit the kind, or the kind's result is not static
            (control flow, ``dynamic_*``, kinds outside the vocabulary).
    """
    entry = _TABLE.get(kind)
    if entry is None:
        if kind in DATA_DEPENDENT:
            return [(None, DATA_DEPENDENT[kind](inputs, attrs)[0])]
        raise ValueError(f"{kind}: the shape of its result cannot be inferred")
    count = len(inputs)
    if count != entry.operands and not (entry.variadic and count > entry.operands):
        raise ValueError(f"{kind}: takes {KINDS[kind].inputs or 'no operands'}; {count} given")
    if attrs.keys() != entry.attrs and attrs.keys() - entry.optional != entry.attrs:
        wrong = ", ".join(sorted((attrs.keys() - entry.optional) ^ entry.attrs))
        raise ValueError(f"{kind}: attributes are {', '.join(sorted(entry.attrs)) or 'none'}; check {wrong}")
    shapes: list[Shape | None] = []
    known = True
    for value in inputs:
        if value is None:
            shapes.append(None)
        else:
            shape = value.shape
            known = known and shape is not None
            shapes.append(shape)
    for i in entry.required:
        if inputs[i] is None:
            raise ValueError(f"{kind}: operand {KINDS[kind].inputs.split()[i]} is missing")
    dtypes = entry.dtypes(inputs, attrs)
    if kind in ("index", "index_put") and any(v is not None and v.dtype == "bool" for v in inputs[1:]):
        first = 1 if kind == "index" else 2
        for i, value in enumerate(inputs[first:], first):
            if value is not None and value.dtype == "bool":
                selected = _selected_count(value)
                known = known and (selected is not None or kind == "index_put")
                shapes[i] = (1 if selected is None else selected,)
    if known:
        try:
            outs = entry.shapes(shapes, attrs)
        except (ValueError, IndexError, TypeError) as error:
            raise ValueError(f"{kind}: {error}") from error
        if len(outs) != len(dtypes):
            dtypes = dtypes * len(outs)
        return [(o, d) for o, d in zip(outs, dtypes, strict=True)]
    count = len(dtypes)
    if kind == "split":
        count = len(attrs["sizes"])
    elif kind in ("chunk", "unbind"):
        raise ValueError(f"{kind}: the number of pieces needs a known shape")
    return [(None, dtypes[i if len(dtypes) == count else 0]) for i in range(count)]
