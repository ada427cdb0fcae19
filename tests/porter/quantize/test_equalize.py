# SPDX-License-Identifier: Apache-2.0
"""Cross-layer equalization: hand-computed ranges, the same function afterwards, and what must not be touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from quantize_models import model

from porter.dialects.onnx import OnnxGraph
from porter.quantize.equalize import equalize
from porter.quantize.layers import weighted_layers

RNG = np.random.default_rng(3)


def normal(*shape: int, spread: float = 3.0) -> Any:
    """Weights whose output channels differ in size by up to 10**spread."""
    scales = 10.0 ** RNG.uniform(-spread / 2, spread / 2, shape[0])
    return (RNG.normal(size=shape) * scales.reshape(-1, *(1,) * (len(shape) - 1))).astype(np.float32)


def chain(between: list[Any], a: Any, a_bias: Any, b: Any, shape: tuple[int, ...], out: tuple[int, ...], **attrs: Any):  # type: ignore[no-untyped-def]
    nodes = [
        helper.make_node("Conv", ["x", "a.weight", "a.bias"], ["a_y"], name="a"),
        *between,
        helper.make_node("Conv", ["mid", "b.weight"], ["y"], name="b", **attrs),
    ]
    return OnnxGraph.load(model(nodes, {"x": shape}, {"y": out}, {"a.weight": a, "a.bias": a_bias, "b.weight": b}))


def relu(name: str = "Relu", **attrs: Any) -> list[Any]:
    return [helper.make_node(name, ["a_y"], ["mid"], name="act", **attrs)]


def test_ranges_meet_at_the_geometric_mean() -> None:
    a = np.array([8.0, 0.5], np.float32).reshape(2, 1, 1, 1)
    b = np.array([[0.5, 8.0]], np.float32).reshape(1, 2, 1, 1)
    graph = chain(relu(), a, np.array([4.0, 1.0], np.float32), b, (1, 1, 2, 2), (1, 1, 2, 2))
    found = equalize(graph)
    layers = weighted_layers(found.graph)
    # r1 = (8, 1/2), r2 = (1/2, 8): s = sqrt(r1 / r2) = (4, 1/4), ranges sqrt(8 * 1/2) = 2 on both sides
    np.testing.assert_allclose(layers["a"].weight.numpy().ravel(), [2, 2], rtol=1e-6)
    np.testing.assert_allclose(layers["b"].weight.numpy().ravel(), [2, 2], rtol=1e-6)
    np.testing.assert_allclose(layers["a"].bias.numpy(), [1, 4], rtol=1e-6)
    assert [(p.first.path, p.second.path, p.through) for p in found.pairs] == [("a", "b", ("relu",))]


def test_no_bias_grows_beyond_the_largest() -> None:
    a = np.array([1.0, 1e-4], np.float32).reshape(2, 1, 1, 1)
    b = np.ones((1, 2, 1, 1), np.float32)
    graph = chain(relu(), a, np.array([0.5, 0.5], np.float32), b, (1, 1, 2, 2), (1, 1, 2, 2))
    bias = weighted_layers(equalize(graph).graph)["a"].bias
    assert bias is not None and np.abs(bias.numpy()).max() <= 0.5 * (1 + 1e-6)


def test_a_channel_that_nothing_makes_or_reads_stays() -> None:
    a = np.array([8.0, 0.0, 2.0], np.float32).reshape(3, 1, 1, 1)
    b = np.array([[0.5, 8.0, 0.0]], np.float32).reshape(1, 3, 1, 1)
    graph = chain(relu(), a, np.array([0.0, 3.0, 1.0], np.float32), b, (1, 1, 2, 2), (1, 1, 2, 2))
    layers = weighted_layers(equalize(graph).graph)
    np.testing.assert_allclose(layers["a"].weight.numpy().ravel(), [2, 0, 2], rtol=1e-6)
    np.testing.assert_allclose(layers["b"].weight.numpy().ravel(), [2, 8, 0], rtol=1e-6)


KEEPS = {
    "relu": relu(),
    "leaky": relu("LeakyRelu", alpha=0.2),
    "identity": relu("Identity"),
    "max_pool": relu("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "avg_pool": relu("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
}


@settings(max_examples=20, deadline=None)
@given(act=st.sampled_from(sorted(KEEPS)), groups=st.sampled_from([1, 2, 6]), first=st.sampled_from([1, 3]))
def test_the_function_stays_and_the_ranges_agree(act: str, groups: int, first: int) -> None:
    graph = chain(KEEPS[act], normal(6, 4, first, first), normal(6), normal(12, 6 // groups, 1, 1),
                  (1, 4, 7 + first - 1, 7 + first - 1), (1, 12, 7, 7), group=groups)  # fmt: skip
    found = equalize(graph)
    assert len(found.pairs) == 1
    x = RNG.normal(size=graph.inputs[0].shape).astype(np.float32)
    before, after = graph.run([x])[0], found.graph.run([x])[0]
    assert np.abs(before - after).max() <= 1e-5 * np.abs(before).max()
    layers = weighted_layers(found.graph)
    r1 = layers["a"].output_ranges(layers["a"].weight.numpy().astype(np.float64))
    r2 = layers["b"].input_ranges(layers["b"].weight.numpy().astype(np.float64))
    bias = np.abs(layers["a"].bias.numpy())
    capped = bias >= bias.max() * (1 - 1e-4)
    np.testing.assert_allclose(r1[~capped], r2[~capped], rtol=1e-4)


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (relu("Sigmoid"), "sigmoid"),
        (relu("Clip"), "clamp"),
        (relu("Tanh"), "tanh"),
        ([helper.make_node("Add", ["a_y", "a.bias"], ["mid"], name="act")], "add"),
        ([*relu(), helper.make_node("Relu", ["a_y"], ["other"], name="two")], "a value that is read more than once"),
    ],
)
def test_what_bends_shifts_or_is_read_twice_is_left_alone(between: list[Any], reason: str) -> None:
    if len(between) == 2:
        between = [between[0].__class__.FromString(between[0].SerializeToString()), *between[1:]]
        between[0].output[0] = "one"
        between.append(helper.make_node("Add", ["one", "other"], ["mid"], name="sum"))
    graph = chain(between, normal(1, 1, 1, 1), normal(1), normal(1, 1, 1, 1), (1, 1, 2, 2), (1, 1, 2, 2))
    found = equalize(graph)
    assert found.graph is graph and not found.pairs
    assert [f.code for f in found.findings] == ["PT450"] and reason in found.findings[0].message


def test_depthwise_and_a_flattened_linear_layer() -> None:
    torch = pytest.importorskip("torch")
    from porter.dialects.fx import FxGraph

    torch.manual_seed(0)
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.LeakyReLU(0.1),
        nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= 10 ** torch.empty(len(parameter), *[1] * (parameter.ndim - 1)).uniform_(-1, 1)
    graph = FxGraph.capture(net, [("x", (1, 3, 4, 4), None)])
    found = equalize(graph)
    assert [(p.first.path, p.second.path, p.copies) for p in found.pairs] == [
        ("0", "2", 1),
        ("2", "4", 1),
        ("4", "7", 64),
    ]
    x = RNG.normal(size=(1, 3, 4, 4)).astype(np.float32)
    before, after = graph.run([x])[0], found.graph.run([x])[0]
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())
    old, new = weighted_layers(graph), weighted_layers(found.graph)
    assert list(old) == list(new)
    assert any(not np.array_equal(old[p].weight.numpy(), new[p].weight.numpy()) for p in old)
