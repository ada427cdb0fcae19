# SPDX-License-Identifier: Apache-2.0
"""``porter rewrite``, ``emit``, ``port`` and ``resave``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from porter.api import SAMPLES
from porter.cli.app import app
from porter.cli.options import (
    Allow,
    Apply,
    Batch,
    Container,
    Cut,
    Data,
    Divide,
    ExplainPlan,
    Factory,
    FactoryArgs,
    Force,
    Format,
    Inputs,
    Model,
    OptionalCalibration,
    OptionalTarget,
    OutputFormat,
    Overwrite,
    Preprocess,
    RunPickled,
    TargetName,
    Widths,
    console,
    files,
    loading,
    need_data,
    progress,
)
from porter.errors import PorterError

if TYPE_CHECKING:
    from porter.api import Rewritten
    from porter.partition import Partitioned
    from porter.quantize.engine import Quantized
    from porter.target import Target


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
    batch: Batch = None,
    allow: Allow = None,
    apply: Apply = None,
    data: Data = None,
    samples: Annotated[
        int, typer.Option("--samples", min=0, help="How many random inputs to compare on, beside --data.")
    ] = SAMPLES,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Prove the result equal.")] = True,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0.0, help="Largest difference allowed, as a share of an output's range.")
    ] = 1e-4,
    partition: Divide = False,
    cut: Cut = None,
    explain_plan: ExplainPlan = False,
    opset: Annotated[
        int | None, typer.Option("--opset", help="ONNX opset of the result; default: one that the device takes.")
    ] = None,
    open_batch: Annotated[
        bool, typer.Option("--open-batch", help="Leave the first axis of an ONNX model's inputs open.")
    ] = False,
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
        check_output(output, overwrite, files(model, data), folder=True if partition or cut else None)
    chosen = Target.load(target)
    options: dict[str, Any] = {
        "allow": allow or (), "apply": apply or (), "verify": verify, "data": data, "samples": samples,
        "tolerance": tolerance, "explain": explain_plan,
        **loading(factory, model_arg, run_pickled_code, batch),
    }  # fmt: skip
    if (partition or cut) and open_batch:
        raise PorterError("PT519", "segments have fixed shapes", "--open-batch", "Give --batch N, or no --partition.")
    if partition or cut:
        if opset is not None:
            raise PorterError(
                "PT519", "a divided model has no opset of its own", "--opset",
                "Leave it away: each segment of the device has one that the device takes.",
            )  # fmt: skip
        _partition(model, chosen, input_, cut or ["auto"], output if not dry_run else None, overwrite, format_, options)
    with progress() as say:
        made = api.rewrite(model, chosen, input_, opset=opset, open_batch=open_batch, progress=say, **options)
        unequal = made.evidence is not None and not made.evidence.ok
        written = None
        if output is not None and not dry_run and not unequal:
            say(f"writing {output}")
            written = api.save(made, output, overwrite=overwrite)
    if format_ is Format.json:
        from porter.report.json import to_json

        print(to_json(_RewriteSummary(made, written)))
    else:
        print_rewritten(made, chosen.title)
        if explain_plan:
            _print_plan(made)
        console().print(f"wrote {written}" if written else "nothing was written")
    raise typer.Exit(0 if made.ok else 1)


def _partition(
    model: str | None,
    target: Target,
    inputs: list[str] | None,
    cut: list[str],
    output: Path | None,
    overwrite: bool,
    format_: Format,
    options: dict[str, Any],
) -> NoReturn:
    from porter.partition import partition

    with progress() as say:
        made = partition(model, target, inputs, cut=cut, progress=say, **options)
        written = None
        if output is not None and made.ok:
            say(f"writing {output}")
            written = made.save(output, overwrite=overwrite)
    if format_ is Format.json:
        from porter.report.json import to_json

        print(to_json(_PartitionSummary(made, written)))
    else:
        from porter.report.partition import print_partitioned

        # Its own proof ran on one input, for the ledger; what is written is proved as segments.
        print_rewritten(made.rewritten, target.title, proof=False)
        if options["explain"]:
            _print_plan(made.rewritten)
        console().print()
        print_partitioned(console(), made)
        console().print(f"wrote {written}" if written else "nothing was written")
    raise typer.Exit(0 if made.ok else 1)


def _print_plan(made: Rewritten) -> None:
    from porter.report.plans import print_plans

    print_plans(console(), made.before)
    console().print()


class _PartitionSummary:
    """The JSON that ``porter rewrite --partition --format json`` prints."""

    def __init__(self, made: Partitioned, written: Path | None) -> None:
        self._made, self._written = made, written

    def to_json(self) -> dict[str, Any]:
        return {
            **self._made.to_json(),
            **_plans(self._made.rewritten),
            "output": str(self._written) if self._written else None,
        }


def _plans(made: Rewritten) -> dict[str, Any]:
    planned = [op.to_json() for op in made.before.ops if op.candidates]
    return {"plan": planned} if planned else {}


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
            **_plans(made),
            "output": str(self._written) if self._written else None,
        }


def print_rewritten(made: Rewritten, title: str, proof: bool = True) -> None:
    from porter.report.text import print_evidence, print_ledger, print_report

    out = console()
    print_ledger(out, made.ledger)
    out.print()
    if proof:
        if made.evidence is not None:
            print_evidence(out, made.evidence)
            if not made.evidence.ok:
                out.print("PT330: the rewritten model does not compute the same; `porter explain PT330`")
        else:
            out.print("not verified (--no-verify)")
        out.print()
    print_report(out, made.report, title)


@app.command()
def emit(
    target: OptionalTarget = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder to make.", show_default=False)
    ] = None,
    model: Model = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="A configuration of `porter train`: its deploy model, from the integers of "
            "int_infer; --output is then that of its compile_cfg.",
        ),
    ] = None,
    opset: Annotated[int | None, typer.Option("--opset", help="With --config: of the ONNX.")] = None,
    factory: Factory = None,
    model_arg: FactoryArgs = None,
    input_: Inputs = None,
    calibration: OptionalCalibration = None,
    dtype: Widths = None,
    preprocess: Preprocess = None,
    data: Data = None,
    build: Annotated[bool, typer.Option("--build", help="Run the vendor's compiler too, if it is installed.")] = False,
    force: Force = False,
    overwrite: Overwrite = False,
    run_pickled_code: RunPickled = False,
) -> None:
    """Write the bundle for the device: code, weights, golden outputs, the script that finishes the job there."""
    if config is not None:
        others = {"a model": model, "--target": target, "--model": factory, "--calibration": calibration,
                  "--dtype": dtype, "--preprocess": preprocess, "--data": data, "--build": build}  # fmt: skip
        _emit_config(config, output, opset, overwrite, [name for name, value in others.items() if value])
        return
    if target is None or output is None or opset is not None:
        missing = "--target" if target is None else "--output" if output is None else None
        what = f"{missing} is missing" if missing else "--opset is for --config"
        raise PorterError("PT519", what, "porter emit", "Give --target and --output, or --config.")
    from porter import api
    from porter.files import check_output
    from porter.loading import load
    from porter.report.text import print_bundle
    from porter.target import Target

    check_output(output, overwrite, files(model, calibration, data))
    need_data(dtype, calibration)
    chosen = Target.load(target)
    with progress() as say:
        graph = load(model, input_, **loading(factory, model_arg, run_pickled_code))
        quantized: list[Quantized] = []
        if calibration is not None:
            widths: Sequence[str | None] = dtype or [None]
            for width in widths:
                say(f"quantizing to {width}" if width else "quantizing")
                quantized.append(
                    api.quantize(graph, chosen, calibration, dtype=width, preprocess=preprocess, force=force)
                )
        say("writing the bundle, and compiling it" if build else "writing the bundle")
        bundle = api.emit(
            graph, chosen, output, quantized=quantized, data=data, build=build, overwrite=overwrite, force=force
        )
    print_bundle(console(), bundle)


def _emit_config(config: Path, output: Path | None, opset: int | None, overwrite: bool, others: list[str]) -> None:
    if others:
        raise PorterError("PT519", f"{others[0]} has no meaning with --config", "--config",
                          "The configuration says which model, target and data.")  # fmt: skip
    from porter.train.stages import emit

    with progress() as say:
        say("writing the deploy model")
        folder = emit(config, output, opset=opset, overwrite=overwrite)
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("."):
            print(path)


@app.command()
def port(
    target: TargetName,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.", show_default=False)],
    model: Model = None,
    factory: Factory = None,
    model_arg: FactoryArgs = None,
    input_: Inputs = None,
    batch: Batch = None,
    calibration: OptionalCalibration = None,
    dtype: Widths = None,
    preprocess: Preprocess = None,
    allow: Allow = None,
    apply: Apply = None,
    partition: Divide = False,
    cut: Cut = None,
    overwrite: Overwrite = False,
    run_pickled_code: RunPickled = False,
) -> None:
    """Check, rewrite, prove, quantize and emit in one go."""
    from porter import api
    from porter.files import check_output
    from porter.report.quantization import print_quantized
    from porter.report.text import print_bundle
    from porter.target import Target

    check_output(output, overwrite, files(model, calibration))
    need_data(dtype, calibration)
    chosen = Target.load(target)
    options: dict[str, Any] = {
        "dtypes": dtype or (), "preprocess": preprocess, "allow": allow or (), "apply": apply or (),
        "overwrite": overwrite, **loading(factory, model_arg, run_pickled_code, batch),
    }  # fmt: skip
    if partition or cut:
        _port_parts(model, chosen, calibration, output, input_, cut or ["auto"], options)
    with progress() as say:
        ported = api.port(model, chosen, calibration, output, input_, progress=say, **options)
    out = console()
    print_rewritten(ported.rewritten, chosen.title)
    for made in ported.quantized:
        out.print()
        print_quantized(out, made)
    out.print()
    if ported.bundle is None:
        out.print("nothing was written")
    else:
        print_bundle(out, ported.bundle)
    raise typer.Exit(0 if ported.ok else 1)


def _port_parts(
    model: str | None,
    target: Target,
    calibration: str | None,
    output: Path,
    inputs: list[str] | None,
    cut: list[str],
    options: dict[str, Any],
) -> NoReturn:
    from porter.partition import port_parts
    from porter.report.partition import print_ported_parts

    with progress() as say:
        made = port_parts(model, target, calibration, output, inputs, cut=cut, progress=say, **options)
    print_rewritten(made.partitioned.rewritten, target.title, proof=False)
    console().print()
    print_ported_parts(console(), made)
    console().print(f"wrote {output}" if made.bundles else "nothing was written")
    raise typer.Exit(0 if made.ok else 1)


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
    console().print(str(report), markup=False)
