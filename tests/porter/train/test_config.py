# SPDX-License-Identifier: Apache-2.0
"""Configuration files: what they may hold, and what is said of what they may not."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import tiny

from porter.errors import PorterError
from porter.train.config import (
    CalibrationTrainer,
    CompileCfg,
    Config,
    Converter,
    IntInferTrainer,
    Loader,
    Optimizer,
    Predictor,
    Published,
    QatTrainer,
    Schedule,
    Training,
    load_config,
)


def refused(path):
    with pytest.raises(PorterError) as caught:
        load_config(path)
    return caught.value


def test_a_good_one(tmp_path):
    config = load_config(tiny.write(tmp_path))
    assert config.task_name == "quadrants" and config.mode == "max" and config.path == tmp_path / "quadrants.py"
    assert config.float_trainer.ema == 0.9 and config.float_trainer.optimizer.rest == {
        "momentum": 0.9,
        "weight_decay": 1e-4,
    }
    assert config.qat_trainer.schedule.decay_epochs == (1,)
    assert isinstance(config.data_loader, Loader) and config.data_loader.batch_size == 16
    assert config.folder == tmp_path / "runs"


def test_converters_are_in_the_usual_order(tmp_path):
    config = load_config(tiny.write(tmp_path))
    kinds = {stage: [(c.type, c.stage) for c in config.converters(stage)] for stage in ("calibration", "qat")}
    assert kinds == {
        "calibration": [("LoadCheckpoint", "float"), ("Float2Calibration", None)],
        "qat": [("Float2QAT", None), ("LoadCheckpoint", "calibration")],
    }
    assert config.converters("int_infer")[1] == Converter(type="LoadCheckpoint", stage="qat", ignore_extra=True)


def test_without_qat_the_integers_are_made_of_the_calibrated_network(tmp_path):
    config = load_config(tiny.write(tmp_path, extra="qat_trainer = None\n"))
    assert config.converters("int_infer")[1].stage == "calibration"


def test_its_own_converters_go_first(tmp_path):
    config = load_config(
        tiny.write(
            tmp_path,
            ("    ema=0.9,", "    converters=[dict(type='LoadCheckpoint', path='x.pth', allow_miss=True)],"),
        )
    )
    assert config.converters("float") == (Converter(type="LoadCheckpoint", path="x.pth", allow_miss=True),)


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("val_data_loader =", "val_dataloader =", "PT700", ["'val_dataloader'", "'val_data_loader'"]),
        ("qat_trainer =", "qta_trainer =", "PT700", ["'qta_trainer'", "'qat_trainer'"]),
        ("monitor =", "moniter =", "PT700", ["'moniter'", "'monitor'"]),
        ("num_epochs=4", "num_epoch=4", "PT700", ["'num_epoch'", "'num_epochs'", "float_trainer"]),
        ("warmup_epochs=1", "warm_up_epochs=1", "PT700", ["'warmup_epochs'", "['schedule']"]),
        ("num_epochs=4", "num_epochs='4'", "PT701", ["a whole number", "str '4'", "float_trainer['num_epochs']"]),
        ("num_epochs=4", "num_epochs=True", "PT701", ["a whole number", "bool True"]),
        ("num_epochs=4", "num_epochs=0", "PT701", ["at least 1", "is 0"]),
        ("ema=0.9", "ema=1.5", "PT701", ["between 0 and 1", "1.5"]),
        ('type="cosine"', 'type="cosinus"', "PT701", ["'constant' or 'cosine' or 'step'", "cosinus"]),
        ("lr=0.1, ", "", "PT701", ["'lr' is missing"]),
        ("batch_size=8", "batch_size=0", "PT701", ["val_data_loader['batch_size']"]),
        ("deploy_inputs = dict(img=torch.zeros(1, 3, 16, 16))", "", "PT702", ["'deploy_inputs'"]),
        ('task_name = "quadrants"', "task_name = 3", "PT701", ["a text", "int 3", "task_name"]),
        ("metric = Accuracy", "metric = 0.5", "PT701", ["a function", "float 0.5"]),
        ("float_trainer = dict(", "float_trainer = list(", "PT520", ["TypeError"]),
        ("int16_output=True", "int61_output=True", "PT731", ["int61_output", "int16_output"]),
        ("num_steps=4", "num_steps=4, qat_mode='with_bn'", "PT701", ["'with_bn'", "'fuse_bn'"]),
    ],
)
def test_what_it_may_not_hold(tmp_path, old, new, code, words):
    error = refused(tiny.write(tmp_path, (old, new)))
    assert error.code == code
    for word in words:
        assert word in str(error), str(error)


@pytest.mark.parametrize(
    ("converter", "words"),
    [
        ("dict(type='LoadCheckpoint')", "either"),
        ("dict(type='LoadCheckpoint', stage='float', path='x')", "either"),
        ("dict(type='Float2QAT', allow_miss=True)", "takes no options"),
        ("dict(type='Float2Qat')", "'Float2QAT'"),
        ("dict(type='LoadCheckpoint', stage='floats')", "'float'"),
        ("dict(type='LoadCheckpoint', stage='float', ignore_extras=True)", "'ignore_extra'"),
    ],
)
def test_converters_that_cannot_be(tmp_path, converter, words):
    error = refused(tiny.write(tmp_path, ("    ema=0.9,", f"    converters=[{converter}],")))
    assert words in str(error) and "['converters'][0]" in str(error)


def test_names_of_ones_own_are_left_alone(tmp_path):
    extra = "num_classes = 4\nimport json as models\n_modle = 1\nclass Models: pass\n"
    assert load_config(tiny.write(tmp_path, extra=extra)).task_name == "quadrants"


def test_a_second_file_of_the_same_name_is_read_anew(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = load_config(tiny.write(tmp_path / "a", task_name="one"))
    two = load_config(tiny.write(tmp_path / "b", task_name="two"))
    assert (one.task_name, two.task_name) == ("one", "two")


def test_a_file_that_is_not_there(tmp_path):
    tiny.write(tmp_path)
    error = refused(tmp_path / "quadrant.py")
    assert error.code == "PT501" and "quadrants.py" in str(error)


def test_a_file_that_is_not_python(tmp_path):
    (tmp_path / "c.toml").write_text("x = 1")
    assert refused(tmp_path / "c.toml").code == "PT701"


def test_a_file_with_an_error_is_told_with_its_line(tmp_path):
    error = refused(tiny.write(tmp_path, extra="1 / 0\n"))
    assert error.code == "PT520" and "ZeroDivisionError" in str(error) and "quadrants.py:" in str(error)


def test_every_name_is_documented():
    text = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    sections = (
        Config, Loader, Optimizer, Schedule, Training, QatTrainer, CalibrationTrainer, IntInferTrainer, Predictor,
        CompileCfg, Published, Converter,
    )  # fmt: skip
    names = {field.name for one in sections for field in dataclasses.fields(one)} - {"path", "rest"}
    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()
