# SPDX-License-Identifier: Apache-2.0
"""Streams: what they give is what a run gives, whatever the order in memory."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import porter
from porter.dialects import onnx_stream
from porter.errors import PorterError
from porter.graph import Standing


def wide(path=None, channels=32, last=3):
    """Three convolutions of channels that fill blocks, with a depthwise one, an elementwise chain, a concatenation, and
    a last one of ``last`` channels; in a file whose weights lie beside it, where ``path`` is given."""
    rng = np.random.default_rng(0)

    def weight(name, *shape):
        return numpy_helper.from_array((rng.normal(size=shape) * 0.3).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "a"], ["a_y"], pads=[1] * 4),
        helper.make_node("Relu", ["a_y"], ["relu_y"]),
        helper.make_node("Conv", ["relu_y", "d"], ["d_y"], pads=[1] * 4, group=channels),
        helper.make_node("Sigmoid", ["d_y"], ["s_y"]),
        helper.make_node("Mul", ["d_y", "s_y"], ["silu_y"]),
        helper.make_node("Concat", ["relu_y", "silu_y"], ["cat_y"], axis=1),
        helper.make_node("Conv", ["cat_y", "l"], ["out"]),
    ]
    tensors = [
        weight("a", channels, 3, 3, 3), weight("d", channels, 1, 3, 3), weight("l", last, 2 * channels, 1, 1)
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "wide",
        [helper.make_tensor_value_info("x", 1, (1, 3, 10, 14))],
        [helper.make_tensor_value_info("out", 1, (1, last, 10, 14))],
        tensors,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if path is None:
        return porter.load(model)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return porter.load(path)


def samples(count=4):
    rng = np.random.default_rng(1)
    return [[rng.normal(size=(1, 3, 10, 14)).astype(np.float32)] for _ in range(count)]


TAPS = ["a_y", "relu_y", "d_y", "s_y", "silu_y", "cat_y"]


def pieces(graph):
    (found,) = graph._sessions._pieces.values()
    return found


def given(run, item):
    """Copies of what a stream gives, by name, in the value's own shape; and how many pieces gave something."""
    found, parts = {}, 0
    for arrays in run(item):
        parts += 1
        for name, array in arrays.items():
            assert name not in found
            found[name] = array.copy()
    return found, parts


def equal(graph, got, item, taps=TAPS):
    want = graph.run(item, taps, fast=True)[len(graph.outputs) :]
    assert got.keys() == set(taps)
    for name, b in zip(taps, want, strict=True):
        np.testing.assert_array_equal(got[name].reshape(b.shape), b)


@pytest.fixture
def small(monkeypatch):
    """Pieces of one value or two."""
    monkeypatch.setattr(onnx_stream, "_PIECE", 1)
    monkeypatch.setattr(onnx_stream, "_SHARE", 0)


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("cut", [False, True])
def test_streams_give_what_runs_give(external, count, cut, tmp_path, request):
    if cut:
        request.getfixturevalue("small")
    graph = wide(tmp_path / "m.onnx" if external else None)
    items = samples(6)
    runs = graph.streams(TAPS, count, items[0])
    for index, item in enumerate(items):
        got, parts = given(runs[index % count], item)
        equal(graph, got, item)
        assert parts > 3 if cut else parts == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == (["m.onnx", "weights.bin"] if external else [])


def test_arrays_stand_and_memory_is_used_again(small):
    graph = wide()
    (run,) = graph.streams(TAPS, 1, samples(1)[0])
    first, second = [*run(samples(1)[0])], [*run(samples(2)[1])]
    assert all(a is b and isinstance(a, Standing) for a, b in zip(first, second, strict=True))
    whole = sum(array.nbytes for arrays in first for array in arrays.values())
    memory, _ = onnx_stream._memory(pieces(graph))
    assert memory.nbytes < 0.9 * whole


def test_values_come_in_blocks_where_the_runtime_has_blocks():
    """On a processor for which onnxruntime has no blocks of channels, there is nothing to win, and nothing else."""
    graph = wide()
    (run,) = graph.streams(TAPS, 1, samples(1)[0])
    made, _ = given(run, samples(1)[0])
    found = pieces(graph)
    assert all((array.ndim == 5) == (name in found.blocked) for name, array in made.items())
    if found.blocked:
        assert {"a_y", "relu_y"} <= found.blocked


def test_blocks_that_are_not_full_come_in_plain_order():
    graph = wide(channels=20)
    (run,) = graph.streams(TAPS, 1, samples(1)[0])
    for item in samples(2):
        got, _ = given(run, item)
        equal(graph, got, item)
        assert {array.ndim for array in got.values()} == {4}


def test_only_what_is_asked_for_is_computed(small):
    graph = wide()
    (run,) = graph.streams(["relu_y", "out"], 1, samples(1)[0])
    equal(graph, given(run, samples(1)[0])[0], samples(1)[0], ["relu_y", "out"])
    (early,) = wide().streams(["a_y"], 1, samples(1)[0])
    assert given(early, samples(1)[0])[1] == 1


@pytest.mark.parametrize("broken", ["_strip", "_same", "_session"])
def test_where_the_copy_fails_or_differs_there_is_no_stream(broken, monkeypatch):
    def fail(*arguments, **options):
        if broken == "_same":
            return False
        raise RuntimeError("no")

    monkeypatch.setattr(onnx_stream, broken, fail)
    assert wide().streams(TAPS, 1, samples(1)[0]) is None


def test_a_wrong_input_is_refused_and_the_stream_goes_on():
    graph = wide()
    (item,) = samples(1)
    with pytest.raises(PorterError) as error:
        graph.streams(TAPS, 1, [item[0][..., :4]])
    assert error.value.code == "PT506"
    (run,) = graph.streams(TAPS, 1, item)
    with pytest.raises(PorterError) as error:
        given(run, [item[0][..., :4]])
    assert error.value.code == "PT506"
    equal(graph, given(run, item)[0], item)


def test_a_changed_model_has_a_stream_of_its_own():
    graph = wide()
    (item,) = samples(1)
    (run,) = graph.streams(TAPS, 1, item)
    other = graph.with_constants({"a": np.zeros((32, 3, 3, 3), np.float32)})
    (changed,) = other.streams(TAPS, 1, item)
    assert not given(changed, item)[0]["a_y"].any()
    assert given(run, item)[0]["a_y"].any()


def test_streams_in_threads_give_what_runs_give(small):
    """Each in a thread of its own, many samples at once."""
    graph = wide()
    items = samples(24)
    streams = graph.streams(TAPS, 3, items[0])

    def seen(stream, chosen):
        return [given(stream, items[i])[0] for i in chosen]

    with ThreadPoolExecutor(3) as pool:
        parts = [pool.submit(seen, stream, range(start, 24, 3)) for start, stream in enumerate(streams)]
    for start, part in enumerate(parts):
        for index, got in zip(range(start, 24, 3), part.result(), strict=True):
            equal(graph, got, items[index])


def test_branches_and_values_of_other_dtypes(small):
    """A value that a sub-graph reads from outside, an integer one, and one that is constant for the runtime."""
    model = onnx.parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 3, 10, 14] x) => (float[1, 3, 10, 14] y)
    <float[1] one = {1}, bool yes = {1}, int64[1] axis = {1}> {
      a = Abs (x)
      two = Add (one, one)
      best = ArgMax <axis = 1, keepdims = 1> (a)
      b = If (yes) <then_branch = t () => (float[1, 3, 10, 14] t_y) { t_y = Mul (a, two) },
                    else_branch = e () => (float[1, 3, 10, 14] e_y) { e_y = Neg (a) }>
      f = Cast <to = 1> (best)
      y = Sub (b, f)
    }""")
    graph = porter.load(model)
    taps = [op.outputs[0].name for op in graph.ops()]
    streams = graph.streams(taps, 1, samples(1)[0])
    assert streams is not None
    for item in samples(3):
        equal(graph, given(streams[0], item)[0], item, taps)
