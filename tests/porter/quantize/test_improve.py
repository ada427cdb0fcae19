# SPDX-License-Identifier: Apache-2.0
"""The passes on whole models: what each leaves alone, what it corrects, and that a pass that harms is taken back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import quantize_models as models

import porter
from porter.data import open_data
from porter.dialects.onnx import OnnxGraph
from porter.graph import Graph
from porter.quantize import improve as improving
from porter.quantize.adaround import adaround
from porter.quantize.bias_correction import BiasCorrected, bias_correct
from porter.quantize.encodings import Encodings, layer_paths
from porter.quantize.equalize import Equalized
from porter.quantize.improve import PASSES, Improved, fidelity, improve
from porter.quantize.insert import insert
from porter.quantize.layers import carried, weighted_layers
from porter.quantize.walk import Walk, fitting

TARGET = porter.Target.load("mlu270")


def samples(count: int, seed: int = 0) -> list[list[Any]]:
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(3, 3))
    return [
        [np.einsum("dc,nchw->ndhw", mix, rng.normal(size=(1, 3, 12, 12)) + 1).astype(np.float32)] for _ in range(count)
    ]


def calibrated(graph: Graph) -> Encodings:
    return porter.quantize(graph, TARGET, samples(8), dtype="int8", force=True, compare=0).encodings


@pytest.fixture(scope="module")
def graph() -> Graph:
    return OnnxGraph.load(models.small())


@pytest.fixture(scope="module")
def encodings(graph: Graph) -> Encodings:
    return calibrated(graph)


def torch_net() -> Graph:
    torch = pytest.importorskip("torch")
    from porter.dialects.fx import FxGraph

    torch.manual_seed(1)
    nn = torch.nn
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 1, bias=False), nn.Flatten(), nn.Linear(800, 4))
    return FxGraph.capture(net, [("images", (1, 3, 12, 12), None)])


@pytest.mark.parametrize("make", [lambda: OnnxGraph.load(models.small()), torch_net])
def test_a_walk_computes_what_a_run_does(make: Any) -> None:
    plain = make()
    simulated = insert(plain, calibrated(plain))
    items = samples(3)
    names = [layer.output.name for layer in weighted_layers(plain).values()]
    walk = Walk(simulated, items, names)
    for name in names:
        for item, got in zip(items, walk.value(name), strict=True):
            np.testing.assert_array_equal(got, simulated.run(item, [name])[-1])
    with pytest.raises(KeyError):
        walk.value(names[0])
    while walk._next is not None:
        walk.step()
    assert not any(walk._samples) and not walk._constants  # what nothing reads any more is not held
    assert fitting(plain, 1) == 1 and fitting(plain, 10**9) > fitting(plain, 10**7)


@pytest.mark.parametrize("make", [lambda: OnnxGraph.load(models.small()), torch_net])
def test_after_bias_correction_every_channel_has_the_mean_of_the_float_model(make: Any) -> None:
    plain = make()
    old = calibrated(plain)
    items = samples(6, seed=4)
    found = bias_correct(plain, insert(plain, old), old, items)
    new = carried(old, plain, found.graph)
    simulated = insert(found.graph, new)
    assert sorted(found.shifts) == sorted(path for path, layer in old.layers.items() if layer.quantized)
    for path, layer in weighted_layers(plain).items():
        if path in found.shifts:
            axes = tuple(a for a in range(len(layer.output.shape)) if a != layer.channel_axis)
            wanted, got = (
                np.mean([g.run(item, [layer.output.name])[-1].mean(axes) for item in items], axis=0)
                for g in (plain, simulated)
            )
            np.testing.assert_allclose(got, wanted, atol=2e-5 * max(1.0, np.abs(wanted).max()))
            assert np.abs(found.shifts[path]).max() > 0
    x = items[0]
    assert [v.name for v in plain.outputs] == [v.name for v in found.graph.outputs]
    np.testing.assert_array_equal(plain.run(x)[0], make().run(x)[0])  # the original is as it was


@pytest.mark.parametrize("per_channel", [False, True])
def test_adaround_puts_weights_on_the_grid_and_lowers_the_error(graph: Graph, per_channel: bool) -> None:
    old = porter.quantize(graph, TARGET, samples(8), dtype="int8", per_channel=per_channel, compare=0).encodings
    simulated = insert(graph, old)
    found = adaround(graph, simulated, old, samples(8))
    new = carried(old, graph, found.graph)
    before, after = weighted_layers(graph), weighted_layers(found.graph)
    assert set(found.layers) == {path for path, layer in old.layers.items() if layer.quantized}
    assert any(layer.flipped > 0 for layer in found.layers.values())
    for path, rounded in found.layers.items():
        encoding, weight = old.weights[path], after[path].weight.numpy()
        assert new.weights[path] == encoding
        integers = encoding.quantize(weight, old.rounding)
        np.testing.assert_array_equal(integers, rounded.integers)  # plain rounding picks what was chosen
        np.testing.assert_array_equal(encoding.fake(weight, old.rounding), weight)
        step = encoding.step.reshape([-1 if a == encoding.axis else 1 for a in range(weight.ndim)])
        assert np.all(np.abs(weight - before[path].weight.numpy()) <= step * (1 + 1e-5))
    quantized = insert(found.graph, new)
    assert fidelity(graph, quantized, samples(8)) > fidelity(graph, simulated, samples(8))


def test_all_passes_help_or_are_taken_back(graph: Graph, encodings: Encodings) -> None:
    data = open_data(samples(32), graph.inputs)
    made = improve(graph, encodings, data, PASSES, calibrated=calibrated, insert=insert)
    assert [step.name for step in made.steps] == list(PASSES)
    judges = data.take(10)
    start, end = (
        fidelity(graph, insert(graph, encodings), judges),
        fidelity(graph, insert(made.graph, made.encodings), judges),
    )
    assert end >= start - 0.05 * len(PASSES)
    assert made.steps[0].before == pytest.approx(start)
    assert layer_paths(made.graph) == layer_paths(graph)


def test_a_pass_that_harms_is_taken_back(graph: Graph, encodings: Encodings, monkeypatch: pytest.MonkeyPatch) -> None:
    def harm(graph: Graph, *_args: Any, **_options: Any) -> Any:
        layer = weighted_layers(graph)["fc"]
        worse = graph.with_constants({layer.bias.name: layer.bias.numpy() + 3})
        return BiasCorrected(worse, {"fc": np.full(5, -3, np.float32)})

    monkeypatch.setattr(improving, "bias_correct", harm)
    made = improve(graph, encodings, open_data(samples(6), graph.inputs), ["bias_correction"], calibrated=calibrated,
                   insert=insert)  # fmt: skip
    assert isinstance(made, Improved) and made.graph is graph and made.encodings is encodings
    assert not made.steps[0].kept and made.steps[0].after < made.steps[0].before
    assert [f.code for f in made.findings] == ["PT451"]


def test_equalization_that_changes_the_model_is_refused(
    graph: Graph, encodings: Encodings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(graph: Graph) -> Any:
        layer = weighted_layers(graph)["fc"]
        return Equalized(graph.with_constants({layer.weight.name: layer.weight.numpy() * 1.01}), [object()], [])

    monkeypatch.setattr(improving, "equalize", wrong)
    made = improve(graph, encodings, open_data(samples(6), graph.inputs), ["equalize"], calibrated=calibrated,
                   insert=insert)  # fmt: skip
    assert made.graph is graph and [f.code for f in made.findings] == ["PT452"]
