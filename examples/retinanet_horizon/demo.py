# SPDX-License-Identifier: Apache-2.0
"""The small setting through all stages: see examples/detection/demo.py.

make demo-retinanet        or        python -m examples.retinanet_horizon.demo [--scratch]
"""

from __future__ import annotations

import sys
from pathlib import Path

from examples.detection.demo import run

HERE = Path(__file__).parent
WEIGHTS = HERE / "weights" / "retinanet_shapes.safetensors"

if __name__ == "__main__":
    sys.exit(run(HERE / "small.py", WEIGHTS))
