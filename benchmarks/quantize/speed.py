# SPDX-License-Identifier: Apache-2.0
"""What calibration costs: ``calibration_speed.py`` on two of the models, when nothing else of the benchmark runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["speed"]

SCRIPT = Path(__file__).resolve().parent / "calibration_speed.py"
#: The models and their inputs: a large detector and a small one.
MODELS = {"ppocr_det": "1x3x480x480", "yolox_nano": "1x3x128x128"}


def speed(work: Path) -> str:
    """A section with the script's tables: seconds beside plain inference, and peak memory of 10 to 1,000 images."""
    models = [f"{work / 'cases' / name / 'float.onnx'}:{shape}" for name, shape in MODELS.items()]
    ran = [_run(models), _run([models[1], "--memory"])]
    said = "\n\n".join(ran).replace(f"{work / 'cases'}/", "")
    return f"### Calibration: seconds beside plain inference, and memory\n\n```text\n{said}\n```"


def _run(arguments: list[str]) -> str:
    command = [sys.executable, str(SCRIPT), "--target", "onnxruntime", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else f"failed: {(done.stderr.strip() or '?').splitlines()[-1]}"
