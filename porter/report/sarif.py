# SPDX-License-Identifier: Apache-2.0
"""SARIF 2.1.0 (OASIS), for code scanning and editors: results on the lines of the user's source.

Findings that say the same at the same place are one result with an ``occurrenceCount``. Where the source line is not
known, or not below the folder that porter runs in, the result is at the model's file and its logical location is the
module path. The metadata of a rule are the explain page of its code.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from porter.baseline import Gate, fingerprint
from porter.errors import codes, explain
from porter.report.groups import Located, located

if TYPE_CHECKING:
    from porter.report.formats import Context

__all__ = ["to_sarif"]

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_ROOT = "%SRCROOT%"
#: How many modules and nodes of one result are named; the count is exact.
_NAMED = 20


def to_sarif(gate: Gate, context: Context) -> str:
    """A gate as a SARIF log with one run."""
    groups = located(gate, context.places)
    used = sorted({group.first.code for group in groups})
    seen: Counter[str] = Counter()
    results = [_result(group, used.index(group.first.code), gate, context, seen) for group in groups]
    run = {
        "tool": {"driver": {"name": "porter", "semanticVersion": version("porter-ml"), "rules": _rules(used)}},
        "automationDetails": {"id": f"porter/{_quoted(gate.report.target)}/{_quoted(gate.report.model)}/"},
        "originalUriBaseIds": {_ROOT: {"description": {"text": "The folder that porter was run in."}}},
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": True}],
        "results": results,
        "properties": {
            "target": gate.report.target,
            "model": gate.report.model,
            "summary": dict(gate.report.summary),
            "portable": gate.report.portable,
        },
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1)


def _rules(used: Sequence[str]) -> list[dict[str, Any]]:
    titles = dict(codes())
    return [_rule(code, titles[code]) for code in used]


def _rule(code: str, title: str) -> dict[str, Any]:
    page = explain(code)
    meaning = re.search(r"^## What it means\n+(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return {
        "id": code,
        "shortDescription": {"text": title},
        "fullDescription": {"text": " ".join(meaning[1].split()) if meaning else title},
        "help": {"text": page, "markdown": page},
    }


def _result(group: Located, index: int, gate: Gate, context: Context, seen: Counter[str]) -> dict[str, Any]:
    first, op = group.first, group.items[0].op
    mark = fingerprint(first, context.places)
    seen[mark] += 1
    message = f"{group.title}. {first.message}" + (f". Fix: {first.fix}" if first.fix else "")
    result: dict[str, Any] = {
        "ruleId": first.code,
        "ruleIndex": index,
        "level": "note" if group.state == "accepted" else first.severity,
        "message": {"text": message},
        "locations": [_location(group, context)],
        "occurrenceCount": len(group.items),
        # Equal findings differ by their number, as in the baseline.
        "partialFingerprints": {"porterFinding/v1": f"{mark}:{seen[mark]}"},
        "properties": {"kind": first.kind, "verdict": op.verdict if op else None, "recorded": str(first.origin)},
    }
    if gate.baseline is not None:
        result["baselineState"] = "new" if group.state == "new" else "unchanged"
    return result


def _location(group: Located, context: Context) -> dict[str, Any]:
    physical: Mapping[str, Any] | None = None
    if group.path is not None:
        physical = {"artifactLocation": _artifact(group.path)}
        if group.line:
            physical = {**physical, "region": {"startLine": group.line}}
    elif context.model is not None and (path := context.places.relative(context.model)) is not None:
        physical = {"artifactLocation": _artifact(path)}
    logical = [{"fullyQualifiedName": name, "kind": "module"} for name in group.modules[:_NAMED]]
    nodes = list(dict.fromkeys(item.finding.op for item in group.items if item.finding.op))
    logical += [{"name": name, "kind": "element"} for name in nodes[:_NAMED]]
    location: dict[str, Any] = {"logicalLocations": logical} if logical else {}
    return {**location, "physicalLocation": physical} if physical else location


def _artifact(path: str) -> dict[str, str]:
    return {"uri": _quoted(path), "uriBaseId": _ROOT}


def _quoted(text: str) -> str:
    return quote(text, errors="surrogateescape")
