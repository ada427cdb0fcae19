# SPDX-License-Identifier: Apache-2.0
"""What is installed, for people: targets and rewrites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from inspect import cleandoc

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from porter.rewrite import CLAIMS, Rule
from porter.target import OpSupport, Target

__all__ = ["print_rule", "print_rules", "print_target", "print_targets"]


def print_targets(out: Console, targets: Sequence[Target]) -> None:
    """A line for each device."""
    table = Table("target", "device", "runtime", "ops", "artifact", box=None, pad_edge=False)
    for target in targets:
        table.add_row(
            f"[bold]{target.name}[/]",
            escape(target.title),
            escape(f"{target.runtime.framework} {target.runtime.version}".strip()),
            str(sum(op.device == "accelerator" for op in target.ops.values())),
            target.artifact.kind if target.artifact else "-",
        )
    out.print(table)
    out.print("\n`porter targets NAME` shows one in full; --target also takes the path of your own .toml.")


def print_target(out: Console, target: Target) -> None:
    """Everything a target says, with the source of each fact."""
    out.print(f"[bold]{target.name}[/]: {escape(target.title)} ({escape(target.vendor)})")
    if target.description:
        out.print(escape(target.description.strip()))
    runtime = target.runtime
    out.print(f"\nruntime {escape(runtime.framework)} {escape(runtime.version)}, layout {runtime.layout}, "
              f"dtypes {', '.join(runtime.dtypes)}")  # fmt: skip
    if target.quantization:
        q = target.quantization
        out.print(f"quantization {q.scheme}, stored scale {q.scale}, must be quantized: {', '.join(q.quantized_ops)}")
    titles = {"accelerator": "runs", "host": "runs on the host", "none": "does not run", "unknown": "not known"}
    where = {op.kind: "unknown" if op.certainty == "unknown" else op.device for op in target.ops.values()}
    for place, title in titles.items():
        ops = [op for op in target.ops.values() if where[op.kind] == place]
        if ops:
            out.print(f"\n[bold]{title}[/] ({len(ops)})")
            for op in ops:
                _print_op(out, op)
    certainty = Counter(op.certainty for op in target.ops.values())
    out.print("\n" + ", ".join(f"{n} {name}" for name, n in certainty.items()))
    out.print("an op that is not named is " + ("unsupported" if target.closed else "unknown"))
    out.print("\n[bold]sources[/]")
    for source in target.sources.values():
        out.print(f"  {escape(source.cite)}: {escape(source.about)} {escape(source.url)}".rstrip())


def _print_op(out: Console, op: OpSupport) -> None:
    names = f" ({', '.join(op.names)})" if op.names else ""
    dtypes = f"  {', '.join(op.dtypes)}" if op.dtypes else ""
    out.print(f"  {op.kind}{escape(names)}{dtypes} [dim]{escape(f'[{op.source}, {op.certainty}]')}[/]")
    for limit in op.limits:
        when = f" where {limit.when.text}" if limit.when else ""
        out.print(f"    {escape(limit.expr.text)}{escape(when)}: {escape(limit.why)} "
                  f"[dim]{escape(f'[{limit.source}, {limit.certainty}]')}[/]")  # fmt: skip
    if op.note:
        out.print(f"    {escape(op.note)}")


def print_rules(out: Console, rules: Sequence[Rule]) -> None:
    """A line for each rewrite: what it does, what it promises."""
    table = Table("rewrite", "removes", "claim", "bound", "what it does", box=None, pad_edge=False)
    for rule in rules:
        table.add_row(
            f"[bold]{rule.name}[/]" + (" (optional)" if rule.optional else ""),
            ", ".join(rule.removes),
            rule.claim,
            rule.error or "-",
            escape(rule.doc.partition("\n")[0]),
        )
    out.print(table)
    out.print()
    for claim, meaning in CLAIMS.items():
        out.print(f"{claim}: {meaning}")


def print_rule(out: Console, rule: Rule) -> None:
    """The manual page of one rewrite."""
    out.print(f"[bold]{rule.name}[/]: {', '.join(rule.removes)} -> {', '.join(rule.yields) or 'nothing'}")
    out.print(f"claim {rule.claim}" + (f", {escape(rule.error)}" if rule.error else "") + f": {CLAIMS[rule.claim]}")
    if rule.optional:
        out.print(f"optional: applied only with --apply {rule.name}")
    out.print()
    out.print(escape(cleandoc(rule.doc)))
