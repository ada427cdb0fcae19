# SPDX-License-Identifier: Apache-2.0
"""What two targets say differently: ops, limits, dtypes, devices, and the values of each section."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from porter.target import Limit, OpSupport, Section, Target

__all__ = ["Difference", "TargetDiff", "diff_targets"]

_SECTIONS = ("runtime", "model", "quantization", "tolerance", "performance", "artifact")
_OP_FIELDS = (
    "device", "certainty", "dtypes", "operand_dtypes", "output_dtypes", "const_inputs", "quantized", "opt_in",
    "fallback", "host_dtypes",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that the two targets say differently. ``what`` is ``conv2d.dtypes`` or ``runtime.opset``; a limit that
    one of them lacks is None there."""

    what: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class TargetDiff:
    """``only_before`` and ``only_after`` are the kinds that one of the two names and the other does not."""

    before: Target
    after: Target
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    ops: tuple[Difference, ...]
    sections: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """Whether the two say the same of every op and in every section."""
        return not (self.only_before or self.only_after or self.ops or self.sections)

    def to_json(self) -> dict[str, Any]:
        return {
            "before": self.before.name,
            "after": self.after.name,
            "only_before": list(self.only_before),
            "only_after": list(self.only_after),
            "ops": [dataclasses.asdict(one) for one in self.ops],
            "sections": [dataclasses.asdict(one) for one in self.sections],
        }


def diff_targets(before: Target, after: Target) -> TargetDiff:
    """Compare two targets. Sources, notes and vendor's names are not compared: they change no verdict."""
    both = [kind for kind in before.ops if kind in after.ops]
    return TargetDiff(
        before,
        after,
        tuple(kind for kind in before.ops if kind not in after.ops),
        tuple(kind for kind in after.ops if kind not in before.ops),
        tuple(one for kind in both for one in _op(before.ops[kind], after.ops[kind])),
        tuple(one for name in _SECTIONS for one in _section(name, getattr(before, name), getattr(after, name))),
    )


def _op(before: OpSupport, after: OpSupport) -> Iterator[Difference]:
    for name in _OP_FIELDS:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            yield Difference(f"{before.kind}.{name}", old, new)
    for name in ("limits", "host_limits"):
        old_limits, new_limits = (dict.fromkeys(map(_text, getattr(op, name))) for op in (before, after))
        for text in old_limits:
            if text not in new_limits:
                yield Difference(f"{before.kind}.{name}", text, None)
        for text in new_limits:
            if text not in old_limits:
                yield Difference(f"{before.kind}.{name}", None, text)


def _text(limit: Limit) -> str:
    unsure = f" ({limit.certainty})" if limit.certainty != "certain" else ""
    return limit.expr.text + (f" where {limit.when.text}" if limit.when else "") + unsure


def _section(name: str, before: Section | None, after: Section | None) -> Iterator[Difference]:
    if before is None or after is None:
        if before is not after:
            yield Difference(name, before and "given", after and "given")
        return
    for part in dataclasses.fields(before):
        old, new = getattr(before, part.name), getattr(after, part.name)
        if part.name != "about" and old != new:
            yield Difference(f"{name}.{part.name}", old, new)
