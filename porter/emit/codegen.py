# SPDX-License-Identifier: Apache-2.0
"""From a graph to readable PyTorch source that a person could have written, for old torch and new.

The source needs nothing but torch, runs on torch 1.3 with Python 3.5 and on current torch, and holds one class:
modules with weights at their checkpoint's own paths, every other constant a registered buffer, and a ``forward``
without control flow. So state-dict keys match the checkpoint, a device's quantizer finds its ``nn.Conv2d`` and
``nn.Linear``, and a trace sees tensors only. :mod:`porter.emit.expressions` says how each op is written.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np

from porter.emit.expressions import EXPRESSIONS, Computed, Inexpressible, number, torch_dtype
from porter.emit.python35 import newer_than_35
from porter.errors import PorterError
from porter.graph import Graph
from porter.ops import Array, Op, Value
from porter.paths import PARAMETERS, module_paths, valid_path

__all__ = ["Generated", "Writer", "generate", "load_generated", "validate_generated"]


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated module.

    ``source`` is the text of ``model.py``; ``state`` every tensor of its state dict in the order of the module;
    ``paths`` the module path of each op with weights, by the name of its first output; ``inputs`` and ``outputs`` the
    model's signature as ``(name, shape, dtype)``.
    """

    source: str
    state: dict[str, Array]
    paths: dict[str, str]
    inputs: tuple[tuple[str, tuple[int, ...], str], ...]
    outputs: tuple[tuple[str, tuple[int, ...], str], ...]


def generate(graph: Graph, title: str = "", weights: str = "weights.pt") -> Generated:
    """Write ``graph`` as PyTorch source.

    Args:
        graph: any dialect; the shapes are those it was captured with and are written into the source.
        title: what to call the model in the docstring (default: ``graph.source``).
        weights: the file that will lie beside it, for the docstring.

    Raises:
        PorterError: PT340 when an op, a dtype or an unknown shape cannot be expressed in the torch that 1.3 and the
            current version share; it names every such op with its origin.
    """
    return Writer(graph, title or PurePath(graph.source).name, weights).write()


def load_generated(generated: Generated, name: str = "model") -> Any:
    """The module of a generated source, filled, by the current torch: an ``nn.Module`` in evaluation mode."""
    import torch

    namespace: dict[str, Any] = {"__name__": name}
    exec(compile(generated.source, f"{name}.py", "exec"), namespace)
    net = namespace["Model"]()
    net.load_state_dict({key: torch.from_numpy(np.array(data)) for key, data in generated.state.items()}, strict=True)
    return net.eval()


def validate_generated(
    generated: Generated, expected: Sequence[tuple[Sequence[Array], Sequence[Array]]], tolerance: float = 1e-4
) -> list[float]:
    """Prove a generated module: its syntax for Python 3.5, and its values by the current torch.

    Args:
        generated: what :func:`generate` returned.
        expected: for each case the model's inputs and the outputs that the graph gave for them.
        tolerance: the largest absolute difference allowed, as a share of the range of each output.

    Returns:
        For each output the largest difference over all cases, as a share of that output's range.

    Raises:
        PorterError: PT341 when the syntax is too new or an output differs by more than ``tolerance``.
    """
    import torch

    newer = newer_than_35(generated.source)
    if newer:
        raise PorterError("PT341", f"the generated model.py uses {newer[0]}", fix="Report this: it is a bug in porter.")
    net = load_generated(generated)
    worst = [0.0] * len(generated.outputs)
    for inputs, outputs in expected:
        with torch.no_grad():
            got = net(*(torch.from_numpy(np.array(a)) for a in inputs))
        tensors = [got] if isinstance(got, torch.Tensor) else list(got)
        for i, (tensor, want) in enumerate(zip(tensors, outputs, strict=True)):
            worst[i] = max(worst[i], _difference(tensor.detach().numpy(), want))
    for (name, _, _), error in zip(generated.outputs, worst, strict=True):
        if not error <= tolerance:
            raise PorterError(
                "PT341",
                f"the generated model.py differs from the model at output {name}: {error:.2g} of its range "
                f"(at most {tolerance:.0e} is allowed)",
                fix="Run `porter verify` on the rewritten model to see at which op the two part.",
            )
    return worst


def _difference(got: Array, want: Array) -> float:
    """The largest absolute difference as a share of the expected range; another shape, dtype or NaN is infinite."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return math.inf
    if not want.size:
        return 0.0
    a, b = got.astype(np.float64), np.asarray(want).astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return math.inf
    if not finite.any():
        return 0.0
    span = float(np.ptp(b[finite])) or max(1.0, float(np.abs(b[finite]).max()))
    return float(np.abs(a[finite] - b[finite]).max()) / span


# ---------------------------------------------------------------------------------------------------------------
# The writer


@dataclass(slots=True)
class Writer:
    graph: Graph
    title: str
    weights: str
    paths: dict[str, str] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)  # path -> constructor
    buffers: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    state: dict[str, Array] = field(default_factory=dict)
    constants: dict[tuple[str, str | None], str] = field(default_factory=dict)  # (value, dtype) -> expression
    names: dict[str, str] = field(default_factory=dict)  # value -> expression in forward
    live: dict[str, str] = field(default_factory=dict)  # variable -> the value that it holds
    roots: dict[str, Value] = field(default_factory=dict)  # what an identity stands for
    last: dict[str, int] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)  # paths of modules and buffers
    inside: set[str] = field(default_factory=set)  # every proper prefix of them
    parents: set[str] = field(default_factory=set)  # modules of the user's that have children with ops
    place: tuple[str, str, tuple[str, ...]] = ("", "", ())  # what the last comment said
    lines: list[str] = field(default_factory=list)
    failures: list[tuple[Op, str]] = field(default_factory=list)

    def write(self) -> Generated:
        ops = self.graph.ops()
        self.paths = module_paths(self.graph)
        for path in self.paths.values():
            self._occupy(path)
        for i, op in enumerate(ops):
            if _changes_nothing(op):
                self.roots[op.outputs[0].name] = self._root(op.operands[0])
                continue
            for value in op.operands:
                self.last[self._root(value).name] = i
        for value in self.graph.outputs:
            self.last[self._root(value).name] = len(ops)
        parameters = []
        for value in self.graph.inputs:
            name = self._fresh(_identifier(value.name, "x"))
            self.live[name] = value.name
            self.names[value.name] = name
            parameters.append(name)
        for op in ops:
            parts = (op.origin.module or "").split(".")
            self.parents.update(".".join(parts[:n]) for n in range(1, len(parts)))
        for i, op in enumerate(ops):
            try:
                mark = len(self.lines)
                self._op(i, op)
                if len(self.lines) > mark:
                    self._comment(mark, op)
            except Inexpressible as reason:
                self.failures.append((op, str(reason)))
                for out in op.outputs:
                    self.names[out.name] = "None"
        if self.failures:
            raise self._failed()
        results = [self.tensor(value) for value in self.graph.outputs]
        signature = [tuple(_signature(v) for v in values) for values in (self.graph.inputs, self.graph.outputs)]
        source = self._source(parameters, results, signature)
        return Generated(source, self._ordered_state(), dict(self.paths), signature[0], signature[1])

    def _failed(self) -> PorterError:
        op, why = self.failures[0]
        rest = self.failures[1:]
        more = "".join(f"\n  also {o.kind} ({o.name or o.outputs[0].name}): {w} [{o.origin}]" for o, w in rest[:9])
        if len(rest) > 9:
            more += f"\n  and {len(rest) - 9} more"
        return PorterError(
            "PT340",
            f"{op.kind} ({op.name or op.outputs[0].name}) cannot be written for torch 1.3: {why}{more}",
            where=str(op.origin),
            fix="Rewrite the model for the target first (`porter rewrite`), or split it before this op.",
        )

    # -- operands ----------------------------------------------------------------------------------------------

    def tensor(self, value: Value | None, dtype: str | None = None) -> str:
        """The expression of an operand as a tensor, in ``dtype`` if given (constants are converted now)."""
        if value is None:
            return "None"
        value = self._root(value)
        if value.is_const:
            return self.constant(value.name, value.numpy(), dtype)
        if value.name not in self.names:
            raise Inexpressible(f"its operand {value.name} is computed by nothing")
        name = self.names[value.name]
        if dtype is not None and value.dtype is not None and dtype != value.dtype:
            return f"{name}.to({torch_dtype(dtype)})"
        return name

    def operand(self, op: Op, index: int, dtype: str | None = None) -> str:
        """As :meth:`tensor`, but a constant of one element is a Python number where its rank changes nothing."""
        value = op.inputs[index]
        value = None if value is None else self._root(value)
        others = [v for i, v in enumerate(op.inputs) if v is not None and i != index and not v.is_const]
        if value is not None and value.is_const and others and math.prod(value.shape or ()) == 1:
            rank = value.rank or 0
            if any(v.rank is not None and v.rank >= rank for v in others):
                return number(value.numpy(), dtype)
        return self.tensor(value, dtype)

    def constant(self, name: str, data: Array, dtype: str | None = None) -> str:
        """A registered buffer that holds ``data``, or the module that already does."""
        if dtype == str(data.dtype):
            dtype = None
        key = (name, dtype)
        if key in self.constants:
            return self.constants[key]
        if dtype is not None:
            torch_dtype(dtype)
            data = data.astype(dtype)
        torch_dtype(str(data.dtype))
        path = self._constant_path(name if dtype is None else f"{name}_{dtype}")
        self.buffers[path] = (tuple(data.shape), str(data.dtype))
        self.state[path] = data
        self.constants[key] = access(path)
        return self.constants[key]

    def module(self, op: Op, constructor: str, tensors: Mapping[str, Array | None]) -> str:
        """The expression of the module at the op's path, which is made on the first use."""
        path = self.paths[op.outputs[0].name]
        if path not in self.modules:
            self.modules[path] = constructor
            for key, data in tensors.items():
                if data is None:
                    continue
                if data.dtype not in (np.float32, np.int64):
                    raise Inexpressible(
                        f"its {key} is {data.dtype}; modules of torch 1.3 compute in float32 on the CPU"
                    )
                self.state[f"{path}.{key}"] = data
            for index, key in PARAMETERS[op.kind]:
                value = op.inputs[index] if index < len(op.inputs) else None
                held = tensors.get(key)
                if value is not None and held is not None and held.shape == value.shape:
                    self.constants.setdefault((value.name, None), access(f"{path}.{key}"))
        return access(path)

    def is_module(self, op: Op) -> bool:
        return op.outputs[0].name in self.paths

    def line(self, text: str) -> None:
        self.lines.append(text)

    def temporary(self, stem: str) -> str:
        """A variable for a step inside one op; its name is taken until the op is written."""
        name = self._fresh(stem)
        self.live[name] = ""
        return name

    def _root(self, value: Value) -> Value:
        return self.roots.get(value.name, value)

    def _occupy(self, path: str) -> None:
        parts = path.split(".")
        self.taken.add(path)
        self.inside.update(".".join(parts[:n]) for n in range(1, len(parts)))

    def _constant_path(self, name: str) -> str:
        """Where a constant is registered: under its own name if that is free, so that checkpoints keep their keys."""
        name = name.strip("/").replace("/", ".")  # torch.onnx.export calls them "/head/Constant_output_0"
        parts = name.split(".")
        prefixes = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
        free = not prefixes & self.taken and name not in self.inside
        numbered = len(parts) == 1 and name[:1].isdigit()
        path = name
        if not (valid_path(name) and free) or numbered:
            base = "const_" + re.sub(r"[^A-Za-z0-9_]", "_", name).strip("_")
            path, n = base, 2
            while path in self.taken or path in self.inside:
                path, n = f"{base}_{n}", n + 1
        self._occupy(path)
        return path

    # -- forward -----------------------------------------------------------------------------------------------

    def _op(self, index: int, op: Op) -> None:
        for out in op.outputs:
            if out.dtype is not None:
                torch_dtype(out.dtype)
        if _changes_nothing(op):
            return
        write = EXPRESSIONS.get(op.kind)
        if write is None:
            raise Inexpressible(_why_not(op.kind))
        result = write(self, op)
        for name in [n for n, held in self.live.items() if held == ""]:
            del self.live[name]
        if isinstance(result, Computed):
            for out, data in zip(op.outputs, result.data, strict=True):
                self.names[out.name] = self.constant(out.name, data)
            return
        used = [out.name in self.last for out in op.outputs]
        self._free(op, index)
        if isinstance(result, str) and len(op.outputs) == 1:
            target = self._hold(op, op.outputs[0])
            if result != target:
                self.line(f"{target} = {result}")
            return
        if isinstance(result, str) and used[0] and not any(used[1:]) and op.kind in _FIRST_OF_TWO:
            self.line(f"{self._hold(op, op.outputs[0])} = {result}[0]")
            return
        targets = [self._hold(op, out) if use else "_" for out, use in zip(op.outputs, used, strict=True)]
        self.line(f"{', '.join(targets)} = {result}" if len(targets) > 1 else f"{targets[0]}, = {result}")
        for out, target in zip(op.outputs[1:], targets[1:], strict=True):
            if op.kind in _INDEX_SECOND and out.dtype not in (None, "int64") and target != "_":
                self.line(f"{target} = {target}.to({torch_dtype(out.dtype or 'int64')})")

    def _free(self, op: Op, index: int) -> None:
        read = {self._root(v).name for v in op.operands}
        done = {name for name in read if self.last.get(name, -1) <= index}
        for name in [n for n, held in self.live.items() if held in done]:
            del self.live[name]

    def _hold(self, op: Op, out: Value) -> str:
        """The variable that will hold an output: x for the trunk of the model, else the name of its module."""
        name = self._fresh(self._stem(op))
        if out.name in self.last:
            self.live[name] = out.name
        self.names[out.name] = name
        return name

    def _stem(self, op: Op) -> str:
        if op.kind in _STEMS and any(self._root(v).name in self.live.values() for v in op.operands):
            return _STEMS[op.kind]
        if "x" not in self.live:
            return "x"
        module = self._block(op)
        parts = module.split(".") if module else []
        tail: list[str] = []
        while parts:
            tail.insert(0, parts.pop())
            if not tail[0].isdigit():
                break
        return _identifier("_".join(tail), op.kind)

    def _fresh(self, stem: str) -> str:
        name, n = stem, 2
        while name in self.live or name in _TAKEN:
            name, n = f"{stem}_{n}", n + 1
        return name

    def _block(self, op: Op) -> str:
        """The module that an op belongs to for a reader: a single layer belongs to the block around it."""
        module = op.origin.module or self.paths.get(op.outputs[0].name, "")
        outer = module.rpartition(".")[0]
        return outer if outer and module not in self.parents else module

    def _comment(self, mark: int, op: Op) -> None:
        """Say above line ``mark`` where the op comes from, if that is news."""
        origin = op.origin
        source = f"{PurePath(origin.file).name}:{origin.line}" if origin.file else ""
        block = self._block(op)
        before, self.place = self.place, (block, source, origin.rules)
        lines = []
        if before[:2] != (block, source):
            lines += [""] if before[0] != block and mark else []
            text = "  ".join(part for part in (block, source) if part) or next(iter(origin.source), "")
            lines += [f"# {_ascii(text)}"] if text else []
        if origin.rules and (lines or before[2] != origin.rules):
            lines.append(f"# rewritten by {_ascii(', '.join(origin.rules))}")
        self.lines[mark:mark] = lines

    # -- the file ----------------------------------------------------------------------------------------------

    def _ordered_state(self) -> dict[str, Array]:
        """The state in the order in which the module registers it: depth first, a module's own tensors first."""
        order: dict[str, Any] = {}
        for path in (*self.modules, *self.buffers):
            node = order
            for part in path.split("."):
                node = node.setdefault(part, {})
        own: dict[str, list[str]] = {}
        for key in self.state:
            own.setdefault(key.rpartition(".")[0], []).append(key)
        out: dict[str, Array] = {}

        def visit(prefix: str, node: Mapping[str, Any]) -> None:
            out.update({key: self.state[key] for key in own.get(prefix, ())})
            for part, child in node.items():
                path = f"{prefix}.{part}" if prefix else part
                if path not in self.buffers:
                    visit(path, child)

        visit("", order)
        return out

    def _source(self, parameters: Sequence[str], results: Sequence[str], signature: Sequence[Any]) -> str:
        inits = [f'place(self, "{path}", {text})' for path, text in self.modules.items()]
        inits += [
            f'constant(self, "{path}", {shape!r}, {torch_dtype(dtype)})'
            for path, (shape, dtype) in self.buffers.items()
        ]
        one = len(results) == 1
        returns = results[0] if one else f"({', '.join(results)})"
        body = "\n".join(f"        {line}" if line else "" for line in (*self.lines, f"return {returns}"))
        inputs, outputs = ("".join(f"    {entry!r},\n" for entry in entries) for entries in signature)
        return _FILE.format(
            title=_ascii(self.title).replace('"""', "'''").replace("\\", "/") or "model",
            weights=self.weights,
            inputs=inputs,
            outputs=outputs,
            inits="\n".join(f"        {line}" for line in inits),
            parameters=", ".join(parameters),
            body=body,
        )


_FILE = '''\
# -*- coding: utf-8 -*-
"""{title}, written out by porter.

Plain PyTorch: it needs nothing but torch, runs on torch 1.3 (Python 3.5) and on current versions, and can be edited.
Load the weights that lie beside it:

    net = Model()
    net.load_state_dict(torch.load("{weights}"))
    net.eval()
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

# name, shape, dtype
INPUTS = [
{inputs}]
OUTPUTS = [
{outputs}]


class Block(nn.Module):
    """Gives its children their place in the state dict; children called by a number are reached by [number]."""

    def __getitem__(self, index):
        return self._modules[str(index)]


def parent_of(root, path):
    """The module that holds the last part of a dotted path; the blocks on the way are made."""
    for part in path.split(".")[:-1]:
        if part not in root._modules:
            root.add_module(part, Block())
        root = root._modules[part]
    return root


def place(root, path, module):
    """Put a module at its dotted path, which is also its prefix in the state dict."""
    parent_of(root, path).add_module(path.split(".")[-1], module)


def constant(root, path, shape, dtype):
    """Register a buffer for a constant; its values come with the weights."""
    parent_of(root, path).register_buffer(path.split(".")[-1], torch.zeros(shape, dtype=dtype))


class Model(Block):
    def __init__(self):
        super(Model, self).__init__()
{inits}

    def forward(self, {parameters}):
{body}
'''

#: Names that the generated file uses itself.
_TAKEN = frozenset({"self", "torch", "nn", "F", "_", *keyword.kwlist})
#: What a value is called whose operand is still needed beside it.
_STEMS = {
    "sigmoid": "gate", "tanh": "squashed", "softplus": "softplus", "relu6": "clipped", "softmax": "weights",
    "exp": "exponential", "split": "part", "chunk": "part", "unbind": "part", "slice": "part", "select": "part",
    "topk": "top", "max_dim": "best", "min_dim": "least", "sort": "ordered",
}  # fmt: skip
_FIRST_OF_TWO = frozenset({"max_dim", "min_dim", "topk", "sort"})
_INDEX_SECOND = frozenset({"max_dim", "min_dim", "topk", "sort", "max_pool2d_with_indices"})


def _changes_nothing(op: Op) -> bool:
    """Whether the output is the first operand itself, under another name."""
    if op.kind == "identity":
        return True
    x, out = op.operands[:1], op.outputs[0]
    if op.kind not in ("reshape", "flatten", "expand", "repeat", "cast") or not x or x[0].shape is None:
        return False
    return (x[0].shape, x[0].dtype) == (out.shape, out.dtype)


def _why_not(kind: str) -> str:
    if kind.startswith("dynamic_"):
        return "one of its sizes or bounds is computed at run time; a traced model needs it as a number"
    reasons = {
        "masked_select": "the shape of its result depends on data",
        "nonzero": "the shape of its result depends on data",
        "nms": "the shape of its result depends on data, and torch itself has no such function",
        "roi_align": "torch itself has no such function (torchvision does)",
        "random": "its values would differ at each run",
    }
    if kind in ("if", "loop", "scan"):
        return "it is control flow, which a trace does not keep"
    if kind in ("lstm", "gru", "rnn"):
        return "recurrent layers have no expression yet"
    return reasons.get(kind, "this kind of op is not known")


def _signature(value: Value) -> tuple[str, tuple[int, ...], str]:
    if value.shape is None or value.dtype is None:
        raise PorterError(
            "PT340",
            f"the shape or dtype of {value.name} is not known",
            fix="Capture the model with fixed input shapes.",
        )
    return value.name, tuple(value.shape), value.dtype


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode().replace("\n", " ")


def _identifier(text: str, fallback: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")
    if not name or name[0].isdigit():
        name = f"{fallback}_{name}".strip("_")
    return f"{name}_" if name in _TAKEN else name


def access(path: str) -> str:
    """The Python expression of a dotted path under ``self``."""
    text = "self"
    for part in path.split("."):
        if part.isdigit():
            text += f"[{int(part)}]" if str(int(part)) == part else f"[{part!r}]"
        elif part.isidentifier() and not keyword.iskeyword(part):
            text += f".{part}"
        else:
            text = f'getattr({text}, "{part}")'
    return text
