# SPDX-License-Identifier: Apache-2.0
"""Normalizations."""

from typing import Any

import numpy as np
import pytest
from harness import Const, apply, build, check, noise, refuse
from hypothesis import given
from hypothesis import strategies as st
from reference import run, run_op


def _affine(n: int, seed: int) -> list[Any]:
    return [noise(n, seed=seed) * 0.5, noise(n, seed=seed + 1)]


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5), (1, 3, 2, 2, 2)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm(shape: tuple[int, ...], affine: bool) -> None:
    x = noise(*shape, scale=3)
    weight, bias = _affine(3, 1) if affine else (None, None)
    mean, var = noise(3, seed=5), np.abs(noise(3, seed=6)) + 0.1
    inputs = [x, *(None if p is None else Const(p) for p in (weight, bias)), Const(mean), Const(var)]
    axis = (1, 3, *(1,) * (len(shape) - 2))
    factor = np.abs((1 if weight is None else weight) / np.sqrt(var + 1e-5)).reshape(axis)
    scale = (
        np.abs(x) * factor + np.abs(mean).reshape(axis) * factor + (0 if bias is None else np.abs(bias).reshape(axis))
    )
    check("batch_norm_to_mul_add", "batch_norm", inputs, of=scale, eps=1e-5)
    if len(shape) == 4:
        check("batch_norm_to_conv", "batch_norm", inputs, of=scale, eps=1e-5)
        refuse("batch_norm_to_rank4", "batch_norm", inputs, "four axes already", eps=1e-5)
    else:
        op, feeds = build("batch_norm", inputs, {"eps": 1e-5})
        made = apply("batch_norm_to_rank4", op)
        assert [op.kind for op in made.ops] == ["reshape", "batch_norm", "reshape"]
        assert len(made.ops[1].outputs[0].shape or ()) == 4
        (want,) = run_op(op, [feeds[v.name] if v and v.name in feeds else v and v.numpy() for v in op.inputs])
        np.testing.assert_array_equal(run(made, feeds)[0], want)  # the same op: whatever its rounding
        refuse("batch_norm_to_conv", "batch_norm", inputs, "not .N, C, H, W.", eps=1e-5)


@pytest.mark.parametrize("rule", ["batch_norm_to_mul_add", "batch_norm_to_conv"])
def test_batch_norm_refuses(rule: str) -> None:
    run_time = [noise(1, 3, 2, 2), None, None, noise(3), Const(np.ones(3, np.float32))]
    refuse(rule, "batch_norm", run_time, "mean is computed", eps=1e-5)


@given(st.sampled_from([(3,), (2, 3), (1, 2, 3)]), st.booleans(), st.integers(0, 99))
def test_layer_and_rms_norm(axes: tuple[int, ...], affine: bool, seed: int) -> None:
    x = noise(2, 3, 4, 5, seed=seed)
    tail = [x.shape[a] for a in axes]
    weight, bias = (noise(*tail, seed=seed + 1), noise(*tail, seed=seed + 2)) if affine else (None, None)
    check("layer_norm_to_mean", "layer_norm", [x, weight, bias], axes=axes, eps=1e-5)
    check("rms_norm_to_mean", "rms_norm", [x, weight], axes=axes, eps=1e-6)


@given(st.sampled_from([1, 2, 3, 6]), st.booleans(), st.integers(0, 99), st.sampled_from([(5,), (3, 4), (2, 2, 3)]))
def test_group_norm(groups: int, affine: bool, seed: int, spatial: tuple[int, ...]) -> None:
    x = noise(2, 6, *spatial, seed=seed)
    params: list[Any] = [Const(p) for p in _affine(6, seed)] if affine else [None, None]
    check("group_norm_to_mean", "group_norm", [x, *params], groups=groups, eps=1e-5)
    check("group_norm_to_instance_norm", "group_norm", [x, *params], groups=groups, eps=1e-5)
    check("group_norm_to_mean", "instance_norm", [x, *params], eps=1e-5)
    check("instance_norm_to_group_norm", "instance_norm", [x, *params], eps=1e-5)


def test_group_norm_refuses() -> None:
    rule = "group_norm_to_instance_norm"
    refuse(rule, "group_norm", [noise(2, 6), None, None], "no spatial axis", groups=2, eps=1e-5)


@given(st.integers(1, 6), st.integers(1, 7))
def test_local_response_norm(size: int, channels: int) -> None:
    x = noise(2, channels, 3, 4)
    check("local_response_norm_to_sum", "local_response_norm", [x], size=size, alpha=1e-2, beta=0.75, k=1.0)


def test_local_response_norm_refuses() -> None:
    attrs: dict[str, Any] = {"alpha": 1e-4, "beta": 0.75, "k": 1.0}
    refuse("local_response_norm_to_sum", "local_response_norm", [noise(1, 2, 2, 2)], "above 16", size=17, **attrs)


@pytest.mark.parametrize("large", [1.0, 3000.0])
def test_half_precision(large: float) -> None:
    """Squares of float16 end at 255, and an eps of 1e-12 is 0 there: neither may show. (In torch they do at times.)"""
    x = noise(2, 4, 3, 5, dtype="float16", scale=large)
    x[0, 0] = 0  # a row without variance
    flat = x.reshape(2, 4, 15)
    wide = flat.astype(np.float32)
    centred = wide - wide.mean(2, keepdims=True)
    normed = (centred / np.sqrt((centred * centred).mean(2, keepdims=True) + 1e-12)).astype(np.float16)
    check("layer_norm_to_mean", "layer_norm", [flat, None, None], want=[normed], axes=(2,), eps=1e-12)
    check("group_norm_to_mean", "instance_norm", [x, None, None], want=[normed.reshape(x.shape)], eps=1e-12)
    squared = (wide / np.sqrt((wide * wide).mean(2, keepdims=True) + 1e-12)).astype(np.float16)
    check("rms_norm_to_mean", "rms_norm", [flat, None], want=[squared], axes=(2,), eps=1e-12)
