# SPDX-License-Identifier: Apache-2.0
"""Reads target files: finds them, checks every key, puts a file over the one that it extends.

A file is data from anywhere: it is size-limited, parsed as TOML, checked key by key, and its expressions are compiled
by :mod:`porter.limits`. Every mistake is a PT509 with line and key (:mod:`porter.toml_lines`). The schema is the
dataclasses of :mod:`porter.target`; a checker of their type hints is here because importing pydantic takes longer
(64 ms) than reading a target does.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from porter.errors import PorterError
from porter.limits import Expression, ExpressionError, parse
from porter.op_facts import fact_names
from porter.ops import KINDS, kind_known
from porter.target import (
    About,
    Artifact,
    Certainty,
    Device,
    Fallback,
    Limit,
    ModelLimits,
    OpSupport,
    Performance,
    Quantization,
    Runtime,
    Section,
    Source,
    Target,
    Tolerance,
)
from porter.toml_lines import Key, key_on, lines

__all__ = [
    "DTYPES", "ENTRY_POINTS", "LIMIT_KEYS", "OP_KEYS", "SECTIONS", "SHARED_LIMIT_KEYS", "SOURCE_KEYS", "TARGET_KEYS",
    "installed", "read",
]  # fmt: skip

#: The entry-point group of third-party targets: ``name = "package"`` where the package holds ``name.toml``.
ENTRY_POINTS = "porter.targets"

DTYPES = frozenset(
    {"bool", "complex64", "complex128", "bfloat16", "float8_e4m3fn", "float8_e5m2"}
    | {f"float{bits}" for bits in (16, 32, 64)}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (4, 8, 16, 32, 64)}
)
_MAX_BYTES = 4 * 2**20
#: What describes more targets than this describes none.
_FEW = 4


def installed() -> list[str]:
    """The names of the targets that come with porter or with an installed package."""
    return sorted({*_builtin(), *(point.name for point in _entry_points())})


def read(target: str) -> Target:
    """The target of that name or path; see :meth:`porter.target.Target.load`."""
    file = _Layer.read(_find(target, None))
    return _build(file, _merge(file, ()))


# -- finding files -----------------------------------------------------------------------------------------------


def _builtin() -> dict[str, Path]:
    # Not importlib.resources.files: it imports zipfile, 10 ms.
    folders = map(Path, import_module("porter.targets").__path__)
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def _entry_points() -> Sequence[Any]:
    from importlib.metadata import entry_points  # 35 ms: only where porter's own targets are not enough

    return tuple(entry_points(group=ENTRY_POINTS))


def _find(name: str, beside: Path | None) -> Path:
    """The file of a target: a path (relative to the folder ``beside``), or the name of an installed target."""
    if name.endswith(".toml") or "/" in name or "\\" in name:
        from porter.files import input_file

        return input_file(beside / name if beside else Path(name))
    built_in = _builtin()
    if name in built_in:
        return built_in[name]
    points = {point.name: point for point in _entry_points()}
    if name in points:
        from importlib import resources

        module = points[name].module
        try:
            return Path(str(resources.files(module))) / f"{name}.toml"
        except ImportError as error:
            message = f"target {name!r} is announced by {module}, which cannot be imported: {error}"
            raise PorterError("PT508", message, fix="Install that package again.") from error
    near = _nearest(name, [*built_in, *points]) or ", ".join(_told(name, built_in))
    hint = f"Did you mean {near}? " if near else ""
    raise PorterError("PT508", f"there is no target {name!r}", fix=f"{hint}`porter targets` lists all.")


def _told(text: str, files: Mapping[str, Path]) -> list[str]:
    """The targets that the text describes, such as a chip or a vendor, if it is no more than a few."""
    wanted = _letters(text)
    found = []
    for name, path in files.items():
        head = tomllib.loads(path.read_text(encoding="utf-8"))["target"]
        if wanted and any(wanted in _letters(head.get(key, "")) for key in ("title", "vendor", "description")):
            found.append(name)
    return found if len(found) <= _FEW else []


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _nearest(name: str, names: Iterable[str]) -> str | None:
    import difflib

    return next(iter(difflib.get_close_matches(name, list(names), n=1)), None)


# -- reading a file ----------------------------------------------------------------------------------------------

# What a file can say: the keys of each table, with their types.
SECTIONS: dict[str, type[Section]] = {
    "runtime": Runtime,
    "model": ModelLimits,
    "quantization": Quantization,
    "tolerance": Tolerance,
    "performance": Performance,
    "artifact": Artifact,
}
TARGET_KEYS: dict[str, Any] = {
    "name": str,
    "title": str,
    "vendor": str,
    "description": str,
    "extends": str,
    "inherited_certainty": Certainty,
    "closed": bool,
    "certainty": Certainty,
    "source": str | tuple[str, ...],
}
SOURCE_KEYS = {"cite": str, "url": str, "about": str}
_ABOUT_KEYS = {"certainty": Certainty, "source": str | tuple[str, ...], "note": str}
LIMIT_KEYS = {"expr": str, "when": str, "why": str, "certainty": Certainty, "source": str | tuple[str, ...]}
SHARED_LIMIT_KEYS = {**LIMIT_KEYS, "every": bool}
OP_KEYS: dict[str, Any] = {
    "names": tuple[str, ...],
    "device": Device,
    "dtypes": tuple[str, ...],
    "operand_dtypes": Mapping[str, tuple[str, ...]],
    "output_dtypes": tuple[tuple[str, ...], ...],
    "const_inputs": tuple[str, ...],
    "limits": tuple,
    "certainty": Certainty,
    "source": str | tuple[str, ...],
    "note": str,
    "quantized": tuple[str, ...],
    "opt_in": str,
    "fallback": Fallback,
    "host_dtypes": tuple[str, ...],
    "host_limits": tuple,
}


@dataclass
class _Layer:
    """One file, parsed. Nothing of it is trusted before the checks below."""

    path: Path
    text: str
    data: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> _Layer:
        try:
            with path.open("rb") as stream:
                raw = stream.read(_MAX_BYTES + 1)
        except OSError as error:
            raise PorterError("PT501", f"{path} cannot be read: {error.strerror}", where=str(path)) from error
        if len(raw) > _MAX_BYTES:
            raise PorterError("PT509", f"{path} is larger than {_MAX_BYTES // 2**20} MiB", where=str(path))
        try:
            text = raw.decode("utf-8")
            return cls(path, text, tomllib.loads(text))
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            raise PorterError("PT509", "the file is not UTF-8 text", where=f"{path}:{line}") from error
        except tomllib.TOMLDecodeError as error:
            at = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
            line = int(at[1]) if at else text.rstrip("\n").count("\n") + 1
            message = f"not TOML: {str(error).partition(' (at ')[0]}"
            raise PorterError("PT509", message, where=f"{path}:{line}, {key_on(text, line)}") from error
        except (RecursionError, ValueError) as error:
            raise PorterError("PT509", f"not TOML that can be read: {error}", where=f"{path}:1") from error

    def fail(self, key: Sequence[Key], message: str, fix: str | None = None) -> NoReturn:
        """Raise PT509 at the line of ``key``, or of the innermost table around it that the file has."""
        found = lines(self.text)
        line = next((found[at] for n in range(len(key), 0, -1) if (at := tuple(key[:n])) in found), 1)
        raise PorterError("PT509", message, where=f"{self.path}:{line}, {_dotted(key)}", fix=fix)

    def table(self, value: Any, key: Sequence[Key], keys: Mapping[str, Any], what: str) -> dict[str, Any]:
        """``value`` as a table with these keys, each of its type."""
        if not isinstance(value, dict):
            self.fail(key, f"{_dotted(key)} must be a table, not {_toml_type(value)}")
        for name, item in value.items():
            if name not in keys:
                near = _nearest(name, keys)
                fix = f"Did you mean {near!r}?" if near else f"The keys are {', '.join(keys)}."
                self.fail((*key, name), f"{name!r} is not a key of {what}", fix)
            self.typed(item, keys[name], (*key, name))
        return value

    def typed(self, value: Any, hint: Any, key: Sequence[Key]) -> None:
        """Check a value against a type: Literal, tuple (an array), Mapping (a table), a dataclass, or a scalar."""
        origin = get_origin(hint)
        if origin in (Union, UnionType):
            kinds = [arm for arm in get_args(hint) if arm is not NoneType]
            fits = next((arm for arm in kinds if isinstance(value, _outer(arm))), kinds[0])
            self.typed(value, fits, key)
        elif origin is Literal:
            self.one_of(value, get_args(hint), key, f"value of {_dotted(key)}")
        elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
            keys = get_type_hints(hint)
            self.table(value, key, keys, _dotted(key))
            for part in dataclasses.fields(hint):
                if part.name not in value:
                    self.fail(key, f"{_dotted(key)} lacks {part.name!r}")
        elif not isinstance(value, _outer(hint)) or (isinstance(value, bool) and hint is not bool):
            self.fail(key, f"{_dotted(key)} must be {_type_name(hint)}, not {_toml_type(value)}")
        elif origin is tuple:
            for i, item in enumerate(value):
                self.typed(item, get_args(hint)[0], (*key, i))
        elif isinstance(value, dict) and origin is not None:
            for name, item in value.items():
                self.typed(item, get_args(hint)[1], (*key, name))

    def one_of(self, value: Any, names: Iterable[str], key: Sequence[Key], what: str) -> None:
        """Check that ``value`` is one of ``names``."""
        known = list(names)
        if value not in known:
            near = _nearest(value, known) if isinstance(value, str) else None
            listed = ", ".join(known) if len(known) <= 24 else ""
            fix = f"Did you mean {near!r}?" if near else f"It can be {listed}." if listed else None
            self.fail(key, f"{value!r} is not a {what}", fix)


def _outer(hint: Any) -> Any:
    origin = get_origin(hint) or hint
    if origin is tuple:
        return list
    if origin is Literal:
        return str
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return dict
    return int | float if origin is float else origin


def _type_name(hint: Any) -> str:
    names = {str: "a string", bool: "true or false", int: "a whole number", float: "a number"}
    return names.get(hint) or ("an array" if _outer(hint) is list else "a table")


def _toml_type(value: Any) -> str:
    names = {str: "a string", bool: "true or false", int: "a whole number", float: "a number", list: "an array"}
    return names.get(type(value), "a table" if isinstance(value, dict) else "a date")


def _dotted(key: Sequence[Key]) -> str:
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


# -- checking and merging ----------------------------------------------------------------------------------------


@dataclass
class _Merged:
    """What a file and the targets that it extends say together. Citations are already written out."""

    meta: dict[str, Any]
    sections: dict[str, dict[str, Any]]
    abouts: dict[str, dict[str, About]]
    sources: dict[str, Source]
    limits: dict[str, dict[str, Any]]
    ops: dict[str, OpSupport]


def _merge(file: _Layer, seen: tuple[Path, ...]) -> _Merged:
    path = file.path.resolve()
    top = {"target", *SECTIONS, "sources", "limits", "ops", "group"}
    for name, value in file.data.items():
        if name not in top:
            near = _nearest(name, top)
            fix = f"Did you mean {near!r}?" if near else f"The tables are {', '.join(sorted(top))}."
            file.fail((name,), f"{name!r} is not a table of a target", fix)
        if name != "group" and not isinstance(value, dict):
            file.fail((name,), f"{name} must be a table, not {_toml_type(value)}")
    meta = file.table(file.data.get("target", {}), ("target",), TARGET_KEYS, "[target]")
    if "name" not in meta:
        file.fail(("target",), "[target] lacks 'name'")
    base = _base(file, meta, (*seen, path))
    for name, source in file.data.get("sources", {}).items():
        file.table(source, ("sources", name), SOURCE_KEYS, "a source")
        if "cite" not in source:
            file.fail(("sources", name), f"sources.{name} lacks 'cite'")
        base.sources[name] = Source(**source)
    reader = _Reader(file, base.sources)
    for name, limit in file.data.get("limits", {}).items():
        file.table(limit, ("limits", name), SHARED_LIMIT_KEYS, "a limit")
        base.limits[name] = {**limit, "cited": reader.cited(limit, ("limits", name), (None, None))}
    for name, cls in SECTIONS.items():
        if name in file.data:
            reader.section(name, cls, base)
    base.meta = {**meta, "cited": reader.default}
    base.ops.update(reader.ops(base.limits))
    return base


def _base(file: _Layer, meta: dict[str, Any], chain: tuple[Path, ...]) -> _Merged:
    """What the extended target says, or nothing."""
    if "extends" not in meta:
        return _Merged({}, {}, {}, {}, {}, {})
    key = ("target", "extends")
    try:
        path = _find(meta["extends"], file.path.parent)
    except PorterError as error:
        file.fail(key, error.message, error.fix)
    if path.resolve() in chain:
        names = " extends ".join(p.name for p in (*chain, path))
        file.fail(key, f"targets that extend each other: {names}")
    base = _merge(_Layer.read(path), chain)
    if "inherited_certainty" in meta:
        _cap(base, meta["inherited_certainty"])
    return base


def _cap(base: _Merged, most: Certainty) -> None:
    """Lower the certainty of everything that is said to at most ``most``."""
    weaker: Sequence[Certainty] = get_args(Certainty)

    def capped(certainty: Certainty) -> Certainty:
        return max(certainty, most, key=weaker.index)

    for said in base.abouts.values():
        said.update({key: dataclasses.replace(about, certainty=capped(about.certainty)) for key, about in said.items()})
    for limit in base.limits.values():
        certainty, source = limit["cited"]
        limit["cited"] = (certainty and capped(certainty), source)
    for kind, op in base.ops.items():
        limits = tuple(dataclasses.replace(limit, certainty=capped(limit.certainty)) for limit in op.limits)
        base.ops[kind] = dataclasses.replace(op, certainty=capped(op.certainty), limits=limits)


class _Reader:
    """Checks the tables of one file and turns them into what :class:`Target` holds."""

    def __init__(self, file: _Layer, sources: Mapping[str, Source]) -> None:
        self._file, self._sources = file, sources
        self.default: tuple[Certainty, str] = ("certain", "")
        self.default = self.cited(file.data["target"], ("target",))

    def cited(self, table: Mapping[str, Any], key: Sequence[Key], default: Any = None) -> tuple[Certainty, str]:
        """The certainty and the citation of a table; ``default``, or the file's own, where it gives none."""
        certainty, source = default or self.default
        if "source" in table:
            listed = [table["source"]] if isinstance(table["source"], str) else table["source"]
            source = "; ".join(self._cite(item, (*key, "source")) for item in listed)
        return table.get("certainty", certainty), source

    def _cite(self, text: str, key: Sequence[Key]) -> str:
        name, _, place = text.partition(":")
        if name not in self._sources:
            self._file.one_of(name, self._sources, key, "name in [sources]")
        cite = self._sources[name].cite
        return f"{cite}:{place}" if place else cite

    def section(self, name: str, cls: type[Section], into: _Merged) -> None:
        """Check one section and put it over what ``into`` has; a new value drops what was said about the old one."""
        values = dict(self._file.data[name])
        abouts = values.pop("about", {})
        keys = {key: hint for key, hint in get_type_hints(cls).items() if key != "about"}
        self._file.table(values, (name,), keys, f"[{name}]")
        self._file.table(abouts, (name, "about"), dict.fromkeys(keys, dict), f"[{name}]")
        said = into.abouts.setdefault(name, {})
        for key in values:
            said[key] = About(*self.default)
        for key, about in abouts.items():
            at = (name, "about", key)
            self._file.table(about, at, _ABOUT_KEYS, "what is said about a value")
            said[key] = About(*self.cited(about, at), about.get("note", ""))
        into.sections.setdefault(name, {}).update(values)
        self._names_in_section(name, values, into)

    def _names_in_section(self, name: str, values: Mapping[str, Any], into: _Merged) -> None:
        for key in ("dtypes", "output_dtypes", "qmax", "qmin"):
            for i, dtype in enumerate(values.get(key, ())):
                self._file.one_of(dtype, DTYPES, (name, key, dtype if key in ("qmax", "qmin") else i), "dtype")
        for width, dtypes in values.get("widths", {}).items():
            at = (name, "widths", width)
            if len(dtypes) != 2:
                self._file.fail(at, f"{width} must be [dtype of weights, dtype of activations]")
            for i, dtype in enumerate(dtypes):
                self._file.one_of(dtype, into.sections[name].get("qmax", {}), (*at, i), "dtype in qmax")
        for key in (
            "quantized_ops", "per_tensor_ops", "passive_ops", "fused_followers", "table_ops", "ops", "opted_in",
        ):  # fmt: skip
            for i, kind in enumerate(values.get(key, ())):
                self._kind(kind, (name, key, kind if key == "ops" else i))
        choices = {
            "scale": ("qmax/absmax", "absmax/qmax", "absmax/-qmin", "power_of_two"),
            "rounding": ("half_even", "half_away", "half_up"),
        }
        for key, names in choices.items():
            if name == "quantization" and key in values:
                self._file.one_of(values[key], names, (name, key), f"{key} of quantization")
        if "float_when" in values:
            self._expression(values["float_when"], "conv2d", (name, "float_when"))

    def _kind(self, kind: str, key: Sequence[Key]) -> None:
        if not kind_known(kind) and "." not in kind and ":" not in kind:
            near = _nearest(kind, KINDS)
            fix = f"Did you mean {near!r}?" if near else "A framework's own op is named aten.NAME or onnx:NAME."
            self._file.fail(key, f"{kind!r} is not an op kind", fix)

    def ops(self, shared: Mapping[str, dict[str, Any]]) -> dict[str, OpSupport]:
        """Every op that this file names, in its order."""
        found: dict[str, OpSupport] = {}
        where: dict[str, str] = {}
        for kind, table in self._file.data.get("ops", {}).items():
            self._kind(kind, ("ops", kind))
            self._file.table(table, ("ops", kind), OP_KEYS, "an op")
            found[kind] = self._op(kind, table, ("ops", kind), shared)
            where[kind] = f"[ops.{kind}]"
        groups = self._file.data.get("group", [])
        if not isinstance(groups, list):
            self._file.fail(("group",), "group must be an array of tables: [[group]]")
        for i, table in enumerate(groups):
            key = ("group", i)
            self._file.table(table, key, {**OP_KEYS, "kinds": tuple[str, ...]}, "a group")
            if not table.get("kinds"):
                self._file.fail(key, "a group lacks 'kinds'")
            for n, kind in enumerate(table["kinds"]):
                self._kind(kind, (*key, "kinds", n))
                if kind in where:
                    self._file.fail((*key, "kinds", n), f"{kind} is named twice: here and in {where[kind]}")
                found[kind] = self._op(kind, table, key, shared)
                where[kind] = f"group {i + 1}"
        return found

    def _op(self, kind: str, table: Mapping[str, Any], key: tuple[Key, ...], shared: Mapping[str, Any]) -> OpSupport:
        file = self._file
        spec = KINDS.get(kind.removeprefix("dynamic_"))
        operands = [name.rstrip("?*") for name in spec.inputs.split()] if spec else []
        for i, name in enumerate(table.get("const_inputs", ())):
            file.one_of(name, operands, (*key, "const_inputs", i), f"operand of {kind}")
        for name in table.get("operand_dtypes", {}):
            file.one_of(name, operands, (*key, "operand_dtypes", name), f"operand of {kind}")
        if "opt_in" in table and table.get("device") != "host":
            file.fail((*key, "opt_in"), "opt_in is for an op with device = 'host'")
        for name in ("dtypes", "quantized", "host_dtypes"):
            for n, dtype in enumerate(table.get(name, ())):
                file.one_of(dtype, DTYPES, (*key, name, n), "dtype")
        for i, dtypes in enumerate(table.get("output_dtypes", ())):
            for n, dtype in enumerate(dtypes):
                file.one_of(dtype, DTYPES, (*key, "output_dtypes", i, n), "dtype")
        for name, dtypes in table.get("operand_dtypes", {}).items():
            for n, dtype in enumerate(dtypes):
                file.one_of(dtype, DTYPES, (*key, "operand_dtypes", name, n), "dtype")
        certainty, source = self.cited(table, key)
        return OpSupport(
            kind,
            tuple(table.get("names", ())),
            table.get("device", "accelerator"),
            tuple(table.get("dtypes", ())),
            {name: tuple(dtypes) for name, dtypes in table.get("operand_dtypes", {}).items()},
            tuple(map(tuple, table.get("output_dtypes", ()))),
            tuple(table.get("const_inputs", ())),
            (
                *self._limits(kind, table, (*key, "limits"), shared, source),
                *self._every(kind, table, key, shared, source),
            ),
            certainty,
            source,
            table.get("note", ""),
            tuple(table.get("quantized", ())),
            table.get("opt_in", ""),
            table.get("fallback"),
            tuple(table.get("host_dtypes", ())),
            tuple(self._limits(kind, table, (*key, "host_limits"), shared, source)),
        )

    def _limits(
        self, kind: str, table: Mapping[str, Any], key: Sequence[Key], shared: Mapping[str, Any], source: str
    ) -> list[Limit]:
        """The limits that ``table`` lists under the last part of ``key``; ``source`` is that of the op."""
        listed = table.get(str(key[-1]), ())
        return [self._limit(kind, limit, (*key, i), shared, source) for i, limit in enumerate(listed)]

    def _every(
        self, kind: str, table: Mapping[str, Any], key: tuple[Key, ...], shared: Mapping[str, Any], source: str
    ) -> list[Limit]:
        """The limits of every op that runs on the accelerator, where this one does and does not list them itself."""
        if table.get("device", "accelerator") != "accelerator" and "opt_in" not in table:
            return []
        names = [name for name, limit in shared.items() if limit.get("every") and name not in table.get("limits", ())]
        return [self._limit(kind, name, key, shared, source) for name in names]

    def _limit(self, kind: str, limit: Any, key: tuple[Key, ...], shared: Mapping[str, Any], source: str) -> Limit:
        file = self._file
        own = (self.default[0], source)
        if isinstance(limit, str):
            file.one_of(limit, shared, key, "name in [limits]")
            table, at = shared[limit], key
            certainty, source = table["cited"][0] or own[0], table["cited"][1] or source
        else:
            table = file.table(limit, key, LIMIT_KEYS, "a limit")
            at = (*key, "expr")
            certainty, source = self.cited(table, key, own)
        for needed in ("expr", "why"):
            if needed not in table:
                file.fail(key, f"a limit lacks {needed!r}")
        when = table.get("when")
        return Limit(
            self._expression(table["expr"], kind, at),
            table["why"],
            certainty,
            source,
            None if when is None else self._expression(when, kind, (*key, "when")),
        )

    def _expression(self, text: str, kind: str, key: Sequence[Key]) -> Expression:
        try:
            return parse(text, fact_names(kind))
        except ExpressionError as error:
            self._file.fail(key, f"{error} (op {kind})", error.fix)


def _build(file: _Layer, merged: _Merged) -> Target:
    sections: dict[str, Any] = dict.fromkeys(SECTIONS)
    for name, section in SECTIONS.items():
        values = merged.sections.get(name)
        if values is None and name not in ("runtime", "model", "tolerance", "performance"):
            continue
        said = merged.abouts.get(name, {})
        default = About(*merged.meta["cited"])
        parts = [part for part in dataclasses.fields(section) if part.name != "about"]
        for part in parts:
            said.setdefault(part.name, default)
            required = part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING
            if required and part.name not in (values or {}):
                file.fail((name,), f"[{name}] lacks {part.name!r}")
        hints = get_type_hints(section)
        fields = {key: _frozen(value, hints[key]) for key, value in (values or {}).items()}
        sections[name] = section(**fields, about=said)
    meta = merged.meta
    for i, kind in enumerate(sections["runtime"].opted_in):
        if kind not in merged.ops or not merged.ops[kind].opt_in:
            at = ("runtime", "opted_in", i)
            file.fail(at, f"{kind} runs where it runs by default: the target names no way to opt in")
    return Target(
        name=meta["name"],
        title=meta.get("title", meta["name"]),
        vendor=meta.get("vendor", ""),
        description=meta.get("description", ""),
        path=file.path,
        extends=meta.get("extends"),
        closed=meta.get("closed", False),
        certainty=meta["cited"][0],
        source=meta["cited"][1],
        sources=merged.sources,
        ops=merged.ops,
        **sections,
    )


def _frozen(value: Any, hint: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(item, None) for item in value)
    arms = [arm for arm in (get_args(hint) or (hint,)) if dataclasses.is_dataclass(arm)]
    if isinstance(value, dict) and arms and isinstance(arms[0], type):
        return arms[0](**{key: _frozen(item, None) for key, item in value.items()})
    return value
