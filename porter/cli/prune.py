# SPDX-License-Identifier: Apache-2.0
"""``porter prune``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from porter.cli.app import app
from porter.cli.options import (
    Data,
    Factory,
    FactoryArgs,
    Format,
    Inputs,
    Model,
    OutputFormat,
    Overwrite,
    RunPickled,
    TargetName,
    console,
    files,
    loading,
    progress,
)


class Sides(StrEnum):
    """How the two sides of a depthwise convolution, or the groups of a grouped one, agree."""

    intersection = "intersection"
    max = "max"


@app.command()
def prune(
    target: TargetName,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.", show_default=False)],
    model: Model = None,
    percent: Annotated[float, typer.Option("--percent", help="Share of all gammas under the threshold.")] = 0.3,
    layer_keep: Annotated[float, typer.Option("--layer-keep", help="Least share of a layer that stays.")] = 0.1,
    scheme: Annotated[
        Sides, typer.Option("--scheme", help="Depthwise and grouped: what all sides mark, or the larger side's count.")
    ] = Sides.intersection,
    shortcuts: Annotated[int, typer.Option("--shortcuts", help="Shortcut blocks to remove, weakest first.")] = 0,
    multiple: Annotated[
        int | None, typer.Option("--multiple", help="Channels stay a multiple of it (default: the target's own).")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option("--skip", help="Keep the channels of layers: a path or pattern; repeatable.")
    ] = None,
    mask: Annotated[
        str | None, typer.Option("--mask", help="Zero weights at the end: N:M such as 2:4, or block:8x4:0.5.")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Write the code anew, so that sizes written in it can change.")
    ] = False,
    metric: Annotated[
        str | None, typer.Option("--metric", help="module:function that takes the nn.Module and gives a number.")
    ] = None,
    finetune: Annotated[
        str | None, typer.Option("--finetune", help="module:function that trains the pruned nn.Module.")
    ] = None,
    latency: Annotated[bool, typer.Option(help="Time every stage by onnxruntime on this machine.")] = True,
    plot: Annotated[bool, typer.Option("--plot", help="Draw channels.png, too.")] = False,
    factory: Factory = None,
    model_arg: FactoryArgs = None,
    input_: Inputs = None,
    data: Data = None,
    overwrite: Overwrite = False,
    run_pickled_code: RunPickled = False,
    format_: OutputFormat = Format.text,
) -> None:
    """Remove channels and shortcut blocks by batch norm gamma; write the smaller model as code with its weights."""
    import porter
    from porter.files import check_output

    check_output(output, overwrite, files(model, data))
    with progress() as say:
        made = porter.prune(
            model, target, input_, percent=percent, layer_keep=layer_keep, scheme=scheme.value, shortcuts=shortcuts,
            multiple=multiple, skip=skip or (), mask=mask, rebuild=rebuild, metric=metric, finetune=finetune, data=data,
            latency=latency, progress=say, **loading(factory, model_arg, run_pickled_code),
        )  # fmt: skip
    made.save(output, overwrite=overwrite, plot=plot)
    if format_ is Format.json:
        from porter.report.json import to_json

        print(to_json(made))
    else:
        from porter.report.pruning import print_pruned

        out = console()
        print_pruned(out, made)
        out.print(f"wrote {output}")
    raise typer.Exit(0 if made.ok else 1)
