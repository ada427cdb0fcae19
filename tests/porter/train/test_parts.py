# SPDX-License-Identifier: Apache-2.0
"""The parts of a training by themselves: schedules, optimizers, averages, shares of the data, checkpoints."""

from __future__ import annotations

import json
import math
import struct

import pytest
import torch
from forked import batch_norm, half_a_batch_norm, lock, run_forked
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

from porter.errors import PorterError
from porter.train import checkpoint
from porter.train.checkpoint import Saved
from porter.train.config import Loader, Optimizer, Schedule
from porter.train.data import Share, make_loader
from porter.train.distributed import Processes, SyncBatchNorm, with_sync_batch_norm
from porter.train.optimization import Average, learning_rate, make_optimizer, set_learning_rate

ALONE = Processes(0, 1, torch.device("cpu"))


# -- schedules -------------------------------------------------------------------------------------------------------


def test_cosine_after_a_warm_up():
    schedule = Schedule(type="cosine", warmup_epochs=1, final=0.1)
    shares = [learning_rate(schedule, step, 4, 3) for step in range(12)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
    # 8 steps are left, the first at 1 and the last at 0.1: the k-th at 0.1 + 0.9 * (1 + cos(pi k / 7)) / 2.
    assert shares[4] == 1.0 and shares[11] == pytest.approx(0.1)
    assert shares[6] == pytest.approx(0.1 + 0.45 * (1 + math.cos(2 * math.pi / 7)))


def test_steps():
    schedule = Schedule(type="step", decay_epochs=(2, 3), gamma=0.1, warmup_epochs=0.5, warmup_factor=0.2)
    shares = [learning_rate(schedule, step, 2, 4) for step in range(8)]
    assert shares == pytest.approx([1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01])
    # A warm-up of one step of two reaches 1 at its end; with four steps an epoch it takes two.
    assert [learning_rate(schedule, step, 4, 4) for step in range(3)] == pytest.approx([0.6, 1.0, 1.0])


@given(
    st.sampled_from(["constant", "cosine", "step"]), st.floats(0, 3), st.integers(1, 9), st.integers(1, 9),
    st.floats(0, 1), st.floats(0, 1),
)  # fmt: skip
def test_shares_lie_between_nothing_and_everything(kind, warmup, steps, epochs, factor, final):
    schedule = Schedule(type=kind, warmup_epochs=warmup, warmup_factor=factor, final=final, decay_epochs=(1, 3))
    shares = [learning_rate(schedule, step, steps, epochs) for step in range(steps * epochs)]
    assert all(0 <= share <= 1 + 1e-12 for share in shares)


# -- optimizers ------------------------------------------------------------------------------------------------------


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def decays(optimizer, module):
    names = {id(p): name for name, p in module.named_parameters()}
    return {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}


def test_no_decay_of_what_has_one_dimension():
    module = net()
    wanted = Optimizer(type=torch.optim.SGD, lr=0.1, no_decay=True, rest={"weight_decay": 0.5})
    found = decays(make_optimizer(wanted, module, "here"), module)
    assert {name for name, decay in found.items() if decay} == {"0.weight", "2.weight"}
    assert set(found) == {"0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"}


def test_options_by_the_text_of_a_name():
    module = net()
    wanted = Optimizer(type=torch.optim.SGD, lr=0.1, params={"weight": {"weight_decay": 4e-5}}, no_decay=("1.",))
    found = decays(make_optimizer(wanted, module, "here"), module)
    assert found == {
        "0.weight": 4e-5, "0.bias": 0, "1.weight": 0, "1.bias": 0, "2.weight": 4e-5, "2.bias": 0,
    }  # fmt: skip


def test_what_is_never_decayed():
    module = net()
    wanted = Optimizer(type=torch.optim.AdamW, lr=0.1, rest={"weight_decay": 0.5})
    found = decays(make_optimizer(wanted, module, "here", frozenset([id(module[0].weight)])), module)
    assert found["0.weight"] == 0 and found["0.bias"] == 0.5


def test_frozen_parameters_are_not_optimized():
    module = net()
    module[0].weight.requires_grad_(False)
    optimizer = make_optimizer(Optimizer(type=torch.optim.SGD, lr=0.1), module, "here")
    assert "0.weight" not in decays(optimizer, module)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Optimizer(type=torch.optim.SGD, lr=0.1, rest={"momentm": 0.9}), "momentm"),
        (Optimizer(type=torch.optim.SGD, lr=0.1, params={"wieght": {}}), "'wieght'"),
        (Optimizer(type=dict, lr=0.1), "dict"),
    ],
)
def test_an_optimizer_that_cannot_be(wanted, words):
    with pytest.raises(PorterError, match=words) as caught:
        make_optimizer(wanted, net(), "config.py: float_trainer['optimizer']")
    assert caught.value.code == "PT701"


def test_every_group_gets_its_share():
    module = net()
    wanted = Optimizer(type=torch.optim.SGD, lr=0.4, params={"bias": {"lr": 0.8}})
    optimizer = make_optimizer(wanted, module, "here")
    set_learning_rate(optimizer, 0.5)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.2, 0.4]


def test_the_average_begins_quickly_and_ends_slowly():
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(0.0)
    average = Average(module, 0.5)
    with torch.no_grad():
        module.weight.fill_(1.0)
    average.update(module)
    # Update 1: decay (1 + 1) / (10 + 1), so 9/11 of the way; update 9 and later: 0.5.
    assert average.state["weight"].item() == pytest.approx(9 / 11)
    for _ in range(7):
        average.update(module)
    before = average.state["weight"].item()
    average.update(module)
    assert 1 - average.state["weight"].item() == pytest.approx((1 - before) / 2)
    with average.applied(module):
        assert module.weight.item() == average.state["weight"].item()
    assert module.weight.item() == 1.0


# -- shares of the data ----------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 5), st.booleans(), st.booleans(), st.integers(0, 3), st.integers(0, 3))
def test_all_shares_are_the_whole(size, world, shuffle, even, seed, epoch):
    shares = []
    for rank in range(world):
        share = Share(size, Processes(rank, world, torch.device("cpu")), shuffle=shuffle, seed=seed, even=even)
        share.epoch = epoch
        shares.append(list(share))
        assert len(share) == len(shares[-1])
    every = [i for share in shares for i in share]
    assert set(every) == set(range(size))
    if even:
        assert len({len(share) for share in shares}) == 1
    else:
        assert len(every) == size


@given(st.integers(1, 5), st.integers(1, 4), st.integers(2, 4), st.integers(0, 5))
def test_together_they_see_what_one_process_sees(steps, batch, world, epoch):
    def order(rank, of):
        share = Share(steps * batch * world, Processes(rank, of, torch.device("cpu")), shuffle=True, seed=7, even=True)
        share.epoch = epoch
        return list(share)

    one = order(0, 1)
    several = [order(rank, world) for rank in range(world)]
    for step in range(steps):
        alone = one[step * batch * world : (step + 1) * batch * world]
        together = [i for share in several for i in share[step * batch : (step + 1) * batch]]
        assert sorted(alone) == sorted(together)


def test_every_epoch_has_an_order_of_its_own():
    share = Share(50, ALONE, shuffle=True, seed=0, even=True)
    first = list(share)
    share.epoch = 1
    assert list(share) != first
    share.epoch = 0
    assert list(share) == first


def test_a_loader_that_a_function_makes():
    def wanted(sampler):
        data = list(range(6))
        return DataLoader(data, 2, sampler=sampler(data))

    made = make_loader(wanted, Processes(1, 2, torch.device("cpu")), seed=0, where="here", train=False)
    assert [batch.tolist() for batch in made] == [[1, 3], [5]]


@pytest.mark.parametrize(
    ("wanted", "code", "words"),
    [
        (Loader(dataset=list), "PT701", "empty"),
        (Loader(dataset=lambda: iter([1])), "PT701", "no length"),
        (Loader(dataset=lambda: 1 / 0), "PT520", "ZeroDivisionError"),
        (lambda sampler: [1], "PT701", "not a DataLoader"),
    ],
)
def test_a_loader_that_cannot_be(wanted, code, words):
    with pytest.raises(PorterError, match=words) as caught:
        make_loader(wanted, ALONE, seed=0, where="config.py: data_loader", train=True)
    assert caught.value.code == code


# -- batch norms over several processes ------------------------------------------------------------------------------


def test_a_synchronized_batch_norm_is_one_over_all():
    module, x, weight = batch_norm()
    x.requires_grad_()
    out = module(x)
    (out * weight).sum().backward()
    halves = [result for _, result in run_forked(half_a_batch_norm, world=2)]
    outs, grads, gammas, means, variances, tracked = zip(*halves, strict=True)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.cat([torch.tensor(o) for o in outs]), out.detach(), **close)
    torch.testing.assert_close(torch.cat([torch.tensor(g) for g in grads]), x.grad, **close)
    torch.testing.assert_close(torch.tensor(gammas).sum(0), module.weight.grad, **close)
    for mean, variance in zip(means, variances, strict=True):
        torch.testing.assert_close(torch.tensor(mean), module.running_mean, **close)
        torch.testing.assert_close(torch.tensor(variance), module.running_var, **close)
    assert tracked == (1, 1)


def test_making_batch_norms_synchronized_keeps_their_state():
    module = net()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    made = with_sync_batch_norm(module)
    assert isinstance(made[1], SyncBatchNorm) and made[1].weight is module[1].weight
    assert all(torch.equal(state[name], tensor) for name, tensor in made.state_dict().items())
    x = torch.randn(2, 3, 8, 8)
    plain = net()
    plain.load_state_dict(state)
    assert torch.equal(made.eval()(x), plain.eval()(x))


# -- checkpoints -----------------------------------------------------------------------------------------------------


def test_there_and_back(tmp_path):
    path = tmp_path / "c.safetensors"
    tensors = {
        "model/a": torch.randn(2, 3), "model/b": torch.tensor(3), "x": torch.randn(4).to(torch.bfloat16),
        "t": torch.randn(3, 2).T,
    }  # fmt: skip
    checkpoint.write(path, Saved(tensors, {"epoch": 3, "metrics": {"mAP": 0.25}}))
    back = checkpoint.read(path)
    assert back.facts["epoch"] == 3 and back.facts["metrics"] == {"mAP": 0.25}
    assert set(back.tensors) == set(tensors)
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in tensors.items())
    assert set(back.part("model")) == {"a", "b"}


def test_it_is_read_without_torch(tmp_path):
    path = tmp_path / "c.safetensors"
    checkpoint.write(path, Saved({"model/a": torch.arange(3.0)}, {"epoch": 1}))
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    assert json.loads(header["__metadata__"]["porter"])["epoch"] == 1
    assert {name: tensor.tolist() for name, tensor in checkpoint.read_weights(path).items()} == {"a": [0.0, 1.0, 2.0]}


@pytest.mark.parametrize("cut", [3, 60, -4])
def test_a_damaged_one(tmp_path, cut):
    path = tmp_path / "c.safetensors"
    checkpoint.write(path, Saved({"model/a": torch.arange(30.0)}))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(PorterError) as caught:
        checkpoint.read(path)
    assert caught.value.code == "PT502"


def test_one_of_somebody_else(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "c.safetensors"
    save_file({"a": torch.zeros(1)}, str(path), {"porter": "[1]"})
    with pytest.raises(PorterError) as caught:
        checkpoint.read(path)
    assert caught.value.code == "PT503"


def loaded(state, **options):
    module = nn.Linear(2, 3)
    return module, checkpoint.load_into(module, state, "ckpt", **options)


def test_names_that_are_missing_or_left_over():
    weight, bias = torch.ones(3, 2), torch.ones(3)
    with pytest.raises(PorterError, match=r"1 of the model's 2 tensors are not in the file \(bias\)") as caught:
        loaded({"weight": weight})
    assert caught.value.code == "PT704"
    module, said = loaded({"weight": weight}, allow_miss=True)
    assert torch.equal(module.weight, weight) and "bias" in said[0]
    with pytest.raises(PorterError, match=r"1 of the file's 3 tensors are not in the model \(more\)"):
        loaded({"weight": weight, "bias": bias, "more": bias}, allow_miss=True)
    module, said = loaded({"weight": weight, "bias": bias, "more": bias}, ignore_extra=True)
    assert torch.equal(module.bias, bias) and "more" in said[0]


def test_shapes_must_agree_whatever_is_allowed():
    with pytest.raises(PorterError, match=r"weight is \[2, 3\] in the file and \[3, 2\] in the model"):
        loaded({"weight": torch.ones(2, 3), "bias": torch.ones(3)}, allow_miss=True, ignore_extra=True)


def test_nothing_in_common_is_refused_whatever_is_allowed():
    with pytest.raises(PorterError, match="no name agrees"):
        loaded({"module.weight": torch.ones(3, 2)}, allow_miss=True, ignore_extra=True)


def test_the_nearest_name_is_suggested():
    with pytest.raises(PorterError) as caught:
        loaded({"weight": torch.ones(3, 2), "baias": torch.ones(3)})
    assert "'baias'" in (caught.value.fix or "")


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_an_optimizer_goes_on_as_if_nothing_had_been(tmp_path, kind):
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}

    def step(module, optimizer, seed):
        torch.manual_seed(seed)
        optimizer.zero_grad()
        module(torch.randn(4, 2)).square().sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    module = nn.Linear(2, 2)
    optimizer = kind(module.parameters(), lr=0.1, **options)
    step(module, optimizer, 1)
    tensors, plain = checkpoint.pack_optimizer(optimizer)
    checkpoint.write(tmp_path / "o.safetensors", Saved(tensors, {"optimizer": plain}))
    other = nn.Linear(2, 2)
    other.load_state_dict(module.state_dict())
    again = kind(other.parameters(), lr=0.1, **options)
    back = checkpoint.read(tmp_path / "o.safetensors")
    checkpoint.unpack_optimizer(again, back.tensors, back.facts["optimizer"])
    step(module, optimizer, 2)
    step(other, again, 2)
    assert torch.equal(module.weight, other.weight) and torch.equal(module.bias, other.bias)


def test_one_training_a_folder(tmp_path):
    (tmp_path / ".porter-0123").mkdir()

    with checkpoint.locked(tmp_path):
        assert not (tmp_path / ".porter-0123").exists()  # what a kill has left
        assert run_forked(lock, tmp_path) == [(0, "PT707")]
    assert run_forked(lock, tmp_path) == [(0, "entered")]
