# SPDX-License-Identifier: Apache-2.0
"""Reading and writing .pt2 files (``torch.export.save``), without running what an untrusted file asks for.

``torch.export.load`` of torch 2.13 can run code that a file names, in six ways: weights and constants stored as
pickles (``use_pickle`` in torch/export/pt2_archive/_package.py, loaded with ``weights_only=False``), sample inputs (a
fall-back to ``weights_only=False``), custom and opaque objects, compiled AOTInductor libraries, call targets resolved
by ``getattr`` from ``torch`` (``torch.os.system``), and symbolic sizes given to ``sympy.sympify``, which evaluates
them. The archive is read here first, with the same C++ reader, and refused if it uses any of these.
"""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.utils import _pytree as pytree

from porter.errors import PorterError

__all__ = ["build_program", "read_program", "write_program"]

_TARGET = re.compile(
    r"torch\.ops\.(aten|prims|torchvision|quantized_decomposed)\.(?!from_file)\w+(\.\w+)?"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|torch\.sym_\w+|math\.(ceil|floor|trunc|sqrt)"
)
_EXPRESSION = re.compile(r"[\w\s+\-*/%(),.<>=']*")
#: The words of sympy's srepr of a size: symbols, numbers, and torch/utils/_sympy/functions.py.
_WORD = re.compile(
    r"[suz]+f?\d+|Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Mod|positive|negative|nonnegative|nonzero|integer|real"
    r"|precision|evaluate|FloorDiv|CeilDiv|CleanDiv|PythonMod|ModularIndexing|Where|IntTrueDiv|FloatTrueDiv|PowByNatural"
    r"|ToFloat|TruncToInt|CeilToInt|FloorToInt|Eq|Ne|True|False|oo|int_oo"
)


def read_program(path: Path, run_pickled_code: bool) -> tuple[ExportedProgram, dict[str, str]]:
    """The program of a .pt2 file, and its extra members by name.

    Raises:
        PorterError: PT501 missing, PT502 damaged, PT503 not a .pt2 of torch 2.8 or later, PT504 it would run code.
    """
    if not path.is_file():
        raise PorterError("PT501", f"there is no file {path}")
    if not run_pickled_code:
        _vet(path)
    extra: dict[str, Any] = {"porter.json": ""}  # torch ignores an empty dict
    with warnings.catch_warnings(), _quiet("torch.export"), _quiet("torch._export"):
        warnings.simplefilter("ignore")
        try:
            with path.open("rb") as file:
                program = torch.export.load(file, extra_files=extra)
        except Exception as error:
            raise PorterError(
                "PT502",
                f"{path} cannot be read: {str(error).splitlines()[0] if str(error) else error!r}",
                str(path),
                f"Export the model again with torch {torch.__version__.partition('+')[0]}.",
            ) from error
    program._guards_code = []  # code from the file, which module() would run
    return program, {name: content for name, content in extra.items() if content}


def _vet(path: Path) -> None:
    try:
        reader = torch._C.PyTorchFileReader(str(path))
        records = list(reader.get_all_records())
    except RuntimeError as error:
        raise PorterError("PT502", f"{path} is cut short or damaged", str(error).splitlines()[0]) from error
    if "archive_format" not in records:
        raise PorterError(
            "PT503",
            f"{path} is not a .pt2 archive of torch 2.8 or later",
            fix="Export it again with torch.export.save.",
        )

    def refuse(member: str, why: str) -> PorterError:
        return PorterError(
            "PT504",
            f"loading {path} would run code: {why}",
            f"{path}: {member}",
            "Get the model from a source that you trust, or export it again with plain tensors.",
        )

    for record in records:
        if record.startswith(("data/aotinductor/", "executorch/")):
            raise refuse(record, "it holds a compiled library")
        if record.startswith(("data/weights/", "data/constants/")) and record.endswith(".pt"):
            raise refuse(record, "its weights are one pickle")
        if record.endswith(".json") and not record.startswith("extra/"):
            try:
                content = json.loads(reader.get_record(record))
            except (ValueError, RuntimeError) as error:
                raise PorterError("PT502", f"{path} is damaged", f"{path}: {record}") from error
            for why in _dangers(content):
                raise refuse(record, why)
        if record.startswith("data/sample_inputs/"):
            data = reader.get_record(record)
            try:
                if data:
                    torch.load(io.BytesIO(data), weights_only=True)
            except Exception as error:
                raise refuse(record, "its sample inputs are a pickle of more than tensors") from error


def _dangers(content: Any) -> Iterator[str]:
    """What in a JSON member would make ``torch.export.load`` run code."""
    stack = [content]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, str):
            if "__enum__" in item or "default_factory_module" in item:
                yield "an argument's structure imports a module"
        elif isinstance(item, dict):
            stack.extend(item.values())
            target, expression = item.get("target"), item.get("expr_str")
            if isinstance(target, str) and "inputs" in item and not _TARGET.fullmatch(target):
                yield f"it calls {target}"
            if isinstance(expression, str) and not _arithmetic(expression):
                yield f"a size is the expression {expression[:80]!r}"
            if item.get("use_pickle"):
                yield "a tensor is stored as a pickle"
            if str(item.get("path_name", "")).startswith(("custom_obj", "opaque_obj")):
                yield "it holds an object that is not a tensor"


def _arithmetic(expression: str) -> bool:
    words = re.findall(r"[A-Za-z_]\w*", expression)
    return bool(_EXPRESSION.fullmatch(expression)) and all(_WORD.fullmatch(w) for w in words)


class _quiet:
    """A logger that says only errors."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self._level = self._logger.level
        self._logger.setLevel(logging.CRITICAL)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)


# ---------------------------------------------------------------------------------------------- writing

_PREFIX = {InputKind.PARAMETER: "p_", InputKind.BUFFER: "b_", InputKind.USER_INPUT: ""}


def write_program(
    path: Path,
    graph: fx.Graph,
    attributes: Mapping[str, Any],
    specs: tuple[Any, Any],
    ranges: Mapping[Any, Any],
    note: Callable[[str, fx.Node], None],
    extra: Callable[[], dict[str, str]],
) -> None:
    """Write an exported program that is this graph, node by node; see :func:`build_program`.

    ``extra`` is asked for the extra members after ``note`` has been told every name.
    """
    program = build_program(graph, attributes, specs, note, ranges)
    with path.open("wb") as file, warnings.catch_warnings(), _quiet("torch.export"):
        warnings.simplefilter("ignore")
        torch.export.save(program, file, extra_files=extra())


def build_program(
    graph: fx.Graph,
    attributes: Mapping[str, Any],
    specs: tuple[Any, Any],
    note: Callable[[str, fx.Node], None],
    ranges: Mapping[Any, Any],
    functional: bool = True,
) -> ExportedProgram:
    """An exported program with the nodes of a graph, its parameters and buffers as the first inputs.

    Args:
        graph: placeholders, get_attr nodes, calls, output; each with a fake ``meta["val"]``.
        attributes: what the get_attr nodes hold, by their targets.
        specs: the pytree structures of inputs and outputs; None for inputs that are a flat tuple.
        note: told the name that each node has in the program.
        ranges: bounds of the sizes that depend on data, by symbol.
        functional: whether nothing is written in place.
    """
    from torch._export.verifier import TrainingIRVerifier, Verifier
    from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature

    flat = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    inputs: list[InputSpec] = []
    taken = {n.name for n in graph.nodes if n.op != "get_attr"}
    lifted: dict[str, fx.Node] = {}
    state: dict[str, torch.Tensor] = {}
    root = nn.Module()

    def placeholder(node: fx.Node, name: str) -> fx.Node:
        new = flat.placeholder(name)
        new._rename(name)
        new.meta["val"] = node.meta["val"]
        note(new.name, node)
        return new

    constants = [n for n in graph.nodes if n.op == "get_attr" and isinstance(attributes[str(n.target)], torch.Tensor)]
    constants.sort(key=lambda n: not isinstance(attributes[str(n.target)], nn.Parameter))
    for node in constants:
        target = str(node.target)
        if target not in lifted:
            held = attributes[target]
            kind = InputKind.PARAMETER if isinstance(held, nn.Parameter) else InputKind.BUFFER
            name = base = _PREFIX[kind] + target.replace(".", "_")
            count = 0
            while name in taken:
                count += 1
                name = f"{base}_{count}"
            taken.add(name)
            lifted[target] = placeholder(node, name)
            state[target] = held
            persistent = True if kind is InputKind.BUFFER else None
            inputs.append(InputSpec(kind, TensorArgument(name), target, persistent))
        env[node] = lifted[target]
    arguments: list[Any] = []
    for node in graph.nodes:
        if node.op == "placeholder":
            env[node] = placeholder(node, node.name)
            arguments.append(TensorArgument(node.name))
            inputs.append(InputSpec(InputKind.USER_INPUT, arguments[-1], None))
    outputs: list[OutputSpec] = []
    for node in graph.nodes:
        if node in env:
            continue
        new = env[node] = flat.node_copy(node, env.__getitem__)
        if new.name != node.name:
            new._rename(node.name)
        new.meta = {k: v for k, v in node.meta.items() if k in ("val", "stack_trace", "nn_module_stack")}
        note(new.name, node)
        if node.op == "get_attr":
            setattr(root, str(node.target), attributes[str(node.target)])
        if node.op == "output":
            new.meta = {}
            results: Any = new.args[0]
            for result in results:
                argument = TensorArgument(result.name) if isinstance(result, fx.Node) else ConstantArgument("", result)
                outputs.append(OutputSpec(OutputKind.USER_OUTPUT, argument, None))
    in_spec, out_spec = specs
    if in_spec is None:
        in_spec = pytree.tree_structure(((0,) * len(arguments), {}))
    signature = ModuleCallSignature(arguments, [s.arg for s in outputs], in_spec, out_spec)
    return ExportedProgram(
        root,
        flat,
        ExportGraphSignature(inputs, outputs),
        state,
        dict(ranges),
        [ModuleCallEntry("", signature)],
        verifiers=[Verifier if functional else TrainingIRVerifier],
    )
