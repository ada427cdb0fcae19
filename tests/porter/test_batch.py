# SPDX-License-Identifier: Apache-2.0
"""Models with an open batch: fixed by --batch, with the arithmetic on shapes that exporters write folded away."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import model
from onnx.reference import ReferenceEvaluator

import porter as api
from porter.dialects.onnx import OnnxGraph
from porter.errors import PorterError
from porter.target import Target

#: A YOLO head's reshape as torch.onnx.export writes it for a dynamic batch, and an Expand by a computed shape.
HEAD = """g (float[batch, 6, 4, 4] x, float[batch, 1] scale) => (float[b, p, c] y)
    <int64 zero = {0}, int64[1] axes = {0}, int64[1] three = {3}, int64[1] two = {2}, int64[1] open = {-1},
     int64[1] one = {1}> {
    s = Shape (x) \n n = Gather <axis = 0> (s, zero) \n n1 = Unsqueeze (n, axes)
    split = Concat <axis = 0> (n1, three, two, open) \n v = Reshape (x, split)
    t = Transpose <perm = [0, 1, 3, 2]> (v) \n size = Shape <start = 1, end = 2> (t)
    flat = Concat <axis = 0> (n1, open, two) \n r = Reshape (t, flat)
    wide = Concat <axis = 0> (n1, one, one) \n k = Reshape (scale, wide)
    ones = ConstantOfShape <value = float[1] {1.0}> (wide) \n f = Mul (k, ones) \n y = Mul (r, f) }"""

TARGET = """
[target]
name = "toy"
closed = true
[runtime]
framework = "toy"
static_shapes = true
max_rank = 4
dtypes = ["float32"]
[ops.reshape]
[ops.permute]
[ops.mul]
"""


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy.toml"
    path.write_text(TARGET)
    return Target.load(path)


def checked(body=HEAD):
    made = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {body}')
    onnx.checker.check_model(made)
    return made


@pytest.mark.parametrize("batch", [1, 3])
def test_shape_arithmetic_is_folded(batch, toy):
    proto = checked()
    report = api.check(proto, toy, batch=batch)
    assert report.portable, report.findings
    made = api.rewrite(proto, toy, batch=batch)
    assert made.ok
    assert [op.kind for op in made.graph.ops()] == ["reshape", "permute", "reshape", "reshape", "mul", "mul"]
    assert [v.shape for v in made.graph.inputs] == [(batch, 6, 4, 4), (batch, 1)]
    rng = np.random.default_rng(0)
    feeds = [rng.standard_normal(v.shape, np.float32) for v in made.graph.inputs]
    session = ReferenceEvaluator(proto)
    want = session.run(None, {"x": feeds[0], "scale": feeds[1]})[0]
    np.testing.assert_allclose(made.graph.run(feeds)[0], want, rtol=1e-6)


def test_without_a_batch_the_message_says_how():
    with pytest.raises(PorterError, match="'batch' is not fixed") as caught:
        OnnxGraph.load(checked())
    assert caught.value.code == "PT507" and caught.value.fix.endswith(", or --batch 1")


def test_every_open_input_is_named_at_once():
    body = "g (float[batch, samples] x, float[2, batch, 8] state) => (float[2, batch, 8] y) { y = Relu (state) }"
    with pytest.raises(PorterError) as caught:
        OnnxGraph.load(model(body))
    assert caught.value.fix == "Add --input x:1x128 --input state:2x1x8"


def test_shapes_that_are_given_win():
    graph = OnnxGraph.load(checked(), {"x": ((2, 6, 4, 4), None)}, batch=2)
    assert [v.shape for v in graph.inputs] == [(2, 6, 4, 4), (2, 1)]


def test_other_open_axes_still_need_a_shape():
    proto = model("g (float[n, c, 4] x) => (float[n, c, 4] y) { y = Relu (x) }")
    with pytest.raises(PorterError, match="'c' is not fixed") as caught:
        OnnxGraph.load(proto, batch=2)
    assert caught.value.code == "PT507" and "--batch" not in caught.value.fix


def test_a_batch_that_the_model_has_not():
    proto = model("g (float[2, 4] x) => (float[2, 4] y) { y = Relu (x) }")
    assert OnnxGraph.load(proto, batch=2).inputs[0].shape == (2, 4)
    with pytest.raises(PorterError, match="no input has an open first axis") as caught:
        OnnxGraph.load(proto, batch=3)
    assert caught.value.code == "PT506"


def test_wrong_batches(toy):
    import torch

    with pytest.raises(PorterError, match="the batch is 0"):
        api.check(checked(), toy, batch=0)
    with pytest.raises(PorterError, match="not an ONNX model"):
        api.check(torch.nn.ReLU(), toy, {"x": (1, 4)}, batch=2)


def test_command(tmp_path, porter):
    onnx.save(checked(), str(tmp_path / "net.onnx"))
    (tmp_path / "toy.toml").write_text(TARGET)
    code, said, _ = porter("check", "-t", "toy.toml", "net.onnx", "--batch", 2, "--portable")
    assert code == 0, said
    code, _, said = porter("check", "-t", "toy.toml", "net.onnx")
    assert code == 2 and "PT507" in said and "--batch 1" in said
