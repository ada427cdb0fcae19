# SPDX-License-Identifier: Apache-2.0
"""Train a Darknet network on the shapes set; sparsely with ``--sr``. The optimizer and the data are YOLOX's example's.

    python -m examples.yolov3_prune.train                         the committed weights, from nothing
    python -m examples.yolov3_prune.train --weights W --sr --s 0.001 --steps 900 --rate 0.5 --out out/sparse.weights

Writes the averaged weights as a Darknet .weights file. The loss assigns objects by SimOTA, as YOLOX does, to the rows
of all anchors: squared IoU for boxes, binary cross entropy for objectness and classes.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from examples.yolox_mlu270.evaluate import evaluate, torch_predictor
from examples.yolox_mlu270.losses import Targets, matched_losses
from examples.yolox_mlu270.shapes import Shapes
from examples.yolox_mlu270.train import (
    BATCH,
    CLIP_NORM,
    PEAK_RATE,
    learning_rate,
    load_batch,
    make_optimizer,
    update_average,
)
from porter.compress.sparsity import SparseTraining

from .architectures import shapes_cfg
from .darknet import Darknet, load_weights, save_weights

WEIGHTS = Path(__file__).parent / "weights"
NAME = "yolov3-mobilenetv2"
WIDTH = 0.5
#: Steps between two histograms of the gammas.
EPOCH = 50
#: Factor on the learning rate of the gammas in sparse training.
GAMMA_RATE = 4.0
Say = Callable[[str], None]


def yolo_loss(raw: Tensor, model: Darknet, targets: Targets) -> dict[str, Tensor]:
    """The loss of one batch.

    Args:
        raw: (N, A, 5 + C), the output of a network in training mode.
        model: whose ``grid``, ``anchors`` and ``strides`` decode it.
        targets: the ground truth.
    """
    xy = (raw[..., :2].sigmoid() + model.grid) * model.strides
    wh = raw[..., 2:4].clamp(max=4).exp() * model.anchors
    centers = ((model.grid + 0.5) * model.strides)[0]
    found = matched_losses(torch.cat((xy, wh), -1), raw[..., 4:], centers, model.strides[0, :, 0], targets)
    return {"total": found.iou + found.obj + found.cls, "iou": found.iou, "obj": found.obj, "cls": found.cls}


def fit(
    model: Darknet,
    steps: int,
    *,
    rate: float = 1.0,
    first: int = 0,
    sparse: SparseTraining | None = None,
    say: Say = print,
) -> Darknet:
    """Train in place, and return a copy with the moving average of the weights, in evaluation mode.

    Args:
        model: any network of the shapes set, pruned or not.
        steps: iterations of BATCH images.
        rate: factor on the learning rate.
        first: the first image of the training split to see, so that later stages see others.
        sparse: the penalty on the gammas; the histogram is recorded every EPOCH iterations.
        say: gets a line of progress now and then.
    """
    model.train()
    average = copy.deepcopy(model).eval()
    optimizer = make_optimizer(model)
    if sparse is not None:
        _apart(optimizer, sparse)
    data = Shapes("train")
    begin = time.monotonic()
    if sparse is not None:
        sparse.record(0)
    for step in range(steps):
        images, targets = load_batch(data, first + step * BATCH)
        if step == steps * 4 // 5:
            _freeze_statistics(model)
        loss = yolo_loss(model(images), model, targets)
        for group in optimizer.param_groups:
            group["lr"] = rate * learning_rate(step, steps) * group.get("factor", 1)
        optimizer.zero_grad()
        loss["total"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        if sparse is not None:
            sparse.step()
        optimizer.step()
        update_average(average, model, step)
        done = step + 1
        if sparse is not None and done % EPOCH == 0:
            sparse.record(done // EPOCH)
        if done % EPOCH == 0:
            parts = "  ".join(f"{key} {value.item():.3f}" for key, value in loss.items())
            say(f"{done:5d} of {steps}  {time.monotonic() - begin:6.0f} s  {parts}")
    return average


def _apart(optimizer: torch.optim.Optimizer, sparse: SparseTraining) -> None:
    """A larger rate for the gammas: the adaptive step is bounded, and they have the way from 1 to 0 before them."""
    penalized = {id(gamma) for gamma in sparse.parameters}
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in penalized]
    optimizer.add_param_group({"params": sparse.parameters, "weight_decay": 0.0, "factor": GAMMA_RATE})


def _freeze_statistics(model: nn.Module) -> None:
    """Batch norm as it will be at inference, for the last part of a training: rare inputs meet the running variance."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def mean_average_precision(model: nn.Module, limit: int | None = None) -> float:
    """COCO mAP on the validation split (its first ``limit`` images)."""
    was_training = model.training
    score = evaluate(torch_predictor(model.eval()), limit=limit, batch=BATCH)["mAP"]
    model.train(was_training)
    return score


def shapes_network(name: str = NAME, width: float = WIDTH) -> Darknet:
    """A network for the shapes set, untrained: a factory for ``porter --model``."""
    return Darknet(shapes_cfg(name, width))


def trained_network() -> Darknet:
    """The committed weights, in evaluation mode."""
    model = shapes_network()
    load_weights(model, WEIGHTS / f"{NAME}.weights")
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default=NAME, help="an architecture (see architectures.py)")
    parser.add_argument("--width", type=float, default=WIDTH, help="factor on its channels")
    parser.add_argument("--weights", type=Path, help="a .weights file to start from")
    parser.add_argument("--out", type=Path, default=WEIGHTS / f"{NAME}.weights")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--rate", type=float, default=1.0, help=f"factor on the learning rate, {PEAK_RATE:g}")
    parser.add_argument("--sr", action="store_true", help="sparse training: an L1 penalty on the gammas")
    parser.add_argument("--s", type=float, default=1e-3, help="strength of the penalty")
    parser.add_argument("--first", type=int, default=0, help="the first image of the training split")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    model = shapes_network(args.network, args.width)
    if args.weights:
        load_weights(model, args.weights)
    sparse = SparseTraining(model, args.s) if args.sr else None
    average = fit(
        model, args.steps, rate=args.rate, first=args.first, sparse=sparse, say=lambda t: print(t, flush=True)
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(average, args.out, seen=args.first + args.steps * BATCH)
    if sparse is not None:
        sparse.history.save(args.out.with_suffix(".gammas.json"), overwrite=True)
    print(f"mAP {mean_average_precision(average):.4f}, {args.out}")


if __name__ == "__main__":
    main()
