# SPDX-License-Identifier: Apache-2.0
"""Small ONNX models whose right answers are known."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def constant(name, array):
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def model(nodes, inputs, outputs, initializers, opset=17):
    """A checked model; inputs and outputs are {name: shape}, float32."""

    def info(items):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in items.items()]

    tensors = [constant(name, array) for name, array in initializers.items()]
    graph = helper.make_graph(nodes, "g", info(inputs), info(outputs), tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 10
    onnx.checker.check_model(made, full_check=True)
    return made


def small(seed=0, opset=17):
    """conv, batch norm, relu, depthwise, two convs of one input, add, pool, linear; (1, 3, 12, 12) to (1, 5)."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32) * 0.3  # noqa: E731
    tensors = {
        "stem.weight": normal(8, 3, 3, 3),
        "stem.bias": normal(8),
        "bn.weight": 1 + normal(8),
        "bn.bias": normal(8),
        "bn.running_mean": normal(8),
        "bn.running_var": 1 + np.abs(normal(8)),
        "dw.weight": normal(8, 1, 3, 3),
        "left.weight": normal(8, 8, 1, 1),
        "right.weight": normal(8, 4, 3, 3),
        "right.bias": normal(8),
        "fc.weight": normal(5, 8),
        "fc.bias": normal(5),
    }

    def conv(x, w, b, y, **attrs):
        return helper.make_node("Conv", [x, w, b] if b else [x, w], [y], name=y, **attrs)

    nodes = [
        conv("images", "stem.weight", "stem.bias", "stem_y", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["stem_y", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"],
                         ["bn_y"], name="bn"),
        helper.make_node("Relu", ["bn_y"], ["relu_y"], name="relu"),
        conv("relu_y", "dw.weight", "", "dw_y", pads=[1, 1, 1, 1], group=8),
        conv("dw_y", "left.weight", "", "left_y"),
        conv("dw_y", "right.weight", "right.bias", "right_y", pads=[1, 1, 1, 1], group=2),
        helper.make_node("Add", ["left_y", "right_y"], ["sum_y"], name="sum"),
        helper.make_node("GlobalAveragePool", ["sum_y"], ["pool_y"], name="pool"),
        helper.make_node("Flatten", ["pool_y"], ["flat_y"], name="flat"),
        helper.make_node("Gemm", ["flat_y", "fc.weight", "fc.bias"], ["out"], name="fc", transB=1),
    ]  # fmt: skip
    return model(nodes, {"images": (1, 3, 12, 12)}, {"out": (1, 5)}, tensors, opset)


def head(boxes=640.0):
    """Boxes (hundreds) and scores (0..1) joined, then mixed by a 1x1 identity: (1, 4, 6, 6) to (1, 6, 6, 6).

    Channels 0 to 3 of the output are boxes, 4 and 5 are scores.
    """
    rng = np.random.default_rng(0)
    tensors = {
        "box.weight": np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1),
        "obj.weight": rng.normal(size=(2, 4, 1, 1)).astype(np.float32),
        "mix.weight": np.eye(6, dtype=np.float32).reshape(6, 6, 1, 1),
        "size": np.float32(boxes),
    }
    nodes = [
        helper.make_node("Conv", ["x", "box.weight"], ["box_raw"], name="box"),
        helper.make_node("Sigmoid", ["box_raw"], ["box_unit"], name="unit"),
        helper.make_node("Mul", ["box_unit", "size"], ["boxes"], name="scale"),
        helper.make_node("Conv", ["x", "obj.weight"], ["obj_raw"], name="obj"),
        helper.make_node("Sigmoid", ["obj_raw"], ["scores"], name="score"),
        helper.make_node("Concat", ["boxes", "scores"], ["joined"], name="join", axis=1),
        helper.make_node("Conv", ["joined", "mix.weight"], ["out"], name="mix"),
    ]
    return model(nodes, {"x": (1, 4, 6, 6)}, {"out": (1, 6, 6, 6)}, tensors)


def decoded():
    """As :func:`head` without the last convolution: the joined tensor is the output and stays in float."""
    made = head()
    del made.graph.node[-1]
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("joined", TensorProto.FLOAT, (1, 6, 6, 6)))
    return made


#: For each way to take the columns 0:2, 2:4 and 4:6 of ``anchors``: ONNX's operator.
TAKEN_APART = ("Slice", "Split", "Gather", "GatherElements")


def detector(size=6, stride=80.0, by="Slice"):
    """A detector as YOLOX is written: raw boxes and scores are joined, taken apart to be decoded, and joined again.

    (1, 4, size, size) to (1, size * size, 6) with cx, cy, w, h in pixels and two scores.
    """
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).reshape(1, -1, 2).astype(np.float32)
    tensors = {
        "reg.weight": rng.normal(size=(4, 4, 1, 1)).astype(np.float32) * 0.3,
        "cls.weight": rng.normal(size=(2, 4, 1, 1)).astype(np.float32),
        "flat": np.array([1, 6, -1], np.int64), "grid": grid, "stride": np.float32(stride),
        **{f"at{i}": np.array([i], np.int64) for i in (0, 2, 4, 6)},
    }  # fmt: skip
    node = helper.make_node
    names = ["xy", "wh", "kept"]
    if by == "Split":
        apart = [node("Split", ["anchors"], names, axis=2)]
    elif by == "Slice":
        apart = [node(by, ["anchors", f"at{2 * i}", f"at{2 * i + 2}", "at2"], [n]) for i, n in enumerate(names)]
    else:
        columns = [np.array([2 * i, 2 * i + 1], np.int64) for i in range(3)]
        if by == "GatherElements":
            columns = [np.broadcast_to(pair, (1, size * size, 2)).copy() for pair in columns]
        tensors |= {f"columns{i}": index for i, index in enumerate(columns)}
        apart = [node(by, ["anchors", f"columns{i}"], [n], axis=2) for i, n in enumerate(names)]
    nodes = [
        node("Conv", ["x", "reg.weight"], ["reg_y"], name="reg"),
        node("Conv", ["x", "cls.weight"], ["cls_y"], name="cls"),
        node("Sigmoid", ["cls_y"], ["scores"], name="scores"),
        node("Concat", ["reg_y", "scores"], ["raw"], name="raw", axis=1),
        node("Reshape", ["raw", "flat"], ["rows"], name="flatten"),
        node("Transpose", ["rows"], ["anchors"], name="turn", perm=[0, 2, 1]),
        *apart,
        node("Add", ["xy", "grid"], ["moved"], name="move"),
        node("Mul", ["moved", "stride"], ["centers"], name="centers"),
        node("Exp", ["wh"], ["grown"], name="grow"),
        node("Mul", ["grown", "stride"], ["sizes"], name="sizes"),
        node("Concat", ["centers", "sizes", "kept"], ["out"], name="join", axis=2),
    ]
    return model(nodes, {"x": (1, 4, size, size)}, {"out": (1, size * size, 6)}, tensors)


def logarithm():
    """log of a convolution: NaN for negative values, read by a second convolution."""
    tensors = {"a.weight": np.ones((1, 1, 1, 1), np.float32), "b.weight": np.ones((1, 1, 1, 1), np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["a_y"], name="a"),
        helper.make_node("Log", ["a_y"], ["log_y"], name="the_log"),
        helper.make_node("Conv", ["log_y", "b.weight"], ["out"], name="b"),
    ]
    return model(nodes, {"x": (1, 1, 2, 2)}, {"out": (1, 1, 2, 2)}, tensors)


def shared():
    """One module called on two inputs of different range."""
    tensors = {"m.weight": np.random.default_rng(0).normal(size=(2, 2, 1, 1)).astype(np.float32), "ten": np.float32(10)}
    nodes = [
        helper.make_node("Mul", ["x", "ten"], ["wide"], name="widen"),
        helper.make_node("Conv", ["x", "m.weight"], ["first"], name="m1"),
        helper.make_node("Conv", ["wide", "m.weight"], ["second"], name="m2"),
    ]
    return model(nodes, {"x": (1, 2, 3, 3)}, {"first": (1, 2, 3, 3), "second": (1, 2, 3, 3)}, tensors)
