# SPDX-License-Identifier: Apache-2.0
"""``porter scale`` and ``porter latency``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from porter.cli.app import app
from porter.cli.options import (
    FactoryArgs,
    Format,
    Inputs,
    OutputFormat,
    Overwrite,
    TargetName,
    console,
    files,
    progress,
)


class LatencyFrom(StrEnum):
    """Where the latency of the requirement comes from."""

    auto = "auto"
    estimate = "estimate"
    measured = "measured"


@app.command()
def scale(
    config: Annotated[Path, typer.Argument(help="An XGen JSON: requirements, range, training.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.", show_default=False)],
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="A device's name, or a .toml; or the configuration's.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="module:function(width, depth, ...), the factory.")
    ] = None,
    model_arg: FactoryArgs = None,
    train: Annotated[
        str | None, typer.Option("--train", help="module:function(model, args) that trains and returns the accuracy.")
    ] = None,
    input_: Inputs = None,
    latency: Annotated[float | None, typer.Option("--latency", help="At most so many ms.")] = None,
    model_size: Annotated[float | None, typer.Option("--model-size", help="Weights: at most so many MB.")] = None,
    memory_size: Annotated[
        float | None, typer.Option("--memory-size", help="Weights and activations: at most so many MB.")
    ] = None,
    accuracy: Annotated[float | None, typer.Option("--accuracy", help="At least so much.")] = None,
    margin: Annotated[float | None, typer.Option("--margin", help="Share of the limit that may be missed.")] = None,
    max_sampling: Annotated[int | None, typer.Option("--max-sampling", help="Trials in all. Default 10.")] = None,
    low: Annotated[float | None, typer.Option("--low", help="Smallest scaling factor. Default 0.2.")] = None,
    high: Annotated[float | None, typer.Option("--high", help="Largest scaling factor. Default 1.")] = None,
    step: Annotated[float | None, typer.Option("--step", help="Granularity. Default 0.05.")] = None,
    width_offset: Annotated[
        float | None, typer.Option("--width-offset", help="Added to the scaled width, except at factor 1.")
    ] = None,
    time_limit: Annotated[float | None, typer.Option("--time-limit", help="Seconds for one training.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="Of weights on the device, e.g. int16.")] = None,
    latency_from: Annotated[
        LatencyFrom, typer.Option("--latency-from", help="auto: measured where the target's runtime is here.")
    ] = LatencyFrom.auto,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Time candidates by onnxruntime beside the estimate.")
    ] = True,
    study: Annotated[
        Path | None, typer.Option("--study", help="Keeps the search, to go on with. Default: OUTPUT.study.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", help="Processes that search at once.")] = 1,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the sampler and the weights.")] = None,
    overwrite: Overwrite = False,
    format_: OutputFormat = Format.text,
) -> None:
    """Search width and depth for a latency, size, memory or accuracy; write the model that meets it."""
    from porter.compress.scale import Options, scale
    from porter.files import check_output
    from porter.loading import parse_model_arg

    check_output(output, overwrite, files(str(config)), folder=True)
    options = Options(
        model=model, model_args=dict(parse_model_arg(text) for text in model_arg or ()), train=train, inputs=input_,
        latency=latency, model_size=model_size, memory_size=memory_size, accuracy=accuracy, margin=margin,
        trials=max_sampling, low=low, high=high, step=step, width_offset=width_offset, time_limit=time_limit,
        dtype=dtype, latency_from=latency_from.value, measure=measure, seed=seed,
    )  # fmt: skip
    kept = study or output.with_name(f"{output.name}.study")
    with progress() as say:
        made = scale(config, target, options, study=kept, workers=workers, progress=say)
        if made.ok:
            say(f"writing {output}")
            made.save(output, overwrite=overwrite)
    if format_ is Format.json:
        from porter.report.json import to_json

        print(to_json(made))
    else:
        from porter.report.scaling import print_scaled

        out = console()
        print_scaled(out, made)
        out.print(f"\n{f'wrote {output}' if made.ok else 'nothing was written'}; the search is in {kept}")
    raise typer.Exit(0 if made.ok else 1)


@app.command()
def latency(
    target: TargetName,
    models: Annotated[list[str], typer.Argument(help="Models of any kind that needs no factory.", show_default=False)],
    input_: Inputs = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Of weights on the device.")] = "int16",
    threads: Annotated[int, typer.Option("--threads", help="Of onnxruntime.")] = 1,
    format_: OutputFormat = Format.text,
) -> None:
    """Estimate models on a device, measure them here, and say how alike the two order them."""
    from porter.latency import Rates, compare, host_rates
    from porter.loading import load
    from porter.target import Target

    chosen = Target.load(target)
    with progress() as say:
        rates = host_rates(threads) if chosen.runtime.framework == "onnxruntime" else Rates.of_target(chosen, dtype)
        say("loading")
        graphs = {path: load(path, input_) for path in models}
        say("measuring")
        compared = compare(graphs, rates, threads)
    if format_ is Format.json:
        from porter.report.json import to_json

        print(to_json(compared))
    else:
        from porter.report.scaling import print_compared

        print_compared(console(), compared)
