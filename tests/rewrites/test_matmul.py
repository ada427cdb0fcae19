# SPDX-License-Identifier: Apache-2.0
"""Matrix products."""

from typing import Any

import numpy as np
import pytest
from harness import Const, check, noise, refuse
from hypothesis import given
from hypothesis import strategies as st


def _size(x: Any, y: Any) -> Any:
    return np.matmul(np.abs(x), np.abs(y)) + 1


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5), (1, 2, 3, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape: tuple[int, ...], bias: bool) -> None:
    x, weight = noise(*shape), noise(4, 5, seed=1)
    inputs = [x, Const(weight), Const(noise(4, seed=2)) if bias else None]
    scale = _size(x, weight.T) + 3
    check("linear_to_matmul", "linear", inputs, of=scale)
    check("linear_to_matmul", "linear", [x, weight, inputs[2]], of=scale)
    if len(shape) > 1:
        check("linear_to_conv", "linear", inputs, of=scale)
    if len(shape) != 2:
        check("linear_to_rank2", "linear", inputs, of=scale)


def test_linear_refuses() -> None:
    refuse("linear_to_rank2", "linear", [noise(2, 5), noise(4, 5), None], "two axes already")
    refuse("linear_to_conv", "linear", [noise(5), noise(4, 5), None], "vector")


BATCH = st.sampled_from([((), ()), ((2,), (2,)), ((2,), ()), ((2, 3), (3,)), ((2, 1), (1, 3)), ((2, 3), (2, 3))])


@given(BATCH, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_matmul(batch: Any, rows: int, inner: int, cols: int) -> None:
    x, y = noise(*batch[0], rows, inner), noise(*batch[1], inner, cols, seed=1)
    scale = _size(x, y)
    check("matmul_to_mul_sum", "matmul", [x, y], of=scale)
    if batch[0] != batch[1] or len(batch[0]) > 1:
        check("matmul_to_rank3", "matmul", [x, y], of=scale)
    else:
        refuse("matmul_to_rank3", "matmul", [x, y], "one batch axis already")
    if not batch[1]:
        check("matmul_to_linear", "matmul", [x, Const(y)], of=scale)
    check("matmul_of_vector", "matmul", [x, y[..., 0].reshape(-1)[:inner]], of=_size(x, y[..., 0].reshape(-1)[:inner]))
    check("matmul_of_vector", "matmul", [x.reshape(-1)[:inner], y], of=_size(x.reshape(-1)[:inner], y))


def test_matmul_refuses() -> None:
    x, y = noise(2, 3), noise(3, 2)
    refuse("matmul_to_linear", "matmul", [x, y], "computed when the model runs")
    refuse("matmul_to_linear", "matmul", [x, Const(noise(1, 3, 2))], "3 axes")
    refuse("matmul_of_vector", "matmul", [x, y], "neither operand")
    for rule in ("matmul_to_rank3", "matmul_to_mul_sum"):
        refuse(rule, "matmul", [x, noise(3)], "vector")
    refuse("matmul_to_mul_sum", "matmul", [noise(256, 128), noise(128, 256)], "more than 2.16")
    refuse("matmul_to_mul_sum", "matmul", [x, Const(y)], "linear layer")


@given(st.booleans(), st.booleans(), st.sampled_from([1.0, 0.5]), st.sampled_from([0.0, 1.0, 2.0]), st.integers(0, 3))
def test_gemm(trans_a: bool, trans_b: bool, alpha: float, beta: float, bias: int) -> None:
    x = noise(*((3, 2) if trans_a else (2, 3)))
    y = noise(*((4, 3) if trans_b else (3, 4)), seed=1)
    c = (None, noise(4), noise(1, 4), noise())[bias]
    scale = _size(x.T if trans_a else x, y.T if trans_b else y) + (0 if c is None else np.abs(c) * 2)
    attrs: dict[str, Any] = {"alpha": alpha, "beta": beta, "trans_a": trans_a, "trans_b": trans_b}
    check("gemm_to_matmul", "gemm", [x, y, c], of=scale, **attrs)
    check("gemm_to_linear", "gemm", [x, Const(y), None if c is None else Const(c)], of=scale, **attrs)


def test_gemm_refuses() -> None:
    attrs: dict[str, Any] = {"alpha": 1.0, "beta": 1.0, "trans_a": False, "trans_b": False}
    x, y = noise(2, 3), noise(3, 4)
    refuse("gemm_to_linear", "gemm", [x, y, None], "computed when the model runs", **attrs)
    refuse("gemm_to_linear", "gemm", [x, Const(y), noise(4)], "bias is computed", **attrs)
    refuse("gemm_to_linear", "gemm", [x, Const(y), Const(noise(2, 4))], "differs between rows", **attrs)


@pytest.mark.parametrize("mask", ["none", "bool", "float"])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("causal", [False, True])
def test_attention(mask: str, scale: float | None, causal: bool) -> None:
    if causal and mask != "none":
        return
    q, k, v = noise(2, 3, 5, 8), noise(2, 3, 5, 8, seed=1), noise(2, 3, 5, 4, seed=2)
    seen = np.tril(np.ones((5, 5), bool))
    masks = {"none": None, "bool": seen, "float": noise(5, 5, seed=3)}
    inputs = [q, k, v, masks[mask]]
    fragment = check("attention_to_matmul", "attention", inputs, of=np.abs(v).max(), scale=scale, causal=causal)
    assert fragment.ops[-1].kind == "matmul"


@pytest.mark.parametrize("constant", [False, True])
def test_a_row_that_sees_nothing_is_zero(constant: bool) -> None:
    """As torch computes it; and no more ops than needed where every row sees something."""
    q, k, v = noise(1, 2, 3, 4), noise(1, 2, 3, 4, seed=1), noise(1, 2, 3, 4, seed=2)
    seen = np.array([[True, False, True], [False, False, False], [True, True, True]])
    mask: Any = Const(seen) if constant else seen
    attrs: dict[str, Any] = {"of": np.abs(v).max(), "scale": None, "causal": False}
    check("attention_to_matmul", "attention", [q, k, v, mask], **attrs)
    plain = check("attention_to_matmul", "attention", [q, k, v, Const(seen | np.eye(3, dtype=bool))], **attrs)
    assert sum(op.kind == "where" for op in plain.ops) == 1


@pytest.mark.parametrize("constant", [False, True])
def test_a_row_that_a_float_mask_hides_is_zero(constant: bool) -> None:
    """-inf hides, -1e30 does not; a constant that hides no row costs nothing."""
    q, k, v = noise(1, 2, 3, 4), noise(1, 2, 3, 4, seed=1), noise(1, 2, 3, 4, seed=2)
    mask = np.array([[0, -np.inf, 0.5], [-np.inf] * 3, [-1e30, -1e30, -1e30]], np.float32)
    attrs: dict[str, Any] = {"of": np.abs(v).max(), "scale": None, "causal": False}
    made = check("attention_to_matmul", "attention", [q, k, v, Const(mask) if constant else mask], **attrs)
    assert sum(op.kind == "where" for op in made.ops) == 1
    assert sum(op.kind == "gt" for op in made.ops) == (0 if constant else 1)
    plain = check("attention_to_matmul", "attention", [q, k, v, Const(mask[[0, 2, 0]])], **attrs)
    assert not any(op.kind in ("where", "gt") for op in plain.ops)


def test_attention_without_comparisons() -> None:
    q, k, v = noise(1, 2, 3, 4), noise(1, 2, 3, 4, seed=1), noise(1, 2, 3, 4, seed=2)
    attrs: dict[str, Any] = {"scale": None, "causal": False}
    made = check("attention_to_matmul_unguarded", "attention", [q, k, v, noise(3, 3)], of=np.abs(v).max(), **attrs)
    assert not any(op.kind in ("where", "gt") for op in made.ops)
    for mask in (None, Const(noise(3, 3)), np.ones((3, 3), bool)):
        refuse("attention_to_matmul_unguarded", "attention", [q, k, v, mask], "no float mask of run time", **attrs)


def test_a_causal_mask_that_is_too_large() -> None:
    long = np.broadcast_to(np.float32(0), (1, 1, 5000, 4))
    refuse("attention_to_matmul", "attention", [long, long, long, None], "a mask of 25000000", scale=None, causal=True)


def test_scores_of_half_precision_do_not_overflow() -> None:
    """q k is 64 * 40 * 40 = 102400 before it is scaled: more than float16 has."""
    q = np.full((1, 1, 2, 64), 40, np.float16)
    v = noise(1, 1, 2, 4, dtype="float16")
    check("attention_to_matmul", "attention", [q, q, v, None], of=np.abs(v).max(), scale=None, causal=False)
