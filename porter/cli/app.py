# SPDX-License-Identifier: Apache-2.0
"""The typer application that every command of this package registers itself with."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer(
    name="porter",
    help="Port trained models to accelerators with few operators.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM. Not a KeyboardInterrupt: typer turns that one into an exit code of its own.

    ``kept`` says what the command leaves; one that writes as it goes sets it.
    """

    kept = "nothing was written"
