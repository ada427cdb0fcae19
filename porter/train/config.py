# SPDX-License-Identifier: Apache-2.0
"""The configuration of a model: one Python file whose module-level names say how it is trained, quantized and emitted.

:class:`Config` lists the names; :func:`load_config` reads a file. Every other name of the file is the user's own, but
one that is almost a name of the configuration which the file does not define is taken for a slip of the pen, as is an
unknown one that ends as the names of the configuration do (``_trainer``, ``_predictor``, ``_loader``, ``_cfg``). A name
that begins with an underscore is never looked at.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_type_hints

from porter.errors import PorterError
from porter.files import input_file
from porter.train.typed import checked, fill, nearest, said
from porter.usercode import run_user_code

__all__ = [
    "STAGES", "CalibrationTrainer", "CompileCfg", "Config", "Converter", "IntInferTrainer", "Loader",
    "Optimizer", "Predictor", "Published", "QatTrainer", "QuantizeCfg", "Schedule", "Stage", "Training", "load_config",
]  # fmt: skip

Stage = Literal["float", "calibration", "qat", "int_infer"]
#: The stages, in the order in which they run.
STAGES: tuple[Stage, ...] = get_args(Stage)
ConverterKind = Literal["LoadCheckpoint", "Float2Calibration", "Float2QAT", "QAT2Quantize"]
Function = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Converter:
    """One step from a new model to the one that a stage runs.

    ``LoadCheckpoint`` reads the best checkpoint of ``stage``, or the file ``path`` (any checkpoint that porter reads,
    without running what it pickles): ``allow_miss`` tolerates parameters that the file lacks, ``ignore_extra`` tensors
    that the model has no place for. The others take no options.
    """

    type: ConverterKind
    stage: Stage | None = None
    path: str | None = None
    allow_miss: bool = False
    ignore_extra: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """``type`` is called with groups of parameters, ``lr`` and the other keys (``momentum``, ``weight_decay``, ...).

    ``params`` gives options of its own to every parameter whose name holds a text: ``{"weight": {"weight_decay":
    4e-5}}``. ``no_decay`` sets the weight decay of parameters to 0: True for every one of one dimension (biases, the
    gamma and beta of norms), or texts that their names hold.
    """

    type: Function
    lr: float
    params: Mapping[str, Any] = field(default_factory=dict)
    no_decay: bool | tuple[str, ...] = False
    rest: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The learning rate as a share of the optimizer's, step by step.

    ``constant``; ``cosine`` from 1 down to ``final`` at the last step; ``step``: times ``gamma`` at the begin of each
    of ``decay_epochs`` (counted from 0). All rise linearly from ``warmup_factor`` during the first ``warmup_epochs``.
    """

    type: Literal["constant", "cosine", "step"] = "constant"
    warmup_epochs: float = 0.0
    warmup_factor: float = 0.0
    decay_epochs: tuple[int, ...] = ()
    gamma: float = 0.1
    final: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """``float_trainer``: how a stage trains.

    ``ema``: keep an average of the parameters with this decay (True: 0.9998), which is what is validated and saved as
    best. ``sync_bn``: batch norms use the statistics of all processes. ``clip_grad``: the largest norm of the gradient.
    ``val_interval``: epochs from one validation to the next; the last epoch is always validated. ``freeze_bn_after``:
    the epoch (counted from 0) from which batch norms normalize with their running statistics, and keep them, as they
    will in evaluation; in QAT only with ``with_bn``.
    """

    optimizer: Optimizer
    num_epochs: int
    schedule: Schedule = Schedule()
    ema: bool | float = False
    sync_bn: bool = False
    clip_grad: float | None = None
    val_interval: int = 1
    freeze_bn_after: int | None = None
    converters: tuple[Converter, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QatTrainer(Training):
    """``qat_trainer``: :class:`Training`, and how the network is converted.

    ``qat_mode``: batch norms are folded before (``fuse_bn``) or at the end (``with_bn``). ``activation_scales``:
    ``learned`` with the weights (LSQ), or ``fixed`` at what calibration found.
    """

    qat_mode: Literal["fuse_bn", "with_bn"] = "fuse_bn"
    activation_scales: Literal["learned", "fixed"] = "learned"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationTrainer:
    """``calibration_trainer``: batches of data whose ranges an observer takes (see ``porter quantize --observer``).

    ``qat_mode`` is that of ``qat_trainer``; it is needed only where there is none.
    """

    num_steps: int = 10
    observer: str = "min_max"
    qat_mode: Literal["fuse_bn", "with_bn"] | None = None
    converters: tuple[Converter, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IntInferTrainer:
    """``int_infer_trainer``: the deploy model in integers; nothing is trained."""

    converters: tuple[Converter, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """A data loader: what torch's DataLoader is made of. ``dataset`` is a data set, or a function that makes one.

    With several processes each takes its share of the data set, the training data in an order that changes with every
    epoch; so there is no ``sampler``.
    """

    dataset: Any
    batch_size: int = 1
    shuffle: bool = False
    num_workers: int = 0
    collate_fn: Function | None = None
    drop_last: bool = False
    pin_memory: bool = False
    persistent_workers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileCfg:
    """``compile_cfg``: what int_infer writes for the device, and where: the folder ``name`` (default: the task's) in
    ``out_dir`` (default: ``compile`` in the checkpoint folder).

    ``formats``: ``onnx`` (float, with encodings beside it), ``qdq`` (quantized ONNX, which ``porter validate`` reads)
    and ``traced`` (TorchScript). ``opset``: of the float ONNX; default: the newest that the target takes.
    """

    name: str | None = None
    out_dir: str | None = None
    opset: int | None = None
    formats: tuple[Literal["onnx", "qdq", "traced"], ...] = ("onnx", "qdq", "traced")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeCfg:
    """``quantize_cfg``: which integers the network is converted to, in every stage alike.

    ``width``: of everything that is not pinned, as the target names it ("int8"; "w8a16": weights of 8 bits, activations
    of 16). ``pins``: other widths, or "float", by layer, op or value, or a pattern of such; what the target does not
    have is refused.
    """

    width: str = "int8"
    pins: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """``float_predictor`` and so on: what ``porter predict`` does otherwise than the stage's own validation."""

    data_loader: Loader | Function | None = None
    metric: Function | None = None
    converters: tuple[Converter, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """``published``: figures that others state of the model, printed beside porter's own; ``source`` says who does."""

    source: str
    parameters: float | None = None
    macs: float | None = None
    milliseconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration file, checked.

    task_name: what messages and files call the task.
    target: the device: a name (``porter targets``) or the path of a .toml.
    model: () -> nn.Module; its forward takes float[N, C, H, W] and returns a tensor or a tuple of tensors: the raw
        outputs, without losses and without decoding.
    deploy_model: the same parameters under the same names, for ``deploy_inputs``; default: ``model``.
    deploy_inputs: the inputs of the deploy model by name, with N = 1; or a function that returns them.
    output_names: of the deploy model's outputs, in order.
    loss: (outputs, batch) -> dict of scalar tensors, whose sum is minimized.
    data_loader, val_data_loader, calibration_data_loader: a :class:`Loader`, or a function that takes
        ``sampler(dataset, shuffle)`` (which returns the sampler of this process, or None) and returns a DataLoader.
        A batch is a dict with "img" and whatever loss and metric read. Calibration takes the training data where it has
        none of its own.
    metric: () -> an object with ``reset()``, ``update(outputs, batch)``, ``compute() -> dict[str, float]``; for several
        processes also ``state()`` and ``merge(list of states)``.
    monitor, mode: the figure of the metric by which the best checkpoint is chosen, and which end of it is best.
    ckpt_dir: the folder of the checkpoints; default ``./runs/<task_name>``.
    seed: of the weights, the order of the data and every random choice.
    device: "cpu", "cuda" or None (cuda where there is one).
    outputs: how outputs leave the device, as :class:`porter.train.qat.OutputRule` says: ``int8_output``,
        ``int16_output`` and ``dequant_output`` of all outputs, or a dict of such by output name or pattern. Those of
        the deploy model are never dequantized.
    preprocess: a PIL image -> float[3, H, W] or float[1, 3, H, W]; for ``porter infer``. The image is taken to be fit
        into the top left corner, its sides in proportion; else return also the scale: pixels of the input for one of
        the image, or such of x and y.
    post_process: list of output arrays (N = 1, dequantized) -> float[n, 6] of x1, y1, x2, y2, score, class in pixels of
        the input; for ``porter infer``.
    class_names: of the classes, for ``porter infer``.
    host_filter: what the host does with the outputs; an object with ``emit(folder, outputs, class_names)``, which
        int_infer calls to have files of it beside the deploy model. Each output has ``name``, ``dtype``, ``scale``,
        ``zero_point`` and ``dequantized`` (:class:`porter.train.qat.integers.Output`).
    """

    task_name: str
    target: str
    model: Function
    deploy_model: Function | None = None
    deploy_inputs: Mapping[str, Any] | Function
    output_names: tuple[str, ...] | None = None
    loss: Function | None = None
    data_loader: Loader | Function | None = None
    val_data_loader: Loader | Function | None = None
    calibration_data_loader: Loader | Function | None = None
    metric: Function | None = None
    monitor: str | None = None
    mode: Literal["max", "min"] = "max"
    ckpt_dir: str | None = None
    seed: int = 0
    device: Literal["cpu", "cuda"] | None = None
    float_trainer: Training | None = None
    calibration_trainer: CalibrationTrainer | None = None
    qat_trainer: QatTrainer | None = None
    int_infer_trainer: IntInferTrainer = IntInferTrainer()
    float_predictor: Predictor = Predictor()
    calibration_predictor: Predictor = Predictor()
    qat_predictor: Predictor = Predictor()
    int_infer_predictor: Predictor = Predictor()
    outputs: Mapping[str, Any] | None = None
    quantize_cfg: QuantizeCfg = QuantizeCfg()
    compile_cfg: CompileCfg = CompileCfg()
    preprocess: Function | None = None
    post_process: Function | None = None
    class_names: tuple[str, ...] = ()
    host_filter: Any = None
    published: Published | None = None
    #: The file it was read from.
    path: Path = Path()

    @property
    def folder(self) -> Path:
        """Where the checkpoints are."""
        return Path(self.ckpt_dir or f"runs/{self.task_name}")

    def need(self, name: str, what: str) -> Any:
        """The value of a name that ``what`` cannot do without.

        Raises:
            PorterError: PT702 when the file does not define it.
        """
        value = getattr(self, name)
        if value is None:
            raise PorterError(
                "PT702", f"{what} needs {name!r}, which {self.path.name} does not define", str(self.path),
                f"Define {name} at the top level of the file.",
            )  # fmt: skip
        return value

    @property
    def qat_mode(self) -> Literal["fuse_bn", "with_bn"]:
        """How batch norms are converted, in every stage alike."""
        if self.qat_trainer is not None:
            return self.qat_trainer.qat_mode
        return (self.calibration_trainer and self.calibration_trainer.qat_mode) or "fuse_bn"

    @property
    def conversion(self) -> dict[str, Any]:
        """What decides of the scales which they are, as JSON has it: a checkpoint with others is of no use."""
        outputs = None if self.outputs is None else {key: _plain(value) for key, value in self.outputs.items()}
        chosen = self.quantize_cfg
        return {"target": self.target, "width": chosen.width, "pins": dict(chosen.pins), "outputs": outputs}

    def predictor(self, stage: Stage) -> Predictor:
        """The predictor of a stage."""
        return getattr(self, f"{stage}_predictor")  # type: ignore[no-any-return]

    def converters(self, stage: Stage) -> tuple[Converter, ...]:
        """The converters of a stage: its trainer's own, or the usual order.

        Calibration loads the float model and converts it; QAT converts first, since the checkpoint of the calibration
        is a converted one; integers load the last stage that was trained, and ignore what the deploy model lacks.
        """
        trainer = getattr(self, f"{stage}_trainer")
        if trainer is not None and trainer.converters is not None:
            return trainer.converters  # type: ignore[no-any-return]
        before: Stage = "calibration" if self.qat_trainer is None else "qat"
        usual: dict[Stage, tuple[Converter, ...]] = {
            "float": (),
            "calibration": (Converter(type="LoadCheckpoint", stage="float"), Converter(type="Float2Calibration")),
            "qat": (Converter(type="Float2QAT"), Converter(type="LoadCheckpoint", stage="calibration")),
            "int_infer": (
                Converter(type="Float2QAT"),
                Converter(type="LoadCheckpoint", stage=before, ignore_extra=True),
                Converter(type="QAT2Quantize"),
            ),
        }
        return usual[stage]


_NAMES = tuple(f.name for f in dataclasses.fields(Config) if f.name != "path")
_ENDINGS = ("_trainer", "_predictor", "_loader", "_cfg")
#: The dataclass of each name that a dictionary fills.
_SECTIONS: dict[str, type] = {
    "float_trainer": Training, "calibration_trainer": CalibrationTrainer, "qat_trainer": QatTrainer,
    "int_infer_trainer": IntInferTrainer, "quantize_cfg": QuantizeCfg, "compile_cfg": CompileCfg,
    "published": Published,
    **{f"{stage}_predictor": Predictor for stage in STAGES},
}  # fmt: skip
_LOADERS = ("data_loader", "val_data_loader", "calibration_data_loader")


def load_config(path: str | Path) -> Config:
    """Read a configuration file. The file is the user's own Python code, and is run.

    Raises:
        PorterError: PT501 when there is no such file; PT520 when its own code fails; PT700 for a name or key that there
            is not, PT701 for a value of the wrong type or that cannot be, PT702 for a name that is missing.
    """
    file = input_file(path)
    if file.suffix != ".py":
        raise PorterError("PT701", f"{file.name} is not a Python file", str(file), "Name the .py of the configuration.")
    module = run_user_code(lambda: _run(file), str(file))
    own = {name: value for name, value in vars(module).items() if _is_users_value(name, value)}
    _refuse_slips(own, file)
    given = {name: own[name] for name in _NAMES if name in own}
    hints = get_type_hints(Config)
    values: dict[str, Any] = {"path": file}
    for name, value in given.items():
        where = f"{file}: {name}"
        if name in _SECTIONS:
            if value is not None:
                values[name] = _section(_SECTIONS[name], value, where)
        elif name in _LOADERS:
            values[name] = _loader(value, where)
        else:
            values[name] = checked(hints[name], value, where)
    for one in dataclasses.fields(Config):
        required = one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
        if required and one.name not in values:
            raise PorterError(
                "PT702", f"{file.name} does not define {one.name!r}, which every configuration needs", str(file),
                f"Define {one.name} at the top level of the file.",
            )  # fmt: skip
    config = Config(**values)
    if config.outputs is not None and config.output_names is not None:
        from porter.train.qat.outputs import output_rules

        output_rules(config.outputs, config.output_names)
    _check_values(config)
    return config


def _run(file: Path) -> ModuleType:
    # Its own folder must be importable, as it is for `python file.py`; a file in a package keeps its dotted name.
    parts, folder = [file.stem], file.resolve().parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    for place in (str(Path.cwd()), str(folder)):
        if place not in sys.path:
            sys.path.insert(0, place)
    if len(parts) > 1:
        return importlib.import_module(".".join(parts))
    name = file.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) != str(file.resolve()):
        # Another module has that name already; it must keep it.
        name = f"_porter_config_{name}"
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    # The workers of a data loader look up the classes of a data set by the name of their module.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _is_users_value(name: str, value: Any) -> bool:
    return not name.startswith("_") and not inspect.ismodule(value) and getattr(value, "__module__", "") != "__future__"


def _refuse_slips(own: Mapping[str, Any], file: Path) -> None:
    absent = [name for name in _NAMES if name not in own]
    for name, value in own.items():
        if name in _NAMES or inspect.isclass(value):
            continue
        near = nearest(name, absent, cutoff=0.8)
        if near is None and name.endswith(_ENDINGS):
            near = nearest(name, _NAMES)
        if near is not None:
            raise PorterError(
                "PT700", f"{file.name} defines {name!r}, which is no name of a configuration", str(file),
                f"Did you mean {near!r}? Write _{name} if it is a name of your own.",
            )  # fmt: skip


def _section(cls: type, value: Any, where: str) -> Any:
    """An object of ``cls`` from a dictionary, with the dictionaries inside it."""
    if not isinstance(value, Mapping):
        raise PorterError("PT701", f"this must be a dict, and is {said(value)}", where)
    made = dict(value)
    if "optimizer" in made:
        made["optimizer"] = fill(Optimizer, made["optimizer"], f"{where}['optimizer']", free=True)
    if "schedule" in made:
        made["schedule"] = fill(Schedule, made["schedule"], f"{where}['schedule']")
    if isinstance(made.get("converters"), Sequence):
        made["converters"] = tuple(
            _converter(one, f"{where}['converters'][{i}]") for i, one in enumerate(made["converters"])
        )
    if "data_loader" in made:
        made["data_loader"] = _loader(made["data_loader"], f"{where}['data_loader']")
    return fill(cls, made, where)


def _converter(value: Any, where: str) -> Converter:
    made = fill(Converter, value, where)
    loads = made.type == "LoadCheckpoint"
    if loads and (made.stage is None) == (made.path is None):
        raise PorterError("PT701", "it loads either the best checkpoint of a stage, or a file", where,
                          'Give one of stage="float" and path="file".')  # fmt: skip
    if not loads and (made.stage or made.path or made.allow_miss or made.ignore_extra):
        raise PorterError("PT701", f"{made.type} takes no options", where, "Take the other keys away.")
    return made


def _loader(value: Any, where: str) -> Any:
    if value is None or not isinstance(value, Mapping):
        if value is not None and not callable(value):
            raise PorterError("PT701", f"this must be a dict or a function, and is {said(value)}", where)
        return value
    made = fill(Loader, value, where)
    _at_least(made.batch_size, 1, f"{where}['batch_size']")
    return made


def _at_least(value: float, least: float, where: str) -> None:
    if value < least:
        raise PorterError("PT701", f"this must be at least {least:g}, and is {value:g}", where)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _check_values(config: Config) -> None:
    """Values that nothing can be done with."""
    if config.host_filter is not None and not callable(getattr(config.host_filter, "emit", None)):
        raise PorterError("PT701", "this must be an object with emit(folder, outputs, class_names), and is "
                          f"{said(config.host_filter)}", f"{config.path}: host_filter")  # fmt: skip
    for pattern, width in config.quantize_cfg.pins.items():
        checked(str, width, f"{config.path}: quantize_cfg['pins'][{pattern!r}]")
    for name in ("float_trainer", "qat_trainer"):
        trainer: Training | None = getattr(config, name)
        if trainer is None:
            continue
        where = f"{config.path}: {name}"
        _at_least(trainer.num_epochs, 1, f"{where}['num_epochs']")
        _at_least(trainer.val_interval, 1, f"{where}['val_interval']")
        _at_least(trainer.optimizer.lr, 0, f"{where}['optimizer']['lr']")
        _at_least(trainer.schedule.warmup_epochs, 0, f"{where}['schedule']['warmup_epochs']")
        if not isinstance(trainer.ema, bool) and not 0 < trainer.ema < 1:
            raise PorterError("PT701", f"a decay is between 0 and 1, and this is {trainer.ema:g}", f"{where}['ema']")
    calibration, qat = config.calibration_trainer, config.qat_trainer
    if calibration is not None:
        where = f"{config.path}: calibration_trainer"
        _at_least(calibration.num_steps, 1, f"{where}['num_steps']")
        if qat is not None and calibration.qat_mode not in (None, qat.qat_mode):
            raise PorterError(
                "PT701", f"qat_mode is {calibration.qat_mode!r} here and {qat.qat_mode!r} in qat_trainer; both convert "
                "the same network", where, "Leave it out here.",
            )  # fmt: skip
