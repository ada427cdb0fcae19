# SPDX-License-Identifier: Apache-2.0
"""Targets for people: the list, one in full on the terminal or as a page, what is doubtful, and two compared."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from porter.target import Limit, OpSupport, Section, Target
from porter.target_diff import Difference, TargetDiff
from porter.target_lint import Doubt

__all__ = ["print_doubts", "print_target", "print_target_diff", "print_targets", "target_page"]

_TITLES = {"accelerator": "runs", "host": "runs on the host", "none": "does not run", "unknown": "not known"}
_SECTIONS = ("runtime", "model", "quantization", "performance", "artifact")


def print_targets(out: Console, targets: Sequence[Target]) -> None:
    """A line for each device."""
    table = Table("target", "device", "runtime", "runs", "host", "certain", "artifact", box=None, pad_edge=False)
    for target in targets:
        places = Counter(map(_place, target.ops.values()))
        sure = sum(op.certainty in ("certain", "measured") for op in target.ops.values())
        table.add_row(
            f"[bold]{target.name}[/]",
            escape(target.title),
            escape(f"{target.runtime.framework} {target.runtime.version}".strip()),
            str(places["accelerator"]),
            str(places["host"]),
            f"{sure * 100 // max(len(target.ops), 1)} %",
            target.artifact.kind if target.artifact else "-",
        )
    out.print(table)
    out.print("\n`porter targets show NAME` shows one in full; --target also takes the path of your own .toml,")
    out.print("and `porter targets new` writes one to begin with.")


def print_target(out: Console, target: Target) -> None:
    """Everything a target says, with the source of each fact."""
    out.print(
        f"[bold]{target.name}[/]: {escape(target.title)}" + (f" ({escape(target.vendor)})" if target.vendor else "")
    )
    if target.description:
        out.print(escape(target.description.strip()))
    for name in _SECTIONS:
        section: Section | None = getattr(target, name)
        values = list(_values(section)) if section is not None else []
        if values:
            out.print(f"\n[bold]{name}[/]")
        for key, value, said in values:
            out.print(f"  {key} {escape(value)} [dim]{escape(said)}[/]")
    every = _every(target)
    if every:
        out.print("\n[bold]every op on the accelerator[/]")
        for limit in every:
            _print_limit(out, limit, "  ")
    for place, title in _TITLES.items():
        ops = [op for op in target.ops.values() if _place(op) == place]
        if ops:
            out.print(f"\n[bold]{title}[/] ({len(ops)})")
            for op in ops:
                _print_op(out, op, every)
    certainty = Counter(op.certainty for op in target.ops.values())
    out.print("\n" + ", ".join(f"{n} {name}" for name, n in certainty.items()))
    out.print(_rest(target))
    out.print("\n[bold]sources[/]")
    for source in target.sources.values():
        out.print(f"  {escape(source.cite)}: {escape(source.about)} {escape(source.url)}".rstrip())


def _place(op: OpSupport) -> str:
    return "unknown" if op.certainty == "unknown" and op.device == "accelerator" else op.device


def _rest(target: Target) -> str:
    fate = "unsupported" if target.closed else "unknown"
    broken = (
        " An op that breaks a limit of the accelerator runs on the host." if target.runtime.fallback == "host" else ""
    )
    return f"An op that is not named is {fate}.{broken}"


def _values(section: Section) -> Iterator[tuple[str, str, str]]:
    """The values of a section that are not the default: key, value, and how sure it is by whom."""
    for part in dataclasses.fields(section):
        value = getattr(section, part.name)
        default = part.default_factory() if part.default_factory is not dataclasses.MISSING else part.default
        if part.name != "about" and value != default and value != {} and value != ():
            about = section.fact(part.name)
            note = f" {about.note}" if about.note else ""
            yield part.name, _show(value), f"[{', '.join(filter(None, (about.source, about.certainty)))}]{note}"


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_show(item)}" for key, item in value.items())
    if isinstance(value, tuple | list):
        return ", ".join(map(_show, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return ", ".join(f"{part.name} {_show(getattr(value, part.name))}" for part in dataclasses.fields(value))
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _every(target: Target) -> list[Limit]:
    """The limits that all ops on the accelerator have: they are shown once."""
    ops = [op for op in target.ops.values() if op.device == "accelerator"]
    if len(ops) < 2:
        return []
    texts = [{(limit.expr.text, limit.why) for limit in op.limits} for op in ops]
    shared = set.intersection(*texts)
    return [limit for limit in ops[0].limits if (limit.expr.text, limit.why) in shared]


def _own(op: OpSupport, every: Sequence[Limit]) -> list[Limit]:
    shared = {(limit.expr.text, limit.why) for limit in every}
    return [limit for limit in op.limits if (limit.expr.text, limit.why) not in shared]


def _takes(op: OpSupport) -> Iterator[str]:
    """What an op takes beside its limits, in words."""
    if op.dtypes:
        yield f"dtypes {', '.join(op.dtypes)}"
    for name, dtypes in op.operand_dtypes.items():
        yield f"{name} {' or '.join(dtypes)}"
    if op.const_inputs:
        yield f"{' and '.join(op.const_inputs)} constant"
    if op.quantized:
        yield f"in integers only {' or '.join(op.quantized)}"
    if op.opt_in:
        yield f"to put it on the accelerator: {op.opt_in}"
    if op.host_dtypes:
        yield f"on the host {' or '.join(op.host_dtypes)}"


def _print_op(out: Console, op: OpSupport, every: Sequence[Limit]) -> None:
    names = f" ({', '.join(op.names)})" if op.names else ""
    cited = ", ".join(filter(None, (op.source, op.certainty)))
    out.print(f"  {op.kind}{escape(names)} [dim]{escape(f'[{cited}]')}[/]")
    for text in _takes(op):
        out.print(f"    {escape(text)}")
    for limit in _own(op, every):
        _print_limit(out, limit, "    ", op)
    for limit in op.host_limits:
        _print_limit(out, limit, "    on the host: ", op)
    if op.note:
        out.print(f"    {escape(op.note)}")


def _print_limit(out: Console, limit: Limit, indent: str, op: OpSupport | None = None) -> None:
    when = f" where {limit.when.text}" if limit.when else ""
    said = [limit.source] if op is None or limit.source != op.source else []
    said += [limit.certainty] if op is None or limit.certainty != op.certainty else []
    listed = ", ".join(filter(None, said))
    cited = f" [dim]{escape(f'[{listed}]')}[/]" if listed else ""
    out.print(f"{indent}{escape(limit.expr.text)}{escape(when)}: {escape(limit.why)}{cited}")


# -- doubts, differences ---------------------------------------------------------------------------------------------


def print_doubts(out: Console, name: str, doubts: Sequence[Doubt]) -> None:
    """What is doubtful in a target file, then how much of it there is."""
    for doubt in doubts:
        out.print(f"[yellow]{doubt.code}[/]: {escape(doubt.message)}\n  where: {escape(doubt.where)}")
    count = f"{len(doubts)} doubt{'s' * (len(doubts) != 1)}"
    out.print(
        f"[green]{name} loads; nothing in it is doubtful.[/]" if not doubts else f"{escape(name)} loads; {count}."
    )


def print_target_diff(out: Console, made: TargetDiff) -> None:
    """What two targets say differently."""
    before, after = made.before.name, made.after.name
    for name, kinds in ((before, made.only_before), (after, made.only_after)):
        if kinds:
            out.print(f"[bold]only {escape(name)} names[/] ({len(kinds)}): {', '.join(kinds)}")
    for title, differences in (("ops", made.ops), ("sections", made.sections)):
        if differences:
            out.print(f"[bold]{title}[/]")
        for what, group in _grouped(differences):
            out.print(f"  {what}")
            for one in group:
                for side, value in ((before, one.before), (after, one.after)):
                    if value is not None or not one.what.endswith("limits"):
                        out.print(f"    {escape(side)}: {escape(_show(value) or '-')}")
    if made.same:
        out.print(f"[green]{escape(before)} and {escape(after)} say the same.[/]")


def _grouped(differences: Sequence[Difference]) -> Iterator[tuple[str, list[Difference]]]:
    groups: dict[str, list[Difference]] = {}
    for one in differences:
        groups.setdefault(one.what, []).append(one)
    yield from groups.items()


# -- pages -----------------------------------------------------------------------------------------------------------


def target_page(target: Target) -> str:
    """The page of a target (markdown), as docs/targets/ has it."""
    every = _every(target)
    lines = [f"# {target.title}", "", f"`--target {target.name}`. {target.description.strip()}.", "", _rest(target), ""]
    for name in _SECTIONS:
        section: Section | None = getattr(target, name)
        values = list(_values(section)) if section is not None else []
        if values:
            lines += [f"## {name}", "", "| key | value | by whom |", "|---|---|---|"]
            lines += [f"| {key} | {_cell(value)} | {_cell(said)} |" for key, value, said in values] + [""]
    if every:
        lines += ["## Every op on the accelerator", "", *(f"- {_limit_line(limit, None)}" for limit in every), ""]
    for place, title in _TITLES.items():
        ops = [op for op in target.ops.values() if _place(op) == place]
        if ops:
            lines += [
                f"## {title[0].upper()}{title[1:]} ({len(ops)})",
                "",
                "| op | limits | by whom |",
                "|---|---|---|",
            ]
            lines += [_row(op, every) for op in ops] + [""]
    lines += ["## Sources", ""]
    lines += [f"- {source.cite}. {source.about} {source.url}".rstrip() for source in target.sources.values()]
    return "\n".join(lines).rstrip() + "\n"


def _row(op: OpSupport, every: Sequence[Limit]) -> str:
    names = f" ({', '.join(op.names)})" if op.names else ""
    said = [*_takes(op), *(_limit_line(limit, op) for limit in _own(op, every))]
    said += [f"on the host: {_limit_line(limit, op)}" for limit in op.host_limits]
    said += [op.note] if op.note else []
    cited = ", ".join(filter(None, (op.source, op.certainty)))
    return f"| {op.kind}{_cell(names)} | {'<br>'.join(map(_cell, said))} | {_cell(cited)} |"


def _limit_line(limit: Limit, op: OpSupport | None) -> str:
    when = f" where `{limit.when.text}`" if limit.when else ""
    unsure = f" [{limit.certainty}]" if op is None or limit.certainty != op.certainty else ""
    return f"`{limit.expr.text}`{when}: {limit.why}{unsure}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
