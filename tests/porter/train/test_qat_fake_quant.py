# SPDX-License-Identifier: Apache-2.0
"""Fake quantization on torch: the numbers are those of the numpy arithmetic, bit for bit, and gradients are by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from porter.quantize import numerics as nm
from porter.quantize.encodings import Encoding
from porter.train.qat.fake_quant import Quantizer, fake_bias, fake_weight, roomy, weight_steps

ROUNDINGS = ["half_even", "half_away", "half_up"]
STEPS = st.sampled_from([0.5, 2.0**-7, 0.1, 0.037]) | st.floats(2.0**-12, 4.0, width=32)
FLOATS = st.floats(-300, 300, width=32)


def quantizer(scale, dtype="int8", rounding="half_up", zero=0, learned=False, **more):
    made = Quantizer(dtype, rounding, "negative", zero == 0, learned, **more)
    made.set(Encoding(dtype, (scale,), (0.0,), (0.0,), "", None, zero == 0, (zero,)))
    return made


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 50), elements=FLOATS | st.integers(-40, 40).map(lambda k: k / 2)),
    STEPS,
    st.sampled_from(["int8", "int16", "uint8"]),
    st.sampled_from(ROUNDINGS),
    st.integers(0, 20),
    st.booleans(),
)
def test_values_are_those_of_numpy(x, step, dtype, rounding, zero, gradient):
    made = quantizer(step, dtype, rounding, zero)
    shown = made(torch.from_numpy(x).requires_grad_(gradient)).detach().numpy()
    assert np.array_equal(shown, nm.fake_quantize(x, step, dtype, zero_point=zero, rounding=rounding))


def test_many_blocks_and_every_layout():
    x = torch.randn(2, 5, 67, 101)
    made = quantizer(0.02, learned=True)
    plain = made(x)
    x_last, weight = x.to(memory_format=torch.channels_last).requires_grad_(), torch.randn(x.shape)
    last = made(x_last)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain, last)
    (last * weight).sum().backward()
    of_scale, made.scale.grad = made.scale.grad.clone(), None
    x_plain = x.clone().requires_grad_()
    (made(x_plain) * weight).sum().backward()
    assert torch.equal(x_last.grad, x_plain.grad)
    assert torch.allclose(of_scale, made.scale.grad, rtol=1e-4)
    assert torch.equal(plain, torch.from_numpy(nm.fake_quantize(x.numpy(), 0.02, "int8", rounding="half_up")))


def test_gradients_by_hand():
    """Esser et al.: round(v) - v inside, the limits outside, times 1 / sqrt(N * qmax), N elements a sample."""
    v = torch.tensor([[-200.0, -1.25, 0.5, 3.75], [126.6, 128.4, 0.0, 1000.0]])
    made = quantizer(0.5, learned=True)
    x = (v * 0.5).requires_grad_()
    made(x).backward(torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]))
    assert x.grad.tolist() == [[0, 2, 3, 4], [5, 0, 7, 0]]
    # -1.25 rounds to -1, 0.5 half up to 1, 3.75 to 4, 126.6 to 127, 128.4 and 1000 are clipped to 127
    terms = [-128 * 1, 0.25 * 2, 0.5 * 3, 0.25 * 4, 0.4 * 5, 127 * 6, 0 * 7, 127 * 8]
    assert made.scale.grad.item() == pytest.approx(sum(terms) / math.sqrt(4 * 127), rel=1e-4)


def test_a_zero_point_shifts_the_limits():
    made = quantizer(1.0, "uint8", "half_even", zero=100, learned=True)
    x = torch.tensor([-150.0, -100.0, 155.0, 156.0], requires_grad=True)
    assert made(x).tolist() == [-100, -100, 155, 155]
    made(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]
    assert made.scale.grad.item() == pytest.approx((-100 + 0 + 0 + 155) / math.sqrt(1 * 255))


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_sums_of_integers_round_as_integers(rounding):
    """Steps in the ratio 1:2: every odd sum of two integers is an exact half, which float32 sums may miss."""
    step = np.float32(0.0123)
    a, b = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))
    x = torch.from_numpy(a.astype(np.float32) * step) + torch.from_numpy(b.astype(np.float32) * step)
    shown = quantizer(float(step * 2), rounding=rounding, exact=True)(x).numpy()
    wanted = np.clip(nm.round_to((a + b) / 2, rounding), -128, 127).astype(np.float32) * (step * np.float32(2))
    assert np.array_equal(shown, wanted)


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.float32, (3, 4), elements=st.floats(-9, 9, width=32)),
    st.sampled_from(["absmax", "negative", "power_of_two"]),
    st.sampled_from([None, 0, 1]),
    st.sampled_from(ROUNDINGS),
    st.sampled_from(["int8", "int16"]),
)
def test_weights_are_those_of_the_encoder(weight, rule, axis, rounding, dtype):
    low, high = (weight.min(), weight.max()) if axis is None else (weight.min(1 - axis), weight.max(1 - axis))
    encoding = Encoding.from_range(low, high, dtype, "", rule, axis)
    tensor = torch.from_numpy(weight).requires_grad_()
    steps = weight_steps(tensor, axis, dtype, rule)
    assert np.array_equal(steps.numpy(), encoding.step)
    shown = fake_weight(tensor, steps, axis, dtype, rounding)
    assert np.array_equal(shown.detach().numpy(), encoding.fake(weight, rounding))
    shown.sum().backward()
    assert (tensor.grad == 1).all()


def test_a_bias_is_an_integer_of_its_own_step():
    steps, input_step = torch.tensor([0.5, 0.25]), torch.tensor(0.1)
    bias = torch.tensor([0.12, -0.2], requires_grad=True)
    shown = fake_bias(bias, steps, input_step, "half_up")
    step = (np.float32(0.1).astype(np.float64) * np.array([0.5, 0.25])).astype(np.float32)
    assert np.array_equal(shown.detach().numpy(), (np.array([2, -8]) * step.astype(np.float64)).astype(np.float32))
    shown.sum().backward()
    assert bias.grad.tolist() == [1, 1]


def test_a_large_bias_widens_the_weight():
    steps = torch.tensor([1e-9, 0.5])
    wide = roomy(steps, torch.tensor([20.0, 1.0]), torch.tensor(1e-3))
    assert wide[0].item() == pytest.approx(20.0 / 2**30 / 1e-3) and wide[1] == 0.5
    assert roomy(torch.tensor(1e-9), torch.tensor([20.0, 1.0]), torch.tensor(1e-3)).shape == ()


def test_a_learned_scale_is_a_power_of_two_where_the_device_shifts():
    made = Quantizer("int8", "half_even", "power_of_two", True, True)
    with torch.no_grad():
        made.scale.fill_(0.3)
    assert made.step().item() == 0.25 and made.encoding("x").position == (-2,)
    made(torch.randn(8)).sum().backward()
    assert made.scale.grad is not None


def test_a_learned_scale_shrinks_to_half_at_most():
    made = quantizer(0.3, learned=True)
    made.settle()
    for wanted in (0.15, 0.075):
        with torch.no_grad():
            made.scale.fill_(-1.0)
        made.settle()
        assert made.scale.item() == pytest.approx(wanted)
    with torch.no_grad():
        made.scale.fill_(7.0)
    made.settle()
    assert made.scale.item() == 7.0


@pytest.mark.parametrize("rule", ["absmax", "negative"])
def test_the_encoding_of_a_quantizer_has_its_scale(rule):
    made = Quantizer("int8", "half_up", rule, True, False)
    original = Encoding.from_range(-1.7, 2.9, "int8", "", rule)
    made.set(original)
    again = made.encoding("checkpoint")
    assert again.scale == original.scale and made.bound().item() == pytest.approx(again.absmax[0], rel=1e-6)
    assert nm.step_of(again.absmax[0], "int8", rule) == np.float32(original.scale[0])
