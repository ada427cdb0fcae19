# SPDX-License-Identifier: Apache-2.0
"""The arithmetic that a target asks for: the only place that turns target data into choices.

Everything else of the engine asks a :class:`Scheme` and never the target: which widths there are, how a range becomes
an encoding, which axis of a weight has scales of its own, and how sure a rule of the device is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

import numpy as np

from porter.errors import PorterError
from porter.ops import Array, Op
from porter.quantize.encodings import Encoding
from porter.quantize.numerics import BITS, Dtype, Rounding, ScaleRule, qrange
from porter.target import Quantization, Target

__all__ = ["PRODUCTS", "Scheme", "Width", "depthwise", "extremes", "input_steps", "weight_axis"]

#: The kinds that multiply and accumulate; operand 1 is the weight, operand 2 the bias.
PRODUCTS: Final = frozenset(
    {"linear", "gemm", "matmul"} | {f"{kind}{rank}d" for kind in ("conv", "conv_transpose") for rank in (1, 2, 3)}
)

_RULES: dict[str, ScaleRule] = {
    "qmax/absmax": "absmax",
    "absmax/qmax": "absmax",
    "absmax/-qmin": "negative",
    "power_of_two": "power_of_two",
}


@dataclass(frozen=True, slots=True)
class Width:
    """A way to quantize: the dtype of weights and the dtype of activations, under the name that users write."""

    name: str
    weight: Dtype
    activation: Dtype


@dataclass(frozen=True, slots=True)
class Scheme:
    """What the engine needs of a target's ``[quantization]``, checked.

    Fields:
        target: its name.
        table: the section itself.
        widths: by name; see :meth:`width`.
        rule: how a symmetric range becomes a step.
        per_channel: whether weights have one scale for each output channel.
        forms: for a kind with fewer integer forms than ``widths``, the dtypes of its activations.
    """

    target: str
    table: Quantization
    widths: Mapping[str, Width]
    rule: ScaleRule
    per_channel: bool
    forms: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, target: Target, *, scale_rule: ScaleRule | None = None, per_channel: bool | None = None) -> Scheme:
        """The scheme of a target.

        Args:
            scale_rule: in place of the target's own formula of the step.
            per_channel: in place of the target's own granularity of weights.

        Raises:
            PorterError: PT416 when the target has no quantization, or no per-channel weights.
        """
        table = target.quantization
        if table is None:
            raise PorterError("PT416", f"{target.name} has no quantization", fix="Choose another target.")
        if per_channel and table.per_channel_axis is None:
            raise PorterError("PT416", f"{target.name} has no per-channel weights", fix="Leave per_channel off.")
        listed = table.widths or {
            name: (name, name) for name in table.qmax if name in BITS and not name.startswith("u")
        }
        widths = {
            name: Width(name, weight, activation)
            for name, (weight, activation) in listed.items()
            if weight in BITS and activation in BITS
        }
        channel = table.weight_granularity == "channel" if per_channel is None else per_channel
        forms = {kind: support.quantized for kind, support in target.ops.items() if support.quantized}
        return cls(target.name, table, widths, scale_rule or _RULES[table.scale], channel, forms)

    @property
    def rounding(self) -> Rounding:
        return cast(Rounding, self.table.rounding)

    @property
    def flow(self) -> str:
        """``"operands"`` or ``"tensors"``; see :class:`porter.target.Quantization`."""
        return self.table.flow

    @property
    def float_results(self) -> bool:
        """Whether a product can leave the device without being requantized."""
        return not {"float16", "float32", "int32"}.isdisjoint(self.table.output_dtypes)

    @property
    def mixes_floats(self) -> bool:
        """Whether the device computes in float what lies between its integer ops, before and after them."""
        return not {"float16", "float32"}.isdisjoint(self.table.output_dtypes)

    def certain(self, key: str) -> bool:
        """Whether the target's value of ``key`` is certain."""
        return self.table.fact(key).certainty == "certain"

    def width(self, name: str) -> Width:
        """The width of that name.

        Raises:
            PorterError: PT416 when the target has none of that name, or ranges of integers that porter does not do.
        """
        found = self.widths.get(name)
        if found is None:
            raise PorterError(
                "PT416", f"{self.target} does not quantize to {name}", fix=f"Choose one of {', '.join(self.widths)}."
            )
        for dtype in (found.weight, found.activation):
            wanted = self.table.qmin.get(dtype), self.table.qmax.get(dtype)
            if wanted != qrange(dtype):
                low, high = qrange(dtype)
                raise PorterError(
                    "PT416",
                    f"{self.target} wants {dtype} in {wanted[0]}..{wanted[1]}; porter quantizes to {low}..{high}",
                )
        return found

    def wide(self) -> Width:
        """The first width with 16-bit activations.

        Raises:
            PorterError: PT423 when the target has none.
        """
        found = next((width for width in self.widths.values() if BITS[width.activation] == 16), None)
        if found is None:
            raise PorterError(
                "PT423", f"{self.target} has no width with 16-bit activations", fix="Leave --outputs away."
            )
        return self.width(found.name)

    @property
    def default(self) -> str:
        """The name of the width that is taken where the user does not say: int16, or the first that the target has."""
        return "int16" if "int16" in self.widths else next(iter(self.widths), "int8")

    def fits(self, kind: str, width: Width) -> bool:
        """Whether the device computes ``kind`` in integers with activations of this width."""
        forms = self.forms.get(kind)
        return forms is None or width.activation in forms

    def symmetric(self, dtype: Dtype, weight: bool = False) -> bool:
        """Whether tensors of ``dtype`` have the zero point 0."""
        scheme = self.table.weight_scheme if weight else self.table.scheme
        return scheme == "symmetric" and not dtype.startswith("u")

    def encoding(
        self,
        minimum: Array | float,
        maximum: Array | float,
        dtype: Dtype,
        observer: str,
        *,
        axis: int | None = None,
        weight: bool = False,
    ) -> Encoding:
        """The encoding of a range, or of one range for each index along ``axis``.

        With 16 bits there are steps to spare: where tensors flow as integers, the range of an activation is doubled
        then, so that values beyond what calibration saw do not saturate (6 dB of about 90).
        """
        if self.flow == "tensors" and not weight and BITS[dtype] == 16:
            minimum, maximum, observer = 2.0 * minimum, 2.0 * maximum, f"{observer}, doubled"
        if self.symmetric(dtype, weight):
            return Encoding.from_range(minimum, maximum, dtype, observer, self.rule, axis)
        return Encoding.asymmetric(minimum, maximum, dtype, observer, axis)

    def weight_axis(self, op: Op) -> int | None:
        """The axis of a product's weight with one scale for each index; None for one scale."""
        if not self.per_channel or op.kind in self.table.per_tensor_ops:
            return None
        return weight_axis(op)


def depthwise(op: Op) -> bool:
    """Whether the op is a convolution of which each output channel reads one input channel of several."""
    weight = op.inputs[1] if op.kind in ("conv1d", "conv2d", "conv3d") else None
    return weight is not None and weight.shape is not None and weight.shape[1] == 1 and op.attrs["groups"] > 1


def input_steps(op: Op, of_input: Encoding) -> Array:
    """The steps of a product's input as its output channels meet them, float64: one, or one for each output channel of
    a depthwise convolution whose input has one for each channel."""
    steps = np.asarray(of_input.scale, np.float64)
    if of_input.axis is None:
        return steps
    return np.repeat(steps, ((op.inputs[1].shape or ())[0] if op.inputs[1] is not None else 0) // steps.size)


def weight_axis(op: Op) -> int | None:
    """The axis of output channels in the weight of a product; None where no axis counts them all (a transposed
    convolution in groups, a vector)."""
    weight = op.inputs[1]
    rank = 0 if weight is None or weight.shape is None else len(weight.shape)
    if op.kind.startswith("conv_transpose"):
        return 1 if op.attrs["groups"] == 1 else None
    if op.kind == "matmul":
        return rank - 1 if rank >= 2 else None
    if op.kind == "gemm":
        return 0 if op.attrs["trans_b"] else 1
    return 0


def extremes(weight: Array, axis: int | None) -> tuple[Array, Array]:
    """The smallest and largest weight: of all, or for each index along ``axis``."""
    axes = tuple(i for i in range(weight.ndim) if i != axis)
    return np.asarray(weight.min(axes)), np.asarray(weight.max(axes))
