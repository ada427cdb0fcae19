# SPDX-License-Identifier: Apache-2.0
"""The integer network: what training ends in, run by porter's own integer simulator."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from porter.dialects.fx import FxGraph
from porter.errors import PorterError
from porter.files import atomic_dir, input_file
from porter.findings import Finding
from porter.ops import Array
from porter.quantize.encodings import Encodings
from porter.quantize.insert import insert
from porter.quantize.scheme import Scheme
from porter.quantize.simulate import Mode, Simulator
from porter.target import Target
from porter.train.qat.network import QatNetwork

__all__ = ["IntNetwork", "Output", "to_integers"]

_FORMAT = "porter-integers"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Output:
    """How one output leaves the integer network.

    Fields:
        dtype: of the integers; None where it leaves as a float, or as the accumulator times its step.
        scale, zero_point: ``real = (integer - zero_point) * scale``; 1.0 and 0 without integers.
        dequantized: whether :class:`IntNetwork` gives real numbers (float32), else the integers.
    """

    name: str
    dtype: str | None
    scale: float
    zero_point: int
    dequantized: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def real(self, array: Array) -> Array:
        """The real numbers, float32, of what the network gave."""
        if self.dequantized:
            return np.asarray(array, np.float32)
        return (array.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


@dataclass(slots=True)
class IntNetwork:
    """A quantized model on its target.

    Fields:
        graph: the float model, legal, with one sample (N = 1), batch norms absorbed.
        encodings: of it.
        outputs: in the order of the model.
        findings: what conversion had to say.
        overflows: for the name of an op, how many of its sums did not fit the accumulator in all runs so far.
        uncertain: for each rule that runs depended on and that is not certain of the target, a sentence.
    """

    graph: FxGraph
    encodings: Encodings
    target: Target
    outputs: tuple[Output, ...]
    findings: list[Finding] = field(default_factory=list)
    overflows: Counter[str] = field(default_factory=Counter)
    uncertain: dict[str, str] = field(default_factory=dict)
    _simulated: FxGraph | None = None
    _simulators: dict[str, Simulator] = field(default_factory=dict)

    @property
    def scheme(self) -> Scheme:
        return Scheme.of(self.target)

    @property
    def simulated(self) -> FxGraph:
        """The graph with ``quantize`` and ``dequantize`` ops; outputs that leave as integers end before the latter."""
        if self._simulated is None:
            self._simulated = _ends(cast(FxGraph, insert(self.graph, self.encodings)), self.outputs)
        return self._simulated

    def __call__(self, *inputs: Any, mode: Mode = "int") -> tuple[Array, ...]:
        """The outputs on a batch of any size, each sample on its own, as on the device.

        Args:
            inputs: float32 arrays or tensors, [N, ...].
            mode: "int", or "fake"; see :mod:`porter.quantize.simulate`.

        Returns:
            For each output float32, or its integers where ``dequantized`` is False.

        Raises:
            PorterError: PT506 for inputs that do not fit.
        """
        arrays = [_array(x) for x in inputs]
        if mode not in self._simulators:
            self._simulators[mode] = Simulator(self.simulated, self.scheme, mode)
        runs = []
        for index in range(arrays[0].shape[0] if arrays and arrays[0].ndim else 1):
            result = self._simulators[mode].run([x[index : index + 1] if x.ndim else x for x in arrays])
            self.overflows.update(result.overflows)
            self.uncertain.update(result.uncertain)
            runs.append(result.outputs)
        return tuple(column[0] if len(column) == 1 else np.concatenate(column) for column in zip(*runs, strict=True))

    def real(self, outputs: Sequence[Array]) -> tuple[Array, ...]:
        """What :meth:`__call__` gave as real numbers, float32."""
        return tuple(output.real(array) for output, array in zip(self.outputs, outputs, strict=True))

    # -- files -----------------------------------------------------------------------------------------------------

    def save(self, out: str | Path, *, overwrite: bool = False) -> Path:
        """Write a folder that :meth:`load` reads: ``model.pt2`` (the float model), ``encodings.json``,
        ``integers.json``.

        Raises:
            PorterError: PT510 to PT512 when it cannot be written; nothing is left behind then.
        """
        path = Path(out)
        with atomic_dir(path, overwrite) as folder:
            self.graph.save(folder / "model.pt2")
            self.encodings.save(folder / "encodings.json")
            (folder / "integers.json").write_text(json.dumps(self._record(), indent=1) + "\n", encoding="utf-8")
        return path

    def _record(self) -> dict[str, Any]:
        outputs = [output.to_json() for output in self.outputs]
        return {"format": _FORMAT, "version": _VERSION, "target": self.target.name, "outputs": outputs}

    @classmethod
    def load(cls, folder: str | Path, target: Target | None = None) -> IntNetwork:
        """Read what :meth:`save` wrote. Nothing in the files is executed.

        Args:
            target: where it is no target of porter's own, by whose name the files know it.

        Raises:
            PorterError: PT501 no such file; PT736 no such folder of porter's, or of another target; PT412, PT413, PT502
                to PT504 for damaged files.
        """
        where = Path(folder)
        try:
            record = json.loads(input_file(where / "integers.json").read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise _damaged(where, str(error)) from error
        if not isinstance(record, Mapping) or (record.get("format"), record.get("version")) != (_FORMAT, _VERSION):
            raise _damaged(where, f"it is no {_FORMAT} of version {_VERSION}")
        try:
            outputs = tuple(_output(item) for item in record["outputs"])
            name = str(record["target"])
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(where, f"{type(error).__name__} {error}") from error
        if target is not None and target.name != name:
            raise PorterError("PT736", f"this is an integer network of {name}, not of {target.name}", str(where))
        encodings = Encodings.load(where / "encodings.json")
        graph = FxGraph.load(where / "model.pt2", source=encodings.model)
        encodings.check(graph)
        if [value.name for value in graph.outputs] != [output.name for output in outputs]:
            raise _damaged(where, "its outputs are not those of the model")
        return cls(graph, encodings, Target.load(name) if target is None else target, outputs)

    def emit(
        self, out: str | Path, *, opset: int | None = None, formats: Sequence[str] = ("onnx", "qdq", "traced"),
        inputs: Sequence[Any] = (), overwrite: bool = False, beside: Callable[[Path], None] | None = None,
    ) -> Path:  # fmt: skip
        """Write the folder that goes to the device's toolchain; see :func:`porter.train.qat.emission.emit`."""
        from porter.train.qat.emission import emit

        return emit(self, Path(out), opset, formats, inputs, overwrite, beside)


def to_integers(network: QatNetwork) -> IntNetwork:
    """The integer network of a trained or calibrated QAT network.

    Raises:
        PorterError: PT730 or PT732 when a scale is not known or not sound; PT407 when a weight is not finite.
    """
    graph = network.graph()
    encodings = network.encodings(graph)
    findings, outputs = network.findings, []
    for value in graph.outputs:
        name, dtype = value.name, network.leaves[value.name]
        dequantized = network.rules[name].dequant_output
        encoding = encodings.activations.get(name) if dtype is not None and encodings.flow == "tensors" else None
        if encoding is None:
            if not dequantized:
                findings.append(
                    Finding("PT743", "note", f"the output {name} leaves as real numbers: it has no integers of its own",
                            fix="Take int8_output or int16_output, or dequantize it on the device.")
                )  # fmt: skip
            outputs.append(Output(name, None, 1.0, 0, True))
        else:
            outputs.append(Output(name, encoding.dtype, encoding.scale[0], encoding.zero_point[0], dequantized))
    return IntNetwork(graph, encodings, network.target, tuple(outputs), findings)


def _ends(graph: FxGraph, outputs: Sequence[Output]) -> FxGraph:
    """The graph ending at integers where an output leaves as such; outputs keep their names."""
    if all(output.dequantized for output in outputs):
        return graph
    producers = graph.producers()
    names = []
    for output in outputs:
        op = producers[output.name]
        while op.kind == "identity":
            op = producers[op.operands[0].name]
        integers = op.inputs[0] if op.kind == "dequantize" else None
        names.append(output.name if output.dequantized or integers is None else integers.name)
    ended = graph.with_outputs(names)
    for output, node in zip(outputs, next(reversed(ended.graph.nodes)).args[0], strict=True):
        node.meta["porter_value"] = output.name
    ended.replace([])
    return ended


def _array(x: Any) -> Array:
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def _output(item: Any) -> Output:
    dtype = item["dtype"]
    if dtype not in (None, "int8", "uint8", "int16", "uint16") or not isinstance(item["dequantized"], bool):
        raise ValueError(f"an output is {item}")
    return Output(str(item["name"]), dtype, float(item["scale"]), int(item["zero_point"]), item["dequantized"])


def _damaged(where: Path, why: str) -> PorterError:
    return PorterError("PT736", f"the integer network cannot be read: {why}", str(where), "Make it again.")
