# SPDX-License-Identifier: Apache-2.0
"""The command line: arguments in, text out, an exit code. Every command calls one function of the API.

Exit codes: 0 the answer is yes, 1 findings are left, 2 the command or a file is wrong.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from porter.errors import PorterError

if TYPE_CHECKING:
    from rich.console import Console

    from porter.api import Rewritten
    from porter.findings import Report
    from porter.quantize.engine import Quantized

app = typer.Typer(
    name="porter",
    help="Port trained models to accelerators with few operators.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Format(StrEnum):
    """How a report is printed."""

    text = "text"
    json = "json"


class Dtype(StrEnum):
    """Quantized dtypes."""

    int16 = "int16"
    int8 = "int8"


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
Factory = Annotated[
    str | None,
    typer.Option("--model", "-m", help="package.module:function or file.py:function that returns the nn.Module."),
]
FactoryArgs = Annotated[list[str] | None, typer.Option("--model-arg", help="key=value for that function; repeatable.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", help="name:1x3x640x640[:dtype], the shape of an input; repeatable."),
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
Preprocess = Annotated[
    Path | None, typer.Option("--preprocess", help="A .toml: how an image becomes an input (resize, mean, ...).")
]
OutputFormat = Annotated[Format, typer.Option("--format", "-f", help="How to print the report.")]


def _loading(factory: str | None, args: list[str] | None, run_pickled_code: bool) -> dict[str, Any]:
    from porter.loading import parse_model_arg

    return {
        "factory": factory,
        "factory_args": dict(parse_model_arg(text) for text in args or ()),
        "run_pickled_code": run_pickled_code,
    }


def _files(*named: str | None) -> list[str]:
    """What a command reads: an output must not replace it."""
    return [name for name in named if name is not None]


def _need_data(dtype: list[Dtype] | None, calibration: str | None) -> None:
    if dtype and calibration is None:
        raise PorterError("PT519", "quantized weights need data", "--dtype", "Add --calibration DATA.")


def _console(stderr: bool = False) -> Console:
    from porter.report.text import console

    return console(stderr)


@contextmanager
def _progress(wanted: bool = True) -> Iterator[Callable[[str], None]]:
    """A spinner with the current step on a terminal; nothing elsewhere."""
    err = _console(stderr=True)
    if not wanted or not err.is_terminal:
        yield lambda _text: None
        return
    with err.status("loading") as status:
        yield status.update


@app.command()
def check(
    target: TargetName,
    model: Model = None,
    factory: Factory = None,
    model_arg: FactoryArgs = None,
    input_: Inputs = None,
    allow: Allow = None,
    run_pickled_code: RunPickled = False,
    format_: OutputFormat = Format.text,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Name every place, not the first few.")] = False,
) -> None:
    """Say what the device does not run, why, on which line of your code, and what fixes it."""
    from porter import api
    from porter.target import Target

    chosen = Target.load(target)
    with _progress():
        report = api.check(model, chosen, input_, allow=allow or (), **_loading(factory, model_arg, run_pickled_code))
    _print(report, chosen.title, format_, verbose)
    raise typer.Exit(0 if report.ok else 1)


def _print(report: Report, title: str, format_: Format, verbose: bool = False) -> None:
    if format_ is Format.json:
        from porter.report.json import to_json

        print(to_json(report))
    else:
        from porter.report.text import print_report

        print_report(_console(), report, title, verbose)


@app.command()
def rewrite(
    target: TargetName,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A file (.onnx, .pt2, .pt) or a folder.", show_default=False),
    ] = None,
    model: Model = None,
    factory: Factory = None,
    model_arg: FactoryArgs = None,
    input_: Inputs = None,
    allow: Allow = None,
    apply: Apply = None,
    data: Data = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Prove the result equal.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do and prove everything, write nothing.")] = False,
    overwrite: Overwrite = False,
    run_pickled_code: RunPickled = False,
    format_: OutputFormat = Format.text,
) -> None:
    """Make the model legal for the device, prove it equal, and write it with a ledger of what was done."""
    from porter import api
    from porter.files import check_output
    from porter.target import Target

    if output is None and not dry_run:
        raise PorterError("PT519", "there is nowhere to write", "--output", "Name one with -o, or say --dry-run.")
    if output is not None and not dry_run:
        check_output(output, overwrite, _files(model, data))
    chosen = Target.load(target)
    with _progress() as say:
        made = api.rewrite(
            model, chosen, input_, allow=allow or (), apply=apply or (), verify=verify, data=data, progress=say,
            **_loading(factory, model_arg, run_pickled_code),
        )  # fmt: skip
        unequal = made.evidence is not None and not made.evidence.ok
        written = None
        if output is not None and not dry_run and not unequal:
            say(f"writing {output}")
            written = api.save(made, output, overwrite=overwrite)
    if format_ is Format.json:
        from porter.report.json import to_json

        print(to_json(_RewriteSummary(made, written)))
    else:
        _print_rewritten(made, chosen.title)
        _console().print(f"wrote {written}" if written else "nothing was written")
    raise typer.Exit(0 if made.ok else 1)


class _RewriteSummary:
    """The JSON that ``porter rewrite --format json`` prints."""

    def __init__(self, made: Rewritten, written: Path | None) -> None:
        self._made, self._written = made, written

    def to_json(self) -> dict[str, Any]:
        made = self._made
        return {
            **made.report.to_json(),
            "before": dict(made.before.summary),
            "ledger": made.ledger.to_json(),
            "evidence": made.evidence.to_json() if made.evidence else None,
            "output": str(self._written) if self._written else None,
        }


def _print_rewritten(made: Rewritten, title: str) -> None:
    from porter.report.text import print_evidence, print_ledger, print_report

    out = _console()
    print_ledger(out, made.ledger)
    out.print()
    if made.evidence is not None:
        print_evidence(out, made.evidence)
        if not made.evidence.ok:
            out.print("PT330: the rewritten model does not compute the same; `porter explain PT330`")
    else:
        out.print("not verified (--no-verify)")
    out.print()
    print_report(out, made.report, title)


@app.command()
def quantize(
    target: TargetName,
    calibration: Calibration,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.", show_default=False)],
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Width of weights and activations.")] = Dtype.int16,
    model: Model = None,
    factory: Factory = None,
    model_arg: FactoryArgs = None,
    input_: Inputs = None,
    preprocess: Preprocess = None,
    observer: Annotated[str, typer.Option("--observer", help="How ranges are found.")] = "min_max",
    per_channel: Annotated[bool, typer.Option("--per-channel", help="One weight scale per output channel.")] = False,
    first_conv: Annotated[
        bool, typer.Option("--first-conv", help="Let the first convolution take raw pixels and normalize them.")
    ] = False,
    skip: Annotated[
        list[str] | None, typer.Option("--skip", help="Keep layers in float: a module path or pattern; repeatable.")
    ] = None,
    force: Force = False,
    overwrite: Overwrite = False,
    run_pickled_code: RunPickled = False,
) -> None:
    """Find scales with the device's own numerics; write encodings, device weights, QDQ ONNX and a report per layer."""
    from porter import api
    from porter.files import check_output
    from porter.report.quantization import print_quantized

    check_output(output, overwrite, _files(model, calibration))
    with _counter("calibrating") as count:
        made = api.quantize(
            model, target, calibration, input_, dtype=dtype.value, preprocess=preprocess, force=force,
            progress=count, observer=observer, per_channel=per_channel, first_conv=first_conv, skip=skip or (),
            loading=_loading(factory, model_arg, run_pickled_code),
        )  # fmt: skip
    made.save(output, overwrite=overwrite)
    out = _console()
    print_quantized(out, made)
    out.print(f"wrote {output}")
    raise typer.Exit(0 if made.ok else 1)


@contextmanager
def _counter(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of done and total on a terminal; nothing elsewhere."""
    err = _console(stderr=True)
    if not err.is_terminal:
        yield lambda _done, _total: None
        return
    from rich.progress import Progress

    with Progress(console=err, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@app.command()
def emit(
    target: TargetName,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.", show_default=False)],
    model: Model = None,
    factory: Factory = None,
    model_arg: FactoryArgs = None,
    input_: Inputs = None,
    calibration: OptionalCalibration = None,
    dtype: Annotated[list[Dtype] | None, typer.Option("--dtype", help="Quantized weights to add; repeatable.")] = None,
    preprocess: Preprocess = None,
    data: Data = None,
    force: Force = False,
    overwrite: Overwrite = False,
    run_pickled_code: RunPickled = False,
) -> None:
    """Write the bundle for the device: code, weights, golden outputs, the script that finishes the job there."""
    from porter import api
    from porter.files import check_output
    from porter.loading import load
    from porter.report.text import print_bundle
    from porter.target import Target

    check_output(output, overwrite, _files(model, calibration, data))
    _need_data(dtype, calibration)
    chosen = Target.load(target)
    with _progress() as say:
        graph = load(model, input_, **_loading(factory, model_arg, run_pickled_code))
        quantized: list[Quantized] = []
        if calibration is not None:
            for width in dtype or [Dtype.int16]:
                say(f"quantizing to {width.value}")
                quantized.append(
                    api.quantize(graph, chosen, calibration, dtype=width.value, preprocess=preprocess, force=force)
                )
        say("writing the bundle")
        bundle = api.emit(graph, chosen, output, quantized=quantized, data=data, overwrite=overwrite, force=force)
    print_bundle(_console(), bundle)


@app.command()
def port(
    target: TargetName,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.", show_default=False)],
    model: Model = None,
    factory: Factory = None,
    model_arg: FactoryArgs = None,
    input_: Inputs = None,
    calibration: OptionalCalibration = None,
    dtype: Annotated[list[Dtype] | None, typer.Option("--dtype", help="Default int16; repeatable.")] = None,
    preprocess: Preprocess = None,
    allow: Allow = None,
    apply: Apply = None,
    overwrite: Overwrite = False,
    run_pickled_code: RunPickled = False,
) -> None:
    """Check, rewrite, prove, quantize and emit in one go."""
    from porter import api
    from porter.files import check_output
    from porter.report.quantization import print_quantized
    from porter.report.text import print_bundle
    from porter.target import Target

    check_output(output, overwrite, _files(model, calibration))
    _need_data(dtype, calibration)
    chosen = Target.load(target)
    with _progress() as say:
        ported = api.port(
            model, chosen, calibration, output, input_, dtypes=[d.value for d in dtype or [Dtype.int16]],
            preprocess=preprocess, allow=allow or (), apply=apply or (), overwrite=overwrite, progress=say,
            **_loading(factory, model_arg, run_pickled_code),
        )  # fmt: skip
    out = _console()
    _print_rewritten(ported.rewritten, chosen.title)
    for made in ported.quantized:
        out.print()
        print_quantized(out, made)
    out.print()
    if ported.bundle is None:
        out.print("nothing was written")
    else:
        print_bundle(out, ported.bundle)
    raise typer.Exit(0 if ported.ok else 1)


@app.command()
def resave(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint of any age.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)],
    for_torch: Annotated[str, typer.Option("--for-torch", help="The version that must read it.", show_default=False)],
    format_: Annotated[Container, typer.Option("--format", help="Container to write.")] = Container.legacy,
    overwrite: Overwrite = False,
) -> None:
    """Write a checkpoint's tensors so that an old torch reads them. Nothing that the file pickles is run."""
    from porter import api

    report = api.resave(checkpoint, output, for_torch, format_.value, overwrite=overwrite)
    _console().print(str(report), markup=False)


@app.command()
def targets(name: Annotated[str | None, typer.Argument(help="Show one in full.")] = None) -> None:
    """List the devices, or show one: what it runs, its limits, and where each fact is from."""
    from porter.report.lists import print_target, print_targets
    from porter.target import Target

    if name is None:
        print_targets(_console(), [Target.load(known) for known in Target.names()])
    else:
        print_target(_console(), Target.load(name))


@app.command()
def rewrites(name: Annotated[str | None, typer.Argument(help="Show one in full.")] = None) -> None:
    """List the rewrites, or show the manual page of one."""
    from porter.registry import find_rule, rules
    from porter.report.lists import print_rule, print_rules

    if name is None:
        print_rules(_console(), list(rules().values()))
    else:
        print_rule(_console(), find_rule(name))


@app.command()
def explain(code: Annotated[str | None, typer.Argument(help="Such as PT101.")] = None) -> None:
    """Print the page of a finding's or an error's code; without one, list them all."""
    from porter import errors

    if code is None:
        for known, title in errors.codes():
            print(known, title)
        return
    page = errors.explain(code)
    if sys.stdout.isatty():
        from rich.markdown import Markdown

        _console().print(Markdown(page))
    else:
        print(page, end="")


@app.command()
def version() -> None:
    """Print porter's version."""
    from importlib.metadata import version

    print(version("porter-ml"))


#: Packages that only some jobs need, and the extra of this distribution that brings each.
_EXTRAS = {"torch": "torch", "PIL": "images"}


class _Interrupted(BaseException):
    """Ctrl-C or SIGTERM. Not a KeyboardInterrupt: typer turns that one into an exit code of its own."""


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise _Interrupted


def main() -> None:
    """The ``porter`` command."""
    # A graph of 60,000 nodes is a million objects that live to the end; looking among them for garbage is a third of
    # the time.
    gc.set_threshold(5_000_000, 20, 20)
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        try:
            app()
        except ModuleNotFoundError as missing:
            if missing.name not in _EXTRAS:
                raise
            what = f"this needs {missing.name}, which is not installed"
            fix = f"Install it: pip install 'porter-ml[{_EXTRAS[missing.name]}]'"
            raise PorterError("PT521", what, fix=fix) from None
    except PorterError as error:
        print(error, file=sys.stderr)
        print(f"  more: porter explain {error.code}", file=sys.stderr)
        sys.exit(2)
    except _Interrupted:
        print("PT516: interrupted; nothing was written", file=sys.stderr)
        sys.exit(2)


def run() -> None:
    """The installed command: :func:`main`, ended without taking the graph apart.

    At exit Python frees one by one the objects that the operating system frees at a stroke; for a graph of 60,000 nodes
    that is a quarter of the run. Nothing waits for it: outputs are renamed into place, and no porter code uses atexit.
    """
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = 1
    os._exit(code if isinstance(code, int) else 1 if code else 0)


if __name__ == "__main__":
    run()
