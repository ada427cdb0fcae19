# SPDX-License-Identifier: Apache-2.0
"""The flow of integer tensors: groups, fused ops, pins, biases, and the graph that comes of them."""

import json

import numpy as np
import onnxruntime
import pytest
import quantize_models as models
import targets_for_tests as targets
from onnx import helper

import porter
from porter.errors import PorterError
from porter.quantize import kernels
from porter.quantize.encodings import Encodings
from porter.quantize.engine import insert, quantize
from porter.quantize.plan import pins, plan
from porter.quantize.scheme import Scheme
from porter.target import Target


def branches():
    """a: conv, relu; b: conv; both joined, pooled, c: conv, plus a constant, sigmoid: (1, 3, 8, 8) to (1, 2, 4, 4)."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32) * 0.3  # noqa: E731
    tensors = {
        "a.weight": normal(4, 3, 3, 3), "a.bias": normal(4), "b.weight": normal(4, 3, 1, 1),
        "c.weight": normal(2, 8, 1, 1), "c.bias": normal(2), "half": np.float32(0.5),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "a.weight", "a.bias"], ["a_y"], name="a", pads=[1, 1, 1, 1]),
        node("Relu", ["a_y"], ["relu_y"], name="relu"),
        node("Conv", ["x", "b.weight"], ["b_y"], name="b"),
        node("Concat", ["relu_y", "b_y"], ["cat_y"], name="cat", axis=1),
        node("MaxPool", ["cat_y"], ["pool_y"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["pool_y", "c.weight", "c.bias"], ["c_y"], name="c"),
        node("Add", ["c_y", "half"], ["sum_y"], name="plus"),
        node("Sigmoid", ["sum_y"], ["unit"], name="unit"),
        node("Mul", ["unit", "half"], ["out"], name="scale"),
    ]
    return models.model(nodes, {"x": (1, 3, 8, 8)}, {"out": (1, 2, 4, 4)}, tensors)


def images(count=5, shape=(1, 3, 8, 8)):
    rng = np.random.default_rng(1)
    return [[rng.normal(size=shape).astype(np.float32)] for _ in range(count)]


@pytest.fixture(scope="module")
def bpu(tmp_path_factory):
    return targets.load(tmp_path_factory.mktemp("bpu"))


def groups_of(graph, target, width="int8", **options):
    made = plan(graph, Scheme.of(target), width=width, **options)
    return made, {frozenset(group.values): group for group in made.groups}


def test_groups_and_fused_values(bpu):
    made, groups = groups_of(porter.load(branches()), bpu)
    joined = frozenset({"relu_y", "b_y", "cat_y", "pool_y"})
    assert set(groups) == {frozenset({"x"}), joined, frozenset({"half"}), frozenset({"sum_y"}),
                           frozenset({"unit"}), frozenset({"out"})}  # fmt: skip
    assert groups[joined].sources == ("relu_y", "b_y")  # what cat and pooling hold is moved from there
    assert made.fused == {"a_y", "c_y"}
    assert [site.path for site in made.sites] == ["a", "b", "c", "unit", "scale"]
    assert made.sites[0].result.name == "relu_y"
    assert made.integers == {"a_y", "relu_y", "b_y", "cat_y", "pool_y", "c_y", "sum_y", "unit", "out"}


def test_what_no_integer_op_reads(tmp_path):
    graph = porter.load(branches())
    # With float results everything behind the last product is float, and its result stays as the sum is.
    _, groups = groups_of(graph, targets.load(tmp_path, output_dtypes='["int8", "float32"]'))
    assert {name for group in groups for name in group} == {"x", "relu_y", "b_y", "cat_y", "pool_y", "half"}
    only_conv = targets.load(tmp_path, quantized_ops='["conv2d"]', fused_followers="[]")
    assert {name for group in groups_of(graph, only_conv)[1] for name in group} == {
        "x", "relu_y", "b_y", "cat_y", "pool_y"}  # fmt: skip
    # A device that delivers nothing but int8 requantizes the last result too.
    narrow = targets.load(tmp_path, quantized_ops='["conv2d"]', fused_followers="[]", output_dtypes='["int8"]')
    assert frozenset({"c_y"}) in groups_of(graph, narrow)[1]


def affine_after_float(between=()):
    """conv a, a float op, times and plus a constant, ``between`` (p to q), conv b: (1, 3, 8, 8) to (1, 2, 8, 8)."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32) * 0.3  # noqa: E731
    tensors = {"a.weight": normal(4, 3, 1, 1), "b.weight": normal(2, 4, 1, 1), "half": np.float32(0.5)}
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "a.weight"], ["a_y"], name="a"),
        node("HardSwish", ["a_y"], ["swish"], name="swish"),
        node("Mul", ["swish", "half"], ["m"], name="times"),
        node("Add", ["m", "half"], ["p"], name="plus"),
        *between,
        node("Conv", ["q" if between else "p", "b.weight"], ["out"], name="b"),
    ]
    return porter.load(models.model(nodes, {"x": (1, 3, 8, 8)}, {"out": (1, 2, 8, 8)}, tensors))


def test_what_no_integer_op_makes(bpu, tmp_path):
    mixing = targets.load(tmp_path, output_dtypes='["int8", "float32"]')
    values = lambda graph, target: {name for group in groups_of(graph, target)[1] for name in group}  # noqa: E731
    # What stands between a float op and the next product is rounded once, where the product reads it.
    assert values(affine_after_float(), mixing) == {"x", "p"}
    assert {"swish", "m", "p"} <= values(affine_after_float(), bpu)  # this device has no floats in between
    pooled = [helper.make_node("MaxPool", ["p"], ["q"], name="pool", kernel_shape=[1, 1])]
    assert values(affine_after_float(pooled), mixing) == {"x", "p", "q"}
    # An integer tensor among the operands keeps the op in integers, also when a passive op moved it.
    moved = [
        helper.make_node("MaxPool", ["x"], ["p_x"], name="pool", kernel_shape=[1, 1]),
        helper.make_node("Conv", ["p_x", "a.weight"], ["c_y"], name="c"),
        helper.make_node("MaxPool", ["c_y"], ["c_p"], name="pool_c", kernel_shape=[1, 1]),
        helper.make_node("Add", ["p", "c_p"], ["q"], name="sum"),
    ]
    assert values(affine_after_float(moved), mixing) == {"x", "p_x", "p", "c_y", "c_p", "q"}


def test_a_pin_keeps_an_op_in_integers_among_floats(tmp_path):
    mixing = targets.load(tmp_path, output_dtypes='["int8", "float32"]')
    _, groups = groups_of(affine_after_float(), mixing, pins={"plus": "int8"})
    assert {name for group in groups for name in group} == {"x", "m", "half", "p"}
    _, groups = groups_of(porter.load(branches()), mixing, pins={"unit": "int8"})  # behind the last product
    assert {"sum_y", "unit"} <= {name for group in groups for name in group}
    # A pattern gives widths, and places no integers.
    _, groups = groups_of(affine_after_float(), mixing, pins={"*": "int8"})
    assert {name for group in groups for name in group} == {"x", "p"}


def by_hand(made, x):
    """branches() in integers of the BPU: half up, one rounding a tensor, int32 bias, a weight scale a channel."""
    e, tensors = made.encodings, {t.name: t for t in branches().graph.initializer}
    from onnx.numpy_helper import to_array

    def quantized(name, y):
        return e.activations[name].fake(y.astype(np.float32), "half_up")

    def conv(path, x, padding=((0, 0), (0, 0))):
        of_weight, step = e.weights[path], e.input_of(path).scale[0]
        weight = of_weight.fake(to_array(tensors[f"{path}.weight"]), "half_up").astype(np.float64)
        y = kernels.conv2d_float(x.astype(np.float64), weight, None, padding=padding)
        if f"{path}.bias" not in tensors:
            return y
        scale = np.float32(step * np.asarray(of_weight.scale)).astype(np.float64)
        bias = np.floor(to_array(tensors[f"{path}.bias"]) / scale + 0.5) * scale
        return y + bias.reshape(1, -1, 1, 1)

    x = quantized("x", x)
    a = quantized("relu_y", np.maximum(conv("a", x, ((1, 1), (1, 1))), 0))
    joined = np.concatenate([a, quantized("b_y", conv("b", x))], 1)
    pooled = joined.reshape(1, 8, 4, 2, 4, 2).max((3, 5))
    half = quantized("half", np.float32(0.5))
    total = quantized("sum_y", conv("c", pooled) + half)
    unit = quantized("unit", 1 / (1 + np.exp(-total.astype(np.float64))))
    return quantized("out", unit.astype(np.float64) * half)


@pytest.mark.parametrize("dtype", ["int8", "w8a16"])
def test_the_simulation_is_the_integer_network(bpu, dtype):
    made = quantize(porter.load(branches()), bpu, dtype, images())
    step = made.encodings.activations["out"].scale[0]
    # The vocabulary's quantize rounds half to even: where a half is met, one step of one tensor.
    for item in images():
        assert np.abs(made.graph.run(item)[0] - by_hand(made, item[0])).max() <= 1.5 * step
    assert made.report.outputs[0].error.sqnr > (25 if dtype == "int8" else 40)


def test_integer_constants(bpu):
    made = quantize(porter.load(branches()), bpu, "int8", images())
    constants = {}
    for op in made.graph.ops():
        if op.kind == "dequantize" and op.inputs[0].is_const:
            constants[op.outputs[0].name] = op
    weights = {t.name: t for t in branches().graph.initializer}
    from onnx.numpy_helper import to_array

    weight, bias = to_array(weights["a.weight"]), to_array(weights["a.bias"])
    step = np.float32(np.abs(weight).max((1, 2, 3)) / 128)
    kernel = constants["a_y_weight_dq"]
    assert kernel.attrs["axis"] == 0
    assert str(kernel.inputs[0].numpy().dtype) == "int8"
    want = np.clip(np.floor(weight / step.reshape(-1, 1, 1, 1) + np.float32(0.5)), -128, 127)
    np.testing.assert_array_equal(kernel.inputs[0].numpy(), want)
    of_bias = constants["a_y_bias_dq"]
    assert str(of_bias.inputs[0].numpy().dtype) == "int32"
    scale = np.float32(made.encodings.activations["x"].scale[0] * step.astype(np.float64))
    np.testing.assert_array_equal(of_bias.inputs[1].numpy(), scale)
    np.testing.assert_array_equal(of_bias.inputs[0].numpy(), np.floor(bias / scale.astype(np.float64) + 0.5))
    assert constants["sum_y_operand1_dq"].inputs[0].numpy() == 127  # 0.5 / (0.5 / 128) = 128, saturated


def test_a_bias_that_is_too_large_for_tiny_weights(bpu):
    weight = np.array([1.0, 1e-9], np.float32).reshape(2, 1, 1, 1)
    tensors = {"m.weight": weight, "m.bias": np.array([1.0, 100.0], np.float32)}
    nodes = [helper.make_node("Conv", ["x", "m.weight", "m.bias"], ["y"], name="m")]
    model = models.model(nodes, {"x": (1, 1, 2, 2)}, {"y": (1, 2, 2, 2)}, tensors)
    made = quantize(porter.load(model), bpu, "int8", images(2, (1, 1, 2, 2)))
    encoding = made.encodings.weights["m"]
    assert encoding.observer == "min_max, widened for the bias"
    assert encoding.scale[0] == 1 / 128
    (item,) = images(1, (1, 1, 2, 2))
    np.testing.assert_allclose(made.graph.run(item)[0][0, 1], 100.0, rtol=1e-6)


def test_pins_are_obeyed_or_refused(bpu):
    graph = porter.load(branches())
    _, groups = groups_of(graph, bpu, pins={"c": "w8a16"})
    assert groups[frozenset({"relu_y", "b_y", "cat_y", "pool_y"})].dtype == "int16"
    assert groups[frozenset({"half"})].dtype == "int16"  # what is added inside the product comes in its width
    assert groups[frozenset({"x"})].dtype == "int8"
    made, groups = groups_of(graph, bpu, pins={"*": "w8a16", "a": "int8"})  # an exact name goes first
    assert {site.path: site.width.name for site in made.sites} == {
        "a": "int8", "b": "w8a16", "c": "w8a16", "unit": "w8a16", "scale": "int8"}  # fmt: skip
    made, groups = groups_of(graph, bpu, pins={"unit": "float"})
    assert "unit" not in made.integers
    assert frozenset({"unit"}) in groups  # the multiplication behind it reads an integer
    for name, wanted, why in (
        ("scale", "w8a16", "has mul only with int8"),
        ("pool", "w8a16", "takes its scale from the ops around it"),
        ("relu", "w8a16", "computes relu in float"),
    ):
        with pytest.raises(PorterError, match=why) as error:
            groups_of(graph, bpu, pins={name: wanted})
        assert error.value.code == "PT420"
    with pytest.raises(PorterError, match="no layer matches") as error:
        groups_of(graph, bpu, pins={"nothing.*": "int8"})
    assert error.value.code == "PT414"
    with pytest.raises(PorterError, match="does not quantize to int4"):
        groups_of(graph, bpu, pins={"a": "int4"})


def test_a_kind_without_the_width(bpu):
    findings = []
    made, _ = groups_of(porter.load(branches()), bpu, "w8a16", findings=findings)
    assert {site.path: site.width.name for site in made.sites}["scale"] == "int8"
    assert [finding.code for finding in findings] == ["PT421"]
    assert "mul" in findings[0].message


def test_pins_as_text():
    assert pins(["head.*=int16", "a=b=float"]) == {"head.*": "int16", "a=b": "float"}
    for wrong in ("head", "=int8", "head="):
        with pytest.raises(PorterError, match="no pin") as error:
            pins([wrong])
        assert error.value.code == "PT420"


def test_two_widths_of_one_tensor_where_only_operands_are_integers():
    target = Target.load("mlu270")
    made = quantize(porter.load(models.small()), target, "int8", images(shape=(1, 3, 12, 12)), pins={"right": "int16"})
    encodings = made.encodings
    assert encodings.activations["dw_y"].dtype == "int16"
    assert (encodings.input_of("right").dtype, encodings.input_of("left").dtype) == ("int16", "int8")
    assert set(encodings.operands) == {"left"}
    dtypes = sorted(op.attrs["dtype"] for op in made.graph.ops() if op.kind == "quantize")
    assert dtypes == ["int16", "int8", "int8", "int8"]
    state = made.state_dict()
    assert [int(state[f"{path}.quantized_mode"][0]) for path in ("left", "right")] == [1, 2]
    assert Encodings.from_json(json.loads(json.dumps(encodings.to_json()))) == encodings


@pytest.mark.parametrize("dtype", ["int8", "uint8", "w8a16", "int16"])
def test_onnxruntime_runs_it(tmp_path, dtype):
    made = quantize(porter.load(branches()), Target.load("onnxruntime"), dtype, images())
    made.save(tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / f"model_{dtype}.onnx", providers=["CPUExecutionProvider"])
    for item in images():
        got, want = session.run(None, {"x": item[0]})[0], made.graph.run(item)[0]
        # Only pool_y is read as integers behind the last requantization: one of its steps, through c.
        weight = np.abs(made.encodings.weights["c"].fake(_weight("c.weight"), "half_even")).sum((1, 2, 3)).max()
        assert np.abs(got - want).max() <= made.encodings.activations["pool_y"].scale[0] * weight
    assert made.report.outputs[0].error.sqnr > {"int8": 30, "uint8": 30, "w8a16": 40, "int16": 80}[dtype]
    assert made.encodings == Encodings.load(tmp_path / "out" / "encodings.json")
    again = insert(porter.load(branches()), made.encodings)
    np.testing.assert_array_equal(again.run(images()[0])[0], made.graph.run(images()[0])[0])


def _weight(name):
    from onnx.numpy_helper import to_array

    return next(to_array(t) for t in branches().graph.initializer if t.name == name)


def test_an_older_opset_gets_scales_per_channel(tmp_path):
    graph = porter.load(models.small(opset=11))
    made = quantize(graph, Target.load("onnxruntime"), "int8", images(shape=(1, 3, 12, 12)))
    assert made.encodings.weights["stem"].axis == 0
    made.save(tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model_int8.onnx", providers=["CPUExecutionProvider"])
    assert session.run(None, {"images": images(shape=(1, 3, 12, 12))[0][0]})[0].shape == (1, 5)


def test_batch_norms_are_folded_first():
    made = porter.quantize(models.small(), "onnxruntime", images(shape=(1, 3, 12, 12)), dtype="int8")
    assert all(op.kind != "batch_norm" for op in made.graph.ops())
    assert made.report.float_kinds == {}
