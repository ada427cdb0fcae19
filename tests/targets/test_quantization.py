# SPDX-License-Identifier: Apache-2.0
"""Every target with a scheme quantizes, and by default to a width that it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import porter
from porter.errors import PorterError
from porter.quantize.scheme import Scheme
from porter.target import Target

#: With the width that is taken where the user names none, and whether its activations have a zero point.
DEFAULTS = {
    "bm1684x": ("int8", False), "esp32p4": ("int16", False), "ethos-u55": ("int8", True), "ethos-u85": ("int8", True),
    "j5": ("int8", False), "k210": ("uint8", True), "mlu220": ("int16", False), "mlu270": ("int16", False),
    "nash-e": ("int8", False), "ncnn": ("int8", False), "onnxruntime": ("int16", True),
    "onnxruntime-opset11": ("int16", True), "rk3566": ("int8", True), "rk3588": ("int8", True),
    "rv1106": ("int8", True), "x3": ("int8", False), "x5": ("int8", False), "xgen-mobile": ("int16", True),
}  # fmt: skip


def conv_relu() -> onnx.ModelProto:
    """Two convolutions of 3x3 that every target runs, at opset 11."""
    rng = np.random.default_rng(0)
    weights = [
        onnx.numpy_helper.from_array(rng.normal(size=(4, 4, 3, 3)).astype(np.float32) / 6, f"w{i}") for i in range(2)
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w1"], ["y"], pads=[1, 1, 1, 1]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4, 8, 8)) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)


def test_the_table_names_every_target() -> None:
    assert set(DEFAULTS) == set(Target.names())


@pytest.mark.parametrize("name", DEFAULTS)
def test_default_width(name: str, tmp_path: Path) -> None:
    width, zero_point = DEFAULTS[name]
    data = np.random.default_rng(1).uniform(-0.5, 1.0, (2, 4, 8, 8)).astype(np.float32)
    np.save(tmp_path / "data.npy", data)
    made = porter.quantize(conv_relu(), name, str(tmp_path / "data.npy"), force=name == "xgen-mobile")
    assert Scheme.of(Target.load(name)).default == width == made.encodings.dtype
    of_input = made.encodings.activations["x"]
    assert any(of_input.zero_point) is zero_point
    floor = 60.0 if "16" in width else 30.0
    assert made.report.outputs[0].error.sqnr > floor


def test_a_width_that_a_target_lacks_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(PorterError, match="rk3588 does not quantize to int16") as caught:
        porter.port("no such file.onnx", "rk3588", str(tmp_path), tmp_path / "out", dtypes=["int16"])
    assert caught.value.code == "PT416" and "int8" in str(caught.value.fix)
