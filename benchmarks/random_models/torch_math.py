# SPDX-License-Identifier: Apache-2.0
"""Productions of torch: element by element, comparisons, reductions, layers."""

from __future__ import annotations

from .maker import Unfit, production
from .program import Var
from .torch_maker import TORCH, TorchMaker

_PLAIN = [
    "torch.relu",
    "F.relu6",
    "torch.sigmoid",
    "torch.tanh",
    "F.silu",
    "F.hardswish",
    "F.hardsigmoid",
    "F.mish",
    "F.selu",
    "F.softsign",
    "F.logsigmoid",
    "torch.abs",
    "torch.neg",
    "torch.sign",
    "torch.floor",
    "torch.ceil",
    "torch.round",
    "torch.trunc",
    "torch.erf",
    "torch.square",
    "F.gelu",
    "F.elu",
    "F.celu",
    "F.softplus",
    "F.leaky_relu",
    "torch.clone",
    "F.hardtanh",
    "F.tanhshrink",
]
_WITH = (
    "F.gelu({0}, approximate='tanh')", "F.celu({0}, alpha=0.5)", "F.elu({0}, alpha=2.0)", "F.softplus({0}, beta=2.0)",
    "F.leaky_relu({0}, 0.2)", "F.threshold({0}, 0.5, -1.0)", "F.threshold({0}, 0.0, 0.0)",
    "torch.clamp({0}, -0.5, 1.5)",
    "torch.clamp({0}, min=0)", "torch.clamp({0}, max=1)", "{0} * 2 - 1", "1 - {0}", "{0} / 4", "{0} / 3", "{0} ** 2",
    "{0}.masked_fill({0} > 0.5, -1.0)", "torch.where({0} > 0, {0}, 0.1 * {0})", "torch.full_like({0}, 0.5) + {0}",
    "torch.isnan({0} / F.relu({0})).float()", "torch.isinf({0} / F.relu({0}))", "F.softshrink({0})",
    "F.hardshrink({0})",
    "{0}.new_zeros({0}.shape) - {0}", "torch.remainder({0}, 0.7)", "torch.fmod({0}, 0.7)", "F.glu({0}, dim=-1)",
    "torch.floor_divide({0}, 0.6)", "torch.addcmul({0}, {0}, {0}, value=0.5)", "torch.lerp({0}, {0} * 2, 0.3)",
    "torch.nan_to_num({0} / F.relu({0}), 0.0, 1.0, -1.0)", "torch.frac({0})", "F.prelu({0}, torch.full((1,), 0.3))",
)  # fmt: skip


@production(TORCH, 6)
def unary(m: TorchMaker) -> None:
    """One, or two in a row."""
    _unary(m, m.real())
    if m.chance(0.5):
        _unary(m, m.fresh[-1])


def _unary(m: TorchMaker, x: Var) -> None:
    if not x.floats:
        raise Unfit
    x = m.tame(x, 20.0)
    if m.chance(0.5):
        m.call(f"{m.rng.choice(_PLAIN)}({{0}})", x, scale=x.scale**2 if x.scale < 8 else None)
    else:
        m.call(m.rng.choice(_WITH), m.tame(x, 4.0), scale=2 * min(x.scale, 4.0) + 1)


@production(TORCH, 4)
def unary_of_a_domain(m: TorchMaker) -> None:
    x = m.real()
    near = ["exp", "expm1", "sin", "cos", "atan", "sinh", "cosh", "asinh", "exp2"]
    op = m.rng.choice(
        [
            *near,
            *["log", "log1p", "log2", "log10", "sqrt", "rsqrt", "reciprocal", "acosh", "asin", "acos", "atanh", "tan"],
        ]
    )
    if op in near:
        m.call(f"torch.{op}({{0}})", m.tame(x, 2.5), scale=12.0 if op not in ("sin", "cos", "atan") else 1.6)
    elif op in ("asin", "acos", "atanh", "tan"):
        m.call(f"torch.{op}({{0}})", m.tame(x, 0.9), scale=3.2)
    else:
        m.call(f"torch.{op}({{0}})", m.positive(x, 1.25 if op == "acosh" else 0.5), scale=max(2.0, x.scale))


def other(m: TorchMaker, x: Var) -> Var:
    same = [v for v in m.pool if v.dtype == x.dtype and v.shape == x.shape]
    return m.rng.choice(same) if same and m.chance(0.5) else m.const(m.broadcast(x.shape), x.dtype)


@production(TORCH, 5)
def binary(m: TorchMaker) -> None:
    x = m.tame(m.real(), 8.0)
    y = other(m, x)
    op = m.rng.choice(("{0} + {1}", "{0} - {1}", "{0} * {1}", "torch.maximum({0}, {1})", "torch.minimum({0}, {1})",
                       "torch.atan2({0}, {1})", "{0} / ({1}.abs() + 0.5)", "torch.add({0}, {1}, alpha=2)",
                       "torch.rsub({0}, {1})", "torch.remainder({0}, {1}.abs() + 0.5)", "torch.hypot({0}, {1})",
                       "torch.fmod({0}, {1}.abs() + 0.5)", "({0}.abs() + 0.5) ** {1}.tanh()"))  # fmt: skip
    m.call(op, x, y, scale=max(x.scale * y.scale, x.scale + 2 * y.scale))


@production(TORCH, 1.5)
def power(m: TorchMaker) -> None:
    x = m.real()
    if m.chance(0.5):
        m.call(f"{{0}} ** {m.rng.choice((2, 3, 4))}", m.tame(x, 2.0), scale=16.0)
    elif m.chance(0.3):
        m.call("torch.pow(2.0, {0})", m.tame(x, 3.0), scale=8.0)
    else:
        m.call(f"{{0}} ** {m.rng.choice((0.5, -0.5, -1, -2, 1.5))}", m.positive(x, 0.5), scale=x.scale + 4)


@production(TORCH, 3)
def compare(m: TorchMaker) -> None:
    x = m.real()
    y = other(m, x)
    op = m.rng.choice(("<", ">", "<=", ">=", "==", "!="))
    use = m.rng.choice(("{0} {op} {1}", "torch.where({0} {op} {1}, {0}, {1})", "({0} {op} {1}).float()",
                        "{0} * ({0} {op} {1})", "{0}.masked_fill({0} {op} {1}, 0.0)",
                        "torch.logical_not({0} {op} {1})", "(({0} {op} {1}) & ({0} > 0)).to(torch.int32)",
                        "({0} {op} {1}) | ({0} < 1)", "torch.logical_xor({0} {op} {1}, {0} > 0.3)"))  # fmt: skip
    m.call(use.replace("{op}", op), x, y, scale=max(x.scale, 1.0))


@production(TORCH, 2)
def mask(m: TorchMaker) -> None:
    x = m.pick(lambda v: v.dtype == "bool")
    axis = m.axis(x.rank)
    uses = ("{0}.all(%s)", "{0}.any(%s, keepdim=True)", "~{0}", "{0}.float()", "{0}.long()", "{0}.to(torch.int32)",
            "{0} & torch.roll({0}, 1, -1)", "{0}.sum(%s)", "{0}.all()")  # fmt: skip
    code = m.rng.choice(uses)
    m.call(code % axis if "%" in code else code, x, scale=8.0)


@production(TORCH, 2)
def integers(m: TorchMaker) -> None:
    try:
        x = m.pick(lambda v: v.dtype in ("int64", "int32") and v.scale < 1e4)
    except Unfit:
        if len(m.inputs) >= 4:
            raise
        x = m.input(
            [m.rng.choice((1, 2, 4, 5)) for _ in range(m.rng.randint(1, 3))], m.rng.choice(("int64", "int32")), 9
        )
    uses = ("{0} * 2 + 1", "{0} // 3", "{0} % 4", "-{0}", "{0}.abs()", "{0}.clamp(0, 5)", "{0}.float()", "{0} & 7",
            "torch.div({0}, 2, rounding_mode='trunc')", "torch.maximum({0}, {0} * -1)", "{0} > 2", "{0}.sum(-1)",
            "{0}.amax(-1)", "{0} - {0}.amin()", "{0}.to(torch.int32)", "torch.fmod({0}, 3)")  # fmt: skip
    m.call(m.rng.choice(uses), x, scale=3 * x.scale + 5)


# -- reductions ----------------------------------------------------------------------------------------


@production(TORCH, 4)
def reduce(m: TorchMaker) -> None:
    x = m.tame(m.real(1, 2, 3, 4, 5), 10.0)
    axes = tuple(m.some_axes(x.rank))
    keep = m.chance(0.5)
    op = m.rng.choice(["sum", "mean", "amax", "amin", "logsumexp", "var", "std", "var", "norm", "prod", "max", "min"])
    if op in ("prod", "max", "min"):
        x = m.tame(x, 1.5) if op == "prod" else x
        code = f"torch.{op}({{0}}, dim={axes[0]}, keepdim={keep})"
        if op == "prod":
            m.call(code, x, scale=4.0)
        else:
            outs = m.calls(code, x, n=2)
            m.pool.append(outs[0])
    elif op == "norm":
        power = m.rng.choice(("1", "2", "3", "float('inf')"))
        m.call(f"torch.linalg.vector_norm({{0}}, {power}, {axes}, {keep})", x)
    elif op in ("var", "std"):
        # With one element the unbiased one is 0 / 0.
        m.call(f"torch.{op}({{0}}, dim={axes}, correction={m.rng.choice((0, 0, 1))}, keepdim={keep})", x)
    else:
        m.call(f"torch.{op}({{0}}, dim={axes}, keepdim={keep})", x, scale=4 * x.scale if op == "sum" else None)


@production(TORCH, 2.5)
def order(m: TorchMaker) -> None:
    """Of values that are all different: which one of equal values comes first torch leaves open."""
    x = m.real(1, 2, 3, 4)
    if x not in m.inputs:
        x = m.call("{0} + {1}", x, m.const(x.shape), scale=x.scale + 1)
    axis = m.axis(x.rank)
    n = x.shape[axis]
    kind = m.rng.randrange(4)
    if kind == 0:
        m.call(
            f"torch.{m.rng.choice(('argmax', 'argmin'))}({{0}}, dim={axis}, keepdim={m.chance(0.5)})", x, scale=n - 1
        )
    elif kind == 1:
        outs = m.calls(f"torch.topk({{0}}, {m.rng.randint(1, min(n, 4))}, dim={axis}, largest={m.chance(0.7)})", x, n=2)
        m.pool.append(outs[0])
    elif kind == 2:
        outs = m.calls(f"torch.sort({{0}}, dim={axis}, descending={m.chance(0.5)})", x, n=2)
        m.pool.append(outs[0])
    else:
        m.call(f"torch.argmax({{0}}, dim={axis}).float()", x, scale=n)


# -- layers ------------------------------------------------------------------------------------------------


@production(TORCH, 5)
def conv(m: TorchMaker) -> None:
    rank = m.rng.choice((3, 4, 4, 4, 5))
    x = m.image(rank)
    c, n = x.shape[1], rank - 2
    groups = c if m.chance(0.2) else m.divisor(c) if m.chance(0.3) else 1
    out = groups * m.rng.choice((1, 2, 3))
    kernel, stride = [m.rng.choice((1, 2, 3, 3, 4)) for _ in range(n)], m.rng.choice((1, 1, 2, 3))
    padding = [m.rng.randint(0, k - 1) for k in kernel]
    dilation = m.rng.choice((1, 1, 1, 2))
    made = (f"nn.Conv{n}d({c}, {out}, {tuple(kernel)}, {stride}, {tuple(padding)}, {dilation}, {groups}, "
            f"{m.chance(0.6)})")  # fmt: skip
    y = m.module(made, x, x.scale + 1)
    if m.chance(0.4):
        y = m.module(f"nn.BatchNorm{n}d({out})", y, 4.0)
    if m.chance(0.5):
        m.call(f"F.{m.rng.choice(('relu', 'silu', 'hardswish', 'leaky_relu', 'gelu'))}({{0}})", y)


@production(TORCH, 1.2)
def transposed_conv(m: TorchMaker) -> None:
    rank = m.rng.choice((3, 4, 4, 5))
    x = m.image(rank, least=2)
    c, n = x.shape[1], rank - 2
    stride, groups = m.rng.choice((1, 2, 2, 3)), m.divisor(c) if m.chance(0.3) else 1
    kernel = stride if m.chance(0.4) else m.rng.choice((2, 3, 4))
    padding = 0 if m.chance(0.5) else m.rng.randint(0, kernel - 1)
    more = m.rng.randint(0, stride - 1) if m.chance(0.3) else 0
    m.module(
        f"nn.ConvTranspose{n}d({c}, {2 * groups}, {kernel}, {stride}, {padding}, {more}, {groups})", x, x.scale + 1
    )


@production(TORCH, 3)
def pool(m: TorchMaker) -> None:
    rank = m.rng.choice((3, 4, 4, 4, 5))
    x = m.image(rank)
    n = rank - 2
    kind = m.rng.randrange(4)
    kernel = m.rng.choice((2, 2, 3, 4))
    stride, padding = m.rng.choice((1, 2, 2, 3)), m.rng.randint(0, kernel // 2)
    ceil = m.chance(0.3)
    if kind == 0:
        m.call(f"F.max_pool{n}d({{0}}, {kernel}, {stride}, {padding}, ceil_mode={ceil})", x)
    elif kind == 1:
        more = f", divisor_override={m.rng.choice((3, 5))}" if n > 1 and m.chance(0.3) else ""
        m.call(
            f"F.avg_pool{n}d({{0}}, {kernel}, {stride}, {padding}, {ceil}, {m.chance(0.5)}{more})", x, scale=2 * x.scale
        )
    elif kind == 2:
        size = tuple(m.rng.choice((1, 1, 2, 3)) for _ in range(n))
        op = "max" if n == 2 and m.chance(0.3) else "avg"
        m.call(f"F.adaptive_{op}_pool{n}d({{0}}, {size if n > 1 else size[0]})", x)
    elif n == 2 and m.chance(0.4):
        m.call(f"F.max_pool2d({{0}}, {kernel}, {stride}, return_indices=True)[0]", x)
    elif n == 2:
        outs = m.calls(f"F.max_pool2d({{0}}, {kernel}, {stride}, return_indices=True)", x, n=2)
        m.pool.append(outs[0])


@production(TORCH, 3)
def norm(m: TorchMaker) -> None:
    kind = m.rng.randrange(6)
    if kind < 2:
        x = m.real(2, 3, 4, least=2)
        tail = x.shape[-m.rng.randint(1, min(2, x.rank - 1)) :]
        made = f"nn.LayerNorm({tail})" if kind == 0 else f"nn.RMSNorm({tail}, eps=1e-5)"
        m.module(made, x, 4.0)
        return
    if kind == 5:
        x = m.real(2, 3, 4)
        m.call(f"F.normalize({{0}}, p={m.rng.choice((1.0, 2.0))}, dim={m.axis(x.rank)})", x, scale=1.0)
        return
    x = m.image(m.rng.choice((3, 4, 4, 5)), least=2)
    c, n = x.shape[1], x.rank - 2
    if kind == 2:
        m.module(f"nn.GroupNorm({m.divisor(c)}, {c})", x, 4.0)
    elif kind == 3:
        m.module(f"nn.InstanceNorm{n}d({c}, affine={m.chance(0.6)})", x, 4.0)
    elif m.chance(0.5):
        m.module(f"nn.BatchNorm{n}d({c})", x, 4.0)
    else:
        m.call(f"F.local_response_norm({{0}}, {m.rng.choice((2, 3, 5))}, 0.1)", x)


@production(TORCH, 3)
def products(m: TorchMaker) -> None:
    x = m.tame(m.real(2, 3, 4), 6.0)
    inside = x.shape[-1]
    kind = m.rng.randrange(6)
    if kind <= 1:
        m.module(f"nn.Linear({inside}, {m.rng.choice((1, 3, 6))}, {m.chance(0.7)})", x, x.scale + 1)
    elif kind == 2:
        m.call("{0} @ {0}.transpose(-1, -2)", m.tame(x, 2.0), scale=2.0 * inside)
    elif kind == 3:
        m.call("{0} @ {1}", x, m.weight(*([inside] if m.chance(0.3) else [inside, 3]), fan=inside))
    elif kind == 4 and x.rank == 3:
        code = m.rng.choice(("bij,bkj->bik", "bij,bij->bi", "bij,bkj->bijk", "bij,bij->ij"))
        m.call(f"torch.einsum('{code}', {{0}}, {{0}})", m.tame(x, 2.0), scale=2.0 * inside)
    elif x.rank == 2:
        m.call("torch.addmm({1}, {0}, {2}, beta=0.5, alpha=2.0)", x, m.const((3,)), m.weight(inside, 3, fan=inside))


@production(TORCH, 2)
def attention(m: TorchMaker) -> None:
    x = m.real(3, least=2)
    n, t, c = x.shape
    heads = m.divisor(c)
    if heads > 12:
        raise Unfit
    if m.chance(0.2):
        m.module(f"nn.MultiheadAttention({c}, {heads}, batch_first=True)", x, 2.0, "{m}({0}, {0}, {0})[0]")
        return
    q, k, v = (
        m.call(f"{{0}}.view({n}, {t}, {heads}, {c // heads}).transpose(1, 2)", m.module(f"nn.Linear({c}, {c})", x, 2.0))
        for _ in range(3)
    )
    code = m.rng.choice((
        "F.scaled_dot_product_attention({0}, {1}, {2})",
        "F.scaled_dot_product_attention({0}, {1}, {2}, is_causal=True)",
        "F.scaled_dot_product_attention({0}, {1}, {2}, scale=0.3)",
        "torch.softmax({0} @ {1}.transpose(-2, -1) * 0.5, dim=-1) @ {2}",
    ))  # fmt: skip
    y = m.call(code, q, k, v)
    m.call(f"{{0}}.transpose(1, 2).reshape({n}, {t}, {c})", y)


@production(TORCH, 2)
def softmax(m: TorchMaker) -> None:
    x = m.real(1, 2, 3, 4)
    op = m.rng.choice(("softmax", "softmax", "log_softmax"))
    m.call(f"torch.{op}({{0}}, dim={m.axis(x.rank)})", x, scale=1.0 if op == "softmax" else 6.0)


@production(TORCH, 1)
def recurrent(m: TorchMaker) -> None:
    x = m.real(3)
    if x.shape[0] > 8 or x.shape[1] > 8:
        raise Unfit
    kind = m.rng.choice(("LSTM", "GRU", "RNN"))
    more = f"num_layers={m.rng.choice((1, 1, 2))}, bidirectional={m.chance(0.3)}, batch_first={m.chance(0.5)}"
    m.module(f"nn.{kind}({x.shape[2]}, {m.rng.choice((1, 2, 4))}, {more})", x, 1.0, "{m}({0})[0]")


@production(TORCH, 2)
def formulas(m: TorchMaker) -> None:
    """Activations and norms written out, which fusing rules put together again."""
    x = m.tame(m.real(2, 3, 4, least=2), 5.0)
    m.call(m.rng.choice((
        "{0} * torch.sigmoid({0})", "{0} / (1 + torch.exp(-{0}))", "{0} * F.relu6({0} + 3) / 6",
        "0.5 * {0} * (1 + torch.erf({0} / 2 ** 0.5))", "{0} * torch.tanh(F.softplus({0}))",
        "0.5 * {0} * (1 + torch.tanh(0.7978845608 * ({0} + 0.044715 * {0} ** 3)))", "torch.clamp({0} / 6 + 0.5, 0, 1)",
        "({0} - {0}.mean(-1, keepdim=True)) / torch.sqrt({0}.var(-1, unbiased=False, keepdim=True) + 1e-5)",
        "{0} * torch.rsqrt({0}.pow(2).mean(-1, keepdim=True) + 1e-5)", "{0} * F.hardsigmoid({0})",
        "torch.relu({0}) - torch.relu({0} - 6)",
    )), x, scale=5.0)  # fmt: skip
