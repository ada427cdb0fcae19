# SPDX-License-Identifier: Apache-2.0
"""The commands: what they print, write and answer with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from porter.errors import PorterError
from porter.train.config import load_config
from porter.train.infer import infer
from porter.train.profile import profile
from porter.train.stages import emitted_onnx


def test_train_and_its_second_run(porter, tmp_path):
    config = tiny.write(tmp_path, ("num_epochs=4", "num_epochs=2"))
    code, out, err = porter("train", "--stage", "float", "--config", config)
    assert code == 0 and err == ""
    lines = out.splitlines()
    assert lines[0].startswith("epoch 1 of 2: loss ") and "cls " in lines[0] and "accuracy " in lines[0]
    assert lines[-1].endswith("float-checkpoint-best.safetensors")
    code, out, _ = porter("train", "--stage", "float", "-c", config)
    assert code == 0 and "all 2 epochs were done" in out
    code, out, _ = porter("train", "--stage", "float", "-c", config, "--restart", "--format", "json")
    made = json.loads(out)
    assert made["stage"] == "float" and len(made["epochs"]) == 2 and made["resumed"] == 0


def test_predict(porter, trained):
    code, out, _ = porter("predict", "--stage", "float", "--stage", "int_infer", "--config", trained[0])
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[1:]}
    assert code == 0 and rows["stage"][:2] == ["accuracy", "count"]
    assert float(rows["float"][0]) == pytest.approx(trained[1]["float"].metrics["accuracy"], abs=1e-4)
    assert set(rows) == {"stage", "float", "int_infer"}
    code, out, _ = porter("predict", "--stage", "qat", "--config", trained[0], "--format", "json")
    row = json.loads(out)["stages"][0]
    assert row["metrics"] == dict(trained[1]["qat"].metrics) and row["monitor"] == "accuracy"


def test_validate(porter, trained):
    code, out, _ = porter("validate", "--config", trained[0])
    assert code == 0 and "25 images, 125 elements" in out and "the same bit for bit" in out
    assert str(emitted_onnx(load_config(trained[0]))) in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--stage", "float", "--config", "missing.py"], "PT501"),
        (["train", "--stage", "calibration", "--config", "quadrants.py"], "PT703"),
        (["predict", "--stage", "int_infer", "--config", "quadrants.py"], "PT703"),
        (["predict", "--stage", "qat", "--config", "quadrants.py"], "PT703: the network of the stage qat needs"),
        (["validate", "--config", "quadrants.py"], "PT703"),
        (["infer", "missing.png", "--config", "quadrants.py"], "PT702"),
        (["profile", "--config", "quadrants.py", "--dtype", "int4"], "PT622"),
    ],
)
def test_what_goes_wrong_is_one_error(porter, tmp_path, arguments, words):
    tiny.write(tmp_path)
    code, out, err = porter(*arguments)
    assert code == 2 and err.startswith(words) and "more: porter explain" in err and out == ""
    assert not list(tmp_path.glob("runs/*.safetensors"))


def test_a_stage_that_there_is_not(porter, tmp_path):
    code, _, err = porter("train", "--stage", "calibrate", "--config", tiny.write(tmp_path))
    assert code == 2 and "calibration" in err


def interrupted(command, until):
    """The standard error of a command that Ctrl-C stops once it has printed a line with ``until``."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert until in child.stdout.readline()
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=100)
    assert child.returncode == 2 and err.startswith("PT516") and len(err.splitlines()) == 1
    return err


def test_an_interrupt_says_what_is_kept(tmp_path):
    config = tiny.write(tmp_path, ("num_epochs=4", "num_epochs=100000"))
    command = [sys.executable, "-m", "porter.cli", "train", "--stage", "float", "--config", config]
    err = interrupted(command, "1 of 100000: loss")
    assert f"kept in {tmp_path / 'runs'}" in err and f"`porter train --stage float --config {config}` goes on" in err
    assert "nothing was written" not in err


def test_an_interrupt_of_the_first_epoch_keeps_nothing(tmp_path):
    slow = 'print("here", flush=True), __import__("time").sleep(100)'
    config = tiny.write(tmp_path, ("cls, size = outputs\n    return", f"cls, size = outputs\n    {slow}\n    return"))
    command = [sys.executable, "-m", "porter.cli", "train", "--stage", "float", "--config", config]
    assert "nothing was written" in interrupted(command, "here")
    assert not list(tmp_path.glob("runs/*.safetensors"))


# -- profile ---------------------------------------------------------------------------------------------------------


def test_profile_counts_by_hand(tmp_path):
    config = tiny.write(
        tmp_path, extra='published = dict(source="a paper", parameters=1600, macs=3e4, milliseconds=0.5)\n'
    )
    made = profile(config)
    # 3 x 3 convolutions 3-8, 8-8, 8-8 without bias, gamma and beta of three norms, heads 2 x 2 to 4 and 1 with bias.
    assert made.estimate.params == 8 * 27 + 2 * 8 * 72 + 3 * 16 + 5 * 32 + 5
    assert made.estimate.macs == 64 * 8 * 27 + 16 * 8 * 72 + 4 * 8 * 72 + 5 * 32
    # x5: 10 TOPS at int8, two operations a multiply-accumulate.
    assert made.estimate.milliseconds == pytest.approx(1e3 * made.estimate.macs / 5e12)
    assert made.published.macs == 3e4


def test_profile_prints_published_figures_beside_its_own(porter, tmp_path):
    config = tiny.write(tmp_path, extra='published = dict(source="a paper", macs=3e7)\n')
    code, out, _ = porter("profile", "--config", config)
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith("multiply-accumulates"))
    assert line.split()[1:] == ["0.000", "G", "0.030", "G"]
    assert "published by: a paper" in out and "body.3" in out
    code, out, _ = porter("profile", "--config", config, "--format", "json")
    made = json.loads(out)
    assert made["published"]["macs"] == 3e7 and made["input_shape"] == [1, 3, 16, 16]


# -- infer -----------------------------------------------------------------------------------------------------------

DETECTOR = """
import numpy as np
class_names = ("upper left", "upper right", "lower left", "lower right")

def preprocess(image):
    small = image.resize((16, 8))
    img = np.zeros((3, 16, 16), np.float32) - 1
    img[:, :8] = np.asarray(small, np.float32).transpose(2, 0, 1) / 127.5 - 1
    return img

def post_process(outputs):
    cls = outputs[0].reshape(-1)
    y, x = divmod(int(cls.argmax()), 2)
    found = [[x * 8, y * 8, x * 8 + 8, y * 8 + 8, 0.9, cls.argmax()], [2, 1, 4, 3, 0.1, 0], [-4, 1, 40, 3, 0.5, 3]]
    return np.array(found)
"""


@pytest.fixture
def detector(trained, tmp_path):
    config = tiny.write(tmp_path, extra=DETECTOR + f"ckpt_dir = {str(trained[0].parent / 'runs')!r}\n")
    pixels = np.random.default_rng(0).integers(0, 100, (40, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return config, tmp_path / "image.png"


@pytest.mark.parametrize("stage", ["float", "qat", "int_infer"])
def test_boxes_are_in_pixels_of_the_image(detector, tmp_path, stage):
    config, image = detector
    made = infer(config, image, tmp_path / "out.png", stage=stage, min_score=0.3)
    # The image of 80 x 40 is 16 x 8 of the input: 5 pixels for one. Boxes end at its edges.
    assert [one.score for one in made.detections] == [0.9, 0.5]
    assert made.detections[1].box == (0, 5, 80, 15) and made.detections[1].name == "lower right"
    left, top, right, bottom = made.detections[0].box
    assert right - left == 40 and (left, top) in {(0, 0), (40, 0), (0, 40), (40, 40)} and bottom <= 40
    before, after = np.asarray(Image.open(image)), np.asarray(Image.open(tmp_path / "out.png"))
    assert after.shape == before.shape and (before != after).any(2).sum() > 100


def test_infer_prints_and_does_not_replace(porter, detector):
    config, image = detector
    arguments = ["infer", image, "--config", config, "--stage", "float", "-o", "seen.jpg"]
    code, out, _ = porter(*arguments)
    assert code == 0 and "2 detections" in out and "lower right 0.500  0.0 5.0 80.0 15.0" in out
    code, _, err = porter(*arguments)
    assert code == 2 and err.startswith("PT512")
    code, out, _ = porter(*arguments, "--overwrite", "--format", "json")
    assert code == 0 and len(json.loads(out)["detections"]) == 2


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("def preprocess(image): return np.zeros((16, 16), np.float32)\n", r"\[16, 16\]"),
        ("def preprocess(image): return np.zeros((3, 16, 16), np.uint8)\n", "uint8"),
        ("def preprocess(image): return image\n", "Image"),
        ("def post_process(outputs): return np.zeros((2, 5))\n", r"\[2, 5\]"),
    ],
)
def test_functions_that_return_something_else(detector, extra, words):
    config, image = detector
    config.write_text(config.read_text() + extra)
    with pytest.raises(PorterError, match=words) as caught:
        infer(config, image, stage="float")
    assert caught.value.code == "PT711"


def test_a_scale_of_its_own(detector):
    config, image = detector
    config.write_text(
        config.read_text() + "_plain = preprocess\ndef preprocess(image): return _plain(image), (0.2, 0.1)\n"
    )
    assert infer(config, image, stage="float").detections[1].box == (0, 10, 80, 30)


def test_no_detection_is_no_error(detector):
    config, image = detector
    config.write_text(config.read_text() + "def post_process(outputs): return []\n")
    assert infer(config, image, stage="float").detections == ()


def test_a_file_that_is_no_image(detector, tmp_path):
    (tmp_path / "text.png").write_text("nothing to see")
    with pytest.raises(PorterError) as caught:
        infer(detector[0], tmp_path / "text.png", stage="float")
    assert caught.value.code == "PT502"


def test_a_picture_of_an_unknown_kind(detector, tmp_path):
    with pytest.raises(PorterError) as caught:
        infer(detector[0], detector[1], tmp_path / "out.xyz", stage="float")
    assert caught.value.code == "PT519" and not (tmp_path / "out.xyz").exists()


def test_the_model_that_is_profiled_must_be_one(tmp_path):
    config = tiny.write(tmp_path, ("deploy_model = Net", "deploy_model = lambda: 3"))
    with pytest.raises(PorterError, match=r"not an nn\.Module"):
        profile(config)


@pytest.mark.parametrize(
    "inputs",
    ["dict()", "dict(a=torch.zeros(1, 3), b=torch.zeros(1))", "dict(img=torch.zeros(2, 3, 16, 16))", "lambda: 3"],
)
def test_deploy_inputs_that_cannot_be(tmp_path, inputs):
    config = tiny.write(tmp_path, ("dict(img=torch.zeros(1, 3, 16, 16))", inputs))
    with pytest.raises(PorterError) as caught:
        profile(config)
    assert caught.value.code == "PT701" and "deploy_inputs" in str(caught.value)
    assert torch.is_tensor(load_config(tiny.write(tmp_path)).deploy_inputs["img"])
