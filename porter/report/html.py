# SPDX-License-Identifier: Apache-2.0
"""One page with everything: the findings as text, and the graph coloured by verdict. It loads nothing from anywhere.

The findings are plain HTML and need no script. The graph is laid out here, and drawn on a canvas that shows only what
is in view, so that 30,000 ops scroll as 400 do. The page's parts are ``porter/report/page/``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any

from porter.baseline import Gate
from porter.errors import codes
from porter.findings import VERDICTS, OpReport
from porter.report.groups import distinct_reasons, grouped, kinds, left_over, runs, tally
from porter.report.layout import lay_out

if TYPE_CHECKING:
    from porter.report.formats import Context

__all__ = ["to_html"]

#: How many places of one group the list names; all are in the graph.
_PLACES = 200


def to_html(gate: Gate, context: Context) -> str:
    """The whole page."""
    report = gate.report
    # Without a baseline everything would be new.
    state: dict[int, str] = {id(item.op): item.state for item in gate.judged if item.op} if gate.baseline else {}
    number = {id(op): index for index, op in enumerate(report.ops)}
    groups = grouped(report.ops)
    fixes = {id(item.op): item.finding.fix for item in gate.judged if item.op}
    about = [item.finding for item in gate.judged if item.op is None]
    parts = {name: _part(f"page.{name}") for name in ("css", "js")}
    used = {op.reasons[0].partition(":")[0] for op in report.ops if op.reasons} | {f.code for f in about}
    titles = [(code, title) for code, title in codes() if code in used]
    return Template(_part("page.html")).substitute(
        parts,
        title=escape(f"{report.model} on {report.target}"),
        model=escape(report.model),
        target=escape(f"{report.target} ({context.title})"),
        verdict="pass" if gate.ok else "fail",
        said=escape(_said(gate)),
        counts="".join(_count(verdict, report.summary.get(verdict, 0)) for verdict in VERDICTS),
        about="".join(
            f'<li class="{f.severity}"><b>{f.code}</b> {escape(f.message)}'
            f"{f'<p>fix: {escape(f.fix)}</p>' if f.fix else ''}</li>"
            for f in about
        ),
        groups="".join(_group(group, number, state, fixes) for group in groups),
        codes="".join(f"<dt>{code}</dt><dd>{escape(title)}</dd>" for code, title in titles),
        data=_script(_graph(report.ops, state, fixes)),
    )


def _part(name: str) -> str:
    return resources.files("porter.report").joinpath("page", name).read_text(encoding="utf-8")


def _said(gate: Gate) -> str:
    report = gate.report
    if report.ok:
        return f"{report.target} {runs(report)}."
    fixed = f"porter rewrite --target {report.target} makes it legal"
    said = fixed if report.portable else f"{left_over(report)} would be left after porter rewrite"
    return f"{said}; {tally(gate)}."


def _count(verdict: str, count: int) -> str:
    if not count:
        return ""
    meaning = escape(VERDICTS[verdict])  # type: ignore[index]
    return (
        f'<label class="chip {verdict}" title="{meaning}"><input type="checkbox" data-verdict="{verdict}" checked> '
        f"{verdict} <b>{count}</b></label>"
    )


def _group(group: Sequence[OpReport], number: dict[int, int], state: dict[int, str], fixes: dict[int, str]) -> str:
    first = group[0]
    what = "constants" if first.verdict == "fold" else first.kind
    how = f" by {', then '.join(first.rewrites)}" if first.verdict == "rewrite" else ""
    times = f" ×{len(group)}" if len(group) > 1 else ""
    known = sum(state.get(id(op)) == "known" for op in group)
    note = f" <small>{known} known</small>" if known else ""
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in distinct_reasons(group))
    if first.verdict == "fold":
        reasons = f"<li>{escape(kinds(group))}</li>" + reasons
    fix = f"<p>fix: {escape(fixes.get(id(first), ''))}</p>" if fixes.get(id(first)) else ""
    places = "".join(_place(op, number[id(op)]) for op in group[:_PLACES])
    if len(group) > _PLACES:
        places += f"<li>and {len(group) - _PLACES} more; the graph has them all</li>"
    is_open = " open" if first.verdict != "fold" else ""
    return (
        f'<details class="group {first.verdict}"{is_open}><summary><i>{first.verdict}</i> <b>{escape(what)}</b>'
        f"{times}{escape(how)}{note}</summary><ul>{reasons}</ul>{fix}"
        f'<details><summary>where</summary><ol class="places">{places}</ol></details></details>'
    )


def _place(op: OpReport, index: int) -> str:
    place = str(op.origin) or op.name
    return f'<li><a href="#op{index}" data-op="{index}">{escape(op.name)}</a> {escape(place)}</li>'


def _graph(ops: Sequence[OpReport], state: dict[int, str], fixes: dict[int, str]) -> dict[str, Any]:
    """What the script draws. Texts that many ops share are written once: ``texts`` holds them, ops their indices."""
    layout = lay_out(ops)
    texts: dict[str, int] = {}

    def text(words: str) -> int:
        return texts.setdefault(words, len(texts))

    order = list(VERDICTS)
    nodes = [
        [
            text(op.kind), text(op.name), order.index(op.verdict), round(layout.x[index], 2), layout.layer[index],
            text(str(op.origin)), [text(reason) for reason in op.reasons], text(", then ".join(op.rewrites)),
            text(_shapes(op)), text(state.get(id(op), "")), text(fixes.get(id(op), "")),
        ]
        for index, op in enumerate(ops)
    ]  # fmt: skip
    return {"verdicts": order, "nodes": nodes, "edges": layout.edges, "texts": list(texts)}


def _shapes(op: OpReport) -> str:
    if op.op is None:
        return ""
    reads = ", ".join(_shape(v.shape, v.dtype) + (" const" if v.is_const else "") for v in op.op.operands)
    made = ", ".join(_shape(v.shape, v.dtype) for v in op.op.outputs)
    return f"({reads}) -> {made}"


def _shape(shape: tuple[int, ...] | None, dtype: str | None) -> str:
    size = "?" if shape is None else "x".join(map(str, shape)) or "scalar"
    return f"{size} {dtype or '?'}"


def _script(data: dict[str, Any]) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or the line."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
