# SPDX-License-Identifier: Apache-2.0
"""The integer network: what training ends in, run by porter's own integer simulator, and what is emitted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from porter.ops import Array
from porter.train.qat.network import QatNetwork

__all__ = ["IntNetwork", "to_integers"]


class IntNetwork:
    """A quantized model on its target: float graph, encodings, and the integer simulation of the two."""

    def __call__(self, *inputs: Any) -> tuple[Array, ...]:
        """The outputs on a batch of any size (float32 arrays or tensors): float32, or integers where
        ``dequant_output`` is False."""
        raise NotImplementedError

    def save(self, out: str | Path, *, overwrite: bool = False) -> Path:
        """Write a folder that :meth:`load` reads."""
        raise NotImplementedError

    @classmethod
    def load(cls, folder: str | Path) -> IntNetwork:
        """Read what :meth:`save` wrote."""
        raise NotImplementedError

    def emit(
        self, out: str | Path, *, opset: int | None = None, formats: Sequence[str] = ("onnx", "qdq", "traced"),
        inputs: Sequence[Any] = (), overwrite: bool = False,
    ) -> Path:  # fmt: skip
        """Write the folder that goes to the device's toolchain, with evidence."""
        raise NotImplementedError


def to_integers(network: QatNetwork) -> IntNetwork:
    """The integer network of a trained or calibrated QAT network."""
    raise NotImplementedError
