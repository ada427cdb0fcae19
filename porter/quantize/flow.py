# SPDX-License-Identifier: Apache-2.0
"""The flow of integer tensors: which values share an encoding, which are fused away, and where integers end.

See :mod:`porter.quantize.plan` for the words. Groups are found by union-find over the passive ops; a group is quantized
when an integer op reads it, or when what makes it cannot leave the device otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from porter.graph import Graph
from porter.ops import Op, Value
from porter.paths import PARAMETERS
from porter.quantize.numerics import BITS, Dtype
from porter.quantize.plan import Group, Plan, Site
from porter.quantize.scheme import PRODUCTS, Scheme, depthwise

__all__ = ["data_operands", "tensor_flow"]


def tensor_flow(graph: Graph, scheme: Scheme, width: str, sites: Sequence[Site]) -> Plan:
    """The plan of a target whose tensors are integers. ``sites`` that end up in float are marked so."""
    return _Flow(graph, scheme, sites).plan(width)


def data_operands(op: Op) -> list[Value]:
    """The operands of an integer op that are tensors of the flow: float32, and no weights, biases or statistics."""
    if op.kind in PRODUCTS:
        second = op.inputs[1] if op.kind == "matmul" and len(op.inputs) > 1 else None
        reads = [op.inputs[0], second if second is not None and not second.is_const else None]
    elif op.kind in PARAMETERS:
        reads = [op.inputs[0]]
    else:
        reads = list(op.inputs)
    return [value for value in reads if value is not None and value.dtype == "float32"]


class _Flow:
    """The state of the search: sites by op, fused ops by op, and the sets of values that share an encoding."""

    def __init__(self, graph: Graph, scheme: Scheme, sites: Sequence[Site]) -> None:
        self._graph, self._scheme = graph, scheme
        self._ops = graph.ops()
        self._inputs = {value.name for value in graph.inputs}
        self._outputs = {value.name for value in graph.outputs}
        self._readers: dict[str, list[Op]] = {}
        for op in self._ops:
            for value in {v.name: v for v in op.operands}.values():
                self._readers.setdefault(value.name, []).append(op)
        self._site = {id(site.op): site for site in sites}
        self._host: dict[int, Site] = {}  # the product inside which an op is computed
        self._fused: set[str] = set()
        self._sites = [site for site in sites if site.quantized or site.weighted]
        self._fuse()
        self._sets = _Sets()
        self._passive = {id(op) for op in self._ops if self._carries(op)}
        for op in self._ops:
            if id(op) in self._passive:
                self._sets.join(value.name for value in _moved(op))

    def plan(self, width: str) -> Plan:
        if self._scheme.mixes_floats:
            self._start_late()
            self._end_early()
        needed = {self._sets.root(value.name) for _, value in self._reads()}
        for site in self._active():
            if site.op.kind not in PRODUCTS or not self._scheme.float_results:
                needed.add(self._sets.root(site.result.name))
        return Plan(
            self._scheme, width, self._sites, self._groups(needed), frozenset(self._fused), self._integers(needed)
        )

    def _integers(self, needed: set[str]) -> frozenset[str]:
        ops = [site.op for site in self._active()]
        ops += [op for op in self._ops if id(op) in self._host]
        ops += [op for op in self._ops if id(op) in self._passive and self._sets.root(op.outputs[0].name) in needed]
        return frozenset(op.outputs[0].name for op in ops)

    # -- ops -----------------------------------------------------------------------------------------------------

    def _active(self) -> Iterator[Site]:
        for site in self._sites:
            if site.quantized:
                yield site

    def _free(self) -> Iterator[Site]:
        """The integer ops that are so for the sake of those around them: no products, and none that is pinned."""
        return (site for site in self._active() if site.op.kind not in PRODUCTS and not site.pinned)

    def _fuse(self) -> None:
        """Take followers into the products before them, as far as each value has one reader."""
        followers = self._scheme.table.fused_followers
        inner: set[int] = set()
        for site in list(self._sites):
            if not site.quantized or site.op.kind not in PRODUCTS or not followers:
                continue
            while True:
                name = site.result.name
                readers = self._readers.get(name, [])
                if len(readers) != 1 or name in self._outputs:
                    break
                op = readers[0]
                own = self._site.get(id(op))
                pinned = own is not None and not own.quantized
                if (
                    op.kind not in followers
                    or id(op) in inner
                    or pinned
                    or sum(v.name == name for v in op.operands) > 1
                ):
                    break
                if op.outputs[0].dtype != "float32":
                    break
                inner.add(id(op))
                self._host[id(op)] = site
                self._fused.add(name)
                site.result = op.outputs[0]
        self._sites = [site for site in self._sites if id(site.op) not in inner]

    def _carries(self, op: Op) -> bool:
        """Whether a passive op leaves every value as it is, so that its result has the scale of its operands."""
        if op.kind not in self._scheme.table.passive_ops or id(op) in self._host:
            return False
        own = self._site.get(id(op))
        if own is not None and own.quantized:
            return False
        if op.kind == "resize" and op.attrs["mode"] != "nearest":
            return False
        if op.kind == "pad" and op.attrs["mode"] == "constant" and op.attrs["value"] != 0:
            return False
        return all(value.dtype == "float32" for value in op.outputs[:1]) and bool(_moved(op))

    def _reads(self) -> Iterator[tuple[Site, Value]]:
        """Each tensor that an integer op reads, with the site that reads it."""
        for site in self._active():
            for value in data_operands(site.op):
                if value.name not in self._fused:
                    yield site, value
        for op in self._ops:
            site_of = self._host.get(id(op))
            if site_of is not None and site_of.quantized:
                for value in data_operands(op):
                    if value.name not in self._fused:
                        yield site_of, value

    def _start_late(self) -> None:
        """Leave to float what no integers reach: an op, no product, of which every tensor comes from a float op. Its
        operands would be rounded for it alone; so its result is rounded, once, where an integer op reads it.
        """
        while True:
            made = {self._sets.root(site.result.name) for site in self._active()}
            late = [
                site for site in self._free()
                if not any(self._sets.root(v.name) in made for v in data_operands(site.op) if not v.is_const)
            ]  # fmt: skip
            if not late:
                return
            self._leave(late)

    def _end_early(self) -> None:
        """Leave to float what comes after the last product: an integer op whose result no integer op reads."""
        while True:
            read = {self._sets.root(value.name) for _, value in self._reads()}
            ended = [
                site for site in self._free() if self._sets.root(site.result.name) not in read
            ]  # fmt: skip
            if not ended:
                return
            self._leave(ended)

    def _leave(self, sites: Sequence[Site]) -> None:
        """Compute these in float."""
        for site in sites:
            site.quantized = False
        gone = {id(site) for site in sites}
        self._sites = [site for site in self._sites if id(site) not in gone]

    # -- groups --------------------------------------------------------------------------------------------------

    def _groups(self, needed: set[str]) -> list[Group]:
        moved = {out.name for op in self._ops if id(op) in self._passive for out in op.outputs}
        alone = self._channelwise()
        members: dict[str, dict[str, None]] = {}
        for value in (*self._graph.inputs, *(v for op in self._ops for v in (*op.operands, *op.outputs))):
            root = self._sets.root(value.name)
            if root in needed and value.name not in self._fused:
                members.setdefault(root, {})[value.name] = None
        wanted: dict[str, list[Dtype]] = {}
        for site, value in self._reads():
            wanted.setdefault(self._sets.root(value.name), []).append(site.width.activation)
        read = set(wanted)
        for site in self._active():
            root = self._sets.root(site.result.name)
            if root in needed and root not in read:
                wanted.setdefault(root, []).append(site.width.activation)
        return [
            Group(
                next(iter(names)), tuple(names), tuple(n for n in names if n not in moved), _widest(wanted[root]),
                1 if len(names) == len(set(wanted[root])) == 1 and names.keys() <= alone else None,
            )
            for root, names in members.items()
        ]  # fmt: skip

    def _channelwise(self) -> set[str]:
        """The tensors that nothing reads as integers but depthwise convolutions of layers that are called once."""
        if not self._scheme.table.depthwise_input_per_channel:
            return set()
        calls = Counter(site.path for site in self._active())
        found: set[str] = set()
        whole: set[str] = set()
        for site, value in self._reads():
            lone = depthwise(site.op) and value is site.op.inputs[0] and calls[site.path] == 1
            (found if lone else whole).add(value.name)
        return found - whole


def _moved(op: Op) -> list[Value]:
    """The values of a passive op that share one encoding."""
    return [value for value in (*op.operands, *op.outputs) if value.dtype == "float32"]


def _widest(dtypes: Sequence[Dtype]) -> Dtype:
    return max(dtypes, key=lambda dtype: BITS[dtype])


class _Sets:
    """Union-find over names."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, name: str) -> str:
        parent = self._parent
        top = name
        while parent.get(top, top) != top:
            top = parent[top]
        while parent.get(name, name) != top:
            parent[name], name = top, parent[name]
        return top

    def join(self, names: Iterable[str]) -> None:
        first = ""
        for name in names:
            root = self.root(name)
            if not first:
                first = root
                self._parent.setdefault(first, first)
            elif root != first:
                self._parent[root] = first
