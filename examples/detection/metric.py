# SPDX-License-Identifier: Apache-2.0
"""COCO mean average precision of raw outputs, gathered batch by batch, in one process or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from examples.yolox_mlu270.evaluate import metrics

from .data import Source
from .postprocess import Array, Detections

#: Detections by the index of the image in its source.
State = dict[int, Detections]


class CocoMeanAP:
    """``mAP`` (IoU 0.50 to 0.95), ``AP50``, ``AP75``, ``AR100``, and ``AP_<class>`` for each class; all in 0..1.

    Only images that were seen count: a part of a set is judged by itself.

    Args:
        source: the images, for their annotations.
        decode: the raw outputs of a batch, as arrays, to the detections of each image.
    """

    def __init__(self, source: Source, decode: Callable[[Sequence[Array]], list[Detections]]) -> None:
        self._source = source
        self._decode = decode
        self._annotations: dict[str, Any] | None = None
        self._found: State = {}

    def reset(self) -> None:
        """Forget all images."""
        self._found = {}

    def update(self, outputs: Sequence[Any], batch: dict[str, Any]) -> None:
        """Take the outputs of a batch (tensors or arrays) and the ``index`` and ``scale`` of its images."""
        arrays = [np.asarray(o.detach().cpu() if hasattr(o, "detach") else o) for o in outputs]
        found = self._decode(arrays)
        for index, scale, one in zip(batch["index"].tolist(), batch["scale"].tolist(), found, strict=True):
            self._found[index] = Detections((one.boxes / scale).astype(np.float32), one.scores, one.labels)

    def state(self) -> State:
        """What was gathered so far, for :meth:`merge` in another process."""
        return dict(self._found)

    def merge(self, states: Iterable[State]) -> None:
        """Add what other processes gathered. An image that several have seen counts once."""
        for state in states:
            self._found.update(state)

    def compute(self) -> dict[str, float]:
        """The figures of all images since the last :meth:`reset`."""
        if self._annotations is None:
            self._annotations = self._source.coco()
        seen = {index + 1 for index in self._found}
        annotations = {
            "info": self._annotations.get("info", {}),
            "images": [image for image in self._annotations["images"] if image["id"] in seen],
            "annotations": [a for a in self._annotations["annotations"] if a["image_id"] in seen],
            "categories": self._annotations["categories"],
        }
        nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
        return metrics([self._found.get(i, nothing) for i in range(max(seen, default=0))], annotations)
