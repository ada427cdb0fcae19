# SPDX-License-Identifier: Apache-2.0
"""``porter rewrites``, ``explain`` and ``version``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from porter.cli.app import app
from porter.cli.options import console


@app.command()
def rewrites(
    name: Annotated[str | None, typer.Argument(help="Show one in full.")] = None,
    page: Annotated[
        Path | None, typer.Option("--page", help="Write the page of all rewrites (Markdown).", show_default=False)
    ] = None,
) -> None:
    """List the rewrites, or show the manual page of one."""
    from porter.registry import find_rule, rules
    from porter.report.lists import print_rule, print_rules

    if page is not None:
        from porter.report.rule_pages import write_page

        write_page(page)
        print(page)
    elif name is None:
        print_rules(console(), list(rules().values()))
    else:
        print_rule(console(), find_rule(name))


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

        console().print(Markdown(page))
    else:
        print(page, end="")


@app.command()
def version() -> None:
    """Print porter's version."""
    from importlib.metadata import version

    print(version("porter-ml"))
