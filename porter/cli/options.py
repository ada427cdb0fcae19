# SPDX-License-Identifier: Apache-2.0
"""The options that several commands share, and what they do with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from porter.errors import PorterError

if TYPE_CHECKING:
    from rich.console import Console


__all__ = [
    "Allow",
    "Apply",
    "Batch",
    "Calibration",
    "Container",
    "Cut",
    "Data",
    "Divide",
    "ExplainPlan",
    "Factory",
    "FactoryArgs",
    "Force",
    "Format",
    "Inputs",
    "Model",
    "OptionalCalibration",
    "OptionalTarget",
    "OutputFormat",
    "Overwrite",
    "Preprocess",
    "RunPickled",
    "TargetName",
    "Widths",
    "console",
    "counter",
    "files",
    "loading",
    "need_data",
    "progress",
]


class Format(StrEnum):
    """How a report is printed."""

    text = "text"
    json = "json"


class Container(StrEnum):
    """Checkpoint formats that `resave` writes."""

    legacy = "legacy"
    zip = "zip"
    safetensors = "safetensors"


Model = Annotated[
    str | None,
    typer.Argument(help="An .onnx, .pt2 or TorchScript file, or a checkpoint (with --model).", show_default=False),
]  # fmt: skip
TargetName = Annotated[
    str, typer.Option("--target", "-t", help="A device (`porter targets`) or the path of a .toml.", show_default=False)
]  # fmt: skip
OptionalTarget = Annotated[
    str | None,
    typer.Option("--target", "-t", help="A device (`porter targets`) or the path of a .toml.", show_default=False),
]
Factory = Annotated[
    str | None,
    typer.Option("--model", "-m", help="package.module:function or file.py:function that returns the nn.Module."),
]
FactoryArgs = Annotated[list[str] | None, typer.Option("--model-arg", help="key=value for that function; repeatable.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", help="name:1x3x640x640[:dtype], the shape of an input; repeatable."),
]
Batch = Annotated[
    int | None,
    typer.Option("--batch", help="Extent of the first axis where an ONNX input leaves it open.", show_default=False),
]
RunPickled = Annotated[
    bool, typer.Option("--run-pickled-code", help="Load a pickled module, which runs the code that the file names.")
]  # fmt: skip
Allow = Annotated[
    list[str] | None, typer.Option("--allow", help="Permit rewrites that are approximate or need retrain.")
]
Apply = Annotated[
    list[str] | None, typer.Option("--apply", help="Apply this optional rewrite too, e.g. fold_batch_norm.")
]
ExplainPlan = Annotated[
    bool, typer.Option("--explain-plan", help="For each illegal op: the candidates, their claims and costs, and why.")
]
Divide = Annotated[
    bool, typer.Option("--partition", help="Split off for the host what no rule makes legal (writes a folder).")
]
Cut = Annotated[
    list[str] | None,
    typer.Option(
        "--cut",
        help="End the device's part before the decoding: auto, none, or the names of values "
        "(repeatable); implies --partition.",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
Force = Annotated[bool, typer.Option("--force", help="Go on although the target does not run every op.")]
Data = Annotated[
    str | None, typer.Option("--data", help="Inputs to compare on: images folder, .npy, .npz, module:function.")
]
Calibration = Annotated[
    str, typer.Option("--calibration", "-c", help="Images folder, .npy, .npz or module:function.", show_default=False)
]  # fmt: skip
OptionalCalibration = Annotated[
    str | None, typer.Option("--calibration", "-c", help="Data to quantize with; float weights only without it.")
]
Widths = Annotated[
    list[str] | None,
    typer.Option(
        "--dtype",
        help="A width of the target to quantize to, such as int8; repeatable; default: int16, or its first.",
        show_default=False,
    ),
]
Preprocess = Annotated[
    Path | None, typer.Option("--preprocess", help="A .toml: how an image becomes an input (resize, mean, ...).")
]
OutputFormat = Annotated[Format, typer.Option("--format", "-f", help="How to print the report.")]


def loading(
    factory: str | None, args: list[str] | None, run_pickled_code: bool, batch: int | None = None
) -> dict[str, Any]:
    from porter.loading import parse_model_arg

    return {
        "factory": factory,
        "factory_args": dict(parse_model_arg(text) for text in args or ()),
        "run_pickled_code": run_pickled_code,
        **({} if batch is None else {"batch": batch}),
    }


def files(*named: str | None) -> list[str]:
    """What a command reads: an output must not replace it."""
    return [name for name in named if name is not None]


def need_data(dtype: list[str] | None, calibration: str | None) -> None:
    if dtype and calibration is None:
        raise PorterError("PT519", "quantized weights need data", "--dtype", "Add --calibration DATA.")


def console(stderr: bool = False) -> Console:
    from porter.report.text import console

    return console(stderr)


@contextmanager
def progress(wanted: bool = True) -> Iterator[Callable[[str], None]]:
    """A spinner with the current step on a terminal; nothing elsewhere."""
    err = console(stderr=True)
    if not wanted or not err.is_terminal:
        yield lambda _text: None
        return
    with err.status("loading") as status:
        yield status.update


@contextmanager
def counter(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of done and total on a terminal; nothing elsewhere."""
    err = console(stderr=True)
    if not err.is_terminal:
        yield lambda _done, _total: None
        return
    from rich.progress import Progress

    with Progress(console=err, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
