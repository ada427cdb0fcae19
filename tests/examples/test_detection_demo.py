# SPDX-License-Identifier: Apache-2.0
"""The demos of the two Horizon detectors: all stages of a tiny setting, and what is put beside the deploy model."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")
pytest.importorskip("safetensors")

from examples.detection.demo import give_weights, run  # noqa: E402
from examples.detection.weights import halve  # noqa: E402
from examples.fcos_horizon.small import host_filter  # noqa: E402
from porter.train import checkpoint  # noqa: E402
from porter.train.config import load_config  # noqa: E402
from porter.train.stages import compile_folder, open_integers  # noqa: E402

TINY = """
from examples.fcos_horizon.small import *
from examples.fcos_horizon.small import Fcos as _Fcos, Shapes as _Shapes, Detection as _Detection

ckpt_dir = {folder!r}
model = lambda: _Fcos(5, width=0.25, depth=0.25, channels=16, stack=1, stacked=1)
deploy_model = model
_few = lambda split, count: {{"dataset": lambda: _Detection(_Shapes(split), limit=count), "collate_fn": collate}}
data_loader = {{**_few("train", 8), "batch_size": 4}}
val_data_loader = {{**_few("val", 2), "batch_size": 2}}
calibration_data_loader = {{**_few("calib", 4), "batch_size": 2}}
float_trainer = {{**float_trainer, "num_epochs": 1}}
calibration_trainer = {{**calibration_trainer, "num_steps": 2}}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The demo from nothing; (configuration, exit code)."""
    folder = tmp_path_factory.mktemp("demo")
    file = folder / "tiny_fcos.py"
    file.write_text(TINY.format(folder=str(folder / "runs")))
    code = run(file, folder / "no_weights", ["--scratch"])
    return load_config(file), code


def test_all_stages_run_and_what_is_emitted_is_the_same(done):
    config, code = done
    assert code == 0  # two steps of training find nothing, in float as in integers; but every bit is the same
    names = {path.name for path in compile_folder(config).iterdir()}
    assert {"model_qdq.onnx", "model_traced.pt", "postprocess.py", "postprocess.json"} <= names
    emission = json.loads((compile_folder(config) / "emission.json").read_text())
    assert emission["files"]["postprocess.py"]["format"] == "host"


def test_the_hosts_part_reads_the_integers_of_the_device(done, tmp_path):
    config, _ = done
    network = open_integers(config, "a test")
    described = json.loads((compile_folder(config) / "postprocess.json").read_text())
    assert described["outputs"] == list(config.output_names)
    assert described["scales"] == [output.scale for output in network.outputs]
    image = config.val_data_loader.dataset()[0]["img"][None]
    raw = network(image)
    assert all(one.dtype == np.int16 for one in raw)
    # An untrained network finds nothing, so everything is let through.
    open_filter = dataclasses.replace(host_filter, threshold=-99.0, score_threshold=0.0)
    open_filter.emit(tmp_path, network.outputs, config.class_names)
    np.savez(tmp_path / "outputs.npz", **dict(zip(described["outputs"], raw, strict=True)))
    command = [sys.executable, "-I", tmp_path / "postprocess.py", tmp_path / "outputs.npz"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    wanted = open_filter(network.real(raw))[0]
    assert len(lines) == len(wanted.scores) > 10
    found = [json.loads(line) for line in lines]
    np.testing.assert_allclose([one["score"] for one in found], wanted.scores, atol=1e-4)
    assert {one["class"] for one in found} <= set(config.class_names)


def test_weights_are_given_once_and_halved(done, tmp_path):
    config, _ = done
    best = checkpoint.best_path(config, "float")
    size = halve(best, tmp_path / "half.safetensors")
    assert size < 0.7 * best.stat().st_size
    whole, half = checkpoint.read(best), checkpoint.read(tmp_path / "half.safetensors")
    assert whole.facts == half.facts and whole.tensors.keys() == half.tensors.keys()
    for name, tensor in whole.tensors.items():
        if tensor.dtype == torch.float32:
            torch.testing.assert_close(half.tensors[name].float(), tensor, rtol=1e-3, atol=1e-7)
        else:
            assert torch.equal(half.tensors[name], tensor)
    give_weights(config, tmp_path / "half.safetensors")
    assert best.read_bytes() == (tmp_path / "half.safetensors").read_bytes()
    before = best.stat().st_mtime_ns
    give_weights(config, tmp_path / "half.safetensors")
    assert best.stat().st_mtime_ns == before
    model = config.model()
    checkpoint.load_into(model, checkpoint.read(best).part("model"), best)
    assert all(p.dtype == torch.float32 for p in model.parameters())
