# SPDX-License-Identifier: Apache-2.0
"""Random architectures: pruning changes nothing when the channels that go are silent, whatever connects them."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from prune_models import STEPS, RandomNet, set_norms  # noqa: E402

import porter  # noqa: E402

INPUT = "x:2x3x8x8:float64"
#: In float64 a sum in another order differs by a few units of 2e-16, amplified by the layers behind it.
ROUNDING = 1e-11

steps = st.lists(st.sampled_from(STEPS), min_size=1, max_size=6)
seeds = st.integers(0, 10_000)


def outputs(model, dtype=torch.float64):
    x = torch.randn(2, 3, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(x)


def relative(a, b):
    assert a.shape == b.shape
    return float((a - b).abs().max() / (b.max() - b.min()).clamp(min=1e-6))


@settings(max_examples=14, deadline=None)
@given(steps, seeds, st.sampled_from((1, 4)))
def test_silent_channels_go_without_a_trace(kinds, seed, multiple):
    """Gamma and beta 0 in the channels that go: the pruned model is the original one, up to rounding in float64."""
    net = RandomNet(kinds, seed).double()
    set_norms(net, seed, zeros=0.4, beta_of_zeros=False)
    before = outputs(net)
    made = porter.prune(net, "onnxruntime", INPUT, percent=0.6, layer_keep=0, multiple=multiple, latency=False)
    assert relative(outputs(made.module), before) < ROUNDING
    assert torch.equal(outputs(net), before)  # the user's module is as it was
    assert made.structure < ROUNDING
    for layer in made.layers:
        assert 0 < layer.remaining <= layer.total
    removed = {layer.path for layer in made.layers if layer.remaining < layer.total}
    if multiple == 1:
        assert "stem.1" in removed or kinds[0] not in ("conv", "concat"), removed


@settings(max_examples=8, deadline=None)
@given(steps, seeds)
def test_rebuilt_code_loses_silent_channels_without_a_trace(kinds, seed):
    """The same for code that is written anew, in the float32 that it computes in; splits and slices are cut too."""
    net = RandomNet(kinds, seed)
    set_norms(net, seed, zeros=0.4, beta_of_zeros=False)
    before = outputs(net, torch.float32)
    made = porter.prune(net, "onnxruntime", "x:2x3x8x8", percent=0.6, layer_keep=0, rebuild=True, latency=False)
    assert relative(outputs(made.module, torch.float32), before) < 1e-4
    assert made.stages[-1].parameters == sum(p.numel() for p in made.module.parameters())


@settings(max_examples=8, deadline=None)
@given(steps, seeds, st.sampled_from(("intersection", "max")), st.floats(0.05, 0.9))
def test_any_gammas_prune_to_the_silenced_model(kinds, seed, scheme, percent):
    """Whatever goes by any threshold, the result is the original with those channels silenced; and it can be built."""
    net = RandomNet(kinds, seed).double()
    set_norms(net, seed, zeros=0.0, beta_of_zeros=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.num_features, generator=generator, dtype=torch.float64))
    made = porter.prune(net, "onnxruntime", INPUT, percent=percent, layer_keep=0.2, scheme=scheme, latency=False)
    assert made.structure < ROUNDING
    for layer in made.layers:
        assert layer.remaining >= min(layer.total, -(-layer.total // 5))
    assert made.stages[-1].parameters == sum(p.numel() for p in made.module.parameters())
