# SPDX-License-Identifier: Apache-2.0
"""Measuring a compiler: single-op models over attributes and shapes, and the target file that follows from its answers.

``probe`` asks a toolchain about each kind of op: an ordinary one, one for each value and property that is varied, and
some with two things varied at once. :func:`derive` makes of the answers what a target file says of the kind:

* a limit of the target that the compiler contradicts (it runs what the limit forbids) goes, and so does one that was a
  guess; the others stay;
* what the compiler refuses, leaves to the CPU or computes wrongly, and no remaining limit forbids, becomes a limit: a
  number is bisected to the last value that runs;
* beyond the largest number that was tried, nothing is known, and the file says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from porter.errors import PorterError
from porter.files import atomic_file, check_output
from porter.limits import Expression, ExpressionError, parse
from porter.op_facts import fact_names
from porter.ops import KINDS, Op
from porter.target import Target
from porter.toolchains import environment
from porter.toolchains.ask import Asker, Said
from porter.toolchains.cases import Case, Choice, Range, Spec, at, base_case, cases, combinations
from porter.toolchains.catalogue import SPECS

__all__ = ["Measured", "Probed", "derive", "entries_text", "measure", "probe", "raw_entries"]

Progress = Callable[[int, int], None]
Outcome = tuple[Case, Said]

#: Cases with two things varied, for each kind.
_COMBINATIONS = 4
_SEED = 0
#: The id of the source that a measured fact names.
_SOURCE = "probed"
#: A number is bisected in at most so many steps; a kind is asked about with at most so many models.
_STEPS = 6


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a kind after asking.

    ``entry`` are the keys of its table in a target file. ``contradicted`` are limits of the target that the compiler
    does not have, ``unexplained`` cases for which the entry says something else than the compiler did.
    """

    kind: str
    entry: Mapping[str, Any]
    asked: int
    accepted: int
    contradicted: tuple[str, ...] = ()
    unexplained: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Probed:
    """The result of :func:`probe`: the file that was written, and what was measured for each kind."""

    path: Path
    toolchain: str
    versions: Mapping[str, str]
    target: str
    kinds: Sequence[Measured] = field(default_factory=tuple)


def probe(
    toolchain: str,
    out: Path,
    *,
    kinds: Sequence[str] = (),
    target: str | None = None,
    kept: Path | None = None,
    limit: float = 120.0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Probed:
    """Ask a compiler and write a target file that extends what is known with what was measured.

    Args:
        toolchain: vela, ncnn, nncase, tpu-mlir, esp or rknn; it must be installed.
        out: the .toml to write; it extends ``target``.
        kinds: kinds of ops to ask about (default: all that porter has cases for).
        target: whose entries are corrected, and whose options the compiler gets (default: the toolchain's first).
        kept: the file that keeps answers, so that an interrupted run goes on (default: ``OUT.answers.jsonl``).
        limit: the most seconds that one model may take.
        progress: called with (kinds done, kinds in all).

    Raises:
        PorterError: PT780 for a toolchain or kind that there is not, PT781 when the toolchain is not installed, PT783
            when it does not start, PT510 to PT512 when the file cannot be written.
    """
    adapter = environment.adapter(toolchain)
    unknown = [kind for kind in kinds if kind not in SPECS]
    if unknown:
        import difflib

        near = difflib.get_close_matches(unknown[0], SPECS, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise PorterError("PT780", f"there are no cases for {', '.join(unknown)}", "--op", f"{hint}There are cases for "
                          f"{len(SPECS)} kinds, such as conv2d, softmax and resize.")  # fmt: skip
    check_output(out, overwrite, folder=False)
    known = Target.load(target or next(iter(adapter.TARGETS)))
    chosen = list(kinds) or list(SPECS)
    compiled_for = known.name if known.name in adapter.TARGETS else _root(known, adapter.TARGETS)
    raw = raw_entries(known.path)
    proves = getattr(adapter, "PROVES", True)
    made = []
    with Asker(toolchain, compiled_for, kept or out.with_suffix(".answers.jsonl"), limit) as asker:
        for number, kind in enumerate(chosen):
            if progress:
                progress(number, len(chosen))
            made.append(derive(SPECS[kind], measure(asker, SPECS[kind]), raw.get(kind), known, _SOURCE, proves))
        if progress:
            progress(len(chosen), len(chosen))
        head = _head(out, known, asker)
    with atomic_file(out, overwrite) as path:
        path.write_text(head + entries_text({one.kind: one.entry for one in made}), encoding="utf-8")
        Target.load(str(path))  # what was written must be a target
    return Probed(out, toolchain, asker.versions, known.name, tuple(made))


def _root(target: Target, known: Collection[str]) -> str:
    """The target that ``target`` comes down to and that the toolchain compiles for."""
    while target.name not in known:
        if target.extends is None:
            raise PorterError(
                "PT780", f"the toolchain does not compile for {target.name}", fix=f"It does for {', '.join(known)}."
            )
        target = Target.load(target.extends)
    return target.name


# -- asking --------------------------------------------------------------------------------------------------------


def measure(asker: Asker, spec: Spec, depth: int = 2) -> list[Outcome]:
    """Ask about every case of a kind; numbers are bisected between the last that runs and the first that does not.

    ``depth``: 0 asks about the ordinary op alone, 1 with one thing varied, 2 also with two things varied at once.
    """
    plain = base_case(spec)
    found: list[Outcome] = [(plain, asker.case(plain))]
    if not depth:
        return found
    for case in cases(spec):
        if case.label != plain.label:
            found.append((case, asker.case(case)))
    for varied in spec.varied:
        if isinstance(varied, Range):
            found += _bisected(asker, spec, varied, found)
    if depth > 1:
        found += [(case, asker.case(case)) for case in combinations(spec, _COMBINATIONS, _SEED)]
    return found


def _bisected(asker: Asker, spec: Spec, varied: Range, found: Sequence[Outcome]) -> list[Outcome]:
    runs = {case.value: _runs(said) for case, said in found if case.varied is varied and case.value is not None}
    good = [value for value, fine in runs.items() if fine]
    bad = [value for value, fine in runs.items() if not fine]
    if not good or not bad or max(good) > min(bad):
        return []
    low, high, more = max(good), min(bad), []
    for _ in range(_STEPS):
        if high - low <= 1:
            break
        case = at(spec, varied, (low + high) // 2)
        said = asker.case(case)
        more.append((case, said))
        low, high = ((low + high) // 2, high) if _runs(said) else (low, (low + high) // 2)
    return more


def _runs(said: Said) -> bool:
    return said.placement == "accelerator"


# -- what follows --------------------------------------------------------------------------------------------------

_MEASURED = {"certainty": "measured"}
_KEPT = ("names", "dtypes", "operand_dtypes", "output_dtypes", "const_inputs", "quantized")


def derive(
    spec: Spec,
    outcomes: Sequence[Outcome],
    known: Mapping[str, Any] | None,
    target: Target,
    source: str,
    proves: bool = True,
) -> Measured:
    """What the outcomes say of a kind; see the module.

    Args:
        spec: the kind.
        outcomes: the cases with their answers.
        known: what the target's file says of the kind, as it stands in the file (limits as tables).
        target: the target that is corrected.
        source: the id of the source to name, with nothing behind it.
        proves: whether the device runs what the compiler takes; otherwise certain limits stay, whatever it takes.
    """
    good = [case for case, said in outcomes if _runs(said)]
    bad = [(case, said) for case, said in outcomes if not _runs(said)]
    entry: dict[str, Any] = {key: known[key] for key in _KEPT if known and key in known}
    contradicted: list[str] = []
    if not good:
        entry |= _nowhere(bad, target)
        limits: list[dict[str, Any]] = []
    else:
        limits, contradicted = _kept(known, outcomes, source, proves)
        limits += _added(spec, outcomes, limits, bool(known and known.get("certainty") == "certain"))
        entry |= _dtypes(entry, good, target)
        refused = [(case, said) for case, said in bad if said.placement != "cpu"]
        if refused and target.runtime.fallback == "host":
            entry["host_limits"] = _host_limits(
                refused, [case for case, said in bad if said.placement == "cpu"], limits
            )
    if limits:
        entry["limits"] = limits
    entry |= {"certainty": "measured", "source": source}
    made = Measured(spec.kind, entry, len(outcomes), len(good), tuple(contradicted))
    wrong = tuple(case.name for case, said in outcomes if _says(made, case) != _runs(said))
    return Measured(made.kind, entry, made.asked, made.accepted, made.contradicted, wrong)


def _dtypes(entry: Mapping[str, Any], good: Sequence[Case], target: Target) -> dict[str, Any]:
    """The dtypes that an accepted op was seen with, where they are not those of every tensor of the target."""
    seen: dict[str, set[str]] = {}
    results: list[set[str]] = []
    for case in good:
        spec = KINDS[case.kind].inputs.split()
        for i, value in enumerate(case.op.inputs):
            if value is not None and value.dtype:
                seen.setdefault(spec[min(i, len(spec) - 1)].rstrip("?*"), set()).add(value.dtype)
        for i, value in enumerate(case.op.outputs):
            results += [set() for _ in range(i + 1 - len(results))]
            results[i].add(value.dtype or "float32")
    usual = set(target.runtime.dtypes)
    if "dtypes" in entry:
        usual = set(entry["dtypes"])
    made: dict[str, Any] = {}
    other = {name: sorted(dtypes | {"float32"}) for name, dtypes in seen.items() if not dtypes <= usual}
    if other:
        made["operand_dtypes"] = {**entry.get("operand_dtypes", {}), **other}
    if any(not dtypes <= usual for dtypes in results) and "output_dtypes" not in entry:
        made["output_dtypes"] = [sorted(dtypes) for dtypes in results]
    return made


def _nowhere(bad: Sequence[Outcome], target: Target) -> dict[str, Any]:
    """Where an op goes that the accelerator never takes."""
    on_cpu = [said for _, said in bad if said.placement == "cpu"]
    if not on_cpu or target.runtime.fallback != "host":
        return {"device": "none", "note": _why(bad[0][1])}
    refused = [(case, said) for case, said in bad if said.placement != "cpu"]
    made: dict[str, Any] = {"device": "host", "note": _why(on_cpu[0])}
    if refused:
        made["host_limits"] = _host_limits(refused, [case for case, said in bad if said.placement == "cpu"], ())
    return made


def _host_limits(
    refused: Sequence[Outcome], on_cpu: Sequence[Case], limits: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What keeps an op off the host too: the limit that forbids a refused case, if nothing it forbids runs there."""
    found: dict[str, dict[str, Any]] = {}
    for case, said in _plain_first(refused):
        against = next((one for one in limits if _holds(one, case.op) is False), None)
        shared = against is not None and any(_holds(against, other.op) is False for other in on_cpu)
        one = _not(case, said) if against is None or shared else dict(against)
        found.setdefault(one["expr"], one)
    return list(found.values())


def _kept(
    known: Mapping[str, Any] | None, outcomes: Sequence[Outcome], source: str, proves: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """The limits of the file that the compiler does not contradict, and those that it does.

    A guess goes as soon as something beyond it was asked about: the answer stands in its place. So does what was
    measured now in the place of what was measured before.
    """
    limits, contradicted = [], []
    for limit in (known or {}).get("limits", ()):
        beyond = [(case, said) for case, said in outcomes if _holds(limit, case.op) is False]
        if limit.get("source") == source or (limit.get("certainty") == "unknown" and beyond):
            continue
        against = next((case for case, said in beyond if _runs(said)), None)
        if against is None or (not proves and limit.get("certainty") == "certain"):
            limits.append(dict(limit))
        else:
            contradicted.append(f"{limit['expr']} ({against.name} runs)")
    return limits, contradicted


def _added(
    spec: Spec, outcomes: Sequence[Outcome], limits: Sequence[Mapping[str, Any]], documented: bool
) -> list[dict[str, Any]]:
    """Limits for what does not run and that nothing forbids yet.

    Where the op's limits are ``documented``, what is beyond the numbers that were tried is known.
    """
    added: list[dict[str, Any]] = []

    def open_(case: Case) -> bool:
        return all(_holds(limit, case.op) is not False for limit in (*limits, *added))

    if not _runs(outcomes[0][1]) and open_(outcomes[0][0]):
        together = [case.label for case, said in outcomes if case.varied is None and not _runs(said)]
        allowed = [
            case.label
            for case, said in outcomes
            if isinstance(case.varied, Choice) and _runs(said) and not any(case.label in text for text in together)
        ]
        if allowed:
            why = f"only these were seen to run; otherwise {_why(outcomes[0][1])}"
            expr = " or ".join(f"({text})" for text in allowed) if len(allowed) > 1 else allowed[0]
            added.append({"expr": expr, "why": why, **_MEASURED})
    for varied in spec.varied:
        own = [(case, said) for case, said in outcomes if case.varied is varied]
        if isinstance(varied, Range):
            added += _range_limit(varied, own, open_, documented)
        else:
            added += [_not(case, said) for case, said in own if not _runs(said) and open_(case)]
    for case, said in outcomes:
        if case.varied is None and case.label != "plain" and not _runs(said) and open_(case):
            added.append(_not(case, said))
    return added


def _range_limit(
    varied: Range, own: Sequence[Outcome], open_: Callable[[Case], bool], documented: bool
) -> list[dict[str, Any]]:
    runs = {case.value: _runs(said) for case, said in own if case.value is not None}
    good = sorted(value for value, fine in runs.items() if fine)
    bad = [(case, said) for case, said in own if not _runs(said) and open_(case)]
    if not good:
        return []
    if not bad:
        if documented or not all(runs.values()):
            return []
        why = f"nothing larger than {good[-1]} was compiled"
        return [{"expr": f"{varied.fact} <= {good[-1]}", "why": why, "certainty": "unknown"}]
    why = _why(bad[0][1])
    if all(case.value is not None and case.value > good[-1] for case, _ in bad):
        return [{"expr": f"{varied.fact} <= {good[-1]}", "why": why, **_MEASURED}]
    if all(case.value is not None and case.value < good[0] for case, _ in bad):
        return [{"expr": f"{varied.fact} >= {good[0]}", "why": why, **_MEASURED}]
    values = ", ".join(map(str, good)) + ("," if len(good) == 1 else "")
    return [{"expr": f"{varied.fact} in ({values})", "why": why, **_MEASURED}]


def _plain_first(refused: Sequence[Outcome]) -> Sequence[Outcome]:
    """Where the ordinary op is refused, that says it all; otherwise each variation that is."""
    plain = [pair for pair in refused if pair[0].label == "plain"]
    return plain or [pair for pair in refused if pair[0].varied is not None] or refused


def _not(case: Case, said: Said) -> dict[str, Any]:
    if case.label == "plain":
        return {"expr": "False", "why": _why(said), **_MEASURED}
    return {"expr": _negated(case.label), "why": _why(said), **_MEASURED}


_COMPARED = re.compile(r"^([^()]*(?:\([^()]*\))?[^()]*?) (==|!=|<=|>=|<|>) ([^ ]+|'[^']*'|\([^()]*\))$")
_OPPOSITE = {"==": "!=", "!=": "==", "<=": ">", ">=": "<", "<": ">=", ">": "<="}


def _negated(condition: str) -> str:
    """The condition's opposite, simpler than "not (...)" where it is one comparison."""
    found = _COMPARED.match(condition)
    if found and " and " not in condition and " or " not in condition:
        return f"{found[1]} {_OPPOSITE[found[2]]} {found[3]}"
    if re.fullmatch(r"not \w+", condition):
        return condition.removeprefix("not ")
    return f"not {condition}" if re.fullmatch(r"\w+", condition) else f"not ({condition})"


def _why(said: Said) -> str:
    """What the compiler said, short enough for a file."""
    answer = said.answer
    if answer.placement == "cpu":
        text = answer.reasons[0] if answer.reasons else f"left to the CPU: {', '.join(answer.cpu[:3])}"
    elif answer.placement == "wrong":
        text = f"compiles, and then: {answer.message}"
    else:
        text = f"refused ({answer.stage}): {answer.message}"
    text = re.sub(r"(/[\w.+-]+){2,}/?", "", text).partition("flatbuffer_direct write")[0].replace(": Reason: ", ": ")
    return " ".join(text.split())[:160]


def _expression(text: str, kind: str) -> Expression:
    return parse(text, fact_names(kind))


def _holds(limit: Mapping[str, Any], op: Op) -> bool | None:
    names = fact_names(op.kind)

    def fact(name: str) -> Any:
        return names[name](op)

    if "when" in limit and _expression(limit["when"], op.kind).holds(fact)[0] is False:
        return True
    return _expression(limit["expr"], op.kind).holds(fact)[0]


def _says(made: Measured, case: Case) -> bool:
    """Whether the entry puts the case on the accelerator."""
    if made.entry.get("device", "accelerator") != "accelerator":
        return False
    return all(_holds(limit, case.op) is not False for limit in made.entry.get("limits", ()))


# -- the file ------------------------------------------------------------------------------------------------------


def raw_entries(path: Path) -> dict[str, dict[str, Any]]:
    """What a target file, with those that it extends, says of each kind, as it stands there; shared limits put in."""
    import tomllib

    data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    base = data["target"].get("extends")
    found = raw_entries(Target.load(base).path) if base else {}
    shared = data.get("limits", {})
    default = {key: data["target"][key] for key in ("certainty", "source") if key in data["target"]}

    def own(table: Mapping[str, Any]) -> dict[str, Any]:
        made = {**default, **{key: value for key, value in table.items() if key != "kinds"}}
        said = {"certainty": default.get("certainty", "certain"), "source": made.get("source", "")}
        for key in ("limits", "host_limits"):
            if key in made:
                own = [shared[one] if isinstance(one, str) else one for one in made[key]]
                made[key] = [{"expr": one["expr"], **said, **one} for one in own]
        return made

    for kind, table in data.get("ops", {}).items():
        found[kind] = own(table)
    for group in data.get("group", ()):
        for kind in group["kinds"]:
            found[kind] = own(group)
    return found


def _head(out: Path, known: Target, asker: Asker) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", out.stem).strip("-") or "probed"
    versions = ", ".join(f"{package} {version}" for package, version in asker.versions.items())
    base = known.name if known.name in Target.names() else str(known.path.resolve())
    return f"""# {known.title}, corrected by asking {asker.toolchain} about models of one op (porter targets probe).
# "measured" is what the compiler did with this version; beyond what was tried nothing is known.

[target]
name = {json.dumps(name)}
title = {json.dumps(f"{known.title} ({versions})")}
extends = {json.dumps(base)}
certainty = "measured"
source = "probed"

[sources.probed]
cite = {json.dumps(versions)}
about = "Models of one op compiled, and run where there is a simulator, by porter targets probe."

"""


def entries_text(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The [ops.KIND] and [[group]] tables of a target file; kinds of which the same is said share a group."""
    groups: dict[str, list[str]] = {}
    for kind, entry in entries.items():
        groups.setdefault(json.dumps(entry, sort_keys=True), []).append(kind)
    return "\n".join(_tables(groups, entries))


def _tables(groups: Mapping[str, list[str]], entries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for kinds in groups.values():
        if len(kinds) == 1:
            lines = [f"[ops.{kinds[0]}]"]
        else:
            lines = ["[[group]]", *_wrapped("kinds", kinds)]
        for key, value in entries[kinds[0]].items():
            if key in ("limits", "host_limits"):
                lines += [f"{key} = [", *(f"    {_toml(one)}," for one in value), "]"]
            else:
                lines.append(f"{key} = {_toml(value)}")
        yield "\n".join(lines) + "\n"


def _wrapped(key: str, names: Iterable[str]) -> list[str]:
    lines, line = [f"{key} = ["], "   "
    for name in names:
        text = f" {json.dumps(name)},"
        if len(line) + len(text) > 116:
            lines.append(line)
            line = "   "
        line += text
    return [*lines, line, "]"]


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def check_conditions() -> list[str]:
    """Conditions of the cases that do not hold for their own case, or are no expressions: mistakes in the cases."""
    wrong = []
    for spec in SPECS.values():
        for case in (base_case(spec), *cases(spec), *combinations(spec, _COMBINATIONS, _SEED)):
            if case.label != "plain":
                try:
                    if _holds({"expr": case.label}, case.op) is not True:
                        wrong.append(case.name)
                except ExpressionError as error:
                    wrong.append(f"{case.name}: {error}")
    return wrong
