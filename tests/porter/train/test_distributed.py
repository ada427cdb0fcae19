# SPDX-License-Identifier: Apache-2.0
"""Two processes (gloo) with batches of n compute what one with batches of 2 n computes."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import tiny
import torch
from forked import metrics, refused, run_forked

from porter.train import checkpoint
from porter.train.config import load_config
from porter.train.stages import train

SYNC = ("    ema=0.9,", "    ema=0.9, sync_bn=True,")
HALF = ("batch_size=16", "batch_size=8")


def state(config, stage):
    return checkpoint.read(checkpoint.best_path(load_config(config), stage))


def assert_alike(one, two, stage, rtol, atol):
    one, two = state(one, stage), state(two, stage)
    assert set(one.tensors) == set(two.tensors)
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(two.tensors[name], tensor, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
    return one.facts, two.facts


# In float32 a ReLU that is at its edge in one order of a sum soon tells the two apart.
DOUBLE = [
    ("super().__init__()", "super().__init__(); torch.set_default_dtype(torch.float64)"),
    ("x = self.body(img)", "x = self.body(img.double())"),
    ('batch["size"].float()', 'batch["size"].double()'),
]


def test_float(tmp_path):
    """By the command with torchrun."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = tiny.write(tmp_path / "one", SYNC, *DOUBLE)
    two = tiny.write(tmp_path / "two", SYNC, HALF, *DOUBLE)
    assert run_forked(metrics, one, "float")[0][0] == 0
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "porter.cli",
        "train", "--stage", "float", "--config", two,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    facts = assert_alike(one, two, "float", 1e-9, 1e-9)
    assert facts[0]["metrics"] == facts[1]["metrics"]
    assert facts[1]["metrics"]["count"] == 25.0  # merged: every image once
    assert facts[1]["losses"] == pytest.approx(facts[0]["losses"], rel=1e-9)
    # The first process alone prints, and every epoch once.
    assert done.stdout.count("epoch 1 of 4") == 1 and done.stdout.count("wrote ") == 1


@pytest.mark.parametrize("mode", ["fuse_bn", "with_bn"])
def test_calibration_and_qat(trained, tmp_path, mode):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        shutil.copytree(trained[0].parent / "runs", folder / "runs", ignore=shutil.ignore_patterns("qat-*", "*-last*"))
    change = ("    num_epochs=2,", f"    num_epochs=1, sync_bn=True, qat_mode='{mode}',")
    configs = tiny.write(one, SYNC, change), tiny.write(two, SYNC, change, HALF)
    train(configs[0], "calibration")
    ended = run_forked(metrics, configs[1], "calibration", world=2)
    assert [code for code, _ in ended] == [0, 0] and ended[0][1] == ended[1][1]
    # Extremes of all batches are the same however they are dealt out.
    assert_alike(*configs, "calibration", 0, 0)
    train(configs[0], "qat")
    ended = run_forked(metrics, configs[1], "qat", world=2)
    assert [code for code, _ in ended] == [0, 0] and ended[0][1] == ended[1][1]
    # A rounding that falls the other way in one of them moves a gradient by a step.
    assert_alike(*configs, "qat", 1e-2, 1e-3)


def test_without_merging_the_first_process_validates_everything(tmp_path):
    config = tiny.write(
        tmp_path, ("    def state(self):", "    def _state(self):"), ("num_epochs=4", "num_epochs=1"), HALF
    )
    ended = run_forked(metrics, config, "float", world=2)
    assert [code for code, _ in ended] == [0, 0]
    assert ended[0][1] == ended[1][1] and ended[0][1]["count"] == 25.0


def test_resumption_in_two_processes(tmp_path):
    short = tiny.write(tmp_path, SYNC, HALF, ("num_epochs=4", "num_epochs=2"))
    run_forked(metrics, short, "float", world=2)
    longer = tiny.write(tmp_path, SYNC, HALF, ("num_epochs=4", "num_epochs=3"))
    ended = run_forked(metrics, longer, "float", world=2)
    assert [code for code, _ in ended] == [0, 0]
    assert checkpoint.read(checkpoint.last_path(load_config(longer), "float")).facts["epoch"] == 2


def test_a_loss_that_is_not_finite_in_one_process_ends_both(tmp_path):
    extra = (
        "_plain = loss\n"
        "def loss(outputs, batch):\n"
        "    found = _plain(outputs, batch)\n"
        "    return {**found, 'size': found['size'] / (os.environ['RANK'] == '0')}\n"
    )
    (_, first), (_, second) = run_forked(refused, tiny.write(tmp_path, HALF, extra=extra), "float", world=2)
    assert first.startswith("PT705") and "another process" in first
    assert second.startswith("PT705") and "size inf" in second


def test_a_metric_that_fails_ends_both(tmp_path):
    config = tiny.write(tmp_path, ('monitor = "accuracy"', 'monitor = "acuracy"'), HALF)
    (_, first), (_, second) = run_forked(refused, config, "float", world=2)
    assert first == second and first.startswith("PT708")
