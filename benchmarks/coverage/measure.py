# SPDX-License-Identifier: Apache-2.0
"""One model through check, rewrite and, where something stays illegal, partition, for every target in turn; runs in a
process of its own:

    python -m benchmarks.coverage.measure MODEL.onnx TARGET ...

It prints one line of JSON before and one after each target, so that whoever started it knows where it died.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from porter import api
from porter.data import random_inputs
from porter.dialects.onnx import OnnxGraph
from porter.errors import PorterError
from porter.findings import Outlook, Report
from porter.loading import load
from porter.ops import Array
from porter.partition import partition
from porter.partition.run_pipeline import Pipeline
from porter.verify import Evidence, compare, verify

__all__ = ["PROMISED", "SECONDS", "TOLERANCE", "Row", "main"]

#: The largest difference of an output, as a share of its range.
TOLERANCE = 1e-4
#: Seed of the inputs that porter proves on, and of those that onnxruntime is given afterwards.
PROOF, FRESH = 0, 7
#: How near two inputs are, as a share of each value, and how many are tried until the outputs are near, too.
NEAR, TRIES = 1e-5, 8
#: Noise of four units in the last place of float32, as a share of each value.
ROUNDING = 4 * 2.0**-23
#: What the outlooks of ``check`` promise.
PROMISED = {
    "as is": "as is", "rewrite": "rewritten", "partition": "partitioned", "no": "no", "unknown": "unknown",
}  # fmt: skip
#: Bytes of address space that a process may take, and seconds of processor time for each target.
MEMORY, SECONDS = 10 * 2**30, 300


@dataclass
class Row:
    """A model on a target.

    ``state``: "as is", "rewritten", "partitioned", "no" (porter says that it cannot become legal, or, "unknown", that
    the target's file does not know) or "failed". ``said``: what ``check`` had said it would become.
    ``host``: ops on the host. ``left``: what stayed illegal, as "kind: reason" with counts. ``proof`` and ``fresh``:
    the largest difference in porter's own proof and in onnxruntime's run on other inputs, as a share of the output's
    range; ``parts``: only each segment by itself was equal, as a selection turned on a rounding. ``cause``: of a
    failure. ``seconds``: of processor time.
    """

    model: str
    target: str
    state: str = "failed"
    said: str = ""
    ops: int = 0
    rewrites: int = 0
    host: int = 0
    segments: int = 0
    crossings: int = 0
    left: dict[str, int] = field(default_factory=dict)
    proof: float | None = None
    fresh: float | None = None
    parts: bool = False
    cause: str = ""
    seconds: float = 0.0


class Wrong(Exception):
    """Another output than the model's."""


Outputs = dict[str, Array]


class Model:
    """A model file, its graph, and what is known of the graphs made of it so far."""

    def __init__(self, path: Path) -> None:
        self.path, self.graph = path, load(path)
        assert isinstance(self.graph, OnnxGraph)
        self.session = _session(str(path))
        self.given = self._stable(PROOF)[:1]
        names = [value.name for value in self.graph.inputs]
        self.feeds = [dict(zip(names, item, strict=True)) for item in self._stable(FRESH)]
        self.wanted = [_run(self.session, feeds) for feeds in self.feeds]
        self.proved: dict[str, tuple[float, float]] = {}

    def _stable(self, seed: int) -> list[list[Array]]:
        """Two inputs, of a normal distribution and in 0..1, on which the model itself gives nearly the same for nearly
        the same: where it selects among scores that are alike, any rounding makes another selection."""
        names = [value.name for value in self.graph.inputs]
        found = []
        for kind in range(2):
            tries = [random_inputs(self.graph.inputs, 2, seed + 100 * attempt)[kind] for attempt in range(TRIES)]
            found.append(
                next((item for item in tries if self._is_stable(dict(zip(names, item, strict=True)))), tries[0])
            )
        return found

    def _is_stable(self, feeds: Outputs) -> bool:
        near = _near(feeds, NEAR)
        one, other = _run(self.session, feeds), _run(self.session, near)
        return all(
            one[name].shape == other[name].shape and compare(name, one[name], other[name]).within(100 * TOLERANCE)
            for name in one
        )

    def fresh(self, run: Callable[[Outputs], Outputs]) -> float:
        """The largest difference of ``run`` on inputs that the proof did not see."""
        worst = 0.0
        for feeds, wanted in zip(self.feeds, self.wanted, strict=True):
            got = run(feeds)
            worst = max(worst, *(_compared(name, reference, got[name]) for name, reference in wanted.items()))
        return worst

    def alone(self, segments: Sequence[Mapping[str, Any]], folder: Path) -> float:
        """The largest difference of the segments in ``folder``, each given the tensors of the model as it came.

        Where a few units in the last place of the inputs move a tensor of the model itself by more than the tolerance,
        as deep in a network of random weights, that much is allowed, up to ten times the tolerance: a rewrite rounds
        otherwise in every layer, not only there.
        """
        proto = onnx.load(self.path)
        ends = [value["name"] for segment in segments for value in (*segment["inputs"], *segment["outputs"])]
        own = {*(value.name for value in proto.graph.output), *(value.name for value in proto.graph.input)}
        made = {name for node in proto.graph.node for name in node.output}
        if unknown := [name for name in ends if name not in own | made]:
            raise Wrong(f"the segments in a row differ, and {unknown[0]} is not a tensor of the model")
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(ends) if name not in own)
        whole, worst = _session(proto.SerializeToString()), 0.0
        sessions = [_session(str(folder / segment["files"]["onnx"])) for segment in segments]
        for feeds in self.feeds:
            known = {**feeds, **_run(whole, feeds)}
            moved = _run(whole, _near(feeds, ROUNDING))
            for session in sessions:
                for name, array in _run(session, known).items():
                    worst = max(worst, _compared(name, known[name], array, _own(name, known[name], moved.get(name))))
        return worst


def _near(feeds: Outputs, by: float) -> Outputs:
    """The inputs with noise of a normal distribution; ``by`` is its deviation, relative to each element."""
    rng = np.random.default_rng(0)
    return {
        name: array * (1 + by * rng.standard_normal(array.shape).astype(array.dtype))
        if array.dtype.kind == "f"
        else array
        for name, array in feeds.items()
    }


def _own(name: str, array: Array, moved: Array | None) -> float:
    """The tolerance of a tensor, given what it becomes with noise of a few units in the last place on the inputs."""
    if moved is None or moved.shape != array.shape:
        return TOLERANCE
    return min(max(TOLERANCE, compare(name, array, moved).relative), 10 * TOLERANCE)


def _compared(name: str, reference: Array, got: Array, tolerance: float = TOLERANCE) -> float:
    """The difference of a tensor. Raises :class:`Wrong` where it is more than the tolerance."""
    if reference.shape != got.shape or reference.dtype != got.dtype:
        raise Wrong(f"{name} is {got.dtype}{got.shape}, not {reference.dtype}{reference.shape}")
    error = compare(name, reference, got)
    if not error.within(tolerance):
        raise Wrong(f"{name} differs by {error.relative:.3g} of its range, {error.mismatched} not finite alike")
    return error.relative


def _session(model: str | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, feeds: Outputs) -> Outputs:
    names = [value.name for value in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}
    return dict(zip(names, session.run(names, {k: v for k, v in feeds.items() if k in wanted}), strict=True))


def measure(model: Model, target: str) -> Row:
    """Never raises: what goes wrong is the row's ``cause``."""
    row = Row(model.path.stem, target)
    began = time.process_time()
    try:
        report = api.check(model.graph, target)
        assert report.outlook is not None
        row.said, row.left = report.outlook.answer, left_over(report)
        if row.said == "partition":  # which rewrites as well
            _divide(model, target, row)
        else:
            made = api.rewrite(model.graph, target, verify=False)
            _booked(row, made)
            row.proof, row.fresh = _prove(model, made.graph)
            if made.report.ok:
                row.state = "as is" if report.ok else "rewritten"
            elif row.said in ("no", "unknown"):
                row.state = row.said
            else:
                _divide(model, target, row)
        if row.state != "failed" and PROMISED[row.said] != row.state:
            row.cause = f"check had said {row.said}"
    except Wrong as error:
        row.cause = f"wrong: {error}"
    except PorterError as error:
        row.cause = f"{error.code}: {error.message}"
    except Exception as error:
        frames = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-3:]]
        row.cause = f"crash: {type(error).__name__}: {str(error)[:300]} ({', '.join(frames)})"
    row.seconds = round(time.process_time() - began, 2)
    return row


def _booked(row: Row, made: api.Rewritten) -> None:
    row.ops, row.rewrites, row.left = made.ledger.ops, len(made.ledger.entries), left_over(made.report)
    row.host = (made.report.outlook or Outlook("as is")).host


def left_over(report: Report) -> dict[str, int]:
    """What a report still has against a model, ops of the target's own host aside, with how often."""
    found = Counter(
        f"{finding.kind or 'the model'}: {_first(finding.message)}"
        for finding in report.findings
        if finding.severity != "note"
    )
    return dict(found.most_common())


def _first(message: str) -> str:
    """The first of several reasons, without its source."""
    return message.partition("]; ")[0].partition(" [")[0][:200]


def _prove(model: Model, graph: Any) -> tuple[float, float]:
    """porter's comparison and the independent one, once for equal graphs."""
    proto = graph.to_proto()
    data = proto.SerializeToString(deterministic=True)
    digest = hashlib.sha256(data).hexdigest()
    if digest not in model.proved:
        evidence = verify(model.graph, graph, model.given, (), TOLERANCE)
        if not evidence.ok:
            raise Wrong(_differs(evidence))
        session = _session(data)
        model.proved[digest] = evidence.worst.relative, model.fresh(lambda feeds: _run(session, feeds))
    return model.proved[digest]


def _differs(evidence: Evidence) -> str:
    worst = evidence.worst
    return (
        f"porter's own proof: {worst.name} differs by {worst.relative:.3g} of its range, {worst.mismatched} not alike"
    )


def _divide(model: Model, target: str, row: Row) -> None:
    made = partition(model.graph, target, data=model.given, samples=0, tolerance=TOLERANCE)
    _booked(row, made.rewritten)
    row.segments, row.crossings = len(made.split.segments), len(made.split.crossings)
    row.host = sum(len(segment.ops) for segment in made.split.segments if segment.device == "host")
    assert made.evidence is not None
    if not made.ok:
        proved = made.evidence.ok or (made.parts is not None and made.parts.ok)
        if not proved:
            raise Wrong(_differs(made.evidence))
        row.cause = "; ".join(f"{f.code}: {f.message}" for f in made.findings if f.severity == "error")
        return
    row.proof, row.parts = made.evidence.worst.relative, not made.evidence.ok
    with tempfile.TemporaryDirectory() as folder:
        made.save(folder, overwrite=True)
        pipeline = Pipeline.load(folder)
        try:
            row.fresh = model.fresh(pipeline.run)
        except Wrong:  # a selection that turned on a rounding, if each segment by itself is right
            row.fresh, row.parts = model.alone(pipeline.manifest["segments"], Path(folder)), True
    row.state = "rewritten" if made.rewritten.report.ok else "partitioned"


def main(args: Sequence[str]) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    path, *targets = args
    model = Model(Path(path))
    for target in targets:
        spent = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
        resource.setrlimit(resource.RLIMIT_CPU, (spent + SECONDS, resource.RLIM_INFINITY))
        print(json.dumps({"begins": target}), flush=True)
        print(json.dumps(asdict(measure(model, target))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
