# SPDX-License-Identifier: Apache-2.0
"""Reports for programs: the JSON whose ``schema_version`` is :data:`porter.findings.SCHEMA_VERSION`."""

from __future__ import annotations

import json
from typing import Any, Protocol

__all__ = ["to_json"]


class _HasJson(Protocol):
    def to_json(self) -> dict[str, Any]: ...


def to_json(report: _HasJson) -> str:
    """A report, ledger or evidence as indented JSON text; infinities and NaN become null."""
    return json.dumps(_finite(report.to_json()), indent=2)


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    if isinstance(data, float) and (data != data or abs(data) == float("inf")):
        return None
    return data
