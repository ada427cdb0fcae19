# SPDX-License-Identifier: Apache-2.0
"""Train YOLOX-nano on the shapes set: AdamW, cosine schedule, weight average, L1 loss in the last fifth.

    python -m examples.yolox_mlu270.train                        half an hour on one CPU core
    python -m examples.yolox_mlu270.train --resume out/yolox_nano_shapes.state.pt   goes on after an interruption

Writes the averaged weights as ``{"model": state_dict, ...}`` in float32, and a resumable state every 100 iterations.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .evaluate import WEIGHTS, evaluate, preprocess, torch_predictor
from .losses import Targets, yolox_loss
from .shapes import CLASSES, SIZE, Shapes
from .yolox import STRIDES, YOLOX, grids_and_strides, yolox_nano

BATCH = 16
PEAK_RATE = 2e-3
FINAL_RATE = 0.02  # of the peak
WARMUP = 100  # iterations
WEIGHT_DECAY = 0.05
AVERAGE_DECAY = 0.998
CLIP_NORM = 10.0


def load_batch(data: Shapes, start: int) -> tuple[torch.Tensor, Targets]:
    """Images ``start .. start + BATCH - 1`` of a split and their targets, padded to the longest list of objects."""
    samples = [data[(start + i) % len(data)] for i in range(BATCH)]
    images = torch.from_numpy(np.stack([preprocess(s.image)[0] for s in samples]))
    most = max(1, max(len(s.labels) for s in samples))
    boxes = torch.zeros(BATCH, most, 4)
    labels = torch.zeros(BATCH, most, dtype=torch.int64)
    valid = torch.zeros(BATCH, most, dtype=torch.bool)
    for i, sample in enumerate(samples):
        corner = torch.from_numpy(sample.boxes)
        n = len(corner)
        boxes[i, :n] = torch.cat(((corner[:, :2] + corner[:, 2:]) / 2, corner[:, 2:] - corner[:, :2]), 1)
        labels[i, :n] = torch.from_numpy(sample.labels)
        valid[i, :n] = True
    return images, Targets(boxes, labels, valid)


def make_optimizer(model: nn.Module) -> torch.optim.AdamW:
    """AdamW; weight decay on convolution weights only."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_RATE)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a half cosine down to FINAL_RATE of the peak."""
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    progress = (step - WARMUP) / max(1, steps - WARMUP)
    return PEAK_RATE * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress)))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int) -> None:
    """Exponential moving average of weights and batch norm statistics, with a shorter memory at the start."""
    decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
    for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def save(content: dict[str, Any], path: Path) -> None:
    """``torch.save`` to a temporary name, then renamed, so that an interruption never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    torch.save(content, temporary)
    temporary.replace(path)


def iterations(
    model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, data: Shapes, first: int, steps: int
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Train ``model`` and its ``average`` in place; after each iteration, how many are done and its losses."""
    grids, strides = grids_and_strides([(SIZE // s, SIZE // s) for s in STRIDES], torch.float32)
    for step in range(first, steps):
        images, targets = load_batch(data, step * BATCH)
        late = step >= steps * 4 // 5
        if late:
            _freeze_statistics(model)
        loss = yolox_loss(model(images), grids, strides, targets, use_l1=late)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimizer.zero_grad()
        loss["total"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        update_average(average, model, step)
        yield step + 1, loss


def train(steps: int, out: Path, state: Path, resume: Path | None, seed: int) -> dict[str, float]:
    """Train, save the averaged weights to ``out``, and return their metrics on the validation split."""
    torch.manual_seed(seed)
    model = yolox_nano(len(CLASSES)).train()
    average: YOLOX = copy.deepcopy(model).eval()
    optimizer = make_optimizer(model)
    first, spent = 0, 0.0
    if resume is not None:
        saved = torch.load(resume, weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        first, spent = saved["step"], saved["seconds"]
    data = Shapes("train", seed)
    print(f"{steps} iterations of {BATCH}, backgrounds: {data.backgrounds}, from {first}", flush=True)
    begin = time.monotonic() - spent
    for done, loss in iterations(model, average, optimizer, data, first, steps):
        seconds = time.monotonic() - begin
        if done % 20 == 0:
            parts = "  ".join(f"{key} {value.item():.3f}" for key, value in loss.items())
            print(f"{done:5d}  {seconds:7.1f} s  {parts}", flush=True)
        if done % 100 == 0 and done < steps:
            save(
                {
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": done,
                    "seconds": seconds,
                },
                state,
            )
        if done % 500 == 0 and done < steps:
            print(json.dumps({"step": done, "mAP_100": round(_quick_map(average), 4)}), flush=True)
    save({"model": average.state_dict(), "classes": list(CLASSES), "size": SIZE, "steps": steps}, out)
    scores = evaluate(torch_predictor(average), batch=BATCH)
    print(json.dumps({k: round(v, 4) for k, v in scores.items()}), flush=True)
    print(f"{time.monotonic() - begin:.0f} s, {out.stat().st_size / 1e6:.2f} MB", flush=True)
    return scores


def _freeze_statistics(model: nn.Module) -> None:
    """Batch norm as it will be at inference. A rare colour has a batch variance of its own in training, which tames it;
    with the running variance the same image can drive a few channels a hundred times too high, and only a network that
    has met that learns not to. Quantization would pay for it: the rare value takes the whole range.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _quick_map(model: nn.Module) -> float:
    return evaluate(torch_predictor(model), limit=100, batch=BATCH)["mAP"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train YOLOX-nano on the shapes set.")
    parser.add_argument("--steps", type=int, default=4900)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--state", type=Path, default=Path("out/yolox_nano_shapes.state.pt"))
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.steps, args.out, args.state, args.resume, args.seed)


if __name__ == "__main__":
    main()
