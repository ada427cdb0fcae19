# SPDX-License-Identifier: Apache-2.0
"""TorchScript files as graphs of ATen calls.

A TorchScript file holds a program (traced or scripted) with the source line and the module path of each of its nodes.
This module runs that program once on symbols: sizes, numbers, branches and loops are decided, tensors become
nodes. torch's own converter (``TS2EPConverter`` in torch/_export/converter.py of 2.13) gives the same operators without
lines, modules or parameter kinds, and compares every pair of weights; its result was the reference here.

``torch.jit.load`` executes no Python: the archive's code is TorchScript, its pickles are read in C++.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from porter.dialects.fx_export import example_inputs, match
from porter.dialects.fx_pt2 import build_program
from porter.errors import PorterError

__all__ = ["read_script"]

#: c10/core/ScalarType.h and c10/core/MemoryFormat.h: TorchScript writes dtypes and memory formats as numbers.
_DTYPES = (
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.complex32,
    torch.complex64,
    torch.complex128,
    torch.bool,
    torch.qint8,
    torch.quint8,
    torch.qint32,
    torch.bfloat16,
)
_FORMATS = (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
_MOST_TURNS = 10_000


def read_script(path: Path, inputs: Sequence[Any]) -> tuple[ExportedProgram, list[str | None]]:
    """The program of a TorchScript file for inputs of fixed shapes, and the caller's names of the inputs.

    Raises:
        PorterError: PT501 missing, PT502 damaged, PT506 where the inputs do not fit, PT507 without inputs, PT310 where
            control flow or a size depends on data, or an operator is TorchScript's own.
    """
    if not path.is_file():
        raise PorterError("PT501", f"there is no file {path}")
    try:
        script = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise PorterError(
            "PT502", f"{path} cannot be read as TorchScript", str(error).strip().splitlines()[-1]
        ) from error
    if not inputs:
        raise PorterError(
            "PT507",
            f"{path} does not say the shapes of its inputs",
            "--input",
            "Say them: --input images:1x3x640x640 (name:shape[:dtype], once for each input).",
        )
    script.eval()
    schema = script.forward.schema.arguments[1:]
    parameters = [
        inspect.Parameter(
            a.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=a.default_value if a.has_default_value() else inspect.Parameter.empty,
        )
        for a in schema
    ]
    args, kwargs, names = match(parameters, example_inputs(inputs), path.name)
    given = dict(zip((p.name for p in parameters), args, strict=False)) | kwargs
    with torch.no_grad():
        return _Run(script, path.name).program([given.get(p.name, p.default) for p in parameters], parameters), names


@dataclass(frozen=True)
class _Module:
    """A module of the script, and its dotted path."""

    path: str
    held: Any


class _Run:
    """One run of the script's graph on symbols. ``env`` holds a node, a module, or a plain value for each value."""

    def __init__(self, script: Any, source: str) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        self.script = script
        self.source = source
        self.graph = fx.Graph()
        self.attributes: dict[str, torch.Tensor] = {}
        self.nodes: dict[str, fx.Node] = {}
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.parameters = {name for name, _ in script.named_parameters()}
        self.env: dict[str, Any] = {}
        self.modules = {name: name.split(".") for name, _ in script.named_modules() if name}
        self.near = ""

    def program(self, values: Sequence[Any], parameters: Sequence[inspect.Parameter]) -> ExportedProgram:
        graph = self.script.inlined_graph
        mine, *others = graph.inputs()
        self.env[mine.debugName()] = _Module("", self.script)
        for value, given, parameter in zip(others, values, parameters, strict=True):
            if isinstance(given, torch.Tensor):
                node = self.graph.placeholder(parameter.name)
                node.meta["val"] = self.mode.from_tensor(given, static_shapes=True)
                self.env[value.debugName()] = node
            else:
                self.env[value.debugName()] = given
        self.block(graph)
        results = [self.env[v.debugName()] for v in graph.outputs()]
        result = results[0] if len(results) == 1 else tuple(results)
        leaves, out_spec = pytree.tree_flatten(pytree.tree_map(self.tensor_leaf, result, is_leaf=_is_leaf))
        self.graph.output(tuple(leaves))
        return build_program(
            self.graph, self.attributes, (None, out_spec), lambda name, node: None, {}, functional=False
        )

    def tensor_leaf(self, value: Any) -> Any:
        return self.constant(value) if isinstance(value, torch.Tensor) else value

    # -- blocks and control flow

    def block(self, block: Any) -> None:
        for node in block.nodes():
            handler = getattr(self, node.kind().replace("::", "_"), None)
            inputs = [self.env[v.debugName()] for v in node.inputs()]
            try:
                if handler is not None:
                    results = handler(node, inputs)
                elif node.kind().startswith("prim::"):
                    raise self.error(node, f"{node.kind()} is not an operation of a fixed graph")
                else:
                    results = self.operator(node, inputs)
            except PorterError:
                raise
            except Exception as error:
                raise self.failure(node, error) from error
            outputs = [v.debugName() for v in node.outputs()]
            if results is not _DONE:
                self.env.update(zip(outputs, [results] if len(outputs) == 1 else results or [], strict=False))

    def failure(self, node: Any, error: Exception) -> PorterError:
        said = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
        if "DataDependent" in type(error).__name__:
            return self.error(node, "a number or a size depends on the values of a tensor")
        return PorterError(
            "PT506",
            f"the model does not run on these inputs: {said}",
            _where(node) or self.source,
            "Check the shape and dtype of each --input against what the file was made with.",
        )

    def error(self, node: Any, why: str) -> PorterError:
        return PorterError(
            "PT310",
            f"the model cannot be captured: {why}",
            _where(node) or self.source,
            "Trace the model again without that part (torch.jit.trace), or give the module by --model.",
        )

    def prim_If(self, node: Any, inputs: list[Any]) -> Any:
        if isinstance(inputs[0], fx.Node):
            raise self.error(node, "a branch depends on the values of a tensor")
        chosen = list(node.blocks())[0 if inputs[0] else 1]
        self.block(chosen)
        self.env.update(
            zip(
                (v.debugName() for v in node.outputs()),
                [self.env[v.debugName()] for v in chosen.outputs()],
                strict=True,
            )
        )
        return _DONE

    def prim_Loop(self, node: Any, inputs: list[Any]) -> Any:
        turns, go, *carried = inputs
        body = next(iter(node.blocks()))
        turn = 0
        while go and turn < turns:
            if isinstance(go, fx.Node) or isinstance(turns, fx.Node) or turn >= _MOST_TURNS:
                raise self.error(node, "how often a loop turns depends on the values of a tensor, or is not bounded")
            names = [v.debugName() for v in body.inputs()]
            self.env.update(zip(names, [turn, *carried], strict=True))
            self.block(body)
            go, *carried = [self.env[v.debugName()] for v in body.outputs()]
            turn += 1
        self.env.update(zip((v.debugName() for v in node.outputs()), carried, strict=True))
        return _DONE

    def prim_RaiseException(self, node: Any, inputs: list[Any]) -> Any:
        raise PorterError(
            "PT506",
            f"the model does not run on these inputs: {inputs[0]}",
            _where(node) or self.source,
            "Check the shape and dtype of each --input.",
        )

    # -- values

    def prim_Constant(self, node: Any, inputs: list[Any]) -> Any:
        return node.output().toIValue()

    def prim_GetAttr(self, node: Any, inputs: list[Any]) -> Any:
        name = node.s("name")
        owner = inputs[0]
        if not isinstance(owner, _Module):
            return getattr(owner, name)
        held = getattr(owner.held, name)
        path = f"{owner.path}.{name}".lstrip(".")
        if isinstance(held, torch.Tensor):
            return self.attribute(path, held)
        return _Module(path, held) if isinstance(held, (torch.jit.ScriptModule, torch.ScriptObject)) else held

    def attribute(self, path: str, held: torch.Tensor) -> fx.Node:
        if path not in self.nodes:
            held = torch.nn.Parameter(held.detach(), held.requires_grad) if path in self.parameters else held.detach()
            self.attributes[path] = held
            node = self.nodes[path] = self.graph.get_attr(path)
            node.meta["val"] = self.mode.from_tensor(held, static_shapes=True)
        return self.nodes[path]

    def constant(self, held: torch.Tensor) -> fx.Node:
        """A node for a tensor whose data the script holds."""
        return self.attribute(f"constant_{len(self.attributes)}", held)

    def prim_ListConstruct(self, node: Any, inputs: list[Any]) -> Any:
        return list(inputs)

    def prim_TupleConstruct(self, node: Any, inputs: list[Any]) -> Any:
        return tuple(inputs)

    def prim_DictConstruct(self, node: Any, inputs: list[Any]) -> Any:
        return dict(zip(inputs[::2], inputs[1::2], strict=True))

    def prim_ListUnpack(self, node: Any, inputs: list[Any]) -> Any:
        return inputs[0][0] if node.outputsSize() == 1 else list(inputs[0])

    prim_TupleUnpack = prim_ListUnpack

    def prim_TupleIndex(self, node: Any, inputs: list[Any]) -> Any:
        return inputs[0][inputs[1]]

    aten___getitem__ = prim_TupleIndex

    def prim_unchecked_cast(self, node: Any, inputs: list[Any]) -> Any:
        return inputs[0]

    prim_data = aten_ScalarImplicit_ = prim_unchecked_cast

    def prim_NumToTensor(self, node: Any, inputs: list[Any]) -> Any:
        return torch.tensor(inputs[0])

    def prim_Uninitialized(self, node: Any, inputs: list[Any]) -> Any:
        return None

    prim_Print = aten_warn = prim_Uninitialized

    def prim_max(self, node: Any, inputs: list[Any]) -> Any:
        return max(*inputs)

    def prim_min(self, node: Any, inputs: list[Any]) -> Any:
        return min(*inputs)

    def prim_dtype(self, node: Any, inputs: list[Any]) -> Any:
        return _DTYPES.index(self.fake(inputs[0]).dtype)

    def prim_device(self, node: Any, inputs: list[Any]) -> Any:
        return torch.device("cpu")

    def prim_is_cuda(self, node: Any, inputs: list[Any]) -> Any:
        return False

    prim_requires_grad = prim_is_cuda

    def aten___is__(self, node: Any, inputs: list[Any]) -> Any:
        return inputs[0] is inputs[1]

    def aten___isnot__(self, node: Any, inputs: list[Any]) -> Any:
        return inputs[0] is not inputs[1]

    def aten_append(self, node: Any, inputs: list[Any]) -> Any:
        inputs[0].append(inputs[1])
        return inputs[0]

    # -- operators

    def fake(self, value: Any) -> Any:
        return value.meta["val"] if isinstance(value, fx.Node) else value

    def operator(self, node: Any, inputs: list[Any]) -> Any:
        """A call: a node where a tensor comes out, a plain value where a number does or every tensor is known."""
        if isinstance(inputs[0] if inputs else None, (list, tuple, dict)) and node.kind() in _PLAIN:
            return _PLAIN[node.kind()](*inputs)
        call = _overload(node)
        nested = pytree.tree_leaves(inputs)
        symbols = any(isinstance(v, fx.Node) for v in nested)
        known = any(isinstance(v, torch.Tensor) for v in nested)
        returns = [str(r.type) for r in node_schema(call)]
        tensors = any("Tensor" in r for r in returns)
        if not symbols and (known or not tensors):
            return call(*inputs)
        if not tensors:
            with self.mode:
                return call(*(self.fake(v) for v in inputs))
        if not all(isinstance(r, str) and ("Tensor" in r) for r in returns):
            raise self.error(node, f"{node.kind()} returns more than tensors")
        return self.emit(node, call, inputs)

    def emit(self, node: Any, call: Any, inputs: list[Any]) -> Any:
        args, kwargs = [], {}
        first = next((self.fake(v) for v in inputs if isinstance(v, fx.Node)), None)
        for argument, value in zip(node_arguments(call), inputs, strict=True):
            value = _named(argument, self.operand(value, first))
            if argument.kwarg_only:
                if value is not None:
                    kwargs[argument.name] = value
            else:
                args.append(value)
        meta = self.metadata(node, args)
        made = self.graph.call_function(call, tuple(args), kwargs)
        made._rename(node.kind().rpartition("::")[2].strip("_"))
        with self.mode:
            val = call(*fx.map_arg(tuple(args), self.fake), **fx.map_arg(kwargs, self.fake))
        made.meta.update(val=val, **meta)
        if not isinstance(val, (list, tuple)):
            return made
        parts = []
        for i, part in enumerate(val):
            item = self.graph.call_function(getitem, (made, i))
            item._rename("getitem")
            item.meta.update(val=part, **meta)
            parts.append(item)
        return parts

    def operand(self, value: Any, other: Any) -> Any:
        """A known tensor as a number where that means the same (a traced ``x * 2`` holds one), else as a constant."""
        if isinstance(value, (list, tuple)):
            return [self.operand(v, None) for v in value]
        if not isinstance(value, torch.Tensor):
            return value
        number = (
            value.dim() == 0 and isinstance(other, torch.Tensor) and other.dim() > 0 and value.dtype is not torch.bool
        )
        if (
            number
            and (other.dtype.is_floating_point or not value.dtype.is_floating_point)
            and other.dtype is not torch.bool
        ):
            return value.item()
        return self.constant(value)

    # -- where a node comes from

    def metadata(self, node: Any, args: Sequence[Any]) -> dict[str, Any]:
        meta: dict[str, Any] = {}
        frames = _frames(node)
        if frames:
            meta["stack_trace"] = "\n".join(f'  File "{file}", line {line}, in {name}' for file, line, name in frames)
        path = self.path(node, args)
        if path:
            meta["nn_module_stack"] = {path: (path, "torch.nn.Module")}
        return meta

    def path(self, node: Any, args: Sequence[Any]) -> str:
        """The dotted path of the module that a node belongs to.

        A node with weights is in the module that holds them. TorchScript names the others by the modules that were
        called, which leaves out ModuleLists: of the paths with those names in that order and the fewest others, the one
        nearest to the last weights.
        """
        weights = [str(a.target).rpartition(".")[0] for a in args if isinstance(a, fx.Node) and a.op == "get_attr"]
        called = [name for name in re.findall(r"(\w+)\(", node.getModuleHierarchy()) if name != "SELF"]
        if weights and called and weights[0].endswith(called[-1]):
            self.near = weights[0]
            return weights[0]
        if not called:
            return ""
        fitting = [path for path, parts in self.modules.items() if parts[-1] == called[-1] and _in_order(called, parts)]
        near = lambda path: (-path.count("."), _common(path, self.near))  # noqa: E731
        return max(fitting, key=near, default=".".join(called))


_DONE = object()
_PLAIN: Mapping[str, Callable[..., Any]] = {
    "aten::len": len,
    "aten::add": lambda x, y: [*x, *y],
    "aten::mul": lambda x, n: x * n,
    "aten::eq": lambda x, y: x == y,
    "aten::ne": lambda x, y: x != y,
    "aten::slice": lambda x, start=None, end=None, step=1: x[start:end:step],
    "aten::list": list,
    "aten::keys": list,
    "aten::values": lambda x: list(x.values()),
    "aten::items": lambda x: list(x.items()),
    "aten::__contains__": lambda x, y: y in x,
    "aten::extend": lambda x, y: x.extend(y),
    "aten::insert": lambda x, i, y: x.insert(i, y),
    "aten::pop": lambda x, i=-1: x.pop(i),
    "aten::reverse": lambda x: x.reverse(),
    "aten::_set_item": lambda x, key, y: x.__setitem__(key, y),
}


def _is_leaf(value: Any) -> bool:
    return isinstance(value, (fx.Node, torch.Tensor))


def _overload(node: Any) -> Any:
    """The operator that a node calls, by the schema that TorchScript prints: ``aten::add.Tensor(...) -> ...``."""
    found = re.match(r"(\w+)::(\w+)(?:\.(\w+))?\(", node.schema())
    if found is None:
        raise ValueError(f"{node.kind()} has no schema")
    namespace, name, overload = found.groups()
    return getattr(getattr(getattr(torch.ops, namespace), name), overload or "default")


def node_schema(call: Any) -> Any:
    return call._schema.returns


def node_arguments(call: Any) -> Any:
    return call._schema.arguments


def _named(argument: Any, value: Any) -> Any:
    """A dtype or memory format instead of its number; nothing for devices and layouts, which change no value."""
    kind = str(argument.real_type)
    if argument.name in ("device", "layout", "pin_memory") and "Optional" in kind:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        if "ScalarType" in kind or argument.name == "dtype":
            return _DTYPES[value]
        if "MemoryFormat" in kind or argument.name == "memory_format":
            return _FORMATS[value]
    return value


_TRACED = re.compile(r"^\s*(.+)\((\d+)\): (\S+)\s*$")
_SCRIPTED = re.compile(r'File "([^"]+)", line (\d+)')


def _frames(node: Any) -> list[tuple[str, str, str]]:
    """File, line, function of each frame, outermost first. A trace has the whole stack, a script the innermost."""
    said = node.sourceRange()
    traced = [m.groups() for m in map(_TRACED.match, said.splitlines()) if m]
    if traced:
        return [(file, line, function) for file, line, function in reversed(traced)]
    return [(file, line, "forward") for file, line in _SCRIPTED.findall(said.partition("Serialized")[0])]


def _where(node: Any) -> str | None:
    frames = _frames(node)
    return f"{frames[-1][0]}:{frames[-1][1]}" if frames else None


def _in_order(names: Sequence[str], parts: Sequence[str]) -> bool:
    rest = iter(parts)
    return all(name in rest for name in names)


def _common(x: str, y: str) -> int:
    """How many leading parts two paths share."""
    a, b = x.split("."), y.split(".")
    return next((i for i, (p, q) in enumerate(zip(a, b, strict=False)) if p != q), min(len(a), len(b)))
