# SPDX-License-Identifier: Apache-2.0
"""A search over one variable on a grid, by Optuna, in a folder that survives whatever happens to the process.

The folder is the study: ``journal.log`` (Optuna's journal storage), what a trial leaves behind, and a lock for each
worker at work. Running the same search on it goes on where it stopped, and several processes may do so at once.

No value is tried twice: Optuna's sampler proposes, and the nearest value that nobody has taken is used. Where a value
that meets the requirements has a neighbour that misses them, the search first closes in on the border between the two,
since that is where the best one is found.

Locks are the kernel's (``flock``), which releases them however a process ends; a trial whose worker is gone is marked
as failed and is open again.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from porter.errors import PorterError
from porter.files import check_output

if TYPE_CHECKING:
    import optuna

__all__ = ["UNUSABLE", "Evaluate", "Grid", "Record", "Search", "Study"]

_VARIABLE = "value"
_RECORD, _WORKER, _ABOUT = "record", "worker", "about"
_JOURNAL, _LOCK = "journal.log", "study.lock"
#: Trials before the sampler models what it has seen. Optuna's default of ten is the whole of a usual search here.
_STARTUP = 4

#: What one trial says of itself, as JSON.
Record = dict[str, Any]
#: The score of a value that cannot be had at all.
UNUSABLE = -1e6
#: Try one value: the record of it, and its score: positive where it meets what is required (higher is better), negative
#: where it misses, by how much, or :data:`UNUSABLE`. The folder takes what else the trial leaves.
Evaluate = Callable[[float, Path], tuple[Record, float]]


@dataclass(frozen=True, slots=True)
class Grid:
    """The values ``low, low + step, ...`` up to ``high``."""

    low: float
    high: float
    step: float

    def __post_init__(self) -> None:
        if not (0 < self.low <= self.high and self.step > 0):
            raise ValueError(f"not a grid: {self}")

    @property
    def values(self) -> list[float]:
        """Every value, rising; rounded, so that 0.2 + 0.05 * 2 is 0.3."""
        count = int((self.high - self.low) / self.step + 1e-6) + 1
        return [round(self.low + i * self.step, 9) for i in range(count)]


@dataclass(frozen=True, slots=True)
class Search:
    """One search: where its study is, the grid, how many trials in all, the sampler's seed.

    ``about`` says what is searched; a study that was made for anything else is refused.
    """

    folder: Path
    grid: Grid
    trials: int
    seed: int
    about: Mapping[str, Any]


class Study:
    """The study of a search, opened or begun.

    Raises:
        PorterError: PT624 when the folder holds the study of another search, or its journal cannot be read; PT510 or
            PT512 when it cannot be made.
    """

    def __init__(self, search: Search) -> None:
        self._search = search
        self._folder = _study_folder(search.folder)
        self._about = json.loads(json.dumps(dict(search.about), default=str))
        with self._locked(_LOCK):
            self._study = self._open()
            self._reclaim()

    def run(
        self,
        evaluate: Evaluate,
        workers: int = 1,
        entry: Callable[[Search], Evaluate] | None = None,
        progress: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """Try values until the search has its number of trials, or every value of the grid was tried.

        Args:
            evaluate: see :data:`Evaluate`.
            workers: processes at work, this one among them.
            entry: makes the ``evaluate`` of another process from the search; it is pickled, so it must be a function
                of a module or a partial of one. Needed for more than one worker.
            progress: called with a short text at each trial.

        Raises:
            PorterError: whatever ``evaluate`` raises; PT625 when the search is interrupted. Finished trials are kept.
        """
        helpers = [_Helper(entry, self._search) for _ in range(workers - 1)] if entry is not None else []
        try:
            self._work(evaluate, progress)
            for helper in helpers:
                helper.join()
        except Exception:
            raise
        except BaseException as stop:  # Ctrl-C and SIGTERM, which are no Exceptions
            done = len(self.records())
            raise PorterError(
                "PT625", f"interrupted after {done} of {self._search.trials} trials; they are kept in {self._folder}",
                str(self._folder), "Run the same command again: it goes on from there.",
            ) from stop  # fmt: skip
        finally:
            for helper in helpers:
                helper.stop()

    def records(self) -> list[tuple[int, float, Record, float]]:
        """Every finished trial in order: number, value, record, score."""
        from optuna.trial import TrialState

        return [
            (t.number, float(t.params[_VARIABLE]), t.user_attrs[_RECORD], float(t.value or 0.0))
            for t in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        ]

    # -- the study -----------------------------------------------------------------------------------------------

    def _open(self) -> optuna.Study:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        path = self._folder / _JOURNAL
        _drop_half_line(path)
        try:
            lock: Any = _Flock(path.with_name(f"{path.name}.lock"))
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
            inner = optuna.samplers.TPESampler(seed=self._search.seed, n_startup_trials=_STARTUP)
            study = optuna.create_study(
                study_name="porter", storage=storage, direction="maximize", load_if_exists=True,
                sampler=_untried(inner, self._search.grid.values),
            )  # fmt: skip
        except Exception as error:  # Optuna replays a damaged journal until something of its own breaks
            raise PorterError(
                "PT624", f"{path} is not the journal of a study: {error}", str(path), "Name another --study folder."
            ) from error
        seen = study.user_attrs.get(_ABOUT)
        if seen is None:
            study.set_user_attr(_ABOUT, self._about)
            # The ends first: the whole model is what the others are compared with, the smallest says what can be had.
            for value in dict.fromkeys((self._search.grid.values[-1], self._search.grid.values[0])):
                study.enqueue_trial({_VARIABLE: value})
        elif seen != self._about:
            keys = sorted(key for key in {*seen, *self._about} if seen.get(key) != self._about.get(key))
            parts = [f"{key} was {seen.get(key)!r} and is {self._about.get(key)!r}" for key in keys]
            raise PorterError(
                "PT624", f"{self._folder} is the study of another search: {'; '.join(parts)}", str(self._folder),
                "Name another folder with --study, or make the search the same.",
            )  # fmt: skip
        return study

    def _reclaim(self) -> None:
        """Mark the trials of workers that are gone as failed."""
        from optuna.trial import TrialState

        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not _at_work(self._folder / f"{trial.user_attrs.get(_WORKER, 'none')}.worker"):
                self._fail(trial.number, trial.params)

    def _fail(self, number: int, params: Mapping[str, Any]) -> None:
        """Give a trial up, and its value back: it is the next to be tried."""
        from optuna.trial import TrialState

        self._study.tell(number, state=TrialState.FAIL)
        if _VARIABLE in params:
            self._study.enqueue_trial({_VARIABLE: params[_VARIABLE]})

    def _ask(self, worker: str) -> tuple[optuna.Trial, float] | None:
        """The next trial with its value, or None when there is nothing left to try."""
        from optuna.trial import TrialState

        grid = self._search.grid
        with self._locked(_LOCK):
            self._reclaim()
            states = (TrialState.COMPLETE, TrialState.RUNNING)
            taken = self._study.get_trials(deepcopy=False, states=states)
            if len(taken) >= min(self._search.trials, len(grid.values)):
                return None
            trial = self._study.ask()
            trial.set_user_attr(_WORKER, worker)
            value = trial.suggest_float(_VARIABLE, grid.low, grid.values[-1], step=grid.step)
        return trial, round(value, 9)

    def _work(self, evaluate: Evaluate, progress: Callable[[str], None]) -> None:
        worker = secrets.token_hex(6)
        with self._locked(f"{worker}.worker", passing=True):
            while (asked := self._ask(worker)) is not None:
                trial, value = asked
                progress(f"trial {trial.number + 1}: {value:g}")
                try:
                    record, score = evaluate(value, self._folder)
                    trial.set_user_attr(_RECORD, record)
                except BaseException:
                    self._fail(trial.number, trial.params)
                    raise
                self._study.tell(trial, score)

    @contextlib.contextmanager
    def _locked(self, name: str, passing: bool = False) -> Iterator[None]:
        path = self._folder / name
        with path.open("a") as file:
            _take(file)
            try:
                yield
            finally:
                if passing:
                    path.unlink(missing_ok=True)


def _study_folder(folder: Path) -> Path:
    """The folder of a study, made if there is none; an existing one must be a study's."""
    # Another worker may have made the folder a moment ago: its lock comes before the journal.
    if folder.is_dir() and ((folder / _LOCK).is_file() or (folder / _JOURNAL).is_file() or not any(folder.iterdir())):
        return folder
    if folder.exists():
        raise PorterError("PT512", f"{folder} exists and is not the folder of a study", str(folder),
                          "Name another folder with --study.")  # fmt: skip
    check_output(folder, folder=True)
    folder.mkdir(exist_ok=True)
    return folder


# -- helpers of other processes --------------------------------------------------------------------------------------


class _Helper:
    """Another process that works on the same study."""

    def __init__(self, entry: Callable[[Search], Evaluate], search: Search) -> None:
        context = multiprocessing.get_context("spawn")
        self._receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_help, args=(entry, search, sender), daemon=True)
        self._process.start()
        sender.close()

    def join(self) -> None:
        """Wait for it; an error of its own is raised here."""
        try:
            error = self._receiver.recv()
        except EOFError:  # it was killed; its trial is open again, and was done or will be
            error = None
        self._process.join()
        if error is not None:
            raise error

    def stop(self) -> None:
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()


def _help(entry: Callable[[Search], Evaluate], search: Search, sender: Connection) -> None:
    try:
        Study(search).run(entry(search))
        sender.send(None)
    except PorterError as error:
        # The main process says itself that it was interrupted.
        sender.send(None if error.code == "PT625" else error)


# -- locks -----------------------------------------------------------------------------------------------------------


def _take(file: IO[Any], wait: bool = True) -> bool:
    if sys.platform == "win32":  # one worker at a time there
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _at_work(path: Path) -> bool:
    """Whether the worker whose lock this is still lives; what a dead one left is removed."""
    try:
        with path.open("r+") as file:
            if not _take(file, wait=False):
                return True
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        pass
    return False


class _Flock:
    """The lock of the journal. Optuna's own are files, which a killed process leaves behind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[Any] | None = None

    def acquire(self) -> bool:
        self._file = self._path.open("a")
        return _take(self._file)

    def release(self) -> None:
        if self._file is not None:
            self._file.close()


def _drop_half_line(path: Path) -> None:
    """A write that was cut short leaves a line without its end, which must not be joined to the next one."""
    if path.is_file():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)


# -- sampling --------------------------------------------------------------------------------------------------------


def _untried(inner: Any, values: Sequence[float]) -> Any:
    """A sampler of values that nobody has taken: on the border of what meets the requirements, else near ``inner``."""
    from optuna.samplers import BaseSampler
    from optuna.trial import TrialState

    class Untried(BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> float:
            states = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING)
            others = [t for t in study.get_trials(deepcopy=False, states=states) if t.number != trial.number]
            # A queued trial has its value among Optuna's own attributes until it is taken up.
            known = (t.params.get(param_name, t.system_attrs.get("fixed_params", {}).get(param_name)) for t in others)
            taken = {round(float(value), 9) for value in known if value is not None}
            free = [value for value in values if value not in taken]
            scores = {round(float(t.params[param_name]), 9): t.value for t in others if t.state is TrialState.COMPLETE}
            border = _border(scores, free)
            if border is not None:
                return border
            proposed: float = inner.sample_independent(study, trial, param_name, param_distribution)
            return min(free, key=lambda value: abs(value - proposed), default=proposed)

    return Untried()


def _border(scores: Mapping[float, float], free: Sequence[float]) -> float | None:
    """The middle of the free values between the best value that meets the requirements and one beside it that does
    not; None where no value is free between such two."""
    usable = sorted(value for value, score in scores.items() if score > UNUSABLE)
    best: tuple[float, list[float]] | None = None
    for low, high in pairwise(usable):
        between = [value for value in free if low < value < high]
        if between and (scores[low] > 0) != (scores[high] > 0):
            top = max(scores[low], scores[high])
            if best is None or top > best[0]:
                best = top, between
    return None if best is None else best[1][len(best[1]) // 2]
