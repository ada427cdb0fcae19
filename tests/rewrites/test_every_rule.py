# SPDX-License-Identifier: Apache-2.0
"""What holds for every rule: its page, its kinds, its claim, its tests."""

import re
from pathlib import Path

import pytest
import reference

from porter.ops import KINDS
from porter.registry import rules
from porter.rewrite import CLAIMS, Rule

HERE = Path(__file__).parent
RULES = list(rules().values())
OWN = [r for r in RULES if r.build.__module__.startswith("porter.rewrites.")]
TESTS = {p.name: p.read_text(encoding="utf-8") for p in HERE.glob("test_*.py")}


def _module(rule: Rule) -> str:
    return rule.build.__module__.rpartition(".")[2]


@pytest.mark.parametrize("rule", OWN, ids=lambda r: r.name)
def test_page(rule: Rule) -> None:
    """A summary of one sentence, then Formula, Example, Bound, and when it does not apply, in that order."""
    page = rule.doc
    places = [page.find(f"    {head}: ") for head in ("Formula", "Example", "Bound", "Does not apply")]
    assert -1 not in places and places == sorted(places), f"{rule.name}: {places}"
    assert page.split("\n\n")[0].endswith("."), "the first paragraph is not a sentence"
    assert "``" in page[places[1] : places[2]] and "->" in page[places[1] : places[2]], "the example shows no code"


@pytest.mark.parametrize("rule", OWN, ids=lambda r: r.name)
def test_kinds_and_claim(rule: Rule) -> None:
    assert rule.removes and set(rule.removes) <= KINDS.keys()
    assert set(rule.yields) <= KINDS.keys()
    assert set(rule.yields) <= reference.kinds(), "the numpy reference does not know a kind that the rule yields"
    assert rule.claim in CLAIMS
    if rule.claim != "exact":
        assert rule.error, "a claim that is not exact states its bound"
    numbers = re.findall(r"\b\d[\d.e-]*\b", rule.error)
    bound = rule.doc.partition("Bound:")[2].partition("Does not apply:")[0]
    for number in numbers:
        assert number in bound, f"the page does not state the bound {rule.error!r}"
    if rule.claim in ("approximate", "retrain"):
        assert f"--allow {rule.claim}" in rule.doc
    if rule.optional:
        assert "--apply" in rule.doc


@pytest.mark.parametrize("rule", OWN, ids=lambda r: r.name)
def test_has_a_test(rule: Rule) -> None:
    """The test file of the rule's module names it; and tests a refusal unless the page says that it always applies."""
    name = f"test_{_module(rule)}.py"
    assert name in TESTS, f"tests/rewrites/{name} is missing"
    assert f'"{rule.name}"' in TESTS[name]


def test_every_module_is_flat_and_imports_nothing_but_the_interface() -> None:
    folder = HERE.parent.parent / "rewrites"
    allowed = {"porter.ops", "porter.rewrite", "numpy"}
    for path in folder.glob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if found := re.match(r"(?:from|import) (porter[\w.]*|numpy|torch|onnx)", line):
                assert found[1] in allowed, f"{path.name}: {line}"


def test_names_are_told_apart() -> None:
    assert len({r.name for r in RULES}) == len(RULES)
    for rule in OWN:
        assert re.fullmatch(r"[a-z][a-z0-9_]+", rule.name)
