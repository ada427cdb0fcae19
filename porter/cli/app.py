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
