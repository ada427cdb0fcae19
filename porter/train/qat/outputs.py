# SPDX-License-Identifier: Apache-2.0
"""What leaves the device at each output: int8, int16 or the accumulator, as integers or as real numbers."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from porter.errors import PorterError
from porter.findings import Finding
from porter.graph import Graph
from porter.ops import Value
from porter.quantize.numerics import Dtype
from porter.quantize.plan import Group, Plan
from porter.quantize.scheme import Scheme

__all__ = ["OutputRule", "output_rules", "with_outputs"]


@dataclass(frozen=True, slots=True)
class OutputRule:
    """How one output leaves the device.

    Fields:
        int8_output, int16_output: requantized to that dtype. With neither it stays in the accumulator's precision.
        dequant_output: real numbers leave the device; else the integers, and the host multiplies by the scale.
    """

    int8_output: bool = False
    int16_output: bool = False
    dequant_output: bool = True

    @property
    def dtype(self) -> Dtype | None:
        """The dtype that was asked for; None for the accumulator's."""
        return "int16" if self.int16_output else "int8" if self.int8_output else None


_KEYS = tuple(item.name for item in fields(OutputRule))


def output_rules(given: OutputRule | Mapping[str, Any] | None, names: Sequence[str]) -> dict[str, OutputRule]:
    """The rule of each output, by its name.

    Args:
        given: one rule for all (an :class:`OutputRule`, or its fields as a dict), or a dict of such rules by output
            name or pattern (``"cls_*"``). A name goes before a pattern; among patterns the last counts; what nothing
            matches has the defaults.
        names: of all outputs.

    Raises:
        PorterError: PT731 for a key that a rule does not have, a value that is not a bool, int8 and int16 at once, or a
            pattern that matches no output.
    """
    if given is None:
        return dict.fromkeys(names, OutputRule())
    if isinstance(given, OutputRule) or all(key in _KEYS or isinstance(given[key], bool) for key in given):
        return dict.fromkeys(names, _rule(given, "outputs"))
    found: dict[str, OutputRule] = {}
    for pattern in sorted(given, key=lambda key: key in names):
        rule = _rule(given[pattern], f"outputs[{pattern!r}]")
        matched = [name for name in names if name == pattern or fnmatchcase(name, pattern)]
        if not matched:
            near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.0)
            raise PorterError("PT731", f"no output matches {pattern!r}", where="outputs",
                              fix=f"Did you mean {near[0]}? There are {', '.join(names)}.")  # fmt: skip
        found.update(dict.fromkeys(matched, rule))
    return {name: found.get(name, OutputRule()) for name in names}


def _rule(given: Any, where: str) -> OutputRule:
    if isinstance(given, OutputRule):
        rule = given
    else:
        if not isinstance(given, Mapping):
            raise PorterError("PT731", f"a rule of an output is a dict, not {given!r}", where=where,
                              fix=f"Write dict({_KEYS[0]}=..., {_KEYS[1]}=..., {_KEYS[2]}=...).")  # fmt: skip
        for key, value in given.items():
            if key not in _KEYS:
                near = difflib.get_close_matches(str(key), _KEYS, n=1, cutoff=0.0)[0]
                raise PorterError("PT731", f"an output has no {key!r}", where=where, fix=f"Did you mean {near}?")
            if not isinstance(value, bool):
                raise PorterError("PT731", f"{key} is {value!r}; it is True or False", where=where)
        rule = OutputRule(**given)
    if rule.int8_output and rule.int16_output:
        raise PorterError("PT731", "int8_output and int16_output at once", where=where, fix="Choose one of the two.")
    return rule


def with_outputs(
    plan: Plan, graph: Graph, rules: Mapping[str, OutputRule], findings: list[Finding]
) -> tuple[Plan, dict[str, Dtype | None]]:
    """The plan in which outputs are requantized as their rules ask and the target allows.

    Returns the plan, and the dtype in which each output leaves (None: as a float, or the accumulator). Where the target
    cannot do what was asked a finding (PT740) says what it does instead.
    """
    scheme, groups = plan.scheme, plan.group_of()
    extra: list[Group] = []
    leaves: dict[str, Dtype | None] = {}
    for value in graph.outputs:
        asked = rules[value.name].dtype
        group = groups.get(value.name)
        if group is not None:
            leaves[value.name] = group.dtype
            if asked is not None and asked != group.dtype:
                findings.append(_other(value, asked, group.dtype, "integer ops read it as well, or make it so"))
            continue
        dtype = asked if asked is None or _allowed(scheme, asked) else None
        if value.dtype != "float32":
            dtype = None
        if asked is not None and dtype is None:
            why = f"{scheme.target} delivers {', '.join(scheme.table.output_dtypes) or 'floats'}"
            findings.append(_other(value, asked, None, why))
        leaves[value.name] = dtype
        if dtype is not None:
            extra.append(Group(value.name, (value.name,), (value.name,), dtype))
    return replace(plan, groups=[*plan.groups, *extra]), leaves


def _allowed(scheme: Scheme, dtype: Dtype) -> bool:
    """Whether a result can be requantized to ``dtype``: where tensors are integers, by the target's own list."""
    if scheme.flow != "tensors" or dtype not in scheme.table.qmax:
        return False
    return dtype in scheme.table.output_dtypes


def _other(value: Value, asked: Dtype, got: Dtype | None, why: str) -> Finding:
    now = got or "unrounded, as a float or as the accumulator"
    return Finding("PT740", "warning", f"the output {value.name} was to be {asked}; it leaves {now}: {why}",
                   fix=f"Take {asked}_output away, or choose a target that has it.")  # fmt: skip
