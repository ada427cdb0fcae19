# SPDX-License-Identifier: Apache-2.0
"""Weights that a model computes from constants are quantized like any other."""

import models
import numpy as np

import porter
from porter.quantize.constants import with_constant_operands

WRAPPED = """net (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] out) {
    w1 = Identity (w)
    w2 = Transpose <perm = [1, 0, 2, 3]> (w1)
    scale = Constant <value = float[1] {2.0}> ()
    w3 = Mul (w2, scale)
    a = Conv <pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (x, w3)
    out = Mul (a, scale)
}"""


def wrapped():
    rng = np.random.default_rng(3)
    return models.model(WRAPPED, weights={"w": rng.standard_normal((3, 4, 3, 3)).astype(np.float32)})


def test_they_become_constants_and_nothing_else_does():
    graph = porter.load(wrapped())
    folded = with_constant_operands(graph, {"conv2d"})
    assert [op.kind for op in folded.ops()] == ["conv2d", "mul"]
    assert folded.ops()[0].inputs[1].is_const
    x = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    np.testing.assert_array_equal(graph.run([x])[0], folded.run([x])[0])
    assert with_constant_operands(folded, {"conv2d"}) is folded


def test_the_model_is_quantized_whole():
    data = [[np.random.default_rng(seed).random((1, 3, 8, 8), np.float32)] for seed in range(3)]
    made = porter.quantize(wrapped(), "onnxruntime", data, dtype="int8")
    assert [layer.quantized for layer in made.report.layers] == [True]
    assert not [finding for finding in made.findings if finding.code == "PT419"]


def test_weights_that_are_integers_already_stay_so():
    data = [[np.random.default_rng(seed).random((1, 3, 8, 8), np.float32)] for seed in range(3)]
    made = porter.quantize(wrapped(), "onnxruntime", data, dtype="int8").graph
    assert with_constant_operands(made, {"conv2d"}) is made


def test_a_weight_from_an_input_stays():
    body = """net (float[1, 3, 8, 8] x, float[4, 3, 1, 1] w) => (float[1, 4, 8, 8] out) {
        v = Identity (w)
        out = Conv <kernel_shape = [1, 1]> (x, v)
    }"""
    graph = porter.load(models.model(body))
    assert with_constant_operands(graph, {"conv2d"}) is graph


def test_a_bundle_of_a_model_with_batch_norms(tmp_path):
    """Where tensors are integers the batch norms are folded: in the quantized model, and in the bundle alike."""
    body = """net (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] out) {
        a = Conv <pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (x, w)
        out = BatchNormalization (a, s, b, m, v)
    }"""
    rng = np.random.default_rng(5)
    weights = {"w": rng.standard_normal((4, 3, 3, 3)), "s": rng.random(4), "b": rng.random(4), "m": rng.random(4),
               "v": 1 + rng.random(4)}  # fmt: skip
    model = models.model(body, weights={name: array.astype(np.float32) for name, array in weights.items()})
    data = [[np.random.default_rng(seed).random((1, 3, 8, 8), np.float32)] for seed in range(3)]
    made = porter.quantize(model, "onnxruntime", data, dtype="int8")
    bundle = porter.emit(model, "onnxruntime", tmp_path / "out", quantized=[made])
    assert [op.kind for op in porter.load(bundle.path / "model.onnx").ops()] == ["conv2d"]
    ported = porter.port(model, "onnxruntime", data, tmp_path / "ported", dtypes=["int8"])
    assert ported.bundle is not None
    x = data[0]
    first, second = (porter.load(path / "model_int8.onnx").run(x)[0] for path in (bundle.path, ported.bundle.path))
    np.testing.assert_array_equal(first, second)
