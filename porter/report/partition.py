# SPDX-License-Identifier: Apache-2.0
"""A partition for people: the segments, what passes between them, the proof."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from porter.report.text import print_evidence, print_findings

if TYPE_CHECKING:
    from porter.partition import Partitioned, PortedParts

__all__ = ["print_partitioned", "print_ported_parts"]


def print_ported_parts(out: Console, made: PortedParts) -> None:
    """Print the division, then of each segment of the accelerator what was quantized, and its bundle."""
    from porter.report.quantization import print_quantized
    from porter.report.text import print_bundle

    print_partitioned(out, made.partitioned)
    for name, bundle in made.bundles.items():
        out.print()
        for quantized in made.quantized[name]:
            print_quantized(out, quantized)
            out.print()
        print_bundle(out, bundle)


def print_partitioned(out: Console, made: Partitioned) -> None:
    """Print the segments in their order, the crossings, the findings, and the proof of the whole."""
    split = made.split
    table = Table("segment", "ops", "MMAC", "in", "out", "crossings", "kB", "forms", box=None, pad_edge=False)
    for number, segment in enumerate(split.segments):
        passed = [c for c in split.crossings if c.segment == number]
        form = "onnx" if segment.graph.dialect == "onnx" else "pt2"
        table.add_row(
            segment.name, str(len(segment.ops)), f"{segment.macs / 1e6:.4g}", str(len(segment.graph.inputs)),
            str(len(segment.graph.outputs)), str(len(passed)) if segment.device == "accelerator" else "",
            f"{sum(c.bytes for c in passed) / 1e3:.4g}" if segment.device == "accelerator" else "",
            f"{form}, numpy" if segment.numpy is not None else form,
        )  # fmt: skip
    out.print(table)
    many = len(split.crossings)
    out.print(f"{many} crossing{'s' * (many != 1)} between accelerator and host, {split.bytes / 1e3:.4g} kB for one "
              "input (the model's own inputs and outputs aside)")  # fmt: skip
    if made.cut is not None:
        ends = ", ".join(made.cut.ends[:8]) + (" ..." if len(made.cut.ends) > 8 else "")
        out.print(escape(f"head cut at {ends}" + "".join(f"\n  since {why}" for why in made.cut.why)))
    for segment in split.segments:
        if segment.device == "host" and segment.no_numpy:
            out.print(escape(f"{segment.name} has no numpy form: {segment.no_numpy}"))
    if split.islands:
        out.print(escape(f"islands weighed with {split.costs}"))
    print_findings(out, made.findings)
    shown = {
        "the segments in a row": made.evidence, "each segment by itself": made.parts,
        "with numpy on the host": made.numpy_evidence,
    }  # fmt: skip
    for title, evidence in shown.items():
        if evidence is not None:
            out.print(f"\n[bold]{title}[/]")
            print_evidence(out, evidence)
    if not made.ok and made.evidence is not None and not made.evidence.ok:
        out.print("[red]PT757[/]: the segments do not compute what the model does; `porter explain PT757`")
