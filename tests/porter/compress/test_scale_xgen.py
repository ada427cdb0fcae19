# SPDX-License-Identifier: Apache-2.0
"""XGen's configuration: the sample as it is published, slips, wrong types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import scale_models as models
from hypothesis import given, settings
from hypothesis import strategies as st

from porter.compress.scale_plan import Options, make_plan
from porter.compress.xgen import SECTIONS, read_xgen
from porter.errors import PorterError
from porter.target import Target

#: The keys and values of XGen's own sample for YOLOX.
SAMPLE: dict[str, Any] = {
    "general": {
        "user_id": "test", "work_place": None, "tran_scripts_path": None, "pretrained_model_path": "xgen.pt",
        "enable_ddp": False, "CUDA_VISIBLE_DEVICES": "0", "random_seed": 3407,
    },
    "user_requirements": {
        "power": None, "accuracy": None, "accuracy_reverse_yn": 0, "model_size": None, "memory_size": None,
        "latency": 90, "margin": 0.1, "target_type": "latency", "max_sampling": 10,
        "searching_variable": "scaling_factor", "searching_range": [0.2, 1], "searching_granularity": None,
    },
    "compiler": {"input_shape": "(1,3,640,640)", "opset_version": 11},
    "training_script_args": {
        "train_data_path": "coco", "train_label_path": None, "eval_data_path": "coco", "eval_label_path": None,
        "dataset_path": "coco", "learning_rate": 0.01, "common_train_epochs": 300, "device_num": 1, "batch_size": 16,
        "root_path": "./Xgen/", "name": "yolox-m", "exp_file": None, "weights": None, "device": None, "imgsz": 640,
        "width": 0.75, "depth": 0.67, "num_classes": 80, "scaling_factor": 1, "workers": 16, "noplots": True,
    },
    "pruning": {
        "sp_retrain": False, "sp_admm": False, "sp_config_file": None, "sp_admm_update_epoch": 5,
        "sp_admm_rho": 0.001, "sparsity_type": "block_punched", "sp_admm_lr": 0.01,
        "sp_global_weight_sparsity": False, "sp_admm_block": "(8,4)", "sp_prune_ratios": 0, "sp_prune_threshold": -1.0,
    },
    "pas": {
        "pas_ratio": 0, "pas": False, "limit_loss_weights": 5.0, "use_limit_loss": False, "pas_debug": False,
        "pas_rebuild": False, "pas_finetune_epoch": 200, "pas_pretrained_weight_path": None, "pas_ignore": None,
        "pas_searching_ratio": [0.1], "part_name": "backbone",
    },
    "train": {
        "log_save_folder": "logs", "eval_dataset_id": None, "training_dataset_id": None, "uuid": "yolox",
        "accuracy_reverse_yn": 0, "common_save_best_yn": 1,
    },
    "scaling": {"searching_variable": "scaling_factor", "searching_range": [0.2, 1], "searching_granularity": 0.05},
}  # fmt: skip


def written(folder: Path, content: Any) -> Path:
    path = folder / "xgen.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def changed(section: str, **values: Any) -> dict[str, Any]:
    return {**SAMPLE, section: {**SAMPLE.get(section, {}), **values}}


def test_the_sample_means_what_it_says(tmp_path: Path) -> None:
    config = read_xgen(written(tmp_path, SAMPLE))
    assert config.findings == ()
    made = make_plan(config, Target.load("mlu270"), Options(model=models.net))
    assert made.inputs == ((None, (1, 3, 640, 640), None),)
    assert (made.width, made.depth, made.opset, made.seed) == (0.75, 0.67, 11, 3407)
    assert (made.grid.low, made.grid.high, made.grid.step, made.trials) == (0.2, 1.0, 0.05, 10)
    assert [str(r) for r in made.requirements] == ["latency at most 90 ms with a margin of 10%"]
    assert made.size(0.5) == (0.375, 0.335)
    assert made.train_args["common_train_epochs"] == 300


def test_the_offset_of_the_width_leaves_the_whole_model_alone(tmp_path: Path) -> None:
    config = read_xgen(written(tmp_path, changed("porter", width_offset=0.3375)))
    made = make_plan(config, Target.load("mlu270"), Options(model=models.net))
    assert made.size(1.0) == (0.75, 0.67)
    assert made.size(0.2)[0] == pytest.approx(0.75 * 0.2 + 0.3375)


def test_options_come_before_the_configuration(tmp_path: Path) -> None:
    config = read_xgen(written(tmp_path, SAMPLE))
    options = Options(model=models.net, latency=5.0, low=0.5, step=0.1, trials=3, margin=0.0, seed=1, inputs="1x3x8x8")
    made = make_plan(config, Target.load("mlu270"), options)
    assert (made.primary.limit, made.primary.margin, made.grid.low, made.trials, made.seed) == (5.0, 0.0, 0.5, 3, 1)
    assert made.inputs[0][1] == (1, 3, 8, 8)


def test_every_requirement_counts_and_target_type_says_which_is_first(tmp_path: Path) -> None:
    file = written(tmp_path, changed("user_requirements", target_type="model_size", model_size=3.5))
    made = make_plan(read_xgen(file), Target.load("mlu270"), Options(model=models.net))
    assert [r.quantity for r in made.requirements] == ["model_size", "latency"]


@pytest.mark.parametrize(
    ("section", "key", "near"),
    [
        ("user_requirements", "latancy", "user_requirements.latency"),
        ("scaling", "searching_granlarity", "scaling.searching_granularity"),
        ("training_script_args", "common_train_epoch", "training_script_args.common_train_epochs"),
        ("compiler", "input_shapes", "compiler.input_shape"),
    ],
)
def test_unknown_keys_are_named_with_the_nearest(tmp_path: Path, section: str, key: str, near: str) -> None:
    (finding,) = read_xgen(written(tmp_path, changed(section, **{key: 1}))).findings
    assert (finding.code, finding.severity) == ("PT620", "warning")
    assert f"{section}.{key}" in finding.message
    assert finding.fix == f"Did you mean {near}?"


def test_unknown_sections_are_named(tmp_path: Path) -> None:
    (finding,) = read_xgen(written(tmp_path, {**SAMPLE, "compilers": {}})).findings
    assert finding.fix == "Did you mean compiler?"


def test_the_scripts_own_arguments_are_its_own(tmp_path: Path) -> None:
    config = read_xgen(written(tmp_path, changed("training_script_args", mosaic=True, warm_start=[1, 2])))
    assert config.findings == ()
    assert config.get("training_script_args", "mosaic") is True


def test_what_is_asked_for_and_not_done_is_said(tmp_path: Path) -> None:
    content = changed("pruning", sp_retrain=True)
    content = {**content, "user_requirements": {**SAMPLE["user_requirements"], "power": 5}}
    notes = [f for f in read_xgen(written(tmp_path, content)).findings if f.severity == "note"]
    assert len(notes) == 2
    assert "power" in notes[0].message and "porter prune" in notes[1].fix


def test_two_ranges_that_differ(tmp_path: Path) -> None:
    config = read_xgen(written(tmp_path, changed("scaling", searching_range=[0.5, 1])))
    assert config.searching_range == (0.5, 1.0)
    assert "the first counts" in config.findings[0].message


@pytest.mark.parametrize(
    ("section", "key", "value", "text"),
    [
        ("user_requirements", "latency", "90", 'user_requirements.latency is "90", not a number'),
        ("user_requirements", "max_sampling", 2.5, "max_sampling is 2.5, not a whole number"),
        ("user_requirements", "latency", True, "latency is true, not a number"),
        ("general", "enable_ddp", 1, "enable_ddp is 1, not true or false"),
        ("compiler", "opset_version", [11], "opset_version is [11], not a whole number"),
        ("scaling", "searching_range", "0.2-1", 'searching_range is "0.2-1", not a list'),
        ("training_script_args", "width", "wide", 'width is "wide", not a number'),
        ("porter", "model_args", "x", 'model_args is "x", not an object'),
    ],
)
def test_wrong_types_are_named(tmp_path: Path, section: str, key: str, value: Any, text: str) -> None:
    with pytest.raises(PorterError) as caught:
        read_xgen(written(tmp_path, changed(section, **{key: value})))
    assert caught.value.code == "PT621"
    assert text in caught.value.message


def test_all_wrong_types_are_named_at_once(tmp_path: Path) -> None:
    content = {"general": {"random_seed": "x"}, "compiler": 5, "scaling": {"searching_range": 1}}
    with pytest.raises(PorterError) as caught:
        read_xgen(written(tmp_path, content))
    assert all(name in caught.value.message for name in ("random_seed", "compiler", "searching_range"))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("compiler", "input_shape", "large"), ("compiler", "input_shape", "(1,3,0,640)"),
        ("compiler", "input_shape", "1,,3"), ("compiler", "input_shape", [1, "3"]),
        ("scaling", "searching_range", [1, 0.2]), ("scaling", "searching_range", [0.2]),
        ("scaling", "searching_range", [0, 1]), ("scaling", "searching_variable", "depth"),
        ("user_requirements", "target_type", "speed"), ("user_requirements", "target_type", "model_size"),
        ("training_script_args", "width", -1),
    ],
)  # fmt: skip
def test_values_that_cannot_be(tmp_path: Path, section: str, key: str, value: Any) -> None:
    with pytest.raises(PorterError) as caught:
        make_plan(read_xgen(written(tmp_path, changed(section, **{key: value}))), Target.load("mlu270"),
                  Options(model=models.net))  # fmt: skip
    assert caught.value.code == "PT621"
    assert caught.value.where is not None and f"{section}.{key}" in caught.value.where


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"general": 1}', '{"a": NaN', '{"general": {"user_id": "a", "user_id": "b"}}',
             '{"user_requirements": {"latency": NaN}}', "[" * 100_000],
)  # fmt: skip
def test_what_is_no_configuration(tmp_path: Path, text: str) -> None:
    with pytest.raises(PorterError) as caught:
        read_xgen(written(tmp_path, text))
    assert caught.value.code == "PT621"


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(PorterError, match="PT621"):
        read_xgen(path)
    with pytest.raises(PorterError, match="PT501"):
        read_xgen(tmp_path / "none.json")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*SECTIONS, "other"]), st.dictionaries(
    st.sampled_from([key for keys in SECTIONS.values() for key in keys]), values, max_size=4), max_size=4))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_any_json_is_read_or_refused_with_a_code(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.mktemp("any") / "xgen.json"
    path.write_text(json.dumps(content))
    try:
        make_plan(read_xgen(path), Target.load("mlu270"), Options(model=models.net, latency=1.0, inputs="1x3x8x8"))
    except PorterError as error:
        assert error.code in ("PT621", "PT519", "PT515", "PT520", "PT628")
