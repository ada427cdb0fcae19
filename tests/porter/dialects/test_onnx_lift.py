# SPDX-License-Identifier: Apache-2.0
"""What ONNX nodes mean, across the opsets that changed them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ValueInfoProto, helper, numpy_helper

from porter.dialects.onnx import OnnxGraph
from porter.dialects.onnx_lift_index import assigned_box
from porter.ops import Array, Op


def node_graph(
    op: str,
    operands: list[Any],
    opset: int,
    outputs: int = 1,
    domain: str = "",
    **attrs: Any,
) -> OnnxGraph:
    """A graph of one node. An operand is a shape (a float input), an array (an initializer), or None."""
    names, inputs, weights = [], [], []
    for i, operand in enumerate(operands):
        name = f"v{i}"
        if operand is None:
            name = ""
        elif isinstance(operand, tuple) and operand and isinstance(operand[0], str):
            dtype = {"int64": 7, "bool": 9, "int8": 3, "float16": 10, "int32": 6}[operand[0]]
            inputs.append(helper.make_tensor_value_info(name, dtype, operand[1]))
        elif isinstance(operand, tuple):
            inputs.append(helper.make_tensor_value_info(name, 1, operand))
        else:
            weights.append(numpy_helper.from_array(np.asarray(operand), name))
        names.append(name)
    outs = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, outs, domain=domain, **attrs)
    infos = [ValueInfoProto(name=o) for o in outs]
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    graph = helper.make_graph([node], "g", inputs, infos, weights)
    return OnnxGraph.load(helper.make_model(graph, opset_imports=imports, ir_version=8))


def lifted(op: str, operands: list[Any], opset: int = 17, outputs: int = 1, **attrs: Any) -> Op:
    return node_graph(op, operands, opset, outputs, **attrs).ops()[0]


I = np.int64  # noqa: E741
F = np.float32

SAME_PADS = {"stride": (2, 2), "dilation": (1, 1), "groups": 1}
POOL = {"kernel": (2, 2), "stride": (2, 2), "dilation": (1, 1), "ceil_mode": False}

MEANINGS: list[tuple[str, list[Any], int, dict[str, Any], str, dict[str, Any]]] = [
    ("GlobalMaxPool", [(1, 3, 4, 5)], 17, {}, "adaptive_max_pool2d", {"output_size": (1, 1)}),
    ("GlobalMaxPool", [(1, 3, 5)], 17, {}, "amax", {"axes": (2,), "keepdim": True}),
    # attributes that became operands
    (
        "Slice",
        [(4, 6)],
        9,
        {"starts": [1, -3], "ends": [9, 99]},
        "slice",
        {"axes": (0, 1), "starts": (1, 3), "ends": (4, 6), "steps": (1, 1)},
    ),
    (
        "Slice",
        [(4, 6), I([5]), I([-99]), I([-1]), I([-2])],
        13,
        {},
        "slice",
        {"axes": (1,), "starts": (5,), "ends": (-1,), "steps": (-2,)},
    ),
    (
        "Slice",
        [(4, 6), I([3, 2]), I([1, 1])],
        10,
        {},
        "slice",
        {"axes": (0, 1), "starts": (3, 2), "ends": (3, 2), "steps": (1, 1)},
    ),
    ("Slice", [(4, 6), ("int64", (1,)), I([1])], 10, {}, "dynamic_slice", {}),
    ("Squeeze", [(1, 3, 1)], 11, {"axes": [-1]}, "squeeze", {"axes": (2,)}),
    ("Squeeze", [(1, 3, 1), I([0])], 13, {}, "squeeze", {"axes": (0,)}),
    ("Squeeze", [(1, 3, 1)], 13, {}, "squeeze", {"axes": (0, 2)}),
    ("Unsqueeze", [(3, 4)], 11, {"axes": [0, 3]}, "unsqueeze", {"axes": (0, 3)}),
    ("Unsqueeze", [(3, 4), I([-1])], 13, {}, "unsqueeze", {"axes": (2,)}),
    ("Clip", [(3,)], 6, {"min": 0.0, "max": 6.0}, "clamp", {"min": 0.0, "max": 6.0}),
    ("Clip", [(3,)], 6, {"max": 6.0}, "clamp", {"min": None, "max": 6.0}),
    ("Clip", [(3,), None, F(0.1)], 11, {}, "clamp", {"min": None, "max": 0.1}),
    ("Clip", [(3,), (), None], 11, {}, "dynamic_clamp", {}),
    (
        "Pad",
        [(2, 3)],
        2,
        {"pads": [0, 1, 0, 2], "value": 1.5},
        "pad",
        {"padding": ((0, 0), (1, 2)), "mode": "constant", "value": 1.5},
    ),
    (
        "Pad",
        [(2, 3), I([0, 1, 0, 2])],
        11,
        {"mode": "edge"},
        "pad",
        {"padding": ((0, 0), (1, 2)), "mode": "replicate", "value": 0.0},
    ),
    (
        "Pad",
        [(2, 3), I([1, 2]), None, I([-1])],
        18,
        {"mode": "reflect"},
        "pad",
        {"padding": ((0, 0), (1, 2)), "mode": "reflect", "value": 0.0},
    ),
    ("Pad", [(2, 3), ("int64", (4,))], 11, {}, "dynamic_pad", {"mode": "constant"}),
    ("ReduceMean", [(2, 3, 4)], 11, {"axes": [-1], "keepdims": 0}, "mean", {"axes": (2,), "keepdim": False}),
    ("ReduceMean", [(2, 3, 4), I([1])], 18, {}, "mean", {"axes": (1,), "keepdim": True}),
    ("ReduceMean", [(2, 3, 4)], 18, {}, "mean", {"axes": (0, 1, 2), "keepdim": True}),
    ("ReduceMean", [(2, 3, 4)], 18, {"noop_with_empty_axes": 1}, "identity", {}),
    ("ReduceMean", [(2, 3), ("int64", (1,))], 18, {}, "dynamic_mean", {"keepdim": True}),
    ("ReduceSum", [(2, 3), I([0])], 13, {}, "sum", {"axes": (0,), "keepdim": True}),
    ("ReduceL2", [(2, 3)], 13, {"axes": [1]}, "norm", {"p": 2.0, "axes": (1,), "keepdim": True}),
    ("ReduceMax", [("bool", (2, 3)), I([1])], 20, {}, "any", {"axes": (1,), "keepdim": True}),
    ("ReduceMean", [("int64", (2, 3))], 13, {}, "onnx:ReduceMean", {}),
    ("TopK", [(2, 9)], 9, {"k": 3}, "onnx:TopK", {}),  # one output is missing
    ("Dropout", [(3,)], 7, {}, "identity", {}),
    ("Dropout", [(3,), None, np.bool_(True)], 12, {}, "onnx:Dropout", {}),
    # softmax before opset 13 runs over all axes from `axis` on
    ("Softmax", [(2, 3)], 11, {}, "softmax", {"axis": 1}),
    ("Softmax", [(2, 3, 4)], 11, {}, "onnx:Softmax", {}),
    ("Softmax", [(2, 3, 4)], 11, {"axis": 2}, "softmax", {"axis": 2}),
    ("Softmax", [(2, 3, 1, 1)], 11, {"axis": 1}, "softmax", {"axis": 1}),
    ("Softmax", [(2, 3, 4)], 13, {}, "softmax", {"axis": 2}),
    ("LogSoftmax", [(2, 3, 4)], 13, {"axis": 1}, "log_softmax", {"axis": 1}),
    # linear algebra
    ("Gemm", [(2, 3), np.zeros((4, 3), "f4"), np.zeros(4, "f4")], 13, {"transB": 1}, "linear", {}),
    ("Gemm", [(2, 3), np.zeros((3, 4), "f4"), np.zeros(4, "f4")], 13, {}, "linear", {}),
    ("Gemm", [(2, 3), np.zeros((4, 3), "f4")], 13, {"transB": 1}, "linear", {}),
    (
        "Gemm",
        [(2, 3), np.zeros((4, 3), "f4"), np.zeros(4, "f4")],
        13,
        {"transB": 1, "alpha": 0.5},
        "gemm",
        {"alpha": 0.5, "beta": 1.0, "trans_a": False, "trans_b": True},
    ),
    (
        "Gemm",
        [(2, 3), (4, 3), (4,)],
        13,
        {"transB": 1},
        "gemm",
        {"alpha": 1.0, "beta": 1.0, "trans_a": False, "trans_b": True},
    ),
    ("Gemm", [(2, 3), np.zeros((4, 3), "f4"), np.zeros((1, 4), "f4")], 13, {"transB": 1}, "gemm", {}),
    ("Add", [(2, 3), (3,)], 6, {"broadcast": 1}, "onnx:Add", {"broadcast": 1}),
    ("Div", [("int64", (3,)), ("int64", (3,))], 14, {}, "trunc_divide", {}),
    ("Mod", [("int64", (3,)), ("int64", (3,))], 13, {}, "remainder", {}),
    ("Mod", [(3,), (3,)], 13, {"fmod": 1}, "fmod", {}),
    ("Pow", [("int64", (3,)), (3,)], 13, {}, "onnx:Pow", {}),
    ("Max", [(3,), (3,)], 13, {}, "maximum", {}),
    ("Max", [(3,)], 13, {}, "identity", {}),
    ("Mean", [(3,), (3,), (3,)], 13, {}, "onnx:Mean", {}),
    ("PRelu", [(1, 4, 2, 2), np.zeros((4, 1, 1), "f4")], 16, {}, "prelu", {}),
    ("PRelu", [(1, 4, 2, 4), np.zeros((4,), "f4")], 16, {}, "onnx:PRelu", {}),
    ("Cast", [(3,)], 13, {"to": 7}, "cast", {"dtype": "int64"}),
    ("Cast", [(3,)], 13, {"to": 1}, "identity", {}),
    ("Swish", [(3,)], 24, {}, "silu", {}),
    ("Swish", [(3,)], 24, {"alpha": 2.0}, "onnx:Swish", {"alpha": 2.0}),
    ("Selu", [(3,)], 17, {}, "selu", {}),
    ("Selu", [(3,)], 17, {"alpha": 2.0}, "onnx:Selu", {}),
    # convolutions and pools
    (
        "Conv",
        [(1, 3, 5, 8), np.zeros((4, 3, 3, 3), "f4")],
        11,
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        "conv2d",
        {**SAME_PADS, "padding": ((1, 1), (0, 1))},
    ),
    (
        "Conv",
        [(1, 3, 5, 8), np.zeros((4, 3, 3, 3), "f4")],
        11,
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        "conv2d",
        {**SAME_PADS, "padding": ((1, 1), (1, 0))},
    ),
    (
        "Conv",
        [(1, 3, 9), np.zeros((4, 3, 3), "f4")],
        11,
        {"pads": [1, 2]},
        "conv1d",
        {"stride": (1,), "padding": ((1, 2),), "dilation": (1,), "groups": 1},
    ),
    (
        "ConvTranspose",
        [(1, 3, 4, 4), np.zeros((3, 2, 3, 3), "f4")],
        11,
        {"strides": [2, 2], "output_shape": [8, 8]},
        "conv_transpose2d",
        {**SAME_PADS, "padding": ((1, 0), (1, 0)), "output_padding": (0, 0)},
    ),
    (
        "ConvTranspose",
        [(1, 3, 4, 4), np.zeros((3, 2, 3, 3), "f4")],
        11,
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        "conv_transpose2d",
        {**SAME_PADS, "padding": ((0, 1), (0, 1)), "output_padding": (0, 0)},
    ),
    (
        "MaxPool",
        [(1, 3, 5, 8)],
        11,
        {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        "max_pool2d",
        {**POOL, "padding": ((0, 1), (0, 0))},
    ),
    (
        "MaxPool",
        [(1, 3, 5, 8)],
        12,
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
        "max_pool2d",
        {**POOL, "padding": ((0, 0), (0, 0)), "ceil_mode": True},
    ),
    (
        "AveragePool",
        [(1, 3, 8, 8)],
        11,
        {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0], "count_include_pad": 1},
        "avg_pool2d",
        {"kernel": (2, 2), "stride": (1, 1), "padding": ((1, 0), (1, 0)), "count_include_pad": True},
    ),
    ("GlobalAveragePool", [(1, 3, 8, 8)], 11, {}, "adaptive_avg_pool2d", {"output_size": (1, 1)}),
    ("GlobalAveragePool", [(1, 3, 8)], 11, {}, "adaptive_avg_pool1d", {"output_size": (1,)}),
    # indexing
    ("Gather", [(2, 5), I(-1)], 13, {"axis": 1}, "select", {"axis": 1, "index": 4}),
    ("Gather", [(2, 5), I([0, -1])], 13, {"axis": -1}, "index_select", {"axis": 1}),
    ("Gather", [(2, 5), ("int64", (3,))], 13, {}, "index_select", {"axis": 0}),
    ("Gather", [(2, 5), ("int64", (3, 2))], 13, {}, "take", {"axis": 0}),
    ("Gather", [(2, 5), ("int64", ())], 13, {}, "take", {"axis": 0}),
    ("Gather", [np.zeros((9, 4), "f4"), ("int64", (3, 2))], 13, {}, "embedding", {}),
    (
        "ScatterND",
        [(4, 3), I([[1], [3]]), (2, 3)],
        11,
        {},
        "slice_assign",
        {"axes": (0,), "starts": (1,), "ends": (4,), "steps": (2,)},
    ),
    (
        "ScatterND",
        [(4, 3), I([[3], [1]]), (2, 3)],
        11,
        {},
        "slice_assign",
        {"axes": (0,), "starts": (3,), "ends": (0,), "steps": (-2,)},
    ),
    ("ScatterND", [(4, 3), I([[3], [1], [0]]), (3, 3)], 11, {}, "scatter_nd", {"reduction": "none"}),
    ("ScatterND", [(4, 3), I([[1], [1]]), (2, 3)], 11, {}, "scatter_nd", {"reduction": "none"}),
    ("ScatterND", [(4, 3), I([[1], [3]]), (2, 3)], 16, {"reduction": "add"}, "scatter_nd", {"reduction": "add"}),
    (
        "ScatterND",
        [(4, 3), I([[0, 1], [1, 1], [2, 1], [3, 1]]), (4,)],
        11,
        {},
        "select_assign",
        {"axis": 1, "index": 1},
    ),
    ("ScatterND", [(4, 3), I([[0, 1], [1, 1], [2, 1]]), (3,)], 11, {}, "scatter_nd", {"reduction": "none"}),
    ("ScatterND", [(4, 3), I([-1]), (3,)], 11, {}, "select_assign", {"axis": 0, "index": 3}),
    # resampling
    (
        "Upsample",
        [(1, 2, 3, 4)],
        7,
        {"mode": "nearest", "scales": [1.0, 1.0, 2.0, 2.0]},
        "resize",
        {
            "mode": "nearest",
            "coordinates": "asymmetric",
            "sizes": (6, 8),
            "scales": (2.0, 2.0),
            "nearest_mode": "floor",
        },
    ),
    (
        "Upsample",
        [(1, 2, 3, 4), F([1, 1, 2, 2])],
        9,
        {"mode": "linear"},
        "resize",
        {"mode": "linear", "coordinates": "asymmetric", "sizes": (6, 8)},
    ),
    ("Resize", [(1, 2, 3, 4), F([1, 1, 2, 2])], 10, {"mode": "nearest"}, "resize", {"coordinates": "asymmetric"}),
    ("Resize", [(1, 2, 3, 4), F([1, 1, 0.5, 0.5])], 10, {"mode": "nearest"}, "onnx:Resize", {}),
    (
        "Resize",
        [(1, 2, 3, 4), F([]), F([1, 1, 2, 2])],
        11,
        {"mode": "linear"},
        "resize",
        {"coordinates": "half_pixel", "sizes": (6, 8), "scales": (2.0, 2.0)},
    ),
    (
        "Resize",
        [(1, 2, 3, 4), None, None, I([1, 2, 5, 5])],
        13,
        {"mode": "cubic", "coordinate_transformation_mode": "align_corners"},
        "resize",
        {"mode": "cubic", "coordinates": "align_corners", "sizes": (5, 5), "scales": None, "cubic_coeff": -0.75},
    ),
    (
        "Resize",
        [(1, 2, 3, 4), None, F([2, 3])],
        18,
        {"axes": [2, 3]},
        "resize",
        {"sizes": (6, 12), "scales": (2.0, 3.0), "nearest_mode": "round_prefer_floor", "antialias": False},
    ),
    ("Resize", [(1, 2, 3, 4), None, F([1, 2, 2, 2])], 13, {}, "onnx:Resize", {}),
    (
        "Resize",
        [(1, 2, 3, 4), None, F([1, 1, 2, 2])],
        13,
        {"coordinate_transformation_mode": "tf_half_pixel_for_nn"},
        "onnx:Resize",
        {},
    ),
    ("DepthToSpace", [(1, 8, 3, 3)], 9, {"blocksize": 2}, "pixel_shuffle", {"factor": 2, "mode": "DCR"}),
    (
        "DepthToSpace",
        [(1, 8, 3, 3)],
        11,
        {"blocksize": 2, "mode": "CRD"},
        "pixel_shuffle",
        {"factor": 2, "mode": "CRD"},
    ),
    (
        "GridSample",
        [(1, 2, 3, 4), (1, 5, 5, 2)],
        16,
        {},
        "grid_sample",
        {"mode": "bilinear", "padding_mode": "zeros", "align_corners": False},
    ),
    (
        "GridSample",
        [(1, 2, 3, 4), (1, 5, 5, 2)],
        20,
        {"mode": "cubic", "align_corners": 1},
        "grid_sample",
        {"mode": "bicubic", "padding_mode": "zeros", "align_corners": True},
    ),
    # generators
    ("Range", [I(0), I(5), I(2)], 11, {}, "arange", {"start": 0, "end": 5, "step": 2, "dtype": "int64"}),
    ("Range", [("int64", ()), I(5), I(2)], 11, {}, "dynamic_arange", {"dtype": "int64"}),
    ("ConstantOfShape", [I([2, 3])], 9, {}, "full", {"shape": (2, 3), "value": 0.0, "dtype": "float32"}),
    ("Shape", [(2, 3, 4)], 15, {"start": -2}, "shape", {"start": 1, "end": 3}),
    ("Shape", [(2, 3, 4)], 13, {}, "shape", {}),
    # normalization, quantization, the rest
    ("BatchNormalization", [(1, 2, 3), *[np.ones(2, "f4")] * 4], 14, {}, "batch_norm", {"eps": 1e-5}),
    ("BatchNormalization", [(1, 2, 3), *[np.ones(2, "f4")] * 4], 7, {}, "batch_norm", {"eps": 1e-5}),
    ("LayerNormalization", [(1, 2, 3), np.ones(3, "f4")], 17, {}, "layer_norm", {"axes": (2,), "eps": 1e-5}),
    ("LRN", [(1, 4, 3, 3)], 13, {"size": 4}, "onnx:LRN", {}),
    ("QuantizeLinear", [(2, 3), F(0.1), np.int8(0)], 13, {}, "quantize", {"axis": None, "dtype": "int8"}),
    (
        "QuantizeLinear",
        [(2, 3), F([0.1, 0.2, 0.3]), np.zeros(3, "u1")],
        13,
        {"axis": -1},
        "quantize",
        {"axis": 1, "dtype": "uint8"},
    ),
    (
        "QuantizeLinear",
        [(2, 4), np.ones((2, 2), "f4"), np.zeros((2, 2), "i1")],
        21,
        {"block_size": 2},
        "onnx:QuantizeLinear",
        {},
    ),
    ("QuantizeLinear", [(2, 3), F(0.1)], 21, {"output_dtype": 5}, "quantize", {"axis": None, "dtype": "int16"}),
    ("DequantizeLinear", [("int8", (2, 3)), F(0.1), np.int8(0)], 13, {}, "dequantize", {"axis": None}),
    ("Trilu", [(3, 3), I(1)], 14, {"upper": 0}, "tril", {"diagonal": 1}),
    ("CumSum", [(3, 3), I(-1)], 11, {}, "cumsum", {"axis": 1}),
    ("CumSum", [(3, 3), I(1)], 11, {"reverse": 1}, "onnx:CumSum", {}),
    ("NonZero", [(3, 3)], 13, {}, "nonzero", {"layout": "onnx"}),
    ("HannWindow", [I(8)], 17, {}, "onnx:HannWindow", {}),
    ("Flatten", [(2, 3, 4)], 13, {}, "flatten", {"start": 1, "end": 2}),
    ("Flatten", [(2, 3, 4)], 13, {"axis": 2}, "reshape", {"shape": (6, 4)}),
    ("Einsum", [(2, 3), (3, 4)], 12, {"equation": "ij,jk->ik"}, "einsum", {"equation": "ij,jk->ik"}),
]


@pytest.mark.parametrize("case", MEANINGS, ids=[f"{i}-{c[0]}-{c[2]}" for i, c in enumerate(MEANINGS)])
def test_meaning(case: tuple[str, list[Any], int, dict[str, Any], str, dict[str, Any]]) -> None:
    op, operands, opset, attrs, kind, expected = case
    found = lifted(op, operands, opset, **attrs)
    assert found.kind == kind, found
    for key, value in expected.items():
        assert found.attrs[key] == (pytest.approx(value) if isinstance(value, float) else value), (key, found)


def test_operands_that_the_vocabulary_wants_otherwise() -> None:
    slope = np.arange(4, dtype="f4").reshape(4, 1, 1)
    weight = lifted("PRelu", [(1, 4, 2, 2), slope], 16).inputs[1]
    assert weight is not None and weight.name == "v1" and weight.shape == (4,)
    np.testing.assert_array_equal(weight.numpy(), [0, 1, 2, 3])
    turned = lifted("Gemm", [(2, 3), np.arange(12, dtype="f4").reshape(3, 4)], 13).inputs[1]
    assert turned is not None and turned.shape == (4, 3)
    np.testing.assert_array_equal(turned.numpy(), np.arange(12).reshape(3, 4).T)
    index = lifted("Gather", [(2, 5), I([0, -1])], 13, axis=1).inputs[1]
    assert index is not None and index.numpy().tolist() == [0, 4]


def test_several_outputs() -> None:
    split = lifted("Split", [(2, 7), I([3, 4])], 13, 2, axis=1)
    assert (split.kind, split.attrs) == ("split", {"sizes": (3, 4), "axis": 1})
    assert lifted("Split", [(2, 7)], 18, 2, axis=1, num_outputs=2).attrs["sizes"] == (4, 3)
    top = lifted("TopK", [(2, 9), I([3])], 11, 2, largest=0)
    assert (top.kind, top.attrs) == ("topk", {"k": 3, "axis": 1, "largest": False, "sorted": True})
    assert lifted("TopK", [(2, 9), ("int64", (1,))], 11, 2).kind == "dynamic_topk"
    assert lifted("BatchNormalization", [(1, 2, 3), *[np.ones(2, "f4")] * 4], 15, 3, training_mode=1).kind.startswith(
        "onnx:"
    )
    # ONNX counts an index through the whole tensor, torch through one plane.
    assert lifted("MaxPool", [(1, 1, 4, 4)], 12, 2, kernel_shape=[2, 2]).kind == "max_pool2d_with_indices"
    assert lifted("MaxPool", [(1, 2, 4, 4)], 12, 2, kernel_shape=[2, 2]).kind == "onnx:MaxPool"


def test_operators_of_onnxruntime() -> None:
    ms = "com.microsoft"
    assert lifted("Gelu", [(3,)], domain=ms).kind == "gelu"
    assert lifted("FastGelu", [(3,)], domain=ms).attrs == {"approximate": "tanh"}
    assert lifted("QuantizeLinear", [(3,), F(1), np.int16(0)], domain=ms).attrs == {"axis": None, "dtype": "int16"}
    unknown = lifted("BiasGelu", [(3,), (3,)], domain=ms)
    assert (unknown.kind, unknown.outputs[0].shape) == ("com.microsoft:BiasGelu", (3,))


def test_recurrent_layers() -> None:
    weights = [np.zeros((1, 16, 3), "f4"), np.zeros((1, 16, 4), "f4")]
    found = lifted("LSTM", [(5, 1, 3), *weights], 14, 2, hidden_size=4)
    assert found.kind == "lstm" and found.attrs["hidden"] == 4 and found.attrs["outputs"] == (0, 1)
    assert lifted("LSTM", [(5, 1, 3), *weights], 14, hidden_size=4, clip=1.0).kind == "onnx:LSTM"


def test_softplus_of_double_has_no_threshold() -> None:
    assert lifted("Softplus", [(3,)]).attrs == {"beta": 1.0, "threshold": 20.0}
    x = np.float32(20)
    assert np.float32(math.log1p(math.exp(x))) == x


def test_attributes_read_as_the_shortest_decimal() -> None:
    assert lifted("LeakyRelu", [(3,)], alpha=0.1).attrs["negative_slope"] == 0.1


def test_broken_nodes_keep_their_name() -> None:
    """A node that lacks what its operator requires is unknown, never a crash and never something else."""
    assert lifted("MaxPool", [(1, 1, 4, 4)]).kind == "onnx:MaxPool"
    assert lifted("Cast", [(3,)]).kind == "onnx:Cast"
    assert lifted("Conv", [(1, 3, 4, 4)]).kind == "onnx:Conv"


# -- boxes -----------------------------------------------------------------------------------------


def scatter_nd(x: Array, index: Array, src: Array) -> Array:
    out = np.array(x)
    for at in np.ndindex(index.shape[:-1]):
        out[tuple(index[at])] = src[at]
    return out


def apply(kind: str, attrs: dict[str, Any], x: Array, src: Array) -> Array:
    out = np.array(x)
    if kind == "select_assign":
        out[(slice(None),) * attrs["axis"] + (attrs["index"],)] = src
        return out
    where = [slice(None)] * x.ndim
    for axis, start, end, step in zip(attrs["axes"], attrs["starts"], attrs["ends"], attrs["steps"], strict=True):
        where[axis] = slice(start, None if end < 0 else end, step)
    out[tuple(where)] = src
    return out


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], list[range]]:
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    depth = draw(st.integers(1, len(shape)))
    lines = []
    for extent in shape[:depth]:
        start = draw(st.integers(0, extent - 1))
        step = draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
        room = (extent - 1 - start) // step if step > 0 else start // -step
        count = draw(st.integers(1, room + 1))
        lines.append(range(start, start + count * step, step))
    return shape, lines


@given(boxes(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_box_is_recognized(box: tuple[tuple[int, ...], list[range]], negative: bool) -> None:
    shape, lines = box
    index = np.stack(np.meshgrid(*[np.array(line) for line in lines], indexing="ij"), -1)
    if negative:
        index = index - np.array(shape[: len(lines)])
    found = assigned_box(index, shape)
    assert found is not None
    x = np.zeros(shape)
    src = 1.0 + np.arange(np.prod([*map(len, lines), *shape[len(lines) :]])).reshape(
        *map(len, lines), *shape[len(lines) :]
    )
    np.testing.assert_array_equal(apply(found[0], found[1], x, src), scatter_nd(x, index, src))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_whatever_is_recognized_means_the_same(data: st.DataObject) -> None:
    """Any index at all: either it is left alone, or the assignment that it is taken for does the same."""
    shape = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    depth = data.draw(st.integers(1, len(shape)))
    grid = tuple(data.draw(st.lists(st.integers(1, 3), min_size=0, max_size=depth)))
    entries = [st.integers(-n, n - 1) for n in shape[:depth]]
    flat = [[data.draw(e) for e in entries] for _ in range(int(np.prod(grid)))]
    index = np.array(flat, np.int64).reshape(*grid, depth)
    found = assigned_box(index, shape)
    if found is None:
        return
    x = np.zeros(shape)
    src = 1.0 + np.arange(np.prod([*grid, *shape[depth:]], dtype=int)).reshape((*grid, *shape[depth:]))
    np.testing.assert_array_equal(apply(found[0], found[1], x, src), scatter_nd(x, index, src))


def test_an_index_out_of_range_is_no_box() -> None:
    assert assigned_box(np.array([[4]]), (4, 2)) is None
    assert assigned_box(np.zeros((0, 1), np.int64), (4, 2)) is None
    assert assigned_box(np.zeros((2, 3), np.int64), (4, 2)) is None


def test_a_slope_behind_an_identity_is_known() -> None:
    """torch exports slopes that are alike once, and reads the second through an Identity."""
    slope = numpy_helper.from_array(np.full((4, 1, 1), 0.25, F), "s")
    nodes = [helper.make_node("Identity", ["s"], ["t"]), helper.make_node("PRelu", ["x", "t"], ["y"])]
    ends = [helper.make_tensor_value_info(name, 1, [1, 4, 2, 2]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], [slope]), opset_imports=[helper.make_opsetid("", 13)]
    )
    op = OnnxGraph.load(model).ops()[-1]
    assert op.kind == "prelu" and op.inputs[1] is not None and op.inputs[1].shape == (4,)
    np.testing.assert_array_equal(op.inputs[1].numpy(), [0.25] * 4)


@pytest.mark.parametrize("op", ["Cast", "CastLike"])
def test_a_cast_that_does_not_saturate_keeps_its_name(op: str) -> None:
    """Another opset's Cast, or a runtime's, would give the largest number instead of NaN."""
    operands: list[Any] = [(2,)] if op == "Cast" else [(2,), ("float16", (1,))]
    to = {"to": 10} if op == "Cast" else {}
    assert lifted(op, operands, 19, saturate=1, **to).kind == "cast"
    assert lifted(op, operands, 19, saturate=0, **to).kind == f"onnx:{op}"
    assert lifted(op, operands, 24, round_mode="up", **to).kind == "cast"
    assert lifted(op, operands, 24, round_mode="nearest", **to).kind == f"onnx:{op}"
