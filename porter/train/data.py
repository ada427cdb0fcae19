# SPDX-License-Identifier: Apache-2.0
"""The data of a stage: loaders whose order depends on seed and epoch alone, and each process's share of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from porter.errors import PorterError
from porter.train.config import Loader
from porter.train.distributed import Processes
from porter.usercode import run_user_code

__all__ = ["Share", "batches", "check_batch", "make_loader", "seed_everything", "to_device"]


class Share(Sampler[int]):
    """The indices of one process: every ``world``-th of a data set, from ``rank`` on.

    Args:
        size: of the data set.
        processes: this one, among all.
        shuffle: in an order that depends on ``seed`` and the epoch alone, not on the number of processes: n processes
            with batches of b see at each step what one process with batches of n b sees.
        seed: of the order.
        even: give every process as many indices (the first ones once more), so that all take as many steps.
    """

    def __init__(self, size: int, processes: Processes, *, shuffle: bool, seed: int, even: bool) -> None:
        self._size, self._rank, self._world = size, processes.rank, processes.world
        self._shuffle, self._seed, self._even = shuffle, seed, even
        self.epoch = 0

    def _order(self) -> list[int]:
        if self._shuffle:
            generator = torch.Generator().manual_seed(_mixed(self._seed, self.epoch))
            order = torch.randperm(self._size, generator=generator).tolist()
        else:
            order = list(range(self._size))
        if self._even and self._size:
            short = -self._size % self._world
            order += [order[i % self._size] for i in range(short)]
        return order[self._rank :: self._world]

    def __iter__(self) -> Iterator[int]:
        return iter(self._order())

    def __len__(self) -> int:
        return len(self._order())


def make_loader(
    wanted: Any, processes: Processes, *, seed: int, where: str, train: bool, share: bool = True
) -> DataLoader[Any]:
    """The DataLoader of a configuration's ``data_loader`` and so on.

    Args:
        wanted: a :class:`~porter.train.config.Loader`, or a function of a sampler factory.
        processes: this one, among all; each takes its share unless ``share`` is false.
        seed: of the order.
        where: the place of the configuration, for messages.
        train: every process takes as many steps.
        share: False: this process takes all of it.

    Raises:
        PorterError: PT701 for a data set without a length, an empty one, or a function that returns no DataLoader;
            PT520 when the user's own code fails.
    """
    mine = processes if share else Processes(0, 1, processes.device)

    def sampler(dataset: Any, shuffle: bool = False) -> Share:
        if not isinstance(dataset, Sized):
            raise PorterError("PT701", f"the data set, a {type(dataset).__name__}, has no length", where,
                              "Give it __len__ and __getitem__.")  # fmt: skip
        size = run_user_code(lambda: len(dataset), where)
        if size == 0:
            raise PorterError("PT701", "the data set is empty", where)
        return Share(size, mine, shuffle=shuffle, seed=seed, even=train)

    if not isinstance(wanted, Loader):
        made = run_user_code(lambda: wanted(sampler), where)
        if not isinstance(made, DataLoader):
            raise PorterError("PT701", f"the function returned a {type(made).__name__}, not a DataLoader", where)
        return made
    dataset = wanted.dataset
    if callable(dataset) and (isinstance(dataset, type) or not hasattr(dataset, "__getitem__")):
        dataset = run_user_code(wanted.dataset, f"{where}['dataset']")
    return DataLoader(
        dataset, wanted.batch_size, sampler=sampler(dataset, wanted.shuffle), num_workers=wanted.num_workers,
        collate_fn=wanted.collate_fn, drop_last=wanted.drop_last, pin_memory=wanted.pin_memory,
        persistent_workers=wanted.persistent_workers,
    )  # fmt: skip


def check_batch(batch: Any, where: str) -> Mapping[str, Any]:
    """The batch, which must be a dict with a tensor "img".

    Raises:
        PorterError: PT701 when it is something else.
    """
    if not isinstance(batch, Mapping) or not isinstance(batch.get("img"), Tensor):
        found = f"a dict with {', '.join(map(repr, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
        raise PorterError("PT701", f"a batch must be a dict with a tensor 'img', and is {found}", where,
                          "Let the data set return dicts, or give the loader a collate_fn that makes one.")  # fmt: skip
    return batch


def batches(loader: DataLoader[Any], where: str, device: torch.device) -> Iterator[dict[str, Any]]:
    """The batches of a loader, checked and on the device.

    Raises:
        PorterError: PT520 when the data set's own code fails; as :func:`check_batch`.
    """
    source = run_user_code(lambda: iter(loader), where)
    while True:
        batch = run_user_code(lambda: next(source, None), where)
        if batch is None:
            return
        yield to_device(check_batch(batch, where), device)


def to_device(value: Any, device: torch.device) -> Any:
    """Every tensor in dicts, lists and tuples, on the device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: to_device(one, device) for key, one in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(to_device(one, device) for one in value)
    return value


def _mixed(*numbers: int) -> int:
    """One seed of several: different ones give unrelated seeds."""
    return int(np.random.SeedSequence([n & 0xFFFFFFFF for n in numbers]).generate_state(1, np.uint64)[0] >> 1)


def seed_everything(*numbers: int) -> None:
    """Set the random state of Python, numpy and torch from the seed, the epoch, the rank.

    Done at the begin of every epoch, so that one that is run again after a kill is the same epoch.
    """
    mixed = _mixed(*numbers)
    random.seed(mixed)
    np.random.seed(mixed & 0xFFFFFFFF)
    torch.manual_seed(mixed)
