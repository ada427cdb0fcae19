# SPDX-License-Identifier: Apache-2.0
"""Sums against the accumulator: worst cases by hand, and what the samples reach."""

import numpy as np
import pytest
import quantize_models as models
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

import porter
from porter.ops import Op, Value
from porter.quantize.accumulator import worst_sums
from porter.quantize.encodings import Encoding
from porter.quantize.engine import quantize
from porter.target import Target


def conv(weight, kind="conv2d", groups=1):
    inputs = (Value("x", (1, 1, 1, 1), "float32"), Value.constant("w", weight), None)
    return Op(kind, inputs, (Value("y", (1, 1, 1, 1), "float32"),), {"groups": groups}, "conv")


def test_by_hand():
    weight = np.array([[1.0, -2.0], [0.5, 0.25]], np.float32).reshape(2, 2, 1, 1)
    of_weight = Encoding.from_range(-2.0, 2.0, "int8", "min_max")  # step 2 / 127: 64 (half to even), -127; 32, 16
    symmetric = Encoding.from_range(-1.0, 1.0, "int8", "min_max")
    np.testing.assert_array_equal(
        worst_sums(conv(weight), weight, of_weight, symmetric), [(64 + 127) * 128, (32 + 16) * 128]
    )
    shifted = Encoding.asymmetric(0.0, 1.0, "int8", "min_max")  # zero point -128: 255 steps above it
    np.testing.assert_array_equal(
        worst_sums(conv(weight), weight, of_weight, shifted), [(64 + 127) * 255, (32 + 16) * 255]
    )


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_no_sum_is_larger(groups, per_group, width, seed):
    """Of a transposed convolution in groups, whose weight mixes the axes, over random integers."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(groups * 2, per_group, width, 1)).astype(np.float32)
    of_weight = Encoding.from_range(weight.min(), weight.max(), "int8", "min_max")
    of_input = Encoding.from_range(-1.0, 1.0, "int8", "min_max")
    worst = worst_sums(conv(weight, "conv_transpose2d", groups), weight, of_weight, of_input)
    assert worst.shape == (groups * per_group,)
    q = of_weight.quantize(weight, "half_even").astype(np.int64)
    x = rng.integers(-128, 128, groups * 2)
    for group in range(groups):
        rows = slice(2 * group, 2 * group + 2)
        for j in range(per_group):  # every tap at once is more than any output element sums
            total = abs((q[rows, j] * x[rows, None, None]).sum())
            assert total <= worst[group * per_group + j]
            assert worst[group * per_group + j] == np.abs(q[rows, j]).sum() * 128


def wide():
    """A 1x1 convolution of 64 equal channels whose sum is far over int32 at int16: 64 * 32767 * 32767."""
    weight = np.ones((1, 64, 1, 1), np.float32)
    node = helper.make_node("Conv", ["x", "m.weight"], ["y"], name="m")
    return models.model([node], {"x": (1, 64, 2, 2)}, {"y": (1, 1, 2, 2)}, {"m.weight": weight})


@pytest.fixture(scope="module")
def sure(tmp_path_factory):
    path = tmp_path_factory.mktemp("t") / "sure.toml"
    path.write_text('[target]\nname = "sure"\nextends = "mlu270"\n[quantization]\naccumulator = "int32"\n')
    return Target.load(path)


def found(target, data, dtype):
    made = quantize(porter.load(wide()), target, dtype, data)
    return [finding for finding in made.findings if finding.code == "PT422"]


def test_findings(sure):
    ones = [[np.ones((1, 64, 2, 2), np.float32)]]
    signs = [[np.resize(np.array([1, -1], np.float32), 64).reshape(1, 64, 1, 1) * np.ones((1, 1, 2, 2), np.float32)]]
    assert found(sure, ones, "int8") == []
    (over,) = found(sure, ones, "int16")
    assert over.severity == "warning"
    assert f"m reaches {64 * 32767**2 / (2**31 - 1):.3g} times it" in over.message
    (inside,) = found(sure, signs, "int16")  # the products cancel
    assert inside.severity == "note"
    assert "on the samples none does" in inside.message
    (unknown,) = found(Target.load("mlu270"), ones, "int16")
    assert unknown.severity == "note"
    assert "not known for certain" in unknown.message
