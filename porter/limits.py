# SPDX-License-Identifier: Apache-2.0
"""The language in which a target states its limits, and the facts of an op that a limit can name.

A limit is one expression that holds or does not hold for an op::

    kernel_h <= in_h and kernel_w <= in_w
    kernel_h * kernel_w * min(4, ceil_div(in_channels, 64)) <= 676
    (dtype, out_dtype) in (("float32", "uint8"), ("float16", "float32"))

It has comparisons, ``in``, ``and``/``or``/``not``, ``+ - * // %``, numbers, strings, ``True``/``False``/``None``,
tuples, subscripts with constant indices, the functions of :data:`FUNCTIONS`, and the names of
:func:`fact_names`. Text is parsed by :mod:`ast`, checked against that list, and interpreted; nothing of it ever
reaches ``eval``. A name whose value an op does not know (a shape that depends on data) makes the
result unknown, by Kleene's three-valued logic: ``groups == 1 or in_h > 7`` still holds for one group.
"""

from __future__ import annotations

import ast
import difflib
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any, Final, cast

from porter.ops import KINDS, Op, Value

__all__ = ["FUNCTIONS", "UNKNOWN", "Expression", "ExpressionError", "Fact", "Unknown", "fact_names", "facts", "parse"]


class Unknown(Enum):
    """The type of :data:`UNKNOWN`."""

    UNKNOWN = "unknown"

    def __repr__(self) -> str:
        return "unknown"


#: What a name is worth when the op does not tell.
UNKNOWN: Final = Unknown.UNKNOWN

Fact = Any  # bool, int, float, str, None, a tuple of these, or UNKNOWN
Facts = Callable[[str], Fact]
_Eval = Callable[[Facts], Fact]

_MAX_TEXT = 1000


class ExpressionError(ValueError):
    """A mistake in the text of an expression. ``fix`` says what to write instead, where that can be guessed."""

    def __init__(self, message: str, fix: str | None = None) -> None:
        super().__init__(message)
        self.fix = fix


class _Undefined(Exception):
    """The expression has no value for this op: None compared by size, an index past the end, a division by zero."""


def _numbers(values: Iterable[Fact]) -> list[Any]:
    checked = list(values)
    for value in checked:
        if not isinstance(value, int | float):
            raise _Undefined(f"{value!r} is not a number")
    return checked


def _spread(args: tuple[Fact, ...]) -> list[Any]:
    values = _numbers(args[0] if len(args) == 1 and isinstance(args[0], tuple) else args)
    if not values:
        raise _Undefined("min or max of nothing")
    return values


def _tuple(value: Fact) -> tuple[Fact, ...]:
    if not isinstance(value, tuple):
        raise _Undefined(f"{value!r} is not a tuple")
    return value


def _ceil_div(a: Fact, b: Fact) -> Fact:
    a, b = _numbers((a, b))
    if b == 0:
        raise _Undefined("division by zero")
    return -(-a // b)


#: Name of a function: (number of arguments or None for one or more, what it computes).
FUNCTIONS: dict[str, tuple[int | None, Callable[..., Fact]]] = {
    "min": (None, lambda *args: min(_spread(args))),
    "max": (None, lambda *args: max(_spread(args))),
    "abs": (1, lambda a: abs(_numbers((a,))[0])),
    "len": (1, lambda a: len(_tuple(a))),
    "prod": (1, lambda a: math.prod(_numbers(_tuple(a)))),
    "ceil_div": (2, _ceil_div),
}

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed limit. ``names`` are the facts it reads."""

    text: str
    names: tuple[str, ...]
    _run: _Eval = field(repr=False, compare=False)
    _marks: tuple[tuple[int, str], ...] = field(repr=False, compare=False)

    def holds(self, facts: Facts) -> tuple[bool | None, str]:
        """Whether it holds, or None with the reason why that cannot be told."""
        try:
            result = self._run(facts)
        except _Undefined as why:
            return None, str(why)
        if result is UNKNOWN:
            missing = [name for name in self.names if facts(name) is UNKNOWN]
            return None, f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not known"
        if not isinstance(result, bool):
            return None, f"its value {result!r} is neither true nor false"
        return result, ""

    def filled(self, facts: Facts) -> str:
        """The text with the value of each name beside it: ``kernel_h 7 <= in_h 4``."""
        parts, start = [], 0
        for end, name in self._marks:
            value = facts(name)
            parts.append(f"{self.text[start:end]} {_show(value)}")
            start = end
        return "".join(parts) + self.text[start:]


def _show(value: Fact) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "?" if value is UNKNOWN else repr(value)


def parse(text: str, names: Iterable[str]) -> Expression:
    """Parse ``text``, which may use ``names``.

    Raises:
        ExpressionError: it is not an expression of the language, or uses a name or a function that there is not.
    """
    if len(text) > _MAX_TEXT:
        raise ExpressionError(f"an expression of {len(text)} characters is longer than {_MAX_TEXT}")
    # A long limit may be written over several lines of the file.
    line = " ".join(text.split())
    try:
        tree = ast.parse(line, mode="eval").body
    except SyntaxError as error:
        at = f" at column {error.offset}" if error.offset else ""
        raise ExpressionError(f"{line!r} is not an expression: {error.msg}{at}") from None
    except (ValueError, RecursionError, MemoryError):
        raise ExpressionError(f"{line!r} is not an expression") from None
    compiler = _Compiler(frozenset(names))
    try:
        run = compiler.compile(tree)
    except RecursionError:
        raise ExpressionError(f"{line!r} is nested too deeply") from None
    if isinstance(tree, ast.BinOp | ast.Tuple) or (isinstance(tree, ast.Constant) and not isinstance(tree.value, bool)):
        raise ExpressionError(f"{line!r} says nothing that could hold or not hold", "Compare it with something.")
    # ast counts UTF-8 bytes; a limit is matched to its own text by characters.
    encoded = line.encode()
    marks = tuple((len(encoded[:end].decode()), name) for end, name in sorted(compiler.marks))
    return Expression(line, tuple(dict.fromkeys(name for _, name in marks)), run, marks)


class _Compiler:
    """Turns the syntax tree into closures, node by node; a node that is not on the list is an error."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self.marks: list[tuple[int, str]] = []

    def compile(self, node: ast.expr) -> _Eval:
        method = getattr(self, f"_{type(node).__name__}", None)
        if method is None:
            raise ExpressionError(
                f"{ast.unparse(node)!r} is not part of the language of limits",
                f"Use comparisons, in, and/or/not, + - * // %, numbers, strings, tuples, and {', '.join(FUNCTIONS)}.",
            )
        return cast(_Eval, method(node))

    def _Constant(self, node: ast.Constant) -> _Eval:
        value = node.value
        if value is not None and not isinstance(value, bool | int | float | str):
            raise ExpressionError(f"{value!r} is not a number, a string, True, False or None")
        return lambda facts: value

    def _Name(self, node: ast.Name) -> _Eval:
        name = node.id
        if name not in self._names:
            near = difflib.get_close_matches(name, self._names, n=1)
            listed = ", ".join(sorted(self._names))
            fix = f"Did you mean {near[0]!r}?" if near else f"The names are: {listed}."
            raise ExpressionError(f"there is no fact {name!r} of this op", fix)
        self.marks.append((node.end_col_offset or 0, name))
        return lambda facts: facts(name)

    def _Tuple(self, node: ast.Tuple) -> _Eval:
        items = [self.compile(item) for item in node.elts]

        def run(facts: Facts) -> Fact:
            values = tuple(item(facts) for item in items)
            return UNKNOWN if UNKNOWN in values else values

        return run

    def _Subscript(self, node: ast.Subscript) -> _Eval:
        of = self.compile(node.value)
        index = self._index(node.slice)

        def run(facts: Facts) -> Fact:
            value = of(facts)
            if value is UNKNOWN:
                return UNKNOWN
            try:
                return _tuple(value)[index]
            except IndexError:
                raise _Undefined(f"{value!r} has no element {index}") from None

        return run

    def _index(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Slice):
            lower, upper, step = (part and self._index(part) for part in (node.lower, node.upper, node.step))
            if step == 0:
                raise ExpressionError("a slice's step cannot be 0")
            return slice(lower, upper, step)
        try:
            index = ast.literal_eval(node)
        except ValueError:
            index = None
        if not isinstance(index, int) or isinstance(index, bool):
            raise ExpressionError(f"{ast.unparse(node)!r} is not a constant whole number; an index must be one")
        return index

    def _BoolOp(self, node: ast.BoolOp) -> _Eval:
        parts = [self.compile(part) for part in node.values]
        decides = isinstance(node.op, ast.Or)

        def run(facts: Facts) -> Fact:
            known = True
            for part in parts:
                value = part(facts)
                if value is UNKNOWN:
                    known = False
                elif not isinstance(value, bool):
                    raise _Undefined(f"{value!r} is neither true nor false")
                elif value is decides:
                    return decides
            return not decides if known else UNKNOWN

        return run

    def _UnaryOp(self, node: ast.UnaryOp) -> _Eval:
        of = self.compile(node.operand)
        if isinstance(node.op, ast.Not):

            def negate(facts: Facts) -> Fact:
                value = of(facts)
                if value is not UNKNOWN and not isinstance(value, bool):
                    raise _Undefined(f"{value!r} is neither true nor false")
                return UNKNOWN if value is UNKNOWN else not value

            return negate
        if not isinstance(node.op, ast.USub):
            raise ExpressionError(f"{ast.unparse(node)!r} is not part of the language of limits")

        def minus(facts: Facts) -> Fact:
            value = of(facts)
            return UNKNOWN if value is UNKNOWN else -_numbers((value,))[0]

        return minus

    def _BinOp(self, node: ast.BinOp) -> _Eval:
        compute = _ARITHMETIC.get(type(node.op))
        if compute is None:
            raise ExpressionError(
                f"{ast.unparse(node)!r} uses an operator that is not part of the language of limits",
                "Use + - * // % and ceil_div.",
            )
        left, right = self.compile(node.left), self.compile(node.right)

        def run(facts: Facts) -> Fact:
            a, b = left(facts), right(facts)
            if a is UNKNOWN or b is UNKNOWN:
                return UNKNOWN
            a, b = _numbers((a, b))
            try:
                return compute(a, b)
            except (ZeroDivisionError, OverflowError):
                raise _Undefined(f"{ast.unparse(node)} divides by zero or overflows") from None

        return run

    def _Compare(self, node: ast.Compare) -> _Eval:
        operands = [self.compile(part) for part in (node.left, *node.comparators)]
        tests = [self._test(op, node) for op in node.ops]

        def run(facts: Facts) -> Fact:
            known = True
            left = operands[0](facts)
            for test, operand in zip(tests, operands[1:], strict=True):
                right = operand(facts)
                if left is UNKNOWN or right is UNKNOWN:
                    known = False
                elif not test(left, right):
                    return False
                left = right
            return True if known else UNKNOWN

        return run

    def _test(self, op: ast.cmpop, node: ast.Compare) -> Callable[[Fact, Fact], bool]:
        if isinstance(op, ast.Eq | ast.NotEq):
            return operator.eq if isinstance(op, ast.Eq) else operator.ne
        if isinstance(op, ast.In | ast.NotIn):
            wanted = isinstance(op, ast.In)
            return lambda a, b: (a in _tuple(b)) is wanted
        order = _ORDER.get(type(op))
        if order is None:
            raise ExpressionError(f"{ast.unparse(node)!r} uses 'is'", "Use == or !=.")
        compare = order

        def test(a: Fact, b: Fact) -> bool:
            return compare(*_numbers((a, b)))

        return test

    def _Call(self, node: ast.Call) -> _Eval:
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        if name not in FUNCTIONS:
            near = difflib.get_close_matches(name, FUNCTIONS, n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise ExpressionError(f"there is no function {name!r}", f"{hint}The functions are {', '.join(FUNCTIONS)}.")
        arity, function = FUNCTIONS[name]
        if node.keywords or not node.args or (arity is not None and len(node.args) != arity):
            takes = "one or more arguments" if arity is None else f"{arity} argument{'s' if arity > 1 else ''}"
            raise ExpressionError(f"{ast.unparse(node)!r}: {name} takes {takes}")
        args = [self.compile(arg) for arg in node.args]

        def run(facts: Facts) -> Fact:
            values = [arg(facts) for arg in args]
            return UNKNOWN if UNKNOWN in values else function(*values)

        return run


# -- facts -------------------------------------------------------------------------------------------------------

_Get = Callable[[Op], Fact]
_Pick = Callable[[Op], Value | None]


def facts(op: Op) -> dict[str, Fact]:
    """Every fact of ``op`` that a limit on its kind can name (see :func:`fact_names`), with its value."""
    return {name: get(op) for name, get in fact_names(op.kind).items()}


@cache
def fact_names(kind: str) -> Mapping[str, _Get]:
    """The facts of a kind, each with the function that reads it from an op.

    Every kind has ``dtype rank elements in_shape in_n in_c in_d in_h in_w`` of its first operand (channels first: axis
    0 is n, axis 1 is c, then d, h, w from the last axis back; an axis that is not there counts as 1), the same of the
    first output (``out_dtype out_rank out_elements out_shape out_n ...``), and ``input_count output_count``. By kind:

    * its attributes, by their names (``axis axes steps groups mode ...``), except an attribute ``dtype``, which is
      ``out_dtype``;
    * its operands, ``X_shape X_rank X_dtype X_const X_present`` for an operand named X (``weight_const``);
    * a second operand: ``in1_shape in1_rank in1_dtype in1_const in1_elements in1_n in1_c in1_d in1_h in1_w``,
      ``in1_value`` (of a constant of one element), and ``broadcast``: whether any two operands differ in shape;
    * convolutions and pools: ``kernel kernel_d kernel_h kernel_w stride_h dilation_h ... pad_front pad_back pad_top
      pad_bottom pad_left pad_right``; convolutions and linear: ``in_channels out_channels``; convolutions:
      ``depthwise`` (one group a channel, and more than one);
    * ``axis``: ``axis_extent``; ``axes``: ``axes_extents``; ``pad``: ``pad_begin pad_end``; ``resize``:
      ``scale_d scale_h scale_w``.
    """
    names: dict[str, _Get] = {}
    _tensor_facts(names, "in_", "", _operand(0))
    _tensor_facts(names, "out_", "out_", _output)
    names["input_count"] = lambda op: len(op.operands)
    names["output_count"] = lambda op: len(op.outputs)
    base = kind.removeprefix("dynamic_")
    spec = KINDS.get(base)
    if spec is None:
        return names
    operands = spec.inputs.split()
    attrs = [part.partition(":")[0] for part in spec.attrs.split() if part[0].isalpha()]
    for attr in attrs:
        if attr != "dtype":
            names[attr] = _attr(attr)
    for i, operand in enumerate(operands):
        if not operand.endswith("*"):
            _operand_facts(names, operand.rstrip("?"), _operand(i))
    if len(operands) > 1 and not operands[1].endswith("*"):
        _tensor_facts(names, "in1_", "in1_", _operand(1))
        names["in1_const"] = lambda op: (v := _operand(1)(op)) is not None and v.is_const
        names["in1_value"] = _value_of_second
        names["broadcast"] = _broadcast
    if "axis" in attrs:
        names["axis_extent"] = _axis_extent
    if "axes" in attrs:
        names["axes_extents"] = _axes_extents
    if base == "pad":
        names["pad_begin"] = lambda op: _pads(op, 0)
        names["pad_end"] = lambda op: _pads(op, 1)
    if base == "resize":
        names.update({f"scale_{role}": _scale(role) for role in "dhw"})
    if base == "linear":
        names["in_channels"] = lambda op: _at(_shape(_operand(0)(op)), -1)
        names["out_channels"] = lambda op: _at(_shape(_operand(1)(op)), 0)
    if base.startswith("conv"):
        names["in_channels"] = lambda op: _at(_shape(_operand(0)(op)), 1)
        names["out_channels"] = _out_channels
        names["depthwise"] = _depthwise
        names["kernel"] = lambda op: UNKNOWN if (s := _shape(_operand(1)(op))) is UNKNOWN else s[2:]
    if base.startswith(("conv", "max_pool", "avg_pool")):
        _window_facts(names)
    return names


def _operand(i: int) -> _Pick:
    return lambda op: op.inputs[i] if i < len(op.inputs) else None


def _output(op: Op) -> Value | None:
    return op.outputs[0] if op.outputs else None


def _shape(value: Value | None) -> Any:
    return UNKNOWN if value is None or value.shape is None else value.shape


def _dtype(value: Value | None) -> Fact:
    return UNKNOWN if value is None or value.dtype is None else value.dtype


def _count(shape: Any, compute: Callable[[tuple[int, ...]], int]) -> Fact:
    return UNKNOWN if shape is UNKNOWN else compute(shape)


def _at(items: Any, index: int) -> Fact:
    return UNKNOWN if items is UNKNOWN or not -len(items) <= index < len(items) else items[index]


def _extent(shape: Any, role: str) -> Fact:
    if shape is UNKNOWN:
        return UNKNOWN
    rank = len(shape)
    axis = {"n": 0, "c": 1, "w": max(rank - 1, 2), "h": max(rank - 2, 2), "d": max(rank - 3, 2)}[role]
    least = {"n": 1, "c": 2, "w": 3, "h": 4, "d": 5}[role]
    return shape[axis] if rank >= least else 1


def _tensor_facts(names: dict[str, _Get], prefix: str, scalar: str, pick: _Pick) -> None:
    """Facts of one tensor: ``prefix`` before its extents, ``scalar`` before rank, dtype and elements."""
    names[f"{prefix}shape"] = lambda op: _shape(pick(op))
    names[f"{scalar}dtype"] = lambda op: _dtype(pick(op))
    names[f"{scalar}rank"] = lambda op: _count(_shape(pick(op)), len)
    names[f"{scalar}elements"] = lambda op: _count(_shape(pick(op)), math.prod)
    for role in "ncdhw":
        names[f"{prefix}{role}"] = _role(pick, role)


def _role(pick: _Pick, role: str) -> _Get:
    return lambda op: _extent(_shape(pick(op)), role)


def _operand_facts(names: dict[str, _Get], name: str, pick: _Pick) -> None:
    names[f"{name}_shape"] = lambda op: _shape(pick(op))
    names[f"{name}_rank"] = lambda op: _count(_shape(pick(op)), len)
    names[f"{name}_dtype"] = lambda op: _dtype(pick(op))
    names[f"{name}_const"] = lambda op: (value := pick(op)) is not None and value.is_const
    names[f"{name}_present"] = lambda op: pick(op) is not None


def _attr(name: str) -> _Get:
    return lambda op: _frozen(op.attrs.get(name, UNKNOWN))


def _frozen(value: Any) -> Fact:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _value_of_second(op: Op) -> Fact:
    value = _operand(1)(op)
    if value is None or not value.is_const or math.prod(value.shape or (1,)) != 1:
        return UNKNOWN
    return value.numpy().reshape(-1)[0].item()


def _broadcast(op: Op) -> Fact:
    shapes = {_shape(value) for value in op.operands}
    return UNKNOWN if UNKNOWN in shapes else len(shapes) > 1


def _axis_extent(op: Op) -> Fact:
    axis = op.attrs.get("axis")
    shape = _shape(_operand(0)(op))
    if axis is None and shape is not UNKNOWN:
        return math.prod(shape)
    return UNKNOWN if axis is None else _at(shape, axis)


def _axes_extents(op: Op) -> Fact:
    axes = op.attrs.get("axes")
    extents = () if axes is None else tuple(_at(_shape(_operand(0)(op)), axis) for axis in axes)
    return UNKNOWN if axes is None or UNKNOWN in extents else extents


def _pads(op: Op, side: int) -> Fact:
    pairs = op.attrs.get("padding")
    return UNKNOWN if pairs is None else tuple(pair[side] for pair in pairs)


def _scale(role: str) -> _Get:
    def get(op: Op) -> Fact:
        source = _extent(_shape(_operand(0)(op)), role)
        result = _extent(_shape(_output(op)), role)
        if UNKNOWN in (source, result) or not source:
            return UNKNOWN
        return result / source if result % source else result // source

    return get


def _out_channels(op: Op) -> Fact:
    shape = _shape(_operand(1)(op))
    if not op.kind.removeprefix("dynamic_").startswith("conv_transpose"):
        return _at(shape, 0)
    per_group, groups = _at(shape, 1), op.attrs.get("groups")
    return UNKNOWN if per_group is UNKNOWN or groups is None else per_group * groups


def _depthwise(op: Op) -> Fact:
    groups = op.attrs.get("groups")
    channels = _at(_shape(_operand(0)(op)), 1)
    if groups == 1:
        return False
    return UNKNOWN if groups is None or channels is UNKNOWN else groups == channels


def _window_facts(names: dict[str, _Get]) -> None:
    kernel = names["kernel"]
    for back, role in enumerate("whd", 1):
        names[f"kernel_{role}"] = _from_end(kernel, back, 1)
        for attr in ("stride", "dilation"):
            if attr in names:
                names[f"{attr}_{role}"] = _from_end(names[attr], back, 1)
    sides = ("left", "right"), ("top", "bottom"), ("front", "back")
    for back, pair in enumerate(sides, 1):
        for side, name in enumerate(pair):
            names[f"pad_{name}"] = _pad_side(names["padding"], back, side)


def _from_end(get: _Get, back: int, missing: int) -> _Get:
    def value(op: Op) -> Fact:
        items = get(op)
        if items is UNKNOWN or not isinstance(items, tuple):
            return UNKNOWN
        return items[-back] if back <= len(items) else missing

    return value


def _pad_side(get: _Get, back: int, side: int) -> _Get:
    def value(op: Op) -> Fact:
        pairs = get(op)
        if pairs is UNKNOWN or not isinstance(pairs, tuple):
            return UNKNOWN
        return pairs[-back][side] if back <= len(pairs) else 0

    return value
