# SPDX-License-Identifier: Apache-2.0
"""Families of small models, and training functions, for the tests of scaling."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn


class Net(nn.Module):
    """A stem, ``n`` residual blocks, a head."""

    def __init__(self, stem: int, body: int, n: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, 2, 1, bias=False), nn.BatchNorm2d(stem), nn.SiLU())
        self.blocks = nn.ModuleList(nn.Conv2d(body, body, 3, padding=1, groups=body) for _ in range(n))
        self.head = nn.Conv2d(body, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x).sigmoid()
        return self.head(x)


def net(width: float = 1.0, depth: float = 1.0, classes: int = 4) -> Net:
    """Every channel count from one rounded base."""
    channels = 4 * math.ceil(8 * width - 1e-9)
    return Net(channels, channels, max(1, round(2 * depth)), classes)


def flat(width: float = 1.0) -> Net:
    """A family without depth."""
    return net(width)


def rounded_apart(width: float = 1.0) -> Net:
    """Stem and body rounded each for itself, which fits only where 8 * width is whole."""
    return Net(4 * int(8 * width), int(32 * width), 1, 4)


def no_width(classes: int = 4) -> Net:
    return net(1.0, classes=classes)


def illegal(width: float = 1.0) -> nn.Module:
    """An op that the MLU270 has no kernel for and no rewrite removes."""

    class Gather(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, math.ceil(8 * width), 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.stem(x).logcumsumexp(1)

    return Gather()


def train(model: nn.Module, args: Mapping[str, Any]) -> float:
    """An accuracy that grows with width; it marks the weights and leaves a line for each call."""
    nn.init.constant_(model.get_parameter("head.bias"), args["scaling_factor"])
    if "log" in args:
        with Path(args["log"]).open("a") as log:
            log.write(f"{args['scaling_factor']}\n")
    return 0.5 + args["width"] / 4


def train_worse_when_wide(_model: nn.Module, args: Mapping[str, Any]) -> float:
    """An error: lower is better, and the widest has the highest."""
    return float(args["width"])


def train_nothing(_model: nn.Module, _args: Mapping[str, Any]) -> None:
    return None


def train_nan(_model: nn.Module, _args: Mapping[str, Any]) -> float:
    return math.nan


def train_fails(_model: nn.Module, _args: Mapping[str, Any]) -> float:
    raise RuntimeError("no such data set")


def train_long(_model: nn.Module, args: Mapping[str, Any]) -> float:
    """Far beyond any time limit, but for the smallest."""
    if args["scaling_factor"] > 0.5:
        time.sleep(60)
    return 0.5


def train_killed(model: nn.Module, args: Mapping[str, Any]) -> float:
    """The process ends without warning the first time that the whole model is to be trained."""
    mark = Path(args["mark"])
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return train(model, args)


def train_interrupted(model: nn.Module, args: Mapping[str, Any]) -> float:
    """Ctrl-C in the second training."""
    mark = Path(args["mark"])
    count = len(mark.read_text()) if mark.exists() else 0
    mark.write_text("x" * (count + 1))
    if count == 1:
        raise KeyboardInterrupt
    return train(model, args)
