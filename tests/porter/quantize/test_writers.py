# SPDX-License-Identifier: Apache-2.0
"""What is written: the device's state dict, key by key, QDQ ONNX at every opset, the folder."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import quantize_models as models

import porter
from porter.checkpoint import read_checkpoint
from porter.errors import PorterError
from porter.quantize.encodings import Encodings
from porter.quantize.engine import quantize
from porter.quantize.writers import write_qdq
from porter.target import Target


def samples(count=3, shape=(1, 3, 12, 12)):
    return [[np.random.default_rng(i).normal(size=shape).astype(np.float32)] for i in range(count)]


def made(dtype="int8", **options):
    return quantize(porter.load(models.small()), Target.load("mlu270"), dtype, samples(), **options)


def test_the_layout_of_the_state_dict():
    quantized = made("int16")
    state = quantized.state_dict()
    assert list(state) == [
        "stem.weight", "stem.bias", "stem.scale", "stem.quantized_mode",
        "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked",
        "dw.weight", "dw.scale", "dw.quantized_mode",
        "left.weight", "left.scale", "left.quantized_mode",
        "right.weight", "right.bias", "right.scale", "right.quantized_mode",
        "fc.weight", "fc.bias", "fc.quantized_mode", "fc.scale",
    ]  # fmt: skip
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in models.small().graph.initializer}
    for name, array in tensors.items():
        np.testing.assert_array_equal(state[name], array)  # the weights stay the float ones
        assert state[name].dtype == np.float32
    top = max(np.abs(item[0]).max() for item in samples())
    want = [32767 / top, 32767 / np.abs(tensors["stem.weight"]).max()]
    np.testing.assert_allclose(state["stem.scale"], want, rtol=6e-8)
    for path in ("stem", "dw", "left", "right", "fc"):
        assert (state[f"{path}.scale"].dtype, state[f"{path}.scale"].shape) == (np.float32, (2,))
        mode = state[f"{path}.quantized_mode"]
        assert (mode.dtype, mode.shape, mode[0]) == (np.int32, (1,), 2)
    assert made("int8").state_dict()["fc.quantized_mode"][0] == 1


def test_per_channel_keys():
    state = made("int8", per_channel=True).state_dict()
    weight = state["right.weight"]
    np.testing.assert_allclose(state["right.scale_weight_per_channel"], 127 / np.abs(weight).max((1, 2, 3)), rtol=6e-8)
    assert state["right.scale_weight_per_channel"].dtype == np.float32
    assert state["right.scale"][1] == 0
    assert state["right.scale"][0] > 0
    assert (state["right.quantized_by_channel"].dtype, state["right.quantized_by_channel"].tolist()) == (np.int64, [1])
    assert state["right.quantized_mode"].tolist() == [1]  # 3 once it is loaded


def test_a_float_state_dict_is_completed_in_its_own_order():
    quantized = made()
    own = quantized.state_dict()
    float_state = {
        "head.anchors": np.ones(3, np.float32),
        **{k: own[k] for k in own if "scale" not in k and "mode" not in k},
    }
    state = quantized.state_dict(float_state)
    assert next(iter(state)) == "head.anchors"
    assert set(state) == set(own) | {"head.anchors"}
    del float_state["left.weight"]
    with pytest.raises(PorterError, match=r"no left\.weight") as error:
        quantized.state_dict(float_state)
    assert error.value.code == "PT413"


def test_power_of_two_scales_are_stored_as_inverse_steps():
    quantized = made(scale_rule="power_of_two")
    scale = quantized.state_dict()["stem.scale"]
    np.testing.assert_array_equal(np.log2(scale) % 1, [0, 0])
    assert scale[0] == 1 / quantized.encodings.input_of("stem").scale[0]


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_qdq_runs_in_onnxruntime_at_every_opset(tmp_path, dtype, opset):
    graph = porter.load(models.small(opset=opset))
    quantized = quantize(graph, Target.load("mlu270"), dtype, samples())
    write_qdq(quantized, tmp_path / "q.onnx")
    written = onnx.load(tmp_path / "q.onnx")
    onnx.checker.check_model(written)
    domains = {node.domain for node in written.graph.node if "Quantize" in node.op_type or "Dequantize" in node.op_type}
    assert domains == ({"com.microsoft"} if dtype == "int16" and opset < 21 else {""})
    stored = {t.name: t.data_type for t in written.graph.initializer if "weight_q" in t.name}
    kind = onnx.TensorProto.INT8 if dtype == "int8" else onnx.TensorProto.INT16
    assert len(stored) == 4
    assert set(stored.values()) == {kind}
    session = onnxruntime.InferenceSession(tmp_path / "q.onnx", providers=["CPUExecutionProvider"])
    want = quantized.report.outputs[0].error
    for item in samples():
        got = session.run(None, {"images": item[0]})[0]
        reference = graph.run(item)[0]
        assert np.abs(got - reference).max() <= want.max_abs * 1.5 + 1e-6


def test_the_folder(tmp_path):
    quantized = made("int16")
    quantized.save(tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert names == {
        "encodings.json", "encodings_aimet.json", "model_int16.onnx", "report.html", "report.json", "report.txt",
        "weights_int16.pt",
    }  # fmt: skip
    assert Encodings.load(tmp_path / "out" / "encodings.json") == quantized.encodings
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["ok"] is True
    assert report["outputs"][0]["sqnr_db"] > 60
    assert [layer["path"] for layer in report["layers"]] == ["stem", "dw", "left", "right", "fc"]
    assert "right" in (tmp_path / "out" / "report.txt").read_text()
    state = read_checkpoint(tmp_path / "out" / "weights_int16.pt").tensors
    want = quantized.state_dict()
    assert list(state) == list(want)
    for name, array in want.items():
        np.testing.assert_array_equal(state[name], array)
    with pytest.raises(PorterError) as error:
        quantized.save(tmp_path / "out")
    assert error.value.code == "PT512"


def test_torch_reads_the_state_dict(tmp_path):
    torch = pytest.importorskip("torch")
    quantized = made()
    quantized.save(tmp_path / "out")
    state = torch.load(tmp_path / "out" / "weights_int8.pt", weights_only=True)
    assert state["fc.quantized_mode"].dtype == torch.int32
    layer = torch.nn.Linear(8, 5)
    layer.load_state_dict({key: state[f"fc.{key}"] for key in ("weight", "bias")}, strict=True)


def test_a_torch_model_becomes_qdq_onnx(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, groups=4, padding=1),
        torch.nn.Conv2d(4, 6, 1, bias=False), torch.nn.Flatten(), torch.nn.Linear(216, 5),
    ).eval()  # fmt: skip
    graph = porter.load(net, {"x": (1, 3, 12, 12)})
    for dtype in ("int8", "int16"):
        quantized = quantize(graph, Target.load("mlu270"), dtype, samples())
        assert list(quantized.encodings.layers) == ["0", "2", "3", "5"]
        assert not quantized.encodings.layers["2"].quantized
        write_qdq(quantized, tmp_path / f"{dtype}.onnx")
        session = onnxruntime.InferenceSession(tmp_path / f"{dtype}.onnx", providers=["CPUExecutionProvider"])
        scale = quantized.encodings.input_of("5").scale[0]
        step = scale * float(net[5].weight.detach().abs().sum(1).max())
        for item in samples():
            got = session.run(None, {session.get_inputs()[0].name: item[0]})[0]
            assert np.abs(got - quantized.graph.run(item)[0]).max() <= step
        state = quantized.state_dict()
        missing = net.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()}, strict=False)
        assert missing.missing_keys == []
        assert {key.rpartition(".")[2] for key in missing.unexpected_keys} == {"scale", "quantized_mode"}
