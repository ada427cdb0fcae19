# SPDX-License-Identifier: Apache-2.0
"""Sparse training: the subgradient, the histograms, the pictures; masks with a pattern."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import porter  # noqa: E402
from porter.compress.patterns import apply_pattern, parse_pattern  # noqa: E402
from porter.compress.sparsity import BINS, GammaHistory, SparseTraining  # noqa: E402
from porter.errors import PorterError  # noqa: E402


def model():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with torch.no_grad():
        made[1].weight.copy_(torch.tensor([0.5, -0.25, 0.0]))
    return made


def test_step_adds_strength_times_the_sign_of_gamma():
    net = model()
    sparse = SparseTraining(net, 0.01, skip=["3"])
    net(torch.randn(2, 2, 4, 4)).square().mean().backward()
    before = {name: p.grad.clone() for name, p in net.named_parameters()}
    sparse.step()
    change = {name: p.grad - before[name] for name, p in net.named_parameters()}
    torch.testing.assert_close(change.pop("1.weight"), torch.tensor([0.01, -0.01, 0.0]), rtol=0, atol=1e-7)
    assert all(not value.any() for value in change.values())


def test_a_step_before_backward_does_nothing():
    SparseTraining(model(), 0.01).step()


def test_training_with_the_penalty_moves_gammas_to_0():
    net = model()
    sparse = SparseTraining(net, 0.1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    sparse.record(0)
    for epoch in range(1, 4):
        for _ in range(10):
            optimizer.zero_grad()
            (net(torch.randn(4, 2, 4, 4)).mean() * 0).backward()
            sparse.step()
            optimizer.step()
        sparse.record(epoch)
    medians = [q[5] for q in sparse.history.quantiles]
    assert medians[0] > medians[1] > medians[2] > medians[3]
    assert sparse.history.epochs == [0, 1, 2, 3]


def test_histograms_count_every_gamma():
    history = GammaHistory(strength=1e-4, top=1.0)
    history.add(0, np.array([0.0, -0.01, 0.5, 1.0, 7.0], np.float32))
    assert len(history.edges) == BINS + 1
    assert history.counts[0][0] == 2 and history.counts[0][25] == 1 and history.counts[0][-1] == 2
    assert history.quantiles[0][0] == 0 and history.quantiles[0][-1] == 7


def test_history_is_written_read_and_drawn(tmp_path):
    sparse = SparseTraining(model(), 0.1)
    for epoch in range(3):
        sparse.record(epoch)
    path = sparse.history.save(tmp_path / "gammas.json")
    assert GammaHistory.load(path) == sparse.history
    assert json.loads(path.read_text())["counts"][0] == sparse.history.counts[0]
    assert sparse.history.plot(tmp_path / "gammas.png").read_bytes()[:4] == b"\x89PNG"
    assert b"<svg" in sparse.history.plot(tmp_path / "gammas.svg").read_bytes()
    with pytest.raises(PorterError) as caught:
        sparse.history.save(path)
    assert caught.value.code == "PT512"


@pytest.mark.parametrize("strength", [0, -1, float("nan"), float("inf")])
def test_a_strength_is_positive(strength):
    with pytest.raises(PorterError) as caught:
        SparseTraining(model(), strength)
    assert caught.value.code == "PT606"


def test_a_model_without_batch_norm_is_refused():
    with pytest.raises(PorterError) as caught:
        SparseTraining(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, affine=False)))
    assert caught.value.code == "PT600"


# -- masks ---------------------------------------------------------------------------------------------------------


def test_two_of_four_keeps_the_two_largest_along_the_input_channels():
    layer = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -4, 3, 2, 0.1, 0.2, -0.3, 0.4]]))
    (masked,) = apply_pattern(nn.Sequential(layer), parse_pattern("2:4"))
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[0.0, -4, 3, 0, 0, 0, -0.3, 0.4]]))
    assert (masked.path, masked.kept, masked.density) == ("0", 4, 0.5)


def test_n_of_m_holds_at_every_position_of_a_kernel():
    conv = nn.Conv2d(8, 3, 3)
    apply_pattern(conv, parse_pattern("1:4"))
    groups = conv.weight.detach().movedim(1, -1).reshape(-1, 4)
    assert ((groups != 0).sum(1) == 1).all()


def test_block_punched_zeroes_the_same_positions_in_a_block():
    conv = nn.Conv2d(4, 8, 3)
    (masked,) = apply_pattern(nn.Sequential(conv), parse_pattern("block:4x2:0.5"))
    assert masked.density == pytest.approx(5 / 9)
    pattern = (conv.weight.detach() != 0).reshape(2, 4, 2, 2, 9)
    for out in range(2):
        for begin in range(2):
            block = pattern[out, :, begin].reshape(-1, 9)
            assert (block == block[0]).all() and block[0].sum() == 5


def test_layers_that_a_pattern_does_not_fit_are_left_alone():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1))
    assert [m.path for m in apply_pattern(net, parse_pattern("2:4"))] == ["2"]
    assert [m.path for m in apply_pattern(net, parse_pattern("block:2x2:0.5"))] == ["0"]


@pytest.mark.parametrize(
    "text", ["", "4:2", "2:2", "0:4", "2/4", "block:8x4", "block:8x4:0", "block:8x4:1", "block:0x4:0.5"]
)
def test_a_pattern_that_is_none_is_refused(text):
    with pytest.raises(PorterError) as caught:
        parse_pattern(text)
    assert caught.value.code == "PT607"


def test_a_mask_is_the_last_step_and_its_zeros_are_in_the_result():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    made = porter.prune(net, "onnxruntime", "x:1x4x8x8", percent=0, mask="2:4", latency=False)
    assert [m.density for m in made.masked] == [0.5, 0.5] and made.stages[-1].name == "after mask 2:4"
    assert made.stages[-1].macs == made.stages[0].macs  # nothing is smaller
    assert float((made.module[3].weight == 0).float().mean()) == 0.5
