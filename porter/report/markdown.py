# SPDX-License-Identifier: Apache-2.0
"""GitHub-flavoured Markdown: the comment on a pull request. A line for each sort of finding, the places folded away."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from porter.baseline import Gate, Judged
from porter.findings import OpReport
from porter.report.groups import distinct_reasons, grouped, kinds, left_over, places, runs, tally

if TYPE_CHECKING:
    from porter.report.formats import Context

__all__ = ["to_markdown"]

#: A comment on GitHub holds 65,536 characters. These keep the longest report below half of that.
_ROWS, _PLACES, _REASONS, _LONGEST = 30, 3, 3, 300


def to_markdown(gate: Gate, context: Context) -> str:
    """A heading, the count of each verdict, the table of what needs something."""
    report = gate.report
    counts = ", ".join(f"{n} {verdict}" for verdict, n in report.summary.items())
    if report.ok:
        said = runs(report)
    elif report.portable:
        said = f"`porter rewrite --target {report.target}` makes it legal"
    else:
        said = f"{left_over(report)} would be left after `porter rewrite`"
    verdict = "passed" if gate.ok else "failed"
    title = f"### porter check {verdict}: {_text(report.model)} on {_text(report.target)} ({_text(context.title)})"
    lines = [title, "", f"{len(report.ops)} ops: {counts or 'none'}. {said[0].upper() + said[1:]}."]
    if gate.baseline is not None or not report.ok:
        lines[-1] += f" {_text(tally(gate).capitalize())}."
    lines += _table("", [item for item in gate.judged if item.state == "new"])
    lines += _table("Accepted", [item for item in gate.judged if item.state == "accepted"])
    return "\n".join(lines)


def _table(title: str, items: Sequence[Judged]) -> list[str]:
    if not items:
        return []
    groups = grouped([item.op for item in items if item.op])
    fixes = {id(item.op): item.finding.fix for item in items if item.op}
    rows = [_row(group, fixes) for group in groups[:_ROWS]]
    rows += [
        ("", _text(item.finding.code), _text(item.finding.message), _text(str(item.finding.origin)),
         _text(item.finding.fix))
        for item in items if item.op is None
    ]  # fmt: skip
    head = [("verdict", "op", "why", "where", "fix"), ("---",) * 5]
    table = [f"| {' | '.join(row)} |" for row in (*head, *rows)]
    more = len(groups) - _ROWS
    if more > 0:
        table += ["", f"And {more} more kinds of op; the other formats have them all."]
    if title:
        return ["", f"<details><summary>{title} ({len(items)})</summary>", "", *table, "", "</details>"]
    return ["", *table]


def _row(group: Sequence[OpReport], fixes: dict[int, str]) -> tuple[str, ...]:
    first = group[0]
    folds = first.verdict == "fold"
    what = f"constants: {kinds(group)}" if folds else first.kind
    named = places(group)
    where = [_text(place) for place in named[:_PLACES]]
    if len(named) > _PLACES:
        where.append(f"and {len(named) - _PLACES} more places")
    reasons = distinct_reasons(group)
    why = [_text(reason) for reason in reasons[:_REASONS]]
    if len(reasons) > _REASONS:
        why.append(f"and {len(reasons) - _REASONS} more reasons")
    times = f" ×{len(group)}" if len(group) > 1 else ""
    return (
        f"**{first.verdict}**", f"{_text(what)}{times}", "<br>".join(why), "<br>".join(where), _text(fixes[id(first)])
    )  # fmt: skip


def _text(text: str) -> str:
    """Plain text that means nothing to Markdown: names in a model's file are anybody's."""
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 4] + " ..."
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]|#~])", r"\\\1", " ".join(text.split()))
    # A zero-width space after it keeps an @ from calling somebody, and :// from becoming a link.
    return text.replace("@", "@\u200b").replace("://", ":\u200b//")
