# SPDX-License-Identifier: Apache-2.0
"""From training to integers: the trained network, the fake simulation, the integer network and every emitted file."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from qat_models import Named, Random, batch, calibrate, pyramid, seeded, target

from porter.dialects.onnx import OnnxGraph
from porter.errors import PorterError
from porter.quantize.encodings import Encodings
from porter.quantize.insert import insert
from porter.quantize.scheme import Scheme
from porter.quantize.simulate import Simulator
from porter.target import Target
from porter.train.qat import IntNetwork, convert, to_integers

TARGETS = ["x5", "j5", "mlu270", "onnxruntime"]
INT16 = {"int16_output": True}


def trained(network):
    """Two steps of training, so that weights, scales and statistics are not those of calibration."""
    optimizer = torch.optim.SGD(network.train().parameters(), 0.01)
    for seed in range(2):
        optimizer.zero_grad()
        sum(out.square().mean() for out in network(batch(4, seed))).backward()
        optimizer.step()
    return network.eval()


def bits(one, other):
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("mode", ["fuse_bn", "with_bn"])
@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=2, deadline=None, phases=[Phase.generate])
@given(seed=st.integers(0, 10**6), rule=st.sampled_from([{}, INT16, {**INT16, "dequant_output": False}]))
def test_a_random_network_is_itself_from_training_to_files(tmp_path_factory, name, mode, seed, rule):
    network = convert(seeded(lambda: Random(seed), seed), batch(), target(name), mode=mode, outputs=rule)
    trained(calibrate(network.eval()))
    integers, images = to_integers(network), batch(2, 9)
    wanted = integers(images)
    assert bits(wanted, integers(images, mode="fake"))
    # In float32 a value may lie on the other side of a half: a step here and there, and what comes of it.
    with torch.no_grad():
        evaluated = network(images)
    for a, b in zip(integers.real(wanted), evaluated, strict=True):
        assert np.abs(a - b.numpy()).max() <= 0.03 * max(np.abs(a).max(), 1e-6)
    # emit() itself compares each file with the integer network, and writes nothing where one differs.
    folder = integers.emit(tmp_path_factory.mktemp("emitted") / "model", inputs=[images])
    simulator = Simulator(OnnxGraph.load(folder / "model_qdq.onnx"), Scheme.of(target(name)))
    again = [simulator.run([images[i : i + 1].numpy()]).outputs for i in range(2)]
    files = json.loads((folder / "emission.json").read_text())["files"]
    if files["model_qdq.onnx"]["integers"] == "equal bit for bit":
        assert bits(wanted, [np.concatenate(column) for column in zip(*again, strict=True)])
    else:
        assert name == "mlu270"  # whose depthwise convolutions are float


def test_evaluation_is_the_fake_simulation():
    """Nearly everywhere to the bit of an int16 output: what differs is a half that float32 does not see."""
    for name in ("x5", "onnxruntime"):
        network = trained(pyramid(name, outputs=INT16, mode="with_bn"))
        integers, images = to_integers(network), batch(4, 3)
        with torch.no_grad():
            evaluated = network(images)
        for output, a, b in zip(integers.outputs, integers(images, mode="fake"), evaluated, strict=True):
            steps = np.abs(a - b.numpy()) / output.scale
            assert (steps > 0.5).mean() < 0.05 and np.median(steps) < 0.1


def test_integers_leave_as_integers():
    network = pyramid(outputs={"fine": {**INT16, "dequant_output": False}, "coarse": {"int8_output": True}})
    integers = to_integers(network)
    fine, coarse = integers(batch(2))
    assert (fine.dtype, coarse.dtype) == (np.int16, np.float32)
    assert [value.name for value in integers.simulated.outputs] == ["fine", "coarse"]
    reals = to_integers(pyramid(outputs={"fine": INT16, "coarse": {"int8_output": True}}))(batch(2))
    assert bits(integers.real((fine, coarse)), reals)


def test_an_accumulator_cannot_leave_as_integers():
    integers = to_integers(pyramid(outputs={"dequant_output": False}))
    assert [found.code for found in integers.findings] == ["PT743", "PT743"]
    assert all(output.dequantized for output in integers.outputs) and integers(batch(1))[0].dtype == np.float32


@pytest.fixture(scope="module")
def network():
    return to_integers(pyramid(outputs={**INT16, "dequant_output": False}))


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory):
    return network.save(tmp_path_factory.mktemp("saved") / "integers")


def test_it_is_read_as_it_was_written(network, saved):
    again = IntNetwork.load(saved)
    assert bits(again(batch(2)), network(batch(2)))
    assert again.outputs == network.outputs and again.target.name == "x5"


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("integers.json", lambda text: "{", "PT736: the integer network cannot be read"),
        ("integers.json", lambda text: "[]", "PT736"),
        ("integers.json", lambda text: text.replace('"int16"', '"int3"'), "PT736"),
        ("integers.json", lambda text: text.replace('"coarse"', '"course"'), "PT736"),
        ("integers.json", lambda text: text.replace('"version": 1', '"version": 9'), "PT736"),
        ("encodings.json", lambda text: text.replace('"digest": "', '"digest": "0'), "PT413"),
        ("encodings.json", lambda text: text[:100], "PT412"),
    ],
)
def test_damaged_files_are_refused(saved, tmp_path, file, damage, said):
    folder = shutil.copytree(saved, tmp_path / "copy")
    text = (folder / file).read_text()
    assert damage(text) != text
    (folder / file).write_text(damage(text))
    with pytest.raises(PorterError, match=said):
        IntNetwork.load(folder)


def test_missing_files_and_other_targets_are_refused(saved, tmp_path):
    with pytest.raises(PorterError, match="PT501"):
        IntNetwork.load(tmp_path)
    with pytest.raises(PorterError, match="PT736: this is an integer network of x5, not of j5"):
        IntNetwork.load(saved, Target.load("j5"))


def test_what_goes_to_the_toolchain(network, tmp_path):
    folder = network.emit(tmp_path / "out", inputs=[batch(2)])
    model = onnx.load(str(folder / "model.onnx"))
    onnx.checker.check_model(model)
    assert (model.opset_import[0].version, model.ir_version) == (11, 6)  # hb_mapper: opset 10 or 11, IR at most 7
    assert [out.name for out in model.graph.output] == ["fine", "coarse"]
    record = json.loads((folder / "emission.json").read_text())
    assert record["files"]["model.onnx"]["with_encodings"] == "equal bit for bit"
    assert record["files"]["model_qdq.onnx"]["integers"] == "equal bit for bit" and record["samples"] == 4
    assert [out["dtype"] for out in record["outputs"]] == ["int16", "int16"]
    graph = insert(OnnxGraph.load(folder / "model.onnx"), Encodings.load(folder / "encodings.json"))
    reals = Simulator(graph, network.scheme).run([batch(1).numpy()]).outputs
    assert bits(reals, network.real(network(batch(1))))
    traced = torch.jit.load(str(folder / "model_traced.pt"))(batch(1))
    for want, got in zip(network(batch(1)), traced, strict=True):  # it rounds halves to even
        assert np.abs(want - got.numpy()).mean() < 0.02 * np.abs(want).max()
    assert network.emit(tmp_path / "ten", opset=10, formats=["onnx"]).joinpath("model.onnx").is_file()


def test_what_cannot_be_emitted_is_refused(network, tmp_path):
    with pytest.raises(PorterError, match="PT736: there is no format 'onx'"):
        network.emit(tmp_path / "a", formats=["onx"])
    with pytest.raises(PorterError, match="PT205"):
        network.emit(tmp_path / "b", opset=13, formats=["onnx"])
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine").touch()
    with pytest.raises(PorterError, match="PT51"):
        network.emit(tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_a_file_that_computes_something_else_is_not_left_behind(network, tmp_path, monkeypatch):
    monkeypatch.setattr("porter.train.qat.emission.OnnxGraph.load", lambda path: network.graph)
    with pytest.raises(PorterError, match=r"PT737: model_qdq\.onnx is not the integer network"):
        network.emit(tmp_path / "a", formats=["qdq"])
    assert list(tmp_path.iterdir()) == []


def test_models_with_the_batch_in_a_shape_are_emitted(tmp_path):
    network = calibrate(convert(seeded(Named), batch(2), target("onnxruntime")).eval())
    integers = to_integers(network)
    assert integers(batch(3))[0].shape == (3, 4, 256)
    assert (integers.emit(tmp_path / "out") / "model_qdq.onnx").is_file()
