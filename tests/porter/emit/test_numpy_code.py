# SPDX-License-Identifier: Apache-2.0
"""Ops as numpy: every node test of the onnx package that has a form, NMS and ROI align beside onnxruntime."""

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import model
from onnx import TensorProto, helper

from porter.dialects.onnx import OnnxGraph
from porter.emit import numpy_ops
from porter.emit.numpy_code import Inexpressible, kinds, load, write
from porter.errors import PorterError


def numpy_of(graph):
    return write(graph, [v.name for v in graph.inputs], [v.name for v in graph.outputs], "A test.")


@pytest.mark.filterwarnings("ignore")
def test_every_node_test_of_onnx_that_has_a_form_gives_its_reference():
    from onnx.backend.test.case.node import collect_testcases

    passed, wrong, seen = 0, [], set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [case for case in collect_testcases(None) if case.model is not None]
    for case in cases:
        ins, outs = case.data_sets[0]
        if not all(isinstance(a, (np.ndarray, np.generic)) for a in (*ins, *outs)):
            continue
        names = [i.name for i in case.model.graph.input]
        try:
            graph = OnnxGraph.load(case.model, {n: (a.shape, None) for n, a in zip(names, ins, strict=True)})
            source, constants = numpy_of(graph)
        except (PorterError, Inexpressible, ValueError):
            continue
        seen.update(op.kind for op in graph.ops())
        for got, want in zip(load(source, constants)(*ins), outs, strict=True):
            got = np.asarray(got)
            a, b = got.astype(np.float64), want.astype(np.float64)
            close = got.shape == want.shape and np.allclose(a, b, case.rtol, max(case.atol, 1e-6), equal_nan=True)
            if not close or got.dtype != want.dtype:
                wrong.append((case.name, got.dtype, got.shape))
        passed += 1
    assert wrong == []
    assert passed > 800 and len(seen) > 100, (passed, len(seen))
    assert seen <= kinds()


def nms_model(center, with_score=True):
    inputs = ["boxes", "scores", "most", "iou"] + (["floor"] if with_score else [])
    node = helper.make_node("NonMaxSuppression", inputs, ["y"], center_point_box=center)
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", "m", 4]),
         helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", "c", "m"]),
         helper.make_tensor_value_info("most", TensorProto.INT64, [1]),
         helper.make_tensor_value_info("iou", TensorProto.FLOAT, [1]),
         helper.make_tensor_value_info("floor", TensorProto.FLOAT, [1])][: 4 + with_score],
        [helper.make_tensor_value_info("y", TensorProto.INT64, None)],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    return onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])


SESSIONS = {}


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 2), st.integers(1, 3), st.integers(1, 40), st.integers(0, 1),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.sampled_from([None, -1.0, 0.25, 0.5]), st.integers(0, 12),
    st.booleans(),
)  # fmt: skip
def test_nms_is_that_of_onnxruntime(seed, batch, classes, boxes, center, iou, floor, most, grid):
    """Corners in any order, empty boxes, equal scores (on a grid of few values), every limit."""
    rng = np.random.default_rng(seed)
    if grid:
        box = rng.integers(0, 4, (batch, boxes, 4)).astype(np.float32)
        score = (rng.integers(0, 4, (batch, classes, boxes)) / 4).astype(np.float32)
    else:
        box = rng.random((batch, boxes, 4), np.float32)
        score = rng.random((batch, classes, boxes), np.float32)
    key = center, floor is not None
    session = SESSIONS[key] = SESSIONS.get(key) or nms_model(*key)
    feeds = {"boxes": box, "scores": score, "most": np.array([most]), "iou": np.float32([iou])}
    if floor is not None:
        feeds["floor"] = np.float32([floor])
    (want,) = session.run(None, feeds)
    got = numpy_ops.nms_onnx(box, score, most, iou, floor, center)
    assert np.array_equal(got, want), (got, want)


def test_nms_of_torchvision_by_hand():
    """Three boxes: the second overlaps the first by 9 / 23 = 0.391, the third is elsewhere and scores best."""
    boxes = np.float32([[0, 0, 4, 4], [1, 1, 5, 5], [10, 10, 12, 12]])
    scores = np.float32([0.8, 0.7, 0.9])
    assert numpy_ops.nms(boxes, scores, 0.40).tolist() == [2, 0, 1]
    assert numpy_ops.nms(boxes, scores, 0.39).tolist() == [2, 0]
    assert numpy_ops.nms(boxes[:0], scores[:0], 0.5).shape == (0,)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from(["avg", "max"]), st.sampled_from([0, 1, 2, 3]),
    st.sampled_from(["half_pixel", "output_half_pixel"]),
)  # fmt: skip
def test_roi_align_is_that_of_onnxruntime(seed, mode, sampling, coordinates):
    rng = np.random.default_rng(seed)
    node = helper.make_node("RoiAlign", ["x", "rois", "batch"], ["y"], mode=mode, output_height=3, output_width=2,
                            sampling_ratio=sampling, spatial_scale=0.5,
                            coordinate_transformation_mode=coordinates)  # fmt: skip
    infos = [("x", TensorProto.FLOAT, [2, 3, 9, 7]), ("rois", TensorProto.FLOAT, [4, 4]),
             ("batch", TensorProto.INT64, [4])]  # fmt: skip
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info(*i) for i in infos],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 3, 3, 2])])  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    corners = rng.uniform(-2, 12, (4, 2)).astype(np.float32)
    rois = np.concatenate([corners, corners + rng.uniform(0.1, 8, (4, 2)).astype(np.float32)], 1)
    feeds = {"x": rng.standard_normal((2, 3, 9, 7), np.float32), "rois": rois, "batch": rng.integers(0, 2, 4)}
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    (want,) = session.run(None, feeds)
    lifted = OnnxGraph.load(made)
    source, constants = numpy_of(lifted)
    (got,) = load(source, constants)(*feeds.values())
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_grid_sample_is_that_of_torch(mode, padding, align):
    """Positions inside, outside, far outside, and on whole pixels, on images of one pixel too."""
    rng = np.random.default_rng(0)
    for height, width in ((5, 7), (1, 4), (1, 1)):
        x = rng.standard_normal((2, 3, height, width), np.float32)
        grid = rng.uniform(-3, 3, (2, 4, 6, 2)).astype(np.float32)
        grid[0, 0, :, 0] = np.linspace(-1, 1, 6)
        want = torch.nn.functional.grid_sample(torch.from_numpy(x), torch.from_numpy(grid), mode, padding, align)
        got = numpy_ops.grid_sample(x, grid, mode, padding, align)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want.numpy(), atol=2e-5)


def test_grid_sample_in_a_model():
    """Its helper comes with it; volumes have no form."""
    body = """g (float[1, 2, 5, 7] x, float[1, 3, 4, 2] grid) => (float[1, 2, 3, 4] y) {
                 y = GridSample <mode = "bilinear", padding_mode = "border"> (x, grid) }"""
    made = model(body, 16)
    source, constants = numpy_of(OnnxGraph.load(made))
    assert "def _padded_position(at, size, padding, align):" in source
    rng = np.random.default_rng(3)
    feeds = {"x": rng.standard_normal((1, 2, 5, 7), np.float32), "grid": rng.uniform(-2, 2, (1, 3, 4, 2)).astype("f")}
    (want,) = onnxruntime.InferenceSession(made.SerializeToString()).run(None, feeds)
    (got,) = load(source, constants)(*feeds.values())
    np.testing.assert_allclose(got, want, atol=1e-5)
    deep = body.replace("5, 7", "5, 7, 3").replace("3, 4, 2]", "3, 4, 2, 3]").replace("3, 4] y", "3, 4, 2] y")
    with pytest.raises(Inexpressible, match="volumes"):
        numpy_of(OnnxGraph.load(model(deep, 20)))


def test_the_source_is_plain_and_stands_alone():
    """Names that are Python's, constants short and long, helpers with what they call, places as comments."""
    long = np.arange(40, dtype=np.float32).reshape(1, 40)
    body = """g (float[1, 40] for) => (float[1, 3] def) {
                 a = Add (for, long) \n b = Mul (a, half) \n c = Sigmoid (b)
                 values, where = TopK (c, three) \n w = Cast <to = 1> (where) \n def = Add (values, w) }"""
    made = model(body, weights={"long": long, "half": np.float32([0.5]), "three": np.array([3])})
    source, constants = numpy_of(OnnxGraph.load(made))
    assert list(constants) == ["c0"] and np.array_equal(constants["c0"], long)
    assert "def sigmoid(x):" in source and "def ordered(x, axis, descending):" in source
    assert 'np.array([0.5], "float32")' in source and "Any" not in source and "porter." not in source.split('"""')[2]
    x = np.linspace(-60, -40, 40, dtype=np.float32)[None]
    (got,) = load(source, constants)(x)
    want = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"for": x})[0]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_what_has_no_form_is_said():
    body = "g (float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y) { y = LRN <size = 3> (x) }"
    with pytest.raises(Inexpressible, match="local_response_norm has no numpy form"):
        numpy_of(OnnxGraph.load(model(body)))


def test_a_hostile_name_stays_a_name():
    """Names of values and nodes come from a file; none of them becomes code."""
    evil = 'x"""\n    import os; os.abort()\n#'
    node = helper.make_node("Relu", ["in"], [evil], name=evil, doc_string=evil)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("in", evil)]
    made = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]),
                             opset_imports=[helper.make_opsetid("", 17)], ir_version=8)  # fmt: skip
    onnx.checker.check_model(made)
    graph = OnnxGraph.load(made, source=evil)
    source, constants = write(graph, ["in"], [evil], evil)
    (got,) = load(source, constants)(np.float32([-1, 2]))
    assert got.tolist() == [0, 2]
