# SPDX-License-Identifier: Apache-2.0
"""Resampling."""

from typing import Any

import numpy as np
import pytest
from harness import check, noise, refuse, with_specials
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import porter

NEAREST: dict[str, Any] = {
    "mode": "nearest", "coordinates": "asymmetric", "nearest_mode": "floor", "scales": None, "cubic_coeff": -0.75,
    "antialias": False,
}  # fmt: skip
EXACT = {**NEAREST, "coordinates": "half_pixel", "nearest_mode": "round_prefer_ceil"}
SIZE = st.tuples(st.integers(1, 5), st.integers(1, 5))


@given(SIZE, st.tuples(st.integers(1, 4), st.integers(1, 4)), st.sampled_from([NEAREST, EXACT]))
def test_whole_factors(size: tuple[int, int], factor: tuple[int, int], attrs: dict[str, Any]) -> None:
    attrs = {**attrs, "sizes": (size[0] * factor[0], size[1] * factor[1])}
    x = noise(2, 3, *size)
    fragment = check("resize_nearest_to_expand", "resize", [with_specials(x)], **attrs)
    assert all(out.rank == 4 for op in fragment.ops for out in op.outputs)
    check("resize_nearest_to_conv_transpose", "resize", [x], **attrs)
    check("resize_nearest_to_take", "resize", [with_specials(x)], **attrs)


def test_one_and_three_axes() -> None:
    check("resize_nearest_to_expand", "resize", [noise(1, 2, 3)], **NEAREST, sizes=(6,))
    check("resize_nearest_to_expand", "resize", [noise(1, 2, 3, 2, 2)], **NEAREST, sizes=(6, 4, 2))


@given(SIZE, SIZE)
def test_any_size(size: tuple[int, int], out: tuple[int, int]) -> None:
    check("resize_nearest_to_take", "resize", [noise(1, 2, *size)], **NEAREST, sizes=out)


def test_nearest_refuses() -> None:
    x = noise(1, 2, 4, 4)
    for rule in ("resize_nearest_to_expand", "resize_nearest_to_conv_transpose"):
        refuse(rule, "resize", [x], "not a whole factor", **NEAREST, sizes=(6, 8))
        ceil = {**NEAREST, "nearest_mode": "ceil"}
        refuse(rule, "resize", [x], "shifts the copies", **ceil, sizes=(8, 8))
        refuse(rule, "resize", [x], "mode is linear", **{**NEAREST, "mode": "linear"}, sizes=(8, 8))
    refuse("resize_nearest_to_conv_transpose", "resize", [noise(1, 2, 3)], "not .N, C, H, W.", **NEAREST, sizes=(6,))
    refuse("resize_nearest_to_take", "resize", [x], "mode is cubic", **{**NEAREST, "mode": "cubic"}, sizes=(8, 8))
    odd = {**NEAREST, "coordinates": "tf_crop_and_resize"}
    refuse("resize_nearest_to_take", "resize", [x], "coordinates are", **odd, sizes=(8, 8))


@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners"])
@given(SIZE, SIZE)
def test_linear(coordinates: str, size: tuple[int, int], out: tuple[int, int]) -> None:
    x = noise(2, 3, *size)
    attrs = {**NEAREST, "mode": "linear", "coordinates": coordinates}
    check("resize_linear_to_matmul", "resize", [x], of=np.abs(x).max(), **attrs, sizes=out)
    check("resize_linear_to_matmul", "resize", [x[0]], of=np.abs(x).max(), **attrs, sizes=out[1:])


def _extent(x: Any, out: tuple[int, ...]) -> Any:
    return np.abs(x).max() * max(*x.shape[2:], *out)


@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners"])
@given(st.tuples(*[st.integers(1, 4)] * 3), st.tuples(*[st.integers(1, 4)] * 3))
def test_linear_of_volumes(coordinates: str, size: tuple[int, ...], out: tuple[int, ...]) -> None:
    x = noise(2, 3, *size)
    attrs = {**NEAREST, "mode": "linear", "coordinates": coordinates}
    fragment = check("resize_linear_to_matmul", "resize", [x], of=np.abs(x).max(), **attrs, sizes=out)
    assert all(v.rank is not None and v.rank <= 4 for op in fragment.ops[:-1] for v in op.outputs)


CUBIC = {**NEAREST, "mode": "cubic", "coordinates": "half_pixel"}


@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners"])
@given(SIZE, SIZE)
def test_cubic(coordinates: str, size: tuple[int, int], out: tuple[int, int]) -> None:
    x = noise(2, 3, *size)
    attrs = {**CUBIC, "coordinates": coordinates}
    check("resize_cubic_to_matmul", "resize", [x], of=_extent(x, out), **attrs, sizes=out)


def test_cubic_by_hand() -> None:
    """Twice as wide: position 2 lies at 3/4, at the distances 7/4 (the edge), 3/4, 1/4, 5/4 of elements -1 to 2.

    With a = -3/4 the kernel is 1.25 |d|^3 - 2.25 d^2 + 1 below 1, and -0.75 |d|^3 + 3.75 d^2 - 6 |d| + 3 from 1 to 2.
    """
    x = np.float32([[[[4.0, 8.0, 16.0]]]])
    fragment = check("resize_cubic_to_matmul", "resize", [x], of=16 * 6, **CUBIC, sizes=(1, 6))
    matrix = fragment.ops[-1].operands[1].numpy()
    np.testing.assert_allclose(matrix[:, 2], [-0.03515625 + 0.26171875, 0.87890625, -0.10546875], atol=1e-7)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@given(*[st.tuples(st.integers(1, 6), st.integers(2, 6))] * 2)
def test_antialias(mode: str, size: tuple[int, int], out: tuple[int, int]) -> None:
    """Not of one column: torch 2.13 makes three rows of [[4], [8]] that are all 4."""
    x = noise(2, 3, *size)
    attrs = {**CUBIC, "mode": mode, "antialias": True, "cubic_coeff": -0.5}
    check("resize_antialias_to_matmul", "resize", [x], of=_extent(x, out), **attrs, sizes=out)


@given(SIZE, SIZE, st.sampled_from([NEAREST, EXACT]))
def test_nearest_by_matrices(size: tuple[int, int], out: tuple[int, int], attrs: dict[str, Any]) -> None:
    check("resize_nearest_to_matmul", "resize", [noise(2, 3, *size)], **attrs, sizes=out)


def test_matrices_refuse() -> None:
    x = noise(1, 2, 4, 4)
    refuse("resize_cubic_to_matmul", "resize", [x], "mode is nearest", **NEAREST, sizes=(8, 8))
    refuse("resize_nearest_to_matmul", "resize", [x], "mode is cubic", **CUBIC, sizes=(8, 8))
    refuse("resize_cubic_to_matmul", "resize", [x], "antialias", **{**CUBIC, "antialias": True}, sizes=(8, 8))
    refuse("resize_antialias_to_matmul", "resize", [x], "no antialias", **CUBIC, sizes=(8, 8))
    corners = {**CUBIC, "antialias": True, "coordinates": "align_corners"}
    refuse("resize_antialias_to_matmul", "resize", [x], "coordinates are align_corners", **corners, sizes=(2, 2))
    for rule, attrs in (("resize_cubic_to_matmul", CUBIC), ("resize_nearest_to_matmul", NEAREST)):
        refuse(rule, "resize", [noise(1, 2, 4, 4, dtype="int32")], "not floating point", **attrs, sizes=(8, 8))
    refuse("resize_nearest_to_matmul", "resize", [noise(1, 1, 1, 1, 1, 2)], "4 spatial", **NEAREST, sizes=(1, 1, 1, 4))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("antialias", [0, 1])
def test_onnx_model(mode: str, antialias: int) -> None:
    """A Resize of ONNX, whose cubic is -0.75 with antialias too, against onnxruntime."""
    info = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", (1, 2, 9, 7)), ("y", (1, 2, 5, 12)))]
    sizes = numpy_helper.from_array(np.int64([1, 2, 5, 12]), "sizes")
    options = {"mode": mode, "antialias": antialias, "exclude_outside": antialias}
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], **options)
    model = helper.make_model(
        helper.make_graph([node], "g", info[:1], info[1:], [sizes]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    made = porter.rewrite(model, "mlu270")
    assert made.ok and made.evidence is not None and made.evidence.ok
    rule = "resize_antialias_to_matmul" if antialias else f"resize_{mode}_to_matmul"
    assert made.ledger.entries[0].rules[0] == rule


def test_linear_refuses() -> None:
    linear = {**NEAREST, "mode": "linear", "coordinates": "half_pixel"}
    refuse("resize_linear_to_matmul", "resize", [noise(1, 2, 4, 4)], "mode is nearest", **NEAREST, sizes=(8, 8))
    anti = {**linear, "antialias": True}
    refuse("resize_linear_to_matmul", "resize", [noise(1, 2, 4, 4)], "antialias", **anti, sizes=(2, 2))
    refuse("resize_linear_to_matmul", "resize", [noise(1, 1, 1, 1, 1, 2)], "4 spatial", **linear, sizes=(1, 1, 1, 4))
