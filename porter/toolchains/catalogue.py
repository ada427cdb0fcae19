# SPDX-License-Identifier: Apache-2.0
"""The kinds of ops that a compiler is asked about, with what is varied of each: attributes and shapes around limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from porter.ops import KINDS
from porter.toolchains import make
from porter.toolchains.cases import Choice, Range, Spec

__all__ = ["SPECS"]

Params = Mapping[str, Any]
Shape = tuple[int, ...]


def _ranks(*ranks: int, **more: Callable[[Shape], Any]) -> tuple[Choice, ...]:
    return tuple(
        Choice(f"rank == {rank}", {"x": make.RANKS[rank], **{k: give(make.RANKS[rank]) for k, give in more.items()}})
        for rank in ranks
    )


_POSITIVE, _UNIT, _ABOVE_ONE = (0.2, 3.0), (-0.9, 0.9), (1.1, 3.0)
_DOMAINS = {
    "log": _POSITIVE,
    "log2": _POSITIVE,
    "log10": _POSITIVE,
    "log1p": _POSITIVE,
    "sqrt": _POSITIVE,
    "rsqrt": _POSITIVE,
    "reciprocal": _POSITIVE,
    "asin": _UNIT,
    "acos": _UNIT,
    "atanh": _UNIT,
    "acosh": _ABOVE_ONE,
    "tan": (-1.0, 1.0),
    "div": _POSITIVE,
    "pow": _POSITIVE,
    "logsumexp": _UNIT,
    "prod": (0.8, 1.2),
    "nms": (0.0, 1.0),
    "grid_sample": _UNIT,
    "remainder": _POSITIVE,
    "fmod": _POSITIVE,
    "floor": (-6.0, 6.0),
    "ceil": (-6.0, 6.0),
    "round": (-6.0, 6.0),
    "atan2": _POSITIVE,
}

_PLAIN = (
    "relu", "relu6", "sigmoid", "tanh", "silu", "hardswish", "mish", "selu", "softsign", "logsigmoid", "exp", "log",
    "sqrt", "rsqrt", "reciprocal", "abs", "neg", "sign", "floor", "ceil", "round", "sin", "cos", "tan", "asin", "acos",
    "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "erf", "square",
)  # fmt: skip
_UNARY: dict[str, Params] = {
    **{kind: {} for kind in _PLAIN},
    "leaky_relu": {"negative_slope": 0.1},
    "elu": {"alpha": 1.0},
    "celu": {"alpha": 1.5},
    "hardsigmoid": {"alpha": 1 / 6, "beta": 0.5},
    "softplus": {"beta": 1.0, "threshold": 20.0},
    "threshold": {"threshold": 0.5, "value": 0.0},
}

_CONV_VARIED: tuple[Range | Choice, ...] = (
    Range("max(kernel_h, kernel_w)", (1, 2, 3, 5, 7, 9, 11, 16), lambda n: {"k": n, "pad": n // 2}),
    Range("max(stride_h, stride_w)", (1, 2, 3, 4, 5, 8), lambda n: {"stride": n}),
    Range("max(dilation_h, dilation_w)", (1, 2, 3, 4), lambda n: {"dilation": n}),
    Choice("stride_h != stride_w", {"stride": (2, 1)}),
    Choice("depthwise", {"groups": 8, "out": 8}),
    Choice("depthwise and out_channels > in_channels", {"groups": 8, "out": 16}),
    Choice("groups > 1 and not depthwise", {"groups": 2}),
    Choice("pad_top != pad_bottom or pad_left != pad_right", {"pad": ((0, 1), (0, 1))}),
    Choice("kernel_h != kernel_w", {"k": (1, 5), "pad": ((0, 0), (2, 2))}),
    Choice("in_n > 1", {"x": (2, 8, 12, 20)}),
    Choice("not bias_present", {"bias": False}),
)
_POOL_VARIED: tuple[Range | Choice, ...] = (
    Range("max(kernel_h, kernel_w)", (1, 2, 3, 5, 7, 9, 11, 13), lambda n: {"k": n, "pad": n // 2}),
    Range("max(stride_h, stride_w)", (1, 2, 3, 4), lambda n: {"stride": n}),
    Choice("max(pad_top, pad_bottom, pad_left, pad_right) == 0", {"pad": 0}),
    Choice("pad_top != pad_bottom or pad_left != pad_right", {"pad": ((0, 1), (0, 1))}),
    Choice("ceil_mode", {"ceil": True}),
    Choice("in_n > 1", {"x": (2, 8, 12, 20)}),
)
_ONE = (1, 8, 20)


def _specs() -> Iterator[Spec]:
    for kind, attrs in _UNARY.items():
        domain = _DOMAINS.get(kind, (-2.0, 2.0))
        yield Spec(kind, make.unary, attrs, _ranks(2, 3, 5), domain)
    yield Spec(
        "gelu",
        make.unary,
        {"approximate": "none"},
        (Choice("approximate == 'tanh'", {"approximate": "tanh"}), *_ranks(2, 3)),
    )
    yield Spec(
        "clamp",
        make.unary,
        {"min": 0.0, "max": 6.0},
        (
            Choice("min == 0 and max == 1", {"max": 1.0}),
            Choice("min == -1 and max == 1", {"min": -1.0, "max": 1.0}),
            Choice("min == 0 and max == None", {"max": None}),
            Choice("min not in (0, -1, None)", {"min": -0.5, "max": 1.5}),
            Choice("min == None", {"min": None, "max": 1.0}),
            *_ranks(2, 3, 5),
        ),
    )
    yield Spec("prelu", make.prelu, {}, (Choice("weight_shape == (1,)", {"weights": 1}), *_ranks(3)))
    yield Spec(
        "cast", make.cast, {"dtype": "int32"}, (Choice("dtype == 'bool'", {"dtype": "float32", "of_bool": True}),)
    )
    for kind in ("add", "sub", "mul", "div", "pow", "maximum", "minimum"):
        yield Spec(
            kind,
            make.binary,
            {},
            (
                Choice("in1_const and in1_elements == 1", {"constants": ()}),
                Choice("in1_const and broadcast_axes == () and in1_elements > 1", {"constants": (1, 8, 1, 1)}),
                Choice("in1_const and in1_rank == 2", {"constants": (12, 20)}),
                Choice("not in1_const and in1_elements != elements", {"y": (1, 8, 1, 1)}),
                Choice("in1_broadcast_axes == (1,)", {"y": (1, 1, 12, 20)}),
                *_ranks(2, 3, 5),
            ),
            _DOMAINS.get(kind, (-2.0, 2.0)),
        )
    for kind in ("atan2", "remainder", "fmod"):
        yield Spec(kind, make.binary, {}, (), _DOMAINS[kind])
    for kind in ("eq", "ne", "lt", "le", "gt", "ge"):
        yield Spec(
            kind, make.binary, {}, (Choice("in1_const", {"constants": (1, 8, 1, 1)}),), whole=kind in ("eq", "ne")
        )
    for kind in ("logical_and", "logical_or", "logical_xor", "logical_not"):
        yield Spec(kind, make.logical)
    yield Spec("where", make.where, {}, _ranks(2))
    yield Spec(
        "linear",
        make.linear,
        {},
        (
            Choice("rank == 3", {"x": (1, 12, 20)}),
            Choice("not bias_present", {"bias": False}),
            Choice("rank == 4", {"x": make.IMAGE}),
        ),
    )
    yield Spec("gemm", make.gemm, {}, (Choice("trans_a", {"trans_a": True}), Choice("alpha != 1", {"alpha": 0.5})))
    yield Spec(
        "matmul",
        make.matmul,
        {},
        (
            Choice("in1_const", {"constants": True}),
            Choice("x_const", {"first": True}),
            Choice("x_const and rank == 2 and in1_rank == 4", {"first": True, "x": (16, 12), "y": make.IMAGE}),
            Choice("rank == 2", {"x": (12, 20), "y": (20, 6)}),
            Choice("rank == 4", {"x": (1, 4, 12, 20), "y": (1, 4, 20, 6)}),
            Choice("in_n > 1", {"x": (2, 12, 20), "y": (2, 20, 6)}),
            Choice("rank != in1_rank", {"x": (1, 12, 20), "y": (20, 6)}),
        ),
    )
    yield Spec(
        "einsum",
        make.einsum,
        {},
        (
            Choice("equation == 'bij,bkj->bik'", {"equation": "bij,bkj->bik", "y": (1, 6, 20)}),
            Choice(
                "equation == 'bhid,bhjd->bhij'",
                {"equation": "bhid,bhjd->bhij", "x": (1, 2, 6, 20), "y": (1, 2, 10, 20)},
            ),
        ),
    )
    yield Spec("conv2d", make.conv, {}, _CONV_VARIED)
    yield Spec(
        "conv1d",
        make.conv,
        {"x": _ONE},
        (
            Range("kernel_w", (1, 3, 5, 9), lambda n: {"k": n, "pad": n // 2}),
            Range("stride_w", (1, 2, 4), lambda n: {"stride": n}),
            Range("dilation_w", (1, 2, 4), lambda n: {"dilation": n}),
            Choice("depthwise", {"groups": 8, "out": 8}),
            Choice("groups > 1 and not depthwise", {"groups": 2}),
        ),
    )
    yield Spec("conv3d", make.conv, {"x": make.RANKS[5]}, (Range("stride_h", (1, 2), lambda n: {"stride": n}),))
    yield Spec(
        "conv_transpose2d",
        make.deconv,
        {},
        (
            Range("max(kernel_h, kernel_w)", (2, 3, 4, 5), lambda n: {"k": n}),
            Range("max(stride_h, stride_w)", (1, 2, 3, 4), lambda n: {"stride": n}),
            Choice("max(pad_top, pad_bottom, pad_left, pad_right) == 0", {"pad": 0}),
            Choice("kernel_h == 2 and max(pad_top, pad_bottom, pad_left, pad_right) == 0", {"k": 2, "pad": 0}),
            Choice("depthwise", {"groups": 8, "out": 8}),
            Choice("groups > 1 and not depthwise", {"groups": 2}),
            Choice("max(dilation_h, dilation_w) > 1", {"dilation": 2}),
            Choice("max(output_padding) > 0", {"k": 3, "output_padding": 1}),
        ),
    )
    yield Spec("conv_transpose1d", make.deconv, {"x": _ONE})
    dilated = Range("max(dilation_h, dilation_w)", (1, 2, 3), lambda n: {"dilation": n})
    yield Spec("max_pool2d", make.pool, {}, (*_POOL_VARIED, dilated))
    yield Spec("avg_pool2d", make.pool, {}, (*_POOL_VARIED, Choice("count_include_pad", {"counted": True})))
    for kind in ("max_pool1d", "avg_pool1d"):
        yield Spec(kind, make.pool, {"x": _ONE}, (Range("kernel_w", (2, 3, 5), lambda n: {"k": n, "pad": n // 2}),))
    for kind in ("max_pool3d", "avg_pool3d"):
        yield Spec(kind, make.pool, {"x": make.RANKS[5]})
    for kind in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        yield Spec(
            kind, make.unary, {"output_size": (1, 1)}, (Choice("prod(output_size) > 1", {"output_size": (3, 5)}),)
        )
    yield Spec("adaptive_avg_pool1d", make.unary, {"x": _ONE, "output_size": (1,)})
    yield Spec("batch_norm", make.norm, {}, _ranks(2, 3))
    yield Spec("instance_norm", make.norm, {}, _ranks(3))
    yield Spec("group_norm", make.norm, {"groups": 4}, (Choice("groups == 1", {"groups": 1}),))
    yield Spec(
        "layer_norm",
        make.trailing,
        {},
        (Choice("rank == 4", {"x": make.IMAGE, "axes": (3,)}), Choice("len(axes) > 1", {"axes": (1, 2)})),
    )
    yield Spec("rms_norm", make.trailing)
    yield Spec("lp_normalize", make.unary, {"p": 2.0, "axis": 1, "eps": 1e-12})
    yield Spec("local_response_norm", make.unary, {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0})
    for kind in ("softmax", "log_softmax"):
        yield Spec(
            kind,
            make.unary,
            {"axis": 3},
            (
                Choice("axis == 1 and rank == 4", {"axis": 1}),
                Choice("axis == 2 and rank == 4", {"axis": 2}),
                Choice("rank == 2", {"x": make.RANKS[2], "axis": 1}),
                Choice("rank == 3", {"x": make.RANKS[3], "axis": 2}),
            ),
        )
    for kind in ("sum", "mean", "prod", "amax", "amin", "logsumexp"):
        yield Spec(
            kind,
            make.reduce,
            {},
            (
                Choice("axes == (1,)", {"axes": (1,)}),
                Choice("axes == (3,)", {"axes": (3,)}),
                Choice("not keepdim", {"keepdim": False}),
                Choice("rank == 3", {"x": make.RANKS[3], "axes": (2,)}),
                Choice("len(axes) == 3", {"axes": (1, 2, 3)}),
            ),
            _DOMAINS.get(kind, (-2.0, 2.0)),
        )
    yield Spec("norm", make.reduce, {"p": 2.0, "axes": (1,)})
    for kind in ("argmax", "argmin"):
        yield Spec(
            kind,
            make.arg,
            {},
            (
                Choice("axis == 3", {"axis": 3}),
                Choice("not keepdim", {"keepdim": False}),
                Choice("rank == 2", {"x": make.RANKS[2], "axis": 1}),
            ),
        )
    yield Spec("topk", make.topk)
    yield Spec("cumsum", make.unary, {"axis": 3}, (Choice("axis == 1", {"axis": 1}),))
    yield Spec(
        "reshape",
        make.unary,
        {"shape": (1, 8, 240)},
        (
            Choice("len(shape) == 2", {"shape": (1, 1920)}),
            Choice("len(shape) == 4", {"shape": (1, 16, 6, 20)}),
            Choice("len(shape) == 5", {"shape": (1, 2, 4, 12, 20)}),
            Choice("len(shape) == 6", {"shape": (1, 2, 4, 3, 4, 20)}),
        ),
    )
    yield Spec("flatten", make.unary, {"start": 1, "end": 3})
    yield Spec("squeeze", make.unary, {"x": (1, 8, 12, 1), "axes": (3,)})
    yield Spec(
        "unsqueeze",
        make.unary,
        {"x": (1, 8, 12), "axes": (3,)},
        (Choice("rank == 4", {"x": make.IMAGE, "axes": (2,)}),),
    )
    yield Spec(
        "permute",
        make.unary,
        {"dims": (0, 2, 3, 1)},
        (
            Choice("dims == (0, 3, 1, 2)", {"dims": (0, 3, 1, 2)}),
            Choice("dims == (0, 2, 1, 3)", {"dims": (0, 2, 1, 3)}),
            Choice("rank == 3", {"x": make.RANKS[3], "dims": (0, 2, 1)}),
            Choice("rank == 2", {"x": make.RANKS[2], "dims": (1, 0)}),
            Choice("rank == 5", {"x": make.RANKS[5], "dims": (0, 2, 1, 4, 3)}),
            Choice("dims == (1, 0, 2, 3)", {"dims": (1, 0, 2, 3)}),
        ),
    )
    yield Spec(
        "expand",
        make.unary,
        {"x": (1, 8, 1, 1), "shape": make.IMAGE},
        (Choice("changed_axes == (1,)", {"x": (1, 1, 12, 20)}),),
    )
    yield Spec(
        "repeat", make.unary, {"repeats": (1, 2, 1, 1)}, (Choice("changed_axes == (2, 3)", {"repeats": (1, 1, 2, 2)}),)
    )
    yield Spec(
        "slice",
        make.sliced,
        {},
        (
            Choice("axes == (2,)", {"axis": 2}),
            Choice("axes == (3,)", {"axis": 3, "start": 3}),
            Choice("max(steps) == 2 and axes == (2,)", {"axis": 2, "step": 2}),
            Choice("max(steps) == 2 and axes == (3,)", {"axis": 3, "step": 2}),
            Choice("max(steps) == 2 and axes == (1,)", {"axis": 1, "step": 2}),
            Choice("max(steps) == 3", {"axis": 3, "step": 3}),
            Choice("min(steps) < 0", {"axis": 3, "start": 9, "step": -1}),
            Choice("rank == 3", {"x": make.RANKS[3]}),
            Choice("rank == 2", {"x": make.RANKS[2]}),
        ),
    )
    yield Spec(
        "select",
        make.unary,
        {"axis": 1, "index": 3},
        (Choice("axis == 3", {"axis": 3}), Choice("axis == 0", {"x": (4, 8, 12, 20), "axis": 0})),
    )
    yield Spec("slice_assign", make.assign, {}, (Choice("axes == (3,)", {"axis": 3}),))
    yield Spec("select_assign", make.assign)
    yield Spec(
        "cat",
        make.cat,
        {},
        (
            Choice("axis == 2", {"axis": 2}),
            Choice("axis == 3", {"axis": 3}),
            Choice("input_count > 2", {"count": 4}),
            Choice("rank == 3", {"x": make.RANKS[3], "axis": 2}),
            Choice("rank == 2", {"x": make.RANKS[2], "axis": 1}),
            Choice("rank == 5", {"x": make.RANKS[5]}),
        ),
    )
    yield Spec("stack", make.stacked)
    yield Spec(
        "split",
        make.unary,
        {"sizes": (4, 4), "axis": 1},
        (
            Choice("sizes != (4, 4)", {"sizes": (2, 6)}),
            Choice("axis == 3", {"axis": 3, "sizes": (10, 10)}),
            Choice("output_count == 3", {"sizes": (2, 2, 4)}),
        ),
    )
    yield Spec("chunk", make.unary, {"chunks": 2, "axis": 1})
    yield Spec("unbind", make.unary, {"x": (1, 3, 12, 20), "axis": 1})
    yield Spec(
        "pad",
        make.pad,
        {},
        (
            Choice("value != 0", {"value": 1.0}),
            Choice("mode == 'reflect'", {"mode": "reflect"}),
            Choice("mode == 'replicate'", {"mode": "replicate"}),
            Choice("pad_begin[1] > 0", {"axis": 1}),
            Choice("rank == 3", {"x": make.RANKS[3], "axis": 2}),
            Choice("pad_begin[2] > 0", {"axis": 2}),
        ),
    )
    for kind in ("index_select", "take"):
        yield Spec(kind, make.index, {}, (Choice("axis == 3", {"axis": 3}), Choice("axis == 2", {"axis": 2})))
    yield Spec("gather", make.gather, {}, (Choice("axis == 3", {"axis": 3}),))
    yield Spec("embedding", make.embedding)
    yield Spec("flip", make.unary, {"axes": (3,)})
    yield Spec("roll", make.unary, {"shifts": (3,), "axes": (3,)})
    yield Spec("tril", make.unary, {"x": (1, 12, 12), "diagonal": 0})
    yield Spec(
        "resize",
        make.resize,
        {},
        (
            Choice("scale_h == 4", {"factor": (4, 4)}),
            Choice("scale_h == 3", {"factor": (3, 3)}),
            Choice("scale_h == 8", {"factor": (8, 8)}),
            Choice("scale_h != scale_w", {"factor": (2, 3)}),
            Choice("scale_h < 1", {"factor": (0.5, 0.5)}),
            Choice("mode == 'linear' and coordinates == 'asymmetric'", {"mode": "linear"}),
            Choice("mode == 'linear' and coordinates == 'half_pixel'", {"mode": "linear", "coordinates": "half_pixel"}),
            Choice(
                "mode == 'linear' and coordinates == 'pytorch_half_pixel'",
                {"mode": "linear", "coordinates": "pytorch_half_pixel"},
            ),
            Choice(
                "mode == 'linear' and coordinates == 'align_corners'",
                {"mode": "linear", "coordinates": "align_corners"},
            ),
            Choice(
                "mode == 'linear' and scale_h == 4", {"mode": "linear", "coordinates": "half_pixel", "factor": (4, 4)}
            ),
            Choice("mode == 'cubic'", {"mode": "cubic", "coordinates": "half_pixel"}),
            Choice(
                "mode == 'nearest' and coordinates == 'half_pixel'",
                {"coordinates": "half_pixel", "nearest_mode": "round_prefer_floor"},
            ),
        ),
    )
    for kind in ("pixel_shuffle", "pixel_unshuffle"):
        yield Spec(kind, make.unary, {"factor": 2, "mode": "CRD"}, (Choice("mode == 'DCR'", {"mode": "DCR"}),))
    yield Spec("channel_shuffle", make.unary, {"groups": 2})
    yield Spec(
        "grid_sample",
        make.grid,
        {},
        (
            Choice("mode == 'nearest'", {"mode": "nearest"}),
            Choice("align_corners", {"align": True}),
            Choice("padding_mode == 'border'", {"padding_mode": "border"}),
        ),
        _UNIT,
    )
    yield Spec("nms", make.nms, {}, (), (0.0, 1.0))


#: Every kind that can be asked about.
SPECS: dict[str, Spec] = {spec.kind: spec for spec in _specs()}
assert set(SPECS) <= set(KINDS)
