# SPDX-License-Identifier: Apache-2.0
"""The engine on small ONNX models, against integers computed by hand and against onnxruntime."""

import ast
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import quantize_models as models

import porter
from porter.data import Preprocess, open_data
from porter.errors import PorterError, explain
from porter.quantize import kernels
from porter.quantize import numerics as nm
from porter.quantize.encodings import Encodings
from porter.quantize.engine import insert, quantize
from porter.target import Target


@pytest.fixture(scope="module")
def target():
    return Target.load("mlu270")


def images(count=6, shape=(1, 3, 12, 12), seed=1, scale=1.0):
    rng = np.random.default_rng(seed)
    return [[(rng.normal(size=shape) * scale).astype(np.float32)] for _ in range(count)]


def run(target, model, dtype="int8", data=None, **options):
    graph = porter.load(model)
    return quantize(graph, target, dtype, images() if data is None else data, **options)


def integer_small(made, x):
    """small() with true integers, where it is quantized, written out by hand."""
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in models.small().graph.initializer}
    dtype, encodings = made.encodings.dtype, made.encodings
    per_channel = encodings.weights["stem"].axis is not None

    def layer(path, x, bias, **attrs):
        of_input, of_weight = encodings.input_of(path), encodings.weights[path]
        qx = nm.quantize(x, of_input.step, dtype)
        qw = nm.quantize(tensors[f"{path}.weight"], of_weight.step, dtype, axis=of_weight.axis)
        how = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1, **attrs}
        total = kernels.multiply(qx, qw.T) if path == "fc" else kernels.convolve(qx, qw, **how)
        shape = (1, -1, *(1,) * (total.ndim - 2))
        y = total * (float(of_input.step) * of_weight.step.astype(float).reshape(shape if per_channel else ()))
        return (y if bias is None else y + bias.reshape(shape)).astype(np.float32)

    y = layer("stem", x, tensors["stem.bias"], stride=(2, 2), padding=((1, 1), (1, 1)))
    shape = (1, -1, 1, 1)
    mean, var = tensors["bn.running_mean"].reshape(shape), tensors["bn.running_var"].reshape(shape)
    y = (y - mean) / np.sqrt(var + 1e-5) * tensors["bn.weight"].reshape(shape) + tensors["bn.bias"].reshape(shape)
    y = kernels.conv2d_float(np.maximum(y, 0), tensors["dw.weight"], None, padding=((1, 1), (1, 1)), groups=8)
    y = layer("left", y, None) + layer("right", y, tensors["right.bias"], padding=((1, 1), (1, 1)), groups=2)
    return layer("fc", y.mean((2, 3)), tensors["fc.bias"])


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_the_simulation_is_the_integer_network(target, dtype, per_channel):
    made = run(target, models.small(), dtype, per_channel=per_channel)
    off = 0
    for item in images():
        got, want = made.graph.run(item)[0], integer_small(made, item[0])
        # Float rounding before a later quantize can move a value over the middle between two steps: one step then.
        step = made.encodings.input_of("fc").scale[0] * np.abs(models_weight("fc.weight")).sum(1).max()
        assert np.abs(got - want).max() <= step * 1.01
        off += np.abs(got - want).max() > 1e-5 * np.abs(want).max()
    assert off <= 1
    assert made.ok


def models_weight(name):
    return next(onnx.numpy_helper.to_array(t) for t in models.small().graph.initializer if t.name == name)


def test_scales_are_those_of_the_extremes(target):
    made = run(target, models.small(), "int16")
    data = images()
    top = max(np.abs(item[0]).max() for item in data)
    stem = made.encodings.input_of("stem")
    assert stem.absmax == (pytest.approx(top),)
    assert stem.scale[0] == np.float32(top / 32767)
    float_graph = porter.load(models.small())
    extremes = np.array([[t.min(), t.max()] for t in (float_graph.run(item, ["dw_y"])[1] for item in data)])
    right = made.encodings.input_of("right")
    # Calibration lets onnxruntime fuse ops: its values may differ by a rounding.
    assert right.minimum[0] == pytest.approx(extremes[:, 0].min(), rel=1e-6)
    assert right.maximum[0] == pytest.approx(extremes[:, 1].max(), rel=1e-6)
    weight = models_weight("right.weight")
    assert made.encodings.weights["right"].scale[0] == np.float32(np.abs(weight).max() / 32767)
    channels = run(target, models.small(), "int8", per_channel=True).encodings.weights["right"]
    assert channels.axis == 0
    np.testing.assert_array_equal(channels.step, (np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32))


def test_depthwise_runs_in_float_and_keeps_its_encodings(target):
    made = run(target, models.small())
    assert not made.encodings.layers["dw"].quantized
    assert {path for path, layer in made.encodings.layers.items() if layer.quantized} == {"stem", "left", "right", "fc"}
    kinds = [op.kind for op in made.graph.ops()]
    assert kinds.count("quantize") == 3  # left and right read the same value under the same scale
    assert kinds.count("dequantize") == 3 + 4
    assert "dw" in made.encodings.weights
    assert any("dw" in note for note in made.report.notes)
    assert made.report.float_kinds["conv2d"] == 1


def test_the_float_model_is_not_changed_and_names_stay(target):
    graph = porter.load(models.small())
    before = [repr(op) for op in graph.ops()]
    reference = graph.run(images()[0])
    made = quantize(graph, target, "int8", images())
    assert [repr(op) for op in graph.ops()] == before
    np.testing.assert_array_equal(graph.run(images()[0])[0], reference[0])
    assert [v.name for v in made.graph.outputs] == ["out"]
    assert {"stem_y", "left_y", "right_y"} <= set(made.graph.producers())
    conv = made.graph.producers()["right_y"]
    assert conv.origin.rules == ("quantize",)


def test_int16_is_indistinguishable_and_int8_is_not(target):
    int16, int8 = run(target, models.small(), "int16"), run(target, models.small(), "int8")
    assert int16.report.outputs[0].error.sqnr > 60
    assert 20 < int8.report.outputs[0].error.sqnr < 50
    for made in (int16, int8):
        for layer in made.report.layers:
            assert (layer.single is not None) == layer.quantized
            assert layer.accumulated.count > 0
            if layer.single is not None:
                assert layer.single.sqnr > (60 if made is int16 else 20)


def test_single_layer_error_is_that_of_the_layer_alone(target):
    made = run(target, models.small(), skip=["left", "right", "fc"])
    by_path = {layer.path: layer for layer in made.report.layers}
    # stem is now the only quantized layer, and its input is the model's: alone and accumulated are the same.
    stem = by_path["stem"]
    assert stem.single.sqnr == pytest.approx(stem.accumulated.sqnr, abs=0.01)
    everything = {layer.path: layer for layer in run(target, models.small()).report.layers}
    only = {layer.path: layer for layer in run(target, models.small(), skip=["stem", "left", "fc"]).report.layers}
    assert everything["right"].single.sqnr == pytest.approx(only["right"].accumulated.sqnr, abs=0.01)
    assert everything["right"].accumulated.sqnr < everything["right"].single.sqnr


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_the_simulation_agrees_with_onnxruntime(target, tmp_path, dtype):
    made = run(target, models.small(), dtype)
    made.save(tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / f"model_{dtype}.onnx", providers=["CPUExecutionProvider"])
    unit = made.encodings.input_of("fc").scale[0] * np.abs(models_weight("fc.weight")).sum(1).max()
    for item in images():
        got = session.run(None, {"images": item[0]})[0]
        assert np.abs(got - made.graph.run(item)[0]).max() <= unit


def test_one_quantized_convolution_agrees_with_onnxruntime_to_one_step(target, tmp_path):
    made = run(target, models.head(), "int8", images(4, (1, 4, 6, 6)), skip=["box", "obj"])
    made.save(tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model_int8.onnx", providers=["CPUExecutionProvider"])
    step = made.encodings.input_of("mix").scale[0] * made.encodings.weights["mix"].scale[0] * 127
    for item in images(4, (1, 4, 6, 6)):
        difference = np.abs(session.run(None, {"x": item[0]})[0] - made.graph.run(item)[0])
        assert difference.max() <= step * 1.001


def test_a_module_called_twice_has_one_input_scale(target):
    data = images(3, (1, 2, 3, 3))
    made = run(target, models.shared(), "int8", data)
    assert list(made.encodings.layers) == ["m"]
    layer = made.encodings.layers["m"]
    assert layer.inputs == ("x", "wide")
    top = max(np.abs(item[0]).max() for item in data) * 10
    assert made.encodings.input_of("m").absmax[0] == pytest.approx(top, rel=1e-6)
    scales = {op.inputs[1].numpy().item() for op in made.graph.ops() if op.kind == "quantize"}
    assert scales == {made.encodings.input_of("m").scale[0]}


def test_boxes_and_scores_under_one_scale_are_seen_before_and_after(target):
    data = images(4, (1, 4, 6, 6))
    made = run(target, models.head(), "int8", data)
    assert not made.ok
    codes = {finding.code: finding for finding in made.findings}
    assert codes["PT410"].severity == "error"
    assert made.report.outputs[0].dead == [4, 5]
    assert made.report.outputs[0].error.cosine > 0.999  # which is why cosine alone is no measure
    assert made.report.outputs[0].columns.sqnr[:4].min() > 20
    conflict = codes["PT409"]
    assert conflict.severity == "warning"
    assert "scores" in conflict.message
    assert "rounds to zero" in conflict.message
    assert conflict.message.startswith("mix: ")
    assert "DEAD" in made.report.text()
    fine = run(target, models.head(), "int16", data)
    assert fine.ok
    assert fine.report.outputs[0].dead == []
    assert "PT409" not in {finding.code for finding in fine.findings}


def test_a_decode_that_stays_in_float_is_said_to(target):
    made = run(target, models.decoded(), "int8", images(4, (1, 4, 6, 6)))
    assert made.ok
    note = next(finding for finding in made.findings if finding.code == "PT409")
    assert note.severity == "note"
    assert "stays in float" in note.message
    assert made.report.outputs[0].dead == []
    assert any("stays in float" in note for note in made.report.notes)


def test_nan_inside_the_model_names_layer_and_origin(target):
    good, bad = np.ones((1, 1, 2, 2), np.float32), np.full((1, 1, 2, 2), -1, np.float32)
    with pytest.raises(PorterError) as error:
        run(target, models.logarithm(), "int8", [[good], [bad]])
    assert error.value.code == "PT407"
    assert "layer b (log_y)" in error.value.message
    assert "the_log" in error.value.message


def test_nan_in_a_weight(target):
    model = models.shared()
    model.graph.initializer[0].CopyFrom(models.constant("m.weight", np.full((2, 2, 1, 1), np.nan, np.float32)))
    with pytest.raises(PorterError, match=r"weight of layer m|layer m") as error:
        run(target, model, "int8", images(1, (1, 2, 3, 3)))
    assert error.value.code == "PT407"


def test_zero_tensors_have_scale_one(target):
    model = models.shared()
    model.graph.initializer[0].CopyFrom(models.constant("m.weight", np.zeros((2, 2, 1, 1), np.float32)))
    made = run(target, model, "int8", [[np.zeros((1, 2, 3, 3), np.float32)]])
    assert made.encodings.input_of("m").scale == (1.0,)
    assert made.encodings.weights["m"].scale == (1.0,)
    assert [finding.code for finding in made.findings].count("PT411") == 2
    assert not made.graph.run([np.ones((1, 2, 3, 3), np.float32)])[0].any()
    np.testing.assert_array_equal(made.state_dict()["m.scale"], [1.0, 1.0])


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"dtype": "int4"}, "PT416", "int8, int16"),
        ({"observer": "klx"}, "PT408", "percentile"),
        ({"observer": "min_max(percentile=3)"}, "PT408", "does not take"),
        ({"skip": ["rigt"]}, "PT414", "Did you mean right"),
        ({"data": []}, "PT401", "no sample"),
        ({"data": [[np.zeros((1, 3, 5, 5), np.float32)]]}, "PT402", "1x3x12x12"),
        ({"column_axes": {"out": 7}}, "PT416", "axis 7"),
        ({"first_conv": True}, "PT418", "preprocessing spec"),
    ],
)
def test_wrong_options(target, options, code, message):
    with pytest.raises(PorterError, match=message) as error:
        run(target, models.small(), **options)
    assert error.value.code == code
    assert code in explain(code)


def test_a_model_without_convolutions(target):
    node = onnx.helper.make_node("Sigmoid", ["x"], ["y"], name="unit")
    with pytest.raises(PorterError, match="nothing to quantize") as error:
        run(target, models.model([node], {"x": (1, 4)}, {"y": (1, 4)}, {}), data=images(1, (1, 4)))
    assert error.value.code == "PT415"


def test_power_of_two_scales(target):
    made = run(target, models.small(), scale_rule="power_of_two")
    for encoding in [*made.encodings.activations.values(), *made.encodings.weights.values()]:
        assert encoding.scale[0] == 2.0 ** encoding.position[0]
        assert encoding.absmax[0] / encoding.scale[0] >= 64
    assert made.report.outputs[0].error.sqnr > 15


def test_progress_counts_every_run(target):
    seen = []
    run(target, models.small(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 10) for n in range(1, 11)]  # 6 samples, then 4 compared


def test_wrong_pixel_range_is_noticed_by_the_batch_norm(target):
    assert "PT406" not in {finding.code for finding in run(target, models.small()).findings}
    found = run(target, models.small(), data=images(scale=255.0)).findings
    assert any(f.code == "PT406" and "batch norm" in f.message for f in found)


def test_an_outlier_among_the_samples_is_named(target):
    data = images(9)
    assert "PT406" not in {finding.code for finding in run(target, models.small(), data=data).findings}
    data[5] = [data[5][0] * 60]
    finding = next(f for f in run(target, models.small(), data=data).findings if "typical" in f.message)
    assert finding.code == "PT406"
    assert "sample 5" in finding.message


def test_memory_does_not_grow_with_the_samples(target):
    graph = porter.load(models.small())

    def peak(count):
        def samples():
            rng = np.random.default_rng(0)
            for _ in range(count):
                yield [rng.normal(size=(1, 3, 12, 12)).astype(np.float32)]

        class Loader:
            def __len__(self):
                return count

            def __iter__(self):
                return samples()

        tracemalloc.start()
        quantize(graph, target, "int8", Loader(), observer="percentile")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2)  # caches of the runtime
    few, many = peak(200), peak(800)
    assert many < few * 1.2 + 2**16


def test_encodings_survive_json_and_make_the_same_simulation(target, tmp_path):
    made = run(target, models.small(), "int16", per_channel=True)
    made.encodings.save(tmp_path / "e.json")
    read = Encodings.load(tmp_path / "e.json")
    assert read == made.encodings
    again = insert(porter.load(models.small()), read)
    for item in images(2):
        np.testing.assert_array_equal(again.run(item)[0], made.graph.run(item)[0])


def test_encodings_of_another_model_are_refused(target):
    encodings = run(target, models.small()).encodings
    with pytest.raises(PorterError, match="has other weights") as error:
        encodings.check(porter.load(models.small(seed=3)))
    assert error.value.code == "PT413"
    with pytest.raises(PorterError, match="has no conv2d stem"):
        encodings.check(porter.load(models.head()))
    del encodings.layers["right"]
    with pytest.raises(PorterError, match="do not know its conv2d right"):
        encodings.check(porter.load(models.small()))


def test_first_conv_takes_pixels(target, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for index in range(2):
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    spec = Preprocess(scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.25, 0.25, 0.5))
    graph = porter.load(models.small())
    data = open_data(tmp_path, graph.inputs, spec)
    made = quantize(graph, target, "int8", data, first_conv=True)
    assert made.first_conv.path == "stem"
    state = made.state_dict()
    np.testing.assert_allclose(state["stem.input_mean"].ravel(), [127.5, 102, 76.5], rtol=1e-6)
    np.testing.assert_allclose(state["stem.input_std"].ravel(), [63.75, 63.75, 127.5], rtol=1e-6)
    assert state["stem.input_mean"].shape == (1, 3, 1, 1)
    with pytest.raises(PorterError, match="int8 only") as error:
        quantize(graph, target, "int16", data, first_conv=True)
    assert error.value.code == "PT418"


ENGINE = sorted((Path(porter.__file__).parent / "quantize").glob("*.py"))


def test_the_engine_imports_neither_torch_nor_onnx():
    modules = ", ".join(f"porter.quantize.{path.stem}" for path in ENGINE if path.stem != "__init__")
    code = (
        f"import sys, porter.data, {modules}\n"
        "print([name for name in ('torch', 'onnx', 'onnxruntime', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", ENGINE, ids=lambda path: path.stem)
def test_no_module_of_the_engine_imports_both_frameworks(path):
    """Not inside its functions either."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    assert not {"torch"} & names or not {"onnx", "onnxruntime"} & names


def test_ops_that_all_stay_float_are_nothing_to_quantize():
    """In the flow of tensors an Add among floats stays one: there is then no range to find."""
    nodes = [onnx.helper.make_node("Exp", ["x"], ["e"]), onnx.helper.make_node("Where", ["c", "e", "x"], ["y"])]
    inputs = [onnx.helper.make_tensor_value_info("x", 1, (1, 4)), onnx.helper.make_tensor_value_info("c", 9, (1, 4))]
    graph = onnx.helper.make_graph(nodes, "g", inputs, [onnx.helper.make_tensor_value_info("y", 1, (1, 4))])
    net = porter.load(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]))
    data = [[np.ones((1, 4), np.float32), np.ones((1, 4), bool)]]
    with pytest.raises(PorterError, match=r"stays in float") as error:
        porter.quantize(net, "onnxruntime", data, dtype="int8")
    assert error.value.code == "PT415"
