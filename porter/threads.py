# SPDX-License-Identifier: Apache-2.0
"""How many threads there are to work with, and work in them on one item after another."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

__all__ = ["InOrder", "cores", "threads"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def threads() -> int:
    """Threads for one operator: PORTER_THREADS or OMP_NUM_THREADS; 0 (one a core) when neither is set."""
    for name in ("PORTER_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "")
        if text.isdigit():
            return int(text)
    return 0


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class InOrder(Generic[Item, Result]):
    """Results of one item after another, in that order, by several workers at once.

    Each item goes to whichever of the workers is free; a worker has one at a time. Leaving the context waits for those
    that have begun, and forgets the others.

    Args:
        workers: functions that may be called at the same time.
    """

    def __init__(self, workers: Sequence[Callable[[Item], Result]]) -> None:
        self._free: SimpleQueue[Callable[[Item], Result]] = SimpleQueue()
        for worker in workers:
            self._free.put(worker)
        self._pool = ThreadPoolExecutor(len(workers))
        self._waiting: deque[tuple[Item, Future[Result]]] = deque()
        #: Beside those at work there is one for each worker, so that none waits for the next item to be read.
        self._most = 2 * len(workers)

    def feed(self, item: Item) -> Iterator[tuple[Item, Result]]:
        """Give the next item, and get what is done of those before it; waits where too many are not. What a worker
        raises is raised here, in its turn."""
        self._waiting.append((item, self._pool.submit(self._work, item)))
        while self._waiting and (len(self._waiting) > self._most or self._waiting[0][1].done()):
            yield self._first()

    def drain(self) -> Iterator[tuple[Item, Result]]:
        """What is left, when it is done."""
        while self._waiting:
            yield self._first()

    def _first(self) -> tuple[Item, Result]:
        item, future = self._waiting.popleft()
        return item, future.result()

    def _work(self, item: Item) -> Result:
        worker = self._free.get()
        try:
            return worker(item)
        finally:
            self._free.put(worker)

    def __enter__(self) -> InOrder[Item, Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
