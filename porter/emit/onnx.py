# SPDX-License-Identifier: Apache-2.0
"""The bundle for a target that reads ONNX: the model, its quantized forms with QDQ, golden data, a manifest; where a
vendor's compiler comes next, the script that calls it (:mod:`porter.emit.vendor`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from porter.emit.bundle import Job

__all__ = ["write"]


def write(job: Job, folder: Path) -> dict[str, Any]:
    """Fill ``folder``: ``model.onnx``, and ``model_int8.onnx`` or ``model_int16.onnx`` with QuantizeLinear and
    DequantizeLinear, and the compiler's script; returns the keys that this kind adds to the manifest."""
    from porter.dialects.onnx import OnnxGraph
    from porter.emit import vendor
    from porter.emit.bundle import quantization_of
    from porter.quantize.writers import write_qdq

    graph = job.graph if isinstance(job.graph, OnnxGraph) else OnnxGraph.from_graph(job.graph)
    graph.save(folder / "model.onnx")
    quantization = {}
    for made in job.quantized:
        name = f"model_{made.encodings.dtype}.onnx"
        write_qdq(made, folder / name)
        made.encodings.save(folder / f"encodings_{made.encodings.dtype}.json")
        quantization[made.encodings.dtype] = {**quantization_of(made), "file": name}
    return {"onnx": {"file": "model.onnx"}, "quantization": quantization, **vendor.write(job, folder)}
