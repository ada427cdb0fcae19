# SPDX-License-Identifier: Apache-2.0
"""Other data in the same constants: names, paths and everything else stay, the original too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from porter.dialects.onnx import OnnxGraph
from porter.graph import Graph
from porter.paths import module_paths

RNG = np.random.default_rng(5)
X = RNG.normal(size=(2, 4)).astype(np.float32)


def gemm(trans_b: int, constant_node: bool = False, readers: int = 1) -> OnnxGraph:
    weight = RNG.normal(size=(4, 4)).astype(np.float32)
    nodes = [helper.make_node("Gemm", ["x", "fc.weight"], ["y"], name="fc", transB=trans_b)]
    if readers == 2:
        nodes.append(helper.make_node("Gemm", ["y", "fc.weight"], ["z"], name="fc2", transB=1 - trans_b))
    tensor = numpy_helper.from_array(weight, "fc.weight")
    initializers = [] if constant_node else [tensor]
    if constant_node:
        nodes.insert(0, helper.make_node("Constant", [], ["fc.weight"], value=tensor))
    out = nodes[-1].output[0]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 4))],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, (2, 4))], initializers,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    return OnnxGraph.load(model)


def fx_linear() -> Graph:
    torch = pytest.importorskip("torch")
    from porter.dialects.fx import FxGraph

    return FxGraph.capture(torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False)), [("x", (2, 4), None)])


@pytest.mark.parametrize(
    "make", [lambda: gemm(1), lambda: gemm(0), lambda: gemm(0, True), lambda: gemm(1, True), fx_linear]
)
def test_the_weight_as_the_op_shows_it_changes_and_nothing_else(make: Any) -> None:
    graph = make()
    before = graph.run([X])[0]
    weight = next(op for op in graph.ops() if op.kind == "linear").inputs[1]
    new = RNG.normal(size=(4, 4)).astype(np.float32)
    twin = graph.with_constants({weight.name: new})
    np.testing.assert_allclose(twin.run([X])[0], X @ new.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(graph.run([X])[0], before)
    assert module_paths(twin) == module_paths(graph)
    other = next(op for op in twin.ops() if op.kind == "linear").inputs[1]
    np.testing.assert_array_equal(other.numpy(), new)
    np.testing.assert_allclose(twin.copy().run([X])[0], X @ new.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [lambda: gemm(1), fx_linear])
@pytest.mark.parametrize(
    ("name", "data"),
    [("nothing", np.zeros((4, 4), np.float32)), (None, np.zeros((4, 5), np.float32)), (None, np.zeros((4, 4)))],
)
def test_what_does_not_fit_is_refused(make: Any, name: str | None, data: Any) -> None:
    graph = make()
    weight = next(op for op in graph.ops() if op.kind == "linear").inputs[1]
    with pytest.raises(ValueError, match=r"no constant|cannot hold"):
        graph.with_constants({name or weight.name: data})


def test_a_weight_read_both_ways_round_is_refused() -> None:
    with pytest.raises(ValueError, match="transposed"):
        gemm(1, readers=2).with_constants({"fc.weight": np.zeros((4, 4), np.float32)})
