# SPDX-License-Identifier: Apache-2.0
"""Bounds from the structure of a model, and the conflicts that they foretell."""

import sys

import numpy as np
import pytest
import quantize_models as models
import targets_for_tests as targets
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import helper

import porter
from porter.baseline import judge
from porter.places import Places
from porter.quantize.bounds import _arithmetic, _Box, bounds, foreseen
from porter.report.formats import Context, render
from porter.target import Target


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """Everything is an integer to the very end, cat included."""
    quantized = '["conv2d", "linear", "add", "mul", "sigmoid", "exp"]'
    return targets.load(tmp_path_factory.mktemp("t"), output_dtypes='["int8", "int16"]', quantized_ops=quantized)


def decode(size=80, stride=8.0):
    """The head of a detector: (xy + grid) * stride, exp(wh) * stride and sigmoid(scores), joined."""
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), 0)[None].astype(np.float32)
    shape = {"x": (1, 4, size, size)}
    tensors = {
        "xy.weight": np.ones((2, 4, 1, 1), np.float32), "wh.weight": np.ones((2, 4, 1, 1), np.float32),
        "obj.weight": np.ones((3, 4, 1, 1), np.float32), "grid": grid, "stride": np.float32(stride),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "xy.weight"], ["xy_y"], name="xy"),
        node("Add", ["xy_y", "grid"], ["moved"], name="move"),
        node("Mul", ["moved", "stride"], ["centers"], name="centers"),
        node("Conv", ["x", "wh.weight"], ["wh_y"], name="wh"),
        node("Exp", ["wh_y"], ["grown"], name="grow"),
        node("Mul", ["grown", "stride"], ["sizes"], name="sizes"),
        node("Conv", ["x", "obj.weight"], ["obj_y"], name="obj"),
        node("Sigmoid", ["obj_y"], ["scores"], name="scores"),
        node("Concat", ["centers", "sizes", "scores"], ["out"], name="join", axis=1),
    ]
    return models.model(nodes, shape, {"out": (1, 7, size, size)}, tensors)


def test_bounds():
    found = bounds(porter.load(decode()))
    assert "xy_y" not in found
    assert (found["moved"].size, found["moved"].sure) == (79, False)
    assert (found["centers"].size, found["sizes"].size) == (632, 8)
    assert (found["scores"].low, found["scores"].high, found["scores"].sure) == (0, 1, True)
    assert (found["out"].size, found["out"].sure) == (632, False)


def anchors(size=128):
    """The decoder of an anchor-free detector: (x + grid) * strides over the anchors of three levels."""
    levels = [(size // stride, stride) for stride in (8, 16, 32)]
    grid = np.concatenate([np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2) for n, _ in levels])
    strides = np.concatenate([np.full((n * n, 1), stride) for n, stride in levels])
    count = len(grid)
    tensors = {
        "eye": np.eye(2, dtype=np.float32), "grid": grid[None].astype(np.float32),
        "strides": strides[None].astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "eye"], ["raw"]),
        helper.make_node("Add", ["raw", "grid"], ["moved"]),
        helper.make_node("Mul", ["moved", "strides"], ["out"]),
    ]
    return models.model(nodes, {"x": (1, count, 2)}, {"out": (1, count, 2)}, tensors)


def test_an_anchor_has_its_own_stride(monkeypatch):
    """15 * 8 = 120 is the largest of any anchor; the largest cell by the largest stride, 15 * 32, is none."""
    found = bounds(porter.load(anchors()))["out"]
    assert (found.low, found.high, found.sure) == (0, 120, False)
    monkeypatch.setattr(
        sys.modules["porter.quantize.bounds"], "_EACH", 100
    )  # fewer than the anchors: one bound for all
    assert bounds(porter.load(anchors()))["out"].high == 480


@given(data=st.data())
def test_bounds_of_constants_are_those_of_the_elements(data):
    """What is made of constants alone is known exactly, element by element."""
    shapes = st.sampled_from([(), (3,), (1, 3), (2, 1), (2, 3)])
    floats = st.floats(-8, 8, width=16)
    a, b = (data.draw(arrays.arrays(np.float32, data.draw(shapes), elements=floats)) for _ in range(2))
    kind = data.draw(st.sampled_from(["Add", "Sub", "Mul", "Div"]))
    b = np.where(np.abs(b) < 0.5, np.float32(1), b) if kind == "Div" else b
    operator = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[kind]
    want = operator(a, b).astype(np.float64)
    made = _arithmetic(kind.lower(), *(_Box(x.astype(np.float64), x.astype(np.float64), True) for x in (a, b)))
    np.testing.assert_allclose([made.bound.low, made.bound.high], [want.min(), want.max()], rtol=1e-6, atol=1e-6)
    assert made.bound.sure


def test_check_foresees_the_conflict(narrow):
    (finding,) = foreseen(porter.load(decode()), narrow)
    assert finding.code == "PT409"
    assert "one scale for centers (about 632) and scores (at most 1): a step of about 4.98" in finding.message
    assert "--outputs" in finding.fix
    assert finding in porter.check(decode(), narrow).findings


def test_check_sees_through_what_is_taken_apart(tmp_path):
    """Raw boxes and scores are joined, sliced and joined again: each slice has the bounds of what it holds."""
    graph = porter.load(models.detector())
    found = bounds(graph)
    assert "xy" not in found
    assert (found["kept"].high, found["kept"].sure) == (1, True)
    assert (found["raw"].high, found["raw"].sure) == (1, False)
    target = targets.load(
        tmp_path, targets.BPU.partition("[ops.mul]")[0], output_dtypes='["int8"]', widths='{ int8 = ["int8", "int8"] }',
        quantized_ops='["conv2d", "add", "mul", "sigmoid", "exp"]',
        passive_ops='["reshape", "permute", "cat", "slice"]',
    )  # fmt: skip
    (finding,) = foreseen(graph, target)
    assert "out has one scale for centers (about 400) and scores (at most 1)" in finding.message
    # The printed report names it, whether its op is native or not.
    context = Context("test", None, Places(tmp_path))
    for kinds in ("", "".join(f"[ops.{kind}]\n" for kind in {op.kind for op in graph.ops()})):
        path = tmp_path / "ops.toml"
        path.write_text((tmp_path / "target.toml").read_text() + "\n" + kinds)
        text = render("text", judge(porter.check(graph, str(path))), context)
        assert text.count("PT409 warning") == 1
        assert text.count("--outputs separate") == 1


def test_nothing_is_said_where_nothing_is_lost(narrow):
    assert foreseen(porter.load(decode(size=4, stride=1.0)), narrow) == []  # boxes as small as scores
    for name in ("mlu270", "onnxruntime"):  # the joined output is float there
        assert foreseen(porter.load(decode()), Target.load(name)) == []
    read_by_a_layer = foreseen(porter.load(models.head()), Target.load("mlu270"))
    assert [finding.code for finding in read_by_a_layer] == ["PT409"]


KINDS = ["Sigmoid", "Tanh", "Exp", "Add", "Sub", "Mul", "Div", "Clip"]


@settings(max_examples=40)
@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6), st.integers(0, 99))
def test_sure_bounds_hold(kinds, seed):
    """A random chain on a sigmoid: every value that the float model computes lies within its sure bounds."""
    rng = np.random.default_rng(seed)
    tensors = {"lo": np.float32(-0.5), "hi": np.float32(0.7)}
    nodes, last = [helper.make_node("Sigmoid", ["x"], ["v"], name="first")], "v"
    for index, kind in enumerate(kinds):
        out = f"v{index}"
        inputs = [last]
        if kind in ("Add", "Sub", "Mul", "Div"):
            tensors[f"c{index}"] = rng.uniform(0.5, 3, (3,)).astype(np.float32)
            inputs = [last, f"c{index}"] if rng.random() < 0.5 or kind == "Div" else [f"c{index}", last]
        elif kind == "Clip":
            inputs = [last, "lo", "hi"]
        nodes.append(helper.make_node(kind, inputs, [out], name=out))
        last = out
    model = models.model(nodes, {"x": (2, 3)}, {last: (2, 3)}, tensors)
    graph = porter.load(model)
    found = bounds(graph)
    names = [out.name for op in graph.ops() for out in op.outputs if out.name in found and found[out.name].sure]
    x = rng.normal(size=(2, 3)).astype(np.float32) * 4
    for name, array in zip(names, graph.run([x], names)[1:], strict=True):
        slack = 1e-5 * max(1.0, found[name].size)
        assert array.min() >= found[name].low - slack
        assert array.max() <= found[name].high + slack
