# SPDX-License-Identifier: Apache-2.0
"""Is a rewritten model the same function? As a whole, and in its parts, each by the bound that its rules state.

A model's outputs can differ by more than its rules allow where a comparison, a rank or a rounding turns one float
rounding into another choice. So each value that the original and the rewritten model both have is computed again by
the rewritten model's own ops from the *original's* values just before it: no error is carried on, and what is left is
that of the rules in between.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from porter.graph import Graph
from porter.ops import Array, Op
from porter.registry import rules
from porter.verify import DEFAULT_TOLERANCE, TensorError, compare

__all__ = ["Region", "equal", "regions", "within_bound"]

#: onnxruntime computes these by rational approximations (MLAS): version 1.32 is 1.7e-7 (sigmoid) and 2.7e-7 (tanh) from
#: the function at most, as measured at 200,001 points from -20 to 20. That is the runtime's, not the rule's.
_APPROXIMATED = frozenset({"sigmoid", "tanh", "gelu", "mish", "lstm", "gru", "rnn"})
_KERNEL = 3e-7


def equal(a: Array, b: Array) -> bool:
    """Bit for bit but for the sign of zeros; NaN is NaN."""
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


@dataclass(frozen=True, slots=True)
class Region:
    """The ops of the rewritten model between values that the original has as well, and the one that they compute.

    ``was``: the kind of the op that computed it in the original.
    """

    value: str
    was: str
    inputs: tuple[str, ...]
    rules: tuple[str, ...]
    ops: tuple[Op, ...]


def regions(before: Graph, after: Graph) -> list[Region]:
    """The regions of ``after`` in which something was changed."""
    old = {out.name: op for op in before.ops() for out in op.outputs}
    specs = {v.name: (v.shape, v.dtype) for v in before.inputs}
    specs |= {out.name: (out.shape, out.dtype) for op in before.ops() for out in op.outputs}
    made, read = after.producers(), before.uses()  # what nobody reads can have no name in the framework
    kept = {
        v.name
        for v in [*after.inputs, *(out for op in after.ops() for out in op.outputs)]
        if v.shape is not None and v.name in read and specs.get(v.name) == (v.shape, v.dtype)
    }
    found = []
    for name in sorted(kept & made.keys()):
        ops, inputs = _upto(name, made, kept)
        was = old.get(name)
        if len(ops) == 1 and was is not None and _alike(was, ops[0]):
            continue
        touched = dict.fromkeys(rule for op in ops for rule in op.origin.rules)
        found.append(Region(name, was.kind if was else "", inputs, tuple(touched), tuple(ops)))
    return found


def _upto(name: str, made: dict[str, Op], kept: set[str]) -> tuple[list[Op], tuple[str, ...]]:
    ops: list[Op] = []
    seen: set[int] = set()
    inputs: dict[str, None] = {}
    stack = [made[name]]
    while stack:
        op = stack.pop()
        if id(op) in seen:
            continue
        seen.add(id(op))
        ops.append(op)
        for v in op.operands:
            if v.is_const:
                continue
            if v.name in kept:
                inputs[v.name] = None
            else:
                stack.append(made[v.name])
    return ops, tuple(inputs)


def _alike(a: Op, b: Op) -> bool:
    names = [None if v is None else v.name for v in a.inputs], [None if v is None else v.name for v in b.inputs]
    return a.kind == b.kind and dict(a.attrs) == dict(b.attrs) and names[0] == names[1] and not b.origin.rules


def within_bound(region: Region, want: Array, got: Array, operands: Sequence[Array]) -> str:
    """ "" where ``got`` is ``want`` within the bounds of the region's rules, else what is wrong.

    Where all of them are bit-equal, so must this be. Of one rule whose bound is in units in the last place, absolute
    or relative, it is that bound. Else it is what porter's proof of a model demands: 1e-4 of the range.
    """
    if want.shape != got.shape or want.dtype != got.dtype:
        return f"{want.dtype}{list(want.shape)} became {got.dtype}{list(got.shape)}"
    if equal(want, got):
        return ""
    known = rules()
    errors = [known[name].error for name in region.rules if name in known]
    finite = all(np.isfinite(x).all() for x in operands if x.dtype.kind == "f")
    # onnxruntime computes most of half precision in float32, and rounds between two operators or not.
    exact = want.dtype != np.float16 and all(
        not error or (error.startswith("bit-equal") and finite) for error in errors
    )
    error = compare(region.value, want, got)
    if exact and region.rules:
        return f"not bit-equal by {', '.join(region.rules)}: {_told(error)}"
    stated = len(errors) == 1 and re.fullmatch(r"([\d.e-]+ (ulp|absolute|relative) ?)+", errors[0])
    # The bound of a norm is for a mean that is not large beside the deviation, and equal values have none.
    if stated and want.dtype.kind == "f" and not region.was.endswith("_norm"):
        excess = _excess(errors[0], want, got) - _of_kernels(region, want)
        return f"{region.rules[0]} promises {errors[0]}: off by {excess:.3g} more, {_told(error)}" if excess > 0 else ""
    if not finite and any(known[name].claim != "exact" for name in region.rules if name in known):
        return ""  # a bound is of finite numbers
    if error.within(DEFAULT_TOLERANCE) or (
        not error.mismatched and error.max_abs <= _of_magnitudes(errors, want, operands)
    ):
        return ""
    return f"{', '.join(region.rules) or 'no rule'}: {_told(error)}"


def _of_kernels(region: Region, want: Array) -> float:
    if not _APPROXIMATED & {region.was, *(op.kind for op in region.ops)}:
        return 0.0
    return _KERNEL * max(1.0, float(np.abs(want[np.isfinite(want)]).max(initial=0.0)))


def _of_magnitudes(errors: Sequence[str], want: Array, operands: Sequence[Array]) -> float:
    """What bounds "of the sum of magnitudes" (or of the largest |x|) allow: where a sum cancels, its own range says
    nothing of its rounding."""
    numbers = [re.match(r"([\d.e-]+) (ulp )?of ", text) for text in errors]
    if not all(numbers) or want.dtype.kind != "f":
        return 0.0
    grain = float(np.finfo(want.dtype).eps)
    share = sum(float(m[1]) * (grain if m[2] else grain / float(np.finfo(np.float32).eps)) for m in numbers if m)
    floats = [x for x in operands if x.dtype.kind == "f" and x.size]
    return share * max((float(np.abs(x).max()) * max(1.0, x.size / max(want.size, 1)) for x in floats), default=0.0)


def _excess(text: str, want: Array, got: Array) -> float:
    """By how much the difference is over a bound such as "2 ulp" or "1e-06 relative 4e-07 absolute"."""
    finite = np.isfinite(want) & np.isfinite(got)
    if not np.array_equal(want[~finite], got[~finite], equal_nan=True):
        return float("inf")
    w, g = want[finite], got[finite]
    # Bounds are stated for float32; one in ulp counts those of the dtype.
    grain = float(np.finfo(want.dtype).eps / np.finfo(np.float32).eps)
    size = np.abs(w.astype(np.float64))
    allowed = np.full(w.shape, float(np.finfo(want.dtype).tiny))
    for number, unit in re.findall(r"([\d.e-]+) (ulp|absolute|relative)", text):
        if unit == "ulp":
            allowed += float(number) * np.spacing(np.maximum(np.abs(w), np.finfo(w.dtype).tiny)).astype(np.float64)
        else:
            allowed += float(number) * grain * (size if unit == "relative" else 1.0)
    return float(np.max(np.abs(g.astype(np.float64) - w) - allowed, initial=0.0))


def _told(error: TensorError) -> str:
    return f"{error.name} differs by {error.max_abs:.3g} of a range of {error.range:.3g}" + (
        f", {error.mismatched} not finite in one" if error.mismatched else ""
    )
