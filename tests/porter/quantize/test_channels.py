# SPDX-License-Identifier: Apache-2.0
"""A scale for each channel of what a depthwise convolution reads, where one for all leaves channels too little."""

import json

import numpy as np
import onnxruntime
import pytest
import quantize_models as models
import slow
import targets_for_tests as targets
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import helper

import porter
from porter.data import open_data
from porter.errors import PorterError
from porter.quantize.adopt import check_device
from porter.quantize.calibrate import calibrate
from porter.quantize.channels import Channels
from porter.quantize.encodings import Encodings
from porter.quantize.engine import quantize
from porter.quantize.plan import plan
from porter.quantize.scheme import Scheme
from porter.quantize.simulate import simulate
from porter.quantize.writers import write_qdq
from porter.target import Target

#: How large the channels of what the depthwise convolution reads are.
SIZES = np.array([100.0, 1.0, 2.0, 0.5, 3.0, 0.1], np.float32)


def unequal(multiplier=2, sizes=SIZES, extra=()):
    """a: 1x1 conv with channels of ``sizes``, relu, d: depthwise, b: 1x1 conv; (1, 4, 6, 6) to (1, 3, 4, 4)."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    out = 6 * multiplier
    tensors = {
        "a.weight": normal(6, 4, 1, 1) * sizes.reshape(-1, 1, 1, 1), "a.bias": normal(6) * sizes,
        "d.weight": normal(out, 1, 3, 3), "d.bias": normal(out), "b.weight": normal(3, out, 1, 1),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "a.weight", "a.bias"], ["a_y"], name="a"),
        node("Relu", ["a_y"], ["relu_y"], name="relu"),
        node("Conv", ["relu_y", "d.weight", "d.bias"], ["d_y"], name="d", group=6),
        node("Conv", ["d_y", "b.weight"], ["out"], name="b"),
        *extra,
    ]
    outputs = {"out": (1, 3, 4, 4)} | ({"more": (1, 6, 6, 6)} if extra else {})
    return models.model(nodes, {"x": (1, 4, 6, 6)}, outputs, tensors)


def images(count=4):
    rng = np.random.default_rng(1)
    return [[rng.normal(size=(1, 4, 6, 6)).astype(np.float32)] for _ in range(count)]


def data_of(items, graph):
    return open_data(items, graph.inputs)


def relus(items):
    """What the depthwise convolution reads, of all items."""
    tensors = {t.name: t for t in unequal().graph.initializer}
    from onnx.numpy_helper import to_array

    weight, bias = to_array(tensors["a.weight"])[:, :, 0, 0], to_array(tensors["a.bias"])
    x = np.concatenate([item[0] for item in items])
    return np.maximum(np.einsum("nchw,oc->nohw", x, weight) + bias.reshape(1, -1, 1, 1), 0)


def test_each_channel_has_the_scale_of_its_own_range():
    made = quantize(porter.load(unequal()), Target.load("onnxruntime"), "int8", images(), observer="min_max")
    found = made.encodings.activations["relu_y"]
    assert (found.axis, len(found.scale)) == (1, 6)
    high = relus(images()).max((0, 2, 3))
    high = np.minimum(1.25 * high, high.max())  # with a margin, and never beyond the range of all
    np.testing.assert_allclose(found.scale, high / 255, rtol=1e-5)  # asymmetric, of a range from 0
    assert found.zero_point == (-128,) * 6
    assert made.encodings.activations["d_y"].axis is None


def test_one_scale_where_it_is_enough_and_where_the_device_has_no_other(tmp_path):
    even = porter.load(unequal(sizes=np.full(6, 2.0, np.float32)))
    assert quantize(even, Target.load("onnxruntime"), "int8", images()).encodings.activations["relu_y"].axis is None
    wide = quantize(porter.load(unequal()), Target.load("onnxruntime"), "int16", images())
    assert wide.encodings.activations["relu_y"].axis is None  # 16 bits have steps for the small channels too
    device = targets.load(tmp_path, passive_ops='["cat"]')
    assert quantize(porter.load(unequal()), device, "int8", images()).encodings.activations["relu_y"].axis is None


def test_what_others_read_too_has_one_scale():
    reader = helper.make_node("Mul", ["relu_y", "relu_y"], ["more_y"], name="square")
    end = helper.make_node("Conv", ["more_y", "d.weight", "d.bias"], ["wide_y"], name="e", group=6, pads=[1, 1, 1, 1])
    cut = helper.make_node("Slice", ["wide_y", "s", "e6", "ax"], ["more"], name="cut")
    model = unequal(extra=())
    model.graph.node.extend([reader, end, cut])
    model.graph.initializer.extend(
        models.constant(name, np.array([number])) for name, number in {"s": 0, "e6": 6, "ax": 1}.items()
    )
    model.graph.output.append(helper.make_tensor_value_info("more", 1, (1, 6, 6, 6)))
    made = plan(porter.load(model), Scheme.of(Target.load("onnxruntime")), width="int8")
    assert "relu_y" not in made.channels
    assert "more_y" in made.channels  # which only the second depthwise convolution reads


def test_it_is_better_and_onnxruntime_computes_the_same(tmp_path):
    target, graph = Target.load("onnxruntime"), porter.load(unequal())
    made = quantize(graph, target, "int8", images(), observer="min_max")
    one = made.encodings
    assert made.report.outputs[0].error.sqnr > 25
    write_qdq(made, tmp_path / "q.onnx")
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(tmp_path / "q.onnx", options, providers=["CPUExecutionProvider"])
        for item in images(2):
            got = session.run(None, {"x": item[0]})[0]
            step = max(one.weights["b"].scale) * one.activations["d_y"].scale[0]
            ours = simulate(made.graph, Scheme.of(target), item, "int").outputs[0]
            assert np.abs(got - ours).max() <= 130 * step  # one step of d_y, times a weight of 127, once


@settings(max_examples=15, deadline=None)
@given(multiplier=st.sampled_from([1, 2, 3]), seed=st.integers(0, 2**16))
def test_the_simulation_is_the_integer_network(multiplier, seed):
    """The integers of the depthwise result, by loops: sums of whole numbers, scaled once by a step for each channel."""
    target, graph = Target.load("onnxruntime"), porter.load(unequal(multiplier))
    made = quantize(graph, target, "int8", images(), observer="min_max", bias_correction=False, compare=0)
    x = np.random.default_rng(seed).normal(size=(1, 4, 6, 6)).astype(np.float32) * 2
    runs = [simulate(made.graph, Scheme.of(target), [x], mode, _quantized(made.graph)) for mode in ("int", "fake")]
    np.testing.assert_array_equal(runs[0].outputs[0], runs[1].outputs[0])
    read, result = runs[0].taps.values()
    e = made.encodings
    of_input, of_weight, of_result = e.activations["relu_y"], e.weights["d"], e.activations["d_y"]
    steps = np.repeat(of_input.scale, multiplier) * of_weight.scale
    from onnx.numpy_helper import to_array

    tensors = {t.name: to_array(t) for t in unequal(multiplier).graph.initializer}
    sums = slow.convolve(
        read.astype(np.int64) + 128, of_weight.quantize(tensors["d.weight"], "half_even").astype(np.int64),
        (1, 1), ((0, 0), (0, 0)), (1, 1), 6,
    )  # fmt: skip
    sums = sums + np.rint(tensors["d.bias"] / np.float32(steps)).astype(np.int64).reshape(1, -1, 1, 1)
    ratio = sums * steps.reshape(1, -1, 1, 1) / of_result.scale[0]
    ratio = ratio.astype(np.float64)
    want = np.clip(np.rint(ratio) + of_result.zero_point[0], -128, 127)
    sure = np.abs(ratio - np.floor(ratio) - 0.5) > 1e-9
    np.testing.assert_array_equal(result[sure], want[sure])


def _quantized(graph):
    """The integers that the depthwise convolution reads, and those that it gives."""
    producers = graph.producers()
    conv = next(op for op in graph.ops() if op.kind == "conv2d" and op.attrs["groups"] == 6)
    read = producers[conv.inputs[0].name].inputs[0].name
    given_to = next(op for op in graph.ops() if op.kind == "quantize" and op.inputs[0].name == conv.outputs[0].name)
    return [read, given_to.outputs[0].name]


def test_encodings_with_channels_are_read_back_and_checked():
    graph, target = porter.load(unequal()), Target.load("onnxruntime")
    made = quantize(graph, target, "int8", images(), observer="min_max").encodings
    again = Encodings.from_json(json.loads(json.dumps(made.to_json())))
    assert again.activations["relu_y"] == made.activations["relu_y"]
    again.check(graph)
    data = json.loads(json.dumps(made.to_json()))
    for key in ("scale", "minimum", "maximum", "zero_point"):
        data["activations"]["relu_y"][key] = data["activations"]["relu_y"][key][:5]
    with pytest.raises(PorterError, match=r"5 scales do not fit axis 1 of relu_y") as raised:
        Encodings.from_json(data).check(graph)
    assert raised.value.code == "PT413"


def test_a_device_without_them_refuses_them(tmp_path):
    made = quantize(porter.load(unequal()), Target.load("onnxruntime"), "int8", images(), observer="min_max").encodings
    device = targets.load(tmp_path, scheme='"asymmetric"')
    with pytest.raises(PorterError, match="relu_y has a scale for each channel"):
        check_device(made, Scheme.of(device), "int8")


@given(data=st.data())
def test_extremes_of_channels(data):
    shape = data.draw(arrays.array_shapes(min_dims=2, max_dims=4, max_side=4))
    axis = data.draw(st.integers(0, len(shape) - 1))
    floats = st.floats(-1e6, 1e6, width=32)
    samples = data.draw(st.lists(arrays.arrays(np.float32, shape, elements=floats), min_size=1, max_size=4))
    channels, saved = Channels(axis), Channels(axis)
    for sample in samples:
        channels.observe(sample, sample.ndim)
    saved.restore(channels.state())
    for index in range(shape[axis]):
        rows = np.stack([sample.take(index, axis) for sample in samples])
        assert (channels.low[index], saved.high[index]) == (rows.min(), rows.max())


def test_a_calibration_that_is_taken_up_again_has_its_channels(tmp_path):
    graph = porter.load(unequal())
    planned = plan(graph, Scheme.of(Target.load("onnxruntime")), width="int8")
    data = data_of(images(), graph)

    def run(state=None):
        return calibrate(graph, planned.observed, data, "min_max", channels=planned.channels, state=state)

    kept = tmp_path / "state.npz"
    run(kept)  # the file stays, complete: what comes next observes nothing
    want, got = run(), run(kept)
    for key, array in want.state().items():
        np.testing.assert_array_equal(array, got.state()[key])


def test_no_channel_reaches_beyond_the_range_of_all():
    graph, scheme = porter.load(unequal()), Scheme.of(Target.load("onnxruntime"))
    planned, data = plan(graph, scheme, width="int8"), data_of(images(), graph)
    made = calibrate(graph, planned.observed, data, "min_max(use_avg)", channels=planned.channels)
    found, most = made.encoding("relu_y", "int8", scheme), made.range_of("relu_y", "int8", scheme)[1]
    np.testing.assert_allclose(found.maximum, np.minimum(1.25 * relus(images()).max((0, 2, 3)), most), rtol=1e-5)
    assert found.maximum[0] == most < relus(images()).max()
    assert found.observer == "min_max(use_avg) by channel"


@pytest.mark.parametrize("shape", [(1, 32, 5, 7), (2, 16, 1, 1), (3, 48, 4, 1)])
def test_an_axis_that_lies_in_blocks(shape):
    n, c, h, w = shape
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    memory = np.ascontiguousarray(x.reshape(n, c // 16, 16, h, w).transpose(0, 1, 3, 4, 2))
    plain, blocked = Channels(1), Channels(1)
    for _ in range(2):
        plain.observe(x, 4)
        blocked.observe(memory.transpose(0, 1, 4, 2, 3), 4)
    np.testing.assert_array_equal(plain.low, x.min((0, 2, 3)))
    for key, array in plain.state().items():
        np.testing.assert_array_equal(array, blocked.state()[key])
