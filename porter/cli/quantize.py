# SPDX-License-Identifier: Apache-2.0
"""``porter quantize``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from porter.cli.app import app
from porter.cli.options import (
    Calibration,
    Factory,
    FactoryArgs,
    Force,
    Inputs,
    Model,
    Overwrite,
    Preprocess,
    RunPickled,
    TargetName,
    console,
    counter,
    files,
    loading,
)


class Outputs(StrEnum):
    """What becomes of outputs that join tensors of different size."""

    joined = "joined"
    separate = "separate"
    cut = "cut"
    int16 = "int16"


@app.command()
def quantize(
    target: TargetName,
    calibration: Calibration,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.", show_default=False)],
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            help="Width of weights and activations: int8, int16, another of the target's, or auto; "
            "default: int16, or the first that the target has.",
        ),
    ] = None,
    model: Model = None,
    factory: Factory = None,
    model_arg: FactoryArgs = None,
    input_: Inputs = None,
    preprocess: Preprocess = None,
    observer: Annotated[
        str | None, typer.Option("--observer", help="How ranges are found; default: the target says.")
    ] = None,
    per_channel: Annotated[
        bool | None,
        typer.Option(
            "--per-channel/--per-tensor", help="One weight scale an output channel; default: the target says."
        ),
    ] = None,
    first_conv: Annotated[
        bool, typer.Option("--first-conv", help="Let the first convolution take raw pixels and normalize them.")
    ] = False,
    pin: Annotated[
        list[str] | None, typer.Option("--pin", help="NAME=int16 or NAME=float for a layer or pattern; repeatable.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option("--skip", help="Keep layers in float: short for --pin NAME=float; repeatable.")
    ] = None,
    outputs: Annotated[
        Outputs,
        typer.Option("--outputs", help="Where outputs join boxes and scores: keep, or give each its scale."),
    ] = Outputs.joined,
    encodings: Annotated[
        Path | None, typer.Option("--encodings", help="Ranges found elsewhere: a JSON of porter's or of AIMET's.")
    ] = None,
    equalize: Annotated[
        bool | None, typer.Option("--equalize/--no-equalize", help="Give channels of layers ranges of one size.")
    ] = None,
    adaround: Annotated[
        bool | None, typer.Option("--adaround/--no-adaround", help="Choose up or down for each weight.")
    ] = None,
    bias_correction: Annotated[
        bool | None,
        typer.Option("--bias-correction/--no-bias-correction", help="Take mean errors of channels out of biases."),
    ] = None,
    min_sqnr: Annotated[
        float | None, typer.Option("--min-sqnr", help="With --dtype auto: dB that every output must reach.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option("--max-drop", help="With --dtype auto: how much the metric may drop.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="With --max-drop: module:function, called with predict; see PT461.")
    ] = None,
    force: Force = False,
    overwrite: Overwrite = False,
    run_pickled_code: RunPickled = False,
) -> None:
    """Find scales with the device's own numerics; write encodings, device weights, QDQ ONNX and a report per layer."""
    from porter import api
    from porter.files import check_output
    from porter.quantize.plan import pins
    from porter.report.quantization import print_quantized

    check_output(output, overwrite, files(model, calibration, str(encodings) if encodings else None))
    state = output.with_name(f"{output.name}.calibration.npz")
    with counter("calibrating") as count, _kept(state):
        made = api.quantize(
            model, target, calibration, input_, dtype=dtype, preprocess=preprocess, encodings=encodings, force=force,
            state=state, progress=count,
            observer=observer, per_channel=per_channel, first_conv=first_conv,
            pins=pins(pin or ()), skip=skip or (), outputs=outputs.value,
            equalize=equalize, adaround=adaround, bias_correction=bias_correction,
            min_sqnr=min_sqnr, max_drop=max_drop, metric=metric,
            loading=loading(factory, model_arg, run_pickled_code),
        )  # fmt: skip
    made.save(output, overwrite=overwrite)
    out = console()
    print_quantized(out, made)
    out.print(f"wrote {output}")
    raise typer.Exit(0 if made.ok else 1)


@contextmanager
def _kept(state: Path) -> Iterator[None]:
    """After an interrupt, say what the next run will go on from."""
    try:
        yield
    except Exception:
        raise
    except BaseException:
        if state.exists():
            print(f"what was calibrated is kept in {state}; the same command goes on from there", file=sys.stderr)
        raise
