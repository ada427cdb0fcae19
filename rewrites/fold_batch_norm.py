# SPDX-License-Identifier: Apache-2.0
"""Batch normalization folded into the layer before it."""

from __future__ import annotations

from typing import Any

import numpy as np

from porter.ops import Op
from porter.rewrite import Builder, rewrite

from ._tools import data, need
from .norm import scale_and_shift

_LAYERS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear")


@rewrite(removes="batch_norm", yields=_LAYERS, claim="bounded", error="1e-05 of the largest |y|", optional=True)
def fold_batch_norm(b: Builder, op: Op) -> Any:
    """conv + batch_norm becomes one conv with other weights and a bias.

    Formula: with factor = weight / sqrt(var + eps) of each channel, w' = w * factor and bias' = (bias - mean)
    * factor + bn_bias, computed in float64 (Jacob et al., arXiv:1712.05877, section 3.2).
    Example: ``y = batch_norm(conv2d(x, w), ...)`` -> ``y = conv2d(x, w', bias')``.
    Bound: 1e-05 of the largest |y| in float32: the weights round once more.
    Does not apply: when the input is not a convolution, transposed convolution or linear layer that nothing
    else reads, or when a weight or statistic is computed at run time. Optional: name it with ``--apply``.
    """
    layer = b.producer(op.operands[0])
    need(
        layer is not None and layer.kind in _LAYERS,
        "the input is not the result of a convolution or linear layer",
    )
    assert layer is not None
    need(b.uses(op.operands[0]) == 1, f"{op.operands[0].name} is read elsewhere too")
    x, weight, bias = layer.inputs
    old = data(weight, "weight")
    factor, offset = scale_and_shift(op)
    transposed = "transpose" in layer.kind
    groups = layer.attrs.get("groups", 1)
    if transposed:
        # (Ci, Co / groups, ...): output channel g * (Co / groups) + j is column j of the rows of group g.
        rows = np.repeat(factor.reshape(groups, -1), old.shape[0] // groups, axis=0)
        scaled = old * rows.reshape(*rows.shape, *(1,) * (old.ndim - 2))
    else:
        scaled = old * factor.reshape(-1, *(1,) * (old.ndim - 1))
    shift = offset + (0.0 if bias is None else data(bias, "bias") * factor)
    b.merge_origin(layer, lead=True)
    return b.op(layer.kind, (x, b.const(scaled, str(old.dtype)), b.const(shift, str(old.dtype))), **layer.attrs)
