# SPDX-License-Identifier: Apache-2.0
"""What calibration costs: ``calibration_speed.py`` on three of the models, when nothing else of the benchmark runs.

    python -m benchmarks.quantize.speed

measures, prints the section and keeps it, so that ``python -m benchmarks.quantize --reuse`` prints it with the rest: a
quiet machine is needed for these few minutes alone.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
from pathlib import Path

from porter.files import atomic_file

from .contenders import ROOT

__all__ = ["kept_speed", "speed"]

SCRIPT = Path(__file__).resolve().parent / "calibration_speed.py"
#: The models with their inputs and the images of a round, each round about half a second of plain inference: a large
#: detector, a classifier and a small detector.
MODELS = {"ppocr_det": ("1x3x480x480", 24), "mobilenet_v2": ("1x3x224x224", 120), "yolox_nano": ("1x3x128x128", 400)}
#: Where the section is kept.
KEPT = "speed.md"
#: Whose memory is measured: 1,000 images of it take seconds.
MEMORY = "mobilenet_v2"


def kept_speed(work: Path) -> str:
    """The section as an earlier run measured it, or ""."""
    kept = work / KEPT
    return kept.read_text(encoding="utf-8").strip() if kept.exists() else ""


def speed(work: Path) -> str:
    """Measure; a section with the script's tables: seconds beside plain inference, and peak memory of 10 to 1,000
    images. It is kept under ``work``, unless something failed."""
    before = os.getloadavg()[0]
    models = {name: f"{work / 'cases' / name / 'float.onnx'}:{shape}" for name, (shape, _) in MODELS.items()}
    ran = [_run([models[name], "--images", str(images)]) for name, (_, images) in MODELS.items()]
    ran.append(_run([models[MEMORY], "--memory"]))
    said = "\n\n".join(output for output, _ in ran).replace(f"{work / 'cases'}/", "")
    made = (
        f"### Calibration: seconds beside plain inference, and memory\n\n```text\n{said}\n```\n\n"
        f"Both use all of the {os.cpu_count()} cores; load average before it {before:.1f}, {datetime.date.today()}."
    )
    if all(done for _, done in ran):
        with atomic_file(work / KEPT, overwrite=True) as part:
            part.write_text(made + "\n", encoding="utf-8")
    return made


def _run(arguments: list[str]) -> tuple[str, bool]:
    command = [sys.executable, str(SCRIPT), "--target", "onnxruntime", *arguments]
    threads = ("OMP_NUM_THREADS", "PORTER_THREADS")
    environment = {name: text for name, text in os.environ.items() if name not in threads} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        return f"failed: {(done.stderr.strip() or '?').splitlines()[-1]}", False
    return done.stdout.strip(), True


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench-quantize")
    print(speed(parser.parse_args().work))


if __name__ == "__main__":
    main()
