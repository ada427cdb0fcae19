# SPDX-License-Identifier: Apache-2.0
"""AdaRound: each weight of a layer goes to the step below or above, whichever serves the layer's output best.

Rounding to the nearest step is not the best that integers can do: errors of weights that are multiplied by correlated
inputs can cancel. A relaxed choice ``h(v)`` between 0 (down) and 1 (up), a rectified sigmoid, is optimized by Adam for
the squared error of the layer's output, with a term that drives every ``h`` to 0 or 1 (Nagel et al. 2020,
arXiv:2004.10568, equations 21 to 25).

The squared error is a quadratic function of the weights, so the layer's inputs are needed only as two matrices of
second moments (:class:`Moments`). Their size depends on the layer, not on the number of samples, and each step of the
optimizer sees all samples at once: no minibatches, no noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from porter.graph import Graph
from porter.ops import Array
from porter.quantize.encodings import Encodings
from porter.quantize.layers import Floats, Weighted, weighted_layers, with_layers
from porter.quantize.numerics import dequantize, qrange
from porter.quantize.taps import Progress
from porter.quantize.walk import Pair

__all__ = ["MAX_TERMS", "AdaRounded", "Moments", "Rounded", "adaround", "optimize", "patches", "supported"]

#: Layers with more products than this in one sum of a group are left to plain rounding: the moments are its square.
MAX_TERMS = 4096
#: The stretch of the rectified sigmoid (equation 23 of the paper).
_ZETA, _GAMMA = 1.1, -0.1
#: Weight of the term that drives h to 0 or 1, relative to the curvature of the error in one weight.
_LAMBDA = 0.1
#: Its exponent, annealed from the first to the second after the share _WARM of the iterations (section 4 of the paper).
_BETA = 20.0, 2.0
_WARM = 0.2
_RATE = 0.01
#: Weight of the prior that the real weights are right, relative to the mean power of the inputs. The inputs come with
#: the errors of the layers before, and weights that answer those on a few samples answer other samples less well.
PRIOR = 1.0
#: Output positions of one sample that enter the moments; more say little new about correlations of a few thousand.
_POSITIONS = 4096
ITERATIONS = 1000
_LEAST_ITERATIONS = 50
#: Floating-point operations that one layer may take; layers of many terms get fewer iterations.
_WORK = 2e11


@dataclass(frozen=True, slots=True)
class AdaRounded:
    """The graph whose weights lie on the steps that were chosen, what was found for each layer, and the paths of the
    quantized layers that were left to plain rounding (several calls, transposed, too many terms, asymmetric)."""

    graph: Graph
    layers: dict[str, Rounded]
    left: list[str]


def adaround(
    graph: Graph,
    simulated: Graph,
    encodings: Encodings,
    items: Sequence[Sequence[Array]],
    *,
    iterations: int = ITERATIONS,
    progress: Progress | None = None,
) -> AdaRounded:
    """Choose the rounding of every quantized weight, layer by layer.

    Each layer sees the inputs that the quantized layers before it give, with their weights as they were just chosen,
    and is to give the output of the float model (the asymmetric reconstruction of the paper, section 3.4).

    Args:
        graph: the float model; it is not changed.
        simulated: the same model with quantize and dequantize ops (:func:`porter.quantize.insert.insert`).
        items: samples; all are held at once (:func:`porter.quantize.walk.fitting` says how many fit).
        iterations: of the optimizer for each layer.
        progress: called with (layers done, layers).
    """
    layers = weighted_layers(graph)
    wanted = [layer for path, layer in layers.items() if path in encodings.layers and encodings.layers[path].quantized]
    chosen = [layer for layer in wanted if supported(layer) and encodings.weights[layer.path].symmetric]
    found: dict[str, Rounded] = {}
    weights: dict[str, Array] = {}
    for done, (layer, pair) in enumerate(Pair.through(graph, simulated, items, chosen)):
        encoding, weight = encodings.weights[layer.path], layer.weight.numpy()
        bias = 0.0 if layer.bias is None else layer.on_output(layer.bias.numpy())
        moments = Moments(layer)
        for x, y in zip(pair.operand(0), pair.reference(), strict=True):
            moments.add(x, y - bias)
        step = encoding.step.reshape([-1 if axis == encoding.axis else 1 for axis in range(weight.ndim)])
        nearest = encoding.quantize(weight, encodings.rounding)
        rounded = found[layer.path] = optimize(weight, step, qrange(encoding.dtype), nearest, moments, iterations)
        integers = rounded.integers.astype(encoding.dtype)
        weights[layer.path] = dequantize(integers, encoding.step, axis=encoding.axis)
        pair.step({1: weights[layer.path]})
        if progress is not None:
            progress(done + 1, len(chosen))
    left = [layer.path for layer in wanted if layer.path not in found]
    return AdaRounded(with_layers(graph, weights, {}), found, left)


def supported(layer: Weighted) -> bool:
    """Whether the layer is a convolution or linear layer, called once, whose moments fit in memory."""
    if len(layer.ops) != 1 or not (layer.kind == "linear" or layer.kind.startswith("conv")):
        return False
    if layer.kind.startswith("conv_transpose") or (layer.kind == "linear" and layer.weight.rank != 2):
        return False
    return math.prod((layer.weight.shape or ())[1:]) <= MAX_TERMS


def patches(layer: Weighted, x: Array) -> Array:
    """What each output position of the layer multiplies with its weights: (groups, positions, terms), as ``x`` is.

    ``x`` is one input of the layer: (N, Ci, ...) of a convolution, (..., Ci) of a linear layer. The order of the terms
    is that of the weight's trailing axes, the order of positions that of the output's.
    """
    if layer.kind == "linear":
        return x.reshape(1, -1, x.shape[-1])
    attrs, groups = layer.op.attrs, layer.groups
    kernel = (layer.weight.shape or ())[2:]
    space = tuple(range(2, x.ndim))
    padded = np.pad(x, [(0, 0), (0, 0), *attrs["padding"]])
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, attrs["dilation"], strict=True)]
    windows = sliding_window_view(padded, reach, axis=space)  # (N, Ci, positions..., reach...)
    stepped = windows[
        (slice(None), slice(None), *(slice(None, None, s) for s in attrs["stride"]),
         *(slice(None, None, d) for d in attrs["dilation"]))
    ]  # fmt: skip
    n, channels = stepped.shape[:2]
    spots = stepped.shape[2 : 2 + len(kernel)]
    grouped = stepped.reshape(n, groups, channels // groups, *spots, *kernel)
    order = (1, 0, *range(3, 3 + len(kernel)), 2, *range(3 + len(kernel), 3 + 2 * len(kernel)))
    return grouped.transpose(order).reshape(groups, n * math.prod(spots), -1)


class Moments:
    """Second moments of a layer's inputs, and of its inputs with the outputs that it should have.

    ``inputs`` is (groups, terms, terms), ``targets`` (groups, terms, outputs a group), ``power`` the sum of the squares
    of those outputs: float64 sums over positions.
    """

    def __init__(self, layer: Weighted, seed: int = 0) -> None:
        self._layer = layer
        terms = math.prod((layer.weight.shape or ())[1:])
        self._random = np.random.default_rng(seed)
        self.inputs: Floats = np.zeros((layer.groups, terms, terms))
        self.targets: Floats = np.zeros((layer.groups, terms, layer.channels_out // layer.groups))
        self.power = 0.0

    def add(self, x: Array, y: Array) -> None:
        """Take in one sample: the input that the layer gets, and the output (without bias) that it should give."""
        layer = self._layer
        columns = patches(layer, x)
        wanted = np.moveaxis(y, layer.channel_axis, -1).reshape(-1, layer.groups, layer.channels_out // layer.groups)
        if columns.shape[1] > _POSITIONS:
            chosen = self._random.choice(columns.shape[1], _POSITIONS, replace=False)
            columns, wanted = columns[:, chosen], wanted[chosen]
        columns, wanted = np.ascontiguousarray(columns, np.float32), np.asarray(wanted, np.float32)
        turned = columns.transpose(0, 2, 1)
        self.inputs += turned @ columns
        self.targets += turned @ wanted.transpose(1, 0, 2)
        self.power += float(np.square(wanted, dtype=np.float64).sum())

    def with_prior(self, weight: Floats, strength: float) -> Moments:
        """These moments, and as many inputs again that are not correlated and for which ``weight`` is right."""
        made = copy(self)
        power = strength * np.diagonal(self.inputs, axis1=1, axis2=2).mean(1)[:, None, None]
        made.inputs = self.inputs + power * np.eye(self.inputs.shape[1])
        made.targets = self.targets + power * weight.transpose(0, 2, 1)
        return made

    def error(self, weight: Floats) -> float:
        """The squared error of the outputs that a weight (groups, outputs a group, terms) gives."""
        quadratic = float(np.sum((weight @ self.inputs) * weight))
        return quadratic - 2 * float(np.sum(weight.transpose(0, 2, 1) * self.targets)) + self.power


@dataclass(frozen=True, slots=True)
class Rounded:
    """What :func:`optimize` found.

    ``integers`` has the weight's shape; ``gain`` is the share of the layer's squared error that went away (0: rounding
    to the nearest was best); ``flipped`` the share of the weights that went the other way.
    """

    integers: NDArray[np.int32]
    gain: float
    flipped: float


def optimize(
    weight: Array,
    scale: Array,
    limits: tuple[int, int],
    nearest: Array,
    moments: Moments,
    iterations: int = ITERATIONS,
    prior: float = PRIOR,
) -> Rounded:
    """Choose the integers of one layer's weight. Never worse on the samples of ``moments`` than ``nearest``.

    Args:
        weight: as the layer has it.
        scale: the step, of a shape that broadcasts with ``weight``; symmetric (real 0 is integer 0).
        limits: the smallest and the largest integer.
        nearest: the integers that plain rounding gives. Those at a limit stay: they decide the scale.
        moments: of the calibration samples.
        iterations: of the optimizer, at most; layers of very many terms get fewer.
        prior: see :meth:`Moments.with_prior`.
    """
    groups, terms = moments.inputs.shape[:2]

    def grouped(array: Array) -> Floats:
        return np.broadcast_to(np.asarray(array, np.float64), weight.shape).reshape(groups, -1, terms)

    step, plain = grouped(scale), grouped(nearest)
    learned = moments.with_prior(grouped(weight), prior)
    exact = grouped(weight) / step
    below = np.floor(exact)
    free = (plain > max(limits[0], -limits[1])) & (plain < limits[1])
    rounds = int(min(iterations, max(_WORK / (4.0 * exact.size * terms), _LEAST_ITERATIONS)))
    up = _choose(exact, below, step, plain, free, learned, rounds)
    starts = (np.where(free, below + up, plain), plain)
    chosen = min(
        (_polished(start, below, step, free, learned) for start in starts), key=lambda q: learned.error(q * step)
    )
    before, after = moments.error(plain * step), moments.error(chosen * step)
    if not after < before:
        return Rounded(np.asarray(nearest, np.int32), 0.0, 0.0)
    gain = (before - after) / before
    return Rounded(chosen.reshape(weight.shape).astype(np.int32), gain, float((chosen != plain).mean()))


def _choose(
    exact: Floats, below: Floats, step: Floats, plain: Floats, free: NDArray[np.bool_], moments: Moments, rounds: int
) -> Floats:
    """1 where a weight is better rounded up, 0 where down: Adam on the relaxed choice."""
    # In steps of its weight, the curvature of the error is step^2 * inputs: 1 on average after this division.
    diagonal = np.diagonal(moments.inputs, axis1=1, axis2=2)[:, None, :]
    unit = max(float(np.mean(step * step * diagonal)), float(np.finfo(np.float64).tiny))
    inputs = (moments.inputs / unit).astype(np.float32)
    targets = (moments.targets.transpose(0, 2, 1) / unit).astype(np.float32)
    width, base, fixed = step.astype(np.float32), below.astype(np.float32), plain.astype(np.float32)
    share = np.clip(exact - below, 1e-4, 1 - 1e-4).astype(np.float32)
    v = -np.log((_ZETA - _GAMMA) / (share - _GAMMA) - 1)  # h(v) is the share: training starts at the real weights
    mean, square = np.zeros_like(v), np.zeros_like(v)
    warm = int(_WARM * rounds)
    for number in range(1, rounds + 1):
        sigmoid = 1 / (1 + np.exp(-v))
        stretched = sigmoid * (_ZETA - _GAMMA) + _GAMMA
        h = np.clip(stretched, 0, 1)
        weight = np.where(free, base + h, fixed) * width
        slope = 2 * (weight @ inputs - targets) * width
        if number > warm:
            beta = _BETA[1] + (_BETA[0] - _BETA[1]) * (1 - (number - warm) / (rounds - warm))
            centred = 2 * h - 1
            slope = slope - _LAMBDA * 2 * beta * np.sign(centred) * np.abs(centred) ** (beta - 1)
        slope = slope * np.where((stretched > 0) & (stretched < 1), sigmoid * (1 - sigmoid) * (_ZETA - _GAMMA), 0)
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope * slope
        v = v - _RATE * (mean / (1 - 0.9**number)) / (np.sqrt(square / (1 - 0.999**number)) + 1e-8)
    return cast(Floats, (v >= 0).astype(np.float64))  # h(0) is 1/2


def _polished(chosen: Floats, below: Floats, step: Floats, free: NDArray[np.bool_], moments: Moments) -> Floats:
    """Single weights turned the other way as long as one lowers the error of its output: the best one each time.

    The relaxed choice ends near a minimum, not in it.
    """
    chosen = chosen.copy()
    outputs = np.arange(chosen.shape[1])
    for group, inputs in enumerate(moments.inputs):
        own, width = chosen[group], step[group]
        slope = 2 * ((own * width) @ inputs - moments.targets[group].T)
        power = np.diagonal(inputs)
        for _ in range(own.shape[1]):
            turn = np.where(own > below[group], -width, width)
            change = np.where(free[group], turn * slope + turn * turn * power, 0.0)
            best = change.argmin(1)
            worth = change[outputs, best] < 0
            if not worth.any():
                break
            rows, columns = outputs[worth], best[worth]
            delta = turn[rows, columns]
            own[rows, columns] += np.sign(delta)
            slope[rows] += 2 * delta[:, None] * inputs[columns]
    return chosen
