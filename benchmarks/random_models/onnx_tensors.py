# SPDX-License-Identifier: Apache-2.0
"""Productions of ONNX: what moves elements, resamples them, or computes with shapes."""

from __future__ import annotations

import itertools
import math
from typing import Any

from .maker import Unfit, production
from .onnx_maker import ONNX, OnnxMaker
from .onnx_math import other


def _factors(m: OnnxMaker, number: int, rank: int) -> list[int]:
    """``rank`` extents with this product."""
    shape = []
    for _ in range(rank - 1):
        shape.append(m.divisor(number))
        number //= shape[-1]
    shape.append(number)
    m.rng.shuffle(shape)
    return shape


@production(ONNX, 3)
def reshape(m: OnnxMaker) -> None:
    x = m.pick(lambda v: v.dtype != "bool")
    shape = _factors(m, math.prod(x.shape), m.rng.randint(1, 6))
    if m.chance(0.4):
        shape[m.rng.randrange(len(shape))] = -1
    elif m.chance(0.3):
        shape = [0 if i < x.rank and x.shape[i] == n else n for i, n in enumerate(shape)]
    m.reshape(x, shape)


@production(ONNX, 1.5)
def reshape_by_shape(m: OnnxMaker) -> None:
    """The target is computed from the shape of a value, as exporters of dynamic batch write it."""
    x = m.real(3, 4, 5)
    whole = m.node("Shape", x)
    first = m.node("Gather", whole, m.values(0, "int64"), axis=0)
    head = m.squeeze("Unsqueeze", first, [0])
    rest = math.prod(x.shape[1:])
    if m.chance(0.5):
        second = m.slice(whole, [1], [2], [0])
        target = m.node("Concat", head, second, m.ints([-1]), axis=0)
        shape = [x.shape[0], x.shape[1], rest // x.shape[1]]
    else:
        target = m.node("Concat", head, m.ints([-1]), axis=0)
        shape = [x.shape[0], rest]
    m.fresh.clear()
    m.node("Reshape", x, target, shape=shape)


@production(ONNX, 3)
def transpose(m: OnnxMaker) -> None:
    x = m.pick(lambda v: v.rank >= 2)
    order = list(range(x.rank))
    m.rng.shuffle(order)
    m.node("Transpose", x, perm=order)


@production(ONNX, 2)
def squeeze_unsqueeze(m: OnnxMaker) -> None:
    if m.chance(0.5):
        x = m.pick(lambda v: v.rank <= 5)
        m.squeeze("Unsqueeze", x, [m.axis(x.rank + 1)])
    else:
        x = m.pick(lambda v: 1 in v.shape)
        axis = m.rng.choice([i for i, n in enumerate(x.shape) if n == 1])
        m.squeeze("Squeeze", x, [axis - x.rank if m.chance(0.4) else axis])


@production(ONNX, 1)
def flatten(m: OnnxMaker) -> None:
    x = m.real(2, 3, 4, 5)
    m.node("Flatten", x, axis=m.axis(x.rank))


@production(ONNX, 3)
def slice_(m: OnnxMaker) -> None:
    x = m.pick(lambda v: v.rank >= 1 and max(v.shape) > 1)
    axes = m.rng.sample(range(x.rank), m.rng.randint(1, min(2, x.rank)))
    starts, ends, steps = [], [], []
    for axis in axes:
        n = x.shape[axis]
        step = m.rng.choice((1, 1, 1, 2, 3, -1, -2))
        low = m.rng.randrange(n)
        high = m.rng.randint(low + 1, n)
        if step > 0:
            start, end = low, high if high < n or m.chance(0.5) else (1 << 31)
        else:
            start, end = high - 1, low - 1 if low else -(1 << 31)
        starts.append(start - n if m.chance(0.3) else start)
        ends.append(end)
        steps.append(step)
    m.slice(x, starts, ends, [a - x.rank if m.chance(0.3) else a for a in axes], steps if m.chance(0.8) else None)


@production(ONNX, 1)
def focus(m: OnnxMaker) -> None:
    """Every second row and column, four times, joined: the first layer of YOLOv5 and YOLOX, and a convolution."""
    x = m.image(4, (1, 3))
    h, w = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    if (h, w) != x.shape[2:]:
        x = m.slice(x, [0, 0], [h, w], [2, 3])
    parts = [m.slice(x, [i, j], [h, w], [2, 3], [2, 2]) for j, i in itertools.product(range(2), range(2))]
    c = 4 * x.shape[1]
    joined = m.node("Concat", *parts, axis=1)
    m.node("Conv", joined, m.weight(4, c, 3, 3, fan=9 * c, dtype=x.dtype), None, pads=[1, 1, 1, 1], scale=x.scale)


@production(ONNX, 3)
def concat(m: OnnxMaker) -> None:
    x = m.real(1, 2, 3, 4)
    axis = m.rng.randrange(x.rank)
    alike = x.dtype, x.shape[:axis], x.shape[axis + 1 :]
    same = [v for v in m.pool if v.rank == x.rank and (v.dtype, v.shape[:axis], v.shape[axis + 1 :]) == alike]
    parts = [m.rng.choice(same) for _ in range(m.rng.randint(1, 3))]
    if m.chance(0.2):
        parts.append(m.const(x.shape, x.dtype))
    m.node("Concat", x, *parts, axis=axis - x.rank if m.chance(0.4) else axis)


@production(ONNX, 1.5)
def split(m: OnnxMaker) -> None:
    x = m.pick(lambda v: v.rank >= 1 and max(v.shape) > 1)
    axis = m.rng.choice([i for i, n in enumerate(x.shape) if n > 1])
    n = x.shape[axis]
    first = n // 2 if n % 2 == 0 and m.chance(0.5) else m.rng.randint(1, n - 1)
    m.pool += m.split(x, [first, n - first], axis - x.rank if m.chance(0.4) else axis)


@production(ONNX, 2)
def pad(m: OnnxMaker) -> None:
    x = m.real(1, 2, 3, 4, 5)
    mode = m.rng.choice(("constant", "constant", "reflect", "edge", "wrap"))
    if mode == "wrap":
        m.needs(19)
    pads = [[0, 0] for _ in x.shape]
    for axis in m.rng.sample(range(x.rank), m.rng.randint(1, min(2, x.rank))):
        most = x.shape[axis] - 1 if mode in ("reflect", "wrap") else 2
        low = -1 if mode == "constant" and x.shape[axis] > 3 and m.chance(0.2) else 0
        pads[axis] = [m.rng.randint(low, max(min(2, most), low)), m.rng.randint(0, max(min(3, most), 0))]
    flat = [p[0] for p in pads] + [p[1] for p in pads]
    value = [m.values(m.rng.choice((0.0, 0.0, 1.5, -3.0)), x.dtype)] if mode == "constant" else []
    m.node("Pad", x, m.ints(flat), *value, mode=mode)


@production(ONNX, 1.5)
def expand_tile(m: OnnxMaker) -> None:
    x = m.pick(lambda v: v.rank <= 4 and math.prod(v.shape) <= 200)
    if m.chance(0.5) or not x.rank:
        shape = [m.rng.choice((2, 3)) if n == 1 and m.chance(0.7) else n for n in x.shape]
        m.node("Expand", x, m.ints([*([2] if m.chance(0.3) else []), *shape] or [3]))
    else:
        m.node("Tile", x, m.ints([m.rng.choice((1, 2, 3)) for _ in x.shape]))


@production(ONNX, 2.5)
def gather(m: OnnxMaker) -> None:
    """Rows by constant or computed indices, of any rank, some of them negative."""
    x = m.real(1, 2, 3, 4)
    axis = m.rng.randrange(x.rank)
    n = x.shape[axis]
    given = axis - x.rank if m.chance(0.3) else axis
    kind = m.rng.randrange(4)
    if kind == 0:
        m.node("Gather", x, m.values(m.rng.randrange(-n, n)), axis=given)
    elif kind == 1:
        index = [m.rng.randrange(-n, n) for _ in range(m.rng.choice((1, 2, 4)))]
        m.node("Gather", x, m.values(index, m.rng.choice(("int64", "int32"))), axis=given)
    elif kind == 2:
        shape = m.rng.choice(((2, 2), (1, 3)))
        m.node("Gather", x, m.values([m.rng.randrange(n) for _ in range(math.prod(shape))], "int64", shape), axis=given)
    else:
        m.node("Gather", x, m.input((m.rng.choice((1, 3)),), "int64", n - 1) if len(m.inputs) < 4 else
               m.pick(lambda v: v.dtype in ("int64", "int32") and v.scale < n), axis=given)  # fmt: skip


@production(ONNX, 1.5)
def gather_elements_nd(m: OnnxMaker) -> None:
    x = m.real(2, 3, 4)
    if m.chance(0.6):
        axis = m.rng.randrange(x.rank)
        shape = [m.rng.randint(1, n) for n in x.shape]
        constant = m.chance(0.7) or len(m.inputs) > 3
        n = x.shape[axis]
        if constant and m.chance(0.4):
            # One row repeated: what slices can do.
            row = [m.rng.randrange(n) for _ in range(shape[axis])]
            index = [row[p[axis]] for p in itertools.product(*map(range, shape))]
        else:
            index = [m.rng.randrange(-n, n) for _ in range(math.prod(shape))]
        where = m.values(index, "int64", shape) if constant else m.input(shape, "int64", n - 1)
        m.node("GatherElements", x, where, axis=axis)
    else:
        deep = m.rng.randint(1, x.rank)
        rows = [[m.rng.randrange(n) for n in x.shape[:deep]] for _ in range(3)]
        m.node("GatherND", x, m.values([i for row in rows for i in row], "int64", (3, deep)))


@production(ONNX, 1.5)
def scatter(m: OnnxMaker) -> None:
    """A box of constant indices (a slice assignment), and indices that are no box."""
    x = m.real(2, 3, 4, dtype="float32")
    kind = m.rng.randrange(3)
    if kind == 0:
        rows = m.rng.sample(range(x.shape[0]), m.rng.randint(1, min(2, x.shape[0])))
        src = m.const((len(rows), *x.shape[1:]))
        m.node("ScatterND", x, m.values(rows, "int64", (len(rows), 1)), src)
    elif kind == 1:
        box = [sorted(m.rng.sample(range(n + 1), 2)) for n in x.shape]
        shape = [b - a for a, b in box]
        index = [i for place in itertools.product(*(range(a, b) for a, b in box)) for i in place]
        m.node("ScatterND", x, m.values(index, "int64", (*shape, x.rank)), m.const(shape))
    else:
        axis = m.rng.randrange(x.rank)
        count = m.rng.randint(1, x.shape[axis])
        start = m.rng.randint(0, x.shape[axis] - count)
        shape = [count if i == axis else n for i, n in enumerate(x.shape)]
        index = [start + p[axis] for p in itertools.product(*map(range, shape))]
        m.node("ScatterElements", x, m.values(index, "int64", shape), m.const(shape), axis=axis)


@production(ONNX, 1.5)
def blocks(m: OnnxMaker) -> None:
    r = m.rng.choice((2, 2, 3))
    if m.chance(0.5):
        x = m.pick(lambda v: v.floats and v.rank == 4 and v.shape[1] % (r * r) == 0)
        m.node("DepthToSpace", x, blocksize=r, mode=m.rng.choice(("DCR", "CRD")))
    else:
        x = m.pick(lambda v: v.floats and v.rank == 4 and v.shape[2] % r == 0 and v.shape[3] % r == 0)
        m.node("SpaceToDepth", x, blocksize=r)


@production(ONNX, 1.5)
def six_axes(m: OnnxMaker) -> None:
    """Windows, pixel shuffle and channel shuffle by Reshape and Transpose, six axes between."""
    x = m.image(4)
    n, c, h, w = x.shape
    a, b, g = m.divisor(h), m.divisor(w), m.divisor(c)
    kind = m.rng.randrange(3)
    if kind == 0:
        apart = m.reshape(x, (n, c, h // a, a, w // b, b))
        order = m.rng.choice(([0, 2, 4, 3, 5, 1], [0, 1, 2, 4, 3, 5], [0, 3, 5, 1, 2, 4]))
        moved = m.node("Transpose", apart, perm=order)
        if m.chance(0.4):
            moved = m.node("Relu", moved)
        whole = [moved.shape[0], *moved.shape[1:]]
        m.reshape(moved, [math.prod(whole[:3]), math.prod(whole[3:5]), whole[5]])
    elif kind == 1:
        moved = m.node("Transpose", m.reshape(x, (n, g, c // g, h, w)), perm=[0, 2, 1, 3, 4])
        m.reshape(moved, (n, c, h, w))
    else:
        apart = m.reshape(x, (n, g, c // g, h, w, 1))
        m.reduce("ReduceSum", apart, [m.rng.randint(1, 4)], m.rng.randrange(2), scale=4 * x.scale)


@production(ONNX, 3)
def resize(m: OnnxMaker) -> None:
    x = m.image(m.rng.choice((3, 4, 4, 4)), least=2)
    if x.dtype != "float32":
        raise Unfit
    mode = m.rng.choice(("nearest", "nearest", "linear", "cubic"))
    if mode == "cubic" and x.rank != 4:
        raise Unfit
    ways = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": m.rng.choice(ways)}
    if mode == "nearest":
        near = ("floor", "round_prefer_floor", "round_prefer_ceil", "ceil")
        attrs["nearest_mode"] = m.rng.choice(near)
    if mode == "cubic":
        attrs["cubic_coeff_a"] = m.rng.choice((-0.75, -0.5))
    if mode != "nearest" and m.opset >= 18 and m.chance(0.2) and x.rank == 4:
        attrs |= {"antialias": 1, "coordinate_transformation_mode": "half_pixel"}
    whole = m.chance(0.5)
    ratios = [m.rng.choice((2.0, 3.0, 1.0) if whole else (0.5, 1.5, 2.0, 1.0, 0.7)) for _ in x.shape[2:]]
    sizes = [max(1, math.floor(n * r)) for n, r in zip(x.shape[2:], ratios, strict=True)]
    empty = m.values([], "float32")
    roi = empty if m.opset < 13 else None
    if m.chance(0.5):
        m.node("Resize", x, roi, m.values([1.0, 1.0, *ratios], "float32"), **attrs)
    else:
        target = m.ints([*x.shape[:2], *sizes])
        m.node("Resize", x, roi, empty if m.opset < 13 else None, target, **attrs)


@production(ONNX, 0.8)
def sample_a_grid(m: OnnxMaker) -> None:
    """Coordinates that are fed, constant, or of an affine transform."""
    m.needs(16)
    x = m.image(4, least=2)
    if x.dtype != "float32":
        raise Unfit
    n = x.shape[0]
    new = m.opset >= 20
    way = m.rng.choice(("linear", "nearest", "cubic") if new else ("bilinear", "nearest", "bicubic"))
    corners = int(m.chance(0.5))
    if new and m.chance(0.4):
        theta = m.input((n, 2, 3), scale=0.6) if len(m.inputs) < 4 else m.const((n, 2, 3), low=-0.6, high=0.6)
        grid = m.node("AffineGrid", theta, m.ints([n, 1, 4, 5]), align_corners=corners)
    elif m.chance(0.5) and len(m.inputs) < 5:
        grid = m.input((n, 3, 4, 2), scale=1.2)
    else:
        grid = m.const((n, 3, 4, 2), low=-1.2, high=1.2)
    edges = m.rng.choice(("zeros", "border", "reflection"))
    m.node("GridSample", x, grid, mode=way, padding_mode=edges, align_corners=corners, scale=2 * x.scale)


@production(ONNX, 1)
def one_hot(m: OnnxMaker) -> None:
    i = m.pick(lambda v: v.dtype == "int64" and v.scale < 12 and v.rank <= 3)
    m.node("OneHot", i, m.values(int(i.scale) + 1), m.values([0.0, 1.0], "float32"), axis=-1, scale=1.0)


@production(ONNX, 1)
def triangle(m: OnnxMaker) -> None:
    m.needs(14)
    m.node("Trilu", m.real(2, 3, 4, dtype="float32"), m.values(m.rng.choice((-1, 0, 1))), upper=m.rng.randrange(2))


@production(ONNX, 0.8)
def ranges(m: OnnxMaker) -> None:
    """A constant that the model computes: Range, ConstantOfShape, EyeLike, or the grid of a detection head."""
    x = m.real(2, 3, 4, dtype="float32")
    h, w = x.shape[-2:]
    kind = m.rng.randrange(3)
    if kind == 0:
        rows = m.node("Range", *(m.values(float(v), "float32") for v in (0, w, 1)), scale=float(w), shape=(w,))
    elif kind == 1:
        shape = m.slice(m.node("Shape", x), [-2], [1 << 31], [0])
        rows = m.node("ConstantOfShape", shape, shape=(h, w), scale=1.0)
    else:
        rows = m.node("EyeLike", m.const((h, w)), k=m.rng.choice((0, 1)), scale=1.0)
    m.node("Add", x, rows, scale=x.scale + rows.scale)


@production(ONNX, 1)
def shared_branches(m: OnnxMaker) -> None:
    """One value read by two layers of the same weight, and joined: a residual block."""
    x = m.image(4)
    c = x.shape[1]
    weight = m.weight(c, c, 1, 1, fan=c, dtype=x.dtype)
    once = m.node("Conv", x, weight, scale=x.scale)
    twice = m.node("Conv", m.node("Relu", once), weight, scale=x.scale)
    m.node("Add", twice, x, scale=2 * x.scale)


@production(ONNX, 0.8)
def half_precision(m: OnnxMaker) -> None:
    x = m.real(2, 3, 4, dtype="float32")
    half = m.node("Cast", m.tame(x, 4.0), to=10)
    y = m.node(m.rng.choice(("Relu", "Sigmoid", "Tanh", "Neg", "Abs")), half)
    y = m.node(m.rng.choice(("Add", "Mul", "Sub")), y, other(m, y), scale=16.0)
    if m.chance(0.6):
        m.node("Cast", y, to=1)


def model_inputs(m: OnnxMaker) -> None:
    """The first inputs: an image, and now and then a sequence, a vector, integers."""
    m.image(4) if m.chance(0.7) else m.real(m.rng.choice((2, 3, 5, 6)))
    if m.chance(0.4):
        m.input([m.rng.choice((1, 2)), m.rng.choice((2, 3, 5)), m.rng.choice((4, 6, 8))])
    if m.chance(0.25):
        m.input([m.rng.choice((1, 3, 4))], m.rng.choice(("int64", "int32")), 9)
