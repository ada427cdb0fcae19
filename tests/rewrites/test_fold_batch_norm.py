# SPDX-License-Identifier: Apache-2.0
"""Batch normalization folded into the layer before it."""

from typing import Any

import numpy as np
import oracle
import pytest
from harness import Around, Const, apply, build, compare, noise
from reference import run

from porter.ops import Op
from porter.registry import rules
from porter.rewrite import NotApplicable

CONV: dict[str, Any] = {"stride": (2, 1), "padding": ((1, 0), (0, 1)), "dilation": (1, 1), "groups": 2}
TRANSPOSED: dict[str, Any] = {**CONV, "padding": ((1, 1), (0, 0)), "output_padding": (1, 0)}


def _pair(kind: str, inputs: list[Any], attrs: dict[str, Any], channels: int) -> tuple[Op, Op, dict[str, Any], Any]:
    layer, feeds = build(kind, inputs, attrs, "a")
    mean, var = noise(channels, seed=5), np.abs(noise(channels, seed=6)) + 0.2
    params = [noise(channels, seed=7), noise(channels, seed=8), mean, var]
    norm, _ = build("batch_norm", [layer.outputs[0], *map(Const, params)], {"eps": 1e-3}, "b")
    arrays = [x.data if isinstance(x, Const) else x for x in inputs]
    middle = oracle.compute(kind, arrays, attrs)[0]
    want = oracle.compute("batch_norm", [middle, *params], {"eps": 1e-3})[0]
    return layer, norm, feeds, want


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "x", "weight", "attrs", "channels"),
    [
        ("conv2d", (2, 4, 6, 5), (6, 2, 3, 2), CONV, 6),
        ("conv_transpose2d", (2, 4, 6, 5), (4, 3, 3, 2), TRANSPOSED, 6),
        ("conv1d", (2, 4, 6), (6, 4, 3), {"stride": (1,), "padding": ((1, 1),), "dilation": (1,), "groups": 1}, 6),
        ("linear", (5, 4), (6, 4), {}, 6),
    ],
)
def test_fold(kind: str, x: Any, weight: Any, attrs: dict[str, Any], channels: int, bias: bool) -> None:
    inputs = [noise(*x), Const(noise(*weight, seed=1)), Const(noise(channels, seed=2)) if bias else None]
    layer, norm, feeds, want = _pair(kind, inputs, attrs, channels)
    fragment = apply("fold_batch_norm", norm, Around([layer]))
    assert [op.kind for op in fragment.ops] == [kind]
    compare(rules()["fold_batch_norm"], run(fragment, feeds)[0], want, np.abs(want).max())


def _reason(layer: Op | None, norm: Op, uses: int = 1) -> str:
    around = Around([layer] if layer else [], {norm.inputs[0].name: uses})  # type: ignore[union-attr]
    with pytest.raises(NotApplicable) as caught:
        rules()["fold_batch_norm"].apply(around, norm, "new")
    return str(caught.value)


def test_fold_refuses() -> None:
    inputs = [noise(2, 4, 6, 5), Const(noise(6, 2, 3, 2)), None]
    layer, norm, _, _ = _pair("conv2d", inputs, CONV, 6)
    assert "not the result of a convolution" in _reason(None, norm)
    assert "read elsewhere" in _reason(layer, norm, uses=2)
    layer, norm, _, _ = _pair("conv2d", [inputs[0], noise(6, 2, 3, 2), None], CONV, 6)
    assert "weight is computed" in _reason(layer, norm)
    assert rules()["fold_batch_norm"].optional
