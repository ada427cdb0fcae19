# SPDX-License-Identifier: Apache-2.0
"""Factories of Megvii's own YOLOX, unmodified, as a user would name them with --model.

Its package imports OpenCV, torchvision, loguru and more for training and drawing; none of that runs when a model is
built,
so stand-ins that do nothing take their places where they are not installed.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import upstream_yolox


class _StandIn(ModuleType):
    """A module whose every attribute does nothing; torch looks at the spec of whatever it finds imported."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.__file__ = f"<stand-in for {name}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


for _name in ("cv2", "loguru", "tabulate", "thop", "torchvision"):
    if _name not in sys.modules and importlib.util.find_spec(_name) is None:
        sys.modules[_name] = _StandIn(_name)
sys.path.insert(0, str(upstream_yolox.source()))


def _model(name: str, **settings: Any) -> Any:
    import torch
    from yolox.models import yolo_head  # noqa: F401  (fails here, clearly, when the source is not complete)
    from yolox.models.build import create_yolox_model

    torch.manual_seed(0)
    model = create_yolox_model(name, pretrained=False, device="cpu").eval()
    # Untrained statistics would let activations fade through the depth; a trained network keeps them near 1.
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.6)
                module.bias.uniform_(-0.2, 0.2)
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.3, 0.8)
    return model


def yolox_nano() -> Any:
    """YOLOX-nano with 80 classes, its own decode."""
    return _model("yolox-nano")


def yolox_s() -> Any:
    """YOLOX-s with 80 classes, its own decode."""
    return _model("yolox-s")
