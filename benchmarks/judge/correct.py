# SPDX-License-Identifier: Apache-2.0
"""Corrects targets/NAME.toml by the answers in build/judge: python -m benchmarks.judge.correct NAME.

What is measured of a kind takes the place of what the file says of it (see porter.probe.derive); kinds that the corpus
lacks stay. Prints the limits that the compiler contradicts, and the cases that the new entry still says otherwise of.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from porter.probe import derive, entries_text, measure, raw_entries
from porter.target import Target
from porter.toolchains import environment
from porter.toolchains.ask import Asker
from porter.toolchains.catalogue import SPECS

from .__main__ import ROOT, WORK
from .measure import depth

SOURCE = """
[sources.probed]
cite = "{cite}"
about = "Models of one op around the limits, compiled and run (make judge)."
"""


def correct(name: str) -> None:
    """Rewrite the ops of one target's file."""
    toolchain = environment.for_target(name)
    assert toolchain is not None
    target = Target.load(name)
    entries: dict[str, dict[str, Any]] = raw_entries(target.path)
    with Asker(toolchain, name, WORK / f"{name}.jsonl") as asker:
        for kind, spec in SPECS.items():
            proves = getattr(environment.adapter(toolchain), "PROVES", True)
            outcomes = measure(asker, spec, depth(name, kind))
            made = derive(spec, outcomes, entries.get(kind), target, "probed", proves)
            entries[kind] = dict(made.entry)
            for text in made.contradicted:
                print(f"{kind}: contradicted: {text}")
            for text in made.unexplained:
                print(f"{kind}: unexplained: {text}")
        cite = ", ".join(f"{package} {version}" for package, version in asker.versions.items())
    text = target.path.read_text(encoding="utf-8")
    head = re.split(r"^\[(?:ops\.|\[group|limits\.)", text, maxsplit=1, flags=re.MULTILINE)[0]
    if "[sources.probed]" not in head:
        at = head.index("\n[runtime]")
        head = head[:at] + SOURCE.format(cite=cite) + head[at:]
    order = [*SPECS, *(kind for kind in entries if kind not in SPECS)]
    body = entries_text({kind: entries[kind] for kind in order if kind in entries})
    (ROOT / "targets" / f"{name}.toml").write_text(f"{head.rstrip()}\n\n{body}", encoding="utf-8")
    Target.load(name)


if __name__ == "__main__":
    for given in sys.argv[1:]:
        correct(given)
