# SPDX-License-Identifier: Apache-2.0
"""``porter.partition``: rewrite what can be rewritten, split off the rest, prove the whole, write it."""

from __future__ import annotations

import dataclasses
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
    (None: none). ``evidence`` compares the segments in a row with the original; where they are not equal, ``parts``
    compares each segment by itself (see :func:`porter.partition.split.prove_parts`). ``numpy_evidence`` is the same of
    the numpy forms (None where there are none, or no proof was asked for).
    """

    rewritten: Rewritten
    split: Split
    cut: Cut | None
    evidence: Evidence | None
    numpy_evidence: Evidence | None
    parts: Evidence | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Every segment of the accelerator is legal, and the pipeline was proved equal where a proof was asked for: in
        a row, or part by part."""
        proved = self.evidence is None or self.evidence.ok or (self.parts is not None and self.parts.ok)
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
        if self.evidence.ok or self.parts is None:
            return _said(self.evidence)
        return f"each segment by itself: {_said(self.parts)}"

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
            "parts": self.parts.to_json() if self.parts is not None else None,
        }

    def save(self, out: str | Path, *, overwrite: bool = False) -> Path:
        """Write the folder: each segment, ``pipeline.json``, ``run_pipeline.py``, ledger, report and evidence.

        Raises:
            PorterError: PT510 to PT512 when it cannot be written; nothing is left behind then.
        """
        from porter.files import atomic_dir

        path = Path(out)
        with atomic_dir(path, overwrite) as folder:
            self.write(folder)
        return path

    def write(self, folder: Path) -> None:
        """The files of :meth:`save`, into a folder that is there."""
        from porter.emit.numpy_code import save_constants
        from porter.report.json import to_json
        from porter.save import save_graph

        manifest = self.manifest()
        ledger = self.rewritten.ledger
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
    from porter.api import _samples, comparable, rewrite
    from porter.loading import load

    if verify:
        comparable(data, samples)
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
    evidence = numpy_evidence = single = None
    findings = list(parts.notes)
    findings += _of_whole(made.report)
    if verify:
        say("proving the segments")
        evidence = prove(graph, parts, items, tolerance)
        findings += _empty(evidence)
        if not evidence.ok:
            say("proving each segment by itself")
            single = prove_parts(graph, parts, items, tolerance)
            if single is not None and single.ok:
                findings.append(_PARTS)
        if any(segment.numpy is not None for segment in parts.segments):
            say("proving the numpy code")
            parts, numpy_evidence, told = _numpy(graph, parts, items, tolerance)
            findings += told
    return Partitioned(made, parts, head, evidence, numpy_evidence, single, tuple(findings))


_PARTS = Finding(
    "PT758", "warning", "the outputs of the segments in a row differ, and every segment by itself gives what the model "
    "gives: a selection (a threshold, a rank, an overlap) turned a rounding into another choice",
    fix="Prove it on real data alone (--data, --samples 0), where scores are not all alike.",
)  # fmt: skip


def _numpy(
    graph: Graph, parts: Split, items: Sequence[Sequence[Any]], tolerance: float
) -> tuple[Split, Evidence | None, list[Finding]]:
    """The proof of the numpy forms: in a row, else one by one. A form that is not equal is left out."""
    try:
        row = prove(graph, parts, items, tolerance, numpy=True)
        single = None if row.ok else prove_parts(graph, parts, items, tolerance, numpy=True)
    except Exception as error:  # generated code: whatever it raises is told, and it is not written
        why = f"{type(error).__name__}: {error}"
    else:
        if row.ok or (single is not None and single.ok):
            return parts, row if row.ok else single, []
        why = f"{row.worst.name} differs by {row.worst.relative:.3g} of its range"
    names = ", ".join(segment.name for segment in parts.segments if segment.numpy is not None)
    left = tuple(
        dataclasses.replace(one, numpy=None, no_numpy=why) if one.numpy is not None else one for one in parts.segments
    )
    told = Finding(
        "PT759", "warning", f"the numpy form of {names} did not give what the model gives, and was left out: {why}",
        fix="Prove it on real data alone (--data, --samples 0): where scores are all alike, a rounding selects.",
    )  # fmt: skip
    return dataclasses.replace(parts, segments=left), None, [told]


def _of_whole(report: Report) -> list[Finding]:
    """What the target has against the model as a whole, and so against its parts; an opset is each part's own."""
    return [f for f in report.findings if f.severity == "error" and not f.kind and f.code != "PT205"]


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
    rewritten: bool = False,
) -> tuple[Outlook, Cut | None]:
    """Whether a model can become legal, and how; and the head cut to propose, if there is one.

    Args:
        report: of ``graph`` on ``target``.
        allow: claims that may be counted on beside exact and bounded.
        conflicts: as :func:`porter.partition.cut.propose` takes them.
        rewritten: the rules have done what they can.
    """
    from porter.legalize import legalize

    head = propose(graph, target, report, conflicts)
    refused = _of_whole(report)
    if refused:
        return Outlook("no", why=refused[0].message), head
    if report.portable:
        crossings, moved, host = host_crossings(graph, report) if report.own_host else (0, 0, 0)
        return Outlook("as is" if report.ok else "rewrite", host, crossings, moved), head
    if rewritten:
        work, after, late = graph, report, head
    else:
        work, _, _, after = legalize(graph, target, allow)
        if after.ok:  # the conversion to another opset wrote an op as others, which the plan does not foresee
            crossings, moved, host = host_crossings(work, after) if after.own_host else (0, 0, 0)
            return Outlook("rewrite", host, crossings, moved), head
        late = propose(work, target, after)
    many, crossings, moved, host = plan(work, target, after, late)
    if not many:
        if any(op.verdict == "unknown" for op in after.ops):
            return Outlook("unknown", host, why=f"of no op is it known that {target.name} runs it"), None
        return Outlook("no", host, why=f"{target.name} runs no op of it"), None
    if not report.taken:  # an opset that the whole cannot have: perhaps its parts can
        against = [f.message for f in split(work, target, after, late).notes if f.severity == "error"]
        if against:
            return Outlook("no", host, why=against[0]), None
    return Outlook("partition", host, crossings, moved), head
