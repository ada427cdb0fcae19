# SPDX-License-Identifier: Apache-2.0
"""Saving ONNX models: the nodes that porter wrote are checked, and weights find their place."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto

from porter.dialects.onnx_proto import external, nbytes
from porter.dialects.onnx_read import Model, type_proto
from porter.files import share_file

#: onnx recommends page-aligned offsets, so that the data can be mapped into memory.
_ALIGN = 4096
#: Smaller weights stay in the model file whatever its size.
_SMALL = 1024


def externalize(model: Model, path: Path, inside: int) -> dict[str, TensorProto]:
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


def check_written(model: Model) -> None:
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
