# SPDX-License-Identifier: Apache-2.0
"""The ONNX graph: replacing, copying, evaluating, running, saving, and where nodes come from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from porter.dialects.onnx import OnnxGraph
from porter.dialects.onnx_origin import innermost, module_of_name, module_of_scopes
from porter.errors import PorterError
from porter.ops import Array, Op, Value
from porter.rewrite import Builder, Fragment

Build = Callable[[Builder, Op], Any]


def text_model(body: str, opset: int = 17) -> ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {body}')


class Around:
    def __init__(self, graph: OnnxGraph) -> None:
        self._producers, self._uses = graph.producers(), graph.uses()

    def producer(self, value: Value) -> Op | None:
        return self._producers.get(value.name)

    def uses(self, value: Value) -> int:
        return self._uses.get(value.name, 0)


def replaced(graph: OnnxGraph, kind: str, build: Build, only: str | None = None) -> OnnxGraph:
    """A copy of the graph with every op of a kind rebuilt."""
    work = graph.copy()
    around = Around(work)
    pairs = []
    for op in work.ops():
        if op.kind == kind and (only is None or op.outputs[0].name == only):
            b = Builder(around, op.origin, f"{op.outputs[0].name}_r", "rule")
            results = build(b, op)
            pairs.append((op, Fragment(b.ops, (results,) if isinstance(results, Value) else tuple(results))))
    assert pairs
    work.replace(pairs)
    return work


def same(a: OnnxGraph, b: OnnxGraph, *inputs: Array, atol: float = 1e-6) -> None:
    assert [v.name for v in a.outputs] == [v.name for v in b.outputs]
    for x, y in zip(a.run(inputs), b.run(inputs), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        np.testing.assert_allclose(x, y, atol=atol)


X = np.linspace(-2, 2, 24, dtype="f4").reshape(1, 4, 6)
NET = """agraph (float[1,4,6] x) => (float[1,4,6] y, float[1,4,6] z) <float[1] two = {2}> {
  [first] a = Sigmoid(x)
  b = Mul(a, x)
  c = Mul(b, two)
  y = Tanh(c)
  z = Add(c, a)
}"""


def test_names_and_untouched_nodes_stay() -> None:
    graph = OnnxGraph.load(text_model(NET))
    work = replaced(graph, "tanh", lambda b, op: b.div(b.sub(b.exp(b.mul(op.inputs[0], 2.0)), 1.0),
                                                       b.add(b.exp(b.mul(op.inputs[0], 2.0)), 1.0)))  # fmt: skip
    same(graph, work, X)
    before = {n.output[0]: n.SerializeToString() for n in text_model(NET).graph.node}
    after = {n.proto.output[0]: n.proto.SerializeToString() for n in work._model.nodes}
    assert {k: after[k] for k in "abcz"} == {k: before[k] for k in "abcz"}
    assert after["y"] != before["y"]
    assert [op.kind for op in graph.ops()] == ["sigmoid", "mul", "mul", "tanh", "add"], "the original is as it was"


def test_a_result_that_the_graph_has_already() -> None:
    """Readers are rewired; a graph output keeps its name through an Identity."""
    graph = OnnxGraph.load(text_model(NET))
    inner = replaced(graph, "mul", lambda b, op: op.inputs[0], "c")
    assert [list(n.ins) for n in inner._model.nodes if n.outs[0] in "yz"] == [["b"], ["b", "a"]]
    assert "two" not in inner._model.tensors and "c" not in inner.producers()
    outer = replaced(graph, "tanh", lambda b, op: op.inputs[0])
    assert [op.kind for op in outer.ops()][-1] in ("identity", "add")
    np.testing.assert_array_equal(outer.run([X])[0], outer.run([X], ["c"])[-1])
    whole = replaced(graph, "tanh", lambda b, op: graph.inputs[0])
    np.testing.assert_array_equal(whole.run([X])[0], X)


def test_chains_of_rewiring_in_one_pass() -> None:
    body = "agraph (float[2] x) => (float[2] y) { a = Identity(x) b = Identity(a) c = Identity(b) y = Relu(c) }"
    work = replaced(OnnxGraph.load(text_model(body)), "identity", lambda b, op: op.inputs[0])
    assert [(op.kind, op.inputs[0].name) for op in work.ops() if op.inputs[0]] == [("relu", "x")]


def test_a_result_that_is_a_constant() -> None:
    graph = OnnxGraph.load(text_model(NET))
    ones = np.ones((1, 4, 6), "f4")
    work = replaced(graph, "sigmoid", lambda b, op: b.const(ones))
    assert "a" in work._model.tensors, "the constant takes the name of the value"
    reader = next(op for op in work.ops() if op.outputs[0].name == "b")
    assert reader.inputs[0] is not None and reader.inputs[0].is_const
    np.testing.assert_allclose(work.run([X])[0], np.tanh(2 * X), atol=1e-6)
    both = replaced(graph, "add", lambda b, op: b.const(ones))
    np.testing.assert_array_equal(both.run([X])[1], ones)
    assert [v.name for v in both.outputs] == ["y", "z"]


def test_a_constant_makes_an_attribute_static() -> None:
    body = """agraph (float[2,6] x, int64[1] s) => (float[2,n] y) <int64[1] e = {4}, int64[1] a = {1}> {
      t = Abs(s) y = Slice(x, t, e, a) }"""
    graph = OnnxGraph.load(text_model(body))
    assert [op.kind for op in graph.ops()] == ["abs", "dynamic_slice"]
    work = replaced(graph, "abs", lambda b, op: b.const(np.int64([1])))
    (op,) = work.ops()
    assert op.kind == "dynamic_slice" or op.attrs["starts"] == (1,)
    assert work.run([np.arange(12, dtype="f4").reshape(2, 6), np.int64([3])])[0].tolist() == [[1, 2, 3], [7, 8, 9]]


def test_equal_small_constants_are_shared() -> None:
    body = "agraph (float[2] x) => (float[2] y) { a = Relu(x) b = Relu(a) y = Relu(b) }"
    work = replaced(OnnxGraph.load(text_model(body)), "relu", lambda b, op: b.mul(op.inputs[0], 3.0))
    assert len(work._model.tensors) == 1


def test_names_are_never_taken_twice() -> None:
    body = "agraph (float[2] x) => (float[2] y) { y_r_0 = Relu(x) y_r_c1 = Abs(y_r_0) y = Neg(y_r_c1) }"
    graph = OnnxGraph.load(text_model(body))
    work = replaced(graph, "neg", lambda b, op: b.mul(b.sub(op.inputs[0], b.const(np.arange(2.0, dtype="f4"))), -1.0))
    names = [o for n in work._model.nodes for o in n.outs] + list(work._model.tensors)
    assert len(names) == len(set(names))
    np.testing.assert_array_equal(work.run([np.float32([1, 5])])[0], [-1, -4])


def test_several_outputs() -> None:
    body = (
        """agraph (float[2,6] x) => (float[2,2] p, float[2,4] q) <int64[2] s = {2, 4}> { p, q = Split<axis=1>(x, s) }"""
    )
    graph = OnnxGraph.load(text_model(body))
    cut = {"axes": (1,), "steps": (1,)}
    work = replaced(graph, "split", lambda b, op: (b.slice(op.inputs[0], starts=(0,), ends=(2,), **cut),
                                                   b.slice(op.inputs[0], starts=(2,), ends=(6,), **cut)))  # fmt: skip
    same(graph, work, np.arange(12, dtype="f4").reshape(2, 6))
    swapped = replaced(graph, "split", lambda b, op: (lambda v: (v, b.cat(v, v, axis=1)))(
        b.slice(op.inputs[0], starts=(0,), ends=(2,), **cut)))  # fmt: skip
    assert [v.shape for v in swapped.run([np.zeros((2, 6), "f4")])] == [(2, 2), (2, 4)]


def test_sub_graphs_read_outer_values() -> None:
    body = """agraph (bool c, float[2] x) => (float[2] y) {
      a = Relu(x)
      b = Identity(a)
      d = Abs(x)
      y = If (c) <then_branch = t () => (float[2] u) { u = Add(b, d) },
                  else_branch = e () => (float[2] v) { v = Neg(b) }>
    }"""
    graph = OnnxGraph.load(text_model(body))
    assert graph.uses()["b"] == 1 and graph.uses()["d"] == 1
    branch = graph.ops()[-1]
    assert branch.kind == "if" and {v.name for v in branch.operands} == {"c", "b", "d"}
    work = replaced(graph, "identity", lambda b, op: op.inputs[0])
    assert [op.kind for op in work.ops()] == ["relu", "abs", "if"]
    work = replaced(work, "abs", lambda b, op: b.maximum(op.inputs[0], b.neg(op.inputs[0])))
    for c in (True, False):
        same(graph, work, np.array(c), np.float32([-1, 3]))


def test_an_inner_name_hides_the_outer_one() -> None:
    inner = parser.parse_graph("t () => (float[2] u) { q = Neg(x)  u = Relu(q) }")
    other = parser.parse_graph("e () => (float[2] v) { v = Relu(b) }")
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other)
    x, y = (helper.make_tensor_value_info(n, 1, [2]) for n in "xy")
    c = helper.make_tensor_value_info("c", 9, [])
    nodes = [helper.make_node("Identity", ["x"], ["b"]), node]
    graph = OnnxGraph.load(helper.make_model(helper.make_graph(nodes, "g", [c, x], [y]), ir_version=8))
    work = replaced(graph, "identity", lambda b, op: op.inputs[0])
    assert len(work.ops()) == 1
    same(graph, work, np.array(False), np.float32([-1, 3]))
    same(graph, work, np.array(True), np.float32([-1, 3]))


def test_what_cannot_be_replaced_changes_nothing() -> None:
    graph = OnnxGraph.load(text_model(NET, 7))
    kinds = [op.kind for op in graph.ops()]
    with pytest.raises(PorterError) as error:
        replaced(graph, "tanh", lambda b, op: b.where(b.gt(op.inputs[0], 0.0), op.inputs[0], op.inputs[0]))
    assert error.value.code == "PT352"
    with pytest.raises(PorterError) as error:
        replaced(graph, "tanh", lambda b, op: b.random(shape=(1, 4, 6), dtype="float32"))
    assert error.value.code == "PT351"
    with pytest.raises(ValueError, match="not a value"):
        graph.replace([(graph.ops()[0], Fragment([], (Value("elsewhere", (1, 4, 6), "float32"),)))])
    with pytest.raises(ValueError, match="not computed"):
        graph.replace([(Op("relu", (), (Value("nothing"),)), Fragment([], ()))])
    assert [op.kind for op in graph.ops()] == kinds
    graph.run([X])


def test_dead_nodes_and_weights_go() -> None:
    body = """agraph (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] u = {3, 4}> {
      d = Add(x, u) e = Mul(x, w) y = Relu(x) }"""
    work = replaced(OnnxGraph.load(text_model(body)), "relu", lambda b, op: b.maximum(op.inputs[0], 0.0))
    assert [op.kind for op in work.ops()] == ["maximum"]
    assert not {"w", "u"} & set(work._model.tensors)


def test_many_replacements_take_one_pass() -> None:
    """30,000 nodes, every one of them replaced: quadratic work would not end within the test's timeout."""
    nodes, last = [], "x"
    for i in range(15000):
        nodes += [helper.make_node("Sigmoid", [last], [f"s{i}"]), helper.make_node("Mul", [last, f"s{i}"], [f"y{i}"])]
        last = f"y{i}"
    infos = [helper.make_tensor_value_info(n, 1, [1, 8, 4, 4]) for n in ("x", last)]
    data = helper.make_model(helper.make_graph(nodes, "g", infos[:1], infos[1:]), ir_version=8)
    graph = OnnxGraph.load(data)
    ops = graph.ops()
    around = Around(graph)
    pairs = []
    for op in ops:
        if op.kind == "mul":
            b = Builder(around, op.origin, f"{op.outputs[0].name}_r", "rule")
            pairs.append((op, Fragment(b.ops, (b.mul(op.inputs[1], op.inputs[0]),))))
        else:
            b = Builder(around, op.origin, f"{op.outputs[0].name}_r", "rule")
            pairs.append((op, Fragment(b.ops, (b.reciprocal(b.add(b.exp(b.neg(op.inputs[0])), 1.0)),))))
    graph.replace(pairs)
    assert len(graph.ops()) == 75000


# -- running and evaluating ------------------------------------------------------------------------


def test_taps_are_the_values_of_the_graph() -> None:
    graph = OnnxGraph.load(text_model(NET))
    y, z, a, x, two, again = graph.run({"x": X}, ["a", "x", "two", "y"])
    np.testing.assert_allclose(a, 1 / (1 + np.exp(-X)), atol=1e-6)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(two, [2])
    np.testing.assert_array_equal(again, y)
    np.testing.assert_allclose(z, 2 * X * a + a, atol=1e-5)


@pytest.mark.parametrize(
    "inputs",
    [[], [X, X], {"y": X}, {}, [X.astype("f8")], [X[:, :3]], [X.astype("i4")]],
)
def test_inputs_are_checked(inputs: Any) -> None:
    graph = OnnxGraph.load(text_model(NET))
    with pytest.raises(PorterError) as error:
        graph.run(inputs)
    assert error.value.code == "PT506"


def test_a_tap_that_is_not_there() -> None:
    with pytest.raises(PorterError) as error:
        OnnxGraph.load(text_model(NET)).run([X], ["nothing"])
    assert error.value.code == "PT506"


def test_what_onnxruntime_refuses() -> None:
    model = text_model(NET)
    model.opset_import.add(domain="nobody", version=1)
    model.graph.node[0].domain = "nobody"
    graph = OnnxGraph.load(model)
    assert graph.ops()[0].kind == "nobody:Sigmoid"
    with pytest.raises(PorterError) as error:
        graph.run([X])
    assert error.value.code == "PT353"


GRIDS = """agraph (float[1,4,6] x, float[2] data) => (float[1,4,6] y)
<int64 zero = {0}, int64 one = {1}, float half = {0.5}> {
  s = Shape(x)
  h = Gather(s, one)
  r = Range(zero, h, one)
  f = Cast<to=1>(r)
  g = Mul(f, half)
  e = EyeLike<dtype=1>(m)
  m = ConstantOfShape(k)
  k = Slice(s, ax, top)
  ax = Constant<value_ints=[0]>()
  top = Constant<value_ints=[2]>()
  late = Neg(data)
  fails = Gather(g, big)
  big = Constant<value_int=99>()
  random = RandomNormal<shape=[2]>()
  wide = Expand(half, size)
  size = Constant<value_ints=[1000, 1000]>()
  y = Relu(x)
}"""


def test_evaluate() -> None:
    graph = OnnxGraph.load(text_model(GRIDS))
    types = graph._model.types
    names = ["s", "h", "g", "e", "late", "fails", "random", "wide", "top", "y"]
    found = graph.evaluate([Value(n, types[n][0], types[n][1]) for n in names], 1 << 16)
    assert set(found) == {"s", "h", "g", "e", "top"}
    assert found["s"].tolist() == [1, 4, 6] and found["h"].tolist() == 4
    np.testing.assert_array_equal(found["g"], [0, 0.5, 1, 1.5])
    np.testing.assert_array_equal(found["e"], np.eye(1, 4))
    assert graph.evaluate([Value("wide", (1000, 1000), "float32")], 1 << 23)["wide"].shape == (1000, 1000)


def test_evaluate_does_not_copy_large_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    import porter.dialects.onnx_evaluate as module

    sizes = []
    session = module.Session

    def spy(proto: ModelProto, *args: Any, **options: Any) -> Any:
        sizes.append(proto.ByteSize())
        return session(proto, *args, **options)

    monkeypatch.setattr(module, "Session", spy)
    weight = numpy_helper.from_array(np.ones((1024, 1024), "f4"), "w")
    x, y = (helper.make_tensor_value_info(n, 1, [1024, 1024]) for n in "xy")
    nodes = [helper.make_node("ReduceSum", ["w"], ["t"]), helper.make_node("Add", ["x", "t"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [weight]), ir_version=8)
    found = OnnxGraph.load(model).evaluate([Value("t", (1, 1), "float32")], 1024)
    assert found["t"].tolist() == [[1024 * 1024]] and sizes[0] < 4096


# -- saving ----------------------------------------------------------------------------------------


def test_save_keeps_the_model_and_the_ledger(tmp_path: Path) -> None:
    model = text_model(NET)
    model.metadata_props.add(key="author", value="me")
    model.producer_name = "somebody"
    before = model.SerializeToString()
    graph = OnnxGraph.load(model)
    work = replaced(graph, "tanh", lambda b, op: b.neg(b.tanh(b.neg(op.inputs[0]))))
    work.save(tmp_path / "o.onnx", {"entries": [1], "é": "ü"})
    assert model.SerializeToString() == before
    saved = onnx.load(tmp_path / "o.onnx")
    onnx.checker.check_model(saved, full_check=True)
    metadata = {p.key: p.value for p in saved.metadata_props}
    assert metadata["author"] == "me" and saved.producer_name == "somebody"
    assert json.loads(metadata["porter.ledger"]) == {"entries": [1], "é": "ü"}
    assert OnnxGraph.load(tmp_path / "o.onnx").ledger == {"entries": [1], "é": "ü"}
    work.save(tmp_path / "p.onnx", {"entries": [2]})
    assert [p.key for p in onnx.load(tmp_path / "p.onnx").metadata_props].count("porter.ledger") == 1
    same(graph, OnnxGraph.load(tmp_path / "o.onnx"), X)


def test_origins_survive_a_round_trip(tmp_path: Path) -> None:
    graph = OnnxGraph.load(text_model(NET))
    work = replaced(graph, "tanh", lambda b, op: b.neg(b.tanh(b.neg(op.inputs[0]))))
    work.save(tmp_path / "o.onnx")
    again = OnnxGraph.load(tmp_path / "o.onnx")
    origins = {op.outputs[0].name: op.origin for op in again.ops()}
    assert origins == {op.outputs[0].name: op.origin for op in work.ops()}
    assert origins["y"].rules == ("rule",) and origins["y"].source == ("y",)
    assert origins["a"].source == ("first",) and all(o.known for o in origins.values())
    for node in onnx.load(tmp_path / "o.onnx").graph.node:
        assert [p.key for p in node.metadata_props].count("porter.origin") == 1
    again.save(tmp_path / "p.onnx")
    assert {op.outputs[0].name: op.origin for op in OnnxGraph.load(tmp_path / "p.onnx").ops()} == origins


def external_model(folder: Path, names: tuple[str, ...] = ("w.bin", "sub/u.bin")) -> Path:
    tensors = []
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(np.full(6, i + 1, "f4").tobytes())
        tensor = TensorProto(name=f"w{i}", data_type=1, dims=[6], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=name)
        tensors.append(tensor)
    x, y = (helper.make_tensor_value_info(n, 1, [1, 4, 6]) for n in "xy")
    nodes = [helper.make_node("Add", ["x", "w0"], ["a"]), helper.make_node("Mul", ["a", "w1"], ["b"])]
    nodes.append(helper.make_node("Relu", ["b"], ["y"]))
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], tensors), ir_version=8)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def test_external_weights_stay_external(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = external_model(tmp_path / "in")
    graph = OnnxGraph.load(source)
    work = replaced(graph, "relu", lambda b, op: b.maximum(op.inputs[0], 0.0))
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(np, "memmap", None)  # saving reads no weights
    work.save(out / "n.onnx")
    monkeypatch.undo()
    assert {p.name for p in out.iterdir()} == {"n.onnx", "n.onnx.data", "n.onnx.data1"}
    same(graph, OnnxGraph.load(out / "n.onnx"), X)
    assert (out / "n.onnx").stat().st_size < 4096


def test_saving_beside_the_original(tmp_path: Path) -> None:
    source = external_model(tmp_path, ("m.onnx.data", "u.bin"))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    graph = OnnxGraph.load(source)
    graph.save(tmp_path / "n.onnx")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name in before} == before
    same(graph, OnnxGraph.load(tmp_path / "n.onnx"), X)


def test_weights_too_large_for_protobuf_are_written_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import porter.dialects.onnx_save as module

    monkeypatch.setattr(module, "_INSIDE", 1000)
    weight = numpy_helper.from_array(np.arange(1024, dtype="f4").reshape(4, 256), "w")
    small = numpy_helper.from_array(np.ones(4, "f4"), "u")
    x, y = helper.make_tensor_value_info("x", 1, [1, 4]), helper.make_tensor_value_info("y", 1, [1, 256])
    nodes = [helper.make_node("Add", ["x", "u"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    graph = OnnxGraph.load(helper.make_model(helper.make_graph(nodes, "g", [x], [y], [weight, small]), ir_version=8))
    graph.save(tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").stat().st_size == 4096
    saved = OnnxGraph.load(tmp_path / "m.onnx")
    x4 = np.ones((1, 4), "f4")
    same(graph, saved, x4)


def test_run_with_weights_too_large_for_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    import porter.dialects.onnx_save as module

    weight = numpy_helper.from_array(np.arange(1024, dtype="f4").reshape(4, 256), "w")
    x, y = helper.make_tensor_value_info("x", 1, [1, 4]), helper.make_tensor_value_info("y", 1, [1, 256])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", [x], [y], [weight]), ir_version=8)
    want = OnnxGraph.load(model).run([np.ones((1, 4), "f4")])[0]
    monkeypatch.setattr(module, "_INSIDE", 1000)
    monkeypatch.setattr(module, "LARGE", 1000)
    np.testing.assert_array_equal(OnnxGraph.load(model).run([np.ones((1, 4), "f4")])[0], want)


# -- origins ---------------------------------------------------------------------------------------


def test_origin_from_the_new_exporter() -> None:
    node = helper.make_node("Conv", ["x"], ["y"], name="node_conv2d")
    trace = (
        'File "/home/me/yolo.py", line 15, in forward\n    y = self.stem(x)\n  File "/home/me/blocks.py", line 8, in '
        'forward\n    return self.conv(x)\n  File "/v/site-packages/torch/nn/modules/conv.py", line 565, in '
        "forward\n    return self._conv_forward(input, self.weight, self.bias)"
    )
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=trace)
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'stem', 'stem.conv', 'conv2d']")
    graph = graph_of(node)
    origin = graph.ops()[0].origin
    assert (origin.file, origin.line, origin.function) == ("/home/me/blocks.py", 8, "forward")
    assert (origin.module, origin.source) == ("stem.conv", ("node_conv2d",))


def graph_of(node: onnx.NodeProto) -> OnnxGraph:
    x, y = (helper.make_tensor_value_info(n, 1, [1, 3]) for n in "xy")
    return OnnxGraph.load(helper.make_model(helper.make_graph([node], "g", [x], [y]), ir_version=8))


def test_origin_from_the_old_exporter() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], name="/head/stems.0/act/Relu_2")
    node.doc_string = (
        "/v/lib/python3.8/site-packages/torch/nn/functional.py(1457): relu\n"
        "/home/me/blocks.py(51): forward\n/v/site-packages/torch/nn/modules/module.py(1182): _slow_forward\n"
        "/home/me/yolo.py(9): forward"
    )
    origin = graph_of(node).ops()[0].origin
    assert (origin.file, origin.line, origin.function) == ("/home/me/blocks.py", 51, "forward")
    assert origin.module == "head.stems.0.act"


@pytest.mark.parametrize(
    ("name", "op", "module"),
    [
        ("/head/Slice_1", "Slice", "head"),
        ("/stems.0/conv/Conv", "Conv", "stems.0.conv"),
        ("/backbone/dark2/dark2.0/conv/Conv", "Conv", "backbone.dark2.0.conv"),
        ("/Slice", "Slice", None),
        ("Slice_12", "Slice", None),
        ("model/conv1/Conv2D", "Conv", "model.conv1"),
    ],
)
def test_module_in_a_hierarchical_name(name: str, op: str, module: str | None) -> None:
    assert module_of_name(name, op) == module


def test_traces_that_are_odd() -> None:
    assert innermost("") is None
    assert innermost("# /home/me/net.py:12:0") == ("/home/me/net.py", 12, None)
    assert innermost('File "/x/site-packages/torch/nn/f.py", line 3, in f') == (
        "/x/site-packages/torch/nn/f.py",
        3,
        "f",
    )
    assert innermost('File "/home/me/torch_models/net.py", line 3, in f') == ("/home/me/torch_models/net.py", 3, "f")
    assert module_of_scopes("not a list") is None
    assert module_of_scopes("['', 'relu']") is None


def test_porters_record_that_is_damaged_is_not_believed() -> None:
    for text in ("{", "[]", '{"line": "x", "source": 3, "file": null}'):
        node = helper.make_node("Relu", ["x"], ["y"], name="/act/Relu")
        node.metadata_props.add(key="porter.origin", value=text)
        graph_of(node).ops()


def test_scalars_stay_scalars() -> None:
    graph = OnnxGraph.load(text_model("agraph (float x, int64 n) => (float y, int64 m) { y = Relu(x) m = Abs(n) }"))
    y, m = graph.run([np.float32(2), np.int64(-3)])
    assert (y.shape, y.item(), m.shape, m.item()) == ((), 2, (), 3)
