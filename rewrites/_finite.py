# SPDX-License-Identifier: Apache-2.0
"""Whether values are finite, for rules whose arithmetic makes NaN of infinities."""

from __future__ import annotations

import numpy as np

from porter.ops import Value
from porter.rewrite import Builder

from ._tools import need

__all__ = ["need_finite"]

#: What is infinite or NaN for some finite operands, and is guarded by a mask for that.
_PARTIAL = frozenset(
    {"log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "asin", "acos", "acosh", "atanh", "tan"}
)
_QUOTIENTS = ("div", "remainder", "fmod")
#: What hands an infinity or NaN of an operand on, element by element.
_HANDS_ON = frozenset({
    "abs", "add", "cast", "clamp", "expand", "flatten", "identity", "mul", "neg", "permute", "reshape", "slice",
    "square", "squeeze", "sub", "transpose", "unsqueeze", "where",
})  # fmt: skip
#: How many ops upstream are looked at.
_UPSTREAM = 64


def need_finite(b: Builder, value: Value) -> None:
    """Raise :class:`NotApplicable` where ``value`` is likely not finite somewhere, which a mask may be there to hide.

    It is looked for infinite constants upstream, up to the next weighted sum, and for partial functions whose results
    come here element by element.
    """
    todo, seen = [(value, True)], {value.name}
    while todo and len(seen) < _UPSTREAM:
        at, direct = todo.pop(0)
        if at.is_const:
            need(
                "float" not in (at.dtype or "") or np.isfinite(at.numpy()).all(),
                f"the constant {at.name} is not finite",
            )
            continue
        op = b.producer(at)
        if op is None or op.kind in ("linear", "matmul", "gemm") or op.kind.startswith("conv"):
            continue
        partial = op.kind in _PARTIAL or (op.kind in _QUOTIENTS and not _divides(op.operands[1]))
        need(not (direct and partial), f"{value.name} comes from {op.kind}, which is not finite for every operand")
        direct = direct and op.kind in _HANDS_ON
        fresh = [v for v in op.operands if v.name not in seen]
        seen.update(v.name for v in fresh)
        todo += [(v, direct) for v in fresh]


def _divides(divisor: Value) -> bool:
    return divisor.is_const and bool((divisor.numpy() != 0).all())
