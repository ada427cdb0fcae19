# SPDX-License-Identifier: Apache-2.0
"""Sorting, the largest k, and the place of an extreme."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import check, noise, refuse
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import porter


@st.composite
def tensors(draw: Any, most: int = 20, dtypes: tuple[str, ...] = ("float32", "float16", "int32")) -> tuple[Any, int]:
    """A tensor with equal elements, and an axis of it."""
    rank = draw(st.integers(1, 3))
    axis = draw(st.integers(0, rank - 1))
    shape = [draw(st.integers(1, 3)) for _ in range(rank)]
    shape[axis] = draw(st.integers(1, most))
    whole = np.random.default_rng(draw(st.integers(0, 99))).integers(-4, 5, shape)
    return (whole / 2).astype(draw(st.sampled_from(dtypes))), axis


@given(tensors(), st.booleans())
def test_network(case: tuple[Any, int], descending: bool) -> None:
    x, axis = case
    for uses in (None, {"y1": 0}, {"y0": 0}):
        skip = [i for i in range(2) if uses and f"y{i}" in uses]
        values = np.abs(x) if uses == {"y1": 0} else x  # minimum and maximum do not tell 0 from -0
        check("sort_to_network", "sort", [values], uses=uses, skip=skip, axis=axis, descending=descending)


def test_network_by_hand() -> None:
    """Three elements, filled up to four: three stages, of (0, 1) (2, 3), of (0, 2) (1, 3), and of (1, 2)."""
    x = np.float32([[3, 1, 2]])
    want = [np.float32([[1, 2, 3]]), np.int64([[1, 2, 0]])]
    fragment = check("sort_to_network", "sort", [x], want=want, axis=1, descending=False)
    compared = [op.outputs[0].shape for op in fragment.ops if op.kind == "eq"]
    assert compared == [(2, 1, 1), (1, 2, 1), (1, 1, 1)]


def test_infinities_are_sorted() -> None:
    x = np.float32([[np.inf, 1, -np.inf, 3e38, np.inf]])
    for descending in (False, True):
        check("sort_to_network", "sort", [x], axis=1, descending=descending)


def test_a_thousand() -> None:
    x = noise(2, 1000)
    fragment = check("sort_to_network", "sort", [x], uses={"y1": 0}, skip=[1], axis=1, descending=True)
    assert sum(op.kind == "minimum" for op in fragment.ops) == 55  # 10 * 11 / 2


@given(tensors(), st.booleans())
def test_sort_and_topk(case: tuple[Any, int], descending: bool) -> None:
    x, axis = case
    distinct = np.random.default_rng(0).permutation(x.size).reshape(x.shape).astype(x.dtype)
    check("sort_to_topk", "sort", [distinct], axis=axis, descending=descending)
    for k in {2, x.shape[axis]} & set(range(2, x.shape[axis] + 1)):
        check("topk_to_sort", "topk", [distinct], k=k, axis=axis, largest=descending, sorted=True)


@given(tensors(dtypes=("float32", "float16")), st.integers(2, 16), st.booleans())
def test_topk_to_extremes(case: tuple[Any, int], k: int, largest: bool) -> None:
    x, axis = case
    if k > x.shape[axis]:
        return
    order = np.argsort(-x if largest else x, axis, kind="stable").take(range(k), axis)
    want = [np.take_along_axis(x, order, axis), order]
    check("topk_to_extremes", "topk", [x], want=want, k=k, axis=axis, largest=largest, sorted=True)


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e9, -1e9, 3e37])
@pytest.mark.parametrize("largest", [False, True])
def test_what_was_found_is_below_all(value: float, largest: bool) -> None:
    """Equal elements of any size: each is found once, in their order."""
    x = np.full((1, 4), value, np.float32)
    want = [x, np.int64([[0, 1, 2, 3]])]
    check("topk_to_extremes", "topk", [x], want=want, k=4, axis=1, largest=largest, sorted=True)


@given(tensors(), st.booleans(), st.sampled_from(["argmax", "argmin"]))
def test_arg_to_comparison(case: tuple[Any, int], keepdim: bool, kind: str) -> None:
    x, axis = case
    check("arg_to_comparison", kind, [x], axis=axis, keepdim=keepdim)
    check("arg_to_comparison", kind, [x], axis=None, keepdim=False)


def test_refuses() -> None:
    bits = noise(3, dtype="bool")
    refuse("sort_to_network", "sort", [bits], "is bool", axis=0, descending=False)
    refuse("sort_to_network", "sort", [noise(1025)], "1025 elements, more than 1024", axis=0, descending=False)
    refuse("sort_to_network", "sort", [noise(0, 4)], "empty", axis=1, descending=False)
    refuse("arg_to_comparison", "argmax", [bits], "is bool", axis=0, keepdim=False)
    half = noise(2049, dtype="float16")
    refuse("arg_to_comparison", "argmax", [half], "2049 elements are more than float16", axis=0, keepdim=False)
    topk: dict[str, Any] = {"axis": 0, "largest": True, "sorted": True}
    refuse("topk_to_sort", "topk", [noise(40)], "k is 1", k=1, **topk)
    refuse("topk_to_extremes", "topk", [noise(40)], "k is 17", k=17, **topk)
    refuse("topk_to_extremes", "topk", [noise(40)], "k is 1, not", k=1, **topk)
    refuse("topk_to_extremes", "topk", [noise(40, dtype="int32")], "not floating point", k=3, **topk)


# -- whole models, in both dialects ----------------------------------------------------------------


@pytest.fixture
def no_sort(tmp_path: Path) -> Path:
    """A device that compares, and neither sorts nor finds the largest."""
    path = tmp_path / "no_sort.toml"
    path.write_text(
        '[target]\nname = "no_sort"\ntitle = "A test device"\nextends = "onnxruntime"\n\n[[group]]\n'
        'kinds = ["sort", "topk", "argmax", "argmin", "max_dim", "min_dim"]\ndevice = "none"\n'
    )
    return path


class Best(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        ordered = x.sort(dim=1, stable=True).values
        return ordered, x.argsort(dim=1, descending=True, stable=True), x.topk(3, 1).indices, x.argmin(1)


def test_torch_model(no_sort: Path) -> None:
    made = porter.rewrite(Best(), no_sort, {"x": (2, 20)})
    assert made.ok and made.evidence is not None and made.evidence.ok
    first = {entry.rules[0] for entry in made.ledger.entries}
    assert first == {"sort_to_network", "topk_to_extremes", "arg_to_comparison"}


def test_onnx_model(no_sort: Path) -> None:
    info = [
        helper.make_tensor_value_info(n, t, s) for n, t, s in (("x", 1, (2, 9)), ("v", 1, (2, 4)), ("i", 7, (2, 4)))
    ]
    node = helper.make_node("TopK", ["x", "k"], ["v", "i"], axis=1)
    graph = helper.make_graph([node], "g", info[:1], info[1:], [numpy_helper.from_array(np.int64([4]), "k")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)
    made = porter.rewrite(model, no_sort)
    assert made.ok and made.evidence is not None and made.evidence.ok
