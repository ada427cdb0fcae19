# SPDX-License-Identifier: Apache-2.0
"""Many cases, each in a worker process: a crash of a runtime ends a worker, not the run."""

from __future__ import annotations

import multiprocessing
import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from porter.target import Target

from . import devices
from .case import HOWS, How, Outcome, judge
from .generate import generate
from .program import Dialect, Program

__all__ = ["Case", "cases_of", "plan", "run", "run_one"]

#: The share of models that are captured from torch.
TORCH = 0.3
#: Seconds after which a case counts as hung.
PATIENCE = 300.0


@dataclass(frozen=True, slots=True)
class Case:
    """Model ``number`` of a seed with one target; ``how``: what is done to it."""

    seed: int
    number: int
    dialect: Dialect
    target: str
    how: How

    @property
    def feed(self) -> int:
        """The seed of the inputs that are compared on."""
        return self.seed * 100_003 + self.number


def plan(seed: int, number: int) -> Dialect:
    """Whether model ``number`` is an ONNX file or a torch module."""
    return "torch" if random.Random(f"dialect {seed} {number}").random() < TORCH else "onnx"


def cases_of(seed: int, number: int, kinds: Sequence[str] | None = None) -> Case:
    """The case of a model with a target of targets/; with the ``kinds`` of its ops, that with a restricted one."""
    rng = random.Random(f"case {seed} {number} {kinds is None}")
    how = rng.choices(list(HOWS), list(HOWS.values()))[0]
    named = rng.choice(Target.names()) if kinds is None else devices.aimed(kinds, how, rng)
    return Case(seed, number, plan(seed, number), named, how)


def run_one(case: Case) -> tuple[Program, Outcome]:
    """One case in this process."""
    program = generate(case.seed, case.number, case.dialect)
    return program, judge(program, case.target, case.how, case.feed)


@lru_cache(maxsize=1)
def _program(seed: int, number: int, dialect: Dialect) -> Program:
    """A model is judged twice in a row."""
    return generate(seed, number, dialect)


# -- workers ---------------------------------------------------------------------------------------


def _serve(link: Connection) -> None:
    warnings.simplefilter("ignore")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    while True:
        task = link.recv()
        if task is None:
            return
        program, target, how, feed = task
        if isinstance(program, Case):
            program = _program(program.seed, program.number, program.dialect)
        if program.dialect == "torch":
            import torch

            torch.set_num_threads(1)
        outcome = judge(program, target, how, feed)
        outcome.operators = tuple(dict.fromkeys(step.op for step in program.steps))
        link.send(outcome)


class _Worker:
    """A process that judges cases; a new one where it died."""

    def __init__(self) -> None:
        self._process: BaseProcess | None = None
        self.link: Connection

    def give(self, program: Program | Case, target: str, how: How, feed: int) -> None:
        if self._process is None or not self._process.is_alive():
            context = multiprocessing.get_context("spawn")
            self.link, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        self.link.send((program, target, how, feed))

    def take(self) -> Outcome:
        assert self._process is not None
        try:
            outcome: Outcome = self.link.recv()
        except EOFError:
            self._process.join()
            outcome = Outcome("crash", f"the process ended with code {self._process.exitcode} (negative: a signal)")
        return outcome

    def hung(self) -> Outcome:
        self.close()
        return Outcome("crash", f"nothing came of it in {PATIENCE:.0f} s")

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def run(seed: int, numbers: Sequence[int], jobs: int, done: Callable[[], None]) -> Iterator[tuple[Case, Outcome]]:
    """Judge each model twice: with a target of targets/, then with a restricted one aimed at what it holds."""
    workers = [_Worker() for _ in range(min(jobs, len(numbers)))]
    waiting: list[Case] = [cases_of(seed, number) for number in reversed(numbers)]

    def give(worker: _Worker, case: Case) -> None:
        worker.give(case, case.target, case.how, case.feed)
        busy[worker.link] = worker, case

    busy: dict[Connection, tuple[_Worker, Case]] = {}
    idle = list(workers)
    try:
        while waiting or busy:
            while waiting and idle:
                give(idle.pop(), waiting.pop())
            ready = wait(list(busy), PATIENCE)
            for link in ready or list(busy):
                assert isinstance(link, Connection)
                worker, case = busy.pop(link)
                outcome = worker.take() if ready else worker.hung()
                first = not case.target.startswith("without:")
                if first and outcome.kinds:
                    give(worker, cases_of(seed, case.number, outcome.kinds))
                else:
                    idle.append(worker)
                    done()
                yield case, outcome
    finally:
        for worker in workers:
            worker.close()


def isolated() -> tuple[Callable[[Program, str, How, int], Outcome], Callable[[], None]]:
    """A function that judges programs one by one in a process of their own, and one that ends the process."""
    worker = _Worker()

    def ask(program: Program, target: str, how: How, feed: int) -> Outcome:
        worker.give(program, target, how, feed)
        return worker.take() if worker.link.poll(PATIENCE) else worker.hung()

    return ask, worker.close
