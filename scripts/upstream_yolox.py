# SPDX-License-Identifier: Apache-2.0
"""Put Megvii's own YOLOX source (release 0.3.0, Apache-2.0, from the package index) under .upstream/ and print where.

    python scripts/upstream_yolox.py

YOLOX_SOURCE names a checkout to use instead. Nothing of it is installed or built, and nothing of it is committed: the
source archive is unpacked, that is all.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

RELEASE = "0.3.0"
FOLDER = Path(__file__).resolve().parent.parent / ".upstream"


def source() -> Path:
    """The folder that holds the package ``yolox``. Raises ``RuntimeError`` when it cannot be had."""
    named = os.environ.get("YOLOX_SOURCE")
    folder = Path(named) if named else FOLDER / f"yolox-{RELEASE}"
    if (folder / "yolox" / "models" / "yolo_head.py").is_file():
        return folder
    if named:
        raise RuntimeError(f"YOLOX_SOURCE={named} does not hold yolox/models/yolo_head.py")
    with tempfile.TemporaryDirectory() as temporary:
        # Its setup.py imports torch, which this environment has and an isolated build would not.
        run = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--no-binary", ":all:", "--no-build-isolation", "-d", temporary, f"yolox=={RELEASE}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        archives = list(Path(temporary).glob("yolox-*.tar.gz"))
        if run.returncode or not archives:
            lines = run.stderr.strip().splitlines()
            raise RuntimeError(f"yolox {RELEASE} could not be downloaded: {lines[-1] if lines else 'no message'}")
        FOLDER.mkdir(exist_ok=True)
        with tarfile.open(archives[0]) as archive:
            archive.extractall(FOLDER, filter="data")
    return folder


if __name__ == "__main__":
    print(source())
