# SPDX-License-Identifier: Apache-2.0
"""A module made ready to be trained: its legal graph, its plan, and the names and first values of its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from porter.dialects.fx import FxGraph
from porter.findings import Finding
from porter.graph import Graph
from porter.legalize import Ledger
from porter.quantize.exact import EXACT
from porter.quantize.numerics import Dtype
from porter.quantize.plan import Plan
from porter.quantize.scheme import PRODUCTS, Scheme
from porter.target import Target
from porter.train.qat.batch_norm import Norm, Unit
from porter.train.qat.outputs import OutputRule
from porter.train.qat.program import Compiled, Key, Program, Source, compile_program
from porter.verify import Evidence

__all__ = ["Initial", "Prepared", "Preparer", "Shared", "constant_groups", "put", "quantizer_names", "summed"]


@dataclass(frozen=True, slots=True)
class Initial:
    """A tensor of the network's state at the start."""

    data: Tensor
    parameter: bool
    trains: bool
    persistent: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """A module captured for one batch size, made legal and planned.

    Fields:
        leaves: the dtype in which each output leaves the device; None: a float, or the accumulator.
        sources, units, norms: as :func:`~porter.train.qat.program.compile_program` takes them.
        made: the constants that rewrites made of a layer's tensors, by the names of these.
    """

    graph: FxGraph
    plan: Plan
    rules: dict[str, OutputRule]
    leaves: dict[str, Dtype | None]
    sources: dict[str, Source]
    units: dict[str, Unit]
    norms: dict[str, Norm]
    made: frozenset[str]
    ledger: Ledger
    findings: list[Finding]

    def compiled(self) -> Compiled:
        return compile_program(self.graph, self.plan, self.sources, self.units, self.norms)


class Preparer(Protocol):
    """Captures the module again for another batch size; see :mod:`porter.train.qat.convert`."""

    def __call__(self, examples: Sequence[Tensor]) -> Prepared:
        """The module captured with these inputs."""

    def plan(
        self, graph: Graph, rules: Mapping[str, OutputRule], findings: list[Finding]
    ) -> tuple[Plan, dict[str, Dtype | None]]:
        """The plan of its graph, perhaps with other weights, and in what dtype each output leaves."""


@dataclass(slots=True)
class Shared:
    """What copies of a network have in common: nothing of it changes in training."""

    target: Target
    scheme: Scheme
    prepared: Prepared
    preparer: Preparer
    evidence: Evidence
    observer: str
    mode: Literal["fuse_bn", "with_bn"]
    any_batch: bool | None = None
    programs: dict[int, Program] = field(default_factory=dict)

    def __deepcopy__(self, memo: Any) -> Shared:
        return self


def put(root: nn.Module, name: str, held: Initial) -> tuple[nn.Module, str]:
    """Register a tensor under its dotted name; which module holds it, and how it is called there.

    Children go in past ``add_module``, which would refuse names that the network's own methods have.
    """
    *parents, leaf = name.split(".")
    holder = root
    for part in parents:
        child = holder._modules.get(part)
        if child is None:
            child = holder._modules[part] = nn.Module()
        holder = child
    if held.parameter:
        holder._parameters[leaf] = nn.Parameter(held.data, held.trains)
    else:
        holder._buffers[leaf] = held.data
        if not held.persistent:
            holder._non_persistent_buffers_set.add(leaf)
    return holder, leaf


def summed(prepared: Prepared) -> set[str]:
    """The groups that hold sums or means of integers, which the device rounds as they are: scales in the ratio 1:2 make
    every second one an exact half. (A product's result is a half by chance only.)"""
    planned, producers = prepared.plan, prepared.graph.producers()
    if planned.scheme.flow != "tensors":
        return set()
    found = set()
    for group in planned.groups:
        for op in (producers[name] for name in group.sources if name in producers):
            if op.kind in EXACT and op.kind not in PRODUCTS and planned.fused.isdisjoint(v.name for v in op.operands):
                found.add(group.name)
    return found


def constant_groups(prepared: Prepared) -> dict[str, Source]:
    """The constants that are quantized on their own (a factor that is learned), by the name of their group."""
    constants = {v.name for op in prepared.graph.ops() for v in op.operands if v.is_const}
    return {
        group.name: prepared.sources[group.sources[0]]
        for group in prepared.plan.groups
        if len(group.sources) == 1 and group.sources[0] in constants and group.sources[0] in prepared.sources
    }


def quantizer_names(prepared: Prepared, keys: Sequence[Key]) -> dict[Key, str]:
    """A name for each quantizer that stays when the module is captured again: the module and the kind of what makes
    its tensor ("head/cls/0/conv2d"), with a number where there are several."""
    producers = prepared.graph.producers()
    groups = {group.name: group for group in prepared.plan.groups}
    found: dict[Key, str] = {}
    taken: set[str] = set()
    for name, dtype in keys:
        group = groups[name]
        first = group.sources[0] if group.sources else group.values[0]
        op = producers.get(first)
        stem = first if op is None else "/".join(filter(None, [(op.origin.module or "").replace(".", "/"), op.kind]))
        stem = stem.replace(".", "/") + ("" if dtype == group.dtype else f"_{dtype}")
        unique, number = stem, 1
        while unique in taken:
            number += 1
            unique = f"{stem}_{number}"
        taken.add(unique)
        found[name, dtype] = unique
    return found
