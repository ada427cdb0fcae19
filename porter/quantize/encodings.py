# SPDX-License-Identifier: Apache-2.0
"""Encodings: the quantization parameters of every tensor, and the one file that carries them.

Calibration finds them once; simulation, reports and every writer read them. Weights are keyed by the path of
their layer (:func:`layer_paths`), activations by the name of their value.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from porter.errors import PorterError
from porter.files import input_file
from porter.graph import Graph
from porter.ops import Array, Value
from porter.paths import module_paths
from porter.quantize.numerics import (
    BITS,
    Dtype,
    Rounding,
    ScaleRule,
    absmax_of,
    asymmetric_of,
    fake_quantize,
    position_of,
    qrange,
    quantize,
    step_of,
)
from porter.target import BiasDtype, Flow

__all__ = ["SCHEMA_VERSION", "Encoding", "Encodings", "Layer", "layer_paths", "weight_digest"]

#: Version of the JSON form; it changes when a field changes its meaning or goes away.
SCHEMA_VERSION = "2.0"
_FORMAT = "porter-encodings"


@dataclass(frozen=True, slots=True)
class Encoding:
    """How one tensor is quantized: ``real = (q - zero_point) * scale``.

    Fields:
        dtype: of the stored integers.
        scale: the step: one, or one for each index along ``axis``.
        minimum, maximum: the real range that is represented, as many as ``scale``.
        observer: how the range was found ("min_max", "percentile(99.99)").
        axis: of per-channel parameters; None for one scale.
        zero_point: the integer of real 0; 0 when ``symmetric``.
        position: base-2 exponents of ``scale`` where the scale rule is power_of_two, else None.
    """

    dtype: Dtype
    scale: tuple[float, ...]
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    observer: str
    axis: int | None = None
    symmetric: bool = True
    zero_point: tuple[int, ...] = (0,)
    position: tuple[int, ...] | None = None

    @classmethod
    def from_range(
        cls,
        minimum: Array | float,
        maximum: Array | float,
        dtype: Dtype,
        observer: str,
        rule: ScaleRule = "absmax",
        axis: int | None = None,
    ) -> Encoding:
        """The symmetric encoding of a range, or of one range for each index along ``axis``."""
        low, high = (
            np.atleast_1d(np.asarray(minimum, np.float64)),
            np.atleast_1d(np.asarray(maximum, np.float64)),
        )
        absmax = absmax_of(low, high)
        return cls(
            dtype=dtype,
            scale=tuple(float(s) for s in step_of(absmax, dtype, rule)),
            minimum=tuple(map(float, low)),
            maximum=tuple(map(float, high)),
            observer=observer,
            axis=axis,
            zero_point=(0,) * len(absmax),
            position=tuple(position_of(float(a), dtype) for a in absmax) if rule == "power_of_two" else None,
        )

    @classmethod
    def asymmetric(
        cls,
        minimum: Array | float,
        maximum: Array | float,
        dtype: Dtype,
        observer: str,
        axis: int | None = None,
    ) -> Encoding:
        """The asymmetric encoding of a range, or of one range for each index along ``axis``; see
        :func:`porter.quantize.numerics.asymmetric_of`.
        """
        low, high = np.atleast_1d(np.asarray(minimum, np.float64)), np.atleast_1d(np.asarray(maximum, np.float64))
        pairs = [asymmetric_of(float(a), float(b), dtype) for a, b in zip(low, high, strict=True)]
        return cls(
            dtype=dtype,
            scale=tuple(float(step) for step, _ in pairs),
            minimum=tuple(map(float, low)),
            maximum=tuple(map(float, high)),
            observer=observer,
            axis=axis,
            symmetric=False,
            zero_point=tuple(zero for _, zero in pairs),
        )

    @property
    def absmax(self) -> tuple[float, ...]:
        """``max(maximum, -minimum)``, as many as ``scale``."""
        return tuple(float(a) for a in absmax_of(np.asarray(self.minimum), np.asarray(self.maximum)))

    @property
    def step(self) -> Array:
        """``scale`` as float32: of shape () without an axis, else 1-D."""
        array = np.asarray(self.scale, np.float32)
        return array.reshape(()) if self.axis is None else array

    @property
    def zeros(self) -> Array:
        """``zero_point`` in the encoding's dtype: of shape () without an axis, else 1-D."""
        array = np.asarray(self.zero_point, self.dtype)
        return array.reshape(()) if self.axis is None else array

    def quantize(self, x: Array, rounding: Rounding) -> Array:
        """The integers of ``x``."""
        return quantize(x, self.step, self.dtype, zero_point=self.zeros, axis=self.axis, rounding=rounding)

    def fake(self, x: Array, rounding: Rounding) -> Array:
        """``x`` quantized and dequantized, float32."""
        return fake_quantize(x, self.step, self.dtype, zero_point=self.zeros, axis=self.axis, rounding=rounding)

    def widened(self, other: Encoding) -> Encoding:
        """Of two per-tensor encodings, the one with the wider range."""
        return other if other.absmax[0] > self.absmax[0] else self


@dataclass(frozen=True, slots=True)
class Layer:
    """One module with quantized operands.

    Fields:
        kind: of its op (``conv2d``, ``linear``).
        inputs: names of the values that enter it, one for each call of the module.
        outputs: names of the values that leave it, in the same order.
        quantized: False where the device computes it in float although its parameters are stored (depthwise
            convolution on MLU270) or where the user skipped it.
        stored: its parameters go into the device's state dict.
        shape: of the weight.
        digest: of the weight's bytes (:func:`weight_digest`), so that encodings of another model are
            recognized.
        width: the name of the width that it is (or would be) quantized to; "" in files of schema 1.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    quantized: bool
    stored: bool
    shape: tuple[int, ...]
    digest: str
    width: str = ""


@dataclass(slots=True)
class Encodings:
    """All encodings of one model on one target.

    ``weights`` and ``layers`` (which says what meets where) are keyed by the path of a layer, ``activations`` by value
    name. With the flow "tensors" every value in ``activations`` is an integer on the device, constants among them;
    with "operands" only as the input of a quantized layer. ``operands`` are the encodings of layers that read their
    input in another dtype than ``activations`` gives it. ``dtype`` is the name of the width that was asked for ("auto"
    where layers differ), ``bias`` the dtype of biases ("int32": of step input step * weight step), ``samples`` the
    number of items that were observed. ``biases`` are the float biases of layers by path where they are other ones than
    the model's: bias correction took the mean error of each output channel out of them.
    """

    target: str
    model: str
    dtype: str
    rounding: Rounding
    samples: int
    layers: dict[str, Layer] = field(default_factory=dict)
    weights: dict[str, Encoding] = field(default_factory=dict)
    activations: dict[str, Encoding] = field(default_factory=dict)
    operands: dict[str, Encoding] = field(default_factory=dict)
    flow: Flow = "operands"
    bias: BiasDtype = "float32"
    biases: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def input_of(self, path: str) -> Encoding:
        """The encoding of a layer's input. One that is called several times has one: the widest of its inputs.

        (torch_mlu keeps one observer a module. With its ``iteration`` setting it would see only the first
        calls.)

        Raises ``KeyError`` for a layer that is not quantized and whose input is not either.
        """
        if path in self.operands:
            return self.operands[path]
        found = [self.activations[name] for name in self.layers[path].inputs]
        widest = found[0]
        for encoding in found[1:]:
            widest = widest.widened(encoding)
        return widest

    def check(self, graph: Graph) -> None:
        """See that these are the encodings of this very model.

        Raises:
            PorterError: PT413 that names the first layer which is missing, unknown, or has other weights.
        """
        paths = layer_paths(graph)
        ops = {paths[op.outputs[0].name]: op for op in graph.ops() if op.outputs[0].name in paths}

        def refuse(what: str) -> PorterError:
            return PorterError(
                "PT413",
                f"these encodings are not of {graph.source}: {what}",
                where=f"made for {self.model}",
                fix="Calibrate this model, or use the model that the encodings were made for.",
            )

        values = {v.name: v for v in graph.inputs}
        values |= {v.name: v for op in graph.ops() for v in (*op.outputs, *op.operands)}
        for path, layer in self.layers.items():
            op = ops.get(path)
            if op is None:
                raise refuse(f"it has no {layer.kind} {path}")
            weight = cast(Value, op.inputs[1])
            if (op.kind, weight.shape) != (layer.kind, layer.shape):
                raise refuse(f"{path} is {op.kind} with weight {weight.shape}, not {layer.kind} with {layer.shape}")
            if weight_digest(weight.numpy()) != layer.digest:
                raise refuse(f"{path} has other weights")
            missing = [name for name in layer.inputs if name not in values]
            if missing:
                raise refuse(f"it has no value {missing[0]}, which enters {path}")
        for name, encoding in self.activations.items():
            if name not in values:
                raise refuse(f"it has no value {name}")
            axis, shape = encoding.axis, values[name].shape or ()
            if axis is not None and (axis >= len(shape) or shape[axis] != len(encoding.scale)):
                raise refuse(f"{len(encoding.scale)} scales do not fit axis {axis} of {name}, of shape {shape}")
        kinds = {layer.kind for layer in self.layers.values()}
        for path, op in ops.items():
            if op.kind in kinds and path not in self.layers:
                raise refuse(f"they do not know its {op.kind} {path}")

    def to_json(self) -> dict[str, Any]:
        """The JSON form; floats survive the round trip exactly."""
        return {
            "format": _FORMAT,
            "schema_version": SCHEMA_VERSION,
            "target": self.target,
            "model": self.model,
            "dtype": self.dtype,
            "flow": self.flow,
            "bias": self.bias,
            "rounding": self.rounding,
            "samples": self.samples,
            "layers": {path: asdict(layer) for path, layer in self.layers.items()},
            "weights": {path: asdict(encoding) for path, encoding in self.weights.items()},
            "activations": {name: asdict(encoding) for name, encoding in self.activations.items()},
            "operands": {path: asdict(encoding) for path, encoding in self.operands.items()},
            "biases": {path: list(bias) for path, bias in self.biases.items()},
        }

    @classmethod
    def from_json(cls, data: Any, where: str | None = None) -> Encodings:
        """Read the JSON form, trusting nothing in it. Raises :class:`PorterError` PT412 that names the
        key.
        """
        read = _Reader(data, where)
        if data.get("format") != _FORMAT if isinstance(data, Mapping) else True:
            raise read.wrong("format", f"this is no file of encodings (format {_FORMAT})")
        version = read.text("schema_version")
        old = version.partition(".")[0] == "1"  # files of schema 1 know one flow, and one width for all layers
        if not old and version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
            raise read.wrong("schema_version", f"is {version}; this porter reads 1.0 to {SCHEMA_VERSION}")
        made = cls(
            target=read.text("target"),
            model=read.text("model"),
            dtype=read.choice("dtype", tuple(BITS)) if old else read.text("dtype"),
            flow="operands" if old else cast(Flow, read.choice("flow", get_args(Flow))),
            bias="float32" if old else cast(BiasDtype, read.choice("bias", get_args(BiasDtype))),
            rounding=cast(Rounding, read.choice("rounding", get_args(Rounding))),
            samples=read.integer("samples"),
            layers={path: _layer(item, old) for path, item in read.items("layers")},
            weights={path: _encoding(item) for path, item in read.items("weights")},
            activations={name: _encoding(item) for name, item in read.items("activations")},
            operands={} if old else {path: _encoding(item) for path, item in read.items("operands")},
            biases=read.lists("biases") if "biases" in data else {},
        )
        unknown = next((path for path in made.biases if path not in made.layers), None)
        if unknown is not None:
            raise read.wrong("biases", f"{unknown} is no layer")
        for path, encoding in made.operands.items():
            if path not in made.layers or encoding.axis is not None:
                raise read.wrong("operands", f"{path} is no layer, or has one scale for each index of an axis")
        for path, layer in made.layers.items():
            of_weight = made.weights.get(path)
            if of_weight is None and not layer.quantized and not layer.stored:
                continue
            if of_weight is None:
                raise read.wrong("weights", f"has no entry for the layer {path}")
            for name in layer.inputs:
                if name not in made.activations:
                    raise read.wrong("activations", f"has no entry for {name}, which enters {path}")
            axis = of_weight.axis
            if axis is not None and (axis >= len(layer.shape) or layer.shape[axis] != len(of_weight.scale)):
                raise read.wrong(
                    "weights", f"{path}: {len(of_weight.scale)} scales do not fit axis {axis} of {layer.shape}"
                )
        return made

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON file at ``path`` (a temporary name that the caller renames)."""
        Path(path).write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Encodings:
        """Read a JSON file. Raises :class:`PorterError`: PT501 no such file, PT412 not valid encodings."""
        try:
            data = json.loads(input_file(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise PorterError("PT412", f"the encodings cannot be read: {error}", where=str(path)) from error
        return cls.from_json(data, where=str(path))


def weight_digest(weight: Array) -> str:
    """SHA-256 of a weight's dtype, shape and bytes: 32 hexadecimal digits."""
    digest = hashlib.sha256(f"{weight.dtype}{weight.shape}".encode())
    digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()[:32]


def layer_paths(graph: Graph) -> dict[str, str]:
    """The path of every op with weights, by the name of its first output.

    It is the module path (:func:`porter.paths.module_paths`); a matrix product with a constant second operand, which no
    module has, goes by the name of its op.
    """
    paths = module_paths(graph)
    taken = set(paths.values())
    for op in graph.ops():
        weight = op.inputs[1] if op.kind in ("matmul", "gemm") else None
        if weight is not None and weight.is_const and not (op.inputs[0] is None or op.inputs[0].is_const):
            name = op.name or op.outputs[0].name
            path = name if name not in taken else op.outputs[0].name
            paths[op.outputs[0].name] = path
            taken.add(path)
    return paths


class _Reader:
    """Typed access to untrusted JSON; every error names the key."""

    def __init__(self, data: Any, where: str | None, prefix: str = "") -> None:
        self._data, self._where, self._prefix = data, where, prefix
        if not isinstance(data, Mapping):
            raise PorterError("PT412", f"{prefix or 'the file'} is not a JSON object", where=where)

    def wrong(self, key: str, what: str) -> PorterError:
        return PorterError("PT412", f"{self._prefix}{key}: {what}", where=self._where)

    def _get(self, key: str) -> Any:
        if key not in self._data:
            raise self.wrong(key, "is missing")
        return self._data[key]

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str):
            raise self.wrong(key, "must be a string")
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        value = self.text(key)
        if value not in choices:
            raise self.wrong(key, f"is {value!r}; it must be one of {', '.join(choices)}")
        return value

    def flag(self, key: str) -> bool:
        value = self._get(key)
        if not isinstance(value, bool):
            raise self.wrong(key, "must be true or false")
        return value

    def integer(self, key: str) -> int:
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.wrong(key, "must be an integer, 0 or more")
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        value = self._get(key)
        if not isinstance(value, list) or not all(
            isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in value
        ):
            raise self.wrong(key, "must be a list of finite numbers")
        return tuple(map(float, value))

    def lists(self, key: str) -> dict[str, tuple[float, ...]]:
        value = self._get(key)
        if not isinstance(value, Mapping):
            raise self.wrong(key, "must be an object")
        inner = _Reader(value, self._where, f"{self._prefix}{key}.")
        return {name: inner.numbers(name) for name in value}

    def integers(self, key: str) -> tuple[int, ...]:
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(v, int) and not isinstance(v, bool) for v in value):
            raise self.wrong(key, "must be a list of integers")
        return tuple(value)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.wrong(key, "must be a list of strings")
        return tuple(value)

    def has(self, key: str) -> bool:
        return self._get(key) is not None

    def items(self, key: str) -> list[tuple[str, _Reader]]:
        value = self._get(key)
        if not isinstance(value, Mapping):
            raise self.wrong(key, "must be an object")
        return [(name, _Reader(item, self._where, f"{self._prefix}{key}[{name!r}].")) for name, item in value.items()]


def _layer(read: _Reader, old: bool) -> Layer:
    layer = Layer(
        kind=read.text("kind"),
        inputs=read.texts("inputs"),
        outputs=read.texts("outputs"),
        quantized=read.flag("quantized"),
        stored=read.flag("stored"),
        shape=read.integers("shape"),
        digest=read.text("digest"),
        width="" if old else read.text("width"),
    )
    if not layer.inputs or len(layer.inputs) != len(layer.outputs):
        raise read.wrong("inputs", "there must be one for each of outputs, and at least one")
    return layer


def _encoding(read: _Reader) -> Encoding:
    made = Encoding(
        dtype=cast(Dtype, read.choice("dtype", tuple(BITS))),
        scale=read.numbers("scale"),
        minimum=read.numbers("minimum"),
        maximum=read.numbers("maximum"),
        observer=read.text("observer"),
        axis=read.integer("axis") if read.has("axis") else None,
        symmetric=read.flag("symmetric"),
        zero_point=read.integers("zero_point"),
        position=read.integers("position") if read.has("position") else None,
    )
    count = len(made.scale)
    if count == 0 or (made.axis is None and count != 1):
        raise read.wrong("scale", "there must be one, or one for each index along axis")
    if min(made.scale) <= 0:
        raise read.wrong("scale", "must be positive")
    for key, value in (("minimum", made.minimum), ("maximum", made.maximum), ("zero_point", made.zero_point)):
        if len(value) != count:
            raise read.wrong(key, f"has {len(value)} numbers, scale {count}")
    if made.position is not None and len(made.position) != count:
        raise read.wrong("position", f"has {len(made.position)} numbers, scale {count}")
    if any(low > high for low, high in zip(made.minimum, made.maximum, strict=True)):
        raise read.wrong("minimum", "is greater than maximum")
    low, high = qrange(made.dtype)
    if made.symmetric and made.dtype.startswith("u"):
        raise read.wrong("symmetric", f"cannot be with {made.dtype}, which has no negative numbers")
    if (made.symmetric and any(made.zero_point)) or not all(low <= z <= high for z in made.zero_point):
        raise read.wrong("zero_point", f"must be 0 when symmetric, and within {low}..{high}")
    return made
