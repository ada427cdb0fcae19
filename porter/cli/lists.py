# SPDX-License-Identifier: Apache-2.0
"""``porter targets``, ``rewrites``, ``explain`` and ``version``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from porter.cli.app import app
from porter.cli.options import console


@app.command()
def targets(name: Annotated[str | None, typer.Argument(help="Show one in full.")] = None) -> None:
    """List the devices, or show one: what it runs, its limits, and where each fact is from."""
    from porter.report.lists import print_target, print_targets
    from porter.target import Target

    if name is None:
        print_targets(console(), [Target.load(known) for known in Target.names()])
    else:
        print_target(console(), Target.load(name))


@app.command()
def rewrites(name: Annotated[str | None, typer.Argument(help="Show one in full.")] = None) -> None:
    """List the rewrites, or show the manual page of one."""
    from porter.registry import find_rule, rules
    from porter.report.lists import print_rule, print_rules

    if name is None:
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
