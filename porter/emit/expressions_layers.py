# SPDX-License-Identifier: Apache-2.0
"""How layers with weights, norms, pools and reductions are written in PyTorch: see :mod:`porter.emit.expressions`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from porter.emit.expression_table import (
    INTEGERS,
    Inexpressible,
    collapse,
    ints,
    pads,
    real,
    shape_of,
    torch_dtype,
    writes,
    x_of,
)
from porter.ops import Array, Op

if TYPE_CHECKING:
    from porter.emit.codegen import Writer

# -- layers with weights ----------------------------------------------------------------------------------------


@writes("linear")
def _linear(w: Writer, op: Op) -> str:
    x, weight, bias = (*op.inputs, None)[:3]
    if not w.is_module(op) or weight is None:
        return f"F.linear({w.tensor(x)}, {w.tensor(weight)}, {w.tensor(bias)})"
    out_features, in_features = shape_of(weight)
    text = f"nn.Linear({in_features}, {out_features}{'' if bias is not None else ', bias=False'})"
    tensors = {"weight": weight.numpy(), "bias": None if bias is None else bias.numpy().reshape(-1)}
    return f"{w.module(op, text, tensors)}({w.tensor(x)})"


@writes("gemm")
def _gemm(w: Writer, op: Op) -> str:
    a, b, c = (*op.inputs, None)[:3]
    left = w.tensor(a) + (".t()" if op.attrs.get("trans_a") else "")
    right = w.tensor(b) + (".t()" if op.attrs.get("trans_b") else "")
    text = f"torch.matmul({left}, {right})"
    alpha, beta = float(op.attrs.get("alpha", 1.0)), float(op.attrs.get("beta", 1.0))
    if alpha != 1.0:
        text = f"{real(alpha)} * {text}"
    if c is not None:
        text += f" + {w.tensor(c)}" if beta == 1.0 else f" + {real(beta)} * {w.tensor(c)}"
    return text


@writes("matmul")
def _matmul(w: Writer, op: Op) -> str:
    dtype = op.outputs[0].dtype
    return f"torch.matmul({w.tensor(op.inputs[0], dtype)}, {w.tensor(op.inputs[1], dtype)})"


@writes("einsum")
def _einsum(w: Writer, op: Op) -> str:
    return f'torch.einsum("{op.attrs["equation"]}", [{", ".join(w.tensor(v) for v in op.operands)}])'


def _explicit(op: Op) -> bool:
    """Whether the padding needs an op of its own: one-sided, negative, or (in a pool) over half of the window."""
    pairs = [(int(a), int(b)) for a, b in op.attrs["padding"]]
    windows = op.attrs.get("kernel", ())
    return any(a != b or a < 0 for a, b in pairs) or any(2 * a > k for (a, _), k in zip(pairs, windows, strict=False))


def _symmetric(w: Writer, op: Op, fill: str | None = None) -> tuple[str, tuple[int, ...]]:
    """The input and the symmetric padding of a window op; a one-sided padding is put in front as ``F.pad``."""
    pairs = [(int(a), int(b)) for a, b in op.attrs["padding"]]
    x = w.tensor(op.inputs[0])
    if not _explicit(op):
        return x, tuple(a for a, _ in pairs)
    value = "" if fill is None else f', mode="constant", value={fill}'
    return f"F.pad({x}, {pads(pairs)}{value})", (0,) * len(pairs)


@writes("conv1d conv2d conv3d")
def _conv(w: Writer, op: Op) -> str:
    weight, bias = (*op.inputs, None)[1:3]
    x, padding = _symmetric(w, op)
    shape, a = shape_of(weight), op.attrs
    groups = int(a["groups"])
    if not w.is_module(op) or weight is None:
        sizes = f"{ints(a['stride'])}, {ints(padding)}, {ints(a['dilation'])}, {groups}"
        return f"F.{op.kind}({x}, {w.tensor(weight)}, {w.tensor(bias)}, {sizes})"
    text = f"nn.{_class_name(op)}({shape[1] * groups}, {shape[0]}, {collapse(shape[2:])}"
    text += _optional(stride=(a["stride"], 1), padding=(padding, 0), dilation=(a["dilation"], 1))
    text += ("" if groups == 1 else f", groups={groups}") + ("" if bias is not None else ", bias=False") + ")"
    tensors = {"weight": weight.numpy(), "bias": None if bias is None else bias.numpy()}
    return f"{w.module(op, text, tensors)}({x})"


def _class_name(op: Op) -> str:
    base = "ConvTranspose" if op.kind.startswith("conv_transpose") else "Conv"
    return f"{base}{op.kind[-2]}d"


def _optional(**sizes: tuple[Iterable[int], int]) -> str:
    """Keyword arguments for those sizes that are not the default everywhere."""
    texts = []
    for name, (given, default) in sizes.items():
        values = tuple(int(v) for v in given)
        if any(v != default for v in values):
            texts.append(f", {name}={collapse(values)}")
    return "".join(texts)


@writes("conv_transpose1d conv_transpose2d conv_transpose3d")
def _conv_transpose(w: Writer, op: Op) -> str:
    weight, bias = (*op.inputs, None)[1:3]
    shape, a = shape_of(weight), op.attrs
    groups = int(a["groups"])
    pairs = [(int(begin), int(end)) for begin, end in a["padding"]]
    if any(n < 0 for pair in pairs for n in pair):
        raise Inexpressible("a padding is negative")
    padding = [min(pair) for pair in pairs]
    x = w.tensor(op.inputs[0])
    if not w.is_module(op) or weight is None:
        sizes = f"{ints(a['stride'])}, {ints(padding)}, {ints(a['output_padding'])}, {groups}, {ints(a['dilation'])}"
        text = f"F.{op.kind}({x}, {w.tensor(weight)}, {w.tensor(bias)}, {sizes})"
    else:
        made = f"nn.{_class_name(op)}({shape[0]}, {shape[1] * groups}, {collapse(shape[2:])}"
        made += _optional(
            stride=(a["stride"], 1), padding=(padding, 0), output_padding=(a["output_padding"], 0),
            dilation=(a["dilation"], 1),
        )  # fmt: skip
        made += ("" if groups == 1 else f", groups={groups}") + ("" if bias is not None else ", bias=False") + ")"
        tensors = {"weight": weight.numpy(), "bias": None if bias is None else bias.numpy()}
        text = f"{w.module(op, made, tensors)}({x})"
    if all(begin == end for begin, end in pairs):
        return text
    # A one-sided padding of a transposed convolution cuts one side of its result.
    out = shape_of(op.outputs[0])[2:]
    cut = [f"{b - p}:{b - p + n}" if b != e else ":" for (b, e), p, n in zip(pairs, padding, out, strict=True)]
    return f"{text}[:, :, {', '.join(cut)}]"


@writes("batch_norm")
def _batch_norm(w: Writer, op: Op) -> str:
    x, weight, bias, mean, var = op.inputs
    eps = real(float(op.attrs["eps"]))
    if not w.is_module(op) or mean is None or var is None:
        stats = f"{w.tensor(mean)}, {w.tensor(var)}, {w.tensor(weight)}, {w.tensor(bias)}"
        return f"F.batch_norm({w.tensor(x)}, {stats}, False, 0.0, {eps})"
    channels, rank = shape_of(mean)[0], len(shape_of(x))
    affine = weight is not None or bias is not None
    text = f"nn.BatchNorm{max(rank - 2, 1)}d({channels}, eps={eps}{'' if affine else ', affine=False'})"
    tensors: dict[str, Array | None] = {}
    if affine:
        tensors["weight"] = np.ones(channels, np.float32) if weight is None else weight.numpy()
        tensors["bias"] = np.zeros(channels, np.float32) if bias is None else bias.numpy()
    tensors["running_mean"], tensors["running_var"] = mean.numpy(), var.numpy()
    tensors["num_batches_tracked"] = np.zeros((), np.int64)
    return f"{w.module(op, text, tensors)}({w.tensor(x)})"


def _affine(op: Op, shape: tuple[int, ...]) -> dict[str, Array | None]:
    """Weight and bias of a normalization for a module, the missing one filled in."""
    weight, bias = (*op.inputs, None)[1:3]
    return {
        "weight": np.ones(shape, np.float32) if weight is None else weight.numpy().reshape(shape),
        "bias": np.zeros(shape, np.float32) if bias is None else bias.numpy().reshape(shape),
    }


@writes("instance_norm")
def _instance_norm(w: Writer, op: Op) -> str:
    x, weight, bias = (*op.inputs, None)[:3]
    eps, channels = real(float(op.attrs["eps"])), shape_of(x)[1]
    if not w.is_module(op):
        return f"F.instance_norm({w.tensor(x)}, weight={w.tensor(weight)}, bias={w.tensor(bias)}, eps={eps})"
    text = f"nn.InstanceNorm{len(shape_of(x)) - 2}d({channels}, eps={eps}, affine=True)"
    return f"{w.module(op, text, _affine(op, (channels,)))}({w.tensor(x)})"


@writes("layer_norm")
def _layer_norm(w: Writer, op: Op) -> str:
    x, weight, bias = (*op.inputs, None)[:3]
    eps = real(float(op.attrs["eps"]))
    shape = tuple(shape_of(x)[axis] for axis in op.attrs["axes"])
    if not w.is_module(op):
        return f"F.layer_norm({w.tensor(x)}, {ints(shape)}, {w.tensor(weight)}, {w.tensor(bias)}, {eps})"
    text = f"nn.LayerNorm({ints(shape)}, eps={eps})"
    return f"{w.module(op, text, _affine(op, shape))}({w.tensor(x)})"


@writes("group_norm")
def _group_norm(w: Writer, op: Op) -> str:
    x, weight, bias = (*op.inputs, None)[:3]
    eps, groups, channels = real(float(op.attrs["eps"])), int(op.attrs["groups"]), shape_of(x)[1]
    if not w.is_module(op):
        return f"F.group_norm({w.tensor(x)}, {groups}, {w.tensor(weight)}, {w.tensor(bias)}, {eps})"
    text = f"nn.GroupNorm({groups}, {channels}, eps={eps})"
    return f"{w.module(op, text, _affine(op, (channels,)))}({w.tensor(x)})"


@writes("rms_norm")
def _rms_norm(w: Writer, op: Op) -> str:
    x, weight = w.tensor(op.inputs[0]), (*op.inputs, None)[1]
    mean = f"torch.mean({x} * {x}, dim={ints(op.attrs['axes'])}, keepdim=True)"
    text = f"{x} * torch.rsqrt({mean} + {real(float(op.attrs['eps']))})"
    return text if weight is None else f"{text} * {w.tensor(weight)}"


@writes("embedding")
def _embedding(w: Writer, op: Op) -> str:
    weight, index = op.operands
    text = w.tensor(index, "int64")  # torch 1.3 looks up by int64 only
    if not w.is_module(op):
        return f"F.embedding({text}, {w.tensor(weight)})"
    rows, width = shape_of(weight)
    return f"{w.module(op, f'nn.Embedding({rows}, {width})', {'weight': weight.numpy()})}({text})"


@writes("lp_normalize")
def _lp_normalize(w: Writer, op: Op) -> str:
    a = op.attrs
    return f"F.normalize({x_of(w, op)}, p={real(float(a['p']))}, dim={a['axis']}, eps={real(float(a['eps']))})"


@writes("local_response_norm")
def _lrn(w: Writer, op: Op) -> str:
    a = op.attrs
    numbers = ", ".join(real(float(a[name])) for name in ("alpha", "beta", "k"))
    return f"F.local_response_norm({x_of(w, op)}, {int(a['size'])}, {numbers})"


# -- pools ------------------------------------------------------------------------------------------------------


@writes("max_pool1d max_pool2d max_pool3d max_pool2d_with_indices")
def _max_pool(w: Writer, op: Op) -> str:
    x, padding = _symmetric(w, op, 'float("-inf")')
    a = op.attrs
    if op.kind == "max_pool2d_with_indices" and _explicit(op):
        raise Inexpressible("its one-sided padding would shift the indices")
    name = op.kind.removesuffix("_with_indices")
    text = f"F.{name}({x}, {collapse(a['kernel'])}, stride={collapse(a['stride'])}"
    text += _optional(padding=(padding, 0), dilation=(a["dilation"], 1))
    text += ", ceil_mode=True" if a["ceil_mode"] else ""
    return text + (", return_indices=True)" if op.kind.endswith("indices") else ")")


@writes("avg_pool1d avg_pool2d avg_pool3d")
def _avg_pool(w: Writer, op: Op) -> str:
    a = op.attrs
    x, padding = _symmetric(w, op)
    if _explicit(op) and not a["count_include_pad"] and a.get("divisor_override") is None:
        raise Inexpressible("its padding is one-sided (or over half of the window) and does not count in the mean")
    text = f"F.{op.kind}({x}, {collapse(a['kernel'])}, stride={collapse(a['stride'])}"
    text += _optional(padding=(padding, 0))
    text += ", ceil_mode=True" if a["ceil_mode"] else ""
    text += "" if a["count_include_pad"] else ", count_include_pad=False"
    divisor = a.get("divisor_override")
    if divisor is not None:
        if op.kind == "avg_pool1d":
            raise Inexpressible("avg_pool1d has no divisor_override")
        text += f", divisor_override={int(divisor)}"
    return text + ")"


@writes("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d adaptive_avg_pool3d")
def _adaptive(w: Writer, op: Op) -> str:
    return f"F.{op.kind}({w.tensor(op.inputs[0])}, {collapse(op.attrs['output_size'])})"


@writes("max_unpool2d")
def _max_unpool(w: Writer, op: Op) -> str:
    size = tuple(op.attrs["output_size"])[-2:]
    window = tuple(max(1, round(o / i)) for o, i in zip(size, shape_of(op.inputs[0])[-2:], strict=True))
    x, index = w.tensor(op.inputs[0]), w.tensor(op.inputs[1], "int64")
    return f"F.max_unpool2d({x}, {index}, {ints(window)}, stride={ints(window)}, output_size={ints(size)})"


# -- reductions -------------------------------------------------------------------------------------------------


@writes("softmax log_softmax")
def _softmax(w: Writer, op: Op) -> str:
    return f"F.{op.kind}({x_of(w, op)}, dim={int(op.attrs['axis'])})"


def _widened(op: Op, text: str) -> str:
    """Sums of integers are int64 in torch; bring them back where the graph says otherwise."""
    out, x = op.outputs[0].dtype, op.operands[0].dtype
    return f"{text}.to({torch_dtype(out or 'int64')})" if x in INTEGERS and out != "int64" else text


def _axes(op: Op) -> tuple[int, ...]:
    return tuple(int(a) for a in op.attrs["axes"]) or tuple(range(len(shape_of(op.inputs[0]))))


def _dims(op: Op) -> str:
    axes = _axes(op)
    text = str(axes[0]) if len(axes) == 1 else repr(axes)
    return f"dim={text}{', keepdim=True' if op.attrs['keepdim'] else ''}"


@writes("sum mean")
def _sum(w: Writer, op: Op) -> str:
    if not _axes(op):
        return x_of(w, op)
    if op.kind == "mean":
        return f"torch.mean({x_of(w, op)}, {_dims(op)})"
    return _widened(op, f"torch.sum({w.tensor(op.inputs[0])}, {_dims(op)})")


@writes("prod amax amin all any")
def _one_by_one(w: Writer, op: Op) -> str:
    """torch 1.3 reduces these over one axis at a time."""
    x = w.tensor(op.inputs[0])
    if op.kind in ("all", "any") and op.operands[0].dtype != "bool":
        x = f"({x} != 0)"
    keep = ", keepdim=True" if op.attrs["keepdim"] else ""
    for axis in sorted(_axes(op), reverse=True):  # from the last one, so that the others keep their number
        if op.kind in ("amax", "amin"):
            x = f"torch.{op.kind[1:]}({x}, dim={axis}{keep})[0]"
        elif op.kind == "prod":
            x = f"torch.prod({x}, dim={axis}{keep})"
        else:
            x = f"{x}.{op.kind}(dim={axis}{keep})"
    return _widened(op, x) if op.kind == "prod" else x


@writes("logsumexp")
def _logsumexp(w: Writer, op: Op) -> str:
    return f"torch.logsumexp({x_of(w, op)}, {_dims(op)})"


@writes("var std")
def _var(w: Writer, op: Op) -> str:
    correction = int(op.attrs.get("correction", 1))
    if correction not in (0, 1):
        raise Inexpressible(f"a correction of {correction} is neither the biased nor the unbiased variance")
    return f"torch.{op.kind}({x_of(w, op)}, {_dims(op)}, unbiased={correction == 1})"


@writes("norm")
def _norm(w: Writer, op: Op) -> str:
    return f"torch.norm({x_of(w, op)}, p={real(float(op.attrs['p']))}, {_dims(op)})"


@writes("argmax argmin")
def _argmax(w: Writer, op: Op) -> str:
    axis = op.attrs.get("axis")
    keep = ", keepdim=True" if op.attrs.get("keepdim") else ""
    x = w.tensor(op.inputs[0])
    if axis is None:
        text = f"torch.{op.kind}({x})"
        if keep:
            text += f".reshape({ints((1,) * len(shape_of(op.inputs[0])))})"
    else:
        text = f"torch.{op.kind}({x}, dim={int(axis)}{keep})"
    out = op.outputs[0].dtype
    return text if out in (None, "int64") else f"{text}.to({torch_dtype(out)})"


@writes("max_dim min_dim")
def _max_dim(w: Writer, op: Op) -> str:
    keep = ", keepdim=True" if op.attrs["keepdim"] else ""
    return f"torch.{op.kind[:3]}({w.tensor(op.inputs[0])}, dim={int(op.attrs['axis'])}{keep})"


@writes("topk")
def _topk(w: Writer, op: Op) -> str:
    a = op.attrs
    x = w.tensor(op.inputs[0])
    return f"torch.topk({x}, {int(a['k'])}, {int(a['axis'])}, {bool(a['largest'])}, {bool(a['sorted'])})"


@writes("sort")
def _sort(w: Writer, op: Op) -> str:
    return f"torch.sort({w.tensor(op.inputs[0])}, {int(op.attrs['axis'])}, {bool(op.attrs['descending'])})"


@writes("cumsum")
def _cumsum(w: Writer, op: Op) -> str:
    return _widened(op, f"torch.cumsum({w.tensor(op.inputs[0])}, {int(op.attrs['axis'])})")
