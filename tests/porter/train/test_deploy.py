# SPDX-License-Identifier: Apache-2.0
"""What goes to the device: the host's part beside the model, ``porter emit --config``, widths and pins."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import tiny

from porter.errors import PorterError
from porter.train.config import load_config
from porter.train.stages import compile_folder, open_integers, train

HOST = '''
from pathlib import Path

class _Host:
    """Which quadrant, from the integers of the device."""

    def emit(self, folder, outputs, class_names):
        script = "import sys, numpy as np\\nwith np.load(sys.argv[1]) as given:\\n    cls = given['cls'] * SCALE\\n"
        script += "print(NAMES[int(cls.argmax())], float(cls.max()))\\n"
        first = outputs[0]
        script = script.replace("SCALE", repr(first.scale)).replace("NAMES", repr(tuple(class_names)))
        assert first.name == "cls" and first.dtype == "int16" and not first.dequantized and first.zero_point == 0
        (folder / "host.py").write_text(script)

host_filter = _Host()
class_names = ("a", "b", "c", "d")
'''


@pytest.fixture
def another(trained, tmp_path):
    """A function: a configuration with changes, in a folder with copies of all checkpoints."""

    def make(*changes, extra=""):
        shutil.copytree(trained[0].parent / "runs", tmp_path / "runs", dirs_exist_ok=True)
        return tiny.write(tmp_path, *changes, extra=extra)

    return make


def test_the_hosts_part_is_emitted_beside_the_model_and_runs_alone(another, tmp_path):
    config = load_config(another(extra=HOST))
    train(config, "int_infer")
    folder = compile_folder(config)
    emission = json.loads((folder / "emission.json").read_text())
    assert emission["files"]["host.py"]["format"] == "host" and len(emission["files"]) == 4
    network = open_integers(config, "a test")
    outputs = network(config.val_data_loader.dataset()[0]["img"][None])
    np.savez(tmp_path / "outputs.npz", cls=outputs[0])
    command = [sys.executable, "-I", folder / "host.py", tmp_path / "outputs.npz"]
    name, value = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    real = network.real(outputs)[0]
    assert name == "abcd"[real.argmax()] and float(value) == pytest.approx(real.max(), rel=1e-6)


def test_a_host_part_that_fails_leaves_nothing(another, tmp_path):
    config = load_config(another(extra=HOST.replace("assert ", "assert False and ")))
    shutil.rmtree(compile_folder(config))
    with pytest.raises(PorterError) as caught:
        train(config, "int_infer")
    assert caught.value.code == "PT520" and "host_filter" in str(caught.value)
    assert not compile_folder(config).exists()


def test_a_host_filter_is_an_object_that_can_be_emitted(tmp_path):
    with pytest.raises(PorterError, match="emit") as caught:
        load_config(tiny.write(tmp_path, extra="host_filter = lambda outputs: outputs\n"))
    assert caught.value.code == "PT701"


def test_emit_writes_the_deploy_model_once_more(porter, another, tmp_path):
    config = another()
    code, out, err = porter("emit", "--config", config, "-o", "device", "--opset", "10")
    assert code == 0 and err == "" and "device/model.onnx" in out
    model = onnx.load(tmp_path / "device" / "model.onnx")
    assert model.opset_import[0].version == 10 and model.ir_version <= 7
    assert [o.name for o in model.graph.output] == ["cls", "size"]
    before = compile_folder(load_config(config))
    for name in ("encodings.json", "model_qdq.onnx"):
        assert (tmp_path / "device" / name).stat().st_size > 0
    assert (before / "encodings.json").read_bytes() == (tmp_path / "device" / "encodings.json").read_bytes()
    code, _, err = porter("emit", "--config", config, "-o", "device")
    assert code == 2 and err.startswith("PT512")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "quadrants.py", "-o", "device"], "PT703"),
        (["--config", "missing.py"], "PT501"),
        (["--config", "quadrants.py", "-t", "x5"], "--target has no meaning with --config"),
        (["-o", "device"], "--target is missing"),
        (["-t", "x5"], "--output is missing"),
        (["-t", "x5", "-o", "device", "--opset", "10"], "--opset is for --config"),
    ],
)
def test_emit_refuses(porter, tmp_path, arguments, words):
    tiny.write(tmp_path)
    code, out, err = porter("emit", *arguments)
    assert code == 2 and words in err and out == "" and not (tmp_path / "device").exists()


def test_an_opset_that_the_target_does_not_take(porter, another, tmp_path):
    code, _, err = porter("emit", "--config", another(), "-o", "device", "--opset", "17")
    assert code == 2 and err.startswith("PT205") and not (tmp_path / "device").exists()


def widths(config):
    """The dtype of each activation of the integers."""
    encodings = open_integers(load_config(config), "a test").encodings
    return {name: one.dtype for name, one in encodings.activations.items()}


def test_pins_and_widths_of_the_configuration(another):
    config = another(extra='quantize_cfg = dict(pins={"body.3": "w8a16"})\nqat_trainer = None\n')
    train(config, "calibration")
    train(config, "int_infer")
    mixed = widths(config)
    config = another(extra='quantize_cfg = dict(width="w8a16")\nqat_trainer = None\n')
    train(config, "calibration")
    train(config, "int_infer")
    assert set(mixed.values()) == {"int8", "int16"} and set(widths(config).values()) == {"int16"}


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ('quantize_cfg = dict(pins={"bodi.3": "w8a16"})\n', "PT414"),
        ('quantize_cfg = dict(width="int4")\n', "PT416"),
        ('quantize_cfg = dict(pins={"body.3": "w8a16"})\ntarget = "x3"\n', "PT416"),
        ('quantize_cfg = dict(pins={"body.3": 16})\n', "PT701"),
        ('quantize_cfg = dict(widht="int8")\n', "PT700"),
    ],
)
def test_widths_that_cannot_be(another, tmp_path, extra, code):
    config = another(extra=extra)
    before = {path: path.read_bytes() for path in (tmp_path / "runs").glob("*.safetensors")}
    with pytest.raises(PorterError) as caught:
        train(config, "calibration")
    assert caught.value.code == code
    assert before == {path: path.read_bytes() for path in (tmp_path / "runs").glob("*.safetensors")}


def test_int16_outputs_of_a_target_without_them_are_a_finding(another):
    made = train(another(extra='target = "x3"\n'), "calibration")
    found = [one for one in made.findings if one.code == "PT740"]
    assert len(found) == 2 and made.ok and "int16" in found[0].message


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ('quantize_cfg = dict(pins={"body.3": "w8a16"})\n', r"pins was {} and is {'body.3': 'w8a16'}"),
        ('target = "j5"\n', "target was 'x5' and is 'j5'"),
        ("outputs = dict(int8_output=True)\n", "outputs was"),
    ],
)
def test_scales_of_other_integers_are_refused(another, extra, words):
    config = another(extra=extra)
    for stage in ("qat", "int_infer"):
        with pytest.raises(PorterError, match=words) as caught:
            train(config, stage, restart=True)
        assert caught.value.code == "PT706"
