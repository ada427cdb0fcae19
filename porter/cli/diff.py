# SPDX-License-Identifier: Apache-2.0
"""``porter diff``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from porter.cli.app import app
from porter.cli.options import Format, OutputFormat, console


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="A JSON report of `porter check`.", show_default=False)],
    after: Annotated[Path, typer.Argument(help="Another one.", show_default=False)],
    format_: OutputFormat = Format.text,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Name every place, not the first few.")] = False,
) -> None:
    """Compare two reports: which ops are new, gone, better or worse. Exit code 1 when something is worse."""
    from porter.diff import diff

    made = diff(before, after)
    if format_ is Format.json:
        from porter.report.json import to_json

        print(to_json(made))
    else:
        from porter.report.diff import print_diff

        print_diff(console(), made, verbose)
    raise typer.Exit(1 if made.worse else 0)
