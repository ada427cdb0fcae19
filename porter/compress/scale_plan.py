# SPDX-License-Identifier: Apache-2.0
"""What a scaling search is to do: the factory, the range, the requirements and where latency comes from.

A plan is made from an XGen configuration and the caller's own options, which come before it. Everything that can be
wrong with either is said here, before any model is built.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from porter.compress.search import Grid
from porter.compress.xgen import FREE_SECTION, XgenConfig
from porter.errors import PorterError
from porter.findings import Finding
from porter.loading import InputSpec, parse_inputs
from porter.target import Target
from porter.usercode import call_by_name

__all__ = ["UNITS", "Options", "Plan", "Quantity", "Requirement", "make_plan"]

Quantity = Literal["latency", "model_size", "memory_size", "accuracy"]
LatencyFrom = Literal["estimate", "measured"]

#: What can be required, and the unit of its limit. A size is of the weights as the device holds them, the memory that
#: and the activations which live at once; MB is 1e6 bytes. Accuracy is whatever the training function returns.
UNITS: dict[Quantity, str] = {"latency": "ms", "model_size": "MB", "memory_size": "MB", "accuracy": ""}

_RANGE, _STEP, _TRIALS, _SEED = (0.2, 1.0), 0.05, 10, 0
_VARIABLE = "scaling_factor"


@dataclass(frozen=True, slots=True)
class Requirement:
    """A limit on one quantity. A value within ``margin`` (a share of the limit) beyond it still passes."""

    quantity: Quantity
    limit: float
    margin: float = 0.0
    at_least: bool = False

    def violation(self, value: float) -> float:
        """How far beyond limit and margin a value is, as a share of the limit; 0 where it passes."""
        beyond = self.limit - value if self.at_least else value - self.limit
        return max(0.0, beyond / abs(self.limit) - self.margin)

    def __str__(self) -> str:
        sign, unit = ("at least" if self.at_least else "at most"), UNITS[self.quantity]
        margin = f" with a margin of {self.margin:.0%}" if self.margin else ""
        return f"{self.quantity} {sign} {self.limit:g}{' ' if unit else ''}{unit}{margin}"


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller says beside the configuration; None leaves it to the configuration, and then to the default."""

    model: str | Callable[..., Any] | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    train: str | Callable[..., Any] | None = None
    inputs: Any = None
    latency: float | None = None
    model_size: float | None = None
    memory_size: float | None = None
    accuracy: float | None = None
    margin: float | None = None
    trials: int | None = None
    low: float | None = None
    high: float | None = None
    step: float | None = None
    width_offset: float | None = None
    time_limit: float | None = None
    dtype: str | None = None
    latency_from: str = "auto"
    measure: bool = True
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A search, ready to run; names and numbers only where the caller gave names, so that it can be pickled.

    A candidate of factor f has ``width * f`` (plus ``width_offset`` where f is not 1) and ``depth * f``; ``depth`` is
    None for a factory that takes none. ``primary`` is the requirement that the nearest candidate is judged by.
    """

    model: str | Callable[..., Any]
    model_args: Mapping[str, Any]
    train: str | Callable[..., Any] | None
    train_args: Mapping[str, Any]
    target: str
    inputs: tuple[InputSpec, ...]
    dtype: str
    width: float
    depth: float | None
    width_offset: float
    grid: Grid
    requirements: tuple[Requirement, ...]
    lower_is_better: bool
    trials: int
    seed: int
    latency_from: LatencyFrom
    measure: bool
    time_limit: float | None
    opset: int | None
    findings: tuple[Finding, ...] = ()

    def size(self, factor: float) -> tuple[float, float | None]:
        """Width and depth at a scaling factor."""
        offset = 0.0 if factor == 1 else self.width_offset
        return self.width * factor + offset, None if self.depth is None else self.depth * factor

    @property
    def primary(self) -> Requirement:
        return self.requirements[0]

    @property
    def about(self) -> dict[str, Any]:
        """What makes two searches the same one: a study that was made for anything else cannot go on."""
        return {
            "model": _name(self.model), "model arguments": dict(self.model_args),
            "training": _name(self.train) if self.train else None, "training arguments": dict(self.train_args),
            "target": self.target, "inputs": [list(spec) for spec in self.inputs], "dtype": self.dtype,
            "width": self.width, "depth": self.depth, "width offset": self.width_offset,
            "range": [self.grid.low, self.grid.high, self.grid.step], "latency from": self.latency_from,
            "requirements": [str(r) for r in self.requirements], "seed": self.seed,
        }  # fmt: skip


def make_plan(config: XgenConfig, target: Target, options: Options) -> Plan:
    """The search that a configuration and the caller's options describe.

    Raises:
        PorterError: PT621 for a value of the configuration that cannot be; PT519 for an option, or where neither says
            what is needed; PT515 or PT520 where the factory or training function cannot be found or imported; PT628
            where the factory takes no width.
    """
    model = options.model or config.get("porter", "model")
    if model is None:
        raise PorterError(
            "PT519", "there is no model factory", "--model",
            'Name the function that builds the model: --model package.module:function, or "porter": {"model": ...} in '
            "the configuration.",
        )  # fmt: skip
    train = options.train or config.get("porter", "train")
    train_args = {k: v for k, v in config.sections.get(FREE_SECTION, {}).items() if k != _VARIABLE}
    args = {**config.get("porter", "model_args", {}), **options.model_args}
    args, width, depth = _factory(config, model, train_args, args)
    if isinstance(train, str):
        call_by_name(train, "--train")
    lower = bool(config.get("user_requirements", "accuracy_reverse_yn") or config.get("train", "accuracy_reverse_yn"))
    requirements = _requirements(config, options, lower)
    if train is None and any(r.quantity == "accuracy" for r in requirements):
        raise PorterError(
            "PT519", "an accuracy is required, and nothing trains the candidates", "--train",
            "Name a function: --train package.module:function, called with (model, args).",
        )  # fmt: skip
    return Plan(
        model=model, model_args=args, train=train, train_args=train_args,
        target=str(target.path) if target.name not in Target.names() else target.name,
        inputs=_inputs(config, options.inputs), dtype=_dtype(config, options, target), width=width, depth=depth,
        width_offset=_first(options.width_offset, config.get("porter", "width_offset"), 0.0),
        grid=_grid(config, options), requirements=requirements, lower_is_better=lower,
        trials=_count(config, options), seed=_first(options.seed, config.get("general", "random_seed"), _SEED),
        latency_from=_latency_from(options.latency_from, target), measure=options.measure,
        time_limit=_first(options.time_limit, config.get("porter", "time_limit"), None),
        opset=config.get("compiler", "opset_version"), findings=config.findings,
    )  # fmt: skip


def _name(function: str | Callable[..., Any]) -> str:
    return function if isinstance(function, str) else f"{function.__module__}:{function.__qualname__}"


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _factory(
    config: XgenConfig, model: str | Callable[..., Any], script: Mapping[str, Any], args: Mapping[str, Any]
) -> tuple[dict[str, Any], float, float | None]:
    """The factory's arguments but for width and depth, and these two at factor 1."""
    function = call_by_name(model, "--model") if isinstance(model, str) else model
    parameters = inspect.signature(function).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if "width" not in parameters and not open_ended:
        takes = ", ".join(parameters) or "nothing"
        raise PorterError(
            "PT628", f"{_name(model)} cannot be scaled: it has no parameter 'width' (it takes {takes})", "--model",
            "Let the factory take width (and depth, if it has one): def build(width=1.0, depth=1.0, ...).",
        )  # fmt: skip
    unknown = [key for key in args if key not in parameters and not open_ended]
    if unknown:
        raise PorterError(
            "PT519", f"{_name(model)} takes no {', '.join(unknown)} (it takes {', '.join(parameters)})", "--model-arg"
        )
    # The script's own arguments reach a factory that asks for them by name (num_classes).
    passed = {key: value for key, value in script.items() if key in parameters}
    merged = {**passed, **args}

    def base(name: str) -> float:
        default = parameters[name].default if name in parameters else inspect.Parameter.empty
        value = merged.pop(name, script.get(name, 1.0 if default is inspect.Parameter.empty else default))
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
            return float(value)
        problem, fix = f"is {value!r}, not a positive number", "Write for example 0.5."
        if name in args:
            raise PorterError("PT519", f"{name} {problem}", "--model-arg", fix)
        raise config.wrong(FREE_SECTION, name, problem, fix)

    return merged, base("width"), base("depth") if "depth" in parameters or open_ended else None


def _requirements(config: XgenConfig, options: Options, lower: bool) -> tuple[Requirement, ...]:
    kind = config.get("user_requirements", "target_type")
    if kind is not None and kind not in UNITS:
        problem = f"is {kind!r}, which is not one of {', '.join(UNITS)}"
        raise config.wrong("user_requirements", "target_type", problem, "Choose one of them.")
    margin = _first(options.margin, config.get("user_requirements", "margin"), 0.0)
    if not 0 <= margin < 1:
        raise PorterError(
            "PT519", f"a margin of {margin:g} is not a share of the limit", "margin", "Write 0.1 for 10 %."
        )
    found = []
    given = [q for q in UNITS if getattr(options, q) is not None]
    for quantity in UNITS:
        limit = getattr(options, quantity)
        if limit is None:
            limit = config.get("user_requirements", quantity)
        if limit is None:
            continue
        if quantity != "accuracy" and limit <= 0:
            raise PorterError("PT519", f"{quantity} is {limit:g}; nothing is that small", quantity, "Give more than 0.")
        if limit == 0:
            raise PorterError("PT519", "an accuracy of 0 requires nothing", quantity, "Give another number, or none.")
        found.append(Requirement(quantity, float(limit), margin, quantity == "accuracy" and not lower))
    if kind is not None and not given and kind not in [r.quantity for r in found]:
        problem = f"is {kind!r}, and user_requirements.{kind} has no value"
        raise config.wrong("user_requirements", "target_type", problem, f"Give {kind} a number.")
    if not found:
        raise PorterError(
            "PT519", "nothing is required of the model", "--latency",
            "Say what it must reach: --latency MS, --model-size MB, --memory-size MB or --accuracy A.",
        )  # fmt: skip
    first = given[0] if given else kind
    return tuple(sorted(found, key=lambda r: r.quantity != first))


def _inputs(config: XgenConfig, inputs: Any) -> tuple[InputSpec, ...]:
    specs = parse_inputs(inputs)
    shape = config.input_shape
    if not specs and shape is None:
        raise PorterError(
            "PT507", "the shape of the input is not known", "--input",
            'Say --input 1x3x640x640, or "compiler": {"input_shape": "(1,3,640,640)"} in the configuration.',
        )  # fmt: skip
    return tuple(specs) if specs or shape is None else ((None, shape, None),)


def _dtype(config: XgenConfig, options: Options, target: Target) -> str:
    known = ("float32", "float16", "int16", "int8")
    dtype: str | None = _first(options.dtype, config.get("porter", "dtype"))
    if dtype is not None and dtype not in known:
        raise PorterError("PT519", f"{dtype!r} is not one of {', '.join(known)}", "--dtype")
    if dtype is not None:
        return dtype
    if target.quantization is None or target.runtime.framework == "onnxruntime":
        return "float32"
    return "int16" if "int16" in target.quantization.qmax else next(iter(target.quantization.qmax))


def _grid(config: XgenConfig, options: Options) -> Grid:
    variable = config.searched("searching_variable")
    if variable not in (None, _VARIABLE):
        section = "scaling" if config.get("scaling", "searching_variable") else "user_requirements"
        raise config.wrong(section, "searching_variable", f"is {variable!r}; porter searches {_VARIABLE}",
                           f"Write {_VARIABLE!r} or null.")  # fmt: skip
    low, high = config.searching_range or _RANGE
    low, high = _first(options.low, low), _first(options.high, high)
    step = _first(options.step, config.searched("searching_granularity"), _STEP)
    if not (0 < low <= high and step > 0):
        raise PorterError(
            "PT519", f"scaling factors from {low:g} to {high:g} in steps of {step:g} are no range",
            "--low, --high, --step", "Give 0 < low <= high and a step above 0.",
        )  # fmt: skip
    return Grid(float(low), float(high), float(step))


def _count(config: XgenConfig, options: Options) -> int:
    trials = _first(options.trials, config.get("user_requirements", "max_sampling"), _TRIALS)
    if trials < 1:
        raise PorterError("PT519", f"{trials} trials try nothing", "--max-sampling", "Give at least 1.")
    return int(trials)


def _latency_from(wanted: str, target: Target) -> LatencyFrom:
    if wanted == "auto":
        return "measured" if target.runtime.framework == "onnxruntime" else "estimate"
    if wanted in ("estimate", "measured"):
        return "estimate" if wanted == "estimate" else "measured"
    raise PorterError("PT519", f"{wanted!r} is not auto, estimate or measured", "--latency-from")
