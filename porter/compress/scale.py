# SPDX-License-Identifier: Apache-2.0
"""Scaling: the width and depth at which a family of models meets a requirement on a target.

    plan ─► search (Optuna) over factors ─► build, check, count, time, train each ─► choose ─► prove, save

The search is kept in a folder (see :mod:`porter.compress.search`); the result is the chosen model, rewritten for the
target and proved equal to what was trained, with the table of all candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from porter.compress.scale_plan import UNITS, Options, Plan, make_plan
from porter.compress.search import Search, Study
from porter.compress.xgen import XgenConfig, read_xgen
from porter.errors import PorterError
from porter.findings import Finding
from porter.latency import count, rank_correlation
from porter.target import Target

if TYPE_CHECKING:
    import torch

    from porter.api import Rewritten
    from porter.compress.scale_candidate import Candidate
    from porter.graph import Graph

__all__ = ["Counted", "Options", "Scaled", "scale"]

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Counted:
    """The arithmetic and the parameters of a model, counted twice: in the captured graph, and in the module that is
    rebuilt from the written code (torch's own counter, and its parameters)."""

    macs: int
    params: int
    rebuilt_macs: int
    rebuilt_params: int

    @property
    def agree(self) -> bool:
        return (self.macs, self.params) == (self.rebuilt_macs, self.rebuilt_params)


@dataclass(frozen=True, slots=True)
class Scaled:
    """The result of a search. ``chosen`` is None where no candidate meets the requirements; ``nearest`` is then the
    legal one that misses them least (None where none is legal). ``rewritten`` and ``counted`` are of the chosen one."""

    plan: Plan
    target: Target
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    nearest: Candidate | None
    findings: tuple[Finding, ...]
    study: Path
    rewritten: Rewritten | None = None
    counted: Counted | None = None
    module: torch.nn.Module | None = None

    @property
    def ok(self) -> bool:
        """A candidate meets the requirements, is legal, and was proved equal."""
        return self.rewritten is not None and self.rewritten.ok and all(f.severity != "error" for f in self.findings)

    @property
    def correlation(self) -> float | None:
        """Spearman's rho of estimated and measured latencies over the candidates that have both."""
        both = [(c.estimate_ms, c.measured_ms) for c in self.candidates]
        known = [(e, m) for e, m in both if e is not None and m is not None]
        return rank_correlation([e for e, _ in known], [m for _, m in known])

    @property
    def front(self) -> list[Candidate]:
        """The Pareto front, fastest first."""
        from porter.compress.scale_candidate import pareto

        return pareto(self.candidates, self.plan)

    def to_json(self) -> dict[str, Any]:
        counted = self.counted
        return {
            "target": self.target.name,
            "requirements": [str(r) for r in self.plan.requirements],
            "latency_from": self.plan.latency_from,
            "rank_correlation": self.correlation,
            "chosen": self.chosen.to_json() if self.chosen else None,
            "nearest": self.nearest.to_json() if self.nearest else None,
            "counted": None if counted is None else {k: getattr(counted, k) for k in counted.__slots__},
            "candidates": [c.to_json() for c in self.candidates],
            "pareto": [c.factor for c in self.front],
            "findings": [f.to_json() for f in self.findings],
            "search": self.plan.about,
        }

    def save(self, out: str | Path, *, overwrite: bool = False) -> Path:
        """Write the folder: what :func:`porter.save` writes (``model.py``, ``weights.pt``, ``model.pt2``, its proof),
        ``checkpoint.pt`` for the factory itself, ``scaling.json``, ``pareto.svg`` and ``pareto.png``; and
        ``model.onnx`` where the configuration names an opset.

        Raises:
            PorterError: PT623 when there is no chosen model; PT330, PT351 or PT352 when it has no ONNX form of that
                opset, or one that computes something else; PT510 to PT512 when it cannot be written.
        """
        import torch

        from porter.compress.plots import plot_pareto
        from porter.files import atomic_dir
        from porter.report.json import to_json
        from porter.save import save_folder

        made = self.rewritten
        if made is None or self.chosen is None or self.module is None:
            raise PorterError(
                "PT623", "no candidate meets the requirements; there is nothing to write", str(self.study)
            )
        with atomic_dir(out, overwrite) as folder:
            save_folder(folder, made.graph, made.ledger, made.report, made.evidence)
            size = {"width": self.chosen.width, "depth": self.chosen.depth, "scaling_factor": self.chosen.factor}
            torch.save({"model": self.module.state_dict(), **size}, folder / "checkpoint.pt")
            (folder / "scaling.json").write_text(to_json(self) + "\n", encoding="utf-8")
            if self.plan.opset is not None:
                _in_onnx(made, self.plan.opset).save(folder / "model.onnx", made.ledger.to_json())
            plot_pareto(self, folder / "pareto.svg", folder / "pareto.png")
        return Path(out)


def scale(
    config: str | Path | XgenConfig,
    target: Target | str | Path | None = None,
    options: Options | None = None,
    *,
    study: str | Path,
    workers: int = 1,
    progress: Progress | None = None,
) -> Scaled:
    """Search the scaling factor at which a model meets the requirements on a target.

    Each candidate is built, its channels and its legality are checked (after the rewrites that the target needs), it is
    counted, estimated and measured; only one that is legal and meets every other requirement is trained. What is chosen
    is the most accurate one, or the largest where nothing is trained, or the fastest where only accuracy is required.

    Args:
        config: an XGen JSON (see :mod:`porter.compress.xgen`), or one that was read.
        target: see :mod:`porter.api`; the configuration's ``porter.target`` by default.
        options: what comes before the configuration.
        study: the folder that keeps the search; an unfinished one goes on, a finished one is not repeated.
        workers: processes that search at once (the factory and the training function must then be given by name).
            Other processes may work on the same folder too.
        progress: called with a short text at each step.

    Raises:
        PorterError: as :func:`porter.compress.scale_plan.make_plan`; PT520 or PT626 when the training function fails;
            PT622 when latency is estimated and the target's file has no rates; PT624 when ``study`` holds another
            search; PT625 when it is interrupted. What was tried is kept in ``study``.
    """
    from porter.compress.scale_candidate import Candidate, Evaluator, evaluator

    say = progress or (lambda _text: None)
    read = config if isinstance(config, XgenConfig) else read_xgen(config)
    chosen_target = _target(target, read)
    plan = make_plan(read, chosen_target, options or Options())
    if workers < 1 or (workers > 1 and not (isinstance(plan.model, str) and isinstance(plan.train, str | None))):
        raise PorterError(
            "PT519", f"{workers} workers cannot share this search", "--workers",
            "Give at least 1; for more, name the factory and the training function as module:function.",
        )  # fmt: skip
    say("loading")
    evaluate = Evaluator(plan)
    search = Search(Path(study), plan.grid, plan.trials, plan.seed, plan.about)
    journal = Study(search)
    journal.run(evaluate, workers, partial(evaluator, plan), say)
    candidates = tuple(
        sorted((Candidate.from_json(record) for _, _, record, _ in journal.records()), key=lambda c: c.factor)
    )
    result = _choose(plan, chosen_target, candidates, search.folder)
    return result if result.chosen is None else _finish(result, evaluate, say)


def _target(target: Target | str | Path | None, config: XgenConfig) -> Target:
    wanted = target if target is not None else config.get("porter", "target")
    if wanted is None:
        raise PorterError("PT519", "there is no target", "--target", "Name one with --target, see `porter targets`.")
    return wanted if isinstance(wanted, Target) else Target.load(wanted)


def _choose(plan: Plan, target: Target, candidates: tuple[Candidate, ...], study: Path) -> Scaled:
    met = [c for c in candidates if c.state == "met"]
    missed = [c for c in candidates if c.state == "missed"]
    chosen = max(met, key=lambda c: c.merit(plan), default=None)
    nearest = None if chosen else min(missed, key=lambda c: c.violation(plan), default=None)
    findings = plan.findings if chosen else (*plan.findings, _unreached(plan, candidates, nearest))
    return Scaled(plan, target, candidates, chosen, nearest, findings, study)


def _unreached(plan: Plan, candidates: tuple[Candidate, ...], nearest: Candidate | None) -> Finding:
    from porter.compress.scale_candidate import reasons

    wanted = " and ".join(map(str, plan.requirements))
    if nearest is None:
        message = f"none of {len(candidates)} candidates can be used ({'; '.join(reasons(candidates))})"
        return Finding("PT623", "error", message, fix="Put right what they fail on, and take another --study folder.")
    worst = max(
        plan.requirements,
        key=lambda r: 0.0 if (value := nearest.value(r.quantity)) is None else r.violation(value),
    )
    value, unit = nearest.value(worst.quantity), UNITS[worst.quantity]
    message = (
        f"no candidate of {len(candidates)} reaches {wanted}; the nearest is factor {nearest.factor:g} "
        f"with a {worst.quantity} of {value:.4g}{' ' if unit else ''}{unit}"
    )
    tried_all = len(candidates) >= len(plan.grid.values)
    fix = "Loosen the requirement" + (", or widen the range." if tried_all else ", or raise --max-sampling.")
    return Finding("PT623", "error", message, fix=fix)


def _finish(result: Scaled, evaluate: Any, say: Progress) -> Scaled:
    """The chosen model with its weights, rewritten, proved, and counted in its rebuilt form."""
    import torch

    from porter.api import rewrite
    from porter.compress.scale_candidate import specs
    from porter.loading import load

    chosen, plan = result.chosen, result.plan
    assert chosen is not None
    say(f"proving the model of factor {chosen.factor:g}")
    module = evaluate.build(chosen.factor)
    if chosen.weights is not None:
        kept = result.study / chosen.weights
        try:
            module.load_state_dict(torch.load(kept, map_location="cpu", weights_only=True)["model"])
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise PorterError(
                "PT518", f"{kept} does not hold the weights of factor {chosen.factor:g}: {error}", str(kept),
                "Search in a new --study folder.",
            ) from error  # fmt: skip
    module.eval()
    made = rewrite(load(module, specs(plan)), result.target)
    counted = recount(made.graph)
    findings = result.findings
    if not counted.agree:
        message = (
            f"the written model has {counted.rebuilt_macs:,} multiply-accumulates and {counted.rebuilt_params:,} "
            f"parameters; the captured graph was counted to have {counted.macs:,} and {counted.params:,}"
        )
        fix = "Trust neither before you know why; an op that porter does not count may be in the model."
        findings = (*findings, Finding("PT629", "warning", message, fix=fix))
    return replace(result, rewritten=made, counted=counted, module=module, findings=findings)


def _in_onnx(made: Rewritten, opset: int) -> Graph:
    """The model in ONNX, compared with the torch graph that it was lowered from."""
    from porter.api import verify
    from porter.dialects.onnx import OnnxGraph

    onnx = OnnxGraph.from_graph(made.graph, opset)
    evidence = verify(made.graph, onnx)
    if not evidence.ok:
        raise PorterError("PT330", f"{made.graph.source} does not compute the same in ONNX at opset {opset}")
    return onnx


def recount(graph: Graph) -> Counted:
    """Count a torch graph, and count again the module that its generated code builds: torch's operation counter over
    one forward pass, halved, and the elements of its parameters."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from porter.emit.codegen import generate, load_generated

    counts = count(graph)
    module = load_generated(generate(graph))
    example = [torch.zeros(v.shape or (), dtype=getattr(torch, v.dtype or "float32")) for v in graph.inputs]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*example)
    return Counted(
        sum(c.macs for c in counts),
        sum(c.params for c in counts),
        counter.get_total_flops() // 2,
        sum(p.numel() for p in module.parameters()),
    )
