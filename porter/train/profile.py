# SPDX-License-Identifier: Apache-2.0
"""``porter profile``: what the deploy model of a configuration costs, beside what others have published of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from porter.errors import PorterError
from porter.latency import Estimate, Rates, estimate
from porter.target import Target
from porter.train.build import deploy_example
from porter.train.config import Config, Published, load_config
from porter.train.data import seed_everything
from porter.usercode import run_user_code

__all__ = ["Profile", "profile"]


@dataclass(frozen=True, slots=True)
class Profile:
    """The cost of a deploy model (batch 1), op by op and in total; ``published`` are figures of others, or None.

    ``estimate`` is a roofline: a bound and an order, not a promise (see :mod:`porter.latency`).
    """

    task_name: str
    target: str
    input_shape: tuple[int, ...]
    estimate: Estimate
    published: Published | None

    def to_json(self) -> dict[str, Any]:
        published = self.published
        return {
            "task_name": self.task_name,
            "target": self.target,
            "input_shape": list(self.input_shape),
            **self.estimate.to_json(),
            "published": None
            if published is None
            else {
                "source": published.source,
                "params": published.parameters,
                "macs": published.macs,
                "milliseconds": published.milliseconds,
            },
        }


def profile(config: Config | str | Path, *, dtype: str = "int8") -> Profile:
    """Parameters, multiply-accumulates, memory and a roofline latency of the deploy model.

    Args:
        config: a configuration, or its file.
        dtype: of the weights on the device.

    Raises:
        PorterError: PT701 for ``deploy_inputs``; PT520 when the model's factory fails; PT310 when it cannot be
            captured; PT622 when the target's file gives no rate for ``dtype``.
    """
    from porter.dialects.fx import FxGraph

    chosen = config if isinstance(config, Config) else load_config(config)
    target = Target.load(chosen.target)
    rates = Rates.of_target(target, dtype)
    name, example = deploy_example(chosen)
    factory = chosen.deploy_model or chosen.model
    seed_everything(chosen.seed)
    module = run_user_code(factory, f"{chosen.path}: deploy_model")
    if not isinstance(module, nn.Module):
        raise PorterError("PT701", f"the function returned a {type(module).__name__}, not an nn.Module",
                          f"{chosen.path}: deploy_model")  # fmt: skip
    shape = tuple(example.shape)
    graph = FxGraph.capture(module.eval(), [(name, shape, None)], chosen.task_name)
    return Profile(chosen.task_name, target.name, shape, estimate(graph, rates), chosen.published)
