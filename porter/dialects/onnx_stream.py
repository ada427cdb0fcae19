# SPDX-License-Identifier: Apache-2.0
"""Runs of one model on many samples, whose inner values are handed over as they lie in the runtime's memory, soon after
they were computed.

A model that is asked for all its values at once writes them to memory that no cache holds. So the model that
onnxruntime has optimized is written once and cut into pieces, a session for each; after each piece its values are
given, and memory that nothing needs any more is used again.

onnxruntime computes convolutions on tensors whose channels lie in blocks, and keeps such tensors from one node to the
next (onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html, "Layout Optimizations"). A value
that is made an output is put in the plain order for the caller, which takes longer than computing it. The nodes that do
so are taken out of the pieces, and the blocks themselves are given.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, load

from porter.dialects.onnx_proto import captured, nbytes, subgraphs, tensor_array
from porter.dialects.onnx_read import type_proto
from porter.errors import PorterError
from porter.graph import Standing
from porter.ops import Array, Value, numpy_dtype

__all__ = ["Pieces", "bindable", "pieces", "stream"]

#: The domain of the nodes that the runtime's layout optimization makes.
_DOMAIN = "com.microsoft.nchwc"
#: How many channels may lie in a block: MLAS's NchwcBlockSize by processor.
_SIZES = (16, 8, 4)
#: What an optimized copy on disk may cost.
_LARGEST = 1 << 29
#: Bytes of the values of a piece: half of what the cache of a core holds. In a model with more, a share of all, as a
#: session for each value would cost more than it wins.
_PIECE, _SHARE = 1 << 20, 1 / 48
#: Bytes of the values that are compared at a time when the pieces are proved.
_PROVED = 1 << 29
#: Dtypes of values that can be bound to numpy's memory.
_DTYPES = frozenset({"float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"})
#: The same by onnxruntime's names of types.
_NAMES = {"tensor(float)": "float32", "tensor(double)": "float64"} | {f"tensor({name})": name for name in _DTYPES}
#: Alignment of every array.
_ALIGNED = 64

Feeds = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some nodes of the model, one after the other.

    Fields:
        session: onnxruntime's.
        reads: values that the model, or pieces before this one, gave.
        given: values that are asked for.
        passed: further values, for pieces after this one.
    """

    session: Any
    reads: Sequence[str]
    given: Sequence[str]
    passed: Sequence[str]


@dataclass(frozen=True, slots=True)
class Pieces:
    """A model cut into pieces, for any number of streams at once.

    Fields:
        pieces: in order.
        names: for a value of the pieces, the names under which it is asked for.
        kinds: shape and dtype of every value that a piece gives or passes on.
        constants: what is asked for and does not depend on the input.
        size: channels in a block.
        blocked: those of the names whose values come in blocks.
    """

    pieces: Sequence[_Piece]
    names: Mapping[str, Sequence[str]]
    kinds: Mapping[str, tuple[tuple[int, ...], str]]
    constants: Mapping[str, Array]
    size: int
    blocked: frozenset[str]


def pieces(
    model: ModelProto, folder: Path | None, wanted: Sequence[Value], known: Mapping[str, Value], feeds: Feeds
) -> Pieces | None:
    """The pieces of a model that give the values ``wanted``, which are outputs of it; None where it cannot be cut, or
    where they do not give on ``feeds`` what the model gives.

    The copy that the runtime optimized goes through a temporary folder. Each session has one thread.

    Args:
        folder: where external data lies.
        known: the model's values by name.
    """
    import onnxruntime as ort

    if sum(nbytes(tensor.dims, tensor.data_type) for tensor in model.graph.initializer) > _LARGEST:
        return None
    try:
        with tempfile.TemporaryDirectory() as made:
            path = Path(made) / "optimized.onnx"
            plain = _session(ort, model, ort.GraphOptimizationLevel.ORT_ENABLE_ALL, folder, path)
            optimized = load(path, load_external_data=False)
        names = [value.name for value in wanted]
        moved = _strip(optimized, names)
        kinds = {name: (v.shape or (), v.dtype or "") for name, v in known.items() if bindable([v])}
        kinds |= {moved[name]: kinds[name] for name in names}
        kinds |= _asked(ort, optimized, kinds, folder)
        cut = _Cut(optimized, set(moved.values()), kinds)
        found = [
            _Piece(_session(ort, part, ort.GraphOptimizationLevel.ORT_DISABLE_ALL, folder), *asked)
            for part, *asked in cut.parts()
        ]
        return _proved(found, moved, cut, folder, plain, feeds)
    except Exception:  # what the runtime cannot write or read again is run the plain way: no result depends on it
        return None


def _session(ort: Any, model: ModelProto, level: Any, folder: Path | None, optimized: Path | None = None) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _strip(model: ModelProto, names: Sequence[str]) -> dict[str, str]:
    """Take the reorder nodes before outputs out of a model: for each of ``names`` the value that is it now."""
    graph = model.graph
    makers = {out: node for node in graph.node for out in node.output}
    read = {name for node in graph.node for name in _reads(node)}
    found: dict[str, str] = {}
    for name in names:
        node = makers.get(name)
        whole = node is not None and node.op_type == "ReorderOutput" and node.domain == _DOMAIN and _even(node)
        found[name] = node.input[0] if node is not None and whole else name
    gone = {id(makers[name]) for name, output in found.items() if name != output and name not in read}
    kept = [node for node in graph.node if id(node) not in gone]
    del graph.node[:]
    graph.node.extend(kept)
    return found


def _asked(
    ort: Any, model: ModelProto, known: Mapping[str, tuple[tuple[int, ...], str]], folder: Path | None
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of the values that the runtime's own nodes make, as far as the runtime knows them."""
    names = [name for node in model.graph.node for name in node.output if name and name not in known]
    asking = ModelProto()
    asking.CopyFrom(model)
    del asking.graph.output[:]
    asking.graph.output.extend([ValueInfoProto(name=name) for name in names])
    session = _session(ort, asking, ort.GraphOptimizationLevel.ORT_DISABLE_ALL, folder)
    found = {}
    for info in session.get_outputs():
        dtype = _NAMES.get(info.type)
        if info.name in names and dtype and all(isinstance(extent, int) and extent > 0 for extent in info.shape):
            found[info.name] = tuple(info.shape), dtype
    return found


def _even(node: NodeProto) -> bool:
    """Whether the channels fill their blocks: in a last block that is not full, other numbers would lie as well."""
    attrs = {attr.name: attr.i for attr in node.attribute}
    return attrs.get("channels", 1) % max(_SIZES) == 0 and not attrs.get("channels_last", 0)


def _reads(node: NodeProto) -> list[str]:
    """The values that a node reads, those that its sub-graphs take from outside with them."""
    inner = (name for graph in subgraphs(node) for name in captured(graph))
    return [name for name in dict.fromkeys((*node.input, *inner)) if name]


def _needed(nodes: Sequence[NodeProto], wanted: Set[str]) -> list[NodeProto]:
    """Those of the nodes on which the values depend."""
    needed = set(wanted)
    kept = []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(_reads(node))
    return kept[::-1]


class _Cut:
    """Where a model is cut: after nodes whose values, as far as later nodes read them, have a known shape.

    Args:
        wanted: values that are asked for.
        kinds: shape and dtype of values by name.
    """

    def __init__(self, model: ModelProto, wanted: set[str], kinds: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
        self._model = model
        graph = model.graph
        self._nodes = _needed(list(graph.node), wanted)
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: at for at, node in enumerate(self._nodes) for name in node.output if name}
        self._last = {name: at for at, node in enumerate(self._nodes) for name in _reads(node)}
        self._wanted = wanted
        self.kinds = dict(kinds)
        #: What is asked for and was computed when the model was optimized.
        self.constants = {name: self._weights[name] for name in wanted if name in self._weights}

    def parts(self) -> Iterator[tuple[ModelProto, list[str], list[str], list[str]]]:
        """Each piece as a model, with the names of what it reads, gives and passes on."""
        ends = self._ends()
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            nodes = self._nodes[start:end]
            made = [name for node in nodes for name in node.output if name]
            read = list(dict.fromkeys(name for node in nodes for name in _reads(node)))
            given = [name for name in made if name in self._wanted]
            passed = [name for name in made if self._last.get(name, -1) >= end and name not in self._wanted]
            weights = [self._weights[name] for name in read if name in self._weights]
            reads = [name for name in read if name not in self._weights and name not in set(made)]
            part = ModelProto(
                ir_version=self._model.ir_version,
                opset_import=self._model.opset_import,
                functions=self._model.functions,
            )
            part.graph.CopyFrom(GraphProto(name="piece", node=nodes, initializer=weights))
            inputs = {info.name: info for info in self._model.graph.input}
            part.graph.input.extend([inputs.get(name) or self._info(name) for name in reads])
            part.graph.output.extend([self._info(name) for name in (*given, *passed)])
            yield part, reads, given, passed

    def _info(self, name: str) -> ValueInfoProto:
        return ValueInfoProto(name=name, type=type_proto(self.kinds[name]))

    def _ends(self) -> list[int]:
        """The number of the node after each piece."""
        sizes = {name: _nbytes(self.kinds[name]) for name in self._wanted}
        most = max(_PIECE, sum(sizes.values()) * _SHARE)
        ends, size, strange = [], 0, 0
        closing = [0] * (len(self._nodes) + 1)
        for at, node in enumerate(self._nodes):
            for name in node.output:
                if name and name not in self.kinds and self._last.get(name, -1) > at:
                    strange += 1  # until it was read, nothing can be cut
                    closing[self._last[name]] += 1
            strange -= closing[at]
            size += sum(sizes.get(name, 0) for name in node.output)
            if size >= most and not strange:
                ends.append(at + 1)
                size = 0
        if not ends or ends[-1] != len(self._nodes):
            ends.append(len(self._nodes))
        return ends


def _nbytes(kind: tuple[tuple[int, ...], str]) -> int:
    return prod(kind[0]) * numpy_dtype(kind[1]).itemsize


def _proved(
    found: Sequence[_Piece], moved: Mapping[str, str], cut: _Cut, folder: Path | None, plain: Any, feeds: Feeds
) -> Pieces | None:
    """The pieces, with the size of blocks with which they give what the whole model gives, to the bit."""
    names: dict[str, list[str]] = {}
    for name, value in moved.items():
        names.setdefault(value, []).append(name)
    constants = {name: tensor_array(t, folder) for value, t in cut.constants.items() for name in names[value]}
    blocked = frozenset(name for name, value in moved.items() if name != value)
    for size in _SIZES:
        made = Pieces(found, names, cut.kinds, constants, size, blocked)
        if all(_same(plain, made, batch, feeds) for batch in _batches(moved, cut.kinds)):
            return made
        if not blocked:
            break
    return None


def _batches(moved: Mapping[str, str], kinds: Mapping[str, tuple[tuple[int, ...], str]]) -> Iterator[list[str]]:
    batch: list[str] = []
    total = 0
    for name, value in moved.items():
        total += _nbytes(kinds[value])
        if batch and total > _PROVED:
            yield batch
            batch, total = [], _nbytes(kinds[value])
        batch.append(name)
    yield batch


def _same(plain: Any, made: Pieces, names: Sequence[str], feeds: Feeds) -> bool:
    wanted = dict(zip(names, plain.run(list(names), dict(feeds)), strict=True))
    for arrays in stream(made, "the pieces")(feeds):
        for name, array in arrays.items():
            if name in wanted:
                plainly = wanted.pop(name)
                alike = plainly.dtype == array.dtype and plainly.size == array.size
                if not alike or not np.array_equal(plainly, array.reshape(plainly.shape), equal_nan=True):
                    return False
    return not wanted


def in_blocks(array: Array, size: int) -> Array:
    """The elements of an array of shape (N, C, H, W), whose memory is (N, C / size, H, W, size), in the order that
    the shape says: a view (N, C / size, size, H, W), of which ``reshape(N, C, H, W)`` makes a copy in plain order."""
    n, c, h, w = array.shape
    return np.asarray(array.reshape(n, c // size, h, w, size).transpose(0, 1, 4, 2, 3))


def bindable(values: Sequence[Value]) -> bool:
    """Whether every value's bytes are known beforehand, and numpy has its dtype."""
    return all(v.shape is not None and prod(v.shape) > 0 and v.dtype in _DTYPES for v in values)


def stream(made: Pieces, source: str) -> Callable[[Feeds], Iterator[Mapping[str, Array]]]:
    """A function that runs the pieces and gives, after each, its values by name, in arrays that the next step
    overwrites; those of ``made.blocked`` as :func:`in_blocks` shows them. The arrays of a piece lie side by side, and
    are the same ones in every run. Several such functions may run at once.

    Raises, when it is called:
        PorterError: PT353 when onnxruntime fails.
    """
    steps = _bound(made)

    def run(feeds: Feeds) -> Iterator[Mapping[str, Array]]:
        if made.constants:
            yield made.constants
        for session, binding, fed, arrays in steps:
            try:
                for name in fed:
                    binding.bind_cpu_input(name, feeds[name])
                session.run_with_iobinding(binding)
            except Exception as error:  # onnxruntime has a class of its own for each status, below Exception
                said = str(error).strip().splitlines()[0]
                raise PorterError("PT353", f"onnxruntime failed while running {source}: {said}") from error
            if arrays:
                yield arrays

    return run


def _bound(made: Pieces) -> list[tuple[Any, Any, list[str], Standing]]:
    """For each piece its session, a binding to memory, what else it must be fed, and the arrays that it gives."""
    memory, places = _memory(made)
    whole: dict[str, Array] = {}
    for name, place in places.items():
        shape, dtype = made.kinds[name]
        size = _nbytes(made.kinds[name])
        whole[name] = memory[place : place + size].view(numpy_dtype(dtype)).reshape(shape)
    steps = []
    for piece in made.pieces:
        binding = piece.session.io_binding()
        for name in piece.reads:
            if name in whole:
                array = whole[name]
                binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name in (*piece.given, *piece.passed):
            array = whole[name]
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        arrays = Standing(
            (name, in_blocks(whole[value], made.size) if name in made.blocked else whole[value])
            for value in piece.given
            for name in made.names[value]
        )
        steps.append((piece.session, binding, [name for name in piece.reads if name not in whole], arrays))
    return steps


def _memory(made: Pieces) -> tuple[Array, dict[str, int]]:
    """Memory, and the place in it of each value: the first that is free as long as a piece reads the value. What a
    piece gives lies together."""
    last = {name: at for at, piece in enumerate(made.pieces) for name in (*piece.given, *piece.passed, *piece.reads)}
    taken: list[tuple[int, int, int]] = []
    places: dict[str, int] = {}
    top = 0
    for at, piece in enumerate(made.pieces):
        taken = [area for area in taken if area[2] >= at]
        for together in (piece.given, *([name] for name in piece.passed)):
            offsets, size = [], 0
            for name in together:
                offsets.append(size)
                size += -(-_nbytes(made.kinds[name]) // _ALIGNED) * _ALIGNED
            start = 0
            for begin, end, _ in sorted(taken):
                if begin - start >= size:
                    break
                start = max(start, end)
            taken.append((start, start + size, max((last[name] for name in together), default=at)))
            places |= {name: start + offset for name, offset in zip(together, offsets, strict=True)}
            top = max(top, start + size)
    memory = np.empty(top + _ALIGNED, np.uint8)
    first = -memory.ctypes.data % _ALIGNED
    return memory, {name: first + place for name, place in places.items()}
