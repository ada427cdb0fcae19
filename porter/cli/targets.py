# SPDX-License-Identifier: Apache-2.0
"""``porter targets``: the devices, and what one needs who writes a target file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from porter.cli.app import app
from porter.cli.options import Format, Overwrite, console, counter, progress

NameOrFile = Annotated[str, typer.Argument(help="A device, or the path of a .toml.", show_default=False)]


class _Targets(TyperGroup):
    """``porter targets NAME`` means ``porter targets show NAME``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["show", *args]
        return super().resolve_command(ctx, args)


targets = typer.Typer(
    cls=_Targets, invoke_without_command=True, help="List the devices, or show, write and compare them."
)
app.add_typer(targets, name="targets")


@targets.callback()
def every(ctx: typer.Context) -> None:
    """List the devices, or show, write and compare them."""
    if ctx.invoked_subcommand is None:
        from porter.report.targets import print_targets
        from porter.target import Target

        print_targets(console(), [Target.load(known) for known in Target.names()])


@targets.command()
def show(name: NameOrFile, markdown: Annotated[bool, typer.Option(help="As a page in markdown.")] = False) -> None:
    """Show one in full: what it runs, its limits, and where each fact is from."""
    from porter.report.targets import print_target, target_page
    from porter.target import Target

    if markdown:
        print(target_page(Target.load(name)), end="")
    else:
        print_target(console(), Target.load(name))


@targets.command()
def new(
    name: Annotated[str, typer.Argument(help="The name of the device.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)],
    extends: Annotated[str | None, typer.Option(help="A target to start from.", show_default=False)] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a target file to begin with."""
    from porter.target_new import new_target

    print(new_target(name, output, extends, overwrite))


@targets.command()
def lint(file: NameOrFile) -> None:
    """Look a target file over: mistakes, facts without a source, limits that decide nothing."""
    from porter.report.targets import print_doubts
    from porter.target_lint import lint

    doubts = lint(file)
    print_doubts(console(), file, doubts)
    raise typer.Exit(1 if doubts else 0)


@targets.command()
def diff(
    before: NameOrFile,
    after: NameOrFile,
    output_format: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.text,
) -> None:
    """Say what two targets say differently."""
    from porter.report.targets import print_target_diff
    from porter.target import Target
    from porter.target_diff import diff_targets

    made = diff_targets(Target.load(before), Target.load(after))
    if output_format is Format.json:
        print(json.dumps(made.to_json(), indent=2))
    else:
        print_target_diff(console(), made)


@targets.command()
def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it there.", show_default=False)] = None,
    overwrite: Overwrite = False,
) -> None:
    """Print the JSON Schema of target files, for editors."""
    from porter.target_schema import target_schema, write_schema

    if output is None:
        print(json.dumps(target_schema(), indent=2))
    else:
        print(write_schema(output, overwrite))


@targets.command()
def probe(
    toolchain: Annotated[str, typer.Option("--toolchain", help="vela, ncnn, nncase, tpu-mlir, esp or rknn.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .toml to write.", show_default=False)],
    op: Annotated[list[str] | None, typer.Option("--op", help="Ask about this kind only; repeatable.")] = None,
    target: Annotated[str | None, typer.Option("--target", "-t", help="The device whose facts are corrected.")] = None,
    limit: Annotated[float, typer.Option("--limit", help="The most seconds for one model.")] = 120.0,
    overwrite: Overwrite = False,
) -> None:
    """Ask a vendor's compiler about models of one op, and write what it takes as a target file.

    An interrupted run goes on where it was: answers are kept beside the file.
    """
    from porter.probe import probe
    from porter.report.probing import print_probed

    with counter(f"asking {toolchain}") as count:
        made = probe(toolchain, output, kinds=op or (), target=target, limit=limit, overwrite=overwrite, progress=count)
    print_probed(console(), made)


@targets.command()
def install(
    toolchain: Annotated[str, typer.Argument(help="vela, ncnn, nncase, tpu-mlir, esp or rknn.", show_default=False)],
    accept: Annotated[
        bool,
        typer.Option("--accept-proprietary-licence", help="Accept the licence of one that is not free software."),
    ] = False,
) -> None:
    """Install a vendor's compiler into an environment of its own, for probe and emit --build."""
    from porter.toolchains.environment import adapter, install, ready

    made = adapter(toolchain)
    known = ready(toolchain)
    with progress() as say:
        place = install(toolchain, say, accept_licence=accept)
    console().print(
        f"{made.TITLE} ({made.LICENCE}) {'was there already' if known else 'installed'}: {place}", markup=False
    )


@targets.command()
def pages(folder: Annotated[Path, typer.Argument(help="Where to write NAME.md of each device.")]) -> None:
    """Write the page of each device that comes with porter, and their index."""
    from porter.report.target_pages import write_pages

    for path in write_pages(folder):
        print(path)
