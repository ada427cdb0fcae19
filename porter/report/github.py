# SPDX-License-Identifier: Apache-2.0
"""Annotations of a GitHub workflow: ``::error file=net/head.py,line=41,title=...::message``.

The commands and their escapes are those of "Workflow commands for GitHub Actions"; GitHub shows the first ten errors
and the first ten warnings of a step, so the worst come first and what says the same at one place is one annotation.
What a baseline knows is not annotated, what the gate accepts is a notice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from porter.baseline import Gate
from porter.report.groups import Located, located, tally

if TYPE_CHECKING:
    from porter.report.formats import Context

__all__ = ["to_github"]

_COMMAND = {"error": "error", "warning": "warning", "note": "notice"}
#: The escapes of a message, and those that a property needs as well. The percent sign must come first.
_MESSAGE = (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"))
_PROPERTY = (*_MESSAGE, (":", "%3A"), (",", "%2C"))
#: A runner cuts long annotations; the whole text is in the other formats.
_LONGEST = 2000


def to_github(gate: Gate, context: Context) -> str:
    """A line for each place that needs something, then one that sums up (and is no command)."""
    shown = [group for group in located(gate, context.places) if group.state != "known"]
    shown.sort(key=lambda group: group.state == "accepted")
    report = gate.report
    return "\n".join(
        [
            *(_annotation(group, context) for group in shown),
            f"porter: {_escape(report.model, _MESSAGE)} on {report.target}: {tally(gate)}",
        ]
    )


def _annotation(group: Located, context: Context) -> str:
    first = group.first
    command = "notice" if group.state == "accepted" else _COMMAND[first.severity]
    path, line = group.path, group.line
    if path is None and context.model is not None:
        path = context.places.relative(context.model)
    properties = {"file": path, "line": line, "title": f"{first.code} {group.title}"}
    given = ",".join(f"{key}={_escape(str(value), _PROPERTY)}" for key, value in properties.items() if value)
    place = str(first.origin)
    text = first.message
    if group.path is None and place:
        text += f"\nat {place}" + (f" and {len(group.items) - 1} more" if len(group.items) > 1 else "")
    if first.fix:
        text += f"\nfix: {first.fix}"
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 4] + " ..."
    return f"::{command} {given}::{_escape(text, _MESSAGE)}"


def _escape(text: str, table: tuple[tuple[str, str], ...]) -> str:
    for character, code in table:
        text = text.replace(character, code)
    return text
