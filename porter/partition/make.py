# SPDX-License-Identifier: Apache-2.0
"""``porter.partition``: rewrite what can be rewritten, split off the rest, prove the whole, write it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from porter.findings import Finding, Outlook, Report
from porter.graph import Graph
from porter.partition.cut import Cut, cut_at, propose
from porter.partition.split import Split, host_crossings, plan, prove, prove_parts, split
from porter.target import Target

if TYPE_CHECKING:
    from porter.api import Rewritten
    from porter.partition.run_pipeline import Pipeline
    from porter.verify import Evidence

__all__ = ["Partitioned", "outlook", "partition"]


@dataclass(frozen=True, slots=True)
class Partitioned:
    """What ``partition`` made.

    ``rewritten`` is the whole model after its rewrites; ``split`` its segments; ``cut`` the head cut that was made
    (None: none). ``evidence`` compares the segments in a row with the original, ``numpy_evidence`` those with the
    host's part as numpy code (None where it was not asked for, or no segment has that form). Where the rows are not
    equal, ``parts`` compares each segment by itself (see :func:`porter.partition.split.prove_parts`).
    """

    rewritten: Rewritten
    split: Split
    cut: Cut | None
    evidence: Evidence | None
    numpy_evidence: Evidence | None
    parts: tuple[Evidence, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Every segment of the accelerator is legal, and the pipeline was proved equal where a proof was asked for: in
        a row, or part by part."""
        rows = all(proof is None or proof.ok for proof in (self.evidence, self.numpy_evidence))
        proved = rows or (bool(self.parts) and all(proof.ok for proof in self.parts))
        return proved and not any(finding.severity == "error" for finding in self.findings)

    def pipeline(self) -> Pipeline:
        """The segments joined, in memory; runs on this machine."""
        return self.split.pipeline()

    def manifest(self) -> dict[str, Any]:
        """What ``pipeline.json`` says."""
        from porter.dialects.onnx import OnnxGraph

        report = self.rewritten.report
        made = self.split.manifest(report.target, report.model)
        for segment, entry in zip(self.split.segments, made["segments"], strict=True):
            kind = "onnx" if isinstance(segment.graph, OnnxGraph) else "pt2"
            entry["files"] = {kind: f"{segment.name}.{kind}"}
            if segment.numpy is not None:
                entry["files"]["numpy"] = f"{segment.name}.py"
        return {**made, "proof": self._proof()}

    def _proof(self) -> str:
        if self.evidence is None:
            return "not verified"
        if self.evidence.ok or not self.parts:
            return _said(self.evidence)
        return f"each segment by itself: {_said(self.parts[0])}"

    def to_json(self) -> dict[str, Any]:
        return {
            **self.manifest(),
            "ok": self.ok,
            "cut": list(self.cut.ends) if self.cut is not None else [],
            "costs": str(self.split.costs),
            "findings": [finding.to_json() for finding in self.findings],
            "ledger": self.rewritten.ledger.to_json(),
            "evidence": self.evidence.to_json() if self.evidence is not None else None,
            "numpy_evidence": self.numpy_evidence.to_json() if self.numpy_evidence is not None else None,
            "parts": [proof.to_json() for proof in self.parts],
        }

    def save(self, out: str | Path, *, overwrite: bool = False) -> Path:
        """Write the folder: each segment, ``pipeline.json``, ``run_pipeline.py``, ledger, report and evidence.

        Raises:
            PorterError: PT510 to PT512 when it cannot be written; nothing is left behind then.
        """
        from porter.emit.numpy_code import save_constants
        from porter.files import atomic_dir
        from porter.report.json import to_json
        from porter.save import save_graph

        path = Path(out)
        manifest = self.manifest()
        ledger = self.rewritten.ledger
        with atomic_dir(path, overwrite) as folder:
            for segment, entry in zip(self.split.segments, manifest["segments"], strict=True):
                for kind in entry["files"].keys() & {"onnx", "pt2"}:
                    save_graph(segment.graph, folder / entry["files"][kind], f".{kind}", ledger.to_json())
                if segment.numpy is not None:
                    source, constants = segment.numpy
                    (folder / f"{segment.name}.py").write_text(source, encoding="utf-8")
                    save_constants(folder / f"{segment.name}.npz", constants)
            (folder / "pipeline.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            glue = resources.files("porter.partition").joinpath("run_pipeline.py").read_text(encoding="utf-8")
            (folder / "run_pipeline.py").write_text(glue, encoding="utf-8")
            (folder / "ledger.json").write_text(to_json(ledger) + "\n", encoding="utf-8")
            (folder / "report.json").write_text(to_json(self.rewritten.report) + "\n", encoding="utf-8")
            if self.evidence is not None:
                (folder / "evidence.json").write_text(to_json(self.evidence) + "\n", encoding="utf-8")
        return path


def _said(evidence: Evidence) -> str:
    outcome = "equal" if evidence.ok else "NOT equal"
    return f"{outcome} within {evidence.tolerance:g} of each output's range on {evidence.inputs} inputs"


def partition(
    model: Any,
    target: Target | str | Path,
    inputs: Any = None,
    *,
    cut: str | Sequence[str] = "auto",
    allow: Collection[str] = (),
    apply: Sequence[str] = (),
    verify: bool = True,
    data: Any = None,
    samples: int = 3,
    seed: int = 0,
    tolerance: float = 1e-4,
    explain: bool = False,
    progress: Callable[[str], None] | None = None,
    **loading: Any,
) -> Partitioned:
    """Make as much of the model legal as rules can, and split off the rest for the host.

    Args:
        model, target, inputs, allow, apply, loading: as for :func:`porter.rewrite`.
        cut: "auto" ends the accelerator's part before the decoding of outputs, where something speaks for that;
            "none" does not; else the names of the values where it ends.
        verify, data, samples, seed, tolerance, explain, progress: as for :func:`porter.rewrite`.

    Raises:
        PorterError: PT752 when the accelerator would have nothing to do, PT753 for a cut that cannot be made; the
            model, the target, the data or an option is wrong.
    """
    from porter.api import _samples, rewrite
    from porter.loading import load

    say = progress or (lambda _text: None)
    chosen = target if isinstance(target, Target) else Target.load(target)
    graph = load(model, inputs, **loading)
    items = list(_samples(graph, data, samples, seed)) if verify else []
    # One input for the ledger's errors, all for the segments, which are what is written.
    made = rewrite(graph, chosen, allow=allow, apply=apply, verify=verify, data=items[:1] or None, samples=0,
                   tolerance=tolerance, explain=explain, progress=progress)  # fmt: skip
    work = made.graph
    head = _head(work, chosen, made.report, cut)
    say("dividing")
    parts = split(work, chosen, made.report, head)
    evidence = numpy_evidence = None
    findings = list(parts.notes)
    findings += [f for f in made.report.findings if f.severity == "error" and not f.kind]
    if verify:
        say("proving the segments")
        evidence = prove(graph, parts, items, tolerance)
        if any(segment.numpy is not None for segment in parts.segments):
            say("proving the numpy code")
            numpy_evidence = prove(graph, parts, items, tolerance, numpy=True)
        findings += _empty(evidence)
    single = _singly(graph, parts, items, tolerance, (evidence, numpy_evidence), say)
    if single and all(proof.ok for proof in single):
        findings.append(_PARTS)
    return Partitioned(made, parts, head, evidence, numpy_evidence, single, tuple(findings))


_PARTS = Finding(
    "PT758", "warning", "the outputs of the segments in a row differ, and every segment by itself gives what the model "
    "gives: a selection (a threshold, a rank, an overlap) turned a rounding into another choice",
    fix="Prove it on real data (--data), where scores are not all alike.",
)  # fmt: skip


def _singly(
    graph: Graph,
    parts: Split,
    items: Sequence[Sequence[Any]],
    tolerance: float,
    rows: Sequence[Evidence | None],
    say: Callable[[str], None],
) -> tuple[Evidence, ...]:
    """The proof part by part of the forms that are not equal in a row; empty where there is none."""
    found = []
    for numpy, row in enumerate(rows):
        if row is not None and not row.ok:
            say("proving each segment by itself")
            single = prove_parts(graph, parts, items, tolerance, numpy=bool(numpy))
            if single is None:
                return ()
            found.append(single)
    return tuple(found)


def _head(graph: Graph, target: Target, report: Report, cut: str | Sequence[str]) -> Cut | None:
    if isinstance(cut, str):
        cut = (cut,)
    if tuple(cut) == ("none",):
        return None
    if tuple(cut) == ("auto",):
        return propose(graph, target, report)
    return cut_at(graph, cut)


def _empty(evidence: Evidence) -> list[Finding]:
    empty = [error.name for error in evidence.outputs if error.count == 0]
    if not empty:
        return []
    return [
        Finding(
            "PT756", "warning", f"{', '.join(empty)} had no element on any input: nothing was compared there",
            fix="Prove it on real data (--data), on which the model finds something.",
        )
    ]  # fmt: skip


def outlook(
    graph: Graph,
    target: Target,
    report: Report,
    allow: Collection[Any] = (),
    conflicts: Sequence[Finding] | None = None,
) -> tuple[Outlook, Cut | None]:
    """Whether a model can become legal, and how; and the head cut to propose, if there is one.

    Args:
        report: of ``graph`` on ``target``.
        allow: claims that may be counted on beside exact and bounded.
        conflicts: as :func:`porter.partition.cut.propose` takes them.
    """
    from porter.legalize import legalize

    head = propose(graph, target, report, conflicts)
    if not report.taken:
        why = next(f.message for f in report.findings if f.severity == "error" and not f.kind)
        return Outlook("no", why=why), head
    if report.portable:
        crossings, moved, host = host_crossings(graph, report) if report.own_host else (0, 0, 0)
        return Outlook("as is" if report.ok else "rewrite", host, crossings, moved), head
    work, _, _, after = legalize(graph, target, allow)
    many, crossings, moved, host = plan(work, target, after, propose(work, target, after))
    if not many:
        return Outlook("no", host, why=f"{target.name} runs no op of it"), None
    return Outlook("partition", host, crossings, moved), head
