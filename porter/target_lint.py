# SPDX-License-Identifier: Apache-2.0
"""Looks a target file over: facts without a source, and what no op can ever meet.

A file with a mistake does not load at all (PT509); what is here loads, and is doubtful.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from porter.limits import Expression
from porter.target import Limit, OpSupport, Section, Target
from porter.toml_lines import Key, lines

__all__ = ["Doubt", "lint"]

_SECTIONS = ("runtime", "model", "quantization", "tolerance", "performance", "artifact")


@dataclass(frozen=True, slots=True)
class Doubt:
    """Something of a target file that loads and is doubtful. ``where`` is ``file:line, key``."""

    code: str
    message: str
    where: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}\n  where: {self.where}"


def lint(path: str | Path) -> list[Doubt]:
    """What is doubtful in the target file at ``path`` (what it extends is not looked at), in the order of its lines.

    Raises:
        PorterError: PT501 or PT509, as :meth:`porter.target.Target.load` does, when it does not load.
    """
    target = Target.load(_as_path(path))
    text = target.path.read_text(encoding="utf-8")
    found = lines(text)
    data = tomllib.loads(text)
    doubts: list[tuple[int, Doubt]] = []
    for code, key, message in (*_sources(data, target), *_limits(data, target), *_unused(data)):
        line = next((found[at] for n in range(len(key), 0, -1) if (at := tuple(key[:n])) in found), 1)
        doubts.append((line, Doubt(code, message, f"{target.path}:{line}, {'.'.join(map(str, key))}")))
    return [doubt for _, doubt in sorted(doubts, key=lambda pair: pair[0])]


def _as_path(path: str | Path) -> str:
    """A path, even where it has neither a slash nor the suffix; the name of an installed target stays one."""
    text = str(path)
    return f"./{text}" if Path(text).is_file() and "/" not in text else text


_Found = tuple[str, Sequence[Key], str]


def _tables(data: Mapping[str, Any]) -> Iterator[tuple[Sequence[Key], Mapping[str, Any], list[str]]]:
    """Each table of ops of the file, with its key and the kinds that it is about."""
    for kind, table in data.get("ops", {}).items():
        yield ("ops", kind), table, [kind]
    for i, table in enumerate(data.get("group", [])):
        yield ("group", i), table, table["kinds"]


def _sources(data: Mapping[str, Any], target: Target) -> Iterator[_Found]:
    for key, _table, kinds in _tables(data):
        op = target.ops[kinds[0]]
        if not op.source:
            what = kinds[0] if len(kinds) == 1 else f"this group ({', '.join(kinds[:3])}, ...)"
            yield _without_source(op.certainty, key, f"what is said of {what}")
    for name in _SECTIONS:
        section: Section | None = getattr(target, name)
        for value in data.get(name, {}):
            if value != "about" and section is not None and not section.fact(value).source:
                yield _without_source(section.fact(value).certainty, (name, value), f"{name}.{value}")


def _without_source(certainty: str, key: Sequence[Key], what: str) -> _Found:
    if certainty in ("certain", "measured"):
        return "PT541", key, f"{what} is {certainty} and has no source"
    return "PT540", key, f"{what} has no source"


# -- limits that decide nothing -----------------------------------------------------------------------------------


def _limits(data: Mapping[str, Any], target: Target) -> Iterator[_Found]:
    for key, table, kinds in _tables(data):
        op = target.ops[kinds[0]]
        own = op.limits[: len(table.get("limits", ()))]
        if own and not _reached(op, target):
            yield "PT542", (*key, "limits"), f"{op.kind} never runs on the accelerator: its limits are never looked at"
            continue
        for i, limit in enumerate(own):
            why = _idle(limit, [other for j, other in enumerate(op.limits) if j != i and (i > j or other != limit)])
            if why:
                yield "PT542", (*key, "limits", i), f"{limit.expr.text!r} decides nothing: {why}"


def _reached(op: OpSupport, target: Target) -> bool:
    return op.device == "accelerator" or bool(op.opt_in) or op.kind in target.runtime.opted_in


def _idle(limit: Limit, others: Sequence[Limit]) -> str:
    """Why ``limit`` decides nothing beside ``others``, or ""."""
    if not limit.expr.names:
        return "it names no fact of the op"
    for other in others:
        if other.certainty == "unknown" != limit.certainty:
            continue  # it only makes the verdict unknown
        if other.when is None or other.when == limit.when:
            if other.expr.text == limit.expr.text:
                return "another limit says the same"
            mine, theirs = _bounds(limit.expr), _bounds(other.expr)
            if mine and theirs is not None and all(_implied(bound, theirs) for bound in mine):
                return f"{other.expr.text!r} is narrower"
    return ""


_Bound = tuple[str, str, float]
_OPS: dict[type[ast.cmpop], str] = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}


def _bounds(expression: Expression) -> list[_Bound] | None:
    """``in_h <= 7 and 2 <= in_w`` as bounds of names by numbers; None where it is anything else."""
    tree = ast.parse(expression.text, mode="eval").body
    parts = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
    found: list[_Bound] = []
    for part in parts:
        if not isinstance(part, ast.Compare):
            return None
        left = part.left
        for operator, right in zip(part.ops, part.comparators, strict=True):
            sign = _OPS.get(type(operator))
            if sign and isinstance(left, ast.Name) and (number := _number(right)) is not None:
                found.append((left.id, sign, number))
            elif sign and isinstance(right, ast.Name) and (number := _number(left)) is not None:
                found.append((right.id, sign.translate(str.maketrans("<>", "><")), number))
            else:
                return None
            left = right
    return found


def _number(node: ast.expr) -> float | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, int | float) else None


def _implied(bound: _Bound, others: Sequence[_Bound]) -> bool:
    name, sign, value = bound
    for other_name, other_sign, other in others:
        if name == other_name and sign[0] == other_sign[0]:
            narrower = other < value if sign[0] == "<" else other > value
            if narrower or (other == value and (sign == other_sign or len(sign) == 2)):
                return True
    return False


# -- what nothing uses ---------------------------------------------------------------------------------------------


def _unused(data: Mapping[str, Any]) -> Iterator[_Found]:
    cited, used = set(_cited(data)), set(_used(data))
    for name in data.get("sources", {}):
        if name not in cited:
            yield "PT543", ("sources", name), f"nothing cites the source {name!r}"
    for name, limit in data.get("limits", {}).items():
        if name not in used and not limit.get("every"):
            yield "PT543", ("limits", name), f"no op has the limit {name!r}"


def _cited(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "source":
                yield from (text.partition(":")[0] for text in ([value] if isinstance(value, str) else value))
            else:
                yield from _cited(value)
    elif isinstance(node, list):
        for item in node:
            yield from _cited(item)


def _used(data: Mapping[str, Any]) -> Iterator[str]:
    for _key, table, _kinds in _tables(data):
        for name in ("limits", "host_limits"):
            yield from (limit for limit in table.get(name, ()) if isinstance(limit, str))
