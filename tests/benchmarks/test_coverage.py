# SPDX-License-Identifier: Apache-2.0
"""make coverage: its detectors, one model through a target, what is kept between runs, and the tables."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import benchmarks.coverage.__main__ as coverage
from benchmarks.coverage import conformance, measure, tables
from benchmarks.coverage.blocks import RepConv
from benchmarks.coverage.catalogue import MODELS
from benchmarks.coverage.detectors import CLASSES, DETECTORS
from benchmarks.coverage.measure import Model, Row, Wrong


def quiet(_text: str) -> None:
    pass


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A convolution and HardSwish, which the MLU270 lacks."""
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((4, 3, 3, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["a"], kernel_shape=[3, 3]),
        helper.make_node("HardSwish", ["a"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info("images", 1, (1, 3, 8, 8))], [info("y", 1, (1, 4, 6, 6))], [weight])
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), path)
    return path


# -- detectors -------------------------------------------------------------------------------------


def test_every_detector_of_the_catalogue_is_there():
    assert sorted(DETECTORS) == sorted(entry.name for entry in MODELS if entry.group == "detector")


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_detectors(name):
    """Of 96 x 96 pixels: cells of strides 8, 16 and 32 (the tiny ones of 16 and 32), with what each predicts."""
    torch.manual_seed(0)
    with torch.no_grad():
        out = DETECTORS[name]().eval()(torch.rand(1, 3, 96, 96))
    cells = 6 * 6 + 3 * 3 + (0 if "tiny" in name else 12 * 12)
    if name == "yolov10_style":  # the twenty best: box, score, class
        assert out.shape == (1, 20, 6)
        assert set(out[0, :, 5].tolist()) <= set(map(float, range(CLASSES))) and (out[0, :, 4].diff() <= 0).all()
    elif name in ("yolov8_style", "yolov9_style", "yolo11_style"):
        assert out.shape == (1, 4 + CLASSES, cells) and ((out[0, 4:] > 0) & (out[0, 4:] < 1)).all()
        # The middle of a box lies within a cell's reach: 15 cells from its own, in the largest of strides.
        assert (out[0, :2].abs() <= 96 + 15 * 32).all() and (out[0, 2:4] > 0).all()
    else:
        anchors = 1 if name in ("yolov6_style", "yolox_style") else 3
        assert out.shape == (1, anchors * cells, 5 + CLASSES) and ((out[..., 4:] > 0) & (out[..., 4:] < 1)).all()
    assert out.isfinite().all()


@pytest.mark.parametrize(("ins", "outs"), [(6, 6), (6, 4)])
def test_a_fused_rep_block_is_the_same(ins, outs):
    torch.manual_seed(0)
    block = RepConv(ins, outs).double()
    for norm in [module for module in block.modules() if isinstance(module, torch.nn.BatchNorm2d)]:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    block.eval()
    x = torch.randn(2, ins, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        before = block(x)
        block.fuse()
        assert len([m for m in block.modules() if m is block.joined]) == 1
        block.joined.double()
        torch.testing.assert_close(block(x), before, rtol=1e-5, atol=1e-5)  # weights were joined in float32


# -- one model -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "state"),
    [("onnxruntime", "as is"), ("mlu270", "rewritten"), ("xgen-mobile", "unknown")],
)
def test_a_model_on_a_target(small, target, state):
    row = measure.measure(Model(small), target)
    assert (row.state, row.cause) == (state, "") and row.said in measure.PROMISED
    assert row.proof is not None and row.proof <= measure.TOLERANCE
    assert row.fresh is not None and row.fresh <= measure.TOLERANCE


def test_what_differs_is_wrong(small):
    model = Model(small)
    assert model.fresh(lambda feeds: measure._run(model.session, feeds)) == 0

    def off(feeds):
        return {name: array + 0.01 for name, array in measure._run(model.session, feeds).items()}

    with pytest.raises(Wrong, match="y differs by"):
        model.fresh(off)
    with pytest.raises(Wrong, match=r"not float32\(1, 4, 6, 6\)"):
        model.fresh(lambda feeds: {name: a[..., :5] for name, a in measure._run(model.session, feeds).items()})


def test_a_wrong_rewrite_is_told(small, monkeypatch):
    made = measure.api.rewrite

    def broken(*args, **more):
        result = made(*args, **more)
        weight = next(v for op in result.graph.ops() for v in op.operands if v.is_const and v.name == "w")
        object.__setattr__(result, "graph", result.graph.with_constants({"w": weight.numpy() * 1.01}))
        return result

    monkeypatch.setattr(measure.api, "rewrite", broken)
    row = measure.measure(Model(small), "onnxruntime")
    assert row.state == "failed" and row.cause.startswith("wrong: porter's own proof: y differs by 0.0")


def test_a_crash_is_a_row(small, monkeypatch):
    monkeypatch.setattr(measure.api, "check", lambda *_: 1 // 0)
    row = measure.measure(Model(small), "mlu270")
    assert (
        row.state == "failed" and row.cause.startswith("crash: ZeroDivisionError") and "test_coverage.py" in row.cause
    )


# -- runs ------------------------------------------------------------------------------------------


def test_results_are_kept(small, tmp_path, monkeypatch):
    kept = coverage.Kept(tmp_path / "rows.jsonl", any_version=False, fresh=False)
    monkeypatch.setattr(coverage, "WORK", tmp_path)
    rows = list(coverage.measured(small, ["onnxruntime", "mlu270"], kept, quiet))
    assert [(row.target, row.cause) for row in rows] == [("onnxruntime", ""), ("mlu270", "")]
    again = coverage.Kept(tmp_path / "rows.jsonl", any_version=False, fresh=False)
    monkeypatch.setattr(coverage, "in_process", lambda *_: pytest.fail("measured again"))
    assert list(coverage.measured(small, ["onnxruntime", "mlu270"], again, quiet)) == rows
    monkeypatch.setattr(coverage, "_version", lambda _target: "another")
    assert again.get(small, "mlu270") is None
    assert coverage.Kept(tmp_path / "rows.jsonl", any_version=True, fresh=False).get(small, "mlu270") == rows[1]
    assert coverage.Kept(tmp_path / "rows.jsonl", any_version=True, fresh=True).get(small, "mlu270") is None


def test_node_tests_are_kept(tmp_path, monkeypatch):
    one = conformance.Result([conformance.Case("test_relu", "Relu", "reproduced", "left", "PT102", "relu: why", 2)])
    monkeypatch.setattr(conformance, "run", lambda _target, say: one)
    kept = coverage.Kept(tmp_path / "rows.jsonl", any_version=False, fresh=False)
    assert coverage.node_tests("x5", kept, quiet) is one
    monkeypatch.setattr(conformance, "run", lambda _target, say: pytest.fail("run again"))
    assert coverage.node_tests("x5", kept, quiet) == one
    monkeypatch.setattr(coverage, "_version", lambda _target: "another")
    other = conformance.Result()
    monkeypatch.setattr(conformance, "run", lambda _target, say: other)
    assert coverage.node_tests("x5", kept, quiet) is other


def test_a_process_that_dies_leaves_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(coverage, "WORK", tmp_path)
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    (row,) = coverage.in_process(path, ["mlu270", "x5"], quiet)
    assert (row.model, row.target, row.state) == ("broken", "mlu270", "failed")
    assert row.cause.startswith("crash: the process ended with 1: ")
    monkeypatch.setattr(coverage, "LIMIT", 0)
    (row,) = coverage.in_process(path, ["x5"], quiet)
    assert row.cause == "no end after 0 s"


def test_an_export_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(coverage, "WORK", tmp_path)
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'RuntimeError: no such layer' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(coverage, "EXPORTER", script)
    assert coverage.exported(MODELS[:1], quiet) == ({}, {MODELS[0].name: "RuntimeError: no such layer"})
    assert not list((tmp_path / "models").iterdir())


def test_tables(tmp_path, monkeypatch):
    name = MODELS[0].name
    rows = [
        Row(name, "a", "as is", "as is", proof=0.0, fresh=2e-7),
        Row(name, "b", "rewritten", "rewrite", host=3, proof=1e-7, fresh=0.0),
        Row(name, "c", "partitioned", "partition", segments=3, crossings=4, left={"erf: no": 2}, parts=True),
        Row(name, "d", "failed", "rewrite", cause="wrong: y differs"),
        Row(name, "e", "unknown", "unknown", left={"add: not known": 9, "conv2d: not known": 1}),
    ]
    page = tables.page(rows, {name: 42}, {"other": "no such layer"})
    assert f"| {name} | 42 | = | R h3 | P 3/4* | **failed** | ? |" in page
    assert "| all | 1 | 1 | 1 | 1 | 0 | 1 | 4 of 5 | 2.0e-07 |" in page
    assert "- other could not be exported: no such layer" in page and f"- wrong: y differs: {name} on d" in page
    assert "| c | erf 1 |" in page and "| e | add 1, conv2d 1 |" in page and "| a | nothing |" in page
    doc = tmp_path / "coverage.md"
    doc.write_text(f"before\n{coverage.BEGIN}\nold\n{coverage.END}\nafter\n")
    monkeypatch.setattr(coverage, "PAGE", doc)
    for _ in range(2):
        coverage.write(page, rows, {})
    text = doc.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text and text.count(page) == 1
    data = json.loads(doc.with_suffix(".json").read_text())
    assert data["models"][0] == {"model": name, "target": "a", "state": "as is", "said": "as is", "fresh": 2e-7}
    assert data["versions"]["torch"] and len(data["models"]) == 5
    assert Row(**asdict(rows[2])) == rows[2]


def test_what_rounding_alone_moves_is_allowed_up_to_ten_times_the_tolerance() -> None:
    array = np.linspace(0, 1, 11, dtype=np.float32)
    assert measure._own("y", array, None) == measure.TOLERANCE
    assert measure._own("y", array, array) == measure.TOLERANCE
    assert measure._own("y", array, array + np.float32(3e-4)) == pytest.approx(3e-4, rel=1e-3)
    assert measure._own("y", array, array + 1) == 10 * measure.TOLERANCE
    with pytest.raises(measure.Wrong, match=r"differs by 0\.0003"):
        measure._compared("y", array, array + np.float32(3e-4))
