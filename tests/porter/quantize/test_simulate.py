# SPDX-License-Identifier: Apache-2.0
"""Simulation: every kind against fractions, the two modes against each other, whole models against onnxruntime."""

import dataclasses
import subprocess
import sys
from fractions import Fraction

import numpy as np
import onnx
import onnxruntime
import pytest
import quantize_models as models
import slow
import targets_for_tests as targets
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

import porter
from porter.data import open_data
from porter.errors import PorterError
from porter.quantize import numerics as nm
from porter.quantize.engine import quantize
from porter.quantize.scheme import Scheme
from porter.quantize.simulate import Simulator, simulate
from porter.target import Target

TYPES = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int16": TensorProto.INT16}
STEPS = st.sampled_from([0.5, 0.25, 2.0**-7, 0.1, 0.037, 0.3]) | st.floats(2.0**-10, 1.0, width=32)
ROUNDINGS = st.sampled_from(["half_even", "half_away", "half_up"])


@dataclasses.dataclass
class Tensor:
    """A quantized tensor: its integers, step and zero point."""

    q: np.ndarray
    step: np.ndarray
    zero: np.ndarray
    axis: int | None = None

    def real(self):
        shape = [-1 if i == self.axis else 1 for i in range(self.q.ndim)] if self.axis is not None else ()
        return slow.real(self.q, self.step.reshape(shape), self.zero.reshape(shape))


def tensor(data, shape, dtype=None, axis=None):
    dtype = dtype or data.draw(st.sampled_from(list(TYPES)))
    low, high = nm.qrange(dtype)
    q = data.draw(hnp.arrays(dtype, shape, elements=st.integers(low, high)))
    count = () if axis is None else (shape[axis],)
    step = data.draw(hnp.arrays(np.float32, count, elements=STEPS))
    zero = np.zeros(count, dtype)
    if axis is None and data.draw(st.booleans()):
        zero = np.asarray(data.draw(st.integers(max(low, -200), min(high, 200))), dtype)
    return Tensor(q, step, zero, axis)


def build(make, inputs, constants, result, extra=()):
    """Quantized inputs (fed as integers) and constants, dequantized; ``make(names)`` gives the nodes to "y"; quantized.

    ``extra``: plain initializers.
    """
    nodes, tensors, names = [], [numpy_helper.from_array(a, n) for n, a in extra], []
    for i, t in enumerate([*inputs, *constants]):
        stem = f"t{i}"
        tensors += [numpy_helper.from_array(t.step, f"{stem}_s"), numpy_helper.from_array(t.zero, f"{stem}_z")]
        if i >= len(inputs):
            tensors.append(numpy_helper.from_array(t.q, f"{stem}_q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{stem}_q", f"{stem}_s", f"{stem}_z"], [stem],
                                      axis=t.axis if t.axis is not None else 1))  # fmt: skip
        names.append(stem)
    nodes += make(names)
    tensors += [numpy_helper.from_array(result.step, "y_s"), numpy_helper.from_array(result.zero, "y_z")]
    nodes.append(helper.make_node("QuantizeLinear", ["y", "y_s", "y_z"], ["y_q"]))
    fed = [helper.make_tensor_value_info(f"t{i}_q", TYPES[str(t.q.dtype)], t.q.shape) for i, t in enumerate(inputs)]
    out = helper.make_tensor_value_info("y_q", TYPES[str(result.zero.dtype)], None)
    model = helper.make_model(
        helper.make_graph(nodes, "g", fed, [out], tensors), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    return porter.load(onnx.shape_inference.infer_shapes(model))


def scheme_with(rounding):
    made = Scheme.of(Target.load("onnxruntime"))
    return dataclasses.replace(made, table=dataclasses.replace(made.table, rounding=rounding))


def check(graph, inputs, result, want, rounding, integer=True):
    """Both modes give the integers of ``want`` (fractions), wherever float64 can tell how they round."""
    low, high = nm.qrange(str(result.zero.dtype))
    ratios = [value / Fraction(float(result.step)) for value in want.ravel()]
    expected = [min(max(slow.rounded(r, rounding) + int(result.zero), low), high) for r in ratios]
    runs = [simulate(graph, scheme_with(rounding), [t.q for t in inputs], mode) for mode in ("int", "fake")]
    for run in runs:
        assert run.outputs[0].shape == want.shape
        for got, value, ratio in zip(run.outputs[0].ravel().tolist(), expected, ratios, strict=True):
            assert got == value or slow.near_half(ratio)
        assert bool(run.floating) is not integer
    np.testing.assert_array_equal(runs[0].outputs[0], runs[1].outputs[0])


def result_of(data):
    dtype = data.draw(st.sampled_from(list(TYPES)))
    low, high = nm.qrange(dtype)
    zero = data.draw(st.sampled_from([0, low, 3]) if dtype != "uint8" else st.integers(0, high))
    return Tensor(np.zeros(0), np.asarray(data.draw(STEPS), np.float32), np.asarray(zero, dtype))


# -- products ----------------------------------------------------------------------------------------------------


def fractions(array):
    return np.vectorize(Fraction, otypes=[object])(np.asarray(array, np.float64))


def with_bias(data, nodes, x, w, channels, axis):
    """Perhaps an int32 bias in the accumulator's step, or a float one; (more operand names, tensors, fractions)."""
    kind = data.draw(st.sampled_from(["none", "int32", "float"]))
    if kind == "none":
        return [], [], [], 0
    shape = [-1 if i == axis else 1 for i in range(nodes)]
    if kind == "float":
        bias = data.draw(hnp.arrays(np.float32, (channels,), elements=st.floats(-50, 50, width=32)))
        return (
            ["bias"],
            [],
            [("bias", bias)],
            np.vectorize(Fraction, otypes=[object])(bias.astype(float)).reshape(shape),
        )
    q = data.draw(hnp.arrays(np.int32, (channels,), elements=st.integers(-(2**20), 2**20)))
    step = (x.step * w.step).astype(np.float32)
    made = Tensor(q, step, np.zeros_like(step, dtype=np.int32), None if step.ndim == 0 else 0)
    exact = slow.real(q, 1.0, 0) * np.vectorize(Fraction, otypes=[object])(
        np.float64(x.step) * w.step.astype(np.float64)
    )
    return ["t2"], [made], [], exact.reshape(shape)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 2), ROUNDINGS)
def test_convolution(data, axes, rounding):
    draw = lambda low, high: tuple(data.draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    kernel, stride, dilation = draw(1, 3), draw(1, 2), draw(1, 2)
    padding = tuple(zip(draw(0, 2), draw(0, 2), strict=True))
    groups = data.draw(st.sampled_from([1, 2]))
    size = tuple((k - 1) * d + 1 + extra for k, d, extra in zip(kernel, dilation, draw(0, 2), strict=True))
    x = tensor(data, (1, 2 * groups, *size))
    w = tensor(data, (2 * groups, 2, *kernel), data.draw(st.sampled_from(["int8", "int16"])),
               data.draw(st.sampled_from([None, 0])))  # fmt: skip
    names, more, extra, bias = with_bias(data, axes + 2, x, w, 2 * groups, 1)
    pads = [p[0] for p in padding] + [p[1] for p in padding]

    def make(t):
        attrs = {"strides": stride, "dilations": dilation, "pads": pads, "group": groups}
        return [helper.make_node("Conv", [t[0], t[1], *names], ["y"], **attrs)]

    result = result_of(data)
    graph = build(make, [x], [w, *more], result, extra)
    want = slow.convolve(x.real(), w.real(), stride, padding, dilation, groups) + bias
    check(graph, [x], result, want, rounding)


@settings(max_examples=40, deadline=None)
@given(st.data(), ROUNDINGS)
def test_transposed_convolution(data, rounding):
    stride, kernel = (data.draw(st.integers(1, 2)), 2), (data.draw(st.integers(1, 3)), 2)
    groups = data.draw(st.sampled_from([1, 2]))
    padding = ((0, data.draw(st.integers(0, kernel[0] - 1))), (data.draw(st.integers(0, 1)), 0))
    extra = (0, data.draw(st.integers(0, 1)))
    x = tensor(data, (1, 2 * groups, 2, 3))
    w = tensor(data, (2 * groups, 2, *kernel), "int8", data.draw(st.sampled_from([None, 1])) if groups == 1 else None)
    names, more, plain, bias = with_bias(data, 4, x, w, 2 * groups, 1)
    pads = [p[0] for p in padding] + [p[1] for p in padding]

    def make(t):
        attrs = {"strides": stride, "pads": pads, "group": groups, "output_padding": extra}
        return [helper.make_node("ConvTranspose", [t[0], t[1], *names], ["y"], **attrs)]

    result = result_of(data)
    graph = build(make, [x], [w, *more], result, plain)
    want = slow.convolve_transposed(x.real(), w.real(), stride, padding, (1, 1), groups, extra) + bias
    check(graph, [x], result, want, rounding)


@settings(max_examples=50, deadline=None)
@given(st.data(), ROUNDINGS, st.sampled_from(["linear", "gemm", "matmul", "two"]))
def test_matrix_products(data, rounding, form):
    x = tensor(data, (2, 3) if form in ("linear", "gemm") else (2, 2, 3))
    result = result_of(data)
    if form == "two":  # of two computed tensors
        y = tensor(data, (2, 3, 4))
        graph = build(lambda t: [helper.make_node("MatMul", t, ["y"])], [x, y], [], result)
        check(graph, [x, y], result, x.real() @ y.real(), rounding)
        return
    axis = data.draw(st.sampled_from([None, 0 if form == "linear" else 1]))
    w = tensor(data, (4, 3) if form == "linear" else (3, 4), "int8", axis)
    if form == "matmul":
        graph = build(lambda t: [helper.make_node("MatMul", t, ["y"])], [x], [w], result)
        check(graph, [x], result, x.real() @ w.real(), rounding)
        return
    names, more, plain, bias = with_bias(data, 2, x, w, 4, 1)
    turn = int(form == "linear")

    def make(t):
        return [helper.make_node("Gemm", [t[0], t[1], *names], ["y"], transB=turn)]

    graph = build(make, [x], [w, *more], result, plain)
    check(graph, [x], result, x.real() @ (w.real().T if turn else w.real()) + bias, rounding)


# -- element by element, windows, moves --------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data(), ROUNDINGS, st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Concat"]), st.booleans())
def test_two_operands(data, rounding, op, same):
    a, b = tensor(data, (2, 3)), tensor(data, (2, 3))
    if same:
        b = Tensor(b.q.astype(a.q.dtype), a.step, a.zero)
    if op == "Div":  # by a constant without zeros
        b.q[b.q == b.zero] += np.asarray(1 if b.zero < nm.qrange(str(b.q.dtype))[1] else -1, b.q.dtype)
    attrs = {"axis": 1} if op == "Concat" else {}
    result = result_of(data)
    graph = build(lambda t: [helper.make_node(op, t, ["y"], **attrs)], [a, b], [], result)
    x, y = a.real(), b.real()
    want = {
        "Add": lambda: x + y, "Sub": lambda: x - y, "Mul": lambda: x * y, "Div": lambda: x / y,
        "Max": lambda: np.maximum(x, y), "Concat": lambda: np.concatenate([x, y], 1),
    }[op]()  # fmt: skip
    check(graph, [a, b], result, want, rounding)


def of_one(op, inputs=(), **attrs):
    return lambda t: [helper.make_node(op, [t[0], *inputs], ["y"], **attrs)]


def upsampled(mode, **attrs):
    return of_one("Resize", ["", "factors"], mode=mode, **attrs)


FACTORS = ("factors", np.array([1, 1, 2, 2], np.float32))
ONE = {
    "relu": (of_one("Relu"), (), lambda x: np.maximum(x, Fraction(0))),
    "neg": (of_one("Neg"), (), lambda x: -x),
    "clamp": (
        of_one("Clip", ["low", "high"]),
        (("low", np.float32(-1.5)), ("high", np.float32(2.25))),
        lambda x: np.minimum(np.maximum(x, Fraction(-3, 2)), Fraction(9, 4)),
    ),
    "max_pool": (
        of_one("MaxPool", kernel_shape=[2, 3], strides=[1, 2], pads=[1, 0, 0, 1]),
        (),
        lambda x: slow.pool(x, (2, 3), (1, 2), ((1, 0), (0, 1)), max),
    ),
    "avg_pool": (
        of_one("AveragePool", kernel_shape=[2, 2], strides=[1, 2], pads=[1, 0, 0, 1]),
        (),
        lambda x: slow.pool(x, (2, 2), (1, 2), ((1, 0), (0, 1)), lambda v: sum(v) / len(v)),
    ),
    "avg_pool_with_padding": (
        of_one("AveragePool", kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 0, 0], count_include_pad=1),
        (),
        lambda x: slow.pool(x, (2, 2), (2, 2), ((1, 0), (1, 0)), lambda v: sum(v) / 4),
    ),
    "global_pool": (
        of_one("GlobalAveragePool"),
        (),
        lambda x: x.reshape(1, 2, -1).sum(2).reshape(1, 2, 1, 1) / Fraction(x[0, 0].size),
    ),
    "mean": (
        of_one("ReduceMean", ["axes"], keepdims=0),
        (("axes", np.array([1, 3])),),
        lambda x: x.sum((1, 3)) / Fraction(x.shape[1] * x.shape[3]),
    ),
    "sum": (of_one("ReduceSum", ["axes"], keepdims=1), (("axes", np.array([2])),), lambda x: x.sum(2, keepdims=True)),
    "nearest": (
        upsampled("nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        (FACTORS,),
        lambda x: x.repeat(2, 2).repeat(2, 3),
    ),
    "linear": (upsampled("linear"), (FACTORS,), lambda x: slow.bilinear(x, 2)),
    "transpose": (of_one("Transpose", perm=[0, 2, 3, 1]), (), lambda x: x.transpose(0, 2, 3, 1)),
    "pad": (
        of_one("Pad", ["pads"]),
        (("pads", np.array([0, 0, 1, 0, 0, 0, 0, 2])),),
        lambda x: np.pad(x, ((0, 0), (0, 0), (1, 0), (0, 2)), constant_values=Fraction(0)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE)
@settings(max_examples=15, deadline=None)
@given(st.data(), ROUNDINGS)
def test_one_operand(name, data, rounding):
    make, extra, reference = ONE[name]
    x = tensor(data, (1, 2, 3, 4))
    result = result_of(data)
    graph = build(make, [x], [], result, extra)
    check(graph, [x], result, reference(x.real()), rounding)


@pytest.mark.parametrize("op", ["Relu", "Add"])
def test_what_is_fused_in_front_of_a_quantization_is_rounded_once(op):
    # 0.5 + 0.5 is 1; rounded apart, half to even, it would be 0 + 0.
    x = Tensor(np.full((1, 1, 1, 1), 1, np.int8), np.float32(0.5), np.int8(0))
    w = Tensor(np.full((1, 1, 1, 1), 1, np.int8), np.asarray([1.0], np.float32), np.zeros(1, np.int8), 0)
    result = Tensor(np.zeros(0), np.float32(1.0), np.int8(0))

    def make(t):
        return [helper.make_node("Conv", t[:2], ["c"]), helper.make_node(op, ["c", t[0]][: 1 + (op == "Add")], ["y"])]

    run = simulate(build(make, [x], [w], result), None, [x.q])
    assert run.outputs[0].item() == (1 if op == "Add" else 0)
    assert run.integer == {"conv2d": 1, op.lower(): 1}


# -- tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
@pytest.mark.parametrize("op", ["Sigmoid", "Tanh", "HardSigmoid"])
def test_functions_of_8_bits_are_tables_of_256_entries(monkeypatch, dtype, op):
    low, high = nm.qrange(dtype)
    q = np.random.default_rng(0).integers(low, high, (3, 500), endpoint=True).astype(dtype)
    x = Tensor(q, np.float32(0.05), np.asarray(7, dtype))
    result = Tensor(np.zeros(0), np.float32(1 / 255), np.asarray(-128, np.int8))
    graph = build(of_one(op), [x], [], result)
    sizes = []
    apply = graph.apply
    monkeypatch.setattr(graph, "apply", lambda op, operands: (sizes.append(operands[0].size), apply(op, operands))[1])
    runs = [simulate(graph, None, [q], mode) for mode in ("int", "fake")]
    assert sizes == [256 if dtype != "int16" else q.size, q.size]
    np.testing.assert_array_equal(runs[0].outputs[0], runs[1].outputs[0])
    np.testing.assert_array_equal(runs[0].outputs[0], graph.run([q])[0])


def test_a_16_bit_table_is_said_to_be_uncertain():
    x = Tensor(np.arange(8, dtype=np.int16), np.float32(0.1), np.int16(0))
    graph = build(of_one("Sigmoid"), [x], [], Tensor(np.zeros(0), np.float32(0.01), np.int8(0)))
    made = scheme_with("half_even")
    assert not simulate(graph, made, [x.q]).uncertain
    table = dataclasses.replace(made.table, table_ops=("sigmoid",))
    assert "16-bit" in simulate(graph, dataclasses.replace(made, table=table), [x.q]).uncertain["tables"]


# -- what is not certain -----------------------------------------------------------------------------------------


def test_sums_beyond_the_accumulator_are_counted_and_kept_exact():
    x = Tensor(np.full((3, 4), 32767, np.int16), np.float32(1.0), np.int16(0))
    x.q[1] = 1
    w = Tensor(np.full((5, 4), 32767, np.int16), np.float32(1.0), np.int16(0))
    result = Tensor(np.zeros(0), np.float32(2.0**18), np.int16(0))
    graph = build(lambda t: [helper.make_node("Gemm", t, ["y"], transB=1, name="fc")], [x], [w], result)
    run = simulate(graph, None, [x.q])
    assert run.overflows == {"fc": 10}
    assert "int32 accumulator of the device; whether it wraps or saturates" in run.uncertain["accumulator"]
    assert run.outputs[0][0, 0] == round(4 * 32767**2 / 2**18)
    assert not simulate(graph, None, [x.q], "fake").overflows


def test_halves_are_counted_where_the_target_does_not_say_how_they_round():
    scheme = Scheme.of(Target.load("mlu270"))
    assert not scheme.certain("rounding")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    graph = porter.load(models.model(nodes, {"x": (4,)}, {"y": (4,)}, {"s": np.float32(1), "z": np.int8(0)}))
    run = simulate(graph, scheme, [np.array([0.5, 1.5, 0.25, 3], np.float32)])
    assert run.outputs[0].tolist() == [0, 2, 0, 3]
    assert "2 of 4 values that were quantized lie at a half" in run.uncertain["rounding"]
    assert not simulate(graph, scheme, [np.array([0.1, 1.2, 0.25, 3], np.float32)]).uncertain


# -- whole models ------------------------------------------------------------------------------------------------


def images(count=4, shape=(1, 3, 12, 12)):
    rng = np.random.default_rng(1)
    return [[rng.normal(size=shape).astype(np.float32)] for _ in range(count)]


def steps_to(graph, item, reference):
    """How far each quantization is from onnxruntime's, when everything before it has onnxruntime's integers."""
    names = [op.outputs[0].name for op in graph.ops() if op.kind == "quantize"]
    theirs = dict(zip(names, reference(item, names), strict=True))
    simulator, distances = Simulator(graph), []
    ours = simulator._quantize

    def forced(op, operands):
        want = theirs[op.outputs[0].name]
        distances.append(np.abs(ours(op, operands).astype(int) - want.astype(int)).ravel())
        return want

    simulator._quantize = forced
    simulator.run(item)
    return np.concatenate(distances)


class Reader:
    def __init__(self):
        self._items = iter([{"images": item[0]} for item in images()])

    def get_next(self):
        return next(self._items, None)


@pytest.mark.parametrize("activations", ["QUInt8", "QInt8", "QInt16"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_model_of_onnxruntimes_quantizer_agrees_with_onnxruntime_to_one_step(tmp_path, activations, per_channel):
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    onnx.save(models.small(), tmp_path / "float.onnx")
    quantize_static(
        tmp_path / "float.onnx", tmp_path / "qdq.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=per_channel,
        activation_type=getattr(QuantType, activations), weight_type=QuantType.QInt8,
    )  # fmt: skip
    graph = porter.load(tmp_path / "qdq.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "qdq.onnx", providers=["CPUExecutionProvider"])
    for item in images():
        distances = steps_to(graph, item, lambda item, names: graph.run(item, names)[1:])
        assert distances.max() <= 1
        assert (distances > 0).mean() < 0.002
        run = simulate(graph, None, item)
        assert {"conv2d", "add", "adaptive_avg_pool2d", "gemm"} <= run.integer.keys()
        scale = np.ptp(run.outputs[0]) / 255
        assert np.abs(session.run(None, {"images": item[0]})[0] - run.outputs[0]).max() <= 4 * scale
        np.testing.assert_array_equal(run.outputs[0], simulate(graph, None, item, "fake").outputs[0])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "w8a16"])
def test_a_model_of_our_own_agrees_with_onnxruntime_to_one_step(dtype):
    target = Target.load("onnxruntime")
    graph = porter.load(models.small())
    made = quantize(graph, target, dtype, open_data(images(), graph.inputs), compare=0)
    scheme = Scheme.of(target)
    for item in images():
        distances = steps_to(made.graph, item, lambda item, names: made.graph.run(item, names)[1:])
        assert distances.max() <= 1
        runs = [simulate(made.graph, scheme, item, mode) for mode in ("int", "fake")]
        np.testing.assert_array_equal(runs[0].outputs[0], runs[1].outputs[0])


def test_in_the_flow_of_operands_only_products_are_integers():
    target = Target.load("mlu270")
    graph = porter.load(models.small())
    made = quantize(graph, target, "int8", images(), compare=0)
    path = "stem"
    item = images()[0]
    taps = [op.outputs[0].name for op in made.graph.ops() if op.kind in ("conv2d", "relu")]
    runs = [Simulator(made.graph, Scheme.of(target), mode, taps).run(item) for mode in ("int", "fake")]
    assert runs[0].integer == {"conv2d": 3, "gemm": 1}
    assert runs[0].floating["conv2d"] == 1  # depthwise stays float
    for name in taps:
        np.testing.assert_array_equal(runs[0].taps[name], runs[1].taps[name])
    x, w = made.encodings.input_of(path), made.encodings.weights[path]
    tensors = {t.name: numpy_helper.to_array(t) for t in models.small().graph.initializer}
    qx, qw = x.quantize(item[0], "half_even"), w.quantize(tensors["stem.weight"], "half_even")
    total = slow.convolve(qx.astype(object), qw.astype(object), (2, 2), ((1, 1), (1, 1)), (1, 1), 1).astype(float)
    step = np.float64(np.float32(x.scale[0])) * np.float64(np.float32(w.scale[0]))
    want = (total * step + tensors["stem.bias"].reshape(1, -1, 1, 1)).astype(np.float32)
    np.testing.assert_array_equal(runs[0].taps["stem_y"], want)


@pytest.mark.parametrize(
    ("dtype", "scale"), [("int8", "absmax/-qmin"), ("w8a16", "absmax/-qmin"), ("int8", "power_of_two")]
)
def test_convolutions_of_a_device_that_rounds_half_up(tmp_path, dtype, scale):
    target = targets.load(tmp_path, scale=f'"{scale}"')
    graph = porter.load(models.small())
    made = quantize(graph, target, dtype, images(), compare=0)
    producers, readers = made.graph.producers(), {}
    for op in made.graph.ops():
        for value in op.operands:
            readers.setdefault(value.name, []).append(op)
    names = [op.outputs[0].name for op in made.graph.ops() if op.kind == "quantize"]
    runs = [Simulator(made.graph, Scheme.of(target), mode, names).run(images()[0]) for mode in ("int", "fake")]
    for name in names:
        np.testing.assert_array_equal(runs[0].taps[name], runs[1].taps[name])
    compared = 0
    for op in made.graph.ops():
        after = readers.get(op.outputs[0].name, [])
        sources = [producers[v.name] if v is not None and v.name in producers else None for v in op.inputs[:2]]
        if op.kind != "conv2d" or [a.kind for a in after] != ["quantize"] or any(s is None for s in sources):
            continue
        q = runs[0].taps[sources[0].inputs[0].name]
        x = slow.real(q, sources[0].inputs[1].numpy(), 0)
        w = slow.real(sources[1].inputs[0].numpy(), sources[1].inputs[1].numpy().reshape(-1, 1, 1, 1), 0)
        a = op.attrs
        real = slow.convolve(x, w, a["stride"], a["padding"], a["dilation"], a["groups"])
        if op.inputs[2] is not None:
            bias = producers[op.inputs[2].name].inputs[0].numpy()
            step = np.float64(sources[0].inputs[1].numpy()) * sources[1].inputs[1].numpy().astype(np.float64)
            real = real + (fractions(bias) * fractions(step)).reshape(1, -1, 1, 1)
        low, high = nm.qrange(after[0].attrs["dtype"])
        scale_out = Fraction(float(after[0].inputs[1].numpy()))
        want = [min(max(slow.rounded(v / scale_out, "half_up"), low), high) for v in real.ravel()]
        assert runs[0].taps[after[0].outputs[0].name].ravel().tolist() == want
        compared += 1
    assert compared


def test_both_dialects_give_the_same_integers():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Conv2d(8, 4, 3, groups=2),
        torch.nn.Sigmoid(), torch.nn.Flatten(), torch.nn.Linear(64, 5),
    ).eval()  # fmt: skip
    graph = porter.load(net, {"images": (1, 3, 12, 12)})
    target = Target.load("onnxruntime")
    made = quantize(graph, target, "int8", images(), compare=0)
    from porter.dialects.onnx import OnnxGraph

    twin = OnnxGraph.from_graph(made.graph, 17)
    names = [op.outputs[0].name for op in made.graph.ops() if op.kind == "quantize"]
    for item in images():
        a, b = (simulate(g, Scheme.of(target), item, "int", names) for g in (made.graph, twin))
        for name in names:
            np.testing.assert_array_equal(a.taps[name], b.taps[name])
        assert a.integer["conv2d"] == b.integer["conv2d"] == 2
        assert a.integer["linear"] == b.integer["gemm"] == 1


# -- bad input ---------------------------------------------------------------------------------------------------


def test_wrong_inputs_and_taps_are_named():
    x = Tensor(np.zeros((2, 3), np.int8), np.float32(1), np.int8(0))
    graph = build(of_one("Relu"), [x], [], x)
    with pytest.raises(PorterError, match="no value 'nowhere'"):
        simulate(graph, None, [x.q], taps=["nowhere"])
    with pytest.raises(PorterError, match=r"shape \[2, 3\], not \[3, 2\]"):
        simulate(graph, None, [x.q.T])
    with pytest.raises(PorterError, match="int8, not float32"):
        simulate(graph, None, [x.q.astype(np.float32)])


def test_taps_are_integers_where_the_graph_has_integers():
    x = Tensor(np.arange(6, dtype=np.int8).reshape(2, 3), np.float32(0.5), np.int8(1))
    graph = build(of_one("Relu"), [x], [], x)
    run = simulate(graph, None, [x.q], taps=["t0", "y", "y_q"])
    assert run.taps["y_q"].dtype == np.int8
    np.testing.assert_array_equal(run.taps["t0"], (x.q - 1) * np.float32(0.5))
    np.testing.assert_array_equal(run.taps["y"], np.maximum(run.taps["t0"], 0))


def test_the_onnx_path_never_imports_torch(tmp_path):
    x = Tensor(np.zeros((2, 3), np.int8), np.float32(1), np.int8(0))
    build(of_one("Relu"), [x], [], x).save(tmp_path / "m.onnx")
    code = (
        "import sys, numpy, porter; from porter.quantize.simulate import simulate\n"
        f"print(porter.run({str(tmp_path / 'm.onnx')!r}).outputs['y_q'].shape, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split("\n")[0] == "(2, 3) False"
