# SPDX-License-Identifier: Apache-2.0
"""What an op saves by running on the accelerator, to be held against what its crossings cost.

The accelerator's time is priced at the target's rates (:mod:`porter.prices`). What the host and the way to it can do
is in no target's file; the figures below are assumptions about an embedded board, on the side of the accelerator: a
host that is faster, or a link that is slower, only makes more islands come home. Every decision that rests on them is
reported with its figures.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from porter.ops import Op
from porter.partition.segments import Link
from porter.prices import Prices
from porter.target import Target

__all__ = ["Costs"]

#: A host of four small cores (Arm Cortex-A55 class): multiply-accumulates, and bytes of memory traffic, a second.
HOST_MACS, HOST_BANDWIDTH = 10e9, 5e9
#: A call of the device's driver and the wait for it, there and back; and a copy through shared memory or a bus.
LATENCY, LINK_BANDWIDTH = 100e-6, 2e9


@dataclass(frozen=True, slots=True)
class Costs:
    """Prices of both sides, and of the way between them."""

    prices: Prices
    link: Link = field(default_factory=lambda: Link(LATENCY, LINK_BANDWIDTH))
    host_macs: float = HOST_MACS
    host_bandwidth: float = HOST_BANDWIDTH

    @classmethod
    def of_target(cls, target: Target) -> Costs:
        """The target's rates, and the assumptions about its host."""
        return cls(Prices.of_target(target))

    def gain(self, op: Op) -> float:
        """The seconds by which the accelerator is faster than the host; 0 where it is not."""
        price = self.prices.op(op)
        return max(max(price.macs / self.host_macs, price.bytes / self.host_bandwidth) - price.seconds, 0.0)

    def __str__(self) -> str:
        rates = self.prices.rates
        nominal = ", nominal" if self.prices.nominal else ""
        return (
            f"accelerator {rates.macs / 1e9:.4g} GMAC/s and {rates.bandwidth / 1e9:.4g} GB/s ({rates.name}{nominal}); "
            f"host assumed at {self.host_macs / 1e9:g} GMAC/s and {self.host_bandwidth / 1e9:g} GB/s, a trip to the "
            f"device at {self.link.latency * 1e6:g} us and {self.link.bandwidth / 1e9:g} GB/s"
        )
