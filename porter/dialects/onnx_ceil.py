# SPDX-License-Identifier: Apache-2.0
"""The extents of pools with ``ceil_mode``, where onnx's own inference and the runtimes part.

A window that would start in the padding behind the input is left out: so says the text of AveragePool and MaxPool of
opset 22, and so do torch and onnxruntime at every opset. onnx's shape inference (1.23) counts it. A pool that has such
a window has the shape of one without ``ceil_mode``.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import AttributeProto, NodeProto

__all__ = ["POOLS", "as_inferred"]

#: The operators that have ``ceil_mode``.
POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})


def as_inferred(node: NodeProto, shape: Sequence[int] | None) -> NodeProto:
    """The node for which onnx's inference gives the right shape: itself, or a copy without ``ceil_mode``.

    ``shape`` is that of the input, None where it is not known.
    """
    if node.op_type not in POOLS or node.domain or shape is None:
        return node
    attrs = {a.name: a for a in node.attribute}
    if "ceil_mode" not in attrs or not attrs["ceil_mode"].i or not _overhangs(attrs, shape[2:]):
        return node
    made = NodeProto()
    made.CopyFrom(node)
    next(a for a in made.attribute if a.name == "ceil_mode").i = 0
    return made


def _overhangs(attrs: dict[str, AttributeProto], extents: Sequence[int]) -> bool:
    """Whether along some axis the last window, counted by rounding up, starts behind the input."""
    rank = len(extents)

    def ints(name: str, default: int, count: int = rank) -> list[int]:
        return list(attrs[name].ints) if name in attrs else [default] * count

    kernel, strides, dilations = ints("kernel_shape", 0), ints("strides", 1), ints("dilations", 1)
    pads = ints("pads", 0, 2 * rank)
    automatic = "auto_pad" in attrs and attrs["auto_pad"].s not in (b"", b"NOTSET")
    if automatic or len(pads) != 2 * rank or {len(kernel), len(strides), len(dilations)} != {rank}:
        return False
    for n, k, s, d, begin, end in zip(extents, kernel, strides, dilations, pads[:rank], pads[rank:], strict=True):
        if s < 1:
            return False
        last = -(-(n + begin + end - d * (k - 1) - 1) // s)
        if last * s >= n + begin:
            return True
    return False
