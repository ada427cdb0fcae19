# SPDX-License-Identifier: Apache-2.0
"""Observers: how the range of a tensor is found from a stream of samples. numpy only.

An observer sees every sample once and keeps a fixed amount of state, however many samples there are. What it has seen
gives a range for any dtype, can be merged with what another one has seen, and can be saved. New ones are added to
:data:`OBSERVERS`.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from porter.errors import PorterError
from porter.ops import Array
from porter.quantize.histogram import Histogram, Side
from porter.quantize.numerics import Dtype, qrange

if TYPE_CHECKING:
    from porter.quantize.scheme import Scheme

__all__ = [
    "KL",
    "MSE",
    "OBSERVERS",
    "MinMax",
    "Mix",
    "MovingAverage",
    "NotFiniteError",
    "Observer",
    "Percentile",
    "by_extremes",
    "extent",
    "make_observer",
    "observer_maker",
]

#: (minimum, maximum) to be represented.
Range = tuple[float, float]
Floats = NDArray[np.float64]


class NotFiniteError(ValueError):
    """A sample holds NaN or infinity. Calibration turns it into an error that names the layer."""


class Observer(Protocol):
    """Finds a range."""

    def observe(self, *parts: Array) -> list[Range]:
        """See one sample, in one array or in several (tensors that share a range); any shapes, float.

        Returns the (minimum, maximum) of each part. Raises :class:`NotFiniteError`.
        """

    def see(self, low: Floats, high: Floats) -> None:
        """The part of :meth:`observe` that needs the extremes of each sample alone, for many of them: (samples,)."""

    def fill(self, part: Array, low: float, high: float) -> None:
        """The part of :meth:`observe` that needs the elements, of one part of a sample: finite, ``low`` to ``high``.
        Nothing where :func:`by_extremes`."""

    def fill_halves(self, halves: NDArray[np.uint16], weight: int, low: float, high: float) -> None:
        """:meth:`fill` for what is counted of the parts of some samples: their
        :func:`~porter.quantize.histogram.upper_halves`, each counted ``weight`` times."""

    def follow(self, source: Observer, function: Callable[[Array], Array]) -> None:
        """The part of :meth:`observe` that needs the elements, where all are a function that never falls, float32 to
        float32, of those that ``source``, of the same kind, has seen."""

    def range_for(self, dtype: Dtype, scheme: Scheme) -> Range | None:
        """(minimum, maximum) to be represented by ``dtype``; None when nothing was observed.

        It lies within :attr:`seen`, except for averages of nothing but what was seen.
        """

    def describe(self, dtype: Dtype, scheme: Scheme) -> str:
        """How that range was found, as encodings record it: ``percentile(99.99)``, ``mix: kl``."""

    @property
    def seen(self) -> Range | None:
        """The true (minimum, maximum) of everything observed."""

    def merge(self, other: Observer) -> None:
        """See, after all of this observer's own samples, those of another one with the same settings.

        Raises:
            ValueError: the other has other settings.
        """

    def state(self) -> dict[str, Array]:
        """Plain arrays that :meth:`restore` makes an equal observer of."""

    def restore(self, state: Mapping[str, Array]) -> None:
        """Become the observer, of the same settings, whose :meth:`state` this is."""

    def __str__(self) -> str:
        """The observer with its settings: ``percentile(99.99)``."""


class _Extremes:
    """What all observers keep: the extremes, and how many samples there were."""

    def __init__(self) -> None:
        self.count = 0
        self._seen: Range | None = None

    @property
    def seen(self) -> Range | None:
        return self._seen

    def observe(self, *parts: Array) -> list[Range]:
        extents = [extent(part) for part in parts]
        for part, (low, high) in zip(parts, extents, strict=True):
            self.fill(part, low, high)
        low, high = _union(extents)
        self.see(np.array([low]), np.array([high]))
        return extents

    def see(self, low: Floats, high: Floats) -> None:
        if not low.size:
            return
        self.count += low.size
        ends = float(low.min()), float(high.max())
        self._seen = ends if self._seen is None else _union([self._seen, ends])

    def fill(self, part: Array, low: float, high: float) -> None:
        pass

    def fill_halves(self, halves: NDArray[np.uint16], weight: int, low: float, high: float) -> None:
        pass

    def follow(self, source: Observer, function: Callable[[Array], Array]) -> None:
        pass

    def range_for(self, dtype: Dtype, scheme: Scheme) -> Range | None:
        return self._seen

    def describe(self, dtype: Dtype, scheme: Scheme) -> str:
        return str(self)

    def _check(self, other: Observer) -> None:
        if str(other) != str(self):
            raise ValueError(f"{other} cannot be merged into {self}")

    def _join(self, other: _Extremes) -> None:
        self.count += other.count
        if other._seen is not None:
            self._seen = other._seen if self._seen is None else _union([self._seen, other._seen])

    def state(self) -> dict[str, Array]:
        return {"count": np.array(self.count, np.int64), "seen": _pack(self._seen)}

    def restore(self, state: Mapping[str, Array]) -> None:
        self.count = int(state["count"])
        self._seen = _unpack(state["seen"])


def extent(x: Array) -> Range:
    """(minimum, maximum) of an array. Raises :class:`NotFiniteError`."""
    low, high = float(x.min()), float(x.max())
    if not (math.isfinite(low) and math.isfinite(high)):  # NaN propagates through min and max
        raise NotFiniteError(f"{int(np.size(x) - np.isfinite(x).sum())} of {np.size(x)} values are not finite")
    return low, high


def _union(extents: Sequence[Range]) -> Range:
    if len(extents) == 1:
        return extents[0]
    lows, highs = zip(*extents, strict=True)
    return min(lows), max(highs)


def _pack(pair: Range | None) -> Array:
    return np.array([] if pair is None else pair, np.float64)


def _unpack(array: Array) -> Range | None:
    return (float(array[0]), float(array[1])) if array.size else None


class _Averaged(_Extremes):
    """A range that later samples move, and the first sample, without which streams could not be joined."""

    def __init__(self) -> None:
        super().__init__()
        self._first: Range | None = None
        self._range: Range | None = None

    def range_for(self, dtype: Dtype, scheme: Scheme) -> Range | None:
        return self._range

    def state(self) -> dict[str, Array]:
        return {**super().state(), "first": _pack(self._first), "range": _pack(self._range)}

    def restore(self, state: Mapping[str, Array]) -> None:
        super().restore(state)
        self._first, self._range = _unpack(state["first"]), _unpack(state["range"])


class MinMax(_Averaged):
    """The extremes, as torch_mlu's MinMaxObserver finds them.

    Args:
        iteration: only the first so many samples count; None for all. torch_mlu's own default is 1.
        use_avg: a running average instead of the extremes. torch_mlu advances its counter *before* it uses
            it, so sample n (from 2 on) gives ``new = (old * n + x) / (n + 1)``: samples 1, 2, 4 give 2.0, not
            their mean (Cambricon Catch, torch_mlu/core/quantized/observer.py).
    """

    def __init__(self, *, iteration: int | None = None, use_avg: bool = False) -> None:
        if iteration is not None and (iteration < 1 or iteration != int(iteration)):
            raise PorterError("PT408", f"iteration is {iteration}; it counts samples, from 1 up")
        super().__init__()
        self._iteration = iteration
        self._use_avg = use_avg

    def see(self, low: Floats, high: Floats) -> None:
        before = self.count
        super().see(low, high)
        if self._iteration is not None:
            left = max(self._iteration - before, 0)
            low, high = low[:left], high[:left]
        if self._range is None and low.size:
            self._first = self._range = float(low[0]), float(high[0])
            before, low, high = before + 1, low[1:], high[1:]
        if self._range is None or not low.size:
            return
        if not self._use_avg:
            self._range = _union([self._range, (float(low.min()), float(high.max()))])
            return
        for n, (least, most) in enumerate(zip(low.tolist(), high.tolist(), strict=True), before + 1):
            old_low, old_high = self._range
            self._range = ((old_low * n + least) / (n + 1), (old_high * n + most) / (n + 1))

    def merge(self, other: Observer) -> None:
        """See :meth:`Observer.merge`. Raises ValueError, too, where ``iteration`` ends among the other's samples."""
        self._check(other)
        assert isinstance(other, MinMax)
        mine, theirs = self.count, other.count
        if self._iteration is not None and mine < self._iteration < mine + theirs:
            raise ValueError(f"of the {theirs} samples only {self._iteration - mine} count, and none is kept apart")
        whole = self._iteration is None or mine < self._iteration
        self._join(other)
        if not whole or other._range is None or other._first is None:
            return
        if self._range is None:
            self._first, self._range = other._first, other._range
        elif self._use_avg:
            # Unrolled, the average is (first + sum of all) / (n + 1).
            sums = [
                a * (mine + 1) + b * (theirs + 1) - first
                for a, b, first in zip(self._range, other._range, other._first, strict=True)
            ]
            self._range = (sums[0] / (mine + theirs + 1), sums[1] / (mine + theirs + 1))
        else:
            self._range = _union([self._range, other._range])

    def __str__(self) -> str:
        settings = [f"iteration={self._iteration}"] if self._iteration is not None else []
        settings += ["use_avg"] if self._use_avg else []
        return f"min_max({', '.join(settings)})" if settings else "min_max"


class MovingAverage(_Averaged):
    """The extremes of each sample, smoothed: ``new = old + averaging_constant * (x - old)``.

    (As torch.ao.quantization.MovingAverageMinMaxObserver; Horizon's min_max observer is this one, too, with the same
    default.)
    """

    def __init__(self, averaging_constant: float = 0.01) -> None:
        if not 0 < averaging_constant <= 1:
            raise PorterError("PT408", f"averaging_constant is {averaging_constant}; it must lie in (0, 1]")
        super().__init__()
        self._constant = averaging_constant

    def see(self, low: Floats, high: Floats) -> None:
        super().see(low, high)
        for least, most in zip(low.tolist(), high.tolist(), strict=True):
            if self._range is None:
                self._first = self._range = (least, most)
            else:
                (old_low, old_high), c = self._range, self._constant
                self._range = (old_low + c * (least - old_low), old_high + c * (most - old_high))

    def merge(self, other: Observer) -> None:
        self._check(other)
        assert isinstance(other, MovingAverage)
        decay = (1 - self._constant) ** other.count
        self._join(other)
        if other._range is None or other._first is None:
            return
        if self._range is None:
            self._first, self._range = other._first, other._range
        else:
            # The other began at its first sample; here that sample comes after all of these.
            low, high = (
                b + decay * (a - first) for a, b, first in zip(self._range, other._range, other._first, strict=True)
            )
            self._range = (low, high)

    def __str__(self) -> str:
        return f"moving_average({self._constant:g})"


class _Histogrammed(_Extremes):
    """Extremes, and a histogram of all values."""

    def __init__(self) -> None:
        super().__init__()
        self.histogram = Histogram()

    def observe(self, *parts: Array) -> list[Range]:
        return super().observe(*(np.asarray(part, np.float32) for part in parts))

    def fill(self, part: Array, low: float, high: float) -> None:
        self.histogram.add(part, low, high)

    def fill_halves(self, halves: NDArray[np.uint16], weight: int, low: float, high: float) -> None:
        self.histogram.add_halves(halves, weight, low, high)

    def follow(self, source: Observer, function: Callable[[Array], Array]) -> None:
        assert isinstance(source, _Histogrammed)
        self.histogram = source.histogram.mapped(function)

    def merge(self, other: Observer) -> None:
        self._check(other)
        assert isinstance(other, _Histogrammed)
        self._join(other)
        self.histogram.merge(other.histogram)

    def state(self) -> dict[str, Array]:
        return {**super().state(), **self.histogram.state()}

    def restore(self, state: Mapping[str, Array]) -> None:
        super().restore(state)
        self.histogram.restore(state)

    def error(self, minimum: float, maximum: float, dtype: Dtype, scheme: Scheme) -> float:
        """The sum of squared errors of all values when this range is quantized to ``dtype``, by the histogram."""
        return _error(self.histogram.sides(), (minimum, maximum), dtype, scheme)


def _error(sides: tuple[Side, Side], bounds: Range, dtype: Dtype, scheme: Scheme) -> float:
    encoding = scheme.encoding(*bounds, dtype, "")
    step, zero = encoding.scale[0], encoding.zero_point[0]
    low, high = qrange(dtype)
    return sides[0].error(step, (high - zero) * step) + sides[1].error(step, (zero - low) * step)


def _percentile(histogram: Histogram, seen: Range, percentile: float, symmetric: bool) -> Range:
    if symmetric:
        return _within(seen, histogram.quantile(percentile / 100))
    low, high = histogram.interval(percentile / 100)
    return max(low, seen[0]), min(high, seen[1])


def _within(seen: Range, threshold: float) -> Range:
    """The extremes, cut to -threshold..threshold."""
    low, high = (min(max(end, -threshold), threshold) for end in seen)
    return low, high


class Percentile(_Histogrammed):
    """The smallest range that holds ``percentile`` percent of the values, to 1/128 of its width: of |x| for symmetric
    dtypes; for others with half of the rest on either side. Never wider than the true extremes.
    """

    def __init__(self, percentile: float = 99.99) -> None:
        if not 50 < percentile <= 100:
            raise PorterError("PT408", f"percentile is {percentile}; it must lie in (50, 100]")
        super().__init__()
        self._percentile = percentile

    def range_for(self, dtype: Dtype, scheme: Scheme) -> Range | None:
        if self._seen is None:
            return None
        return _percentile(self.histogram, self._seen, self._percentile, scheme.symmetric(dtype))

    def __str__(self) -> str:
        return f"percentile({self._percentile:.12g})"


class MSE(_Histogrammed):
    """The range with the least mean squared error of the values, rounding and clipping together.

    The extremes are scaled by fractions: a quarter of an octave apart, down to where the error has long been rising,
    then by 17 evenly between the neighbours of the best; an asymmetric range has each end searched alone in the end.
    The error is never larger than that of the extremes themselves.
    """

    def range_for(self, dtype: Dtype, scheme: Scheme) -> Range | None:
        if self._seen is None or self._seen == (0, 0):
            return self._seen
        seen = low, high = self._seen
        sides = self.histogram.sides()
        coarse = sides[0].merged(32), sides[1].merged(32)

        def search(bounds: Callable[[float], Range], start: float = 1.0) -> float:
            return _search(lambda f: _error(coarse, bounds(f), dtype, scheme), start)

        if scheme.symmetric(dtype):
            absmax = max(high, -low)
            found = _within(seen, absmax * search(lambda f: _within(seen, f * absmax)))
        elif low >= 0:
            found = (0.0, high * search(lambda f: (0.0, f * high)))
        elif high <= 0:
            found = (low * search(lambda f: (f * low, 0.0)), 0.0)
        else:
            both = search(lambda f: (f * low, f * high))
            top = search(lambda f: (both * low, f * high), both)
            found = (low * search(lambda f: (f * low, top * high), both), top * high)
        return min([seen, found], key=lambda bounds: _error(sides, bounds, dtype, scheme))

    def __str__(self) -> str:
        return "mse"


#: A search goes on while the error is under so many times the least: cut values make it rise steeply, and for good.
_RISING = 8.0


def _search(error: Callable[[float], float], start: float) -> float:
    """The fraction in (0, 1] with the least error; ``start`` where none is better."""
    best, least = start, error(start)
    for quarter in range(81):
        fraction = float(2.0 ** (-quarter / 4))
        found = error(fraction)
        if found < least:
            best, least = fraction, found
        elif found > _RISING * least and fraction < best:
            break
    fine: list[float] = np.linspace(best / 2**0.25, min(best * 2**0.25, 1.0), 17).tolist()
    return min([best, *fine], key=error)


class KL(_Histogrammed):
    """Entropy calibration: the threshold of |x| whose clipped distribution loses least, by Kullback-Leibler
    divergence, when it is merged into as many levels as the dtype has.

    As S. Migacz, "8-bit Inference with TensorRT" (GTC 2017) describes it, with the smoothing of empty bins of MXNet's
    ``_get_optimal_threshold``, in steps of 1/64 of the bins. Zeros are left out, which every scale represents exactly
    (the peak of a rectified tensor would decide alone otherwise). A dtype with more levels than ``bins`` (16 bits)
    loses nothing by merging: its range is the extremes.
    """

    def __init__(self, bins: int = 2048) -> None:
        if bins != int(bins) or not 256 <= bins <= 16384:
            raise PorterError("PT408", f"bins is {bins}; it must be a whole number in 256..16384")
        super().__init__()
        self._bins = int(bins)

    def range_for(self, dtype: Dtype, scheme: Scheme) -> Range | None:
        if self._seen is None:
            return None
        return _entropy(self.histogram, self._seen, self._bins, dtype, scheme)

    def __str__(self) -> str:
        return f"kl({self._bins})"


def _entropy(histogram: Histogram, seen: Range, bins: int, dtype: Dtype, scheme: Scheme) -> Range:
    """The range of :class:`KL`."""
    low, high = seen
    absmax = max(high, -low)
    if absmax == 0:
        return seen
    counts = histogram.linear(bins)
    step = scheme.encoding(low, high, dtype, "").scale[0]
    levels = int(np.rint(absmax / step)) + 1
    if levels >= bins or not counts.any():
        return seen
    candidates = range(bins, levels - 1, -(bins // 64))
    best = min(candidates, key=lambda kept: _divergence(counts, kept, levels))
    return _within(seen, absmax * best / bins)


def _divergence(counts: NDArray[np.float64], kept: int, levels: int) -> float:
    """KL(p || q): p are the first ``kept`` bins with all beyond in the last; q the same bins, each run of bins that
    falls on one level made even over the bins that are not empty."""
    inside = counts[:kept]
    p = inside.copy()
    p[-1] += counts[kept:].sum()
    starts = -(-np.arange(levels) * kept // levels)  # the first bin of each level
    filled = inside > 0
    sums = np.add.reduceat(inside, starts)
    nonzero = np.add.reduceat(filled.astype(np.float64), starts)
    level = np.repeat(np.arange(levels), np.diff(np.append(starts, kept)))
    q = np.where(filled, (sums / np.maximum(nonzero, 1))[level], 0.0)
    p, q = _smooth(p / p.sum()), _smooth(q / max(q.sum(), 1e-300))
    return float((p * np.log(p / q)).sum())


def _smooth(p: NDArray[np.float64], share: float = 1e-7) -> NDArray[np.float64]:
    """A distribution in which empty bins have a little, taken from all."""
    smooth = np.maximum(p, share)
    return np.asarray(smooth / smooth.sum())


class Mix(_Histogrammed):
    """For each tensor and dtype, the range with the least mean squared error among: the extremes, the percentiles 99.9,
    99.99, 99.995 and 99.999, and :class:`KL`'s.

    (Horizon's ``mix`` chooses among percentiles by the same measure.)
    """

    _PERCENTILES: ClassVar[tuple[float, ...]] = (99.9, 99.99, 99.995, 99.999)

    def __init__(self) -> None:
        super().__init__()
        self._found: tuple[Scheme, tuple[Range, int, Dtype], tuple[str, Range]] | None = None

    def _best(self, dtype: Dtype, scheme: Scheme) -> tuple[str, Range] | None:
        """What is chosen, and its range; searched for once, though both are asked for."""
        if self._seen is None:
            return None
        now = self._seen, self.histogram.total, dtype
        if self._found is None or self._found[0] is not scheme or self._found[1] != now:
            self._found = scheme, now, self._search(self._seen, dtype, scheme)
        return self._found[2]

    def _search(self, seen: Range, dtype: Dtype, scheme: Scheme) -> tuple[str, Range]:
        symmetric = scheme.symmetric(dtype)
        found = {"min_max": seen}
        found |= {f"percentile({p:g})": _percentile(self.histogram, seen, p, symmetric) for p in self._PERCENTILES}
        found["kl(2048)"] = _entropy(self.histogram, seen, 2048, dtype, scheme)
        sides = self.histogram.sides()
        return min(found.items(), key=lambda item: _error(sides, item[1], dtype, scheme))

    def range_for(self, dtype: Dtype, scheme: Scheme) -> Range | None:
        best = self._best(dtype, scheme)
        return None if best is None else best[1]

    def describe(self, dtype: Dtype, scheme: Scheme) -> str:
        best = self._best(dtype, scheme)
        return "mix" if best is None else f"mix: {best[0]}"

    def __str__(self) -> str:
        return "mix"


#: Every observer by the name that users write.
OBSERVERS: dict[str, Callable[..., Observer]] = {
    "min_max": MinMax,
    "moving_average": MovingAverage,
    "percentile": Percentile,
    "mse": MSE,
    "kl": KL,
    "mix": Mix,
}


def by_extremes(observer: Observer) -> bool:
    """Whether nothing but the smallest and the largest element of a sample matters to the observer."""
    return isinstance(observer, _Averaged)


_SPEC = re.compile(r"(\w+)(?:\((.*)\))?")


def make_observer(spec: str) -> Observer:
    """A new observer from its name and settings: see :func:`observer_maker`."""
    return observer_maker(spec)()


def observer_maker(spec: str) -> Callable[[], Observer]:
    """What makes new observers from a name and settings, as ``str(observer)`` writes them.

    ``min_max``, ``min_max(iteration=8)``, ``min_max(use_avg)``, ``moving_average(0.1)``, ``percentile(99.9)``, ``mse``,
    ``kl``, ``kl(bins=1024)``, ``mix``.

    Raises:
        PorterError: PT408 for an unknown name (the nearest is named) or a setting that it does not have.
    """
    match = _SPEC.fullmatch(spec.strip())
    name, settings = (match[1], match[2]) if match else (spec, None)
    if name not in OBSERVERS:
        near = difflib.get_close_matches(name, OBSERVERS, n=1, cutoff=0.0)[0]
        raise PorterError(
            "PT408",
            f"there is no observer {name!r}",
            fix=f"Did you mean {near}? There are {', '.join(sorted(OBSERVERS))}.",
        )
    plain: list[float] = []
    named: dict[str, float | bool] = {}
    for part in filter(None, (item.strip() for item in (settings or "").split(","))):
        key, equals, text = part.partition("=")
        try:
            value = float(text if equals else key)
        except ValueError:
            if equals:
                raise PorterError("PT408", f"observer {spec}: {text.strip()!r} is no number") from None
            named[key] = True
            continue
        if equals:
            named[key.strip()] = int(value) if value.is_integer() else value
        else:
            plain.append(value)
    try:
        inspect.signature(OBSERVERS[name]).bind(*plain, **named)
    except TypeError as error:
        raise PorterError("PT408", f"{name} does not take the settings ({settings})") from error
    return partial(OBSERVERS[name], *plain, **named)
