# SPDX-License-Identifier: Apache-2.0
"""AdaRound against exhaustive search, and the moments against the layer itself."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from porter.ops import Op, Value
from porter.quantize.adaround import Moments, optimize, patches, supported
from porter.quantize.kernels import conv2d_float
from porter.quantize.layers import Weighted


def conv(weight: Any, size: int, stride: tuple[int, int] = (1, 1), dilation: tuple[int, int] = (1, 1), groups: int = 1,
         padding: Any = ((0, 0), (0, 0))) -> tuple[Weighted, dict[str, Any]]:  # fmt: skip
    attrs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    channels = weight.shape[1] * groups
    x = Value("x", (2, channels, size, size), "float32")
    y = Value("y", (2, len(weight), size, size), "float32")
    return Weighted("c", (Op("conv2d", (x, Value.constant("w", weight), None), (y,), attrs, "c"),)), attrs


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("stride", "dilation"), [((1, 1), (1, 1)), ((2, 1), (1, 2))])
def test_patches_times_weight_is_the_convolution(groups: int, stride: Any, dilation: Any) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 4 // groups, 3, 2)).astype(np.float32)
    layer, attrs = conv(weight, 9, stride, dilation, groups, ((1, 0), (2, 1)))
    x = rng.normal(size=(2, 4, 9, 9)).astype(np.float32)
    wanted = conv2d_float(x, weight, None, **attrs)
    columns = patches(layer, x)
    got = np.einsum("gpk,gok->pgo", columns, weight.reshape(groups, 8 // groups, -1)).reshape(2, *wanted.shape[2:], 8)
    np.testing.assert_allclose(np.moveaxis(got, -1, 1), wanted, atol=1e-5)


def linear(weight: Any) -> Weighted:
    x, y = Value("x", (16, weight.shape[1]), "float32"), Value("y", (16, weight.shape[0]), "float32")
    return Weighted("fc", (Op("linear", (x, Value.constant("w", weight), None), (y,), {}, "fc"),))


def test_error_of_the_moments_is_the_squared_error() -> None:
    rng = np.random.default_rng(1)
    weight, other = rng.normal(size=(2, 3, 5)).astype(np.float32)
    x = rng.normal(size=(16, 5)).astype(np.float32)
    moments = Moments(linear(weight))
    moments.add(x, x @ weight.T)
    np.testing.assert_allclose(moments.error(other[None].astype(np.float64)),
                               np.square(x @ (other - weight).T).sum(), rtol=1e-5)  # fmt: skip


def test_close_to_the_best_of_all_roundings() -> None:
    possible = reached = 0.0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        weight = rng.normal(size=(1, 8)).astype(np.float32)
        x = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 8)) + 0.1 * rng.normal(size=(200, 8))  # correlated
        moments = Moments(linear(weight))
        moments.add(x.astype(np.float32), x.astype(np.float32) @ weight.T)
        step = np.float64(np.abs(weight).max() / 7)
        nearest, below = np.rint(weight / step), np.floor(weight / step)
        fixed = np.abs(nearest) == 7
        found = optimize(weight, step, (-8, 7), nearest, moments, prior=0)

        def error(q: Any, moments: Moments = moments, step: Any = step) -> float:
            return moments.error((q * step)[None].astype(np.float64))

        every = [error(np.where(fixed, nearest, below + np.array(up))) for up in product((0, 1), repeat=8)]
        assert error(found.integers) <= error(nearest)
        assert np.all((found.integers == below) | (found.integers == below + 1) | fixed)
        np.testing.assert_array_equal(found.integers[fixed], nearest[fixed])
        np.testing.assert_allclose(found.gain, 1 - error(found.integers) / error(nearest))
        for k in np.flatnonzero(~fixed[0]):  # no single weight is better the other way
            other = found.integers.copy()
            other[0, k] = 2 * below[0, k] + 1 - other[0, k]
            assert error(other) >= error(found.integers)
        possible += 1 - min(every) / error(nearest)
        reached += found.gain
    assert reached >= 0.7 * possible


def test_the_prior_holds_on_to_the_real_weights() -> None:
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(4, 12)).astype(np.float32)
    x = (rng.normal(size=(64, 2)) @ rng.normal(size=(2, 12))).astype(np.float32)
    moments = Moments(linear(weight))
    moments.add(x, x @ weight.T)
    step = np.float64(np.abs(weight).max() / 7)
    nearest = np.rint(weight / step)
    flipped = [optimize(weight, step, (-8, 7), nearest, moments, prior=p).flipped for p in (0.0, 1.0, 1000.0)]
    assert flipped[0] > flipped[1] >= flipped[2] == 0


def test_uncorrelated_inputs_leave_nothing_to_gain() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 6)).astype(np.float32)
    moments = Moments(linear(weight))
    x = np.eye(6, dtype=np.float32)
    moments.add(np.repeat(x, 4, 0), np.repeat(x, 4, 0) @ weight.T)
    step = np.float64(np.abs(weight).max() / 7)
    nearest = np.rint(weight / step)
    found = optimize(weight, step, (-8, 7), nearest, moments)
    np.testing.assert_array_equal(found.integers, nearest)
    assert found.gain == 0 and found.flipped == 0


def test_what_is_not_supported() -> None:
    big = linear(np.zeros((1, 5000), np.float32))
    twice = linear(np.zeros((2, 2), np.float32))
    assert not supported(big)
    assert supported(twice) and not supported(Weighted("fc", (twice.op, twice.op)))
