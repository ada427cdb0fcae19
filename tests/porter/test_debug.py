# SPDX-License-Identifier: Apache-2.0
"""Where two models part: named rightly, from models and from dumps, in a device's own names and layouts."""

import json
import math
import subprocess
import sys

import models
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porter import PorterError, debug
from porter.loading import load

CHAIN = """net (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] out) {
    a = Conv <pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (x, w0)
    b = Relu (a)
    c = Conv <pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (b, w1)
    d = Sigmoid (c)
    e = Conv <pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (d, w2)
    out = Add (e, b)
}"""


def chain(broken: int | None = None) -> onnx.ModelProto:
    """Three convolutions; the weight of one is another than it was."""
    rng = np.random.default_rng(7)
    weights = {f"w{i}": rng.standard_normal((4, 4, 3, 3)).astype(np.float32) for i in range(3)}
    if broken is not None:
        weights[f"w{broken}"] = weights[f"w{broken}"] * np.float32(1.5)
    return models.model(CHAIN, weights=weights)


def dump(made: onnx.ModelProto, x: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    graph = load(made)
    return dict(zip(names, graph.run([x], names)[1:], strict=True))


X = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
NAMES = ["a", "b", "c", "d", "e", "out"]


@pytest.mark.parametrize(("broken", "at"), [(0, "a"), (1, "c"), (2, "e")])
def test_the_first_tensor_that_parts_is_the_one_behind_the_changed_weight(broken, at):
    found = debug(chain(), chain(broken), data=[[X]])
    assert found.first is not None and found.first.name == at
    assert found.first.kind == "conv2d" and found.first.before == math.inf
    assert found.steepest is found.first
    assert [place.name for place in found.places] == NAMES


def test_equal_models_do_not_part():
    found = debug(chain(), chain())
    assert found.ok and found.first is None and found.steepest is None
    assert all(place.error.equal for place in found.places)


def test_a_gradual_loss_is_told_apart_from_its_cause():
    """Noise of 30 dB in ``b`` is carried on; the threshold of 29 dB is first missed later, but the fall is at b."""
    rng = np.random.default_rng(1)
    held = dump(chain(), X, NAMES)
    noisy = dict(held)
    for name, level in (("b", 30), ("c", 29.5), ("d", 29.2), ("e", 28), ("out", 28)):
        noise = rng.standard_normal(held[name].shape)
        size = np.linalg.norm(held[name]) / np.linalg.norm(noise) * 10 ** (-level / 20)
        noisy[name] = held[name] + size * noise
    found = _two_dumps(held, noisy, min_sqnr=29.0)
    assert found.first is not None and found.first.name == "e"
    assert found.steepest is not None and found.steepest.name == "b"


def _two_dumps(first, second, tmp=None, **options):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "one.npz", Path(folder) / "two.npz"
        np.savez(one, **first)
        np.savez(two, **second)
        return debug(one, two, order=chain(), **options)


def test_a_dump_in_the_names_and_layout_of_a_device(tmp_path):
    held = dump(chain(1), X, NAMES)
    renamed = {f"/{name.upper()}": np.moveaxis(array, 1, -1) for name, array in held.items() if name != "d"}
    renamed["D"] = held["d"].reshape(4, 6, 6)
    np.savez(tmp_path / "device.npz", x=X, **renamed)
    found = debug(chain(), tmp_path / "device.npz")
    assert found.first is not None and found.first.name == "c" and found.inputs == 1
    hows = {place.name: place.how for place in found.places}
    assert hows["c"] == "as /C" and not found.skipped
    assert next(place for place in found.places if place.name == "b").error.equal


def test_what_does_not_fit_is_skipped_and_named(tmp_path):
    held = dump(chain(), X, ["a", "c"])
    held["c"] = held["c"][:, :2]
    np.savez(tmp_path / "d.npz", x=X, **held)
    found = debug(chain(), tmp_path / "d.npz")
    assert found.ok and found.skipped == {"c": "shape (1, 2, 6, 6), expected (1, 4, 6, 6)"} and found.alone == 4


def test_a_nan_parts_however_small(tmp_path):
    held = dump(chain(), X, NAMES)
    held["d"] = held["d"].copy()
    held["d"][0, 0, 0, 0] = np.nan
    np.savez(tmp_path / "d.npz", x=X, **held)
    found = debug(chain(), tmp_path / "d.npz", min_sqnr=0)
    assert found.first is not None and found.first.name == "d"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(0, 2**31))
def test_without_a_model_the_order_is_that_of_the_reference(same, seed):
    rng = np.random.default_rng(seed)
    first = {f"t{i}": rng.standard_normal(8) + 3 for i in range(len(same))}
    second = {name: array if keep else -array for (name, array), keep in zip(first.items(), same, strict=True)}
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "one.npz", Path(folder) / "two.npz"
        np.savez(one, **first)
        np.savez(two, **dict(reversed(second.items())))
        found = debug(one, two)
    expected = next((f"t{i}" for i, keep in enumerate(same) if not keep), None)
    assert (found.first.name if found.first else None) == expected


def test_bad_dumps(tmp_path):
    (tmp_path / "no.npz").write_bytes(b"not a zip")
    np.savez(tmp_path / "pickled.npz", a=np.array([{}], dtype=object), x=X)
    np.savez(tmp_path / "other.npz", z=np.zeros(3))
    np.savez(tmp_path / "blind.npz", a=np.zeros((1, 4, 6, 6)))
    for name, code in (("no", "PT470"), ("pickled", "PT470"), ("other", "PT471"), ("blind", "PT472")):
        with pytest.raises(PorterError) as error:
            debug(chain(), tmp_path / f"{name}.npz")
        assert error.value.code == code, name


def test_the_command(tmp_path):
    for name, broken in (("one", None), ("two", 1)):
        made = chain(broken)
        models.save(made, tmp_path / f"{name}.onnx")
    command = [sys.executable, "-m", "porter.cli", "debug", "one.onnx", "two.onnx"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode == 1 and "They part at c (conv2d" in told.stdout
    as_json = subprocess.run([*command, "-f", "json"], cwd=tmp_path, capture_output=True, text=True)
    assert json.loads(as_json.stdout)["first"]["name"] == "c"
    same = subprocess.run([*command[:-1], "one.onnx"], cwd=tmp_path, capture_output=True, text=True)
    assert same.returncode == 0 and "do not part" in same.stdout
