# SPDX-License-Identifier: Apache-2.0
"""The stages, one after the other, on a model that trains in seconds; kills, resumption, and what can go wrong."""

from __future__ import annotations

import json
import shutil
import signal

import numpy as np
import pytest
import tiny
import torch
from forked import resumed, run_forked

from porter.errors import PorterError
from porter.train import checkpoint
from porter.train.build import build
from porter.train.config import load_config
from porter.train.events import Events
from porter.train.predict import predict, stage_network, validate
from porter.train.qat import IntNetwork, QatNetwork
from porter.train.stages import emitted_onnx, open_integers, train

STAGES = ["float", "calibration", "qat", "int_infer"]


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the training that has gone through all stages, to be changed."""
    shutil.copytree(trained[0].parent / "runs", tmp_path / "runs")
    return tiny.write(tmp_path)


def weights(config, stage, which="best"):
    path = (checkpoint.best_path if which == "best" else checkpoint.last_path)(load_config(config), stage)
    return checkpoint.read(path)


def same(one, other):
    assert set(one.tensors) == set(other.tensors)
    return [name for name, t in one.tensors.items() if not torch.equal(t, other.tensors[name])] == []


# -- the stages ------------------------------------------------------------------------------------------------------


def test_every_stage_makes_what_the_next_one_takes(trained):
    config, results = trained
    assert results["float"].metrics["accuracy"] > 0.6
    assert results["calibration"].metrics["accuracy"] > results["float"].metrics["accuracy"] - 0.1
    assert results["qat"].metrics["accuracy"] > results["float"].metrics["accuracy"] - 0.1
    assert [len(results[stage].epochs) for stage in STAGES] == [4, 0, 2, 0]
    for result in results.values():
        assert result.ok and all(path.exists() for path in result.written)
    saved = weights(config, "float")
    assert saved.facts["task_name"] == "quadrants" and saved.facts["metrics"] == results["float"].metrics


def test_the_best_is_the_best(trained):
    for stage in ("float", "qat"):
        result = trained[1][stage]
        values = [epoch.metrics["accuracy"] for epoch in result.epochs]
        assert result.metrics["accuracy"] == max(values)
        best = [max(values[: i + 1]) > max([*values[:i], -1.0]) for i in range(len(values))]
        assert [epoch.best for epoch in result.epochs] == best


def test_the_best_float_checkpoint_is_the_average(trained):
    best, last = weights(trained[0], "float").part("model"), weights(trained[0], "float", "last")
    number = weights(trained[0], "float").facts["epoch"]
    if number == len(trained[1]["float"].epochs) - 1:
        assert all(torch.equal(best[name], tensor) for name, tensor in last.part("average").items())
    assert not torch.equal(best["cls.weight"], last.part("model")["cls.weight"])


def test_predict_finds_what_the_stages_found(trained):
    config, results = trained
    rows = predict(config, STAGES).rows
    assert [row.stage for row in rows] == STAGES
    for row in rows[:3]:
        assert dict(row.metrics) == dict(results[row.stage].metrics)
    assert rows[3].metrics["count"] == 25
    # Integers differ from the fake quantization of training only where a rounding falls the other way.
    assert abs(rows[3].metrics["accuracy"] - rows[2].metrics["accuracy"]) <= 0.04


def test_the_integers_are_those_of_the_trained_network(trained):
    config = load_config(trained[0])
    network, integers = stage_network(config, "qat"), open_integers(config, "the test")
    assert isinstance(network, QatNetwork)
    network.eval()
    rng = np.random.default_rng(0)
    for _ in range(4):
        x = rng.uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)
        with torch.no_grad():
            fake = [one.numpy() for one in network(torch.from_numpy(x))]
        outputs = integers(x)
        assert [one.dtype for one in outputs] == [np.int16, np.int16]
        for output, real, soft in zip(integers.outputs, integers.real(outputs), fake, strict=True):
            np.testing.assert_allclose(real, soft, rtol=0, atol=output.scale * 2)


def test_what_was_emitted_is_the_same_bit_for_bit(trained):
    made = validate(trained[0])
    assert made.ok and made.images == 25 and made.elements == 25 * 5 and made.different == ()
    assert dict(made.metrics) == dict(predict(trained[0], ["int_infer"]).rows[0].metrics)


def test_what_was_emitted_and_changed_is_told(copied):
    import onnx
    from onnx import numpy_helper

    path = emitted_onnx(load_config(copied))
    model = onnx.load(str(path))
    bias = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT32)
    values = numpy_helper.to_array(bias).copy()
    values += 5000
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    path.unlink()
    onnx.save(model, str(path))
    made = validate(copied)
    assert not made.ok and made.different
    assert all(one.images > 0 and one.elements > 0 and one.largest > 0 for one in made.different)


def test_the_deploy_folder(trained):
    folder = emitted_onnx(load_config(trained[0])).parent
    record = json.loads((folder / "emission.json").read_text())
    assert [one["name"] for one in record["outputs"]] == ["cls", "size"]
    assert {path.name for path in folder.iterdir()} >= {
        "model.onnx", "model_qdq.onnx", "model_traced.pt", "encodings.json",
    }  # fmt: skip


def test_the_deploy_model_may_lack_what_training_has(tmp_path, trained):
    shutil.copytree(trained[0].parent / "runs", tmp_path / "runs")
    only_cls = (
        "class OnlyCls(Net):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        del self.size\n"
        "    def forward(self, img):\n"
        "        return self.cls(self.body(img))\n"
        "deploy_model = OnlyCls\n"
        "output_names = None\n"
    )
    config = tiny.write(tmp_path, extra=only_cls)
    result = train(config, "int_infer")
    assert any("has no place for" in finding.message for finding in result.findings)
    integers = open_integers(load_config(config), "the test")
    full = open_integers(load_config(trained[0]), "the test")
    x = np.random.default_rng(1).uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)
    assert len(integers.outputs) == 1
    np.testing.assert_array_equal(integers(x)[0], full(x)[0])


def test_without_qat_integers_come_from_calibration(tmp_path, trained):
    shutil.copytree(trained[0].parent / "runs", tmp_path / "runs")
    for path in (tmp_path / "runs").glob("qat-*"):
        path.unlink()
    config = tiny.write(tmp_path, extra="qat_trainer = None\ncompile_cfg = dict(formats=('qdq',), name='net')\n")
    train(config, "int_infer")
    assert emitted_onnx(load_config(config)) == tmp_path / "runs" / "compile" / "net" / "model_qdq.onnx"
    assert validate(config).ok


def test_with_bn_trains_and_ends_in_the_same_integers_everywhere(tmp_path, trained):
    shutil.copytree(trained[0].parent / "runs", tmp_path / "runs", ignore=shutil.ignore_patterns("qat-*"))
    config = tiny.write(
        tmp_path, ("    num_epochs=2,", "    num_epochs=2, qat_mode='with_bn', freeze_bn_after=1, ema=0.5,")
    )
    train(config, "calibration")
    result = train(config, "qat")
    best = weights(config, "qat").part("model")
    assert "body.1.running_mean" in best and result.metrics["accuracy"] > 0.5
    before = weights(config, "calibration").part("model")
    assert not torch.equal(best["body.1.running_mean"], before["body.1.running_mean"])
    train(config, "int_infer")
    assert validate(config).ok


def test_batch_norms_keep_their_statistics_from_an_epoch_on(tmp_path):
    statistics = {}
    for name, change in (("one", "num_epochs=1,"), ("frozen", "num_epochs=3, freeze_bn_after=1,")):
        folder = tmp_path / name
        folder.mkdir()
        config = tiny.write(folder, ("    num_epochs=4,", f"    {change}"))
        train(config, "float")
        statistics[name] = weights(config, "float", "last").part("model")["body.1.running_mean"]
    assert torch.equal(statistics["one"], statistics["frozen"])


def test_a_pretrained_file_begins_the_float_stage(tmp_path, trained):
    source = checkpoint.best_path(load_config(trained[0]), "float")
    change = f"    converters=[dict(type='LoadCheckpoint', path={str(source)!r})],\n    ema=0.9,"
    config = load_config(tiny.write(tmp_path, ("    ema=0.9,", change)))
    built = build(config, "float")
    state = weights(trained[0], "float").part("model")
    assert all(torch.equal(tensor, state[name]) for name, tensor in built.network.state_dict().items())
    assert built.origin == {str(source): checkpoint.digest(source)}


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (["Float2QAT", "Float2QAT"], "converted already"),
        (["QAT2Quantize"], "Float2QAT"),
    ],
)
def test_converters_in_an_order_that_cannot_be(tmp_path, kinds, words):
    given = ", ".join(f"dict(type={kind!r})" for kind in kinds)
    config = tiny.write(tmp_path, extra=f"int_infer_trainer = dict(converters=[{given}])\n")
    with pytest.raises(PorterError, match=words) as caught:
        train(config, "int_infer")
    assert caught.value.code == "PT701" and "['converters'][" in str(caught.value)


def test_without_a_metric_the_loss_chooses(tmp_path):
    config = tiny.write(tmp_path, ("metric = Accuracy", ""), ('monitor = "accuracy"', ""), ("ema=0.9,", ""))
    result = train(config, "float")
    losses = [sum(epoch.losses.values()) for epoch in result.epochs]
    assert result.metrics is None and result.monitor == "loss"
    best = [epoch for epoch in result.epochs if epoch.best][-1]
    assert sum(best.losses.values()) == min(losses)
    assert weights(config, "float").facts["epoch"] == best.number


def test_validation_every_so_many_epochs_and_at_the_end(tmp_path):
    config = tiny.write(tmp_path, ("    ema=0.9,", "    val_interval=3, clip_grad=1.0,"))
    assert [epoch.metrics is not None for epoch in train(config, "float").epochs] == [False, False, True, True]


# -- kills and resumption --------------------------------------------------------------------------------------------

KILL = """
_calls = 0
_plain = loss
def loss(outputs, batch):
    global _calls
    _calls += 1
    if str(_calls) == os.environ.get("KILL_STEP"):
        os.kill(os.getpid(), signal.SIGKILL)
    return _plain(outputs, batch)

_validations = 0
class Accuracy(Accuracy):
    def compute(self):
        global _validations
        _validations += 1
        if str(_validations) == os.environ.get("KILL_VALIDATION"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().compute()
metric = Accuracy

if "KILL_WRITE" in os.environ:
    import contextlib
    import porter.train.checkpoint as _checkpoint
    _whole, _writes = _checkpoint.atomic_file, 0
    @contextlib.contextmanager
    def _cut(path, overwrite):
        global _writes
        _writes += 1
        with _whole(path, overwrite) as temporary:
            yield temporary
            if str(_writes) == os.environ["KILL_WRITE"]:
                os.truncate(temporary, 1000)
                os.kill(os.getpid(), signal.SIGKILL)
    _checkpoint.atomic_file = _cut
"""
# Every epoch of the four has four steps, and writes the best (each is) and the last. The first validation is a trial.
KILLS = [
    ({"KILL_STEP": "1"}, 0), ({"KILL_STEP": "7"}, 1), ({"KILL_STEP": "9"}, 2), ({"KILL_VALIDATION": "3"}, 1),
    ({"KILL_WRITE": "3"}, 1), ({"KILL_WRITE": "4"}, 1),
]  # fmt: skip


@pytest.mark.parametrize(("when", "kept"), KILLS)
def test_a_killed_training_goes_on_as_if_nothing_had_been(tmp_path, trained, when, kept):
    config = tiny.write(tmp_path, extra=KILL)
    assert run_forked(resumed, config, "float", **when) == [(-signal.SIGKILL, None)]
    said = []
    result = train(config, "float", events=Events(note=said.append))
    assert result.resumed == kept and len(result.epochs) == 4
    assert bool(said) == (kept > 0)
    assert same(weights(config, "float"), weights(trained[0], "float"))
    assert same(weights(config, "float", "last"), weights(trained[0], "float", "last"))
    assert [e.metrics for e in result.epochs] == [e.metrics for e in trained[1]["float"].epochs]
    assert [p.name for p in (tmp_path / "runs").iterdir() if p.name.startswith(".porter-")] == []


def test_a_killed_qat_goes_on_as_if_nothing_had_been(copied, trained):
    folder = copied.parent
    for path in (folder / "runs").glob("qat-*"):
        path.unlink()
    config = tiny.write(folder, extra=KILL)
    assert run_forked(resumed, config, "qat", KILL_STEP="6") == [(-signal.SIGKILL, None)]
    assert train(config, "qat").resumed == 1
    assert same(weights(config, "qat", "last"), weights(trained[0], "qat", "last"))


def test_a_finished_stage_is_not_trained_again_unless_asked(copied):
    before = checkpoint.last_path(load_config(copied), "float").stat().st_mtime_ns
    said = []
    result = train(copied, "float", events=Events(note=said.append))
    assert result.resumed == 4 and "--restart" in said[0]
    assert checkpoint.last_path(load_config(copied), "float").stat().st_mtime_ns == before
    assert train(copied, "float", restart=True).resumed == 0


def test_more_epochs_go_on_from_the_last(copied):
    config = tiny.write(copied.parent, ("num_epochs=4", "num_epochs=5"))
    result = train(config, "float")
    assert result.resumed == 4 and [epoch.number for epoch in result.epochs] == [0, 1, 2, 3, 4]


def test_settings_that_changed_are_told(copied):
    config = tiny.write(copied.parent, ("num_epochs=4", "num_epochs=5, clip_grad=3.0"))
    said = []
    train(config, "float", events=Events(note=said.append))
    assert any("clip_grad" in text for text in said)


def test_it_does_not_go_on_from_another_beginning(copied):
    train(tiny.write(copied.parent, ("num_epochs=4", "num_epochs=5")), "float")
    train(copied, "calibration")
    with pytest.raises(PorterError) as caught:
        train(copied, "qat")
    assert caught.value.code == "PT706" and "--restart" in str(caught.value)
    assert train(copied, "qat", restart=True).resumed == 0
    with pytest.raises(PorterError) as caught:
        predict(copied, ["int_infer"])
    assert caught.value.code == "PT706" and "int_infer" in str(caught.value)


# -- what can go wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "needs"), [("calibration", "float"), ("qat", "calibration"), ("int_infer", "qat")])
def test_a_stage_whose_beginning_is_missing(tmp_path, stage, needs):
    config = tiny.write(tmp_path)
    with pytest.raises(PorterError) as caught:
        train(config, stage)
    assert caught.value.code == "PT703"
    assert f"{needs}-checkpoint-best.safetensors" in str(caught.value) and f"--stage {needs}" in str(caught.value)


@pytest.mark.parametrize("stage", STAGES)
def test_a_prediction_of_what_was_not_trained(tmp_path, stage):
    with pytest.raises(PorterError) as caught:
        predict(tiny.write(tmp_path), [stage])
    assert caught.value.code == "PT703" and f"--stage {stage}" in str(caught.value)


def test_a_checkpoint_of_another_model(copied):
    config = tiny.write(copied.parent, ("wide=8", "wide=6"))
    with pytest.raises(PorterError, match=r"body\.0\.weight") as caught:
        train(config, "calibration")
    assert caught.value.code == "PT704" and "float-checkpoint-best" in str(caught.value)
    with pytest.raises(PorterError) as caught:
        train(config, "float")
    assert caught.value.code == "PT704"


@pytest.mark.parametrize("stage", ["float", "qat"])
def test_a_damaged_state_to_go_on_from(copied, stage):
    path = checkpoint.last_path(load_config(copied), stage)
    saved = checkpoint.read(path)
    del saved.facts["epochs"]
    checkpoint.write(path, saved)
    with pytest.raises(PorterError) as caught:
        train(copied, stage)
    assert caught.value.code == "PT502" and "--restart" in str(caught.value)


NAN = """
_calls = 0
_plain = loss
def loss(outputs, batch):
    global _calls
    _calls += 1
    if _calls == 6:
        {what}
    return _plain(outputs, batch)
"""


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (
            "return {'cls': outputs[0].sum() * float('nan'), 'size': outputs[1].sum()}",
            "outputs of the network are finite",
        ),
        ("batch['img'][0] = 1 / torch.zeros(()); outputs = (outputs[0] / 0, outputs[1])", "the images of this batch"),
    ],
)
def test_a_loss_that_is_not_finite(tmp_path, what, words):
    config = tiny.write(tmp_path, extra=NAN.format(what=what))
    with pytest.raises(PorterError) as caught:
        train(config, "float")
    text = str(caught.value)
    assert caught.value.code == "PT705" and words in text
    assert "epoch 2, step 2 of 4" in text and "cls " in text and "learning rate" in text and "epoch 1 is kept" in text
    assert weights(config, "float", "last").facts["epoch"] == 0


def test_a_learning_rate_that_is_too_high(tmp_path):
    config = tiny.write(tmp_path, ("lr=0.1, ", "lr=1e20, "), ("warmup_epochs=1", "warmup_epochs=0"))
    with pytest.raises(PorterError) as caught:
        train(config, "float")
    assert caught.value.code == "PT705" and "Lower the learning rate" in str(caught.value)


def test_a_loss_of_qat_that_is_not_finite_names_the_tensor(copied):
    for path in (copied.parent / "runs").glob("qat-*"):
        path.unlink()
    config = tiny.write(copied.parent, ("lr=0.001", "lr=1e30"))
    with pytest.raises(PorterError) as caught:
        train(config, "qat")
    assert caught.value.code == "PT705" and "in body.0) is not finite" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (('monitor = "accuracy"', 'monitor = "acuracy"'), "PT708", "'accuracy'"),
        (('monitor = "accuracy"', ""), "PT708", "Define monitor"),
        (('"accuracy": sum(hit for _, hit in self.seen)', '"accuracy": float("nan") * len(self.seen)'), "PT708", "nan"),
        (('{"img": img * 2 - 1, ', '{"image": img, '), "PT701", "'img'"),
        (("return self.cls(x), self.size(x)", "return {'cls': self.cls(x)}"), "PT701", "a tuple of tensors"),
        (("        x = self.body(img)", "        x = self.body(img[:, :2])"), "PT520", "quadrants.py: model"),
        (("img = torch.rand(3, 16, 16", "img = torch.rand(3, 16, missing"), "PT520", "missing"),
        (("metric = Accuracy", "metric = lambda: 1 / 0"), "PT520", "ZeroDivisionError"),
        (("    cls, size = outputs\n", "    return 3.0\n"), "PT701", "float"),
        (("device = \"cpu\"", "device = \"cuda\""), "PT701", "cuda"),
        (("lr=0.1, momentum=0.9", "lr=0.1, momentun=0.9"), "PT701", "momentun"),
        (("model = Net\n", "model = lambda: 3\n"), "PT701", "not an nn.Module"),
    ],
)  # fmt: skip
def test_what_the_users_own_parts_do_wrong(tmp_path, change, code, words):
    with pytest.raises(PorterError) as caught:
        train(tiny.write(tmp_path, change), "float")
    assert caught.value.code == code and words in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        ('monitor = "accuracy"', 'monitor = "acuracy"'),
        ("cls = torch.as_tensor(outputs[0])", "cls = torch.as_tensor(outputs[7])"),
        ("dataset=lambda: Quadrants(25, 5000)", "dataset=lambda: Quadrants('25', 5000)"),
    ],
)
def test_validation_is_tried_before_anything_is_trained(tmp_path, change):
    epochs = []
    config = tiny.write(tmp_path, change, extra="def loss(outputs, batch): raise AssertionError('trained')\n")
    with pytest.raises(PorterError) as caught:
        train(config, "float", events=Events(epoch=lambda *told: epochs.append(told)))
    assert caught.value.code in ("PT708", "PT520") and "trained" not in str(caught.value) and epochs == []


def test_a_stage_that_there_is_not(tmp_path):
    with pytest.raises(PorterError, match="calibration"):
        train(tiny.write(tmp_path), "calibrate")


def test_a_stage_without_a_trainer(tmp_path):
    with pytest.raises(PorterError, match="'qat_trainer'") as caught:
        train(tiny.write(tmp_path, extra="qat_trainer = None\n"), "qat")
    assert caught.value.code == "PT702"


def test_calibration_says_when_it_saw_less_than_it_was_to(copied):
    result = train(tiny.write(copied.parent, ("num_steps=4", "num_steps=9")), "calibration")
    assert [finding.code for finding in result.findings if finding.code == "PT709"] == ["PT709"]
    assert not isinstance(build(load_config(copied), "calibration").network, IntNetwork)
