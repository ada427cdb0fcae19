# SPDX-License-Identifier: Apache-2.0
"""Writing ONNX models: the nodes that porter wrote are checked, and weights find their place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from porter.dialects import onnx_origin
from porter.dialects.onnx_ceil import POOLS, as_written
from porter.dialects.onnx_proto import Node, external, nbytes, tensor_array
from porter.dialects.onnx_read import Model, type_proto
from porter.dialects.onnx_run import LARGE
from porter.files import share_file
from porter.ops import Array

__all__ = ["LEDGER", "as_proto", "read_ledger", "tapped", "write"]

#: Metadata key of the ledger in a saved model.
LEDGER = "porter.ledger"
#: protobuf cannot serialize more than 2 GiB; weights beyond this many bytes are written to a data file, or fed.
_INSIDE = 1_800_000_000

#: onnx recommends page-aligned offsets, so that the data can be mapped into memory.
_ALIGN = 4096
#: Smaller weights stay in the model file whatever its size.
_SMALL = 1024


def as_proto(model: Model, without: Iterable[str] = (), origins: bool = False) -> ModelProto:
    """A model as one protobuf, without some of the initializers; with the origin of each node, if wanted."""
    proto = ModelProto()
    proto.CopyFrom(model.shell)
    graph = proto.graph
    for node in model.nodes:
        graph.node.append(_written(node, model))
        if origins:  # untouched nodes are shared with the loaded model: the record goes onto the copy
            onnx_origin.write(graph.node[-1], node.origin or onnx_origin.read(node.proto))
    skipped = set(without)
    graph.initializer.extend([t for name, t in model.tensors.items() if name not in skipped])
    outputs = {v.name: v for v in graph.output}
    for name, value in outputs.items():
        shape, dtype = model.types.get(name, (None, None))
        if shape is not None and dtype is not None:
            value.type.CopyFrom(type_proto((shape, dtype)))
    return proto


def _written(node: Node, model: Model) -> NodeProto:
    """The node, so that onnx's inference, which runtimes call when they load a model, gives it the right shape."""
    return as_written(node.proto, model.types.get(node.ins[0], (None,))[0]) if node.op in POOLS else node.proto


def tapped(model: Model, taps: Sequence[str]) -> tuple[ModelProto, dict[str, Array]]:
    """The model with more outputs, and the constants that must be fed to it."""
    fed: dict[str, Array] = {}
    if sum(nbytes(t.dims, t.data_type) for t in model.tensors.values() if not external(t)) > _INSIDE:
        for name, tensor in model.tensors.items():
            if not external(tensor) and nbytes(tensor.dims, tensor.data_type) > LARGE:
                fed[name] = tensor_array(tensor, model.folder)
    proto = as_proto(model, without=fed)
    for name in fed:
        proto.graph.input.add(name=name, type=type_proto(model.types[name]))
    for name in taps:
        value = ValueInfoProto(name=name)
        kind = model.types.get(name, (None, None))
        if kind[1] is not None:
            value.type.CopyFrom(type_proto(kind))
        proto.graph.output.append(value)
    return proto, fed


def write(model: Model, path: Path, ledger: Mapping[str, Any] | None, declare: Callable[[ModelProto], None]) -> None:
    """Write a model with the origin of each node and the ledger: see :meth:`OnnxGraph.save`.

    Args:
        declare: what else is said of inputs and outputs, written into the protobuf.
    """
    _check_written(model)
    moved = _externalize(model, path, _INSIDE)
    proto = as_proto(model, without=moved, origins=True)
    proto.graph.initializer.extend(moved.values())
    declare(proto)
    if model.value_infos:
        _value_infos(proto, model)
    if ledger is not None:
        for entry in list(proto.metadata_props):
            if entry.key == LEDGER:
                proto.metadata_props.remove(entry)
        proto.metadata_props.add(key=LEDGER, value=json.dumps(ledger, ensure_ascii=False, default=str))
    path.write_bytes(proto.SerializeToString())


def _value_infos(proto: ModelProto, model: Model) -> None:
    shown = {*model.inputs, *model.outputs}
    for node in model.nodes:
        for name in node.outs:
            kind = model.types.get(name, (None, None))
            if name and name not in shown and kind[0] is not None and kind[1] is not None:
                proto.graph.value_info.add(name=name, type=type_proto(kind))


def read_ledger(shell: ModelProto) -> dict[str, Any] | None:
    """The ledger that an earlier run of porter left in the model."""
    for entry in shell.metadata_props:
        if entry.key == LEDGER:
            try:
                found = json.loads(entry.value)
            except ValueError:
                return None
            return found if isinstance(found, dict) else None
    return None


def _externalize(model: Model, path: Path, inside: int) -> dict[str, TensorProto]:
    """Put the data files of a model beside ``path``; the initializers that point to them.

    Files that the model already has are shared (a reflink or hard link where the file system can) or copied, and called
    ``<path's name>.data``, ``.data1``, ... so that saving into the folder of the original never meets its files. When
    the weights in memory exceed ``inside`` bytes, they are written to such a file too.
    """
    moved: dict[str, TensorProto] = {}
    files: dict[str, str] = {}
    for name, tensor in model.tensors.items():
        entries = external(tensor)
        if not entries:
            continue
        location = entries["location"]
        if location not in files:
            assert model.folder is not None  # checked when the model was read
            files[location] = f"{path.name}.data{len(files) or ''}"
            share_file(model.folder / location, path.parent / files[location], allow_hardlink=True)
        new = TensorProto()
        new.CopyFrom(tensor)
        for entry in new.external_data:
            if entry.key == "location":
                entry.value = files[location]
        moved[name] = new
    loose = {n: t for n, t in model.tensors.items() if n not in moved and len(t.raw_data) > _SMALL}
    if sum(nbytes(t.dims, t.data_type) for t in loose.values()) > inside:
        target = f"{path.name}.data{len(files) or ''}"
        with (path.parent / target).open("xb") as file:
            for name, tensor in loose.items():
                file.seek(-file.tell() % _ALIGN, 1)
                new = TensorProto(name=name, data_type=tensor.data_type, dims=tensor.dims)
                new.data_location = TensorProto.EXTERNAL
                entry = (("location", target), ("offset", str(file.tell())), ("length", str(len(tensor.raw_data))))
                for key, value in entry:
                    new.external_data.add(key=key, value=value)
                file.write(tensor.raw_data)
                moved[name] = new
    return moved


def _check_written(model: Model) -> None:
    """Run onnx's checker over the nodes that porter wrote, and over no others: what was loaded is not ours to judge.

    Raises:
        ValueError: when one breaks the rules of its operator (a bug in porter, not in the model).
    """
    ours = [node for node in model.nodes if node.ours]
    if not ours:
        return
    made = {name for node in ours for name in node.outs}
    proto = ModelProto(ir_version=model.shell.ir_version)
    proto.opset_import.extend(model.shell.opset_import)
    graph = proto.graph
    graph.name = "written"
    for name in dict.fromkeys(n for node in ours for n in node.ins if n and n not in made):
        shape, dtype = model.types.get(name, (None, None))
        graph.input.add(name=name, type=type_proto((shape, dtype or "float32")))
    graph.node.extend([node.proto for node in ours])
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ValueError(f"porter wrote a node that is not valid: {error}") from error
