# SPDX-License-Identifier: Apache-2.0
"""What a run covered, as Markdown: outcomes, operators, rules, targets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from porter.registry import rules

from .case import Outcome
from .runner import Case

__all__ = ["Tally"]

_WORDS = {
    "same": "the same function, as a whole and in each part",
    "amplified": "each part within its bound; as a whole a comparison, a rank or a NaN turned a rounding into another "
    "value (porter's proof says NOT equal where it meets one)",
    "overpromised": "the same function; check said that a restricted target can run all of it, and it cannot",
    "skipped": "onnxruntime does not run the original",
    "mismatch": "another function",
    "crash": "no answer, or an error where there is none",
}


@dataclass(slots=True)
class Tally:
    """Counts over the cases of a run."""

    status: Counter[str] = field(default_factory=Counter)
    models: set[int] = field(default_factory=set)
    torch: set[int] = field(default_factory=set)
    operators: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    fired: Counter[str] = field(default_factory=Counter)
    verdicts: dict[str, Counter[str]] = field(default_factory=dict)
    compared: int = 0

    def add(self, case: Case, outcome: Outcome) -> None:
        self.status[outcome.status] += 1
        self.models.add(case.number)
        if case.dialect == "torch":
            self.torch.add(case.number)
        restricted = case.target.startswith("without:")
        if not restricted:
            self.operators.update(outcome.operators if case.dialect == "onnx" else ())
            self.kinds.update(outcome.kinds)
        self.fired.update(outcome.rules)
        self.compared += outcome.compared
        if outcome.verdict:
            row = self.verdicts.setdefault("restricted targets" if restricted else case.target, Counter())
            row[outcome.verdict] += 1

    @property
    def silent(self) -> list[str]:
        """The rules that never fired."""
        return [name for name in rules() if name not in self.fired]

    def markdown(self) -> str:
        """The tables."""
        lines = ["| outcome | cases | |", "|---|---|---|"]
        lines += [f"| {name} | {self.status[name]} | {text} |" for name, text in _WORDS.items()]
        known = rules()
        fired = len(known) - len(self.silent)
        lines += [
            "",
            f"{len(self.models)} models ({len(self.models) - len(self.torch)} ONNX, {len(self.torch)} torch) of "
            f"{len(self.operators)} ONNX operators and {len(self.kinds)} kinds of porter's vocabulary; "
            f"{self.compared} comparisons; {fired} of {len(known)} rules fired, {sum(self.fired.values())} times.",
            "",
        ]
        names = sorted({verdict for row in self.verdicts.values() for verdict in row})
        lines += [f"| target | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for target, row in sorted(self.verdicts.items()):
            lines.append(f"| {target} | {' | '.join(str(row[name]) for name in names)} |")
        rare = [name for name in known if 0 < self.fired[name] < 3]
        lines += [
            "",
            f"Rules that fired once or twice: {_listed(rare)}.",
            "",
            f"Rules that never fired: {_listed(self.silent)}.",
            "",
            f"Operators: {', '.join(f'{name} {count}' for name, count in self.operators.most_common())}.",
        ]
        return "\n".join(lines)


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
