# SPDX-License-Identifier: Apache-2.0
"""What moves the parameters: the optimizer of a configuration, its schedule, and the average of the parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from porter.errors import PorterError
from porter.train.config import Optimizer, Schedule

__all__ = ["Average", "learning_rate", "make_optimizer", "set_learning_rate"]

#: Decay of the average where the configuration says True.
DECAY = 0.9998


def make_optimizer(
    wanted: Optimizer, module: nn.Module, where: str, undecayed: frozenset[int] = frozenset()
) -> torch.optim.Optimizer:
    """The optimizer of a module's parameters, in groups of equal options.

    Args:
        wanted: what the configuration says.
        module: its trainable parameters are optimized.
        where: the place of the configuration, for messages.
        undecayed: identities of parameters that never get weight decay (learned scales).

    Raises:
        PorterError: PT701 when the optimizer does not take the options, or a pattern fits no parameter.
    """
    groups: dict[str, dict[str, Any]] = {}
    matched: set[str] = set()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        options: dict[str, Any] = {}
        for pattern, own in wanted.params.items():
            if pattern in name:
                matched.add(pattern)
                options.update(own)
        if isinstance(wanted.no_decay, tuple):
            hits = {text for text in wanted.no_decay if text in name}
            matched |= hits
            plain = bool(hits)
        else:
            plain = wanted.no_decay and parameter.ndim <= 1
        if plain or id(parameter) in undecayed:
            options["weight_decay"] = 0.0
        groups.setdefault(repr(sorted(options.items())), {"params": [], **options})["params"].append(parameter)
    texts = {*wanted.params, *(wanted.no_decay if isinstance(wanted.no_decay, tuple) else ())}
    for text in sorted(texts - matched):
        example = next((name for name, _ in module.named_parameters()), "")
        raise PorterError("PT701", f"no parameter's name holds {text!r}", where,
                          f"Take it away, or put it right; one of the names is {example}.")  # fmt: skip
    try:
        made = wanted.type(list(groups.values()), lr=wanted.lr, **wanted.rest)
    except (TypeError, ValueError) as error:
        raise PorterError("PT701", f"{_name(wanted.type)} does not take these options: {error}", where) from error
    if not isinstance(made, torch.optim.Optimizer):
        raise PorterError("PT701", f"{_name(wanted.type)} makes no torch optimizer", f"{where}['type']")
    for group in made.param_groups:
        group["initial_lr"] = group["lr"]
    return made


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", function))


def learning_rate(schedule: Schedule, step: int, steps_per_epoch: int, num_epochs: int) -> float:
    """The share of the learning rate at a step (from 0) of the whole training.

    Cosine: Loshchilov and Hutter, "SGDR" (arXiv:1608.03983), equation 5 without restarts, over the steps after the
    warm-up. Linear warm-up: Goyal et al. (arXiv:1706.02677), section 2.2.
    """
    warmup = schedule.warmup_epochs * steps_per_epoch
    if step < warmup:
        return schedule.warmup_factor + (1 - schedule.warmup_factor) * min((step + 1) / warmup, 1.0)
    if schedule.type == "cosine":
        last = max(num_epochs * steps_per_epoch - warmup - 1, 1)
        done = min((step - warmup) / last, 1.0)
        return schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * done))
    if schedule.type == "step":
        return float(schedule.gamma ** sum(step >= epoch * steps_per_epoch for epoch in schedule.decay_epochs))
    return 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> float:
    """Give every group its share of its own learning rate; returns the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * share
    return float(optimizer.param_groups[0]["lr"])


class Average:
    """The exponential moving average of a module's floating state.

    At update n the decay is at most (1 + n) / (10 + n), so that a short training is not dominated by its beginning
    (TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``).

    Args:
        module: whose state is averaged, from what it is now.
        decay: of the average; True: 0.9998.
    """

    def __init__(self, module: nn.Module, decay: bool | float) -> None:
        self._decay = DECAY if decay is True else float(decay)
        self.updates = 0
        self.state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take the state of now into the average."""
        self.updates += 1
        share = 1 - min(self._decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, share)
            else:
                self.state[name].copy_(tensor)

    def load(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a saved average."""
        for name, tensor in state.items():
            self.state[name].copy_(tensor)
        self.updates = updates

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module with the average as its state, inside of the block."""
        kept = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        module.load_state_dict(self.state)
        try:
            yield
        finally:
            module.load_state_dict(kept)
