# SPDX-License-Identifier: Apache-2.0
"""Runs of one model on many samples, whose inner values are handed over as they lie in the runtime's memory.

onnxruntime computes convolutions on tensors whose channels lie in blocks, and keeps such tensors from one node to the
next (onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html, "Layout Optimizations"). A value
that is made an output is put in the plain order for the caller, which takes longer than computing it. Here the model
that the runtime has optimized is written once, its reorder nodes are taken out, and the blocks themselves become
outputs, in memory that is used again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, load

from porter.dialects.onnx_proto import nbytes
from porter.dialects.onnx_run import threads
from porter.errors import PorterError
from porter.ops import Array, Value, numpy_dtype

__all__ = ["Blocks", "bindable", "blocks", "stream"]

#: The domain of the nodes that the runtime's layout optimization makes.
_DOMAIN = "com.microsoft.nchwc"
#: How many channels may lie in a block: MLAS's NchwcBlockSize by processor.
_SIZES = (16, 8, 4)
#: What an optimized copy on disk may cost.
_LARGEST = 1 << 29
#: With less than this share of the elements in blocks, a stream is hardly faster than runs.
_SHARE = 0.25
#: Dtypes of values that can be bound to numpy's memory.
_DTYPES = frozenset({"float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"})
#: Sets of buffers, in turns. More of them would lie in the processor's caches less.
_SETS = 2
#: Alignment of every array in a set of buffers.
_ALIGNED = 64

Feeds = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Blocks:
    """A session that gives some values in blocks of channels.

    Fields:
        session: onnxruntime's.
        outputs: the values it is asked for, in order, each with the output that is it.
        size: channels in a block.
        blocked: those of the values that come in blocks.
    """

    session: Any
    outputs: dict[str, str]
    size: int
    blocked: frozenset[str]


def blocks(model: ModelProto, folder: Path | None, names: Sequence[str], feeds: Feeds) -> Blocks | None:
    """A session of ``model`` that gives its outputs ``names``, those in blocks that the runtime has in blocks; None
    where it has few, or where a run on ``feeds`` does not give the same elements as the model.

    The copy that the runtime optimized goes through a temporary folder.

    Args:
        folder: where external data lies.
    """
    import onnxruntime as ort

    if sum(nbytes(tensor.dims, tensor.data_type) for tensor in model.graph.initializer) > _LARGEST:
        return None
    try:
        with tempfile.TemporaryDirectory() as made:
            path = Path(made) / "optimized.onnx"
            plain = _session(ort, model, ort.GraphOptimizationLevel.ORT_ENABLE_ALL, folder, path)
            optimized = load(path, load_external_data=False)
        outputs = _strip(optimized, names)
        if not _worth(model, outputs):
            return None
        session = _session(ort, optimized, ort.GraphOptimizationLevel.ORT_DISABLE_ALL, folder)
        wanted = dict(zip(names, plain.run(list(names), dict(feeds)), strict=True))
        del plain
        got = dict(zip(outputs, session.run(list(outputs.values()), dict(feeds)), strict=True))
    except Exception:  # what the runtime cannot write or read again is run the plain way: no result depends on it
        return None
    moved = frozenset(name for name, output in outputs.items() if name != output)
    for size in _SIZES:
        if all(_same(wanted[n], in_blocks(got[n], size) if n in moved else got[n]) for n in names):
            return Blocks(session, outputs, size, moved)
    return None


def _session(ort: Any, model: ModelProto, level: Any, folder: Path | None = None, optimized: Path | None = None) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = threads()
    options.log_severity_level = 4
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _strip(model: ModelProto, names: Sequence[str]) -> dict[str, str]:
    """Take the reorder nodes before outputs out of a model, and make what they read the outputs in their place: for
    each of ``names`` the output that is it now."""
    graph = model.graph
    makers = {out: node for node in graph.node for out in node.output}
    read = {name for node in graph.node for name in node.input}
    found: dict[str, str] = {}
    for name in names:
        node = makers.get(name)
        whole = node is not None and node.op_type == "ReorderOutput" and node.domain == _DOMAIN and _even(node)
        found[name] = node.input[0] if node is not None and whole else name
    gone = {id(makers[name]) for name, output in found.items() if name != output and name not in read}
    kept = [node for node in graph.node if id(node) not in gone]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    infos = {info.name: info for info in graph.output}
    taken: dict[str, str] = {}
    for name, output in found.items():
        taken.setdefault(output, name)
    made = []
    for output, name in taken.items():
        info = type(infos[name])()
        info.CopyFrom(infos[name])
        info.name = output
        made.append(info)
    del graph.output[:]
    graph.output.extend(made)
    return found


def _worth(model: ModelProto, outputs: Mapping[str, str]) -> bool:
    """Whether as many elements are in blocks as it takes to make up for the second session."""
    sizes = {info.name: prod(dim.dim_value for dim in info.type.tensor_type.shape.dim) for info in model.graph.output}
    blocked = sum(sizes[name] for name, output in outputs.items() if name != output)
    return bool(blocked > _SHARE * sum(sizes[name] for name in outputs))


def _even(node: NodeProto) -> bool:
    """Whether the channels fill their blocks: in a last block that is not full, other numbers would lie as well."""
    attrs = {attr.name: attr.i for attr in node.attribute}
    return attrs.get("channels", 1) % max(_SIZES) == 0 and not attrs.get("channels_last", 0)


def in_blocks(array: Array, size: int) -> Array:
    """The elements of an array of shape (N, C, H, W), whose memory is (N, C / size, H, W, size), in the order that
    the shape says: a view (N, C / size, size, H, W), of which ``reshape(N, C, H, W)`` makes a copy in plain order."""
    n, c, h, w = array.shape
    return np.asarray(array.reshape(n, c // size, h, w, size).transpose(0, 1, 4, 2, 3))


def _same(wanted: Array, got: Array) -> bool:
    return wanted.dtype == got.dtype and np.array_equal(wanted, got.reshape(wanted.shape), equal_nan=True)


def bindable(values: Sequence[Value]) -> bool:
    """Whether every value's bytes are known beforehand, and numpy has its dtype."""
    return all(v.shape is not None and prod(v.shape) > 0 and v.dtype in _DTYPES for v in values)


def stream(
    made: Blocks, inputs: Sequence[Value], values: Sequence[Value], source: str
) -> Callable[[Feeds], list[Array]]:
    """A function that runs the session and gives ``values`` (:func:`bindable`), in arrays that the call after
    the next overwrites; those of ``made.blocked`` as :func:`in_blocks` shows them.

    Raises, when it is called:
        PorterError: PT353 when onnxruntime fails.
    """
    names = [value.name for value in inputs]
    sets = [_buffers(made, values) for _ in range(_SETS)]
    calls = 0

    def run(feeds: Feeds) -> list[Array]:
        nonlocal calls
        binding, arrays = sets[calls % _SETS]
        calls += 1
        try:
            for name in names:
                binding.bind_cpu_input(name, feeds[name])
            made.session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime has a class of its own for each status, below Exception
            said = str(error).strip().splitlines()[0]
            raise PorterError("PT353", f"onnxruntime failed while running {source}: {said}") from error
        return list(arrays)

    return run


def _buffers(made: Blocks, values: Sequence[Value]) -> tuple[Any, list[Array]]:
    """One set of arrays for ``values``, side by side in memory, and the session's binding to it."""
    binding = made.session.io_binding()
    dtypes = {value.name: numpy_dtype(value.dtype or "float32") for value in values}
    sizes = {
        output: -(-prod(value.shape or ()) * dtypes[value.name].itemsize // _ALIGNED) * _ALIGNED
        for value in values
        for output in [made.outputs[value.name]]
    }
    memory = np.empty(sum(sizes.values()) + _ALIGNED, np.uint8)
    at = -memory.ctypes.data % _ALIGNED
    bound: dict[str, Array] = {}
    arrays = []
    for value in values:
        output, shape, dtype = made.outputs[value.name], value.shape or (), dtypes[value.name]
        if output not in bound:
            flat = memory[at : at + prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            binding.bind_output(output, "cpu", 0, dtype.type, shape, flat.ctypes.data)
            bound[output] = flat
            at += sizes[output]
        whole = bound[output]
        arrays.append(in_blocks(whole, made.size) if value.name in made.blocked else whole)
    return binding, arrays
