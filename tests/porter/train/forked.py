# SPDX-License-Identifier: Apache-2.0
"""Calls in processes of their own, which may be killed, or know each other as those of torchrun do.

They are forked from a server that has imported torch and run nothing: a fork of the tests' own process, with its
threads, could hang.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from porter.errors import PorterError
from porter.train import checkpoint
from porter.train.distributed import with_sync_batch_norm
from porter.train.stages import train

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["porter.train.stages"])


def run_forked(call: Callable[..., Any], *args: Any, world: int = 1, **environment: str) -> list[tuple[int, Any]]:
    """Exit code and result (None if it was killed) of ``call``, a function of this module, in ``world`` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(world):
        here, there = _CONTEXT.Pipe(duplex=False)
        own = {**environment}
        if world > 1:
            own |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        child = _CONTEXT.Process(target=_child, args=(call, args, own, there), daemon=True)
        child.start()
        there.close()
        children.append((child, here))
    found = []
    for child, here in children:
        try:
            result = here.recv()
        except EOFError:
            result = None
        child.join(120)
        assert child.exitcode is not None
        found.append((child.exitcode, result))
    return found


def _child(call: Callable[..., Any], args: tuple[Any, ...], environment: dict[str, str], pipe: Any) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    pipe.send(call(*args))


def resumed(config: Path, stage: str) -> int:
    """Run a stage; how many of its epochs an earlier run had done."""
    return train(config, stage).resumed


def metrics(config: Path, stage: str) -> dict[str, float] | None:
    """Run a stage; its metrics."""
    found = train(config, stage).metrics
    return None if found is None else dict(found)


def refused(config: Path, stage: str) -> str:
    """Run a stage that fails; its error."""
    try:
        train(config, stage)
    except PorterError as error:
        return str(error)
    return "trained"


def lock(folder: Path) -> str:
    """Try to train in a folder."""
    try:
        with checkpoint.locked(folder):
            return "entered"
    except PorterError as error:
        return error.code


def batch_norm() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A batch norm, its input and the weight of each output in a loss."""
    generator = torch.Generator().manual_seed(0)
    module = torch.nn.BatchNorm2d(3)
    with torch.no_grad():
        module.weight.copy_(torch.rand(3, generator=generator) + 0.5)
    x = torch.randn(4, 3, 5, 5, generator=generator) * 2 + 3
    return module, x, torch.randn(4, 3, 5, 5, generator=generator)


def half_a_batch_norm() -> list[Any]:
    """What one of two processes makes of its half: outputs, gradients of input and gamma, statistics, count."""
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo")
    module, x, weight = batch_norm()
    module = with_sync_batch_norm(module)
    part = slice(rank * 2, rank * 2 + 2)
    mine = x[part].clone().requires_grad_()
    out = module(mine)
    (out * weight[part]).sum().backward()
    torch.distributed.destroy_process_group()
    tensors = out, mine.grad, module.weight.grad, module.running_mean, module.running_var, module.num_batches_tracked
    return [tensor.tolist() for tensor in tensors]
