# SPDX-License-Identifier: Apache-2.0
"""The metric of a network over a data set, in one process or several."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from porter.errors import PorterError
from porter.train.config import Config, Stage
from porter.train.data import batches, make_loader
from porter.train.distributed import Processes
from porter.train.events import Events
from porter.train.typed import nearest
from porter.usercode import run_user_code

__all__ = ["Validation", "as_tuple"]


def as_tuple(outputs: Any, where: str) -> tuple[Tensor, ...]:
    """The outputs of a network as a tuple.

    Raises:
        PorterError: PT701 when they are neither a tensor nor a tuple or list of tensors.
    """
    found = (outputs,) if isinstance(outputs, Tensor) else outputs
    if not isinstance(found, (tuple, list)) or not all(isinstance(one, Tensor) for one in found):
        raise PorterError("PT701", f"the model returned a {type(outputs).__name__}; it must return a tensor or a tuple "
                          "of tensors", where)  # fmt: skip
    return tuple(found)


class Validation:
    """The validation of a stage: its data, its metric, and the figure by which the best is chosen.

    Without a metric the training loss is that figure, and :meth:`run` must not be called (``wanted`` is false).

    Args:
        config: with ``metric``, ``val_data_loader``, ``monitor`` and ``mode``; the stage's predictor may override data
            and metric when ``predict`` is true.
        stage: for messages and the predictor.
        processes: share the data where the metric can merge what they found; else the first does all of it.
        predict: this is ``porter predict``.

    Raises:
        PorterError: PT702 when the metric has no data.
    """

    def __init__(self, config: Config, stage: Stage, processes: Processes, *, predict: bool = False) -> None:
        own = config.predictor(stage) if predict else None
        self._config, self._stage, self._processes = config, stage, processes
        self._factory = (own and own.metric) or config.metric
        self.wanted = self._factory is not None or predict
        self.monitor = config.monitor if self.wanted else "loss"
        self.mode = config.mode if self.wanted else "min"
        if not self.wanted:
            return
        what = f"porter predict --stage {stage}" if predict else "the metric"
        if self._factory is None:
            config.need("metric", what)
        self._metric = run_user_code(self._new, f"{config.path}: metric")
        self._shared = processes.world > 1 and all(hasattr(self._metric, one) for one in ("state", "merge"))
        wanted = (own and own.data_loader) or config.need("val_data_loader", what)
        self.where = f"{config.path}: val_data_loader"
        self._loader = make_loader(
            wanted, processes, seed=config.seed, where=self.where, train=False, share=self._shared
        )

    def _new(self) -> Any:
        assert self._factory is not None
        return self._factory()

    def better(self, value: float, than: float | None) -> bool:
        """Whether a value of the monitored figure is better than the best so far."""
        return than is None or (value > than if self.mode == "max" else value < than)

    def run(self, network: Callable[[Tensor], Any], events: Events) -> dict[str, float]:
        """The metric of a network, the same in every process. A module is put into evaluation mode, and back.

        Raises:
            PorterError: PT708 when the metric does not give the monitored figure, or it is not finite; PT520 when the
                metric's own code fails.
        """
        metric, where = self._metric, self._place
        if self._shared or self._processes.first:
            self._update(network, events)
        if self._shared:
            states = self._processes.gather(metric.state())
            run_user_code(metric.reset, where)
            run_user_code(lambda: metric.merge(states), where)
        figures = self._computed()
        assert self.monitor is not None
        if not math.isfinite(figures[self.monitor]):
            raise PorterError("PT708", f"the metric's {self.monitor} is {figures[self.monitor]}", where)
        return figures

    def try_out(self, network: Callable[[Tensor], Any]) -> None:
        """Validate on one batch in the first process: what is wrong with data or metric is told before hours of
        training, not after.

        Raises:
            PorterError: as :meth:`run`, but for a figure that is not finite, which few images may give.
        """
        self._computed(lambda: self._update(network, Events(), 1))

    @property
    def _place(self) -> str:
        return f"{self._config.path}: metric"

    @torch.no_grad()
    def _update(self, network: Callable[[Tensor], Any], events: Events, most: int | None = None) -> None:
        """Show the metric the outputs of all batches, or of so many."""
        training = isinstance(network, nn.Module) and network.training
        if isinstance(network, nn.Module):
            network.eval()
        metric, model = self._metric, f"{self._config.path}: model"
        run_user_code(metric.reset, self._place)
        found = batches(self._loader, self.where, self._processes.device)
        for done, batch in enumerate(itertools.islice(found, most)):
            events.step(f"{self._stage}: validation", done, len(self._loader))
            outputs = as_tuple(run_user_code(lambda b=batch: network(b["img"]), model), model)  # type: ignore[misc]
            run_user_code(lambda o=outputs, b=batch: metric.update(o, b), self._place)  # type: ignore[misc]
        if isinstance(network, nn.Module):
            network.train(training)

    def _computed(self, before: Callable[[], None] | None = None) -> dict[str, float]:
        """The figures of the first process, in every process."""
        figures: dict[str, float] = {}
        failure: PorterError | None = None
        if self._processes.first:
            try:
                if before is not None:
                    before()
                figures = self._checked(run_user_code(self._metric.compute, self._place), self._place)
            except PorterError as error:  # the others wait for an answer
                failure = error
        figures, failure = self._processes.gather((figures, failure))[0]
        if failure is not None:
            raise failure
        self.monitor = self.monitor or next(iter(figures))
        return figures

    def _checked(self, found: Any, where: str) -> dict[str, float]:
        if not isinstance(found, Mapping) or not found:
            raise PorterError("PT708", f"compute() of the metric returned a {type(found).__name__}, not a dict of "
                              "figures", where)  # fmt: skip
        figures = {str(name): float(value) for name, value in found.items()}
        if self.monitor is None and len(figures) > 1:
            raise PorterError("PT708", f"the metric gives {', '.join(figures)}, and the configuration does not say by "
                              "which the best is chosen", where, "Define monitor.")  # fmt: skip
        monitor = self.monitor or next(iter(figures))
        if monitor not in figures:
            raise PorterError(
                "PT708", f"the metric gives no {monitor!r}, by which the best is to be chosen; it gives "
                f"{', '.join(figures)}", f"{self._config.path}: monitor",
                f"Did you mean {nearest(monitor, figures)!r}?",
            )  # fmt: skip
        return figures
