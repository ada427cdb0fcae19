# SPDX-License-Identifier: Apache-2.0
"""Whether samples have the scale that a model was trained on, seen in what its first layer makes of them.

Pixels of 0..255 that are fed to a model of 0..1, or the other way round, are wrong by a factor of 255, and nothing in
the model's interface says so. Its training does:

- a batch norm holds the variance of what entered it;
- where batch norms are folded into the convolutions before them, the first convolution's bias is what is left of the
  norm's shift, which training makes about as large as the deviation of the norm's result, whatever the input's scale.
  On MobileNetV2, EfficientNet-Lite0, PicoDet, three PP-OCR models and YOLOX-nano, that deviation is 0.2 to 1.1, which
  is 0.4 to 5.1 times the bias. Pixels of 0..255 in the place of what they take make it 9 to 150 and 21 to 660 times the
  bias; what is 255 times too small, at most 0.005 and 0.02 times the bias. (Medians of channels.)

The second holds only for models that are of one scale: one of convolutions and ReLU computes the same on any, and its
biases may be small for other reasons; nothing is said of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from porter.findings import Finding
from porter.graph import Graph
from porter.ops import Array, Op, Value
from porter.quantize.scheme import PRODUCTS

__all__ = ["LOOK", "InputScale"]

#: Samples that are looked at.
LOOK = 16
#: The input of a first batch norm differs from its training statistics by more than this only on wrong inputs.
_UNLIKE_TRAINING = 20.0
#: The result of a first convolution, as a multiple of its bias and in itself: beyond both only on wrong inputs. What is
#: only not normalized (0..1 in the place of deviation 1) stays within.
_BIASES = (1 / 25, 12.0)
_RESULTS = (1 / 20, 5.0)
#: Functions that are not those of a scaled input, scaled.
_OF_ONE_SCALE = frozenset({
    "relu6", "clamp", "sigmoid", "hardsigmoid", "tanh", "silu", "hardswish", "mish", "gelu", "elu", "celu", "selu",
    "softplus",
})  # fmt: skip


class InputScale:
    """What enters a model's first batch norm, or leaves its first convolution: the deviation of each channel (axis 1),
    streaming, beside the one that is ``expected``.

    Fields:
        op: the batch norm or the convolution.
        value: to look at.
        expected: deviations, (channels,) float64; 0 where nothing is expected.
    """

    def __init__(self, op: Op, value: Value, expected: NDArray[np.float64]) -> None:
        self.op, self.value, self.expected = op, value, expected
        self._count, self._sum, self._square = 0, np.zeros(()), np.zeros(())

    @staticmethod
    def of(graph: Graph) -> InputScale | None:
        """The layer of a graph that tells; None where none does."""
        ops = graph.ops()
        norm = next((op for op in ops if _trained(op)), None)
        if norm is not None:
            value, variance = norm.operands[0], norm.operands[4].numpy().astype(np.float64)
            return InputScale(norm, value, np.where(variance > 1e-12, np.sqrt(np.maximum(variance, 0)), 0))
        products = [index for index, op in enumerate(ops) if op.kind in PRODUCTS]
        if not products or not any(op.kind in _OF_ONE_SCALE for op in ops[products[0] : products[-1]]):
            return None
        first = ops[products[0]]
        bias = first.inputs[2] if first.kind == "conv2d" and len(first.inputs) > 2 else None
        if bias is None or not bias.is_const or (first.outputs[0].dtype, len(bias.shape or ())) != ("float32", 1):
            return None
        expected = np.abs(bias.numpy().astype(np.float64))
        return InputScale(first, first.outputs[0], expected) if (expected > 0).mean() > 0.5 else None

    def add(self, x: Array) -> None:
        """See the value in one sample: (N, channels, ...)."""
        rows = x.reshape(*x.shape[:2], -1)
        self._count += x.size // x.shape[1]
        self._sum = self._sum + rows.sum((0, 2), dtype=np.float64)
        self._square = self._square + np.einsum("ncl,ncl->nc", rows, rows).sum(0, dtype=np.float64)

    @property
    def deviations(self) -> NDArray[np.float64]:
        """Of each channel in what was seen."""
        mean = self._sum / self._count
        return np.sqrt(np.maximum(self._square / self._count - mean**2, 0))

    @property
    def ratio(self) -> float | None:
        """The deviation as a multiple of the expected one, the median of channels; None before the first sample."""
        alive = self.expected > 0
        if not self._count or not alive.any():
            return None
        return float(np.median(self.deviations[alive] / self.expected[alive]))

    @property
    def right(self) -> bool:
        """Whether the samples are seen to be of the model's scale."""
        return bool(self.ratio) and not self.findings()

    def findings(self) -> list[Finding]:
        """A warning (PT406) where the samples are of another scale than the model."""
        ratio = self.ratio
        if not ratio:  # nothing seen, or the same everywhere
            return []
        folded = self.op.kind != "batch_norm"
        usual = float(np.median(self.deviations))
        if not folded and 1 / _UNLIKE_TRAINING < ratio < _UNLIKE_TRAINING:
            return []
        small = ratio < _BIASES[0] and usual < _RESULTS[0]
        if folded and not small and not (ratio > _BIASES[1] and usual > _RESULTS[1]):
            return []
        much = f"{ratio:.3g} times as wide as" if ratio > 1 else f"narrower by {1 / ratio:.3g} than"
        what = f"what enters the first batch norm is {much} in training"
        if folded:
            what = (
                f"what leaves the first convolution ({usual:.3g} on average) is {much} the bias that training left it"
            )
        way = "0..255 and the model's inputs 0..1" if ratio > 1 else "0..1 and the model's inputs 0..255"
        return [
            Finding(
                "PT406", "warning", f"{what}: are the samples {way}?", self.op.origin,
                "Compare the preprocessing with the training code.", self.op.name, self.op.kind,
            )
        ]  # fmt: skip

    def state(self) -> dict[str, Array]:
        """Plain arrays that :meth:`restore` makes an equal object of, for the same graph."""
        return {"spread_count": np.array(self._count), "spread_sum": self._sum, "spread_square": self._square}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Become the object whose :meth:`state` this is."""
        self._count = int(arrays["spread_count"])
        self._sum, self._square = arrays["spread_sum"], arrays["spread_square"]


def _trained(op: Op) -> bool:
    if op.kind != "batch_norm" or len(op.inputs) < 5:
        return False
    return all(value is not None and value.is_const for value in op.inputs[3:5])
