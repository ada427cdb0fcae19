# SPDX-License-Identifier: Apache-2.0
"""The training of a network: epochs over the data, each of which can be run again after a kill.

An epoch depends on the configuration, the state that the epoch before has left in the checkpoint, and its own number,
from which every random choice in it is seeded; so a training that was killed and goes on ends bit for bit where one
that was not killed ends (on one machine, with as many processes).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from porter.errors import PorterError
from porter.train import checkpoint
from porter.train.checkpoint import Saved
from porter.train.config import Config, Stage, Training
from porter.train.data import batches, make_loader, seed_everything
from porter.train.distributed import Processes, with_sync_batch_norm
from porter.train.evaluate import Validation, as_tuple
from porter.train.events import Epoch, Events
from porter.train.optimization import Average, learning_rate, make_optimizer, set_learning_rate
from porter.train.qat import QatNetwork
from porter.usercode import run_user_code

__all__ = ["Trained", "train_epochs"]


@dataclass(slots=True)
class Trained:
    """How a training went: every epoch, how many of them an earlier run had done, and the best metrics."""

    epochs: list[Epoch]
    resumed: int
    best: Epoch | None
    metrics: Mapping[str, float] | None
    monitor: str | None


class _Training:
    """The state of one training between its epochs."""

    def __init__(
        self, config: Config, stage: Stage, trainer: Training, module: nn.Module, origin: Mapping[str, str],
        processes: Processes, events: Events,
    ) -> None:  # fmt: skip
        self.config, self.stage, self.trainer, self.origin = config, stage, trainer, dict(origin)
        self.processes, self.events = processes, events
        self.where = f"{config.path}: {stage}_trainer"
        self.network = module.to(processes.device)
        if trainer.sync_bn and processes.world > 1:
            if isinstance(module, QatNetwork):
                module.sync_batch_norm()
            else:
                self.network = with_sync_batch_norm(self.network)
        wanted = config.need("data_loader", f"the stage {stage}")
        self.loader = make_loader(wanted, processes, seed=config.seed, where=f"{config.path}: data_loader", train=True)
        if len(self.loader) == 0:
            raise PorterError("PT701", "not one batch comes of the training data", f"{config.path}: data_loader",
                              "Make batch_size smaller, or set drop_last to False.")  # fmt: skip
        self.loss = config.need("loss", f"the stage {stage}")
        if isinstance(self.loss, nn.Module):
            self.loss = self.loss.to(processes.device)
        self.validation = Validation(config, stage, processes)
        scales = module.scale_parameters() if isinstance(module, QatNetwork) else []
        self.optimizer = make_optimizer(
            trainer.optimizer, self.network, f"{self.where}['optimizer']", frozenset(map(id, scales))
        )
        self.average = Average(self.network, trainer.ema) if trainer.ema else None
        self.epochs: list[Epoch] = []
        self.best: Epoch | None = None
        self._wrapped: nn.Module | None = None

    # -- checkpoints -----------------------------------------------------------------------------------

    def resume(self) -> int:
        """Go on from the last checkpoint, where there is one; the number of epochs that were done.

        Raises:
            PorterError: PT706 when it belongs to other beginnings, PT704 when it is of another model.
        """
        path = checkpoint.last_path(self.config, self.stage)
        if not path.is_file():
            return 0
        try:
            return self._resume(checkpoint.read(path), path)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PorterError("PT502", f"{path} is no state to go on from: {error!r}", str(path),
                              "Train the stage anew with --restart.") from error  # fmt: skip

    def _resume(self, saved: Saved, path: Path) -> int:
        if saved.facts["origin"] != self.origin:
            raise PorterError(
                "PT706", f"{path} began from another checkpoint than the one that is there now", str(path),
                "Train the stage anew with --restart; its old checkpoints are then replaced.",
            )  # fmt: skip
        if saved.facts["settings"] != self._settings():
            changed = sorted(k for k, v in self._settings().items() if saved.facts["settings"].get(k) != v)
            self.events.note(f"settings have changed since epoch {saved.facts['epoch']}: {', '.join(changed)}")
        checkpoint.load_into(self.network, saved.part("model"), path)
        checkpoint.unpack_optimizer(self.optimizer, saved.part("optimizer"), saved.facts["optimizer"])
        if self.average is not None and saved.part("average"):
            self.average.load(saved.part("average"), saved.facts["averaged"])
        self.epochs = [Epoch.from_json(one) for one in saved.facts["epochs"]]
        self.best = next((one for one in reversed(self.epochs) if one.best), None)
        return len(self.epochs)

    def save(self) -> None:
        """Write the state after an epoch: the best model first, so that no kill leaves it behind the last."""
        if not self.processes.first:
            return
        epoch = self.epochs[-1]
        facts = {
            "stage": self.stage, "task_name": self.config.task_name, "epoch": epoch.number,
            "metrics": epoch.metrics, "losses": epoch.losses, "monitor": self.validation.monitor,
            "origin": self.origin,
            "conversion": self.config.conversion if isinstance(self.network, QatNetwork) else None,
        }  # fmt: skip
        state = self.network.state_dict()
        if epoch.best:
            weights = self.average.state if self.average is not None else state
            tensors = {f"model/{name}": tensor for name, tensor in weights.items()}
            checkpoint.write(checkpoint.best_path(self.config, self.stage), Saved(tensors, facts))
        tensors = {f"model/{name}": tensor for name, tensor in state.items()}
        if self.average is not None:
            tensors |= {f"average/{name}": tensor for name, tensor in self.average.state.items()}
        moments, plain = checkpoint.pack_optimizer(self.optimizer)
        tensors |= {f"optimizer/{name}": tensor for name, tensor in moments.items()}
        facts |= {
            "optimizer": plain, "averaged": self.average.updates if self.average is not None else 0,
            "epochs": [one.to_json() for one in self.epochs], "settings": self._settings(),
        }  # fmt: skip
        checkpoint.write(checkpoint.last_path(self.config, self.stage), Saved(tensors, facts))

    def _settings(self) -> dict[str, Any]:
        """The settings of the trainer as JSON has them; the number of epochs may grow."""
        plain = asdict(self.trainer)
        plain["processes"] = self.processes.world
        del plain["num_epochs"], plain["converters"]
        return json.loads(json.dumps(plain, default=_named))  # type: ignore[no-any-return]

    # -- one epoch -------------------------------------------------------------------------------------

    def run(self, number: int) -> None:
        """Train for one epoch, validate where it is due, and save."""
        begin = time.monotonic()
        seed_everything(self.config.seed, number, self.processes.rank)
        sampler = getattr(self.loader, "sampler", None)
        if hasattr(sampler, "epoch"):
            sampler.epoch = number  # type: ignore[union-attr]
        elif hasattr(sampler, "set_epoch"):
            sampler.set_epoch(number)  # type: ignore[union-attr]
        self.network.train()
        after = self.trainer.freeze_bn_after
        if isinstance(self.network, QatNetwork) and after is not None:
            self.network.freeze_batch_norm(number >= after)
        elif after is not None and number >= after:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        losses, rate = self._steps(number)
        metrics, best = None, False
        if self.validation.wanted:
            if (number + 1) % self.trainer.val_interval == 0 or number + 1 == self.trainer.num_epochs:
                metrics = self._validate()
                best = self.validation.better(metrics[self.validation.monitor or ""], self._best_value())
        else:
            best = self.validation.better(sum(losses.values()), self._best_value())
        epoch = Epoch(number, losses, rate, time.monotonic() - begin, metrics, best)
        self.epochs.append(epoch)
        if best:
            self.best = epoch
        self.save()
        self.processes.wait()
        self.events.epoch(epoch, self.trainer.num_epochs)

    def _best_value(self) -> float | None:
        if self.best is None:
            return None
        if self.best.metrics is None:
            return sum(self.best.losses.values())
        return self.best.metrics.get(self.validation.monitor or "")

    def _validate(self) -> dict[str, float]:
        if self.average is None:
            return self.validation.run(self.network, self.events)
        with self.average.applied(self.network):
            return self.validation.run(self.network, self.events)

    def _steps(self, number: int) -> tuple[dict[str, float], float]:
        """The mean of every loss over the epoch, and the learning rate at its end."""
        steps, rate = len(self.loader), 0.0
        forward = self._parallel()
        sums: dict[str, float] = {}
        taken = 0
        where = f"{self.config.path}: data_loader"
        for index, batch in enumerate(batches(self.loader, where, self.processes.device)):
            share = learning_rate(self.trainer.schedule, number * steps + index, steps, self.trainer.num_epochs)
            rate = set_learning_rate(self.optimizer, share)
            model = f"{self.config.path}: model"
            outputs = as_tuple(run_user_code(lambda b=batch: forward(b["img"]), model), model)  # type: ignore[misc]
            losses = self._losses(outputs, batch)
            total = torch.stack([loss.reshape(()) for loss in losses.values()]).sum()
            # All end together: one that went on would wait for the others' gradients.
            if self.processes.any(not bool(total.isfinite())):
                self._refuse(losses, outputs, batch, f"epoch {number + 1}, step {index + 1} of {steps}", rate)
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            if self.trainer.clip_grad is not None:
                nn.utils.clip_grad_norm_(self.network.parameters(), self.trainer.clip_grad)
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.network)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + float(loss.detach())
            taken += 1
            what = f"{self.stage}: epoch {number + 1} of {self.trainer.num_epochs}, loss {float(total.detach()):.4g}"
            self.events.step(what, index + 1, steps)
        means = torch.tensor([value / taken for value in sums.values()], dtype=torch.float64)
        if self.processes.device.type != "cpu":
            means = means.to(self.processes.device)
        return dict(zip(sums, self.processes.mean(means).tolist(), strict=True)), rate

    def _parallel(self) -> Callable[[Tensor], Any]:
        """The network whose backward averages the gradients of all processes."""
        if self.processes.world == 1:
            return self.network
        if self._wrapped is None:
            ids = [self.processes.device.index] if self.processes.device.type == "cuda" else None
            self._wrapped = nn.parallel.DistributedDataParallel(self.network, device_ids=ids)
        return self._wrapped

    def _losses(self, outputs: tuple[Tensor, ...], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        where = f"{self.config.path}: loss"
        found = run_user_code(lambda: self.loss(outputs, batch), where)
        if isinstance(found, Tensor):
            found = {"loss": found}
        if not isinstance(found, Mapping) or not found:
            raise PorterError("PT701", f"the loss returned a {type(found).__name__}, not a dict of tensors", where)
        for name, value in found.items():
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise PorterError("PT701", f"the loss {name!r} is not a tensor of one element", where)
        return dict(found)

    def _refuse(
        self, losses: Mapping[str, Tensor], outputs: tuple[Tensor, ...], batch: Mapping[str, Any], at: str, rate: float
    ) -> None:
        """Raise PT705: what is not finite, first in the order in which it comes about."""
        values = ", ".join(f"{name} {float(loss.detach()):g}" for name, loss in losses.items())
        bad = [name for name, p in self.network.named_parameters() if not bool(p.isfinite().all())]
        if all(bool(loss.isfinite()) for loss in losses.values()):
            why, fix = "it is in another process", "Look at what that process says."
        elif bad:
            why = f"the parameter {bad[0]} is not finite any more"
            fix = "Lower the learning rate, lengthen warmup_epochs, or set clip_grad."
        elif not bool(batch["img"].isfinite().all()):
            why, fix = "the images of this batch are not finite", "Look at the data set and its transforms."
        elif not all(bool(one.isfinite().all()) for one in outputs):
            why = "parameters and images are finite, and the outputs of the network are not"
            fix = "Lower the learning rate, lengthen warmup_epochs, or set clip_grad."
        else:
            why, fix = "the outputs of the network are finite", "Look at the loss: a logarithm or a division of 0."
        if isinstance(self.network, QatNetwork) and fix.startswith("Lower"):
            try:
                self.network.check_finite(inputs=[batch["img"]])
            except PorterError as error:  # it knows the tensor by its name
                why = error.message
        kept = f"; epoch {len(self.epochs)} is kept in {self.config.folder}" if self.epochs else ""
        raise PorterError(
            "PT705", f"the loss is not finite at {at} ({values}; learning rate {rate:g}): {why}{kept}", self.where, fix
        )  # fmt: skip


def _named(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)}"


def train_epochs(
    config: Config,
    stage: Stage,
    trainer: Training,
    module: nn.Module,
    origin: Mapping[str, str],
    processes: Processes,
    events: Events,
    *,
    restart: bool = False,
) -> Trained:
    """Train a network to the end of its epochs, going on where an earlier run was ended.

    Args:
        config, stage, trainer: what to do.
        module: the network as its converters made it; it holds the last state afterwards.
        origin: what it was loaded from, a digest by path: a run goes on only from the same.
        processes: this one, among all.
        events: whom to tell.
        restart: forget an earlier run.

    Raises:
        PorterError: PT701 and PT702 for what the configuration lacks; PT704 and PT706 when the earlier run does not
            fit; PT705 when the loss is not finite; PT708 for the metric; PT520 when the user's own code fails.
    """
    training = _Training(config, stage, trainer, module, origin, processes, events)
    if restart and processes.first:
        checkpoint.last_path(config, stage).unlink(missing_ok=True)
    processes.wait()
    done = training.resume()
    if done >= trainer.num_epochs:
        events.note(f"all {done} epochs were done by an earlier run; --restart trains anew")
    elif not done and training.validation.wanted:
        training.validation.try_out(training.network)
    elif done:
        events.note(f"going on after epoch {done} of an earlier run")
    for number in range(done, trainer.num_epochs):
        training.run(number)
    best = training.best
    return Trained(training.epochs, done, best, best.metrics if best else None, training.validation.monitor)
