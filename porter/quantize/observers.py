# SPDX-License-Identifier: Apache-2.0
"""Observers: how the range of a tensor is found from a stream of samples. numpy only.

An observer keeps a fixed amount of state, however many samples it sees. One that needs every sample twice
says ``passes = 2``; the engine then streams the data twice, with :meth:`Observer.next_pass` in between. New
ones are added to :data:`OBSERVERS`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from porter.errors import PorterError
from porter.ops import Array

__all__ = ["OBSERVERS", "Histogram", "MinMax", "NotFiniteError", "Observer", "Percentile", "make_observer"]


class NotFiniteError(ValueError):
    """A sample holds NaN or infinity. The engine turns it into an error that names the layer."""


class Observer(Protocol):
    """Finds a range; sees one sample (any shape) at a time."""

    #: How often the whole stream must be shown.
    passes: ClassVar[int]

    def observe(self, x: Array) -> tuple[float, float]:
        """See one sample, and return its own (minimum, maximum). Raises :class:`NotFiniteError`."""

    def next_pass(self) -> None:
        """The stream starts again (never called when ``passes`` is 1)."""

    @property
    def range(self) -> tuple[float, float] | None:
        """(minimum, maximum) to be represented; None when nothing was observed."""

    @property
    def seen(self) -> tuple[float, float] | None:
        """The true (minimum, maximum) of everything observed."""

    def __str__(self) -> str:
        """The observer with its settings, as encodings record it: ``percentile(99.99)``."""


def _extent(x: Array) -> tuple[float, float]:
    low, high = float(x.min()), float(x.max())
    if not (np.isfinite(low) and np.isfinite(high)):  # NaN propagates through min and max
        raise NotFiniteError(f"{int(np.size(x) - np.isfinite(x).sum())} of {np.size(x)} values are not finite")
    return low, high


class MinMax:
    """The extremes, as torch_mlu's MinMaxObserver finds them.

    Args:
        iteration: only the first so many samples count; None for all. torch_mlu's own default is 1.
        use_avg: a running average instead of the extremes. torch_mlu advances its counter *before* it uses
            it, so sample n (from 2 on) gives ``new = (old * n + x) / (n + 1)``: samples 1, 2, 4 give 2.0, not
            their mean (Cambricon Catch, torch_mlu/core/quantized/observer.py).
    """

    passes: ClassVar[int] = 1

    def __init__(self, *, iteration: int | None = None, use_avg: bool = False) -> None:
        if iteration is not None and (iteration < 1 or iteration != int(iteration)):
            raise PorterError("PT408", f"iteration is {iteration}; it counts samples, from 1 up")
        self._iteration = iteration
        self._use_avg = use_avg
        self._count = 0
        self._range: tuple[float, float] | None = None
        self._seen: tuple[float, float] | None = None

    def observe(self, x: Array) -> tuple[float, float]:
        low, high = _extent(x)
        self._seen = (low, high) if self._seen is None else (min(low, self._seen[0]), max(high, self._seen[1]))
        if self._iteration is not None and self._count >= self._iteration:
            return low, high
        self._count += 1
        if self._range is None:
            self._range = (low, high)
        elif self._use_avg:
            n, (old_low, old_high) = self._count, self._range
            self._range = ((old_low * n + low) / (n + 1), (old_high * n + high) / (n + 1))
        else:
            self._range = (min(low, self._range[0]), max(high, self._range[1]))
        return low, high

    def next_pass(self) -> None:
        raise AssertionError("min_max needs one pass")

    @property
    def range(self) -> tuple[float, float] | None:
        return self._range

    @property
    def seen(self) -> tuple[float, float] | None:
        return self._seen

    def __str__(self) -> str:
        settings = [f"iteration={self._iteration}"] if self._iteration is not None else []
        settings += ["use_avg"] if self._use_avg else []
        return f"min_max({', '.join(settings)})" if settings else "min_max"


class Histogram:
    """A streaming histogram of |x|: ``bins`` equal bins over [0, limit).

    When a sample exceeds the limit, the limit doubles until it fits and neighbouring bins are added together,
    so that the counts stay exact for the wider bins. State does not grow with the stream.
    """

    def __init__(self, bins: int = 8192) -> None:
        self.counts: NDArray[np.int64] = np.zeros(bins, np.int64)
        self.limit = 0.0

    def add(self, x: Array) -> None:
        """Count every element of ``x`` (finite)."""
        size = np.abs(x.reshape(-1)).astype(np.float32, copy=False)
        top = float(size.max())
        if top == 0 and self.limit == 0:
            self.counts[0] += size.size
            return
        if self.limit == 0:
            self.limit = 2.0 ** np.ceil(np.log2(top))
        bins = self.counts.size
        while top >= self.limit:
            self.counts[: bins // 2] = self.counts.reshape(-1, 2).sum(1)
            self.counts[bins // 2 :] = 0
            self.limit *= 2
        # A power-of-two limit makes the division exact, so an element never lands in a neighbouring bin.
        self.counts += np.bincount((size * (bins / self.limit)).astype(np.int64), minlength=bins)[:bins]

    def quantile(self, fraction: float) -> float:
        """The upper edge of the bin in which the cumulative share of |x| reaches ``fraction``."""
        total = np.cumsum(self.counts)
        index = int(np.searchsorted(total, fraction * total[-1], side="left"))
        return (index + 1) * self.limit / self.counts.size


class Percentile:
    """The smallest symmetric range that holds ``percentile`` percent of |x|, to one of 8192 bins (at most
    twice the true maximum wide).

    Never wider than the true extremes.
    """

    passes: ClassVar[int] = 1

    def __init__(self, percentile: float = 99.99) -> None:
        if not 50 < percentile <= 100:
            raise PorterError("PT408", f"percentile is {percentile}; it must lie in (50, 100]")
        self._percentile = percentile
        self._histogram = Histogram()
        self._seen: tuple[float, float] | None = None

    def observe(self, x: Array) -> tuple[float, float]:
        low, high = _extent(x)
        self._seen = (low, high) if self._seen is None else (min(low, self._seen[0]), max(high, self._seen[1]))
        self._histogram.add(x)
        return low, high

    def next_pass(self) -> None:
        raise AssertionError("percentile needs one pass")

    @property
    def range(self) -> tuple[float, float] | None:
        if self._seen is None:
            return None
        bound = self._histogram.quantile(self._percentile / 100)
        return max(-bound, self._seen[0]), min(bound, self._seen[1])

    @property
    def seen(self) -> tuple[float, float] | None:
        return self._seen

    def __str__(self) -> str:
        return f"percentile({self._percentile:g})"


#: Every observer by the name that users write.
OBSERVERS: dict[str, Callable[..., Observer]] = {"min_max": MinMax, "percentile": Percentile}


_SPEC = re.compile(r"(\w+)(?:\((.*)\))?")


def make_observer(spec: str) -> Observer:
    """A new observer from its name and settings, as ``str(observer)`` writes them.

    ``min_max``, ``min_max(iteration=8)``, ``min_max(use_avg)``, ``percentile``, ``percentile(99.9)``.

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
        return OBSERVERS[name](*plain, **named)
    except TypeError as error:
        raise PorterError("PT408", f"{name} does not take the settings ({settings})") from error
