# SPDX-License-Identifier: Apache-2.0
"""The vocabulary: what porter calls the operations of a model, whatever framework it came from.

An :class:`Op` is one operation with a *kind* (``conv2d``, ``slice_assign``, ``arange``), normalized
attributes, input and output :class:`Value` objects, and an :class:`Origin`. Each dialect lifts its nodes to this
vocabulary and lowers from it; targets and rewrites speak nothing else. A node that no lifter knows keeps
its own name (``aten.foo.default``, ``onnx:Foo``) as its kind.

Conventions of the attributes:

* shapes and sizes are tuples of ``int``; axes are non-negative; dtypes are numpy names (``"float32"``);
* ``padding`` of convolutions and pools is one ``(begin, end)`` pair per spatial axis;
* ``slice`` has one ``start``, ``end``, ``step`` for each of ``axes``, with starts and ends clamped to the
  extent (for a positive step ``0 <= start <= end <= extent``; for a negative one ``end`` may be -1, meaning
  "through element 0");
* an operand that the vocabulary makes an attribute but that a model computes at run time changes the kind:
  ``dynamic_slice``, ``dynamic_reshape``, ... with the run-time operands as inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "Kind", "Op", "Origin", "Value", "kind_known", "moved_axis", "numpy_dtype"]

Array = NDArray[Any]


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a dtype name; those that numpy lacks (bfloat16) come from ml_dtypes, which onnx brings.

    Raises ``TypeError`` for a name that neither has.
    """
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        if not hasattr(ml_dtypes, name):
            raise
        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return found


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an op comes from. It survives every rewrite.

    ``file``/``line``/``function`` are the user's source (None where the file format does not record it),
    ``module`` the dotted module path, ``source`` the names of the nodes of the model as it was loaded,
    ``rules`` the rewrites that produced this op, oldest first.
    """

    file: str | None = None
    line: int | None = None
    function: str | None = None
    module: str | None = None
    source: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()

    def after(self, rule: str, *others: Origin) -> Origin:
        """The origin of an op that ``rule`` built from this op (and from ``others``, merged in)."""
        source, rules = self.source, self.rules
        if others:
            source = tuple(dict.fromkeys(name for origin in (self, *others) for name in origin.source))
            rules = tuple(dict.fromkeys(name for origin in (self, *others) for name in origin.rules))
        if rule in rules:
            rules = tuple(name for name in rules if name != rule)
        return Origin(self.file, self.line, self.function, self.module, source, (*rules, rule))

    @property
    def known(self) -> bool:
        """Whether the op can name a source line, a module, or the nodes it came from."""
        return bool(self.file or self.module or self.source)

    def __str__(self) -> str:
        """``yolo_head.py:211 in head``: the path as seen from the current folder, or its last two parts."""
        parts = []
        if self.file:
            path = Path(self.file)
            if path.is_absolute():
                here = Path.cwd()
                path = path.relative_to(here) if path.is_relative_to(here) else Path(*path.parts[-2:])
            parts.append(f"{path}:{self.line}" if self.line else str(path))
        if self.module:
            parts.append(f"in {self.module}")
        return " ".join(parts) or (f"node {self.source[0]}" if self.source else "")


class Value:
    """One tensor of a graph: name, shape, dtype, and its data when it is a constant.

    ``shape`` is a tuple of ints, or None when it depends on data; ``dtype`` is a numpy name, "bfloat16", or None
    when unknown. Constant data is read at the first :meth:`numpy`, so that listing a graph reads no weights.
    """

    __slots__ = ("_data", "dtype", "name", "shape")

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...] | None = None,
        dtype: str | None = None,
        data: Array | Callable[[], Array] | None = None,
    ) -> None:
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self._data = data

    @classmethod
    def constant(cls, name: str, data: Array) -> Value:
        """A constant that holds ``data``."""
        return cls(name, tuple(data.shape), str(data.dtype), data)

    @property
    def is_const(self) -> bool:
        """Whether the value is known before the model runs (a weight, a buffer, a literal)."""
        return self._data is not None

    @property
    def rank(self) -> int | None:
        """Number of axes, or None when the shape is unknown."""
        return None if self.shape is None else len(self.shape)

    def numpy(self) -> Array:
        """The constant's data. Raises ``ValueError`` when the value is not a constant."""
        if self._data is None:
            raise ValueError(f"{self.name} is computed when the model runs; it has no data")
        if callable(self._data):
            self._data = self._data()
        return self._data

    def __repr__(self) -> str:
        shape = "?" if self.shape is None else "x".join(map(str, self.shape))
        return f"{self.name}:{shape}:{self.dtype}{' const' if self.is_const else ''}"


@dataclass(slots=True, eq=False)
class Op:
    """One operation of a graph in porter's vocabulary.

    ``inputs`` follow the order of ``KINDS[kind].inputs``; an optional operand that is absent is None.
    ``name`` is the node's own name in its framework; ``node`` is the dialect's node, opaque to everyone else.
    """

    kind: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    origin: Origin = field(default_factory=Origin)
    node: Any = None

    @property
    def operands(self) -> tuple[Value, ...]:
        """The inputs that are present."""
        return tuple(v for v in self.inputs if v is not None)

    def __repr__(self) -> str:
        outs = ", ".join(map(repr, self.outputs))
        ins = ", ".join("-" if v is None else repr(v) for v in self.inputs)
        attrs = " ".join(f"{k}={v!r}" for k, v in self.attrs.items())
        return f"{outs} = {self.kind}({ins}){' ' + attrs if attrs else ''}"


@dataclass(frozen=True, slots=True)
class Kind:
    """What an op kind means: operand names ("x?" is optional, "xs*" is one or more), attributes, one line."""

    inputs: str
    attrs: str
    doc: str
    outputs: int | None = 1  # None: as many as the attributes say


def _table() -> dict[str, Kind]:
    table: dict[str, Kind] = {}

    def add(names: str, inputs: str, attrs: str, doc: str, outputs: int | None = 1) -> None:
        for name in names.split():
            table[name] = Kind(inputs, attrs, doc, outputs)

    unary = (
        "relu relu6 sigmoid tanh silu hardswish mish selu softsign logsigmoid exp expm1 log log1p log2 log10 sqrt "
        "rsqrt reciprocal abs neg sign floor ceil round trunc sin cos tan asin acos atan sinh cosh asinh acosh atanh "
        "erf square isnan isinf logical_not bitwise_not"
    )
    add(unary, "x", "", "element by element, as torch computes it (round is half to even; erf is the error function)")
    add("identity", "x", "", "the value itself (clone, contiguous, detach, dropout in evaluation)")
    add("leaky_relu", "x", "negative_slope:float", "x if x > 0 else negative_slope * x")
    add("prelu", "x weight", "", "x if x > 0 else weight * x; weight broadcasts over axis 1 (shape (C,) or (1,))")
    add("elu", "x", "alpha:float", "x if x > 0 else alpha * (exp(x) - 1)")
    add("celu", "x", "alpha:float", "max(0, x) + min(0, alpha * (exp(x / alpha) - 1))")
    add("hardsigmoid", "x", "alpha:float beta:float", "clamp(alpha * x + beta, 0, 1); torch's is alpha 1/6, beta 1/2")
    add("gelu", "x", "approximate:str", "x * Phi(x); approximate is 'none' or 'tanh'")
    add("softplus", "x", "beta:float threshold:float", "log(1 + exp(beta x)) / beta; x itself where beta x > threshold")
    add("threshold", "x", "threshold:float value:float", "x if x > threshold else value")
    add("clamp", "x", "min:float|None max:float|None", "x limited to [min, max]")
    add("cast", "x", "dtype:str", "conversion to dtype (float to int truncates)")
    binary = "add sub mul div pow maximum minimum atan2 remainder fmod floor_divide"
    add(
        binary,
        "x y",
        "",
        "element by element with numpy broadcasting; div is true division for floats, remainder is "
        "Python's %, fmod is C's",
    )
    add("trunc_divide", "x y", "", "integer division that truncates toward zero")
    add("eq ne lt le gt ge logical_and logical_or logical_xor", "x y", "", "element by element; the result is bool")
    add("bitwise_and bitwise_or bitwise_xor", "x y", "", "element by element on integers or bool")
    add("where", "condition x y", "", "x where condition else y, broadcasting")
    add("masked_fill", "x mask", "value:float", "value where mask else x; mask broadcasts to x")
    add("linear", "x weight bias?", "", "x @ weight.T + bias; weight is (out, in)")
    add("gemm", "a b c?", "alpha:float beta:float trans_a:bool trans_b:bool", "alpha * a' @ b' + beta * c, rank 2")
    add("matmul", "x y", "", "numpy matmul semantics (bmm and mm are matmul)")
    add("einsum", "xs*", "equation:str", "Einstein summation")
    conv = "stride:tuple padding:((begin,end),...) dilation:tuple groups:int"
    add(
        "conv1d conv2d conv3d",
        "x weight bias?",
        conv,
        "cross-correlation; x is (N, Ci, ...), weight (Co, Ci/groups, k...)",
    )
    add(
        "conv_transpose1d conv_transpose2d conv_transpose3d",
        "x weight bias?",
        conv + " output_padding:tuple",
        "transposed convolution; weight is (Ci, Co/groups, k...)",
    )
    pool = "kernel:tuple stride:tuple padding:((begin,end),...) "
    add("max_pool1d max_pool2d max_pool3d", "x", pool + "dilation:tuple ceil_mode:bool", "maximum of each window")
    add("max_pool2d_with_indices", "x", pool + "dilation:tuple ceil_mode:bool", "max_pool2d and int64 flat indices", 2)
    add(
        "avg_pool1d avg_pool2d avg_pool3d",
        "x",
        pool + "ceil_mode:bool count_include_pad:bool divisor_override:int|None",
        "mean of each window",
    )
    add(
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d adaptive_avg_pool3d",
        "x",
        "output_size:tuple",
        "pooling to a given size; global pooling is output_size (1, 1)",
    )
    add("max_unpool2d", "x indices", "output_size:tuple", "values put back at their flat indices, zeros elsewhere")
    add("batch_norm", "x weight? bias? mean var", "eps:float", "evaluation statistics, axis 1")
    add("instance_norm", "x weight? bias?", "eps:float", "per image and channel over the spatial axes")
    add("layer_norm", "x weight? bias?", "axes:tuple eps:float", "over the trailing axes")
    add("group_norm", "x weight? bias?", "groups:int eps:float", "per group of channels; weight and bias are (C,)")
    add("rms_norm", "x weight?", "axes:tuple eps:float", "x / sqrt(mean(x^2) + eps) * weight over the trailing axes")
    add("lp_normalize", "x", "p:float axis:int eps:float", "x / max(norm_p(x, axis), eps)")
    add(
        "local_response_norm", "x", "size:int alpha:float beta:float k:float", "torch.nn.functional.local_response_norm"
    )
    add("softmax log_softmax", "x", "axis:int", "over one axis")
    add("sum mean prod amax amin logsumexp all any", "x", "axes:tuple keepdim:bool", "reduction over axes")
    add("var std", "x", "axes:tuple keepdim:bool correction:int", "variance, divisor N - correction")
    add("norm", "x", "p:float axes:tuple keepdim:bool", "p-norm over axes")
    add("argmax argmin", "x", "axis:int|None keepdim:bool", "index of the first extreme (int64); None flattens")
    add("max_dim min_dim", "x", "axis:int keepdim:bool", "extreme and its int64 index", 2)
    add("topk", "x", "k:int axis:int largest:bool sorted:bool", "values and int64 indices", 2)
    add("sort", "x", "axis:int descending:bool", "values and int64 indices", 2)
    add("cumsum", "x", "axis:int", "running sum")
    add("reshape", "x", "shape:tuple", "same elements in row-major order (view, reshape)")
    add("flatten", "x", "start:int end:int", "axes start..end (inclusive) become one")
    add("squeeze", "x", "axes:tuple", "axes of extent 1 removed")
    add("unsqueeze", "x", "axes:tuple", "axes of extent 1 inserted; positions in the result")
    add("permute", "x", "dims:tuple", "axes reordered (transpose, t, permute)")
    add("expand", "x", "shape:tuple", "broadcast to shape")
    add("repeat", "x", "repeats:tuple", "tiled; one count per axis of the result (torch.Tensor.repeat, ONNX Tile)")
    add("slice", "x", "axes:tuple starts:tuple ends:tuple steps:tuple", "x[start:end:step] along each axis")
    add("select", "x", "axis:int index:int", "x[..., index, ...]; the axis disappears")
    add(
        "slice_assign",
        "x src",
        "axes:tuple starts:tuple ends:tuple steps:tuple",
        "a copy of x with the box set to src; src broadcasts to the box",
    )
    add("select_assign", "x src", "axis:int index:int", "a copy of x with x[..., index, ...] set to src")
    add("cat", "xs*", "axis:int", "concatenation")
    add("stack", "xs*", "axis:int", "concatenation along a new axis")
    add("split", "x", "sizes:tuple axis:int", "consecutive pieces of the given sizes", None)
    add("chunk", "x", "chunks:int axis:int", "torch.chunk: ceil(extent / chunks) each, the last may be smaller", None)
    add("unbind", "x", "axis:int", "one piece per index, the axis removed", None)
    add(
        "pad",
        "x",
        "padding:((begin,end),...) mode:str value:float",
        "one pair per axis of x, negative crops; mode constant, reflect, replicate or circular",
    )
    add("gather", "x index", "axis:int", "torch.gather (ONNX GatherElements)")
    add("index_select", "x index", "axis:int", "rows of one axis by a 1-D index")
    add("take", "x index", "axis:int", "numpy.take: the axis is replaced by the axes of index (ONNX Gather)")
    add("embedding", "weight index", "", "rows of a (rows, width) table by an integer index of any rank")
    add("index", "x indices*", "axes:tuple", "advanced indexing: one index tensor per axis in axes, broadcast together")
    add("index_put", "x values indices*", "axes:tuple accumulate:bool", "advanced-indexing assignment, out of place")
    add("gather_nd", "x index", "batch_dims:int", "ONNX GatherND")
    add("scatter_nd", "x index src", "reduction:str", "ONNX ScatterND")
    add("scatter", "x index src", "axis:int reduction:str", "torch.scatter (ONNX ScatterElements)")
    add("masked_select", "x mask", "", "torch.masked_select; the shape of the result depends on data")
    add("nonzero", "x", "layout:str?", "torch.nonzero (one row a hit; data-dependent); layout 'onnx' is its transpose")
    add("one_hot", "x", "depth:int", "torch.nn.functional.one_hot, int64")
    add("flip", "x", "axes:tuple", "reversed along axes")
    add("roll", "x", "shifts:tuple axes:tuple", "rolled along axes")
    add("tril triu", "x", "diagonal:int", "triangle of the last two axes")
    add(
        "resize",
        "x",
        "mode:str coordinates:str sizes:tuple scales:tuple|None nearest_mode:str cubic_coeff:float antialias:bool",
        "resampling of the spatial axes (all after the first two): mode nearest, linear or cubic; coordinates "
        "asymmetric "
        "(x*scale), half_pixel, align_corners or pytorch_half_pixel; sizes are the spatial sizes; nearest_mode floor, "
        "round_prefer_floor, round_prefer_ceil or ceil",
    )
    add("pixel_shuffle", "x", "factor:int mode:str", "depth to space; mode CRD (torch) or DCR")
    add("pixel_unshuffle", "x", "factor:int mode:str", "space to depth; mode CRD (torch) or DCR (ONNX SpaceToDepth)")
    add("channel_shuffle", "x", "groups:int", "channels of (groups, C/groups) transposed")
    add(
        "affine_grid",
        "theta",
        "size:tuple align_corners:bool",
        "torch.nn.functional.affine_grid; size is that of the tensor to sample for, (N, C, ...)",
    )
    add("grid_sample", "x grid", "mode:str padding_mode:str align_corners:bool", "torch.nn.functional.grid_sample")
    add("unfold", "x", "kernel:tuple stride:tuple padding:tuple dilation:tuple", "im2col: (N, C*kh*kw, L)")
    add("fold", "x", "output_size:tuple kernel:tuple stride:tuple padding:tuple dilation:tuple", "col2im")
    add(
        "roi_align",
        "x rois batch_indices",
        "output_size:tuple scale:float sampling_ratio:int mode:str aligned:bool",
        "ROI align",
    )
    add(
        "nms",
        "boxes scores",
        "iou_threshold:float layout:str?",
        "torchvision.ops.nms on (N, 4) and (N,), data-dependent; layout 'onnx' is ONNX NonMaxSuppression",
    )
    add("arange", "", "start:number end:number step:number dtype:str", "start, start+step, ... before end")
    add("linspace", "", "start:float end:float steps:int dtype:str", "steps evenly spaced values")
    add("full", "", "shape:tuple value:number dtype:str", "a tensor filled with value (zeros, ones, full)")
    add("fill", "x", "value:number dtype:str", "a tensor shaped as x filled with value (fill_, full_like, zeros_like)")
    add("eye", "", "rows:int cols:int diagonal:int dtype:str", "ones on a diagonal")
    add("meshgrid", "xs*", "indexing:str", "one grid per 1-D input; indexing ij or xy", None)
    add("shape", "x", "start:int? end:int?", "the extents of x (of axes start to end) as a 1-D int64 tensor")
    add("size", "x", "", "the number of elements of x, an int64 scalar")
    add(
        "lstm gru rnn",
        "x weights*",
        "hidden:int direction:str layers:int layout:str biases:bool? time_axis:int? outputs:tuple? "
        "linear_before_reset:bool? activation:str?",
        "recurrent layers; direction forward, reverse or bidirectional; the activation of rnn is tanh or relu. "
        "Layout time_first or batch_first: operands and results of torch (weights by layer and direction, then the "
        "states). Layout onnx: those of ONNX; time_axis is its layout, outputs are the results that are there",
        None,
    )
    add("attention", "query key value mask?", "scale:float|None causal:bool", "scaled dot product attention")
    add("quantize", "x scale zero_point?", "axis:int|None dtype:str", "clamp(round_half_even(x / scale) + zero_point)")
    add("dequantize", "x scale zero_point?", "axis:int|None", "(x - zero_point) * scale, float32")
    add("if loop scan", "xs*", "", "control flow with sub-graphs", None)
    add("random", "", "shape:tuple dtype:str", "random numbers: never constant, never equal twice")
    return table


KINDS: dict[str, Kind] = _table()


def kind_known(kind: str) -> bool:
    """Whether ``kind`` belongs to the vocabulary (``dynamic_x`` does when ``x`` does)."""
    return kind in KINDS or (kind.startswith("dynamic_") and kind[len("dynamic_") :] in KINDS)


def moved_axis(op: Op, axis: int) -> int | None:
    """The axis of the first operand along which lies what lies along ``axis`` of the result, index by index.

    None where there is none: a reshape that merges or divides the axis, or a kind that does more than reshape, permute
    or pass on what it gets.
    """
    if op.kind == "identity":
        return axis
    if op.kind == "permute":
        return int(op.attrs["dims"][axis])
    if op.kind not in ("reshape", "flatten", "squeeze", "unsqueeze"):
        return None
    before, after = op.operands[0].shape, op.outputs[0].shape
    if before is None or after is None or 0 in before:
        return None
    outer = math.prod(after[:axis])
    fits = (i for i, size in enumerate(before) if size == after[axis] and math.prod(before[:i]) == outer)
    return next(fits, None)
