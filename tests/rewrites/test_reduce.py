# SPDX-License-Identifier: Apache-2.0
"""Reductions."""

from typing import Any

import numpy as np
import pytest
from harness import check, noise, refuse, with_specials
from hypothesis import given
from hypothesis import strategies as st


@st.composite
def reductions(draw: Any, least: int = 1, rank: int = 4) -> tuple[Any, dict[str, Any]]:
    shape = draw(st.lists(st.integers(1, 5), min_size=max(least, 1), max_size=rank))
    count = draw(st.integers(least, len(shape)))
    axes = tuple(sorted(draw(st.permutations(range(len(shape))))[:count]))
    return noise(*shape, seed=draw(st.integers(0, 99))), {"axes": axes, "keepdim": draw(st.booleans())}


def _total(kind: str, x: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
    if kind == "prod":
        return np.abs(x).prod(axes, keepdims=keepdim) * sum(x.shape)
    size = np.abs(x).sum(axes, keepdims=keepdim)
    return size / np.prod([x.shape[a] for a in axes]) if kind == "mean" else size


@given(reductions(least=2))
def test_several_axes(case: tuple[Any, dict[str, Any]]) -> None:
    x, attrs = case
    for kind in ("amax", "amin"):
        fragment = check("extreme_one_axis_at_a_time", kind, [with_specials(x)], **attrs)
        assert all(len(op.attrs["axes"]) == 1 for op in fragment.ops)
    for kind in ("all", "any"):
        check("extreme_one_axis_at_a_time", kind, [x > 0], **attrs)
    for kind in ("sum", "mean", "prod"):
        check("sum_one_axis_at_a_time", kind, [x], of=_total(kind, x, **attrs), **attrs)


@given(st.integers(0, 2), st.integers(2, 4), st.booleans())
def test_adjacent_axes(start: int, count: int, keepdim: bool) -> None:
    x = noise(2, 3, 4, 2, 3, 2)
    axes = tuple(range(start, start + count))
    attrs: dict[str, Any] = {"axes": axes, "keepdim": keepdim}
    for kind in ("sum", "mean", "amax", "amin", "logsumexp", "prod"):
        scale = _total("sum" if kind == "logsumexp" else kind, x, **attrs)
        check("reduce_adjacent_axes_as_one", kind, [x], of=scale, **attrs)


def test_refusals_of_axes() -> None:
    x = noise(2, 3, 4)
    one: dict[str, Any] = {"axes": (1,), "keepdim": True}
    refuse("extreme_one_axis_at_a_time", "amax", [x], "1 axes", **one)
    refuse("sum_one_axis_at_a_time", "sum", [x], "1 axes", **one)
    refuse("reduce_adjacent_axes_as_one", "sum", [x], "1 axes", **one)
    refuse("reduce_adjacent_axes_as_one", "sum", [x], "not adjacent", axes=(0, 2), keepdim=False)
    refuse("reduce_keepdim_by_reshape", "sum", [x], "kept already", **one)
    ints = noise(2, 3, 4, dtype="int32")
    for rule in ("sum_one_axis_at_a_time", "reduce_adjacent_axes_as_one", "sum_to_mean", "sum_to_matmul"):
        refuse(rule, "sum", [ints], "floating", axes=(1, 2), keepdim=False)


@given(reductions())
def test_keepdim(case: tuple[Any, dict[str, Any]]) -> None:
    x, attrs = case
    attrs = {**attrs, "keepdim": False}
    for kind in ("amax", "amin"):
        check("reduce_keepdim_by_reshape", kind, [x], **attrs)
    check("reduce_keepdim_by_reshape", "any", [x > 1], **attrs)


@given(reductions())
def test_sum_and_mean(case: tuple[Any, dict[str, Any]]) -> None:
    x, attrs = case
    check("mean_to_sum", "mean", [x], of=_total("mean", x, **attrs), **attrs)
    check("sum_to_mean", "sum", [x], of=_total("sum", x, **attrs), **attrs)


def test_empty_axes_refuse() -> None:
    attrs: dict[str, Any] = {"axes": (1,), "keepdim": False}
    refuse("mean_to_sum", "mean", [noise(2, 0)], "empty", **attrs)
    refuse("sum_to_mean", "sum", [noise(2, 0)], "empty", **attrs)
    refuse("sum_to_matmul", "sum", [noise(2, 0)], "empty", **attrs)
    refuse("all_any_to_extreme", "all", [noise(2, 0, dtype="bool")], "empty", **attrs)
    refuse("mean_to_sum", "mean", [noise(2, 3, dtype="int32")], "floating", **attrs)


@pytest.mark.parametrize("kind", ["sum", "mean"])
@pytest.mark.parametrize("keepdim", [True, False])
def test_sum_to_matmul(kind: str, keepdim: bool) -> None:
    x = noise(2, 3, 7)
    attrs: dict[str, Any] = {"axes": (2,), "keepdim": keepdim}
    check("sum_to_matmul", kind, [x], of=_total(kind, x, **attrs), **attrs)
    refuse("sum_to_matmul", kind, [x], "not the last alone", axes=(1,), keepdim=keepdim)


@pytest.mark.parametrize("kind", ["sum", "prod", "amax", "amin"])
@pytest.mark.parametrize("keepdim", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_short_axis(kind: str, keepdim: bool, axis: int) -> None:
    x = noise(3, 16, 1)
    attrs: dict[str, Any] = {"axes": (axis,), "keepdim": keepdim}
    check("reduce_short_axis_to_steps", kind, [x], of=_total(kind, x, **attrs), **attrs)


def test_short_axis_refuses() -> None:
    rule = "reduce_short_axis_to_steps"
    refuse(rule, "sum", [noise(2, 3)], "2 axes", axes=(0, 1), keepdim=False)
    refuse(rule, "sum", [noise(17)], "17 elements", axes=(0,), keepdim=False)
    refuse(rule, "sum", [noise(3, dtype="int32")], "changes the dtype", axes=(0,), keepdim=False)


@pytest.mark.parametrize("kind", ["mean", "amax"])
@pytest.mark.parametrize("keepdim", [True, False])
def test_spatial(kind: str, keepdim: bool) -> None:
    x = noise(2, 3, 4, 5)
    attrs: dict[str, Any] = {"axes": (2, 3), "keepdim": keepdim}
    check("spatial_reduction_to_pool", kind, [x], of=_total("mean", x, **attrs), **attrs)
    refuse("spatial_reduction_to_pool", kind, [x], "not the last two", axes=(1, 2), keepdim=keepdim)


@pytest.mark.parametrize("kind", ["amax", "amin"])
@given(reductions())
def test_extremes(kind: str, case: tuple[Any, dict[str, Any]]) -> None:
    x, attrs = case
    check("extreme_to_negated_extreme", kind, [with_specials(x)], **attrs)
    if len(attrs["axes"]) == 1:
        check("extreme_to_max_dim", kind, [with_specials(x)], **attrs)
    else:
        refuse("extreme_to_max_dim", kind, [x], "axes are reduced", **attrs)
        refuse("extreme_to_topk", kind, [x], "axes are reduced", **attrs)


@pytest.mark.parametrize("kind", ["amax", "amin"])
@given(reductions())
def test_extremes_by_topk(kind: str, case: tuple[Any, dict[str, Any]]) -> None:
    x, attrs = case
    if len(attrs["axes"]) == 1:
        x.flat[0] = np.inf
        check("extreme_to_topk", kind, [x], **attrs)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.booleans(), st.data())
def test_extremes_with_indices(shape: list[int], keepdim: bool, data: Any) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    ties = noise(*shape, dtype="int32").astype(np.float32)
    distinct = noise(*shape)
    for kind, arg in (("max_dim", "argmax"), ("min_dim", "argmin")):
        check("max_dim_to_parts", kind, [ties], axis=axis, keepdim=keepdim)
        check("max_dim_to_topk", kind, [distinct], axis=axis, keepdim=keepdim)
        check("arg_to_max_dim", arg, [ties], axis=axis, keepdim=keepdim)
        check("arg_to_max_dim", arg, [ties], axis=None, keepdim=keepdim)
    check("argmin_to_argmax", "argmin", [ties], axis=axis, keepdim=keepdim)
    for largest in (True, False):
        check("topk_to_max_dim", "topk", [distinct], k=1, axis=axis, largest=largest, sorted=True)


def test_parts_that_nobody_reads_are_not_computed() -> None:
    attrs: dict[str, Any] = {"axis": 1, "keepdim": False}
    values = check("max_dim_to_parts", "max_dim", [noise(2, 3)], uses={"y1": 0}, skip=(1,), **attrs)
    assert [op.kind for op in values.ops] == ["amax"]
    indices = check("max_dim_to_parts", "max_dim", [noise(2, 3)], uses={"y0": 0}, skip=(0,), **attrs)
    assert [op.kind for op in indices.ops] == ["argmax"]


def test_index_refusals() -> None:
    refuse("topk_to_max_dim", "topk", [noise(3)], "k is 2", k=2, axis=0, largest=True, sorted=True)
    refuse("argmin_to_argmax", "argmin", [noise(3, dtype="int32")], "floating", axis=0, keepdim=False)
    refuse("extreme_to_negated_extreme", "amax", [noise(3, dtype="int32")], "floating", axes=(0,), keepdim=False)


@given(st.integers(0, 99), st.sampled_from([(1,), (0, 2), (0, 1, 2)]), st.booleans(), st.integers(0, 1))
def test_variance(seed: int, axes: tuple[int, ...], keepdim: bool, correction: int) -> None:
    x = noise(3, 4, 5, seed=seed)
    attrs: dict[str, Any] = {"axes": axes, "keepdim": keepdim, "correction": correction}
    for kind in ("var", "std"):
        check("var_to_mean", kind, [x], **attrs)
    check("std_to_var", "std", [x], **attrs)


def test_variance_refuses() -> None:
    attrs: dict[str, Any] = {"axes": (0,), "keepdim": False, "correction": 1}
    refuse("var_to_mean", "var", [noise(1)], "no variance", **attrs)


@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
@given(reductions())
def test_norms(p: float, case: tuple[Any, dict[str, Any]]) -> None:
    x, attrs = case
    check("norm_to_sum", "norm", [x], p=p, **attrs)
    for eps in (1e-12, 0.5):
        check("lp_normalize_to_div", "lp_normalize", [x], p=p, axis=attrs["axes"][0], eps=eps)


def test_norms_refuse() -> None:
    refuse("norm_to_sum", "norm", [noise(3)], "3.0-norm", p=3.0, axes=(0,), keepdim=False)
    refuse("lp_normalize_to_div", "lp_normalize", [noise(3)], "0.5-norm", p=0.5, axis=0, eps=1e-12)


@pytest.mark.parametrize("kind", ["all", "any"])
@given(reductions())
def test_all_and_any(kind: str, case: tuple[Any, dict[str, Any]]) -> None:
    check("all_any_to_extreme", kind, [case[0] > (-1.5 if kind == "all" else 1.5)], **case[1])


def test_all_and_any_refuse() -> None:
    refuse("all_any_to_extreme", "any", [noise(3)], "not bool", axes=(0,), keepdim=False)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_cumsum(axis: int) -> None:
    x = noise(3, 4, 9)
    check("cumsum_to_matmul", "cumsum", [x], of=np.abs(x).sum(axis, keepdims=True), axis=axis)


def test_cumsum_refuses() -> None:
    refuse("cumsum_to_matmul", "cumsum", [noise(3)], "one axis", axis=0)
    refuse("cumsum_to_matmul", "cumsum", [noise(1, 4097)], "more than 4096", axis=1)
    refuse("cumsum_to_matmul", "cumsum", [noise(2, 3, dtype="int64")], "floating", axis=1)
