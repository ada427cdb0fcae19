# SPDX-License-Identifier: Apache-2.0
"""Every kind of the vocabulary, written as ONNX, computes what torch computes; and is read back as what it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porter.dialects.onnx import OnnxGraph
from porter.dialects.onnx_lower import LOWER
from porter.errors import PorterError
from porter.graph import Graph
from porter.ops import KINDS, Array, Op, Origin, Value
from porter.rewrite import Builder, Fragment

torch = pytest.importorskip("torch")
F = torch.nn.functional
RNG = np.random.default_rng(7)


class OpsGraph(Graph):
    """Ops and nothing else: what from_graph needs."""

    dialect = "ops"

    def __init__(self, inputs: list[Value], ops: list[Op], outputs: list[Value]) -> None:
        self.inputs, self._ops, self.outputs, self.source = inputs, ops, outputs, "test"

    def ops(self) -> list[Op]:
        return self._ops

    def replace(self, replacements: Iterable[tuple[Op, Fragment]]) -> None:
        raise NotImplementedError

    def evaluate(self, values: Sequence[Value], limit: int) -> dict[str, Array]:
        raise NotImplementedError

    def run(
        self, inputs: Sequence[Array] | Mapping[str, Array], taps: Sequence[str] = (), *, fast: bool = False
    ) -> list[Array]:
        raise NotImplementedError

    def apply(self, op: Op, operands: Sequence[Array | None]) -> list[Array]:
        raise NotImplementedError

    def copy(self) -> Graph:
        raise NotImplementedError

    def with_outputs(self, names: Sequence[str]) -> Graph:
        raise NotImplementedError

    def part(self, inputs: Sequence[str], outputs: Sequence[str]) -> Graph:
        raise NotImplementedError

    def with_constants(self, data: Mapping[str, Array]) -> Graph:
        raise NotImplementedError

    def save(self, path: Path, ledger: Mapping[str, Any] | None = None) -> None:
        raise NotImplementedError

    def producer(self, value: Value) -> Op | None:
        return None


def rand(*shape: int, dtype: str = "float32", low: float = -2, high: float = 2) -> Array:
    if dtype == "bool":
        return RNG.random(shape) < 0.5
    if "int" in dtype:
        return RNG.integers(int(low), int(high) + 1, shape).astype(dtype)
    return RNG.uniform(low, high, shape).astype(dtype)


class Const:
    """An operand that is a constant."""

    def __init__(self, data: Array) -> None:
        self.data = np.asarray(data)


def one_op(kind: str, operands: Sequence[Any], attrs: dict[str, Any], opset: int) -> tuple[OnnxGraph, list[Array], Op]:
    graph = OpsGraph([], [], [])
    build = Builder(graph, Origin(file="m.py", line=3), "y", "test")
    values: list[Value | None] = []
    feeds = []
    for i, data in enumerate(operands):
        if data is None:
            values.append(None)
        elif isinstance(data, Const):
            values.append(Value.constant(f"w{i}", data.data))
        else:
            data = np.asarray(data)
            values.append(Value(f"x{i}", data.shape, str(data.dtype)))
            graph.inputs.append(values[-1])
            feeds.append(data)
    graph.outputs = list(build.op(kind, values, **attrs))
    graph._ops = build.ops
    return OnnxGraph.from_graph(graph, opset), feeds, build.ops[0]


def t(a: Any) -> Any:
    return torch.from_numpy(np.array(a.data if isinstance(a, Const) else a))


def T(function: Callable[..., Any]) -> Callable[..., list[Array]]:
    """A torch function as the expected result."""

    def expected(*operands: Any) -> list[Array]:
        found = function(*(None if a is None else t(a) for a in operands))
        return [o.numpy() for o in (found if isinstance(found, (tuple, list)) else [found])]

    return expected


X = rand(2, 4, 6, 5)
P = rand(2, 4, 6, 5, low=0.1, high=3)  # positive
U = rand(2, 4, 6, 5, low=-0.95, high=0.95)
I8 = rand(3, 4, dtype="int64", low=-9, high=9)
J8 = np.where(rand(3, 4, dtype="int64", low=-3, high=3) == 0, 4, rand(3, 4, dtype="int64", low=1, high=3))
B, C = rand(3, 4, dtype="bool"), rand(3, 4, dtype="bool")
R3 = rand(2, 3, 5)
Conv = {"stride": (2, 1), "padding": ((1, 1), (2, 2)), "dilation": (1, 2), "groups": 2}
HW = {"kernel": (3, 2), "stride": (2, 2), "padding": ((1, 1), (0, 0))}

Case = tuple[str, list[Any], dict[str, Any], Callable[..., list[Array]]]


def unary_cases() -> list[Case]:
    same = {
        "relu": torch.relu,
        "relu6": F.relu6,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "silu": F.silu,
        "hardswish": F.hardswish,
        "mish": F.mish,
        "selu": F.selu,
        "softsign": F.softsign,
        "logsigmoid": F.logsigmoid,
        "exp": torch.exp,
        "expm1": torch.expm1,
        "abs": torch.abs,
        "neg": torch.neg,
        "sign": torch.sign,
        "floor": torch.floor,
        "ceil": torch.ceil,
        "round": torch.round,
        "trunc": torch.trunc,
        "sin": torch.sin,
        "cos": torch.cos,
        "tan": torch.tan,
        "sinh": torch.sinh,
        "cosh": torch.cosh,
        "asinh": torch.asinh,
        "atan": torch.atan,
        "erf": torch.erf,
        "square": torch.square,
        "isnan": torch.isnan,
        "isinf": torch.isinf,
    }
    positive = {
        "log": torch.log,
        "log1p": torch.log1p,
        "log2": torch.log2,
        "log10": torch.log10,
        "sqrt": torch.sqrt,
        "rsqrt": torch.rsqrt,
        "reciprocal": torch.reciprocal,
    }
    unit = {"asin": torch.asin, "acos": torch.acos, "atanh": torch.atanh, "log1p": torch.log1p}
    cases: list[Case] = [(k, [X], {}, T(f)) for k, f in same.items()]
    cases += [(k, [P], {}, T(f)) for k, f in positive.items()]
    cases += [(k, [U], {}, T(f)) for k, f in unit.items()]
    cases += [
        ("acosh", [P + 1], {}, T(torch.acosh)),
        ("expm1", [rand(5, low=-1e-4, high=1e-4)], {}, T(torch.expm1)),
        ("log1p", [rand(5, low=-1e-4, high=1e-4)], {}, T(torch.log1p)),
        ("logical_not", [B], {}, T(torch.logical_not)),
        ("bitwise_not", [I8], {}, T(torch.bitwise_not)),
        ("bitwise_not", [B], {}, T(torch.bitwise_not)),
        ("identity", [X], {}, T(lambda x: x)),
        ("trunc", [I8], {}, T(lambda x: x)),
        ("leaky_relu", [X], {"negative_slope": 0.1}, T(lambda x: F.leaky_relu(x, 0.1))),
        ("prelu", [X, Const(rand(4))], {}, T(F.prelu)),
        ("prelu", [X, Const(rand(1))], {}, T(F.prelu)),
        ("prelu", [rand(3, 4), Const(rand(4))], {}, T(F.prelu)),
        ("elu", [X], {"alpha": 0.7}, T(lambda x: F.elu(x, 0.7))),
        ("celu", [X], {"alpha": 0.7}, T(lambda x: F.celu(x, 0.7))),
        ("hardsigmoid", [3 * X], {"alpha": 1 / 6, "beta": 0.5}, T(F.hardsigmoid)),
        ("gelu", [X], {"approximate": "none"}, T(F.gelu)),
        ("gelu", [X], {"approximate": "tanh"}, T(lambda x: F.gelu(x, approximate="tanh"))),
        ("softplus", [20 * X], {"beta": 1.0, "threshold": 20.0}, T(F.softplus)),
        ("softplus", [X], {"beta": 2.0, "threshold": 20.0}, T(lambda x: F.softplus(x, 2))),
        ("softplus", [X], {"beta": 2.0, "threshold": 1.0}, T(lambda x: F.softplus(x, 2, 1))),
        ("threshold", [X], {"threshold": 0.5, "value": 0.0}, T(lambda x: F.threshold(x, 0.5, 0))),
        ("threshold", [X], {"threshold": 0.5, "value": -7.0}, T(lambda x: F.threshold(x, 0.5, -7))),
        ("clamp", [X], {"min": -0.5, "max": 1.0}, T(lambda x: x.clamp(-0.5, 1))),
        ("clamp", [X], {"min": None, "max": 1.0}, T(lambda x: x.clamp(max=1))),
        ("clamp", [X], {"min": 0.25, "max": None}, T(lambda x: x.clamp(min=0.25))),
        ("clamp", [I8], {"min": -2, "max": 3}, T(lambda x: x.clamp(-2, 3))),
        ("cast", [3 * X], {"dtype": "int32"}, T(lambda x: x.int())),
        ("cast", [I8], {"dtype": "bool"}, T(lambda x: x.bool())),
    ]
    return cases


def binary_cases() -> list[Case]:
    y = rand(4, 1, 5)
    cases: list[Case] = []
    for kind, f in {
        "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "maximum": torch.maximum,
        "minimum": torch.minimum, "atan2": torch.atan2, "remainder": torch.remainder, "fmod": torch.fmod,
        "floor_divide": torch.floor_divide,
    }.items():  # fmt: skip
        cases.append((kind, [X, y], {}, T(f)))
        if kind not in ("div", "atan2"):
            cases.append((kind, [I8, J8], {}, T(f)))
    cases += [
        ("pow", [P, y], {}, T(torch.pow)),
        ("add", [X, I8[0, 0]], {}, T(torch.add)),
        ("mul", [I8, rand(3, 4)], {}, T(torch.mul)),
        ("div", [I8, J8], {}, T(torch.true_divide)),
        ("atan2", [np.float32([0, 0, 1, -1]), np.float32([0, -1, 0, 0])], {}, T(torch.atan2)),
        ("trunc_divide", [I8, J8], {}, T(lambda a, b: torch.div(a, b, rounding_mode="trunc"))),
        ("logical_and", [B, C], {}, T(torch.logical_and)),
        ("logical_or", [B, C], {}, T(torch.logical_or)),
        ("logical_xor", [B, I8], {}, T(torch.logical_xor)),
        ("where", [B, rand(3, 4), rand(4)], {}, T(torch.where)),
        ("masked_fill", [rand(3, 4), B], {"value": -1.5}, T(lambda x, m: x.masked_fill(m, -1.5))),
        ("matmul", [X, rand(4, 5, 3)], {}, T(torch.matmul)),
        (
            "einsum",
            [R3, rand(2, 5, 4)],
            {"equation": "bij,bjk->bik"},
            T(lambda a, b: torch.einsum("bij,bjk->bik", a, b)),
        ),
    ]
    for kind in ("eq", "ne", "lt", "le", "gt", "ge"):
        cases.append((kind, [I8, J8], {}, T(getattr(torch, kind))))
        cases.append((kind, [np.round(X), np.round(y)], {}, T(getattr(torch, kind))))
        cases.append((kind, [I8, rand(3, 4)], {}, T(getattr(torch, kind))))
    cases.append(("le", [np.float32([1, np.nan]), np.float32([np.nan, 2])], {}, T(torch.le)))
    for kind in ("and", "or", "xor"):
        f = getattr(torch, f"bitwise_{kind}")
        cases += [(f"bitwise_{kind}", [I8, J8], {}, T(f)), (f"bitwise_{kind}", [B, C], {}, T(f))]
    return cases


def layer_cases() -> list[Case]:
    w, b = Const(rand(6, 2, 3, 3)), Const(rand(6))
    gamma, beta, mean, var = (Const(rand(4)), Const(rand(4)), Const(rand(4)), Const(rand(4, low=0.2, high=2)))
    eps = {"eps": 1e-3}
    conv1 = {"stride": (2,), "padding": ((1, 1),), "dilation": (1,), "groups": 1}
    conv3 = {"stride": (1, 2, 1), "padding": ((1, 1),) * 3, "dilation": (1, 1, 1), "groups": 1}
    up = {"stride": (2, 2), "padding": ((1, 1), (0, 0)), "dilation": (1, 1), "groups": 2, "output_padding": (1, 0)}
    cases: list[Case] = [
        ("linear", [rand(3, 4), Const(rand(5, 4)), Const(rand(5))], {}, T(F.linear)),
        ("linear", [rand(3, 4), Const(rand(5, 4)), None], {}, T(F.linear)),
        ("linear", [rand(2, 3, 4), Const(rand(5, 4)), Const(rand(5))], {}, T(F.linear)),
        ("linear", [rand(2, 3, 4), Const(rand(5, 4)), None], {}, T(F.linear)),
        ("linear", [rand(2, 3, 4), rand(5, 4), rand(5)], {}, T(F.linear)),
        (
            "gemm",
            [rand(4, 3), rand(4, 5), rand(5)],
            {"alpha": 0.5, "beta": 2.0, "trans_a": True, "trans_b": False},
            T(lambda a, b, c: 0.5 * a.T @ b + 2 * c),
        ),
        ("conv2d", [X, w, b], Conv, T(lambda x, w, b: F.conv2d(x, w, b, (2, 1), (1, 2), (1, 2), 2))),
        (
            "conv2d",
            [X, w, None],
            {**Conv, "padding": ((1, 0), (0, 2))},
            T(lambda x, w, b: F.conv2d(F.pad(x, (0, 2, 1, 0)), w, b, (2, 1), 0, (1, 2), 2)),
        ),
        ("conv1d", [rand(2, 3, 9), Const(rand(4, 3, 3)), None], conv1, T(lambda x, w, b: F.conv1d(x, w, b, 2, 1))),
        (
            "conv3d",
            [rand(1, 2, 5, 6, 4), Const(rand(3, 2, 3, 3, 3)), Const(rand(3))],
            conv3,
            T(lambda x, w, b: F.conv3d(x, w, b, (1, 2, 1), 1)),
        ),
        (
            "conv_transpose2d",
            [X, Const(rand(4, 3, 3, 2)), Const(rand(6))],
            up,
            T(lambda x, w, b: F.conv_transpose2d(x, w, b, 2, (1, 0), (1, 0), 2)),
        ),
        (
            "conv_transpose1d",
            [rand(2, 3, 5), Const(rand(3, 2, 4)), None],
            {**conv1, "output_padding": (0,)},
            T(lambda x, w, b: F.conv_transpose1d(x, w, b, 2, 1)),
        ),
        (
            "conv_transpose3d",
            [rand(1, 2, 3, 4, 3), Const(rand(2, 2, 2, 2, 2)), None],
            {
                "stride": (2, 2, 2),
                "padding": ((0, 0),) * 3,
                "dilation": (1, 1, 1),
                "groups": 1,
                "output_padding": (0, 0, 0),
            },
            T(lambda x, w, b: F.conv_transpose3d(x, w, b, 2)),
        ),
        (
            "max_pool2d",
            [X],
            {**HW, "dilation": (1, 1), "ceil_mode": False},
            T(lambda x: F.max_pool2d(x, (3, 2), 2, (1, 0))),
        ),
        (
            "max_pool2d",
            [X],
            {**HW, "dilation": (2, 1), "ceil_mode": True},
            T(lambda x: F.max_pool2d(x, (3, 2), 2, (1, 0), (2, 1), True)),
        ),
        (
            "max_pool1d",
            [R3],
            {"kernel": (2,), "stride": (2,), "padding": ((0, 0),), "dilation": (1,), "ceil_mode": False},
            T(lambda x: F.max_pool1d(x, 2)),
        ),
        (
            "max_pool3d",
            [rand(1, 2, 4, 4, 4)],
            {
                "kernel": (2,) * 3,
                "stride": (2,) * 3,
                "padding": ((0, 0),) * 3,
                "dilation": (1,) * 3,
                "ceil_mode": False,
            },
            T(lambda x: F.max_pool3d(x, 2)),
        ),
        (
            "max_pool2d_with_indices",
            [X],
            {**HW, "dilation": (1, 1), "ceil_mode": False},
            T(lambda x: F.max_pool2d(x, (3, 2), 2, (1, 0), return_indices=True)),
        ),
        (
            "max_unpool2d",
            [rand(2, 3, 2, 2), np.stack([RNG.permutation(16)[:4] for _ in range(6)]).reshape(2, 3, 2, 2)],
            {"output_size": (4, 4)},
            T(lambda x, i: F.max_unpool2d(x, i, 2)),
        ),
        (
            "layer_norm",
            [R3, Const(rand(3, 5)), Const(rand(3, 5))],
            {"axes": (1, 2), **eps},
            T(lambda x, w, b: F.layer_norm(x, (3, 5), w, b, 1e-3)),
        ),
        ("layer_norm", [R3, None, None], {"axes": (2,), **eps}, T(lambda x, w, b: F.layer_norm(x, (5,), w, b, 1e-3))),
        ("rms_norm", [R3, Const(rand(5))], {"axes": (2,), **eps}, T(lambda x, w: F.rms_norm(x, (5,), w, 1e-3))),
        (
            "batch_norm",
            [X, gamma, beta, mean, var],
            eps,
            T(lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b, eps=1e-3)),
        ),
        ("batch_norm", [X, None, None, mean, var], eps, T(lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b, eps=1e-3))),
        ("instance_norm", [X, gamma, beta], eps, T(lambda x, w, b: F.instance_norm(x, None, None, w, b, eps=1e-3))),
        ("instance_norm", [X, None, None], eps, T(lambda x, w, b: F.instance_norm(x, eps=1e-3))),
        ("group_norm", [X, gamma, beta], {"groups": 2, **eps}, T(lambda x, w, b: F.group_norm(x, 2, w, b, 1e-3))),
        ("group_norm", [X, None, None], {"groups": 2, **eps}, T(lambda x, w, b: F.group_norm(x, 2, w, b, 1e-3))),
        ("lp_normalize", [X], {"p": 2.0, "axis": 1, "eps": 1e-12}, T(lambda x: F.normalize(x))),
        ("lp_normalize", [X], {"p": 3.0, "axis": 2, "eps": 1e-12}, T(lambda x: F.normalize(x, 3, 2))),
        (
            "local_response_norm",
            [X],
            {"size": 3, "alpha": 0.1, "beta": 0.7, "k": 2.0},
            T(lambda x: F.local_response_norm(x, 3, 0.1, 0.7, 2.0)),
        ),
        ("softmax", [X], {"axis": 1}, T(lambda x: x.softmax(1))),
        ("softmax", [X], {"axis": 3}, T(lambda x: x.softmax(3))),
        ("log_softmax", [X], {"axis": 2}, T(lambda x: x.log_softmax(2))),
        (
            "attention",
            [rand(2, 3, 4, 5), rand(2, 3, 6, 5), rand(2, 3, 6, 5), None],
            {"scale": None, "causal": False},
            T(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v)),
        ),
        (
            "attention",
            [rand(2, 4, 5), rand(2, 4, 5), rand(2, 4, 5), None],
            {"scale": 0.3, "causal": True},
            T(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)),
        ),
        (
            "attention",
            [rand(2, 4, 5), rand(2, 4, 5), rand(2, 4, 5), np.tri(4, dtype=bool)],
            {"scale": None, "causal": False},
            T(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m)),
        ),
    ]
    for ceil in (False, True):
        for include in (False, True):
            attrs = {**HW, "ceil_mode": ceil, "count_include_pad": include, "divisor_override": None}
            cases.append(
                ("avg_pool2d", [X], attrs, T(lambda x, c=ceil, i=include: F.avg_pool2d(x, (3, 2), 2, (1, 0), c, i)))
            )
    over = {**HW, "ceil_mode": False, "count_include_pad": False, "divisor_override": 4}
    cases.append(("avg_pool2d", [X], over, T(lambda x: F.avg_pool2d(x, (3, 2), 2, (1, 0), divisor_override=4))))
    one = {"ceil_mode": False, "count_include_pad": True, "divisor_override": None}
    cases += [
        (
            "avg_pool1d",
            [R3],
            dict(kernel=(2,), stride=(1,), padding=((1, 1),), **one),
            T(lambda x: F.avg_pool1d(x, 2, 1, 1)),
        ),
        (
            "avg_pool3d",
            [rand(1, 2, 4, 4, 4)],
            dict(kernel=(2,) * 3, stride=(2,) * 3, padding=((0, 0),) * 3, **one),
            T(lambda x: F.avg_pool3d(x, 2)),
        ),
    ]
    for size in ((1, 1), (3, 5), (4, 3), (2, 1)):
        cases.append(
            ("adaptive_avg_pool2d", [X], {"output_size": size}, T(lambda x, s=size: F.adaptive_avg_pool2d(x, s)))
        )
    cases += [
        ("adaptive_avg_pool2d", [rand(4, 6, 5)], {"output_size": (1, 1)}, T(lambda x: F.adaptive_avg_pool2d(x, 1))),
        ("adaptive_avg_pool1d", [R3], {"output_size": (2,)}, T(lambda x: F.adaptive_avg_pool1d(x, 2))),
        (
            "adaptive_avg_pool3d",
            [rand(1, 2, 4, 4, 4)],
            {"output_size": (2, 2, 2)},
            T(lambda x: F.adaptive_avg_pool3d(x, 2)),
        ),
        ("adaptive_max_pool2d", [X], {"output_size": (1, 1)}, T(lambda x: F.adaptive_max_pool2d(x, 1))),
        ("adaptive_max_pool2d", [X], {"output_size": (3, 5)}, T(lambda x: F.adaptive_max_pool2d(x, (3, 5)))),
    ]
    return cases


def recurrent_cases() -> list[Case]:
    """Layers of torch, with the initial state as an input and as a constant."""
    cases: list[Case] = []
    for kind, layers, both, first, biases in (
        ("lstm", 1, False, False, True),
        ("lstm", 2, True, True, True),
        ("gru", 2, True, False, True),
        ("gru", 1, False, True, False),
        ("rnn", 2, False, False, True),
        ("rnn", 1, True, True, False),
    ):
        d = 2 if both else 1
        gates = {"lstm": 4, "gru": 3, "rnn": 1}[kind]
        weights = []
        for layer in range(layers):
            for _ in range(d):
                weights += [Const(rand(gates * 3, 5 if layer == 0 else 3 * d)), Const(rand(gates * 3, 3))]
                weights += [Const(rand(gates * 3)), Const(rand(gates * 3))] if biases else []
        states = [rand(layers * d, 2, 3) for _ in range(2 if kind == "lstm" else 1)]
        attrs: dict[str, Any] = {
            "hidden": 3,
            "direction": "bidirectional" if both else "forward",
            "layers": layers,
            "layout": "batch_first" if first else "time_first",
            "biases": biases,
        }
        if kind == "rnn":
            attrs["activation"] = "relu" if both else "tanh"
        name = f"rnn_{attrs['activation']}" if kind == "rnn" else kind

        def run(x: Any, *rest: Any, name: str = name, options: Any = (biases, layers, 0.0, False, both, first)) -> Any:
            count = 2 if name == "lstm" else 1
            hx = rest[-count:] if count == 2 else rest[-1]
            return getattr(torch, name)(x, hx, rest[:-count], *options)

        x = rand(2, 4, 5) if first else rand(4, 2, 5)
        cases.append((kind, [x, *weights, *states], attrs, T(run)))
        cases.append((kind, [x, *weights, *map(Const, states)], attrs, T(run)))
    return cases


def reduction_cases() -> list[Case]:
    cases: list[Case] = []
    for keep in (False, True):
        a = {"axes": (1, 3), "keepdim": keep}
        for kind in ("sum", "mean", "amax", "amin", "logsumexp"):
            cases.append((kind, [X], a, T(lambda x, k=kind, q=keep: getattr(torch, k)(x, (1, 3), keepdim=q))))
        for kind in ("var", "std"):
            cases.append(
                (
                    kind,
                    [X],
                    {**a, "correction": 1},
                    T(lambda x, k=kind, q=keep: getattr(torch, k)(x, (1, 3), keepdim=q)),
                )
            )
        for p in (1.0, 2.0, 3.0, float("inf")):
            cases.append(
                ("norm", [X], {"p": p, **a}, T(lambda x, p=p, q=keep: torch.linalg.vector_norm(x, p, (1, 3), q)))
            )
        b = {"axes": (1,), "keepdim": keep}
        cases += [
            ("prod", [R3], b, T(lambda x, q=keep: x.prod(1, q))),
            ("all", [B], b, T(lambda x, q=keep: x.all(1, q))),
            ("any", [B], b, T(lambda x, q=keep: x.any(1, q))),
            ("sum", [I8], b, T(lambda x, q=keep: x.sum(1, q))),
            ("sum", [B], b, T(lambda x, q=keep: x.sum(1, q))),
            ("argmax", [X], {"axis": 2, "keepdim": keep}, T(lambda x, q=keep: x.argmax(2, q))),
            ("argmin", [X], {"axis": 0, "keepdim": keep}, T(lambda x, q=keep: x.argmin(0, q))),
            ("max_dim", [X], {"axis": 2, "keepdim": keep}, T(lambda x, q=keep: tuple(x.max(2, q)))),
            ("min_dim", [X], {"axis": 1, "keepdim": keep}, T(lambda x, q=keep: tuple(x.min(1, q)))),
        ]
    cases += [
        ("argmax", [X], {"axis": None, "keepdim": False}, T(lambda x: x.argmax())),
        ("sum", [X], {"axes": (0, 1, 2, 3), "keepdim": False}, T(lambda x: x.sum())),
        ("topk", [X], {"k": 2, "axis": 1, "largest": True, "sorted": True}, T(lambda x: tuple(x.topk(2, 1)))),
        ("topk", [X], {"k": 3, "axis": 3, "largest": False, "sorted": True}, T(lambda x: tuple(x.topk(3, 3, False)))),
        ("sort", [X], {"axis": 2, "descending": True}, T(lambda x: tuple(x.sort(2, True)))),
        ("sort", [X], {"axis": 2, "descending": False}, T(lambda x: tuple(x.sort(2)))),
        ("cumsum", [X], {"axis": 1}, T(lambda x: x.cumsum(1))),
    ]
    return cases


def put(index: tuple[Any, ...]) -> Callable[..., list[Array]]:
    def expected(x: Array, src: Array) -> list[Array]:
        out = np.array(x)
        out[index] = src
        return [out]

    return expected


def shape_cases() -> list[Case]:
    s = np.s_
    box = lambda axes, starts, ends, steps: {"axes": axes, "starts": starts, "ends": ends, "steps": steps}  # noqa: E731
    idx = np.int64([[0, 2], [3, 1]])
    return [
        ("reshape", [X], {"shape": (8, 30)}, T(lambda x: x.reshape(8, 30))),
        ("flatten", [X], {"start": 1, "end": 3}, T(lambda x: x.flatten(1))),
        ("flatten", [X], {"start": 1, "end": 2}, T(lambda x: x.flatten(1, 2))),
        ("flatten", [X], {"start": 0, "end": 3}, T(lambda x: x.flatten())),
        ("squeeze", [rand(1, 3, 1, 2)], {"axes": (0, 2)}, T(lambda x: x.squeeze())),
        ("squeeze", [X], {"axes": ()}, T(lambda x: x)),
        ("unsqueeze", [R3], {"axes": (1, 4)}, T(lambda x: x.unsqueeze(1).unsqueeze(4))),
        ("permute", [X], {"dims": (0, 2, 3, 1)}, T(lambda x: x.permute(0, 2, 3, 1))),
        ("expand", [rand(3, 1)], {"shape": (2, 3, 4)}, T(lambda x: x.expand(2, 3, 4))),
        ("repeat", [R3], {"repeats": (2, 1, 2)}, T(lambda x: x.repeat(2, 1, 2))),
        ("repeat", [R3], {"repeats": (2, 1, 2, 3)}, T(lambda x: x.repeat(2, 1, 2, 3))),
        ("slice", [X], box((2,), (1,), (6,), (2,)), lambda x: [x[:, :, 1:6:2]]),
        ("slice", [X], box((1, 3), (1, 0), (3, 2), (1, 1)), lambda x: [x[:, 1:3, :, 0:2]]),
        ("slice", [X], box((3,), (4,), (-1,), (-2,)), lambda x: [x[..., 4::-2]]),
        ("slice", [X], box((3,), (2,), (2,), (1,)), lambda x: [x[..., 2:2]]),
        ("select", [X], {"axis": 1, "index": 3}, lambda x: [x[:, 3]]),
        ("slice_assign", [X, rand(2, 4, 6, 2)], box((3,), (0,), (2,), (1,)), put(s[..., :2])),
        ("slice_assign", [X, rand(2, 4, 3, 5)], box((2,), (1,), (6,), (2,)), put(s[:, :, 1:6:2])),
        ("slice_assign", [X, rand(1, 2, 6, 1)], box((1, 3), (1, 2), (3, 5), (1, 1)), put(s[:, 1:3, :, 2:5])),
        ("slice_assign", [X, np.float32(3)], box((0,), (1,), (2,), (1,)), put(s[1:2])),
        ("slice_assign", [X, rand(2, 4, 6, 3)], box((3,), (4,), (-1,), (-2,)), put(s[..., 4::-2])),
        ("slice_assign", [X, rand(2, 4, 6, 1)], box((3,), (2,), (2,), (1,)), lambda x, src: [x]),
        ("slice_assign", [rand(1, 200, 200, 4), rand(1, 200, 200, 2)], box((3,), (1,), (3,), (1,)), put(s[..., 1:3])),
        ("select_assign", [X, rand(2, 6, 5)], {"axis": 1, "index": 2}, put(s[:, 2])),
        ("select_assign", [X, rand(5)], {"axis": 0, "index": 1}, put(s[1])),
        ("cat", [X, rand(2, 1, 6, 5)], {"axis": 1}, lambda *a: [np.concatenate(a, 1)]),
        ("stack", [R3, rand(2, 3, 5)], {"axis": 2}, lambda *a: [np.stack(a, 2)]),
        ("split", [X], {"sizes": (1, 4, 1), "axis": 2}, T(lambda x: x.split((1, 4, 1), 2))),
        ("chunk", [X], {"chunks": 2, "axis": 3}, T(lambda x: x.chunk(2, 3))),
        ("unbind", [X], {"axis": 1}, T(lambda x: x.unbind(1))),
        (
            "pad",
            [X],
            {"padding": ((0, 0), (0, 0), (1, 2), (0, 3)), "mode": "constant", "value": 1.5},
            T(lambda x: F.pad(x, (0, 3, 1, 2), value=1.5)),
        ),
        (
            "pad",
            [X],
            {"padding": ((0, 0), (0, 0), (-1, 2), (0, -3)), "mode": "constant", "value": 0.0},
            T(lambda x: F.pad(x, (0, -3, -1, 2))),
        ),
        (
            "pad",
            [X],
            {"padding": ((0, 0), (0, 0), (1, 2), (0, 3)), "mode": "reflect", "value": 0.0},
            T(lambda x: F.pad(x, (0, 3, 1, 2), "reflect")),
        ),
        (
            "pad",
            [X],
            {"padding": ((0, 0), (0, 0), (1, 2), (0, 3)), "mode": "replicate", "value": 0.0},
            T(lambda x: F.pad(x, (0, 3, 1, 2), "replicate")),
        ),
        (
            "pad",
            [X],
            {"padding": ((0, 0), (0, 0), (1, 2), (0, 3)), "mode": "circular", "value": 0.0},
            T(lambda x: F.pad(x, (0, 3, 1, 2), "circular")),
        ),
        ("gather", [X, rand(2, 3, 6, 2, dtype="int64", low=0, high=3)], {"axis": 1}, T(lambda x, i: x.gather(1, i))),
        ("index_select", [X, Const(np.int64([2, 0]))], {"axis": 2}, T(lambda x, i: x.index_select(2, i))),
        ("take", [X, idx], {"axis": 1}, lambda x, i: [np.take(x, i, 1)]),
        ("embedding", [Const(rand(5, 3)), idx], {}, T(lambda w, i: F.embedding(i, w))),
        ("index", [X, idx], {"axes": (1,)}, lambda x, i: [x[:, i]]),
        ("index", [X, idx, np.int64([1])], {"axes": (1, 2)}, lambda x, i, j: [x[:, i, j]]),
        ("index", [X, np.int64([1, 0]), np.int64([4, 2])], {"axes": (0, 3)}, T(lambda x, i, j: x[i, :, :, j])),
        ("index", [X, np.int64([1, 0]), np.int64([-1, 2])], {"axes": (0, 1)}, T(lambda x, i, j: x[i, j])),
        (
            "index_put",
            [X, rand(2, 6, 5), np.int64([1, 0]), np.int64([-1, 2])],
            {"axes": (0, 1), "accumulate": False},
            T(lambda x, v, i, j: x.index_put((i, j), v)),
        ),
        (
            "index_put",
            [X, np.float32(1), np.int64([1, 0, 1])],
            {"axes": (2,), "accumulate": True},
            T(
                lambda x, v, i: x.index_put(
                    (torch.arange(2)[:, None, None, None], torch.arange(4)[:, None, None], i[:, None], torch.arange(5)),
                    v,
                    accumulate=True,
                )
            ),
        ),
        (
            "index_put",
            [rand(3, 4), np.float32(2), B[:, 0]],
            {"axes": (0,), "accumulate": False},
            T(lambda x, v, m: x.index_put((m,), v)),
        ),
        (
            "gather_nd",
            [X, rand(2, 3, 2, dtype="int64", low=0, high=1)],
            {"batch_dims": 0},
            lambda x, i: [x[i[..., 0], i[..., 1]]],
        ),
        (
            "scatter_nd",
            [X, np.int64([[1, 0], [0, 3]]), rand(2, 6, 5)],
            {"reduction": "none"},
            lambda x, i, v: put((i[:, 0], i[:, 1]))(x, v),
        ),
        (
            "scatter_nd",
            [rand(4), np.int64([[1], [1]]), rand(2)],
            {"reduction": "add"},
            lambda x, i, v: [x + np.bincount(i[:, 0], v, 4).astype("f4")],
        ),
        (
            "scatter",
            [R3, rand(2, 1, 5, dtype="int64", low=0, high=2), rand(2, 1, 5)],
            {"axis": 1, "reduction": "none"},
            T(lambda x, i, v: x.scatter(1, i, v)),
        ),
        ("masked_select", [rand(3, 4), B], {}, T(torch.masked_select)),
        ("nonzero", [I8], {}, T(torch.nonzero)),
        ("one_hot", [np.int64([[0, 2], [1, 3]])], {"depth": 5}, T(lambda x: F.one_hot(x, 5))),
        ("flip", [X], {"axes": (1, 3)}, T(lambda x: x.flip(1, 3))),
        ("roll", [X], {"shifts": (2, -1), "axes": (2, 3)}, T(lambda x: x.roll((2, -1), (2, 3)))),
        ("roll", [R3], {"shifts": (4,), "axes": ()}, T(lambda x: x.roll(4))),
        ("tril", [X], {"diagonal": 1}, T(lambda x: x.tril(1))),
        ("triu", [X], {"diagonal": -1}, T(lambda x: x.triu(-1))),
        ("shape", [X], {}, lambda x: [np.int64(x.shape)]),
        ("size", [X], {}, lambda x: [np.int64(x.size)]),
        ("arange", [], {"start": 1, "end": 9, "step": 3, "dtype": "int64"}, lambda: [np.int64([1, 4, 7])]),
        ("arange", [], {"start": 0.5, "end": 2, "step": 0.5, "dtype": "float32"}, lambda: [np.float32([0.5, 1, 1.5])]),
        ("arange", [], {"start": 0, "end": 3, "step": 1, "dtype": "uint8"}, lambda: [np.uint8([0, 1, 2])]),
        (
            "linspace",
            [],
            {"start": 0.0, "end": 1.0, "steps": 5, "dtype": "float32"},
            lambda: [np.linspace(0, 1, 5, dtype="f4")],
        ),
        ("full", [], {"shape": (2, 3), "value": 7, "dtype": "int32"}, lambda: [np.full((2, 3), 7, "i4")]),
        ("fill", [X], {"value": 0.5, "dtype": "float32"}, lambda x: [np.full_like(x, 0.5)]),
        ("eye", [], {"rows": 3, "cols": 4, "diagonal": 1, "dtype": "float32"}, lambda: [np.eye(3, 4, 1, "f4")]),
        ("meshgrid", [rand(3), rand(4)], {"indexing": "ij"}, T(lambda a, b: torch.meshgrid(a, b, indexing="ij"))),
        ("meshgrid", [rand(3), rand(4)], {"indexing": "xy"}, T(lambda a, b: torch.meshgrid(a, b, indexing="xy"))),
        ("channel_shuffle", [X], {"groups": 2}, T(lambda x: F.channel_shuffle(x, 2))),
        ("pixel_shuffle", [rand(2, 8, 3, 2)], {"factor": 2, "mode": "CRD"}, T(lambda x: F.pixel_shuffle(x, 2))),
        ("pixel_unshuffle", [rand(2, 2, 4, 6)], {"factor": 2, "mode": "CRD"}, T(lambda x: F.pixel_unshuffle(x, 2))),
        (
            "unfold",
            [X],
            {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)},
            T(lambda x: F.unfold(x, (3, 2), (1, 2), (1, 0), (2, 1))),
        ),
        (
            "fold",
            [rand(1, 8, 12)],
            {"output_size": (4, 5), "kernel": (2, 2), "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)},
            T(lambda x: F.fold(x, (4, 5), 2)),
        ),
        (
            "nms",
            [np.float32([[0, 0, 2, 2], [0, 0, 2, 1.9], [3, 3, 5, 5]]), np.float32([0.5, 0.9, 0.7])],
            {"iou_threshold": 0.5},
            lambda b, s: [np.int64([1, 2])],
        ),
    ]


def sample_cases() -> list[Case]:
    cases: list[Case] = []

    def resize(size: tuple[int, int], f: Any, **attrs: Any) -> None:
        full = {
            "mode": "nearest",
            "coordinates": "asymmetric",
            "sizes": size,
            "scales": None,
            "nearest_mode": "floor",
            "cubic_coeff": -0.75,
            "antialias": False,
        }
        cases.append(("resize", [X], {**full, **attrs}, T(f)))

    resize((12, 10), lambda x: F.interpolate(x, scale_factor=2), scales=(2.0, 2.0))
    resize((9, 7), lambda x: F.interpolate(x, size=(9, 7)))
    resize((3, 4), lambda x: F.interpolate(x, size=(3, 4)))
    double = {"mode": "linear", "coordinates": "half_pixel", "scales": (2.0, 2.0)}
    resize((12, 10), lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), **double)
    resize((9, 8), lambda x: F.interpolate(x, size=(9, 8), mode="bilinear", align_corners=True), mode="linear",
           coordinates="align_corners")  # fmt: skip
    resize((9, 8), lambda x: F.interpolate(x, size=(9, 8), mode="bicubic"), mode="cubic", coordinates="half_pixel")
    resize((3, 2), lambda x: F.interpolate(x, size=(3, 2), mode="bilinear", antialias=True), mode="linear",
           coordinates="half_pixel", antialias=True)  # fmt: skip
    theta = {2: rand(2, 2, 3), 3: rand(2, 3, 4)}
    for size in ((2, 3, 4, 5), (2, 3, 4, 5, 2)):
        for corners in (False, True):
            attrs = {"size": size, "align_corners": corners}
            cases.append(("affine_grid", [theta[len(size) - 2]], attrs, T(lambda t, a=attrs: F.affine_grid(t, **a))))
    grid = rand(2, 3, 4, 2, low=-1.2, high=1.2)
    for mode in ("bilinear", "nearest", "bicubic"):
        for padding in ("zeros", "border", "reflection"):
            for corners in (False, True):
                attrs = {"mode": mode, "padding_mode": padding, "align_corners": corners}
                cases.append(("grid_sample", [X, grid], attrs, T(lambda x, g, a=attrs: F.grid_sample(x, g, **a))))
    return cases


def quantize(x: Array, scale: Array, zero: Array, axis: int | None, low: int, high: int) -> Array:
    if axis is not None:
        line = [-1 if i == axis else 1 for i in range(x.ndim)]
        scale, zero = scale.reshape(line), zero.reshape(line)
    return np.clip(np.round(x / scale) + zero, low, high)


def quantize_cases() -> list[Case]:
    cases: list[Case] = []
    for dtype, low, high in (("int8", -128, 127), ("uint8", 0, 255), ("int16", -32768, 32767)):
        scale, zero = np.float32(0.01), np.zeros((), dtype)
        cases.append((
            "quantize", [X, Const(scale), Const(zero)], {"axis": None, "dtype": dtype},
            lambda x, s, z, d=dtype, lo=low, hi=high: [quantize(x, s.data, z.data, None, lo, hi).astype(d)],
        ))  # fmt: skip
        scales, zeros = rand(4, low=0.01, high=0.1), np.zeros(4, dtype)
        q = rand(2, 4, 3, dtype=dtype, low=max(low, -100), high=min(high, 100))
        cases.append((
            "dequantize", [q, Const(scales), Const(zeros)], {"axis": 1},
            lambda x, s, z: [(x * s.data[:, None]).astype("f4")],
        ))  # fmt: skip
        cases.append((
            "quantize", [X, Const(scales), Const(zeros)], {"axis": 1, "dtype": dtype},
            lambda x, s, z, d=dtype, lo=low, hi=high: [quantize(x, s.data, z.data, 1, lo, hi).astype(d)],
        ))  # fmt: skip
    return cases


CASES = [
    *unary_cases(), *binary_cases(), *layer_cases(), *recurrent_cases(), *reduction_cases(), *shape_cases(),
    *sample_cases(), *quantize_cases(),
]  # fmt: skip


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21, 23])
@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_computes_what_the_kind_means(case: Case, opset: int) -> None:
    kind, operands, attrs, expected = case
    graph, feeds, _ = one_op(kind, operands, attrs, opset)
    wanted = expected(*operands)
    found = graph.run(feeds)
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted, strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=3e-6)


@pytest.mark.parametrize("opset", [11, 17, 23])
@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_every_node_has_a_meaning_a_type_and_an_origin(case: Case, opset: int, tmp_path: Path) -> None:
    """What is written is lifted without an unknown kind, after a trip through a file, and comes to the same numbers."""
    kind, operands, attrs, _ = case
    graph, feeds, _ = one_op(kind, operands, attrs, opset)
    graph.save(tmp_path / "m.onnx")
    again = OnnxGraph.load(tmp_path / "m.onnx")
    for ours, theirs in zip(graph.ops(), again.ops(), strict=True):
        assert (ours.kind, ours.attrs) == (theirs.kind, theirs.attrs)
        assert [(v.name, v.dtype) for v in ours.outputs] == [(v.name, v.dtype) for v in theirs.outputs]
        assert ours.origin == theirs.origin
        assert (theirs.origin.file, theirs.origin.line) == ("m.py", 3)
        for a, b in zip(ours.outputs, theirs.outputs, strict=True):
            assert a.shape == b.shape or b.shape is None
    ops = [op.kind for op in again.ops()]
    # The indices of an ONNX MaxPool count through the whole tensor, and Compress has a shape that depends on data.
    assert not [k for k in ops if ":" in k and k not in ("onnx:Compress", "onnx:MaxPool")], ops
    if any(":" in k for k in ops):
        return
    twice = OnnxGraph.from_graph(OpsGraph(again.inputs, again.ops(), again.outputs), opset)
    for a, b in zip(graph.run(feeds), twice.run(feeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=3e-6)


#: Kinds that one node of opset 23 says exactly: they come back as themselves, with the same attributes.
EXACT = """
relu sigmoid tanh hardswish mish selu softsign exp abs neg sign floor ceil round sin cos tan asin
acos atan sinh cosh asinh acosh atanh erf isnan isinf logical_not identity leaky_relu prelu elu celu
hardsigmoid gelu clamp cast add sub mul div pow maximum minimum trunc_divide eq lt le gt ge
logical_and logical_or where matmul einsum gemm conv1d conv2d conv3d conv_transpose1d
conv_transpose2d conv_transpose3d max_pool1d max_pool2d max_pool3d batch_norm instance_norm
layer_norm rms_norm group_norm local_response_norm softmax log_softmax sum mean prod amax amin
logsumexp topk cumsum reshape unsqueeze permute expand select cat split gather take index_select
embedding gather_nd scatter tril triu shape size arange full quantize dequantize grid_sample resize
fold one_hot log sqrt reciprocal slice_assign select_assign
""".split()  # noqa: SIM905 a word list


@pytest.mark.parametrize("case", [c for c in CASES if c[0] in EXACT], ids=lambda c: c[0])
def test_comes_back_as_itself(case: Case) -> None:
    kind, operands, attrs, _ = case
    graph, _, _ = one_op(kind, operands, attrs, 23)
    ops = [op for op in graph.ops() if op.kind != "expand" or kind == "expand"]
    if len(ops) > 1 or ops[0].kind == "identity" != kind:
        pytest.skip("this case takes several nodes")
    (found,) = ops
    assert found.kind == kind
    plain = {k: v for k, v in attrs.items() if not (kind == "resize" and k == "scales")}
    for key, value in plain.items():
        got = found.attrs[key]
        assert got == pytest.approx(value) if isinstance(value, float) else got == value, key


def test_every_kind_is_covered() -> None:
    """Each kind of the vocabulary has a lowering, and each lowering that gives numbers a case above."""
    kinds = {kind for kind in KINDS if not kind.startswith("dynamic_")}
    assert kinds - set(LOWER) == set()
    elsewhere = {"if", "loop", "scan", "random", "roi_align"}
    assert set(LOWER) - {case[0] for case in CASES} == elsewhere


def test_projected_states_have_no_form() -> None:
    attrs = {"hidden": 2, "direction": "forward", "layers": 1, "layout": "time_first", "biases": False}
    weights = [Const(rand(12, 5)), Const(rand(12, 2)), Const(rand(2, 3))]
    with pytest.raises(PorterError, match="projected states"):
        one_op("lstm", [rand(4, 1, 5), *weights, rand(1, 1, 2), rand(1, 1, 3)], attrs, 17)


@pytest.mark.parametrize("kind", ["random"])
def test_what_onnx_cannot_say(kind: str) -> None:
    with pytest.raises(PorterError) as error:
        one_op(kind, [], {"shape": (2,), "dtype": "float32"}, 17)
    assert error.value.code == "PT351"


def test_bridge_keeps_names_and_shares_what_is_equal() -> None:
    weight = np.ones(3, "f4")
    x = Value("x", (2, 3), "float32")
    a, b, c = (Value(n, (2, 3), "float32") for n in "abc")
    ops = [
        Op("add", (x, Value.constant("m.weight", weight)), (a,)),
        Op("add", (a, Value.constant("m.weight", weight.copy())), (b,)),
        Op("mul", (b, Value.constant("m.weight", 2 * weight)), (c,)),
    ]
    graph = OnnxGraph.from_graph(OpsGraph([x], ops, [c, x, c, Value.constant("k", weight)]), 17)
    assert set(graph._model.tensors) == {"m.weight", "m.weight_1", "k"}
    assert [v.name for v in graph.outputs] == ["c", "x_out", "c_out", "k_out"]
    found = graph.run([np.zeros((2, 3), "f4")])
    assert [float(v.ravel()[0]) for v in found] == [4, 0, 4, 1]
