# SPDX-License-Identifier: Apache-2.0
"""Outputs that join tensors of different size: seen, taken apart, cut off, or widened."""

import numpy as np
import onnxruntime
import pytest
import quantize_models as models
import targets_for_tests as targets
from onnx import helper, numpy_helper

import porter
from porter.errors import PorterError
from porter.quantize.compare import judge_outputs
from porter.quantize.engine import quantize
from porter.target import Target

SHAPE = (1, 4, 6, 6)


def images(count=4):
    rng = np.random.default_rng(1)
    return [[rng.normal(size=SHAPE).astype(np.float32)] for _ in range(count)]


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """Everything is an integer to the very end, cat included."""
    return targets.load(tmp_path_factory.mktemp("t"), output_dtypes='["int8", "int16"]')


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """The same, and it decodes boxes too: exp and slices; 16 bits for all kinds."""
    text = targets.BPU.partition("[ops.mul]")[0] + "".join(f"[ops.{kind}]\n" for kind in DECODED)
    return targets.load(
        tmp_path_factory.mktemp("t"), text, output_dtypes='["int8", "int16"]',
        quantized_ops='["conv2d", "add", "mul", "sigmoid", "exp"]', table_ops='["sigmoid", "exp"]',
        passive_ops='["reshape", "permute", "cat", "slice"]',
    )  # fmt: skip


DECODED = ("conv2d", "add", "mul", "sigmoid", "exp", "reshape", "permute", "cat", "slice")


def run(target, model, dtype="int8", **options):
    return quantize(porter.load(model), target, dtype, images(), **options)


def codes(made):
    return {finding.code: finding for finding in made.findings}


def test_a_joined_output_is_dead_at_int8(narrow):
    made = run(narrow, models.decoded())
    assert not made.ok
    assert made.report.outputs[0].dead == [4, 5]
    assert made.report.outputs[0].error.cosine > 0.999
    conflict = codes(made)["PT409"]
    assert conflict.severity == "warning"
    assert conflict.message.startswith("joined: one int8 scale of 4.78")
    assert "scores (up to 0.98" in conflict.message
    assert "--outputs" in conflict.fix


@pytest.mark.parametrize("how", ["separate", "cut"])
def test_the_host_joins_what_the_device_gives(narrow, tmp_path, how):
    made = run(narrow, models.decoded(), outputs=how)
    assert made.ok
    names = [value.name for value in made.graph.outputs]
    assert names == (["boxes", "scores"] if how == "separate" else ["box_raw", "obj_raw"])
    assert made.host.error <= 1e-6
    assert "PT409" not in codes(made)
    made.save(tmp_path / "out")
    device, host = (
        onnxruntime.InferenceSession(tmp_path / "out" / name, providers=["CPUExecutionProvider"])
        for name in ("model_int8.onnx", "host.onnx")
    )
    item = images(1)[0][0]
    parts = dict(zip(names, device.run(None, {"x": item}), strict=True))
    (joined,) = host.run(None, parts)
    want = porter.load(models.decoded()).run([item])[0]
    assert joined.shape == want.shape
    error = np.sqrt(((joined - want) ** 2).mean((0, 2, 3)) / (want**2).mean((0, 2, 3)))
    assert error.max() < 0.02  # each column of its own, the scores too
    assert any("host's part" in note for note in made.report.notes)


def test_sixteen_bits_where_they_are_joined(narrow):
    made = run(narrow, models.decoded(), outputs="int16")
    assert made.ok
    assert made.encodings.activations["joined"].dtype == "int16"
    activations = made.encodings.activations
    # The sigmoid has a form of 16 bits, and reads them; the multiplication (of the target in these tests) has none.
    assert (activations["obj_raw"].dtype, activations["box_unit"].dtype) == ("int16", "int8")
    assert "PT409" not in codes(made)
    # Where operands alone are integers, the layer that reads the joined tensor is the one to widen.
    mix = run(Target.load("mlu270"), models.head(), outputs="int16")
    assert {path: layer.width for path, layer in mix.encodings.layers.items()} == {
        "box": "int8", "obj": "int8", "mix": "int16"}  # fmt: skip
    assert mix.ok


def test_a_decoder_that_takes_apart_what_was_joined(decoder):
    """Boxes and scores meet twice; each of the three ways keeps every score."""
    joined = run(decoder, models.detector())
    assert {4, 5} <= set(joined.report.outputs[0].dead)
    assert joined.report.outputs[0].error.cosine > 0.95
    assert not joined.ok
    found = {how: run(decoder, models.detector(), outputs=how) for how in ("separate", "cut", "int16")}
    ends = {how: [value.name for value in made.graph.outputs] for how, made in found.items()}
    assert ends == {"separate": ["centers", "sizes", "kept"], "cut": ["cls_y", "reg_y"], "int16": ["out"]}
    for how, made in found.items():
        assert made.ok, how
        assert "PT409" not in codes(made), how
        columns = [sqnr for output in made.report.outputs for sqnr in output.columns.sqnr]
        assert min(columns) > 25, how
    # The scores have the scale of a sigmoid, of their own: 1/128 at most.
    assert found["separate"].encodings.activations["scores"].scale[0] < 1 / 128
    kinds = {part: {op.kind for op in g.ops()} for part, g in (("device", found["separate"].graph),
                                                              ("host", found["separate"].host.graph))}  # fmt: skip
    assert "cat" in kinds["host"] - kinds["device"]


@pytest.mark.parametrize("by", models.TAKEN_APART[1:])
def test_tensors_are_taken_apart_by_other_kinds(decoder, by):
    made = run(decoder, models.detector(by=by), outputs="separate")
    assert [value.name for value in made.graph.outputs] == ["centers", "sizes", "kept"]
    assert made.ok
    assert made.encodings.activations["scores"].scale[0] < 1 / 128
    assert made.host.error == 0


@pytest.mark.parametrize("first", [3, 4])
def test_outputs_that_are_pieces_of_what_was_joined(narrow, first):
    """The device gives what was joined, each with its scale, and the host makes the outputs of it."""
    model = models.decoded()
    del model.graph.output[:]
    model.graph.node.append(helper.make_node("Split", ["joined", "sizes"], ["first", "second"], axis=1))
    model.graph.initializer.append(numpy_helper.from_array(np.array([first, 6 - first]), "sizes"))
    for name, channels in (("first", first), ("second", 6 - first)):
        model.graph.output.append(helper.make_tensor_value_info(name, 1, (1, channels, 6, 6)))
    made = run(narrow, model, outputs="separate")
    ends = {value.name for value in made.graph.outputs}
    # Three channels of the boxes are an output themselves; where all four are, nothing of the model is left to be one.
    assert ends == ({"boxes", "first", "scores"} if first == 3 else {"boxes", "scores"})
    assert len(made.host.graph.outputs) == 2
    assert made.encodings.activations["scores"].scale[0] < 1 / 128
    assert made.ok
    assert made.host.error == 0


def test_splits_that_take_nothing_apart_stay(decoder, tmp_path):
    """A split of one tensor, on a target without slices, is no reason to refuse the model."""
    text = decoder.path.read_text().replace("[ops.slice]", "[ops.split]")
    target = targets.load(tmp_path, text)
    model = models.detector(by="Split")
    made = run(target, model, outputs="separate")
    assert [value.name for value in made.graph.outputs] == ["centers", "sizes", "kept"]
    assert not any(op.kind == "slice" for op in made.graph.ops())


def test_a_concatenation_that_requantizes(decoder, tmp_path):
    """Each part has its own scale, and the result another one, under which the scores die all the same."""
    text = decoder.path.read_text().replace('"cat", ', "").replace('"exp"]\n', '"exp", "cat"]\n', 1)
    target = targets.load(tmp_path, text)
    made = run(target, models.detector())
    assert made.encodings.activations["scores"].scale[0] < 1 / 128
    finding = codes(made)["PT409"]
    assert finding.message.startswith("out: one int8 scale of 4.75")
    assert "kept (up to" in finding.message
    assert any(f.code == "PT409" for f in porter.check(models.detector(), target).findings)
    assert run(target, models.detector(), outputs="separate").ok


def test_an_output_that_is_noise_as_a_whole(decoder):
    """No column hides another, and no layer is poor on its own: still it is said."""
    report = run(decoder, models.detector(), outputs="cut").report
    report.outputs[0].error.noise = report.outputs[0].error.signal / 2
    (finding,) = judge_outputs(report)
    assert finding.code == "PT417"
    assert finding.message == "1 of 2 outputs have an SQNR under 10 dB as a whole: cls_y 3.0 dB"


def test_scores_of_zero_and_one_are_lost(decoder):
    """A step of about 1: the scores still vary, and say nothing. The run fails as with dead ones."""
    made = run(decoder, models.detector(stride=20))
    (output,) = made.report.outputs
    assert output.dead == []
    assert output.lost == [4]
    assert 4 not in output.hidden
    assert not made.ok
    assert "column 4 of axis 2 is mostly noise" in codes(made)["PT410"].message
    assert output.to_json()["lost"] == [4]


def test_what_the_target_does_not_run_is_not_taken_apart(decoder, tmp_path):
    """Slices of axis 1 are illegal: the tensors stay joined, and only their slices become outputs."""
    text = decoder.path.read_text().replace(
        "[ops.slice]", '[ops.slice]\nlimits = [{ expr = "rank == 3", why = "three axes" }]'
    )
    made = run(targets.load(tmp_path, text), models.detector(), outputs="separate")
    assert [value.name for value in made.graph.outputs] == ["centers", "sizes", "kept"]
    assert made.encodings.activations["scores"] == made.encodings.activations["raw"]


def test_what_cannot_be_divided(narrow, tmp_path):
    for how, why in (("separate", "no output joins"), ("cut", "nothing follows")):
        with pytest.raises(PorterError, match=why) as error:
            run(narrow, models.head(), outputs=how)
        assert error.value.code == "PT423"
    eight = targets.load(tmp_path, widths='{ int8 = ["int8", "int8"] }', output_dtypes='["int8"]')
    with pytest.raises(PorterError, match="no width with 16-bit") as error:
        run(eight, models.decoded(), outputs="int16")
    assert error.value.code == "PT423"


def test_a_fused_op_stays_on_the_device(narrow):
    model = models.decoded()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    relu = helper.make_node("Relu", ["obj_raw"], ["obj_relu"], name="relu")
    for node in nodes:
        node.input[:] = ["obj_relu" if name == "obj_raw" else name for name in node.input]
        model.graph.node.append(node)
        if node.name == "obj":
            model.graph.node.append(relu)
    made = run(narrow, model, outputs="cut")
    assert [value.name for value in made.graph.outputs] == ["box_raw", "obj_relu"]


def test_other_outputs_of_an_onnx_graph():
    graph = porter.load(models.head())
    item = images(1)[0]
    cut = graph.with_outputs(["scores", "box_raw"])
    want = graph.run(item, ["scores", "box_raw"])[1:]
    for got, value in zip(cut.run(item), want, strict=True):
        np.testing.assert_array_equal(got, value)
    assert "mix" not in {op.name for op in cut.ops()}
    assert [value.name for value in graph.outputs] == ["out"]
    for names in (["x"], ["nothing"], ["scores", "scores"]):
        with pytest.raises(ValueError, match="not computed"):
            graph.with_outputs(names)


def test_other_outputs_of_a_torch_graph(tmp_path):
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Conv2d(4, 4, 1), torch.nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return torch.cat([self.a(x) * 640, torch.sigmoid(self.b(x))], 1)

    graph = porter.load(Model().eval(), {"x": SHAPE})
    (cat,) = (op for op in graph.ops() if op.kind == "cat")
    names = [value.name for value in cat.operands]
    item = images(1)[0]
    cut = graph.with_outputs(names)
    for got, want in zip(cut.run(item), graph.run(item, names)[1:], strict=True):
        np.testing.assert_array_equal(got, want)
    cut.save(tmp_path / "cut.pt2")
    again = porter.load(tmp_path / "cut.pt2")
    np.testing.assert_array_equal(again.run(item)[1], cut.run(item)[1])
    made = quantize(graph, Target.load("mlu270"), "int8", images(), outputs="separate")
    assert [value.name for value in made.graph.outputs] == names
    assert made.host.error < 1e-6
