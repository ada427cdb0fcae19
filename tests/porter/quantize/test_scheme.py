# SPDX-License-Identifier: Apache-2.0
"""Every scheme against numbers computed by hand."""

import numpy as np
import pytest
import targets_for_tests as targets

from porter.errors import PorterError
from porter.ops import Op, Value
from porter.quantize.scheme import Scheme, weight_axis
from porter.target import Target


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("targets")


def test_cambricon():
    scheme = Scheme.of(Target.load("mlu270"))
    assert (scheme.flow, scheme.rule, scheme.rounding, scheme.per_channel) == ("operands", "absmax", "half_even", False)
    encoding = scheme.encoding(-3.0, 1.0, "int8", "min_max")
    assert encoding.scale == (np.float32(3 / 127),)
    assert (encoding.zero_point, encoding.symmetric) == ((0,), True)
    assert scheme.encoding(-3.0, 1.0, "int16", "min_max").scale == (np.float32(3 / 32767),)
    assert not scheme.certain("rounding")
    assert scheme.certain("scale")


def test_power_of_two():
    scheme = Scheme.of(Target.load("mlu270"), scale_rule="power_of_two")
    encoding = scheme.encoding(-3.0, 1.0, "int8", "min_max")
    assert (encoding.position, encoding.scale) == ((-5,), (2.0**-5,))  # floor(log2(3)) - 6
    np.testing.assert_array_equal(encoding.quantize(np.array([-3.0, 1.0, 0.02, 9.0], np.float32), "half_even"),
                                  [-96, 32, 1, 127])  # fmt: skip


def test_horizon(folder):
    scheme = Scheme.of(targets.load(folder))
    encoding = scheme.encoding(-1.0, 0.5, "int8", "min_max")
    assert encoding.scale == (1 / 128,)
    x = np.array([-1.0, 1.0, 0.5 / 128, -0.5 / 128, 1.5 / 128, -1.5 / 128], np.float32)
    np.testing.assert_array_equal(encoding.quantize(x, scheme.rounding), [-128, 127, 1, 0, 2, -1])
    assert scheme.encoding(-1.0, 0.5, "int16", "min_max").scale == (2 / 32768,)  # doubled: there are steps to spare
    assert scheme.encoding(-1.0, 0.5, "int16", "min_max", weight=True).scale == (1 / 32768,)


def test_asymmetric():
    scheme = Scheme.of(Target.load("onnxruntime"))
    unsigned = scheme.encoding(-1.0, 3.0, "uint8", "min_max")
    assert (unsigned.scale, unsigned.zero_point) == ((np.float32(4 / 255),), (64,))
    signed = scheme.encoding(-1.0, 3.0, "int8", "min_max")
    assert (signed.scale, signed.zero_point) == (unsigned.scale, (-64,))
    np.testing.assert_array_equal(signed.quantize(np.array([-1.0, 0.0, 3.0, 9.0], np.float32), "half_even"),
                                  [-128, -64, 127, 127])  # fmt: skip
    above = scheme.encoding(2.0, 6.0, "int8", "min_max")  # widened to hold 0
    assert (above.scale, above.zero_point) == ((np.float32(6 / 255),), (-128,))
    assert scheme.encoding(0.0, 0.0, "int8", "min_max").scale == (1.0,)
    weight = scheme.encoding(-1.0, 3.0, "int8", "min_max", weight=True)
    assert (weight.scale, weight.zero_point, weight.symmetric) == ((np.float32(3 / 127),), (0,), True)


def test_asymmetric_weights_per_channel(folder):
    scheme = Scheme.of(targets.load(folder, weight_scheme='"asymmetric"'))
    low, high = np.array([-1.0, 0.0]), np.array([3.0, 5.1])
    encoding = scheme.encoding(low, high, "int8", "min_max", axis=0, weight=True)
    assert encoding.zero_point == (-64, -128)
    weight = np.array([[-1.0, 3.0], [0.0, 5.1]], np.float32)
    np.testing.assert_array_equal(encoding.quantize(weight, "half_even"), [[-128, 127], [-128, 127]])
    np.testing.assert_allclose(encoding.fake(weight, "half_even"), weight, atol=4 / 255)


def test_widths(folder):
    ours = Scheme.of(Target.load("onnxruntime"))
    assert list(ours.widths) == ["int8", "uint8", "int16", "w8a16"]
    assert (ours.width("w8a16").weight, ours.width("w8a16").activation) == ("int8", "int16")
    with pytest.raises(PorterError, match="does not quantize to int4") as error:
        ours.width("int4")
    assert error.value.code == "PT416"
    assert "int8, uint8, int16, w8a16" in str(error.value)
    narrow = Scheme.of(targets.load(folder, qmin="{ int8 = -127, int16 = -32768 }"))
    with pytest.raises(PorterError, match=r"wants int8 in -127\.\.127"):
        narrow.width("int8")
    assert Scheme.of(targets.load(folder)).wide().name == "w8a16"
    with pytest.raises(PorterError, match="16-bit") as error:
        Scheme.of(targets.load(folder, widths='{ int8 = ["int8", "int8"] }')).wide()
    assert error.value.code == "PT423"


@pytest.mark.parametrize(
    ("kind", "shape", "attrs", "axis"),
    [
        ("conv2d", (8, 3, 3, 3), {"groups": 1}, 0),
        ("conv2d", (8, 1, 3, 3), {"groups": 8}, 0),
        ("linear", (5, 8), {}, 0),
        ("conv_transpose2d", (8, 5, 2, 2), {"groups": 1}, 1),
        ("conv_transpose2d", (8, 5, 2, 2), {"groups": 2}, None),
        ("matmul", (8, 5), {}, 1),
        ("matmul", (2, 8, 5), {}, 2),
        ("matmul", (8,), {}, None),
        ("gemm", (8, 5), {"trans_b": False}, 1),
        ("gemm", (5, 8), {"trans_b": True}, 0),
    ],
)
def test_the_axis_of_output_channels(kind, shape, attrs, axis):
    op = Op(kind, (Value("x"), Value.constant("w", np.ones(shape, np.float32))), (Value("y"),), attrs)
    assert weight_axis(op) == axis


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("flow", '"values"', "not a value of quantization.flow"),
        ("widths", '{ int8 = ["int8"] }', "dtype of activations"),
        ("widths", '{ int8 = ["int8", "int4"] }', "dtype in qmax"),
        ("rounding", '"up"', "rounding of quantization"),
        ("bias", '"int16"', "value of quantization.bias"),
        ("passive_ops", '["concat"]', "not an op kind"),
        ("fused_followers", '["reluu"]', "not an op kind"),
    ],
)
def test_mistakes_in_a_target(folder, key, value, message):
    with pytest.raises(PorterError, match=message) as error:
        targets.load(folder, **{key: value})
    assert error.value.code == "PT509"
