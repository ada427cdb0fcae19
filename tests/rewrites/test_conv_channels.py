# SPDX-License-Identifier: Apache-2.0
"""Convolutions with more channels than a device takes."""

from typing import Any

import numpy as np
import pytest
from harness import Around, Const, apply, build, noise, refuse
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from test_conv import _check

import porter
from porter.registry import rules
from porter.rewrite import NotApplicable

INPUTS = [
    ("conv_inputs_to_sum_of_512", 512),
    ("conv_inputs_to_sum_of_1024", 1024),
    ("conv_inputs_to_sum_of_2048", 2048),
    ("conv_inputs_to_sum_of_4096", 4096),
    ("conv_inputs_to_sum_of_8192", 8192),
]
OUTPUTS = [
    ("conv_outputs_to_cat_of_512", 512),
    ("conv_outputs_to_cat_of_1024", 1024),
    ("conv_outputs_to_cat_of_2048", 2048),
    ("conv_outputs_to_cat_of_4096", 4096),
    ("conv_outputs_to_cat_of_8192", 8192),
]


def convolution(
    n: int, cin: int, cout: int, *, groups: int = 1, transposed: bool = False, seed: int = 0, bias: bool = True
) -> tuple[str, list[Any], dict[str, Any]]:
    """Kernel 2, stride 2, and padding on one side."""
    each = (cin, cout // groups) if transposed else (cout, cin // groups)
    attrs: dict[str, Any] = {
        "stride": (2,) * n,
        "padding": ((0, 0),) * n if transposed else ((1, 0),) * n,
        "dilation": (1,) * n,
        "groups": groups,
    }
    if transposed:
        attrs["output_padding"] = (0,) * n
    weight = Const(noise(*each, *(2,) * n, seed=seed + 1))
    inputs = [noise(2, cin, *(3,) * n, seed=seed), weight, Const(noise(cout, seed=seed + 2)) if bias else None]
    return f"conv{'_transpose' if transposed else ''}{n}d", inputs, attrs


cases = st.tuples(st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 99))


@settings(max_examples=10)
@given(cases, st.integers(513, 1600))
def test_inputs_to_sum(case: tuple[int, bool, bool, int], channels: int) -> None:
    n, transposed, bias, seed = case
    kind, inputs, attrs = convolution(n, channels, 3, transposed=transposed, seed=seed, bias=bias)
    fragment = _check("conv_inputs_to_sum_of_512", kind, inputs, attrs)
    parts = [op.operands[0].shape for op in fragment.ops if op.kind == kind]
    assert sum(shape[1] for shape in parts) == channels and len(parts) == -(-channels // 512)
    assert max(shape[1] for shape in parts) <= 512
    biased = [op.inputs[2] is not None for op in fragment.ops if op.kind == kind]
    assert biased == [bias] + [False] * (len(parts) - 1), "the bias is added once"


@settings(max_examples=10)
@given(cases, st.integers(513, 1600))
def test_outputs_to_cat(case: tuple[int, bool, bool, int], channels: int) -> None:
    n, transposed, bias, seed = case
    kind, inputs, attrs = convolution(n, 2, channels, transposed=transposed, seed=seed, bias=bias)
    fragment = _check("conv_outputs_to_cat_of_512", kind, inputs, attrs)
    parts = [op.outputs[0].shape for op in fragment.ops if op.kind == kind]
    assert sum(shape[1] for shape in parts) == channels and max(shape[1] for shape in parts) <= 512


@settings(max_examples=10)
@given(cases, st.integers(1, 2), st.integers(1, 2), st.integers(300, 700))
def test_groups_stay_together(case: tuple[int, bool, bool, int], of: int, each: int, groups: int) -> None:
    """Depthwise ones, and groups of two channels."""
    n, transposed, bias, seed = case
    kind, inputs, attrs = convolution(
        n, of * groups, each * groups, groups=groups, transposed=transposed, seed=seed, bias=bias
    )
    if max(of, each) * groups <= 512:
        refuse("conv_outputs_to_cat_of_512", kind, inputs, "are not above 512", **attrs)
        return
    fragment = _check("conv_outputs_to_cat_of_512", kind, inputs, attrs)
    parts = [op for op in fragment.ops if op.kind == kind]
    assert sum(op.attrs["groups"] for op in parts) == groups
    for op in parts:
        assert max(op.operands[0].shape[1], op.outputs[0].shape[1]) <= 512


@pytest.mark.parametrize(("rule", "size"), INPUTS)
def test_each_size_of_inputs(rule: str, size: int) -> None:
    kind, inputs, attrs = convolution(1, size + 1, 1)
    fragment = _check(rule, kind, inputs, attrs)
    parts = [op.operands[0].shape[1] for op in fragment.ops if op.kind == kind]
    assert parts == [size // 2 + 1, size // 2], "parts of about one size"
    kind, inputs, attrs = convolution(1, size, 1)
    refuse(rule, kind, inputs, f"{size} input channels are not above {size}", **attrs)


@pytest.mark.parametrize(("rule", "size"), OUTPUTS)
def test_each_size_of_outputs(rule: str, size: int) -> None:
    kind, inputs, attrs = convolution(1, 1, 2 * size + 1)
    fragment = _check(rule, kind, inputs, attrs)
    assert sum(op.kind == kind for op in fragment.ops) == 3
    kind, inputs, attrs = convolution(1, 1, size)
    refuse(rule, kind, inputs, f"{size} channels are not above {size}", **attrs)


def test_refuses() -> None:
    kind, inputs, attrs = convolution(1, 1200, 1200, groups=2)
    refuse("conv_inputs_to_sum_of_512", kind, inputs, "there are 2 groups", **attrs)
    refuse("conv_outputs_to_cat_of_512", kind, inputs, "a group of 600 channels is above 512", **attrs)
    kind, inputs, attrs = convolution(1, 512 * 64 + 1, 1)
    refuse("conv_inputs_to_sum_of_512", kind, inputs, "65 parts of 512 channels are more than 64", **attrs)


@pytest.mark.parametrize("rule", ["conv_inputs_to_sum_of_512", "conv_outputs_to_cat_of_512"])
def test_a_part_is_not_divided_again(rule: str) -> None:
    kind, inputs, attrs = convolution(1, 1100, 1100)
    op, _ = build(kind, inputs, attrs)
    made = apply("conv_inputs_to_sum_of_1024", op)
    part = next(inner for inner in made.ops if inner.kind == kind)
    with pytest.raises(NotApplicable, match="part"):
        rules()[rule].apply(Around(), part, "again")


def test_a_target_with_both_limits(tmp_path: Any) -> None:
    """Outputs are joined, and each of them is a sum; the largest parts that are legal are chosen."""
    path = tmp_path / "toy.toml"
    path.write_text(
        '[target]\nname = "toy"\nclosed = true\n[runtime]\nframework = "toy"\ndtypes = ["float32"]\n'
        '[ops.conv2d]\nlimits = [{ expr = "in_channels <= 1024 and out_channels <= 512", why = "toy" }]\n'
        "[ops.add]\n[ops.cat]\n[ops.slice]\n"
    )
    weight = noise(1200, 1500, 1, 1, scale=0.1)
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"])]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 2, 2]) for n, c in (("x", 1500), ("y", 1200))]
    consts = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(noise(1200, seed=1), "b")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], consts), opset_imports=[helper.make_opsetid("", 17)]
    )
    made = porter.rewrite(model, path)
    assert made.ok and made.evidence is not None and made.evidence.ok
    (entry,) = made.ledger.entries
    assert entry.rules == ("conv_outputs_to_cat_of_512", "conv_inputs_to_sum_of_1024") and entry.claim == "bounded"
    shapes = [op.operands[1].shape for op in made.graph.ops() if op.kind == "conv2d"]
    assert shapes == [(400, 750, 1, 1)] * 6
    assert np.prod([len(shapes), 400, 750]) == weight.size, "no weight is there twice"
