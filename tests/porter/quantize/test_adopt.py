# SPDX-License-Identifier: Apache-2.0
"""Encodings found elsewhere: porter's own and AIMET's give back exactly what they say."""

import json
from pathlib import Path

import numpy as np
import pytest
import targets_for_tests as targets
from quantize_models import small

import porter
from porter import PorterError
from porter.loading import load
from porter.quantize.adopt import read_encodings
from porter.quantize.aimet import VERSIONS, to_aimet
from porter.quantize.encodings import Encodings
from porter.quantize.engine import insert, quantize
from porter.target import Target


def graph(seed=0):
    return load(small(seed))


def samples(count=3, seed=0):
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=(1, 3, 12, 12)).astype(np.float32)] for _ in range(count)]


def written(tmp_path: Path, data: object) -> Path:
    path = tmp_path / "given.json"
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("version", [None, *VERSIONS])
@pytest.mark.parametrize("target", ["mlu270", "onnxruntime"])
def test_what_was_written_is_read_back_exactly(tmp_path, dtype, per_channel, version, target):
    device = Target.load(target)
    # AIMET's files have no place for biases: they belong to the model with the corrected ones.
    options = {"per_channel": per_channel, "bias_correction": None if version is None else False}
    first = quantize(graph(), device, dtype, samples(), **options)
    data = first.encodings.to_json() if version is None else to_aimet(first.encodings, graph(), version)
    given = read_encodings(written(tmp_path, data))
    again = quantize(graph(), device, dtype, samples(seed=9), encodings=given, **options)
    for mine, theirs in ((first.encodings.weights, again.encodings.weights),
                         (first.encodings.activations, again.encodings.activations)):  # fmt: skip
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert mine[name].dtype == theirs[name].dtype and mine[name].zero_point == theirs[name].zero_point, name
            assert mine[name].scale == pytest.approx(theirs[name].scale, rel=1e-12), name
    x = samples(1, seed=4)[0]
    for a, b in zip(first.graph.run(x), again.graph.run(x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_the_file_lacks_is_calibrated_and_said(tmp_path):
    device = Target.load("mlu270")
    first = quantize(graph(), device, "int8", samples())
    data = to_aimet(first.encodings, graph())
    lost = data["activation_encodings"].pop()["name"]
    data["param_encodings"][0]["dtype"] = "FLOAT"
    again = quantize(graph(), device, "int8", samples(), encodings=read_encodings(written(tmp_path, data)))
    assert again.encodings.activations[lost] == first.encodings.activations[lost]
    told = next(f for f in again.findings if f.code == "PT483")
    assert lost in told.message and "FLOAT" in told.message


def test_an_asymmetric_range_becomes_the_targets_own(tmp_path):
    """uint8 0..5.1 on a symmetric int8 device: step 5.1 / 127."""
    data = {"version": "2.0.0", "encodings": [{"name": "images", "output_dtype": "uint8", "y_scale": 0.02}]}
    made = quantize(
        graph(), Target.load("mlu270"), "int8", samples(), encodings=read_encodings(written(tmp_path, data))
    )
    found = made.encodings.activations["images"]
    assert found.zero_point == (0,) and found.dtype == "int8"
    assert found.scale[0] == pytest.approx(5.1 / 127)


def test_encodings_of_another_model(tmp_path):
    device = Target.load("mlu270")
    other = quantize(graph(1), device, "int8", samples())
    with pytest.raises(PorterError) as error:
        quantize(graph(), device, "int8", samples(), encodings=other.encodings)
    assert error.value.code == "PT413"
    data = {"version": "2.0.0", "encodings": [{"name": "nobody", "output_dtype": "int8", "y_scale": 0.02}]}
    with pytest.raises(PorterError) as error:
        quantize(graph(), device, "int8", samples(), encodings=read_encodings(written(tmp_path, data)))
    assert error.value.code == "PT482" and "nobody" in str(error.value)
    data["encodings"] = [{"name": "stem.weight", "output_dtype": "int8", "axis": 0, "y_scale": [0.1] * 3}]
    with pytest.raises(PorterError) as error:
        quantize(graph(), device, "int8", samples(), encodings=read_encodings(written(tmp_path, data)))
    assert error.value.code == "PT482" and "3 scales" in str(error.value)


def test_encodings_of_another_device(tmp_path):
    """One that has other integers than this one refuses them; one that has the same takes them."""
    of = {name: quantize(graph(), Target.load(name), "int8", samples()).encodings for name in ("mlu270", "onnxruntime")}
    for name, other, why in (("mlu270", "onnxruntime", "every tensor"), ("onnxruntime", "mlu270", "only the operands")):
        with pytest.raises(PorterError, match=f"not for {name}: they make {why}") as error:
            quantize(graph(), Target.load(name), "int8", samples(), encodings=of[other])
        assert error.value.code == "PT413"
    with pytest.raises(PorterError, match="they are int8, and int16 was asked for"):
        quantize(graph(), Target.load("mlu270"), "int16", samples(), encodings=of["mlu270"])
    bpu = targets.load(tmp_path, quantized_ops='["conv2d", "linear", "add"]')
    with pytest.raises(PorterError, match="has the zero point"):
        quantize(graph(), bpu, "int8", samples(), encodings=of["onnxruntime"])
    wide = targets.load(tmp_path, widths='{ int8 = ["int8", "int16"] }')
    with pytest.raises(PorterError, match="is int8"):
        quantize(graph(), wide, "int8", samples(), encodings=of["onnxruntime"])
    mlu220 = quantize(graph(), Target.load("mlu220"), "int8", samples(seed=5), encodings=of["mlu270"])
    assert mlu220.encodings.activations == of["mlu270"].activations


def test_from_the_api_by_path(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(small().SerializeToString())
    options = {"dtype": "int8", "force": True}
    first = porter.quantize(path, "mlu270", samples(), **options)
    first.encodings.save(tmp_path / "e.json")
    again = porter.quantize(path, "mlu270", samples(seed=3), encodings=tmp_path / "e.json", **options)
    assert again.encodings.activations == first.encodings.activations
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(PorterError) as error:
        porter.quantize(path, "mlu270", samples(), encodings=tmp_path / "bad.json", **options)
    assert error.value.code == "PT412"


def test_corrected_biases_are_part_of_the_encodings():
    """Porter's own file is enough to make the same integers of the model that was quantized."""
    device, model = Target.load("onnxruntime"), graph(seed=1)
    made = quantize(model, device, "int8", samples(24))
    assert made.encodings.biases
    assert not quantize(model, device, "int16", samples()).encodings.biases  # nothing to win with 16-bit weights
    data = json.loads(json.dumps(made.encodings.to_json()))
    x = samples(1, seed=4)[0]
    for wanted, got in zip(made.graph.run(x), insert(model, Encodings.from_json(data)).run(x), strict=True):
        np.testing.assert_array_equal(wanted, got)
    data.pop("biases")  # a file of before there were any
    assert not Encodings.from_json(data).biases


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda biases: biases.update(nowhere=[1.0]), "PT412", "nowhere is no layer"),
        (lambda biases: biases.update(left=[1.0]), "PT413", "1 biases do not fit left"),
        (lambda biases: biases.update(left="x"), "PT412", "left: must be a list of finite numbers"),
        (lambda biases: biases.update(left=[float("nan")] * 8), "PT412", "left: must be a list of finite numbers"),
    ],
)
def test_biases_that_do_not_fit(change, code, message):
    found = quantize(graph(), Target.load("onnxruntime"), "int8", samples(24)).encodings
    data = json.loads(json.dumps(found.to_json()))
    change(data["biases"])
    with pytest.raises(PorterError, match=message) as raised:
        insert(graph(), Encodings.from_json(data))
    assert raised.value.code == code
