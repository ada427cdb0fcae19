# SPDX-License-Identifier: Apache-2.0
"""Plans that were made once and hold for every op alike.

A network repeats itself: a hundred activations of a few shapes. Where the rules looked at nothing but an op's kind,
attributes, shapes and dtypes - not at its neighbours, and it has no constants - what replaces it is the same for the
next op with these, under other names. :class:`Replay` keeps such a replacement as a recipe.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from porter.ops import Op, Origin, Value
from porter.rewrite import Fragment

__all__ = ["Replay", "signature"]


def signature(op: Op) -> Hashable | None:
    """What judging and rewriting may read of an op without constants: equal for ops that differ in names only.

    None where it has a constant, whose data may be read, or an attribute that has no hash.
    """
    key: list[Any] = [op.kind]
    if op.attrs:
        key += op.attrs.items()
    inputs = op.inputs
    for value in inputs:
        if value is None:
            key.append(None)
        elif value.is_const:
            return None
        else:
            key.append(value.shape)
            key.append(value.dtype)
    if len(inputs) > 1:  # x * x is not x * y
        names = [value and value.name for value in inputs]
        if len({*names}) < len(names):
            key.append(tuple(map(names.index, names)))
    for value in op.outputs:
        key.append(value.shape)
        key.append(value.dtype)
    found = tuple(key)
    if op.attrs:
        try:
            hash(found)
        except TypeError:
            return None
    return found


@dataclass(slots=True)
class _Step:
    kind: str
    #: Of each operand: an index into the op's inputs, the rest of a name, or a constant that all replays share.
    inputs: tuple[int | str | Value | None, ...]
    outputs: tuple[tuple[str, tuple[int, ...] | None, str | None], ...]
    attrs: Mapping[str, Any]
    rules: tuple[str, ...]


class Replay:
    """A fragment as a recipe: see :meth:`of`."""

    __slots__ = ("_results", "_steps")

    def __init__(self, steps: list[_Step], results: tuple[str, ...]) -> None:
        self._steps, self._results = steps, results

    @classmethod
    def of(cls, op: Op, fragment: Fragment, prefix: str) -> Replay | None:
        """The recipe of what replaces ``op``, whose new values have names that begin with ``prefix``.

        None where it cannot be one: it merges other ops, reads other values, or is a constant or the operand itself.
        """
        if fragment.merged or op.origin.rules:
            return None
        given: dict[str, int] = {}
        for i, value in enumerate(op.inputs):
            if value is not None:
                given.setdefault(value.name, i)
        cut = len(prefix)
        made: set[str] = set()
        steps = []
        for inner in fragment.ops:
            inputs: list[int | str | Value | None] = []
            for value in inner.inputs:
                if value is None or value.is_const:
                    inputs.append(value)
                elif value.name in made:
                    inputs.append(value.name[cut:])
                elif value.name in given:
                    inputs.append(given[value.name])
                else:
                    return None
            names = [value.name for value in inner.outputs]
            if inner.name != names[0] or not all(name.startswith(prefix) for name in names):
                return None
            made.update(names)
            outputs = tuple((value.name[cut:], value.shape, value.dtype) for value in inner.outputs)
            steps.append(_Step(inner.kind, tuple(inputs), outputs, inner.attrs, inner.origin.rules))
        if not all(value.name in made for value in fragment.results):
            return None
        return cls(steps, tuple(value.name[cut:] for value in fragment.results))

    def fragment(self, op: Op, prefix: str) -> Fragment:
        """What replaces ``op``, which has the signature of the first one and no rules behind it."""
        given, source = op.inputs, op.origin
        values: dict[str, Value] = {}
        ops = []
        origin = Origin()
        for step in self._steps:
            if origin.rules != step.rules:
                origin = Origin(source.file, source.line, source.function, source.module, source.source, step.rules)
            inputs = tuple([
                given[of] if isinstance(of, int) else values[of] if isinstance(of, str) else of for of in step.inputs
            ])  # fmt: skip
            outputs = tuple([Value(prefix + rest, shape, dtype) for rest, shape, dtype in step.outputs])
            for (rest, _, _), value in zip(step.outputs, outputs, strict=True):
                values[rest] = value
            ops.append(Op(step.kind, inputs, outputs, step.attrs, outputs[0].name, origin))
        return Fragment(ops, tuple([values[rest] for rest in self._results]))
