# SPDX-License-Identifier: Apache-2.0
"""What FCOS learns: dynamic targets, focal loss of classes, GIoU of boxes, cross entropy of centerness.

Sources: Tian et al., arXiv:1904.01355 (centerness, equation 3, and as the weight of the box loss). Which cells an
object gets is decided by the predictions, as in Ge et al., arXiv:2103.14259, section 3.3 (dynamic k) and
arXiv:2107.08430 (the k cheapest cells): candidates are the cells whose centre lies in the object's box, the cost is the
focal loss of its class and twice the GIoU loss, and k is the sum of its 10 largest IoUs, at least 1. These are the
terms, the weight and the topK of DynamicFcosTarget in Horizon's public FCOS configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from examples.detection.boxes import focal_loss, giou, iou_and_union

from .bifpn import STRIDES


@dataclass(frozen=True)
class Cells:
    """All cells of all levels, A of them, in the order of the levels, row by row.

    logits (N, A, C); boxes (N, A, 4) ``x0, y0, x1, y1`` in pixels; centerness (N, A) logits; centers (A, 2) in pixels.
    """

    logits: Tensor
    boxes: Tensor
    centerness: Tensor
    centers: Tensor


def cells_of(outputs: Sequence[Tensor], strides: Sequence[int] = STRIDES) -> Cells:
    """The head's outputs, decoded: distances are cut at 0 and multiplied by the stride."""
    count = len(strides)
    flat = [o.flatten(2).transpose(1, 2) for o in outputs]
    places, sizes = [], []
    for output, stride in zip(outputs, strides, strict=False):
        height, width = output.shape[2:]
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        places.append((torch.stack((columns, rows), -1).reshape(-1, 2) + 0.5) * stride)
        sizes.append(torch.full((height * width, 1), float(stride)))
    centers = torch.cat(places).to(outputs[0])
    distances = torch.cat(flat[count : 2 * count], 1).clamp(min=0) * torch.cat(sizes).to(outputs[0])
    boxes = torch.cat((centers - distances[..., :2], centers + distances[..., 2:]), -1)
    return Cells(torch.cat(flat[:count], 1), boxes, torch.cat(flat[2 * count :], 1)[..., 0], centers)


@torch.no_grad()
def dynamic_targets(
    cells: Cells, boxes: Tensor, labels: Tensor, valid: Tensor, topk: int = 10, box_cost: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Which object each cell predicts.

    Args:
        cells: the predictions.
        boxes: (N, G, 4) of the objects in pixels.
        labels: (N, G) int64.
        valid: (N, G) bool, False where there is no object.
        topk: the largest IoUs whose sum is how many cells an object gets.
        box_cost: weight of the GIoU loss in the cost.

    Returns:
        foreground (N, A) bool, and object (N, A) int64: an index into G, 0 where background.
    """
    center = cells.centers
    inside = ((center > boxes[..., None, :2]) & (center < boxes[..., None, 2:])).all(-1) & valid[..., None]  # (N, G, A)
    # the focal loss of a cell for an object: every class says no, except the object's own
    no = focal_loss(cells.logits, torch.zeros_like(cells.logits))
    yes = focal_loss(cells.logits, torch.ones_like(cells.logits))
    own = (yes - no).transpose(1, 2).gather(1, labels[..., None].expand(-1, -1, center.shape[0]))
    cost = no.sum(-1)[:, None] + own + box_cost * (1 - giou(boxes[:, :, None], cells.boxes[:, None]))
    cost = cost.masked_fill(~inside, torch.inf)
    iou = iou_and_union(boxes[:, :, None], cells.boxes[:, None])[0] * inside
    k = iou.topk(min(topk, iou.shape[-1]), dim=-1).values.sum(-1).int().clamp(min=1)
    rank = cost.argsort(-1).argsort(-1)
    matched = (rank < k[..., None]) & inside
    # a cell wanted by several objects goes to the cheapest
    return matched.any(1), cost.masked_fill(~matched, torch.inf).argmin(1)


def centerness_of(centers: Tensor, boxes: Tensor) -> Tensor:
    """(n, 2) places and the (n, 4) boxes around them to (n,): 1 in the middle, 0 at the border."""
    low, high = (centers - boxes[:, :2]).clamp(min=0), (boxes[:, 2:] - centers).clamp(min=0)
    ratio = torch.minimum(low, high) / torch.maximum(low, high).clamp(min=1e-6)
    return ratio.prod(-1).sqrt()


class FcosLoss:
    """The losses of a batch: ``cls``, ``reg`` and ``centerness``, each per matched cell, to be summed."""

    def __init__(self, strides: Sequence[int] = STRIDES, topk: int = 10) -> None:
        self.strides = tuple(strides)
        self.topk = topk

    def __call__(self, outputs: Sequence[Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of raw outputs and a batch of ``examples.detection.data.collate``."""
        cells = cells_of(outputs, self.strides)
        foreground, index = dynamic_targets(cells, batch["boxes"], batch["labels"], batch["valid"], self.topk)
        count = foreground.sum().clamp(min=1)
        boxes = batch["boxes"].gather(1, index[..., None].expand(-1, -1, 4))[foreground]
        wanted = torch.zeros_like(cells.logits)
        wanted[foreground] = F.one_hot(batch["labels"].gather(1, index)[foreground], wanted.shape[-1]).to(wanted)
        center = cells.centers.expand(len(foreground), -1, -1)[foreground]
        weight = centerness_of(center, boxes)
        reg = (1 - giou(cells.boxes[foreground], boxes)) * weight
        entropy = F.binary_cross_entropy_with_logits(cells.centerness[foreground], weight, reduction="sum")
        return {
            "cls": focal_loss(cells.logits, wanted).sum() / count,
            "reg": reg.sum() / weight.sum().clamp(min=1e-6),
            "centerness": entropy / count,
        }
