# SPDX-License-Identifier: Apache-2.0
"""The network of a stage: a new model, loaded and converted in the order that the converters have.

The order says whether a checkpoint is of the float model (loaded before the conversion) or of the converted one
(after).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from porter.errors import PorterError
from porter.findings import Finding
from porter.target import Target
from porter.train import checkpoint
from porter.train.config import Config, Converter, Stage
from porter.train.data import seed_everything
from porter.train.qat import IntNetwork, OutputRule, QatNetwork, convert, to_integers
from porter.usercode import run_user_code

__all__ = ["Built", "build", "deploy_example"]


@dataclass(slots=True)
class Built:
    """What the converters of a stage made: a module, a QAT network or an integer network.

    origin: a digest of every checkpoint that was loaded, by the file name of a stage's and the path of any other.
    findings: of the conversion and the loading.
    """

    network: nn.Module | IntNetwork
    origin: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def deploy_example(config: Config) -> tuple[str, Tensor]:
    """Name and value of the input of the deploy model: float[1, C, H, W].

    Raises:
        PorterError: PT701 when it is something else.
    """
    where = f"{config.path}: deploy_inputs"
    given: Any = config.deploy_inputs
    if not isinstance(given, Mapping):
        given = run_user_code(given, where)
    if not isinstance(given, Mapping) or len(given) != 1:
        raise PorterError(
            "PT701", "this must be a dict with one input", where, "Write dict(img=torch.zeros(1, 3, H, W))."
        )
    name, value = next(iter(given.items()))
    if not isinstance(value, Tensor) or value.ndim < 2 or value.shape[0] != 1 or not value.is_floating_point():
        raise PorterError("PT701", f"the input {name!r} must be a float tensor whose first size is 1", where)
    return str(name), value.detach()


def build(config: Config, stage: Stage, converters: tuple[Converter, ...] | None = None, *, scales: str = "") -> Built:
    """A new model, taken through the converters of a stage.

    Args:
        config: whose ``model`` it is, or ``deploy_model`` for int_infer.
        stage: whose converters are used.
        converters: instead of the stage's own.
        scales: "learned" or "fixed", instead of what ``qat_trainer`` says.

    Raises:
        PorterError: PT520 when the factory fails; PT701 when the converters are in an order that cannot be; PT703 and
            PT704 for their checkpoints; what :func:`porter.train.qat.convert` raises.
    """
    deploy = stage == "int_infer"
    factory = (config.deploy_model if deploy else None) or config.model
    where = f"{config.path}: {'deploy_model' if deploy and config.deploy_model else 'model'}"
    seed_everything(config.seed)
    module = run_user_code(factory, where)
    if not isinstance(module, nn.Module):
        raise PorterError("PT701", f"the function returned a {type(module).__name__}, not an nn.Module", where)
    built = Built(module)
    steps = config.converters(stage) if converters is None else converters
    for place, step in enumerate(steps):
        _take(config, stage, built, step, f"{config.path}: {stage}_trainer['converters'][{place}]", scales)
    return built


def _take(config: Config, stage: Stage, built: Built, step: Converter, where: str, scales: str) -> None:
    network = built.network
    if step.type == "LoadCheckpoint":
        if isinstance(network, IntNetwork):
            raise PorterError("PT701", "a network of integers loads no checkpoint", where)
        _load(config, stage, built, network, step)
    elif step.type == "QAT2Quantize":
        if not isinstance(network, QatNetwork):
            raise PorterError("PT701", "QAT2Quantize takes a network that Float2QAT has converted", where,
                              'Write dict(type="Float2QAT") before it.')  # fmt: skip
        built.network = to_integers(network)
    else:
        if not isinstance(network, nn.Module) or isinstance(network, QatNetwork):
            raise PorterError("PT701", f"{step.type} takes a float model, and the network is converted already", where)
        made = _convert(config, stage, network, scales)
        built.network = made
        built.findings += made.findings


def _load(config: Config, stage: Stage, built: Built, network: nn.Module, step: Converter) -> None:
    if step.stage is not None:
        saved, path = checkpoint.open_best(config, step.stage, f"the network of the stage {stage}")
        state, key = saved.part("model"), path.name
        if isinstance(network, QatNetwork):
            _require_same_conversion(config, saved.facts.get("conversion"), path, step.stage)
    else:
        path = Path(step.path or "")
        state, key = checkpoint.read_weights(path), str(path)
    said = checkpoint.load_into(network, state, path, allow_miss=step.allow_miss, ignore_extra=step.ignore_extra)
    built.origin[key] = checkpoint.digest(path)
    built.findings += [Finding("PT704", "note", text) for text in said]
    if isinstance(network, QatNetwork):
        network.fake_quant()


def _require_same_conversion(config: Config, then: Any, path: Path, stage: Stage) -> None:
    """A scale for 8 bits loads where one for 16 belongs, and is 256 times too large."""
    now = json.loads(json.dumps(config.conversion))
    if not isinstance(then, Mapping) or then == now:
        return
    changed = ", ".join(f"{key} was {then.get(key)!r} and is {now[key]!r}" for key in now if then.get(key) != now[key])
    raise PorterError("PT706", f"{path} was converted in another way: {changed}", str(path),
                      f"Run `porter train --stage {stage} --config {config.path} --restart`.")  # fmt: skip


def _convert(config: Config, stage: Stage, module: nn.Module, scales: str) -> QatNetwork:
    _, example = deploy_example(config)
    rules: Any = config.outputs
    if stage == "int_infer":
        rules = _as_integers(config.outputs)
    trainer = config.qat_trainer
    calibration = config.calibration_trainer
    return convert(
        module.eval(), example, Target.load(config.target), mode=config.qat_mode,
        scales=scales or (trainer.activation_scales if trainer is not None else "fixed"),  # type: ignore[arg-type]
        outputs=rules, output_names=config.output_names, width=config.quantize_cfg.width,
        pins=config.quantize_cfg.pins,
        observer=calibration.observer if calibration is not None else "min_max", source=config.task_name,
    )  # fmt: skip


def _as_integers(outputs: Mapping[str, Any] | None) -> Any:
    """The rules of the deploy model's outputs: nothing is dequantized on the device."""
    if outputs is None:
        return OutputRule(dequant_output=False)
    if all(isinstance(value, bool) for value in outputs.values()):
        return {**outputs, "dequant_output": False}
    return {pattern: {**rule, "dequant_output": False} for pattern, rule in outputs.items()}
