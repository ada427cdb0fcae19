# SPDX-License-Identifier: Apache-2.0
"""Positions that a model computes in int64, on devices that compute in int32 or in float32 only."""

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

HEAD = '[target]\nname = "toy"\nclosed = true\n[runtime]\nframework = "toy"\ndtypes = ["float32", "int32", "int64"]\n'


class Positions(nn.Module):
    """The best of 9 cells, as a row of a table and as a coordinate."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(60.0).reshape(20, 3))

    def forward(self, x):
        best = x.argmax(-1)
        row = best // 3 * 2 + 1
        return self.table[row], (best % 3).float() * 4.0


ONNX = """g (float[5, 9] x) => (float[5, 3] row, float[5] column)
    <int64 three = {3}, int64 two = {2}, int64 one = {1}, float four = {4.0}> {
    best = ArgMax <axis = 1, keepdims = 0> (x) \n q = Div (best, three) \n m = Mul (q, two) \n a = Add (m, one)
    row = Gather (table, a) \n r = Mod (best, three) \n f = Cast <to = 1> (r) \n column = Mul (f, four) }"""


@pytest.fixture
def target(tmp_path):
    def make(arithmetic, others):
        dtypes = ", ".join(f'"{d}"' for d in arithmetic.split())
        path = tmp_path / "toy.toml"
        narrow = "add sub mul div floor_divide trunc_divide remainder fmod floor abs neg sign"
        path.write_text(
            HEAD
            + "".join(f"[ops.{kind}]\ndtypes = [{dtypes}]\n" for kind in narrow.split())
            + "".join(f"[ops.{kind}]\n" for kind in others.split())
        )
        return Target.load(path)

    return make


@pytest.mark.parametrize("dtypes", ["float32 int32", "float32"])
@pytest.mark.parametrize("dialect", ["fx", "onnx"])
def test_positions(dialect, dtypes, target):
    if dialect == "fx":
        graph = FxGraph.capture(Positions(), [(None, (5, 9), None)])
    else:
        table = np.arange(60, dtype=np.float32).reshape(20, 3)
        graph = OnnxGraph.load(model(ONNX, 17, weights={"table": table}), source="net")
    toy = target(dtypes, "argmax cast take index index_select")
    promised = check(graph, toy)
    new, ledger, _, after = legalize(graph, toy)
    assert promised.portable and after.ok, after.findings
    inputs = [[np.random.default_rng(s).standard_normal((5, 9), np.float32)] for s in range(3)]
    evidence = verify(graph, new, inputs, [e.value for e in ledger.entries])
    assert evidence.ok and evidence.worst.max_abs == 0
    wide = [op.kind for op in new.ops() if any(v.dtype == "int64" for v in op.outputs)]
    assert set(wide) <= {"argmax", "cast"}


def test_what_is_not_known_to_fit_is_told(target):
    class Ids(nn.Module):
        def forward(self, ids):
            return (ids + 1).float()

    graph = FxGraph.capture(Ids(), [("ids", (4,), "int64")])
    report = check(graph, target("float32 int32", "argmax cast"))
    assert not report.portable
    assert any("nothing is known about the range of" in f.fix for f in report.findings)
