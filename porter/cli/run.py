# SPDX-License-Identifier: Apache-2.0
"""``porter run``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from porter.cli.app import app
from porter.cli.options import (
    Factory,
    FactoryArgs,
    Format,
    Inputs,
    Model,
    OutputFormat,
    Overwrite,
    Preprocess,
    RunPickled,
    console,
    files,
    loading,
    progress,
)


class Form(StrEnum):
    """How a model is run."""

    int = "int"
    fake = "fake"
    float = "float"


@app.command()
def run(
    as_: Annotated[
        Form, typer.Option("--as", help="In integers as the device, fake-quantized, or in float.")
    ] = Form.int,
    model: Model = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="The device; default: the encodings', else ONNX's own rules.")
    ] = None,
    encodings: Annotated[
        Path | None, typer.Option("--encodings", help="encodings.json of this float model, from porter quantize.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Inputs: images folder, .npy, .npz, module:function; else random ones.")
    ] = None,
    preprocess: Preprocess = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the tensors to this .npz.")] = None,
    taps: Annotated[bool, typer.Option("--taps", help="Write every value of the model, not the outputs only.")] = False,
    factory: Factory = None,
    model_arg: FactoryArgs = None,
    input_: Inputs = None,
    overwrite: Overwrite = False,
    run_pickled_code: RunPickled = False,
    format_: OutputFormat = Format.text,
) -> None:
    """Run a quantized model in true integers, or fake-quantized, or any model in float."""
    from porter import api
    from porter.files import check_output

    if output is not None:
        named = None if encodings is None else str(encodings)
        check_output(output, overwrite, files(model, named, data))
    with progress() as say:
        ran = api.run(
            model, target, input_, form=as_.value, encodings=encodings, data=data, preprocess=preprocess,
            taps=("*",) if taps else (), progress=say, **loading(factory, model_arg, run_pickled_code),
        )  # fmt: skip
    if output is not None:
        ran.save(output, overwrite=overwrite)
    if format_ is Format.json:
        from porter.report.json import to_json

        print(to_json(ran))
        return
    from porter.report.running import print_ran

    out = console()
    print_ran(out, ran)
    if output is not None:
        out.print(f"wrote {output}")
