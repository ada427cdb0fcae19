# SPDX-License-Identifier: Apache-2.0
"""Resampling."""

from typing import Any

import numpy as np
import pytest
from harness import check, noise, refuse, with_specials
from hypothesis import given
from hypothesis import strategies as st

NEAREST: dict[str, Any] = {
    "mode": "nearest", "coordinates": "asymmetric", "nearest_mode": "floor", "scales": None, "cubic_coeff": -0.75,
    "antialias": False,
}  # fmt: skip
EXACT = {**NEAREST, "coordinates": "half_pixel", "nearest_mode": "round_prefer_ceil"}
SIZE = st.tuples(st.integers(1, 5), st.integers(1, 5))


@given(SIZE, st.tuples(st.integers(1, 4), st.integers(1, 4)), st.sampled_from([NEAREST, EXACT]))
def test_whole_factors(size: tuple[int, int], factor: tuple[int, int], attrs: dict[str, Any]) -> None:
    attrs = {**attrs, "sizes": (size[0] * factor[0], size[1] * factor[1])}
    x = noise(2, 3, *size)
    fragment = check("resize_nearest_to_expand", "resize", [with_specials(x)], **attrs)
    assert all(out.rank == 4 for op in fragment.ops for out in op.outputs)
    check("resize_nearest_to_conv_transpose", "resize", [x], **attrs)
    check("resize_nearest_to_take", "resize", [with_specials(x)], **attrs)


def test_one_and_three_axes() -> None:
    check("resize_nearest_to_expand", "resize", [noise(1, 2, 3)], **NEAREST, sizes=(6,))
    check("resize_nearest_to_expand", "resize", [noise(1, 2, 3, 2, 2)], **NEAREST, sizes=(6, 4, 2))


@given(SIZE, SIZE)
def test_any_size(size: tuple[int, int], out: tuple[int, int]) -> None:
    check("resize_nearest_to_take", "resize", [noise(1, 2, *size)], **NEAREST, sizes=out)


def test_nearest_refuses() -> None:
    x = noise(1, 2, 4, 4)
    for rule in ("resize_nearest_to_expand", "resize_nearest_to_conv_transpose"):
        refuse(rule, "resize", [x], "not a whole factor", **NEAREST, sizes=(6, 8))
        ceil = {**NEAREST, "nearest_mode": "ceil"}
        refuse(rule, "resize", [x], "shifts the copies", **ceil, sizes=(8, 8))
        refuse(rule, "resize", [x], "mode is linear", **{**NEAREST, "mode": "linear"}, sizes=(8, 8))
    refuse("resize_nearest_to_conv_transpose", "resize", [noise(1, 2, 3)], "not .N, C, H, W.", **NEAREST, sizes=(6,))
    refuse("resize_nearest_to_take", "resize", [x], "mode is cubic", **{**NEAREST, "mode": "cubic"}, sizes=(8, 8))
    odd = {**NEAREST, "coordinates": "tf_crop_and_resize"}
    refuse("resize_nearest_to_take", "resize", [x], "coordinates are", **odd, sizes=(8, 8))


@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners"])
@given(SIZE, SIZE)
def test_linear(coordinates: str, size: tuple[int, int], out: tuple[int, int]) -> None:
    x = noise(2, 3, *size)
    attrs = {**NEAREST, "mode": "linear", "coordinates": coordinates}
    check("resize_linear_to_matmul", "resize", [x], of=np.abs(x).max(), **attrs, sizes=out)
    check("resize_linear_to_matmul", "resize", [x[0]], of=np.abs(x).max(), **attrs, sizes=out[1:])


def test_linear_refuses() -> None:
    linear = {**NEAREST, "mode": "linear", "coordinates": "half_pixel"}
    refuse("resize_linear_to_matmul", "resize", [noise(1, 2, 4, 4)], "mode is nearest", **NEAREST, sizes=(8, 8))
    anti = {**linear, "antialias": True}
    refuse("resize_linear_to_matmul", "resize", [noise(1, 2, 4, 4)], "antialias", **anti, sizes=(2, 2))
    refuse("resize_linear_to_matmul", "resize", [noise(1, 2, 2, 2, 2)], "3 spatial axes", **linear, sizes=(4, 4, 4))
