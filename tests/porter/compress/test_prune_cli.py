# SPDX-License-Identifier: Apache-2.0
"""``porter prune`` as a user meets it."""

import json
from functools import partial
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")


MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.an = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.bn = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = torch.relu(self.an(self.a(x)))
        return self.head(x + self.bn(self.b(x)))

def build():
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        net.an.weight.uniform_()
        net.bn.weight.uniform_()
    return net

def metric(net):
    return 0.5

def finetune(net):
    net.head.bias.data.fill_(3)

def broken(net):
    return net.nothing
"""


@pytest.fixture
def prune(porter):
    """Run ``porter prune`` in this process, in a folder with mine.py; gives (exit code, stdout, stderr)."""
    Path("mine.py").write_text(MODEL)
    return partial(porter, "prune", "-t", "mlu270")


NET = ("-m", "mine.py:build", "-i", "x:1x3x8x8", "--no-latency")


def test_prints_layers_and_stages_and_writes_the_folder(prune, tmp_path):
    code, out, _ = prune(
        *NET, "-o", "out", "--percent", 0.5, "--metric", "mine.py:metric", "--finetune", "mine.py:finetune",
        "--mask", "2:4", "--multiple", 4,
    )  # fmt: skip
    assert code == 0
    lines = out.splitlines()
    assert any(line.split()[:2] == ["an", "8"] for line in lines)
    stages = next(line for line in lines if "after channels" in line)
    assert "before" in stages and "after fine-tune" in stages and "after mask 2:4" in stages
    assert any(line.startswith("metric") and line.count("0.5000") == 4 for line in lines)
    assert "density 0.500" in out and "still stored and computed" in out
    assert (tmp_path / "out" / "model.py").exists() and (tmp_path / "out" / "weights.pt").exists()
    weights = torch.load(tmp_path / "out" / "weights.pt")
    assert weights["head.bias"].tolist() == [3, 3]


def test_a_mask_that_fits_no_layer_says_so(prune):
    code, out, _ = prune(*NET, "-o", "out", "--percent", 0, "--mask", "2:7")
    assert code == 0 and "mask 2:7: it fits no layer" in out


def test_json_is_the_file_that_is_written(prune, tmp_path):
    code, out, _ = prune(*NET, "-o", "out", "--percent", 0.3, "--shortcuts", 1, "-f", "json", "--plot")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "out" / "pruning.json").read_text())
    assert json.loads(out)["blocks"][0]["layers"] == ["b", "bn"]
    assert (tmp_path / "out" / "channels.png").exists()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--percent", 30), "PT601"),
        (("--percent", 0.99, "--layer-keep", 0), "PT602"),
        (("--skip", "*"), "PT603"),
        (("--shortcuts", 2), "PT604"),
        (("--mask", "4:2"), "PT607"),
        (("--metric", "mine.py:nothing"), "PT515"),
        (("--metric", "mine.py:broken"), "PT520"),
        (("--data", "missing.npz"), "PT501"),
    ],
)
def test_bad_input_is_one_error_and_writes_nothing(prune, tmp_path, options, code):
    exit_code, out, err = prune(*NET, "-o", "out", *options)
    assert exit_code == 2 and err.startswith(code) and not out
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_is_refused_before_the_work(prune, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    exit_code, _, err = prune(*NET, "-o", "out")
    assert exit_code == 2 and err.startswith("PT512") and (tmp_path / "out" / "mine").exists()
