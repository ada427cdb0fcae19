# SPDX-License-Identifier: Apache-2.0
"""Where a node comes from, by what its exporter wrote down.

In this order: porter's own record (metadata key ``porter.origin``); the metadata of torch's exporter (keys
``pkg.torch.onnx.stack_trace`` and ``pkg.torch.onnx.name_scopes``, written by torch/onnx/_internal/exporter); a stack
trace in the doc string (torch's older, TorchScript-based exporter); and the path in a hierarchical node name
(``/head/act/Mul`` is in module ``head.act``).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from functools import lru_cache

from onnx import NodeProto

from porter.ops import Origin

#: The metadata key of porter's own record: an Origin as JSON.
KEY = "porter.origin"
STACK = "pkg.torch.onnx.stack_trace"
SCOPES = "pkg.torch.onnx.name_scopes"
NAMESPACE = "namespace"

_FRAME = re.compile(r'File "([^"\n]+)", line (\d+), in (\S+)')
_LEGACY = re.compile(r"^[ #]*(\S[^\n(]*?)\((\d+)\): ?([\w<>.]+)", re.M)
_TRACED = re.compile(r"#? ?(/[^\s:]+\.py):(\d+):\d+")
_TORCH = re.compile(r"[/\\](?:site|dist)-packages[/\\]torch[/\\]|[/\\]torch[/\\](?:nn|fx|jit|onnx|export|_\w+)[/\\]")
_COUNTER = re.compile(r"_\d+$")

Frame = tuple[str, int, str | None]


@lru_cache(maxsize=4096)
def innermost(trace: str) -> Frame | None:
    """The user's frame of a stack trace: the innermost one that is not inside of torch itself.

    Reads Python's own format (innermost last), the older exporter's ``file.py(12): function`` lines (innermost first)
    and ``# file.py:12:0``. A trace that never leaves torch gives its innermost frame.
    """
    frames: list[Frame] = [(f, int(n), fn) for f, n, fn in _FRAME.findall(trace)][::-1]
    if not frames:
        frames = [(f, int(n), fn) for f, n, fn in _LEGACY.findall(trace)]
    if not frames:
        frames = [(f, int(n), None) for f, n in _TRACED.findall(trace)]
    return next((frame for frame in frames if not _TORCH.search(frame[0])), frames[0] if frames else None)


@lru_cache(maxsize=4096)
def module_of_scopes(scopes: str) -> str | None:
    """The dotted module path in torch's ``name_scopes``, a printed list of paths whose last entry is the node."""
    try:
        names = ast.literal_eval(scopes)
    except (ValueError, SyntaxError):
        return None
    if not isinstance(names, list) or len(names) < 2 or not isinstance(names[-2], str):
        return None
    return names[-2] or None


def module_of_name(name: str, op_type: str) -> str | None:
    """The dotted module path in a hierarchical node name.

    ``/stems.0/conv/Conv_2`` is ``stems.0.conv``. torch repeats the container of a numbered child
    (``/dark2/dark2.0/conv/Conv`` is ``dark2.0.conv``).
    """
    if "/" not in name:
        return None
    *scopes, last = name.strip("/").split("/")
    if op_type and not _COUNTER.sub("", last).lower().startswith(op_type.lower()[:4]) and name[:1] != "/":
        scopes.append(last)
    path: list[str] = []
    for scope in scopes:
        if path and scope.startswith(path[-1] + "."):
            path.pop()
        path.append(scope)
    return ".".join(path) or None


_encode = json.JSONEncoder(ensure_ascii=False).encode


@lru_cache(maxsize=1)
def dumps(origin: Origin) -> str:
    """An origin as the JSON that :func:`read` understands; fields that are empty are left out.

    The nodes of one fragment share their origin and follow each other, so the last answer is kept.
    """
    fields = {
        "file": origin.file, "line": origin.line, "function": origin.function, "module": origin.module,
        "source": list(origin.source), "rules": list(origin.rules),
    }  # fmt: skip
    return _encode({key: value for key, value in fields.items() if value})


def _loads(text: str) -> Origin | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, Mapping):
        return None

    def string(key: str) -> str | None:
        value = found.get(key)
        return value if isinstance(value, str) else None

    def strings(key: str) -> tuple[str, ...]:
        value = found.get(key)
        return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()

    line = found.get("line")
    return Origin(
        string("file"), line if isinstance(line, int) else None, string("function"), string("module"),
        strings("source"), strings("rules"),
    )  # fmt: skip


def _text(value: str | bytes) -> str:
    """protobuf gives the bytes where a text is not UTF-8."""
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def read(node: NodeProto) -> Origin:
    """The origin of a node of a file."""
    name = node.name
    source = (name or next(filter(None, node.output), node.op_type),)
    frame: Frame | None = None
    module: str | None = None
    if node.metadata_props:
        metadata = {_text(entry.key): _text(entry.value) for entry in node.metadata_props}
        ours = metadata.get(KEY)
        known = _loads(ours) if ours else None
        if known is not None:
            return known
        frame = innermost(metadata.get(STACK, ""))
        module = module_of_scopes(metadata[SCOPES]) if SCOPES in metadata else None
    doc = _text(node.doc_string)
    if doc and frame is None:
        frame = innermost(doc)
    if module is None and "/" in name:
        module = module_of_name(name, node.op_type)
    if frame is None:
        return Origin(module=module, source=source)
    return Origin(frame[0], frame[1], frame[2], module, source)


def write(node: NodeProto, origin: Origin) -> None:
    """Put porter's record on a node; an older one is replaced."""
    text = dumps(origin)
    for entry in node.metadata_props:
        if entry.key == KEY:
            entry.value = text
            return
    node.metadata_props.add(key=KEY, value=text)
