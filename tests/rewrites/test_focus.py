# SPDX-License-Identifier: Apache-2.0
"""The Focus layer as one convolution."""

from itertools import permutations
from typing import Any

import numpy as np
import oracle
import pytest
from harness import Around, Const, apply, build, compare, noise
from reference import run

from porter.ops import Op, Value
from porter.registry import rules
from porter.rewrite import Fragment, NotApplicable

PHASES = [(0, 0), (1, 0), (0, 1), (1, 1)]
ATTRS: dict[str, Any] = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}


def _piece(image: Value, row: int, col: int, name: str, nested: bool, step: int) -> list[Op]:
    """x[:, :, row::step, col::step] as one slice, or as torch.export writes it: rows first, then columns."""
    h, w = image.shape[2:]  # type: ignore[index]
    if not nested:
        attrs = {"axes": (2, 3), "starts": (row, col), "ends": (h, w), "steps": (step, step)}
        return [build("slice", [image], attrs, name)[0]]
    one, _ = build("slice", [image], {"axes": (2,), "starts": (row,), "ends": (h,), "steps": (step,)}, f"{name}r")
    columns = {"axes": (3,), "starts": (col,), "ends": (w,), "steps": (step,)}
    two, _ = build("slice", [one.outputs[0]], columns, f"{name}c")
    return [one, two]


def _focus(
    phases: list[tuple[int, int]], nested: bool = True, step: int = 2, kernel: int = 3, **change: Any
) -> tuple[list[Op], Op, dict[str, Any], Any]:
    x = noise(2, 3, 4 * step, 3 * step)
    image = Value("x", x.shape, "float32")
    ops: list[Op] = []
    pieces = []
    for i, (row, col) in enumerate(phases):
        made = _piece(image, row, col, f"p{i}", nested, step)
        ops += made
        pieces.append(made[-1].outputs[0])
    cat, _ = build("cat", pieces, {"axis": 1}, "cat")
    weight, bias = noise(5, 3 * len(phases), kernel, kernel, seed=1), noise(5, seed=2)
    attrs = {**ATTRS, **change}
    conv, _ = build("conv2d", [cat.outputs[0], Const(weight), Const(bias)], attrs, "conv")
    joined = np.concatenate([x[:, :, r::step, c::step] for r, c in phases], 1)
    want = oracle.compute("conv2d", [joined, weight, bias], attrs)[0]
    return [*ops, cat], conv, {"x": x}, want


def _fused(case: tuple[list[Op], Op, dict[str, Any], Any]) -> Fragment:
    ops, conv, feeds, want = case
    fragment = apply("focus_to_conv", conv, Around(ops))
    assert [op.kind for op in fragment.ops] == ["conv2d"]
    compare(rules()["focus_to_conv"], run(fragment, feeds)[0], want, np.abs(want).max())
    return fragment


@pytest.mark.parametrize("order", list(permutations(PHASES))[::5])
@pytest.mark.parametrize("nested", [True, False])
def test_any_order(order: tuple[tuple[int, int], ...], nested: bool) -> None:
    fragment = _fused(_focus(list(order), nested))
    assert fragment.ops[0].attrs["stride"] == (2, 2)
    assert fragment.ops[0].inputs[1] is not None
    assert fragment.ops[0].inputs[1].shape == (5, 3, 6, 6)


def test_other_steps_strides_kernels_and_missing_phases() -> None:
    _fused(_focus([(r, c) for r in range(3) for c in range(3)], step=3))
    _fused(_focus(PHASES[:3]))
    _fused(_focus([PHASES[0], PHASES[0]]))
    _fused(_focus(PHASES, kernel=1, padding=((0, 0), (0, 0))))
    _fused(_focus(PHASES, stride=(2, 1), padding=((0, 1), (2, 0))))


def _reason(ops: list[Op], conv: Op) -> str:
    with pytest.raises(NotApplicable) as caught:
        rules()["focus_to_conv"].apply(Around(ops), conv, "new")
    return str(caught.value)


def test_refuses() -> None:
    ops, conv, _, _ = _focus(PHASES)
    assert "input is not a cat" in _reason([], conv)
    assert rules()["focus_to_conv"].optional
    ops, conv, _, _ = _focus([(0, 0), (0, 0)], dilation=(2, 2), padding=((2, 2), (2, 2)))
    assert "dilation" in _reason(ops, conv)
    ops, conv, _, _ = _focus([(0, 0)], step=1)
    assert "no step" in _reason(ops, conv)
    image = Value("x", (1, 3, 6, 6), "float32")
    whole, _ = build("slice", [image], {"axes": (2,), "starts": (0,), "ends": (6,), "steps": (2,)}, "s")
    rows, _ = build("cat", [whole.outputs[0]], {"axis": 2}, "cat")
    conv, _ = build("conv2d", [rows.outputs[0], Const(noise(4, 3, 1, 1)), None], ATTRS, "c")
    assert "not along the channels" in _reason([whole, rows], conv)
    channels, _ = build("slice", [image], {"axes": (1,), "starts": (0,), "ends": (2,), "steps": (1,)}, "s")
    cat, _ = build("cat", [channels.outputs[0]], {"axis": 1}, "cat")
    conv, _ = build("conv2d", [cat.outputs[0], Const(noise(4, 2, 1, 1)), None], ATTRS, "c")
    assert "cuts channels" in _reason([channels, cat], conv)
    late, _ = build("slice", [image], {"axes": (2, 3), "starts": (2, 0), "ends": (6, 6), "steps": (2, 2)}, "s")
    cat, _ = build("cat", [late.outputs[0]], {"axis": 1}, "cat")
    conv, _ = build("conv2d", [cat.outputs[0], Const(noise(4, 3, 1, 1)), None], ATTRS, "c")
    assert "begins after the first step" in _reason([late, cat], conv)
    conv, _ = build("conv2d", [cat.outputs[0], noise(4, 3, 1, 1), None], ATTRS, "c")
    assert "weight is computed" in _reason([late, cat], conv)
