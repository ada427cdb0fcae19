# SPDX-License-Identifier: Apache-2.0
"""What a quantized model is written as: Cambricon's state dict, QDQ ONNX, the encodings, the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from porter.errors import PorterError
from porter.findings import Finding
from porter.ops import Array, Value
from porter.paths import PARAMETERS, module_paths
from porter.quantize.aimet import to_aimet
from porter.quantize.numerics import Dtype, stored_scale

if TYPE_CHECKING:
    from porter.quantize.engine import Quantized

__all__ = ["cambricon_state_dict", "module_state", "write_all", "write_qdq", "write_state_dict"]

#: The order in which torch registers the tensors of a module.
_ORDER = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def module_state(quantized: Quantized) -> dict[str, Array]:
    """The float state dict of the model's modules: the tensors of every op that has a module path.

    Batch norms have ``num_batches_tracked`` (int64, shape ()), as torch.nn.BatchNorm2d stores it. Constants that
    belong to no module (grids, anchors) are not in it.
    """
    paths = module_paths(quantized.original)
    state: dict[str, Array] = {}
    for op in quantized.original.ops():
        path = paths.get(op.outputs[0].name)
        if path is None:
            continue
        tensors: dict[str, Array] = {}
        for index, key in PARAMETERS[op.kind]:
            value = op.inputs[index] if index < len(op.inputs) else None
            if isinstance(value, Value):
                tensors[key] = value.numpy()
        if op.kind == "batch_norm":
            tensors["num_batches_tracked"] = np.zeros((), np.int64)
        state.update({f"{path}.{key}": tensors[key] for key in _ORDER if key in tensors})
    return state


def cambricon_state_dict(quantized: Quantized, float_state: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """The state dict that torch_mlu's quantized modules load: the float one, and beside each convolution and linear P

    * ``P.scale``: float32 (2,), [qmax / absmax of the input, qmax / absmax of the weight];
    * ``P.quantized_mode``: int32 (1,), 1 for int8 and 2 for int16;
    * per channel: ``P.quantized_by_channel`` int64 (1,) = 1, ``P.scale_weight_per_channel`` float32 (Co,), and 0.0 in
      place of the weight's scale (the mode becomes 3 or 4 when the file is loaded);
    * the first convolution with ``first_conv``: ``P.input_mean`` and ``P.input_std``, float32 (1, C, 1, 1), in
      pixel units.

    Weights stay float32; the device quantizes them. The order is weight, bias, scale, quantized_mode for a
    convolution and weight, bias, quantized_mode, scale for a linear. (Observed in published checkpoints made on the
    device stack; Cambricon Catch, torch_mlu/core/quantized, for the per-channel and first-conv keys.)

    Args:
        float_state: the float state dict to complete; default :func:`module_state`.

    Raises:
        PorterError: PT413 when it lacks the weight of a quantized layer, or holds another one.
    """
    state = module_state(quantized) if float_state is None else dict(float_state)
    encodings = quantized.encodings
    extra: dict[str, dict[str, Array]] = {}
    for path, layer in encodings.layers.items():
        weight = state.get(f"{path}.weight")
        if weight is None or tuple(weight.shape) != layer.shape:
            raise PorterError(
                "PT413",
                f"the state dict has no {path}.weight of shape {layer.shape}",
                fix="Give the state dict of the model that was quantized.",
            )
        extra[path] = _keys(quantized, path)
    out: dict[str, Array] = {}
    last = {path: f"{path}.{'bias' if f'{path}.bias' in state else 'weight'}" for path in extra}
    ends = {key: path for path, key in last.items()}
    for key, array in state.items():
        out[key] = array
        if key in ends:
            path = ends[key]
            out.update({f"{path}.{name}": added for name, added in extra[path].items()})
    return out


def _keys(quantized: Quantized, path: str) -> dict[str, Array]:
    """The keys of one layer, in the order of the file."""
    encodings, table = quantized.encodings, quantized.target.quantization
    layer, weight = encodings.layers[path], encodings.weights[path]
    dtype, read = weight.dtype, encodings.input_of(path)
    of_input = _stored(read.scale[0], read.absmax[0], read.dtype, quantized, path)
    of_weight = [_stored(s, a, dtype, quantized, path) for s, a in zip(weight.scale, weight.absmax, strict=True)]
    mode = np.array([table.modes[dtype] if table is not None else 0], np.int32)
    scale = np.array([of_input, 0.0 if weight.axis is not None else of_weight[0]], np.float32)
    keys = (
        {"quantized_mode": mode, "scale": scale} if layer.kind == "linear" else {"scale": scale, "quantized_mode": mode}
    )
    if weight.axis is not None:
        keys["quantized_by_channel"] = np.ones(1, np.int64)
        keys["scale_weight_per_channel"] = np.array(of_weight, np.float32)
    first = quantized.first_conv
    if first is not None and first.path == path:
        keys["input_mean"] = np.array(first.mean, np.float32).reshape(1, -1, 1, 1)
        keys["input_std"] = np.array(first.std, np.float32).reshape(1, -1, 1, 1)
    return keys


def _stored(step: float, absmax: float, dtype: Dtype, quantized: Quantized, path: str) -> float:
    """qmax / absmax, or the inverse of a power-of-two step."""
    if quantized.encodings.weights[path].position is not None:
        return 1.0 / step
    return float(stored_scale(absmax, dtype))


def write_state_dict(quantized: Quantized, path: Path, float_state: Mapping[str, Array] | None = None) -> str:
    """Write :func:`cambricon_state_dict` in the format that the target's torch reads; returns the file's SHA-256."""
    from porter.checkpoint import write_checkpoint

    return write_checkpoint(path, cambricon_state_dict(quantized, float_state))


def write_qdq(quantized: Quantized, path: Path, opset: int = 17) -> None:
    """Write the quantized model as ONNX with QuantizeLinear and DequantizeLinear, at ``path`` as it is.

    Args:
        opset: of a model that did not come from ONNX. int16 needs 21; below, onnxruntime's com.microsoft ops are
            written, which it runs at every opset.
    """
    from porter.dialects.onnx import OnnxGraph
    from porter.quantize.engine import insert

    graph = quantized.graph
    if graph.dialect != "onnx":
        graph = insert(OnnxGraph.from_graph(quantized.original, opset=opset), quantized.encodings)
    graph.save(path)


def write_all(quantized: Quantized, folder: Path) -> list[Path]:
    """Write everything into an existing folder, and return the files.

    ``encodings.json``, and the same for other tools as ``encodings_aimet.json``; ``model_<dtype>.onnx`` (QDQ), and for
    a torch model ``model_<dtype>.pt2``, which ``torch.export.load`` reads; ``report.json``, ``report.txt`` and
    ``report.html``; for Cambricon targets ``weights_<dtype>.pt``; ``preprocess.toml`` where images were calibrated on;
    ``tradeoff.json`` and ``tradeoff.svg`` where each layer has a width of its own.
    """
    from porter.report.quantization_html import quantization_html
    from porter.report.tradeoff import tradeoff_svg

    dtype, report = quantized.encodings.dtype, quantized.report
    lines = [report.text(), *map(_line, quantized.findings)]
    aimet = to_aimet(quantized.encodings, quantized.original)
    texts = {
        "encodings_aimet.json": json.dumps(aimet, indent=1),
        "report.json": json.dumps(report.to_json(), indent=1),
        "report.txt": "\n".join(lines),
        "report.html": quantization_html(report).rstrip("\n"),
    }
    if quantized.preprocess is not None:
        texts["preprocess.toml"] = quantized.preprocess.to_toml().rstrip("\n")
    if quantized.mixed is not None:
        texts["tradeoff.json"] = json.dumps(quantized.mixed.to_json(), indent=1)
        texts["tradeoff.svg"] = tradeoff_svg(quantized.mixed).rstrip("\n")
    for name, text in texts.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
    written = [folder / name for name in ("encodings.json", f"model_{dtype}.onnx", *texts)]
    quantized.encodings.save(folder / "encodings.json")
    write_qdq(quantized, folder / f"model_{dtype}.onnx")
    if quantized.graph.dialect == "fx":
        written.append(folder / f"model_{dtype}.pt2")
        quantized.graph.save(written[-1])
    artifact = quantized.target.artifact
    if artifact is not None and artifact.kind.startswith("cambricon"):
        written.append(folder / f"weights_{dtype}.pt")
        write_state_dict(quantized, written[-1])
    return written


def _line(finding: Finding) -> str:
    place = f" [{finding.origin}]" if finding.origin.known else ""
    fix = f" Fix: {finding.fix}" if finding.fix else ""
    return f"{finding.code} {finding.severity}: {finding.message}{place}{fix}"
