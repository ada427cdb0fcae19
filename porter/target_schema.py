# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of target files, made from the dataclasses of :mod:`porter.target`: for editors.

It knows the shape of a file: tables, keys, types, choices, names of ops and dtypes. What porter checks beyond that
(expressions, citations, inheritance) it says itself, with the line.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from porter.files import atomic_file
from porter.ops import KINDS
from porter.target_file import DTYPES, LIMIT_KEYS, OP_KEYS, SECTIONS, SHARED_LIMIT_KEYS, SOURCE_KEYS, TARGET_KEYS

__all__ = ["target_schema", "write_schema"]

_SCALARS: dict[Any, str] = {str: "string", bool: "boolean", int: "integer", float: "number"}
_DTYPE_LISTS = frozenset({"dtypes", "host_dtypes", "quantized"})
_KIND_LISTS = frozenset(
    {"quantized_ops", "per_tensor_ops", "passive_ops", "fused_followers", "table_ops", "opted_in", "kinds"}
)


def target_schema() -> dict[str, Any]:
    """The schema, as JSON that ``porter targets schema`` prints (draft 2020-12)."""
    ops = _table(OP_KEYS)
    group = _table({**OP_KEYS, "kinds": tuple[str, ...]}, ("kinds",))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A target of porter: a device as data",
        "type": "object",
        "additionalProperties": False,
        "required": ["target"],
        "properties": {
            "target": _table(TARGET_KEYS, ("name",)),
            "sources": {"type": "object", "additionalProperties": _table(SOURCE_KEYS, ("cite",))},
            "limits": {"type": "object", "additionalProperties": _table(SHARED_LIMIT_KEYS, ("expr", "why"))},
            **{name: _section(cls) for name, cls in SECTIONS.items()},
            "ops": {"type": "object", "propertyNames": {"$ref": "#/$defs/kind"}, "additionalProperties": ops},
            "group": {"type": "array", "items": group},
        },
        "$defs": {
            "kind": {"anyOf": [{"enum": sorted(KINDS)}, {"pattern": "^dynamic_"}, {"pattern": "[.:]"}]},
            "dtype": {"enum": sorted(DTYPES)},
            "certainty": {"enum": list(get_args(TARGET_KEYS["certainty"]))},
            "limit": {"anyOf": [{"type": "string"}, _table(LIMIT_KEYS, ("expr", "why"))]},
            "about": _table({"certainty": TARGET_KEYS["certainty"], "source": TARGET_KEYS["source"], "note": str}),
        },
    }


def _section(cls: type[Any]) -> dict[str, Any]:
    hints = {name: hint for name, hint in get_type_hints(cls).items() if name != "about"}
    made = _table(hints)
    made["properties"]["about"] = {
        "type": "object",
        "propertyNames": {"enum": list(hints)},
        "additionalProperties": {"$ref": "#/$defs/about"},
    }
    return made


def _table(keys: Mapping[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _key(name, hint) for name, hint in keys.items()},
    }
    return {**made, "required": list(required)} if required else made


def _key(name: str, hint: Any) -> dict[str, Any]:
    if name in _DTYPE_LISTS:
        return {"type": "array", "items": {"$ref": "#/$defs/dtype"}}
    if name in _KIND_LISTS:
        return {"type": "array", "items": {"$ref": "#/$defs/kind"}}
    if name == "certainty":
        return {"$ref": "#/$defs/certainty"}
    return {"type": "array", "items": {"$ref": "#/$defs/limit"}} if hint is tuple else _type(hint)


def _type(hint: Any) -> dict[str, Any]:
    origin, args = get_origin(hint), get_args(hint)
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if origin in (Union, UnionType):
        arms = [_type(arm) for arm in args if arm is not NoneType]
        return arms[0] if len(arms) == 1 else {"anyOf": arms}
    if origin is Literal:
        return {"enum": list(args)}
    if origin is tuple:
        return {"type": "array", "items": _type(args[0])}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        names = [part.name for part in dataclasses.fields(hint)]
        return _table(get_type_hints(hint), tuple(names))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _type(args[1])}
    raise TypeError(f"no schema for {hint!r}")


def write_schema(out: Path, overwrite: bool = False) -> Path:
    """Write :func:`target_schema` to ``out``, as :func:`porter.files.atomic_file` writes."""
    with atomic_file(out, overwrite) as path:
        path.write_text(json.dumps(target_schema(), indent=2) + "\n", encoding="utf-8")
    return out
