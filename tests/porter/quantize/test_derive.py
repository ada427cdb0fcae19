# SPDX-License-Identifier: Apache-2.0
"""Extremes that follow from others: the same as those of the tensors themselves, which are not fetched."""

import numpy as np
import pytest
import quantize_models as models
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import helper

import porter
from porter.data import open_data
from porter.quantize.calibrate import calibrate
from porter.quantize.derive import RISING, derived

#: For each kind, an ONNX node and the constants that it reads after its input.
NODES = {
    "relu": ("Relu", {}),
    "relu6": ("Clip", {"low": 0.0, "six": 6.0}),
    "clamp": ("Clip", {"least": -0.75, "most": 1.25}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
}


def chain():
    """A convolution, and every function after the one before it, each of which something else reads as well."""
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Conv", ["x", "w"], ["conv_y"], name="conv")]
    tensors = {"w": rng.normal(size=(4, 3, 1, 1)).astype(np.float32) * 4}
    before, outputs = "conv_y", {}
    for name, (kind, constants) in NODES.items():
        tensors |= {key: np.float32(number) for key, number in constants.items()}
        nodes.append(helper.make_node(kind, [before, *constants], [f"{name}_y"], name=name))
        nodes.append(helper.make_node("Neg", [f"{name}_y"], [f"{name}_out"], name=f"{name}_neg"))
        before, outputs[f"{name}_out"] = f"{name}_y", (1, 4, 5, 5)
    return porter.load(models.model(nodes, {"x": (1, 3, 5, 5)}, outputs, tensors))


def images(count=5):
    rng = np.random.default_rng(1)
    return [rng.normal(size=(1, 3, 5, 5)).astype(np.float32) * (i + 1) for i in range(count)]


def fetched(graph, monkeypatch):
    """The names that runs of the graph are asked for, from now on."""
    names, run, streams = [], type(graph).run, type(graph).streams

    def spy(self, inputs, taps=(), **options):
        names.extend(taps)
        return run(self, inputs, taps, **options)

    def spy_streams(self, taps, count, sample):
        names.extend(taps)
        return streams(self, taps, count, sample)

    monkeypatch.setattr(type(graph), "run", spy)
    monkeypatch.setattr(type(graph), "streams", spy_streams)
    return names


@pytest.mark.parametrize("observer", ["min_max", "min_max(use_avg)", "moving_average", "min_max(iteration=2)"])
@pytest.mark.parametrize("taps_bytes", [1, 2**20])
def test_the_ranges_are_those_of_the_tensors(observer, taps_bytes, monkeypatch):
    graph = chain()
    groups = {name: (name,) for name in ("x", "conv_y", *(f"{name}_y" for name in NODES))}
    # A group of two tensors needs both, and so does an observer of values.
    pairs = {"x": ("x", "conv_y"), "rest": tuple(f"{name}_y" for name in NODES)}
    data = open_data(images(), graph.inputs)
    names = fetched(graph, monkeypatch)
    made = calibrate(graph, groups, data, observer, taps_bytes=taps_bytes)
    assert set(names) == {"conv_y"}
    names.clear()
    alone = [calibrate(graph, {name: (name,)}, data, observer) for name in groups]
    for one in alone:
        (name,) = one.observers
        want, got = (m.observers[name].range_for("int8", None) for m in (one, made))
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(made.seen[name], one.seen[name], rtol=1e-6, atol=1e-7)
        place = made.tally.names.index(name)
        np.testing.assert_allclose(made.tally.top[place], one.tally.top[0], rtol=1e-6)
        assert made.tally.count[place] == len(images())
    names.clear()
    calibrate(graph, pairs, data, observer)
    assert {f"{name}_y" for name in NODES} <= set(names)


@pytest.mark.parametrize("observer", ["mse", "percentile(99)", "kl", "mix"])
def test_histograms_follow_to_a_bin(observer, monkeypatch):
    """Values that are not fetched, beside those of calibrations in which each is fetched for itself."""
    graph = chain()
    names = fetched(graph, monkeypatch)
    groups = {name: (name,) for name in ("conv_y", *(f"{name}_y" for name in NODES))}
    data = open_data(images(), graph.inputs)
    made = calibrate(graph, groups, data, observer)
    assert set(names) == {"conv_y"}
    for name in groups:
        alone = calibrate(graph, {name: (name,)}, data, observer)
        got, want = made.observers[name].histogram, alone.observers[name].histogram
        assert got.total == want.total
        if name in ("relu_y", "relu6_y"):
            assert got.zeros == want.zeros
            np.testing.assert_array_equal(got.sides()[0].number, want.sides()[0].number)
        for fraction in (0.5, 0.9, 0.99):
            np.testing.assert_allclose(got.quantile(fraction), want.quantile(fraction), rtol=1 / 64)


def test_a_group_of_two_is_fetched(monkeypatch):
    graph = chain()
    names = fetched(graph, monkeypatch)
    groups = {"both": ("conv_y", "relu_y"), "relu6_y": ("relu6_y",), "sigmoid_y": ("sigmoid_y",)}
    calibrate(graph, groups, open_data(images(), graph.inputs), "mse")
    assert set(names) == {"conv_y", "relu_y", "relu6_y", "sigmoid_y"}


@given(data=st.data(), kind=st.sampled_from(sorted(RISING)))
def test_no_function_of_the_list_ever_falls(data, kind):
    op = next(each.op for each in derived(chain(), [f"{kind}_y"], [f"{name}_y" for name in ("conv", *NODES)]))
    floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
    x = np.sort(data.draw(arrays.arrays(np.float32, data.draw(st.integers(2, 8)), elements=floats)))
    y = RISING[kind](op, x)
    assert (np.diff(y) >= 0).all()
    assert np.isfinite(y).all()
