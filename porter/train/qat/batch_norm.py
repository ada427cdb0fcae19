# SPDX-License-Identifier: Apache-2.0
"""A layer and the batch norm behind it, trained together.

In training the weight is folded by the running statistics, quantized, and unfolded: the layer computes with the
integers of the folded weight, and its result is normalized by the statistics of the batch. Out of training, or when the
batch norms are frozen, the layer is the folded one. (Krishnamoorthi, "Quantizing deep convolutional networks for
efficient inference", arXiv:1806.08342, section 3.2.2; there the result is scaled back, here the weight, which is the
same and costs nothing.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from porter.train.distributed import sync_batch_norm

__all__ = ["Norm", "Unit", "factor_rows", "fold", "normalize", "normalized"]

#: A channel whose batch norm multiplies by less than this is not scaled back by it.
_LEAST = 1e-12


@dataclass(frozen=True, slots=True)
class Norm:
    """A batch norm: the names of its tensors in the network's state, and its numbers.

    ``momentum`` None: running statistics are plain means over all batches; ``tracked`` counts these.
    """

    weight: str | None
    bias: str | None
    mean: str
    var: str
    tracked: str | None
    eps: float
    momentum: float | None


@dataclass(frozen=True, slots=True)
class Unit:
    """A layer and the batch norm that is folded into it: ``kind`` is the layer's."""

    kind: str
    groups: int
    weight: str
    bias: str | None
    norm: Norm


State = Callable[[str], Tensor]


def _factor(norm: Norm, state: State) -> Tensor:
    """What the batch norm multiplies by, one number a channel, float64."""
    deviation = torch.sqrt(state(norm.var).double() + norm.eps)
    return (state(norm.weight).double() if norm.weight is not None else torch.ones_like(deviation)) / deviation


def fold(unit: Unit, state: State) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer with its batch norm in it by running statistics, computed in float64 as the rewrite
    ``fold_batch_norm`` does; in the dtype of the weight."""
    norm, factor = unit.norm, _factor(unit.norm, state)
    shift = -state(norm.mean).double() * factor
    if norm.bias is not None:
        shift = state(norm.bias).double() + shift
    if unit.bias is not None:
        shift = shift + state(unit.bias).double() * factor
    weight = state(unit.weight)
    return (weight.double() * _rows(unit, weight, factor)).to(weight.dtype), shift.to(weight.dtype)


def factor_rows(unit: Unit, state: State) -> Tensor:
    """What the batch norm multiplies the weight by now, as constants that can be divided by: one for each output
    channel, shaped to multiply the weight, float64."""
    with torch.no_grad():
        factor = _factor(unit.norm, state)
        safe = torch.where(factor.abs() < _LEAST, torch.full_like(factor, _LEAST), factor)
        return _rows(unit, state(unit.weight), safe)


def _rows(unit: Unit, weight: Tensor, factor: Tensor) -> Tensor:
    """One number for each output channel, shaped to multiply the weight."""
    if "transpose" not in unit.kind:
        return factor.reshape(-1, *(1,) * (weight.ndim - 1))
    # (Ci, Co / groups, ...): output channel g * (Co / groups) + j is column j of the rows of group g.
    rows = factor.reshape(unit.groups, -1).repeat_interleave(weight.shape[0] // unit.groups, 0)
    return rows.reshape(*rows.shape, *(1,) * (weight.ndim - 2))


def normalized(unit: Unit, state: State, y: Tensor, sync: bool) -> Tensor:
    """The batch norm, by the batch, of what the layer gives.

    Args:
        y: the layer's result without its bias.
        sync: by the batches of all processes together.
    """
    return normalize(unit.norm, state, y, sync, None if unit.bias is None else state(unit.bias))


def normalize(norm: Norm, state: State, y: Tensor, sync: bool, offset: Tensor | None = None) -> Tensor:
    """Batch norm (channels at axis 1) by the statistics of the batch, which move the running ones.

    Args:
        sync: of the batches of all processes together.
        offset: what is to be added to ``y``, one number a channel. It changes nothing but the running mean; its
            gradient is zero, and is there: in every process the same parameters take part.
    """
    momentum = norm.momentum
    if norm.tracked is not None:
        tracked = state(norm.tracked)
        tracked += 1
        if momentum is None:
            momentum = 1.0 / float(tracked)
    weight = state(norm.weight) if norm.weight is not None else None
    bias = state(norm.bias) if norm.bias is not None else None
    mean, var = state(norm.mean), state(norm.var)
    share = 0.1 if momentum is None else momentum
    moved = mean
    if offset is not None:
        bias = 0.0 * offset if bias is None else bias + 0.0 * offset
        moved = mean - offset.detach()
    if not sync or not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        made = functional.batch_norm(y, moved, var, weight, bias, True, share, norm.eps)
    else:
        made = sync_batch_norm(y, moved, var, weight, bias, share, norm.eps)
    if offset is not None:
        with torch.no_grad():
            mean.copy_(moved + offset)
    return made
