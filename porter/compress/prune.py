# SPDX-License-Identifier: Apache-2.0
"""Structured pruning of a torch model by its batch norm gammas: channels, then whole shortcut blocks.

Source of the procedure: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming",
arXiv:1708.06519, and its use on YOLOv3 detectors: a global threshold with a floor for each layer, merged masks for
shortcuts, removed channels' beta folded into what follows, shortcut blocks by mean gamma, fine-tuning.

The result is the user's own module with smaller layers, so that it trains on with the user's own loss; a captured
graph, which is checked for the target, counted and timed; and, saved, plain PyTorch code with its weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from porter.errors import PorterError
from porter.findings import SCHEMA_VERSION, Finding, Report

if TYPE_CHECKING:
    from torch import Tensor, nn

    from porter.compress.channels import Channels, Sizes
    from porter.compress.masks import Plan, Scheme
    from porter.compress.patterns import MaskedLayer, Pattern
    from porter.graph import Graph
    from porter.latency import Measured, Rates
    from porter.target import Target

__all__ = ["BlockReport", "LayerReport", "Pruned", "Stage", "prune"]

#: The largest difference between the pruned model and the one with silent channels, as a share of the range of an
#: output's column.
TOLERANCE = 1e-4
Progress = Callable[[str], None]
Metric = Callable[["nn.Module"], float]
Finetune = Callable[["nn.Module"], "nn.Module | None"]


@dataclass(frozen=True, slots=True)
class LayerReport:
    """A batch norm layer: channels before and after (0: gone with its block); the mean and largest |gamma| before."""

    path: str
    total: int
    remaining: int
    mean_gamma: float
    max_gamma: float


@dataclass(frozen=True, slots=True)
class BlockReport:
    """A shortcut block that went: its layers, the mean |gamma| of the last one, and what its constant got lost at."""

    paths: tuple[str, ...]
    mean_gamma: float
    lost_at: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """The model at one point: ``parameters`` and ``macs`` counted on the captured graph, ``metric`` by the user's own
    function, ``latency`` by onnxruntime on this machine, ``estimate`` the roofline of the target in milliseconds; None
    where it was not asked for, or the target's file has no rates."""

    name: str
    parameters: int
    macs: int
    metric: float | None
    latency: Measured | None
    estimate: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "parameters": self.parameters,
            "macs": self.macs,
            "metric": self.metric,
            "latency": self.latency.to_json() if self.latency is not None else None,
            "estimated_milliseconds": self.estimate,
        }


@dataclass(slots=True)
class Pruned:
    """What :func:`prune` made.

    module: the user's module with fewer channels and layers, in evaluation mode.
    graph: captured from it.
    rates: of the stages' estimates, such as "mlu270 at int8".
    report: the verdict of every op of it on the target.
    structure: the largest difference between the pruned model and the original with gamma and beta of the removed
        channels at 0, computed in float64, as a share of the range of an output's column (a box's x, a class's score).
        They are the same function: only rounding differs.
    folding: the same with only gamma at 0: what folding the removed channels' beta leaves at the borders.
    """

    module: nn.Module
    graph: Graph
    target: str
    model: str
    options: Mapping[str, Any]
    threshold: float
    limit: float
    layers: tuple[LayerReport, ...]
    blocks: tuple[BlockReport, ...]
    masked: tuple[MaskedLayer, ...]
    rates: str | None
    stages: tuple[Stage, ...]
    structure: float
    folding: float
    report: Report
    findings: tuple[Finding, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """The result can be ported to the target, with rewrites that keep its values."""
        return self.report.portable

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "target": self.target,
            "model": self.model,
            "portable": self.report.portable,
            "options": dict(self.options),
            "threshold": self.threshold,
            "highest_threshold": self.limit,
            "layers": [{name: getattr(layer, name) for name in layer.__slots__} for layer in self.layers],
            "blocks": [
                {"layers": list(b.paths), "mean_gamma": b.mean_gamma, "lost_at": list(b.lost_at)} for b in self.blocks
            ],
            "masks": [{"layer": m.path, "density": m.density} for m in self.masked],
            "rates": self.rates,
            "stages": [stage.to_json() for stage in self.stages],
            "error": {"structure": self.structure, "folding": self.folding},
            "findings": [finding.to_json() for finding in self.findings],
        }

    def save(self, out: str | Path, *, overwrite: bool = False, plot: bool = False) -> Path:
        """Write a folder: ``model.py`` with ``weights.pt`` (plain PyTorch that needs no porter), ``model.pt2``,
        ``pruning.json``, ``report.json``; with ``plot`` also ``channels.png``.

        Raises:
            PorterError: PT510 to PT512 when it cannot be written; PT521 for a plot without matplotlib.
        """
        from porter.compress.plots import plot_channels
        from porter.files import atomic_dir
        from porter.legalize import Ledger
        from porter.report.json import to_json
        from porter.save import save_folder

        with atomic_dir(out, overwrite) as folder:
            ledger = Ledger(self.target, self.model, proof="pruned; see pruning.json")
            save_folder(folder, self.graph, ledger, self.report, None)
            (folder / "pruning.json").write_text(to_json(self) + "\n", encoding="utf-8")
            if plot:
                plot_channels(self, folder / "channels.png")
        return Path(out)


def prune(
    model: Any,
    target: Target | str | Path,
    inputs: Any = None,
    *,
    percent: float = 0.3,
    layer_keep: float = 0.1,
    scheme: Scheme = "intersection",
    shortcuts: int = 0,
    multiple: int | None = None,
    skip: Collection[str] = (),
    mask: str | None = None,
    rebuild: bool = False,
    metric: Metric | str | None = None,
    finetune: Finetune | str | None = None,
    data: Any = None,
    latency: bool = True,
    progress: Progress | None = None,
    **loading: Any,
) -> Pruned:
    """Remove channels and shortcut blocks whose batch norm gammas are small.

    Args:
        model: an ``nn.Module`` (it is copied), a checkpoint with ``factory``, or an .onnx, .pt2 or TorchScript file
            that still has its batch norms (it is turned into a module first).
        target: a device: its preferred channel multiple, and what the result is checked against.
        inputs: shapes, as :func:`porter.loading.load` takes them.
        percent: the share of all gammas that lie below the threshold, 0 to 1; 0 removes no channel.
        layer_keep, scheme, multiple, skip: as :func:`porter.compress.masks.make_plan` takes them; ``multiple`` is the
            target's own by default.
        shortcuts: how many shortcut blocks to remove, those with the smallest mean gamma.
        mask: a pattern to zero weights by at the end, such as "2:4" (see :mod:`porter.compress.patterns`).
        rebuild: write the model's code anew from its graph, so that sizes that its own code writes out can change. The
            result is then a generated module of the same layers under the same names; always so for an .onnx, .pt2 or
            TorchScript file.
        metric: gives the accuracy of a module in evaluation mode; called at every stage. A function or its name,
            "package.module:function".
        finetune: trains the pruned module, in place or returning another one; likewise.
        data: inputs to prove on and to take constants from, as :func:`porter.data.open_data` takes them, beside two
            random ones.
        latency: time every stage by onnxruntime.
        progress: called with a short text at each step.
        loading: ``factory``, ``factory_args``, ``run_pickled_code``.

    Raises:
        PorterError: PT600 to PT608: the model has no batch norm, an option is out of range, a layer would be emptied,
            nothing can go, the model's code does not follow; and as :func:`porter.loading.load`.
    """
    from porter.compress.patterns import apply_pattern, parse_pattern
    from porter.target import Target

    chosen = target if isinstance(target, Target) else Target.load(target)
    pattern = parse_pattern(mask) if mask is not None else None
    if shortcuts < 0:
        raise PorterError("PT601", f"the number of shortcut blocks to remove is not negative, not {shortcuts}")
    run = _Run(model, inputs, loading, rebuild, data, metric, latency, _rates(chosen), progress)
    if multiple is None:
        multiple = chosen.performance.channel_multiple
    plan = run.channels_by_gamma(percent, layer_keep, scheme, multiple, skip)
    blocks = run.remove_blocks(shortcuts) if shortcuts else ()
    if finetune is not None:
        run.finetune(finetune)
    masked: tuple[MaskedLayer, ...] = ()
    if pattern is not None:
        masked = run.apply(apply_pattern, pattern)
    from porter.legalize import check

    options = {
        "percent": percent, "layer_keep": layer_keep, "scheme": scheme, "shortcuts": shortcuts, "multiple": multiple,
        "skip": sorted(skip), "mask": str(pattern) if pattern else None, "rebuild": rebuild,
    }  # fmt: skip
    run.say("checking for the target")
    return Pruned(
        module=run.module, graph=run.graph, target=chosen.name, model=run.source, options=options,
        threshold=plan.threshold, limit=plan.limit, layers=run.layers, blocks=blocks, masked=masked,
        rates=run.rates.name if run.rates is not None else None,
        stages=tuple(run.stages), structure=run.structure, folding=run.folding, report=check(run.graph, chosen),
        findings=tuple(run.findings),
    )  # fmt: skip


class _Unfit(Exception):
    """The pruned module does not compute what the plan says: its code writes sizes out that the plan changed."""


class _Run:
    """One pruning: the module as it changes, and what is noted on the way."""

    def __init__(
        self,
        model: Any,
        inputs: Any,
        loading: Mapping[str, Any],
        rebuild: bool,
        data: Any,
        metric: Metric | str | None,
        latency: bool,
        rates: Rates | None,
        progress: Progress | None,
    ) -> None:
        from porter.compress.sparsity import gamma_layers
        from porter.loading import load, load_module

        self.say: Progress = progress or (lambda _text: None)
        self._metric = _function(metric, "--metric") if metric is not None else None
        self._latency = latency
        self.rates = rates
        module = load_module(model, **loading)
        self._rebuild = rebuild or module is None
        if self._rebuild:
            from porter.emit.codegen import generate, load_generated

            graph = load(model if module is None else module, inputs, **(loading if module is None else {}))
            module = load_generated(generate(graph))
            inputs = {value.name: (value.shape, value.dtype) for value in graph.inputs}
        named = isinstance(model, (str, Path))
        self.source = Path(model).name if named else graph.source if self._rebuild else type(module).__name__
        self.module: nn.Module = copy.deepcopy(module).eval()
        gamma_layers(self.module)
        self._inputs = inputs
        self.say("capturing")
        self.graph = self._capture()
        self._samples = self._tensors(data)
        self.stages: list[Stage] = []
        self.findings: list[Finding] = []
        self.layers: tuple[LayerReport, ...] = ()
        self.structure = self.folding = 0.0
        self._note("before")

    # -- the steps ---------------------------------------------------------------------------------------------------

    def channels_by_gamma(
        self, percent: float, layer_keep: float, scheme: Scheme, multiple: int, skip: Collection[str]
    ) -> Plan:
        from porter.compress.channels import analyse
        from porter.compress.masks import make_plan
        from porter.compress.surgery import gammas, prunable

        values = gammas(self.module)
        attempts: tuple[Sizes, ...] = ("rebuilt",) if self._rebuild else ("tensor", "written")
        for sizes in attempts:
            channels = analyse(self.graph, prunable(self.module), sizes)
            plan = make_plan(
                channels, values, percent, layer_keep=layer_keep, scheme=scheme, multiple=multiple, skip=skip
            )
            try:
                module = self._cut(channels, plan)
            except _Unfit as unfit:
                if sizes == attempts[-1]:
                    raise PorterError(
                        "PT605", f"{self.source} does not run with fewer channels", str(unfit),
                        "Its code writes a channel count out. Take it from the tensor instead (x.shape[1], flatten(1), "
                        "chunk), keep these layers with skip, or have the code written anew (rebuild).",
                    ) from None  # fmt: skip
                continue
            break
        self.module = module
        self.layers = tuple(
            LayerReport(
                layer.path, len(layer.outputs), len(plan.kept(layer.outputs)),
                float(values[layer.path].mean()), float(values[layer.path].max()),
            )
            for layer in channels.norms() if layer.path in values
        )  # fmt: skip
        self.findings += _kept_findings(channels)
        self.graph = self._capture()
        self._note("after channels")
        return plan

    def _cut(self, channels: Channels, plan: Plan) -> nn.Module:
        """The module without the channels, proved; raises _Unfit when it is another function."""
        from porter.compress.blocks import followers
        from porter.compress.rebuild import regenerate
        from porter.compress.surgery import cut, fold, removed_constants, silence

        self.say("cutting channels")
        behind = followers(self.graph)
        made = self.module
        for beta in (True, False):
            silent = copy.deepcopy(self.module)
            silence(silent, channels, plan, beta=beta)
            constants = removed_constants(silent, channels, plan, self._samples)
            made = copy.deepcopy(self.module)
            fold(made, channels, constants, behind)
            cut(made, channels, plan)
            if self._rebuild:
                made = regenerate(self.graph, channels, plan, made)
            error = self._difference(silent, made)
            if beta:
                self.structure = error
                quiet = not any(bool(values.any()) for values in constants.values())
                if quiet and error > TOLERANCE:
                    raise _Unfit(f"an output differs by {error:.2g} of its range")
            else:
                self.folding = error
        return made

    def remove_blocks(self, count: int) -> tuple[BlockReport, ...]:
        from porter.compress.blocks import find_blocks, remove_block
        from porter.compress.surgery import gammas, prunable

        done: list[BlockReport] = []
        while len(done) < count:
            self.say(f"removing shortcut block {len(done) + 1} of {count}")
            blocks = find_blocks(self.graph, prunable(self.module), gammas(self.module))
            if not blocks:
                raise PorterError(
                    "PT604", f"{self.source} has {len(done)} shortcut blocks that can go, not {count}",
                    fix="A block can go when it adds a chain of layers to its own input.",
                )  # fmt: skip
            block = blocks[0]
            lost = remove_block(self.module, self.graph, block)
            done.append(BlockReport(block.paths, block.mean_gamma, tuple(dict.fromkeys(lost))))
            if lost:
                self.findings.append(
                    Finding(
                        "PT611", "note",
                        f"what the removed block {block.norm} gave on average is lost at {', '.join(done[-1].lost_at)}",
                        fix="Fine-tune the pruned model.",
                    )
                )  # fmt: skip
            self.graph = self._capture()
        gone = {path for block in done for path in block.paths}
        self.layers = tuple(replace(layer, remaining=0) if layer.path in gone else layer for layer in self.layers)
        self._note("after layers")
        return tuple(done)

    def finetune(self, train: Finetune | str) -> None:
        self.say("fine-tuning")
        trained = _function(train, "--finetune")(self.module)
        self.module = (self.module if trained is None else trained).eval()
        self.graph = self._capture()
        self._note("after fine-tune")

    def apply(
        self, mask: Callable[[nn.Module, Pattern], list[MaskedLayer]], pattern: Pattern
    ) -> tuple[MaskedLayer, ...]:
        done = mask(self.module, pattern)
        self.graph = self._capture()
        self._note(f"after mask {pattern}")
        return tuple(done)

    # -- measuring ---------------------------------------------------------------------------------------------------

    def _capture(self) -> Graph:
        from porter.compress.blocks import drop_zero_sums
        from porter.loading import load

        graph = load(self.module, self._inputs)
        drop_zero_sums(graph)
        return graph

    def _note(self, name: str) -> None:
        """Count the captured graph; ask the user's metric and onnxruntime where they are wanted."""
        from porter.latency import count, estimate, measure

        counts = count(self.graph)
        metric = None
        if self._metric is not None:
            self.say(f"measuring the metric {name}")
            metric = _number(self._metric(copy.deepcopy(self.module)))
        self.say(f"timing {name}")
        timed = measure(self.graph) if self._latency else None
        estimated = estimate(self.graph, self.rates).milliseconds if self.rates is not None else None
        parameters, macs = sum(c.params for c in counts), sum(c.macs for c in counts)
        self.stages.append(Stage(name, parameters, macs, metric, timed, estimated))

    def _tensors(self, data: Any) -> list[tuple[Tensor, ...]]:
        """Random inputs, and the first of the user's."""
        import torch

        from porter.data import open_data, random_inputs

        arrays: list[Sequence[Any]] = list(random_inputs(self.graph.inputs, 2, 0))
        if data is not None:
            arrays += open_data(data, self.graph.inputs).take(2)
        return [tuple(torch.from_numpy(array) for array in item) for item in arrays]

    def _difference(self, reference: nn.Module, other: nn.Module) -> float:
        """The largest difference of an output over the samples, as a share of the range of its column."""
        import torch
        from torch.utils._pytree import tree_leaves

        worst = 0.0
        reference, other, samples = _in_double(reference, other, self._samples)
        with torch.no_grad():
            for sample in samples:
                try:
                    pairs = zip(tree_leaves(reference(*sample)), tree_leaves(other(*sample)), strict=True)
                except PorterError:
                    raise
                except Exception as failure:
                    raise _Unfit(f"{type(failure).__name__}: {failure}") from failure
                for want, got in pairs:
                    if want.shape != got.shape:
                        raise _Unfit(f"an output is {tuple(got.shape)}, not {tuple(want.shape)}")
                    error = _relative(want, got)
                    if error != error:
                        raise _Unfit("an output is not a number")
                    worst = max(worst, error)
        return worst


def _in_double(
    reference: nn.Module, other: nn.Module, samples: list[tuple[Tensor, ...]]
) -> tuple[nn.Module, nn.Module, list[tuple[Tensor, ...]]]:
    """Two modules and their inputs in float64, where rounding hides no difference; unchanged where the code of the
    first insists on another width."""
    import torch

    wide = copy.deepcopy(reference).double()
    inputs = [tuple(t.double() if t.is_floating_point() else t for t in sample) for sample in samples]
    try:
        with torch.no_grad():
            wide(*inputs[0])
    except RuntimeError:
        return reference, other, samples
    return wide, copy.deepcopy(other).double(), inputs


def _relative(want: Tensor, got: Tensor) -> float:
    """The largest difference as a share of the range that its column has: beside boxes in pixels, a score that is
    wrong in every digit is a small difference. Up to two axes there is one row of values, which share a range."""
    from torch import finfo

    from porter.quantize.report import column_axis

    if not want.numel():
        return 0.0
    # What a column that is constant is held against. Over a whole network some digits more than one are rounding.
    least = 1e6 * finfo(want.dtype).eps * float(want.abs().max()) if want.is_floating_point() else 0.0
    want, got = want.double(), got.double()
    axis = column_axis(want.shape) if want.ndim > 2 else 0
    rows = (want, got) if want.ndim > 2 else (want.reshape(1, -1), got.reshape(1, -1))
    columns, found = (values.movedim(axis, 0).flatten(1) for values in rows)
    spread = (columns.amax(1) - columns.amin(1)).clamp(min=least)
    spread[spread == 0] = 1.0
    return float(((found - columns).abs().amax(1) / spread).max())


def _function(given: Callable[..., Any] | str, option: str) -> Callable[..., Any]:
    """The user's function, found by its name where that was given; its failures are reported as the user's own."""
    from porter.usercode import call_by_name, run_user_code

    function = call_by_name(given, option) if isinstance(given, str) else given
    return lambda module: run_user_code(lambda: function(module), option)


def _rates(target: Target) -> Rates | None:
    """The rates of the first dtype that the target's file gives any for."""
    from porter.latency import Rates

    dtype = next(iter(target.performance.tops), None)
    return Rates.of_target(target, dtype) if dtype is not None else None


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise PorterError(
            "PT608", f"the metric gave a {type(value).__name__}, not a number",
            fix="Let it take the module and return one number.",
        ) from None  # fmt: skip


def _kept_findings(channels: Channels) -> list[Finding]:
    """One note for each place in the user's code that keeps channels of layers with a gamma."""
    found: dict[tuple[str, str], Finding] = {}
    for layer in channels.norms():
        for root in set(channels.tied[layer.outputs].tolist()):
            why = channels.fixed.get(root)
            if why is not None and why.origin.known:
                text = f"{layer.path} keeps its channels: {why.reason}"
                found.setdefault((layer.path, why.reason), Finding("PT610", "note", text, why.origin, kind=layer.kind))
    return list(found.values())
