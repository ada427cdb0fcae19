# SPDX-License-Identifier: Apache-2.0
"""The planner's choice among candidates, how it is explained, and that it ends."""

import json
import time

import jsonschema
import numpy as np
import pytest
from models import conv_net, model, save

import porter
from porter import registry
from porter.dialects.onnx import OnnxGraph
from porter.legalize import check
from porter.prices import Prices
from porter.report.json import schema
from porter.rewrite import NotApplicable, rewrite
from porter.target import Target

HEAD = '[target]\nname = "toy"\nclosed = true\n[runtime]\nframework = "toy"\ndtypes = ["float32"]\n'
RATES = "[performance]\ntops = {{ int8 = {tops} }}\nbandwidth_gbs = {gbs}\n"
HARDSWISH = "g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) { y = HardSwish (x) }"


@pytest.fixture
def target(tmp_path):
    def make(kinds, tops=0.0, gbs=0.0):
        path = tmp_path / "toy.toml"
        rates = RATES.format(tops=tops, gbs=gbs) if tops else ""
        path.write_text(HEAD + rates + "".join(f"[ops.{kind}]\n" for kind in kinds.split()))
        return path

    return make


@pytest.fixture
def rules(monkeypatch):
    """Rules for relu beside porter's own."""

    def use(*made):
        own = registry.rules_for

        def rules_for(kind):
            found = [rule for rule in made if kind in rule.removes]
            return tuple(found) if found else own(kind)

        monkeypatch.setattr("porter.planner.rules_for", rules_for)

    return use


@rewrite(removes="relu", yields=("maximum", "add"), claim="exact")
def relu_by_add(b, op):
    """relu(x) is max(x, 0), and 0 more."""
    x = op.inputs[0]
    return b.add(b.maximum(x, 0.0), 0.0)


@rewrite(removes="relu", yields=("abs", "add", "mul"), claim="bounded", error="1 ulp")
def relu_by_abs(b, op):
    """relu(x) is (x + |x|) / 2."""
    x = op.inputs[0]
    return b.mul(b.add(x, b.abs(x)), 0.5)


@rewrite(removes="relu", yields=("maximum",), claim="exact")
def relu_by_maximum(b, op):
    """relu(x) is max(x, 0)."""
    return b.maximum(op.inputs[0], 0.0)


@rewrite(removes="relu", yields=("sigmoid",), claim="retrain")
def relu_by_sigmoid(b, op):
    """Another activation."""
    return b.sigmoid(op.inputs[0])


@rewrite(removes="relu", yields=("maximum",), claim="exact")
def relu_never(b, op):
    """It never applies."""
    raise NotApplicable("it is Sunday")


RELU = "g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) { y = Relu (x) }"


def planned(target_file, **options):
    report = check(OnnxGraph.load(model(RELU)), Target.load(target_file), explain=True, **options)
    return report.ops[0]


def test_of_one_claim_the_cheapest_is_chosen(target, rules):
    """Listed last, it wins: one pass over memory where the other makes two."""
    rules(relu_never, relu_by_abs, relu_by_add, relu_by_maximum)
    op = planned(target("maximum add abs mul sigmoid", 2.0, 10.0))
    assert op.rewrites == ("relu_by_maximum",)
    told = {c.rules[0]: c for c in op.candidates}
    assert [c.outcome for c in op.candidates] == ["chosen", "dearer", "weaker", "refused"]
    # 256 floats read and written, and the constant of 4 bytes: (2048 + 4) / 10 GB/s.
    assert told["relu_by_maximum"].seconds == pytest.approx(2052 / 10e9) and told["relu_by_maximum"].bytes == 2052
    assert told["relu_by_add"].seconds == pytest.approx(2 * 2052 / 10e9)
    assert told["relu_by_maximum"].why == "the least time among the strongest claims"
    assert "us where relu_by_maximum takes" in told["relu_by_add"].why
    assert told["relu_by_abs"].why == "bounded, where relu_by_maximum is exact"
    assert told["relu_never"].why == "it is Sunday" and told["relu_never"].seconds is None


def test_a_stronger_claim_wins_over_a_cheaper_one(target, rules):
    rules(relu_by_sigmoid, relu_by_add)
    op = planned(target("maximum add sigmoid", 2.0, 10.0), allow=("exact", "bounded", "retrain"))
    assert op.rewrites == ("relu_by_add",) and op.candidates[1].outcome == "weaker"
    assert op.candidates[1].seconds < op.candidates[0].seconds
    refused = planned(target("maximum add sigmoid", 2.0, 10.0))
    assert refused.candidates[1].outcome == "not permitted" and "--allow retrain" in refused.candidates[1].why


def test_what_is_explained_is_what_is_done(target):
    """With and without the explanation the same rule is taken, for every choice that the target's ops leave."""
    for kinds in ("add mul clamp", "add mul relu6", "hardsigmoid mul", "add mul minimum maximum", "add", "sigmoid"):
        graph, toy = OnnxGraph.load(model(HARDSWISH)), Target.load(target(kinds))
        plain, told = check(graph, toy), check(graph, toy, explain=True)
        assert plain.ops[0].rewrites == told.ops[0].rewrites and not plain.ops[0].candidates
        chosen = [c for c in told.ops[0].candidates if c.outcome == "chosen"]
        assert [c.rules for c in chosen] == ([told.ops[0].rewrites] if told.ops[0].rewrites else [])


def test_a_target_without_rates_has_nominal_ones(target):
    prices = Prices.of_target(Target.load(target("relu")))
    assert prices.nominal and prices.rates.macs > 0 and prices.rates.bandwidth > 0
    known = Prices.of_target(Target.load("mlu270"))
    assert not known.nominal and known.rates.bandwidth == 102.4e9 and known.rates.macs == 118e12 / 2


def test_an_end_is_put_to_rules_that_undo_each_other(target, monkeypatch):
    """After the last round what is left is reported, and nothing is raised. (One round is too few for this model: it
    folds, and then rewrites.)"""
    monkeypatch.setattr("porter.legalize._MAX_ROUNDS", 1)
    body = "g (float[1, 4] x) => (float[1, 4] y) { e = Erf (c) \n a = Add (x, e) \n y = HardSwish (a) }"
    made = porter.rewrite(model(body, weights={"c": np.ones((1, 4), np.float32)}), target("add mul clamp"))
    assert not made.ok and made.evidence.ok and made.report.summary["rewrite"] == 1
    (end,) = (f for f in made.report.findings if f.code == "PT750")
    assert end.severity == "warning" and "after 1 rounds" in end.message and "fold_constants" in end.message


def test_what_onnx_writes_as_the_op_removed_is_no_way_out(target):
    """There is no NotEqual in ONNX: ne is an Equal and a Not, so that eq as ne would be an Equal again."""
    body = "g (float[1, 4] x, float[1, 4] y) => (bool[1, 4] z) { z = Equal (x, y) }"
    toy = target("ne logical_not")
    toy.write_text(toy.read_text().replace('["float32"]', '["float32", "bool"]'))
    report = porter.check(model(body), toy, explain=True)
    assert not report.portable and report.outlook.answer == "no"
    told = {c.rules[0]: c.why for c in report.ops[0].candidates}
    assert told["equality_to_not"] == "it yields ne, which is written as eq and logical_not in onnx"
    made = porter.rewrite(model(body), toy)
    assert not made.ledger.entries and made.report.summary == {"unsupported": 1}


def test_planning_is_linear(target):
    """Ops that all need a chain of rewrites; ten times the ops take no more than about ten times as long."""
    from onnx import TensorProto, helper

    toy = Target.load(target("add mul clamp minimum maximum", 2.0, 10.0))

    def seconds(n):
        nodes = [helper.make_node("HardSwish", [f"v{i}"], [f"v{i + 1}"]) for i in range(n)]
        ends = [helper.make_tensor_value_info(f"v{i}", TensorProto.FLOAT, [1, 4]) for i in (0, n)]
        made = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]),
                                 opset_imports=[helper.make_opsetid("", 17)], ir_version=8)  # fmt: skip
        graph = OnnxGraph.load(made)
        start = time.process_time()
        report = check(graph, toy)
        assert report.summary == {"rewrite": n}
        return time.process_time() - start

    seconds(50)
    assert seconds(3000) < 25 * seconds(300)


def test_the_command_explains_in_text_and_json(porter, tmp_path):
    net = save(conv_net(), tmp_path / "net.onnx")
    code, out, _ = porter("check", "-t", "mlu270", net, "--explain-plan")
    assert code == 1 and "chosen  hardswish_to_" in out and "refused" in out and " us}" in out
    code, out, _ = porter("check", "-t", "mlu270", net, "--explain-plan", "-f", "json")
    data = json.loads(out)
    jsonschema.Draft202012Validator(schema("report")).validate(data)
    plan = data["ops"][1]["plan"]
    assert plan[0]["outcome"] == "chosen" and plan[0]["rules"] == data["ops"][1]["rewrites"]
    assert "plan" not in data["ops"][0]
    assert data["outlook"] == {"answer": "rewrite", "host": 0, "crossings": 0, "bytes": 0, "why": ""}
    code, out, _ = porter("rewrite", "-t", "mlu270", net, "--explain-plan", "--dry-run")
    assert code == 0 and "chosen  hardswish_to_" in out
    code, out, _ = porter("rewrite", "-t", "mlu270", net, "--explain-plan", "--dry-run", "-f", "json")
    assert json.loads(out)["plan"][0]["plan"][0]["outcome"] == "chosen"


def test_the_plan_is_right_for_what_it_chose(target):
    toy = target("add mul clamp", 2.0, 10.0)
    made = porter.rewrite(model(HARDSWISH), toy, data=[[np.linspace(-5, 5, 256, dtype=np.float32).reshape(1, 4, 8, 8)]])
    assert made.ok and made.report.outlook.answer == "as is"


@pytest.mark.parametrize(
    ("legal", "body"),
    [
        ("take", "g (float[3, 4] x, int64[2] i) => (float[2, 4] y) { y = Gather (x, i) }"),
        ("flatten", "g (float[1, 3, 4] x) => (float[3, 4] y) { s = Constant <value = int64[2] {3, 4}> () \n "
         "y = Reshape (x, s) }"),
        ("relu6 add div", "g (float[1, 4] x) => (float[1, 4] y) "
         "{ y = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) }"),
    ],
)  # fmt: skip
def test_what_is_written_as_another_kind_is_judged_as_that(target, legal, body):
    """ONNX has one node for take and index_select, for flatten and reshape, for relu6 and clamp: a rule that yields the
    one gains nothing where the target lacks the other, and check does not promise it."""
    graph = OnnxGraph.load(model(body), source="net")
    toy = Target.load(target(legal))
    said = check(graph, toy)
    made = porter.rewrite(graph, toy, verify=False)
    assert not said.ok and not made.report.ok
    assert "rewrite" not in {op.verdict for op in said.ops}
    assert made.ledger.entries == []


def test_an_output_that_is_constant_is_legal(target):
    """It is the identity of a constant, before folding and after."""
    toy = Target.load(target("relu"))
    body = "g (float[1, 2] x) => (float[1, 2] y, float[2] z, float[2] w) <float[2] c = {1, -2}> { y = Relu (x) \n "
    graph = OnnxGraph.load(model(body + "z = Identity (c) \n w = Exp (c) }"), source="net")
    said, made = check(graph, toy), porter.rewrite(graph, toy)
    assert [op.verdict for op in said.ops] == ["native", "native", "fold"]
    assert made.ok and [op.kind for op in made.graph.ops()] == ["relu", "identity", "identity"]
