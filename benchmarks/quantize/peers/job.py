# SPDX-License-Identifier: Apache-2.0
"""What every peer's script reads: ``python with_PEER.py JOB.json``, in the peer's own environment.

The job names the float model, the calibration items (an .npy of shape (N, ...), fed one at a time), the width (int8,
int16, w8a16), the settings, and the ONNX file to write, which must run in plain onnxruntime.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Job:
    """See the module."""

    model: str
    calibration: str
    input: str
    width: str
    settings: dict[str, Any]
    out: str

    def items(self) -> Iterator[Any]:
        """Every calibration item with a batch axis: (1, ...)."""
        for item in np.load(self.calibration, mmap_mode="r"):
            yield np.array(item)[None]

    def feeds(self) -> list[dict[str, Any]]:
        """Every calibration item by the input's name."""
        return [{self.input: item} for item in self.items()]


def main(quantize: Callable[[Job], None]) -> None:
    """Read the job that the command line names and do it."""
    quantize(Job(**json.loads(Path(sys.argv[1]).read_text())))
