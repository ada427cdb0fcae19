# SPDX-License-Identifier: Apache-2.0
"""Models at another opset: the node tests of onnx give what they gave, or porter says why they cannot."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from porter.dialects.onnx import OnnxGraph
from porter.errors import PorterError

#: Every so many of the 1,900 tests; with 1 it takes a minute and a half.
STRIDE = 5


def load(body, opset, ir=10):
    return OnnxGraph.load(parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]> {body}'), source="net")


def same(graph, other, *feeds):
    for got, want in zip(other.run(feeds), graph.run(feeds), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


def outputs(model, feeds):
    """What onnxruntime computes; None where it does not take the model or the inputs."""
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        return session.run(None, dict(zip((i.name for i in session.get_inputs()), feeds, strict=True)))
    except Exception:  # onnxruntime raises its own kinds, and RuntimeError
        return None


def agree(got, want):
    if got is None or len(got) != len(want) or not all(isinstance(w, (np.ndarray, np.generic)) for w in want):
        return False
    return all(
        isinstance(g, np.ndarray)
        and g.shape == w.shape
        and g.dtype == w.dtype
        and (np.allclose(g, w, 1e-4, 1e-5, equal_nan=True) if g.dtype.kind in "fc" else np.array_equal(g, w))
        for g, w in zip(got, map(np.asarray, want), strict=True)
    )


@pytest.mark.parametrize(("opset", "first"), [(11, 0), (17, 1), (21, 2)])
@pytest.mark.filterwarnings("ignore")
def test_node_tests_of_onnx(opset, first):
    """Where onnxruntime reproduces the reference outputs before, it does so after; and the model is valid."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [case for case in collect_testcases(None) if case.model is not None and case.data_sets]
    cases = cases[first::STRIDE]
    seen: Counter[str] = Counter()
    wrong = []
    for case in cases:
        try:
            graph = OnnxGraph.load(case.model)
        except PorterError:
            continue
        made, findings = graph.at_opset(opset)
        if made is None:
            assert findings and all(f.code == "PT352" and f.severity == "error" and f.fix for f in findings)
            seen["told"] += 1
            continue
        if made.opset == graph.opset:
            continue
        feeds, want = case.data_sets[0]
        if not agree(outputs(case.model, feeds), want):
            seen["not run"] += 1
            continue
        proto = made.to_proto()
        onnx.checker.check_model(proto)
        found = outputs(proto, feeds)
        seen["same" if found else "no kernel"] += 1  # onnxruntime has no Where of uint64
        if found and not agree(found, want):
            wrong.append(case.name)
    assert wrong == [] and seen["no kernel"] <= 2
    assert seen["same"] > 400 / STRIDE, seen


def test_nodes_that_are_the_same_stay_what_they_were():
    graph = load(
        "g (float[1, 4] x) => (float[1, 4] y) { a = Sin (x) \n b = Tanh (a) \n y = Softmax <axis = 1> (b) }", 17
    )
    made, _ = graph.at_opset(12)
    before, after = graph.to_proto().graph.node, made.to_proto().graph.node
    assert [n.op_type for n in after] == ["Sin", "Tanh", "Softmax"]
    assert before[0] == after[0] and made.opset == 12
    assert [v.name for v in made.outputs] == ["y"]
    same(graph, made, np.random.default_rng(0).standard_normal((1, 4), np.float32))


DOWN = {
    "LayerNormalization": ("y = LayerNormalization <axis = -1> (x, w)", 11, ["ReduceMean", "Sub"]),
    "Gelu": ("y = Gelu <approximate = \"tanh\"> (x)", 17, ["Mul", "Tanh"]),
    "HardSwish": ("y = HardSwish (x)", 11, ["Clip", "Div"]),
    "Squeeze": ("a = Constant <value = int64[1] {0}> () \n b = Unsqueeze (x, a) \n y = Squeeze (b, a)", 9, ["Squeeze"]),
    "Relu of integers": ("a = Cast <to = 6> (x) \n b = Relu (a) \n y = Cast <to = 1> (b)", 13, ["Clip"]),
    "Celu": ("y = Celu <alpha = 1.5> (x)", 11, ["Exp"]),
    "Mish": ("y = Mish (x)", 9, ["Softplus", "Tanh"]),
    "Split": ("a, b = Split <axis = 1, num_outputs = 2> (x) \n y = Concat <axis = 1> (b, a)", 11, ["Split", "Concat"]),
    "ReduceSum": ("a = Constant <value = int64[1] {1}> () \n b = ReduceSum (x, a) \n y = Add (x, b)", 9, ["ReduceSum"]),
    "Constant": ("a = Constant <value_float = 2.0> () \n y = Mul (x, a)", 11, ["Mul"]),
}  # fmt: skip


@pytest.mark.parametrize("name", DOWN)
def test_down(name):
    body, opset, kinds = DOWN[name]
    declared = " <float[4] w = {1.0, 2.0, 3.0, 4.0}>" if "w)" in body else ""
    graph = load(f"g (float[2, 4] x) => (float[2, 4] y){declared} {{ {body} }}", 20)
    made, findings = graph.at_opset(opset)
    assert not findings and made.opset == opset
    assert set(kinds) <= {n.op_type for n in made.to_proto().graph.node}
    onnx.checker.check_model(made.to_proto())
    same(graph, made, np.random.default_rng(1).standard_normal((2, 4), np.float32))


def test_up():
    body = """g (float[2, 3, 4, 4] x) => (float[2, 48] z) {
        c = Clip <min = -1.0, max = 1.0> (x) \n d = Dropout <ratio = 0.5> (c) \n p = Pad <pads = [0,0,1,1,0,0,1,1]> (d)
        m = MaxPool <kernel_shape = [3, 3], strides = [1, 1]> (p) \n f = Flatten (m) \n z = Softmax <axis = 1> (f) }"""
    graph = load(body, 9, ir=4)
    made, findings = graph.at_opset(21)
    assert not findings
    onnx.checker.check_model(made.to_proto())
    same(graph, made, np.random.default_rng(2).standard_normal((2, 3, 4, 4), np.float32))


def test_weights_are_shared_and_keep_their_names():
    graph = load(
        """g (float[1, 4] x) => (float[1, 3] z) <float[3, 4] w = {1,2,3,4,5,6,7,8,9,10,11,12}, float[3] c = {1, 2, 3}> {
        y = Gemm <transB = 1> (x, w, c) \n z = HardSwish (y) }""", 17,
    )  # fmt: skip
    made, _ = graph.at_opset(11)
    assert {"w", "c"} <= {t.name for t in made.to_proto().graph.initializer}
    assert made.to_proto().ir_version == 6 and graph.to_proto().ir_version == 10


@pytest.mark.parametrize(
    ("body", "opset", "reason"),
    [
        ("g (bfloat16[4] x) => (bfloat16[4] y) { y = Sin (x) }", 21, "Sin does not take bfloat16 there"),
        ("g (uint8[4] x) => (uint8[4] y) { y = BitwiseNot (x) }", 17, "bitwise_not needs opset 18"),
        ("g (float[2, 4] x, int64[1] a) => (float[n, m] y) { y = ReduceMax (x, a) }", 17, "changed in between"),
        ("g (float[1, 2, 8, 8] x, float[1, 4] r, int64[1] i) => (float[1, 2, 3, 3] y) "
         "{ y = RoiAlign <output_height = 3, output_width = 3> (x, r, i) }", 9, "opset 10"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_there_is_a_finding(body, opset, reason):
    graph = load(body, 22 if "Sin" in body else 18)
    made, findings = graph.at_opset(opset)
    assert made is None and len(findings) == 1
    assert findings[0].code == "PT352" and reason in findings[0].message
    assert f"from opset {graph.opset} to {opset}" in findings[0].message


def test_an_operator_inside_of_a_branch_that_changed():
    body = """g (bool c, float[4] x) => (float[4] y) {
        y = If (c) <then_branch = t () => (float[4] a) { a = Relu (x) },
                    else_branch = e () => (float[4] b) { b = Clip (x) }> }"""
    made, findings = load(body, 17).at_opset(9)
    assert made is None and "sub-graphs" in findings[0].message


def test_an_opset_out_of_range():
    graph = load("g (float[4] x) => (float[4] y) { y = Relu (x) }", 17)
    for opset in (6, 99):
        with pytest.raises(PorterError, match="opsets 7 to 24"):
            graph.at_opset(opset)
