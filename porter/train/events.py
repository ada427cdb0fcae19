# SPDX-License-Identifier: Apache-2.0
"""What a stage tells while it runs, and what it has to say at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from porter.findings import Finding
from porter.train.config import Stage

__all__ = ["Epoch", "Events", "StageResult"]


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch: ``losses`` are means over its steps, ``metrics`` those of its validation (None: not validated)."""

    number: int
    losses: Mapping[str, float]
    learning_rate: float
    seconds: float
    metrics: Mapping[str, float] | None = None
    best: bool = False

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Epoch:
        return cls(**data)


def _nothing(*_: Any) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Events:
    """Whom to tell: ``step(what, done, total)`` at every step, ``epoch(epoch, of)`` after each, ``note(text)``."""

    step: Callable[[str, int, int], None] = _nothing
    epoch: Callable[[Epoch, int], None] = _nothing
    note: Callable[[str], None] = _nothing


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a stage has made.

    epochs: all that led to it, those of earlier runs included (none for calibration and int_infer).
    metrics: of the best checkpoint, by the stage's own validation; None where nothing was validated.
    written: the files and folders, the one that the next stage begins from first.
    resumed: the epochs that an earlier run had done.
    """

    stage: Stage
    task_name: str
    target: str
    epochs: tuple[Epoch, ...]
    metrics: Mapping[str, float] | None
    monitor: str | None
    written: tuple[Path, ...]
    seconds: float
    resumed: int = 0
    findings: tuple[Finding, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Nothing that was found is an error."""
        return not any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "task_name": self.task_name,
            "target": self.target,
            "metrics": None if self.metrics is None else dict(self.metrics),
            "monitor": self.monitor,
            "resumed": self.resumed,
            "seconds": self.seconds,
            "epochs": [epoch.to_json() for epoch in self.epochs],
            "written": [str(path) for path in self.written],
            "findings": [finding.to_json() for finding in self.findings],
        }
