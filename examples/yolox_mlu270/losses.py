# SPDX-License-Identifier: Apache-2.0
"""The training loss of YOLOX: SimOTA assignment, squared-IoU loss, BCE for scores, optional L1. Training only.

Sources: Ge et al., arXiv:2107.08430 section 2.1 (SimOTA), and OTA, arXiv:2103.14259. The constants (centre radius
1.5 strides, 10 candidates, IoU cost weight 3, IoU loss weight 5) are those of Megvii's YOLOX. The whole batch is
assigned at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CENTER_RADIUS = 1.5
CANDIDATES = 10
IOU_COST = 3.0
IOU_WEIGHT = 5.0


@dataclass(frozen=True)
class Targets:
    """Ground truth of a batch, padded to the same number G of objects.

    boxes (N, G, 4) float32 ``cx, cy, w, h`` in pixels; labels (N, G) int64; valid (N, G) bool, False where padded.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of broadcastable ``cx, cy, w, h`` boxes: (..., 4) and (..., 4) to (...)."""
    low = torch.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    high = torch.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    inter = (high - low).clamp(min=0).prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - inter
    return inter / (union + 1e-9)


@torch.no_grad()
def simota(
    boxes: Tensor, obj: Tensor, cls: Tensor, centers: Tensor, strides: Tensor, targets: Targets
) -> tuple[Tensor, Tensor, Tensor]:
    """Which object each anchor predicts.

    Args:
        boxes: (N, A, 4) decoded predictions in pixels.
        obj: (N, A) objectness logits.
        cls: (N, A, C) class logits.
        centers: (A, 2) centre of each anchor's cell in pixels.
        strides: (A,) in pixels.
        targets: the ground truth.

    Returns:
        foreground (N, A) bool, object (N, A) int64 (index into G, 0 where background) and iou (N, A) with that object.
    """
    offset = (centers[None, None] - targets.boxes[:, :, None, :2]).abs().amax(-1)
    near = (offset < CENTER_RADIUS * strides) & targets.valid[..., None]  # (N, G, A)
    candidate = near.any(1, keepdim=True) & targets.valid[..., None]

    iou = box_iou(targets.boxes[:, :, None], boxes[:, None]) * candidate
    score = (cls.sigmoid() * obj.sigmoid()[..., None]).sqrt().clamp(1e-7, 1 - 1e-7)
    log_yes, log_no = score.log(), (1 - score).log()
    # the BCE against a one-hot vector: every class says no, except the object's own
    own = (log_yes - log_no).permute(0, 2, 1).gather(1, targets.labels[..., None].expand(-1, -1, obj.shape[1]))
    cls_cost = -log_no.sum(-1)[:, None] - own
    cost = cls_cost - IOU_COST * (iou + 1e-8).log() + 1e6 * ~near
    cost = cost.masked_fill(~candidate, torch.inf)

    k = iou.topk(min(CANDIDATES, iou.shape[-1]), dim=-1).values.sum(-1).int().clamp(min=1)
    rank = cost.argsort(-1).argsort(-1)
    matched = (rank < k[..., None]) & candidate
    # an anchor wanted by several objects goes to the cheapest
    best = cost.masked_fill(~matched, torch.inf).argmin(1)
    return matched.any(1), best, iou.gather(1, best[:, None])[:, 0]


@dataclass(frozen=True)
class Matched:
    """The three losses of a batch whose anchors were assigned by SimOTA (scalars with gradient), and the assignment.

    foreground (N, A) bool: matched anchors, ``count`` of them (at least 1); wanted (M, 4): the box of each.
    """

    iou: Tensor
    obj: Tensor
    cls: Tensor
    foreground: Tensor
    wanted: Tensor
    count: Tensor


def matched_losses(boxes: Tensor, scores: Tensor, centers: Tensor, strides: Tensor, targets: Targets) -> Matched:
    """Squared-IoU loss of boxes, and binary cross entropy of objectness and classes.

    Args:
        boxes: (N, A, 4) decoded ``cx, cy, w, h`` in pixels.
        scores: (N, A, 1 + C) raw objectness and classes.
        centers: (A, 2) in pixels, and strides (A,) of the anchors.
        strides: see centers.
        targets: the ground truth.
    """
    obj, cls = scores[..., 0], scores[..., 1:]
    foreground, index, iou = simota(boxes, obj, cls, centers, strides, targets)
    count = foreground.sum().clamp(min=1)
    wanted = targets.boxes.gather(1, index[..., None].expand(-1, -1, 4))[foreground]
    label = targets.labels.gather(1, index)[foreground]
    loss_iou = IOU_WEIGHT * (1 - box_iou(boxes[foreground], wanted) ** 2).sum() / count
    loss_obj = F.binary_cross_entropy_with_logits(obj, foreground.float(), reduction="sum") / count
    cls_target = F.one_hot(label, cls.shape[-1]) * iou[foreground][:, None]
    loss_cls = F.binary_cross_entropy_with_logits(cls[foreground], cls_target, reduction="sum") / count
    return Matched(loss_iou, loss_obj, loss_cls, foreground, wanted, count)


def yolox_loss(raw: Tensor, grids: Tensor, strides: Tensor, targets: Targets, use_l1: bool) -> dict[str, Tensor]:
    """The loss of one batch.

    Args:
        raw: (N, A, 5 + C) what the model returns in training mode.
        grids: (1, A, 2) cells, and strides (1, A, 1) pixels, of ``yolox.grids_and_strides``.
        strides: see grids.
        targets: the ground truth.
        use_l1: add the L1 loss on raw boxes (the last part of the training).

    Returns:
        ``total``, ``iou``, ``obj``, ``cls``, ``l1`` (scalars with gradient) and ``foreground`` (matched anchors).
    """
    boxes = torch.cat(((raw[..., :2] + grids) * strides, torch.exp(raw[..., 2:4].clamp(max=8)) * strides), -1)
    centers = ((grids + 0.5) * strides)[0]
    found = matched_losses(boxes, raw[..., 4:], centers, strides[0, :, 0], targets)
    loss_l1 = raw.new_zeros(())
    if use_l1:
        stride = strides.expand(len(raw), -1, -1)[found.foreground]
        grid = grids.expand(len(raw), -1, -1)[found.foreground]
        raw_wanted = torch.cat(
            (found.wanted[:, :2] / stride - grid, torch.log(found.wanted[:, 2:] / stride + 1e-8)), -1
        )
        loss_l1 = F.l1_loss(raw[..., :4][found.foreground], raw_wanted, reduction="sum") / found.count
    return {
        "total": found.iou + found.obj + found.cls + loss_l1,
        "iou": found.iou,
        "obj": found.obj,
        "cls": found.cls,
        "l1": loss_l1,
        "foreground": found.count.float(),
    }
