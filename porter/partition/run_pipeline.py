# SPDX-License-Identifier: Apache-2.0
"""Runs a model that was divided between an accelerator and its host. This file stands alone: Python 3.9, numpy, and
onnxruntime (or torch, for segments that are .pt2) on the host.

    python run_pipeline.py inputs.npz -o outputs.npz                                # everything on the host
    python run_pipeline.py inputs.npz -o outputs.npz --accelerator my_device:run    # its segments on the device
    python run_pipeline.py inputs.npz -o outputs.npz --host numpy                   # host segments as numpy code

    from run_pipeline import Pipeline
    pipeline = Pipeline.load("folder", accelerator=run)
    outputs = pipeline.run({"images": array})

The accelerator is a function of yours: it gets the segment (a dict of pipeline.json: "name", "files", "inputs",
"outputs") and its input arrays by name, and returns its output arrays by name:

    def run(segment, feeds):
        model = MODELS[segment["name"]]       # what the vendor's compiler made of segment["files"]["onnx"]
        return dict(zip([value["name"] for value in segment["outputs"]], model(*feeds.values())))

Without one, onnxruntime takes its place: the pipeline then computes what it was proved to compute.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Pipeline", "PipelineError"]

Feeds = dict[str, Any]
#: (segment of pipeline.json, input arrays by name) -> output arrays by name.
Runner = Callable[[Mapping[str, Any], Feeds], Mapping[str, Any]]


class PipelineError(Exception):
    """The folder is not a pipeline, or a segment was given or gave something else than pipeline.json says."""


class Pipeline:
    """The segments of pipeline.json, one after another."""

    def __init__(self, manifest: Mapping[str, Any], runners: Mapping[str, Runner]) -> None:
        """``runners`` has what runs each segment, by its name."""
        self.manifest = manifest
        self._runners = dict(runners)
        self._last = _last_reads(manifest)

    @classmethod
    def load(cls, folder: str | Path, accelerator: Runner | None = None, host: str = "onnxruntime") -> Pipeline:
        """The pipeline in a folder that porter wrote.

        Args:
            folder: holds pipeline.json and the files that it names.
            accelerator: runs the accelerator's segments; see the module. None: onnxruntime (or torch) does.
            host: "onnxruntime", or "numpy" for the .py of each host segment. These are code: run them only from a
                folder that you trust.

        Raises:
            PipelineError: the folder is no pipeline, or lacks the form that was asked for.
        """
        root = Path(folder)
        try:
            manifest = json.loads((root / "pipeline.json").read_text(encoding="utf-8"))
            version, segments = manifest["schema_version"], manifest["segments"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PipelineError(f"{folder} is not a pipeline: {error}") from error
        if str(version).split(".")[0] != "1":
            raise PipelineError(f"pipeline.json has schema_version {version}; this file reads 1.x")
        runners = {}
        for segment in segments:
            if segment["device"] == "accelerator" and accelerator is not None:
                runners[segment["name"]] = accelerator
            else:
                numpy_code = host == "numpy" and segment["device"] == "host"
                runners[segment["name"]] = _runner(root, segment, numpy_code)
        return cls(manifest, runners)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The model's outputs by name.

        Args:
            inputs: arrays by the names of pipeline.json's "inputs".

        Raises:
            PipelineError: an input is missing, unknown or of another shape; a segment did not give what it should.
        """
        declared = {value["name"]: value for value in self.manifest["inputs"]}
        for name in declared:
            if name not in inputs:
                raise PipelineError(f"the input {name!r} is missing")
        values: Feeds = {}
        for name, array in inputs.items():
            if name not in declared:
                known = ", ".join(declared)
                raise PipelineError(f"there is no input {name!r}; the inputs are {known}")
            values[name] = _checked("input", declared[name], np.asarray(array))
        kept = {value["name"] for value in self.manifest["outputs"]}
        for place, segment in enumerate(self.manifest["segments"]):
            feeds = {value["name"]: values[value["name"]] for value in segment["inputs"]}
            made = self._runners[segment["name"]](segment, feeds)
            for value in segment["outputs"]:
                if value["name"] not in made:
                    raise PipelineError(f"{segment['name']} did not give {value['name']!r}")
                values[value["name"]] = _checked(segment["name"], value, made[value["name"]])
            for name in self._last[place]:
                if name not in kept:
                    values.pop(name, None)
        return {value["name"]: values[value["name"]] for value in self.manifest["outputs"]}


def _last_reads(manifest: Mapping[str, Any]) -> list[list[str]]:
    """For each segment the values that no later one reads."""
    last = {}
    for place, segment in enumerate(manifest["segments"]):
        for value in segment["inputs"] + segment["outputs"]:
            last[value["name"]] = place
    found: list[list[str]] = [[] for _ in manifest["segments"]]
    for name, place in last.items():
        found[place].append(name)
    return found


def _checked(who: str, value: Mapping[str, Any], array: Any) -> Any:
    shape, dtype = value["shape"], value["dtype"]
    if not isinstance(array, np.ndarray):
        return array  # a sequence, between two host segments
    if shape is not None and list(array.shape) != list(shape):
        raise PipelineError(f"{who}: {value['name']!r} has shape {list(array.shape)}, not {shape}")
    if dtype is not None and str(array.dtype) != dtype:
        raise PipelineError(f"{who}: {value['name']!r} is {array.dtype}, not {dtype}")
    return array


def _file(root: Path, name: str) -> Path:
    path = root / name
    if Path(name).name != name or not path.is_file():
        raise PipelineError(f"pipeline.json names {name!r}, which is not a file of {root}")
    return path


def _runner(root: Path, segment: Mapping[str, Any], numpy_code: bool) -> Runner:
    files = segment["files"]
    if numpy_code:
        if "numpy" not in files:
            raise PipelineError(f"{segment['name']} has no numpy form ({segment.get('no_numpy', '')})")
        return _numpy_runner(_file(root, files["numpy"]))
    if "onnx" in files:
        return _onnx_runner(_file(root, files["onnx"]))
    return _torch_runner(_file(root, files["pt2"]))


def _onnx_runner(path: Path) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(segment: Mapping[str, Any], feeds: Feeds) -> Feeds:
        names = [value["name"] for value in segment["outputs"]]
        return dict(zip(names, session.run(names, feeds)))  # noqa: B905 (Python 3.10)

    return run


def _torch_runner(path: Path) -> Runner:
    import torch

    module = torch.export.load(str(path)).module()

    def run(segment: Mapping[str, Any], feeds: Feeds) -> Feeds:
        with torch.no_grad():
            made = module(*[torch.from_numpy(np.asarray(array, order="C")) for array in feeds.values()])
        made = made if isinstance(made, (tuple, list)) else (made,)
        names = [value["name"] for value in segment["outputs"]]
        return {name: made[i].numpy() for i, name in enumerate(names)}

    return run


def _numpy_runner(path: Path) -> Runner:
    spec = importlib.util.spec_from_file_location("porter_" + path.stem, str(path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(segment: Mapping[str, Any], feeds: Feeds) -> Feeds:
        names = [value["name"] for value in segment["outputs"]]
        return dict(zip(names, module.run(*feeds.values())))  # noqa: B905 (Python 3.10)

    return run


def main(arguments: list[str] | None = None) -> int:
    """The command; see the module."""
    parser = argparse.ArgumentParser(description="Run a model that was divided between an accelerator and its host.")
    parser.add_argument("inputs", help="an .npz with the model's inputs by name")
    parser.add_argument("-o", "--output", required=True, help="the .npz to write")
    parser.add_argument("--accelerator", help="module:function that runs the accelerator's segments")
    parser.add_argument("--host", choices=("onnxruntime", "numpy"), default="onnxruntime")
    given = parser.parse_args(arguments)
    accelerator = None
    if given.accelerator:
        sys.path.insert(0, str(Path.cwd()))
        module, _, function = given.accelerator.partition(":")
        accelerator = getattr(importlib.import_module(module), function)
    try:
        pipeline = Pipeline.load(Path(__file__).resolve().parent, accelerator, given.host)
        with np.load(given.inputs, allow_pickle=False) as data:
            outputs = pipeline.run(dict(data))
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    np.savez(given.output, **outputs)
    for name, array in outputs.items():
        print(f"{name}: {array.dtype} {list(array.shape)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
