# SPDX-License-Identifier: Apache-2.0
"""Cutting channels out of torch modules in place, and folding what they contributed into the next layer.

A channel whose gamma counts as 0 still holds a constant: its beta, sent through the activation. A layer that read it
gets that constant times its kernel's sum as a bias: into its own bias, or as a shift of the running mean of the batch
norm behind it. That is exact except where a convolution with padding reads a constant other than 0: at the border it
read zeros instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from porter.compress.channels import Channels, Layer
from porter.compress.masks import Plan

__all__ = ["cut", "fold", "gammas", "prunable", "removed_constants", "silence"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
Kept = npt.NDArray[np.intp]


def prunable(model: nn.Module) -> set[str]:
    """The paths of the modules that :func:`cut` can cut: convolutions, linear layers, batch norms, PReLUs.

    A parametrized layer (weight norm and the like), or a subclass with a forward of its own, is not among them.
    """
    kinds = (*_CONVOLUTIONS, *_NORMS, nn.Linear, nn.PReLU)
    return {name for name, module in model.named_modules() if type(module) in kinds}


def gammas(model: nn.Module) -> dict[str, npt.NDArray[np.float64]]:
    """|gamma| of every batch norm that has one, by path, shape (C,)."""
    return {
        name: module.weight.detach().abs().double().cpu().numpy()
        for name, module in model.named_modules()
        if type(module) in _NORMS and module.weight is not None
    }


@torch.no_grad()
def silence(model: nn.Module, channels: Channels, plan: Plan, beta: bool) -> None:
    """Set gamma of every removed channel to 0, and its beta too where ``beta``: the model that pruning must equal."""
    for layer in channels.norms():
        norm: Any = model.get_submodule(layer.path)
        gone = torch.from_numpy(plan.removed[layer.outputs])
        if norm.weight is not None:
            norm.weight[gone] = 0
            if beta:
                norm.bias[gone] = 0


@contextmanager
def _inputs_seen(model: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, list[Tensor]]]:
    """The input of each named module, at every call within the block."""
    seen: dict[str, list[Tensor]] = {}
    handles = []
    for path in paths:

        def note(_module: nn.Module, args: tuple[Any, ...], path: str = path) -> None:
            seen.setdefault(path, []).append(args[0].detach())

        handles.append(model.get_submodule(path).register_forward_pre_hook(note))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def removed_constants(
    model: nn.Module, channels: Channels, plan: Plan, inputs: Sequence[Sequence[Tensor]]
) -> dict[str, Tensor]:
    """What the removed channels hold where a layer reads them, in a model that :func:`silence` has prepared.

    Args:
        model: in evaluation mode.
        channels: of the model.
        plan: what goes.
        inputs: samples to run, each the positional inputs of the model. A constant is the mean over all of them.

    Returns:
        For each reading layer with removed inputs a float64 tensor of its input channels, 0 where one stays.
    """
    readers = {
        layer.path: layer
        for layer in channels.layers.values()
        if _mixes(layer) and layer.inputs is not None and plan.removed[layer.inputs].any()
    }
    sums: dict[str, Tensor] = {}
    with torch.no_grad(), _inputs_seen(model, readers) as seen:
        for sample in inputs:
            model(*sample)
            for path, tensors in seen.items():
                axis = 1 if not isinstance(model.get_submodule(path), nn.Linear) else -1
                means = [tensor.double().movedim(axis, 0).flatten(1).mean(1) for tensor in tensors]
                sums[path] = sums.get(path, torch.zeros(())) + torch.stack(means).mean(0) / len(inputs)
            seen.clear()
    for path, constants in sums.items():
        inputs_of = readers[path].inputs
        assert inputs_of is not None
        constants[torch.from_numpy(~plan.removed[inputs_of])] = 0
    return sums


def _mixes(layer: Layer) -> bool:
    return (layer.kind.startswith("conv") and not layer.depthwise) or layer.kind == "linear"


@torch.no_grad()
def fold(
    model: nn.Module, channels: Channels, constants: Mapping[str, Tensor], followers: Mapping[str, str | None]
) -> None:
    """Put the constants of removed inputs into the layers that read them; call it before :func:`cut`.

    Args:
        model: whose layers are changed.
        channels: of the model.
        constants: as :func:`removed_constants` gives them.
        followers: for each layer the batch norm that alone reads its result, or None.
    """
    for path, values in constants.items():
        layer = channels.layers[path]
        module: Any = model.get_submodule(path)
        shift = _shift(module, layer, values)
        if not shift.any():
            continue
        add_bias(model, path, followers.get(path), shift)


@torch.no_grad()
def add_bias(model: nn.Module, path: str, follower: str | None, shift: Tensor) -> None:
    """Add ``shift`` (out channels,) to what a convolution or linear layer gives."""
    module: Any = model.get_submodule(path)
    if module.bias is not None:
        module.bias += shift.to(module.bias.dtype)
        return
    norm: Any = model.get_submodule(follower) if follower else None
    if norm is not None and norm.running_mean is not None:
        norm.running_mean -= shift.to(norm.running_mean.dtype)
    else:
        module.bias = nn.Parameter(shift.to(module.weight.dtype))


def _shift(module: Any, layer: Layer, values: Tensor) -> Tensor:
    """What constant inputs add to each output: the constants times the kernel's sums, (out channels,) float64."""
    weight = module.weight.double()
    if isinstance(module, nn.Linear):
        by_feature: Tensor = weight @ values
        return by_feature
    kernel = weight.flatten(2).sum(2)
    if layer.kind.startswith("conv_transpose"):
        # Each output of a transposed convolution sees a part of the kernel only, depending on its place.
        kernel = kernel.T / float(np.prod(module.stride))
    per_group = values.reshape(layer.groups, -1)
    grouped = kernel.reshape(layer.groups, -1, kernel.shape[1])
    shift: Tensor = torch.einsum("goi,gi->go", grouped, per_group).flatten()
    return shift


@torch.no_grad()
def cut(model: nn.Module, channels: Channels, plan: Plan) -> None:
    """Remove the planned channels from every module of ``model``, in place."""
    for layer in channels.layers.values():
        module: Any = model.get_submodule(layer.path)
        keep_out = plan.kept(layer.outputs)
        keep_in = plan.kept(layer.inputs) if layer.inputs is not None else None
        if layer.kind == "batch_norm":
            _cut_norm(module, keep_out)
        elif layer.kind == "prelu":
            module.weight = _picked(module.weight, 0, keep_out)
            module.num_parameters = len(keep_out)
        elif layer.kind == "linear":
            module.weight = _picked(module.weight, 0, keep_out)
            if keep_in is not None:
                module.weight = _picked(module.weight, 1, keep_in)
            module.out_features, module.in_features = module.weight.shape
            _cut_bias(module, keep_out)
        else:
            _cut_convolution(module, layer, keep_in, keep_out)


def _cut_norm(norm: Any, keep: Kept) -> None:
    index = torch.from_numpy(keep)
    for name in ("running_mean", "running_var"):
        if getattr(norm, name) is not None:
            setattr(norm, name, getattr(norm, name)[index])
    if norm.weight is not None:
        norm.weight = _picked(norm.weight, 0, keep)
        norm.bias = _picked(norm.bias, 0, keep)
    norm.num_features = len(keep)


def _cut_convolution(conv: Any, layer: Layer, keep_in: Kept | None, keep_out: Kept) -> None:
    out_axis, in_axis = (1, 0) if layer.kind.startswith("conv_transpose") else (0, 1)
    if layer.depthwise:
        assert keep_in is not None
        conv.weight = _picked(conv.weight, 0, keep_out)
        conv.groups = len(keep_in)
    elif layer.groups > 1:
        if keep_in is not None:
            conv.weight = nn.Parameter(_grouped_inputs(conv.weight.detach(), layer, keep_in))
        conv.weight = _picked(conv.weight, 0, keep_out)
    else:
        conv.weight = _picked(conv.weight, out_axis, keep_out)
        if keep_in is not None:
            conv.weight = _picked(conv.weight, in_axis, keep_in)
    conv.out_channels = len(keep_out)
    if keep_in is not None:
        conv.in_channels = len(keep_in)
    _cut_bias(conv, keep_out)


def _grouped_inputs(weight: Tensor, layer: Layer, keep_in: Kept) -> Tensor:
    """The kernel (Co, Ci / groups, ...) with, in each group, the input channels that this group keeps."""
    assert layer.inputs is not None
    width = len(layer.inputs) // layer.groups
    blocks = []
    for group, block in enumerate(weight.chunk(layer.groups, 0)):
        mine = keep_in[(keep_in >= group * width) & (keep_in < (group + 1) * width)] - group * width
        blocks.append(block[:, torch.from_numpy(mine)])
    return torch.cat(blocks, 0)


def _cut_bias(module: Any, keep: Kept) -> None:
    if module.bias is not None:
        module.bias = _picked(module.bias, 0, keep)


def _picked(parameter: Tensor, axis: int, keep: Kept) -> nn.Parameter:
    picked = parameter.detach().index_select(axis, torch.from_numpy(keep)).clone()
    return nn.Parameter(picked, requires_grad=parameter.requires_grad)
