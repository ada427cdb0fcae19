# SPDX-License-Identifier: Apache-2.0
"""A random model before it is a file: values, constants, steps; and the two forms it takes, ONNX and torch.

A program is plain data that a minimizer can cut. Constants are given by a seed, so that a program and its numbers are
the same on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["Const", "Program", "Step", "Var", "random_array", "samples", "to_onnx", "to_torch_source"]

Array = NDArray[Any]
Dialect = Literal["onnx", "torch"]


@dataclass(frozen=True, slots=True)
class Var:
    """A value that is computed or fed. ``scale``: about how large its elements get (for integers and indices, the
    largest magnitude that they can have)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float = 2.0

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def floats(self) -> bool:
        return self.dtype.startswith("float")

    @property
    def ints(self) -> bool:
        return self.dtype.startswith(("int", "uint"))


@dataclass(frozen=True, slots=True)
class Const:
    """A constant: ``values`` where they are given (row-major), else uniform ones from ``low`` to ``high`` by
    ``seed``."""

    shape: tuple[int, ...]
    dtype: str
    seed: int = 0
    low: float = -1.0
    high: float = 1.0
    values: tuple[Any, ...] | None = None

    def data(self) -> Array:
        if self.values is not None:
            return np.array(self.values, self.dtype).reshape(self.shape)
        return random_array(np.random.default_rng(self.seed), self.shape, self.dtype, self.low, self.high)


def random_array(
    rng: np.random.Generator, shape: Sequence[int], dtype: str, low: float = -1.0, high: float = 1.0
) -> Array:
    """Uniform values: whole ones of an integer dtype, from ``low`` up to and with ``high``; fair bits of bool."""
    if dtype == "bool":
        return np.asarray(rng.random(tuple(shape)) < 0.5)
    if "int" in dtype:
        return np.asarray(rng.integers(int(low), int(high) + 1, tuple(shape)), dtype)
    return np.asarray(rng.uniform(low, high, tuple(shape)), dtype)


@dataclass(frozen=True, slots=True)
class Step:
    """One operation.

    ``op`` is an ONNX operator with its ``attrs``, or a torch expression in which ``{0}``, ``{1}``, ... stand for the
    inputs and ``{m}`` for the submodule that ``init`` makes. An input "" is absent.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[Var, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    init: str = ""


@dataclass(frozen=True, slots=True)
class Program:
    """A model: what is fed, constants by name, steps in order, and the names of what it gives."""

    dialect: Dialect
    opset: int
    inputs: tuple[Var, ...]
    constants: Mapping[str, Const]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]

    def values(self) -> dict[str, Var]:
        """Everything that is fed or computed, by name."""
        return {v.name: v for v in (*self.inputs, *(out for step in self.steps for out in step.outputs))}

    def pruned(self) -> Program:
        """Without what the outputs do not need."""
        needed = set(self.outputs)
        steps: list[Step] = []
        for step in reversed(self.steps):
            if needed & {out.name for out in step.outputs}:
                steps.append(step)
                needed |= {*step.inputs}
        return replace(
            self,
            inputs=tuple(v for v in self.inputs if v.name in needed),
            constants={name: const for name, const in self.constants.items() if name in needed},
            steps=tuple(reversed(steps)),
        )


def samples(program: Program, count: int, seed: int) -> list[list[Array]]:
    """Inputs to run the program on, in the order of its inputs."""
    rng = np.random.default_rng(seed)
    return [[_sample(rng, v) for v in program.inputs] for _ in range(count)]


def _sample(rng: np.random.Generator, v: Var) -> Array:
    low = 0.0 if v.dtype.startswith("uint") else -v.scale
    return random_array(rng, v.shape, v.dtype, low, v.scale)


# -- ONNX ------------------------------------------------------------------------------------------


def onnx_dtype(name: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(name)))


def _info(v: Var) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(v.name, onnx_dtype(v.dtype), v.shape)


def to_onnx(program: Program) -> onnx.ModelProto:
    """The model as ONNX; with every value's shape, as exporters write them."""
    values = program.values()
    nodes = [
        helper.make_node(step.op, step.inputs, [v.name for v in step.outputs], name=f"node_{i}", **step.attrs)
        for i, step in enumerate(program.steps)
    ]
    graph = helper.make_graph(
        nodes,
        "random",
        [_info(v) for v in program.inputs],
        [_info(values[name]) for name in program.outputs],
        [numpy_helper.from_array(const.data(), name) for name, const in program.constants.items()],
    )
    # IR 10 goes with opset 21; older runtimes take a model of an older opset by its own IR.
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", program.opset)], ir_version=8 if program.opset < 18 else 10
    )


# -- torch -----------------------------------------------------------------------------------------

_HEAD = '''\
"""A random model of {steps} steps, as a module with numbers that are the same everywhere."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def tensor(shape, dtype, seed, low, high, values=None):
    rng = np.random.default_rng(seed)
    if values is not None:
        array = np.array(values, dtype).reshape(shape)
    elif dtype == "bool":
        array = rng.random(shape) < 0.5
    elif "int" in dtype:
        array = rng.integers(int(low), int(high) + 1, shape)
    else:
        array = rng.uniform(low, high, shape)
    return torch.from_numpy(np.asarray(array, dtype))


def fill(module, seed):
    rng = np.random.default_rng(seed)
    for name, p in [*module.named_parameters(), *module.named_buffers()]:
        if not p.is_floating_point():
            continue
        width = (3.0 / max(p[0].numel(), 1)) ** 0.5 if p.ndim > 1 else 0.5
        array = rng.uniform(0.5, 1.5, p.shape) if "var" in name else rng.uniform(-width, width, p.shape)
        p.data.copy_(torch.from_numpy(np.asarray(array, "float32")))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
'''


def to_torch_source(program: Program) -> str:
    """The model as a Python file with a factory ``net``; ``INPUTS`` are the names, shapes and dtypes that it takes."""
    lines = [_HEAD.format(steps=len(program.steps))]
    for name, const in program.constants.items():
        values = f", {const.values!r}" if const.values is not None else ""
        made = f"tensor({const.shape!r}, {const.dtype!r}, {const.seed}, {const.low!r}, {const.high!r}{values})"
        lines.append(f"        self.register_buffer({name!r}, {made})\n")
    modules: dict[str, str] = {}
    for step in program.steps:
        # A step that names another's submodule shares its weights.
        if step.init and step.init not in modules:
            modules[step.init] = f"m{len(modules)}"
            lines.append(f"        self.{modules[step.init]} = {step.init.partition('#')[0]}\n")
            lines.append(f"        fill(self.{modules[step.init]}, {len(modules)})\n")
    lines.append(f"\n    def forward(self, {', '.join(v.name for v in program.inputs)}):\n")
    for step in program.steps:
        names = [f"self.{n}" if n in program.constants else n for n in step.inputs]
        code = step.op.format(*names, m=f"self.{modules[step.init]}" if step.init else "")
        results = ", ".join(v.name for v in step.outputs)
        lines.append(f"        {results}{',' if step.op.startswith('*') else ''} = {code.lstrip('*')}\n")
    outputs = ", ".join(program.outputs)
    lines.append(f"        return {outputs}{',' if len(program.outputs) == 1 else ''}\n\n\n")
    inputs = ", ".join(f"{v.name!r}: ({v.shape!r}, {v.dtype!r}, {v.scale!r})" for v in program.inputs)
    lines.append(f"INPUTS = {{{inputs}}}\n\n\ndef net():\n    return Net().eval()\n")
    return "".join(lines)
