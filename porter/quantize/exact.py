# SPDX-License-Identifier: Apache-2.0
"""Ops on dequantized tensors, without rounding: what a device computes up to the next quantization.

A dequantized tensor is a :class:`Whole`: whole numbers ``q - zero_point`` and a step. Sums of products, sums of windows
and moves of a Whole are Wholes again, exactly. What has no single step any more (a sum of tensors of two scales, a
mean) is a :class:`Real`, in float64: the wide intermediate of a fused unit.

:func:`exact` computes one op that way. It answers None where the op, or these operands, have no such form; the op is
then computed in float by the framework.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from porter.ops import Array, Op
from porter.quantize import kernels
from porter.quantize.numerics import along
from porter.quantize.scheme import depthwise

__all__ = ["EXACT", "TABLES", "Context", "Exact", "Operand", "Real", "Whole", "exact", "real"]


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """``data * step``: whole numbers in a float array (or int64), and one step or one for each index along ``axis``.

    ``levels`` is the range of ``data`` where that is known from its dtype: (qmin - zero_point, qmax - zero_point).
    """

    data: Array
    step: NDArray[np.float64]
    axis: int | None = None
    levels: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Real:
    """Real numbers in float64."""

    data: NDArray[np.float64]


Exact = Whole | Real
#: A dequantized tensor, a plain array, or an operand that is left out.
Operand = Whole | Real | Array | None


def real(x: Operand) -> NDArray[np.float64]:
    """The real numbers of an operand that is there."""
    if isinstance(x, Whole):
        return np.asarray(x.data * along(x.step, x.axis, x.data.ndim), np.float64)
    if isinstance(x, Real):
        return x.data
    return np.asarray(x, np.float64)


@dataclass(frozen=True, slots=True)
class Context:
    """What the forms ask of whoever runs them: ``apply``, one op by the framework's own kernel on float32 arrays; and
    ``accumulated``, told the sums of products of an op before they are scaled."""

    apply: Callable[[Op, Sequence[Array | None]], list[Array]]
    accumulated: Callable[[Op, Array], None]


_Form = Callable[[Op, Sequence[Operand], Context], "list[Exact] | Exact | None"]
#: The kinds that have an exact form.
EXACT: dict[str, _Form] = {}


def exact(op: Op, operands: Sequence[Operand], context: Context) -> list[Exact] | None:
    """The results of ``op``, or None where these operands have no exact form."""
    form = EXACT.get(op.kind)
    found = None if form is None else form(op, operands, context)
    return [found] if isinstance(found, Whole | Real) else found


def _form(*kinds: str) -> Callable[[_Form], _Form]:
    def put(function: _Form) -> _Form:
        EXACT.update(dict.fromkeys(kinds, function))
        return function

    return put


# -- products ----------------------------------------------------------------------------------------------------


def _product(
    op: Op,
    x: Sequence[Operand],
    channels: int | None,
    axis: int,
    context: Context,
    sums: Callable[[Array, Array], Array],
) -> Exact | None:
    """A sum of products, scaled, and the bias.

    Args:
        channels: the axis of the weight that counts output channels; it may have a step for each.
        axis: of the output channels in the result.
        sums: the sums of products of two arrays of whole numbers.
    """
    data, weight, bias = (*x, None)[:3]
    if not isinstance(data, Whole) or not isinstance(weight, Whole):
        return None
    if data.axis is not None and not (depthwise(op) and data.axis == 1):
        return None
    if weight.axis is not None and weight.axis != channels:
        return None
    total = sums(data.data, weight.data)
    axis %= total.ndim
    of_data = data.step if data.axis is None else np.repeat(data.step, total.shape[axis] // data.step.size)
    step = np.asarray(of_data * weight.step)
    of = None if data.axis is None and weight.axis is None else axis
    if isinstance(bias, Whole) and bias.data.ndim == 1 and np.allclose(bias.step, step, rtol=1e-6, atol=0):
        # An integer bias in the accumulator's own step (its stored scale is that product, rounded to float32).
        wide = total if total.dtype == np.int64 else total.astype(np.float64)
        total = wide + along(bias.data.astype(wide.dtype), axis, total.ndim)
        bias = None
    context.accumulated(op, total)
    made = Whole(total, step, of)
    if bias is None:
        return made
    added = real(bias)
    return Real(real(made) + (along(added, axis, total.ndim) if added.ndim == 1 else added))


@_form("conv1d", "conv2d", "conv3d")
def _conv(op: Op, x: Sequence[Operand], context: Context) -> Exact | None:
    a = op.attrs
    how = a["stride"], a["padding"], a["dilation"], a["groups"]
    return _product(op, x, 0, 1, context, lambda data, weight: kernels.convolve(data, weight, *how))


@_form("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(op: Op, x: Sequence[Operand], context: Context) -> Exact | None:
    a = op.attrs
    how = a["stride"], a["padding"], a["dilation"], a["groups"], a["output_padding"]
    channels = 1 if a["groups"] == 1 else None
    return _product(op, x, channels, 1, context, lambda d, w: kernels.convolve_transposed(d, w, *how))


@_form("linear")
def _linear(op: Op, x: Sequence[Operand], context: Context) -> Exact | None:
    return _product(op, x, 0, -1, context, lambda data, weight: kernels.multiply(data, weight.T))


@_form("matmul")
def _matmul(op: Op, x: Sequence[Operand], context: Context) -> Exact | None:
    weight = x[1]
    channels = weight.data.ndim - 1 if isinstance(weight, Whole) and weight.data.ndim > 1 else None
    return _product(op, x, channels, -1, context, kernels.multiply)


@_form("gemm")
def _gemm(op: Op, x: Sequence[Operand], context: Context) -> Exact | None:
    a = op.attrs
    if (a["alpha"], a["beta"]) != (1.0, 1.0):
        return None

    def sums(data: Array, weight: Array) -> Array:
        return kernels.multiply(data.T if a["trans_a"] else data, weight.T if a["trans_b"] else weight)

    return _product(op, x, 0 if a["trans_b"] else 1, 1, context, sums)


# -- element by element ------------------------------------------------------------------------------------------

#: Functions of one element, which a device with 8-bit tensors looks up in a table of 256 entries.
TABLES = frozenset(
    """
    sigmoid tanh silu hardswish mish selu softsign logsigmoid exp expm1 log log1p log2 log10 sqrt rsqrt reciprocal sign
    floor ceil round trunc sin cos tan asin acos atan sinh cosh asinh acosh atanh erf square elu celu hardsigmoid gelu
    softplus threshold leaky_relu
    """.split()  # noqa: SIM905 a word list
)


def _same_step(operands: Sequence[Operand]) -> bool:
    """Whether all are Wholes of one and the same step."""
    first = operands[0]
    return isinstance(first, Whole) and all(
        isinstance(x, Whole) and x.axis is None and x.step.size == 1 and x.step == first.step for x in operands
    )


@_form("add", "sub")
def _add(op: Op, x: Sequence[Operand], context: Context) -> Exact:
    combine = np.add if op.kind == "add" else np.subtract
    a, b = x
    if _same_step(x) and isinstance(a, Whole) and isinstance(b, Whole):
        return Whole(combine(a.data, b.data, dtype=np.float64), a.step)
    return Real(combine(real(a), real(b)))


@_form("mul")
def _mul(op: Op, x: Sequence[Operand], context: Context) -> Exact:
    a, b = x
    if isinstance(a, Whole) and isinstance(b, Whole) and a.axis is None and b.axis is None:
        return Whole(np.multiply(a.data, b.data, dtype=np.float64), a.step * b.step)
    return Real(real(a) * real(b))


@_form("div")
def _div(op: Op, x: Sequence[Operand], context: Context) -> Exact:
    with np.errstate(divide="ignore", invalid="ignore"):
        return Real(real(x[0]) / real(x[1]))


@_form("maximum", "minimum")
def _extreme(op: Op, x: Sequence[Operand], context: Context) -> Exact:
    return Real((np.maximum if op.kind == "maximum" else np.minimum)(real(x[0]), real(x[1])))


@_form("relu")
def _relu(op: Op, x: Sequence[Operand], context: Context) -> Exact:
    (a,) = x
    if isinstance(a, Whole):
        return Whole(np.maximum(a.data, 0), a.step, a.axis)
    return Real(np.maximum(real(a), 0.0))


@_form("neg")
def _neg(op: Op, x: Sequence[Operand], context: Context) -> Exact:
    (a,) = x
    return Whole(-a.data, a.step, a.axis) if isinstance(a, Whole) else Real(-real(a))


@_form("clamp", "relu6")
def _clamp(op: Op, x: Sequence[Operand], context: Context) -> Exact:
    low, high = (0.0, 6.0) if op.kind == "relu6" else (op.attrs["min"], op.attrs["max"])
    # The limits are float32 numbers in every framework.
    lowest = -np.inf if low is None else float(np.float32(low))
    highest = np.inf if high is None else float(np.float32(high))
    return Real(np.minimum(np.maximum(real(x[0]), lowest), highest))


@_form("cat")
def _cat(op: Op, x: Sequence[Operand], context: Context) -> Exact:
    axis = op.attrs["axis"]
    if _same_step(x):
        parts = [a for a in x if isinstance(a, Whole)]
        levels = parts[0].levels if all(a.levels == parts[0].levels for a in parts) else None
        return Whole(np.concatenate([a.data for a in parts], axis), parts[0].step, None, levels)
    return Real(np.concatenate([real(a) for a in x], axis))


# -- windows and reductions --------------------------------------------------------------------------------------


def _one_step(x: Operand) -> Whole | None:
    return x if isinstance(x, Whole) and x.axis is None else None


@_form("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(op: Op, x: Sequence[Operand], context: Context) -> Exact | None:
    data, size, a = _one_step(x[0]), op.outputs[0].shape, op.attrs
    if data is None or size is None:
        return None
    axes = [
        kernels.window_matrix(*axis)
        for axis in zip(data.data.shape[2:], size[2:], a["kernel"], a["stride"], a["padding"], strict=True)
    ]
    counts: Array = np.ones(())
    for matrix, whole in axes:
        count = whole if a["count_include_pad"] else matrix.sum(1)
        counts = counts[..., np.newaxis] * count
    if a["divisor_override"] is not None:
        counts = np.asarray(float(a["divisor_override"]))
    return Real(kernels.separable(data.data, [matrix for matrix, _ in axes]) * data.step / counts)


@_form("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
def _adaptive_avg_pool(op: Op, x: Sequence[Operand], context: Context) -> Exact | None:
    data = _one_step(x[0])
    if data is None:
        return None
    sizes = op.attrs["output_size"]
    matrices = [kernels.adaptive_matrix(*axis) for axis in zip(data.data.shape[2:], sizes, strict=True)]
    counts: Array = np.ones(())
    for matrix in matrices:
        counts = counts[..., np.newaxis] * matrix.sum(1)
    return Real(kernels.separable(data.data, matrices) * data.step / counts)


@_form("sum", "mean")
def _sum(op: Op, x: Sequence[Operand], context: Context) -> Exact | None:
    data, axes = _one_step(x[0]), tuple(op.attrs["axes"])
    if data is None:
        return None
    total = data.data.sum(axes, dtype=np.float64, keepdims=op.attrs["keepdim"])
    if op.kind == "sum":
        return Whole(total, data.step)
    return Real(total * data.step / prod(data.data.shape[axis] for axis in axes))


@_form("resize")
def _resize(op: Op, x: Sequence[Operand], context: Context) -> list[Exact] | Exact | None:
    a = op.attrs
    if a["mode"] == "nearest":
        return _move(op, x, context)
    data = _one_step(x[0])
    if data is None or a["mode"] != "linear" or a["antialias"]:
        return None
    scales = a["scales"] or (None,) * len(a["sizes"])
    matrices = [
        kernels.linear_matrix(extent, size, a["coordinates"], scale)
        for extent, size, scale in zip(data.data.shape[2:], a["sizes"], scales, strict=True)
    ]
    return Real(kernels.separable(data.data, matrices) * data.step)


# -- what moves or picks values ----------------------------------------------------------------------------------


@_form(
    "identity", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "expand", "repeat", "slice", "select", "split",
    "chunk", "unbind", "flip", "roll", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "take", "index_select",
    "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d", "amax", "amin", "stack",
)  # fmt: skip
def _move(op: Op, x: Sequence[Operand], context: Context) -> list[Exact] | Exact | None:
    """By the framework's kernel on the whole numbers themselves, which float32 holds up to 2**24."""
    moved = [a for a in x if isinstance(a, Whole)]
    if not moved or not _same_step(moved) or any(isinstance(a, Real) for a in x):
        return None
    if any(a.data.dtype != np.float32 for a in moved):
        return None
    levels = moved[0].levels if all(a.levels == moved[0].levels for a in moved) else None
    found = context.apply(op, [a.data if isinstance(a, Whole) else a for a in x if not isinstance(a, Real)])
    return [Whole(data, moved[0].step, None, levels) for data in found]


@_form("pad")
def _pad(op: Op, x: Sequence[Operand], context: Context) -> list[Exact] | Exact | None:
    """Padding with 0, or with values of the tensor itself."""
    if op.attrs["mode"] == "constant" and op.attrs["value"] != 0:
        return None
    return _move(op, x, context)
