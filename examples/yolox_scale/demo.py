# SPDX-License-Identifier: Apache-2.0
"""Scaling from end to end: search the width and depth of YOLOX for a latency, then port what was found.

    python -m examples.yolox_scale.demo [--out out/yolox_scale] [--workers 1] [--limit 100]

The search is that of ``xgen.json``; it is kept in ``OUT/study``, so that a second run goes on or is done at once. The
chosen model is checked, quantized and emitted for the MLU270, and in its ONNX form for ONNX Runtime.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

import porter
from examples.yolox_mlu270 import evaluate
from examples.yolox_mlu270.shapes import write
from porter.compress.scale import scale
from porter.report.quantization import print_quantized
from porter.report.scaling import print_scaled
from porter.report.text import console, print_bundle, print_report

HERE = Path(__file__).parent
PREPROCESS = HERE.parent / "yolox_mlu270" / "preprocess.toml"
#: The chosen model's file and its quantized dtype on each target.
PORTS = {"mlu270": ("model.pt2", "int16"), "onnxruntime": ("model.onnx", "int8")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/yolox_scale"))
    parser.add_argument("--workers", type=int, default=1, help="processes that search at once")
    parser.add_argument("--limit", type=int, default=100, help="validation images of the last table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = console()
    args.out.mkdir(parents=True, exist_ok=True)

    out.rule("1. search: which YOLOX is as accurate as the MLU270 has time for?")
    made = scale(HERE / "xgen.json", study=args.out / "study", workers=args.workers, progress=out.print)
    print_scaled(out, made)
    if not made.ok:
        raise SystemExit("nothing was chosen")
    model = made.save(args.out / "model", overwrite=True)
    out.print(f"the chosen model: {model}")

    calibration = args.out / "calib"
    write("calib", calibration, 64)
    metrics: dict[str, evaluate.Predict] = {}
    for step, (name, (file, dtype)) in enumerate(PORTS.items(), 2):
        target = porter.Target.load(name)
        out.rule(f"{step}. check, quantize and emit for {target.title}")
        print_report(out, porter.check(model / file, target), target.title)
        ported = porter.port(
            model / file, target, calibration, args.out / f"bundle_{name}", dtypes=[dtype], preprocess=PREPROCESS,
            overwrite=True,
        )  # fmt: skip
        assert ported.bundle is not None
        print_quantized(out, ported.quantized[0])
        print_bundle(out, ported.bundle)
        metrics[f"{name}, float"] = predictor(ported.rewritten.graph)
        metrics[f"{name}, {dtype}, simulated"] = predictor(ported.quantized[0].graph)

    out.rule("4. is it still the detector that was chosen?")
    table = Table("model", "mAP", "AP50", box=None, pad_edge=False)
    for name, predict in metrics.items():
        found = evaluate.evaluate(predict, limit=args.limit)
        table.add_row(name, f"{found['mAP']:.4f}", f"{found['AP50']:.4f}")
    out.print(table)


def predictor(graph: Any) -> evaluate.Predict:
    """Images (N, 3, H, W) through a graph that was captured for one image at a time."""
    return lambda images: np.concatenate([graph.run([image[None]])[0] for image in images])


if __name__ == "__main__":
    main()
