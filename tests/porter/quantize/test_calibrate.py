# SPDX-License-Identifier: Apache-2.0
"""Calibration: groups, memory, and runs that are interrupted and taken up again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import quantize_models as models

import porter
from porter.data import open_data
from porter.errors import PorterError, explain
from porter.quantize.calibrate import calibrate
from porter.quantize.lane import every
from porter.quantize.observers import OBSERVERS, make_observer
from porter.quantize.scheme import Scheme
from porter.quantize.taps import Steps, Taps
from porter.target import Target

SCHEME = Scheme.of(Target.load("mlu270"))


def images(count=6, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(1, 3, 12, 12)).astype(np.float32) for _ in range(count)]


@pytest.fixture
def graph():
    return porter.load(models.small())


def values(graph):
    return [op.outputs[0].name for op in graph.ops() if (op.outputs[0].dtype or "") == "float32"]


def run(graph, observer="min_max", data=None, **options):
    groups = options.pop("groups", {name: [name] for name in values(graph)})
    return calibrate(graph, groups, open_data(data or images(), graph.inputs), observer, **options)


def ranges(made, dtype="int8"):
    return {name: made.range_of(name, dtype, SCHEME) for name in made.observers}


def test_the_values_of_the_graph_are_observed(graph):
    names = values(graph)
    made = run(graph, watch=[graph.inputs[0].name])
    want = {}
    for image in images():
        results = graph.run([image], names)[len(graph.outputs) :]
        for name, array in zip(names, results, strict=True):
            low, high = want.get(name, (np.inf, -np.inf))
            want[name] = min(low, float(array.min())), max(high, float(array.max()))
    for name, bounds in want.items():
        np.testing.assert_allclose(ranges(made)[name], bounds, rtol=1e-5, atol=1e-6)
        assert made.seen[name] == ranges(made)[name]
    assert made.seen[graph.inputs[0].name][1] == max(float(image.max()) for image in images())


@pytest.mark.parametrize("observer", OBSERVERS)
def test_few_bytes_at_a_time_give_the_same_ranges(graph, observer):
    at_once, apart = run(graph, observer), run(graph, observer, taps_bytes=1)
    names = [graph.inputs[0], *(op.outputs[0] for op in graph.ops())]
    assert len(Taps(graph, names, 1)) > 3
    for name, (low, high) in ranges(at_once).items():
        np.testing.assert_allclose(ranges(apart)[name], (low, high), rtol=1e-2, err_msg=name)


def test_a_group_has_one_range_and_its_values_have_their_own_extremes(graph):
    first, second, *_ = values(graph)
    alone = run(graph)
    made = run(graph, groups={"both": [first, second]})
    parts = [ranges(alone)[first], ranges(alone)[second]]
    np.testing.assert_allclose(ranges(made)["both"], (min(p[0] for p in parts), max(p[1] for p in parts)), rtol=1e-6)
    np.testing.assert_allclose([made.seen[first], made.seen[second]], parts, rtol=1e-6)
    assert made.observers["both"].count == len(images())


def test_progress_counts_samples(graph):
    seen = []
    run(graph, steps=Steps(lambda done, total: seen.append((done, total))))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_not_finite_names_the_layer_and_the_sample_is_the_first_bad_one(graph):
    data = images()
    data[3][...] = 3e38
    with pytest.raises(PorterError, match="not finite; the first to make one is") as error:
        run(graph, data=data)
    assert error.value.code == "PT407"


def test_one_image_and_none(graph):
    assert all(low <= high for low, high in ranges(run(graph, "mse", images(1))).values())
    with pytest.raises(PorterError) as error:
        run(graph, data=iter(()))
    assert error.value.code == "PT401"


class Stops:
    """Samples; the process that iterates over them gets a signal after some."""

    def __init__(self, items, after, number=signal.SIGINT):
        self.items, self.after, self.number = items, after, number

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        for index, item in enumerate(self.items):
            if self.after is not None and index == self.after and self.armed:
                os.kill(os.getpid(), self.number)
            self.armed = True  # the first item is also read once to be checked
            yield item

    armed = False


@pytest.mark.parametrize("observer", ["min_max", "min_max(use_avg)", "moving_average", "mse", "mix"])
@pytest.mark.parametrize("taken", [1, 4])
def test_an_interrupted_calibration_goes_on_with_the_same_result(graph, tmp_path, observer, taken):
    state = tmp_path / "out.calibration.npz"
    with pytest.raises(KeyboardInterrupt):
        run(graph, observer, Stops(images(), taken), state=state)
    assert [p.name for p in tmp_path.iterdir()] == [state.name]
    before = signal.getsignal(signal.SIGINT)
    counted = []
    made = run(graph, observer, Stops(images(), None), state=state, steps=Steps(lambda *now: counted.append(now)))
    assert signal.getsignal(signal.SIGINT) is before
    whole = run(graph, observer)
    assert ranges(made) == ranges(whole)
    assert made.seen == whole.seen
    for key, array in whole.tally.state().items():
        np.testing.assert_array_equal(made.tally.state()[key], array)
    assert made.scale.ratio == whole.scale.ratio
    (note,) = made.notes
    assert note.code == "PT430" and "went on after" in note.message
    assert "PT430" in explain("PT430")
    assert counted[-1] == (6, 6)


def test_sigterm_ends_the_run_after_saving(graph, tmp_path):
    state = tmp_path / "s.npz"
    with pytest.raises(SystemExit) as error:
        run(graph, data=Stops(images(), 2, signal.SIGTERM), state=state)
    assert error.value.code == 128 + signal.SIGTERM
    assert state.exists()


@pytest.mark.parametrize("change", ["model", "data", "observer", "groups", "file"])
def test_a_state_of_something_else_is_not_used(graph, tmp_path, change):
    state = tmp_path / "s.npz"
    with pytest.raises(KeyboardInterrupt):
        run(graph, "mse", Stops(images(), 3), state=state)
    options = {"observer": "mse", "data": Stops(images(), None)}
    if change == "model":
        name = next(v.name for op in graph.ops() for v in op.operands if v.is_const and (v.dtype or "") == "float32")
        value = next(v for op in graph.ops() for v in op.operands if v.name == name)
        graph = graph.with_constants({name: value.numpy() * np.float32(1.5)})
    if change == "data":
        options["data"] = Stops(images(seed=1), None)
    if change == "observer":
        options["observer"] = "mix"
    if change == "groups":
        options["groups"] = {values(graph)[0]: values(graph)[:2]}
    if change == "file":
        state.write_bytes(b"PK junk")
    again = run(graph, **options, state=state)
    fresh = run(graph, **options)
    assert ranges(again) == ranges(fresh)
    assert "started again" in again.notes[0].message


def test_a_killed_process_leaves_a_state_that_is_taken_up(tmp_path):
    """A real SIGINT to a real process, in the middle of a run."""
    script = tmp_path / "calibrate.py"
    script.write_text(
        "import sys, time, json, pathlib\n"
        f"sys.path.insert(0, {str(Path(models.__file__).parent)!r})\n"
        "import numpy as np, porter, quantize_models as models\n"
        "from porter.quantize.engine import quantize\n"
        "from porter.target import Target\n"
        "class Slow:\n"
        "    def __len__(self): return 30\n"
        "    def __iter__(self):\n"
        "        rng = np.random.default_rng(0)\n"
        "        for i in range(30):\n"
        "            time.sleep(float(sys.argv[2]))\n"
        "            print(i, flush=True)\n"
        "            yield rng.normal(size=(1, 3, 12, 12)).astype(np.float32)\n"
        "made = quantize(porter.load(models.small()), Target.load('mlu270'), 'int8', Slow(), observer='mse',\n"
        "                state=pathlib.Path(sys.argv[1]))\n"
        "made.encodings.save(sys.argv[3])\n"
    )
    state = tmp_path / "s.npz"

    def start(pause, out, state=state):
        return subprocess.Popen(
            [sys.executable, str(script), str(state), pause, str(out)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        )  # fmt: skip

    process = start("0.1", tmp_path / "never.json")
    for line in process.stdout:
        if line.strip() == "12":
            process.send_signal(signal.SIGINT)
            break
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert state.exists() and not (tmp_path / "never.json").exists()
    begin = time.monotonic()
    resumed = start("0", tmp_path / "resumed.json")
    assert resumed.communicate(timeout=60) and resumed.returncode == 0
    assert time.monotonic() - begin < 60
    assert not state.exists()
    whole = start("0", tmp_path / "whole.json", tmp_path / "other.npz")
    assert whole.communicate(timeout=60) and whole.returncode == 0
    assert (tmp_path / "resumed.json").read_text() == (tmp_path / "whole.json").read_text()


def test_one_sample_is_told():
    made = porter.quantize(models.small(), "mlu270", images(1), dtype="int8", force=True)
    assert "PT431" in {finding.code for finding in made.findings}
    more = porter.quantize(models.small(), "mlu270", images(2), dtype="int8", force=True)
    assert "PT431" not in {finding.code for finding in more.findings}


def test_the_command_says_what_it_kept_and_goes_on(tmp_path):
    """Ctrl-C to `porter quantize`: the code of an interrupt, the file named, and the next run uses it."""
    (tmp_path / "slow.py").write_text(
        "import time\nimport numpy as np\n"
        "def samples():\n"
        "    rng = np.random.default_rng(0)\n"
        "    return Slow([rng.normal(size=(1, 3, 12, 12)).astype(np.float32) for _ in range(40)])\n"
        "class Slow(list):\n"
        "    def __iter__(self):\n"
        "        import os, pathlib\n"
        "        for index, item in enumerate(super().__iter__()):\n"
        "            if index == 5:\n"
        "                pathlib.Path('started').touch()\n"
        "            time.sleep(0.0 if os.environ.get('FAST') else 0.1)\n"
        "            yield item\n"
    )
    (tmp_path / "m.onnx").write_bytes(models.small().SerializeToString())
    command = [sys.executable, "-m", "porter.cli", "quantize", "-t", "mlu270", "m.onnx", "-c", "slow.py:samples", "-o",
               "q", "--force"]  # fmt: skip
    first = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "started").exists():
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    _, told = first.communicate(timeout=60)
    assert first.returncode == 2 and "PT516" in told and "q.calibration.npz" in told
    assert sorted(p.name for p in tmp_path.glob("q*")) == ["q.calibration.npz"]
    fast = {**os.environ, "FAST": "1"}
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=fast)
    assert again.returncode == 0 and "PT430" in again.stdout and not (tmp_path / "q.calibration.npz").exists()


@pytest.mark.parametrize("observer", [*OBSERVERS, "min_max(use_avg)", "min_max(iteration=2)"])
@pytest.mark.parametrize(("size", "count"), [(70, 5), (12, 35), (12, 110)])
def test_a_stream_of_blocks_changes_no_bit(observer, size, count):
    """With channels that fill the runtime's blocks, against plain runs that are observed one by one: tensors of which
    histograms take a sample, and small ones, which are kept for some samples."""
    rng = np.random.default_rng(0)
    tensors = {"a": rng.normal(size=(32, 3, 3, 3)), "d": rng.normal(size=(32, 1, 3, 3)), "c": rng.normal(size=32)}
    nodes = [
        models.helper.make_node("Conv", ["images", "a"], ["a_y"], pads=[1] * 4),
        models.helper.make_node("HardSwish", ["a_y"], ["h_y"]),
        models.helper.make_node("Conv", ["h_y", "d"], ["d_y"], pads=[1] * 4, group=32),
        models.helper.make_node("Add", ["d_y", "h_y"], ["out"]),
    ]
    tensors = {name: (array * 0.3).astype(np.float32) for name, array in tensors.items()}
    made = porter.load(models.model(nodes, {"images": (1, 3, size, size)}, {"out": (1, 32, size, size)}, tensors))
    data = [rng.normal(size=(1, 3, size, size)).astype(np.float32) * (i + 1) for i in range(count)]
    names = ["a_y", "h_y", "d_y", "out"]
    assert (32 * size * size > 131072) == (size == 70)
    groups = {"a_y": ["a_y"], "h_y": ["h_y"], "two": ["d_y", "out"]}
    got = run(made, observer, data, groups=groups, channels={"h_y": 1})
    want = {group: make_observer(observer) for group in groups}
    for index, image in enumerate(data):
        arrays = dict(zip(names, made.run([image], names, fast=True)[1:], strict=True))
        for group, members in groups.items():
            parts = [arrays[name] for name in members]
            low, high = min(part.min() for part in parts), max(part.max() for part in parts)
            want[group].see(np.array([low], np.float64), np.array([high], np.float64))
            for part in parts if index % every(len(data)) == 0 else ():
                want[group].fill(part, float(part.min()), float(part.max()))
    for group, reference in want.items():
        state = got.observers[group].state()
        for key, array in reference.state().items():
            np.testing.assert_array_equal(array, state[key], err_msg=f"{group} {key}")
    assert got.channels["h_y"].high.max() == got.seen["h_y"][1]


@pytest.mark.parametrize(("count", "seen"), [(1, 1), (50, 50), (51, 26), (300, 50)])
def test_of_hundreds_of_samples_histograms_count_some_and_extremes_are_those_of_all(graph, count, seen):
    data = images(count)
    data[-1] *= 100
    name = values(graph)[0]
    made = run(graph, "percentile(90)", data, groups={name: [name]}).observers[name]
    plain = run(graph, "min_max", data, groups={name: [name]}).observers[name]
    size = np.prod(next(op.outputs[0].shape for op in graph.ops() if op.outputs[0].name == name))
    assert made.histogram.total == seen * size
    assert (made.seen, made.count) == (plain.seen, count)
