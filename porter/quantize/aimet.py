# SPDX-License-Identifier: Apache-2.0
"""AIMET's encodings files, read and written: ranges found elsewhere can be used here, and those found here there.

Observed in what aimet-onnx 2.42.0 exports in its versions 0.6.1, 1.0.0 and 2.0.0, and in AIMET's own text on the
format (AIMET documentation, "Quantization encoding specification"). In 0.6.1 and 1.0.0 integers are unsigned and
``real = (q + offset) * scale`` with q in 0..2**bits - 1, whatever the device stores: a signed symmetric int8 has the
offset -128. In 2.0.0 they are ONNX's: ``output_dtype``, ``y_scale``, ``y_zero_point``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from porter.errors import PorterError
from porter.graph import Graph
from porter.quantize.encodings import Encoding, Encodings, layer_paths
from porter.quantize.numerics import BITS, Dtype, qrange

__all__ = ["VERSIONS", "Tensors", "is_aimet", "read_aimet", "to_aimet", "weight_names"]

Version = Literal["0.6.1", "1.0.0", "2.0.0"]
VERSIONS: tuple[Version, ...] = ("0.6.1", "1.0.0", "2.0.0")
#: Encodings that came from such a file say so in place of an observer.
OBSERVER = "aimet"


@dataclass(slots=True)
class Tensors:
    """Encodings by the name of a tensor: what an AIMET file knows. ``left_out`` names those of dtypes that porter does
    not quantize to (float, int32 biases, 4 bits), with the dtype."""

    activations: dict[str, Encoding] = field(default_factory=dict)
    parameters: dict[str, Encoding] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def is_aimet(data: Any) -> bool:
    """Whether parsed JSON is an AIMET file (any version) and not porter's own."""
    return (
        isinstance(data, Mapping) and "format" not in data and ("activation_encodings" in data or "encodings" in data)
    )


def to_aimet(encodings: Encodings, graph: Graph, version: Version = "1.0.0") -> dict[str, Any]:
    """The encodings of ``graph`` as AIMET writes them; weights go by the name of their tensor in ``graph``.

    A weight of the FX dialect is called as in the state dict, ``PATH.weight``.

    Raises:
        PorterError: PT480 for another version; PT413 when the encodings belong to another model.
    """
    if version not in VERSIONS:
        raise PorterError(
            "PT480", f"there is no AIMET version {version!r}", fix=f"Choose one of {', '.join(VERSIONS)}."
        )
    encodings.check(graph)
    names = weight_names(graph)
    parameters = {names[path]: found for path, found in encodings.weights.items()}
    activations = dict(encodings.activations)
    if version == "2.0.0":
        every = [_plain(name, found) for name, found in (*parameters.items(), *activations.items())]
        return {"version": version, "encodings": every}
    write = _offsets if version == "1.0.0" else _pairs
    made: dict[str, Any] = {"version": version}
    for key, tensors in (("activation_encodings", activations), ("param_encodings", parameters)):
        if version == "1.0.0":
            made[key] = [write(name, found) for name, found in tensors.items()]
        else:
            made[key] = {name: write(name, found) for name, found in tensors.items()}
    return made


def weight_names(graph: Graph) -> dict[str, str]:
    """The name of each layer's weight, by the layer's path."""
    paths = layer_paths(graph)
    found: dict[str, str] = {}
    for op in graph.ops():
        path = paths.get(op.outputs[0].name)
        if path is not None and len(op.inputs) > 1 and op.inputs[1] is not None:
            found[path] = f"{path}.weight" if graph.dialect == "fx" else op.inputs[1].name
    return found


def _offset(zero: int, dtype: Dtype) -> int:
    """AIMET's offset, for integers that start at 0."""
    return qrange(dtype)[0] - zero


def _offsets(name: str, found: Encoding) -> dict[str, Any]:
    return {
        "name": name,
        "bw": BITS[found.dtype],
        "dtype": "INT",
        "enc_type": "PER_TENSOR" if found.axis is None else "PER_CHANNEL",
        "is_sym": found.symmetric,
        "scale": list(found.scale),
        "offset": [_offset(zero, found.dtype) for zero in found.zero_point],
    }


def _pairs(_name: str, found: Encoding) -> list[dict[str, Any]]:
    top = (1 << BITS[found.dtype]) - 1
    rows = []
    for scale, zero in zip(found.scale, found.zero_point, strict=True):
        offset = _offset(zero, found.dtype)
        rows.append(
            {
                "bitwidth": BITS[found.dtype],
                "dtype": "int",
                "is_symmetric": str(found.symmetric),
                "min": scale * offset,
                "max": scale * (offset + top),
                "offset": offset,
                "scale": scale,
            }
        )
    return rows


def _plain(name: str, found: Encoding) -> dict[str, Any]:
    one = found.axis is None
    made: dict[str, Any] = {
        "name": name,
        "output_dtype": found.dtype,
        "y_scale": found.scale[0] if one else list(found.scale),
    }
    if not found.symmetric:
        made["y_zero_point"] = found.zero_point[0] if one else list(found.zero_point)
    if not one:
        made["axis"] = found.axis
    return made


def read_aimet(data: Any, where: str | None = None) -> Tensors:
    """Read parsed JSON of any of the three versions, trusting nothing in it.

    The axis of per-channel scales is not in versions before 2.0.0; it is 0 here until the encodings meet their weight.

    Raises:
        PorterError: PT481 that names the tensor and the key.
    """
    if not isinstance(data, Mapping):
        raise PorterError("PT481", "the file is not a JSON object", where)
    version = data.get("version", "0.6.1")
    if version not in VERSIONS:
        raise PorterError(
            "PT481", f"is in version {version!r} of AIMET's format; porter reads {', '.join(VERSIONS)}", where,
            "Export it again with encoding_version=\"1.0.0\".",
        )  # fmt: skip
    read = Tensors()
    if version == "2.0.0":
        for item in _list(data, "encodings", where):
            name = _text(item, "name", where)
            # A file of this version does not tell parameters from activations: the graph will.
            _keep(read, read.activations, name, _read_plain(name, item, where))
        read.parameters = dict(read.activations)
        return read
    for key, into in (("activation_encodings", read.activations), ("param_encodings", read.parameters)):
        if version == "1.0.0":
            for item in _list(data, key, where):
                name = _text(item, "name", where)
                _keep(read, into, name, _read_offsets(name, item, where))
        else:
            tensors = data.get(key, {})
            if not isinstance(tensors, Mapping):
                raise PorterError("PT481", f"{key} is not an object", where)
            for name, rows in tensors.items():
                _keep(read, into, name, _read_pairs(name, rows, where))
    return read


def _keep(read: Tensors, into: dict[str, Encoding], name: str, found: Encoding | str) -> None:
    if isinstance(found, str):
        read.left_out[name] = found
    else:
        into[name] = found


def _wrong(name: str, key: str, what: str, where: str | None) -> PorterError:
    return PorterError("PT481", f"{name}: {key} {what}", where)


def _list(data: Mapping[str, Any], key: str, where: str | None) -> list[Mapping[str, Any]]:
    items = data.get(key, [])
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise PorterError("PT481", f"{key} is not a list of objects", where)
    return items


def _text(item: Mapping[str, Any], key: str, where: str | None) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise _wrong(str(item.get("name", "an encoding")), key, "is not a text", where)
    return value


def _numbers(name: str, item: Mapping[str, Any], key: str, where: str | None, default: Any = None) -> list[float]:
    value = item.get(key, default)
    many = value if isinstance(value, list) else [value]
    if not many or not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in many):
        raise _wrong(name, key, "is not a finite number, or a list of them", where)
    return [float(n) for n in many]


def _integers(name: str, item: Mapping[str, Any], key: str, where: str | None, default: Any = None) -> list[int]:
    numbers = _numbers(name, item, key, where, default)
    if not all(n == int(n) for n in numbers):
        raise _wrong(name, key, "is not whole", where)
    return [int(n) for n in numbers]


def _made(
    name: str, dtype: Dtype, scales: Sequence[float], zeros: Sequence[int], axis: int | None, where: str | None
) -> Encoding:
    """The encoding of given scales and zero points, which are checked."""
    low, high = qrange(dtype)
    if min(scales) <= 0:
        raise _wrong(name, "scale", "is not above 0", where)
    if len(zeros) != len(scales):
        raise _wrong(name, "offset", f"has {len(zeros)} numbers for {len(scales)} scales", where)
    if not all(low <= zero <= high for zero in zeros):
        raise _wrong(name, "offset", f"puts the zero outside {dtype}", where)
    return Encoding(
        dtype=dtype,
        scale=tuple(scales),
        minimum=tuple((low - zero) * scale for scale, zero in zip(scales, zeros, strict=True)),
        maximum=tuple((high - zero) * scale for scale, zero in zip(scales, zeros, strict=True)),
        observer=OBSERVER,
        axis=axis,
        symmetric=not any(zeros) and not dtype.startswith("u"),
        zero_point=tuple(zeros),
    )


def _from_offsets(
    name: str, bits: int, symmetric: bool, scales: Sequence[float], offsets: Sequence[int], where: str | None,
    per_channel: bool,
) -> Encoding | str:  # fmt: skip
    """The encoding of AIMET's unsigned integers: signed where it is symmetric, else as they are."""
    wanted = f"{'int' if symmetric else 'uint'}{bits}"
    if wanted not in BITS:
        return wanted
    dtype = wanted
    zeros = [qrange(dtype)[0] - offset for offset in offsets]
    return _made(name, dtype, scales, zeros, 0 if per_channel else None, where)


def _read_offsets(name: str, item: Mapping[str, Any], where: str | None) -> Encoding | str:
    dtype, kind = item.get("dtype", "INT"), item.get("enc_type", "PER_TENSOR")
    if dtype != "INT":
        return str(dtype)
    if kind not in ("PER_TENSOR", "PER_CHANNEL"):
        return str(kind)
    bits, symmetric = _integers(name, item, "bw", where)[0], item.get("is_sym", False)
    if not isinstance(symmetric, bool):
        raise _wrong(name, "is_sym", "is not true or false", where)
    scales = _numbers(name, item, "scale", where)
    offsets = _integers(name, item, "offset", where, [-(1 << max(bits - 1, 0))] * len(scales))
    return _from_offsets(name, bits, symmetric, scales, offsets, where, kind == "PER_CHANNEL")


def _read_pairs(name: str, rows: Any, where: str | None) -> Encoding | str:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
        raise _wrong(name, "encodings", "are not a list of objects", where)
    dtype = rows[0].get("dtype", "int")
    if dtype != "int":
        return str(dtype)
    bits = _integers(name, rows[0], "bitwidth", where)[0]
    symmetric = str(rows[0].get("is_symmetric", "False")) == "True"
    scales = [_numbers(name, row, "scale", where)[0] for row in rows]
    offsets = [_integers(name, row, "offset", where)[0] for row in rows]
    return _from_offsets(name, bits, symmetric, scales, offsets, where, len(rows) > 1)


def _read_plain(name: str, item: Mapping[str, Any], where: str | None) -> Encoding | str:
    dtype = _text(item, "output_dtype", where)
    if dtype not in BITS:
        return dtype
    if "block_size" in item:
        return "PER_BLOCK"
    scales = _numbers(name, item, "y_scale", where)
    zeros = _integers(name, item, "y_zero_point", where, [0] * len(scales))
    axis = _integers(name, item, "axis", where)[0] if "axis" in item else None
    return _made(name, dtype, scales, zeros, axis, where)
