# SPDX-License-Identifier: Apache-2.0
"""Productions of torch: what moves elements, assigns to slices, resamples, or makes constants."""

from __future__ import annotations

import math

from .maker import Unfit, production
from .torch_maker import TORCH, TorchMaker


@production(TORCH, 3)
def reshape(m: TorchMaker) -> None:
    x = m.pick(lambda v: v.rank >= 1)
    number, shape = math.prod(x.shape), []
    for _ in range(m.rng.randint(0, 5)):
        shape.append(m.divisor(number))
        number //= shape[-1]
    shape.append(-1 if m.chance(0.4) else number)
    m.call(f"{{0}}.reshape({', '.join(map(str, shape))})", x)


@production(TORCH, 3)
def axes(m: TorchMaker) -> None:
    x = m.pick(lambda v: v.rank >= 2)
    order = list(range(x.rank))
    m.rng.shuffle(order)
    a, b = m.axis(x.rank), m.axis(x.rank)
    m.call(m.rng.choice((
        f"{{0}}.permute({', '.join(map(str, order))})", f"{{0}}.transpose({a}, {b})", f"{{0}}.unsqueeze({a})",
        "{0}.squeeze()", f"{{0}}.flatten({min(a % x.rank, b % x.rank)}, {max(a % x.rank, b % x.rank)})",
        f"{{0}}.movedim({a}, {b})",
    )), x)  # fmt: skip


@production(TORCH, 4)
def pieces(m: TorchMaker) -> None:
    x = m.pick(lambda v: v.rank >= 1 and max(v.shape) > 1)
    axis = m.rng.choice([i for i, n in enumerate(x.shape) if n > 1])
    n = x.shape[axis]
    dim = axis - x.rank if m.chance(0.4) else axis
    front = ":, " * axis
    low = m.rng.randrange(n)
    high = m.rng.randint(low + 1, n)
    kind = m.rng.randrange(8)
    if kind == 0:
        m.call(f"{{0}}[{front}{low}:{high}]", x)
    elif kind == 1:
        m.call(f"{{0}}[{front}{low}::{m.rng.choice((2, 3))}]", x)
    elif kind == 2:
        m.call(f"{{0}}[{front}{m.rng.randrange(-n, n)}]", x)
    elif kind == 3:
        first = m.rng.randint(1, n - 1)
        m.pool += m.calls(f"torch.split({{0}}, [{first}, {n - first}], dim={dim})", x, n=2)
    elif kind == 4:
        count = m.rng.choice((2, 3))
        whole = -(-n // -(-n // count))
        m.pool += m.calls(f"torch.chunk({{0}}, {count}, dim={dim})", x, n=whole)
    elif kind == 5 and n <= 6:
        parts = m.calls(f"torch.unbind({{0}}, dim={dim})", x, n=n)
        m.call("torch.stack([{0}, {1}], dim=0)", parts[0], parts[-1])
    elif kind == 6:
        m.call("{0}[..., ::2] if {0}.shape[-1] > 1 else {0}", x)
    else:
        m.call(f"torch.narrow({{0}}, {dim}, {low}, {high - low})", x)


@production(TORCH, 3)
def join(m: TorchMaker) -> None:
    x = m.real(1, 2, 3, 4)
    same = [v for v in m.pool if v.shape == x.shape and v.dtype == x.dtype]
    parts = [x, *(m.rng.choice(same) for _ in range(m.rng.randint(1, 2)))]
    names = ", ".join(f"{{{i}}}" for i in range(len(parts)))
    op = m.rng.choice(("cat", "cat", "stack"))
    m.call(f"torch.{op}([{names}], dim={m.axis(x.rank)})", *parts)


@production(TORCH, 3)
def move(m: TorchMaker) -> None:
    x = m.real(2, 3, 4)
    axis, shift = m.axis(x.rank), m.rng.choice((1, -1, 2))
    m.call(m.rng.choice((
        f"torch.flip({{0}}, [{axis}])", f"torch.roll({{0}}, {shift}, {axis})", "torch.roll({0}, (1, -1), (-1, -2))",
        f"torch.tril({{0}}, {shift})", f"torch.triu({{0}}, {shift})", f"torch.cumsum({{0}}, {axis})",
        f"torch.repeat_interleave({{0}}, 2, dim={axis})",
        f"{{0}}.repeat({', '.join(m.rng.choice('12') for _ in x.shape)})",
        f"{{0}}.unsqueeze(0).expand(2, {', '.join('-1' for _ in x.shape)})", "torch.rot90({0}, 1, [-2, -1])",
        "{0}.expand_as({0}) + torch.arange({0}.shape[-1]).float()", "{0} * torch.eye({0}.shape[-2], {0}.shape[-1])",
        "{0} + torch.linspace(-1, 1, {0}.shape[-1])", "torch.diagonal({0}, dim1=-2, dim2=-1)",
    )), x, scale=min(x.scale + 8, 4 * x.scale + 4))  # fmt: skip


@production(TORCH, 3)
def assign(m: TorchMaker) -> None:
    """Assignments to slices, rows and places, as the functional ops that captures make of them."""
    x = m.real(2, 3, 4)
    axis = m.rng.randrange(x.rank)
    n = x.shape[axis]
    low = m.rng.randrange(n)
    high = m.rng.randint(low + 1, n)
    places = [m.rng.randrange(n) for _ in range(2)]
    m.call(m.rng.choice((
        f"torch.slice_scatter({{0}}, {{0}}.narrow({axis}, {low}, {high - low}) * 2, {axis}, {low}, {high})",
        f"torch.select_scatter({{0}}, {{0}}.select({axis}, {low}) + 1, {axis}, {low})",
        f"torch.slice_scatter({{0}}, torch.zeros_like({{0}}.narrow({axis}, {low}, {n - low})[{':, ' * axis}::2]), "
        f"{axis}, {low}, {n}, 2)",
        f"torch.index_put({{0}}, (torch.tensor([{x.shape[0] - 1}]),), torch.tensor(0.5))",
        f"torch.index_fill({{0}}, {axis}, torch.tensor([{low}]), 0.25)",
        f"torch.index_select({{0}}, {axis}, torch.tensor({places}))",
        f"torch.gather({{0}}, {axis}, torch.full_like({{0}}, {low}).long())",
        f"torch.scatter({{0}}, {axis}, torch.full_like({{0}}.narrow({axis}, 0, 1), {low}).long(), 0.5)",
        f"{{0}}[{':, ' * axis}torch.tensor({places})]",
        f"{{0}}[:, torch.tensor([{x.shape[1] - 1}, 0])]",
        f"{{0}}[torch.tensor([0, {x.shape[0] - 1}]), torch.tensor([{x.shape[1] - 1}, 0])]",
    )), x, scale=2 * x.scale)  # fmt: skip


@production(TORCH, 2)
def pad(m: TorchMaker) -> None:
    x = m.real(3, 4)
    w = x.shape[-1]
    mode = m.rng.choice(("constant", "constant", "reflect", "replicate", "circular"))
    a, b = (m.rng.randint(0, min(2, w - 1)) for _ in range(2))
    pads = [a, b] if x.rank == 3 or mode == "constant" else [a, b, 0, min(1, x.shape[-2] - 1)]
    value = f", value={m.rng.choice((0.0, 1.5))}" if mode == "constant" else ""
    m.call(f"F.pad({{0}}, {pads}, mode='{mode}'{value})", x)


@production(TORCH, 3)
def resample(m: TorchMaker) -> None:
    x = m.image(4, least=2)
    sizes = tuple(m.rng.choice((1, 2, 2, 3)) * n if m.chance(0.6) else m.rng.randint(2, 9) for n in x.shape[2:])
    mode = m.rng.choice(("nearest", "nearest", "nearest-exact", "bilinear", "bicubic"))
    more = f", align_corners={m.chance(0.4)}" if mode.startswith("bi") else ""
    if more.endswith("False") and m.chance(0.2):
        more += ", antialias=True"
    m.call(f"F.interpolate({{0}}, size={sizes}, mode='{mode}'{more})", x, scale=2 * x.scale)


@production(TORCH, 2)
def image_blocks(m: TorchMaker) -> None:
    x = m.image(4, least=2)
    n, c, h, w = x.shape
    r = m.rng.choice((2, 3))
    m.call(m.rng.choice((
        f"F.pixel_shuffle({{0}}, {r})", f"F.pixel_unshuffle({{0}}, {r})", f"F.channel_shuffle({{0}}, {m.divisor(c)})",
        f"F.unfold({{0}}, (2, 2), stride={m.rng.choice((1, 2))}, padding={m.rng.choice((0, 1))})",
        "torch.cat([{0}[..., ::2, ::2], {0}[..., 1::2, ::2], {0}[..., ::2, 1::2], {0}[..., 1::2, 1::2]], 1)",
        f"{{0}}.view({n}, {c}, {h // 2 or 1}, 2, {w // 2 or 1}, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, {c})",
    )), x)  # fmt: skip


@production(TORCH, 1)
def sample_a_grid(m: TorchMaker) -> None:
    x = m.image(4, least=2)
    n = x.shape[0]
    mode, edges = (
        m.rng.choice(("bilinear", "bilinear", "nearest", "bicubic")),
        m.rng.choice(("zeros", "border", "reflection")),
    )
    corners = m.chance(0.5)
    if m.chance(0.4):
        size = (n, 1, 4, 5)
        theta = m.input((n, 2, 3), scale=0.6) if len(m.inputs) < 4 else m.const((n, 2, 3), low=-0.6, high=0.6)
        grid = m.call(f"F.affine_grid({{0}}, {size}, align_corners={corners})", theta)
    elif m.chance(0.5) and len(m.inputs) < 5:
        grid = m.input((n, 3, 4, 2), scale=1.2)
    else:
        grid = m.const((n, 3, 4, 2), low=-1.2, high=1.2)
    more = f"mode='{mode}', padding_mode='{edges}', align_corners={corners}"
    m.call(f"F.grid_sample({{0}}, {{1}}, {more})", x, grid, scale=2 * x.scale)


@production(TORCH, 1.5)
def table(m: TorchMaker) -> None:
    """Rows by an index that is fed or computed."""
    try:
        i = m.pick(lambda v: v.dtype in ("int64", "int32") and v.scale < 10 and v.rank <= 3)
    except Unfit:
        if len(m.inputs) > 4:
            raise
        i = m.input((m.rng.choice((1, 3)), 2), "int64", 9)
    at = m.call("({0} % 10).long()", i, scale=9.0)
    if m.chance(0.7):
        m.call("F.embedding({0}, {1})", at, m.const((10, m.rng.choice((2, 4)))), scale=1.0)
    else:
        m.call("F.one_hot({0}, 10)", at, scale=1.0)


@production(TORCH, 1)
def grid_of_a_head(m: TorchMaker) -> None:
    """The decoding of a detection head: a grid of arange and meshgrid, added to half of the channels."""
    x = m.image(4, (2, 4, 6))
    _n, _c, h, w = x.shape
    ys, xs = f"torch.arange({h})", f"torch.arange({w})"
    grid = f"torch.stack(torch.meshgrid({ys}, {xs}, indexing='ij'), 0).float()"
    y = m.call(f"{{0}}[:, :2] + {grid}", x, scale=x.scale + 12)
    m.call("torch.cat([{0} * 8, torch.exp({1}[:, :2].tanh())], 1)", y, x, scale=100.0)


def model_inputs(m: TorchMaker) -> None:
    """The first inputs: an image, and now and then a sequence or integers."""
    m.image(4) if m.chance(0.7) else m.real(m.rng.choice((2, 3, 5)))
    if m.chance(0.4):
        m.input([m.rng.choice((1, 2)), m.rng.choice((2, 3, 5)), m.rng.choice((4, 6, 8))])
    if m.chance(0.2):
        m.input([m.rng.choice((1, 3))], "int64", 9)
