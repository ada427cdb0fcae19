# SPDX-License-Identifier: Apache-2.0
"""Samples of another scale than the model's training, seen through batch norms and through folded ones."""

import numpy as np
import pytest
import quantize_models as models
from onnx import helper

import porter
from porter.data import open_data
from porter.errors import explain
from porter.quantize.calibrate import calibrate
from porter.quantize.input_scale import InputScale


def folded(activation="Sigmoid", bias=None, moved=False, last="Conv"):
    """A convolution in which a batch norm of deviations about 1 and shifts about 0.7 is folded, for inputs of deviation
    1; an activation; and a convolution that reads it."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 3, 3, 3)) / np.sqrt(27)
    tensors = {
        "w": weight.astype(np.float32), "b": (rng.normal(size=8) if bias is None else bias).astype(np.float32),
        "v": rng.normal(size=(4, 8, 1, 1)).astype(np.float32), "low": np.float32(0), "high": np.float32(6),
        "turn": np.float32(-1),
    }  # fmt: skip
    clip = ["low", "high"] if activation == "Clip" else []
    nodes = [
        *([helper.make_node("Mul", ["x", "turn"], ["start"])] if moved else []),
        helper.make_node("Conv", ["start" if moved else "x", "w", "b"], ["c"], name="stem"),
        helper.make_node(activation, ["c", *clip], ["a"]),
        helper.make_node(last, ["a", "v"] if last == "Conv" else ["a"], ["out"]),
    ]
    size = (1, 4, 10, 10) if last == "Conv" else (1, 8, 10, 10)
    return porter.load(models.model(nodes, {"x": (1, 3, 12, 12)}, {"out": size}, tensors))


def findings(graph, factor, count=4):
    rng = np.random.default_rng(1)
    data = [(rng.normal(size=(1, 3, 12, 12)) * factor).astype(np.float32) for _ in range(count)]
    made = calibrate(graph, {"out": ["out"]}, open_data(data, graph.inputs), "min_max")
    return [finding for finding in made.findings() if finding.code == "PT406"]


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("activation", ["Sigmoid", "Clip", "HardSwish"])
def test_a_folded_norm_tells_the_scale(activation, moved):
    graph = folded(activation, moved=moved)
    assert findings(graph, 1) == findings(graph, 0.3) == findings(graph, 4) == []
    (large,), (small,) = findings(graph, 255), findings(graph, 1 / 255)
    assert large.op == small.op == "stem"
    assert "are the samples 0..255 and the model's inputs 0..1?" in large.message
    assert "are the samples 0..1 and the model's inputs 0..255?" in small.message
    assert "folded" in explain("PT406")


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "Relu"},  # the same network on any scale
        {"bias": np.zeros(8)},  # no norm was folded
        {"last": "Neg"},  # the only function of one scale makes the output: scores of whatever scale before it
    ],
    ids=str,
)
def test_models_that_say_nothing(options):
    graph = folded(**options)
    assert InputScale.of(graph) is None
    assert findings(graph, 255) == findings(graph, 1 / 255) == []


def test_a_constant_sample_has_no_deviation():
    """But for the zeros around it that the convolution sees."""
    assert findings(folded(), 0) == []
    graph = folded()
    for item in (np.zeros((1, 3, 12, 12), np.float32), np.full((1, 3, 12, 12), 0.1, np.float32)):
        made = calibrate(graph, {"out": ["out"]}, open_data([item], graph.inputs), "min_max")
        assert made.scale.ratio is None


@pytest.mark.parametrize("trained_on", [1, 255])
def test_whole_pixels_are_no_fault_where_the_model_takes_them(trained_on):
    """The guess from the samples alone is dropped where the first layer refutes it."""
    rng = np.random.default_rng(0)
    graph = folded()
    weight = next(op for op in graph.ops() if op.kind == "conv2d").operands[1]
    graph = graph.with_constants({weight.name: weight.numpy() / np.float32(trained_on * 0.3)})
    pixels = rng.integers(0, 256, (4, 3, 12, 12)).astype(np.float32)
    made = porter.quantize(graph, "onnxruntime", pixels, dtype="int8")
    messages = [finding.message for finding in made.findings if finding.code == "PT406"]
    assert len(messages) == (2 if trained_on == 1 else 0), messages


def test_deviations_are_those_of_the_channels():
    graph = folded()
    made = InputScale.of(graph)
    assert made.ratio is None and made.findings() == []
    samples = [np.random.default_rng(i).normal(size=(2, 8, 5, 4)).astype(np.float32) * (i + 1) for i in range(3)]
    again = InputScale.of(graph)
    for sample in samples:
        made.add(sample)
    want = np.concatenate(samples).std((0, 2, 3))
    np.testing.assert_allclose(made.deviations, want, rtol=1e-6)
    assert made.ratio == pytest.approx(np.median(want / np.abs(made.expected)))
    again.restore(made.state())
    assert again.ratio == made.ratio
