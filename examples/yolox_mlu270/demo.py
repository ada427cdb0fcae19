# SPDX-License-Identifier: Apache-2.0
"""The whole port: a trained YOLOX-nano, in its first release's form, goes to Cambricon's MLU270.

    make demo        or        python -m examples.yolox_mlu270.demo [--out out/yolox_mlu270] [--limit 300]

It prints the check, the ledger of the rewrites with the error measured after each, what quantization does to every
output, and the mAP of the float, rewritten, int16 and int8 models on the validation images, with onnxruntime's own
static int8 quantizer on the same calibration images beside them. It writes the bundle for the device and a picture of
detections.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import porter
from porter.report.quantization import print_quantized
from porter.report.text import console, print_bundle, print_evidence, print_ledger, print_report

from . import evaluate
from .shapes import SIZE, Shapes, write
from .yolox import yolox_nano_shapes_legacy

TARGET = "mlu270"
HERE = Path(__file__).parent
#: Images shown in the picture: a few of the validation set.
SHOWN = (2, 5, 11, 17)


def predictor(graph: Any) -> evaluate.Predict:
    """Images (N, 3, SIZE, SIZE) through a graph that was captured for one image at a time."""
    return lambda images: np.concatenate([graph.run([image[None]])[0] for image in images])


def onnxruntime_int8(graph: Any, calibration: Sequence[evaluate.Floats], folder: Path) -> Path:
    """The same network quantized by onnxruntime: static, int8, symmetric, per tensor, convolutions only, min-max."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._items = iter(calibration)

        def get_next(self) -> dict[str, evaluate.Floats] | None:
            image = next(self._items, None)
            return None if image is None else {graph.inputs[0].name: image}

    plain, prepared, out = (folder / f"{name}.onnx" for name in ("float", "prepared", "onnxruntime_int8"))
    from porter.save import save_graph

    save_graph(graph, plain, ".onnx", {})
    quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared), str(out), Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv"],
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, per_channel=False,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )  # fmt: skip
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/yolox_mlu270"))
    parser.add_argument("--limit", type=int, default=None, help="validation images (default: all 300)")
    args = parser.parse_args()
    out = console()
    args.out.mkdir(parents=True, exist_ok=True)
    target = porter.Target.load(TARGET)

    out.rule("1. check: the model as its author wrote it")
    graph = porter.load(evaluate.WEIGHTS, f"images:1x3x{SIZE}x{SIZE}", factory=yolox_nano_shapes_legacy)
    print_report(out, porter.check(graph, target), target.title)

    out.rule("2. rewrite, and prove it on images")
    images = [image[None] for image in evaluate.load_inputs("val", 4)]
    made = porter.rewrite(graph, target, data=images)
    print_ledger(out, made.ledger)
    out.print()
    assert made.evidence is not None
    print_evidence(out, made.evidence)
    print_report(out, made.report, target.title)

    out.rule("3. quantize on 128 calibration images")
    folder = args.out / "calib"
    folder.mkdir(exist_ok=True)
    write("calib", folder)
    quantized = {
        dtype: porter.quantize(made.graph, target, folder, dtype=dtype, preprocess=HERE / "preprocess.toml")
        for dtype in ("int16", "int8")
    }
    for result in quantized.values():
        print_quantized(out, result)
        out.print()

    out.rule("4. is it still the same detector?")
    peer = onnxruntime_int8(made.graph, list(evaluate.calibration_images()), args.out)
    predictors = {
        "float, the original torch module": evaluate.torch_predictor(evaluate.trained_model("legacy")),
        "rewritten for the MLU270, float": predictor(made.graph),
        "int16, simulated": predictor(quantized["int16"].graph),
        "int8, simulated": predictor(quantized["int8"].graph),
        "int8 by onnxruntime, same images": evaluate.onnx_predictor(peer),
    }
    print_metrics(out, predictors, args.limit)

    out.rule("5. the bundle for the device")
    bundle = porter.emit(
        made.graph, target, args.out / "bundle", quantized=list(quantized.values()), rewritten=made, data=images,
        overwrite=True,
    )  # fmt: skip
    print_bundle(out, bundle)
    picture = args.out / "detections.png"
    draw(predictors, picture)
    out.print(f"detections, float above and int16 below: {picture}")


def print_metrics(out: Console, predictors: dict[str, evaluate.Predict], limit: int | None) -> None:
    """The table of mAP, each model against the first."""
    table = Table("model", "mAP", "AP50", "change in mAP", "s", box=None, pad_edge=False)
    first = None
    for name, predict in predictors.items():
        start = time.perf_counter()
        found = evaluate.evaluate(predict, limit=limit)
        seconds = time.perf_counter() - start
        first = found["mAP"] if first is None else first
        table.add_row(
            name, f"{found['mAP']:.4f}", f"{found['AP50']:.4f}", f"{found['mAP'] - first:+.4f}", f"{seconds:.0f}"
        )
    out.print(table)


def draw(predictors: dict[str, evaluate.Predict], path: Path) -> None:
    """A few validation images with what the original (top row) and the int16 model (bottom row) find."""
    data = Shapes("val")
    pictures = []
    for name, caption in (("float, the original torch module", "float"), ("int16, simulated", "int16, MLU270")):
        for index in SHOWN:
            image = data[index].image
            rows = predictors[name](evaluate.preprocess(image)[0][None])[0]
            pictures.append(evaluate.draw(image, evaluate.postprocess(rows, confidence=0.3), caption=caption))
    evaluate.side_by_side(pictures, columns=len(SHOWN)).save(path)


if __name__ == "__main__":
    main()
