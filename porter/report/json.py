# SPDX-License-Identifier: Apache-2.0
"""Reports for programs: the JSON whose ``schema_version`` is :data:`porter.findings.SCHEMA_VERSION`.

``porter/report/schema/`` holds its JSON Schema, and those of the baseline and of the difference of two reports.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from porter.baseline import Gate
    from porter.report.formats import Context

__all__ = ["gate_to_json", "schema", "to_json"]


class _HasJson(Protocol):
    def to_json(self) -> dict[str, Any]: ...


def to_json(report: _HasJson) -> str:
    """A report, ledger or evidence as JSON text, a line for each key and each item of a list; infinities and NaN become
    null."""
    return _text(report.to_json())


def gate_to_json(gate: Gate, _context: Context) -> str:
    """The report; with a baseline also ``baseline``: what is new (as indices of ``findings``), known and gone."""
    data = gate.report.to_json()
    if gate.baseline is not None:
        data["baseline"] = {
            "file": gate.baseline.path,
            "new": [index for index, item in enumerate(gate.judged) if item.state == "new"],
            "known": gate.count("known"),
            "gone": len(gate.gone),
        }
    return _text(data)


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of ``report``, ``baseline`` or ``diff``."""
    page = resources.files("porter.report").joinpath("schema", f"{name}.schema.json")
    found: dict[str, Any] = json.loads(page.read_text(encoding="utf-8"))
    return found


def _text(data: dict[str, Any]) -> str:
    """Lines are for people and for diff; json's own indentation is written in Python, ten times as slow."""
    return "{\n" + ",\n".join(f"  {json.dumps(str(key))}: {_member(value)}" for key, value in data.items()) + "\n}"


def _member(value: Any) -> str:
    if not (isinstance(value, (list, tuple)) and value):
        return _line(value)
    return "[\n" + ",\n".join(f"    {_line(item)}" for item in value) + "\n  ]"


def _line(value: Any) -> str:
    try:
        return _strict(value)
    except ValueError:  # a number that JSON has not
        return _strict(_finite(value))


_strict = json.JSONEncoder(allow_nan=False).encode


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    if isinstance(data, float) and (data != data or abs(data) == float("inf")):
        return None
    return data
