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


def in_blocks(graph):
    (found,) = graph._sessions._blocks.values()
    return found


def equal(graph, got, item):
    want = graph.run(item, TAPS, fast=True)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a.reshape(b.shape), b)


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_streams_give_what_runs_give_until_their_next_call(external, count, tmp_path):
    graph = wide(tmp_path / "m.onnx" if external else None)
    runs = graph.streams(TAPS, count)
    items = samples(6)
    given = []
    for index, item in enumerate(items):
        given.append(runs[index % count](item))
        for ago in range(min(index + 1, count)):
            equal(graph, given[index - ago], items[index - ago])
    if in_blocks(graph) is not None:
        assert given[0][1] is given[count][1]  # the same memory again
    assert sorted(p.name for p in tmp_path.iterdir()) == (["m.onnx", "weights.bin"] if external else [])


def test_values_come_in_blocks_where_the_runtime_has_blocks():
    """On a processor for which onnxruntime has no blocks of channels, there is nothing to win, and nothing else."""
    graph = wide()
    (run,) = graph.streams(TAPS, 1)
    made = run(samples(1)[0])
    found = in_blocks(graph)
    if found is None:
        assert all(array.flags.c_contiguous for array in made)
    else:
        assert {"a_y", "relu_y"} <= found.blocked and "out" not in found.blocked
        assert all(array.ndim == 5 for name, array in zip(TAPS, made[1:], strict=True) if name in found.blocked)


def test_blocks_that_are_not_full_come_in_plain_order():
    graph = wide(channels=20)
    (run,) = graph.streams(TAPS, 1)
    for item in samples(2):
        given = run(item)
        equal(graph, given, item)
        assert {array.ndim for array in given} == {4}


@pytest.mark.parametrize("broken", ["_strip", "_same", "_session"])
def test_where_the_copy_fails_or_differs_the_model_is_run_the_plain_way(broken, monkeypatch):
    def fail(*arguments, **options):
        if broken == "_same":
            return False
        raise RuntimeError("no")

    monkeypatch.setattr(onnx_stream, broken, fail)
    graph = wide()
    (run,) = graph.streams(TAPS, 1)
    for item in samples(2):
        equal(graph, run(item), item)
    assert in_blocks(graph) is None


def test_a_wrong_input_is_refused_and_the_stream_goes_on():
    graph = wide()
    (run,) = graph.streams(TAPS, 1)
    (item,) = samples(1)
    for call in range(2):  # before the session is made, and after
        with pytest.raises(PorterError) as error:
            run([item[0][..., :4]])
        assert error.value.code == "PT506", call
        equal(graph, run(item), item)


def test_a_changed_model_has_a_stream_of_its_own():
    graph = wide()
    (item,) = samples(1)
    (run,) = graph.streams(TAPS, 1)
    run(item)
    other = graph.with_constants({"a": np.zeros((32, 3, 3, 3), np.float32)})
    (changed,) = other.streams(TAPS, 1)
    assert not changed(item)[1].any()
    assert run(item)[1].any()


def test_streams_in_threads_give_what_runs_give():
    """Each in a thread of its own, many samples at once, begun at the same time."""
    graph = wide()
    items = samples(24)
    want = [graph.run(item, TAPS, fast=True) for item in items]
    streams = graph.streams(TAPS, 3)

    def seen(stream, chosen):
        return [[array.reshape(plain.shape).copy() for array, plain in zip(stream(items[i]), want[i], strict=True)]
                for i in chosen]  # fmt: skip

    with ThreadPoolExecutor(3) as pool:
        parts = [pool.submit(seen, stream, range(start, 24, 3)) for start, stream in enumerate(streams)]
    for start, part in enumerate(parts):
        for index, arrays in zip(range(start, 24, 3), part.result(), strict=True):
            for got, plain in zip(arrays, want[index], strict=True):
                np.testing.assert_array_equal(got, plain)
