# SPDX-License-Identifier: Apache-2.0
"""Lifters of the ATen operators that reduce, reshape, index and create."""

from __future__ import annotations

from typing import Any

from porter.dialects.fx_args import TABLE, Args, Lifted, Lifter, Unknown, axes_of, axis_of, lifter, shape_of
from porter.ops import Value

# ------------------------------------------------------------------------------------------- reductions

_REDUCE = {
    "sum": ("default", "dim_IntList"),
    "mean": ("default", "dim"),
    "prod": ("default", "dim_int"),
    "amax": ("default",),
    "amin": ("default",),
    "logsumexp": ("default",),
    "all": ("default", "dim", "dims"),
    "any": ("default", "dim", "dims"),
}


def _reduction(kind: str) -> Lifter:
    def lift_reduction(a: Args) -> Lifted:
        x = a.tensor("self")
        dims = a.get("dim")
        return kind, (x,), {"axes": axes_of(dims, len(shape_of(x))), "keepdim": bool(a.get("keepdim"))}

    return lift_reduction


for _kind, _overloads in _REDUCE.items():
    TABLE.update({f"aten.{_kind}.{o}": _reduction(_kind) for o in _overloads})
TABLE["aten.max.default"] = _reduction("amax")
TABLE["aten.min.default"] = _reduction("amin")


@lifter(*(f"{k}.{o}" for k in ("var", "std") for o in ("default", "dim", "correction")))
def _var(a: Args) -> Lifted:
    x = a.tensor("self")
    if "correction" in a:
        correction = 1 if a["correction"] is None else a["correction"]
    else:
        correction = int(a["unbiased"])
    if correction != int(correction):
        raise Unknown
    attrs = {
        "axes": axes_of(a.get("dim"), len(shape_of(x))),
        "keepdim": bool(a.get("keepdim")),
        "correction": int(correction),
    }
    return str(a.node.target).split(".")[1], (x,), attrs


@lifter("linalg_vector_norm.default", "norm.Scalar", "norm.ScalarOpt_dim")
def _norm(a: Args) -> Lifted:
    x = a.tensor("self")
    p = a["ord" if "ord" in a else "p"]
    attrs = {
        "p": 2.0 if p is None else float(p),
        "axes": axes_of(a.get("dim"), len(shape_of(x))),
        "keepdim": bool(a.get("keepdim")),
    }
    return "norm", (x,), attrs


@lifter("argmax.default", "argmin.default")
def _arg(a: Args) -> Lifted:
    x = a.tensor("self")
    axis = None if a["dim"] is None else axis_of(a["dim"], len(shape_of(x)))
    return str(a.node.target).split(".")[1], (x,), {"axis": axis, "keepdim": bool(a["keepdim"])}


@lifter("max.dim", "min.dim")
def _extreme(a: Args) -> Lifted:
    x = a.tensor("self")
    kind = f"{str(a.node.target).split('.')[1]}_dim"
    return kind, (x,), {"axis": axis_of(a["dim"], len(shape_of(x))), "keepdim": bool(a["keepdim"])}


@lifter("topk.default")
def _topk(a: Args) -> Lifted:
    x = a.tensor("self")
    attrs = {
        "k": a["k"],
        "axis": axis_of(a["dim"], len(shape_of(x))),
        "largest": bool(a["largest"]),
        "sorted": bool(a["sorted"]),
    }
    return "topk", (x,), attrs


@lifter("sort.default", "sort.stable")
def _sort(a: Args) -> Lifted:
    x = a.tensor("self")
    return "sort", (x,), {"axis": axis_of(a["dim"], len(shape_of(x))), "descending": bool(a["descending"])}


@lifter("cumsum.default")
def _cumsum(a: Args) -> Lifted:
    x = a.tensor("self")
    return "cumsum", (x,), {"axis": axis_of(a["dim"], len(shape_of(x)))}


# ------------------------------------------------------------------------------------------- shapes


@lifter(
    "view.default",
    "_unsafe_view.default",
    "reshape.default",
    "view_copy.default",
    "flatten.using_ints",
    "unflatten.int",
    "_reshape_alias.default",
    "_reshape_copy.default",
)
def _reshape(a: Args) -> Lifted:
    x = a.tensor("self")
    a.read("size", "sizes", "shape", "stride", "start_dim", "end_dim", "dim")
    return "reshape", (x,), {"shape": shape_of(a.out[0])}


@lifter("squeeze.default", "squeeze.dim", "squeeze.dims")
def _squeeze(a: Args) -> Lifted:
    x = a.tensor("self")
    shape = shape_of(x)
    axes = axes_of(a["dim"], len(shape)) if "dim" in a and a["dim"] != [] else tuple(range(len(shape)))
    return "squeeze", (x,), {"axes": tuple(i for i in axes if shape and shape[i] == 1)}


@lifter("unsqueeze.default")
def _unsqueeze(a: Args) -> Lifted:
    x = a.tensor("self")
    return "unsqueeze", (x,), {"axes": (axis_of(a["dim"], len(shape_of(x)) + 1),)}


@lifter("permute.default", "permute_copy.default")
def _permute(a: Args) -> Lifted:
    x = a.tensor("self")
    return "permute", (x,), {"dims": tuple(axis_of(d, len(shape_of(x))) for d in a["dims"])}


@lifter("transpose.int", "t.default", "numpy_T.default", "mT.default", "swapaxes.default")
def _transpose(a: Args) -> Lifted:
    x = a.tensor("self")
    dims = list(range(len(shape_of(x))))
    name = str(a.node.target)
    if "numpy_T" in name or (name == "aten.t.default" and len(dims) == 2):
        dims.reverse()
    elif name != "aten.t.default":
        names = ("dim0", "dim1") if "dim0" in a else ("axis0", "axis1")
        i, j = (-2, -1) if "mT" in name else (axis_of(a[n], len(dims)) for n in names)
        if dims:
            dims[i], dims[j] = dims[j], dims[i]
    return "permute", (x,), {"dims": tuple(dims)}


@lifter("movedim.int", "movedim.intlist")
def _movedim(a: Args) -> Lifted:
    x = a.tensor("self")
    rank = len(shape_of(x))
    source, target = (
        [axis_of(d, rank) for d in ([v] if isinstance(v, int) else v)] for v in (a["source"], a["destination"])
    )
    dims = [d for d in range(rank) if d not in source]
    for to, of in sorted(zip(target, source, strict=True)):
        dims.insert(to, of)
    return "permute", (x,), {"dims": tuple(dims)}


@lifter("expand.default", "expand_as.default", "broadcast_to.default", "expand_copy.default")
def _expand(a: Args) -> Lifted:
    a.read("size", "other")
    return "expand", (a.tensor("self"),), {"shape": shape_of(a.out[0])}


@lifter("repeat.default", "tile.default")
def _repeat(a: Args) -> Lifted:
    x = a.tensor("self")
    repeats = tuple(a["repeats" if "repeats" in a else "dims"])
    return "repeat", (x,), {"repeats": (1,) * (len(shape_of(x)) - len(repeats)) + repeats}


def _box(a: Args, extent: int, axis: int) -> dict[str, Any]:
    start, end = (a[n] for n in ("start", "end"))
    start = 0 if start is None else start + extent if start < 0 else start
    end = extent if end is None else end + extent if end < 0 else end
    start = min(max(start, 0), extent)
    return {"axes": (axis,), "starts": (start,), "ends": (min(max(end, start), extent),), "steps": (a["step"],)}


@lifter("slice.Tensor", "slice_copy.Tensor")
def _slice(a: Args) -> Lifted:
    x = a.tensor("self")
    axis = axis_of(a["dim"], len(shape_of(x)))
    return "slice", (x,), _box(a, shape_of(x)[axis], axis)


@lifter("slice_scatter.default")
def _slice_assign(a: Args) -> Lifted:
    x = a.tensor("self")
    axis = axis_of(a["dim"], len(shape_of(x)))
    return "slice_assign", (x, a.tensor("src")), _box(a, shape_of(x)[axis], axis)


@lifter("select.int", "select_copy.int")
def _select(a: Args) -> Lifted:
    x = a.tensor("self")
    axis = axis_of(a["dim"], len(shape_of(x)))
    return "select", (x,), {"axis": axis, "index": a["index"] % shape_of(x)[axis]}


@lifter("select_scatter.default")
def _select_assign(a: Args) -> Lifted:
    x = a.tensor("self")
    axis = axis_of(a["dim"], len(shape_of(x)))
    return "select_assign", (x, a.tensor("src")), {"axis": axis, "index": a["index"] % shape_of(x)[axis]}


@lifter("cat.default", "concat.default")
def _cat(a: Args) -> Lifted:
    return "cat", a.tensors("tensors"), {"axis": axis_of(a["dim"], len(shape_of(a.out[0])))}


@lifter("stack.default")
def _stack(a: Args) -> Lifted:
    return "stack", a.tensors("tensors"), {"axis": axis_of(a["dim"], len(shape_of(a.out[0])))}


@lifter(
    "split.Tensor",
    "split.sizes",
    "split_with_sizes.default",
    "unsafe_split.Tensor",
    "unsafe_split_with_sizes.default",
    "split_with_sizes_copy.default",
    "split_copy.Tensor",
    "tensor_split.sections",
)
def _split(a: Args) -> Lifted:
    x = a.tensor("self")
    axis = axis_of(a["dim"], len(shape_of(x)))
    a.read("split_size", "split_sizes", "sections")
    return "split", (x,), {"sizes": tuple(shape_of(v)[axis] for v in a.out), "axis": axis}


@lifter("chunk.default", "unsafe_chunk.default")
def _chunk(a: Args) -> Lifted:
    x = a.tensor("self")
    return "chunk", (x,), {"chunks": a["chunks"], "axis": axis_of(a["dim"], len(shape_of(x)))}


@lifter("unbind.int", "unbind_copy.int")
def _unbind(a: Args) -> Lifted:
    x = a.tensor("self")
    return "unbind", (x,), {"axis": axis_of(a["dim"], len(shape_of(x)))}


@lifter(
    "pad.default",
    "constant_pad_nd.default",
    *(f"{m}_pad{n}d.default" for m in ("reflection", "replication") for n in (1, 2, 3)),
)
def _pad(a: Args) -> Lifted:
    x = a.tensor("self")
    name = str(a.node.target)
    rank = len(shape_of(x))
    flat = a["pad" if "pad" in a else "padding"]
    pairs = [(0, 0)] * rank
    for i in range(len(flat) // 2):
        pairs[rank - 1 - i] = (flat[2 * i], flat[2 * i + 1])
    mode = "reflect" if "reflection" in name else "replicate" if "replication" in name else "constant"
    if "mode" in a:
        mode = a["mode"]
    value = a.get("value")
    return "pad", (x,), {"padding": tuple(pairs), "mode": mode, "value": float(value or 0.0)}


@lifter("flip.default")
def _flip(a: Args) -> Lifted:
    x = a.tensor("self")
    return "flip", (x,), {"axes": tuple(sorted(axis_of(d, len(shape_of(x))) for d in a["dims"]))}


@lifter("roll.default")
def _roll(a: Args) -> Lifted:
    x = a.tensor("self")
    if not a["dims"]:
        raise Unknown
    return "roll", (x,), {"shifts": tuple(a["shifts"]), "axes": tuple(axis_of(d, len(shape_of(x))) for d in a["dims"])}


@lifter("tril.default", "triu.default")
def _triangle(a: Args) -> Lifted:
    return str(a.node.target).split(".")[1], (a.tensor("self"),), {"diagonal": a["diagonal"]}


# ------------------------------------------------------------------------------------------- indexing


@lifter("gather.default")
def _gather(a: Args) -> Lifted:
    x = a.tensor("self")
    return "gather", (x, a.tensor("index")), {"axis": axis_of(a["dim"], len(shape_of(x)))}


@lifter("index_select.default")
def _index_select(a: Args) -> Lifted:
    x = a.tensor("self")
    return "index_select", (x, a.tensor("index")), {"axis": axis_of(a["dim"], len(shape_of(x)))}


@lifter("embedding.default")
def _embedding(a: Args) -> Lifted:
    return "embedding", (a.tensor("weight"), a.tensor("indices")), {}


def _indices(a: Args) -> tuple[tuple[int, ...], tuple[Value, ...]]:
    a.read("indices")
    raw = a._given["indices"]
    pairs = [(i, a._value(n)) for i, n in enumerate(raw) if n is not None]
    if not pairs or any(v.dtype in ("bool", "uint8", None) for _, v in pairs):
        raise Unknown
    return tuple(i for i, _ in pairs), tuple(v for _, v in pairs)


@lifter("index.Tensor")
def _index(a: Args) -> Lifted:
    x = a.tensor("self")
    axes, indices = _indices(a)
    if len(axes) == 1:
        return "take", (x, *indices), {"axis": axes[0]}
    return "index", (x, *indices), {"axes": axes}


@lifter("index_put.default")
def _index_put(a: Args) -> Lifted:
    axes, indices = _indices(a)
    return (
        "index_put",
        (a.tensor("self"), a.tensor("values"), *indices),
        {"axes": axes, "accumulate": bool(a["accumulate"])},
    )


@lifter("scatter.src", "scatter.reduce", "scatter_add.default", "scatter_reduce.two")
def _scatter(a: Args) -> Lifted:
    x = a.tensor("self")
    name = str(a.node.target)
    reduction = "add" if "scatter_add" in name else "none"
    if "reduce" in a:
        known = {"add": "add", "multiply": "mul", "sum": "add", "prod": "mul", "amax": "max", "amin": "min"}
        if a["reduce"] not in known:
            raise Unknown
        reduction = known[a["reduce"]]
    operands = (x, a.tensor("index"), a.tensor("src"))
    return "scatter", operands, {"axis": axis_of(a["dim"], len(shape_of(x))), "reduction": reduction}


@lifter("masked_select.default")
def _masked_select(a: Args) -> Lifted:
    return "masked_select", (a.tensor("self"), a.tensor("mask")), {}


@lifter("nonzero.default")
def _nonzero(a: Args) -> Lifted:
    return "nonzero", (a.tensor("self"),), {}


@lifter("one_hot.default")
def _one_hot(a: Args) -> Lifted:
    a.read("num_classes")
    return "one_hot", (a.tensor("self"),), {"depth": shape_of(a.out[0])[-1]}


# ------------------------------------------------------------------------------------------- creation


@lifter("arange.default", "arange.start", "arange.start_step")
def _arange(a: Args) -> Lifted:
    a.read("dtype")
    attrs = {"start": a.get("start", 0), "end": a["end"], "step": a.get("step", 1), "dtype": a.out[0].dtype}
    return "arange", (), attrs


@lifter("linspace.default")
def _linspace(a: Args) -> Lifted:
    a.read("dtype")
    return (
        "linspace",
        (),
        {"start": float(a["start"]), "end": float(a["end"]), "steps": a["steps"], "dtype": a.out[0].dtype},
    )


@lifter(
    "full.default",
    "zeros.default",
    "ones.default",
    "new_zeros.default",
    "new_ones.default",
    "new_full.default",
    "scalar_tensor.default",
)
def _full(a: Args) -> Lifted:
    a.read("dtype", "self", "size")
    name = str(a.node.target)
    value = a["fill_value"] if "fill_value" in a else a["s"] if "s" in a else int("ones" in name)
    return "full", (), {"shape": shape_of(a.out[0]), "value": value, "dtype": a.out[0].dtype}


@lifter("zeros_like.default", "ones_like.default", "full_like.default", "fill.Scalar", "zero.default")
def _fill(a: Args) -> Lifted:
    a.read("dtype")
    value = a["fill_value"] if "fill_value" in a else a["value"] if "value" in a else int("ones" in str(a.node.target))
    return "fill", (a.tensor("self"),), {"value": value, "dtype": a.out[0].dtype}


@lifter("eye.default", "eye.m")
def _eye(a: Args) -> Lifted:
    a.read("dtype")
    return "eye", (), {"rows": a["n"], "cols": a.get("m", a["n"]), "diagonal": 0, "dtype": a.out[0].dtype}


@lifter("meshgrid.indexing", "meshgrid.default")
def _meshgrid(a: Args) -> Lifted:
    return "meshgrid", a.tensors("tensors"), {"indexing": a.get("indexing", "ij")}
