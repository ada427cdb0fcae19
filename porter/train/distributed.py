# SPDX-License-Identifier: Apache-2.0
"""The processes of one training: ``torchrun`` starts them, torch.distributed joins them; one process needs neither."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from porter.errors import PorterError

__all__ = ["Processes", "SyncBatchNorm", "processes", "sync_batch_norm", "with_sync_batch_norm"]


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among all: ``rank`` of ``world``, and the device that it computes on."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """``value`` of every process, in the order of the ranks, in every process."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, value)
        return found

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        if self.world > 1:
            torch.distributed.all_reduce(value)
            value /= self.world
        return value

    def any(self, fact: bool) -> bool:
        """Whether it holds in one of the processes."""
        if self.world == 1:
            return fact
        flag = torch.tensor(int(fact), device=self.device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag)

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self.world > 1:
            torch.distributed.barrier()


@contextmanager
def processes(device: str | None) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` has started (or be the only one).

    Args:
        device: "cpu", "cuda" or None (cuda where there is one); with cuda, process i takes device i of its machine.

    Raises:
        PorterError: PT701 when cuda is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise PorterError("PT701", "the configuration asks for cuda, and torch finds none", "device",
                          'Write device = "cpu", or None for whatever is there.')  # fmt: skip
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = torch.device(name, int(os.environ.get("LOCAL_RANK", "0"))) if name == "cuda" else torch.device(name)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world == 1:
        yield Processes(0, 1, chosen)
        return
    torch.distributed.init_process_group("nccl" if name == "cuda" else "gloo")
    try:
        yield Processes(rank, world, chosen)
    finally:
        torch.distributed.destroy_process_group()


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A batch norm that, in training, normalizes by mean and variance over the batches of all processes.

    torch's own runs on GPUs only; this one runs wherever the process group does. State and evaluation are those of
    ``nn.BatchNorm2d``.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"a batch norm takes at least 2 dimensions, and got {input.ndim}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not torch.distributed.is_initialized():
            return super().forward(input)
        self._check_input_dim(input)
        share = self.momentum
        if self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            share = 1.0 / float(self.num_batches_tracked) if share is None else share
        return sync_batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            0.0 if share is None else share,
            self.eps,
        )


def sync_batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """``torch.nn.functional.batch_norm`` in training, by mean and variance over the batches of all processes."""
    dims = [0, *range(2, x.ndim)]
    shape = [1, -1, *([1] * (x.ndim - 2))]
    local = torch.full((1,), x.numel() / x.shape[1], dtype=x.dtype, device=x.device)
    total = _all_sum(torch.cat([x.sum(dims), local]))
    count = total[-1].detach()
    mean = total[:-1] / count
    centred = x - mean.reshape(shape)
    # The squares of what is centred: the difference of two large sums would lose the small variances.
    variance = _all_sum(centred.square().sum(dims)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.detach(), momentum)
            running_var.lerp_(variance.detach() * (count / (count - 1).clamp_min(1)), momentum)
    normal = centred * (variance.reshape(shape) + eps).rsqrt()
    if weight is not None:
        normal = normal * weight.reshape(shape)
    return normal if bias is None else normal + bias.reshape(shape)


class _AllSum(torch.autograd.Function):
    """The sum over all processes; the gradient of each process's part is the sum of the gradients of all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        torch.distributed.all_reduce(total)
        return total


def _all_sum(x: Tensor) -> Tensor:
    return _AllSum.apply(x)  # type: ignore[no-any-return,no-untyped-call]


def with_sync_batch_norm(module: nn.Module) -> nn.Module:
    """The module with every batch norm made a :class:`SyncBatchNorm` that shares its parameters; others stay."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, SyncBatchNorm):
        made = SyncBatchNorm(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
        if module.affine:
            made.weight, made.bias = module.weight, module.bias
        made.running_mean, made.running_var = module.running_mean, module.running_var
        made.num_batches_tracked = module.num_batches_tracked
        made.train(module.training)
        return made
    for name, child in module.named_children():
        changed = with_sync_batch_norm(child)
        if changed is not child:
            setattr(module, name, changed)
    return module
