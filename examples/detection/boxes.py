# SPDX-License-Identifier: Apache-2.0
"""Overlaps of boxes ``x0, y0, x1, y1`` in pixels, and the losses that detectors share; torch, broadcasting."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def iou_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 4) and (..., 4), broadcast, to IoU (...) and the area of the union (...). Empty boxes overlap nothing."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    union = _areas(a) + _areas(b) - inter
    return inter / union.clamp(min=1e-9), union


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalized IoU, -1 to 1: IoU less the share of the enclosing box that neither covers (arXiv:1902.09630)."""
    iou, union = iou_and_union(a, b)
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    hull = (high - low).clamp(min=0).prod(-1).clamp(min=1e-9)
    return iou - (hull - union) / hull


def focal_loss(logits: Tensor, wanted: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of independent classes, element by element (arXiv:1708.02002, equation 5).

    Args:
        logits: any shape.
        wanted: the same shape, 0 or 1.
        alpha: weight of the ones; the zeros have 1 - alpha.
        gamma: power of the error.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    probability = logits.sigmoid()
    error = probability * (1 - wanted) + (1 - probability) * wanted
    weight = alpha * wanted + (1 - alpha) * (1 - wanted)
    return weight * error**gamma * entropy
