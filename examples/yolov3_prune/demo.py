# SPDX-License-Identifier: Apache-2.0
"""The whole loop: train, sparsify, prune by both schemes, remove layers, fine-tune; then to two devices.

    make demo-prune        or        python -m examples.yolov3_prune.demo [--out out/yolov3_prune]

Training from nothing takes a quarter of an hour, so the loop starts from the committed weights unless ``--scratch``.
``--sparse FILE`` goes on from the sparse weights of an earlier run (it writes them as sparse.weights).
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import porter
from examples.yolox_mlu270 import evaluate
from examples.yolox_mlu270.demo import predictor
from examples.yolox_mlu270.shapes import SIZE, write
from porter.compress.prune import Pruned
from porter.compress.sparsity import SparseTraining
from porter.report.pruning import print_pruned, print_stages
from porter.report.text import console

from .darknet import Darknet, cfg_of, load_weights, save_weights
from .train import BATCH, fit, mean_average_precision, shapes_network, trained_network

INPUT = f"images:1x3x{SIZE}x{SIZE}"
SCRATCH_STEPS = 3600
SPARSE_STEPS, STRENGTH, SPARSE_RATE = 900, 1e-3, 0.5
FINETUNE_STEPS, FINETUNE_RATE = 300, 0.1
PERCENT, LAYER_KEEP, SHORTCUTS = 0.72, 0.05, 4
#: Each device and the widths to quantize to.
TARGETS = {"mlu270": ("int16", "int8"), "onnxruntime": ("int16", "int8")}


def train(args: argparse.Namespace, out: Console) -> Darknet:
    """Stage 1: the committed weights, or training from nothing."""
    out.rule("1. train")
    if not args.scratch:
        return trained_network()
    torch.manual_seed(0)
    return fit(shapes_network(), SCRATCH_STEPS, say=out.print)


def sparsify(model: Darknet, args: argparse.Namespace, out: Console) -> Darknet:
    """Stage 2: sparse training, with the histograms of the gammas over its epochs."""
    out.rule(f"2. sparsify: L1 on the gammas, strength {STRENGTH:g}")
    if args.sparse:
        load_weights(model, args.sparse)
        return model
    sparse = SparseTraining(model, STRENGTH)
    first = SCRATCH_STEPS * BATCH
    average = fit(model, args.sparse_steps, rate=SPARSE_RATE, first=first, sparse=sparse, say=out.print)
    save_weights(average, args.out / "sparse.weights")
    sparse.history.save(args.out / "gammas.json", overwrite=True)
    sparse.history.plot(args.out / "gammas.png", overwrite=True)
    return average


def finetune(model: Darknet, steps: int, out: Console) -> Darknet:
    """Stage 5, called by :func:`porter.prune`: a short training of what is left, on images not seen before."""
    first = (SCRATCH_STEPS + SPARSE_STEPS) * BATCH
    return fit(model, steps, rate=FINETUNE_RATE, first=first, say=out.print)


def port(made: Pruned, args: argparse.Namespace, out: Console) -> None:
    """Stage 6: rewrite, prove, quantize and bundle the pruned model for each device; the mAP of every version."""
    calibration = args.out / "calib"
    calibration.mkdir(exist_ok=True)
    write("calib", calibration)
    predict: dict[str, Any] = {"pruned, float": predictor(made.graph)}
    for name, dtypes in TARGETS.items():
        bundle = args.out / f"bundle_{name}"
        ported = porter.port(
            made.graph, name, calibration, bundle, dtypes=dtypes, preprocess=calibration / "preprocess.toml",
            overwrite=True,
        )  # fmt: skip
        report = ported.rewritten.report
        out.print(f"{name}: legal {report.ok}, ops {dict(report.summary)}, bundle {bundle}")
        for dtype, quantized in zip(dtypes, ported.quantized, strict=True):
            predict[f"{dtype} for {name}"] = predictor(quantized.graph)
    table = Table("model", "mAP", "change in mAP", box=None, pad_edge=False)
    first = None
    for name, function in predict.items():
        found = evaluate.evaluate(function, limit=args.limit)["mAP"]
        first = found if first is None else first
        table.add_row(name, f"{found:.4f}", f"{found - first:+.4f}")
    out.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/yolov3_prune"))
    parser.add_argument("--scratch", action="store_true", help="train from nothing first")
    parser.add_argument("--sparse", type=Path, help="sparse weights of an earlier run")
    parser.add_argument("--sparse-steps", type=int, default=SPARSE_STEPS)
    parser.add_argument("--finetune-steps", type=int, default=FINETUNE_STEPS)
    parser.add_argument("--limit", type=int, help="validation images (default: all 300)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = console()
    args.out.mkdir(parents=True, exist_ok=True)
    metric = partial(mean_average_precision, limit=args.limit)

    model = train(args, out)
    out.print(f"mAP {metric(model):.4f}")
    model = sparsify(model, args, out)
    out.print(f"mAP {metric(model):.4f}")

    options: dict[str, Any] = {"percent": PERCENT, "layer_keep": LAYER_KEEP, "metric": metric}
    out.rule("3. prune channels, by both schemes for the depthwise convolutions")
    for scheme in ("max", "intersection"):
        out.print(f"scheme {scheme}")
        print_stages(out, porter.prune(model, "mlu270", INPUT, scheme=scheme, latency=False, **options))

    out.rule(f"4. and 5. prune channels, remove {SHORTCUTS} shortcut blocks, fine-tune")
    made = porter.prune(
        model, "mlu270", INPUT, shortcuts=SHORTCUTS, finetune=lambda m: finetune(m, args.finetune_steps, out), **options
    )  # fmt: skip
    print_pruned(out, made)
    folder = made.save(args.out / "pruned", overwrite=True, plot=True)
    (args.out / "pruned.cfg").write_text(cfg_of(made.module))
    save_weights(made.module, args.out / "pruned.weights")
    out.print(f"plain PyTorch: {folder}/model.py; Darknet: {args.out}/pruned.cfg and pruned.weights")

    out.rule("6. to the devices")
    port(made, args, out)


if __name__ == "__main__":
    main()
