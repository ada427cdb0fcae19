# SPDX-License-Identifier: Apache-2.0
"""Large strides of convolutions as smaller ones, and pools of one element that leave results out."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from porter.ops import Op
from porter.rewrite import Builder, rewrite

from ._tools import need


def _factors(n: int) -> list[int]:
    """The prime factors of ``n``, the largest first."""
    found, factor = [], 2
    while n > 1:
        while n % factor == 0:
            found.append(factor)
            n //= factor
        factor += 1
    return found[::-1]


@rewrite(
    removes="conv2d",
    yields=("conv2d", "max_pool2d"),
    claim="bounded",
    error="4 ulp of the sum of magnitudes",
)
def conv_stride_to_pools(b: Builder, op: Op) -> Any:
    """A convolution with a stride that is no prime number gets its largest prime factor as stride; pools of one element
    with the others as strides keep every so many results.

    Formula: every 4th window is every 2nd of every 2nd; the maximum of one element is the element.
    Example: ``y = conv2d(x, w, stride=(4, 4))`` -> ``y = max_pool2d(conv2d(x, w, stride=(2, 2)), kernel=(1, 1),
    stride=(2, 2))``.
    Bound: 4 ulp in float32 of the sum of magnitudes (a kernel may add in another order).
    Does not apply: to strides of 1 and prime numbers.
    """
    steps = list(zip_longest(*map(_factors, op.attrs["stride"]), fillvalue=1))
    need(len(steps) > 1, f"no stride of {tuple(op.attrs['stride'])} is a product")
    y = b.op("conv2d", op.inputs, **{**op.attrs, "stride": steps[0]})[0]
    for stride in steps[1:]:
        y = b.max_pool2d(y, kernel=(1, 1), stride=stride, padding=((0, 0), (0, 0)), dilation=(1, 1), ceil_mode=False)
    return y
