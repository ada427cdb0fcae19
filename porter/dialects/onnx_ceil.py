# SPDX-License-Identifier: Apache-2.0
"""The extents of pools with ``ceil_mode``, where onnx's own inference and the runtimes part.

A window that would start in the padding behind the input is left out: so says the text of AveragePool and MaxPool of
opset 22, and so do torch and onnxruntime at every opset. onnx's shape inference (1.23) counts it. Without
``ceil_mode``, and with padding for the windows that do reach over the end, such a pool has the same windows, and one
shape for all.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import AttributeProto, NodeProto, helper

__all__ = ["POOLS", "as_inferred", "as_written"]

#: The operators that have ``ceil_mode``.
POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})


def as_inferred(node: NodeProto, shape: Sequence[int] | None) -> NodeProto:
    """The node for which onnx's inference gives the right shape: itself, or a copy without ``ceil_mode``.

    ``shape`` is that of the input, None where it is not known.
    """
    if node.op_type not in POOLS or node.domain or shape is None:
        return node
    attrs = {a.name: a for a in node.attribute}
    pads = _floored(attrs, shape[2:]) if "ceil_mode" in attrs and attrs["ceil_mode"].i else None
    return node if pads is None else _without(node, pads)


def as_written(node: NodeProto, shape: Sequence[int] | None) -> NodeProto:
    """The same where it computes the same: an average that counts padding divides by it as well."""
    made = as_inferred(node, shape)
    if made is node:
        return node
    before, after = ({a.name: a for a in one.attribute} for one in (node, made))
    padded = any(after["pads"].ints) and list(before["pads"].ints if "pads" in before else ()) != list(
        after["pads"].ints
    )
    counts = "count_include_pad" in before and before["count_include_pad"].i
    dilated = "dilations" in before and max(before["dilations"].ints, default=1) > 1
    return node if padded and (counts or dilated) else made


def _without(node: NodeProto, pads: Sequence[int]) -> NodeProto:
    made = NodeProto()
    made.CopyFrom(node)
    del made.attribute[:]
    made.attribute.extend(a for a in node.attribute if a.name not in ("ceil_mode", "pads"))
    made.attribute.append(helper.make_attribute("pads", pads))
    return made


def _floored(attrs: dict[str, AttributeProto], extents: Sequence[int]) -> list[int] | None:
    """The pads with which the pool has its windows without ``ceil_mode``; None where no window starts behind the
    input."""
    rank = len(extents)

    def ints(name: str, default: int, count: int = rank) -> list[int]:
        return list(attrs[name].ints) if name in attrs else [default] * count

    kernel, strides, dilations = ints("kernel_shape", 0), ints("strides", 1), ints("dilations", 1)
    pads = ints("pads", 0, 2 * rank)
    automatic = "auto_pad" in attrs and attrs["auto_pad"].s not in (b"", b"NOTSET")
    lengths = {len(kernel), len(strides), len(dilations)}
    if automatic or len(pads) != 2 * rank or lengths != {rank} or min(strides, default=1) < 1:
        return None
    behind = False
    for i, (n, k, s, d) in enumerate(zip(extents, kernel, strides, dilations, strict=True)):
        begin, end, reach = pads[i], pads[rank + i], d * (k - 1) + 1
        last = -(-(n + begin + end - reach) // s)
        if last * s >= n + begin:
            behind = True
        else:
            pads[rank + i] = max(end, last * s + reach - n - begin)
    return pads if behind else None
