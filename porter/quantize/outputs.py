# SPDX-License-Identifier: Apache-2.0
"""A model divided in two where its outputs are decoded: the device's part, and the host's part with its proof.

Two ways to keep tensors of very different size (boxes in pixels, scores in 0..1) from sharing one scale: *separate*
makes the tensors that an output joins outputs of their own; *cut* ends the device's part before everything that comes
after the last convolution or matrix product. Either way the host's part computes the model's own outputs from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from porter.errors import PorterError
from porter.graph import Graph
from porter.legalize import DEFAULT_ALLOW, check, legalize
from porter.ops import Array, Op, Value
from porter.partition.cut import decoding, ops_between
from porter.planner import Planner
from porter.quantize.conflicts import MOVES, joined_parts
from porter.quantize.scheme import Scheme
from porter.registry import find_rule
from porter.target import Target

__all__ = ["HostPart", "Outputs", "divide"]

#: What to do with outputs that join tensors: leave them, make the parts outputs, end before the decoding, or give the
#: joined tensors 16 bits.
Outputs = Literal["joined", "separate", "cut", "int16"]

#: Kinds that pick elements of their first operand along one axis.
_PICKS = frozenset({"slice", "select", "split", "chunk", "unbind", "take", "index_select", "gather"})
#: The rules that write them as slices, and the one that takes slices before the concatenation.
_AS_SLICES = ("split_to_slices", "unbind_to_slices", "select_to_slice", "take_to_slices", "gather_to_slices")
_APART = "slice_before_cat"

#: The two parts in a row may differ from the whole by this share of an output's range: other kernels, same arithmetic.
_TOLERANCE = 1e-5


@dataclass(slots=True)
class HostPart:
    """What the host computes: an ONNX graph from the device's outputs (and the model's inputs, where it reads them) to
    the model's own outputs. ``error`` is the largest difference from the whole model on the samples of the proof, as a
    share of an output's range."""

    graph: Graph
    error: float
    samples: int

    def __str__(self) -> str:
        own = {value.name for value in self.graph.outputs}
        ends = ", ".join(value.name for value in self.graph.inputs if value.name not in own)
        return (
            f"The device's part ends at {ends}; the host's part computes the model's own outputs from there, proved on "
            f"{self.samples} samples with an error of at most {self.error:.2g} of an output's range."
        )


def divide(
    graph: Graph, target: Target, scheme: Scheme, how: Outputs, samples: Sequence[Sequence[Array]]
) -> tuple[Graph, HostPart]:
    """The device's part and the host's part of a model, proved to be the model together.

    To be separate, tensors must not have been joined and taken apart again before (a decoder that slices, splits or
    gathers boxes out of all raw outputs): that is done before the concatenation, where the target runs what that makes.

    Args:
        how: ``"separate"`` or ``"cut"``.
        samples: inputs to prove it on.

    Raises:
        PorterError: PT423 when there is nothing to divide, or the parts are not the whole.
    """
    whole = graph
    if how == "cut":
        ends = decoding(graph, scheme.table.fused_followers)[0]
    else:
        graph = _never_joined(whole, target)
        ends = list(_parts(graph))
        if {*ends} == {value.name for value in graph.outputs}:  # the parts are the outputs: a cut before they are made
            graph = whole
            ends = list(_parts(graph))
    values = {v.name: v for op in graph.ops() for v in op.outputs}
    names = [name for name in dict.fromkeys(ends) if name in values]
    if not names or {value.name for value in graph.outputs} == set(names):
        what = "no output joins tensors" if how == "separate" else "nothing follows the last product"
        raise PorterError("PT423", f"--outputs {how}: {what} in {whole.source}", fix="Leave --outputs away.")
    device = graph.with_outputs(names)
    host = _host(graph, [values[name] for name in names])
    return device, HostPart(host, _prove(whole, device, host, samples), len(samples))


def _never_joined(graph: Graph, target: Target) -> Graph:
    """The same model, in which nothing takes apart what a concatenation joined; as it is where the target does not run
    that."""
    sliced = _sliced(graph, target)
    apart, ledger, before, after = legalize(sliced, target, apply=[_APART])
    if not any(_APART in entry.rules for entry in ledger.entries):
        return graph
    could = before.portable if sliced is graph else check(graph, target).portable
    return apart if after.portable or not could else graph


def _sliced(graph: Graph, target: Target) -> Graph:
    """A copy in which slices take apart what concatenations joined, where other kinds did; the graph itself where none
    did."""
    work = graph
    for name in _AS_SLICES:
        picks = {op.outputs[0].name for op in work.ops() if _picked(work.producers(), op) is not None}
        rule = find_rule(name)
        planned = [
            one
            for one in Planner(work, target, DEFAULT_ALLOW, round_=0).optional(rule)
            if one.op.outputs[0].name in picks and one.fragment is not None
        ]
        if planned:
            work = work.copy() if work is graph else work
            by_name = {op.outputs[0].name: op for op in work.ops()}
            work.replace([(by_name[one.op.outputs[0].name], one.fragment) for one in planned if one.fragment])
    return work


def _picked(producers: Mapping[str, Op], op: Op) -> list[Value] | None:
    """The tensors that a concatenation joined, of which ``op`` picks elements by constants; None where it does not."""
    if op.kind not in _PICKS or not all(value.is_const for value in op.operands[1:]):
        return None
    joined = joined_parts(producers, op.operands[0])
    return joined[1] if joined is not None else None


def _parts(graph: Graph) -> Iterator[str]:
    """For each output, the tensors that it joins, or is picked from after they were joined; or itself."""
    producers = graph.producers()
    for value in graph.outputs:
        joined = joined_parts(producers, value)
        parts = joined[1] if joined is not None else _picked_parts(producers, value)
        yield from (part.name for part in parts) if parts is not None else (value.name,)


def _picked_parts(producers: Mapping[str, Op], value: Value) -> list[Value] | None:
    op = producers.get(value.name)
    while op is not None and op.kind in MOVES:
        op = producers.get(op.operands[0].name)
    return None if op is None else _picked(producers, op)


def _host(graph: Graph, cuts: Sequence[Value]) -> Graph:
    """The ops from the cuts to the model's outputs, as ONNX."""
    from porter.dialects.onnx import OnnxGraph

    kept = ops_between(graph, (value.name for value in cuts), (value.name for value in graph.outputs))
    read = {v.name for op in kept for v in op.operands} | {v.name for v in graph.outputs}
    inputs = [value for value in (*cuts, *graph.inputs) if value.name in read]
    return OnnxGraph.from_ops(kept, inputs, graph.outputs, f"{graph.source}, host part")


def _prove(whole: Graph, device: Graph, host: Graph, samples: Sequence[Sequence[Array]]) -> float:
    worst = 0.0
    for item in samples:
        fed = dict(zip((v.name for v in whole.inputs), item, strict=True))
        fed |= zip((v.name for v in device.outputs), device.run(item), strict=True)
        results = host.run([fed[v.name] for v in host.inputs])
        for value, want, got in zip(whole.outputs, whole.run(item), results, strict=True):
            difference = float(np.abs(want.astype(np.float64) - got.astype(np.float64)).max(initial=0.0))
            error = difference / max(float(np.abs(want).max(initial=0.0)), 1e-30)
            worst = max(worst, error)
            if not error <= _TOLERANCE:
                raise PorterError(
                    "PT423", f"the host's part gives {value.name} with an error of {error:.3g} of its range",
                    whole.source, "Leave --outputs away, and report this model.",
                )  # fmt: skip
    return worst
