# SPDX-License-Identifier: Apache-2.0
"""A case as files: JSON that runs again, and the model itself beside it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from .case import How
from .program import Const, Program, Step, Var, to_onnx, to_torch_source

__all__ = ["read", "write"]


def write(path: Path, program: Program, target: str, how: How, feed: int, detail: str) -> Path:
    """Write the case at ``path`` (.json) and its model beside it (.onnx, or .py with a factory ``net``)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"target": target, "how": how, "feed": feed, "detail": detail, "program": asdict(program)}
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if program.dialect == "onnx":
        model = path.with_suffix(".onnx")
        onnx.save(to_onnx(program), model)
    else:
        model = path.with_suffix(".py")
        model.write_text(to_torch_source(program), encoding="utf-8")
    return model


def read(path: Path) -> tuple[Program, str, How, int]:
    """The program, the target, what is done, and the seed of the inputs."""
    data = json.loads(path.read_text(encoding="utf-8"))
    given = data["program"]
    constants = {name: Const(**_tuples(const)) for name, const in given["constants"].items()}
    steps = tuple(
        Step(s["op"], tuple(s["inputs"]), tuple(map(_var, s["outputs"])), s["attrs"], s["init"]) for s in given["steps"]
    )
    inputs, outputs = tuple(map(_var, given["inputs"])), tuple(given["outputs"])
    program = Program(given["dialect"], given["opset"], inputs, constants, steps, outputs)
    return program, data["target"], data["how"], data["feed"]


def _var(data: dict[str, Any]) -> Var:
    return Var(**_tuples(data))


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
