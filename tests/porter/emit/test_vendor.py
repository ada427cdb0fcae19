# SPDX-License-Identifier: Apache-2.0
"""The vendor's build script and calibration list of an ONNX bundle, and the run of the script."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest

from porter import api
from porter.dialects.onnx import OnnxGraph
from porter.emit import vendor
from porter.errors import PorterError
from porter.target import Target
from porter.toolchains import environment
from porter.toolchains.cases import base_case
from porter.toolchains.catalogue import SPECS

FAMILIES = {
    "rk3588": "rknn",
    "bm1684x": "tpu-mlir",
    "ethos-u55": "vela",
    "ncnn": "ncnn",
    "k210": "nncase",
    "esp32p4": "esp-dl",
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    case = base_case(SPECS["conv2d"])
    graph = OnnxGraph.from_ops(case.ops, case.inputs, case.outputs, "conv", 13)
    graph.save(tmp_path / "conv.onnx")
    return tmp_path / "conv.onnx"


@pytest.mark.parametrize(("target", "framework"), FAMILIES.items())
def test_the_bundle_has_a_script_and_a_calibration_list(
    target: str, framework: str, model: Path, tmp_path: Path
) -> None:
    data = np.random.default_rng(0).random((6, 8, 12, 20)).astype(np.float32)
    np.save(tmp_path / "data.npy", data)
    api.emit(str(model), target, tmp_path / "out", data=str(tmp_path / "data.npy"))
    out = tmp_path / "out"
    script = (out / "build.py").read_text()
    ast.parse(script)
    assert "@" not in script.replace("@-256", "") and "model.onnx" in script
    core = Target.load(target).artifact
    assert core is not None and core.core_version in script
    lines = (out / "calibration.txt").read_text().splitlines()
    assert len(lines) == 6  # golden cases are four, samples to calibrate on are all
    assert np.array_equal(np.load(out / lines[5]), data[5:6])
    manifest = json.loads((out / "manifest.json").read_text())
    toolchain, makes = vendor.COMPILERS[framework]
    assert manifest["build"] == {"script": "build.py", "calibration": "calibration.txt", "samples": 6,
                                 "toolchain": toolchain, "makes": list(makes)}  # fmt: skip
    assert manifest["golden"]["cases"] == 4 and lines[0] in manifest["files"]


def test_every_compiler_is_of_a_target_and_has_a_template() -> None:
    frameworks = {Target.load(name).runtime.framework for name in Target.names()}
    assert set(vendor.COMPILERS) == set(FAMILIES.values()) <= frameworks
    assert {name for name, _ in vendor.COMPILERS.values()} == {*environment.NAMES, "rknn"}


def test_onnxruntime_needs_no_compiler(model: Path, tmp_path: Path) -> None:
    api.emit(str(model), "onnxruntime", tmp_path / "out")
    assert not (tmp_path / "out" / "build.py").exists()
    with pytest.raises(PorterError, match="PT784"):
        api.emit(str(model), "onnxruntime", tmp_path / "again", build=True)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("target", ["ncnn", "rk3588"])
def test_build_without_the_compiler_is_one_error(
    target: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTER_TOOLCHAINS", str(tmp_path / "none"))
    with pytest.raises(PorterError, match="PT781"):
        api.emit(str(model), target, tmp_path / "out", build=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("echo made > model.ncnn.param; echo made > model.ncnn.bin; echo 1 > model.pnnx.bin", ""),
        ("echo made > model.ncnn.param", "printed nothing"),
        ("echo first >&2; echo 'no layer Tensor.slice' >&2; exit 3", "no layer Tensor.slice"),
    ],
)
def test_build_runs_the_compiler_in_the_bundle(
    command: str, text: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ntest -f model.onnx && test -f $1 || exit 9\n{command}\n")
    python.chmod(0o755)
    monkeypatch.setattr(environment, "interpreter", lambda _name: python)
    if text:
        with pytest.raises(PorterError, match="PT784") as error:
            api.emit(str(model), "ncnn", tmp_path / "out", build=True)
        assert text in error.value.message and not (tmp_path / "out").exists()
    else:
        bundle = api.emit(str(model), "ncnn", tmp_path / "out", build=True)
        assert {"model.ncnn.param", "model.ncnn.bin"} <= set(bundle.files)
        assert (tmp_path / "out" / "model.ncnn.bin").read_text() == "made\n"
        assert not (tmp_path / "out" / "model.pnnx.bin").exists()  # what nobody asked for


@pytest.mark.toolchain
@pytest.mark.parametrize(("target", "framework"), FAMILIES.items())
def test_a_real_compiler_builds_the_bundle(target: str, framework: str, model: Path, tmp_path: Path) -> None:
    toolchain, makes = vendor.COMPILERS[framework]
    if not environment.ready(toolchain):
        pytest.skip(environment.missing(toolchain).message)
    bundle = api.emit(str(model), target, tmp_path / "out", build=True)
    assert set(makes) <= set(bundle.files) and all((tmp_path / "out" / name).stat().st_size for name in makes)
    assert not any(path.name.endswith(".mlir") for path in (tmp_path / "out").rglob("*"))
