# SPDX-License-Identifier: Apache-2.0
"""A dictionary that a person wrote, made an object of a dataclass: every key known, every value of its type.

The annotations of the dataclass are the schema; its docstring is the documentation. Nothing is converted but lists to
tuples and integers to floats.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from porter.errors import PorterError

__all__ = ["checked", "fill", "nearest"]

T = TypeVar("T")
_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "True or False"}


def nearest(name: str, known: Iterable[str], cutoff: float = 0.0) -> str | None:
    """The known name that is most like ``name``; None when none reaches ``cutoff`` (0 to 1)."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def fill(cls: type[T], given: Any, where: str, *, free: bool = False) -> T:
    """An object of the dataclass ``cls`` from a dictionary.

    Args:
        cls: a dataclass; a field ``rest`` takes what no other field does, when ``free``.
        given: what the configuration says.
        where: its place, such as ``config.py: qat_trainer``, for messages.
        free: keys that the dataclass does not name are allowed, and go to its field ``rest``.

    Raises:
        PorterError: PT700 for a key that there is not, PT701 for a value of the wrong type or one that is missing.
    """
    if not isinstance(given, Mapping):
        raise PorterError("PT701", f"this must be a dict, and is {said(given)}", where)
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.name != "rest"}  # type: ignore[arg-type]
    values, rest = dict[str, Any](), dict[str, Any]()
    for key, value in given.items():
        if key in fields:
            values[key] = checked(hints[key], value, f"{where}[{key!r}]")
        elif free and isinstance(key, str):
            rest[key] = value
        else:
            near = nearest(str(key), fields)
            raise PorterError(
                "PT700", f"there is no key {key!r}", where,
                f"Did you mean {near!r}? There are: {', '.join(fields)}.",
            )  # fmt: skip
    for name, field in fields.items():
        absent = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if absent and name not in values:
            raise PorterError("PT701", f"the key {name!r} is missing", where, f"Add {name}=... to it.")
    if free:
        values["rest"] = rest
    return cls(**values)


def checked(hint: Any, value: Any, where: str) -> Any:
    """``value``, if it is what the annotation says; lists become tuples, and integers floats, where that is asked for.

    Raises:
        PorterError: PT701, which says what is expected.
    """
    ok, made = _match(hint, value)
    if not ok:
        raise PorterError("PT701", f"this must be {_expected(hint)}, and is {said(value)}", where)
    return made


def said(value: Any) -> str:
    """A value in an error message: what it is, then itself, shortened."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _match(hint: Any, value: Any) -> tuple[bool, Any]:
    origin = get_origin(hint)
    if hint is Any:
        return True, value
    if hint is None or hint is type(None):
        return value is None, value
    if origin in (Union, types.UnionType):
        # An exact alternative first: False is no 0.0 where a bool is allowed.
        for one in get_args(hint):
            ok, made = _match(one, value)
            if ok:
                return True, made
        return False, value
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in get_args(hint)), value
    if origin is tuple:
        inner = get_args(hint)[0]
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            return False, value
        pairs = [_match(inner, item) for item in value]
        return all(ok for ok, _ in pairs), tuple(made for _, made in pairs)
    if origin is Callable:
        return callable(value), value
    if origin is not None:
        return isinstance(value, origin), value
    if hint is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number, float(value) if number else value
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    return isinstance(value, hint), value


def _expected(hint: Any) -> str:
    origin = get_origin(hint)
    if hint is None or hint is type(None):
        return "None"
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(one) for one in get_args(hint))
    if origin is Literal:
        return " or ".join(repr(one) for one in get_args(hint))
    if origin is tuple:
        return f"a tuple of {_expected(get_args(hint)[0]).removeprefix('a ')}s"
    if origin is Callable:
        return "a function"
    if origin is not None:
        return f"a {origin.__name__}".replace("a Mapping", "a dict")
    return _WORDS.get(hint, f"a {getattr(hint, '__name__', hint)}")
