# SPDX-License-Identifier: Apache-2.0
"""Rewriting an ONNX model whose batch stays open: made at two batches, joined, and proved at three others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from porter.errors import PorterError
from porter.findings import Report
from porter.graph import Graph
from porter.legalize import FOLD, Ledger, LedgerEntry, legalize
from porter.rewrite import Claim
from porter.target import Target

if TYPE_CHECKING:
    from porter.dialects.onnx import OnnxGraph
    from porter.verify import Evidence

__all__ = ["PROVED_AT", "rewrite_open"]

#: Above 1, where an axis is an axis; the smallest, for a graph is run at the first of them.
_MADE_AT = (2, 3)
#: Neither of the two that the model is made at, and 1.
PROVED_AT = (1, 4, 5)


def rewrite_open(
    model: Any,
    target: Target,
    allow: Collection[Claim],
    apply: Sequence[str],
    *,
    inputs: Any,
    data: Any,
    verify: bool,
    samples: int,
    seed: int,
    tolerance: float,
    explain: bool,
    opset: int | None,
    progress: Callable[[str], None] | None,
    loading: Mapping[str, Any],
) -> tuple[Graph, Ledger, Report, Report, Evidence | None]:
    """Make ``model`` legal for ``target`` with its first axes left open: the graph, the ledger, the reports before and
    after (at batch 2), and the evidence of the batch with the largest difference.

    Raises:
        PorterError: PT354 the target or the model fixes the batch; PT506, PT507 the model has no open first axis, or
            others; PT519 it is not ONNX, or something fixes the batch.
    """
    from porter.loading import load

    if target.runtime.static_shapes:
        raise PorterError("PT354", f"the batch cannot stay open: {target.name} compiles for fixed shapes", None,
                          "Fix it with --batch N, once for each batch that is used.")  # fmt: skip
    given = {"--batch": loading.get("batch"), "--input": inputs, "--data": data}
    for option, value in given.items():
        if value is not None:
            raise PorterError("PT519", f"{option} fixes the batch that --open-batch leaves open", option,
                              "Give one of them; the proof is made on random inputs of several batches.")  # fmt: skip
    from porter.dialects.onnx import OnnxGraph
    from porter.dialects.onnx_batch import join_batches

    graphs = [load(model, None, **loading, batch=batch) for batch in _MADE_AT]

    rewritten = [legalize(graph, target, allow, apply, progress, explain=explain, opset=opset) for graph in graphs]
    made, other = rewritten[0][0], rewritten[1][0]
    assert isinstance(made, OnnxGraph) and isinstance(other, OnnxGraph)  # load() refuses a batch of anything else
    joined = join_batches(made, other, "batch")
    _, ledger, before, after = rewritten[0]
    made_by = joined.producers()
    for name in joined.opened:
        op = made_by[name]
        ledger.entries.append(LedgerEntry(op.kind, name, (FOLD,), "exact", "", (op.kind,), op.origin))
    evidence = None
    if verify:
        evidence = _proved(model, joined, ledger, samples, seed, tolerance, progress, loading)
    return joined, ledger, before, after, evidence


def _proved(
    model: Any,
    joined: OnnxGraph,
    ledger: Ledger,
    samples: int,
    seed: int,
    tolerance: float,
    progress: Callable[[str], None] | None,
    loading: Mapping[str, Any],
) -> Evidence:
    """What would be written is read again at each batch, and held against the model."""
    from porter.data import random_inputs
    from porter.dialects.onnx import OnnxGraph
    from porter.loading import load
    from porter.verify import verify

    found = []
    with TemporaryDirectory() as folder:
        path = Path(folder, "open.onnx")
        joined.save(path)
        for batch in PROVED_AT:
            reference, written = load(model, None, **loading, batch=batch), OnnxGraph.load(path, batch=batch)
            inputs = random_inputs(reference.inputs, samples, seed)
            taps = [entry.value for entry in ledger.entries]
            found.append(verify(reference, written, inputs, taps, tolerance, progress))
    worst = max(found, key=lambda evidence: (not evidence.ok, evidence.worst.mismatched, evidence.worst.relative))
    for entry in ledger.entries:
        entry.measured = worst.taps.get(entry.value)
    worst.inputs = sum(evidence.inputs for evidence in found)
    outcome = "equal" if worst.ok else "NOT equal"
    at = ", ".join(map(str, PROVED_AT))
    ledger.proof = f"{outcome} within {tolerance:g} of each output's range on {worst.inputs} inputs, of batches {at}"
    return worst
