# SPDX-License-Identifier: Apache-2.0
"""Writing a rewritten model in the format that its path asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from porter.graph import Graph
from porter.report.json import to_json

if TYPE_CHECKING:
    from porter.findings import Report
    from porter.legalize import Ledger
    from porter.verify import Evidence

__all__ = ["save_folder", "save_graph"]


def save_graph(graph: Graph, path: Path, suffix: str, ledger: Mapping[str, Any]) -> None:
    """Write ``graph`` at ``path`` as .onnx, .pt2 or .pt (a TorchScript trace), whatever dialect it has.

    A graph crosses from one dialect to the other by way of the vocabulary: FX to ONNX op by op, ONNX to torch through
    the
    generated module.
    """
    if suffix == ".onnx":
        from porter.dialects.onnx import OnnxGraph

        (graph if isinstance(graph, OnnxGraph) else OnnxGraph.from_graph(graph)).save(path, ledger)
    elif suffix == ".pt2":
        from porter.dialects.fx import FxGraph

        if not isinstance(graph, FxGraph):
            specs = [(v.name, v.shape or (), v.dtype) for v in graph.inputs]
            graph = FxGraph.capture(_module(graph), specs, source=graph.source)
        graph.save(path, ledger)
    else:
        import torch

        example = tuple(torch.zeros(v.shape or (), dtype=getattr(torch, v.dtype or "float32")) for v in graph.inputs)
        with torch.no_grad():
            traced = torch.jit.trace(_module(graph), example, check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(traced, path)


def _module(graph: Graph) -> Any:
    from porter.emit.codegen import generate, load_generated

    return load_generated(generate(graph))


def save_folder(folder: Path, graph: Graph, ledger: Ledger, report: Report, evidence: Evidence | None) -> None:
    """Fill ``folder``: the model in its own format, the ledger, the report, the evidence if there is any; for FX the
    generated source and its weights as well."""
    suffix = ".onnx" if graph.dialect == "onnx" else ".pt2"
    save_graph(graph, folder / f"model{suffix}", suffix, ledger.to_json())
    for name, content in (("ledger", ledger), ("report", report), ("evidence", evidence)):
        if content is not None:
            (folder / f"{name}.json").write_text(to_json(content) + "\n", encoding="utf-8")
    if graph.dialect == "fx":
        from porter.checkpoint import write_checkpoint
        from porter.emit.codegen import generate

        generated = generate(graph)
        (folder / "model.py").write_text(generated.source, encoding="utf-8")
        write_checkpoint(folder / "weights.pt", generated.state, for_torch="1.3", format="legacy")
