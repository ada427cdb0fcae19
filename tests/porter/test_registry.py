# SPDX-License-Identifier: Apache-2.0
"""The registry: discovery, order, plug-ins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest

from porter import registry
from porter.errors import PorterError
from porter.rewrite import CLAIMS, Builder, Rule, rewrite


@rewrite(removes="silu", yields="relu", claim="retrain", error="0.28 absolute")
def a_plug_in(b: Builder, op: Any) -> Any:
    """silu becomes relu."""
    return b.relu(op.operands[0])


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    registry.rules.cache_clear()
    registry.rules_for.cache_clear()
    yield
    registry.rules.cache_clear()
    registry.rules_for.cache_clear()


def _install(monkeypatch: pytest.MonkeyPatch, thing: Any, name: str = "mine") -> None:
    module = ModuleType("porter_test_plugin")
    module.thing = thing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "porter_test_plugin", module)
    entry = EntryPoint(name, "porter_test_plugin:thing", "porter.rewrites")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == "porter.rewrites" else [])


def test_the_rules_are_found_and_ordered() -> None:
    found = registry.rules()
    assert len(found) > 150
    assert all(name == rule.name for name, rule in found.items())
    strength = list(CLAIMS)
    for kind in ("silu", "slice_assign", "clamp", "gelu"):
        ranks = [strength.index(rule.claim) for rule in registry.rules_for(kind)]
        assert ranks and ranks == sorted(ranks)
        assert all(kind in rule.removes for rule in registry.rules_for(kind))
    assert registry.rules_for("silu")[0].name == "silu_to_sigmoid_mul"
    assert registry.rules_for("no_such_kind") == ()


def test_the_order_does_not_change() -> None:
    first = list(registry.rules())
    registry.rules.cache_clear()
    assert list(registry.rules()) == first


@pytest.mark.parametrize("wrap", [lambda r: r, lambda r: [r], lambda r: (r,)])
def test_plug_in(monkeypatch: pytest.MonkeyPatch, wrap: Any) -> None:
    _install(monkeypatch, wrap(a_plug_in))
    assert registry.rules()["a_plug_in"] is a_plug_in
    assert a_plug_in in registry.rules_for("silu")


def test_plug_in_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("rules_of_mine")
    module.a_plug_in = a_plug_in  # type: ignore[attr-defined]
    _install(monkeypatch, module)
    assert "a_plug_in" in registry.rules()


def test_plug_in_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("broken", "no_such_module_anywhere", "porter.rewrites")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    with pytest.raises(PorterError) as caught:
        registry.rules()
    assert caught.value.code == "PT390" and "no_such_module_anywhere" in str(caught.value)


def test_plug_in_that_is_no_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, 42)
    with pytest.raises(PorterError) as caught:
        registry.rules()
    assert caught.value.code == "PT390"


def test_plug_in_that_takes_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Rule("silu_to_sigmoid_mul", ("silu",), ("relu",), "exact", "", "page", a_plug_in.build)
    _install(monkeypatch, taken)
    with pytest.raises(PorterError) as caught:
        registry.rules()
    assert caught.value.code == "PT391" and "mine" in str(caught.value)


def test_nothing_is_imported_before_the_first_call() -> None:
    code = (
        "import sys, porter.registry\n"
        "assert not [m for m in sys.modules if m.startswith('porter.rewrites')]\n"
        "porter.registry.rules()\n"
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
