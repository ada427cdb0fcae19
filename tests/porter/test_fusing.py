# SPDX-License-Identifier: Apache-2.0
"""Formulas with an illegal op in the middle become the op that the target has: in ONNX, in torch, and only there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import model
from torch import nn

from porter.dialects.fx import FxGraph
from porter.dialects.onnx import OnnxGraph
from porter.legalize import check, legalize
from porter.target import Target
from porter.verify import verify

HEAD = '[target]\nname = "toy"\nclosed = true\n[runtime]\nframework = "toy"\ndtypes = ["float32"]\n'


@pytest.fixture
def target(tmp_path):
    def make(kinds):
        path = tmp_path / "toy.toml"
        path.write_text(HEAD + "".join(f"[ops.{kind}]\n" for kind in kinds.split()))
        return Target.load(path)

    return make


def onnx(body, opset):
    return OnnxGraph.load(model(body, opset), source="net")


def kinds_after(graph, toy, **options):
    """The kinds of the legal graph, proved equal, with check promising the same before."""
    promised = check(graph, toy)
    new, ledger, _, after = legalize(graph, toy, **options)
    inputs = [[np.random.default_rng(s).standard_normal(v.shape, np.float32) for v in graph.inputs] for s in range(2)]
    evidence = verify(graph, new, inputs, [e.value for e in ledger.entries])
    assert evidence.ok, evidence.worst
    assert after.ok == promised.portable
    return [op.kind for op in new.ops()], promised


SILU = "g (float[2, 4] x) => (float[2, 4] y) { s = Sigmoid (x) \n y = Mul (x, s) }"
GELU = """g (float[2, 4] x) => (float[2, 4] y) <float c = {1.4142135}, float one = {1.0}, float h = {0.5}> {
    a = Div (x, c) \n e = Erf (a) \n s = Add (e, one) \n p = Mul (x, s) \n y = Mul (p, h) }"""
ATTENTION = """g (float[1,2,3,4] q, float[1,2,3,4] k, float[1,2,3,4] v) => (float[1,2,3,4] y) <float c = {0.5}> {
    t = Transpose <perm = [0, 1, 3, 2]> (k) \n s = MatMul (q, t) \n m = Mul (s, c) \n p = Softmax (m)
    y = MatMul (p, v) }"""


def test_onnx(target):
    assert kinds_after(onnx(SILU, 24), target("silu mul"))[0] == ["silu"]
    assert kinds_after(onnx(GELU, 20), target("gelu add mul div"))[0] == ["gelu"]
    assert kinds_after(onnx(ATTENTION, 23), target("attention matmul mul permute"))[0] == ["attention"]


def test_coefficients_behind_an_identity(target):
    named = GELU.replace("a = Div (x, c)", "i = Identity (c) \n k = Identity (i) \n a = Div (x, k)")
    assert kinds_after(onnx(named, 20), target("gelu add mul div"))[0] == ["gelu"]


def test_an_opset_without_the_operator_keeps_the_formula_and_says_so(target):
    kinds, report = kinds_after(onnx(SILU, 17), target("silu mul"))
    assert kinds == ["sigmoid", "mul"] and not report.portable
    assert "no silu in the model's own operators" in report.findings[0].fix


def test_legal_formulas_are_left_alone(target):
    assert kinds_after(onnx(SILU, 24), target("silu mul sigmoid"))[0] == ["sigmoid", "mul"]


def test_but_a_user_may_ask(target):
    made = kinds_after(onnx(SILU, 24), target("silu mul sigmoid"), apply=["sigmoid_mul_to_silu"])
    assert made[0] == ["silu"]
    assert kinds_after(onnx(SILU, 24), target("mul sigmoid"), apply=["sigmoid_mul_to_silu"])[0] == ["sigmoid", "mul"]


def test_what_the_target_lacks_is_not_made_and_what_it_has_is_not_taken_apart(target):
    """No loop: the decomposing rule goes one way on a target without silu, the other rule on one without sigmoid."""
    swish = onnx("g (float[2, 4] x) => (float[2, 4] y) { y = Swish (x) }", 24)
    assert kinds_after(swish, target("mul sigmoid"))[0] == ["sigmoid", "mul"]
    assert kinds_after(swish, target("silu mul"))[0] == ["silu"]


def test_a_part_that_is_read_elsewhere_stays(target):
    both = onnx("g (float[2, 4] x) => (float[2, 4] y, float[2, 4] s) { s = Sigmoid (x) \n y = Mul (x, s) }", 24)
    kinds, report = kinds_after(both, target("silu mul"))
    assert kinds == ["sigmoid", "mul"]
    assert "a part of the formula is read elsewhere too" in report.findings[0].fix


def test_an_illegal_op_of_two_formulas_goes_with_both(target):
    """The exporter shared the sigmoid: both products become SiLU, and only then it is superfluous."""
    shared = onnx(
        "g (float[2, 4] x) => (float[2, 4] y, float[2, 4] z) { s = Sigmoid (x) \n y = Mul (x, s) \n z = Mul (s, x) }",
        24,
    )
    kinds, report = kinds_after(shared, target("silu mul"))
    assert kinds == ["silu", "silu"] and report.portable
    assert [op.verdict for op in report.ops] == ["rewrite", "native", "native"]


def test_a_stronger_claim_for_the_part_is_preferred(target):
    """sigmoid_to_tanh is bounded, sigmoid_to_exp exact; the fusion is exact and the whole of it one op."""
    kinds, _ = kinds_after(onnx(SILU, 24), target("silu mul exp add div neg reciprocal"))
    assert kinds == ["silu"]


class Formulas(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 8))
        self.bias = nn.Parameter(torch.linspace(-1, 1, 8))

    def forward(self, x):
        x = x * torch.sigmoid(x)
        d = x - x.mean(-1, keepdim=True)
        x = d / torch.sqrt((d * d).mean(-1, keepdim=True) + 1e-5) * self.weight + self.bias
        x = x * 0.5 * (1 + torch.erf(x / 2**0.5))
        x = x * torch.clamp(x + 3, 0, 6) / 6
        q = x.reshape(1, 2, 3, 8)
        return torch.softmax(q @ q.transpose(-1, -2) * 0.3, -1) @ (q + 1)


def test_torch(target):
    graph = FxGraph.capture(Formulas(), [(None, (1, 6, 8), None)])
    toy = target("silu layer_norm gelu hardswish attention reshape add mul")
    new, ledger, _, after = legalize(graph, toy)
    assert after.ok
    assert [op.kind for op in new.ops()] == ["silu", "layer_norm", "gelu", "hardswish", "reshape", "add", "attention"]
    inputs = [[np.random.default_rng(s).standard_normal((1, 6, 8), np.float32)] for s in range(2)]
    assert verify(graph, new, inputs, [e.value for e in ledger.entries]).ok
    lines = {op.kind: op.origin.line for op in new.ops()}
    assert lines["silu"] is not None and lines["silu"] < lines["gelu"] < lines["attention"]


def test_thousands_of_formulas(target):
    """One plan, one pass: nothing is left for a second round."""
    count = 1000
    body = "\n".join(f"s{i} = Sigmoid (x{i}) \n x{i + 1} = Mul (x{i}, s{i})" for i in range(count))
    graph = onnx(f"g (float[2, 4] x0) => (float[2, 4] x{count}) {{ {body} }}", 24)
    new, ledger, _, after = legalize(graph, target("silu mul"))
    assert after.ok and len(new.ops()) == len(ledger.entries) == count
