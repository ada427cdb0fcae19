# SPDX-License-Identifier: Apache-2.0
"""The study: nothing is tried twice, nothing is lost, whatever ends the process; and several workers share it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porter.compress.search import UNUSABLE, Evaluate, Grid, Record, Search, Study, _border
from porter.errors import PorterError

GRID = Grid(0.2, 1.0, 0.05)


def search(folder: Path, trials: int = 6, grid: Grid = GRID, seed: int = 0, **about: object) -> Search:
    return Search(folder / "study", grid, trials, seed, about)


def peak_at(best: float, tried: list[float] | None = None) -> Evaluate:
    def evaluate(value: float, _folder: Path) -> tuple[Record, float]:
        if tried is not None:
            tried.append(value)
        return {"value": value}, 2.0 - abs(value - best)

    return evaluate


def threshold_at(limit: float) -> Evaluate:
    """What meets a requirement up to ``limit``, the better the nearer."""

    def evaluate(value: float, _folder: Path) -> tuple[Record, float]:
        return {"value": value}, 1 + value if value <= limit else limit - value

    return evaluate


def test_a_grid_is_exact() -> None:
    assert Grid(0.2, 1.0, 0.05).values[2] == 0.3
    assert len(Grid(0.2, 1.0, 0.05).values) == 17
    assert Grid(0.2, 1.0, 0.3).values == [0.2, 0.5, 0.8]
    assert Grid(0.5, 0.5, 0.1).values == [0.5]
    with pytest.raises(ValueError, match="not a grid"):
        Grid(0.5, 0.4, 0.1)


def test_the_ends_come_first_and_nothing_twice(tmp_path: Path) -> None:
    tried: list[float] = []
    Study(search(tmp_path, trials=99)).run(peak_at(0.6, tried))
    assert tried[:2] == [1.0, 0.2]
    assert sorted(tried) == GRID.values


@pytest.mark.parametrize("limit", [0.22, 0.5, 0.55, 0.97])
def test_the_border_is_found_in_a_few_trials(tmp_path: Path, limit: float) -> None:
    study = Study(search(tmp_path, trials=7))
    study.run(threshold_at(limit))
    best = max(study.records(), key=lambda r: r[3])[1]
    assert best == max(value for value in GRID.values if value <= limit)


@given(
    st.dictionaries(st.sampled_from(GRID.values), st.sampled_from([1.5, 1.9, -0.5, -3.0, UNUSABLE])),
)
@settings(max_examples=100, deadline=None)
def test_the_border_is_between_one_that_meets_and_one_that_misses(scores: dict[float, float]) -> None:
    free = [value for value in GRID.values if value not in scores]
    found = _border(scores, free)
    usable = sorted(value for value, score in scores.items() if score > UNUSABLE)
    gaps = [
        (low, high)
        for low, high in pairwise(usable)
        if (scores[low] > 0) != (scores[high] > 0) and any(low < value < high for value in free)
    ]
    if not gaps:
        assert found is None
    else:
        assert found in free
        assert any(low < found < high for low, high in gaps)


def test_a_failed_trial_is_the_next_to_be_tried(tmp_path: Path) -> None:
    def fails(value: float, _folder: Path) -> tuple[Record, float]:
        if value == 0.2:
            raise PorterError("PT520", "the data set is gone")
        return {"value": value}, 1.0

    with pytest.raises(PorterError, match="data set"):
        Study(search(tmp_path)).run(fails)
    tried: list[float] = []
    study = Study(search(tmp_path))
    assert [value for _, value, _, _ in study.records()] == [1.0]
    study.run(peak_at(0.5, tried))
    assert tried[0] == 0.2
    assert len(study.records()) == 6


def test_an_interrupt_keeps_what_is_done(tmp_path: Path) -> None:
    def interrupted(value: float, _folder: Path) -> tuple[Record, float]:
        if value == 0.2:
            raise KeyboardInterrupt
        return {"value": value}, 1.0

    with pytest.raises(PorterError) as caught:
        Study(search(tmp_path)).run(interrupted)
    assert caught.value.code == "PT625"
    assert "after 1 of 6 trials" in caught.value.message
    tried: list[float] = []
    Study(search(tmp_path)).run(peak_at(0.5, tried))
    assert len(tried) == 5 and 1.0 not in tried


_SCRIPT = """
import json, sys, time
from itertools import pairwise
from pathlib import Path
from porter.compress.search import Grid, Search, Study

def evaluate(value, folder):
    with (folder / "tried.txt").open("a") as log:
        log.write(f"{value}\\n")
    time.sleep(float(sys.argv[2]))
    return {"value": value}, 1.0

Study(Search(Path(sys.argv[1]), Grid(0.2, 1.0, 0.1), 9, 0, {})).run(evaluate)
"""


def started(folder: Path, seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _SCRIPT, str(folder / "study"), str(seconds)])


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end, "it took more than a minute"
        time.sleep(0.02)


def test_a_killed_process_loses_only_its_trial(tmp_path: Path) -> None:
    log = tmp_path / "study" / "tried.txt"
    process = started(tmp_path, 0.3)
    until(lambda: log.is_file() and len(log.read_text().split()) >= 3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = [float(text) for text in log.read_text().split()]
    study = Study(Search(tmp_path / "study", Grid(0.2, 1.0, 0.1), 9, 0, {}))
    kept = [value for _, value, _, _ in study.records()]
    assert kept == before[: len(kept)] and len(before) - len(kept) <= 1
    tried: list[float] = []
    study.run(peak_at(0.5, tried))
    assert sorted([*kept, *tried]) == Grid(0.2, 1.0, 0.1).values
    assert not list((tmp_path / "study").glob("*.worker"))


def test_half_a_line_at_the_end_of_the_journal_is_dropped(tmp_path: Path) -> None:
    Study(search(tmp_path, trials=3)).run(peak_at(0.5))
    with (tmp_path / "study" / "journal.log").open("a") as journal:
        journal.write('{"op_code": 6, "trial')
    study = Study(search(tmp_path, trials=4))
    assert len(study.records()) == 3
    study.run(peak_at(0.5))
    assert len(Study(search(tmp_path, trials=4)).records()) == 4


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    processes = [started(tmp_path, 0.1) for _ in range(2)]
    assert [process.wait(timeout=100) for process in processes] == [0, 0]
    tried = [float(text) for text in (tmp_path / "study" / "tried.txt").read_text().split()]
    assert sorted(tried) == Grid(0.2, 1.0, 0.1).values


def helped(search: Search) -> Evaluate:
    """What a worker of another process evaluates with."""

    def evaluate(value: float, folder: Path) -> tuple[Record, float]:
        time.sleep(0.05)
        if search.about.get("bad") and value < 1.0:
            raise PorterError("PT520", f"no data at {value:g}")
        return {"pid": os.getpid()}, 1.0

    return evaluate


def slow_here(_value: float, folder: Path) -> tuple[Record, float]:
    """Wait for a helper to have taken a trial, since starting a process takes longer than a trial."""
    until(lambda: len(list(folder.glob("*.worker"))) > 1 or (folder / "journal.log").read_text().count('"pid"') > 1)
    return {"pid": os.getpid()}, 1.0


def test_workers(tmp_path: Path) -> None:
    study = Study(search(tmp_path, trials=8))
    study.run(slow_here, workers=2, entry=helped)
    records = study.records()
    assert len(records) == len({value for _, value, _, _ in records}) == 8
    assert len({record["pid"] for _, _, record, _ in records}) == 2


def test_an_error_of_a_worker_reaches_the_caller(tmp_path: Path) -> None:
    study = Study(search(tmp_path, trials=8, bad=True))
    with pytest.raises(PorterError, match="no data at"):
        study.run(slow_here, workers=2, entry=helped)


def test_the_study_of_another_search_is_refused(tmp_path: Path) -> None:
    Study(search(tmp_path, model="a", limit=90)).run(peak_at(0.5))
    with pytest.raises(PorterError) as caught:
        Study(search(tmp_path, model="a", limit=60))
    assert caught.value.code == "PT624"
    assert "limit was 90 and is 60" in caught.value.message
    assert "model" not in caught.value.message


@pytest.mark.parametrize("content", ["[]\n[]\n", "not json\nmore\n", '{"op_code": 99}\n{"x": 1}\n'])
def test_a_damaged_journal_is_one_clear_error(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "journal.log").write_text(content)
    with pytest.raises(PorterError) as caught:
        Study(search(tmp_path))
    assert caught.value.code == "PT624"


def test_a_folder_of_the_users_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(PorterError, match="PT512"):
        Study(search(tmp_path))
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_records_are_json(tmp_path: Path) -> None:
    study = Study(search(tmp_path, trials=2))
    study.run(lambda value, folder: ({"text": "ü", "none": None, "n": [1, 2.5]}, 1.0))
    assert json.loads(json.dumps(study.records()[0][2])) == {"text": "ü", "none": None, "n": [1, 2.5]}
