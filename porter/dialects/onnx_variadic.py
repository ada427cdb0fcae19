# SPDX-License-Identifier: Apache-2.0
"""Max, Min and Sum of more than two operands, as operators of two.

Devices and the vocabulary have the operator of two. The runtimes compute the others from the left, so that the chain is
bit-equal: onnxruntime 1.32 and the reference of onnx 1.23 both do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx import NodeProto

__all__ = ["in_pairs"]

#: What one of these is of two operands.
_OF_TWO = {"Max": "Max", "Min": "Min", "Sum": "Add"}


def in_pairs(nodes: Sequence[NodeProto], known: Sequence[str]) -> Iterator[NodeProto]:
    """The nodes, those of more than two operands each as a chain; ``known``: other names that are taken.

    The last of a chain has the name, the output and the metadata (where in the user's code it is) of what it replaces;
    those before it have the metadata.
    """
    taken: set[str] = set()
    for node in nodes:
        if node.domain or node.op_type not in _OF_TWO or len(node.input) < 3 or not all(node.input):
            yield node
            continue
        if not taken:
            taken = {*known, *(name for one in nodes for name in one.output)}
        left = node.input[0]
        for number, right in enumerate(node.input[1:], 2):
            made = NodeProto()
            made.CopyFrom(node)
            made.op_type = _OF_TWO[node.op_type]
            made.input[:] = [left, right]
            if number < len(node.input):
                left = _fresh(f"{node.output[0]}_of_{number}", taken)
                made.output[:] = [left]
                made.name = f"{node.name}_of_{number}" if node.name else ""
            yield made


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
