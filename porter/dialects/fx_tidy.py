# SPDX-License-Identifier: Apache-2.0
"""What capturing leaves behind and nobody wrote: views taken back and taken again.

A write through a permuted view becomes functional as "permute, write, permute back", and the next reader permutes
again. On a
device each of these moves the whole tensor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

__all__ = ["cancel_permutes"]

_PERMUTE = torch.ops.aten.permute.default


def cancel_permutes(graph: fx.Graph) -> None:
    """Read the tensor itself where permutations undo each other, and permute the same tensor only once."""
    made: dict[tuple[fx.Node, tuple[int, ...]], fx.Node] = {}
    for node in list(graph.nodes):
        if node.target is not _PERMUTE:
            continue
        base, dims = _read(node)
        while base.target is _PERMUTE:
            base, inner = _read(base)
            dims = tuple(inner[d] for d in dims)
        same = base if dims == tuple(range(len(dims))) else made.setdefault((base, dims), node)
        if same is not node:
            node.replace_all_uses_with(same)
            graph.erase_node(node)
    for node in reversed(list(graph.nodes)):
        if node.target is _PERMUTE and not node.users:
            graph.erase_node(node)


def _read(node: Any) -> tuple[fx.Node, tuple[int, ...]]:
    """What a permutation reads, and the axes in their new order."""
    base, dims = node.args
    return base, tuple(d % len(dims) for d in dims)
