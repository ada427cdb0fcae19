# SPDX-License-Identifier: Apache-2.0
"""A pruned model's code, written anew: the graph's ops with the channels that are left, as a generated module.

A model's own ``forward`` may write channel counts out (the sizes of a split, the bounds of a slice, the shape of a
reshape), and code generated from a file always does. From the captured graph they can be computed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from torch import nn

from porter.compress.channels import Channels, Layout
from porter.compress.masks import Plan
from porter.emit.codegen import generate, load_generated
from porter.graph import Graph
from porter.ops import Op, Value
from porter.paths import module_paths

__all__ = ["regenerate"]


def regenerate(graph: Graph, channels: Channels, plan: Plan, module: nn.Module) -> Any:
    """The pruned network as a new module.

    Args:
        graph: captured before the cut.
        channels: of ``graph``, with ``sizes="rebuilt"``.
        plan: what was cut.
        module: whose layers are cut already; it may not run.

    Returns:
        An ``nn.Module`` in evaluation mode, the layers at their paths.
    """
    resizer = _Resizer(graph, channels, plan, module)
    ops = [resizer.resized(op) for op in graph.ops()]
    outputs = [resizer.value(value) for value in graph.outputs]
    # The generator reads nothing else of a graph than these.
    listing = SimpleNamespace(ops=lambda: ops, inputs=graph.inputs, outputs=outputs, source=graph.source)
    return load_generated(generate(cast("Graph", listing)))


class _Resizer:
    def __init__(self, graph: Graph, channels: Channels, plan: Plan, module: nn.Module) -> None:
        self._channels = channels
        self._plan = plan
        self._module = module
        self._paths = module_paths(graph)
        self._state = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
        self._values: dict[str, Value] = {}

    def value(self, value: Value) -> Value:
        """The value with the channels, or the constant with the data, that are left."""
        made = self._values.get(value.name)
        if made is None:
            made = self._values[value.name] = self._resized_value(value)
        return made

    def _resized_value(self, value: Value) -> Value:
        if value.is_const:
            kept = self._state.get(value.name)
            return Value.constant(value.name, np.array(kept)) if kept is not None else value
        layout = self._channels.layouts.get(value.name)
        if layout is None or value.shape is None:
            return value
        shape = (*value.shape[: layout.axis], self._left(layout), *value.shape[layout.axis + 1 :])
        return Value(value.name, shape, value.dtype)

    def _left(self, layout: Layout, end: int | None = None) -> int:
        """How many of the channels before ``end`` are left."""
        return len(self._plan.kept(layout.atoms[:end]))

    def resized(self, op: Op) -> Op:
        inputs = [self.value(v) if v is not None else None for v in op.inputs]
        outputs = tuple(self.value(v) for v in op.outputs)
        kind, attrs = self._attributes(op, outputs)
        path = self._paths.get(op.outputs[0].name)
        bias = f"{path}.bias"
        if path in self._channels.layers and bias in self._state and len(inputs) == 3 and inputs[2] is None:
            inputs[2] = Value.constant(bias, np.array(self._state[bias]))  # a fold gave it one
        return Op(kind, tuple(inputs), outputs, attrs, op.name, op.origin, op.node)

    def _attributes(self, op: Op, outputs: tuple[Value, ...]) -> tuple[str, Mapping[str, Any]]:
        """The kind and the attributes of ``op`` for the channels that are left."""
        attrs = dict(op.attrs)
        layout = self._channels.layouts.get(op.inputs[0].name) if op.inputs and op.inputs[0] is not None else None
        path = self._paths.get(op.outputs[0].name)
        if op.kind.startswith("conv") and path in self._channels.layers:
            attrs["groups"] = cast("Any", self._module.get_submodule(path)).groups
        elif op.kind in ("split", "chunk") and layout is not None and attrs["axis"] == layout.axis:
            sizes = tuple(out.shape[layout.axis] for out in outputs if out.shape is not None)
            return "split", {"axis": layout.axis, "sizes": sizes}
        elif op.kind == "slice" and layout is not None and layout.axis in attrs["axes"]:
            place = attrs["axes"].index(layout.axis)
            for key in ("starts", "ends"):
                bounds = list(attrs[key])
                bounds[place] = self._left(layout, bounds[place])
                attrs[key] = tuple(bounds)
        elif op.kind in ("reshape", "expand"):
            attrs["shape"] = outputs[0].shape
        return op.kind, attrs
