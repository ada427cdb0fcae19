# SPDX-License-Identifier: Apache-2.0
"""Layers that the detectors share. All pad by half the kernel, and know nothing but convolution, norm and ReLU."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ConvNorm(nn.Sequential):
    """A convolution, its batch norm, and a ReLU unless ``relu`` is false."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        *,
        bias: bool = False,
        relu: bool = True,
    ) -> None:
        layers = [
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias),
            nn.BatchNorm2d(outputs),
        ]
        super().__init__(*layers, *([nn.ReLU()] if relu else []))


def norm_over_levels(norm: nn.Module, levels: Sequence[Tensor]) -> list[Tensor]:
    """One batch norm for all levels of a pyramid.

    In training the statistics are those of all levels together, weighted by their size, because these are what the
    running statistics become: with statistics of its own each level would be normalized in another way in training
    than in evaluation, and a level of one pixel would have none at all.

    Args:
        norm: a batch norm; in evaluation it is applied level by level.
        levels: (N, C, H_l, W_l) float32 each.
    """
    if not norm.training:
        return [norm(level) for level in levels]
    joined = norm(torch.cat([level.flatten(2) for level in levels], 2).unsqueeze(3))
    parts = joined.squeeze(3).split([level[0, 0].numel() for level in levels], 2)
    return [part.reshape(level.shape) for part, level in zip(parts, levels, strict=True)]


def init_backbone(module: nn.Module) -> None:
    """Kaiming normal by fan-out for convolutions, zeros for biases; norms keep ones and zeros."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_plain(module: nn.Module, relu: bool) -> None:
    """For convolutions without a norm: the variance of the input is kept, before a ReLU too; zeros for biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu" if relu else "linear")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_last(layer: nn.Conv2d, std: float = 0.01) -> None:
    """Normal weights of a small deviation and zero biases: RetinaNet's last layers (arXiv:1708.02002, section 4.1)."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def prior_bias(probability: float = 0.01) -> float:
    """The bias at which a class's sigmoid is ``probability`` (arXiv:1708.02002, section 3.3)."""
    return -math.log((1 - probability) / probability)
