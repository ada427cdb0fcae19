# SPDX-License-Identifier: Apache-2.0
"""Masks with a pattern on the weights of convolutions and linear layers: zeros that a device may know how to skip.

``2:4`` (N:M): of every M weights in a row along the input channels, the N largest stay. ``block:8x4:0.5`` (block
punched): the kernel is cut into blocks of 8 output by 4 input channels, and in each block the same positions go for
all its kernels, the given share of them, weakest first (Niu et al., "Towards Real-Time DNN Inference on Mobile
Platforms with Model Pruning and Compiler Optimization", arXiv:2004.11250).

A mask makes nothing smaller and nothing faster by itself: the zeros are stored and multiplied like other weights,
unless the device's compiler says otherwise. What is reported is the density.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from porter.errors import PorterError

__all__ = ["MaskedLayer", "Pattern", "apply_pattern", "parse_pattern"]


@dataclass(frozen=True, slots=True)
class Pattern:
    """``n`` of ``m`` (``kind`` "n:m"), or blocks of ``n`` output by ``m`` input channels that lose ``share``."""

    kind: str
    n: int
    m: int
    share: float = 0.0

    def __str__(self) -> str:
        return f"{self.n}:{self.m}" if self.kind == "n:m" else f"block:{self.n}x{self.m}:{self.share:g}"


@dataclass(frozen=True, slots=True)
class MaskedLayer:
    """A layer with a mask: its path, how many weights it has, and how many the mask leaves."""

    path: str
    total: int
    kept: int

    @property
    def density(self) -> float:
        return self.kept / self.total


def parse_pattern(text: str) -> Pattern:
    """Read ``2:4`` or ``block:8x4:0.5``.

    Raises:
        PorterError: PT607 when it is neither.
    """
    text = text.strip()
    if found := re.fullmatch(r"(\d+):(\d+)", text):
        n, m = int(found[1]), int(found[2])
        if 0 < n < m:
            return Pattern("n:m", n, m)
    elif found := re.fullmatch(r"block:(\d+)x(\d+):(0?\.\d+)", text):
        n, m, share = int(found[1]), int(found[2]), float(found[3])
        if n and m and 0 < share < 1:
            return Pattern("block", n, m, share)
    raise PorterError(
        "PT607", f"{text!r} is not a mask", "--mask",
        "Write N:M with 0 < N < M, such as 2:4, or block:OUTxIN:SHARE, such as block:8x4:0.5.",
    )  # fmt: skip


@torch.no_grad()
def apply_pattern(model: nn.Module, pattern: Pattern) -> list[MaskedLayer]:
    """Zero weights by ``pattern``, in place, in every convolution without groups and every linear layer it fits.

    A layer whose input channels are no multiple of M, or that has nothing for a block to choose from, is left as it
    is and not listed.
    """
    done = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear) or getattr(module, "groups", 1) > 1:
            continue
        weight: Any = module.weight
        mask = _n_of_m(weight, pattern) if pattern.kind == "n:m" else _punched(weight, pattern)
        if mask is not None:
            weight.mul_(mask)
            done.append(MaskedLayer(path, mask.numel(), int(mask.sum())))
    return done


def _n_of_m(weight: Tensor, pattern: Pattern) -> Tensor | None:
    """1 for the N largest of every M along the input channels, at each position of the kernel."""
    c_in = weight.shape[1]
    if c_in % pattern.m:
        return None
    rows = weight.movedim(1, -1).reshape(-1, pattern.m)
    keep = rows.abs().topk(pattern.n, dim=1).indices
    mask = torch.zeros_like(rows).scatter_(1, keep, 1.0)
    return mask.reshape(weight.movedim(1, -1).shape).movedim(-1, 1)


def _punched(weight: Tensor, pattern: Pattern) -> Tensor | None:
    """0 at the weakest positions of each block: the same ones for all kernels of the block."""
    positions = weight[0, 0].numel()
    gone = int(positions * pattern.share)
    if not gone:
        return None
    mask = torch.ones_like(weight).reshape(*weight.shape[:2], positions)
    flat = weight.reshape(*weight.shape[:2], positions)
    for out in range(0, weight.shape[0], pattern.n):
        for begin in range(0, weight.shape[1], pattern.m):
            block = (slice(out, out + pattern.n), slice(begin, begin + pattern.m))
            weakest = flat[block].square().sum((0, 1)).topk(gone, largest=False).indices
            mask[(*block, weakest)] = 0
    return mask.reshape(weight.shape)
