# SPDX-License-Identifier: Apache-2.0
"""Rewriting for a device that reads other opsets than the model's: converted, proved, or refused with the reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import model

import porter
from porter.dialects.onnx import OnnxGraph
from porter.errors import PorterError
from porter.target import Target

HEAD = '[target]\nname = "toy"\nclosed = true\n[runtime]\nframework = "toy"\ndtypes = ["float32"]\n'


@pytest.fixture
def target(tmp_path):
    def make(kinds, opset):
        path = tmp_path / "toy.toml"
        path.write_text(HEAD + f"opset = {opset}\n" + "".join(f"[ops.{kind}]\n" for kind in kinds.split()))
        return Target.load(path)

    return make


def load(body, opset):
    return OnnxGraph.load(model(body, opset), source="net")


HARDSWISH = "g (float[2, 4] x) => (float[2, 4] y) { a = HardSwish (x) \n y = Softmax (a) }"
RMS = "g (float[2, 4] x) => (float[2, 4] y) <float[4] w = {1,2,3,4}> { y = RMSNormalization <axis = 1> (x, w) }"


def test_down_to_what_the_target_takes(target):
    """HardSwish is new in 14: below, it is a formula, whose ops the target runs."""
    graph, toy = load(HARDSWISH, 17), target("hardswish softmax add clamp mul div", [10, 11])
    before = porter.check(graph, toy)
    assert before.portable and not before.ok
    assert [(f.code, f.severity, f.fix) for f in before.findings] == [
        ("PT205", "warning", "porter rewrite converts it to opset 11")
    ]
    made = porter.rewrite(graph, toy)
    assert made.ok and made.graph.opset == 11 and made.ledger.opset == (17, 11)
    assert made.ledger.to_json()["opset"] == [17, 11]
    assert "hardswish" not in {op.kind for op in made.graph.ops()}


def test_what_becomes_illegal_by_the_conversion_is_rewritten_too(target):
    """The formula of HardSwish has a Clip, which this target does not run."""
    made = porter.rewrite(load(HARDSWISH, 17), target("hardswish softmax add minimum maximum mul div", [10, 11]))
    assert made.ok and made.graph.opset == 11
    assert {op.kind for op in made.graph.ops()} == {"softmax", "add", "minimum", "maximum", "mul", "div"}


def test_up_comes_first_so_that_rules_can_use_it(target):
    body = """g (float[2, 4] x) => (float[2, 4] y) <float[4] w = {1,2,3,4}, float e = {0.001}, float two = {2.0}> {
        s = Pow (x, two) \n m = ReduceMean <axes = [1]> (s) \n a = Add (m, e) \n r = Sqrt (a) \n d = Div (x, r)
        y = Mul (d, w) }"""
    made = porter.rewrite(load(body, 13), target("rms_norm mul div add sqrt", [23, 24]))
    assert made.ok and made.graph.opset == 23
    assert [op.kind for op in made.graph.ops()] == ["rms_norm"]


def test_what_cannot_be_converted_stays_and_is_told(target):
    body = "g (float[2, 4] x, int64[1] a) => (float[n, m] y) { y = ReduceMax (x, a) }"
    graph, toy = load(body, 18), target("dynamic_amax", [10, 11])
    finding = next(f for f in porter.check(graph, toy).findings if f.code == "PT205")
    assert finding.severity == "error" and "ReduceMax cannot be converted from opset 18 to 11" in finding.fix
    made = porter.rewrite(graph, toy, verify=False)
    assert not made.ok and made.graph.opset == 18 and made.ledger.opset is None


def test_each_segment_has_the_opset_of_its_side(target):
    """What has no form at the device's opset goes to the host as it is; the rest is converted."""
    body = "g (float[2, 4] x, int64[1] a) => (float[n, m] y) { h = Relu (x) \n t = Tanh (h) \n y = ReduceMax (t, a) }"
    graph, toy = load(body, 18), target("relu tanh", [10, 11])
    assert porter.check(graph, toy).outlook.answer == "partition"
    made = porter.partition(graph, toy, data=[[np.ones((2, 4), np.float32), np.array([1])]], samples=0)
    assert made.ok and [one.graph.opset for one in made.split.segments] == [11, 18]
    host = made.split.segments[1].graph.to_proto()
    assert [d.dim_param for d in host.graph.output[0].type.tensor_type.shape.dim] == ["n", "m"]
    onnx.checker.check_model(host)


def test_a_target_of_opsets_that_porter_does_not_write(target):
    graph, toy = load(RMS, 23), target("rms_norm", [26, 28])
    report = porter.check(graph, toy)
    finding = report.findings[0]
    assert (finding.code, finding.severity) == ("PT205", "error") and "export the model" in finding.fix
    assert report.outlook.answer == "no" and "the model has ONNX opset 23" in report.outlook.why
    made = porter.rewrite(graph, toy)
    assert not made.ok and made.graph.opset == 23


def test_a_wanted_opset(target):
    graph, toy = load(RMS, 23), target("rms_norm mul div add sqrt mean", [7, 24])
    made = porter.rewrite(graph, toy, opset=13)
    assert made.ok and made.graph.opset == 13
    assert porter.rewrite(graph, toy, opset=24).graph.opset == 24
    assert porter.rewrite(graph, toy).graph.opset == 23
    same = porter.rewrite(graph, toy, opset=23)
    assert same.ledger.opset is None


def test_a_wanted_opset_that_cannot_be_had(target):
    body = "g (float[2, 4] x, int64[1] a) => (float[n, m] y) { y = ReduceMax (x, a) }"
    made = porter.rewrite(load(body, 18), target("dynamic_amax", [7, 24]), opset=13, verify=False)
    assert not made.ok
    assert "PT352" in {f.code for f in made.report.findings}
    with pytest.raises(PorterError, match="opsets 7 to 24"):
        porter.rewrite(load(RMS, 23), target("rms_norm", [7, 24]), opset=99)


def test_a_module_has_no_opset(target):
    import torch

    with pytest.raises(PorterError, match="is not an ONNX model"):
        porter.rewrite(torch.nn.ReLU(), target("relu", [7, 24]), {"x": (2, 4)}, opset=13)


def test_command(tmp_path, porter):
    onnx.save(model(HARDSWISH, 17), str(tmp_path / "net.onnx"))
    out = tmp_path / "out.onnx"
    code, said, _ = porter("rewrite", "-t", "onnxruntime", "--opset", 11, tmp_path / "net.onnx", "-o", out)
    assert code in (0, 1) and "converted from ONNX opset 17 to 11" in said
    assert onnx.load(str(out)).opset_import[0].version == 11
    x = np.random.default_rng(0).standard_normal((2, 4), np.float32)
    np.testing.assert_allclose(
        OnnxGraph.load(out).run([x])[0], OnnxGraph.load(tmp_path / "net.onnx").run([x])[0], rtol=1e-6, atol=1e-6
    )
