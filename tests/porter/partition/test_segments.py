# SPDX-License-Identifier: Apache-2.0
"""Levels, islands and crossings, on graphs of names."""

import time
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from porter.partition.segments import Crossing, Link, Task, crossings, divide

FREE = Link(0.0, 1e30)


def task(reads, makes, device="A", gain=1.0):
    return Task(tuple(reads), tuple(makes), {"A": "accelerator", "H": "host"}[device], gain if device == "A" else 0.0)


def test_a_chain_is_cut_at_each_change_of_device():
    tasks = [task("x", "a"), task("a", "b"), task("b", "c", "H"), task("c", "d", "H"), task("d", "e")]
    segments, given_ = divide(tasks, {}, FREE)
    assert segments == [("accelerator", [0, 1]), ("host", [2, 3]), ("accelerator", [4])] and not given_


def test_two_branches_share_their_segments():
    """Each branch goes to the host and back: three segments, not five."""
    tasks = [
        task("x", "a"), task("a", "b", "H"), task("b", "c"), task("a", "p", "H"), task("p", "q"), task("cq", "y"),
    ]  # fmt: skip
    segments, _ = divide(tasks, {}, FREE)
    assert segments == [("accelerator", [0]), ("host", [1, 3]), ("accelerator", [2, 4, 5])]


def test_a_host_task_at_the_input_does_not_split_the_accelerator():
    """What the accelerator does beside it waits: host, accelerator; not accelerator, host, accelerator."""
    tasks = [task("x", "a"), task("i", "b", "H"), task("ab", "y")]
    assert divide(tasks, {}, FREE)[0] == [("host", [1]), ("accelerator", [0, 2])]


def test_an_island_that_does_not_pay_goes_to_the_host():
    tasks = [task("x", "a", gain=1.0), task("a", "b", "H"), task("b", "c", gain=1e-6), task("c", "y", "H")]
    segments, islands = divide(tasks, {"b": 1000, "c": 500}, Link(1e-4, 1e6))
    assert segments == [("accelerator", [0]), ("host", [1, 2, 3])]
    (island,) = islands
    assert island.tasks == (2,) and island.bytes == 1500 and island.gain == 1e-6
    assert abs(island.cost - (1e-4 + 1500 / 1e6)) < 1e-12


def test_an_island_that_pays_stays():
    tasks = [task("x", "a", gain=1.0), task("a", "b", "H"), task("b", "c", gain=0.5), task("c", "y", "H")]
    segments, islands = divide(tasks, {"b": 1000, "c": 500}, Link(1e-4, 1e6))
    assert [device for device, _ in segments] == ["accelerator", "host", "accelerator", "host"] and not islands


def test_a_poor_island_leaves_a_level_that_pays():
    """Two islands run in one trip to the device; the one that costs more than it saves stays at home."""
    tasks = [
        task("x", "a", "H"), task("a", "b", gain=1.0), task("a", "c", gain=1e-9), task("bc", "y", "H"),
    ]  # fmt: skip
    segments, islands = divide(tasks, {"a": 10, "b": 10, "c": 10**6}, Link(1e-4, 1e6))
    assert [i.tasks for i in islands] == [(2,)]
    assert segments == [("host", [0, 2]), ("accelerator", [1]), ("host", [3])]


def test_something_always_stays_on_the_accelerator():
    tasks = [task("x", "a", gain=1e-12), task("a", "y", "H")]
    assert divide(tasks, {"a": 10**9}, Link(1.0, 1.0))[0] == [("accelerator", [0]), ("host", [1])]


def test_nothing_for_the_accelerator():
    assert divide([task("x", "y", "H")], {}, FREE) == ([("host", [0])], [])
    assert divide([], {}, FREE) == ([], [])


def test_crossings_are_counted_once_for_each_side():
    tasks = [task("x", "a"), task("a", "b", "H"), task("a", "c", "H"), task("ab", "y"), task("cy", "z")]
    segments, _ = divide(tasks, {}, FREE)
    found = crossings(tasks, segments, {"a": 8, "b": 4, "c": 2})
    assert found == [
        Crossing("a", 0, True, 8), Crossing("a", 2, False, 8), Crossing("b", 2, False, 4), Crossing("c", 2, False, 2),
    ]  # fmt: skip


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 14))
    tasks = []
    for i in range(count):
        reads = draw(st.lists(st.integers(0, i - 1), max_size=3, unique=True)) if i else []
        device = draw(st.sampled_from("AH"))
        gain = draw(st.sampled_from([0.0, 1e-3, 0.1, 1.0]))
        tasks.append(task([f"v{j}" for j in reads] or ["x"], [f"v{i}"], device, gain))
    return tasks


def longest_alternation(tasks):
    """The most segments on one path: no order of whole segments can have fewer."""
    made = {}
    best = 0
    for t in tasks:
        runs = max((made[n][0] + (made[n][1] != t.device) for n in t.reads if n in made), default=1)
        for n in t.makes:
            made[n] = (runs, t.device)
        best = max(best, runs)
    return best


@given(graphs())
def test_segments_are_convex_maximal_and_as_few_as_can_be(tasks):
    segments, given_ = divide(tasks, {f"v{i}": 4 for i in range(len(tasks))}, FREE)
    assert not given_ or all(island.gain < island.cost + 1e-30 for island in given_)
    place = {i: n for n, (_, places) in enumerate(segments) for i in places}
    assert sorted(place) == list(range(len(tasks)))
    for i, t in enumerate(tasks):
        for j in range(i):
            if set(tasks[j].makes) & set(t.reads):
                assert place[j] <= place[i], "a segment reads what a later one makes"
    assert all(a != b for (a, _), (b, _) in pairwise(segments)), "neighbours on one device are one segment"
    if not given_:
        assert all(device == tasks[i].device for device, places in segments for i in places)
        assert longest_alternation(tasks) <= len(segments) <= longest_alternation(tasks) + 1


@given(graphs(), st.sampled_from([1e-4, 0.05, 10.0]))
def test_what_is_given_to_the_host_did_not_pay(tasks, latency):
    sizes = {f"v{i}": 100 for i in range(len(tasks))}
    segments, islands = divide(tasks, sizes, Link(latency, 1e4))
    moved = {i for island in islands for i in island.tasks}
    for device, places in segments:
        for i in places:
            assert device == ("host" if i in moved else tasks[i].device)
    assert all(island.gain <= island.cost for island in islands)
    if any(t.device == "accelerator" for t in tasks):
        assert any(device == "accelerator" for device, _ in segments)


def test_it_is_linear():
    def seconds(n):
        tasks = [task([f"v{i - 1}"], [f"v{i}"], "AAH"[i % 3], 1e-9) for i in range(n)]
        start = time.process_time()
        segments, _ = divide(tasks, {f"v{i}": 4 for i in range(n)}, Link(1e-4, 1e9))
        assert [d for d, _ in segments] in (["accelerator", "host"], ["host", "accelerator", "host"])
        return time.process_time() - start

    seconds(1000)
    assert seconds(30_000) < 30 * max(seconds(3000), 0.005)
