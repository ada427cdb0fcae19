# SPDX-License-Identifier: Apache-2.0
"""What RetinaNet learns: anchors matched by IoU, focal loss of classes, smooth L1 of box offsets.

Source: Lin et al., arXiv:1708.02002, section 4: an anchor with an IoU of 0.5 or more with an object is its, with less
than 0.4 background, between them it is ignored. As in Detectron's RetinaNet an object's best anchors are its own
whatever their IoU, and smooth L1 turns to a line at 1/9. Offsets: arXiv:1311.2524, appendix C, with mean 0 and
deviation 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from examples.detection.boxes import focal_loss, iou_and_union
from examples.detection.postprocess import Anchors

BACKGROUND, IGNORED = -1, -2


def offsets_to(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The dx, dy, dw, dh (n, 4) that make boxes (n, 4) of anchors (n, 4): the inverse of ``apply_offsets``."""
    sizes, wanted = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    shift = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / (2 * sizes)
    return torch.cat((shift, (wanted / sizes).log()), 1)


@torch.no_grad()
def match(anchors: Tensor, boxes: Tensor, valid: Tensor, positive: float = 0.5, negative: float = 0.4) -> Tensor:
    """Which object each anchor predicts.

    Args:
        anchors: (A, 4) in pixels.
        boxes: (N, G, 4) of the objects.
        valid: (N, G) bool, False where there is no object.
        positive: the least IoU of an object's anchor.
        negative: an anchor below it is background.

    Returns:
        (N, A) int64: an index into G, BACKGROUND or IGNORED.
    """
    iou = iou_and_union(boxes[:, :, None], anchors)[0].masked_fill(~valid[..., None], -1.0)  # (N, G, A)
    best, index = iou.max(1)
    found = torch.where(best >= positive, index, torch.where(best < negative, BACKGROUND, IGNORED))
    most = iou.amax(-1, keepdim=True)
    own = (iou == most) & (most > 0)
    return torch.where(own.any(1), index, found)


class RetinaNetLoss:
    """The losses of a batch: ``cls`` and ``reg``, each per matched anchor, to be summed.

    Args:
        anchors: of every level.
    """

    def __init__(self, anchors: Anchors) -> None:
        self.anchors = anchors
        self._grids = lru_cache(maxsize=4)(self._all)

    def __call__(self, outputs: Sequence[Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of raw outputs and a batch of ``examples.detection.data.collate``."""
        levels = len(self.anchors.strides)
        logits = self._rows(outputs[:levels])
        offsets = self._rows(outputs[levels:])
        anchors = self._grids(tuple((o.shape[2], o.shape[3]) for o in outputs[:levels])).to(logits)
        index = match(anchors, batch["boxes"], batch["valid"])
        foreground = index >= 0
        count = foreground.sum().clamp(min=1)
        object_ = index.clamp(min=0)
        wanted = torch.zeros_like(logits)
        wanted[foreground] = F.one_hot(batch["labels"].gather(1, object_)[foreground], logits.shape[-1]).to(logits)
        boxes = batch["boxes"].gather(1, object_[..., None].expand(-1, -1, 4))[foreground]
        own = anchors.expand(len(index), -1, -1)[foreground]
        reg = F.smooth_l1_loss(offsets[foreground], offsets_to(own, boxes), reduction="sum", beta=1 / 9)
        cls = focal_loss(logits, wanted)[index != IGNORED]
        return {"cls": cls.sum() / count, "reg": reg / count}

    def _rows(self, outputs: Sequence[Tensor]) -> Tensor:
        """(N, count * C, H, W) of every level to (N, A, C), the anchor fastest, then the column."""
        flat = [o.permute(0, 2, 3, 1).reshape(len(o), -1, o.shape[1] // self.anchors.count) for o in outputs]
        return torch.cat(flat, 1)

    def _all(self, sizes: tuple[tuple[int, int], ...]) -> Tensor:
        """(A, 4) float32: the anchors of all levels, whose heights and widths are given."""
        grids = [self.anchors.grid(level, *size) for level, size in enumerate(sizes)]
        return torch.from_numpy(np.concatenate(grids).astype(np.float32))
