# SPDX-License-Identifier: Apache-2.0
"""Large and global pools in stages."""

from typing import Any

import numpy as np
import pytest
import torch
from harness import check, noise, refuse, with_specials
from hypothesis import given
from hypothesis import strategies as st

import porter

AVG: dict[str, Any] = {"ceil_mode": False, "count_include_pad": True, "divisor_override": None}


def _attrs(kernel: tuple[int, ...], stride: tuple[int, ...] | None = None) -> dict[str, Any]:
    return {"kernel": kernel, "stride": stride or kernel, "padding": ((0, 0),) * len(kernel)}


@st.composite
def tiled(draw: Any) -> tuple[Any, tuple[int, ...]]:
    """Windows side by side, one of them above 7, some elements left over."""
    n = draw(st.integers(1, 3))
    kernel = [draw(st.sampled_from([1, 2, 5])) for _ in range(n)]
    kernel[draw(st.integers(0, n - 1))] = draw(st.sampled_from([8, 9, 12, 14]))
    size = [k * draw(st.integers(1, 2)) + draw(st.integers(0, k - 1)) for k in kernel]
    return noise(2, 3, *size, seed=draw(st.integers(0, 99))), tuple(kernel)


@given(tiled())
def test_tiles(case: tuple[Any, tuple[int, ...]]) -> None:
    x, kernel = case
    n = len(kernel)
    mean = check("avg_pool_to_stages", f"avg_pool{n}d", [x], of=np.abs(x).max(), **_attrs(kernel), **AVG)
    top = {**_attrs(kernel), "dilation": (1,) * n, "ceil_mode": False}
    most = check("max_pool_to_stages", f"max_pool{n}d", [with_specials(x)], **top)
    for fragment in (mean, most):
        assert all(max(op.attrs["kernel"]) <= 7 for op in fragment.ops)


@given(st.integers(1, 40), st.integers(8, 40))
def test_global(h: int, w: int) -> None:
    """Primes above 7 too."""
    x = noise(1, 2, h, w)
    largest = np.abs(x).max()
    fragment = check("avg_pool_to_stages", "adaptive_avg_pool2d", [x], of=largest, output_size=(1, 1))
    assert all(max(op.attrs["kernel"]) <= 7 for op in fragment.ops if op.kind == "avg_pool2d")
    check("max_pool_to_stages", "adaptive_max_pool2d", [with_specials(x)], output_size=(1, 1))


def test_by_hand() -> None:
    """26 x 20: two rows of zeros make 28 = 7 * 4, and 28 / 26 takes them out again."""
    x = np.ones((1, 1, 26, 20), np.float32)
    fragment = check("avg_pool_to_stages", "adaptive_avg_pool2d", [x], of=1.0, output_size=(1, 1))
    assert [op.attrs.get("kernel") for op in fragment.ops] == [None, (7, 5), (4, 4), None]
    assert fragment.ops[0].attrs["padding"] == ((0, 0), (0, 0), (0, 2), (0, 0))


def test_adaptive_of_volumes() -> None:
    x = noise(1, 2, 16, 2, 2)
    check("avg_pool_to_stages", "adaptive_avg_pool3d", [x], of=np.abs(x).max(), output_size=(2, 1, 2))


def test_refuses() -> None:
    rule, x = "avg_pool_to_stages", noise(1, 1, 32, 32)
    refuse(rule, "avg_pool2d", [x], r"no window of \(7, 7\) is above 7", **_attrs((7, 7)), **AVG)
    refuse(rule, "avg_pool2d", [x], "window 8 and the stride 4 differ", **_attrs((8, 8), (4, 4)), **AVG)
    refuse(rule, "avg_pool2d", [x], "prime factor above 7", **_attrs((11, 11)), **AVG)
    padded = {**_attrs((8, 8)), "padding": ((1, 0), (0, 0))}
    refuse(rule, "avg_pool2d", [x], "there is padding", **padded, **AVG)
    refuse(rule, "avg_pool2d", [x], "divisor", **_attrs((8, 8)), **{**AVG, "divisor_override": 3})
    refuse(rule, "avg_pool2d", [x], "ceil_mode adds", **_attrs((9, 9)), **{**AVG, "ceil_mode": True})
    refuse(rule, "adaptive_avg_pool2d", [x], "does not divide", output_size=(5, 1))
    refuse(rule, "adaptive_avg_pool2d", [noise(1, 1, 8, 8, dtype="int32")], "not floating", output_size=(1, 1))
    dilated = {**_attrs((8, 8)), "dilation": (2, 1), "ceil_mode": False}
    refuse("max_pool_to_stages", "max_pool2d", [x], "dilation is", **dilated)


@pytest.mark.parametrize(
    ("layer", "rule"),
    [(torch.nn.AvgPool2d(28), "avg_pool_to_stages"), (torch.nn.MaxPool2d(80), "max_pool_to_stages")],
)
def test_torch_model(layer: torch.nn.Module, rule: str) -> None:
    """For a device whose average windows are at most 7, and its maximum windows at most 64."""
    made = porter.rewrite(layer, "x3", {"x": (1, 3, 80, 160)})
    assert made.ok and [entry.rules for entry in made.ledger.entries] == [(rule,)]
    assert made.evidence is not None and made.evidence.ok
