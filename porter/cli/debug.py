# SPDX-License-Identifier: Apache-2.0
"""``porter debug``."""

from __future__ import annotations

from typing import Annotated

import typer

from porter.cli.app import app
from porter.cli.options import (
    Factory,
    FactoryArgs,
    Format,
    Inputs,
    OutputFormat,
    Preprocess,
    RunPickled,
    console,
    loading,
    progress,
)


@app.command()
def debug(
    reference: Annotated[str, typer.Argument(help="A model, or an .npz of tensors by name.", show_default=False)],
    other: Annotated[str, typer.Argument(help="What is compared with it: a model or an .npz.", show_default=False)],
    data: Annotated[
        str | None, typer.Option("--data", help="Inputs: images folder, .npy, .npz, module:function; else random ones.")
    ] = None,
    preprocess: Preprocess = None,
    order: Annotated[
        str | None, typer.Option("--order", help="For two dumps: the model whose order and lines are used.")
    ] = None,
    min_sqnr: Annotated[float, typer.Option("--min-sqnr", help="A tensor under it parts, in dB.")] = 20.0,
    factory: Factory = None,
    model_arg: FactoryArgs = None,
    input_: Inputs = None,
    run_pickled_code: RunPickled = False,
    format_: OutputFormat = Format.text,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print every tensor.")] = False,
) -> None:
    """Name the first layer where two models part: float and quantized, or dumps of tensors from a device."""
    from porter import api

    with progress() as say:
        parting = api.debug(
            reference, other, input_, data=data, preprocess=preprocess, order=order, min_sqnr=min_sqnr, progress=say,
            **loading(factory, model_arg, run_pickled_code),
        )  # fmt: skip
    if format_ is Format.json:
        from porter.report.json import to_json

        print(to_json(parting))
    else:
        from porter.report.debugging import print_parting

        print_parting(console(), parting, verbose)
    raise typer.Exit(0 if parting.ok else 1)
