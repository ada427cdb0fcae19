# SPDX-License-Identifier: Apache-2.0
"""Model N of seed S: always the same program."""

from __future__ import annotations

import random

from . import onnx_layers, onnx_math, onnx_tensors  # noqa: F401  # each adds its productions
from .maker import Unfit, grow
from .onnx_maker import ONNX, OPSETS, OnnxMaker
from .program import Dialect, Program

__all__ = ["generate"]


def generate(seed: int, number: int, dialect: Dialect) -> Program:
    """A program of 3 to 14 productions that computes something."""
    for attempt in range(100):
        rng = random.Random(f"porter {seed} {number} {dialect} {attempt}")
        try:
            made = _onnx(rng) if dialect == "onnx" else _torch(rng)
        except Unfit:
            continue
        if made.steps and made.outputs and made.inputs:
            return made
    raise AssertionError(f"no model {number} of seed {seed}")


def _onnx(rng: random.Random) -> Program:
    make = OnnxMaker(rng, rng.choice(OPSETS))
    onnx_tensors.model_inputs(make)
    return grow(make, ONNX, rng.randint(3, 14))


def _torch(rng: random.Random) -> Program:
    from . import torch_math, torch_tensors  # noqa: F401
    from .torch_maker import TORCH, TorchMaker

    make = TorchMaker(rng, 0)
    torch_tensors.model_inputs(make)
    return grow(make, TORCH, rng.randint(3, 12))
