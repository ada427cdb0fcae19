# SPDX-License-Identifier: Apache-2.0
"""Calibrations that an interrupt ended, taken up again.

The file holds plain arrays: what every observer has seen, of how many samples, and two digests: one of everything that
must be the same for the file to be of use (model, groups, observer, size of the data), one of the samples themselves.
"""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

import numpy as np

from porter.data import Data
from porter.files import atomic_file
from porter.findings import Finding
from porter.graph import Graph
from porter.ops import Array
from porter.quantize.taps import Steps

__all__ = ["Resume", "Stateful", "deferred_signals", "fingerprint", "obey"]

#: Seconds between two versions of the file.
_EVERY = 5.0
#: Of large arrays every so manieth element is digested (a prime: no stride of a tensor is a multiple of it).
_STRIDE = 61
_LARGE = 4096


class Stateful(Protocol):
    """What can be saved as arrays."""

    notes: list[Finding]

    def state(self) -> dict[str, Array]: ...

    def restore(self, arrays: Mapping[str, Array]) -> None: ...


def fingerprint(graph: Graph, settings: Mapping[str, Any], data: Data) -> str:
    """A digest of the model (ops and weights), the settings, and the name and size of the data."""
    digest = hashlib.blake2b(digest_size=16)
    inputs = [(v.name, v.shape, v.dtype) for v in graph.inputs]
    digest.update(json.dumps([settings, data.name, len(data), inputs], sort_keys=True).encode())
    known: set[str] = set()
    for op in graph.ops():
        digest.update(repr((op.kind, op.name, [v.name for v in op.operands], sorted(op.attrs.items()))).encode())
        for value in op.operands:
            if value.is_const and value.name not in known:
                known.add(value.name)
                _add(digest, value.numpy())
    return digest.hexdigest()


def _add(digest: Any, array: Array) -> None:
    flat = np.ascontiguousarray(array).reshape(-1)
    digest.update(repr((array.shape, str(array.dtype))).encode())
    digest.update(np.ascontiguousarray(flat if flat.size <= _LARGE else flat[::_STRIDE]).tobytes())


class Resume:
    """The file of one calibration.

    Args:
        path: of the file.
        key: the :func:`fingerprint` that a file must have to be taken up.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._items = hashlib.blake2b(digest_size=16)
        self._saved = time.monotonic()

    def take_up(self, made: Stateful, data: Data, steps: Steps) -> tuple[int, Iterator[list[Array]]]:
        """How many samples ``made`` has seen now, and the samples that are left.

        The samples that the file says were seen are read again and compared by digest, and not run.
        """
        if not self._path.exists():
            return 0, iter(data)
        arrays = self._load()
        if arrays is not None:
            items = iter(data)
            for _ in range(int(arrays["done"])):
                self.digest(next(items))
            if self._items.hexdigest() == str(arrays["items"]):
                made.restore(arrays)
                done = int(arrays["done"])
                for _ in range(done):
                    steps()
                text = f"went on after {done} of {len(data)} samples, which an interrupted run had seen"
                made.notes.append(Finding("PT430", "note", text, op=self._path.name))
                return done, items
        self._items = hashlib.blake2b(digest_size=16)
        text = f"{self._path} is not of this model, these data and this observer; calibration started again"
        made.notes.append(Finding("PT430", "note", text, op=self._path.name))
        return 0, iter(data)

    @property
    def due(self) -> bool:
        """Whether it is time for a new version of the file."""
        return time.monotonic() - self._saved >= _EVERY

    def save(self, done: int, made: Stateful) -> None:
        """Write the file: ``made`` has seen ``done`` samples, each of which was digested."""
        head = {"key": np.array(self._key), "done": np.array(done), "items": np.array(self._items.hexdigest())}
        with atomic_file(self._path, overwrite=True) as fresh, fresh.open("wb") as file:
            np.savez(file, **head, **made.state())  # type: ignore[arg-type]
        self._saved = time.monotonic()

    def digest(self, item: Sequence[Array]) -> None:
        """The next sample that was seen."""
        for array in item:
            _add(self._items, array)

    def _load(self) -> dict[str, Array] | None:
        try:
            with np.load(self._path, allow_pickle=False) as file:
                if str(file["key"]) != self._key:
                    return None
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


@contextmanager
def deferred_signals(wanted: bool) -> Iterator[list[int]]:
    """Collects the first SIGINT or SIGTERM in the list that it gives, so that it can be obeyed between two samples;
    a second one is obeyed at once. Nothing, where not ``wanted`` or outside of the main thread.
    """
    caught: list[int] = []
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def handler(number: int, frame: FrameType | None) -> None:
        if caught:
            _obey(number, before[number])
        caught.append(number)

    before: dict[int, Any] = {int(n): signal.signal(n, handler) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def obey(number: int) -> NoReturn:
    """Do what the signal would have done: call its handler (Python's own raises KeyboardInterrupt); one that ends the
    process, or does not raise, becomes SystemExit with 128 + the number."""
    _obey(number, signal.getsignal(number))


def _obey(number: int, handler: Any) -> NoReturn:
    if callable(handler):
        handler(number, None)
    raise SystemExit(128 + number)
