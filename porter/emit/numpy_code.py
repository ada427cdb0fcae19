# SPDX-License-Identifier: Apache-2.0
"""Ops as plain numpy: a module with one function, ``run``, that a host without any framework can call.

One line an op, in the model's order, with the place it comes from; constants of a few elements stand in the line, the
others in an .npz beside the module. Helpers (:mod:`porter.emit.numpy_ops`) are copied in where they are used.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from porter.emit import numpy_ops
from porter.emit.expression_table import number
from porter.graph import Graph
from porter.ops import Array, Op, Value
from porter.partition.cut import ops_between

__all__ = ["Inexpressible", "Writer", "kinds", "load", "save_constants", "write"]

#: Constants of up to this many elements are written out.
_SHORT = 8
_DTYPES = frozenset(
    {"bool", "float16", "float32", "float64"} | {f"{s}int{n}" for s in ("", "u") for n in (8, 16, 32, 64)}
)


class Inexpressible(Exception):
    """The op has no form in numpy here; the text says which and why."""


Expression = Callable[["Writer", Op], str]
_TABLE: dict[str, Expression] = {}


def kinds() -> set[str]:
    """The kinds that have a numpy form."""
    return set(_TABLE)


def write(graph: Graph, inputs: Sequence[str], outputs: Sequence[str], title: str) -> tuple[str, dict[str, Array]]:
    """The source of ``run(*inputs) -> tuple of outputs``, and the constants of the .npz that it reads.

    Args:
        graph: has the ops that lead from ``inputs`` to ``outputs``, names of values.
        title: the module's docstring.

    Raises:
        Inexpressible: an op has no form in numpy.
    """
    writer = Writer()
    needed = ops_between(graph, inputs, outputs)
    made = {*inputs, *(out.name for op in needed for out in op.outputs)}
    if not made.issuperset(outputs):
        raise Inexpressible("an output is a constant")
    parameters = ", ".join(writer.name(name) for name in inputs)
    lines: list[str] = []
    place = ""
    for op in needed:
        if str(op.origin) != place:
            place = str(op.origin)
            lines.append(f"    # {place}" if place.isprintable() else "    #")
        lines.append(f"    {_line(writer, op)}")
    results = "".join(f"{writer.name(name)}, " for name in outputs)
    head = ["# Written by porter. Needs numpy alone.", f'"""{_plain(title)}"""', ""]
    head += ["import math"] if any("math." in writer.helpers[name] for name in writer.helpers) else []
    head += ["from pathlib import Path"] if writer.constants else []
    head += ["", "import numpy as np", ""]
    if writer.constants:
        head += ['C = np.load(Path(__file__).with_suffix(".npz"), allow_pickle=False)', ""]
    for text in writer.helpers.values():
        head += ["", text.rstrip(), ""]
    documented = ", ".join(_plain(name) for name in outputs)
    body = [f"def run({parameters}):", f'    """Gives a tuple: {documented}."""', *lines]
    return "\n".join([*head, "", *body, f"    return ({results})", ""]), writer.constants


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() and c not in '"\\' else "?" for c in text)


def _line(w: Writer, op: Op) -> str:
    expression = _TABLE.get(op.kind)
    if expression is None:
        raise Inexpressible(f"{op.kind} has no numpy form in porter")
    for value in (*op.operands, *op.outputs):
        if value.dtype is not None and value.dtype not in _DTYPES:
            raise Inexpressible(f"{op.kind} has a tensor of {value.dtype}")
    text = expression(w, op)
    names = ", ".join(w.name(out.name) for out in op.outputs)
    if len(op.outputs) == 1:
        dtype = op.outputs[0].dtype
        if op.kind in _EXACT or dtype is None or _keeps(op):
            return f"{names} = {text}"
        return f'{names} = np.asarray({text}, "{dtype}")'
    return f"{names} = {text}" if len(op.outputs) > 1 else f"({names},) = {text}"


def _keeps(op: Op) -> bool:
    """Whether numpy gives an element by element op the right dtype by itself, in all its versions."""
    dtype = op.outputs[0].dtype
    return (
        (op.kind in _UNARY or op.kind in _BINARY or op.kind in ("clamp", "softmax", "where"))
        and (dtype or "").startswith("float")
        and all(v.dtype in (dtype, "bool") for v in op.operands)
        and any(not v.is_const and v.dtype == dtype and v.rank for v in op.operands)
    )


def load(source: str, constants: Mapping[str, Array]) -> Callable[..., tuple[Any, ...]]:
    """The function ``run`` of a source that :func:`write` made, as it is read from files."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "host_part.py"
        path.write_text(source, encoding="utf-8")
        save_constants(path.with_suffix(".npz"), constants)
        spec = importlib.util.spec_from_file_location("porter_host_part", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if constants:  # the folder goes away
            with vars(module)["C"] as lazy:
                vars(module)["C"] = dict(lazy)
    run: Callable[..., tuple[Any, ...]] = module.run
    return run


def save_constants(path: Path, constants: Mapping[str, Array]) -> None:
    """Write the .npz that a source reads; none where it reads none."""
    if constants:
        arrays: dict[str, Any] = dict(constants)
        np.savez(path, **arrays)


class Writer:
    """The names that values have in the source, the constants that it reads, and the helpers that it calls."""

    def __init__(self) -> None:
        self.constants: dict[str, Array] = {}
        self.helpers: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._taken: set[str] = {"C", "np", "math", "Path", "run", *numpy_ops.__all__}
        self._held: dict[int, tuple[Value, str]] = {}

    def name(self, value: str) -> str:
        """The Python name of a value."""
        found = self._names.get(value)
        if found is None:
            last = "/".join(value.rstrip("/").split("/")[-2:])
            base = re.sub(r"\W+", "_", last, flags=re.ASCII).strip("_").lower()[-40:].strip("_") or "v"
            base = f"v_{base}" if base[0].isdigit() or not base.isidentifier() or _reserved(base) else base
            found, n = base, 1
            while found in self._taken:
                n += 1
                found = f"{base}_{n}"
            self._taken.add(found)
            self._names[value] = found
        return found

    def __call__(self, value: Value | None) -> str:
        """An operand as an array."""
        if value is None:
            return "None"
        if not value.is_const:
            return self.name(value.name)
        known = self._held.get(id(value))
        if known is None:
            data = value.numpy()
            if str(data.dtype) not in _DTYPES:
                raise Inexpressible(f"a constant is {data.dtype}")
            if data.ndim == 0:
                text = f"np.{data.dtype}({number(data)})" if data.dtype != bool else f"np.bool_({bool(data)})"
            elif data.size <= _SHORT and np.isfinite(data.astype(np.float64)).all():
                text = f'np.array({self._listed(data)}, "{data.dtype}")'
            else:
                key = f"c{len(self.constants)}"
                self.constants[key] = data
                text = f'C["{key}"]'
            known = self._held[id(value)] = (value, text)
        return known[1]

    @staticmethod
    def _listed(data: Array) -> str:
        if data.ndim == 1:
            return "[" + ", ".join(number(item) for item in data) + "]"
        return "[" + ", ".join(Writer._listed(row) for row in data) + "]"

    def use(self, helper: str) -> str:
        """The name of a helper, which the source gets."""
        if helper not in self.helpers:
            text = inspect.getsource(getattr(numpy_ops, helper))
            text = re.sub(r"\s*# noqa: B905$", "", text, flags=re.MULTILINE)
            text = re.sub(r"\s*# fmt: skip$", "", text, flags=re.MULTILINE)
            text = text.replace(": str | None", "").replace(": int | None", "").replace(": float | None", "")
            text = re.sub(r": (Any|int|float|str|bool)\b(?=[,)= ])", "", text).replace(" -> Any", "")
            for name in re.findall(r"\b_?[a-z_]+\b(?=\()", text):
                if name != helper and callable(vars(numpy_ops).get(name)):
                    self.use(name)
            self.helpers[helper] = text
        return helper


def _reserved(name: str) -> bool:
    import builtins
    import keyword

    return keyword.iskeyword(name) or keyword.issoftkeyword(name) or hasattr(builtins, name)


def _writes(names: str) -> Callable[[Expression], Expression]:
    def register(function: Expression) -> Expression:
        for kind in names.split():
            _TABLE[kind] = function
        return function

    return register


#: Kinds whose numpy form has the right dtype by itself: they move or select.
_EXACT = frozenset({
    "identity", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "expand", "repeat", "slice", "select",
    "slice_assign", "select_assign", "cat", "stack", "pad", "gather", "index_select", "take", "embedding", "index",
    "gather_nd", "scatter_nd", "scatter", "masked_select", "flip", "roll", "tril", "triu", "pixel_shuffle",
    "pixel_unshuffle", "cast", "relu", "neg", "abs", "dynamic_reshape", "dynamic_slice", "dynamic_expand",
    "dynamic_unsqueeze", "dynamic_squeeze", "dynamic_repeat", "dynamic_pad", "isnan", "isinf", "logical_not", "eq",
    "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor", "nms", "dynamic_nms", "sigmoid",
    "softplus", "erf", "shape", "size",
})  # fmt: skip


def _ints(values: Any) -> str:
    return repr(tuple(int(v) for v in values))


def _real(value: Any) -> str:
    text = repr(float(value))
    return f'float("{text}")' if "inf" in text or "nan" in text else text


# -- element by element ----------------------------------------------------------------------------------------------

_UNARY = {
    "identity": "{x}", "relu": "np.maximum({x}, 0)", "relu6": "np.clip({x}, 0, 6)", "tanh": "np.tanh({x})",
    "hardswish": "{x} * np.clip({x} + 3, 0, 6) / 6", "softsign": "{x} / (1 + np.abs({x}))", "exp": "np.exp({x})",
    "expm1": "np.expm1({x})", "log": "np.log({x})", "log1p": "np.log1p({x})", "log2": "np.log2({x})",
    "log10": "np.log10({x})", "sqrt": "np.sqrt({x})", "rsqrt": "1 / np.sqrt({x})", "reciprocal": "1 / {x}",
    "abs": "np.abs({x})", "neg": "-{x}", "sign": "np.sign({x})", "floor": "np.floor({x})", "ceil": "np.ceil({x})",
    "round": "np.round({x})", "trunc": "np.trunc({x})", "sin": "np.sin({x})", "cos": "np.cos({x})",
    "tan": "np.tan({x})", "asin": "np.arcsin({x})", "acos": "np.arccos({x})", "atan": "np.arctan({x})",
    "sinh": "np.sinh({x})", "cosh": "np.cosh({x})", "asinh": "np.arcsinh({x})", "acosh": "np.arccosh({x})",
    "atanh": "np.arctanh({x})", "square": "{x} * {x}", "isnan": "np.isnan({x})", "isinf": "np.isinf({x})",
    "logical_not": "np.logical_not({x})", "bitwise_not": "~{x}",
    "selu": "1.0507009873554805 * (np.maximum({x}, 0) + 1.6732632423543772 * np.expm1(np.minimum({x}, 0)))",
}  # fmt: skip


@_writes(" ".join(_UNARY))
def _unary(w: Writer, op: Op) -> str:
    return _UNARY[op.kind].format(x=w(op.inputs[0]))


@_writes("sigmoid erf")
def _helped(w: Writer, op: Op) -> str:
    return f"{w.use(op.kind)}({w(op.inputs[0])})"


@_writes("silu mish logsigmoid gelu softplus")
def _composed(w: Writer, op: Op) -> str:
    x = w(op.inputs[0])
    if op.kind == "silu":
        return f"{x} * {w.use('sigmoid')}({x})"
    if op.kind == "mish":
        return f"{x} * np.tanh({w.use('softplus')}({x}, 1.0, 20.0))"
    if op.kind == "logsigmoid":
        return f"-{w.use('softplus')}(-{x}, 1.0, 1e30)"
    if op.kind == "softplus":
        return f"{w.use('softplus')}({x}, {_real(op.attrs['beta'])}, {_real(op.attrs['threshold'])})"
    if op.attrs.get("approximate", "none") == "none":
        return f"0.5 * {x} * (1 + {w.use('erf')}({x} * 0.7071067811865476))"
    return f"0.5 * {x} * (1 + np.tanh(0.7978845608028654 * ({x} + 0.044715 * {x} * {x} * {x})))"


@_writes("leaky_relu elu celu hardsigmoid threshold clamp masked_fill prelu")
def _attributed(w: Writer, op: Op) -> str:
    x, a = w(op.inputs[0]), op.attrs
    if op.kind == "leaky_relu":
        return f"np.where({x} > 0, {x}, {x} * {_real(a['negative_slope'])})"
    if op.kind == "elu":
        return f"np.where({x} > 0, {x}, {_real(a['alpha'])} * np.expm1(np.minimum({x}, 0)))"
    if op.kind == "celu":
        alpha = _real(a["alpha"])
        return f"np.maximum({x}, 0) + np.minimum(0, {alpha} * np.expm1({x} / {alpha}))"
    if op.kind == "hardsigmoid":
        return f"np.clip({x} * {_real(a['alpha'])} + {_real(a['beta'])}, 0, 1)"
    if op.kind == "threshold":
        return f"np.where({x} > {_real(a['threshold'])}, {x}, {_real(a['value'])})"
    if op.kind == "masked_fill":
        return f"np.where({w(op.inputs[1])}, {_scalar(op, a['value'])}, {x})"
    if op.kind == "prelu":
        weight = op.inputs[1]
        if weight is None or not weight.is_const or op.inputs[0] is None or op.inputs[0].rank is None:
            raise Inexpressible("prelu has a slope that is computed")
        shape = [-1 if i == 1 else 1 for i in range(op.inputs[0].rank)] if weight.numpy().size > 1 else [1]
        return f"np.where({x} > 0, {x}, {x} * {w(weight)}.reshape({shape}))"
    bounds = [f"{n}({{}}, {_scalar(op, a[k])})" for k, n in (("min", "np.maximum"), ("max", "np.minimum"))
              if a.get(k) is not None]  # fmt: skip
    for bound in bounds:
        x = bound.format(x)
    return x


def _scalar(op: Op, value: Any) -> str:
    dtype = op.outputs[0].dtype or ""
    return repr(int(value)) if "int" in dtype else repr(bool(value)) if dtype == "bool" else _real(value)


_BINARY = {
    "add": "{x} + {y}", "sub": "{x} - {y}", "mul": "{x} * {y}", "div": "{x} / {y}", "pow": "np.power({x}, {y})",
    "maximum": "np.maximum({x}, {y})", "minimum": "np.minimum({x}, {y})", "atan2": "np.arctan2({x}, {y})",
    "remainder": "np.remainder({x}, {y})", "fmod": "np.fmod({x}, {y})", "floor_divide": "np.floor_divide({x}, {y})",
    "eq": "{x} == {y}", "ne": "{x} != {y}", "lt": "{x} < {y}", "le": "{x} <= {y}", "gt": "{x} > {y}",
    "ge": "{x} >= {y}", "logical_and": "np.logical_and({x}, {y})", "logical_or": "np.logical_or({x}, {y})",
    "logical_xor": "np.logical_xor({x}, {y})", "bitwise_and": "{x} & {y}", "bitwise_or": "{x} | {y}",
    "bitwise_xor": "{x} ^ {y}", "matmul": "np.matmul({x}, {y})", "dynamic_clamp": "",
    "trunc_divide": "np.sign({x}) * np.sign({y}) * (np.abs({x}) // np.abs({y}))",
}  # fmt: skip


@_writes(" ".join(_BINARY))
def _binary(w: Writer, op: Op) -> str:
    if op.kind == "dynamic_clamp":
        x, low, high = (w(value) for value in op.inputs)
        x = x if low == "None" else f"np.maximum({x}, {low})"
        return x if high == "None" else f"np.minimum({x}, {high})"
    if op.kind == "div" and "int" in (op.outputs[0].dtype or ""):
        raise Inexpressible("division of integers")
    return _BINARY[op.kind].format(x=w(op.inputs[0]), y=w(op.inputs[1]))


@_writes("where")
def _where(w: Writer, op: Op) -> str:
    return f"np.where({', '.join(w(v) for v in op.inputs)})"


@_writes("cast")
def _cast(w: Writer, op: Op) -> str:
    return f'{w(op.inputs[0])}.astype("{op.attrs["dtype"]}")'


# -- products, reductions --------------------------------------------------------------------------------------------


@_writes("linear gemm einsum conv1d conv2d conv3d batch_norm layer_norm rms_norm max_pool1d max_pool2d max_pool3d")
def _layer(w: Writer, op: Op) -> str:
    a = op.attrs
    ins = [w(value) for value in op.inputs] + ["None"] * 2
    if op.kind == "linear":
        return f"np.matmul({ins[0]}, {ins[1]}.T)" + (f" + {ins[2]}" if ins[2] != "None" else "")
    if op.kind == "gemm":
        x, y = (f"{t}.T" if a[k] else t for t, k in zip(ins, ("trans_a", "trans_b"), strict=False))
        text = f"{_real(a['alpha'])} * np.matmul({x}, {y})" if a["alpha"] != 1 else f"np.matmul({x}, {y})"
        return text + (f" + {_real(a['beta'])} * {ins[2]}" if ins[2] != "None" else "")
    if op.kind == "einsum":
        return f"np.einsum({a['equation']!r}, {', '.join(w(v) for v in op.operands)})"
    if op.kind.startswith("conv"):
        sizes = f"{_ints(a['stride'])}, {tuple(map(tuple, a['padding']))!r}, {_ints(a['dilation'])}, {a['groups']}"
        return f"{w.use('conv')}({', '.join(ins[:3])}, {sizes})"
    if op.kind.startswith("max_pool"):
        if a["ceil_mode"]:
            raise Inexpressible("max_pool rounds its size up")
        sizes = f"{_ints(a['kernel'])}, {_ints(a['stride'])}, {tuple(map(tuple, a['padding']))!r}, "
        return f"{w.use('max_pool')}({ins[0]}, {sizes}{_ints(a['dilation'])})"
    x, (weight, bias), eps = ins[0], ins[1:3], _real(a["eps"])
    if op.kind == "batch_norm":
        rank = (op.outputs[0].rank or 2) - 2
        shape = f".reshape({(-1, *[1] * rank)!r})"
        text = f"({x} - {ins[3]}{shape}) / np.sqrt({ins[4]}{shape} + {eps})"
        weight, bias = (t if t == "None" else t + shape for t in (weight, bias))
    else:
        axes = f"axis={_ints(a['axes'])}, keepdims=True"
        if op.kind == "rms_norm":
            bias = "None"
            text = f"{x} / np.sqrt(np.mean({x} * {x}, {axes}) + {eps})"
        else:
            text = f"({x} - np.mean({x}, {axes})) / np.sqrt(np.var({x}, {axes}) + {eps})"
    text += f" * {weight}" if weight != "None" else ""
    return text + (f" + {bias}" if bias != "None" else "")


@_writes("avg_pool1d avg_pool2d avg_pool3d")
def _avg_pool(w: Writer, op: Op) -> str:
    a = op.attrs
    if a["ceil_mode"] or a["divisor_override"] is not None:
        raise Inexpressible("avg_pool rounds its size up, or has a divisor of its own")
    sizes = f"{_ints(a['kernel'])}, {_ints(a['stride'])}, {tuple(map(tuple, a['padding']))!r}"
    return f"{w.use('avg_pool')}({w(op.inputs[0])}, {sizes}, {bool(a['count_include_pad'])})"


_REDUCE = {
    "sum": "np.sum", "mean": "np.mean", "prod": "np.prod", "amax": "np.max", "amin": "np.min", "all": "np.all",
    "any": "np.any",
}  # fmt: skip


@_writes(" ".join((*_REDUCE, "logsumexp var std norm")))
def _reduce(w: Writer, op: Op) -> str:
    x, a = w(op.inputs[0]), op.attrs
    over = f"axis={_ints(a['axes'])}, keepdims={bool(a['keepdim'])}"
    if op.kind in _REDUCE:
        return f"{_REDUCE[op.kind]}({x}, {over})"
    if op.kind == "logsumexp":
        return f"np.log(np.sum(np.exp({x}), {over}))"
    if op.kind in ("var", "std"):
        return f"np.{op.kind}({x}, {over}, ddof={a['correction']})"
    if a["p"] == 1:
        return f"np.sum(np.abs({x}), {over})"
    if a["p"] == 2:
        return f"np.sqrt(np.sum({x} * {x}, {over}))"
    raise Inexpressible(f"a {a['p']}-norm")


@_writes("softmax log_softmax lp_normalize cumsum argmax argmin max_dim min_dim")
def _along(w: Writer, op: Op) -> str:
    x, a = w(op.inputs[0]), op.attrs
    axis = a["axis"]
    if op.kind == "softmax":
        return f"{w.use('softmax')}({x}, {axis})"
    if op.kind == "log_softmax":
        return f"np.log({w.use('softmax')}({x}, {axis}))"
    if op.kind == "cumsum":
        return f"np.cumsum({x}, {axis})"
    if op.kind == "lp_normalize":
        if a["p"] not in (1, 2):
            raise Inexpressible(f"a {a['p']}-norm")
        total = f"np.abs({x})" if a["p"] == 1 else f"{x} * {x}"
        size = f"np.sum({total}, {axis}, keepdims=True)"
        size = size if a["p"] == 1 else f"np.sqrt({size})"
        return f"{x} / np.maximum({size}, {_real(a['eps'])})"
    if op.kind in ("argmax", "argmin"):
        keep = f", keepdims={bool(a['keepdim'])}" if axis is not None else ""
        if axis is None and a["keepdim"]:
            raise Inexpressible("argmax over everything keeps its rank")
        return f"np.{op.kind}({x}, axis={axis}{keep})"
    name = op.kind[:3]
    keep = f"keepdims={bool(a['keepdim'])}"
    return f"np.{name}({x}, axis={axis}, {keep}), np.arg{name}({x}, axis={axis}, {keep})"


@_writes("topk sort dynamic_topk")
def _sort(w: Writer, op: Op) -> str:
    x, a = w(op.inputs[0]), op.attrs
    axis = a["axis"]
    order = f"{w.use('ordered')}({x}, {axis}, {bool(a['descending'] if op.kind == 'sort' else a['largest'])})"
    if op.kind != "sort":
        count = a["k"] if op.kind == "topk" else f"int({w(op.inputs[1])}.reshape(-1)[0])"
        order = f"np.take({order}, range({count}), {axis})"
    index = f"{w.name(op.outputs[1].name)}_order"
    return f"np.take_along_axis({x}, ({index} := {order}), {axis}), {index}"


# -- shapes ----------------------------------------------------------------------------------------------------------


@_writes("reshape flatten squeeze unsqueeze expand permute repeat flip roll tril triu pixel_shuffle pixel_unshuffle")
def _moved(w: Writer, op: Op) -> str:
    x, a, out = w(op.inputs[0]), op.attrs, op.outputs[0].shape
    if op.kind == "permute":
        return f"{x}.transpose({_ints(a['dims'])})"
    if op.kind == "repeat":
        return f"np.tile({x}, {_ints(a['repeats'])})"
    if op.kind == "flip":
        return f"np.flip({x}, {_ints(a['axes'])})"
    if op.kind == "roll":
        if not a["axes"]:
            return f"np.roll({x}, {_ints(a['shifts'])[1:-1].rstrip(',')})"
        return f"np.roll({x}, {_ints(a['shifts'])}, {_ints(a['axes'])})"
    if op.kind in ("tril", "triu"):
        return f"np.{op.kind}({x}, {a['diagonal']})"
    if op.kind == "squeeze":
        return f"{x}.squeeze({_ints(a['axes'])})"
    if op.kind == "unsqueeze":
        return f"np.expand_dims({x}, {_ints(a['axes'])})"
    if op.kind.startswith("pixel"):
        return _pixels(op, x)
    if out is None:
        raise Inexpressible(f"the shape of {op.kind} depends on data")
    return f"np.broadcast_to({x}, {_ints(out)})" if op.kind == "expand" else f"{x}.reshape({_ints(out)})"


def _pixels(op: Op, x: str) -> str:
    shape, out, f = op.operands[0].shape, op.outputs[0].shape, op.attrs["factor"]
    if shape is None or out is None:
        raise Inexpressible("the shape of an image depends on data")
    crd = op.attrs["mode"] == "CRD"
    n, c, h, v = shape
    if op.kind == "pixel_shuffle":
        split, order = ((n, c // f**2, f, f, h, v), (0, 1, 4, 2, 5, 3)) if crd else (
            (n, f, f, c // f**2, h, v), (0, 3, 4, 1, 5, 2))  # fmt: skip
    else:
        split, order = (n, c, h // f, f, v // f, f), (0, 1, 3, 5, 2, 4) if crd else (0, 3, 5, 1, 2, 4)
    return f"{x}.reshape({_ints(split)}).transpose({order}).reshape({_ints(out)})"


@_writes("dynamic_reshape dynamic_expand dynamic_unsqueeze dynamic_squeeze dynamic_repeat dynamic_slice")
def _dynamic(w: Writer, op: Op) -> str:
    ins = [w(value) for value in op.inputs]
    if op.attrs or len(ins) < 2:
        raise Inexpressible(f"{op.kind} with sizes of torch's own")
    if op.kind == "dynamic_slice":
        return f"{w.use('slice_dynamic')}({', '.join(ins)})"
    if op.kind == "dynamic_repeat":
        return f"np.tile({ins[0]}, {ins[1]})"
    if op.kind == "dynamic_squeeze":
        return f"{ins[0]}.squeeze(tuple(int(a) for a in {ins[1]}))"
    helper = {"dynamic_reshape": "reshape", "dynamic_expand": "broadcast_to", "dynamic_unsqueeze": "unsqueeze"}
    return f"{w.use(helper[op.kind])}({ins[0]}, {ins[1]})"


@_writes("slice slice_assign select select_assign")
def _box(w: Writer, op: Op) -> str:
    x, a = w(op.inputs[0]), op.attrs
    rank = op.operands[0].rank
    if rank is None:
        raise Inexpressible(f"the rank of what {op.kind} reads is not known")
    at = [":"] * rank
    if op.kind.startswith("select"):
        at[a["axis"]] = str(a["index"])
    else:
        for axis, start, end, step in zip(a["axes"], a["starts"], a["ends"], a["steps"], strict=True):
            stop = "" if step < 0 and end < 0 else end
            at[axis] = f"{start}:{stop}" + (f":{step}" if step != 1 else "")
    box = f"[{', '.join(at)}]"
    if op.kind in ("slice", "select"):
        return x + box
    name = w.name(op.outputs[0].name)
    return f"np.array({x}); {name}{box} = {w(op.inputs[1])}"


@_writes("cat stack split chunk unbind meshgrid dynamic_split")
def _joined(w: Writer, op: Op) -> str:
    a = op.attrs
    if op.kind in ("cat", "stack"):
        name = "concatenate" if op.kind == "cat" else "stack"
        return f"np.{name}(({', '.join(w(v) for v in op.operands)},), {a['axis']})"
    if op.kind == "meshgrid":
        return f"np.meshgrid({', '.join(w(v) for v in op.operands)}, indexing={a['indexing']!r})"
    x, axis = w(op.inputs[0]), a["axis"]
    if op.kind == "dynamic_split":
        return f"np.split({x}, np.cumsum({w(op.inputs[1])})[:-1], {axis})"
    if op.kind == "unbind":
        return f"np.moveaxis({x}, {axis}, 0)"
    shapes = [out.shape for out in op.outputs]
    if any(shape is None for shape in shapes):
        raise Inexpressible(f"the shapes of {op.kind} depend on data")
    ends = np.cumsum([shape[axis] for shape in shapes if shape is not None])[:-1].tolist()
    return f"np.split({x}, {ends}, {axis})"


@_writes("pad dynamic_pad")
def _pad(w: Writer, op: Op) -> str:
    x, a = w(op.inputs[0]), op.attrs
    mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[a["mode"]]
    if op.kind == "dynamic_pad":
        if op.inputs[3] is not None:
            raise Inexpressible("a padding with axes that are computed")
        pairs = f"{w(op.inputs[1])}.reshape(2, -1).T.tolist()"
        value = f"{w(op.inputs[2])}" if op.inputs[2] is not None else "0"
    else:
        pairs, value = repr(tuple((int(p), int(q)) for p, q in a["padding"])), _scalar(op, a["value"])
    fill = f", constant_values={value}" if mode == "constant" else ""
    return f'{w.use("pad_negative")}({x}, {pairs}, mode="{mode}"{fill})'


# -- indexing --------------------------------------------------------------------------------------------------------


@_writes("gather index_select take embedding index gather_nd scatter_nd scatter masked_select nonzero one_hot")
def _indexed(w: Writer, op: Op) -> str:
    a = op.attrs
    ins = [w(value) for value in op.operands]
    if op.kind == "gather":
        return f"np.take_along_axis({ins[0]}, {ins[1]}, {a['axis']})"
    if op.kind in ("index_select", "take"):
        return f"np.take({ins[0]}, {ins[1]}, {a['axis']})"
    if op.kind == "embedding":
        return f"{ins[0]}[{ins[1]}]"
    if op.kind == "index":
        at = [":"] * (max(a["axes"]) + 1)
        for axis, text in zip(a["axes"], ins[1:], strict=True):
            at[axis] = text
        return f"{ins[0]}[{', '.join(at)}]"
    if op.kind == "gather_nd":
        if a["batch_dims"]:
            raise Inexpressible("gather_nd with batch axes")
        return f"{w.use('gather_nd')}({ins[0]}, {ins[1]})"
    if op.kind in ("scatter_nd", "scatter"):
        if a["reduction"] != "none":
            raise Inexpressible(f"{op.kind} that reduces")
        if op.kind == "scatter_nd":
            return f"{w.use('scatter_nd')}({', '.join(ins)})"
        name = w.name(op.outputs[0].name)
        return f"{ins[0]}.copy(); np.put_along_axis({name}, {ins[1]}, {ins[2]}, {a['axis']})"
    if op.kind == "masked_select":
        return f"np.broadcast_to({ins[0]}, {ins[1]}.shape)[{ins[1]}]"
    if op.kind == "one_hot":
        return f"np.eye({a['depth']})[{ins[0]}]"
    return f"np.stack(np.nonzero({ins[0]}))" if a.get("layout") == "onnx" else f"np.argwhere({ins[0]})"


@_writes("nms dynamic_nms")
def _nms(w: Writer, op: Op) -> str:
    a = op.attrs
    ins = [w(value) for value in op.inputs]
    if a.get("layout") != "onnx":
        if op.kind != "nms":
            raise Inexpressible("nms with a threshold that is computed")
        return f"{w.use('nms')}({ins[0]}, {ins[1]}, {_real(a['iou_threshold'])})"
    center = int(a.get("center_point_box", 0))
    if op.kind == "nms":
        floor = a.get("score_threshold")
        numbers = f"{a['max_boxes']}, {_real(a['iou_threshold'])}, {None if floor is None else _real(floor)}"
        return f"{w.use('nms_onnx')}({ins[0]}, {ins[1]}, {numbers}, {center})"
    given = [*ins[2:], *["None"] * 3][:3]
    count = "0" if given[0] == "None" else f"int({given[0]}.reshape(-1)[0])"
    iou = "0.0" if given[1] == "None" else f"float({given[1]}.reshape(-1)[0])"
    floor = given[2] if given[2] == "None" else f"float({given[2]}.reshape(-1)[0])"
    return f"{w.use('nms_onnx')}({ins[0]}, {ins[1]}, {count}, {iou}, {floor}, {center})"


@_writes("roi_align")
def _roi_align(w: Writer, op: Op) -> str:
    a = op.attrs
    numbers = f"{_ints(a['output_size'])}, {_real(a['scale'])}, {max(int(a['sampling_ratio']), 0)}"
    tail = f"{a['mode']!r}, {bool(a['aligned'])}"
    return f"{w.use('roi_align')}({', '.join(w(v) for v in op.inputs)}, {numbers}, {tail})"


@_writes("grid_sample")
def _grid_sample(w: Writer, op: Op) -> str:
    a = op.attrs
    x, grid = op.operands
    if x.shape is None or len(x.shape) != 4:
        raise Inexpressible("grid_sample of volumes")
    return (
        f"{w.use('grid_sample')}({w(x)}, {w(grid)}, {a['mode']!r}, {a['padding_mode']!r}, {bool(a['align_corners'])})"
    )


@_writes("resize")
def _resize(w: Writer, op: Op) -> str:
    a = op.attrs
    if a["antialias"]:
        raise Inexpressible("resize with antialias")
    scales = None if a["scales"] is None else tuple(float(s) for s in a["scales"])
    modes = f"{a['mode']!r}, {a['coordinates']!r}, {a['nearest_mode']!r}, {_real(a['cubic_coeff'])}"
    return f"{w.use('resize')}({w(op.inputs[0])}, {_ints(a['sizes'])}, {scales!r}, {modes})"


# -- generators ------------------------------------------------------------------------------------------------------


@_writes("arange full fill eye linspace shape size dynamic_arange dynamic_full")
def _made(w: Writer, op: Op) -> str:
    a = op.attrs
    ins = [w(value) for value in op.inputs]
    if op.kind == "arange":
        return f"np.arange({a['start']!r}, {a['end']!r}, {a['step']!r})"
    if op.kind == "dynamic_arange":
        if len(ins) != 3 or a.keys() - {"dtype"}:
            raise Inexpressible("arange with ends of torch's own")
        return f"np.arange({', '.join(f'{t}.reshape(-1)[0]' for t in ins)})"
    if op.kind == "full":
        return f"np.full({_ints(a['shape'])}, {_scalar(op, a['value'])})"
    if op.kind == "dynamic_full":
        if len(ins) != 1 or a.keys() - {"value", "dtype"}:
            raise Inexpressible("full with sizes of torch's own")
        return f"np.full(tuple(int(n) for n in {ins[0]}), {_scalar(op, a['value'])})"
    if op.kind == "fill":
        return f"np.full({ins[0]}.shape, {_scalar(op, a['value'])})"
    if op.kind == "eye":
        return f"np.eye({a['rows']}, {a['cols']}, {a['diagonal']})"
    if op.kind == "linspace":
        return f"np.linspace({_real(a['start'])}, {_real(a['end'])}, {a['steps']})"
    if op.kind == "size":
        return f"np.array({ins[0]}.size, np.int64)"
    return f"np.array({ins[0]}.shape[{a.get('start', '')}:{'' if a.get('end') is None else a['end']}], np.int64)"
