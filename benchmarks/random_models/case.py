# SPDX-License-Identifier: Apache-2.0
"""One model and one target: check, rewrite (or partition), and every way in which the result could be wrong."""

from __future__ import annotations

import importlib.util
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort

import porter
from porter.errors import PorterError
from porter.findings import Report
from porter.graph import Graph
from porter.legalize import LedgerEntry
from porter.target import Target
from porter.verify import DEFAULT_TOLERANCE, compare

from . import devices
from .compare import equal, regions, within_bound
from .program import Array, Program, Var, samples, to_onnx, to_torch_source

__all__ = ["HOWS", "Outcome", "judge", "module_of"]

How = Literal["rewrite", "partition", "quantize", "approximate", "retrain", "fold"]
#: What is done to a model, with how often: "approximate" and "retrain" allow such rules (after "retrain" nothing is
#: compared), "fold" asks for the optional ones; "quantize" holds the integers of what was rewritten against the
#: fake-quantized model, bit for bit.
HOWS: dict[How, float] = {
    "rewrite": 0.65, "partition": 0.12, "quantize": 0.1, "approximate": 0.04, "retrain": 0.03, "fold": 0.06,
}  # fmt: skip
_OPTIONAL = ("fold_batch_norm", "focus_to_conv", "merge_reshapes", "slice_before_cat")
#: "same": as a whole, and in each part. "amplified": in each part; as a whole a comparison or a rank turned a float
#: rounding into another choice. "overpromised": equal, but check said of a restricted target that it becomes legal,
#: and it does not. "skipped": onnxruntime does not run the original. The others are failures.
Status = Literal["same", "amplified", "overpromised", "skipped", "crash", "mismatch"]


@dataclass(slots=True)
class Outcome:
    """What came of a case. ``verdict``: legal, rewritten, left, or partitioned; ``detail``: what is wrong."""

    status: Status
    detail: str = ""
    verdict: str = ""
    rules: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    compared: int = 0
    bitwise: int = 0

    @property
    def failed(self) -> bool:
        return self.status in ("crash", "mismatch")


class _Wrong(Exception):
    """The result is not what it should be."""


def judge(program: Program, target: str, how: How, seed: int) -> Outcome:
    """Run one case; ``seed`` is that of the inputs that are compared on. Raises nothing."""
    outcome = Outcome("same")
    try:
        _judge(program, _target(target), how, seed, outcome)
    except _Wrong as wrong:
        outcome.status, outcome.detail = "mismatch", str(wrong)
    except PorterError as refused:
        outcome.status, outcome.detail = "crash", f"{refused.code} {refused.message}"
    except Exception as crash:
        place = traceback.extract_tb(crash.__traceback__)[-1]
        outcome.status = "crash"
        outcome.detail = f"{type(crash).__name__} at {Path(place.filename).name}:{place.lineno}: {crash}"[:400]
    return outcome


@cache
def _target(name: str) -> Target:
    return devices.target(name)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A program as porter loads it, what it is run on, and what its own framework makes of that."""

    program: Program
    seed: int
    graph: Graph
    feeds: list[list[Array]]
    wanted: list[list[Array]]
    close: float


#: The last program, which is judged for a second target next.
_LAST: list[_Loaded] = []


def _loaded(program: Program, seed: int, outcome: Outcome) -> _Loaded | None:
    if _LAST and _LAST[0].program == program and _LAST[0].seed == seed:
        return _LAST[0]
    _LAST.clear()
    feeds = samples(program, 2, seed)
    with tempfile.TemporaryDirectory() as folder:
        model, wanted = _original(program, feeds, Path(folder), outcome)
        if wanted is None:
            return None
        graph = porter.load(model, {v.name: (v.shape, v.dtype) for v in program.inputs})
    # porter writes some pools without ceil_mode: the same windows, which onnxruntime averages in another order.
    ceil = any(step.op == "AveragePool" and step.attrs.get("ceil_mode") for step in program.steps)
    close = DEFAULT_TOLERANCE if program.dialect == "torch" else 1e-6 if ceil else 0.0
    for feed, want in zip(feeds, wanted, strict=True):
        _hold("as loaded", program, want, graph.run(feed), close)
    _LAST.append(_Loaded(program, seed, graph, feeds, wanted, close))
    return _LAST[0]


def _judge(program: Program, target: Target, how: How, seed: int, outcome: Outcome) -> None:
    loaded = _loaded(program, seed, outcome)
    if loaded is None:
        return
    graph, feeds = loaded.graph, loaded.feeds
    outcome.kinds = tuple(sorted({op.kind for op in graph.ops()}))
    with tempfile.TemporaryDirectory() as folder:
        if how == "partition":
            _partition(program, graph, target, feeds, seed, Path(folder), outcome)
        else:
            _rewrite(loaded, target, how, Path(folder), outcome)


def _original(
    program: Program, feeds: Sequence[Sequence[Array]], folder: Path, outcome: Outcome
) -> tuple[Any, list[list[Array]] | None]:
    """The model, and what its own framework makes of the inputs; None where onnxruntime does not take it."""
    if program.dialect == "torch":
        import torch

        path = folder / "model.py"
        path.write_text(to_torch_source(program), encoding="utf-8")
        module = module_of(path).net()
        with torch.no_grad():
            results = [module(*(torch.from_numpy(a.copy()) for a in feed)) for feed in feeds]
        return module, [[t.numpy() for t in result] for result in results]
    model = to_onnx(program)
    try:
        return model, [_onnxruntime(model.SerializeToString(), program.inputs, feed) for feed in feeds]
    except Exception as refused:  # onnxruntime has exceptions of its own for each cause
        outcome.status, outcome.detail = "skipped", str(refused).strip().splitlines()[0][:200]
        return model, None


def module_of(path: Path) -> Any:
    """The Python file of a torch model, imported."""
    spec = importlib.util.spec_from_file_location(f"random_model_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _onnxruntime(model: bytes | str, inputs: Sequence[Var], feed: Sequence[Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [np.asarray(a) for a in session.run(None, {v.name: a for v, a in zip(inputs, feed, strict=True)})]


def _hold(what: str, program: Program, want: Sequence[Array], got: Sequence[Array], tolerance: float) -> bool:
    """Whether all is equal bit for bit. Raises ``_Wrong`` where an output is not within ``tolerance`` of its range."""
    if len(want) != len(got):
        raise _Wrong(f"{what}: {len(got)} outputs, not {len(want)}")
    same = True
    for name, w, g in zip(program.outputs, want, got, strict=True):
        if equal(w, g):
            continue
        same = False
        if w.shape != g.shape or w.dtype != g.dtype:
            raise _Wrong(f"{what}: {name} is {g.dtype}{list(g.shape)}, not {w.dtype}{list(w.shape)}")
        error = compare(name, w, g)
        if not tolerance or not error.within(tolerance):
            raise _Wrong(f"{what}: {name} differs by {error.max_abs:.3g} of {error.range:.3g}, "
                         f"{error.mismatched} not finite in one")  # fmt: skip
    return same


# -- rewrite ---------------------------------------------------------------------------------------


def _rewrite(loaded: _Loaded, target: Target, how: How, folder: Path, outcome: Outcome) -> None:
    program, graph, feeds, wanted = loaded.program, loaded.graph, loaded.feeds, loaded.wanted
    # A restricted target's case is of the rules: what check says beside the plan is asked for with real targets.
    real = not target.name.startswith("without:")
    allow = {"approximate": ("approximate",), "retrain": ("approximate", "retrain")}.get(how, ())
    apply = _OPTIONAL if how == "fold" else ()
    made = porter.rewrite(graph, target, allow=allow, apply=apply, data=feeds[:1], samples=0, verify=real)
    said = porter.check(graph, target, allow=allow) if real else made.before
    entries = made.ledger.entries
    outcome.rules = tuple(sorted({rule for entry in entries for rule in entry.rules}))
    outcome.verdict = _verdict(said, made.report, entries)
    broken = _broken_promise(said, made.report) if how != "fold" else ""
    if broken and real:
        raise _Wrong(broken)
    if broken:
        outcome.status, outcome.detail = "overpromised", broken
    if how == "retrain":
        return
    bitwise = all(not entry.bound for entry in entries) and made.ledger.opset is None
    whole = None
    files = []
    if program.dialect == "onnx":
        path = folder / "made.onnx"
        made.save(path)
        files = [_onnxruntime(str(path), program.inputs, feed) for feed in feeds]
    for i, (feed, want) in enumerate(zip(feeds, wanted, strict=True)):
        got = made.graph.run(feed)
        if files and not all(map(equal, got, files[i])):
            raise _Wrong("the file that was written gives other values than the graph in memory")
        try:
            close = loaded.close if bitwise else DEFAULT_TOLERANCE
            outcome.bitwise += _hold("rewritten", program, want, got, close)
        except _Wrong as off:
            whole = whole or str(off)
        outcome.compared += 1
    wrong = _regions(graph, made.graph, feeds[0], outcome)
    if wrong:
        raise _Wrong(wrong)
    if how != "approximate" and whole:
        if bitwise:
            raise _Wrong(f"every bound is bit-equal, and {whole}")
        outcome.status, outcome.detail = "amplified", whole
    if how == "quantize" and made.report.ok and target.quantization is not None:
        _quantize(made.graph, target, feeds, outcome)


def _quantize(graph: Graph, target: Target, feeds: Sequence[Sequence[Array]], outcome: Outcome) -> None:
    from porter.quantize.running import run
    from porter.quantize.scheme import Scheme

    assert target.quantization is not None
    if any(not np.isfinite(a).all() for feed in feeds for a in graph.run(feed) if a.dtype.kind == "f"):
        return  # calibration wants numbers (PT407)
    width = next(iter(target.quantization.widths or target.quantization.qmax))
    try:
        made = porter.quantize(graph, target, feeds, dtype=width, compare=0)
    except PorterError as refused:
        # Nothing of it is quantized; a layer computes in half precision; a value inside is not a number.
        if refused.code not in ("PT407", "PT415", "PT416"):
            raise
        return
    taps = [op.outputs[0].name for op in made.graph.ops() if op.kind == "quantize"]
    fixed, fake = (run(made.graph, feeds[:1], form, Scheme.of(target), taps) for form in ("int", "fake"))
    for name, want in (fake.taps | fake.outputs).items():
        got = (fixed.taps | fixed.outputs)[name]
        # What follows the last integers is computed in float, by kernels of two kinds.
        if not equal(want, got) and (name in fake.taps or not compare(name, want, got).within(1e-6)):
            error = compare(name, want, got)
            raise _Wrong(f"{width}: {name} of the integers differs by {error.max_abs:.3g} of {error.range:.3g}")
    outcome.verdict = "quantized"


def _regions(before: Graph, after: Graph, feed: Sequence[Array], outcome: Outcome) -> str:
    found = regions(before, after)
    if not found:
        return ""
    values = {v.name: a for v, a in zip(before.inputs, feed, strict=True)}
    wanted = {name for region in found for name in (region.value, *region.inputs)} - values.keys()
    taps = sorted(wanted)
    values |= zip(taps, before.run(feed, taps)[len(before.outputs) :], strict=True)
    for region in found:
        operands = [values[name] for name in region.inputs]
        got = after.part(region.inputs, [region.value]).run(operands)[0]
        wrong = within_bound(region, values[region.value], got, operands)
        if wrong:
            return wrong
        outcome.compared += 1
    return ""


def _verdict(said: Report, after: Report, entries: Sequence[LedgerEntry]) -> str:
    if not after.ok:
        return "left"
    return "legal as is" if said.ok and not entries else "legal after rewrite"


def _broken_promise(said: Report, after: Report) -> str:
    """What is left of a model of which check says that a rewrite makes it legal; "" for a promise that is kept."""
    good = ("native", "fold", "rewrite")
    hoped = all(op.verdict in good or said.runs_on_host(op) for op in said.ops)
    model = [f for f in said.findings if not f.kind and f.severity == "error"]
    if hoped and not model and not after.ok:
        left = [f"{op.kind} {op.verdict}: {'; '.join(op.reasons)}" for op in after.ops if op.verdict != "native"]
        codes = [f"{f.code} {f.message}" for f in after.findings if f.severity == "error" and not f.kind]
        if left or codes:
            return f"check said that a rewrite makes it legal; left: {[*left, *codes][:3]}"
    return ""


# -- partition -------------------------------------------------------------------------------------


def _partition(
    program: Program,
    graph: Graph,
    target: Target,
    feeds: Sequence[Sequence[Array]],
    seed: int,
    folder: Path,
    outcome: Outcome,
) -> None:
    from porter.partition import Pipeline, partition

    try:
        made = partition(graph, target, data=feeds[:1], samples=0)
    except PorterError as refused:
        if refused.code != "PT752":  # the device would have nothing to do
            raise
        outcome.verdict = "nothing for the device"
        return
    outcome.rules = tuple(sorted({rule for entry in made.rewritten.ledger.entries for rule in entry.rules}))
    outcome.verdict = "partitioned"
    if any(finding.severity == "error" for finding in made.findings):
        outcome.verdict = "left"
    elif not made.ok:  # each part of it is looked at below
        assert made.evidence is not None
        outcome.status, outcome.detail = "amplified", f"the proof of the segments: {made.evidence.worst.to_json()}"
    whole = made.rewritten.graph
    names = [v.name for v in whole.inputs]
    in_memory, written = made.pipeline(), None
    if all(segment.graph.dialect == "onnx" for segment in made.split.segments):
        written = Pipeline.load(made.save(folder / "split"))
    # The very same nodes, unless the host's part was captured from torch and is ONNX now; but onnxruntime rounds half
    # precision where a segment ends, and not between operators.
    half = any(v.dtype == "float16" for v in program.values().values())
    close = 4 * 2.0**-10 if half else 0.0 if written and whole.opset else DEFAULT_TOLERANCE
    for feed in feeds:
        given = dict(zip(names, feed, strict=True))
        want = whole.run(feed)
        got = _in_order(in_memory.run(given), whole)
        outcome.bitwise += _hold("the segments in a row", program, want, got, close)
        outcome.compared += 1
        if written is not None:
            try:  # with the runtime's own fusions
                _hold(
                    "the segments as written",
                    program,
                    want,
                    _in_order(written.run(given), whole),
                    max(close, DEFAULT_TOLERANCE),
                )
            except _Wrong as amplified:
                outcome.status, outcome.detail = "amplified", str(amplified)
    wrong = _regions(graph, made.rewritten.graph, feeds[0], outcome)
    if wrong:
        raise _Wrong(wrong)


def _in_order(results: Mapping[str, Array], graph: Graph) -> list[Array]:
    """By the outputs of the model, of which two can be the same value."""
    return [results[v.name] for v in graph.outputs]
