# SPDX-License-Identifier: Apache-2.0
"""Rules for devices that have tanh and no exp."""

import math

from porter.rewrite import NotApplicable, rewrite


@rewrite(removes="erf", yields=("mul", "add", "tanh"), claim="approximate", error="3.6e-4 absolute")
def erf_to_tanh(b, op):
    """erf(x) becomes tanh(2 / sqrt(pi) * (x + 0.08943 x^3)).

    Formula: the tanh form of GELU (Hendrycks and Gimpel, arXiv:1606.08415), solved for erf.
    Bound: 3.6e-4 absolute, the largest difference on [-6, 6]; outside both are 1 in float32.
    Does not apply: to other types than float32 and float16.
    """
    x = op.inputs[0]
    if x.dtype not in ("float32", "float16"):
        raise NotApplicable(f"it is {x.dtype}")
    cubic = b.mul(b.mul(b.mul(x, x), x), 0.08943)
    return b.tanh(b.mul(b.add(x, cubic), 2 / math.sqrt(math.pi)))
