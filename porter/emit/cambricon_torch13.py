# SPDX-License-Identifier: Apache-2.0
"""The bundle for Cambricon's PyTorch 1.3: source, weights for torch_mlu, and the script that ends the job there.

Files, beside those of every bundle: ``model.py``; ``weights_float.pt`` and ``weights_int16.pt`` or ``weights_int8.pt``
(legacy serialization, which is all that torch 1.3 reads); ``traced.pt`` (TorchScript of the current torch, for hosts: a
modern TorchScript does not load in 1.3, the device's own trace is made by ``port.py``); ``port.py``; ``README.md``.
"""

from __future__ import annotations

import warnings
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from porter.checkpoint import write_checkpoint
from porter.emit.codegen import Generated, generate, load_generated, validate_generated
from porter.errors import PorterError

if TYPE_CHECKING:
    from porter.emit.bundle import Job
    from porter.quantize.engine import Quantized

__all__ = ["write"]

#: torch of the device's environment reports 1.3.0a0.
TORCH = "1.3"


def write(job: Job, folder: Path) -> dict[str, Any]:
    """Fill ``folder``; returns the keys that this kind adds to the manifest.

    Raises:
        PorterError: PT340 and PT341 (see :mod:`porter.emit.codegen`); PT413, PT519 from the weights;
            PT463 when a quantized model has layers of several widths.
    """
    import torch

    for made in job.quantized:
        widths = sorted({layer.width for layer in made.encodings.layers.values()})
        if len(widths) > 1:
            raise PorterError(
                "PT463", f"the layers have {' and '.join(widths)}, and torch_mlu's quantizer is told one dtype for all",
                fix="Give quantized models of one dtype each.",
            )  # fmt: skip
    weights = "weights_float.pt"
    generated = generate(job.graph, job.name, weights)
    errors = validate_generated(generated, job.cases)
    (folder / "model.py").write_text(generated.source, encoding="utf-8")
    write_checkpoint(folder / weights, generated.state, for_torch=TORCH)
    quantization: dict[str, Any] = {
        made.encodings.dtype: _write_quantized(made, generated, folder) for made in job.quantized
    }
    _write_trace(generated, job, folder / "traced.pt")
    (folder / "port.py").write_text(_template("port.py.in"), encoding="utf-8")
    (folder / "README.md").write_text(_readme(job, quantization), encoding="utf-8")
    return {
        "weights": {"float": weights},
        "quantization": quantization,
        "torch": {"made_with": torch.__version__, "for": TORCH},
        "generated": {
            "outputs": [
                {"name": name, "of_range": error} for (name, _, _), error in zip(generated.outputs, errors, strict=True)
            ]
        },
    }


def _write_quantized(made: Quantized, generated: Generated, folder: Path) -> dict[str, Any]:
    """The quantized state dict, and what ``port.py`` must tell the quantizer to load it."""
    from porter.emit.bundle import quantization_of

    name = f"weights_{made.encodings.dtype}.pt"
    state = made.state_dict(generated.state)
    write_checkpoint(folder / name, state, for_torch=TORCH)
    about = quantization_of(made)
    first = made.first_conv
    channels = 3 if first is None else len(first.mean)
    about["file"] = name
    about["mode"] = int(state[f"{about['layers'][0]}.quantized_mode"][0])
    # All keys are given: a released quantizer takes its own defaults for what is left out, and they differ by version.
    about["qconfig"] = {
        "iteration": 1,
        "use_avg": False,
        "data_scale": 1.0,
        "mean": [0.0] * channels if first is None else [m / 255.0 for m in first.mean],
        "std": [1.0] * channels if first is None else [s / 255.0 for s in first.std],
        "firstconv": first is not None,
        "per_channel": about["per_channel"],
    }
    return about


def _write_trace(generated: Generated, job: Job, path: Path) -> None:
    import torch

    net = load_generated(generated)
    example = tuple(torch.from_numpy(np.array(a)) for a in job.cases[0][0])
    trace: Any = torch.jit.trace  # has no annotations
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch would rather have torch.export
        torch.jit.save(trace(net, example, check_trace=False), path)


def _template(name: str) -> str:
    return resources.files("porter.emit").joinpath("templates", name).read_text(encoding="utf-8")


def _readme(job: Job, quantization: dict[str, Any]) -> str:
    target = job.target
    artifact = target.artifact
    dtypes = sorted(quantization, key=lambda name: -int(name[3:]))
    core = (artifact.core_version if artifact is not None else "") or target.name.upper()
    name = f"{job.name}_{core.lower()}_{dtypes[0]}" if dtypes else f"{job.name}_{core.lower()}"
    suffixes = artifact.suffixes if artifact is not None else ()
    runtime = target.runtime
    return Template(_template("README_torch13.md.in")).substitute(
        model=job.name,
        title=target.title,
        core=core,
        cores=job.cores,
        core_choices=", ".join(str(c) for c in artifact.cores) if artifact is not None else "",
        pythons=" or ".join(runtime.python) if runtime is not None else "3.5",
        dtype=dtypes[0] if dtypes else "int16",
        quantized="\n".join(
            f"| `weights_{d}.pt` | with `scale` and `quantized_mode` of {len(quantization[d]['layers'])} layers |"
            for d in dtypes
        )
        or "| (none) | **no quantized weights: emit again with `--calibration`; the device needs them** |",
        artifacts="\n".join(f"- `{name}{suffix}`" for suffix in suffixes),
        inputs="\n".join(
            f"| input `{v.name}` | {_dims(v.shape)} | {_dims(_nhwc(v.shape))} |" for v in job.graph.inputs
        ),
        outputs="\n".join(
            f"| output `{v.name}` | {_dims(v.shape)} | {_dims(_nhwc(v.shape))} |" for v in job.graph.outputs
        ),
        tolerance=f"{target.tolerance.op_relative:g}" if target.tolerance is not None else "0",
        findings=_findings(quantization),
    )


def _findings(quantization: dict[str, Any]) -> str:
    lines = [
        f"- {dtype}: {finding['code']} {finding['severity']}: {finding['message']}"
        for dtype, about in quantization.items()
        for finding in about["findings"]
        if finding["severity"] != "note"
    ]
    return "\n".join(lines) or "None."


def _nhwc(shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """The order of an offline model: (N, C, D1..Dk) becomes (N, D1..Dk, C), for every rank."""
    dims = shape or ()
    return (dims[0], *dims[2:], dims[1]) if len(dims) > 2 else dims


def _dims(shape: tuple[int, ...] | None) -> str:
    return " x ".join(map(str, shape or ())) or "scalar"
