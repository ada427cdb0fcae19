# SPDX-License-Identifier: Apache-2.0
"""A model run on data as its device would: in integers, fake-quantized, or in float, for a look or for a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from porter.errors import PorterError
from porter.findings import Finding
from porter.graph import Graph
from porter.ops import Array
from porter.quantize.scheme import Scheme
from porter.quantize.simulate import SimResult, Simulator

__all__ = ["Form", "Ran", "run"]

Form = Literal["int", "fake", "float"]


@dataclass(slots=True)
class Ran:
    """What :func:`run` did.

    Fields:
        model, target: names; the target is "" without one.
        form: "int", "fake" or "float".
        samples: how many runs.
        outputs: by name; of one run as they are, of several stacked along a new first axis.
        taps: other values by name, in the same way; quantized ones as integers.
        integer, floating: how many ops of each kind were computed exactly, and in float (empty for "float").
        findings: PT441 sums that an accumulator does not hold, PT442 rules of the device that are not certain.
    """

    model: str
    target: str
    form: Form
    samples: int
    outputs: dict[str, Array]
    taps: dict[str, Array]
    integer: Counter[str] = field(default_factory=Counter)
    floating: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def save(self, out: str | Path, *, overwrite: bool = False) -> Path:
        """Write outputs and taps as an ``.npz``, by name (``porter debug`` reads it).

        Raises:
            PorterError: PT510 to PT512 when it cannot be written.
        """
        from porter.files import atomic_file

        path = Path(out)
        with atomic_file(path, overwrite) as temporary, temporary.open("wb") as file:
            arrays: dict[str, Any] = {**self.taps, **self.outputs}
            np.savez(file, **arrays)
        return path

    def to_json(self) -> dict[str, Any]:
        """Everything but the numbers of the tensors."""
        return {
            "model": self.model,
            "target": self.target,
            "as": self.form,
            "samples": self.samples,
            "outputs": {
                name: {
                    "shape": list(array.shape),
                    "dtype": str(array.dtype),
                    "range": [float(array.min()), float(array.max())] if array.size else None,
                }
                for name, array in self.outputs.items()
            },
            "taps": list(self.taps),
            "integer": dict(self.integer),
            "float": dict(self.floating),
            "findings": [finding.to_json() for finding in self.findings],
        }


def run(
    graph: Graph,
    items: Iterable[Sequence[Array]],
    form: Form = "int",
    scheme: Scheme | None = None,
    taps: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> Ran:
    """Run a graph on every item.

    Args:
        graph: with ``quantize`` and ``dequantize`` ops, except for "float".
        form: "int" or "fake" (see :mod:`porter.quantize.simulate`), or "float": by the framework's own kernels, in
            which a quantize is one more float op.
        scheme: of the target; None for a QDQ ONNX by its own rules.
        taps: names or patterns of values that are wanted as well.
        progress: called with a short text before each run.

    Raises:
        PorterError: PT440 when nothing in the graph is quantized, PT506 for an input that does not fit or a tap that
            matches no value, PT519 for another form.
    """
    if form not in get_args(Form):
        raise PorterError("PT519", f"there is no form {form!r}", fix=f"Choose one of {', '.join(get_args(Form))}.")
    ops = graph.ops()
    if form != "float" and not any(op.kind == "dequantize" for op in ops):
        raise PorterError(
            "PT440", f"nothing in {graph.source} is quantized",
            fix="Give the QDQ model that `porter quantize` writes, add --encodings FILE, or run it --as float.",
        )  # fmt: skip
    names = _matching(graph, taps)
    made = Ran(graph.source, "" if scheme is None else scheme.target, form, 0, {}, {})
    simulator = None if form == "float" else Simulator(graph, scheme, form, names)
    results: list[list[Array]] = []
    simulated: list[SimResult] = []
    for item in items:
        made.samples += 1
        if progress is not None:
            progress(f"run {made.samples}")
        if simulator is None:
            results.append(graph.run(item, names))
        else:
            result = simulator.run(item)
            results.append([*result.outputs, *(result.taps.pop(name) for name in names)])
            result.outputs.clear()
            simulated.append(result)
    arrays = [column[0] if len(column) == 1 else np.stack(column) for column in zip(*results, strict=True)]
    count = len(graph.outputs)
    made.outputs = dict(zip((v.name for v in graph.outputs), arrays[:count], strict=True))
    made.taps = dict(zip(names, arrays[count:], strict=True))
    if simulated:
        made.integer, made.floating = simulated[0].integer, simulated[0].floating
        made.findings = _findings(graph, simulated)
    return made


def _matching(graph: Graph, patterns: Sequence[str]) -> list[str]:
    """The values that ops compute and that match, in order; the outputs come anyway."""
    outputs = {v.name for v in graph.outputs}
    names = [out.name for op in graph.ops() for out in op.outputs]
    found: dict[str, None] = {}
    for pattern in patterns:
        hits = [name for name in names if name == pattern or fnmatchcase(name, pattern)]
        if not hits:
            raise PorterError("PT506", f"no value of the model matches {pattern!r}", graph.source)
        found.update(dict.fromkeys(hits))
    return [name for name in found if name not in outputs]


def _findings(graph: Graph, results: Sequence[SimResult]) -> list[Finding]:
    """What the runs have met, each thing once: the last run says how often for its own part."""
    overflows: Counter[str] = Counter()
    uncertain: dict[str, str] = {}
    for result in results:
        overflows.update(result.overflows)
        uncertain.update(result.uncertain)
    by_name: Mapping[str, Any] = {op.name: op for op in graph.ops()}
    findings = []
    for name, count in overflows.most_common():
        op = by_name[name]
        findings.append(
            Finding("PT441", "warning", f"{count} sums of {op.kind} {name} do not fit the accumulator", op.origin,
                    "Quantize the layer to int8, or its weight to int8 and its input to int16.", name, op.kind)
        )  # fmt: skip
    findings += [Finding("PT442", "note", text) for text in uncertain.values()]
    return findings
