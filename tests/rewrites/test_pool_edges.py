# SPDX-License-Identifier: Apache-2.0
"""Pools over the edge: windows that ceil_mode adds, dilated windows on padding."""

from typing import Any

import numpy as np
from harness import check, noise, refuse, with_specials
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pool import _beyond, pools


@settings(max_examples=100)
@given(st.integers(1, 3).flatmap(lambda n: pools(n, average=True, largest=4)))
def test_average(case: tuple[str, Any, dict[str, Any]]) -> None:
    kind, x, attrs = case
    if not attrs["ceil_mode"]:
        refuse("avg_pool_ceil_to_padded", kind, [x], "not set", **attrs)
    elif not _beyond(x, attrs):
        refuse("avg_pool_ceil_to_padded", kind, [x], "adds no window", **attrs)
    else:
        scale = np.abs(x).max() * np.prod(attrs["kernel"])
        fragment = check("avg_pool_ceil_to_padded", kind, [x], of=scale, **attrs)
        assert [op.kind for op in fragment.ops if op.kind != "pad"] == [kind, "mul"]
        assert not any(op.attrs["ceil_mode"] for op in fragment.ops if op.kind == kind)


def test_average_by_hand() -> None:
    attrs: dict[str, Any] = {
        "kernel": (2,), "stride": (2,), "padding": ((0, 0),), "ceil_mode": True, "count_include_pad": True,
        "divisor_override": None,
    }  # fmt: skip
    x = np.array([[[1, 2, 3, 4, 10]]], np.float32)
    check("avg_pool_ceil_to_padded", "avg_pool1d", [x], of=10, want=[np.array([[[1.5, 3.5, 10]]], np.float32)], **attrs)


@st.composite
def dilated(draw: Any, n: int) -> tuple[str, Any, dict[str, Any]]:
    kernel = tuple(draw(st.integers(2, 4)) for _ in range(n))
    attrs: dict[str, Any] = {
        "kernel": kernel,
        "stride": tuple(draw(st.integers(1, 3)) for _ in range(n)),
        "padding": tuple((p, p) for p in (draw(st.integers(0, k // 2)) for k in kernel)),
        "dilation": tuple(draw(st.integers(1, 2)) for _ in range(n)),
        "ceil_mode": draw(st.booleans()),
    }
    x = noise(1, 2, *(draw(st.integers(7, 9)) for _ in range(n)), seed=draw(st.integers(0, 99)))
    return f"max_pool{n}d", with_specials(x), attrs


@settings(max_examples=100)
@given(st.integers(1, 3).flatmap(dilated))
def test_maximum(case: tuple[str, Any, dict[str, Any]]) -> None:
    kind, x, attrs = case
    if not any(p for pair in attrs["padding"] for p in pair):
        refuse("max_pool_padding_to_taps", kind, [x], "no padding", **attrs)
    elif max(attrs["dilation"]) == 1:
        refuse("max_pool_padding_to_taps", kind, [x], "no dilation", **attrs)
    else:
        check("max_pool_padding_to_taps", kind, [x], **attrs)


def test_maximum_refuses() -> None:
    attrs: dict[str, Any] = {"stride": (1,), "dilation": (2,), "ceil_mode": False}
    wide = {**attrs, "kernel": (17,), "padding": ((1, 1),)}
    refuse("max_pool_padding_to_taps", "max_pool1d", [noise(1, 1, 40)], "above 16", **wide)
    # Windows of two taps three apart, on one element with one of padding: no tap is on it.
    none = {**attrs, "kernel": (2,), "dilation": (2,), "padding": ((1, 1),)}
    refuse("max_pool_padding_to_taps", "max_pool1d", [noise(1, 1, 1)], "no element", **none)
