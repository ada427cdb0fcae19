# SPDX-License-Identifier: Apache-2.0
"""porter run: what a user asks for, what is printed and written, and what is refused."""

import json
import signal
import sys

import numpy as np
import onnx
import pytest
from onnx import helper

import porter
from porter import cli
from porter.errors import PorterError

SCALE = np.float32(0.5)


def linear_net(quantized):
    """x (1, 4) @ w (4, 3); dequantized operands and a quantized result, or all float."""
    w = (np.arange(12).reshape(4, 3) - 5).astype(np.float32)
    tensors = {"w": w}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")]
    if quantized:
        tensors = {"wq": w.astype(np.int8), "s": SCALE, "z": np.int8(0)}
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
            helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["wd"]),
            helper.make_node("MatMul", ["xd", "wd"], ["r"], name="fc"),
            helper.make_node("QuantizeLinear", ["r", "s", "z"], ["rq"]),
            helper.make_node("DequantizeLinear", ["rq", "s", "z"], ["y"]),
        ]
    info = lambda name, n: helper.make_tensor_value_info(name, 1, (1, n))  # noqa: E731
    held = [onnx.numpy_helper.from_array(a, n) for n, a in tensors.items()]
    graph = helper.make_graph(nodes, "g", [info("x", 4)], [info("y", 3)], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run a command in an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    onnx.save(linear_net(True), "qdq.onnx")
    onnx.save(linear_net(False), "float.onnx")
    np.save("x.npy", np.array([[1.0, -0.5, 0.25, 60], [0, 0, 0, 0]], np.float32))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["porter", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run


def test_integers_by_hand(command, tmp_path):
    code, out, _ = command("run", "qdq.onnx", "--data", "x.npy", "-o", "out.npz", "--taps")
    assert code == 0
    assert "1 ops exactly, in integers: matmul" in out and "wrote out.npz" in out
    tensors = np.load(tmp_path / "out.npz")
    assert tensors["xq"].tolist() == [[[2, -1, 0, 120]], [[0, 0, 0, 0]]]  # 0.25 is half a step: to even
    # 2 * (-5, -4, -3) - (-2, -1, 0) + 120 * (4, 5, 6), in steps of 0.25; 236 and more steps of 0.5 saturate at 127.
    assert tensors["r"][0].tolist() == [[(-10 + 2 + 480) / 4, (-8 + 1 + 600) / 4, (-6 + 720) / 4]]
    assert tensors["rq"].tolist() == [[[127, 127, 127]], [[0, 0, 0]]]
    assert tensors["rq"].dtype == np.int8
    assert tensors["y"].tolist() == [[[63.5] * 3], [[0.0] * 3]]


def test_fake_and_float(command):
    results = {}
    for form in ("int", "fake", "float"):
        code, out, _ = command("run", "qdq.onnx", "--as", form, "-f", "json")
        assert code == 0
        results[form] = json.loads(out)
    assert results["int"]["outputs"] == results["fake"]["outputs"] == results["float"]["outputs"]
    assert results["int"]["integer"] == {"matmul": 1}
    assert results["float"]["integer"] == {}


def test_encodings_of_a_float_model(command, tmp_path):
    assert command("quantize", "float.onnx", "-t", "onnxruntime", "-c", "x.npy", "-o", "q", "--dtype", "int8")[0] == 0
    code, out, _ = command("run", "float.onnx", "--encodings", "q/encodings.json", "--data", "x.npy", "-o", "a.npz")
    assert code == 0 and "on onnxruntime" in out
    code, *_ = command("run", "q/model_int8.onnx", "-t", "onnxruntime", "--data", "x.npy", "-o", "b.npz")
    assert code == 0
    a, b = np.load(tmp_path / "a.npz"), np.load(tmp_path / "b.npz")
    np.testing.assert_array_equal(a["y"], b["y"])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["float.onnx"], "PT440"),
        (["qdq.onnx", "--target", "mlu27"], "PT508"),
        (["qdq.onnx", "--encodings", "none.json"], "PT501"),
        (["qdq.onnx", "--encodings", "x.npy"], "PT412"),
        (["qdq.onnx", "--data", "none.npz"], "PT501"),
        (["qdq.onnx", "-o", "x.npy"], "PT512"),
        (["none.onnx"], "PT501"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(command, tmp_path, arguments, code):
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    exit_code, _, err = command("run", *arguments)
    assert exit_code == 2
    assert err.startswith(code)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_api(tmp_path):
    ran = porter.run(linear_net(True), data=[np.ones((1, 4), np.float32)], taps=["r*"])
    assert list(ran.taps) == ["r", "rq"]
    assert ran.outputs["y"].shape == (1, 3)  # one run: as it is
    with pytest.raises(PorterError, match="no value of the model matches 'nothing"):
        porter.run(linear_net(True), taps=["nothing*"])
    with pytest.raises(PorterError, match="no form 'double'"):
        porter.run(linear_net(True), form="double")


def test_overflow_is_a_finding():
    model = linear_net(True)
    for tensor in model.graph.initializer:
        if tensor.name == "z":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.int16(0), "z"))
        if tensor.name == "wq":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full((4, 3), 32767, np.int16), "wq"))
    model.opset_import[0].version = 21
    ran = porter.run(model, data=[np.full((1, 4), 20000, np.float32)])
    assert [(f.code, f.severity) for f in ran.findings] == [("PT441", "warning"), ("PT442", "note")]
    assert "3 sums of matmul fc" in ran.findings[0].message
