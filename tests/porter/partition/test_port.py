# SPDX-License-Identifier: Apache-2.0
"""`porter port --partition`: each segment of the accelerator is calibrated on what the segments before it give."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from models import model, save

from porter.data import open_data
from porter.errors import PorterError
from porter.partition import partition, port_parts
from porter.partition.port import Upstream

#: Kinds that the K210 runs (conv2d), and one that it refuses (erf).
BODY = """net (float[1, 64, 32, 32] x) => (float[1, 64, 32, 32] y) {
    a = Conv <pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (x, w1) \n b = Erf (a)
    y = Conv <pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (b, w2) }"""


def sandwich() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    return model(BODY, 13, weights={n: rng.normal(size=(64, 64, 3, 3)).astype(np.float32) / 24 for n in ("w1", "w2")})


@pytest.fixture
def samples(tmp_path):
    data = np.random.default_rng(1).normal(size=(3, 64, 32, 32)).astype(np.float32)
    np.save(tmp_path / "data.npy", data)
    return data


def test_what_a_segment_reads(samples):
    net = sandwich()
    made = partition(net, "k210", cut="none")
    assert [one.device for one in made.split.segments] == ["accelerator", "host", "accelerator"]
    data = open_data([[one[None]] for one in samples], made.rewritten.graph.inputs)
    read = Upstream(made.split, 2, data)
    net.graph.output.insert(0, onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, (1, 64, 32, 32)))
    session = onnxruntime.InferenceSession(net.SerializeToString())
    assert len(read) == 3
    for _ in range(2):  # as often as it is asked for
        for one, (got,) in zip(samples, read, strict=True):
            np.testing.assert_allclose(got, session.run(["b"], {"x": one[None]})[0], atol=1e-5)
    for one, (got,) in zip(samples, Upstream(made.split, 0, data), strict=True):
        np.testing.assert_array_equal(got[0], one)


def test_the_folder(tmp_path, samples):
    made = port_parts(sandwich(), "k210", str(tmp_path / "data.npy"), tmp_path / "out", cut="none")
    assert made.ok and list(made.bundles) == ["segment_0_accelerator", "segment_2_accelerator"]
    for name, (quantized,) in made.quantized.items():
        folder = tmp_path / "out" / name
        assert made.bundles[name].path == folder and quantized.encodings.dtype == "uint8"
        assert {"model.onnx", "model_uint8.onnx", "build.py", "manifest.json", "golden.npz"} <= {
            path.name for path in folder.iterdir()
        }
        assert quantized.report.outputs[0].error.sqnr > 25
        listed = json.loads((folder / "manifest.json").read_text())["files"]
        assert (folder / "model_uint8.onnx").stat().st_size == listed["model_uint8.onnx"]["bytes"]
    inputs, outputs = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(inputs, x=samples[:1])
    run = [sys.executable, "-I", str(tmp_path / "out" / "run_pipeline.py"), str(inputs), "-o", str(outputs)]
    subprocess.run(run, check=True, capture_output=True)
    session = onnxruntime.InferenceSession(sandwich().SerializeToString())
    np.testing.assert_allclose(np.load(outputs)["y"], session.run(None, {"x": samples[:1]})[0], atol=1e-5)


def test_a_segment_with_nothing_to_quantize_stays_in_float(tmp_path):
    body = "net (float[1, 4, 16, 16] x) => (float[1, 4, 16, 16] y) { a = Relu (x) \n b = Erf (a) \n y = Relu (b) }"
    np.save(tmp_path / "data.npy", np.ones((2, 4, 16, 16), np.float32))
    made = port_parts(model(body, 13), "k210", str(tmp_path / "data.npy"), tmp_path / "out", cut="none")
    assert made.ok and set(made.quantized.values()) == {()} and made.bundles


def test_without_data_and_where_nothing_can_be_divided(tmp_path):
    made = port_parts(sandwich(), "k210", None, tmp_path / "out", cut="none")
    assert made.ok and set(made.quantized.values()) == {()}
    assert not (tmp_path / "out" / "segment_0_accelerator" / "model_uint8.onnx").exists()
    body = "net (float[1, 4] x) => (float[1, 4] y) { y = Erf (x) }"
    with pytest.raises(PorterError) as caught:
        port_parts(model(body, 13), "k210", None, tmp_path / "never")
    assert caught.value.code == "PT752" and not (tmp_path / "never").exists()


def test_the_command(porter, tmp_path, samples):
    net = save(sandwich(), tmp_path / "net.onnx")
    code, out, _ = porter("port", "-t", "k210", net, "-c", "data.npy", "-o", "out")
    assert code == 1 and "nothing was written" in out and "porter rewrite --partition" in out
    code, out, _ = porter("port", "-t", "k210", net, "--partition", "-c", "data.npy", "-o", "out")
    assert code == 0 and "segment_1_host" in out and "uint8 on k210" in out and out.endswith("wrote out\n")
    assert (tmp_path / "out" / "segment_2_accelerator" / "build.py").is_file()
    assert porter("port", "-t", "k210", net, "--partition", "-c", "data.npy", "-o", "out")[0] == 2  # it exists
