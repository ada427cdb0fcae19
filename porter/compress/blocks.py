# SPDX-License-Identifier: Apache-2.0
"""Layer pruning: whole shortcut blocks, those whose last batch norm has the smallest mean |gamma|.

A block is an addition ``x + f(x)`` whose branch ``f`` is a chain of convolutions, batch norms and activations that
nothing else reads. It goes by leaving ``x``: the branch's modules become :class:`torch.nn.Identity`, its last batch
norm a :class:`Zero`, so that the model's own code runs on unchanged. What the branch still gave with gamma at 0, its
beta through the activation, is a constant for each channel; it is followed along the sum and folded into every layer
that reads it linearly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from porter.compress.surgery import add_bias
from porter.graph import Graph
from porter.ops import Op, Value
from porter.paths import module_paths
from porter.rewrite import Fragment

__all__ = ["Block", "Zero", "drop_zero_sums", "find_blocks", "followers", "remove_block"]

#: Activations between a branch's last batch norm and the addition: those that keep 0 at 0.
_AFTER: dict[str, Callable[[Tensor, Mapping[str, Any]], Tensor]] = {
    "identity": lambda x, _: x,
    "relu": lambda x, _: F.relu(x),
    "relu6": lambda x, _: F.relu6(x),
    "silu": lambda x, _: F.silu(x),
    "mish": lambda x, _: F.mish(x),
    "hardswish": lambda x, _: F.hardswish(x),
    "tanh": lambda x, _: torch.tanh(x),
    "leaky_relu": lambda x, attrs: F.leaky_relu(x, attrs["negative_slope"]),
    "gelu": lambda x, attrs: F.gelu(x, approximate=attrs["approximate"]),
    "clamp": lambda x, attrs: x.clamp(attrs["min"], attrs["max"]),
}
#: Inside a branch any activation may stand: what it computes is not read any more.
_INSIDE = frozenset({*_AFTER, "sigmoid", "hardsigmoid", "elu", "prelu", "softplus"})
#: A constant in a channel passes through these unchanged.
_LINEAR = frozenset({"identity", "resize", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"})


class Zero(nn.Module):
    """Zeros in the shape of the input: what is left of a branch that was removed."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


@dataclass(frozen=True, slots=True)
class Block:
    """A shortcut block: the module paths of its branch in order, the last batch norm, and the mean |gamma| of it."""

    paths: tuple[str, ...]
    norm: str
    mean_gamma: float
    result: str
    after: tuple[tuple[str, Mapping[str, Any]], ...]


def followers(graph: Graph) -> dict[str, str | None]:
    """For each layer with weights the batch norm that alone reads its result, by path; None where there is none."""
    paths, uses = module_paths(graph), graph.uses()
    readers = {value.name: op for op in graph.ops() for value in op.operands}
    calls = Counter(paths.values())
    found: dict[str, str | None] = {}
    for op in graph.ops():
        name = op.outputs[0].name
        if name in paths:
            reader = readers.get(name)
            alone = reader is not None and reader.kind == "batch_norm" and uses[name] == 1
            norm = paths.get(reader.outputs[0].name) if reader is not None and alone else None
            found[paths[name]] = norm if norm is not None and calls[norm] == 1 == calls[paths[name]] else None
    return found


def find_blocks(graph: Graph, removable: Container[str], gammas: Mapping[str, npt.NDArray[np.float64]]) -> list[Block]:
    """The shortcut blocks of a graph, weakest first.

    Args:
        graph: captured from the model.
        removable: the module paths that may be replaced.
        gammas: |gamma| of each batch norm by path.
    """
    producers, uses, paths = graph.producers(), graph.uses(), module_paths(graph)
    calls = Counter(paths.values())
    blocks = []
    for op in graph.ops():
        if op.kind != "add" or len(op.operands) != 2 or any(v.is_const for v in op.operands):
            continue
        first, second = op.operands
        for branch, skip in ((first, second), (second, first)):
            chain = _chain(branch, skip, producers, uses)
            block = _block(op, chain, paths, gammas) if chain and first.shape == second.shape else None
            if block is not None and all(path in removable and calls[path] == 1 for path in block.paths):
                blocks.append(block)
                break
    return sorted(blocks, key=lambda block: block.mean_gamma)


def _chain(end: Value, start: Value, producers: Mapping[str, Op], uses: Mapping[str, int]) -> list[Op]:
    """The ops from ``start`` to ``end`` in order, when they are a chain that nothing else reads; else none."""
    chain: list[Op] = []
    value = end
    while value.name != start.name:
        op = producers.get(value.name)
        if op is None or uses[value.name] != 1:
            return []
        variable = [v for v in op.operands if not v.is_const]
        if len(variable) != 1 or not (op.kind in _INSIDE or op.kind == "batch_norm" or op.kind.startswith("conv")):
            return []
        chain.append(op)
        value = variable[0]
    return chain[::-1]


def _block(
    add: Op, chain: list[Op], paths: Mapping[str, str], gammas: Mapping[str, npt.NDArray[np.float64]]
) -> Block | None:
    layers = [op for op in chain if not (op.kind in _INSIDE and op.outputs[0].name not in paths)]
    norms = [op for op in chain if op.kind == "batch_norm"]
    if not norms or any(op.outputs[0].name not in paths for op in layers):
        return None
    last = norms[-1]
    after = chain[chain.index(last) + 1 :]
    norm = paths[last.outputs[0].name]
    if norm not in gammas or not all(_keeps_zero(op.kind, op.attrs) for op in after):
        return None
    return Block(
        tuple(paths[op.outputs[0].name] for op in layers),
        norm,
        float(gammas[norm].mean()),
        add.outputs[0].name,
        tuple((op.kind, op.attrs) for op in after),
    )


def _keeps_zero(kind: str, attrs: Mapping[str, Any]) -> bool:
    """Whether an op gives 0 for 0, element by element."""
    if kind == "clamp":
        low, high = attrs["min"], attrs["max"]
        return (low is None or low <= 0) and (high is None or high >= 0)
    return kind in _AFTER


@torch.no_grad()
def remove_block(model: nn.Module, graph: Graph, block: Block) -> list[str]:
    """Take a block out of ``model``, in place, and fold its constant into what reads the sum.

    Args:
        model: the module that ``graph`` was captured from.
        graph: the captured graph, without the sums of blocks that are gone (:func:`drop_zero_sums`).
        block: of :func:`find_blocks` of that graph.

    Returns:
        The kinds of op behind which the constant could not be followed (it is lost there).
    """
    norm: Any = model.get_submodule(block.norm)
    constant = norm.bias.detach().double()
    for kind, attrs in block.after:
        constant = _AFTER[kind](constant, attrs)
    for path in block.paths:
        model.set_submodule(path, Zero() if path == block.norm else nn.Identity())
    return _follow(model, graph, block.result, constant)


def _follow(model: nn.Module, graph: Graph, result: str, constant: Tensor) -> list[str]:
    """Fold a constant for each channel of the value ``result`` into the layers that read it."""
    paths, behind = module_paths(graph), followers(graph)
    calls = Counter(paths.values())
    offsets: dict[str, Tensor] = {result: constant}
    lost = []
    for op in graph.ops():
        given = [offsets.get(value.name) for value in op.operands]
        if all(offset is None for offset in given):
            continue
        name = op.outputs[0].name
        path = paths.get(name)
        offset = given[0]
        if op.kind == "add":
            present = [offset for offset in given if offset is not None]
            offsets[name] = sum(present[1:], present[0])
        elif op.kind == "cat" and op.attrs["axis"] == 1:
            parts = [
                offset if offset is not None else torch.zeros(value.shape[1] if value.shape else 0).double()
                for offset, value in zip(given, op.operands, strict=True)
            ]
            offsets[name] = torch.cat(parts)
        elif op.kind in _LINEAR and offset is not None:
            offsets[name] = offset
        elif path is not None and offset is not None and (op.kind.startswith("conv") or op.kind == "batch_norm"):
            module: Any = model.get_submodule(path)
            if calls[path] > 1:  # a head that all scales share: its bias would reach those that never had the constant
                lost.append(op.kind)
            elif op.kind == "batch_norm":
                module.running_mean -= offset.to(module.running_mean.dtype)
            elif op.kind.startswith("conv_transpose"):
                lost.append(op.kind)
            else:
                kernel = module.weight.double().flatten(2).sum(2)
                groups = module.groups
                shift = torch.einsum("goi,gi->go", kernel.reshape(groups, -1, kernel.shape[1]), offset.view(groups, -1))
                add_bias(model, path, behind.get(path), shift.flatten())
        else:
            lost.append(op.kind)
    return lost + ["output"] * any(value.name in offsets for value in graph.outputs)


def drop_zero_sums(graph: Graph) -> None:
    """Remove the additions of zeros that removed branches leave behind, in place."""
    zero: set[str] = set()
    found = []
    for op in graph.ops():
        names = [value.name for value in op.operands]
        made = op.kind == "fill" and op.attrs["value"] == 0
        if made or (_keeps_zero(op.kind, op.attrs) and names[0] in zero):
            zero.add(op.outputs[0].name)
        elif op.kind == "add" and len(zero.intersection(names)) == 1:
            kept = next(value for value in op.operands if value.name not in zero)
            if kept.shape == op.outputs[0].shape:
                found.append((op, Fragment([], (kept,))))
    if found:
        graph.replace(found)
