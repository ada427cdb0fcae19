# SPDX-License-Identifier: Apache-2.0
"""The planner and the driver, on small ONNX graphs and targets made for one question each."""

import numpy as np
import pytest
from models import conv_net, model

from porter.dialects.onnx import OnnxGraph
from porter.errors import PorterError
from porter.legalize import FOLD, check, legalize
from porter.target import Target
from porter.verify import verify

HEAD = """
[target]
name = "toy"
closed = {closed}
[runtime]
framework = "toy"
dtypes = ["float32"]
"""


@pytest.fixture
def target(tmp_path):
    """A target that runs the given kinds; ``extra`` is more TOML."""

    def make(kinds, closed=True, extra=""):
        path = tmp_path / "toy.toml"
        ops = "".join(f"[ops.{kind}]\n" for kind in kinds)
        path.write_text(HEAD.format(closed=str(closed).lower()) + ops + extra)
        return Target.load(path)

    return make


def graph(body, opset=17, **weights):
    return OnnxGraph.load(model(body, opset, weights=weights), source="net")


def ledger_of(made, toy, **options):
    new, ledger, before, after = legalize(made, toy, **options)
    inputs = [[np.random.default_rng(s).standard_normal(v.shape, np.float32) for v in made.inputs] for s in range(2)]
    evidence = verify(made, new, inputs, [e.value for e in ledger.entries])
    assert evidence.ok, evidence.worst
    return new, ledger, before, after


SILU = "g (float[1, 4] x) => (float[1, 4] y) { s = Sigmoid (x) \n y = Mul (x, s) }"
HARDSWISH = "g (float[1, 4] x) => (float[1, 4] y) { y = HardSwish (x) }"


def test_what_is_legal_is_left_alone(target):
    made = graph(SILU)
    report = check(made, target(["sigmoid", "mul"]))
    assert report.ok and report.portable and report.summary == {"native": 2} and not report.findings
    new, ledger, _, _ = ledger_of(made, target(["sigmoid", "mul"]))
    assert [op.kind for op in new.ops()] == ["sigmoid", "mul"] and not ledger.entries


def test_a_rule_is_taken_only_if_what_it_yields_is_legal(target):
    made = graph(HARDSWISH)
    kinds = ["add", "clamp", "mul", "div"]
    assert check(made, target(kinds)).portable
    poor = check(made, target(["add"]))
    assert not poor.portable and poor.ops[0].verdict == "unsupported"
    assert "yields" in poor.findings[0].fix and poor.findings[0].severity == "error"


def test_rules_chain(target):
    """hardswish -> relu6 or clamp -> minimum and maximum."""
    made = graph(HARDSWISH)
    new, ledger, _, after = ledger_of(made, target(["add", "mul", "minimum", "maximum"]))
    assert after.ok and {op.kind for op in new.ops()} <= {"add", "mul", "minimum", "maximum"}
    assert len(ledger.entries) == 1 and len(ledger.entries[0].rules) >= 2
    assert all(op.origin.rules for op in new.ops())


def test_check_and_rewrite_agree(target):
    made = conv_net()
    toy = target(["conv2d", "add", "mul", "clamp"])
    before = check(OnnxGraph.load(made, source="net"), toy)
    _, ledger, said, after = ledger_of(OnnxGraph.load(made, source="net"), toy)
    assert before.to_json() == said.to_json()
    assert before.ops[1].rewrites == ledger.entries[0].rules and after.ok


def test_unknown_is_not_legal_and_not_unsupported(target):
    report = check(graph(HARDSWISH), target([], closed=False))
    assert report.ops[0].verdict == "unknown" and not report.ok and not report.portable
    assert report.findings[0].code == "PT102"


def test_host_is_reported_as_host(target):
    report = check(graph(HARDSWISH), target([], extra='[ops.hardswish]\ndevice = "host"\n'))
    assert report.ops[0].verdict == "host" and not report.ok and not report.portable


def test_weaker_claims_need_consent(target):
    made = graph("g (float[1, 4] x) => (float[1, 4] y) { y = Swish (x) }", opset=24)
    toy = target(["relu"])
    report = check(made, toy)
    assert not report.portable and "--allow retrain" in report.findings[0].fix
    allowed = check(made, toy, ("retrain",))
    assert allowed.portable and allowed.ops[0].rewrites == ("silu_to_relu",)
    _, ledger, _, after = legalize(made, toy, ("retrain",))
    assert after.ok and ledger.claim == "retrain"


def test_the_stronger_claim_wins(target):
    made = graph("g (float[1, 4] x) => (float[1, 4] y) { y = Swish (x) }", opset=24)
    report = check(made, target(["relu", "hardswish", "sigmoid", "mul"]), ("retrain", "approximate"))
    assert report.ops[0].rewrites == ("silu_to_sigmoid_mul",)


def test_an_unknown_claim_or_rule_is_named(target):
    with pytest.raises(PorterError, match="did you mean retrain"):
        check(graph(SILU), target(["mul"]), ("retrian",))
    with pytest.raises(PorterError, match="Did you mean fold_batch_norm"):
        legalize(graph(SILU), target(["mul"]), apply=["fold_batchnorm"])


CONSTANTS = """g (float[1, 4] x) => (float[1, 4] y) <int64 start = {0}, int64 stop = {4}, int64 step = {1}> {
    r = Range (start, stop, step)
    f = Cast <to = 1> (r)
    y = Add (x, f)
}"""


def test_constants_are_computed_ahead(target):
    made = graph(CONSTANTS)
    toy = target(["add"])
    report = check(made, toy)
    assert [op.verdict for op in report.ops] == ["fold", "fold", "native"] and report.portable and not report.ok
    new, ledger, _, after = ledger_of(made, toy)
    assert [op.kind for op in new.ops()] == ["add"] and after.ok
    assert [(e.rules, e.value) for e in ledger.entries] == [((FOLD,), "f")]
    assert ledger.entries[0].measured is None  # the proof is what fills it, in the API


def test_legal_constants_stay_on_the_device(target):
    body = "g (float[1, 4] x) => (float[1, 4] y) <float[1, 4] c = {1, 2, 3, 4}> { e = Exp (c) \n y = Add (x, e) }"
    report = check(graph(body), target(["add", "exp"]))
    assert report.ok and report.summary == {"native": 2}


def test_a_reader_that_needs_a_constant_gets_one(target):
    """Exporters put shared biases behind an Identity."""
    rng = np.random.default_rng(0)
    body = """g (float[1, 3, 4, 4] x) => (float[1, 2, 4, 4] y) {
        b = Identity (bias)
        y = Conv <kernel_shape = [1, 1]> (x, w, b)
    }"""
    made = graph(body, w=rng.standard_normal((2, 3, 1, 1), np.float32), bias=rng.standard_normal(2, np.float32))
    toy = target([], extra='[ops.conv2d]\nconst_inputs = ["weight", "bias"]\n')
    report = check(made, toy)
    assert [op.verdict for op in report.ops] == ["fold", "native"]
    assert report.ops[0].reasons == ("conv2d needs it as a constant",)
    _, _, _, after = ledger_of(made, toy)
    assert after.ok


def test_the_identity_of_a_constant_goes_whoever_reads_it(target):
    """torch exports slopes that are alike once; compilers want each PRelu's as a constant."""
    body = """g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) {
        t = Identity (s)
        z = PRelu (x, s)
        y = PRelu (z, t)
    }"""
    new, _, _, after = ledger_of(graph(body, s=np.full((2, 1, 1), 0.25, np.float32)), target(["prelu"]))
    assert [op.kind for op in new.ops()] == ["prelu"] * 2 and after.ok


def test_a_shape_is_a_constant(target):
    body = """g (float[2, 3] x) => (float[2, 3] y) {
        s = Shape (x)
        c = ConstantOfShape <value = float[1] {2.5}> (s)
        y = Mul (x, c)
    }"""
    new, _, _, after = ledger_of(graph(body), target(["mul"]))
    assert [op.kind for op in new.ops()] == ["mul"] and after.ok


def test_a_constant_that_would_be_huge_is_not_computed(target):
    body = """g (float[1] x) => (float[100000, 10000] y) <int64[2] s = {100000, 10000}> {
        c = ConstantOfShape <value = float[1] {1}> (s)
        y = Add (x, c)
    }"""
    report = check(graph(body), target(["add"]))
    assert report.ops[0].verdict == "unsupported"


def test_optional_rules_apply_only_when_named(target):
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((4, 3, 1, 1), np.float32), "scale": rng.uniform(0.5, 2, 4).astype(np.float32),
        "b": rng.standard_normal(4, np.float32), "mean": rng.standard_normal(4, np.float32),
        "var": rng.uniform(0.5, 2, 4).astype(np.float32),
    }  # fmt: skip
    body = """g (float[1, 3, 4, 4] x) => (float[1, 4, 4, 4] y) {
        c = Conv <kernel_shape = [1, 1]> (x, w)
        y = BatchNormalization (c, scale, b, mean, var)
    }"""
    toy = target(["conv2d", "batch_norm"])
    new, ledger, _, _ = ledger_of(graph(body, **weights), toy)
    assert not ledger.entries and len(new.ops()) == 2
    new, ledger, _, after = ledger_of(graph(body, **weights), toy, apply=["fold_batch_norm"])
    assert [op.kind for op in new.ops()] == ["conv2d"] and ledger.entries[0].claim == "bounded" and after.ok


def test_the_input_graph_is_not_changed(target):
    made = graph(HARDSWISH)
    legalize(made, target(["add", "mul", "clamp"]))
    assert [op.kind for op in made.ops()] == ["hardswish"]


def test_outputs_that_are_inputs_of_rewritten_ops_keep_their_names(target):
    body = """g (float[1, 4] x) => (float[1, 4] a, float[1, 4] b) {
        a = HardSwish (x)
        b = HardSwish (a)
    }"""
    new, ledger, _, after = ledger_of(graph(body), target(["add", "mul", "clamp"]))
    assert [v.name for v in new.outputs] == ["a", "b"] and after.ok and len(ledger.entries) == 2


def test_every_reason_is_reported(target):
    body = "g (float[1, 4, 4, 4] x) => (float[1, 4, 2, 2] y) { y = MaxPool <kernel_shape = [3, 3]> (x) }"
    limits = """[ops.max_pool2d]
dtypes = ["float16"]
limits = [
    { expr = "kernel_h <= 2", why = "too tall" },
    { expr = "kernel_w <= 2", why = "too wide" },
]
"""
    report = check(graph(body), target([], extra=limits))
    text = " ".join(report.ops[0].reasons)
    assert "too tall" in text and "too wide" in text and "float32" in text
    assert {reason[:5] for reason in report.ops[0].reasons} == {"PT103", "PT201"}


def test_a_rule_whose_result_reads_back_as_the_same_op_is_no_way_out(target):
    """ONNX has no maximum with indices: max_dim with unread indices is written, and read back, as a plain maximum."""
    body = "g (float[2, 3] x) => (float[2] y) { y = ReduceMax <axes = [1], keepdims = 0> (x) }"
    indices = '[ops.{}]\noutput_dtypes = [["float32"], ["int64"]]\n'
    _, ledger, _, after = legalize(graph(body), target([], extra=indices.format("max_dim")))
    assert not after.portable and not ledger.entries
    assert "max_dim, which is written as amax" in after.findings[0].fix
    both = indices.format("max_dim") + indices.format("topk")
    _, _, _, after = ledger_of(graph(body), target(["reshape"], extra=both))
    assert after.ok


def test_what_cannot_be_computed_ahead_is_not_promised(target):
    """The kernel of CastLike reads a value that only the running model has, so its constant operand is not enough."""
    body = """g (float16[1, 4] x) => (float16[1, 4] y) <float[1] c = {2}> {
        k = CastLike (c, x)
        y = Mul (x, k)
    }"""
    toy = target([], extra='[ops.mul]\ndtypes = ["float16"]\n')
    report = check(graph(body, opset=19), toy)
    assert {op.kind: op.verdict for op in report.ops} == {"cast": "unsupported", "mul": "native"}
    _, _, _, after = legalize(graph(body, opset=19), toy)
    assert not after.portable


def test_what_depends_on_data_is_cut_off_not_rewritten(target):
    """Non-maximum suppression: the finding says how to leave it to the host."""
    body = """g (float[1, 9, 4] b, float[1, 2, 9] s) => (int64[n, 3] y)
        <int64 k = {5}, float t = {0.5}> { y = NonMaxSuppression (b, s, k, t) }"""
    report = check(graph(body), target([]))
    assert [op.verdict for op in report.ops] == ["unsupported"]
    assert "porter rewrite --cut auto" in report.findings[0].fix
