# SPDX-License-Identifier: Apache-2.0
"""Asking a compiler about cases and about whole models, and keeping what it said, so that a run can go on later."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from porter.graph import Graph
from porter.ops import Array
from porter.target import Target, Verdict
from porter.toolchains import environment
from porter.toolchains.cases import Case, led, random_feeds
from porter.toolchains.session import Answer, Placement, Session

__all__ = ["Asker", "Said", "in_context", "placement_by", "verdict_of"]

#: Random inputs that an int8 compiler calibrates on.
_SAMPLES = 4
#: The opset of the models: one that every toolchain here reads.
OPSET = 13

_OF_SHAPES = frozenset({"shape", "size", "fill"})
_ORDER: tuple[Verdict, ...] = ("native", "unknown", "host", "unsupported")
_PLACES: dict[Verdict, str] = {"native": "accelerator", "host": "cpu", "unsupported": "refused", "unknown": "unknown"}


@dataclass(frozen=True, slots=True)
class Said:
    """What one model was to the compiler, and what it is made of: ``kinds`` are its ops as porter reads the file."""

    name: str
    answer: Answer
    kinds: tuple[str, ...]

    @property
    def placement(self) -> Placement:
        return self.answer.placement


def verdict_of(graph: Graph, target: Target) -> tuple[Verdict, list[str]]:
    """The worst verdict of a model's ops as they are, before any rewrite, and the reasons for it.

    Ops on constants alone, or on nothing but a shape that is known, are left out: every toolchain folds them.
    """
    constant: set[str] = set()
    worst: Verdict = "native"
    reasons: list[str] = []
    against = target.judge_model(graph.inputs, graph.outputs, getattr(graph, "opset", None))
    if against:
        worst, reasons = "unsupported", [str(reason) for reason in against]
    for op in graph.ops():
        known = op.kind in _OF_SHAPES and all(v.shape is not None for v in op.operands)
        if op.kind != "random" and (known or all(v.is_const or v.name in constant for v in op.operands)):
            constant.update(out.name for out in op.outputs)
            continue
        said = target.judge(op)
        reasons += [f"{op.kind}: {reason}" for reason in said.reasons]
        worst = max(worst, said.verdict, key=_ORDER.index)
    return worst, list(dict.fromkeys(reasons))


def placement_by(verdict: Verdict) -> str:
    """Where a verdict puts a model, in the compiler's words ("unknown" where porter does not say)."""
    return _PLACES[verdict]


def in_context(toolchain: str, case: Case) -> Case:
    """The case as the toolchain gets it: between convolutions where its adapter wants them."""
    adapter = environment.adapter(toolchain)
    return led(case, getattr(adapter, "LEAD", ()), getattr(adapter, "TRAIL", ()))


class Asker:
    """A toolchain that is asked, and the file that keeps the answers; use it as a context manager.

    A model that the file has an answer for, from the same versions of the toolchain, is not compiled again. The
    toolchain is started when the first model needs it.

    Args:
        toolchain: its name.
        target: the target's name, for the compiler's options.
        kept: the file (JSON lines); None keeps nothing.

    Raises:
        PorterError: PT780 to PT783.
    """

    def __init__(self, toolchain: str, target: str, kept: Path | None = None, limit: float = 120.0) -> None:
        self.toolchain, self.target, self.limit = toolchain, target, limit
        self.versions = environment.versions(toolchain)
        self._kept = kept
        self._answers: dict[str, Said] = {}
        self._session: Session | None = None
        if kept is not None and kept.exists():
            for line in kept.read_text(encoding="utf-8").splitlines():
                self._recall(line)

    def _recall(self, line: str) -> None:
        try:
            data = json.loads(line)
            if data["versions"] == self.versions:
                said = Said(data["name"], Answer.from_json(data["answer"]), tuple(data["kinds"]))
                self._answers[data["name"]] = said
        except (ValueError, KeyError, TypeError):
            return  # the line that an interrupted run was writing

    def __enter__(self) -> Asker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            self._session.close()

    def case(self, case: Case) -> Said:
        """Ask about a model of one op."""
        known = self._answers.get(case.name)
        if known is not None:
            return known
        from porter.dialects.onnx import OnnxGraph

        case = in_context(self.toolchain, case)
        graph = OnnxGraph.from_ops(case.ops, case.inputs, case.outputs, "porter", OPSET)
        return self.model(case.name, graph, [random_feeds(case, seed) for seed in range(_SAMPLES)])

    def model(
        self, name: str, graph: Graph, samples: Sequence[Mapping[str, Array]], *, simplify: bool = False,
        keep: Path | None = None,
    ) -> Said:  # fmt: skip
        """Ask about a model, under a name that no other has."""
        known = self._answers.get(name)
        if known is not None and keep is None:
            return known
        ordered = [{value.name: np.asarray(sample[value.name]) for value in graph.inputs} for sample in samples]
        outputs = graph.run([ordered[0][value.name] for value in graph.inputs])
        reference = {value.name: array for value, array in zip(graph.outputs, outputs, strict=True)}
        if self._session is None:
            self._session = Session(self.toolchain, self.target, self.limit)
        with tempfile.TemporaryDirectory(prefix="porter-") as folder:
            path = Path(folder) / "model.onnx"
            graph.save(path)
            answer = self._session.ask(path, ordered, reference, simplify=simplify, keep=keep)
        said = Said(name, answer, tuple(op.kind for op in graph.ops()))
        self._keep(said)
        return said

    def _keep(self, said: Said) -> None:
        self._answers[said.name] = said
        if self._kept is not None:
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            line: dict[str, Any] = {
                "name": said.name, "versions": self.versions, "kinds": said.kinds, "answer": said.answer.to_json(),
            }  # fmt: skip
            with self._kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
