# SPDX-License-Identifier: Apache-2.0
"""The training of one candidate of the scaling search: YOLOX of any width on the shapes set, for a few minutes at most.

A candidate starts from the committed YOLOX-nano: of each of its tensors it takes the leading channels that it has room
for, and of its blocks the first ones. That is a head start, not a result; it stands for the pretrained weights that a
search on a real data set would begin with.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from examples.yolox_mlu270.evaluate import WEIGHTS, evaluate, torch_predictor
from examples.yolox_mlu270.shapes import Shapes
from examples.yolox_mlu270.train import BATCH, iterations, make_optimizer

#: Iterations of 16 images that this example calls an epoch.
EPOCH = 30


def train(model: nn.Module, args: Mapping[str, Any]) -> float:
    """Train in place; the mAP (IoU 0.50 to 0.95) on the first ``args["eval_images"]`` validation images.

    ``args`` is the configuration's ``training_script_args``; ``common_train_epochs`` counts epochs of :data:`EPOCH`.
    """
    torch.manual_seed(int(args["seed"]))
    inherit(model, torch.load(WEIGHTS, weights_only=True)["model"])
    model.train()
    average = copy.deepcopy(model).eval()
    steps = int(args["common_train_epochs"] * EPOCH)
    data = Shapes("train", int(args["seed"]))
    for _ in iterations(model, average, make_optimizer(model), data, 0, steps):
        pass
    model.load_state_dict(average.state_dict())
    model.eval()
    return evaluate(torch_predictor(model), limit=args.get("eval_images"), batch=BATCH)["mAP"]


@torch.no_grad()
def inherit(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> int:
    """Copy into each tensor of ``model`` the corner that the one of the same name has too; how many were copied."""
    copied = 0
    for name, tensor in model.state_dict().items():
        source = weights.get(name)
        if source is not None and source.ndim == tensor.ndim:
            corner = tuple(slice(0, min(a, b)) for a, b in zip(tensor.shape, source.shape, strict=True))
            tensor[corner] = source[corner]
            copied += 1
    return copied
