# SPDX-License-Identifier: Apache-2.0
"""The figures of the quantization benchmark, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from benchmarks.quantize import scores, tables
from benchmarks.quantize.cases import CASES
from benchmarks.quantize.contenders import CONTENDERS
from benchmarks.quantize.measure import PEERS, Result, in_both
from benchmarks.quantize.speed import kept_speed, speed
from porter.target import Target


def test_nearness_of_columns() -> None:
    """Signal 100 and 1, error 1 and 1: 20 dB and 0 dB by column, 10 log10(101 / 2) as a whole."""
    near = scores.nearness([np.float32([[10, 1]])], [np.float32([[9, 0]])])
    assert near.sqnr == pytest.approx(10 * np.log10(101 / 2))
    assert near.worst_column == pytest.approx(0.0)
    assert near.cosine == pytest.approx(90 / np.sqrt(101 * 81))


def test_nearness_of_equal_and_of_nan() -> None:
    x = np.float32([[1, 2, 0]])
    assert scores.nearness([x], [x]).sqnr == 200
    assert scores.nearness([x], [np.float32([[1, np.nan, 0]])]).sqnr == float("-inf")


def test_greedy_text_joins_repeats_and_drops_blanks() -> None:
    steps = np.eye(4, dtype=np.float32)[[1, 1, 0, 1, 2, 3]][None]
    assert scores.greedy_text(steps, ["", "a", "b", " "]) == "aab "


@pytest.mark.parametrize(("truth", "read", "want"), [("abc", "abc", 0), ("abc", "", 3), ("kitten", "sitting", 3)])
def test_edit_distance(truth: str, read: str, want: int) -> None:
    assert scores.distances(truth, read) == want


def test_reading_leaves_the_spaces_at_the_ends_out() -> None:
    found = scores.reading(["ab", "c d", "ef"], [" ab", "cd", "ef"], ["ab", "cd", "eg"])
    assert found == {
        "lines exact": pytest.approx(2 / 3),
        "characters right": pytest.approx(1 - 1 / 7),
        "same text as float": pytest.approx(2 / 3),
        "exact with end spaces": pytest.approx(1 / 3),
    }


def test_mask_iou_counts_all_items_together() -> None:
    a = [np.float32([1, 1, 0]), np.float32([1, 0, 0])]
    b = [np.float32([1, 0, 0]), np.float32([1, 0, 1])]
    assert scores.mask_iou(a, b, 0.5) == pytest.approx(2 / 4)


def test_detection_f1_wants_the_same_class_and_place() -> None:
    def boxes(*rows: tuple[float, ...]) -> scores.Boxes:
        made = np.float32([row[:4] for row in rows])
        return scores.Boxes(made, np.ones(len(rows), np.float32), np.int64([row[4] for row in rows]))

    truth = boxes((0, 0, 10, 10, 1), (20, 20, 30, 30, 2))
    found = boxes((0, 0, 10, 9, 1), (20, 20, 30, 30, 3))
    assert scores.detection_f1([truth], [truth]) == 1
    assert scores.detection_f1([truth], [found]) == pytest.approx(2 * 1 / 4)


def _result(peer: str, kind: str, figure: float | None) -> Result:
    made = Result("yolox_nano", {"peer": peer, "kind": kind, "width": "int8", "label": kind, "environment": ""}, "1")
    if figure is not None:
        made.scores = {"mAP": figure}
        made.outputs = {"output": {"sqnr": 30.0, "cosine": 1.0, "worst_column": 20.0}}
    return made


def test_more_than_float_is_no_credit() -> None:
    case = [c for c in CASES if c.name == "yolox_nano"]
    results = [_result("porter", "default", 0.76), _result("NNCF", "default", 0.80)]
    row = tables.summary(case, {"yolox_nano": {"mAP": 0.76}}, results, "int8").splitlines()[-1]
    assert row.endswith("| level | level |")
    tally = tables.counts(case, {"yolox_nano": {"mAP": 0.76}}, results, "int8").splitlines()[-1]
    assert tally == "| NNCF, default: default | 0 / 1 / 0 | 0 / 1 / 0 | 0 |"


@pytest.mark.parametrize(
    ("default", "best", "peer", "want"),
    [
        (0.70, 0.75, 0.75, ("**behind**", "level")),
        (0.80, None, 0.75, ("ahead", "ahead")),
        (0.745, None, 0.75, ("level", "level")),
        (None, None, 0.75, ("**failed**", "**failed**")),
        (0.70, None, None, ("alone", "alone")),
    ],
)
def test_summary_says_who_is_ahead(
    default: float | None, best: float | None, peer: float | None, want: tuple[str, str]
) -> None:
    case = [c for c in CASES if c.name == "yolox_nano"]
    results = [_result("porter", "default", default), _result("NNCF", "default", peer)]
    if best is not None:
        results.append(_result("porter", "best", best))
    row = tables.summary(case, {"yolox_nano": {"mAP": 0.90}}, results, "int8").splitlines()[-1]
    assert tuple(cell.strip() for cell in row.strip("|").split("|")[-2:]) == want


def test_what_was_not_measured_is_a_dash() -> None:
    case = [c for c in CASES if c.name == "yolox_nano"]
    row = tables.summary(case, {"yolox_nano": {"mAP": 0.90}}, [_result("NNCF", "default", 0.7)], "int8").splitlines()[
        -1
    ]
    assert row.endswith("| 0.900 | – | – | 0.700 (30.0 dB) | – | – |")


def test_items_that_are_in_both_halves_are_named() -> None:
    calibration = np.float32([[1, 2], [3, 4]])
    assert in_both(calibration, np.float32([[2, 1], [3, 4], [1, 2]])) == [1, 2]
    assert in_both(calibration, np.float32([[2, 1]])) == []


def test_measured_speed_is_kept_for_reuse(tmp_path: Path) -> None:
    (tmp_path / "speed.md").write_text("### as measured\n", encoding="utf-8")
    assert kept_speed(tmp_path) == "### as measured"


def test_failed_speed_is_said_and_not_kept(tmp_path: Path) -> None:
    """There are no models in the folder."""
    assert "failed: " in speed(tmp_path)
    assert kept_speed(tmp_path) == ""


def test_contenders_have_files_of_their_own_and_what_they_name() -> None:
    keys = [contender.key for contender in CONTENDERS]
    assert len(set(keys)) == len(keys)
    for contender in CONTENDERS:
        target = contender.settings.get("target", "onnxruntime")
        Target.load(str(PEERS / target) if target.endswith(".toml") else target)
    assert not Target.load(str(PEERS / "one_scale.toml")).quantization.depthwise_input_per_channel
