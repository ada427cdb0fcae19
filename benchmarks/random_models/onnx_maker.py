# SPDX-License-Identifier: Apache-2.0
"""Programs of ONNX operators: shapes by onnx's own inference, operators as they are at the program's opset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import helper, numpy_helper, shape_inference

from .maker import Maker, Production, Unfit
from .program import Program, Step, Var, onnx_dtype

__all__ = ["ONNX", "OPSETS", "OnnxMaker"]

#: The productions, with their weights.
ONNX: list[tuple[float, Production]] = []
#: Opsets of models, newer ones more often.
OPSETS = (11, 12, 13, 13, 14, 16, 17, 17, 18, 19, 20, 21, 21)


class OnnxMaker(Maker):
    """Grows a program of ONNX operators."""

    _shape: Sequence[int] | None = None

    def node(
        self,
        op: str,
        *inputs: Var | None,
        n: int = 1,
        scale: float | None = None,
        shape: Sequence[int] | None = None,
        **attrs: Any,
    ) -> Var:
        """One node and its first result. ``shape``: of the result, where inference cannot follow."""
        return self.nodes(op, *inputs, n=n, scale=scale, shape=shape, **attrs)[0]

    def nodes(
        self,
        op: str,
        *inputs: Var | None,
        n: int,
        scale: float | None = None,
        shape: Sequence[int] | None = None,
        **attrs: Any,
    ) -> list[Var]:
        """One node and its ``n`` results."""
        self._shape = shape
        return self.step(op, inputs, n, scale, attrs)

    def infer(self, step: Step, count: int) -> list[tuple[tuple[int, ...], str]]:
        known = {v.name: v for v in [*self.inputs, *(out for s in self.steps for out in s.outputs)]}
        types, data = {}, {}
        for name in step.inputs:
            if name in self.constants:
                const = self.constants[name]
                types[name] = helper.make_tensor_type_proto(onnx_dtype(const.dtype), const.shape)
                if "int" in const.dtype or not const.shape:
                    data[name] = numpy_helper.from_array(const.data(), name)
            elif name:
                types[name] = helper.make_tensor_type_proto(onnx_dtype(known[name].dtype), known[name].shape)
        node = helper.make_node(step.op, step.inputs, [f"out{i}" for i in range(count)], **step.attrs)
        try:
            schema = onnx.defs.get_schema(step.op, self.opset)
            found = shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=[helper.make_opsetid("", self.opset)]
            )
        except (onnx.defs.SchemaError, shape_inference.InferenceError, RuntimeError) as wrong:
            raise Unfit from wrong
        return [self._spec(found.get(f"out{i}")) for i in range(count)]

    def _spec(self, given: onnx.TypeProto | None) -> tuple[tuple[int, ...], str]:
        if given is None or not given.tensor_type.elem_type:
            raise Unfit
        dtype = helper.tensor_dtype_to_np_dtype(given.tensor_type.elem_type).name
        if self._shape is not None:
            return tuple(self._shape), dtype
        dims = given.tensor_type.shape.dim
        if not given.tensor_type.HasField("shape") or any(not d.HasField("dim_value") for d in dims):
            raise Unfit
        return tuple(int(d.dim_value) for d in dims), dtype

    def program(self, outputs: Sequence[Var]) -> Program:
        return Program(
            "onnx",
            self.opset,
            tuple(self.inputs),
            dict(self.constants),
            tuple(self.steps),
            tuple(v.name for v in outputs),
        )

    # -- what changed between opsets -----------------------------------------------------------------

    def needs(self, opset: int) -> None:
        """The production is of operators that came with ``opset``."""
        if self.opset < opset:
            raise Unfit

    def ints(self, values: Sequence[int]) -> Var:
        return self.values(list(values))

    def reduce(self, op: str, x: Var, axes: Sequence[int], keepdims: int, scale: float | None = None) -> Var:
        """A reduction: its axes were an attribute before opset 18 (ReduceSum: 13)."""
        if self.opset >= (13 if op == "ReduceSum" else 18):
            return self.node(op, x, self.ints(axes), keepdims=keepdims, scale=scale)
        return self.node(op, x, axes=list(axes), keepdims=keepdims, scale=scale)

    def squeeze(self, op: str, x: Var, axes: Sequence[int]) -> Var:
        """Squeeze or Unsqueeze."""
        return self.node(op, x, self.ints(axes)) if self.opset >= 13 else self.node(op, x, axes=list(axes))

    def split(self, x: Var, sizes: Sequence[int], axis: int) -> list[Var]:
        if self.opset >= 13:
            return self.nodes("Split", x, self.ints(sizes), n=len(sizes), axis=axis)
        return self.nodes("Split", x, n=len(sizes), axis=axis, split=list(sizes))

    def slice(
        self,
        x: Var,
        starts: Sequence[int],
        ends: Sequence[int],
        axes: Sequence[int],
        steps: Sequence[int] | None = None,
    ) -> Var:
        parts = [starts, ends, axes, *([steps] if steps is not None else [])]
        return self.node("Slice", x, *map(self.ints, parts))

    def reshape(self, x: Var, shape: Sequence[int]) -> Var:
        return self.node("Reshape", x, self.ints(shape))

    def scalar(self, value: float, like: Var) -> Var:
        """A number of the dtype of ``like``: a scalar, or in a few cases one of shape (1,)."""
        return self.values([value], like.dtype) if self.chance(0.2) else self.values(value, like.dtype)

    # -- sizes of numbers -----------------------------------------------------------------------------

    def tame(self, x: Var, most: float) -> Var:
        """``x`` itself where its elements are small enough, else its tanh, times ``most`` where that is under 1."""
        if x.scale <= most:
            return x
        squashed = self.node("Tanh", x, scale=1.0)
        if most >= 1:
            return squashed
        return self.node("Mul", squashed, self.values(most, x.dtype), scale=most)

    def positive(self, x: Var, least: float) -> Var:
        """|x| + least."""
        return self.node("Add", self.node("Abs", x), self.values(least, x.dtype), scale=x.scale + least)
