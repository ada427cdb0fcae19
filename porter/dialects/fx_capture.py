# SPDX-License-Identifier: Apache-2.0
"""From a torch module to a flat, functional, static graph of ATen calls.

``torch.export`` traces; this module asks it for whole stack traces, turns its failures into errors with the user's
own line, puts parameters back at their dotted paths, and normalizes the calls so that one meaning has one form:

* no assertions, no copies without effect, no in-place writes, no symbolic sizes;
* operands of one operator have one dtype (torch promotes inside the operator; devices do not);
* ``alpha`` of add and sub, ``copy``, ``fill`` with a tensor, boolean ``index_put`` become plain operators.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sysconfig
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind

from porter.dialects.fx_args import TABLE, bind, words
from porter.dialects.fx_lift import BINARY, COMPARE, LOGICAL, UNARY, UNARY_FLOAT
from porter.dialects.fx_lower import Emitter, operator
from porter.dialects.fx_tidy import cancel_permutes
from porter.errors import PorterError
from porter.ops import Origin

__all__ = ["Captured", "InputSpec", "example_inputs", "export", "flatten", "match", "origin_of", "sweep"]

#: Name (None: by position), shape, dtype as numpy names it (None: float32).
InputSpec = tuple[str | None, Sequence[int], str | None]

_HERE = str(Path(__file__).parents[1])
_TORCH = str(Path(torch.__file__).parent)
_STDLIB = sysconfig.get_paths()["stdlib"]
#: Frames of torch, the standard library and helpers, also by paths of another machine (files remember those).
_NOT_USERS = re.compile(
    r"^<|[/\\](site|dist)-packages[/\\](torch|functorch|einops)[/\\]"
    r"|[/\\]lib[/\\]python3\.\d+[/\\](?!site-packages|dist-packages)"
)
_NN = re.compile(r"[/\\]torch[/\\]nn[/\\]")


# ---------------------------------------------------------------------------------------------- where


def _users(file: str) -> bool:
    """Whether a frame lies in a model's own code: not in torch, the standard library, or porter."""
    if file.startswith((_TORCH, _HERE)) or _NOT_USERS.search(file):
        return False
    return not file.startswith(_STDLIB) or "-packages" in file


_lock = threading.Lock()


@contextlib.contextmanager
def _whole_traces() -> Iterator[None]:
    """Let the tracer keep every frame from the first ``forward`` on.

    torch 2.13 keeps only frames of functions named ``forward`` (torch/fx/proxy.py, _filter_traceback_frames), so that
    an op in a method that ``forward`` calls would get the line of the call.
    """
    from torch.fx.proxy import TracerBase

    def keep(self: Any, summary: traceback.StackSummary) -> traceback.StackSummary:
        first = next((i for i, frame in enumerate(summary) if frame.name == "forward"), len(summary))
        frames = [f for f in summary[first:] if _users(f.filename) or _NN.search(f.filename)]
        return traceback.StackSummary.from_list(frames)

    original = getattr(TracerBase, "_filter_traceback_frames", None)
    if original is None:
        yield
        return
    with _lock:
        TracerBase._filter_traceback_frames = keep  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            TracerBase._filter_traceback_frames = original  # type: ignore[method-assign]


_FRAME = re.compile(r'File "([^"]+)", line (\d+)(?:, in (\S+))?')


def _module_path(stack: Mapping[str, Any] | None) -> str | None:
    """The dotted path of the innermost module: ``head.stems.0``; None at the top."""
    if not stack:
        return None
    path = str(list(stack.values())[-1][0])
    path = re.sub(r"\._modules\[['\"]?(\w+)['\"]?\]|\[['\"]?(\w+)['\"]?\]", r".\1\2", path)
    path = re.sub(r"^(L\.self|L__self__?|self)\.?", "", path).strip(".")
    return re.sub(r"@\d+$", "", path) or None


def origin_of(meta: Mapping[str, Any], name: str) -> Origin:
    """Where a node comes from: the innermost frame of the user's code, and the innermost module.

    A model made of torch's own modules alone has no such frame; the line in torch.nn stands in.
    """
    frames = _FRAME.findall(meta.get("stack_trace") or "")
    own = [f for f in frames if _users(f[0])] or [f for f in frames if _NN.search(f[0])]
    file, line, function = own[-1] if own else (None, None, None)
    return Origin(
        file, int(line) if line else None, function or None, _module_path(meta.get("nn_module_stack")), (name,)
    )


def _place(error: BaseException) -> str | None:
    """``file:line in function`` of the innermost frame of the user's code in an exception (or in its causes)."""
    seen: BaseException | None = error
    while seen is not None:
        frames = [f for f in traceback.extract_tb(seen.__traceback__) if _users(f.filename)]
        if frames:
            return f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}"
        seen = seen.__cause__ or seen.__context__
    found = [f for f in _FRAME.findall(str(error)) if _users(f[0])]
    return f"{found[-1][0]}:{found[-1][1]}" if found else None


# ---------------------------------------------------------------------------------------------- export


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _dtype(name: str | None, where: str) -> torch.dtype:
    found = getattr(torch, name or "float32", None)
    if not isinstance(found, torch.dtype):
        raise PorterError("PT506", f"{name!r} is not a dtype", where, "Use a name such as float32, int64 or uint8.")
    return found


def example_inputs(inputs: Sequence[Any]) -> list[tuple[str | None, torch.Tensor]]:
    """Names and example tensors (zeros) from specs ``(name, shape, dtype)``; tensors stand for themselves."""
    made: list[tuple[str | None, torch.Tensor]] = []
    for i, spec in enumerate(inputs):
        if isinstance(spec, torch.Tensor):
            made.append((None, spec))
            continue
        name, shape, dtype = spec
        made.append((name, torch.zeros(tuple(shape), dtype=_dtype(dtype, f"input {name or i}"))))
    return made


def match(
    parameters: Sequence[inspect.Parameter], given: Sequence[tuple[str | None, torch.Tensor]], model: str
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor], list[str | None]]:
    """Arguments, keyword arguments, and the names that the caller gave to inputs, in the order of ``forward``.

    A name that ``forward`` has goes there; the others fill its parameters in order.
    """
    slots = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = {p.name for p in slots}
    chosen: dict[str, tuple[str | None, torch.Tensor]] = {name: (name, t) for name, t in given if name in names}
    rest = [(name, t) for name, t in given if name not in names]
    for slot in slots:
        if rest and slot.name not in chosen and slot.kind is not slot.KEYWORD_ONLY:
            chosen[slot.name] = rest.pop(0)
    missing = [p.name for p in slots if p.default is p.empty and p.name not in chosen]
    signature = f"{model}.forward({', '.join(map(str, parameters))})"
    if missing:
        raise PorterError(
            "PT506",
            f"the model needs an input {missing[0]!r}, and got {len(given)}",
            signature,
            f"Add --input {missing[0]}:<shape>.",
        )
    star = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if rest and not star:
        raise PorterError(
            "PT506",
            f"{len(given)} inputs were given, and the model takes {len(chosen)}",
            signature,
            f"Leave out {rest[0][0] or 'the last one'}.",
        )
    args: list[torch.Tensor] = []
    kwargs: dict[str, torch.Tensor] = {}
    order: list[str | None] = []
    positional = True
    for slot in slots:
        if slot.name not in chosen:
            positional = False
            continue
        positional = positional and slot.kind is not slot.KEYWORD_ONLY
        name, tensor = chosen[slot.name]
        order.append(name)
        if positional:
            args.append(tensor)
        else:
            kwargs[slot.name] = tensor
    for name, tensor in rest:
        order.append(name)
        args.append(tensor)
    return args, kwargs, order


@contextlib.contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, and as it was before afterwards."""
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for m in training:
            m.training = True


def _fails_eagerly(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Exception | None:
    try:
        module(*args, **kwargs)
    except Exception as error:
        return error
    return None


_ADVICE = (
    (
        re.compile(r"data.dependent|GuardOnDataDependent|unbacked|u\d+ ", re.I),
        "A branch, a size or a Python number depends on the values of a tensor. Compute it with torch.where or with "
        "masks, or move that part (non-maximum suppression, filtering by score) out of forward.",
    ),
    (re.compile(r"dynamic|symbolic|specializ", re.I), "Give every input a fixed shape with --input name:shape."),
)


def export(module: nn.Module, inputs: Sequence[Any]) -> tuple[ExportedProgram, list[str | None]]:
    """Export in evaluation mode, in-place writes made functional, composite operators kept whole.

    Returns the program and the name that the caller gave to each input.

    Raises:
        PorterError: PT506 where the model itself does not run on such inputs; PT310 where it runs but cannot be
            captured.
    """
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        module = module.module
    away = next((t.device for t in (*module.parameters(), *module.buffers()) if t.device.type != "cpu"), None)
    if away is not None:
        raise PorterError("PT310", f"the model's weights are on {away}", fix="Move it first: model.cpu().")
    parameters = list(inspect.signature(module.forward).parameters.values())
    args, kwargs, names = match(parameters, example_inputs(inputs), type(module).__name__)
    with _evaluation(module), _whole_traces(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first: Exception | None = None
        for strict in (False, True):
            try:
                program = torch.export.export(module, tuple(args), kwargs, strict=strict)
                return program, names
            except Exception as error:
                first = first or error
                eager = None if strict else _fails_eagerly(module, args, kwargs)
                if eager is not None:
                    raise PorterError(
                        "PT506",
                        f"the model does not run on these inputs: {_first_line(eager)}",
                        _place(eager),
                        "Check the shape and dtype of each --input against what forward expects.",
                    ) from error
    assert first is not None
    advice = next(
        (fix for pattern, fix in _ADVICE if pattern.search(f"{type(first).__name__} {first}")),
        "Rewrite that line with tensor operations; `porter explain PT310` lists what cannot be captured.",
    )
    raise PorterError("PT310", f"the model cannot be captured: {_first_line(first)}", _place(first), advice) from first


# ---------------------------------------------------------------------------------------------- flatten


@dataclass
class Captured:
    """A flat graph: placeholders, get_attr nodes whose targets are keys of ``attributes``, ATen calls, the output.

    Each node has ``meta`` "val" (fake tensor), "porter_origin", and stack_trace and nn_module_stack where known.
    """

    graph: fx.Graph
    attributes: dict[str, Any]
    mode: Any
    in_spec: Any
    out_spec: Any
    #: Bounds of the sizes that depend on data (of nonzero), by symbol.
    ranges: Mapping[Any, Any]


def flatten(
    program: ExportedProgram,
    inputs: Sequence[Any] = (),
    names: Sequence[str | None] = (),
    origins: Mapping[str, Origin] | None = None,
    values: Mapping[str, str] | None = None,
) -> Captured:
    """Unlift, make functional and static, normalize.

    In-place writes are resolved here, so that each op keeps its own line and composite operators stay whole; where a
    view or an operator is of a kind that this cannot do, torch's own functionalization (``run_decompositions({})``)
    goes first.

    Args:
        program: what ``torch.export`` made.
        inputs: specs or tensors, in order; needed where the program has dynamic sizes.
        names: the caller's names of the inputs.
        origins, values: origins of nodes and names of values that an earlier save wrote, by node name.
    """
    try:
        captured = _Flatten(program, inputs, names, origins or {}, values or {}, strict=True).run()
    except _Fallback:
        signature = program.graph_signature
        if not any(names):  # torch may rename the inputs
            names = [s.arg.name for s in signature.input_specs if s.kind is InputKind.USER_INPUT]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = program.run_decompositions({})
        captured = _Flatten(program, inputs, names, origins or {}, values or {}, strict=False).run()
    cancel_permutes(captured.graph)
    return captured


class _Fallback(Exception):
    """Something here needs torch's own functionalization."""


@dataclass(eq=False)
class _Base:
    """Memory: the node that holds its contents now, and how often it has been written."""

    value: fx.Node
    version: int = 0


@dataclass(frozen=True)
class _View:
    """How to see a part of a tensor, and how to put a new part back into the whole."""

    see: Callable[[fx.Node], fx.Node]
    put: Callable[[fx.Node, fx.Node], fx.Node]


@dataclass
class _Alias:
    """A tensor of the program: memory, the views that lead to it, and the version that its node shows."""

    base: _Base
    views: tuple[_View, ...]
    version: int


@dataclass
class _Call:
    """A call that stands for a node of the program: the functional form of an in-place operator."""

    name: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    meta: dict[str, Any]
    users: Mapping[fx.Node, None]


_DROPPED = frozenset(
    f"aten.{n}"
    for n in words(
        "_assert_tensor_metadata.default _assert_scalar.default _assert_async.msg _assert_async.default "
        "_functional_assert_async.msg sym_constrain_range.default sym_constrain_range_for_size.default"
    )
)
_ALIASES = frozenset(t for t, kind in UNARY.items() if kind == "identity")
_ARITHMETIC = {
    **{t: ("self", "exponent" if k == "pow" else "other") for t, k in BINARY.items() if "bitwise" not in k},
    **{
        f"aten.{n}": ("self", "other")
        for n in (
            "rsub.Scalar",
            "rsub.Tensor",
            "div.Tensor_mode",
            "div.Scalar_mode",
            "where.self",
            "where.ScalarOther",
            "where.ScalarSelf",
        )
    },
}
_DTYPE_ARGUMENT = {
    f"aten.{n}"
    for n in words(
        "sum.default sum.dim_IntList mean.default mean.dim prod.default prod.dim_int "
        "cumsum.default softmax.int log_softmax.int linalg_vector_norm.default"
    )
}
_TO_INT64 = {f"aten.{n}" for n in words("sum.default sum.dim_IntList prod.default prod.dim_int cumsum.default")}
_TO_BOOL = {f"aten.{k}.{o}" for k in ("all", "any") for o in ("default", "dim", "dims")} | {"aten.logical_not.default"}

Normalizer = Callable[["_Flatten", Any, dict[str, Any]], Any]
_NORMALIZERS: dict[str, Normalizer] = {}


def _normalizes(*targets: str) -> Callable[[Normalizer], Normalizer]:
    def register(function: Normalizer) -> Normalizer:
        _NORMALIZERS.update({f"aten.{t}": function for t in targets})
        return function

    return register


class _Flatten:
    def __init__(
        self,
        program: ExportedProgram,
        inputs: Sequence[Any],
        names: Sequence[str | None],
        origins: Mapping[str, Origin],
        values: Mapping[str, str],
        strict: bool,
    ) -> None:
        self.program = program
        self.strict = strict
        self.given = example_inputs(inputs)
        self.names = list(names) or [name for name, _ in self.given]
        self.origins = origins
        self.values = values
        self.graph = fx.Graph()
        self.attributes: dict[str, Any] = {}
        self.env: dict[fx.Node, Any] = {}
        self.items: dict[tuple[fx.Node, int], fx.Node] = {}
        placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
        self.static = all(_is_static(n.meta.get("val")) for n in placeholders)
        self.writes = any(_mutates(n.target) for n in program.graph.nodes)
        self.alias: dict[fx.Node, _Alias] = {}
        self.written: set[str] = set(program.graph_signature.buffers_to_mutate.values())
        self.mode = self._mode()
        self.emit = Emitter(self.graph, self.mode)

    def _mode(self) -> Any:
        from torch._guards import detect_fake_mode
        from torch._subclasses.fake_tensor import FakeTensorMode

        vals = [n.meta.get("val") for n in self.program.graph.nodes if n.op == "placeholder"]
        found = detect_fake_mode(vals) if self.static else None
        return found or FakeTensorMode(allow_non_fake_inputs=True)

    def run(self) -> Captured:
        signature = self.program.graph_signature
        inputs = iter(self.given)
        names = iter(self.names)
        whole_tree = True
        for node, spec in zip(self.program.graph.nodes, signature.input_specs, strict=False):
            if spec.kind is InputKind.USER_INPUT:
                if isinstance(spec.arg, ConstantArgument):
                    self.env[node] = spec.arg.value
                    whole_tree = False
                    continue
                self._input(node, next(inputs, None), next(names, None))
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                assert spec.target is not None
                self._parameter(node, spec.target)
            else:
                raise PorterError(
                    "PT310",
                    f"the program has an input of the kind {spec.kind.name.lower()}",
                    node.name,
                    "Export the model without custom objects and effect tokens.",
                )
        for node in self.program.graph.nodes:
            if node.op == "get_attr":
                self._submodule(node)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self._output(node, signature.output_specs)
        sweep(self.graph)
        self._check_state()
        call = self.program.module_call_graph[0].signature
        in_spec = call.in_spec if whole_tree else None
        used = {n.target for n in self.graph.nodes if n.op == "get_attr"}
        kept = {path: value for path, value in self.attributes.items() if path in used}
        return Captured(self.graph, kept, self.mode, in_spec, call.out_spec, self.program.range_constraints)

    # -- inputs, parameters, outputs

    def _input(self, node: fx.Node, given: tuple[str | None, torch.Tensor] | None, name: str | None) -> None:
        val = node.meta["val"]
        if not isinstance(val, torch.Tensor):
            raise PorterError(
                "PT506",
                f"the input {node.name} is a {type(val).__name__}, not a tensor",
                node.name,
                "Export the model with that argument fixed.",
            )
        if not self.static or given is not None:
            if given is None:
                raise PorterError(
                    "PT507",
                    f"the input {node.name} has the shape {tuple(map(str, val.shape))}",
                    node.name,
                    f"Fix it: --input {node.name}:" + "x".join(str(s) for s in val.shape) + " with numbers.",
                )
            fits = len(given[1].shape) == len(val.shape) and all(
                not isinstance(s, int) or s == g for s, g in zip(val.shape, given[1].shape, strict=True)
            )
            if not fits:
                raise PorterError(
                    "PT506",
                    f"the input {node.name} has the shape {tuple(map(str, val.shape))}, not {tuple(given[1].shape)}",
                    node.name,
                    "Give the shape that the file was exported with.",
                )
            if not self.static:
                with self.mode:
                    val = torch.empty(tuple(given[1].shape), dtype=val.dtype)
        new = self.graph.placeholder(node.name)
        new._rename(node.name)
        new.meta.update(val=val, porter_origin=self.origins.get(node.name, Origin(source=(node.name,))))
        shown = self.values.get(node.name, name)
        if shown and shown != node.name:
            new.meta["porter_value"] = shown
        self.env[node] = new

    def _parameter(self, node: fx.Node, path: str) -> None:
        tensor = self.program.state_dict.get(path)
        if tensor is None:
            tensor = self.program.constants[path]
        self.attributes[path] = tensor
        new = self.graph.get_attr(path)
        new._rename(path.replace(".", "_"))
        val = node.meta["val"] if self.static else self.mode.from_tensor(tensor, static_shapes=True)
        new.meta.update(val=val, porter_origin=Origin(module=path.rpartition(".")[0] or None, source=(path,)))
        self.env[node] = new

    def _submodule(self, node: fx.Node) -> None:
        held: Any = self.program.graph_module
        for part in str(node.target).split("."):
            held = getattr(held, part)
        self.attributes[str(node.target)] = held
        new = self.graph.get_attr(str(node.target))
        new._rename(node.name)
        new.meta["porter_origin"] = Origin(source=(node.name,))
        if isinstance(held, torch.Tensor):
            new.meta["val"] = self.mode.from_tensor(held, static_shapes=True)
        self.env[node] = new

    def _output(self, node: fx.Node, specs: Sequence[Any]) -> None:
        leaves: Any = node.args[0]
        results = [self.read(a) if isinstance(a, fx.Node) else a for a in leaves]
        kept = [r for r, s in zip(results, specs, strict=True) if s.kind is OutputKind.USER_OUTPUT]
        for i, result in enumerate(kept):
            if isinstance(result, fx.Node) and result.op in ("placeholder", "get_attr"):
                self.emit.prefix, self.emit.meta = "", {"porter_origin": result.meta["porter_origin"]}
                kept[i] = alias = self.emit.call("alias", result)
                alias._rename(f"{result.name}_out")
        out = self.graph.output(tuple(kept))
        out.meta["porter_origin"] = Origin(source=("output",))

    def _check_state(self) -> None:
        """A buffer that the model both reads and changes makes each call depend on the calls before."""
        used = {n.target for n in self.graph.nodes if n.op == "get_attr"}
        for path in self.written & used:
            raise PorterError(
                "PT310",
                f"the model changes its buffer {path} each time it runs, and reads it",
                path,
                "Make it an input and an output of forward, or freeze it for inference.",
            )

    # -- memory

    def _base(self, node: fx.Node) -> _Alias:
        if node not in self.alias:
            self.alias[node] = _Alias(_Base(self.env[node]), (), 0)
        return self.alias[node]

    def read(self, node: fx.Node) -> Any:
        """What a tensor of the program holds now."""
        alias = self.alias.get(node)
        if alias is not None and alias.version != alias.base.version:
            self._metadata(node)
            seen = alias.base.value
            for view in alias.views:
                seen = view.see(seen)
            self.env[node], alias.version = seen, alias.base.version
        return self.env[node]

    def write(self, node: fx.Node, new: fx.Node) -> None:
        """Give a tensor of the program new contents, and with it the memory that it shares."""
        self.emit.prefix = ""
        alias = self._base(node)
        levels = [alias.base.value]
        for view in alias.views[:-1]:
            levels.append(view.see(levels[-1]))
        whole = new
        for level, view in zip(reversed(levels), reversed(alias.views), strict=False):
            whole = view.put(level, whole)
        if alias.base.value.op == "get_attr":
            self.written.add(str(alias.base.value.target))
        alias.base.value = whole
        alias.base.version += 1
        alias.version, self.env[node] = alias.base.version, new

    def _track(self, node: fx.Node, result: Any) -> None:
        """Remember whose memory the result of a call shares, by the program's own strides, not by ours."""
        if not isinstance(result, fx.Node) or not _may_alias(node.target):
            return
        source = _owner(node)
        if source is not None:
            of, shown = self._base(source), self.env[source]
            views = () if shown is result else (self._view_of(node, shown, result),)
            self.alias[node] = _Alias(of.base, of.views + views, of.base.version)

    def _view_of(self, node: fx.Node, whole: fx.Node, part: fx.Node) -> _View:
        name, e = str(node.target).split(".")[1], self.emit
        inner, outer = (list(n.meta["val"].shape) for n in (part, whole))
        a = bind(node.target, node.args, node.kwargs)
        if name in ("slice", "narrow"):
            dim, step = a["dim"], a.get("step", 1)
            start = a["start"] or 0
            end = start + a["length"] if name == "narrow" else a["end"]
            return _slice_view(e, dim, start, end, step)
        if name == "select":
            return _select_view(e, a["dim"], a["index"])
        if name in (
            "view",
            "reshape",
            "flatten",
            "unflatten",
            "squeeze",
            "unsqueeze",
            "_unsafe_view",
            "view_as",
            "reshape_as",
        ):
            return _View(lambda x: e.call("reshape", x, inner), lambda _, new: e.call("reshape", new, outer))
        dims = _permutation(name, a, len(outer))
        if dims is not None:
            back = sorted(range(len(dims)), key=dims.__getitem__)
            return _View(lambda x: e.call("permute", x, dims), lambda _, new: e.call("permute", new, back))
        if name in ("expand", "expand_as", "broadcast_to"):
            return _View(lambda x: e.call("expand", x, inner), _cannot)
        if inner == outer:
            return _View(lambda x: x, lambda _, new: new)
        return _View(_cannot, _cannot)

    # -- calls

    def _metadata(self, node: fx.Node) -> None:
        """What a call of the program came from, for the calls made in its place."""
        origin = self.origins.get(node.name) or origin_of(node.meta, node.name)
        if origin.file is None:
            near = (
                self.env[n].meta["porter_origin"] for n in node.all_input_nodes if isinstance(self.env.get(n), fx.Node)
            )
            known = next((o for o in near if o.file), None)
            if known is not None and not origin.rules:
                origin = replace(origin, file=known.file, line=known.line, function=known.function)
        meta: dict[str, Any] = {"porter_origin": origin}
        meta.update({k: node.meta[k] for k in ("stack_trace", "nn_module_stack") if node.meta.get(k)})
        self.emit.meta, self.emit.prefix = meta, node.name

    def _call(self, node: fx.Node) -> None:
        if str(node.target) in _DROPPED:
            return
        if node.target is getitem:
            self._getitem(node)
            return
        args = fx.map_arg(node.args, self.read)
        kwargs = fx.map_arg(node.kwargs, self.read)
        self._metadata(node)
        if str(node.target) == "aten.detach_.default":  # in place by name only
            self.env[node] = args[0]
            self.alias[node] = replace(self._base(node.args[0]))  # type: ignore[arg-type]
            return
        if _mutates(node.target):
            self._write_in_place(node, args, kwargs)
            return
        if self.strict and node.name not in self.origins and _needs_torch(node.target):
            raise _Fallback
        result = self._functional(node, args, kwargs)
        self.env[node] = result
        if self.writes:
            self._track(node, result)

    def _write_in_place(self, node: fx.Node, args: Any, kwargs: Any) -> None:
        target = functional_form(node.target)
        if target is None or not self.strict:
            raise (
                _Fallback
                if self.strict
                else PorterError(
                    "PT310",
                    f"the model writes in place with {node.target}",
                    str(self.emit.meta["porter_origin"]),
                    "Use the out-of-place form.",
                )
            )
        old = node.args[0]
        assert isinstance(old, fx.Node)
        before = self.env[old].meta["val"]
        name = str(target).split(".")[1]
        call = _Call(node.name, target, node.args, dict(node.kwargs), dict(node.meta), node.users)
        call.meta["val"] = self.emit.val(target, args, kwargs)
        result = self._functional(call, args, kwargs)
        if result.name == node.name:
            result._rename(name)
        self.write(old, self.emit.cast(result, before.dtype))
        self.env[node] = self.env[old]
        self.alias[node] = replace(self.alias[old])

    def _functional(self, node: Any, args: Any, kwargs: Any) -> Any:
        """The nodes that stand for a call without side effects."""
        target = str(node.target)
        result = None
        if isinstance(node.target, torch._ops.OpOverload):
            bound = bind(node.target, args, kwargs)
            if target in _NORMALIZERS:
                result = _NORMALIZERS[target](self, node, bound)
            if result is None:
                result = self._promoted(node, target, bound)
        if result is None:
            result = self._same(node, args, kwargs)
        if isinstance(result, fx.Node) and result.name.startswith(f"{node.name}__"):
            result._rename(node.name)
            if node.name in self.values:
                result.meta["porter_value"] = self.values[node.name]
        for part in result if isinstance(result, tuple) else ():
            if part is not None and part.name.startswith(f"{node.name}__"):
                part._rename(part.name.removeprefix(f"{node.name}__"))
        return result

    def _same(self, node: Any, args: Any, kwargs: Any) -> Any:
        """The very call; a plain number where its result is one (a size)."""
        if self.static and not self.writes:
            val = node.meta["val"]
        else:
            val = self.emit.val(node.target, args, kwargs)
            if isinstance(val, (int, float, bool)):
                return val
        return self.emit.call(node.target, *args, val=val, **kwargs)

    def _getitem(self, node: fx.Node) -> None:
        origin: Any = node.args[0]
        index: Any = node.args[1]
        whole = self.env[origin]
        if isinstance(whole, tuple):
            self.env[node] = whole[index]
            return
        if (whole, index) not in self.items:
            self.emit.meta = {k: v for k, v in whole.meta.items() if k not in ("val", "porter_value")}
            self.emit.prefix = ""
            new = self.emit.item(whole, index)
            new._rename(node.name)
            if node.name in self.values:
                new.meta["porter_value"] = self.values[node.name]
            self.items[whole, index] = new
        self.env[node] = self.items[whole, index]
        if self.writes:
            self._track_item(node, index)

    def _track_item(self, node: fx.Node, index: int) -> None:
        """One piece of split, chunk or unbind is a view of the tensor that was cut."""
        cut = node.args[0]
        assert isinstance(cut, fx.Node)
        if not _may_alias(cut.target):
            return
        name, of = str(cut.target).split(".")[1], self._base(cut.all_input_nodes[0])
        a = bind(cut.target, cut.args, cut.kwargs)
        if name == "unbind":
            view = _select_view(self.emit, a["dim"], index)
        elif name in ("split", "split_with_sizes", "chunk", "tensor_split"):
            extents = [v.shape[a["dim"]] for v in self.env[cut].meta["val"]]
            start = sum(extents[:index])
            view = _slice_view(self.emit, a["dim"], start, start + extents[index], 1)
        else:
            view = _View(_cannot, _cannot)
        self.alias[node] = _Alias(of.base, (*of.views, view), of.base.version)

    def cast_all(self, values: dict[str, Any], names: Sequence[str], dtype: torch.dtype) -> bool:
        """Cast the tensors among the named arguments; whether any needed it."""
        changed = False
        for name in names:
            value = values[name]
            if isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor):
                values[name] = self.emit.cast(value, dtype)
                changed |= values[name] is not value
        return changed

    def _promoted(self, node: Any, target: str, a: dict[str, Any]) -> Any:
        """The call with explicit casts where torch would convert its operands inside; None where it would not."""
        dtype = _val(node, "dtype")
        changed = False
        if target in _ARITHMETIC and dtype is not None:
            changed = self.cast_all(a, _ARITHMETIC[target], dtype)
        elif target in COMPARE:
            changed = self.cast_all(a, ("self", "other"), _common(a["self"], a["other"]))
        elif target in LOGICAL:
            changed = self.cast_all(a, ("self", "other"), torch.bool)
        elif target in _TO_BOOL:
            changed = self.cast_all(a, ("self",), torch.bool)
        elif target in UNARY_FLOAT and dtype is not None:
            changed = self.cast_all(a, ("self",), dtype)
        elif target in ("aten.cat.default", "aten.stack.default") and dtype is not None:
            cast = [self.emit.cast(t, dtype) for t in a["tensors"]]
            changed = cast != list(a["tensors"])
            a["tensors"] = cast
        if a.get("dtype") is not None and target in _DTYPE_ARGUMENT:
            self.cast_all(a, ("self",), a["dtype"])
            a["dtype"], changed = None, True
        elif target in _TO_INT64 and dtype is torch.int64:
            changed |= self.cast_all(a, ("self",), torch.int64)
        return self.again(node, a) if changed else None

    def again(self, node: Any, a: Mapping[str, Any]) -> fx.Node:
        """The call of ``node`` with other arguments; those that have their default at the end are left out."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        schema = node.target._schema.arguments
        positional = [s for s in schema if not s.kwarg_only]
        while (
            positional and positional[-1].has_default_value() and a[positional[-1].name] == positional[-1].default_value
        ):
            positional.pop()
        args.extend(a[s.name] for s in positional)
        kwargs.update((s.name, a[s.name]) for s in schema if s.kwarg_only and a[s.name] != s.default_value)
        return self.emit.call(node.target, *args, **kwargs)


def _mutates(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def functional_form(target: Any) -> torch._ops.OpOverload | None:
    """``aten.silu_.default`` -> ``aten.silu.default``; None where there is none, or shapes change in place."""
    name = target._schema.name.removeprefix("aten::")
    if torch.Tag.inplace_view in target.tags or not name.endswith("_") or name.startswith("__"):
        return None
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    return getattr(packet, target._overloadname, None)


def _needs_torch(target: Any) -> bool:
    """Whether a call should be taken apart by torch: a composite without a meaning here, or a nested region."""
    if isinstance(target, torch._ops.HigherOrderOperator):
        return str(target).startswith("wrap")
    if str(target) == "aten.item.default":
        return False
    if not isinstance(target, torch._ops.OpOverload) or str(target) in TABLE or str(target) in _NORMALIZERS:
        return False
    schema = target._schema
    name = f"{schema.name}.{schema.overload_name}".rstrip(".")
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")


def _may_alias(target: Any) -> bool:
    """Whether an operator may return (a view of) its argument: by its schema, and three whose schemas don't say so."""
    if str(target) in ("aten.dropout.default", "aten.feature_dropout.default", "aten.type_as.default"):
        return True
    return isinstance(target, torch._ops.OpOverload) and any(r.alias_info is not None for r in target._schema.returns)


def _owner(node: fx.Node) -> fx.Node | None:
    """The argument whose memory the result of a call shares, or None: the call is made again on the program's fakes."""
    from torch._guards import detect_fake_mode

    vals = {n: n.meta.get("val") for n in node.all_input_nodes}
    mode = detect_fake_mode(list(vals.values()))
    if mode is None or not all(isinstance(v, torch.Tensor) for v in vals.values()):
        return None
    with mode, torch.no_grad():
        made = node.target(*fx.map_arg(node.args, vals.__getitem__), **fx.map_arg(node.kwargs, vals.__getitem__))  # type: ignore[operator]
    if not isinstance(made, torch.Tensor):
        return None
    memory = made.untyped_storage()._cdata
    return next((n for n, v in vals.items() if v is not None and v.untyped_storage()._cdata == memory), None)


def _slice_view(e: Emitter, dim: int, start: Any, end: Any, step: int) -> _View:
    return _View(
        lambda x: e.call("slice.Tensor", x, dim, start, end, step),
        lambda whole, new: e.call("slice_scatter", whole, new, dim, start, end, step),
    )


def _select_view(e: Emitter, dim: int, index: int) -> _View:
    return _View(
        lambda x: e.call("select.int", x, dim, index),
        lambda whole, new: e.call("select_scatter", whole, new, dim, index),
    )


def _cannot(*_: fx.Node) -> fx.Node:
    """A view that is never written, and whose memory is never written, needs no way back."""
    raise _Fallback


def _permutation(name: str, a: Mapping[str, Any], rank: int) -> list[int] | None:
    dims = list(range(rank))
    if name == "permute":
        return [d % rank for d in a["dims"]]
    if name in ("t", "numpy_T"):
        return dims[::-1]
    if name in ("transpose", "swapaxes", "mT"):
        pair = (-2, -1) if name == "mT" else tuple(a.values())[1:3]
        i, j = (d % rank for d in pair)
        dims[i], dims[j] = dims[j], dims[i]
        return dims
    return None


def _val(node: Any, what: str) -> Any:
    return getattr(node.meta.get("val"), what, None)


def _is_static(val: Any) -> bool:
    if isinstance(val, torch.Tensor):
        return all(isinstance(s, int) for s in val.shape)
    return not isinstance(val, (torch.SymInt, torch.SymFloat, torch.SymBool))


def _common(x: Any, y: Any) -> torch.dtype:
    """The dtype in which torch compares two operands."""
    fake = [v.meta["val"] if isinstance(v, fx.Node) else v for v in (x, y)]
    with torch.no_grad():
        return torch.result_type(*fake)


def sweep(graph: fx.Graph) -> None:
    """Erase what nothing reads, last node first. Nothing here has a side effect."""
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)


def _held(self: _Flatten, node: Any) -> torch.Tensor | None:
    """The data of a tensor that the model holds, or None."""
    if isinstance(node, fx.Node) and node.op == "get_attr":
        held = self.attributes[str(node.target)]
        return held if isinstance(held, torch.Tensor) else None
    return None


# -- one function for each form that has a plainer one


@_normalizes(*(t.removeprefix("aten.") for t in _ALIASES))
def _alias(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    """Nothing is written in place, so a copy is the value itself, unless it changes how it lies in memory."""
    x = a["self"]
    if node.name in self.origins:  # porter wrote the file: what is left has a reason
        return None
    if node.target not in (operator("clone"), operator("contiguous")):
        return x
    made = self.again(node, a)
    return x if made.meta["val"].stride() == x.meta["val"].stride() else made


@_normalizes("empty.memory_format", "new_empty.default", "empty_like.default")
def _empty(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    """Memory that nobody has written may hold zeros."""
    shape = a["size"] if "size" in a else a["self"].meta["val"].shape
    return self.emit.call("full", list(shape), 0, dtype=_val(node, "dtype"))


@_normalizes("dropout.default", "feature_dropout.default")
def _dropout(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    return None if a["train"] else a["input"]


@_normalizes("_to_copy.default", "to.dtype", "to.dtype_layout", "to.other")
def _to_copy(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    dtype = _val(node, "dtype")
    x = a["self"]
    return x if x.meta["val"].dtype == dtype else self.emit.call("_to_copy", x, dtype=dtype)


@_normalizes(
    "view.default",
    "_unsafe_view.default",
    "_reshape_alias.default",
    "view_copy.default",
    "reshape.default",
    "view_as.default",
    "reshape_as.default",
    "flatten.using_ints",
    "unflatten.int",
)
def _view(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    """reshape: a view where it can be one (the strides may have changed)."""
    sizes = a.get("size", a.get("shape"))
    if self.static:
        shape = node.meta["val"].shape
    else:
        made = self.again(node, a) if sizes is None else self.emit.call("reshape", a["self"], list(sizes))
        shape = made.meta["val"].shape
    return a["self"] if shape == a["self"].meta["val"].shape else self.emit.call("reshape", a["self"], list(shape))


@_normalizes("type_as.default")
def _type_as(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    return self.emit.cast(a["self"], a["other"].meta["val"].dtype)


@_normalizes("narrow.default")
def _narrow(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    return self.emit.call("slice.Tensor", a["self"], a["dim"], a["start"], a["start"] + a["length"])


@_normalizes("__and__.Tensor", "__or__.Tensor", "__xor__.Tensor")
def _bitwise(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    self.cast_all(a, ("self", "other"), _val(node, "dtype"))
    return self.emit.call(f"bitwise_{str(node.target).split('.')[1].strip('_')}.Tensor", a["self"], a["other"])


@_normalizes("slice.Tensor")
def _slice(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    if a["step"] != 1:
        return None
    made = self.again(node, a)
    return a["self"] if made.meta["val"].shape == a["self"].meta["val"].shape else made


@_normalizes("slice_scatter.default")
def _slice_scatter(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    """Written over everywhere, nothing is left of what was there. The line is the assignment's (see _written)."""
    self.emit.meta = _written(self, node, a)
    whole = a["src"].meta["val"].shape == a["self"].meta["val"].shape and a["step"] == 1
    return a["src"] if whole else self.again(node, a)


@_normalizes("select_scatter.default")
def _select_scatter(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    self.emit.meta = _written(self, node, a)
    return self.again(node, a)


def _written(self: _Flatten, node: Any, a: dict[str, Any]) -> Mapping[str, Any]:
    """The metadata of the assignment that a scatter belongs to.

    Functionalization makes the scatter when the written tensor is next read, and may give it that later line; the
    ``copy`` or ``fill`` inside has the line of the assignment itself.
    """
    if node.name in self.origins:
        return self.emit.meta
    src = node.args[1]
    while isinstance(src, fx.Node) and "scatter" in str(src.target):
        src = src.args[1]
    if not isinstance(src, fx.Node) or not str(src.target).startswith(("aten.copy.", "aten.fill.", "aten.zero.")):
        return self.emit.meta
    origin = origin_of(src.meta, node.name)
    kept = {k: src.meta[k] for k in ("stack_trace", "nn_module_stack") if src.meta.get(k)}
    return {"porter_origin": origin, **kept} if origin.file else self.emit.meta


@_normalizes("copy.default")
def _copy(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    like = a["self"].meta["val"]
    src = self.emit.cast(a["src"], like.dtype)
    return src if src.meta["val"].shape == like.shape else self.emit.call("expand", src, list(like.shape))


@_normalizes("fill.Tensor")
def _fill(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    held = _held(self, a["value"])
    if held is not None:
        return self.emit.call("full_like", a["self"], held.item())
    like = a["self"].meta["val"]
    return self.emit.call("expand", self.emit.cast(a["value"], like.dtype), list(like.shape))


@_normalizes("add.Tensor", "sub.Tensor", "add.Scalar", "sub.Scalar")
def _alpha(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    if a["alpha"] == 1 or not isinstance(a["other"], fx.Node):
        return None if a["alpha"] == 1 else self.emit.call(node.target, a["self"], a["other"] * a["alpha"])
    dtype = _val(node, "dtype")
    self.cast_all(a, ("self", "other"), dtype)
    return self.emit.call(node.target, a["self"], self.emit.call("mul.Tensor", a["other"], a["alpha"]))


@_normalizes("rsub.Scalar", "rsub.Tensor")
def _rsub(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    self.cast_all(a, ("self", "other"), _val(node, "dtype"))
    x = a["self"] if a["alpha"] == 1 else self.emit.call("mul.Tensor", a["self"], a["alpha"])
    if isinstance(a["other"], fx.Node):
        return self.emit.call("sub.Tensor", a["other"], x)
    return self.emit.call("rsub.Scalar", x, a["other"])


@_normalizes("addcmul.default", "addcdiv.default")
def _addcmul(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    self.cast_all(a, ("self", "tensor1", "tensor2"), _val(node, "dtype"))
    product = self.emit.call("mul.Tensor" if "mul" in str(node.target) else "div.Tensor", a["tensor1"], a["tensor2"])
    if a["value"] != 1:
        product = self.emit.call("mul.Tensor", product, a["value"])
    return self.emit.call("add.Tensor", a["self"], product)


@_normalizes("baddbmm.default")
def _baddbmm(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    if a["beta"] != 1 or a["alpha"] != 1:
        return None
    return self.emit.call("add.Tensor", a["self"], self.emit.call("bmm", a["batch1"], a["batch2"]))


@_normalizes("div.Tensor_mode")
def _div_mode(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    dtype = _val(node, "dtype")
    self.cast_all(a, ("self", "other"), dtype)
    if a["rounding_mode"] is None:
        return self.emit.call("div.Tensor", a["self"], a["other"])
    if a["rounding_mode"] == "trunc" and dtype.is_floating_point:
        return self.emit.call("trunc", self.emit.call("div.Tensor", a["self"], a["other"]))
    return self.emit.call("div.Tensor_mode", a["self"], a["other"], rounding_mode=a["rounding_mode"])


@_normalizes("masked_fill.Tensor")
def _masked_fill(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    held = _held(self, a["value"])
    if held is not None:
        return self.emit.call("masked_fill.Scalar", a["self"], a["mask"], held.item())
    return self.emit.call("where.self", a["mask"], self.emit.cast(a["value"], _val(node, "dtype")), a["self"])


@_normalizes("index_put.default")
def _index_put(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    """``x[mask] = number`` writes where the mask is true: masked_fill, or where for a number computed at run time."""
    indices, x, value = a["indices"], a["self"], a["values"]
    mask = indices[0] if len(indices) == 1 else None
    if mask is None or mask.meta["val"].dtype is not torch.bool or a["accumulate"] or value.meta["val"].numel() != 1:
        return None
    for _ in range(x.meta["val"].dim() - mask.meta["val"].dim()):
        mask = self.emit.call("unsqueeze", mask, -1)
    held = _held(self, value)
    if held is not None:
        return self.emit.call("masked_fill.Scalar", x, mask, held.item())
    return self.emit.call("where.self", mask, self.emit.cast(value, _val(node, "dtype")), x)


@_normalizes("scatter.value")
def _scatter_value(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    shape = list(a["index"].meta["val"].shape)
    src = self.emit.call("full", shape, a["value"], dtype=_val(node, "dtype"))
    return self.emit.call("scatter.src", a["self"], a["dim"], a["index"], src)


@_normalizes("clamp.Tensor", "clamp_min.Tensor", "clamp_max.Tensor")
def _clamp(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    dtype = _val(node, "dtype")
    x = self.emit.cast(a["self"], dtype)
    if a.get("min") is not None:
        x = self.emit.call("maximum", x, self.emit.cast(a["min"], dtype))
    if a.get("max") is not None:
        x = self.emit.call("minimum", x, self.emit.cast(a["max"], dtype))
    return x


@_normalizes("_native_batch_norm_legit_no_training.default", "native_batch_norm.default", "cudnn_batch_norm.default")
def _batch_norm(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    """The statistics of the batch, its other results, are empty in evaluation."""
    if a.get("training") or _reads(node, {1, 2, 3}):
        return None
    args = (a.get("input", a.get("self")), a["weight"], a["bias"], a["running_mean"], a["running_var"])
    return self.emit.call("batch_norm", *args, False, a["momentum"], a["eps"], False), None, None


@_normalizes("native_layer_norm.default")
def _native_layer_norm(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    if _reads(node, {1, 2}):
        return None
    return self.emit.call("layer_norm", a["input"], a["normalized_shape"], a["weight"], a["bias"], a["eps"]), None, None


@_normalizes("native_group_norm.default")
def _native_group_norm(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    if _reads(node, {1, 2}):
        return None
    return self.emit.call("group_norm", a["input"], a["group"], a["weight"], a["bias"], a["eps"]), None, None


@_normalizes("max_pool2d_with_indices.default")
def _max_pool(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    if _reads(node, {1}):
        return None
    args = (a["kernel_size"], a["stride"], a["padding"], a["dilation"], a["ceil_mode"])
    return _with_batch(self, a["self"], 4, lambda x: self.emit.call("max_pool2d", x, *args)), None


@_normalizes("max.dim", "min.dim")
def _extreme(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    """The value alone is amax, the index alone is argmax (both take the first extreme on the CPU)."""
    name = str(node.target).split(".")[1]
    args = (a["self"], a["dim"], a["keepdim"])
    if not _reads(node, {1}):
        return self.emit.call(f"a{name}", args[0], [args[1]], args[2]), None
    return None if _reads(node, {0}) else (None, self.emit.call(f"arg{name}", *args))


@_normalizes("argsort.default", "argsort.stable")
def _argsort(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    order = self.emit.call("sort.stable", a["self"], stable=True, dim=a["dim"], descending=a["descending"])
    return self.emit.item(order, 1)


@_normalizes(*(f"{n}_mean.{o}" for n in ("var", "std") for o in ("correction", "dim", "default")))
def _var_mean(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    name = str(node.target).split(".")[1].removesuffix("_mean")
    dims = a.get("dim") or list(range(a["self"].meta["val"].dim()))
    keepdim = a.get("keepdim", False)
    correction = a["correction"] if "correction" in a else int(a["unbiased"])
    spread = self.emit.call(f"{name}.correction", a["self"], dims, correction=correction, keepdim=keepdim)
    return spread, self.emit.call("mean.dim", a["self"], dims, keepdim)


@_normalizes("glu.default")
def _glu(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    x, dim = a["self"], a["dim"]
    half = x.meta["val"].shape[dim] // 2
    gate = self.emit.call("sigmoid", self.emit.call("slice.Tensor", x, dim, half, 2 * half))
    return self.emit.call("mul.Tensor", self.emit.call("slice.Tensor", x, dim, 0, half), gate)


@_normalizes("lstm_cell.default", "gru_cell.default", "rnn_tanh_cell.default", "rnn_relu_cell.default")
def _recurrent_cell(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    """A cell is a layer over one step."""
    call, name = self.emit.call, str(node.target).split(".")[1].removesuffix("_cell")
    of_torch = (a["w_ih"], a["w_hh"], a.get("b_ih"), a.get("b_hh"))
    weights = [weight for weight in of_torch if weight is not None]
    states = a["hx"] if name == "lstm" else [a["hx"]]
    hx = [call("unsqueeze", state, 0) for state in states]
    rest = (weights, len(weights) == 4, 1, 0.0, False, False, False)
    made = call(f"{name}.input", call("unsqueeze", a["input"], 0), hx if name == "lstm" else hx[0], *rest)
    last = [call("squeeze.dim", self.emit.item(made, 1 + i), 0) for i in range(len(states))]
    return tuple(last) if name == "lstm" else last[0]


def _reads(node: fx.Node, indices: set[int]) -> bool:
    """Whether any of these results of a call is read."""
    return any(user.target is not getitem or (user.args[1] in indices and user.users) for user in node.users)


def _with_batch(self: _Flatten, x: fx.Node, rank: int, build: Callable[[fx.Node], fx.Node]) -> fx.Node:
    """``build`` on (N, C, ...): an image without a batch axis gets one, and loses it afterwards."""
    if x.meta["val"].dim() == rank:
        return build(x)
    return self.emit.call("squeeze.dim", build(self.emit.call("unsqueeze", x, 0)), 0)


_WINDOWED = {
    f"aten.{k}{n}d.{o}": n + 2
    for k, o in (
        ("conv", "default"),
        ("conv", "padding"),
        ("max_pool", "default"),
        ("avg_pool", "default"),
        ("adaptive_avg_pool", "default"),
        ("conv_transpose", "input"),
        ("conv_transpose", "default"),
    )
    for n in (1, 2, 3)
}


@_normalizes(*(t.removeprefix("aten.") for t in _WINDOWED))
def _windowed(self: _Flatten, node: Any, a: dict[str, Any]) -> Any:
    first = next(iter(a))
    if a[first].meta["val"].dim() == _WINDOWED[str(node.target)]:
        return None
    return _with_batch(self, a[first], _WINDOWED[str(node.target)], lambda x: self.again(node, a | {first: x}))
