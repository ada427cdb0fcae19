# SPDX-License-Identifier: Apache-2.0
"""Convolutions with attributes that a device lacks."""

from typing import Any

import numpy as np
import oracle
import pytest
from harness import Const, check, noise, refuse
from hypothesis import given
from hypothesis import strategies as st


@st.composite
def convolutions(draw: Any, n: int, transposed: bool = False) -> tuple[str, list[Any], dict[str, Any]]:
    groups = draw(st.integers(1, 3))
    cin, cout = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 3)) for _ in range(n)]
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(n))
    size = [draw(st.integers(5, 7)) for _ in range(n)]
    pads = [(draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(n)]
    weight = (cin, cout // groups) if transposed else (cout, cin // groups)
    attrs: dict[str, Any] = {
        "stride": tuple(draw(st.integers(1, 2)) for _ in range(n)),
        "padding": tuple((p, p) for p, _ in pads) if transposed else tuple(pads),
        "dilation": dilation,
        "groups": groups,
    }
    if transposed:
        attrs["output_padding"] = (0,) * n
        attrs["padding"] = ((0, 0),) * n
    seed = draw(st.integers(0, 99))
    inputs = [
        noise(2, cin, *size, seed=seed),
        Const(noise(*weight, *kernel, seed=seed + 1)),
        Const(noise(cout, seed=seed + 2)) if draw(st.booleans()) else None,
    ]
    return f"conv{'_transpose' if transposed else ''}{n}d", inputs, attrs


def _magnitude(kind: str, inputs: list[Any], attrs: dict[str, Any]) -> Any:
    arrays = [x.data if isinstance(x, Const) else x for x in inputs]
    return oracle.compute(kind, [None if x is None else np.abs(x) for x in arrays], attrs)[0]


def _check(rule: str, kind: str, inputs: list[Any], attrs: dict[str, Any]) -> Any:
    return check(rule, kind, inputs, of=_magnitude(kind, inputs, attrs), **attrs)


@given(st.integers(1, 3).flatmap(convolutions))
def test_padding(case: tuple[str, list[Any], dict[str, Any]]) -> None:
    kind, inputs, attrs = case
    if any(p + q for p, q in attrs["padding"]):
        _check("conv_padding_to_pad", kind, inputs, attrs)
    else:
        refuse("conv_padding_to_pad", kind, inputs, "no padding", **attrs)
    if any(p != q for p, q in attrs["padding"]):
        fragment = _check("conv_asymmetric_padding_to_pad", kind, inputs, attrs)
        assert all(p == q for p, q in fragment.ops[-1].attrs["padding"])
    else:
        refuse("conv_asymmetric_padding_to_pad", kind, inputs, "symmetric", **attrs)


@given(st.integers(1, 3).flatmap(convolutions))
def test_dense(case: tuple[str, list[Any], dict[str, Any]]) -> None:
    kind, inputs, attrs = case
    if max(attrs["dilation"]) > 1:
        _check("conv_dilation_to_dense", kind, inputs, attrs)
    else:
        refuse("conv_dilation_to_dense", kind, inputs, "no dilation", **attrs)
    if attrs["groups"] > 1:
        _check("conv_groups_to_dense", kind, inputs, attrs)
        _check("conv_groups_to_convs", kind, inputs, attrs)
    else:
        refuse("conv_groups_to_dense", kind, inputs, "one group", **attrs)
        refuse("conv_groups_to_convs", kind, inputs, "one group", **attrs)


@given(st.integers(1, 2).flatmap(lambda n: convolutions(n, transposed=True)))
def test_transposed_groups(case: tuple[str, list[Any], dict[str, Any]]) -> None:
    kind, inputs, attrs = case
    if attrs["groups"] > 1:
        _check("conv_groups_to_convs", kind, inputs, attrs)


PLAIN: dict[str, Any] = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}


def test_weights_computed_at_run_time() -> None:
    x, w = noise(1, 4, 5, 5), noise(4, 2, 3, 3)
    refuse("conv_dilation_to_dense", "conv2d", [x, noise(4, 4, 3, 3), None], "run", **{**PLAIN, "dilation": (2, 2)})
    refuse("conv_groups_to_dense", "conv2d", [x, w, None], "weight is computed", **{**PLAIN, "groups": 2})
    _check("conv_groups_to_convs", "conv2d", [x, w, None], {**PLAIN, "groups": 2})
    many = [noise(1, 65, 3, 3), noise(65, 1, 3, 3), None]
    refuse("conv_groups_to_convs", "conv2d", many, "65 groups", **{**PLAIN, "groups": 65})


@given(convolutions(1), convolutions(1, transposed=True))
def test_one_axis(case: Any, transposed: Any) -> None:
    _check("conv1d_to_conv2d", *case)
    _check("conv1d_to_conv2d", *transposed)


@pytest.mark.parametrize("bias", [True, False])
def test_1x1(bias: bool) -> None:
    inputs = [noise(2, 3, 4, 5), noise(6, 3, 1, 1), noise(6) if bias else None]
    _check("conv_1x1_to_matmul", "conv2d", inputs, PLAIN)


@pytest.mark.parametrize(
    ("kernel", "change", "reason"),
    [
        ((3, 3), {}, "kernel is 3x3"),
        ((1, 1), {"stride": (2, 2)}, "stride"),
        ((1, 1), {"padding": ((1, 1), (0, 0))}, "padding"),
    ],
)
def test_1x1_refuses(kernel: tuple[int, int], change: dict[str, Any], reason: str) -> None:
    refuse(
        "conv_1x1_to_matmul", "conv2d", [noise(1, 3, 5, 5), noise(6, 3, *kernel), None], reason, **{**PLAIN, **change}
    )


TRANSPOSED = {**PLAIN, "output_padding": (0, 0)}


@pytest.mark.parametrize("r", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_transposed_without_overlap(r: int, bias: bool) -> None:
    inputs = [noise(2, 3, 4, 5), Const(noise(3, 2, r, r)), Const(noise(2)) if bias else None]
    _check("conv_transpose_to_pixel_shuffle", "conv_transpose2d", inputs, {**TRANSPOSED, "stride": (r, r)})


@pytest.mark.parametrize(
    ("weight", "change", "reason"),
    [
        (Const(noise(4, 2, 3, 3)), {"stride": (2, 2)}, "kernel and stride differ"),
        (Const(noise(4, 2, 2, 2)), {"stride": (2, 2), "groups": 2}, "2 groups"),
        (Const(noise(4, 2, 2, 2)), {"stride": (2, 2), "dilation": (2, 2)}, "dilation"),
        (Const(noise(4, 2, 2, 2)), {"stride": (2, 2), "output_padding": (1, 1)}, "padding"),
        (noise(4, 2, 2, 2), {"stride": (2, 2)}, "computed"),
    ],
)
def test_transposed_refuses(weight: Any, change: dict[str, Any], reason: str) -> None:
    inputs = [noise(1, 4, 4, 4), weight, None]
    refuse("conv_transpose_to_pixel_shuffle", "conv_transpose2d", inputs, reason, **{**TRANSPOSED, **change})


@given(st.integers(1, 3), st.integers(1, 2), st.integers(0, 1), st.integers(1, 2))
def test_unfold(kernel: int, stride: int, padding: int, dilation: int) -> None:
    attrs: Any = {"kernel": (kernel, 2), "stride": (stride, 1), "padding": (padding, 0), "dilation": (dilation, 1)}
    check("unfold_to_conv", "unfold", [noise(2, 3, 6, 5)], **attrs)


SOLID: dict[str, Any] = {"stride": (1, 1, 1), "padding": ((0, 0),) * 3, "dilation": (1, 1, 1), "groups": 1}


def test_flat_conv3d() -> None:
    flat = {**SOLID, "stride": (1, 2, 1), "padding": ((0, 0), (1, 1), (0, 1))}
    _check("conv3d_flat_to_conv2d", "conv3d", [noise(2, 3, 1, 5, 6), noise(4, 3, 1, 3, 3), noise(4)], flat)
    deep = {**SOLID, "stride": (2, 1, 1), "padding": ((1, 1), (0, 0), (0, 0))}
    _check("conv3d_flat_to_conv2d", "conv3d", [noise(2, 3, 5, 2, 3), noise(4, 3, 3, 1, 1), None], deep)
    refuse("conv3d_flat_to_conv2d", "conv3d", [noise(1, 2, 4, 4, 4), noise(2, 2, 3, 3, 3), None], "three-dim", **SOLID)
