# SPDX-License-Identifier: Apache-2.0
"""The functions behind ``import porter``: each joins the parts for one job and returns a typed result.

``model`` is everywhere a path, an ``nn.Module``, an ``onnx.ModelProto`` or a :class:`~porter.graph.Graph`; ``target`` a
:class:`~porter.target.Target`, the name of one, or the path of a .toml. Heavy imports happen inside the functions, so
that ``import porter`` takes milliseconds and the ONNX path never imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from porter.checkpoint import ResaveReport
    from porter.debug import Dump, Parting
    from porter.emit.bundle import Bundle
    from porter.findings import Report
    from porter.graph import Graph
    from porter.legalize import Ledger
    from porter.ops import Array
    from porter.quantize.encodings import Encodings
    from porter.quantize.engine import Quantized
    from porter.quantize.running import Ran
    from porter.target import Target
    from porter.verify import Evidence

__all__ = [
    "SAMPLES", "Ported", "Rewritten", "check", "comparable", "debug", "emit", "port", "quantize", "resave", "rewrite",
    "run", "save", "verify",
]  # fmt: skip

Progress = Callable[[str], None]
#: Inputs made for a proof when the user gives no data.
SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What ``rewrite`` made: the graph, what was done to it, the proof (None when it was not asked for), the verdict of
    every op of the result (``report``) and of the original (``before``)."""

    graph: Graph
    ledger: Ledger
    evidence: Evidence | None
    report: Report
    before: Report

    @property
    def ok(self) -> bool:
        """Legal now, and proved equal where a proof was asked for."""
        return self.report.ok and (self.evidence is None or self.evidence.ok)

    def save(self, out: str | Path, *, overwrite: bool = False) -> Path:
        """Write it (see :func:`save`)."""
        return save(self, out, overwrite=overwrite)


@dataclass(frozen=True, slots=True)
class Ported:
    """What ``port`` made, step by step. ``bundle`` is None, and nothing was written, when ``rewritten`` is not ok."""

    rewritten: Rewritten
    quantized: tuple[Quantized, ...] = ()
    bundle: Bundle | None = None

    @property
    def ok(self) -> bool:
        """The bundle is there, and no quantized version has an error among its findings."""
        return self.bundle is not None and all(made.ok for made in self.quantized)


def check(
    model: Any,
    target: Target | str | Path,
    inputs: Any = None,
    *,
    allow: Collection[str] = (),
    explain: bool = False,
    **loading: Any,
) -> Report:
    """Say of every op whether the target runs it, why not, where it comes from, and which rewrite fixes it.

    Args:
        model: see the module.
        target: see the module.
        inputs: shapes, where the model does not fix them (``{"images": (1, 3, 640, 640)}`` or
        ``"images:1x3x640x640"``).
        allow: claims that may be counted on beside exact and bounded: "approximate", "retrain".
        explain: the report says of every op that is not legal which candidates the planner considered.
        loading: ``factory``, ``factory_args``, ``run_pickled_code``, as :func:`porter.loading.load` takes them.

    Raises:
        PorterError: the model, the target or an option is wrong.
    """
    from porter.legalize import check
    from porter.loading import load
    from porter.partition.make import outlook
    from porter.quantize.bounds import foreseen

    chosen = _target(target)
    graph = load(model, inputs, **loading)
    report = check(graph, chosen, _claims(allow), explain=explain)
    conflicts = foreseen(graph, chosen)
    said, cut = outlook(graph, chosen, report, _claims(allow), conflicts)
    proposed = [cut.finding()] if cut is not None else []
    return replace(report, findings=(*report.findings, *conflicts, *proposed), outlook=said)


def rewrite(
    model: Any,
    target: Target | str | Path,
    inputs: Any = None,
    *,
    allow: Collection[str] = (),
    apply: Sequence[str] = (),
    verify: bool = True,
    data: Any = None,
    samples: int = SAMPLES,
    seed: int = 0,
    tolerance: float = 1e-4,
    explain: bool = False,
    opset: int | None = None,
    open_batch: bool = False,
    progress: Progress | None = None,
    **loading: Any,
) -> Rewritten:
    """Make the model legal for the target and prove that it is still the same model.

    Args:
        model, target, inputs, allow, loading: as for :func:`check`.
        apply: optional rewrites to apply as well, such as "fold_batch_norm" and "focus_to_conv".
        verify: run both models and compare (the ledger says so when this is off).
        data: inputs to compare on, as :func:`porter.data.open_data` takes them, beside ``samples`` random ones.
        samples: how many random inputs to compare on.
        seed: of the random inputs.
        tolerance: the largest difference allowed, as a share of an output's range.
        explain: the report of the original says which candidates the planner considered.
        opset: the ONNX opset of the result (default: the model's own, or the nearest that the target takes).
        open_batch: of an ONNX model whose inputs leave the first axis open, leave it open (see
            :mod:`porter.open_batch`); proved on random inputs of several batches.
        progress: called with a short text at each step.

    Raises:
        PorterError: the model, the target, the data or an option is wrong.
    """
    from porter.legalize import legalize
    from porter.loading import load
    from porter.partition.make import outlook

    if verify:
        comparable(data, samples)
    chosen = _target(target)
    if open_batch:
        from porter.open_batch import rewrite_open

        new, ledger, before, after, evidence = rewrite_open(
            model, chosen, _claims(allow), apply, inputs=inputs, data=data, verify=verify, samples=samples, seed=seed,
            tolerance=tolerance, explain=explain, opset=opset, progress=progress, loading=loading,
        )  # fmt: skip
        said, _ = outlook(new, chosen, after, rewritten=True)
        return Rewritten(new, ledger, evidence, replace(after, outlook=said), before)
    graph = load(model, inputs, **loading)
    new, ledger, before, after = legalize(graph, chosen, _claims(allow), apply, progress, explain=explain, opset=opset)
    evidence = None
    if verify:
        evidence = _prove(graph, new, ledger, _samples(graph, data, samples, seed), tolerance, progress)
    said, _ = outlook(new, chosen, after, rewritten=True)
    return Rewritten(new, ledger, evidence, replace(after, outlook=said), before)


def _prove(
    graph: Graph,
    new: Graph,
    ledger: Ledger,
    inputs: Iterable[Sequence[Array]],
    tolerance: float,
    progress: Progress | None,
) -> Evidence:
    from porter.verify import verify

    taps = [entry.value for entry in ledger.entries]
    evidence = verify(graph, new, inputs, taps, tolerance, progress)
    for entry in ledger.entries:
        entry.measured = evidence.taps.get(entry.value)
    outcome = "equal" if evidence.ok else "NOT equal"
    ledger.proof = f"{outcome} within {tolerance:g} of each output's range on {evidence.inputs} inputs"
    return evidence


def verify(
    before: Any,
    after: Any,
    inputs: Any = None,
    *,
    data: Any = None,
    samples: int = SAMPLES,
    seed: int = 0,
    tolerance: float = 1e-4,
    progress: Progress | None = None,
) -> Evidence:
    """Compare two models on the same inputs: every output, and every value that has the same name in both.

    Raises:
        PorterError: PT331 when their outputs cannot be compared, PT519 without ``data`` and ``samples``.
    """
    from porter.loading import load
    from porter.verify import verify

    comparable(data, samples)
    reference, other = load(before, inputs), load(after, inputs)
    taps = [out.name for op in reference.ops() for out in op.outputs if out.shape is not None]
    return verify(reference, other, _samples(reference, data, samples, seed), taps, tolerance, progress)


def debug(
    reference: Any,
    other: Any,
    inputs: Any = None,
    *,
    data: Any = None,
    preprocess: Any = None,
    order: Any = None,
    min_sqnr: float = 20.0,
    samples: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
    **loading: Any,
) -> Parting:
    """Find the first tensor at which two models part; see :func:`porter.debug.find_parting`.

    Args:
        reference, other: models (see the module), or paths of ``.npz`` dumps: tensors by name.
        inputs, loading: as for :func:`check`, for both.
        data: inputs to run on, as :func:`porter.data.open_data` takes them; else ``samples`` random ones by ``seed``.
        preprocess: a TOML that says how images become inputs (needed for a folder of images).
        order: for two dumps, the model whose order of computation and lines are used.
        min_sqnr: in dB; a tensor under it parts.
        progress: called with a short text at each step.

    Raises:
        PorterError: PT470 to PT472; a model or an option is wrong.
    """
    from porter.debug import Dump, find_parting
    from porter.loading import load

    def side(given: Any) -> Graph | Dump:
        if isinstance(given, (str, Path)) and Path(given).suffix == ".npz":
            return Dump(given)
        return load(given, inputs, **loading)

    sides = side(reference), side(other)
    graphs = [one for one in sides if not isinstance(one, Dump)]
    along = load(order, inputs, **loading) if order is not None else None
    # A dump is of one particular input: random ones would only seem to be compared.
    count = samples if len(graphs) == 2 and data is None else 0
    feeds = _samples(graphs[0], data, count, seed, preprocess) if graphs else ()
    return find_parting(*sides, feeds, order=along, min_sqnr=min_sqnr, progress=progress)


def quantize(
    model: Any,
    target: Target | str | Path,
    calibration: Any,
    inputs: Any = None,
    *,
    dtype: str | None = None,
    preprocess: Any = None,
    encodings: Any = None,
    metric: Any = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    loading: Mapping[str, Any] | None = None,
    **options: Any,
) -> Quantized:
    """Find the quantization parameters of a legal model and simulate the quantized device.

    Where the target's tensors are integers between its ops, batch norms are folded into the layers before them first.

    Args:
        model, target, inputs: as for :func:`check`.
        calibration: a folder of images, an .npy or .npz, ``module:function``, or an iterable of input lists.
        dtype: a width of the target ("int16", "int8", "w8a16"), or "auto": one for each layer. Default: int16, or the
            first width of a target without it.
        preprocess: a TOML that says how images become inputs (needed for a folder of images).
        encodings: found elsewhere, used in place of what calibration finds: a JSON file of porter's or of AIMET's, or
            what :func:`porter.quantize.adopt.read_encodings` made of one.
        metric: for "auto" with ``max_drop``: a function, or its name as ``module:function``, that is called with
            ``predict`` (a list of input arrays to the list of outputs) and returns a number, higher is better.
        force: quantize although the target does not run every op.
        progress: called with (done, total) samples.
        loading: ``factory``, ``factory_args``, ``run_pickled_code``, as :func:`porter.loading.load` takes them.
        options: as :func:`porter.quantize.engine.quantize` takes them (``observer``, ``per_channel``, ...).

    Raises:
        PorterError: PT320 when the model is not legal for the target; the calibration data do not fit; a layer's
        values are
            not finite.
    """
    from porter.data import open_data
    from porter.loading import load
    from porter.quantize.adopt import read_encodings
    from porter.quantize.engine import quantize
    from porter.quantize.mixed import metric_by_name

    chosen = _target(target)
    judge = metric_by_name(metric) if isinstance(metric, str) else metric
    given = read_encodings(encodings) if isinstance(encodings, (str, Path)) else encodings
    graph = load(model, inputs, **(loading or {}))
    if not force:
        _require_legal(graph, chosen, "quantize")
    graph = _quantizable(graph, chosen)
    data = open_data(calibration, graph.inputs, preprocess)
    return quantize(graph, chosen, dtype, data, encodings=given, metric=judge, progress=progress, **options)


def run(
    model: Any,
    target: Target | str | Path | None = None,
    inputs: Any = None,
    *,
    form: str = "int",
    encodings: Encodings | str | Path | None = None,
    data: Any = None,
    preprocess: Any = None,
    taps: Sequence[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
    **loading: Any,
) -> Ran:
    """Run a quantized model as its device does, in true integers; or fake-quantized; or any model in float.

    Args:
        model, inputs, loading: as for :func:`check`; with QuantizeLinear and DequantizeLinear inside (what
            :func:`quantize` writes, or any QDQ ONNX), or a float model with ``encodings``.
        target: whose numerics to follow; default: that of the encodings, else ONNX's own rules.
        form: "int", "fake" or "float"; see :mod:`porter.quantize.simulate`.
        encodings: of this very model, or their file.
        data, preprocess: inputs as for :func:`quantize`; one random input without them.
        taps: names or patterns of values that are wanted beside the outputs.
        seed: of the random input.
        progress: called with a short text at each run.

    Raises:
        PorterError: PT412, PT413 for encodings that are damaged or of another model; PT440 when nothing is quantized;
            the model, the target or the data is wrong.
    """
    from porter.data import open_data, random_inputs
    from porter.loading import load
    from porter.quantize.encodings import Encodings
    from porter.quantize.insert import insert
    from porter.quantize.running import run
    from porter.quantize.scheme import Scheme

    graph = load(model, inputs, **loading)
    items = open_data(data, graph.inputs, preprocess) if data is not None else random_inputs(graph.inputs, 1, seed)
    if encodings is not None and form != "float":
        if not isinstance(encodings, Encodings):
            encodings = Encodings.load(encodings)
        target = encodings.target if target is None else target
        graph = insert(graph, encodings)
    scheme = None if target is None or form == "float" else Scheme.of(_target(target))
    return run(graph, items, form, scheme, taps, progress)  # type: ignore[arg-type]


def emit(
    model: Any,
    target: Target | str | Path,
    out: str | Path,
    inputs: Any = None,
    *,
    quantized: Sequence[Quantized] = (),
    rewritten: Rewritten | None = None,
    data: Any = None,
    build: bool = False,
    overwrite: bool = False,
    force: bool = False,
    **loading: Any,
) -> Bundle:
    """Write the directory that goes to the device.

    Args:
        model, target, inputs, loading: as for :func:`check`; the model must be legal for the target.
        out: the folder to make.
        quantized: quantized versions of the model (int16, int8) whose weights go into the bundle.
        rewritten: where the model comes from, for the manifest's ledger and numbers.
        data: golden inputs, as :func:`porter.data.open_data` takes them; random ones otherwise. A vendor's compiler
            calibrates on them too.
        build: run the vendor's compiler on what was written; what it makes goes into the bundle.
        overwrite: replace ``out`` if it exists.
        force: emit although the target does not run every op.

    Raises:
        PorterError: PT320 when the model is not legal for the target; PT510 to PT512 when it cannot be written; with
            ``build`` PT781 when the compiler is not installed and PT784 when it fails.
    """
    from porter.emit.bundle import emit
    from porter.loading import load

    chosen = _target(target)
    graph = load(model, inputs, **loading)
    if not force:
        _require_legal(graph, chosen, "emit")
    if quantized:
        graph = _quantizable(graph, chosen)
    return emit(
        graph,
        chosen,
        Path(out),
        inputs=list(_samples(graph, data, 0 if data is not None else 2, 0)),
        quantized=quantized,
        ledger=rewritten.ledger if rewritten else None,
        evidence=rewritten.evidence if rewritten else None,
        build=build,
        overwrite=overwrite,
    )


def port(
    model: Any,
    target: Target | str | Path,
    calibration: Any,
    out: str | Path,
    inputs: Any = None,
    *,
    dtypes: Sequence[str] = (),
    preprocess: Any = None,
    allow: Collection[str] = (),
    apply: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
    **loading: Any,
) -> Ported:
    """Rewrite, prove, quantize and emit in one go. The bundle is None when the rewritten model is not legal or not
    equal:
    nothing is written then, and the first result says what is left. ``dtypes`` are widths of the target; without any it
    is the one that :func:`quantize` takes.

    Raises:
        PorterError: as for the single steps.
    """
    from porter.data import open_data
    from porter.files import check_output
    from porter.loading import load
    from porter.quantize.engine import quantize
    from porter.quantize.scheme import Scheme

    say = progress or (lambda _text: None)
    check_output(Path(out), overwrite)
    chosen = _target(target)
    widths: list[str] = []
    if calibration is not None:  # a width that the target lacks is told before the work
        scheme = Scheme.of(chosen)
        widths = [scheme.width(name).name for name in dtypes or (scheme.default,)]
    graph = load(model, inputs, **loading)
    data = open_data(calibration, graph.inputs, preprocess) if calibration is not None else None
    golden = data.take(2) if data is not None else None
    rewritten = rewrite(graph, chosen, allow=allow, apply=apply, data=golden, samples=2, progress=say)
    if not rewritten.ok:
        return Ported(rewritten)
    quantized = []
    if data is not None:
        prepared = _quantizable(rewritten.graph, chosen)
        for width in widths:
            count = partial(_say_sample, say, width)
            quantized.append(quantize(prepared, chosen, width, data, progress=count))
    say("writing the bundle")
    # The rewrite has just shown that every op is legal: force saves judging them all again.
    bundle = emit(rewritten.graph, chosen, out, quantized=quantized, rewritten=rewritten,
                  data=golden, overwrite=overwrite, force=True)  # fmt: skip
    return Ported(rewritten, tuple(quantized), bundle)


def resave(
    checkpoint: str | Path, out: str | Path, for_torch: str, format: str = "legacy", *, overwrite: bool = False
) -> ResaveReport:
    """Write a checkpoint's tensors so that the stated torch reads them; see :func:`porter.checkpoint.resave`."""
    from porter.checkpoint import resave

    return resave(Path(checkpoint), Path(out), for_torch=for_torch, format=format, overwrite=overwrite)


def save(made: Rewritten, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write a rewritten model.

    ``out`` ending in .onnx, .pt2 or .pt (TorchScript) is that file. Otherwise it is a folder with the model in its own
    format, ``ledger.json``, ``evidence.json``, ``report.json`` and, for a torch model, ``model.py`` with
    ``weights.pt``: the same network as plain readable PyTorch.

    Raises:
        PorterError: PT510 to PT512 when it cannot be written; nothing is left behind then.
    """
    from porter.files import atomic_dir, atomic_file
    from porter.save import save_folder, save_graph

    path = Path(out)
    if path.suffix in (".onnx", ".pt2", ".pt"):
        with atomic_file(path, overwrite) as temporary:
            save_graph(made.graph, temporary, path.suffix, made.ledger.to_json())
    else:
        with atomic_dir(path, overwrite) as folder:
            save_folder(folder, made.graph, made.ledger, made.report, made.evidence)
    return path


def _target(target: Target | str | Path) -> Target:
    from porter.target import Target

    return target if isinstance(target, Target) else Target.load(target)


def _claims(allow: Collection[str]) -> Any:
    return (allow,) if isinstance(allow, str) else tuple(allow)


def _say_sample(say: Progress, dtype: str, done: int, total: int) -> None:
    say(f"{dtype}: sample {done} of {total}")


def _quantizable(graph: Graph, target: Target) -> Graph:
    """The graph to quantize: weights are constants, and where every tensor is an integer there is no batch norm, which
    would need a requantization of its own."""
    from porter.legalize import legalize
    from porter.quantize.constants import with_constant_operands

    table = target.quantization
    if table is None:
        return graph
    graph = with_constant_operands(graph, {*table.quantized_ops, "batch_norm"})
    if table.flow != "tensors" or all(op.kind != "batch_norm" for op in graph.ops()):
        return graph
    return legalize(graph, target, (), ("fold_batch_norm",))[0]


def comparable(data: Any, samples: int) -> None:
    """Raise PorterError PT519 where there would be no input to compare on: nothing is equal by that."""
    from porter.errors import PorterError

    if data is None and samples < 1:
        what = "there is no input to compare on"
        raise PorterError("PT519", what, "--samples", "Take 1 or more, or give inputs of your own: --data.")


def _samples(graph: Graph, data: Any, count: int, seed: int, preprocess: Any = None) -> Iterable[Sequence[Array]]:
    from porter.data import open_data, random_inputs

    if data is not None:
        yield from open_data(data, graph.inputs, preprocess)
    if count:
        yield from random_inputs(graph.inputs, count, seed)


def _require_legal(graph: Graph, target: Target, verb: str) -> None:
    from porter.errors import PorterError
    from porter.legalize import check

    report = check(graph, target)
    # An op that is only to be folded, though the device could compute it (an Identity of a weight), is legal.
    illegal = [op for op in report.ops if op.verdict != "native" and (op.verdict != "fold" or op.reasons)]
    against = list(dict.fromkeys(op.kind for op in illegal if not report.runs_on_host(op)))
    stops = {"error", "warning"} if report.converts else {"error"}  # a model to be converted has but a warning of it
    against += [f"{one.message} ({one.code})" for one in report.findings if one.severity in stops and not one.kind]
    if against:
        raise PorterError(
            "PT320",
            f"{graph.source} is not legal for {target.name}: {', '.join(against[:8])}{' ...' if against[8:] else ''}",
            fix=f"Run `porter rewrite --target {target.name}` first and {verb} what it writes, use `porter port`, or "
            "insist with --force.",
        )
