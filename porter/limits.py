# SPDX-License-Identifier: Apache-2.0
"""The language in which a target states its limits.

A limit is one expression that holds or does not hold for an op::

    kernel_h <= in_h and kernel_w <= in_w
    kernel_h * kernel_w * min(4, ceil_div(in_channels, 64)) <= 676
    (dtype, out_dtype) in (("float32", "uint8"), ("float16", "float32"))

It has comparisons, ``in``, ``and``/``or``/``not``, ``+ - * // %``, numbers, strings, ``True``/``False``/``None``,
tuples, subscripts with constant indices, the functions of :data:`FUNCTIONS`, and the names of
:func:`porter.op_facts.fact_names`. Text is parsed by :mod:`ast`, checked against that list, and interpreted;
nothing of it ever reaches ``eval``. A name whose value an op does not know (a shape that depends on data) makes the
result unknown, by Kleene's three-valued logic: ``groups == 1 or in_h > 7`` still holds for one group.
"""

from __future__ import annotations

import ast
import difflib
import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, cast

__all__ = ["FUNCTIONS", "UNKNOWN", "Expression", "ExpressionError", "Fact", "Facts", "Unknown", "parse"]


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
