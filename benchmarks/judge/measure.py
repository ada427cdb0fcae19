# SPDX-License-Identifier: Apache-2.0
"""One target before its judge: every model of the corpus, what porter says of it and what the compiler does with it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from porter import api
from porter.dialects.onnx import OnnxGraph
from porter.errors import PorterError
from porter.graph import Graph
from porter.loading import load
from porter.ops import Array
from porter.partition import partition
from porter.target import Target
from porter.toolchains import environment
from porter.toolchains.ask import OPSET, Asker, Said, in_context, placement_by, verdict_of
from porter.toolchains.cases import Case, base_case, cases, combinations, random_feeds
from porter.toolchains.catalogue import SPECS

__all__ = ["Row", "depth", "judge"]

#: The cases that the descriptors were corrected by, and those that were not looked at then, for each kind.
SEEN, HELD_OUT = (4, 0), (3, 1)
SAMPLES = 4
#: tpu-mlir takes ten seconds a model: of most kinds it gets the ordinary op alone.
SLOW = frozenset({"bm1684x"})
VARIED = frozenset(
    {"conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "resize", "slice", "matmul", "cat", "pad", "cast"}
)


@dataclass
class Row:
    """A model before the judge.

    ``group`` is "op", "held out" (ops with two properties varied, not used to write descriptors) or "model". ``porter``
    and ``compiler`` are placements. ``after`` is the compiler's placement of what ``porter rewrite`` makes of a model
    that the compiler does not put on the accelerator as a whole; "not legal" where porter cannot, "" where it need not.
    ``approximate``: it needed ``--allow approximate``. ``documented``: porter refuses it by a limit of the vendor's
    manual that this compiler does not check. ``segments`` are the accelerator's after ``porter rewrite --partition`` of
    a whole model that does not come to the accelerator as one, ``segments_run`` those that the compiler takes (with
    ops on its CPU, where it has one), ``share`` their share of the multiply-accumulates, ``segment_said`` what it has
    against the first that it does not take, or not as a whole.
    """

    name: str
    group: str
    porter: str
    compiler: str
    reasons: list[str] = field(default_factory=list)
    said: str = ""
    cosine: float | None = None
    column: float | None = None
    dead: int = 0
    after: str = ""
    after_said: str = ""
    after_cosine: float | None = None
    documented: bool = False
    approximate: bool = False
    segments: int = 0
    segments_run: int = 0
    share: float | None = None
    segment_said: str = ""

    @property
    def agrees(self) -> bool:
        """What computes something else counts as refused."""
        return self.porter == ("refused" if self.compiler == "wrong" else self.compiler)


def judge(target: Target, kept: Path, models: dict[str, Path], say: Callable[[str], None], *,
          rewrite: str, kinds: list[str]) -> list[Row]:  # fmt: skip
    """Every row of a target; ``rewrite`` is "all", "models" (not those of one op) or "none"."""
    toolchain = environment.for_target(target.name)
    assert toolchain is not None
    rows = []
    with Asker(toolchain, target.name, kept) as asker:
        for group, case in _cases(target.name, kinds):
            say(f"{target.name}: {case.name}")
            said = asker.case(case)
            shown = in_context(toolchain, case)
            graph = OnnxGraph.from_ops(shown.ops, shown.inputs, shown.outputs, "porter", OPSET)
            row = _row(case.name, group, graph, target, said)
            rows.append(row)
            if rewrite == "all":
                feeds = [random_feeds(shown, seed) for seed in range(SAMPLES)]
                _rewritten(row, graph, feeds, target, asker)
        for name, path in models.items():
            say(f"{target.name}: {name}")
            rows.append(_model(name, path, target, asker, rewrite != "none"))
    return rows


def depth(target: str, kind: str) -> int:
    """How much of a kind is varied before a target's judge, as :func:`porter.probe.measure` counts it."""
    if target not in SLOW:
        return 2
    return int(kind in VARIED)


def _cases(target: str, kinds: list[str]) -> Iterator[tuple[str, Case]]:
    for kind in kinds:
        spec, deep = SPECS[kind], depth(target, kind)
        if not deep:
            yield "op", base_case(spec)
            continue
        names = set()
        for case in (*cases(spec), *(combinations(spec, *SEEN) if deep > 1 else ())):
            names.add(case.name)
            yield "op", case
        for case in combinations(spec, *HELD_OUT):
            if case.name not in names:
                yield "held out", case


def _row(name: str, group: str, graph: Graph, target: Target, said: Said) -> Row:
    verdict, reasons = verdict_of(graph, target)
    answer = said.answer
    told = answer.message or "; ".join(answer.reasons[:2])
    judge = environment.adapter(environment.for_target(target.name) or "")
    documented = (
        not getattr(judge, "PROVES", True)
        and (verdict, answer.placement) == ("unsupported", "accelerator")
        and any(reason.endswith("certain]") for reason in reasons)
    )
    return Row(name, group, placement_by(verdict), answer.placement, reasons[:3], told, answer.cosine, answer.column,
               answer.dead, documented=documented)  # fmt: skip


def _model(name: str, path: Path, target: Target, asker: Asker, rewrite: bool) -> Row:
    graph = load(str(path), _static(path))
    rng = np.random.default_rng(0)
    feeds: list[dict[str, Array]] = [
        {v.name: rng.random(v.shape or ()).astype(v.dtype or "float32") for v in graph.inputs} for _ in range(SAMPLES)
    ]
    said = asker.model(_unique(name, graph), graph, feeds, simplify=True)
    row = _row(name, "model", graph, target, said)
    if rewrite:
        _rewritten(row, graph, feeds, target, asker)
        if row.after not in ("", "accelerator"):
            _partitioned(row, graph, feeds, target, asker)
    return row


def _static(path: Path) -> dict[str, tuple[int, ...]] | None:
    """Shapes for inputs whose file leaves an axis open."""
    import onnx

    found = {}
    for value in onnx.load(path, load_external_data=False).graph.input:
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if not all(dims):
            found[value.name] = tuple(size or 1 for size in dims)
    return found or None


def _unique(name: str, graph: Graph) -> str:
    """A name for what the compiler gets: the model's, with a hash of the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        graph.save(path)
        return f"{name} #{hashlib.sha256(path.read_bytes()).hexdigest()[:10]}"


def _rewritten(row: Row, graph: Graph, feeds: list[dict[str, Array]], target: Target, asker: Asker) -> None:
    """Ask again about what ``porter rewrite`` makes of a model that the compiler does not take as it is."""
    if row.compiler == "accelerator":
        return
    for allow in ((), ("approximate",)):
        try:
            made = api.rewrite(graph, target, samples=1, allow=allow)
        except PorterError as error:
            row.after, row.after_said = "not legal", error.message
            return
        left = sorted({op.kind for op in made.report.ops if op.verdict not in ("native", "fold")})
        equal = made.evidence is None or made.evidence.ok
        if not left and equal:
            said = asker.model(_unique(f"{row.name} rewritten", made.graph), made.graph, feeds)
            row.after, row.after_said, row.after_cosine = said.placement, said.answer.message, said.answer.cosine
            row.approximate = bool(allow)
            return
        if not allow:
            row.after, row.after_said = "not legal", f"left: {', '.join(left)}" if left else "not equal"


def _partitioned(row: Row, graph: Graph, feeds: list[dict[str, Array]], target: Target, asker: Asker) -> None:
    """Ask about each accelerator segment of what ``porter rewrite --partition`` makes of a model."""
    try:
        made = partition(graph, target, samples=1)
    except PorterError as error:
        row.segment_said = error.message
        return
    known = [dict(sample) for sample in feeds]
    macs = 0
    for segment in made.split.segments:
        names = [value.name for value in segment.graph.inputs]
        given = [{name: sample[name] for name in names} for sample in known]
        for sample, one in zip(known, given, strict=True):
            sample.update(
                zip((v.name for v in segment.graph.outputs), segment.graph.run(list(one.values())), strict=True)
            )
        if segment.device != "accelerator":
            continue
        said = asker.model(_unique(f"{row.name} segment", segment.graph), segment.graph, given)
        row.segments += 1
        # Where the toolchain has a CPU, --partition leaves what runs there in the segment.
        if said.placement == "accelerator" or (said.placement == "cpu" and target.runtime.fallback == "host"):
            row.segments_run += 1
            macs += segment.macs
        if said.placement != "accelerator":
            row.segment_said = row.segment_said or said.answer.message or "; ".join(said.answer.reasons[:1])
    total = sum(segment.macs for segment in made.split.segments)
    row.share = macs / total if total else None
