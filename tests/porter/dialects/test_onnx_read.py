# SPDX-License-Identifier: Apache-2.0
"""Reading ONNX files: what is refused, and the shapes that every value gets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from porter.dialects.onnx import OnnxGraph
from porter.errors import PorterError, codes


def text_model(body: str, opset: int = 17, ir: int = 8) -> ModelProto:
    return parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]> {body}')


CHAIN = "agraph (float[1,3,8,8] x) => (float[1,3,8,8] y) { s = Sigmoid(x)  y = Mul(x, s) }"


def fails(code: str, model: Any, inputs: Any = None) -> PorterError:
    with pytest.raises(PorterError) as caught:
        OnnxGraph.load(model, inputs, source="m.onnx")
    assert caught.value.code == code
    assert code in dict(codes())
    return caught.value


# -- files that are not models ---------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    fails("PT501", tmp_path / "none.onnx")


@pytest.mark.parametrize("content", [b"", b"hello world, this is text", b"\x80\x02}q\x00.", bytes(range(256))])
def test_not_a_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    fails("PT503", path)


def test_every_truncation_is_refused_or_whole(tmp_path: Path) -> None:
    """However many bytes are missing: a PorterError, or a graph whose values are all defined."""
    model = text_model("agraph (float[1,4] x) => (float[1,4] y) <float[4] w = {1,2,3,4}> { s = Mul(x, w) y = Relu(s) }")
    data = model.SerializeToString()
    path = tmp_path / "m.onnx"
    refused = 0
    for length in range(len(data)):
        path.write_bytes(data[:length])
        try:
            OnnxGraph.load(path)
        except PorterError as error:
            assert error.code in ("PT502", "PT503", "PT514")
            refused += 1
    assert refused > len(data) // 2


def test_undefined_value_and_cycle_and_double_output() -> None:
    nodes = [helper.make_node("Relu", ["nowhere"], ["y"])]
    x = helper.make_tensor_value_info("x", 1, [2])
    y = helper.make_tensor_value_info("y", 1, [2])
    assert "nowhere" in fails("PT502", helper.make_model(helper.make_graph(nodes, "g", [x], [y]))).message
    cycle = [helper.make_node("Add", ["x", "y"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    assert "cycle" in fails("PT502", helper.make_model(helper.make_graph(cycle, "g", [x], [y]))).message
    twice = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Abs", ["x"], ["y"])]
    fails("PT502", helper.make_model(helper.make_graph(twice, "g", [x], [y])))
    fails("PT502", helper.make_model(helper.make_graph([], "g", [x], [y])))


def test_nodes_out_of_order_are_sorted() -> None:
    nodes = [helper.make_node("Relu", ["z"], ["y"]), helper.make_node("Abs", ["x"], ["z"])]
    infos = [helper.make_tensor_value_info(n, 1, [2]) for n in "xy"]
    graph = OnnxGraph.load(helper.make_model(helper.make_graph(nodes, "g", infos[:1], infos[1:]), ir_version=8))
    assert [op.kind for op in graph.ops()] == ["abs", "relu"]
    np.testing.assert_array_equal(graph.run([np.float32([-1, 2])])[0], [1, 2])


def test_opset_from_the_future() -> None:
    model = text_model(CHAIN)
    model.opset_import[0].version = 999
    assert "999" in fails("PT503", model).message


# -- tensors ---------------------------------------------------------------------------------------


def weight_model(tensor: TensorProto) -> ModelProto:
    x = helper.make_tensor_value_info("x", 1, [4])
    y = helper.make_tensor_value_info("y", 1, [4])
    graph = helper.make_graph([helper.make_node("Add", ["x", tensor.name], ["y"])], "g", [x], [y], [tensor])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize("dims", [[5], [1 << 40], [1 << 40, 1 << 40], [-4]])
def test_declared_more_than_there_is(dims: Sequence[int]) -> None:
    tensor = TensorProto(name="w", data_type=1, dims=dims, raw_data=b"\0" * 16)
    assert "w" in fails("PT514", weight_model(tensor)).message


def test_constant_nodes_and_subgraphs_are_checked_too() -> None:
    tensor = TensorProto(name="w", data_type=1, dims=[1 << 30], raw_data=b"\0" * 16)
    y = helper.make_tensor_value_info("y", 1, [4])
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    fails("PT514", helper.make_model(helper.make_graph([constant], "g", [], [y])))
    inner = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["z"])], "b", [], [helper.make_tensor_value_info("z", 1, [4])], [tensor]
    )
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    c = helper.make_tensor_value_info("c", 9, [])
    fails("PT514", helper.make_model(helper.make_graph([branch], "g", [c], [y])))


def external(location: str, offset: int = 0, length: int = 16, name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def save(path: Path, tensor: TensorProto) -> Path:
    path.write_bytes(weight_model(tensor).SerializeToString())
    return path


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../secret.bin", "sub/../../secret.bin", "C:\\secret.bin", "\\\\host\\x", "..\\x", ""]
)
def test_external_data_elsewhere(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\0" * 16)
    folder = tmp_path / "model"
    folder.mkdir()
    fails("PT513", save(folder / "m.onnx", external(location)))


def test_external_data_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\0" * 16)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    fails("PT513", save(folder / "m.onnx", external("w.bin")))
    (folder / "sub").symlink_to(tmp_path)
    fails("PT513", save(folder / "m.onnx", external("sub/secret.bin")))


@pytest.mark.parametrize(("offset", "length"), [(1, 16), (0, 17), (0, 15), (-4, 16), (1 << 62, 16)])
def test_external_data_of_another_size(tmp_path: Path, offset: int, length: int) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 16)
    fails("PT514", save(tmp_path / "m.onnx", external("w.bin", offset, length)))


def test_external_data_missing(tmp_path: Path) -> None:
    fails("PT501", save(tmp_path / "m.onnx", external("w.bin")))
    fails("PT501", weight_model(external("w.bin")))


def test_external_data_is_read_when_asked(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"junk" + np.float32([1, 2, 3, 4]).tobytes())
    graph = OnnxGraph.load(save(tmp_path / "m.onnx", external("w.bin", 4)))
    weight = graph.ops()[0].inputs[1]
    assert weight is not None and weight.is_const
    np.testing.assert_array_equal(weight.numpy(), [1, 2, 3, 4])
    np.testing.assert_array_equal(graph.run([np.ones(4, "f4")])[0], [2, 3, 4, 5])


# -- inputs ----------------------------------------------------------------------------------------

DYNAMIC = "agraph (float[b,3,h,8] images) => (float[b,3,h,8] y) { y = Relu(images) }"


def test_dynamic_input_needs_a_shape() -> None:
    error = fails("PT507", text_model(DYNAMIC))
    assert "'images'" in error.message and "'b'" in error.message
    assert error.fix == "Add --input images:1x3x640x8"


def test_inputs_are_fixed_by_name_and_position() -> None:
    for key in ("images", 0):
        graph = OnnxGraph.load(text_model(DYNAMIC), {key: ((2, 3, 5, 8), "float32")})
        assert graph.inputs[0].shape == graph.outputs[0].shape == (2, 3, 5, 8)
        assert graph.run([np.ones((2, 3, 5, 8), "f4")])[0].shape == (2, 3, 5, 8)


def test_inputs_that_do_not_fit() -> None:
    model = text_model(DYNAMIC)
    assert "images" in (fails("PT506", model, {"image": ((1, 3, 4, 8), None)}).fix or "")
    fails("PT506", model, {1: ((1, 3, 4, 8), None)})
    fails("PT506", model, {"images": ((1, 3, 4), None)})
    fails("PT506", model, {"images": ((1, 4, 4, 8), None)})
    fails("PT506", model, {"images": ((1, 3, 4, 8), "float16")})
    assert model == text_model(DYNAMIC), "the ModelProto is not changed"


def test_initializers_among_the_inputs_are_constants() -> None:
    model = text_model("agraph (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }", 9, 3)
    graph = OnnxGraph.load(model)
    assert [v.name for v in graph.inputs] == ["x"]
    np.testing.assert_array_equal(graph.run([np.float32([0, 0])])[0], [1, 2])


# -- shapes ----------------------------------------------------------------------------------------


def test_shapes_through_chains_of_shape_arithmetic() -> None:
    """Shape, Gather, Div, Concat, Range, ConstantOfShape, Where, Expand: the shapes of a dynamic torch export."""
    model = text_model(
        """agraph (float[b,4,h,w] x) => (float[n,m] y, float[p,q] z)
        <int64 one = {1}, int64 two = {2}, int64 zero = {0}, int64[1] minus = {-1}, int64[1] ax = {0},
         int64[1] k = {2}> {
          s = Shape(x)
          h0 = Gather <axis=0> (s, two)
          half = Div(h0, two)
          halfv = Unsqueeze(half, ax)
          shape = Concat <axis=0> (halfv, minus)
          r = Reshape(x, shape)
          y = Neg(r)
          grid = Range(zero, h0, one)
          gf = Cast <to=1> (grid)
          gr = Reshape(gf, minus)
          big = Concat <axis=0> (k, halfv)
          ones = ConstantOfShape <value = float[1] {1}> (big)
          eq = Equal(big, minus)
          wh = Where(eq, k, big)
          e = Expand(ones, wh)
          t = Tile(e, wh)
          z = Identity(t)
        }"""
    )
    graph = OnnxGraph.load(model, {"x": ((1, 4, 6, 5), None)})
    assert all(out.shape is not None for op in graph.ops() for out in op.outputs)
    y, z = graph.run([np.zeros((1, 4, 6, 5), "f4")])
    assert graph.outputs[0].shape == y.shape == (3, 40)
    assert graph.outputs[1].shape == z.shape == (4, 9)


def test_shapes_that_depend_on_data_stay_open() -> None:
    graph = OnnxGraph.load(text_model("agraph (float[4] x) => (int64[1,n] y) { i = NonZero(x) y = Abs(i) }"))
    assert [op.outputs[0].shape for op in graph.ops()] == [None, None]
    assert graph.run([np.float32([0, 1, 0, 2])])[0].tolist() == [[1, 3]]


def test_shapes_behind_operators_of_onnxruntime() -> None:
    model = text_model(CHAIN)
    model.opset_import.add(domain="com.microsoft", version=1)
    model.graph.node[0].op_type = "QuickGelu"
    model.graph.node[0].domain = "com.microsoft"
    graph = OnnxGraph.load(model)
    assert [op.outputs[0].shape for op in graph.ops()] == [(1, 3, 8, 8)] * 2
    assert graph.ops()[0].kind == "com.microsoft:QuickGelu"


def test_local_functions_are_inlined() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "my" : 1]>
        agraph (float[3] x) => (float[3] y) { y = my.Swish(x) }
        <domain: "my", opset_import: ["" : 17]>
        Swish (a) => (b) { s = Sigmoid(a) b = Mul(a, s) }"""
    )
    assert [op.kind for op in OnnxGraph.load(model).ops()] == ["sigmoid", "mul"]


def test_large_weights_take_no_part_in_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    infer = onnx.shape_inference.infer_shapes

    def spy(model: ModelProto, *args: Any, **kwargs: Any) -> ModelProto:
        seen.append(model.ByteSize())
        return infer(model, *args, **kwargs)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", spy)
    weight = numpy_helper.from_array(np.zeros((512, 512), "f4"), "w")
    x, y = (helper.make_tensor_value_info(n, 1, [1, 512]) for n in "xy")
    big = helper.make_node("Constant", [], ["c"], value=weight)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), big, helper.make_node("MatMul", ["m", "c"], ["y"])]
    graph = OnnxGraph.load(helper.make_model(helper.make_graph(nodes, "g", [x], [y], [weight]), ir_version=8))
    assert seen and seen[0] < 4096
    assert graph.outputs[0].shape == (1, 512)


def test_loading_is_quick_and_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = "import sys, porter.dialects.onnx; print('torch' in sys.modules, 'onnxruntime' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert out.stdout.split() == ["False", "False"]


def test_an_input_too_small_for_a_kernel() -> None:
    model = text_model(
        """agraph (float[1,3,h,w] x) => (float[1,4,a,b] y)
        <int64[1] s = {0}, int64[1] e = {1}, int64[1] ax = {2}, int64[2] k = {1, -1}> {
          shape = Constant <value_ints = [4,3,5,5]> ()
          weight = ConstantOfShape (shape)
          c = Conv (x, weight)
          y = Slice (c, s, e, ax)
        }"""
    )
    assert OnnxGraph.load(model, {"x": ((1, 3, 8, 8), None)}).outputs[0].shape == (1, 4, 1, 4)
    error = fails("PT506", model, {"x": ((1, 3, 2, 2), None)})
    assert "Conv" in error.message and "[1, 3, 2, 2]" in error.message
