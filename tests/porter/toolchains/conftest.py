# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from porter.toolchains import environment


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fake compiler as an installed toolchain for the target file that is returned."""
    spec = importlib.util.spec_from_file_location("porter.toolchains.fake", Path(__file__).parent / "fake.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "porter.toolchains.fake", module)
    monkeypatch.setitem(environment.NAMES, "fake", "fake")
    monkeypatch.setenv("PORTER_TOOLCHAINS", str(tmp_path / "chains"))
    environment.versions.cache_clear()
    place = tmp_path / "chains" / "fake"
    (place / "bin").mkdir(parents=True)
    # A link would leave the environment that has onnxruntime; a script that calls its interpreter does not.
    python = place / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    mark = {"packages": [["fake==1.0"]], "versions": {"fake": "1.0"}}
    (place / "porter.json").write_text(json.dumps(mark))
    target = tmp_path / "fake.toml"
    target.write_text(
        """
[target]
name = "fake"
title = "A fake device"
certainty = "certain"
source = "book"
[sources.book]
cite = "Book 1"
[runtime]
framework = "fake"
fallback = "host"
dtypes = ["float32"]
[artifact]
kind = "onnx"
[ops.conv2d]
const_inputs = ["weight", "bias"]
limits = [
    { expr = "stride_h <= 2", why = "the book says so" },
    { expr = "kernel_h <= 3", why = "nobody tried", certainty = "unknown" },
    { expr = "out_channels <= 4096", why = "the book says so" },
]
[ops.tanh]
[ops.erf]
"""
    )
    yield target
    environment.versions.cache_clear()
