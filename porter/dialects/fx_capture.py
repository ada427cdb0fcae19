# SPDX-License-Identifier: Apache-2.0
"""From an exported program to a flat, functional, static graph of ATen calls.

Parameters are put back at their dotted paths, and the calls are normalized so that one meaning has one form
(:mod:`porter.dialects.fx_normal`):

* no assertions, no copies without effect, no in-place writes, no symbolic sizes;
* operands of one operator have one dtype (torch promotes inside the operator; devices do not);
* ``alpha`` of add and sub, ``copy``, ``fill`` with a tensor, boolean ``index_put`` become plain operators.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import getitem
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind

from porter.dialects.fx_args import TABLE, bind, words
from porter.dialects.fx_export import example_inputs, origin_of
from porter.dialects.fx_lift import BINARY, COMPARE, LOGICAL, UNARY_FLOAT
from porter.dialects.fx_lower import Emitter
from porter.dialects.fx_normal import NORMALIZERS, val_of
from porter.dialects.fx_tidy import cancel_permutes
from porter.errors import PorterError
from porter.ops import Origin

__all__ = ["Captured", "Flatten", "flatten", "sweep"]

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
        captured = Flatten(program, inputs, names, origins or {}, values or {}, strict=True).run()
    except _Fallback:
        signature = program.graph_signature
        if not any(names):  # torch may rename the inputs
            names = [s.arg.name for s in signature.input_specs if s.kind is InputKind.USER_INPUT]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = program.run_decompositions({})
        captured = Flatten(program, inputs, names, origins or {}, values or {}, strict=False).run()
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


class Flatten:
    """One run of :func:`flatten`: the new graph, what each node of the program became, and what memory it shows."""

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
            if target in NORMALIZERS:
                result = NORMALIZERS[target](self, node, bound)
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
        dtype = val_of(node, "dtype")
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
    if not isinstance(target, torch._ops.OpOverload) or str(target) in TABLE or str(target) in NORMALIZERS:
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
