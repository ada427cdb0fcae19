# SPDX-License-Identifier: Apache-2.0
"""``porter check``: the report in every format, and the gate of a CI job."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from porter.cli.app import app
from porter.cli.options import (
    Allow,
    Batch,
    ExplainPlan,
    Factory,
    FactoryArgs,
    Inputs,
    Overwrite,
    RunPickled,
    TargetName,
    console,
    files,
    loading,
    progress,
)
from porter.errors import PorterError

if TYPE_CHECKING:
    from porter.baseline import Baseline


class ReportFormat(StrEnum):
    """How `check` prints: the keys of porter.report.formats.FORMATS (too heavy to import for help)."""

    text = "text"
    json = "json"
    sarif = "sarif"
    github = "github"
    junit = "junit"
    markdown = "markdown"
    html = "html"


Models = Annotated[
    list[str] | None,
    typer.Argument(help="An .onnx, .pt2 or TorchScript file, or a checkpoint (with --model); several, one after the "
                        "other.", show_default=False),
]  # fmt: skip
Outputs = Annotated[
    list[Path] | None,
    typer.Option("--output", "-o", help="Write a report too; the suffix says the format: .sarif, .html, .md, .xml, "
                                        ".json, .github, .txt; repeatable."),
]  # fmt: skip


@app.command()
def check(
    target: TargetName,
    models: Models = None,
    factory: Factory = None,
    model_arg: FactoryArgs = None,
    input_: Inputs = None,
    batch: Batch = None,
    allow: Allow = None,
    run_pickled_code: RunPickled = False,
    format_: Annotated[ReportFormat, typer.Option("--format", "-f", help="How to print the report.")] = (
        ReportFormat.text
    ),
    output: Outputs = None,
    portable: Annotated[
        bool, typer.Option("--portable", help="Succeed when `porter rewrite` makes the model legal.")
    ] = False,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="Succeed when this file knows all that is found.")
    ] = None,
    write_baseline: Annotated[
        Path | None, typer.Option("--write-baseline", help="Write what is found as a baseline, and succeed.")
    ] = None,
    explain_plan: ExplainPlan = False,
    overwrite: Overwrite = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Name every place, not the first few.")] = False,
) -> None:
    """Say what the device does not run, why, on which line of your code, and what fixes it."""
    from porter import api
    from porter.baseline import judge, read_baseline
    from porter.baseline import write_baseline as write_known
    from porter.files import atomic_file, check_output
    from porter.report.formats import FORMATS, Context, format_of, render
    from porter.target import Target

    named: list[str | None] = [*models] if models else [None]
    if len(named) > 1:
        _need_one(len(named), {
            "--output": output, "--baseline": baseline, "--write-baseline": write_baseline,
            f"--format {format_.value}": not FORMATS[format_].joins,
        })  # fmt: skip
    reports = [(path, format_of(path)) for path in output or ()]
    written = [path for path, _ in reports] + ([write_baseline] if write_baseline else [])
    for path in written:
        check_output(path, overwrite, files(*named), folder=False)
    known: Baseline | None = read_baseline(baseline) if baseline else None
    chosen = Target.load(target)
    ok = True
    for model in named:
        with progress():
            report = api.check(
                model, chosen, input_, allow=allow or (), explain=explain_plan,
                **loading(factory, model_arg, run_pickled_code, batch),
            )  # fmt: skip
        if write_baseline:
            known = write_known(report, write_baseline, overwrite=overwrite)
        gate = judge(report, portable=portable, baseline=known)
        ok = ok and gate.ok
        context = Context(chosen.title, model, verbose=verbose, color=console().is_terminal)
        print(render(format_, gate, context))
        if explain_plan and format_ is ReportFormat.text:
            from porter.report.plans import print_plans

            print()
            print_plans(console(), report, verbose)
        for path, name in reports:
            with atomic_file(path, overwrite) as temporary:
                text = render(name, gate, Context(chosen.title, model, verbose=verbose))
                temporary.write_text(text + "\n", encoding="utf-8")
    raise typer.Exit(0 if ok else 1)


def _need_one(count: int, given: dict[str, object]) -> None:
    for option, value in given.items():
        if value:
            message = f"{option} is about one model, and there are {count}"
            raise PorterError("PT534", message, where=option, fix="Run porter check once for each model.")
