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
    """A report, ledger or evidence as indented JSON text; infinities and NaN become null."""
    return json.dumps(_finite(report.to_json()), indent=2)


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
    return json.dumps(_finite(data), indent=2)


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of ``report``, ``baseline`` or ``diff``."""
    page = resources.files("porter.report").joinpath("schema", f"{name}.schema.json")
    found: dict[str, Any] = json.loads(page.read_text(encoding="utf-8"))
    return found


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    if isinstance(data, float) and (data != data or abs(data) == float("inf")):
        return None
    return data
