# SPDX-License-Identifier: Apache-2.0
"""Productions of ONNX: element by element, comparisons, logic, integers, and formulas that fusing rules look for."""

from __future__ import annotations

from typing import Any

from .maker import Unfit, production
from .onnx_maker import ONNX, OnnxMaker
from .program import Var

_PLAIN = "Relu Sigmoid Tanh Abs Neg Sign Floor Ceil Round Erf Softsign Softplus Selu HardSigmoid Identity Dropout"
_SINCE = {"HardSwish": 14, "Mish": 18, "Gelu": 20}
_BOUNDED = "Relu Sigmoid Tanh Erf Softsign HardSigmoid Sign"


@production(ONNX, 6)
def unary(m: OnnxMaker) -> None:
    """One, or two in a row."""
    _unary(m, m.real())
    if m.chance(0.5):
        _unary(m, m.fresh[-1])


def _unary(m: OnnxMaker, x: Var) -> None:
    op = m.rng.choice([*_PLAIN.split(), "LeakyRelu", "Elu", "Celu", "ThresholdedRelu", *_SINCE])
    m.needs(max(_SINCE.get(op, 1), 12 if op == "Celu" else 1))
    if x.dtype == "float16" and op not in _BOUNDED.split():
        raise Unfit
    attrs: dict[str, Any] = {
        "LeakyRelu": {"alpha": m.rng.choice((0.01, 0.1, 0.25))},
        "Elu": {"alpha": m.rng.choice((0.5, 1.0))},
        "Celu": {"alpha": m.rng.choice((0.5, 1.0, 2.0))},
        "ThresholdedRelu": {"alpha": m.rng.choice((0.0, 0.5, 1.0))},
        "HardSigmoid": m.rng.choice(({}, {"alpha": 1 / 6, "beta": 0.5})),
        "Gelu": m.rng.choice(({}, {"approximate": "tanh"})),
    }.get(op, {})  # type: ignore[assignment]
    m.node(op, x, scale=1.0 if op in ("Sigmoid", "Tanh", "Erf", "Softsign", "HardSigmoid", "Sign") else None, **attrs)


@production(ONNX, 4)
def unary_of_a_domain(m: OnnxMaker) -> None:
    x = m.real(dtype="float32")
    op = m.rng.choice(
        [
            "Exp",
            "Log",
            "Sqrt",
            "Reciprocal",
            "Sin",
            "Cos",
            "Tan",
            "Asin",
            "Acos",
            "Atan",
            "Sinh",
            "Cosh",
            "Asinh",
            "Acosh",
            "Atanh",
        ]
    )
    if op in ("Log", "Sqrt", "Reciprocal"):
        m.node(op, m.positive(x, 0.5), scale=max(2.0, x.scale))
    elif op in ("Asin", "Acos", "Atanh", "Tan"):
        m.node(op, m.tame(x, 0.9), scale=3.2)
    elif op == "Acosh":
        m.node(op, m.positive(x, 1.25), scale=3.0)
    else:
        m.node(op, m.tame(x, 3.0), scale={"Exp": 20.0, "Sinh": 10.0, "Cosh": 10.0}.get(op, 2.0))


@production(ONNX, 6)
def binary(m: OnnxMaker) -> None:
    op = m.rng.choice(("Add", "Sub", "Mul", "Div", "Max", "Min", "Add", "Mul", "Sum", "Mean"))
    x = m.real()
    y = other(m, x)
    if op == "Div":
        y = m.positive(y, 0.5) if y.name not in m.constants else m.const(y.shape, x.dtype, 0.5, 2.0)
    if op == "Mul" and x.scale * y.scale > 50:
        x = m.tame(x, 2.0)
    inputs = [x, y] if m.chance(0.7) or op == "Div" else [y, x]
    if op in ("Max", "Min", "Sum", "Mean") and m.chance(0.4):
        inputs.append(other(m, x))
    if op in ("Sum", "Mean") and len(inputs) == 2 and m.chance(0.3):
        inputs.pop()
    scale = {"Add": x.scale + y.scale, "Sub": x.scale + y.scale, "Mul": x.scale * y.scale, "Div": 2 * x.scale,
             "Sum": x.scale + 2 * y.scale}.get(op)  # fmt: skip
    m.node(op, *inputs, scale=scale)


def other(m: OnnxMaker, x: Var) -> Var:
    """A second operand for ``x``: another value that broadcasts with it, or a constant."""
    fitting = [v for v in m.pool if v.dtype == x.dtype and _fits(v.shape, x.shape)]
    if fitting and m.chance(0.6):
        return m.rng.choice(fitting)
    if m.chance(0.3):
        return m.values(m.rng.choice((0.0, 0.5, 1.0, 2.0, -1.0, 0.3)), x.dtype)
    return m.const(m.broadcast(x.shape), x.dtype)


def _fits(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    size = 1
    rank = max(len(a), len(b))
    for p, q in zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True):
        if p != q and 1 not in (p, q):
            return False
        size *= max(p, q)
    return size <= 4000


@production(ONNX, 1.5)
def power(m: OnnxMaker) -> None:
    x = m.real(dtype="float32")
    exponent = m.rng.choice((2.0, 3.0, 4.0, 1.0, 0.5, -0.5, -1.0, -2.0, 1.7))
    if exponent not in (1.0, 2.0, 3.0, 4.0):
        x = m.positive(x, 0.5)
    else:
        x = m.tame(x, 3.0)
    if m.chance(0.2):
        m.node("Pow", m.values(m.rng.choice((2.0, 0.5, 3.0)), "float32"), m.tame(x, 3.0), scale=27.0)
    else:
        m.node("Pow", x, m.scalar(exponent, x), scale=max(4.0, x.scale ** abs(exponent)))


@production(ONNX, 1.5)
def clip(m: OnnxMaker) -> None:
    x = m.real()
    low, high = m.rng.choice(((0.0, 6.0), (0.0, None), (-1.0, 1.0), (None, 1.0), (0.0, 1.0), (-0.5, 2.0)))
    ends = [None if v is None else m.values(v, x.dtype) for v in (low, high)]
    m.node("Clip", x, *(ends if high is not None else ends[:1]))


@production(ONNX, 1)
def prelu(m: OnnxMaker) -> None:
    x = m.real(2, 3, 4)
    shape = (1,) if m.chance(0.3) else (x.shape[1], *(1,) * (x.rank - 2))
    m.node("PRelu", x, m.const(shape, x.dtype, 0.05, 0.9))


@production(ONNX, 1.5)
def remainder(m: OnnxMaker) -> None:
    """On floats (fmod) and integers, of both signs."""
    if m.chance(0.5):
        x = m.real(dtype="float32")
        m.node("Mod", x, m.const(m.broadcast(x.shape), "float32", 0.4, 1.7), fmod=1)
        return
    x = integer(m)
    by = m.const(m.broadcast(x.shape), x.dtype, 1, 7)
    m.node("Mod", x, by, fmod=int(m.chance(0.4)), scale=7.0)


# -- comparisons, logic ------------------------------------------------------------------------------


@production(ONNX, 3)
def compare(m: OnnxMaker) -> None:
    """And what reads it: a selection, a product, or logic later on."""
    op = m.rng.choice(("Less", "Greater", "Equal", "LessOrEqual", "GreaterOrEqual"))
    if op.endswith("OrEqual"):
        m.needs(12)
    x = integer(m) if m.chance(0.4) else m.real(dtype="float32")
    y = m.scalar(m.rng.choice((0, 1, 2)), x) if m.chance(0.4) else m.const(m.broadcast(x.shape), x.dtype, -2, 2)
    hit = m.node(op, x, y)
    use = m.rng.randrange(4)
    if use == 0:
        m.node("Where", hit, x, other(m, x)) if x.floats else m.node("Where", hit, x, y)
    elif use == 1:
        m.node("Cast", hit, to=1, scale=1.0)
    elif use == 2:
        m.node("Not", hit)


@production(ONNX, 1.5)
def logic(m: OnnxMaker) -> None:
    x = m.pick(lambda v: v.dtype == "bool")
    ys = [v for v in m.pool if v.dtype == "bool" and v.shape == x.shape]
    y = m.rng.choice(ys) if len(ys) > 1 else m.const(m.broadcast(x.shape), "bool")
    hit = m.node(m.rng.choice(("And", "Or", "Xor")), x, y)
    if m.chance(0.6):
        m.node("Cast", hit, to=m.rng.choice((1, 6, 7)), scale=1.0)


@production(ONNX, 1)
def where(m: OnnxMaker) -> None:
    """With a mask of another branch, or a constant one that changes along one axis."""
    x = m.real(1, 2, 3, 4)
    masks = [v for v in m.pool if v.dtype == "bool" and _fits(v.shape, x.shape)]
    if masks and m.chance(0.6):
        mask = m.rng.choice(masks)
    else:
        along = m.rng.randrange(x.rank)
        mask = m.const(tuple(n if i == along else 1 for i, n in enumerate(x.shape)), "bool")
    m.node("Where", mask, x, m.scalar(m.rng.choice((0.0, -1.0, -100.0)), x) if m.chance(0.5) else other(m, x))


@production(ONNX, 0.7)
def not_a_number(m: OnnxMaker) -> None:
    """Infinities and NaN made on purpose, found, and replaced."""
    x = m.real(dtype="float32")
    zero = m.node("Relu", x)
    odd = m.node("Div", zero, zero, scale=1.0)  # NaN where x is not positive
    if m.chance(0.5):
        odd = m.node("Div", x, zero, scale=1.0)  # infinite there
    found = m.node(m.rng.choice(("IsNaN", "IsInf")), odd)
    m.node("Where", m.node("IsNaN", odd) if m.chance(0.3) else found, m.values(0.5, "float32"), x)


# -- integers ------------------------------------------------------------------------------------------


def integer(m: OnnxMaker, most: float = 1e5) -> Var:
    """An integer value, a new input where there is none."""
    try:
        return m.pick(lambda v: v.dtype in ("int64", "int32") and v.scale <= most)
    except Unfit:
        if len(m.inputs) >= 5:
            raise
        shape = [m.rng.choice((1, 2, 3, 5)) for _ in range(m.rng.randint(1, 4))]
        return m.input(shape, m.rng.choice(("int64", "int32")), 20)


@production(ONNX, 2)
def integer_arithmetic(m: OnnxMaker) -> None:
    x = integer(m, 1000)
    op = m.rng.choice(("Add", "Sub", "Mul", "Div", "Neg", "Abs", "Max", "Min"))
    if op in ("Neg", "Abs"):
        m.node(op, x)
        return
    if op in ("Max", "Min"):
        m.needs(12)
    low = 1 if op == "Div" else -5
    y = m.const(m.broadcast(x.shape), x.dtype, low, 5)
    m.node(op, x, y, scale={"Mul": 5 * x.scale, "Add": x.scale + 5, "Sub": x.scale + 5}.get(op))


@production(ONNX, 0.7)
def bits(m: OnnxMaker) -> None:
    m.needs(18)
    x = integer(m)
    op = m.rng.choice(("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot"))
    rest = [] if op == "BitwiseNot" else [m.const(m.broadcast(x.shape), x.dtype, 0, 15)]
    m.node(op, x, *rest, scale=2 * x.scale + 16)


@production(ONNX, 2)
def cast(m: OnnxMaker) -> None:
    x = m.pick(lambda v: v.dtype in ("bool", "int64", "int32", "float32", "uint8"))
    to = m.rng.choice((1, 1, 6, 7, 9))
    if to == 9 and x.floats:
        x = m.node("Round", x)
    m.node("Cast", x, to=to, scale=1.0 if to == 9 else None)


@production(ONNX, 1.2)
def index_arithmetic(m: OnnxMaker) -> None:
    """An index that is computed with integers and read by Gather: what makes int64 hard to avoid."""
    x = m.real(2, 3, 4)
    axis = m.rng.randrange(x.rank)
    n = x.shape[axis]
    i = integer(m, 1000)
    if m.chance(0.5):
        i = m.node("Add", m.node("Mul", i, m.values(m.rng.randint(1, 3), i.dtype)), m.values(1, i.dtype))
    i = m.node("Mod", i, m.values(n, i.dtype), scale=n - 1.0)
    if m.chance(0.4):
        i = m.node("Cast", i, to=13 - onnx_number(i), scale=n - 1.0)
    m.node("Gather", x, i, axis=axis - x.rank if m.chance(0.3) else axis)


@production(ONNX, 1.2)
def arithmetic_of_known_range(m: OnnxMaker) -> None:
    """Integers that come from ArgMax, so that their range is known, up to what makes floats of them."""
    x = m.real(2, 3, 4, dtype="float32")
    axis = m.rng.randrange(x.rank)
    n = x.shape[axis]
    i = m.node("ArgMax", x, axis=axis, keepdims=int(m.chance(0.5)), scale=n - 1.0)
    for _ in range(m.rng.randint(0, 3)):
        op = m.rng.choice(("Add", "Sub", "Mul", "Mod", "Div", "Neg", "Abs"))
        rest = [] if op in ("Neg", "Abs") else [m.values(m.rng.randint(1, 5))]
        i = m.node(op, i, *rest, scale=5 * i.scale + 5)
    end = m.rng.randrange(3)
    if end == 0:
        m.node("Cast", i, to=1)
    elif end == 1:
        m.node("Equal", i, m.values(m.rng.randint(0, 3)))
    else:
        m.node("Gather", x, m.node("Mod", i, m.values(n), scale=n - 1.0), axis=axis)


def onnx_number(v: Var) -> int:
    return 7 if v.dtype == "int64" else 6


# -- formulas --------------------------------------------------------------------------------------------


@production(ONNX, 2.5)
def activation_by_parts(m: OnnxMaker) -> None:
    """SiLU, hard swish, GELU, Mish and hard sigmoid as exporters take them apart."""
    x = m.real(2, 3, 4, dtype="float32")

    def number(value: float) -> Var:
        return m.scalar(value, x)

    form = m.rng.randrange(7)
    if form == 0:
        gate = m.node("Sigmoid", x, scale=1.0)
        m.node("Mul", *((x, gate) if m.chance(0.5) else (gate, x)))
    elif form == 1:
        x = m.tame(x, 5.0)
        m.node("Div", x, m.node("Add", m.node("Exp", m.node("Neg", x), scale=100.0), number(1.0)), scale=x.scale)
    elif form == 2:
        three = m.node("Add", x, number(3.0))
        part = m.node("Clip", three, m.values(0.0, "float32"), m.values(6.0, "float32"), scale=6.0)
        if m.chance(0.5):
            m.node("Div", m.node("Mul", x, part), number(6.0), scale=x.scale)
        else:
            m.node("Mul", x, m.node("Div", part, number(6.0), scale=1.0))
    elif form == 3:
        inner = m.node("Erf", m.node("Div", x, number(2.0**0.5)), scale=1.0)
        whole = m.node("Mul", x, m.node("Add", inner, number(1.0)))
        m.node("Mul", whole, number(0.5))
    elif form == 4:
        x = m.tame(x, 3.0)
        cube = m.node("Pow", x, number(3.0), scale=27.0)
        inner = m.node("Add", x, m.node("Mul", cube, number(0.044715)))
        bent = m.node("Tanh", m.node("Mul", inner, number((2 / 3.141592653589793) ** 0.5)), scale=1.0)
        m.node("Mul", m.node("Mul", x, m.node("Add", bent, number(1.0))), number(0.5))
    elif form == 5:
        m.node("Mul", x, m.node("Tanh", m.node("Softplus", x), scale=1.0))
    else:
        line = m.node("Add", m.node("Mul", x, number(m.rng.choice((0.2, 1 / 6)))), number(0.5))
        m.node("Clip", line, m.values(0.0, "float32"), m.values(1.0, "float32"), scale=1.0)


@production(ONNX, 1.5)
def norm_by_parts(m: OnnxMaker) -> None:
    """Layer norm and RMS norm as exporters take them apart."""
    x = m.real(2, 3, 4, least=2, dtype="float32")
    centred = x
    rms = m.chance(0.4)
    if not rms:
        centred = m.node("Sub", x, m.reduce("ReduceMean", x, [-1], 1))
    two = m.values(2.0, "float32")
    square = m.node("Pow", centred, two) if m.chance(0.6) else m.node("Mul", centred, centred)
    spread = m.node("Add", m.reduce("ReduceMean", square, [-1], 1), m.values(1e-5, "float32"), scale=4.0)
    root = m.node("Sqrt", spread, scale=2.0)
    y = m.node("Div", centred, root, scale=2.0) if m.chance(0.6) else m.node(
        "Mul", centred, m.node("Reciprocal", root, scale=2.0), scale=2.0)  # fmt: skip
    y = m.node("Mul", y, m.const((x.shape[-1],), "float32", 0.5, 1.5), scale=3.0)
    if not rms:
        m.node("Add", y, m.const((x.shape[-1],), "float32"), scale=4.0)


@production(ONNX, 1.5)
def attention_by_parts(m: OnnxMaker) -> None:
    """softmax(q k' / sqrt(d)) v, the heads split off by Reshape and Transpose in half of the cases."""
    tokens = m.real(3, dtype="float32", least=2)
    n, t, c = tokens.shape
    heads = m.divisor(c)
    width = c // heads
    if heads > 12:
        raise Unfit
    parts = []
    for i in range(3):
        projected = m.node("MatMul", tokens, m.weight(c, c, fan=c), scale=2.0)
        apart = m.reshape(projected, (n, t, heads, width) if m.chance(0.7) else (0, 0, heads, -1))
        order = [0, 2, 3, 1] if i == 1 else [0, 2, 1, 3]
        parts.append(m.node("Transpose", apart, perm=order))
    q, k, v = parts
    scores = m.node("MatMul", q, k, scale=2.0 * width**0.5)
    scores = m.node("Mul", scores, m.values(width**-0.5, "float32"), scale=2.0)
    if m.chance(0.4):
        scores = m.node("Add", scores, m.const((t, t), "float32", -3.0, 0.0))
    mixed = m.node("MatMul", m.node("Softmax", scores, axis=3 if m.opset < 13 else -1, scale=1.0), v, scale=2.0)
    m.reshape(m.node("Transpose", mixed, perm=[0, 2, 1, 3]), (n, t, c))
