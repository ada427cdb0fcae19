# SPDX-License-Identifier: Apache-2.0
"""One candidate of a scaling search: built, checked, counted, timed and, where that is worth it, trained."""

from __future__ import annotations

import math
import numbers
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from porter.api import rewrite
from porter.compress.scale_plan import Plan, Quantity
from porter.compress.search import UNUSABLE, Record, Search
from porter.errors import PorterError
from porter.graph import Graph
from porter.latency import Rates, estimate, host_rates, measure
from porter.loading import load
from porter.target import Target
from porter.usercode import call_by_name, run_user_code

if TYPE_CHECKING:
    import torch

__all__ = ["Candidate", "Evaluator", "evaluator", "pareto", "reasons", "specs"]

#: What became of a candidate. ``missed``: a requirement other than accuracy is not met, so it was not trained.
State = Literal["met", "missed", "illegal", "out of time"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One size of the model and what is known of it (None: not known, see ``state`` and ``reason``).

    ``latency_ms`` is the one that the requirement is held against; ``estimate_ms`` and ``measured_ms`` say where it is
    from. ``model_size`` and ``memory_size`` are in MB of 1e6 bytes. ``weights`` is a file of the study's folder.
    """

    factor: float
    width: float
    depth: float | None
    state: State
    reason: str = ""
    macs: int | None = None
    params: int | None = None
    model_size: float | None = None
    memory_size: float | None = None
    latency_ms: float | None = None
    estimate_ms: float | None = None
    measured_ms: float | None = None
    estimated_at: str = ""
    measured_on: str = ""
    accuracy: float | None = None
    training_s: float | None = None
    weights: str | None = None

    def value(self, quantity: Quantity) -> float | None:
        """The quantity that a requirement names."""
        if quantity == "latency":
            return self.latency_ms
        return {"model_size": self.model_size, "memory_size": self.memory_size}.get(quantity, self.accuracy)

    def violation(self, plan: Plan) -> float:
        """The largest violation of a requirement, 0 where all known values pass."""
        known = [(r, self.value(r.quantity)) for r in plan.requirements]
        return max((r.violation(value) for r, value in known if value is not None), default=0.0)

    def quality(self, plan: Plan) -> float:
        """What is the better of two candidates that meet the requirements: accuracy where they were trained; else the
        multiply-accumulates, since of one family the larger is the more accurate."""
        if self.accuracy is None:
            return float(self.macs or 0)
        return -self.accuracy if plan.lower_is_better else self.accuracy

    def merit(self, plan: Plan) -> float:
        """What the search maximizes among candidates that meet the requirements: quality, or, where nothing but
        accuracy is required, speed."""
        if all(r.quantity == "accuracy" for r in plan.requirements):
            return -(self.latency_ms or 0.0)
        return self.quality(plan)

    def score(self, plan: Plan) -> float:
        """Higher is better: above 0 what meets the requirements, below it by how much they are missed."""
        if self.state in ("illegal", "out of time"):
            return UNUSABLE
        violation = self.violation(plan)
        if violation:
            return -violation
        merit = self.merit(plan)
        # Any rising function into 1..2 does; the logarithm keeps accuracies near 0 and MACs by the billion apart.
        return 1.5 + math.atan(math.copysign(math.log1p(abs(merit)), merit)) / math.pi

    def to_json(self) -> Record:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Record) -> Candidate:
        return cls(**record)


class Evaluator:
    """Tries scaling factors for a plan; what is loaded once (target, rates, functions) is kept.

    Raises:
        PorterError: PT515 or PT520 when a function cannot be found; PT622 when there are no rates to estimate with.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.target = Target.load(plan.target)
        self._factory = call_by_name(plan.model, "--model") if isinstance(plan.model, str) else plan.model
        self._train = call_by_name(plan.train, "--train") if isinstance(plan.train, str) else plan.train
        if plan.latency_from == "estimate":
            _ = self.rates  # the error, if there is one, belongs before the first trial

    @cached_property
    def rates(self) -> Rates:
        """The target's rates; this machine's own for a target that runs on it."""
        if self.target.runtime.framework == "onnxruntime":
            return host_rates()
        return Rates.of_target(self.target, self._plan.dtype)

    def build(self, factor: float) -> torch.nn.Module:
        """The model at a factor, its random weights the same each time. Raises PorterError PT515 or PT520."""
        import torch

        width, depth = self._plan.size(factor)
        sizes = {"width": width} if depth is None else {"width": width, "depth": depth}
        torch.manual_seed(self._plan.seed)
        module = run_user_code(lambda: self._factory(**self._plan.model_args, **sizes), "--model")
        if not isinstance(module, torch.nn.Module):
            raise PorterError("PT515", f"the factory returned a {type(module).__name__}, not an nn.Module", "--model")
        return module

    def __call__(self, factor: float, folder: Path) -> tuple[Record, float]:
        """Try one factor (see :data:`porter.compress.search.Evaluate`).

        Raises:
            PorterError: PT520 or PT626 when the training function fails or returns no number; a candidate that cannot
                be built or is not legal is no error.
        """
        made = self._try(factor, folder)
        return made.to_json(), made.score(self._plan)

    def _try(self, factor: float, folder: Path) -> Candidate:
        from porter.compress.scale_channels import check_channels

        plan = self._plan
        width, depth = plan.size(factor)
        known: dict[str, Any] = {"factor": factor, "width": width, "depth": depth}
        try:
            module = self.build(factor)
            mismatches = check_channels(module, specs(plan))
            if mismatches:
                more = f" (and {len(mismatches) - 1} more)" if len(mismatches) > 1 else ""
                return Candidate(**known, state="illegal", reason=f"PT627: {mismatches[0].message}{more}")
            graph = load(module, specs(plan))
            made = rewrite(graph, self.target, verify=False)
        except PorterError as error:
            return Candidate(**known, state="illegal", reason=f"{error.code}: {error.message}")
        if not made.report.ok:
            kinds = dict.fromkeys(op.kind for op in made.report.ops if op.verdict != "native")
            return Candidate(**known, state="illegal", reason=f"{self.target.name} does not run {', '.join(kinds)}")
        try:
            known |= self._costs(made.graph)
        except PorterError as error:
            return Candidate(**known, state="illegal", reason=f"{error.code}: {error.message}")
        checked = Candidate(**known, state="met")
        violation = checked.violation(plan)
        if violation or self._train is None:
            return Candidate(**known, state="missed" if violation else "met")
        start = time.perf_counter()
        try:
            accuracy = self._accuracy(module, factor)
        except _OutOfTime:
            reason = f"training was stopped after {plan.time_limit:g} s"
            return Candidate(**known, state="out of time", reason=reason)
        known |= {"accuracy": accuracy, "training_s": time.perf_counter() - start}
        known["weights"] = _keep(module, folder / f"factor-{factor:g}.pt")
        trained = Candidate(**known, state="met")
        return Candidate(**known, state="missed") if trained.violation(plan) else trained

    def _costs(self, graph: Graph) -> dict[str, Any]:
        """What is counted, estimated and measured. Raises PorterError when the latency that counts cannot be had."""
        plan = self._plan
        known: dict[str, Any] = {}
        rates: Rates | None = None
        try:
            rates = self.rates
        except PorterError:  # no rates: sizes are counted all the same, and latency is measured
            if plan.latency_from == "estimate":
                raise
        if rates is not None:
            made = estimate(graph, rates)
            known |= {"estimate_ms": made.milliseconds, "estimated_at": "; ".join((rates.name, *rates.notes))}
        else:
            quantizes = self.target.quantization.quantizes if self.target.quantization else None
            made = estimate(graph, Rates("", plan.dtype, math.inf, 0.0, quantizes=quantizes))
        if plan.measure or plan.latency_from == "measured":
            try:
                measured = measure(graph)
                known |= {"measured_ms": measured.milliseconds, "measured_on": measured.machine}
            except PorterError:  # it has no ONNX form: the estimate stands alone
                if plan.latency_from == "measured":
                    raise
        known |= {
            "macs": made.macs,
            "params": made.params,
            "model_size": made.weight_bytes / 1e6,
            "memory_size": made.memory_bytes / 1e6,
            "latency_ms": known["estimate_ms" if plan.latency_from == "estimate" else "measured_ms"],
        }
        return known

    def _accuracy(self, module: torch.nn.Module, factor: float) -> float:
        plan, train = self._plan, self._train
        assert train is not None
        width, depth = plan.size(factor)
        args = {**plan.train_args, "scaling_factor": factor, "width": width, "depth": depth, "seed": plan.seed}
        with _limited(plan.time_limit):
            found = run_user_code(lambda: train(module, args), "--train")
        # numpy's and torch's scalars count as numbers
        value = found.item() if hasattr(found, "item") else found
        if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
            raise PorterError(
                "PT626", f"the training function returned {found!r:.60}, not a finite number", "--train",
                "Let it train the model in place and return its accuracy.",
            )  # fmt: skip
        return float(value)


def evaluator(plan: Plan, _search: Search) -> Evaluator:
    """The evaluator of another process, which shares the processor's cores with this one."""
    import torch

    torch.set_num_threads(1)
    return Evaluator(plan)


def specs(plan: Plan) -> list[str]:
    """The plan's inputs as the loader takes them."""
    return [
        f"{name}:{'x'.join(map(str, shape)) or 'scalar'}:{dtype or 'float32'}".removeprefix("None:")
        for name, shape, dtype in plan.inputs
    ]


def _keep(module: torch.nn.Module, path: Path) -> str:
    """Write a state dict whole or not at all; the name of the file."""
    import torch

    temporary = path.with_name(f".{path.name}.new")
    torch.save({"model": module.state_dict()}, temporary)
    temporary.replace(path)
    return path.name


class _OutOfTime(BaseException):
    """The time limit of a training. Not an Exception: a training loop that catches those must not catch it."""


@contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    """End the block by :class:`_OutOfTime` after so many seconds (where there is a timer, in the main thread)."""
    timed = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if seconds is None or not timed:
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pareto(candidates: Sequence[Candidate], plan: Plan) -> list[Candidate]:
    """The candidates than which none is both as fast and better, or faster and as good; fastest first."""
    known = [c for c in candidates if c.latency_ms is not None and (plan.train is None or c.accuracy is not None)]
    front: list[Candidate] = []
    for candidate in sorted(known, key=lambda c: (c.latency_ms or 0.0, -c.quality(plan))):
        if not front or candidate.quality(plan) > front[-1].quality(plan):
            front.append(candidate)
    return front


def reasons(candidates: Sequence[Candidate]) -> list[str]:
    """Why candidates are illegal or ran out of time, each reason once, behind the factors that it holds for."""
    found: dict[str, list[str]] = {}
    for candidate in candidates:
        if candidate.reason:
            found.setdefault(candidate.reason, []).append(f"{candidate.factor:g}")
    return [f"{', '.join(factors)}: {reason}" for reason, factors in found.items()]
