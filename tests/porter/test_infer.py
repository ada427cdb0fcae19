# SPDX-License-Identifier: Apache-2.0
"""Shape and dtype inference against torch, and the operands that it refuses.

tests/rewrites compares every kind that a rule removes with torch; here are promotion, the other kinds, and the errors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from porter.infer import broadcast_shapes, infer, promote
from porter.ops import KINDS, Value

DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]


def value(shape: Any, dtype: str = "float32") -> Value:
    return Value("v", shape, dtype)


@pytest.mark.parametrize("x", DTYPES)
@pytest.mark.parametrize("y", DTYPES)
def test_promotion_is_that_of_torch(x: str, y: str) -> None:
    full = {d: torch.empty(2, dtype=getattr(torch, d)) for d in (x, y)}
    zero = {d: torch.empty((), dtype=getattr(torch, d)) for d in (x, y)}

    def name(a: torch.Tensor, b: torch.Tensor) -> str:
        return str(torch.result_type(a, b)).removeprefix("torch.")

    assert promote(x, y) == name(full[x], full[y])
    assert promote(x, y, x_scalar=True) == name(zero[x], full[y])
    assert promote(x, y, y_scalar=True) == name(full[x], zero[y])
    assert promote(x, y, True, True) == name(zero[x], zero[y])


def test_promotion_of_the_unknown() -> None:
    assert promote(None, "float32") is None
    assert infer("add", [value((2,), None), value((2,))], {}) == [((2,), None)]  # type: ignore[arg-type]


@given(st.lists(st.lists(st.integers(1, 3), max_size=4).map(tuple), min_size=1, max_size=3))
def test_broadcasting_is_that_of_numpy(shapes: list[tuple[int, ...]]) -> None:
    try:
        want = np.broadcast_shapes(*shapes)
    except ValueError:
        with pytest.raises(ValueError, match="do not broadcast"):
            broadcast_shapes(*shapes)
    else:
        assert broadcast_shapes(*shapes) == want


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2), st.integers(1, 3), st.booleans())
def test_windows_are_those_of_torch(n: int, k: int, s: int, p: int, d: int, ceil: bool) -> None:
    p = min(p, k // 2)
    x = torch.empty(1, 1, n)
    attrs = {"kernel": (k,), "stride": (s,), "padding": ((p, p),), "dilation": (d,), "ceil_mode": ceil}
    try:
        want = tuple(F.max_pool1d(x, k, s, p, d, ceil).shape)
    except RuntimeError:
        return
    assert infer("max_pool1d", [value((1, 1, n))], attrs) == [(want, "float32")]
    conv = {"stride": (s,), "padding": ((p, p),), "dilation": (d,), "groups": 1}
    try:
        made = tuple(F.conv1d(x, torch.empty(2, 1, k), None, s, p, d).shape)
    except RuntimeError:
        with pytest.raises(ValueError, match="larger than the padded input"):
            infer("conv1d", [value((1, 1, n)), value((2, 1, k)), None], conv)
    else:
        assert infer("conv1d", [value((1, 1, n)), value((2, 1, k)), None], conv)[0][0] == made


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(0, 1), st.integers(1, 2), st.integers(0, 1))
def test_transposed_convolution(n: int, k: int, s: int, p: int, d: int, more: int) -> None:
    attrs = {
        "stride": (s,), "padding": ((p, p),), "dilation": (d,), "groups": 1, "output_padding": (more,),
    }  # fmt: skip
    try:
        want = tuple(F.conv_transpose1d(torch.empty(1, 2, n), torch.empty(2, 3, k), None, s, p, more, 1, d).shape)
    except RuntimeError:
        return
    assert infer("conv_transpose1d", [value((1, 2, n)), value((2, 3, k)), None], attrs)[0][0] == want


@given(st.integers(-5, 5), st.integers(-5, 5), st.integers(-3, 3))
def test_arange(start: int, end: int, step: int) -> None:
    attrs = {"start": start, "end": end, "step": step, "dtype": "int64"}
    if step == 0:
        with pytest.raises(ValueError, match="step is 0"):
            infer("arange", [], attrs)
    else:
        assert infer("arange", [], attrs) == [((len(range(start, end, step)),), "int64")]


@pytest.mark.parametrize(
    ("kind", "inputs", "attrs", "want"),
    [
        ("linspace", [], {"start": 0.0, "end": 1.0, "steps": 5, "dtype": "float32"}, [((5,), "float32")]),
        ("full", [], {"shape": (2, 3), "value": 1, "dtype": "int32"}, [((2, 3), "int32")]),
        ("fill", [value((2, 3))], {"value": 1, "dtype": "int64"}, [((2, 3), "int64")]),
        ("eye", [], {"rows": 2, "cols": 3, "diagonal": 0, "dtype": "float32"}, [((2, 3), "float32")]),
        ("shape", [value((2, 3, 4))], {}, [((3,), "int64")]),
        ("shape", [value((2, 3, 4))], {"start": 1, "end": 3}, [((2,), "int64")]),
        ("size", [value((2, 3, 4))], {}, [((), "int64")]),
        ("sum", [value((2, 3), "bool")], {"axes": (0,), "keepdim": True}, [((1, 3), "int64")]),
        ("div", [value((2,), "int64"), value((2,), "int64")], {}, [((2,), "float32")]),
        ("sort", [value((2, 3))], {"axis": 1, "descending": False}, [((2, 3), "float32"), ((2, 3), "int64")]),
        ("chunk", [value((7,))], {"chunks": 3, "axis": 0}, [((3,), "float32"), ((3,), "float32"), ((1,), "float32")]),
        (
            "index",
            [value((4, 5, 6)), value((2,), "int64"), value((2,), "int64")],
            {"axes": (0, 2)},
            [((2, 5), "float32")],
        ),
        ("index", [value((4, 5)), value((4,), "bool")], {"axes": (0,)}, [(None, "float32")]),
        ("gather_nd", [value((2, 3, 4)), value((2, 1), "int64")], {"batch_dims": 1}, [((2, 4), "float32")]),
        ("nonzero", [value((4, 5))], {}, [(None, "int64")]),
        ("quantize", [value((4,)), value(()), None], {"axis": None, "dtype": "int8"}, [((4,), "int8")]),
        ("dequantize", [value((4,), "int8"), value(()), None], {"axis": None}, [((4,), "float32")]),
        ("einsum", [value((2, 3, 4)), value((4, 5))], {"equation": "...i,ij->...j"}, [((2, 3, 5), "float32")]),
        ("slice", [value(None)], {"axes": (0,), "starts": (0,), "ends": (1,), "steps": (1,)}, [(None, "float32")]),
        ("split", [value(None)], {"sizes": (1, 2), "axis": 0}, [(None, "float32"), (None, "float32")]),
        ("max_dim", [value(None)], {"axis": 0, "keepdim": True}, [(None, "float32"), (None, "int64")]),
        (
            "fold",
            [value((1, 8, 9))],
            {"output_size": (4, 4), "kernel": (2, 2), "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)},
            [((1, 2, 4, 4), "float32")],
        ),
        (
            "grid_sample",
            [value((1, 2, 4, 4)), value((1, 5, 6, 2))],
            {"mode": "bilinear", "padding_mode": "zeros", "align_corners": False},
            [((1, 2, 5, 6), "float32")],
        ),
        (
            "max_unpool2d",
            [value((1, 2, 2)), value((1, 2, 2), "int64")],
            {"output_size": (4, 4)},
            [((1, 4, 4), "float32")],
        ),
        (
            "roi_align",
            [value((1, 8, 9, 9)), value((3, 4)), value((3,), "int64")],
            {"output_size": (7, 7), "scale": 1.0, "sampling_ratio": 2, "mode": "avg", "aligned": True},
            [((3, 8, 7, 7), "float32")],
        ),
    ],
)
def test_result(kind: str, inputs: list[Any], attrs: dict[str, Any], want: list[Any]) -> None:
    assert infer(kind, inputs, attrs) == want


CONV: dict[str, Any] = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
BOX: dict[str, Any] = {"axes": (0,), "steps": (1,)}


@pytest.mark.parametrize(
    ("kind", "inputs", "attrs", "text"),
    [
        ("relu", [], {}, "relu: takes x; 0 given"),
        ("relu", [None], {}, "operand x is missing"),
        ("add", [value((2,))], {}, "add: takes x y; 1 given"),
        ("add", [value((2,)), value((3,))], {}, r"\(2,\) and \(3,\) do not broadcast"),
        ("clamp", [value((2,))], {"min": 0.0}, "attributes are max, min; check max"),
        ("clamp", [value((2,))], {"min": 0.0, "max": 1.0, "mix": 1}, "check mix"),
        ("conv2d", [value((1, 3, 8, 8)), value((4, 2, 3, 3)), None], CONV, "does not fit weight"),
        ("conv2d", [value((1, 3, 2, 8)), value((4, 3, 3, 3)), None], CONV, "larger than the padded input"),
        ("conv2d", [value((1, 3, 8, 8)), value((4, 3, 3, 3)), value((3,))], CONV, "bias"),
        ("linear", [value((2, 3)), value((4, 5)), None], {}, "does not fit weight"),
        ("matmul", [value((2, 3)), value((4, 5))], {}, "do not multiply"),
        ("reshape", [value((2, 3))], {"shape": (4,)}, "does not have the elements"),
        ("squeeze", [value((2, 3))], {"axes": (0,)}, "extent 1"),
        ("permute", [value((2, 3))], {"dims": (0, 0)}, "do not reorder"),
        ("expand", [value((2, 3))], {"shape": (3, 3)}, "broadcast"),
        ("slice", [value((4,))], {**BOX, "starts": (0,), "ends": (5,)}, "not clamped"),
        ("slice", [value((4,))], {**BOX, "starts": (-1,), "ends": (2,)}, "not clamped"),
        (
            "slice_assign",
            [value((4,)), value((3,))],
            {**BOX, "starts": (0,), "ends": (2,)},
            "does not broadcast to the box|do not",
        ),
        ("cat", [value((2, 3)), value((3, 3))], {"axis": 1}, "differ outside axis 1"),
        ("cat", [value((2, 3))], {"axis": 2}, "not one of the 2 axes"),
        ("stack", [value((2,)), value((3,))], {"axis": 0}, "shapes differ"),
        ("split", [value((4,))], {"sizes": (1, 2), "axis": 0}, "do not add up"),
        ("select", [value((4,))], {"axis": 0, "index": 4}, "outside axis 0"),
        ("chunk", [value(None)], {"chunks": 2, "axis": 0}, "needs a known shape"),
        ("pixel_shuffle", [value((1, 6, 2, 2))], {"factor": 2, "mode": "CRD"}, "multiple of 4"),
        ("sum", [value((2,))], {"axes": (1,), "keepdim": False}, "axis 1"),
        ("sum", [value((2,))], {"axes": (0, 0), "keepdim": False}, "twice"),
        ("loop", [value((2,))], {}, "cannot be inferred"),
        ("dynamic_slice", [value((2,))], {}, "cannot be inferred"),
        ("aten.foo.default", [value((2,))], {}, "cannot be inferred"),
    ],
)
def test_operands_that_do_not_fit(kind: str, inputs: list[Any], attrs: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        infer(kind, inputs, attrs)
    assert str(caught.value).startswith(f"{kind}: ")


def test_every_static_kind_is_known() -> None:
    unknown = set()
    for kind in KINDS:
        try:
            infer(kind, [value((2, 2))] * 9, {})
        except ValueError as error:
            if "cannot be inferred" in str(error):
                unknown.add(kind)
    assert unknown == {"if", "loop", "scan"}
