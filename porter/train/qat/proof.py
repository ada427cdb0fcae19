# SPDX-License-Identifier: Apache-2.0
"""What counts as the same model, in floats and in integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from porter.errors import PorterError
from porter.ops import Array
from porter.quantize.simulate import SimResult
from porter.verify import Evidence, TensorError

__all__ = ["require_same", "same_integers"]

#: A difference of float32 rounding, through a hundred layers, as a share of the largest value. (An untrained head gives
#: nearly the same number everywhere, so that a share of the range would say nothing.)
_ROUNDING = 1e-5
#: Kinds that every framework computes alike in float32: one rounding for each element, or none.
_ALIKE = frozenset({
    "add", "sub", "mul", "div", "relu", "relu6", "clamp", "maximum", "minimum", "neg", "abs", "cat", "stack",
    "identity", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "slice", "select", "split", "chunk", "unbind",
    "expand",
    "repeat", "pad", "take", "index_select", "gather", "max_pool1d", "max_pool2d", "max_pool3d", "pixel_shuffle",
    "pixel_unshuffle", "quantize", "dequantize",
})  # fmt: skip
#: Where one kernel rounds a float otherwise than another, a quantized tensor behind it may move by a step.
_STEPS = 0.02


def require_same(what: str, evidence: Evidence, source: str, code: str) -> None:
    """Raise an error of ``code`` where a float model is not the other one, up to float32 rounding."""
    for error in evidence.outputs:
        size = max(abs(error.low), abs(error.high))
        if not error.within(evidence.tolerance) and (error.mismatched or error.max_abs > _ROUNDING * size):
            said = f"{error.name} differs by {error.max_abs:.3g} in {error.low:.4g}..{error.high:.4g}"
            raise PorterError(code, f"{what} is not the model: {said}", source, "Report this model.")


def same_integers(wanted: Sequence[Array], got: SimResult, names: Sequence[str]) -> tuple[str, str]:
    """Whether two integer simulations of one model in two frameworks agree.

    Returns:
        How they agree, in words ("equal bit for bit"), and "" or what differs. Equal is asked for bit for bit, except
        where the device computes in float what frameworks round differently.
    """
    if all(np.array_equal(a, b) for a, b in zip(wanted, got.outputs, strict=True)):
        return "equal bit for bit", ""
    unlike = sorted(kind for kind in got.floating if kind not in _ALIKE)
    for name, a, b in zip(names, wanted, got.outputs, strict=True):
        error = TensorError(name)
        error.add(a.astype(np.float64), b.astype(np.float64))
        if not unlike or not error.within(_STEPS):
            return "", f"{int((a != b).sum())} of {a.size} values of {name} differ"
    return f"equal but for the float32 rounding of {', '.join(unlike)}, which the device computes in float", ""
