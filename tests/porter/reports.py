# SPDX-License-Identifier: Apache-2.0
"""A small report with every verdict, made by hand, and the source file that it points to."""

from __future__ import annotations

from pathlib import Path

from porter.baseline import Gate, judge
from porter.findings import Finding, OpReport, Report, Severity, Verdict
from porter.ops import Op, Origin, Value
from porter.places import Places

SOURCE = """import torch


class Head(torch.nn.Module):
    def forward(self, x):
        x[..., :2] = x[..., :2] * 2
        y = torch.nonzero(x)
        return torch.nn.functional.silu(x), y
"""
HEAD = "net/head.py"


def source(root: Path, text: str = SOURCE) -> Places:
    """Write the source below ``root``."""
    (root / "net").mkdir(parents=True, exist_ok=True)
    (root / HEAD).write_text(text, encoding="utf-8")
    return Places(root)


def op(
    kind: str, name: str, verdict: Verdict, origin: Origin | None = None, rewrites: tuple[str, ...] = (),
    reason: str = "", reads: tuple[str, ...] = (),
) -> OpReport:  # fmt: skip
    values = tuple(Value(f"{read}_out", (1, 4), "float32") for read in reads)
    behind = Op(kind, values, (Value(f"{name}_out", (1, 4), "float32"),), name=name)
    reasons = (reason,) if reason else ()
    return OpReport(kind, name, verdict, reasons, rewrites, origin or Origin(source=(name,)), behind)


def finding(about: OpReport, severity: Severity = "warning", fix: str = "change the model") -> Finding:
    code, _, message = about.reasons[0].partition(": ")
    return Finding(code, severity, message, about.origin, fix, about.name, about.kind)


def ops(file: str = HEAD, shift: int = 0) -> list[OpReport]:
    """One op of each verdict; those on source lines are ``shift`` lines further down."""
    at = [Origin(file, line + shift, "forward", "head") for line in (6, 7, 8)]
    return [
        op("conv2d", "conv", "native"),
        op("shape", "shape_1", "fold", None, ("fold_constants",), "PT101: there is no shape", ("conv",)),
        op("slice_assign", "set_1", "rewrite", at[0], ("slice_assign_to_cat",), "PT101: there is no slice_assign",
           ("conv",)),
        op("nonzero", "nonzero", "unsupported", at[1], (), "PT101: there is no nonzero | <b> 100% @you", ("set_1",)),
        op("silu", "silu", "unknown", at[2], reason="PT102: silu is not named", reads=("set_1",)),
        op("topk", "topk", "host", reason="PT105: topk runs on the host", reads=("silu",)),
    ]  # fmt: skip


def report(made: list[OpReport] | None = None) -> Report:
    made = ops() if made is None else made
    findings = [
        finding(one, "error" if one.verdict == "unsupported" else "warning") for one in made if one.verdict != "native"
    ]
    return Report("mlu270", "net.onnx", tuple(made), tuple(findings))


def gate(root: Path, **how: object) -> tuple[Gate, Places]:
    """The report judged in a folder that has the source."""
    paths = source(root)
    return judge(report(), places=paths, **how), paths  # type: ignore[arg-type]
