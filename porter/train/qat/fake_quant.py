# SPDX-License-Identifier: Apache-2.0
"""Fake quantization with gradients: the same numbers as :mod:`porter.quantize.numerics`, on torch tensors.

Activations: the gradient passes where the value lies inside of the representable range and stops where it was clipped
(the straight-through estimator). A learned scale gets the gradient of Esser et al., "Learned Step Size Quantization"
(arXiv:1902.08153), section 2.1: ``round(v) - v`` inside (v = x / scale + zero point), ``qmin`` or ``qmax`` outside,
less the zero point, times ``1 / sqrt(N * qmax)`` with N elements a sample. Weights: their scale follows them, so that
nothing is clipped by much, and the gradient passes everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from porter.quantize.encodings import Encoding
from porter.quantize.numerics import Dtype, Rounding, ScaleRule, position_of, qrange

__all__ = ["Quantizer", "fake_bias", "fake_weight", "roomy", "round_", "straight_through", "weight_steps"]

#: Elements that are worked on at once: the half dozen passes over a block stay in the processor's cache.
_BLOCK = 1 << 15
#: The least learned scale.
_LEAST = 1e-8
#: Float32 sums of two quantized tensors miss an exact half by up to these shares of the sum and of the range; the
#: device, which adds integers, does not. Scales in the ratio 1:2 make every second sum such a half.
_SLACK = 2.0**-22, 2.0**-24
#: A bias of step input step * weight step is kept this far inside int32, as the encoder does.
_BIAS_LIMIT = float(2**30)


def round_(doubled: Tensor, rounding: Rounding) -> Tensor:
    """``doubled / 2`` rounded to whole numbers, in place.

    Halves are whole numbers in ``doubled``, so that no sum with 0.5 can round the wrong way.
    """
    if rounding == "half_up":
        return doubled.floor_().mul_(0.5).ceil_()
    if rounding == "half_even":
        return doubled.mul_(0.5).round_()
    doubled.trunc_()
    return doubled.add_(doubled.sign()).mul_(0.5).trunc_()


@dataclass(frozen=True, slots=True)
class _How:
    """The numbers of one quantization: zero point, (qmin, qmax), how near to a whole number a doubled quotient counts
    as one (0: it never does), and what the gradient of the scale is multiplied by."""

    zero: float
    limits: tuple[int, int]
    rounding: Rounding
    slack: float
    factor: float

    def levels(self, x: Tensor, half: Tensor, out: Tensor) -> Tensor:
        """``round(x / (2 * half)) + zero``, not clamped, into ``out``."""
        torch.div(x, half, out=out)
        if self.slack:
            whole = out.round()
            near = (out - whole).abs_() <= whole.abs().mul_(_SLACK[0]).add_(self.slack)
            torch.where(near, whole, out, out=out)
        round_(out, self.rounding)
        return out.add_(self.zero) if self.zero else out


class _FakeQuantize(torch.autograd.Function):
    """One scale a tensor; see the module."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, how: _How) -> Tensor:
        x = _dense(x.detach())
        out = torch.empty_like(x)
        wanted = any(ctx.needs_input_grad[:2])
        inside = torch.empty_like(x, dtype=torch.bool) if wanted else None
        masks = torch.split(_flat(inside), _BLOCK) if inside is not None else ()
        size = step.detach()
        half = size * 0.5
        buffer = torch.empty(min(_BLOCK, x.numel()), dtype=x.dtype, device=x.device) if wanted else None
        for index, (source, target) in enumerate(_blocks(x, out)):
            if buffer is None:
                how.levels(source, half, target).clamp_(*how.limits)
            else:
                free = how.levels(source, half, buffer[: source.numel()])
                torch.clamp(free, *how.limits, out=target)
                torch.eq(free, target, out=masks[index])
            if how.zero:
                target.sub_(how.zero)
            target.mul_(size)
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(x, out, inside, size)
        elif wanted:
            ctx.save_for_backward(inside)
        ctx.factor = how.factor
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        if not ctx.needs_input_grad[1]:
            (inside,) = ctx.saved_tensors
            return grad * inside, None, None
        x, out, inside, step = ctx.saved_tensors
        grad = _dense(grad, like=x)
        of_x = torch.empty_like(grad)
        # d out / d step is (out - x) / step inside of the range and out / step where x was clipped.
        sums = []
        for g, gx, source, target, mask in _blocks(grad, of_x, x, out, inside):
            torch.mul(g, mask, out=gx)
            sums.append((g * target).addcmul_(gx, source, value=-1).sum())
        total = torch.stack(sums).sum() if sums else torch.zeros_like(step)
        of_step = total * ctx.factor / step
        return (of_x if ctx.needs_input_grad[0] else None), of_step.reshape(step.shape), None


def _dense(x: Tensor, like: Tensor | None = None) -> Tensor:
    """The tensor without gaps, channels last where it is (or where ``like`` is)."""
    if (x if like is None else like).ndim == 4 and not (x if like is None else like).is_contiguous():
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()


def _flat(x: Tensor) -> Tensor:
    """The elements in the order of memory, as a view."""
    return x.view(-1) if x.is_contiguous() else x.permute(0, 2, 3, 1).view(-1)


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of dense tensors of one size and layout, side by side."""
    return zip(*(torch.split(_flat(tensor), _BLOCK) for tensor in tensors), strict=True)


class _Identity(torch.autograd.Function):
    """Gives the second tensor; the gradient goes to the first (straight through)."""

    @staticmethod
    def forward(ctx: Any, real: Tensor, shown: Tensor) -> Tensor:
        return shown

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad, None


def straight_through(real: Tensor, shown: Tensor) -> Tensor:
    """``shown``, with the gradient of ``real``."""
    return cast(Tensor, _Identity.apply(real, shown))  # type: ignore[no-untyped-call]


class Quantizer(nn.Module):
    """The fake quantization of the tensors of one group.

    State: ``scale``, float32 of shape () (a parameter when it is learned, else a buffer), the step between two
    neighbouring integers, 0 until it is known; ``zero_point``, int32 of shape ().

    Args:
        dtype: of the integers.
        rounding: of the target.
        rule: how a symmetric range becomes a step; with "power_of_two" a learned scale is rounded to one.
        symmetric: whether the zero point is 0.
        learned: whether the scale is a parameter.
        exact: whether the device rounds sums and means of integers here, which float32 only comes close to.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self, dtype: Dtype, rounding: Rounding, rule: ScaleRule, symmetric: bool, learned: bool, exact: bool = False
    ) -> None:
        super().__init__()
        self.dtype, self.rounding, self.rule, self.symmetric = dtype, rounding, rule, symmetric
        self.limits = qrange(dtype)
        self._slack = _SLACK[1] * (self.limits[1] - self.limits[0]) if exact else 0.0
        if learned:
            self.scale = nn.Parameter(torch.zeros(()))
        else:
            self.register_buffer("scale", torch.zeros(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))
        self._zero: float | None = None
        self._last: Tensor | None = None

    @property
    def learned(self) -> bool:
        """Whether the scale is a parameter."""
        return isinstance(self.scale, nn.Parameter)

    def extra_repr(self) -> str:
        return f"{self.dtype}, scale={float(self.scale.detach()):.6g}{', learned' if self.learned else ''}"

    def set(self, encoding: Encoding) -> None:
        """Take scale and zero point of a per-tensor encoding."""
        with torch.no_grad():
            self.scale.fill_(encoding.scale[0])
            self.zero_point.fill_(encoding.zero_point[0])
        self.forget()

    def step(self) -> Tensor:
        """The step of now, of shape (); its gradient goes to a learned scale."""
        if not self.learned:
            return self.scale
        if self.rule == "power_of_two":
            powers = torch.exp2(torch.round(torch.log2(self.scale.detach().clamp_min(_LEAST))))
            return straight_through(self.scale, powers)
        return self.scale

    def settle(self) -> None:
        """Soften a step of an optimizer that made the learned scale less than half of what it was: an outlier in one
        batch would leave it zero, or negative."""
        if not self.learned:
            return
        with torch.no_grad():
            least = self._last * 0.5 if self._last is not None else torch.full_like(self.scale, _LEAST)
            self.scale.copy_(torch.maximum(self.scale, least.to(self.scale)))
            self._last = self.scale.detach().clone()

    def forget(self) -> None:
        """Read everything anew: the state was loaded."""
        self._zero, self._last = None, None

    def forward(self, x: Tensor, step: Tensor | None = None) -> Tensor:
        """``x`` as the integers can hold it, in the dtype of ``x``; with ``step`` in place of the quantizer's own."""
        if self._zero is None:
            self._zero = float(self.zero_point)
        per_sample = x.numel() // max(x.shape[0], 1) if x.ndim else 1
        factor = 1.0 / math.sqrt(max(per_sample, 1) * self.limits[1])
        how = _How(self._zero, self.limits, self.rounding, self._slack, factor)
        return cast(Tensor, _FakeQuantize.apply(x, self.step() if step is None else step, how))  # type: ignore[no-untyped-call]

    def bound(self) -> Tensor:
        """The size of the range, as :attr:`porter.quantize.encodings.Encoding.absmax` measures it; shape ()."""
        low, high = self.limits
        zero = float(self.zero_point)
        if self.symmetric and self.rule == "absmax":
            return self.step().detach() * high
        return self.step().detach() * max(high - zero, zero - low)

    def encoding(self, observer: str) -> Encoding:
        """What the quantizer does, as an encoding; its range is all that the integers can hold."""
        step, zero = float(self.step().detach().float()), int(self.zero_point)
        low, high = self.limits
        least = -high if self.symmetric and self.rule == "absmax" else low - zero
        position = (position_of(step * high, self.dtype),) if self.rule == "power_of_two" and self.symmetric else None
        return Encoding(
            self.dtype,
            (step,),
            (least * step,),
            ((high - zero) * step,),
            observer,
            None,
            self.symmetric,
            (zero,),
            position,
        )


def weight_steps(weight: Tensor, axis: int | None, dtype: Dtype, rule: ScaleRule) -> Tensor:
    """The steps of a symmetric weight by its extremes: of shape (), or one for each index along ``axis``.

    Equal, bit for bit, to :func:`porter.quantize.numerics.step_of` of the same weight in float32.
    """
    weight = weight.detach()
    absmax = weight.abs().amax() if axis is None else weight.movedim(axis, 0).flatten(1).abs().amax(1)
    low, high = qrange(dtype)
    if rule == "power_of_two":
        bits = high.bit_length() - 1
        _, exponent = torch.frexp(absmax)
        steps = torch.exp2((exponent - 1 - bits).to(absmax.dtype))
    else:
        steps = absmax / (-low if rule == "negative" else high)
    small = steps < float(np.finfo(np.float32).tiny)
    return torch.where((absmax <= 0) | small, torch.ones_like(steps), steps)


def roomy(steps: Tensor, bias: Tensor, input_step: Tensor) -> Tensor:
    """Steps of a weight large enough for the bias to be an int32 of step input step * weight step."""
    least = bias.detach().double().abs().reshape(-1) / (_BIAS_LIMIT * input_step.detach().double())
    if least.numel() != steps.numel():
        least = least.max()
    return torch.maximum(steps, least.to(steps.dtype).reshape(steps.shape))


def fake_weight(weight: Tensor, steps: Tensor, axis: int | None, dtype: Dtype, rounding: Rounding) -> Tensor:
    """A weight as its integers hold it. The gradient passes everywhere."""
    low, high = qrange(dtype)
    step = steps if axis is None else steps.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    shown = round_(weight.detach() / (step * 0.5), rounding).clamp_(low, high).mul_(step)
    return straight_through(weight, shown)


def fake_bias(bias: Tensor, steps: Tensor, input_step: Tensor, rounding: Rounding) -> Tensor:
    """A bias as int32 of step input step * weight step holds it. The gradient passes everywhere."""
    step = (input_step.detach().double() * steps.double()).to(torch.float32).double()
    whole = round_(bias.detach().double() / (step * 0.5), rounding).clamp_(-(2.0**31), 2.0**31 - 1)
    return straight_through(bias, (whole * step).to(bias.dtype))
