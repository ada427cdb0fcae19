# SPDX-License-Identifier: Apache-2.0
"""Which channels of a network stand or fall together: the dependency graph of channel pruning.

Every channel of every tensor is an *atom*. One walk over the captured graph carries the atoms along: an addition makes
two atoms one, a concatenation lines them up, a flatten repeats them, a depthwise convolution ties its output to its
input, any other convolution starts new ones. What the walk does not understand it *fixes*: those channels stay.
The walk knows porter's vocabulary and no framework; only the names of the layers lead back to a module.

A dead channel is one whose batch norm has gamma 0, so that it holds a constant. Removing a class of atoms is sound
when at every convolution or linear layer that reads them the value is *judged*: it lies behind a batch norm of the
class, on every path. Sums of a judged and an unjudged value are unjudged, and unjudged atoms that a layer reads are
fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Literal

import numpy as np
import numpy.typing as npt

from porter.graph import Graph
from porter.ops import Op, Origin, Value
from porter.paths import module_paths

__all__ = ["Channels", "Layer", "Layout", "Sizes", "Why", "analyse"]

Atoms = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
#: Where code has its sizes from: ``tensor``, it takes those of reshapes from the tensor and writes those of splits and
#: slices out; ``written``, it writes all of them out; ``rebuilt``, the code will be written anew.
Sizes = Literal["tensor", "written", "rebuilt"]

#: Element by element on one operand: a constant channel stays one.
_POINTWISE = frozenset(
    """identity relu relu6 sigmoid tanh silu hardswish mish selu softsign logsigmoid exp expm1 log log1p sqrt rsqrt
    reciprocal abs neg sign floor ceil round trunc erf square leaky_relu elu celu hardsigmoid gelu softplus threshold
    clamp cast""".split()  # noqa: SIM905 a word list
)
#: Over the spatial axes of one operand, channel by channel.
_SPATIAL = frozenset(
    """max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool2d resize max_pool2d_with_indices""".split()  # noqa: SIM905 a word list
)
_BINARY = frozenset({"add", "sub", "mul", "div", "maximum", "minimum"})
_REDUCTIONS = frozenset({"sum", "mean", "amax", "amin"})
_CONVOLUTIONS = frozenset({f"conv{r}d" for r in (1, 2, 3)} | {f"conv_transpose{r}d" for r in (1, 2, 3)})


@dataclass(frozen=True, slots=True)
class Why:
    """Why channels stay: the reason as a clause, and the op that gives it."""

    reason: str
    origin: Origin


@dataclass(slots=True)
class Layer:
    """One module with weights and the atoms of its sides.

    ``inputs``: the atom of each input channel or feature, None where they are not known (they then stay). ``outputs``:
    of each output channel. A batch norm has the same on both sides.
    """

    path: str
    kind: str
    inputs: Atoms | None
    outputs: Atoms
    groups: int = 1
    origin: Origin = field(default_factory=Origin)

    @property
    def depthwise(self) -> bool:
        """A convolution that keeps its channels apart."""
        return self.kind in _CONVOLUTIONS and self.groups > 1 and self.groups == self._in_channels

    @property
    def _in_channels(self) -> int:
        return len(self.inputs) if self.inputs is not None else 0


@dataclass(frozen=True, slots=True)
class Layout:
    """The atoms along ``axis`` of a value, and which of them are judged there."""

    axis: int
    atoms: Atoms
    judged: Bools

    def moved(self, axis: int) -> Layout:
        return Layout(axis, self.atoms, self.judged)

    def picked(self, indices: npt.NDArray[np.intp] | slice) -> Layout:
        return Layout(self.axis, self.atoms[indices], self.judged[indices])


class _Union:
    """Disjoint sets of atoms."""

    def __init__(self) -> None:
        self.parent: list[int] = []

    def fresh(self, count: int) -> Atoms:
        first = len(self.parent)
        self.parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def find(self, atom: int) -> int:
        root = atom
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[atom] != root:
            self.parent[atom], atom = root, self.parent[atom]
        return root

    def join(self, a: int, b: int) -> None:
        self.parent[self.find(b)] = self.find(a)

    def roots(self) -> Atoms:
        return np.asarray([self.find(atom) for atom in range(len(self.parent))], np.int64)


class Channels:
    """What :func:`analyse` found.

    layers: every module with weights that the walk understood, by path, in the order of the graph.
    depthwise: the paths of depthwise convolutions.
    equal: sets of parts (arrays of atoms) that must keep equally many channels each: the groups of a grouped
        convolution, the pieces of a chunk.
    pieces: the atoms of each piece of a split, chunk or slice; one of them stays.
    agreed: for each atom the class within which all gammas must agree (residual sums, concatenations).
    tied: for each atom the class that is removed as one: ``agreed``, joined across depthwise convolutions.
    fixed: for each class of ``tied`` that stays, why.
    layouts: the atoms of each value that has some, by name.
    """

    def __init__(self) -> None:
        self.layouts: dict[str, Layout] = {}
        self.layers: dict[str, Layer] = {}
        self.equal: list[tuple[Atoms, ...]] = []
        self.pieces: list[Atoms] = []
        self._agree = _Union()
        self._ties: list[tuple[int, int]] = []
        self._fixed: dict[int, Why] = {}
        self.agreed: Atoms = np.empty(0, np.int64)
        self.tied: Atoms = np.empty(0, np.int64)
        self.fixed: dict[int, Why] = {}

    @property
    def depthwise(self) -> list[Layer]:
        """The depthwise convolutions, in the order of the graph."""
        return [layer for layer in self.layers.values() if layer.depthwise]

    def norms(self) -> Iterator[Layer]:
        """The batch norm layers, in the order of the graph."""
        return (layer for layer in self.layers.values() if layer.kind == "batch_norm")

    def fresh(self, count: int) -> Atoms:
        return self._agree.fresh(count)

    def join(self, first: Atoms, second: Atoms) -> None:
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            self._agree.join(a, b)

    def tie(self, first: Atoms, second: Atoms) -> None:
        self._ties += zip(first.tolist(), second.tolist(), strict=True)

    def fix(self, atoms: Atoms, reason: str, origin: Origin) -> None:
        why = Why(reason, origin)
        for atom in atoms.tolist():
            self._fixed.setdefault(atom, why)

    def close(self) -> None:
        """Work out the classes when the walk is done."""
        self.agreed = self._agree.roots()
        tied = _Union()
        tied.fresh(len(self.agreed))
        for atom, root in enumerate(self.agreed.tolist()):
            tied.join(root, atom)
        for a, b in self._ties:
            tied.join(a, b)
        self.tied = tied.roots()
        self.fixed = {}
        for atom, why in self._fixed.items():
            self.fixed.setdefault(int(self.tied[atom]), why)


def analyse(graph: Graph, prunable: Container[str], sizes: Sizes = "tensor") -> Channels:
    """Find the channels of a graph that can be removed, and which go together.

    Args:
        graph: any dialect, with constant weights.
        prunable: the module paths whose weights can be cut; all others keep their shape.
        sizes: where the model's code has the sizes of its reshapes and splits from.
    """
    walk = _Walk(graph, prunable, sizes)
    for op in graph.ops():
        walk.visit(op)
    for value in graph.outputs:
        walk.fix(value, "they are an output of the model", Origin())
    walk.channels.close()
    return walk.channels


class _Walk:
    def __init__(self, graph: Graph, prunable: Container[str], sizes: Sizes) -> None:
        self.channels = Channels()
        self._sizes = sizes
        self._layouts = self.channels.layouts
        self._paths = module_paths(graph)
        self._prunable = prunable
        for value in graph.inputs:
            if value.shape is not None and len(value.shape) > 1:
                atoms = self.channels.fresh(value.shape[1])
                self.channels.fix(atoms, "they are an input of the model", Origin())
                self._layouts[value.name] = Layout(1, atoms, np.ones(len(atoms), np.bool_))

    def visit(self, op: Op) -> None:
        """Give the outputs of ``op`` their atoms, or fix those of its operands."""
        rule = _RULES.get(op.kind)
        if all(value.shape is not None for value in (*op.operands, *op.outputs)):
            if rule is not None and rule(self, op):
                return
        elif rule is not None:
            rule = None
        for value in op.operands:
            self.fix(value, f"they pass through {op.kind}, which mixes or reorders them", op.origin)

    def layout(self, value: Value | None) -> Layout | None:
        return self._layouts.get(value.name) if value is not None else None

    def set(self, value: Value, layout: Layout) -> bool:
        self._layouts[value.name] = layout
        return True

    def fix(self, value: Value, reason: str, origin: Origin) -> None:
        layout = self.layout(value)
        if layout is not None:
            self.channels.fix(layout.atoms, reason, origin)

    # -- layers ------------------------------------------------------------------------------------------------------

    def _layer(self, op: Op, inputs: Atoms | None, outputs: Atoms, groups: int = 1) -> bool:
        """Book a module; a second use of the same one joins its atoms with those of the first."""
        path = self._paths.get(op.outputs[0].name)
        channels = self.channels
        if path is None or path not in self._prunable:
            for atoms in (inputs, outputs):
                if atoms is not None:
                    channels.fix(atoms, f"the weights of this {op.kind} are not those of a torch.nn layer", op.origin)
            return False
        first = channels.layers.get(path)
        if first is None:
            channels.layers[path] = Layer(path, op.kind, inputs, outputs, groups, op.origin)
            return True
        channels.join(first.outputs, outputs)
        if first.inputs is not None and inputs is not None:
            channels.join(first.inputs, inputs)
        else:
            for atoms in (first.inputs, inputs):
                if atoms is not None:
                    channels.fix(atoms, f"{path} is used twice", op.origin)
            first.inputs = None
        return True

    def _read(self, layout: Layout, op: Op) -> None:
        """A layer that mixes channels reads a value: what no batch norm judges must stay."""
        unjudged = layout.atoms[~layout.judged]
        if unjudged.size:
            self.channels.fix(unjudged, f"no batch norm stands between them and this {op.kind}", op.origin)

    def convolution(self, op: Op) -> bool:
        x, weight = op.inputs[0], op.inputs[1]
        assert x is not None and weight is not None and weight.shape is not None and x.shape is not None
        groups = op.attrs["groups"]
        transposed = op.kind.startswith("conv_transpose")
        c_in = x.shape[1]
        c_out = weight.shape[1] * groups if transposed else weight.shape[0]
        layout = self.layout(x)
        if layout is not None and layout.axis != 1:
            self.fix(x, f"their axis is not the channel axis of this {op.kind}", op.origin)
            layout = None
        outputs = self.channels.fresh(c_out)
        inputs = layout.atoms if layout is not None else None
        if groups > 1 and groups == c_in and c_out % c_in == 0 and (not transposed or c_out == c_in):
            if inputs is not None:
                self.channels.tie(np.repeat(inputs, c_out // c_in), outputs)
            else:
                self.channels.fix(outputs, "the input of this depthwise convolution is not understood", op.origin)
        elif groups > 1:
            if transposed:
                for atoms in (inputs, outputs):
                    if atoms is not None:
                        self.channels.fix(atoms, "this transposed convolution has groups", op.origin)
            for atoms in (inputs, outputs):
                if atoms is not None:
                    self.channels.equal.append(tuple(np.split(atoms, groups)))
            if layout is not None:
                self._read(layout, op)
        elif layout is not None:
            self._read(layout, op)
        self._layer(op, inputs, outputs, groups)
        return self.set(op.outputs[0], Layout(1, outputs, np.zeros(c_out, np.bool_)))

    def linear(self, op: Op) -> bool:
        x, weight = op.inputs[0], op.inputs[1]
        assert x is not None and x.shape is not None and weight is not None and weight.shape is not None
        layout = self.layout(x)
        last = len(x.shape) - 1
        if layout is not None and layout.axis != last:
            self.fix(x, "their axis is not the feature axis of this linear layer", op.origin)
            layout = None
        if layout is not None:
            self._read(layout, op)
        outputs = self.channels.fresh(weight.shape[0])
        self._layer(op, layout.atoms if layout is not None else None, outputs)
        return self.set(op.outputs[0], Layout(last, outputs, np.zeros(len(outputs), np.bool_)))

    def batch_norm(self, op: Op) -> bool:
        layout = self.layout(op.inputs[0])
        if layout is None or layout.axis != 1:
            return False
        self._layer(op, layout.atoms, layout.atoms)
        judged = np.full(len(layout.atoms), op.inputs[1] is not None) | layout.judged
        return self.set(op.outputs[0], Layout(1, layout.atoms, judged))

    def prelu(self, op: Op) -> bool:
        layout, slope = self.layout(op.inputs[0]), op.inputs[1]
        if layout is None or layout.axis != 1 or slope is None or slope.shape is None:
            return False
        if prod(slope.shape) > 1:
            self._layer(op, layout.atoms, layout.atoms)
        return self.set(op.outputs[0], layout)

    # -- between the layers ------------------------------------------------------------------------------------------

    def pointwise(self, op: Op) -> bool:
        layout = self.layout(op.inputs[0])
        return layout is not None and self.set(op.outputs[0], layout)

    def spatial(self, op: Op) -> bool:
        layout = self.layout(op.inputs[0])
        return layout is not None and layout.axis == 1 and self.set(op.outputs[0], layout)

    def pad(self, op: Op) -> bool:
        layout = self.layout(op.inputs[0])
        if layout is None or any(op.attrs["padding"][layout.axis]):
            return False
        return self.set(op.outputs[0], layout)

    def binary(self, op: Op) -> bool:
        rank = op.outputs[0].rank
        assert rank is not None
        sides = [(value, self.layout(value)) for value in op.operands]
        tracked = [
            layout.moved(layout.axis + rank - (value.rank or 0)) for value, layout in sides if layout is not None
        ]
        if len(tracked) == 2:
            a, b = tracked
            if a.axis != b.axis or len(a.atoms) != len(b.atoms):
                return False
            self.channels.join(a.atoms, b.atoms)
            judged = a.judged | b.judged if op.kind == "mul" else a.judged & b.judged
            return self.set(op.outputs[0], Layout(a.axis, a.atoms, judged))
        if not tracked or op.outputs[0].shape is None:
            return False
        layout = tracked[0]
        other = next(value for value, found in sides if found is None)
        place = layout.axis - (rank - (other.rank or 0))
        extent = other.shape[place] if other.shape is not None and place >= 0 else 1
        if extent != 1 or op.outputs[0].shape[layout.axis] != len(layout.atoms):
            return False
        if not other.is_const and op.kind not in ("mul", "div"):
            layout = Layout(layout.axis, layout.atoms, np.zeros(len(layout.atoms), np.bool_))
        return self.set(op.outputs[0], layout)

    def cat(self, op: Op) -> bool:
        axis = op.attrs["axis"]
        layouts = [self._whole(value, axis) for value in op.operands]
        first = layouts[0]
        if any(layout.axis != first.axis for layout in layouts):
            return False
        if axis == first.axis:
            atoms = np.concatenate([layout.atoms for layout in layouts])
            judged = np.concatenate([layout.judged for layout in layouts])
            return self.set(op.outputs[0], Layout(axis, atoms, judged))
        if any(len(layout.atoms) != len(first.atoms) for layout in layouts):
            return False
        joined = first.judged
        for layout in layouts[1:]:
            self.channels.join(first.atoms, layout.atoms)
            joined = joined & layout.judged
        return self.set(op.outputs[0], Layout(first.axis, first.atoms, joined))

    def _whole(self, value: Value, axis: int) -> Layout:
        """The layout of an operand of ``cat``; one that is not understood has channels that stay."""
        layout = self.layout(value)
        if layout is not None:
            return layout
        assert value.shape is not None
        atoms = self.channels.fresh(value.shape[axis])
        self.channels.fix(atoms, "they come from where the walk cannot see", Origin())
        return Layout(axis, atoms, np.ones(len(atoms), np.bool_))

    def chunk(self, op: Op) -> bool:
        return self._pieces(op, written=False)

    def split(self, op: Op) -> bool:
        return self._pieces(op, written=True)

    def _pieces(self, op: Op, written: bool) -> bool:
        """Consecutive pieces. A chunk divides whatever there is; sizes that are written in the code do not follow."""
        layout = self.layout(op.inputs[0])
        if layout is None:
            return False
        if op.attrs["axis"] != layout.axis:
            return all(self.set(out, layout) for out in op.outputs)
        sizes = [out.shape[layout.axis] for out in op.outputs if out.shape is not None]
        if self._sizes == "rebuilt":
            written = True  # and written anew: a piece may lose what it likes, but not everything
        elif written:
            self.channels.fix(layout.atoms, "the sizes of this split are written in the code", op.origin)
        elif len(set(sizes)) > 1:
            self.channels.fix(layout.atoms, "the pieces of this chunk are not equal", op.origin)
        ends = np.cumsum(sizes)
        parts = [layout.picked(slice(end - size, end)) for size, end in zip(sizes, ends.tolist(), strict=True)]
        self.channels.pieces += [part.atoms for part in parts]
        if not written:
            self.channels.equal.append(tuple(part.atoms for part in parts))
        return all(self.set(out, part) for out, part in zip(op.outputs, parts, strict=True))

    def slice(self, op: Op) -> bool:
        layout = self.layout(op.inputs[0])
        if layout is None:
            return False
        box = dict(
            zip(
                op.attrs["axes"],
                zip(op.attrs["starts"], op.attrs["ends"], op.attrs["steps"], strict=True),
                strict=True,
            )
        )
        if layout.axis in box:
            start, end, step = box[layout.axis]
            if step < 0:
                return False
            if (start, end, step) != (0, len(layout.atoms), 1) and (self._sizes != "rebuilt" or step != 1):
                self.channels.fix(layout.atoms, "the bounds of this slice are written in the code", op.origin)
            layout = layout.picked(np.arange(start, end, step))
            self.channels.pieces.append(layout.atoms)
        return self.set(op.outputs[0], layout)

    def select(self, op: Op) -> bool:
        layout = self.layout(op.inputs[0])
        if layout is None or op.attrs["axis"] == layout.axis:
            return False
        return self.set(op.outputs[0], layout.moved(layout.axis - (op.attrs["axis"] < layout.axis)))

    def permute(self, op: Op) -> bool:
        layout = self.layout(op.inputs[0])
        return layout is not None and self.set(op.outputs[0], layout.moved(op.attrs["dims"].index(layout.axis)))

    def reduction(self, op: Op) -> bool:
        layout = self.layout(op.inputs[0])
        if layout is None or layout.axis in op.attrs["axes"]:
            return False
        before = 0 if op.attrs["keepdim"] else sum(axis < layout.axis for axis in op.attrs["axes"])
        return self.set(op.outputs[0], layout.moved(layout.axis - before))

    def reshape(self, op: Op) -> bool:
        """The channel axis keeps its place, or runs together with the axes right behind it (a flatten)."""
        layout = self.layout(op.inputs[0])
        old, new = op.inputs[0], op.outputs[0].shape
        if self._sizes == "written":
            return False
        if layout is None or old is None or old.shape is None or new is None:
            return False
        before = prod(old.shape[: layout.axis])
        behind = prod(old.shape[layout.axis + 1 :])
        for axis, extent in enumerate(new):
            if prod(new[:axis]) != before or extent % len(layout.atoms) or (extent == 1 and len(layout.atoms) == 1):
                continue
            repeats = extent // len(layout.atoms)
            if (
                behind % repeats == 0
                and repeats * prod(new[axis + 1 :]) == behind
                and _runs(old.shape, layout, repeats)
            ):
                atoms, judged = np.repeat(layout.atoms, repeats), np.repeat(layout.judged, repeats)
                return self.set(op.outputs[0], Layout(axis, atoms, judged))
        return False

    def expand(self, op: Op) -> bool:
        layout, out = self.layout(op.inputs[0]), op.outputs[0]
        if layout is None or out.shape is None or op.inputs[0] is None or self._sizes == "written":
            return False
        axis = layout.axis + len(out.shape) - (op.inputs[0].rank or 0)
        return out.shape[axis] == len(layout.atoms) and self.set(out, layout.moved(axis))

    def shape_only(self, op: Op) -> bool:
        """The result depends on the shape of the operand and not on what is in it."""
        return True


def _runs(shape: tuple[int, ...], layout: Layout, repeats: int) -> bool:
    """Whether ``repeats`` elements behind the channel axis are whole axes."""
    size = 1
    for extent in (1, *shape[layout.axis + 1 :]):
        size *= extent
        if size == repeats:
            return True
    return False


_Rule = Callable[[_Walk, Op], bool]
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_POINTWISE, _Walk.pointwise),
    **dict.fromkeys(_SPATIAL, _Walk.spatial),
    **dict.fromkeys(_BINARY, _Walk.binary),
    **dict.fromkeys(_REDUCTIONS, _Walk.reduction),
    **dict.fromkeys(_CONVOLUTIONS, _Walk.convolution),
    **dict.fromkeys(("reshape", "flatten", "squeeze", "unsqueeze"), _Walk.reshape),
    "batch_norm": _Walk.batch_norm,
    "cat": _Walk.cat,
    "chunk": _Walk.chunk,
    "expand": _Walk.expand,
    "fill": _Walk.shape_only,
    "linear": _Walk.linear,
    "pad": _Walk.pad,
    "permute": _Walk.permute,
    "prelu": _Walk.prelu,
    "select": _Walk.select,
    "shape": _Walk.shape_only,
    "slice": _Walk.slice,
    "split": _Walk.split,
}
