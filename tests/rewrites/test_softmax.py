# SPDX-License-Identifier: Apache-2.0
"""softmax, log_softmax and logsumexp."""

from typing import Any

import numpy as np
import pytest
from harness import check, noise, refuse
from hypothesis import given
from hypothesis import strategies as st


@st.composite
def tensors(draw: Any) -> tuple[np.ndarray, int]:
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    scale = draw(st.sampled_from([0.1, 1.0, 30.0, 1e4]))
    return noise(*shape, seed=draw(st.integers(0, 99)), scale=scale), draw(st.integers(0, len(shape) - 1))


@given(tensors())
def test_softmax(case: tuple[np.ndarray, int]) -> None:
    x, axis = case
    check("softmax_to_exp", "softmax", [x], axis=axis)
    check("log_softmax_to_log", "log_softmax", [x], axis=axis)
    if axis != x.ndim - 1:
        check("softmax_to_last_axis", "softmax", [x], axis=axis)


def test_softmax_of_infinities() -> None:
    rows = np.array([[0, np.inf, 1], [-np.inf, -np.inf, -np.inf], [-np.inf, 0, 1], [np.nan, 0, 1]], np.float32)
    check("softmax_to_exp", "softmax", [rows], axis=1)
    check("log_softmax_to_log", "log_softmax", [rows], axis=1)


def test_log_softmax_to_softmax() -> None:
    check("log_softmax_to_softmax", "log_softmax", [noise(4, 9, scale=5)], axis=1)


def test_log_softmax_last_axis() -> None:
    check("softmax_to_last_axis", "log_softmax", [noise(2, 3, 4)[..., :1]], axis=1)


def test_softmax_to_last_axis_refuses() -> None:
    refuse("softmax_to_last_axis", "softmax", [noise(2, 3)], "last already", axis=1)


@pytest.mark.parametrize("keepdim", [True, False])
@pytest.mark.parametrize("axes", [(1,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_logsumexp(keepdim: bool, axes: tuple[int, ...], scale: float) -> None:
    check("logsumexp_to_log", "logsumexp", [noise(3, 4, 5, scale=scale)], axes=axes, keepdim=keepdim)


def test_of_nothing_there_is_no_largest() -> None:
    empty = noise(0, 3)
    refuse("softmax_to_exp", "softmax", [empty], "there are no elements", axis=0)
    refuse("log_softmax_to_log", "log_softmax", [empty], "there are no elements", axis=1)
    refuse("logsumexp_to_log", "logsumexp", [empty], "there are no elements", axes=(0,), keepdim=True)
