# SPDX-License-Identifier: Apache-2.0
"""Sparse training: an L1 penalty on the gammas of batch norm, and what it does to them over the epochs.

Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", arXiv:1708.06519, section 3.
The penalty's subgradient, ``strength * sign(gamma)``, is added to the gradients between backward and the optimizer's
step (after ``unscale_`` where gradients are scaled), so the hook fits any loop and any loss:

    sparse = SparseTraining(model, strength=1e-4)
    for epoch in range(epochs):
        for batch in data:
            loss(model(batch)).backward()
            sparse.step()
            optimizer.step()
            optimizer.zero_grad()
        sparse.record(epoch)
    sparse.history.save("gammas.json")
    sparse.history.plot("gammas.png")
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from porter.errors import PorterError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BINS", "GammaHistory", "SparseTraining", "gamma_layers"]

#: Of a histogram: equal widths from 0 to :attr:`GammaHistory.top`; the last one also counts what lies above.
BINS = 50


def gamma_layers(model: nn.Module) -> dict[str, Any]:
    """The batch norm layers with a gamma, by module path, in the order of the model.

    Raises:
        PorterError: PT600 when there is none.
    """
    import torch

    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.weight is not None
    }
    if not found:
        raise PorterError(
            "PT600",
            f"{type(model).__name__} has no batch norm with a gamma",
            fix="Gamma is the measure of a channel's worth here: prune a model that has batch norm, before its batch "
            "norm is folded into the convolutions.",
        )
    return found


@dataclass(slots=True)
class GammaHistory:
    """Histograms of every |gamma| of a model, one for each epoch recorded.

    ``counts[i][k]`` is how many lie in bin k at ``epochs[i]``; ``quantiles`` are the 0, 10, ..., 100 percentiles.
    """

    strength: float
    top: float
    epochs: list[int] = field(default_factory=list)
    counts: list[list[int]] = field(default_factory=list)
    quantiles: list[list[float]] = field(default_factory=list)

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """The BINS + 1 edges of the bins."""
        return np.linspace(0.0, self.top, BINS + 1)

    def add(self, epoch: int, gammas: npt.NDArray[np.float32]) -> None:
        """Count the absolute values of ``gammas``, shape (n,), for ``epoch``."""
        size = np.abs(gammas.astype(np.float64))
        counts, _ = np.histogram(np.minimum(size, self.top), bins=self.edges)
        self.epochs.append(epoch)
        self.counts.append(counts.tolist())
        self.quantiles.append(np.quantile(size, np.linspace(0, 1, 11)).tolist())

    def to_json(self) -> dict[str, Any]:
        return {
            "strength": self.strength,
            "edges": self.edges.tolist(),
            "epochs": self.epochs,
            "counts": self.counts,
            "quantiles": self.quantiles,
        }

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write it as JSON.

        Raises:
            PorterError: PT510 to PT512 when it cannot be written.
        """
        from porter.files import atomic_file

        with atomic_file(path, overwrite) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1) + "\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> GammaHistory:
        """Read what :meth:`save` wrote."""
        data = json.loads(Path(path).read_text())
        return cls(data["strength"], data["edges"][-1], data["epochs"], data["counts"], data["quantiles"])

    def plot(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Draw the histograms one behind the other, an epoch each, as a picture (.png, .svg, .pdf).

        Raises:
            PorterError: PT521 without matplotlib; PT510 to PT512 when it cannot be written.
        """
        from porter.compress.plots import plot_gammas

        return plot_gammas(self, path, overwrite=overwrite)


class SparseTraining:
    """The L1 penalty of one training run. ``parameters`` are the gammas that it acts on.

    Args:
        model: the module in training.
        strength: the factor of the penalty. It competes with the loss's own gradient: too much costs accuracy at once.
        skip: module paths of batch norm layers to leave alone.

    Raises:
        PorterError: PT600 when no batch norm with a gamma is left; PT606 when the strength is not positive.
    """

    def __init__(self, model: nn.Module, strength: float = 1e-4, skip: Collection[str] = ()) -> None:
        if not 0 < strength < float("inf"):
            raise PorterError("PT606", f"the strength of a penalty is a positive number, not {strength:g}")
        layers = gamma_layers(model)
        self.parameters = [layer.weight for name, layer in layers.items() if name not in skip]
        self.strength = strength
        self.history = GammaHistory(strength, top=1.25 * float(np.abs(self._values()).max(initial=1e-6)))

    def step(self) -> None:
        """Add the penalty's subgradient to the gradients; call it after ``backward`` and before the optimizer."""
        for gamma in self.parameters:
            if gamma.grad is not None:
                gamma.grad.add_(gamma.detach().sign(), alpha=self.strength)

    def record(self, epoch: int) -> None:
        """Note the histogram of all gammas for ``epoch``."""
        self.history.add(epoch, self._values())

    def _values(self) -> npt.NDArray[np.float32]:
        return np.concatenate([gamma.detach().float().cpu().numpy().ravel() for gamma in self.parameters])
