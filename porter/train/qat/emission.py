# SPDX-License-Identifier: Apache-2.0
"""What goes to the device's toolchain: the model as ONNX, its quantized form as QDQ ONNX and as TorchScript, the
encodings, and the evidence that they all are the integer network."""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from porter.data import random_inputs
from porter.dialects.onnx import OnnxGraph
from porter.errors import PorterError
from porter.files import atomic_dir, sha256
from porter.ops import Array
from porter.quantize.insert import insert
from porter.quantize.simulate import Simulator
from porter.train.qat.proof import require_same, same_integers
from porter.verify import TensorError, verify

if TYPE_CHECKING:
    from porter.train.qat.integers import IntNetwork

__all__ = ["FORMATS", "emit"]

#: The formats by the name that users write, with the file of each.
FORMATS = {"onnx": "model.onnx", "qdq": "model_qdq.onnx", "traced": "model_traced.pt"}
#: The opset where neither the user nor the target says one.
_OPSET = 17
_RANDOM = 2


def emit(
    network: IntNetwork,
    out: Path,
    opset: int | None,
    formats: Sequence[str],
    inputs: Sequence[Any],
    overwrite: bool,
    beside: Callable[[Path], None] | None = None,
) -> Path:
    """Make the folder ``out``.

    * ``model.onnx`` (format "onnx"): the float model with the trained weights, for a toolchain that quantizes by itself
      from ``encodings.json``, at an opset (and the IR version of that opset) which the target takes;
    * ``model_qdq.onnx`` ("qdq"): with QuantizeLinear and DequantizeLinear; scales for each channel need opset 13,
      whatever the target takes, and int16 has onnxruntime's own operators below opset 21;
    * ``model_traced.pt`` ("traced"): TorchScript of the quantized model in float arithmetic, halves to even;
    * ``encodings.json``; ``emission.json``: the outputs with their scales, opsets, digests of the files, and what was
      compared.

    Args:
        opset: of ``model.onnx``; default: the newest that the target takes, up to 17.
        formats: which of them.
        beside: called with the folder before it appears, to add files of its own (what the host does with the outputs).
        inputs: samples (one batch for each input, as the network takes them) to prove it on, beside two random ones.

    Raises:
        PorterError: PT205 when the target does not take the opset that the model needs; PT206 or PT207 when it does not
            take the model as a whole; PT736 for an unknown format; PT737 when what was written does not compute what
            the integer network computes, bit for bit; PT351 when ONNX has no form for an op; PT510 to PT512 when it
            cannot be written. Nothing is left behind then.
    """
    for name in formats:
        if name not in FORMATS:
            near = difflib.get_close_matches(str(name), FORMATS, n=1, cutoff=0.0)[0]
            raise PorterError("PT736", f"there is no format {name!r}", where="formats",
                              fix=f"Did you mean {near}? There are {', '.join(FORMATS)}.")  # fmt: skip
    items = [*_samples(network, inputs), *random_inputs(network.graph.inputs, _RANDOM, 0)]
    record: dict[str, Any] = {
        "target": network.target.name,
        "outputs": [output.to_json() for output in network.outputs],
        "samples": len(items),
        "files": {},
    }
    with atomic_dir(out, overwrite) as folder:
        network.encodings.save(folder / "encodings.json")
        for name in dict.fromkeys(formats):
            path = folder / FORMATS[name]
            write = {"onnx": _onnx, "qdq": _qdq, "traced": _traced}[name]
            evidence = write(network, path, opset, items)
            record["files"][path.name] = {"format": name, "sha256": sha256(path), **evidence}
        if beside is not None:
            known = set(folder.iterdir())
            beside(folder)
            for path in sorted(set(folder.rglob("*")) - known):
                if path.is_file():
                    name = path.relative_to(folder).as_posix()
                    record["files"][name] = {"format": "host", "sha256": sha256(path)}
        (folder / "emission.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return out


def _samples(network: IntNetwork, inputs: Sequence[Any]) -> list[list[Array]]:
    if not len(inputs):
        return []
    arrays = [x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x) for x in inputs]
    return [[x[i : i + 1] for x in arrays] for i in range(arrays[0].shape[0])]


def _default_opset(network: IntNetwork) -> int:
    taken = network.target.runtime.opset
    return min(taken[1], _OPSET) if taken else _OPSET


def _onnx(network: IntNetwork, path: Path, opset: int | None, items: Sequence[Sequence[Array]]) -> dict[str, Any]:
    import onnx

    graph = OnnxGraph.from_graph(network.graph, opset=opset or _default_opset(network))
    for reason in network.target.judge_model(graph.inputs, graph.outputs, graph.opset):
        if reason.certainty != "unknown":
            raise PorterError(reason.code, str(reason), network.graph.source, "Change the model, or its opset.")
    graph.save(path)
    model = onnx.load(str(path))
    # Toolchains check the IR version; that of the opset is enough once nodes carry no metadata.
    for node in model.graph.node:
        del node.metadata_props[:]
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))
    onnx.save(model, str(path))
    written = OnnxGraph.load(path)
    evidence = verify(network.graph, written, items)
    require_same(path.name, evidence, network.graph.source, "PT737")
    # The same model with the encodings beside it is the integer network.
    simulator = Simulator(insert(written, network.encodings), network.scheme)
    agree = _agreement(network, path, simulator, items, [network.real(network(*item)) for item in items])
    floats = [error.to_json() for error in evidence.outputs]
    return {"opset": written.opset, "ir_version": model.ir_version, "with_encodings": agree, "float": floats}


def _qdq(network: IntNetwork, path: Path, opset: int | None, items: Sequence[Sequence[Array]]) -> dict[str, Any]:
    OnnxGraph.from_graph(network.simulated, opset=opset or _default_opset(network)).save(path)
    written = OnnxGraph.load(path)
    simulator = Simulator(written, network.scheme)
    agree = _agreement(network, path, simulator, items, [network(*item) for item in items])
    return {"opset": written.opset, "integers": agree}


def _agreement(
    network: IntNetwork,
    path: Path,
    simulator: Simulator,
    items: Sequence[Sequence[Array]],
    wanted: Sequence[Sequence[Array]],
) -> str:
    """How the simulation of a file agrees with the integer network, at worst. Raises PT737 where it does not."""
    names = [output.name for output in network.outputs]
    said = []
    for item, want in zip(items, wanted, strict=True):
        how, differs = same_integers(want, simulator.run(list(item)), names)
        if differs:
            raise PorterError(
                "PT737", f"{path.name} is not the integer network: {differs}", network.graph.source,
                "Report this model.",
            )  # fmt: skip
        said.append(how)
    return max(said, key=len)


class _Flat(nn.Module):
    """A module whose outputs are one tuple of tensors."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(tree_leaves(self.module(*inputs)))


def _traced(network: IntNetwork, path: Path, opset: int | None, items: Sequence[Sequence[Array]]) -> dict[str, Any]:
    module = _Flat(network.simulated.module())
    example = tuple(torch.from_numpy(np.asarray(x, order="C")) for x in items[0])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit: what devices' toolchains read
        traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, str(path))
        loaded: Any = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
        errors = [TensorError(output.name) for output in network.outputs]
        for item in items:
            found = loaded(*(torch.from_numpy(np.asarray(x, order="C")) for x in item))
            for error, want, tensor in zip(errors, network(*item), found, strict=True):
                error.add(want, tensor.numpy())
    return {"against the integers": [error.to_json() for error in errors]}
