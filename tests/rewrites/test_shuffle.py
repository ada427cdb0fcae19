# SPDX-License-Identifier: Apache-2.0
"""Pixel and channel shuffles."""

import pytest
from harness import check, noise, refuse, with_specials
from hypothesis import given
from hypothesis import strategies as st

SIZES = st.tuples(*[st.integers(1, 3)] * 4, st.integers(1, 3))


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
@given(SIZES)
def test_pixels(mode: str, sizes: tuple[int, int, int, int, int]) -> None:
    n, c, h, w, r = sizes
    deep, wide = noise(n, c * r * r, h, w), noise(n, c, h * r, w * r)
    check("pixel_shuffle_to_permute", "pixel_shuffle", [with_specials(deep)], factor=r, mode=mode)
    check("pixel_unshuffle_to_permute", "pixel_unshuffle", [with_specials(wide)], factor=r, mode=mode)
    check("pixel_shuffle_to_conv_transpose", "pixel_shuffle", [deep], factor=r, mode=mode)
    check("pixel_unshuffle_to_conv", "pixel_unshuffle", [wide], factor=r, mode=mode)


@pytest.mark.parametrize(
    ("rule", "kind"),
    [("pixel_shuffle_to_conv_transpose", "pixel_shuffle"), ("pixel_unshuffle_to_conv", "pixel_unshuffle")],
)
def test_pixels_by_convolution_refuse(rule: str, kind: str) -> None:
    refuse(rule, kind, [noise(4, 2, 2)], "not .N, C, H, W.", factor=2, mode="CRD")
    refuse(rule, kind, [noise(1, 4, 2, 2, dtype="int64")], "floating", factor=2, mode="CRD")


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_channels(n: int, groups: int, each: int) -> None:
    check("channel_shuffle_to_permute", "channel_shuffle", [noise(n, groups * each, 2, 3)], groups=groups)
