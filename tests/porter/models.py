# SPDX-License-Identifier: Apache-2.0
"""Small ONNX models for tests, written in ONNX's own text form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser


def model(body: str, opset: int = 17, ir: int = 8, weights: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """A model from the text of its graph; ``weights`` become initializers."""
    made = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]>\n{body}')
    for name, data in (weights or {}).items():
        made.graph.initializer.append(numpy_helper.from_array(data, name))
    onnx.checker.check_model(made)
    return made


def conv_net(seed: int = 0) -> onnx.ModelProto:
    """Two convolutions with HardSwish between them (which torch 1.3 has not), 8 x 8."""
    rng = np.random.default_rng(seed)
    return model(
        """net (float[1, 3, 8, 8] images) => (float[1, 2, 8, 8] out) {
             a = Conv <pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (images, c1_weight, c1_bias)
             b = HardSwish (a)
             out = Conv <kernel_shape = [1, 1]> (b, c2_weight)
        }""",
        weights={
            "c1_weight": rng.standard_normal((4, 3, 3, 3), np.float32),
            "c1_bias": rng.standard_normal(4, np.float32),
            "c2_weight": rng.standard_normal((2, 4, 1, 1), np.float32),
        },
    )


def save(made: onnx.ModelProto, path: Path) -> Path:
    """Write it and give the path back."""
    onnx.save(made, path)
    return path
