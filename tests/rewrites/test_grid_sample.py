# SPDX-License-Identifier: Apache-2.0
"""Sampling at a grid."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from harness import Const, check, noise, refuse
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import porter

MODES = ("bilinear", "nearest", "bicubic")
PADDING = ("zeros", "border", "reflection")
CONSTANT = ("grid_sample_constant_to_take", "grid_sample_constant_to_matmul")


def _far_from_halves(grid: Any, size: tuple[int, ...], align: bool) -> Any:
    """The grid, with coordinates near the middle of two elements moved away from it."""
    n = np.asarray(size[::-1])
    at = (grid + 1) * (n - 1) / 2 if align else ((grid + 1) * n - 1) / 2
    near = np.abs(np.mod(at, 1) - 0.5) < 0.02
    return np.where(near, grid + 0.1 / n, grid).astype(np.float32)


@st.composite
def samplings(draw: Any, axes: int, modes: tuple[str, ...]) -> tuple[Any, Any, dict[str, Any]]:
    size = tuple(draw(st.integers(1, 5)) for _ in range(axes))
    out = [draw(st.integers(1, 3)) for _ in range(axes)]
    attrs = {
        "mode": draw(st.sampled_from(modes)),
        "padding_mode": draw(st.sampled_from(PADDING)),
        "align_corners": draw(st.booleans()),
    }
    batch, seed = draw(st.integers(1, 2)), draw(st.integers(0, 99))
    grid = np.random.default_rng(seed).uniform(-2.2, 2.2, (batch, *out, axes))
    if draw(st.booleans()):
        grid[:] = grid[:1]
    return noise(batch, 3, *size, seed=seed), _far_from_halves(grid, size, attrs["align_corners"]), attrs


def _of(x: Any) -> Any:
    return np.abs(x).max() * max(*x.shape[2:], 2)


@given(st.integers(2, 3).flatmap(lambda axes: samplings(axes, MODES if axes == 2 else MODES[:2])))
def test_constant_grid(case: tuple[Any, Any, dict[str, Any]]) -> None:
    x, grid, attrs = case
    for rule in CONSTANT:
        check(rule, "grid_sample", [x, Const(grid)], of=_of(x), **attrs)


@given(st.integers(2, 3).flatmap(lambda axes: samplings(axes, ("bilinear",))))
def test_bilinear_at_run_time(case: tuple[Any, Any, dict[str, Any]]) -> None:
    x, grid, attrs = case
    check("grid_sample_to_gather", "grid_sample", [x, grid], of=_of(x), **attrs)


@given(samplings(2, ("bicubic",)))
def test_bicubic_at_run_time(case: tuple[Any, Any, dict[str, Any]]) -> None:
    x, grid, attrs = case
    fragment = check("grid_sample_cubic_to_gather", "grid_sample", [x, grid], of=_of(x), **attrs)
    assert sum(op.kind == "gather" for op in fragment.ops) == 16


@given(st.integers(2, 3).flatmap(lambda axes: samplings(axes, ("nearest",))))
def test_nearest_at_run_time(case: tuple[Any, Any, dict[str, Any]]) -> None:
    x, grid, attrs = case
    check("grid_sample_nearest_to_gather", "grid_sample", [x, grid], **attrs)


def test_by_hand() -> None:
    """Between the two elements of one row: a quarter of the first, and half of an edge that is zero."""
    x = np.float32([[[[8.0, 16.0]]]])
    grid = np.float32([[[[-0.5, 0.0], [-1.0, 0.0], [0.25, 0.0]]]])  # at 0, at -1/2, at 3/4
    attrs = {"mode": "bilinear", "padding_mode": "zeros", "align_corners": False}
    want = [np.float32([[[[8.0, 4.0, 14.0]]]])]
    for rule in (*CONSTANT, "grid_sample_to_gather"):
        points = grid if rule == "grid_sample_to_gather" else Const(grid)
        check(rule, "grid_sample", [x, points], of=32.0, want=want, **attrs)


def test_cubic_by_hand() -> None:
    """At 1.5 of four elements the weights are -3/32, 19/32, 19/32, -3/32; beyond the edge there are zeros."""
    x = np.float32([[[[1.0, 2.0, 4.0, 8.0]]]])
    grid = np.float32([[[[0.0, 0.0], [-1.0, 0.0]]]])  # at 3/2 and at -1/2
    attrs = {"mode": "bicubic", "padding_mode": "zeros", "align_corners": False}
    want = [np.float32([[[[(-3 + 38 + 76 - 24) / 32, 19 / 32 - 6 / 32]]]])]
    check("grid_sample_cubic_to_gather", "grid_sample", [x, grid], of=32.0, want=want, **attrs)


def test_far_coordinates_are_beyond_the_edge() -> None:
    grid = np.float32([[[[1e6, 0.0], [-1e6, 0.0], [3e9, -3e9]]]])
    attrs = {"mode": "bilinear", "padding_mode": "zeros", "align_corners": False}
    check("grid_sample_to_gather", "grid_sample", [noise(1, 2, 3, 3), grid], of=1e-9, **attrs)


def test_one_matrix_for_a_batch_that_shares_its_grid() -> None:
    x, grid = noise(2, 3, 4, 4), np.repeat(noise(1, 2, 2, 2, scale=0.4), 2, 0)
    attrs = {"mode": "bilinear", "padding_mode": "zeros", "align_corners": False}
    fragment = check(CONSTANT[1], "grid_sample", [x, Const(grid)], of=_of(x), **attrs)
    assert [v.shape for op in fragment.ops if op.kind == "matmul" for v in op.operands] == [(2, 3, 16), (16, 4)]


def test_refuses() -> None:
    x, grid = noise(1, 2, 4, 4), noise(1, 2, 2, 2)
    plain: dict[str, Any] = {"mode": "bilinear", "padding_mode": "zeros", "align_corners": False}
    for rule in CONSTANT:
        refuse(rule, "grid_sample", [x, grid], "the grid is computed when the model runs", **plain)
        odd = np.where(grid == grid[0, 0, 0, 0], np.float32(np.nan), grid)
        refuse(rule, "grid_sample", [x, Const(odd)], "infinities or NaN", **plain)
        middle = Const(np.zeros((1, 1, 1, 2), np.float32))  # of four elements: between the second and the third
        refuse(rule, "grid_sample", [x, middle], "halfway", **{**plain, "mode": "nearest"})
        refuse(rule, "grid_sample", [noise(1, 2, 4, 4, dtype="int32"), Const(grid)], "not floating point", **plain)
    large = noise(1, 1, 80, 80), Const(np.zeros((1, 60, 60, 2), np.float32))
    refuse(CONSTANT[1], "grid_sample", list(large), "a matrix of 23040000 elements is more than 16777216", **plain)
    refuse("grid_sample_to_gather", "grid_sample", [x, grid], "mode is bicubic", **{**plain, "mode": "bicubic"})
    refuse("grid_sample_nearest_to_gather", "grid_sample", [x, grid], "mode is bilinear", **plain)
    half = [v.astype(np.float16) for v in (x, grid)]
    refuse("grid_sample_to_gather", "grid_sample", half, "float16 cannot hold", **plain)
    refuse("grid_sample_cubic_to_gather", "grid_sample", [x, grid], "mode is bilinear", **plain)
    volume = [noise(1, 2, 3, 3, 3), noise(1, 2, 2, 2, 3)]
    cubic = {**plain, "mode": "bicubic"}
    refuse("grid_sample_cubic_to_gather", "grid_sample", volume, "3 spatial axes are not 2", **cubic)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=3), st.booleans())
def test_affine_grid(size: list[int], align: bool) -> None:
    theta = noise(2, len(size), len(size) + 1)
    total = np.abs(theta).sum(-1).reshape(2, *[1] * len(size), len(size))
    attrs = {"size": (2, 3, *size), "align_corners": align}
    check("affine_grid_to_matmul", "affine_grid", [theta], of=total, **attrs)


def test_affine_grid_refuses() -> None:
    whole = noise(1, 2, 3, dtype="int32")
    refuse("affine_grid_to_matmul", "affine_grid", [whole], "not floating", size=(1, 1, 2, 2), align_corners=True)


# -- whole models, in both dialects ----------------------------------------------------------------


class Warp(torch.nn.Module):
    """A spatial transformer: the grid of a constant or of a computed theta."""

    def __init__(self, constant: bool) -> None:
        super().__init__()
        self.constant = constant
        self.register_buffer("theta", torch.tensor([[[0.9, 0.1, 0.05], [-0.1, 0.8, 0.0]]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        theta = self.theta if self.constant else self.theta * (1 + 0.1 * torch.tanh(x.mean()))
        return F.grid_sample(x, F.affine_grid(theta, (1, 3, 7, 6), align_corners=False), align_corners=False)


@pytest.mark.parametrize("constant", [True, False])
def test_torch_model(constant: bool) -> None:
    target = "mlu270" if constant else "onnxruntime-opset11"
    made = porter.rewrite(Warp(constant), target, {"x": (1, 3, 8, 9)})
    assert made.evidence is not None and made.evidence.ok
    kinds = {op.kind for op in made.graph.ops()}
    assert not kinds & {"grid_sample", "affine_grid"} and ("gather" in kinds) == (not constant)


def test_onnx_model() -> None:
    """A GridSample of ONNX at a constant grid, against onnxruntime."""
    info = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", (1, 2, 6, 5)), ("y", (1, 2, 4, 3)))]
    grid = numpy_helper.from_array(noise(1, 4, 3, 2, scale=0.6), "grid")
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode="bicubic", padding_mode="reflection")
    model = helper.make_model(
        helper.make_graph([node], "g", info[:1], info[1:], [grid]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    made = porter.rewrite(model, "mlu270")
    assert made.ok and made.evidence is not None and made.evidence.ok
    assert made.ledger.entries[0].rules[0] == "grid_sample_constant_to_matmul"
