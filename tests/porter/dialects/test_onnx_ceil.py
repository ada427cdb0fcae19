# SPDX-License-Identifier: Apache-2.0
"""Pools with ceil_mode have the shape that onnxruntime gives them, and so has what comes after."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import parser

import porter
from porter.dialects.onnx import OnnxGraph


def load(body: str) -> OnnxGraph:
    return OnnxGraph.load(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {body}'), source="net")


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads", "want"),
    [
        (6, 2, 3, (0, 0), 2),  # rounding up would start a third window at 6, behind the input
        (7, 2, 3, (0, 0), 3),  # and here at 6, inside of it
        (5, 3, 2, (1, 1), 3),
        (4, 2, 2, (1, 1), 3),
        (12, 1, 2, (0, 0), 6),
    ],
)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_window_behind_the_input_is_left_out(op, size, kernel, stride, pads, want):
    attrs = f"kernel_shape = [{kernel}], strides = [{stride}], pads = [{pads[0]}, {pads[1]}], ceil_mode = 1"
    body = f"g (float[1, 2, {size}] x) => (float[1, 2, N] y) {{ p = {op} <{attrs}> (x) \n y = Relu (p) }}"
    graph = load(body)
    assert [v.shape for op in graph.ops() for v in op.outputs] == [(1, 2, want)] * 2
    assert graph.run([np.ones((1, 2, size), np.float32)])[0].shape == (1, 2, want)


def test_pools_in_a_row_and_what_reads_them():
    """The second one's extent follows from the first's; a slice before it makes the inference go node by node."""
    pool = "<kernel_shape = [1, 1], strides = [2, 2], ceil_mode = 1>"
    body = (
        "g (float[1, 1, 12, 10] x) => (float[M, N] y) { a = MaxPool " + pool + " (x) \n b = AveragePool " + pool
        + " (a) \n y = Flatten (b) }"
    )  # fmt: skip
    graph = load(body)
    assert [op.outputs[0].shape for op in graph.ops()] == [(1, 1, 6, 5), (1, 1, 3, 3), (1, 9)]
    x = np.arange(120, dtype=np.float32).reshape(1, 1, 12, 10)
    np.testing.assert_array_equal(graph.run([x])[0], x[:, :, ::4, ::4].reshape(1, -1))
    made = porter.rewrite(graph, "mlu270")
    assert made.evidence is not None and made.evidence.ok


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("more", ["", ", count_include_pad = 1"])
def test_one_axis_with_a_window_behind_the_input_and_one_without(op, more):
    """8 rows by 3 and 3: the third window reaches over the end; 6 columns by 2 and 3: it would start behind it."""
    if op == "MaxPool" and more:
        pytest.skip("a maximum counts nothing")
    pool = f"<kernel_shape = [3, 2], strides = [3, 3], ceil_mode = 1{more}>"
    text = f"g (float[1, 1, 8, 6] x) => (float[1, 1, H, W] y) {{ y = {op} {pool} (x) }}"
    graph = load(text)
    assert graph.outputs[0].shape == (1, 1, 3, 2)
    x = np.random.default_rng(0).standard_normal((1, 1, 8, 6)).astype(np.float32)
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}').SerializeToString()
    want = onnxruntime.InferenceSession(proto).run(None, {"x": x})[0]
    np.testing.assert_allclose(graph.run([x])[0], want, rtol=1e-6)


def test_without_ceil_mode_nothing_changes():
    graph = load("g (float[1, 2, 6] x) => (float[1, 2, N] y) { y = MaxPool <kernel_shape = [2], strides = [3]> (x) }")
    assert graph.outputs[0].shape == (1, 2, 2)


def test_constants_that_follow_from_the_shape_fit():
    """onnxruntime infers shapes when it loads a model: a factor for each window must not meet one window more."""
    pool = "<kernel_shape = [3, 1], strides = [3, 3], pads = [2, 0, 1, 0], ceil_mode = 1>"
    average = "<kernel_shape = [3, 3], strides = [2, 1], pads = [1, 0, 1, 0]>"
    graph = load(
        "g (float[1, 2, 4, 11] x) => (float[1, 2, H, W] y) { a = MaxPool " + pool + " (x) \n y = AveragePool " + average
        + " (a) }"
    )  # fmt: skip
    made = porter.rewrite(graph, "esp32p4")
    assert made.ledger.entries and made.evidence is not None and made.evidence.ok
    ceil = [a.i for node in made.graph.to_proto().graph.node for a in node.attribute if a.name == "ceil_mode"]
    assert 1 not in ceil
    assert graph.ops()[0].attrs["ceil_mode"], "check still says what is in the file"
