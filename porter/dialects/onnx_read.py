# SPDX-License-Identifier: Apache-2.0
"""An ONNX file as porter needs it: validated, functions inlined, input shapes fixed, a static type for every value.

Nothing in a file is trusted: sizes are checked against what is there before anything is allocated, and external data
must lie inside the model's folder.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from porter.dialects.onnx_ceil import as_inferred
from porter.dialects.onnx_fold import LIMIT, Constants
from porter.dialects.onnx_proto import (
    BITS,
    CODES,
    DTYPES,
    Node,
    Type,
    constant_array,
    constant_type,
    external,
    nbytes,
    subgraphs,
    tensor_array,
)
from porter.dialects.onnx_variadic import in_pairs
from porter.errors import PorterError
from porter.ops import Array

__all__ = ["Model", "read_model"]

#: Shape and dtype (None: the model's own) that the user asks for, by input name or position.
InputSpecs = Mapping[str | int, tuple[Sequence[int], str | None]]

#: Initializers larger than this take no part in shape inference (they cannot be shapes, axes or scales).
_SMALL = 2048
#: Node-by-node inference takes 0.1 ms a node; graphs of more nodes than this are not worth the wait.
_CAREFUL = 20_000
#: com.microsoft operators whose result has the shape and dtype of their first operand.
_SAME_AS_INPUT = frozenset({
    "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "SimplifiedLayerNormalization", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization", "LayerNormalization", "BiasDropout", "BiasSoftmax",
    "RotaryEmbedding", "Inverse",
})  # fmt: skip


@dataclass(slots=True)
class Model:
    """The parts of a model. ``shell`` is the ModelProto without nodes, initializers and value infos."""

    shell: ModelProto
    nodes: list[Node]
    tensors: dict[str, TensorProto]
    types: dict[str, Type]
    inputs: list[str]
    outputs: list[str]
    opset: int
    folder: Path | None = None
    value_infos: bool = False
    sparse: set[str] = field(default_factory=set)


def read_model(
    model: str | os.PathLike[str] | ModelProto, inputs: InputSpecs | None, source: str, batch: int | None = None
) -> Model:
    """Read and check a model; see the module. ``model`` itself is not changed. ``batch`` is the extent of first axes
    that are open.

    Raises:
        PorterError: PT501 no such file, PT502 damaged, PT503 not a model, PT506 an input that does not fit, PT507 a
            dynamic input, PT513 external data elsewhere, PT514 sizes that the data does not have.
    """
    folder: Path | None = None
    if not isinstance(model, ModelProto):
        path = Path(model)
        folder = path.parent
        model = _parse(path)
    if model.functions:
        model = _inline(model, source)
    graph = model.graph
    if not graph.node and not graph.output:
        raise PorterError("PT503", f"{source} has no graph", fix="Export the model again.")
    opset = _opset(model, source)
    _check_text(model, source)
    tensors = {t.name: t for t in graph.initializer}
    nodes = [Node(proto) for proto in in_pairs(graph.node, [*tensors, *(v.name for v in graph.input)])]
    _check_data(graph, nodes, folder, source)
    sparse = {t.values.name for t in graph.sparse_initializer}
    names = [v.name for v in graph.input if v.name not in tensors and v.name not in sparse]
    nodes = _check_order(nodes, {*names, *tensors, *sparse}, [v.name for v in graph.output], source)

    shell = ModelProto()
    _copy_fields(model, shell, "graph")
    _copy_fields(graph, shell.graph, "node", "initializer", "value_info", "input")
    shell.graph.input.extend(v for v in graph.input if v.name in set(names))
    shell.ir_version = max(shell.ir_version, 4)  # before 4, initializers had to be inputs as well
    changed = _fix_inputs(shell.graph, inputs or {}, source, batch)

    found = Model(
        shell, nodes, tensors, {}, names, [v.name for v in graph.output], opset, folder, bool(graph.value_info), sparse
    )
    for t in graph.sparse_initializer:
        found.types[t.values.name] = (tuple(t.dims), DTYPES.get(t.values.data_type))
    _infer(found, None if changed else {v.name: v.type for v in (*graph.value_info, *graph.output)}, source)
    return found


def _copy_fields(source: Message, target: Message, *without: str) -> None:
    """Copy every field that is set, except some: a deep copy would copy the weights first."""
    for descriptor, value in source.ListFields():
        name = descriptor.name
        if name in without:
            continue
        # protobuf's own Python type of a repeated field; is_repeated is new in protobuf 6
        if isinstance(value, Message):
            getattr(target, name).CopyFrom(value)
        elif hasattr(value, "extend"):
            getattr(target, name).extend(value)
        else:
            # protobuf gives the bytes where a text is not UTF-8, and does not take them back.
            setattr(target, name, value.decode("utf-8", "replace") if _is_text(descriptor, value) else value)


def _is_text(descriptor: Any, value: Any) -> bool:
    return isinstance(value, bytes) and descriptor.type == descriptor.TYPE_STRING


def _check_text(model: ModelProto, source: str) -> None:
    """Names must be UTF-8: protobuf's Python classes hand out bytes where they are not."""
    graph = model.graph
    try:
        "".join(v.name for values in (graph.input, graph.output, graph.initializer) for v in values)
        "".join(entry.domain for entry in model.opset_import)
        for node in graph.node:
            "".join((node.op_type, node.domain, node.name, *node.input, *node.output))
    except TypeError as error:
        raise PorterError("PT502", f"{source} is damaged: a name in it is not text", source) from error


def _parse(path: Path) -> ModelProto:
    if not path.is_file():
        raise PorterError("PT501", f"there is no file {path}")
    try:
        return onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        with path.open("rb") as file:
            known = file.read(1) == b"\x08"  # field 1, ir_version, comes first in every writer
        if known:
            raise PorterError(
                "PT502", f"{path} is cut short or damaged: {error}", str(path), "Fetch or export the file again."
            ) from error
        raise PorterError("PT503", f"{path} is not an ONNX model: {error}", str(path)) from error
    except (ValueError, UnicodeDecodeError) as error:
        raise PorterError("PT503", f"{path} is not an ONNX model: {error}", str(path)) from error


def _inline(model: ModelProto, source: str) -> ModelProto:
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # the C++ side raises RuntimeError and its own kinds
        raise PorterError("PT502", f"{source}: its local functions cannot be inlined: {error}") from error


def _opset(model: ModelProto, source: str) -> int:
    versions = {entry.domain or "": entry.version for entry in model.opset_import}
    version = versions.get("", versions.get("ai.onnx", 0))
    if not version and any(node.domain in ("", "ai.onnx") for node in model.graph.node):
        raise PorterError("PT502", f"{source} imports no version of the standard operators (opset_import)")
    newest = onnx.defs.onnx_opset_version()
    if version > newest:
        raise PorterError(
            "PT503", f"{source} uses opset {version}; the onnx package here knows up to {newest}", source,
            "Upgrade onnx, or export with an older opset.",
        )  # fmt: skip
    return version or newest


# -- sizes and places ------------------------------------------------------------------------------


def _check_data(graph: GraphProto, nodes: Iterable[Node], folder: Path | None, source: str) -> None:
    sizes: dict[str, int] = {}
    for tensor in graph.initializer:
        _check_tensor(tensor, folder, source, sizes)
    for node in nodes:
        _check_attributes(node.proto, folder, source, sizes)


def _check_attributes(node: NodeProto, folder: Path | None, source: str, sizes: dict[str, int]) -> None:
    for a in node.attribute:
        if a.type == 4:
            _check_tensor(a.t, folder, source, sizes)
        elif a.type == 9:
            for tensor in a.tensors:
                _check_tensor(tensor, folder, source, sizes)
        elif a.type in (5, 10):
            for graph in subgraphs(node):
                for tensor in graph.initializer:
                    _check_tensor(tensor, folder, source, sizes)
                for inner in graph.node:
                    _check_attributes(inner, folder, source, sizes)


def _check_tensor(tensor: TensorProto, folder: Path | None, source: str, sizes: dict[str, int]) -> None:
    dims, code = tuple(tensor.dims), tensor.data_type
    where = f"{source}, tensor {tensor.name!r}" if tensor.name else source
    if any(n < 0 for n in dims):
        raise PorterError("PT514", f"tensor {tensor.name!r} has the shape {list(dims)}", where)
    if code not in BITS and code != TensorProto.STRING:
        raise PorterError("PT502", f"tensor {tensor.name!r} has the unknown data type {code}", where)
    needed = nbytes(dims, code)
    outside = external(tensor)
    if outside:
        if folder is None:
            raise PorterError(
                "PT501",
                f"tensor {tensor.name!r} keeps its data in {outside.get('location')!r}, and a ModelProto has no folder",
                where, "Give the path of the file instead.",
            )  # fmt: skip
        _check_external(tensor.name, outside, needed, folder, where, sizes)
    elif code != TensorProto.STRING:
        have = len(tensor.raw_data) if tensor.HasField("raw_data") else _typed_bytes(tensor)
        if have != needed:
            raise PorterError(
                "PT514",
                f"tensor {tensor.name!r} has the shape {list(dims)} ({needed} bytes) and its data has {have} bytes",
                where,
            )


def _typed_bytes(tensor: TensorProto) -> int:
    """Bytes that the typed fields would give as raw data."""
    code = tensor.data_type
    bits = BITS[code]
    if code in (TensorProto.FLOAT, TensorProto.COMPLEX64):
        return len(tensor.float_data) * 4
    if code in (TensorProto.DOUBLE, TensorProto.COMPLEX128):
        return len(tensor.double_data) * 8
    if code == TensorProto.INT64:
        return len(tensor.int64_data) * 8
    if code in (TensorProto.UINT32, TensorProto.UINT64):
        return len(tensor.uint64_data) * bits // 8
    if bits < 8:  # packed: one entry a byte
        return len(tensor.int32_data)
    return len(tensor.int32_data) * bits // 8


def _check_external(
    name: str, outside: Mapping[str, str], needed: int, folder: Path, where: str, sizes: dict[str, int]
) -> None:
    location = outside.get("location", "")
    try:
        offset, length = int(outside.get("offset", 0)), int(outside.get("length", needed))
    except ValueError:
        offset = length = -1
    if offset < 0 or length < 0:
        raise PorterError("PT514", f"tensor {name!r} has an offset or length that is not a size", where)
    if location not in sizes:
        parts = Path(location).parts
        root = Path(os.path.realpath(folder))
        try:
            real = Path(os.path.realpath(folder / location))
        except (OSError, ValueError):
            real = Path("/")
        # Windows names are refused everywhere, so that a model means the same on every machine.
        absolute = Path(location).is_absolute() or location[:1] in ("/", "\\") or location[1:2] == ":"
        if not location or absolute or ".." in parts or "..\\" in location or not real.is_relative_to(root):
            raise PorterError(
                "PT513", f"tensor {name!r} keeps its data in {location!r}, outside of the model's folder", where,
                "If the model is yours, move the data file beside the model. If it was downloaded, don't trust it.",
            )  # fmt: skip
        if not real.is_file():
            raise PorterError(
                "PT501", f"there is no file {folder / location}, where tensor {name!r} keeps its data", where,
                "Put the data file beside the model.",
            )  # fmt: skip
        sizes[location] = real.stat().st_size
    if length != needed:
        raise PorterError("PT514", f"tensor {name!r} needs {needed} bytes and declares {length}", where)
    if offset + length > sizes[location]:
        raise PorterError(
            "PT514", f"tensor {name!r} needs bytes {offset} to {offset + length} of {location}, which has "
            f"{sizes[location]}", where, "Fetch the data file again.",
        )  # fmt: skip


def _check_order(nodes: list[Node], known: set[str], outputs: Sequence[str], source: str) -> list[Node]:
    """The nodes in topological order; every value is defined, once."""
    made: set[str] = set()
    for node in nodes:
        for name in node.outs:
            if name in made or (name and name in known):
                raise PorterError("PT502", f"{source}: two nodes give the value {name!r}", f"node {node.name}")
            if name:
                made.add(name)
    every = known | made
    ready = set(known)
    ordered = True
    for node in nodes:
        for name in (*node.ins, *node.caps):
            if name and name not in ready:
                if name not in every:
                    raise PorterError(
                        "PT502", f"{source}: node {node.name!r} reads {name!r}, which nothing gives", source,
                        "The file is incomplete: export the model again.",
                    )  # fmt: skip
                ordered = False
        ready.update(node.outs)
    for name in outputs:
        if name not in every:
            raise PorterError("PT502", f"{source}: nothing gives the output {name!r}", source)
    return nodes if ordered else _sorted(nodes, known, source)


def _sorted(nodes: list[Node], known: set[str], source: str) -> list[Node]:
    import heapq

    maker = {name: i for i, node in enumerate(nodes) for name in node.outs if name}
    waits: list[int] = []
    readers: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        needs = {maker[n] for n in (*node.ins, *node.caps) if n in maker}
        waits.append(len(needs))
        for j in needs:
            readers.setdefault(j, []).append(i)
    ready = [i for i, count in enumerate(waits) if not count]
    heapq.heapify(ready)
    order: list[Node] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(nodes[i])
        for j in readers.get(i, ()):
            waits[j] -= 1
            if not waits[j]:
                heapq.heappush(ready, j)
    if len(order) != len(nodes):
        stuck = next(node for node, count in zip(nodes, waits, strict=True) if count)
        raise PorterError("PT502", f"{source}: the graph has a cycle through node {stuck.name!r}", source)
    return order


# -- inputs ----------------------------------------------------------------------------------------


def _shown(value: ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dtype = DTYPES.get(tensor.elem_type, "?")
    if not tensor.HasField("shape"):
        return f"{value.name} {dtype}"
    return f"{value.name} {dtype}[{','.join(_dim(d) for d in tensor.shape.dim)}]"


def _dim(dim: Any) -> str:
    return str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?"


def _fix_inputs(graph: GraphProto, wanted: InputSpecs, source: str, batch: int | None) -> bool:
    """Put the wanted shapes, and the batch where it is open, into the graph's inputs; whether that fixed anything."""
    names = [v.name for v in graph.input]
    specs: dict[str, tuple[Sequence[int], str | None]] = {}
    have = f"{source} has: {'; '.join(_shown(v) for v in graph.input) or 'no inputs'}"
    for key, spec in wanted.items():
        if isinstance(key, int):
            if key >= len(names):
                raise PorterError(
                    "PT506", f"the model has {len(names)} inputs, and a shape is given for input {key + 1}", have
                )
            key = names[key]
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.0)
            shape = "x".join(map(str, spec[0])) or "scalar"
            raise PorterError(
                "PT506", f"the model has no input {key!r}", have,
                f"Did you mean --input {near[0]}:{shape}?" if near else None,
            )  # fmt: skip
        specs[key] = spec
    changed = False
    loose: list[tuple[str, list[str] | None]] = []
    for value in graph.input:
        if not value.type.HasField("tensor_type"):
            continue
        tensor = value.type.tensor_type
        dims = [_dim(d) for d in tensor.shape.dim] if tensor.HasField("shape") else None
        own = DTYPES.get(tensor.elem_type)
        if value.name in specs:
            wished, dtype = tuple(specs[value.name][0]), specs[value.name][1]
            shown = f"--input {value.name}:{'x'.join(map(str, wished)) or 'scalar'}"
            if dtype is not None and dtype != own:
                raise PorterError("PT506", f"input {value.name!r} is {own}, not {dtype}", have, f"Write {shown}.")
            fits = dims is None or (
                len(dims) == len(wished)
                and all(not d.isdigit() or int(d) == n for d, n in zip(dims, wished, strict=True))
            )
            if not fits:
                assert dims is not None
                what = "rank" if len(dims) != len(wished) else "fixed sizes"
                raise PorterError(
                    "PT506",
                    f"input {value.name!r} has the shape [{', '.join(dims)}]; {list(wished)} does not fit its {what}",
                    have,
                    "Give sizes that fit, or export the model with these sizes or dynamic axes.",
                )  # fmt: skip
            if dims != [str(n) for n in wished]:
                changed = True
                del tensor.shape.dim[:]
                tensor.shape.SetInParent()
                for n in wished:
                    tensor.shape.dim.add(dim_value=n)
            continue
        if batch is not None and dims and not dims[0].isdigit():
            tensor.shape.dim[0].dim_value = batch
            dims[0] = str(batch)
            changed = True
        if dims is None or not all(d.isdigit() for d in dims):
            loose.append((value.name, dims))
    if loose:
        only_batch = all(dims is not None and all(d.isdigit() for d in dims[1:]) for _, dims in loose)
        sizes: dict[str, str] = {}
        shown = " ".join(f"--input {name}:{_example(dims, sizes)}" for name, dims in loose)
        fix = f"Add {shown}{', or --batch 1' if only_batch else ''}"
        raise PorterError("PT507", _dynamic(*loose[0]), have, fix)
    if batch is not None and not any(_has_batch(value, batch) for value in graph.input):
        raise PorterError("PT506", f"no input has an open first axis, or one of {batch}", have, "Leave --batch out.")
    return changed


def _has_batch(value: ValueInfoProto, batch: int) -> bool:
    dims = value.type.tensor_type.shape.dim
    return len(dims) > 0 and dims[0].dim_value == batch


def _dynamic(name: str, dims: Sequence[str] | None) -> str:
    if dims is None:
        return f"input {name!r} has no fixed shape"
    loose = next(d for d in dims if not d.isdigit())
    return f"input {name!r} has the shape [{', '.join(dims)}]: {loose!r} is not fixed"


def _example(dims: Sequence[str] | None, sizes: dict[str, str]) -> str:
    """A shape to try. ``sizes`` has what was written for a symbol before, and gets what is written here."""
    if dims is None:
        return "1x3x640x640"
    usual = ["1", "3", "640", "640"] if len(dims) == 4 else ["1"] + ["128"] * (len(dims) - 1)
    shown = []
    for dim, size in zip(dims, usual, strict=True):
        shown.append(dim if dim.isdigit() else size if dim == "?" else sizes.setdefault(dim, size))
    return "x".join(shown) or "scalar"


# -- static types ----------------------------------------------------------------------------------


def static_type(proto: TypeProto) -> Type:
    """Shape (None unless every extent is known) and dtype of a tensor type."""
    if not proto.HasField("tensor_type"):
        return None, None
    tensor = proto.tensor_type
    dtype = DTYPES.get(tensor.elem_type)
    if not tensor.HasField("shape"):
        return None, dtype
    extents = []
    for dim in tensor.shape.dim:
        if not dim.HasField("dim_value") or dim.dim_value < 0:
            return None, dtype
        extents.append(dim.dim_value)
    return tuple(extents), dtype


def type_proto(kind: Type) -> TypeProto:
    """The protobuf of a type."""
    proto = TypeProto()
    if kind[1] is None:
        return proto
    proto.tensor_type.elem_type = CODES[kind[1]]
    if kind[0] is not None:
        proto.tensor_type.shape.SetInParent()
        for extent in kind[0]:
            proto.tensor_type.shape.dim.add(dim_value=extent)
    return proto


def read_constant(model: Model, name: str) -> Array | None:
    """The data of an initializer of ``model``."""
    tensor = model.tensors.get(name)
    return None if tensor is None else tensor_array(tensor, model.folder)


def _infer(model: Model, declared: Mapping[str, TypeProto] | None, source: str) -> None:
    """Fill ``model.types``.

    onnx's own inference (with its propagation of small values) does nearly everything in one pass. What it leaves
    open is done node by node, in order, with the values that :class:`Constants` computes. The shapes that the file
    itself states (``declared``) are used last; it is None when the user's sizes replace those of the file. A node whose
    operands then do not fit means that the model has the other sizes baked in.

    Raises:
        PorterError: PT506 when the model cannot have the sizes that were asked for.
    """
    types = model.types
    for value in model.shell.graph.input:
        types[value.name] = static_type(value.type)
    for name, tensor in model.tensors.items():
        types[name] = (tuple(tensor.dims), DTYPES.get(tensor.data_type))
    for node in model.nodes:
        if node.op == "Constant" and not node.domain:
            types[node.outs[0]] = constant_type(node)
    # onnx's inference ends the whole process when it meets a Slice of an axis whose extent came out negative (an input
    # too small for a kernel). So sizes that nobody has tried yet are tried node by node, if there is a Slice at all.
    careful = declared is None and len(model.nodes) <= _CAREFUL and any(node.op == "Slice" for node in model.nodes)
    partial = {} if careful else _whole_graph(model)
    open_nodes = [node for node in model.nodes if any(out and types.get(out, (None,))[0] is None for out in node.outs)]
    if open_nodes:
        _one_by_one(model, open_nodes, partial, declared, source)


def _whole_graph(model: Model) -> dict[str, TypeProto]:
    """onnx's shape inference on the graph without its large weights; types that stay partly open are returned."""
    proto = ModelProto(ir_version=model.shell.ir_version)
    proto.opset_import.extend(model.shell.opset_import)
    graph = proto.graph
    graph.name = "g"
    graph.input.extend(model.shell.graph.input)
    for name, tensor in model.tensors.items():
        if not external(tensor) and nbytes(tensor.dims, tensor.data_type) <= _SMALL:
            graph.initializer.append(tensor)
        else:
            graph.input.add(name=name, type=type_proto(model.types[name]))
    for name in model.sparse:
        graph.input.add(name=name, type=type_proto(model.types[name]))
    protos = []
    for node in model.nodes:
        if node.op == "Constant" and not node.domain and node.proto.ByteSize() > 2 * _SMALL:
            graph.input.add(name=node.outs[0], type=type_proto(model.types[node.outs[0]]))
        else:
            protos.append(node.proto)
    graph.node.extend(protos)
    for value in model.shell.graph.output:
        # Its declared shape may be symbolic, or that of other input sizes.
        graph.output.add(name=value.name).type.tensor_type.elem_type = value.type.tensor_type.elem_type
    partial: dict[str, TypeProto] = {}
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=False, data_prop=True)
        # Each pool that is put right can change the extents before the next.
        while _ceil_pools(proto, protos, inferred):
            inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=False, data_prop=True)
    # A model that onnx's inference refuses as a whole (C++ raises several kinds) is done node by node.
    except Exception:
        return partial
    cache: dict[bytes, Type] = {}
    types = model.types
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        name = value.name
        if name in types:
            continue
        proto_type = value.type
        key = proto_type.SerializeToString()
        found = cache.get(key)
        if found is None:
            found = cache[key] = static_type(proto_type)
        types[name] = found
        if found[0] is None:
            partial[name] = proto_type
    return partial


def _ceil_pools(proto: ModelProto, given: Sequence[NodeProto], inferred: ModelProto) -> bool:
    """Put the pools of ``proto`` as onnx infers them right, by the shapes found so far; whether that changed one."""
    pools = [(i, node) for i, node in enumerate(given) if any(a.name == "ceil_mode" and a.i for a in node.attribute)]
    if not pools:
        return False
    known = (*proto.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    shapes = {value.name: static_type(value.type)[0] for value in known}
    changed = False
    for i, node in pools:
        right = as_inferred(node, shapes.get(node.input[0]))
        if right != proto.graph.node[i]:
            proto.graph.node[i].CopyFrom(right)
            changed = True
    return changed


def _one_by_one(
    model: Model,
    nodes: Sequence[Node],
    partial: dict[str, TypeProto],
    declared: Mapping[str, TypeProto] | None,
    source: str,
) -> None:
    types = model.types
    producers = {out: node for node in model.nodes for out in node.outs if out}

    def read(name: str) -> Array | None:
        node = producers.get(name)
        return read_constant(model, name) if node is None else constant_array(node, model.folder)

    constants = Constants(read, types, producers, model.opset)
    imports = list(model.shell.opset_import)
    versions = {entry.domain or "": entry.version for entry in imports}
    for node in nodes:
        try:
            found = _node_types(node, types, partial, constants, imports, versions)
        except onnx.shape_inference.InferenceError as error:
            operands = [types.get(n, (None, None))[0] for n in node.ins if n]
            folded = any(constants.get(out, LIMIT) is not None for out in node.outs if out)
            if declared is None and None not in operands and not folded:
                shapes = " and ".join(str(list(shape or ())) for shape in operands)
                raise PorterError(
                    "PT506",
                    f"the model cannot have these input sizes: at {node.op} {node.name!r}, {shapes} do not fit",
                    f"{source}: {'; '.join(_shown(v) for v in model.shell.graph.input)}: {error}",
                    "Other sizes are baked into the model: export it with these.",
                ) from error
            found = {}
        _check_extents(node, found, types, source)
        for out in node.outs:
            if out and (out not in found or static_type(found[out])[0] is None):
                value = constants.get(out, LIMIT)
                if value is not None:
                    found[out] = type_proto((value.shape, types.get(out, (None, None))[1] or str(value.dtype)))
        for out in node.outs:
            if not out:
                continue
            proto = found.get(out)
            kind = static_type(proto) if proto is not None else (None, None)
            if kind[0] is None and declared is not None and out in declared:
                stated = static_type(declared[out])
                kind = stated if stated[0] is not None else (None, kind[1] or stated[1])
            old = types.get(out, (None, None))
            types[out] = (kind[0] if kind[0] is not None else old[0], kind[1] or old[1])
            if proto is not None:
                partial[out] = proto


def _check_extents(node: Node, found: Mapping[str, TypeProto], types: Mapping[str, Type], source: str) -> None:
    for proto in found.values():
        if any(dim.dim_value < 0 for dim in proto.tensor_type.shape.dim):
            operand = types.get(node.ins[0], (None, None))[0] if node.ins else None
            raise PorterError(
                "PT506",
                f"the input is too small: at {node.op} {node.name!r} the kernel is larger than its padded input "
                f"{list(operand or ())}",
                source,
                "Give larger sizes with --input.",
            )


def _node_types(
    node: Node,
    types: Mapping[str, Type],
    partial: Mapping[str, TypeProto],
    constants: Constants,
    imports: list[Any],
    versions: Mapping[str, int],
) -> dict[str, TypeProto]:
    if node.domain == "com.microsoft" and node.ins:
        known = types.get(node.ins[0], (None, None))
        if node.op in _SAME_AS_INPUT:
            return {node.outs[0]: type_proto(known)}
        if node.op == "QuantizeLinear":
            zero = types.get(node.ins[2], (None, None))[1] if len(node.ins) > 2 else None
            return {node.outs[0]: type_proto((known[0], zero or "uint8"))}
        if node.op == "DequantizeLinear":
            return {node.outs[0]: type_proto((known[0], types.get(node.ins[1], (None, None))[1]))}
    try:
        schema = onnx.defs.get_schema(node.op, versions.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return {}
    operand_types: dict[str, TypeProto] = {}
    data: dict[str, TensorProto] = {}
    for name in (*node.ins, *node.caps):
        if not name:
            continue
        kind = types.get(name, (None, None))
        operand_types[name] = partial[name] if kind[0] is None and name in partial else type_proto(kind)
        if not operand_types[name].WhichOneof("value"):
            return {}
    for name in node.ins:
        if name and types.get(name, (None, None))[1] in ("int64", "int32", "float32"):
            value = constants.get(name, 4096)
            if value is not None:
                data[name] = onnx.numpy_helper.from_array(np.array(value), name)
    try:
        right = as_inferred(node.proto, types.get(node.ins[0], (None, None))[0] if node.ins else None)
        found = onnx.shape_inference.infer_node_outputs(schema, right, operand_types, data, None, imports)
    except onnx.shape_inference.InferenceError:
        raise
    # The C++ side raises other kinds for a node that breaks its operator's rules; the shape then stays unknown.
    except Exception:
        found = {}
    return dict(found)
