# SPDX-License-Identifier: Apache-2.0
"""A first convolution that takes raw pixels: whether the model has one, and its mean and deviation in pixel units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from porter.data import Preprocess
from porter.errors import PorterError
from porter.graph import Graph
from porter.quantize.plan import Site
from porter.quantize.scheme import Scheme

__all__ = ["FirstConvolution", "first_convolution"]


@dataclass(frozen=True, slots=True)
class FirstConvolution:
    """A first convolution that normalizes raw 0..255 pixels itself: its path, and mean and std in pixel
    units, (C,).
    """

    path: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def first_convolution(
    graph: Graph, sites: Sequence[Site], scheme: Scheme, preprocess: Preprocess | None
) -> FirstConvolution:
    """The first convolution's normalization in pixel units: (p * scale - mean) / std = (p - mean / scale) /
    (std / scale).

    Raises:
        PorterError: PT416 when the target has no such convolution, PT418 with every reason why the model has none.
    """
    limits = scheme.table.first_conv
    site = next((s for s in sites if s.op.kind == "conv2d"), None)
    reasons = []
    if limits is None:
        raise PorterError("PT416", "the target has no first convolution that normalizes", fix="Leave first_conv off.")
    if preprocess is None:
        reasons.append("the data have no preprocessing spec, which would give mean and standard deviation")
    if site is not None and site.width.weight != "int8":
        reasons.append(f"its weights are {site.width.weight}, and it takes int8 only")
    if site is None or site.input.name not in {value.name for value in graph.inputs}:
        reasons.append("no convolution reads the model's input directly")
    else:
        channels, outputs = (site.input.shape or (0, 0))[1], (site.weight.shape or (0,))[0]
        width = (site.output.shape or (0,))[-1]
        if channels not in limits.in_channels:
            reasons.append(f"it has {channels} input channels, not one of {limits.in_channels}")
        if outputs > limits.max_out_channels:
            reasons.append(f"it has {outputs} output channels, more than {limits.max_out_channels}")
        if width < limits.min_out_width:
            reasons.append(f"its output is {width} wide, under {limits.min_out_width}")
        if not limits.dilation and any(d != 1 for d in site.op.attrs["dilation"]):
            reasons.append("it is dilated")
    if reasons or site is None or preprocess is None:
        where = None if site is None else f"{site.path} {site.op.origin}"
        raise PorterError(
            "PT418", "the first convolution cannot take raw pixels: " + "; ".join(reasons), where=where,
            fix="Leave first_conv off.",
        )  # fmt: skip
    channels = (site.input.shape or (0, 0))[1]
    mean = np.broadcast_to(np.asarray(preprocess.mean), (channels,)) / preprocess.scale
    std = np.broadcast_to(np.asarray(preprocess.std), (channels,)) / preprocess.scale
    return FirstConvolution(site.path, tuple(map(float, mean)), tuple(map(float, std)))
