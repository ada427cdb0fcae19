# SPDX-License-Identifier: Apache-2.0
"""What ops cost on a target, to choose between rewrites and to weigh what is worth a trip to the accelerator.

The time of an op is its roofline (:mod:`porter.latency`) at the target's own rates. A target whose file gives none is
priced at nominal ones, which only order candidates: they are never shown as a latency of the device.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from porter.latency import Rates, count_op
from porter.ops import Op
from porter.target import Target

__all__ = ["Price", "Prices"]

#: The dtype of the rates, the most usual one of accelerators first.
_DTYPES = ("int8", "int16", "float16", "bfloat16", "float32")
#: Without a rate in the target's file: 1 TOPS, and 10 GB/s (a small accelerator's LPDDR4 channel).
_NOMINAL_MACS, _NOMINAL_BANDWIDTH = 0.5e12, 10e9


@dataclass(frozen=True, slots=True)
class Price:
    """Multiply-accumulates, bytes read and written (in the tensors' own dtypes), and the seconds of their roofline."""

    macs: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def __add__(self, other: Price) -> Price:
        return Price(self.macs + other.macs, self.bytes + other.bytes, self.seconds + other.seconds)

    @property
    def microseconds(self) -> str:
        """``12.3 us``, for people."""
        return f"{self.seconds * 1e6:.3g} us"


@dataclass(frozen=True, slots=True)
class Prices:
    """The rates that ops are priced at; ``nominal`` where the target's file gives none."""

    rates: Rates
    nominal: bool

    @classmethod
    def of_target(cls, target: Target) -> Prices:
        """The target's rates, measured ones before nominal ones."""
        known = {**target.performance.tops, **target.performance.measured_tops}
        dtype = next((dtype for dtype in (*_DTYPES, *known) if known.get(dtype)), None)
        if dtype is not None:
            rates = Rates.of_target(target, dtype)
            if rates.bandwidth:
                return cls(rates, False)
            return cls(Rates(rates.name, dtype, rates.macs, _NOMINAL_BANDWIDTH, notes=rates.notes), True)
        return cls(Rates(f"{target.name} at nominal rates", "float32", _NOMINAL_MACS, _NOMINAL_BANDWIDTH), True)

    def op(self, op: Op) -> Price:
        """The price of one op; values whose shape depends on data count as nothing."""
        counted = count_op(op)
        if counted.free:
            return Price()
        moved = counted.activation_bytes + counted.weight_bytes
        seconds = max(counted.macs / self.rates.macs, moved / self.rates.bandwidth)
        return Price(counted.macs, moved, seconds)

    def ops(self, ops: Iterable[Op]) -> Price:
        """The price of several ops, one after another."""
        macs = moved = 0
        seconds = 0.0
        for op in ops:
            price = self.op(op)
            macs, moved, seconds = macs + price.macs, moved + price.bytes, seconds + price.seconds
        return Price(macs, moved, seconds)
