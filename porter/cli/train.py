# SPDX-License-Identifier: Apache-2.0
"""``porter train``, ``predict``, ``validate``, ``infer`` and ``profile``: all read one configuration file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from porter.cli.app import Interrupted, app
from porter.cli.options import Format, OutputFormat, Overwrite, console

if TYPE_CHECKING:
    from porter.train.events import Epoch, Events


class StageName(StrEnum):
    """The stages, in the order in which they run."""

    float = "float"
    calibration = "calibration"
    qat = "qat"
    int_infer = "int_infer"


ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", help="The Python file that configures the model.", show_default=False)
]  # fmt: skip


@contextmanager
def _events(format_: Format, after_epoch: Callable[[Epoch, int], None] | None = None) -> Iterator[Events]:
    """A bar of the steps on a terminal; notes and epochs as lines, unless JSON is printed."""
    from porter.train.events import Events

    err = console(stderr=True)

    def note(text: str) -> None:
        if format_ is not Format.json:
            console().print(text, markup=False)

    told: dict[str, Any] = {"note": note}
    if after_epoch is not None and format_ is not Format.json:
        told["epoch"] = after_epoch
    if not err.is_terminal or not _first():
        yield Events(**told)
        return
    from rich.progress import Progress

    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("loading", total=None)
        step = lambda what, done, total: bar.update(task, description=what, completed=done, total=total)  # noqa: E731
        yield Events(step=step, **told)


@contextmanager
def _kept(config: Path, stage: str, last: Path) -> Iterator[None]:
    """After an interrupt, say what the next run will go on from."""
    try:
        yield
    except Interrupted as stop:
        if last.is_file():
            stop.kept = (
                f"the epochs that were done are kept in {last.parent}; "
                f"`porter train --stage {stage} --config {config}` goes on from there"
            )
        raise


def _first() -> bool:
    """Whether this is the process that prints, of those that torchrun starts."""
    return os.environ.get("RANK", "0") == "0"


def _print(made: Any, format_: Format, show: Callable[[Any, Any], None]) -> None:
    if not _first():
        return
    if format_ is Format.json:
        from porter.report.json import to_json

        print(to_json(made))
    else:
        show(console(), made)


@app.command()
def train(
    config: ConfigFile,
    stage: Annotated[StageName, typer.Option("--stage", help="The stage to run.", show_default=False)],
    restart: Annotated[bool, typer.Option("--restart", help="Train anew; else an earlier run is taken up.")] = False,
    format_: OutputFormat = Format.text,
) -> None:
    """Run one stage of a model: float, calibration, qat, or int_infer, which also writes what goes to the device."""
    from porter.report.training import print_epoch, print_stage
    from porter.train.checkpoint import last_path
    from porter.train.config import load_config
    from porter.train.stages import train

    chosen = load_config(config)

    def after_epoch(epoch: Epoch, of: int) -> None:
        print_epoch(console(), epoch, of, chosen.monitor)
        # Whoever follows the log of a long training sees each epoch as it ends.
        sys.stdout.flush()

    with _kept(config, stage.value, last_path(chosen, stage.value)), _events(format_, after_epoch) as events:
        made = train(chosen, stage.value, restart=restart, events=events)
    _print(made, format_, print_stage)
    raise typer.Exit(0 if made.ok else 1)


@app.command()
def predict(
    config: ConfigFile,
    stage: Annotated[
        list[StageName], typer.Option("--stage", help="Whose best checkpoint; repeatable.", show_default=False)
    ],
    format_: OutputFormat = Format.text,
) -> None:
    """Compute the metric of stages over the validation data: float and fake-quantized by torch, integers simulated."""
    from porter.report.training import print_predictions
    from porter.train.predict import predict

    with _events(format_) as events:
        made = predict(config, [one.value for one in stage], events=events)
    _print(made, format_, print_predictions)


@app.command()
def validate(config: ConfigFile, format_: OutputFormat = Format.text) -> None:
    """Run what int_infer emitted, in integers, over the validation data; compare with the network, bit for bit."""
    from porter.report.training import print_validated
    from porter.train.predict import validate

    with _events(format_) as events:
        made = validate(config, events=events)
    _print(made, format_, print_validated)
    raise typer.Exit(0 if made.ok else 1)


@app.command()
def infer(
    config: ConfigFile,
    image: Annotated[Path, typer.Argument(help="An image file.", show_default=False)],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The picture to write (.png, .jpg).")] = None,
    stage: Annotated[StageName, typer.Option("--stage", help="Whose network.")] = StageName.int_infer,
    min_score: Annotated[float, typer.Option("--min-score", help="Leave out what is less certain.")] = 0.3,
    overwrite: Overwrite = False,
    format_: OutputFormat = Format.text,
) -> None:
    """Detect the objects in one image, and draw them."""
    from porter.files import check_output
    from porter.report.training import print_inferred
    from porter.train.infer import infer

    if output is not None:
        check_output(output, overwrite, [image], folder=False)
    made = infer(config, image, output, stage=stage.value, min_score=min_score, overwrite=overwrite)
    _print(made, format_, print_inferred)


@app.command()
def profile(
    config: ConfigFile,
    dtype: Annotated[str, typer.Option("--dtype", help="Of weights on the device.")] = "int8",
    every: Annotated[bool, typer.Option("--all", help="Every layer, not only the dearest.")] = False,
    format_: OutputFormat = Format.text,
) -> None:
    """Parameters, MACs, memory and a roofline latency of the deploy model, by layer; beside published figures."""
    from porter.report.training import print_profile
    from porter.train.profile import profile

    _print(profile(config, dtype=dtype), format_, lambda out, made: print_profile(out, made, every=every))
