# SPDX-License-Identifier: Apache-2.0
"""The head cut: the tensors behind which nothing is left but the decoding of outputs.

A detector ends in arithmetic that is not the accelerator's: boxes are decoded, joined with scores of another size, the
best are chosen, overlapping ones are dropped. Behind the last convolution or matrix product it is all host work, or
work that loses its precision under a common scale; there the device's part had better end.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from porter.errors import PorterError
from porter.findings import Finding, Report
from porter.graph import Graph
from porter.ops import Op
from porter.quantize.conflicts import before_products
from porter.quantize.scheme import PRODUCTS

if TYPE_CHECKING:
    from porter.target import Target

__all__ = ["Cut", "cut_at", "decoding", "ops_between", "propose"]


@dataclass(frozen=True, slots=True)
class Cut:
    """``ends`` are the values where the device's part ends; ``late`` the first outputs of the ops behind them.

    ``why`` is what speaks for it, one clause each; empty for a cut that the user named.
    """

    ends: tuple[str, ...]
    late: frozenset[str]
    why: tuple[str, ...] = ()

    def finding(self) -> Finding:
        """The proposal, as ``porter check`` prints it."""
        many = f"{len(self.late)} op{'s' * (len(self.late) != 1)}"
        return Finding(
            "PT751", "note", f"behind {_some(self.ends)} there is only decoding ({many}): {'; '.join(self.why)}",
            fix="`porter rewrite --cut auto` ends the device's part there and writes the rest for the host, as numpy "
            "code too.",
        )  # fmt: skip


def decoding(
    graph: Graph, followers: Collection[str] = (), constant: Collection[str] = ()
) -> tuple[list[str], list[Op]]:
    """Where the decoding starts - values made by what a product depends on, read by what no product does - and its ops.

    Args:
        followers: kinds that a device computes inside the product before them; they stay with it.
        constant: first outputs of ops that will be precomputed; they do not count.
    """
    ops = graph.ops()
    readers = graph.uses()
    needed = before_products(graph)
    producers = graph.producers()
    late = {
        id(op)
        for op in ops
        if op.kind not in PRODUCTS
        and op.outputs[0].name not in constant
        and not any(out.name in needed for out in op.outputs)
    }
    for op in ops:
        source = producers.get(op.operands[0].name) if op.operands else None
        if source is None or op.kind not in followers or readers[op.operands[0].name] > 1:
            continue
        if source.kind in PRODUCTS and id(source) not in late:
            late.discard(id(op))
    ends: list[str] = []
    for op in ops:
        if id(op) in late:
            made = (producers.get(v.name) for v in op.operands)
            ends += [
                v.name
                for v, by in zip(op.operands, made, strict=True)
                if by is not None and id(by) not in late and by.outputs[0].name not in constant
            ]
    ends += [v.name for v in graph.outputs if v.name in producers and id(producers[v.name]) not in late]
    return list(dict.fromkeys(ends)), [op for op in ops if id(op) in late]


def propose(graph: Graph, target: Target, report: Report, conflicts: Sequence[Finding] | None = None) -> Cut | None:
    """The cut before the decoding, where something speaks for it: ops that the target does not run, or tensors of very
    different size that would share one scale there (PT409).

    Args:
        report: of ``graph`` on ``target``; its ops are the graph's.
        conflicts: what :func:`porter.quantize.bounds.foreseen` says, where the caller has asked already.
    """
    fixed = ("native", "fold", "rewrite")
    if conflicts is None:
        from porter.quantize.bounds import foreseen

        conflicts = foreseen(graph, target)
    if not conflicts and all(one.verdict in fixed for one in report.ops):
        return None
    table = target.quantization
    constant = {one.op.outputs[0].name for one in report.ops if one.op is not None and one.verdict == "fold"}
    ends, late = decoding(graph, table.fused_followers if table is not None else (), constant)
    if not late or not any(op.kind in PRODUCTS for op in graph.ops()):
        return None
    names = frozenset(op.outputs[0].name for op in late)
    illegal = Counter(
        one.kind
        for one in report.ops
        if one.op is not None and one.op.outputs[0].name in names and one.verdict not in fixed
    )
    why = []
    if illegal:
        why.append(f"{target.name} does not run {_some([f'{k} x{n}' if n > 1 else k for k, n in illegal.items()])}")
    behind = {op.name for op in late}
    why += [finding.message for finding in conflicts if finding.op in behind]
    return Cut(tuple(ends), names, tuple(why)) if why else None


def cut_at(graph: Graph, ends: Sequence[str]) -> Cut:
    """The cut at values that the user names.

    Raises:
        PorterError: PT753 when an op computes no such value, or nothing follows it.
    """
    producers = graph.producers()
    unknown = [name for name in ends if name not in producers]
    if unknown:
        near = difflib.get_close_matches(unknown[0], producers, n=1)
        hint = f"Did you mean {near[0]}?" if near else "`porter check --format json` lists the ops."
        raise PorterError("PT753", f"no op of {graph.source} computes {unknown[0]!r}", "--cut", hint)
    behind = {*ends}
    late = []
    for op in graph.ops():
        if not behind.isdisjoint(v.name for v in op.operands):
            late.append(op.outputs[0].name)
            behind.update(out.name for out in op.outputs)
    if not late:
        raise PorterError("PT753", f"nothing follows {_some(ends)} in {graph.source}", "--cut", "Cut further up.")
    return Cut(tuple(ends), frozenset(late))


def ops_between(graph: Graph, inputs: Iterable[str], outputs: Iterable[str], *, forms: bool = False) -> list[Op]:
    """The ops that lead from some values to others, in order, with those that make constants for them; with ``forms``
    also those that the graph's own forms of them read (:meth:`porter.graph.Graph.reads`)."""
    known = {*inputs}
    needed = {*outputs} - known
    kept: list[Op] = []
    for op in reversed(graph.ops()):
        if any(out.name in needed for out in op.outputs):
            kept.append(op)
            needed.update(v.name for v in op.operands if not v.is_const and v.name not in known)
            if forms:
                needed.update(name for name in graph.reads(op) if name not in known)
    return kept[::-1]


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
