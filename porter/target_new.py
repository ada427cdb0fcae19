# SPDX-License-Identifier: Apache-2.0
"""The first lines of a target file of one's own."""

from __future__ import annotations

import json
import re
from pathlib import Path

from porter.errors import PorterError
from porter.files import atomic_file
from porter.target import Target

__all__ = ["new_target", "skeleton"]

_HEAD = """\
# A target: a device as data. `porter targets lint FILE` looks it over, `porter check --target FILE model.onnx` uses it.
# For an editor that checks as you type: `porter targets schema -o target.schema.json`, beside this file.
#:schema ./target.schema.json

[target]
name = {name}
title = {title}
"""
_EXTENDS = """\
# What this file does not say is taken over from there. What it says of an op replaces all that is said there.
extends = {base}
# The most that is certain of what is taken over, if the devices are not the same:
# inherited_certainty = "likely"
"""
_ALONE = """\
# true: an op that is not named here does not run; false: nothing is known of it.
closed = false
"""
_SOURCES = """\
# What the rest of the file takes where it says nothing else: how sure it is ("certain", "measured", "likely",
# "unknown"), and who says so.
certainty = "likely"
source = "manual"

[sources.manual]
cite = {cite}
# url = ""
"""
_RUNTIME = """
[runtime]
framework = "onnx"
dtypes = ["float32"]
static_shapes = true
# opset = [11, 17]
# fallback = "host"        # what breaks a limit runs on the host; without this the model is refused
"""
_OPS = """
# -- ops ---------------------------------------------------------------------------------------------------------------
# `porter targets show onnxruntime` names kinds. A limit is an expression over the facts of an op (its attributes, the
# extents in_n in_c in_h in_w, kernel_h, ...): it holds, or `why` says what breaks. An example, to be replaced:
#
# [ops.conv2d]
# const_inputs = ["weight", "bias"]
# limits = [{ expr = "kernel_h <= 7 and kernel_w <= 7", why = "a kernel is at most 7 wide and high" }]
#
# [[group]]
# kinds = ["relu", "sigmoid"]
#
# [ops.softmax]
# device = "host"          # "accelerator", "host" or "none"
"""


def skeleton(name: str, base: str | None = None) -> str:
    """The text of a target file called ``name`` that extends ``base`` (a target's name or path), with comments."""
    title = json.dumps(f"{name} (say which device)")
    middle = _EXTENDS.format(base=json.dumps(base)) if base else _ALONE
    sources = _SOURCES.format(cite=json.dumps(f"manual of {name}"))
    return _HEAD.format(name=json.dumps(name), title=title) + middle + sources + ("" if base else _RUNTIME) + _OPS


def new_target(name: str, out: Path, base: str | None = None, overwrite: bool = False) -> Path:
    """Write :func:`skeleton` to ``out``.

    Raises:
        PorterError: PT544 for a name that is none, PT508 or PT501 when there is no ``base``, and as
            :func:`porter.files.atomic_file` does.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        fix = "Use letters, digits, '.', '_' and '-', such as my-device."
        raise PorterError("PT544", f"{name!r} is not a name for a target", fix=fix)
    if base is not None and Target.load(base) and ("/" in base or base.endswith(".toml")):
        base = str(Path(base).resolve())  # a path in a file counts from the file's folder
    with atomic_file(out, overwrite) as path:
        path.write_text(skeleton(name, base), encoding="utf-8")
    return out
