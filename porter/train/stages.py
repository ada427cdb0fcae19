# SPDX-License-Identifier: Apache-2.0
"""``porter train``: the stages of a configuration: float, calibration, quantization-aware training, integers.

float trains ``model``; calibration loads its best checkpoint, converts it, and finds the scales of activations; qat
trains the converted network on from there; int_infer makes integers of ``deploy_model`` with the best weights and
scales, and writes what goes to the device.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from porter.errors import PorterError
from porter.files import atomic_file
from porter.findings import Finding
from porter.train import checkpoint
from porter.train.build import Built, build, deploy_example
from porter.train.checkpoint import Saved
from porter.train.config import STAGES, Config, Stage, load_config
from porter.train.data import batches, make_loader, seed_everything
from porter.train.distributed import Processes, processes
from porter.train.evaluate import Validation
from porter.train.events import Events, StageResult
from porter.train.loop import train_epochs
from porter.train.qat import IntNetwork, QatNetwork
from porter.train.qat.emission import FORMATS
from porter.train.typed import nearest
from porter.usercode import run_user_code

__all__ = ["check_stage", "compile_folder", "emitted_onnx", "integers_folder", "open_integers", "train"]


def check_stage(stage: str) -> Stage:
    """The stage of that name.

    Raises:
        PorterError: PT519 when there is none.
    """
    for known in STAGES:
        if stage == known:
            return known
    raise PorterError("PT519", f"there is no stage {stage!r}", "--stage",
                      f"Did you mean {nearest(stage, STAGES)}? There are {', '.join(STAGES)}.")  # fmt: skip


def integers_folder(config: Config) -> Path:
    """Where the stage int_infer keeps the network of integers."""
    return config.folder / "int_infer"


def compile_folder(config: Config) -> Path:
    """Where the stage int_infer writes what goes to the device."""
    return Path(config.compile_cfg.out_dir or config.folder / "compile") / (config.compile_cfg.name or config.task_name)


def train(
    config: Config | str | Path, stage: str, *, restart: bool = False, events: Events | None = None
) -> StageResult:
    """Run one stage; it begins from the best checkpoint of the stage before.

    In a process that ``torchrun`` has started it joins the others: each takes its share of the data, gradients are
    averaged, observers and metrics are merged, and the first process writes.

    Args:
        config: a configuration, or its file.
        stage: "float", "calibration", "qat" or "int_infer".
        restart: train anew, although an earlier run could be taken up.
        events: whom to tell how it goes (in the first process).

    Raises:
        PorterError: PT519 for a stage that there is not; PT700 to PT702 for the configuration; PT703 when the stage
            before has not been run, PT704 when its checkpoint is of another model; PT705 when the loss is not finite;
            PT706 when an earlier run began from another checkpoint; PT707 when another process trains in the same
            folder; PT708 for the metric; what :func:`porter.train.qat.convert` raises; PT520 when the user's own
            code fails.
    """
    chosen, kind = (config if isinstance(config, Config) else load_config(config)), check_stage(stage)
    chosen.need(f"{kind}_trainer", f"porter train --stage {kind}")
    begin = time.monotonic()
    with processes(chosen.device) as group, checkpoint.locked(chosen.folder, group.first):
        heard = (events or Events()) if group.first else Events()
        if kind == "calibration":
            made = _calibrate(chosen, group, heard)
        elif kind == "int_infer":
            made = _integers(chosen, group)
        else:
            made = _train(chosen, kind, group, heard, restart)
    return replace(made, seconds=time.monotonic() - begin)


def _train(config: Config, stage: Stage, group: Processes, events: Events, restart: bool) -> StageResult:
    trainer = config.float_trainer if stage == "float" else config.qat_trainer
    assert trainer is not None
    built = build(config, stage)
    if isinstance(built.network, IntNetwork):
        raise PorterError("PT701", "a network of integers does not train", f"{config.path}: {stage}_trainer",
                          "Take QAT2Quantize out of its converters.")  # fmt: skip
    done = train_epochs(config, stage, trainer, built.network, built.origin, group, events, restart=restart)
    return StageResult(
        stage, config.task_name, config.target, tuple(done.epochs), done.metrics, done.monitor,
        (checkpoint.best_path(config, stage),), 0.0, done.resumed, tuple(built.findings),
    )  # fmt: skip


def _calibrate(config: Config, group: Processes, events: Events) -> StageResult:
    trainer = config.calibration_trainer
    assert trainer is not None
    built = build(config, "calibration")
    network = _converted(config, "calibration", built)
    validation = Validation(config, "calibration", group)
    name = "data_loader" if config.calibration_data_loader is None else "calibration_data_loader"
    wanted, where = config.need(name, "calibration"), f"{config.path}: {name}"
    loader = make_loader(wanted, group, seed=config.seed, where=where, train=True)
    network.to(group.device).eval().observe()
    seed_everything(config.seed, 0, group.rank)
    seen = 0
    with torch.no_grad():
        for batch in batches(loader, where, group.device):
            network(batch["img"])
            seen += 1
            events.step("calibration", seen, min(trainer.num_steps, len(loader)))
            if seen == trainer.num_steps:
                break
    if seen < trainer.num_steps:
        text = f"the data has {seen} batches, and num_steps asks for {trainer.num_steps}"
        built.findings.append(Finding("PT709", "warning", text, fix="Give calibration more data, or ask for less."))
    network.freeze_ranges()
    metrics = validation.run(network, events) if validation.wanted else None
    path = checkpoint.best_path(config, "calibration")
    if group.first:
        facts = {
            "stage": "calibration", "task_name": config.task_name, "epoch": 0, "metrics": metrics,
            "monitor": validation.monitor, "origin": built.origin, "conversion": config.conversion,
        }  # fmt: skip
        tensors = {f"model/{name}": tensor for name, tensor in network.state_dict().items()}
        checkpoint.write(path, Saved(tensors, facts))
    group.wait()
    return StageResult(
        "calibration", config.task_name, config.target, (), metrics, validation.monitor, (path,), 0.0, 0,
        tuple(built.findings),
    )  # fmt: skip


def _converted(config: Config, stage: Stage, built: Built) -> QatNetwork:
    if not isinstance(built.network, QatNetwork):
        raise PorterError("PT701", "the converters of this stage do not convert the network",
                          f"{config.path}: {stage}_trainer['converters']", "Add Float2Calibration.")  # fmt: skip
    return built.network


def _integers(config: Config, group: Processes) -> StageResult:
    folder, out = integers_folder(config), compile_folder(config)
    findings: list[Finding] = []
    if group.first:
        _, example = deploy_example(config)
        built = build(config, "int_infer")
        findings = built.findings
        if not isinstance(built.network, IntNetwork):
            raise PorterError("PT701", "the converters of this stage do not end in integers",
                              f"{config.path}: int_infer_trainer['converters']", "Add QAT2Quantize.")  # fmt: skip
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PorterError("PT510", f"cannot write in {out.parent}: {error.strerror}", str(out.parent)) from error
        built.network.save(folder, overwrite=True)
        write_deploy(config, built.network, out, example, overwrite=True)
        with atomic_file(_origin_file(config), overwrite=True) as temporary:
            temporary.write_text(json.dumps(built.origin), encoding="utf-8")
    group.wait()
    return StageResult(
        "int_infer", config.task_name, config.target, (), None, None, (folder, out), 0.0, 0, tuple(findings)
    )


def write_deploy(
    config: Config, network: IntNetwork, out: Path, example: Tensor, *, opset: int | None = None, overwrite: bool
) -> None:
    """Write the folder for the device: the formats of ``compile_cfg``, and the files of ``host_filter``.

    Args:
        opset: instead of that of ``compile_cfg``.

    Raises:
        PorterError: what :func:`porter.train.qat.emission.emit` raises; PT520 when the filter's own code fails.
    """
    host = config.host_filter

    def beside(folder: Path) -> None:
        where = f"{config.path}: host_filter"
        run_user_code(lambda: host.emit(folder, network.outputs, config.class_names), where)

    chosen = config.compile_cfg
    network.emit(out, opset=opset or chosen.opset, formats=chosen.formats, inputs=[example], overwrite=overwrite,
                 beside=beside if host is not None else None)  # fmt: skip


def emit(
    config: Config | str | Path, out: str | Path | None = None, *, opset: int | None = None, overwrite: bool = False
) -> Path:
    """Write the deploy model of a configuration once more, from the integers that the stage int_infer has made.

    Args:
        config: a configuration, or its file.
        out: the folder; default: that of ``compile_cfg``.
        opset: of the ONNX; default: that of ``compile_cfg``.
        overwrite: replace the folder.

    Returns:
        The folder.

    Raises:
        PorterError: PT703 when the stage int_infer has not been run; PT706 when its checkpoint has changed since; what
            :func:`write_deploy` raises.
    """
    chosen = config if isinstance(config, Config) else load_config(config)
    network = open_integers(chosen, "porter emit")
    folder = compile_folder(chosen) if out is None else Path(out)
    _, example = deploy_example(chosen)
    write_deploy(chosen, network, folder, example, opset=opset, overwrite=overwrite)
    return folder


def _origin_file(config: Config) -> Path:
    return config.folder / "int_infer-origin.json"


def emitted_onnx(config: Config) -> Path:
    """The quantized ONNX that the stage int_infer has written.

    Raises:
        PorterError: PT703 when there is none.
    """
    path = compile_folder(config) / FORMATS["qdq"]
    if not path.is_file():
        raise PorterError(
            "PT703", "there is no quantized ONNX of int_infer", str(path),
            f'Have "qdq" in the formats of compile_cfg; run `porter train --stage int_infer --config {config.path}`.',
        )  # fmt: skip
    return path


def open_integers(config: Config, wanted_by: str) -> IntNetwork:
    """The network of integers that the stage int_infer has made.

    Raises:
        PorterError: PT703 when that stage has not been run; PT706 when the checkpoint that it was made of has changed
            since.
    """
    file, folder = _origin_file(config), integers_folder(config)
    fix = f"Run `porter train --stage int_infer --config {config.path}`."
    try:
        origin = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        origin = None
    if not isinstance(origin, Mapping) or not folder.is_dir():
        raise PorterError("PT703", f"{wanted_by} needs the network of int_infer, and there is none", str(folder), fix)
    for name, digest in origin.items():
        # An absolute path stays itself.
        path = config.folder / name if (config.folder / name).is_file() else Path(name)
        if path.is_file() and checkpoint.digest(path) != digest:
            raise PorterError("PT706", f"the network of int_infer is older than {path}", str(folder), fix)
    return IntNetwork.load(folder)
