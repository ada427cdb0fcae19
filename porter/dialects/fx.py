# SPDX-License-Identifier: Apache-2.0
"""The FX dialect: a torch module as a flat graph of ATen calls.

:class:`FxGraph` holds an ``fx.Graph`` of placeholders, ``get_attr`` nodes whose targets are the dotted paths of the
original parameters and buffers, calls of ATen operators, and the output; the tensors lie beside it, shared with the
module that it was captured from and never written. Each node keeps its :class:`~porter.ops.Origin` in
``meta["porter_origin"]``, and the name of its value in ``meta["porter_value"]`` where that is not the node's own.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from operator import getitem
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import fx, nn
from torch.utils._pytree import tree_structure

from porter.dialects.fx_args import dtype_name, to_numpy, words
from porter.dialects.fx_capture import Captured, flatten, sweep
from porter.dialects.fx_export import InputSpec, export
from porter.dialects.fx_lift import RANDOM, SHAPE_ONLY, lift
from porter.dialects.fx_lower import Emitter, describe, lower
from porter.dialects.fx_pt2 import read_program, write_program
from porter.dialects.fx_quantize import find_quantization
from porter.errors import PorterError
from porter.graph import Graph
from porter.ops import Array, Op, Origin, Value
from porter.rewrite import Fragment

__all__ = ["FxGraph"]

#: The member of a .pt2 file that holds origins, value names and the ledger.
EXTRA = "porter.json"
_VIEWS = frozenset(
    f"aten.{n}"
    for n in words(
        "expand.default slice.Tensor select.int permute.default transpose.int unsqueeze.default squeeze.dim "
        "squeeze.dims squeeze.default alias.default detach.default unbind.int split.Tensor split_with_sizes.default"
    )
)


class FxGraph(Graph):
    """A model as ATen calls; see :class:`~porter.graph.Graph`.

    Make one with :meth:`capture`, :meth:`load` or :meth:`from_torchscript`.
    """

    dialect: ClassVar[str] = "fx"

    def __init__(self, captured: Captured, source: str, ledger: Mapping[str, Any] | None = None) -> None:
        self.graph = captured.graph
        self.attributes = captured.attributes
        self.source = source
        #: What an earlier ``save`` recorded, or None.
        self.ledger = ledger
        self._mode = captured.mode
        self._in_spec = captured.in_spec
        self._out_spec = captured.out_spec
        self._ranges = captured.ranges
        self._changed()

    # ---------------------------------------------------------------------------------- sources

    @classmethod
    def capture(cls, module: nn.Module, inputs: Sequence[InputSpec | torch.Tensor], source: str = "module") -> FxGraph:
        """Capture a module in evaluation mode; its weights are shared, and it is left as it was.

        Args:
            module: any module that ``torch.export`` can trace; fixed shapes.
            inputs: ``(name, shape, dtype)`` (name None: by position; dtype None: float32), or example tensors.
            source: what messages call it.

        Raises:
            PorterError: PT506 where the model does not run on such inputs, PT310 where it cannot be captured.
        """
        program, names = export(module, inputs)
        return cls(flatten(program, names=names), source)

    @classmethod
    def load(
        cls,
        path: Path | str,
        inputs: Sequence[InputSpec | torch.Tensor] = (),
        source: str | None = None,
        run_pickled_code: bool = False,
    ) -> FxGraph:
        """Read a file that ``torch.export.save`` wrote; origins are kept where porter wrote it.

        ``inputs`` fixes dynamic sizes. Nothing in the file is executed unless ``run_pickled_code``.

        Raises:
            PorterError: PT502 damaged, PT503 not such a file, PT504 it would run code, PT506 or PT507 for shapes.
        """
        path = Path(path)
        program, extra = read_program(path, run_pickled_code)
        saved = json.loads(extra[EXTRA]) if EXTRA in extra else {}
        origins = {name: _origin(record) for name, record in saved.get("origins", {}).items()}
        captured = flatten(program, inputs, origins=origins, values=saved.get("values", {}))
        return cls(captured, source or path.name, saved.get("ledger"))

    @classmethod
    def from_torchscript(cls, path: Path | str, inputs: Sequence[InputSpec | torch.Tensor]) -> FxGraph:
        """Read a TorchScript file (``torch.jit.save``): its graph is run once on symbols, branches and loops decided.

        Raises:
            PorterError: PT502 damaged, PT506 where the inputs do not fit, PT310 where control flow depends on data.
        """
        from porter.dialects.fx_script import read_script

        program, names = read_script(Path(path), inputs)
        return cls(flatten(program, names=names), Path(path).name)

    # ---------------------------------------------------------------------------------- values

    def _changed(self) -> None:
        self._ops: list[Op] | None = None
        self._values: dict[fx.Node, Value] = {}
        self._last: dict[fx.Node, list[fx.Node]] | None = None
        nodes = list(self.graph.nodes)
        self.inputs = [self._value(n) for n in nodes if n.op == "placeholder"]
        self.outputs = [self._value(n) for n in self._results() if isinstance(n, fx.Node)]

    def _results(self) -> tuple[Any, ...]:
        leaves: Any = next(reversed(self.graph.nodes)).args[0]
        return tuple(leaves)

    def _value(self, node: fx.Node) -> Value:
        """The Value of a node with one result (or of a getitem)."""
        value = self._values.get(node)
        if value is None:
            value = self._values[node] = self._make_value(node)
        return value

    def _make_value(self, node: fx.Node) -> Value:
        val = node.meta.get("val")
        name = value_name(node)
        if node.op == "get_attr":
            held = self.attributes[str(node.target)]
            if isinstance(held, torch.Tensor):
                return Value(name, tuple(held.shape), dtype_name(held.dtype), lambda: to_numpy(held))
            return Value(name)
        return _described(name, val)

    def _outputs_of(self, node: fx.Node) -> tuple[Value, ...]:
        val = node.meta.get("val")
        if not isinstance(val, (tuple, list)):
            return (self._value(node),)
        items = {user.args[1]: user for user in node.users if user.target is getitem}
        return tuple(
            self._value(items[i]) if i in items else _described(f"{node.name}_unused_{i}", part)
            for i, part in enumerate(val)
        )

    def ops(self) -> list[Op]:
        """Every op in topological order, lifted now (cached until the next change)."""
        if self._ops is None:
            quantization = find_quantization(self.graph)
            self._ops = []
            for node in self.graph.nodes:
                if node.op != "call_function" or node.target is getitem or node in quantization.inside:
                    continue
                origin = node.meta["porter_origin"]
                call = quantization.calls.get(node)
                if call is None:
                    self._ops.append(lift(node, self._value, self._outputs_of(node), origin))
                else:
                    operands = tuple(None if n is None else self._value(n) for n in call.operands)
                    self._ops.append(
                        Op(call.kind, operands, self._outputs_of(node), call.attrs, node.name, origin, node)
                    )
        return self._ops

    # ---------------------------------------------------------------------------------- replace

    def expresses(self, op: Op) -> bool:
        """See :meth:`Graph.expresses`: all kinds that rules fuse to are calls of ATen, but for other hard sigmoids than
        torch's."""
        return op.kind != "hardsigmoid" or (op.attrs["alpha"], op.attrs["beta"]) == (1 / 6, 0.5)

    def replace(self, replacements: Iterable[tuple[Op, Fragment]]) -> None:
        """Put each fragment in the place of its op; see :meth:`porter.graph.Graph.replace`.

        Raises:
            NotImplementedError: a fragment has a kind that torch cannot do.
            TypeError: a result has another shape or dtype than the output that it stands for.
        """
        _Replace(self).run(replacements)
        sweep(self.graph)
        used = {n.target for n in self.graph.nodes if n.op == "get_attr"}
        self.attributes = {path: held for path, held in self.attributes.items() if path in used}
        self._changed()

    # ---------------------------------------------------------------------------------- running

    def _execute(
        self,
        order: Iterable[fx.Node],
        env: dict[fx.Node, Any],
        keep: set[fx.Node],
        freed: Mapping[fx.Node, Sequence[fx.Node]],
    ) -> None:
        for node in order:
            if node in env:
                continue
            if node.op == "get_attr":
                env[node] = self.attributes[str(node.target)]
            elif node.op == "call_function":
                lookup = env.__getitem__
                env[node] = node.target(*fx.map_arg(node.args, lookup), **fx.map_arg(node.kwargs, lookup))  # type: ignore[operator]
            for done in freed.get(node, ()):
                if done not in keep:
                    env.pop(done, None)

    def run(
        self, inputs: Sequence[Array] | Mapping[str, Array], taps: Sequence[str] = (), *, fast: bool = False
    ) -> list[Array]:
        """Run on the CPU: the outputs in order, then the values named by ``taps``.

        Raises:
            PorterError: PT506 where an input is missing, has the wrong shape or dtype, or a tap names no value.
        """
        placeholders = [n for n in self.graph.nodes if n.op == "placeholder"]
        env: dict[fx.Node, Any] = dict(zip(placeholders, self._feeds(inputs), strict=True))
        by_name = self._named()
        for name in taps:
            if name not in by_name:
                raise PorterError("PT506", f"{self.source} has no value named {name!r}", "taps")
        wanted = [n for n in self._results() if isinstance(n, fx.Node)] + [by_name[t] for t in taps]
        if self._last is None:
            self._last = _last_uses(self.graph)
        held = {
            t.untyped_storage().data_ptr()
            for t in (*self.attributes.values(), *env.values())
            if isinstance(t, torch.Tensor)
        }
        with torch.no_grad():
            self._execute(self.graph.nodes, env, set(wanted), self._last)
            return [to_numpy(_own(env[node], held)) for node in wanted]

    def _feeds(self, inputs: Sequence[Array] | Mapping[str, Array]) -> list[torch.Tensor]:
        names = [v.name for v in self.inputs]
        if isinstance(inputs, Mapping):
            extra = [name for name in inputs if name not in names]
            missing = [name for name in names if name not in inputs]
            if extra or missing:
                said = f"no input {missing[0]!r} was given" if missing else f"there is no input {extra[0]!r}"
                raise PorterError("PT506", said, self.source, f"The inputs are {', '.join(names)}.")
            arrays = [inputs[name] for name in names]
        else:
            arrays = list(inputs)
            if len(arrays) != len(names):
                raise PorterError(
                    "PT506",
                    f"{len(arrays)} inputs were given, and the model takes {len(names)}",
                    self.source,
                    f"The inputs are {', '.join(names)}.",
                )
        return [
            _tensor(value, np.asarray(array), self.source) for value, array in zip(self.inputs, arrays, strict=True)
        ]

    def _named(self) -> dict[str, fx.Node]:
        return {value_name(n): n for n in self.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)}

    def evaluate(self, values: Sequence[Value], limit: int) -> dict[str, Array]:
        """Compute values that depend on constants and shapes only; see :meth:`porter.graph.Graph.evaluate`.

        Values that read an input or random numbers, and values that need a tensor larger than ``limit`` bytes, are left
        out of the answer.
        """
        by_name = self._named()
        states: dict[fx.Node, bool] = {}
        order = [n for n in self.graph.nodes if n.op in ("get_attr", "call_function")]
        for node in order:
            states[node] = node.op == "get_attr" or (
                _affordable(node, limit) and all(states.get(n, False) for n in _data_inputs(node))
            )
        wanted = {v.name: by_name[v.name] for v in values if v.name in by_name and states.get(by_name[v.name])}
        needed: set[fx.Node] = set()
        stack = list(wanted.values())
        while stack:
            node = stack.pop()
            if node not in needed:
                needed.add(node)
                stack.extend(_data_inputs(node))
        env: dict[fx.Node, Any] = {}
        with torch.no_grad():
            for node in order:
                if node in needed:
                    for source in node.all_input_nodes:
                        if source not in env and source not in needed:
                            env[source] = _zeros_like(source.meta["val"])
            plan = [n for n in order if n in needed]
            self._execute(plan, env, set(wanted.values()), _last_uses(self.graph, needed))
            return {name: to_numpy(env[node].clone()) for name, node in wanted.items()}

    def apply(self, op: Op, operands: Sequence[Array | None]) -> list[Array]:
        """See :meth:`Graph.apply`: the op's own ATen call, or calls where it stands for several.

        Raises:
            ValueError: when the op is not of this graph, or reads a value that is neither given nor a constant.
        """
        node = op.node
        if not isinstance(node, fx.Node) or node.graph is not self.graph:
            raise ValueError(f"{op.name} is no op of this graph")
        given = {v.name: a for v, a in zip(op.inputs, operands, strict=True) if v is not None and a is not None}
        env: dict[fx.Node, Any] = {}
        calls: dict[fx.Node, None] = {}
        waiting = [node]
        while waiting:
            call = waiting.pop()
            calls[call] = calls.pop(call, None)  # after everything that reads it
            for source in call.all_input_nodes:
                if source.op == "get_attr":
                    env[source] = self.attributes[str(source.target)]
                elif value_name(source) in given:
                    env[source] = _from_numpy(given[value_name(source)])
                elif source.op == "call_function" and source.target is not getitem:
                    waiting.append(source)
                else:
                    raise ValueError(f"{value_name(source)}, which {op.name} reads, is neither given nor a constant")
        with torch.no_grad():
            self._execute(reversed(calls), env, {node}, {})
            found = env[node]
            return [to_numpy(t.clone()) for t in (found if isinstance(found, (tuple, list)) else (found,))]

    # ---------------------------------------------------------------------------------- copies and files

    def copy(self) -> FxGraph:
        """An independent graph; the tensors are shared."""
        graph = fx.Graph()
        env: dict[fx.Node, fx.Node] = {}
        for node in self.graph.nodes:
            new = env[node] = graph.node_copy(node, env.__getitem__)
            if new.name != node.name:
                new._rename(node.name)
        captured = Captured(graph, dict(self.attributes), self._mode, self._in_spec, self._out_spec, self._ranges)
        return FxGraph(captured, self.source, self.ledger)

    def with_outputs(self, names: Sequence[str]) -> FxGraph:
        """See :meth:`Graph.with_outputs`."""
        twin = self.copy()
        nodes = {name: n for name, n in twin._named().items() if n.op == "call_function"}
        missing = [name for name in names if name not in nodes]
        if missing or len(set(names)) < len(names):
            raise ValueError(f"not computed by an op of {self.source}, or named twice: {missing or names}")
        results = tuple(nodes[name] for name in names)
        next(reversed(twin.graph.nodes)).args = (results,)
        sweep(twin.graph)
        used = {n.target for n in twin.graph.nodes if n.op == "get_attr"}
        held = {path: tensor for path, tensor in twin.attributes.items() if path in used}
        spec = tree_structure(tuple(range(len(results))))
        return FxGraph(
            Captured(twin.graph, held, self._mode, self._in_spec, spec, self._ranges), self.source, self.ledger
        )

    def part(self, inputs: Sequence[str], outputs: Sequence[str]) -> FxGraph:
        """See :meth:`Graph.part`."""
        named = self._named()
        missing = [n for n in inputs if n not in named or named[n].op == "get_attr"]
        missing += [n for n in outputs if n not in named or named[n].op != "call_function"]
        if missing or len(set(outputs)) < len(outputs) or not {*inputs}.isdisjoint(outputs):
            raise ValueError(f"not values of {self.source}, or named twice: {missing or [*inputs, *outputs]}")
        given = [named[name] for name in inputs]
        needed = set(given)
        waiting = [named[name] for name in outputs]
        while waiting:
            node = waiting.pop()
            if node not in needed:
                if node.op == "placeholder":
                    raise ValueError(f"{value_name(node)} is needed, and not among the inputs")
                needed.add(node)
                waiting += node.all_input_nodes
        graph = fx.Graph()
        env: dict[fx.Node, fx.Node] = {}
        for node in given:
            new = env[node] = graph.placeholder(_identifier(node.name))
            origin = node.meta.get("porter_origin", Origin(source=(node.name,)))
            new.meta = {**node.meta, "porter_value": value_name(node), "porter_origin": origin}
        for node in self.graph.nodes:
            if node in needed and node not in env:
                new = env[node] = graph.node_copy(node, env.__getitem__)
                if new.name != node.name:
                    new._rename(node.name)
        results = graph.output(tuple(env[named[name]] for name in outputs))
        results.meta = dict(next(reversed(self.graph.nodes)).meta)
        used = {n.target for n in graph.nodes if n.op == "get_attr"}
        held = {path: tensor for path, tensor in self.attributes.items() if path in used}
        spec = tree_structure(tuple(range(len(outputs))))
        return FxGraph(Captured(graph, held, self._mode, None, spec, self._ranges), self.source, self.ledger)

    def with_constants(self, data: Mapping[str, Array]) -> FxGraph:
        """See :meth:`Graph.with_constants`."""
        twin = self.copy()
        nodes = {value_name(n): n for n in twin.graph.nodes if n.op == "get_attr"}
        for name, array in data.items():
            node = nodes.get(name)
            if node is None:
                raise ValueError(f"{self.source} has no constant {name!r}")
            value, tensor = twin._value(node), _from_numpy(array)
            if (tuple(tensor.shape), dtype_name(tensor.dtype)) != (value.shape, value.dtype):
                raise ValueError(f"{value!r} cannot hold {array.dtype}{list(array.shape)}")
            held = twin.attributes[str(node.target)]
            if isinstance(held, nn.Parameter):
                tensor = nn.Parameter(tensor, held.requires_grad)
            twin.attributes[str(node.target)] = tensor
        twin._changed()
        return twin

    def module(self) -> fx.GraphModule:
        """The model as a plain torch module: parameters and buffers at their paths, ``forward`` as it was captured."""
        root = nn.Module()
        for path, held in self.attributes.items():
            _assign(root, path, held)
        graph = copy.deepcopy(_bare(self.graph))
        if self._in_spec is not None and self._out_spec is not None:
            names = [n.name for n in graph.nodes if n.op == "placeholder"]
            info = fx.graph._PyTreeInfo(_argument_names(self._in_spec, names), self._in_spec, self._out_spec)
            graph._codegen = fx.graph._PyTreeCodeGen(info)
        return fx.GraphModule(root, graph)

    def save(self, path: Path, ledger: Mapping[str, Any] | None = None) -> None:
        """Write a .pt2 that ``torch.export.load(path).module()`` runs in plain torch.

        The member ``extra/porter.json`` holds ``origins`` (by node name of the program, inputs and parameters too),
        ``values`` (names of values that are not the node's own) and ``ledger``.
        """
        origins, values = {}, {}

        def note(name: str, node: fx.Node) -> None:
            origins[name] = _record(node.meta["porter_origin"])
            if "porter_value" in node.meta:
                values[name] = node.meta["porter_value"]

        ledger = self.ledger if ledger is None else ledger
        write_program(
            path,
            self.graph,
            self.attributes,
            (self._in_spec, self._out_spec),
            self._ranges,
            note,
            lambda: {
                EXTRA: json.dumps(
                    {"version": 1, "source": self.source, "origins": origins, "values": values, "ledger": ledger}
                )
            },
        )


# -------------------------------------------------------------------------------------- replacing


class _Replace:
    """One pass over the replacements."""

    def __init__(self, owner: FxGraph) -> None:
        self.owner = owner
        self.graph = owner.graph
        self.emit = Emitter(owner.graph, owner._mode)
        self.nodes = {value_name(n): n for n in owner.graph.nodes if n.op != "output"}
        self.constants: dict[int, tuple[Value, fx.Node]] = {}
        self.first = next(n for n in owner.graph.nodes if n.op != "placeholder")
        self.roots = {path.partition(".")[0] for path in owner.attributes}

    def run(self, replacements: Iterable[tuple[Op, Fragment]]) -> None:
        outputs = {n for n in self.owner._results() if isinstance(n, fx.Node)}
        for op, fragment in replacements:
            made: dict[str, fx.Node] = {}
            with self.graph.inserting_before(op.node):
                for inner in fragment.ops:
                    self._lower(op.node, inner, made)
                self._substitute(op, fragment, made, outputs)

    def _meta(self, replaced: fx.Node, origin: Origin) -> dict[str, Any]:
        kept: dict[str, Any] = {k: replaced.meta[k] for k in ("stack_trace", "nn_module_stack") if k in replaced.meta}
        return {**kept, "porter_origin": origin}

    def _lower(self, replaced: fx.Node, inner: Op, made: dict[str, fx.Node]) -> None:
        self.emit.meta = self._meta(replaced, inner.origin)
        self.emit.prefix = _identifier(inner.outputs[0].name)
        args = [None if v is None else self._node(v, made, inner.origin) for v in inner.inputs]
        for value, node in zip(inner.outputs, lower(self.emit, inner, args), strict=True):
            node.meta["porter_value"] = value.name
            made[value.name] = node

    def _node(self, value: Value, made: Mapping[str, fx.Node], origin: Origin) -> fx.Node:
        node = made.get(value.name) or self.nodes.get(value.name)
        if not value.is_const:
            if node is None:
                raise KeyError(f"{value.name} is neither in the graph nor built by the fragment")
            return node
        if node is not None and self._holds(node, value):
            return node
        return self._constant(value, value.name, origin)

    @staticmethod
    def _holds(node: fx.Node | None, value: Value) -> bool:
        """Whether a node is the constant ``value`` (a folded op's constant has the name of the op's output)."""
        if node is None or node.op != "get_attr":
            return False
        val = node.meta["val"]
        return (tuple(val.shape), dtype_name(val.dtype)) == (value.shape, value.dtype)

    def _constant(self, value: Value, name: str, origin: Origin) -> fx.Node:
        """A buffer for new data; one buffer for one Value, however often it is read."""
        known = self.constants.get(id(value))
        if known is not None:
            return known[1]
        path = self._path(name)
        tensor = _from_numpy(value.numpy())
        self.owner.attributes[path] = tensor
        with self.graph.inserting_before(self.first):
            node = self.graph.get_attr(path)
        node.meta.update(val=self.owner._mode.from_tensor(tensor, static_shapes=True), porter_origin=origin)
        self.constants[id(value)] = (value, node)
        return node

    def _path(self, name: str) -> str:
        base = _identifier(name)
        path, n = base, 0
        while path in self.roots or hasattr(nn.Module, path):
            n += 1
            path = f"{base}_{n}"
        self.roots.add(path)
        return path

    def _substitute(self, op: Op, fragment: Fragment, made: dict[str, fx.Node], outputs: set[fx.Node]) -> None:
        items = {u.args[1]: u for u in op.node.users if u.target is getitem}
        whole = isinstance(op.node.meta.get("val"), (tuple, list))
        taken: set[fx.Node] = set()
        for i, (old_value, result) in enumerate(zip(op.outputs, fragment.results, strict=True)):
            old = items.get(i) if whole else op.node
            if old is None:
                continue
            built = result.name in made
            if built or not result.is_const or self._holds(self.nodes.get(result.name), result):
                new = self._node(result, made, op.origin)
            else:
                new = self._constant(result, old_value.name, _folded(op.origin, fragment))
            _same_kind(old, new)
            if old in outputs and (not built or new in taken):
                self.emit.meta, self.emit.prefix = self._meta(old, op.origin), ""
                new, built = self.emit.call("alias", new), True
            if (built and new not in taken) or (
                new.op == "get_attr" and id(result) in self.constants and new not in taken
            ):
                new.meta["porter_value"] = old_value.name
            taken.add(new)
            old.replace_all_uses_with(new)
            if old in outputs:
                outputs.discard(old)
                outputs.add(new)
            self.nodes[old_value.name] = new


def _folded(origin: Origin, fragment: Fragment) -> Origin:
    """A constant that stands for an op by itself was computed from it."""
    return origin if fragment.ops else origin.after("fold")


def _same_kind(old: fx.Node, new: fx.Node) -> None:
    a, b = old.meta["val"], new.meta["val"]
    if a.dtype != b.dtype or (_static(a) and tuple(a.shape) != tuple(b.shape)):
        raise TypeError(f"the fragment gives {describe(new)} where the model has {describe(old)}")


# -------------------------------------------------------------------------------------- small things


def value_name(node: fx.Node) -> str:
    """The name of a node's value: the name it was given, the path of a parameter, or the node's own name."""
    return str(node.meta.get("porter_value") or (node.target if node.op == "get_attr" else node.name))


def _described(name: str, val: Any) -> Value:
    if isinstance(val, torch.Tensor):
        return Value(name, tuple(val.shape) if _static(val) else None, dtype_name(val.dtype))
    if isinstance(val, (int, torch.SymInt)):
        return Value(name, (), "int64")
    return Value(name)


def _static(val: torch.Tensor) -> bool:
    return all(isinstance(s, int) for s in val.shape)


def _identifier(name: str) -> str:
    cleaned = re.sub(r"\W", "_", name)
    return cleaned if cleaned and not cleaned[0].isdigit() else f"_{cleaned}"


def _from_numpy(array: Array) -> torch.Tensor:
    array = np.ascontiguousarray(array).reshape(array.shape)
    if str(array.dtype) == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _tensor(value: Value, array: Array, source: str) -> torch.Tensor:
    if (tuple(array.shape), str(array.dtype)) != (value.shape, value.dtype):
        raise PorterError(
            "PT506",
            f"the input {value.name} is {value.dtype}{list(value.shape or ())}, not {array.dtype}{list(array.shape)}",
            source,
            "Convert the array; shapes are fixed when a model is captured.",
        )
    return _from_numpy(array)


def _own(tensor: torch.Tensor, held: set[int]) -> torch.Tensor:
    """The tensor, copied where it shares memory with an input or a weight."""
    return tensor.clone() if tensor.untyped_storage().data_ptr() in held else tensor


def _last_uses(graph: fx.Graph, among: set[fx.Node] | None = None) -> dict[fx.Node, list[fx.Node]]:
    """For each node, the nodes whose values nothing reads after it."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if among is None or node in among:
            last[node] = node
            for source in node.all_input_nodes:
                last[source] = node
    freed: dict[fx.Node, list[fx.Node]] = {}
    for node, user in last.items():
        freed.setdefault(user, []).append(node)
    return freed


def _data_inputs(node: fx.Node) -> list[fx.Node]:
    """The inputs whose data a node reads."""
    return [] if str(node.target) in SHAPE_ONLY else node.all_input_nodes


def _affordable(node: fx.Node, limit: int) -> bool:
    """Whether a call may be computed ahead: the same each time, of a known size, and that size within the limit."""
    if str(node.target) in RANDOM or isinstance(node.target, torch._ops.HigherOrderOperator):
        return False
    val = node.meta.get("val")
    parts = val if isinstance(val, (tuple, list)) else (val,)
    for part in parts:
        if not isinstance(part, torch.Tensor) or not _static(part):
            return False
        if node.target is not getitem and str(node.target) not in _VIEWS and part.numel() * part.element_size() > limit:
            return False
    return True


def _zeros_like(val: torch.Tensor) -> torch.Tensor:
    """A tensor of that shape that takes the memory of one element."""
    return torch.zeros((), dtype=val.dtype).expand(val.shape)


def _assign(root: nn.Module, path: str, held: Any) -> None:
    *parents, name = path.split(".")
    for part in parents:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if isinstance(held, nn.Parameter):
        root.register_parameter(name, held)
    elif isinstance(held, torch.Tensor):
        root.register_buffer(name, held)
    else:
        setattr(root, name, held)


def _bare(graph: fx.Graph) -> fx.Graph:
    """The graph with only the metadata that a reader of the module needs."""
    bare = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        new = env[node] = bare.node_copy(node, env.__getitem__)
        if new.name != node.name:
            new._rename(node.name)
        new.meta = {k: v for k, v in node.meta.items() if k in ("stack_trace", "nn_module_stack")}
    return bare


def _argument_names(in_spec: Any, names: Sequence[str]) -> list[str]:
    """One Python name for each positional argument, then each keyword."""
    positional, keywords = in_spec.children()
    return [
        *(
            f"arg_{i}" if child.num_leaves != 1 or child.num_nodes != 1 else names[i] if i < len(names) else f"arg_{i}"
            for i, child in enumerate(positional.children())
        ),
        *(keywords.context or []),
    ]


def _record(origin: Origin) -> dict[str, Any]:
    return {k: v for k, v in asdict(origin).items() if v}


def _origin(record: Mapping[str, Any]) -> Origin:
    lists = {k: tuple(record.get(k, ())) for k in ("source", "rules")}
    return Origin(record.get("file"), record.get("line"), record.get("function"), record.get("module"), **lists)
