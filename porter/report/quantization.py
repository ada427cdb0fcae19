# SPDX-License-Identifier: Apache-2.0
"""A quantized model, for people: outputs with their worst columns, layers, notes, findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from porter.report.text import print_findings
from porter.report.tradeoff import print_mixed

if TYPE_CHECKING:
    from porter.quantize.engine import Quantized

__all__ = ["print_quantized"]


def print_quantized(out: Console, made: Quantized) -> None:
    """Print the report of :func:`porter.quantize`."""
    if made.mixed is not None:
        print_mixed(out, made.mixed)
        out.print()
    out.print(made.report.text(), markup=False)
    if made.findings:
        out.print()
        print_findings(out, made.findings)
