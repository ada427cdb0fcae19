# SPDX-License-Identifier: Apache-2.0
"""From a float module to the network that is trained with the integers of its target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from porter.target import Target
from porter.train.qat.network import QatNetwork
from porter.train.qat.outputs import OutputRule

__all__ = ["convert"]


def convert(
    module: nn.Module,
    example: Tensor | Sequence[Tensor],
    target: Target,
    *,
    mode: Literal["fuse_bn", "with_bn"] = "fuse_bn",
    scales: Literal["learned", "fixed"] = "learned",
    outputs: OutputRule | Mapping[str, Any] | None = None,
    output_names: Sequence[str] | None = None,
    width: str = "int8",
    pins: Mapping[str, str] | None = None,
    observer: str = "min_max",
    source: str = "module",
    progress: Callable[[str], None] | None = None,
) -> QatNetwork:
    """Make a QAT network of any module that ``torch.export`` can capture; the module is left as it is."""
    raise NotImplementedError
