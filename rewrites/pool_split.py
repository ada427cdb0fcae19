# SPDX-License-Identifier: Apache-2.0
"""Large and global pools in stages of small windows."""

from __future__ import annotations

from math import prod
from typing import Any

from porter.ops import Op, Value
from porter.rewrite import Builder, rewrite

from ._tools import need, need_float, shape_of

_MAX = ("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d")
_AVG = ("avg_pool1d", "avg_pool2d", "avg_pool3d")
_ADAPTIVE = ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
#: The largest window of a stage.
_WINDOW = 7


def _factors(k: int) -> list[int] | None:
    """``k`` as a product of numbers up to the largest window, the largest first; None where a prime is above it."""
    found = []
    while k > 1:
        step = next((f for f in range(_WINDOW, 1, -1) if k % f == 0), None)
        if step is None:
            return None
        found.append(step)
        k //= step
    return found


def _tiles(op: Op) -> tuple[list[int], list[bool]]:
    """The window along each axis, of windows that lie side by side, and whether one window takes in the whole axis."""
    a, out = op.attrs, op.outputs[0]
    if "output_size" in a:
        n = len(a["output_size"])
        extents, counts = shape_of(op.operands[0])[-n:], shape_of(out)[-n:]
        need(all(e % m == 0 for e, m in zip(extents, counts, strict=True)), f"{counts} does not divide {extents}")
        kernel = [e // m for e, m in zip(extents, counts, strict=True)]
    else:
        kernel, n = list(a["kernel"]), len(a["kernel"])
        extents, counts = shape_of(op.operands[0])[-n:], shape_of(out)[-n:]
        need(not any(p for pair in a["padding"] for p in pair), "there is padding")
        need(set(a.get("dilation", (1,))) == {1}, f"the dilation is {tuple(a.get('dilation', ()))}")
        for k, s, m, e in zip(kernel, a["stride"], counts, extents, strict=True):
            need(k == s or m == 1, f"the window {k} and the stride {s} differ")
            need(k * m <= e, "ceil_mode adds a window")
    need(max(kernel) > _WINDOW, f"no window of {tuple(kernel)} is above {_WINDOW}")
    return kernel, [k == e for k, e in zip(kernel, extents, strict=True)]


def _stages(kernel: list[int], whole: list[bool]) -> tuple[list[tuple[int, ...]], list[int]]:
    """The windows of each stage, and by how much each axis is made longer at its end so that they fit."""
    lists, more = [], []
    for k, alone in zip(kernel, whole, strict=True):
        found, size = _factors(k), k
        if found is None:
            need(alone, f"a window of {k} has a prime factor above {_WINDOW}")
            longer = ((each, n) for n in range(k + 1, 2 * k + 1) if (each := _factors(n)) is not None)
            found, size = min(longer, key=lambda choice: (len(choice[0]), choice[1]))
        lists.append(found)
        more.append(size - k)
    count = max(map(len, lists))
    return [tuple(each[i] if i < len(each) else 1 for each in lists) for i in range(count)], more


def _longer(b: Builder, x: Value, more: list[int], mode: str) -> Value:
    if not any(more):
        return x
    lead = ((0, 0),) * (len(shape_of(x)) - len(more))
    out: Value = b.pad(x, padding=(*lead, *((0, m) for m in more)), mode=mode, value=0.0)
    return out


def _attrs(size: tuple[int, ...]) -> dict[str, Any]:
    return {"kernel": size, "stride": size, "padding": ((0, 0),) * len(size), "ceil_mode": False}


@rewrite(
    removes=(*_AVG, *_ADAPTIVE),
    yields=("pad", "mul", *_AVG),
    claim="bounded",
    error="1e-06 of the largest |x|",
)
def avg_pool_to_stages(b: Builder, op: Op) -> Any:
    """An average over large windows side by side, or over everything, becomes stages of windows of at most 7.

    Formula: the mean of k = k1 k2 elements is the mean of means over k1. An axis that one window takes in, of a length
    with a prime factor above 7, is filled up with zeros, and the result multiplied by the longer through the true
    length.
    Example: ``y = adaptive_avg_pool2d(x of 1x64x26x20, (1, 1))`` -> ``p = pad(x, 2 rows); y =
    mul(avg_pool2d(avg_pool2d(p, kernel=(7, 5)), kernel=(4, 4)), 28 / 26)``.
    Bound: 1e-06 of the largest |x| in float32 (sums are added in another order).
    Does not apply: to windows of at most 7, or that overlap, padding, a divisor of its own, or several windows with a
    prime factor above 7.
    """
    x, a = op.operands[0], op.attrs
    need_float(x)
    need(a.get("divisor_override") is None, "the divisor is not the size of the window")
    kernel, whole = _tiles(op)
    stages, more = _stages(kernel, whole)
    x = _longer(b, x, more, "constant")
    kind = f"avg_pool{len(kernel)}d"
    for size in stages:
        x = b.op(kind, (x,), **_attrs(size), count_include_pad=True, divisor_override=None)[0]
    grown = prod(k + m for k, m in zip(kernel, more, strict=True))
    return x if not any(more) else b.mul(x, grown / prod(kernel))


@rewrite(removes=_MAX, yields=("pad", "max_pool1d", "max_pool2d", "max_pool3d"), claim="exact")
def max_pool_to_stages(b: Builder, op: Op) -> Any:
    """A maximum of large windows side by side, or of everything, becomes stages of windows of at most 7.

    Formula: the maximum of k = k1 k2 elements is the maximum of maxima over k1. An axis that one window takes in, of a
    length with a prime factor above 7, is filled up with copies of its last element, which change no maximum.
    Example: ``y = adaptive_max_pool2d(x of 1x64x20x20, (1, 1))`` -> ``y = max_pool2d(max_pool2d(x, kernel=(5, 5)),
    kernel=(4, 4))``.
    Bound: bit-equal, infinities and NaN included.
    Does not apply: to windows of at most 7, or that overlap (max_pool_to_smaller_kernels), padding, a dilation, or
    several windows with a prime factor above 7.
    """
    kernel, whole = _tiles(op)
    stages, more = _stages(kernel, whole)
    x = _longer(b, op.operands[0], more, "replicate")
    for size in stages:
        x = b.op(f"max_pool{len(kernel)}d", (x,), **_attrs(size), dilation=(1,) * len(kernel))[0]
    return x
