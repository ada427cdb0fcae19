# SPDX-License-Identifier: Apache-2.0
"""The network that is trained: a captured module, legal for its target, with fake quantization where the target's
integers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from porter.dialects.fx import FxGraph
from porter.findings import Finding
from porter.legalize import Ledger
from porter.quantize.encodings import Encodings
from porter.target import Target
from porter.train.qat.outputs import OutputRule
from porter.verify import Evidence

__all__ = ["QatNetwork"]


class QatNetwork(nn.Module):
    """A module that trains with the integers of a target; :func:`porter.train.qat.convert` makes it.

    An ordinary ``nn.Module``: its parameters keep the names that they had in the float module, and the scales of
    activations are ``quantizers.<module path of the tensor>.scale``. It starts in floats; call :meth:`observe`, show it
    batches, then :meth:`freeze_ranges` (or load a state that has scales and call :meth:`fake_quant`).

    Attributes:
        target, mode, findings, ledger (of the rewrites), evidence (that the legal graph is the module),
        output_names, rules (OutputRule by output name).
    """

    target: Target
    mode: str
    findings: list[Finding]
    ledger: Ledger
    evidence: Evidence
    output_names: tuple[str, ...]
    rules: Mapping[str, OutputRule]

    def observe(self, on: bool = True) -> QatNetwork:
        """Let observers see the tensors of each forward. With fake_quant off (the start) this is CALIBRATION."""
        raise NotImplementedError

    def fake_quant(self, on: bool = True) -> QatNetwork:
        """Quantize or not. Raises PT730 at the next forward when a scale is not known."""
        raise NotImplementedError

    def freeze_ranges(self) -> QatNetwork:
        """Scales from what observers saw, in all processes of ``torch.distributed``; then observe(False),
        fake_quant(True)."""
        raise NotImplementedError

    def freeze_batch_norm(self, on: bool = True) -> QatNetwork:
        """Batch norms use their running statistics in training, too, and leave them as they are."""
        raise NotImplementedError

    def scale_parameters(self) -> list[nn.Parameter]:
        """The learned scales: no weight decay belongs on them."""
        raise NotImplementedError

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs as real numbers (also where ``dequant_output`` is False); batches of any size."""
        raise NotImplementedError

    def encodings(self) -> Encodings:
        """The quantization parameters of now."""
        raise NotImplementedError

    def graph(self) -> FxGraph:
        """The legal graph (N = 1) with the parameters of now, batch norms folded."""
        raise NotImplementedError

    def check_finite(self, losses: Mapping[str, Tensor] | None = None, inputs: Sequence[Tensor] = ()) -> None:
        """Raise PT732 that names the first loss, scale, parameter, or (with ``inputs``) value that is NaN or infinite."""
        raise NotImplementedError
