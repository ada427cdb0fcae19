# SPDX-License-Identifier: Apache-2.0
"""A plan made once for ops that are alike: the same result as when every op is planned by itself."""

import numpy as np
import pytest
from models import model

import porter
from porter import registry
from porter.dialects.onnx import OnnxGraph
from porter.planner import Planner
from porter.replaying import Replay, signature
from porter.rewrite import rewrite
from porter.target import Target

CHAIN = """g (float[2, 6] x, float[2, 6] y) => (float[2, 6] z) {
  a = HardSwish (x)  b = HardSwish (a)  c = Softmax <axis = 1> (b)  d = Softmax <axis = 0> (c)
  e = Softmax <axis = 1> (d)  f = Sub (e, y)  g = Sub (f, f)  h = Sub (g, y)
  i = Gelu (h)  j = Gelu (i)  k = Mish (j)  l = Mish (k)  z = HardSwish (l)
}"""
HEAD = '[target]\nname = "toy"\nclosed = true\n[runtime]\nframework = "toy"\ndtypes = ["float32"]\n'
KINDS = "add mul div clamp exp log floor trunc sum amax erf relu reciprocal sigmoid tanh minimum maximum sign abs"


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy.toml"
    path.write_text(HEAD + "".join(f"[ops.{kind}]\n" for kind in KINDS.split()))
    return Target.load(path)


def count_applications(monkeypatch):
    asked = []
    plain = Planner._plan_op

    def counted(self, op, judged, view, depth, trail):
        if depth == 0:
            asked.append(op.kind)
        return plain(self, op, judged, view, depth, trail)

    monkeypatch.setattr(Planner, "_plan_op", counted)
    return asked


def test_the_model_is_the_same_byte_for_byte(toy, monkeypatch):
    made = porter.rewrite(model(CHAIN, opset=20, ir=9), toy)
    assert made.evidence.ok and made.report.ok
    with monkeypatch.context() as patch:
        patch.setattr(Replay, "of", classmethod(lambda *_: None))
        alone = porter.rewrite(model(CHAIN, opset=20, ir=9), toy)
    assert made.graph.to_proto().SerializeToString() == alone.graph.to_proto().SerializeToString()
    assert made.ledger.to_json() == alone.ledger.to_json()
    assert made.report.to_json() == alone.report.to_json() and made.before.to_json() == alone.before.to_json()


def test_rules_are_asked_once_for_ops_that_are_alike(toy, monkeypatch):
    asked = count_applications(monkeypatch)
    Planner(OnnxGraph.load(model(CHAIN, opset=20, ir=9)), toy, ("exact", "bounded", "approximate")).plan()
    assert asked.count("hardswish") == 1 and asked.count("gelu") == 1 and asked.count("mish") == 1
    assert asked.count("softmax") == 2, "one for each axis"
    assert asked.count("sub") == 2, "x - x is not x - y"


def test_a_torch_model_is_the_same_too(toy, monkeypatch):
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def forward(self, x):
            for _ in range(3):
                x = torch.nn.functional.hardswish(torch.softmax(torch.nn.functional.gelu(x), 1))
            return x

    shape = {"x": (2, 6)}
    made = porter.rewrite(Net(), toy, shape)
    with monkeypatch.context() as patch:
        patch.setattr(Replay, "of", classmethod(lambda *_: None))
        alone = porter.rewrite(Net(), toy, shape)
    assert made.evidence.ok and [str(op) for op in made.graph.ops()] == [str(op) for op in alone.graph.ops()]
    assert [op.origin for op in made.graph.ops()] == [op.origin for op in alone.graph.ops()]
    x = np.linspace(-3, 3, 12, dtype=np.float32).reshape(2, 6)
    assert np.array_equal(made.graph.run([x])[0], alone.graph.run([x])[0])


@rewrite(removes="relu", yields=("abs", "add", "maximum"), claim="exact")
def relu_by_its_producer(b, op):
    """Another replacement behind an addition than elsewhere."""
    made = b.producer(op.inputs[0])
    if made is not None and made.kind == "add":
        return b.maximum(op.inputs[0], 0.0)
    return b.maximum(b.add(op.inputs[0], 0.0), 0.0)


@rewrite(removes="relu", yields=("maximum", "mul"), claim="exact")
def relu_by_its_readers(b, op):
    """Another replacement where the operand is read once than elsewhere."""
    if b.uses(op.inputs[0]) == 1:
        return b.maximum(op.inputs[0], 0.0)
    return b.maximum(b.mul(op.inputs[0], 1.0), 0.0)


@pytest.mark.parametrize("rule", [relu_by_its_producer, relu_by_its_readers], ids=lambda rule: rule.name)
def test_a_rule_that_looks_around_is_asked_for_every_op(rule, tmp_path, monkeypatch):
    path = tmp_path / "toy.toml"
    path.write_text(HEAD + "[ops.maximum]\n[ops.add]\n[ops.mul]\n")
    own = registry.rules_for
    monkeypatch.setattr("porter.planner.rules_for", lambda kind: (rule,) if kind == "relu" else own(kind))
    body = """g (float[4] x) => (float[4] z, float[4] w) {
      a = Relu (x)  b = Add (a, x)  c = Relu (b)  d = Relu (c)  z = Relu (d)  w = Mul (d, d) }"""
    planned = Planner(OnnxGraph.load(model(body)), Target.load(path), ("exact",)).plan()
    made = [tuple(op.kind for op in p.fragment.ops) for p in planned if p.fragment is not None]
    plain, other = ("maximum",), ("add", "maximum") if rule is relu_by_its_producer else ("mul", "maximum")
    # x is read twice, b, c and d once, once and three times; b is a sum.
    assert made == ([other, plain, other, other] if rule is relu_by_its_producer else [other, plain, plain, other])


def test_an_op_with_constants_has_no_signature():
    graph = OnnxGraph.load(
        model("g (float[4] x) => (float[4] z) { y = Add (x, c)  z = Add (y, y) }", weights={"c": np.ones(4, "f4")})
    )
    one, two = graph.ops()
    assert signature(one) is None and signature(two) is not None


def test_what_reads_the_operand_itself_is_no_recipe():
    """A fragment whose result is a value of the graph cannot be replayed under other names."""
    from porter.rewrite import Fragment

    (op,) = OnnxGraph.load(model("g (float[4] x) => (float[4] z) { z = Relu (x) }")).ops()
    assert Replay.of(op, Fragment([], (op.operands[0],)), "z_r1") is None
    assert Replay.of(op, Fragment([op], op.outputs), "z_r1") is None, "its name does not begin with the prefix"
