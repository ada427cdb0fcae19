# SPDX-License-Identifier: Apache-2.0
"""Graph.apply: one op of a graph on other operands; and quantization in graphs of ATen calls."""

import numpy as np
import pytest

import porter
from porter.dialects.onnx import OnnxGraph
from porter.ops import Op, Value
from porter.rewrite import Fragment

torch = pytest.importorskip("torch")


class Mixed(torch.nn.Module):
    """Constants as operands and as attributes, an op with two results, a value that one op reads twice."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 8, 3, padding=1, groups=2)

    def forward(self, x):
        a, b = self.conv(x).split((3, 5), 1)
        y = torch.cat([a * a, torch.sigmoid(b) + 1.5], 1)
        return y.permute(0, 2, 3, 1).reshape(1, -1, 8).clamp(0.25, 0.75)[:, 2:9]


@pytest.fixture(scope="module")
def graphs():
    torch.manual_seed(0)
    fx = porter.load(Mixed().eval(), {"x": (1, 4, 6, 6)})
    return fx, OnnxGraph.from_graph(fx, opset=17)


@pytest.mark.parametrize("which", [0, 1])
def test_every_op_alone_gives_what_the_whole_graph_gives(graphs, which):
    graph = graphs[which]
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype(np.float32)
    names = [out.name for op in graph.ops() for out in op.outputs]
    values = dict(zip(names, graph.run([x], names)[len(graph.outputs) :], strict=True))
    values[graph.inputs[0].name] = x
    for op in graph.ops():
        operands = [None if v is None or v.is_const else values[v.name] for v in op.inputs]
        for _ in range(2):  # the second time from the cache
            for out, got in zip(op.outputs, graph.apply(op, operands), strict=True):
                np.testing.assert_array_equal(got, values[out.name])


@pytest.mark.parametrize("which", [0, 1])
def test_other_shapes_are_taken_where_the_kernel_takes_them(graphs, which):
    graph = graphs[which]
    op = next(op for op in graph.ops() if op.kind == "sigmoid")
    x = np.linspace(-3, 3, 256, dtype=np.float32)
    np.testing.assert_allclose(graph.apply(op, [x])[0], 1 / (1 + np.exp(-x.astype(float))), rtol=1e-6)


@pytest.mark.parametrize("which", [0, 1])
def test_what_is_not_given_and_ops_of_other_graphs_are_refused(graphs, which):
    graph = graphs[which]
    op = next(op for op in graph.ops() if op.kind == "sigmoid")
    with pytest.raises(ValueError, match="neither given nor a constant"):
        graph.apply(op, [None])
    with pytest.raises(ValueError, match="no op of this graph"):
        graphs[1 - which].apply(op, [np.zeros(3, np.float32)])


def test_a_replaced_op_is_applied_anew(graphs):
    graph = graphs[1].copy()
    op = next(op for op in graph.ops() if op.kind == "sigmoid")
    x = np.array([0.0, 2.0], np.float32)
    graph.apply(op, [x])
    new = Op("relu", op.inputs, (Value("new", op.outputs[0].shape, "float32"),), {}, "new")
    graph.replace([(op, Fragment([new], new.outputs))])
    made = next(op for op in graph.ops() if op.kind == "relu")
    np.testing.assert_array_equal(graph.apply(made, [x])[0], x)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("zero", [False, True])
def test_quantization_stays_itself_in_aten_calls(tmp_path, dtype, axis, zero):
    count = () if axis is None else (4,)
    scale = Value.constant("scale", np.full(count, 0.1, np.float32) * np.float32(1.5))
    point = Value.constant("point", np.full(count, 3, dtype)) if zero else None
    graph = porter.load(torch.nn.Sigmoid(), {"x": (2, 4, 3)})
    x = graph.inputs[0]
    q, y = Value("q", x.shape, dtype), Value("y", x.shape, "float32")
    attrs = {"axis": axis}
    ops = [
        Op("quantize", (x, scale, point), (q,), {**attrs, "dtype": dtype}, "q"),
        Op("dequantize", (q, scale, point), (y,), attrs, "y"),
    ]
    graph.replace([(graph.ops()[0], Fragment(ops, (y,)))])
    data = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    want = graph.run([data])[0]
    graph.save(tmp_path / "m.pt2")
    for made in (graph, porter.load(tmp_path / "m.pt2"), OnnxGraph.from_graph(graph, 13)):
        assert [(op.kind, op.attrs["axis"]) for op in made.ops()] == [("quantize", axis), ("dequantize", axis)]
        first, second = made.ops()
        assert first.attrs["dtype"] == dtype
        np.testing.assert_array_equal(first.inputs[1].numpy(), scale.numpy())
        if zero:
            np.testing.assert_array_equal(second.inputs[2].numpy(), point.numpy())
        np.testing.assert_array_equal(made.run([data])[0], want)
