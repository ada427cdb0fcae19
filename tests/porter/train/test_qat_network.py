# SPDX-License-Identifier: Apache-2.0
"""Conversion and training: what the network computes in each of its states, and what it calls its tensors."""

import copy

import numpy as np
import pytest
import torch
from forked import run_forked
from qat_models import Named, Pyramid, batch, calibrate, half_of_a_batch, pyramid, seeded, target
from torch import nn

from porter.data import open_data
from porter.errors import PorterError
from porter.quantize.engine import quantize
from porter.train.qat import OutputRule, convert, to_integers


def values(outputs):
    return [out.detach().numpy() for out in outputs]


def close(one, other, tolerance=1e-4):
    return all(np.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(one, other, strict=True))


# -- floats ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fuse_bn", "with_bn"])
def test_before_calibration_it_is_the_module(mode):
    network = pyramid(mode=mode, calibrated=False)
    module = seeded(Pyramid)
    assert close(values(network(batch())), values(module(batch())))
    assert network.output_names == ("fine", "coarse") and network.evidence.ok and network.any_batch
    mine = {name for name in network.state_dict() if not name.startswith("quantizers.")}
    if mode == "with_bn":
        assert mine == set(module.state_dict())
    else:
        absorbed = {name for name in module.state_dict() if "norm" in name or name.startswith("depth.1")}
        assert mine == (set(module.state_dict()) - absorbed) | {"stem.bias"}
    assert "quantizers.img.scale" in network.state_dict() and "quantizers.out/conv2d.scale" not in network.state_dict()


def test_batch_norms_train_as_in_the_module():
    """In floats, with_bn gives the module's own outputs, running statistics and gradients, step after step."""
    network, module = pyramid(mode="with_bn", calibrated=False).train(), seeded(Pyramid).train()
    for seed in range(2):
        for made in (network, module):
            made.zero_grad()
            sum(out.square().mean() for out in made(batch(4, seed))).backward()
        with torch.no_grad():
            for made in (network, module):
                for parameter in made.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.05 * parameter.grad
    state = network.state_dict()
    for name, tensor in module.state_dict().items():
        assert torch.allclose(state[name].double(), tensor.double(), rtol=1e-4, atol=1e-5), name
    assert network.eval() and close(values(network(batch())), values(module.eval()(batch())), 1e-3)


def test_frozen_batch_norms_stay():
    network = pyramid(mode="with_bn").train().freeze_batch_norm()
    before = network.state_dict()["norm.running_mean"].clone()
    outputs = values(network(batch()))
    assert torch.equal(before, network.state_dict()["norm.running_mean"])
    assert close(outputs, values(network.eval()(batch())))


def test_the_module_is_left_as_it_is():
    module = seeded(Pyramid).train()
    before = copy.deepcopy(module.state_dict())
    network = convert(module, batch(), target("x5"))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1
    assert module.training and all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


# -- calibration -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x5", "mlu270", "onnxruntime"])
def test_calibration_finds_the_scales_of_porter_quantize(name):
    network = convert(seeded(Pyramid), batch(), target(name), width="int8").eval().observe()
    items = [[batch(1, seed).numpy()] for seed in range(4)]
    with torch.no_grad():
        for item in items:
            network(torch.from_numpy(item[0]))
    found = network.freeze_ranges().encodings()
    graph = network.graph()
    wanted = quantize(
        graph, target(name), "int8", open_data(items, graph.inputs), observer="min_max", compare=0
    ).encodings
    assert found.activations.keys() == wanted.activations.keys() and found.weights == wanted.weights
    for value, encoding in wanted.activations.items():
        if encoding.axis is None:
            assert found.activations[value].scale == encoding.scale, value
            assert found.activations[value].zero_point == encoding.zero_point, value


def test_observing_changes_nothing_and_freezing_quantizes():
    network = pyramid(calibrated=False)
    plain = values(network(batch()))
    network.observe()
    assert all(map(np.array_equal, plain, values(network(batch()))))
    network.freeze_ranges()
    quantized = values(network(batch()))
    assert not np.array_equal(plain[0], quantized[0]) and close(plain, quantized, 0.5)
    network.fake_quant(False)
    assert all(map(np.array_equal, plain, values(network(batch()))))


def test_without_scales_it_does_not_quantize():
    network = pyramid(calibrated=False).fake_quant()
    with pytest.raises(PorterError, match="PT730: the scale of img is not known"):
        network(batch())
    with pytest.raises(PorterError, match="PT730: no sample was observed"):
        network.observe().freeze_ranges()
    other = pyramid(calibrated=False)
    other.load_state_dict(pyramid().state_dict())
    assert close(values(other.fake_quant()(batch())), values(pyramid()(batch())), 0)


def test_nan_in_calibration_is_named():
    network = pyramid(calibrated=False).observe()
    with torch.no_grad():
        network.state("depth.0.weight")[0, 0, 0, 0] = torch.nan
    with pytest.raises(PorterError, match="PT407: the value add"):
        network(batch())


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fuse_bn", "with_bn"])
@pytest.mark.parametrize("name", ["x5", "mlu270"])
def test_training_lowers_the_loss_and_moves_the_scales(name, mode):
    network = pyramid(name, mode=mode).train()
    wanted = [torch.randn(out.shape, generator=torch.Generator().manual_seed(7)) for out in network(batch(4))]
    optimizer = torch.optim.SGD(network.parameters(), 0.02)
    scales = [scale.item() for scale in network.scale_parameters()]
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = sum((out - want).square().mean() for out, want in zip(network(batch(4)), wanted, strict=True))
        loss.backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert scales and [scale.item() for scale in network.scale_parameters()] != scales


def test_fixed_scales_are_no_parameters():
    network = pyramid(scales="fixed")
    assert network.scale_parameters() == [] and not any("scale" in name for name, _ in network.named_parameters())


def test_a_copy_is_independent():
    network = pyramid()
    twin = copy.deepcopy(network)
    before = values(network(batch()))
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            tensor *= 2
    assert all(map(np.array_equal, before, values(network(batch()))))
    assert not np.array_equal(before[0], values(twin(batch()))[0])


def test_what_is_not_finite_is_named():
    network = pyramid()
    network.check_finite({"cls": torch.tensor(1.0)}, [batch()])
    with pytest.raises(PorterError, match="PT732: the loss reg is nan"):
        network.check_finite({"cls": torch.tensor(1.0), "reg": torch.tensor(torch.nan)})
    with pytest.raises(PorterError, match=r"PT732: the value img is not finite \(1 of 2304 values\)"):
        network.check_finite({}, [torch.where(torch.arange(2304).reshape(3, 3, 16, 16) == 5, torch.inf, batch())])
    with torch.no_grad():
        network.scale_parameters()[0].fill_(torch.nan)
    with pytest.raises(PorterError, match=r"PT732: the scale quantizers\.img\.scale is nan"):
        network.check_finite()


# -- batches and inputs ------------------------------------------------------------------------------------------------


def test_a_model_that_names_its_batch_is_captured_for_each_size():
    module = seeded(Named)
    network = convert(module, batch(2), target("onnxruntime")).eval()
    assert not network.any_batch
    assert close(values(network(batch(3))), [module(batch(3)).detach().numpy()])
    calibrate(network)
    both = values(network(batch(2)))[0]
    alone = np.concatenate([values(network(batch(2)[i : i + 1]))[0] for i in range(2)])
    assert np.allclose(both, alone, atol=1e-5)
    network.train()(batch(3))[0].sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_inputs_of_another_size_are_refused():
    with pytest.raises(PorterError, match="PT506"):
        pyramid()(torch.zeros(1, 3, 32, 32))


# -- outputs and choices -----------------------------------------------------------------------------------------------


def test_outputs_leave_as_their_rules_say():
    network = pyramid(outputs={"fine": {"int16_output": True}, "c*": OutputRule(int8_output=True)})
    assert network.leaves == {"fine": "int16", "coarse": "int8"} and network.findings == []
    assert pyramid().leaves == {"fine": None, "coarse": None}


def test_int16_where_the_device_has_none_is_a_finding():
    network = pyramid("x3", outputs={"int16_output": True})
    assert [found.code for found in network.findings] == ["PT740", "PT740"]
    assert "the output fine was to be int16" in network.findings[0].message
    assert network.leaves == {"fine": None, "coarse": None}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"outputs": {"int16_outputs": True}}, "PT731: an output has no 'int16_outputs'"),
        ({"outputs": {"finn": {"int8_output": True}}}, "PT731: no output matches 'finn'"),
        ({"outputs": {"fine": {"int8_output": 1}}}, "PT731: int8_output is 1"),
        ({"outputs": {"int8_output": True, "int16_output": True}}, "PT731: int8_output and int16_output at once"),
        ({"output_names": ("one",)}, "PT731: output_names has 1 names, and module has 2 outputs"),
        ({"output_names": ("one", "one")}, "PT731: two outputs have one name"),
        ({"output_names": ("relu", "add")}, "PT731: relu is the name of another tensor"),
        ({"mode": "withbn"}, "PT733: mode is 'withbn'"),
        ({"scales": "free"}, "PT733: scales is 'free'"),
        ({"observer": "minmax"}, "PT408"),
        ({"width": "int4"}, "PT416"),
        ({"pins": {"steam": "float"}}, "PT414: no layer matches 'steam'"),
    ],
)
def test_wrong_choices(options, said):
    with pytest.raises(PorterError, match=said):
        pyramid(calibrated=False, **options)


def test_a_model_that_is_not_legal_is_refused():
    class Inverse(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, img):
            return torch.erfinv(self.conv(img))

    with pytest.raises(PorterError, match=r"PT320: module is not legal for x5: aten\.erfinv\.default"):
        convert(Inverse(), batch(), target("x5"))
    # What a target's file does not know may run: its own tools will say.
    found = convert(Inverse(), batch(), target("mlu270")).findings
    assert [(finding.severity, finding.kind) for finding in found] == [("warning", "aten.erfinv.default")]


# -- processes ---------------------------------------------------------------------------------------------------------


def test_two_processes_are_one():
    """Observers, statistics of batch norms and gradients of two processes are those of one with both batches."""
    network = pyramid(calibrated=False, mode="with_bn")
    results = run_forked(half_of_a_batch, network.state_dict(), world=2)
    assert [code for code, _ in results] == [0, 0]
    network.observe()
    with torch.no_grad():
        network(batch(4, 5))
    network.freeze_ranges().train()
    sum(out.square().mean() for out in network(batch(4, 5))).backward()
    state = network.state_dict()
    for gradients, statistics, scales in (found for _, found in results):
        for name, scale in scales.items():
            assert scale == state[name].numpy(), name
        for name, tensor in statistics.items():
            assert np.allclose(tensor, state[name].numpy(), rtol=1e-4, atol=1e-6), name
        for name, parameter in network.named_parameters():
            wanted = parameter.grad.numpy()
            assert np.allclose(gradients[name], wanted, rtol=2e-2, atol=2e-2 * np.abs(wanted).max() + 1e-6), name


def test_what_the_target_does_not_take_as_a_whole_is_refused():
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 33, 1)

        def forward(self, img):
            return [x + 1.0 for x in torch.split(self.conv(img), 1, 1)]

    with pytest.raises(PorterError, match=r"PT320: .*\(PT206\)"):
        convert(Many(), batch(), target("x5"))


@pytest.mark.parametrize("name", ["x5", "onnxruntime"])
def test_a_factor_that_is_learned_takes_its_scale_along(name):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
            self.factor = nn.Parameter(torch.tensor([0.5]))

        def forward(self, img):
            return self.last(self.conv(img) * self.factor)

    network = calibrate(convert(seeded(Scaled), batch(), target(name)).eval()).train()
    network(batch())[0].sum().backward()
    assert network.state("factor").grad.abs() > 0
    assert all("factor" not in parameter for parameter, _ in network.named_parameters() if "quantizers" in parameter)
    with torch.no_grad():
        network.state("factor").fill_(20.0)
    wanted = to_integers(network.eval())(batch(), mode="fake")[0]
    network.fake_quant(False)
    floats = network(batch())[0].detach().numpy()
    network.fake_quant()
    assert np.abs(network(batch())[0].detach().numpy() - wanted).max() < 0.02 * np.abs(wanted).max()
    assert np.corrcoef(floats.ravel(), wanted.ravel())[0, 1] > 0.5
