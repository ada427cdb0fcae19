# SPDX-License-Identifier: Apache-2.0
"""Make a float checkpoint half as large, so that it can be committed: float32 is rounded to float16.

python -m examples.detection.weights out/fcos_horizon/float-checkpoint-best.safetensors OUT.safetensors
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

from porter.train.checkpoint import read, write


def halve(checkpoint: Path, out: Path) -> int:
    """Write the rounded copy; its size in bytes.

    Raises:
        PorterError: as :func:`porter.train.checkpoint.read` and ``write``.
    """
    saved = read(checkpoint)
    tensors = {name: t.half() if t.dtype == torch.float32 else t for name, t in saved.tensors.items()}
    write(out, dataclasses.replace(saved, tensors=tensors))
    return out.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description="Round the tensors of a float checkpoint to float16.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    print(f"{args.out}: {halve(args.checkpoint, args.out):,} bytes")


if __name__ == "__main__":
    main()
