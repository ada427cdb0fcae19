# SPDX-License-Identifier: Apache-2.0
"""Productions of ONNX: convolutions, pools, norms, matrix products, attention, recurrent layers, reductions."""

from __future__ import annotations

from typing import Any

from .maker import Unfit, production
from .onnx_maker import ONNX, OnnxMaker
from .program import Var

_LETTERS = "abcdefgh"


def _pads(m: OnnxMaker, kernel: list[int], most: int = 99) -> list[int]:
    """Begins, then ends: none, alike, or different ones, each less than the window."""
    kind = m.rng.choice(("none", "same", "same", "odd"))
    if kind == "none":
        return [0] * 2 * len(kernel)
    begin = [m.rng.randint(0, min(k - 1, most)) for k in kernel]
    end = begin if kind == "same" else [m.rng.randint(0, min(k - 1, most)) for k in kernel]
    return begin + end


@production(ONNX, 6)
def conv(m: OnnxMaker) -> None:
    rank = m.rng.choice((3, 4, 4, 4, 4, 5))
    x = m.image(rank)
    c = x.shape[1]
    depthwise = m.chance(0.2)
    groups = c if depthwise else m.divisor(c) if m.chance(0.3) else 1
    out = groups * m.rng.choice((1, 1, 2) if depthwise else (1, 2, 3, 4))
    large = m.chance(0.12)
    dilation = [1 if large or m.chance(0.7) else 2 for _ in range(rank - 2)]
    kernel = [
        m.rng.choice([k for k in ((1, 2, 3, 5, 7, 8, 9) if large else (1, 1, 2, 3, 3)) if (k - 1) * d < n])
        for n, d in zip(x.shape[2:], dilation, strict=True)
    ]
    fan = c // groups
    for k in kernel:
        fan *= k
    weight = m.weight(out, c // groups, *kernel, fan=fan, dtype=x.dtype)
    bias = m.const((out,), x.dtype) if m.chance(0.6) else None
    attrs: dict[str, Any] = {
        "dilations": dilation,
        "group": groups,
        "strides": [m.rng.choice((1, 1, 1, 2, 3)) for _ in kernel],
    }
    if m.chance(0.15) and max(dilation) == 1:
        attrs["auto_pad"] = m.rng.choice(("SAME_UPPER", "SAME_LOWER", "VALID"))
    else:
        attrs["pads"] = _pads(m, kernel)
    y = m.node("Conv", x, weight, bias, scale=x.scale + 1, **attrs)
    if m.chance(0.25):
        _batch_norm(m, y)
    if m.chance(0.4):
        m.node(m.rng.choice(("Relu", "LeakyRelu", "Sigmoid")), m.fresh[-1])


@production(ONNX, 0.6)
def wide_conv(m: OnnxMaker) -> None:
    """More channels than some accelerators take, on an image of a few elements."""
    many, few = m.rng.choice((520, 1030, 2060, 4100)), m.rng.choice((1, 3))
    c, out = (many, few) if m.chance(0.5) else (few, many)
    x = m.input((1, c, 1, m.rng.choice((1, 2))), scale=1.0) if len(m.inputs) < 5 else m.const((1, c, 1, 2))
    m.node("Conv", x, m.weight(out, c, 1, 1, fan=c), m.const((out,)) if m.chance(0.5) else None, scale=2.0)


@production(ONNX, 0.5)
def long_conv(m: OnnxMaker) -> None:
    """A kernel longer than some accelerators take, along one axis."""
    k = m.rng.choice((9, 15, 33))
    x = m.input((1, 2, k + 7)) if len(m.inputs) < 5 else m.const((1, 2, k + 7))
    m.node("Conv", x, m.weight(2, 2, k, fan=2 * k), pads=_pads(m, [k], 4), strides=[m.rng.choice((1, 2))], scale=2.0)


@production(ONNX, 1.2)
def transposed_conv(m: OnnxMaker) -> None:
    rank = m.rng.choice((3, 4, 4, 4, 5))
    x = m.image(rank, least=2)
    c = x.shape[1]
    groups = m.divisor(c) if m.chance(0.3) else 1
    out = m.rng.choice((1, 2, 3))
    strides = [m.rng.choice((1, 2, 2, 3)) for _ in range(rank - 2)]
    kernel = [s if m.chance(0.3) else m.rng.choice((1, 2, 3, 4)) for s in strides]
    attrs: dict[str, Any] = {"strides": strides, "group": groups, "pads": _pads(m, kernel)}
    if m.chance(0.25):
        attrs["output_padding"] = [m.rng.randint(0, s - 1) for s in strides]
    if m.chance(0.15):
        attrs["dilations"] = [2] * (rank - 2)
    bias = m.const((groups * out,), x.dtype) if m.chance(0.5) else None
    m.node("ConvTranspose", x, m.weight(c, out, *kernel, fan=c, dtype=x.dtype), bias, scale=x.scale + 1, **attrs)


@production(ONNX, 3)
def pool(m: OnnxMaker) -> None:
    rank = m.rng.choice((3, 4, 4, 4, 5))
    x = m.image(rank)
    largest = m.chance(0.5)
    kernel = [m.rng.choice([k for k in ((1, 2, 3, 3) if m.chance(0.8) else (4, 5, 6, 8)) if k <= n] or [n])
              for n in x.shape[2:]]  # fmt: skip
    attrs: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [m.rng.choice((1, 2, 2, 3)) for _ in kernel],
        "pads": _pads(m, kernel),
    }
    shape = None
    if m.chance(0.3):
        attrs["ceil_mode"] = 1
        shape = [*x.shape[:2], *map(_ceiled, x.shape[2:], kernel, attrs["strides"], *_halves(attrs["pads"]))]
    if largest:
        if not shape and m.chance(0.15) and max(k * 2 - 1 for k in kernel) <= min(x.shape[2:]):
            attrs["dilations"] = [2] * (rank - 2)
        if rank == 4 and m.chance(0.2):
            m.nodes("MaxPool", x, n=2, shape=shape, **attrs)
        else:
            m.node("MaxPool", x, shape=shape, **attrs)
    else:
        attrs["count_include_pad"] = int(m.chance(0.5))
        m.node("AveragePool", x, shape=shape, **attrs)


def _halves(pads: list[int]) -> tuple[list[int], list[int]]:
    return pads[: len(pads) // 2], pads[len(pads) // 2 :]


def _ceiled(n: int, kernel: int, stride: int, begin: int, end: int) -> int:
    """The extent of a pool with ceil_mode: a window that would start in the padding at the end is left out, and onnx's
    own inference counts it."""
    count = -(-(n + begin + end - kernel) // stride) + 1
    return count - 1 if (count - 1) * stride >= n + begin else count


@production(ONNX, 1)
def global_pool(m: OnnxMaker) -> None:
    m.node(m.rng.choice(("GlobalAveragePool", "GlobalMaxPool")), m.image(m.rng.choice((3, 4, 4, 5)), least=1))


def _batch_norm(m: OnnxMaker, x: Var) -> None:
    c = x.shape[1]
    parts = [m.const((c,), x.dtype, low, high) for low, high in ((0.5, 1.5), (-1, 1), (-1, 1), (0.5, 1.5))]
    m.node("BatchNormalization", x, *parts, epsilon=1e-5, scale=4.0)


@production(ONNX, 3)
def norm(m: OnnxMaker) -> None:
    op = m.rng.choice(("batch", "instance", "layer", "group", "lrn", "lp"))
    if op == "layer":
        m.needs(17)
        x = m.real(2, 3, 4, least=2, dtype="float32")
        axis = -m.rng.randint(1, x.rank - 1)
        tail = x.shape[axis:]
        # An absent bias is left out, not named "": onnxruntime 1.32 crashes on that when it fuses an Add before it.
        parts = [m.const(tail, low=0.5, high=1.5), *([m.const(tail)] if m.chance(0.7) else [])]
        m.node("LayerNormalization", x, *parts, axis=axis, scale=4.0)
    elif op == "lp":
        x = m.real(2, 3, 4, dtype="float32")
        m.node("LpNormalization", x, axis=m.axis(x.rank), p=m.rng.choice((1, 2)), scale=1.0)
    else:
        x = m.image(m.rng.choice((3, 4, 4, 5)) if op != "lrn" else 4, least=2)
        c = x.shape[1]
        if x.dtype != "float32":
            raise Unfit
        gain = m.const((c,), low=0.5, high=1.5)
        if op == "batch":
            _batch_norm(m, x)
        elif op == "instance":
            m.node("InstanceNormalization", x, gain, m.const((c,)), scale=4.0)
        elif op == "group":
            m.needs(21)
            m.node("GroupNormalization", x, gain, m.const((c,)), num_groups=m.divisor(c), scale=4.0)
        else:
            m.node("LRN", x, size=m.rng.choice((1, 3, 5)), alpha=0.1, beta=0.75, bias=1.0)


# -- products ------------------------------------------------------------------------------------------


@production(ONNX, 1.5)
def gemm(m: OnnxMaker) -> None:
    x = m.real(2, dtype="float32")
    rows, inside = x.shape
    across = m.chance(0.25)
    if across:
        rows, inside = inside, rows
    out = m.rng.choice((1, 2, 4, 7))
    trans = m.chance(0.6)
    weight = m.weight(*((out, inside) if trans else (inside, out)), fan=inside)
    shape = m.rng.choice(((out,), (1, out), (rows, out), (rows, 1), (1,)))
    bias = m.const(shape) if m.chance(0.7) else None
    attrs: dict[str, Any] = {"alpha": m.rng.choice((1.0, 1.0, 0.5)), "beta": m.rng.choice((1.0, 1.0, 2.0))}
    m.node("Gemm", x, weight, bias, transA=int(across), transB=int(trans), scale=x.scale + 2, **attrs)


@production(ONNX, 3)
def matmul(m: OnnxMaker) -> None:
    """With a constant, or with the transpose of itself or another value."""
    x = m.real(1, 2, 3, 4, 5, dtype="float32")
    inside = x.shape[-1]
    kind = m.rng.randrange(4)
    if kind == 0 and x.rank >= 2:
        order = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
        m.node("MatMul", m.tame(x, 3.0), m.node("Transpose", m.tame(x, 3.0), perm=order), scale=3.0 * inside)
        return
    if kind == 1:
        y = m.weight(inside, fan=inside)
    elif kind == 2 and x.rank > 2:
        lead = m.broadcast(x.shape[:-2])
        y = m.weight(*lead, inside, m.rng.choice((1, 3, 4)), fan=inside)
    else:
        y = m.weight(inside, m.rng.choice((1, 3, 4, 6)), fan=inside)
    out = m.node("MatMul", x, y, scale=x.scale)
    if m.chance(0.4) and out.rank:
        m.node("Add", out, m.const(out.shape[-1:]), scale=x.scale + 1)


@production(ONNX, 1.5)
def einsum(m: OnnxMaker) -> None:
    m.needs(12)
    x = m.tame(m.real(2, 3, 4, dtype="float32"), 3.0)
    own = _LETTERS[: x.rank]
    keep = [c for c in own if m.chance(0.6)] or [own[0]]
    shared = m.rng.sample(own, m.rng.randint(1, x.rank))
    extra = m.rng.choice(("", "x", "xy"))
    theirs = [*shared, *extra]
    m.rng.shuffle(theirs)
    extents = dict(zip(own, x.shape, strict=True)) | {"x": 3, "y": 2}
    fan = 1
    for c in own:
        fan *= 1 if c in keep else extents[c]
    y = m.weight(*(extents[c] for c in theirs), fan=fan)
    result = [*keep, *extra]
    if m.chance(0.5):
        m.rng.shuffle(result)
    m.node("Einsum", x, y, equation=f"{own},{''.join(theirs)}->{''.join(result)}", scale=x.scale)


@production(ONNX, 2)
def softmax(m: OnnxMaker) -> None:
    x = m.real(1, 2, 3, 4)
    logarithm = m.chance(0.35)
    m.node("LogSoftmax" if logarithm else "Softmax", x, axis=m.axis(x.rank), scale=6.0 if logarithm else 1.0)


# -- recurrent layers ------------------------------------------------------------------------------------


@production(ONNX, 1.3)
def recurrent(m: OnnxMaker) -> None:
    x = m.real(3, dtype="float32")
    steps, batch, width = x.shape
    if steps > 8:
        raise Unfit
    op, gates = m.rng.choice((("LSTM", 4), ("GRU", 3), ("RNN", 1)))
    direction = m.rng.choice(("forward", "forward", "reverse", "bidirectional"))
    ways = 2 if direction == "bidirectional" else 1
    hidden = m.rng.choice((1, 2, 4))
    parts: list[Var | None] = [
        m.weight(ways, gates * hidden, width, fan=width),
        m.weight(ways, gates * hidden, hidden, fan=hidden),
        m.const((ways, 2 * gates * hidden)) if m.chance(0.7) else None,
    ]
    if m.chance(0.3):
        parts += [None, m.const((ways, batch, hidden))]
    attrs: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    if op == "GRU":
        attrs["linear_before_reset"] = int(m.chance(0.5))
    if op == "RNN" and m.chance(0.3):
        attrs["activations"] = ["Relu"] * ways
    count = m.rng.choice((1, 2, 3 if op == "LSTM" else 2))
    outs = m.nodes(op, x, *parts, n=count, scale=3.0 if "activations" in attrs else 1.0, **attrs)
    if m.chance(0.5):
        m.reshape(m.node("Transpose", outs[0], perm=[0, 2, 1, 3]), (steps, batch, ways * hidden))


# -- reductions --------------------------------------------------------------------------------------------


@production(ONNX, 4)
def reduce(m: OnnxMaker) -> None:
    names = "Sum Mean Max Min Prod L1 L2 SumSquare LogSumExp LogSum"
    op = "Reduce" + m.rng.choice(names.split())
    x = m.real(1, 2, 3, 4, 5, dtype="float32")
    axes = m.some_axes(x.rank)
    keep = int(m.chance(0.5))
    if op in ("ReduceProd", "ReduceSumSquare", "ReduceLogSumExp"):
        x = m.tame(x, 1.2 if op == "ReduceProd" else 4.0)
    if op == "ReduceLogSum":
        x = m.positive(x, 0.1)
    m.reduce(op, x, axes, keep, scale=x.scale if op in ("ReduceMean", "ReduceMax", "ReduceMin") else 3 * x.scale)


@production(ONNX, 1.5)
def order(m: OnnxMaker) -> None:
    """Extremes and their places: ArgMax, ArgMin, TopK."""
    x = m.real(1, 2, 3, 4, dtype="float32")
    axis = m.axis(x.rank)
    n = x.shape[axis]
    if m.chance(0.5):
        m.node(m.rng.choice(("ArgMax", "ArgMin")), x, axis=axis, keepdims=int(m.chance(0.5)), scale=n - 1.0)
        return
    k = n if m.chance(0.25) else m.rng.randint(1, min(n, 5))
    values, places = m.nodes("TopK", x, m.ints([k]), n=2, axis=axis, largest=int(m.chance(0.7)))
    m.pool.append(values)
    if m.chance(0.3):
        m.node("GatherElements", x, places, axis=axis)


@production(ONNX, 1)
def cumulative_sum(m: OnnxMaker) -> None:
    x = m.real(1, 2, 3, 4, dtype="float32")
    n = x.shape[0]
    axis = m.axis(x.rank)
    attrs: dict[str, Any] = {"exclusive": int(m.chance(0.3)), "reverse": int(m.chance(0.3))}
    m.node("CumSum", x, m.values(axis, "int64"), scale=x.scale * min(n, 4), **attrs)
