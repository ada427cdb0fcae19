# SPDX-License-Identifier: Apache-2.0
"""The scaling example: its channels fit at any width, its configuration is valid, its training trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.yolox_mlu270.yolox import SIZES, YOLOX, scaled_channels, yolox_scaled
from examples.yolox_scale.train import inherit, train
from porter.compress.scale import Options
from porter.compress.scale_channels import check_channels
from porter.compress.scale_plan import make_plan
from porter.compress.xgen import read_xgen
from porter.target import Target

CONFIG = Path(__file__).parents[2] / "examples" / "yolox_scale" / "xgen.json"


@given(st.floats(0.02, 2.0))
def test_consistent_channels_are_multiples_of_one_base(width: float) -> None:
    base = scaled_channels(64, width, "consistent")
    assert 64 * width - 1e-6 <= base < 64 * width + 1
    for factor in (2, 4, 8, 16):
        assert scaled_channels(64 * factor, width, "consistent") == factor * base


@pytest.mark.parametrize("size", SIZES)
def test_the_published_sizes_do_not_change(size: str) -> None:
    for channels in (64, 256, 512, 1024):
        width = SIZES[size][1]
        assert scaled_channels(channels, width, "consistent") == scaled_channels(channels, width, "upstream")


@given(st.floats(0.03, 0.3), st.booleans())
@settings(max_examples=6, deadline=None)
def test_consistent_models_fit_at_any_width(width: float, depthwise: bool) -> None:
    assert check_channels(yolox_scaled(width, 0.33, 3, depthwise), "1x3x64x64") == ()


def test_upstream_rounding_does_not_fit_at_any_width() -> None:
    findings = check_channels(yolox_scaled(0.3, 0.33, 3, True, rounding="upstream"), "1x3x64x64")
    assert "dark5.2.conv3.bn (304) and backbone.lateral_conv0.conv (expects 307)" in findings[0].message
    assert check_channels(yolox_scaled(0.25, 0.33, 3, True, rounding="upstream"), "1x3x64x64") == ()


def test_the_configuration_is_one() -> None:
    config = read_xgen(CONFIG)
    assert config.findings == ()
    plan = make_plan(config, Target.load("mlu270"), Options())
    assert plan.size(1.0) == (0.25, 0.33)
    assert plan.model_args == {"num_classes": 5, "depthwise": True}
    assert len(plan.grid.values) == 7


def test_a_candidate_inherits_the_corner_of_each_tensor() -> None:
    large, small = YOLOX("nano", 5), yolox_scaled(0.1, 0.33, 5, True)
    weights = large.state_dict()
    assert inherit(small, weights) == len(small.state_dict())
    for name, tensor in small.state_dict().items():
        corner = tuple(slice(0, n) for n in tensor.shape)
        assert torch.equal(tensor, weights[name][corner]), name


def test_training_changes_the_weights_and_returns_an_accuracy() -> None:
    model = yolox_scaled(0.1, 0.33, 5, True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = train(model, {"seed": 0, "common_train_epochs": 2 / 30, "eval_images": 8})
    assert 0 <= found <= 1
    assert not model.training
    assert not torch.equal(before["head.stems.0.conv.weight"], model.state_dict()["head.stems.0.conv.weight"])
