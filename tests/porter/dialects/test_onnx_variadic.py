# SPDX-License-Identifier: Apache-2.0
"""Max, Min and Sum of any number of operands."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

import porter
from porter.dialects.onnx import OnnxGraph

SHAPES = [(2, 3), (1, 3), (3,), (2, 1), ()]


def model(op: str, shapes: list[tuple[int, ...]], dtype: int = TensorProto.FLOAT) -> ModelProto:
    inputs = [helper.make_tensor_value_info(f"x{i}", dtype, shape) for i, shape in enumerate(shapes)]
    node = helper.make_node(op, [value.name for value in inputs], ["y"], "m")
    entry = node.metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.stack_trace", 'File "net.py", line 7, in forward'
    shape = np.broadcast_shapes(*shapes)
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", dtype, shape)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@settings(max_examples=40, deadline=None)
@given(
    op=st.sampled_from(["Max", "Min", "Sum"]),
    shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_a_chain_of_two_is_bit_equal(op: str, shapes: list[tuple[int, ...]], seed: int) -> None:
    proto = model(op, shapes)
    graph = OnnxGraph.load(proto)
    assert all(not one.kind.startswith("onnx:") for one in graph.ops())
    rng = np.random.default_rng(seed)
    data = [np.asarray(rng.choice([1e8, -1e8, 1.25, 0.1, -0.0, np.nan, np.inf], s), np.float32) for s in shapes]
    run = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = run.run(None, {f"x{i}": x for i, x in enumerate(data)})[0]
    made = onnxruntime.InferenceSession(graph.to_proto().SerializeToString(), providers=["CPUExecutionProvider"])
    got = made.run(None, {f"x{i}": x for i, x in enumerate(data)})[0]
    np.testing.assert_array_equal(got, wanted)


def test_names_and_lines_of_code_stay() -> None:
    proto = model("Max", [(3,), (3,), (3,), (3,)])
    node = proto.graph.node[0]
    node.output[0] = "y"
    proto.graph.node.add().CopyFrom(helper.make_node("Relu", ["x0"], ["y_of_2"]))  # a name that the chain wants
    graph = OnnxGraph.load(proto)
    chain = [op for op in graph.ops() if op.kind == "maximum"]
    assert len(chain) == 3 and chain[-1].outputs[0].name == "y"
    assert all("net.py" in str(op.origin) for op in chain)
    assert len({op.outputs[0].name for op in graph.ops()}) == 4


@pytest.mark.parametrize("op", ["Max", "Sum"])
def test_the_mlu270_gets_it(op: str) -> None:
    made = porter.rewrite(model(op, [(1, 3, 4, 4)] * 4), "mlu270")
    assert made.ok


def test_integers() -> None:
    graph = OnnxGraph.load(model("Min", [(3,)] * 3, TensorProto.INT64))
    assert [op.kind for op in graph.ops()] == ["minimum", "minimum"]
