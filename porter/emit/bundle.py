# SPDX-License-Identifier: Apache-2.0
"""The directory that goes to the device: made whole, proved, and only then put in its place.

Every bundle holds ``golden.npz`` (inputs, the float model's outputs and those of each simulated quantized model) and
``manifest.json`` (hashes of all files, versions, target, ledger, numbers), and ``preprocess.toml`` where images were
calibrated on. What else it holds is up to the target's
artifact kind; each kind is one module of this package (:data:`KINDS`).
"""

from __future__ import annotations

import difflib
import itertools
import json
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from porter.emit import vendor
from porter.errors import PorterError
from porter.files import atomic_dir, sha256
from porter.graph import Graph
from porter.ops import Array
from porter.quantize.report import column_axis

if TYPE_CHECKING:
    from porter.legalize import Ledger
    from porter.quantize.engine import Quantized
    from porter.target import Target
    from porter.verify import Evidence

__all__ = ["GOLDEN", "KINDS", "Bundle", "Job", "emit"]

#: The module that writes each artifact kind; its ``write(job, folder)`` fills the folder and returns its part of the
#: manifest.
KINDS = {"cambricon-torch13": "porter.emit.cambricon_torch13", "onnx": "porter.emit.onnx"}
#: At most so many of the inputs become golden cases, and so many go along for a vendor's compiler to calibrate on.
GOLDEN, SAMPLES = 4, 64
SCHEMA_VERSION = "1.0"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk.

    ``files`` gives the SHA-256 of every file but the manifest, by name; ``manifest`` is ``manifest.json``.
    """

    path: Path
    kind: str
    files: dict[str, str]
    manifest: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Job:
    """What a kind's ``write`` works from.

    ``cases`` are the golden ones: inputs, and the outputs of ``graph`` for them. ``name`` is the model's name, fit for
    a file name. ``samples`` are inputs to calibrate on. ``cores`` is how many cores of the device to compile for.
    """

    graph: Graph
    target: Target
    name: str
    cases: list[tuple[list[Array], list[Array]]]
    samples: Sequence[Sequence[Array]]
    quantized: Sequence[Quantized]
    cores: int | None


def emit(
    graph: Graph,
    target: Target,
    out: Path,
    *,
    inputs: Iterable[Sequence[Array]],
    quantized: Sequence[Quantized] = (),
    ledger: Ledger | None = None,
    evidence: Evidence | None = None,
    cores: int | None = None,
    build: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Write the bundle of a model that is legal for its target.

    Args:
        graph: the model; it is run on the golden inputs.
        target: ``target.artifact.kind`` chooses what is written.
        out: the folder to make.
        inputs: one list of arrays for each case; the first :data:`GOLDEN` are golden, the first :data:`SAMPLES` are
            what a vendor's compiler calibrates on.
        quantized: quantized versions of this very graph, at most one of each dtype.
        ledger: how the model was rewritten, for the manifest.
        evidence: the proof of that, for the manifest.
        cores: device cores that one inference uses (default: the target's).
        build: run the vendor's compiler in the bundle; what it makes is part of it.
        overwrite: replace ``out`` if porter made it.

    Raises:
        PorterError: PT342 no such artifact kind, no golden input, or a core count that the target lacks; PT340 and
            PT341 from the generated source; PT413 quantized parameters of another model; PT510 to PT512 when the
            folder cannot be written; with ``build`` PT781 and PT784 of the compiler. Nothing is left behind then.
    """
    artifact = target.artifact
    kind = artifact.kind if artifact is not None else ""
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        what = f"has the artifact kind {kind!r}, which porter cannot make" if kind else "has no [artifact] table"
        raise PorterError("PT342", f"{target.name} {what}", fix=f"{hint}Known kinds: {', '.join(KINDS)}.")
    allowed = artifact.cores if artifact is not None else ()
    if cores is not None and allowed and cores not in allowed:
        raise PorterError("PT342", f"{target.name} compiles for {', '.join(map(str, allowed))} cores, not {cores}")
    _check_quantized(graph, quantized)
    if build:
        vendor.can_build(target)
    with atomic_dir(out, overwrite) as folder:
        samples = [[np.asarray(a, order="C") for a in item] for item in itertools.islice(inputs, SAMPLES)]
        cases = [(feeds, graph.run(feeds)) for feeds in samples[:GOLDEN]]
        if not cases:
            raise PorterError("PT342", "there is no golden input", fix="Give at least one input (--data).")
        default = artifact.default_cores if artifact is not None else None
        job = Job(graph, target, _file_name(graph.source), cases, samples, quantized, cores or default)
        _write_golden(folder / "golden.npz", job)
        manifest = _manifest(job, kind, ledger, evidence)
        manifest.update(import_module(KINDS[kind]).write(job, folder))
        for made in quantized:
            if made.preprocess is not None:
                (folder / "preprocess.toml").write_text(made.preprocess.to_toml(), encoding="utf-8")
        if build:
            vendor.build(target, folder)
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        files = {name: sha256(folder / name) for name in names}
        manifest["files"] = {
            name: {"sha256": digest, "bytes": (folder / name).stat().st_size} for name, digest in files.items()
        }
        text = json.dumps(_finite(manifest), indent=1, allow_nan=False)
        (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
    return Bundle(Path(out), kind, files, manifest)


def _check_quantized(graph: Graph, quantized: Sequence[Quantized]) -> None:
    seen = set()
    for made in quantized:
        made.encodings.check(graph)
        if made.encodings.dtype in seen:
            raise PorterError(
                "PT342", f"two quantized models are {made.encodings.dtype}", fix="Give one of each dtype."
            )
        seen.add(made.encodings.dtype)


def _write_golden(path: Path, job: Job) -> None:
    arrays: dict[str, Array] = {}
    for number, (inputs, outputs) in enumerate(job.cases):
        results = {"input": inputs, "float": outputs}
        results.update({made.encodings.dtype: made.graph.run(inputs) for made in job.quantized})
        for prefix, values in results.items():
            arrays.update({f"{prefix}_{number}_{i}": array for i, array in enumerate(values)})
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def _manifest(job: Job, kind: str, ledger: Ledger | None, evidence: Evidence | None) -> dict[str, Any]:
    artifact, tolerance, target = job.target.artifact, job.target.tolerance, job.target
    return {
        "format": "porter-bundle",
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "made_with": {
            "porter": metadata.version("porter-ml"),
            "python": platform.python_version(),
            "numpy": metadata.version("numpy"),
        },
        "target": {
            "name": target.name,
            "title": target.title,
            "core_version": artifact.core_version if artifact is not None else "",
            "cores": list(artifact.cores) if artifact is not None else [],
            "default_cores": job.cores,
            "input_formats": dict(artifact.input_formats) if artifact is not None else {},
            "suffixes": list(artifact.suffixes) if artifact is not None else [],
            "layout": target.runtime.layout if target.runtime is not None else "",
        },
        "model": {
            "name": job.name,
            "source": PurePath(job.graph.source).name,
            "inputs": [{"name": v.name, "shape": list(v.shape or ()), "dtype": v.dtype} for v in job.graph.inputs],
            "outputs": [
                {
                    "name": v.name,
                    "shape": list(v.shape or ()),
                    "dtype": v.dtype,
                    "columns": column_axis(v.shape) if v.shape is not None and len(v.shape) > 1 else None,
                }
                for v in job.graph.outputs
            ],
        },
        "golden": {"file": "golden.npz", "cases": len(job.cases)},
        "tolerance": {"cpu": 1e-4, "device": tolerance.op_relative if tolerance is not None else 0.0},
        "quantization": {made.encodings.dtype: quantization_of(made) for made in job.quantized},
        "ledger": ledger.to_json() if ledger is not None else None,
        "evidence": {**evidence.to_json(), "taps": len(evidence.taps)} if evidence is not None else None,
    }


def quantization_of(made: Quantized) -> dict[str, Any]:
    """The numbers of one quantized model for the manifest."""
    first = made.first_conv
    return {
        "layers": list(made.encodings.layers),
        "rounding": made.encodings.rounding,
        "samples": made.encodings.samples,
        "per_channel": any(encoding.axis is not None for encoding in made.encodings.weights.values()),
        "first_conv": None if first is None else {"path": first.path, "mean": first.mean, "std": first.std},
        "outputs": [output.to_json() for output in made.report.outputs],
        "findings": [finding.to_json() for finding in made.findings],
    }


def _file_name(source: str) -> str:
    """The model's name from where it came: ``yolox_s`` of "models/yolox_s.onnx" and of "factories:yolox_s"."""
    stem = PurePath(source).name.rpartition(":")[2]
    stem = stem.rpartition(".")[0] or stem
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_") or "model"


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    if isinstance(data, float) and not np.isfinite(data):
        return None
    return data
