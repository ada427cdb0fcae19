# SPDX-License-Identifier: Apache-2.0
"""Strides that are products."""

from typing import Any

import numpy as np
import pytest
from harness import Const, check, noise, refuse
from hypothesis import given, settings
from hypothesis import strategies as st

RULE = "conv_stride_to_pools"


def attributes(stride: tuple[int, int], **others: Any) -> dict[str, Any]:
    return {"stride": stride, "padding": ((1, 1), (0, 2)), "dilation": (1, 1), "groups": 1, **others}


@settings(max_examples=40)
@given(st.tuples(st.sampled_from([1, 2, 4, 6, 8]), st.sampled_from([4, 6, 9])), st.tuples(*[st.integers(9, 20)] * 2))
def test_products(stride: tuple[int, int], size: tuple[int, int]) -> None:
    x, w, bias = noise(1, 3, *size), noise(4, 3, 3, 2, seed=1), noise(4, seed=2)
    scale = np.abs(x).max() * np.abs(w).sum((1, 2, 3)).max() + np.abs(bias).max()
    operands = [x, Const(w, "float32"), Const(bias, "float32")]
    conv, *pools = check(RULE, "conv2d", operands, of=scale, **attributes(stride)).ops
    assert conv.kind == "conv2d" and {op.kind for op in pools} == {"max_pool2d"}
    for axis in range(2):
        assert conv.attrs["stride"][axis] * np.prod([op.attrs["stride"][axis] for op in pools]) == stride[axis]


def test_by_hand() -> None:
    x, w = noise(1, 4, 17, 17), noise(4, 1, 3, 3, seed=1)
    operands = [x, Const(w, "float32"), None]
    ops = check(RULE, "conv2d", operands, of=np.abs(x).max() * 9, **attributes((12, 8), groups=4)).ops
    assert [op.attrs["stride"] for op in ops] == [(3, 2), (2, 2), (2, 2)]


@pytest.mark.parametrize("stride", [(1, 1), (2, 3), (5, 1)])
def test_prime_strides_stay(stride: tuple[int, int]) -> None:
    x, w = noise(1, 3, 12, 12), noise(4, 3, 3, 2, seed=1)
    refuse(RULE, "conv2d", [x, Const(w, "float32"), None], "is a product", **attributes(stride))
