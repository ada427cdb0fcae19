# SPDX-License-Identifier: Apache-2.0
"""Workers at once, results in order."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porter.threads import InOrder, cores, threads


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 4), st.sets(st.integers(0, 29)))
def test_results_come_in_the_order_of_the_items(pauses, count, drained):
    def work(item):
        time.sleep(item[1] / 1000)
        return item[0] ** 2

    got = []
    with InOrder([work] * count) as line:
        for index, pause in enumerate(pauses):
            got += line.feed((index, pause))
            assert index + 1 - len(got) <= 2 * count
            if index in drained:
                got += line.drain()
                assert len(got) == index + 1
        got += line.drain()
    assert got == [((index, pause), index**2) for index, pause in enumerate(pauses)]


def test_a_worker_has_one_item_at_a_time_and_all_work_at_once():
    together = threading.Barrier(3, timeout=10)

    class Worker:
        busy = False

        def __call__(self, item):
            assert not self.busy
            self.busy = True
            together.wait()
            self.busy = False

    with InOrder([Worker() for _ in range(3)]) as line:
        for item in range(12):
            list(line.feed(item))
        list(line.drain())


def test_what_a_worker_raises_is_raised_in_turn_and_the_rest_is_forgotten():
    begun = []

    def work(item):
        begun.append(item)
        if item == 1:
            raise ValueError(item)
        time.sleep(0.01)
        return item

    got = []
    with pytest.raises(ValueError, match="1"), InOrder([work]) as line:
        for item in range(100):
            got += line.feed(item)
    assert got == [(0, 0)]
    assert len(begun) < 5


def test_threads_are_those_that_are_asked_for(monkeypatch):
    for name in ("PORTER_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert threads() == 0
    assert cores() >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert threads() == 6
    monkeypatch.setenv("PORTER_THREADS", "8")
    assert threads() == 8
