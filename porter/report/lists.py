# SPDX-License-Identifier: Apache-2.0
"""What is installed, for people: rewrites."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import cleandoc

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from porter.rewrite import CLAIMS, Rule

__all__ = ["print_rule", "print_rules"]


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
