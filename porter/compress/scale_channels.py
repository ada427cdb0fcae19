# SPDX-License-Identifier: Apache-2.0
"""Whether the channels of a scaled model fit together: every place where they do not, with the layers on both sides.

A model that rounds ``width * channels`` layer by layer fits only at some widths: one layer gives 51 channels and the
next one expects 52. Running it says so once, and names neither. Here it runs on tensors without data, layer by layer;
where a layer gets another number of channels than it was built for, that is a finding, and it goes on with what it
expects.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakIdKeyDictionary

from porter.findings import Finding
from porter.loading import parse_inputs
from porter.ops import Origin

__all__ = ["check_channels"]

_LOGGER = "torch._subclasses.fake_tensor"
_FIX = (
    "Derive every channel count from one rounded base, ceil(64 * width) times a power of two, in every file that "
    "builds layers."
)


def check_channels(module: nn.Module, inputs: Any) -> tuple[Finding, ...]:
    """Every layer whose input has another number of channels than the layer expects.

    Args:
        module: convolutions, transposed convolutions, batch norms and linear layers are looked at. It is not changed,
            and computes nothing.
        inputs: shapes, as :func:`porter.loading.load` takes them.

    Returns:
        one error (PT627) for each mismatch, in the order of the forward pass. When the model's own arithmetic fails
        (an addition of two widths), the last finding is that failure, since nothing can go on behind it.
    """
    return _Check(module).run(parse_inputs(inputs))


class _Check(TorchFunctionMode):
    """Follows every tensor back to the layers that made its channels."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = module
        self._made_by: Any = WeakIdKeyDictionary()
        self._findings: list[Finding] = []
        self._last: tuple[Any, ...] = ()

    def run(self, specs: Sequence[Any]) -> tuple[Finding, ...]:
        handles = []
        for path, layer in self._module.named_modules():
            if expected(layer) is not None:
                handles.append(layer.register_forward_pre_hook(self._before(path, layer)))
                handles.append(layer.register_forward_hook(self._after(path)))
        training = self._module.training
        self._module.eval()
        try:
            # A failure of the model is a finding; torch would print its stack as well.
            with _quiet(_LOGGER), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), self:
                tensors = [torch.zeros(shape, dtype=getattr(torch, dtype or "float32")) for _, shape, dtype in specs]
                self._module(*tensors)
        except (RuntimeError, ValueError) as failure:
            self._failed(failure)
        finally:
            self._module.train(training)
            for handle in handles:
                handle.remove()
        return tuple(self._findings)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [t for t in tree_flatten((args, kwargs or {}))[0] if isinstance(t, torch.Tensor)]
        self._last = (getattr(func, "__name__", str(func)), given)
        result = func(*args, **(kwargs or {}))
        sources = tuple(dict.fromkeys(path for t in given for path in self._made_by.get(t, ())))
        self._mark(result, sources)
        return result

    def _mark(self, result: Any, sources: tuple[str, ...]) -> None:
        for value in tree_flatten(result)[0]:
            if isinstance(value, torch.Tensor) and sources:
                self._made_by[value] = sources

    def _before(self, path: str, layer: nn.Module) -> Any:
        def hook(_layer: nn.Module, args: tuple[Any, ...]) -> Any:
            axis, wanted = expected(layer) or (1, 0)
            x = args[0] if args else None
            if not isinstance(x, torch.Tensor) or x.ndim < 2 or x.shape[axis] == wanted:
                return None
            self._differ(self._made_by.get(x, ()), x.shape[axis], path, wanted)
            shape = list(x.shape)
            shape[axis] = wanted
            return (x.new_zeros(shape), *args[1:])

        return hook

    def _after(self, path: str) -> Any:
        def hook(_layer: nn.Module, _args: Any, result: Any) -> None:
            self._mark(result, (path,))

        return hook

    def _differ(self, sources: tuple[str, ...], given: int, path: str, wanted: int) -> None:
        first = " with ".join(sources) or "the model's input"
        text = f"scaled channels do not match between {first} ({given}) and {path} (expects {wanted})"
        self._findings.append(Finding("PT627", "error", text, Origin(module=path), _FIX, path))

    def _failed(self, failure: Exception) -> None:
        name, given = self._last if self._last else ("forward", [])
        sides = [
            f"{' with '.join(self._made_by.get(t, ())) or 'the input'} ({'x'.join(map(str, t.shape))})" for t in given
        ]
        text = re.sub(r"\s+", " ", str(failure)).strip()
        where = f"between {' and '.join(sides[:2])}" if len(sides) > 1 else f"in {name}"
        self._findings.append(Finding("PT627", "error", f"scaled channels do not match {where}: {text}", fix=_FIX))


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def expected(layer: nn.Module) -> tuple[int, int] | None:
    """The axis of a layer's channels in its input, and how many it was built for; None for other modules."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        return 1, layer.in_channels
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return 1, layer.num_features
    if isinstance(layer, nn.Linear):
        return -1, layer.in_features
    return None
