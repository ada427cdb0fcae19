# SPDX-License-Identifier: Apache-2.0
"""The rewrite rules that are installed: porter's own and those of other distributions.

Porter's rules are the modules of the package ``porter.rewrites``. Another distribution adds rules with an entry point
of the group ``porter.rewrites`` whose object is a module, a :class:`~porter.rewrite.Rule`, or a sequence of rules.
Nothing is imported before the first call.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from porter.errors import PorterError
from porter.rewrite import CLAIMS, Rule

__all__ = ["find_rule", "rules", "rules_for"]

_PACKAGE = "porter.rewrites"
_STRENGTH = {claim: i for i, claim in enumerate(CLAIMS)}


def _own() -> Iterator[Rule]:
    package = import_module(_PACKAGE)
    for name in sorted(m.name for m in iter_modules(package.__path__) if not m.name.startswith("_")):
        yield from _in_module(import_module(f"{_PACKAGE}.{name}"))


def _in_module(module: ModuleType) -> Iterator[Rule]:
    """The rules that a module declares, in the order of the file."""
    return (thing for thing in vars(module).values() if isinstance(thing, Rule))


def _rules_of(entry: EntryPoint) -> Iterable[Rule]:
    where = f"entry point {entry.name} = {entry.value}"
    try:
        found: Any = entry.load()
    except Exception as error:
        raise PorterError(
            "PT390",
            f"a rewrite plug-in cannot be loaded: {type(error).__name__}: {error}",
            where=where,
            fix="update or uninstall the distribution that declares it",
        ) from error
    if isinstance(found, ModuleType):
        return _in_module(found)
    if isinstance(found, Rule):
        return (found,)
    if isinstance(found, (list, tuple)) and all(isinstance(item, Rule) for item in found):
        return found
    raise PorterError(
        "PT390",
        "a rewrite plug-in is neither a module, a Rule, nor a sequence of rules",
        where=where,
        fix="decorate the function with @porter.rewrite.rewrite and name it in the entry point",
    )


@cache
def rules() -> dict[str, Rule]:
    """Every rule by its name: porter's own by file name and place in the file, then those of plug-ins.

    Raises:
        PorterError: PT390 when a plug-in cannot be loaded, PT391 when two rules have one name.
    """
    found: dict[str, Rule] = {}
    for rule in _own():
        if rule.name in found:
            raise ValueError(f"two rules are named {rule.name}")
        found[rule.name] = rule
    for entry in sorted(entry_points(group=_PACKAGE), key=lambda e: (e.name, e.value)):
        for rule in _rules_of(entry):
            if rule.name in found:
                raise PorterError(
                    "PT391",
                    f"a rewrite plug-in declares the rule {rule.name}, which exists already",
                    where=f"entry point {entry.name} = {entry.value}",
                    fix="rename the function: its name is the name of the rule",
                )
            found[rule.name] = rule
    return found


def find_rule(name: str, where: str | None = None) -> Rule:
    """The rule of that name. Raises PorterError PT392, which names the nearest one, when there is none."""
    known = rules()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise PorterError("PT392", f"there is no rewrite {name!r}", where, f"{hint}`porter rewrites` lists them.")
    return known[name]


@cache
def rules_for(kind: str) -> tuple[Rule, ...]:
    """The rules that remove ``kind``: the strongest claim first, then the one for the fewest kinds.

    A rule made for ``silu`` comes before one for every element by element op; else the order of :func:`rules` holds.
    """
    return tuple(
        sorted((r for r in rules().values() if kind in r.removes), key=lambda r: (_STRENGTH[r.claim], len(r.removes)))
    )
